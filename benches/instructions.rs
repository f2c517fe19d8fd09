//! A fixed conversation without sockets, to count instructions of:
//! `scripts/instructions.sh` runs it under valgrind and compares the count with the
//! one in `benches/instructions.txt`. Long enough that starting does not show.

mod house;

use std::io::Write as _;

use chatty::server::turn::Turn;

use house::House;

const PEOPLE: u32 = 100;

/// So many of them speak the tagged dialect.
const PROGRAMS: u32 = 20;

const ROUNDS: u32 = 400;

/// How many speak in one turn of a busy room.
const SPEAKERS: u32 = 10;

fn main() -> anyhow::Result<()> {
    let mut talk = Talk { house: House::with_people(PEOPLE), heard: 0, written: 0 };
    for who in 0..PROGRAMS {
        talk.turn(&[(who, "/set tags on")]);
    }
    for round in 0..ROUNDS {
        talk.round(round);
    }
    let Talk { heard, written, .. } = talk;
    writeln!(std::io::stdout(), "{heard} lines heard, {written} bytes written")?;
    Ok(())
}

struct Talk {
    house: House,
    heard: usize,
    written: usize,
}

impl Talk {
    /// Some speak at the same time.
    fn turn(&mut self, lines: &[(u32, &str)]) {
        let mut turn = Turn::default();
        for (who, line) in lines {
            self.house.hear(*who, format!("{line}\n").as_bytes(), &mut turn);
        }
        self.house.release(turn);
        self.heard += lines.len();
        self.written += self.house.flush();
    }

    /// A bit of all that is common, by others each time.
    fn round(&mut self, round: u32) {
        let who = |at: u32| (round * 7 + at * 9) % PEOPLE;
        let text = "which is about as long as what people say to each other, mostly";
        let line = format!("{round} {text}");
        let busy: Vec<(u32, &str)> = (0..SPEAKERS).map(|at| (who(at), line.as_str())).collect();
        self.turn(&busy);
        self.turn(&[(who(0), &line)]);
        let marked = format!("@cid=r{round} {line}");
        self.turn(&[(round % PROGRAMS, &marked)]);
        let private = format!("/msg n{} {line}", who(1));
        self.turn(&[(who(0), &private), (who(2), "/me waves"), (who(3), "/who")]);
        self.turn(&[(who(4), "/history 20"), (who(5), "/msg nobody are you there?")]);
        self.turn(&[(who(6), "/join ops"), (who(6), &line)]);
        self.turn(&[(who(6), "/part ops"), (who(7), "/away lunch"), (who(7), "/away")]);
    }
}
