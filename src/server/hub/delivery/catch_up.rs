//! Catching up: a user who resumed, or who reads too slowly for live delivery, reads on from a
//! position in the log, page by page, at their own pace. When everything has been delivered,
//! delivery is live again.

use std::sync::Arc;

use super::{deferred, presence};
use crate::protocol::{Cid, Event, Tags};
use crate::server::hub::context::{PAGE_ROWS, Request};
use crate::server::hub::state::State;
use crate::server::hub::state::connections::DeliveryMode;
use crate::server::hub::state::index::{ConnectionIx, UserIx};
use crate::server::net::ConnId;
use crate::server::record::{Record, UserId};
use crate::server::store::{ReadRequest, ReadResult, Thread};
use crate::server::turn::{Origin, Turn};

/// Switches a slow reader from live delivery to catch-up.
pub(in crate::server::hub) fn start(
    state: &mut State,
    turn: &mut Turn,
    (socket, connection): (ConnId, ConnectionIx),
) {
    let is_live = state.connections[connection].delivery == DeliveryMode::Live;
    if state.connections[connection].user().is_some() && is_live {
        let mode = DeliveryMode::behind(state.messages.last_id(), true);
        state.set_delivery(connection, mode);
        turn.notify_when_drained(socket);
    }
}

/// Lets a catch-up begin that had to wait for the end of a long reply.
pub(in crate::server::hub) fn begin_after_reply(state: &State, req: &mut Request<'_>) {
    if state.connections[req.connection].delivery != DeliveryMode::Live {
        req.notify_when_drained();
    }
}

/// Delivers the rest from memory if that reaches back far enough; otherwise requests a
/// page of the log.
pub(in crate::server::hub) fn go_on(state: &mut State, req: &mut Request<'_>) {
    let (socket, connection) = (req.socket, req.connection);
    let Some(user) = state.connections[connection].user() else { return };
    let DeliveryMode::Behind { after, is_list_stale, is_reading: false } =
        state.connections[connection].delivery
    else {
        return;
    };
    let request = request(state, user, after, req.page_size());
    let Some(rest) = state.messages.recent.since(after) else {
        let mode = DeliveryMode::Behind { after, is_list_stale, is_reading: true };
        state.set_delivery(connection, mode);
        req.read(request);
        return;
    };
    let rest = request.fill(rest);
    send_records(state, req, user, &rest);
    if request.is_filled_by(&rest) {
        // The page is full, so more may follow when the reader has drained this one.
        let after = rest.last().map_or(after, |last| last.id);
        state.set_delivery(connection, DeliveryMode::behind(after, is_list_stale));
        req.notify_when_drained();
        return;
    }
    deferred::send(state, req.turn, (socket, connection), u64::MAX);
    state.set_delivery(connection, DeliveryMode::Live);
    // The catch-up has sent the mail as well.
    req.expect_receipt(state.mail.sent(state.users[user].id));
    if is_list_stale {
        // Presence events were missed.
        for room in state.memberships.rooms_of(user) {
            presence::list_for_newcomer(state, req, *room);
        }
    }
}

/// What happened to the page of a catch-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server::hub) enum Page {
    Sent,
    /// Retention has deleted messages that the reader missed; a logout makes the gap visible.
    HasGap,
    /// The log could not be read; its messages must not be skipped.
    Failed,
}

/// Delivers a page of the log.
pub(in crate::server::hub) fn send_page(
    state: &mut State,
    req: &mut Request<'_>,
    rows: &ReadResult,
) -> Page {
    let connection = req.connection;
    let Some(user) = state.connections[connection].user() else { return Page::Sent };
    let DeliveryMode::Behind { after, is_list_stale, is_reading: true } =
        state.connections[connection].delivery
    else {
        return Page::Sent;
    };
    if rows.has_gap && is_list_stale {
        return Page::HasGap;
    }
    send_records(state, req, user, &rows.records);
    if rows.upto <= after {
        return Page::Failed;
    }
    state.set_delivery(connection, DeliveryMode::behind(rows.upto, is_list_stale));
    req.notify_when_drained();
    Page::Sent
}

fn request(state: &State, user: UserIx, after: u64, size: usize) -> ReadRequest {
    let stays = state.memberships.spans(user).after(after);
    let thread = Thread::Feed { reader: state.users[user].id, stays };
    let hidden = state.relations.ignored_ids(state.users[user].id);
    ReadRequest { after: Some(after), hidden, ..ReadRequest::latest(thread, PAGE_ROWS, size) }
}

fn send_records(state: &mut State, req: &mut Request<'_>, user: UserIx, records: &[Arc<Record>]) {
    let me = state.users[user].id;
    let at = (req.socket, req.connection);
    for record in records {
        deferred::send(state, req.turn, at, record.id);
        redeliver(req, me, record);
    }
}

/// Delivers a message as it would have been live; the user's own messages carry their
/// cid.
fn redeliver(req: &mut Request<'_>, me: UserId, record: &Record) {
    let cid = record.cid.as_ref().filter(|_| record.author == me);
    if record.author == me && !req.settings.echo && cid.is_none() {
        return;
    }
    let tags = Tags { cid: cid.map(Cid::as_str), ..record.tags() };
    let to = (req.socket, req.settings.dialect);
    // The reader sets the pace, so these lines do not count towards the outbox limit
    // for unsolicited lines.
    req.turn.begin_showing(record.id);
    req.turn.send(to, Origin::Reply, &tags, &Event::Message(record.seen_by(me)));
    req.turn.end_message();
}
