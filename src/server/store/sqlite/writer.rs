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
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, ffi, params};

use super::folder::{Folder, Note, Opened, with_suffix};
use super::places::{self, RoomNumbers};
use super::schema::{PAGE_SIZE, RECORDS, read_number, record, write_ceiling, write_last};
use super::{Durability, Options};
use crate::files::open_own;
use crate::protocol::Cid;
use crate::server::record::{Recipient, Record};
use crate::server::store::{AppendError, Batch, Change, Duplicate, LastIds};

mod erasure;
mod indexing;
mod retention;

use erasure::Erasure;
use indexing::{INDEX_IDLE, INDEX_INTERVAL, INDEX_SHARE};
use retention::{DELETE_SHARE, RETENTION_INTERVAL, Sweep};

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
    /// `delete_aged`.
    last_time: i64,
    sweep: Sweep,
    /// When deleted messages are erased from the files.
    erasure: Erasure,
    /// Whether commits may not be on disk yet.
    is_unsynced: bool,
    /// The last indexed message, and whether many are not indexed yet.
    indexed: u64,
    is_behind: bool,
    /// The last message that is in the index of places.
    placed: u64,
    rooms: RoomNumbers,
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
const WAL_FRAME: u64 = 24 + PAGE_SIZE as u64;
const WAL_HEAD: u64 = 32;

/// Interval of syncs, unless every commit syncs.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Number of pages in the write-ahead log that triggers a checkpoint.
const WAL_PAGES_MAX: i32 = (4 << 20) / PAGE_SIZE.cast_signed();

/// Distance of the ceiling above the ids given out.
const CEILING_STEP: u64 = 4096;

/// If this much space is available, in bytes, a failed write was not caused by a full disk.
const PROBE_SIZE: usize = 4 << 20;

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

impl Writer {
    pub(super) fn new(
        mut connection: Connection,
        options: Options,
        folder: Folder,
        opened: u64,
        last: LastIds,
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
        let indexed = read_number(&connection, "indexed")?;
        let placed = read_number(&connection, "placed")?;
        let is_counted = options.retention.messages.is_some();
        let count = is_counted.then(|| places::count_messages(&connection)).transpose()?;
        let mut erasure = Erasure::default();
        if options.retention.is_limited() {
            erasure.schedule(); // a crash may have prevented one
        }
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
            erasure,
            is_unsynced: false,
            indexed,
            is_behind: false,
            placed,
            rooms: RoomNumbers::default(),
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
        if self.erasure.due().is_some_and(|due| due <= Instant::now()) {
            self.run_slice(Self::erase);
        }
        let due = self.next_sync.min(self.next_retention).min(self.next_index);
        let due = self.erasure.due().map_or(due, |erasure| erasure.min(due));
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
            self.rooms.clear();
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
            let inserted = self.insert(batch, ceiling);
            self.end_transaction(inserted)
        });
        self.last_write = Instant::now();
        let (repeats, placed) = result.map_err(|error| self.classify_failure(&error))?;
        self.last = batch.last;
        self.placed = placed;
        self.ceiling = ceiling.unwrap_or(self.ceiling);
        let stored = batch.records.len() - repeats.len();
        self.count = self.count.map(|count| count + stored as u64);
        self.note_times(batch);
        self.is_unsynced = self.options.durability == Durability::Relaxed;
        self.checkpoint().map_err(|error| self.mark_failed(Failure::Io(error.to_string())))?;
        self.check_files();
        self.failure.as_ref().map_or(Ok(repeats), |failure| Err(failure.error()))
    }

    /// Writes a batch; returns repeats, and the last placed message.
    fn insert(
        &mut self,
        batch: &Batch,
        ceiling: Option<LastIds>,
    ) -> rusqlite::Result<(Vec<Duplicate>, u64)> {
        let connection = &self.connection;
        let mut repeats = Vec::new();
        for record in &batch.records {
            let room = match &record.to {
                Recipient::Room(room) => Some(self.rooms.get(connection, room)?),
                Recipient::Person(..) => None,
            };
            if !insert_record(connection, record, room)? {
                let first = first_with_cid(connection, record)?.map(Arc::new);
                repeats.extend(first.map(|first| Duplicate { id: record.id, first }));
            }
        }
        for change in &batch.changes {
            apply_change(connection, change)?;
        }
        // The last message id is known from the messages themselves, which saves one page per
        // commit.
        if batch.last.person != self.last.person || !batch.changes.is_empty() {
            write_last(connection, batch.last)?;
        }
        if let Some(ceiling) = ceiling {
            write_ceiling(connection, ceiling)?;
        }
        let is_full = batch.last.message - self.placed >= places::BATCH;
        let placed = if is_full { places::place_all(connection)? } else { self.placed };
        Ok((repeats, placed))
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

    /// Sets the durability of the next commit. It is always set before messages are written.
    fn set_synchronous(&mut self, durability: Durability) -> rusqlite::Result<()> {
        if self.synchronous != durability {
            self.connection.pragma_update(None, "synchronous", durability.pragma())?;
            self.synchronous = durability;
        }
        Ok(())
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

fn apply_change(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    let Change { collection, key, value } = change;
    let (collection, key) = (collection.as_str(), key.cast_signed());
    match value {
        Some(value) => connection
            .prepare_cached("INSERT OR REPLACE INTO kept VALUES (?1, ?2, ?3)")?
            .execute(params![collection, key, value])?,
        None => connection
            .prepare_cached("DELETE FROM kept WHERE shelf = ?1 AND key = ?2")?
            .execute(params![collection, key])?,
    };
    Ok(())
}

/// Inserts a message, with its room's number; returns `false` if its author has used the cid
/// before (deduplication).
fn insert_record(
    connection: &Connection,
    record: &Record,
    room: Option<i64>,
) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT (author, cid) WHERE cid IS NOT NULL DO NOTHING",
    )?;
    let reader = match &record.to {
        Recipient::Room(_) => None,
        Recipient::Person(reader, name) => Some((reader, name)),
    };
    let count = statement.execute(params![
        record.id.cast_signed(),
        record.time.0,
        record.author.0.cast_signed(),
        record.from.as_str(),
        room,
        reader.map(|(reader, _)| reader.0.cast_signed()),
        reader.map(|(_, name)| name.as_str()),
        record.is_action,
        &*record.text,
        record.cid.as_ref().map(Cid::as_str),
    ])?;
    Ok(count == 1)
}

fn first_with_cid(connection: &Connection, again: &Record) -> rusqlite::Result<Option<Record>> {
    let sql = format!("{RECORDS} WHERE m.author = ?1 AND m.cid = ?2");
    let cid = again.cid.as_ref().map(Cid::as_str);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![again.author.0.cast_signed(), cid])?;
    rows.next()?.map_or(Ok(None), record)
}
