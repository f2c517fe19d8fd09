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
//! 5. State about a user is keyed by a [`UserId`], not by name, so it
//!    follows a rename and never passes to the next user of the name.
//! 6. A permission belongs to a user in a room or on the server, and ends with either.
//!    Permissions are checked before a command has any effect.
//! 7. Any user can be restored from stored entries; [`Persisted`] lists the exceptions.
//!
//! The modules from top to bottom, each using those below: `input` handles the events of a
//! connection, `commands` executes its lines, `delivery` decides which connections receive an
//! event. `context` has the arguments that they share; `audit`, `caches` and `persist` derive
//! lines for the server's log, audiences and stored entries from `state`, the tables.
//! `crate::commands` defines the syntax of commands. The hub does not know sockets, TLS or the
//! log's storage format.

mod audit;
mod caches;
mod commands;
mod context;
mod delivery;
#[cfg(test)]
mod dialects;
mod input;
mod persist;
mod state;
#[cfg(test)]
mod test_support;

use std::time::Duration;

use super::auth::tokens::TokenHash;
pub use super::clock::Now;
use super::limits::Limits;
use super::net::ConnId;
use super::net::outbox::Meter;
use super::net::peer::Peer;
use super::record::{SentMail, UserId};
use super::store::{Change, LastIds, Snapshot};
use super::turn::Turn;
use crate::protocol::{Dialect, Farewell, LINE_MAX, LOGIN_LINE_MAX};
use audit::Audit;
use caches::Caches;
use commands::gate::Gate;
pub use commands::gate::{Storage, storage_full};
use commands::logout::expire_sessions;
use commands::{long_reply, passwords, succession};
use context::Context;
use delivery::presence;
pub use input::{Flow, Input};
pub use persist::Persisted;
use persist::Unsaved;
pub use persist::restore::UnreadableEntry;
use state::State;
use state::connections::Connection;

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

impl Hub {
    /// Returns a hub restored from a snapshot. Ids continue after the last ones in the log, and
    /// sessions that could resume before the restart still can. The snapshot contains
    /// connections only if it was stored with [`Persisted::Everyone`].
    ///
    /// # Errors
    /// A persisted entry cannot be read. A server without its bans or accounts must not
    /// start.
    pub fn new(limits: Limits, snapshot: &Snapshot, now: Now) -> Result<Self, UnreadableEntry> {
        let caches = Caches::default();
        let mut state = persist::restore::restore(&limits, snapshot, now, &caches.meter)?;
        succession::restore_operators(&mut state, now, &caches.meter);
        let (audit, gate, unsaved) = (Audit::default(), Gate::default(), Unsaved::default());
        Ok(Self { limits, state, caches, audit, gate, unsaved, now })
    }

    /// Sets which users are stored; to be called before the first input.
    pub fn set_persisted(&mut self, persisted: Persisted) {
        self.unsaved.scope = persisted;
        self.state.sessions.mark_dropped(); // their deadlines may be new
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
        if !self.has_changes() {
            return Vec::new();
        }
        self.unsaved.changes(&self.state, &self.limits, self.now)
    }

    /// Records that the entries returned by [`Hub::changes`] are stored.
    pub fn mark_saved(&mut self) {
        self.unsaved.clear(&mut self.state);
    }

    /// Describes the unsaved changes for the server log; long lists are truncated.
    pub fn describe_unsaved(&mut self) -> String {
        self.unsaved.collect(&mut self.state);
        self.unsaved.describe(&self.state)
    }

    /// Discards the messages of a turn that could not be stored; they were never released.
    pub fn forget_unstored(&mut self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            self.state.forget_message(id);
        }
    }

    /// Records that a client has sent something after this mail was sent to it.
    pub fn confirm_mail(&mut self, SentMail { to, last }: SentMail) {
        self.state.mail.confirm(to, last);
    }

    /// Sets whether changes can be stored, until the next call.
    pub fn set_storage(&mut self, storage: Storage) {
        self.gate.storage = storage;
    }

    /// Supplies the hash of a new token for the line for which [`Hub::handle`] has returned
    /// [`Flow::Token`].
    pub fn offer_token(&mut self, hash: TokenHash) {
        self.gate.offer_token(hash);
    }

    /// Removes and returns the lines to be written to the server's log.
    pub fn take_audit(&mut self) -> Vec<String> {
        if let Some(last) = self.state.clock_step.take() {
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
            Input::Frame(frame) => input::handle_frame(state, gate, &mut ctx, conn, &frame),
            input => input::handle(state, gate, &mut ctx, conn, input),
        }
        input::flow(&self.state, &mut self.gate, conn)
    }

    /// Deletes a closed connection; the caller sends no further input for it.
    pub fn forget_connection(&mut self, conn: ConnId) {
        self.state.connections.forget(conn);
        self.state.password_throttle.end(self.now.since_start, conn, None);
    }

    /// The peer of a connection.
    #[must_use]
    pub fn peer(&self, conn: ConnId) -> Option<Peer> {
        self.state.connections.find(conn).and_then(|connection| connection.peer)
    }

    /// The dialect of a connection.
    #[must_use]
    pub fn dialect(&self, conn: ConnId) -> Dialect {
        self.state.connections.dialect(conn)
    }

    /// Whether the connection has not logged in yet.
    #[must_use]
    pub fn is_unnamed(&self, conn: ConnId) -> bool {
        self.state.connections.find(conn).is_some_and(Connection::is_greeting)
    }

    /// The user who is logged in on a connection.
    #[must_use]
    pub fn user_id(&self, conn: ConnId) -> Option<UserId> {
        let user = self.state.connections.find(conn).and_then(Connection::user);
        user.map(|user| self.state.users[user].id)
    }

    /// Whether the last line of a connection has no answer yet, or only the beginning of one. A
    /// hub that takes over must handle it again.
    #[must_use]
    pub fn is_answering(&self, conn: ConnId) -> bool {
        self.state.connections.find(conn).is_some_and(Connection::is_answering)
    }

    /// The longest line that this connection may send now, in bytes.
    #[must_use]
    pub fn line_limit(&self, conn: ConnId) -> usize {
        let connections = &self.state.connections;
        let is_named = connections.find(conn).and_then(Connection::user).is_some();
        if is_named || connections.poster(conn).is_some() { LINE_MAX } else { LOGIN_LINE_MAX }
    }

    /// Whether an unterminated last line is accepted. It is refused from a client that can
    /// resume: the line may be truncated by the lost connection, and its cid would make
    /// the complete line look like a duplicate when the client resends it.
    #[must_use]
    pub fn takes_unterminated(&self, conn: ConnId) -> bool {
        let can_resume = |it: &Connection| it.settings.dialect.has_tags() && it.session.is_some();
        !self.state.connections.find(conn).is_some_and(can_resume)
    }

    /// The time at which [`Hub::tick`] must be called next.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        let state = &mut self.state;
        let due = [
            state.connections.login_due(),
            self.caches.presence.due(),
            state.sessions.due(),
            state.password_throttle.due(),
            self.audit.due(),
        ];
        due.into_iter().flatten().min()
    }

    /// Runs all timers that are due.
    pub fn tick(&mut self, now: Now, turn: &mut Turn) {
        self.now = now;
        let Self { limits, state, caches, audit, .. } = self;
        let mut ctx = Context { now, limits, caches, audit, turn };
        input::expire_logins(state, &mut ctx);
        passwords::run_throttle(state, &mut ctx);
        expire_sessions(state, &mut ctx);
        presence::send_summaries(state, &mut ctx);
        long_reply::drop_outdated_list(state, caches);
        self.audit.begin_second(now);
    }

    /// Sends a farewell to every connection, for a graceful shutdown. The stored entries do not
    /// change, so sessions can resume after the restart.
    pub fn shut_down(&mut self, turn: &mut Turn) {
        let Self { limits, state, caches, audit, unsaved, now, .. } = self;
        let mut ctx = Context { now: *now, limits, caches, audit, turn };
        unsaved.is_closing = true;
        state.mail.mark_all();
        for socket in state.connections.shut_down() {
            ctx.send_farewell(state, socket, Farewell::ShuttingDown, None);
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
