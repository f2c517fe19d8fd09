//! Admission compared with a naive model (plain lists, searched each time) over many random
//! steps. The invariants are checked on the lists alone.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Admission, CLOSING_ALLOWANCE, Verdict};
use crate::server::limits::Limits;
use crate::server::limits::quota::RESERVE;
use crate::server::limits::rate_limit::tests::Draw;
use crate::server::net::peer::{Network, Peer};
use crate::server::turn::ConnId;

const STEPS: u32 = 1000;

/// Some belong to one network: an address written in two ways, one /64, /56, /48 and IPv4 /24.
const ADDRESSES: [&str; 8] = [
    "192.0.2.1",
    "::ffff:192.0.2.1",
    "192.0.2.2",
    "2001:db8::1",
    "2001:db8::ffff",
    "2001:db8:0:1::1",
    "2001:db8:0:100::1",
    "127.0.0.1",
];

/// The number of the widest network in [`Peer::networks`].
const WIDEST: usize = 2;

/// An accepted connection.
#[derive(Debug)]
struct Client {
    conn: ConnId,
    peer: Peer,
    /// Those of the peer.
    networks: [Network; 3],
    is_limited: bool,
    status: Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Unnamed,
    Named,
    /// Evicted for another one, and being closed.
    Evicted,
}

impl Client {
    /// Returns whether it could be evicted.
    fn can_be_evicted(&self) -> bool {
        self.is_limited && self.status == Status::Unnamed
    }
}

/// The state of admission as lists.
#[derive(Debug)]
struct Model {
    limits: Limits,
    capacity: usize,
    now: Duration,
    /// Oldest first.
    clients: Vec<Client>,
    /// Networks and times of connections that passed the rate limit.
    counted: Vec<([Network; 3], Duration)>,
    /// Number of connections so far.
    connected: u32,
}

impl Model {
    fn random(draw: &mut Draw, limits: &Limits) -> Self {
        let mut one_to = |most| 1 + usize::try_from(draw.below(most)).expect("a small number");
        let mut limits = limits.clone();
        (limits.max_connections, limits.max_per_address) = (one_to(30), one_to(8));
        limits.max_unnamed = one_to(12) - 1;
        limits.wider_networks = one_to(4);
        let capacity = one_to(40);
        limits.limit_loopback = draw.below(2) == 0;
        (limits.connect_rate, limits.connect_burst) = (draw.below(20), draw.below(10));
        let (clients, counted) = (Vec::new(), Vec::new());
        Self { limits, capacity, now: Duration::ZERO, clients, counted, connected: 0 }
    }

    fn is_limited(&self, peer: Peer) -> bool {
        self.limits.limit_loopback || !peer.is_local()
    }

    /// How many times the limits per address apply at each level of [`Peer::networks`].
    fn factors(&self, peer: Peer) -> [usize; 3] {
        let wider = self.limits.wider_networks;
        // Of IPv4 the middle and the widest network are the same.
        [1, wider, if peer.address.is_ipv4() { wider } else { wider * wider }]
    }

    /// The time of one connection at the permitted rate at each level, and the time saved by
    /// the burst; `None` if unlimited.
    fn rates(&self, peer: Peer) -> Option<[(Duration, Duration); 3]> {
        let interval = 1_000_000_000_u64.checked_div(self.limits.connect_rate.into())?;
        let most = Duration::from_nanos(interval) * self.limits.connect_burst.max(1);
        let factors = self.factors(peer);
        Some(factors.map(|factor| (Duration::from_nanos(interval / factor as u64), most)))
    }

    /// Returns whether the rate limit rejects a peer; the token buckets are recomputed from the
    /// beginning.
    fn is_too_soon(&self, peer: Peer) -> bool {
        let (networks, rates) = (peer.networks(), self.rates(peer).into_iter().flatten());
        let is_empty = |(level, (interval, most)): (usize, (Duration, Duration))| {
            let (mut saved, mut last) = (most, Duration::ZERO);
            let counted = self.counted.iter().filter(|(of, _)| of[level] == networks[level]);
            for (_, at) in counted {
                saved = most.min(saved + at.saturating_sub(last)).saturating_sub(interval);
                last = *at;
            }
            most.min(saved + self.now.saturating_sub(last)) < interval
        };
        rates.enumerate().any(is_empty)
    }

    fn count(&self, is_counted: impl Fn(&Client) -> bool) -> usize {
        self.clients.iter().filter(|client| is_counted(client)).count()
    }

    /// Returns the number of clients of a network.
    fn of(
        &self,
        networks: [Network; 3],
        level: usize,
        is_counted: impl Fn(&Client) -> bool,
    ) -> usize {
        let is_there = |it: &Client| it.is_limited && it.networks[level] == networks[level];
        self.count(|it| is_there(it) && is_counted(it))
    }

    fn is_few(&self, count: usize) -> bool {
        count * 4 < self.limits.max_per_address
    }

    /// Returns whether a network of a peer has its maximum, apart from the reserve.
    fn has_maximum(&self, peer: Peer) -> bool {
        let open = [0, 1, 2].map(|level| self.of(peer.networks(), level, |_| true));
        let most = self.factors(peer).map(|factor| factor * self.limits.max_per_address);
        (0..=WIDEST).any(|level| {
            let is_reserved = level > 0 && most[level] > most[0] && {
                let narrower = usize::from(most[level] != most[1]);
                !self.is_few(open[narrower])
            };
            let reserve = if is_reserved { (most[level] - most[0]) / RESERVE } else { 0 };
            open[level] + reserve >= most[level]
        })
    }

    /// Returns whether all places are taken that a peer may have, apart from the reserve.
    fn is_full(&self, total: usize, peer: Peer, is_counted: impl Fn(&Client) -> bool) -> bool {
        let is_few = self.is_few(self.of(peer.networks(), WIDEST, &is_counted));
        let reserve = if is_few { 0 } else { total / RESERVE };
        self.count(|it| it.is_limited && is_counted(it)) + reserve >= total
    }

    /// Returns the client that is displaced: the first by the number of those of its widest
    /// network, of the one within it, and of its address, on a tie those of the peer's first; and
    /// then by age.
    fn displaced(&self, peer: Peer, may_be: impl Fn(&Client) -> bool) -> Option<usize> {
        let own = peer.networks();
        let rank = |client: &Client, level: usize| {
            let count = self.of(client.networks, level, Client::can_be_evicted);
            (count, client.networks[level] == own[level])
        };
        let all = self.clients.iter().enumerate();
        let all = all.filter(|(_, client)| client.can_be_evicted() && may_be(client));
        let ranked = all.map(|(at, it)| ([2, 1, 0].map(|level| rank(it, level)), Reverse(at)));
        ranked.max().map(|(_, Reverse(at))| at)
    }

    /// Returns the expected verdict; `None`: rejected.
    fn expected_verdict(&mut self, peer: Peer) -> Option<Verdict> {
        let is_limited = self.is_limited(peer);
        if is_limited {
            if self.is_too_soon(peer) {
                return None;
            }
            self.counted.push((peer.networks(), self.now));
            if self.has_maximum(peer) {
                return None;
            }
        }
        if self.clients.len() >= self.capacity + CLOSING_ALLOWANCE {
            return None;
        }
        let is_full = self.clients.len() >= self.capacity
            || (is_limited && self.is_full(self.limits.max_connections, peer, |_| true));
        let has_too_many_unnamed =
            is_limited && self.is_full(self.limits.max_unnamed, peer, Client::can_be_evicted);
        if !is_full && !has_too_many_unnamed {
            return Some(Verdict::Accept);
        }
        let own = peer.networks();
        let is_newcomer = !is_limited || self.is_few(self.of(own, WIDEST, |_| true));
        let may_be = |it: &Client| !is_full || is_newcomer || it.networks[WIDEST] == own[WIDEST];
        match self.displaced(peer, may_be) {
            Some(at) => {
                self.check_fairness(self.clients[at].networks, own);
                self.clients[at].status = Status::Evicted;
                Some(Verdict::AcceptAndEvict(self.clients[at].conn))
            }
            None => (!is_full).then_some(Verdict::Accept),
        }
    }

    /// Checks that a network displaces only itself, or one with more unnamed connections.
    fn check_fairness(&self, displaced: [Network; 3], by: [Network; 3]) {
        let [lost, own] =
            [displaced, by].map(|networks| self.of(networks, WIDEST, Client::can_be_evicted));
        assert!(displaced[WIDEST] == by[WIDEST] || lost > own, "{displaced:?} by {by:?}");
    }

    fn connect(&mut self, admission: &mut Admission, peer: Peer) {
        self.connected += 1;
        let conn = ConnId { slot: self.connected % 64, generation: self.connected };
        let could_evict = self.count(Client::can_be_evicted) > 0;
        let networks = peer.networks();
        let is_fresh = self.counted.iter().all(|(of, _)| of[WIDEST] != networks[WIDEST]);
        let has_room = self.clients.len() < self.capacity + CLOSING_ALLOWANCE;
        let clients = &self.clients;
        let is_unnamed = |conn| {
            clients.iter().any(|client| client.conn == conn && client.status == Status::Unnamed)
        };
        let verdict = admission.admit(self.now, peer, conn, is_unnamed);
        let expected = self.expected_verdict(peer);
        match verdict {
            Verdict::Reject(_) => assert_eq!(expected, None, "{peer:?}"),
            verdict => assert_eq!(Some(verdict), expected, "{peer:?}"),
        }
        let is_honest = is_fresh && !peer.is_local();
        assert!(!is_honest || !could_evict || !has_room || expected.is_some(), "{peer:?}");
        if expected.is_some() {
            let is_limited = self.is_limited(peer);
            let status = Status::Unnamed;
            self.clients.push(Client { conn, peer, networks, is_limited, status });
        }
    }

    fn disconnect(&mut self, admission: &mut Admission, at: usize) {
        let client = self.clients.remove(at);
        admission.release(client.peer);
    }

    fn step(&mut self, draw: &mut Draw, admission: &mut Admission) {
        self.now += match draw.below(100) {
            0..50 => Duration::ZERO,
            50..90 => Duration::from_millis(draw.below(100).into()),
            90..99 => Duration::from_secs(draw.below(10).into()),
            _ => Duration::from_hours(24 * 365),
        };
        let number = draw.below(64) as usize;
        match draw.below(20) {
            0..12 => {
                let address = match draw.below(16) {
                    number @ 0..8 => ADDRESSES[number as usize].parse().expect("an address"),
                    // A /24 that has not connected before.
                    _ => Ipv4Addr::from_bits((self.connected << 8) + (10 << 24)).into(),
                };
                self.connect(admission, Peer::new(address));
            }
            12..15 if number < self.clients.len() => self.disconnect(admission, number),
            15..18 => {
                if let Some(client) = self.clients.get_mut(number) {
                    // An evicted connection cannot log in.
                    client.status = if client.status == Status::Evicted {
                        Status::Evicted
                    } else {
                        Status::Named
                    };
                }
            }
            _ => {
                if let Some(at) =
                    self.clients.iter().position(|client| client.status == Status::Evicted)
                {
                    self.disconnect(admission, at);
                }
            }
        }
    }

    /// Checks the invariants after each step.
    fn check(&self, admission: &Admission) {
        let limits = &self.limits;
        let limited = self.count(|client| client.is_limited);
        assert_eq!((admission.open, admission.connections.total()), (self.clients.len(), limited));
        assert!(self.clients.len() <= self.capacity + CLOSING_ALLOWANCE);
        let open = self.count(|client| client.is_limited && client.status != Status::Evicted);
        assert!(open <= limits.max_connections, "{open} are open");
        let mut counts = HashMap::new();
        for client in self.clients.iter().filter(|client| client.is_limited) {
            for (level, factor) in self.factors(client.peer).into_iter().enumerate() {
                let open: &mut usize = counts.entry((level, client.networks[level])).or_default();
                *open += 1;
                assert!(*open <= factor * limits.max_per_address, "{open} of {client:?}");
            }
        }
        // The new connection itself is never evicted, so there can always be one.
        let waiting = self.count(Client::can_be_evicted);
        assert!(waiting <= limits.max_unnamed.max(1), "{waiting} wait");
        assert!(admission.unnamed.len() <= limits.max_unnamed.max(1));
        assert_eq!(admission.unnamed_quota.total(), admission.unnamed.len());
    }

    /// Checks that no network exceeded its burst and rate over any period.
    fn check_rates(&self) {
        for address in ADDRESSES {
            let peer = Peer::new(address.parse().expect("an address"));
            let networks = peer.networks();
            let Some(rates) = self.rates(peer) else { return };
            for (level, (interval, most)) in rates.into_iter().enumerate() {
                let times = self.counted.iter().filter(|(of, _)| of[level] == networks[level]);
                let times: Vec<Duration> = times.map(|(_, at)| *at).collect();
                for (first, from) in times.iter().enumerate() {
                    for (to, count) in times[first..].iter().zip(1..) {
                        let needed = (interval * count).saturating_sub(most);
                        let time = to.saturating_sub(*from);
                        assert!(needed <= time, "{count} of {peer:?} in {time:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn admission_matches_the_model_in_random_sequences() {
    let limits = Limits::default();
    for seed in 1..=25 {
        println!("seed {seed}"); // shown when it fails
        let mut draw = Draw(seed * 0x9E37_79B9);
        let mut model = Model::random(&mut draw, &limits);
        // More than the reserve, so that the capacity is as intended.
        let mut admission = Admission::new(&model.limits, 3 * super::RESERVED_DESCRIPTORS);
        admission.capacity = model.capacity;
        for _ in 0..STEPS {
            model.step(&mut draw, &mut admission);
            model.check(&admission);
        }
        model.check_rates();
        while !model.clients.is_empty() {
            model.disconnect(&mut admission, 0);
            model.check(&admission);
        }
        assert_eq!((admission.open, admission.connections.total()), (0, 0));
    }
}

/// A peer in a /24 of its own.
fn customer(number: u32) -> Peer {
    Peer::new(Ipv4Addr::from_bits((number << 8) + (10 << 24)).into())
}

#[test]
fn busiest_address_stays_limited_when_many_addresses_connect() {
    let mut limits = Limits { connect_rate: 1, connect_burst: 64, ..Limits::default() };
    limits.max_connections = usize::MAX;
    let mut admission = Admission::new(&limits, 1 << 20);
    let now = Duration::from_secs(1);
    let mut connect = |number: u32, stays: bool| {
        let conn = ConnId { slot: number, generation: 1 };
        let is_in = admission.admit(now, customer(number), conn, |_| false) == Verdict::Accept;
        if is_in && !stays {
            admission.release(customer(number));
        }
        is_in
    };
    // One connects until it is limited, and some stay: their state is not evicted.
    assert_eq!((0..100).filter(|_| connect(0, false)).count(), 64);
    assert!((1..100).all(|number| connect(number, true)));
    assert!((100..60_000).all(|number| connect(number, false)));
    assert!(!connect(0, false), "the busiest address was evicted");
    assert_eq!(admission.connections.total(), 99);
}

/// Connects `each` clients from each of the addresses; returns how many were accepted.
fn connect_all(
    admission: &mut Admission,
    addresses: impl Iterator<Item = String>,
    each: u32,
    is_unnamed: bool,
) -> usize {
    let conns = (1..).map(|number| ConnId { slot: number, generation: 1 });
    let peers = addresses.flat_map(|address| {
        let peer = Peer::new(address.parse().expect("an address"));
        (0..each).map(move |_| peer)
    });
    let verdicts = peers
        .zip(conns)
        .map(|(peer, conn)| admission.admit(Duration::ZERO, peer, conn, |_| is_unnamed));
    verdicts.filter(|verdict| !matches!(verdict, Verdict::Reject(_))).count()
}

#[test]
fn owner_of_many_addresses_leaves_places_for_others() {
    let limits = Limits { connect_rate: 0, ..Limits::default() };
    for is_unnamed in [false, true] {
        let mut admission = Admission::new(&limits, 1 << 20);
        let subnets = (0..320).map(|subnet| format!("2001:db8:7:{subnet:x}::1"));
        assert!(connect_all(&mut admission, subnets, 32, is_unnamed) <= 512, "{is_unnamed}");
        let school = std::iter::once("192.0.2.1".to_owned());
        assert_eq!(connect_all(&mut admission, school, 32, false), 32);
    }
    // Enough customers fill the server with named connections, but for the reserve.
    let mut admission = Admission::new(&limits, 1 << 20);
    let customers = (0..274).map(|number| customer(number).address.to_string());
    assert_eq!(connect_all(&mut admission, customers, 32, false), 10_000 - 10_000 / RESERVE);
    assert_eq!(connect_all(&mut admission, ["192.0.2.1".to_owned()].into_iter(), 32, false), 8);
}

#[test]
fn waiting_logins_of_a_few_networks_do_not_evict_those_of_a_class() {
    const CLASS: u32 = u32::MAX; // the generation of its connections
    let limits = Limits { connect_rate: 0, ..Limits::default() };
    let mut admission = Admission::new(&limits, 1 << 20);
    let class = customer(500);
    for slot in 0..30 {
        let conn = ConnId { slot, generation: CLASS };
        assert_eq!(admission.admit(Duration::ZERO, class, conn, |_| true), Verdict::Accept);
    }
    for round in 0..20 {
        let mut accepted = Vec::new();
        // Six networks, four addresses each; the limit is less than what they ask for.
        for slot in 0..6 * 4 * 32 {
            let address = Ipv4Addr::from_bits((10 << 24) + ((slot % 6) << 8) + slot / 6 % 4);
            let (peer, conn) = (Peer::new(address.into()), ConnId { slot, generation: round });
            let is_unnamed = |conn: ConnId| [CLASS, round].contains(&conn.generation);
            match admission.admit(Duration::ZERO, peer, conn, is_unnamed) {
                Verdict::Reject(_) => continue,
                Verdict::Accept => {}
                Verdict::AcceptAndEvict(other) => assert_ne!(other.generation, CLASS),
            }
            accepted.push(peer);
        }
        assert!(accepted.len() > limits.max_unnamed, "{}", accepted.len());
        for peer in accepted {
            admission.release(peer);
        }
    }
}
