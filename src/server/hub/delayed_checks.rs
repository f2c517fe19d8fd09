//! The queue of password checks that are delayed by the password throttle, in order of
//! their time and then of arrival. It does not know how long a check is delayed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::ConnId;
use super::password_throttle::Target;
use crate::server::passwords::Job;

/// A password check that waits.
#[derive(Debug)]
pub(super) struct DelayedCheck {
    pub(super) conn: ConnId,
    pub(super) job: Job,
    pub(super) target: Target,
    /// The order of arrival.
    ticket: u64,
}

/// The queue of delayed checks.
#[derive(Debug, Default)]
pub(super) struct DelayedChecks {
    /// By due time and ticket.
    jobs: BTreeMap<(Duration, u64), DelayedCheck>,
    tickets: u64,
}

impl DelayedChecks {
    pub(super) fn add(&mut self, due: Duration, conn: ConnId, job: Job, target: Target) {
        self.tickets += 1;
        self.put_back(due, DelayedCheck { conn, job, target, ticket: self.tickets });
    }

    /// Returns a check to the queue with a new due time and its old ticket.
    pub(super) fn put_back(&mut self, due: Duration, delayed: DelayedCheck) {
        self.jobs.insert((due, delayed.ticket), delayed);
    }

    /// When the next one is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.jobs.first_key_value().map(|((due, _), _)| *due)
    }

    /// Removes and returns the next check that is due.
    pub(super) fn next(&mut self, now: Duration) -> Option<DelayedCheck> {
        self.due().filter(|due| *due <= now)?;
        self.jobs.pop_first().map(|(_, delayed)| delayed)
    }

    /// The number of checks of the same target that arrived before `of`; all of them if `of`
    /// is `None`.
    pub(super) fn waiting_ahead(&self, target: &Target, of: Option<&DelayedCheck>) -> usize {
        let ticket = of.map_or(u64::MAX, |delayed| delayed.ticket);
        let is_ahead = |other: &&DelayedCheck| other.target == *target && other.ticket < ticket;
        self.jobs.values().filter(is_ahead).count()
    }

    /// Makes all checks from a network due now.
    pub(super) fn release_waiting(&mut self, now: Duration, network: IpAddr) {
        let waiting: Vec<_> =
            self.jobs.extract_if(.., |_, delayed| delayed.target.network == network).collect();
        for (_, delayed) in waiting {
            self.put_back(now, delayed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Key, password_throttle::Guarded};
    use super::*;
    use crate::server::passwords::Secret;

    #[test]
    fn checks_run_in_order_of_arrival_and_release_makes_them_due() {
        let mut jobs = DelayedChecks::default();
        let (second, job) = (Duration::from_secs(1), Job::Hash(Secret::new("x")));
        let from = |last| IpAddr::from([192, 0, 2, last]);
        let room = |name, last| Target {
            at: Guarded::Room(Key::fold(name)),
            network: from(last),
            is_one_source: false,
        };
        let conn = |slot| ConnId { slot, generation: 0 };
        jobs.add(second * 5, conn(9), job.clone(), room("ops", 1));
        jobs.add(second * 5, conn(2), job.clone(), room("ops", 1));
        jobs.add(second * 3, conn(4), job, room("art", 2));
        assert_eq!(jobs.waiting_ahead(&room("ops", 1), None), 2);
        assert_eq!(jobs.due(), Some(second * 3));
        assert!(jobs.next(second * 2).is_none());
        let first = jobs.next(second * 4).expect("one is due");
        assert_eq!(first.conn, conn(4));
        assert_eq!(jobs.waiting_ahead(&room("ops", 1), Some(&first)), 2);
        jobs.put_back(second * 6, first);
        jobs.release_waiting(second * 4, from(1));
        let order: Vec<_> = std::iter::from_fn(|| jobs.next(second * 4)).map(|d| d.conn).collect();
        assert_eq!(order, [conn(9), conn(2)]);
        assert_eq!(jobs.due(), Some(second * 6));
    }
}
