//! Without a terminal: lines in, lines out, for scripts and pipes.
//!
//! 1. Lines go out in the order they came in, as fast as the server takes them.
//! 2. Standard output carries the plain lines of the protocol and nothing else,
//!    or an object for each of them (`output.rs`).
//! 3. Everything about ourselves goes to standard error.
//! 4. At the end of input all answers are awaited before we leave.
//! 5. Over a lost connection all of this goes on (`resume.rs`).

use std::io::{self, BufRead, Read as _};
use std::mem;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::connection::{Connection, Progress};
use super::heartbeat::{Heartbeat, HeartbeatAction};
use super::json::Status;
use super::log_files::LogFiles;
use super::login::REPLACED;
use super::output::{Form, Output};
use super::reconnect::{Outcome, ReconnectConfig, Reconnected};
use super::resume::{
    self, ANSWER_CUT, IDS_WENT_BACK, MISSED_LIMIT_REACHED, Resumption, reconnected_message,
};
use super::signals::Signals;
use super::state::State;
use super::{ActiveSession, Exit, print_error};
use crate::commands::{self, Command, MessageTarget, Request, Setting};
use crate::protocol::text::is_blank_text;
use crate::protocol::{Event, LINE_MAX, RoomName, Tags};
use crate::{stdio, text_file};

/// What has come of a line that nobody answered.
const UNCERTAIN: (Status, &str) = (Status::InDoubt, "sent, but nobody knows whether it was said");
const NOT_SENT: (Status, &str) = (Status::NotSent, "not sent");

/// Lines read ahead of what is said.
const LINES_AHEAD: usize = 64;

/// So much of a line is read. More than the server takes: it shall say so.
const INPUT_LINE_MAX: u64 = 4 * LINE_MAX as u64;

/// No more is taken from standard input while so much waits for an answer, be it
/// that the server is slow or that it is gone.
const UNANSWERED_MAX: (usize, usize) = (1000, 1024 * 1024);

/// No more is put into the connection's buffer while so much is in it.
const UNSENT_MAX: usize = 64 * 1024;

/// What there is to say, and how.
pub(super) struct Task {
    /// Lines to say first.
    pub(super) lines: Vec<String>,
    /// Whether standard input follows them.
    pub(super) reads_input: bool,
    /// With `--raw`: every line is said here, whatever it looks like.
    pub(super) raw_room: Option<RoomName>,
    pub(super) form: Form,
    /// How long to listen after that.
    pub(super) wait: Duration,
    pub(super) is_quiet: bool,
}

/// Runs to the end of input, or of the connection.
pub(super) async fn run(visit: ActiveSession, task: Task, mut signals: Signals) -> Exit {
    let ActiveSession { mut connection, session, cids, mut road, ping_after, log, .. } = visit;
    let mut input = read_input(task.lines, task.reads_input);
    let mut script = Script {
        comeback: Resumption::new(cids),
        state: State::new(&session.me),
        raw_room: task.raw_room,
        end: End::None,
        goodbye: "/quit".to_owned(),
        has_refusals: false,
        has_doubts: false,
        farewell: None,
        is_patient: !road.retry_for.is_zero(),
        keeps_place: road.keeps_place,
        was_replaced: false,
        pulse: Heartbeat::new(ping_after, Instant::now()),
        wait: task.wait,
        output: Output::new(task.form, task.is_quiet),
        log,
    };
    script.output.status_for_programs(
        Status::Online,
        None,
        &format!("logged in as {}", session.me),
    );
    let mut shown = script.show(session.lines);
    loop {
        let stop = match shown {
            Ok(()) => script.talk(&mut connection, &mut input, &mut signals).await,
            Err(problem) => Stop::Over(output_failed(&problem)),
        };
        match stop {
            Stop::Over(exit) => {
                let goodbye = std::mem::take(&mut script.goodbye);
                let mut last = Vec::new();
                connection.quit(&goodbye, |line| last.push(line)).await;
                let _ = script.show(last);
                return script.finish(exit);
            }
            Stop::Lost => {}
        }
        let back = match script.wait(&road, &mut input, &mut signals).await {
            Ok(back) => back,
            Err(exit) => return script.finish(exit),
        };
        road.found(&mut script.comeback, back.backoff);
        script.state.greeted(&back.me);
        connection = back.connection;
        let is_anew = matches!(back.how, Outcome::Anew(_));
        script.output.status(Status::Back, None, &reconnected_message(back.after, is_anew));
        if back.ids_were_reset {
            script.output.status(Status::IdsWentBack, None, IDS_WENT_BACK);
        }
        shown = script.back(back.missed, back.how);
    }
}

/// Nobody reads us any more, as in `| head -1`: no reason to complain. Any other
/// end of our output is.
fn output_failed(problem: &io::Error) -> Exit {
    if problem.kind() == io::ErrorKind::BrokenPipe {
        return Exit::Done;
    }
    print_error(&format!("cannot write what the server says: {problem}"));
    Exit::Unavailable
}

/// Without a time, for ever.
async fn sleep_until_opt(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Reads standard input behind these lines on a thread of its own: such a read
/// cannot be called off, and the thread ends with the process. An error is the last
/// item.
fn read_input(first: Vec<String>, reads_on: bool) -> Input {
    let (lines, input) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in first {
            if lines.blocking_send(Ok(line.into_bytes())).is_err() {
                return;
            }
        }
        if !reads_on {
            return;
        }
        let mut stdin = stdio::stdin();
        let mut is_first = true;
        loop {
            let mut line = read_line(&mut stdin);
            // A mark that only says how the file is encoded is no text.
            if mem::take(&mut is_first)
                && let Ok(Some(beginning)) = &mut line
                && let Err(problem) = text_file::drop_mark(beginning)
            {
                line = Err(problem);
            }
            let is_over = line.is_err();
            let Some(line) = line.transpose() else { return };
            if lines.blocking_send(line).is_err() || is_over {
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
        if input.skip_until(b'\n')? > 0 {
            // The cut is not to make a character incomplete: it is too long, no more.
            let cut = str::from_utf8(&line).err().filter(|fault| fault.error_len().is_none());
            line.truncate(cut.map_or(line.len(), |fault| fault.valid_up_to()));
        }
    }
    Ok(Some(line))
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    None,
    /// The input is over, and we listen: until then, or for ever.
    Listening(Option<Instant>),
    /// The input is over, or the script has said `/quit` itself; the answer to
    /// our ping of this number is awaited.
    Awaited(u64),
    /// All is answered.
    Reached,
    /// A new visit does not lead to where lines went in the old one.
    Astray,
}

/// Why talking has stopped.
enum Stop {
    Lost,
    Over(Exit),
}

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct Script {
    comeback: Resumption,
    state: State,
    raw_room: Option<RoomName>,
    end: End,
    /// The last line, sent when all before it is answered: after it there is no
    /// coming back for an answer that was lost.
    goodbye: String,
    has_refusals: bool,
    /// A line was sent and nobody knows whether it was said, or more was said than
    /// was told.
    has_doubts: bool,
    farewell: Option<(String, String)>,
    /// Whether we come back.
    is_patient: bool,
    keeps_place: bool,
    /// The connection ended because our account logged in elsewhere.
    was_replaced: bool,
    pulse: Heartbeat,
    /// How long to listen after the end of the input.
    wait: Duration,
    output: Output,
    log: LogFiles,
}

type Line = io::Result<Vec<u8>>;
type Input = mpsc::Receiver<Line>;

impl Script {
    /// Lines in, lines out, until the end or until the connection is lost.
    async fn talk(
        &mut self,
        connection: &mut Connection,
        input: &mut Input,
        signals: &mut Signals,
    ) -> Stop {
        let mut is_closed = false;
        self.pulse.heard(Instant::now());
        loop {
            // What came together with the welcome is here already.
            if let Err(problem) = self.show(std::iter::from_fn(|| connection.next_line())) {
                return Stop::Over(output_failed(&problem));
            }
            match self.end {
                End::Reached | End::Astray => return Stop::Over(self.exit()),
                _ if is_closed => return Stop::Lost,
                End::None | End::Listening(_) | End::Awaited(_) => self.send(connection),
            }
            let until = match self.end {
                End::Listening(until) => until,
                _ => None,
            };
            tokio::select! {
                () = self.output.writable() => {}
                () = sleep_until_opt(until) => self.ping(),
                progress = connection.progress(), if self.output.has_room() => {
                    is_closed = progress == Progress::Closed;
                    if progress == Progress::Read {
                        self.pulse.heard(Instant::now());
                    }
                }
                // While the socket is not read, the silence is ours.
                () = sleep_until(self.pulse.due()), if !self.output.has_room() => {
                    self.pulse.heard(Instant::now());
                }
                () = sleep_until(self.pulse.due()), if self.output.has_room()
                    => match self.pulse.beat(Instant::now()) {
                    HeartbeatAction::Wait => {}
                    HeartbeatAction::Ask => connection.send(&self.comeback.pulse_request()),
                    HeartbeatAction::Dead => return Stop::Lost,
                },
                line = input.recv(), if self.takes_input() => self.take_all(line, input),
                exit = signals.next() => return Stop::Over(exit),
            }
        }
    }

    /// Comes back, if that makes sense, and goes on taking lines meanwhile.
    async fn wait(
        &mut self,
        road: &ReconnectConfig,
        input: &mut Input,
        signals: &mut Signals,
    ) -> Result<Reconnected, Exit> {
        if let Some(number) = self.comeback.cut_answer() {
            self.has_doubts = true;
            self.output.status(Status::Gap, Some(number), ANSWER_CUT);
        }
        let code = self.farewell.as_ref().map(|(code, _)| code.as_str());
        self.was_replaced = code == Some(REPLACED);
        if !self.comes_back_after(code) {
            let why = match self.farewell.take() {
                Some((code, text)) => format!("the server ended the connection: {text} ({code})"),
                None => "the connection was lost".to_owned(),
            };
            return Err(self.give_up(Exit::Unavailable, &why));
        }
        let lost = match self.farewell.take() {
            Some((_, text)) => format!("the server ended the connection: {text}; trying again"),
            None => "connection lost, trying again".to_owned(),
        };
        self.output.status(Status::Offline, None, &lost);
        // A reader shall know while we are away.
        let _ = self.output.flush();
        if self.was_replaced {
            self.comeback.forget_visit();
        }
        let way = road.way(&mut self.comeback, &self.state);
        let mut finding = std::pin::pin!(way.find());
        loop {
            tokio::select! {
                back = &mut finding => {
                    return back.map_err(|given_up| self.give_up(given_up.exit, &given_up.why));
                }
                line = input.recv(), if self.takes_input() => self.take_all(line, input),
                exit = signals.next() => return Err(self.give_up(exit, "told to leave")),
            }
        }
    }

    /// Goes on where the connection was lost.
    fn back(&mut self, missed: Vec<String>, how: Outcome) -> io::Result<()> {
        let (again, session) = match how {
            Outcome::Resumed => (None, None),
            Outcome::Restored(seen, session) => (Some(seen), Some(session)),
            Outcome::Anew(session) => (None, Some(session)),
        };
        let is_same_visit = session.is_none() || again.is_some();
        self.comeback.back(again);
        self.show(missed)?;
        let Some(session) = session else {
            self.comeback.go_on();
            return Ok(());
        };
        if !is_same_visit {
            let sent = if self.was_replaced {
                self.comeback.go_on();
                Vec::new()
            } else {
                self.comeback.begin_anew(&session)
            };
            let is_pinged = sent.iter().any(|(number, _)| self.end == End::Awaited(*number));
            self.doubt(&sent, UNCERTAIN);
            if is_pinged {
                self.ping();
            }
        }
        let before = std::mem::replace(&mut self.state, State::new(&session.me));
        self.show(session.lines)?;
        self.show(session.missed)?;
        if session.has_more {
            self.has_doubts = true;
            self.output.status(Status::Gap, None, MISSED_LIMIT_REACHED);
        }
        if !self.state.is_where(&before) {
            let why = session.refused.unwrap_or_else(|| before.target());
            let why = format!("the way back does not lead to where lines went: {why}");
            self.output.status(Status::Failed, None, &why);
            let sent = self.comeback.outgoing.give_up_sent();
            self.doubt(&sent, UNCERTAIN);
            let unsent = self.comeback.outgoing.give_up_unsent();
            self.doubt(&unsent, NOT_SENT);
            self.end = End::Astray;
        }
        if is_same_visit {
            self.comeback.go_on();
        }
        Ok(())
    }

    /// Whether we come back after this farewell, or none. Jobs that share an account
    /// replace each other, and each is to have its lines said; whoever stays longer
    /// would fight for the account for ever.
    fn comes_back_after(&self, code: Option<&str>) -> bool {
        let is_shared = !self.keeps_place && code == Some(REPLACED);
        self.is_patient && (resume::should_reconnect(code) || is_shared)
    }

    /// Waits until what was told is written.
    fn finish(&mut self, exit: Exit) -> Exit {
        match self.output.finish() {
            Err(problem) if exit == Exit::Done || exit == Exit::Refused => output_failed(&problem),
            _ => exit,
        }
    }

    fn takes_input(&self) -> bool {
        let (lines, size) = self.comeback.outgoing.load();
        self.end == End::None && lines < UNANSWERED_MAX.0 && size < UNANSWERED_MAX.1
    }

    /// Takes a line of input, and those behind it that are here.
    fn take_all(&mut self, line: Option<Line>, input: &mut Input) {
        self.take(line);
        while self.takes_input() {
            let Ok(line) = input.try_recv() else { break };
            self.take(Some(line));
        }
    }

    /// Takes a line of input, or its end.
    fn take(&mut self, line: Option<Line>) {
        let line = match line {
            Some(Ok(line)) => line,
            Some(Err(problem)) => {
                let why = stdio::reason(&problem);
                self.has_doubts = true;
                self.output.status(
                    Status::Failed,
                    None,
                    &format!("cannot read standard input: {why}"),
                );
                return self.ping();
            }
            None if self.wait.is_zero() => return self.ping(),
            None => {
                self.end = End::Listening(Instant::now().checked_add(self.wait));
                return;
            }
        };
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Ok(line) = str::from_utf8(line) else {
            return self.refuse("bad-encoding", "not sent: it is not UTF-8 (iconv converts it)");
        };
        let outgoing = &mut self.comeback.outgoing;
        if is_blank_text(line) {
            outgoing.skip();
            return;
        }
        if let Some(room) = &self.raw_room {
            let command =
                Command::Msg { to: MessageTarget::Room(room.as_str()), text: line }.to_string();
            // A line of full length has no room for that; where it goes all the same
            // is checked with every new visit.
            let is_text = commands::parse(line) == Ok(Request::Say(line));
            let line = if command.len() > LINE_MAX && is_text { line } else { &command };
            outgoing.add(line.to_owned(), None, &self.state);
            return;
        }
        match commands::parse(line) {
            // Without tags our marks would be read as text, by everybody.
            Ok(Request::Command(Command::Set { change: Some((Setting::Tags, false)) })) => {
                self.refuse("bad-argument", "chatty join needs tags to be on");
            }
            Ok(Request::Command(Command::Quit { .. })) => {
                let number = outgoing.skip();
                self.goodbye = format!("@cid={} {line}", outgoing.cids().mark(number));
                self.ping();
            }
            _ => {
                outgoing.add(line.to_owned(), None, &self.state);
            }
        }
    }

    /// Refuses a line of input that is not even sent.
    fn refuse(&mut self, code: &str, why: &str) {
        let number = self.comeback.outgoing.skip();
        self.has_refusals = true;
        self.output.error(number, code, why);
    }

    /// Asks for the answer behind which there are no others.
    fn ping(&mut self) {
        let ping = Command::Ping { token: None }.to_string();
        self.end = End::Awaited(self.comeback.outgoing.add(ping, None, &self.state));
    }

    /// Sends what is to be sent, as far as it makes sense to.
    fn send(&mut self, connection: &mut Connection) {
        while connection.unsent_len() < UNSENT_MAX
            && let Some(line) = self.comeback.outgoing.next(&self.state)
        {
            connection.send(&line);
        }
    }

    /// Writes what the server said, and flushes.
    fn show(&mut self, lines: impl IntoIterator<Item = String>) -> io::Result<()> {
        for line in lines {
            for line in self.comeback.whole(line) {
                let (tags, plain) = Tags::split(&line);
                let number = self.number(&tags);
                if self.note(&tags, Event::parse(plain)) {
                    self.output.line(&tags, plain, number, self.state.me())?;
                    self.log.note(&tags, plain).as_deref().map(print_error);
                }
            }
        }
        self.output.flush()
    }

    /// Which of our lines this answers.
    fn number(&self, tags: &Tags<'_>) -> Option<u64> {
        self.comeback.outgoing.cids().number(tags.cid?)
    }

    /// Takes note of a line. `false`: it is not for the output.
    fn note(&mut self, tags: &Tags<'_>, event: Option<Event<'_>>) -> bool {
        let is_shown = self.comeback.note(tags, event.as_ref());
        let number = self.number(tags);
        tags.cid.map(|cid| self.comeback.outgoing.acknowledge(cid, event.as_ref()));
        if let Some(event) = &event {
            self.state.apply(tags, event);
        }
        match event {
            Some(Event::Reply { word: "PONG", .. })
                if number.is_some_and(|number| self.end == End::Awaited(number)) =>
            {
                self.end = End::Reached;
                false
            }
            Some(Event::Error { code, text }) => {
                if let Some(number) = number {
                    self.has_refusals = true;
                    print_error(&format!("line {number}: {code}: {text}"));
                }
                is_shown
            }
            // Ours, said after the ping, is no more of the script than that.
            Some(Event::Bye { code: "quit", .. }) if number.is_none() => false,
            Some(Event::Bye { code, text }) => {
                self.farewell = Some((code.to_owned(), text.to_owned()));
                // One from which we come back is no more than a lost connection.
                !self.comes_back_after(Some(code))
            }
            _ => is_shown,
        }
    }

    /// Names lines that were not answered; of our own ping nobody needs to know.
    fn doubt(&mut self, lines: &[(u64, String)], (status, what): (Status, &str)) {
        for (number, _) in lines.iter().filter(|(number, _)| self.end != End::Awaited(*number)) {
            self.has_doubts = true;
            self.output.status(status, Some(*number), what);
        }
    }

    /// It is over, and what waits will not be said.
    fn give_up(&mut self, exit: Exit, why: &str) -> Exit {
        self.output.status(Status::Failed, None, why);
        let sent = self.comeback.outgoing.give_up_sent();
        self.doubt(&sent, UNCERTAIN);
        let unsent = self.comeback.outgoing.give_up_unsent();
        self.doubt(&unsent, NOT_SENT);
        let _ = self.output.flush(); // it is over anyway
        exit
    }

    fn exit(&self) -> Exit {
        match self.end {
            End::Reached if self.has_doubts => Exit::Unavailable,
            End::Reached if self.has_refusals => Exit::Refused,
            End::Reached => Exit::Done,
            _ => Exit::Unavailable,
        }
    }
}
