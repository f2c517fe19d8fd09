//! How many may come, how fast they may speak, and what becomes of those who
//! vanish: with limits small enough to be met in a moment.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::cable::Cable;
use crate::support::{Peer, Server, Terminal};

/// A server that holds this machine to its limits too.
fn limited(flags: &[&str]) -> Server {
    Server::start_with(&[&["--limit-loopback"], flags].concat())
}

/// What a server says to somebody whom it does not let in, to the end.
fn said_to_newcomer(port: u16) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    // Unread by the server, this must not take its words from us.
    let _ = socket.write_all(b"mallory\nhello\n");
    let mut said = String::new();
    socket.read_to_string(&mut said).expect("an orderly end");
    said
}

/// Tries until somebody is let in.
fn joins_in_time(port: u16, name: &str) -> Peer {
    let mut joined = None;
    Terminal::waits("a place", || {
        joined = Peer::try_join(port, name);
        joined.is_some()
    });
    joined.expect("waited for")
}

#[test]
fn an_address_has_so_many_connections_and_no_more() {
    let server = limited(&["--max-per-address", "3"]);
    let mut alice = Peer::join(server.port, "alice");
    let bob = Peer::join(server.port, "bob");
    let _carol = Peer::join(server.port, "carol");
    for _ in 0..20 {
        let said = said_to_newcomer(server.port);
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
fn however_people_go_their_place_is_free_again() {
    let flags = ["--max-per-address", "3", "--connect-rate", "0", "--login-timeout", "300ms"];
    let server = limited(&[&flags[..], &["--session-grace", "100ms"]].concat());
    for round in 0..10 {
        // With /quit, by vanishing, with a reset, by another's return, in time, as nobody.
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
        let mut nobody = None;
        Terminal::waits("a place", || {
            nobody = Peer::try_connect(server.port);
            nobody.is_some()
        });
        let mut nobody = nobody.expect("waited for");
        nobody.hears(|line| line.starts_with("[BYE login-timeout]"));
        if round % 2 == 0 {
            returns.say("/quit");
            returns.hears(|line| line.starts_with("[BYE quit]"));
        }
    }
    let _all: Vec<Peer> =
        ["one", "two", "three"].map(|name| joins_in_time(server.port, name)).into();
    assert!(said_to_newcomer(server.port).starts_with("[BYE too-many]"));
}

#[test]
fn without_being_told_to_nothing_of_this_machine_is_limited() {
    let server = Server::start_with(&["--max-per-address", "1", "--connect-burst", "1"]);
    let mut peers: Vec<Peer> =
        (0..20).map(|n| Peer::join(server.port, &format!("peer{n}"))).collect();
    for n in 0..300 {
        peers[0].say(&format!("line {n}"));
    }
    peers[1].hears(|line| line == "peer0: line 299");
}

#[test]
fn new_connections_come_at_a_rate() {
    // To a machine that took a second for the four, the fourth is rightly welcome.
    let is_told = (0..10).any(|_| {
        let server = limited(&["--connect-rate", "1", "--connect-burst", "3"]);
        let start = Instant::now();
        let _peers: Vec<Peer> =
            (0..3).map(|n| Peer::join(server.port, &format!("peer{n}"))).collect();
        let said = said_to_newcomer(server.port);
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
fn however_many_are_turned_away_each_is_told_why() {
    let server = limited(&["--max-per-address", "1"]);
    let _alice = Peer::join(server.port, "alice");
    let mut many: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut socket = TcpStream::connect(("127.0.0.1", server.port)).expect("connected");
            let _ = socket.write_all(b"mallory\n"); // it may be over before
            socket
        })
        .collect();
    for socket in &mut many {
        let mut said = String::new();
        let _ = socket.read_to_string(&mut said); // it may end by a reset, with all said
        assert!(said.starts_with("[BYE too-many] ") && said.ends_with('\n'), "{said:?}");
    }
}

#[test]
fn who_gives_no_name_gives_way_to_who_comes() {
    let server = limited(&["--max-unnamed", "2", "--max-per-address", "100"]);
    let mut alice = Peer::join(server.port, "alice");
    let mut silent: Vec<Peer> = Vec::new();
    for _ in 0..5 {
        let mut peer = Peer::connect(server.port);
        peer.say("/ping here");
        peer.hears(|line| line == "[PONG here]");
        silent.push(peer);
    }
    // The oldest three have gone, in this order; each knows why.
    for peer in &mut silent[..3] {
        peer.hears(|line| line.starts_with("[BYE too-many] "));
        assert!(peer.rest().is_empty());
    }
    let mut bob = Peer::join(server.port, "bob");
    bob.say("here all the same");
    alice.hears(|line| line == "bob: here all the same");
}

#[test]
fn who_speaks_too_fast_is_heard_in_time_whole_and_in_order() {
    let server = limited(&["--input-rate", "20", "--input-burst", "5"]);
    let mut bob = Peer::join(server.port, "bob");
    let mut alice = Peer::join(server.port, "alice");
    let start = Instant::now();
    // One write: what cannot be heard yet waits.
    let lines: Vec<String> = (0..25).map(|n| format!("line {n}\n")).collect();
    alice.send(lines.concat().as_bytes());
    alice.socket().shutdown(Shutdown::Write).expect("a socket");
    for n in 0..25 {
        assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: line {n}"));
    }
    // The store held four besides the name; the other 21 came at their rate.
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let said = alice.rest();
    assert!(said.last().is_some_and(|line| line.starts_with("[BYE quit]")), "{said:?}");
}

#[test]
fn out_of_descriptors_those_inside_go_on_and_others_come_when_there_are_some() {
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
    // Most of the crowd are still being told; then there is time for the next one.
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
    // However often it could accept nobody, it has not filled the disk with that.
    let told = server.logged();
    let told: Vec<_> = told.iter().filter(|line| line.starts_with("cannot accept")).collect();
    let most = start.elapsed().as_secs() + 2;
    assert!(told.len() as u64 <= most, "{told:?}");
}

#[test]
fn a_bug_that_one_connection_meets_ends_that_connection_only() {
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
    // The same where what is answered is not a line but what the log has found.
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
fn who_hangs_on_a_pulled_cable_is_missed() {
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
    // One by keepalive, the other since what is said to them is never confirmed.
    carol.say("are you there?");
    bob.hears(|line| line == "* idle quit");
    carol.hears(|line| line == "* friend quit");
    for mut netcat in [idle, spoken_to] {
        let _ = netcat.kill();
        let _ = netcat.wait();
    }
}
