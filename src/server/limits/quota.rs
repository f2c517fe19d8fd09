//! Quotas: how many of a scarce resource each network holds, so that no one can take what all
//! share. Networks are nested, since one customer can have many addresses: what is allowed for
//! an IPv4 address or an IPv6 /64 is allowed [`Bounds::wider`] times for the IPv4 /24 or IPv6 /56
//! around it, and the square of that for the IPv6 /48. A part of the total is reserved for
//! newcomers: networks that hold little; and a part of what a wider network may hold for the
//! addresses in it that hold little, since they can belong to different customers.

use std::collections::HashMap;
use std::iter;

use crate::server::net::peer::{Network, Peer};

/// The bounds of one resource.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Maximum per IPv4 address or IPv6 /64.
    pub per_address: usize,
    /// How many times as much each wider network may hold.
    pub wider: usize,
    /// Maximum in all.
    pub total: usize,
}

/// Why nothing more can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// This network holds its maximum.
    Network(Network),
    /// The total is reached, apart from the reserve for newcomers.
    Total,
}

/// How many units of one resource are in use, in total and per network.
#[derive(Debug)]
pub struct Quota {
    bounds: Bounds,
    held: HashMap<Network, usize>,
    total: usize,
}

/// The part of the total, and of what a wider network may hold beyond one address, that is
/// reserved for newcomers: one in this number.
pub(super) const RESERVE: usize = 8;

impl Quota {
    /// Creates a quota of which nothing is held.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, held: HashMap::new(), total: 0 }
    }

    /// Takes one.
    ///
    /// # Errors
    /// A bound is reached; nothing is taken.
    pub fn take(&mut self, peer: Peer) -> Result<(), Exhausted> {
        self.check(peer)?;
        self.force(peer);
        Ok(())
    }

    /// Checks whether one can be taken.
    ///
    /// # Errors
    /// A bound is reached.
    pub fn check(&self, peer: Peer) -> Result<(), Exhausted> {
        let Bounds { per_address, wider, total } = self.bounds;
        let reserve = |most: usize, held| if self.is_few(held) { 0 } else { most / RESERVE };
        // What the next narrower network holds.
        let mut within = 0;
        for (network, times) in nested(peer.networks(), wider) {
            let (held, most) = (self.held_by(network), per_address.saturating_mul(times));
            if held >= most - reserve(most - per_address, within) {
                return Err(Exhausted::Network(network));
            }
            within = held;
        }
        if self.total >= total - reserve(total, within) {
            return Err(Exhausted::Total);
        }
        Ok(())
    }

    /// Whether the widest network of a peer holds so little that the reserve is for it, too.
    #[must_use]
    pub fn is_newcomer(&self, peer: Peer) -> bool {
        self.is_few(self.held_by(peer.networks()[2]))
    }

    fn is_few(&self, held: usize) -> bool {
        held < self.bounds.per_address.div_ceil(4)
    }

    /// The number that a network holds.
    fn held_by(&self, network: Network) -> usize {
        self.held.get(&network).copied().unwrap_or_default()
    }

    /// Takes one even beyond the bounds, for what exists already.
    pub fn force(&mut self, peer: Peer) {
        self.total += 1;
        for network in distinct(peer.networks()) {
            *self.held.entry(network).or_default() += 1;
        }
    }

    /// Gives one back.
    pub fn release(&mut self, peer: Peer) {
        self.total = self.total.saturating_sub(1);
        for network in distinct(peer.networks()) {
            if let Some(held) = self.held.get_mut(&network) {
                *held -= 1;
                if *held == 0 {
                    self.held.remove(&network);
                }
            }
        }
    }

    /// Chooses what is displaced when everything is taken: of the widest network that holds the
    /// most, of the narrower network in it that holds the most, and so on; on a tie of the
    /// network of `peer`, and then the oldest. `held` is what may be displaced, and whose it
    /// is, oldest first.
    pub fn to_displace<T>(
        &self,
        held: impl IntoIterator<Item = (T, Peer)>,
        peer: Peer,
    ) -> Option<T> {
        let own = peer.networks();
        let ranked = held.into_iter().map(|(held, of)| (held, of.networks(), (0, false)));
        let mut ranked: Vec<_> = ranked.collect();
        for level in [2, 1, 0] {
            for (_, networks, rank) in &mut ranked {
                *rank = (self.held_by(networks[level]), networks[level] == own[level]);
            }
            let most = ranked.iter().map(|(_, _, rank)| *rank).max();
            ranked.retain(|(_, _, rank)| Some(*rank) == most);
        }
        ranked.into_iter().next().map(|(held, ..)| held)
    }

    /// The number held in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }
}

/// The networks of a peer without repetition, each with how many times the limit per address
/// applies to it.
pub fn nested(
    networks: [Network; 3],
    wider: usize,
) -> impl Iterator<Item = (Network, usize)> + Clone {
    distinct(networks).zip(iter::successors(Some(1), move |times: &usize| times.checked_mul(wider)))
}

/// The networks of a peer without repetition.
fn distinct([narrow, middle, wide]: [Network; 3]) -> impl Iterator<Item = Network> + Clone {
    [narrow, middle].into_iter().chain((wide != middle).then_some(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().expect("an address"))
    }

    fn quota(per_address: usize, wider: usize, total: usize) -> Quota {
        Quota::new(Bounds { per_address, wider, total })
    }

    /// Takes as much as possible from each address in turn; returns how much.
    fn take_all(quota: &mut Quota, addresses: impl IntoIterator<Item = String>) -> usize {
        let took = addresses.into_iter().map(|address| {
            let peer = peer(&address);
            std::iter::from_fn(|| quota.take(peer).ok()).count()
        });
        took.sum()
    }

    #[test]
    fn each_wider_network_holds_a_multiple() {
        type Address = fn(u32) -> String;
        let cases: [(Address, usize); 4] = [
            (|_| "192.0.2.7".to_owned(), 4),
            (|n| format!("192.0.2.{}", n % 250), 12),
            (|n| format!("2001:db8:0:{:x}::1", n % 256), 12),
            (|n| format!("2001:db8:0:{n:x}::1"), 36),
        ];
        for (address, most) in cases {
            let mut quota = quota(4, 3, 1000);
            assert_eq!(take_all(&mut quota, (0..5000).map(address)), most, "{}", address(1));
            assert!(quota.take(peer("198.51.100.1")).is_ok(), "others are not affected");
        }
    }

    #[test]
    fn newcomers_have_a_reserve() {
        let mut quota = quota(40, 4, 80);
        let guests = (0..200).map(|n| format!("10.0.{n}.1"));
        let took = take_all(&mut quota, guests.take(2));
        assert_eq!(
            (took, quota.take(peer("10.0.0.1"))),
            (70, Err(Exhausted::Network(peer("10.0.0.1").networks()[0])))
        );
        assert_eq!(quota.take(peer("10.0.1.1")), Err(Exhausted::Total));
        assert_eq!(take_all(&mut quota, ["203.0.113.1".to_owned()]), 10, "a newcomer's share");
        assert_eq!(quota.take(peer("203.0.114.1")), Err(Exhausted::Total), "nothing is left");
    }

    #[test]
    fn addresses_in_a_full_network_have_a_reserve() {
        let mut quota = quota(32, 4, 1000);
        let took = take_all(&mut quota, (1..=4).map(|n| format!("192.0.2.{n}")));
        assert_eq!(took, 128 - 12);
        assert_eq!(take_all(&mut quota, ["192.0.2.5".to_owned()]), 8, "a newcomer's share");
        assert_eq!(take_all(&mut quota, ["192.0.2.6".to_owned()]), 4, "nothing is left");
    }

    #[test]
    fn oldest_of_the_busiest_network_is_displaced() {
        let by = |addresses: &[&str], by| {
            let mut quota = quota(10, 10, 100);
            let held: Vec<(usize, Peer)> =
                addresses.iter().enumerate().map(|(at, it)| (at, peer(it))).collect();
            for (_, peer) in &held {
                quota.force(*peer);
            }
            quota.to_displace(held, peer(by))
        };
        let many = ["10.0.0.1", "10.0.1.1", "10.0.1.2", "10.0.1.2", "10.0.0.9"];
        assert_eq!(by(&many, "192.0.2.1"), Some(2), "most in the /24, then at the address");
        assert_eq!(by(&many[..4], "10.0.0.1"), Some(2), "not its own");
        let equal = ["10.0.0.1", "10.0.1.1", "10.0.2.1"];
        assert_eq!(by(&equal, "192.0.2.1"), Some(0), "the oldest");
        assert_eq!(by(&equal, "10.0.2.1"), Some(2), "its own");
        let subnets = ["2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:100::1", "2001:db9::1"];
        assert_eq!(by(&subnets, "192.0.2.1"), Some(0));
        assert_eq!(by(&[], "192.0.2.1"), None);
    }

    #[test]
    fn what_is_released_can_be_taken_again() {
        let mut quota = quota(1, 1, 1);
        let (one, other) = (peer("192.0.2.1"), peer("2001:db8::1"));
        for _ in 0..3 {
            assert_eq!(quota.take(one), Ok(()));
            assert!(quota.take(one).is_err() && quota.take(other) == Err(Exhausted::Total));
            quota.release(one);
            assert_eq!((quota.total(), quota.held.len()), (0, 0));
        }
        quota.force(one);
        quota.force(other);
        assert_eq!(quota.total(), 2);
    }
}
