//! `/search` on the real server: the memory log and the disk log find the same messages, before and
//! after indexing.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::{Peer, Server};

const SAID: [&str; 22] = [
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
    "the cafe\u{301} in the Straße",
    "ﬁle in ＦＵＬＬ width, İzmir",
    "ὈΔΥΣΣΕΎΣ",
    "हिन्दी שָׁלוֹם",
    "อยากกินข้าวผัดวันนี้",
    "我在北京大学",
    "京北。大學",
    "ｶﾞﾗｽの회의에서",
    "so\u{ad}ft\u{200d}ly",
    "甲乙 乙丙",
];

/// Searches, and the number of lines above that each finds.
const SEARCHES: [(&str, usize); 49] = [
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
    ("CAFE\u{301}", 2),
    ("strasse", 1),
    ("STRASSE the", 1),
    ("FILE full", 1),
    ("izmir", 1),
    ("ὀδυσσεύς", 1),
    ("हिन्दी", 1),
    ("हिन", 0),
    ("שָׁלוֹם", 1),
    ("ข้าวผัด", 1),
    ("ข้าว กิน", 1),
    ("ข้าวกิน", 0),
    ("北京", 1),
    ("大学 北", 1),
    ("北大", 0),
    ("京", 3), // also in the longest line
    ("ガラス", 1),
    ("회의", 1),
    ("\u{1112}\u{116c}\u{110b}\u{1174}", 1),
    ("softly", 1),
    ("甲乙丙", 0),
    ("мир привет", 1),
    ("日", 1),
    ("日は", 1),
    ("は今", 0),
    ("は 今", 1),
    ("RUST 0", 1),
    ("👩‍💻", 0),
    ("--", 0),
    ("'; DROP", 1),
    ("name under", 1),
    ("\u{E000}lobby", 1),
    ("lobby", 1),
];

/// Returns the results of a search without their times.
fn search(peer: &mut Peer, text: &str) -> Vec<String> {
    peer.say(&format!("/search {text}"));
    let header = peer.hears(|line| line.starts_with("[SEARCH ") || line.starts_with("[ERROR "));
    let count = header.trim_start_matches("[SEARCH ").trim_end_matches(']');
    let count = count.parse().unwrap_or_else(|_| panic!("{text}: {header}"));
    (0..count).map(|_| peer.next().split_once(' ').expect("a row").1.to_owned()).collect()
}

/// Waits until all messages are indexed; returns the log.
pub(crate) fn indexed(folder: &Path) -> Connection {
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

/// The longest sequence of distinct letters that a line can hold.
fn distinct_letters() -> String {
    ('\u{4E00}'..).take(1350).collect()
}

#[test]
fn memory_and_disk_search_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let servers = [Server::start(), Server::start_in(folder.path(), &[])];
    let mut people = servers.each_ref().map(|server| Peer::join(server.port, "alice"));
    for peer in &mut people {
        for line in SAID {
            peer.say(line);
        }
        peer.say(&distinct_letters());
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
        let many: Vec<String> = (0..16).map(|number| format!("{number}")).collect();
        let found = people.each_mut().map(|peer| search(peer, &many.join(" ")));
        assert!(found.iter().all(Vec::is_empty));
        let found = people.each_mut().map(|peer| search(peer, &distinct_letters()));
        assert!(found.iter().all(|found| found.len() == 1), "{when}");
    };
    ask(&mut people, "as it was said");
    indexed(folder.path());
    ask(&mut people, "from the index");
}

#[test]
fn search_finds_newest_matches_and_no_deleted_messages() {
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
fn search_covers_messages_not_yet_indexed() {
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
fn search_finds_only_readable_messages() {
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
        // The name is free once the server has noticed the disconnect.
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
