//! Checks shared by the seeded tests and the fuzz targets (`fuzz/`). Input is drawn from a seed or
//! from a fuzzer's bytes; every drawn input must pass the checks here.

#[path = "relay.rs"]
pub(crate) mod relay;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chatty::commands::{self, Request};
use chatty::protocol::codec::{Frame, LineCodec};
use chatty::protocol::{ErrorCode, Event, Refusal, Stamp, Tags, text};
use chatty::server::auth::passwords::{HashFile, Job, Outcome, Workspace};
use chatty::server::hub::{Flow, Hub, Input, Now, Seed};
use chatty::server::limits::Limits;
use chatty::server::net::outbox::Lines;
use chatty::server::net::peer::Peer;
use chatty::server::record::Record;
use chatty::server::store::memory::MemoryLog;
use chatty::server::store::{Batch, Change, Collection, ReadRequest, Snapshot, Thread};
use chatty::server::turn::{ConnId, Sink, Turn};
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

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
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

#[derive(Default)]
struct Outlet {
    said: Vec<(ConnId, Vec<u8>)>,
    closed: Vec<ConnId>,
    reads: Vec<(ConnId, ReadRequest)>,
    jobs: Vec<(ConnId, Job)>,
    drained: Vec<ConnId>,
    long: Vec<ConnId>,
}

impl Sink for Outlet {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        self.said.push((to, lines[start..end].to_vec()));
    }
    fn note_reply_bytes(&mut self, _: ConnId, _: usize) {}
    fn close(&mut self, conn: ConnId) {
        self.closed.push(conn);
    }
    fn hash(&mut self, conn: ConnId, job: Job) {
        self.jobs.push((conn, job));
    }
    fn read(&mut self, conn: ConnId, query: ReadRequest) {
        self.reads.push((conn, query));
    }
    fn notify_when_drained(&mut self, conn: ConnId) {
        self.drained.push(conn);
    }
    fn wait_for_memory(&mut self, conn: ConnId) {
        self.long.push(conn);
    }
}

/// A hub and a store. Now and then the store is full, and now and then both restart from the
/// persisted state alone.
pub(crate) struct World {
    hub: Hub,
    log: MemoryLog,
    /// Every message ever stored.
    pub(crate) stored: BTreeMap<u64, Arc<Record>>,
    /// The persisted entries of the collections.
    kept: BTreeMap<(Collection, u64), String>,
    is_full: bool,
    tokens: Vec<String>,
    /// The time of the last message of this run.
    latest: Stamp,
    /// The lowest wall clock time since the last message.
    lowest: Stamp,
    pub(crate) returns: usize,
    now: Duration,
    codecs: Vec<Option<(ConnId, LineCodec)>>,
    generation: u32,
    pub(crate) relay: Relay,
}

/// How far the clock may be set back without message times going back, in milliseconds.
const BRIDGED: i64 = 5 * 60 * 1000;

impl World {
    pub(crate) fn new() -> Self {
        Self {
            hub: hub(&Snapshot::default(), 0),
            log: MemoryLog::new(50, 1 << 20),
            stored: BTreeMap::new(),
            kept: BTreeMap::new(),
            is_full: false,
            tokens: Vec::new(),
            latest: Stamp::default(),
            lowest: Stamp::default(),
            returns: 0,
            now: Duration::ZERO,
            codecs: (0..8).map(|_| None).collect(),
            generation: 0,
            relay: Relay::default(),
        }
    }

    /// Restarts from the persisted state alone.
    fn crash(&mut self) {
        let things = self.kept.iter().map(|((shelf, key), value)| (*shelf, *key, value.clone()));
        // The last ids are stored with each message and each change.
        let last = self.hub.last_ids();
        self.generation += 1;
        self.hub = hub(
            &Snapshot { last, entries: things.collect(), ..Snapshot::default() },
            self.generation,
        );
        self.relay = Relay::default();
        self.hub.check_invariants();
        self.codecs.iter_mut().for_each(|codec| *codec = None);
        self.now = Duration::ZERO;
        self.latest = Stamp::default();
    }

    pub(crate) fn step(&mut self, draw: &mut Draw<'_>) {
        if draw.below(300) == 0 {
            self.crash();
        }
        self.is_full = draw.below(20) == 0;
        let slot = draw.below(self.codecs.len());
        self.now += Duration::from_millis(draw.below(400) as u64);
        let mut turn = Turn::default();
        // The wall clock may jump in either direction.
        let wall = Stamp(i64::try_from(draw.below(1 << 16)).expect("small") * 1000);
        let now = Now { since_start: self.now, wall };
        self.lowest = self.lowest.min(wall);
        self.hub.tick(now, &mut turn);
        self.release(now, turn);
        let Some((conn, mut codec)) = self.codecs[slot].take() else {
            self.generation += 1;
            let slot = u32::try_from(slot).expect("few");
            let conn = ConnId { slot, generation: self.generation };
            let mut turn = Turn::default();
            let peer = Peer::new([127, 0, 0, 1].into());
            let settled = match draw.below(8) {
                0 => Some(Input::TransportKnown { is_encrypted: draw.below(2) > 0 }),
                1 => Some(Input::Unencrypted),
                _ => None,
            };
            if let Some(settled) = settled {
                self.hub.handle(now, conn, Input::Arrived(peer), &mut turn);
                self.hub.handle(now, conn, settled, &mut turn);
            } else {
                self.hub.handle(now, conn, Input::Opened(peer), &mut turn);
            }
            self.codecs[slot as usize] = Some((conn, LineCodec::new(self.hub.line_limit(conn))));
            self.release(now, turn);
            if draw.below(3) > 0 {
                let name =
                    draw.one(&["alice", "bob", "carol", "dave", "Erin", "frank", "José", "a1ice"]);
                let frame = Frame::Line((*name).into());
                let mut turn = Turn::default();
                self.hub.handle(now, conn, Input::Frame(frame), &mut turn);
                self.release(now, turn);
            }
            return;
        };
        let mut turn = Turn::default();
        let flow = match draw.below(40) {
            0 => self.hub.handle(now, conn, Input::Disconnected, &mut turn),
            1 => self.hub.handle(now, conn, Input::Finished, &mut turn),
            2 => self.hub.handle(now, conn, Input::Stalled, &mut turn),
            3 | 4 => self.hub.handle(now, conn, Input::OverLimit, &mut turn),
            _ => {
                let bytes = line(draw, &self.tokens);
                let mut rest = &bytes[..];
                let mut flow = Flow::Next;
                while let Some(frame) = codec.next(&mut rest) {
                    let is_foreign = frame == Frame::Foreign;
                    flow = self.hub.handle(now, conn, Input::Frame(frame), &mut turn);
                    codec.set_limit(self.hub.line_limit(conn));
                    if is_foreign || flow != Flow::Next {
                        break;
                    }
                }
                flow
            }
        };
        if flow == Flow::Over {
            self.hub.forget_connection(conn);
        } else {
            self.codecs[slot] = Some((conn, codec));
        }
        self.release(now, turn);
    }

    /// Like the server: either the whole turn is stored or nothing of it is sent.
    fn commit(&mut self, now: Now, mut turn: Turn, out: &mut Outlet) {
        let (records, changes) = (turn.records(), self.hub.changes());
        let mut batch = Batch { records, changes, last: self.hub.last_ids() };
        if self.is_full && (!batch.records.is_empty() || !batch.changes.is_empty()) {
            turn.refuse_messages(&Refusal::new(ErrorCode::StorageFull, "no room"));
            self.hub.forget_unstored(batch.records.iter().map(|record| record.id));
            batch = Batch::default();
        } else {
            self.hub.mark_saved();
        }
        let batch = self.relay.release(turn, &batch, out);
        for Change { collection, key, value } in batch.changes {
            match value {
                Some(value) => self.kept.insert((collection, key), value),
                None => self.kept.remove(&(collection, key)),
            };
        }
        for record in &batch.records {
            let (id, time) = (record.id, record.time);
            let is_set_back = self.lowest.0 + BRIDGED < self.latest.0;
            assert!(time >= self.latest || is_set_back, "{id} is before the one before it");
            assert!((0..=BRIDGED).contains(&(time.0 - now.wall.0)), "{id} is of another time");
            (self.latest, self.lowest) = (time, now.wall);
            let twin = self.stored.insert(record.id, record.clone());
            assert!(twin.is_none(), "{} was given twice", record.id);
        }
        self.log.push(batch.records);
    }

    fn release(&mut self, now: Now, turn: Turn) {
        let mut out = Outlet::default();
        self.commit(now, turn, &mut out);
        for conn in &out.closed {
            let slot = &mut self.codecs[conn.slot as usize];
            if slot.as_ref().is_some_and(|(open, _)| open == conn) {
                *slot = None;
                self.hub.forget_connection(*conn);
            }
        }
        self.hub.check_invariants();
        for (_, said) in &out.said {
            check_lines(said, &self.stored);
            let said = String::from_utf8_lossy(said);
            self.returns += said.matches("] you are back").count();
            let token =
                said.lines().find_map(|line| line.split_once("[SESSION ")?.1.split_once(']'));
            self.tokens.extend(token.map(|(token, _)| token.to_owned()));
        }
        for (conn, query) in out.reads {
            let mut turn = Turn::default();
            let mut rows = self.log.find(&query);
            if !query.is_filled_by(&rows.records) {
                // As on disk: ids without a message count as searched.
                rows.upto = self.hub.last_ids().message;
            }
            let is_feed = matches!(query.thread, Thread::Feed { .. });
            let input = if is_feed { Input::Page(rows) } else { Input::Rows(rows) };
            self.hub.handle(now, conn, input, &mut turn);
            self.release(now, turn);
        }
        for (conn, job) in out.jobs {
            let mut turn = Turn::default();
            self.hub.handle(now, conn, Input::Hashed(outcome(job)), &mut turn);
            self.release(now, turn);
        }
        for conn in out.drained {
            let mut turn = Turn::default();
            self.hub.handle(now, conn, Input::Drained, &mut turn);
            self.release(now, turn);
        }
        for conn in out.long {
            let mut turn = Turn::default();
            self.hub.handle(now, conn, Input::MemoryAvailable, &mut turn);
            self.release(now, turn);
        }
    }
}

/// Replaces hashing, which would be too slow for many inputs. One of the words is the operators'
/// password.
fn outcome(job: Job) -> Outcome {
    match job {
        Job::Hash(password) => Outcome::Hashed(Some(password.expose().into())),
        Job::Check(password, hash) => {
            let is_operators = hash.starts_with('$') && password.expose().starts_with("hello");
            Outcome::Checked(is_operators || password.expose() == &*hash)
        }
        Job::Match(..) => job.run(&mut Workspace::default()),
    }
}

fn hub(kept: &Snapshot, seed: u32) -> Hub {
    let limits = Limits { quiet_above: 3, rooms_per_person: 3, max_rooms: 4, ..Limits::default() };
    let seed: Seed = [seed.to_be_bytes(); 8].concat().try_into().expect("32 bytes");
    let oper_password = Some(HashFile::read("tests/passwords/sesame.hash").expect("a hash"));
    let session_grace = Duration::from_secs(5);
    Hub::new(Limits { session_grace, oper_password, ..limits }, kept, seed)
        .expect("nothing is unreadable")
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
        Ok(Request::Command(command)) => {
            let again = command.to_string();
            assert_eq!(commands::parse(&again), Ok(Request::Command(command)), "{line:?}");
        }
        Ok(Request::Say(said)) => assert!(line.ends_with(said), "{line:?}"),
        Ok(Request::Nothing) => assert!(text::is_blank_text(&line), "{line:?}"),
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
