//! Users whose connection was lost and whose session may still resume: their deadlines and
//! networks. The networks let the hub limit dropped sessions per network, so that repeated
//! drops do not hold more places than open connections could.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use crate::server::record::UserId;

/// The dropped sessions, by user, deadline and network.
#[derive(Debug, Default)]
pub(crate) struct DroppedSessions {
    entries: HashMap<UserId, Entry>,
    deadlines: Queue,
    /// Dropped sessions of each network that is subject to limits.
    networks: HashMap<IpAddr, Queue>,
}

/// Users in order of their deadlines.
type Queue = BTreeSet<(Duration, UserId)>;

#[derive(Debug)]
struct Entry {
    until: Duration,
    network: Option<IpAddr>,
}

impl DroppedSessions {
    /// Adds a dropped session. Without a network it is exempt from limits.
    pub(crate) fn add(&mut self, until: Duration, person: UserId, network: Option<IpAddr>) {
        self.entries.insert(person, Entry { until, network });
        self.deadlines.insert((until, person));
        if let Some(network) = network {
            self.networks.entry(network).or_default().insert((until, person));
        }
    }

    /// Removes a session that has resumed or ended.
    pub(crate) fn remove(&mut self, person: UserId) {
        let Some(Entry { until, network }) = self.entries.remove(&person) else { return };
        self.deadlines.remove(&(until, person));
        if let Some(network) = network
            && let Some(queue) = self.networks.get_mut(&network)
        {
            queue.remove(&(until, person));
            if queue.is_empty() {
                self.networks.remove(&network);
            }
        }
    }

    /// The users, in the order of their deadlines.
    pub(crate) fn users(&self) -> impl Iterator<Item = UserId> {
        self.deadlines.iter().map(|(_, person)| *person)
    }

    /// When the session of a user expires.
    pub(crate) fn until(&self, person: UserId) -> Option<Duration> {
        self.entries.get(&person).map(|entry| entry.until)
    }

    /// When the next session expires.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// Removes and returns the next session that has expired.
    pub(crate) fn next(&mut self, now: Duration) -> Option<UserId> {
        let (_, person) = *self.deadlines.first().filter(|(until, _)| *until <= now)?;
        self.remove(person);
        Some(person)
    }

    /// The session of a network that expires first, if the network has more than `most`.
    pub(crate) fn oldest_over_limit(&self, network: IpAddr, most: usize) -> Option<UserId> {
        let queue = self.networks.get(&network).filter(|queue| queue.len() > most)?;
        queue.first().map(|(_, person)| *person)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_sessions_expire_in_order_and_leave_nothing_behind() {
        let (mut dropped, second) = (DroppedSessions::default(), Duration::from_secs(1));
        let here = IpAddr::from([192, 0, 2, 1]);
        for person in 1..=4 {
            let network = (person != 4).then_some(here);
            dropped.add(second * (10 - person), UserId(person.into()), network);
        }
        assert_eq!(dropped.oldest_over_limit(here, 2), Some(UserId(3)));
        assert_eq!(dropped.oldest_over_limit(here, 3), None);
        dropped.remove(UserId(3));
        assert_eq!(dropped.due(), Some(second * 6));
        assert_eq!(dropped.next(second * 5), None);
        let gone: Vec<_> = std::iter::from_fn(|| dropped.next(second * 9)).collect();
        assert_eq!(gone, [UserId(4), UserId(2), UserId(1)]);
        assert!(dropped.entries.is_empty() && dropped.networks.is_empty());
    }
}
