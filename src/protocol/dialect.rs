//! Dialects: the syntax in which a connection receives events and sends its lines. The rest of
//! the server knows only events and plain lines: a dialect encodes events, and translates the
//! client's lines into plain ones.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use super::tags::CidPrefix;
use super::text::is_blank_text;
use super::{Cid, ErrorReason, Event, Refusal, Tags};

#[cfg(test)]
pub(crate) mod toy;

/// A dialect of the protocol. The order of the variants is part of the wire format of turns: new
/// ones come last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Lines as people read and type them.
    #[default]
    Plain,
    /// Plain lines with tags in front, after `/set tags on`.
    Tagged,
    /// See `toy.rs`.
    #[cfg(test)]
    Toy,
}

/// A client's line without the syntax of its dialect.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientLine<'a> {
    /// The client's own id for the line.
    pub cid: Option<Cid>,
    /// The plain line, to be parsed as a command; an error is the answer to the line.
    pub text: Result<Cow<'a, str>, Refusal>,
}

impl Dialect {
    /// Every dialect, in the order of its number.
    pub const ALL: &[Self] = &[
        Self::Plain,
        Self::Tagged,
        #[cfg(test)]
        Self::Toy,
    ];

    /// The number of dialects.
    pub const COUNT: usize = Self::ALL.len();

    /// Appends an event as a line with its line end.
    pub fn encode(self, tags: &Tags<'_>, event: &Event<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Plain => event.encode(out),
            Self::Tagged => {
                tags.encode(out);
                event.encode(out);
            }
            #[cfg(test)]
            Self::Toy => toy::encode(tags, event, out),
        }
    }

    /// Parses a client's line, in which forbidden characters are replaced. A dialect may have
    /// lines with another meaning before login (`is_greeting`).
    #[must_use]
    pub fn parse(self, line: &str, is_greeting: bool) -> ClientLine<'_> {
        let _ = is_greeting; // not for these dialects: the hub takes the first text as a name
        match self {
            Self::Plain => ClientLine { cid: None, text: Ok(line.into()) },
            Self::Tagged => parse_tagged(line),
            #[cfg(test)]
            Self::Toy => toy::parse(line, is_greeting),
        }
    }

    /// Returns whether `/set tags` is on. Clients with tags can give their lines a cid.
    #[must_use]
    pub fn has_tags(self) -> bool {
        self == Self::Tagged
    }

    /// Returns the dialect after `/set tags on` or `/set tags off`.
    #[must_use]
    pub fn with_tags(self, is_on: bool) -> Self {
        match self {
            Self::Plain | Self::Tagged if is_on => Self::Tagged,
            Self::Plain | Self::Tagged => Self::Plain,
            #[cfg(test)]
            Self::Toy => self,
        }
    }

    /// Deserializes a stored dialect.
    ///
    /// # Errors
    /// The value is not the name of a dialect, and not a switch: 0.1.0 stored whether tags were on.
    pub fn deserialize_stored<'de, D: Deserializer<'de>>(stored: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            HasTags(bool),
            Dialect(Dialect),
        }
        Ok(match Stored::deserialize(stored)? {
            Stored::HasTags(is_on) => Self::Plain.with_tags(is_on),
            Stored::Dialect(dialect) => dialect,
        })
    }
}

fn parse_tagged(line: &str) -> ClientLine<'_> {
    let bad = |problem| Err(Refusal::new(ErrorReason::BadArgument, problem));
    match CidPrefix::of(line) {
        CidPrefix::Absent => ClientLine { cid: None, text: Ok(line.into()) },
        CidPrefix::Malformed => {
            ClientLine { cid: None, text: bad("a cid has 1 to 32 characters of A-Z a-z 0-9 _ -") }
        }
        CidPrefix::Present(cid, line) => {
            let is_empty = is_blank_text(line);
            let text = if is_empty { bad("a line must follow the cid") } else { Ok(line.into()) };
            ClientLine { cid: Some(cid), text }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_are_numbered_in_their_order() {
        for (number, dialect) in Dialect::ALL.iter().enumerate() {
            assert_eq!(*dialect as usize, number);
        }
    }

    #[test]
    fn cid_is_part_of_tagged_lines_only() {
        let line = "@cid=a1 hi";
        let plain = ClientLine { cid: None, text: Ok(line.into()) };
        assert_eq!(Dialect::Plain.parse(line, false), plain);
        let tagged = ClientLine { cid: Cid::parse("a1"), text: Ok("hi".into()) };
        assert_eq!(Dialect::Tagged.parse(line, false), tagged);
        for (line, has_cid) in [("@cid=a1  ", true), ("@cid=a.b hi", false)] {
            let ClientLine { cid, text } = Dialect::Tagged.parse(line, false);
            assert_eq!((cid.is_some(), text.is_err()), (has_cid, true), "{line}");
        }
    }
}
