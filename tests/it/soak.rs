//! A crowd that comes, goes, renames, floods, does not read and vanishes, for as long
//! as one likes (`scripts/soak.sh`; a moment with the other tests): two canaries go on
//! talking, and the server's memory stays what it was.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs, io};

use socket2::SockRef;

use crate::any_input::checks::Draw;
use crate::hostile::Watch;

/// How many take part at a time.
const CROWD: u64 = 12;

/// How many samples are taken.
const SAMPLES: u32 = 60;

fn duration() -> Duration {
    let seconds = env::var("CHATTY_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// Hours become minutes: what is remembered is forgotten soon.
const FAST_FORWARD: &[&str] = &[
    "--login-timeout",
    "500ms",
    "--write-stall",
    "300ms",
    "--session-grace",
    "1s",
    "--keep-messages",
    "20000",
    "--outbox",
    "64KiB",
    "--mailbox",
    "20",
];

#[test]
fn a_crowd_in_fast_forward_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let watch = Watch::begin_in(folder.path(), FAST_FORWARD);
    let is_over = Arc::new(AtomicBool::new(false));
    let crowd: Vec<_> = (1..=CROWD)
        .map(|number| {
            let (port, is_over) = (watch.port(), is_over.clone());
            thread::spawn(move || {
                let mut draw = Draw::seeded(number);
                let mut done = BTreeMap::new();
                while !is_over.load(Ordering::Relaxed) {
                    // Whatever breaks off is what this is about.
                    let _ = visit(port, &mut draw, &mut done);
                }
                done
            })
        })
        .collect();
    let samples = watch_memory(watch.process_id(), duration());
    is_over.store(true, Ordering::Relaxed);
    let mut done = BTreeMap::new();
    for member in crowd {
        for (what, count) in member.join().expect("the crowd") {
            *done.entry(what).or_insert(0) += count;
        }
    }
    report(&samples, &done);
    watch.end();
    let quarter = samples.len() / 4;
    let (second, last) = (&samples[quarter..2 * quarter], &samples[3 * quarter..]);
    let (second, last) = (median(second), median(last));
    let is_long = duration() >= Duration::from_mins(1);
    assert!(
        !is_long || last <= second + second / 7 + (4 << 20),
        "memory grows: {second} bytes in the second quarter, {last} in the last"
    );
}

/// Somebody's visit, one way or another.
fn visit<'a>(
    port: u16,
    draw: &mut Draw<'_>,
    done: &mut BTreeMap<&'a str, usize>,
) -> io::Result<()> {
    let mut count = |what: &'a str| *done.entry(what).or_insert(0) += 1;
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut lines = BufReader::new(socket.try_clone()?).lines();
    count("connections");
    if draw.below(8) == 0 {
        // No name at all, a byte at a time.
        for _ in 0..draw.below(4) {
            socket.write_all(b"x")?;
        }
        return Ok(());
    }
    let has_session = draw.below(3) == 0;
    let opening =
        format!("soak{}\n{}", draw.below(40), if has_session { "/session\n" } else { "" });
    socket.write_all(opening.as_bytes())?;
    for _ in 0..draw.below(30) {
        let line = match draw.below(12) {
            0 => format!("/join r{}\n", draw.below(30)),
            1 => "/part\n".to_owned(),
            2 => format!("/nick soak{}\n", draw.below(40)),
            3 => format!("/msg soak{} psst\n", draw.below(40)),
            4 => "/history 50\n".to_owned(),
            5 => "/who\n/list\n".to_owned(),
            6 => format!("/topic {}\n", "t".repeat(draw.below(200))),
            7 => {
                count("floods");
                "flood, and more of it\n".repeat(200)
            }
            _ => format!("{}\n", "said ".repeat(1 + draw.below(40))),
        };
        count("lines");
        socket.write_all(line.as_bytes())?;
    }
    match draw.below(5) {
        0 => {
            count("quits");
            socket.write_all(b"/quit\n")?;
            lines.by_ref().take_while(Result::is_ok).for_each(drop);
        }
        1 => {
            count("cut lines");
            socket.write_all(b"half a li")?;
            SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
        }
        2 => {
            count("who read nothing");
            let flood = "never read\n".repeat(2000);
            socket.write_all(flood.as_bytes())?;
        }
        3 if has_session => {
            count("returns");
            let token = lines.by_ref().map_while(Result::ok).find_map(|line| {
                let (_, token) = line.split_once("[SESSION ")?;
                Some(token.split(']').next()?.to_owned())
            });
            drop((socket, lines));
            if let Some(token) = token {
                let mut again = TcpStream::connect(("127.0.0.1", port))?;
                again.set_read_timeout(Some(Duration::from_secs(2)))?;
                again.write_all(format!("/resume {token} 0\nback\n/quit\n").as_bytes())?;
                BufReader::new(again).lines().map_while(Result::ok).for_each(drop);
            }
        }
        _ => count("vanished"),
    }
    Ok(())
}

/// What memory the server has in use, from time to time.
fn watch_memory(process: u32, time: Duration) -> Vec<u64> {
    let status = format!("/proc/{process}/status");
    let start = Instant::now();
    (1..=SAMPLES)
        .map(|number| {
            thread::sleep((time * number / SAMPLES).saturating_sub(start.elapsed()));
            let status = fs::read_to_string(Path::new(&status)).expect("a status");
            let used = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let used = used.expect("memory").trim().trim_end_matches(" kB");
            used.parse::<u64>().expect("a number") << 10
        })
        .collect()
}

fn median(samples: &[u64]) -> u64 {
    let mut samples = samples.to_vec();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn report(samples: &[u64], done: &BTreeMap<&str, usize>) {
    let mebibytes: Vec<String> = samples.iter().map(|bytes| format!("{}", bytes >> 20)).collect();
    println!("memory in MiB: {}", mebibytes.join(" "));
    println!("{done:?}");
}
