//! Any input at all: whatever bytes come, in whatever order people come and go,
//! nothing panics and the hub's tables agree. The inputs are drawn by a seed, so
//! a failure can be played again.

use std::time::Duration;

use chatty::protocol::codec::{Frame, LineCodec};
use chatty::protocol::{Event, Stamp};
use chatty::server::hub::{Flow, Hub, Input, Now, Seed};
use chatty::server::limits::Limits;
use chatty::server::log::memory::MemoryLog;
use chatty::server::log::{Kept, Query, Thread};
use chatty::server::outbox::Lines;
use chatty::server::turn::{ConnId, Sink, Turn};

/// A small generator (xorshift64*): good enough to draw inputs.
struct Draw(u64);

/// A state with many bits set, from a small number.
fn seed_of(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(high).expect("31 bits") % end
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
    "[PRIVATE MESSAGE] bob: x",
    "@cid=1",
    "@cid=",
    "//",
    "/",
];

fn line(draw: &mut Draw) -> Vec<u8> {
    let mut line = String::new();
    if draw.below(4) == 0 {
        line.push_str(draw.one(&["@cid=1 ", "@cid=b-2 ", "@cid=! ", "@id=1 "]));
    }
    if draw.below(3) > 0 {
        line.push('/');
        let row = &chatty::commands::TABLE[draw.below(chatty::commands::TABLE.len())];
        // Leaving empties the house; it should stay lively.
        let name = if row.name == "quit" && draw.below(10) > 0 { "who" } else { row.name };
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
    reads: Vec<(ConnId, Query)>,
    drained: Vec<ConnId>,
}

impl Sink for Outlet {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        self.said.push((to, lines[start..end].to_vec()));
    }
    fn note_asked(&mut self, _: ConnId, _: usize) {}
    fn close(&mut self, conn: ConnId) {
        self.closed.push(conn);
    }
    fn read(&mut self, conn: ConnId, query: Query) {
        self.reads.push((conn, query));
    }
    fn tell_when_drained(&mut self, conn: ConnId) {
        self.drained.push(conn);
    }
}

struct World {
    hub: Hub,
    log: MemoryLog,
    now: Duration,
    codecs: Vec<Option<(ConnId, LineCodec)>>,
    generation: u32,
}

impl World {
    fn step(&mut self, draw: &mut Draw) {
        let slot = draw.below(self.codecs.len());
        self.now += Duration::from_millis(draw.below(400) as u64);
        let mut turn = Turn::default();
        let now = Now { since_start: self.now, wall: Stamp(0) };
        self.hub.tick(now, &mut turn);
        self.release(now, turn);
        let Some((conn, mut codec)) = self.codecs[slot].take() else {
            self.generation += 1;
            let slot = u32::try_from(slot).expect("few");
            let conn = ConnId { slot, generation: self.generation };
            let mut turn = Turn::default();
            self.hub.handle(now, conn, Input::Opened, &mut turn);
            self.codecs[slot as usize] = Some((conn, LineCodec::new(self.hub.line_limit(conn))));
            self.release(now, turn);
            return;
        };
        let mut turn = Turn::default();
        let flow = match draw.below(40) {
            0 => self.hub.handle(now, conn, Input::Lost, &mut turn),
            1 => self.hub.handle(now, conn, Input::Finished, &mut turn),
            2 => self.hub.handle(now, conn, Input::Stalled, &mut turn),
            3 | 4 => self.hub.handle(now, conn, Input::Swamped, &mut turn),
            _ => {
                let bytes = line(draw);
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
            self.hub.forget(conn);
        } else {
            self.codecs[slot] = Some((conn, codec));
        }
        self.release(now, turn);
    }

    fn release(&mut self, now: Now, turn: Turn) {
        self.log.push(turn.records());
        let mut out = Outlet::default();
        turn.release(&mut out);
        for conn in &out.closed {
            let slot = &mut self.codecs[conn.slot as usize];
            if slot.as_ref().is_some_and(|(open, _)| open == conn) {
                *slot = None;
                self.hub.forget(*conn);
            }
        }
        self.hub.check_invariants();
        for (_, said) in &out.said {
            check_lines(said);
        }
        for (conn, query) in out.reads {
            let mut turn = Turn::default();
            let rows = self.log.find(&query);
            let is_feed = matches!(query.thread, Thread::Feed { .. });
            let input = if is_feed { Input::Page(rows) } else { Input::Rows(rows) };
            self.hub.handle(now, conn, input, &mut turn);
            self.release(now, turn);
        }
        for conn in out.drained {
            let mut turn = Turn::default();
            self.hub.handle(now, conn, Input::Drained, &mut turn);
            self.release(now, turn);
        }
    }
}

/// Whatever is said is whole lines of the grammar, clean, and is written again
/// as it was read.
fn check_lines(said: &[u8]) {
    let text = std::str::from_utf8(said).expect("UTF-8");
    assert!(text.ends_with('\n'), "half a line: {text:?}");
    for line in text.lines() {
        assert!(!line.contains(chatty::protocol::text::is_forbidden), "{line:?}");
        let (_, plain) = chatty::protocol::Tags::split(line);
        let event = Event::parse(plain).unwrap_or_else(|| panic!("not of the grammar: {line:?}"));
        let mut again = Vec::new();
        event.encode(&mut again);
        assert_eq!(again.strip_suffix(b"\n"), Some(plain.as_bytes()), "{line:?}");
    }
}

#[test]
fn no_conversation_breaks_the_hub() {
    for seed in 1..=12 {
        let mut draw = Draw(seed_of(seed));
        let limits =
            Limits { quiet_above: 3, rooms_per_person: 3, max_rooms: 4, ..Limits::default() };
        let mut world = World {
            hub: Hub::new(limits, &Kept::default(), Seed::default()),
            log: MemoryLog::new(50, 1 << 20),
            now: Duration::ZERO,
            codecs: (0..8).map(|_| None).collect(),
            generation: 0,
        };
        for _ in 0..1500 {
            world.step(&mut draw);
        }
    }
}

#[test]
fn no_bytes_break_the_decoder_and_how_they_are_cut_changes_nothing() {
    for seed in 1..=200 {
        let mut draw = Draw(seed_of(seed));
        let bytes: Vec<u8> = (0..draw.below(800))
            .map(|_| match draw.below(40) {
                0 => b'\n',
                1..10 => [0xFF, 0xFA, 0xFD, 0x06, 0xF0, b'\r', b'@'][draw.below(7)],
                _ => u8::try_from(draw.below(256)).expect("a byte"),
            })
            .collect();
        let whole = frames(&mut std::iter::once(&bytes[..]));
        assert_eq!(frames(&mut bytes.chunks(1)), whole, "seed {seed}");
        assert_eq!(frames(&mut bytes.chunks(1 + draw.below(30))), whole, "seed {seed}");
    }
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
