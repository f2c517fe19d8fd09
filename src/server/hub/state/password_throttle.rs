//! The password throttle: after a few wrong attempts from one network at one target, each
//! further attempt is delayed, up to 16 times the first delay, and attempts run one at a
//! time. The same applies, with a higher threshold, to all attempts from one network.
//! Accounts are never locked, and attempts from other networks are not delayed. A right
//! password resets its target; the count of the network expires only with time.
//!
//! Only wrong passwords count, so many concurrent right ones wait at most for each other. A
//! running check counts as wrong until its outcome is known. The throttle knows no
//! passwords and has no clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::protocol::Key;
use crate::server::limits::Limits;
use crate::server::net::ConnId;
use crate::server::record::UserId;

/// A target of attempts and the network they come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) at: Guarded,
    pub(crate) network: IpAddr,
    /// Whether all attempts from this network count together. Not for loopback, which may
    /// be a proxy for many clients.
    pub(crate) is_one_source: bool,
}

/// What a password protects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Guarded {
    /// An account.
    Account(UserId),
    /// The rights of a server operator.
    ServerOperator,
    /// The server itself.
    Server,
    /// A locked room.
    Room(Key),
}

/// Why an attempt is delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Other checks are running.
    ForOthers,
    /// Too many attempts were wrong; the next may start at this time.
    Until(Duration),
}

/// Counts wrong password attempts per source and delays further ones.
#[derive(Debug)]
pub(crate) struct PasswordThrottle {
    /// Wrong attempts at one target without a delay, for typing errors.
    free_of_target: u32,
    /// Wrong attempts from one network at any target without a delay: enough for a whole
    /// class.
    free_of_network: u32,
    /// The first delay.
    delay: Duration,
    attempts: HashMap<Source, Attempts>,
    /// The running check of each connection.
    checking: HashMap<ConnId, Target>,
}

/// A network with a target, or with `None` for all targets.
type Source = (IpAddr, Option<Guarded>);

#[derive(Debug, Default)]
struct Attempts {
    wrong: u32,
    checking: u32,
    /// The earliest time of the next check.
    next: Duration,
}

/// How often the delay doubles. With a first delay of 1 s, at most 25 attempts are checked
/// in five minutes.
const DOUBLINGS_MAX: u32 = 4;

/// How long wrong attempts are remembered after their delay.
const EXPIRY: Duration = Duration::from_mins(10);

/// Maximum number of sources. The source whose delay ends first is evicted first.
const SOURCES_MAX: usize = 10_000;

impl Target {
    /// Returns the sources this attempt counts for.
    fn sources(&self) -> impl Iterator<Item = Source> {
        let network = self.is_one_source.then_some((self.network, None));
        std::iter::once((self.network, Some(self.at.clone()))).chain(network)
    }
}

impl Attempts {
    fn wait(&self, now: Duration, threshold: u32) -> Option<Wait> {
        if self.wrong + self.checking < threshold {
            None
        } else if self.checking > 0 {
            Some(Wait::ForOthers)
        } else {
            (now < self.next).then_some(Wait::Until(self.next))
        }
    }

    fn is_expired(&self, now: Duration) -> bool {
        self.checking == 0 && now > self.next + EXPIRY
    }
}

impl PasswordThrottle {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            free_of_target: limits.guesses,
            free_of_network: limits.guesses_per_address,
            delay: limits.guess_delay,
            attempts: HashMap::new(),
            checking: HashMap::new(),
        }
    }

    fn threshold(&self, (_, at): &Source) -> u32 {
        if at.is_some() { self.free_of_target } else { self.free_of_network }
    }

    /// Starts an attempt. After `Ok` the caller checks it and then calls [`Self::end`];
    /// `Err` is what it has to wait for.
    pub(crate) fn begin(
        &mut self,
        now: Duration,
        conn: ConnId,
        target: &Target,
    ) -> Result<(), Wait> {
        let waits = target.sources().filter_map(|source| {
            let attempts =
                self.attempts.get(&source).filter(|attempts| !attempts.is_expired(now))?;
            attempts.wait(now, self.threshold(&source))
        });
        if let Some(wait) = waits.reduce(Wait::longer) {
            return Err(wait);
        }
        for source in target.sources() {
            self.evict_for(now, &source);
            let attempts = self.attempts.entry(source).or_default();
            if attempts.is_expired(now) {
                *attempts = Attempts { next: now, ..Attempts::default() };
            }
            attempts.checking += 1;
        }
        self.checking.insert(conn, target.clone());
        Ok(())
    }

    /// Ends an attempt; `is_right` is `None` if it could not be checked. Returns its
    /// target.
    pub(crate) fn end(
        &mut self,
        now: Duration,
        conn: ConnId,
        is_right: Option<bool>,
    ) -> Option<Target> {
        let target = self.checking.remove(&conn)?;
        for source in target.sources() {
            let (is_network, threshold) = (source.1.is_none(), self.threshold(&source));
            let Some(attempts) = self.attempts.get_mut(&source) else { continue };
            attempts.checking -= 1;
            match is_right {
                // A right password for one account proves nothing about attempts at others.
                Some(true) if !is_network => (attempts.wrong, attempts.next) = (0, now),
                Some(false) => {
                    attempts.wrong += 1;
                    let past = attempts.wrong.checked_sub(threshold);
                    let delay = past.map(|past| self.delay * (1 << past.min(DOUBLINGS_MAX)));
                    attempts.next = now + delay.unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(target)
    }

    fn evict_for(&mut self, now: Duration, source: &Source) {
        if self.attempts.len() < SOURCES_MAX || self.attempts.contains_key(source) {
            return;
        }
        self.attempts.retain(|_, attempts| !attempts.is_expired(now));
        while self.attempts.len() >= SOURCES_MAX {
            let idle = self.attempts.iter().filter(|(_, attempts)| attempts.checking == 0);
            let soonest = idle.min_by_key(|(_, attempts)| attempts.next);
            let Some(source) = soonest.map(|(source, _)| source.clone()) else { return };
            self.attempts.remove(&source);
        }
    }
}

impl Wait {
    fn longer(self, other: Self) -> Self {
        match (self, other) {
            (Self::Until(one), Self::Until(other)) => Self::Until(one.max(other)),
            (until @ Self::Until(_), _) | (_, until) => until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::limits::rate_limit::tests::Draw;

    const SECOND: Duration = Duration::from_secs(1);

    fn target(account: u64, last: u8) -> Target {
        let (at, network) = (Guarded::Account(UserId(account)), [192, 0, 2, last].into());
        Target { at, network, is_one_source: false }
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    /// An attempt whose outcome is known at once.
    fn attempt(
        throttle: &mut PasswordThrottle,
        now: Duration,
        target: &Target,
        is_right: bool,
    ) -> Result<(), Wait> {
        throttle.begin(now, conn(0), target)?;
        assert_eq!(throttle.end(now, conn(0), Some(is_right)).as_ref(), Some(target));
        Ok(())
    }

    #[test]
    fn delay_doubles_after_a_few_wrong_attempts() {
        let mut throttle = PasswordThrottle::new(&Limits::default());
        let at = |seconds: u32| SECOND * seconds;
        let (here, there) = (target(1, 1), target(1, 2));
        // Retries as soon as permitted.
        let (mut now, mut starts) = (at(100), Vec::new());
        while starts.len() < 12 {
            match attempt(&mut throttle, now, &here, false) {
                Ok(()) => starts.push(now.as_secs() - 100),
                Err(Wait::Until(later)) => now = later,
                Err(Wait::ForOthers) => panic!("no check is running"),
            }
        }
        assert_eq!(starts, [0, 0, 0, 0, 1, 3, 7, 15, 31, 47, 63, 79]);
        // Delayed attempts do not count.
        for _ in 0..100 {
            assert_eq!(attempt(&mut throttle, at(180), &here, false), Err(Wait::Until(at(195))));
        }
        // Neither from another network nor at another account.
        assert_eq!(attempt(&mut throttle, at(180), &there, false), Ok(()));
        assert_eq!(attempt(&mut throttle, at(180), &target(2, 1), false), Ok(()));
        // A right password, or time, resets the count.
        assert_eq!(attempt(&mut throttle, at(195), &here, true), Ok(()));
        for _ in 0..throttle.free_of_target {
            assert_eq!(attempt(&mut throttle, at(195), &here, false), Ok(()));
        }
        assert_eq!(attempt(&mut throttle, at(195), &here, false), Err(Wait::Until(at(196))));
        assert_eq!(attempt(&mut throttle, at(2000), &here, false), Ok(()));
    }

    #[test]
    fn concurrent_checks_are_limited_and_right_passwords_are_never_delayed() {
        let mut throttle = PasswordThrottle::new(&Limits::default());
        let class = target(1, 1);
        let mut waiting: Vec<u32> = (0..30).collect();
        let (mut checking, mut right) = (Vec::new(), 0);
        while right < 30 {
            waiting.retain(|slot| match throttle.begin(SECOND, conn(*slot), &class) {
                Ok(()) => {
                    checking.push(*slot);
                    false
                }
                Err(wait) => {
                    assert_eq!(wait, Wait::ForOthers);
                    true
                }
            });
            assert!(checking.len() <= throttle.free_of_target as usize);
            let done = checking.pop().expect("a check is running");
            assert!(throttle.end(SECOND, conn(done), Some(true)).is_some());
            right += 1;
        }
        // Attempts that could not be checked do not count.
        for slot in 0..100 {
            assert_eq!(throttle.begin(SECOND, conn(slot), &class), Ok(()));
            assert!(throttle.end(SECOND, conn(slot), None).is_some());
        }
    }

    #[test]
    fn wrong_attempts_at_many_accounts_are_throttled_per_network() {
        let mut throttle = PasswordThrottle::new(&Limits::default());
        let one_source = |account| Target { is_one_source: true, ..target(account, 1) };
        for account in 0..u64::from(throttle.free_of_network) {
            assert_eq!(attempt(&mut throttle, SECOND, &one_source(account), false), Ok(()));
        }
        let next = Err(Wait::Until(SECOND * 2));
        assert_eq!(attempt(&mut throttle, SECOND, &one_source(99), false), next);
        // A right password does not reset the network.
        assert_eq!(attempt(&mut throttle, SECOND * 2, &one_source(7), true), Ok(()));
        assert_eq!(attempt(&mut throttle, SECOND * 2, &one_source(99), false), Ok(()));
        assert_eq!(
            attempt(&mut throttle, SECOND * 2, &one_source(99), false),
            Err(Wait::Until(SECOND * 4))
        );
        // Attempts from a shared source are not delayed by each other.
        assert_eq!(attempt(&mut throttle, SECOND * 2, &target(99, 1), false), Ok(()));
    }

    #[test]
    fn at_most_25_attempts_are_checked_in_five_minutes() {
        for seed in 1..=100 {
            let mut throttle = PasswordThrottle::new(&Limits::default());
            let mut draw = Draw(seed * 0x9E37_79B9);
            let (mut now, mut checking, mut started) = (SECOND, Vec::new(), Vec::new());
            for slot in 0..3000 {
                now += Duration::from_millis(u64::from(draw.below(500)));
                if throttle.begin(now, conn(slot), &target(1, 1)).is_ok() {
                    checking.push(slot);
                    started.push(now);
                }
                // Some checks take long, and the connection may have closed.
                while !checking.is_empty() && draw.below(3) > 0 {
                    let at = draw.below(u32::try_from(checking.len()).expect("few"));
                    let slot = checking.swap_remove(at as usize);
                    assert!(throttle.end(now, conn(slot), Some(false)).is_some());
                }
            }
            assert!(started.len() > 10, "attempts are never locked out");
            for (first, from) in started.iter().enumerate() {
                let soon = started[first..].iter().take_while(|to| **to < *from + SECOND * 300);
                assert!(soon.count() <= 25, "seed {seed}");
            }
        }
    }

    #[test]
    fn sources_are_bounded() {
        let mut throttle = PasswordThrottle::new(&Limits::default());
        for account in 0..SOURCES_MAX as u64 + 100 {
            assert_eq!(attempt(&mut throttle, SECOND, &target(account, 1), false), Ok(()));
        }
        assert_eq!(throttle.attempts.len(), SOURCES_MAX);
    }
}
