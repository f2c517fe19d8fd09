//! Output: lines are put into outboxes and written; clients that do not read are detected.

use std::cmp::Reverse;
use std::mem;
use std::time::Duration;

use super::{Reactor, Timeout};
use crate::server::auth::passwords::Job;
use crate::server::hub::{Input, Now};
use crate::server::net::connection::{Pause, Phase};
use crate::server::net::outbox::Lines;
use crate::server::net::stall::Stall;
use crate::server::record::SentMail;
use crate::server::store::{Log, ReadRequest};
use crate::server::turn::{ConnId, Sink, Turn};

/// Outbox limit that every connection has, however scarce memory is: a client that reads as
/// fast as the server writes must not count as a slow reader.
const OUTBOX_MIN: usize = 64 << 10;

/// A long reply in pages, or a catch-up, continues when the outbox holds no more than this,
/// in bytes.
const DRAINED: usize = OUTBOX_MIN / 2;

/// Time for a client to close its side after everything was sent. If data is still in transit,
/// `--write-stall` applies.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Progress in bytes per `--write-stall` below which a client counts as stalled while more
/// than half of `--outbox-total` is in use; otherwise any progress is enough.
const MIN_PROGRESS: u32 = 32 << 10;

impl<L: Log> Reactor<L> {
    /// Writes to every connection with pending output; returns their number. Disconnections
    /// detected here are announced to others, which makes a turn of its own.
    pub(super) fn flush(&mut self, now: Now) -> anyhow::Result<usize> {
        let mut written = 0;
        let mut turn = self.flush_turn.take().unwrap_or_default();
        while !self.dirty.is_empty() {
            let count = self.dirty.len();
            let mut may_have_changes = false;
            for at in 0..count {
                let conn = self.dirty[at];
                let result =
                    self.guard(now, conn, &mut turn, |this, turn| this.flush_one(now, conn, turn));
                may_have_changes |= result.unwrap_or(true);
            }
            self.dirty.drain(..count);
            written += count;
            if may_have_changes {
                self.commit(&mut turn)?;
            }
        }
        self.flush_turn = Some(turn);
        Ok(written)
    }

    /// Returns whether the hub may have changed: the connection is broken, or at its end.
    fn flush_one(&mut self, now: Now, conn: ConnId, turn: &mut Turn) -> bool {
        let (outbox_max, drained) = (self.outbox_max(), self.drained());
        let Some(connection) = self.get(conn) else { return false };
        connection.is_dirty = false;
        match connection.flush(now.since_start) {
            Err(_) => {
                self.stop_writing(now, conn, turn);
                return true;
            }
            Ok(false) => {}
            Ok(true) => {
                let due = now.since_start + self.limits.write_stall / 8;
                self.timers.push(Reverse((due, conn, Timeout::Stall)));
            }
        }
        let connection = &mut self.connections[conn.slot as usize];
        let may_read =
            connection.pauses.has(Pause::Outbox) && connection.outbox.len() <= outbox_max;
        let may_continue = connection.wants_page && connection.outbox.len() <= drained;
        if may_read || may_continue {
            self.ready.push(conn.slot);
        }
        let is_done = connection.phase == Phase::Closing && !connection.has_unsent();
        if is_done {
            self.close_sending_side(now, conn);
        }
        is_done
    }

    /// Half-closes a connection after its farewell. Closing it at once could discard the
    /// farewell: input that arrives before all data was sent causes a reset.
    fn close_sending_side(&mut self, now: Now, conn: ConnId) {
        let connection = &mut self.connections[conn.slot as usize];
        let is_sent = connection.is_sent();
        let is_closed = connection.close_sending_side();
        let has_mail = connection.sent_mail.is_some();
        if is_closed && connection.pauses.has(Pause::EndOfInput) && !has_mail {
            return self.remove(conn);
        }
        if is_closed {
            connection.phase = Phase::Lingering;
            self.ready.push(conn.slot);
        }
        let timeout = if is_sent && is_closed { LINGER_TIMEOUT } else { self.limits.write_stall };
        self.timers.push(Reverse((now.since_start + timeout, conn, Timeout::Linger)));
    }

    /// Removes a connection that had its time to close. A client that had only closed its sending
    /// side has received everything, or its system would have reset the connection.
    pub(super) fn end_linger(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn)
            && connection.pauses.has(Pause::EndOfInput)
            && connection.is_sent()
            && !connection.is_broken()
            && let Some(mail) = connection.take_received_mail()
        {
            self.hub.confirm_mail(mail);
        }
        self.remove(conn);
    }

    /// Stops writing to a client that accepts no more data. The input of a client with a name is
    /// still handled: a script may send its lines and close without reading replies.
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

    /// Disconnects a client that made no progress for too long: with a farewell first, and
    /// without waiting if the farewell is not read either.
    pub(super) fn check_stall(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let timeout = self.limits.write_stall;
        let least = if self.is_memory_scarce() { MIN_PROGRESS } else { 1 };
        let Some(connection) = self.get(conn) else { return };
        match connection.check_stall(now.since_start, timeout, least) {
            Stall::None => {}
            Stall::LookAgainAt(due) => self.timers.push(Reverse((due, conn, Timeout::Stall))),
            Stall::Over if connection.phase == Phase::Open => {
                connection.discard_unread();
                self.timers.push(Reverse((now.since_start + timeout, conn, Timeout::Stall)));
                self.hub.handle(now, conn, Input::Stalled, turn);
            }
            Stall::Over => self.remove(conn),
        }
    }

    /// Returns the outbox limit that applies to one connection now. It shrinks with the memory
    /// left for all, so that slow readers together stay within `--outbox-total`.
    pub(super) fn outbox_max(&self) -> usize {
        let left = self.limits.outbox_total.saturating_sub(self.meter.held());
        self.limits.outbox.min(left.max(OUTBOX_MIN))
    }

    /// Returns how much the outbox of a connection may hold when its next page is produced. It
    /// shrinks like the pages (`Context::page_size`).
    pub(super) fn drained(&self) -> usize {
        if self.is_memory_scarce() { DRAINED / 8 } else { DRAINED }
    }

    fn is_memory_scarce(&self) -> bool {
        self.meter.held() > self.limits.outbox_total / 2
    }
}

impl<L: Log> Sink for Reactor<L> {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        let outbox_max = self.outbox_max();
        let Some(connection) = self.get(to) else { return };
        let is_writable = match connection.phase {
            Phase::Open => true,
            // Only a farewell is sent in this phase, and never within a handshake.
            Phase::Arriving => !connection.is_in_handshake(),
            Phase::Closing | Phase::Lingering => false,
        };
        if !is_writable || connection.is_write_closed() {
            return;
        }
        connection.outbox.push(lines, start, end);
        let is_over_limit = connection.outbox.unsolicited() > outbox_max;
        if !mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(to);
        }
        if is_over_limit {
            self.over_limit.push(to);
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

    fn push_token(&mut self, to: ConnId) {
        let token = self.get(to).and_then(|connection| connection.secrets.token());
        let Some(token) = token.map(|token| self.share(token.into_bytes())) else { return };
        let size = token.len();
        self.note_reply_bytes(to, size);
        self.push(to, &token, 0, size);
    }

    fn hash(&mut self, conn: ConnId, job: Job) {
        self.queue_hashing(conn, job);
    }

    fn expect_receipt(&mut self, conn: ConnId, mail: SentMail) {
        if let Some(connection) = self.get(conn).filter(|it| !it.is_write_closed()) {
            connection.sent_mail = Some(Box::new(mail));
        }
    }

    fn notify_when_drained(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.wants_page = true;
            self.ready.push(conn.slot);
        }
    }
}
