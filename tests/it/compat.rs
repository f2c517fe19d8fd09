//! Compatibility with an earlier version, of which `scripts/old_version.sh` builds the real binary:
//! each client with the other server, and the data folder of the old server.

use std::path::{Path, PathBuf};
use std::process::Command;

use chatty::protocol::{Event, Tags};

use crate::client_reconnect::{Pipe, lines_until};
use crate::proxy::Proxy;
use crate::support::{
    CHATTY, Peer, SESAME, SESAME_FILE, Server, Terminal, count, history, is_ci, join_by,
    report_skipped, text,
};

/// Returns the value of a variable in the script that builds the old version.
fn old(name: &str) -> &'static str {
    let script = include_str!("../../scripts/old_version.sh");
    let mut lines = script.lines().filter_map(|line| line.split_once('='));
    lines.find(|(left, _)| *left == name).expect(name).1
}

/// Returns the old binary. Without it the calling test must return; it is reported as skipped or,
/// if CI is set, fails.
fn old_version() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let folder = folder.join(format!("chatty-{}", old("VERSION"))).join(old("COMMIT"));
    let binary = folder.join("chatty");
    if !binary.exists() {
        let reason = format!("chatty {} is not built: scripts/old_version.sh", old("VERSION"));
        assert!(!is_ci(), "{reason}");
        report_skipped(&reason);
        return None;
    }
    Some(binary)
}

/// A server and a client of different versions.
struct Pair {
    server: PathBuf,
    client: PathBuf,
}

impl Pair {
    /// Both pairs; none if the calling test is skipped.
    fn both() -> Vec<Self> {
        let new = Path::new(CHATTY);
        let Some(old) = old_version() else { return Vec::new() };
        vec![
            Self { server: old.clone(), client: new.to_owned() },
            Self { server: new.to_owned(), client: old },
        ]
    }

    fn start(&self, flags: &[&str]) -> Server {
        Server::start_program(&self.server, flags)
    }

    fn join_terminal(&self, port: u16, args: &str) -> Option<Terminal> {
        let program = format!("'{}'", self.client.display());
        Terminal::join_by(&program, port, &format!("{args} --no-history"))
    }
}

/// Returns a line without what may differ between versions and runs: times, and texts after a
/// bracket or a usage.
fn shape(line: &str) -> String {
    assert!(Event::parse(line).is_some(), "not a line of the protocol: {line}");
    let (head, rest) = line.split_once(' ').unwrap_or((line, ""));
    match line.as_bytes()[0] {
        b'[' if !["[USERS", "[PRIVATE"].contains(&head) => {
            line.split_inclusive(']').next().unwrap_or_default().to_owned()
        }
        b'0'..=b'9' => format!("TIME {rest}"),
        b'/' => line.split("  ").next().unwrap_or_default().to_owned(),
        _ => line.to_owned(),
    }
}

/// Each line of the script, with the shapes of its answer.
const CONVERSATION: [(&str, &[&str]); 27] = [
    ("hi bob", &["alice: hi bob"]),
    ("/me waves", &["** alice waves"]),
    ("//slash", &["alice: /slash"]),
    ("/msg bob psst", &["[PRIVATE MESSAGE to bob] alice: psst", "[AWAY bob]"]),
    ("/away lunch", &["[AWAY on]"]),
    ("/back", &["[AWAY off]"]),
    ("/topic at noon", &["* alice set the topic: at noon"]),
    ("/topic", &["[TOPIC #lobby]"]),
    ("/whois alice", &["[WHOIS alice]"]),
    ("/join ops", &["[JOINED #ops]", "[USERS #ops 1] alice"]),
    ("in ops", &["#ops alice: in ops"]),
    ("/msg #lobby both", &["alice: both"]),
    ("/history 1", &["[HISTORY #ops 1]", "TIME #ops alice: in ops"]),
    ("/history bob", &["[HISTORY bob 1]", "TIME [PRIVATE MESSAGE to bob] alice: psst"]),
    ("/search WAVES", &["[SEARCH 1]", "TIME ** alice waves"]),
    ("/list", &["[ROOMS 2]", "[ROOM #lobby 2]", "[ROOM #ops 1]"]),
    ("/who #lobby", &["[USERS #lobby 2] alice,bob"]),
    ("/query bob", &["[QUERY bob]"]),
    ("to bob", &["[PRIVATE MESSAGE to bob] alice: to bob", "[AWAY bob]"]),
    ("/query", &["[QUERY off]"]),
    ("/mute bob 10m", &["[MUTED #ops bob]"]),
    ("/part", &["[PARTED #ops]"]),
    ("/ignore bob", &["[IGNORE bob]"]),
    ("/nick al", &["* alice is now al"]),
    ("/ping t1", &["[PONG t1]"]),
    ("/help reply", &["[HELP 3]", "/reply TEXT", "/r", "/reply on my way"]),
    ("/set", &["[SET echo=on joins=on tags=on]"]),
];

#[test]
fn piped_client_talks_to_server_of_other_version() {
    for pair in Pair::both() {
        let server = pair.start(&["--ephemeral"]);
        let mut bob = Peer::join(server.port, "bob");
        bob.say("/away gone");
        bob.hears(|line| line.starts_with("[AWAY on]"));
        let input: String = CONVERSATION.iter().flat_map(|(line, _)| [line, "\n"]).collect();
        let done = join_by(&pair.client, server.port, &["--name", "alice"], input.as_bytes());
        assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
        let login = ["[WELCOME alice]", "[USERS #lobby 2] alice,bob"];
        let answers = CONVERSATION.iter().flat_map(|(_, answer)| *answer);
        let shapes: Vec<_> = text(&done.stdout).lines().map(shape).collect();
        assert_eq!(shapes, login.iter().chain(answers).copied().collect::<Vec<_>>());
        let heard = [
            "* alice joined",
            "alice: hi bob",
            "** alice waves",
            "alice: /slash",
            "[PRIVATE MESSAGE] alice: psst",
            "* alice set the topic: at noon",
            "alice: both",
            "[PRIVATE MESSAGE] alice: to bob",
            "* alice is now al",
            "* al quit",
        ];
        assert_eq!(bob.settles(), heard);
    }
}

/// Checks that each row is of a known kind: dated, a notice, help, or indented below one of them.
fn assert_plain_rows(rows: &[String]) {
    let is_dated = |row: &String| matches!(row.as_bytes(), [b'0'..=b'2', _, b':', _, _, b' ', ..]);
    for row in rows {
        let is_other = ["-- ", "—— ", "/", "  "].iter().any(|start| row.starts_with(start));
        assert!(is_dated(row) || is_other, "{row}");
        for strange in ["@", "[FEATURES", "unknown-command", "ERROR", "\u{FFFD}"] {
            assert!(!row.contains(strange), "{strange} in {row}");
        }
    }
}

#[test]
fn terminal_client_talks_to_server_of_other_version() {
    for pair in Pair::both() {
        let server = pair.start(&["--ephemeral"]);
        let mut bob = Peer::join(server.port, "bob");
        let Some(alice) = pair.join_terminal(server.port, "--name alice") else { return };
        alice.shows_last("#lobby>");
        let does = |typed: &str, row: &str| {
            alice.types(&format!("{typed}\r"));
            alice.shows(row, |rows| count(rows, row) == 1);
        };
        does("hi bob", " alice: hi bob");
        does("/me waves", " ** alice waves");
        does("/msg bob psst", "[PRIVATE MESSAGE to bob] alice: psst");
        bob.say("hi alice");
        bob.say("/msg alice what?");
        alice.shows("bob's line", |rows| count(rows, " bob: hi alice") == 1);
        alice.shows("his answer", |rows| count(rows, " bob: what?") == 1);
        alice.types("/join ops\r");
        alice.shows_last("#ops>");
        does("in ops", "#ops alice: in ops");
        alice.types("/history 5 #ops\r");
        alice.shows("the history", |rows| count(rows, "#ops alice: in ops") == 2);
        alice.types("/help reply\r");
        alice.shows("the help", |rows| rows.iter().any(|row| row.contains("/reply on my way")));
        alice.types("/help\r");
        alice.shows("all of it", |rows| rows.iter().any(|row| row.starts_with("/gbans")));
        alice.types("/query bob\r");
        alice.shows_last("bob>");
        alice.types("/whois bob\r/who #lobby\r/list\r/query\r");
        let rows = alice.shows_last("#ops>");
        assert_plain_rows(&rows);
        alice.types("/quit\r");
        alice.ends_with(0);
        let heard = bob.settles();
        let heard: Vec<_> = heard.iter().map(String::as_str).collect();
        let own = ["bob: hi alice", "[PRIVATE MESSAGE to alice] bob: what?"];
        let others: Vec<_> = heard.into_iter().filter(|line| !own.contains(line)).collect();
        let said = ["* alice joined", "alice: hi bob", "** alice waves"];
        assert_eq!(
            others,
            [&said[..], &["[PRIVATE MESSAGE] alice: psst", "* alice quit"]].concat()
        );
    }
}

/// Sends lines before and during an interruption of the server, and checks that all are delivered
/// once and in order. `restart` ends the server and starts another one on the same port and folder.
fn assert_no_loss(pair: &Pair, restart: impl FnOnce(Server, &[&str]) -> Server) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = ["--data", folder.path().to_str().expect("a plain path")];
    let server = pair.start(&data);
    let port = server.port;
    let mut pipe =
        Pipe::start_by(&pair.client, port, &["--name", "tail", "--room", "ops", "--raw"]);
    (0..200).for_each(|n| pipe.say(&format!("line {n}.")));
    let mut out = lines_until(&pipe.out, " line 40.");
    let port_flags = ["--port", &port.to_string()];
    let server = restart(server, &[&port_flags[..], &data[..]].concat());
    (200..400).for_each(|n| pipe.say(&format!("line {n}.")));
    let (exit, rest, errors) = pipe.end();
    assert_eq!(exit, Some(0), "{errors:?}");
    let last = errors.last().expect("a notice");
    let is_back = ["chatty: reconnected after ", "chatty: back after "];
    assert!(is_back.iter().any(|start| last.starts_with(start)), "{errors:?}");
    assert!(!last.contains("session") && !last.contains("visit"), "resumed: {last}");
    out.extend(rest);
    let said: Vec<_> = out.iter().filter_map(|line| line.strip_prefix("#ops tail: ")).collect();
    let lines: Vec<_> = (0..400).map(|n| format!("line {n}.")).collect();
    assert_eq!(said, lines);
    let stored = history(server.port, "ops");
    let stored: Vec<_> =
        stored.iter().filter_map(|(_, it)| it.strip_prefix("#ops tail: ")).collect();
    assert_eq!(stored, lines);
}

#[test]
fn piped_client_survives_crash_of_server_of_other_version_without_loss() {
    for pair in Pair::both() {
        assert_no_loss(&pair, |mut server, flags| {
            server.kill();
            pair.start(flags)
        });
    }
}

#[test]
fn session_continues_without_loss_when_server_is_upgraded() {
    let Some(old) = old_version() else { return };
    for client in [old.as_path(), Path::new(CHATTY)] {
        let pair = Pair { server: old.clone(), client: client.to_owned() };
        assert_no_loss(&pair, |server, flags| {
            assert_eq!(server.stops().0, Some(0));
            Server::start_program(Path::new(CHATTY), flags)
        });
    }
}

#[test]
fn terminal_client_resumes_at_server_of_other_version() {
    for pair in Pair::both() {
        let server = pair.start(&["--ephemeral"]);
        let proxy = Proxy::start(server.port);
        let mut bob = Peer::join(server.port, "bob");
        let Some(alice) = pair.join_terminal(proxy.port, "--name alice") else { return };
        alice.shows_last("#lobby>");
        alice.types("before\r");
        bob.hears(|line| line == "alice: before");
        alice.shows("her line", |rows| count(rows, " alice: before") == 1);
        proxy.cut();
        alice.shows_last("lost #lobby>");
        alice.types("meanwhile\rdraft");
        alice.shows_last("lost #lobby> draft");
        bob.say("one");
        bob.say("/msg alice two");
        bob.settles();
        proxy.mend();
        alice.shows("what waited", |rows| count(rows, " alice: meanwhile") == 1);
        let rows = alice.shows_last("#lobby> draft");
        assert_plain_rows(&rows);
        let order = ["alice: before", "—— 2 missed ——", "bob: one", "bob: two", "alice: meanwhile"];
        let at = |text: &&str| rows.iter().position(|row| row.ends_with(text)).expect(text);
        assert!(order.iter().map(at).is_sorted(), "{rows:?}");
        assert!(order.iter().all(|text| count(&rows, text) == 1), "{rows:?}");
        let is_new = |row: &String| row.contains("new session") || row.contains("new visit");
        assert!(!rows.iter().any(is_new), "{rows:?}");
        alice.types(" two\r/quit\r");
        alice.ends_with(0);
        let heard = bob.settles();
        assert_eq!(heard, ["alice: meanwhile", "alice: draft two", "* alice quit"]);
    }
}

/// Starts a server of this version or the old one in a folder, with an operator password.
fn start_in(program: &Path, folder: &Path) -> Server {
    let data = folder.to_str().expect("a plain path");
    Server::start_program(program, &["--data", data, "--oper-password-file", SESAME_FILE])
}

/// Logs in to an account; returns the lines of the login, too.
fn log_in(port: u16, name: &str) -> (Peer, Vec<String>) {
    let mut peer = Peer::connect(port);
    peer.say(&format!("/login {name} {SESAME}"));
    let lines = peer.settles();
    (peer, lines)
}

/// Returns the shapes of the answer to a line, without events.
fn answer(peer: &mut Peer, line: &str) -> Vec<String> {
    peer.say(line);
    let lines = peer.settles();
    let is_event = |line: &&String| line.starts_with("* ") || line.starts_with("#ops * ");
    lines.iter().filter(|line| !is_event(line)).map(|line| shape(line)).collect()
}

/// Fills the data folder of a server; returns the token of carol's session and the id of the last
/// message that she has seen.
fn fill(server: &Server) -> (String, u64) {
    let mut alice = Peer::register(server.port, "alice", SESAME);
    let mut bob = Peer::register(server.port, "bob", SESAME);
    let mut carol = Peer::join(server.port, "carol");
    alice.say("Wo ist die Straße?");
    alice.say("/msg bob a secret");
    alice.settles();
    carol.say("/set tags on\n/away lunch\n/session\n/join ops\nfirst in ops");
    let session = carol.hears(|line| line.starts_with("[SESSION "));
    let token = session["[SESSION ".len()..].split(']').next().expect("a token").to_owned();
    let seen = carol.hears(|line| line.ends_with("carol: first in ops"));
    let id = Tags::split(&seen).0.id.expect("an id");
    bob.say("/join ops\n/query alice");
    bob.settles();
    carol.say("/op bob");
    bob.hears(|line| line.ends_with("made bob an operator"));
    alice.say(&format!("/oper {SESAME}\n/gban 198.51.100.0/24 7d spam"));
    alice.say("/join ops\nsecond in ops\n/topic of age\n/ban 192.0.2.0/24 7d no bots\n/mute bob");
    alice.say("/lock the key");
    alice.settles();
    bob.say("/quit");
    bob.rest();
    alice.say("/msg bob this waits");
    assert!(alice.settles().iter().any(|line| line.starts_with("[OFFLINE bob]")));
    (token, id)
}

/// The session is resumed with its state and the messages after the last one that was read. Returns
/// its connection, which keeps #ops from ending.
fn assert_session(server: &Server, token: &str, after: u64) -> Peer {
    let mut carol = Peer::connect(server.port);
    carol.say(&format!("/resume {token} {after}"));
    let missed = carol.settles();
    assert!(missed[0].starts_with("[WELCOME carol]"), "{missed:?}");
    let missed: Vec<_> = missed[1..].iter().map(|line| Tags::split(line).1).collect();
    assert_eq!(missed, ["#ops alice: second in ops"]);
    carol.say("/whois carol");
    let state = carol.hears(|line| line.starts_with("[WHOIS carol]"));
    assert!(state.ends_with(" rooms=#lobby,#ops operator=#ops away=lunch"), "{state}");
    carol
}

/// Operators, bans, the topic, the lock and the mute are there.
fn assert_moderation(server: &Server, alice: &mut Peer, bob: &mut Peer) {
    assert_eq!(answer(alice, "/gbans"), ["[BANS * 1]", "[BAN * 198.51.100.0/24]"]);
    assert_eq!(answer(alice, "/join ops")[..2], ["[JOINED #ops]", "[TOPIC #ops]"]);
    assert_eq!(answer(alice, "/bans"), ["[BANS #ops 1]", "[BAN #ops 192.0.2.0/24]"]);
    let mut other = Peer::join(server.port, "other");
    assert_eq!(answer(&mut other, "/join ops"), ["[ERROR forbidden]"]);
    assert_eq!(answer(&mut other, "/join ops the key")[0], "[JOINED #ops]");
    assert_eq!(answer(bob, "/join ops")[0], "[JOINED #ops]", "an operator");
    assert_eq!(answer(bob, "hello"), ["[ERROR muted]"]);
}

#[test]
fn data_folder_of_old_version_is_opened_complete() {
    let Some(old) = old_version() else { return };
    for is_crash in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = start_in(&old, folder.path());
        let (token, last) = fill(&server);
        let lobby = history(server.port, "lobby");
        assert_eq!(lobby.len(), 1);
        if is_crash {
            server.kill();
        } else {
            assert_eq!(server.stops().0, Some(0));
        }

        let server = start_in(Path::new(CHATTY), folder.path());
        let _carol = assert_session(&server, &token, last);
        assert_eq!(history(server.port, "lobby"), lobby, "with the same ids");
        let mut stranger = Peer::connect(server.port);
        assert_eq!(answer(&mut stranger, "/login bob wrong"), ["[ERROR bad-password]"]);
        let (mut bob, login) = log_in(server.port, "bob");
        let mail = login.last().map(|line| shape(line));
        assert_eq!(mail.as_deref(), Some("TIME [PRIVATE MESSAGE] alice: this waits"), "{login:?}");
        let thread = ["[HISTORY alice 2]", "TIME [PRIVATE MESSAGE] alice: a secret"];
        assert_eq!(answer(&mut bob, "/history alice")[..2], thread);
        let (mut alice, _) = log_in(server.port, "alice");
        // A word that only the index of this version finds.
        let found = ["[SEARCH 1]", "TIME alice: Wo ist die Straße?"];
        assert_eq!(answer(&mut alice, "/search STRASSE"), found);
        assert_moderation(&server, &mut alice, &mut bob);
    }
}

#[test]
fn old_version_refuses_data_folder_of_this_version() {
    let Some(old) = old_version() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = start_in(Path::new(CHATTY), folder.path());
    Peer::join(server.port, "alice").say("hello");
    assert_eq!(server.stops().0, Some(0));
    let mut command = Command::new(old);
    command.args(["serve", "--port", "0", "--bind", "127.0.0.1", "--data"]).arg(folder.path());
    let output = command.output().expect("the old version");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(": it was written by a newer chatty; "), "{said}");
    let server = start_in(Path::new(CHATTY), folder.path());
    assert_eq!(history(server.port, "lobby").len(), 1);
}
