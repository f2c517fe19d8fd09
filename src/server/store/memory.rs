//! The log of `--ephemeral`: bounded, in memory, and lost with the process.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{BuildHasher, Hash};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, SendError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::read::{Budget, SLICE_ROWS};
use super::{
    AppendError, Batch, Duplicate, Log, Read, ReadRequest, ReadResult, Reply, Slice, Thread,
};
use crate::protocol::Key;
use crate::server::id_map::IdMap;
use crate::server::record::{Recipient, Record, UserId};

/// A log in memory, bounded in messages and bytes; beyond either limit the oldest messages are
/// evicted.
#[derive(Debug)]
pub struct MemoryLog {
    content: Arc<Mutex<Content>>,
    /// Sends slices of searches to a thread of their own: comparing texts takes too long for the
    /// server loop.
    searches: Sender<(Read, Reply)>,
}

/// The content of the log.
#[derive(Debug)]
struct Content {
    records: VecDeque<Arc<Record>>,
    threads: Threads,
    size: usize,
    /// The id of the last evicted message.
    evicted: u64,
    messages_max: usize,
    size_max: usize,
}

/// The ids of each conversation, so that reading one does not scan all messages; a read filters
/// further.
#[derive(Debug, Default)]
struct Threads {
    rooms: HashMap<Key, VecDeque<u64>>,
    /// The private messages of each user.
    private: IdMap<UserId, VecDeque<u64>>,
}

impl Threads {
    fn push(&mut self, record: &Record) {
        match &record.to {
            Recipient::Room(room) => match self.rooms.get_mut(room.key()) {
                Some(ids) => ids.push_back(record.id),
                None => drop(self.rooms.insert(room.key().clone(), VecDeque::from([record.id]))),
            },
            Recipient::Person(to, _) => {
                for user in parties(record.author, *to) {
                    self.private.entry(user).or_default().push_back(record.id);
                }
            }
        }
    }

    /// Removes the oldest message.
    fn pop(&mut self, record: &Record) {
        match &record.to {
            Recipient::Room(room) => pop_first(&mut self.rooms, room.key()),
            Recipient::Person(to, _) => {
                for user in parties(record.author, *to) {
                    pop_first(&mut self.private, &user);
                }
            }
        }
    }
}

/// Returns the author and the recipient of a private message, once if they are the same.
fn parties(author: UserId, to: UserId) -> impl Iterator<Item = UserId> {
    std::iter::once(author).chain((to != author).then_some(to))
}

fn pop_first<K: Eq + Hash, S: BuildHasher>(of: &mut HashMap<K, VecDeque<u64>, S>, key: &K) {
    if let Some(ids) = of.get_mut(key) {
        ids.pop_front();
        if ids.is_empty() {
            of.remove(key);
        }
    }
}

impl MemoryLog {
    /// Creates an empty log with limits in messages and bytes.
    #[must_use]
    pub fn new(messages_max: usize, size_max: usize) -> Self {
        let (records, threads) = (VecDeque::new(), Threads::default());
        let content = Content { records, threads, size: 0, evicted: 0, messages_max, size_max };
        let content = Arc::new(Mutex::new(content));
        let (searches, slices) = mpsc::channel();
        let thread = thread::Builder::new().name("log search".into());
        let content_of_thread = content.clone();
        // Without the thread, searches run on the caller's thread, see `read`.
        let _ = thread.spawn(move || run_searches(&content_of_thread, &slices));
        Self { content, searches }
    }

    /// Appends messages; this cannot fail.
    pub fn push(&mut self, batch: impl IntoIterator<Item = Arc<Record>>) {
        lock(&self.content).push(batch);
    }

    /// Performs all slices of a read at once.
    #[must_use]
    pub fn find(&self, request: &ReadRequest) -> ReadResult {
        let mut read = Read::new(request.clone());
        loop {
            match lock(&self.content).slice(read) {
                Slice::Complete(result) => return result,
                Slice::Partial(rest) => read = *rest,
            }
        }
    }
}

/// Locks the content. It stays consistent even if a thread panics while holding the lock.
fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The search thread. It holds the lock only while it copies the list of the messages of a slice.
fn run_searches(content: &Mutex<Content>, slices: &Receiver<(Read, Reply)>) {
    while let Ok((mut read, reply)) = slices.recv() {
        let (records, last) = lock(content).records_of_slice(&read);
        // The thread must survive a search that panics.
        let slice = panic::catch_unwind(AssertUnwindSafe(|| {
            let is_complete = scan(&mut read, &records) && records.len() < SLICE_ROWS;
            end_slice(read, is_complete, last)
        }));
        reply(slice.unwrap_or_else(|_| Slice::Complete(ReadResult::failed())));
    }
}

fn scan<'r>(read: &mut Read, records: impl IntoIterator<Item = &'r Arc<Record>>) -> bool {
    let records = records.into_iter().cloned().map(Ok::<_, Infallible>);
    let Ok(is_complete) = read.scan(records, &mut Budget::new());
    is_complete
}

fn end_slice(read: Read, is_complete: bool, last: u64) -> Slice {
    if is_complete || read.is_filled() {
        Slice::Complete(read.complete(last))
    } else {
        Slice::Partial(Box::new(read))
    }
}

impl Content {
    fn evict_oldest(&mut self) {
        let Some(record) = self.records.pop_front() else { return };
        self.size -= record.size();
        self.evicted = record.id;
        self.threads.pop(&record);
    }

    fn record(&self, id: u64) -> Option<&Arc<Record>> {
        let at = self.records.binary_search_by_key(&id, |record| record.id).ok()?;
        self.records.get(at)
    }
}

impl Log for MemoryLog {
    /// Stores messages only: the log is never opened again. Duplicates are not detected here,
    /// because the hub knows every cid that could be in memory.
    fn append(&mut self, batch: &Batch) -> Result<Vec<Duplicate>, AppendError> {
        self.push(batch.records.iter().cloned());
        Ok(Vec::new())
    }

    fn read(&self, read: Read, reply: Reply) {
        let unsent = match read.request().thread {
            Thread::Search { .. } => self.searches.send((read, reply)),
            _ => Err(SendError((read, reply))),
        };
        if let Err(SendError((read, reply))) = unsent {
            let slice = lock(&self.content).slice(read);
            reply(slice);
        }
    }
}

impl Content {
    fn push(&mut self, batch: impl IntoIterator<Item = Arc<Record>>) {
        for record in batch {
            self.size += record.size();
            self.threads.push(&record);
            self.records.push_back(record);
            while self.records.len() > self.messages_max || self.size > self.size_max {
                self.evict_oldest();
            }
        }
    }

    /// The id of the last message.
    fn last(&self) -> u64 {
        self.records.back().map_or(self.evicted, |record| record.id)
    }

    fn slice(&self, mut read: Read) -> Slice {
        read.note_deleted(self.evicted);
        let is_complete = self.scan_slice(&mut read);
        end_slice(read, is_complete, self.last())
    }

    /// Returns whether there is nothing left to scan.
    fn scan_slice(&self, read: &mut Read) -> bool {
        let ids = match &read.request().thread {
            Thread::Room(key) => self.threads.rooms.get(key),
            Thread::Private { reader, .. } => self.threads.private.get(reader),
            Thread::Ids { ids, .. } => {
                let (after, _) = read.range();
                let left = ids.iter().filter(|id| **id > after);
                let left: Vec<_> = left.filter_map(|id| self.record(*id)).collect();
                return scan(read, left);
            }
            Thread::Message { id } => {
                let record = self.record(*id);
                return scan(read, record);
            }
            Thread::Feed { .. } => {
                let (after, _) = read.range();
                let start = self.records.partition_point(|record| record.id <= after);
                return scan(read, self.records.range(start..));
            }
            Thread::Search { .. } => {
                let (records, _) = self.records_of_slice(read);
                return scan(read, &records) && records.len() < SLICE_ROWS;
            }
        };
        let Some(ids) = ids else { return true };
        let (after, before) = read.range();
        let start = ids.partition_point(|id| *id <= after);
        let end = ids.partition_point(|id| *id < before);
        let records = ids.range(start..end).filter_map(|id| self.record(*id));
        match read.request().after {
            Some(_) => scan(read, records),
            None => scan(read, records.rev()),
        }
    }

    /// Returns the messages that a slice of a search may scan, latest first, and the id of the
    /// last message.
    fn records_of_slice(&self, read: &Read) -> (Vec<Arc<Record>>, u64) {
        let (_, before) = read.range();
        let end = self.records.partition_point(|record| record.id < before);
        let records = self.records.range(..end).rev().take(SLICE_ROWS).cloned();
        (records.collect(), self.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Name, RoomName, Stamp};

    fn record(id: u64, author: u64, to: Recipient) -> Arc<Record> {
        let from = Name::parse(&format!("p{author}")).unwrap();
        let (time, author) = (Stamp(0), UserId(author));
        Arc::new(Record {
            id,
            time,
            author,
            from,
            to,
            is_action: false,
            text: "x".into(),
            cid: None,
        })
    }

    fn room(name: &str) -> Recipient {
        Recipient::Room(RoomName::parse(name).unwrap())
    }

    fn person(id: u64) -> Recipient {
        Recipient::Person(UserId(id), Name::parse(&format!("p{id}")).unwrap())
    }

    fn ids(log: &MemoryLog, thread: Thread, count: usize, after: Option<u64>) -> Vec<u64> {
        let query = ReadRequest {
            after,
            hidden: vec![UserId(9)],
            ..ReadRequest::latest(thread, count, usize::MAX)
        };
        log.find(&query).records.iter().map(|record| record.id).collect()
    }

    fn private(reader: u64, other: &str) -> Thread {
        Thread::Private { reader: UserId(reader), other: Key::fold(other), other_id: None }
    }

    #[test]
    fn conversation_is_a_filter_over_the_log() {
        let mut log = MemoryLog::new(100, 1 << 20);
        let batch = [
            record(1, 1, room("ops")),
            record(2, 2, room("OPS")),
            record(3, 1, room("lobby")),
            record(4, 1, person(2)),
            record(5, 2, person(1)),
            record(6, 3, person(1)),
            record(7, 9, room("ops")),
            record(8, 1, room("ops")),
            record(9, 1, person(1)),
        ];
        log.push(batch.to_vec());
        let ops = || Thread::Room(Key::fold("Ops"));
        assert_eq!(ids(&log, ops(), 10, None), [1, 2, 8]);
        assert_eq!(ids(&log, ops(), 2, None), [2, 8]);
        assert_eq!(ids(&log, ops(), 1, Some(1)), [2]);
        assert!(ids(&log, ops(), 10, Some(8)).is_empty());
        assert_eq!(ids(&log, private(1, "p2"), 10, None), [4, 5]);
        assert_eq!(ids(&log, private(2, "p1"), 10, None), [4, 5]);
        assert_eq!(ids(&log, private(3, "p1"), 10, None), [6]);
        assert!(ids(&log, private(3, "p2"), 10, None).is_empty());
        assert_eq!(ids(&log, private(1, "p1"), 10, None), [9]);
    }

    #[test]
    fn oldest_messages_are_evicted_beyond_the_limits() {
        let mut log = MemoryLog::new(3, 1 << 20);
        for id in 1..=5 {
            log.push(vec![record(id, 1, if id % 2 == 0 { room("ops") } else { person(2) })]);
        }
        assert_eq!(ids(&log, Thread::Room(Key::fold("ops")), 10, None), [4]);
        assert_eq!(ids(&log, private(1, "p2"), 10, None), [3, 5]);
        assert_eq!(lock(&log.content).records.len(), 3);
        let small = record(1, 1, room("ops")).size();
        let mut log = MemoryLog::new(100, 2 * small);
        for id in 1..=5 {
            log.push(vec![record(id, 1, room("ops"))]);
        }
        assert_eq!(ids(&log, Thread::Room(Key::fold("ops")), 10, None), [4, 5]);
    }
}
