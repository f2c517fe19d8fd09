//! Connections that are slow, break, are too many, or hang on a pulled cable: rows 16 to 18 and 21.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::watch::{Vitals, Watch, is_presence, scale};
use super::{connect, connect_from, id_and_line, read_to_end, session, watched};
use crate::cable::Cable;
use crate::support::{Peer, Server, Terminal, history};

/// Checks that a new user can log in and post within `most`.
fn logs_in_within(port: u16, most: Duration) {
    let start = Instant::now();
    let mut bob = Peer::join(port, "bob");
    bob.say("here");
    bob.hears(|line| line == "bob: here");
    assert!(start.elapsed() < most, "{:?}", start.elapsed());
}

#[test]
fn n16_hundreds_of_slow_logins() {
    let (patience, pause) = (scale(30_000, 1500), scale(10_000, 100));
    let patience = format!("{patience}ms");
    let unnamed = scale("512", "256");
    // The attackers connect from other networks, and the limit of pending logins leaves a place
    // for the canaries.
    let flags = ["--limit-loopback", "--input-rate", "0", "--max-unnamed", unnamed];
    let flags = [&flags[..], &["--login-timeout", &patience]].concat();
    let may_hear = |line: &str| is_presence(line, &["bob"]) || line == "bob: here";
    watched(&flags, may_hear, |port| {
        let start = Instant::now();
        let mut sockets: Vec<TcpStream> = (2..=40)
            .cycle()
            .take(scale(600, 300))
            .map(|second| connect_from(Ipv4Addr::new(127, second, 0, 1), port))
            .collect();
        logs_in_within(port, Duration::from_millis(scale(1000, 10_000)));
        let (dripped, ended) = mpsc::channel::<()>();
        let ends: Vec<TcpStream> =
            sockets.iter().map(|socket| socket.try_clone().expect("a socket")).collect();
        let dripping = thread::spawn(move || {
            // Until all of them have received the login timeout.
            while ended
                .recv_timeout(Duration::from_millis(pause))
                .is_err_and(|e| e == mpsc::RecvTimeoutError::Timeout)
            {
                for socket in &mut sockets {
                    let _ = socket.write_all(b"a");
                }
            }
        });
        for socket in &ends {
            let said = read_to_end(socket);
            let is_told = ["login-timeout", "too-many"]
                .iter()
                .any(|code| said.contains(&format!("[BYE {code}] ")));
            assert!(is_told, "{said}");
        }
        let most = Duration::from_secs(scale(32, 20));
        assert!(start.elapsed() < most, "{:?}", start.elapsed());
        drop(dripped);
        dripping.join().expect("drips");
    });
}

#[test]
fn n17_connections_broken_in_every_way() {
    let may_hear = |line: &str| is_presence(line, &["n"]);
    watched(&[], may_hear, |port| {
        let (start, every) = (Instant::now(), Duration::from_micros(200));
        for number in 0..scale(50_000, 1500) {
            let socket = connect(port);
            SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket");
            drop(socket);
            // 5000 per second.
            thread::sleep((start + every * number).saturating_duration_since(Instant::now()));
        }
        for _ in 0..scale(5000, 300) {
            connect(port);
        }
        for number in 0..scale(1000, 100) {
            let mut socket = connect(port);
            let lines = format!("n{number}\n/ping late\n");
            socket.write_all(lines.as_bytes()).expect("a socket");
            socket.shutdown(Shutdown::Write).expect("a socket");
            let said = read_to_end(&socket);
            assert!(said.contains("[PONG late]\n[BYE quit]"), "{said}");
        }
    });
}

#[test]
fn n18_descriptors_exhausted() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]);
    let (start, reported) = (Instant::now(), Rc::new(Cell::new(0)));
    let count = reported.clone();
    let server = Server::spawn_under(shell, &["--ephemeral"]);
    let watch = Watch::over(server).may_log(move |line| {
        count.set(count.get() + 1);
        line.starts_with("cannot accept connections: ")
    });
    let crowd: Vec<TcpStream> = (0..300).map(|_| connect(watch.port())).collect();
    // The server must not spin while it has no free descriptor.
    let before = Vitals::of(watch.process_id());
    let hold = Duration::from_millis(scale(5000, 500));
    thread::sleep(hold); // the time during which descriptors are exhausted
    let worked = Vitals::of(watch.process_id()).worked_since(before);
    assert!(worked < hold / scale(20, 4), "{worked:?} of {hold:?}");
    drop(crowd);
    let released = Instant::now();
    let mut bob = None;
    Terminal::waits("a free slot", || {
        bob = Peer::try_join(watch.port(), "bob");
        bob.is_some()
    });
    let most = Duration::from_secs(scale(2, 20));
    assert!(released.elapsed() < most, "{:?}", released.elapsed());
    drop(bob);
    watch.end(|line| is_presence(line, &["bob"]));
    assert!(reported.get() <= start.elapsed().as_secs() + 2, "{reported:?} lines in the log");
}

/// A user at the far end of a pulled cable, cut off while sending.
struct Lost {
    name: String,
    token: String,
    sent: usize,
    /// The complete lines received.
    heard: Vec<String>,
}

impl Lost {
    fn line(name: &str, number: usize) -> String {
        format!("@cid=m{number} {name} says {number}\n")
    }

    /// Sends at a fixed pace until it is over, and reads what arrives.
    fn send_until_over(stream: TcpStream, name: String, is_over: &AtomicBool) -> Self {
        let mut peer = Peer::on(stream, &name);
        let token = session(&mut peer);
        for setting in ["joins off", "tags on"] {
            peer.say(&format!("/set {setting}"));
        }
        peer.hears(|line| line.ends_with("tags=on]"));
        let mut socket = peer.socket();
        // The time to read before the next line is sent.
        let pace = Duration::from_millis(scale(100, 20));
        socket.set_read_timeout(Some(pace)).expect("a socket");
        let (mut sent, mut heard, mut piece) = (0, Vec::new(), vec![0; 1 << 16]);
        while !is_over.load(Ordering::Relaxed) {
            socket.write_all(Self::line(&name, sent).as_bytes()).expect("room to send");
            sent += 1;
            let start = Instant::now();
            while start.elapsed() < pace {
                let count = socket.read(&mut piece).unwrap_or(0); // 0 on timeout
                heard.extend_from_slice(&piece[..count]);
            }
        }
        let end = heard.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let heard = std::str::from_utf8(&heard[..end]).expect("UTF-8");
        let heard = heard.lines().filter(|line| line.starts_with("@id=")).map(str::to_owned);
        Self { heard: heard.collect(), name, token, sent }
    }

    /// Resumes the session, reads the missed lines, and resends the unanswered ones. Returns the
    /// ids of all lines received, without the resent ones.
    fn resume(&self, stream: TcpStream) -> Vec<u64> {
        let mut ids: Vec<u64> = self.heard.iter().map(|line| id_and_line(line).0).collect();
        let mut peer = Peer::greeted(stream);
        peer.say(&format!("/resume {} {}", self.token, ids.last().copied().unwrap_or(0)));
        let missed = peer.settles();
        assert_eq!(missed[0], format!("[WELCOME {}] you are back", self.name));
        ids.extend(missed[1..].iter().map(|line| id_and_line(line).0));
        for number in 0..self.sent {
            let mark = format!(";cid=m{number} ");
            if !self.heard.iter().any(|line| line.contains(&mark)) {
                peer.send(Self::line(&self.name, number).as_bytes());
                let answer = peer.hears(|line| line.contains(&mark));
                let text = format!("{0}: {0} says {number}", self.name);
                assert_eq!(id_and_line(&answer).1, text);
            }
        }
        peer.say("/quit");
        peer.rest();
        ids
    }
}

#[test]
fn n21_cable_pulled_while_many_send() {
    let Some(cable) = Cable::lay() else { return };
    let silence = format!("{}s", scale(10, 2));
    let flags = ["--bind", &cable.here, "--keepalive", &silence, "--user-timeout", &silence];
    let limits = ["--max-per-address", "100", "--connect-rate", "0", "--input-rate", "0"];
    let watch = Watch::begin(&[&flags[..], &limits].concat());
    let is_over = Arc::new(AtomicBool::new(false));
    let speaking: Vec<_> = (0..scale(50, 10))
        .map(|number| {
            let (stream, is_over) = (cable.connect(watch.port()), is_over.clone());
            thread::spawn(move || Lost::send_until_over(stream, format!("far{number}"), &is_over))
        })
        .collect();
    let mut bob = Peer::join(watch.port(), "bob");
    bob.hears(|line| line.ends_with(" says 20"));
    cable.pull();
    bob.say("/quit");
    bob.rest();
    watch.waits_for_disconnects();
    is_over.store(true, Ordering::Relaxed);
    let lost: Vec<Lost> = speaking.into_iter().map(|one| one.join().expect("lost")).collect();
    cable.mend();
    let heard: Vec<Vec<u64>> =
        lost.iter().map(|one| one.resume(cable.connect(watch.port()))).collect();
    let kept = history(watch.port(), "lobby");
    for ids in &heard {
        let span = ids[0]..=ids[ids.len() - 1];
        let all = kept.iter().map(|(id, _)| *id).filter(|id| span.contains(id));
        assert_eq!(*ids, all.collect::<Vec<_>>(), "each once, in order");
    }
    let witnessed = watch.end(|line| {
        let is_said = line.starts_with("far") && line.contains(" says ");
        is_said || is_presence(line, &["far", "bob", "historian"])
    });
    let mut said: Vec<String> = lost
        .iter()
        .flat_map(|one| (0..one.sent).map(|number| format!("{0}: {0} says {number}", one.name)))
        .collect();
    let mut rows: Vec<String> = kept.into_iter().map(|(_, row)| row).collect();
    let witnessed: Vec<String> =
        witnessed.into_iter().filter(|line| line.contains(" says ")).collect();
    assert!(witnessed == rows, "the witness heard what is kept");
    said.sort_unstable();
    rows.sort_unstable();
    assert!(said == rows, "one copy of each: {} said, {} kept", said.len(), rows.len());
}
