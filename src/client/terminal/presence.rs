//! Coalescing of presence lines: users who join or leave within a few seconds share a line,
//! and a user who joins and leaves again within that time is not shown. Lines about the user
//! themselves are never delayed. It does not know how lines are shown.

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::Instant;

use crate::client::limits::{PRESENCE_MAX, cost};
use crate::client::model::mentions::Text;
use crate::client::model::state::State;
use crate::protocol::name::is_same_name;
use crate::protocol::{Event, Key, LOBBY};

/// How long the first presence line waits for others.
const COALESCE_WINDOW: Duration = Duration::from_secs(3);

/// A list of more names than this is abbreviated with their number.
const NAMES_MAX: usize = 10;

/// In a room with more members than this, [`Joins::Smart`] hides the presence of users who
/// have not spoken.
const LARGE_ROOM: usize = 20;

/// Whose presence is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(in crate::client) enum Joins {
    All,
    /// In a large room only that of users who have spoken
    #[default]
    Smart,
    Off,
}

impl Joins {
    /// Whether an event is a presence line that this setting hides. `state` is the state before
    /// the event, since a user who has quit is no longer in any room.
    pub(super) fn hide(self, event: &Event<'_>, state: &State) -> bool {
        let (room, name) = match *event {
            Event::Joined { room, name } | Event::Left { room, name, .. } => (Some(room), name),
            Event::Quit { name, .. } => (None, name),
            _ => return false,
        };
        let is_hidden = match self {
            Self::All => false,
            Self::Smart => !state.has_spoken(name) && state.smallest_room(room, name) > LARGE_ROOM,
            Self::Off => true,
        };
        is_hidden && !is_same_name(name, state.me())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PresenceKind {
    Joined,
    Left,
    Quit,
}

impl PresenceKind {
    fn verb(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Left => "left",
            Self::Quit => "quit",
        }
    }
}

#[derive(Debug)]
struct Change {
    kind: PresenceKind,
    /// Folded; the lobby for a quit, which belongs to no room.
    room: Key,
    room_name: String,
    name: String,
    reason: Option<String>,
}

/// The coalesced presence that is not shown yet.
#[derive(Debug, Default)]
pub(super) struct Presence {
    changes: Vec<Change>,
    /// Their cost since the last call of [`Self::take`], including cancelled ones.
    size: usize,
    due: Option<Instant>,
}

impl Presence {
    /// Adds an event if it is a presence line of another user. Returns whether it is.
    pub(super) fn gather(&mut self, event: &Event<'_>, me: &str, now: Instant) -> bool {
        let (kind, room, name, reason) = match *event {
            Event::Joined { room, name } => (PresenceKind::Joined, room, name, None),
            Event::Left { room, name, reason } => (PresenceKind::Left, room, name, reason),
            Event::Quit { name, reason } => (PresenceKind::Quit, LOBBY, name, reason),
            _ => return false,
        };
        if is_same_name(name, me) {
            return false;
        }
        if self.cancel_earlier(kind, &Key::fold(room), &Key::fold(name)) {
            return true;
        }
        self.size += cost(room) + cost(name) + cost(reason.unwrap_or_default());
        let (room_name, name) = (room.to_owned(), name.to_owned());
        let reason = reason.map(str::to_owned);
        self.changes.push(Change { kind, room: Key::fold(room), room_name, name, reason });
        self.due.get_or_insert(now + COALESCE_WINDOW);
        true
    }

    /// Removes earlier changes that this one undoes. Returns whether there were any.
    fn cancel_earlier(&mut self, kind: PresenceKind, room: &Key, name: &Key) -> bool {
        let is_undone = |earlier: &Change| {
            Key::fold(&earlier.name) == *name
                && match kind {
                    PresenceKind::Joined => {
                        earlier.kind == PresenceKind::Quit
                            || (earlier.kind == PresenceKind::Left && earlier.room == *room)
                    }
                    PresenceKind::Left => {
                        earlier.kind == PresenceKind::Joined && earlier.room == *room
                    }
                    PresenceKind::Quit => earlier.kind == PresenceKind::Joined,
                }
        };
        let before = self.changes.len();
        self.changes.retain(|earlier| !is_undone(earlier));
        self.changes.len() < before
    }

    /// Whether the limit of [`PRESENCE_MAX`] is exceeded, so that the lines must be shown now.
    pub(super) fn is_full(&self) -> bool {
        self.size > PRESENCE_MAX
    }

    /// Returns when the lines are to be shown; `None` if there are none.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether the presence must be shown before this line, because the line contains the name
    /// of a user in it.
    pub(super) fn precedes(&self, plain: &str) -> bool {
        let is_named = |text: Text<'_>| self.changes.iter().any(|change| text.names(&change.name));
        !self.changes.is_empty() && is_named(Text::new(plain))
    }

    /// Takes the coalesced presence: a line for each room, in the form of a wire line.
    pub(super) fn take(&mut self) -> Vec<String> {
        (self.due, self.size) = (None, 0);
        let mut changes = std::mem::take(&mut self.changes);
        let mut lines = Vec::new();
        while let Some(first) = changes.first() {
            let room = first.room.clone();
            let is_lobby = room.as_str() == LOBBY;
            let prefix = if is_lobby { String::new() } else { format!("#{} ", first.room_name) };
            let (same_room, others) = changes.into_iter().partition(|change| change.room == room);
            changes = others;
            lines.push(format!("{prefix}* {}", sentence(&same_room)));
        }
        lines
    }
}

/// Returns `carol, dave joined; bob quit (bye)`, in the order of the events.
fn sentence(changes: &[Change]) -> String {
    /// The names with the same kind of change and the same reason.
    type Clause<'a> = ((PresenceKind, Option<&'a str>), Vec<&'a str>);
    let mut clauses: Vec<Clause<'_>> = Vec::new();
    for Change { kind, name, reason, .. } in changes {
        let predicate = (*kind, reason.as_deref());
        match clauses.iter_mut().find(|(known, _)| *known == predicate) {
            Some((_, names)) if names.contains(&name.as_str()) => {}
            Some((_, names)) => names.push(name),
            None => clauses.push((predicate, vec![name])),
        }
    }
    let clause = |((kind, reason), names): &Clause<'_>| {
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{} {}{reason}", list(names), kind.verb())
    };
    clauses.iter().map(clause).collect::<Vec<_>>().join("; ")
}

fn list(names: &[&str]) -> String {
    if names.len() <= NAMES_MAX {
        return names.join(", ");
    }
    format!("{}, {} and {} others", names[0], names[1], names.len() - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coalesced(lines: &[&str]) -> Vec<String> {
        let mut presence = Presence::default();
        for line in lines {
            let event = Event::parse(line).expect(line);
            assert!(presence.gather(&event, "alice", Instant::now()), "{line}");
        }
        assert_eq!(presence.due().is_some(), !lines.is_empty());
        let lines = presence.take();
        assert!(presence.take().is_empty() && presence.due().is_none());
        lines
    }

    #[test]
    fn presence_is_coalesced_to_one_line_per_room() {
        for (lines, expected) in [
            (&[][..], &[][..]),
            (&["* bob joined"], &["* bob joined"]),
            (
                &[
                    "* bob quit (bye)",
                    "* carol quit",
                    "* dave quit (bye)",
                    "#ops * erin left (lunch)",
                ],
                &["* bob, dave quit (bye); carol quit", "#ops * erin left (lunch)"],
            ),
            (
                &["* bob quit", "* carol joined", "* dave joined"],
                &["* bob quit; carol, dave joined"],
            ),
            (
                &["#Ops * bob joined", "* bob joined", "#ops * carol left"],
                &["#Ops * bob joined; carol left", "* bob joined"],
            ),
        ] {
            assert_eq!(coalesced(lines), expected);
        }
        let crowd: Vec<String> = (0..14).map(|n| format!("* n{n} joined")).collect();
        let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
        assert_eq!(coalesced(&crowd), ["* n0, n1 and 12 others joined"]);
    }

    #[test]
    fn changes_that_cancel_each_other_are_not_shown() {
        let mut presence = Presence::default();
        for line in
            ["* bob joined", "#ops * bob joined", "* Bob quit", "* carol quit", "* carol joined"]
        {
            presence.gather(&Event::parse(line).unwrap(), "alice", Instant::now());
        }
        assert!(presence.take().is_empty());
    }

    #[test]
    fn presence_is_bounded_in_bytes() {
        let mut presence = Presence::default();
        let mut count = 0;
        while !presence.is_full() {
            let line = format!("* n{count} quit ({})", "x".repeat(1000));
            presence.gather(&Event::parse(&line).unwrap(), "alice", Instant::now());
            count += 1;
        }
        assert!((100..1000).contains(&count), "{count}");
        assert!(!presence.take().is_empty() && !presence.is_full());
    }

    #[test]
    fn presence_precedes_line_that_names_its_user() {
        let mut presence = Presence::default();
        assert!(!presence.precedes("bob: hi"));
        for line in ["* bob joined", "#ops * carol left"] {
            presence.gather(&Event::parse(line).expect(line), "alice", Instant::now());
        }
        for (line, precedes) in [
            ("bob: hi", true),
            ("dave: welcome, Bob!", true),
            ("#ops * carol was kicked by alice", true),
            ("[BANNED #ops bob] until you /unban them", true),
            ("* bob is now rob", true),
            ("[PRIVATE MESSAGE] bob: psst", true),
            ("dave: bobsleigh", false),
            ("dave: 请bob看", true),
            ("[PONG]", false),
        ] {
            assert_eq!(presence.precedes(line), precedes, "{line}");
        }
    }

    #[test]
    fn presence_in_large_room_is_shown_only_of_recent_speakers() {
        use crate::protocol::Tags;
        let mut state = State::new("alice");
        let mut apply = |line: &str| {
            state.apply(&Tags::default(), &Event::parse(line).expect(line));
        };
        let crowd: Vec<String> = (0..LARGE_ROOM).map(|n| format!("n{n}")).collect();
        apply(&format!("[USERS #lobby {}] alice,{}", LARGE_ROOM + 1, crowd.join(",")));
        apply("@cid=1 [JOINED #ops]".split_once(' ').expect("a tag").1);
        apply("[USERS #ops 2] alice,n3");
        apply("n5: hello");
        for (line, smart, off) in [
            ("* zed joined", true, true),
            ("#ops * zed joined", false, true),
            ("* n1 quit (gone)", true, true),
            ("* n3 quit", false, true),
            ("* n3 left", true, true),
            ("* n5 quit", false, true),
            ("* alice joined", false, false),
            ("* n1 is now m1", false, false),
            ("* n1 was kicked by alice", false, false),
            ("n1: hi", false, false),
        ] {
            let event = Event::parse(line).expect(line);
            let hidden = [Joins::All, Joins::Smart, Joins::Off].map(|j| j.hide(&event, &state));
            assert_eq!(hidden, [false, smart, off], "{line}");
        }
    }

    #[test]
    fn presence_of_own_user_is_not_coalesced() {
        let mut presence = Presence::default();
        for line in ["* Alice joined", "* alice quit (bye)", "* bob is now rob", "bob: hi"] {
            let event = Event::parse(line).expect(line);
            assert!(!presence.gather(&event, "alice", Instant::now()), "{line}");
        }
    }
}
