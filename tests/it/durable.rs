//! The log: what anyone was shown is there after a restart, after a crash at any
//! moment, and whatever the disk does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{CHATTY, Peer, Server, text};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The rows of a room, as `(id, message)`, oldest first, page by page.
fn history(port: u16, room: &str) -> Vec<(u64, String)> {
    let mut reader = Peer::join(port, "historian");
    reader.say("/set tags on");
    reader.say(&format!("/join {room}"));
    let (mut rows, mut last) = (Vec::new(), 0);
    loop {
        reader.say(&format!("/history 1000 after {last} #{room}"));
        let header = reader.hears(|line| line.starts_with("[HISTORY "));
        let count: usize =
            header.trim_end_matches(']').rsplit(' ').next().unwrap().parse().unwrap();
        for _ in 0..count {
            let row = reader.hears(|line| line.starts_with("@id="));
            let (tags, row) = row["@id=".len()..].split_once(' ').unwrap();
            let id = tags.split(';').next().unwrap().parse().unwrap();
            assert!(id > last, "ids grow");
            last = id;
            rows.push((id, row.split_once(' ').unwrap().1.to_owned()));
        }
        if count == 0 {
            reader.say("/quit"); // the name is free again when this is answered
            reader.rest();
            return rows;
        }
    }
}

#[test]
fn a_restart_forgets_nothing_and_ids_go_on() {
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
fn a_guests_private_thread_ends_with_the_visit_also_across_a_restart() {
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

/// Said by writers without pause, each line marked, until the server is killed;
/// what each was shown as its own, and what a reader saw, has to be there.
#[test]
fn what_anyone_was_shown_outlives_a_kill_at_any_moment() {
    const CYCLES: u64 = 12;
    let folder = folder();
    let mut shown: BTreeMap<u64, String> = BTreeMap::new();
    for cycle in 0..CYCLES {
        let started = Instant::now();
        let mut server = Server::start_in(folder.path(), &[]);
        assert!(started.elapsed() < Duration::from_secs(10), "ready again");
        let rows = history(server.port, "ops");
        let there: BTreeMap<u64, String> = rows.iter().cloned().collect();
        assert_eq!(there.len(), rows.len(), "nothing is there twice");
        for (id, line) in &shown {
            assert_eq!(there.get(id), Some(line), "cycle {cycle}: {id} was shown");
        }
        let highest = rows.last().map_or(0, |(id, _)| *id);
        let people: Vec<_> = (0..4)
            .map(|number| {
                let port = server.port;
                thread::spawn(move || talk_until_the_end(port, cycle, number))
            })
            .collect();
        // Another moment each time, from amid the logins to amid the flood.
        thread::sleep(Duration::from_millis(15 + 13 * cycle));
        server.kill();
        for person in people {
            for (id, line) in person.join().expect("a person") {
                assert!(id > highest, "an id is never given again");
                let other = shown.insert(id, line.clone());
                assert!(other.is_none_or(|other| other == line), "{id} is two messages");
            }
        }
    }
    assert!(!shown.is_empty(), "somebody was shown something");
}

/// Everything that was shown to one person, by id, until the connection broke.
fn talk_until_the_end(port: u16, cycle: u64, number: u64) -> Vec<(u64, String)> {
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        return Vec::new();
    };
    let mut sink = stream.try_clone().expect("a second handle");
    let talking = thread::spawn(move || {
        let _ = sink.write_all(format!("/set tags on\np{number}\n/join ops\n").as_bytes());
        for count in 0_u64.. {
            // Ends when the server does.
            let line = format!("@cid={count} {cycle}-{number}-{count}\n");
            if sink.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let _ = talking.join();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let seen = String::from_utf8(bytes[..whole].to_vec()).expect("UTF-8");
    let message = |line: &str| {
        let (tags, line) = line.strip_prefix("@id=")?.split_once(' ')?;
        Some((tags.split(';').next()?.parse().ok()?, line.to_owned()))
    };
    seen.lines().filter_map(message).collect()
}

#[test]
fn a_second_server_on_the_same_folder_is_refused_in_one_line() {
    let folder = folder();
    let _server = Server::start_in(folder.path(), &[]);
    let output = Command::new(CHATTY)
        .args(["serve", "--port", "0", "--data", folder.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.starts_with("chatty: another chatty keeps its log in "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn nobody_else_can_read_the_folder() {
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
fn a_log_of_a_newer_chatty_is_left_alone() {
    let folder = folder();
    Server::start_in(folder.path(), &[]).kill();
    let file = folder.path().join("chatty.db");
    let mut bytes = fs::read(&file).unwrap();
    fs::remove_file(folder.path().join("chatty.db-wal")).ok();
    // The schema's number stands at offset 60 of the file's head.
    if bytes.len() >= 64 {
        bytes[60..64].copy_from_slice(&1000_u32.to_be_bytes());
        fs::write(&file, bytes).unwrap();
        let output = Command::new(CHATTY)
            .args(["serve", "--port", "0", "--data", folder.path().to_str().unwrap()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("newer chatty"), "{}", text(&output.stderr));
    }
}

#[test]
fn only_the_latest_messages_are_kept_if_told_so() {
    let folder = folder();
    let server = Server::start_in(folder.path(), &["--keep-messages", "10"]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/join ops");
    for count in 0..50 {
        alice.say(&format!("m{count}"));
    }
    alice.settles();
    let start = Instant::now();
    while history(server.port, "ops").len() > 10 {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing is forgotten");
        thread::yield_now();
    }
    let rows = history(server.port, "ops");
    assert_eq!(rows.first().unwrap(), &(41, "#ops alice: m40".to_owned()));
}

/// A disk of its own, as small as wished; gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let folder = folder();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(folder));
        }
        let _ = writeln!(std::io::stderr(), "skipped: a small disk cannot be mounted here");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn on_a_full_disk_lines_are_refused_and_shown_to_nobody_until_there_is_room() {
    let Some(disk) = SmallDisk::new("4m") else { return };
    let server = Server::start_in(&disk.0.path().join("log"), &[]);
    let filler = disk.0.path().join("filler");
    let mut alice = Peer::join(server.port, "alice");
    let mut bob = Peer::join(server.port, "bob");
    alice.hears(|line| line == "* bob joined");
    alice.say("before");
    bob.hears(|line| line == "alice: before");
    // All that is left of the disk.
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let line = "x".repeat(4000);
    let mut said = 0;
    loop {
        alice.say(&line);
        said += 1;
        let answer = alice.hears(|l| l.starts_with("alice: x") || l.starts_with("[ERROR "));
        if answer.starts_with("[ERROR storage-full] ") {
            break;
        }
        assert!(said < 1000, "there is room for ever");
    }
    let seen = bob.settles();
    let shown = seen.iter().filter(|line| line.starts_with("alice: x")).count();
    assert_eq!(shown, said - 1, "what is refused nobody sees");
    // Everything but saying goes on.
    alice.say("/join ops");
    alice.hears(|line| line == "[USERS #ops 1] alice");
    alice.say("/history 1 #lobby");
    alice.hears(|line| line == "[HISTORY #lobby 1]");
    fs::remove_file(&filler).unwrap();
    let start = Instant::now();
    loop {
        alice.say("/msg #lobby again");
        let answer = alice.hears(|l| l == "alice: again" || l.starts_with("[ERROR "));
        if answer == "alice: again" {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(2), "works again within 2 s");
    }
    bob.hears(|line| line == "alice: again");
    drop((alice, bob));
    drop(server);
    let server = Server::start_in(&disk.0.path().join("log"), &[]);
    let rows = history(server.port, "lobby");
    assert_eq!(rows.len(), 1 + (said - 1) + 1, "what was shown, and nothing else");
}
