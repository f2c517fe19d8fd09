//! Cids: repeated, malformed, by the million, and resent to a restarted server: row 25.

use std::io::Write as _;
use std::thread;
use std::time::Duration;

use super::watch::{Watch, is_presence, scale};
use super::{id_and_line, session, watched};
use crate::support::{Peer, Server, history};

#[test]
fn n25_repeated_and_malformed_cids() {
    let may_hear = |line: &str| line == "mallory: one" || is_presence(line, &["mallory"]);
    let received = watched(&[], may_hear, |port| {
        let mut mallory = Peer::join(port, "mallory");
        mallory.say("/set tags on");
        mallory.settles_tagged();
        mallory.say("@cid=a one");
        let first = mallory.hears(|line| line.contains("mallory: one"));
        for again in ["@cid=a one", "@cid=a another"] {
            mallory.say(again);
            assert_eq!(mallory.hears(|line| line.contains("cid=a")), first);
        }
        for bad in ["@cid= x", "@cid=a b", "@cid=!! x", &format!("@cid={} x", "a".repeat(33))] {
            mallory.say(bad);
            let said = mallory.hears(|line| !line.contains("canary"));
            let is_text = said.contains("mallory: b"); // a cid seen before
            assert!(
                said.contains("[ERROR bad-argument]") || is_text || said == first,
                "{bad}: {said}"
            );
        }
    });
    assert_eq!(received.iter().filter(|line| *line == "mallory: one").count(), 1);
}

/// A large number of distinct cids; the first is still deduplicated, as long as the log contains
/// its message.
#[test]
fn n25_million_cids() {
    let count = scale(1_000_000, 10_000);
    let may_hear = |line: &str| line.starts_with("mallory: m") || is_presence(line, &["mallory"]);
    let folder = tempfile::tempdir().expect("a folder");
    let watch = Watch::begin_in(folder.path(), &[]).allow_work_for(Duration::from_mins(5));
    let mut mallory = Peer::join(watch.port(), "mallory");
    mallory.say("/set tags on");
    mallory.settles_tagged();
    let mut talking = mallory.socket().try_clone().expect("a socket");
    let talking = thread::spawn(move || {
        for start in (0..count).step_by(1000) {
            let lines = (start..start + 1000).map(|number| format!("@cid=m{number} m{number}\n"));
            talking.write_all(lines.collect::<String>().as_bytes()).expect("said");
        }
    });
    let mut first = 0;
    for number in 0..count {
        let said = mallory.next();
        let (id, line) = id_and_line(&said);
        assert_eq!(line, format!("mallory: m{number}"));
        first = if number == 0 { id } else { first };
    }
    talking.join().expect("everything is sent");
    mallory.say("@cid=m0 m0");
    assert_eq!(id_and_line(&mallory.next()), (first, "mallory: m0"));
    drop(mallory);
    let received = watch.end(may_hear);
    let said = received.iter().filter(|line| line.starts_with("mallory: m"));
    assert!(said.cloned().eq((0..count).map(|number| format!("mallory: m{number}"))), "each once");
}

/// Lines resent after a crash or a stop are posted once.
#[test]
fn n25_resent_lines_are_deduplicated_after_crash_or_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set tags on");
    let token = session(&mut alice);
    let mut known = Vec::new();
    let rounds = scale(40, 6);
    for round in 0..rounds {
        let line = format!("@cid=m{round} m{round}");
        alice.say(&line);
        // Half of the lines are acknowledged; the outcome of the others is unknown.
        let before = (round % 4 < 2).then(|| answer_to(&mut alice, round));
        if round % 2 == 0 {
            server.kill();
        } else {
            server.signal("TERM");
            server.wait();
        }
        server = Server::start_in(folder.path(), &[]);
        alice = Peer::connect(server.port);
        alice.say(&format!("/resume {token} 0"));
        alice.settles();
        alice.say(&line);
        let after = answer_to(&mut alice, round);
        assert!(before.is_none_or(|before| before == after), "{before:?}, then {after}");
        known.push((after, format!("alice: m{round}")));
    }
    assert_eq!(history(server.port, "lobby"), known);
    // Resend all of them once more, with canaries.
    let watch = Watch::over(server);
    for (round, (id, _)) in known.iter().enumerate() {
        alice.say(&format!("@cid=m{round} something else"));
        assert_eq!(answer_to(&mut alice, round), *id);
    }
    drop(alice);
    watch.end(|line| is_presence(line, &["alice"]));
}

/// Returns the id in the echo of a line with a cid.
fn answer_to(alice: &mut Peer, round: usize) -> u64 {
    let line = alice.hears(|line| line.contains(&format!(";cid=m{round} ")));
    let (id, line) = id_and_line(&line);
    assert_eq!(line, format!("alice: m{round}"));
    id
}
