//! Delivery: which connections receive an event, and when. A live connection receives it at
//! once. For one that is catching up, messages come from the log, and other events are deferred
//! until the messages before them are delivered.

pub(super) mod audiences;
pub(super) mod catch_up;
pub(super) mod deferred;
pub(super) mod presence;

use std::collections::BTreeSet;

use super::context::{Context, Request};
use super::state::State;
use super::state::index::{RoomIx, UserIx};
use crate::protocol::{Event, Tags};
use crate::server::clock::Now;
use crate::server::net::ConnId;
use crate::server::record::UserId;
use crate::server::turn::{Origin, Topic};

/// Returns the tags of an event, which has a time but no id: it is not in the log.
pub(super) fn event_tags(state: &mut State, now: Now, actor: Option<UserId>) -> Tags<'static> {
    Tags { time: Some(state.stamp(now)), ..Tags::by(actor) }
}

/// Sends a message to a live user; a user who is catching up gets it from the log.
pub(super) fn deliver(
    state: &State,
    ctx: &mut Context<'_>,
    user: UserIx,
    tags: &Tags<'_>,
    event: &Event<'_>,
) {
    for connection in state.users[user].connections() {
        let connection = &state.connections[connection];
        if let Some(socket) = connection.live_socket() {
            let to = (socket, connection.settings.dialect);
            ctx.turn.send(to, Origin::Broadcast, tags, event);
        }
    }
}

/// Sends an unsolicited line that is not in the log. It is deferred for a user who is
/// catching up.
pub(super) fn send_to_user(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: UserIx,
    tags: &Tags<'_>,
    event: &Event<'_>,
) {
    deliver(state, ctx, user, tags, event);
    deferred::defer(state, ctx, [user], tags, event);
}

/// Broadcasts a presence, topic or moderation event, which the actor has caused, to rooms.
pub(super) fn announce(
    state: &mut State,
    ctx: &mut Context<'_>,
    rooms: &[RoomIx],
    topic: Topic,
    (actor, except): (Option<UserId>, Option<ConnId>),
    event: &Event<'_>,
) {
    let tags = event_tags(state, ctx.now, actor);
    let audience = audiences::of_rooms(state, ctx.caches, rooms);
    ctx.turn.fan_out(audience, topic, None, except.into_iter().collect(), &tags, event);
    if topic == Topic::Talk {
        let members = rooms.iter().flat_map(|room| state.memberships.of_room(*room));
        let behind: BTreeSet<UserIx> = members
            .map(|member| member.user)
            .filter(|user| state.connection_of(*user).is_catching_up())
            .collect();
        deferred::defer(state, ctx, behind, &tags, event);
    }
}

/// Answers an action in a room and sends the same line to the other members.
pub(super) fn announce_action(
    state: &mut State,
    req: &mut Request<'_>,
    room: RoomIx,
    event: &Event<'_>,
) {
    let (actor, socket) = (req.actor(state), req.socket);
    let tags = event_tags(state, req.now, actor);
    req.reply_tagged(&tags, event);
    announce(state, req, &[room], Topic::Talk, (actor, Some(socket)), event);
}
