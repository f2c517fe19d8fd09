//! The tables that older versions wrote, to create files for tests and measurements of the upgrade.

use std::path::Path;

use rusqlite::Connection;

/// The steps by which older versions created their tables: version `n` took the first `n`.
pub(crate) const STEPS: [&str; 6] = [
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
    "
    -- Mail is a position in the log per account instead of an entry per message. Messages behind
    -- the position that had no entry are skipped.
    INSERT INTO kept
        SELECT 'mailbox', account, json_object('after', first - 1, 'skip', json((
            SELECT json_group_array(id) FROM messages
            WHERE reader = account AND id > first
                AND id NOT IN (SELECT key FROM kept WHERE shelf = 'mail')
        )))
        FROM (
            SELECT CAST(value AS INTEGER) AS account, min(key) AS first
            FROM kept WHERE shelf = 'mail' GROUP BY account
        );
    DELETE FROM kept WHERE shelf = 'mail';
",
];

/// Creates a file as version `version` of the tables.
///
/// # Panics
/// The file cannot be created.
pub(crate) fn create(file: &Path, version: usize) -> Connection {
    let connection = Connection::open(file).expect("a file");
    connection.pragma_update(None, "journal_mode", "WAL").expect("as chatty does");
    for step in &STEPS[..version] {
        connection.execute_batch(step).expect("tables");
    }
    connection.pragma_update(None, "user_version", version.to_string()).expect("a version");
    connection
}
