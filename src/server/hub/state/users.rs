//! Users from login to logout, including the time in which a dropped session waits. A name
//! belongs to one user at a time, and so do the skeletons of names that look like it.

use std::collections::HashMap;
use std::ops::Index;
use std::time::Duration;

use slab::Slab;

use super::confusables::ConfusableIndex;
use super::dirty::Dirty;
use super::index::{ConnectionIx, UserIx};
use crate::protocol::{Key, Name, Stamp};
use crate::server::clock::Now;
use crate::server::id_map::IdMap;
use crate::server::record::UserId;

/// A user.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    pub(crate) name: Name,
    /// The user's connection, which may have lost its socket. One for now.
    pub(crate) connection: ConnectionIx,
    /// The time of the login.
    pub(crate) since: Stamp,
    /// The id of the last message before the login.
    pub(crate) first: u64,
    /// The text of `/away`, while the user is away.
    pub(crate) away: Option<Box<str>>,
    /// The sender of the last private message, for `/reply`. Not stored.
    pub(crate) reply_target: Option<UserId>,
    /// For the idle time of `/whois`. Not stored.
    pub(super) last_active: Duration,
}

impl User {
    /// The time since the user's last line.
    pub(crate) fn idle(&self, now: Now) -> Duration {
        now.since_start.saturating_sub(self.last_active)
    }

    /// The user's connections.
    pub(crate) fn connections(&self) -> impl Iterator<Item = ConnectionIx> {
        std::iter::once(self.connection)
    }
}

/// All users.
#[derive(Debug, Default)]
pub(crate) struct Users {
    all: Slab<User>,
    by_name: HashMap<Key, UserIx>,
    by_id: IdMap<UserId, UserIx>,
    confusables: ConfusableIndex<UserIx>,
    /// The last id assigned, also to accounts.
    last_id: u64,
    /// Users whose stored row changed or who logged out.
    pub(crate) dirty: Dirty<UserId>,
}

impl Index<UserIx> for Users {
    type Output = User;

    fn index(&self, user: UserIx) -> &User {
        &self.all[user]
    }
}

impl Users {
    /// A table without users; ids continue after `last_id`.
    pub(super) fn new(last_id: u64) -> Self {
        Self { last_id, ..Self::default() }
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The id that the next guest gets.
    pub(crate) fn next_id(&self) -> UserId {
        UserId(self.last_id + 1)
    }

    /// Adds a user whose name is free.
    pub(super) fn add(&mut self, user: User) -> UserIx {
        let (id, name) = (user.id, user.name.clone());
        self.last_id = self.last_id.max(id.0);
        let ix = self.all.insert(user);
        self.by_id.insert(id, ix);
        self.take_name(ix, &name);
        self.dirty.mark(id);
        ix
    }

    /// Removes a user who logs out.
    pub(super) fn remove(&mut self, ix: UserIx) -> User {
        let user = self.all.remove(ix);
        self.by_id.remove(&user.id);
        self.release_name(ix, &user.name);
        self.dirty.mark(user.id);
        user
    }

    /// Renames a user; returns the old name.
    pub(super) fn rename(&mut self, ix: UserIx, name: &Name) -> Name {
        let old = std::mem::replace(&mut self.all[ix].name, name.clone());
        self.release_name(ix, &old);
        self.take_name(ix, name);
        self.dirty.mark(self.all[ix].id);
        old
    }

    fn take_name(&mut self, ix: UserIx, name: &Name) {
        self.by_name.insert(name.key().clone(), ix);
        self.confusables.add(name, ix);
    }

    fn release_name(&mut self, ix: UserIx, name: &Name) {
        self.by_name.remove(name.key());
        self.confusables.remove(name, ix);
    }

    pub(crate) fn set_away(&mut self, ix: UserIx, text: Option<&str>) {
        self.all[ix].away = text.map(Into::into);
        self.dirty.mark(self.all[ix].id);
    }

    pub(crate) fn set_reply_target(&mut self, ix: UserIx, target: UserId) {
        self.all[ix].reply_target = Some(target);
    }

    /// Resets the idle time.
    pub(crate) fn mark_active(&mut self, ix: UserIx, now: Duration) {
        self.all[ix].last_active = now;
    }

    /// Finds the user with a name in any spelling.
    pub(crate) fn named(&self, name: &str) -> Option<UserIx> {
        Key::find(&self.by_name, name).copied()
    }

    /// Finds the user with a name by its key.
    pub(crate) fn holder(&self, name: &Key) -> Option<UserIx> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, ix: UserIx) -> Option<&User> {
        self.all.get(ix)
    }

    pub(crate) fn find(&self, id: UserId) -> Option<UserIx> {
        self.by_id.get(&id).copied()
    }

    /// The name of an online user.
    pub(crate) fn name_of(&self, id: UserId) -> Option<&Name> {
        self.find(id).map(|ix| &self.all[ix].name)
    }

    pub(crate) fn is_online(&self, id: UserId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Finds the user whose name has this skeleton.
    pub(crate) fn confusable_with(&self, skeleton: &str) -> Option<UserIx> {
        self.confusables.find(skeleton)
    }

    /// All users, in the order of their ids, so that the order of effects does not depend on
    /// where a user is in memory.
    pub(crate) fn by_id(&self) -> Vec<UserIx> {
        let mut all: Vec<UserIx> = self.all.iter().map(|(ix, _)| ix).collect();
        all.sort_unstable_by_key(|ix| self.all[*ix].id);
        all
    }

    /// Checks the indexes.
    pub(super) fn check(&self) {
        assert_eq!(self.by_name.len(), self.all.len(), "each user has one name");
        assert_eq!(self.by_id.len(), self.all.len(), "each user has one id");
        let mut skeletons = 0;
        for (ix, user) in &self.all {
            assert_eq!(self.holder(user.name.key()), Some(ix), "names map to users");
            assert_eq!(self.find(user.id), Some(ix), "ids map to users");
            let mine = user.name.skeletons().filter(|it| self.confusable_with(it) == Some(ix));
            skeletons += mine.collect::<std::collections::HashSet<_>>().len();
        }
        assert_eq!(self.confusables.len(), skeletons, "skeletons map to users with them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::hub::test_support::name;

    fn user(id: u64, text: &str) -> User {
        User {
            id: UserId(id),
            name: name(text),
            connection: 0,
            since: Stamp(0),
            first: 0,
            away: None,
            reply_target: None,
            last_active: Duration::ZERO,
        }
    }

    /// The user whose name is confusable with this one.
    fn confusable_with(users: &Users, text: &str) -> Option<UserIx> {
        name(text).skeletons().find_map(|skeleton| users.confusable_with(&skeleton))
    }

    #[test]
    fn name_and_its_skeletons_follow_a_rename() {
        let mut users = Users::default();
        let alice = users.add(user(1, "Alice"));
        for spelling in ["Alice", "alice", "ALICE"] {
            assert_eq!(users.named(spelling), Some(alice));
        }
        assert_eq!(confusable_with(&users, "a1ice"), Some(alice));
        assert_eq!(users.rename(alice, &name("bob")).as_str(), "Alice");
        users.check();
        assert_eq!((users.named("alice"), confusable_with(&users, "a1ice")), (None, None));
        assert_eq!((users.named("bob"), users.find(UserId(1))), (Some(alice), Some(alice)));
        // Another spelling of the same name.
        users.rename(alice, &name("BOB"));
        users.check();
        assert_eq!(users[alice].name.as_str(), "BOB");
        assert_eq!(users.remove(alice).id, UserId(1));
        users.check();
        assert_eq!((users.named("bob"), users.is_online(UserId(1))), (None, false));
    }

    #[test]
    fn first_user_keeps_a_shared_skeleton() {
        let mut users = Users::default();
        let alice = users.add(user(1, "alice"));
        let other = users.add(user(2, "a1ice"));
        assert_eq!(confusable_with(&users, "alice"), Some(alice));
        users.remove(other);
        assert_eq!(confusable_with(&users, "alice"), Some(alice));
        users.check();
    }

    #[test]
    fn index_is_reused_and_id_is_not() {
        let mut users = Users::new(6);
        assert_eq!(users.next_id(), UserId(7));
        let first = users.add(user(7, "alice"));
        // An account has an older id.
        let account = users.add(user(3, "bob"));
        assert_eq!((users.last_id(), users.next_id()), (7, UserId(8)));
        users.remove(first);
        assert_eq!(users.next_id(), UserId(8));
        assert_eq!(users.add(user(8, "carol")), first);
        assert_eq!(users.by_id(), [account, first]);
        assert_eq!(users.dirty.take(), [7, 3, 7, 8].map(UserId));
    }
}
