//! Detection of clients that do not read. The unsent data is measured (`unsent.rs`) an eighth
//! of the timeout after writing was blocked, since most clients go on reading before that, and
//! again at the end of the timeout.

use std::time::Duration;

/// The progress of writing to one client, and whether a timer for [`Progress::check`] runs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Writing is not blocked, and no timer runs.
    #[default]
    Idle,
    /// Writing is not blocked any more; the timer still runs.
    Unblocked,
    /// Writing has been blocked without progress since this time.
    Blocked(Duration),
    /// The same, and the unsent data was measured.
    Measured {
        /// When the client is stalled if it has not read anything since.
        ends_at: Duration,
        /// The size in bytes, if it could be measured.
        unsent: Option<u32>,
    },
}

/// The result of a check for a stalled client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Writing is not blocked.
    None,
    /// The client is not stalled yet; check again at this time.
    LookAgainAt(Duration),
    /// The client has read nothing for too long.
    Over,
}

impl Progress {
    /// Notes that writing is blocked, `has_written` after some progress. Returns whether the
    /// caller has to start the timer: an eighth of the timeout.
    #[must_use]
    pub fn note_blocked(&mut self, now: Duration, has_written: bool) -> bool {
        let needs_timer = *self == Self::Idle;
        if has_written || matches!(self, Self::Idle | Self::Unblocked) {
            *self = Self::Blocked(now);
        }
        needs_timer
    }

    /// Notes that nothing is left to write.
    pub fn note_unblocked(&mut self) {
        if *self != Self::Idle {
            *self = Self::Unblocked;
        }
    }

    /// Checks whether the client is stalled: it has read less than `least` bytes within
    /// `timeout`. The timer has ended; except after [`Stall::None`] the caller starts it again.
    pub fn check(
        &mut self,
        now: Duration,
        timeout: Duration,
        least: u32,
        measure: impl Fn() -> Option<u32>,
    ) -> Stall {
        match *self {
            Self::Idle | Self::Unblocked => {
                *self = Self::Idle;
                Stall::None
            }
            Self::Blocked(since) if now < since + timeout / 8 => {
                Stall::LookAgainAt(since + timeout / 8)
            }
            Self::Blocked(_) => {
                // Not from `since`: the server itself may have been suspended.
                let ends_at = now + timeout * 7 / 8;
                *self = Self::Measured { ends_at, unsent: measure() };
                Stall::LookAgainAt(ends_at)
            }
            Self::Measured { ends_at, .. } if now < ends_at => Stall::LookAgainAt(ends_at),
            Self::Measured { unsent, .. } => {
                *self = Self::Blocked(now);
                let has_read = unsent
                    .is_some_and(|unsent| measure().is_some_and(|left| left + least <= unsent));
                // It reads, but too little for the kernel to report the socket as writable.
                if has_read { Stall::LookAgainAt(now + timeout / 8) } else { Stall::Over }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_secs(8);

    /// A client whose writing is blocked since the first second.
    fn blocked() -> Progress {
        let mut progress = Progress::default();
        assert!(progress.note_blocked(SECOND, false), "the timer is started once");
        assert!(!progress.note_blocked(SECOND * 2, false));
        progress
    }

    #[test]
    fn client_that_reads_less_than_the_minimum_is_stalled() {
        for (unsent, left, is_stalled) in [
            (Some(100), Some(100), true),
            (Some(100), Some(91), true),
            (Some(100), Some(90), false),
            (None, Some(90), true),
            (Some(100), None, true),
        ] {
            let mut progress = blocked();
            let first = progress.check(SECOND * 2, TIMEOUT, 10, || unsent);
            assert_eq!(first, Stall::LookAgainAt(SECOND * 9));
            let last = progress.check(SECOND * 9, TIMEOUT, 10, || left);
            let next = Stall::LookAgainAt(SECOND * 10);
            assert_eq!(last, if is_stalled { Stall::Over } else { next }, "{unsent:?} {left:?}");
        }
    }

    #[test]
    fn progress_restarts_the_timeout_and_the_end_of_output_stops_it() {
        let mut progress = blocked();
        assert!(!progress.note_blocked(SECOND * 5, true));
        let measure = || panic!("too early");
        assert_eq!(progress.check(SECOND * 5, TIMEOUT, 1, measure), Stall::LookAgainAt(SECOND * 6));
        progress.note_unblocked();
        assert!(!progress.note_blocked(SECOND * 6, false), "the timer still runs");
        progress.note_unblocked();
        assert_eq!(progress.check(SECOND * 7, TIMEOUT, 1, measure), Stall::None);
        assert!(progress.note_blocked(SECOND * 8, false));
    }

    #[test]
    fn client_gets_time_after_the_server_was_suspended() {
        let mut progress = blocked();
        // The server could not notice whether the client reads.
        let stall = progress.check(SECOND * 100, TIMEOUT, 1, || Some(7));
        assert_eq!(stall, Stall::LookAgainAt(SECOND * 107));
        assert_eq!(progress.check(SECOND * 107, TIMEOUT, 1, || Some(7)), Stall::Over);
    }
}
