//! Reconnect and resume in `chatty join`: no piped or typed line is lost or duplicated, and lines
//! of unknown outcome are reported.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::proxy::Proxy;
use crate::support::{CHATTY, Peer, Server, Terminal, count, send_signal};

const DEADLINE: Duration = Duration::from_secs(30);

/// A running `chatty join` with piped input and output.
pub(crate) struct Pipe {
    child: Child,
    stdin: Option<ChildStdin>,
    pub(crate) out: Receiver<String>,
    pub(crate) errors: Receiver<String>,
}

fn lines_of(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (lines, received) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    received
}

/// Returns the lines up to and including the next one that ends with `end`.
pub(crate) fn lines_until(lines: &Receiver<String>, end: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.ends_with(end)) {
        let next = lines.recv_timeout(DEADLINE);
        seen.push(next.unwrap_or_else(|_| panic!("never: {end}; after {:?}", seen.last())));
    }
    seen
}

impl Pipe {
    fn start(port: u16, args: &[&str]) -> Self {
        Self::start_by(Path::new(CHATTY), port, args)
    }

    /// Starts a client of another version.
    pub(crate) fn start_by(program: &Path, port: u16, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(["join", "127.0.0.1", "--port", &port.to_string()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("chatty join");
        let stdin = child.stdin.take();
        let out = lines_of(child.stdout.take().expect("piped"));
        let errors = lines_of(child.stderr.take().expect("piped"));
        Self { child, stdin, out, errors }
    }

    pub(crate) fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("say");
    }

    fn signal(&self, name: &str) {
        send_signal(self.child.id(), name);
    }

    /// Closes the input; returns the exit code, the remaining output, and the stderr lines.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<String>, Vec<String>) {
        drop(self.stdin.take());
        let (out, errors) = (self.out.iter().collect(), self.errors.iter().collect());
        (self.child.wait().expect("an end").code(), out, errors)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn piped_client_survives_two_server_crashes_without_loss() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let port = server.port;
    let mut pipe = Pipe::start(port, &["--name", "tail", "--room", "ops", "--raw"]);
    let mut out = Vec::new();
    for (crash, seen) in [(0, 40), (1, 440)] {
        (crash * 400..crash * 400 + 200).for_each(|n| pipe.say(&format!("line {n}.")));
        out.extend(lines_until(&pipe.out, &format!(" line {seen}.")));
        server.kill();
        (crash * 400 + 200..crash * 400 + 400).for_each(|n| pipe.say(&format!("line {n}.")));
        lines_until(&pipe.errors, "connection lost; reconnecting");
        let data = folder.path().to_str().expect("a plain path");
        server = Server::start_again(port, &["--data", data]);
    }
    let mut witness = Peer::join(port, "witness");
    let (exit, rest, errors) = pipe.end();
    out.extend(rest);
    let said: Vec<_> = out.iter().filter_map(|line| line.strip_prefix("#ops tail: ")).collect();
    let lines: Vec<_> = (0..800).map(|n| format!("line {n}.")).collect();
    assert_eq!(said, lines);
    assert_eq!(exit, Some(0), "{errors:?}");
    assert!(errors.last().is_some_and(|line| line.starts_with("chatty: reconnected after ")));
    witness.say("/join ops");
    witness.say("/history 1000");
    let kept: Vec<_> = witness.settles();
    let kept: Vec<_> = kept.iter().filter_map(|line| line.split_once("#ops tail: ")).collect();
    assert_eq!(kept.iter().map(|(_, line)| *line).collect::<Vec<_>>(), lines);
}

#[test]
fn terminal_shows_missed_lines_and_sends_typed_lines_after_reconnect() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(proxy.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    bob.hears(|line| line == "* alice joined");
    alice.types("before\r");
    bob.hears(|line| line == "alice: before");
    alice.types("half a li");
    alice.shows_last("#lobby> half a li");
    proxy.cut();
    let lost = "-- connection lost; reconnecting …";
    alice.shows(lost, |rows| count(rows, lost) == 1);
    alice.types("ne\rdraft");
    alice.shows("the unread count", |rows| count(rows, "-- to be sent: half a line") == 1);
    alice.shows_last("lost #lobby> draft");
    bob.say("one");
    bob.say("two");
    bob.settles();
    proxy.mend();
    assert_eq!(bob.hears(|line| line.starts_with("alice: ")), "alice: half a line");
    let rows = alice.shows("my line", |rows| count(rows, " alice: half a line") == 1);
    let at = |text: &str| {
        let rows: Vec<_> = rows.iter().enumerate().filter(|(_, r)| r.ends_with(text)).collect();
        assert_eq!(rows.len(), 1, "{text} {rows:?}");
        rows[0].0
    };
    let order = [" alice: before", lost, "—— 2 missed ——", " bob: one", " bob: two"];
    assert!(order.map(at).is_sorted(), "{rows:?}");
    assert!(rows.iter().any(|row| row.starts_with("-- reconnected after ")), "{rows:?}");
    alice.shows_last("#lobby> draft");
    alice.types(" two\r");
    // Bob has seen no quit of alice, and every line once.
    let heard = [bob.next(), bob.settles().concat()];
    assert_eq!(heard.concat(), "alice: draft two");
    alice.types("/quit\r");
    alice.ends_with(0);
    assert_eq!(bob.next(), "* alice quit");
}

/// Alice in a pipe, and bob, both in #ops. The server receives alice's lines, but its output is
/// lost on the way to alice.
struct Muted {
    _server: Server,
    proxy: Proxy,
    bob: Peer,
    pipe: Pipe,
}

impl Muted {
    fn start(flags: &[&str]) -> Self {
        let server = Server::start_with(flags);
        let proxy = Proxy::start(server.port);
        let mut bob = Peer::join(server.port, "bob");
        bob.say("/join ops");
        let mut pipe = Pipe::start(proxy.port, &["--name", "alice", "--room", "ops"]);
        pipe.say("before");
        lines_until(&pipe.out, "#ops alice: before");
        bob.hears(|line| line == "#ops alice: before");
        proxy.mute();
        Self { _server: server, proxy, bob, pipe }
    }

    /// Alice sends these lines, and bob receives them.
    fn say(&mut self, lines: &[&str], heard: &[&str]) {
        for line in lines {
            self.pipe.say(line);
        }
        for line in heard {
            assert_eq!(self.bob.next(), *line);
        }
    }

    /// Cuts the connection, calls `meanwhile`, and waits until alice has reconnected.
    fn cut(&mut self, meanwhile: impl FnOnce(&mut Peer)) {
        self.proxy.cut();
        lines_until(&self.pipe.errors, "connection lost; reconnecting");
        meanwhile(&mut self.bob);
        self.proxy.mend();
    }
}

#[test]
fn line_with_lost_reply_takes_effect_once() {
    let cases: [(&[&str], &[&str], &[&str]); 2] = [
        (
            &["hello", "/me waves", "/topic new", "/nick al", "/join art", "/msg #ops x"],
            &[
                "#ops alice: hello",
                "#ops ** alice waves",
                "#ops * alice set the topic: new",
                "* alice is now al",
            ],
            &[
                "#ops alice: hello",
                "#ops ** alice waves",
                "#ops * al set the topic: new",
                "* al is now al",
                "[JOINED #art] your messages now go to this room",
                "[USERS #art 1] al",
                "#ops al: x",
            ],
        ),
        (
            &["/part", "in the lobby", "/msg #ops x"],
            &["#ops * alice left", "alice: in the lobby"],
            &["alice: in the lobby", "[PARTED #ops]", "[ERROR not-in-room] "],
        ),
    ];
    for (lines, heard, answers) in cases {
        let mut alice = Muted::start(&[]);
        alice.say(lines, heard);
        alice.cut(|_| {});
        let Muted { _server, mut bob, pipe, .. } = alice;
        let (exit, out, errors) = pipe.end();
        let is_refused = answers.iter().any(|line| line.starts_with("[ERROR "));
        assert_eq!(exit, Some(i32::from(is_refused)), "{errors:?}");
        assert_eq!(out.len(), answers.len(), "{out:?}");
        assert!(out.iter().zip(answers).all(|(line, start)| line.starts_with(start)), "{out:?}");
        let rest = bob.settles();
        let rest: Vec<_> = rest.iter().map(String::as_str).collect();
        let end = if is_refused { &["* alice quit"][..] } else { &["#ops al: x", "* al quit"] };
        assert_eq!(rest, end);
    }
}

#[test]
fn expired_session_catches_up_without_duplicates() {
    let mut alice = Muted::start(&["--session-grace", "100ms"]);
    alice.say(&["hello"], &["#ops alice: hello"]);
    alice.cut(|bob| {
        bob.hears(|line| line == "* alice quit");
        bob.say("one");
        bob.say("two");
        bob.settles();
    });
    let Muted { _server, mut bob, mut pipe, .. } = alice;
    pipe.say("later");
    let mut out = lines_until(&pipe.out, "#ops alice: later");
    out.retain(|line| line.starts_with("#ops ") && !line.starts_with("#ops *"));
    let seen = ["#ops alice: hello", "#ops bob: one", "#ops bob: two", "#ops alice: later"];
    assert_eq!(out, seen);
    let (exit, _, errors) = pipe.end();
    assert_eq!(exit, Some(0), "{errors:?}");
    assert!(errors.last().is_some_and(|line| line.ends_with(", in a new session")), "{errors:?}");
    let heard = ["* alice joined", "#ops * alice joined", "#ops alice: later", "* alice quit"];
    assert_eq!(bob.settles(), heard);
}

#[test]
fn new_session_sends_no_line_to_wrong_target() {
    let mut server = Server::start();
    let (port, proxy) = (server.port, Proxy::start(server.port));
    let _bob = Peer::join(port, "bob");
    let Some(alice) = Terminal::join(proxy.port, "--name alice --room ops") else { return };
    alice.shows_last("#ops>");
    let lost = "-- connection lost; reconnecting …";
    let mut restart = |line: &str| {
        let losses = count(&alice.rows(), lost);
        proxy.cut();
        server.kill();
        server = Server::start_again(port, &["--ephemeral"]);
        let mut carol = Peer::join(port, "carol");
        carol.say("/join ops");
        alice.shows("the lost connection", |rows| count(rows, lost) > losses);
        alice.types(&format!("{line}\r"));
        let pending = format!("-- to be sent: {line}");
        alice.shows("the unread count", |rows| count(rows, &pending) == 1);
        proxy.mend();
        carol
    };
    // The line goes to its original target #ops.
    let mut carol = restart("for the room");
    assert_eq!(carol.hears(|line| line.contains("alice:")), "#ops alice: for the room");
    alice.shows_last("#ops>");
    // The target has no user any more, so the line must not be sent.
    alice.types("/query carol\r");
    alice.shows_last("carol>");
    carol.say("/nick dora");
    carol.hears(|line| line == "* carol is now dora");
    alice.shows_last("dora>");
    let mut carol = restart("for dora");
    alice.shows("the line", |rows| count(rows, "-- not sent: for dora") == 1);
    alice.shows_last("#ops>");
    alice.types("anybody?\r");
    assert_eq!(carol.hears(|line| line.contains("alice:")), "#ops alice: anybody?");
}

#[test]
fn private_line_typed_offline_is_never_posted_to_room() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(proxy.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    proxy.cut();
    alice.shows("the lost connection", |rows| rows.iter().any(|row| row.contains("reconnecting")));
    alice.types("to all\r/query ghost\rto the ghost\r/query bob\rto bob\r");
    alice.shows("the unread count", |rows| count(rows, "-- to be sent: to bob") == 1);
    proxy.mend();
    alice.shows("the unsent lines", |rows| count(rows, "-- not sent: to the ghost") == 1);
    alice.shows("what is", |rows| count(rows, "[PRIVATE MESSAGE to bob] alice: to bob") == 1);
    let heard = ["* alice joined", "alice: to all", "[PRIVATE MESSAGE] alice: to bob"];
    assert_eq!(bob.settles(), heard);
    alice.presses("Enter");
    alice.shows_last("bob>");
}

#[test]
fn quit_while_offline_reports_unsent_lines() {
    let mut server = Server::start();
    for way in ["C-d", "/quit"] {
        let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
        alice.shows_last("#lobby>");
        server.kill();
        alice.shows("the lost connection", |rows| {
            rows.iter().any(|row| row.contains("reconnecting"))
        });
        alice.types("unheard\r");
        alice.shows("the unread count", |rows| count(rows, "-- to be sent: unheard") == 1);
        match way {
            "C-d" => alice.presses(way),
            line => alice.types(&format!("{line}\r")),
        }
        let rows = alice.ends_with(0);
        assert_eq!(count(&rows, "-- not sent: unheard"), 1, "{rows:?}");
        server = Server::start();
    }
}

#[test]
fn replaced_client_does_not_reconnect() {
    let server = Server::start();
    let mut pipe = Pipe::start(server.port, &["--name", "alice"]);
    pipe.say("/session");
    let session = lines_until(&pipe.out, "keep the token secret").pop().expect("a session");
    let token = session["[SESSION ".len()..].split(']').next().expect("a token");
    let mut other = Peer::connect(server.port);
    other.say(&format!("/resume {token} 0"));
    let errors: Vec<_> = pipe.errors.iter().collect();
    let told = "chatty: the server ended the connection: ";
    assert!(errors.len() == 1 && errors[0].starts_with(told), "{errors:?}");
    assert!(errors[0].ends_with(" (replaced)"), "{errors:?}");
    assert_eq!(pipe.end().0, Some(69));
}

#[test]
fn terminated_client_sends_quit() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    for (signal, exit) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut pipe = Pipe::start(server.port, &["--name", "alice"]);
        pipe.say("one");
        lines_until(&pipe.out, "alice: one");
        pipe.signal(signal);
        bob.hears(|line| line == "* alice quit");
        assert_eq!(pipe.end().0, Some(exit));
    }
}

#[test]
fn client_blocked_on_full_pipe_can_be_terminated() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let mut alice = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("chatty join");
    let mut welcome = [0; 8];
    alice.stdout.as_mut().expect("piped").read_exact(&mut welcome).expect("a welcome");
    // Alice's output is not read, and a pipe holds 64 KiB.
    let line = "x".repeat(4000);
    for _ in 0..40 {
        bob.say(&line);
    }
    bob.settles();
    let start = Instant::now();
    let ended = loop {
        send_signal(alice.id(), "TERM");
        if let Some(ended) = alice.try_wait().expect("a child") {
            break ended;
        }
        assert!(start.elapsed() < DEADLINE, "it does not end");
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended.code(), Some(143), "{ended}");
}

#[test]
fn paused_reader_misses_nothing() {
    // Longer than a busy machine leaves the client without CPU time.
    let stall = Duration::from_secs(2);
    let server = Server::start_with(&["--write-stall", "2s", "--outbox", "64KiB"]);
    let mut bob = Peer::join(server.port, "bob");
    let mut alice = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty join");
    let mut lines = BufReader::new(alice.stdout.take().expect("piped")).lines();
    assert!(lines.next().expect("a line").expect("text").starts_with("[WELCOME alice]"));
    bob.say("/set echo off");
    bob.hears(|line| line.starts_with("[SET "));
    // More than the outbox and the system's buffers hold.
    let padding = "x".repeat(4000);
    for n in 0..4000 {
        bob.say(&format!("{n} {padding}"));
    }
    bob.say("the end");
    bob.settles();
    thread::sleep(2 * stall); // the length of the pause
    let said = lines.map(|line| line.expect("text")).filter(|line| line.starts_with("bob: "));
    let mut said = said.take_while(|line| line != "bob: the end");
    for n in 0..4000 {
        assert_eq!(said.next(), Some(format!("bob: {n} {padding}")));
    }
    assert_eq!(said.next(), None);
    drop(alice.stdin.take());
    let done = alice.wait_with_output().expect("an end");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && told.is_empty(), "{told}");
}

#[test]
fn ignores_survive_reconnect() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    // Ignored as by nohup.
    let mut alice = Command::new("sh")
        .args([
            "-c",
            "trap '' HUP; exec \"$@\"",
            "sh",
            CHATTY,
            "join",
            "127.0.0.1",
            "--name",
            "alice",
        ])
        .args(["--port", &server.port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh");
    bob.hears(|line| line == "* alice joined");
    send_signal(alice.id(), "HUP");
    let mut stdin = alice.stdin.take().expect("piped");
    stdin.write_all(b"still here\n").expect("a pipe");
    assert_eq!(bob.next(), "alice: still here");
    send_signal(alice.id(), "TERM");
    assert_eq!(alice.wait().expect("an end").code(), Some(143));
}

#[test]
fn reconnect_stops_at_its_time_limit() {
    for (args, is_tried) in [(["--retry-for", "0"], false), (["--retry-for", "300ms"], true)] {
        let mut server = Server::start();
        let mut pipe = Pipe::start(server.port, &[&["--name", "alice"], &args[..]].concat());
        pipe.say("one");
        lines_until(&pipe.out, "alice: one");
        server.kill();
        let errors: Vec<_> = pipe.errors.iter().collect();
        assert_eq!(errors.iter().any(|line| line.contains("reconnecting")), is_tried);
        let last = if is_tried { "cannot connect to" } else { "the connection was lost" };
        assert!(errors.last().expect("a reason").contains(last), "{errors:?}");
        assert_eq!(pipe.end().0, Some(69));
    }
}

#[test]
fn client_rejoins_rooms_of_ephemeral_server() {
    let mut server = Server::start();
    let port = server.port;
    let mut pipe = Pipe::start(port, &["--name", "alice", "--room", "ops"]);
    pipe.say("one");
    lines_until(&pipe.out, "#ops alice: one");
    server.kill();
    lines_until(&pipe.errors, "reconnecting");
    pipe.say("two");
    let _server = Server::start_again(port, &["--ephemeral"]);
    lines_until(&pipe.out, "#ops alice: two");
    let (exit, _, errors) = pipe.end();
    assert_eq!(exit, Some(0), "{errors:?}");
    assert!(errors.iter().any(|line| line.contains("in a new session")), "{errors:?}");
}

#[test]
fn draft_and_typed_lines_survive_server_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let port = server.port;
    let Some(alice) = Terminal::join(port, "--name alice --room ops") else { return };
    alice.shows_last("#ops>");
    alice.types("before\r");
    alice.shows("it", |rows| count(rows, "#ops alice: before") == 1);
    server.kill();
    alice.shows_last("lost #ops>");
    alice.types("meanwhile\rhalf a mess");
    alice.shows("the unread count", |rows| count(rows, "-- to be sent: meanwhile") == 1);
    alice.shows_last("lost #ops> half a mess");
    let data = folder.path().display().to_string();
    let server = Server::start_again(port, &["--data", &data]);
    alice.shows("what waited", |rows| count(rows, "#ops alice: meanwhile") == 1);
    let rows = alice.shows_last("#ops> half a mess");
    assert_eq!(count(&rows, "-- connection lost; reconnecting …"), 1, "{rows:?}");
    let mut bob = Peer::join(server.port, "bob");
    bob.say("/join ops");
    bob.hears(|line| line == "[USERS #ops 2] alice,bob");
    alice.types("age\r");
    assert_eq!(bob.next(), "#ops alice: half a message");
    bob.say("/history #ops");
    bob.hears(|line| line == "[HISTORY #ops 3]");
}

#[test]
fn terminal_reconnects_under_other_name_when_name_is_taken() {
    let mut server = Server::start();
    let port = server.port;
    let proxy = Proxy::start(port);
    let Some(alice) = Terminal::join(proxy.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    proxy.cut();
    alice.shows_last("lost #lobby>");
    server.kill();
    let _server = Server::start_again(port, &["--ephemeral"]);
    let mut other = Peer::join(port, "alice");
    proxy.mend();
    alice.shows("the name", |rows| {
        rows.iter().any(|row| row.contains("alice is in use by another user; you are now alice_"))
    });
    alice.types("it is me\r");
    other.hears(|line| line == "alice_: it is me");
    other.say("/quit");
    other.hears(|line| line.starts_with("[BYE quit]"));
    alice.types("/nick alice\r");
    alice.shows("her name", |rows| count(rows, "* alice_ is now alice") == 1);
}

/// A scripted server: answers the opening lines of the next connection; returns the stream and the
/// further lines of the client.
fn next_client(listener: &TcpListener) -> (TcpStream, impl Iterator<Item = String> + use<>) {
    let (mut stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
    stream.write_all(b"[HELLO chatty/1] hi\n").expect("hello");
    let mut answer = stream.try_clone().expect("clone");
    let said = BufReader::new(stream.try_clone().expect("clone")).lines().map_while(Result::ok);
    let rest = said.filter(move |line| {
        let (cid, plain) = match line.strip_prefix("@cid=").and_then(|l| l.split_once(' ')) {
            Some((cid, plain)) => (format!("@cid={cid} "), plain),
            None => (String::new(), line.as_str()),
        };
        let word = plain.split(' ').next().unwrap_or_default();
        let told = match word {
            "/features" => "[FEATURES]",
            "/set" => "[SET echo=on joins=on tags=on]",
            "/login" => "[WELCOME alice] hi",
            "/session" => "[SESSION abc] hi",
            "/resume" => "[ERROR bad-password] it is over",
            "/ping" => "[PONG]",
            "/quit" => "[BYE quit] goodbye",
            _ => return true,
        };
        answer.write_all(format!("{cid}{told}\n").as_bytes()).expect("answer");
        if word == "/quit" {
            let _ = answer.shutdown(std::net::Shutdown::Both);
        }
        false
    });
    (stream, rest)
}

#[test]
fn unconfirmed_lines_of_lost_session_are_reported_and_not_resent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("bound").port();
    let mut pipe = Pipe::start(port, &["--name", "alice"]);
    let (stream, mut said) = next_client(&listener);
    pipe.say("");
    pipe.say("in doubt");
    assert!(said.next().expect("a line").ends_with(" in doubt"));
    // An incomplete line does not count as received.
    (&stream).write_all(b"@id=1 bob: half a li").expect("say");
    drop(said);
    stream.shutdown(std::net::Shutdown::Both).expect("cut");
    lines_until(&pipe.errors, "reconnecting");
    pipe.say("new");
    let answering = thread::spawn(move || {
        let (mut stream, said) = next_client(&listener);
        let said: Vec<_> = said
            .inspect(|line| {
                let cid = line.split(' ').next().expect("a cid");
                stream.write_all(format!("{cid} alice: new\n").as_bytes()).expect("echo");
            })
            .collect();
        said
    });
    let (exit, out, errors) = pipe.end();
    let said = answering.join().expect("an end");
    assert!(said.len() == 1 && said[0].ends_with(" new"), "{said:?}");
    assert_eq!(out.last().map(String::as_str), Some("alice: new"));
    assert!(!out.iter().any(|line| line.starts_with("bob")), "{out:?}");
    assert!(errors.iter().any(|line| line.starts_with("chatty: line 2: sent, but ")), "{errors:?}");
    assert_eq!(exit, Some(69));
}

/// How long the network is flaky; `CHATTY_FLAKY_SECONDS` extends it.
fn flaky_time() -> Duration {
    let seconds = std::env::var("CHATTY_FLAKY_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Every second client uses TLS.
#[test]
fn flaky_network_loses_duplicates_and_reorders_nothing() {
    let server = Server::start_with(&["--tls"]);
    let fingerprint = server.fingerprint();
    let proxy = Proxy::start(server.port);
    let mut witness = Peer::join(server.port, "witness");
    let join = |name: String| {
        let mut args = vec!["--name", &name];
        if name.ends_with(['1', '3']) {
            args.extend(["--tls-fingerprint", &fingerprint]);
        }
        let mut pipe = Pipe::start(proxy.port, &args);
        pipe.say(&format!("{name} is here"));
        lines_until(&pipe.out, &format!("{name} is here"));
        pipe
    };
    let readers: Vec<Pipe> = (0..3).map(|n| join(format!("reader{n}"))).collect();
    let writers: Vec<Pipe> = (0..4).map(|n| join(format!("writer{n}"))).collect();
    for n in 0..10 {
        witness.say(&format!("{n} is here"));
    }
    witness.settles();
    proxy.turn_flaky(20);
    let start = Instant::now();
    let write = |(n, pipe)| thread::spawn(move || write(n, pipe, start));
    let writing: Vec<_> = writers.into_iter().enumerate().map(write).collect();
    let mut mouth = witness.socket().try_clone().expect("a second handle");
    // Reads continuously: a stalled reader would be disconnected.
    let hearing = thread::spawn(move || {
        let mut said = Vec::new();
        while said.last().is_none_or(|line| line != "witness: the end") {
            said.push(witness.hears(|line| !line.starts_with('*') && !line.contains(" is here")));
        }
        said
    });
    let counts: Vec<usize> = writing.into_iter().map(|t| t.join().expect("a writer")).collect();
    assert!(proxy.turn_reliable() > 20);
    mouth.write_all(b"the end\n").expect("say");
    let said = hearing.join().expect("a witness");
    for (writer, count) in counts.into_iter().enumerate() {
        let start = format!("writer{writer}: ");
        let lines: Vec<_> = said.iter().filter_map(|line| line.strip_prefix(&start)).collect();
        let all: Vec<_> = (0..count).map(|n| format!("line {n}")).collect();
        assert_eq!(lines, all, "writer{writer}");
    }
    for reader in readers {
        let mut seen = lines_until(&reader.out, "witness: the end");
        seen.retain(|line| !line.starts_with(['*', '[']) && !line.contains(" is here"));
        assert_eq!(seen.len(), said.len());
        assert!(seen == said, "in another order than the witness saw");
        assert_eq!(reader.end().0, Some(0));
    }
}

#[test]
fn flaky_network_misdirects_no_line() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let mut witness = Peer::join(server.port, "witness");
    witness.say("/join art");
    witness.say("/join ops");
    let mut pipe = Pipe::start(proxy.port, &["--name", "w"]);
    // A client that never logged in reports the error and does not retry.
    pipe.say("here");
    lines_until(&pipe.out, "w: here");
    proxy.turn_flaky(7);
    let start = Instant::now();
    let mut meant = Vec::new();
    for n in 0.. {
        if start.elapsed() > flaky_time() / 2 {
            break;
        }
        for (line, heard) in [
            ("/join art", None),
            ("text", Some("#art w: text")),
            ("/topic topic", Some("#art * w set the topic: topic")),
            ("/join #ops", None),
            ("/me acts", Some("#ops ** w acts")),
            ("/part", None),
            ("/whois w", None),
            ("text", Some("w: text")),
        ] {
            pipe.say(&heard.map_or(line.to_owned(), |_| format!("{line} {n}.")));
            meant.extend(heard.map(|heard| format!("{heard} {n}.")));
        }
        lines_until(&pipe.out, &format!("w: text {n}."));
    }
    proxy.turn_reliable();
    let (exit, _, errors) = pipe.end();
    assert_eq!(exit, Some(0), "{errors:?}");
    let mut heard = witness.settles();
    heard.retain(|line| line.ends_with('.'));
    assert!(meant.len() > 100, "{} lines", meant.len());
    let differs = meant.iter().zip(&heard).find(|(meant, heard)| meant != heard);
    assert_eq!(differs, None);
    assert_eq!(heard.len(), meant.len());
}

/// Sends lines while the network is flaky; returns how many. Each line is acknowledged once and in
/// order, and so are the `/ping`s in between.
fn write(n: usize, mut pipe: Pipe, start: Instant) -> usize {
    let mut count = 0;
    while start.elapsed() < flaky_time() {
        pipe.say(&format!("line {count}"));
        if count % 50 == 0 {
            pipe.say("/history 10");
        }
        count += 1;
        thread::sleep(Duration::from_millis(3));
    }
    let (exit, out, errors) = pipe.end();
    assert_eq!(exit, Some(0), "{errors:?}");
    let mine = format!("writer{n}: line ");
    let said = out.iter().filter_map(|line| line.strip_prefix(&mine)?.parse::<usize>().ok());
    assert!(said.eq(0..count), "{errors:?}");
    let asked = count.div_ceil(50);
    let rows = out.iter().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(out.iter().filter(|line| *line == "[HISTORY #lobby 10]").count(), asked);
    assert_eq!(rows.count(), 10 * asked);
    count
}

#[test]
fn reconnect_command_replaces_connection() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(proxy.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    bob.hears(|line| line == "* alice joined");
    alice.types("/reconnect\r");
    let back =
        |rows: &[String]| rows.iter().filter(|row| row.starts_with("-- reconnected after")).count();
    alice.shows("the reconnect", |rows| back(rows) == 1);
    alice.types("here\r");
    assert_eq!(bob.next(), "alice: here");
    proxy.cut();
    alice.shows_last("lost #lobby>");
    // /help is answered by the client without the server.
    alice.types("/help topic\r");
    alice.shows("help", |rows| rows.iter().any(|row| row.starts_with("/topic [TEXT]  ")));
    proxy.mend();
    alice.types("/reconnect\r");
    alice.shows("the reconnect", |rows| back(rows) == 2);
    alice.shows_last("#lobby>");
    alice.types("/quit\r");
    alice.ends_with(0);
    assert_eq!(bob.next(), "* alice quit");
}

#[test]
fn unanswered_lines_are_reported() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let Some(alice) = Terminal::join(proxy.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    proxy.mute();
    alice.types("anybody?\r");
    alice.shows_last("1s #lobby>");
    let named = "-- no answer yet, perhaps not delivered: anybody?";
    alice.shows("the line", |rows| count(rows, named) == 1);
    proxy.cut();
    proxy.mend();
    alice.shows("the echo", |rows| count(rows, " alice: anybody?") == 1);
    alice.shows_last("#lobby>");
}

#[test]
fn heartbeat_detects_hung_server_and_client_resumes() {
    let server = Server::start();
    let Some(alice) = Terminal::join(server.port, "--name alice --ping-after 300ms") else {
        return;
    };
    alice.shows_last("#lobby>");
    let pipe = Pipe::start(server.port, &["--name", "logger", "--ping-after", "300ms"]);
    lines_until(&pipe.out, "[USERS #lobby 2] alice,logger");
    alice.types("half a mess");
    server.signal("STOP");
    lines_until(&pipe.errors, "chatty: connection lost; reconnecting");
    alice.shows_last("lost #lobby> half a mess");
    server.signal("CONT");
    Terminal::waits("the pipe is back", || {
        pipe.errors.try_iter().any(|line| line.starts_with("chatty: reconnected after"))
    });
    alice.shows_last("#lobby> half a mess");
    alice.types("age\r");
    lines_until(&pipe.out, "alice: half a message");
    let rows = alice.shows("the line", |rows| count(rows, " alice: half a message") == 1);
    // Replies to heartbeats keep the connection alive even without messages.
    assert_eq!(count(&rows, "-- connection lost; reconnecting …"), 1, "{rows:?}");
    alice.types("/ping\r");
    let timed = |row: &String| row.starts_with("-- answered in ") && row.ends_with(" ms");
    alice.shows("the waiting time", |rows| rows.iter().any(timed));
    assert_eq!(pipe.end().0, Some(0));
}

#[test]
fn stopped_client_checks_connection_when_continued() {
    let server = Server::start();
    let proxy = Proxy::start(server.port);
    let Some(alice) = Terminal::join(proxy.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.signal("STOP");
    proxy.mute();
    alice.signal("CONT");
    // No line was typed: the unanswered one is the heartbeat.
    alice.shows_last("1s #lobby>");
}

/// Copies a running server's data folder, like a disk snapshot.
fn snapshot(server: &Server, folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    server.signal("STOP");
    copy_files(folder, copy.path());
    server.signal("CONT");
    copy
}

fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).expect("a folder").flatten() {
        fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

/// Kills the server and starts one on the older copy.
fn restore(mut server: Server, folder: &Path, copy: &Path) -> Server {
    server.kill();
    for file in fs::read_dir(folder).expect("a folder").flatten() {
        fs::remove_file(file.path()).expect("gone");
    }
    copy_files(copy, folder);
    Server::start_again(server.port, &["--data", folder.to_str().expect("a plain path")])
}

/// Bob sends numbered lines in #ops.
fn say_in_ops(port: u16, lines: std::ops::Range<u32>) {
    let mut bob = Peer::join(port, "bob");
    bob.say("/join ops");
    lines.for_each(|line| bob.say(&format!("line {line}.")));
    bob.say("/quit"); // the reply to /quit means that the name is free again
    bob.rest();
}

#[test]
fn client_misses_nothing_after_backup_restore() {
    // Whether alice's session is in the backup, and the number of messages sent after it.
    for (has_session, after) in [(true, 1), (true, 12), (false, 1), (false, 12)] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start_in(folder.path(), &[]);
        let (port, proxy) = (server.port, Proxy::start(server.port));
        let join = || {
            let mut alice =
                Pipe::start(proxy.port, &["--name", "alice", "--room", "ops", "--json"]);
            alice.say("here");
            lines_until(&alice.out, "\"text\":\"here\",\"self\":true}");
            alice
        };
        let mut alice = has_session.then(&join);
        say_in_ops(port, 0..3);
        let copy = snapshot(&server, folder.path());
        let mut alice = alice.take().unwrap_or_else(join);
        say_in_ops(port, 3..8);
        let mut seen = lines_until(&alice.out, "\"text\":\"line 7.\",\"self\":false}");
        proxy.cut();
        lines_until(&alice.errors, "connection lost; reconnecting");
        alice.say("typed meanwhile");
        let server = restore(server, folder.path(), copy.path());
        say_in_ops(port, 100..100 + after);
        proxy.mend();
        seen.extend(lines_until(&alice.out, "\"text\":\"typed meanwhile\",\"self\":true}"));
        let (exit, rest, errors) = alice.end();
        seen.extend(rest);
        let case =
            format!("session in the backup: {has_session}, {after} lines: {errors:?} {seen:?}");
        let said = |line: &String| {
            let (_, text) = line.split_once("\"text\":\"line ")?;
            text.split('.').next()?.parse::<u32>().ok()
        };
        let said: Vec<u32> = seen.iter().filter_map(said).collect();
        let before = if has_session { 0 } else { 3 };
        let expected: Vec<u32> = (before..8).chain(100..100 + after).collect();
        assert_eq!(said, expected, "{case}");
        assert_eq!(exit, Some(0), "{case}");
        let told = errors.iter().filter(|line| line.contains("message ids went back")).count();
        let status = seen.iter().filter(|line| line.contains("\"code\":\"ids-went-back\"")).count();
        assert_eq!((told, status), (1, 1), "{case}");
        let mut carol = Peer::join(port, "carol");
        carol.say("/join ops\n/history 100 #ops");
        let rows = carol.settles();
        assert_eq!(count(&rows, "#ops alice: typed meanwhile"), 1, "{rows:?}");
        drop(server);
    }
}

#[test]
fn query_line_is_not_posted_to_room_after_backup_restore() {
    for bob_is_back in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start_in(folder.path(), &[]);
        let (port, proxy) = (server.port, Proxy::start(server.port));
        let mut alice = Pipe::start(proxy.port, &["--name", "alice", "--quiet", "--listen"]);
        alice.say("here");
        lines_until(&alice.out, "alice: here");
        let copy = snapshot(&server, folder.path());
        let mut bob = Peer::join(port, "bob");
        // The backup contains neither the join nor the query.
        alice.say("/join ops");
        alice.say("/query bob");
        alice.say("a secret");
        lines_until(&alice.out, "[PRIVATE MESSAGE to bob] alice: a secret");
        proxy.cut();
        bob.settles();
        alice.say("another secret");
        let _server = restore(server, folder.path(), copy.path());
        let mut bob = Peer::join(port, if bob_is_back { "bob" } else { "carol" });
        proxy.mend();
        if bob_is_back {
            let heard = bob.hears(|line| line.contains("another secret"));
            assert_eq!(heard, "[PRIVATE MESSAGE] alice: another secret");
            bob.say("/who #ops");
            let members = bob.hears(|line| line.starts_with("[USERS #ops"));
            assert_eq!(members, "[USERS #ops 1] alice");
        }
        let (exit, out, errors) = alice.end();
        assert_eq!(exit, Some(if bob_is_back { 0 } else { 69 }), "{errors:?} {out:?}");
        assert_eq!(count(&errors, "line 5: not sent"), usize::from(!bob_is_back), "{errors:?}");
        let is_told = errors.iter().any(|line| line.contains("message ids went back"));
        assert!(is_told, "also with --quiet: {errors:?}");
        assert!(bob.settles().iter().all(|line| !line.contains("secret")), "it is not for all");
    }
}

/// Version 0.1 accepts only an id in `/resume`, no time.
#[test]
fn client_resumes_at_server_without_resume_time_argument() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("bound").port();
    let mut pipe = Pipe::start(port, &["--name", "alice"]);
    let (mut stream, mut said) = next_client(&listener);
    pipe.say("here");
    let here = said.next().expect("a line, behind the login");
    let cid = here.split(' ').next().expect("a cid");
    stream.write_all(format!("{cid} alice: here\n").as_bytes()).expect("echo");
    let hearing = thread::spawn(move || said.for_each(drop));
    stream.write_all(b"@id=7;time=2026-11-23T06:16:00.123Z bob: one\n").expect("say");
    lines_until(&pipe.out, "bob: one");
    stream.shutdown(std::net::Shutdown::Both).expect("cut");
    hearing.join().expect("an end");
    let (mut stream, _) = listener.accept().expect("accept");
    stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
    stream.write_all(b"[HELLO chatty/1] hi\n").expect("hello");
    let lines = BufReader::new(stream.try_clone().expect("clone")).lines();
    for line in lines.map_while(Result::ok) {
        let (cid, plain) = match line.strip_prefix('@') {
            Some(line) => line.split_once(' ').expect("a line after its cid"),
            None => ("", line.as_str()),
        };
        let answer = match plain.split_once(' ').unwrap_or((plain, "")) {
            ("/features", _) => "[ERROR unknown-command] no such command\n".to_owned(),
            ("/set", _) => "[SET echo=on joins=on tags=on]\n".to_owned(),
            ("/resume", "abc 7") => {
                "[WELCOME alice] hi\n@id=8;time=2026-11-23T06:16:01.000Z bob: two\n".to_owned()
            }
            ("/ping", _) => format!("@{cid} [PONG]\n"),
            ("/quit", _) => {
                stream.write_all(b"[BYE quit] goodbye\n").expect("goodbye");
                break;
            }
            _ => panic!("{line}"),
        };
        stream.write_all(answer.as_bytes()).expect("answer");
        if plain.starts_with("/resume") {
            drop(pipe.stdin.take());
        }
    }
    drop(stream);
    let (exit, out, errors) = pipe.end();
    assert_eq!(out, ["bob: two"]);
    assert_eq!(exit, Some(0), "{errors:?}");
    assert!(!errors.iter().any(|line| line.contains("new session")), "{errors:?}");
}
