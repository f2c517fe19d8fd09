//! A queue whose jobs are served in turn between networks: first between the widest ones (IPv6 /48,
//! IPv4 /24), within one between the narrower ones, and those of one address in the order in
//! which they came. A client thus delays only its own network, however many jobs it has.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::quota::{Bounds, Quota};
use crate::server::net::peer::{Network, Peer};

/// The jobs of the addresses of a network.
type OfAddress<J> = Turns<Network, VecDeque<(Peer, J)>>;

/// Jobs that wait for a shared worker.
#[derive(Debug)]
pub struct FairQueue<J> {
    /// By the widest network, the one within it, and the narrowest.
    jobs: Turns<Network, Turns<Network, OfAddress<J>>>,
    waiting: Quota,
}

/// Queues that are served in turn.
#[derive(Debug)]
struct Turns<K, Q> {
    queues: HashMap<K, Q>,
    /// The keys of all queues; none of them is empty.
    order: VecDeque<K>,
}

impl<K, Q> Default for Turns<K, Q> {
    fn default() -> Self {
        Self { queues: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, Q: Default> Turns<K, Q> {
    fn queue(&mut self, key: K) -> &mut Q {
        self.queues.entry(key).or_insert_with(|| {
            self.order.push_back(key);
            Q::default()
        })
    }

    /// Takes from the next queue; `pop` also returns whether the queue is then empty.
    fn pop<J>(&mut self, pop: impl FnOnce(&mut Q) -> (Option<J>, bool)) -> (Option<J>, bool) {
        let Some(key) = self.order.pop_front() else { return (None, true) };
        let (job, is_empty) = self.queues.get_mut(&key).map_or((None, true), pop);
        if is_empty {
            self.queues.remove(&key);
        } else {
            self.order.push_back(key);
        }
        (job, self.order.is_empty())
    }
}

impl<J> FairQueue<J> {
    /// Creates an empty queue with bounds for the jobs that wait.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { jobs: Turns::default(), waiting: Quota::new(bounds) }
    }

    /// Adds a job.
    ///
    /// # Errors
    /// Too many jobs of its network wait, or of all; the job is returned.
    pub fn push(&mut self, peer: Peer, job: J) -> Result<(), J> {
        if self.waiting.take(peer).is_err() {
            return Err(job);
        }
        let [narrow, middle, wide] = peer.networks();
        let queue = self.jobs.queue(wide).queue(middle).queue(narrow);
        queue.push_back((peer, job));
        Ok(())
    }

    /// Removes and returns the next job, and whose it is.
    pub fn pop(&mut self) -> Option<(Peer, J)> {
        let (job, _) = self.jobs.pop(|wide| {
            wide.pop(|middle| {
                middle.pop(|queue| {
                    let job = queue.pop_front();
                    (job, queue.is_empty())
                })
            })
        });
        let (peer, job) = job?;
        self.waiting.release(peer);
        Some((peer, job))
    }

    /// The number of jobs that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.total()
    }

    /// Whether no job waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().expect("an address"))
    }

    fn queue() -> FairQueue<String> {
        FairQueue::new(Bounds { per_address: 100, wider: 10, total: 100_000 })
    }

    /// Adds `count` jobs for each address, named by address and number.
    fn push(queue: &mut FairQueue<String>, address: &str, count: usize) {
        for number in 1..=count {
            queue.push(peer(address), format!("{address} {number}")).expect("it fits");
        }
    }

    fn all(queue: &mut FairQueue<String>) -> Vec<String> {
        std::iter::from_fn(|| queue.pop().map(|(_, job)| job)).collect()
    }

    #[test]
    fn networks_take_turns_and_keep_their_order() {
        let mut queue = queue();
        push(&mut queue, "10.0.0.1", 3);
        push(&mut queue, "10.0.0.2", 2);
        push(&mut queue, "192.0.2.1", 2);
        let expected = [
            "10.0.0.1 1",
            "192.0.2.1 1",
            "10.0.0.2 1",
            "192.0.2.1 2",
            "10.0.0.1 2",
            "10.0.0.2 2",
            "10.0.0.1 3",
        ];
        assert_eq!(all(&mut queue), expected);
        assert!(queue.is_empty() && queue.jobs.queues.is_empty() && queue.jobs.order.is_empty());
    }

    #[test]
    fn many_addresses_of_one_customer_have_one_turn() {
        let mut queue = queue();
        for subnet in 0..300 {
            push(&mut queue, &format!("2001:db8:7:{subnet:x}::1"), 3);
        }
        push(&mut queue, "2001:db8:8::1", 2);
        let jobs = all(&mut queue);
        assert_eq!(jobs.len(), 902);
        let honest = jobs.iter().position(|job| job == "2001:db8:8::1 2");
        assert_eq!(honest, Some(3), "it waits for one job of the others each time");
    }

    #[test]
    fn one_network_cannot_fill_the_queue() {
        let mut queue = FairQueue::new(Bounds { per_address: 2, wider: 2, total: 100 });
        let push = |queue: &mut FairQueue<()>, address: &str| queue.push(peer(address), ()).is_ok();
        let taken = (1..9).map(|n| push(&mut queue, &format!("10.0.0.{}", n / 3)));
        assert_eq!(taken.filter(|is_taken| *is_taken).count(), 4);
        assert!(push(&mut queue, "10.0.1.1"));
        assert_eq!(queue.len(), 5);
        while queue.pop().is_some() {}
        assert!(push(&mut queue, "10.0.0.1"), "places are free again");
    }
}
