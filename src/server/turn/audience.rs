//! Audiences: the connections that receive a line.

use super::ConnId;

/// One connection of an audience, and what it wants to receive.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// The connection.
    pub conn: ConnId,
    /// Whether it uses the tagged dialect.
    pub tags: bool,
    /// Whether it receives joins and leaves.
    pub joins: bool,
}

/// The connections that receive a line: a snapshot of a room, shared by all lines until its
/// membership changes.
#[derive(Debug)]
pub struct Audience {
    /// The room, if it is the audience of one room, by a number that is never reused.
    pub(super) room: Option<u64>,
    /// Sorted by connection, without duplicates.
    pub(super) readers: Vec<Reader>,
    pub(super) has_plain: bool,
    pub(super) has_tagged: bool,
}

impl Audience {
    /// Creates an audience of these readers; duplicates are removed.
    #[must_use]
    pub fn new(readers: Vec<Reader>) -> Self {
        Self::with_room(None, readers)
    }

    /// Creates the audience of a room, which is known by a number that is never reused.
    #[must_use]
    pub fn of_room(number: u64, readers: Vec<Reader>) -> Self {
        Self::with_room(Some(number), readers)
    }

    fn with_room(room: Option<u64>, mut readers: Vec<Reader>) -> Self {
        readers.sort_unstable_by_key(|reader| reader.conn);
        readers.dedup_by_key(|reader| reader.conn);
        let has_tagged = readers.iter().any(|reader| reader.tags);
        let has_plain = readers.iter().any(|reader| !reader.tags);
        Self { room, readers, has_plain, has_tagged }
    }

    /// Returns the index of a connection among the readers.
    pub(super) fn find(&self, conn: ConnId) -> Option<usize> {
        self.readers.binary_search_by_key(&conn, |reader| reader.conn).ok()
    }
}
