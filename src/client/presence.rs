//! Comings and goings, gathered: who arrives with a class is one line with it, and
//! who only looks in is none. Nothing is held back for long, and never what is about
//! oneself.

use std::time::Duration;

use clap::ValueEnum;
use tokio::time::Instant;

use super::limits::{PRESENCE_MAX, cost};
use super::mentions::Text;
use super::state::State;
use crate::protocol::{Event, Key, LOBBY};

/// How long one waits for others to share its line.
const COALESCE_WINDOW: Duration = Duration::from_secs(3);

/// More names than this are counted.
const NAMES_MAX: usize = 10;

/// In a room of more people than this nobody knows all of them.
const LARGE_ROOM: usize = 20;

/// Whose comings and goings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Joins {
    All,
    /// In a crowd only of those who have said something.
    #[default]
    Smart,
    Off,
}

impl Joins {
    /// Whether somebody comes or goes of whom one does not wish to be told. `state`
    /// is that before: who has quit is in no room any more.
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
        is_hidden && Key::fold(name) != Key::fold(state.me())
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
struct Move {
    what: PresenceKind,
    /// Folded; a person quits in none, and is told of where they come from.
    room: Key,
    room_name: String,
    name: String,
    reason: Option<String>,
}

/// What is gathered and not shown yet.
#[derive(Debug, Default)]
pub(super) struct Presence {
    moves: Vec<Move>,
    /// What they have cost since the last line that was shown.
    size: usize,
    due: Option<Instant>,
}

impl Presence {
    /// Takes a line in, if it is one to be gathered.
    pub(super) fn gather(&mut self, event: &Event<'_>, me: &str, now: Instant) -> bool {
        let (what, room, name, reason) = match *event {
            Event::Joined { room, name } => (PresenceKind::Joined, room, name, None),
            Event::Left { room, name, reason } => (PresenceKind::Left, room, name, reason),
            Event::Quit { name, reason } => (PresenceKind::Quit, LOBBY, name, reason),
            _ => return false,
        };
        if Key::fold(name) == Key::fold(me) {
            return false;
        }
        if self.cancels(what, &Key::fold(room), &Key::fold(name)) {
            return true;
        }
        self.size += cost(room) + cost(name) + cost(reason.unwrap_or_default());
        let (room_name, name) = (room.to_owned(), name.to_owned());
        let reason = reason.map(str::to_owned);
        self.moves.push(Move { what, room: Key::fold(room), room_name, name, reason });
        self.due.get_or_insert(now + COALESCE_WINDOW);
        true
    }

    /// Whether a move undoes earlier ones, which are then as if they never were.
    fn cancels(&mut self, what: PresenceKind, room: &Key, name: &Key) -> bool {
        let is_undone = |earlier: &Move| {
            Key::fold(&earlier.name) == *name
                && match what {
                    PresenceKind::Joined => {
                        earlier.what == PresenceKind::Quit
                            || (earlier.what == PresenceKind::Left && earlier.room == *room)
                    }
                    PresenceKind::Left => {
                        earlier.what == PresenceKind::Joined && earlier.room == *room
                    }
                    PresenceKind::Quit => earlier.what == PresenceKind::Joined,
                }
        };
        let before = self.moves.len();
        self.moves.retain(|earlier| !is_undone(earlier));
        self.moves.len() < before
    }

    /// Whether as much is gathered as can be.
    pub(super) fn is_full(&self) -> bool {
        self.size > PRESENCE_MAX
    }

    /// Until when to wait for more; never without anything gathered.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether a line names somebody who has come or gone: whoever reads it has to
    /// have been told of that.
    pub(super) fn precedes(&self, plain: &str) -> bool {
        let is_named = |text: Text<'_>| self.moves.iter().any(|earlier| text.names(&earlier.name));
        !self.moves.is_empty() && is_named(Text::new(plain))
    }

    /// What is gathered, as the wire would say it: a line for each room.
    pub(super) fn take(&mut self) -> Vec<String> {
        (self.due, self.size) = (None, 0);
        let mut moves = std::mem::take(&mut self.moves);
        let mut lines = Vec::new();
        while let Some(first) = moves.first() {
            let room = first.room.clone();
            let is_lobby = room.as_str() == LOBBY;
            let prefix = if is_lobby { String::new() } else { format!("#{} ", first.room_name) };
            let (here, elsewhere) = moves.into_iter().partition(|each| each.room == room);
            moves = elsewhere;
            lines.push(format!("{prefix}* {}", sentence(&here)));
        }
        lines
    }
}

/// `carol, dave joined; bob quit (bye)`, whatever happened first being told first.
fn sentence(moves: &[Move]) -> String {
    /// Those who did the same for the same reason.
    type Part<'a> = ((PresenceKind, Option<&'a str>), Vec<&'a str>);
    let mut parts: Vec<Part<'_>> = Vec::new();
    for Move { what, name, reason, .. } in moves {
        let did = (*what, reason.as_deref());
        match parts.iter_mut().find(|(known, _)| *known == did) {
            Some((_, names)) if names.contains(&name.as_str()) => {}
            Some((_, names)) => names.push(name),
            None => parts.push((did, vec![name])),
        }
    }
    let part = |((what, reason), names): &Part<'_>| {
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{} {}{reason}", list(names), what.verb())
    };
    parts.iter().map(part).collect::<Vec<_>>().join("; ")
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

    fn told(lines: &[&str]) -> Vec<String> {
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
    fn comings_and_goings_are_one_line_for_each_room() {
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
            assert_eq!(told(lines), expected);
        }
        let crowd: Vec<String> = (0..14).map(|n| format!("* n{n} joined")).collect();
        let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
        assert_eq!(told(&crowd), ["* n0, n1 and 12 others joined"]);
    }

    #[test]
    fn who_only_looks_in_or_comes_back_at_once_is_not_told_of() {
        let mut presence = Presence::default();
        for line in
            ["* bob joined", "#ops * bob joined", "* Bob quit", "* carol quit", "* carol joined"]
        {
            presence.gather(&Event::parse(line).unwrap(), "alice", Instant::now());
        }
        assert!(presence.take().is_empty());
    }

    #[test]
    fn gathering_is_bounded_in_bytes() {
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
    fn who_is_named_has_come_before() {
        let mut presence = Presence::default();
        assert!(!presence.precedes("bob: hi"));
        for line in ["* bob joined", "#ops * carol left"] {
            presence.gather(&Event::parse(line).expect(line), "alice", Instant::now());
        }
        for (line, is_it) in [
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
            assert_eq!(presence.precedes(line), is_it, "{line}");
        }
    }

    #[test]
    fn in_a_crowd_only_those_are_missed_who_have_spoken() {
        use crate::protocol::Tags;
        let mut state = State::new("alice");
        let mut told = |line: &str| {
            state.apply(&Tags::default(), &Event::parse(line).expect(line));
        };
        let crowd: Vec<String> = (0..LARGE_ROOM).map(|n| format!("n{n}")).collect();
        told(&format!("[USERS #lobby {}] alice,{}", LARGE_ROOM + 1, crowd.join(",")));
        told("@cid=1 [JOINED #ops]".split_once(' ').expect("a tag").1);
        told("[USERS #ops 2] alice,n3");
        told("n5: hello");
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
    fn what_is_about_me_is_not_gathered() {
        let mut presence = Presence::default();
        for line in ["* Alice joined", "* alice quit (bye)", "* bob is now rob", "bob: hi"] {
            let event = Event::parse(line).expect(line);
            assert!(!presence.gather(&event, "alice", Instant::now()), "{line}");
        }
    }
}
