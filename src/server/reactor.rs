//! The loop around the hub: sockets in, sockets out, one thread, one order.
//!
//! Each turn: *drain* every connection that has something to say, let the hub
//! *handle* each line; this again as long as it pays to wait for more
//! (`batch_delay.rs`); then *commit* the turn's records with one append, and only then
//! *release* its effects into outboxes; then *flush*: one write for each
//! connection that something waits for. While a turn is being stored and written
//! the next one collects itself in the sockets.
//!
//! Nobody waits for a slow reader: a socket that is full keeps what waits for it
//! in its outbox, within bounds, and rings when it has room.

mod accept;
mod long_replies;
mod panic_guard;
mod reading;
mod store;
mod writing;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::bail;
use slab::Slab;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::admission::Admission;
use super::audit::{self, ThrottledWarning};
use super::batch_delay::BatchDelay;
use super::connection::{Connection, ReadyQueue};
use super::hub::{Flow, Hub, Input, Now, Storage, storage_full};
use super::limits::Limits;
use super::log::{AppendError, Log, ReadResult};
use super::outbox::Meter;
use super::passwords::{Hashers, Outcome};
use super::peer::Peer;
use super::rate_limit::Rate;
use super::timer::Timer;
use super::tls::Offer;
use super::turn::{ConnId, Sink as _, Turn};
use crate::protocol::Stamp;
use long_replies::{Kind, LongReplies};
use reading::READ_SIZE;
use store::Store;

/// A turn with more lines than this, in bytes, does not wait for more.
const TURN_SIZE: usize = 256 << 10;

/// How often is looked whether somebody is still there who waits for an answer.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);

/// How long a stop may take to tell everyone, whoever does not listen.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The same when the log has failed.
const FAILURE_DRAIN: Duration = Duration::from_secs(1);

/// How long the end waits for changes to be stored that cannot be yet.
const SAVE_PATIENCE: Duration = Duration::from_secs(2);
const SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// What comes to the loop from outside the sockets.
#[derive(Debug)]
pub enum ReactorInput {
    /// Somebody connected, from there.
    Accepted(TcpStream, Peer),
    /// The log found what a connection asked for.
    Found(ConnId, Kind, ReadResult),
    /// There is room for a connection's long answer.
    Room(ConnId),
    /// The log found what a connection is fed on with.
    FoundPage(ConnId, ReadResult),
    /// What came of a password that a connection gave.
    Hashed(ConnId, Outcome),
    /// From now on this is offered to whoever connects.
    Offer(Offer),
    /// The log has failed while nothing was appended to it.
    LogFailed(AppendError),
    /// Say farewell to everyone and end.
    Stop,
}

/// What falls due for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timeout {
    /// It may have said nothing yet.
    Greeting,
    /// It may have made no progress for too long.
    Stall,
    /// It had time enough to close its side.
    Linger,
    /// Its next line may be heard.
    Pace,
    /// It may have gone while it waits for an answer, and is not read from.
    Wait,
}

/// The server's loop and all it owns.
pub struct Reactor<L> {
    limits: Limits,
    input_rate: Option<Rate>,
    admission: Admission,
    /// How many are being told why they cannot come in.
    turned_away: usize,
    hub: Hub,
    store: Store<L>,
    hashers: Hashers,
    /// What makes us panic.
    bugs: ThrottledWarning,
    /// Over whom we are to panic, in a test.
    doomed: Option<ConnId>,
    long_answers: LongReplies,
    /// Of all that waits to be written.
    meter: Meter,
    start: Instant,
    calls: UnboundedReceiver<ReactorInput>,
    bells: Arc<ReadyQueue>,
    /// TLS, if it is offered.
    offer: Option<Offer>,
    connections: Slab<Connection>,
    generation: u32,
    dues: BinaryHeap<Reverse<(Duration, ConnId, Timeout)>>,
    /// Slots to look at in the next turn, in this order.
    ready: Vec<u32>,
    /// How often that was done.
    drains: u64,
    /// Connections that something is to be written to.
    dirty: Vec<ConnId>,
    /// What has come and is not released yet.
    turn: Turn,
    linger: BatchDelay,
    /// Until when the turn waits for more, and the clock that ends it.
    ends_turn_at: Option<Duration>,
    alarm: Timer,
    /// Connections that more waits for than may.
    swamped: Vec<ConnId>,
    /// Where the log's answers come in, beside the calls from outside.
    own_calls: UnboundedSender<ReactorInput>,
    /// Where sockets are read into, one after another.
    buffer: Vec<u8>,
    /// Set when stopping: until when.
    ends_at: Option<Duration>,
    /// Whether the log failed while nothing was appended: no line is in doubt.
    is_reported: bool,
}

impl<L: Log> Reactor<L> {
    /// A loop around a house that nobody is connected to yet.
    ///
    /// # Errors
    /// The system gives no timer.
    pub fn new(
        limits: Limits,
        mut log: L,
        mut hub: Hub,
        hashers: Hashers,
        descriptors: usize,
        calls: (UnboundedSender<ReactorInput>, UnboundedReceiver<ReactorInput>),
    ) -> anyhow::Result<Self> {
        hub.set_storage(Storage::Unknown);
        let start = Instant::now();
        let failures = calls.0.clone();
        log.on_failure(Box::new(move |error| {
            let _ = failures.send(ReactorInput::LogFailed(error)); // the loop may have ended
        }));
        Ok(Self {
            meter: hub.meter().clone(),
            hub,
            input_rate: Rate::new(limits.input_rate, limits.input_burst),
            admission: Admission::new(&limits, descriptors),
            turned_away: 0,
            limits,
            store: Store::new(log, start),
            hashers,
            bugs: ThrottledWarning::default(),
            doomed: None,
            long_answers: LongReplies::default(),
            start,
            calls: calls.1,
            bells: Arc::default(),
            offer: None,
            connections: Slab::new(),
            generation: 0,
            dues: BinaryHeap::new(),
            ready: Vec::new(),
            drains: 0,
            dirty: Vec::new(),
            turn: Turn::default(),
            linger: BatchDelay::default(),
            ends_turn_at: None,
            alarm: Timer::new()?,
            swamped: Vec::new(),
            own_calls: calls.0,
            buffer: vec![0; READ_SIZE],
            ends_at: None,
            is_reported: false,
        })
    }

    /// Runs until stopped and everyone is told.
    ///
    /// # Errors
    /// The log could not be written: what was not committed was not shown. Or it could not
    /// be at the end: the error names what was acknowledged and is not stored.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let result = match self.serve().await {
            Ok(()) => self.save_rest().await,
            Err(error) => {
                if matches!(error.downcast_ref(), Some(AppendError::Gone(_))) || self.is_reported {
                    self.stop_after_failure().await;
                }
                Err(error)
            }
        };
        if let Err(why) = self.store.log().close() {
            audit::write(why);
        }
        result
    }

    /// Stores what could not be stored before; at last it is named.
    async fn save_rest(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + SAVE_PATIENCE;
        while self.hub.has_changes() && !self.store.append_changes(&mut self.hub)? {
            if Instant::now() >= until {
                bail!(
                    "stopped without storing what was acknowledged: {}",
                    self.hub.describe_unsaved()
                );
            }
            tokio::time::sleep(SAVE_INTERVAL).await;
        }
        Ok(())
    }

    /// Nothing can be stored any more, so nothing is said but farewell.
    async fn stop_after_failure(&mut self) {
        let now = self.now();
        let mut turn = Turn::default();
        self.hub.shut_down(&mut turn);
        self.ends_at = Some(now.since_start + FAILURE_DRAIN);
        turn.release(self);
        // Who was being said farewell to in the turn that is not released, too.
        let connections = self.connections.iter().map(|(slot, connection)| ConnId {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            generation: connection.generation,
        });
        for conn in connections.collect::<Vec<_>>() {
            self.close(conn);
        }
        // A second failure changes nothing.
        let _ = self.flush(now);
        let _ = self.serve().await;
    }

    async fn serve(&mut self) -> anyhow::Result<()> {
        let bells = self.bells.clone();
        while !self.is_over() {
            let deadline = self.next_deadline();
            let mut call = None;
            tokio::select! {
                biased;
                () = bells.wait() => {}
                first = self.calls.recv() => call = first,
                rung = self.alarm.expired(), if self.ends_turn_at.is_some() => rung?,
                () = sleep_until(self.start, deadline), if deadline.is_some() => {}
                () = tokio::task::yield_now(), if !self.ready.is_empty() => {}
            }
            let is_called = call.is_some();
            self.run_turn(call)?;
            if is_called {
                // Sockets are looked at when we give way; one call may follow another.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|at| self.connections.is_empty() || self.start.elapsed() >= at)
    }

    fn next_deadline(&mut self) -> Option<Duration> {
        let due = self.dues.peek().map(|Reverse((due, ..))| *due);
        let retry = self.store.retry_at();
        self.hub.next_deadline().into_iter().chain(due).chain(retry).chain(self.ends_at).min()
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = Stamp(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX));
        Now { since_start: self.start.elapsed(), wall }
    }

    /// Drains and handles; then commits, releases and flushes, or waits for more.
    fn run_turn(&mut self, call: Option<ReactorInput>) -> anyhow::Result<()> {
        let now = self.now();
        let mut turn = mem::take(&mut self.turn);
        turn.begin_drain();
        let mut call = call;
        while let Some(next) = call.take().or_else(|| self.calls.try_recv().ok()) {
            self.handle_input(now, next, &mut turn)?;
        }
        self.bells.take_into(&mut self.ready);
        let has_time = self.drain(now, &mut turn);
        self.tick_hub(now, &mut turn);
        self.run_timers(now, &mut turn);
        if !has_time || !self.waits_for_more(now.since_start, &turn) {
            self.end_turn(now, &mut turn)?;
        }
        self.turn = turn;
        Ok(())
    }

    fn handle_input(
        &mut self,
        now: Now,
        call: ReactorInput,
        turn: &mut Turn,
    ) -> anyhow::Result<()> {
        match call {
            ReactorInput::Accepted(stream, peer) => self.open(now, stream, peer, turn),
            ReactorInput::Found(conn, kind, rows) => {
                self.long_answers.end(kind);
                self.notify_hub(now, conn, Input::Rows(rows), turn);
            }
            ReactorInput::Room(conn) => {
                self.long_answers.end(Kind::Other);
                self.notify_hub(now, conn, Input::MemoryAvailable, turn);
            }
            ReactorInput::Hashed(conn, outcome) => {
                self.store.reserve(&mut self.hub);
                self.notify_hub(now, conn, Input::Hashed(outcome), turn);
            }
            ReactorInput::FoundPage(conn, rows) => {
                self.notify_hub(now, conn, Input::Page(rows), turn);
            }
            ReactorInput::Offer(offer) => self.offer = Some(offer),
            // It may have been noticed in writing, too.
            ReactorInput::LogFailed(_) if self.store.has_failed() => {}
            ReactorInput::LogFailed(error) => {
                self.is_reported = true;
                return Err(self.store.fail(error).into());
            }
            ReactorInput::Stop => {
                self.ends_at = Some(now.since_start + DRAIN_TIMEOUT);
                self.hub.shut_down(turn);
            }
        }
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
        let (is_empty, parts, gathered) = (turn.is_empty(), turn.drains(), turn.coalesced_writes());
        self.store.time = Duration::ZERO;
        self.commit(turn)?;
        self.start_catch_up_over_limit(now)?;
        let written = self.flush(now)?;
        self.start_long_replies();
        if !is_empty {
            let end = self.start.elapsed();
            let took = end.saturating_sub(now.since_start);
            // Either storing was most of it, or writing was.
            let is_storing = self.store.time * 2 > took;
            let has_paid = if is_storing { parts > 1 } else { gathered * 2 >= written };
            self.linger.after_turn(end, took, has_paid);
        }
        Ok(())
    }

    /// The connection broke: nothing can be said to it any more.
    fn disconnect(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        self.hub.handle(now, conn, Input::Disconnected, turn);
        self.remove(conn);
    }

    fn remove(&mut self, conn: ConnId) {
        if self.get(conn).is_some() {
            let peer = self.hub.peer(conn);
            self.hub.forget_connection(conn);
            let connection = self.connections.remove(conn.slot as usize);
            if connection.is_turned_away {
                self.turned_away -= 1;
            } else if let Some(peer) = peer {
                self.admission.release(peer);
            }
        }
    }

    /// Makes the turn's records safe, and what else is to be kept, then lets its
    /// effects out.
    fn commit(&mut self, turn: &mut Turn) -> anyhow::Result<()> {
        if turn.has_records() || self.hub.has_changes() || self.store.is_due() {
            let is_tried_again = !self.store.is_refusing();
            match self.store.append(&mut self.hub, turn.records())? {
                Some(repeats) if repeats.is_empty() => {}
                Some(repeats) => {
                    turn.echo_repeats(&repeats);
                    self.hub.forget_unstored(repeats.iter().map(|repeat| repeat.id));
                }
                None => {
                    turn.refuse_messages(&storage_full());
                    self.hub.forget_unstored(turn.records().iter().map(|record| record.id));
                    // There may be room for what else is to be kept; it was made sure of
                    // before a command was obeyed.
                    if is_tried_again && self.hub.has_changes() {
                        self.store.append_changes(&mut self.hub)?;
                    }
                }
            }
        }
        self.hub.set_storage(Storage::Unknown);
        turn.release(self);
        for line in self.hub.take_audit() {
            audit::write(line);
        }
        Ok(())
    }

    /// Hands the hub something about a connection that is no line of its own,
    /// and lets it be heard again, or not.
    fn notify_hub(&mut self, now: Now, conn: ConnId, input: Input<'_>, turn: &mut Turn) {
        let told = self.guard(now, conn, turn, |this, turn| {
            assert!(this.doomed != Some(conn), "as asked for");
            this.hub.handle(now, conn, input, turn)
        });
        let Some(flow) = told else { return };
        let line_limit = self.hub.line_limit(conn);
        if let Some(connection) = self.get(conn) {
            connection.codec.set_limit(line_limit);
            let was_waiting = mem::replace(&mut connection.is_waiting, false);
            match flow {
                Flow::Wait => self.pause_input(now, conn),
                Flow::Next if was_waiting => self.ready.push(conn.slot),
                _ => {}
            }
        }
    }

    /// Those whom more waits for than may are fed from the log from now on.
    fn start_catch_up_over_limit(&mut self, now: Now) -> anyhow::Result<()> {
        if self.swamped.is_empty() {
            return Ok(());
        }
        let mut turn = Turn::default();
        for conn in mem::take(&mut self.swamped) {
            self.notify_hub(now, conn, Input::OverLimit, &mut turn);
        }
        self.commit(&mut turn)
    }

    fn run_timers(&mut self, now: Now, turn: &mut Turn) {
        while let Some(Reverse((due, conn, what))) = self.dues.peek().copied() {
            if due > now.since_start {
                return;
            }
            self.dues.pop();
            self.guard(now, conn, turn, |this, turn| this.run_timer(now, conn, what, turn));
        }
    }

    fn run_timer(&mut self, now: Now, conn: ConnId, what: Timeout, turn: &mut Turn) {
        match what {
            Timeout::Greeting => self.greet_idle(now, conn, turn),
            Timeout::Linger => self.remove(conn),
            Timeout::Pace => {
                if let Some(connection) = self.get(conn) {
                    connection.is_paced = false;
                    self.ready.push(conn.slot);
                }
            }
            Timeout::Stall => self.check_stall(now, conn, turn),
            Timeout::Wait => self.check_still_connected(now, conn, turn),
        }
    }

    /// It is not heard until it is answered.
    fn pause_input(&mut self, now: Now, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.is_waiting = true;
            if !mem::replace(&mut connection.is_looked_after, true) {
                self.dues.push(Reverse((now.since_start + LIVENESS_INTERVAL, conn, Timeout::Wait)));
            }
        }
    }

    /// Who broke off does not keep others waiting behind it.
    fn check_still_connected(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(connection) = self.get(conn) else { return };
        connection.is_looked_after = connection.is_waiting;
        if !connection.is_waiting {
            return;
        }
        if connection.is_broken() {
            self.stop_writing(now, conn, turn);
        }
        if self.get(conn).is_some() {
            self.dues.push(Reverse((now.since_start + LIVENESS_INTERVAL, conn, Timeout::Wait)));
        }
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(conn.slot as usize)?;
        (connection.generation == conn.generation).then_some(connection)
    }
}

async fn sleep_until(start: Instant, deadline: Option<Duration>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until((start + deadline).into()).await;
    }
}
