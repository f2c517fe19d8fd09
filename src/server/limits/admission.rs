//! Admission: whether a new connection is accepted, by limits on all connections, on those of
//! each network, and on those without a name.
//!
//! If connections without a name are in the way, one of them is evicted: of the network that has
//! the most of them, so that idle connections cannot keep honest clients out, and a network with
//! many displaces only its own. The module has no socket and no clock.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use crate::server::limits::Limits;
use crate::server::limits::quota::{Bounds, Exhausted, Quota};
use crate::server::limits::rate_limit::{Rate, RateLimiter};
use crate::server::net::peer::Peer;
use crate::server::turn::ConnId;

/// Descriptors reserved for the log, the listeners, and connections that are being closed or
/// rejected.
const RESERVED_DESCRIPTORS: usize = 64;

/// Number of connections that may be closing beside the maximum of open ones.
const CLOSING_ALLOWANCE: usize = 16;

/// The reason when the server is full.
const SERVER_FULL: Cow<'_, str> = Cow::Borrowed("the server is full; try again later");

/// The decision about a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Accept it.
    Accept,
    /// Accept it and evict this one.
    AcceptAndEvict(ConnId),
    /// Reject it, for this reason.
    Reject(Cow<'static, str>),
}

/// The state of admission: the open connections, counted.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    /// Maximum number of connections that the system permits, from any address.
    capacity: usize,
    /// Number of open connections, including those to which the limits do not apply.
    open: usize,
    /// Those to which the limits apply.
    connections: Quota,
    /// Limits the rate of new connections.
    rate_limiter: RateLimiter,
    /// Connections to which the limits apply and that may still be without a name, oldest first.
    unnamed: VecDeque<(ConnId, Peer)>,
    /// Counts `unnamed`.
    unnamed_quota: Quota,
}

impl Admission {
    /// Creates the state with these limits, on a system with this number of descriptors.
    #[must_use]
    pub fn new(limits: &Limits, descriptors: usize) -> Self {
        let rate = Rate::new(limits.connect_rate, limits.connect_burst);
        let capacity = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(descriptors / 4);
        Self {
            capacity,
            open: 0,
            connections: Quota::new(Bounds {
                total: limits.max_connections.min(capacity),
                ..limits.connection_bounds()
            }),
            rate_limiter: RateLimiter::new(rate, limits.wider_networks),
            unnamed: VecDeque::new(),
            unnamed_quota: Quota::new(limits.bounds(limits.max_per_address, limits.max_unnamed)),
            limits: limits.clone(),
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
        if is_limited && let Err(network) = self.rate_limiter.allow(now, peer) {
            let whose = peer.describe(network);
            let why = format!("too many new connections from {whose}; wait a few seconds");
            return Verdict::Reject(why.into());
        }
        let evicted = match self.check(peer, is_unnamed) {
            Ok(evicted) => evicted,
            Err(why) => return Verdict::Reject(why),
        };
        if let Some((_, peer)) = evicted {
            self.unnamed.retain(|entry| Some(*entry) != evicted);
            self.unnamed_quota.release(peer);
        }
        self.open += 1;
        if is_limited {
            self.connections.force(peer);
            self.unnamed_quota.force(peer);
            self.unnamed.push_back((conn, peer));
        }
        evicted.map_or(Verdict::Accept, |(conn, _)| Verdict::AcceptAndEvict(conn))
    }

    /// Checks the limits for a new connection. Returns which other one it displaces, if any.
    ///
    /// # Errors
    /// The reason why it cannot be accepted.
    fn check(
        &mut self,
        peer: Peer,
        is_unnamed: impl Fn(ConnId) -> bool,
    ) -> Result<Option<(ConnId, Peer)>, Cow<'static, str>> {
        let is_limited = self.limits.apply_to(peer);
        let place = if is_limited { self.connections.check(peer) } else { Ok(()) };
        if let Err(Exhausted::Network(network)) = place {
            let whose = peer.describe(network);
            return Err(format!("too many connections from {whose}; end one of them first").into());
        }
        if self.open >= self.capacity + CLOSING_ALLOWANCE {
            // Do not evict a connection for one that is rejected.
            return Err(SERVER_FULL);
        }
        let is_full = place.is_err() || self.open >= self.capacity;
        if !is_full && !self.has_too_many_unnamed(peer) {
            return Ok(None);
        }
        self.drop_named(is_unnamed);
        if !is_full && !self.has_too_many_unnamed(peer) {
            return Ok(None);
        }
        // Only the reserve may be left, which is not for the network of this peer.
        let is_newcomer = !is_limited || self.connections.is_newcomer(peer);
        let is_neighbour = |of: Peer| of.networks()[2] == peer.networks()[2];
        let evictable = self.unnamed.iter().map(|entry| (*entry, entry.1));
        let evictable = evictable.filter(|(_, of)| !is_full || is_newcomer || is_neighbour(*of));
        let evicted = self.unnamed_quota.to_displace(evictable, peer);
        if is_full && evicted.is_none() { Err(SERVER_FULL) } else { Ok(evicted) }
    }

    fn has_too_many_unnamed(&self, peer: Peer) -> bool {
        self.limits.apply_to(peer) && self.unnamed_quota.check(peer).is_err()
    }

    /// Removes connections that have a name or are closed from the unnamed ones.
    fn drop_named(&mut self, is_unnamed: impl Fn(ConnId) -> bool) {
        self.unnamed.retain(|(conn, peer)| {
            let is_kept = is_unnamed(*conn);
            if !is_kept {
                self.unnamed_quota.release(*peer);
            }
            is_kept
        });
    }

    /// Notes that an accepted connection is closed.
    pub fn release(&mut self, peer: Peer) {
        self.open -= 1;
        if self.limits.apply_to(peer) {
            self.connections.release(peer);
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

    fn is_rejected(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Reject(_))
    }

    #[test]
    fn connections_are_limited_per_address_and_per_ipv6_64_network() {
        let mut admission = admission(|limits| limits.max_per_address = 2);
        let mut connect =
            |address: &str, number| admission.admit(NOW, from(address), conn(number), |_| true);
        for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
            assert_eq!(connect(address, 1), Verdict::Accept, "{address}");
            assert_eq!(connect(address, 2), Verdict::Accept, "{address}");
        }
        assert!(is_rejected(&connect("192.0.2.1", 3)));
        assert!(is_rejected(&connect("2001:db8::ffff", 3)), "the same /64");
        let why = connect("2001:db8::ffff", 3);
        assert!(matches!(&why, Verdict::Reject(why) if why.contains("your address")), "{why:?}");
        assert_eq!(connect("2001:db8:0:1::1", 3), Verdict::Accept);
        for number in 4..20 {
            connect(&format!("2001:db8:0:{number}::1"), number);
        }
        let why = connect("2001:db8:0:2::1", 3);
        let network = "from your network 2001:db8::/56;";
        assert!(matches!(&why, Verdict::Reject(why) if why.contains(network)), "{why:?}");
        for number in 0..100 {
            assert_eq!(connect("127.0.0.1", number), Verdict::Accept);
        }
        admission.release(from("192.0.2.1"));
        assert_eq!(admission.admit(NOW, from("192.0.2.1"), conn(9), |_| false), Verdict::Accept);
    }

    #[test]
    fn loopback_is_limited_only_when_configured() {
        let mut limited = admission(|limits| {
            (limits.max_per_address, limits.limit_loopback) = (1, true);
        });
        assert_eq!(limited.admit(NOW, from("::1"), conn(1), |_| true), Verdict::Accept);
        assert!(is_rejected(&limited.admit(NOW, from("::1"), conn(2), |_| true)));
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
        assert!(is_rejected(&connect(4, false)), "all have names");
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
        assert!(is_rejected(&connect(&mut admission, 40)));
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
        assert!(is_rejected(&connect_and_close(NOW, 3)));
        assert_eq!(connect_and_close(NOW * 2, 4), Verdict::Accept);
        assert!(is_rejected(&connect_and_close(NOW * 2, 5)));
    }
}
