//! Succession: a room with members always has a user who can moderate it, an operator of
//! its own or a server operator who is online. When the last one has logged out or is
//! banned, the member who joined first is promoted, announced as `#ops * server made bob an
//! operator`; `server` is a reserved name.

use super::rights::is_server_operator;
use crate::protocol::{Event, Tags};
use crate::server::clock::Now;
use crate::server::hub::context::Context;
use crate::server::hub::delivery::{self, deferred, presence};
use crate::server::hub::state::State;
use crate::server::hub::state::memberships::Member;
use crate::server::hub::state::moderation::Scope;
use crate::server::hub::state::rooms::{LOBBY, RoomIx};
use crate::server::hub::state::users::UserIx;
use crate::server::net::outbox::Meter;
use crate::server::record::UserId;
use crate::server::turn::Topic;

/// The name that announcements of promotions give as their author; reserved.
const SERVER: &str = "server";

/// Returns whether an operator other than `except` could moderate the room and is not
/// banned. Without `now`, expired bans count as well.
pub(super) fn has_able_operator(
    state: &State,
    now: Option<Now>,
    room: RoomIx,
    except: Option<UserId>,
) -> bool {
    let moderation = state.moderation_in(Scope::Room(room));
    let mut others = moderation.operators().iter().filter(|user_id| Some(**user_id) != except);
    others.any(|user_id| {
        let is_banned = state.moderation.server().bans_person(now, *user_id)
            || (moderation.bans_person(now, *user_id) && !is_server_operator(state, *user_id));
        state.can_return(*user_id) && !is_banned
    })
}

/// Returns whether a user other than `except` may moderate a room; includes server
/// operators who are online.
pub(super) fn has_moderator(
    state: &State,
    now: Option<Now>,
    room: RoomIx,
    except: Option<UserId>,
) -> bool {
    let mut server_operators = state.moderation.server().operators().iter();
    server_operators.any(|operator| state.users.is_online(*operator))
        || has_able_operator(state, now, room, except)
}

/// Calls [`ensure_operator`] for every room.
pub(super) fn ensure_operators(state: &mut State, ctx: &mut Context<'_>) {
    for room in state.rooms.by_name() {
        ensure_operator(state, ctx, room);
    }
}

/// Promotes a successor if no user can moderate the room.
pub(super) fn ensure_operator(state: &mut State, ctx: &mut Context<'_>, room: RoomIx) {
    // #lobby has no operators of its own.
    if room != LOBBY
        && !has_moderator(state, Some(ctx.now), room, None)
        && let Some(heir) = heir(state, Some(ctx.now), room, None)
    {
        hand_over(state, ctx, room, heir);
    }
}

/// Promotes a member and announces it; in a large room, which many may leave at once,
/// only that member is notified.
pub(super) fn hand_over(state: &mut State, ctx: &mut Context<'_>, room: RoomIx, heir: UserIx) {
    state.moderation.promote(state.rooms[room].moderation, state.users[heir].id);
    let (room_name, name) = (state.rooms[room].name.clone(), state.users[heir].name.clone());
    let event = Event::Promoted { room: room_name.as_str(), by: SERVER, name: name.as_str() };
    if presence::is_quiet(state, ctx, room) {
        let tags = Tags { time: Some(state.stamp(ctx.now)), ..Tags::default() };
        delivery::send_to_user(state, ctx, heir, &tags, &event);
    } else {
        delivery::announce(state, ctx, &[room], Topic::Talk, None, &event);
    }
}

/// Returns the next operator of a room: the member who joined first, muted members
/// last.
pub(super) fn heir(
    state: &State,
    now: Option<Now>,
    room: RoomIx,
    except: Option<UserId>,
) -> Option<UserIx> {
    let moderation = state.moderation_in(Scope::Room(room));
    let members = state.memberships.of_room(room);
    let members = members.filter(|member| Some(state.users[member.user].id) != except);
    let rank = |member: &&Member| {
        let user_id = state.users[member.user].id;
        // Older data has no join order; the first login counts then.
        (moderation.mutes_person(now, user_id), member.arrival, user_id)
    };
    members.min_by_key(rank).map(|member| member.user)
}

/// Promotes successors at startup, after all sessions are restored. Members are
/// notified when they resume.
pub(in crate::server::hub) fn restore_operators(state: &mut State, meter: &Meter) {
    for room in state.rooms.by_name() {
        if room == LOBBY || has_moderator(state, None, room, None) {
            continue;
        }
        let Some(heir) = heir(state, None, room, None) else { continue };
        state.moderation.promote(state.rooms[room].moderation, state.users[heir].id);
        let (room_name, name) = (state.rooms[room].name.clone(), state.users[heir].name.clone());
        let event = Event::Promoted { room: room_name.as_str(), by: SERVER, name: name.as_str() };
        let tags = Tags { time: Some(state.messages.last_time()), ..Tags::default() };
        let members: Vec<UserIx> =
            state.memberships.of_room(room).map(|member| member.user).collect();
        deferred::announce_on_return(state, meter, members, &tags, &event);
    }
}
