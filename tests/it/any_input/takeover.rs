//! Any user can be restored: two hubs get the same drawn input, and one of them is replaced by a
//! hub restored from its stored state at random moments. Both send the same lines to every
//! connection.
//!
//! Behaviour that depends on state that is not stored is not drawn: `/reply`, throttled
//! passwords, rooms so large that presence is coalesced. Only the idle times of `/whois` are drawn
//! and not compared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chatty::protocol::Stamp;
use chatty::server::auth::passwords::HashFile;
use chatty::server::hub::{Input, Persisted};
use chatty::server::limits::Limits;
use chatty::server::net::peer::Peer;
use chatty::server::store::memory::MemoryLog;
use chatty::server::turn::ConnId;

use super::checks::{Draw, outcome};
use crate::hub_driver::{Driver, Storing};

const NAMES: &[&str] = &["alice", "bob", "carol", "dave", "erin", "frank", "a1ice", "Bob"];
const ROOMS: &[&str] = &["#ops", "#ops", "#ops", "#dev", "#dev", "#lobby"];
const ADDRESSES: &[&str] = &["127.0.0.1", "192.0.2.1", "192.0.2.2", "2001:db8::7"];
const NETWORKS: &[&str] = &["192.0.2.0/24", "2001:db8::/32"];
/// The second one is the operators' password.
const PASSWORDS: &[&str] = &["sesame", "hello"];

/// Lines of a user, by how often they are drawn; each word in capitals stands for a drawn one.
const LINES: &[&[&str]] = &[
    &[
        "hi there",
        "hi there",
        "@cid=CID hi there",
        "@cid=CID /msg NAME psst",
        "/me waves",
        "/msg NAME psst",
        "/msg ROOM hi",
        "/query NAME",
        "/whois NAME",
        "/whois NAME",
        "/who",
        "/join ROOM",
        "/join ROOM",
        "/join ROOM",
        "/session",
        "/session",
    ],
    &[
        "/query",
        "/who ROOM",
        "/list",
        "/join ROOM KEY",
        "/part",
        "/part ROOM bye",
        "/topic",
        "/topic KEY",
        "/topic -",
        "/away at KEY",
        "/back",
        "/ignore NAME",
        "/ignore NAME",
        "/unignore NAME",
        "/ignore",
        "/nick NAME",
        "/nick NAME",
        "/set echo SWITCH",
        "/set joins SWITCH",
        "/set tags on",
        "/set tags SWITCH",
        "/set",
        "/history 5",
        "/history 5 ROOM",
        "/history 5 NAME",
        "/search there",
        "/register PASSWORD",
        "/register PASSWORD",
        "/passwd PASSWORD",
        "/unregister PASSWORD",
        "/ping",
    ],
    &[
        "/op NAME",
        "/op NAME",
        "/deop NAME",
        "/kick NAME",
        "/kick NAME why",
        "/mute NAME",
        "/mute NAME 5s",
        "/unmute NAME",
        "/ban NAME",
        "/ban NAME 5s why",
        "/ban NETWORK 5s",
        "/unban NAME",
        "/unban NETWORK",
        "/bans",
        "/lock",
        "/lock KEY",
        "/unlock",
        "/invite NAME",
        "/invite NAME",
    ],
    &[
        "/oper hello",
        "/oper PASSWORD",
        "/wall KEY",
        "/kill NAME",
        "/gban NAME 3s",
        "/gban NETWORK 3s",
        "/gunban NAME",
        "/gunban NETWORK",
        "/gbans",
        "/quit",
    ],
];

/// Lines before login; `;` separates two lines.
const LOGINS: &[&str] = &[
    "MINE ; /join ROOM",
    "/login MINE ; /join ROOM",
    "/login MINE ; /join ROOM",
    "/login MINE PASSWORD ; /join ROOM",
    "/login MINE PASSWORD ; /join ROOM",
    "/login MINE PASSWORD ; /login MINE",
    "/login NAME PASSWORD",
    "no name!",
    "/set tags on",
    "/set echo SWITCH",
    "/resume TOKEN 0",
    "/resume TOKEN 0",
    "/resume TOKEN ID",
    "/resume TOKEN LAST",
];

/// The two hubs and their clients.
struct Pair {
    /// The first is replaced now and then, the second never.
    hubs: [Driver; 2],
    conns: Vec<Option<ConnId>>,
    /// Connections that do not read.
    slow: BTreeSet<ConnId>,
    tokens: Vec<String>,
    /// The inputs and outputs so far, for the message of a failure.
    trace: Vec<String>,
    takeovers: usize,
    returns: usize,
}

impl Pair {
    fn new() -> Self {
        let hub = || {
            let mut hub = Driver::new(limits());
            hub.log = MemoryLog::new(1 << 20, 1 << 30);
            hub.run_job = outcome;
            hub.storing = Storing::Everything;
            hub.set_persisted(Persisted::Everyone);
            hub
        };
        Self {
            hubs: [hub(), hub()],
            conns: vec![None; 7],
            slow: BTreeSet::new(),
            tokens: Vec::new(),
            trace: Vec::new(),
            takeovers: 0,
            returns: 0,
        }
    }

    fn step(&mut self, draw: &mut Draw<'_>) {
        if draw.below(150) == 0 {
            self.crash();
        }
        let slot = draw.below(self.conns.len());
        let most = if draw.below(40) == 0 { 60_000 } else { [1, 100, 1_000][draw.below(3)] };
        let time = Duration::from_millis(draw.below(most) as u64);
        self.both(format!("{time:?} pass"), |hub| {
            hub.advance(time);
            hub.run_timers();
        });
        match self.conns[slot] {
            None => self.conns[slot] = Some(self.connect(draw)),
            Some(conn) => self.act(draw, slot, conn),
        }
        self.settle(draw);
    }

    fn both(&mut self, what: String, act: impl FnMut(&mut Driver)) {
        self.trace.push(what);
        self.hubs.iter_mut().for_each(act);
    }

    /// Both hubs restart, and all connections are lost.
    fn crash(&mut self) {
        self.both("a crash".to_owned(), |hub| {
            hub.restart();
            hub.set_persisted(Persisted::Everyone);
        });
        self.conns.fill(None);
        self.slow.clear();
    }

    fn connect(&mut self, draw: &mut Draw<'_>) -> ConnId {
        let peer = Peer::new(draw.one(ADDRESSES).parse().expect("an address"));
        let is_opened = draw.below(2) == 0;
        let opening = || if is_opened { Input::Opened(peer) } else { Input::Arrived(peer) };
        let [conn, other] = self.hubs.each_mut().map(|hub| hub.connect(opening()));
        assert_eq!(conn, other);
        self.trace.push(format!("{conn:?}: {:?}", opening()));
        if !is_opened {
            self.settle(draw);
            let is_encrypted = draw.below(10) > 0;
            self.input(conn, || {
                if is_encrypted {
                    Input::TransportKnown { is_encrypted }
                } else {
                    Input::Unencrypted
                }
            });
        }
        conn
    }

    fn act(&mut self, draw: &mut Draw<'_>, slot: usize, conn: ConnId) {
        let is_unnamed = self.hubs[1].is_unnamed(conn);
        match draw.below(200) {
            0..4 => {
                self.both(format!("{conn:?} breaks"), |hub| hub.disconnect(conn));
                self.forget(conn);
            }
            4 => self.both(format!("{conn:?} finishes"), |hub| hub.finish(conn)),
            5 => self.input(conn, || Input::Stalled),
            6 if is_unnamed => self.input(conn, || Input::Evicted),
            6 => self.hop(draw, conn),
            7..12 if !is_unnamed => {
                self.input(conn, || Input::OverLimit);
                self.slow.insert(conn);
            }
            12..18 => drop(self.slow.remove(&conn)),
            _ => {
                let lines = LINES[[0, 0, 0, 1, 1, 1, 2, 2, 2, 3][draw.below(10)]];
                let lines = self.lines(draw, slot, if is_unnamed { LOGINS } else { lines });
                lines.split(" ; ").for_each(|line| self.send(conn, line));
            }
        }
    }

    fn input(&mut self, conn: ConnId, input: impl Fn() -> Input<'static>) {
        self.both(format!("{conn:?}: {:?}", input()), |hub| {
            hub.input(conn, input());
        });
    }

    fn send(&mut self, conn: ConnId, line: &str) {
        let bytes = format!("{line}\n").into_bytes();
        self.both(format!("{conn:?}> {line}"), |hub| hub.send(conn, &bytes));
    }

    /// The user visits rooms until old memberships are stored apart from the session, and until
    /// a catch-up has several pages.
    fn hop(&mut self, draw: &mut Draw<'_>, conn: ConnId) {
        self.send(conn, "/session");
        let text = "x".repeat([1, 1000][draw.below(2)]);
        for room in 0..70 {
            self.send(conn, &format!("/join #r{room}"));
            self.send(conn, &text);
            self.send(conn, &format!("/part #r{room}"));
        }
    }

    fn lines(&self, draw: &mut Draw<'_>, slot: usize, of: &[&str]) -> String {
        let last = self.hubs[1].last_ids().message;
        let words = draw.one(of).split(' ').map(|word| match word {
            "MINE" => NAMES[slot].to_owned(),
            "NAME" => draw.one(NAMES).to_owned(),
            "ROOM" => draw.one(ROOMS).to_owned(),
            "KEY" => draw.one(&["tea", "milk"]).to_owned(),
            "NETWORK" => draw.one(NETWORKS).to_owned(),
            "PASSWORD" => draw.one(PASSWORDS).to_owned(),
            "SWITCH" => draw.one(&["on", "off"]).to_owned(),
            "@cid=CID" => format!("@cid=c{}", draw.below(4)),
            "TOKEN" => {
                let at = self.tokens.len().checked_sub(1 + draw.below(3));
                at.map_or_else(|| "none".to_owned(), |at| self.tokens[at].clone())
            }
            "ID" => draw.below(usize::try_from(last).expect("few") + 2).to_string(),
            "LAST" => {
                let time = self.hubs[1].records().get(&last).map_or(Stamp(0), |last| last.time);
                format!("{last} {time}")
            }
            word => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }

    /// Performs the requested work, except that of slow readers, and compares what was sent. The
    /// first hub may be replaced at any time.
    fn settle(&mut self, draw: &mut Draw<'_>) {
        let is_reading = |conn| !self.slow.contains(&conn);
        let [restored, other] = &mut self.hubs;
        loop {
            if draw.below(4) == 0 {
                self.takeovers += 1;
                restored.take_over();
            }
            if !restored.perform_for(is_reading) {
                break;
            }
        }
        while other.perform_for(is_reading) {}
        let [sent, expected] = self.hubs.each_mut().map(sent);
        if sent != expected {
            let last = self.trace[self.trace.len().saturating_sub(100)..].join("\n");
            panic!("{last}\nrestored: {sent:#?}\nthe other: {expected:#?}");
        }
        for (conn, lines) in sent {
            self.returns += lines.matches("] you are back").count();
            let tokens = lines.lines().filter_map(|line| line.split_once("[SESSION "));
            let tokens = tokens.filter_map(|(_, rest)| rest.split_once(']'));
            self.tokens.extend(tokens.map(|(token, _)| token.to_owned()));
            self.trace.push(format!("{conn:?}< {lines}"));
        }
        // The farewells of the others are still on their way.
        if draw.below(3) == 0 {
            let [closed, expected] = self.hubs.each_mut().map(Driver::take_closed);
            assert_eq!(closed, expected);
            for conn in closed {
                self.forget(conn);
            }
        }
    }

    fn forget(&mut self, conn: ConnId) {
        self.slow.remove(&conn);
        self.conns.iter_mut().filter(|open| **open == Some(conn)).for_each(|open| *open = None);
    }
}

/// Takes the lines that a hub has sent, without idle times.
fn sent(hub: &mut Driver) -> BTreeMap<ConnId, String> {
    hub.check_invariants();
    let mut sent: BTreeMap<ConnId, Vec<u8>> = BTreeMap::new();
    hub.flush(|conn, bytes| sent.entry(conn).or_default().extend_from_slice(bytes));
    let without_idle = |bytes| {
        let lines = String::from_utf8(bytes).expect("UTF-8");
        let words = lines.split_inclusive([' ', '\n']).filter(|word| !word.starts_with("idle="));
        words.collect()
    };
    sent.into_iter().map(|(conn, bytes)| (conn, without_idle(bytes))).collect()
}

fn limits() -> Limits {
    let oper_password = Some(HashFile::read("tests/passwords/sesame.hash").expect("a hash"));
    Limits {
        session_grace: Duration::from_secs(30),
        oper_password,
        allow_insecure_passwords: true,
        rooms_per_person: 3,
        max_rooms: 4,
        max_per_address: 2,
        guesses: u32::MAX,
        guesses_per_address: u32::MAX,
        accounts_per_address: 0,
        ..Limits::default()
    }
}

#[test]
fn restored_hub_sends_the_same_lines() {
    let (mut takeovers, mut returns) = (0, 0);
    for seed in 1..=8 {
        let mut draw = Draw::seeded(seed);
        let mut pair = Pair::new();
        for _ in 0..1500 {
            pair.step(&mut draw);
        }
        takeovers += pair.takeovers;
        returns += pair.returns;
    }
    assert!(takeovers > 3000 && returns > 100, "{takeovers} takeovers, {returns} came back");
}
