//! The piped mode, without a terminal: reads and writes lines, for scripts and pipes. It
//! does not know the output format (`output.rs`).
//!
//! 1. Lines are sent in the order of the input, as fast as the server accepts them.
//! 2. Standard output carries only lines of the protocol, or an object for each of them.
//! 3. Messages of the client itself go to standard error.
//! 4. At the end of the input, the client waits for all answers before it exits.
//! 5. All of this survives a lost connection (`session/resume.rs`).

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::input::{Input, Line, read_input, text_of};
use super::json::Status;
use super::output::{Extent, Form, Output};
use crate::client::log_files::LogFiles;
use crate::client::model::state::State;
use crate::client::net::connection::{Connection, Progress};
use crate::client::process::exit::Exit;
use crate::client::process::signals::Signals;
use crate::client::session::heartbeat::{Heartbeat, HeartbeatAction};
use crate::client::session::login::REPLACED;
use crate::client::session::outgoing::{CidGenerator, in_local_time};
use crate::client::session::reconnect::{Outcome, ReconnectConfig, Reconnected};
use crate::client::session::resume::{
    self, ANSWER_CUT, IDS_WENT_BACK, MISSED_LIMIT_REACHED, Resumption, reconnected_message,
};
use crate::client::session::{ActiveSession, QUIT};
use crate::client::text::sanitize::print_error;
use crate::commands::{self, Command, MessageTarget, Parsed, Setting};
use crate::protocol::text::is_blank_text;
use crate::protocol::{ErrorCode, Event, LINE_MAX, Reply, RoomName, Tags};
use crate::stdio;

/// The reports about lines without an answer.
const UNCERTAIN: (Status, &str) = (Status::InDoubt, "sent, but not confirmed; it may be lost");
const NOT_SENT: (Status, &str) = (Status::NotSent, "not sent");

/// The maximum number of unanswered lines and their bytes. Past either, standard input is
/// not read (backpressure), whether the server is slow or the connection is lost.
const UNANSWERED_MAX: (usize, usize) = (1000, 1024 * 1024);

/// The maximum number of bytes in the connection's send buffer before lines wait.
const UNSENT_MAX: usize = 64 * 1024;

/// The input, the output format and the end of a run.
pub(in crate::client) struct Task {
    /// Lines to send first.
    pub(in crate::client) lines: Vec<String>,
    /// Whether standard input follows them.
    pub(in crate::client) reads_input: bool,
    /// With `--raw`: every line is sent to this room as text.
    pub(in crate::client) raw_room: Option<RoomName>,
    pub(in crate::client) form: Form,
    pub(in crate::client) extent: Extent,
    /// How long to stay connected after the end of input.
    pub(in crate::client) wait: Duration,
    pub(in crate::client) is_quiet: bool,
}

/// Runs until the end of the input or of the connection.
pub(in crate::client) async fn run(
    active: ActiveSession,
    task: Task,
    mut signals: Signals,
) -> Exit {
    let ActiveSession { mut connection, session, cids, mut reconnect, ping_after, log, .. } =
        active;
    let output = Output::new(stdio::stdout(), task.form.clone(), task.extent, task.is_quiet);
    let mut script = Script::new(&session.me, cids, &task, &reconnect, ping_after, log, output);
    let mut input = read_input(task.lines, task.reads_input);
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
        let (restored, back) = match script.reconnect(&reconnect, &mut input, &mut signals).await {
            Ok(back) => back,
            Err(exit) => return script.finish(exit),
        };
        reconnect.record_connected(&mut script.resumption, back.backoff);
        script.state.resumed_as(&back.me);
        connection = restored;
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

impl Script {
    /// Returns the run of the user `me` after the login.
    fn new(
        me: &str,
        cids: CidGenerator,
        task: &Task,
        reconnect: &ReconnectConfig,
        ping_after: Duration,
        log: LogFiles,
        output: Output,
    ) -> Self {
        Self {
            resumption: Resumption::new(cids),
            state: State::new(me),
            raw_room: task.raw_room.clone(),
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
            output,
            log,
        }
    }

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
    ) -> Result<(Connection, Reconnected), Exit> {
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
                self.resumption.start_new_session(&session.me, &session.missed)
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
        let line = match text_of(&line) {
            Ok(line) => line,
            Err(why) => return self.refuse(ErrorCode::BadEncoding.as_str(), why),
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
            let line = line.to_owned();
            self.queue(line);
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
                self.queue(in_local_time(line.to_owned()));
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
        self.end = End::AwaitingPong(self.queue(ping));
    }

    /// Queues a line and returns its number.
    fn queue(&mut self, line: String) -> u64 {
        let pinned = self.state.with_fixed_target(&line);
        self.resumption.outgoing.add(line, pinned, None)
    }

    /// Sends waiting lines while the send buffer has space.
    fn send(&mut self, connection: &mut Connection) {
        while connection.unsent_len() < UNSENT_MAX
            && let Some(line) = self.resumption.outgoing.next(self.state.room())
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
            Some(Event::Reply(Reply::Pong { .. }))
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::sync::mpsc;

    use super::*;
    use crate::client::session::login::Session;
    use crate::client::session::outgoing::with_cid;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A run of alice, whose output is collected.
    struct Run {
        script: Script,
        written: Written,
    }

    impl Run {
        fn new(form: Form, raw_room: Option<&str>) -> Self {
            let written = Written::default();
            let task = Task {
                lines: Vec::new(),
                reads_input: false,
                raw_room: raw_room.map(|room| RoomName::parse(room).unwrap()),
                form: form.clone(),
                extent: Extent::All,
                wait: Duration::ZERO,
                is_quiet: false,
            };
            let cids = CidGenerator::new(7);
            let output = Output::new(written.clone(), form, Extent::All, false);
            let (reconnect, log) = (config(), LogFiles::none());
            let minute = Duration::from_mins(1);
            let script = Script::new("alice", cids, &task, &reconnect, minute, log, output);
            Self { script, written }
        }

        fn input(&mut self, lines: &[&str]) {
            for line in lines {
                self.script.handle_input(Some(Ok(line.as_bytes().to_vec())));
            }
        }

        fn end_of_input(&mut self) {
            self.script.handle_input(None);
        }

        fn receive(&mut self, lines: &[&str]) {
            let lines = lines.iter().map(|line| with_cid(line));
            self.script.show(lines).unwrap();
        }

        /// Returns the lines that are sent now, with their numbers.
        fn sent(&mut self) -> Vec<String> {
            let Script { resumption, state, .. } = &mut self.script;
            let lines = std::iter::from_fn(|| resumption.outgoing.next(state.room()));
            lines.map(|line| line.split_once('-').unwrap().1.to_owned()).collect()
        }

        fn lose_connection(&mut self) {
            drop(config().reconnector(&mut self.script.resumption, &self.script.state));
        }

        /// Ends the output and returns its lines.
        fn output(&mut self) -> Vec<String> {
            self.script.output.finish().unwrap();
            let written = String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap();
            written.lines().map(str::to_owned).collect()
        }

        /// Ends the output and returns line number and code of its objects.
        fn objects(&mut self) -> Vec<(Option<u64>, Option<String>)> {
            let objects = self.output().into_iter().map(|line| {
                let object: Value = serde_json::from_str(&line).unwrap();
                (object["line"].as_u64(), object["code"].as_str().map(str::to_owned))
            });
            objects.collect()
        }
    }

    fn config() -> ReconnectConfig {
        ReconnectConfig::for_test(Duration::MAX)
    }

    fn session(lines: &[&str]) -> Session {
        let mut session = Session::of("alice");
        session.lines = lines.iter().map(|&line| line.to_owned()).collect();
        session
    }

    #[test]
    fn every_line_of_input_is_numbered_and_answers_name_their_line() {
        let mut run = Run::new(Form::Json, None);
        run.input(&["hi\n", "\r\n", "/set tags off\n", "/topic x\r\n"]);
        run.script.handle_input(Some(Ok(b"\xff\n".to_vec())));
        run.input(&["last"]);
        assert_eq!(run.sent(), ["1 hi", "4 /topic x", "6 last"]);
        run.receive(&["@1 alice: hi", "bob: hi", "@4 [ERROR forbidden] no", "@6 alice: last"]);
        let code = |code: &str| Some(code.to_owned());
        let expected = [
            (Some(3), code("bad-argument")),
            (Some(5), code("bad-encoding")),
            (Some(1), None),
            (None, None),
            (Some(4), code("forbidden")),
            (Some(6), None),
        ];
        assert_eq!(run.objects(), expected);
        assert!(run.script.has_refusals);
    }

    #[test]
    fn run_ends_with_the_answer_to_its_own_ping_which_is_not_written() {
        let mut run = Run::new(Form::Plain, None);
        run.input(&["/ping mine", "hi"]);
        run.end_of_input();
        assert!(!run.script.accepts_input());
        assert_eq!(run.sent(), ["1 /ping mine", "2 hi", "3 /ping"]);
        run.receive(&["@1 [PONG mine]", "@2 alice: hi"]);
        assert_eq!(run.script.end, End::AwaitingPong(3));
        run.receive(&["@3 [PONG]"]);
        assert_eq!(run.script.end, End::Reached);
        assert_eq!(run.output(), ["[PONG mine]", "alice: hi"]);
    }

    #[test]
    fn exit_code_tells_refused_from_unconfirmed_lines() {
        let exit = |lines: &[&str]| {
            let mut run = Run::new(Form::Plain, None);
            run.input(&["one", "two"]);
            run.end_of_input();
            run.sent();
            run.receive(lines);
            run.script.exit()
        };
        assert_eq!(exit(&["@1 alice: one", "@2 alice: two", "@3 [PONG]"]), Exit::Done);
        assert_eq!(exit(&["@1 [ERROR muted] no", "@2 alice: two", "@3 [PONG]"]), Exit::Refused);
        assert_eq!(exit(&["[ERROR muted] no", "@3 [PONG]"]), Exit::Done, "of no line");
        assert_eq!(exit(&["@1 alice: one", "@2 alice: two"]), Exit::Unavailable);
        let mut run = Run::new(Form::Plain, None);
        run.script.handle_input(Some(Err(io::ErrorKind::IsADirectory.into())));
        run.receive(&["@1 [PONG]"]);
        assert_eq!(run.script.exit(), Exit::Unavailable, "not all input was read");
    }

    #[test]
    fn quit_ends_the_input_and_is_sent_after_all_answers() {
        let mut run = Run::new(Form::Plain, None);
        assert_eq!(run.script.goodbye, "/quit");
        run.input(&["hi", "/quit bye"]);
        assert_eq!(run.sent(), ["1 hi", "3 /ping"]);
        assert_eq!(run.script.goodbye, with_cid("@2 /quit bye"));
        assert!(!run.script.accepts_input());
        run.receive(&["@1 alice: hi", "@3 [PONG]", "@2 [BYE quit] goodbye"]);
        assert_eq!(run.output(), ["alice: hi", "[BYE quit] goodbye"]);
        let mut run = Run::new(Form::Plain, None);
        run.receive(&["[BYE quit] goodbye"]);
        assert_eq!(run.output(), [""; 0], "the script did not ask for it");
    }

    #[test]
    fn raw_line_is_never_a_command() {
        let mut run = Run::new(Form::Plain, Some("ops"));
        let (longest, command) = ("x".repeat(LINE_MAX), format!("/{}", "x".repeat(LINE_MAX - 1)));
        run.input(&["hi", "/quit", &longest, &command]);
        let sent = run.sent();
        assert_eq!(sent[..2], ["1 /msg #ops hi", "2 /msg #ops /quit"]);
        assert_eq!(sent[2], format!("3 {longest}"), "text that its room would make too long");
        assert_eq!(sent[3], format!("4 /msg #ops {command}"));
        assert!(run.script.accepts_input());
    }

    #[test]
    fn input_waits_while_too_many_lines_or_bytes_are_unanswered() {
        let (lines, bytes) = UNANSWERED_MAX;
        let mut run = Run::new(Form::Plain, None);
        let (sender, mut input) = mpsc::channel(lines + 100);
        for _ in 0..lines + 100 {
            sender.try_send(Ok(b"x\n".to_vec())).unwrap();
        }
        run.input(&["first"]);
        let line = input.try_recv().unwrap();
        run.script.handle_inputs(Some(line), &mut input);
        assert_eq!(input.len(), 101, "{lines} lines were taken");
        assert!(!run.script.accepts_input());
        assert_eq!(run.sent().len(), lines);
        run.receive(&["@1 alice: first"]);
        assert!(run.script.accepts_input());

        let mut run = Run::new(Form::Plain, None);
        let line = "x".repeat(bytes / 4);
        run.input(&[&line, &line, &line]);
        assert!(run.script.accepts_input());
        run.input(&[&line]);
        assert!(!run.script.accepts_input());
    }

    #[test]
    fn lines_wait_while_the_server_does_not_read() {
        let mut run = Run::new(Form::Plain, None);
        let (mut connection, _peer) = Connection::in_memory();
        let line = "x".repeat(1000);
        for _ in 0..200 {
            run.input(&[&line]);
        }
        run.script.send(&mut connection);
        assert!((UNSENT_MAX..UNSENT_MAX + 2000).contains(&connection.unsent_len()));
        let unsent = run.script.resumption.outgoing.abandon_unsent().len();
        assert!((130..140).contains(&unsent), "{unsent}");
    }

    #[test]
    fn resumed_session_gets_unanswered_lines_again_and_missed_lines_are_written() {
        let mut run = Run::new(Form::Plain, None);
        run.input(&["one", "two"]);
        run.sent();
        run.receive(&["@1 alice: one"]);
        run.lose_connection();
        run.input(&["three"]);
        assert_eq!(run.sent(), [""; 0]);
        let missed = vec!["@id=4 bob: meanwhile".to_owned()];
        run.script.continue_after_reconnect(missed, Outcome::Resumed).unwrap();
        assert_eq!(run.sent(), ["2 two", "3 three"]);
        assert_eq!(run.output(), ["alice: one", "bob: meanwhile"]);
        assert!(!run.script.is_incomplete);
    }

    #[test]
    fn new_session_reports_sent_lines_and_sends_the_others() {
        let mut run = Run::new(Form::Json, None);
        run.input(&["one"]);
        run.sent();
        run.lose_connection();
        run.input(&["two"]);
        run.end_of_input();
        let new = Outcome::NewSession(session(&[]));
        run.script.continue_after_reconnect(Vec::new(), new).unwrap();
        assert_eq!(run.sent(), ["2 two", "3 /ping"]);
        run.receive(&["@2 alice: two", "@3 [PONG]"]);
        assert_eq!(run.script.exit(), Exit::Unavailable);
        assert_eq!(run.objects(), [(Some(1), Some("in-doubt".to_owned())), (Some(2), None)]);
    }

    #[test]
    fn end_of_input_is_awaited_again_when_its_ping_was_lost() {
        let mut run = Run::new(Form::Plain, None);
        run.end_of_input();
        assert_eq!(run.sent(), ["1 /ping"]);
        run.lose_connection();
        let new = Outcome::NewSession(session(&[]));
        run.script.continue_after_reconnect(Vec::new(), new).unwrap();
        assert_eq!(run.sent(), ["2 /ping"]);
        run.receive(&["@2 [PONG]"]);
        assert_eq!(run.script.exit(), Exit::Done);
    }

    #[test]
    fn no_line_is_sent_to_another_room_after_a_new_session() {
        let mut run = Run::new(Form::Json, None);
        run.input(&["/join ops"]);
        run.sent();
        run.receive(&["@1 [JOINED #ops] hi", "@1 [USERS #ops 1] alice"]);
        run.input(&["one"]);
        run.sent();
        run.lose_connection();
        run.input(&["two"]);
        let mut new = session(&["[ERROR banned] you are banned from #ops"]);
        new.refused = Some("you are banned from #ops".to_owned());
        run.script.continue_after_reconnect(Vec::new(), Outcome::NewSession(new)).unwrap();
        assert_eq!((run.sent(), run.script.end), (vec![], End::TargetLost));
        assert_eq!(run.script.exit(), Exit::Unavailable);
        let codes: Vec<_> = run.objects().into_iter().skip(2).collect();
        let code = |code: &str| Some(code.to_owned());
        let expected = [
            (Some(2), code("in-doubt")),
            (None, code("banned")),
            (None, code("failed")),
            (Some(3), code("not-sent")),
        ];
        assert_eq!(codes, expected);
    }

    #[test]
    fn replaced_job_sends_its_lines_again_instead_of_reporting_them() {
        let mut run = Run::new(Form::Plain, None);
        run.script.wants_session = false;
        run.input(&["one"]);
        run.sent();
        run.receive(&["[BYE replaced] you logged in elsewhere"]);
        assert_eq!(run.script.farewell.as_ref().map(|(code, _)| &**code), Some(REPLACED));
        run.script.was_replaced = true;
        run.lose_connection();
        let new = Outcome::NewSession(session(&[]));
        run.script.continue_after_reconnect(Vec::new(), new).unwrap();
        assert_eq!(run.sent(), ["1 one"]);
        assert_eq!(run.output(), [""; 0], "the farewell was only a lost connection");
    }

    #[test]
    fn script_reconnects_unless_the_farewell_concerns_it() {
        let mut run = Run::new(Form::Plain, None);
        for (wants_session, code, reconnects) in [
            (true, None, true),
            (true, Some("shutting-down"), true),
            (true, Some("kicked"), false),
            (true, Some(REPLACED), false),
            (false, Some(REPLACED), true),
        ] {
            run.script.wants_session = wants_session;
            assert_eq!(run.script.reconnects_after(code), reconnects, "{code:?}");
        }
        run.script.reconnects = false;
        assert!(!run.script.reconnects_after(None), "--retry-for 0");
    }

    #[tokio::test]
    async fn connection_is_served_until_all_lines_are_answered() {
        let mut run = Run::new(Form::Plain, None);
        let (mut connection, peer) = Connection::in_memory();
        let server = async {
            let mut peer = BufReader::new(peer);
            for answer in ["@1 [ERROR muted] no", "@2 alice: two", "@3 [PONG]"] {
                let mut line = String::new();
                peer.read_line(&mut line).await.unwrap();
                let answer = with_cid(answer);
                assert_eq!(line.split(' ').next(), answer.split(' ').next(), "in order");
                peer.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
            }
            peer
        };
        let (sender, mut input) = mpsc::channel(2);
        for line in ["one\n", "two\n"] {
            sender.try_send(Ok(line.into())).unwrap();
        }
        drop(sender);
        let mut signals = Signals::none();
        let client = run.script.serve_connection(&mut connection, &mut input, &mut signals);
        let (stop, _peer) = tokio::join!(client, server);
        assert!(matches!(stop, Stop::Over(Exit::Refused)));
        assert_eq!(run.output(), ["[ERROR muted] no", "alice: two"]);
    }

    #[tokio::test]
    async fn lost_connection_stops_the_service_after_its_last_line() {
        let mut run = Run::new(Form::Plain, None);
        let (mut connection, mut peer) = Connection::in_memory();
        peer.write_all(b"bob: last\nbob: incompl").await.unwrap();
        drop(peer);
        let (_sender, mut input) = mpsc::channel(1);
        let mut signals = Signals::none();
        let stop = run.script.serve_connection(&mut connection, &mut input, &mut signals).await;
        assert!(matches!(stop, Stop::Lost));
        assert_eq!(run.output(), ["bob: last"]);
    }
}
