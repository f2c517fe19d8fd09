//! The loop around the hub: sockets in, sockets out, one thread, one order.
//!
//! Each turn: *drain* every connection that has something to say, let the hub
//! *handle* each line; this again as long as it pays to wait for more
//! (`linger.rs`); then *commit* the turn's records with one append, and only then
//! *release* its effects into outboxes; then *flush*: one write for each
//! connection that something waits for. While a turn is being stored and written
//! the next one collects itself in the sockets.
//!
//! Nobody waits for a slow reader: a socket that is full keeps what waits for it
//! in its outbox, within bounds, and rings when it has room.

mod arrival;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use slab::Slab;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::admission::Admission;
use super::alarm::Alarm;
use super::audit::AuditLog;
use super::connection::{Connection, Doorbells, Flush, Phase};
use super::hub::{Flow, Hub, Input, Now, Seed};
use super::limits::Limits;
use super::linger::Linger;
use super::log::{AppendError, Batch, Kept, Log, Query, Record, Repeat, Rows, Thread};
use super::outbox::{Lines, Meter};
use super::pace::Rate;
use super::passwords::{Hashers, Job, Outcome};
use super::peer::Peer;
use super::tls::Offer;
use super::turn::{ConnId, Sink, Turn};
use crate::protocol::codec::{Frame, WONT_TIMING_MARK};
use crate::protocol::{ErrorCode, LINE_MAX, Refusal, Stamp};

/// How much is read of one connection in one turn. Large enough for a burst,
/// small enough that nobody makes the others wait.
const READ_SIZE: usize = 64 << 10;

/// The same of one whose lines are heard no faster than the limit: a line's worth.
const LIMITED_READ_SIZE: usize = LINE_MAX;

/// How much is read in one turn in all; what is ready beyond that has its turn
/// next.
const TURN_READ_SIZE: usize = 1 << 20;

/// A turn with more lines than this, in bytes, does not wait for more.
const TURN_SIZE: usize = 256 << 10;

/// How much one connection may be answered in one turn before its next lines
/// have to wait for the next: a line of six bytes can ask for megabytes.
const TURN_ANSWER_SIZE: usize = 256 << 10;

/// Who catches up is fed on when no more waits than this part of its bound.
const DRAINED: usize = 4;

/// What may wait for a connection in any case: who reads as fast as it is
/// written must not be taken for a slow reader.
const OUTBOX_MIN: usize = 64 << 10;

/// How long a peer that was said farewell to may take to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// How long a stop may take to tell everyone, whoever does not listen.
const DRAIN: Duration = Duration::from_secs(5);

/// What comes to the loop from outside the sockets.
#[derive(Debug)]
pub enum Call {
    /// Somebody connected, from there.
    Accepted(TcpStream, Peer),
    /// The log found what a connection asked for.
    Found(ConnId, Rows),
    /// The log found what a connection is fed on with.
    FoundPage(ConnId, Rows),
    /// What came of a password that a connection gave.
    Hashed(ConnId, Outcome),
    /// From now on this is offered to whoever connects.
    Offer(Offer),
    /// Say farewell to everyone and end.
    Stop,
}

/// What falls due for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// It may have said nothing yet.
    Greeting,
    /// It may have made no progress for too long.
    Stall,
    /// It had time enough to close its side.
    Linger,
    /// Its next line may be heard.
    Pace,
}

/// The server's loop and all it owns.
pub struct Reactor<L> {
    limits: Limits,
    input_rate: Option<Rate>,
    admission: Admission,
    /// How many are being told why they cannot come in.
    turned_away: usize,
    hub: Hub,
    log: L,
    hashers: Hashers,
    audit: AuditLog,
    /// Of all that waits to be written.
    meter: Meter,
    start: Instant,
    calls: UnboundedReceiver<Call>,
    bells: Arc<Doorbells>,
    /// TLS, if it is offered.
    offer: Option<Offer>,
    connections: Slab<Connection>,
    generation: u32,
    dues: BinaryHeap<Reverse<(Duration, ConnId, Due)>>,
    /// Slots to look at in the next turn, in this order.
    ready: Vec<u32>,
    /// Connections that something is to be written to.
    dirty: Vec<ConnId>,
    /// What has come and is not released yet.
    turn: Turn,
    linger: Linger,
    /// Until when the turn waits for more, and the clock that ends it.
    ends_turn_at: Option<Duration>,
    alarm: Alarm,
    /// What appending to the log took since the turn's end began.
    append_time: Duration,
    /// Connections that more waits for than may.
    swamped: Vec<ConnId>,
    /// Where the log's answers come in, beside the calls from outside.
    own_calls: UnboundedSender<Call>,
    /// Where sockets are read into, one after another.
    buffer: Vec<u8>,
    /// Set when stopping: until when.
    ends_at: Option<Duration>,
}

impl<L: Log> Reactor<L> {
    /// A loop that nobody is connected to yet.
    ///
    /// # Errors
    /// The system gives no timer.
    pub fn new(
        limits: Limits,
        log: L,
        kept: &Kept,
        hashers: Hashers,
        seed: Seed,
        descriptors: usize,
        calls: (UnboundedSender<Call>, UnboundedReceiver<Call>),
    ) -> anyhow::Result<Self> {
        Ok(Self {
            hub: Hub::new(limits.clone(), kept, seed),
            input_rate: Rate::new(limits.input_rate, limits.input_burst),
            admission: Admission::new(&limits, descriptors),
            turned_away: 0,
            limits,
            log,
            hashers,
            audit: AuditLog::start()?,
            meter: Meter::default(),
            start: Instant::now(),
            calls: calls.1,
            bells: Arc::default(),
            offer: None,
            connections: Slab::new(),
            generation: 0,
            dues: BinaryHeap::new(),
            ready: Vec::new(),
            dirty: Vec::new(),
            turn: Turn::default(),
            linger: Linger::default(),
            ends_turn_at: None,
            alarm: Alarm::new()?,
            append_time: Duration::ZERO,
            swamped: Vec::new(),
            own_calls: calls.0,
            buffer: vec![0; READ_SIZE],
            ends_at: None,
        })
    }

    /// Runs until stopped and everyone is told.
    ///
    /// # Errors
    /// The log could not be written: what was not committed was not shown.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let bells = self.bells.clone();
        while !self.is_over() {
            let deadline = self.next_deadline();
            let mut call = None;
            tokio::select! {
                biased;
                () = bells.wait() => {}
                first = self.calls.recv() => call = first,
                rung = self.alarm.rings(), if self.ends_turn_at.is_some() => rung?,
                () = sleep_until(self.start, deadline), if deadline.is_some() => {}
                () = tokio::task::yield_now(), if !self.ready.is_empty() => {}
            }
            self.go_on(call)?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|at| self.connections.is_empty() || self.start.elapsed() >= at)
    }

    fn next_deadline(&mut self) -> Option<Duration> {
        let due = self.dues.peek().map(|Reverse((due, ..))| *due);
        self.hub.next_deadline().into_iter().chain(due).chain(self.ends_at).min()
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = Stamp(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX));
        Now { since_start: self.start.elapsed(), wall }
    }

    /// Drains and handles; then commits, releases and flushes, or waits for more.
    fn go_on(&mut self, call: Option<Call>) -> anyhow::Result<()> {
        let now = self.now();
        let mut turn = mem::take(&mut self.turn);
        turn.begin_part();
        let mut call = call;
        while let Some(next) = call.take().or_else(|| self.calls.try_recv().ok()) {
            match next {
                Call::Accepted(stream, peer) => self.open(now, stream, peer, &mut turn),
                Call::Found(conn, rows) => {
                    self.tell_hub(now, conn, Input::Rows(rows), &mut turn);
                }
                Call::Hashed(conn, outcome) => {
                    self.tell_hub(now, conn, Input::Hashed(outcome), &mut turn);
                }
                Call::FoundPage(conn, rows) => {
                    self.tell_hub(now, conn, Input::Page(rows), &mut turn);
                }
                Call::Offer(offer) => self.offer = Some(offer),
                Call::Stop => {
                    self.ends_at = Some(now.since_start + DRAIN);
                    self.hub.shut_down(&mut turn);
                }
            }
        }
        self.bells.take_into(&mut self.ready);
        self.drain(now, &mut turn);
        self.hub.tick(now, &mut turn);
        self.fall_due(now, &mut turn);
        if !self.waits_for_more(now.since_start, &turn) {
            self.end_turn(now, &mut turn)?;
        }
        self.turn = turn;
        Ok(())
    }

    fn waits_for_more(&mut self, now: Duration, turn: &Turn) -> bool {
        if turn.is_empty() || turn.size() > TURN_SIZE || self.ends_at.is_some() {
            return false;
        }
        if turn.has_grown() {
            self.ends_turn_at = self.linger.after_part(now);
        }
        let Some(at) = self.ends_turn_at.filter(|at| *at > now) else { return false };
        // If nothing has come, the clock is set.
        !turn.has_grown() || self.alarm.set(at.saturating_sub(now)).is_ok()
    }

    fn end_turn(&mut self, now: Now, turn: &mut Turn) -> anyhow::Result<()> {
        self.ends_turn_at = None;
        let (is_empty, parts, gathered) = (turn.is_empty(), turn.parts(), turn.gathered());
        self.append_time = Duration::ZERO;
        self.commit(turn)?;
        self.slow_down_swamped(now)?;
        let written = self.flush(now)?;
        if !is_empty {
            let end = self.start.elapsed();
            let took = end.saturating_sub(now.since_start);
            // Either storing was most of it, or writing was.
            let is_storing = self.append_time * 2 > took;
            let has_paid = if is_storing { parts > 1 } else { gathered * 2 >= written };
            self.linger.after_turn(end, took, has_paid);
        }
        Ok(())
    }

    /// Lets every connection that rang have its say, in the order they rang,
    /// until the turn is full.
    fn drain(&mut self, now: Now, turn: &mut Turn) {
        let mut buffer = mem::take(&mut self.buffer);
        let (mut read, mut attended) = (0, 0);
        // Who is put on the list meanwhile is for the next time.
        for at in 0..self.ready.len() {
            if read >= TURN_READ_SIZE {
                break;
            }
            read += self.attend_safely(now, self.ready[at], &mut buffer, turn);
            attended += 1;
        }
        self.ready.drain(..attended);
        self.buffer = buffer;
    }

    /// [`Self::attend`], of which a panic ends that connection and no other. What
    /// the line had done before stands.
    fn attend_safely(&mut self, now: Now, slot: u32, buffer: &mut [u8], turn: &mut Turn) -> usize {
        let attend = AssertUnwindSafe(|| self.attend(now, slot, buffer, turn));
        if let Ok(read) = panic::catch_unwind(attend) {
            return read;
        }
        if let Some(connection) = self.connections.get(slot as usize) {
            let conn = ConnId { slot, generation: connection.generation };
            let from =
                self.hub.peer(conn).map_or_else(String::new, |peer| peer.address.to_string());
            self.audit.write(format!(
                "a bug: what {from} sent has made the server panic; only that connection was \
                 ended; please report it, with what stands above"
            ));
            self.lose(now, conn, turn);
        }
        0
    }

    /// Reads and handles what one connection has sent; tells how much it was.
    fn attend(&mut self, now: Now, slot: u32, buffer: &mut [u8], turn: &mut Turn) -> usize {
        let outbox_max = self.outbox_max();
        let Some(connection) = self.connections.get_mut(slot as usize) else { return 0 };
        let conn = ConnId { slot, generation: connection.generation };
        connection.answer_bell();
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
        if connection.wants_feed && connection.outbox.len() <= outbox_max / DRAINED {
            connection.wants_feed = false;
            self.tell_hub(now, conn, Input::Drained, turn);
        }
        let mut read = 0;
        let answered_before = turn.said_singly();
        while self.may_hear(conn, turn.said_singly() - answered_before) {
            let Some(connection) = self.connections.get_mut(slot as usize) else { break };
            let unread = mem::take(&mut connection.unread);
            if !unread.is_empty() {
                self.hear(now, conn, &unread, answered_before, turn);
                continue;
            }
            // What waits to be heard is kept, so of who may have to wait little is read.
            let is_limited = connection.is_limited && self.input_rate.is_some();
            let piece = if is_limited { LIMITED_READ_SIZE } else { buffer.len() };
            match connection.read(&mut buffer[..piece]) {
                Ok(None) => break,
                Ok(Some(0)) => {
                    self.finish(now, conn, turn);
                    break;
                }
                Ok(Some(count)) => {
                    read += count;
                    self.hear(now, conn, &buffer[..count], answered_before, turn);
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
                    self.lose(now, conn, turn);
                    break;
                }
            }
        }
        read
    }

    /// Whether a connection's next line may be handled now: not while it waits
    /// for rows, nor while more answers wait for it than may. A reader that does
    /// not read is thus not read from.
    fn may_hear(&mut self, conn: ConnId, answered: usize) -> bool {
        let outbox_max = self.outbox_max();
        let Some(connection) = self.get(conn) else { return false };
        if connection.phase != Phase::Open
            || connection.is_waiting
            || connection.is_finished
            || connection.is_paced
        {
            return false;
        }
        if answered > TURN_ANSWER_SIZE {
            self.ready.push(conn.slot);
            return false;
        }
        // Past its bound it is heard again when it has read (see `flush`).
        connection.is_held_back = connection.outbox.len() > outbox_max;
        !connection.is_held_back
    }

    /// Hands lines to the hub until one makes the connection wait.
    fn hear(
        &mut self,
        now: Now,
        conn: ConnId,
        input: &[u8],
        answered_before: usize,
        turn: &mut Turn,
    ) {
        let Some(connection) = self.connections.get_mut(conn.slot as usize) else { return };
        let rate = self.input_rate.filter(|_| connection.is_limited);
        let mut rest = input;
        while turn.said_singly() - answered_before <= TURN_ANSWER_SIZE {
            if let Some(rate) = rate {
                let due = connection.pace.next(rate, now.since_start);
                if due > now.since_start {
                    connection.is_paced = true;
                    self.dues.push(Reverse((due, conn, Due::Pace)));
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
            let is_bug = self.limits.debug_panic;
            assert!(!is_bug || frame != Frame::Line("/debug-panic".into()), "as asked for");
            let flow = self.hub.handle(now, conn, Input::Frame(frame), turn);
            connection.codec.set_limit(self.hub.line_limit(conn));
            match flow {
                Flow::Next => {}
                Flow::Wait => {
                    connection.is_waiting = true;
                    break;
                }
                Flow::Over => return,
            }
        }
        connection.unread = rest.to_vec();
    }

    /// The other side will send no more: its last line counts, then it gets its
    /// answers and a farewell.
    fn finish(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(connection) = self.get(conn) else { return };
        let last: Option<Frame<'static>> = connection.codec.finish();
        let last = last.filter(|_| self.hub.takes_unterminated(conn));
        let flow =
            last.map_or(Flow::Next, |frame| self.hub.handle(now, conn, Input::Frame(frame), turn));
        match flow {
            // Comes back here when the rows are told: reading gives the end again.
            Flow::Wait => self.connections[conn.slot as usize].is_waiting = true,
            _ => {
                self.connections[conn.slot as usize].is_finished = true;
                self.hub.handle(now, conn, Input::Finished, turn);
            }
        }
    }

    /// The connection broke: nothing can be said to it any more.
    fn lose(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        self.hub.handle(now, conn, Input::Lost, turn);
        self.remove(conn);
    }

    fn remove(&mut self, conn: ConnId) {
        if self.get(conn).is_some() {
            let peer = self.hub.peer(conn);
            self.hub.forget(conn);
            let connection = self.connections.remove(conn.slot as usize);
            if connection.is_turned_away {
                self.turned_away -= 1;
            } else if let Some(peer) = peer {
                self.admission.left(self.start.elapsed(), peer);
            }
        }
    }

    /// Throws away what a peer still sends that has been told all.
    fn discard(&mut self, conn: ConnId, buffer: &mut [u8]) {
        loop {
            let Some(connection) = self.get(conn) else { return };
            match connection.read(buffer) {
                Ok(None) => return,
                Ok(Some(count)) if count > 0 => {}
                _ => {
                    self.remove(conn);
                    return;
                }
            }
        }
    }

    /// Makes the turn's records safe, and what else is to be kept, then lets its
    /// effects out.
    fn commit(&mut self, turn: &mut Turn) -> anyhow::Result<()> {
        if turn.has_records() || self.hub.has_changes() {
            match self.append(turn.records())? {
                Some(repeats) if repeats.is_empty() => {}
                Some(repeats) => {
                    turn.echo_repeats(&repeats);
                    self.hub.unsay(repeats.iter().map(|repeat| repeat.id));
                }
                None => {
                    turn.refuse_sayings(&storage_full());
                    self.hub.unsay(turn.records().iter().map(|record| record.id));
                    // There may be room for what else is to be kept; where there
                    // is none either, it is kept when there is.
                    self.append(Vec::new())?;
                }
            }
        }
        turn.release(self);
        for line in self.hub.take_audit() {
            self.audit.write(line);
        }
        Ok(())
    }

    /// `None`: there is no room, and nothing of it is stored.
    fn append(&mut self, records: Vec<Arc<Record>>) -> anyhow::Result<Option<Vec<Repeat>>> {
        let changes = self.hub.changes();
        let batch = Batch { records, changes, last: self.hub.last() };
        let start = self.start.elapsed();
        let result = self.log.append(&batch);
        self.append_time += self.start.elapsed().saturating_sub(start);
        match result {
            Ok(repeats) => {
                self.hub.note_kept();
                Ok(Some(repeats))
            }
            Err(AppendError::Full(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands the hub something about a connection that is no line of its own,
    /// and lets it be heard again, or not.
    fn tell_hub(&mut self, now: Now, conn: ConnId, input: Input<'_>, turn: &mut Turn) {
        let flow = self.hub.handle(now, conn, input, turn);
        let line_limit = self.hub.line_limit(conn);
        if let Some(connection) = self.get(conn) {
            connection.codec.set_limit(line_limit);
            let was_waiting = mem::replace(&mut connection.is_waiting, flow == Flow::Wait);
            if was_waiting && flow == Flow::Next {
                self.ready.push(conn.slot);
            }
        }
    }

    /// Those whom more waits for than may are fed from the log from now on.
    fn slow_down_swamped(&mut self, now: Now) -> anyhow::Result<()> {
        if self.swamped.is_empty() {
            return Ok(());
        }
        let mut turn = Turn::default();
        for conn in mem::take(&mut self.swamped) {
            self.tell_hub(now, conn, Input::Swamped, &mut turn);
        }
        self.commit(&mut turn)
    }

    /// Writes to every connection that something waits for, and tells to how many.
    /// Those that turn out to be gone are missed by others, which makes a turn of
    /// its own.
    fn flush(&mut self, now: Now) -> anyhow::Result<usize> {
        let mut written = 0;
        while !self.dirty.is_empty() {
            let mut turn = Turn::default();
            let count = self.dirty.len();
            for at in 0..count {
                self.flush_one(now, self.dirty[at], &mut turn);
            }
            self.dirty.drain(..count);
            written += count;
            self.commit(&mut turn)?;
        }
        Ok(written)
    }

    fn flush_one(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let outbox_max = self.outbox_max();
        let Some(connection) = self.get(conn) else { return };
        connection.is_dirty = false;
        match connection.flush() {
            Err(_) => {
                self.lose(now, conn, turn);
                return;
            }
            Ok(Flush::Blocked { progress }) => {
                if connection.stalled_since.is_none() {
                    let due = now.since_start + self.limits.write_stall;
                    self.dues.push(Reverse((due, conn, Due::Stall)));
                }
                let connection = &mut self.connections[conn.slot as usize];
                if progress || connection.stalled_since.is_none() {
                    connection.stalled_since = Some(now.since_start);
                }
            }
            Ok(Flush::Done) => connection.stalled_since = None,
        }
        let connection = &mut self.connections[conn.slot as usize];
        let is_heard_again = connection.is_held_back && connection.outbox.len() <= outbox_max;
        let is_fed_on = connection.wants_feed && connection.outbox.len() <= outbox_max / DRAINED;
        if is_heard_again || is_fed_on {
            self.ready.push(conn.slot);
        }
        if connection.phase == Phase::Closing && !connection.has_unsent() {
            connection.close_sending_side();
            if connection.is_finished {
                self.remove(conn);
            } else {
                connection.phase = Phase::Lingering;
                self.dues.push(Reverse((now.since_start + LINGER, conn, Due::Linger)));
                self.ready.push(conn.slot);
            }
        }
    }

    fn fall_due(&mut self, now: Now, turn: &mut Turn) {
        while let Some(Reverse((due, conn, what))) = self.dues.peek().copied() {
            if due > now.since_start {
                return;
            }
            self.dues.pop();
            match what {
                Due::Greeting => self.greet_silent(now, conn, turn),
                Due::Linger => self.remove(conn),
                Due::Pace => {
                    if let Some(connection) = self.get(conn) {
                        connection.is_paced = false;
                        self.ready.push(conn.slot);
                    }
                }
                Due::Stall => self.check_stall(now, conn, turn),
            }
        }
    }

    /// A reader that made no progress for too long is parted with; if it does
    /// not even take its farewell, without one.
    fn check_stall(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let patience = self.limits.write_stall;
        let Some(connection) = self.get(conn) else { return };
        let Some(since) = connection.stalled_since else { return };
        if since + patience > now.since_start {
            self.dues.push(Reverse((since + patience, conn, Due::Stall)));
        } else if connection.phase == Phase::Open {
            connection.stalled_since = Some(now.since_start);
            connection.outbox.cut();
            self.dues.push(Reverse((now.since_start + patience, conn, Due::Stall)));
            self.hub.handle(now, conn, Input::Stalled, turn);
        } else {
            self.remove(conn);
        }
    }

    /// How much may wait for one connection now: a share of what is left for all,
    /// so that slow readers together cannot take more than there is.
    fn outbox_max(&self) -> usize {
        let left = self.limits.outbox_total.saturating_sub(self.meter.held());
        self.limits.outbox.min(left.max(OUTBOX_MIN))
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(conn.slot as usize)?;
        (connection.generation == conn.generation).then_some(connection)
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
        if !is_heard {
            return;
        }
        connection.outbox.push(lines, start, end);
        let is_swamped = connection.outbox.unasked() > outbox_max;
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

    fn note_asked(&mut self, to: ConnId, count: usize) {
        if let Some(connection) = self.get(to) {
            connection.outbox.note_asked(count);
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

    fn read(&mut self, conn: ConnId, query: Query) {
        let calls = self.own_calls.clone();
        let call = match query.thread {
            Thread::Feed { .. } => Call::FoundPage,
            _ => Call::Found,
        };
        let reply = move |rows| {
            let _ = calls.send(call(conn, rows)); // the loop may have ended
        };
        self.log.read(query, Box::new(reply));
    }

    fn hash(&mut self, conn: ConnId, job: Job) {
        let calls = self.own_calls.clone();
        self.hashers.run(job, move |outcome| {
            let _ = calls.send(Call::Hashed(conn, outcome)); // the loop may have ended
        });
    }

    fn tell_when_drained(&mut self, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.wants_feed = true;
            self.ready.push(conn.slot);
        }
    }
}

fn storage_full() -> Refusal {
    Refusal::new(
        ErrorCode::StorageFull,
        "the server has no room to keep this; nobody saw it, try again later",
    )
}

async fn sleep_until(start: Instant, deadline: Option<Duration>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until((start + deadline).into()).await;
    }
}
