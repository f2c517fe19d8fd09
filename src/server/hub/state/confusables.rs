//! The index of online users by the skeletons of their names (UTS 39, see
//! [`Name::skeletons`]). It finds names that are confusable with a new name; logins and
//! renames refuse those.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::index::UserIx;
use crate::protocol::Name;

/// Users by a hash of each skeleton, which takes a third of the memory of the skeletons
/// themselves. The hash key is secret, so clients cannot construct collisions.
#[derive(Debug, Default)]
pub(super) struct ConfusableIndex {
    hasher: RandomState,
    by_hash: HashMap<u64, UserIx>,
}

impl ConfusableIndex {
    /// The online user whose name has this skeleton.
    pub(super) fn find(&self, skeleton: &str) -> Option<UserIx> {
        self.by_hash.get(&self.hasher.hash_one(skeleton)).copied()
    }

    /// Adds a user's name. The first user with a skeleton keeps its entry.
    pub(super) fn add(&mut self, name: &Name, user: UserIx) {
        for skeleton in name.skeletons() {
            self.by_hash.entry(self.hasher.hash_one(&*skeleton)).or_insert(user);
        }
    }

    /// Removes a user's name.
    pub(super) fn remove(&mut self, name: &Name, user: UserIx) {
        for skeleton in name.skeletons() {
            let hash = self.hasher.hash_one(&*skeleton);
            if self.by_hash.get(&hash) == Some(&user) {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// The number of skeletons in the index.
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }
}
