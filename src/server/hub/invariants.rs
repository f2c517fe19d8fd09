//! What must be so after every input, whatever it was.

use std::collections::{HashMap, HashSet};

use super::{Hub, Ignored, Key, Phase, QueryState, RoomName, User};

impl Hub {
    /// Panics if the tables disagree; tests call it after every input.
    ///
    /// # Panics
    /// On a broken invariant, which is a bug in the hub.
    pub fn check_invariants(&self) {
        assert_eq!(self.names.len(), self.users.len(), "each visit has one name");
        assert_eq!(self.users_by_id.len(), self.users.len(), "each visit is one person");
        let mut led_to = 0;
        for (ix, user) in &self.users {
            let looks =
                user.name.skeletons().filter(|look| self.confusables.find(look) == Some(ix));
            led_to += looks.collect::<HashSet<_>>().len();
        }
        assert_eq!(self.confusables.len(), led_to, "looks lead to who has them");
        for (ix, user) in &self.users {
            assert_eq!(self.names.get(user.name.key()), Some(&ix), "names lead to visits");
            assert_eq!(self.users_by_id.get(&user.id), Some(&ix), "people lead to visits");
            if let Some(conn) = user.conn {
                let stage = self.connection(conn).map(|c| c.phase);
                assert_eq!(stage, Some(Phase::LoggedIn(ix)), "both know of each other");
            } else {
                assert!(user.session.is_some(), "without a session nobody comes back");
            }
            let is_waited_for = self.dropped.contains(user.id);
            assert_eq!(is_waited_for, user.conn.is_none(), "who dropped is waited for");
            let mine = user.session.as_ref().map(|session| self.sessions.get(&session.hash));
            assert!(mine.is_none_or(|mine| mine == Some(&user.id)), "tokens lead to people");
            assert!(user.current.is_none_or(|room| user.rooms.contains(&room)));
            for room in &user.rooms {
                assert_eq!(self.rooms[*room].member(user.name.key()), Some(ix));
            }
            for Ignored { person, gone } in &user.relations.ignores {
                let other = self.users_by_id.get(person).map(|other| &self.users[*other]);
                assert_eq!(gone.is_none(), other.is_some(), "who is here has no last name yet");
                let knows = |other: &User| other.relations.ignored_by.contains(&user.id);
                assert!(other.is_none_or(knows), "both know of an ignore");
            }
            if let QueryState::On(other) = user.query {
                let other = &self.users[self.users_by_id[&other]];
                assert!(other.relations.queried_by.contains(&user.id), "both know of a query");
            }
        }
        let blocks = self
            .users
            .iter()
            .flat_map(|(_, user)| user.memberships.numbers().map(|number| (number, user.id)));
        let blocks: HashMap<_, _> = blocks.collect();
        assert_eq!(self.block_owners, blocks, "blocks lead to whose they are");
        self.check_accounts();
        let is_awake = |key: &Key| self.room_names.contains_key(key);
        assert!(!self.dormant_rooms.keys().any(is_awake), "a room is awake or asleep");
        assert_eq!(self.room_names.len(), self.rooms.len(), "each room has one name");
        let kept =
            self.rooms.iter().filter_map(|(_, room)| room.moderation.number.zip(Some(&room.name)));
        let kept: Vec<_> = kept.map(|(number, room)| (number, room.key())).collect();
        let asleep =
            self.dormant_rooms.iter().filter_map(|(key, order)| order.number.zip(Some(key)));
        for (number, key) in asleep.chain(kept.iter().copied()) {
            let name = self.moderated_rooms.get(&number).map(RoomName::key);
            assert_eq!(name, Some(key), "numbers lead to rooms");
        }
        let numbered = self.dormant_rooms.values().filter(|order| order.number.is_some()).count();
        assert_eq!(self.moderated_rooms.len(), kept.len() + numbered, "and to none that has ended");
        for (ix, room) in &self.rooms {
            assert_eq!(self.room_names.get(room.name.key()), Some(&ix), "names lead to rooms");
            assert!(ix == self.lobby || room.len() > 0, "no empty room is kept");
            let mut operators = room.moderation.operators.iter();
            let has_moderator = operators.any(|person| self.can_return(*person))
                || self
                    .server_moderation
                    .operators
                    .iter()
                    .any(|it| self.users_by_id.contains_key(it));
            assert!(ix == self.lobby || has_moderator, "no room is left without a moderator");
            for (_, user) in room.members() {
                assert!(self.users[user].rooms.contains(&ix), "members know their rooms");
            }
        }
    }
}
