//! Mail on the real server: it waits until the client has sent something after it, whatever happens
//! to the connection or to the server.

use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;

use crate::support::{Peer, Server, Terminal};

const PASSWORD: &str = "open sesame";

/// Resets a connection, as when a program crashes or a laptop disappears.
fn reset(server: &Server, peer: Peer) {
    let before = server.count_sockets();
    SockRef::from(peer.socket()).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(peer);
    server.waits_for_fewer_sockets(before);
}

fn begin_login(server: &Server) -> Peer {
    let mut alice = Peer::connect(server.port);
    alice.say(&format!("/login alice {PASSWORD}"));
    alice
}

/// Logs alice in and out; returns the texts of her mail.
fn fetch(server: &Server) -> Vec<String> {
    let mut alice = begin_login(server);
    alice.hears(|line| line.starts_with("[USERS #lobby "));
    let mail = alice.settles();
    alice.say("/quit");
    alice.rest();
    let text = |row: &String| row.split_once("bob: ").expect("mail from bob").1.to_owned();
    mail.iter().map(text).collect()
}

/// A server with the account alice, who is offline, and bob.
fn server_with_alice(flags: &[&str]) -> (Server, Peer) {
    let server = Server::start_with(flags);
    let mut alice = Peer::register(server.port, "alice", PASSWORD);
    alice.say("/quit");
    alice.rest();
    let bob = Peer::join(server.port, "bob");
    (server, bob)
}

#[test]
fn mail_survives_reset_of_login_that_sends_nothing_after_it() {
    let (server, mut bob) = server_with_alice(&[]);
    for text in ["one", "two"] {
        bob.say(&format!("/msg alice {text}"));
    }
    bob.settles();
    reset(&server, begin_login(&server));
    let mut alice = begin_login(&server);
    alice.hears(|line| line.ends_with("bob: two"));
    reset(&server, alice);
    // Lines that were sent with the login do not confirm what comes after it.
    let mut alice = Peer::connect(server.port);
    alice.say(&format!("/login alice {PASSWORD}\n/who\n/ping done"));
    alice.hears(|line| line == "[PONG done]");
    reset(&server, alice);
    assert_eq!(fetch(&server), ["one", "two"]);
    assert_eq!(fetch(&server), Vec::<String>::new());
}

#[test]
fn resumed_session_that_does_not_read_loses_no_mail() {
    let server = Server::start_with(&["--session-grace", "1s"]);
    let mut bob = Peer::join(server.port, "bob");
    let mut alice = Peer::register(server.port, "alice", PASSWORD);
    alice.say("/session");
    let answer = alice.hears(|line| line.starts_with("[SESSION "));
    let token = answer.split([' ', ']']).nth(1).expect("a token").to_owned();
    reset(&server, alice);
    let texts: Vec<String> =
        (0..400).map(|number| format!("{number} {}", "x".repeat(2000))).collect();
    for text in &texts {
        bob.say(&format!("/msg alice {text}"));
    }
    bob.settles();
    let mut alice = Peer::connect(server.port);
    alice.say(&format!("/resume {token} 0\n/ping"));
    alice.hears(|line| line == "[WELCOME alice] you are back");
    reset(&server, alice);
    bob.hears(|line| line == "* alice quit");
    assert_eq!(fetch(&server), texts);
    assert_eq!(fetch(&server), Vec::<String>::new());
}

#[test]
fn script_that_only_logs_in_gets_mail_once() {
    let (server, mut bob) = server_with_alice(&[]);
    bob.say("/msg alice once");
    bob.settles();
    let fetch_by_script = || {
        let mut alice = begin_login(&server);
        alice.socket().shutdown(Shutdown::Write).expect("shutdown");
        alice.rest().iter().filter(|line| line.ends_with("bob: once")).count()
    };
    assert_eq!(fetch_by_script(), 1);
    Terminal::waits("the mail is confirmed", || fetch_by_script() == 0);
}

#[test]
fn message_to_connected_account_survives_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::register(server.port, "alice", PASSWORD);
    let mut bob = Peer::join(server.port, "bob");
    bob.say("/msg alice read");
    alice.hears(|line| line.ends_with("bob: read"));
    alice.settles();
    bob.say("/msg alice perhaps read");
    alice.hears(|line| line.ends_with("bob: perhaps read"));
    server.kill();
    let mut server = Server::start_in(folder.path(), &[]);
    let mail = fetch(&server);
    assert_eq!(mail.last().map(String::as_str), Some("perhaps read"));
    server.kill();
    let server = Server::start_in(folder.path(), &[]);
    assert_eq!(fetch(&server), Vec::<String>::new(), "what is confirmed is stored");
}
