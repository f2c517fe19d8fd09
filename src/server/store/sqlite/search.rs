//! `/search` in the database: a full-text index (FTS5). The readers of a message are indexed as
//! words, too, so the cost of a search depends on what it finds, not on the messages of others.
//!
//! The text is split into words in one place (`protocol/words.rs`, `log/terms.rs`), not by FTS5's
//! tokenizers: index entries are words already, separated by spaces. User input is never parsed
//! as an FTS5 query, because a word contains letters, digits and marks only.

use std::sync::Arc;

use rusqlite::{Connection, params};

use super::readers::collect;
use super::{COLUMNS, read_number};
use crate::server::record::{Recipient, Record, UserId};
use crate::server::store::terms::for_each_entry;
use crate::server::store::{ReadRequest, Thread};

/// Private-use characters that begin the words for rooms and users; no word of a text contains
/// them.
const ROOM: char = '\u{E000}';
const PERSON: char = '\u{E001}';

/// Returns the index entry of a message.
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

/// Returns the latest matches, latest first: from messages that are not indexed yet, then from
/// the index.
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
