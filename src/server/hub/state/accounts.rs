//! Accounts: names reserved with a password. An account keeps its [`UserId`] across
//! logins, so authorship, ignores and mail last as long as the account.

use std::collections::HashMap;
use std::sync::Arc;

use super::dirty::Dirty;
use super::id_map::IdMap;
use crate::protocol::{Key, Name};
use crate::server::record::UserId;

/// An account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) person: UserId,
    pub(crate) name: Name,
    /// The password hash, as a PHC string.
    pub(crate) hash: Arc<str>,
}

/// Proof that the account's password was given. It names the hash that was compared, so
/// that a check of an old password does not log in after a password change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) person: UserId,
    /// The hash that the password was compared with.
    pub(crate) hash: Arc<str>,
}

/// All accounts, indexed by name, user id and skeleton.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_name: HashMap<Key, Account>,
    names: IdMap<UserId, Key>,
    /// The account for each of [`Name::skeletons`]; the first account with a skeleton
    /// has the entry.
    by_skeleton: HashMap<Box<str>, Key>,
    /// Accounts that were created, changed or deleted.
    pub(crate) dirty: Dirty<UserId>,
}

impl Accounts {
    pub(crate) fn named(&self, name: &Key) -> Option<&Account> {
        self.by_name.get(name)
    }

    pub(crate) fn of(&self, person: UserId) -> Option<&Account> {
        self.by_name.get(self.names.get(&person)?)
    }

    pub(crate) fn has(&self, person: UserId) -> bool {
        self.names.contains_key(&person)
    }

    /// The account whose name has this skeleton.
    pub(crate) fn confusable_with(&self, skeleton: &str) -> Option<&Account> {
        self.by_name.get(self.by_skeleton.get(skeleton)?)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn create(&mut self, account: Account) {
        self.dirty.mark(account.person);
        self.restore(account);
    }

    pub(crate) fn restore(&mut self, account: Account) {
        for skeleton in account.name.skeletons() {
            let key = || account.name.key().clone();
            self.by_skeleton.entry(skeleton.into()).or_insert_with(key);
        }
        self.names.insert(account.person, account.name.key().clone());
        self.by_name.insert(account.name.key().clone(), account);
    }

    /// Changes the password hash; returns the account.
    pub(crate) fn set_hash(&mut self, person: UserId, hash: Arc<str>) -> Option<&Account> {
        let account = self.by_name.get_mut(self.names.get(&person)?)?;
        account.hash = hash;
        self.dirty.mark(person);
        Some(account)
    }

    pub(super) fn remove(&mut self, person: UserId) -> Option<Account> {
        let account = self.by_name.remove(&self.names.remove(&person)?)?;
        for skeleton in account.name.skeletons() {
            if self.by_skeleton.get(&*skeleton) == Some(account.name.key()) {
                self.by_skeleton.remove(&*skeleton);
            }
        }
        self.dirty.mark(person);
        Some(account)
    }

    /// Checks the indexes.
    pub(super) fn check(&self, holder: impl Fn(&Key) -> Option<UserId>) {
        assert_eq!(self.names.len(), self.by_name.len(), "each account has one name");
        for account in self.by_name.values() {
            let (person, key) = (account.person, account.name.key());
            assert_eq!(self.names.get(&person), Some(key), "user ids map to accounts");
            let is_free = holder(key).is_none_or(|holder| holder == person);
            assert!(is_free, "only the owner uses the name");
        }
    }
}
