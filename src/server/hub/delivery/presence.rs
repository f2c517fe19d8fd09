//! Presence: joins, leaves and quits are announced one by one or, in a large room, coalesced
//! into summaries.

use std::time::Duration;

use super::{announce, audiences, event_tags};
use crate::protocol::reply::List;
use crate::protocol::{Event, LINE_MAX, Reply};
use crate::server::hub::context::{Context, Request};
use crate::server::hub::state::State;
use crate::server::hub::state::index::{RoomIx, UserIx};
use crate::server::hub::state::rooms::Room;
use crate::server::turn::Topic;

/// How often a large room gets a presence summary.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);

/// Returns whether a room is so large that presence is coalesced (`--quiet-above`).
pub(in crate::server::hub) fn is_quiet(state: &State, ctx: &Context<'_>, room: RoomIx) -> bool {
    state.memberships.count(room) > ctx.limits.quiet_above && !ctx.limits.announce
}

/// Announces a user to the members of a room.
pub(in crate::server::hub) fn announce_join(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    room: RoomIx,
) {
    if is_quiet(state, req, room) {
        coalesced(state, req, room).joined += 1;
        return;
    }
    let (room_name, name) = (state.rooms[room].name.clone(), state.users[user].name.clone());
    let event = Event::Joined { room: room_name.as_str(), name: name.as_str() };
    let by = (Some(state.users[user].id), Some(req.socket));
    announce(state, req, &[room], Topic::Presence, by, &event);
}

/// Announces to the members of a room that a user leaves it.
pub(in crate::server::hub) fn announce_part(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    room: RoomIx,
    reason: Option<&str>,
) {
    if is_quiet(state, req, room) {
        coalesced(state, req, room).left += 1;
        return;
    }
    let (room_name, name) = (state.rooms[room].name.clone(), state.users[user].name.clone());
    let event = Event::Left { room: room_name.as_str(), name: name.as_str(), reason };
    let by = (Some(state.users[user].id), Some(req.socket));
    announce(state, req, &[room], Topic::Presence, by, &event);
}

/// Announces a logout once to all users who share a room with the user; in a large room it is
/// only counted. The reason is left out if the user is muted in one of the rooms.
pub(in crate::server::hub) fn announce_quit(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: UserIx,
    reason: Option<&str>,
) {
    let mut rooms = state.memberships.rooms_of(user).to_vec();
    rooms.retain(|room| {
        let is_quiet = is_quiet(state, ctx, *room);
        if is_quiet {
            coalesced(state, ctx, *room).quit += 1;
        }
        !is_quiet
    });
    if rooms.is_empty() {
        return;
    }
    let id = state.users[user].id;
    let is_muted = |room: &RoomIx| {
        state.moderation[state.rooms[*room].moderation].mute_of(ctx.now, id).is_some()
    };
    let reason = reason.filter(|_| !rooms.iter().any(is_muted));
    let name = state.users[user].name.clone();
    let socket = state.connection_of(user).socket;
    let event = Event::Quit { name: name.as_str(), reason };
    announce(state, ctx, &rooms, Topic::Presence, (Some(id), socket), &event);
}

/// Returns the counts of a large room for its next summary.
fn coalesced<'c>(
    state: &State,
    ctx: &'c mut Context<'_>,
    room: RoomIx,
) -> &'c mut crate::protocol::event::PresenceSummary {
    let key = (room, state.rooms[room].number);
    ctx.caches.presence.counts(key, ctx.now.since_start + PRESENCE_INTERVAL)
}

/// Sends the summaries that are due.
pub(in crate::server::hub) fn send_summaries(state: &mut State, ctx: &mut Context<'_>) {
    while let Some(((room, number), mut crowd)) = ctx.caches.presence.next(ctx.now.since_start) {
        let is_same = |it: &&Room| it.number == number;
        let Some(name) = state.rooms.get(room).filter(is_same).map(|it| it.name.clone()) else {
            continue; // the room has ended
        };
        crowd.here = state.memberships.count(room);
        let event = Event::Crowd { room: name.as_str(), crowd };
        let audience = audiences::of_room(state, ctx.caches, room);
        let tags = event_tags(state, ctx.now, None);
        ctx.turn.fan_out(audience, Topic::Presence, None, Vec::new(), &tags, &event);
    }
}

/// Sends the topic and the members of a room to a user who enters it.
pub(in crate::server::hub) fn describe(state: &State, req: &mut Request<'_>, room: RoomIx) {
    let Room { name, topic, .. } = &state.rooms[room];
    if let Some(topic) = topic {
        req.reply(Reply::Topic { room: name.as_str(), topic });
    }
    list_for_newcomer(state, req, room);
}

/// Sends the member list; in a large room only the number of members.
pub(super) fn list_for_newcomer(state: &State, req: &mut Request<'_>, room: RoomIx) {
    if is_quiet(state, req, room) {
        let (name, count) = (state.rooms[room].name.as_str(), state.memberships.count(room));
        req.reply(Reply::Users { room: name, count, names: None });
    } else {
        list_members(state, req, room);
    }
}

/// Sends all names at once, so that the list is consistent with the events before and after it.
pub(in crate::server::hub) fn list_members(state: &State, req: &mut Request<'_>, room: RoomIx) {
    let (name, count) = (state.rooms[room].name.as_str(), state.memberships.count(room));
    split_names(state, room, |names| {
        let names = (!names.is_empty()).then_some(List(names));
        req.reply(Reply::Users { room: name, count, names });
    });
}

/// Calls `send` with the names of the members, split so that each line has at most `LINE_MAX`
/// bytes; without members once, with an empty text.
pub(in crate::server::hub) fn split_names(state: &State, room: RoomIx, mut send: impl FnMut(&str)) {
    let room_name = state.rooms[room].name.as_str();
    let names_max = LINE_MAX - "[USERS # 18446744073709551615] ".len() - room_name.len();
    let mut line = String::new();
    for member in state.memberships.of_room(room) {
        let name = state.users[member.user].name.as_str();
        if !line.is_empty() && line.len() + 1 + name.len() > names_max {
            send(&line);
            line.clear();
        }
        if !line.is_empty() {
            line.push(',');
        }
        line.push_str(name);
    }
    send(&line);
}
