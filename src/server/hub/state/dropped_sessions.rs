//! Users whose connection was lost and whose session may still resume: their deadlines and
//! networks. Dropped sessions are limited like connections, so that repeated drops do not hold
//! more names and rooms than open connections could.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::server::limits::quota::{Bounds, Exhausted, Quota};
use crate::server::net::peer::{Network, Peer};
use crate::server::record::UserId;

/// The dropped sessions, by user, deadline and network.
#[derive(Debug)]
pub(crate) struct DroppedSessions {
    entries: HashMap<UserId, Entry>,
    deadlines: Queue,
    /// Dropped sessions of each network that is subject to limits.
    networks: HashMap<Network, Queue>,
    quota: Quota,
}

/// Users in order of their deadlines.
type Queue = BTreeSet<(Duration, UserId)>;

#[derive(Debug)]
struct Entry {
    until: Duration,
    peer: Option<Peer>,
}

impl DroppedSessions {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            entries: HashMap::new(),
            deadlines: Queue::new(),
            networks: HashMap::new(),
            quota: Quota::new(bounds),
        }
    }

    /// Adds a dropped session. Without a peer it is exempt from limits.
    pub(crate) fn add(&mut self, until: Duration, person: UserId, peer: Option<Peer>) {
        self.entries.insert(person, Entry { until, peer });
        self.deadlines.insert((until, person));
        if let Some(peer) = peer {
            self.quota.force(peer);
            for network in peer.networks() {
                self.networks.entry(network).or_default().insert((until, person));
            }
        }
    }

    /// Removes a session that has resumed or ended.
    pub(crate) fn remove(&mut self, person: UserId) {
        let Some(Entry { until, peer }) = self.entries.remove(&person) else { return };
        self.deadlines.remove(&(until, person));
        let Some(peer) = peer else { return };
        self.quota.release(peer);
        for network in peer.networks() {
            if let Some(queue) = self.networks.get_mut(&network) {
                queue.remove(&(until, person));
                if queue.is_empty() {
                    self.networks.remove(&network);
                }
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

    /// The session that has to end before another one of this peer is added, if a limit is
    /// reached: of the network that has reached its own, or else of the peer's. Only a network
    /// with few sessions displaces those of another one.
    pub(crate) fn to_displace(&self, peer: Peer) -> Option<UserId> {
        let displaced = match self.quota.check(peer) {
            Ok(()) => return None,
            Err(Exhausted::Network(network)) => self.networks.get(&network)?,
            Err(Exhausted::Total) if self.quota.is_newcomer(peer) => &self.deadlines,
            Err(Exhausted::Total) => self.networks.get(&peer.networks()[2])?,
        };
        let peer_of = |person| self.entries.get(person).and_then(|entry| entry.peer);
        let limited = displaced.iter().filter_map(|(_, it)| Some((*it, peer_of(it)?)));
        self.quota.to_displace(limited, peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn dropped(per_address: usize, wider: usize, total: usize) -> DroppedSessions {
        DroppedSessions::new(Bounds { per_address, wider, total })
    }

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().expect("an address"))
    }

    #[test]
    fn dropped_sessions_expire_in_order_and_leave_nothing_behind() {
        let mut dropped = dropped(3, 1, 100);
        let here = peer("192.0.2.1");
        for person in 1..=4 {
            let peer = (person != 4).then_some(here);
            dropped.add(SECOND * (10 - person), UserId(person.into()), peer);
        }
        assert_eq!(dropped.to_displace(here), Some(UserId(3)));
        dropped.remove(UserId(3));
        assert_eq!(dropped.to_displace(here), None);
        assert_eq!(dropped.due(), Some(SECOND * 6));
        assert_eq!(dropped.next(SECOND * 5), None);
        let gone: Vec<_> = std::iter::from_fn(|| dropped.next(SECOND * 9)).collect();
        assert_eq!(gone, [UserId(4), UserId(2), UserId(1)]);
        assert!(dropped.entries.is_empty() && dropped.networks.is_empty());
        assert_eq!(dropped.quota.total(), 0);
    }

    /// Drops sessions from these addresses in order, numbered from 1; returns those that ended.
    fn displaced(dropped: &mut DroppedSessions, addresses: &[&str]) -> Vec<u64> {
        let mut displaced = Vec::new();
        for (address, number) in addresses.iter().zip(1..) {
            if let Some(person) = dropped.to_displace(peer(address)) {
                dropped.remove(person);
                displaced.push(person.0);
            }
            dropped.add(SECOND * number, UserId(number.into()), Some(peer(address)));
        }
        displaced
    }

    #[test]
    fn networks_displace_their_own_sessions() {
        let (a, b, neighbour, other) = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "192.0.2.1");
        // Two per address, four per /24.
        let sessions = [other, a, a, b, b, a, neighbour, other];
        assert_eq!(displaced(&mut dropped(2, 2, 100), &sessions), [2, 3]);
        // All places are taken: a newcomer displaces a session of the busiest network.
        let sessions = [other, a, a, a, "10.0.1.1", "10.0.1.1", a, "10.0.2.1"];
        assert_eq!(displaced(&mut dropped(4, 4, 6), &sessions), [2, 3]);
    }
}
