//! What we have said and what has come of it. Each line gets a mark of its own
//! (`cid`); the answer carries the same mark.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Makes the marks of one run. An account's marks are remembered beyond a
/// connection, and a mark used twice is not said twice; so they must differ
/// between runs, not only within one.
#[derive(Debug)]
pub(super) struct Cids {
    run: String,
}

impl Cids {
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Nearly nine years of microseconds, and the process: 19 characters,
        // which leaves 12 digits for the number. A cid holds 32.
        let micros = now.as_micros() & 0xFFFF_FFFF_FFFF;
        Self { run: format!("{micros:x}_{:x}", std::process::id()) }
    }

    /// The mark of the line with this number.
    pub(super) fn mark(&self, number: u64) -> String {
        format!("{}-{number}", self.run)
    }

    /// The number in a mark of this run.
    pub(super) fn number(&self, cid: &str) -> Option<u64> {
        cid.strip_prefix(self.run.as_str())?.strip_prefix('-')?.parse().ok()
    }
}

/// A line said and not answered yet.
struct Unanswered {
    number: u64,
    line: String,
    /// Dropped with the answer: who waits for it then wakes up.
    _waiting: Option<mpsc::Sender<()>>,
}

/// The lines of one visit, in the order they were said.
///
/// Coming back after a lost connection means saying the unanswered ones again,
/// under the same marks: the server says none of them twice.
pub(super) struct Outgoing {
    cids: Cids,
    count: u64,
    unanswered: VecDeque<Unanswered>,
}

impl Outgoing {
    pub(super) fn new(cids: Cids) -> Self {
        Self { cids, count: 0, unanswered: VecDeque::new() }
    }

    /// The line as it goes out, marked.
    pub(super) fn add(&mut self, line: String, waiting: Option<mpsc::Sender<()>>) -> String {
        self.count += 1;
        let marked = format!("@cid={} {line}", self.cids.mark(self.count));
        self.unanswered.push_back(Unanswered { number: self.count, line, _waiting: waiting });
        marked
    }

    /// An answer came. Answers come in order, so all before it are settled too.
    pub(super) fn settle(&mut self, cid: &str) {
        let Some(number) = self.cids.number(cid) else { return };
        while self.unanswered.front().is_some_and(|line| line.number <= number) {
            self.unanswered.pop_front();
        }
    }

    /// What nobody has confirmed, in order.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = &str> {
        self.unanswered.iter().map(|unanswered| unanswered.line.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Cid;

    #[test]
    fn a_mark_is_a_cid_and_knows_its_number() {
        let cids = Cids::new();
        for number in [0, 1, 1_000_000] {
            let mark = cids.mark(number);
            assert!(Cid::parse(&mark).is_some(), "{mark}");
            assert_eq!(cids.number(&mark), Some(number));
        }
        assert_eq!(cids.number("other-1"), None);
    }

    #[test]
    fn an_answer_settles_its_line_and_those_before() {
        let mut outgoing = Outgoing::new(Cids::new());
        for line in ["one", "two", "three"] {
            outgoing.add(line.to_owned(), None);
        }
        let second = outgoing.cids.mark(2);
        outgoing.settle(&second);
        assert_eq!(outgoing.unanswered().collect::<Vec<_>>(), ["three"]);
    }
}
