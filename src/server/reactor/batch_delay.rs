//! The batch delay: how long a turn waits for more input before it is committed and flushed.
//!
//! A commit and a flush each cost about the same however many lines they carry, and in a busy
//! room they are most of the server's work. If lines arrive one at a time, the turn ends at
//! once. If they follow each other closely, it ends a moment later, so that several lines are
//! coalesced: they share one commit, and one system call per reader.
//!
//! The delay is bounded by the cost of ending a turn and by the time within which another line
//! is expected. While it does not pay off, it is tried again after `PROBE_INTERVAL` turns, and if
//! turns are cheap, less and less often.
//!
//! If ending a turn takes long, a fraction of that time does not matter, so lines that closely
//! follow the last turn always wait for that fraction. Clients that answer what they have just
//! read then synchronize and are served together, instead of forming groups that alternate.

use std::time::Duration;

/// The delay is at most this multiple of the cost of ending a turn, and at most [`DELAY_MAX`].
const COST_FACTOR: u32 = 4;
const DELAY_MAX: Duration = Duration::from_micros(1500);

/// A shorter delay is not worth its timer.
const DELAY_MIN: Duration = Duration::from_micros(60);

/// The fraction of the cost that lines always wait for if they arrive within [`CLOSE_GAP`]
/// times the cost after the last turn, and if the fraction is at least [`DELAY_MIN`].
const COST_FRACTION: u32 = 8;
const CLOSE_GAP: u32 = 2;

/// After this multiple of the usual gap no other line is expected.
const GAP_FACTOR: u32 = 2;

/// While waiting does not pay off, it is tried again after this number of turns.
const PROBE_INTERVAL: u32 = 64;

/// If ending a turn costs less than this, the number doubles with each vain attempt, this often at
/// most: two users who answer each other never send anything to coalesce, each attempt delays
/// their lines, and little could be saved.
const CHEAP_COST: Duration = Duration::from_micros(100);
const DOUBLINGS_MAX: u32 = 4;

/// Decides when a turn ends.
#[derive(Debug, Default)]
pub struct BatchDelay {
    /// Running mean of the time that ending a turn takes.
    cost: Duration,
    /// Running mean of the time between two drains with input.
    gap: Duration,
    last_drain: Duration,
    last_end: Duration,
    wait: Option<Wait>,
    is_paying: bool,
    /// Number of turns since waiting was last tried, and of vain attempts in a row.
    turns: u32,
    vain_attempts: u32,
}

/// The delay of the current turn.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// Minimum, even if no more input arrives.
    least: Duration,
    /// Maximum, while input keeps arriving.
    most: Duration,
    since: Duration,
}

impl BatchDelay {
    /// Notes a drain with input. Returns until when the turn waits for more, or `None` if it
    /// ends now.
    pub fn after_drain(&mut self, now: Duration) -> Option<Duration> {
        self.gap = mean(self.gap, now.saturating_sub(self.last_drain).min(DELAY_MAX));
        self.last_drain = now;
        let wait = self.wait.unwrap_or_else(|| self.start(now));
        self.wait = (wait.least.max(wait.most) >= DELAY_MIN).then_some(wait);
        let Wait { least, most, since } = self.wait?;
        let until = (since + most).min(now + self.gap * GAP_FACTOR).max(since + least);
        (until > now).then_some(until)
    }

    fn start(&self, since: Duration) -> Wait {
        let fraction = (self.cost / COST_FRACTION).min(DELAY_MAX);
        let is_close = fraction >= DELAY_MIN && since < self.last_end + self.cost * CLOSE_GAP;
        let doublings = if self.cost < CHEAP_COST { self.vain_attempts } else { 0 };
        let interval = PROBE_INTERVAL << doublings.min(DOUBLINGS_MAX);
        let may_wait = self.is_paying || self.turns >= interval;
        Wait {
            least: if is_close { fraction } else { Duration::ZERO },
            most: if may_wait { (self.cost * COST_FACTOR).min(DELAY_MAX) } else { Duration::ZERO },
            since,
        }
    }

    /// Whether the current turn has waited for more input.
    #[must_use]
    pub fn has_waited(&self) -> bool {
        self.wait.is_some()
    }

    /// Notes the end of a turn at `now`, which took `took`; `has_paid` is whether coalescing
    /// saved work if the turn waited.
    pub fn after_turn(&mut self, now: Duration, took: Duration, has_paid: bool) {
        self.last_end = now;
        self.cost = mean(self.cost, took);
        self.turns += 1;
        if self.wait.take().is_some_and(|wait| !wait.most.is_zero()) {
            self.vain_attempts = if has_paid { 0 } else { self.vain_attempts + 1 };
            self.is_paying = has_paid;
            self.turns = 0;
        }
    }
}

/// A running mean (exponential smoothing).
fn mean(mean: Duration, next: Duration) -> Duration {
    // Its arithmetic on seconds and nanoseconds would cost five times as much.
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4);
    Duration::from_nanos((nanos(mean) * 3 + nanos(next)) / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Plays lines that arrive `every` microseconds from `start`; ending a turn takes `cost`
    /// microseconds. Returns the number of turns and the longest delay of a line.
    fn play(
        delay: &mut BatchDelay,
        start: Duration,
        every: u32,
        cost: u32,
        lines: u32,
    ) -> (u32, Duration) {
        let (mut turns, mut waited, mut drains) = (0, Duration::ZERO, 0);
        let mut first = Duration::ZERO;
        let mut due: Option<Duration> = None;
        for line in 1..=lines {
            let now = start + MICROSECOND * (line * every);
            if let Some(at) = due.take_if(|at| *at <= now) {
                delay.after_turn(at, MICROSECOND * cost, drains > 1);
                waited = waited.max(at.saturating_sub(first));
                (turns, drains) = (turns + 1, 0);
            }
            if drains == 0 {
                first = now;
            }
            drains += 1;
            due = delay.after_drain(now);
            if due.is_none() {
                delay.after_turn(now, MICROSECOND * cost, drains > 1);
                waited = waited.max(now.saturating_sub(first));
                (turns, drains) = (turns + 1, 0);
            }
        }
        let end = start + MICROSECOND * (lines * every);
        delay.after_turn(end, MICROSECOND * cost, drains > 1);
        (turns, waited)
    }

    #[test]
    fn lines_of_a_busy_room_are_coalesced_within_bounds() {
        let mut delay = BatchDelay::default();
        play(&mut delay, Duration::ZERO, 1000, 440, 500);
        let (turns, waited) = play(&mut delay, Duration::from_secs(1), 1000, 440, 1000);
        assert!(turns < 600, "{turns} turns of 1000 lines");
        assert!(waited <= DELAY_MAX, "{waited:?}");
    }

    #[test]
    fn close_lines_wait_for_a_fraction_of_the_cost_when_turns_are_slow() {
        let mut delay = BatchDelay::default();
        play(&mut delay, Duration::ZERO, 50, 4000, 1000);
        let (turns, waited) = play(&mut delay, Duration::from_secs(1), 50, 4000, 1000);
        assert!(turns <= 100, "{turns} turns of 1000 lines");
        assert!(waited <= DELAY_MAX, "{waited:?}");
        let (_, waited) = play(&mut delay, Duration::from_secs(2), 50, 40_000, 1000);
        assert!(waited <= DELAY_MAX, "{waited:?}");
        // A client that sends after pauses hardly ever waits.
        play(&mut delay, Duration::from_secs(3), 100_000, 4000, 10);
        let (_, waited) = play(&mut delay, Duration::from_secs(5), 100_000, 4000, 20);
        assert_eq!(waited, Duration::ZERO);
    }

    #[test]
    fn single_line_is_written_at_once() {
        let mut delay = BatchDelay::default();
        let (turns, _) = play(&mut delay, Duration::ZERO, 20_000, 440, 1000);
        assert!(turns >= 990, "{turns}");
        // If a flush costs next to nothing, there is nothing to save.
        let (turns, waited) = play(&mut BatchDelay::default(), Duration::ZERO, 100, 5, 1000);
        assert_eq!((turns, waited), (1000, Duration::ZERO));
    }

    #[test]
    fn vain_delays_of_a_pair_become_rare() {
        let (mut delay, mut now, mut waits) = (BatchDelay::default(), Duration::ZERO, 0);
        for _ in 0..100_000 {
            now += MICROSECOND * 20;
            if let Some(at) = delay.after_drain(now) {
                waits += 1;
                now = at;
            }
            delay.after_turn(now, MICROSECOND * 20, false);
        }
        assert!((1..=105).contains(&waits), "{waits} waits");
    }

    #[test]
    fn delay_ends_when_the_room_falls_quiet() {
        let mut delay = BatchDelay::default();
        play(&mut delay, Duration::ZERO, 300, 440, 1000);
        let mut now = Duration::from_secs(10);
        for _ in 0..10 {
            now += Duration::from_millis(50);
            delay.after_drain(now);
            delay.after_turn(now, MICROSECOND * 440, false);
        }
        assert_eq!(delay.after_drain(now + Duration::from_millis(50)), None);
    }
}
