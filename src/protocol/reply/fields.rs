//! The fields of replies that several words share: their types, encoders and parsers.

use std::fmt;

use crate::protocol::Stamp;
use crate::protocol::name::{is_label, is_name};

/// A list of names or rooms, as on the wire: `alice,bob`, `#lobby,#ops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct List<'a>(pub &'a str);

impl<'a> List<'a> {
    /// Returns the items, rooms with `#`.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        self.0.split(',').map(str::trim).filter(|item| !item.is_empty())
    }
}

/// The settings of a connection, as on the wire: `echo=on joins=on tags=off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings<'a>(pub &'a str);

impl<'a> Settings<'a> {
    /// Returns the word of each setting, and whether it is on.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, bool)> {
        let pairs = self.0.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.map(|(word, value)| (word, value == "on"))
    }
}

/// When a ban or mute ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At this time.
    Time(Stamp),
    /// When an operator lifts it.
    Lifted,
}

impl Until {
    /// Returns `until TIME`, or `endless` if there is no time.
    #[must_use]
    pub fn describe(self, endless: &str) -> String {
        match self {
            Self::Time(time) => format!("until {time}"),
            Self::Lifted => endless.to_owned(),
        }
    }
}

/// The expiry and the reason of a ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term<'a> {
    /// When it ends.
    pub until: Until,
    /// The reason that the operator gave.
    pub reason: Option<&'a str>,
}

impl Term<'_> {
    /// Returns the expiry and the reason; `endless` stands for a missing expiry.
    #[must_use]
    pub fn describe(self, endless: &str) -> String {
        let until = self.until.describe(endless);
        match self.reason {
            Some(reason) => format!("{until}: {reason}"),
            None => until,
        }
    }
}

/// How a ban without an expiry is described to those who did not set it.
pub const PERMANENTLY: &str = "permanently";

/// Writes ` text`, or nothing without one.
pub(super) struct Suffix<'a>(pub(super) &'a str);

impl fmt::Display for Suffix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " {}", self.0) }
    }
}

/// How a text begins that says that a command had no effect.
const NOTHING_CHANGED: &str = "nothing changed";

/// Writes `[head]`, with a text why nothing changed if there is one.
pub(super) fn write_unchanged(
    f: &mut fmt::Formatter<'_>,
    head: fmt::Arguments<'_>,
    why: &str,
) -> fmt::Result {
    write!(f, "[{head}]")?;
    if why.is_empty() { Ok(()) } else { write!(f, " {NOTHING_CHANGED}: {why}") }
}

/// Parses the name of a user, or the label of a program.
pub(super) fn name(text: &str) -> Option<&str> {
    (is_name(text) || is_label(text)).then_some(text)
}

/// Parses a room with its `#`.
pub(super) fn room(text: &str) -> Option<&str> {
    text.strip_prefix('#').filter(|room| is_name(room))
}

/// Parses a room and the word after it.
pub(super) fn room_and(args: &str) -> Option<(&str, &str)> {
    let (first, rest) = args.split_once(' ')?;
    Some((room(first)?, rest))
}

/// Whether a text does not say that nothing changed.
pub(super) fn is_change(text: &str) -> bool {
    !text.starts_with(NOTHING_CHANGED)
}

/// Parses `until TIME: reason`, `permanently: reason` or `until you /unban them: reason`.
pub(super) fn term(text: &str) -> Option<Term<'_>> {
    let (until, reason) = match text.split_once(": ") {
        Some((until, reason)) => (until, Some(reason)),
        None => (text, None),
    };
    let until = match until.strip_prefix("until ") {
        Some(end) if end.starts_with("you /") => Until::Lifted,
        Some(time) => Until::Time(Stamp::parse(time)?),
        None if until == PERMANENTLY => Until::Lifted,
        None => return None,
    };
    Some(Term { until, reason })
}
