//! How fast something may go on: so many at once, then so many a second. Nothing is
//! counted up or down by a clock; all that is kept is when the store will be full
//! again (the "generic cell rate algorithm" of ATM networks).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// How many may come, in the long run and at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In nanoseconds.
    interval: u64,
    /// What a full store lasts, in nanoseconds.
    depth: u64,
}

impl Rate {
    /// So many a second after a burst of so many. `None`: as many as there are.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let interval = 1_000_000_000_u64.checked_div(per_second.into())?;
        Some(Self { interval, depth: interval * u64::from(burst.max(1)) })
    }

    /// One in such a time after a burst of so many. `None`: as many as there are, for a
    /// burst of 0.
    #[must_use]
    pub fn one_in(time: Duration, burst: u32) -> Option<Self> {
        let interval = nanos(time);
        (burst > 0).then(|| Self { interval, depth: interval.saturating_mul(burst.into()) })
    }
}

/// What one of those who come has left; eight bytes. Of two, the greater has less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    /// When nothing is used up any more, in nanoseconds since the start.
    full_at: u64,
}

impl Bucket {
    /// When the next may come: `now` at the earliest.
    #[must_use]
    pub fn next_at(self, rate: Rate, now: Duration) -> Duration {
        Duration::from_nanos((self.full_at + rate.interval).saturating_sub(rate.depth)).max(now)
    }

    /// One has come.
    pub fn count(&mut self, rate: Rate, now: Duration) {
        self.full_at = self.full_at.max(nanos(now)) + rate.interval;
    }

    /// Whether nothing is used up.
    #[must_use]
    pub fn is_full(self, now: Duration) -> bool {
        self.full_at <= nanos(now)
    }
}

/// So many networks are remembered for how much they did. When there are more those are
/// forgotten that may do as much as anybody again, and if too many are left the half that
/// did least.
const REMEMBERED_MAX: usize = 4096;

/// How much each network does of something that all may do at the same rate.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Option<Rate>,
    of: HashMap<IpAddr, Bucket>,
}

impl RateLimiter {
    /// At this rate; without one as much as there is.
    #[must_use]
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate, of: HashMap::new() }
    }

    /// Whether a network may go on now; if so, it is counted.
    pub fn may_go_on(&mut self, now: Duration, network: IpAddr) -> bool {
        let Some(rate) = self.rate else { return true };
        if self.of.len() >= REMEMBERED_MAX && !self.of.contains_key(&network) {
            self.forget(now);
        }
        let pace = self.of.entry(network).or_default();
        let may = pace.next_at(rate, now) <= now;
        if may {
            pace.count(rate, now);
        }
        may
    }

    /// Forgets at least half, so that it is done seldom.
    fn forget(&mut self, now: Duration) {
        let mut paces: Vec<Bucket> = self.of.values().copied().collect();
        let middle = paces.len() / 2;
        let (_, middle, _) = paces.select_nth_unstable(middle);
        self.of.retain(|_, pace| *pace > *middle && !pace.is_full(now));
    }
}

/// Of the time since the start, for which 64 bits last five centuries.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A small generator (xorshift64*).
    pub(in crate::server) struct Draw(pub(in crate::server) u64);

    impl Draw {
        pub(in crate::server) fn below(&mut self, end: u32) -> u32 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
            u32::try_from(high).expect("31 bits") % end
        }
    }

    /// When each of the waiting goes, if each goes as soon as it may.
    fn gone(rate: Rate, come: &[Duration]) -> Vec<Duration> {
        let mut pace = Bucket::default();
        let mut before = Duration::ZERO;
        let go = |&at: &Duration| {
            before = pace.next_at(rate, at.max(before));
            pace.count(rate, before);
            before
        };
        come.iter().map(go).collect()
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_its_rate() {
        let rate = Rate::new(10, 3).expect("a limit");
        let times: Vec<u128> =
            gone(rate, &[SECOND; 6]).iter().map(|at| at.as_millis() - 1000).collect();
        assert_eq!(times, [0, 0, 0, 100, 200, 300]);
        assert_eq!(Rate::new(0, 3), None);
    }

    #[test]
    fn whatever_comes_never_more_goes_than_may_and_who_is_slow_enough_never_waits() {
        for seed in 1..=200 {
            let mut draw = Draw(seed * 0x9E37_79B9);
            let (per_second, burst) = (1 + draw.below(50), 1 + draw.below(20));
            let rate = Rate::new(per_second, burst).expect("a limit");
            let mut at = Duration::ZERO;
            let mut come = Vec::new();
            for _ in 0..200 {
                if draw.below(3) > 0 {
                    at += Duration::from_micros(draw.below(300_000).into());
                }
                come.push(at);
            }
            let gone = gone(rate, &come);
            // Nothing is lost, nothing overtakes, nothing goes before it comes.
            assert_eq!(gone.len(), come.len());
            assert!(gone.is_sorted() && gone.iter().zip(&come).all(|(gone, come)| gone >= come));
            let interval = SECOND / per_second;
            for (first, &from) in gone.iter().enumerate() {
                for (&to, count) in gone[first..].iter().zip(1..) {
                    let time = to.saturating_sub(from);
                    let most = interval * u32::saturating_sub(count, burst);
                    assert!(most <= time, "seed {seed}: {count} in {time:?}");
                }
            }
            // At its rate or below it nobody ever waits.
            let interval = interval + Duration::from_nanos(1);
            let slow: Vec<Duration> = (0..100)
                .scan(SECOND, |at, _| {
                    *at += interval + Duration::from_micros(draw.below(1000).into());
                    Some(*at)
                })
                .collect();
            assert_eq!(self::gone(rate, &slow), slow, "seed {seed}");
        }
    }

    #[test]
    fn after_a_pause_the_store_is_full_and_no_fuller() {
        let rate = Rate::new(10, 3).expect("a limit");
        let mut pace = Bucket::default();
        (0..3).for_each(|_| pace.count(rate, SECOND));
        assert!(!pace.is_full(SECOND) && pace.is_full(SECOND * 2));
        (0..3).for_each(|_| pace.count(rate, SECOND * 3600));
        assert_eq!(pace.next_at(rate, SECOND * 3600), SECOND * 3600 + SECOND / 10);
    }

    #[test]
    fn what_is_remembered_of_networks_is_bounded_and_who_did_most_is_remembered() {
        let mut paces = RateLimiter::new(Rate::one_in(SECOND * 60, 2));
        let of = |number: u32| std::net::Ipv4Addr::from_bits(number).into();
        assert!(paces.may_go_on(SECOND, of(0)) && paces.may_go_on(SECOND, of(0)));
        for number in 1..10_000 {
            assert!(paces.may_go_on(SECOND, of(number)));
            assert!(paces.of.len() <= REMEMBERED_MAX);
        }
        assert!(!paces.may_go_on(SECOND * 60, of(0)), "it has had its two");
        assert!(paces.may_go_on(SECOND * 61, of(0)), "one more, after a minute");
        assert!(!paces.may_go_on(SECOND * 61, of(0)));
        let mut endless = RateLimiter::new(Rate::one_in(SECOND, 0));
        assert!((0..100).all(|_| endless.may_go_on(SECOND, of(0))));
    }
}
