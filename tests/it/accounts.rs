//! Accounts and mail on the real server: persistence and password throttling.

use std::fs;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::support::{Peer, SESAME, SESAME_FILE, Server};

/// Logs in with a password; returns the reply.
fn log_in(port: u16, name: &str, password: &str) -> (Peer, String) {
    let mut peer = Peer::connect(port);
    peer.say(&format!("/login {name} {password}"));
    let answer = peer.next();
    (peer, answer)
}

fn is_password(answer: &str) -> bool {
    assert!(answer.starts_with("[WELCOME ") || answer.starts_with("[ERROR bad-password] "));
    answer.starts_with("[WELCOME ")
}

#[test]
fn accounts_and_mail_survive_crash_without_plain_passwords() {
    const PASSWORD: &str = "Tr0ub4dor and three";
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "Alice");
    let _carol = Peer::join(server.port, "carol");
    alice.say(&format!("/register {PASSWORD}"));
    alice.say("/ignore carol");
    alice.say("/quit");
    alice.rest();
    let mut bob = Peer::join(server.port, "bob");
    bob.say("/msg alice one");
    bob.say("/msg alice two");
    bob.settles();
    server.kill();

    for entry in fs::read_dir(folder.path()).expect("the folder") {
        let bytes = fs::read(entry.expect("a file").path()).expect("readable");
        let found = bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes());
        assert!(!found, "the password is nowhere in the data folder");
    }
    let mut server = Server::start_in(folder.path(), &["--keep-messages", "1"]);
    let mut bob = Peer::join(server.port, "bob");
    for number in 0..20 {
        bob.say(&format!("/me counts {number}"));
    }
    bob.say("/history 1000");
    while bob.hears(|line| line.starts_with("[HISTORY")) != "[HISTORY #lobby 1]" {
        bob.say("/history 1000"); // retention runs with a delay
    }
    assert!(!is_password(&log_in(server.port, "alice", "Tr0ub4dor").1));
    let (mut alice, welcome) = log_in(server.port, "alice", PASSWORD);
    assert!(welcome.starts_with("[WELCOME Alice]"), "{welcome}");
    assert_eq!(alice.next(), "[USERS #lobby 2] Alice,bob");
    for text in ["one", "two"] {
        let row = alice.next();
        assert!(row.ends_with(&format!("Z [PRIVATE MESSAGE] bob: {text}")), "{row}");
    }
    alice.say("/ignore");
    assert_eq!(alice.settles(), ["[IGNORED 1] carol"]);
    server.kill();

    let server = Server::start_in(folder.path(), &[]);
    let (mut alice, _) = log_in(server.port, "alice", PASSWORD);
    assert_eq!(alice.settles(), ["[USERS #lobby 1] Alice"], "told once");
}

#[test]
fn password_guesses_are_throttled_per_address_without_lockout() {
    let server = Server::start_with(&["--guess-delay", "200ms"]);
    let _alice = Peer::register(server.port, "alice", "secret");
    let guess = |guesser: &mut Peer, password: &str| {
        guesser.say(&format!("/login alice {password}"));
        is_password(&guesser.next())
    };
    let start = Instant::now();
    let mut guessers: Vec<Peer> = (0..3).map(|_| Peer::connect(server.port)).collect();
    for guesser in &mut guessers {
        assert!(!guess(guesser, "wrong") && !guess(guesser, "wrong again"));
    }
    // The last two attempts waited for the earlier ones; a concurrent attempt waits for all of
    // them.
    assert!(start.elapsed().as_millis() >= 200 + 400, "{:?}", start.elapsed());
    let mut guesser = Peer::connect(server.port);
    guesser.say("/login alice wrong");
    guesser.say("/login alice wrong");
    guesser.say("/ping after");
    let answers: Vec<String> = (0..3).map(|_| guesser.next()).collect();
    assert!(!is_password(&answers[0]) && !is_password(&answers[1]), "{answers:?}");
    assert_eq!(answers[2], "[PONG after]", "in order");
    let waited = start.elapsed().as_millis();
    assert!(waited >= 200 + 400 + 800 + 1600, "{waited}");
    // From another address the owner logs in at once; from this address the login is delayed.
    assert!(is_password(&log_in(server.port, "alice", "secret").1));
}

/// Opens `count` connections that send a line before login at once; returns the reply of each.
fn send_concurrently(port: u16, count: usize, line: impl Fn(usize) -> String) -> Vec<Peer> {
    let mut peers: Vec<Peer> = (0..count).map(|_| Peer::connect(port)).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.say(&line(number));
    }
    peers
}

#[test]
fn concurrent_wrong_passwords_are_bounded() {
    let server = Server::start_with(&["--guess-delay", "1h"]);
    let _alice = Peer::register(server.port, "alice", "secret");
    let (answered, answers) = mpsc::channel();
    for mut guesser in
        send_concurrently(server.port, 60, |number| format!("/login alice guess{number}"))
    {
        let answered = answered.clone();
        thread::spawn(move || {
            while let Some(line) = guesser.try_next() {
                let _ = answered.send(line.clone()); // delayed attempts are answered at the end
                if line.starts_with("[ERROR rate-limited]") {
                    guesser.say("/ping"); // and the connection still works
                }
            }
        });
    }
    // Four attempts are checked, eight are delayed by an hour, the others are refused.
    let answers: Vec<String> =
        (0..4 + 2 * 48).map(|_| answers.recv().expect("an answer")).collect();
    let count = |start: &str| answers.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("[ERROR bad-password]"), 4);
    assert_eq!(count("[ERROR rate-limited]"), 48);
    assert_eq!(count("[PONG]"), 48);
}

#[test]
fn delayed_attempts_survive_panic_during_one_before_them() {
    let server = Server::start_with(&["--guess-delay", "200ms", "--debug-panic"]);
    let _alice = Peer::register(server.port, "alice", "secret");
    let [mut guesser, mut mallory, mut alice] = [0; 3].map(|_| Peer::connect(server.port));
    for _ in 0..4 {
        guesser.say("/login alice wrong");
        assert!(guesser.next().starts_with("[ERROR bad-password] "));
    }
    mallory.say("/debug-panic later"); // when the outcome arrives
    mallory.next();
    mallory.say("/login alice wrong");
    guesser.say("/login alice wrong");
    mallory.rest();
    alice.say("/login alice secret");
    assert!(guesser.next().starts_with("[ERROR bad-password] "));
    assert!(is_password(&alice.next()));
}

#[test]
fn many_correct_logins_from_one_address_are_not_throttled() {
    let flags = ["--password-file", SESAME_FILE, "--guess-delay", "1h", "--limit-loopback"];
    let server = Server::start_with(&flags);
    for mut pupil in
        send_concurrently(server.port, 30, |number| format!("/login p{number} {SESAME}"))
    {
        pupil.hears(|line| line.starts_with("[WELCOME p"));
    }
}

#[test]
fn password_hashing_does_not_delay_messages() {
    let server = Server::start_with(&["--guess-delay", "100ms"]);
    for name in ["alice", "bob"] {
        Peer::register(server.port, name, "secret");
    }
    let mut many: Vec<Peer> = (0..20).map(|_| Peer::connect(server.port)).collect();
    for (at, peer) in many.iter_mut().enumerate() {
        let password = ["secret", "wrong"][at % 2];
        peer.say(&format!("/login {} {password}", ["alice", "bob"][at % 2]));
    }
    let mut carol = Peer::join(server.port, "carol");
    // Long before the last login is answered.
    for number in 0..50 {
        carol.say(&format!("{number}"));
        carol.hears(|line| line == format!("carol: {number}"));
    }
    let (mut bob, answer) = log_in(server.port, "bob", "secret");
    assert!(is_password(&answer));
    bob.settles();
}
