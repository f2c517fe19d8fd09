//! Erases what was deleted from all files of the folder.
//!
//! SQLite overwrites deleted rows and pages with zeros (`secure_delete`), and the search index
//! contains hashes only. What remains is in older pages of the write-ahead log, which a truncating
//! checkpoint removes, and in the file from before an upgrade, which is deleted as a whole.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Writer, is_busy};
use crate::server::audit;

/// The minimum interval of erasures.
const INTERVAL: Duration = Duration::from_secs(2);

/// How soon an erasure is tried again that a reader or a full disk prevented.
const RETRY: Duration = Duration::from_millis(250);

/// How long an erasure waits for readers; longer than a slice of a read takes.
const READER_TIMEOUT: Duration = Duration::from_millis(60);

/// When to erase.
#[derive(Debug, Default)]
pub(super) struct Erasure {
    due: Option<Instant>,
    last: Option<Instant>,
    /// Whether it was reported that the file from before an upgrade cannot be removed.
    is_reported: bool,
}

impl Erasure {
    /// Returns when the next erasure is due, if any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Notes that something was deleted.
    pub(super) fn schedule(&mut self) {
        let now = Instant::now();
        let due = self.last.map_or(now, |last| now.max(last + INTERVAL));
        self.due.get_or_insert(due);
    }
}

impl Writer {
    /// Removes the file from before an upgrade. It is done before a message is deleted, so that a
    /// crash cannot leave a deleted message in that file.
    pub(super) fn remove_upgraded(&mut self) {
        match self.folder.remove_upgraded() {
            Ok(None) => {}
            Ok(Some(path)) => {
                audit::write(format!("removed {}: messages were deleted", path.display()));
            }
            Err(error) => {
                if !mem::replace(&mut self.erasure.is_reported, true) {
                    audit::write(format!("{error:#}"));
                }
            }
        }
    }

    /// Erases what was deleted; if that fails, it is tried again later.
    pub(super) fn erase(&mut self) -> rusqlite::Result<bool> {
        self.erasure.due = Some(Instant::now() + RETRY);
        self.connection.busy_timeout(READER_TIMEOUT)?;
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        let is_blocked = self.connection.query_row(sql, [], |row| row.get::<_, bool>(0));
        match is_blocked {
            Ok(false) => {
                self.wal_pages.store(0, Ordering::Relaxed);
                (self.erasure.due, self.erasure.last) = (None, Some(Instant::now()));
                Ok(false)
            }
            Ok(true) => Ok(true),
            Err(error) if is_busy(&error) || self.is_full(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }
}
