//! Bans of users and networks from a room or from the server: `/ban`, `/gban`, and the commands
//! that lift and list them.

use std::time::Duration;

use super::logout::disconnect_user;
use super::moderation::kick_member;
use super::rights::is_server_operator;
use super::succession::{ensure_operator, ensure_operators};
use super::{
    Context, ErrorReason, Event, Farewell, Key, Moderation, Name, Now, Refusal, Request, Result,
    RoomIx, RoomName, Scope, State, Topic, UserId, UserIx, long_reply, no_such_user, refusal,
};
use crate::protocol::name::is_name;
use crate::server::hub::delivery::announce;
use crate::server::hub::state::moderation::Moderation as ModerationOf;
use crate::server::hub::state::moderation::bans::{Ban, BanSubject, Banned};
use crate::server::hub::state::moderation::expiry::Expiry;
use crate::server::hub::state::users::User;
use crate::server::net::peer::{Network, Peer};

/// The text for a ban without an expiry.
const PERMANENTLY: &str = "permanently";

/// `/ban` and `/gban`. Matching members are kicked; matching users of the server are
/// disconnected.
pub(super) fn ban(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    scope: Scope,
    (target, time, reason): (&str, Option<Duration>, Option<&str>),
) -> Result {
    let whom = ban_target(state, user, target)?;
    state.drop_expired(req.now, scope);
    let most = match scope {
        Scope::Room(_) => req.limits.max_bans,
        Scope::Server => req.limits.max_server_bans,
    };
    let until = Expiry::after(req.now, time);
    let (by, reason) = (state.users[user].name.clone(), reason.map(Into::into));
    let ban = Ban { whom, by, until, reason };
    if !state.moderation.ban(state.moderation_ix(scope), ban.clone(), most) {
        let text = format!("the limit of {most} bans is reached; {} one first", scope.unban());
        return refusal(ErrorReason::TooMany, text);
    }
    let (room, whom) = (state.room_of(scope), ban.whom.label());
    req.reply(Moderation::Banned { room, whom: &whom, term: ban.term() });
    let present = match scope {
        Scope::Room(room) => state.memberships.of_room(room).map(|it| it.user).collect(),
        Scope::Server => state.users.by_id(),
    };
    let is_target =
        |other: &UserIx| *other != user && ban.whom.matches(ban_subject(state, *other, scope));
    let targets: Vec<UserIx> = present.into_iter().filter(is_target).collect();
    match scope {
        Scope::Room(room) => {
            let actor = req.actor(state);
            remove_banned(state, req, actor, room, &ban, &targets);
            ensure_operator(state, req, room);
        }
        Scope::Server => {
            disconnect_banned(state, req, &ban, targets);
            ensure_operators(state, req);
        }
    }
    Ok(())
}

/// Kicks the banned users from the room and announces it. There is no actor if the ban is older.
fn remove_banned(
    state: &mut State,
    ctx: &mut Context<'_>,
    actor: Option<UserId>,
    room: RoomIx,
    ban: &Ban,
    users: &[UserIx],
) {
    // All kicks precede the first announcement, so that one audience serves all.
    let (by, reason) = (&ban.by, ban.reason.as_deref());
    let (room_name, number) = (state.rooms[room].name.clone(), state.rooms[room].number);
    let names: Vec<Name> = users.iter().map(|user| state.users[*user].name.clone()).collect();
    for user in users {
        kick_member(state, ctx, (actor, by), room, *user, reason);
    }
    if state.rooms.get(room).is_none_or(|room| room.number != number) {
        return; // The room ended with its last member.
    }
    for name in &names {
        let (name, by) = (name.as_str(), by.as_str());
        let event = Event::Kicked { room: room_name.as_str(), name, by, reason };
        announce(state, ctx, &[room], Topic::Talk, (actor, None), &event);
    }
}

/// Kicks a user who resumed from the rooms that now ban them: a resumed connection may
/// come from a banned network.
pub(super) fn leave_banned_rooms(state: &mut State, ctx: &mut Context<'_>, user: UserIx) {
    for room in state.memberships.rooms_of(user).to_vec() {
        if let Some(ban) = room_ban_on(state, ctx.now, user, room).cloned() {
            remove_banned(state, ctx, None, room, &ban, &[user]);
        }
    }
}

/// Disconnects the banned users from the server.
fn disconnect_banned(state: &mut State, ctx: &mut Context<'_>, ban: &Ban, users: Vec<UserIx>) {
    let farewell = banned_from_server(ban);
    let suffix = ban.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let quit = format!("banned by {}{suffix}", ban.by);
    for user in users {
        let farewell = (Farewell::Banned, Some(&*farewell));
        disconnect_user(state, ctx, user, farewell, Some(&quit));
    }
}

/// Resolves the target of a ban. A valid name is a name; no network has the form of one.
fn ban_target(state: &State, user: UserIx, target: &str) -> Result<Banned> {
    if !is_name(target) {
        let network = Network::parse(target);
        return network
            .map(Banned::Network)
            .map_err(|problem| Refusal::new(ErrorReason::BadArgument, problem));
    }
    let Some((person, name)) = state.known_as(target) else { return no_such_user(target) };
    if person == state.users[user].id {
        return refusal(ErrorReason::BadArgument, "you cannot ban yourself");
    }
    let is_guest = !state.accounts.has(person);
    // A user whose session has dropped still has its last address.
    let peer = state.users.find(person).and_then(|user| state.connection_of(user).peer);
    let network = peer.filter(|peer| is_guest && !peer.is_local()).map(Peer::network);
    let last = UserId(state.users.last_id());
    Ok(Banned::Person { person, name, is_guest, network, last })
}

/// `/unban` and `/gunban`, by the current name, the name at the time of the ban, or the
/// network.
pub(super) fn unban(
    state: &mut State,
    req: &mut Request<'_>,
    scope: Scope,
    target: &str,
) -> Result {
    state.drop_expired(req.now, scope);
    let person = state.known_as(target).map(|(person, _)| person);
    let (key, network) = (Key::fold(target), Network::parse(target).ok());
    let is_target = |banned: &Banned| match banned {
        Banned::Person { person: banned, name, .. } => {
            Some(*banned) == person || *name.key() == key
        }
        Banned::Network(banned) => Some(*banned) == network,
    };
    let Some(ban) = state.moderation.unban(state.moderation_ix(scope), is_target) else {
        let list = scope.bans();
        let text = format!("{target} is not banned; {list} lists the bans");
        return refusal(ErrorReason::NoSuchUser, text);
    };
    let (room, whom) = (state.room_of(scope), ban.whom.label());
    req.reply(Moderation::Unbanned { room, whom: &whom });
    Ok(())
}

/// `/bans` and `/gbans`.
pub(super) fn send_bans(state: &mut State, req: &mut Request<'_>, scope: Scope) {
    state.drop_expired(req.now, scope);
    let bans = state.moderation_in(scope).bans.clone();
    long_reply::send_bans(state, req, scope, bans);
}

/// Refuses a user who is banned from the room.
pub(super) fn require_not_banned(state: &State, now: Now, user: UserIx, room: RoomIx) -> Result {
    let Some(ban) = room_ban_on(state, now, user, room) else { return Ok(()) };
    Err(banned_from_room(&state.rooms[room].name, ban))
}

/// Returns the refusal of a user who is banned from a room.
pub(super) fn banned_from_room(room: &RoomName, ban: &Ban) -> Refusal {
    let text = format!("you are banned from {room} {}", ban.term().describe(PERMANENTLY));
    Refusal::new(ErrorReason::BannedFromRoom, text)
}

/// Returns the ban that keeps a user out of a room.
pub(super) fn room_ban_on(state: &State, now: Now, user: UserIx, room: RoomIx) -> Option<&Ban> {
    let scope = Scope::Room(room);
    state.moderation_in(scope).ban_on(now, ban_subject(state, user, scope))
}

/// Rejects a login or a resume of a user who is banned from the server: sends the
/// farewell and returns `true`.
pub(super) fn reject_banned(
    state: &mut State,
    req: &mut Request<'_>,
    person: UserId,
    name: &Name,
) -> bool {
    let peer = state.connections[req.connection].peer;
    let subject = subject_named(state, (person, name.key()), peer, state.moderation.server());
    let Some(ban) = state.moderation.server().ban_on(req.now, subject) else { return false };
    let farewell = banned_from_server(ban);
    let socket = req.socket;
    state.connections.close(socket);
    req.send_farewell(state, socket, Farewell::Banned, Some(&farewell));
    true
}

/// Refuses the name of a banned guest, so that no other user can pass for the guest.
/// Users who already have or own the name keep it.
pub(super) fn require_unbanned_name(state: &State, now: Now, user: UserIx, name: &Name) -> Result {
    let User { id, name: old, .. } = &state.users[user];
    let owner = state.accounts.named(name.key()).map(|account| account.person);
    let is_mine = old.key() == name.key() || owner == Some(*id);
    let bans = &state.moderation.server().bans;
    if !is_mine && bans.iter().any(|ban| ban.reserves_name(now, name.key())) {
        return refusal(ErrorReason::NameTaken, format!("{name} is banned; choose another name"));
    }
    Ok(())
}

fn ban_subject(state: &State, user: UserIx, scope: Scope) -> BanSubject<'_> {
    let User { id, name, .. } = &state.users[user];
    // The last known address of a user whose session has dropped counts as well.
    let peer = state.connection_of(user).peer;
    subject_named(state, (*id, name.key()), peer, state.moderation_in(scope))
}

/// Returns the subject of the bans of a room or of the server.
pub(super) fn subject_named<'a>(
    state: &State,
    (person, name): (UserId, &'a Key),
    peer: Option<Peer>,
    moderation: &ModerationOf,
) -> BanSubject<'a> {
    BanSubject {
        person,
        name,
        is_guest: !state.accounts.has(person),
        peer,
        is_operator: moderation.is_operator(person),
        is_exempt: moderation.room.is_some() && is_server_operator(state, person),
    }
}

fn banned_from_server(ban: &Ban) -> String {
    format!("you are banned from this server {}", ban.term().describe(PERMANENTLY))
}
