//! `/search` in the file: an index of words (FTS5) in which who may read a
//! message stands as words too, so that a search costs what it finds and not
//! what others have said.
//!
//! Words are determined in one place (`protocol/words.rs`, `log/terms.rs`) and not by
//! FTS5's tokenizers: entries are words already, separated by blanks. User input is
//! never parsed as FTS5's query language, since a word has letters, digits and marks
//! only.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::readers::collect;
use super::{COLUMNS, read_number};
use crate::server::log::terms::for_each_entry;
use crate::server::log::{ReadRequest, Recipient, Record, Thread, UserId};

/// Characters for private use begin the words that tell who may read; no word of
/// a text can hold them.
const ROOM: char = '\u{E000}';
const PERSON: char = '\u{E001}';

/// What the index holds of a message.
pub(super) fn entry(record: &Record) -> String {
    let mut entry = match &record.to {
        Recipient::Room(room) => format!("{ROOM}{}", room.key().as_str()),
        Recipient::Person(UserId(to), _) => {
            format!("{PERSON}{} {PERSON}{to}", record.author.0)
        }
    };
    for_each_entry(&record.text, |word| {
        entry.push(' ');
        entry.push_str(word);
    });
    entry
}

/// The latest matches, the latest first: those the index does not know yet, then
/// those it does.
pub(super) fn find(
    connection: &Connection,
    query: &ReadRequest,
) -> rusqlite::Result<Vec<Arc<Record>>> {
    let indexed = read_number(connection, "indexed")?.cast_signed();
    let sql = format!("SELECT {COLUMNS} FROM messages WHERE id > ?1 ORDER BY id DESC");
    let mut found = collect(connection, &sql, [indexed], query)?;
    if found.len() < query.count {
        let rest = ReadRequest { count: query.count - found.len(), ..query.clone() };
        let sql = format!(
            "SELECT {COLUMNS} FROM search JOIN messages ON messages.id = search.rowid
             WHERE search MATCH ?1 AND search.rowid <= ?2 ORDER BY search.rowid DESC"
        );
        found.extend(collect(
            connection,
            &sql,
            params![expression(&query.thread), indexed],
            &rest,
        )?);
    }
    Ok(found)
}

/// `("deploy" AND "failed") AND ("lobby's" OR "ops'" OR "mine")`.
fn expression(thread: &Thread) -> String {
    let Thread::Search { reader, rooms, is_private_too, terms } = thread else {
        return "\"\"".to_owned();
    };
    let words: Vec<String> = terms.entries().map(|word| format!("\"{word}\"")).collect();
    let rooms = rooms.iter().map(|room| format!("\"{ROOM}{}\"", room.as_str()));
    let mine = is_private_too.then(|| format!("\"{PERSON}{}\"", reader.0));
    let places: Vec<String> = rooms.chain(mine).collect();
    format!("({}) AND ({})", words.join(" AND "), places.join(" OR "))
}
