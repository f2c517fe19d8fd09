//! Succession: a room with members always has a user who can moderate it, an operator of
//! its own or a server operator who is online. When the last one has logged out or is
//! banned, the member who joined first is promoted, announced as `#ops * server made bob an
//! operator`; `server` is a reserved name.

use super::moderation::Scope;
use super::{Event, Hub, Now, RoomIx, Tags, Topic, Turn, UserId, UserIx};

/// The name that announcements of promotions give as their author; reserved.
const SERVER: &str = "server";

impl Hub {
    /// Makes a user an operator of a room.
    pub(super) fn make_operator(&mut self, room: RoomIx, user_id: UserId) {
        self.rooms[room].moderation.promote(user_id);
        if let Some(user) = self.users_by_id.get(&user_id).copied() {
            self.record_led_room(user, room);
            self.mark_session_unsaved(user);
        }
        self.mark_moderation_unsaved(Scope::Room(room));
    }

    /// Records with a user that they moderate a room, so that their logout needs no search
    /// through all rooms. Ended rooms are removed from the list here.
    pub(super) fn record_led_room(&mut self, user: UserIx, room: RoomIx) {
        let user_id = self.users[user].id;
        let mut leads = std::mem::take(&mut self.users[user].relations.leads);
        leads.retain(|led| {
            *led != room
                && self.rooms.get(*led).is_some_and(|led| led.moderation.is_operator(user_id))
        });
        leads.push(room);
        self.users[user].relations.leads = leads;
    }

    /// Returns whether an operator other than `except` could moderate the room and is not
    /// banned. Without `now`, expired bans count as well.
    pub(super) fn has_able_operator(
        &self,
        now: Option<Now>,
        room: RoomIx,
        except: Option<UserId>,
    ) -> bool {
        let moderation = &self.rooms[room].moderation;
        moderation.operators.iter().filter(|user_id| Some(**user_id) != except).any(|user_id| {
            let is_banned = self.server_moderation.bans_person(now, *user_id)
                || (moderation.bans_person(now, *user_id) && !self.is_server_operator(*user_id));
            self.can_return(*user_id) && !is_banned
        })
    }

    /// Returns whether a user other than `except` may moderate a room; includes server
    /// operators who are online.
    pub(super) fn has_moderator(
        &self,
        now: Option<Now>,
        room: RoomIx,
        except: Option<UserId>,
    ) -> bool {
        let mut server_operators = self.server_moderation.operators.iter();
        server_operators.any(|operator| self.users_by_id.contains_key(operator))
            || self.has_able_operator(now, room, except)
    }

    /// Calls [`Self::ensure_operator`] for every room.
    pub(super) fn ensure_operators(&mut self, now: Now, turn: &mut Turn) {
        for room in self.rooms.iter().map(|(room, _)| room).collect::<Vec<_>>() {
            self.ensure_operator(now, room, turn);
        }
    }

    /// Promotes a successor if no user can moderate the room.
    pub(super) fn ensure_operator(&mut self, now: Now, room: RoomIx, turn: &mut Turn) {
        // The room may have ended meanwhile; #lobby has no operators of its own.
        if room == self.lobby || !self.rooms.contains(room) {
            return;
        }
        if !self.has_moderator(Some(now), room, None)
            && let Some(heir) = self.heir(Some(now), room, None)
        {
            self.hand_over(now, room, heir, turn);
        }
    }

    /// Promotes a member and announces it; in a large room, which many may leave at once,
    /// only that member is notified.
    pub(super) fn hand_over(&mut self, now: Now, room: RoomIx, heir: UserIx, turn: &mut Turn) {
        self.make_operator(room, self.users[heir].id);
        let (room_name, name) = (self.rooms[room].name.clone(), self.users[heir].name.clone());
        let event = Event::Promoted { room: room_name.as_str(), by: SERVER, name: name.as_str() };
        if self.is_quiet(room) {
            let tags = Tags { time: Some(self.stamp(now)), ..Tags::default() };
            self.send_to_user(heir, &tags, &event, turn);
        } else {
            self.announce(now, &[room], Topic::Talk, None, &event, turn);
        }
    }

    /// Returns the next operator of a room: the member who joined first, muted members
    /// last.
    pub(super) fn heir(
        &self,
        now: Option<Now>,
        room: RoomIx,
        except: Option<UserId>,
    ) -> Option<UserIx> {
        let moderation = &self.rooms[room].moderation;
        let members = self.rooms[room].arrivals();
        let members = members.filter(|(_, user)| Some(self.users[*user].id) != except);
        let rank = |(arrival, user): &(u64, UserIx)| {
            let user_id = self.users[*user].id;
            // Older data has no join order; the first login counts then.
            (moderation.mutes_person(now, user_id), *arrival, user_id)
        };
        members.min_by_key(rank).map(|(_, user)| user)
    }

    /// Promotes successors at startup, after all sessions are restored. Members are
    /// notified when they resume.
    pub(super) fn restore_operators(&mut self) {
        let rooms: Vec<RoomIx> = self.rooms.iter().map(|(room, _)| room).collect();
        for room in rooms {
            if room == self.lobby || self.has_moderator(None, room, None) {
                continue;
            }
            let Some(heir) = self.heir(None, room, None) else { continue };
            self.make_operator(room, self.users[heir].id);
            let (room_name, name) = (self.rooms[room].name.clone(), self.users[heir].name.clone());
            let event =
                Event::Promoted { room: room_name.as_str(), by: SERVER, name: name.as_str() };
            let tags = Tags { time: Some(self.last_time), ..Tags::default() };
            let members: Vec<UserIx> = self.rooms[room].members().map(|(_, v)| v).collect();
            self.announce_on_return(members, &tags, &event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_support::{
        Driver, conn, connect, connect_from, handle, hub, register, restarted, say, session,
        tick_at,
    };
    use super::super::{Input, Limits};
    use super::*;
    use crate::protocol::Key;
    use crate::server::auth::passwords::{HashFile, Outcome};

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
        let (_, room) = hub.rooms.iter().nth(1).expect("#ops");
        let here =
            room.moderation.operators.iter().filter_map(|user_id| hub.users_by_id.get(user_id));
        here.map(|user| hub.users[*user].name.as_str()).collect()
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
        hub = restarted(&hub);
        assert!(hub.users_by_id.len() == 1, "only alice had a session");
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
        let hub = restarted(&hub);
        assert_eq!(operators(&hub), ["alice"]);
        hub.check_invariants();
    }

    #[test]
    fn room_without_operator_after_a_restart_gets_its_longest_member() {
        for is_restarted_again in [false, true] {
            let mut hub = hub_with_ops();
            let tokens: Vec<String> = (1..4).map(|slot| session(&mut hub, slot)).collect();
            say(&mut hub, 0, "/part");
            let mut hub = restarted(&hub);
            assert_eq!(operators(&hub), ["carol"]);
            if is_restarted_again {
                hub = restarted(&hub);
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
        let user_id = hub.accounts.named(&Key::fold("alice")).expect("an account").person;
        connect(&mut hub, 0);
        say(&mut hub, 0, "/login alice secret");
        let right = Outcome::Checked(true);
        handle(&mut hub, 0, Input::Hashed(right));
        assert!(hub.users_by_id.contains_key(&user_id));
        say(&mut hub, 0, "/unregister secret");
        let right = Outcome::Checked(true);
        handle(&mut hub, 0, Input::Hashed(right));
        say(&mut hub, 0, "/quit");
        assert_eq!(operators(&hub), ["carol"]);
        hub.check_invariants();
    }
}
