//! Who may what: every command, said by who has not logged in, by a guest and an
//! account in somebody else's room, by the room's operator and by the server's.

use std::net::Shutdown;

use chatty::commands;

use crate::support::{Peer, SESAME, SESAME_FILE, Server};

/// Who a command is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum For {
    /// Everybody who is connected.
    Anybody,
    /// Everybody who is logged in.
    Visitors,
    /// The operators of a room, and of the server.
    RoomOperators,
    /// The operators of the server.
    ServerOperators,
}

use For::{Anybody, RoomOperators, ServerOperators, Visitors};

/// Every command; one that is not here fails the test.
const TABLE: &[(For, &[&str])] = &[
    (Anybody, &["help", "login", "set", "ping", "resume", "version", "quit"]),
    (
        Visitors,
        &[
            "msg",
            "reply",
            "query",
            "me",
            "who",
            "whois",
            "join",
            "part",
            "list",
            "topic",
            "history",
            "search",
            "nick",
            "away",
            "back",
            "ignore",
            "unignore",
            "register",
            "passwd",
            "unregister",
            "session",
            "oper",
        ],
    ),
    (
        RoomOperators,
        &[
            "op", "deop", "kick", "ban", "unban", "bans", "mute", "unmute", "lock", "unlock",
            "invite",
        ],
    ),
    (ServerOperators, &["wall", "kill", "gban", "gunban", "gbans"]),
];

fn who_may(name: &str) -> For {
    let row = TABLE.iter().find(|(_, names)| names.contains(&name));
    row.unwrap_or_else(|| panic!("/{name}: who may?")).0
}

/// Says a line, and tells with which of these it was refused, if it was.
fn refusal(mut peer: Peer, line: &str) -> Option<&'static str> {
    peer.say(line);
    peer.socket().shutdown(Shutdown::Write).expect("shutdown");
    let answers = peer.rest();
    let is_said = |code: &&str| answers.iter().any(|a| a.starts_with(&format!("[ERROR {code}]")));
    ["not-logged-in", "forbidden"].into_iter().find(is_said)
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
        let (needs, line) = (who_may(row.name), row.examples[0]);
        let server = Server::start_with(&["--oper-password-file", SESAME_FILE]);
        let port = server.port;
        let operator = in_ops(port, "alice");
        let _bob = in_ops(port, "bob");
        let guest = in_ops(port, "carol");
        let mut account = in_ops(port, "dave");
        account.say("/register open sesame");
        account.settles();
        let mut ruler = in_ops(port, "erin");
        ruler.say(&format!("/oper {SESAME}"));
        ruler.hears(|line| line.starts_with("[OPER erin]"));
        let who = [
            (Anybody, Peer::connect(port), "stranger"),
            (Visitors, guest, "guest"),
            (Visitors, account, "account"),
            (RoomOperators, operator, "room operator"),
            (ServerOperators, ruler, "server operator"),
        ];
        for (is, peer, name) in who {
            let expected = match is {
                _ if is >= needs => None,
                Anybody => Some("not-logged-in"),
                _ => Some("forbidden"),
            };
            assert_eq!(refusal(peer, line), expected, "{line}: {name}");
        }
    }
}
