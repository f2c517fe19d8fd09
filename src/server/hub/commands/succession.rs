//! Succession: a room with members always has a user who can moderate it, an operator of
//! its own or a server operator who is online. When the last one has logged out or is
//! banned, the member who joined first is promoted, announced as `#ops * server made bob an
//! operator`; `server` is a reserved name.

use super::rights::is_server_operator;
use super::{
    Context, Event, LOBBY, Now, RoomIx, SERVER_NAME, Scope, State, Tags, Topic, UserId, UserIx,
    presence,
};
use crate::server::hub::delivery;
use crate::server::hub::delivery::deferred;
use crate::server::hub::state::memberships::Member;
use crate::server::net::outbox::Meter;

/// Returns whether an operator other than `except` could moderate the room and is not
/// banned.
pub(super) fn has_able_operator(
    state: &State,
    now: Now,
    room: RoomIx,
    except: Option<UserId>,
) -> bool {
    let moderation = state.moderation_in(Scope::Room(room));
    let mut others = moderation.operators.iter().filter(|user_id| Some(**user_id) != except);
    others.any(|user_id| {
        let is_banned = state.moderation.server().bans_person(now, *user_id)
            || (moderation.bans_person(now, *user_id) && !is_server_operator(state, *user_id));
        state.can_return(*user_id) && !is_banned
    })
}

/// Returns whether a user other than `except` may moderate a room; includes server
/// operators who are online.
pub(super) fn has_moderator(state: &State, now: Now, room: RoomIx, except: Option<UserId>) -> bool {
    let mut server_operators = state.moderation.server().operators.iter();
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
        && !has_moderator(state, ctx.now, room, None)
        && let Some(heir) = heir(state, ctx.now, room, None)
    {
        hand_over(state, ctx, room, heir);
    }
}

/// Promotes a member and announces it; in a large room, which many may leave at once,
/// only that member is notified.
pub(super) fn hand_over(state: &mut State, ctx: &mut Context<'_>, room: RoomIx, heir: UserIx) {
    state.moderation.promote(state.rooms[room].moderation, state.users[heir].id);
    let (room_name, name) = (state.rooms[room].name.clone(), state.users[heir].name.clone());
    let event = Event::Promoted { room: room_name.as_str(), by: SERVER_NAME, name: name.as_str() };
    if presence::is_quiet(state, ctx, room) {
        let tags = delivery::event_tags(state, ctx.now, None);
        delivery::send_to_user(state, ctx, heir, &tags, &event);
    } else {
        delivery::announce(state, ctx, &[room], Topic::Talk, (None, None), &event);
    }
}

/// Returns the next operator of a room: the member who joined first, muted members
/// last.
pub(super) fn heir(
    state: &State,
    now: Now,
    room: RoomIx,
    except: Option<UserId>,
) -> Option<UserIx> {
    let moderation = state.moderation_in(Scope::Room(room));
    let members = state.memberships.of_room(room);
    let members = members.filter(|member| Some(state.users[member.user].id) != except);
    let rank = |member: &&Member| {
        let user_id = state.users[member.user].id;
        // Older data has no join order; the first login counts then.
        (moderation.mute_of(now, user_id).is_some(), member.arrival, user_id)
    };
    members.min_by_key(rank).map(|member| member.user)
}

/// Promotes successors at startup, after all sessions are restored. Members are
/// notified when they resume.
pub(in crate::server::hub) fn restore_operators(state: &mut State, now: Now, meter: &Meter) {
    for room in state.rooms.by_name() {
        if room == LOBBY || has_moderator(state, now, room, None) {
            continue;
        }
        let Some(heir) = heir(state, now, room, None) else { continue };
        state.moderation.promote(state.rooms[room].moderation, state.users[heir].id);
        let (room_name, name) = (state.rooms[room].name.clone(), state.users[heir].name.clone());
        let event =
            Event::Promoted { room: room_name.as_str(), by: SERVER_NAME, name: name.as_str() };
        let tags = Tags { time: Some(state.messages.last_time()), ..Tags::default() };
        let members: Vec<UserIx> =
            state.memberships.of_room(room).map(|member| member.user).collect();
        deferred::announce_on_return(state, meter, members, &tags, &event);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::Key;
    use crate::server::auth::passwords::{HashFile, Outcome};
    use crate::server::hub::test_support::{
        Driver, conn, connect, connect_from, handle, hub, register, restarted, say, session,
        tick_at,
    };
    use crate::server::hub::{Hub, Input, Limits};

    /// A hub where alice, a guest, has created #ops; carol, bob and dave have joined it in
    /// this order.
    fn hub_with_ops() -> Driver {
        let mut hub = hub(Limits::default());
        for (slot, name) in ["alice", "bob", "carol", "dave"].iter().enumerate() {
            let slot = u32::try_from(slot).expect("few");
            connect_from(&mut hub, slot, [192, 0, 2, 1]);
            say(&mut hub, slot, name);
        }
        for slot in [0, 2, 1, 3] {
            say(&mut hub, slot, "/join ops");
        }
        hub
    }

    fn operators(hub: &Hub) -> Vec<&str> {
        let state = &hub.state;
        let room = state.rooms.named(&Key::fold("ops")).expect("#ops");
        let operators = state.moderation_in(Scope::Room(room)).operators.iter();
        let here = operators.filter_map(|user_id| state.users.find(*user_id));
        here.map(|user| state.users[user].name.as_str()).collect()
    }

    #[test]
    fn longest_member_takes_over_when_last_operator_is_gone() {
        let mut hub = hub_with_ops();
        say(&mut hub, 0, "/quit");
        assert_eq!(operators(&hub), ["carol"]);
        hub.check_invariants();
        for (slot, left) in [(2, "bob"), (1, "dave")] {
            handle(&mut hub, slot, Input::Disconnected);
            assert_eq!(operators(&hub), [left]);
            hub.check_invariants();
        }
        let (_, reply) = say(&mut hub, 3, "/lock");
        assert!(reply.text.starts_with("[LOCKED #ops]"), "{}", reply.text);
    }

    #[test]
    fn muted_member_takes_over_only_if_there_is_no_other() {
        let mut hub = hub_with_ops();
        say(&mut hub, 0, "/mute carol");
        say(&mut hub, 0, "/quit");
        assert_eq!(operators(&hub), ["bob"]);
        say(&mut hub, 1, "/kick dave");
        say(&mut hub, 1, "/quit");
        assert_eq!(operators(&hub), ["carol"]);
    }

    #[test]
    fn operator_who_can_resume_is_not_replaced() {
        let mut hub = hub_with_ops();
        say(&mut hub, 0, "/part");
        assert_eq!(operators(&hub), ["alice"], "online");
        session(&mut hub, 0);
        handle(&mut hub, 0, Input::Disconnected);
        assert_eq!(operators(&hub), ["alice"], "dropped");
        hub = restarted(&mut hub);
        assert_eq!(hub.state.users.by_id().len(), 1, "only alice had a session");
        let mut hub = hub_with_ops();
        register(&mut hub, 0);
        say(&mut hub, 0, "/quit");
        assert!(operators(&hub).is_empty(), "an offline account");
        hub.check_invariants();
    }

    #[test]
    fn expired_session_hands_over() {
        let mut hub = hub_with_ops();
        session(&mut hub, 0);
        say(&mut hub, 0, "/part");
        handle(&mut hub, 0, Input::Disconnected);
        hub.forget_connection(conn(0));
        let reply = tick_at(&mut hub, Duration::from_mins(2), 1);
        assert!(reply.text.contains("#ops * server made carol an operator"), "{}", reply.text);
        assert_eq!(operators(&hub), ["carol"]);
    }

    #[test]
    fn operator_outside_the_room_is_restored() {
        let mut hub = hub_with_ops();
        session(&mut hub, 0);
        session(&mut hub, 1);
        say(&mut hub, 0, "/part");
        let hub = restarted(&mut hub);
        assert_eq!(operators(&hub), ["alice"]);
        hub.check_invariants();
    }

    #[test]
    fn room_without_operator_after_a_restart_gets_its_longest_member() {
        for is_restarted_again in [false, true] {
            let mut hub = hub_with_ops();
            let tokens: Vec<String> = (1..4).map(|slot| session(&mut hub, slot)).collect();
            say(&mut hub, 0, "/part");
            let mut hub = restarted(&mut hub);
            assert_eq!(operators(&hub), ["carol"]);
            if is_restarted_again {
                hub = restarted(&mut hub);
            }
            hub.check_invariants();
            connect(&mut hub, 1);
            say(&mut hub, 1, &format!("/resume {} 0", tokens[1]));
            let (_, reply) = handle(&mut hub, 1, Input::Drained);
            let news = "#ops * server made carol an operator\n";
            assert_eq!(reply.text, if is_restarted_again { "" } else { news });
            let (_, reply) = say(&mut hub, 1, "/mute bob");
            assert!(reply.text.starts_with("[MUTED #ops bob]"), "{}", reply.text);
        }
    }

    #[test]
    fn server_operator_counts_while_online() {
        let hash = HashFile::read("tests/passwords/quick.hash").expect("a hash");
        let mut hub = hub_with_ops();
        hub.limits.oper_password = Some(hash);
        connect(&mut hub, 4);
        for line in ["root", "/oper it is right"] {
            say(&mut hub, 4, line);
        }
        handle(&mut hub, 4, Input::Hashed(Outcome::Checked(true)));
        say(&mut hub, 0, "/quit");
        assert!(operators(&hub).is_empty());
        hub.check_invariants();
        let (_, reply) = handle(&mut hub, 4, Input::Disconnected);
        assert_eq!(reply.text, "");
        assert_eq!(operators(&hub), ["carol"]);
        hub.check_invariants();
    }

    #[test]
    fn ban_of_last_operator_hands_over() {
        let mut hub = hub_with_ops();
        say(&mut hub, 0, "/op bob");
        say(&mut hub, 1, "/ban alice");
        say(&mut hub, 1, "/quit");
        assert_eq!(operators(&hub), ["alice", "carol"]);
        hub.check_invariants();
    }

    #[test]
    fn right_of_deleted_account_ends_at_logout() {
        let mut hub = hub_with_ops();
        register(&mut hub, 0);
        say(&mut hub, 0, "/quit");
        let user_id = hub.state.accounts.named(&Key::fold("alice")).expect("an account").person;
        connect(&mut hub, 0);
        say(&mut hub, 0, "/login alice secret");
        let right = Outcome::Checked(true);
        handle(&mut hub, 0, Input::Hashed(right));
        assert!(hub.state.users.is_online(user_id));
        say(&mut hub, 0, "/unregister secret");
        let right = Outcome::Checked(true);
        handle(&mut hub, 0, Input::Hashed(right));
        say(&mut hub, 0, "/quit");
        assert_eq!(operators(&hub), ["carol"]);
        hub.check_invariants();
    }
}
