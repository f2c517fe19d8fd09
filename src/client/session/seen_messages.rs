//! The messages seen so far, and the position from which to read on after a lost
//! connection. It does not know how messages are shown.
//!
//! An id alone identifies a message only while the server's ids grow. After an older backup
//! of the server is restored, other messages get the same ids. So a message is identified
//! by its id and its time.

use std::collections::{HashSet, VecDeque};

use crate::protocol::{Message, Place, Stamp, Tags};

/// How many messages are remembered; older ones are identified by their time alone.
const SEEN_MAX: usize = 10_000;

/// The identity of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Position {
    pub(super) id: u64,
    pub(super) time: Option<Stamp>,
}

impl Position {
    pub(super) fn of(tags: &Tags<'_>) -> Option<Self> {
        tags.id.map(|id| Self { id, time: tags.time })
    }
}

/// The messages seen so far.
#[derive(Debug, Clone, Default)]
pub(in crate::client) struct SeenMessages {
    last: Option<Position>,
    in_room: Option<(Position, String)>,
    recent: VecDeque<Position>,
    /// The time of the last message that was dropped from `recent`.
    forgotten: Option<Stamp>,
}

impl SeenMessages {
    /// Records a message. `false`: it has no id.
    pub(super) fn note(&mut self, tags: &Tags<'_>, message: &Message<'_>) -> bool {
        let Some(position) = Position::of(tags) else { return false };
        if self.recent.back() != Some(&position) {
            self.recent.push_back(position);
        }
        if self.recent.len() > SEEN_MAX {
            let oldest = self.recent.pop_front();
            self.forgotten = oldest.and_then(|oldest| oldest.time).or(self.forgotten);
        }
        if self.last.is_none_or(|last| position.id > last.id) {
            self.last = Some(position);
            if let Place::Room(room) = message.place {
                self.in_room = Some((position, room.to_owned()));
            }
        }
        true
    }

    /// Returns the message with the highest id.
    pub(super) fn last(&self) -> Option<Position> {
        self.last
    }

    /// Returns the highest id; 0 without messages.
    pub(super) fn last_id(&self) -> u64 {
        self.last.map_or(0, |last| last.id)
    }

    /// Returns the last message in a room, and the room.
    pub(super) fn in_room(&self) -> Option<(Position, &str)> {
        self.in_room.as_ref().map(|(position, room)| (*position, room.as_str()))
    }

    /// Resets the position, since the server's ids may start again. Seen messages stay known.
    pub(super) fn reset_position(&mut self) {
        (self.last, self.in_room) = (None, None);
    }

    /// Returns a snapshot of all messages seen.
    pub(super) fn known(&self) -> SeenSnapshot {
        SeenSnapshot { messages: self.recent.iter().copied().collect(), before: self.forgotten }
    }
}

/// A snapshot of the messages seen.
#[derive(Debug)]
pub(super) struct SeenSnapshot {
    messages: HashSet<Position>,
    /// All messages up to this time count as seen, too.
    before: Option<Stamp>,
}

impl SeenSnapshot {
    pub(super) fn contains(&self, position: Position) -> bool {
        let is_older = position.time.is_some_and(|time| self.before.is_some_and(|at| time <= at));
        is_older || self.messages.contains(&position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Event;

    fn note(seen: &mut SeenMessages, id: u64, time: i64, plain: &str) {
        let Some(Event::Message(message)) = Event::parse(plain) else { panic!("{plain}") };
        let tags = Tags { id: Some(id), time: Some(Stamp(time)), ..Tags::default() };
        assert!(seen.note(&tags, &message));
    }

    #[test]
    fn message_is_identified_by_its_id_and_time() {
        let mut seen = SeenMessages::default();
        note(&mut seen, 5, 50, "#ops bob: hi");
        note(&mut seen, 6, 60, "[PRIVATE MESSAGE] bob: hi");
        let position = |id, time| Position { id, time: Some(Stamp(time)) };
        assert_eq!(seen.last(), Some(position(6, 60)));
        assert_eq!(seen.in_room(), Some((position(5, 50), "ops")));
        let known = seen.known();
        for (id, time, is_known) in [(5, 50, true), (6, 60, true), (5, 60, false), (4, 40, false)] {
            assert_eq!(known.contains(position(id, time)), is_known, "{id} {time}");
        }
        seen.reset_position();
        assert_eq!((seen.last_id(), seen.in_room()), (0, None));
        assert!(seen.known().contains(position(5, 50)), "seen messages stay known");
    }

    #[test]
    fn old_message_is_identified_by_its_time() {
        let mut seen = SeenMessages::default();
        for id in 1..=SEEN_MAX as u64 + 5 {
            note(&mut seen, id, id.cast_signed() * 10, "bob: hi");
        }
        let known = seen.known();
        let contains = |id, time| known.contains(Position { id, time: Some(Stamp(time)) });
        assert!(contains(3, 30) && contains(6, 60));
        assert!(!contains(3, 60_000_000) && !contains(6, 61));
        assert_eq!(seen.recent.len(), SEEN_MAX);
    }
}
