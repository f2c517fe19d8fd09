//! Mail: private messages to an offline account wait for its next login. The messages are
//! in the log; a mailbox holds only their ids.

use std::collections::{BTreeSet, HashMap};

use super::dirty::Dirty;
use crate::server::record::UserId;

/// The mailboxes of all accounts, by owner and by message.
#[derive(Debug, Default)]
pub(crate) struct Mailboxes {
    boxes: HashMap<UserId, BTreeSet<u64>>,
    owners: HashMap<u64, UserId>,
    /// Messages that were added or removed.
    pub(crate) dirty: Dirty<u64>,
}

impl Mailboxes {
    /// The ids in a mailbox, oldest first.
    pub(crate) fn of(&self, user_id: UserId) -> Vec<u64> {
        self.boxes.get(&user_id).into_iter().flatten().copied().collect()
    }

    /// The account a message waits for, if any.
    pub(crate) fn owner(&self, id: u64) -> Option<UserId> {
        self.owners.get(&id).copied()
    }

    pub(crate) fn len(&self, user_id: UserId) -> usize {
        self.boxes.get(&user_id).map_or(0, BTreeSet::len)
    }

    /// Adds a message.
    pub(crate) fn add(&mut self, user_id: UserId, id: u64) {
        self.restore(user_id, id);
        self.dirty.mark(id);
    }

    pub(crate) fn restore(&mut self, user_id: UserId, id: u64) {
        self.boxes.entry(user_id).or_default().insert(id);
        self.owners.insert(id, user_id);
    }

    /// Removes a message from its mailbox, if it is in one.
    pub(crate) fn discard(&mut self, id: u64) {
        let Some(user_id) = self.owners.remove(&id) else { return };
        if let Some(ids) = self.boxes.get_mut(&user_id) {
            ids.remove(&id);
            if ids.is_empty() {
                self.boxes.remove(&user_id);
            }
        }
        self.dirty.mark(id);
    }

    /// Empties a mailbox after its messages were delivered or its account deleted.
    pub(crate) fn empty(&mut self, user_id: UserId) {
        for id in self.of(user_id) {
            self.discard(id);
        }
    }
}
