//! Checks shared by the seeded tests and the fuzz targets (`fuzz/`). Input is drawn from a seed or
//! from a fuzzer's bytes; every drawn input must pass the checks here.

#[path = "relay.rs"]
pub(crate) mod relay;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chatty::commands::{self, Parsed};
use chatty::protocol::codec::{Frame, LineCodec};
use chatty::protocol::{Event, Stamp, Tags, text};
use chatty::server::auth::passwords::{HashFile, Job, Outcome, Workspace};
use chatty::server::auth::secrets::Secret;
use chatty::server::hub::Input;
use chatty::server::limits::Limits;
use chatty::server::net::peer::Peer;
use chatty::server::record::Record;
use chatty::server::store::memory::MemoryLog;
use chatty::server::turn::ConnId;

use crate::hub_driver::{Driver, Storing};
use relay::Relay;

/// The source of random choices.
pub(crate) enum Draw<'a> {
    /// A small generator (xorshift64*), good enough to draw inputs.
    Seeded(u64),
    /// A fuzzer's bytes, two per choice; when they are used up, every choice is 0.
    Bytes(&'a [u8]),
}

impl Draw<'_> {
    /// Creates a generator from a small seed.
    pub(crate) fn seeded(number: u64) -> Self {
        Self::Seeded(number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Whether the input bytes are used up.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Bytes([] | [_]))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        match self {
            Self::Seeded(state) => {
                *state ^= *state >> 12;
                *state ^= *state << 25;
                *state ^= *state >> 27;
                let high = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
                usize::try_from(high).expect("31 bits") % end
            }
            Self::Bytes(bytes) => {
                let [first, second, rest @ ..] = bytes else { return 0 };
                let choice = usize::from(u16::from_be_bytes([*first, *second])) % end;
                *bytes = rest;
                choice
            }
        }
    }

    pub(crate) fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const WORDS: &[&str] = &[
    "alice",
    "bob",
    "carol",
    "ops",
    "#ops",
    "#dev",
    "lobby",
    "after",
    "1",
    "3",
    "99999999999999999999",
    "on",
    "off",
    "echo",
    "joins",
    "tags",
    "-",
    "x]",
    "hello",
    "  ",
    "\u{1b}[2J",
    "\u{202e}",
    "日本",
    "José",
    "JOSE\u{301}",
    "a1ice",
    "\u{430}lice",
    "[PRIVATE MESSAGE] bob: x",
    "@cid=1",
    "@cid=",
    "//",
    "/",
];

pub(crate) fn line(draw: &mut Draw<'_>, tokens: &[String]) -> Vec<u8> {
    let mut line = String::new();
    // Random words alone would hardly ever form a valid `/resume`.
    if draw.below(10) == 0 {
        let recent = tokens.iter().rev().take(4).collect::<Vec<_>>();
        let line = match recent.get(draw.below(5)) {
            Some(token) => {
                // Most ids are small, so that they exist.
                let most = [1, 4, 16, 300][draw.below(4)];
                let mut line = format!("/resume {token} {}", draw.below(most));
                if draw.below(8) == 0 {
                    let time = i64::try_from(draw.below(1 << 16)).expect("small") * 1000;
                    line = format!("{line} {}", Stamp(time));
                }
                line + "\n"
            }
            None => "/session\n".to_owned(),
        };
        return line.into_bytes();
    }
    if draw.below(4) == 0 {
        line.push_str(draw.one(&["@cid=1 ", "@cid=b-2 ", "@cid=! ", "@id=1 "]));
    }
    if draw.below(3) > 0 {
        line.push('/');
        let row = &chatty::commands::TABLE[draw.below(chatty::commands::TABLE.len())];
        // Rarely draw commands that disconnect users, so that the hub does not become empty.
        let empties = matches!(row.name, "quit" | "kill" | "gban") && draw.below(10) > 0;
        let name = if empties { "who" } else { row.name };
        line.push_str(name);
    }
    for _ in 0..draw.below(4) {
        line.push_str(draw.one(&[" ", " ", "  ", "\t"]));
        line.push_str(draw.one(WORDS));
    }
    let mut line = line.into_bytes();
    for _ in 0..draw.below(6) / 4 {
        let at = draw.below(line.len() + 1);
        let byte = u8::try_from(draw.below(256)).expect("a byte");
        line.insert(at, byte);
    }
    line.push(b'\n');
    line
}

/// A hub and a store. Now and then the store is full, and now and then both restart from the
/// persisted state alone.
pub(crate) struct World {
    hub: Driver,
    pub(crate) relay: Rc<RefCell<Relay>>,
    /// Open connections.
    conns: Vec<Option<ConnId>>,
    tokens: Vec<String>,
    /// The last message whose time was checked, and its time.
    checked: (u64, Stamp),
    /// The lowest and the highest wall clock time since the last message.
    walls: (Stamp, Stamp),
    pub(crate) returns: usize,
}

/// How far the clock may be set back without message times going back, in milliseconds.
const BRIDGED: i64 = 5 * 60 * 1000;

impl World {
    pub(crate) fn new() -> Self {
        let mut hub = Driver::new(limits());
        hub.log = MemoryLog::new(50, 1 << 20);
        hub.run_job = outcome;
        let relay = Relay::attach(&mut hub);
        Self {
            hub,
            relay,
            conns: vec![None; 8],
            tokens: Vec::new(),
            checked: (0, Stamp::default()),
            walls: (Stamp::default(), Stamp::default()),
            returns: 0,
        }
    }

    /// The number of messages stored.
    pub(crate) fn stored(&self) -> usize {
        self.hub.records().len()
    }

    /// Restarts from the persisted state alone.
    fn crash(&mut self) {
        self.hub.restart();
        *self.relay.borrow_mut() = Relay::default();
        self.hub.check_invariants();
        self.conns.fill(None);
        self.hub.now.since_start = Duration::ZERO;
    }

    pub(crate) fn step(&mut self, draw: &mut Draw<'_>) {
        if draw.below(300) == 0 {
            self.crash();
        }
        let is_full = draw.below(20) == 0;
        self.hub.storing = if is_full { Storing::Nothing } else { Storing::Everything };
        let slot = draw.below(self.conns.len());
        self.hub.now.since_start += Duration::from_millis(draw.below(400) as u64);
        // The wall clock may jump in either direction.
        let wall = Stamp(i64::try_from(draw.below(1 << 16)).expect("small") * 1000);
        self.walls = (self.walls.0.min(wall), self.walls.1.max(wall));
        self.hub.now.wall = wall;
        self.hub.run_timers();
        self.check();
        match self.conns[slot] {
            None => self.conns[slot] = Some(self.connect(draw)),
            Some(conn) => self.act(draw, conn),
        }
        self.check();
        // Work is performed in any order, and some of it later.
        while self.hub.work_count() > 0 && draw.below(4) > 0 {
            self.hub.perform(draw.below(self.hub.work_count()));
            self.check();
        }
    }

    /// Opens a connection, which usually logs in.
    fn connect(&mut self, draw: &mut Draw<'_>) -> ConnId {
        let peer = Peer::new([127, 0, 0, 1].into());
        let detected = match draw.below(8) {
            0 => Some(Input::TransportKnown { is_encrypted: draw.below(2) > 0 }),
            1 => Some(Input::Unencrypted),
            _ => None,
        };
        let conn = match detected {
            None => self.hub.connect(Input::Opened(peer)),
            Some(detected) => {
                let conn = self.hub.connect(Input::Arrived(peer));
                self.hub.input(conn, detected);
                conn
            }
        };
        if draw.below(3) > 0 {
            let name = ["alice", "bob", "carol", "dave", "Erin", "frank", "José", "a1ice"];
            self.hub.send(conn, format!("{}\n", draw.one(&name)).as_bytes());
        }
        conn
    }

    fn act(&mut self, draw: &mut Draw<'_>, conn: ConnId) {
        match draw.below(40) {
            0 => {
                self.hub.disconnect(conn);
                self.forget(conn);
            }
            1 => self.hub.finish(conn),
            2 => drop(self.hub.input(conn, Input::Stalled)),
            3 | 4 => drop(self.hub.input(conn, Input::OverLimit)),
            _ => self.hub.send(conn, &line(draw, &self.tokens)),
        }
    }

    fn forget(&mut self, conn: ConnId) {
        self.conns.iter_mut().filter(|open| **open == Some(conn)).for_each(|open| *open = None);
    }

    /// Checks the hub, the messages it has stored and the lines it has sent.
    fn check(&mut self) {
        self.hub.check_invariants();
        self.check_times();
        let mut output: BTreeMap<ConnId, Vec<u8>> = BTreeMap::new();
        self.hub.flush(|conn, bytes| output.entry(conn).or_default().extend_from_slice(bytes));
        for lines in output.into_values() {
            check_lines(&lines, self.hub.records());
            let lines = String::from_utf8_lossy(&lines);
            self.returns += lines.matches("] you are back").count();
            let token =
                lines.lines().find_map(|line| line.split_once("[SESSION ")?.1.split_once(']'));
            self.tokens.extend(token.map(|(token, _)| token.to_owned()));
        }
        for conn in self.hub.take_closed() {
            self.forget(conn);
        }
    }

    fn check_times(&mut self) {
        let (checked, mut latest) = self.checked;
        for (id, record) in self.hub.records().range(checked + 1..) {
            let (time, wall) = (record.time, self.hub.now.wall);
            // Events in between have times, too.
            let is_set_back = self.walls.0.0 + BRIDGED < latest.max(self.walls.1).0;
            assert!(time >= latest || is_set_back, "{id} is before the one before it");
            assert!((0..=BRIDGED).contains(&(time.0 - wall.0)), "{id} is of another time");
            (latest, self.walls) = (time, (wall, wall));
            self.checked = (*id, time);
        }
    }
}

/// Replaces hashing, which would be too slow for many inputs. One of the words is the operators'
/// password.
pub(crate) fn outcome(job: &Job, password: &Secret) -> Outcome {
    match job {
        Job::Hash => Outcome::Hashed(Some(password.expose().into())),
        Job::Check(hash) => {
            let is_operators = hash.starts_with('$') && password.expose().starts_with("hello");
            Outcome::Checked(is_operators || password.expose() == &**hash)
        }
        Job::Match(_) => job.run(password, &mut Workspace::default()),
    }
}

fn limits() -> Limits {
    let oper_password = Some(HashFile::read("tests/passwords/sesame.hash").expect("a hash"));
    let session_grace = Duration::from_secs(5);
    let limits = Limits { quiet_above: 3, rooms_per_person: 3, max_rooms: 4, ..Limits::default() };
    Limits { session_grace, oper_password, ..limits }
}

/// Checks that the output consists of whole, clean lines of the grammar that round-trip through the
/// parser, and that every message in it is stored.
fn check_lines(said: &[u8], stored: &BTreeMap<u64, Arc<Record>>) {
    let text = std::str::from_utf8(said).expect("UTF-8");
    assert!(text.ends_with('\n'), "half a line: {text:?}");
    for line in text.lines() {
        assert!(!line.contains(chatty::protocol::text::is_forbidden), "{line:?}");
        let (tags, plain) = chatty::protocol::Tags::split(line);
        if let Some(id) = tags.id {
            let record = stored.get(&id).unwrap_or_else(|| panic!("not stored: {line:?}"));
            assert!(plain.ends_with(&*record.text), "not what is stored: {line:?}");
        }
        let event = Event::parse(plain).unwrap_or_else(|| panic!("not of the grammar: {line:?}"));
        let mut again = Vec::new();
        event.encode(&mut again);
        assert_eq!(again.strip_suffix(b"\n"), Some(plain.as_bytes()), "{line:?}");
    }
}

/// Plays a conversation drawn from a fuzzer's bytes, to their end.
pub(crate) fn check_conversation(bytes: &[u8]) {
    let mut draw = Draw::Bytes(bytes);
    let mut world = World::new();
    while !draw.is_over() {
        world.step(&mut draw);
    }
}

/// Checks that the decoder returns the same lines however the bytes are chunked.
pub(crate) fn check_decoder(bytes: &[u8], piece: usize) {
    let whole = frames(&mut std::iter::once(bytes));
    assert_eq!(frames(&mut bytes.chunks(1)), whole);
    assert_eq!(frames(&mut bytes.chunks(piece.max(1))), whole);
}

fn frames(pieces: &mut dyn Iterator<Item = &[u8]>) -> (Vec<Frame<'static>>, u32) {
    let mut codec = LineCodec::new(60);
    let (mut frames, mut marks) = (Vec::new(), 0);
    for mut piece in pieces {
        while let Some(frame) = codec.next(&mut piece) {
            let is_foreign = frame == Frame::Foreign;
            frames.push(frame.into_owned());
            if is_foreign {
                return (frames, 0);
            }
        }
        marks += u32::from(codec.take_timing_marks());
    }
    frames.extend(codec.finish());
    (frames, marks)
}

/// Checks that a command round-trips through the parser and that an invalid one is refused with one
/// clean line.
pub(crate) fn check_command(line: &str) {
    let line = text::clean(line);
    match commands::parse(&line) {
        Ok(Parsed::Command(command)) => {
            let again = command.to_string();
            assert_eq!(commands::parse(&again), Ok(Parsed::Command(command)), "{line:?}");
        }
        Ok(Parsed::Say(said)) => assert!(line.ends_with(said), "{line:?}"),
        Ok(Parsed::Nothing) => assert!(text::is_blank_text(&line), "{line:?}"),
        Err(refusal) => assert!(!refusal.text.contains(text::is_forbidden), "{line:?}"),
    }
}

/// Checks that an event and its tags round-trip through the parser.
pub(crate) fn check_event(line: &str) {
    let (_, plain) = Tags::split(line);
    assert!(line.ends_with(plain));
    let Some(event) = Event::parse(plain) else { return };
    let mut again = Vec::new();
    event.encode(&mut again);
    let again = String::from_utf8(again).expect("UTF-8");
    let again = again.strip_suffix('\n').expect("a line");
    assert_eq!(Event::parse(again).as_ref(), Some(&event), "{plain:?}");
}
