//! Dirty marks: the rows of a table that changed since they were last collected.

/// The keys of changed rows, in the order of the changes; a key may occur more than once.
#[derive(Debug)]
pub(crate) struct Dirty<K>(Vec<K>);

impl<K> Default for Dirty<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: PartialEq> Dirty<K> {
    pub(super) fn mark(&mut self, key: K) {
        if self.0.last() != Some(&key) {
            self.0.push(key);
        }
    }

    pub(super) fn mark_all(&mut self, keys: impl IntoIterator<Item = K>) {
        self.0.extend(keys);
    }

    /// Whether nothing is marked.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the marks and clears them.
    pub(crate) fn take(&mut self) -> Vec<K> {
        std::mem::take(&mut self.0)
    }
}
