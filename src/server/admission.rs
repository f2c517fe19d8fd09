//! Who may come in: how many connections there may be, in all, from one address, and
//! of people who have given no name yet. Where only those who hold a place without a
//! name are in the way, the one who has held it longest gives way, so that an honest
//! newcomer always gets in. It has no socket and no clock.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::limits::Limits;
use super::pace::{Pace, Rate};
use super::peer::Peer;
use super::turn::ConnId;

/// Descriptors kept for the log, for what listens, for connections that are being
/// ended, and for those that are told why they cannot come in.
const RESERVE: usize = 64;

/// So many connections may be in the middle of their end beside those that may be
/// open.
const SLACK: usize = 16;

/// So many addresses are remembered only for how fast they came. When there are more
/// those are forgotten that may come as fast as anybody again, and if too many are left
/// the half that came least.
const REMEMBERED_MAX: usize = 4096;

/// Why nobody else can come in.
const FULL: &str = "the server is full; try again later";

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

/// Connections of one address, or of a network that is one customer's.
#[derive(Debug, Default)]
struct Comers {
    open: usize,
    pace: Pace,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Admission {
    max: usize,
    max_per_address: usize,
    max_unnamed: usize,
    rate: Option<Rate>,
    is_loopback_limited: bool,
    /// How many the system can hold, wherever they come from.
    capacity: usize,
    open: usize,
    /// Of them, those that the limits are for.
    open_limited: usize,
    comers: HashMap<IpAddr, Comers>,
    /// Those that may have no name yet, in the order they came.
    unnamed: VecDeque<ConnId>,
}

impl Admission {
    /// With these limits, on a system that gives so many descriptors.
    #[must_use]
    pub fn new(limits: &Limits, descriptors: usize) -> Self {
        Self {
            max: limits.max_connections,
            max_per_address: limits.max_per_address,
            max_unnamed: limits.max_unnamed,
            rate: Rate::new(limits.connect_rate, limits.connect_burst),
            is_loopback_limited: limits.limit_loopback,
            capacity: descriptors.saturating_sub(RESERVE).max(descriptors / 4),
            open: 0,
            open_limited: 0,
            comers: HashMap::new(),
            unnamed: VecDeque::new(),
        }
    }

    /// Whether the limits are for somebody from there.
    #[must_use]
    pub fn is_limited(&self, peer: Peer) -> bool {
        self.is_loopback_limited || !peer.is_local()
    }

    /// Somebody wants to come in as `conn`; `is_unnamed` tells of another connection
    /// whether it is open and has no name yet. Who is not refused is counted, until
    /// [`Self::left`].
    pub fn arrives(
        &mut self,
        now: Duration,
        peer: Peer,
        conn: ConnId,
        is_unnamed: impl Fn(ConnId) -> bool,
    ) -> Verdict {
        let is_limited = self.is_limited(peer);
        if is_limited && let Err(why) = self.knock(now, peer) {
            return Verdict::Refused(why);
        }
        let is_full = self.open >= self.capacity || (is_limited && self.open_limited >= self.max);
        let mut gives_way = None;
        if self.open >= self.capacity + SLACK {
            // Nobody is to give way to somebody who cannot come in.
            return Verdict::Refused(FULL);
        }
        if is_full || (is_limited && self.unnamed.len() >= self.max_unnamed) {
            self.unnamed.retain(|conn| is_unnamed(*conn));
            if is_full || self.unnamed.len() >= self.max_unnamed {
                gives_way = self.unnamed.pop_front();
            }
        }
        if is_full && gives_way.is_none() {
            return Verdict::Refused(FULL);
        }
        self.open += 1;
        if is_limited {
            self.open_limited += 1;
            self.comers.entry(peer.network()).or_default().open += 1;
            self.unnamed.push_back(conn);
        }
        gives_way.map_or(Verdict::Welcome, Verdict::InsteadOf)
    }

    /// What there is against somebody from this address.
    fn knock(&mut self, now: Duration, peer: Peer) -> Result<(), &'static str> {
        // Each that is open has one entry at most.
        if self.comers.len() > REMEMBERED_MAX + self.open_limited {
            self.forget(now);
        }
        let comers = self.comers.entry(peer.network()).or_default();
        if let Some(rate) = self.rate {
            if comers.pace.next(rate, now) > now {
                return Err("too many new connections from your address; wait a few seconds");
            }
            comers.pace.count(rate, now);
        }
        if comers.open >= self.max_per_address {
            return Err("too many connections from your address; end one of them first");
        }
        Ok(())
    }

    /// Forgets at least half of those who are gone, so that it is done seldom.
    fn forget(&mut self, now: Duration) {
        let is_gone = |comers: &&Comers| comers.open == 0;
        let mut paces: Vec<Pace> =
            self.comers.values().filter(is_gone).map(|comers| comers.pace).collect();
        let middle = paces.len() / 2;
        let (_, middle, _) = paces.select_nth_unstable(middle);
        let is_kept = |pace: Pace| pace > *middle && !pace.is_full(now);
        self.comers.retain(|_, comers| comers.open > 0 || is_kept(comers.pace));
    }

    /// Somebody who had come in is gone.
    pub fn left(&mut self, now: Duration, peer: Peer) {
        self.open -= 1;
        if !self.is_limited(peer) {
            return;
        }
        self.open_limited -= 1;
        let network = peer.network();
        let Some(comers) = self.comers.get_mut(&network) else { return };
        comers.open -= 1;
        if comers.open == 0 && comers.pace.is_full(now) {
            self.comers.remove(&network);
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
            |address, number| admission.arrives(NOW, from(address), conn(number), |_| true);
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
        admission.left(NOW, from("192.0.2.1"));
        assert_eq!(admission.arrives(NOW, from("192.0.2.1"), conn(9), |_| true), Verdict::Welcome);
    }

    #[test]
    fn loopback_is_limited_only_if_told_to() {
        let mut limited = admission(|limits| {
            (limits.max_per_address, limits.limit_loopback) = (1, true);
        });
        assert_eq!(limited.arrives(NOW, from("::1"), conn(1), |_| true), Verdict::Welcome);
        assert!(is_refused(limited.arrives(NOW, from("::1"), conn(2), |_| true)));
        assert_eq!(limited.arrives(NOW, from("127.0.0.2"), conn(3), |_| true), Verdict::Welcome);
    }

    #[test]
    fn who_has_given_no_name_for_longest_gives_way() {
        let mut admission = admission(|limits| limits.max_unnamed = 3);
        let named = HashSet::from([conn(2)]);
        let mut come = |number: u32| {
            let address = format!("192.0.2.{number}");
            admission.arrives(NOW, from(&address), conn(number), |conn| !named.contains(&conn))
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
            admission.arrives(NOW, from(&address), conn(number), |_| is_unnamed)
        };
        assert_eq!(come(1, true), Verdict::Welcome);
        assert_eq!(come(2, true), Verdict::Welcome);
        assert_eq!(come(3, true), Verdict::InsteadOf(conn(1)));
        assert!(is_refused(come(4, false)), "all have names");
        assert_eq!(admission.arrives(NOW, from("::1"), conn(5), |_| false), Verdict::Welcome);
    }

    #[test]
    fn what_the_system_cannot_hold_nobody_is_promised() {
        let mut admission = Admission::new(&Limits::default(), RESERVE + 40);
        let come = |admission: &mut Admission, number| {
            admission.arrives(NOW, from("127.0.0.1"), conn(number), |_| true)
        };
        for number in 0..40 {
            assert_eq!(come(&mut admission, number), Verdict::Welcome);
        }
        assert!(is_refused(come(&mut admission, 40)));
        admission.left(NOW, from("127.0.0.1"));
        assert_eq!(come(&mut admission, 41), Verdict::Welcome);
    }

    #[test]
    fn who_comes_again_and_again_waits_and_is_forgotten_in_time() {
        let mut admission =
            admission(|limits| (limits.connect_rate, limits.connect_burst) = (1, 2));
        let mut come_and_go = |now, number| {
            let verdict = admission.arrives(now, from("192.0.2.1"), conn(number), |_| false);
            if verdict == Verdict::Welcome {
                admission.left(now, from("192.0.2.1"));
            }
            verdict
        };
        assert_eq!(come_and_go(NOW, 1), Verdict::Welcome);
        assert_eq!(come_and_go(NOW, 2), Verdict::Welcome);
        assert!(is_refused(come_and_go(NOW, 3)));
        assert_eq!(come_and_go(NOW * 2, 4), Verdict::Welcome);
        assert!(is_refused(come_and_go(NOW * 2, 5)));
        for number in 0..2 + u32::try_from(REMEMBERED_MAX).expect("a small number") {
            let address = Peer::new(std::net::Ipv4Addr::from_bits(number + (10 << 24)).into());
            let now = NOW * 100;
            assert_eq!(admission.arrives(now, address, conn(number), |_| false), Verdict::Welcome);
            admission.left(now, address);
        }
        assert!(admission.comers.len() < REMEMBERED_MAX / 2);
    }
}
