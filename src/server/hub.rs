//! The hub: the state machine that owns all chat state (users, rooms, memberships,
//! sessions, accounts, moderation). It handles inputs and returns log records and
//! effects in a [`Turn`], so a test runs a whole conversation in microseconds.
//!
//! 1. The hub does no IO and has no clock, randomness, lock or await; each input
//!    carries the time, and secrets such as session tokens stay outside.
//! 2. A turn lists effects in the order in which they arose, and each reader sees
//!    that order. No effect is visible before the turn's records are in the log.
//! 3. Every request line gets exactly one answer: its echo, a reply, or one error.
//! 4. A connection gets no further lines after its farewell.
//! 5. State about a user is keyed by a [`UserId`](super::record::UserId), not by name, so it
//!    follows a rename and never passes to the next user of the name.
//! 6. A permission belongs to a user in a room or on the server, and ends with either.
//!    Permissions are checked before a command has any effect.
//! 7. Any user can be restored from what is stored (`persist.rs`).
//!
//! `crate::commands` defines the syntax of commands, [`commands`] their effects on the
//! [`state`], and [`delivery`] who is sent what. The hub does not know sockets, TLS or the
//! log's storage format.

mod audit;
mod caches;
mod commands;
mod context;
mod delivery;
mod persist;
mod state;
#[cfg(test)]
mod test_support;

use std::time::Duration;

use super::auth::passwords::Outcome;
use super::auth::tokens::TokenHash;
pub use super::clock::Now;
use super::limits::Limits;
use super::net::ConnId;
use super::net::outbox::Meter;
use super::net::peer::Peer;
use super::store::{Change, LastIds, ReadResult, Snapshot};
use super::turn::{Origin, Turn};
use crate::protocol::codec::Frame;
use crate::protocol::{Event, Farewell, LINE_MAX, LOGIN_LINE_MAX, Tags, VERSION};
use audit::Audit;
use caches::Caches;
use commands::gate::{Gate, Need};
pub use commands::gate::{Storage, storage_full};
use commands::logout::{expire_sessions, leave, lose_connection};
use commands::{dispatch, passwords, pending, succession};
use context::Context;
use delivery::{catch_up, long_reply, presence};
pub use persist::Persisted;
use persist::Unsaved;
pub use persist::restore::UnreadableEntry;
use state::State;
use state::connections::{Connection, DeliveryMode, Phase};

/// An event on one connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// The peer connected and its transport is known; the hub sends the greeting.
    Opened(Peer),
    /// The peer connected; its transport is not known yet, so the greeting waits.
    Arrived(Peer),
    /// The transport was detected after [`Input::Arrived`]; the hub sends the greeting.
    TransportKnown {
        /// Whether the connection is protected against eavesdropping.
        is_encrypted: bool,
    },
    /// The client did not start TLS after [`Input::Arrived`], and the server requires TLS.
    Unencrypted,
    /// The client sent a frame.
    Frame(Frame<'a>),
    /// The client has shut down its sending side and still reads its answers.
    Finished,
    /// The connection is closed, or must be closed without a farewell.
    Disconnected,
    /// The connection has not logged in, and its place is needed for a new connection.
    Evicted,
    /// The client has read nothing until the write timeout.
    Stalled,
    /// The outbox has exceeded its limit (backpressure).
    OverLimit,
    /// The outbox has drained below the low-water mark ([`Turn::notify_when_drained`]).
    Drained,
    /// Memory for a deferred long reply is available ([`Turn::wait_for_memory`]).
    MemoryAvailable,
    /// The log rows that the connection requested.
    Rows(ReadResult),
    /// The result of hashing or checking the connection's password.
    Hashed(Outcome),
    /// A page of log rows: the next page of a catch-up, or the message after which a
    /// `/resume` continues.
    Page(ReadResult),
}

/// Which input [`Hub::handle`] accepts next for the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next line.
    Next,
    /// No line until a pending request or the catch-up completes.
    Wait,
    /// The same line again, after [`Hub::set_storage`] has reported whether changes can
    /// be stored. The line has had no effect yet.
    Store,
    /// The same line again, after [`Hub::offer_token`] has given the hash of a new token. The
    /// line has had no effect yet.
    Token,
    /// No input: the connection has received its farewell.
    Over,
}

/// The state machine that owns all chat state; see the module documentation.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    state: State,
    caches: Caches,
    audit: Audit,
    gate: Gate,
    unsaved: Unsaved,
    /// The time of the last input.
    now: Now,
}

/// How soon an overdue login is checked again while the server still works on it.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Hub {
    /// Returns a hub restored from a snapshot. Ids continue after the last ones in the log, and
    /// sessions that could resume before the restart still can. The snapshot contains
    /// connections only if the hub that stored it was asked to persist everyone.
    ///
    /// # Errors
    /// A persisted entry cannot be read. A server without its bans or accounts must not
    /// start.
    pub fn new(limits: Limits, snapshot: &Snapshot, now: Now) -> Result<Self, UnreadableEntry> {
        let caches = Caches::default();
        let mut state = persist::restore::restore(&limits, snapshot, now, &caches.meter)?;
        succession::restore_operators(&mut state, &caches.meter);
        let (audit, gate, unsaved) = (Audit::default(), Gate::default(), Unsaved::default());
        Ok(Self { limits, state, caches, audit, gate, unsaved, now })
    }

    /// Sets which users are stored from now on.
    pub fn set_persisted(&mut self, persisted: Persisted) {
        self.unsaved.scope = persisted;
    }

    /// The counter of bytes that wait for delivery; shared with the reactor's outboxes.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.caches.meter
    }

    /// The last ids assigned.
    #[must_use]
    pub fn last_ids(&self) -> LastIds {
        self.state.last_ids()
    }

    /// Whether any entry differs from its stored value.
    pub fn has_changes(&mut self) -> bool {
        self.unsaved.collect(&mut self.state);
        !self.unsaved.is_empty()
    }

    /// The entries that differ from their stored values, with their current values.
    pub fn changes(&mut self) -> Vec<Change> {
        self.unsaved.collect(&mut self.state);
        self.unsaved.changes(&self.state, &self.limits, self.now)
    }

    /// Records that the entries returned by [`Hub::changes`] are stored.
    pub fn mark_saved(&mut self) {
        self.unsaved.clear();
    }

    /// Describes the unsaved changes for the server log; long lists are truncated.
    pub fn describe_unsaved(&mut self) -> String {
        self.unsaved.collect(&mut self.state);
        self.unsaved.describe(&self.state)
    }

    /// Discards the messages of a turn that could not be stored; they were never released.
    pub fn forget_unstored(&mut self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            self.state.mail.discard(id);
            self.state.messages.forget(id);
        }
    }

    /// Sets whether changes can be stored, until the next call.
    pub fn set_storage(&mut self, storage: Storage) {
        self.gate.storage = storage;
    }

    /// Offers the hash of a new token to the line for which [`Hub::handle`] has returned
    /// [`Flow::Token`].
    pub fn offer_token(&mut self, hash: TokenHash) {
        self.gate.offer_token(hash);
    }

    /// Removes and returns the lines to be written to the server's log.
    pub fn take_audit(&mut self) -> Vec<String> {
        if let Some(last) = self.state.take_clock_step() {
            self.audit.note_clock(self.now, last);
        }
        self.audit.take()
    }

    /// Handles one input of one connection and appends its effects to the turn.
    pub fn handle(&mut self, now: Now, conn: ConnId, input: Input<'_>, turn: &mut Turn) -> Flow {
        self.now = now;
        let Self { limits, state, caches, audit, gate, .. } = self;
        let mut ctx = Context { now, limits, caches, audit, turn };
        match input {
            Input::Frame(frame) => handle_frame(state, gate, &mut ctx, conn, &frame),
            input => handle_input(state, gate, &mut ctx, conn, input),
        }
        match self.gate.take_need(conn) {
            Some(Need::Storage) => Flow::Store,
            Some(Need::Token) => Flow::Token,
            None => self.flow(conn),
        }
    }

    fn flow(&self, conn: ConnId) -> Flow {
        match self.state.connections.find(conn) {
            Some(connection) if connection.is_pending() => Flow::Wait,
            Some(Connection { phase: Phase::Greeting { .. }, .. }) => Flow::Next,
            Some(Connection { phase: Phase::LoggedIn(_), delivery, .. }) => {
                if *delivery == DeliveryMode::Live { Flow::Next } else { Flow::Wait }
            }
            _ => Flow::Over,
        }
    }

    /// Deletes a closed connection; the caller sends no further input for it.
    pub fn forget_connection(&mut self, conn: ConnId) {
        self.state.connections.forget(conn);
    }

    /// The peer of a connection.
    #[must_use]
    pub fn peer(&self, conn: ConnId) -> Option<Peer> {
        self.state.connections.find(conn).and_then(|connection| connection.peer)
    }

    /// Whether the connection has not logged in yet.
    #[must_use]
    pub fn is_unnamed(&self, conn: ConnId) -> bool {
        self.state.connections.find(conn).is_some_and(Connection::is_greeting)
    }

    /// The longest line that this connection may send now, in bytes.
    #[must_use]
    pub fn line_limit(&self, conn: ConnId) -> usize {
        let user = self.state.connections.find(conn).and_then(Connection::user);
        if user.is_some() { LINE_MAX } else { LOGIN_LINE_MAX }
    }

    /// Whether an unterminated last line is accepted. It is refused from a client that can
    /// resume: the line may be truncated by the lost connection, and its cid would make
    /// the complete line look like a duplicate when the client resends it.
    #[must_use]
    pub fn takes_unterminated(&self, conn: ConnId) -> bool {
        let can_resume = |it: &Connection| it.settings.tags && it.session().is_some();
        !self.state.connections.find(conn).is_some_and(can_resume)
    }

    /// The time at which [`Hub::tick`] must be called next.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        let state = &mut self.state;
        let due = [
            state.connections.login_due(),
            self.caches.presence.due(),
            state.sessions.due(),
            state.delayed_checks.due(),
            self.audit.due(),
        ];
        due.into_iter().flatten().min()
    }

    /// Runs all timers that are due.
    pub fn tick(&mut self, now: Now, turn: &mut Turn) {
        self.now = now;
        let Self { limits, state, caches, audit, .. } = self;
        let mut ctx = Context { now, limits, caches, audit, turn };
        expire_logins(state, &mut ctx);
        passwords::start_due_checks(state, &mut ctx);
        expire_sessions(state, &mut ctx);
        presence::send_summaries(state, &mut ctx);
        long_reply::drop_outdated_list(state, caches);
        self.audit.begin_second(now);
    }

    /// Sends a farewell to every connection, for a graceful shutdown. Their users are stored as
    /// they are.
    pub fn shut_down(&mut self, turn: &mut Turn) {
        let Self { limits, state, caches, audit, now, .. } = self;
        let mut ctx = Context { now: *now, limits, caches, audit, turn };
        for socket in state.connections.shut_down() {
            ctx.send_farewell(socket, Farewell::ShuttingDown, None);
        }
    }

    /// Checks that the tables of the hub are consistent. Tests call it after every input.
    ///
    /// # Panics
    /// An invariant is broken, which is a bug in the hub.
    pub fn check_invariants(&self) {
        self.state.check();
    }
}

fn handle_input(
    state: &mut State,
    gate: &mut Gate,
    ctx: &mut Context<'_>,
    conn: ConnId,
    input: Input<'_>,
) {
    match &input {
        Input::Arrived(peer) | Input::Opened(peer) => {
            let deadline = ctx.now.since_start + ctx.limits.login_timeout;
            state.connections.open(conn, *peer, deadline);
            if let Input::Opened(_) = input {
                send_greeting(conn, ctx.turn);
            }
            return;
        }
        Input::Hashed(outcome) => passwords::record_attempt(state, ctx.now, conn, outcome),
        _ => {}
    }
    let Some(mut req) = ctx.request(state, conn) else { return };
    let (ix, phase) = (req.connection, state.connections[req.connection].phase);
    let is_greeting = state.connections[ix].is_greeting();
    match input {
        Input::Arrived(_) | Input::Opened(_) | Input::Frame(_) => {}
        Input::Disconnected => lose_connection(state, ctx, conn, None),
        _ if phase == Phase::Closing => {}
        Input::Finished => lose_connection(state, ctx, conn, Some(Farewell::Quit)),
        Input::TransportKnown { is_encrypted } => {
            state.connections.set_encrypted(ix, is_encrypted);
            send_greeting(conn, ctx.turn);
        }
        Input::Unencrypted => {
            let text = "this server speaks TLS only; use chatty join --tls or ncat --ssl";
            state.connections.close(conn);
            ctx.send_farewell(conn, Farewell::BadProtocol, Some(text));
        }
        Input::Evicted => leave(state, ctx, conn, Some(Farewell::TooMany), None),
        Input::Stalled => lose_connection(state, ctx, conn, Some(Farewell::SlowReader)),
        Input::Rows(rows) => pending::go_on_with_rows(state, &mut req, &rows),
        Input::Hashed(outcome) => {
            pending::go_on_with_password(state, &mut req, gate.storage, &outcome);
        }
        Input::OverLimit => catch_up::start(state, ctx.turn, (conn, ix)),
        Input::Drained => {
            pending::go_on_with_room_list(state, &mut req);
            catch_up::go_on(state, &mut req);
        }
        Input::MemoryAvailable => pending::go_on_with_list(state, &mut req),
        Input::Page(rows) if is_greeting => pending::go_on_with_rows(state, &mut req, &rows),
        Input::Page(rows) => match catch_up::send_page(state, &mut req, &rows) {
            catch_up::Page::Sent => {}
            catch_up::Page::HasGap => leave(state, ctx, conn, Some(Farewell::SlowReader), None),
            catch_up::Page::Failed => {
                lose_connection(state, ctx, conn, Some(Farewell::SlowReader));
            }
        },
    }
}

fn handle_frame(
    state: &mut State,
    gate: &mut Gate,
    ctx: &mut Context<'_>,
    conn: ConnId,
    frame: &Frame<'_>,
) {
    let Some(mut req) = ctx.request(state, conn) else { return };
    let connection = &state.connections[req.connection];
    match frame {
        _ if connection.phase == Phase::Closing => {}
        Frame::Foreign => leave(state, ctx, conn, Some(Farewell::BadProtocol), None),
        Frame::TooLong(_) if connection.is_greeting() => {
            leave(state, ctx, conn, Some(Farewell::TooLong), None);
        }
        frame => dispatch::handle_line(state, gate, &mut req, frame),
    }
}

/// Disconnects connections that have not logged in in time. A connection that waits for
/// the server is spared, but may not try another login after the answer.
fn expire_logins(state: &mut State, ctx: &mut Context<'_>) {
    while let Some(conn) = state.connections.next_overdue(ctx.now.since_start) {
        let connection = state.connections.find(conn).filter(|it| it.is_greeting());
        match connection.map(Connection::is_pending) {
            Some(true) => {
                state.connections.check_login_at(ctx.now.since_start + RECHECK_INTERVAL, conn);
            }
            Some(false) => leave(state, ctx, conn, Some(Farewell::LoginTimeout), None),
            None => {}
        }
    }
}

fn send_greeting(conn: ConnId, turn: &mut Turn) {
    let hello =
        Event::reply("HELLO", VERSION, "type your name and press Enter (/help lists commands)");
    turn.send(conn, Origin::Reply, &Tags::default(), &hello);
}
