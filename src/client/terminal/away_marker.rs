//! The away marker: when the user last wrote, and where the first message after a long absence
//! is marked. It also counts messages for the summary at the end. It does not know the screen.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::session::resume::humanize;

/// The time without input after which the user counts as absent.
const AWAY_AFTER: Duration = Duration::from_mins(5);

/// Tracks input and received messages.
#[derive(Debug)]
pub(super) struct AwayMarker {
    start: Instant,
    last_input: Instant,
    is_marked: bool,
    count: usize,
}

impl AwayMarker {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, last_input: now, is_marked: false, count: 0 }
    }

    /// Records input of the user.
    pub(super) fn typed(&mut self, now: Instant) {
        (self.last_input, self.is_marked) = (now, false);
    }

    /// Counts a message. Returns whether it is the first after a long absence, so that a marker
    /// belongs before it.
    pub(super) fn begins_anew(&mut self, now: Instant) -> bool {
        self.count += 1;
        let is_first = !self.is_marked && now - self.last_input >= AWAY_AFTER;
        self.is_marked |= is_first;
        is_first
    }

    /// Returns the duration and the number of messages, in words.
    pub(super) fn sum(&self, now: Instant) -> (String, String) {
        let messages = if self.count == 1 { "message" } else { "messages" };
        (humanize(now - self.start), format!("{} {messages} read", self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_message_after_absence_is_marked_once() {
        let start = Instant::now();
        let after = |minutes| start + Duration::from_mins(minutes);
        let mut marker = AwayMarker::new(start);
        assert!(!marker.begins_anew(after(4)));
        assert!(marker.begins_anew(after(5)));
        assert!(!marker.begins_anew(after(6)));
        marker.typed(after(7));
        assert!(!marker.begins_anew(after(8)));
        assert!(marker.begins_anew(after(13)));
        assert_eq!(marker.sum(after(13)), ("13 min".to_owned(), "5 messages read".to_owned()));
    }
}
