//! Writes the search index and the places of the latest messages, when the log is idle.

use std::time::Duration;

use rusqlite::params;

use super::Writer;
use crate::server::store::sqlite::schema::{RECORDS, record, write_number};
use crate::server::store::sqlite::{Durability, places, search};

/// Interval of indexing for `/search`, and number of messages per transaction. Messages that are
/// not indexed yet are scanned, so that a search finds them all the same.
pub(super) const INDEX_INTERVAL: Duration = Duration::from_secs(1);
const INDEX_AT_ONCE: u32 = 250;

/// If many messages are not indexed: indexing continues when nothing was written for
/// `INDEX_IDLE`, longer than the pause between two commits of a busy server, and otherwise uses one
/// part in `INDEX_SHARE` of the time, because it must not slow down writes.
pub(super) const INDEX_IDLE: Duration = Duration::from_millis(20);
pub(super) const INDEX_SHARE: u32 = 50;

impl Writer {
    /// Indexes some messages for `/search`; returns whether there are more.
    ///
    /// It need not be synced: the commit of the next message does that, and an index entry lost
    /// in a power failure is created again.
    pub(super) fn index(&mut self) -> rusqlite::Result<bool> {
        if self.indexed == self.last.message {
            return Ok(false);
        }
        self.set_synchronous(Durability::Relaxed)?;
        self.begin(Duration::ZERO)?;
        let indexed = self.insert_words();
        let (count, last, placed) = self.end_transaction(indexed)?;
        self.placed = placed;
        // Up to the last id, even if that became no message.
        self.indexed = if count < INDEX_AT_ONCE { self.last.message } else { last };
        Ok(count == INDEX_AT_ONCE)
    }

    /// Indexes some messages and places all; returns the number of the former, the last id, and
    /// the last placed one.
    fn insert_words(&self) -> rusqlite::Result<(u32, u64, u64)> {
        let (mut count, mut last) = (0, self.indexed);
        let sql = format!("{RECORDS} WHERE m.id > ?1 ORDER BY m.id LIMIT ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![last.cast_signed(), INDEX_AT_ONCE])?;
        let mut insert =
            self.connection.prepare_cached("INSERT INTO search (rowid, words) VALUES (?1, ?2)")?;
        while let Some(row) = rows.next()? {
            last = row.get::<_, i64>(0)?.cast_unsigned();
            count += 1;
            if let Some(record) = record(row)? {
                insert.execute(params![last.cast_signed(), search::entry(&record)])?;
            }
        }
        write_number(&self.connection, "indexed", last)?;
        Ok((count, last, places::place_all(&self.connection)?))
    }

    /// Removes an indexed message from the index, which needs its words.
    pub(super) fn delete_words(&self, id: i64) -> rusqlite::Result<()> {
        let sql = format!("{RECORDS} WHERE m.id = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([id])?;
        if let Some(record) = rows.next()?.map(record).transpose()?.flatten() {
            let sql = "INSERT INTO search (search, rowid, words) VALUES ('delete', ?1, ?2)";
            self.connection.prepare_cached(sql)?.execute(params![id, search::entry(&record)])?;
        }
        Ok(())
    }
}
