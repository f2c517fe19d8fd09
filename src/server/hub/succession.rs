//! A room with members always has somebody who can still moderate it: an operator of
//! its own, or an operator of the server who is here. When the last one is gone for good
//! or banned, the member who has been there longest takes over, announced as
//! `#ops * server made bob an operator`: nobody can be called so.

use super::moderation::Scope;
use super::{Event, Hub, Now, RoomIx, Tags, Topic, Turn, UserId, UserIx};

/// Who appoints the successor.
const SERVER: &str = "server";

impl Hub {
    /// Gives somebody the right to moderate a room.
    pub(super) fn make_operator(&mut self, room: RoomIx, person: UserId) {
        self.rooms[room].moderation.promote(person);
        if let Some(user) = self.users_by_id.get(&person).copied() {
            self.note_led(user, room);
            self.mark_session_unsaved(user);
        }
        self.mark_moderation_unsaved(Scope::Room(room));
    }

    /// Remembers with a visit that it moderates a room, so that its end costs no search
    /// through all rooms. Rooms that have ended are dropped from the list here.
    pub(super) fn note_led(&mut self, user: UserIx, room: RoomIx) {
        let person = self.users[user].id;
        let mut leads = std::mem::take(&mut self.users[user].relations.leads);
        leads.retain(|led| {
            *led != room
                && self.rooms.get(*led).is_some_and(|led| led.moderation.is_operator(person))
        });
        leads.push(room);
        self.users[user].relations.leads = leads;
    }

    /// Whether anybody but one person may moderate a room and could come into it.
    /// Without a time, bans that may be over count.
    pub(super) fn has_able_operator(
        &self,
        now: Option<Now>,
        room: RoomIx,
        except: Option<UserId>,
    ) -> bool {
        let order = &self.rooms[room].moderation;
        order.operators.iter().filter(|person| Some(**person) != except).any(|person| {
            let is_banned = self.server_moderation.bans_person(now, *person)
                || (order.bans_person(now, *person) && !self.is_server_operator(*person));
            self.can_return(*person) && !is_banned
        })
    }

    /// Whether anybody but one person may moderate a room: operators of the server, too,
    /// while they are here.
    pub(super) fn has_moderator(
        &self,
        now: Option<Now>,
        room: RoomIx,
        except: Option<UserId>,
    ) -> bool {
        let mut rulers = self.server_moderation.operators.iter();
        rulers.any(|ruler| self.users_by_id.contains_key(ruler))
            || self.has_able_operator(now, room, except)
    }

    /// [`Self::ensure_operator`] of every room.
    pub(super) fn ensure_operators(&mut self, now: Now, turn: &mut Turn) {
        for room in self.rooms.iter().map(|(room, _)| room).collect::<Vec<_>>() {
            self.ensure_operator(now, room, turn);
        }
    }

    /// Appoints a successor if nobody could moderate the room any more.
    pub(super) fn ensure_operator(&mut self, now: Now, room: RoomIx, turn: &mut Turn) {
        // Rooms may have ended meanwhile; #lobby has no operators of its own.
        if room == self.lobby || !self.rooms.contains(room) {
            return;
        }
        if !self.has_moderator(Some(now), room, None)
            && let Some(heir) = self.heir(Some(now), room, None)
        {
            self.hand_over(now, room, heir, turn);
        }
    }

    /// Makes a member the operator and tells the room; in a large one, which many may
    /// leave at once, only the member is told.
    pub(super) fn hand_over(&mut self, now: Now, room: RoomIx, heir: UserIx, turn: &mut Turn) {
        self.make_operator(room, self.users[heir].id);
        let (shown, name) = (self.rooms[room].name.clone(), self.users[heir].name.clone());
        let event = Event::Promoted { room: shown.as_str(), by: SERVER, name: name.as_str() };
        if self.is_quiet(room) {
            let tags = Tags { time: Some(self.stamp(now)), ..Tags::default() };
            self.send_to_user(heir, &tags, &event, turn);
        } else {
            self.announce(now, &[room], Topic::Talk, None, &event, turn);
        }
    }

    /// The member of a room who is to moderate it next: not a muted one if there is
    /// another, then whoever has been there longest.
    pub(super) fn heir(
        &self,
        now: Option<Now>,
        room: RoomIx,
        except: Option<UserId>,
    ) -> Option<UserIx> {
        let order = &self.rooms[room].moderation;
        let members = self.rooms[room].arrivals();
        let members = members.filter(|(_, user)| Some(self.users[*user].id) != except);
        let rank = |(arrival, user): &(u64, UserIx)| {
            let person = self.users[*user].id;
            // Older data knows no arrivals: then whoever logged in first.
            (order.mutes_person(now, person), *arrival, person)
        };
        members.min_by_key(rank).map(|(_, user)| user)
    }

    /// After a start, when all are back who can come back. Members are told when they
    /// resume.
    pub(super) fn restore_operators(&mut self) {
        let rooms: Vec<RoomIx> = self.rooms.iter().map(|(room, _)| room).collect();
        for room in rooms {
            if room == self.lobby || self.has_moderator(None, room, None) {
                continue;
            }
            let Some(heir) = self.heir(None, room, None) else { continue };
            self.make_operator(room, self.users[heir].id);
            let (shown, name) = (self.rooms[room].name.clone(), self.users[heir].name.clone());
            let event = Event::Promoted { room: shown.as_str(), by: SERVER, name: name.as_str() };
            let tags = Tags { time: Some(self.last_time), ..Tags::default() };
            let members: Vec<UserIx> = self.rooms[room].members().map(|(_, v)| v).collect();
            self.tell_on_return(members, &tags, &event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_support::{
        conn, connect, connect_from, handle, hub, register, restarted, say, session, tick_at,
    };
    use super::super::{Input, Limits};
    use super::*;
    use crate::protocol::Key;
    use crate::server::passwords::{HashFile, Outcome};

    /// Alice, a guest, makes #ops; bob and carol join it, carol first, then dave.
    fn house() -> Hub {
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
            room.moderation.operators.iter().filter_map(|person| hub.users_by_id.get(person));
        here.map(|user| hub.users[*user].name.as_str()).collect()
    }

    #[test]
    fn longest_member_takes_over_when_last_operator_is_gone() {
        let mut hub = house();
        say(&mut hub, 0, "/quit");
        assert_eq!(operators(&hub), ["carol"]);
        hub.check_invariants();
        for (slot, left) in [(2, "bob"), (1, "dave")] {
            handle(&mut hub, slot, Input::Disconnected);
            assert_eq!(operators(&hub), [left]);
            hub.check_invariants();
        }
        let (_, told) = say(&mut hub, 3, "/lock");
        assert!(told.text.starts_with("[LOCKED #ops]"), "{}", told.text);
    }

    #[test]
    fn muted_member_takes_over_only_if_there_is_no_other() {
        let mut hub = house();
        say(&mut hub, 0, "/mute carol");
        say(&mut hub, 0, "/quit");
        assert_eq!(operators(&hub), ["bob"]);
        say(&mut hub, 1, "/kick dave");
        say(&mut hub, 1, "/quit");
        assert_eq!(operators(&hub), ["carol"]);
    }

    #[test]
    fn operator_who_can_come_back_keeps_the_right_alone() {
        let mut hub = house();
        say(&mut hub, 0, "/part");
        assert_eq!(operators(&hub), ["alice"], "online");
        session(&mut hub, 0);
        handle(&mut hub, 0, Input::Disconnected);
        assert_eq!(operators(&hub), ["alice"], "dropped");
        hub = restarted(&hub);
        assert!(hub.users_by_id.len() == 1, "only alice had a session");
        let mut hub = house();
        register(&mut hub, 0);
        say(&mut hub, 0, "/quit");
        assert!(operators(&hub).is_empty(), "an account that is not here");
        hub.check_invariants();
    }

    #[test]
    fn session_that_ends_hands_over() {
        let mut hub = house();
        session(&mut hub, 0);
        say(&mut hub, 0, "/part");
        handle(&mut hub, 0, Input::Disconnected);
        hub.forget_connection(conn(0));
        let told = tick_at(&mut hub, Duration::from_mins(2), 1);
        assert!(told.text.contains("#ops * server made carol an operator"), "{}", told.text);
        assert_eq!(operators(&hub), ["carol"]);
    }

    #[test]
    fn operator_outside_the_room_is_one_after_a_restart() {
        let mut hub = house();
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
            let mut hub = house();
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
            let (_, told) = handle(&mut hub, 1, Input::Drained);
            let news = "#ops * server made carol an operator\n";
            assert_eq!(told.text, if is_restarted_again { "" } else { news });
            let (_, told) = say(&mut hub, 1, "/mute bob");
            assert!(told.text.starts_with("[MUTED #ops bob]"), "{}", told.text);
        }
    }

    #[test]
    fn operator_of_the_server_counts_while_being_here() {
        let hash = HashFile::read("tests/passwords/quick.hash").expect("a hash");
        let mut hub = house();
        hub.limits.oper_password = Some(hash);
        connect(&mut hub, 4);
        for line in ["root", "/oper it is right"] {
            say(&mut hub, 4, line);
        }
        handle(&mut hub, 4, Input::Hashed(Outcome::Checked(true)));
        say(&mut hub, 0, "/quit");
        assert!(operators(&hub).is_empty());
        hub.check_invariants();
        let (_, told) = handle(&mut hub, 4, Input::Disconnected);
        assert_eq!(told.text, "");
        assert_eq!(operators(&hub), ["carol"]);
        hub.check_invariants();
    }

    #[test]
    fn ban_of_last_operator_hands_over() {
        let mut hub = house();
        say(&mut hub, 0, "/op bob");
        say(&mut hub, 1, "/ban alice");
        say(&mut hub, 1, "/quit");
        assert_eq!(operators(&hub), ["alice", "carol"]);
        hub.check_invariants();
    }

    #[test]
    fn right_of_unregistered_account_ends_with_its_visit() {
        let mut hub = house();
        register(&mut hub, 0);
        say(&mut hub, 0, "/quit");
        let person = hub.accounts.named(&Key::fold("alice")).expect("kept").person;
        connect(&mut hub, 0);
        say(&mut hub, 0, "/login alice secret");
        let right = Outcome::Checked(true);
        handle(&mut hub, 0, Input::Hashed(right));
        assert!(hub.users_by_id.contains_key(&person));
        say(&mut hub, 0, "/unregister secret");
        let right = Outcome::Checked(true);
        handle(&mut hub, 0, Input::Hashed(right));
        say(&mut hub, 0, "/quit");
        assert_eq!(operators(&hub), ["carol"]);
        hub.check_invariants();
    }
}
