//! Huge numbers and requests: row 24.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::watch::{Vitals, Watch, is_presence, scale};
use super::{connect, connect_from, connect_with_small_buffer, connected, read_to_end, watched};
use crate::search::indexed;
use crate::support::{Peer, Server};

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
    // The replies of 4 MiB each must not be held. What is: up to two pages of 64 KiB per client,
    // the outboxes, and what the allocator keeps of the turns.
    let watch = Watch::begin(&["--outbox-total", "16MiB", "--write-stall", "1s"]);
    let watch = watch.allow_growth(96 << 20);
    let port = watch.port();
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
    watch.end(may_hear);
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

const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);

fn words(numbers: Range<usize>) -> String {
    numbers.fold(String::new(), |words, number| words + &format!("word{number} "))
}

/// A server with a log of many long messages and an account with mail.
struct LongLog {
    server: Server,
    _folder: tempfile::TempDir,
}

impl LongLog {
    const MESSAGES: usize = 1000;
    const MAIL: usize = 100;

    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let flags = ["--limit-loopback", "--input-rate", "0", "--outbox-total", "1MiB"];
        let server = Server::start_in(folder.path(), &flags);
        let mut dora = Peer::register(server.port, "dora", "secret");
        dora.say("/quit");
        dora.rest();
        let mut bob = Peer::join(server.port, "bob");
        bob.say("/set echo off");
        // A hundred different words, so that searches have much to compare.
        let words = words(0..99);
        for number in 0..Self::MESSAGES {
            bob.say(&format!("needle{number} {words} {}", "x".repeat(3100)));
        }
        for number in 0..Self::MAIL {
            bob.say(&format!("/msg dora mail {number}"));
        }
        bob.settles();
        indexed(folder.path());
        Self { server, _folder: folder }
    }

    fn vitals(&self) -> Vitals {
        Vitals::of(self.server.process_id())
    }

    /// Asks from a network of its own, and checks that the complete answer is there in time.
    fn ask(&self, name: &str, line: &str, rows: usize) {
        let mut peer = Peer::greeted(connect_from(HONEST, self.server.port));
        let start = Instant::now();
        peer.say(name);
        peer.hears(|line| line.starts_with("[USERS "));
        peer.say(line);
        for _ in 0..rows {
            peer.hears(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        }
        peer.say("/quit");
        peer.hears(|line| line.starts_with("[BYE quit]"));
        let took = start.elapsed();
        assert!(took < Duration::from_secs(scale(1, 5)), "{name} {line}: {took:?}");
    }
}

/// Thirty clients of one address who ask at the same moment, and then read slowly.
struct SlowCrowd {
    is_over: Arc<AtomicBool>,
    reading: thread::JoinHandle<()>,
}

impl SlowCrowd {
    fn begin(port: u16, from: Ipv4Addr, ask: &str) -> Self {
        let mut sockets: Vec<TcpStream> = (0..30)
            .map(|number| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.set_recv_buffer_size(4096).expect("a small buffer");
                socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address");
                let mut socket = connected(socket, port);
                let [_, _, third, _] = from.octets();
                let lines = format!("slow{third}x{number}\n/set joins off\n{ask}");
                socket.write_all(lines.as_bytes()).expect("lines");
                socket
            })
            .collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = is_over.clone();
        let reading = thread::spawn(move || {
            let mut piece = [0; 400];
            while !stop.load(Ordering::Relaxed) {
                for socket in &mut sockets {
                    socket.read_exact(&mut piece).expect("more than is read");
                }
                thread::sleep(Duration::from_millis(50)); // 8 KB/s
            }
        });
        Self { is_over, reading }
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.reading.join().expect("a slow crowd");
    }
}

#[test]
fn n24_long_replies_of_one_network_do_not_delay_another() {
    let log = LongLog::start();
    let before = log.vitals().peak;
    let history = format!("/history {}\n", LongLog::MESSAGES).repeat(5);
    let crowd = SlowCrowd::begin(log.server.port, Ipv4Addr::new(127, 0, 1, 1), &history);
    for number in 0..scale(20, 5) {
        log.ask(&format!("honest{number}"), "/history 20", 20);
        log.ask(&format!("honest{number}"), "/history 100", 100);
        log.ask(&format!("honest{number}"), &format!("/search needle{number}"), 1);
    }
    let grown = log.vitals().peak.saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB", grown >> 10);
    log.ask("/login dora secret", "/ping", LongLog::MAIL);
    crowd.end();
}

#[test]
fn n24_searches_of_one_network_do_not_delay_another() {
    let log = LongLog::start();
    // They find nothing, so everything is compared.
    let search = |first| format!("/search {}nowhere{first}\n", words(first..first + 15));
    let searches = (0..80).fold(String::new(), |all, first| all + &search(first));
    let crowd = SlowCrowd::begin(log.server.port, Ipv4Addr::new(127, 0, 2, 1), &searches);
    for number in 0..scale(20, 5) {
        log.ask(&format!("honest{number}"), &format!("/search needle{number}"), 1);
        log.ask(&format!("honest{number}"), "/history 20", 20);
    }
    crowd.end();
}
