//! Rate limits: a burst at once, then a steady rate.
//!
//! This is a token bucket, implemented as GCRA (the generic cell rate algorithm of ATM
//! networks). Instead of a number of tokens that a timer refills, a [`Bucket`] holds one
//! timestamp: when it will be full again. Each event moves that time forward by one interval;
//! an event is allowed if the time is then at most `depth` (burst × interval) ahead of now.
//! It knows nothing about what is limited.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::quota::nested;
use crate::server::net::peer::{Network, Peer};

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

    /// The same rate and burst this number of times. The depth is the product of more events
    /// and less time for each, so it stays.
    #[must_use]
    pub fn times(self, factor: usize) -> Self {
        let factor = u64::try_from(factor).unwrap_or(u64::MAX).max(1);
        Self { interval: self.interval / factor, ..self }
    }
}

/// A token bucket. A clone is the same bucket.
#[derive(Debug, Clone)]
pub struct Bucket(Arc<Level>);

#[derive(Debug)]
struct Level {
    rate: Rate,
    /// When the bucket is full again, in nanoseconds since the start. Atomic because clones
    /// share it; only one thread counts, so no order is needed.
    full_at: AtomicU64,
}

impl Bucket {
    /// Creates a full bucket.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self(Arc::new(Level { rate, full_at: AtomicU64::new(0) }))
    }

    fn full_at(&self) -> u64 {
        self.0.full_at.load(Ordering::Relaxed)
    }

    /// Returns when the next event is allowed: `now` at the earliest.
    #[must_use]
    pub fn next_at(&self, now: Duration) -> Duration {
        let Rate { interval, depth } = self.0.rate;
        let next_at = self.full_at().saturating_add(interval).saturating_sub(depth);
        Duration::from_nanos(next_at).max(now)
    }

    /// Counts an event.
    pub fn count(&self, now: Duration) {
        let full_at = self.full_at().max(nanos(now)).saturating_add(self.0.rate.interval);
        self.0.full_at.store(full_at, Ordering::Relaxed);
    }

    /// Returns whether the bucket is full.
    #[must_use]
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at() <= nanos(now)
    }

    /// Makes the bucket at least as empty as another one of the same rate.
    fn lower_to(&self, other: &Self) {
        self.0.full_at.fetch_max(other.full_at(), Ordering::Relaxed);
    }

    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// Number of unused buckets beyond which full ones are evicted, which changes nothing, and then
/// the fuller half of the rest.
const UNUSED_MAX: usize = 4096;

/// Buckets by key. While a bucket is in use elsewhere, and until it is full again, its key
/// refers to the same one.
#[derive(Debug)]
pub struct Buckets<K> {
    of: HashMap<K, Bucket>,
    /// The number of buckets at which the next ones are evicted.
    evict_at: usize,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { of: HashMap::new(), evict_at: UNUSED_MAX }
    }
}

impl<K: Eq + Hash> Buckets<K> {
    /// The bucket of a key, created with this rate if there is none.
    pub fn get(&mut self, now: Duration, key: K, rate: Rate) -> &Bucket {
        if self.of.len() >= self.evict_at && !self.of.contains_key(&key) {
            self.evict(now);
        }
        self.of.entry(key).or_insert_with(|| Bucket::new(rate))
    }

    /// Evicts at least half of the unused buckets, so that this is rarely needed.
    fn evict(&mut self, now: Duration) {
        let unused = self.of.values().filter(|bucket| !bucket.is_shared());
        let mut unused: Vec<u64> = unused.map(Bucket::full_at).collect();
        let in_use = self.of.len() - unused.len();
        let middle = unused.len() / 2;
        if middle < unused.len() {
            let (_, middle, _) = unused.select_nth_unstable(middle);
            self.of.retain(|_, bucket| {
                bucket.is_shared() || (bucket.full_at() > *middle && !bucket.is_full(now))
            });
        }
        // In proportion to those in use, so that each new bucket costs the same on average.
        self.evict_at = 2 * in_use + UNUSED_MAX;
    }
}

/// Applies one rate limit to each address, and multiples of it to the networks around it.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Option<Rate>,
    wider: usize,
    buckets: Buckets<Network>,
}

impl RateLimiter {
    /// Creates a limiter of each address; unlimited without a rate. Each wider network may do
    /// `wider` times as much.
    #[must_use]
    pub fn new(rate: Option<Rate>, wider: usize) -> Self {
        Self { rate, wider, buckets: Buckets::default() }
    }

    /// Allows an event of a peer now, and counts it.
    ///
    /// # Errors
    /// This network of the peer exceeds its rate; nothing is counted.
    pub fn allow(&mut self, now: Duration, peer: Peer) -> Result<(), Network> {
        let buckets = self.buckets_of(now, peer);
        let is_empty = |(_, bucket): &&(_, Bucket)| bucket.next_at(now) > now;
        if let Some((network, _)) = buckets.iter().find(is_empty) {
            return Err(*network);
        }
        for (_, bucket) in buckets {
            bucket.count(now);
        }
        Ok(())
    }

    fn buckets_of(&mut self, now: Duration, peer: Peer) -> Vec<(Network, Bucket)> {
        let Some(rate) = self.rate else { return Vec::new() };
        let networks = nested(peer.networks(), self.wider);
        let bucket =
            |(network, times)| (network, self.buckets.get(now, network, rate.times(times)).clone());
        networks.map(bucket).collect()
    }

    /// The budget of one source of a peer, which has a bucket of its own, too; `None` if it is
    /// unlimited.
    pub fn budget(&mut self, now: Duration, peer: Peer, own: Option<Rate>) -> Option<Budget> {
        let own = Bucket::new(own?);
        let mut networks = self.buckets_of(now, peer).into_iter().map(|(_, bucket)| bucket);
        let networks = std::array::from_fn(|_| networks.next());
        Some(Budget { own, is_shared: false, networks, turn: None })
    }
}

/// What the events of one source are counted in. If a bucket is empty, the source waits for its
/// turn. As it waits for one turn at a time, the sources of one network wait in order of their
/// requests, and none of them delays another by more than one event.
#[derive(Debug)]
pub struct Budget {
    own: Bucket,
    is_shared: bool,
    networks: [Option<Bucket>; 3],
    /// When the event takes place that is counted already.
    turn: Option<Duration>,
}

impl Budget {
    /// Takes an event.
    ///
    /// # Errors
    /// It has to wait until this time; it is taken again then.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        let at = self.turn.take().unwrap_or_else(|| {
            let buckets = || self.networks.iter().flatten().chain([&self.own]);
            let at = buckets().map(|bucket| bucket.next_at(now)).max();
            buckets().for_each(|bucket| bucket.count(now));
            at.unwrap_or(now)
        });
        if at <= now {
            return Ok(());
        }
        self.turn = Some(at);
        Err(at)
    }

    /// Gives back an event that has been taken but did not take place.
    pub fn put_back(&mut self) {
        self.turn = Some(Duration::ZERO);
    }

    /// Whether [`Self::share`] has replaced its own bucket.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Counts in this bucket instead of one of its own, including what it has counted so far.
    pub fn share(&mut self, bucket: &Bucket) {
        bucket.lower_to(&self.own);
        (self.own, self.is_shared) = (bucket.clone(), true);
    }
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
        let bucket = Bucket::new(rate);
        let mut before = Duration::ZERO;
        let serve = |&at: &Duration| {
            before = bucket.next_at(at.max(before));
            bucket.count(before);
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
        let bucket = Bucket::new(rate);
        (0..3).for_each(|_| bucket.count(SECOND));
        assert!(!bucket.is_full(SECOND) && bucket.is_full(SECOND * 2));
        (0..3).for_each(|_| bucket.count(SECOND * 3600));
        assert_eq!(bucket.next_at(SECOND * 3600), SECOND * 3600 + SECOND / 10);
    }

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().expect("an address"))
    }

    /// A peer in a /24 of its own.
    fn customer(number: u32) -> Peer {
        Peer::new(std::net::Ipv4Addr::from_bits(number << 8).into())
    }

    /// Returns how many events of the addresses in turn are allowed at once.
    fn allowed(limiter: &mut RateLimiter, addresses: impl Iterator<Item = String>) -> usize {
        addresses.filter(|address| limiter.allow(SECOND, peer(address)).is_ok()).count()
    }

    #[test]
    fn each_wider_network_has_a_multiple_of_the_rate() {
        type Address = fn(u32) -> String;
        let cases: [(Address, usize); 4] = [
            (|_| "192.0.2.7".to_owned(), 2),
            (|n| format!("192.0.2.{}", n % 250), 8),
            (|n| format!("2001:db8:0:{:x}::1", n % 256), 8),
            (|n| format!("2001:db8:0:{n:x}::1"), 32),
        ];
        for (address, burst) in cases {
            let mut limiter = RateLimiter::new(Rate::one_in(SECOND, 2), 4);
            assert_eq!(allowed(&mut limiter, (0..5000).map(address)), burst, "{}", address(1));
            let refused = limiter.allow(SECOND, peer(&address(0))).expect_err("used up");
            assert!(refused.contains(peer(&address(0))));
            assert_eq!(limiter.allow(SECOND, peer("198.51.100.1")), Ok(()), "others");
            let second =
                (0..5000).filter(|n| limiter.allow(SECOND * 2, peer(&address(*n))).is_ok());
            assert_eq!(second.count(), burst / 2, "in the next second");
        }
    }

    #[test]
    fn number_of_buckets_is_bounded_and_the_emptiest_are_kept() {
        let mut limiter = RateLimiter::new(Rate::one_in(SECOND * 60, 2), 1);
        let of = customer;
        let mut may = |now: Duration, peer| {
            let may = limiter.allow(now, peer).is_ok();
            assert!(limiter.buckets.of.len() <= UNUSED_MAX + 1);
            may
        };
        assert!(may(SECOND, of(0)) && may(SECOND, of(0)));
        for number in 1..10_000 {
            assert!(may(SECOND, of(number)));
        }
        assert!(!may(SECOND * 60, of(0)), "its burst is used up");
        assert!(may(SECOND * 61, of(0)), "one more after a minute");
        assert!(!may(SECOND * 61, of(0)));
        let mut unlimited = RateLimiter::new(Rate::one_in(SECOND, 0), 4);
        assert!((0..100).all(|_| unlimited.allow(SECOND, of(0)).is_ok()));
        assert!(unlimited.buckets.of.is_empty());
    }

    #[test]
    fn buckets_in_use_are_never_evicted() {
        let mut buckets = Buckets::default();
        let rate = Rate::new(1, 1).expect("a limit");
        let used: Vec<Bucket> =
            (0..10_000).map(|key| buckets.get(SECOND, key, rate).clone()).collect();
        for bucket in &used {
            bucket.count(SECOND);
        }
        for key in 10_000..100_000 {
            buckets.get(SECOND, key, rate);
        }
        for (key, bucket) in used.iter().enumerate() {
            assert_eq!(buckets.get(SECOND, key, rate).full_at(), bucket.full_at());
        }
        assert!(buckets.of.len() <= 2 * used.len() + UNUSED_MAX);
    }

    /// The budgets of new connections: 10 lines per second after a burst of 5 each, and twice
    /// that per address.
    fn new_connections<const N: usize>(limiter: &mut RateLimiter, address: &str) -> [Budget; N] {
        let own = Rate::new(10, 5);
        let budget = |_| limiter.budget(SECOND, peer(address), own).expect("a limit");
        std::array::from_fn(budget)
    }

    fn line_limiter() -> RateLimiter {
        RateLimiter::new(Rate::new(10, 5).map(|rate| rate.times(2)), 2)
    }

    #[test]
    fn connections_of_one_address_share_a_budget_in_turn() {
        let mut limiter = line_limiter();
        // Each reconnection has a burst of its own, but the address does not.
        let mut taken = 0;
        for _ in 0..10 {
            let [mut connection] = new_connections(&mut limiter, "192.0.2.1");
            taken += (0..5).filter(|_| connection.take(SECOND).is_ok()).count();
        }
        assert_eq!(taken, 10);
        let [mut other] = new_connections(&mut limiter, "192.0.2.2");
        assert_eq!(other.take(SECOND), Ok(()), "another address");
        // Eight of them waited when they ended, so that they are counted.
        let [mut first, mut second] = new_connections(&mut limiter, "192.0.2.1");
        let turn = |connection: &mut Budget| connection.take(SECOND).expect_err("has to wait");
        let turns = [turn(&mut first), turn(&mut second), turn(&mut first)];
        let interval = SECOND / 20;
        assert_eq!(turns, [SECOND + interval * 9, SECOND + interval * 10, turns[0]]);
        assert_eq!(first.take(turns[0]), Ok(()));
        assert_eq!(first.take(turns[0]), Err(turns[0] + interval * 2), "after the second");
        assert_eq!(second.take(turns[1]), Ok(()));
    }

    #[test]
    fn line_that_did_not_come_is_not_counted_twice() {
        let mut limiter = line_limiter();
        let [mut connection] = new_connections(&mut limiter, "192.0.2.1");
        for _ in 0..100 {
            assert_eq!(connection.take(SECOND), Ok(()));
            connection.put_back();
        }
        assert_eq!((0..10).filter(|_| connection.take(SECOND).is_ok()).count(), 5);
    }

    #[test]
    fn connections_of_one_user_share_a_bucket() {
        let (mut limiter, mut users) = (line_limiter(), Buckets::default());
        let rate = Rate::new(10, 5).expect("a limit");
        let mut left = Vec::new();
        for address in ["192.0.2.1", "198.51.100.1", "203.0.113.1"] {
            let [mut connection] = new_connections(&mut limiter, address);
            assert_eq!(connection.take(SECOND), Ok(()), "the login");
            connection.share(users.get(SECOND, "alice", rate));
            left.push((0..5).filter(|_| connection.take(SECOND).is_ok()).count());
        }
        assert_eq!(left, [4, 0, 0]);
    }
}
