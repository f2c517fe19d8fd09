//! Seeded random input: for any bytes and any order of connects and disconnects, nothing panics and
//! the hub's invariants hold. A failure can be replayed from its seed. `fuzz/` runs the same checks
//! with coverage-guided input and without a time limit.

pub(crate) mod checks;
mod takeover;

use std::path::Path;

use checks::relay::check_turns;
use checks::{Draw, World, check_command, check_conversation, check_decoder, check_event, line};

#[test]
fn seeded_conversations_keep_hub_consistent() {
    let (mut said, mut returns) = (0, 0);
    for seed in 1..=12 {
        let mut draw = Draw::seeded(seed);
        let mut world = World::new();
        for _ in 0..1500 {
            world.step(&mut draw);
        }
        said += world.stored();
        returns += world.returns;
    }
    assert!(said > 1000 && returns > 100, "lively: {said} messages, {returns} came back");
}

#[test]
fn conversations_drawn_from_bytes_keep_hub_consistent() {
    for seed in 1..=20 {
        let mut draw = Draw::seeded(seed);
        let bytes: Vec<u8> =
            (0..4000).map(|_| u8::try_from(draw.below(256)).expect("a byte")).collect();
        check_conversation(&bytes);
    }
}

/// With `TURN_CORPUS`, writes valid turns there, from which a fuzzer starts.
#[test]
fn turn_decoder_accepts_any_bytes() {
    for seed in 1..=300 {
        let mut draw = Draw::seeded(seed);
        let mut world = World::new();
        for _ in 0..draw.below(60) {
            world.step(&mut draw);
        }
        let mut turns = std::mem::take(&mut world.relay.borrow_mut().encoded);
        if let Some(corpus) = std::env::var_os("TURN_CORPUS") {
            std::fs::write(Path::new(&corpus).join(format!("turns-{seed}")), &turns)
                .expect("write");
        }
        check_turns(&turns);
        for _ in 0..4 {
            let at = draw.below(turns.len() + 1);
            let byte = [0, 1, 2, 0x7f, 0xff, draw.below(256)][draw.below(6)];
            turns.splice(
                at..(at + draw.below(2)).min(turns.len()),
                [u8::try_from(byte).expect("a byte")],
            );
            check_turns(&turns);
        }
    }
}

#[test]
fn decoder_accepts_any_bytes_in_any_chunks() {
    for seed in 1..=200 {
        let mut draw = Draw::seeded(seed);
        let bytes: Vec<u8> = (0..draw.below(800))
            .map(|_| match draw.below(40) {
                0 => b'\n',
                1..10 => [0xFF, 0xFA, 0xFD, 0x06, 0xF0, b'\r', b'@'][draw.below(7)],
                _ => u8::try_from(draw.below(256)).expect("a byte"),
            })
            .collect();
        check_decoder(&bytes, 1 + draw.below(30));
    }
}

#[test]
fn command_parser_round_trips_any_line() {
    for seed in 1..=20_000 {
        let line = line(&mut Draw::seeded(seed), &[]);
        check_command(String::from_utf8_lossy(&line).trim_end_matches('\n'));
    }
}

#[test]
fn event_parser_round_trips_any_line() {
    let shapes = [
        "bob: hi",
        "** bob waves",
        "* bob joined",
        "* bob is now rob",
        "* bob quit (why)",
        "#ops bob: hi",
        "#LobbY bob: hi",
        "#ops ** bob waves",
        "#ops * bob left",
        "[PRIVATE MESSAGE] bob: hi",
        "[PRIVATE MESSAGE to bob] alice: hi",
        "[USERS #ops 2] alice,bob",
        "[USERS #ops 900]",
        "[ERROR no-target] why",
        "[BYE quit] why",
        "[PONG t]",
        "[HISTORY #ops 2]",
        "2026-11-23T06:16:00.123Z #ops bob: hi",
        "@id=4;time=2026-11-23T06:16:00.123Z bob: hi",
        "@cid=a-1 [PONG]",
        "/msg NAME TEXT  say",
        "* 37 joined, 12 quit (1034 here)",
    ];
    for seed in 1..=20_000 {
        let mut draw = Draw::seeded(seed);
        let mut line: Vec<char> = shapes[draw.below(shapes.len())].chars().collect();
        check_event(&line.iter().collect::<String>());
        for _ in 0..draw.below(4) {
            let at = draw.below(line.len());
            match draw.below(3) {
                0 => drop(line.remove(at)),
                1 => line.insert(at, [' ', '#', ':', '[', ']', '*', '@', '1', ','][draw.below(9)]),
                _ => line.swap(at, 0),
            }
            if line.is_empty() {
                break;
            }
        }
        check_event(&line.iter().collect::<String>());
    }
}
