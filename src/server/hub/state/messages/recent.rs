//! The most recent messages in memory: enough to get from a page of the log to live delivery.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::protocol::Key;
use crate::server::record::{Recipient, Record};

/// Recent messages that stay in memory: enough to get from a page of the log to live.
const RECENT_MAX: usize = 4096;

/// Bytes of text of recent messages that stay in memory.
const RECENT_SIZE: usize = 4 << 20;

/// Messages that are scanned for one in a given room.
const SILENCE_SCAN_MAX: usize = 256;

/// The most recent messages.
#[derive(Debug)]
pub(crate) struct Recent {
    records: VecDeque<Arc<Record>>,
    size: usize,
    /// The id of the last evicted message; all later messages are in `records`.
    evicted: u64,
}

/// The result of looking up a message by id.
#[derive(Debug)]
pub(crate) enum Lookup<'r> {
    /// The message is in memory.
    Found(&'r Record),
    /// No message has this id.
    NoMessage,
    /// The message is too old for memory; the log may contain it.
    InLog,
}

impl Recent {
    /// An empty buffer; messages up to the id `last` are in the log only.
    pub(super) fn new(last: u64) -> Self {
        Self { records: VecDeque::new(), size: 0, evicted: last }
    }

    pub(super) fn push(&mut self, record: Arc<Record>) {
        self.size += record.text.len();
        self.records.push_back(record);
        while self.records.len() > RECENT_MAX || self.size > RECENT_SIZE {
            if let Some(oldest) = self.records.pop_front() {
                self.size -= oldest.text.len();
                self.evicted = oldest.id;
            }
        }
    }

    /// Removes a message that could not be stored.
    pub(super) fn remove(&mut self, id: u64) -> Option<Arc<Record>> {
        let at = self.records.binary_search_by_key(&id, |record| record.id).ok()?;
        let record = self.records.remove(at)?;
        self.size -= record.text.len();
        Some(record)
    }

    /// Looks up a message; its id must have been assigned.
    pub(crate) fn find(&self, id: u64) -> Lookup<'_> {
        match self.records.binary_search_by_key(&id, |record| record.id) {
            Ok(at) => Lookup::Found(&self.records[at]),
            Err(_) if id > self.evicted => Lookup::NoMessage,
            Err(_) => Lookup::InLog,
        }
    }

    /// Whether the room certainly has no message after an id. Returns `false` if the id is
    /// too old to tell, or more than [`SILENCE_SCAN_MAX`] messages follow it.
    pub(crate) fn is_silent(&self, room: &Key, after: u64) -> bool {
        let is_in_room = |record: &Arc<Record>| match &record.to {
            Recipient::Room(name) => name.key() == room,
            Recipient::Person(..) => false,
        };
        let Some(mut since) = self.since(after) else { return false };
        !since.by_ref().take(SILENCE_SCAN_MAX).any(is_in_room) && since.next().is_none()
    }

    /// All messages after an id; `None` if some of them are no longer in memory.
    pub(crate) fn since(&self, after: u64) -> Option<impl Iterator<Item = &Arc<Record>>> {
        let start = self.records.partition_point(|record| record.id <= after);
        (after >= self.evicted).then(|| self.records.range(start..))
    }
}
