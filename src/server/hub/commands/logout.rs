//! Logouts, voluntary or forced, and lost connections. A user with a session who loses the
//! connection can still resume; any other user is logged out.

use super::rights::is_server_operator;
use super::succession::{ensure_operator, ensure_operators};
use super::{
    ConnId, Context, Farewell, Query, Reply, RoomIx, State, Tags, UserIx, presence, reply,
};
use crate::server::hub::delivery;
use crate::server::hub::state::connections::{Connection, Phase};
use crate::server::hub::state::index::SERVER;
use crate::server::hub::state::users::User;
use crate::server::record::UserId;

/// Closes a connection and logs its user out, with no way to resume. A farewell is sent
/// only where the connection can still be written to.
pub(in crate::server::hub) fn leave(
    state: &mut State,
    ctx: &mut Context<'_>,
    socket: ConnId,
    farewell: Option<Farewell>,
    reason: Option<&str>,
) {
    let Some(phase) = state.connections.find(socket).map(|connection| connection.phase) else {
        return;
    };
    if let Phase::LoggedIn(user) = phase {
        end_user(state, ctx, user, reason);
    }
    state.connections.close(socket);
    ctx.close(state, socket, farewell);
}

/// Logs a user out. Their sockets, if any, are closed without a farewell.
pub(super) fn end_user(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: UserIx,
    reason: Option<&str>,
) {
    end_queries(state, ctx, user);
    presence::announce_quit(state, ctx, user, reason);
    let person = state.remove_user(user);
    let operated: Vec<RoomIx> = operated_rooms(state, person);
    if is_server_operator(state, person) {
        // The right of a guest ends; that of an account stays, but does not count offline.
        if !state.accounts.has(person) {
            state.moderation.demote(SERVER, person);
        }
        ensure_operators(state, ctx);
    }
    for room in operated {
        ensure_operator(state, ctx, room);
    }
}

/// Returns the rooms with members in which a user is an operator, sorted by name.
fn operated_rooms(state: &State, person: UserId) -> Vec<RoomIx> {
    let operated = state.moderation.operated_by(person);
    let names = operated.filter_map(|ix| state.moderation[ix].room.as_ref());
    let mut rooms: Vec<RoomIx> = names.filter_map(|name| state.rooms.named(name.key())).collect();
    rooms.sort_unstable_by(|a, b| state.rooms[*a].name.key().cmp(state.rooms[*b].name.key()));
    rooms
}

/// Ends the queries of a user who logs out, and the queries of others with that user.
fn end_queries(state: &mut State, ctx: &mut Context<'_>, user: UserIx) {
    let User { id, name, .. } = &state.users[user];
    let (id, name) = (*id, name.clone());
    for connection in state.users[user].connections().collect::<Vec<_>>() {
        state.set_query(connection, Query::Off);
    }
    for other in state.end_queries_with(user) {
        let event = Reply::Query(reply::Query::Gone(name.as_str())).into();
        delivery::send_to_user(state, ctx, other, &Tags::by(Some(id)), &event);
    }
}

/// Logs a user out and closes their socket, if any, with a farewell. A session whose
/// connection has dropped ends, too. `quit` is the reason that other users see.
pub(super) fn disconnect_user(
    state: &mut State,
    ctx: &mut Context<'_>,
    user: UserIx,
    (farewell, text): (Farewell, Option<&str>),
    quit: Option<&str>,
) {
    if let Some(socket) = state.close_socket_of(user) {
        ctx.send_farewell(state, socket, farewell, text);
    }
    end_user(state, ctx, user, quit);
}

/// Handles a lost connection or a forced disconnect. A user with a session can still
/// resume; any other user is logged out.
pub(in crate::server::hub) fn lose_connection(
    state: &mut State,
    ctx: &mut Context<'_>,
    socket: ConnId,
    farewell: Option<Farewell>,
) {
    let connection = state.connections.find(socket);
    let session = connection.filter(|connection| connection.session.is_some());
    let Some(user) = session.and_then(Connection::user) else {
        return leave(state, ctx, socket, farewell, None);
    };
    let until = ctx.now.since_start + ctx.limits.session_grace;
    let displaced = state.drop_socket(ctx.limits, user, until);
    ctx.close(state, socket, farewell);
    if let Some(displaced) = displaced {
        end_user(state, ctx, displaced, None);
    }
}

/// Logs out the users whose sessions have ended.
pub(in crate::server::hub) fn expire_sessions(state: &mut State, ctx: &mut Context<'_>) {
    while let Some(id) = state.sessions.next_expired(ctx.now.since_start) {
        if let Some(user) = state.users.find(id) {
            end_user(state, ctx, user, None);
        }
    }
}
