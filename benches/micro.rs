//! Microbenchmarks of the hot paths, without system calls:
//! `cargo bench --bench micro [PART OF A NAME]`.

mod common;

use std::env;
use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use chatty::commands;
use chatty::protocol::codec::LineCodec;
use chatty::protocol::{Dialect, Event, LINE_MAX, Message, Place, Stamp, Tags};
use chatty::server::auth::passwords::Job;
use chatty::server::net::outbox::{Lines, Meter, Outbox};
use chatty::server::record::SentMail;
use chatty::server::store::{Batch, ReadRequest};
use chatty::server::turn::wire::{Decoder, Encoder};
use chatty::server::turn::{ConnId, Sink, Turn};

use common::hub_driver::{Driver, drain};
use common::{conn, end_turn, hub_with_users};

/// How long each benchmark is measured, after a warm-up of half that time.
const TIME: Duration = Duration::from_millis(400);

/// How many runs are prepared and then timed together.
const BATCH: u32 = 64;

/// How many lines of 64 bytes are decoded in one run.
const READ_LINES: u32 = 1024;

const USERS: u32 = 100;

const TEXT: &str = "which is about as long as what people say to each other, mostly.";

fn main() -> anyhow::Result<()> {
    let wanted = env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    writeln!(out, "| benchmark | ns | per |\n|---|---:|---|")?;
    for (name, unit, measure) in BENCHMARKS.iter().filter(|benchmark| benchmark.0.contains(&wanted))
    {
        writeln!(out, "| {name} | {:.1} | {unit} |", measure())?;
    }
    Ok(())
}

/// A benchmark: its name, the unit of its result, and a function that returns nanoseconds per
/// unit.
type Benchmark = (&'static str, &'static str, fn() -> f64);

const BENCHMARKS: &[Benchmark] = &[
    ("decode", "a line of 64 bytes", decode),
    ("parse text", "a line", || parse(TEXT)),
    ("parse command", "a line", || parse("/msg bob are you there?")),
    ("encode plain", "a message", || encode(Dialect::Plain)),
    ("encode tagged", "a message", || encode(Dialect::Tagged)),
    ("hub turn", "a line to 100", || hub_turn(1)),
    ("hub turn of ten", "a line to 100", || hub_turn(10)),
    ("release", "a reader of one line", || release(1)),
    ("release of ten", "a reader of ten lines", || release(10)),
    ("wire encoding of ten", "a line to 100", wire_encoding),
    ("wire decoding of ten", "a line to 100", wire_decoding),
    ("outbox of one span", "a push, single write and advance", || outbox(1)),
    ("outbox of eight spans", "a push, vectored write and advance", || outbox(8)),
    ("whole turn", "a delivery, one line to 100", || whole_turn(1)),
    ("whole turn of ten", "a delivery, ten lines to 100", || whole_turn(10)),
];

/// Returns the median time per unit in nanoseconds, where a run has `per` units.
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

fn encode(dialect: Dialect) -> f64 {
    let (id, time) = (Some(1_234_567), Some(Stamp(1_795_414_560_123)));
    let tags = Tags { id, time, ..Tags::default() };
    let place = Place::Room("lobby");
    let message = Message { place, from: "alice", is_action: false, text: TEXT };
    let event = Event::Message(message);
    let mut out = Vec::new();
    measure(
        1,
        || (),
        |()| {
            out.clear();
            dialect.encode(black_box(&tags), black_box(&event), &mut out);
            black_box(&out);
        },
    )
}

/// Measures handling a turn in which `count` users send a line.
fn hub_turn(count: u32) -> f64 {
    let mut hub = hub_with_users(USERS);
    measure(count, || (), |()| drop(black_box(turn_of(&mut hub, count))))
}

/// Returns a turn in which `count` users have sent a line.
fn turn_of(hub: &mut Driver, count: u32) -> Turn {
    let line = format!("{TEXT}\n");
    let mut turn = Turn::default();
    for user in 0..count {
        hub.receive(conn(user), line.as_bytes(), &mut turn);
    }
    turn
}

/// Measures releasing the effects of a turn in which `count` users have sent a line.
fn release(count: u32) -> f64 {
    let mut hub = hub_with_users(USERS);
    let mut sink = CountingSink::default();
    let prepare = || turn_of(&mut hub, count);
    let nanos = measure(USERS, prepare, |mut turn| turn.release(&mut sink));
    black_box(sink.pushed);
    nanos
}

/// Measures encoding a turn of ten lines for other servers.
fn wire_encoding() -> f64 {
    let (mut hub, mut encoder) = (hub_with_users(USERS), Encoder::default());
    let prepare = || turn_and_batch(&mut hub);
    measure(10, prepare, |(turn, batch)| {
        drop(black_box(encoder.encode(&turn, &batch)));
    })
}

/// Measures decoding a turn of ten lines.
fn wire_decoding() -> f64 {
    let (mut hub, mut encoder) = (hub_with_users(USERS), Encoder::default());
    let mut decoder = Decoder::default();
    let prepare = || {
        let (turn, batch) = turn_and_batch(&mut hub);
        encoder.encode(&turn, &batch)
    };
    measure(10, prepare, |bytes: Vec<u8>| drop(black_box(decoder.decode(&bytes))))
}

fn turn_and_batch(hub: &mut Driver) -> (Turn, Batch) {
    let turn = turn_of(hub, 10);
    let batch = Batch { records: turn.records(), ..Batch::default() };
    (turn, batch)
}

/// Counts effects and discards them.
#[derive(Default)]
struct CountingSink {
    pushed: usize,
}

impl Sink for CountingSink {
    fn push(&mut self, _: ConnId, _: &Lines, start: usize, end: usize) {
        self.pushed += end - start;
    }
    fn note_reply_bytes(&mut self, _: ConnId, _: usize) {}
    fn push_token(&mut self, _: ConnId) {}
    fn close(&mut self, _: ConnId) {}
    fn read(&mut self, _: ConnId, _: ReadRequest) {}
    fn hash(&mut self, _: ConnId, _: Job) {}
    fn notify_when_drained(&mut self, _: ConnId) {}
    fn expect_receipt(&mut self, _: ConnId, _: SentMail) {}
}

/// Measures a whole turn, from the bytes of `count` lines to the bytes for the last reader.
fn whole_turn(count: u32) -> f64 {
    let mut hub = hub_with_users(USERS);
    measure(
        USERS * count,
        || (),
        |()| {
            let turn = turn_of(&mut hub, count);
            black_box(end_turn(&mut hub, turn));
        },
    )
}

/// Measures filling and emptying an outbox whose bytes are in this many spans.
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
            drain(&mut outbox, |bytes| {
                black_box(bytes);
            });
        },
    )
}
