//! The durable log: one SQLite database in a folder of its own.
//!
//! 1. One connection writes, each batch in one transaction. With [`Durability::Commit`] a batch
//!    is on disk when its append returns.
//! 2. Other threads read from the last commit (WAL mode), and never block the writer.
//! 3. A write that fails for lack of space is rolled back and can be retried. If the database is
//!    locked by another process, the writer waits briefly, then refuses the batch; it can be
//!    retried, too. Any other failed write or sync is permanent, also in maintenance: what is on
//!    disk is unknown then, and a repeated fsync could report success for lost data.
//! 4. The folder is locked, so one process uses it at a time. The database files must remain
//!    those that were opened: nothing is acknowledged that was written to a file that has been
//!    removed or replaced.
//! 5. Ids come from the hub; the database stores the last ones, so that no id is used twice.
//!    If a power failure may lose the last messages ([`Durability::Relaxed`]), it stores a
//!    ceiling, and no id above it is given out before a higher ceiling is on disk. After a crash
//!    ids continue above the ceiling.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, ffi};

use super::{
    AppendError, Batch, Collection, Duplicate, LastIds, Log, Read, Reply, Snapshot, Thread,
};
use crate::server::record::{Record, UserId};

mod folder;
mod places;
mod readers;
mod schema;
mod search;
mod times;
mod upgrade;
mod writer;

use folder::Folder;
use readers::{ReadWarning, Readers};
use schema::{
    PAGE_SIZE, RECORDS, VERSION, read_ceiling, read_last, read_number, record, write_ceiling,
    write_last,
};
use writer::{Writer, lock};

/// When a message is considered stored, and is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// When it is on disk; survives a crash and a power failure
    Commit,
    /// When the operating system has it, on disk within a second; survives a crash, but a power
    /// failure loses the last second
    Relaxed,
}

impl Durability {
    fn pragma(self) -> &'static str {
        match self {
            Self::Commit => "FULL",
            Self::Relaxed => "NORMAL",
        }
    }
}

/// Which messages are deleted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retention {
    /// Messages older than this; `None`: no limit.
    pub age: Option<Duration>,
    /// The oldest messages beyond this number; `None`: no limit.
    pub messages: Option<u64>,
}

impl Retention {
    /// Returns whether any message may be deleted.
    fn is_limited(self) -> bool {
        self.age.is_some() || self.messages.is_some()
    }
}

/// The options of the log.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// When a message is considered stored.
    pub durability: Durability,
    /// Which messages are deleted.
    pub retention: Retention,
}

/// The file name of the database.
pub const FILE: &str = "chatty.db";

/// The suffix of the file from before an upgrade.
const BEFORE: &str = "-before-upgrade";

/// A log in a folder.
#[derive(Debug)]
pub struct SqliteLog {
    writer: Arc<Mutex<Writer>>,
    /// The maintenance thread; dropping the sender ends it.
    maintenance: Option<(JoinHandle<()>, Sender<()>)>,
    reads: Readers,
    /// Separate, so that a long search delays only other searches.
    searches: Readers,
    remark: Option<String>,
}

/// Number of threads that read: as many as the server loop uses at the same time.
const READERS: usize = 3;

/// Number of latest messages loaded at the start for deduplication: more than can be
/// unacknowledged at any time.
const LATEST: u32 = 4096;

/// How long the start waits for a lock held by another process.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

impl SqliteLog {
    /// Opens the log in a folder, which is created if it does not exist, for this process only.
    /// Returns it with the stored state.
    ///
    /// # Errors
    /// The folder cannot be used, another server uses it, the database was written by a newer
    /// version, or it has lost data.
    pub fn open(folder: &Path, options: Options) -> anyhow::Result<(Self, Snapshot)> {
        let folder = Folder::claim(folder)?;
        let path = folder.file();
        upgrade::finish(&folder)?;
        let had_wal = folder.has_wal();
        folder.check_before_open()?;
        let problem = || format!("cannot use {}", path.display());
        let mut connection = connect(&path).map_err(explain_lock).with_context(problem)?;
        let version = check_version(&connection).with_context(problem)?;
        let (opened, message) =
            read_contents(&connection, version).map_err(explain_lock).with_context(problem)?;
        let remark = folder.check_contents(opened, message, had_wal)?;
        if (1..VERSION).contains(&version) {
            upgrade::upgrade(&folder, connection, version).with_context(problem)?;
            connection = connect(&path).with_context(problem)?;
        }
        configure(&connection).map_err(explain_lock).with_context(problem)?;
        if version == 0 {
            schema::create(&mut connection).with_context(problem)?;
        }
        let opened = count_opening(&connection).map_err(explain_lock).with_context(problem)?;
        let snapshot = Snapshot {
            last: skip_to_ceiling(&mut connection)?,
            entries: read_entries(&connection)?,
            mail: read_mail(&connection)?,
            latest: read_latest(&connection)?,
        };
        let mut writer = Writer::new(connection, options, folder, opened, snapshot.last)?;
        writer.write_note(false);
        let writer = Arc::new(Mutex::new(writer));
        let warning = ReadWarning::default();
        let reads = Readers::start(&path, "log reader", READERS, &warning)?;
        let searches = Readers::start(&path, "log search", 1, &warning)?;
        let (open, closed) = mpsc::channel();
        let maintained = writer.clone();
        let maintenance = thread::Builder::new()
            .name("log maintenance".into())
            .spawn(move || writer::run_maintenance_loop(&maintained, &closed))?;
        let maintenance = Some((maintenance, open));
        Ok((Self { writer, maintenance, reads, searches, remark }, snapshot))
    }

    /// Returns a warning for the operator about what was found at the start, if any.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }
}

impl Log for SqliteLog {
    fn append(&mut self, batch: &Batch) -> Result<Vec<Duplicate>, AppendError> {
        lock(&self.writer).write(batch)
    }

    fn reserve(&mut self) -> Result<(), AppendError> {
        lock(&self.writer).reserve()
    }

    fn on_failure(&mut self, report: Box<dyn Fn(AppendError) + Send>) {
        lock(&self.writer).report_failure_to(report);
    }

    fn read(&self, read: Read, reply: Reply) {
        match read.request().thread {
            Thread::Search { .. } => self.searches.read(read, reply),
            _ => self.reads.read(read, reply),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        let Some((maintenance, open)) = self.maintenance.take() else {
            return Ok(()); // already closed
        };
        drop(open);
        let _ = maintenance.join();
        self.reads.end();
        self.searches.end();
        lock(&self.writer).close()
    }
}

impl Drop for SqliteLog {
    fn drop(&mut self) {
        let _ = self.close(); // errors are reported by an explicit `close`
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(OPEN_TIMEOUT)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE_SIZE)?; // of a new file
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Deleted rows are overwritten with zeros.
    connection.pragma_update(None, "secure_delete", "ON")?;
    // The changes of the start must be on disk before anything depends on them.
    connection.pragma_update(None, "synchronous", Durability::Commit.pragma())?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)
}

/// Adds what to do if another process holds a lock.
fn explain_lock(error: rusqlite::Error) -> anyhow::Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => {
            anyhow::anyhow!("it is locked by another process; stop that process and start again")
        }
        _ => error.into(),
    }
}

/// Reads how often the log was opened and the id of its last message, if they are stored.
fn read_contents(
    connection: &Connection,
    version: usize,
) -> rusqlite::Result<(Option<u64>, Option<u64>)> {
    if version == 0 {
        return Ok((None, None));
    }
    Ok((read_number(connection, "opened").optional()?, Some(read_last(connection)?.message)))
}

/// Counts that the log is being opened; returns the count. A full disk is no error, so that the
/// log can still be read.
fn count_opening(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "INSERT INTO last VALUES ('opened', 1)
               ON CONFLICT (what) DO UPDATE SET number = number + 1";
    let is_full = |error: &rusqlite::Error| {
        let code = error.sqlite_error().map(|error| error.extended_code);
        matches!(code, Some(ffi::SQLITE_FULL | ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE))
    };
    connection
        .execute(sql, [])
        .or_else(|error| if is_full(&error) { Ok(0) } else { Err(error) })?;
    Ok(read_number(connection, "opened").optional()?.unwrap_or_default())
}

/// Returns the version of the tables; 0 if there are none.
fn check_version(connection: &Connection) -> anyhow::Result<usize> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0));
    let version = version.map_err(explain_lock)? as usize;
    if version > VERSION {
        bail!("it was written by a newer version of chatty; use that version, or --data DIR");
    }
    Ok(version)
}

/// Returns the last ids, after raising them to the ceiling: ids below it may have been given out
/// and lost.
fn skip_to_ceiling(connection: &mut Connection) -> rusqlite::Result<LastIds> {
    let last = read_last(connection)?;
    let ceiling = read_ceiling(connection)?;
    if ceiling == LastIds::default() {
        return Ok(last);
    }
    let (message, person) = (last.message.max(ceiling.message), last.person.max(ceiling.person));
    let last = LastIds { message, person };
    let transaction = connection.transaction()?;
    write_last(&transaction, last)?;
    write_ceiling(&transaction, LastIds::default())?;
    transaction.commit()?;
    Ok(last)
}

/// Reads all entries. Entries of unknown collections were written by a newer version and are left
/// alone.
fn read_entries(connection: &Connection) -> rusqlite::Result<Vec<(Collection, u64, String)>> {
    let mut statement = connection.prepare("SELECT shelf, key, value FROM kept")?;
    let rows = statement.query_map([], |row| {
        let name: String = row.get(0)?;
        let collection = Collection::TABLE
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(collection, _)| *collection);
        Ok((collection, row.get::<_, i64>(1)?.cast_unsigned(), row.get(2)?))
    })?;
    rows.filter_map(|row| match row {
        Ok((collection, key, value)) => collection.map(|collection| Ok((collection, key, value))),
        Err(error) => Some(Err(error)),
    })
    .collect()
}

/// Reads which messages wait in mailboxes.
fn read_mail(connection: &Connection) -> rusqlite::Result<Vec<(UserId, u64)>> {
    let mut statement = connection.prepare(&places::mail())?;
    let rows = statement.query_map([], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        Ok((UserId(number(0)?), number(1)?))
    })?;
    rows.collect()
}

fn read_latest(connection: &Connection) -> rusqlite::Result<Vec<Arc<Record>>> {
    let sql = format!("{RECORDS} ORDER BY m.id DESC LIMIT ?1");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_and_then([LATEST], record)?;
    let records: rusqlite::Result<Vec<_>> = rows.filter_map(Result::transpose).collect();
    Ok(records?.into_iter().rev().map(Arc::new).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::protocol::{Name, RoomName, Stamp};
    use crate::server::record::Recipient;

    const OPTIONS: Options = Options {
        durability: Durability::Commit,
        retention: Retention { age: None, messages: None },
    };

    fn batch(id: u64) -> Batch {
        let (time, author, text) = (Stamp(0), UserId(1), "x".into());
        let from = Name::parse("alice").unwrap();
        let to = Recipient::Room(RoomName::parse("ops").unwrap());
        let record = Record { id, time, author, from, to, is_action: false, text, cid: None };
        let last = LastIds { message: id, person: 1 };
        Batch { records: vec![Arc::new(record)], changes: Vec::new(), last }
    }

    /// Appends until an append fails; returns the error.
    fn first_error(log: &mut SqliteLog) -> AppendError {
        let start = Instant::now();
        let mut ids = 2..;
        let error = ids.find_map(|id| {
            assert!(start.elapsed() < Duration::from_secs(30), "it goes on writing");
            thread::sleep(Duration::from_millis(10));
            log.append(&batch(id)).err()
        });
        error.expect("an error")
    }

    #[test]
    fn failure_in_maintenance_is_permanent() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = SqliteLog::open(folder.path(), OPTIONS).unwrap();
        log.append(&batch(1)).unwrap();
        let other = connect(&folder.path().join(FILE)).unwrap();
        other.execute_batch("DROP TABLE search").unwrap();
        assert!(matches!(first_error(&mut log), AppendError::Broken(_)));
        assert!(matches!(log.append(&batch(1 << 20)), Err(AppendError::Broken(_))));
    }

    #[test]
    fn removed_write_ahead_log_is_a_permanent_failure() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { durability: Durability::Relaxed, ..OPTIONS };
        let (mut log, _) = SqliteLog::open(folder.path(), options).unwrap();
        log.append(&batch(1)).unwrap();
        fs::remove_file(folder.path().join("chatty.db-wal")).unwrap();
        assert!(matches!(first_error(&mut log), AppendError::Gone(_)));
    }

    #[test]
    fn failed_sync_is_reported_without_another_append() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { durability: Durability::Relaxed, ..OPTIONS };
        let (mut log, _) = SqliteLog::open(folder.path(), options).unwrap();
        let (report, reported) = mpsc::channel();
        log.on_failure(Box::new(move |error| report.send(error).unwrap()));
        // A device that cannot be synced.
        lock(&log.writer).break_sync();
        log.append(&batch(1)).unwrap();
        let error = reported.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(matches!(error, AppendError::Broken(_)), "{error}");
        assert!(matches!(log.append(&batch(2)), Err(AppendError::Broken(_))));
    }

    #[test]
    fn reserved_space_is_allocated_behind_the_write_ahead_log() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = SqliteLog::open(folder.path(), OPTIONS).unwrap();
        log.append(&batch(1)).unwrap();
        // The index is written in the background.
        let reader = Connection::open(folder.path().join(FILE)).unwrap();
        let sql = "SELECT number FROM last WHERE what = 'indexed'";
        while reader.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() == 0 {
            thread::yield_now();
        }
        drop(reader);
        let wal = folder.path().join("chatty.db-wal");
        let size = fs::metadata(&wal).unwrap().len();
        log.reserve().unwrap();
        log.reserve().unwrap();
        assert_eq!(fs::metadata(&wal).unwrap().len(), size);
        log.append(&batch(2)).unwrap();
        log.close().unwrap();
        assert!(fs::metadata(&wal).is_ok_and(|wal| wal.len() == 0));
    }
}
