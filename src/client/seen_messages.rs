//! Which messages have been seen, and where to read on after a lost connection.
//!
//! An id alone says where to read on as long as the server's ids only grow. After an older
//! backup of the server was restored, ids are given again to other messages. So each
//! message is known by its id and its time.

use std::collections::{HashSet, VecDeque};

use crate::protocol::{Message, Place, Stamp, Tags};

/// How many messages are remembered; older ones are known by their time alone.
const SEEN_MAX: usize = 10_000;

/// One message.
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

/// See the head of this file.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenMessages {
    last: Option<Position>,
    in_room: Option<(Position, String)>,
    recent: VecDeque<Position>,
    /// The time of the last message that is not among the recent ones any more.
    forgotten: Option<Stamp>,
}

impl SeenMessages {
    /// Notes a message; whether it was one with an id.
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

    /// The message with the highest id.
    pub(super) fn last(&self) -> Option<Position> {
        self.last
    }

    /// The id of that; 0 if there is none.
    pub(super) fn last_id(&self) -> u64 {
        self.last.map_or(0, |last| last.id)
    }

    /// The last one that was said in a room, and the room.
    pub(super) fn in_room(&self) -> Option<(Position, &str)> {
        self.in_room.as_ref().map(|(position, room)| (*position, room.as_str()))
    }

    /// The server may count anew: there is nothing to read on after.
    pub(super) fn begin_anew(&mut self) {
        (self.last, self.in_room) = (None, None);
    }

    /// All that has been seen by now.
    pub(super) fn known(&self) -> Known {
        Known { messages: self.recent.iter().copied().collect(), before: self.forgotten }
    }
}

/// The messages that had been seen at one moment.
#[derive(Debug)]
pub(super) struct Known {
    messages: HashSet<Position>,
    /// All up to this time, too.
    before: Option<Stamp>,
}

impl Known {
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
        let tags = Tags { id: Some(id), time: Some(Stamp(time)), cid: None };
        assert!(seen.note(&tags, &message));
    }

    #[test]
    fn message_is_known_by_its_id_and_time() {
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
        seen.begin_anew();
        assert_eq!((seen.last_id(), seen.in_room()), (0, None));
        assert!(seen.known().contains(position(5, 50)), "what was seen was seen");
    }

    #[test]
    fn messages_of_long_ago_are_known_by_their_time() {
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
