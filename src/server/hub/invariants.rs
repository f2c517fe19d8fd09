//! The invariants that hold after every input.

use std::collections::{HashMap, HashSet};

use super::{Hub, Ignored, Key, Phase, QueryState, RoomName, User};

impl Hub {
    /// Checks that the tables of the hub are consistent. Tests call it after every input.
    ///
    /// # Panics
    /// An invariant is broken, which is a bug in the hub.
    pub fn check_invariants(&self) {
        assert_eq!(self.names.len(), self.users.len(), "each user has one name");
        assert_eq!(self.users_by_id.len(), self.users.len(), "each user has one id");
        let mut skeletons = 0;
        for (ix, user) in &self.users {
            let indexed = user
                .name
                .skeletons()
                .filter(|skeleton| self.confusables.find(skeleton) == Some(ix));
            skeletons += indexed.collect::<HashSet<_>>().len();
        }
        assert_eq!(self.confusables.len(), skeletons, "skeletons map to users with them");
        for (ix, user) in &self.users {
            assert_eq!(self.names.get(user.name.key()), Some(&ix), "names map to users");
            assert_eq!(self.users_by_id.get(&user.id), Some(&ix), "user ids map to users");
            if let Some(conn) = user.conn {
                let phase = self.connection(conn).map(|c| c.phase);
                assert_eq!(phase, Some(Phase::LoggedIn(ix)), "connections map to users");
            } else {
                assert!(user.session.is_some(), "a user without a connection has a session");
            }
            let is_dropped = self.dropped.contains(user.id);
            assert_eq!(is_dropped, user.conn.is_none(), "a dropped session has a deadline");
            let mine = user.session.as_ref().map(|session| self.sessions.get(&session.hash));
            assert!(mine.is_none_or(|mine| mine == Some(&user.id)), "tokens map to user ids");
            assert!(user.current.is_none_or(|room| user.rooms.contains(&room)));
            for room in &user.rooms {
                assert_eq!(self.rooms[*room].member(user.name.key()), Some(ix));
            }
            for Ignored { person, gone } in &user.relations.ignores {
                let other = self.users_by_id.get(person).map(|other| &self.users[*other]);
                assert_eq!(
                    gone.is_none(),
                    other.is_some(),
                    "only ignored users who logged out have a last name"
                );
                let records_it = |other: &User| other.relations.ignored_by.contains(&user.id);
                assert!(other.is_none_or(records_it), "both ends record an ignore");
            }
            if let QueryState::On(other) = user.query {
                let other = &self.users[self.users_by_id[&other]];
                assert!(other.relations.queried_by.contains(&user.id), "both ends record a query");
            }
        }
        let blocks = self
            .users
            .iter()
            .flat_map(|(_, user)| user.memberships.numbers().map(|number| (number, user.id)));
        let blocks: HashMap<_, _> = blocks.collect();
        assert_eq!(self.block_owners, blocks, "blocks map to their owners");
        self.check_accounts();
        let is_active = |key: &Key| self.room_names.contains_key(key);
        assert!(!self.dormant_rooms.keys().any(is_active), "a room is active or dormant");
        assert_eq!(self.room_names.len(), self.rooms.len(), "each room has one name");
        let active =
            self.rooms.iter().filter_map(|(_, room)| room.moderation.number.zip(Some(&room.name)));
        let active: Vec<_> = active.map(|(number, room)| (number, room.key())).collect();
        let dormant = self
            .dormant_rooms
            .iter()
            .filter_map(|(key, moderation)| moderation.number.zip(Some(key)));
        let dormant: Vec<_> = dormant.collect();
        for (number, key) in dormant.iter().chain(&active) {
            let name = self.moderated_rooms.get(number).map(RoomName::key);
            assert_eq!(name, Some(*key), "moderation ids map to rooms");
        }
        let count = active.len() + dormant.len();
        assert_eq!(self.moderated_rooms.len(), count, "no moderation id of an ended room");
        for (ix, room) in &self.rooms {
            assert_eq!(self.room_names.get(room.name.key()), Some(&ix), "names map to rooms");
            assert!(ix == self.lobby || room.len() > 0, "a room other than #lobby has members");
            let mut operators = room.moderation.operators.iter();
            let has_moderator = operators.any(|person| self.can_return(*person))
                || self
                    .server_moderation
                    .operators
                    .iter()
                    .any(|it| self.users_by_id.contains_key(it));
            assert!(ix == self.lobby || has_moderator, "a room other than #lobby has a moderator");
            for (_, user) in room.members() {
                assert!(self.users[user].rooms.contains(&ix), "members record their rooms");
            }
        }
    }
}
