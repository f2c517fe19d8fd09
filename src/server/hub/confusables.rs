//! Who is here by what their name looks like, see [`Name::skeletons`]: nobody comes who
//! would be taken for somebody else.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::UserIx;
use crate::protocol::Name;

/// Keeps a hash of each look in its place, which takes a third of the memory. Its
/// key is secret, so nobody can find two looks with one hash.
#[derive(Debug, Default)]
pub(super) struct ConfusableIndex {
    hasher: RandomState,
    by_hash: HashMap<u64, UserIx>,
}

impl ConfusableIndex {
    /// Who is here with a name that looks so.
    pub(super) fn find(&self, look: &str) -> Option<UserIx> {
        self.by_hash.get(&self.hasher.hash_one(look)).copied()
    }

    /// A name is somebody's who is here; the first with a look keeps it.
    pub(super) fn add(&mut self, name: &Name, user: UserIx) {
        for look in name.skeletons() {
            self.by_hash.entry(self.hasher.hash_one(&*look)).or_insert(user);
        }
    }

    /// It is theirs no more.
    pub(super) fn remove(&mut self, name: &Name, user: UserIx) {
        for look in name.skeletons() {
            let hash = self.hasher.hash_one(&*look);
            if self.by_hash.get(&hash) == Some(&user) {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// How many looks lead to somebody.
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }
}
