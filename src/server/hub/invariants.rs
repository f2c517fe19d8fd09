//! What must be so after every input, whatever it was.

use std::collections::{HashMap, HashSet};

use super::{Hub, Ignored, Key, Query, RoomName, Stage, Visit};

impl Hub {
    /// Panics if the tables disagree; tests call it after every input.
    ///
    /// # Panics
    /// On a broken invariant, which is a bug in the hub.
    pub fn check_invariants(&self) {
        assert_eq!(self.names.len(), self.visits.len(), "each visit has one name");
        assert_eq!(self.people.len(), self.visits.len(), "each visit is one person");
        let mut led_to = 0;
        for (ix, visit) in &self.visits {
            let looks = visit.name.looks().filter(|look| self.looks.find(look) == Some(ix));
            led_to += looks.collect::<HashSet<_>>().len();
        }
        assert_eq!(self.looks.len(), led_to, "looks lead to who has them");
        for (ix, visit) in &self.visits {
            assert_eq!(self.names.get(visit.name.key()), Some(&ix), "names lead to visits");
            assert_eq!(self.people.get(&visit.person), Some(&ix), "people lead to visits");
            if let Some(conn) = visit.conn {
                let stage = self.connection(conn).map(|c| c.stage);
                assert_eq!(stage, Some(Stage::Present(ix)), "both know of each other");
            } else {
                assert!(visit.session.is_some(), "without a session nobody comes back");
            }
            let is_waited_for = self.dropped.contains(visit.person);
            assert_eq!(is_waited_for, visit.conn.is_none(), "who dropped is waited for");
            let mine = visit.session.as_ref().map(|session| self.sessions.get(&session.hash));
            assert!(mine.is_none_or(|mine| mine == Some(&visit.person)), "tokens lead to people");
            assert!(visit.current.is_none_or(|room| visit.rooms.contains(&room)));
            for room in &visit.rooms {
                assert_eq!(self.rooms[*room].member(visit.name.key()), Some(ix));
            }
            for Ignored { person, gone } in &visit.ties.ignores {
                let other = self.people.get(person).map(|other| &self.visits[*other]);
                assert_eq!(gone.is_none(), other.is_some(), "who is here has no last name yet");
                let knows = |other: &Visit| other.ties.ignored_by.contains(&visit.person);
                assert!(other.is_none_or(knows), "both know of an ignore");
            }
            if let Query::On(other) = visit.query {
                let other = &self.visits[self.people[&other]];
                assert!(other.ties.queried_by.contains(&visit.person), "both know of a query");
            }
        }
        let blocks = self.visits.iter().flat_map(|(_, visit)| {
            visit.memberships.numbers().map(|number| (number, visit.person))
        });
        let blocks: HashMap<_, _> = blocks.collect();
        assert_eq!(self.block_owners, blocks, "blocks lead to whose they are");
        self.check_accounts();
        let is_awake = |key: &Key| self.room_names.contains_key(key);
        assert!(!self.asleep.keys().any(is_awake), "a room is awake or asleep");
        assert_eq!(self.room_names.len(), self.rooms.len(), "each room has one name");
        let kept =
            self.rooms.iter().filter_map(|(_, room)| room.order.number.zip(Some(&room.name)));
        let kept: Vec<_> = kept.map(|(number, room)| (number, room.key())).collect();
        let asleep = self.asleep.iter().filter_map(|(key, order)| order.number.zip(Some(key)));
        for (number, key) in asleep.chain(kept.iter().copied()) {
            let name = self.orders.get(&number).map(RoomName::key);
            assert_eq!(name, Some(key), "numbers lead to rooms");
        }
        let numbered = self.asleep.values().filter(|order| order.number.is_some()).count();
        assert_eq!(self.orders.len(), kept.len() + numbered, "and to none that has ended");
        for (ix, room) in &self.rooms {
            assert_eq!(self.room_names.get(room.name.key()), Some(&ix), "names lead to rooms");
            assert!(ix == self.lobby || room.len() > 0, "no empty room is kept");
            let mut operators = room.order.operators.iter();
            let has_moderator = operators.any(|person| self.lasts(*person))
                || self.server_order.operators.iter().any(|it| self.people.contains_key(it));
            assert!(ix == self.lobby || has_moderator, "no room is left without a moderator");
            for (_, visit) in room.members() {
                assert!(self.visits[visit].rooms.contains(&ix), "members know their rooms");
            }
        }
    }
}
