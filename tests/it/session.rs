//! Sessions on the real server: resume after a drop, a restart, and a crash.

use crate::support::{Peer, Server};

/// Logs in and requests a session; returns its token.
fn with_session(port: u16, name: &str) -> (Peer, String) {
    let mut peer = Peer::join(port, name);
    peer.say("/set tags on");
    let token = session(&mut peer);
    (peer, token)
}

fn session(peer: &mut Peer) -> String {
    peer.say("/session");
    let line = peer.hears(|line| line.starts_with("[SESSION "));
    line["[SESSION ".len()..].split(']').next().expect("a token").to_owned()
}

/// Resumes a session; returns the lines received before a `/ping` barrier, without time tags.
fn resume(port: u16, token: &str, after: u64) -> (Peer, Vec<String>) {
    let mut peer = Peer::connect(port);
    peer.say(&format!("/resume {token} {after}"));
    let lines = peer.settles();
    (peer, lines)
}

/// Splits a tagged message into its id and the line without tags.
fn id_and_line(line: &str) -> (u64, &str) {
    let (tags, line) = line.strip_prefix("@id=").and_then(|l| l.split_once(' ')).expect(line);
    (tags.split(';').next().and_then(|id| id.parse().ok()).expect(line), line)
}

#[test]
fn session_request_repeats_the_token_of_the_session_and_no_other() {
    let server = Server::start();
    let (mut alice, token) = with_session(server.port, "alice");
    assert_eq!(session(&mut alice), token);
    let mut peer = Peer::connect(server.port);
    peer.say("/set tags on\n@cid=1 /resume chosen 0");
    peer.hears(|line| line.starts_with("@cid=1 [ERROR bad-password] "));
    peer.say(&format!("@cid=2 /resume {token} 0"));
    peer.hears(|line| line.starts_with("@cid=2 [WELCOME alice] "));
    peer.say("/resume chosen 0");
    peer.hears(|line| line.starts_with("[ERROR bad-argument] "));
    assert_eq!(session(&mut peer), token);
    let mut peer = Peer::connect(server.port);
    peer.say("/resume chosen 0\n/login bob");
    peer.hears(|line| line.starts_with("[WELCOME bob] "));
    let bobs = session(&mut peer);
    assert!(bobs != "chosen" && bobs != token && bobs.len() == token.len(), "{bobs}");
}

#[test]
fn session_survives_crash_with_its_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let (mut bob, token) = with_session(server.port, "Bob");
    let (mut alice, alices) = with_session(server.port, "alice");
    let (mut carol, carols) = with_session(server.port, "carol");
    bob.say("/join #Ops");
    bob.say("/ignore carol");
    bob.say("/set joins off");
    bob.say("/away at lunch");
    bob.say("/query alice");
    bob.settles();
    alice.say("/join ops");
    alice.say("@cid=a1 one");
    alice.settles();
    carol.say("hidden");
    carol.settles();
    bob.hears(|line| line.ends_with("#Ops alice: one"));
    server.kill();

    let server = Server::start_in(folder.path(), &[]);
    let (mut alice, lines) = resume(server.port, &alices, 1);
    assert_eq!(lines[0], "[WELCOME alice] you are back");
    assert_eq!(id_and_line(&lines[1]).1, "carol: hidden");
    assert_eq!(lines.len(), 2, "{lines:?}");
    alice.say("@cid=a1 one");
    let (id, line) = (1, "#Ops alice: one");
    assert_eq!(id_and_line(&alice.next()), (id, line), "the first copy, and no other");
    alice.say("two");
    let line = alice.next();
    let (two, line) = id_and_line(&line);
    assert_eq!((two > 2, line), (true, "#Ops alice: two"));
    let (mut carol, _) = resume(server.port, &carols, 2);
    carol.say("/msg bob hidden too");
    carol.settles();
    alice.say("/who");
    assert_eq!(alice.next(), "[USERS #Ops 2] alice,Bob", "the drop is not announced");

    let (mut bob, lines) = resume(server.port, &token, 0);
    assert_eq!(lines[0], "[WELCOME Bob] you are back");
    let lines: Vec<_> = lines[1..].iter().map(|line| id_and_line(line)).collect();
    assert_eq!(lines, [(1, "#Ops alice: one"), (two, "#Ops alice: two")]);
    bob.say("/set");
    assert_eq!(bob.next(), "[SET echo=on joins=off tags=on]");
    bob.say("/ignore");
    assert_eq!(bob.next(), "[IGNORED 1] carol");
    bob.say("to whom he talked");
    assert_eq!(id_and_line(&bob.next()).1, "[PRIVATE MESSAGE to alice] Bob: to whom he talked");
    alice.hears(|line| line.ends_with(" [PRIVATE MESSAGE] Bob: to whom he talked"));
    alice.say("/msg bob hi");
    alice.hears(|line| line == "[AWAY Bob] at lunch");
    bob.say("/query");
    bob.say("to the room");
    alice.hears(|line| line.ends_with(" #Ops Bob: to the room"));
    alice.say("/kick bob");
    assert_eq!(alice.next(), "[ERROR forbidden] only operators of #Ops can do this; ask Bob");
    bob.say("/kick alice");
    alice.hears(|line| line.ends_with("[KICKED #Ops] Bob"));
}

#[test]
fn unresumed_session_expires_after_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_in(folder.path(), &[]);
    let (mut bob, token) = with_session(server.port, "bob");
    let (mut gone, gones) = with_session(server.port, "gone");
    gone.say("/quit");
    gone.rest();
    server.signal("TERM");
    assert!(bob.rest().last().is_some_and(|line| line.starts_with("[BYE shutting-down]")));
    assert_eq!(server.wait(), Some(0));

    let server = Server::start_in(folder.path(), &["--session-grace", "2s"]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/who");
    assert_eq!(alice.next(), "[USERS #lobby 2] alice,bob", "who said /quit is not expected back");
    assert_eq!(resume(server.port, &gones, 0).1[0][..21], *"[ERROR bad-password] ");
    alice.hears(|line| line == "* bob quit");
    assert_eq!(resume(server.port, &token, 0).1[0][..21], *"[ERROR bad-password] ");
    Peer::join(server.port, "bob");
}

#[test]
fn cid_is_deduplicated_while_its_message_is_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_in(folder.path(), &["--history-messages", "2"]);
    let (mut alice, _) = with_session(server.port, "alice");
    let mut bob = Peer::join(server.port, "bob");
    for number in 1..=5 {
        alice.say(&format!("@cid=m{number} line {number}"));
    }
    alice.settles();
    alice.say("@cid=m1 line 1");
    assert_eq!(id_and_line(&alice.next()), (1, "alice: line 1"));
    alice.say("and on");
    assert_eq!(id_and_line(&alice.next()).1, "alice: and on");
    assert_eq!(bob.settles().iter().filter(|line| *line == "alice: line 1").count(), 1);
}

#[test]
fn messages_during_resume_arrive_exactly_once() {
    const LINES: usize = 2000;
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_in(folder.path(), &[]);
    let (mut bob, token) = with_session(server.port, "bob");
    let port = server.port;
    let talking = std::thread::spawn(move || {
        let mut alice = Peer::join(port, "alice");
        for number in 0..LINES {
            alice.say(&format!("line {number}"));
            if number % 50 == 0 {
                alice.settles();
            }
        }
        alice.settles();
    });
    let (mut seen, mut last) = (Vec::new(), 0);
    // After every few lines the connection drops and a new one resumes the session.
    for breaks in 0.. {
        for _ in 0..37 + breaks {
            let line = bob.hears(|line| line.starts_with("@id="));
            let (id, line) = id_and_line(&line);
            assert!(id > last, "{id} after {last}");
            last = id;
            seen.push(line.to_owned());
            if seen.len() == LINES {
                break;
            }
        }
        if seen.len() == LINES {
            break;
        }
        bob = Peer::connect(port);
        bob.say(&format!("/resume {token} {last}"));
        bob.hears(|line| line.starts_with("[WELCOME bob]"));
    }
    talking.join().expect("alice");
    let said: Vec<String> = (0..LINES).map(|number| format!("alice: line {number}")).collect();
    assert_eq!(seen, said);
}

#[test]
fn session_in_thousand_rooms_is_restored_after_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set tags on\n/session");
    let session = alice.hears(|line| line.starts_with("[SESSION "));
    let token = session["[SESSION ".len()..].split(']').next().expect("a token").to_owned();
    // Every line creates a room, which then ends.
    let lines = (0..1200).map(|n| format!("/join r{n}\nline {n}.\n/part\n"));
    alice.send(lines.collect::<String>().as_bytes());
    alice.settles_tagged();
    server.kill();
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::connect(server.port);
    alice.say(&format!("/resume {token} 0"));
    for n in 0..1200 {
        assert_eq!(
            alice.hears(|line| line.contains("line ")).split(' ').nth(1),
            Some(&*format!("#r{n}"))
        );
    }
    alice.settles_tagged();
}
