//! What each kind of attacker achieves against the password throttle, in simulated time. A
//! guesser sends the next wrong password as soon as the last one is answered, and after a
//! refusal when it says so; a check takes 50 ms.
//!
//! | attackers, for five minutes | guesses checked | an owner waits at most |
//! | --- | --- | --- |
//! | 1 connection, or 32 of one address, elsewhere | 25 | 50 ms |
//! | 320 connections from as many /64 of one /48 elsewhere | 85 | 50 ms |
//! | 31 connections in the known network, of the owner's address | 1040 | 9.6 s |
//! | 32 of one address, at the passwords of a class of 29 that logs in at once | 61 | 50 ms |
//! | 2 of the address of this class, at another password | 25 | 50 ms |
//! | 32 of one address, at a password that all of this class share | 25 | 400 ms |

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::protocol::codec::Frame;
use crate::server::auth::passwords::{HashFile, Job, Outcome};
use crate::server::hub::test_support::{Driver, Work, conn, connect_from, hub, now, say};
use crate::server::hub::{Input, Limits};

const CHECK: Duration = Duration::from_millis(50);

const FIVE_MINUTES: Duration = Duration::from_mins(5);

/// The network of the owners, an address elsewhere, and the one of the registrations.
const HOME: &str = "192.0.2.1";
const ELSEWHERE: &str = "198.51.100.1";
const OFFICE: &str = "203.0.113.1";

/// What a connection sends.
#[derive(Debug, Clone)]
enum Client {
    /// Wrong passwords for this name, without end.
    Guesser(String),
    /// The right one, once; since when.
    Owner(String, Duration),
}

/// A server under attack.
struct Attack {
    hub: Driver,
    now: Duration,
    clients: HashMap<u32, Client>,
    /// When clients send their next attempt.
    next: BTreeSet<(Duration, u32)>,
    /// Running checks and their ends.
    checks: VecDeque<(Duration, u32)>,
    guesses: usize,
    /// How long owners waited for their login.
    waits: Vec<Duration>,
}

impl Attack {
    /// A server with these accounts, whose users are offline and were known in this network.
    fn on(accounts: &[String], known: &str, limits: Limits) -> Self {
        let mut hub = hub(Limits { login_timeout: Duration::from_hours(1), ..limits });
        for name in accounts {
            connect_from(&mut hub, 0, address(known));
            say(&mut hub, 0, name);
            say(&mut hub, 0, "/register secret");
            let hash = Some(format!("hash of {name}").into());
            hub.input(conn(0), Input::Hashed(Outcome::Hashed(hash)));
            say(&mut hub, 0, "/quit");
            hub.forget_connection(conn(0));
        }
        Self {
            hub,
            now: Duration::ZERO,
            clients: HashMap::new(),
            next: BTreeSet::new(),
            checks: VecDeque::new(),
            guesses: 0,
            waits: Vec::new(),
        }
    }

    /// Connects a client that sends its first attempt at `at`.
    fn add(&mut self, at: Duration, from: &str, client: Client) {
        let slot = u32::try_from(self.clients.len()).expect("few");
        connect_from(&mut self.hub, slot, address(from));
        self.clients.insert(slot, client);
        self.next.insert((at, slot));
    }

    fn add_guessers(&mut self, count: usize, from: impl Fn(usize) -> String, names: &[String]) {
        for (number, name) in names.iter().cycle().take(count).enumerate() {
            self.add(self.now, &from(number), Client::Guesser(name.clone()));
        }
    }

    fn add_owner(&mut self, at: Duration, from: &str, name: &str) {
        self.add(at, from, Client::Owner(name.to_owned(), at));
    }

    /// Lets five minutes pass.
    fn run(&mut self) {
        loop {
            let ends = self.checks.front().map(|(ends, _)| *ends);
            let next = self.next.first().map(|(at, _)| *at);
            let due = [ends, next, self.hub.next_deadline()].into_iter().flatten().min();
            self.now = self.now.max(due.unwrap_or(FIVE_MINUTES));
            if self.now >= FIVE_MINUTES {
                return;
            }
            self.hub.now = now(self.now);
            if ends == Some(self.now) {
                let (_, slot) = self.checks.pop_front().expect("a check");
                let is_right = matches!(self.clients[&slot], Client::Owner(..));
                self.hub.input(conn(slot), Input::Hashed(Outcome::Checked(is_right)));
            } else if next == Some(self.now) {
                let (_, slot) = self.next.pop_first().expect("an attempt");
                let (Client::Guesser(name) | Client::Owner(name, _)) = &self.clients[&slot];
                let line = format!("/login {name} any");
                self.hub.input(conn(slot), Input::Frame(Frame::Line(line.into())));
            } else {
                self.hub.run_timers();
            }
            self.perform_work();
            self.read_answers();
        }
    }

    fn perform_work(&mut self) {
        for work in self.hub.take_work() {
            match work {
                Work::Hash(conn, Job::Check(_)) => {
                    self.checks.push_back((self.now + CHECK, conn.slot));
                }
                Work::NotifyWhenDrained(conn) => drop(self.hub.input(conn, Input::Drained)),
                other => panic!("{other:?}"),
            }
        }
    }

    fn read_answers(&mut self) {
        let mut answers = Vec::new();
        self.hub.flush(|conn, bytes| {
            answers.push((conn.slot, String::from_utf8(bytes.to_vec()).expect("UTF-8")));
        });
        for (slot, answer) in answers {
            let Some(client) = self.clients.get(&slot) else { continue };
            match client {
                Client::Owner(_, since) if answer.starts_with("[WELCOME ") => {
                    self.waits.push(self.now.saturating_sub(*since));
                }
                Client::Guesser(_) if answer.starts_with("[ERROR bad-password] ") => {
                    self.guesses += 1;
                    self.next.insert((self.now, slot));
                }
                _ if answer.starts_with("[ERROR rate-limited] ") => {
                    let (_, seconds) = answer.split_once("try again in ").expect(&answer);
                    let seconds = seconds.split(' ').next().and_then(|it| it.parse().ok());
                    let wait = Duration::from_secs(seconds.expect(&answer));
                    self.next.insert((self.now + wait, slot));
                }
                Client::Owner(..) => {} // a member list, or the end of an earlier session
                Client::Guesser(_) => panic!("{answer}"),
            }
        }
    }

    /// The number of guesses that were checked, and the longest wait of an owner.
    fn result(&self) -> (usize, Duration) {
        let owners = self.clients.values().filter(|it| matches!(it, Client::Owner(..))).count();
        assert_eq!(self.waits.len(), owners, "every owner is in");
        (self.guesses, self.waits.iter().copied().max().unwrap_or_default())
    }
}

fn address(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}

/// Guesses at alice's password, who logs in from time to time.
fn attack_alice(known: &str, count: usize, from: impl Fn(usize) -> String) -> (usize, Duration) {
    let alice = ["alice".to_owned()];
    let mut attack = Attack::on(&alice, known, Limits::default());
    attack.add_guessers(count, from, &alice);
    for number in 1..=13 {
        attack.add_owner(Duration::from_secs(number * 20), HOME, "alice");
    }
    attack.run();
    attack.result()
}

#[test]
fn guesses_from_elsewhere_do_not_delay_the_owner() {
    let one_address = |_| ELSEWHERE.to_owned();
    assert_eq!(attack_alice(HOME, 1, one_address), (25, CHECK));
    assert_eq!(attack_alice(OFFICE, 32, one_address), (25, CHECK));
    // In all 256 of its /56.
    let subnets = |number| format!("2001:db8:0:{:x}{:02x}::1", number % 256, number / 256);
    assert_eq!(attack_alice(HOME, 320, subnets), (85, CHECK));
}

#[test]
fn neighbour_in_the_known_network_delays_the_owner_by_seconds() {
    let result = attack_alice(HOME, 31, |_| HOME.to_owned());
    assert_eq!(result, (1040, Duration::from_millis(9600)));
}

#[test]
fn class_that_logs_in_at_once_is_not_delayed() {
    let names: Vec<String> = (0..30).map(|number| format!("p{number}")).collect();
    let (class, mallory) = (&names[1..], &names[..1]);
    let sesame = HashFile::read("tests/passwords/sesame.hash").expect("a hash");
    let password = Limits { password: Some(sesame), ..Limits::default() };
    // From elsewhere at all their passwords, from the same address at another one, and from
    // elsewhere at a password that all share.
    for (accounts, limits, (count, from, targets), result) in [
        (&names[..], Limits::default(), (32, ELSEWHERE, class), (61, CHECK)),
        (&names, Limits::default(), (2, HOME, mallory), (25, CHECK)),
        (&[], password, (32, ELSEWHERE, mallory), (25, CHECK * 8)),
    ] {
        let mut attack = Attack::on(accounts, OFFICE, limits);
        attack.add_guessers(count, |_| from.to_owned(), targets);
        for name in class {
            attack.add_owner(Duration::from_mins(1), HOME, name);
        }
        attack.run();
        assert_eq!(attack.result(), result);
    }
}
