//! Admission: whether a new connection is accepted, by limits on all connections, on those of
//! one address, and on those without a name.
//!
//! If only connections without a name are in the way, the oldest of them is evicted, so that
//! idle connections cannot keep honest clients out. The module has no socket and no clock.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::server::limits::Limits;
use crate::server::limits::rate_limit::{Rate, RateLimiter};
use crate::server::net::peer::Peer;
use crate::server::turn::ConnId;

/// Descriptors reserved for the log, the listeners, and connections that are being closed or
/// rejected.
const RESERVED_DESCRIPTORS: usize = 64;

/// Number of connections that may be closing beside the maximum of open ones.
const CLOSING_ALLOWANCE: usize = 16;

/// The reason when the server is full.
const SERVER_FULL: &str = "the server is full; try again later";

/// The decision about a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Accept it.
    Accept,
    /// Accept it and evict this one.
    AcceptAndEvict(ConnId),
    /// Reject it, for this reason.
    Reject(&'static str),
}

/// The state of admission: the counts of open connections.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    /// Maximum number of connections that the system permits, from any address.
    capacity: usize,
    open: usize,
    /// Number of open connections to which the limits apply.
    open_limited: usize,
    /// The same per network ([`Peer::network`]).
    open_of: HashMap<IpAddr, usize>,
    /// Rate limits of new connections per network.
    rate_limiter: RateLimiter,
    /// Connections that may still be without a name, oldest first.
    unnamed: VecDeque<ConnId>,
}

impl Admission {
    /// Creates the state with these limits, on a system with this number of descriptors.
    #[must_use]
    pub fn new(limits: &Limits, descriptors: usize) -> Self {
        Self {
            limits: limits.clone(),
            capacity: descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(descriptors / 4),
            open: 0,
            open_limited: 0,
            open_of: HashMap::new(),
            rate_limiter: RateLimiter::new(Rate::new(limits.connect_rate, limits.connect_burst)),
            unnamed: VecDeque::new(),
        }
    }

    /// Decides about a new connection `conn`. `is_unnamed` returns whether another connection is
    /// open and without a name. An accepted connection counts until [`Self::release`].
    pub fn admit(
        &mut self,
        now: Duration,
        peer: Peer,
        conn: ConnId,
        is_unnamed: impl Fn(ConnId) -> bool,
    ) -> Verdict {
        let is_limited = self.limits.apply_to(peer);
        if is_limited && let Err(why) = self.check_limits(now, peer) {
            return Verdict::Reject(why);
        }
        let is_full = self.open >= self.capacity
            || (is_limited && self.open_limited >= self.limits.max_connections);
        let mut evicted = None;
        if self.open >= self.capacity + CLOSING_ALLOWANCE {
            // Do not evict a connection for one that is rejected.
            return Verdict::Reject(SERVER_FULL);
        }
        let max_unnamed = self.limits.max_unnamed;
        if is_full || (is_limited && self.unnamed.len() >= max_unnamed) {
            self.unnamed.retain(|conn| is_unnamed(*conn));
            if is_full || self.unnamed.len() >= max_unnamed {
                evicted = self.unnamed.pop_front();
            }
        }
        if is_full && evicted.is_none() {
            return Verdict::Reject(SERVER_FULL);
        }
        self.open += 1;
        if is_limited {
            self.open_limited += 1;
            *self.open_of.entry(peer.network()).or_default() += 1;
            self.unnamed.push_back(conn);
        }
        evicted.map_or(Verdict::Accept, Verdict::AcceptAndEvict)
    }

    /// Checks the limits of one address.
    fn check_limits(&mut self, now: Duration, peer: Peer) -> Result<(), &'static str> {
        let network = peer.network();
        if !self.rate_limiter.may_go_on(now, network) {
            return Err("too many new connections from your address; wait a few seconds");
        }
        if self.open_of.get(&network).is_some_and(|open| *open >= self.limits.max_per_address) {
            return Err("too many connections from your address; end one of them first");
        }
        Ok(())
    }

    /// Notes that an accepted connection is closed.
    pub fn release(&mut self, peer: Peer) {
        self.open -= 1;
        if !self.limits.apply_to(peer) {
            return;
        }
        self.open_limited -= 1;
        if let Entry::Occupied(mut open) = self.open_of.entry(peer.network()) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn conn(number: u32) -> ConnId {
        ConnId { slot: number, generation: 1 }
    }

    fn from(address: &str) -> Peer {
        Peer::new(address.parse().expect("an address"))
    }

    fn admission(change: impl FnOnce(&mut Limits)) -> Admission {
        let mut limits = Limits { connect_rate: 0, ..Limits::default() };
        change(&mut limits);
        Admission::new(&limits, 1 << 20)
    }

    fn is_rejected(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Reject(_))
    }

    #[test]
    fn connections_are_limited_per_address_and_per_ipv6_64_network() {
        let mut admission = admission(|limits| limits.max_per_address = 2);
        let mut connect =
            |address, number| admission.admit(NOW, from(address), conn(number), |_| true);
        for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
            assert_eq!(connect(address, 1), Verdict::Accept, "{address}");
            assert_eq!(connect(address, 2), Verdict::Accept, "{address}");
        }
        assert!(is_rejected(connect("192.0.2.1", 3)));
        assert!(is_rejected(connect("2001:db8::ffff", 3)), "the same /64");
        assert_eq!(connect("2001:db8:0:1::1", 3), Verdict::Accept);
        for number in 0..100 {
            assert_eq!(connect("127.0.0.1", number), Verdict::Accept);
        }
        admission.release(from("192.0.2.1"));
        assert_eq!(admission.admit(NOW, from("192.0.2.1"), conn(9), |_| true), Verdict::Accept);
    }

    #[test]
    fn loopback_is_limited_only_when_configured() {
        let mut limited = admission(|limits| {
            (limits.max_per_address, limits.limit_loopback) = (1, true);
        });
        assert_eq!(limited.admit(NOW, from("::1"), conn(1), |_| true), Verdict::Accept);
        assert!(is_rejected(limited.admit(NOW, from("::1"), conn(2), |_| true)));
        assert_eq!(limited.admit(NOW, from("127.0.0.2"), conn(3), |_| true), Verdict::Accept);
    }

    #[test]
    fn oldest_unnamed_connection_is_evicted() {
        let mut admission = admission(|limits| limits.max_unnamed = 3);
        let named = HashSet::from([conn(2)]);
        let mut connect = |number: u32| {
            let address = format!("192.0.2.{number}");
            admission.admit(NOW, from(&address), conn(number), |conn| !named.contains(&conn))
        };
        for number in 1..=4 {
            assert_eq!(connect(number), Verdict::Accept, "{number}: one of the three has a name");
        }
        assert_eq!(connect(5), Verdict::AcceptAndEvict(conn(1)));
        assert_eq!(connect(6), Verdict::AcceptAndEvict(conn(3)));
    }

    #[test]
    fn full_server_evicts_unnamed_connections_only() {
        let mut admission = admission(|limits| limits.max_connections = 2);
        let mut connect = |number: u32, is_unnamed: bool| {
            let address = format!("192.0.2.{number}");
            admission.admit(NOW, from(&address), conn(number), |_| is_unnamed)
        };
        assert_eq!(connect(1, true), Verdict::Accept);
        assert_eq!(connect(2, true), Verdict::Accept);
        assert_eq!(connect(3, true), Verdict::AcceptAndEvict(conn(1)));
        assert!(is_rejected(connect(4, false)), "all have names");
        assert_eq!(admission.admit(NOW, from("::1"), conn(5), |_| false), Verdict::Accept);
    }

    #[test]
    fn connections_are_limited_by_descriptors() {
        let mut admission = Admission::new(&Limits::default(), RESERVED_DESCRIPTORS + 40);
        let connect = |admission: &mut Admission, number| {
            admission.admit(NOW, from("127.0.0.1"), conn(number), |_| true)
        };
        for number in 0..40 {
            assert_eq!(connect(&mut admission, number), Verdict::Accept);
        }
        assert!(is_rejected(connect(&mut admission, 40)));
        admission.release(from("127.0.0.1"));
        assert_eq!(connect(&mut admission, 41), Verdict::Accept);
    }

    #[test]
    fn frequent_connections_are_rate_limited() {
        let mut admission =
            admission(|limits| (limits.connect_rate, limits.connect_burst) = (1, 2));
        let mut connect_and_close = |now, number| {
            let verdict = admission.admit(now, from("192.0.2.1"), conn(number), |_| false);
            if verdict == Verdict::Accept {
                admission.release(from("192.0.2.1"));
            }
            verdict
        };
        assert_eq!(connect_and_close(NOW, 1), Verdict::Accept);
        assert_eq!(connect_and_close(NOW, 2), Verdict::Accept);
        assert!(is_rejected(connect_and_close(NOW, 3)));
        assert_eq!(connect_and_close(NOW * 2, 4), Verdict::Accept);
        assert!(is_rejected(connect_and_close(NOW * 2, 5)));
    }
}
