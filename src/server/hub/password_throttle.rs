//! Guesses at passwords: past a few wrong ones each further try at the same from one
//! network waits, longer each time, and one waits for the other; past more of them each
//! further try from that network at anything. Nobody is ever locked out for long, and
//! tries from elsewhere make nobody wait. A right one makes the wrong ones at the same
//! good; those of its network at anything only time does.
//!
//! Only what turned out to be wrong counts, so many who are right at once do not wait
//! for more than each other. What is being checked is taken to be wrong until it is
//! known: as many may be as are free.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{ConnId, Key, Limits, UserId};

/// What takes a password, and from where it is tried.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) at: Guarded,
    pub(super) network: IpAddr,
    /// Whether all tries from there count together, too: of this machine they do not,
    /// as it may pass connections on.
    pub(super) is_one_source: bool,
}

/// What takes a password.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Guarded {
    /// To be somebody.
    Account(UserId),
    /// To be an operator of the server.
    Rule,
    /// To be let in at all.
    Server,
    /// To come into a locked room.
    Room(Key),
}

/// Why a try is not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Others are being checked.
    ForOthers,
    /// Too many were wrong.
    Until(Duration),
}

/// What is known of tries that were not right yet.
#[derive(Debug)]
pub(super) struct PasswordThrottle {
    /// So many wrong ones wait for nothing: fingers slip.
    retry_at: u32,
    /// The same of all from one network: those of a whole class.
    free_of_network: u32,
    /// The first delay.
    delay: Duration,
    tries: HashMap<Source, Attempts>,
    /// Whose try is being checked.
    checking: HashMap<ConnId, Target>,
}

/// From where, and at what; or at anything.
type Source = (IpAddr, Option<Guarded>);

#[derive(Debug, Default)]
struct Attempts {
    wrong: u32,
    checking: u32,
    /// Before this none is checked.
    next: Duration,
}

/// How often the delay doubles. With a delay of a second no more than 25 are checked
/// in five minutes.
const DOUBLINGS: u32 = 4;

/// What was wrong so long ago is forgotten.
const MEMORY: Duration = Duration::from_mins(10);

/// How many sources are remembered; the ones that may be tried again first are
/// forgotten first.
const SOURCES_MAX: usize = 10_000;

impl Target {
    /// What it counts for.
    fn sources(&self) -> impl Iterator<Item = Source> {
        let network = self.is_one_source.then_some((self.network, None));
        std::iter::once((self.network, Some(self.at.clone()))).chain(network)
    }
}

impl Attempts {
    fn wait(&self, now: Duration, free: u32) -> Option<Wait> {
        if self.wrong + self.checking < free {
            None
        } else if self.checking > 0 {
            Some(Wait::ForOthers)
        } else {
            (now < self.next).then_some(Wait::Until(self.next))
        }
    }

    fn is_past(&self, now: Duration) -> bool {
        self.checking == 0 && now > self.next + MEMORY
    }
}

impl PasswordThrottle {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            retry_at: limits.guesses,
            free_of_network: limits.guesses_per_address,
            delay: limits.guess_delay,
            tries: HashMap::new(),
            checking: HashMap::new(),
        }
    }

    fn retry_at(&self, (_, at): &Source) -> u32 {
        if at.is_some() { self.retry_at } else { self.free_of_network }
    }

    /// A try. It is to be checked now, and then [`Self::end`] is to be told; else `Err`
    /// tells what it has to wait for.
    pub(super) fn begin(
        &mut self,
        now: Duration,
        conn: ConnId,
        target: &Target,
    ) -> Result<(), Wait> {
        let waits = target.sources().filter_map(|source| {
            let tries = self.tries.get(&source).filter(|tries| !tries.is_past(now))?;
            tries.wait(now, self.retry_at(&source))
        });
        if let Some(wait) = waits.reduce(Wait::longer) {
            return Err(wait);
        }
        for source in target.sources() {
            self.make_room_for(now, &source);
            let tries = self.tries.entry(source).or_default();
            if tries.is_past(now) {
                *tries = Attempts { next: now, ..Attempts::default() };
            }
            tries.checking += 1;
        }
        self.checking.insert(conn, target.clone());
        Ok(())
    }

    /// What has come of a try, if anything has; tells what was tried.
    pub(super) fn end(
        &mut self,
        now: Duration,
        conn: ConnId,
        is_right: Option<bool>,
    ) -> Option<Target> {
        let target = self.checking.remove(&conn)?;
        for source in target.sources() {
            let (is_network, free) = (source.1.is_none(), self.retry_at(&source));
            let Some(tries) = self.tries.get_mut(&source) else { continue };
            tries.checking -= 1;
            match is_right {
                // One's own password is no proof for those of others.
                Some(true) if !is_network => (tries.wrong, tries.next) = (0, now),
                Some(false) => {
                    tries.wrong += 1;
                    let past = tries.wrong.checked_sub(free);
                    let delay = past.map(|past| self.delay * (1 << past.min(DOUBLINGS)));
                    tries.next = now + delay.unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(target)
    }

    fn make_room_for(&mut self, now: Duration, source: &Source) {
        if self.tries.len() < SOURCES_MAX || self.tries.contains_key(source) {
            return;
        }
        self.tries.retain(|_, tries| !tries.is_past(now));
        while self.tries.len() >= SOURCES_MAX {
            let idle = self.tries.iter().filter(|(_, tries)| tries.checking == 0);
            let soonest = idle.min_by_key(|(_, tries)| tries.next);
            let Some(source) = soonest.map(|(source, _)| source.clone()) else { return };
            self.tries.remove(&source);
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
    use crate::server::rate_limit::tests::Draw;

    const SECOND: Duration = Duration::from_secs(1);

    fn target(account: u64, last: u8) -> Target {
        let (at, network) = (Guarded::Account(UserId(account)), [192, 0, 2, last].into());
        Target { at, network, is_one_source: false }
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    /// A try whose outcome is known at once.
    fn guess(
        guesses: &mut PasswordThrottle,
        now: Duration,
        target: &Target,
        is_right: bool,
    ) -> Result<(), Wait> {
        guesses.begin(now, conn(0), target)?;
        assert_eq!(guesses.end(now, conn(0), Some(is_right)).as_ref(), Some(target));
        Ok(())
    }

    #[test]
    fn past_a_few_each_try_waits_for_the_one_before() {
        let mut guesses = PasswordThrottle::new(&Limits::default());
        let at = |seconds: u32| SECOND * seconds;
        let (here, there) = (target(1, 1), target(1, 2));
        // Who tries again as soon as they may.
        let (mut now, mut starts) = (at(100), Vec::new());
        while starts.len() < 12 {
            match guess(&mut guesses, now, &here, false) {
                Ok(()) => starts.push(now.as_secs() - 100),
                Err(Wait::Until(later)) => now = later,
                Err(Wait::ForOthers) => panic!("there are none"),
            }
        }
        assert_eq!(starts, [0, 0, 0, 0, 1, 3, 7, 15, 31, 47, 63, 79]);
        // Waiting counts for nothing.
        for _ in 0..100 {
            assert_eq!(guess(&mut guesses, at(180), &here, false), Err(Wait::Until(at(195))));
        }
        // Not from elsewhere, nor at somebody else.
        assert_eq!(guess(&mut guesses, at(180), &there, false), Ok(()));
        assert_eq!(guess(&mut guesses, at(180), &target(2, 1), false), Ok(()));
        // A right one, or time, makes it good.
        assert_eq!(guess(&mut guesses, at(195), &here, true), Ok(()));
        for _ in 0..guesses.retry_at {
            assert_eq!(guess(&mut guesses, at(195), &here, false), Ok(()));
        }
        assert_eq!(guess(&mut guesses, at(195), &here, false), Err(Wait::Until(at(196))));
        assert_eq!(guess(&mut guesses, at(2000), &here, false), Ok(()));
    }

    #[test]
    fn at_once_as_many_are_checked_as_may_be_wrong_and_who_is_right_never_waits_for_time() {
        let mut guesses = PasswordThrottle::new(&Limits::default());
        let class = target(1, 1);
        let mut waiting: Vec<u32> = (0..30).collect();
        let (mut checking, mut right) = (Vec::new(), 0);
        while right < 30 {
            waiting.retain(|slot| match guesses.begin(SECOND, conn(*slot), &class) {
                Ok(()) => {
                    checking.push(*slot);
                    false
                }
                Err(wait) => {
                    assert_eq!(wait, Wait::ForOthers);
                    true
                }
            });
            assert!(checking.len() <= guesses.retry_at as usize);
            let done = checking.pop().expect("somebody is checked");
            assert!(guesses.end(SECOND, conn(done), Some(true)).is_some());
            right += 1;
        }
        // What could not be checked counts for nothing.
        for slot in 0..100 {
            assert_eq!(guesses.begin(SECOND, conn(slot), &class), Ok(()));
            assert!(guesses.end(SECOND, conn(slot), None).is_some());
        }
    }

    #[test]
    fn many_wrong_at_many_from_one_network_wait_too() {
        let mut guesses = PasswordThrottle::new(&Limits::default());
        let one_source = |account| Target { is_one_source: true, ..target(account, 1) };
        for account in 0..u64::from(guesses.free_of_network) {
            assert_eq!(guess(&mut guesses, SECOND, &one_source(account), false), Ok(()));
        }
        let next = Err(Wait::Until(SECOND * 2));
        assert_eq!(guess(&mut guesses, SECOND, &one_source(99), false), next);
        // One's own is no proof.
        assert_eq!(guess(&mut guesses, SECOND * 2, &one_source(7), true), Ok(()));
        assert_eq!(guess(&mut guesses, SECOND * 2, &one_source(99), false), Ok(()));
        assert_eq!(
            guess(&mut guesses, SECOND * 2, &one_source(99), false),
            Err(Wait::Until(SECOND * 4))
        );
        // Where everybody may come from, one does not wait for another.
        assert_eq!(guess(&mut guesses, SECOND * 2, &target(99, 1), false), Ok(()));
    }

    #[test]
    fn whoever_guesses_in_whatever_way_has_few_checked() {
        for seed in 1..=100 {
            let mut guesses = PasswordThrottle::new(&Limits::default());
            let mut draw = Draw(seed * 0x9E37_79B9);
            let (mut now, mut checking, mut begun) = (SECOND, Vec::new(), Vec::new());
            for slot in 0..3000 {
                now += Duration::from_millis(u64::from(draw.below(500)));
                if guesses.begin(now, conn(slot), &target(1, 1)).is_ok() {
                    checking.push(slot);
                    begun.push(now);
                }
                // Some take long, and whoever asked may have gone.
                while !checking.is_empty() && draw.below(3) > 0 {
                    let at = draw.below(u32::try_from(checking.len()).expect("few"));
                    let slot = checking.swap_remove(at as usize);
                    assert!(guesses.end(now, conn(slot), Some(false)).is_some());
                }
            }
            assert!(begun.len() > 10, "nobody is locked out");
            for (first, from) in begun.iter().enumerate() {
                let soon = begun[first..].iter().take_while(|to| **to < *from + SECOND * 300);
                assert!(soon.count() <= 25, "seed {seed}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut guesses = PasswordThrottle::new(&Limits::default());
        for account in 0..SOURCES_MAX as u64 + 100 {
            assert_eq!(guess(&mut guesses, SECOND, &target(account, 1), false), Ok(()));
        }
        assert_eq!(guesses.tries.len(), SOURCES_MAX);
    }
}
