//! What was said in the rooms where one is not looking, counted; and the rooms that
//! are kept quiet, of which only the count is seen.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::ROOMS_MAX;
use crate::protocol::Key;

/// See the head of this file.
#[derive(Debug, Clone, Default)]
pub(super) struct Unread {
    /// Each room as written, and how many messages.
    rooms: BTreeMap<Key, (String, usize)>,
    quiet: BTreeSet<Key>,
}

impl Unread {
    /// Somebody said something there.
    pub(super) fn heard(&mut self, room: &str) {
        let key = Key::fold(room);
        if self.rooms.len() >= ROOMS_MAX && !self.rooms.contains_key(&key) {
            return;
        }
        let (_, count) = self.rooms.entry(key).or_insert_with(|| (room.to_owned(), 0));
        *count += 1;
    }

    /// All of it is read.
    pub(super) fn read(&mut self, room: &str) {
        self.rooms.remove(&Key::fold(room));
    }

    /// Each room in which something is unread, and how much.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (&str, usize)> {
        self.rooms.values().map(|(room, count)| (room.as_str(), *count))
    }

    /// How much is unread.
    pub(super) fn total(&self) -> usize {
        self.rooms().map(|(_, count)| count).sum()
    }

    /// Makes a room quiet, or ends that; whether it is quiet now.
    pub(super) fn toggle_quiet(&mut self, room: &str) -> bool {
        self.read(room);
        let room = Key::fold(room);
        !self.quiet.remove(&room) && self.quiet.insert(room)
    }

    /// Whether a room is quiet.
    pub(super) fn is_quiet(&self, room: &str) -> bool {
        self.quiet.contains(&Key::fold(room))
    }

    /// In a new visit the quiet rooms are those of the old one.
    pub(super) fn begin_anew(&self) -> Self {
        Self { rooms: BTreeMap::new(), quiet: self.quiet.clone() }
    }
}
