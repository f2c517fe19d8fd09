//! Transcripts as specification: each file of `tests/transcripts` describes one behaviour and is
//! played twice: on the hub alone, with a simulated clock, and over sockets against the real
//! server. Both must produce the same lines.
//!
//! ```text
//! # The rule, in a sentence.
//! $ --quiet-above 3              flags of this server
//! alice+                         alice connects
//! alice< [HELLO chatty/1] …      alice receives this line
//! alice+ from 192.0.2.7          alice connects from this address; hub only
//! alice+ from 192.0.2.7 by TLS   the same over TLS
//! alice+ login                   alice connects and logs in; her own lines are not shown
//! alice> hi                      alice sends a line
//! alice-                         alice closes her sending side, like netcat at end of input
//! alice!                         alice's connection breaks
//! alice= closed                  the server has closed alice's connection
//! ~30s                           time passes; such a file is played on the hub only
//! bob> TOKEN(alice)              stands for the last session token that alice received
//! ```
//!
//! The lines that an action causes follow it: every line that any user receives, in order for each
//! user. An unexpected line fails the test. `[..]` matches any text. `UPDATE=1` rewrites the
//! received lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chatty::protocol::Stamp;
use chatty::protocol::codec::{Frame, LineCodec};
use chatty::protocol::units::parse_duration;
use chatty::server::auth::passwords::{Job, Workspace};
use chatty::server::auth::secrets::Secrets;
use chatty::server::auth::tokens::{Seed, Tokens};
use chatty::server::hub::{Flow, Hub, Input, Now};
use chatty::server::limits::Limits;
use chatty::server::net::outbox::Lines;
use chatty::server::net::peer::Peer;
use chatty::server::store::memory::MemoryLog;
use chatty::server::store::{Batch, ReadRequest, Snapshot, Thread};
use chatty::server::turn::{ConnId, Sink, Turn};
use clap::{Args as _, FromArgMatches as _};

use crate::any_input::checks::relay::Relay;
use crate::support::Server;

/// The lines each user received since the last action, by name; a line `=` means that the server
/// has closed the connection.
type Received = BTreeMap<String, Vec<String>>;

/// Where a transcript is played.
trait Stage {
    fn connect(&mut self, who: &str, from: Option<&str>);
    fn send(&mut self, who: &str, line: &str);
    fn finish(&mut self, who: &str);
    fn break_off(&mut self, who: &str);
    fn pass(&mut self, time: Duration);
    /// Returns all received lines when no more are on their way.
    fn received(&mut self) -> Received;
}

const CLOSED: &str = "=";

/// The hub with a log in memory, without sockets.
struct HubStage {
    hub: Hub,
    log: MemoryLog,
    now: Duration,
    people: BTreeMap<String, ConnId>,
    codecs: BTreeMap<ConnId, LineCodec>,
    out: Outlet,
    relay: Relay,
    connections: u32,
    tokens: Tokens,
}

#[derive(Default)]
struct Outlet {
    secrets: BTreeMap<ConnId, Secrets>,
    bytes: BTreeMap<ConnId, Vec<u8>>,
    closed: Vec<ConnId>,
    reads: Vec<(ConnId, ReadRequest)>,
    jobs: Vec<(ConnId, Job)>,
    drained: Vec<ConnId>,
    long: Vec<ConnId>,
}

impl Sink for Outlet {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        assert!(!self.closed.contains(&to), "rule 4: nothing is said after a farewell");
        self.bytes.entry(to).or_default().extend_from_slice(&lines[start..end]);
    }
    fn push_token(&mut self, to: ConnId) {
        let token = self.secrets[&to].token().expect("a token");
        self.bytes.entry(to).or_default().extend_from_slice(token.as_bytes());
    }
    fn note_reply_bytes(&mut self, _: ConnId, _: usize) {}
    fn close(&mut self, conn: ConnId) {
        if !self.closed.contains(&conn) {
            self.closed.push(conn);
        }
    }
    fn hash(&mut self, conn: ConnId, job: Job) {
        self.jobs.push((conn, job));
    }
    fn read(&mut self, conn: ConnId, query: ReadRequest) {
        self.reads.push((conn, query));
    }
    fn notify_when_drained(&mut self, conn: ConnId) {
        self.drained.push(conn); // at once: output is drained immediately here
    }
    fn wait_for_memory(&mut self, conn: ConnId) {
        self.long.push(conn);
    }
}

impl HubStage {
    fn new(flags: &[&str]) -> Self {
        let command = Limits::augment_args(clap::Command::new("limits"));
        let flags = std::iter::once("limits").chain(flags.iter().copied());
        let limits = Limits::from_arg_matches(&command.get_matches_from(flags)).expect("limits");
        Self {
            hub: Hub::new(limits, &Snapshot::default()).expect("nothing is unreadable"),
            log: MemoryLog::new(1000, 1 << 20),
            now: Duration::ZERO,
            people: BTreeMap::new(),
            codecs: BTreeMap::new(),
            out: Outlet::default(),
            relay: Relay::default(),
            connections: 0,
            tokens: Tokens::new(Seed::default()),
        }
    }

    fn now(&self) -> Now {
        let wall = 1_795_414_560_123 + i64::try_from(self.now.as_millis()).expect("a short story");
        Now { since_start: self.now, wall: Stamp(wall) }
    }

    fn handle(&mut self, conn: ConnId, input: Input<'_>) -> Flow {
        let mut turn = Turn::default();
        let flow = self.hub.handle(self.now(), conn, input, &mut turn);
        self.release(turn);
        let flow = self.settle().unwrap_or(flow);
        self.hub.check_invariants();
        flow
    }

    fn handle_frame(&mut self, conn: ConnId, frame: &Frame<'_>) {
        let secrets = self.out.secrets.entry(conn).or_default();
        if self.hub.is_unnamed(conn) {
            secrets.note_resume(frame);
        }
        secrets.keep_password(frame);
        if self.handle(conn, Input::Frame(frame.clone())) == Flow::Token {
            let secrets = self.out.secrets.entry(conn).or_default();
            self.hub.offer_token(secrets.renew_token(&mut self.tokens));
            self.handle(conn, Input::Frame(frame.clone()));
        }
    }

    /// Performs the hub's pending log reads and hashing; returns the flow of the last waiting
    /// connection.
    fn settle(&mut self) -> Option<Flow> {
        let mut flow = None;
        loop {
            let (conn, input) = if let Some((conn, query)) = self.out.reads.pop() {
                let rows = self.log.find(&query);
                let is_feed = matches!(query.thread, Thread::Feed { .. });
                (conn, if is_feed { Input::Page(rows) } else { Input::Rows(rows) })
            } else if let Some((conn, job)) = self.out.jobs.pop() {
                let secrets = self.out.secrets.get_mut(&conn).expect("a line with a password");
                let password = secrets.take_password().expect("a password");
                (conn, Input::Hashed(job.run(&password, &mut Workspace::default())))
            } else if let Some(conn) = self.out.drained.pop() {
                (conn, Input::Drained)
            } else if let Some(conn) = self.out.long.pop() {
                (conn, Input::MemoryAvailable)
            } else {
                return flow;
            };
            let mut turn = Turn::default();
            flow = Some(self.hub.handle(self.now(), conn, input, &mut turn));
            self.release(turn);
        }
    }

    /// Commits and releases a turn, as a server does that has received it from another.
    fn release(&mut self, turn: Turn) {
        let (records, changes) = (turn.records(), self.hub.changes());
        let batch = Batch { records, changes, last: self.hub.last_ids() };
        self.hub.mark_saved();
        self.log.push(self.relay.release(turn, &batch, &mut self.out).records);
    }
}

impl Stage for HubStage {
    fn connect(&mut self, who: &str, from: Option<&str>) {
        let from = from.unwrap_or("127.0.0.1");
        let encrypted_from = from.strip_suffix(" by TLS");
        let peer = Peer::new(encrypted_from.unwrap_or(from).parse().expect("an address"));
        self.connections += 1;
        let conn = ConnId { slot: self.connections % 7, generation: self.connections };
        self.people.insert(who.to_owned(), conn);
        self.codecs.insert(conn, LineCodec::new(self.hub.line_limit(conn)));
        if encrypted_from.is_some() {
            self.handle(conn, Input::Arrived(peer));
            self.handle(conn, Input::TransportKnown { is_encrypted: true });
        } else {
            self.handle(conn, Input::Opened(peer));
        }
    }

    fn send(&mut self, who: &str, line: &str) {
        let conn = self.people[who];
        let bytes = format!("{line}\n");
        let mut rest = bytes.as_bytes();
        let mut codec = self.codecs.remove(&conn).expect("connected");
        while let Some(frame) = codec.next(&mut rest) {
            self.handle_frame(conn, &frame);
            codec.set_limit(self.hub.line_limit(conn));
        }
        self.codecs.insert(conn, codec);
    }

    fn finish(&mut self, who: &str) {
        self.handle(self.people[who], Input::Finished);
    }

    fn break_off(&mut self, who: &str) {
        let conn = self.people.remove(who).expect("connected");
        self.handle(conn, Input::Disconnected);
        self.hub.forget_connection(conn);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let mut turn = Turn::default();
        self.hub.tick(self.now(), &mut turn);
        self.release(turn);
        self.settle();
        self.hub.check_invariants();
    }

    fn received(&mut self) -> Received {
        let mut received = Received::new();
        for (who, conn) in &self.people {
            let bytes = self.out.bytes.remove(conn).unwrap_or_default();
            let lines = received.entry(who.clone()).or_default();
            lines.extend(String::from_utf8(bytes).expect("UTF-8").lines().map(str::to_owned));
        }
        for conn in std::mem::take(&mut self.out.closed) {
            if let Some(who) = self.people.iter().find(|(_, c)| **c == conn).map(|(w, _)| w.clone())
            {
                received.entry(who.clone()).or_default().push(CLOSED.to_owned());
                self.people.remove(&who);
                self.hub.forget_connection(conn);
            }
        }
        received
    }
}

/// The real server with real sockets.
struct SocketStage {
    server: Server,
    people: BTreeMap<String, Wire>,
    barriers: usize,
}

struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
    /// The sending side is closed, so the server will close the connection.
    is_finished: bool,
    is_closed: bool,
}

impl SocketStage {
    fn new(flags: &[&str]) -> Self {
        Self { server: Server::start_with(flags), people: BTreeMap::new(), barriers: 0 }
    }
}

impl Wire {
    fn send(&mut self, line: &str) {
        // If the server has just closed, the following read detects it.
        let _ = self.stream.write_all(format!("{line}\n").as_bytes());
    }

    /// Reads lines up to one that matches, or to the end.
    fn read_until(&mut self, is_last: impl Fn(&str) -> bool, lines: &mut Vec<String>) {
        loop {
            while let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let line = String::from_utf8(line[..end].to_vec()).expect("UTF-8");
                if is_last(&line) {
                    return;
                }
                lines.push(line);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece).expect("a clean end in time") {
                0 => {
                    assert!(self.unread.is_empty(), "half a line at the end");
                    self.is_closed = true;
                    lines.push(CLOSED.to_owned());
                    return;
                }
                count => self.unread.extend_from_slice(&piece[..count]),
            }
        }
    }
}

impl Stage for SocketStage {
    fn connect(&mut self, who: &str, _: Option<&str>) {
        let stream = TcpStream::connect(("127.0.0.1", self.server.port)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        let (unread, is_finished, is_closed) = (Vec::new(), false, false);
        self.people.insert(who.to_owned(), Wire { stream, unread, is_finished, is_closed });
    }

    fn send(&mut self, who: &str, line: &str) {
        self.people.get_mut(who).expect("connected").send(line);
    }

    fn finish(&mut self, who: &str) {
        let wire = self.people.get_mut(who).expect("connected");
        wire.is_finished = true;
        wire.stream.shutdown(Shutdown::Write).expect("shutdown");
    }

    fn break_off(&mut self, who: &str) {
        drop(self.people.remove(who));
    }

    fn pass(&mut self, _: Duration) {
        unreachable!("files in which time passes are played on the hub");
    }

    /// Two barriers: after the first, every line sent so far has been handled; after the second,
    /// all resulting lines have arrived. A broken connection is noticed in between or is awaited.
    fn received(&mut self) -> Received {
        let mut received = Received::new();
        for _ in 0..2 {
            for (who, wire) in &mut self.people {
                let lines = received.entry(who.clone()).or_default();
                if wire.is_finished {
                    wire.read_until(|_| false, lines);
                } else {
                    self.barriers += 1;
                    let token = format!("barrier-{}", self.barriers);
                    wire.send(&format!("/ping {token}"));
                    let pong = format!("[PONG {token}]");
                    wire.read_until(|line| line == pong, lines);
                }
            }
            self.people.retain(|_, wire| !wire.is_closed);
        }
        received
    }
}

/// Plays a transcript and returns it with the lines received.
fn play(stage: &mut dyn Stage, script: &[&str]) -> String {
    let mut played = String::new();
    let mut tokens: BTreeMap<String, String> = BTreeMap::new();
    for line in script {
        if is_expectation(line) {
            continue; // replaced by the lines received
        }
        let _ = writeln!(played, "{line}");
        let said = tokens.iter().fold((*line).to_owned(), |said, (who, token)| {
            said.replace(&format!("TOKEN({who})"), token)
        });
        let Some(hidden) = act(stage, &said) else { continue };
        for (who, lines) in stage.received() {
            for line in lines {
                if let Some((token, _)) =
                    line.strip_prefix("[SESSION ").and_then(|l| l.split_once(']'))
                {
                    tokens.insert(who.clone(), token.to_owned());
                }
                let _ = match line.as_str() {
                    _ if hidden == Some(who.as_str()) => Ok(()),
                    CLOSED => writeln!(played, "{who}= closed"),
                    line => writeln!(played, "{who}< {line}"),
                };
            }
        }
    }
    played
}

/// `alice< …` or `alice= closed`.
fn is_expectation(line: &str) -> bool {
    let name = line.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or_default();
    line[name..].starts_with("< ") || line[name..].starts_with("= ")
}

/// Performs one line of a transcript. `None`: the line is no action. Otherwise the user whose lines
/// are hidden this time, if any.
#[allow(clippy::option_option)]
fn act<'a>(stage: &mut dyn Stage, line: &'a str) -> Option<Option<&'a str>> {
    if line.is_empty() || line.starts_with(['#', '$']) {
        return None;
    }
    if let Some(time) = line.strip_prefix('~') {
        stage.pass(parse_duration(time).expect("a time"));
        return Some(None);
    }
    let end = line.find(|c: char| !c.is_ascii_alphanumeric()).expect("an action");
    let (who, what) = line.split_at(end);
    match what {
        "+" => stage.connect(who, None),
        "+ login" => {
            stage.connect(who, None);
            stage.send(who, who);
            return Some(Some(who));
        }
        "-" => stage.finish(who),
        "!" => stage.break_off(who),
        from if from.starts_with("+ from ") => stage.connect(who, from.strip_prefix("+ from ")),
        _ => {
            let said = what.strip_prefix("> ").unwrap_or_else(|| panic!("{line}?"));
            stage.send(who, &unescape(said));
        }
    }
    Some(None)
}

/// Replaces `\u{1b}` and the like by the characters they stand for.
fn unescape(text: &str) -> String {
    let mut parts = text.split("\\u{");
    let mut said = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_once('}').expect("a closing brace");
        let code = u32::from_str_radix(code, 16).expect("a hexadecimal number");
        said.push(char::from_u32(code).expect("a character"));
        said.push_str(rest);
    }
    said
}

/// Whether a line matches the expectation; `[..]` matches any text.
fn fits(expected: &str, line: &str) -> bool {
    let mut parts = expected.split("[..]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Compares the lines below each action, as each user sees them, in alphabetical order of users.
fn check(path: &Path, expected: &str, played: &str, stage: &str) -> Result<(), String> {
    let (expected, played) = (sorted(expected), sorted(played));
    let mut played = played.iter();
    for line in &expected {
        match played.next() {
            Some(next) if fits(line, next) => {}
            next => {
                let name = path.file_stem().unwrap_or_default().to_string_lossy();
                let got = next.map_or("nothing more", String::as_str);
                return Err(format!("{name} ({stage})\n  expected  {line}\n  received  {got}"));
            }
        }
    }
    played.next().map_or(Ok(()), |line| Err(format!("{}: also  {line}", path.display())))
}

/// Sorts the lines below each action by user; the lines of one user keep their order.
fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut block: Vec<String> = Vec::new();
    let who = |line: &String| line.split(['<', '=']).next().unwrap_or_default().to_owned();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if is_expectation(line) {
            block.push(line.to_owned());
        } else {
            block.sort_by_key(who);
            lines.append(&mut block);
            lines.push(line.to_owned());
        }
    }
    block.sort_by_key(who);
    lines.append(&mut block);
    lines
}

fn transcripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let entries = fs::read_dir(folder).expect("the transcripts");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    assert!(paths.len() > 40, "the specification is here");
    paths
}

fn flags<'a>(script: &[&'a str]) -> Vec<&'a str> {
    script
        .iter()
        .filter_map(|line| line.strip_prefix("$ "))
        .flat_map(str::split_whitespace)
        .collect()
}

#[test]
fn every_transcript_matches_on_the_hub() {
    let mut faults = Vec::new();
    for path in transcripts() {
        let text = fs::read_to_string(&path).expect("readable");
        let script: Vec<&str> = text.lines().collect();
        assert!(text.starts_with("# "), "{}: say the rule first", path.display());
        let played = play(&mut HubStage::new(&flags(&script)), &script);
        let outcome = check(&path, &text, &played, "on the hub");
        if outcome.is_err() && std::env::var_os("UPDATE").is_some() {
            fs::write(&path, played).expect("writable");
        }
        faults.extend(outcome.err());
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_transcript_matches_over_sockets() {
    let mut faults = Vec::new();
    for path in transcripts() {
        let text = fs::read_to_string(&path).expect("readable");
        let script: Vec<&str> = text.lines().collect();
        if script.iter().any(|line| line.starts_with('~') || line.contains("+ from ")) {
            continue;
        }
        let played = play(&mut SocketStage::new(&flags(&script)), &script);
        faults.extend(check(&path, &text, &played, "over sockets").err());
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
