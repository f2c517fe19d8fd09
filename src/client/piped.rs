//! Without a terminal: lines in, lines out, for scripts and pipes.
//!
//! 1. Lines go out in the order they came in, as fast as the server takes them.
//! 2. Standard output carries the plain lines of the protocol and nothing else.
//! 3. Everything about ourselves goes to standard error.
//! 4. At the end of input all answers are awaited before we leave.

use std::io::{self, BufRead, BufWriter, Read as _, StdoutLock, Write as _};

use tokio::sync::mpsc;

use super::connection::{Connection, Progress};
use super::login::Session;
use super::outgoing::Cids;
use super::{Exit, complain};
use crate::commands::{self, Command, Request, Setting, Target};
use crate::protocol::text::{self, is_blank_text};
use crate::protocol::{Event, LINE_MAX, RoomName, Tags};

/// Lines read ahead of the socket.
const LINES_AHEAD: usize = 1024;

/// So much of a line is read. More than the server takes: it shall say so.
const INPUT_LINE_MAX: u64 = 4 * LINE_MAX as u64;

/// No more is taken from standard input while so much waits to be sent.
const UNSENT_MAX: usize = 64 * 1024;

/// Runs to the end of input, or of the connection.
pub(super) async fn run(
    mut connection: Connection,
    session: Session,
    raw_room: Option<RoomName>,
) -> Exit {
    let mut input = read_input();
    let mut script = Script {
        cids: session.cids,
        raw_room,
        number: 0,
        end: End::None,
        has_refusals: false,
        farewell: None,
        out: BufWriter::with_capacity(UNSENT_MAX, io::stdout().lock()),
    };
    // What came together with the welcome is here already.
    let here = std::iter::from_fn(|| connection.next_line());
    let mut shown = script.show(session.lines.into_iter().chain(here));
    while shown.is_ok() {
        let takes_input = script.end == End::None && connection.unsent_len() < UNSENT_MAX;
        tokio::select! {
            progress = connection.progress() => {
                shown = script.show(std::iter::from_fn(|| connection.next_line()));
                if progress == Progress::Closed {
                    break;
                }
            }
            line = input.recv(), if takes_input => {
                script.take(line, &mut connection);
                while script.end == End::None && connection.unsent_len() < UNSENT_MAX {
                    let Ok(line) = input.try_recv() else { break };
                    script.take(Some(line), &mut connection);
                }
            }
        }
    }
    // Nobody reads us any more, as in `| head -1`: no reason to complain.
    if shown.is_err() { Exit::Done } else { script.exit() }
}

/// Reads standard input on a thread of its own: such a read cannot be called
/// off, and the thread ends with the process.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (lines, input) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        while let Ok(Some(line)) = read_line(&mut stdin) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    input
}

/// The next line, of one that never ends no more than its beginning.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.by_ref().take(INPUT_LINE_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        // Too long, or the last one; then there is nothing to be skipped.
        input.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    None,
    /// The input is over; the answer to our ping of this number is awaited.
    Awaited(u64),
    /// All is answered, or the script has said `/quit` itself.
    Reached,
}

struct Script {
    cids: Cids,
    /// With `--raw`: every line is said here, whatever it looks like.
    raw_room: Option<RoomName>,
    /// The line of input last read, from 1.
    number: u64,
    end: End,
    has_refusals: bool,
    farewell: Option<String>,
    out: BufWriter<StdoutLock<'static>>,
}

impl Script {
    /// Sends a line of input, or says goodbye at its end.
    fn take(&mut self, line: Option<Vec<u8>>, connection: &mut Connection) {
        let Some(line) = line else {
            self.number += 1;
            self.end = End::Awaited(self.number);
            connection.send(&format!("@cid={} /ping", self.cids.mark(self.number)));
            // Answers come in order, so it can follow at once.
            connection.send("/quit");
            return;
        };
        self.number += 1;
        let line = String::from_utf8_lossy(&line);
        let line = line.strip_suffix('\n').unwrap_or(&line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if is_blank_text(line) {
            return;
        }
        let cid = self.cids.mark(self.number);
        if let Some(room) = &self.raw_room {
            let command = Command::Msg { to: Target::Room(room.as_str()), text: line };
            connection.send(&format!("@cid={cid} {command}"));
            return;
        }
        match commands::parse(line) {
            // Without tags our marks would be read as text, by everybody.
            Ok(Request::Command(Command::Set { change: Some((Setting::Tags, false)) })) => {
                self.refused(self.number, "bad-argument", "chatty join needs tags to be on");
                return;
            }
            Ok(Request::Command(Command::Quit { .. })) => self.end = End::Reached,
            _ => {}
        }
        connection.send(&format!("@cid={cid} {line}"));
    }

    /// Writes what the server said, and flushes: a reader at the other end of
    /// the pipe is not kept waiting for a buffer to fill.
    fn show(&mut self, lines: impl IntoIterator<Item = String>) -> io::Result<()> {
        for line in lines {
            let (tags, plain) = Tags::split(&line);
            let number = tags.cid.and_then(|cid| self.cids.number(cid));
            match Event::parse(plain) {
                Some(Event::Reply { word: "PONG", .. })
                    if number.is_some_and(|number| self.end == End::Awaited(number)) =>
                {
                    self.end = End::Reached;
                    continue;
                }
                Some(Event::Error { code, text }) => {
                    if let Some(number) = number {
                        self.refused(number, code, text);
                    }
                }
                // Ours, said after the ping, is no more of the script than that.
                Some(Event::Bye { code: "quit", .. }) if number.is_none() => continue,
                Some(Event::Bye { code, text }) => {
                    self.farewell = Some(format!("{text} ({code})"));
                }
                _ => {}
            }
            writeln!(self.out, "{}", text::clean(plain))?;
        }
        self.out.flush()
    }

    fn refused(&mut self, number: u64, code: &str, text: &str) {
        self.has_refusals = true;
        complain(&format!("line {number}: {code}: {text}"));
    }

    fn exit(&self) -> Exit {
        if self.end != End::Reached {
            complain(&match &self.farewell {
                Some(why) => format!("the server ended the connection: {why}"),
                None => "the connection was lost".to_owned(),
            });
            return Exit::Unavailable;
        }
        if self.has_refusals { Exit::Refused } else { Exit::Done }
    }
}
