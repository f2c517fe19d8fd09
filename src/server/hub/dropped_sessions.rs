//! Who dropped and may come back: until when each is waited for, and from which network
//! they came. Nobody holds more places from one network by dropping again and again
//! than they could by staying.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::UserId;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct DroppedSessions {
    people: HashMap<UserId, Place>,
    deadlines: Queue,
    /// Of each network that the limits are for.
    networks: HashMap<IpAddr, Queue>,
}

/// By when, who is waited for first in front.
type Queue = BTreeSet<(Duration, UserId)>;

#[derive(Debug)]
struct Place {
    until: Duration,
    network: Option<IpAddr>,
}

impl DroppedSessions {
    /// From now on somebody is waited for. Without a network no limit is for them.
    pub(super) fn add(&mut self, until: Duration, person: UserId, network: Option<IpAddr>) {
        self.people.insert(person, Place { until, network });
        self.deadlines.insert((until, person));
        if let Some(network) = network {
            self.networks.entry(network).or_default().insert((until, person));
        }
    }

    /// They are back, or given up.
    pub(super) fn remove(&mut self, person: UserId) {
        let Some(Place { until, network }) = self.people.remove(&person) else { return };
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

    pub(super) fn contains(&self, person: UserId) -> bool {
        self.people.contains_key(&person)
    }

    /// When the first is not waited for any more.
    pub(super) fn due(&self) -> Option<Duration> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// The next one whose time is over.
    pub(super) fn next(&mut self, now: Duration) -> Option<UserId> {
        let (_, person) = *self.deadlines.first().filter(|(until, _)| *until <= now)?;
        self.remove(person);
        Some(person)
    }

    /// Who dropped first of those from a network, if they are more than so many.
    pub(super) fn oldest_over_limit(&self, network: IpAddr, most: usize) -> Option<UserId> {
        let queue = self.networks.get(&network).filter(|queue| queue.len() > most)?;
        queue.first().map(|(_, person)| *person)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_waited_for_once_and_nothing_is_left_of_them() {
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
        assert!(dropped.people.is_empty() && dropped.networks.is_empty());
    }
}
