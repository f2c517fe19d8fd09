//! Rooms: `/join`, `/part`, `/topic`, `/who`. Locks and bans are decided elsewhere.

use std::sync::Arc;

use super::locks::{Entry, locked_out, require_entry};
use super::passwords::check_password;
use super::rights::{require_not_muted, room_of};
use super::succession::has_able_operator;
use super::{
    ErrorCode, Event, Guarded, Job, LOBBY, Purpose, Query, Refusal, Request, Result, RoomIx,
    RoomName, State, Tags, UserIx, long_reply, presence, refusal,
};
use crate::server::hub::delivery::announce_action;

/// The key given with a `/join`.
#[derive(Debug, Clone, Copy)]
pub(super) enum JoinKey<'a> {
    Missing,
    /// A key that is not compared yet.
    Unchecked,
    /// A key that was compared with this digest; the key of the room may have changed
    /// since.
    Checked {
        digest: &'a str,
        is_right: bool,
    },
}

/// `/join`.
pub(super) fn join(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: &str,
    key: Option<&str>,
) -> Result {
    let name = RoomName::parse(name)
        .map_err(|fault| Refusal::new(ErrorCode::BadName, format!("{fault}; choose another")))?;
    join_with(
        state,
        req,
        user,
        &name,
        if key.is_some() { JoinKey::Unchecked } else { JoinKey::Missing },
    )
}

pub(super) fn join_with(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: &RoomName,
    key: JoinKey<'_>,
) -> Result {
    let known = state.rooms.named(name.key());
    if let Some(room) = known.filter(|room| state.memberships.is_member(user, *room)) {
        reply_joined(state, req, room);
        state.connections.set_current(req.connection, Some(room));
        presence::describe(state, req, room);
        return Ok(());
    }
    if state.memberships.rooms_of(user).len() >= req.limits.rooms_per_person {
        let max = req.limits.rooms_per_person;
        let text = format!("you are in {max} rooms, the maximum; /part one first");
        return refusal(ErrorCode::TooMany, text);
    }
    if known.is_none() && state.rooms.len() >= req.limits.max_rooms {
        let max = req.limits.max_rooms;
        let text = format!("the server has its maximum of {max} rooms; /list shows them");
        return refusal(ErrorCode::TooMany, text);
    }
    let is_new = known.is_none() && !state.is_dormant(name);
    let room = state.open_room(name);
    if is_new {
        state.moderation.promote(state.rooms[room].moderation, state.users[user].id);
        enter(state, req, user, room);
        return Ok(());
    }
    let result = enter_existing(state, req, user, room, key);
    if state.memberships.count(room) == 0 {
        state.close_room(room); // dormant again
    }
    result
}

/// Joins a room that has members or stored moderation.
fn enter_existing(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    room: RoomIx,
    key: JoinKey<'_>,
) -> Result {
    match (require_entry(state, req.now, user, room)?, key) {
        (Entry::Open, _) => {}
        (Entry::ByKey(is), JoinKey::Checked { digest, is_right }) if is_right && *is == *digest => {
        }
        (Entry::ByKey(is), JoinKey::Unchecked) => return check_key(state, req, room, is),
        (Entry::ByKey(_), JoinKey::Checked { .. }) => {
            return Err(locked_out(state, room, "; that key is wrong"));
        }
        (Entry::ByKey(_), JoinKey::Missing) => {
            let hint = format!("; use /join {} KEY", state.rooms[room].name);
            return Err(locked_out(state, room, &hint));
        }
    }
    let is_empty = room != LOBBY && state.memberships.count(room) == 0;
    if is_empty && !has_able_operator(state, req.now, room, None) {
        state.moderation.promote(state.rooms[room].moderation, state.users[user].id);
    }
    enter(state, req, user, room);
    Ok(())
}

/// Checks the key of a room; wrong keys are throttled like passwords.
fn check_key(state: &mut State, req: &mut Request<'_>, room: RoomIx, is: Arc<str>) -> Result {
    let name = state.rooms[room].name.clone();
    let guarded = Guarded::Room(name.key().clone());
    let job = Job::Match(is.clone());
    check_password(state, req, Purpose::Enter(name, is), guarded, job)
}

fn enter(state: &mut State, req: &mut Request<'_>, user: UserIx, room: RoomIx) {
    reply_joined(state, req, room);
    enter_checked(state, req, user, room);
}

fn reply_joined(state: &mut State, req: &mut Request<'_>, room: RoomIx) {
    state.end_query(req.connection, Query::Off);
    let room_name = state.rooms[room].name.to_string();
    req.reply(&Event::reply("JOINED", &room_name, "your messages now go to this room"));
}

/// Adds a user to a room that they may join: announces them to the members and sends them
/// the topic and the member list. The list and the presence events after it are consistent.
pub(super) fn enter_checked(state: &mut State, req: &mut Request<'_>, user: UserIx, room: RoomIx) {
    state.moderation.use_invitation(state.rooms[room].moderation, state.users[user].id);
    state.enter(user, room);
    presence::announce_join(state, req, user, room);
    presence::describe(state, req, room);
}

/// `/part`.
pub(super) fn part(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: Option<&str>,
    reason: Option<&str>,
) -> Result {
    let current = state.connections[req.connection].current;
    let room = match (name, current) {
        (Some(name), _) => room_of(state, user, name)?,
        (None, Some(room)) => room,
        (None, None) => {
            return refusal(ErrorCode::NotInRoom, "you are in no room; give the name of one");
        }
    };
    let room_name = state.rooms[room].name.to_string();
    let reason = reason.filter(|_| require_not_muted(state, req.now, user, room).is_ok());
    presence::announce_part(state, req, user, room, reason);
    let text = if current == Some(room) {
        let is_in_lobby = room != LOBBY && state.memberships.is_member(user, LOBBY);
        let next = is_in_lobby.then_some(LOBBY);
        state.connections.set_current(req.connection, next);
        match next {
            Some(_) => "your messages now go to #lobby",
            None => "you are in no room; /join one to talk",
        }
    } else {
        ""
    };
    state.leave_room(user, room);
    req.reply(&Event::reply("PARTED", &room_name, text));
    Ok(())
}

/// `/who`.
pub(super) fn who(state: &mut State, req: &mut Request<'_>, name: Option<&str>) -> Result {
    let room = match (name, state.connections[req.connection].current) {
        (Some(name), _) => {
            let room = RoomName::parse(name).ok().and_then(|it| state.rooms.named(it.key()));
            room.ok_or_else(|| {
                let name = name.trim_start_matches('#');
                let text = format!("no such room: #{name}; /list shows all rooms");
                Refusal::new(ErrorCode::NoSuchRoom, text)
            })?
        }
        (None, Some(room)) => room,
        (None, None) => {
            return refusal(ErrorCode::NoSuchRoom, "you are in no room; give the name of one");
        }
    };
    long_reply::send_members(state, req, room);
    Ok(())
}

/// `/topic`.
pub(super) fn topic(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    text: Option<&str>,
) -> Result {
    let Some(room) = state.connections[req.connection].current else {
        return refusal(ErrorCode::NotInRoom, "you are in no room; /join one first");
    };
    let name = state.rooms[room].name.clone();
    let Some(text) = text else {
        let topic = state.rooms[room].topic.as_deref().unwrap_or_default();
        req.reply(&Event::reply("TOPIC", &name.to_string(), topic));
        return Ok(());
    };
    require_not_muted(state, req.now, user, room)?;
    let text = (text.trim() != "-").then_some(text);
    let by = state.users[user].name.clone();
    let event = Event::Topic { room: name.as_str(), name: by.as_str(), text };
    if state.set_topic(room, text) {
        announce_action(state, req, room, &event);
    } else if req.cid.is_some() {
        // Most likely a retry whose answer was lost: the sender is answered, no one
        // else is notified.
        let time = state.stamp(req.now);
        req.reply_tagged(&Tags { time: Some(time), ..Tags::default() }, &event);
    } else {
        // Nothing changes: answered like `/topic` without a text.
        req.reply(&Event::reply("TOPIC", &name.to_string(), text.unwrap_or_default()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::server::hub::Limits;
    use crate::server::hub::test_support::{connect, hub, mark_saved, say};

    #[test]
    fn unchanged_topic_is_not_stored() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        for (topic, is_change) in [("tea", true), ("tea", false), ("-", true), ("-", false)] {
            let (_, reply) = say(&mut hub, 0, &format!("/topic {topic}"));
            let is_answer = |line: &str| reply.text.starts_with(line);
            assert!(
                is_answer(if is_change { "* alice " } else { "[TOPIC #lobby]" }),
                "{}",
                reply.text
            );
            assert_eq!(hub.has_changes(), is_change, "{topic}");
            mark_saved(&mut hub);
        }
    }
}
