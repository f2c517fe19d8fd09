//! Catching up: who did not read in time, or was away, is not fed from memory
//! but from the log, in order and at its own pace, and returns to live at a point
//! with no gap and no double.
//!
//! While somebody is behind, their position in the log is all that is kept: they
//! are in no audience, and their own lines wait, so that answers keep their
//! order; what no log has waits as well (`deferred.rs`). The last step to live is
//! taken from the messages of late, which are in memory, in one piece with becoming
//! live again.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{ConnId, Event, Farewell, Hub, Now, Phase, Tags, Turn, UserIx, messages::tags_of};
use crate::protocol::{Cid, Key};
use crate::server::log::{ReadRequest, ReadResult, Recipient, Record, Thread};
use crate::server::turn::Cause;

/// How a visit's messages reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeliveryMode {
    /// As they are said.
    Live,
    /// From the log, from this position on.
    Behind {
        /// The last message they have had, or that was not for them.
        after: u64,
        /// Whether comings and goings were missed meanwhile, which no log tells.
        is_list_stale: bool,
        /// Whether a page of the log is on its way: it is asked for once.
        is_reading: bool,
    },
}

impl DeliveryMode {
    /// From this position on, with nothing asked for yet.
    pub(super) fn behind(after: u64, is_list_stale: bool) -> Self {
        Self::Behind { after, is_list_stale, is_reading: false }
    }
}

/// How many messages are told one reader at once, and how much text: each reader's
/// page is in memory until it is read.
const PAGE: usize = 256;
const PAGE_SIZE: usize = 64 << 10;

/// How many messages of late are kept in memory, and how much text: enough that
/// a reader can get from a page of the log to the present.
const RECENT_MAX: usize = 4096;
const RECENT_SIZE: usize = 4 << 20;

/// How many messages are looked at for one of a certain room.
const SILENCE_MAX: usize = 256;

/// The messages of late.
#[derive(Debug)]
pub(super) struct Recent {
    records: VecDeque<Arc<Record>>,
    size: usize,
    /// The last message that is not here any more; whatever was said since is.
    forgotten: u64,
}

/// Where a message is.
#[derive(Debug)]
pub(super) enum Lookup<'r> {
    /// Here.
    Found(&'r Record),
    /// Nowhere: the number became no message.
    NoMessage,
    /// In the log, if anywhere.
    InLog,
}

impl Recent {
    /// Nothing yet; what was said before is in the log.
    pub(super) fn new(last: u64) -> Self {
        Self { records: VecDeque::new(), size: 0, forgotten: last }
    }

    pub(super) fn push(&mut self, record: Arc<Record>) {
        self.size += record.text.len();
        self.records.push_back(record);
        while self.records.len() > RECENT_MAX || self.size > RECENT_SIZE {
            if let Some(oldest) = self.records.pop_front() {
                self.size -= oldest.text.len();
                self.forgotten = oldest.id;
            }
        }
    }

    /// Takes a message back that could not be kept.
    pub(super) fn remove(&mut self, id: u64) -> Option<Arc<Record>> {
        let at = self.records.binary_search_by_key(&id, |record| record.id).ok()?;
        let record = self.records.remove(at)?;
        self.size -= record.text.len();
        Some(record)
    }

    /// Looks for a message that was said by now.
    pub(super) fn find(&self, id: u64) -> Lookup<'_> {
        match self.records.binary_search_by_key(&id, |record| record.id) {
            Ok(at) => Lookup::Found(&self.records[at]),
            Err(_) if id > self.forgotten => Lookup::NoMessage,
            Err(_) => Lookup::InLog,
        }
    }

    /// Whether it is known that nothing was said in a room after a message; of long ago it
    /// is not.
    pub(super) fn is_silent(&self, room: &Key, after: u64) -> bool {
        let is_there = |record: &Arc<Record>| match &record.to {
            Recipient::Room(name) => name.key() == room,
            Recipient::Person(..) => false,
        };
        let Some(mut since) = self.since(after) else { return false };
        !since.by_ref().take(SILENCE_MAX).any(is_there) && since.next().is_none()
    }

    /// All messages after an id, if they are all still here.
    fn since(&self, after: u64) -> Option<impl Iterator<Item = &Arc<Record>>> {
        let start = self.records.partition_point(|record| record.id <= after);
        (after >= self.forgotten).then(|| self.records.range(start..))
    }
}

impl Hub {
    /// A reader that does not keep up is fed from the log from here on.
    pub(super) fn start_catch_up(&mut self, conn: ConnId, turn: &mut Turn) {
        let Some(Phase::LoggedIn(user)) = self.connection(conn).map(|c| c.phase) else { return };
        if self.users[user].feed == DeliveryMode::Live {
            self.users[user].feed = DeliveryMode::behind(self.last_ids.message, true);
            self.forget_audiences_of(user);
            turn.notify_when_drained(conn);
        }
    }

    /// Goes on feeding: the rest from memory if that reaches back far enough,
    /// else a page of the log.
    pub(super) fn continue_catch_up(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(Phase::LoggedIn(user)) = self.connection(conn).map(|c| c.phase) else { return };
        let DeliveryMode::Behind { after, is_list_stale, is_reading: false } =
            self.users[user].feed
        else {
            return;
        };
        let query = self.catch_up_request(user, after);
        let Some(rest) = self.recent.since(after) else {
            self.users[user].feed = DeliveryMode::Behind { after, is_list_stale, is_reading: true };
            turn.read(conn, query);
            return;
        };
        let rest = query.fill(rest);
        for record in &rest {
            self.send_deferred(conn, user, record.id, turn);
            self.redeliver(conn, user, record, turn);
        }
        if query.is_filled_by(&rest) {
            // There may be more, for when this is read.
            let after = rest.last().map_or(after, |last| last.id);
            self.users[user].feed = DeliveryMode::behind(after, is_list_stale);
            turn.notify_when_drained(conn);
            return;
        }
        self.send_deferred(conn, user, u64::MAX, turn);
        self.users[user].feed = DeliveryMode::Live;
        // It was among what was told. Who drops before finds it at the next login.
        self.empty_mailbox(self.users[user].id);
        self.forget_audiences_of(user);
        if is_list_stale {
            self.send_member_lists(now, conn, user, turn);
        }
    }

    /// A page of the log has come.
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
            // What this reader missed is forgotten: better parted than fooled.
            self.leave(now, conn, Some(Farewell::SlowReader), None, turn);
            return;
        }
        for record in &rows.records {
            self.send_deferred(conn, user, record.id, turn);
            self.redeliver(conn, user, record, turn);
        }
        if rows.upto <= after {
            // It could not be read. What is there is not to be passed over.
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

    /// A message as it was live, one's own with its mark.
    fn redeliver(&self, conn: ConnId, user: UserIx, record: &Record, turn: &mut Turn) {
        let (me, settings) = (self.users[user].id, self.settings(conn));
        let mark = record.cid.as_ref().filter(|_| record.author == me);
        if record.author == me && !settings.echo && mark.is_none() {
            return;
        }
        let tags = Tags { cid: mark.map(Cid::as_str), ..tags_of(record) };
        let event = Event::Message(record.seen_by(me));
        // It is the reader's own pace: nothing here makes it a slow one.
        turn.showing(record.id, |turn| {
            turn.send(conn, Cause::Asked, &settings.tags(&tags), &event);
        });
    }

    /// Who is here now, for somebody who missed comings and goings.
    fn send_member_lists(&self, now: Now, conn: ConnId, user: UserIx, turn: &mut Turn) {
        let settings = self.settings(conn);
        let mut ctx = super::Context { now, conn, settings, cid: None, turn };
        for room in &self.users[user].rooms {
            self.list_for_newcomer(&mut ctx, *room);
        }
    }
}
