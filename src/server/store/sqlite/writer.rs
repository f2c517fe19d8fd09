//! The writer of the database. Every write is one transaction.
//!
//! Batches are written on the calling thread, which could only wait meanwhile. Maintenance
//! (sync, retention, indexing) runs on a thread of its own, in slices so short that a batch
//! hardly waits for one.
//!
//! Checkpoint: SQLite's write-ahead log (WAL) is copied into the database file when it exceeds
//! [`WAL_PAGES_MAX`] pages, after a commit and without waiting for readers, so that a failed
//! checkpoint is noticed. [`Writer::close`] copies and empties all of it, so that after an
//! orderly stop the database is one complete file.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow};
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, ToSql, ffi, params};

use super::folder::{Folder, Note, Opened, with_suffix};
use super::{
    COLUMNS, Durability, Options, Retention, WAITS, record, search, write_ceiling, write_last,
};
use crate::files::open_own;
use crate::protocol::{Cid, RoomName};
use crate::server::record::{Recipient, Record};
use crate::server::store::{AppendError, Batch, Change, Duplicate, LastIds};

/// Writes to the database.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    options: Options,
    folder: Folder,
    path: PathBuf,
    /// The write-ahead log, opened at the start: the kernel reports a failed sync only to
    /// descriptors that were open before.
    wal: File,
    /// The open files, to check that their paths still lead to them.
    files: Opened,
    /// The permanent failure, if any; see rule 3 of `sqlite.rs`.
    failure: Option<Failure>,
    /// Receives a permanent failure that occurs in maintenance.
    report: Report,
    lock: Lock,
    /// How often the log was opened.
    opened: u64,
    /// The note in the folder's lock file of what is stored.
    note: Note,
    /// Number of pages in the write-ahead log after the last commit.
    wal_pages: Arc<AtomicI32>,
    last: LastIds,
    /// No id above this is given out before the disk has a higher ceiling. Unused if every
    /// batch is on disk when it is acknowledged.
    ceiling: LastIds,
    /// Number of stored messages, if retention limits it.
    count: Option<u64>,
    /// Time of the last message, and the progress of the search for old messages; see
    /// [`Writer::delete_aged`].
    last_time: i64,
    sweep: Sweep,
    /// Whether commits may not be on disk yet.
    is_unsynced: bool,
    /// The last indexed message, and whether many are not indexed yet.
    indexed: u64,
    is_behind: bool,
    /// The current setting of `synchronous`.
    synchronous: Durability,
    last_write: Instant,
    next_sync: Instant,
    next_retention: Instant,
    next_index: Instant,
}

/// The state of the write lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Free,
    /// Held by an open transaction until the next batch; see [`Writer::reserve`].
    Reserved,
    /// Another process held it at the last attempt, so the next one does not wait.
    Refused,
}

/// Why the log failed permanently.
#[derive(Debug, Clone)]
enum Failure {
    /// A write or a sync failed.
    Io(String),
    /// The files were removed or replaced.
    Gone(String),
}

impl Failure {
    fn error(&self) -> AppendError {
        match self {
            Self::Io(why) => AppendError::Broken(anyhow!("{why}")),
            Self::Gone(why) => AppendError::Gone(why.clone()),
        }
    }
}

/// Receives a permanent failure, once.
#[derive(Default)]
struct Report(Option<Box<dyn Fn(AppendError) + Send>>);

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}

/// How long a batch waits for a lock held by another process: long enough for a short
/// transaction, short enough not to delay lines. While the lock stays held, later batches do not
/// wait.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// How long closing waits for readers and locks of other processes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Disk space allocated for the changes of a batch before their commands run, in bytes; far more
/// than they need.
const RESERVE: usize = 512 << 10;

/// Size of a page in the write-ahead log, and of the log's header, in bytes.
const WAL_FRAME: u64 = 24 + 4096;
const WAL_HEAD: u64 = 32;

/// Interval of syncs, unless every commit syncs.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Number of pages in the write-ahead log that triggers a checkpoint.
const WAL_PAGES_MAX: i32 = 1000;

/// Distance of the ceiling above the ids given out.
const CEILING_STEP: u64 = 4096;

/// If this much space is available, in bytes, a failed write was not caused by a full disk.
const PROBE_SIZE: usize = 4 << 20;

/// Interval of retention, and number of messages deleted in one transaction; a batch waits no
/// longer than for that.
const RETENTION_INTERVAL: Duration = Duration::from_secs(1);
const DELETE_AT_ONCE: u32 = 100;

/// While there is more to delete, deletions use at most one part in this number of the time,
/// because the lock is not fair to waiting writers.
const DELETE_SHARE: u32 = 2;

/// Number of messages whose age is checked at once: among the oldest, and in a sweep.
const AGED_AT_ONCE: u32 = DELETE_AT_ONCE;
const SWEPT_AT_ONCE: u32 = 1000;

/// Selects messages that may be deleted. Mail is kept until it is delivered.
fn deletable() -> String {
    format!("messages m WHERE NOT EXISTS (SELECT 1 FROM kept k WHERE {WAITS})")
}

/// Interval of indexing for `/search`, and number of messages per transaction. Messages that are
/// not indexed yet are scanned, so that a search finds them all the same.
const INDEX_INTERVAL: Duration = Duration::from_secs(1);
const INDEX_AT_ONCE: u32 = 250;
/// If many messages are not indexed: indexing continues when nothing was written for
/// `INDEX_IDLE`, and otherwise uses one part in `INDEX_SHARE` of the time, because it must not
/// slow down writes.
const INDEX_IDLE: Duration = Duration::from_millis(2);
const INDEX_SHARE: u32 = 50;

/// Locks the writer, even if a thread panicked while holding it: transactions are atomic.
pub(super) fn lock(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs maintenance until the log is closed.
pub(super) fn run_maintenance_loop(writer: &Mutex<Writer>, closed: &Receiver<()>) {
    let mut pause = Duration::ZERO;
    while let Err(RecvTimeoutError::Timeout) = closed.recv_timeout(pause) {
        pause = lock(writer).run_maintenance();
    }
}

/// The result of checking the age of some messages.
#[derive(Debug, Default)]
struct Slice {
    /// Id and time of the last message checked.
    upto: i64,
    time: i64,
    scanned: u32,
    /// Whether there are no later messages.
    is_last: bool,
    /// Whether a message is older than the one before it.
    has_decrease: bool,
    /// Ids of the messages to delete.
    aged: Vec<i64>,
}

/// A scan of all messages for old ones, slice by slice; see [`Writer::delete_aged`].
#[derive(Debug)]
struct Sweep {
    is_needed: bool,
    /// Progress: id and time of the last message checked.
    upto: i64,
    time: i64,
    /// Whether it has met messages older than the one before.
    has_decrease: bool,
}

impl Sweep {
    fn new() -> Self {
        Self { is_needed: true, upto: 0, time: 0, has_decrease: false }
    }

    /// Notes a stored message.
    fn note_order(&mut self, has_decrease: bool) {
        self.is_needed |= has_decrease;
        self.has_decrease |= has_decrease;
    }

    /// Returns the start of the next slice.
    fn slice(&self) -> Slice {
        Slice { upto: self.upto, time: self.time, ..Slice::default() }
    }

    /// Notes a checked slice. After the last one the sweep starts again if any time went back;
    /// if all times grow with ids, checking the lowest ids is enough.
    fn note(&mut self, slice: &Slice) {
        self.has_decrease |= slice.has_decrease;
        (self.upto, self.time) = (slice.upto, slice.time);
        if slice.is_last {
            *self = Self { is_needed: self.has_decrease, ..Self::new() };
        }
    }
}

impl Writer {
    pub(super) fn new(
        mut connection: Connection,
        options: Options,
        folder: Folder,
        opened: u64,
        last: LastIds,
        count: Option<u64>,
        indexed: u64,
    ) -> anyhow::Result<Self> {
        let now = Instant::now();
        let path = folder.file();
        let wal = with_suffix(&path, "-wal");
        let files =
            Opened::of([path.clone(), wal.clone()]).context("cannot find the log's files")?;
        let wal = open_own(&wal, OpenOptions::new().append(true))
            .with_context(|| format!("cannot use {}", wal.display()))?;
        let wal_pages = Arc::new(AtomicI32::new(0));
        let noted = wal_pages.clone();
        // Replaces SQLite's own hook, which runs checkpoints without reporting their failures.
        connection.wal_hook(Some(move |_: &mut Wal, pages| {
            noted.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        let last_time = "SELECT time FROM messages ORDER BY id DESC LIMIT 1";
        let last_time = connection.query_row(last_time, [], |row| row.get(0)).optional()?;
        Ok(Self {
            connection,
            options,
            folder,
            path,
            wal,
            files,
            failure: None,
            report: Report::default(),
            lock: Lock::Free,
            opened,
            note: Note::default(),
            wal_pages,
            last,
            ceiling: LastIds::default(),
            count,
            last_time: last_time.unwrap_or_default(),
            sweep: Sweep::new(),
            is_unsynced: false,
            indexed,
            is_behind: false,
            synchronous: Durability::Commit,
            last_write: now,
            next_sync: now,
            next_retention: now,
            next_index: now,
        })
    }

    /// Runs due maintenance; returns the time until more is due.
    fn run_maintenance(&mut self) -> Duration {
        if self.lock == Lock::Reserved {
            return INDEX_IDLE; // the batch follows immediately
        }
        let pause = self.run_due_maintenance();
        if let Some(failure) = &self.failure
            && let Some(report) = self.report.0.take()
        {
            report(failure.error());
        }
        pause
    }

    fn run_due_maintenance(&mut self) -> Duration {
        let now = Instant::now();
        if now >= self.next_sync {
            self.check_files();
            self.sync();
            self.write_note(false);
            self.next_sync = now + SYNC_INTERVAL;
        }
        if now >= self.next_retention {
            let more = self.run_slice(Self::apply_retention);
            let pause = if more { now.elapsed() * (DELETE_SHARE - 1) } else { RETENTION_INTERVAL };
            self.next_retention = Instant::now() + pause;
        }
        let now = Instant::now();
        if now >= self.next_index || (self.is_behind && now >= self.last_write + INDEX_IDLE) {
            self.is_behind = self.run_slice(Self::index);
            let pause =
                if self.is_behind { now.elapsed() * (INDEX_SHARE - 1) } else { INDEX_INTERVAL };
            self.next_index = Instant::now() + pause;
        }
        let due = self.next_sync.min(self.next_retention).min(self.next_index);
        let pause = due.saturating_duration_since(Instant::now());
        if self.is_behind { pause.min(INDEX_IDLE) } else { pause }
    }

    /// Runs one slice of a task; returns whether there is more. A task that is blocked is tried
    /// again later; a permanent failure ends all maintenance.
    fn run_slice(&mut self, act: fn(&mut Self) -> rusqlite::Result<bool>) -> bool {
        if self.failure.is_some() {
            return false; // the next batch reports it
        }
        let more = act(self).and_then(|more| self.checkpoint().map(|()| more));
        more.unwrap_or_else(|error| {
            // Not noted as `Lock::Refused`: a batch may find the lock released.
            if !is_busy(&error) {
                self.classify_failure(&error);
            }
            false
        })
    }

    /// Classifies an error: temporary (locked or full), or permanent.
    fn classify_failure(&mut self, error: &rusqlite::Error) -> AppendError {
        if is_busy(error) {
            self.lock = Lock::Refused;
            AppendError::Locked
        } else if self.is_full(error) {
            AppendError::Full(error.to_string())
        } else {
            self.mark_failed(Failure::Io(error.to_string()))
        }
    }

    /// Marks the log as failed permanently.
    fn mark_failed(&mut self, failure: Failure) -> AppendError {
        self.failure.insert(failure).error()
    }

    /// Fails permanently if a file was removed or replaced, as its content would be lost.
    fn check_files(&mut self) {
        if self.failure.is_none() {
            self.failure = self.files.find_missing().map(Failure::Gone);
        }
    }

    /// Writes a note beside the log of what is on disk.
    pub(super) fn write_note(&mut self, is_closed: bool) {
        let note = Note { opened: self.opened, message: self.last.message, is_closed };
        if self.failure.is_none() && !self.is_unsynced && self.note != note {
            self.note = note;
            // Without a note, lost data may go unnoticed; nothing else depends on it.
            let _ = self.folder.write_note(note);
        }
    }

    pub(super) fn report_failure_to(&mut self, report: Box<dyn Fn(AppendError) + Send>) {
        self.report = Report(Some(report));
    }

    /// Starts a write transaction; nothing waits for a lock after this.
    fn begin(&mut self, timeout: Duration) -> rusqlite::Result<()> {
        let timeout = if self.lock == Lock::Refused { Duration::ZERO } else { timeout };
        self.connection.busy_timeout(timeout)?;
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.lock = Lock::Free;
        Ok(())
    }

    /// Commits a transaction, or rolls it back after an error.
    fn end_transaction<T>(&mut self, result: rusqlite::Result<T>) -> rusqlite::Result<T> {
        let result = result.and_then(|value| {
            self.connection.prepare_cached("COMMIT")?.execute([])?;
            Ok(value)
        });
        if result.is_err() {
            self.roll_back();
        }
        result
    }

    /// Rolls back an open transaction. SQLite does so itself after some errors.
    fn roll_back(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Takes the write lock and the disk space that the next batch's changes need.
    ///
    /// The space is allocated behind the end of the write-ahead log, where the changes will be
    /// written. If the file system does not support that, free space is only probed.
    pub(super) fn reserve(&mut self) -> Result<(), AppendError> {
        if let Some(failure) = &self.failure {
            return Err(failure.error());
        }
        if self.lock == Lock::Reserved {
            return Ok(());
        }
        self.allocate().map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                AppendError::Full(error.to_string())
            }
            _ => self.mark_failed(Failure::Io(error.to_string())),
        })?;
        let started = self.set_synchronous(self.options.durability);
        started
            .and_then(|()| self.begin(LOCK_TIMEOUT))
            .map_err(|error| self.classify_failure(&error))?;
        self.lock = Lock::Reserved;
        Ok(())
    }

    fn allocate(&self) -> io::Result<()> {
        let pages = u64::try_from(self.wal_pages.load(Ordering::Relaxed)).unwrap_or_default();
        let end = WAL_HEAD + pages * WAL_FRAME;
        if allocate(&self.wal, end, RESERVE as u64)? {
            return Ok(());
        }
        self.probe_space(RESERVE)
    }

    /// Stores a batch, as durably as configured when this returns.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<Vec<Duplicate>, AppendError> {
        if let Some(failure) = &self.failure {
            return Err(failure.error());
        }
        let ceiling = self.next_ceiling(batch.last);
        let safe = ceiling.map_or(self.options.durability, |_| Durability::Commit);
        let is_reserved = self.lock == Lock::Reserved;
        if is_reserved {
            self.lock = Lock::Free;
        }
        let started = if is_reserved && self.synchronous == safe {
            Ok(())
        } else {
            self.roll_back(); // `synchronous` cannot be changed within a transaction
            self.set_synchronous(safe).and_then(|()| self.begin(LOCK_TIMEOUT))
        };
        let result = started.and_then(|()| {
            let inserted = insert(&self.connection, batch, self.last, ceiling);
            self.end_transaction(inserted)
        });
        self.last_write = Instant::now();
        let repeats = result.map_err(|error| self.classify_failure(&error))?;
        self.last = batch.last;
        self.ceiling = ceiling.unwrap_or(self.ceiling);
        let stored = batch.records.len() - repeats.len();
        self.count = self.count.map(|count| count + stored as u64);
        self.note_times(batch);
        self.is_unsynced = self.options.durability == Durability::Relaxed;
        self.checkpoint().map_err(|error| self.mark_failed(Failure::Io(error.to_string())))?;
        self.check_files();
        self.failure.as_ref().map_or(Ok(repeats), |failure| Err(failure.error()))
    }

    /// Copies a long write-ahead log into the database (passive checkpoint). If the disk is full
    /// or a reader needs the log, it is tried again after the next commit.
    fn checkpoint(&mut self) -> rusqlite::Result<()> {
        if self.wal_pages.load(Ordering::Relaxed) < WAL_PAGES_MAX {
            return Ok(());
        }
        let mut statement = self.connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
        let moved = statement.query_row([], |_| Ok(()));
        drop(statement);
        match moved {
            Err(error) if !is_busy(&error) && !self.is_full(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns a higher ceiling if ids above the current one are given out and may be
    /// acknowledged before their batch is on disk.
    fn next_ceiling(&self, last: LastIds) -> Option<LastIds> {
        let LastIds { message, person } = last;
        let is_above = message > self.ceiling.message || person > self.ceiling.person;
        let is_needed = self.options.durability == Durability::Relaxed && is_above;
        is_needed
            .then_some(LastIds { message: message + CEILING_STEP, person: person + CEILING_STEP })
    }

    /// Closes the log. Unless it has failed, everything is then in the database file.
    pub(super) fn close(&mut self) -> Result<(), String> {
        self.roll_back();
        self.lock = Lock::Free;
        self.check_files();
        self.sync();
        if self.failure.is_some() {
            // Data that was not synced must not be copied, nor the write-ahead log removed.
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            return Ok(());
        }
        if self.ceiling != LastIds::default() {
            // If this fails, ids are skipped at the next start, as after a crash.
            let _ = self.lower_ceiling();
        }
        let moved = self.checkpoint_all();
        self.write_note(moved.is_ok());
        moved.map_err(|why| {
            let (file, wal) = (self.path.display(), with_suffix(&self.path, "-wal"));
            format!(
                "the latest messages are still in {}, beside {file}; keep both together: {why}",
                wal.display()
            )
        })
    }

    fn lower_ceiling(&mut self) -> rusqlite::Result<()> {
        self.set_synchronous(Durability::Commit)?;
        self.begin(CLOSE_TIMEOUT)?;
        let written = write_last(&self.connection, self.last)
            .and_then(|()| write_ceiling(&self.connection, LastIds::default()));
        self.end_transaction(written)
    }

    /// Copies the write-ahead log into the database and empties it (checkpoint).
    fn checkpoint_all(&mut self) -> Result<(), String> {
        let moved = self.set_synchronous(Durability::Commit).and_then(|()| {
            self.connection.busy_timeout(CLOSE_TIMEOUT)?;
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            self.connection.query_row(sql, [], |row| row.get::<_, bool>(0))
        });
        match moved {
            Ok(false) => Ok(()),
            Ok(true) => Err("another process is using the log".to_owned()),
            Err(error) if is_busy(&error) => Err("another process has locked the log".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Syncs commits that are not on disk yet.
    fn sync(&mut self) {
        if std::mem::take(&mut self.is_unsynced)
            && self.failure.is_none()
            && let Err(error) = self.wal.sync_data()
        {
            self.failure = Some(Failure::Io(error.to_string()));
        }
    }

    /// Makes every later sync fail.
    #[cfg(test)]
    pub(super) fn break_sync(&mut self) {
        self.wal = File::open("/dev/null").expect("a device");
    }

    /// Returns whether the disk was full; the transaction is rolled back then.
    fn is_full(&self, error: &rusqlite::Error) -> bool {
        // For an exceeded quota SQLite reports the same errors as for a failing disk.
        let code = error.sqlite_error().map(|error| error.extended_code);
        let may_be = matches!(code, Some(ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE));
        error.sqlite_error_code() == Some(ErrorCode::DiskFull) || (may_be && !self.has_space())
    }

    /// Returns whether the disk has space, by writing a file.
    fn has_space(&self) -> bool {
        let is_full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        !self.probe_space(PROBE_SIZE).is_err_and(|error| is_full(&error))
    }

    /// Checks that there is this much space on the disk, by writing a file.
    fn probe_space(&self, size: usize) -> io::Result<()> {
        let path = self.path.with_extension("room");
        let mut file = open_own(&path, OpenOptions::new().append(true).create(true))?;
        let written = file.write_all(&vec![0; size]);
        let _ = fs::remove_file(path);
        written
    }

    /// Deletes some messages that retention does not keep; returns whether there are more.
    fn apply_retention(&mut self) -> rusqlite::Result<bool> {
        let Retention { age, messages } = self.options.retention;
        let mut left = DELETE_AT_ONCE;
        if let Some(age) = age {
            left -= self.delete_aged(age, left as usize)?;
        }
        if let Some(keep) = messages {
            let most = self.excess(keep)?.min(left);
            left -= self.delete_oldest(most)?;
        }
        Ok(left == 0)
    }

    /// Notes whether the messages of a batch are older than those before.
    fn note_times(&mut self, batch: &Batch) {
        for record in &batch.records {
            self.sweep.note_order(record.time.0 < self.last_time);
            self.last_time = record.time.0;
        }
    }

    /// Deletes messages that are older than `age`, at most `most`; returns their number.
    ///
    /// Times grow with ids unless the clock was set back, so checking the lowest ids finds them,
    /// at a cost independent of the number of messages. A message stored while the clock was
    /// ahead may have older ones behind it. They are found by a sweep over all messages, one
    /// slice per second: once after a start, and repeatedly while there are messages whose times
    /// go back.
    fn delete_aged(&mut self, age: Duration, most: usize) -> rusqlite::Result<u32> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX);
        let mut aged = self.find_aged(Slice::default(), before, AGED_AT_ONCE, most)?.aged;
        if self.sweep.is_needed && aged.len() < most {
            let from = self.sweep.slice();
            let slice = self.find_aged(from, before, SWEPT_AT_ONCE, most - aged.len())?;
            self.sweep.note(&slice);
            aged.extend(slice.aged);
            aged.sort_unstable();
            aged.dedup();
        }
        if aged.is_empty() {
            return Ok(0); // the common case, which must cost nothing
        }
        let ids = serde_json::json!(aged).to_string();
        self.delete("SELECT value FROM json_each(?1)", &ids)
    }

    /// Checks the next `scan_max` messages behind a slice; collects at most `most` from before a
    /// time. Mail is kept until it is delivered.
    fn find_aged(
        &self,
        behind: Slice,
        before: i64,
        scan_max: u32,
        most: usize,
    ) -> rusqlite::Result<Slice> {
        let sql = format!("SELECT id, time FROM {} AND id > ?1 ORDER BY id LIMIT ?2", deletable());
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![behind.upto, scan_max])?;
        let mut slice = behind;
        while slice.aged.len() < most {
            let Some(row) = rows.next()? else {
                slice.is_last = slice.scanned < scan_max;
                break;
            };
            let (id, time): (i64, i64) = (row.get(0)?, row.get(1)?);
            slice.has_decrease |= time < slice.time;
            (slice.upto, slice.time) = (id, time);
            slice.scanned += 1;
            if time < before {
                slice.aged.push(id);
            }
        }
        Ok(slice)
    }

    /// Deletes the oldest messages, at most `most`; returns their number.
    fn delete_oldest(&mut self, most: u32) -> rusqlite::Result<u32> {
        if most == 0 {
            return Ok(0); // the common case, which must cost nothing
        }
        self.delete(&format!("SELECT id FROM {} ORDER BY id LIMIT ?1", deletable()), most)
    }

    /// Deletes the messages that a query with one parameter selects; returns their number.
    fn delete(&mut self, selected: &str, param: impl ToSql + Copy) -> rusqlite::Result<u32> {
        // As with the index, the commit of the next message syncs it.
        self.set_synchronous(Durability::Relaxed)?;
        self.begin(Duration::ZERO)?;
        let deleted = self.delete_selected(selected, param);
        let deleted = self.end_transaction(deleted)?;
        self.count = self.count.map(|count| count - deleted as u64);
        Ok(u32::try_from(deleted).unwrap_or(u32::MAX))
    }

    fn delete_selected(&self, selected: &str, param: impl ToSql + Copy) -> rusqlite::Result<usize> {
        write_last(&self.connection, self.last)?; // the last message may be among them
        let sql = format!("DELETE FROM search WHERE rowid IN ({selected})");
        self.connection.prepare_cached(&sql)?.execute([param])?;
        let sql = format!("DELETE FROM messages WHERE id IN ({selected})");
        self.connection.prepare_cached(&sql)?.execute([param])
    }

    /// Returns the number of messages beyond `keep`. Ids are not enough to compute it, because
    /// refused messages leave gaps.
    fn excess(&self, keep: u64) -> rusqlite::Result<u32> {
        let beyond = self.count.unwrap_or_default().saturating_sub(keep);
        // Do not count mail if there is nothing to delete anyway.
        let excess = if beyond == 0 { 0 } else { beyond.saturating_sub(self.count_mail()?) };
        Ok(u32::try_from(excess).unwrap_or(u32::MAX))
    }

    /// Counts the messages that wait in mailboxes, which are kept in addition.
    fn count_mail(&self) -> rusqlite::Result<u64> {
        let sql = format!("SELECT count(*) FROM kept k CROSS JOIN messages m WHERE {WAITS}");
        let count: i64 = self.connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    /// Indexes some messages for `/search`; returns whether there are more.
    ///
    /// It need not be synced: the commit of the next message does that, and an index entry lost
    /// in a power failure is created again.
    fn index(&mut self) -> rusqlite::Result<bool> {
        if self.indexed == self.last.message {
            return Ok(false);
        }
        self.set_synchronous(Durability::Relaxed)?;
        Ok(self.index_some()? == INDEX_AT_ONCE)
    }

    /// Sets the durability of the next commit. It is always set before messages are written.
    fn set_synchronous(&mut self, durability: Durability) -> rusqlite::Result<()> {
        if self.synchronous != durability {
            self.connection.pragma_update(None, "synchronous", durability.pragma())?;
            self.synchronous = durability;
        }
        Ok(())
    }

    fn index_some(&mut self) -> rusqlite::Result<u32> {
        self.begin(Duration::ZERO)?;
        let indexed = self.insert_words();
        let (count, last) = self.end_transaction(indexed)?;
        // Up to the last id, even if that became no message.
        self.indexed = if count < INDEX_AT_ONCE { self.last.message } else { last };
        Ok(count)
    }

    /// Indexes some messages; returns their number and the last id.
    fn insert_words(&self) -> rusqlite::Result<(u32, u64)> {
        let (mut count, mut last) = (0, self.indexed);
        let sql = format!("SELECT {COLUMNS} FROM messages WHERE id > ?1 ORDER BY id LIMIT ?2");
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
        self.connection
            .prepare_cached("UPDATE last SET number = ?1 WHERE what = 'indexed'")?
            .execute([last.cast_signed()])?;
        Ok((count, last))
    }
}

/// Allocates disk space for a range of a file, also beyond its end, without changing its size.
/// Returns whether the file system supports that.
#[cfg(target_os = "linux")]
fn allocate(file: &File, start: u64, size: u64) -> io::Result<bool> {
    use nix::errno::Errno;
    use nix::fcntl::{FallocateFlags, fallocate};
    let offset = |number| i64::try_from(number).map_err(io::Error::other);
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset(start)?, offset(size)?) {
        Ok(()) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

/// Returns whether another process holds a lock. Further error codes of SQLite for locks cannot
/// occur between connections of one process.
fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed)
    )
}

fn insert(
    connection: &Connection,
    batch: &Batch,
    stored: LastIds,
    ceiling: Option<LastIds>,
) -> rusqlite::Result<Vec<Duplicate>> {
    let mut repeats = Vec::new();
    for record in &batch.records {
        if !insert_record(connection, record)? {
            let first = first_with_cid(connection, record)?;
            repeats.extend(first.map(|first| Duplicate { id: record.id, first: Arc::new(first) }));
        }
    }
    for Change { collection, key, value } in &batch.changes {
        let key = key.cast_signed();
        match value {
            Some(value) => connection
                .prepare_cached("INSERT OR REPLACE INTO kept VALUES (?1, ?2, ?3)")?
                .execute(params![collection.as_str(), key, value])?,
            None => connection
                .prepare_cached("DELETE FROM kept WHERE shelf = ?1 AND key = ?2")?
                .execute(params![collection.as_str(), key])?,
        };
    }
    // The last message id is known from the messages themselves, which saves one page per commit.
    if batch.last.person != stored.person || !batch.changes.is_empty() {
        write_last(connection, batch.last)?;
    }
    if let Some(ceiling) = ceiling {
        write_ceiling(connection, ceiling)?;
    }
    Ok(repeats)
}

/// Inserts a message; returns `false` if its author has used the cid before (deduplication).
fn insert_record(connection: &Connection, record: &Record) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (author, cid) WHERE cid IS NOT NULL DO NOTHING",
    )?;
    let (room, reader) = match &record.to {
        Recipient::Room(room) => (Some(room), None),
        Recipient::Person(reader, name) => (None, Some((reader, name))),
    };
    let count = statement.execute(params![
        record.id.cast_signed(),
        record.time.0,
        record.author.0.cast_signed(),
        record.from.as_str(),
        room.map(RoomName::as_str),
        room.map(|room| room.key().as_str()),
        reader.map(|_| record.from.key().as_str()),
        reader.map(|(reader, _)| reader.0.cast_signed()),
        reader.map(|(_, name)| name.as_str()),
        reader.map(|(_, name)| name.key().as_str()),
        record.is_action,
        &*record.text,
        record.cid.as_ref().map(Cid::as_str),
    ])?;
    Ok(count == 1)
}

fn first_with_cid(connection: &Connection, again: &Record) -> rusqlite::Result<Option<Record>> {
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE author = ?1 AND cid = ?2");
    let cid = again.cid.as_ref().map(Cid::as_str);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![again.author.0.cast_signed(), cid])?;
    rows.next()?.map_or(Ok(None), record)
}

#[cfg(test)]
mod tests {
    use super::super::SqliteLog;
    use super::*;
    use crate::protocol::{Name, Stamp};
    use crate::server::record::UserId;
    use crate::server::store::{Collection, Log as _};

    const DAY: i64 = 24 * 60 * 60 * 1000;

    /// A log that keeps messages for a day, with messages of these ages in days; a negative age is
    /// in the future.
    fn log(folder: &tempfile::TempDir, ages: &[i64]) -> SqliteLog {
        let retention = Retention { age: Some(Duration::from_hours(24)), messages: None };
        let options = Options { durability: Durability::Commit, retention };
        let (mut log, snapshot) = SqliteLog::open(folder.path(), options).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_millis()).unwrap();
        let records = (snapshot.last.message + 1..).zip(ages).map(|(id, age)| {
            Arc::new(Record {
                id,
                time: Stamp(now - age * DAY),
                author: UserId(1),
                from: Name::parse("alice").unwrap(),
                to: Recipient::Room(RoomName::parse("ops").unwrap()),
                is_action: false,
                text: "x".into(),
                cid: None,
            })
        });
        let records: Vec<_> = records.collect();
        let message = records.last().map_or(snapshot.last.message, |record| record.id);
        let last = LastIds { message, person: 1 };
        log.append(&Batch { records, changes: Vec::new(), last }).unwrap();
        log
    }

    /// Deletes all old messages; returns the ids of the remaining ones.
    fn left(log: &SqliteLog) -> Vec<u64> {
        let mut writer = lock(&log.writer);
        // More rounds than two sweeps have slices.
        for _ in 0..100 {
            writer.apply_retention().unwrap();
        }
        let mut ids = writer.connection.prepare("SELECT id FROM messages ORDER BY id").unwrap();
        let ids = ids.query_map([], |row| row.get::<_, i64>(0)).unwrap();
        ids.map(|id| id.unwrap().cast_unsigned()).collect()
    }

    #[test]
    fn message_is_deleted_by_its_own_time_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        // A clock that was two days ahead, then corrected, and once far behind.
        let mut ages = vec![-2; 2500];
        ages.extend(vec![3; 2500]);
        ages.extend([0, 9, 0]);
        let log = log(&folder, &ages);
        let expected: Vec<u64> = (1..=2500).chain([5001, 5003]).collect();
        assert_eq!(left(&log), expected);
        let writer = lock(&log.writer);
        assert!(writer.sweep.is_needed, "messages with future times remain");
    }

    #[test]
    fn old_messages_behind_newer_ones_are_deleted_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut ages = vec![0; 150];
        ages.extend([2; 10]);
        ages.extend([0; 10]);
        drop(log(&folder, &ages));
        let log = log(&folder, &[0]);
        let expected: Vec<u64> = (1..=150).chain(161..=171).collect();
        assert_eq!(left(&log), expected);
    }

    #[test]
    fn mail_behind_the_position_is_kept() {
        for retention in [
            Retention { age: None, messages: Some(2) },
            Retention { age: Some(Duration::ZERO), messages: None },
        ] {
            let folder = tempfile::tempdir().unwrap();
            let options = Options { durability: Durability::Commit, retention };
            let (mut log, _) = SqliteLog::open(folder.path(), options).unwrap();
            let name = |name| Name::parse(name).unwrap();
            let record = |id| {
                Arc::new(Record {
                    id,
                    time: Stamp(0),
                    // Each third message is by an ignored user.
                    author: UserId(id % 3),
                    from: name("bob"),
                    to: Recipient::Person(UserId(7), name("alice")),
                    is_action: false,
                    text: "x".into(),
                    cid: None,
                })
            };
            let value = Some(r#"{"after":4,"hidden":[0]}"#.to_owned());
            let changes = vec![Change { collection: Collection::Mailbox, key: 7, value }];
            let last = LastIds { message: 12, person: 7 };
            let records = (1..=12).map(record).collect();
            log.append(&Batch { records, changes, last }).unwrap();
            // The two latest of those that do not wait.
            let kept = retention.messages.map_or(vec![], |_| vec![9, 12]);
            let mut expected = [vec![5, 7, 8, 10, 11], kept].concat();
            expected.sort_unstable();
            assert_eq!(left(&log), expected);
        }
    }

    #[test]
    fn sweep_ends_when_times_grow_with_ids() {
        let folder = tempfile::tempdir().unwrap();
        let mut ages = vec![5; 2000];
        ages.extend(vec![0; 2000]);
        let mut log = log(&folder, &ages);
        assert_eq!(left(&log).len(), 2000);
        assert!(!lock(&log.writer).sweep.is_needed);
        let record = lock(&log.writer).connection.query_row(
            &format!("SELECT {COLUMNS} FROM messages ORDER BY id DESC LIMIT 1"),
            [],
            record,
        );
        let mut record = record.unwrap().unwrap();
        (record.id, record.time) = (4001, Stamp(record.time.0 - 9 * DAY));
        let last = LastIds { message: 4001, person: 1 };
        let batch = Batch { records: vec![Arc::new(record)], changes: Vec::new(), last };
        log.append(&batch).unwrap();
        assert_eq!(left(&log).len(), 2000, "a time that goes back restarts the sweep");
    }
}
