//! The server loop: one thread that owns the sockets, the hub and the log, and so gives all
//! lines one order.
//!
//! Each turn has five steps: *drain* every socket that is ready; let the hub *handle* each
//! line; repeat this while waiting for more input pays off (`batch_delay.rs`); then *commit*
//! the turn's records with one append; only then *release* its effects into the outboxes;
//! then *flush*, one write per connection. While a turn is being stored and written, the
//! input of the next one collects in the socket buffers.
//!
//! A slow reader never blocks the loop: if its socket is full, its outbox holds the data,
//! within bounds, and the loop is woken when the socket is writable again.
//!
//! Graceful shutdown ([`ReactorInput::Stop`]): the hub sends a farewell to every client, the
//! loop runs until all connections are closed or `DRAIN_TIMEOUT` has passed, and changes
//! that are not stored yet are retried for `SAVE_TIMEOUT`.

mod accept;
pub mod batch_delay;
mod hashing;
mod log_writer;
mod panic_guard;
mod reading;
mod reads;
pub mod timer;
mod writing;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::bail;
use slab::Slab;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::audit::{self, ThrottledWarning};
use super::hub::{Flow, Hub, Input, Now, Storage, storage_full};
use super::limits::Limits;
use super::turn::{ConnId, Sink as _, Turn};
use crate::server::auth::passwords::{Hashers, Outcome};
use crate::server::auth::tokens::Tokens;
use crate::server::limits::admission::Admission;
use crate::server::limits::rate_limit::{Buckets, Rate, RateLimiter};
use crate::server::net::connection::{Connection, Pause, ReadyQueue};
use crate::server::net::outbox::Meter;
use crate::server::net::peer::Peer;
use crate::server::net::tls::Offer;
use crate::server::reactor::batch_delay::BatchDelay;
use crate::server::reactor::timer::Timer;
use crate::server::record::UserId;
use crate::server::store::{AppendError, Log, ReadResult, Slice};
use hashing::Hashing;
use log_writer::LogWriter;
use reading::READ_SIZE;
use reads::{ReadKind, Reads};

/// A turn with more encoded lines than this, in bytes, is committed at once.
const TURN_SIZE: usize = 256 << 10;

/// Interval at which connections that wait for a reply are checked for a broken socket.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(1);

/// Time that a graceful shutdown has to deliver farewells, even to clients that do not read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The same after a failure of the log.
const FAILURE_DRAIN: Duration = Duration::from_secs(1);

/// Time that a graceful shutdown has to store changes while the log refuses writes.
const SAVE_TIMEOUT: Duration = Duration::from_secs(2);
const SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// Input of the loop that does not come from a connected socket.
#[derive(Debug)]
pub enum ReactorInput {
    /// A connection was accepted.
    Accepted(TcpStream, Peer),
    /// What a slice of a connection's read from the log came to.
    SliceRead(ReadKind, ConnId, Slice),
    /// The result of a read that was not performed.
    Found(ConnId, ReadResult),
    /// The outcome of hashing a password.
    Hashed(ConnId, Outcome),
    /// The TLS configuration that new connections are offered from now on.
    Offer(Offer),
    /// The log failed outside of an append.
    LogFailed(AppendError),
    /// Shut down gracefully.
    Stop,
}

/// A timer of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timeout {
    /// The client has not sent anything: greet it as a plain connection.
    Greeting,
    /// The client may have made no progress in reading.
    Stall,
    /// The client had its time to close the connection.
    Linger,
    /// The rate limit permits the next line.
    RateLimit,
    /// The client may be gone while its input is paused.
    Liveness,
}

/// The server loop and everything it owns.
pub struct Reactor<L> {
    limits: Limits,
    input_rate: Option<Rate>,
    /// Limits the lines of all connections of a network.
    input_limiter: RateLimiter,
    /// Counts the lines of each user.
    user_buckets: Buckets<UserId>,
    admission: Admission,
    /// Rejected connections whose farewell is still being sent; the hub does not know them.
    rejected: Vec<ConnId>,
    hub: Hub,
    store: LogWriter<L>,
    hashing: Hashing,
    tokens: Tokens,
    /// Limits how often panics are logged.
    panic_warning: ThrottledWarning,
    /// The connection over which `--debug-panic` panics; for tests.
    panic_on: Option<ConnId>,
    reads: Reads,
    /// Counts the bytes of all lines that wait to be written.
    meter: Meter,
    start: Instant,
    inputs: UnboundedReceiver<ReactorInput>,
    ready_queue: Arc<ReadyQueue>,
    /// The current TLS configuration, if TLS is enabled.
    offer: Option<Offer>,
    connections: Slab<Connection>,
    generation: u32,
    timers: BinaryHeap<Reverse<(Duration, ConnId, Timeout)>>,
    /// Slots to serve in the next drain, in this order.
    ready: Vec<u32>,
    /// Number of drains so far.
    drains: u64,
    /// Connections with something to flush.
    dirty: Vec<ConnId>,
    /// The current turn, not yet released; boxed, since it moves in and out with every drain.
    turn: Option<Box<Turn>>,
    /// An empty turn for what happens while one is flushed.
    flush_turn: Option<Box<Turn>>,
    batch_delay: BatchDelay,
    /// When the current turn stops waiting for more input.
    ends_turn_at: Option<Duration>,
    /// The timer that wakes the loop, and when it expires next.
    timer: Timer,
    timer_due: Option<Duration>,
    /// Connections whose outbox exceeds its limit.
    over_limit: Vec<ConnId>,
    /// Sender into `inputs`, for results of the log and the hashers.
    own_inputs: UnboundedSender<ReactorInput>,
    /// Buffer for reading from sockets.
    buffer: Vec<u8>,
    /// The deadline of a shutdown.
    ends_at: Option<Duration>,
    /// Whether the log reported a failure outside of an append, so that no line is in doubt.
    is_reported: bool,
}

impl<L: Log> Reactor<L> {
    /// Creates a loop without connections.
    ///
    /// # Errors
    /// The system provides no timer.
    pub fn new(
        limits: Limits,
        mut log: L,
        mut hub: Hub,
        (hashers, tokens): (Hashers, Tokens),
        descriptors: usize,
        inputs: (UnboundedSender<ReactorInput>, UnboundedReceiver<ReactorInput>),
    ) -> anyhow::Result<Self> {
        hub.set_storage(Storage::Unknown);
        let start = Instant::now();
        let input_rate = Rate::new(limits.input_rate, limits.input_burst);
        let failures = inputs.0.clone();
        log.on_failure(Box::new(move |error| {
            let _ = failures.send(ReactorInput::LogFailed(error)); // the loop may have ended
        }));
        Ok(Self {
            meter: hub.meter().clone(),
            hub,
            input_rate,
            input_limiter: RateLimiter::new(
                input_rate.map(|rate| rate.times(limits.address_input)),
                limits.wider_networks,
            ),
            user_buckets: Buckets::default(),
            admission: Admission::new(&limits, descriptors),
            rejected: Vec::new(),
            hashing: Hashing::new(&limits, hashers),
            limits,
            store: LogWriter::new(log, start),
            tokens,
            panic_warning: ThrottledWarning::default(),
            panic_on: None,
            reads: Reads::default(),
            start,
            inputs: inputs.1,
            ready_queue: Arc::default(),
            offer: None,
            connections: Slab::new(),
            generation: 0,
            timers: BinaryHeap::new(),
            ready: Vec::new(),
            drains: 0,
            dirty: Vec::new(),
            turn: None,
            flush_turn: None,
            batch_delay: BatchDelay::default(),
            ends_turn_at: None,
            timer: Timer::new()?,
            timer_due: None,
            over_limit: Vec::new(),
            own_inputs: inputs.0,
            buffer: vec![0; READ_SIZE],
            ends_at: None,
            is_reported: false,
        })
    }

    /// Runs until the server is shut down and clients have their farewells.
    ///
    /// # Errors
    /// The log failed; lines that were not committed have not been delivered. Or changes could
    /// not be stored at the end; the error names the acknowledged changes that are lost.
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

    /// Stores changes that the log has refused so far; fails after [`SAVE_TIMEOUT`].
    async fn save_rest(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + SAVE_TIMEOUT;
        while self.hub.has_changes() && !self.store.append_changes(&mut self.hub)? {
            if Instant::now() >= until {
                bail!(
                    "stopped without storing acknowledged changes: {}",
                    self.hub.describe_unsaved()
                );
            }
            self.timer.wait(SAVE_INTERVAL).await?;
        }
        Ok(())
    }

    /// Sends farewells after the log has failed; nothing else is delivered any more.
    async fn stop_after_failure(&mut self) {
        let now = self.now();
        let mut turn = Turn::default();
        self.hub.shut_down(&mut turn);
        self.ends_at = Some(now.since_start + FAILURE_DRAIN);
        turn.release(self);
        // The abandoned turn may have contained the farewells of some connections.
        let connections = self.connections.iter().map(|(slot, connection)| ConnId {
            slot: u32::try_from(slot).unwrap_or(u32::MAX),
            generation: connection.generation,
        });
        for conn in connections.collect::<Vec<_>>() {
            self.close(conn);
        }
        // The log has failed already; another failure changes nothing.
        let _ = self.flush(now);
        let _ = self.serve().await;
    }

    async fn serve(&mut self) -> anyhow::Result<()> {
        while !self.is_over() {
            let mut input = None;
            if self.ready.is_empty() {
                self.set_timer()?;
                input = poll_fn(|context| self.poll_work(context)).await?;
            } else {
                tokio::task::yield_now().await;
            }
            let has_input = input.is_some();
            self.run_turn(input)?;
            if has_input {
                // tokio polls the sockets only when this task yields; inputs may be back to back.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Waits for a ready socket, an input, which is returned, or the timer.
    fn poll_work(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<ReactorInput>>> {
        if self.ready_queue.poll_ready(context).is_ready() {
            return Poll::Ready(Ok(None));
        }
        if let Poll::Ready(input) = self.inputs.poll_recv(context) {
            return Poll::Ready(Ok(input));
        }
        if self.timer_due.is_none() {
            return Poll::Pending;
        }
        ready!(self.timer.poll_expired(context))?;
        self.timer_due = None;
        Poll::Ready(Ok(None))
    }

    /// Sets the timer, unless it expires early enough: setting it is a system call, and a deadline
    /// usually moves later.
    fn set_timer(&mut self) -> io::Result<()> {
        let deadline = self.next_deadline().map(round_up);
        let Some(due) = deadline.into_iter().chain(self.ends_turn_at).min() else { return Ok(()) };
        if self.timer_due.is_none_or(|set| due < set) {
            self.timer.set(due.saturating_sub(self.start.elapsed()))?;
            self.timer_due = Some(due);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.ends_at.is_some_and(|at| self.connections.is_empty() || self.start.elapsed() >= at)
    }

    fn next_deadline(&mut self) -> Option<Duration> {
        let due = self.timers.peek().map(|Reverse((due, ..))| *due);
        let retry = self.store.retry_at();
        self.hub.next_deadline().into_iter().chain(due).chain(retry).chain(self.ends_at).min()
    }

    fn now(&self) -> Now {
        Now::since(self.start)
    }

    /// Drains and handles; then commits, releases and flushes, or waits for more input.
    fn run_turn(&mut self, input: Option<ReactorInput>) -> anyhow::Result<()> {
        let now = self.now();
        let mut turn = self.turn.take().unwrap_or_default();
        turn.begin_drain();
        let mut input = input;
        while let Some(next) = input.take().or_else(|| self.next_input()) {
            self.handle_input(now, next, &mut turn)?;
        }
        self.ready_queue.take_into(&mut self.ready);
        let has_time = self.drain(now, &mut turn);
        self.tick_hub(now, &mut turn);
        self.run_timers(now, &mut turn);
        if !has_time || !self.waits_for_more(now.since_start, &turn) {
            self.end_turn(now, &mut turn)?;
        }
        self.turn = Some(turn);
        Ok(())
    }

    fn next_input(&mut self) -> Option<ReactorInput> {
        // The check costs a quarter of the call, and usually there is none.
        if self.inputs.is_empty() { None } else { self.inputs.try_recv().ok() }
    }

    fn handle_input(
        &mut self,
        now: Now,
        input: ReactorInput,
        turn: &mut Turn,
    ) -> anyhow::Result<()> {
        match input {
            ReactorInput::Accepted(stream, peer) => self.open(now, stream, peer, turn),
            ReactorInput::SliceRead(kind, conn, slice) => {
                if let Some(rows) = self.end_slice(kind, conn, slice) {
                    self.notify_hub(now, conn, Input::Rows(rows), turn);
                }
            }
            ReactorInput::Found(conn, rows) => self.notify_hub(now, conn, Input::Rows(rows), turn),
            ReactorInput::Hashed(conn, outcome) => {
                self.end_hashing(&outcome);
                self.store.reserve(&mut self.hub);
                self.notify_hub(now, conn, Input::Hashed(outcome), turn);
            }
            ReactorInput::Offer(offer) => self.offer = Some(offer),
            // The failure may have surfaced in an append already.
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
            self.ends_turn_at = self.batch_delay.after_drain(now);
        }
        self.ends_turn_at.is_some_and(|at| at > now)
    }

    fn end_turn(&mut self, now: Now, turn: &mut Turn) -> anyhow::Result<()> {
        self.ends_turn_at = None;
        let (is_empty, drains, coalesced) =
            (turn.is_empty(), turn.drains(), turn.coalesced_writes());
        // It matters only if the turn has waited, and measuring it reads the clock twice.
        self.store.time = self.batch_delay.has_waited().then_some(Duration::ZERO);
        self.commit(turn)?;
        self.start_catch_up_over_limit(now)?;
        let written = self.flush(now)?;
        if !is_empty {
            let end = self.start.elapsed();
            let took = end.saturating_sub(now.since_start);
            // The turn was dominated either by storing or by writing; judge the delay by that.
            let is_storing = self.store.time.is_some_and(|time| time * 2 > took);
            let has_paid = if is_storing { drains > 1 } else { coalesced * 2 >= written };
            self.batch_delay.after_turn(end, took, has_paid);
        }
        Ok(())
    }

    /// Removes a connection whose socket failed; no farewell can be sent.
    fn disconnect(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        self.hub.handle(now, conn, Input::Disconnected, turn);
        self.remove(conn);
    }

    fn remove(&mut self, conn: ConnId) {
        if self.get(conn).is_some() {
            let peer = self.hub.peer(conn);
            self.hub.forget_connection(conn);
            self.connections.remove(conn.slot as usize);
            self.rejected.retain(|rejected| *rejected != conn);
            if let Some(peer) = peer {
                self.admission.release(peer);
            }
        }
    }

    /// Stores the turn's records and the hub's changes, then releases the turn's effects.
    fn commit(&mut self, turn: &mut Turn) -> anyhow::Result<()> {
        if turn.has_records() || self.hub.has_changes() || self.store.is_due() {
            let was_accepting = !self.store.is_refusing();
            match self.store.append(&mut self.hub, turn.records())? {
                Some(repeats) if repeats.is_empty() => {}
                Some(repeats) => {
                    turn.echo_repeats(&repeats);
                    self.hub.forget_unstored(repeats.iter().map(|repeat| repeat.id));
                }
                None => {
                    turn.refuse_messages(&storage_full());
                    self.hub.forget_unstored(turn.records().iter().map(|record| record.id));
                    // Changes may still fit: space was reserved before their commands ran.
                    if was_accepting && self.hub.has_changes() {
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

    /// Passes an input that is not a line of the connection to the hub, and pauses or resumes
    /// reading from the connection accordingly.
    fn notify_hub(&mut self, now: Now, conn: ConnId, input: Input<'_>, turn: &mut Turn) {
        let result = self.guard(now, conn, turn, |this, turn| {
            assert!(this.panic_on != Some(conn), "requested by /debug-panic");
            this.hub.handle(now, conn, input, turn)
        });
        let Some(flow) = result else { return };
        let line_limit = self.hub.line_limit(conn);
        self.share_budget(now, conn);
        if let Some(connection) = self.get(conn) {
            connection.codec.set_limit(line_limit);
            let was_waiting = connection.pauses.set(Pause::Reply, false);
            match flow {
                Flow::Wait => self.pause_input(now, conn),
                Flow::Next if was_waiting => {
                    connection.secrets.take_password(); // of a check that did not start
                    self.ready.push(conn.slot);
                }
                _ => {}
            }
        }
    }

    /// Counts the lines of a user together with those of the user's other connections, so that
    /// a new one does not bring a new burst.
    fn share_budget(&mut self, now: Now, conn: ConnId) {
        let Some(connection) = self.connections.get_mut(conn.slot as usize) else { return };
        let budget = connection.budget.as_mut().filter(|budget| !budget.is_shared());
        if let Some((budget, rate)) = budget.zip(self.input_rate)
            && let Some(user) = self.hub.user_id(conn)
        {
            budget.share(self.user_buckets.get(now.since_start, user, rate));
        }
    }

    /// Switches connections whose outbox exceeds its limit to catching up from the log.
    fn start_catch_up_over_limit(&mut self, now: Now) -> anyhow::Result<()> {
        if self.over_limit.is_empty() {
            return Ok(());
        }
        let mut turn = Turn::default();
        for conn in mem::take(&mut self.over_limit) {
            self.notify_hub(now, conn, Input::OverLimit, &mut turn);
        }
        self.commit(&mut turn)
    }

    fn run_timers(&mut self, now: Now, turn: &mut Turn) {
        while let Some(Reverse((due, conn, what))) = self.timers.peek().copied() {
            if due > now.since_start {
                return;
            }
            self.timers.pop();
            self.guard(now, conn, turn, |this, turn| this.run_timer(now, conn, what, turn));
        }
    }

    fn run_timer(&mut self, now: Now, conn: ConnId, what: Timeout, turn: &mut Turn) {
        match what {
            Timeout::Greeting => self.greet_idle(now, conn, turn),
            Timeout::Linger => self.end_linger(conn),
            Timeout::RateLimit => {
                if let Some(connection) = self.get(conn) {
                    connection.pauses.set(Pause::RateLimit, false);
                    self.ready.push(conn.slot);
                }
            }
            Timeout::Stall => self.check_stall(now, conn, turn),
            Timeout::Liveness => self.check_still_connected(now, conn, turn),
        }
    }

    /// Stops reading from a connection until its request is replied.
    fn pause_input(&mut self, now: Now, conn: ConnId) {
        if let Some(connection) = self.get(conn) {
            connection.pauses.set(Pause::Reply, true);
            if !mem::replace(&mut connection.has_liveness_timer, true) {
                self.timers.push(Reverse((
                    now.since_start + LIVENESS_INTERVAL,
                    conn,
                    Timeout::Liveness,
                )));
            }
        }
    }

    /// Detects a client that disconnected while its input is paused, so that its pending request
    /// does not delay others.
    fn check_still_connected(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(connection) = self.get(conn) else { return };
        connection.has_liveness_timer = connection.pauses.has(Pause::Reply);
        if !connection.has_liveness_timer {
            return;
        }
        if connection.is_broken() {
            self.stop_writing(now, conn, turn);
        }
        if self.get(conn).is_some() {
            self.timers.push(Reverse((
                now.since_start + LIVENESS_INTERVAL,
                conn,
                Timeout::Liveness,
            )));
        }
    }

    fn get(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(conn.slot as usize)?;
        (connection.generation == conn.generation).then_some(connection)
    }
}

/// Rounds a time up to whole milliseconds, so that close deadlines share a wake-up.
fn round_up(time: Duration) -> Duration {
    let (seconds, milliseconds) = (time.as_secs(), time.subsec_nanos().div_ceil(1_000_000));
    Duration::from_secs(seconds) + Duration::from_millis(milliseconds.into())
}
