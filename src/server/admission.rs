//! Who may come in: how many connections there may be, in all, from one address, and
//! of people who have given no name yet. Where only those who hold a place without a
//! name are in the way, the one who has held it longest gives way, so that an honest
//! newcomer always gets in. It has no socket and no clock.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::limits::Limits;
use super::peer::Peer;
use super::rate_limit::{Rate, RateLimiter};
use super::turn::ConnId;

/// Descriptors kept for the log, for what listens, for connections that are being
/// ended, and for those that are told why they cannot come in.
const RESERVED_DESCRIPTORS: usize = 64;

/// So many connections may be in the middle of their end beside those that may be
/// open.
const CLOSING_ALLOWANCE: usize = 16;

/// Why nobody else can come in.
const SERVER_FULL: &str = "the server is full; try again later";

/// What is to become of somebody who comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Come in.
    Welcome,
    /// Come in, for this one, who has to go.
    InsteadOf(ConnId),
    /// Not now, and why.
    Refused(&'static str),
}

/// See the head of this file.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    /// How many the system can hold, wherever they come from.
    capacity: usize,
    open: usize,
    /// Of them, those that the limits are for.
    open_limited: usize,
    /// Of those, how many are of one address, or of a network that is one customer's.
    open_of: HashMap<IpAddr, usize>,
    /// How fast they came from there.
    paces: RateLimiter,
    /// Those that may have no name yet, in the order they came.
    unnamed: VecDeque<ConnId>,
}

impl Admission {
    /// With these limits, on a system that gives so many descriptors.
    #[must_use]
    pub fn new(limits: &Limits, descriptors: usize) -> Self {
        Self {
            limits: limits.clone(),
            capacity: descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(descriptors / 4),
            open: 0,
            open_limited: 0,
            open_of: HashMap::new(),
            paces: RateLimiter::new(Rate::new(limits.connect_rate, limits.connect_burst)),
            unnamed: VecDeque::new(),
        }
    }

    /// Somebody wants to come in as `conn`; `is_unnamed` tells of another connection
    /// whether it is open and has no name yet. Who is not refused is counted, until
    /// [`Self::left`].
    pub fn admit(
        &mut self,
        now: Duration,
        peer: Peer,
        conn: ConnId,
        is_unnamed: impl Fn(ConnId) -> bool,
    ) -> Verdict {
        let is_limited = self.limits.apply_to(peer);
        if is_limited && let Err(why) = self.check_limits(now, peer) {
            return Verdict::Refused(why);
        }
        let is_full = self.open >= self.capacity
            || (is_limited && self.open_limited >= self.limits.max_connections);
        let mut gives_way = None;
        if self.open >= self.capacity + CLOSING_ALLOWANCE {
            // Nobody is to give way to somebody who cannot come in.
            return Verdict::Refused(SERVER_FULL);
        }
        let max_unnamed = self.limits.max_unnamed;
        if is_full || (is_limited && self.unnamed.len() >= max_unnamed) {
            self.unnamed.retain(|conn| is_unnamed(*conn));
            if is_full || self.unnamed.len() >= max_unnamed {
                gives_way = self.unnamed.pop_front();
            }
        }
        if is_full && gives_way.is_none() {
            return Verdict::Refused(SERVER_FULL);
        }
        self.open += 1;
        if is_limited {
            self.open_limited += 1;
            *self.open_of.entry(peer.network()).or_default() += 1;
            self.unnamed.push_back(conn);
        }
        gives_way.map_or(Verdict::Welcome, Verdict::InsteadOf)
    }

    /// What there is against somebody from this address.
    fn check_limits(&mut self, now: Duration, peer: Peer) -> Result<(), &'static str> {
        let network = peer.network();
        if !self.paces.may_go_on(now, network) {
            return Err("too many new connections from your address; wait a few seconds");
        }
        if self.open_of.get(&network).is_some_and(|open| *open >= self.limits.max_per_address) {
            return Err("too many connections from your address; end one of them first");
        }
        Ok(())
    }

    /// Somebody who had come in is gone.
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

    fn is_refused(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Refused(_))
    }

    #[test]
    fn an_address_has_so_many_connections_and_a_network_of_one_customer_too() {
        let mut admission = admission(|limits| limits.max_per_address = 2);
        let mut come =
            |address, number| admission.admit(NOW, from(address), conn(number), |_| true);
        for address in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
            assert_eq!(come(address, 1), Verdict::Welcome, "{address}");
            assert_eq!(come(address, 2), Verdict::Welcome, "{address}");
        }
        assert!(is_refused(come("192.0.2.1", 3)));
        assert!(is_refused(come("2001:db8::ffff", 3)), "the same /64");
        assert_eq!(come("2001:db8:0:1::1", 3), Verdict::Welcome);
        for number in 0..100 {
            assert_eq!(come("127.0.0.1", number), Verdict::Welcome);
        }
        admission.release(from("192.0.2.1"));
        assert_eq!(admission.admit(NOW, from("192.0.2.1"), conn(9), |_| true), Verdict::Welcome);
    }

    #[test]
    fn loopback_is_limited_only_if_told_to() {
        let mut limited = admission(|limits| {
            (limits.max_per_address, limits.limit_loopback) = (1, true);
        });
        assert_eq!(limited.admit(NOW, from("::1"), conn(1), |_| true), Verdict::Welcome);
        assert!(is_refused(limited.admit(NOW, from("::1"), conn(2), |_| true)));
        assert_eq!(limited.admit(NOW, from("127.0.0.2"), conn(3), |_| true), Verdict::Welcome);
    }

    #[test]
    fn who_has_given_no_name_for_longest_gives_way() {
        let mut admission = admission(|limits| limits.max_unnamed = 3);
        let named = HashSet::from([conn(2)]);
        let mut come = |number: u32| {
            let address = format!("192.0.2.{number}");
            admission.admit(NOW, from(&address), conn(number), |conn| !named.contains(&conn))
        };
        for number in 1..=4 {
            assert_eq!(come(number), Verdict::Welcome, "{number}: one of the three has a name");
        }
        assert_eq!(come(5), Verdict::InsteadOf(conn(1)));
        assert_eq!(come(6), Verdict::InsteadOf(conn(3)));
    }

    #[test]
    fn a_full_server_takes_who_gives_a_name_before_who_does_not() {
        let mut admission = admission(|limits| limits.max_connections = 2);
        let mut come = |number: u32, is_unnamed: bool| {
            let address = format!("192.0.2.{number}");
            admission.admit(NOW, from(&address), conn(number), |_| is_unnamed)
        };
        assert_eq!(come(1, true), Verdict::Welcome);
        assert_eq!(come(2, true), Verdict::Welcome);
        assert_eq!(come(3, true), Verdict::InsteadOf(conn(1)));
        assert!(is_refused(come(4, false)), "all have names");
        assert_eq!(admission.admit(NOW, from("::1"), conn(5), |_| false), Verdict::Welcome);
    }

    #[test]
    fn what_the_system_cannot_hold_nobody_is_promised() {
        let mut admission = Admission::new(&Limits::default(), RESERVED_DESCRIPTORS + 40);
        let come = |admission: &mut Admission, number| {
            admission.admit(NOW, from("127.0.0.1"), conn(number), |_| true)
        };
        for number in 0..40 {
            assert_eq!(come(&mut admission, number), Verdict::Welcome);
        }
        assert!(is_refused(come(&mut admission, 40)));
        admission.release(from("127.0.0.1"));
        assert_eq!(come(&mut admission, 41), Verdict::Welcome);
    }

    #[test]
    fn who_comes_again_and_again_waits() {
        let mut admission =
            admission(|limits| (limits.connect_rate, limits.connect_burst) = (1, 2));
        let mut come_and_go = |now, number| {
            let verdict = admission.admit(now, from("192.0.2.1"), conn(number), |_| false);
            if verdict == Verdict::Welcome {
                admission.release(from("192.0.2.1"));
            }
            verdict
        };
        assert_eq!(come_and_go(NOW, 1), Verdict::Welcome);
        assert_eq!(come_and_go(NOW, 2), Verdict::Welcome);
        assert!(is_refused(come_and_go(NOW, 3)));
        assert_eq!(come_and_go(NOW * 2, 4), Verdict::Welcome);
        assert!(is_refused(come_and_go(NOW * 2, 5)));
    }
}
