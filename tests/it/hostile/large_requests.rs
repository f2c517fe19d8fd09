//! Huge numbers and requests: row 24.

use std::io::Write as _;
use std::thread;

use super::watch::{is_presence, scale};
use super::{connect, connect_with_small_buffer, read_to_end, watched};
use crate::support::Peer;

#[test]
fn n24_huge_numbers_and_many_rooms() {
    watched(
        &[],
        |line| is_presence(line, &["mallory"]),
        |port| {
            let mut mallory = Peer::join(port, "mallory");
            mallory.say("/set joins off");
            mallory.settles();
            for line in [
                "/history -1",
                "/history 0",
                "/history 18446744073709551616",
                "/history after 18446744073709551615",
                "/history 99999999999999999999999999 after 99999999999999999999999999",
                "/history after",
                "/history 1 2 3",
                "/search",
                "/mute canary-b 99999999999999999999d",
            ] {
                mallory.say(line);
                let said = mallory.settles();
                let is_answered = said
                    .iter()
                    .any(|line| line.starts_with("[ERROR ") || line.starts_with("[HISTORY "));
                assert!(is_answered, "{line}: {said:?}");
            }
            let count = scale(100_000, 5000);
            let joins: String = (0..count)
                .fold(String::new(), |lines, number| lines + &format!("/join r{number}\n"));
            let mut talking = mallory.socket().try_clone().expect("a socket");
            // The server reads slowly from a client that does not read (backpressure).
            let asking = thread::spawn(move || talking.write_all(joins.as_bytes()).expect("asked"));
            for number in 0..count {
                let said = mallory.hears(|line| !line.starts_with("[USERS "));
                let is_room = number < 49; // and #lobby
                let start = if is_room {
                    format!("[JOINED #r{number}]")
                } else {
                    "[ERROR too-many] ".to_owned()
                };
                assert!(said.starts_with(&start), "{number}: {said}");
            }
            asking.join().expect("every request is sent");
            assert_eq!(mallory.settles(), [""; 0]);
        },
    );
}

#[test]
fn n24_many_large_requests_without_reading() {
    let may_hear = |line: &str| line.starts_with("bob: xxx") || is_presence(line, &["bob", "asks"]);
    watched(&["--outbox-total", "16MiB", "--write-stall", "1s"], may_hear, |port| {
        let mut bob = Peer::join(port, "bob");
        bob.say("/set echo off");
        let line = "x".repeat(4000);
        for _ in 0..1000 {
            bob.say(&line);
        }
        bob.settles();
        let asking: Vec<_> = (0..scale(1000, 150))
            .map(|number| {
                let socket = connect_with_small_buffer(port);
                let asks = format!("asks{number}\n/set joins off\n/history 1000\n");
                (&socket).write_all(asks.as_bytes()).expect("a line");
                socket
            })
            .collect();
        // A client that reads gets its reply when the stalled ones are disconnected.
        bob.say("/history 1000");
        bob.hears(|line| line == "[HISTORY #lobby 1000]");
        drop(asking);
    });
}

/// A thousand clients request all they can at the same moment, and read it.
#[test]
fn n24_many_large_requests_at_once() {
    let is_said = |line: &str| line.starts_with("bob: yyy");
    let may_hear = |line: &str| is_said(line) || is_presence(line, &["bob", "asks"]);
    let received = watched(&["--outbox-total", "16MiB"], may_hear, |port| {
        let mut bob = Peer::join(port, "bob");
        bob.say("/set echo off");
        let line = "y".repeat(200);
        for _ in 0..1000 {
            bob.say(&line);
        }
        bob.settles();
        let asking: Vec<_> = (0..scale(1000, 100))
            .map(|number| {
                let mut socket = connect(port);
                let asks = format!("asks{number}\n/set joins off\n/history 1000\n/quit\n");
                socket.write_all(asks.as_bytes()).expect("a line");
                socket
            })
            .collect();
        for socket in asking {
            let said = read_to_end(&socket);
            let rows = said.lines().filter(|row| row.ends_with(&line)).count();
            assert!(rows == 1000 && said.ends_with("\n[BYE quit] goodbye\n"), "{rows} rows");
        }
    });
    assert_eq!(received.iter().filter(|line| is_said(line)).count(), 1000);
}

#[test]
fn n24_mail_for_offline_account_is_bounded() {
    let (count, most) = (scale(10_000, 1000), 500);
    watched(
        &[],
        |line| is_presence(line, &["dora", "mallory"]),
        |port| {
            let mut dora = Peer::register(port, "dora", "secret");
            dora.say("/quit");
            dora.rest();
            let mut mallory = Peer::join(port, "mallory");
            for number in 0..count {
                mallory.say(&format!("/msg dora {number}"));
                let said = mallory.hears(|line| !line.starts_with("[OFFLINE dora]"));
                let kept = format!("[PRIVATE MESSAGE to dora] mallory: {number}");
                let is_right = if number < most {
                    said == kept
                } else {
                    said.starts_with("[ERROR too-many] ")
                };
                assert!(is_right, "{number}: {said}");
            }
            let mut dora = Peer::connect(port);
            dora.say("/login dora secret");
            dora.hears(|line| line.starts_with("[USERS #lobby "));
            let rows = dora.settles();
            assert_eq!(rows.len(), most);
            for (number, row) in rows.iter().enumerate() {
                assert!(row.ends_with(&format!("Z [PRIVATE MESSAGE] mallory: {number}")), "{row}");
            }
        },
    );
}
