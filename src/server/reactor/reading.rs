//! What connections have sent: read, cut into lines and handed to the hub, each for
//! as long as it may be heard.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::io::ErrorKind;
use std::mem;
use std::time::{Duration, Instant};

use super::store::Store;
use super::writing::DRAINED;
use super::{Reactor, Timeout};
use crate::protocol::LINE_MAX;
use crate::protocol::codec::{Frame, WONT_TIMING_MARK};
use crate::server::connection::Phase;
use crate::server::hub::{Flow, Hub, Input, Now};
use crate::server::log::Log;
use crate::server::turn::{ConnId, Turn};

/// How much is read of one connection in one turn. Large enough for a burst,
/// small enough that nobody makes the others wait: beside one who says a million
/// short lines, each with a mark, 99 of 100 others' come within 30 ms, where with
/// four times as much it was 200 to 400, and the million took no less time.
pub(super) const READ_SIZE: usize = 16 << 10;

/// The same of one whose lines are heard no faster than the limit: a line's worth.
const LIMITED_READ_SIZE: usize = LINE_MAX;

/// How much is read in one turn in all; what is ready beyond that has its turn
/// next.
const TURN_READ_SIZE: usize = 1 << 20;

/// How long lines are handled in one turn. Short ones, each with much to do, can be
/// many: nobody is looked at longer before the others are answered.
const TURN_TIME: Duration = Duration::from_millis(10);

/// How much may be said in one turn before the others have to wait for the next.
const TURN_SENT_MAX: usize = 4 << 20;

/// How much one connection may be answered in one turn before its next lines
/// have to wait for the next; less where less may wait for it.
const TURN_REPLY_MAX: usize = 256 << 10;

impl<L: Log> Reactor<L> {
    /// Lets every connection that rang have its say, in the order they rang,
    /// until the turn is full. Tells whether there was time for all it took in.
    pub(super) fn drain(&mut self, now: Now, turn: &mut Turn) -> bool {
        let mut buffer = mem::take(&mut self.buffer);
        let (mut read, mut attended) = (0, 0);
        let ends_at = Instant::now() + TURN_TIME;
        let mut has_time = true;
        self.drains += 1;
        // Who is put on the list meanwhile is for the next time.
        for at in 0..self.ready.len() {
            has_time = Instant::now() < ends_at;
            if !has_time || read >= TURN_READ_SIZE || turn.size() >= TURN_SENT_MAX {
                break;
            }
            read += self.serve_guarded(now, self.ready[at], &mut buffer, turn);
            attended += 1;
        }
        self.ready.drain(..attended);
        self.buffer = buffer;
        has_time
    }

    fn serve_guarded(&mut self, now: Now, slot: u32, buffer: &mut [u8], turn: &mut Turn) -> usize {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return 0 };
        let conn = ConnId { slot, generation: connection.generation };
        // It may stand on the list twice, since it could be read from and written to;
        // it has one turn all the same.
        if mem::replace(&mut connection.last_drain, self.drains) == self.drains {
            return 0;
        }
        let read = self
            .guard(now, conn, turn, |this, turn| this.serve_connection(now, slot, buffer, turn));
        read.unwrap_or_default()
    }

    /// Reads and handles what one connection has sent; tells how much it was.
    fn serve_connection(
        &mut self,
        now: Now,
        slot: u32,
        buffer: &mut [u8],
        turn: &mut Turn,
    ) -> usize {
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
        if connection.wants_feed && connection.outbox.len() <= DRAINED {
            connection.wants_feed = false;
            self.notify_hub(now, conn, Input::Drained, turn);
        }
        let mut read = 0;
        let answered_before = turn.unicast_bytes();
        while self.may_read_line(conn, turn.unicast_bytes() - answered_before) {
            let Some(connection) = self.connections.get_mut(slot as usize) else { break };
            let unread = mem::take(&mut connection.unread);
            if !unread.is_empty() {
                self.handle_lines(now, conn, &unread, answered_before, turn);
                continue;
            }
            // What waits to be heard is kept, so of who may have to wait little is read.
            let is_limited = connection.is_limited && self.input_rate.is_some();
            let piece = if is_limited { LIMITED_READ_SIZE } else { buffer.len() };
            match connection.read(&mut buffer[..piece]) {
                Ok(None) => break,
                Ok(Some(0)) => {
                    if connection.is_deaf {
                        connection.codec.finish(); // it may be cut off
                    }
                    self.finish(now, conn, turn);
                    break;
                }
                Ok(Some(count)) => {
                    read += count;
                    self.handle_lines(now, conn, &buffer[..count], answered_before, turn);
                    if read >= READ_SIZE {
                        self.ready.push(slot);
                        break;
                    }
                }
                // With TLS: the end came without being announced. Some programs end
                // so, but it may be cut off, and then half a line is no line.
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

    /// Whether a connection's next line may be handled now: not while it waits
    /// for rows, nor while more answers wait for it than may. A reader that does
    /// not read is thus not read from.
    pub(super) fn may_read_line(&mut self, conn: ConnId, answered: usize) -> bool {
        let outbox_max = self.outbox_max();
        let Some(connection) = self.get(conn) else { return false };
        if connection.phase != Phase::Open
            || connection.is_waiting
            || connection.is_finished
            || connection.is_paced
        {
            return false;
        }
        if answered > TURN_REPLY_MAX.min(outbox_max) {
            self.ready.push(conn.slot);
            return false;
        }
        // Past its bound it is heard again when it has read (see `flush`).
        connection.is_held_back = connection.outbox.len() > outbox_max;
        !connection.is_held_back
    }

    /// Hands lines to the hub until one makes the connection wait.
    pub(super) fn handle_lines(
        &mut self,
        now: Now,
        conn: ConnId,
        input: &[u8],
        answered_before: usize,
        turn: &mut Turn,
    ) {
        let answer_max = TURN_REPLY_MAX.min(self.outbox_max());
        let Some(connection) = self.connections.get_mut(conn.slot as usize) else { return };
        let rate = self.input_rate.filter(|_| connection.is_limited);
        let (mut rest, mut is_to_wait) = (input, false);
        while turn.unicast_bytes() - answered_before <= answer_max {
            if let Some(rate) = rate {
                let due = connection.pace.next_at(rate, now.since_start);
                if due > now.since_start {
                    connection.is_paced = true;
                    self.dues.push(Reverse((due, conn, Timeout::Pace)));
                    break;
                }
            }
            let frame = connection.codec.next(&mut rest);
            for _ in 0..connection.codec.take_timing_marks() {
                turn.send_bytes(conn, &WONT_TIMING_MARK);
            }
            let Some(frame) = frame else { return };
            if let Some(rate) = rate {
                connection.pace.count(rate, now.since_start);
            }
            if self.limits.debug_panic {
                assert!(frame != Frame::Line("/debug-panic".into()), "as asked for");
                if frame == Frame::Line("/debug-panic later".into()) {
                    self.doomed = Some(conn);
                }
            }
            let flow = handle(now, conn, &frame, &mut self.hub, &mut self.store, turn);
            connection.codec.set_limit(self.hub.line_limit(conn));
            match flow {
                Flow::Next | Flow::Store => {}
                Flow::Wait => {
                    is_to_wait = true;
                    break;
                }
                Flow::Over => return,
            }
        }
        connection.unread = rest.to_vec();
        if is_to_wait {
            self.pause_input(now, conn);
        }
    }

    /// The other side will send no more: its last line counts, then it gets its
    /// answers and a farewell.
    pub(super) fn finish(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(connection) = self.get(conn) else { return };
        let last: Option<Frame<'static>> = connection.codec.finish();
        let last = last.filter(|_| self.hub.takes_unterminated(conn));
        let flow = last.map_or(Flow::Next, |frame| {
            handle(now, conn, &frame, &mut self.hub, &mut self.store, turn)
        });
        match flow {
            // Comes back here when the rows are told: reading gives the end again.
            Flow::Wait => self.pause_input(now, conn),
            _ => {
                self.connections[conn.slot as usize].is_finished = true;
                self.hub.handle(now, conn, Input::Finished, turn);
            }
        }
    }

    /// Throws away what a peer still sends that has been told all; no more in one turn
    /// than is read of others.
    pub(super) fn discard(&mut self, conn: ConnId, buffer: &mut [u8]) {
        let Some(connection) = self.get(conn) else { return };
        match connection.read(buffer) {
            Ok(None) => {}
            Ok(Some(count)) if count > 0 => self.ready.push(conn.slot),
            _ => self.remove(conn),
        }
    }
}

/// Hands a line to the hub; again, if it has to know first whether changes can be stored.
fn handle<L: Log>(
    now: Now,
    conn: ConnId,
    frame: &Frame<'_>,
    hub: &mut Hub,
    store: &mut Store<L>,
    turn: &mut Turn,
) -> Flow {
    // A line that came in pieces is not copied for that.
    let input = || match frame {
        Frame::Line(line) => Input::Frame(Frame::Line(Cow::Borrowed(line))),
        frame => Input::Frame(frame.clone()),
    };
    let flow = hub.handle(now, conn, input(), turn);
    if flow != Flow::Store {
        return flow;
    }
    store.reserve(hub);
    hub.handle(now, conn, input(), turn)
}
