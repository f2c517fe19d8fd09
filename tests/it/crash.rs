//! Crash consistency: users exchange messages, the server is killed at random moments, and the
//! messages they received are compared with the log afterwards.
//!
//! `cargo test` runs a few cycles; `scripts/crash.sh` runs thousands.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags};

use crate::support::{CHATTY, Server, history};

mod checker;
pub(crate) mod full_disk;
mod power_failure;
mod startup;
mod sync_order;
mod users;

use checker::{Event, EventKind, Message, Row, violations};
use users::{ROOMS, Random, Target, User};

/// The number of cycles that share a data folder and are checked together.
const ERA: u64 = 5;

/// The number of messages kept when retention is on.
const KEEP: u64 = 1000;

#[test]
fn delivered_messages_survive_kill_at_any_moment() {
    let number = |name| env::var(name).ok().map(|value| value.parse().expect(name));
    let cycles = number("CHATTY_CRASH_CYCLES").unwrap_or(20);
    let seed = number("CHATTY_CRASH_SEED").unwrap_or_else(any_seed);
    println!("CHATTY_CRASH_CYCLES={cycles} CHATTY_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let mut figures = Figures::default();
    for era in 0..cycles.div_ceil(ERA) {
        let keep = (era % 2 == 1).then_some(KEEP);
        let folder = tempfile::tempdir().expect("a folder");
        Era::new(folder.path(), keep, random.fork()).run(ERA.min(cycles - era * ERA), &mut figures);
    }
    figures.print();
    assert!(figures.acked > 0 && figures.seen > 0, "at least one message was delivered");
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ u64::from(std::process::id()) << 32
}

/// The figures that `scripts/crash.sh` prints.
#[derive(Default)]
struct Figures {
    cycles: u64,
    acked: u64,
    seen: u64,
    rows: u64,
    ready: Vec<Duration>,
}

impl Figures {
    fn count(&mut self, events: &[Event]) {
        self.cycles += 1;
        for event in events {
            match &event.what {
                EventKind::Shown { viewer, message, .. } if viewer.name == message.author => {
                    self.acked += 1;
                }
                EventKind::Shown { .. } => self.seen += 1,
                EventKind::Sent(_) | EventKind::Refused(_) => {}
            }
        }
    }

    fn print(&mut self) {
        self.ready.sort();
        let (half, last) = (self.ready.len() / 2, self.ready.len() - 1);
        println!(
            "{} cycles: {} lines answered, {} seen by others, {} messages in the logs; \
             ready again after {:?} (half of the time), {:?} (longest)",
            self.cycles, self.acked, self.seen, self.rows, self.ready[half], self.ready[last],
        );
    }
}

/// One data folder, and the users who talk while servers start and end on it.
struct Era<'a> {
    folder: &'a Path,
    flags: Vec<String>,
    keep: Option<u64>,
    random: Random,
    people: Vec<User>,
    events: Vec<Event>,
}

impl<'a> Era<'a> {
    fn new(folder: &'a Path, keep: Option<u64>, mut random: Random) -> Self {
        let rooms = || ROOMS.map(Target::Room).into();
        let red = User::new("w0", random.fork()).writes_to(1, rooms());
        let blue = User::new("w1", random.fork()).writes_to(64, rooms()).breaks_off();
        let one = User::new("w2", random.fork());
        let other = User::new("w3", random.fork());
        let (one_name, other_name) = (one.name(), other.name());
        let one = one.writes_to(8, vec![Target::User(other_name)]);
        let other = other.writes_to(32, vec![Target::User(one_name), Target::Room(ROOMS[0])]);
        let readers = ["r0", "r1"].map(|mark| User::new(mark, random.fork()));
        let resumer = User::new("r2", random.fork()).breaks_off();
        let mut people = vec![red, blue, one, other, resumer];
        people.extend(readers);
        let flags = keep.iter().flat_map(|keep| ["--keep-messages".into(), keep.to_string()]);
        Self { folder, flags: flags.collect(), keep, random, people, events: Vec::new() }
    }

    fn run(&mut self, cycles: u64, figures: &mut Figures) {
        for _ in 0..cycles {
            let server = self.start(figures);
            self.check();
            let so_far = self.events.len();
            self.run_cycle(server);
            figures.count(&self.events[so_far..]);
        }
        let server = self.start(figures);
        let rows = self.check();
        figures.rows += rows.len() as u64;
        // The server's history must equal the contents of the file.
        for room in ROOMS {
            let room = format!("#{room}");
            let there = rows.iter().filter(|row| row.message.to == room).map(|row| {
                let Message { author, to, text } = &row.message;
                (row.id, format!("{to} {author}: {text}"))
            });
            if self.keep.is_none() {
                assert_eq!(history(server.port, &room[1..]), there.collect::<Vec<_>>());
            }
        }
    }

    /// Starts a server; now and then others are killed before they are ready.
    fn start(&mut self, figures: &mut Figures) -> Server {
        if self.random.below(3) == 0 {
            for _ in 0..2 {
                self.start_failing();
            }
        }
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let started = Instant::now();
        let server = Server::start_in(self.folder, &flags);
        figures.ready.push(started.elapsed());
        server
    }

    fn start_failing(&mut self) {
        let mut child = Command::new(CHATTY)
            .args(["serve", "--port", "0", "--bind", "127.0.0.1", "--data"])
            .arg(self.folder)
            .args(&self.flags)
            .stderr(Stdio::null())
            .spawn()
            .expect("chatty serve");
        thread::sleep(Duration::from_micros(self.random.below(20_000)));
        child.kill().expect("still there");
        child.wait().expect("an end");
    }

    /// Checks the guarantees against the log.
    fn check(&self) -> Vec<Row> {
        let rows = rows(&self.folder.join("chatty.db"));
        let violations = violations(&self.events, &rows, self.keep);
        assert!(
            violations.is_empty(),
            "{} violations:\n{}",
            violations.len(),
            violations.join("\n")
        );
        rows
    }

    /// Runs the users for a while, then ends the server in one of several ways.
    fn run_cycle(&mut self, server: Server) {
        let (mut moment, mut manner) = (self.random.fork(), self.random.fork());
        let a_while = || thread::sleep(Duration::from_millis(50 + moment.below(450)));
        self.run_users(server.port, a_while, || end(server, &mut manner));
    }

    /// Runs the users until `until` returns, then ends the server with `end`.
    fn run_users(&mut self, port: u16, until: impl FnOnce(), end: impl FnOnce()) {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for person in &mut self.people {
                let is_over = &is_over;
                scope.spawn(move || person.run(port, is_over));
            }
            until();
            is_over.store(true, Ordering::SeqCst);
            end();
        });
        for person in &mut self.people {
            self.events.extend(person.take_events());
        }
    }
}

fn end(mut server: Server, random: &mut Random) {
    match random.below(5) {
        // Paused first: its output is read, while its input stays unread.
        0 => {
            server.signal("STOP");
            thread::sleep(Duration::from_millis(random.below(50)));
            server.kill();
        }
        // Killed while it sends farewells.
        1 => {
            server.signal("TERM");
            thread::sleep(Duration::from_micros(random.below(5000)));
            server.kill();
        }
        2 => {
            server.signal("TERM");
            assert_eq!(server.wait(), Some(0));
        }
        _ => server.kill(),
    }
}

/// Returns all messages in the log file, after an integrity check.
fn rows(file: &Path) -> Vec<Row> {
    let connection =
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the log");
    rows_of(&connection).expect("the log's rows")
}

fn rows_of(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let verdict: String =
        connection.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    assert_eq!(verdict, "ok", "I8");
    let sql = "SELECT id, m.name, coalesce('#' || r.name, reader_name), text, coalesce(cid, '')
               FROM messages m LEFT JOIN rooms r ON r.number = m.room ORDER BY id";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        let message = Message { author: row.get(1)?, to: row.get(2)?, text: row.get(3)? };
        Ok(Row { id: row.get::<_, i64>(0)?.cast_unsigned(), cid: row.get(4)?, message })
    })?;
    rows.collect()
}
