//! Rooms: names, topics, and which moderation applies. A room exists while it has members;
//! `#lobby` always exists.

use std::collections::HashMap;
use std::ops::Index;

use slab::Slab;

use super::index::{ModerationIx, RoomIx};
use crate::protocol::{Key, RoomName};
use crate::server::limits::quota::{Bounds, Exhausted, Quota};
use crate::server::net::peer::Peer;

/// A room with members, or `#lobby`.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: RoomName,
    /// Distinguishes it from all rooms before and after it.
    pub(crate) number: u64,
    /// Any member may set it.
    pub(crate) topic: Option<Box<str>>,
    pub(crate) moderation: ModerationIx,
    /// Whether a connected user has been a member since the server started.
    pub(crate) was_visited: bool,
    /// For whose network it counts: that of the creator, or after a restart of the first member
    /// who was restored.
    creator: Option<Peer>,
}

/// All rooms.
#[derive(Debug)]
pub(crate) struct Rooms {
    all: Slab<Room>,
    by_name: HashMap<Key, RoomIx>,
    /// The rooms that networks have created.
    created: Quota,
    last_number: u64,
    /// Changes when a room is created or ends.
    version: u64,
}

impl Index<RoomIx> for Rooms {
    type Output = Room;

    fn index(&self, room: RoomIx) -> &Room {
        &self.all[room]
    }
}

impl Rooms {
    /// A table without rooms.
    pub(super) fn new(bounds: Bounds) -> Self {
        let (all, by_name, created) = (Slab::new(), HashMap::new(), Quota::new(bounds));
        Self { all, by_name, created, last_number: 0, version: 0 }
    }

    pub(super) fn create(
        &mut self,
        name: &RoomName,
        moderation: ModerationIx,
        topic: Option<Box<str>>,
        creator: Option<Peer>,
    ) -> RoomIx {
        self.last_number += 1;
        creator.inspect(|peer| self.created.force(*peer));
        let (name, number, was_visited) = (name.clone(), self.last_number, false);
        let room = Room { name, number, topic, moderation, was_visited, creator };
        let key = room.name.key().clone();
        let ix = self.all.insert(room);
        self.by_name.insert(key, ix);
        self.version += 1;
        ix
    }

    pub(super) fn remove(&mut self, ix: RoomIx) -> Room {
        let room = self.all.remove(ix);
        self.by_name.remove(room.name.key());
        room.creator.inspect(|peer| self.created.release(*peer));
        self.version += 1;
        room
    }

    pub(super) fn set_topic(&mut self, ix: RoomIx, topic: Option<Box<str>>) {
        self.all[ix].topic = topic;
    }

    /// Notes that a connected user is a member; returns whether that is new.
    pub(super) fn visit(&mut self, ix: RoomIx) -> bool {
        !std::mem::replace(&mut self.all[ix].was_visited, true)
    }

    /// Checks whether a peer may create another room.
    pub(crate) fn check_quota(&self, creator: Peer) -> Result<(), Exhausted> {
        self.created.check(creator)
    }

    pub(crate) fn named(&self, name: &Key) -> Option<RoomIx> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, ix: RoomIx) -> Option<&Room> {
        self.all.get(ix)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RoomIx, &Room)> {
        self.all.iter()
    }

    /// All rooms in the order of their names, so that the order of effects does not depend on
    /// where a room is in memory.
    pub(crate) fn by_name(&self) -> Vec<RoomIx> {
        let mut all: Vec<RoomIx> = self.all.iter().map(|(ix, _)| ix).collect();
        all.sort_unstable_by(|a, b| self.all[*a].name.key().cmp(self.all[*b].name.key()));
        all
    }

    /// A number that changes when a room is created or ends.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Checks the indexes.
    pub(super) fn check(&self) {
        assert_eq!(self.by_name.len(), self.all.len(), "each room has one name");
        let created = self.all.iter().filter(|(_, room)| room.creator.is_some()).count();
        assert_eq!(self.created.total(), created, "rooms of networks are counted");
        for (ix, room) in &self.all {
            assert_eq!(self.named(room.name.key()), Some(ix), "names map to rooms");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::hub::test_support::room_name;

    fn rooms() -> Rooms {
        Rooms::new(Bounds { per_address: 1, wider: 1, total: 9 })
    }

    #[test]
    fn room_at_a_reused_index_has_its_own_number_and_version() {
        let (mut rooms, peer) = (rooms(), Peer::new([192, 0, 2, 1].into()));
        let ops = rooms.create(&room_name("ops"), 5, Some("tea".into()), Some(peer));
        let (number, version) = (rooms[ops].number, rooms.version());
        assert!(rooms.visit(ops) && !rooms.visit(ops), "only the first visit is new");
        assert!(rooms.check_quota(peer).is_err(), "the creator has a room");
        let ended = rooms.remove(ops);
        assert!(rooms.check_quota(peer).is_ok());
        assert_eq!((ended.moderation, ended.topic.as_deref()), (5, Some("tea")));
        assert_eq!((rooms.named(room_name("OPS").key()), rooms.len()), (None, 0));
        assert_ne!(rooms.version(), version);
        assert_eq!(rooms.create(&room_name("OPS"), 6, None, None), ops);
        assert_eq!(rooms.named(room_name("ops").key()), Some(ops));
        assert!(rooms[ops].number > number && !rooms[ops].was_visited);
        rooms.check();
    }

    #[test]
    fn rooms_are_sorted_by_name() {
        let mut rooms = rooms();
        let [red, art, blue] =
            ["red", "art", "Blue"].map(|it| rooms.create(&room_name(it), 0, None, None));
        assert_eq!(rooms.by_name(), [art, blue, red]);
    }
}
