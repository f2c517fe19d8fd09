//! Audiences: the connections that receive a line.

use super::ConnId;
use crate::protocol::Dialect;

/// One connection of an audience, and what it wants to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// The connection.
    pub conn: ConnId,
    /// The dialect of its lines.
    pub dialect: Dialect,
    /// Whether it receives joins and leaves.
    pub joins: bool,
}

/// The connections that receive a line: a snapshot of a room, shared by all lines until its
/// membership changes.
#[derive(Debug)]
pub struct Audience {
    /// The number of the room, if these are the readers of one room.
    pub(super) number: Option<u64>,
    /// Sorted by connection, without duplicates.
    pub(super) readers: Vec<Reader>,
    /// Which dialects have a reader, by dialect.
    pub(super) has: [bool; Dialect::COUNT],
}

impl Audience {
    /// Creates an audience of these readers; duplicates are removed.
    #[must_use]
    pub fn new(readers: Vec<Reader>) -> Self {
        Self::create(None, readers)
    }

    /// Creates the audience of a room. The number identifies the room in encoded turns
    /// (`wire.rs`); the hub never reuses it.
    #[must_use]
    pub fn of_room(number: u64, readers: Vec<Reader>) -> Self {
        Self::create(Some(number), readers)
    }

    pub(super) fn create(number: Option<u64>, mut readers: Vec<Reader>) -> Self {
        readers.sort_unstable_by_key(|reader| reader.conn);
        readers.dedup_by_key(|reader| reader.conn);
        let mut has = [false; Dialect::COUNT];
        for reader in &readers {
            has[reader.dialect as usize] = true;
        }
        Self { number, readers, has }
    }

    /// Returns the index of a connection among the readers.
    pub(super) fn find(&self, conn: ConnId) -> Option<usize> {
        self.readers.binary_search_by_key(&conn, |reader| reader.conn).ok()
    }
}
