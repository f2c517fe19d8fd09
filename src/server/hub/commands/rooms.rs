//! Rooms: `/join`, `/part`, `/topic`, `/who`. `locks.rs` and `bans.rs` decide who may join.

use std::sync::Arc;

use super::locks::{Entry, locked_out, require_entry};
use super::passwords::check_password;
use super::rights::{require_not_muted, room_of};
use super::succession::has_able_operator;
use super::{
    ErrorReason, Event, LOBBY, Purpose, Query, Refusal, Reply, Request, Result, RoomIx, RoomName,
    State, Target, UserIx, long_reply, presence, refusal, reply,
};
use crate::server::hub::delivery::{announce_action, event_tags};
use crate::server::limits::quota::Exhausted;
use crate::server::net::peer::Peer;

/// The key given with a `/join`.
#[derive(Debug, Clone, Copy)]
pub(super) enum JoinKey<'a> {
    Missing,
    /// A key that has not been compared yet.
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
        .map_err(|fault| Refusal::new(ErrorReason::BadName, format!("{fault}; choose another")))?;
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
        return refusal(ErrorReason::TooMany, text);
    }
    let creator = state.connections[req.connection].peer;
    let creator = creator.filter(|peer| req.limits.apply_to(*peer));
    if known.is_none() {
        require_quota(state, req, creator)?;
    }
    let is_new = known.is_none() && !state.moderation.is_dormant(name.key());
    let room = state.open_room(name, creator);
    if is_new {
        state.moderation.promote(state.rooms[room].moderation, state.users[user].id);
        enter(state, req, user, room);
        return Ok(());
    }
    let result = enter_existing(state, req, user, room, key);
    if known.is_none() && state.memberships.count(room) == 0 {
        state.put_back(room);
    }
    result
}

/// Refuses a new room beyond the limits.
fn require_quota(state: &State, req: &Request<'_>, creator: Option<Peer>) -> Result {
    let max = req.limits.max_rooms;
    if state.rooms.len() >= max {
        let text = format!("the server has its maximum of {max} rooms; /list shows them");
        return refusal(ErrorReason::TooMany, text);
    }
    let Some(creator) = creator else { return Ok(()) };
    let text = match state.rooms.check_quota(creator) {
        Ok(()) => return Ok(()),
        Err(Exhausted::Network(network)) => {
            let whose = creator.describe(network);
            format!(
                "{whose} has created its maximum of rooms; /part one of them, or join one of /list"
            )
        }
        Err(Exhausted::Total) => {
            format!("the last of the {max} rooms are reserved for newcomers; /list shows all")
        }
    };
    refusal(ErrorReason::TooMany, text)
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
            return Err(locked_out(state, room, ErrorReason::WrongRoomKey));
        }
        (Entry::ByKey(_), JoinKey::Missing) => {
            return Err(locked_out(state, room, ErrorReason::RoomNeedsKey));
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
    let target = Target::RoomKey(name.key().clone(), is.clone());
    check_password(state, req, Purpose::Enter(name, is), target)
}

fn enter(state: &mut State, req: &mut Request<'_>, user: UserIx, room: RoomIx) {
    reply_joined(state, req, room);
    enter_checked(state, req, user, room);
}

fn reply_joined(state: &mut State, req: &mut Request<'_>, room: RoomIx) {
    state.set_query(req.connection, Query::Off);
    req.reply(Reply::Joined { room: state.rooms[room].name.as_str() });
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
            return refusal(ErrorReason::NoCurrentRoom, "you are in no room; give the name of one");
        }
    };
    let room_name = state.rooms[room].name.clone();
    let reason = reason.filter(|_| require_not_muted(state, req.now, user, room).is_ok());
    presence::announce_part(state, req, user, room, reason);
    state.leave_room(user, room);
    let next = if current != Some(room) {
        reply::Next::Unchanged
    } else if state.memberships.is_member(user, LOBBY) {
        state.connections.set_current(req.connection, Some(LOBBY));
        reply::Next::Lobby
    } else {
        reply::Next::Nowhere
    };
    req.reply(Reply::Parted { room: room_name.as_str(), next });
    Ok(())
}

/// `/who`.
pub(super) fn who(
    state: &mut State,
    req: &mut Request<'_>,
    name: Option<&str>,
    has_details: bool,
) -> Result {
    let room = match (name, state.connections[req.connection].current) {
        (Some(name), _) => {
            let room = RoomName::parse(name).ok().and_then(|it| state.rooms.named(it.key()));
            room.ok_or_else(|| {
                let name = name.trim_start_matches('#');
                let text = format!("no such room: #{name}; /list shows all rooms");
                Refusal::new(ErrorReason::NoSuchRoom, text)
            })?
        }
        (None, Some(room)) => room,
        (None, None) => {
            return refusal(ErrorReason::NoSuchRoom, "you are in no room; give the name of one");
        }
    };
    if has_details {
        long_reply::send_people(state, req, room);
    } else {
        long_reply::send_members(state, req, room);
    }
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
        return refusal(ErrorReason::NoCurrentRoom, "you are in no room; /join one first");
    };
    let name = state.rooms[room].name.clone();
    let Some(text) = text else {
        let topic = state.rooms[room].topic.as_deref().unwrap_or_default();
        req.reply(Reply::Topic { room: name.as_str(), topic });
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
        let actor = req.actor(state);
        let tags = event_tags(state, req.now, actor);
        req.reply_tagged(&tags, &event);
    } else {
        // Nothing changes: answered like `/topic` without a text.
        req.reply(Reply::Topic { room: name.as_str(), topic: text.unwrap_or_default() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::protocol::ErrorReason;
    use crate::server::auth::passwords::Outcome;
    use crate::server::hub::test_support::{
        self, Driver, connect, connect_from, handle, hub, mark_saved, refused, register, restarted,
        say, session, tick_at,
    };
    use crate::server::hub::{Input, Limits};
    use crate::server::turn::Turn;

    /// Logs in from an address; returns how many of these rooms the user can then create.
    fn create_rooms(hub: &mut Driver, slot: u32, address: [u8; 4], count: usize) -> usize {
        connect_from(hub, slot, address);
        say(hub, slot, &format!("p{slot}"));
        let mut create = |number| {
            let (_, reply) = say(hub, slot, &format!("/join r{slot}x{number}"));
            hub.check_invariants();
            reply.text.starts_with("[JOINED")
        };
        (0..count).filter(|number| create(*number)).count()
    }

    #[test]
    fn rooms_are_limited_per_network() {
        let limits = Limits { rooms_per_address: 3, max_rooms: 18, ..Limits::default() };
        let mut hub = hub(limits);
        let created: Vec<usize> = [[10, 0, 0, 1], [10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3]]
            .into_iter()
            .zip(0..)
            .map(|(address, slot)| create_rooms(&mut hub, slot, address, 5))
            .collect();
        assert_eq!(created, [3, 0, 3, 3]);
        // The rest of the rooms, without the lobby and the reserve for newcomers.
        assert_eq!(create_rooms(&mut hub, 4, [10, 0, 1, 1], 5), 3);
        assert_eq!(create_rooms(&mut hub, 5, [10, 0, 2, 1], 5), 3);
        assert_eq!(create_rooms(&mut hub, 6, [10, 0, 3, 1], 5), 1);
        let (_, reply) = say(&mut hub, 6, "/join another");
        assert!(reply.text.contains("reserved for newcomers"), "{}", reply.text);
        let (_, reply) = say(&mut hub, 5, "/join another");
        assert!(reply.text.contains("your address has created"), "{}", reply.text);
        let (_, reply) = say(&mut hub, 1, "/join r5x0");
        assert!(reply.text.starts_with("[JOINED #r5x0]"), "rooms of others: {}", reply.text);
        // A room counts until its last member has left.
        say(&mut hub, 5, "/part r5x0");
        let (_, reply) = say(&mut hub, 5, "/join another");
        assert!(reply.text.contains("your address has created"), "{}", reply.text);
        say(&mut hub, 1, "/part r5x0");
        let (_, reply) = say(&mut hub, 5, "/join another");
        assert!(reply.text.starts_with("[JOINED"), "{}", reply.text);
        hub.check_invariants();
    }

    #[test]
    fn rooms_are_counted_after_a_restart_for_their_first_member() {
        let mut hub = hub(Limits { rooms_per_address: 1, ..Limits::default() });
        assert_eq!(create_rooms(&mut hub, 0, [10, 0, 0, 1], 2), 1);
        assert_eq!(create_rooms(&mut hub, 1, [10, 0, 1, 1], 0), 0);
        say(&mut hub, 1, "/join r0x0");
        let token = session(&mut hub, 1);
        let mut hub = restarted(&mut hub);
        hub.check_invariants();
        assert_eq!(create_rooms(&mut hub, 0, [10, 0, 0, 1], 1), 1, "it exists");
        say(&mut hub, 0, "/part r0x0");
        assert_eq!(create_rooms(&mut hub, 2, [10, 0, 1, 1], 1), 0, "p1 stands in");
        connect(&mut hub, 1);
        say(&mut hub, 1, &format!("/resume {token} 0"));
        handle(&mut hub, 1, Input::Drained);
        say(&mut hub, 1, "/part r0x0");
        assert_eq!(create_rooms(&mut hub, 3, [10, 0, 1, 1], 1), 1);
    }

    /// Creates rooms with a ban, each by a user with a session, and restarts the server; none of
    /// the users returns.
    fn leave_rooms(hub: &mut Driver, name: &str, count: usize, has_account: bool) {
        for number in 0..count {
            connect(hub, 0);
            say(hub, 0, &format!("{name}{number}"));
            if has_account {
                register(hub, 0);
            }
            for line in [&format!("/join {name}{number}"), "/ban 192.0.2.7"] {
                say(hub, 0, line);
            }
            session(hub, 0);
            handle(hub, 0, Input::Disconnected);
            hub.forget_connection(test_support::conn(0));
        }
        *hub = restarted(hub);
        hub.tick(test_support::now(std::time::Duration::from_mins(2)), &mut Turn::default());
        hub.check_invariants();
    }

    fn has_ban(hub: &Driver, room: &str) -> bool {
        let room = crate::protocol::RoomName::parse(room).expect("a name");
        hub.state.moderation.is_dormant(room.key())
    }

    #[test]
    fn dormant_rooms_are_limited_and_those_of_guests_end_first() {
        let mut hub = hub(Limits { max_rooms: 16, ..Limits::default() });
        leave_rooms(&mut hub, "owned", 4, true);
        for round in ["a", "b", "c", "d"] {
            leave_rooms(&mut hub, round, 8, false);
            hub = restarted(&mut hub);
        }
        assert!((0..4).all(|number| has_ban(&hub, &format!("owned{number}"))));
        let left = |round: &str| {
            (0..8).filter(|number| has_ban(&hub, &format!("{round}{number}"))).count()
        };
        let left = ["a", "b", "c", "d"].map(left);
        assert_eq!((left[0], left[3]), (0, 8), "the oldest end: {left:?}");
        assert!(left.iter().sum::<usize>() <= 12, "{left:?}");
    }

    #[test]
    fn account_with_many_dormant_rooms_displaces_its_own() {
        let mut hub = hub(Limits { max_rooms: 16, ..Limits::default() });
        leave_rooms(&mut hub, "honest", 3, true);
        for round in ["a", "b", "c"] {
            connect(&mut hub, 1);
            say(&mut hub, 1, round);
            register(&mut hub, 1);
            for number in 0..10 {
                say(&mut hub, 1, &format!("/join {round}{number}"));
            }
            session(&mut hub, 1);
            leave_rooms(&mut hub, round, 0, true);
            assert!((0..3).all(|number| has_ban(&hub, &format!("honest{number}"))), "{round}");
        }
    }

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

    /// The hub after a restart in which alice's locked #ops has no members, and alice, who was its
    /// operator, has ended her account.
    fn hub_with_dormant_room() -> Driver {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        register(&mut hub, 0);
        for line in ["/join ops", "secret", "/lock key", "/session"] {
            say(&mut hub, 0, line);
        }
        let mut hub = restarted(&mut hub);
        tick_at(&mut hub, Duration::from_mins(2), 0); // her session ends
        connect(&mut hub, 0);
        say(&mut hub, 0, "/login alice secret");
        handle(&mut hub, 0, Input::Hashed(Outcome::Checked(true)));
        say(&mut hub, 0, "/unregister secret");
        handle(&mut hub, 0, Input::Hashed(Outcome::Checked(true)));
        say(&mut hub, 0, "/quit");
        hub
    }

    #[test]
    fn refused_join_leaves_a_dormant_room_locked() {
        let mut hub = hub_with_dormant_room();
        connect(&mut hub, 1);
        say(&mut hub, 1, "bob");
        for _ in 0..2 {
            assert_eq!(refused(&mut hub, 1, "/join ops"), Some(ErrorReason::RoomNeedsKey));
            hub.check_invariants();
        }
    }
}
