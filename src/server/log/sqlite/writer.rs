//! What writes to the file, in one transaction each: batches, on the thread that
//! asks, since that could do nothing meanwhile but wait; and what keeps house
//! beside that, in slices so short that a batch hardly waits for one, on a thread
//! of its own.

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

use super::folder::{Folder, Mark, Opened, with_end};
use super::{COLUMNS, Durability, Options, Retention, record, search, write_ceiling, write_last};
use crate::files::open_own;
use crate::protocol::{Cid, RoomName};
use crate::server::log::{AppendError, Batch, Change, Duplicate, LastIds, Recipient, Record};

/// Writes to the file.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Connection,
    options: Options,
    folder: Folder,
    path: PathBuf,
    /// The write-ahead log, open from the start: a sync that fails is told to whoever
    /// had it open by then.
    wal: File,
    /// The files that are written to, to see whether they are still there.
    files: Opened,
    /// Why nothing more may be written, if it may not; see rule 3 of `sqlite.rs`.
    failure: Option<Failure>,
    /// Who is told when that happens while nothing is appended.
    report: Report,
    lock: Lock,
    /// How often the log was opened.
    opened: u64,
    /// What the folder's lock file says is stored.
    mark: Mark,
    /// How many pages the write-ahead log had after the last commit.
    wal_pages: Arc<AtomicI32>,
    last: LastIds,
    /// Above these no number is told before the disk has higher ones; nothing where
    /// the disk has each batch.
    ceiling: LastIds,
    /// How many messages are kept, where there is a bound to that.
    count: Option<u64>,
    /// The time of the last message, and how far the ages of all messages were looked at;
    /// see [`Writer::forget_aged`].
    last_time: i64,
    sweep: Sweep,
    /// Whether something is committed that the disk may not have yet.
    is_unsynced: bool,
    /// The last message that can be found by its words, and whether there are
    /// many behind it.
    indexed: u64,
    is_behind: bool,
    /// What `synchronous` is.
    synchronous: Durability,
    last_write: Instant,
    next_sync: Instant,
    next_forget: Instant,
    next_index: Instant,
}

/// What is known of the lock that writing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Free,
    /// It is ours, in an open transaction, until the next batch; see [`Writer::reserve`].
    Reserved,
    /// Another process held it the last time: it is not waited for again.
    Refused,
}

/// Why nothing more may be written.
#[derive(Debug, Clone)]
enum Failure {
    /// A write or a sync failed.
    Io(String),
    /// The files are not there any more.
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

/// Who is told of a failure, once.
#[derive(Default)]
struct Report(Option<Box<dyn Fn(AppendError) + Send>>);

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Report")
    }
}

/// How long a batch waits for the lock of another process: whoever does something short
/// is waited for, and nobody else's lines are held up for long. While a lock is held on,
/// no batch waits.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// How long the end waits for others who read or lock the log.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// So much disk space, in bytes, is allocated for the changes of a batch before they are
/// made: far more than they take.
const RESERVE: usize = 512 << 10;

/// What a page takes in the write-ahead log, and what stands before the first, in bytes.
const WAL_FRAME: u64 = 24 + 4096;
const WAL_HEAD: u64 = 32;

/// How often the disk gets what is committed, where that is not at once.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// With so many pages the write-ahead log is moved into the file.
const WAL_PAGES_MAX: i32 = 1000;

/// How far ahead of the numbers given away their ceiling is.
const AHEAD: u64 = 4096;

/// With so much room left, in bytes, it was not for want of it that a write failed.
const ROOM: usize = 4 << 20;

/// How often is looked for what is to be forgotten, and how much of it goes in
/// one transaction: writing waits no longer than for that.
const RETENTION_INTERVAL: Duration = Duration::from_secs(1);
const FORGET_AT_ONCE: u32 = 100;

/// Of the time that is needed to forget all that is to be forgotten, this part at most
/// nobody can write in: who waits to write is not always the next to.
const FORGET_SHARE: u32 = 2;

/// How many messages are looked at for their age at once: the oldest, and in a sweep.
const AGED_AT_ONCE: u32 = FORGET_AT_ONCE;
const SWEPT_AT_ONCE: u32 = 1000;

/// What goes next. What waits for somebody is kept until it was told.
const FORGOTTEN: &str = "SELECT id FROM messages
    WHERE id NOT IN (SELECT key FROM kept WHERE shelf = 'mail') ORDER BY id LIMIT ?1";

/// How often messages are made known to `/search`, and how many in one
/// transaction. What is not known yet is looked at one by one, so that a search
/// finds it all the same.
const INDEX_INTERVAL: Duration = Duration::from_secs(1);
const INDEX_AT_ONCE: u32 = 250;
/// Where many are not known yet: when nobody wrote for so long, more are made
/// known; while somebody does, indexing takes one part in so many of the time: it
/// must not slow down who writes.
const INDEX_IDLE: Duration = Duration::from_millis(2);
const INDEX_SHARE: u32 = 50;

/// Whoever held it when a thread of ours panicked: a transaction is whole or undone.
pub(super) fn lock(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps house until the log is closed.
pub(super) fn run_maintenance_loop(writer: &Mutex<Writer>, closed: &Receiver<()>) {
    let mut pause = Duration::ZERO;
    while let Err(RecvTimeoutError::Timeout) = closed.recv_timeout(pause) {
        pause = lock(writer).run_maintenance();
    }
}

/// The messages that were looked at for their age.
#[derive(Debug, Default)]
struct Slice {
    /// The last one's id and time.
    upto: i64,
    time: i64,
    looked_at: u32,
    /// Whether there are none behind it.
    is_last: bool,
    /// Whether a time is before that of the message before it.
    goes_back: bool,
    /// The ids of those that are too old.
    aged: Vec<i64>,
}

/// Looks at the age of every message, a slice at a time; see [`Writer::forget_aged`].
#[derive(Debug)]
struct Sweep {
    is_needed: bool,
    /// How far it has come: the last message's id and time.
    upto: i64,
    time: i64,
    /// Whether it has met times that go back.
    goes_back: bool,
}

impl Sweep {
    fn new() -> Self {
        Self { is_needed: true, upto: 0, time: 0, goes_back: false }
    }

    /// A message is stored.
    fn note_order(&mut self, goes_back: bool) {
        self.is_needed |= goes_back;
        self.goes_back |= goes_back;
    }

    /// What the next slice is behind.
    fn slice(&self) -> Slice {
        Slice { upto: self.upto, time: self.time, ..Slice::default() }
    }

    /// A slice was looked at. Behind the last one a sweep begins again, unless all times
    /// grow with ids: then a look at the lowest ids is enough.
    fn note(&mut self, slice: &Slice) {
        self.goes_back |= slice.goes_back;
        (self.upto, self.time) = (slice.upto, slice.time);
        if slice.is_last {
            *self = Self { is_needed: self.goes_back, ..Self::new() };
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
        let wal = with_end(&path, "-wal");
        let files =
            Opened::of([path.clone(), wal.clone()]).context("cannot find the log's files")?;
        let wal = open_own(&wal, OpenOptions::new().append(true))
            .with_context(|| format!("cannot use {}", wal.display()))?;
        let wal_pages = Arc::new(AtomicI32::new(0));
        let noted = wal_pages.clone();
        // In place of SQLite's own hook, which moves the pages and does not tell when
        // that fails.
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
            mark: Mark::default(),
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
            next_forget: now,
            next_index: now,
        })
    }

    /// Does what is due, and tells how long nothing else is.
    fn run_maintenance(&mut self) -> Duration {
        if self.lock == Lock::Reserved {
            return INDEX_IDLE; // the batch comes at once
        }
        let pause = self.do_what_is_due();
        if let Some(failure) = &self.failure
            && let Some(report) = self.report.0.take()
        {
            report(failure.error());
        }
        pause
    }

    fn do_what_is_due(&mut self) -> Duration {
        let now = Instant::now();
        if now >= self.next_sync {
            self.check_files();
            self.sync();
            self.note_mark(false);
            self.next_sync = now + SYNC_INTERVAL;
        }
        if now >= self.next_forget {
            let more = self.run_slice(Self::apply_retention);
            let pause = if more { now.elapsed() * (FORGET_SHARE - 1) } else { RETENTION_INTERVAL };
            self.next_forget = Instant::now() + pause;
        }
        let now = Instant::now();
        if now >= self.next_index || (self.is_behind && now >= self.last_write + INDEX_IDLE) {
            self.is_behind = self.run_slice(Self::index);
            let pause =
                if self.is_behind { now.elapsed() * (INDEX_SHARE - 1) } else { INDEX_INTERVAL };
            self.next_index = Instant::now() + pause;
        }
        let due = self.next_sync.min(self.next_forget).min(self.next_index);
        let pause = due.saturating_duration_since(Instant::now());
        if self.is_behind { pause.min(INDEX_IDLE) } else { pause }
    }

    /// Does a slice of something; tells whether there is more. What cannot be done now is
    /// tried again later, and nothing is any more where that would be in vain.
    fn run_slice(&mut self, act: fn(&mut Self) -> rusqlite::Result<bool>) -> bool {
        if self.failure.is_some() {
            return false; // the next batch ends it all
        }
        let more = act(self).and_then(|more| self.checkpoint().map(|()| more));
        more.unwrap_or_else(|error| {
            // A batch may find that a lock is gone which was there just now.
            if !is_busy(&error) {
                self.classify_failure(&error);
            }
            false
        })
    }

    /// Either nothing has changed and it may be tried again, or this is the end.
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

    /// Nothing more is written.
    fn mark_failed(&mut self, failure: Failure) -> AppendError {
        self.failure.insert(failure).error()
    }

    /// What is written to files that nobody can open any more is as good as lost.
    fn check_files(&mut self) {
        if self.failure.is_none() {
            self.failure = self.files.gone().map(Failure::Gone);
        }
    }

    /// Notes beside the log what is on the disk.
    pub(super) fn note_mark(&mut self, is_closed: bool) {
        let mark = Mark { opened: self.opened, message: self.last.message, is_closed };
        if self.failure.is_none() && !self.is_unsynced && self.mark != mark {
            self.mark = mark;
            // Without it less is known; nothing is lost.
            let _ = self.folder.note(mark);
        }
    }

    pub(super) fn report_failure_to(&mut self, report: Box<dyn Fn(AppendError) + Send>) {
        self.report = Report(Some(report));
    }

    /// Begins a transaction that can write: no lock is waited for after this.
    fn begin(&mut self, patience: Duration) -> rusqlite::Result<()> {
        let patience = if self.lock == Lock::Refused { Duration::ZERO } else { patience };
        self.connection.busy_timeout(patience)?;
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.lock = Lock::Free;
        Ok(())
    }

    /// Commits what was written in a transaction, or undoes it.
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

    /// Undoes an open transaction. After some errors SQLite has done so itself.
    fn roll_back(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// Takes the lock and the disk space that the next batch's changes need.
    ///
    /// The space is allocated behind the end of the write-ahead log, which the changes
    /// are written to. Where the file system cannot do that it is only tried out.
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
        let begun = self.set_synchronous(self.options.durability);
        begun
            .and_then(|()| self.begin(LOCK_PATIENCE))
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
        self.try_space(RESERVE)
    }

    /// Makes a batch part of the log; it is as safe as was asked for when this is
    /// done.
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
        let begun = if is_reserved && self.synchronous == safe {
            Ok(())
        } else {
            self.roll_back(); // how safe a commit is is not changed within a transaction
            self.set_synchronous(safe).and_then(|()| self.begin(LOCK_PATIENCE))
        };
        let result = begun.and_then(|()| {
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

    /// Moves a long write-ahead log into the file. Where there is no room, or somebody
    /// reads what it holds, that waits until the next commit.
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

    /// A higher one, where numbers are given away up to which the present one does not
    /// reach and their batch is not on the disk when they are told.
    fn next_ceiling(&self, last: LastIds) -> Option<LastIds> {
        let LastIds { message, person } = last;
        let is_above = message > self.ceiling.message || person > self.ceiling.person;
        let is_needed = self.options.durability == Durability::Relaxed && is_above;
        is_needed.then_some(LastIds { message: message + AHEAD, person: person + AHEAD })
    }

    /// The end, in good order if it can be: then all is in the one file.
    pub(super) fn close(&mut self) -> Result<(), String> {
        self.roll_back();
        self.lock = Lock::Free;
        self.check_files();
        self.sync();
        if self.failure.is_some() {
            // What was not synced is not to be moved, nor the write-ahead log removed.
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            return Ok(());
        }
        if self.ceiling != LastIds::default() {
            // Otherwise it is as after a crash: numbers are left out.
            let _ = self.lower_ceiling();
        }
        let moved = self.move_whole_wal();
        self.note_mark(moved.is_ok());
        moved.map_err(|why| {
            let (file, wal) = (self.path.display(), with_end(&self.path, "-wal"));
            format!(
                "the latest messages are still in {}, beside {file}; keep both together: {why}",
                wal.display()
            )
        })
    }

    fn lower_ceiling(&mut self) -> rusqlite::Result<()> {
        self.set_synchronous(Durability::Commit)?;
        self.begin(CLOSE_PATIENCE)?;
        let written = write_last(&self.connection, self.last)
            .and_then(|()| write_ceiling(&self.connection, LastIds::default()));
        self.end_transaction(written)
    }

    /// Moves the write-ahead log into the file and empties it.
    fn move_whole_wal(&mut self) -> Result<(), String> {
        let moved = self.set_synchronous(Durability::Commit).and_then(|()| {
            self.connection.busy_timeout(CLOSE_PATIENCE)?;
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            self.connection.query_row(sql, [], |row| row.get::<_, bool>(0))
        });
        match moved {
            Ok(false) => Ok(()),
            Ok(true) => Err("another process uses the log".to_owned()),
            Err(error) if is_busy(&error) => Err("another process has locked the log".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Brings what is committed to the disk, where the commit did not.
    fn sync(&mut self) {
        if std::mem::take(&mut self.is_unsynced)
            && self.failure.is_none()
            && let Err(error) = self.wal.sync_data()
        {
            self.failure = Some(Failure::Io(error.to_string()));
        }
    }

    /// From now on no sync succeeds.
    #[cfg(test)]
    pub(super) fn break_sync(&mut self) {
        self.wal = File::open("/dev/null").expect("a device");
    }

    /// Whether there was no room; nothing of the transaction is left then.
    fn is_full(&self, error: &rusqlite::Error) -> bool {
        // Where it is somebody's share of the disk that is full, SQLite does not tell that
        // from a disk that is breaking.
        let code = error.sqlite_error().map(|error| error.extended_code);
        let may_be = matches!(code, Some(ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE));
        error.sqlite_error_code() == Some(ErrorCode::DiskFull) || (may_be && !self.has_room())
    }

    /// Whether there is some on the disk, by writing.
    fn has_room(&self) -> bool {
        let is_full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        !self.try_space(ROOM).is_err_and(|error| is_full(&error))
    }

    /// Tries whether there is so much space on the disk, by writing to a file of its own.
    fn try_space(&self, size: usize) -> io::Result<()> {
        let path = self.path.with_extension("room");
        let mut file = open_own(&path, OpenOptions::new().append(true).create(true))?;
        let written = file.write_all(&vec![0; size]);
        let _ = fs::remove_file(path);
        written
    }

    /// Forgets some of what is too old or too much; tells whether there is more.
    fn apply_retention(&mut self) -> rusqlite::Result<bool> {
        let Retention { age, messages } = self.options.retention;
        let mut left = FORGET_AT_ONCE;
        if let Some(age) = age {
            left -= self.forget_aged(age, left as usize)?;
        }
        if let Some(keep) = messages {
            let most = self.excess(keep)?.min(left);
            left -= self.delete_oldest(most)?;
        }
        Ok(left == 0)
    }

    /// Notes whether the messages of a batch are from an earlier time than those before.
    fn note_times(&mut self, batch: &Batch) {
        for record in &batch.records {
            self.sweep.note_order(record.time.0 < self.last_time);
            self.last_time = record.time.0;
        }
    }

    /// Forgets messages whose own time is too long ago, so many at most; tells how many.
    ///
    /// Times grow with ids unless the clock was set back, so a look at the lowest ids
    /// finds them; it costs the same however many messages there are. A message from a
    /// clock that was ahead may have older ones behind it. Those a sweep finds, which
    /// goes through all messages, a slice a second: once after a start and, while there are
    /// messages whose times go back, again and again.
    fn forget_aged(&mut self, age: Duration, most: usize) -> rusqlite::Result<u32> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX);
        let mut aged = self.aged(Slice::default(), before, AGED_AT_ONCE, most)?.aged;
        if self.sweep.is_needed && aged.len() < most {
            let from = self.sweep.slice();
            let slice = self.aged(from, before, SWEPT_AT_ONCE, most - aged.len())?;
            self.sweep.note(&slice);
            aged.extend(slice.aged);
            aged.sort_unstable();
            aged.dedup();
        }
        if aged.is_empty() {
            return Ok(0); // the common case, which is to cost nothing
        }
        let ids = serde_json::json!(aged).to_string();
        self.delete("SELECT value FROM json_each(?1)", &ids)
    }

    /// Looks at the messages behind a slice, so many; finds those from before a time, so
    /// many at most. Messages that wait in mailboxes stay until they are delivered.
    fn aged(
        &self,
        behind: Slice,
        before: i64,
        look_at: u32,
        most: usize,
    ) -> rusqlite::Result<Slice> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, time FROM messages WHERE id > ?1 AND NOT EXISTS
                 (SELECT 1 FROM kept WHERE shelf = 'mail' AND key = messages.id)
             ORDER BY id LIMIT ?2",
        )?;
        let mut rows = statement.query(params![behind.upto, look_at])?;
        let mut slice = behind;
        while slice.aged.len() < most {
            let Some(row) = rows.next()? else {
                slice.is_last = slice.looked_at < look_at;
                break;
            };
            let (id, time): (i64, i64) = (row.get(0)?, row.get(1)?);
            slice.goes_back |= time < slice.time;
            (slice.upto, slice.time) = (id, time);
            slice.looked_at += 1;
            if time < before {
                slice.aged.push(id);
            }
        }
        Ok(slice)
    }

    /// Forgets the oldest messages, so many; tells how many.
    fn delete_oldest(&mut self, most: u32) -> rusqlite::Result<u32> {
        if most == 0 {
            return Ok(0); // the common case, which is to cost nothing
        }
        self.delete(FORGOTTEN, most)
    }

    /// Deletes the messages that a query with one parameter selects; tells how many.
    fn delete(&mut self, selected: &str, param: impl ToSql + Copy) -> rusqlite::Result<u32> {
        // As with the index, the next message's commit brings it to the disk.
        self.set_synchronous(Durability::Relaxed)?;
        self.begin(Duration::ZERO)?;
        let deleted = self.delete_selected(selected, param);
        let gone = self.end_transaction(deleted)?;
        self.count = self.count.map(|count| count - gone as u64);
        Ok(u32::try_from(gone).unwrap_or(u32::MAX))
    }

    fn delete_selected(&self, selected: &str, param: impl ToSql + Copy) -> rusqlite::Result<usize> {
        write_last(&self.connection, self.last)?; // the last message may be among them
        let sql = format!("DELETE FROM search WHERE rowid IN ({selected})");
        self.connection.prepare_cached(&sql)?.execute([param])?;
        let sql = format!("DELETE FROM messages WHERE id IN ({selected})");
        self.connection.prepare_cached(&sql)?.execute([param])
    }

    /// How many messages there are beyond so many. Not by their numbers: some became no
    /// message, as it was refused.
    fn excess(&self, keep: u64) -> rusqlite::Result<u32> {
        let beyond = self.count.unwrap_or_default().saturating_sub(keep);
        // Much mail is not to be counted where there is nothing to forget anyway.
        let excess = if beyond == 0 { 0 } else { beyond.saturating_sub(self.count_mail()?) };
        Ok(u32::try_from(excess).unwrap_or(u32::MAX))
    }

    /// How many messages wait in mailboxes: they are kept beside the others.
    fn count_mail(&self) -> rusqlite::Result<u64> {
        let sql = "SELECT count(*) FROM kept WHERE shelf = 'mail'";
        let count: i64 = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }

    /// Makes some messages known to `/search`; tells whether there are more.
    ///
    /// It need not be on the disk at once: the next message's commit brings it
    /// there, and what is lost with the power is done again.
    fn index(&mut self) -> rusqlite::Result<bool> {
        if self.indexed == self.last.message {
            return Ok(false);
        }
        self.set_synchronous(Durability::Relaxed)?;
        Ok(self.index_some()? == INDEX_AT_ONCE)
    }

    /// How safe the next commit is. Messages are never written before that is what was
    /// asked for.
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
        // Up to the last message, unless it is not stored after all.
        self.indexed = if count < INDEX_AT_ONCE { self.last.message } else { last };
        Ok(count)
    }

    /// Indexes some messages; tells how many, and the last of them.
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

/// Allocates disk space for a part of a file, also behind its end, which stays where it
/// is. Tells whether the file system can.
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

/// Whether another process holds a lock that is needed. Some of SQLite's ways to say so
/// are for what cannot happen between connections of one process.
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
    for Change { shelf, key, value } in &batch.changes {
        let key = key.cast_signed();
        match value {
            Some(value) => connection
                .prepare_cached("INSERT OR REPLACE INTO kept VALUES (?1, ?2, ?3)")?
                .execute(params![shelf.as_str(), key, value])?,
            None => connection
                .prepare_cached("DELETE FROM kept WHERE shelf = ?1 AND key = ?2")?
                .execute(params![shelf.as_str(), key])?,
        };
    }
    // The last message tells its number by being there: most commits write one
    // page less.
    if batch.last.person != stored.person || !batch.changes.is_empty() {
        write_last(connection, batch.last)?;
    }
    if let Some(ceiling) = ceiling {
        write_ceiling(connection, ceiling)?;
    }
    Ok(repeats)
}

/// Whether it was: not if its author has used its mark before.
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
    use crate::server::log::{Log as _, UserId};

    const DAY: i64 = 24 * 60 * 60 * 1000;

    /// A log that keeps messages for a day, with messages of these ages in days; a
    /// negative one is of a time to come.
    fn log(folder: &tempfile::TempDir, ages: &[i64]) -> SqliteLog {
        let retention = Retention { age: Some(Duration::from_hours(24)), messages: None };
        let options = Options { durability: Durability::Commit, retention };
        let (mut log, kept) = SqliteLog::open(folder.path(), options).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_millis()).unwrap();
        let records = (kept.last.message + 1..).zip(ages).map(|(id, age)| {
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
        let message = records.last().map_or(kept.last.message, |record| record.id);
        let last = LastIds { message, person: 1 };
        log.append(&Batch { records, changes: Vec::new(), last }).unwrap();
        log
    }

    /// Which messages are left when all that is too old is forgotten.
    fn left(log: &SqliteLog) -> Vec<u64> {
        let mut writer = lock(&log.writer);
        // More often than there are slices in two sweeps.
        for _ in 0..100 {
            writer.apply_retention().unwrap();
        }
        let mut ids = writer.connection.prepare("SELECT id FROM messages ORDER BY id").unwrap();
        let ids = ids.query_map([], |row| row.get::<_, i64>(0)).unwrap();
        ids.map(|id| id.unwrap().cast_unsigned()).collect()
    }

    #[test]
    fn message_is_forgotten_by_its_own_time_whatever_the_order() {
        let folder = tempfile::tempdir().unwrap();
        // A clock two days ahead for a while, then mended, and once far behind.
        let mut ages = vec![-2; 2500];
        ages.extend(vec![3; 2500]);
        ages.extend([0, 9, 0]);
        let log = log(&folder, &ages);
        let expected: Vec<u64> = (1..=2500).chain([5001, 5003]).collect();
        assert_eq!(left(&log), expected);
        let writer = lock(&log.writer);
        assert!(writer.sweep.is_needed, "messages of a time to come are left");
    }

    #[test]
    fn old_messages_behind_newer_ones_are_forgotten_after_a_restart() {
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
        assert_eq!(left(&log).len(), 2000, "what goes back begins it again");
    }
}
