//! Guesses at passwords: past a few, each further try at the same from one
//! network waits, longer each time, and one waits for the other. Nobody is ever
//! locked out: every try is checked in the end, and tries from elsewhere do not
//! make the owner wait.

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

    /// A try; tells when it is to be checked.
    pub(super) fn begin(&mut self, now: Duration, target: Target) -> Duration {
        if self.tries.len() >= TARGETS_MAX && !self.tries.contains_key(&target) {
            self.make_room(now);
        }
        let tries = self.tries.entry(target).or_default();
        if now > tries.next + MEMORY {
            *tries = Tries::default();
        }
        let start = if tries.count < FREE { now } else { now.max(tries.next) };
        tries.count += 1;
        tries.next = start;
        if tries.count >= FREE {
            tries.next += self.delay * (1 << (tries.count - FREE).min(DOUBLINGS));
        }
        start
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
        let mut starts: Vec<u64> = Vec::new();
        for _ in 0..10 {
            starts.push(guesses.begin(SECOND * 100, target(1, 1)).as_secs() - 100);
        }
        assert_eq!(starts, [0, 0, 0, 0, 0, 1, 3, 7, 11, 15]);
        // Not from elsewhere, nor at somebody else.
        assert_eq!(guesses.begin(SECOND * 100, target(1, 2)), SECOND * 100);
        assert_eq!(guesses.begin(SECOND * 100, target(2, 1)), SECOND * 100);
        // A right one, or time, makes it good.
        guesses.forget(&target(1, 1));
        assert_eq!(guesses.begin(SECOND * 101, target(1, 1)), SECOND * 101);
        for _ in 0..10 {
            guesses.begin(SECOND * 101, target(1, 1));
        }
        assert_eq!(guesses.begin(SECOND * 2000, target(1, 1)), SECOND * 2000);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut guesses = Guesses::new(SECOND);
        for account in 0..TARGETS_MAX as u64 + 100 {
            guesses.begin(SECOND, target(account, 1));
        }
        assert_eq!(guesses.tries.len(), TARGETS_MAX);
    }
}
