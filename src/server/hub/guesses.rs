//! Guesses at passwords: past a few, each further try at the same from one
//! network waits, longer each time, and one waits for the other. Nobody is ever
//! locked out: every try is checked in the end, and tries from elsewhere do not
//! make the owner wait. Only what is checked counts: whose connection is lost while
//! waiting makes nobody wait, and a right one lets all who wait be checked. (Who has
//! only ended its side, as netcat does, still waits for its answer.)

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Key, PersonId};

/// What takes a password, and from where it is tried.
pub(super) type Target = (Guarded, IpAddr);

/// What takes a password.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Guarded {
    /// To be somebody.
    Account(PersonId),
    /// To be an operator of the server.
    Rule,
    /// To be let in at all.
    Server,
    /// To come into a locked room.
    Room(Key),
}

/// What is known of tries that were not right yet.
#[derive(Debug)]
pub(super) struct Guesses {
    /// The first delay.
    delay: Duration,
    tries: HashMap<Target, Tries>,
}

#[derive(Debug, Default)]
struct Tries {
    count: u32,
    /// Before this none is checked.
    next: Duration,
}

/// So many tries wait for nothing: fingers slip.
const FREE: u32 = 5;

/// How often the delay doubles.
const DOUBLINGS: u32 = 2;

/// What was wrong so long ago is forgotten.
const MEMORY: Duration = Duration::from_mins(10);

/// How many are remembered; the ones that may be tried again first are forgotten
/// first.
const TARGETS_MAX: usize = 10_000;

impl Guesses {
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, tries: HashMap::new() }
    }

    /// A try. If it is to be checked now that counts; else `Err` tells when to come
    /// again.
    pub(super) fn begin(&mut self, now: Duration, target: Target) -> Result<(), Duration> {
        if self.tries.len() >= TARGETS_MAX && !self.tries.contains_key(&target) {
            self.make_room(now);
        }
        let tries = self.tries.entry(target).or_default();
        if now > tries.next + MEMORY {
            *tries = Tries::default();
        }
        if tries.count >= FREE && now < tries.next {
            return Err(tries.next);
        }
        tries.count += 1;
        tries.next = now;
        if tries.count >= FREE {
            tries.next += self.delay * (1 << (tries.count - FREE).min(DOUBLINGS));
        }
        Ok(())
    }

    /// It was right.
    pub(super) fn forget(&mut self, target: &Target) {
        self.tries.remove(target);
    }

    fn make_room(&mut self, now: Duration) {
        self.tries.retain(|_, tries| now <= tries.next + MEMORY);
        while self.tries.len() >= TARGETS_MAX {
            let soonest = self.tries.iter().min_by_key(|(_, tries)| tries.next);
            let Some(target) = soonest.map(|(target, _)| target.clone()) else { return };
            self.tries.remove(&target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn target(account: u64, last: u8) -> Target {
        (Guarded::Account(PersonId(account)), IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn past_a_few_each_try_waits_for_the_one_before() {
        let mut guesses = Guesses::new(SECOND);
        let at = |seconds: u32| SECOND * seconds;
        // Who tries again as soon as they may.
        let (mut now, mut starts) = (at(100), Vec::new());
        while starts.len() < 10 {
            match guesses.begin(now, target(1, 1)) {
                Ok(()) => starts.push(now.as_secs() - 100),
                Err(later) => now = later,
            }
        }
        assert_eq!(starts, [0, 0, 0, 0, 0, 1, 3, 7, 11, 15]);
        // Waiting counts for nothing.
        for _ in 0..100 {
            assert_eq!(guesses.begin(at(116), target(1, 1)), Err(at(119)));
        }
        // Not from elsewhere, nor at somebody else.
        assert_eq!(guesses.begin(at(116), target(1, 2)), Ok(()));
        assert_eq!(guesses.begin(at(116), target(2, 1)), Ok(()));
        // A right one, or time, makes it good.
        guesses.forget(&target(1, 1));
        for _ in 0..FREE {
            assert_eq!(guesses.begin(at(116), target(1, 1)), Ok(()));
        }
        assert_eq!(guesses.begin(at(116), target(1, 1)), Err(at(117)));
        assert_eq!(guesses.begin(at(2000), target(1, 1)), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut guesses = Guesses::new(SECOND);
        for account in 0..TARGETS_MAX as u64 + 100 {
            assert_eq!(guesses.begin(SECOND, target(account, 1)), Ok(()));
        }
        assert_eq!(guesses.tries.len(), TARGETS_MAX);
    }
}
