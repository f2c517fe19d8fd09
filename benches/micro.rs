//! What the hot pieces take, each alone and without system calls:
//! `cargo bench --bench micro [PART OF A NAME]`.

mod house;

use std::env;
use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use chatty::commands;
use chatty::protocol::codec::LineCodec;
use chatty::protocol::{Event, LINE_MAX, Message, Place, Stamp, Tags};
use chatty::server::log::ReadRequest;
use chatty::server::outbox::{Lines, Meter, Outbox};
use chatty::server::passwords::Job;
use chatty::server::turn::{ConnId, Sink, Turn};

use house::{House, take_all};

/// For so long each piece is measured, after half as long to warm up.
const TIME: Duration = Duration::from_millis(400);

/// How many runs are timed together, and prepared before that.
const BATCH: u32 = 64;

/// So many lines of 64 bytes are read at once.
const READ_LINES: u32 = 1024;

const PEOPLE: u32 = 100;

const TEXT: &str = "which is about as long as what people say to each other, mostly.";

fn main() -> anyhow::Result<()> {
    let wanted = env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(out, "| piece | ns | of |\n|---|---:|---|")?;
    for (name, unit, measure) in PIECES.iter().filter(|piece| piece.0.contains(&wanted)) {
        writeln!(out, "| {name} | {:.1} | {unit} |", measure())?;
    }
    Ok(())
}

/// What is measured, what one of it is, and how: in nanoseconds.
type Piece = (&'static str, &'static str, fn() -> f64);

const PIECES: &[Piece] = &[
    ("decode", "a line of 64 bytes", decode),
    ("parse said", "a line", || parse(TEXT)),
    ("parse command", "a line", || parse("/msg bob are you there?")),
    ("encode plain", "a message", || encode(&Tags::default())),
    ("encode tagged", "a message", || {
        encode(&Tags { id: Some(1_234_567), time: Some(Stamp(1_795_414_560_123)), cid: None })
    }),
    ("hub turn", "a line to 100", || hub_turn(1)),
    ("hub turn of ten", "a line to 100", || hub_turn(10)),
    ("release", "a reader of one line", || release(1)),
    ("release of ten", "a reader of ten lines", || release(10)),
    ("outbox of one span", "push, single, advance", || outbox(1)),
    ("outbox of eight spans", "push, slices, advance", || outbox(8)),
    ("whole turn", "a delivery, one line to 100", || whole_turn(1)),
    ("whole turn of ten", "a delivery, ten lines to 100", || whole_turn(10)),
];

/// The median time of one of `per` in a run, in nanoseconds.
fn measure<T>(per: u32, mut prepare: impl FnMut() -> T, mut run: impl FnMut(T)) -> f64 {
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < TIME * 3 / 2 {
        let batch: Vec<T> = (0..BATCH).map(|_| prepare()).collect();
        let batch_start = Instant::now();
        batch.into_iter().for_each(&mut run);
        if start.elapsed() > TIME / 2 {
            times.push(batch_start.elapsed());
        }
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64);
    median * 1e9 / f64::from(per) / f64::from(BATCH)
}

fn decode() -> f64 {
    let buffer = format!("{TEXT:.63}\n").repeat(READ_LINES as usize);
    let mut codec = LineCodec::new(LINE_MAX);
    measure(
        READ_LINES,
        || (),
        |()| {
            let mut rest = black_box(buffer.as_bytes());
            while let Some(frame) = codec.next(&mut rest) {
                black_box(&frame);
            }
        },
    )
}

fn parse(line: &str) -> f64 {
    measure(1, || (), |()| drop(black_box(commands::parse(black_box(line)))))
}

fn encode(tags: &Tags<'_>) -> f64 {
    let place = Place::Room("lobby");
    let message = Message { place, from: "alice", is_action: false, text: TEXT };
    let event = Event::Message(message);
    let mut out = Vec::new();
    measure(
        1,
        || (),
        |()| {
            out.clear();
            black_box(tags).encode(&mut out);
            black_box(&event).encode(&mut out);
            black_box(&out);
        },
    )
}

/// So many say a line in one turn; how long one takes.
fn hub_turn(count: u32) -> f64 {
    let mut house = House::with_people(PEOPLE);
    measure(count, || (), |()| drop(black_box(said(&mut house, count))))
}

/// A turn in which so many have said a line.
fn said(house: &mut House, count: u32) -> Turn {
    let line = format!("{TEXT}\n");
    let mut turn = Turn::default();
    for who in 0..count {
        house.hear(who, line.as_bytes(), &mut turn);
    }
    turn
}

/// Carrying out what so many said.
fn release(count: u32) -> f64 {
    let mut house = House::with_people(PEOPLE);
    let mut sink = Counting::default();
    let nanos = measure(PEOPLE, || said(&mut house, count), |mut turn| turn.release(&mut sink));
    black_box(sink.pushed);
    nanos
}

/// Where effects are only counted.
#[derive(Default)]
struct Counting {
    pushed: usize,
}

impl Sink for Counting {
    fn push(&mut self, _: ConnId, _: &Lines, start: usize, end: usize) {
        self.pushed += end - start;
    }
    fn note_reply_bytes(&mut self, _: ConnId, _: usize) {}
    fn close(&mut self, _: ConnId) {}
    fn read(&mut self, _: ConnId, _: ReadRequest) {}
    fn hash(&mut self, _: ConnId, _: Job) {}
    fn notify_when_drained(&mut self, _: ConnId) {}
    fn wait_for_memory(&mut self, _: ConnId) {}
}

/// From the bytes of so many lines to the last reader's bytes.
fn whole_turn(count: u32) -> f64 {
    let mut house = House::with_people(PEOPLE);
    measure(
        PEOPLE * count,
        || (),
        |()| {
            let turn = said(&mut house, count);
            house.release(turn);
            black_box(house.flush());
        },
    )
}

/// What waits lies in so many pieces.
fn outbox(spans: usize) -> f64 {
    let pieces: Vec<Lines> =
        (0..spans).map(|_| Lines::new(TEXT.into(), &Meter::default())).collect();
    let mut outbox = Outbox::default();
    measure(
        1,
        || (),
        |()| {
            for piece in &pieces {
                outbox.push(piece, 0, piece.len());
            }
            black_box(take_all(&mut outbox));
        },
    )
}
