//! The tables of the database, and what all modules read and write of them.
//!
//! Tables and columns that existed before keep their first names: `kept` stores the collections,
//! with `shelf` for the collection (`visit` for sessions, `order` for moderation, `stays` for
//! membership spans), and `last` numbers that only grow.

use rusqlite::{Connection, Row, params};

use crate::protocol::{Cid, Name, RoomName, Stamp};
use crate::server::record::{Recipient, Record, UserId};
use crate::server::store::LastIds;

/// The version of [`TABLES`], in `user_version`. Files of lower versions are upgraded; see
/// `upgrade.rs`.
pub(super) const VERSION: usize = 7;

/// Size of a page of the database, in bytes.
pub(super) const PAGE_SIZE: u32 = 4096;

const TABLES: &str = "
    -- The names of rooms. Names with the same key are spellings of one room, and have one place.
    CREATE TABLE rooms (
        number INTEGER PRIMARY KEY,
        place  INTEGER NOT NULL,             -- the lowest number with this key
        key    TEXT    NOT NULL,             -- folded
        name   TEXT    NOT NULL UNIQUE       -- as shown, without #
    ) STRICT;
    CREATE INDEX rooms_by_key ON rooms (key, place);
    CREATE INDEX rooms_by_place ON rooms (place);
    CREATE TABLE messages (
        id        INTEGER PRIMARY KEY,
        time      INTEGER NOT NULL,          -- milliseconds since 1970
        author    INTEGER NOT NULL,          -- a UserId
        name      TEXT    NOT NULL,          -- the author's, of that moment
        room      INTEGER,                   -- a number; NULL: private
        reader    INTEGER,                   -- a UserId, where private
        reader_name TEXT,
        is_action INTEGER NOT NULL,
        text      TEXT    NOT NULL,
        cid       TEXT
    ) STRICT;
    -- Which messages are where, up to the one noted in `last`: in a room, or in the private
    -- messages of a user, whose place is the negative number of the user. See `places.rs`.
    CREATE TABLE places (
        place INTEGER NOT NULL,
        id    INTEGER NOT NULL,
        is_received INTEGER NOT NULL,        -- a private message to this user
        PRIMARY KEY (place, id)
    ) STRICT, WITHOUT ROWID;
    -- The times in each block of 1024 ids that is complete; see `times.rs`.
    CREATE TABLE times (
        block    INTEGER PRIMARY KEY,        -- the ids, divided by their number
        earliest INTEGER NOT NULL,
        latest   INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE last (what TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    -- Ids up to a ceiling may be given out before the disk has them; 0 after a graceful shutdown.
    -- `messages` counts those that are placed.
    INSERT INTO last VALUES ('message', 0), ('person', 0), ('indexed', 0), ('placed', 0),
        ('messages', 0), ('message ceiling', 0), ('person ceiling', 0);
    CREATE TABLE kept (
        shelf TEXT    NOT NULL,
        key   INTEGER NOT NULL,
        value TEXT    NOT NULL,
        PRIMARY KEY (shelf, key)
    ) STRICT, WITHOUT ROWID;
    -- The words of each message, and who may read it, as hashes; see `search.rs`. A deleted
    -- message is removed from it at once.
    CREATE VIRTUAL TABLE search USING fts5(words, content = '', detail = none, tokenize = 'ascii');
    INSERT INTO search (search, rank) VALUES ('secure-delete', 1);

    -- Not used yet.
    -- Messages that were deleted one by one: readers learn of it, and a repeat with the same cid
    -- is still recognised.
    CREATE TABLE deleted (
        id         INTEGER PRIMARY KEY,      -- of the message
        time       INTEGER NOT NULL,
        author     INTEGER NOT NULL,
        room       INTEGER,
        reader     INTEGER,
        cid        TEXT,
        deleted_by INTEGER,                  -- a UserId
        deleted_at INTEGER NOT NULL,         -- milliseconds since 1970
        position   INTEGER NOT NULL          -- the last message's id at that time
    ) STRICT;
    CREATE UNIQUE INDEX deleted_by_cid ON deleted (author, cid) WHERE cid IS NOT NULL;
    CREATE INDEX deleted_by_position ON deleted (position);
    CREATE INDEX deleted_by_room ON deleted (room) WHERE room IS NOT NULL;
    -- Up to which message an account has read a place.
    CREATE TABLE positions (
        account  INTEGER NOT NULL,
        place    INTEGER NOT NULL,           -- of a room, or the negative number of the other user
        position INTEGER NOT NULL,
        PRIMARY KEY (account, place)
    ) STRICT, WITHOUT ROWID;
    -- The connections of users who have several.
    CREATE TABLE connections (
        person     INTEGER NOT NULL,
        connection INTEGER NOT NULL,
        value      TEXT    NOT NULL,
        PRIMARY KEY (person, connection)
    ) STRICT, WITHOUT ROWID;
    -- Up to where the streams of other servers are stored.
    CREATE TABLE stream (server TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Finds repeats of a message.
pub(super) const CID_INDEX: &str =
    "CREATE UNIQUE INDEX messages_by_cid ON messages (author, cid) WHERE cid IS NOT NULL";

/// Creates the tables in an empty database.
pub(super) fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(CID_INDEX)?;
    transaction.pragma_update(None, "user_version", VERSION.to_string())?;
    transaction.commit()
}

/// Whether a message waits in the mailbox `k`, by SQL expressions of its id, its reader, and its
/// author; see `SavedMailbox` of the hub. The author is evaluated only if the mailbox's owner
/// ignores a user.
pub(super) fn waits(id: &str, reader: &str, author: &str) -> String {
    format!(
        "k.shelf = 'mailbox' AND k.key = {reader} AND {id} > k.value ->> 'after'
        AND (k.value ->> 'skip' IS NULL
             OR {id} NOT IN (SELECT value FROM json_each(k.value, '$.skip')))
        AND (k.value ->> 'hidden' IS NULL
             OR {author} NOT IN (SELECT value FROM json_each(k.value, '$.hidden')))"
    )
}

/// The same of a message `m`.
pub(super) fn waits_of_messages() -> String {
    waits("m.id", "m.reader", "m.author")
}

/// Selects messages `m`; the columns are those that [`record`] decodes.
pub(super) const RECORDS: &str = "SELECT m.id, m.time, m.author, m.name, r.name, m.reader,
    m.reader_name, m.is_action, m.text, m.cid
    FROM messages m LEFT JOIN rooms r ON r.number = m.room";

/// The same by `places p`, in whose order they are read.
pub(super) const RECORDS_IN_PLACES: &str =
    "SELECT p.id, m.time, m.author, m.name, r.name, m.reader,
    m.reader_name, m.is_action, m.text, m.cid
    FROM places p CROSS JOIN messages m ON m.id = p.id LEFT JOIN rooms r ON r.number = m.room";

pub(super) fn read_last(connection: &Connection) -> rusqlite::Result<LastIds> {
    let stored = connection.query_row("SELECT ifnull(max(id), 0) FROM messages", [], |row| {
        row.get::<_, i64>(0).map(i64::cast_unsigned)
    })?;
    let message = read_number(connection, "message")?.max(stored);
    Ok(LastIds { message, person: read_number(connection, "person")? })
}

pub(super) fn read_ceiling(connection: &Connection) -> rusqlite::Result<LastIds> {
    let [message, person] =
        ["message ceiling", "person ceiling"].map(|what| read_number(connection, what));
    Ok(LastIds { message: message?, person: person? })
}

pub(super) fn read_number(connection: &Connection, what: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT number FROM last WHERE what = ?1")?
        .query_row([what], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))
}

pub(super) fn write_last(connection: &Connection, last: LastIds) -> rusqlite::Result<()> {
    write_number(connection, "message", last.message)?;
    write_number(connection, "person", last.person)
}

pub(super) fn write_ceiling(connection: &Connection, ceiling: LastIds) -> rusqlite::Result<()> {
    write_number(connection, "message ceiling", ceiling.message)?;
    write_number(connection, "person ceiling", ceiling.person)
}

pub(super) fn write_number(
    connection: &Connection,
    what: &str,
    number: u64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE last SET number = ?2 WHERE what = ?1")?
        .execute(params![what, number.cast_signed()])?;
    Ok(())
}

/// Decodes one row of [`RECORDS`]; `None` if its names are invalid.
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<Option<Record>> {
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
