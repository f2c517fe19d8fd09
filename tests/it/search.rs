//! `/search` on the real server: the log in memory and the one on disk find the
//! same, before and after the words are in the index.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::{Peer, Server};

const SAID: [&str; 12] = [
    "Deploy failed: build-128",
    "deploy of 128 went well",
    "\"quoted\" AND NOT near(x*)",
    "search:words {a} ^b + c",
    "rowid words search",
    "ÄPFEL und Café",
    "Привет, МИР",
    "今日は rust 1.0 です",
    "?! 👩‍💻 --",
    "it's '; DROP TABLE messages; --",
    "_under_ dotted.name dash-ed",
    "\u{FFFD}\u{E000}lobby",
];

/// Searches and how many of the lines above they find.
const SEARCHES: [(&str, usize); 26] = [
    ("deploy", 2),
    ("DEPLOY 128", 2),
    ("128 deploy failed", 1),
    ("dep", 0),
    ("deploy*", 2),
    ("\"deploy of\"", 1),
    ("\"of deploy\"", 1),
    ("NOT quoted", 1),
    ("deploy OR quoted", 0),
    ("NEAR(x", 1),
    ("words:search", 2),
    ("rowid:1", 0),
    ("{a} ^b", 1),
    ("äpfel", 1),
    ("apfel", 0),
    ("CAFÉ und", 1),
    ("мир привет", 1),
    ("日", 1),
    ("は今", 1),
    ("RUST 0", 1),
    ("👩‍💻", 0),
    ("--", 0),
    ("'; DROP", 1),
    ("name under", 1),
    ("\u{E000}lobby", 1),
    ("lobby", 1),
];

/// What a search finds, without times.
fn search(peer: &mut Peer, text: &str) -> Vec<String> {
    peer.say(&format!("/search {text}"));
    let header = peer.hears(|line| line.starts_with("[SEARCH ") || line.starts_with("[ERROR "));
    let count = header.trim_start_matches("[SEARCH ").trim_end_matches(']');
    let count = count.parse().unwrap_or_else(|_| panic!("{text}: {header}"));
    (0..count).map(|_| peer.next().split_once(' ').expect("a row").1.to_owned()).collect()
}

fn indexed(folder: &Path) -> Connection {
    let log = Connection::open(folder.join("chatty.db")).expect("the log");
    log.busy_timeout(Duration::from_secs(10)).expect("patience");
    let start = Instant::now();
    let number = |sql| log.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql);
    while number("SELECT number FROM last WHERE what = 'indexed'")
        < number("SELECT max(id) FROM messages")
    {
        assert!(start.elapsed() < Duration::from_secs(30), "never indexed");
        thread::sleep(Duration::from_millis(20));
    }
    log
}

/// As many words as a line can hold.
fn all_different() -> String {
    ('\u{4E00}'..).take(1350).collect()
}

#[test]
fn both_logs_find_the_same_whatever_is_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let servers = [Server::start(), Server::start_in(folder.path(), &[])];
    let mut people = servers.each_ref().map(|server| Peer::join(server.port, "alice"));
    for peer in &mut people {
        for line in SAID {
            peer.say(line);
        }
        peer.say(&all_different());
        peer.settles();
    }
    let ask = |people: &mut [Peer; 2], when: &str| {
        for (text, count) in SEARCHES {
            let [memory, disk] = people.each_mut().map(|peer| search(peer, text));
            assert_eq!(memory.len(), count, "{text}: {memory:?}");
            assert_eq!(disk, memory, "{text}, {when}");
        }
        let many = ["deploy", "of"].repeat(400).join(" ");
        let found = people.each_mut().map(|peer| search(peer, &many));
        assert_eq!(
            found,
            [vec!["alice: deploy of 128 went well"], vec!["alice: deploy of 128 went well"]]
        );
        let many: Vec<String> = (0..900).map(|number| format!("{number}")).collect();
        let found = people.each_mut().map(|peer| search(peer, &many.join(" ")));
        assert!(found.iter().all(Vec::is_empty));
        let found = people.each_mut().map(|peer| search(peer, &all_different()));
        assert!(found.iter().all(|found| found.len() == 1), "{when}");
    };
    ask(&mut people, "as it was said");
    indexed(folder.path());
    ask(&mut people, "from the index");
}

#[test]
fn the_newest_matches_are_found_and_what_is_forgotten_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    for number in 0..70 {
        alice.say(&format!("needle {number}"));
        alice.say("hay");
    }
    alice.settles();
    let newest: Vec<String> = (20..70).map(|number| format!("alice: needle {number}")).collect();
    assert_eq!(search(&mut alice, "needle"), newest);
    indexed(folder.path());
    assert_eq!(search(&mut alice, "needle"), newest);
    alice.say("needle 70");
    alice.settles();
    assert_eq!(search(&mut alice, "needle")[49], "alice: needle 70", "index and tail");
    assert_eq!(search(&mut alice, "needle").len(), 50);
    server.kill();

    let server = Server::start_in(folder.path(), &["--keep-messages", "10"]);
    let mut alice = Peer::join(server.port, "alice");
    let log = indexed(folder.path());
    let start = Instant::now();
    while log.query_row("SELECT count(*) FROM search", [], |row| row.get::<_, i64>(0)) != Ok(10) {
        assert!(start.elapsed() < Duration::from_secs(30), "never forgotten");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(search(&mut alice, "needle").len(), 5);
}

#[test]
fn what_the_index_is_behind_with_is_found_all_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    for number in 0..3000 {
        alice.say(&format!("line {number}"));
    }
    alice.settles();
    for when in ["while it is behind", "when it has caught up"] {
        for number in [0, 1, 249, 250, 1500, 2999] {
            let found = search(&mut alice, &format!("{number} LINE"));
            assert_eq!(found, [format!("alice: line {number}")], "{when}");
        }
        indexed(folder.path());
    }
}

#[test]
fn a_log_from_before_there_was_a_search_can_be_searched() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("said long ago");
    alice.settles();
    server.kill();
    Connection::open(folder.path().join("chatty.db"))
        .expect("the log")
        .execute_batch(
            "DROP TABLE search; DROP TABLE kept;
             DELETE FROM last WHERE what NOT IN ('message', 'person'); PRAGMA user_version = 1;",
        )
        .expect("as it was");
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    assert_eq!(search(&mut alice, "long"), ["alice: said long ago"]);
    indexed(folder.path());
    assert_eq!(search(&mut alice, "ago"), ["alice: said long ago"]);
}

#[test]
fn nobody_finds_what_was_not_for_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    let bob = Peer::join(server.port, "bob");
    alice.say("/msg bob secret plan");
    alice.say("/join ops");
    alice.say("secret of ops");
    alice.settles();
    drop(bob);
    let mut carol = Peer::join(server.port, "carol");
    let mut later = loop {
        // The name is free when the server has noticed.
        let mut later = Peer::connect(server.port);
        later.say("bob");
        if later.next().starts_with("[WELCOME") {
            break later;
        }
    };
    for when in ["as it was said", "from the index"] {
        assert_eq!(search(&mut alice, "secret").len(), 2, "{when}");
        assert!(search(&mut carol, "secret").is_empty(), "{when}");
        assert!(search(&mut later, "secret").is_empty(), "{when}");
        indexed(folder.path());
    }
    carol.say("/join ops");
    carol.settles();
    assert_eq!(search(&mut carol, "secret"), ["#ops alice: secret of ops"]);
}
