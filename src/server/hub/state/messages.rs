//! Messages: ids and times of new ones, and those of the recent past, by id and by cid.

pub(crate) mod cids;
pub(crate) mod recent;

use std::sync::Arc;

use crate::protocol::{Cid, Key, Stamp};
use crate::server::clock::Now;
use crate::server::limits::Limits;
use crate::server::record::{Record, UserId};
use cids::RecentCids;
use recent::{Lookup, Recent};

/// The largest step back during which timestamps stand still, in milliseconds.
///
/// When the clock goes back by up to this time, timestamps stand still until the clock has
/// caught up, so that they are monotonic. When it goes back further, the timestamps follow
/// it: the clock was wrong before, and holding its last reading would freeze all timestamps
/// for as long as it was ahead. The order of messages is always that of their ids.
const BRIDGED: i64 = 5 * 60 * 1000;

/// The messages; see the head of this file.
#[derive(Debug)]
pub(crate) struct Messages {
    last_id: u64,
    /// The time of the last event; see [`Self::stamp`].
    last_time: Stamp,
    recent: Recent,
    cids: RecentCids,
}

impl Messages {
    /// Ids continue after `last_id`; `latest` are the messages that clients may send again.
    pub(super) fn new(limits: &Limits, last_id: u64, latest: &[Arc<Record>]) -> Self {
        let mut cids = RecentCids::new(limits.history_messages, limits.history_size);
        for record in latest {
            cids.remember(record);
        }
        let last_time = latest.last().map(|record| record.time).unwrap_or_default();
        Self { last_id, last_time, recent: Recent::new(last_id), cids }
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.last_id
    }

    pub(crate) fn last_time(&self) -> Stamp {
        self.last_time
    }

    /// The timestamp of an event that happens now, and the time from which the clock has gone
    /// back too far to bridge.
    pub(super) fn stamp(&mut self, now: Now) -> (Stamp, Option<Stamp>) {
        let mut went_back = None;
        if self.last_time.0.saturating_sub(now.wall.0) > BRIDGED {
            went_back = Some(std::mem::replace(&mut self.last_time, now.wall));
        }
        self.last_time = self.last_time.max(now.wall);
        (self.last_time, went_back)
    }

    /// Appends a message, which gets the next id: `record.id` is replaced.
    pub(crate) fn append(&mut self, record: Record) -> Arc<Record> {
        self.last_id += 1;
        let record = Arc::new(Record { id: self.last_id, ..record });
        self.cids.remember(&record);
        self.recent.push(record.clone());
        record
    }

    /// Forgets a message that could not be stored.
    pub(crate) fn forget(&mut self, id: u64) {
        if let Some(record) = self.recent.remove(id)
            && let Some(cid) = &record.cid
        {
            self.cids.discard(record.author, cid);
        }
    }

    /// The message that an author has sent with this cid, if it is recent.
    pub(crate) fn sent_with(&self, author: UserId, cid: &Cid) -> Option<Arc<Record>> {
        self.cids.find(author, cid)
    }

    /// Looks up a message; its id must have been assigned.
    pub(crate) fn find(&self, id: u64) -> Lookup<'_> {
        self.recent.find(id)
    }

    /// All messages after an id; `None` if some of them are no longer in memory.
    pub(crate) fn since(&self, after: u64) -> Option<impl Iterator<Item = &Arc<Record>>> {
        self.recent.since(after)
    }

    /// Whether the room certainly has no message after an id.
    pub(crate) fn is_silent(&self, room: &Key, after: u64) -> bool {
        self.recent.is_silent(room, after)
    }
}
