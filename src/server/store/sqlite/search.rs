//! `/search` in the database: a full-text index (FTS5). The readers of a message are indexed as
//! words, too, so the cost of a search depends on what it finds, not on the messages of others.
//!
//! The text is split into words in one place (`protocol/words.rs`, `log/terms.rs`), not by FTS5's
//! tokenizers: index entries are hashes of words, separated by spaces. User input is never parsed
//! as an FTS5 query.

use std::cmp::Reverse;
use std::fmt::Write as _;

use rusqlite::{Connection, params};
use sha2::{Digest as _, Sha256};

use super::readers::scan;
use super::schema::{RECORDS, read_number};
use super::times::IdRanges;
use crate::protocol::SEARCH_WORDS_MAX;
use crate::server::record::{Recipient, Record, UserId};
use crate::server::store::read::Budget;
use crate::server::store::terms::for_each_entry;
use crate::server::store::{Read, Thread};

/// Private-use characters that begin the words for rooms and users; no word of a text contains
/// them.
const ROOM: char = '\u{E000}';
const PERSON: char = '\u{E001}';

/// Returns the index entry of a message. It must stay the same for as long as the message exists,
/// since it is needed to remove the message from the index.
pub(super) fn entry(record: &Record) -> String {
    let mut entry = match &record.to {
        Recipient::Room(room) => hash(&format!("{ROOM}{}", room.key().as_str())),
        Recipient::Person(UserId(to), _) => {
            [record.author.0, *to].map(|user| hash(&format!("{PERSON}{user}"))).join(" ")
        }
    };
    for_each_entry(&record.text, |word| {
        entry.push(' ');
        entry.push_str(&hash(word));
    });
    entry
}

/// Returns the hash of a word, which is what the index contains: FTS5 separates its blocks by
/// words that stay until the blocks are merged, however long ago the messages were deleted. As
/// matches are compared with the texts, a collision has no effect.
fn hash(word: &str) -> String {
    let digest = Sha256::digest(word);
    digest.iter().take(6).fold(String::new(), |mut hash, byte| {
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

/// Finds the latest matches, latest first: among the messages that are not indexed yet, then in
/// the index. Returns `false` if the slice ends before.
pub(super) fn find(
    connection: &Connection,
    read: &mut Read,
    budget: &mut Budget,
) -> rusqlite::Result<bool> {
    let indexed = read_number(connection, "indexed")?;
    let sql = format!("{RECORDS} WHERE m.id > max(?1, ?3) AND m.id < ?2 ORDER BY m.id DESC");
    let ranges = IdRanges::of(connection, read)?;
    let is_scanned = scan(connection, &sql, &indexed.cast_signed().into(), &ranges, read, budget)?;
    if !is_scanned || read.is_filled() {
        return Ok(is_scanned);
    }
    let (_, before) = read.range();
    read.move_to(before.min(indexed + 1));
    find_indexed(connection, &ranges, read, budget)
}

/// Finds the latest matches in the index: follows the rarest entries from id to id, and compares
/// the texts that have all of these. FTS5 could intersect the entries itself, but not in slices:
/// while nothing matches it does not return.
fn find_indexed(
    connection: &Connection,
    ranges: &IdRanges,
    read: &mut Read,
    budget: &Budget,
) -> rusqlite::Result<bool> {
    let sql = format!("{RECORDS} WHERE m.id > ?1 AND m.id < ?2 AND m.id = ?3");
    let mut postings = Vec::new();
    for expression in expressions(&read.request().thread) {
        postings.push(Postings::fetch(connection, expression, read.range().1 - 1)?);
    }
    keep_rarest(&mut postings);
    while let Some(newest) = read.range().1.checked_sub(1) {
        let Some(mut id) = ranges.at_or_below(newest) else { return Ok(true) };
        for posting in &mut postings {
            let Some(next) = posting.at_or_below(id)? else { return Ok(true) };
            id = next;
        }
        if id < newest {
            // Those before the last one may have no such id.
            read.move_to(id + 1);
        } else {
            scan(connection, &sql, &id.cast_signed().into(), ranges, read, &mut budget.of_time())?;
            if read.is_filled() {
                return Ok(true);
            }
            read.move_to(id);
        }
        if budget.is_over() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Comparing a text takes as long as reading this number of entries.
const COMPARISON: u64 = 16;

/// Keeps the rarest entry, and each further one that excludes enough texts for the time it takes
/// to follow it.
fn keep_rarest(postings: &mut Vec<Postings<'_>>) {
    postings.sort_by_key(|posting| Reverse(posting.spacing));
    let mut common = None;
    postings.retain(|Postings { spacing, .. }| {
        let is_kept = common.is_none_or(|common| common <= COMPARISON * (spacing - 1));
        if is_kept {
            common = Some(common.unwrap_or(1_u64).saturating_mul(*spacing));
        }
        is_kept
    });
}

/// The ids of the messages with one index entry, or with one of several; latest first.
struct Postings<'c> {
    connection: &'c Connection,
    expression: String,
    /// The next ones, in reverse order.
    ids: Vec<i64>,
    /// The lowest id of the last batch.
    lowest: i64,
    /// The size of the last batch.
    batch: usize,
    is_last: bool,
    /// How many messages there are for one with the entry, in the last batch.
    spacing: u64,
}

/// Size of the first batch of ids, and after a jump: the time for it is like that for the seek.
const BATCH: usize = 512;

/// The largest batch, while batches adjoin.
const BATCH_MAX: usize = 4096;

impl<'c> Postings<'c> {
    /// Fetches the first batch.
    fn fetch(connection: &'c Connection, expression: String, limit: u64) -> rusqlite::Result<Self> {
        let (ids, lowest, batch) = (Vec::new(), i64::MAX, 0);
        let mut postings =
            Self { connection, expression, ids, lowest, batch, is_last: false, spacing: 1 };
        postings.fetch_next(i64::try_from(limit).unwrap_or(i64::MAX))?;
        Ok(postings)
    }

    /// Returns the highest id up to `limit`, which does not increase from call to call.
    fn at_or_below(&mut self, limit: u64) -> rusqlite::Result<Option<u64>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        loop {
            while self.ids.pop_if(|id| *id > limit).is_some() {}
            if let Some(id) = self.ids.last() {
                return Ok(Some(id.cast_unsigned()));
            }
            if self.is_last {
                return Ok(None);
            }
            self.fetch_next(limit)?;
        }
    }

    fn fetch_next(&mut self, limit: i64) -> rusqlite::Result<()> {
        let jump = u64::try_from(self.lowest.saturating_sub(limit)).unwrap_or_default();
        let has_jumped = jump / self.spacing > self.batch as u64;
        self.batch = if has_jumped { BATCH } else { (self.batch * 2).clamp(BATCH, BATCH_MAX) };
        let mut statement = self.connection.prepare_cached(
            "SELECT rowid FROM search WHERE search MATCH ?1 AND rowid <= ?2
             ORDER BY rowid DESC LIMIT ?3",
        )?;
        let batch = i64::try_from(self.batch).unwrap_or(i64::MAX);
        let ids = statement.query_map(params![self.expression, limit, batch], |row| row.get(0))?;
        self.ids = ids.collect::<rusqlite::Result<_>>()?;
        self.ids.reverse();
        self.is_last = self.ids.len() < self.batch;
        self.lowest = self.ids.first().copied().filter(|_| !self.is_last).unwrap_or_default();
        let span = u64::try_from(limit - self.lowest).unwrap_or_default();
        self.spacing = (span / (self.ids.len() as u64).max(1)).max(1);
        Ok(())
    }
}

/// Returns `"deploy"`, `"failed"`, and the places, `"lobby's" OR "ops'" OR "mine"`, as hashes.
/// All of them match a message that is found; of a long sequence of letters a part of the entries
/// is enough.
fn expressions(thread: &Thread) -> impl Iterator<Item = String> {
    let Thread::Search { reader, rooms, is_private_too, terms } = thread else {
        return Vec::new().into_iter();
    };
    let rooms = rooms.iter().map(|room| hash(&format!("{ROOM}{}", room.as_str())));
    let mine = is_private_too.then(|| hash(&format!("{PERSON}{}", reader.0)));
    let quote = |hash: String| format!("\"{hash}\"");
    let places = rooms.chain(mine).map(quote).collect::<Vec<_>>().join(" OR ");
    let words = terms.entries().take(SEARCH_WORDS_MAX).map(|word| quote(hash(word)));
    words.chain([places]).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::protocol::{Key, Name, RoomName, Stamp};
    use crate::server::store::sqlite::{Durability, FILE, Options, Retention, SqliteLog};
    use crate::server::store::{Batch, LastIds, Log as _, ReadRequest, SearchTerms};

    /// A log whose message `id` has the text `text(id)`; all but the last ten are indexed.
    fn log_with(folder: &std::path::Path, count: u64, text: fn(u64) -> String) -> Connection {
        let options = Options { durability: Durability::Relaxed, retention: Retention::default() };
        let (mut log, _) = SqliteLog::open(folder, options).unwrap();
        let connection = Connection::open(folder.join(FILE)).unwrap();
        let mut append = |ids: std::ops::RangeInclusive<u64>| {
            let last = LastIds { message: *ids.end(), person: 1 };
            let records = ids.map(|id| {
                let (from, to) = (Name::parse("alice").unwrap(), RoomName::parse("ops").unwrap());
                let (author, to, text) = (UserId(1), Recipient::Room(to), text(id).into());
                let (time, is_action, cid) = (Stamp(0), false, None);
                Arc::new(Record { id, time, author, from, to, is_action, text, cid })
            });
            let batch = Batch { records: records.collect(), changes: Vec::new(), last };
            log.append(&batch).unwrap();
        };
        append(1..=count - 10);
        let start = Instant::now();
        while read_number(&connection, "indexed").unwrap() < count - 10 {
            assert!(start.elapsed() < Duration::from_secs(30), "the index is never complete");
            thread::sleep(Duration::from_millis(5));
        }
        append(count - 9..=count);
        connection
    }

    /// Returns the ids of the matches, oldest first, and the number of slices.
    fn search(
        connection: &Connection,
        text: &str,
        count: usize,
        budget: fn() -> Budget,
    ) -> (Vec<u64>, usize) {
        let (terms, rooms) = (SearchTerms::parse(text), vec![Key::fold("ops"), Key::fold("no")]);
        let thread = Thread::Search { reader: UserId(2), rooms, is_private_too: true, terms };
        let mut read = Read::new(ReadRequest::latest(thread, count, usize::MAX));
        let mut slices = 1;
        while !find(connection, &mut read, &mut budget()).unwrap() {
            slices += 1;
        }
        let found = read.complete(0).rows;
        (found.iter().map(|(id, _)| *id).collect(), slices)
    }

    #[test]
    fn slices_find_the_same_as_one_read() {
        const COUNT: u64 = 1500;
        let folder = tempfile::tempdir().unwrap();
        let connection = log_with(folder.path(), COUNT, |id| {
            let parity = if id % 2 == 0 { "even" } else { "odd" };
            let hundred = if id % 100 == 0 { "hundred" } else { "" };
            let first = if id == 7 { "first" } else { "" };
            format!("every {parity} {hundred} {first} 北京{id}")
        });
        let matching = |is_match: fn(u64) -> bool| (1..=COUNT).filter(move |id| is_match(*id));
        let cases: [(&str, Vec<u64>); 8] = [
            ("every", matching(|_| true).collect()),
            ("even odd", Vec::new()),
            ("even every", matching(|id| id % 2 == 0).collect()),
            ("hundred even every", matching(|id| id % 100 == 0).collect()),
            ("hundred odd", Vec::new()),
            ("first odd", vec![7]),
            ("first even", Vec::new()),
            ("京 nothing", Vec::new()),
        ];
        for (text, expected) in cases {
            for count in [50, usize::MAX] {
                let latest = &expected[expected.len().saturating_sub(count)..];
                let (at_once, _) = search(&connection, text, count, Budget::new);
                let (in_slices, slices) = search(&connection, text, count, Budget::spent);
                assert_eq!(at_once, latest, "{text}");
                assert_eq!(in_slices, latest, "{text}");
                assert!(latest.is_empty() || slices > 1, "{text}: {slices}");
            }
        }
        let (found, slices) = search(&connection, "even odd", 50, Budget::spent);
        assert!(found.is_empty() && slices > 500, "{slices}");
    }
}
