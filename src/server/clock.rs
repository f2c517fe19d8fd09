//! The current time, by the monotonic and the wall clock. Code that decides by time, such as the
//! hub, gets it as an argument, so that tests can choose it.

use std::time::{Duration, Instant, SystemTime};

use crate::protocol::Stamp;

/// The current time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic time since a fixed moment; used for deadlines.
    pub since_start: Duration,
    /// Wall clock time; used for timestamps that users see.
    pub wall: Stamp,
}

impl Now {
    /// Reads both clocks.
    #[must_use]
    pub fn since(start: Instant) -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall = Stamp(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX));
        Self { since_start: start.elapsed(), wall }
    }

    /// Returns the wall clock time after a duration.
    #[must_use]
    pub fn wall_after(self, time: Duration) -> Stamp {
        let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Stamp(self.wall.0.saturating_add(ms))
    }

    /// Returns the time since the start at which the wall clock will show `wall`; now, if that
    /// has passed.
    #[must_use]
    pub fn since_start_at(self, wall: Stamp) -> Duration {
        let ms = u64::try_from(wall.0.saturating_sub(self.wall.0)).unwrap_or(0);
        self.since_start + Duration::from_millis(ms)
    }
}
