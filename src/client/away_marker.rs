//! How a reader follows: when they last wrote, and how much they have read.

use std::time::Duration;

use tokio::time::Instant;

use super::resume::humanize;

/// Who has not written for so long may have been elsewhere.
const AWAY_AFTER: Duration = Duration::from_mins(5);

/// See the head of this file.
#[derive(Debug)]
pub(super) struct AwayMarker {
    start: Instant,
    wrote: Instant,
    is_marked: bool,
    count: usize,
}

impl AwayMarker {
    /// From now on.
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, wrote: now, is_marked: false, count: 0 }
    }

    /// Something was written.
    pub(super) fn typed(&mut self, now: Instant) {
        (self.wrote, self.is_marked) = (now, false);
    }

    /// A message has come; whether it is the first after a long absence, before
    /// which a mark belongs.
    pub(super) fn begins_anew(&mut self, now: Instant) -> bool {
        self.count += 1;
        let is_first = !self.is_marked && now - self.wrote >= AWAY_AFTER;
        self.is_marked |= is_first;
        is_first
    }

    /// How long it was, and how much was read.
    pub(super) fn sum(&self, now: Instant) -> (String, String) {
        let messages = if self.count == 1 { "message" } else { "messages" };
        (humanize(now - self.start), format!("{} {messages} read", self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_long_elsewhere_finds_a_mark_once() {
        let start = Instant::now();
        let after = |minutes| start + Duration::from_mins(minutes);
        let mut reading = AwayMarker::new(start);
        assert!(!reading.begins_anew(after(4)));
        assert!(reading.begins_anew(after(5)));
        assert!(!reading.begins_anew(after(6)));
        reading.typed(after(7));
        assert!(!reading.begins_anew(after(8)));
        assert!(reading.begins_anew(after(13)));
        assert_eq!(reading.sum(after(13)), ("13 min".to_owned(), "5 messages read".to_owned()));
    }
}
