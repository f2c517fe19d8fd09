//! Who reads a line.

use super::ConnId;

/// One connection of an audience, and how it wants to be told.
#[derive(Debug, Clone, Copy)]
pub struct Reader {
    /// The connection.
    pub conn: ConnId,
    /// In the tagged dialect.
    pub tags: bool,
    /// Comings and goings too.
    pub joins: bool,
}

/// Who reads a line: a room's connections at one moment. Shared by all lines
/// said until somebody comes or goes.
#[derive(Debug)]
pub struct Audience {
    /// Sorted by connection.
    pub(super) readers: Vec<Reader>,
    pub(super) has_plain: bool,
    pub(super) has_tagged: bool,
}

impl Audience {
    /// An audience of these readers; each is told once however often it stands.
    #[must_use]
    pub fn new(mut readers: Vec<Reader>) -> Self {
        readers.sort_unstable_by_key(|reader| reader.conn);
        readers.dedup_by_key(|reader| reader.conn);
        let has_tagged = readers.iter().any(|reader| reader.tags);
        let has_plain = readers.iter().any(|reader| !reader.tags);
        Self { readers, has_plain, has_tagged }
    }

    /// Which of the readers a connection is.
    pub(super) fn find(&self, conn: ConnId) -> Option<usize> {
        self.readers.binary_search_by_key(&conn, |reader| reader.conn).ok()
    }
}
