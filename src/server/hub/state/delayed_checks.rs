//! Password checks that wait: attempts that are throttled, or queued behind others. For
//! each target the earliest attempt is checked first. Queues are indexed by target and
//! network, so that the cost of an attempt does not grow with the number that wait.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::password_throttle::Target;
use crate::server::auth::passwords::Job;
use crate::server::net::ConnId;

/// A check that waits.
#[derive(Debug)]
pub(crate) struct DelayedCheck {
    pub(crate) conn: ConnId,
    pub(crate) job: Job,
    pub(crate) target: Target,
    /// Its place in the order of arrival.
    pub(crate) ticket: u64,
}

/// All checks that wait.
#[derive(Debug, Default)]
pub(crate) struct DelayedChecks {
    /// By due time, then by ticket.
    jobs: BTreeMap<(Duration, u64), DelayedCheck>,
    /// Due times by target and ticket.
    queues: HashMap<Target, BTreeMap<u64, Duration>>,
    /// Targets with a queue, by the network of its attempts.
    networks: HashMap<IpAddr, HashSet<Target>>,
    tickets: u64,
}

impl DelayedChecks {
    pub(crate) fn add(&mut self, due: Duration, conn: ConnId, job: Job, target: Target) {
        self.tickets += 1;
        self.put_back(due, DelayedCheck { conn, job, target, ticket: self.tickets });
    }

    /// Lets a check wait again, in its old place among those of its target.
    pub(crate) fn put_back(&mut self, due: Duration, delayed: DelayedCheck) {
        let target = &delayed.target;
        self.networks.entry(target.network).or_default().insert(target.clone());
        self.queues.entry(target.clone()).or_default().insert(delayed.ticket, due);
        self.jobs.insert((due, delayed.ticket), delayed);
    }

    fn take(&mut self, key: (Duration, u64)) -> Option<DelayedCheck> {
        let delayed = self.jobs.remove(&key)?;
        let target = &delayed.target;
        if let Some(queue) = self.queues.get_mut(target) {
            queue.remove(&delayed.ticket);
            if queue.is_empty() {
                self.queues.remove(target);
                if let Some(targets) = self.networks.get_mut(&target.network) {
                    targets.remove(target);
                    if targets.is_empty() {
                        self.networks.remove(&target.network);
                    }
                }
            }
        }
        Some(delayed)
    }

    /// When the next check is due.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.jobs.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes the next check that is due.
    pub(crate) fn next(&mut self, now: Duration) -> Option<DelayedCheck> {
        let key = *self.jobs.first_key_value()?.0;
        if key.0 <= now { self.take(key) } else { None }
    }

    /// Whether at least `limit` checks of the target wait ahead of `of`, or at all.
    pub(crate) fn is_queue_full(
        &self,
        target: &Target,
        of: Option<&DelayedCheck>,
        limit: usize,
    ) -> bool {
        let ticket = of.map_or(u64::MAX, |delayed| delayed.ticket);
        let ahead = self.queues.get(target).into_iter().flat_map(|queue| queue.range(..ticket));
        ahead.take(limit).count() == limit
    }

    /// Makes the check of a target due that waits next after a ticket; 0 for the first.
    pub(crate) fn release_next(&mut self, now: Duration, target: &Target, ticket: u64) {
        let queue = self.queues.get(target);
        let next = queue.and_then(|queue| queue.range(ticket + 1..).next());
        if let Some((&ticket, &due)) = next
            && due > now
            && let Some(delayed) = self.take((due, ticket))
        {
            self.put_back(now, delayed);
        }
    }

    /// Makes the first check due of each target that may go on after an attempt at
    /// `target` ended: its own and, where all attempts of a network count together, those of
    /// its network.
    pub(crate) fn release_after(&mut self, now: Duration, target: &Target) {
        if !target.is_one_source {
            return self.release_next(now, target, 0);
        }
        let targets = self.networks.get(&target.network).cloned().unwrap_or_default();
        for target in &targets {
            self.release_next(now, target, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::password_throttle::Guarded;
    use super::*;
    use crate::protocol::Key;

    const SECOND: Duration = Duration::from_secs(1);

    fn room(name: &str, network: u8, is_one_source: bool) -> Target {
        let network = IpAddr::from([192, 0, 2, network]);
        Target { at: Guarded::Room(Key::fold(name)), network, is_one_source }
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    fn checks(of: &[(u64, u32, &Target)]) -> DelayedChecks {
        let mut checks = DelayedChecks::default();
        for (seconds, slot, target) in of {
            checks.add(Duration::from_secs(*seconds), conn(*slot), Job::Hash, (*target).clone());
        }
        checks
    }

    fn take_due(checks: &mut DelayedChecks, now: Duration) -> Vec<ConnId> {
        std::iter::from_fn(|| checks.next(now)).map(|delayed| delayed.conn).collect()
    }

    #[test]
    fn earliest_check_of_a_target_is_released_first() {
        let (ops, art) = (room("ops", 1, true), room("art", 2, true));
        let mut checks = checks(&[(5, 9, &ops), (5, 2, &ops), (3, 4, &art)]);
        assert_eq!(checks.due(), Some(SECOND * 3));
        assert!(checks.next(SECOND * 2).is_none());
        let first = checks.next(SECOND * 4).expect("a due check");
        assert_eq!(first.conn, conn(4));
        checks.put_back(SECOND * 6, first);
        checks.release_after(SECOND * 4, &ops);
        assert_eq!(take_due(&mut checks, SECOND * 4), [conn(9)]);
        checks.release_next(SECOND * 4, &ops, 0);
        assert_eq!(take_due(&mut checks, SECOND * 4), [conn(2)]);
        assert_eq!(checks.due(), Some(SECOND * 6));
        assert_eq!(take_due(&mut checks, SECOND * 6), [conn(4)]);
        assert!(checks.queues.is_empty() && checks.networks.is_empty());
    }

    #[test]
    fn attempts_of_one_source_release_each_other() {
        let [ops, art] = ["ops", "art"].map(|name| room(name, 1, true));
        let mut checks = checks(&[(5, 1, &ops), (5, 2, &art), (5, 3, &art)]);
        checks.release_after(SECOND, &ops);
        assert_eq!(take_due(&mut checks, SECOND).len(), 2, "the first of each target");
        let [ops, art] = ["ops", "art"].map(|name| room(name, 1, false));
        let mut checks = super::tests::checks(&[(5, 1, &ops), (5, 2, &art)]);
        checks.release_after(SECOND, &ops);
        assert_eq!(take_due(&mut checks, SECOND), [conn(1)]);
    }

    #[test]
    fn queue_is_full_when_limit_checks_wait_ahead() {
        let ops = room("ops", 1, true);
        let mut checks = checks(&[(5, 1, &ops), (6, 2, &ops), (7, 3, &ops)]);
        assert!(checks.is_queue_full(&ops, None, 3) && !checks.is_queue_full(&ops, None, 4));
        assert!(checks.is_queue_full(&room("art", 1, true), None, 0));
        let first = checks.next(SECOND * 5).expect("a due check");
        assert!(!checks.is_queue_full(&ops, Some(&first), 1));
        let second = checks.next(SECOND * 6).expect("a due check");
        checks.put_back(SECOND * 8, first);
        assert!(checks.is_queue_full(&ops, Some(&second), 1));
    }
}
