//! Permissions: checks that refuse a command before it has any effect.

use super::{
    ErrorReason, Key, Now, Refusal, Result, RoomIx, RoomName, Scope, State, UserId, UserIx, refusal,
};
use crate::server::hub::state::moderation::Mute;

/// Refuses a user who is muted in the room.
pub(super) fn require_not_muted(state: &State, now: Now, user: UserIx, room: RoomIx) -> Result {
    let moderation = &state.moderation[state.rooms[room].moderation];
    let Some(mute) = moderation.mute_of(now, state.users[user].id) else { return Ok(()) };
    Err(muted(&state.rooms[room].name, mute))
}

/// Returns the refusal of a user who is muted in a room.
pub(super) fn muted(room: &RoomName, mute: &Mute) -> Refusal {
    let until = mute.until.until().describe("until an operator unmutes you");
    Refusal::new(ErrorReason::Muted, format!("not sent: you are muted in {room} {until}"))
}

/// Returns whether a user is a server operator.
pub(super) fn is_server_operator(state: &State, user_id: UserId) -> bool {
    state.moderation.server().is_operator(user_id)
}

/// Refuses a user who is not a server operator.
pub(super) fn require_server_operator(state: &State, user: UserIx) -> Result {
    if is_server_operator(state, state.users[user].id) {
        return Ok(());
    }
    refusal(ErrorReason::NotServerOperator, "server operators only; use /oper PASSWORD")
}

/// Refuses a user who is not an operator of the room or of the server.
pub(super) fn require_operator(state: &State, user: UserIx, room: RoomIx) -> Result {
    let person = state.users[user].id;
    let moderation = state.moderation_in(Scope::Room(room));
    if moderation.is_operator(person) || is_server_operator(state, person) {
        return Ok(());
    }
    let name = &state.rooms[room].name;
    let text = match operators_online(state, room) {
        Some(names) => format!("only operators of {name} can do this; ask {names}"),
        None => format!("only operators of {name} can do this, and none is online"),
    };
    refusal(ErrorReason::NotRoomOperator, text)
}

/// Refuses a user who may not moderate the scope.
pub(super) fn require_rights(state: &State, user: UserIx, scope: Scope) -> Result {
    match scope {
        Scope::Room(room) => require_operator(state, user, room),
        Scope::Server => require_server_operator(state, user),
    }
}

/// Returns the room to which an operator's command applies: the current one.
pub(super) fn moderated_room(state: &State, user: UserIx) -> Result<RoomIx> {
    let Some(room) = state.connection_of(user).current else {
        return refusal(ErrorReason::NoCurrentRoom, "you are in no room; /join one first");
    };
    require_operator(state, user, room)?;
    Ok(room)
}

/// Returns the names of the room's operators who are online.
pub(super) fn operators_online(state: &State, room: RoomIx) -> Option<String> {
    let operators = state.moderation_in(Scope::Room(room)).operators.iter();
    let online = operators.filter_map(|operator| state.users.find(*operator));
    let names: Vec<&str> = online.map(|user| state.users[user].name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Returns a room of the user, by any spelling of its name.
pub(super) fn room_of(state: &State, user: UserIx, name: &str) -> Result<RoomIx> {
    let room = RoomName::parse(name).ok().and_then(|name| room_in(state, user, name.key()));
    room.ok_or_else(|| {
        let name = name.trim_start_matches('#');
        let text = format!("you are not in #{name}; /join #{name} first");
        Refusal::new(ErrorReason::NotMember, text)
    })
}

/// Returns the room with this name if the user is a member.
pub(super) fn room_in(state: &State, user: UserIx, name: &Key) -> Option<RoomIx> {
    state.rooms.named(name).filter(|room| state.memberships.is_member(user, *room))
}
