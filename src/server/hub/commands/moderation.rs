//! Moderation of rooms: operators, kicks and mutes.
//!
//! The user who creates a room is its operator, and operators promote others. `#lobby`
//! always exists, so it has no creator. Operator rights belong to the user's id and
//! remain while the user is not in the room. A room's moderation ends with the room, when
//! the last member leaves.

use std::time::Duration;

use super::rights::moderated_room;
use super::succession::{hand_over, has_moderator, heir};
use super::{
    Context, ErrorReason, Event, Key, Moderation, Name, Refusal, Request, Result, RoomIx, Scope,
    State, Tags, UserId, UserIx, no_such_user, refusal, send_to_user,
};
use crate::server::hub::delivery::announce_action;
use crate::server::hub::state::moderation::Mute;
use crate::server::hub::state::moderation::expiry::Expiry;

/// `/op`.
pub(super) fn promote(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: &str,
) -> Result {
    let room = moderated_room(state, user)?;
    let other = member_named(state, room, name)?;
    let person = state.users[other].id;
    state.drop_expired(req.now, Scope::Room(room));
    let (by, name) = (state.users[user].name.clone(), state.users[other].name.clone());
    let room_name = state.rooms[room].name.clone();
    let moderation = state.moderation_in(Scope::Room(room));
    if moderation.is_operator(person) {
        let text = format!("nothing changed: {name} is already an operator of {room_name}");
        return refusal(ErrorReason::BadArgument, text);
    }
    let most = req.limits.max_operators;
    if moderation.operators.len() >= most {
        let text = format!("the limit of {most} operators is reached; /deop one first");
        return refusal(ErrorReason::TooMany, text);
    }
    state.moderation.promote(state.rooms[room].moderation, person);
    let event = Event::Promoted { room: room_name.as_str(), by: by.as_str(), name: name.as_str() };
    announce_action(state, req, room, &event);
    Ok(())
}

/// `/deop`. The target may be absent from the room, or the user themselves. The rights
/// of the last operator go to another member, so that a room always has an operator.
pub(super) fn demote(state: &mut State, req: &mut Request<'_>, user: UserIx, name: &str) -> Result {
    let room = moderated_room(state, user)?;
    let Some((person, name)) = state.known_as(name) else { return no_such_user(name) };
    let room_name = state.rooms[room].name.clone();
    if !state.moderation_in(Scope::Room(room)).is_operator(person) {
        let text = format!("nothing changed: {name} is not an operator of {room_name}");
        return refusal(ErrorReason::NoSuchUser, text);
    }
    let now = req.now;
    if heir(state, now, room, Some(person)).is_none()
        && !has_moderator(state, now, room, Some(person))
    {
        let text =
            format!("{room_name} needs an operator, and no other member can be one; /part instead");
        return refusal(ErrorReason::BadArgument, text);
    }
    state.moderation.demote(state.rooms[room].moderation, person);
    let event = Event::Demoted { room: room_name.as_str(), name: name.as_str() };
    announce_action(state, req, room, &event);
    if !has_moderator(state, now, room, None)
        && let Some(heir) = heir(state, now, room, Some(person))
    {
        hand_over(state, req, room, heir);
    }
    Ok(())
}

/// `/kick`.
pub(super) fn kick(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: &str,
    reason: Option<&str>,
) -> Result {
    let room = moderated_room(state, user)?;
    let other = member_named(state, room, name)?;
    if other == user {
        let text = "you cannot kick yourself; /part leaves the room";
        return refusal(ErrorReason::BadArgument, text);
    }
    let (by, name) = (state.users[user].name.clone(), state.users[other].name.clone());
    let room_name = state.rooms[room].name.clone();
    let actor = Some(state.users[user].id);
    kick_member(state, req, (actor, &by), room, other, reason);
    let (by, name) = (by.as_str(), name.as_str());
    let event = Event::Kicked { room: room_name.as_str(), name, by, reason };
    announce_action(state, req, room, &event);
    Ok(())
}

/// Removes a user from a room and notifies the user.
pub(super) fn kick_member(
    state: &mut State,
    ctx: &mut Context<'_>,
    (actor, by): (Option<UserId>, &Name),
    room: RoomIx,
    user: UserIx,
    reason: Option<&str>,
) {
    let room_name = state.rooms[room].name.clone();
    state.leave_room(user, room);
    let (room, by) = (room_name.as_str(), by.as_str());
    let event = Moderation::Kicked { room, by, reason }.into();
    send_to_user(state, ctx, user, &Tags::by(actor), &event);
}

/// `/mute`. The target may be absent from the room.
pub(super) fn mute(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: &str,
    time: Option<Duration>,
) -> Result {
    let room = moderated_room(state, user)?;
    let Some((person, name)) = state.known_as(name) else { return no_such_user(name) };
    if person == state.users[user].id {
        return refusal(ErrorReason::BadArgument, "you cannot mute yourself");
    }
    state.drop_expired(req.now, Scope::Room(room));
    let most = req.limits.max_mutes;
    let until = Expiry::after(req.now, time);
    let mute = Mute { person, name: name.clone(), until };
    if !state.moderation.mute(state.rooms[room].moderation, mute, most) {
        let text = format!("the limit of {most} mutes is reached; /unmute one first");
        return refusal(ErrorReason::TooMany, text);
    }
    let (room, until) = (state.rooms[room].name.as_str(), until.until());
    req.reply(Moderation::Muted { room, name: name.as_str(), until });
    Ok(())
}

/// `/unmute`, by the current name or the name at the time of the mute.
pub(super) fn unmute(state: &mut State, req: &mut Request<'_>, user: UserIx, name: &str) -> Result {
    let room = moderated_room(state, user)?;
    state.drop_expired(req.now, Scope::Room(room));
    let person = state.known_as(name).map(|(person, _)| person);
    let (moderation, room_name) = (state.rooms[room].moderation, &state.rooms[room].name);
    let Some(muted) = state.moderation.unmute(moderation, person, &Key::fold(name)) else {
        return refusal(ErrorReason::NoSuchUser, format!("{name} is not muted in {room_name}"));
    };
    req.reply(Moderation::Unmuted { room: room_name.as_str(), name: muted.as_str() });
    Ok(())
}

fn member_named(state: &State, room: RoomIx, name: &str) -> Result<UserIx> {
    let member = state.memberships.named(room, &Key::fold(name));
    member.map(|member| member.user).ok_or_else(|| {
        let text = format!("{name} is not in {}", state.rooms[room].name);
        Refusal::new(ErrorReason::NoSuchUser, text)
    })
}
