//! The log that lasts: one SQLite file in a folder of its own.
//!
//! 1. One thread writes, each batch in one transaction. With
//!    [`Durability::Commit`] a batch is on the disk when its append is done.
//! 2. Other threads read, from the last commit, and never hold the writer up.
//! 3. A write that did not fit is undone whole and may be tried again. Any other
//!    failure to write is the end: what the disk holds then cannot be known, and
//!    asking it to sync again may say yes to what is lost.
//! 4. One process at a time: the folder is locked.
//! 5. Ids are what the hub gave; the file remembers the last, so that none is
//!    ever given twice.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use clap::ValueEnum;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params};
use tokio::sync::oneshot;

use super::{
    AppendError, Batch, Change, Kept, Last, Log, PersonId, Query, Recipient, Record, Repeat, Reply,
    Rows, Shelf, Thread,
};
use crate::protocol::{Cid, Name, RoomName, Stamp};

mod search;

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

const FILE: &str = "chatty.db";
const LOCK: &str = "lock";

/// Steps from an empty file to today's schema. A step that has ever been
/// released stays as it is; `user_version` counts those taken.
const MIGRATIONS: [&str; 3] = [
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
];

const COLUMNS: &str = "id, time, author, name, room, reader, reader_name, is_action, text, cid";

/// A log in a folder.
#[derive(Debug)]
pub struct SqliteLog {
    writes: Sender<Order>,
    reads: Sender<(Query, Reply)>,
    /// Apart, so that a long search holds up nobody but other searches.
    searches: Sender<(Query, Reply)>,
    /// Holds the folder's lock as long as it is open.
    _lock: File,
}

/// A batch to write, and who waits for it.
struct Order {
    batch: Batch,
    done: oneshot::Sender<Result<Vec<Repeat>, AppendError>>,
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
        let lock = claim(folder)?;
        let path = folder.join(FILE);
        let mut connection = connect(&path, options.durability)?;
        migrate(&mut connection).with_context(|| format!("cannot use {}", path.display()))?;
        let kept = Kept {
            last: read_last(&connection)?,
            things: read_kept(&connection)?,
            latest: read_latest(&connection)?,
        };
        let (writes, orders) = mpsc::channel();
        let last = kept.last;
        let indexed = read_number(&connection, "indexed")?;
        let thread = Writer {
            connection,
            options,
            path: path.clone(),
            last,
            is_unsynced: false,
            indexed,
            is_strict: true,
        };
        thread::Builder::new().name("log writer".into()).spawn(move || thread.run(&orders))?;
        let reads = start_readers(&path, "log reader", READERS)?;
        let searches = start_readers(&path, "log search", 1)?;
        Ok((Self { writes, reads, searches, _lock: lock }, kept))
    }
}

impl Log for SqliteLog {
    async fn append(&mut self, batch: Batch) -> Result<Vec<Repeat>, AppendError> {
        let (done, written) = oneshot::channel();
        let gone = || AppendError::Broken(anyhow::anyhow!("its writer has ended"));
        self.writes.send(Order { batch, done }).map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }

    fn read(&self, query: Query, reply: Reply) {
        // A reader that has ended answers nothing; then the process is ending.
        let _ = match query.thread {
            Thread::Search { .. } => self.searches.send((query, reply)),
            _ => self.reads.send((query, reply)),
        };
    }
}

/// Makes the folder, closes it to others and locks it.
fn claim(folder: &Path) -> anyhow::Result<File> {
    let problem = || format!("cannot use the folder {}", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(problem)?;
    fs::set_permissions(folder, Permissions::from_mode(0o700)).with_context(problem)?;
    let lock = File::create(folder.join(LOCK)).with_context(problem)?;
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

fn connect(path: &Path, durability: Durability) -> anyhow::Result<Connection> {
    let problem = || format!("cannot open {}", path.display());
    // Made before SQLite makes it, so that nobody else can ever read it; its
    // companions take over its permissions.
    let file = fs::OpenOptions::new().append(true).create(true).open(path).with_context(problem)?;
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

fn read_number(connection: &Connection, what: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT number FROM last WHERE what = ?1")?
        .query_row([what], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
}

fn write_last(connection: &Connection, last: Last) -> rusqlite::Result<()> {
    for (what, number) in [("message", last.message), ("person", last.person)] {
        connection
            .prepare_cached("UPDATE last SET number = ?2 WHERE what = ?1")?
            .execute(params![what, number.cast_signed()])?;
    }
    Ok(())
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

/// The thread that writes.
struct Writer {
    connection: Connection,
    options: Options,
    path: PathBuf,
    last: Last,
    /// Whether something is committed that the disk may not have yet.
    is_unsynced: bool,
    /// The last message that can be found by its words.
    indexed: u64,
    /// Whether `synchronous` is what the durability asks for.
    is_strict: bool,
}

/// How often the disk gets what is committed, where that is not at once.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How often is looked for what is to be forgotten, and how much of it goes in
/// one transaction: writing waits no longer than for that.
const RETENTION_INTERVAL: Duration = Duration::from_secs(1);
const FORGET_AT_ONCE: u32 = 500;

/// What goes next. What waits for somebody is kept until it was told.
const FORGOTTEN: &str = "(SELECT id FROM messages WHERE id <= ?1
    AND id NOT IN (SELECT key FROM kept WHERE shelf = 'mail') ORDER BY id LIMIT ?2)";

/// How often messages are made known to `/search`, and how many in one
/// transaction. What is not known yet is looked at one by one, so that a search
/// finds it all the same.
const INDEX_INTERVAL: Duration = Duration::from_secs(1);
const INDEX_AT_ONCE: u32 = 250;
/// Where many are not known yet: when nobody wrote for so long, more are made
/// known; while somebody does, indexing takes one part in so many of the time.
const INDEX_IDLE: Duration = Duration::from_millis(2);
const INDEX_SHARE: u32 = 10;

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        let mut next_sync = Instant::now() + SYNC_INTERVAL;
        let mut next_forget = Instant::now();
        let mut next_index = Instant::now();
        let mut is_behind = false; // with indexing
        loop {
            let now = Instant::now();
            let mut due = next_forget.min(next_index);
            if self.is_unsynced {
                due = due.min(next_sync);
            }
            if is_behind {
                due = due.min(now + INDEX_IDLE);
            }
            let mut is_idle = false;
            match orders.recv_timeout(due.saturating_duration_since(now)) {
                Ok(Order { batch, done }) => {
                    let result = self.write(&batch);
                    let _ = done.send(result); // who asked may have ended
                }
                Err(RecvTimeoutError::Timeout) => is_idle = true,
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if self.is_unsynced && now >= next_sync {
                self.sync();
                next_sync = now + SYNC_INTERVAL;
            }
            if now >= next_forget {
                // What cannot be forgotten now is tried again later.
                let more = self.forget().unwrap_or(false);
                next_forget = if more { now } else { now + RETENTION_INTERVAL };
            }
            if now >= next_index || (is_behind && is_idle) {
                is_behind = self.index().unwrap_or(false);
                let pause =
                    if is_behind { now.elapsed() * (INDEX_SHARE - 1) } else { INDEX_INTERVAL };
                next_index = Instant::now() + pause;
            }
        }
        self.sync();
    }

    fn write(&mut self, batch: &Batch) -> Result<Vec<Repeat>, AppendError> {
        self.be_strict(true).map_err(|error| AppendError::Broken(error.into()))?;
        match insert(&mut self.connection, batch, self.last) {
            Ok(repeats) => {
                self.last = batch.last;
                self.is_unsynced = self.options.durability == Durability::Relaxed;
                Ok(repeats)
            }
            Err(error) if is_full(&error) => Err(AppendError::Full(error.to_string())),
            Err(error) => Err(AppendError::Broken(error.into())),
        }
    }

    /// Brings what is committed to the disk, where the commit did not.
    fn sync(&mut self) {
        if std::mem::take(&mut self.is_unsynced) {
            let mut wal = self.path.clone().into_os_string();
            wal.push("-wal");
            // Failing to is what "relaxed" may lose.
            let _ = File::open(wal).and_then(|wal| wal.sync_data());
        }
    }

    /// Forgets some of what is too old or too much; tells whether there is more.
    fn forget(&mut self) -> rusqlite::Result<bool> {
        let Retention { age, messages } = self.options.retention;
        let by_number = match messages {
            Some(keep) => self.last_beyond(keep)?,
            None => None,
        };
        let by_age = match age {
            Some(age) => self.last_before(age)?,
            None => None,
        };
        let Some(upto) = by_number.max(by_age) else { return Ok(false) };
        let transaction = self.connection.unchecked_transaction()?;
        write_last(&transaction, self.last)?; // the last message may be among them
        let oldest = params![upto, FORGET_AT_ONCE];
        let sql = format!("DELETE FROM search WHERE rowid IN {FORGOTTEN}");
        transaction.prepare_cached(&sql)?.execute(oldest)?;
        let sql = format!("DELETE FROM messages WHERE id IN {FORGOTTEN}");
        let gone = transaction.prepare_cached(&sql)?.execute(oldest)?;
        transaction.commit()?;
        Ok(gone == FORGET_AT_ONCE as usize)
    }

    /// Makes some messages known to `/search`; tells whether there are more.
    ///
    /// It need not be on the disk at once: the next message's commit brings it
    /// there, and what is lost with the power is done again.
    fn index(&mut self) -> rusqlite::Result<bool> {
        if self.indexed == self.last.message {
            return Ok(false);
        }
        self.be_strict(false)?;
        Ok(self.index_some()? == INDEX_AT_ONCE)
    }

    /// Whether a commit is as safe as was asked for, or only whole. Messages are
    /// never written before the former is sure.
    fn be_strict(&mut self, is_strict: bool) -> rusqlite::Result<()> {
        if self.is_strict != is_strict {
            let durability = if is_strict { self.options.durability } else { Durability::Relaxed };
            self.connection.pragma_update(None, "synchronous", durability.pragma())?;
            self.is_strict = is_strict;
        }
        Ok(())
    }

    fn index_some(&mut self) -> rusqlite::Result<u32> {
        let transaction = self.connection.transaction()?;
        let (mut count, mut last) = (0, self.indexed);
        {
            let sql = format!("SELECT {COLUMNS} FROM messages WHERE id > ?1 ORDER BY id LIMIT ?2");
            let mut statement = transaction.prepare_cached(&sql)?;
            let mut rows = statement.query(params![last.cast_signed(), INDEX_AT_ONCE])?;
            let mut insert =
                transaction.prepare_cached("INSERT INTO search (rowid, words) VALUES (?1, ?2)")?;
            while let Some(row) = rows.next()? {
                last = row.get::<_, i64>(0)?.cast_unsigned();
                count += 1;
                if let Some(record) = record(row)? {
                    insert.execute(params![last.cast_signed(), search::entry(&record)])?;
                }
            }
        }
        transaction
            .prepare_cached("UPDATE last SET number = ?1 WHERE what = 'indexed'")?
            .execute([last.cast_signed()])?;
        transaction.commit()?;
        // Up to the last message, unless it is not stored after all.
        self.indexed = if count < INDEX_AT_ONCE { self.last.message } else { last };
        Ok(count)
    }

    fn last_beyond(&self, keep: u64) -> rusqlite::Result<Option<i64>> {
        let first: Option<i64> =
            self.connection.query_row("SELECT min(id) FROM messages", [], |row| row.get(0))?;
        let held =
            first.map_or(0, |first| (self.last.message + 1).saturating_sub(first.cast_unsigned()));
        if held <= keep {
            return Ok(None); // the common case, without counting
        }
        let sql = "SELECT id FROM messages ORDER BY id DESC LIMIT 1 OFFSET ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([keep.cast_signed()])?;
        rows.next()?.map(|row| row.get(0)).transpose()
    }

    fn last_before(&self, age: Duration) -> rusqlite::Result<Option<i64>> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX);
        // Times grow with ids: the oldest few tell.
        let sql = "SELECT max(id) FROM (SELECT id, time FROM messages ORDER BY id LIMIT ?2)
                   WHERE time < ?1";
        self.connection
            .prepare_cached(sql)?
            .query_row(params![before, FORGET_AT_ONCE], |row| row.get(0))
    }
}

fn insert(
    connection: &mut Connection,
    batch: &Batch,
    stored: Last,
) -> rusqlite::Result<Vec<Repeat>> {
    let transaction = connection.transaction()?;
    let mut repeats = Vec::new();
    for record in &batch.records {
        if !insert_record(&transaction, record)? {
            let first = first_of_mark(&transaction, record)?;
            repeats.extend(first.map(|first| Repeat { id: record.id, first: Arc::new(first) }));
        }
    }
    for Change { shelf, key, value } in &batch.changes {
        let key = key.cast_signed();
        match value {
            Some(value) => transaction
                .prepare_cached("INSERT OR REPLACE INTO kept VALUES (?1, ?2, ?3)")?
                .execute(params![shelf.as_str(), key, value])?,
            None => transaction
                .prepare_cached("DELETE FROM kept WHERE shelf = ?1 AND key = ?2")?
                .execute(params![shelf.as_str(), key])?,
        };
    }
    // The last message tells its number by being there: most commits write one
    // page less.
    if batch.last.person != stored.person || !batch.changes.is_empty() {
        write_last(&transaction, batch.last)?;
    }
    transaction.commit()?;
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

fn first_of_mark(connection: &Connection, again: &Record) -> rusqlite::Result<Option<Record>> {
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE author = ?1 AND cid = ?2");
    let cid = again.cid.as_ref().map(Cid::as_str);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![again.author.0.cast_signed(), cid])?;
    rows.next()?.map_or(Ok(None), record)
}

/// Whether there was no room; nothing of the transaction is left then.
fn is_full(error: &rusqlite::Error) -> bool {
    // SQLite tells a file that may not grow further apart from a full disk.
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || matches!(
            error.sqlite_error().map(|error| error.extended_code),
            Some(rusqlite::ffi::SQLITE_IOERR_WRITE | rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
        )
}

fn start_readers(path: &Path, name: &str, count: usize) -> anyhow::Result<Sender<(Query, Reply)>> {
    let (reads, queries) = mpsc::channel();
    let queries = Arc::new(Mutex::new(queries));
    for _ in 0..count {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let queries = queries.clone();
        thread::Builder::new().name(name.into()).spawn(move || answer(&connection, &queries))?;
    }
    Ok(reads)
}

/// A thread that reads: one query after another until nobody asks any more.
fn answer(connection: &Connection, queries: &Mutex<Receiver<(Query, Reply)>>) {
    loop {
        let next = queries.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((query, reply)) = next else { return };
        // A read that fails finds nothing; what is stored is not touched by it.
        reply(find(connection, &query).unwrap_or_default());
    }
}

fn find(connection: &Connection, query: &Query) -> rusqlite::Result<Rows> {
    let transaction = connection.unchecked_transaction()?; // one moment for both reads
    let upto = read_last(connection)?.message;
    let (after, order) = match query.after {
        Some(after) => (i64::try_from(after).unwrap_or(i64::MAX), "ASC"),
        None => (0, "DESC"),
    };
    let mut records = match &query.thread {
        Thread::Room(key) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM messages WHERE room_key = ?1 AND id > ?2 ORDER BY id {order}"
            );
            collect(connection, &sql, params![key.as_str(), after], query)?
        }
        Thread::Private { reader, .. } => {
            // Each half by its own index; which of them are wanted is decided
            // row by row.
            let sql = format!(
                "SELECT {COLUMNS} FROM messages WHERE author = ?1 AND reader IS NOT NULL AND id > ?2
                 UNION
                 SELECT {COLUMNS} FROM messages WHERE reader = ?1 AND id > ?2
                 ORDER BY id {order}"
            );
            collect(connection, &sql, params![reader.0.cast_signed(), after], query)?
        }
        Thread::Search { .. } => search::find(connection, query)?,
        Thread::Picked { ids, .. } => {
            let sql = format!(
                "SELECT {COLUMNS} FROM messages
                 WHERE id IN (SELECT value FROM json_each(?1)) AND id > ?2 ORDER BY id {order}"
            );
            let ids: Vec<i64> = ids.iter().map(|id| id.cast_signed()).collect();
            collect(connection, &sql, params![serde_json::json!(ids).to_string(), after], query)?
        }
        Thread::Feed { .. } => {
            // All rooms at once: the log in its own order, picked through.
            let sql = format!("SELECT {COLUMNS} FROM messages WHERE id > ?1 ORDER BY id");
            collect(connection, &sql, params![after], query)?
        }
    };
    if query.after.is_none() {
        records.reverse();
    }
    let first: Option<i64> =
        connection.query_row("SELECT min(id) FROM messages", [], |row| row.get(0))?;
    let forgotten = first.map_or(upto, |first| (first - 1).cast_unsigned());
    let has_gap = query.after.is_some_and(|after| after < forgotten);
    transaction.finish()?;
    Ok(Rows { records, upto, has_gap }.cut_at(query.count))
}

fn collect(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    query: &Query,
) -> rusqlite::Result<Vec<Arc<Record>>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut records = Vec::new();
    while records.len() < query.count {
        let Some(row) = rows.next()? else { break };
        // A row that breaks the grammar was not written by us: pass over it.
        if let Some(record) = record(row)?.filter(|record| query.wants(record)) {
            records.push(Arc::new(record));
        }
    }
    Ok(records)
}

/// Reads one row of [`COLUMNS`].
fn record(row: &Row<'_>) -> rusqlite::Result<Option<Record>> {
    let text = |column| row.get_ref(column).map(|value| value.as_str().unwrap_or_default());
    let to = match row.get::<_, Option<i64>>(5)? {
        Some(reader) => Name::parse(text(6)?)
            .map(|name| Recipient::Person(PersonId(reader.cast_unsigned()), name)),
        None => RoomName::parse(text(4)?).map(Recipient::Room),
    };
    let (Ok(to), Ok(from)) = (to, Name::parse(text(3)?)) else { return Ok(None) };
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
