//! The log: one growing sequence of messages. A room and a private thread are
//! filters over it; history and catching up are "read on from a position".
//!
//! [`Log`] is the small trait storage sits behind. [`memory`] is the log that
//! forgets, [`sqlite`] the one that does not.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::protocol::{Cid, Key, Message, Name, Place, RoomName, Stamp};

pub mod memory;

pub mod sqlite;

pub mod terms;

pub use terms::SearchTerms;

/// Who somebody is, whatever the name: an account, or one visit of a guest.
/// Never reused, so what belonged to one is never anyone else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserId(pub u64);

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// Everyone in a room.
    Room(RoomName),
    /// One person, under the name of that moment.
    Person(UserId, Name),
}

/// One message: chat, an action, or a private message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log. Growing, never reused.
    pub id: u64,
    /// When it was accepted. Before the record before it only where the clock was set back.
    pub time: Stamp,
    /// Who said it.
    pub author: UserId,
    /// The author's name of that moment.
    pub from: Name,
    /// For whom.
    pub to: Recipient,
    /// `/me`.
    pub is_action: bool,
    /// The words, clean.
    pub text: Box<str>,
    /// The author's own mark, by which a repetition is known.
    pub cid: Option<Cid>,
}

impl Record {
    /// The message as `reader` sees it.
    #[must_use]
    pub fn seen_by(&self, reader: UserId) -> Message<'_> {
        let place = match &self.to {
            Recipient::Room(room) => Place::Room(room.as_str()),
            Recipient::Person(_, name) if self.author == reader => Place::ToPerson(name.as_str()),
            Recipient::Person(..) => Place::ToMe,
        };
        let (from, is_action) = (self.from.as_str(), self.is_action);
        Message { place, from, is_action, text: &self.text }
    }

    /// Roughly what it takes in memory, in bytes.
    fn size(&self) -> usize {
        size_of::<Self>() + self.text.len() + 64
    }
}

/// Which conversation to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thread {
    /// A room's.
    Room(Key),
    /// What passed between two people.
    Private {
        /// Who reads.
        reader: UserId,
        /// The other's name, now or then.
        other: Key,
        /// The other, if that name is here: then also what was said under
        /// earlier names.
        other_id: Option<UserId>,
    },
    /// All that one person may read in these rooms, and what was said to or by
    /// them privately, that holds certain words.
    Search {
        /// Who.
        reader: UserId,
        /// The rooms.
        rooms: Vec<Key>,
        /// Whether private messages are looked at.
        is_private_too: bool,
        /// What the text must contain.
        terms: SearchTerms,
    },
    /// Messages by their ids.
    Ids {
        /// For whom they are; others are not among them.
        reader: UserId,
        /// Growing.
        ids: Vec<u64>,
    },
    /// One message, whoever it is for: not to be shown, but to compare its time.
    Message {
        /// Which one.
        id: u64,
    },
    /// All that one person was there to see.
    Feed {
        /// Who.
        reader: UserId,
        /// When they were in which room.
        stays: Vec<MembershipSpan>,
    },
}

/// Somebody's time in a room, in ids of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipSpan {
    /// The room.
    pub room: Key,
    /// The last message before they came.
    pub from: u64,
    /// The last message before they left; not yet, if they are there.
    pub until: Option<u64>,
}

/// How many messages are looked at for one page of a feed, whoever they are for: it is
/// at no time long until others are read for.
const SCAN_MAX: usize = 4096;

impl MembershipSpan {
    fn covers(&self, room: &Key, id: u64) -> bool {
        self.room == *room && id > self.from && self.until.is_none_or(|until| id <= until)
    }
}

/// Stays in such an order that the one which may cover a message is found at once.
struct SortedSpans<'s>(Vec<&'s MembershipSpan>);

impl<'s> SortedSpans<'s> {
    fn of(thread: &'s Thread) -> Self {
        let Thread::Feed { stays, .. } = thread else { return Self(Vec::new()) };
        let mut stays: Vec<&MembershipSpan> = stays.iter().collect();
        stays.sort_by(|one, other| (&one.room, one.from).cmp(&(&other.room, other.from)));
        Self(stays)
    }

    /// In one room they follow each other: the last that began before it tells.
    fn covers(&self, room: &Key, id: u64) -> bool {
        let later = self.0.partition_point(|stay| (&stay.room, stay.from) < (room, id));
        later.checked_sub(1).is_some_and(|last| self.0[last].covers(room, id))
    }
}

/// What to read of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// Of which conversation.
    pub thread: Thread,
    /// At most so many.
    pub count: usize,
    /// With no more than this in memory, in bytes; but one in any case.
    pub size: usize,
    /// The nearest after this id; without one, the latest.
    pub after: Option<u64>,
    /// Whose messages the reader does not want to see.
    pub hidden: Vec<UserId>,
}

impl ReadRequest {
    /// Whether a record is one of those asked for, its position aside; the stays are
    /// this query's.
    fn wants(&self, record: &Record, stays: &SortedSpans<'_>) -> bool {
        if self.hidden.contains(&record.author) {
            return false;
        }
        match (&self.thread, &record.to) {
            (Thread::Room(key), Recipient::Room(room)) => room.key() == key,
            (Thread::Private { reader, other, other_id }, Recipient::Person(to, to_name)) => {
                let is_other = |id, name: &Name| Some(id) == *other_id || name.key() == other;
                (record.author == *reader && is_other(*to, to_name))
                    || (to == reader && is_other(record.author, &record.from))
            }
            (Thread::Feed { .. }, Recipient::Room(room)) => stays.covers(room.key(), record.id),
            (Thread::Search { reader, rooms, is_private_too, terms }, to) => {
                let may_read = match to {
                    Recipient::Room(room) => rooms.contains(room.key()),
                    Recipient::Person(to, _) => {
                        *is_private_too && (record.author == *reader || to == reader)
                    }
                };
                may_read && terms.are_in(&record.text)
            }
            (Thread::Ids { reader, ids }, Recipient::Person(to, _)) => {
                to == reader && ids.binary_search(&record.id).is_ok()
            }
            (Thread::Message { id }, _) => record.id == *id,
            (Thread::Feed { reader, .. }, Recipient::Person(to, _)) => {
                record.author == *reader || to == reader
            }
            _ => false,
        }
    }

    /// Whether there is no room for more than these.
    #[must_use]
    pub fn is_filled_by(&self, records: &[Arc<Record>]) -> bool {
        self.is_filled(records.len(), records.iter().map(|record| record.size()).sum())
    }

    fn is_filled(&self, count: usize, size: usize) -> bool {
        count >= self.count || size >= self.size
    }

    /// The first of these that are asked for and that there is room for. What comes
    /// after them is not looked at.
    pub fn fill<'r>(&self, records: impl IntoIterator<Item = &'r Arc<Record>>) -> Vec<Arc<Record>> {
        let records = records.into_iter().cloned().map(Ok::<_, Infallible>);
        let Ok(found) = self.try_fill(records);
        found
    }

    /// The same of records that have to be read.
    fn try_fill<E>(
        &self,
        records: impl IntoIterator<Item = Result<Arc<Record>, E>>,
    ) -> Result<Vec<Arc<Record>>, E> {
        let stays = SortedSpans::of(&self.thread);
        let (mut found, mut size, mut records) = (Vec::new(), 0, records.into_iter());
        while !self.is_filled(found.len(), size) {
            let Some(record) = records.next().transpose()? else { break };
            if self.wants(&record, &stays) {
                size += record.size();
                found.push(record);
            }
        }
        Ok(found)
    }
}

/// What a read found.
#[derive(Debug, Default)]
pub struct ReadResult {
    /// Oldest first.
    pub records: Vec<Arc<Record>>,
    /// Up to which id the log was looked at: later records may have come since, or not
    /// have been looked at yet.
    pub upto: u64,
    /// Whether the log has forgotten some of what was asked for.
    pub has_gap: bool,
    /// Whether the log could not be read: what it holds is not known then.
    pub has_failed: bool,
}

impl ReadResult {
    /// Nothing is known.
    #[must_use]
    pub fn failed() -> Self {
        Self { has_failed: true, ..Self::default() }
    }

    /// With a full page, the log was looked at only up to its last record.
    fn cut_for(mut self, query: &ReadRequest) -> Self {
        if query.is_filled_by(&self.records)
            && let Some(last) = self.records.last()
        {
            self.upto = last.id;
        }
        self
    }
}

/// Where counting goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastIds {
    /// The last message's id.
    pub message: u64,
    /// The last person's.
    pub person: u64,
}

/// What is kept besides messages: small things, each known by a number. What
/// they say is the hub's business; storage only keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collection {
    /// Visits that can be come back to, by person.
    Session,
    /// Accounts, by person.
    Account,
    /// Messages that wait for an account, by id.
    Mail,
    /// What operators decided, by a number for each room; 0 is the server's.
    Moderation,
    /// When who was in which room, by a number for some of these of one visit.
    Spans,
}

impl Collection {
    /// Every shelf and its name in storage, which never changes.
    pub const TABLE: [(Self, &'static str); 5] = [
        (Self::Session, "visit"),
        (Self::Account, "account"),
        (Self::Mail, "mail"),
        (Self::Moderation, "order"),
        (Self::Spans, "stays"),
    ];

    /// The name in storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::TABLE[self as usize].1
    }
}

/// One thing is kept from now on as it is here, or no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of which kind it is.
    pub shelf: Collection,
    /// Which one.
    pub key: u64,
    /// What it says; `None`: it is gone.
    pub value: Option<String>,
}

/// What becomes part of the log at once, or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages, their ids growing.
    pub records: Vec<Arc<Record>>,
    /// What else is to be kept.
    pub changes: Vec<Change>,
    /// The last numbers given away by now.
    pub last: LastIds,
}

/// What a log was opened with.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Where counting goes on.
    pub last: LastIds,
    /// The things on the shelves.
    pub entries: Vec<(Collection, u64, String)>,
    /// The latest messages, oldest first: whoever comes back may send again what
    /// of them was not answered.
    pub latest: Vec<Arc<Record>>,
}

/// A message that is not stored since its author used its mark before: its id,
/// and the first message of that mark.
#[derive(Debug)]
pub struct Duplicate {
    /// The id that stays unused.
    pub id: u64,
    /// What was said then.
    pub first: Arc<Record>,
}

/// Where the rows of a read go.
pub type Reply = Box<dyn FnOnce(ReadResult) + Send>;

/// Why a batch is not part of the log.
#[derive(Debug)]
pub enum AppendError {
    /// There is no room now; nothing of the batch is stored, and a later one may
    /// be.
    Full(String),
    /// Another process holds a lock on the log; nothing of the batch is stored, and a
    /// later one may be.
    Locked,
    /// The log was removed or replaced meanwhile: what is stored now would be lost.
    Gone(String),
    /// Whether it is stored cannot be known, and nothing more may be promised.
    Broken(anyhow::Error),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(why) => write!(f, "no room to store messages: {why}"),
            Self::Locked => f.write_str("the log is locked by another process"),
            Self::Gone(why) => write!(f, "the log is gone: {why}"),
            Self::Broken(why) => write!(f, "the log failed: {why:#}"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Storage: append a batch, read from a position.
pub trait Log {
    /// Makes the batch part of the log, all of it or nothing but what turns out
    /// to be repeated. What is appended is safe when this is done.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn append(&mut self, batch: &Batch) -> Result<Vec<Duplicate>, AppendError>;

    /// Makes sure that the next batch's changes can be stored: takes the lock they
    /// need, and disk space for them, until that batch is appended. Not for its
    /// messages, which can be refused after the fact.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn reserve(&mut self) -> Result<(), AppendError> {
        Ok(())
    }

    /// Has it reported when the log fails while nothing is appended to it.
    fn on_failure(&mut self, report: Box<dyn Fn(AppendError) + Send>) {
        drop(report);
    }

    /// Completes the log: nothing is appended or read after this.
    ///
    /// # Errors
    /// What is left to be done by whoever copies it; everything appended is stored.
    fn close(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Reads what is appended by now; the rows come when they are found.
    fn read(&self, query: ReadRequest, reply: Reply);
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::memory::MemoryLog;
    use super::sqlite::{Durability, Options, Retention, SqliteLog};
    use super::*;

    const READER: UserId = UserId(7);

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn stay(name: &str, from: u64, until: Option<u64>) -> MembershipSpan {
        MembershipSpan { room: room(name).key().clone(), from, until }
    }

    fn record(id: u64, to: Recipient) -> Arc<Record> {
        let from = Name::parse("alice").unwrap();
        let (time, author, text) = (Stamp(0), UserId(1), "x".into());
        Arc::new(Record { id, time, author, from, to, is_action: false, text, cid: None })
    }

    /// Follows a feed from the beginning; gives the ids, and how many pages it took.
    fn follow(log: &impl Log, stays: &[MembershipSpan], last: u64) -> (Vec<u64>, usize) {
        let (mut ids, mut pages, mut after) = (Vec::new(), 0, 0);
        while after < last {
            let thread = Thread::Feed { reader: READER, stays: stays.to_vec() };
            let (count, size, hidden) = (256, 64 << 10, Vec::new());
            let (found, rows) = mpsc::channel();
            let query = ReadRequest { thread, count, size, after: Some(after), hidden };
            log.read(query, Box::new(move |rows| found.send(rows).unwrap()));
            let rows = rows.recv().unwrap();
            assert!(rows.upto > after && !rows.has_failed, "{} after {after}", rows.upto);
            ids.extend(rows.records.iter().map(|record| record.id));
            (after, pages) = (rows.upto, pages + 1);
        }
        assert_eq!(after, last);
        (ids, pages)
    }

    #[test]
    fn a_feed_looks_at_so_many_messages_at_once_whoever_they_are_for() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { durability: Durability::Commit, retention: Retention::default() };
        let (mut file, _) = SqliteLog::open(folder.path(), options).unwrap();
        let mut memory = MemoryLog::new(usize::MAX, usize::MAX);
        // Every third number became no message.
        let ids: Vec<u64> = (1..15_000).filter(|id| id % 3 != 0).collect();
        let (mine, last) = ([9_998_u64, 14_998], 14_999);
        let records = ids.iter().map(|id| match id {
            9_998 => record(*id, Recipient::Person(READER, Name::parse("bob").unwrap())),
            14_998 => record(*id, Recipient::Room(room("mine"))),
            _ => record(*id, Recipient::Room(room("others"))),
        });
        let last_numbers = LastIds { message: last, person: 7 };
        let batch = Batch { records: records.collect(), changes: Vec::new(), last: last_numbers };
        file.append(&batch).unwrap();
        memory.append(&batch).unwrap();
        let stays = [stay("mine", 14_000, None)];
        assert_eq!(follow(&file, &stays, last), (mine.to_vec(), 3));
        assert_eq!(follow(&memory, &stays, last), (mine.to_vec(), 3));
        // Who saw much is told it page by page, each message once.
        let stays = [stay("others", 0, Some(7000)), stay("others", 7000, None)];
        let seen: Vec<u64> = ids.iter().copied().filter(|id| *id != 14_998).collect();
        assert_eq!(follow(&file, &stays, last).0, seen);
        assert_eq!(follow(&memory, &stays, last).0, seen);
    }

    #[test]
    fn one_message_is_found_by_its_id_whoever_it_is_for() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { durability: Durability::Commit, retention: Retention::default() };
        let (mut file, _) = SqliteLog::open(folder.path(), options).unwrap();
        let mut memory = MemoryLog::new(2, usize::MAX);
        let to_bob = Recipient::Person(UserId(2), Name::parse("bob").unwrap());
        let records = [
            record(1, Recipient::Room(room("ops"))),
            record(2, to_bob.clone()),
            record(4, Recipient::Room(room("ops"))),
        ];
        let last = LastIds { message: 4, person: 2 };
        let batch = Batch { records: records.to_vec(), changes: Vec::new(), last };
        file.append(&batch).unwrap();
        memory.append(&batch).unwrap();
        let find = |log: &dyn Log, id| {
            let (found, rows) = mpsc::channel();
            let thread = Thread::Message { id };
            let query =
                ReadRequest { thread, count: 1, size: usize::MAX, after: None, hidden: vec![] };
            log.read(query, Box::new(move |rows| found.send(rows).unwrap()));
            let rows = rows.recv().unwrap();
            assert!(!rows.has_failed);
            rows.records.iter().map(|record| record.id).collect::<Vec<_>>()
        };
        for (id, in_file, in_memory) in
            [(1, &[1][..], &[][..]), (2, &[2], &[2]), (3, &[], &[]), (4, &[4], &[4]), (5, &[], &[])]
        {
            assert_eq!(
                (find(&file, id), find(&memory, id)),
                (in_file.to_vec(), in_memory.to_vec())
            );
        }
    }

    #[test]
    fn a_message_is_in_a_feed_if_a_stay_covers_it() {
        let stays = vec![
            stay("ops", 2, Some(4)),
            stay("lobby", 3, Some(3)),
            stay("ops", 4, Some(6)),
            stay("lobby", 3, None),
            stay("ops", 9, None),
        ];
        let thread = Thread::Feed { reader: READER, stays: stays.clone() };
        let index = SortedSpans::of(&thread);
        for id in 0..12 {
            for name in ["lobby", "ops", "mine", "zoo"] {
                let key = room(name).key().clone();
                let is_covered = stays.iter().any(|stay| stay.covers(&key, id));
                assert_eq!(index.covers(&key, id), is_covered, "{name}: {id}");
            }
        }
    }

    /// Numbers without a pattern, the same in every run.
    fn numbers(mut seed: u64) -> impl FnMut(usize) -> usize {
        move |below| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        }
    }

    /// What the documentation of `/search` says, without regard to cost: every word of
    /// the query is a word of the text, or, of scripts that are not separated by spaces,
    /// its letters follow each other in one.
    fn matches(text: &str, query: &str) -> bool {
        use crate::protocol::words;
        let (text, query) = (words::fold(text), words::fold(query));
        let letters = |word| words::clusters(word).collect::<Vec<_>>();
        let said: Vec<_> = words::split(&text).map(letters).collect();
        let wanted: Vec<_> = words::split(&query).map(letters).collect();
        !wanted.is_empty()
            && wanted.iter().all(|word| {
                if word[0].starts_with(words::is_found_inside) {
                    said.iter().any(|said| said.windows(word.len()).any(|part| part == word))
                } else {
                    said.contains(word)
                }
            })
    }

    fn await_index(folder: &Path, last: u64) {
        let file = rusqlite::Connection::open(folder.join(sqlite::FILE)).unwrap();
        let sql = "SELECT number FROM last WHERE what = 'indexed'";
        let start = Instant::now();
        while file.query_row(sql, [], |row| row.get(0)) != Ok(last.cast_signed()) {
            assert!(start.elapsed() < Duration::from_secs(30), "the index is never complete");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn every_log_finds_the_texts_that_match_in_every_script() {
        const PARTS: [&str; 36] = [
            "a",
            "B",
            "ß",
            "SS",
            "é",
            "e\u{301}",
            "İ",
            "i",
            "\u{307}",
            "1",
            "１",
            "ﬁ",
            "σ",
            "ς",
            "д",
            "ё",
            "北",
            "京",
            "北京",
            "か",
            "カ",
            "ｶﾞ",
            "ก",
            "กี",
            "\u{e48}",
            "ข้",
            "한",
            "\u{1112}\u{1161}",
            "글",
            "हि",
            "न्",
            "ש\u{5b8}",
            "\u{ad}",
            "\u{200d}",
            " ",
            " ",
        ];
        let mut next = numbers(7);
        let mut any_text = |most: usize| -> String {
            let len = 1 + next(most);
            (0..len).map(|_| [PARTS[next(36)], ["", "", " ", "-", "’"][next(5)]].concat()).collect()
        };
        let texts: Vec<String> = (0..600).map(|_| any_text(12)).collect();
        let records = texts.iter().zip(1..).map(|(text, id)| {
            let record = record(id, Recipient::Room(room("ops")));
            Arc::new(Record { text: text.as_str().into(), ..(*record).clone() })
        });
        let records: Vec<_> = records.collect();
        let folder = tempfile::tempdir().unwrap();
        let options = Options { durability: Durability::Relaxed, retention: Retention::default() };
        let (mut file, _) = SqliteLog::open(folder.path(), options).unwrap();
        let mut memory = MemoryLog::new(usize::MAX, usize::MAX);
        // Most are indexed when they are searched for, the last ones not yet.
        for part in records.chunks(400) {
            let last = LastIds { message: part.last().unwrap().id, person: 7 };
            let batch = Batch { records: part.to_vec(), changes: Vec::new(), last };
            file.append(&batch).unwrap();
            memory.append(&batch).unwrap();
            if last.message == 400 {
                await_index(folder.path(), 400);
            }
        }
        let find = |log: &dyn Log, terms: &SearchTerms| -> Vec<u64> {
            let (rooms, is_private_too) = (vec![Key::fold("ops")], false);
            let thread =
                Thread::Search { reader: READER, rooms, is_private_too, terms: terms.clone() };
            let (found, rows) = mpsc::channel();
            let (count, size, hidden) = (usize::MAX, usize::MAX, Vec::new());
            let query = ReadRequest { thread, count, size, after: None, hidden };
            log.read(query, Box::new(move |rows| found.send(rows).unwrap()));
            rows.recv().unwrap().records.iter().map(|record| record.id).collect()
        };
        let mut most = 0;
        for _ in 0..120 {
            let query = any_text(3);
            let terms = SearchTerms::parse(&query);
            let expected = texts.iter().zip(1..).filter(|(text, _)| matches(text, &query));
            let expected: Vec<u64> = expected.map(|(_, id)| id).collect();
            if !terms.is_empty() {
                assert_eq!(find(&memory, &terms), expected, "memory: {query:?}");
                assert_eq!(find(&file, &terms), expected, "file: {query:?}");
            }
            most = most.max(expected.len());
        }
        assert!(most > 20, "nothing was tested");
    }
}
