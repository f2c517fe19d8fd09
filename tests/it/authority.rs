//! Who may what: every command, said by who has not logged in, by a guest in
//! somebody else's room, and by the room's operator.

use std::net::Shutdown;

use chatty::commands;

use crate::support::{Peer, Server};

/// What is for operators only; all else is for everybody who is logged in.
const FOR_OPERATORS: &[&str] =
    &["op", "deop", "kick", "ban", "unban", "bans", "mute", "unmute", "lock", "unlock", "invite"];

/// What is for everybody who is connected.
const FOR_ANYBODY: &[&str] = &["help", "login", "set", "ping", "resume", "version", "quit"];

/// Says a line, and tells whether it was answered with this refusal.
fn is_refused(mut peer: Peer, line: &str, code: &str) -> bool {
    peer.say(line);
    peer.socket().shutdown(Shutdown::Write).expect("shutdown");
    let answers = peer.rest();
    answers.iter().any(|answer| answer.starts_with(&format!("[ERROR {code}]")))
}

fn in_ops(port: u16, name: &str) -> Peer {
    let mut peer = Peer::join(port, name);
    peer.say("/join ops");
    peer.settles();
    peer
}

#[test]
fn every_command_is_for_whom_it_is_meant_and_nobody_else() {
    for row in commands::TABLE {
        let (name, line) = (row.name, row.examples[0]);
        let server = Server::start();
        let operator = in_ops(server.port, "alice");
        let _bob = in_ops(server.port, "bob");
        let guest = in_ops(server.port, "carol");
        let stranger = Peer::connect(server.port);

        let needs_login = !FOR_ANYBODY.contains(&name);
        assert_eq!(is_refused(stranger, line, "not-logged-in"), needs_login, "{line}: stranger");
        let needs_right = FOR_OPERATORS.contains(&name);
        assert_eq!(is_refused(guest, line, "forbidden"), needs_right, "{line}: guest");
        assert!(!is_refused(operator, line, "forbidden"), "{line}: operator");
    }
}
