//! Who never reads, reads slowly, or reads late: rows 19 and 20.

use std::thread;
use std::time::{Duration, Instant};

use super::watch::{comes_or_goes, scale};
use super::{connect, connect_cramped, id_and_line, session, watched};
use crate::support::{Peer, Terminal};

/// What is said in the lobby, by number.
fn flood_line(number: usize) -> String {
    format!("{number} {}", "x".repeat(490))
}

/// Somebody, of whose lines some bytes are taken already, hears the whole flood, each
/// line once, in order and with growing ids.
fn hears_all(peer: &mut Peer, taken: Vec<u8>, count: usize) {
    let taken = String::from_utf8(taken).expect("UTF-8");
    let (whole, part) = taken.rsplit_once('\n').unwrap_or(("", &taken));
    let mut whole = whole.lines().map(str::to_owned);
    let mut part = Some(part.to_owned());
    // What was taken comes first, then the rest of the line that was cut.
    let mut next =
        || whole.next().unwrap_or_else(|| part.take().unwrap_or_default() + &peer.next());
    let mut last = 0;
    for number in 0..count {
        let mut line = next();
        while line.starts_with("[USERS #lobby ") {
            line = next(); // so it is told that it has caught up
        }
        let (id, line) = id_and_line(&line);
        assert_eq!(line, format!("flooder: {}", flood_line(number)));
        assert!(id > last, "ids grow");
        last = id;
    }
}

/// Somebody in the lobby who wants tags and no comings and goings.
fn quiet(mut peer: Peer) -> Peer {
    peer.say("/set joins off");
    peer.say("/set tags on");
    peer.settles_tagged();
    peer
}

/// Somebody who says all there is to hear.
fn flooder(port: u16) -> Peer {
    let mut flooder = Peer::join(port, "flooder");
    flooder.say("/set echo off");
    flooder.say("/set joins off");
    flooder.settles();
    flooder
}

/// What the witness may hear; and it hears the flood whole.
fn check_flood(heard: &[String], count: usize) {
    let said: Vec<&String> = heard.iter().filter(|line| line.starts_with("flooder: ")).collect();
    assert_eq!(said.len(), count);
    for (number, line) in said.into_iter().enumerate() {
        assert_eq!(*line, format!("flooder: {}", flood_line(number)));
    }
}

#[test]
fn n19_many_stalled_readers() {
    let stall = Duration::from_millis(scale(10_000, 1000));
    let stall_flag = format!("{}ms", stall.as_millis());
    // The small flood is to fill what the system holds, too.
    let flags = ["--write-stall", &stall_flag, "--outbox", "64KiB"];
    let (crowd, count) = (scale(1000, 60), scale(6000, 3000));
    let every = Duration::from_micros(scale(3333, 333));
    let may_hear = |line: &str| {
        line.starts_with("flooder: ") || comes_or_goes(line, &["deaf", "flooder", "late"])
    };
    let heard = watched(&flags, may_hear, |port| {
        let deaf: Vec<Peer> = (0..crowd)
            .map(|number| quiet(Peer::on(connect_cramped(port), &format!("deaf{number}"))))
            .collect();
        let mut late = Peer::on(connect_cramped(port), "late");
        let token = session(&mut late);
        let mut late = Some(quiet(late));
        let mut flooder = flooder(port);
        let start = Instant::now();
        for number in 0..count {
            if number == count / 4 {
                late = None; // gone before it is parted with, and so may come back
            }
            flooder.say(&flood_line(number));
            let next = start + every * u32::try_from(number + 1).expect("few");
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        assert!(late.is_none());
        flooder.settles();
        let end = Instant::now();
        // Nobody reads, so all of them are parted with: late alone is not seen to go.
        Terminal::waits("an empty house", || {
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
        drop(deaf);
    });
    check_flood(&heard, count);
}

/// Takes 100 bytes a second for so long.
fn take_slowly(peer: &mut Peer, time: Duration) -> Vec<u8> {
    let start = Instant::now();
    let mut taken = Vec::new();
    while start.elapsed() < time {
        taken.extend(peer.take(10));
        thread::sleep(Duration::from_millis(100)); // this is how fast it reads
    }
    taken
}

/// Slowly, or not at all for nearly as long as one may: then they read on, and nothing
/// is missing.
#[test]
fn n20_slow_and_late_readers() {
    let stall = Duration::from_millis(scale(10_000, 3000));
    let stall_flag = format!("{}ms", stall.as_millis());
    let flags = ["--write-stall", &stall_flag, "--outbox", "64KiB"];
    let count = 5000;
    let may_hear = |line: &str| {
        line.starts_with("flooder: ") || comes_or_goes(line, &["slow", "frozen", "flooder"])
    };
    let heard = watched(&flags, may_hear, |port| {
        let [mut slow, mut frozen] =
            ["slow", "frozen"].map(|name| quiet(Peer::on(connect_cramped(port), name)));
        let mut flooder = flooder(port);
        for number in 0..count {
            flooder.say(&flood_line(number));
        }
        // Most of it is not sent yet, so that they hold the server up from now on.
        let time = stall * scale(9, 5) / 10;
        let slowly = thread::spawn(move || {
            let taken = take_slowly(&mut slow, time);
            hears_all(&mut slow, taken, count);
            slow
        });
        thread::sleep(time); // so long it is frozen
        hears_all(&mut frozen, Vec::new(), count);
        let slow = slowly.join().expect("a slow reader");
        flooder.settles();
        for mut peer in [slow, frozen, flooder] {
            peer.say("/quit");
            peer.rest();
        }
    });
    check_flood(&heard, count);
}
