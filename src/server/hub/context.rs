//! The arguments of the hub's functions besides the state: a [`Context`] for any input, a
//! [`Request`] for a line that gets an answer.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::audit::Audit;
use super::caches::Caches;
use super::state::State;
use super::state::connections::Settings;
use super::state::index::ConnectionIx;
use crate::protocol::{Cid, ErrorReason, Event, Farewell, Refusal, Reply, Tags};
use crate::server::auth::passwords::Job;
use crate::server::clock::Now;
use crate::server::limits::Limits;
use crate::server::net::ConnId;
use crate::server::record::{Record, SentMail, UserId};
use crate::server::store::ReadRequest;
use crate::server::turn::{Origin, Turn};

/// The time, the limits, and where output and audit lines go.
pub(super) struct Context<'h> {
    pub(super) now: Now,
    pub(super) limits: &'h Limits,
    pub(super) caches: &'h mut Caches,
    pub(super) audit: &'h mut Audit,
    pub(super) turn: &'h mut Turn,
}

/// A line that is being handled, and gets an answer.
pub(super) struct Request<'h> {
    context: Context<'h>,
    pub(super) socket: ConnId,
    /// The connection of the socket.
    pub(super) connection: ConnectionIx,
    pub(super) settings: Settings,
    pub(super) cid: Option<Cid>,
}

impl<'h> Deref for Request<'h> {
    type Target = Context<'h>;

    fn deref(&self) -> &Context<'h> {
        &self.context
    }
}

impl<'h> DerefMut for Request<'h> {
    fn deref_mut(&mut self) -> &mut Context<'h> {
        &mut self.context
    }
}

/// Size of a page of a long reply or of a catch-up, in bytes.
pub(super) const PAGE_SIZE: usize = 64 << 10;

/// Messages per page.
pub(super) const PAGE_ROWS: usize = 256;

impl Context<'_> {
    /// The size of the next page, in bytes. Pages are shorter while much of `--outbox-total` is
    /// in use, so that all replies together stay within it.
    pub(super) fn page_size(&self) -> usize {
        let is_scarce = self.caches.meter.held() > self.limits.outbox_total / 2;
        if is_scarce { PAGE_SIZE / 8 } else { PAGE_SIZE }
    }

    /// The request of a socket, without a cid yet.
    pub(super) fn request<'c>(&'c mut self, state: &State, socket: ConnId) -> Option<Request<'c>> {
        let connection = state.connections.of(socket)?;
        let settings = state.connections[connection].settings;
        let Self { now, limits, caches, audit, turn } = self;
        let context = Context { now: *now, limits, caches, audit, turn };
        Some(Request { context, socket, connection, settings, cid: None })
    }

    /// Sends the farewell and closes the socket; `text` replaces the default text.
    pub(super) fn send_farewell(
        &mut self,
        state: &State,
        socket: ConnId,
        code: Farewell,
        text: Option<&str>,
    ) {
        let text = text.unwrap_or(code.sentence());
        let event = Event::Bye { code: code.as_str(), text };
        let to = (socket, state.connections.dialect(socket));
        self.turn.send(to, Origin::Reply, &Tags::default(), &event);
        self.turn.close(socket);
    }

    /// Closes the socket, after the farewell if there is one.
    pub(super) fn close(&mut self, state: &State, socket: ConnId, farewell: Option<Farewell>) {
        match farewell {
            Some(farewell) => self.send_farewell(state, socket, farewell, None),
            None => self.turn.close(socket),
        }
    }
}

impl Request<'_> {
    /// The user who has sent the line; `None` before login.
    pub(super) fn actor(&self, state: &State) -> Option<UserId> {
        state.connections[self.connection].user().map(|user| state.users[user].id)
    }

    /// Sends a line of the answer.
    pub(super) fn reply<'e>(&mut self, event: impl Into<Event<'e>>) {
        self.reply_tagged(&Tags::default(), &event.into());
    }

    pub(super) fn reply_tagged(&mut self, tags: &Tags<'_>, event: &Event<'_>) {
        let Self { context, socket, settings, cid, .. } = self;
        let tags = Tags { cid: cid.as_ref().map(Cid::as_str), ..*tags };
        context.turn.send((*socket, settings.dialect), Origin::Reply, &tags, event);
    }

    /// Sends the session token. The hub does not know it, so the line is sent in parts around it.
    pub(super) fn reply_session(&mut self) {
        const TOKEN: &str = "?"; // occurs nowhere else in the line
        let tags = Tags { cid: self.cid.as_ref().map(Cid::as_str), ..Tags::default() };
        let mut line = Vec::new();
        let session = Reply::Session { token: TOKEN }.into();
        self.settings.dialect.encode(&tags, &session, &mut line);
        let at = line.iter().position(|byte| *byte == TOKEN.as_bytes()[0]).unwrap_or_default();
        let socket = self.socket;
        self.turn.send_bytes(socket, &line[..at]);
        self.turn.send_token(socket);
        self.turn.send_bytes(socket, &line[at + TOKEN.len()..]);
    }

    /// Reads from the log for this connection.
    pub(super) fn read(&mut self, query: ReadRequest) {
        self.context.turn.read(self.socket, query);
    }

    /// Hashes or checks the password in the line.
    pub(super) fn hash(&mut self, job: Job) {
        self.context.turn.hash(self.socket, job);
    }

    /// Requests `Input::Drained`, which arrives when the client has read most of its outbox.
    pub(super) fn notify_when_drained(&mut self) {
        self.context.turn.notify_when_drained(self.socket);
    }

    /// Notes that mail was sent, to be confirmed when the client sends something after it.
    pub(super) fn expect_receipt(&mut self, mail: Option<SentMail>) {
        if let Some(mail) = mail {
            self.context.turn.expect_receipt(self.socket, mail);
        }
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        self.reply(Event::error(refusal));
    }

    /// Runs `effects` as the effects of a new message; see [`Turn::begin_message`].
    pub(super) fn with_message(&mut self, record: &Arc<Record>, effects: impl FnOnce(&mut Self)) {
        let (socket, dialect) = (self.socket, self.settings.dialect);
        self.turn.begin_message(record.clone(), socket, dialect);
        effects(self);
        self.turn.end_message();
    }
}

/// The result of a command; a refusal is its answer.
pub(super) type Result<T = ()> = std::result::Result<T, Refusal>;

/// Refuses a line.
pub(super) fn refusal<T>(reason: ErrorReason, text: impl Into<Cow<'static, str>>) -> Result<T> {
    Err(Refusal::new(reason, text))
}

pub(super) fn no_such_user<T>(name: &str) -> Result<T> {
    refusal(ErrorReason::NoSuchUser, format!("{name} is not online"))
}
