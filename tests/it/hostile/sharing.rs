//! Attacks on what all clients share (the table in `docs/threats.md`), with an honest client of
//! another network beside each: how long it waits for its chat, histories, searches and logins.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::connect_from;
use super::watch::scale;
use crate::search::indexed;
use crate::support::{Peer, Server};

const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);

/// Attackers share a /24.
const ATTACKERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 0, 1, 1),
    Ipv4Addr::new(127, 0, 1, 2),
    Ipv4Addr::new(127, 0, 1, 3),
    Ipv4Addr::new(127, 0, 1, 4),
];

/// What each connection of an attack sends: the lines for a name that no other connection has.
/// They are sent again and again, or once if the connection then closes.
struct Attack {
    name: &'static str,
    login: bool,
    lines: fn(usize) -> String,
    closes: bool,
}

/// A connection of an attack.
struct Attacker {
    from: Ipv4Addr,
    socket: TcpStream,
    unsent: Vec<u8>,
}

impl Attacker {
    fn connect(attack: &Attack, from: Ipv4Addr, port: u16, number: usize) -> Self {
        let socket = connect_from(from, port);
        socket.set_nonblocking(true).expect("a socket");
        let login = if attack.login { format!("mallory{number}\n") } else { String::new() };
        Self { from, socket, unsent: (login + &(attack.lines)(number)).into() }
    }

    /// Discards what was received and sends what fits; returns whether the connection has ended.
    fn go_on(&mut self) -> bool {
        let mut piece = [0; 1 << 14];
        loop {
            match self.socket.read(&mut piece) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return true,
            }
        }
        match self.socket.write(&self.unsent) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return true,
        }
        false
    }
}

impl Attack {
    /// Attacks until told to stop; returns how often lines were sent or a connection ended.
    fn begin(self, port: u16, is_over: Arc<AtomicBool>) -> JoinHandle<usize> {
        thread::spawn(move || {
            let per_address = scale(32, 8);
            let from = |number: usize| ATTACKERS[number % ATTACKERS.len()];
            let mut last = ATTACKERS.len() * per_address;
            let mut attackers: Vec<Attacker> = (0..last)
                .map(|number| Attacker::connect(&self, from(number), port, number))
                .collect();
            while !is_over.load(Ordering::Relaxed) {
                for attacker in &mut attackers {
                    let has_ended = attacker.go_on();
                    if has_ended || (self.closes && attacker.unsent.is_empty()) {
                        last += 1;
                        *attacker = Attacker::connect(&self, attacker.from, port, last);
                    } else if attacker.unsent.is_empty() {
                        last += 1;
                        attacker.unsent = (self.lines)(last).into();
                    }
                }
                thread::sleep(Duration::from_millis(1)); // one core is shared with the server
            }
            last
        })
    }
}

/// The longest waits of the honest client, by what it waited for.
type Waits = BTreeMap<&'static str, Duration>;

/// A client of another network.
struct Honest {
    port: u16,
    chat: Peer,
    waits: Waits,
}

impl Honest {
    const MESSAGES: usize = 60;

    fn start(folder: &std::path::Path, port: u16) -> Self {
        let mut chat = Self::connect(port);
        for line in ["dora", "/register secret", "/part lobby", "/join calm"] {
            chat.say(line);
        }
        for number in 0..Self::MESSAGES {
            chat.say(&format!("a needle{number} of many"));
        }
        chat.settles();
        indexed(folder);
        chat.say("/quit");
        chat.rest();
        let mut chat = Self::connect(port);
        for line in ["honest", "/join calm", "/part lobby"] {
            chat.say(line);
        }
        chat.settles();
        Self { port, chat, waits: Waits::new() }
    }

    fn connect(port: u16) -> Peer {
        Peer::greeted(connect_from(HONEST, port))
    }

    fn measure(&mut self, what: &'static str, wait: impl FnOnce(&mut Self)) {
        let start = Instant::now();
        wait(self);
        let longest = self.waits.entry(what).or_default();
        *longest = start.elapsed().max(*longest);
    }

    /// Does each thing once.
    fn does_all(&mut self, round: usize) {
        self.measure("chat", |honest| {
            honest.chat.say(&format!("beat {round}"));
            honest.chat.hears(|line| line == format!("#calm honest: beat {round}"));
        });
        self.measure("history", |honest| {
            honest.chat.say("/history 20");
            honest.chat.hears(|line| line == "[HISTORY #calm 20]");
            for _ in 0..20 {
                honest.chat.hears(|line| line.starts_with(|c: char| c.is_ascii_digit()));
            }
        });
        self.measure("search", |honest| {
            let number = round % Self::MESSAGES;
            honest.chat.say(&format!("/search needle{number}"));
            honest.chat.hears(|line| line.ends_with(&format!("a needle{number} of many")));
        });
        for (what, login) in
            [("guest login", format!("guest{round}")), ("login", "/login dora secret".into())]
        {
            let mut peer = None;
            self.measure(what, |honest| {
                let mut it = Self::connect(honest.port);
                it.say(&login);
                it.hears(|line| line.starts_with("[USERS "));
                peer = Some(it);
            });
            let mut peer = peer.expect("a client");
            peer.say("/quit");
            peer.hears(|line| line.starts_with("[BYE quit]"));
        }
    }
}

/// Checks that the honest client waits no longer than permitted during an attack.
fn check_beside(attack: Attack) {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_in(folder.path(), &["--limit-loopback"]);
    let mut honest = Honest::start(folder.path(), server.port);
    let is_over = Arc::new(AtomicBool::new(false));
    let (name, started) = (attack.name, ATTACKERS.len() * scale(32, 8));
    let attacking = attack.begin(server.port, is_over.clone());
    for round in 0..scale(30, 3) {
        honest.does_all(round);
        // The honest client stays within its own limits.
        thread::sleep(Duration::from_millis(scale(500, 50)));
    }
    is_over.store(true, Ordering::Relaxed);
    let last = attacking.join().expect("an attack");
    assert!(last > started, "the attack went on");
    let waits: Vec<String> =
        honest.waits.iter().map(|(what, longest)| format!("{what} {longest:.1?}")).collect();
    println!("{name} ({last} times): the honest client waited at most {}", waits.join(", "));
    for (what, longest) in honest.waits {
        let (most, max) = if what == "chat" { (250, 5000) } else { (1000, 20_000) };
        let most = Duration::from_millis(scale(most, max));
        assert!(longest <= most, "{name}: {what} took {longest:?}");
    }
}

const PLAIN: Attack = Attack { name: "", login: true, lines: |_| String::new(), closes: false };

#[test]
fn n26_connections_without_names() {
    check_beside(Attack { name: "connections", login: false, closes: true, ..PLAIN });
}

#[test]
fn n26_floods() {
    check_beside(Attack { name: "floods", lines: |_| "x\n".repeat(100), ..PLAIN });
}

#[test]
fn n26_guesses_at_a_password() {
    let lines = |number| format!("/login dora wrong{number}\n");
    check_beside(Attack { name: "guesses", login: false, lines, ..PLAIN });
}

#[test]
fn n26_new_passwords() {
    let lines = |number| format!("/register secret{number}\n");
    check_beside(Attack { name: "new passwords", lines, closes: true, ..PLAIN });
}

#[test]
fn n26_rooms() {
    let lines = |number| {
        (0..60).fold(String::new(), |lines, room| lines + &format!("/join r{number}x{room}\n"))
    };
    check_beside(Attack { name: "rooms", lines, ..PLAIN });
}

#[test]
fn n26_dropped_sessions() {
    let lines = |_| "/session\n".to_owned();
    check_beside(Attack { name: "dropped sessions", lines, closes: true, ..PLAIN });
}

#[test]
fn n26_searches() {
    let lines = |number| format!("/search needle{number} of many\n/search a of many\n");
    check_beside(Attack { name: "searches", lines, ..PLAIN });
}

#[test]
fn n26_long_replies() {
    let lines = |_| "/history 1000 #calm\n/list\n/who\n/history 1000\nx\n".to_owned();
    check_beside(Attack { name: "long replies", lines, ..PLAIN });
}

#[test]
fn n26_mail() {
    let lines = |number| format!("/msg dora mail {number}\n").repeat(100);
    check_beside(Attack { name: "mail", lines, ..PLAIN });
}
