//! Input: sockets are read, the bytes are split into lines, and the lines are passed to the
//! hub, as far as each connection's limits permit.
//!
//! Backpressure: a connection is not read from while its outbox exceeds its limit, while a
//! request of its own is pending, or while its rate limit is exhausted. Its input then stays
//! in the socket buffers, TCP closes the window, and the client has to wait; the server's
//! memory stays bounded, and no line is lost.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::io::ErrorKind;
use std::mem;
use std::time::Duration;

use super::log_writer::LogWriter;
use super::{Reactor, Timeout};
use crate::protocol::LINE_MAX;
use crate::protocol::codec::{Frame, WONT_TIMING_MARK};
use crate::server::auth::secrets::Secrets;
use crate::server::auth::tokens::Tokens;
use crate::server::hub::{Flow, Hub, Input, Now};
use crate::server::net::connection::{Pause, Phase};
use crate::server::store::Log;
use crate::server::turn::{ConnId, Turn};

/// Bytes read from one connection in one drain: large enough for a burst, small enough to be
/// fair. Measured beside a client that sends a million short lines with a cid each: 99 % of
/// the lines of others arrive within 30 ms; with four times this size it was 200 to 400 ms,
/// and the million lines took as long.
pub(super) const READ_SIZE: usize = 16 << 10;

/// Bytes read at once from a rate-limited connection: one line.
const LIMITED_READ_SIZE: usize = LINE_MAX;

/// Bytes read in one drain from all connections; the rest of the ready ones come next.
const TURN_READ_SIZE: usize = 1 << 20;

/// Time for handling lines in one drain. Short lines can be expensive; other connections must
/// not wait longer for their replies.
const TURN_TIME: Duration = Duration::from_millis(10);

/// Bytes of encoded output after which a turn handles no more input.
const TURN_SENT_MAX: usize = 4 << 20;

/// Bytes of replies to one connection in one drain, after which its next lines wait; less if
/// its outbox limit is less.
const TURN_REPLY_MAX: usize = 256 << 10;

impl<L: Log> Reactor<L> {
    /// Serves the connections that are ready, in order, until a limit of the turn is reached.
    /// Returns whether time was left.
    pub(super) fn drain(&mut self, now: Now, turn: &mut Turn) -> bool {
        let mut buffer = mem::take(&mut self.buffer);
        let (mut read, mut served) = (0, 0);
        let mut has_time = true;
        self.drains += 1;
        // Connections that become ready meanwhile are served in the next drain.
        for at in 0..self.ready.len() {
            // The first one needs no check; a drain often has no other.
            has_time = at == 0 || self.start.elapsed() < now.since_start + TURN_TIME;
            if !has_time || read >= TURN_READ_SIZE || turn.size() >= TURN_SENT_MAX {
                break;
            }
            read += self.serve_guarded(now, self.ready[at], &mut buffer, turn);
            served += 1;
        }
        self.ready.drain(..served);
        self.buffer = buffer;
        has_time
    }

    fn serve_guarded(&mut self, now: Now, slot: u32, buffer: &mut [u8], turn: &mut Turn) -> usize {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return 0 };
        let conn = ConnId { slot, generation: connection.generation };
        // A connection can be queued twice, for reading and for writing; it is served once.
        if mem::replace(&mut connection.last_drain, self.drains) == self.drains {
            return 0;
        }
        let read = self
            .guard(now, conn, turn, |this, turn| this.serve_connection(now, slot, buffer, turn));
        read.unwrap_or_default()
    }

    /// Reads and handles input of one connection; returns the number of bytes read.
    fn serve_connection(
        &mut self,
        now: Now,
        slot: u32,
        buffer: &mut [u8],
        turn: &mut Turn,
    ) -> usize {
        let drained = self.drained();
        let Some(connection) = self.connections.get_mut(slot as usize) else { return 0 };
        let conn = ConnId { slot, generation: connection.generation };
        connection.clear_ready();
        if connection.has_unsent() && !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(conn);
        }
        match connection.phase {
            Phase::Open => {}
            Phase::Arriving => {
                self.receive(now, conn, turn);
                return 0;
            }
            Phase::Closing => return 0,
            Phase::Lingering => {
                self.discard(conn, buffer);
                return 0;
            }
        }
        if connection.wants_page && connection.outbox.len() <= drained {
            connection.wants_page = false;
            self.notify_hub(now, conn, Input::Drained, turn);
        }
        let mut read = 0;
        let replies_before = turn.unicast_bytes();
        while self.may_read_line(conn, turn.unicast_bytes() - replies_before) {
            let Some(connection) = self.connections.get_mut(slot as usize) else { break };
            let unread = mem::take(&mut connection.unread);
            if !unread.is_empty() {
                self.handle_lines(now, conn, &unread, replies_before, turn);
                continue;
            }
            // Lines over the rate are buffered here, so read little and leave the rest to TCP.
            let size = if connection.budget.is_some() { LIMITED_READ_SIZE } else { buffer.len() };
            let input = connection.read(&mut buffer[..size]);
            if let Ok(Some(_)) = input
                && let Some(mail) = connection.take_received_mail()
            {
                self.hub.confirm_mail(mail);
            }
            match input {
                Ok(None) => break,
                Ok(Some(0)) => {
                    if connection.is_write_closed() {
                        connection.codec.finish(); // discards a line that may be truncated
                    }
                    self.finish(now, conn, turn);
                    break;
                }
                Ok(Some(count)) => {
                    read += count;
                    self.handle_lines(now, conn, &buffer[..count], replies_before, turn);
                    if read >= READ_SIZE {
                        self.ready.push(slot);
                        break;
                    }
                }
                // TLS ended without `close_notify`. Some programs do that, but the input may be
                // truncated by an attacker, so an unterminated last line does not count.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    connection.codec.finish();
                    self.finish(now, conn, turn);
                    break;
                }
                Err(_) => {
                    self.disconnect(now, conn, turn);
                    break;
                }
            }
        }
        read
    }

    /// Returns whether the next line of a connection may be handled now: not while a request is
    /// pending, the rate limit is exhausted, or the outbox exceeds its limit (backpressure).
    pub(super) fn may_read_line(&mut self, conn: ConnId, replied: usize) -> bool {
        let outbox_max = self.outbox_max();
        let Some(connection) = self.get(conn) else { return false };
        // `flush_one` makes the connection ready again when the client has read enough.
        connection.pauses.set(Pause::Outbox, connection.outbox.len() > outbox_max);
        if connection.phase != Phase::Open || !connection.pauses.is_empty() {
            return false;
        }
        if replied > TURN_REPLY_MAX.min(outbox_max) {
            self.ready.push(conn.slot);
            return false;
        }
        true
    }

    /// Passes lines to the hub until one makes the connection wait or a limit is reached.
    pub(super) fn handle_lines(
        &mut self,
        now: Now,
        conn: ConnId,
        input: &[u8],
        replies_before: usize,
        turn: &mut Turn,
    ) {
        let reply_max = TURN_REPLY_MAX.min(self.outbox_max());
        self.share_budget(now, conn);
        let Some(connection) = self.connections.get_mut(conn.slot as usize) else { return };
        let (mut rest, mut must_wait) = (input, false);
        while turn.unicast_bytes() - replies_before <= reply_max {
            if rest.is_empty() {
                return;
            }
            if let Some(budget) = &mut connection.budget
                && let Err(due) = budget.take(now.since_start)
            {
                connection.pauses.set(Pause::RateLimit, true);
                self.timers.push(Reverse((due, conn, Timeout::RateLimit)));
                break;
            }
            let frame = connection.codec.next(&mut rest);
            for _ in 0..connection.codec.take_timing_marks() {
                turn.send_bytes(conn, &WONT_TIMING_MARK);
            }
            let Some(frame) = frame else {
                connection.budget.iter_mut().for_each(|budget| budget.put_back());
                return;
            };
            if self.limits.debug_panic {
                assert!(frame != Frame::Line("/debug-panic".into()), "requested by /debug-panic");
                if frame == Frame::Line("/debug-panic later".into()) {
                    self.panic_on = Some(conn);
                }
            }
            let mut front = Front {
                hub: &mut self.hub,
                store: &mut self.store,
                tokens: &mut self.tokens,
                secrets: &mut connection.secrets,
            };
            let flow = front.handle(now, conn, &frame, turn);
            connection.codec.set_limit(self.hub.line_limit(conn));
            match flow {
                Flow::Next | Flow::Store | Flow::Token => {}
                Flow::Wait => {
                    must_wait = true;
                    break;
                }
                Flow::Over => return,
            }
        }
        connection.unread = rest.to_vec();
        if must_wait {
            self.pause_input(now, conn);
        }
    }

    /// Handles the end of input: an unterminated last line still counts, then the client gets
    /// its remaining replies and a farewell.
    pub(super) fn finish(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let connection = self.connections.get_mut(conn.slot as usize);
        let Some(connection) = connection.filter(|c| c.generation == conn.generation) else {
            return;
        };
        let last: Option<Frame<'static>> = connection.codec.finish();
        let last = last.filter(|_| self.hub.takes_unterminated(conn));
        let mut front = Front {
            hub: &mut self.hub,
            store: &mut self.store,
            tokens: &mut self.tokens,
            secrets: &mut connection.secrets,
        };
        let flow = last.map_or(Flow::Next, |frame| front.handle(now, conn, &frame, turn));
        match flow {
            // Continued after the reply: reading then reports the end of input again.
            Flow::Wait => self.pause_input(now, conn),
            _ => {
                connection.pauses.set(Pause::EndOfInput, true);
                self.hub.handle(now, conn, Input::Finished, turn);
            }
        }
    }

    /// Discards input of a connection that has its farewell, within the usual limit per drain.
    pub(super) fn discard(&mut self, conn: ConnId, buffer: &mut [u8]) {
        let Some(connection) = self.get(conn) else { return };
        if connection.pauses.has(Pause::EndOfInput) {
            return; // a timer removes it
        }
        let input = connection.read(buffer);
        if let Ok(Some(_)) = input
            && let Some(mail) = connection.take_received_mail()
        {
            self.hub.confirm_mail(mail);
        }
        match input {
            Ok(None) => {}
            Ok(Some(count)) if count > 0 => self.ready.push(conn.slot),
            _ => self.remove(conn),
        }
    }
}

/// What handling a line of a connection needs.
struct Front<'a, L> {
    hub: &'a mut Hub,
    store: &'a mut LogWriter<L>,
    tokens: &'a mut Tokens,
    secrets: &'a mut Secrets,
}

impl<L: Log> Front<'_, L> {
    /// Passes a line to the hub, and again after supplying what the hub needs for it: whether
    /// changes can be stored, or the hash of a new token.
    fn handle(&mut self, now: Now, conn: ConnId, frame: &Frame<'_>, turn: &mut Turn) -> Flow {
        if self.hub.is_unnamed(conn) {
            self.secrets.note_resume(self.hub.dialect(conn), frame);
        }
        loop {
            // Borrowed: a line assembled from pieces must not be copied for this.
            let again = match frame {
                Frame::Line(line) => Frame::Line(Cow::Borrowed(&**line)),
                frame => frame.clone(),
            };
            match self.hub.handle(now, conn, Input::Frame(again), turn) {
                Flow::Store => self.store.reserve(self.hub),
                Flow::Token => self.hub.offer_token(self.secrets.renew_token(self.tokens)),
                Flow::Wait => {
                    let (dialect, is_greeting) =
                        (self.hub.dialect(conn), self.hub.is_unnamed(conn));
                    self.secrets.keep_password(dialect, is_greeting, frame);
                    return Flow::Wait;
                }
                flow => return flow,
            }
        }
    }
}
