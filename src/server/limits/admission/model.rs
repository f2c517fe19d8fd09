//! Admission compared with a naive model (plain lists, searched each time) over many random
//! steps. The invariants are checked on the lists alone.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Admission, CLOSING_ALLOWANCE, Verdict};
use crate::server::limits::Limits;
use crate::server::limits::rate_limit::tests::Draw;
use crate::server::net::peer::Peer;
use crate::server::turn::ConnId;

const STEPS: u32 = 1000;

/// Some belong to one network: an address written in two ways, and one /64.
const ADDRESSES: [&str; 8] = [
    "192.0.2.1",
    "::ffff:192.0.2.1",
    "192.0.2.2",
    "2001:db8::1",
    "2001:db8::ffff",
    "2001:db8:0:1::1",
    "127.0.0.1",
    "::1",
];

/// An accepted connection.
#[derive(Debug)]
struct Client {
    conn: ConnId,
    peer: Peer,
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
    counted: Vec<(IpAddr, Duration)>,
    /// Number of connections so far.
    connected: u32,
}

impl Model {
    fn random(draw: &mut Draw, limits: &Limits) -> Self {
        let mut one_to = |most| 1 + usize::try_from(draw.below(most)).expect("a small number");
        let mut limits = limits.clone();
        (limits.max_connections, limits.max_per_address) = (one_to(30), one_to(8));
        limits.max_unnamed = one_to(12) - 1;
        let capacity = one_to(40);
        limits.limit_loopback = draw.below(2) == 0;
        (limits.connect_rate, limits.connect_burst) = (draw.below(20), draw.below(10));
        let (clients, counted) = (Vec::new(), Vec::new());
        Self { limits, capacity, now: Duration::ZERO, clients, counted, connected: 0 }
    }

    /// Returns whether the rate limit rejects a network; the token bucket is recomputed from the
    /// beginning.
    fn is_too_soon(&self, network: IpAddr) -> bool {
        let Some(interval) = 1_000_000_000_u64.checked_div(self.limits.connect_rate.into()) else {
            return false;
        };
        let interval = Duration::from_nanos(interval);
        let most = interval * self.limits.connect_burst.max(1);
        let (mut saved, mut last) = (most, Duration::ZERO);
        for (_, at) in self.counted.iter().filter(|(from, _)| *from == network) {
            saved = most.min(saved + at.saturating_sub(last)).saturating_sub(interval);
            last = *at;
        }
        most.min(saved + self.now.saturating_sub(last)) < interval
    }

    fn count(&self, is_counted: impl Fn(&Client) -> bool) -> usize {
        self.clients.iter().filter(|client| is_counted(client)).count()
    }

    fn is_full(&self, is_limited: bool) -> bool {
        let limited = self.count(|client| client.is_limited);
        self.clients.len() >= self.capacity
            || (is_limited && limited >= self.limits.max_connections)
    }

    /// Returns the expected verdict; `None`: rejected.
    fn expected_verdict(&mut self, peer: Peer) -> Option<Verdict> {
        let is_limited = self.limits.limit_loopback || !peer.is_local();
        let from_there = self.count(|client| client.peer.network() == peer.network());
        if is_limited {
            if self.is_too_soon(peer.network()) {
                return None;
            }
            self.counted.push((peer.network(), self.now));
            if from_there >= self.limits.max_per_address {
                return None;
            }
        }
        let waiting = self.count(Client::can_be_evicted);
        let has_too_many_unnamed = is_limited && waiting >= self.limits.max_unnamed;
        if !self.is_full(is_limited) && !has_too_many_unnamed {
            return Some(Verdict::Accept);
        }
        let is_full = self.is_full(is_limited);
        let has_no_room = self.clients.len() >= self.capacity + CLOSING_ALLOWANCE;
        let oldest = self.clients.iter_mut().find(|client| client.can_be_evicted());
        match oldest {
            _ if has_no_room => {}
            Some(client) => {
                client.status = Status::Evicted;
                return Some(Verdict::AcceptAndEvict(client.conn));
            }
            None if is_full => {}
            None => return Some(Verdict::Accept),
        }
        None
    }

    fn connect(&mut self, admission: &mut Admission, peer: Peer) {
        self.connected += 1;
        let conn = ConnId { slot: self.connected % 64, generation: self.connected };
        let could_evict = self.count(Client::can_be_evicted) > 0;
        let is_fresh = self.counted.iter().all(|(from, _)| *from != peer.network());
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
            let is_limited = self.limits.limit_loopback || !peer.is_local();
            self.clients.push(Client { conn, peer, is_limited, status: Status::Unnamed });
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
                    // An address that has not connected before.
                    _ => Ipv4Addr::from_bits(self.connected + (10 << 24)).into(),
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
        assert_eq!((admission.open, admission.open_limited), (self.clients.len(), limited));
        assert!(self.clients.len() <= self.capacity + CLOSING_ALLOWANCE);
        let open = self.count(|client| client.is_limited && client.status != Status::Evicted);
        assert!(open <= limits.max_connections, "{open} are open");
        for client in self.clients.iter().filter(|client| client.is_limited) {
            let network = client.peer.network();
            let open = self.count(|other| other.peer.network() == network);
            assert!(open <= limits.max_per_address, "{open} of {network}");
            assert_eq!(admission.open_of[&network], open, "{network}");
        }
        // The new connection itself is never evicted, so there can always be one.
        let waiting = self.count(Client::can_be_evicted);
        assert!(waiting <= limits.max_unnamed.max(1), "{waiting} wait");
        assert!(admission.unnamed.len() <= limits.max_unnamed.max(1));
        assert_eq!(admission.open_of.values().sum::<usize>(), limited);
    }

    /// Checks that no network exceeded its burst and rate over any period.
    fn check_rates(&self) {
        let Some(interval) = Duration::from_secs(1).checked_div(self.limits.connect_rate) else {
            return;
        };
        for address in ADDRESSES {
            let network = Peer::new(address.parse().expect("an address")).network();
            let times = self.counted.iter().filter(|(from, _)| *from == network);
            let times: Vec<Duration> = times.map(|(_, at)| *at).collect();
            for (first, from) in times.iter().enumerate() {
                for (to, count) in times[first..].iter().zip(1..) {
                    let burst = self.limits.connect_burst.max(1);
                    let most = interval * u32::saturating_sub(count, burst);
                    let time = to.saturating_sub(*from);
                    assert!(most <= time, "{count} of {network} in {time:?}");
                }
            }
        }
    }
}

#[test]
fn admission_matches_the_model_in_random_sequences() {
    let limits = Limits::default();
    for seed in 1..=50 {
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
        assert!(admission.open_of.is_empty());
    }
}

#[test]
fn busiest_address_stays_limited_when_many_addresses_connect() {
    let mut limits = Limits { connect_rate: 1, connect_burst: 64, ..Limits::default() };
    limits.max_connections = usize::MAX;
    let mut admission = Admission::new(&limits, 1 << 20);
    let now = Duration::from_secs(1);
    let address = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number + (10 << 24)));
    let mut connect = |number: u32, stays: bool| {
        let peer = Peer::new(address(number));
        let conn = ConnId { slot: number, generation: 1 };
        let is_in = admission.admit(now, peer, conn, |_| false) == Verdict::Accept;
        if is_in && !stays {
            admission.release(peer);
        }
        is_in
    };
    // One connects until it is limited, and some stay: their state is not evicted.
    assert_eq!((0..100).filter(|_| connect(0, false)).count(), 64);
    assert!((1..100).all(|number| connect(number, true)));
    assert!((100..100_000).all(|number| connect(number, false)));
    assert!(!connect(0, false), "the busiest address was evicted");
    assert!((1..100).all(|number| admission.open_of[&address(number)] == 1));
    assert_eq!(admission.open_of.len(), 99);
}
