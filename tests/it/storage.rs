//! The log's files: complete after a stop, copied while the server runs, locked by another process,
//! lost, replaced, or not owned by the server.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::{CHATTY, Peer, Server, Terminal, has_program, history, text};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Runs a server that must fail to start; returns its output.
fn start_failing(folder: &Path) -> Output {
    let mut server = Command::new(CHATTY);
    server.args(["serve", "--port", "0", "--bind", "127.0.0.1", "--tls", "--data"]).arg(folder);
    let output = server.output().expect("chatty serve");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    output
}

/// Posts lines to a room, each acknowledged.
fn say(server: &Server, name: &str, lines: &[&str]) {
    let mut peer = Peer::join(server.port, name);
    peer.say("/join ops");
    for line in lines {
        peer.say(line);
        peer.hears(|received| received == format!("#ops {name}: {line}"));
    }
    peer.say("/quit");
    peer.rest();
}

fn texts(rows: &[(u64, String)]) -> Vec<&str> {
    rows.iter().map(|(_, row)| row.rsplit(": ").next().unwrap_or(row)).collect()
}

#[test]
fn graceful_shutdown_leaves_one_complete_file() {
    for (signal, flags) in [
        ("TERM", &[][..]),
        ("INT", &["--durability", "relaxed"]),
        ("TERM", &["--keep-messages", "9"]),
    ] {
        let (folder, copy) = (folder(), folder());
        let server = Server::start_in(folder.path(), flags);
        let _listener = Peer::join(server.port, "listener");
        say(&server, "alice", &["one", "two", "three"]);
        let mut bob = Peer::register(server.port, "bob", "open sesame");
        bob.say("/search two");
        bob.settles();
        server.signal(signal);
        assert_eq!(server.wait(), Some(0));
        for end in ["chatty.db-wal", "chatty.db-shm"] {
            assert!(!folder.path().join(end).exists(), "{signal}: {end}");
        }
        fs::copy(folder.path().join("chatty.db"), copy.path().join("chatty.db")).expect("copied");
        let server = Server::start_in(copy.path(), &[]);
        assert_eq!(texts(&history(server.port, "ops")), ["one", "two", "three"]);
        let mut bob = Peer::connect(server.port);
        bob.say("/login bob open sesame");
        bob.hears(|line| line.starts_with("[WELCOME bob]"));
    }
}

#[test]
fn log_of_running_server_is_copied_as_documented() {
    if !has_program("sqlite3") {
        return;
    }
    let readme = fs::read_to_string("docs/operating.md").expect("docs/operating.md");
    let command = readme.lines().find(|line| line.starts_with("sqlite3 ")).expect("a command");
    let (folder, copy) = (folder(), folder());
    let server = Server::start_in(folder.path(), &[]);
    say(&server, "alice", &["one", "two"]);
    let target = copy.path().join("chatty.db");
    let command = command
        .replace("~/.local/share/chatty/5555", folder.path().to_str().expect("a plain path"))
        .replace("copy.db", target.to_str().expect("a plain path"));
    let copied = Command::new("sh").args(["-c", &command]).status().expect("sh");
    assert!(copied.success(), "{command}");
    say(&server, "alice", &["three"]);
    drop(server);
    let server = Server::start_in(copy.path(), &[]);
    assert_eq!(texts(&history(server.port, "ops")), ["one", "two"]);
}

#[test]
fn locked_log_refuses_lines_until_released() {
    let folder = folder();
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::register(server.port, "alice", "open sesame");
    let mut bob = Peer::join(server.port, "bob");
    alice.say("/join ops\nbefore");
    alice.hears(|line| line == "#ops alice: before");
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        let other = Connection::open(folder.path().join("chatty.db")).expect("the log");
        other.execute_batch(begin).expect("locked");
        let start = Instant::now();
        for line in [
            "hi",
            "/me waves",
            "/msg bob psst",
            "/topic tea",
            "/passwd sesame2",
            "/session",
            "/lock",
        ] {
            alice.say(line);
            let answer = alice.next();
            assert!(answer.starts_with("[ERROR storage-full] "), "{line}: {answer}");
        }
        // Everything else works, without delay.
        alice.say("/history 1 #ops");
        alice.hears(|line| line == "[HISTORY #ops 1]");
        alice.next();
        bob.settles();
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        let locked = server.logs();
        assert!(locked.contains(" the log is locked by another process; "), "{locked}");
        other.execute_batch("ROLLBACK").expect("released");
        alice.say("after");
        alice.hears(|line| line == "#ops alice: after");
        let again = server.logs();
        assert!(again.ends_with(" the log is available again"), "{again}");
    }
    assert_eq!(server.stops(), (Some(0), vec![]));
}

#[test]
fn long_read_transaction_does_not_block_lines() {
    let folder = folder();
    let server = Server::start_in(folder.path(), &[]);
    say(&server, "alice", &["one"]);
    let reader = Connection::open(folder.path().join("chatty.db")).expect("the log");
    reader.execute_batch("BEGIN; SELECT count(*) FROM messages").expect("reads");
    // More than one checkpoint threshold.
    let line = "x".repeat(4000);
    let lines = vec![line.as_str(); 1200];
    say(&server, "bob", &lines);
    assert!(server.logged().is_empty());
    // At the stop everything is stored, and the log reports which file to copy.
    let (code, said) = server.stops();
    assert_eq!(code, Some(0));
    assert!(said.iter().any(|line| line.contains("chatty.db-wal, beside ")), "{said:?}");
    drop(reader);
    let server = Server::start_in(folder.path(), &[]);
    assert_eq!(history(server.port, "ops").len(), 1201);
}

#[test]
fn locked_log_is_an_error_at_start() {
    let folder = folder();
    let server = Server::start_in(folder.path(), &[]);
    say(&server, "alice", &["one"]);
    assert_eq!(server.stops().0, Some(0));
    let other = Connection::open(folder.path().join("chatty.db")).expect("the log");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let said = text(&start_failing(folder.path()).stderr);
    assert!(said.contains("chatty.db: it is locked by another process; "), "{said}");
    drop(other);
    Server::start_in(folder.path(), &[]);
}

#[test]
fn unstored_change_is_reported_at_stop() {
    let folder = folder();
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/session");
    alice.settles();
    let other = Connection::open(folder.path().join("chatty.db")).expect("the log");
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    alice.say("/quit");
    assert!(alice.rest().last().is_some_and(|line| line.starts_with("[BYE quit]")));
    let (code, said) = server.stops();
    assert_eq!(code, Some(1));
    let named = "stopped without storing acknowledged changes: the end of a session";
    assert!(said.iter().any(|line| line.contains(named)), "{said:?}");
}

#[test]
fn failed_change_is_stored_when_lock_is_released() {
    let folder = folder();
    let file = folder.path().join("chatty.db");
    let server = Server::start_in(folder.path(), &[]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/session");
    alice.settles();
    let visits = |log: &Connection| {
        let sql = "SELECT count(*) FROM kept WHERE shelf = 'visit'";
        log.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a count")
    };
    let other = Connection::open(&file).expect("the log");
    assert_eq!(visits(&other), 1);
    other.execute_batch("BEGIN IMMEDIATE").expect("locked");
    alice.say("/quit");
    alice.rest();
    other.execute_batch("ROLLBACK").expect("released");
    // Without further input.
    Terminal::waits("the change is stored", || visits(&other) == 0);
    drop(other);
    assert_eq!(server.stops().0, Some(0));
}

/// Damage done to a data folder.
type Harm<'h> = &'h dyn Fn(&Path);

/// A data folder whose server was killed after it had acknowledged lines.
fn killed() -> tempfile::TempDir {
    let folder = folder();
    let mut server = Server::start_in(folder.path(), &[]);
    say(&server, "alice", &["one", "two"]);
    server.kill();
    folder
}

#[test]
fn log_that_lost_stored_messages_is_rejected() {
    let remove = |path: PathBuf| fs::remove_file(path).expect("removed");
    let harms: [(&str, Harm<'_>); 4] = [
        ("an empty file", &|folder| {
            fs::write(folder.join("chatty.db"), "").expect("emptied");
        }),
        ("no file", &|folder| {
            remove(folder.join("chatty.db"));
            remove(folder.join("chatty.db-wal"));
        }),
        ("no write-ahead log", &|folder| {
            remove(folder.join("chatty.db-wal"));
            remove(folder.join("chatty.db-shm"));
        }),
        ("an older file", &|folder| {
            // A copy from before the first start; everything was checkpointed since.
            let log = Connection::open(folder.join("chatty.db")).expect("the log");
            log.execute_batch("DELETE FROM messages; UPDATE last SET number = 0").expect("older");
        }),
    ];
    for (what, harm) in harms {
        let folder = killed();
        harm(folder.path());
        for _ in 0..2 {
            let said = text(&start_failing(folder.path()).stderr);
            assert!(said.contains("chatty.db has lost data: "), "{what}: {said}");
            assert!(said.contains("/lock and start again"), "{what}: {said}");
        }
        // The command given in the error fixes the problem.
        remove(folder.path().join("lock"));
        Server::start_in(folder.path(), &[]);
    }
}

#[test]
fn complete_older_copy_is_accepted() {
    let (folder, copy) = (folder(), folder());
    let server = Server::start_in(folder.path(), &[]);
    say(&server, "alice", &["one"]);
    server.signal("STOP");
    for entry in fs::read_dir(folder.path()).expect("a folder") {
        let path = entry.expect("a file").path();
        fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    server.signal("CONT");
    say(&server, "alice", &["two"]);
    // The note in the lock file is updated within about a second.
    let lock = folder.path().join("lock");
    Terminal::waits("the lock file is updated", || {
        fs::read_to_string(&lock).expect("a note").contains(" 2, ")
    });
    drop(server);
    let server = Server::start_in(copy.path(), &[]);
    assert_eq!(texts(&history(server.port, "ops")), ["one"]);
    assert!(server.logged().is_empty());
    drop(server);
    // With the lock file of the newer log the older copy is accepted, and that is reported.
    for name in ["chatty.db", "chatty.db-wal"] {
        fs::copy(copy.path().join(name), folder.path().join(name)).expect("copied");
    }
    let _ = fs::remove_file(folder.path().join("chatty.db-shm"));
    let server = Server::start_in(folder.path(), &[]);
    assert!(server.logs().contains("chatty.db contains less than was stored here: "));
}

#[test]
fn older_file_is_accepted_and_reported_after_graceful_shutdown() {
    let (folder, copy) = (folder(), folder());
    let (file, older) = (folder.path().join("chatty.db"), copy.path().join("older"));
    for line in ["one", "two"] {
        let server = Server::start_in(folder.path(), &[]);
        say(&server, "alice", &[line]);
        assert_eq!(server.stops(), (Some(0), vec![]));
        if line == "one" {
            fs::copy(&file, &older).expect("copied");
        }
    }
    fs::copy(&older, &file).expect("put back");
    let server = Server::start_in(folder.path(), &[]);
    let said = server.logs();
    assert!(said.contains("its last message is 1, but 2 were stored"), "{said}");
    assert_eq!(texts(&history(server.port, "ops")), ["one"]);
}

#[test]
fn lock_left_by_first_start_is_ignored() {
    let folder = folder();
    fs::write(folder.path().join("lock"), "").expect("a lock");
    for file in ["", "chatty.db"] {
        if !file.is_empty() {
            fs::write(folder.path().join(file), "").expect("a file");
        }
        let empty = self::folder();
        fs::copy(folder.path().join("lock"), empty.path().join("lock")).expect("copied");
        Server::start_in(empty.path(), &[]);
    }
}

#[test]
fn lost_files_end_server_before_line_is_acknowledged() {
    let harms: [Harm<'_>; 4] = [
        &|folder| fs::remove_dir_all(folder).expect("removed"),
        &|folder| fs::rename(folder, folder.with_extension("moved")).expect("moved"),
        &|folder| fs::remove_file(folder.join("chatty.db-wal")).expect("removed"),
        &|folder| {
            let file = folder.join("chatty.db");
            fs::copy(&file, folder.join("copy")).expect("copied");
            fs::rename(folder.join("copy"), file).expect("replaced");
        },
    ];
    for (harm, speaks) in harms.into_iter().flat_map(|harm| [(harm, true), (harm, false)]) {
        let parent = folder();
        let folder = parent.path().join("log");
        let server = Server::start_in(&folder, &[]);
        let mut alice = Peer::join(server.port, "alice");
        alice.say("before");
        alice.hears(|line| line == "alice: before");
        harm(&folder);
        if speaks {
            alice.say("into nowhere");
        }
        let rest = alice.rest();
        assert!(rest.len() == 1 && rest[0].starts_with("[BYE shutting-down] "), "{rest:?}");
        let said = server.logs();
        assert!(said.starts_with("chatty: the log is gone: "), "{said}");
        assert!(said.ends_with(" was removed or replaced while the server ran"), "{said}");
        assert_eq!(server.wait(), Some(1));
    }
}

#[test]
fn only_own_regular_files_are_used_and_others_stay_unchanged() {
    for name in ["chatty.db", "chatty.db-wal", "chatty.db-shm", "lock", "tls-identity.pem"] {
        for kind in ["a link", "a dangling link", "a hard link", "a FIFO", "a folder"] {
            let (folder, elsewhere) = (folder(), folder());
            let victim = elsewhere.path().join("victim");
            fs::write(&victim, "not chatty's").expect("written");
            fs::set_permissions(&victim, Permissions::from_mode(0o644)).expect("open to all");
            let path = folder.path().join(name);
            match kind {
                "a link" => symlink(&victim, &path).expect("a link"),
                "a dangling link" => symlink(elsewhere.path().join("no"), &path).expect("a link"),
                "a hard link" => fs::hard_link(&victim, &path).expect("a link"),
                "a FIFO" => {
                    let made = Command::new("mkfifo").arg(&path).status();
                    assert!(made.expect("mkfifo").success());
                }
                _ => fs::create_dir(&path).expect("a folder"),
            }
            let said = text(&start_failing(folder.path()).stderr);
            assert!(said.contains(&path.display().to_string()), "{name} is {kind}: {said}");
            assert!(said.contains("chatty does not change it"), "{name} is {kind}: {said}");
            assert_eq!(fs::read_to_string(&victim).expect("there"), "not chatty's");
            let mode = fs::metadata(&victim).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{name} is {kind}");
            let others = fs::read_dir(elsewhere.path()).expect("a folder");
            assert_eq!(others.count(), 1, "{name} is {kind}");
        }
    }
}

#[test]
fn device_permissions_are_unchanged() {
    let folder = folder();
    let mode = || fs::metadata("/dev/null").expect("there").permissions().mode();
    let before = mode();
    symlink("/dev/null", folder.path().join("chatty.db")).expect("a link");
    start_failing(folder.path());
    assert_eq!(mode(), before);
}

#[test]
fn data_folder_may_be_a_symlink() {
    let parent = folder();
    let (folder, link) = (parent.path().join("log"), parent.path().join("link"));
    fs::create_dir(&folder).expect("a folder");
    symlink(&folder, &link).expect("a link");
    let server = Server::start_in(&link, &[]);
    say(&server, "alice", &["one"]);
    assert_eq!(server.stops(), (Some(0), vec![]));
    assert!(
        fs::read_dir(&folder)
            .expect("files")
            .flatten()
            .any(|file| { file.path().extension() == Some(OsStr::new("db")) })
    );
}
