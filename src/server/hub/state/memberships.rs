//! Memberships: who is in which room, since when, and who was. One relation, which is read by
//! room and by user.

pub(crate) mod spans;

use std::collections::{BTreeMap, HashMap};

use super::dirty::Dirty;
use super::index::{RoomIx, UserIx};
use super::messages::Messages;
use crate::protocol::{Key, Name};
use crate::server::record::UserId;
use crate::server::store::MembershipSpan;
use spans::{Block, Spans};

/// A member of a room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) user: UserIx,
    /// The position in the global order of joins.
    pub(crate) arrival: u64,
}

/// The members of one room, sorted by folded name, the order of `/who`.
#[derive(Debug, Default)]
struct Members {
    by_name: BTreeMap<Key, Member>,
    /// See [`Memberships::version`].
    version: u64,
}

/// The rooms of one user, in the order in which they were joined.
#[derive(Debug, Default)]
struct OfUser {
    rooms: Vec<RoomIx>,
    spans: Spans,
}

/// The relation; see the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Memberships {
    /// Indexed by room.
    by_room: Vec<Members>,
    /// Indexed by user.
    by_user: Vec<OfUser>,
    /// Counts joins, so that the longest-standing member of a room is known.
    last_arrival: u64,
    /// Counts changes, so that every version is unique.
    last_version: u64,
    /// The owner of each block of spans.
    block_owners: HashMap<u64, (UserId, UserIx)>,
    /// The last number assigned to a block.
    last_block: u64,
    /// Users whose rooms changed.
    pub(crate) dirty: Dirty<UserIx>,
    /// Blocks that are new or deleted.
    pub(crate) dirty_blocks: Dirty<u64>,
}

impl Memberships {
    /// Adds a user without rooms, with the spans of an earlier time.
    pub(super) fn add_user(&mut self, user: UserIx, spans: Spans) {
        if self.by_user.len() <= user {
            self.by_user.resize_with(user + 1, OfUser::default);
        }
        self.by_user[user] = OfUser { rooms: Vec::with_capacity(1), spans };
    }

    /// Adds a room without members. Its version differs from that of any earlier room.
    pub(super) fn add_room(&mut self, room: RoomIx) {
        if self.by_room.len() <= room {
            self.by_room.resize_with(room + 1, Members::default);
        }
        self.touch(room);
    }

    /// Adds a member and opens a span. What is stored with the user changes, too; the room
    /// becomes the current one, which marks it.
    pub(super) fn join(
        &mut self,
        (user, id, name): (UserIx, UserId, &Name),
        (room, key): (RoomIx, &Key),
        messages: &Messages,
    ) {
        self.last_arrival += 1;
        self.insert(user, name, room, self.last_arrival);
        self.by_user[user].spans.open(key, messages);
        while let Some(block) = self.by_user[user].spans.take_block() {
            self.add_block(user, id, block);
        }
    }

    /// Adds a member whose span is open already.
    pub(crate) fn restore(&mut self, user: UserIx, name: &Name, room: RoomIx, arrival: u64) {
        self.last_arrival = self.last_arrival.max(arrival);
        self.insert(user, name, room, arrival);
    }

    fn insert(&mut self, user: UserIx, name: &Name, room: RoomIx, arrival: u64) {
        self.by_room[room].by_name.insert(name.key().clone(), Member { user, arrival });
        self.by_user[user].rooms.push(room);
        self.touch(room);
    }

    /// Removes a member and closes the span. Returns whether the room has no members now.
    pub(super) fn leave(
        &mut self,
        (user, name): (UserIx, &Name),
        (room, key): (RoomIx, &Key),
        messages: &Messages,
    ) -> bool {
        self.by_user[user].rooms.retain(|it| *it != room);
        self.by_user[user].spans.close(key, messages);
        self.dirty.mark(user);
        self.remove_member(name, room)
    }

    fn remove_member(&mut self, name: &Name, room: RoomIx) -> bool {
        self.by_room[room].by_name.remove(name.key());
        self.touch(room);
        self.by_room[room].by_name.is_empty()
    }

    /// Removes a user who logs out; returns the rooms that have no members now.
    pub(super) fn remove_user(&mut self, user: UserIx, name: &Name) -> Vec<RoomIx> {
        let OfUser { mut rooms, spans } = std::mem::take(&mut self.by_user[user]);
        for number in spans.numbers() {
            self.block_owners.remove(&number);
            self.dirty_blocks.mark(number);
        }
        rooms.retain(|room| self.remove_member(name, *room));
        rooms
    }

    /// Moves a member to a new name.
    pub(super) fn rename(&mut self, user: UserIx, old: &Name, new: &Name) {
        for room in &self.by_user[user].rooms {
            let members = &mut self.by_room[*room].by_name;
            if let Some(member) = members.remove(old.key()) {
                members.insert(new.key().clone(), member);
            }
        }
    }

    fn touch(&mut self, room: RoomIx) {
        self.last_version += 1;
        self.by_room[room].version = self.last_version;
    }

    /// Changes the version of all rooms of a user, who receives events differently now.
    pub(super) fn touch_rooms_of(&mut self, user: UserIx) {
        for at in 0..self.by_user[user].rooms.len() {
            self.touch(self.by_user[user].rooms[at]);
        }
    }

    /// A number that changes when members join, leave, or receive events differently. It is
    /// unique among all rooms, present and past.
    pub(crate) fn version(&self, room: RoomIx) -> u64 {
        self.by_room[room].version
    }

    /// The rooms of a user, in the order in which they were joined.
    pub(crate) fn rooms_of(&self, user: UserIx) -> &[RoomIx] {
        &self.by_user[user].rooms
    }

    pub(crate) fn is_member(&self, user: UserIx, room: RoomIx) -> bool {
        self.by_user[user].rooms.contains(&room)
    }

    pub(crate) fn count(&self, room: RoomIx) -> usize {
        self.by_room[room].by_name.len()
    }

    /// The members of a room, sorted by name.
    pub(crate) fn of_room(&self, room: RoomIx) -> impl Iterator<Item = &Member> {
        self.by_room[room].by_name.values()
    }

    /// Finds a member by name.
    pub(crate) fn named(&self, room: RoomIx, name: &Key) -> Option<&Member> {
        self.by_room[room].by_name.get(name)
    }

    /// The spans of a user.
    pub(crate) fn spans(&self, user: UserIx) -> &Spans {
        &self.by_user[user].spans
    }

    fn add_block(&mut self, user: UserIx, id: UserId, block: Block) {
        self.last_block += 1;
        self.attach_block(user, id, self.last_block, block);
        self.dirty_blocks.mark(self.last_block);
        if let Some(evicted) = self.by_user[user].spans.evict_block() {
            self.block_owners.remove(&evicted);
            self.dirty_blocks.mark(evicted);
        }
    }

    fn attach_block(&mut self, user: UserIx, id: UserId, number: u64, block: Block) {
        self.by_user[user].spans.add_block(number, block);
        self.block_owners.insert(number, (id, user));
    }

    /// Restores a stored block, or deletes it if its user is gone.
    pub(crate) fn restore_block(
        &mut self,
        number: u64,
        owner: Option<(UserIx, UserId)>,
        block: Block,
    ) {
        self.last_block = self.last_block.max(number);
        match owner {
            Some((user, id)) => self.attach_block(user, id, number, block),
            None => self.dirty_blocks.mark(number),
        }
    }

    /// Marks all blocks of a user for storage.
    pub(super) fn mark_blocks(&mut self, user: UserIx) {
        self.dirty_blocks.mark_all(self.by_user[user].spans.numbers());
    }

    /// The user whose spans a block contains.
    pub(crate) fn block_owner(&self, number: u64) -> Option<UserIx> {
        self.block_owners.get(&number).map(|(_, user)| *user)
    }

    /// The spans of a block and their user.
    pub(crate) fn block(&self, number: u64) -> Option<(UserId, &[MembershipSpan])> {
        let (id, user) = *self.block_owners.get(&number)?;
        self.by_user[user].spans.block(number).map(|block| (id, block))
    }

    /// Checks that both sides of the relation agree; `users` are those who are logged in.
    pub(super) fn check(&self, users: impl Iterator<Item = (UserIx, UserId, Key)>) {
        let mut entries = 0;
        let mut blocks = 0;
        for (user, id, key) in users {
            for room in self.rooms_of(user) {
                let member = self.named(*room, &key).map(|member| member.user);
                assert_eq!(member, Some(user), "rooms know their members");
            }
            entries += self.rooms_of(user).len();
            for number in self.by_user[user].spans.numbers() {
                assert_eq!(self.block_owners.get(&number), Some(&(id, user)), "blocks have owners");
                blocks += 1;
            }
        }
        let members: usize = self.by_room.iter().map(|members| members.by_name.len()).sum();
        assert_eq!(members, entries, "members know their rooms");
        assert_eq!(self.block_owners.len(), blocks, "no block of a user who is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::spans::BLOCKS_MAX;
    use super::*;
    use crate::protocol::RoomName;
    use crate::server::hub::Limits;
    use crate::server::hub::test_support::{name, room_name};

    const ALICE: UserIx = 0;
    const BOB: UserIx = 1;

    /// Alice and bob, and two rooms.
    struct World {
        memberships: Memberships,
        messages: Messages,
        users: [(UserIx, UserId, Name); 2],
        rooms: [RoomName; 2],
    }

    impl World {
        fn new() -> Self {
            let mut memberships = Memberships::default();
            (0..2).for_each(|room| memberships.add_room(room));
            memberships.add_user(ALICE, Spans::default());
            memberships.add_user(BOB, Spans::default());
            let users = [(ALICE, UserId(1), name("alice")), (BOB, UserId(2), name("bob"))];
            let messages = Messages::new(&Limits::default(), 0, &[]);
            Self { memberships, messages, users, rooms: ["ops", "red"].map(room_name) }
        }

        fn join(&mut self, user: UserIx, room: RoomIx) {
            let (user, id, name) = &self.users[user];
            let room = (room, self.rooms[room].key());
            self.memberships.join((*user, *id, name), room, &self.messages);
        }

        fn leave(&mut self, user: UserIx, room: RoomIx) -> bool {
            let (user, _, name) = &self.users[user];
            let room = (room, self.rooms[room].key());
            self.memberships.leave((*user, name), room, &self.messages)
        }

        fn members(&self, room: RoomIx) -> Vec<UserIx> {
            self.memberships.of_room(room).map(|member| member.user).collect()
        }

        fn check(&self) {
            let users = self.users.iter();
            self.memberships.check(users.map(|(ix, id, name)| (*ix, *id, name.key().clone())));
        }
    }

    #[test]
    fn rooms_and_users_agree() {
        let mut world = World::new();
        for (user, room) in [(BOB, 1), (ALICE, 1), (ALICE, 0)] {
            world.join(user, room);
        }
        world.check();
        assert_eq!(
            (world.members(1), world.memberships.rooms_of(ALICE)),
            (vec![0, 1], &[1, 0][..])
        );
        let arrival = |user| world.memberships.named(1, name(user).key()).map(|it| it.arrival);
        assert!(arrival("BOB") < arrival("alice"), "bob joined first");
        assert!(!world.leave(ALICE, 1));
        assert_eq!(world.memberships.dirty.take(), [ALICE]);
        assert!(world.leave(BOB, 1), "the last member");
        assert!(!world.memberships.is_member(BOB, 1) && world.memberships.count(1) == 0);
        world.check();
    }

    #[test]
    fn user_who_logs_out_leaves_all_rooms() {
        let mut world = World::new();
        for (user, room) in [(BOB, 1), (ALICE, 1), (ALICE, 0)] {
            world.join(user, room);
        }
        assert_eq!(world.memberships.remove_user(ALICE, &name("alice")), [0]);
        assert_eq!((world.members(0), world.members(1)), (vec![], vec![BOB]));
    }

    #[test]
    fn renamed_member_keeps_the_place_in_the_order_of_joins() {
        let mut world = World::new();
        world.join(ALICE, 0);
        world.join(BOB, 0);
        world.memberships.rename(ALICE, &name("alice"), &name("zoe"));
        assert_eq!(world.members(0), [BOB, ALICE], "sorted by name");
        assert_eq!(world.memberships.named(0, name("zoe").key()).map(|it| it.arrival), Some(1));
        assert!(world.memberships.named(0, name("alice").key()).is_none());
    }

    #[test]
    fn version_is_never_the_same_again() {
        let mut world = World::new();
        let mut versions = vec![world.memberships.version(0), world.memberships.version(1)];
        let changes: [fn(&mut World); 5] = [
            |world| world.join(ALICE, 0),
            |world| world.memberships.touch_rooms_of(ALICE),
            |world| assert!(world.leave(ALICE, 0)),
            |world| world.memberships.add_room(0),
            |world| world.memberships.restore(BOB, &name("bob"), 0, 9),
        ];
        for change in changes {
            change(&mut world);
            versions.push(world.memberships.version(0));
        }
        assert_eq!(world.memberships.version(1), versions[1], "no change in this room");
        let count = versions.len();
        versions.sort_unstable();
        versions.dedup();
        assert_eq!(versions.len(), count);
    }

    fn block(until: u64) -> Block {
        let room = room_name("ops").key().clone();
        Box::new([MembershipSpan { room, from: until - 1, until: Some(until) }])
    }

    #[test]
    fn blocks_belong_to_a_user_until_they_are_evicted_or_the_user_is_gone() {
        let mut world = World::new();
        let memberships = &mut world.memberships;
        memberships.restore_block(3, None, block(1));
        assert_eq!(memberships.dirty_blocks.take(), [3], "deleted from storage");
        for number in 10..10 + BLOCKS_MAX as u64 {
            memberships.restore_block(number, Some((ALICE, UserId(1))), block(number));
        }
        assert_eq!(memberships.block_owner(10), Some(ALICE));
        assert_eq!(memberships.dirty_blocks.take(), [0; 0], "what was restored is stored");
        let next = 10 + BLOCKS_MAX as u64;
        memberships.add_block(ALICE, UserId(1), block(next));
        assert_eq!(memberships.dirty_blocks.take(), [next, 10], "one more than the limit");
        assert_eq!(
            (memberships.block_owner(10), memberships.spans(ALICE).evicted_upto),
            (None, 10)
        );
        assert_eq!(
            memberships.block(next).map(|(id, spans)| (id, spans.len())),
            Some((UserId(1), 1))
        );
        memberships.mark_blocks(ALICE);
        assert_eq!(memberships.dirty_blocks.take().len(), BLOCKS_MAX);
        memberships.remove_user(ALICE, &name("alice"));
        assert_eq!(memberships.dirty_blocks.take().len(), BLOCKS_MAX);
        assert!(memberships.block(next).is_none() && memberships.block_owners.is_empty());
    }
}
