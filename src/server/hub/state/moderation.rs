//! Moderation of rooms and of the server: operators, mutes, bans, the lock. It is kept apart from
//! the room: a room without members after a restart is *dormant*, and its moderation applies
//! again to the first user who joins. While the server runs, moderation ends with its room.
//!
//! Rights belong to a [`UserId`] and remain while the user is not in the room.

pub(crate) mod bans;
pub(crate) mod expiry;
pub(crate) mod lock;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::ops::Index;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::dirty::Dirty;
use super::index::{ModerationIx, RoomIx, SERVER};
use crate::protocol::reply::moderation::unban_command;
use crate::protocol::{Key, Name, RoomName};
use crate::server::clock::Now;
use crate::server::record::UserId;
use bans::{Ban, Banned};
use expiry::Expiry;
use lock::Lock;

/// The number under which the moderation of the server is stored; rooms have higher ones.
pub(crate) const SERVER_NUMBER: u64 = 0;

/// Where a moderation command applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Room(RoomIx),
    Server,
}

impl Scope {
    /// The command that lifts a ban.
    pub(crate) fn unban(self) -> &'static str {
        unban_command(self == Self::Server)
    }

    /// The command that lists the bans.
    pub(crate) fn bans(self) -> &'static str {
        if self == Self::Server { "/gbans" } else { "/bans" }
    }
}

/// A muted user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mute {
    pub(crate) person: UserId,
    /// The name at the time of the mute.
    pub(crate) name: Name,
    pub(crate) until: Expiry,
}

/// The moderation of one room or of the server. A stored form: fields may be added, but not
/// renamed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Moderation {
    /// `None` for the server.
    #[serde(skip)]
    pub(crate) room: Option<RoomName>,
    /// The key in the storage.
    #[serde(skip)]
    number: u64,
    /// Whether it has been stored, so that its end must be stored too.
    #[serde(skip)]
    pub(crate) is_stored: bool,
    pub(crate) operators: Vec<UserId>,
    mutes: Vec<Mute>,
    pub(crate) bans: Vec<Ban>,
    pub(crate) lock: Lock,
}

impl Moderation {
    pub(crate) fn is_operator(&self, person: UserId) -> bool {
        self.operators.contains(&person)
    }

    /// The mute of a user, unless it has expired.
    pub(crate) fn mute_of(&self, now: Now, person: UserId) -> Option<&Mute> {
        self.mutes.iter().find(|mute| mute.person == person && !mute.until.is_over(now))
    }

    /// Whether anything is left to apply when no member can return. Operators count if they
    /// have an account, or for the server.
    pub(crate) fn outlives_members(&self, has_account: impl Fn(UserId) -> bool) -> bool {
        let is_operated = match self.room {
            Some(_) => self.operators.iter().any(|person| has_account(*person)),
            None => !self.operators.is_empty(),
        };
        let has_rest = !self.mutes.is_empty() || !self.bans.is_empty() || !self.lock.is_default();
        is_operated || has_rest
    }
}

/// Removes the entries that a new entry replaces and adds it, if it fits within `most` entries.
/// Otherwise returns `false` and leaves the list unchanged.
fn replace<T>(list: &mut Vec<T>, most: usize, entry: T, is_same: impl Fn(&T, &T) -> bool) -> bool {
    let fits = list.iter().filter(|other| !is_same(other, &entry)).count() < most;
    if fits {
        list.retain(|other| !is_same(other, &entry));
        list.push(entry);
    }
    fits
}

/// The moderation of the server, of all rooms, and of dormant rooms.
#[derive(Debug)]
pub(crate) struct ModerationTable {
    all: Slab<Moderation>,
    by_number: HashMap<u64, ModerationIx>,
    /// Moderation of rooms without members, and their topics.
    dormant: HashMap<Key, (ModerationIx, Option<Box<str>>)>,
    /// Where each user is an operator.
    operated: BTreeSet<(UserId, ModerationIx)>,
    last_number: u64,
    pub(crate) dirty: Dirty<ModerationIx>,
    /// Numbers of stored moderation that has ended.
    pub(crate) dirty_ended: Dirty<u64>,
    /// Users who became or ceased to be operators.
    pub(crate) dirty_operators: Dirty<UserId>,
}

impl Index<ModerationIx> for ModerationTable {
    type Output = Moderation;

    fn index(&self, ix: ModerationIx) -> &Moderation {
        &self.all[ix]
    }
}

impl ModerationTable {
    /// A table with the server's moderation only; numbers continue after `last_number`.
    pub(crate) fn new(last_number: u64) -> Self {
        let mut all = Slab::new();
        let server = all.insert(Moderation { number: SERVER_NUMBER, ..Moderation::default() });
        debug_assert_eq!(server, SERVER);
        Self {
            all,
            by_number: HashMap::from([(SERVER_NUMBER, server)]),
            dormant: HashMap::new(),
            operated: BTreeSet::new(),
            last_number,
            dirty: Dirty::default(),
            dirty_ended: Dirty::default(),
            dirty_operators: Dirty::default(),
        }
    }

    /// Adds moderation without entries for a room.
    pub(super) fn create(&mut self, room: &RoomName) -> ModerationIx {
        self.last_number += 1;
        let number = self.last_number;
        let moderation = Moderation { room: Some(room.clone()), number, ..Moderation::default() };
        let ix = self.all.insert(moderation);
        self.by_number.insert(number, ix);
        ix
    }

    /// Restores stored moderation; that of a room is dormant. `None` is the server's.
    pub(crate) fn restore(
        &mut self,
        number: u64,
        room: Option<RoomName>,
        saved: Moderation,
        topic: Option<Box<str>>,
    ) {
        let ix = match &room {
            None => SERVER,
            Some(_) => self.all.insert(Moderation::default()),
        };
        if let Some(room) = &room {
            self.by_number.insert(number, ix);
            self.dormant.insert(room.key().clone(), (ix, topic));
        }
        self.operated.extend(saved.operators.iter().map(|operator| (*operator, ix)));
        self.all[ix] = Moderation { room, number, is_stored: true, ..saved };
    }

    /// Deletes the moderation of a room that has ended.
    pub(crate) fn remove(&mut self, ix: ModerationIx) {
        for operator in std::mem::take(&mut self.all[ix].operators) {
            self.operated.remove(&(operator, ix));
            self.dirty_operators.mark(operator);
        }
        let Moderation { number, is_stored, .. } = self.all.remove(ix);
        self.by_number.remove(&number);
        if is_stored {
            self.dirty_ended.mark(number);
        }
    }

    /// Makes the moderation of a room without members dormant.
    pub(super) fn deactivate(&mut self, ix: ModerationIx, topic: Option<Box<str>>) {
        if let Some(room) = &self.all[ix].room {
            self.dormant.insert(room.key().clone(), (ix, topic));
        }
    }

    /// Ends the dormancy of a room; returns its moderation and its topic.
    pub(super) fn activate(&mut self, room: &Key) -> Option<(ModerationIx, Option<Box<str>>)> {
        self.dormant.remove(room)
    }

    /// Whether there is moderation for a room that does not exist.
    pub(crate) fn of_dormant(&self, room: &Key) -> Option<&Moderation> {
        self.dormant.get(room).map(|(ix, _)| &self.all[*ix])
    }

    pub(crate) fn is_dormant(&self, room: &Key) -> bool {
        self.dormant.contains_key(room)
    }

    /// The topic of a dormant room.
    pub(crate) fn dormant_topic(&self, room: &Key) -> Option<&str> {
        self.dormant.get(room)?.1.as_deref()
    }

    /// Ends the dormancy of all rooms; returns their moderation and their topics.
    pub(super) fn activate_all(
        &mut self,
    ) -> impl Iterator<Item = (ModerationIx, Option<Box<str>>)> + use<> {
        std::mem::take(&mut self.dormant).into_values()
    }

    /// Ends dormant rooms if there are more than `most`, an eighth of them at once: first those
    /// that no account operates and no server operator has locked, then those of the accounts
    /// that operate the most; the oldest first.
    pub(super) fn end_surplus_dormant(
        &mut self,
        most: usize,
        has_account: impl Fn(UserId) -> bool,
    ) {
        if self.dormant.len() <= most {
            return;
        }
        let mut newest: Vec<ModerationIx> = self.dormant.values().map(|(ix, _)| *ix).collect();
        newest.sort_unstable_by_key(|ix| Reverse(self.all[*ix].number));
        let mut newer: HashMap<UserId, usize> = HashMap::new();
        // The number of the room among those that the same account operates, from the newest.
        let mut rank = |ix: ModerationIx| {
            let Moderation { operators, lock, .. } = &self.all[ix];
            if lock.is_by_server {
                return 0;
            }
            let accounts = operators.iter().filter(|person| has_account(**person));
            let counts = accounts.map(|person| {
                let count = newer.entry(*person).or_default();
                *count += 1;
                *count
            });
            counts.min().unwrap_or(usize::MAX)
        };
        let mut ranked: Vec<_> = newest.into_iter().map(|ix| (rank(ix), ix)).collect();
        ranked.sort_by_key(|(rank, _)| *rank); // stable
        for (_, ix) in ranked.into_iter().skip(most - most / 8) {
            if let Some(room) = &self.all[ix].room {
                self.dormant.remove(room.key());
            }
            self.remove(ix);
        }
    }

    pub(crate) fn index_of(&self, number: u64) -> Option<ModerationIx> {
        self.by_number.get(&number).copied()
    }

    pub(crate) fn server(&self) -> &Moderation {
        &self.all[SERVER]
    }

    /// Where a user is an operator.
    pub(crate) fn operated_by(&self, person: UserId) -> impl Iterator<Item = ModerationIx> {
        self.operated.range((person, 0)..=(person, usize::MAX)).map(|(_, ix)| *ix)
    }

    pub(super) fn mark(&mut self, ix: ModerationIx) {
        self.dirty.mark(ix);
    }

    /// Notes that the entry is going to be stored; returns its number.
    pub(crate) fn note_stored(&mut self, ix: ModerationIx) -> u64 {
        self.all[ix].is_stored = true;
        self.all[ix].number
    }

    pub(crate) fn get(&self, ix: ModerationIx) -> Option<&Moderation> {
        self.all.get(ix)
    }

    fn change(&mut self, ix: ModerationIx) -> &mut Moderation {
        self.dirty.mark(ix);
        &mut self.all[ix]
    }

    fn mark_if(&mut self, ix: ModerationIx, is_changed: bool) -> bool {
        if is_changed {
            self.dirty.mark(ix);
        }
        is_changed
    }

    /// Makes a user an operator, if they are not.
    pub(crate) fn promote(&mut self, ix: ModerationIx, person: UserId) {
        let moderation = self.change(ix);
        if !moderation.operators.contains(&person) {
            moderation.operators.push(person);
        }
        self.operated.insert((person, ix));
        self.dirty_operators.mark(person);
    }

    pub(crate) fn demote(&mut self, ix: ModerationIx, person: UserId) {
        self.change(ix).operators.retain(|operator| *operator != person);
        self.operated.remove(&(person, ix));
        self.dirty_operators.mark(person);
    }

    /// Mutes a user, replacing an earlier mute; `false` if there are `most` mutes already.
    pub(crate) fn mute(&mut self, ix: ModerationIx, mute: Mute, most: usize) -> bool {
        let is_same = |one: &Mute, other: &Mute| one.person == other.person;
        let fits = replace(&mut self.all[ix].mutes, most, mute, is_same);
        self.mark_if(ix, fits)
    }

    /// Ends the mute of a user, also by the name at the time of the mute; returns that name.
    pub(crate) fn unmute(
        &mut self,
        ix: ModerationIx,
        person: Option<UserId>,
        name: &Key,
    ) -> Option<Name> {
        let is_target = |mute: &mut Mute| Some(mute.person) == person || mute.name.key() == name;
        let mute = self.all[ix].mutes.extract_if(.., is_target).last();
        self.mark_if(ix, mute.is_some());
        mute.map(|mute| mute.name)
    }

    /// Adds a ban, replacing one of the same target; `false` if there are `most` bans already.
    pub(crate) fn ban(&mut self, ix: ModerationIx, ban: Ban, most: usize) -> bool {
        let is_same = |one: &Ban, other: &Ban| one.whom.is_same(&other.whom);
        let fits = replace(&mut self.all[ix].bans, most, ban, is_same);
        self.mark_if(ix, fits)
    }

    /// Removes the bans of a target and returns the last one.
    pub(crate) fn unban(
        &mut self,
        ix: ModerationIx,
        is_target: impl Fn(&Banned) -> bool,
    ) -> Option<Ban> {
        let is_target = |ban: &mut Ban| is_target(&ban.whom);
        let ban = self.all[ix].bans.extract_if(.., is_target).last();
        self.mark_if(ix, ban.is_some());
        ban
    }

    /// Locks a room, or changes the key; `key` is a digest.
    pub(crate) fn lock(&mut self, ix: ModerationIx, key: Option<&str>, is_by_server: bool) {
        let lock = &mut self.change(ix).lock;
        (lock.is_on, lock.is_by_server, lock.key) = (true, is_by_server, key.map(Into::into));
    }

    /// Removes the lock and all invitations; returns whether the room was locked.
    pub(crate) fn unlock(&mut self, ix: ModerationIx) -> bool {
        std::mem::take(&mut self.change(ix).lock).is_on
    }

    /// Invites a user; `false` if there are `most` invitations already.
    pub(crate) fn invite(&mut self, ix: ModerationIx, person: UserId, most: usize) -> bool {
        let invited = &mut self.all[ix].lock.invited;
        let fits = replace(invited, most, person, |one, other| one == other);
        self.mark_if(ix, fits)
    }

    /// Removes the invitation of a user who has joined.
    pub(crate) fn use_invitation(&mut self, ix: ModerationIx, person: UserId) {
        if self.all[ix].lock.invited.contains(&person) {
            self.change(ix).lock.invited.retain(|invited| *invited != person);
        }
    }

    /// Deletes expired entries and entries of users who cannot log in again, so that they do
    /// not count towards the limits. The storage may keep them.
    pub(super) fn drop_expired(
        &mut self,
        ix: ModerationIx,
        now: Now,
        can_return: impl Fn(UserId) -> bool,
    ) {
        let moderation = &mut self.all[ix];
        moderation.mutes.retain(|mute| !mute.until.is_over(now));
        moderation.bans.retain(|ban| !ban.until.is_over(now) && ban.whom.can_match(&can_return));
        self.drop_absent(ix, can_return);
    }

    fn drop_absent(&mut self, ix: ModerationIx, can_return: impl Fn(UserId) -> bool) {
        let moderation = &mut self.all[ix];
        moderation.mutes.retain(|mute| can_return(mute.person));
        moderation.lock.invited.retain(|person| can_return(*person));
        for person in moderation.operators.extract_if(.., |person| !can_return(*person)) {
            self.operated.remove(&(person, ix));
        }
    }

    /// Removes users who cannot log in again; a lock that no one can open then ends.
    pub(crate) fn drop_departed(
        &mut self,
        ix: ModerationIx,
        can_return: impl Fn(UserId) -> bool,
        has_oper_password: bool,
    ) {
        self.drop_absent(ix, can_return);
        // The operator password gives access to locks that a server operator has set.
        let moderation = &self.all[ix];
        let can_be_unlocked = !moderation.operators.is_empty()
            || !self.server().operators.is_empty()
            || (moderation.lock.is_by_server && has_oper_password);
        if !can_be_unlocked && !moderation.lock.is_default() {
            self.change(ix).lock = Lock::default();
        }
    }

    /// Moves the expiry of bans and mutes after the wall clock was set, so that they keep
    /// their duration.
    pub(super) fn follow_clock(&mut self, now: Now) {
        for (ix, moderation) in &mut self.all {
            let mutes = moderation.mutes.iter_mut().map(|mute| &mut mute.until);
            let untils = mutes.chain(moderation.bans.iter_mut().map(|ban| &mut ban.until));
            if untils.fold(false, |changed, until| until.follow_clock(now) | changed) {
                self.dirty.mark(ix);
            }
        }
    }

    /// Checks the indexes. `is_live` says whether a room exists.
    pub(super) fn check(&self, is_live: impl Fn(&Key) -> bool) {
        assert_eq!(self.by_number.len(), self.all.len(), "each moderation has a number");
        for (ix, moderation) in &self.all {
            assert_eq!(self.by_number.get(&moderation.number), Some(&ix), "numbers map to it");
            for operator in &moderation.operators {
                assert!(self.operated.contains(&(*operator, ix)), "operators know it");
            }
            if let Some(room) = &moderation.room {
                let is_dormant = self.dormant.get(room.key()).is_some_and(|(of, _)| *of == ix);
                assert_ne!(is_dormant, is_live(room.key()), "a room is live or dormant");
            }
        }
        let operators: usize = self.all.iter().map(|(_, it)| it.operators.len()).sum();
        assert_eq!(self.operated.len(), operators, "no rights that have ended");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::Stamp;
    use crate::server::hub::test_support::{name, now, room_name};
    use crate::server::net::peer::Network;

    const ALICE: UserId = UserId(1);
    const BOB: UserId = UserId(2);
    const NOW: Now = Now { since_start: Duration::ZERO, wall: Stamp(0) };

    /// A table with #ops, where alice is an operator.
    fn table() -> (ModerationTable, ModerationIx) {
        let mut table = ModerationTable::new(4);
        let ops = table.create(&room_name("ops"));
        table.promote(ops, ALICE);
        table.dirty.take();
        table.dirty_operators.take();
        (table, ops)
    }

    fn mute(person: UserId, text: &str, minutes: Option<u64>) -> Mute {
        let until = Expiry::after(NOW, minutes.map(Duration::from_mins));
        Mute { person, name: name(text), until }
    }

    fn network_ban(last: u8, minutes: Option<u64>) -> Ban {
        let whom = Banned::Network(Network::parse(&format!("192.0.2.{last}")).expect("a network"));
        let until = Expiry::after(NOW, minutes.map(Duration::from_mins));
        Ban { whom, by: name("alice"), until, reason: None }
    }

    fn operated(table: &ModerationTable, person: UserId) -> Vec<ModerationIx> {
        table.operated_by(person).collect()
    }

    #[test]
    fn full_list_keeps_the_entry_that_would_be_replaced() {
        let is_same = |one: &u32, other: &u32| one % 10 == other % 10;
        let mut list = vec![1, 2, 3];
        assert!(!replace(&mut list, 3, 4, is_same) && !replace(&mut list, 2, 13, is_same));
        assert_eq!(list, [1, 2, 3]);
        assert!(replace(&mut list, 3, 11, is_same));
        assert_eq!(list, [2, 3, 11]);
    }

    #[test]
    fn new_entry_replaces_that_of_the_same_target() {
        let (mut table, ops) = table();
        assert!(table.mute(ops, mute(BOB, "bob", None), 1));
        assert!(table.mute(ops, mute(BOB, "rob", Some(1)), 1));
        assert!(!table.mute(ops, mute(ALICE, "alice", None), 1));
        assert_eq!(table[ops].mutes.len(), 1);
        assert!(table.ban(ops, network_ban(1, None), 1) && table.ban(ops, network_ban(1, None), 1));
        assert!(!table.ban(ops, network_ban(2, None), 1));
        assert!(table.invite(ops, BOB, 1) && table.invite(ops, BOB, 1));
        assert!(!table.invite(ops, ALICE, 1));
        assert_eq!((table[ops].bans.len(), table[ops].lock.invited.len()), (1, 1));
    }

    #[test]
    fn only_changes_are_marked() {
        let (mut table, ops) = table();
        assert!(table.unmute(ops, Some(BOB), name("bob").key()).is_none());
        assert!(table.unban(ops, |_| true).is_none());
        assert!(!table.mute(ops, mute(BOB, "bob", None), 0));
        table.use_invitation(ops, BOB);
        table.drop_departed(ops, |_| true, false);
        assert_eq!(table.dirty.take(), [0; 0]);
        table.invite(ops, BOB, 1);
        table.lock(ops, Some("digest"), false);
        assert_eq!(table.dirty.take(), [ops]);
        table.use_invitation(ops, BOB);
        assert_eq!((table.dirty.take(), table[ops].lock.is_on), (vec![ops], true));
    }

    #[test]
    fn mute_ends_by_user_or_by_the_name_at_that_time() {
        let (mut table, ops) = table();
        for (person, key) in [(Some(BOB), "rob"), (None, "BOB"), (Some(ALICE), "bob")] {
            table.mute(ops, mute(BOB, "bob", None), 9);
            let ended = table.unmute(ops, person, name(key).key());
            assert_eq!(ended.as_ref().map(Name::as_str), Some("bob"));
            assert!(table[ops].mute_of(NOW, BOB).is_none());
        }
    }

    #[test]
    fn rights_are_found_by_user_until_they_end() {
        let (mut table, ops) = table();
        let red = table.create(&room_name("red"));
        for person in [BOB, ALICE, ALICE] {
            table.promote(red, person);
        }
        assert_eq!((operated(&table, ALICE), operated(&table, BOB)), (vec![ops, red], vec![red]));
        table.demote(red, ALICE);
        table.drop_expired(ops, NOW, |person| person != ALICE);
        assert!(operated(&table, ALICE).is_empty());
        table.dirty_operators.take();
        table.remove(red);
        assert_eq!((operated(&table, BOB), table.dirty_operators.take()), (vec![], vec![BOB]));
        // Another room at the same index.
        assert_eq!(table.create(&room_name("blue")), red);
        assert!(!table[red].is_operator(BOB));
        table.check(|_| true);
    }

    #[test]
    fn end_of_stored_moderation_is_marked_by_its_number() {
        let (mut table, ops) = table();
        let red = table.create(&room_name("red"));
        let number = table.note_stored(ops);
        assert_eq!((number, table.index_of(number)), (5, Some(ops)));
        table.remove(red);
        table.remove(ops);
        assert_eq!((table.dirty_ended.take(), table.index_of(number)), (vec![number], None));
        let next = table.create(&room_name("ops"));
        assert_eq!(table.note_stored(next), 7, "numbers are not reused");
    }

    #[test]
    fn dormant_moderation_returns_with_its_topic() {
        let (mut table, ops) = table();
        let key = room_name("OPS").key().clone();
        table.deactivate(ops, Some("tea".into()));
        assert_eq!((table.is_dormant(&key), table.dormant_topic(&key)), (true, Some("tea")));
        table.check(|_| false);
        assert_eq!(table.activate(&key), Some((ops, Some("tea".into()))));
        assert!(!table.is_dormant(&key) && table.activate(&key).is_none());
        let saved = Moderation { operators: vec![BOB], ..Moderation::default() };
        table.restore(9, Some(room_name("red")), saved, None);
        let (red, topic) = table.activate_all().next().expect("restored moderation is dormant");
        assert_eq!((operated(&table, BOB), topic), (vec![red], None));
        assert_eq!((table.index_of(9), table.dirty.take()), (Some(red), vec![]));
    }

    #[test]
    fn entries_of_users_who_cannot_return_are_dropped() {
        let (mut table, ops) = table();
        table.promote(ops, BOB);
        for person in [ALICE, BOB] {
            table.mute(ops, mute(person, "guest", Some(1)), 9);
            table.invite(ops, person, 9);
        }
        table.ban(ops, network_ban(1, Some(1)), 9);
        table.drop_departed(ops, |person| person == ALICE, false);
        let Moderation { operators, mutes, bans, lock, .. } = &table[ops];
        assert_eq!((&operators[..], &lock.invited[..]), (&[ALICE][..], &[ALICE][..]));
        assert_eq!((mutes.len(), mutes[0].person, bans.len()), (1, ALICE, 1));
        table.drop_expired(ops, now(Duration::from_mins(1)), |_| true);
        assert_eq!((table[ops].mutes.len(), table[ops].bans.len()), (0, 0));
        table.check(|_| true);
    }

    #[test]
    fn lock_that_no_one_can_open_ends() {
        for (room_operator, server_operator, is_by_server, has_password, is_kept) in [
            (true, false, false, false, true),
            (false, true, false, false, true),
            (false, false, true, true, true),
            (false, false, true, false, false),
            (false, false, false, true, false),
        ] {
            let (mut table, ops) = table();
            table.lock(ops, None, is_by_server);
            if server_operator {
                table.promote(SERVER, BOB);
            }
            table.dirty.take();
            table.drop_departed(ops, |_| room_operator, has_password);
            assert_eq!(table[ops].lock.is_on, is_kept);
            assert_eq!(table.dirty.take().is_empty(), is_kept);
        }
    }

    #[test]
    fn time_limits_follow_a_clock_that_is_set_back() {
        let (mut table, ops) = table();
        let wall = Stamp(1_000_000);
        let after = |time| Expiry::after(Now { wall, ..NOW }, time);
        let red = table.create(&room_name("red"));
        for (room, person, until) in [
            (ops, ALICE, after(Some(Duration::from_mins(1)))),
            (red, ALICE, after(None)),
            // Restored: only the wall clock time is known.
            (red, BOB, Some(Stamp(1_060_000)).into()),
        ] {
            table.mute(room, Mute { until, ..mute(person, "guest", None) }, 9);
        }
        table.dirty.take();
        table.follow_clock(Now { since_start: Duration::from_secs(20), wall: Stamp(0) });
        let ends = |ix: ModerationIx| -> Vec<Option<i64>> {
            let untils = table[ix].mutes.iter().map(|mute| Option::<Stamp>::from(mute.until));
            untils.map(|until| until.map(|until| until.0)).collect()
        };
        assert_eq!((ends(ops), ends(red)), (vec![Some(40_000)], vec![None, Some(1_060_000)]));
        assert_eq!(table.dirty.take(), [ops]);
    }
}
