//! Locked rooms: `/lock`, `/unlock`, `/invite`. A locked room can be joined by invited users,
//! by its operators, and with the key if there is one.

use std::sync::Arc;

use super::bans::require_not_banned;
use super::rights::{is_server_operator, moderated_room, operators_online};
use super::{
    ErrorReason, Moderation, Now, Refusal, Request, Result, RoomIx, Scope, State, Tags, UserId,
    UserIx, no_such_user, refusal, send_to_user,
};
use crate::server::auth::passwords::digest;
use crate::server::hub::state::moderation::Moderation as RoomModeration;

/// How a user can join a room.
#[derive(Debug)]
pub(super) enum Entry {
    Open,
    /// With the key that has this digest.
    ByKey(Arc<str>),
}

/// `/lock`, also to change the key.
pub(super) fn lock(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    key: Option<&str>,
) -> Result {
    let room = moderated_room(state, user)?;
    let is_by_server = is_server_operator(state, state.users[user].id);
    let key = key.map(digest);
    state.moderation.lock(state.rooms[room].moderation, key.as_deref(), is_by_server);
    let room = state.rooms[room].name.as_str();
    req.reply(Moderation::Locked { room, has_key: key.is_some() });
    Ok(())
}

/// `/unlock`.
pub(super) fn unlock(state: &mut State, req: &mut Request<'_>, user: UserIx) -> Result {
    let room = moderated_room(state, user)?;
    let was_locked = state.moderation.unlock(state.rooms[room].moderation);
    let room = state.rooms[room].name.as_str();
    req.reply(Moderation::Unlocked { room, was_locked });
    Ok(())
}

/// `/invite`. An invited user who ignores the sender is not notified.
pub(super) fn invite(state: &mut State, req: &mut Request<'_>, user: UserIx, name: &str) -> Result {
    let room = moderated_room(state, user)?;
    let Some(other) = state.users.named(name) else { return no_such_user(name) };
    if state.memberships.is_member(other, room) {
        let (name, room) = (&state.users[other].name, &state.rooms[room].name);
        return refusal(ErrorReason::BadArgument, format!("{name} is already in {room}"));
    }
    state.drop_expired(req.now, Scope::Room(room));
    let (me, user_id) = (state.users[user].id, state.users[other].id);
    let max = req.limits.max_invited;
    if !state.moderation.invite(state.rooms[room].moderation, user_id, max) {
        let text = format!("{max} invitations are open, the maximum; /unlock cancels them");
        return refusal(ErrorReason::TooMany, text);
    }
    let (room, name) = (state.rooms[room].name.clone(), state.users[other].name.as_str());
    req.reply(Moderation::Invited { room: room.as_str(), name });
    if !state.relations.ignores(user_id, me) {
        let by = state.users[user].name.clone();
        let event = Moderation::Invitation { room: room.as_str(), by: by.as_str() }.into();
        send_to_user(state, req, other, &Tags::by(Some(me)), &event);
    }
    Ok(())
}

/// Checks whether a user may join an existing room, except for the key.
pub(super) fn require_entry(state: &State, now: Now, user: UserIx, room: RoomIx) -> Result<Entry> {
    require_not_banned(state, now, user, room)?;
    let moderation = state.moderation_in(Scope::Room(room));
    match &moderation.lock.key {
        _ if is_open_to(state, moderation, state.users[user].id) => Ok(Entry::Open),
        Some(key) => Ok(Entry::ByKey(key.clone())),
        None => Err(locked_out(state, room, ErrorReason::RoomLocked)),
    }
}

/// Whether a lock does not keep a user or account out of a room, even without the key.
pub(super) fn is_open_to(state: &State, moderation: &RoomModeration, person: UserId) -> bool {
    !moderation.lock.is_on
        || moderation.lock.invited.contains(&person)
        || moderation.is_operator(person)
        || is_server_operator(state, person)
}

/// Returns the refusal to join a locked room.
pub(super) fn locked_out(state: &State, room: RoomIx, reason: ErrorReason) -> Refusal {
    let name = &state.rooms[room].name;
    let hint = match reason {
        ErrorReason::RoomNeedsKey => format!("; use /join {name} KEY"),
        ErrorReason::WrongRoomKey => "; that key is wrong".to_owned(),
        _ => String::new(),
    };
    let operators = operators_online(state, room);
    let invite_hint = operators.map(|names| format!("; {names} can /invite you"));
    let text = format!("{name} is locked{hint}{}", invite_hint.unwrap_or_default());
    Refusal::new(reason, text)
}
