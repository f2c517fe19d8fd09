//! The wire format at byte level: framing, telnet, other protocols, and how connections end. The
//! decoder itself is tested in `codec.rs`; these tests check what a client at the other end
//! receives.

use std::net::Shutdown;
use std::time::Instant;

use crate::support::{Peer, Server};

#[test]
fn crlf_and_lf_are_accepted_and_only_lf_is_sent() {
    let server = Server::start();
    let mut alice = Peer::connect(server.port);
    alice.send(b"alice\r\nhi\r\n/ping x\n");
    let lines = [(); 4].map(|()| alice.next());
    assert_eq!(lines[1..], ["[USERS #lobby 1] alice", "alice: hi", "[PONG x]"]);
}

#[test]
fn chunking_of_input_does_not_change_replies() {
    let input =
        "/set tags on\nalice\n@cid=1 h\u{e9}llo\r\n\n/who\n\u{0}\n/nope\n/msg alice a\n/quit\n";
    let answers = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let server = Server::start();
        let mut alice = Peer::connect(server.port);
        alice.socket().set_nodelay(true).unwrap();
        for piece in pieces {
            alice.send(piece);
        }
        let untimed = |line: String| match line.split_once(";time=") {
            Some((id, rest)) => format!("{id} {}", &rest["2026-11-23T06:16:00.123Z".len()..]),
            None => line,
        };
        alice.rest().into_iter().map(untimed).collect::<Vec<_>>()
    };
    let whole = answers(&mut std::iter::once(input.as_bytes()));
    assert_eq!(whole.len(), 10, "{whole:?}");
    assert_eq!(answers(&mut input.as_bytes().chunks(1)), whole);
    assert_eq!(answers(&mut input.as_bytes().chunks(7)), whole);
}

#[test]
fn bad_line_is_one_error_and_next_line_in_packet_works() {
    let server = Server::start();
    let mut alice = Peer::join(server.port, "alice");
    alice.send(b"\xff\n/ping 1\n\xc3\x28\n/ping 2\n");
    assert!(alice.next().starts_with("[ERROR bad-encoding] "));
    assert_eq!(alice.next(), "[PONG 1]");
    assert!(alice.next().starts_with("[ERROR bad-encoding] "));
    assert_eq!(alice.next(), "[PONG 2]");
    alice.send(format!("{}\n/ping 3\n", "x".repeat(100_000)).as_bytes());
    assert!(alice.next().starts_with("[ERROR too-long] "));
    assert_eq!(alice.next(), "[PONG 3]");
}

#[test]
fn malformed_line_is_not_taken_as_name() {
    let server = Server::start();
    let mut alice = Peer::connect(server.port);
    alice.send(b"\xc3\x28\nalice\n");
    assert!(alice.next().starts_with("[ERROR bad-encoding] "));
    assert!(alice.next().starts_with("[WELCOME alice] "));
}

#[test]
fn telnet_negotiation_is_stripped_and_answered() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let mut alice = Peer::connect(server.port);
    alice.send(b"\xff\xfb\x1f\xff\xfd\x03alice\r\n");
    alice.hears(|line| line.starts_with("[USERS"));
    // A telnet interrupt is answered at once, without the end of the line.
    alice.send(b"he\xff\xf4\xff\xfd\x06");
    assert_eq!(alice.take(3), b"\xff\xfc\x06");
    alice.send(b"l\xff\xfa\x18\x00xterm\xff\xf0lo\r\n");
    assert_eq!(alice.next(), "alice: hello");
    bob.hears(|line| line == "alice: hello");
}

#[test]
fn other_protocols_are_rejected_and_not_parsed_further() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    for opening in [
        &b"POST / HTTP/1.1\r\nHost: x\r\n\r\nmallory\r\npwned\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n/login mallory\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\nmallory\r\n",
        b"CNXN\x00\x00\x00\x01\x00\x10\x00\x00",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nmallory\r\n",
    ] {
        let mut stranger = Peer::connect(server.port);
        stranger.send(opening);
        let rest = stranger.rest();
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert!(rest[0].starts_with("[BYE bad-protocol] "), "{rest:?}");
    }
    assert_eq!(bob.settles(), [""; 0]);
}

#[test]
fn end_of_input_is_answered_with_pending_replies() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    for (last, answer) in
        [("hi", "alice: hi"), ("/history", "[HISTORY #lobby 1]"), ("/ping x", "[PONG x]")]
    {
        let mut alice = Peer::join(server.port, "alice");
        alice.send(last.as_bytes());
        alice.socket().shutdown(Shutdown::Write).unwrap();
        let rest = alice.rest();
        assert!(rest.contains(&answer.to_owned()), "{rest:?}");
        assert_eq!(rest.last().unwrap(), "[BYE quit] goodbye");
    }
    let seen = bob.settles();
    assert_eq!(seen.iter().filter(|line| *line == "* alice quit").count(), 3, "{seen:?}");
}

/// If posted, the partial line would count as the whole line when the client resends it.
#[test]
fn lines_sent_right_before_close_are_handled() {
    // The last lines are handled when no reply can be sent any more.
    let paced = ["--limit-loopback", "--input-burst", "5", "--input-rate", "200"];
    let server = Server::start_with(&paced);
    let mut alice = Peer::join(server.port, "alice");
    let mut bot = Peer::connect(server.port);
    let lines = (0..100).map(|number| format!("{number}\n")).collect::<Vec<_>>().concat();
    bot.send(format!("bot\n{lines}half a li").as_bytes());
    drop(bot);
    alice.hears(|line| line == "* bot joined");
    for number in 0..100 {
        assert_eq!(alice.next(), format!("bot: {number}"));
    }
    assert_eq!(alice.next(), "* bot quit");
}

#[test]
fn partial_line_of_resumable_client_is_discarded() {
    let server = Server::start_with(&["--session-grace", "1ms"]);
    let mut bob = Peer::join(server.port, "bob");
    for half in ["@cid=a1 12", "@ci", "12", "/me wav"] {
        let mut alice = Peer::join(server.port, "alice");
        alice.say("/set tags on");
        alice.say("/session");
        alice.settles();
        alice.say("@cid=a0 whole");
        alice.send(half.as_bytes());
        alice.socket().shutdown(Shutdown::Write).unwrap();
        let rest = alice.rest();
        assert!(rest[0].ends_with(";cid=a0 alice: whole"), "{rest:?}");
        assert_eq!(rest[1..], ["[BYE quit] goodbye"]);
        bob.hears(|line| line == "alice: whole");
        assert_eq!(bob.next(), "* alice quit");
    }
}

#[test]
fn name_without_newline_logs_in() {
    let server = Server::start();
    let mut alice = Peer::connect(server.port);
    alice.send(b"alice");
    alice.socket().shutdown(Shutdown::Write).unwrap();
    let rest = alice.rest();
    assert_eq!(rest[1..], ["[USERS #lobby 1] alice", "[BYE quit] goodbye"]);
}

/// Closing a socket with unread input makes the system send a reset, and the client would lose the
/// last lines.
#[test]
fn farewell_arrives_despite_unread_input() {
    let server = Server::start();
    for flood in ["x".repeat(100_000), "late\n".repeat(20_000)] {
        let mut alice = Peer::join(server.port, "alice");
        alice.send(format!("hi\n/quit\n{flood}").as_bytes());
        assert_eq!(alice.rest(), ["alice: hi", "[BYE quit] goodbye"]);
        let mut stranger = Peer::connect(server.port);
        stranger.send(format!("GET / {flood}").as_bytes());
        assert!(stranger.rest()[0].starts_with("[BYE bad-protocol] "));
    }
}

#[test]
fn overlong_unterminated_line_before_login_is_rejected() {
    let server = Server::start();
    let mut stranger = Peer::connect(server.port);
    stranger.send(&[b'a'; 513]);
    let rest = stranger.rest();
    assert!(rest[0].starts_with("[BYE too-long] "), "{rest:?}");
    let mut patient = Peer::connect(server.port);
    patient.send(&[b'a'; 512]);
    patient.send(b"\r\n/login alice\n");
    assert!(patient.next().starts_with("[ERROR bad-name] "));
    assert!(patient.next().starts_with("[WELCOME alice] "));
}

#[test]
fn slow_bytes_do_not_extend_login_deadline() {
    let server = Server::start_with(&["--login-timeout", "500ms"]);
    let mut idle = Peer::connect(server.port);
    let mut dripping = Peer::connect(server.port);
    let start = Instant::now();
    let mut sink = dripping.socket().try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        // Until the server has closed, which makes the write fail.
        while std::io::Write::write_all(&mut sink, b"/ping\n").is_ok()
            && start.elapsed().as_secs() < 20
        {
            std::thread::yield_now();
        }
    });
    assert!(idle.rest()[0].starts_with("[BYE login-timeout] "));
    dripping.hears(|line| line.starts_with("[BYE login-timeout] "));
    drop(dripping);
    drip.join().unwrap();
    assert!(start.elapsed().as_secs() < 20);
}
