//! Files of older versions: upgraded completely, also after a crash at any moment, or left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use chatty::server::record::UserId;
use chatty::server::store::sqlite::{Durability, Options, Retention, SqliteLog};
use rusqlite::{Connection, params};

use crate::crash::full_disk::SmallDisk;
use crate::older_schemas;
use crate::search::indexed;
use crate::support::{CHATTY, Peer, Server, history, text};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Inserts a message to a room, or to a user with an id.
fn insert(log: &Connection, id: i64, to: Result<&str, i64>, text: &str) {
    let (room, reader) = (to.ok(), to.err());
    let private = reader.map(|_| ("bob", "alice"));
    log.execute(
        "INSERT INTO messages VALUES (?1, ?1, 1, 'Bob', ?2, ?3, ?4, ?5, ?6, ?6, 0, ?7, ?8)",
        params![
            id,
            room,
            room.map(str::to_lowercase),
            private.map(|(author, _)| author),
            reader,
            private.map(|(_, reader)| reader),
            text,
            format!("cid{id}"),
        ],
    )
    .expect("a message");
}

#[test]
fn every_older_schema_is_upgraded_completely() {
    for version in 1..=older_schemas::STEPS.len() {
        let folder = folder();
        let file = folder.path().join("chatty.db");
        let log = older_schemas::create(&file, version);
        insert(&log, 2, Ok("Ops"), "in der Straße");
        insert(&log, 3, Ok("ops"), "北京");
        insert(&log, 5, Err(7), "psst");
        insert(&log, 6, Ok("lobby"), "hello");
        log.execute_batch("UPDATE last SET number = 9 WHERE what = 'message'").expect("a number");
        if version >= 4 {
            let ceiling = "UPDATE last SET number = 20 WHERE what = 'message ceiling'";
            log.execute_batch(ceiling).expect("a number");
        }
        drop(log);
        let server = Server::start_in(folder.path(), &[]);
        let ops = [(2, "#Ops Bob: in der Straße"), (3, "#ops Bob: 北京")];
        let ops = ops.map(|(id, line)| (id, line.to_owned()));
        assert_eq!(history(server.port, "ops"), ops, "version {version}");
        let mut alice = Peer::join(server.port, "alice");
        alice.say("/join ops");
        for when in ["before it is indexed", "from the index"] {
            for (word, found) in [("STRASSE", 1), ("北京", 1), ("hello", 1), ("psst", 0)] {
                alice.say(&format!("/search {word}"));
                let count = alice.hears(|line| line.starts_with("[SEARCH "));
                assert_eq!(count, format!("[SEARCH {found}]"), "{word} {when}, {version}");
            }
            alice.settles();
            indexed(folder.path());
        }
        alice.say("/set tags on\nnew");
        let line = alice.hears(|line| line.ends_with(" alice: new"));
        let id = if version >= 4 { 21 } else { 10 };
        assert!(line.contains(&format!("id={id}")), "{line}");
        // The old file is as it was.
        let before = Connection::open(folder.path().join("chatty.db-before-upgrade"));
        let before = before.expect("the old file");
        let sql = "SELECT count(*) FROM messages WHERE room_key = 'ops'";
        assert_eq!(before.query_row(sql, [], |row| row.get::<_, i64>(0)), Ok(2));
        let found = before.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0));
        assert_eq!(found.map(|found| found as usize), Ok(version));
    }
}

#[test]
fn mail_of_older_versions_becomes_a_position() {
    let folder = folder();
    let older = older_schemas::create(&folder.path().join("chatty.db"), 5);
    // Message 3 was delivered although 2 waited, and 4 waits for another account.
    for (id, reader) in [(1, 7), (2, 7), (3, 7), (4, 8), (5, 7)] {
        insert(&older, id, Err(reader), "x");
    }
    let sql = "INSERT INTO kept VALUES ('mail', 2, '7'), ('mail', 4, '8'), ('mail', 5, '7')";
    older.execute(sql, []).expect("mail");
    drop(older);
    let options = Options { durability: Durability::Commit, retention: Retention::default() };
    let (_log, snapshot) = SqliteLog::open(folder.path(), options).expect("a log");
    let (alice, other) = (UserId(7), UserId(8));
    assert_eq!(snapshot.mail, [(alice, 2), (other, 4), (alice, 5)]);
    let rows: Vec<u64> = snapshot.entries.iter().map(|(_, key, _)| *key).collect();
    assert_eq!(rows, [7, 8]);
}

/// A folder with a file of an older version that takes a moment to upgrade.
fn with_large_file(messages: i64) -> (tempfile::TempDir, PathBuf) {
    let folder = folder();
    let file = folder.path().join("chatty.db");
    let mut log = older_schemas::create(&file, 6);
    let transaction = log.transaction().expect("a transaction");
    let text = "a word or two ".repeat(8);
    for id in 1..=messages {
        insert(&transaction, id, if id % 9 == 0 { Err(7) } else { Ok("ops") }, &text);
    }
    transaction.commit().expect("messages");
    drop(log);
    (folder, file)
}

/// Starts a server, and kills it when a condition is met; returns whether it was.
fn kill_when(folder: &Path, condition: impl Fn() -> bool) -> bool {
    let mut command = Command::new(CHATTY);
    command.args(["serve", "--port", "0", "--bind", "127.0.0.1", "--data"]).arg(folder);
    let mut server = command.stderr(Stdio::null()).spawn().expect("chatty serve");
    let start = Instant::now();
    let is_met = loop {
        if condition() {
            break true;
        }
        if start.elapsed() > Duration::from_secs(20) {
            break false;
        }
        thread::sleep(Duration::from_micros(200));
    };
    server.kill().expect("killed");
    server.wait().expect("ended");
    is_met
}

#[test]
fn upgrade_survives_kill_at_any_moment() {
    const MESSAGES: i64 = 60_000;
    let (folder, file) = with_large_file(MESSAGES);
    let path = |end: &str| folder.path().join(format!("chatty.db{end}"));
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
    let old = size(path(""));
    let count = |file: &Path| {
        let log = Connection::open(file).expect("the log");
        let sql = "SELECT count(*), (SELECT count(*) FROM pragma_integrity_check
                   WHERE integrity_check <> 'ok') FROM messages";
        let (count, faults): (i64, i64) =
            log.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("messages");
        assert_eq!(faults, 0);
        count
    };
    // While it is copied, at several sizes of the new file; then around the renames.
    for part in 0..8 {
        assert!(kill_when(folder.path(), || size(path("-new")) > old * part / 12), "{part}");
        let is_upgraded = path("-before-upgrade").exists();
        assert_eq!(count(&file), MESSAGES, "after part {part}");
        assert!(!is_upgraded || part > 0);
    }
    assert!(kill_when(folder.path(), || path("-before-upgrade").exists()));
    if path("-upgraded").exists() && !file.exists() {
        assert_eq!(count(&path("-upgraded")), MESSAGES);
    } else {
        assert_eq!(count(&file), MESSAGES);
    }
    let server = Server::start_in(folder.path(), &[]);
    let found = i64::try_from(history(server.port, "ops").len());
    assert_eq!(found, Ok(MESSAGES - MESSAGES / 9));
    assert_eq!(server.stops().0, Some(0));
    assert_eq!(count(&file), MESSAGES);
    for end in ["-new", "-upgraded", "-wal"] {
        assert!(!path(end).exists(), "{end}");
    }
}

#[test]
fn upgrade_interrupted_between_renames_is_completed() {
    let (folder, file) = with_large_file(100);
    drop(Server::start_in(folder.path(), &[]));
    let upgraded = folder.path().join("chatty.db-upgraded");
    // A graceful shutdown leaves one complete file.
    let server = Server::start_in(folder.path(), &[]);
    assert_eq!(server.stops().0, Some(0));
    fs::rename(&file, &upgraded).expect("as between the renames");
    let server = Server::start_in(folder.path(), &[]);
    assert_eq!(history(server.port, "ops").len(), 89);
    assert!(!upgraded.exists());
}

#[test]
fn upgrade_is_refused_when_disk_has_no_space_for_a_copy() {
    let (_folder, file) = with_large_file(10_000);
    let size = fs::metadata(&file).expect("the old file").len();
    for (space, fits) in [(size * 3 / 2, false), (size * 5 / 2, true)] {
        let Some(disk) = SmallDisk::new(&space.to_string()) else { return };
        let (data, copy) = (disk.0.path(), disk.0.path().join("chatty.db"));
        fs::copy(&file, &copy).expect("copied");
        if fits {
            let server = Server::start_in(data, &[]);
            assert_eq!(history(server.port, "ops").len(), 8889);
            continue;
        }
        let mut server = Command::new(CHATTY);
        server.args(["serve", "--port", "0", "--bind", "127.0.0.1", "--data"]).arg(data);
        let output = server.output().expect("chatty serve");
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains("no space to upgrade ") && said.contains("is unchanged"), "{said}");
        assert!(fs::read(&copy).ok() == fs::read(&file).ok(), "it was changed");
        assert!(!data.join("chatty.db-new").exists());
    }
}

#[test]
fn failed_upgrade_leaves_old_file() {
    let (folder, file) = with_large_file(100);
    let before = fs::read(&file).expect("the old file");
    // Another process uses it.
    let other = Connection::open(&file).expect("the log");
    other.execute_batch("BEGIN; SELECT * FROM messages").expect("a read");
    let mut server = Command::new(CHATTY);
    server.args(["serve", "--port", "0", "--bind", "127.0.0.1", "--data"]).arg(folder.path());
    let output = server.output().expect("chatty serve");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("it is locked by another process"), "{said}");
    other.execute_batch("ROLLBACK").expect("released");
    drop(other);
    assert_eq!(fs::read(&file).expect("the old file").len(), before.len());
    let server = Server::start_in(folder.path(), &[]);
    assert_eq!(history(server.port, "ops").len(), 89);
}
