//! How long the server has not answered, in whole seconds. The prompt shows it, so that an
//! unanswered line is not mistaken for a delivered one. It does not know which line waits.

use std::time::Duration;

use tokio::time::Instant;

/// A line without an answer for this long is reported: it may not be delivered.
pub(super) const OVERDUE_AFTER: Duration = Duration::from_secs(5);

/// The number of seconds shown last.
#[derive(Debug, Default)]
pub(super) struct Latency {
    seconds: u64,
}

impl Latency {
    /// Returns the number of seconds if it has changed.
    pub(super) fn change(
        &mut self,
        unanswered_since: Option<Instant>,
        now: Instant,
    ) -> Option<u64> {
        let seconds = unanswered_since.map_or(0, |since| (now - since).as_secs());
        (std::mem::replace(&mut self.seconds, seconds) != seconds).then_some(seconds)
    }

    /// Returns when the number of seconds changes next.
    pub(super) fn due(&self, unanswered_since: Option<Instant>) -> Option<Instant> {
        Some(unanswered_since? + Duration::from_secs(self.seconds + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_changes_once_per_second_and_when_answered() {
        let mut latency = Latency::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(latency.change(None, start), None);
        assert_eq!(latency.due(None), None);
        assert_eq!(latency.change(Some(start), at(999)), None);
        assert_eq!(latency.due(Some(start)), Some(at(1000)));
        assert_eq!(latency.change(Some(start), at(1000)), Some(1));
        assert_eq!(latency.change(Some(start), at(1500)), None);
        assert_eq!(latency.due(Some(start)), Some(at(2000)));
        assert_eq!(latency.change(Some(start), at(2001)), Some(2));
        assert_eq!(latency.change(None, at(2002)), Some(0));
    }
}
