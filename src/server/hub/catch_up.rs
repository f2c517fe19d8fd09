//! Catch-up: delivery from the log to a user who reads too slowly (backpressure) or has
//! resumed a session. Messages are delivered in order and at the reader's pace, and the
//! user returns to live delivery without gaps or duplicates.
//!
//! A user who is behind costs only a position in the log: the user is in no audience, and
//! the user's own lines wait, so that answers keep their order. Events that are not in the
//! log are deferred (`deferred.rs`). The last messages before live delivery come from the
//! recent messages in memory, in the turn in which the user becomes live.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{ConnId, Event, Farewell, Hub, Now, Phase, Tags, Turn, UserIx, messages::tags_of};
use crate::protocol::{Cid, Key};
use crate::server::record::{Recipient, Record};
use crate::server::store::{ReadRequest, ReadResult, Thread};
use crate::server::turn::Origin;

/// How a user's messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryMode {
    /// By broadcast, when they are posted.
    Live,
    /// From the log.
    Behind {
        /// The id of the last message that was delivered or is not for this user.
        after: u64,
        /// Whether presence events were missed, which the log does not contain; the member
        /// lists are then sent at the end of the catch-up.
        is_list_stale: bool,
        /// Whether a page of the log has been requested; at most one is pending.
        is_reading: bool,
    },
}

impl DeliveryMode {
    /// Catch-up after this message id, with no page requested yet.
    pub(super) fn behind(after: u64, is_list_stale: bool) -> Self {
        Self::Behind { after, is_list_stale, is_reading: false }
    }
}

/// Messages per page of a catch-up. A page stays in memory until it is read.
const PAGE: usize = 256;

/// Bytes of text per page.
const PAGE_SIZE: usize = 64 << 10;

/// Recent messages that stay in memory: enough to get from a page of the log to live.
const RECENT_MAX: usize = 4096;

/// Bytes of text of recent messages that stay in memory.
const RECENT_SIZE: usize = 4 << 20;

/// Messages that are scanned for one in a given room.
const SILENCE_SCAN_MAX: usize = 256;

/// The most recent messages.
#[derive(Debug)]
pub(super) struct Recent {
    records: VecDeque<Arc<Record>>,
    size: usize,
    /// The id of the last evicted message; all later messages are in `records`.
    evicted: u64,
}

/// The result of looking up a message by id.
#[derive(Debug)]
pub(super) enum Lookup<'r> {
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
    pub(super) fn find(&self, id: u64) -> Lookup<'_> {
        match self.records.binary_search_by_key(&id, |record| record.id) {
            Ok(at) => Lookup::Found(&self.records[at]),
            Err(_) if id > self.evicted => Lookup::NoMessage,
            Err(_) => Lookup::InLog,
        }
    }

    /// Whether the room certainly has no message after an id. Returns `false` if the id is
    /// too old to tell, or more than [`SILENCE_SCAN_MAX`] messages follow it.
    pub(super) fn is_silent(&self, room: &Key, after: u64) -> bool {
        let is_in_room = |record: &Arc<Record>| match &record.to {
            Recipient::Room(name) => name.key() == room,
            Recipient::Person(..) => false,
        };
        let Some(mut since) = self.since(after) else { return false };
        !since.by_ref().take(SILENCE_SCAN_MAX).any(is_in_room) && since.next().is_none()
    }

    /// All messages after an id; `None` if some of them have been evicted.
    fn since(&self, after: u64) -> Option<impl Iterator<Item = &Arc<Record>>> {
        let start = self.records.partition_point(|record| record.id <= after);
        (after >= self.evicted).then(|| self.records.range(start..))
    }
}

impl Hub {
    /// Switches a slow reader from live delivery to catch-up.
    pub(super) fn start_catch_up(&mut self, conn: ConnId, turn: &mut Turn) {
        let Some(Phase::LoggedIn(user)) = self.connection(conn).map(|c| c.phase) else { return };
        if self.users[user].feed == DeliveryMode::Live {
            self.users[user].feed = DeliveryMode::behind(self.last_ids.message, true);
            self.invalidate_audiences_of(user);
            turn.notify_when_drained(conn);
        }
    }

    /// Delivers the rest from memory if that reaches back far enough; otherwise requests a
    /// page of the log.
    pub(super) fn continue_catch_up(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(Phase::LoggedIn(user)) = self.connection(conn).map(|c| c.phase) else { return };
        let DeliveryMode::Behind { after, is_list_stale, is_reading: false } =
            self.users[user].feed
        else {
            return;
        };
        let request = self.catch_up_request(user, after);
        let Some(rest) = self.recent.since(after) else {
            self.users[user].feed = DeliveryMode::Behind { after, is_list_stale, is_reading: true };
            turn.read(conn, request);
            return;
        };
        let rest = request.fill(rest);
        for record in &rest {
            self.send_deferred(conn, user, record.id, turn);
            self.redeliver(conn, user, record, turn);
        }
        if request.is_filled_by(&rest) {
            // The page is full, so more may follow when the reader has drained this one.
            let after = rest.last().map_or(after, |last| last.id);
            self.users[user].feed = DeliveryMode::behind(after, is_list_stale);
            turn.notify_when_drained(conn);
            return;
        }
        self.send_deferred(conn, user, u64::MAX, turn);
        self.users[user].feed = DeliveryMode::Live;
        // The catch-up has delivered the mail as well. If the connection is lost earlier,
        // the mail stays for the next login.
        self.empty_mailbox(self.users[user].id);
        self.invalidate_audiences_of(user);
        if is_list_stale {
            self.send_member_lists(now, conn, user, turn);
        }
    }

    /// Delivers a page of the log.
    pub(super) fn send_catch_up_page(
        &mut self,
        now: Now,
        conn: ConnId,
        rows: &ReadResult,
        turn: &mut Turn,
    ) {
        let Some(Phase::LoggedIn(user)) = self.connection(conn).map(|c| c.phase) else { return };
        let DeliveryMode::Behind { after, is_list_stale, .. } = self.users[user].feed else {
            return;
        };
        if rows.has_gap && is_list_stale {
            // Retention has deleted messages that the reader missed; a disconnect makes the
            // gap visible.
            self.leave(now, conn, Some(Farewell::SlowReader), None, turn);
            return;
        }
        for record in &rows.records {
            self.send_deferred(conn, user, record.id, turn);
            self.redeliver(conn, user, record, turn);
        }
        if rows.upto <= after {
            // The log could not be read; its messages must not be skipped.
            self.handle_disconnect(now, conn, Some(Farewell::SlowReader), turn);
            return;
        }
        self.users[user].feed = DeliveryMode::behind(rows.upto, is_list_stale);
        turn.notify_when_drained(conn);
    }

    fn catch_up_request(&self, user: UserIx, after: u64) -> ReadRequest {
        let me = &self.users[user];
        let thread = Thread::Feed { reader: me.id, stays: me.memberships.after(after) };
        let hidden = self.hidden_from(user);
        ReadRequest { thread, count: PAGE, size: PAGE_SIZE, after: Some(after), hidden }
    }

    /// Delivers a message as it would have been live; the user's own messages carry their
    /// cid.
    fn redeliver(&self, conn: ConnId, user: UserIx, record: &Record, turn: &mut Turn) {
        let (me, settings) = (self.users[user].id, self.settings(conn));
        let cid = record.cid.as_ref().filter(|_| record.author == me);
        if record.author == me && !settings.echo && cid.is_none() {
            return;
        }
        let tags = Tags { cid: cid.map(Cid::as_str), ..tags_of(record) };
        let event = Event::Message(record.seen_by(me));
        // The reader sets the pace, so these lines do not count towards the outbox limit
        // for unsolicited lines.
        turn.showing(record.id, |turn| {
            turn.send(conn, Origin::Reply, &settings.tags(&tags), &event);
        });
    }

    /// Sends the member lists to a user who missed presence events.
    fn send_member_lists(&self, now: Now, conn: ConnId, user: UserIx, turn: &mut Turn) {
        let settings = self.settings(conn);
        let mut ctx = super::Context { now, conn, settings, cid: None, turn };
        for room in &self.users[user].rooms {
            self.list_for_newcomer(&mut ctx, *room);
        }
    }
}
