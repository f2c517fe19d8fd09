//! Counts of unread messages per room, and the quiet rooms, of which only the count is shown.
//! It does not know which room is current.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::limits::ROOMS_MAX;
use crate::protocol::Key;

/// The unread counts and the quiet rooms.
#[derive(Debug, Clone, Default)]
pub(in crate::client) struct Unread {
    /// Each room as written, and its number of unread messages.
    rooms: BTreeMap<Key, (String, usize)>,
    quiet: BTreeSet<Key>,
}

impl Unread {
    /// Counts a message of a room. Beyond [`ROOMS_MAX`] rooms, messages are not counted.
    pub(super) fn add(&mut self, room: &str) {
        let key = Key::fold(room);
        if self.rooms.len() >= ROOMS_MAX && !self.rooms.contains_key(&key) {
            return;
        }
        let (_, count) = self.rooms.entry(key).or_insert_with(|| (room.to_owned(), 0));
        *count += 1;
    }

    /// Marks all messages of a room as read.
    pub(super) fn read(&mut self, room: &str) {
        self.rooms.remove(&Key::fold(room));
    }

    /// Returns each room with unread messages, and their number.
    pub(in crate::client) fn rooms(&self) -> impl Iterator<Item = (&str, usize)> {
        self.rooms.values().map(|(room, count)| (room.as_str(), *count))
    }

    /// Returns the number of unread messages in all rooms.
    pub(in crate::client) fn total(&self) -> usize {
        self.rooms().map(|(_, count)| count).sum()
    }

    /// Toggles whether a room is quiet. Returns whether it is quiet now.
    pub(in crate::client) fn toggle_quiet(&mut self, room: &str) -> bool {
        self.read(room);
        let room = Key::fold(room);
        !self.quiet.remove(&room) && self.quiet.insert(room)
    }

    /// Whether a room is quiet.
    pub(super) fn is_quiet(&self, room: &str) -> bool {
        self.quiet.contains(&Key::fold(room))
    }

    /// Returns the counts of a new session, which inherits only the quiet rooms.
    pub(super) fn reset(&self) -> Self {
        Self { rooms: BTreeMap::new(), quiet: self.quiet.clone() }
    }
}
