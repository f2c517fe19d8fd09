//! Password guesses, and rights and tokens of other users: rows 22 and 23.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::watch::{Watch, is_presence, scale};
use super::{answer, connect_from, session, watched};
use crate::support::{Peer, SESAME, SESAME_FILE};

/// Registers an account whose user quits.
fn register(port: u16, name: &str, password: &str) {
    let mut owner = Peer::register(port, name, password);
    owner.say("/quit");
    owner.rest();
}

#[test]
fn n22_thousand_guesses_over_eight_connections() {
    watched(
        &[],
        |line| is_presence(line, &["alice"]),
        |port| {
            register(port, "alice", "secret");
            // The duration of the attack, and the limit of guesses per connection.
            let time = Duration::from_secs(scale(60, 3));
            let guessing: Vec<_> = (0..8)
                .map(|_| thread::spawn(move || guesses(port, 125, Instant::now() + time)))
                .collect();
            let said: Vec<String> =
                guessing.into_iter().flat_map(|one| one.join().expect("a guesser")).collect();
            let count = |code| {
                said.iter().filter(|line| line.starts_with(&format!("[ERROR {code}] "))).count()
            };
            let checked = count("bad-password");
            assert_eq!(checked + count("rate-limited"), said.len(), "{said:?}");
            assert!((4..=25).contains(&checked), "{checked} were checked in {time:?}");
            // From another address the owner logs in at once.
            let start = Instant::now();
            let mut alice = Peer::greeted(connect_from(Ipv4Addr::new(127, 0, 0, 2), port));
            alice.say("/login alice secret");
            alice.hears(|line| line.starts_with("[WELCOME alice]"));
            let most = Duration::from_secs(scale(1, 20));
            assert!(start.elapsed() < most, "{:?}", start.elapsed());
        },
    );
}

/// Guesses passwords one after another until `end`; returns the replies. Reconnects after a login
/// timeout.
fn guesses(port: u16, count: usize, end: Instant) -> Vec<String> {
    let mut peer = Peer::connect(port);
    let mut said = Vec::new();
    for number in 0..count {
        peer.say(&format!("/login alice guess{number}"));
        let left = end.saturating_duration_since(Instant::now());
        peer.socket().set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("a socket");
        let Some(line) = peer.try_next() else { break };
        if line.starts_with("[BYE login-timeout] ") {
            peer = Peer::connect(port);
        } else {
            said.push(line);
        }
    }
    hang_up(&peer);
    said
}

/// Closes both directions: a half-closed client would still be sent its reply.
fn hang_up(peer: &Peer) {
    SockRef::from(peer.socket()).set_linger(Some(Duration::ZERO)).expect("a socket");
}

/// Networks take turns at the hashing threads.
#[test]
fn n22_flood_of_logins_delays_only_its_own_networks() {
    let (accounts, networks) = (16, 8);
    watched(
        &["--limit-loopback", "--input-rate", "0"],
        |line| is_presence(line, &["owner", "honest"]),
        |port| {
            register(port, "honest", "secret");
            for number in 0..accounts {
                register(port, &format!("owner{number}"), "secret");
            }
            let mut flood: Vec<Peer> = (0..accounts * networks)
                .map(|number| Ipv4Addr::new(127, 0, 1 + number / accounts, 1))
                .map(|from| Peer::greeted(connect_from(from, port)))
                .collect();
            let mut honest = Peer::greeted(connect_from(Ipv4Addr::new(127, 0, 9, 9), port));
            for (number, guesser) in flood.iter_mut().enumerate() {
                guesser.say(&format!("/login owner{} wrong", number % usize::from(accounts)));
            }
            let start = Instant::now();
            honest.say("/login honest secret");
            honest.hears(|line| line.starts_with("[WELCOME honest]"));
            let took = start.elapsed();
            assert!(took < Duration::from_secs(scale(1, 20)), "{took:?}");
            let mut waiting = 0;
            for guesser in &mut flood {
                let socket = guesser.socket();
                socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
                match guesser.try_next() {
                    Some(line) => assert!(line.starts_with("[ERROR bad-password] "), "{line}"),
                    None => waiting += 1,
                }
            }
            assert!(waiting > flood.len() / 2, "{waiting} wait for longer");
        },
    );
}

#[test]
fn n22_guessers_disconnecting_with_pending_input() {
    watched(
        &[],
        |line| is_presence(line, &["alice"]),
        |port| {
            register(port, "alice", "secret");
            let mut guessers: Vec<Peer> = (0..8).map(|_| Peer::connect(port)).collect();
            for guesser in &mut guessers {
                let lines = (0..125).map(|number| format!("/login alice guess{number}\n"));
                guesser.send(lines.collect::<String>().as_bytes());
            }
            // The first guesses are checked, the others are delayed.
            guessers[0].hears(|line| line.starts_with("[ERROR bad-password] "));
            guessers.iter().for_each(hang_up);
        },
    );
}

#[test]
fn n22_malformed_passwords() {
    watched(
        &[],
        |line| is_presence(line, &["alice", "mallory"]),
        |port| {
            register(port, "alice", "secret");
            let mut mallory = Peer::connect(port);
            mallory.send(b"/login alice sec\0ret\n/login alice sec\nret\n");
            for code in ["bad-password", "bad-password", "not-logged-in"] {
                let said = mallory.next();
                assert!(said.starts_with(&format!("[ERROR {code}] ")), "{said}");
            }
            let long = "x".repeat(64 << 10);
            mallory.say(&format!("/login alice {long}"));
            let said = mallory.rest();
            assert!(said.len() == 1 && said[0].starts_with("[BYE too-long] "), "{said:?}");
            let mut mallory = Peer::join(port, "mallory");
            for command in ["/register", "/passwd", "/unregister", "/oper"] {
                let said = answer(&mut mallory, format!("{command} {long}\n").as_bytes());
                assert!(said.len() == 1 && said[0].starts_with("[ERROR too-long] "), "{said:?}");
            }
        },
    );
}

#[test]
fn n22_many_simultaneous_logins() {
    let accounts = scale(50, 10);
    watched(
        &[],
        |line| is_presence(line, &["owner"]),
        |port| {
            for number in 0..accounts {
                register(port, &format!("owner{number}"), "secret");
            }
            // Four logins per account: later ones take over the session, or all waiting ones are
            // refused.
            let mut crowd: Vec<Peer> = (0..4 * accounts).map(|_| Peer::connect(port)).collect();
            for (number, peer) in crowd.iter_mut().enumerate() {
                peer.say(&format!("/login owner{} secret", number % accounts));
            }
            for peer in &mut crowd {
                let said = peer.next();
                let is_answered =
                    said.starts_with("[WELCOME owner") || said.starts_with("[ERROR rate-limited] ");
                assert!(is_answered, "{said}");
            }
        },
    );
}

/// A login to an unknown account must not make the server hash.
#[test]
fn n22_unknown_accounts_are_not_hashed() {
    watched(
        &[],
        |line| is_presence(line, &["alice"]),
        |port| {
            register(port, "alice", "secret");
            let mut mallory = Peer::connect(port);
            mallory.say("/login alice wrong");
            assert!(mallory.next().starts_with("[ERROR bad-password] "));
            let lines = (0..200).map(|number| format!("/login nobody{number} wrong\n"));
            mallory.send(lines.collect::<String>().as_bytes());
            let said = mallory.settles();
            assert_eq!(said.len(), 200);
            assert!(said.iter().all(|line| line.starts_with("[ERROR bad-password] ")), "{said:?}");
        },
    );
}

#[test]
fn n23_rights_and_tokens_of_others() {
    let may_hear = |line: &str| {
        let renamed = ["* alice is now alicia", "* mallory is now alice"];
        renamed.contains(&line) || is_presence(line, &["alice", "alicia", "mallory"])
    };
    watched(&[], may_hear, |port| {
        let mut alice = Peer::join(port, "alice");
        let token = session(&mut alice);
        alice.say("/join secret");
        alice.settles();
        let mut mallory = Peer::connect(port);
        let changed: String = token.chars().rev().collect();
        for line in [
            "/resume 0 0".to_owned(),
            format!("/resume {changed} 0"),
            format!("/resume {} 0", token.to_uppercase()),
            format!("/resume {token}0 0"),
            "/oper sesame".to_owned(),
            "/kick alice".to_owned(),
            "/join secret".to_owned(),
        ] {
            mallory.say(&line);
            let said = mallory.settles();
            let is_refused = said.len() == 1 && said[0].starts_with("[ERROR ");
            assert!(is_refused || token == changed, "{line}: {said:?}");
        }
        mallory.say("/login mallory");
        mallory.hears(|line| line.starts_with("[USERS"));
        mallory.say("/join secret");
        mallory.settles();
        for line in [
            "/kick alice",
            "/op mallory",
            "/ban alice",
            "/lock",
            "/oper x",
            "/wall hi",
            "/kill alice",
        ] {
            mallory.say(line);
            let said = mallory.settles();
            assert!(said.iter().any(|line| line.starts_with("[ERROR ")), "{line}: {said:?}");
        }
        // A command inside a text is text, and a name that a user gave up carries no rights.
        alice.say("/msg #secret /kick mallory");
        mallory.hears(|line| line == "#secret alice: /kick mallory");
        alice.say("/part secret");
        alice.say("/nick alicia");
        alice.settles();
        mallory.say("/nick alice");
        mallory.settles();
        mallory.say(&format!("/resume {token} 0"));
        let said = mallory.settles();
        assert!(said.iter().any(|line| line.starts_with("[ERROR ")), "{said:?}");
    });
}

/// A right belongs to a user, not to a name; every attempt to gain it is logged.
#[test]
fn n23_oper_password_and_operator_name() {
    let flags = ["--oper-password-file", SESAME_FILE, "--guess-delay", "10ms"];
    let reported = |line: &str| {
        let act = [
            " mallory (guest, 127.0.0.1): /oper: wrong password",
            " alice (guest, 127.0.0.2): /oper: is an operator now",
        ];
        act.iter().any(|act| line.ends_with(act))
    };
    let watch = Watch::begin(&flags).may_log(reported);
    let port = watch.port();
    let mut mallory = Peer::join(port, "mallory");
    for number in 0..scale(20, 6) {
        mallory.say(&format!("/oper guess{number}"));
        let said = mallory.hears(|line| line.starts_with("[ERROR "));
        assert!(said.starts_with("[ERROR bad-password] "), "{said}");
    }
    let mut alice = Peer::greeted(connect_from(Ipv4Addr::new(127, 0, 0, 2), port));
    alice.say("alice");
    alice.say(&format!("/oper {SESAME}"));
    alice.hears(|line| line.starts_with("[OPER alice]"));
    alice.say("/nick alicia");
    alice.settles();
    mallory.say("/nick alice");
    mallory.settles();
    for line in ["/wall hi", "/kill alicia", "/gban alicia", "/gbans", "/kick alicia"] {
        let said = answer(&mut mallory, format!("{line}\n").as_bytes());
        assert!(said.len() == 1 && said[0].starts_with("[ERROR forbidden] "), "{line}: {said:?}");
    }
    drop((alice, mallory));
    watch.end(|line| {
        let renamed = ["* alice is now alicia", "* mallory is now alice"];
        renamed.contains(&line) || is_presence(line, &["alice", "alicia", "mallory"])
    });
}

/// A token expires with its session and opens no other session.
#[test]
fn n23_expired_tokens() {
    watched(
        &[],
        |line| is_presence(line, &["alice", "bob"]),
        |port| {
            let [(alice, alices), (mut bob, bobs)] = ["alice", "bob"].map(|name| {
                let mut peer = Peer::join(port, name);
                let token = session(&mut peer);
                (peer, token)
            });
            bob.say("/quit");
            bob.rest();
            let mut mallory = Peer::connect(port);
            let mixed = format!("{}{}", &alices[..16], &bobs[16..]);
            for token in [&bobs, &mixed, &alices[..31], "../../x", "%00"] {
                mallory.say(&format!("/resume {token} 0"));
                let said = mallory.settles();
                assert!(said.len() == 1 && said[0].starts_with("[ERROR bad-"), "{token}: {said:?}");
            }
            drop(alice);
        },
    );
}
