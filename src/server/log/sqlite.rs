//! The log that lasts: one SQLite file in a folder of its own.
//!
//! 1. One connection writes, each batch in one transaction. With
//!    [`Durability::Commit`] a batch is on the disk when its append is done.
//! 2. Other threads read, from the last commit, and never hold the writer up.
//! 3. A write that did not fit is undone whole and may be tried again. Any other
//!    failure to write is the end, in keeping house too: what the disk holds then
//!    cannot be known, and asking it to sync again may say yes to what is lost.
//!    A lock that another process holds is neither: it is waited for shortly, then the
//!    batch is refused and may be tried again.
//! 4. One process at a time: the folder is locked. Its files stay those that were opened:
//!    what is written to a file that was removed or replaced is not acknowledged.
//! 5. Ids are what the hub gave; the file remembers the last, so that none is
//!    ever given twice. Where a loss of power may take the last messages, it holds
//!    a ceiling that none is given above before the disk has a higher one; after an
//!    end that was not in good order counting goes on from there.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, ffi, params};

use super::{
    AppendError, Batch, Collection, Duplicate, LastIds, Log, ReadRequest, Recipient, Record, Reply,
    Snapshot, Thread, UserId,
};
use crate::protocol::{Cid, Name, RoomName, Stamp};

mod folder;
mod readers;
mod search;
mod writer;

use folder::Folder;
use readers::{Readers, Trouble};
use writer::{Writer, lock};

/// When a message counts as safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// When it is on the disk: it outlives the program and a loss of power
    Commit,
    /// When the system has it; on the disk within a second: it outlives the
    /// program, and a loss of power takes the last second
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

/// What the log forgets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retention {
    /// Messages older than this.
    pub age: Option<Duration>,
    /// All but so many of the latest.
    pub messages: Option<u64>,
}

/// How the file is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// When a message counts as safe.
    pub durability: Durability,
    /// What is forgotten.
    pub retention: Retention,
}

/// The log's file in its folder.
pub const FILE: &str = "chatty.db";

/// Steps from an empty file to today's schema. A step that has ever been
/// released stays as it is; `user_version` counts those taken.
const MIGRATIONS: [&str; 5] = [
    "
    CREATE TABLE messages (
        id        INTEGER PRIMARY KEY,
        time      INTEGER NOT NULL,          -- milliseconds since 1970
        author    INTEGER NOT NULL,          -- a PersonId
        name      TEXT    NOT NULL,          -- the author's, of that moment
        room      TEXT,                      -- as shown, without #; NULL: private
        room_key  TEXT,                      -- folded
        name_key  TEXT,                      -- of the author, where private
        reader    INTEGER,                   -- a PersonId, where private
        reader_name TEXT,
        reader_key  TEXT,
        is_action INTEGER NOT NULL,
        text      TEXT    NOT NULL,
        cid       TEXT
    ) STRICT;
    CREATE INDEX messages_by_room ON messages (room_key, id) WHERE room_key IS NOT NULL;
    CREATE INDEX messages_by_author ON messages (author, id) WHERE reader IS NOT NULL;
    CREATE INDEX messages_by_reader ON messages (reader, id) WHERE reader IS NOT NULL;
    CREATE UNIQUE INDEX messages_by_cid ON messages (author, cid) WHERE cid IS NOT NULL;
    -- Numbers that only grow: the last message's id, the last person's.
    CREATE TABLE last (what TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT;
    INSERT INTO last VALUES ('message', 0), ('person', 0);
",
    "
    -- Everything else, see `Shelf`.
    CREATE TABLE kept (
        shelf TEXT    NOT NULL,
        key   INTEGER NOT NULL,
        value TEXT    NOT NULL,
        PRIMARY KEY (shelf, key)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- Which words are in which message, and who may read it; filled after the
    -- fact. Only numbers of messages are found in it: the texts are above.
    CREATE VIRTUAL TABLE search USING fts5(
        words, content = '', contentless_delete = 1, detail = none,
        tokenize = \"ascii tokenchars '-_.'\"
    );
    INSERT INTO last VALUES ('indexed', 0);
",
    "
    -- Numbers up to here may be given away before the disk has them; 0 after an end in
    -- good order.
    INSERT INTO last VALUES ('message ceiling', 0), ('person ceiling', 0);
",
    "
    -- Words are normalised differently: the index is built anew, in the background.
    DROP TABLE search;
    CREATE VIRTUAL TABLE search USING fts5(
        words, content = '', contentless_delete = 1, detail = none,
        tokenize = \"ascii tokenchars '-_.'\"
    );
    UPDATE last SET number = 0 WHERE what = 'indexed';
",
];

const COLUMNS: &str = "id, time, author, name, room, reader, reader_name, is_action, text, cid";

/// A log in a folder.
#[derive(Debug)]
pub struct SqliteLog {
    writer: Arc<Mutex<Writer>>,
    /// What runs beside it, and what ends that when it is dropped.
    maintenance: Option<(JoinHandle<()>, Sender<()>)>,
    reads: Readers,
    /// Apart, so that a long search holds up nobody but other searches.
    searches: Readers,
    remark: Option<String>,
}

/// How many reads may go on at once.
const READERS: usize = 2;

/// How many of the latest messages are known at once after a start: more than
/// wait for their answers at any time.
const LATEST: u32 = 4096;

/// How long the start waits for the lock of another process.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);

impl SqliteLog {
    /// Opens the log in a folder, made if it is not there, for this process
    /// alone; gives what was kept in it with it.
    ///
    /// # Errors
    /// The folder cannot be used, another server uses it, what is in it is of a newer
    /// chatty, or it does not hold what was stored there.
    pub fn open(folder: &Path, options: Options) -> anyhow::Result<(Self, Snapshot)> {
        let folder = Folder::claim(folder)?;
        let path = folder.file();
        let had_wal = folder.has_wal();
        folder.check_before_open()?;
        let problem = || format!("cannot use {}", path.display());
        let mut connection = connect(&path).map_err(explained).with_context(problem)?;
        let version = check_version(&connection).with_context(problem)?;
        let (opened, message) =
            read_contents(&connection, version).map_err(explained).with_context(problem)?;
        let remark = folder.check_contents(opened, message, had_wal)?;
        configure(&connection).map_err(explained).with_context(problem)?;
        migrate(&mut connection, version).with_context(problem)?;
        let opened = count_opening(&connection).map_err(explained).with_context(problem)?;
        let kept = Snapshot {
            last: skip_to_ceiling(&mut connection)?,
            entries: read_entries(&connection)?,
            latest: read_latest(&connection)?,
        };
        let indexed = read_number(&connection, "indexed")?;
        let bound = options.retention.messages;
        let count = bound.map(|_| count_messages(&connection)).transpose()?;
        let mut writer =
            Writer::new(connection, options, folder, opened, kept.last, count, indexed)?;
        writer.note_mark(false);
        let writer = Arc::new(Mutex::new(writer));
        let trouble = Trouble::default();
        let reads = Readers::start(&path, "log reader", READERS, &trouble)?;
        let searches = Readers::start(&path, "log search", 1, &trouble)?;
        let (open, closed) = mpsc::channel();
        let kept_by = writer.clone();
        let maintenance = thread::Builder::new()
            .name("log keeper".into())
            .spawn(move || writer::run_maintenance_loop(&kept_by, &closed))?;
        let maintenance = Some((maintenance, open));
        Ok((Self { writer, maintenance, reads, searches, remark }, kept))
    }

    /// What whoever runs the server has to know of what was found, if anything.
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

    fn read(&self, query: ReadRequest, reply: Reply) {
        match query.thread {
            Thread::Search { .. } => self.searches.read(query, reply),
            _ => self.reads.read(query, reply),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        let Some((maintenance, open)) = self.maintenance.take() else {
            return Ok(()); // it is closed already
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
        let _ = self.close(); // was told, if it was asked for
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(OPEN_PATIENCE)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // What is done at the start is on the disk before anything is said of it.
    connection.pragma_update(None, "synchronous", Durability::Commit.pragma())?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)
}

/// What can be done about it where another process is in the way.
fn explained(error: rusqlite::Error) -> anyhow::Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => {
            anyhow::anyhow!("it is locked by another process; end that one and start again")
        }
        _ => error.into(),
    }
}

/// How often the log was opened and the id of its last message, where it tells.
fn read_contents(
    connection: &Connection,
    version: usize,
) -> rusqlite::Result<(Option<u64>, Option<u64>)> {
    if version == 0 {
        return Ok((None, None));
    }
    Ok((read_number(connection, "opened").optional()?, Some(read_last(connection)?.message)))
}

/// Notes in the log that it is opened once more, and tells how often it was. A disk that
/// is full keeps nobody from reading.
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

/// How many of the migrations were taken.
fn check_version(connection: &Connection) -> anyhow::Result<usize> {
    let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0));
    let taken = version.map_err(explained)? as usize;
    if taken > MIGRATIONS.len() {
        bail!("it was written by a newer chatty; use that one, or another folder with --data DIR");
    }
    Ok(taken)
}

fn migrate(connection: &mut Connection, taken: usize) -> anyhow::Result<()> {
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(taken) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", (step + 1).to_string())?;
        transaction.commit()?;
    }
    Ok(())
}

fn read_last(connection: &Connection) -> rusqlite::Result<LastIds> {
    let stored = connection.query_row("SELECT ifnull(max(id), 0) FROM messages", [], |row| {
        row.get::<_, i64>(0).map(i64::cast_unsigned)
    })?;
    let message = read_number(connection, "message")?.max(stored);
    Ok(LastIds { message, person: read_number(connection, "person")? })
}

/// Where counting goes on. What was given away below the ceiling may be lost.
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

fn read_ceiling(connection: &Connection) -> rusqlite::Result<LastIds> {
    let [message, person] =
        ["message ceiling", "person ceiling"].map(|what| read_number(connection, what));
    Ok(LastIds { message: message?, person: person? })
}

fn read_number(connection: &Connection, what: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT number FROM last WHERE what = ?1")?
        .query_row([what], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
}

fn write_last(connection: &Connection, last: LastIds) -> rusqlite::Result<()> {
    write_number(connection, "message", last.message)?;
    write_number(connection, "person", last.person)
}

fn write_ceiling(connection: &Connection, ceiling: LastIds) -> rusqlite::Result<()> {
    write_number(connection, "message ceiling", ceiling.message)?;
    write_number(connection, "person ceiling", ceiling.person)
}

fn write_number(connection: &Connection, what: &str, number: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE last SET number = ?2 WHERE what = ?1")?
        .execute(params![what, number.cast_signed()])?;
    Ok(())
}

/// By the indexes alone: each message is in one of the two.
fn count_messages(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT (SELECT count(*) FROM messages WHERE room_key IS NOT NULL)
                    + (SELECT count(*) FROM messages WHERE reader IS NOT NULL)";
    connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}

/// What is on a shelf this chatty does not know was put there by a newer one,
/// and is left alone.
fn read_entries(connection: &Connection) -> rusqlite::Result<Vec<(Collection, u64, String)>> {
    let mut statement = connection.prepare("SELECT shelf, key, value FROM kept")?;
    let rows = statement.query_map([], |row| {
        let name: String = row.get(0)?;
        let shelf =
            Collection::TABLE.iter().find(|(_, known)| *known == name).map(|(shelf, _)| *shelf);
        Ok((shelf, row.get::<_, i64>(1)?.cast_unsigned(), row.get(2)?))
    })?;
    rows.filter_map(|row| match row {
        Ok((shelf, key, value)) => shelf.map(|shelf| Ok((shelf, key, value))),
        Err(error) => Some(Err(error)),
    })
    .collect()
}

fn read_latest(connection: &Connection) -> rusqlite::Result<Vec<Arc<Record>>> {
    let sql = format!("SELECT {COLUMNS} FROM messages ORDER BY id DESC LIMIT ?1");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_and_then([LATEST], record)?;
    let records: rusqlite::Result<Vec<_>> = rows.filter_map(Result::transpose).collect();
    Ok(records?.into_iter().rev().map(Arc::new).collect())
}

/// Reads one row of [`COLUMNS`].
fn record(row: &Row<'_>) -> rusqlite::Result<Option<Record>> {
    let text = |column| row.get_ref(column).map(|value| value.as_str().unwrap_or_default());
    let to = match row.get::<_, Option<i64>>(5)? {
        Some(reader) => Name::known(text(6)?)
            .map(|name| Recipient::Person(UserId(reader.cast_unsigned()), name)),
        None => RoomName::known(text(4)?).map(Recipient::Room),
    };
    let (Ok(to), Ok(from)) = (to, Name::known(text(3)?)) else { return Ok(None) };
    Ok(Some(Record {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        time: Stamp(row.get(1)?),
        author: UserId(row.get::<_, i64>(2)?.cast_unsigned()),
        from,
        to,
        is_action: row.get(7)?,
        text: text(8)?.into(),
        cid: row.get_ref(9)?.as_str_or_null()?.and_then(Cid::parse),
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

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

    /// What comes of writing on.
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
    fn what_fails_beside_a_batch_is_the_end_as_what_fails_in_one() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = SqliteLog::open(folder.path(), OPTIONS).unwrap();
        log.append(&batch(1)).unwrap();
        let other = connect(&folder.path().join(FILE)).unwrap();
        other.execute_batch("DROP TABLE search").unwrap();
        assert!(matches!(first_error(&mut log), AppendError::Broken(_)));
        assert!(matches!(log.append(&batch(1 << 20)), Err(AppendError::Broken(_))));
    }

    #[test]
    fn what_cannot_be_brought_to_the_disk_is_the_end() {
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
        // What cannot be synced.
        lock(&log.writer).break_sync();
        log.append(&batch(1)).unwrap();
        let error = reported.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(matches!(error, AppendError::Broken(_)), "{error}");
        assert!(matches!(log.append(&batch(2)), Err(AppendError::Broken(_))));
    }

    #[test]
    fn reserved_space_is_behind_the_end_of_the_write_ahead_log() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = SqliteLog::open(folder.path(), OPTIONS).unwrap();
        log.append(&batch(1)).unwrap();
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
