//! The log: one growing sequence of messages. A room and a private conversation are filters
//! over it; history and catching up read on from a position.
//!
//! Storage implements the small trait [`Log`]: [`memory`] is bounded and volatile, [`sqlite`] is
//! durable. The hub decides which messages a user may read; a [`ReadRequest`] states it.

use std::fmt;
use std::sync::{Arc, mpsc};

use serde::{Deserialize, Serialize};

use crate::protocol::{Key, Name, Stamp};
use crate::server::record::{Recipient, Record, UserId};

pub mod memory;
pub mod options;
mod read;
pub mod sqlite;
pub mod terms;

pub use read::{Read, Slice};
pub use terms::SearchTerms;

/// The messages that a read selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thread {
    /// The messages of a room.
    Room(Key),
    /// The private messages between two users.
    Private {
        /// The user who reads.
        reader: UserId,
        /// The other user's name, now or at that time.
        other: Key,
        /// The other user, if that name is online: then messages under earlier names are
        /// included.
        other_id: Option<UserId>,
    },
    /// Messages that contain search terms: those in some rooms, and private messages of the
    /// reader.
    Search {
        /// The user who searches.
        reader: UserId,
        /// The rooms that the user may search.
        rooms: Vec<Key>,
        /// Whether private messages are searched.
        is_private_too: bool,
        /// The terms that a text must contain.
        terms: SearchTerms,
    },
    /// Messages by their ids: of rooms, and private ones of the reader. The hub decides which
    /// rooms may be read.
    Ids {
        /// The user who reads.
        reader: UserId,
        /// Ascending.
        ids: Vec<u64>,
    },
    /// One message to any recipient. It is not shown; only its time is compared.
    Message {
        /// The id.
        id: u64,
    },
    /// Everything a user could see while a member of rooms; used to catch up.
    Feed {
        /// The user.
        reader: UserId,
        /// The user's memberships.
        stays: Vec<MembershipSpan>,
    },
}

/// A range of message ids during which a user was a member of a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipSpan {
    /// The room.
    pub room: Key,
    /// The last message before the user joined.
    pub from: u64,
    /// The last message before the user left; `None` while a member.
    pub until: Option<u64>,
}

impl MembershipSpan {
    fn covers(&self, room: &Key, id: u64) -> bool {
        self.room == *room && id > self.from && self.until.is_none_or(|until| id <= until)
    }
}

/// Membership spans, sorted so that the one that may cover a message is found by binary search.
struct SortedSpans<'s>(Vec<&'s MembershipSpan>);

impl<'s> SortedSpans<'s> {
    fn of(thread: &'s Thread) -> Self {
        let Thread::Feed { stays: spans, .. } = thread else { return Self(Vec::new()) };
        let mut spans: Vec<&MembershipSpan> = spans.iter().collect();
        spans.sort_by(|one, other| (&one.room, one.from).cmp(&(&other.room, other.from)));
        Self(spans)
    }

    /// Spans of one room do not overlap, so only the last one that begins before can cover.
    fn covers(&self, room: &Key, id: u64) -> bool {
        let later = self.0.partition_point(|span| (&span.room, span.from) < (room, id));
        later.checked_sub(1).is_some_and(|last| self.0[last].covers(room, id))
    }
}

/// A request to read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The messages to select.
    pub thread: Thread,
    /// Maximum number of messages.
    pub count: usize,
    /// Size of the records returned, in bytes: the last one is that which reaches it.
    pub size: usize,
    /// Read forward from this id; `None`: the latest messages.
    pub after: Option<u64>,
    /// Authors whom the reader ignores.
    pub hidden: Vec<UserId>,
    /// A further selection among the messages of the thread.
    pub filter: Filter,
}

/// Selects messages by their ids, times and author; the default selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only messages before this id.
    pub before: Option<u64>,
    /// Only messages of this time or later.
    pub since: Option<Stamp>,
    /// Only messages of this time or earlier.
    pub until: Option<Stamp>,
    /// Only messages of this author.
    pub author: Option<Author>,
}

/// An author, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The name, now or at that time.
    pub name: Key,
    /// The user who has the name: then messages under earlier names are included.
    pub id: Option<UserId>,
}

impl Filter {
    /// Ids need not be compared, as a read knows its range.
    fn selects(&self, record: &Record) -> bool {
        self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
            && self.author.as_ref().is_none_or(|author| {
                author.id == Some(record.author) || author.name == *record.from.key()
            })
    }
}

impl ReadRequest {
    /// Returns a request for the latest messages of a thread, from all authors.
    #[must_use]
    pub fn latest(thread: Thread, count: usize, size: usize) -> Self {
        let (after, hidden, filter) = (None, Vec::new(), Filter::default());
        Self { thread, count, size, after, hidden, filter }
    }

    /// Returns whether a record is selected, apart from its position; `spans` belongs to this
    /// request.
    fn selects(&self, record: &Record, spans: &SortedSpans<'_>) -> bool {
        if record.is_by_one_of(&self.hidden) || !self.filter.selects(record) {
            return false;
        }
        match (&self.thread, &record.to) {
            (Thread::Room(key), Recipient::Room(room)) => room.key() == key,
            (Thread::Private { reader, other, other_id }, Recipient::Person(to, to_name)) => {
                let is_other = |id, name: &Name| Some(id) == *other_id || name.key() == other;
                (record.author == *reader && is_other(*to, to_name))
                    || (to == reader && is_other(record.author, &record.from))
            }
            (Thread::Feed { .. }, Recipient::Room(room)) => spans.covers(room.key(), record.id),
            (Thread::Search { reader, rooms, is_private_too, terms }, to) => {
                let may_read = match to {
                    Recipient::Room(room) => rooms.contains(room.key()),
                    Recipient::Person(to, _) => {
                        *is_private_too && (record.author == *reader || to == reader)
                    }
                };
                may_read && terms.are_in(&record.text)
            }
            (Thread::Ids { ids, .. }, Recipient::Room(_)) => ids.binary_search(&record.id).is_ok(),
            (Thread::Ids { reader, ids }, Recipient::Person(to, _)) => {
                let is_mine = record.author == *reader || to == reader;
                is_mine && ids.binary_search(&record.id).is_ok()
            }
            (Thread::Message { id }, _) => record.id == *id,
            (Thread::Feed { reader, .. }, Recipient::Person(to, _)) => {
                record.author == *reader || to == reader
            }
            _ => false,
        }
    }

    /// Returns whether these records reach the limits of the request.
    #[must_use]
    pub fn is_filled_by(&self, records: &[Arc<Record>]) -> bool {
        self.is_filled(records.len(), records.iter().map(|record| record.size()).sum())
    }

    fn is_filled(&self, count: usize, size: usize) -> bool {
        count >= self.count || (size >= self.size && !self.lists_all())
    }

    /// Whether all messages are listed up to the count, even if not all records are returned.
    /// Other reads return a page, and end with its size.
    fn lists_all(&self) -> bool {
        matches!(self.thread, Thread::Room(_) | Thread::Private { .. } | Thread::Search { .. })
    }

    /// Returns the first selected records up to the limits.
    pub fn fill<'r>(&self, records: impl IntoIterator<Item = &'r Arc<Record>>) -> Vec<Arc<Record>> {
        let spans = SortedSpans::of(&self.thread);
        let (mut found, mut size, mut records) = (Vec::new(), 0, records.into_iter());
        while !self.is_filled(found.len(), size)
            && let Some(record) = records.next()
        {
            if self.selects(record, &spans) {
                size += record.size();
                found.push(record.clone());
            }
        }
        found
    }
}

/// The result of a read.
#[derive(Debug, Default)]
pub struct ReadResult {
    /// The id and time of each selected message, oldest first.
    pub rows: Vec<(u64, Stamp)>,
    /// The first of these messages, as many as reach the size of the request.
    pub records: Vec<Arc<Record>>,
    /// The id up to which all selected messages are in `records`; later ones may exist.
    pub upto: u64,
    /// Whether requested messages have already been deleted by retention.
    pub has_gap: bool,
    /// Whether reading failed; the content is unknown then.
    pub has_failed: bool,
}

impl ReadResult {
    /// Returns the result of a failed read.
    #[must_use]
    pub fn failed() -> Self {
        Self { has_failed: true, ..Self::default() }
    }
}

/// The last ids given out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastIds {
    /// The last message's id.
    pub message: u64,
    /// The last user's id.
    pub person: u64,
}

/// The kinds of small entries that are stored beside messages, each entry under a number. The
/// hub defines their values; storage does not interpret them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collection {
    /// Users with a session that can be resumed, by user id.
    Session,
    /// Accounts, by user id.
    Account,
    /// The positions of accounts that have mail, by user.
    Mailbox,
    /// Moderation, by a number per room; 0 is that of the server.
    Moderation,
    /// Older membership spans of users, in numbered blocks.
    Spans,
    /// Connections with a socket, by `ConnId`; stored with the hub's `Persisted::Everyone` only.
    Socket,
}

impl Collection {
    /// Every collection with its name in storage, which never changes.
    pub const TABLE: [(Self, &'static str); 6] = [
        (Self::Session, "visit"),
        (Self::Account, "account"),
        (Self::Mailbox, "mailbox"),
        (Self::Moderation, "order"),
        (Self::Spans, "stays"),
        (Self::Socket, "socket"),
    ];

    /// Returns the name in storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::TABLE[self as usize].1
    }
}

/// Sets or deletes one entry of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The collection.
    pub collection: Collection,
    /// The number of the entry.
    pub key: u64,
    /// The new value; `None` deletes the entry.
    pub value: Option<String>,
}

/// Messages and changes that are stored atomically.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The messages, in ascending order of ids.
    pub records: Vec<Arc<Record>>,
    /// Changes of entries.
    pub changes: Vec<Change>,
    /// The last ids given out so far.
    pub last: LastIds,
}

/// The state that a log contains when it is opened.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The last ids given out.
    pub last: LastIds,
    /// The entries of all collections.
    pub entries: Vec<(Collection, u64, String)>,
    /// The messages that wait in mailboxes, each with its account, in ascending order of ids.
    pub mail: Vec<(UserId, u64)>,
    /// The latest messages, oldest first, to deduplicate lines that clients send again after
    /// a restart.
    pub latest: Vec<Arc<Record>>,
}

/// A message that was not stored because its author had used the cid before.
#[derive(Debug)]
pub struct Duplicate {
    /// The id of the repeat, which stays unused.
    pub id: u64,
    /// The first message with that cid.
    pub first: Arc<Record>,
}

/// Receives what a slice of a read comes to.
pub type Reply = Box<dyn FnOnce(Slice) + Send>;

/// Why a batch was not stored.
#[derive(Debug)]
pub enum AppendError {
    /// No space at present; nothing of the batch is stored, and a later batch may succeed.
    Full(String),
    /// Another process has locked the log; nothing of the batch is stored, and a later batch
    /// may succeed.
    Locked,
    /// The files of the log were removed or replaced, so anything written would be lost.
    Gone(String),
    /// Whether the batch is stored is unknown; nothing more must be acknowledged.
    Broken(anyhow::Error),
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full(why) => write!(f, "no space to store messages: {why}"),
            Self::Locked => f.write_str("the log is locked by another process"),
            Self::Gone(why) => write!(f, "the log is gone: {why}"),
            Self::Broken(why) => write!(f, "the log failed: {why:#}"),
        }
    }
}

impl std::error::Error for AppendError {}

/// Storage of the log: append a batch, read from a position.
pub trait Log {
    /// Stores a batch atomically, except duplicates, which are returned. The batch is stored
    /// as durably as configured when this returns.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn append(&mut self, batch: &Batch) -> Result<Vec<Duplicate>, AppendError>;

    /// Ensures that the next batch's changes can be stored, by taking the write lock and disk
    /// space until that batch is appended. Messages are not covered, because they can still be
    /// refused after the append.
    ///
    /// # Errors
    /// See [`AppendError`].
    fn reserve(&mut self) -> Result<(), AppendError> {
        Ok(())
    }

    /// Sets a callback for failures outside of an append.
    fn on_failure(&mut self, report: Box<dyn Fn(AppendError) + Send>) {
        drop(report);
    }

    /// Closes the log. Nothing can be appended or read afterwards.
    ///
    /// # Errors
    /// A hint for the administrator who copies the log; everything appended is stored.
    fn close(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Performs the next slice of a read of what is appended so far; `reply` is called when it
    /// is done, possibly on another thread.
    fn read(&self, read: Read, reply: Reply);

    /// Performs all slices of a read, for tools and tests.
    fn read_all(&self, request: ReadRequest) -> ReadResult {
        let mut read = Read::new(request);
        loop {
            let (done, slices) = mpsc::channel();
            self.read(read, Box::new(move |slice| drop(done.send(slice))));
            match slices.recv() {
                Ok(Slice::Complete(result)) => return result,
                Ok(Slice::Partial(rest)) => read = *rest,
                Err(_) => return ReadResult::failed(),
            }
        }
    }
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
    use crate::protocol::{RoomName, Stamp};

    const READER: UserId = UserId(7);

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn span(name: &str, from: u64, until: Option<u64>) -> MembershipSpan {
        MembershipSpan { room: room(name).key().clone(), from, until }
    }

    fn record(id: u64, to: Recipient) -> Arc<Record> {
        let from = Name::parse("alice").unwrap();
        let (time, author, text) = (Stamp(0), UserId(1), "x".into());
        Arc::new(Record { id, time, author, from, to, is_action: false, text, cid: None })
    }

    /// Follows a feed from the beginning; returns the ids and the number of pages.
    fn follow(log: &impl Log, spans: &[MembershipSpan], last: u64) -> (Vec<u64>, usize) {
        let (mut ids, mut pages, mut after) = (Vec::new(), 0, 0);
        while after < last {
            let thread = Thread::Feed { reader: READER, stays: spans.to_vec() };
            let (count, size) = (256, 64 << 10);
            let query =
                ReadRequest { after: Some(after), ..ReadRequest::latest(thread, count, size) };
            let rows = log.read_all(query);
            assert!(rows.upto > after && !rows.has_failed, "{} after {after}", rows.upto);
            ids.extend(rows.records.iter().map(|record| record.id));
            (after, pages) = (rows.upto, pages + 1);
        }
        assert_eq!(after, last);
        (ids, pages)
    }

    /// Performs a read; returns also the number of its slices.
    fn count_slices(log: &impl Log, request: ReadRequest) -> (ReadResult, usize) {
        let (mut read, mut slices) = (Read::new(request), 1);
        loop {
            let (done, slice) = mpsc::channel();
            log.read(read, Box::new(move |slice| done.send(slice).unwrap()));
            match slice.recv().unwrap() {
                Slice::Complete(result) => return (result, slices),
                Slice::Partial(rest) => (read, slices) = (*rest, slices + 1),
            }
        }
    }

    /// The logs with the same messages: to #others, and two that reader 7 may see.
    fn logs_with_mine(folder: &Path) -> (SqliteLog, MemoryLog, Vec<u64>) {
        let options = Options { durability: Durability::Commit, retention: Retention::default() };
        let (mut file, _) = SqliteLog::open(folder, options).unwrap();
        let mut memory = MemoryLog::new(usize::MAX, usize::MAX);
        // Every third id became no message.
        let ids: Vec<u64> = (1..15_000).filter(|id| id % 3 != 0).collect();
        let records = ids.iter().map(|id| match id {
            9_998 => record(*id, Recipient::Person(READER, Name::parse("bob").unwrap())),
            14_998 => record(*id, Recipient::Room(room("mine"))),
            _ => record(*id, Recipient::Room(room("others"))),
        });
        let last = LastIds { message: 14_999, person: 7 };
        let batch = Batch { records: records.collect(), changes: Vec::new(), last };
        file.append(&batch).unwrap();
        memory.append(&batch).unwrap();
        (file, memory, ids)
    }

    #[test]
    fn feed_is_read_in_slices_and_pages() {
        let folder = tempfile::tempdir().unwrap();
        let (file, memory, ids) = logs_with_mine(folder.path());
        let (mine, last) = ([9_998_u64, 14_998], 14_999);
        let spans = [span("mine", 14_000, None)];
        assert_eq!(follow(&file, &spans, last), (mine.to_vec(), 1));
        assert_eq!(follow(&memory, &spans, last), (mine.to_vec(), 1));
        let thread = Thread::Feed { reader: READER, stays: spans.to_vec() };
        let (count, size) = (256, 64 << 10);
        let request = ReadRequest { after: Some(0), ..ReadRequest::latest(thread, count, size) };
        for slices in
            [count_slices(&file, request.clone()).1, count_slices(&memory, request.clone()).1]
        {
            assert_eq!(slices, 10_000 / 1024 + 1);
        }
        // A reader who may see much gets it page by page, each message once.
        let spans = [span("others", 0, Some(7000)), span("others", 7000, None)];
        let seen: Vec<u64> = ids.iter().copied().filter(|id| *id != 14_998).collect();
        assert_eq!(follow(&file, &spans, last).0, seen);
        assert_eq!(follow(&memory, &spans, last).0, seen);
    }

    /// Messages of two authors, whose times go back by half an hour in the middle.
    fn timed_records() -> Vec<Arc<Record>> {
        let time = |id: i64| Stamp(if id < 2500 { id * 1000 } else { (id - 1800) * 1000 });
        let timed = |id: u64| {
            let base = Arc::unwrap_or_clone(record(id, Recipient::Room(room("ops"))));
            let (author, from) = (UserId(1 + id % 2), ["ann", "bob"][usize::from(id % 2 == 1)]);
            let (from, time) = (Name::parse(from).unwrap(), time(id.cast_signed()));
            Arc::new(Record { time, author, from, ..base })
        };
        (1..=5000).map(timed).collect()
    }

    #[test]
    fn filter_selects_by_id_time_and_author() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { durability: Durability::Commit, retention: Retention::default() };
        let (mut file, _) = SqliteLog::open(folder.path(), options).unwrap();
        let mut memory = MemoryLog::new(usize::MAX, usize::MAX);
        let records = timed_records();
        let last = LastIds { message: 5000, person: 2 };
        let batch = Batch { records: records.clone(), changes: Vec::new(), last };
        file.append(&batch).unwrap();
        memory.append(&batch).unwrap();
        let by = |name, id| Some(Author { name: Key::fold(name), id });
        let stamp = |seconds: i64| Some(Stamp(seconds * 1000));
        let mut count_found = Vec::new();
        for (after, before, since, until, author) in [
            (None, Some(700), None, None, None),
            (None, Some(0), None, None, None),
            (None, None, stamp(2000), None, None),
            (None, None, stamp(2000), stamp(2100), by("ann", None)),
            (Some(0), None, stamp(2000), stamp(2100), None),
            (Some(3000), Some(3300), None, stamp(1400), by("none", Some(UserId(2)))),
            (Some(0), None, stamp(9000), None, None),
            (None, None, None, stamp(0), None),
        ] {
            let expected = records.iter().filter(|record| {
                after.is_none_or(|after| record.id > after)
                    && before.is_none_or(|before| record.id < before)
                    && since.is_none_or(|since| record.time >= since)
                    && until.is_none_or(|until| record.time <= until)
                    && author.as_ref().is_none_or(|author| match author.id {
                        Some(id) => record.author == id,
                        None => record.from.key() == &author.name,
                    })
            });
            let expected: Vec<u64> = expected.map(|record| record.id).collect();
            let count = 150.min(expected.len());
            let nearest = match after {
                Some(_) => &expected[..count],
                None => &expected[expected.len() - count..],
            };
            let (thread, hidden) = (Thread::Room(Key::fold("ops")), Vec::new());
            let filter = Filter { before, since, until, author };
            let (count, size) = (150, usize::MAX);
            let request = ReadRequest { thread, count, size, after, hidden, filter };
            for found in [file.read_all(request.clone()), memory.read_all(request)] {
                let found: Vec<u64> = found.rows.iter().map(|(id, _)| *id).collect();
                assert_eq!(found, nearest);
            }
            count_found.push(nearest.len());
        }
        assert_eq!(count_found, [150, 0, 150, 102, 150, 100, 0, 0]);
    }

    #[test]
    fn listing_returns_all_ids_and_a_page_of_records() {
        let folder = tempfile::tempdir().unwrap();
        let (file, memory, ids) = logs_with_mine(folder.path());
        let others: Vec<u64> = ids.into_iter().filter(|id| !matches!(id, 9_998 | 14_998)).collect();
        let (count, size) = (3000, 10 * record(1, Recipient::Room(room("others"))).size());
        let list = |after, hidden: &[UserId]| {
            let thread = Thread::Room(Key::fold("others"));
            let request = ReadRequest {
                after,
                hidden: hidden.to_vec(),
                ..ReadRequest::latest(thread, count, size)
            };
            let (found, slices) = count_slices(&file, request.clone());
            let (in_memory, slices_in_memory) = count_slices(&memory, request);
            assert_eq!((&found.rows, &found.records), (&in_memory.rows, &in_memory.records));
            assert_eq!((found.upto, slices), (in_memory.upto, slices_in_memory));
            let of_records = found.records.iter().map(|record| (record.id, record.time));
            assert_eq!(of_records.collect::<Vec<_>>(), found.rows[..found.records.len()]);
            let ids: Vec<u64> = found.rows.iter().map(|(id, _)| *id).collect();
            (ids, found.records.len(), found.upto, slices)
        };
        let latest = &others[others.len() - count..];
        assert_eq!(list(None, &[]), (latest.to_vec(), 10, latest[9], 3));
        let first = &others[..count];
        assert_eq!(list(Some(0), &[]), (first.to_vec(), 10, first[9], 3));
        let after = others.partition_point(|id| *id <= 14_990);
        assert_eq!(list(Some(14_990), &[]), (others[after..].to_vec(), 5, 14_999, 1));
        // Scans everything and finds nothing.
        assert_eq!(list(None, &[UserId(1)]), (Vec::new(), 0, 14_999, 10));
    }

    #[test]
    fn message_is_found_by_its_id() {
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
            let thread = Thread::Message { id };
            let query = ReadRequest::latest(thread, 1, usize::MAX);
            let rows = log.read_all(query);
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
    fn feed_contains_messages_covered_by_a_membership_span() {
        let spans = vec![
            span("ops", 2, Some(4)),
            span("lobby", 3, Some(3)),
            span("ops", 4, Some(6)),
            span("lobby", 3, None),
            span("ops", 9, None),
        ];
        let thread = Thread::Feed { reader: READER, stays: spans.clone() };
        let index = SortedSpans::of(&thread);
        for id in 0..12 {
            for name in ["lobby", "ops", "mine", "zoo"] {
                let key = room(name).key().clone();
                let is_covered = spans.iter().any(|span| span.covers(&key, id));
                assert_eq!(index.covers(&key, id), is_covered, "{name}: {id}");
            }
        }
    }

    /// Pseudo-random numbers, the same in every run.
    fn numbers(mut seed: u64) -> impl FnMut(usize) -> usize {
        move |below| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(seed >> 33).unwrap() % below
        }
    }

    /// The documented rule of `/search`, implemented without regard to cost: every word of the
    /// query is a word of the text, or, in scripts without spaces between words, its letters
    /// follow each other.
    fn matches(text: &str, query: &str) -> bool {
        use crate::protocol::words;
        let (text, query) = (words::fold(text), words::fold(query));
        let letters = |word| words::clusters(word).collect::<Vec<_>>();
        let words: Vec<_> = words::split(&text).map(letters).collect();
        let wanted: Vec<_> = words::split(&query).map(letters).collect();
        !wanted.is_empty()
            && wanted.iter().all(|word| {
                if word[0].starts_with(words::is_found_inside) {
                    words.iter().any(|found| found.windows(word.len()).any(|part| part == word))
                } else {
                    words.contains(word)
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
    fn both_logs_find_exactly_the_matching_texts() {
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
        // Most messages are indexed when they are searched, the last ones are not yet.
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
            let (count, size) = (usize::MAX, usize::MAX);
            let query = ReadRequest::latest(thread, count, size);
            log.read_all(query).records.iter().map(|record| record.id).collect()
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
