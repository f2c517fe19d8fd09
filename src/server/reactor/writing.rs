//! What connections are told: put into outboxes, written, and what becomes of who
//! does not read.

use std::cmp::Reverse;
use std::mem;
use std::time::Duration;

use super::{Reactor, ReactorInput, Timeout};
use crate::server::connection::{Phase, Stall};
use crate::server::hub::{Input, Now};
use crate::server::log::{Log, ReadRequest};
use crate::server::outbox::Lines;
use crate::server::passwords::Job;
use crate::server::turn::{ConnId, Sink, Turn};

/// What may wait for a connection in any case: who reads as fast as it is
/// written must not be taken for a slow reader.
const OUTBOX_MIN: usize = 64 << 10;

/// Who is told a long answer page by page, or catches up, is told on when no more than
/// this waits, in bytes.
pub(super) const DRAINED: usize = OUTBOX_MIN / 2;

/// How long a peer that has been sent all may take to close its side. Who reads slowly
/// has as long as they may take to read.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Who reads less than this in `--write-stall`, in bytes, does not read, where half of
/// what all may let wait does: others wait for the rest of it.
const MIN_PROGRESS: u32 = 32 << 10;

impl<L: Log> Reactor<L> {
    /// Writes to every connection that something waits for, and tells to how many.
    /// Those that turn out to be gone are missed by others, which makes a turn of
    /// its own.
    pub(super) fn flush(&mut self, now: Now) -> anyhow::Result<usize> {
        let mut written = 0;
        while !self.dirty.is_empty() {
            let mut turn = Turn::default();
            let count = self.dirty.len();
            for at in 0..count {
                let conn = self.dirty[at];
                self.guard(now, conn, &mut turn, |this, turn| this.flush_one(now, conn, turn));
            }
            self.dirty.drain(..count);
            written += count;
            self.commit(&mut turn)?;
        }
        Ok(written)
    }

    pub(super) fn flush_one(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let outbox_max = self.outbox_max();
        let Some(connection) = self.get(conn) else { return };
        connection.is_dirty = false;
        match connection.flush() {
            Err(_) => {
                self.stop_writing(now, conn, turn);
                return;
            }
            Ok(flush) => {
                if connection.note_flush(now.since_start, flush) {
                    let due = now.since_start + self.limits.write_stall / 8;
                    self.dues.push(Reverse((due, conn, Timeout::Stall)));
                }
            }
        }
        let connection = &mut self.connections[conn.slot as usize];
        let is_heard_again = connection.is_held_back && connection.outbox.len() <= outbox_max;
        let is_fed_on = connection.wants_feed && connection.outbox.len() <= DRAINED;
        if is_heard_again || is_fed_on {
            self.ready.push(conn.slot);
        }
        if connection.phase == Phase::Closing && !connection.has_unsent() {
            self.close_sending_side(now, conn);
        }
    }

    /// All was said to a peer. What it sends before the system has sent it all would take
    /// the rest away, if the connection were closed by then.
    fn close_sending_side(&mut self, now: Now, conn: ConnId) {
        let connection = &mut self.connections[conn.slot as usize];
        let is_sent = connection.is_sent();
        let is_closed = connection.close_sending_side();
        if is_closed && connection.is_finished {
            return self.remove(conn);
        }
        if is_closed {
            connection.phase = Phase::Lingering;
            self.ready.push(conn.slot);
        }
        let patience = if is_sent && is_closed { LINGER_TIMEOUT } else { self.limits.write_stall };
        self.dues.push(Reverse((now.since_start + patience, conn, Timeout::Linger)));
    }

    /// A peer takes nothing more. Who has closed as soon as all was sent, as a script
    /// does, is heard to the end all the same; who has no name yet cannot have said
    /// anything.
    pub(super) fn stop_writing(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let is_unnamed = self.hub.is_unnamed(conn);
        match self.get(conn) {
            Some(connection) if connection.phase == Phase::Open && !is_unnamed => {
                connection.stop_writing();
                self.ready.push(conn.slot);
            }
            _ => self.disconnect(now, conn, turn),
        }
    }

    /// A reader that made no progress for too long is parted with; if it does
    /// not even take its farewell, without one.
    pub(super) fn check_stall(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let patience = self.limits.write_stall;
        let is_scarce = self.meter.held() > self.limits.outbox_total / 2;
        let least = if is_scarce { MIN_PROGRESS } else { 1 };
        let Some(connection) = self.get(conn) else { return };
        match connection.stall(now.since_start, patience, least) {
            Stall::None => {}
            Stall::LookAgainAt(due) => self.dues.push(Reverse((due, conn, Timeout::Stall))),
            Stall::Over if connection.phase == Phase::Open => {
                connection.discard_unread();
                self.dues.push(Reverse((now.since_start + patience, conn, Timeout::Stall)));
                self.hub.handle(now, conn, Input::Stalled, turn);
            }
            Stall::Over => self.remove(conn),
        }
    }

    /// How much may wait for one connection now: a share of what is left for all,
    /// so that slow readers together cannot take more than there is.
    pub(super) fn outbox_max(&self) -> usize {
        let left = self.limits.outbox_total.saturating_sub(self.meter.held());
        self.limits.outbox.min(left.max(OUTBOX_MIN))
    }
}

impl<L: Log> Sink for Reactor<L> {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        let outbox_max = self.outbox_max();
        let Some(connection) = self.get(to) else { return };
        let is_heard = match connection.phase {
            Phase::Open => true,
            // Only a farewell is said there; in a handshake it cannot be.
            Phase::Arriving => !connection.is_shaking_hands(),
            Phase::Closing | Phase::Lingering => false,
        };
        if !is_heard || connection.is_deaf {
            return;
        }
        connection.outbox.push(lines, start, end);
        let is_swamped = connection.outbox.unsolicited() > outbox_max;
        if !mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(to);
        }
        if is_swamped {
            self.swamped.push(to);
        }
    }

    fn share(&mut self, lines: Vec<u8>) -> Lines {
        Lines::new(lines, &self.meter)
    }

    fn note_reply_bytes(&mut self, to: ConnId, count: usize) {
        if let Some(connection) = self.get(to) {
            connection.outbox.note_reply_bytes(count);
        }
    }

    fn close(&mut self, conn: ConnId) {
        let Some(connection) = self.get(conn) else { return };
        if matches!(connection.phase, Phase::Open | Phase::Arriving) {
            connection.phase = Phase::Closing;
            if !mem::replace(&mut connection.is_dirty, true) {
                self.dirty.push(conn);
            }
        }
    }

    fn read(&mut self, conn: ConnId, query: ReadRequest) {
        self.queue_read(conn, query);
    }

    fn hash(&mut self, conn: ConnId, job: Job) {
        let calls = self.own_calls.clone();
        self.hashers.run(job, move |outcome| {
            let _ = calls.send(ReactorInput::Hashed(conn, outcome)); // the loop may have ended
        });
    }

    fn wait_for_memory(&mut self, conn: ConnId) {
        self.queue_hub_reply(conn);
    }

    fn notify_when_drained(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.wants_feed = true;
            self.ready.push(conn.slot);
        }
    }
}
