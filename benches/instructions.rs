//! Fixed conversations without sockets, whose instructions are counted: `scripts/instructions.sh`
//! runs each under valgrind and compares the count with that in `benches/instructions.txt`. They
//! are long enough to make the cost of startup negligible:
//!
//! - `memory`: common commands of a hundred users, whose messages are kept in memory;
//! - `log`: the same, stored in a data folder;
//! - `slow`: a busy room, some of whose members fall behind and catch up.

mod common;

use std::io::Write as _;
use std::mem;

use anyhow::{Context as _, bail};
use chatty::server::hub::Input;
use chatty::server::store::memory::MemoryLog;
use chatty::server::store::sqlite::{Durability, Options, Retention, SqliteLog};
use chatty::server::store::{Batch, Log as _};
use chatty::server::turn::Turn;

use common::hub_driver::{Driver, Storing};
use common::{conn, end_turn, hub_with_users};

const USERS: u32 = 100;

/// How many of the users use the tagged dialect.
const PROGRAMS: u32 = 20;

const ROUNDS: u32 = 400;

/// The same with the log, where a turn costs more.
const STORED_ROUNDS: u32 = 100;

/// How many users send a message in one turn of a busy room.
const SPEAKERS: u32 = 10;

/// The slow readers are the first users; every fourth of them uses the tagged dialect.
const SLOW_READERS: u32 = 8;

/// The turns that slow readers miss before they catch up: the last time more messages than the
/// hub keeps in memory, so that they are read from the log.
const MISSED_TURNS: [u32; 5] = [10, 20, 30, 40, 450];

/// Limits of the log that they are read from, in messages and bytes.
const LOG_MESSAGES: usize = 10_000;
const LOG_SIZE: usize = 8 << 20;

const TEXT: &str = "which is about as long as what people say to each other, mostly";

fn main() -> anyhow::Result<()> {
    let mut conversation = Conversation { hub: hub_with_users(USERS), received: 0, written: 0 };
    let name = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    match name.context("the name of a conversation is missing")?.as_str() {
        "memory" => conversation.mix(ROUNDS),
        "log" => {
            let folder = tempfile::tempdir()?;
            conversation.store_in(folder.path())?;
            conversation.mix(STORED_ROUNDS);
            conversation.hub.replace_turn = None; // closes the log
        }
        "slow" => conversation.fall_behind(),
        name => bail!("there is no conversation {name}"),
    }
    let Conversation { received, written, hub } = conversation;
    // Whether this thread or that of the log in memory frees the messages is chance.
    mem::forget(hub);
    writeln!(std::io::stdout(), "{received} lines received, {written} bytes written")?;
    Ok(())
}

struct Conversation {
    hub: Driver,
    received: usize,
    written: usize,
}

impl Conversation {
    /// Stores what follows in a folder, as the server does.
    fn store_in(&mut self, folder: &std::path::Path) -> anyhow::Result<()> {
        let retention = Retention::default();
        let options = Options { durability: Durability::Commit, retention };
        let (mut log, _) = SqliteLog::open(folder, options)?;
        log.reserve()?;
        self.hub.storing = Storing::Everything;
        self.hub.replace_turn = Some(Box::new(move |turn, batch: &Batch| {
            if !batch.records.is_empty() || !batch.changes.is_empty() {
                log.append(batch).expect("a disk with space");
                // Maintenance, which works by the clock, waits for the batch that follows.
                log.reserve().expect("a disk with space");
            }
            turn
        }));
        Ok(())
    }

    fn mix(&mut self, rounds: u32) {
        for user in 0..PROGRAMS {
            self.turn(&[(user, "/set tags on")]);
        }
        (0..rounds).for_each(|round| self.round(round));
    }

    /// Handles the lines of several users in one turn.
    fn turn(&mut self, lines: &[(u32, &str)]) {
        let turn = self.handle(lines);
        self.written += end_turn(&mut self.hub, turn);
    }

    fn handle(&mut self, lines: &[(u32, &str)]) -> Turn {
        let mut turn = Turn::default();
        for (user, line) in lines {
            self.hub.receive(conn(*user), format!("{line}\n").as_bytes(), &mut turn);
        }
        self.received += lines.len();
        turn
    }

    /// A mix of common lines, of different users in each round.
    fn round(&mut self, round: u32) {
        let user = |at: u32| (round * 7 + at * 9) % USERS;
        let line = format!("{round} {TEXT}");
        let busy: Vec<(u32, &str)> = (0..SPEAKERS).map(|at| (user(at), line.as_str())).collect();
        self.turn(&busy);
        self.turn(&[(user(0), &line)]);
        let marked = format!("@cid=r{round} {line}");
        self.turn(&[(round % PROGRAMS, &marked)]);
        let private = format!("/msg n{} {line}", user(1));
        self.turn(&[(user(0), &private), (user(2), "/me waves"), (user(3), "/who")]);
        self.turn(&[(user(4), "/history 20"), (user(5), "/msg nobody are you there?")]);
        self.turn(&[(user(6), "/join ops"), (user(6), &line)]);
        self.turn(&[(user(6), "/part ops"), (user(7), "/away lunch"), (user(7), "/away")]);
    }

    /// Some members exceed their outbox limit, miss messages, a topic, joins and leaves, and then
    /// read again.
    fn fall_behind(&mut self) {
        let log = MemoryLog::new(LOG_MESSAGES, LOG_SIZE);
        // Its thread would end, and free memory, at a random moment.
        mem::forget(mem::replace(&mut self.hub.log, log));
        for user in (0..SLOW_READERS).step_by(4) {
            self.turn(&[(user, "/set tags on")]);
        }
        for missed in MISSED_TURNS {
            for user in 0..SLOW_READERS {
                self.hub.input(conn(user), Input::OverLimit);
            }
            for turn in 0..missed {
                self.busy_turn(turn);
            }
            let (joining, speaking) = (USERS - 1, USERS - 2);
            let lines =
                [(joining, "/part lobby"), (joining, "/join lobby"), (speaking, "/topic x")];
            let turn = self.handle(&lines);
            self.hub.release(turn);
            self.written += end_turn(&mut self.hub, Turn::default()); // they read again
        }
    }

    /// Some users send a message while the slow readers do not read.
    fn busy_turn(&mut self, turn: u32) {
        let line = format!("{turn} {TEXT}");
        let busy: Vec<(u32, &str)> =
            (0..SPEAKERS).map(|at| (SLOW_READERS + at, line.as_str())).collect();
        let turn = self.handle(&busy);
        self.hub.release(turn);
        let Self { hub, written, .. } = self;
        while hub.perform_for(|conn| conn.slot >= SLOW_READERS) {}
        hub.flush(|_, bytes| *written += bytes.len());
    }
}
