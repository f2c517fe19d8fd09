//! The log that lasts: one SQLite file in a folder of its own.
//!
//! 1. One connection writes, each batch in one transaction. With
//!    [`Durability::Commit`] a batch is on the disk when its append is done.
//! 2. Other threads read, from the last commit, and never hold the writer up.
//! 3. A write that did not fit is undone whole and may be tried again. Any other
//!    failure to write is the end, in keeping house too: what the disk holds then
//!    cannot be known, and asking it to sync again may say yes to what is lost.
//! 4. One process at a time: the folder is locked.
//! 5. Ids are what the hub gave; the file remembers the last, so that none is
//!    ever given twice. Where a loss of power may take the last messages, it holds
//!    a ceiling that none is given above before the disk has a higher one; after an
//!    end that was not in good order counting goes on from there.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use rusqlite::{Connection, Row, params};

use super::{
    AppendError, Batch, Kept, Last, Log, PersonId, Query, Recipient, Record, Repeat, Reply, Shelf,
    Thread,
};
use crate::protocol::{Cid, Name, RoomName, Stamp};

mod readers;
mod search;
mod writer;

use readers::Trouble;
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
const LOCK: &str = "lock";

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
    /// Closed with the log: nobody keeps house any more.
    _open: Sender<()>,
    reads: Sender<(Query, Reply)>,
    /// Apart, so that a long search holds up nobody but other searches.
    searches: Sender<(Query, Reply)>,
    /// Holds the folder's lock as long as it is open.
    _lock: File,
}

/// How many reads may go on at once.
const READERS: usize = 2;

/// How many of the latest messages are known at once after a start: more than
/// wait for their answers at any time.
const LATEST: u32 = 4096;

/// Waiting for a lock within one process is short; this is for the unexpected.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

impl SqliteLog {
    /// Opens the log in a folder, made if it is not there, for this process
    /// alone; gives what was kept in it with it.
    ///
    /// # Errors
    /// The folder cannot be used, another server uses it, or what is in it is of
    /// a newer chatty.
    pub fn open(folder: &Path, options: Options) -> anyhow::Result<(Self, Kept)> {
        let claim = claim(folder)?;
        let path = folder.join(FILE);
        let mut connection = connect(&path, options.durability)?;
        migrate(&mut connection).with_context(|| format!("cannot use {}", path.display()))?;
        let kept = Kept {
            last: pass_ceiling(&mut connection)?,
            things: read_kept(&connection)?,
            latest: read_latest(&connection)?,
        };
        let indexed = read_number(&connection, "indexed")?;
        let bound = options.retention.messages;
        let count = bound.map(|_| count_messages(&connection)).transpose()?;
        let writer = Writer::new(connection, options, path.clone(), kept.last, count, indexed)?;
        let writer = Arc::new(Mutex::new(writer));
        let (open, closed) = mpsc::channel();
        let kept_by = writer.clone();
        thread::Builder::new()
            .name("log keeper".into())
            .spawn(move || writer::keep_house(&kept_by, &closed))?;
        let trouble = Trouble::default();
        let reads = readers::start(&path, "log reader", READERS, &trouble)?;
        let searches = readers::start(&path, "log search", 1, &trouble)?;
        Ok((Self { writer, _open: open, reads, searches, _lock: claim }, kept))
    }
}

impl Log for SqliteLog {
    fn append(&mut self, batch: &Batch) -> Result<Vec<Repeat>, AppendError> {
        lock(&self.writer).write(batch)
    }

    fn read(&self, query: Query, reply: Reply) {
        // A reader that has ended answers nothing; then the process is ending.
        let _ = match query.thread {
            Thread::Search { .. } => self.searches.send((query, reply)),
            _ => self.reads.send((query, reply)),
        };
    }
}

impl Drop for SqliteLog {
    fn drop(&mut self) {
        lock(&self.writer).close();
    }
}

/// Makes the folder, closes it to others and locks it.
fn claim(folder: &Path) -> anyhow::Result<File> {
    let problem = || format!("cannot use the folder {}", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(problem)?;
    let lock = open_own(&folder.join(LOCK)).with_context(problem)?;
    lock.set_permissions(Permissions::from_mode(0o600)).with_context(problem)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another chatty keeps its log in {}; give this one a folder of its own with --data DIR",
            folder.display()
        ),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(problem),
    }
}

/// Opens a file, made for its owner alone if it is not there: at no time can anybody
/// else open it. One that is there keeps what is in it.
fn open_own(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn connect(path: &Path, durability: Durability) -> anyhow::Result<Connection> {
    let problem = || format!("cannot open {}", path.display());
    // Made before SQLite makes it; its companions take over its permissions.
    let file = open_own(path).with_context(problem)?;
    file.set_permissions(Permissions::from_mode(0o600)).with_context(problem)?;
    let connection = Connection::open(path).with_context(problem)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL").with_context(problem)?;
    connection.pragma_update(None, "synchronous", durability.pragma())?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> anyhow::Result<()> {
    let taken: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let taken = taken as usize;
    if taken > MIGRATIONS.len() {
        bail!("it was written by a newer chatty; use that one, or another folder with --data DIR");
    }
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(taken) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", (step + 1).to_string())?;
        transaction.commit()?;
    }
    Ok(())
}

fn read_last(connection: &Connection) -> rusqlite::Result<Last> {
    let stored = connection.query_row("SELECT ifnull(max(id), 0) FROM messages", [], |row| {
        row.get::<_, i64>(0).map(i64::cast_unsigned)
    })?;
    let message = read_number(connection, "message")?.max(stored);
    Ok(Last { message, person: read_number(connection, "person")? })
}

/// Where counting goes on. What was given away below the ceiling may be lost.
fn pass_ceiling(connection: &mut Connection) -> rusqlite::Result<Last> {
    let last = read_last(connection)?;
    let ceiling = read_ceiling(connection)?;
    if ceiling == Last::default() {
        return Ok(last);
    }
    let (message, person) = (last.message.max(ceiling.message), last.person.max(ceiling.person));
    let last = Last { message, person };
    let transaction = connection.transaction()?;
    write_last(&transaction, last)?;
    write_ceiling(&transaction, Last::default())?;
    transaction.commit()?;
    Ok(last)
}

fn read_ceiling(connection: &Connection) -> rusqlite::Result<Last> {
    let [message, person] =
        ["message ceiling", "person ceiling"].map(|what| read_number(connection, what));
    Ok(Last { message: message?, person: person? })
}

fn read_number(connection: &Connection, what: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT number FROM last WHERE what = ?1")?
        .query_row([what], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
}

fn write_last(connection: &Connection, last: Last) -> rusqlite::Result<()> {
    write_number(connection, "message", last.message)?;
    write_number(connection, "person", last.person)
}

fn write_ceiling(connection: &Connection, ceiling: Last) -> rusqlite::Result<()> {
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
fn read_kept(connection: &Connection) -> rusqlite::Result<Vec<(Shelf, u64, String)>> {
    let mut statement = connection.prepare("SELECT shelf, key, value FROM kept")?;
    let rows = statement.query_map([], |row| {
        let name: String = row.get(0)?;
        let shelf = Shelf::TABLE.iter().find(|(_, known)| *known == name).map(|(shelf, _)| *shelf);
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
            .map(|name| Recipient::Person(PersonId(reader.cast_unsigned()), name)),
        None => RoomName::known(text(4)?).map(Recipient::Room),
    };
    let (Ok(to), Ok(from)) = (to, Name::known(text(3)?)) else { return Ok(None) };
    Ok(Some(Record {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        time: Stamp(row.get(1)?),
        author: PersonId(row.get::<_, i64>(2)?.cast_unsigned()),
        from,
        to,
        is_action: row.get(7)?,
        text: text(8)?.into(),
        cid: row.get_ref(9)?.as_str_or_null()?.and_then(Cid::parse),
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const OPTIONS: Options = Options {
        durability: Durability::Commit,
        retention: Retention { age: None, messages: None },
    };

    #[test]
    fn files_are_their_owners_from_the_beginning_and_keep_what_is_in_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = open_own(&folder.path().join("new")).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(folder.path().join(LOCK), "a note").unwrap();
        drop(SqliteLog::open(folder.path(), OPTIONS).unwrap());
        assert_eq!(fs::read_to_string(folder.path().join(LOCK)).unwrap(), "a note");
    }

    fn batch(id: u64) -> Batch {
        let (time, author, text) = (Stamp(0), PersonId(1), "x".into());
        let from = Name::parse("alice").unwrap();
        let to = Recipient::Room(RoomName::parse("ops").unwrap());
        let record = Record { id, time, author, from, to, is_action: false, text, cid: None };
        let last = Last { message: id, person: 1 };
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
        let other = connect(&folder.path().join(FILE), Durability::Commit).unwrap();
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
        assert!(matches!(first_error(&mut log), AppendError::Broken(_)));
    }
}
