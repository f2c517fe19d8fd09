//! Recent messages with a cid, by which repeated lines are deduplicated.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::protocol::Cid;
use crate::server::record::{Record, UserId};

/// Recent messages with a cid, by author: a repeated cid is deduplicated. Bounded in
/// messages and in bytes of text, by the limits of the recent history in memory.
#[derive(Debug)]
pub(crate) struct RecentCids {
    records: HashMap<(UserId, Cid), Arc<Record>>,
    /// The same messages, oldest first.
    order: VecDeque<Arc<Record>>,
    size: usize,
    max: usize,
    max_size: usize,
}

impl RecentCids {
    pub(super) fn new(max: usize, max_size: usize) -> Self {
        Self { records: HashMap::new(), order: VecDeque::new(), size: 0, max, max_size }
    }

    /// The message that an author has sent with this cid, if it is recent.
    pub(crate) fn find(&self, author: UserId, cid: &Cid) -> Option<Arc<Record>> {
        self.records.get(&(author, cid.clone())).cloned()
    }

    pub(super) fn discard(&mut self, author: UserId, cid: &Cid) {
        if let Some(record) = self.records.remove(&(author, cid.clone())) {
            self.remove(&record);
        }
    }

    /// Removes a message from `order` and `size`.
    fn remove(&mut self, record: &Record) {
        if let Ok(at) = self.order.binary_search_by_key(&record.id, |record| record.id) {
            self.order.remove(at);
            self.size -= record.text.len();
        }
    }

    /// Records the cid of a message, if it has one.
    pub(super) fn remember(&mut self, record: &Arc<Record>) {
        let Some(cid) = &record.cid else { return };
        let key = (record.author, cid.clone());
        if let Some(older) = self.records.insert(key, record.clone()) {
            self.remove(&older);
        }
        self.order.push_back(record.clone());
        self.size += record.text.len();
        while self.order.len() > self.max || self.size > self.max_size {
            let Some(oldest) = self.order.pop_front() else { return };
            self.size -= oldest.text.len();
            if let Some(cid) = &oldest.cid {
                self.records.remove(&(oldest.author, cid.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::hub::test_support;

    fn cid(text: &str) -> Cid {
        Cid::parse(text).expect("a cid")
    }

    fn message(id: u64, cid_text: &str, text: &str) -> Arc<Record> {
        test_support::message(id, "lobby", Some(cid_text), text)
    }

    #[test]
    fn recent_cids_are_bounded_in_messages_and_bytes() {
        let mut cids = RecentCids::new(3, 100);
        let known = |cids: &RecentCids| -> Vec<u64> {
            let ids = ["a", "b", "c", "d"].map(|cid_text| cids.find(UserId(1), &cid(cid_text)));
            ids.into_iter().flatten().map(|record| record.id).collect()
        };
        for (id, cid_text) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            cids.remember(&message(id, cid_text, "short"));
        }
        assert_eq!(known(&cids), [2, 3, 4], "limited in messages");
        cids.remember(&message(5, "a", &"long".repeat(22)));
        assert_eq!(known(&cids), [5, 3, 4]);
        cids.remember(&message(6, "b", "as short"));
        assert_eq!(known(&cids), [5, 6], "limited in bytes");
        cids.remember(&message(7, "c", &"long".repeat(30)));
        assert_eq!((known(&cids), cids.size, cids.order.len()), (vec![], 0, 0));
    }

    #[test]
    fn discarded_cid_can_be_used_again() {
        let mut cids = RecentCids::new(2, 100);
        cids.remember(&message(1, "a", "not stored"));
        cids.discard(UserId(1), &cid("a"));
        cids.remember(&message(2, "b", "hi"));
        cids.remember(&message(3, "a", "sent"));
        assert_eq!((cids.order.len(), cids.size), (2, 6));
        assert!(cids.find(UserId(1), &cid("b")).is_some());
        // A repeated cid replaces the older message.
        cids.remember(&message(4, "a", "again"));
        cids.remember(&message(5, "c", "hi"));
        assert_eq!(cids.find(UserId(1), &cid("a")).map(|record| record.id), Some(4));
        assert_eq!((cids.order.len(), cids.size), (2, 7));
    }
}
