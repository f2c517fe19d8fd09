//! Stalled, slow and late readers: rows 19 and 20.

use std::thread;
use std::time::{Duration, Instant};

use super::watch::{is_presence, scale};
use super::{connect, connect_with_small_buffer, id_and_line, session, watched};
use crate::support::{Peer, Terminal};

/// A numbered line of the flood.
fn flood_line(number: usize) -> String {
    format!("{number} {}", "x".repeat(490))
}

/// Checks that a client, of whose input `taken` has already been read, receives the whole flood:
/// each line once, in order and with increasing ids.
fn hears_all(peer: &mut Peer, taken: Vec<u8>, count: usize) {
    let taken = String::from_utf8(taken).expect("UTF-8");
    let (whole, part) = taken.rsplit_once('\n').unwrap_or(("", &taken));
    let mut whole = whole.lines().map(str::to_owned);
    let mut part = Some(part.to_owned());
    // The bytes read before, then the rest of the line that was cut.
    let mut next =
        || whole.next().unwrap_or_else(|| part.take().unwrap_or_default() + &peer.next());
    let mut last = 0;
    for number in 0..count {
        let mut line = next();
        while line.starts_with("[USERS #lobby ") {
            line = next(); // the member list marks the end of the catch-up
        }
        let (id, line) = id_and_line(&line);
        assert_eq!(line, format!("flooder: {}", flood_line(number)));
        assert!(id > last, "ids grow");
        last = id;
    }
}

/// Turns tags on and presence off for a client in the lobby.
fn quiet(mut peer: Peer) -> Peer {
    peer.say("/set joins off");
    peer.say("/set tags on");
    peer.settles_tagged();
    peer
}

/// A client without rate limit that sends the flood.
fn flooder(port: u16) -> Peer {
    let mut flooder = Peer::join(port, "flooder");
    flooder.say("/set echo off");
    flooder.say("/set joins off");
    flooder.settles();
    flooder
}

/// Lines that the witness may receive; it must receive the whole flood.
fn check_flood(received: &[String], count: usize) {
    let said: Vec<&String> = received.iter().filter(|line| line.starts_with("flooder: ")).collect();
    assert_eq!(said.len(), count);
    for (number, line) in said.into_iter().enumerate() {
        assert_eq!(*line, format!("flooder: {}", flood_line(number)));
    }
}

#[test]
fn n19_many_stalled_readers() {
    let stall = Duration::from_millis(scale(10_000, 1000));
    let stall_flag = format!("{}ms", stall.as_millis());
    // The small flood must also fill the buffers of the system.
    let flags = ["--write-stall", &stall_flag, "--outbox", "64KiB"];
    let (crowd, count) = (scale(1000, 60), scale(6000, 3000));
    let every = Duration::from_micros(scale(3333, 333));
    let may_hear = |line: &str| {
        line.starts_with("flooder: ") || is_presence(line, &["stalled", "flooder", "late"])
    };
    let received = watched(&flags, may_hear, |port| {
        let stalled: Vec<Peer> = (0..crowd)
            .map(|number| {
                quiet(Peer::on(connect_with_small_buffer(port), &format!("stalled{number}")))
            })
            .collect();
        let mut late = Peer::on(connect_with_small_buffer(port), "late");
        let token = session(&mut late);
        let mut late = Some(quiet(late));
        let mut flooder = flooder(port);
        let start = Instant::now();
        for number in 0..count {
            if number == count / 4 {
                late = None; // dropped before its disconnect, so that it may resume
            }
            flooder.say(&flood_line(number));
            let next = start + every * u32::try_from(number + 1).expect("few");
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        assert!(late.is_none());
        flooder.settles();
        let end = Instant::now();
        // Every stalled client is disconnected; only the drop of `late` is not announced.
        Terminal::waits("the disconnects of all stalled readers", || {
            flooder.say("/who");
            flooder.settles().iter().any(|line| line.starts_with("[USERS #lobby 3]"))
        });
        let most = stall + Duration::from_secs(scale(3, 20));
        assert!(end.elapsed() < most, "{:?}", end.elapsed());
        let mut late = Peer::greeted(connect(port));
        late.say(&format!("/resume {token} 0"));
        late.hears(|line| line.starts_with("[WELCOME late]"));
        hears_all(&mut late, Vec::new(), count);
        for mut peer in [late, flooder] {
            peer.say("/quit");
            peer.rest();
        }
        drop(stalled);
    });
    check_flood(&received, count);
}

/// Reads 100 bytes per second for `time`.
fn read_slowly(peer: &mut Peer, time: Duration) -> Vec<u8> {
    let start = Instant::now();
    let mut taken = Vec::new();
    while start.elapsed() < time {
        taken.extend(peer.take(10));
        thread::sleep(Duration::from_millis(100)); // the reading speed
    }
    taken
}

/// Clients that read slowly, or pause for almost the stall timeout, then read on and miss nothing.
#[test]
fn n20_slow_and_late_readers() {
    let stall = Duration::from_millis(scale(10_000, 3000));
    let stall_flag = format!("{}ms", stall.as_millis());
    let flags = ["--write-stall", &stall_flag, "--outbox", "64KiB"];
    let count = 5000;
    let may_hear = |line: &str| {
        line.starts_with("flooder: ") || is_presence(line, &["slow", "frozen", "flooder"])
    };
    let received = watched(&flags, may_hear, |port| {
        let [mut slow, mut frozen] =
            ["slow", "frozen"].map(|name| quiet(Peer::on(connect_with_small_buffer(port), name)));
        let mut flooder = flooder(port);
        for number in 0..count {
            flooder.say(&flood_line(number));
        }
        // Most of the flood is still unsent, so both clients stall the server from now on.
        let time = stall * scale(9, 5) / 10;
        let slowly = thread::spawn(move || {
            let taken = read_slowly(&mut slow, time);
            hears_all(&mut slow, taken, count);
            slow
        });
        thread::sleep(time); // the length of the pause
        hears_all(&mut frozen, Vec::new(), count);
        let slow = slowly.join().expect("a slow reader");
        flooder.settles();
        for mut peer in [slow, frozen, flooder] {
            peer.say("/quit");
            peer.rest();
        }
    });
    check_flood(&received, count);
}
