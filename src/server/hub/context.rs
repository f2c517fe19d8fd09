//! A line that is being handled, and how it is answered.

use std::sync::Arc;

use super::{Now, Settings};
use crate::protocol::{Cid, Event, Refusal, Tags};
use crate::server::log::Record;
use crate::server::turn::{Cause, ConnId, Turn};

/// One line being handled: when, from whom, and how to answer it.
pub(super) struct Context<'t> {
    pub(super) now: Now,
    pub(super) conn: ConnId,
    pub(super) settings: Settings,
    pub(super) cid: Option<Cid>,
    pub(super) turn: &'t mut Turn,
}

impl Context<'_> {
    /// A line of the answer.
    pub(super) fn reply(&mut self, event: &Event<'_>) {
        self.reply_tagged(&Tags::default(), event);
    }

    pub(super) fn reply_tagged(&mut self, tags: &Tags<'_>, event: &Event<'_>) {
        let tags = Tags { cid: self.cid.as_ref().map(Cid::as_str), ..*tags };
        self.turn.send(self.conn, Cause::Asked, &self.settings.tags(&tags), event);
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        self.reply(&Event::error(refusal));
    }

    /// Produces the effects of a message; see [`Turn::with_message`].
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

    /// Produces the answer to a line that says again what was said before.
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
