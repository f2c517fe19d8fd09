//! A fixed conversation without sockets, whose instructions are counted:
//! `scripts/instructions.sh` runs it under valgrind and compares the count with that in
//! `benches/instructions.txt`. It is long enough to make the cost of startup negligible.

mod common;

use std::io::Write as _;

use chatty::server::turn::Turn;

use common::hub_driver::Driver;
use common::{conn, end_turn, hub_with_users};

const USERS: u32 = 100;

/// How many of the users use the tagged dialect.
const PROGRAMS: u32 = 20;

const ROUNDS: u32 = 400;

/// How many users send a message in one turn of a busy room.
const SPEAKERS: u32 = 10;

fn main() -> anyhow::Result<()> {
    let mut conversation = Conversation { hub: hub_with_users(USERS), received: 0, written: 0 };
    for user in 0..PROGRAMS {
        conversation.turn(&[(user, "/set tags on")]);
    }
    for round in 0..ROUNDS {
        conversation.round(round);
    }
    let Conversation { received, written, .. } = conversation;
    writeln!(std::io::stdout(), "{received} lines received, {written} bytes written")?;
    Ok(())
}

struct Conversation {
    hub: Driver,
    received: usize,
    written: usize,
}

impl Conversation {
    /// Handles the lines of several users in one turn.
    fn turn(&mut self, lines: &[(u32, &str)]) {
        let mut turn = Turn::default();
        for (user, line) in lines {
            self.hub.receive(conn(*user), format!("{line}\n").as_bytes(), &mut turn);
        }
        self.received += lines.len();
        self.written += end_turn(&mut self.hub, turn);
    }

    /// A mix of common lines, of different users in each round.
    fn round(&mut self, round: u32) {
        let user = |at: u32| (round * 7 + at * 9) % USERS;
        let text = "which is about as long as what people say to each other, mostly";
        let line = format!("{round} {text}");
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
}
