//! When a turn ends and all it said is stored and written: at once while lines
//! come singly; a moment later while they follow each other, so that several
//! share a commit, and one system call for each reader. Either costs about the
//! same whatever it carries, and in a busy room they are most of what the server
//! does.
//!
//! Waiting is bounded by what ending a turn costs, and by the time in which
//! another line is to be expected. Whether it pays is tried now and then, and
//! judged by what came of it.
//!
//! Where ending a turn takes long, a part of that is no wait to speak of. There
//! lines that follow a turn closely always wait that part: people who answer what
//! they have just read then speak in one rhythm, and are written together, where
//! otherwise they fall into groups that take turns.

use std::time::Duration;

/// A line waits for at most so many times what ending a turn takes, and never
/// longer than this.
const COST_FACTOR: u32 = 4;
const DELAY_MAX: Duration = Duration::from_micros(1500);

/// Shorter than this a wait is not worth its own timer.
const DELAY_MIN: Duration = Duration::from_micros(60);

/// Ending a turn takes long from where this part of it is worth its timer. It is
/// what lines always wait that come within so many times what it takes.
const PART_OF_COST: u32 = 8;
const CLOSE_GAP: u32 = 2;

/// No other line for so many times the usual gap: none is on its way.
const GAP_FACTOR: u32 = 2;

/// While waiting does not pay, one turn in so many tries whether it does now.
const PROBE_INTERVAL: u32 = 64;

/// Decides when a turn ends.
#[derive(Debug, Default)]
pub struct BatchDelay {
    /// What ending a turn has been taking.
    cost: Duration,
    /// Between parts.
    gap: Duration,
    last_part: Duration,
    last_end: Duration,
    wait: Option<Wait>,
    is_paying: bool,
    /// Since it was last tried.
    turns: u32,
}

/// A turn that waits for more.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// For so long whatever happens.
    least: Duration,
    /// For so long if lines keep coming.
    most: Duration,
    since: Duration,
}

impl BatchDelay {
    /// Something has come. `None`: the turn ends now. Otherwise until when it waits
    /// for more, if none comes.
    pub fn after_part(&mut self, now: Duration) -> Option<Duration> {
        self.gap = mean(self.gap, now.saturating_sub(self.last_part).min(DELAY_MAX));
        self.last_part = now;
        let begun = self.wait.unwrap_or_else(|| self.begin(now));
        self.wait = (begun.least.max(begun.most) >= DELAY_MIN).then_some(begun);
        let Wait { least, most, since } = self.wait?;
        let until = (since + most).min(now + self.gap * GAP_FACTOR).max(since + least);
        (until > now).then_some(until)
    }

    fn begin(&self, since: Duration) -> Wait {
        let part = (self.cost / PART_OF_COST).min(DELAY_MAX);
        let is_close = part >= DELAY_MIN && since < self.last_end + self.cost * CLOSE_GAP;
        let is_tried = self.is_paying || self.turns >= PROBE_INTERVAL;
        Wait {
            least: if is_close { part } else { Duration::ZERO },
            most: if is_tried { (self.cost * COST_FACTOR).min(DELAY_MAX) } else { Duration::ZERO },
            since,
        }
    }

    /// A turn has ended at `now`, which took so long; `has_paid` tells whether it
    /// was worth its while if it waited.
    pub fn after_turn(&mut self, now: Duration, took: Duration, has_paid: bool) {
        self.last_end = now;
        self.cost = mean(self.cost, took);
        self.turns += 1;
        if self.wait.take().is_some_and(|wait| !wait.most.is_zero()) {
            self.is_paying = has_paid;
            self.turns = 0;
        }
    }
}

/// A running mean in which what was long ago counts little.
fn mean(mean: Duration, next: Duration) -> Duration {
    (mean * 3 + next) / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Lines come `every` so many microseconds from a `start` on; a flush takes
    /// `cost`. Gives how many turns there were and how long a line waited at most.
    fn play(
        linger: &mut BatchDelay,
        start: Duration,
        every: u32,
        cost: u32,
        lines: u32,
    ) -> (u32, Duration) {
        let (mut turns, mut waited, mut parts) = (0, Duration::ZERO, 0);
        let mut first = Duration::ZERO;
        let mut due: Option<Duration> = None;
        for line in 1..=lines {
            let now = start + MICROSECOND * (line * every);
            if let Some(at) = due.take_if(|at| *at <= now) {
                linger.after_turn(at, MICROSECOND * cost, parts > 1);
                waited = waited.max(at.saturating_sub(first));
                (turns, parts) = (turns + 1, 0);
            }
            if parts == 0 {
                first = now;
            }
            parts += 1;
            due = linger.after_part(now);
            if due.is_none() {
                linger.after_turn(now, MICROSECOND * cost, parts > 1);
                waited = waited.max(now.saturating_sub(first));
                (turns, parts) = (turns + 1, 0);
            }
        }
        let end = start + MICROSECOND * (lines * every);
        linger.after_turn(end, MICROSECOND * cost, parts > 1);
        (turns, waited)
    }

    #[test]
    fn in_a_busy_room_lines_are_gathered_within_bounds() {
        let mut linger = BatchDelay::default();
        play(&mut linger, Duration::ZERO, 1000, 440, 500);
        let (turns, waited) = play(&mut linger, Duration::from_secs(1), 1000, 440, 1000);
        assert!(turns < 600, "{turns} turns of 1000 lines");
        assert!(waited <= DELAY_MAX, "{waited:?}");
    }

    #[test]
    fn where_turns_take_long_lines_that_follow_closely_wait_for_a_part_of_it() {
        let mut linger = BatchDelay::default();
        play(&mut linger, Duration::ZERO, 50, 4000, 1000);
        let (turns, waited) = play(&mut linger, Duration::from_secs(1), 50, 4000, 1000);
        assert!(turns <= 100, "{turns} turns of 1000 lines");
        assert!(waited <= DELAY_MAX, "{waited:?}");
        let (_, waited) = play(&mut linger, Duration::from_secs(2), 50, 40_000, 1000);
        assert!(waited <= DELAY_MAX, "{waited:?}");
        // Who speaks after pauses hardly ever waits.
        play(&mut linger, Duration::from_secs(3), 100_000, 4000, 10);
        let (_, waited) = play(&mut linger, Duration::from_secs(5), 100_000, 4000, 20);
        assert_eq!(waited, Duration::ZERO);
    }

    #[test]
    fn a_line_that_comes_alone_is_written_at_once() {
        let mut linger = BatchDelay::default();
        let (turns, _) = play(&mut linger, Duration::ZERO, 20_000, 440, 1000);
        assert!(turns >= 990, "{turns}");
        // Where a flush costs next to nothing there is nothing to save.
        let (turns, waited) = play(&mut BatchDelay::default(), Duration::ZERO, 100, 5, 1000);
        assert_eq!((turns, waited), (1000, Duration::ZERO));
    }

    #[test]
    fn a_room_that_falls_quiet_is_no_longer_waited_for() {
        let mut linger = BatchDelay::default();
        play(&mut linger, Duration::ZERO, 300, 440, 1000);
        let mut now = Duration::from_secs(10);
        for _ in 0..10 {
            now += Duration::from_millis(50);
            linger.after_part(now);
            linger.after_turn(now, MICROSECOND * 440, false);
        }
        assert_eq!(linger.after_part(now + Duration::from_millis(50)), None);
    }
}
