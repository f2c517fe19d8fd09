//! The piped mode, without a terminal: reads and writes lines, for scripts and pipes. It
//! does not know the output format (`output.rs`).
//!
//! 1. Lines are sent in the order of the input, as fast as the server accepts them.
//! 2. Standard output carries only lines of the protocol, or an object for each of them.
//! 3. Messages of the client itself go to standard error.
//! 4. At the end of the input, the client waits for all answers before it exits.
//! 5. All of this survives a lost connection (`resume.rs`).

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
use super::{ActiveSession, Exit, QUIT, print_error};
use crate::commands::{self, Command, MessageTarget, Parsed, Setting};
use crate::protocol::text::is_blank_text;
use crate::protocol::{Event, LINE_MAX, RoomName, Tags};
use crate::{stdio, text_file};

/// The reports about lines without an answer.
const UNCERTAIN: (Status, &str) = (Status::InDoubt, "sent, but not confirmed; it may be lost");
const NOT_SENT: (Status, &str) = (Status::NotSent, "not sent");

/// How many lines of input are read ahead.
const LINES_AHEAD: usize = 64;

/// The maximum length of an input line in bytes; the rest is dropped. It exceeds the
/// server's limit, so that the server refuses the line.
const INPUT_LINE_MAX: u64 = 4 * LINE_MAX as u64;

/// The maximum number of unanswered lines and their bytes. Past either, standard input is
/// not read (backpressure), whether the server is slow or the connection is lost.
const UNANSWERED_MAX: (usize, usize) = (1000, 1024 * 1024);

/// The maximum number of bytes in the connection's send buffer before lines wait.
const UNSENT_MAX: usize = 64 * 1024;

/// The input, the output format and the end of a run.
pub(super) struct Task {
    /// Lines to send first.
    pub(super) lines: Vec<String>,
    /// Whether standard input follows them.
    pub(super) reads_input: bool,
    /// With `--raw`: every line is sent to this room as text.
    pub(super) raw_room: Option<RoomName>,
    pub(super) form: Form,
    /// How long to stay connected after the end of input.
    pub(super) wait: Duration,
    pub(super) is_quiet: bool,
}

/// Runs until the end of the input or of the connection.
pub(super) async fn run(active: ActiveSession, task: Task, mut signals: Signals) -> Exit {
    let ActiveSession { mut connection, session, cids, mut reconnect, ping_after, log, .. } =
        active;
    let mut input = read_input(task.lines, task.reads_input);
    let mut script = Script {
        resumption: Resumption::new(cids),
        state: State::new(&session.me),
        raw_room: task.raw_room,
        end: End::None,
        goodbye: QUIT.to_string(),
        has_refusals: false,
        is_incomplete: false,
        farewell: None,
        reconnects: !reconnect.retry_for.is_zero(),
        wants_session: reconnect.wants_session,
        was_replaced: false,
        heartbeat: Heartbeat::new(ping_after, Instant::now()),
        wait: task.wait,
        output: Output::new(task.form, task.is_quiet),
        log,
    };
    script.output.status_object(Status::Online, None, &format!("logged in as {}", session.me));
    let mut shown = script.show(session.lines);
    loop {
        let stop = match shown {
            Ok(()) => script.serve_connection(&mut connection, &mut input, &mut signals).await,
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
        let back = match script.reconnect(&reconnect, &mut input, &mut signals).await {
            Ok(back) => back,
            Err(exit) => return script.finish(exit),
        };
        reconnect.record_connected(&mut script.resumption, back.backoff);
        script.state.resumed_as(&back.me);
        connection = back.connection;
        let is_new_session = matches!(back.how, Outcome::NewSession(_));
        script.output.status(Status::Back, None, &reconnected_message(back.after, is_new_session));
        if back.ids_were_reset {
            script.output.status(Status::IdsWentBack, None, IDS_WENT_BACK);
        }
        shown = script.continue_after_reconnect(back.missed, back.how);
    }
}

/// Returns the exit code for a failed output. A closed pipe, as in `| head -1`, is a
/// success; other errors are reported.
fn output_failed(problem: &io::Error) -> Exit {
    if problem.kind() == io::ErrorKind::BrokenPipe {
        return Exit::Done;
    }
    print_error(&format!("cannot write to standard output: {problem}"));
    Exit::Unavailable
}

/// Sleeps until `time`; forever without one.
async fn sleep_until_opt(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Yields these lines, then those of standard input. A thread reads them because such a
/// read cannot be cancelled; it ends with the process. An error is the last item.
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
            // A byte order mark is not text.
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

/// Reads the next line, at most [`INPUT_LINE_MAX`] bytes of it.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.by_ref().take(INPUT_LINE_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        // The line is too long, or it is the last one and nothing is skipped.
        if input.skip_until(b'\n')? > 0 {
            // The cut must not split a character: the line is too long, not badly encoded.
            let cut = str::from_utf8(&line).err().filter(|fault| fault.error_len().is_none());
            line.truncate(cut.map_or(line.len(), |fault| fault.valid_up_to()));
        }
    }
    Ok(Some(line))
}

/// The phases of the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    None,
    /// The input has ended; the client stays connected until this time, or forever.
    Listening(Option<Instant>),
    /// The input has ended, or the script sent `/quit`; the answer to the ping with this
    /// number is awaited.
    AwaitingPong(u64),
    /// All lines are answered.
    Reached,
    /// A new session could not restore the target of the lines.
    TargetLost,
}

/// Why a connection is no longer served.
enum Stop {
    Lost,
    Over(Exit),
}

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct Script {
    resumption: Resumption,
    state: State,
    raw_room: Option<RoomName>,
    end: End,
    /// The last line, sent when all lines before it are answered: after it, the session
    /// cannot be resumed for a lost answer.
    goodbye: String,
    has_refusals: bool,
    /// A sent line was not confirmed, or not all lines of the server were shown.
    is_incomplete: bool,
    farewell: Option<(String, String)>,
    /// Whether to reconnect.
    reconnects: bool,
    wants_session: bool,
    /// The connection ended because our account logged in on another one.
    was_replaced: bool,
    heartbeat: Heartbeat,
    /// How long to stay connected after the end of input.
    wait: Duration,
    output: Output,
    log: LogFiles,
}

type Line = io::Result<Vec<u8>>;
type Input = mpsc::Receiver<Line>;

impl Script {
    /// Serves the connection until the end of the run or until the connection is lost.
    async fn serve_connection(
        &mut self,
        connection: &mut Connection,
        input: &mut Input,
        signals: &mut Signals,
    ) -> Stop {
        let mut is_closed = false;
        self.heartbeat.received(Instant::now());
        loop {
            // The first lines may have arrived together with the login.
            if let Err(problem) = self.show(std::iter::from_fn(|| connection.next_line())) {
                return Stop::Over(output_failed(&problem));
            }
            match self.end {
                End::Reached | End::TargetLost => return Stop::Over(self.exit()),
                _ if is_closed => return Stop::Lost,
                End::None | End::Listening(_) | End::AwaitingPong(_) => self.send(connection),
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
                        self.heartbeat.received(Instant::now());
                    }
                }
                // While the socket is not read, the silence is not the server's.
                () = sleep_until(self.heartbeat.due()), if !self.output.has_room() => {
                    self.heartbeat.received(Instant::now());
                }
                () = sleep_until(self.heartbeat.due()), if self.output.has_room()
                    => match self.heartbeat.beat(Instant::now()) {
                    HeartbeatAction::Wait => {}
                    HeartbeatAction::Ping => connection.send(&self.resumption.ping_request()),
                    HeartbeatAction::Dead => return Stop::Lost,
                },
                line = input.recv(), if self.accepts_input() => self.handle_inputs(line, input),
                exit = signals.next() => return Stop::Over(exit),
            }
        }
    }

    /// Reconnects unless the farewell forbids it, and reads input meanwhile.
    async fn reconnect(
        &mut self,
        reconnect: &ReconnectConfig,
        input: &mut Input,
        signals: &mut Signals,
    ) -> Result<Reconnected, Exit> {
        if let Some(number) = self.resumption.cut_answer() {
            self.is_incomplete = true;
            self.output.status(Status::Gap, Some(number), ANSWER_CUT);
        }
        let code = self.farewell.as_ref().map(|(code, _)| code.as_str());
        self.was_replaced = code == Some(REPLACED);
        if !self.reconnects_after(code) {
            let why = match self.farewell.take() {
                Some((code, text)) => format!("the server ended the connection: {text} ({code})"),
                None => "the connection was lost".to_owned(),
            };
            return Err(self.fail(Exit::Unavailable, &why));
        }
        let lost = match self.farewell.take() {
            Some((_, text)) => format!("the server ended the connection: {text}; reconnecting"),
            None => "connection lost; reconnecting".to_owned(),
        };
        self.output.status(Status::Offline, None, &lost);
        // The reader must see the status before the connection is restored.
        let _ = self.output.flush();
        if self.was_replaced {
            self.resumption.discard_session();
        }
        let reconnector = reconnect.reconnector(&mut self.resumption, &self.state);
        let mut reconnecting = std::pin::pin!(reconnector.run());
        loop {
            tokio::select! {
                back = &mut reconnecting => {
                    return back.map_err(|given_up| self.fail(given_up.exit, &given_up.why));
                }
                line = input.recv(), if self.accepts_input() => self.handle_inputs(line, input),
                exit = signals.next() => return Err(self.fail(exit, "stopped by a signal")),
            }
        }
    }

    /// Continues after the connection was restored.
    fn continue_after_reconnect(&mut self, missed: Vec<String>, how: Outcome) -> io::Result<()> {
        let (again, session) = match how {
            Outcome::Resumed => (None, None),
            Outcome::Restored(seen, session) => (Some(seen), Some(session)),
            Outcome::NewSession(session) => (None, Some(session)),
        };
        let is_same_session = session.is_none() || again.is_some();
        self.resumption.restored(again);
        self.show(missed)?;
        let Some(session) = session else {
            self.resumption.resend_unanswered();
            return Ok(());
        };
        if !is_same_session {
            let sent = if self.was_replaced {
                self.resumption.resend_unanswered();
                Vec::new()
            } else {
                self.resumption.start_new_session(&session)
            };
            let is_pinged = sent.iter().any(|(number, _)| self.end == End::AwaitingPong(*number));
            self.report_unanswered(&sent, UNCERTAIN);
            if is_pinged {
                self.ping();
            }
        }
        let before = std::mem::replace(&mut self.state, State::new(&session.me));
        self.show(session.lines)?;
        self.show(session.missed)?;
        if session.has_more {
            self.is_incomplete = true;
            self.output.status(Status::Gap, None, MISSED_LIMIT_REACHED);
        }
        if !self.state.has_same_target(&before) {
            let why = session.refused.unwrap_or_else(|| before.target());
            let why = format!("cannot return to the room or user that lines were sent to: {why}");
            self.output.status(Status::Failed, None, &why);
            let sent = self.resumption.outgoing.abandon_sent();
            self.report_unanswered(&sent, UNCERTAIN);
            let unsent = self.resumption.outgoing.abandon_unsent();
            self.report_unanswered(&unsent, NOT_SENT);
            self.end = End::TargetLost;
        }
        if is_same_session {
            self.resumption.resend_unanswered();
        }
        Ok(())
    }

    /// Whether to reconnect after this farewell, or without one. Jobs that share an account
    /// replace each other's connection, and each must deliver its lines, so jobs reconnect.
    /// Clients that stay would replace each other forever, so they do not.
    fn reconnects_after(&self, code: Option<&str>) -> bool {
        let is_shared = !self.wants_session && code == Some(REPLACED);
        self.reconnects && (resume::should_reconnect(code) || is_shared)
    }

    /// Waits until all output is written.
    fn finish(&mut self, exit: Exit) -> Exit {
        match self.output.finish() {
            Err(problem) if exit == Exit::Done || exit == Exit::Refused => output_failed(&problem),
            _ => exit,
        }
    }

    fn accepts_input(&self) -> bool {
        let (lines, size) = self.resumption.outgoing.load();
        self.end == End::None && lines < UNANSWERED_MAX.0 && size < UNANSWERED_MAX.1
    }

    /// Handles a line of input and all that are available after it.
    fn handle_inputs(&mut self, line: Option<Line>, input: &mut Input) {
        self.handle_input(line);
        while self.accepts_input() {
            let Ok(line) = input.try_recv() else { break };
            self.handle_input(Some(line));
        }
    }

    /// Handles a line of input, or its end.
    fn handle_input(&mut self, line: Option<Line>) {
        let line = match line {
            Some(Ok(line)) => line,
            Some(Err(problem)) => {
                let why = stdio::reason(&problem);
                self.is_incomplete = true;
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
            return self.refuse("bad-encoding", "not sent: not UTF-8; convert it with iconv");
        };
        let outgoing = &mut self.resumption.outgoing;
        if is_blank_text(line) {
            outgoing.skip();
            return;
        }
        if let Some(room) = &self.raw_room {
            let command =
                Command::Msg { to: MessageTarget::Room(room.as_str()), text: line }.to_string();
            // A line of maximum length cannot be prefixed with its room. It goes to the
            // current target, which is checked in every new session.
            let is_text = commands::parse(line) == Ok(Parsed::Say(line));
            let line = if command.len() > LINE_MAX && is_text { line } else { &command };
            outgoing.add(line.to_owned(), None, &self.state);
            return;
        }
        match commands::parse(line) {
            // Without tags, our cids would be sent as text.
            Ok(Parsed::Command(Command::Set { change: Some((Setting::Tags, false)) })) => {
                self.refuse("bad-argument", "chatty join needs tags to be on");
            }
            Ok(Parsed::Command(Command::Quit { .. })) => {
                let number = outgoing.skip();
                self.goodbye = format!("@cid={} {line}", outgoing.cids().line_cid(number));
                self.ping();
            }
            _ => {
                outgoing.add(line.to_owned(), None, &self.state);
            }
        }
    }

    /// Refuses a line of input without sending it.
    fn refuse(&mut self, code: &str, why: &str) {
        let number = self.resumption.outgoing.skip();
        self.has_refusals = true;
        self.output.error(number, code, why);
    }

    /// Sends a ping whose answer arrives after all others.
    fn ping(&mut self) {
        let ping = Command::Ping { token: None }.to_string();
        self.end = End::AwaitingPong(self.resumption.outgoing.add(ping, None, &self.state));
    }

    /// Sends waiting lines while the send buffer has space.
    fn send(&mut self, connection: &mut Connection) {
        while connection.unsent_len() < UNSENT_MAX
            && let Some(line) = self.resumption.outgoing.next(&self.state)
        {
            connection.send(&line);
        }
    }

    /// Writes lines of the server, and flushes.
    fn show(&mut self, lines: impl IntoIterator<Item = String>) -> io::Result<()> {
        for line in lines {
            for line in self.resumption.complete_answer(line) {
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

    /// Returns the number of the line that this answers.
    fn number(&self, tags: &Tags<'_>) -> Option<u64> {
        self.resumption.outgoing.cids().number(tags.cid?)
    }

    /// Records a line. `false`: it is not written to the output.
    fn note(&mut self, tags: &Tags<'_>, event: Option<Event<'_>>) -> bool {
        let is_shown = self.resumption.note(tags, event.as_ref());
        let number = self.number(tags);
        tags.cid.map(|cid| self.resumption.outgoing.acknowledge(cid, event.as_ref()));
        if let Some(event) = &event {
            self.state.apply(tags, event);
        }
        match event {
            Some(Event::Reply { word: "PONG", .. })
                if number.is_some_and(|number| self.end == End::AwaitingPong(number)) =>
            {
                self.end = End::Reached;
                false
            }
            Some(Event::Error { code, text, .. }) => {
                if let Some(number) = number {
                    self.has_refusals = true;
                    print_error(&format!("line {number}: {code}: {text}"));
                }
                is_shown
            }
            // The answer to our own final `/quit` is not part of the script.
            Some(Event::Bye { code: "quit", .. }) if number.is_none() => false,
            Some(Event::Bye { code, text }) => {
                self.farewell = Some((code.to_owned(), text.to_owned()));
                // If the client reconnects, the farewell is only a lost connection.
                !self.reconnects_after(Some(code))
            }
            _ => is_shown,
        }
    }

    /// Reports unanswered lines, except our own ping.
    fn report_unanswered(&mut self, lines: &[(u64, String)], (status, what): (Status, &str)) {
        for (number, _) in lines.iter().filter(|(number, _)| self.end != End::AwaitingPong(*number))
        {
            self.is_incomplete = true;
            self.output.status(status, Some(*number), what);
        }
    }

    /// Abandons the run and reports the lines that will not be sent.
    fn fail(&mut self, exit: Exit, why: &str) -> Exit {
        self.output.status(Status::Failed, None, why);
        let sent = self.resumption.outgoing.abandon_sent();
        self.report_unanswered(&sent, UNCERTAIN);
        let unsent = self.resumption.outgoing.abandon_unsent();
        self.report_unanswered(&unsent, NOT_SENT);
        let _ = self.output.flush(); // the run has failed anyway
        exit
    }

    fn exit(&self) -> Exit {
        match self.end {
            End::Reached if self.is_incomplete => Exit::Unavailable,
            End::Reached if self.has_refusals => Exit::Refused,
            End::Reached => Exit::Done,
            _ => Exit::Unavailable,
        }
    }
}
