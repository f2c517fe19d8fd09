//! Connection limits, rate limits, and dead connections, tested with small limits.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::cable::Cable;
use crate::hostile::{connect_from, session};
use crate::support::{Peer, Server, Terminal};

/// Starts a server whose limits apply to loopback addresses, too.
fn limited(flags: &[&str]) -> Server {
    Server::start_with(&[&["--limit-loopback"], flags].concat())
}

/// Returns what the server sends to a rejected connection.
fn reply_to_new_connection(port: u16) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    // Unread input must not make the farewell get lost in a reset.
    let _ = socket.write_all(b"mallory\nhello\n");
    let mut said = String::new();
    socket.read_to_string(&mut said).expect("a clean end");
    said
}

/// Retries until the login succeeds.
fn joins_in_time(port: u16, name: &str) -> Peer {
    let mut joined = None;
    Terminal::waits("a free slot", || {
        joined = Peer::try_join(port, name);
        joined.is_some()
    });
    joined.expect("waited for")
}

#[test]
fn connections_per_address_are_limited() {
    let server = limited(&["--max-per-address", "3"]);
    let mut alice = Peer::join(server.port, "alice");
    let bob = Peer::join(server.port, "bob");
    let _carol = Peer::join(server.port, "carol");
    for _ in 0..20 {
        let said = reply_to_new_connection(server.port);
        assert!(said.starts_with("[BYE too-many] ") && said.ends_with('\n'), "{said}");
        assert!(said.contains("your address"), "{said}");
    }
    drop(bob);
    alice.hears(|line| line == "* bob quit");
    let _dave = joins_in_time(server.port, "dave");
    alice.say("all well");
    alice.hears(|line| line == "alice: all well");
}

#[test]
fn every_kind_of_disconnect_frees_connection_slot() {
    let flags = ["--max-per-address", "3", "--connect-rate", "0", "--login-timeout", "300ms"];
    let server = limited(&[&flags[..], &["--session-grace", "100ms"]].concat());
    for round in 0..10 {
        // By /quit, drop, reset, takeover, login timeout, and without a login.
        let name = format!("quits{round}");
        let mut quits = joins_in_time(server.port, &name);
        quits.say("/session");
        let token = quits.hears(|line| line.starts_with("[SESSION "));
        let mut returns = Peer::try_connect(server.port).expect("three places");
        let token = token["[SESSION ".len()..].split(']').next().expect("a token");
        returns.say(&format!("/resume {token} 0"));
        returns.hears(|line| line.starts_with("[WELCOME quits"));
        quits.hears(|line| line.starts_with("[BYE replaced]"));
        drop(quits);
        let resets = joins_in_time(server.port, &format!("resets{round}"));
        SockRef::from(resets.socket()).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(resets);
        let mut unnamed = None;
        Terminal::waits("a free slot", || {
            unnamed = Peer::try_connect(server.port);
            unnamed.is_some()
        });
        let mut unnamed = unnamed.expect("waited for");
        unnamed.hears(|line| line.starts_with("[BYE login-timeout]"));
        if round % 2 == 0 {
            returns.say("/quit");
            returns.hears(|line| line.starts_with("[BYE quit]"));
        }
    }
    let _all: Vec<Peer> =
        ["one", "two", "three"].map(|name| joins_in_time(server.port, name)).into();
    assert!(reply_to_new_connection(server.port).starts_with("[BYE too-many]"));
}

#[test]
fn loopback_is_not_limited_by_default() {
    let server = Server::start_with(&["--max-per-address", "1", "--connect-burst", "1"]);
    let mut peers: Vec<Peer> =
        (0..20).map(|n| Peer::join(server.port, &format!("peer{n}"))).collect();
    for n in 0..300 {
        peers[0].say(&format!("line {n}"));
    }
    peers[1].hears(|line| line == "peer0: line 299");
}

#[test]
fn new_connections_are_rate_limited() {
    // On a machine that took a second for the first four, the fourth is rightly accepted.
    let is_told = (0..10).any(|_| {
        let server = limited(&["--connect-rate", "1", "--connect-burst", "3"]);
        let start = Instant::now();
        let _peers: Vec<Peer> =
            (0..3).map(|n| Peer::join(server.port, &format!("peer{n}"))).collect();
        let said = reply_to_new_connection(server.port);
        if start.elapsed() >= Duration::from_secs(1) {
            return false;
        }
        assert!(said.starts_with("[BYE too-many] "), "{said}");
        let _dave = joins_in_time(server.port, "dave");
        true
    });
    assert!(is_told, "four connections take a second here");
}

#[test]
fn every_rejected_connection_receives_reason() {
    let server = limited(&["--max-per-address", "1"]);
    let _alice = Peer::join(server.port, "alice");
    let mut many: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut socket = TcpStream::connect(("127.0.0.1", server.port)).expect("connected");
            let _ = socket.write_all(b"mallory\n"); // the server may have closed
            socket
        })
        .collect();
    for socket in &mut many {
        let mut said = String::new();
        let _ = socket.read_to_string(&mut said); // may end with a reset
        assert!(said.starts_with("[BYE too-many] ") && said.ends_with('\n'), "{said:?}");
    }
}

#[test]
fn pending_logins_are_evicted_for_new_connections() {
    let server = limited(&["--max-unnamed", "2", "--max-per-address", "100"]);
    let mut alice = Peer::join(server.port, "alice");
    let mut silent: Vec<Peer> = Vec::new();
    for _ in 0..5 {
        let mut peer = Peer::connect(server.port);
        peer.say("/ping here");
        peer.hears(|line| line == "[PONG here]");
        silent.push(peer);
    }
    // The three oldest pending logins were evicted, in order, with a reason.
    for peer in &mut silent[..3] {
        peer.hears(|line| line.starts_with("[BYE too-many] "));
        assert!(peer.rest().is_empty());
    }
    let mut bob = Peer::join(server.port, "bob");
    bob.say("here all the same");
    alice.hears(|line| line == "bob: here all the same");
}

#[test]
fn network_with_many_addresses_leaves_places_for_others() {
    let flags = ["--max-connections", "60", "--max-per-address", "8", "--connect-rate", "0"];
    let server = limited(&[&flags[..], &["--wider-networks", "2"]].concat());
    let mut crowd: Vec<TcpStream> = (1..=160)
        .map(|number| {
            let from = Ipv4Addr::new(127, 9, 0, 1 + number / 8);
            let mut socket = connect_from(from, server.port);
            let _ = socket.write_all(format!("crowd{number}\n").as_bytes()); // may be closed
            socket
        })
        .collect();
    let first_line = |socket: &mut TcpStream| {
        let mut bytes = [0; 100];
        let count = socket.read(&mut bytes).unwrap_or_default(); // may end with a reset
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let said: Vec<String> = crowd.iter_mut().map(first_line).collect();
    let accepted = said.iter().filter(|line| line.starts_with("[HELLO")).count();
    assert!((8..=16).contains(&accepted), "{accepted}");
    let network = "from your network 127.9.0.0/24";
    assert!(said.iter().any(|line| line.contains(network)), "{said:?}");
    let others: Vec<Peer> = (0..8).map(|n| Peer::join(server.port, &format!("p{n}"))).collect();
    assert_eq!(others.len(), 8);
}

#[test]
fn pending_logins_of_one_network_do_not_evict_those_of_others() {
    let server = limited(&["--max-unnamed", "4"]);
    let silent = |from| {
        let mut peer = Peer::greeted(connect_from(from, server.port));
        peer.say("/ping here");
        peer.hears(|line| line == "[PONG here]");
        peer
    };
    let mut bob = silent(Ipv4Addr::new(127, 8, 0, 1));
    let mut crowd: Vec<Peer> =
        (1..=20).map(|last| silent(Ipv4Addr::new(127, 9, 0, last))).collect();
    for peer in &mut crowd[..17] {
        peer.hears(|line| line.starts_with("[BYE too-many] "));
    }
    bob.say("bob");
    bob.hears(|line| line.starts_with("[WELCOME bob]"));
}

#[test]
fn connections_of_one_address_share_a_budget_of_lines_in_turn() {
    let flags = ["--input-rate", "5", "--input-burst", "10", "--address-input", "2"];
    let server = limited(&[&flags[..], &["--connect-rate", "0"]].concat());
    let mut bob = Peer::join(server.port, "bob");
    let start = Instant::now();
    let address = Ipv4Addr::new(127, 9, 0, 1);
    let crowd: Vec<TcpStream> = (0..6)
        .map(|number| {
            let mut socket = connect_from(address, server.port);
            let lines = (0..10).map(|line| format!("line {line}\n"));
            let lines = format!("crowd{number}\n{}", lines.collect::<String>());
            socket.write_all(lines.as_bytes()).expect("a socket");
            socket
        })
        .collect();
    let mut neighbour = Peer::greeted(connect_from(address, server.port));
    neighbour.send(b"carol\nhello\n");
    let mut before = 0;
    let mut line = bob.next();
    while line != "carol: hello" {
        before += usize::from(line.starts_with("crowd"));
        line = bob.next();
    }
    assert!(before < 50, "the neighbour waited for {before} lines");
    for _ in before..60 {
        bob.hears(|line| line.starts_with("crowd"));
    }
    // 68 lines: 20 at once, then 10 per second.
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    drop(crowd);
}

#[test]
fn new_connection_of_a_user_brings_no_new_burst() {
    let flags = ["--input-rate", "5", "--input-burst", "10", "--address-input", "100"];
    let server = limited(&flags);
    let mut bob = Peer::join(server.port, "bob");
    let start = Instant::now();
    let mut alice = Peer::join(server.port, "alice");
    let token = session(&mut alice);
    let lines = (0..8).map(|number| format!("line {number}\n")).collect::<Vec<_>>().concat();
    alice.send(lines.as_bytes());
    bob.hears(|line| line == "alice: line 7");
    let mut alice = Peer::greeted(TcpStream::connect(("127.0.0.1", server.port)).expect("connect"));
    alice.say(&format!("/resume {token} 0"));
    alice.send(lines.as_bytes());
    bob.hears(|line| line == "alice: line 7");
    // 19 lines: 10 at once, then 5 per second.
    assert!(start.elapsed() >= Duration::from_millis(1500), "{:?}", start.elapsed());
}

#[test]
fn rate_limited_sender_is_delayed_without_loss() {
    let server = limited(&["--input-rate", "20", "--input-burst", "5"]);
    let mut bob = Peer::join(server.port, "bob");
    let mut alice = Peer::join(server.port, "alice");
    let start = Instant::now();
    // One write: lines above the rate limit wait in the buffer.
    let lines: Vec<String> = (0..25).map(|n| format!("line {n}\n")).collect();
    alice.send(lines.concat().as_bytes());
    alice.socket().shutdown(Shutdown::Write).expect("a socket");
    for n in 0..25 {
        assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: line {n}"));
    }
    // The burst covered four lines besides the name; the other 21 were handled at the rate.
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let said = alice.rest();
    assert!(said.last().is_some_and(|line| line.starts_with("[BYE quit]")), "{said:?}");
}

#[test]
fn descriptor_exhaustion_delays_only_new_connections() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]);
    let start = Instant::now();
    let server = Server::spawn_under(shell, &["--ephemeral"]);
    let mut alice = Peer::join(server.port, "alice");
    let mut bob = Peer::join(server.port, "bob");
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(("127.0.0.1", server.port)).expect("a connection"))
        .collect();
    for n in 0..20 {
        alice.say(&format!("still {n}"));
        bob.hears(|line| line == format!("alice: still {n}"));
    }
    // Most of the crowd are still being rejected; then the next connection is accepted.
    Terminal::waits("why", || {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port)).expect("a connection");
        let mut said = String::new();
        let _ = socket.read_to_string(&mut said);
        said.starts_with("[BYE too-many] the server is full")
    });
    drop(crowd);
    let mut carol = joins_in_time(server.port, "carol");
    carol.say("room at last");
    bob.hears(|line| line == "carol: room at last");
    // Repeated accept errors must not flood the log.
    let reported = server.logged();
    let reported: Vec<_> =
        reported.iter().filter(|line| line.starts_with("cannot accept")).collect();
    let most = start.elapsed().as_secs() + 2;
    assert!(reported.len() as u64 <= most, "{reported:?}");
}

#[test]
fn panic_ends_only_its_connection() {
    let server = Server::start_with(&["--debug-panic"]);
    let mut bob = Peer::join(server.port, "bob");
    let mut mallory = Peer::join(server.port, "mallory");
    mallory.say("/debug-panic");
    assert_eq!(mallory.rest(), [""; 0]);
    bob.hears(|line| line == "* mallory quit");
    bob.say("still here");
    bob.hears(|line| line == "bob: still here");
    Terminal::waits("what it was", || {
        server.logs().contains("the server panicked over 127.0.0.1; other")
    });
    let mut mallory = Peer::join(server.port, "mallory");
    // The same for a panic while the result of a log read is handled.
    mallory.say("/debug-panic later");
    mallory.say("/history");
    while mallory.try_next().is_some() {}
    bob.hears(|line| line == "* mallory joined");
    bob.hears(|line| line == "* mallory quit");
    bob.say("/history 1");
    bob.hears(|line| line == "[HISTORY #lobby 1]");
    let _again = Peer::join(server.port, "mallory");
}

#[test]
fn dead_connection_is_detected_after_cable_pull() {
    let Some(cable) = Cable::lay() else { return };
    let flags = ["--bind", &cable.here, "--keepalive", "1s", "--user-timeout", "2s"];
    let server = Server::start_with(&flags);
    let flags = ["--bind", &cable.here, "--keepalive", "1h", "--user-timeout", "2s"];
    let patient = Server::start_with(&flags);
    let (mut bob, mut carol) = (Peer::join(server.port, "bob"), Peer::join(patient.port, "carol"));
    let idle = cable.netcat(server.port, "idle\\n");
    let spoken_to = cable.netcat(patient.port, "friend\\n");
    bob.hears(|line| line == "* idle joined");
    carol.hears(|line| line == "* friend joined");
    cable.pull();
    // One is detected by TCP keepalive, the other because data sent to it is never acknowledged.
    carol.say("are you there?");
    bob.hears(|line| line == "* idle quit");
    carol.hears(|line| line == "* friend quit");
    for mut netcat in [idle, spoken_to] {
        let _ = netcat.kill();
        let _ = netcat.wait();
    }
}
