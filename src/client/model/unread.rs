//! Counts of unread messages per room and per private conversation, and the quiet rooms, of which
//! only the count is shown. It does not know which of them is current.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::limits::ROOMS_MAX;
use crate::protocol::Key;

/// A room or a private conversation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thread {
    Room(Key),
    Person(Key),
}

impl Thread {
    pub(super) fn room(name: &str) -> Self {
        Self::Room(Key::fold(name))
    }

    pub(super) fn person(name: &str) -> Self {
        Self::Person(Key::fold(name))
    }
}

/// The unread messages of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct Count {
    /// The thread as written: `#ops`, `bob`.
    pub(in crate::client) name: String,
    pub(in crate::client) messages: usize,
    /// Whether the user is mentioned, or the messages are private.
    pub(in crate::client) is_for_me: bool,
}

/// The unread counts and the quiet rooms.
#[derive(Debug, Clone, Default)]
pub(in crate::client) struct Unread {
    threads: BTreeMap<Thread, Count>,
    quiet: BTreeSet<Key>,
}

impl Unread {
    /// Counts a message of a room. Beyond [`ROOMS_MAX`] threads, messages are not counted.
    pub(super) fn add(&mut self, room: &str, is_for_me: bool) {
        self.count(Thread::room(room), format!("#{room}"), is_for_me);
    }

    /// Counts a private message.
    pub(super) fn add_private(&mut self, from: &str) {
        self.count(Thread::person(from), from.to_owned(), true);
    }

    fn count(&mut self, thread: Thread, name: String, is_for_me: bool) {
        if self.threads.len() >= ROOMS_MAX && !self.threads.contains_key(&thread) {
            return;
        }
        let new = Count { name, messages: 0, is_for_me };
        let entry = self.threads.entry(thread).or_insert(new);
        entry.messages += 1;
        entry.is_for_me |= is_for_me;
    }

    /// Marks all messages of a thread as read.
    pub(super) fn read(&mut self, thread: &Thread) {
        self.threads.remove(thread);
    }

    /// Follows a change of a user's name.
    pub(super) fn rename(&mut self, old: &str, new: &str) {
        if let Some(count) = self.threads.remove(&Thread::person(old)) {
            self.threads.insert(Thread::person(new), Count { name: new.to_owned(), ..count });
        }
    }

    /// Returns the threads with unread messages: rooms, then users.
    pub(in crate::client) fn threads(&self) -> impl Iterator<Item = &Count> {
        self.threads.values()
    }

    /// Returns the number of unread messages in all threads.
    pub(in crate::client) fn total(&self) -> usize {
        self.threads().map(|thread| thread.messages).sum()
    }

    /// Returns the thread to read next: one for the user if there is any.
    pub(super) fn next(&self) -> Option<&Count> {
        self.threads().find(|thread| thread.is_for_me).or_else(|| self.threads().next())
    }

    /// Toggles whether a room is quiet. Returns whether it is quiet now.
    pub(in crate::client) fn toggle_quiet(&mut self, room: &str) -> bool {
        self.read(&Thread::room(room));
        let room = Key::fold(room);
        !self.quiet.remove(&room) && self.quiet.insert(room)
    }

    /// Whether a room is quiet.
    pub(super) fn is_quiet(&self, room: &str) -> bool {
        self.quiet.contains(&Key::fold(room))
    }

    /// Returns the counts of a new session, which inherits only the quiet rooms.
    pub(super) fn reset(&self) -> Self {
        Self { threads: BTreeMap::new(), quiet: self.quiet.clone() }
    }
}
