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
        for room in &self.by_user[user].rooms {
            self.last_version += 1;
            self.by_room[*room].version = self.last_version;
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
