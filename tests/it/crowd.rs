//! Many users and slow readers: no message is lost, duplicated or reordered, and a slow reader
//! delays no other user.

use std::iter;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{Peer, SESAME, SESAME_FILE, Server};

const PEOPLE: usize = 100;
const TALKERS: usize = 50;
const EACH: usize = 40;

/// Every user sends lines at the same time; each receives every message once, all in the same
/// order, and the lines of each sender in the order sent.
#[test]
fn hundred_users_receive_same_lines_in_same_order() {
    let server = Server::start();
    let mut people: Vec<Peer> =
        (0..PEOPLE).map(|number| Peer::join(server.port, &format!("p{number}"))).collect();
    for person in people.iter_mut().step_by(2) {
        person.say("/set tags on");
    }
    for person in &mut people {
        person.say("/set joins off"); // users leave while others still listen
        person.settles();
    }
    let listening: Vec<_> = people
        .into_iter()
        .enumerate()
        .map(|(number, mut person)| thread::spawn(move || talk_and_listen(number, &mut person)))
        .collect();
    let received: Vec<Vec<String>> = listening.into_iter().map(|t| t.join().unwrap()).collect();
    for (number, lines) in received.iter().enumerate() {
        assert_eq!(lines.len(), TALKERS * EACH, "p{number}");
        assert!(lines == &received[0], "p{number} heard another order");
    }
    for talker in 0..TALKERS {
        let start = format!("p{talker}: ");
        let said: Vec<&str> = received[0].iter().filter_map(|l| l.strip_prefix(&start)).collect();
        let order: Vec<String> = (0..EACH).map(|count| format!("m{count}")).collect();
        assert_eq!(said, order, "p{talker}");
    }
}

fn talk_and_listen(number: usize, person: &mut Peer) -> Vec<String> {
    if number < TALKERS {
        for count in 0..EACH {
            person.say(&format!("m{count}"));
        }
    }
    let (mut received, mut last_id) = (Vec::new(), 0);
    while received.len() < TALKERS * EACH {
        let line = person.next();
        let line = match line.strip_prefix("@id=") {
            Some(tagged) => {
                let (tags, plain) = tagged.split_once(' ').unwrap();
                let id: u64 = tags.split(';').next().unwrap().parse().unwrap();
                assert!(id > last_id, "ids grow");
                last_id = id;
                plain.to_owned()
            }
            None => line,
        };
        received.push(line);
    }
    assert_eq!(person.settles(), [""; 0], "nothing comes twice");
    received
}

/// Megabytes of replies wait while the client does not read; all of them arrive.
#[test]
fn late_reader_receives_every_reply() {
    let server = Server::start();
    let mut alice = Peer::join(server.port, "alice");
    let asked = 2000;
    alice.send("/help\n".repeat(asked).as_bytes());
    alice.say("/quit");
    // Another user is served in the meantime.
    let mut bob = Peer::join(server.port, "bob");
    bob.say("hi");
    bob.hears(|line| line == "bob: hi");
    let lines = alice.rest();
    let answers = lines.iter().filter(|line| line.starts_with("[HELP ")).count();
    assert_eq!(answers, asked);
    assert_eq!(lines.last().unwrap(), "[BYE quit] goodbye");
    let rows = lines.iter().filter(|line| line.starts_with('/')).count();
    let each: usize = lines
        .iter()
        .find_map(|l| l.strip_prefix("[HELP ")?.strip_suffix(']'))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(rows, asked * each);
}

/// Like the test above with the user's own echoes: more than may wait unread.
#[test]
fn late_reader_receives_every_echo() {
    let server = Server::start_with(&["--outbox", "64KiB"]);
    let mut alice = Peer::join(server.port, "alice");
    let mut talking = alice.socket().try_clone().unwrap();
    let text = "z".repeat(4000);
    let said = 1100;
    let input = format!("{text}\n").repeat(said) + "/quit\n";
    // The server stops reading above its limit (backpressure), so sending must go on while the
    // client has begun to read.
    let saying = thread::spawn(move || std::io::Write::write_all(&mut talking, input.as_bytes()));
    let lines = alice.rest();
    saying.join().unwrap().unwrap();
    assert_eq!(lines.iter().filter(|line| line.starts_with("alice: zzz")).count(), said);
    assert_eq!(lines.last().unwrap(), "[BYE quit] goodbye");
}

/// Reads a little at a time, without long pauses.
fn reads_slowly(peer: &mut Peer, per_second: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = vec![0; per_second / 20];
    loop {
        let start = Instant::now();
        match std::io::Read::read(&mut peer.socket(), &mut piece).expect("a clean end") {
            0 => return all,
            count => all.extend_from_slice(&piece[..count]),
        }
        // the reading speed
        thread::sleep(Duration::from_millis(50).saturating_sub(start.elapsed()));
    }
}

#[test]
fn slow_reader_receives_everything() {
    let server = Server::start_with(&["--write-stall", "300ms"]);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set echo off");
    for number in 0..1000 {
        alice.say(&format!("{number} {}", "x".repeat(4000)));
    }
    alice.settles();
    let mut slow = Peer::join(server.port, "slow");
    slow.settles();
    // More than the system's buffers hold, and slow enough that they take longer to drain than the
    // stall timeout.
    let _ = SockRef::from(slow.socket()).set_recv_buffer_size(64 << 10);
    for _ in 0..2 {
        slow.say("/history 1000");
    }
    slow.say("/quit");
    let read = String::from_utf8(reads_slowly(&mut slow, 3 << 20)).expect("UTF-8");
    let lines: Vec<&str> = read.lines().collect();
    assert_eq!(lines.len(), 2 * 1001 + 1, "{:?}", lines.last());
    assert_eq!(lines[2002], "[BYE quit] goodbye");
}

#[test]
fn stalled_reader_is_disconnected_without_delaying_others() {
    let server = Server::start_with(&["--outbox", "64KiB", "--write-stall", "2s"]);
    let mut stuck = Peer::join(server.port, "stuck");
    let mut alice = Peer::join(server.port, "alice");
    let text = "y".repeat(4000);
    // Each line is read before the next is sent, so that the latency is measured.
    let start = Instant::now();
    loop {
        alice.say(&text);
        let is_gone = |line: &str| line == "* stuck quit";
        let line = alice.hears(|line| line.starts_with("alice: ") || is_gone(line));
        if is_gone(&line) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "still here");
    }
    // Unread lines are dropped; the farewell arrives, and lines are complete.
    let lines = stuck.rest();
    let (last, before) = lines.split_last().unwrap();
    assert!(last.starts_with("[BYE slow-reader] "), "{last}");
    let whole = format!("alice: {text}");
    assert!(before.iter().all(|line| line == "* alice joined" || *line == whole));
}

/// Connects with a small receive buffer.
fn connect_with_small_buffer(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    socket.connect(&address.into()).expect("a connection");
    socket.into()
}

/// Reading a little now and then is enough, although the system reports writability only when much
/// of the buffer is free.
#[test]
fn slow_but_steady_reader_is_not_disconnected() {
    let server = Server::start_with(&["--outbox", "64KiB", "--write-stall", "1s"]);
    let mut slow = Peer::on(connect_with_small_buffer(server.port), "slow");
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set echo off");
    alice.send(format!("{}\n", "z".repeat(4000)).repeat(500).as_bytes());
    alice.settles();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        slow.take(4096);
        // the reading speed
        thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(alice.settles(), [""; 0], "no user was disconnected");
}

#[test]
fn farewell_waits_for_late_reader() {
    let server = Server::start_with(&["--outbox", "64KiB", "--write-stall", "500ms"]);
    let mut stuck = Peer::join(server.port, "stuck");
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set echo off");
    let sockets = server.count_sockets();
    alice.send(format!("{}\n", "z".repeat(4000)).repeat(2000).as_bytes());
    alice.hears(|line| line == "* stuck quit");
    server.waits_for_fewer_sockets(sockets);
    let lines = stuck.rest();
    let (last, before) = lines.split_last().unwrap();
    assert!(last.starts_with("[BYE slow-reader] "), "{last}");
    let whole = format!("alice: {}", "z".repeat(4000));
    let is_other = |line: &&String| {
        !["* alice joined", &whole].contains(&line.as_str()) && !line.starts_with("[USERS ")
    };
    let other = before.iter().find(is_other);
    assert_eq!(other, None);
}

/// No message is lost: a user with a session resumes it.
#[test]
fn disconnected_slow_reader_resumes_at_its_position() {
    let server = Server::start_with(&["--outbox", "64KiB", "--write-stall", "500ms"]);
    let mut stuck = Peer::join(server.port, "stuck");
    stuck.say("/set tags on\n/session");
    let token = stuck.hears(|line| line.contains("[SESSION "));
    let token = token.split_once("[SESSION ").unwrap().1.split(']').next().unwrap().to_owned();
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set echo off");
    let sockets = server.count_sockets();
    alice.send(format!("{}\n", "z".repeat(4000)).repeat(2000).as_bytes());
    alice.settles();
    server.waits_for_fewer_sockets(sockets);
    let ids = |lines: &[String]| -> Vec<u64> {
        let tags = lines.iter().filter_map(|line| line.strip_prefix("@id=")?.split(';').next());
        tags.map(|id| id.parse().unwrap()).collect()
    };
    let mut received = ids(&stuck.rest());
    let last = received.last().copied().unwrap_or_default();
    let mut again = Peer::connect(server.port);
    again.say(&format!("/set tags on\n/resume {token} {last}\n/quit"));
    received.extend(ids(&again.rest()));
    assert_eq!(received, (1..=2000).collect::<Vec<_>>());
    assert_eq!(alice.settles(), ["* stuck quit"], "only now");
}

/// Sends far more than may wait in memory for one reader; when the reader continues, it receives
/// everything once and in order, and is live again.
fn check_late_reader_catches_up(server: &Server) {
    let mut late = Peer::join(server.port, "late");
    late.say("/set tags on");
    late.settles();
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set echo off");
    let (said, text) = (6000, "y".repeat(1000));
    for number in 0..said {
        alice.say(&format!("{number} {text}"));
    }
    alice.settles();
    alice.say("/nick al");
    alice.settles();
    let mut last_id = 0;
    for number in 0..said {
        let line = late.hears(|line| line.contains(" alice: "));
        let (tags, line) = line.split_once(' ').unwrap();
        assert_eq!(line, format!("alice: {number} {text}"));
        let id: u64 = tags["@id=".len()..].split(';').next().unwrap().parse().unwrap();
        assert!(id > last_id, "ids grow");
        last_id = id;
    }
    alice.say("live again");
    late.hears(|line| line.ends_with(" al: live again"));
    // The member list is up to date as well.
    late.say("/who");
    late.hears(|line| line == "[USERS #lobby 2] al,late");
}

/// Events that are not in the log arrive in position as well; only presence is left out.
#[test]
fn late_reader_receives_moderation_events_in_position() {
    let flags = ["--outbox", "64KiB", "--write-stall", "60s", "--oper-password-file", SESAME_FILE];
    let server = Server::start_with(&flags);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/join ops");
    alice.settles();
    let mut late = Peer::join(server.port, "late");
    late.say("/join ops");
    late.settles();
    alice.say(&format!("/oper {SESAME}"));
    alice.say("/set echo off");
    alice.settles();
    let much = format!("{}\n", "z".repeat(4000)).repeat(1000);
    alice.send(format!("first\n{much}/topic one\nsecond\n{much}").as_bytes());
    alice.say("/nick al\n/wall all of you\nthird\n/kick late enough\nnot for late");
    alice.settles();
    late.say("/ping end");
    let lines: Vec<String> =
        iter::from_fn(|| Some(late.next()).filter(|line| line != "[PONG end]"))
            .filter(|line| !line.ends_with("zzz") && !line.starts_with("[USERS "))
            .collect();
    let expected = [
        "#ops alice: first",
        "#ops * alice set the topic: one",
        "#ops alice: second",
        "* alice is now al",
        "[WALL] al: all of you",
        "#ops al: third",
        "[KICKED #ops] al: enough",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn late_reader_catches_up_from_memory_log() {
    let server = Server::start_with(&["--outbox", "64KiB", "--write-stall", "60s"]);
    check_late_reader_catches_up(&server);
}

#[test]
fn late_readers_catch_up_under_small_total_limit() {
    let server = Server::start_with(&["--outbox-total", "100KiB", "--write-stall", "60s"]);
    check_late_reader_catches_up(&server);
}

#[test]
fn late_reader_catches_up_from_disk_log() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--outbox", "64KiB", "--write-stall", "60s"];
    check_late_reader_catches_up(&Server::start_in(folder.path(), &flags));
}

#[test]
fn connection_churn_leaks_nothing() {
    let server = Server::start();
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set joins off");
    for round in 0..4 {
        let crowd: Vec<Peer> =
            (0..50).map(|number| Peer::join(server.port, &format!("p{number}"))).collect();
        for (number, mut person) in crowd.into_iter().enumerate() {
            match (number + round) % 3 {
                0 => person.say("/quit"),
                1 => person.socket().shutdown(std::net::Shutdown::Write).unwrap(),
                _ => continue, // disconnects without /quit
            }
            person.hears(|line| line.starts_with("[BYE quit]"));
        }
        // The disconnects are detected soon, but not at once.
        while alice_sees(&mut alice) != "[USERS #lobby 1] alice" {
            thread::yield_now();
        }
    }
}

fn alice_sees(alice: &mut Peer) -> String {
    alice.say("/who");
    alice.hears(|line| line.starts_with("[USERS"))
}

/// A client that requests all rooms repeatedly without reading is sent one page; the next one
/// follows when the page is read.
#[test]
fn long_lists_use_no_memory_until_read() {
    let server = Server::start_with(&["--rooms-per-person", "601", "--write-stall", "60s"]);
    let mut alice = Peer::join(server.port, "alice");
    let topic = "t".repeat(4000);
    for room in 0..600 {
        alice.say(&format!("/join r{room}\n/topic {topic}"));
    }
    alice.settles();
    let before = peak(&server);
    let asked = 3;
    let waiting: Vec<Peer> = (0..24)
        .map(|number| {
            let mut peer = Peer::join(server.port, &format!("a{number}"));
            peer.say("/set joins off");
            peer.send("/list\n".repeat(asked).as_bytes());
            peer
        })
        .collect();
    alice.settles();
    for mut peer in waiting {
        peer.say("/quit");
        let said = peer.rest();
        assert_eq!(said.iter().filter(|line| *line == "[ROOMS 601]").count(), asked);
        assert_eq!(said.iter().filter(|line| line.starts_with("[ROOM #")).count(), asked * 601);
    }
    // One reply has 2.4 MB; all requested replies together 170 MB.
    let grown = peak(&server) - before;
    assert!(grown < 48 << 20, "{grown} bytes more");
}

/// The peak resident memory of the server, in bytes.
fn peak(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.process_id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}
