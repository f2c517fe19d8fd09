//! When to write: at once while lines come singly; a moment later while they
//! follow each other, so that several go out with one system call for each
//! reader. A write costs the same whatever it carries, and in a busy room most
//! of what the server does is writing.
//!
//! Waiting is bounded by what writing costs, and by the time in which another
//! line is to be expected. Whether it pays is tried now and then, and judged by
//! what came of it: by how many readers got more than one turn's lines at once.
//!
//! In a large room a flush takes so long that a part of it is no wait to speak
//! of. There lines that follow a flush closely always wait that part: people who
//! answer what they have just read then speak in one rhythm, and are written
//! together, where otherwise they fall into groups that take turns.

use std::time::Duration;

/// A line waits for at most so many times what a flush takes, and never longer
/// than this. A room is large where a flush takes longer than this.
const TIMES_COST: u32 = 4;
const LONGEST: Duration = Duration::from_micros(1500);

/// In a large room lines wait for this part of what a flush takes, if they come
/// within so many times what it takes after the last one.
const PART_OF_COST: u32 = 8;
const CLOSELY: u32 = 2;

/// Shorter than this a wait is not worth its own timer.
const SHORTEST: Duration = Duration::from_micros(150);

/// No other line for so many times the usual gap: none is on its way.
const TIMES_GAP: u32 = 2;

/// While waiting does not pay, one flush in so many tries whether it does now.
const PROBE: u32 = 64;

/// Decides when what waits is to be written.
#[derive(Debug, Default)]
pub struct Linger {
    /// What a flush has been taking.
    cost: Duration,
    /// Between turns that had something to write.
    gap: Duration,
    last_turn: Duration,
    last_flush: Duration,
    /// Since when the first of what waits waits.
    since: Option<Duration>,
    is_paying: bool,
    flushes: u32,
}

impl Linger {
    /// A turn has left something to be written. `None`: write it now. Otherwise
    /// until when to wait for more, if none comes.
    pub fn after_turn(&mut self, now: Duration) -> Option<Duration> {
        self.gap = mean(self.gap, now.saturating_sub(self.last_turn).min(LONGEST));
        self.last_turn = now;
        let is_large = self.cost > LONGEST;
        if self.since.is_none() && !self.begins(now, is_large) {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let until = if is_large {
            since + (self.cost / PART_OF_COST).min(LONGEST)
        } else {
            (since + self.budget()).min(now + self.gap * TIMES_GAP)
        };
        (until > now).then_some(until)
    }

    /// Whether to wait at all for more than what has just come.
    fn begins(&self, now: Duration, is_large: bool) -> bool {
        if is_large {
            return now < self.last_flush + self.cost * CLOSELY;
        }
        self.budget() >= SHORTEST && (self.is_paying || self.flushes >= PROBE)
    }

    fn budget(&self) -> Duration {
        (self.cost * TIMES_COST).min(LONGEST)
    }

    /// All that waited was written by `now`, which took so long: to so many
    /// connections, of which some had lines of more than one turn.
    pub fn after_flush(&mut self, now: Duration, took: Duration, written: usize, gathered: usize) {
        self.last_flush = now;
        self.cost = mean(self.cost, took);
        self.flushes += 1;
        if self.since.take().is_some() {
            self.is_paying = gathered * 2 >= written;
            self.flushes = 0;
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
    const READERS: usize = 100;

    /// Lines come `every` so many microseconds from a `start` on; a flush takes
    /// `cost`. Gives how many flushes there were and how long a line waited at most.
    fn play(
        linger: &mut Linger,
        start: Duration,
        every: u32,
        cost: u32,
        lines: u32,
    ) -> (u32, Duration) {
        let (mut flushes, mut waited, mut turns) = (0, Duration::ZERO, 0);
        let mut first = Duration::ZERO;
        let mut due: Option<Duration> = None;
        for line in 1..=lines {
            let now = start + MICROSECOND * (line * every);
            if let Some(at) = due.take_if(|at| *at <= now) {
                linger.after_flush(at, MICROSECOND * cost, READERS, gathered(turns));
                waited = waited.max(at.saturating_sub(first));
                (flushes, turns) = (flushes + 1, 0);
            }
            if turns == 0 {
                first = now;
            }
            turns += 1;
            due = linger.after_turn(now);
            if due.is_none() {
                linger.after_flush(now, MICROSECOND * cost, READERS, gathered(turns));
                waited = waited.max(now.saturating_sub(first));
                (flushes, turns) = (flushes + 1, 0);
            }
        }
        let end = start + MICROSECOND * (lines * every);
        linger.after_flush(end, MICROSECOND * cost, READERS, gathered(turns));
        (flushes, waited)
    }

    fn gathered(turns: u32) -> usize {
        if turns > 1 { READERS } else { 0 }
    }

    #[test]
    fn in_a_busy_room_lines_are_gathered_within_bounds() {
        let mut linger = Linger::default();
        play(&mut linger, Duration::ZERO, 1000, 440, 500);
        let (flushes, waited) = play(&mut linger, Duration::from_secs(1), 1000, 440, 1000);
        assert!(flushes < 600, "{flushes} flushes of 1000 lines");
        assert!(waited <= LONGEST, "{waited:?}");
    }

    #[test]
    fn in_a_large_room_lines_that_follow_a_flush_closely_wait_for_a_part_of_it() {
        let mut linger = Linger::default();
        play(&mut linger, Duration::ZERO, 50, 4000, 1000);
        let (flushes, waited) = play(&mut linger, Duration::from_secs(1), 50, 4000, 1000);
        assert!(flushes <= 100, "{flushes} flushes of 1000 lines");
        assert!(waited <= MICROSECOND * 500, "{waited:?}");
        let (_, waited) = play(&mut linger, Duration::from_secs(2), 50, 40_000, 1000);
        assert!(waited <= LONGEST, "{waited:?}");
        // Who speaks after a pause waits for nobody.
        let (flushes, waited) = play(&mut linger, Duration::from_secs(3), 100_000, 4000, 100);
        assert!(flushes >= 90, "{flushes}");
        assert_eq!(waited, Duration::ZERO);
    }

    #[test]
    fn a_line_that_comes_alone_is_written_at_once() {
        let mut linger = Linger::default();
        let (flushes, _) = play(&mut linger, Duration::ZERO, 20_000, 440, 1000);
        assert!(flushes >= 990, "{flushes}");
        // Where a flush costs next to nothing there is nothing to save.
        let (flushes, waited) = play(&mut Linger::default(), Duration::ZERO, 100, 5, 1000);
        assert_eq!((flushes, waited), (1000, Duration::ZERO));
    }

    #[test]
    fn a_room_that_falls_quiet_is_no_longer_waited_for() {
        let mut linger = Linger::default();
        play(&mut linger, Duration::ZERO, 300, 440, 1000);
        let mut now = Duration::from_secs(10);
        for _ in 0..10 {
            now += Duration::from_millis(50);
            linger.after_turn(now);
            linger.after_flush(now, MICROSECOND * 440, READERS, 0);
        }
        assert_eq!(linger.after_turn(now + Duration::from_millis(50)), None);
    }
}
