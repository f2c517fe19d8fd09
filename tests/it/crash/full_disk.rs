//! A full disk: lines that cannot be stored are refused and not delivered, everything else works,
//! and posting works again when space is free. Any other storage error ends the server.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::checker::{Event, EventKind, Message, Viewer, violations};
use super::rows;
use super::sync_order::can_trace;
use super::users::{message, plain, tag, write_line};
use crate::support::{Peer, SESAME, SESAME_FILE, Server, Terminal, has_program, report_skipped};

/// A small file system of its own, unmounted on drop.
pub(crate) struct SmallDisk(pub(crate) tempfile::TempDir);

impl SmallDisk {
    /// Mounts a file system of this size; `None` without the permission to mount.
    pub(crate) fn new(size: &str) -> Option<Self> {
        if !has_program("mount") {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        report_skipped("a small disk cannot be mounted");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// A sender, a receiver, and the events of each line.
struct Conversation {
    alice: Peer,
    bob: Peer,
    events: Vec<Event>,
    count: usize,
    /// The last message of alice.
    last: Option<Message>,
}

impl Conversation {
    fn begin(port: u16) -> Self {
        let [alice, bob] = ["alice", "bob"].map(|name| {
            let mut peer = Peer::join(port, name);
            peer.say("/set tags on\n/join red");
            peer.settles();
            peer
        });
        Self { alice, bob, events: Vec::new(), count: 0, last: None }
    }

    /// Sends `lines` lines in one burst and resends the first; returns how many were posted.
    fn say(&mut self, lines: usize) -> usize {
        let mut messages: Vec<Message> = (1..=lines).map(|_| self.next_message()).collect();
        messages.push(messages[0].clone());
        self.send(&messages)
    }

    fn next_message(&mut self) -> Message {
        self.count += 1;
        let text = format!("alice-{} {}", self.count, "x".repeat(1000));
        let message = Message { author: "alice".into(), to: "#red".into(), text };
        self.last = Some(message.clone());
        message
    }

    fn send(&mut self, messages: &[Message]) -> usize {
        let mut out = String::new();
        for message in messages {
            write_line(&mut out, message);
            self.note(EventKind::Sent(message.clone()));
        }
        self.alice.send(out.as_bytes());
        let mut said = 0;
        for message in messages {
            // Every line is answered, in order.
            let answer = self.alice.hears(|line| tag(line, "cid").is_some());
            assert_eq!(tag(&answer, "cid"), Some(message.cid()));
            if tag(&answer, "id").is_some() {
                said += 1;
                self.note_shown("alice", &answer);
            } else {
                assert!(plain(&answer).starts_with("[ERROR storage-full] "), "{answer}");
                self.note(EventKind::Refused(message.clone()));
            }
        }
        for line in self.bob.settles().iter().filter(|line| tag(line, "id").is_some()) {
            self.note_shown("bob", line);
        }
        said
    }

    fn note_shown(&mut self, name: &str, line: &str) {
        let id = tag(line, "id").and_then(|id| id.parse().ok()).expect(line);
        let message = message(plain(line), name).expect(line);
        let viewer = Viewer { name: name.into(), visit: 1 };
        self.note(EventKind::Shown { viewer, id, message });
    }

    fn note(&mut self, what: EventKind) {
        self.events.push(Event { at: Instant::now(), what });
    }
}

#[test]
fn full_disk_refuses_lines_until_space_is_free() {
    let Some(disk) = SmallDisk::new("4m") else { return };
    let (log, filler) = (disk.0.path().join("log"), disk.0.path().join("filler"));
    let server = Server::start_in(&log, &[]);
    let mut talk = Conversation::begin(server.port);
    assert_eq!(talk.say(1), 2);
    // Use up the rest of the disk.
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let mut bursts = 0;
    while talk.say(10) > 0 {
        bursts += 1;
        assert!(bursts < 1000, "there is room for ever");
    }
    // Everything but posting works, also for new users.
    let mut carol = Peer::join(server.port, "carol");
    carol.say("/join red");
    carol.hears(|line| line == "[USERS #red 3] alice,bob,carol");
    carol.say("/history 1 #red");
    carol.hears(|line| line == "[HISTORY #red 1]");
    let mut logged = Vec::new();
    let mut reported = |what: &str| {
        logged.extend(server.logged());
        logged.iter().filter(|line: &&String| line.contains(what)).count()
    };
    Terminal::waits("the log line about the full disk", || reported(" no space for the log: ") > 0);
    fs::remove_file(&filler).unwrap();
    let start = Instant::now();
    let refused = talk.last.clone().expect("said something");
    while talk.send(std::slice::from_ref(&refused)) == 0 {
        assert!(start.elapsed() < Duration::from_secs(2), "works again within 2 s");
    }
    assert_eq!(talk.say(10), 11);
    Terminal::waits("the log line about free space", || {
        talk.say(1);
        reported(" there is space for the log again") == 1
    });
    assert_eq!(reported(" no space for the log: "), 1, "not for every line");
    drop(server);
    let _server = Server::start_in(&log, &[]);
    let violations = violations(&talk.events, &rows(&log.join("chatty.db")), None);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// Fills a disk; deleting the returned file frees it.
fn fill(disk: &SmallDisk) -> std::path::PathBuf {
    let filler = disk.0.path().join("filler");
    let mut file = fs::File::create(&filler).expect("a file");
    while file.write_all(&[0; 4096]).is_ok() {}
    filler
}

#[test]
fn full_disk_refuses_changes_and_loses_nothing_acknowledged() {
    let Some(disk) = SmallDisk::new("4m") else { return };
    let log = disk.0.path().join("log");
    let server = Server::start_in(&log, &["--oper-password-file", SESAME_FILE]);
    let mut alice = Peer::register(server.port, "alice", "old password");
    let mut bob = Peer::join(server.port, "bob");
    for line in ["/join ops", "/session", &format!("/oper {SESAME}")] {
        alice.say(line);
        alice.settles();
    }
    bob.say("/join ops");
    bob.settles();
    let filler = fill(&disk);
    // The first command after the disk is full is refused like any other.
    for line in [
        "/passwd new password",
        "/gban mallory",
        "/ban mallory",
        "/topic tea",
        "/mute bob",
        "/op bob",
        "/lock",
        "/away tea",
        "/join red",
        "/nick carol",
    ] {
        alice.say(line);
        let answer = alice.hears(|line| line.starts_with('['));
        assert!(answer.starts_with("[ERROR storage-full] "), "{line}: {answer}");
    }
    for line in ["/register bobs password", "/session"] {
        bob.say(line);
        let answer = bob.next();
        assert!(answer.starts_with("[ERROR storage-full] "), "{line}: {answer}");
    }
    bob.say("/join red");
    bob.hears(|line| line.starts_with("[JOINED #red]"));
    assert_eq!(server.stops().0, Some(0));
    fs::remove_file(filler).expect("removed");
    let server = Server::start_in(&log, &["--oper-password-file", SESAME_FILE]);
    let mut alice = Peer::connect(server.port);
    alice.say("/login alice old password");
    alice.hears(|line| line.starts_with("[WELCOME alice]"));
    Peer::join(server.port, "mallory");
}

#[test]
fn full_disk_reports_unstored_changes_at_stop() {
    let Some(disk) = SmallDisk::new("4m") else { return };
    let log = disk.0.path().join("log");
    let server = Server::start_in(&log, &[]);
    let mut dave = Peer::join(server.port, "dave");
    dave.say("/session");
    dave.settles();
    let _filler = fill(&disk);
    // Until space that was allocated earlier is used up as well.
    let mut talk = Conversation::begin(server.port);
    while talk.say(10) > 0 {}
    dave.say("/quit");
    dave.rest();
    let (code, said) = server.stops();
    let named = "without storing acknowledged changes: the end of a session";
    let is_named = said.iter().any(|line| line.contains(named));
    // A small change may fit where a burst of messages does not.
    let sql = "SELECT count(*) = 0 FROM kept WHERE shelf = 'visit'";
    let connection = rusqlite::Connection::open(log.join("chatty.db")).expect("the log");
    let is_stored: bool = connection.query_row(sql, [], |row| row.get(0)).expect("a count");
    assert_eq!((code, is_named), if is_stored { (Some(0), false) } else { (Some(1), true) });
}

#[test]
fn failed_checkpoint_ends_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut shell = Command::new("sh");
    // A limit of 8 MB per file is not a full disk.
    shell.args(["-c", "trap '' XFSZ; ulimit -f 16384; exec \"$0\" \"$@\""]);
    let log = folder.path().to_str().expect("a plain path");
    let server = Server::spawn_under(shell, &["--data", log]);
    let mut alice = Peer::join(server.port, "alice");
    let line = "x".repeat(4000);
    let mut shown = 0;
    loop {
        alice.say(&line);
        match alice.try_next() {
            Some(echo) => assert_eq!(echo, format!("alice: {line}")),
            None => break,
        }
        shown += 1;
        assert!(shown < 10_000, "it is written on");
    }
    assert!(server.logs().starts_with("chatty: the log failed: "));
    assert_eq!(server.wait(), Some(1));
    // The write-ahead log has not reached the limit.
    let file = folder.path().join("chatty.db");
    let size = fs::metadata(folder.path().join("chatty.db-wal")).map_or(0, |wal| wal.len());
    assert!(size < 6 << 20, "{size}");
    assert!(rows(&file).len() >= shown);
}

/// Runs a server on a disk whose writes begin to fail with `error`; returns the server and the
/// reply to a line sent then, if any.
fn on_failing_disk(folder: &Path, error: &str) -> (Server, Option<String>) {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-q", "-o", "/dev/null", "-e", "trace=write,pwrite64"]);
    // `pwrite64` writes the log; the other call probes for free space.
    strace.args(["-e", &format!("inject=pwrite64:error={error}:when=300+")]);
    strace.args(["-e", &format!("inject=write:error={error}")]);
    for file in ["chatty.db-wal", "chatty.room"] {
        strace.arg("-P").arg(folder.join(file));
    }
    let log = folder.to_str().expect("a plain path");
    let server = Server::spawn_under(strace, &["--data", log]);
    let mut alice = Peer::join(server.port, "alice");
    for _ in 0..1000 {
        alice.say("hi");
        let received = alice.try_next();
        if received.as_deref() != Some("alice: hi") {
            return (server, received);
        }
    }
    panic!("the disk does not fail");
}

#[test]
fn quota_error_refuses_lines_and_io_error_ends_server() {
    if !can_trace() {
        return;
    }
    let [one, other] = [(), ()].map(|()| tempfile::tempdir().expect("a folder"));
    let (server, received) = on_failing_disk(one.path(), "EDQUOT");
    let received = received.expect("an answer");
    assert!(received.starts_with("[ERROR storage-full] "), "{received}");
    Peer::join(server.port, "bob");
    let (server, received) = on_failing_disk(other.path(), "EIO");
    assert_eq!(received, None);
    assert!(server.logs().starts_with("chatty: the log failed: "));
}
