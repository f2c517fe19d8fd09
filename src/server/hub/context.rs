//! The context of the line that is being handled. It knows how to answer the line, but not
//! what the line means.

use std::sync::Arc;

use super::{Now, Settings};
use crate::protocol::{Cid, Event, Refusal, Tags};
use crate::server::record::Record;
use crate::server::turn::{ConnId, Origin, Turn};

/// The context of one line: its time, its connection and the turn that gets the answer.
pub(super) struct Context<'t> {
    pub(super) now: Now,
    pub(super) conn: ConnId,
    pub(super) settings: Settings,
    pub(super) cid: Option<Cid>,
    pub(super) turn: &'t mut Turn,
}

impl Context<'_> {
    /// Sends a line of the answer.
    pub(super) fn reply(&mut self, event: &Event<'_>) {
        self.reply_tagged(&Tags::default(), event);
    }

    pub(super) fn reply_tagged(&mut self, tags: &Tags<'_>, event: &Event<'_>) {
        let tags = Tags { cid: self.cid.as_ref().map(Cid::as_str), ..*tags };
        self.turn.send(self.conn, Origin::Reply, &self.settings.tags(&tags), event);
    }

    /// Sends `[WORD TOKEN] text` with the session token, which only the connection has.
    pub(super) fn reply_token(&mut self, word: &str, text: &str) {
        const TOKEN: &str = "?"; // occurs neither in tags nor in words
        let tags = Tags { cid: self.cid.as_ref().map(Cid::as_str), ..Tags::default() };
        let mut line = Vec::new();
        self.settings.tags(&tags).encode(&mut line);
        Event::reply(word, TOKEN, text).encode(&mut line);
        let at = line.iter().position(|byte| *byte == TOKEN.as_bytes()[0]).unwrap_or_default();
        self.turn.send_bytes(self.conn, &line[..at]);
        self.turn.send_token(self.conn);
        self.turn.send_bytes(self.conn, &line[at + TOKEN.len()..]);
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        self.reply(&Event::error(refusal));
    }

    /// Runs `effects` as the effects of a new message; see [`Turn::with_message`].
    pub(super) fn with_message(
        &mut self,
        record: &Arc<Record>,
        effects: impl FnOnce(&mut Context<'_>),
    ) {
        let Self { now, conn, settings, cid, turn } = self;
        turn.with_message(record.clone(), *conn, settings.tags, |turn| {
            let cid = cid.clone();
            effects(&mut Context { now: *now, conn: *conn, settings: *settings, cid, turn });
        });
    }

    /// Runs `effects` as the answer to a deduplicated line; see [`Turn::with_duplicate`].
    pub(super) fn with_duplicate(
        &mut self,
        record: &Arc<Record>,
        effects: impl FnOnce(&mut Context<'_>),
    ) {
        let Self { now, conn, settings, cid, turn } = self;
        turn.with_duplicate(record.clone(), *conn, settings.tags, |turn| {
            let cid = cid.clone();
            effects(&mut Context { now: *now, conn: *conn, settings: *settings, cid, turn });
        });
    }
}
