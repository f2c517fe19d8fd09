//! Rate limits: a burst at once, then a steady rate.
//!
//! This is a token bucket, implemented as GCRA (the generic cell rate algorithm of ATM
//! networks). Instead of a number of tokens that a timer refills, a [`Bucket`] holds one
//! timestamp: when it will be full again. Each event moves that time forward by one interval;
//! an event is allowed if the time is then at most `depth` (burst × interval) ahead of now.
//! It knows nothing about what is limited.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::Duration;

/// A rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Time per event in the long run, in nanoseconds.
    interval: u64,
    /// Time in which an empty bucket fills, in nanoseconds: burst × interval.
    depth: u64,
}

impl Rate {
    /// `per_second` events per second after a burst; `None` (unlimited) if it is 0.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Option<Self> {
        let interval = 1_000_000_000_u64.checked_div(per_second.into())?;
        Some(Self { interval, depth: interval * u64::from(burst.max(1)) })
    }

    /// One event per `time` after a burst; `None` (unlimited) if the burst is 0.
    #[must_use]
    pub fn one_in(time: Duration, burst: u32) -> Option<Self> {
        let interval = nanos(time);
        (burst > 0).then(|| Self { interval, depth: interval.saturating_mul(burst.into()) })
    }
}

/// The state of one token bucket, in eight bytes. The greater of two buckets is emptier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    /// When the bucket is full again, as a [`stamp`]; `Option<Bucket>` is as small.
    full_at: NonZeroU64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { full_at: stamp(Duration::ZERO) }
    }
}

impl Bucket {
    /// Returns when the next event is allowed: `now` at the earliest.
    #[must_use]
    pub fn next_at(self, rate: Rate, now: Duration) -> Duration {
        let full_at = self.full_at.get() - 1;
        Duration::from_nanos((full_at + rate.interval).saturating_sub(rate.depth)).max(now)
    }

    /// Counts an event.
    pub fn count(&mut self, rate: Rate, now: Duration) {
        self.full_at = self.full_at.max(stamp(now)).saturating_add(rate.interval);
    }

    /// Returns whether the bucket is full.
    #[must_use]
    pub fn is_full(self, now: Duration) -> bool {
        self.full_at <= stamp(now)
    }
}

/// Maximum number of networks with a bucket. Beyond it full buckets are evicted, which changes
/// nothing, and then the fuller half of the rest.
const NETWORKS_MAX: usize = 4096;

/// Applies one rate limit to each network separately.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Option<Rate>,
    of: HashMap<IpAddr, Bucket>,
}

impl RateLimiter {
    /// Creates a limiter; unlimited without a rate.
    #[must_use]
    pub fn new(rate: Option<Rate>) -> Self {
        Self { rate, of: HashMap::new() }
    }

    /// Returns whether an event of a network is allowed now, and counts it if so.
    pub fn may_go_on(&mut self, now: Duration, network: IpAddr) -> bool {
        let Some(rate) = self.rate else { return true };
        if self.of.len() >= NETWORKS_MAX && !self.of.contains_key(&network) {
            self.evict(now);
        }
        let bucket = self.of.entry(network).or_default();
        let may = bucket.next_at(rate, now) <= now;
        if may {
            bucket.count(rate, now);
        }
        may
    }

    /// Evicts at least half of the buckets, so that this is rarely needed.
    fn evict(&mut self, now: Duration) {
        let mut buckets: Vec<Bucket> = self.of.values().copied().collect();
        let middle = buckets.len() / 2;
        let (_, middle, _) = buckets.select_nth_unstable(middle);
        self.of.retain(|_, bucket| *bucket > *middle && !bucket.is_full(now));
    }
}

/// The time since the start in nanoseconds, plus one.
fn stamp(time: Duration) -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(nanos(time))
}

/// The time since the start in nanoseconds; 64 bits last for five centuries.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(in crate::server) mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A small pseudo-random generator (xorshift64*).
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

    /// Returns when each arrival is served, if each is served as soon as allowed.
    fn served(rate: Rate, arrivals: &[Duration]) -> Vec<Duration> {
        let mut bucket = Bucket::default();
        let mut before = Duration::ZERO;
        let serve = |&at: &Duration| {
            before = bucket.next_at(rate, at.max(before));
            bucket.count(rate, before);
            before
        };
        arrivals.iter().map(serve).collect()
    }

    #[test]
    fn burst_passes_at_once_and_the_rest_at_the_rate() {
        let rate = Rate::new(10, 3).expect("a limit");
        let times: Vec<u128> =
            served(rate, &[SECOND; 6]).iter().map(|at| at.as_millis() - 1000).collect();
        assert_eq!(times, [0, 0, 0, 100, 200, 300]);
        assert_eq!(Rate::new(0, 3), None);
    }

    #[test]
    fn rate_is_never_exceeded_and_slow_arrivals_never_wait() {
        for seed in 1..=200 {
            let mut draw = Draw(seed * 0x9E37_79B9);
            let (per_second, burst) = (1 + draw.below(50), 1 + draw.below(20));
            let rate = Rate::new(per_second, burst).expect("a limit");
            let mut at = Duration::ZERO;
            let mut arrivals = Vec::new();
            for _ in 0..200 {
                if draw.below(3) > 0 {
                    at += Duration::from_micros(draw.below(300_000).into());
                }
                arrivals.push(at);
            }
            let served = served(rate, &arrivals);
            // Nothing is lost, reordered or served before it arrives.
            assert_eq!(served.len(), arrivals.len());
            assert!(
                served.is_sorted()
                    && served.iter().zip(&arrivals).all(|(served, arrivals)| served >= arrivals)
            );
            let interval = SECOND / per_second;
            for (first, &from) in served.iter().enumerate() {
                for (&to, count) in served[first..].iter().zip(1..) {
                    let time = to.saturating_sub(from);
                    let most = interval * u32::saturating_sub(count, burst);
                    assert!(most <= time, "seed {seed}: {count} in {time:?}");
                }
            }
            // Arrivals at the rate or below never wait.
            let interval = interval + Duration::from_nanos(1);
            let slow: Vec<Duration> = (0..100)
                .scan(SECOND, |at, _| {
                    *at += interval + Duration::from_micros(draw.below(1000).into());
                    Some(*at)
                })
                .collect();
            assert_eq!(self::served(rate, &slow), slow, "seed {seed}");
        }
    }

    #[test]
    fn bucket_is_full_after_a_pause_and_no_fuller() {
        let rate = Rate::new(10, 3).expect("a limit");
        let mut bucket = Bucket::default();
        (0..3).for_each(|_| bucket.count(rate, SECOND));
        assert!(!bucket.is_full(SECOND) && bucket.is_full(SECOND * 2));
        (0..3).for_each(|_| bucket.count(rate, SECOND * 3600));
        assert_eq!(bucket.next_at(rate, SECOND * 3600), SECOND * 3600 + SECOND / 10);
    }

    #[test]
    fn number_of_buckets_is_bounded_and_the_emptiest_are_kept() {
        let mut limiter = RateLimiter::new(Rate::one_in(SECOND * 60, 2));
        let of = |number: u32| std::net::Ipv4Addr::from_bits(number).into();
        assert!(limiter.may_go_on(SECOND, of(0)) && limiter.may_go_on(SECOND, of(0)));
        for number in 1..10_000 {
            assert!(limiter.may_go_on(SECOND, of(number)));
            assert!(limiter.of.len() <= NETWORKS_MAX);
        }
        assert!(!limiter.may_go_on(SECOND * 60, of(0)), "its burst is used up");
        assert!(limiter.may_go_on(SECOND * 61, of(0)), "one more after a minute");
        assert!(!limiter.may_go_on(SECOND * 61, of(0)));
        let mut unlimited = RateLimiter::new(Rate::one_in(SECOND, 0));
        assert!((0..100).all(|_| unlimited.may_go_on(SECOND, of(0))));
    }
}
