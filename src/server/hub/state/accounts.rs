//! Accounts: names reserved with a password. An account keeps its [`UserId`] across
//! logins, so authorship, ignores and mail last as long as the account.

use std::collections::HashMap;
use std::sync::Arc;

use super::confusables::ConfusableIndex;
use super::dirty::Dirty;
use crate::protocol::{Key, Name};
use crate::server::id_map::IdMap;
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

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_id: IdMap<UserId, Account>,
    by_name: HashMap<Key, UserId>,
    confusables: ConfusableIndex<UserId>,
    /// Accounts that were created, changed or deleted.
    pub(crate) dirty: Dirty<UserId>,
}

impl Accounts {
    pub(crate) fn named(&self, name: &Key) -> Option<&Account> {
        self.of(*self.by_name.get(name)?)
    }

    pub(crate) fn of(&self, person: UserId) -> Option<&Account> {
        self.by_id.get(&person)
    }

    pub(crate) fn has(&self, person: UserId) -> bool {
        self.by_id.contains_key(&person)
    }

    /// The account whose name has this skeleton.
    pub(crate) fn confusable_with(&self, skeleton: &str) -> Option<&Account> {
        self.of(self.confusables.find(skeleton)?)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn create(&mut self, account: Account) {
        self.dirty.mark(account.person);
        self.restore(account);
    }

    pub(crate) fn restore(&mut self, account: Account) {
        self.confusables.add(&account.name, account.person);
        self.by_name.insert(account.name.key().clone(), account.person);
        self.by_id.insert(account.person, account);
    }

    /// Changes the password hash; returns the account.
    pub(crate) fn set_hash(&mut self, person: UserId, hash: Arc<str>) -> Option<&Account> {
        let account = self.by_id.get_mut(&person)?;
        account.hash = hash;
        self.dirty.mark(person);
        Some(account)
    }

    pub(super) fn remove(&mut self, person: UserId) -> Option<Account> {
        let account = self.by_id.remove(&person)?;
        self.by_name.remove(account.name.key());
        self.confusables.remove(&account.name, person);
        self.dirty.mark(person);
        Some(account)
    }

    /// Checks the indexes.
    pub(super) fn check(&self, holder: impl Fn(&Key) -> Option<UserId>) {
        assert_eq!(self.by_name.len(), self.by_id.len(), "each account has one name");
        for account in self.by_id.values() {
            let (person, key) = (account.person, account.name.key());
            assert_eq!(self.by_name.get(key), Some(&person), "names map to accounts");
            let is_free = holder(key).is_none_or(|holder| holder == person);
            assert!(is_free, "only the owner uses the name");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::hub::test_support::name;

    fn account(id: u64, text: &str) -> Account {
        Account { person: UserId(id), name: name(text), hash: "old".into() }
    }

    fn confusable_with(accounts: &Accounts, text: &str) -> Option<UserId> {
        let mut skeletons =
            name(text).skeletons().map(String::from).collect::<Vec<_>>().into_iter();
        skeletons.find_map(|it| accounts.confusable_with(&it)).map(|account| account.person)
    }

    #[test]
    fn account_is_found_by_id_name_and_skeleton_until_it_is_removed() {
        let mut accounts = Accounts::default();
        accounts.create(account(1, "alice"));
        accounts.restore(account(2, "a1ice")); // created when confusable names were allowed
        let alice = accounts.named(&Key::fold("ALICE")).expect("an account").person;
        assert_eq!((alice, accounts.has(alice), accounts.len()), (UserId(1), true, 2));
        assert_eq!(confusable_with(&accounts, "alice"), Some(alice));
        accounts.set_hash(alice, "new".into());
        assert_eq!(accounts.of(alice).map(|account| &*account.hash), Some("new"));
        assert_eq!(accounts.remove(alice).map(|account| account.person), Some(alice));
        accounts.check(|_| None);
        assert!(accounts.named(&Key::fold("alice")).is_none() && !accounts.has(alice));
        assert!(accounts.remove(alice).is_none() && accounts.set_hash(alice, "x".into()).is_none());
        assert_eq!(accounts.dirty.take(), [alice], "what was restored is stored");
    }
}
