//! An index of names by their skeletons (UTS 39, see [`Name::skeletons`]). It finds names that
//! are confusable with a new name; logins and renames refuse those.

use std::hash::{BuildHasher as _, RandomState};

use crate::protocol::Name;
use crate::server::id_map::IdMap;

/// Owners of names by a hash of each skeleton, which takes a third of the memory of the skeletons
/// themselves. The hash key is secret, so clients cannot construct collisions.
#[derive(Debug)]
pub(super) struct ConfusableIndex<O> {
    hasher: RandomState,
    by_hash: IdMap<u64, O>,
}

impl<O> Default for ConfusableIndex<O> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), by_hash: IdMap::default() }
    }
}

impl<O: Copy + PartialEq> ConfusableIndex<O> {
    /// The owner of a name with this skeleton.
    pub(super) fn find(&self, skeleton: &str) -> Option<O> {
        self.by_hash.get(&self.hasher.hash_one(skeleton)).copied()
    }

    /// Adds a name. The first owner of a skeleton keeps its entry.
    pub(super) fn add(&mut self, name: &Name, owner: O) {
        for skeleton in name.skeletons() {
            self.by_hash.entry(self.hasher.hash_one(&*skeleton)).or_insert(owner);
        }
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, name: &Name, owner: O) {
        for skeleton in name.skeletons() {
            let hash = self.hasher.hash_one(&*skeleton);
            if self.by_hash.get(&hash) == Some(&owner) {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// The number of skeletons in the index.
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }
}
