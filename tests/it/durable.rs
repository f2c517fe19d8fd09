//! Durability of the log: delivered messages survive a restart, a crash at any moment, and disk
//! damage.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use chatty::protocol::Tags;

use crate::support::{CHATTY, Peer, Server, Terminal, history, text};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn restart_keeps_history_and_ids_increase() {
    let folder = folder();
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/join ops");
    alice.say("one");
    alice.say("/me two");
    alice.settles();
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let server = Server::start_in(folder.path(), &[]);
    let rows = history(server.port, "ops");
    assert_eq!(rows, [(1, "#ops alice: one".to_owned()), (2, "#ops ** alice two".to_owned())]);
    let mut bob = Peer::join(server.port, "bob");
    bob.say("/set tags on");
    bob.say("three");
    assert!(bob.hears(|line| line.ends_with(" bob: three")).starts_with("@id=3;"));
}

#[test]
fn guest_private_thread_ends_with_session_across_restart() {
    let folder = folder();
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    let _bob = Peer::join(server.port, "bob");
    alice.say("/msg bob psst");
    alice.settles();
    server.kill();
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/history bob");
    assert_eq!(alice.settles(), ["[HISTORY bob 0]"]);
}

#[test]
fn resent_cid_is_echoed_after_crash_when_recipient_left() {
    let folder = folder();
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    let _bob = Peer::join(server.port, "bob");
    alice.say("/set tags on\n/session");
    let session = alice.hears(|line| line.starts_with("[SESSION "));
    let token = session["[SESSION ".len()..].split(']').next().unwrap();
    alice.say("@cid=x /msg bob psst");
    let echo = alice.hears(|line| line.ends_with("[PRIVATE MESSAGE to bob] alice: psst"));
    server.kill();
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::connect(server.port);
    alice.say(&format!("/set tags on\n/resume {token} 1\n@cid=x /msg bob psst"));
    alice.hears(|line| line.starts_with("[WELCOME alice]"));
    assert_eq!(alice.next(), echo);
}

#[test]
fn second_server_on_same_folder_is_rejected() {
    let folder = folder();
    let _server = Server::start_in(folder.path(), &[]);
    let output = Command::new(CHATTY)
        .args(["serve", "--port", "0", "--data", folder.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(" is in use by another chatty server; "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn data_folder_is_private() {
    let parent = folder();
    let folder = parent.path().join("a/b");
    let server = Server::start_in(&folder, &[]);
    Peer::join(server.port, "alice").say("hi");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn permissions_of_existing_folder_are_unchanged() {
    let folder = folder();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let server = Server::start_in(folder.path(), &[]);
    Peer::join(server.port, "alice").say("hi");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder.path()), 0o755);
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn log_of_newer_version_is_not_modified() {
    let folder = folder();
    Server::start_in(folder.path(), &[]).kill();
    let file = folder.path().join("chatty.db");
    let mut bytes = fs::read(&file).unwrap();
    fs::remove_file(folder.path().join("chatty.db-wal")).ok();
    // The schema version is at offset 60 of the database header.
    if bytes.len() >= 64 {
        bytes[60..64].copy_from_slice(&1000_u32.to_be_bytes());
        fs::write(&file, bytes).unwrap();
        let output = Command::new(CHATTY)
            .args(["serve", "--port", "0", "--data", folder.path().to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text(&output.stderr).contains("newer version of chatty"),
            "{}",
            text(&output.stderr)
        );
    }
}

/// Waits until retention has left at most `most` messages; returns the room's history.
fn history_after_retention(server: &Server, most: usize, start: Instant) -> Vec<(u64, String)> {
    loop {
        let rows = history(server.port, "ops");
        if rows.len() <= most {
            return rows;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "nothing is forgotten");
        thread::yield_now();
    }
}

#[test]
fn retention_keeps_latest_messages_only() {
    let folder = folder();
    let server = Server::start_in(folder.path(), &["--keep-messages", "10"]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/join ops");
    for count in 0..50 {
        alice.say(&format!("m{count}"));
    }
    alice.settles();
    let start = Instant::now();
    let rows = history_after_retention(&server, 10, start);
    assert_eq!(rows.first().unwrap(), &(41, "#ops alice: m40".to_owned()));
    // Ids that became no message (a repeated cid) do not count towards retention.
    alice.say("/set tags on");
    alice.settles_tagged();
    for _ in 0..30 {
        alice.say("@cid=once m50");
    }
    alice.say("m51");
    alice.hears(|line| line.ends_with(" #ops alice: m51"));
    let rows = history_after_retention(&server, 10, start);
    let texts: Vec<&str> = rows.iter().map(|(_, row)| row.as_str()).collect();
    assert_eq!(texts.len(), 10, "{rows:?}");
    assert_eq!((texts[0], texts[9]), ("#ops alice: m42", "#ops alice: m51"));
}

#[test]
fn waiting_mail_does_not_block_retention() {
    let folder = folder();
    let server = Server::start_in(folder.path(), &["--keep-days", "0"]);
    let mut bob = Peer::register(server.port, "bob", "open sesame");
    bob.say("/quit");
    bob.rest();
    let mut alice = Peer::join(server.port, "alice");
    for count in 0..200 {
        alice.say(&format!("/msg bob m{count}"));
    }
    alice.say("/join ops");
    alice.say("gone soon");
    alice.settles();
    history_after_retention(&server, 0, Instant::now());
    let mut bob = Peer::connect(server.port);
    bob.say("/login bob open sesame");
    for number in 0..200 {
        let end = format!("Z [PRIVATE MESSAGE] alice: m{number}");
        bob.hears(|line| line.ends_with(&end));
    }
}

/// Sends a line; returns the id of its message.
fn id_of(peer: &mut Peer, line: &str) -> u64 {
    peer.say(line);
    let echo = peer.hears(|received| received.ends_with(line));
    let id = echo.strip_prefix("@id=").and_then(|rest| rest.split(';').next());
    id.and_then(|id| id.parse().ok()).expect(&echo)
}

#[test]
fn id_lost_in_power_failure_is_not_reused() {
    let (folder, copy, again) = (folder(), folder(), folder());
    let relaxed = ["--durability", "relaxed"];
    let mut server = Server::start_in(folder.path(), &relaxed);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set tags on");
    assert_eq!(id_of(&mut alice, "on the disk"), 1);
    // What follows is not on the copied disk.
    let copy_files = |from: &Path, to: &Path| {
        for name in ["chatty.db", "chatty.db-wal"] {
            if from.join(name).exists() {
                fs::copy(from.join(name), to.join(name)).expect("copied");
            }
        }
    };
    copy_files(folder.path(), copy.path());
    let mut last = 0;
    for count in 0..10 {
        last = id_of(&mut alice, &format!("seen {count}"));
    }
    server.kill();
    let server = Server::start_in(copy.path(), &relaxed);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set tags on");
    let next = id_of(&mut alice, "after the loss");
    assert!(next > last, "{next} after {last}");
    alice.say(&format!("/history after {last}"));
    alice.hears(|line| line.starts_with("[HISTORY #lobby 1]"));
    assert_eq!(id_of(&mut alice, "and on"), next + 1);
    // A graceful shutdown leaves no gap in the ids, whatever happens afterwards.
    assert_eq!(server.stops().0, Some(0));
    copy_files(copy.path(), again.path());
    let server = Server::start_in(again.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set tags on");
    assert_eq!(id_of(&mut alice, "and on"), next + 2);
    drop(server);
}

/// Whether a number stored in the log has reached `number`.
fn has_reached(file: &Path, what: &str, number: i64) -> bool {
    let log = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a log");
    let sql = "SELECT number FROM last WHERE what = ?1";
    log.query_row(sql, [what], |row| row.get::<_, i64>(0)).expect("a number") >= number
}

/// Damages the database page that contains `text`; returns the original file.
fn damage(file: &Path, text: &str) -> Vec<u8> {
    // The last connection to close checkpoints the whole write-ahead log into the file.
    let log = Connection::open(file).expect("a log");
    log.query_row("SELECT max(id) FROM messages", [], |_| Ok(())).expect("messages");
    drop(log);
    let whole = fs::read(file).expect("the file");
    let at = whole.windows(text.len()).position(|bytes| bytes == text.as_bytes());
    let start = at.expect("the text") / 4096 * 4096;
    let mut damaged = whole.clone();
    damaged[start..start + 4096].fill(0xff);
    fs::write(file, damaged).expect("written");
    whole
}

#[test]
fn unreadable_page_is_an_error() {
    let folder = folder();
    let file = folder.path().join("chatty.db");
    let server = Server::start_in(folder.path(), &[]);
    let mut bob = Peer::register(server.port, "bob", "open sesame");
    bob.say("/quit");
    bob.rest();
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/msg bob a needle in the stack");
    alice.say("/join ops");
    // More than is read at startup.
    for _ in 0..50 {
        alice.say(&"hay\n".repeat(100));
    }
    alice.settles();
    Terminal::waits("everything is indexed", || has_reached(&file, "indexed", 4000));
    assert_eq!(server.stops().0, Some(0));
    let whole = damage(&file, "a needle in the stack");
    let server = Server::start_in(folder.path(), &[]);
    let mut bob = Peer::connect(server.port);
    bob.say("/login bob open sesame");
    bob.hears(|line| line.starts_with("[ERROR storage-full] "));
    assert!(server.logs().starts_with("cannot read the log: "));
    assert_eq!(server.stops().0, Some(0));
    // The file may be restored from a backup.
    fs::write(&file, whole).expect("written");
    let server = Server::start_in(folder.path(), &[]);
    let mut bob = Peer::connect(server.port);
    bob.say("/login bob open sesame");
    bob.hears(|line| line.ends_with("Z [PRIVATE MESSAGE] alice: a needle in the stack"));
}

#[test]
fn server_does_not_start_without_readable_accounts_and_bans() {
    let folder = folder();
    let file = folder.path().join("chatty.db");
    let server = Server::start_in(folder.path(), &[]);
    let mut bob = Peer::register(server.port, "bob", "open sesame");
    bob.say("/join ops");
    bob.say("/ban mallory");
    bob.settles();
    assert_eq!(server.stops().0, Some(0));
    let log = Connection::open(&file).expect("a log");
    for shelf in ["account", "order"] {
        let sql = "UPDATE kept SET value = substr(value, 1, 20) WHERE shelf = ?1";
        assert_eq!(log.execute(sql, [shelf]).expect("damaged"), 1);
        let output = Command::new(CHATTY)
            .args(["serve", "--port", "0", "--data", folder.path().to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        let start = format!("chatty: cannot read the stored state in {}: {shelf} ", file.display());
        assert!(said.starts_with(&start), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        // The command given in the error fixes the problem.
        let sql = said.split('"').nth(1).expect("advice");
        assert_eq!(log.execute(sql, []).expect("done"), 1);
    }
    drop(log);
    let server = Server::start_in(folder.path(), &[]);
    Peer::join(server.port, "bob");
}

#[test]
fn times_follow_corrected_clock() {
    let folder = folder();
    let mut server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("from the future");
    alice.settles();
    server.kill();
    let file = Connection::open(folder.path().join("chatty.db")).expect("a log");
    let two_days = 2 * 24 * 60 * 60 * 1000;
    file.execute("UPDATE messages SET time = time + ?1", [two_days])
        .expect("a clock that is ahead");
    let ahead: i64 = file.query_row("SELECT time FROM messages", [], |row| row.get(0)).expect("it");
    drop(file);
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set tags on");
    for id in [2, 3] {
        alice.say("now");
        let line = alice.hears(|line| line.ends_with(" alice: now"));
        let (tags, _) = Tags::split(&line);
        let time = tags.time.expect("a time").0;
        assert_eq!(tags.id, Some(id));
        assert!((ahead - two_days..ahead - two_days + 600_000).contains(&time), "{line}");
    }
    alice.say("/history");
    let texts = ["alice: from the future", "alice: now", "alice: now"];
    assert_eq!(alice.hears(|line| line.starts_with('[')), "[HISTORY #lobby 3]");
    assert!(texts.iter().all(|text| alice.next().ends_with(text)), "in the order of ids");
    let log = server.stops().1;
    let reported: Vec<_> =
        log.iter().filter(|line| line.contains(" the clock went back from ")).collect();
    assert_eq!(reported.len(), 1, "{log:?}");
}
