//! The interactive mode, on a terminal: connects the socket, the prompt and the screen. It has the
//! control flow; `chat.rs` decides what is shown. It does not know how lines are edited or drawn.

use std::time::Duration;

use rustyline::KeyCode;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::chat::Chat;
use super::ctrl_c::Interrupt;
use super::history::History;
use super::notify::Notifier;
use super::presence::Joins;
use super::printer::{Printer, Redraw};
use super::prompt::{self, Prompt, Typed};
use super::screen::Screen;
use super::shared::{Shared, lock};
use super::suspend::Suspend;
use super::switch::{Switch, Way};
use crate::client::model::local::Local;
use crate::client::model::mentions::Highlights;
use crate::client::model::state::State;
use crate::client::net::connection::{Connection, Progress};
use crate::client::process::exit::Exit;
use crate::client::process::signals::{self, Signals};
use crate::client::process::tty::{self, Terminal};
use crate::client::session::heartbeat::{Heartbeat, HeartbeatAction};
use crate::client::session::reconnect::{GivenUp, ReconnectConfig, Reconnected};
use crate::client::session::resume::{self, Resumption};
use crate::client::session::{ActiveSession, QUIT};
use crate::client::text::sanitize::print_error;
use crate::protocol::Feature;
use crate::stdio;

/// The hint for first-time users.
const FIRST_STEPS: &str = "/help lists the commands, Tab completes names, Ctrl-D leaves";

/// How long leaving waits for unanswered lines.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of the prompt.
pub(in crate::client) struct Setup {
    pub(in crate::client) screen: Screen,
    pub(in crate::client) attention: Notifier,
    pub(in crate::client) history: History,
    pub(in crate::client) joins: Joins,
    pub(in crate::client) words: Highlights,
    /// Where settings last, for the user.
    pub(in crate::client) settings_file: Option<String>,
}

/// Runs until the user leaves or the connection is lost for good.
pub(in crate::client) async fn run(
    active: ActiveSession,
    setup: Setup,
    mut signals: Signals,
) -> Exit {
    tty::reopen();
    let terminal = Terminal::quiet();
    terminal.restore_on_panic();
    let ended = chat(active, setup, &mut signals, &terminal).await;
    drop(terminal);
    match ended {
        Ok((exit, None)) => exit,
        Ok((exit, Some(reason))) => {
            print_error(&reason);
            exit
        }
        Err(problem) => {
            print_error(&format!("cannot use this terminal: {problem}; try chatty join --plain"));
            Exit::Unavailable
        }
    }
}

async fn chat(
    active: ActiveSession,
    setup: Setup,
    // The handlers are set before the prompt starts, because the prompt is cancelled by a
    // SIGINT.
    signals: &mut Signals,
    terminal: &Terminal,
) -> rustyline::Result<(Exit, Option<String>)> {
    let (rooms, debug_panic) = (active.rooms, active.debug_panic);
    let ActiveSession { connection, session, cids, reconnect, ping_after, log, .. } = active;
    let Setup { screen, attention, history, joins, words, settings_file } = setup;
    let (printer, orders) = Printer::new();
    let mut state = State::new(&session.me);
    state.words = words;
    let shared = Shared::new(state, printer.clone(), screen.theme());
    let mut editor = prompt::editor(&shared)?;
    let is_first_use = history.load(&mut editor);
    let printing = orders.start_printing(
        editor.create_external_printer()?,
        stdio::stdout(),
        shared.gate.clone(),
    );
    let warning = screen.notice("press Ctrl-C again to leave");
    let interrupt = Interrupt::new(shared.clone(), warning);
    prompt::bind(&mut editor, 'C', interrupt);
    prompt::bind(&mut editor, 'L', Redraw(printer.clone()));
    for (key, way, nowhere) in [
        (KeyCode::Char('a'), Way::Unread, "no unread messages"),
        (KeyCode::Right, Way::Forward, "no other room or conversation"),
        (KeyCode::Left, Way::Backward, "no other room or conversation"),
    ] {
        prompt::bind_alt(
            &mut editor,
            key,
            Switch::new(way, shared.clone(), screen.notice(nowhere)),
        );
    }
    prompt::bind(&mut editor, 'Z', Suspend::new(shared.gate.clone(), terminal.saved()));
    let continued = signals::continued()?;
    let (resumption, state) = (Resumption::new(cids), shared.state.clone());
    let mut chat = Chat::new(resumption, state, printer, screen, attention, joins, log);
    chat.rooms = rooms;
    chat.settings_file = settings_file;
    chat.has_who_details = connection.features.contains(&Feature::WhoDetails);
    session.lines.iter().for_each(|line| chat.show(line));
    if is_first_use {
        chat.notice(FIRST_STEPS);
    }
    let heartbeat = Heartbeat::new(ping_after, Instant::now());
    let mut chat_loop = ChatLoop { chat, connection, reconnect, heartbeat, continued, debug_panic };
    let (typed, mut lines) = mpsc::unbounded_channel();
    let prompt = Prompt::start(editor, history, shared, typed);

    let end = chat_loop.run(&mut lines, signals).await;
    // The order matters: the prompt releases the terminal, the printer writes the remaining
    // lines, and then the reason for the end is printed.
    let is_released = prompt.call_off();
    let end_reason = chat_loop.end(&end);
    drop(chat_loop);
    if is_released {
        let _ = printing.join();
    }
    Ok((end.exit(), end_reason))
}

/// Why the chat is over.
enum End {
    /// The user left, and the server confirmed it or took too long.
    Left,
    /// The connection was lost for good.
    Lost(GivenUp),
    /// A signal ended the client.
    Signal(Exit),
}

impl End {
    /// Returns the end for a terminal that cannot be read.
    fn unreadable(why: &str) -> Self {
        let why = format!("cannot read this terminal: {why}");
        Self::Lost(GivenUp { exit: Exit::Unavailable, why })
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Left => Exit::Done,
            Self::Lost(given_up) => given_up.exit,
            Self::Signal(exit) => *exit,
        }
    }
}

/// What to do after input from the prompt.
enum Step {
    Stay,
    /// Drop the connection and reconnect.
    Reconnect,
    /// Leave with this `/quit` line.
    Leave(String, End),
}

struct ChatLoop {
    chat: Chat,
    connection: Connection,
    reconnect: ReconnectConfig,
    heartbeat: Heartbeat,
    /// Received when the process continues after it was stopped.
    continued: Signal,
    /// Panic at the first line, to test that the terminal is restored.
    debug_panic: bool,
}

type Lines = mpsc::UnboundedReceiver<Typed>;

impl ChatLoop {
    async fn run(&mut self, typed: &mut Lines, signals: &mut Signals) -> End {
        loop {
            if let Some(end) = self.serve_connection(typed, signals).await {
                return end;
            }
            match self.reconnect(typed, signals).await {
                Ok((connection, back)) => self.continue_after_reconnect(connection, back),
                Err(end) => return end,
            }
        }
    }

    /// Serves the connection until the end, or until the connection is lost (`None`).
    async fn serve_connection(&mut self, typed: &mut Lines, signals: &mut Signals) -> Option<End> {
        let mut is_closed = false;
        loop {
            // The first lines may have arrived together with the login.
            let is_drained = self.receive();
            if is_closed && is_drained {
                return None;
            }
            self.send();
            let unanswered_since = self.unanswered_since();
            self.chat.show_latency(unanswered_since);
            self.chat.show_title();
            let presence_due = self.chat.presence.due();
            let latency_due = self.chat.latency.due(unanswered_since);
            tokio::select! {
                () = sleep_until(presence_due.unwrap_or_else(Instant::now)),
                    if presence_due.is_some() => self.chat.show_presence(),
                () = sleep_until(latency_due.unwrap_or_else(Instant::now)),
                    if latency_due.is_some() => {}
                () = self.chat.printer.progressed(), if !is_drained => {}
                // While the socket is not read, the silence is not the server's.
                () = sleep_until(self.heartbeat.due()), if !is_drained => {
                    self.heartbeat.received(Instant::now());
                }
                () = sleep_until(self.heartbeat.due()), if is_drained => {
                    match self.heartbeat.beat(Instant::now()) {
                        HeartbeatAction::Wait => {}
                        HeartbeatAction::Ping => {
                            self.connection.send(&self.chat.resumption.ping_request());
                        }
                        HeartbeatAction::Dead => return None,
                    }
                }
                Some(()) = self.continued.recv() => {
                    self.heartbeat.ping(Instant::now());
                    self.connection.send(&self.chat.resumption.ping_request());
                }
                progress = self.connection.progress(), if is_drained => {
                    if progress == Progress::Read {
                        self.heartbeat.received(Instant::now());
                    }
                    is_closed = progress == Progress::Closed;
                }
                typed = typed.recv() => match self.handle_input(typed) {
                    Step::Stay => {}
                    Step::Reconnect => return None,
                    Step::Leave(line, end) => return Some(self.leave(&line, end).await),
                },
                exit = signals.next() => {
                    return Some(self.leave(&QUIT.to_string(), End::Signal(exit)).await);
                }
            }
        }
    }

    /// Handles input from the prompt.
    fn handle_input(&mut self, typed: Option<Typed>) -> Step {
        match typed {
            Some(Typed::Line { .. }) if self.debug_panic => panic!("as --debug-panic asks"),
            Some(Typed::Line { text, waiting }) => self.chat.queue_line(text, waiting, false),
            Some(Typed::Local(Local::Say(text))) => self.chat.say_in_room(&text, false),
            Some(Typed::Local(Local::Quiet(room))) => self.chat.toggle_quiet(room),
            Some(Typed::Local(Local::Set(change))) => self.chat.set(change),
            Some(Typed::Local(Local::Clear)) => self.chat.printer.clear(),
            Some(Typed::Local(Local::Reconnect)) if self.reconnect.retry_for.is_zero() => {
                self.chat.warn("/reconnect does not work with --retry-for 0");
            }
            Some(Typed::Local(Local::Reconnect)) => return Step::Reconnect,
            Some(Typed::Refused(why)) => self.chat.warn(&why),
            Some(Typed::Failed(why)) => {
                return Step::Leave(QUIT.to_string(), End::unreadable(&why));
            }
            Some(Typed::Quit(line)) => return Step::Leave(line, End::Left),
            Some(Typed::Interrupted) => {
                return Step::Leave(QUIT.to_string(), End::Signal(Exit::Interrupted));
            }
            None => return Step::Leave(QUIT.to_string(), End::Left),
        }
        Step::Stay
    }

    /// Returns since when the server has not answered a line or a ping.
    fn unanswered_since(&self) -> Option<Instant> {
        let line = self.chat.resumption.outgoing.unanswered_since();
        line.into_iter().chain(self.heartbeat.pinged_since()).min()
    }

    /// Reconnects unless the farewell forbids it. Lines typed meanwhile wait and are shown
    /// as pending.
    async fn reconnect(
        &mut self,
        typed: &mut Lines,
        signals: &mut Signals,
    ) -> Result<(Connection, Reconnected), End> {
        let farewell = self.chat.farewell.take();
        let code = farewell.as_ref().map(|(code, _)| code.as_str());
        if self.reconnect.retry_for.is_zero() || !resume::should_reconnect(code) {
            let why = match farewell {
                Some((_, why)) => format!("the server ended the connection: {why}"),
                None => "the connection was lost".to_owned(),
            };
            return Err(End::Lost(GivenUp { exit: Exit::Unavailable, why }));
        }
        self.chat.connection_lost();
        let reconnector =
            self.reconnect.reconnector(&mut self.chat.resumption, &lock(&self.chat.state));
        let mut reconnecting = std::pin::pin!(reconnector.run());
        loop {
            tokio::select! {
                back = &mut reconnecting => return back.map_err(End::Lost),
                typed = typed.recv() => match typed {
                    Some(Typed::Line { text, waiting }) => {
                        self.chat.queue_line(text, waiting, true);
                    }
                    Some(Typed::Local(Local::Say(text))) => self.chat.say_in_room(&text, true),
                    Some(Typed::Local(Local::Quiet(room))) => self.chat.toggle_quiet(room),
                    Some(Typed::Local(Local::Set(change))) => self.chat.set(change),
                    Some(Typed::Local(Local::Clear)) => self.chat.printer.clear(),
                    Some(Typed::Local(Local::Reconnect)) => self.reconnect.retry_now.notify_one(),
                    Some(Typed::Refused(why)) => self.chat.warn(&why),
                    Some(Typed::Failed(why)) => return Err(End::unreadable(&why)),
                    Some(Typed::Quit(_)) | None => return Err(End::Left),
                    Some(Typed::Interrupted) => return Err(End::Signal(Exit::Interrupted)),
                },
                // The network may be available again.
                Some(()) = self.continued.recv() => self.reconnect.retry_now.notify_one(),
                exit = signals.next() => return Err(End::Signal(exit)),
            }
        }
    }

    /// Continues after the connection was restored.
    fn continue_after_reconnect(&mut self, connection: Connection, back: Reconnected) {
        self.connection = connection;
        self.chat.has_who_details = self.connection.features.contains(&Feature::WhoDetails);
        self.heartbeat.received(Instant::now());
        self.reconnect.record_connected(&mut self.chat.resumption, back.backoff);
        self.chat.continue_after_reconnect(back);
    }

    /// Shows the received lines while the printer accepts them. `false`: there may be more.
    fn receive(&mut self) -> bool {
        while self.chat.printer.has_room() {
            let Some(line) = self.connection.next_line() else { return true };
            self.chat.receive(&line);
        }
        false
    }

    /// Sends the waiting lines.
    fn send(&mut self) {
        let state = lock(&self.chat.state);
        while let Some(line) = self.chat.resumption.outgoing.next(state.room()) {
            self.connection.send(&line);
        }
    }

    /// Waits for the answers to all lines, at most [`ANSWERS_TIMEOUT`], and logs out.
    async fn leave(&mut self, quit: &str, end: End) -> End {
        let answers = async {
            let mut is_closed = false;
            loop {
                let is_drained = self.receive();
                let is_answered = self.chat.resumption.outgoing.load().0 == 0;
                if is_answered || (is_drained && is_closed) {
                    return;
                }
                if is_drained {
                    self.send();
                    is_closed = self.connection.progress().await == Progress::Closed;
                } else {
                    self.chat.printer.progressed().await;
                }
            }
        };
        // A server that does not answer must not delay the exit.
        let _ = tokio::time::timeout(ANSWERS_TIMEOUT, answers).await;
        let mut last = Vec::new();
        self.connection.quit(quit, |line| last.push(line)).await;
        for line in last {
            self.chat.show(&line);
        }
        end
    }

    /// Reports all undelivered lines and returns the reason for the end, if it must be printed.
    fn end(&mut self, end: &End) -> Option<String> {
        self.chat.show_presence();
        self.chat.abandon_lines();
        match end {
            End::Lost(given_up) => Some(given_up.why.clone()),
            End::Left => {
                self.chat.show_sum();
                None
            }
            End::Signal(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};
    use tokio::time::timeout;

    use super::*;
    use crate::client::session::outgoing::with_cid;
    use crate::client::terminal::printer::PrintQueue;
    use crate::client::terminal::test_support::chat;

    /// The loop of alice's chat, what it prints, and the server's end of the connection.
    fn chat_loop() -> (ChatLoop, PrintQueue, BufReader<DuplexStream>) {
        let (chat, printed) = chat();
        let (connection, peer) = Connection::in_memory();
        let chat_loop = ChatLoop {
            chat,
            connection,
            reconnect: ReconnectConfig::for_test(Duration::MAX),
            heartbeat: Heartbeat::new(Duration::from_mins(1), Instant::now()),
            continued: signals::continued().unwrap(),
            debug_panic: false,
        };
        (chat_loop, printed, BufReader::new(peer))
    }

    fn typed(text: &str) -> Typed {
        Typed::Line { text: text.to_owned(), waiting: None }
    }

    /// Answers the next line with `answer`, which carries its cid, and returns the line.
    async fn answer(peer: &mut BufReader<DuplexStream>, answer: &str) -> String {
        let mut line = String::new();
        peer.read_line(&mut line).await.unwrap();
        peer.write_all(format!("{}\n", with_cid(answer)).as_bytes()).await.unwrap();
        line.trim_end().to_owned()
    }

    #[tokio::test]
    async fn full_screen_stops_reading_the_server() {
        let (mut chat_loop, printed, mut peer) = chat_loop();
        peer.write_all(b"bob: one\nbob: two\n").await.unwrap();
        assert_eq!(chat_loop.connection.progress().await, Progress::Read);
        while chat_loop.chat.printer.has_room() {
            chat_loop.chat.printer.repaint();
        }
        assert!(!chat_loop.receive());
        let progressed = chat_loop.chat.printer.progressed();
        assert_eq!(printed.take(), [""; 0]);
        progressed.await;
        assert!(chat_loop.receive());
        assert_eq!(printed.take(), ["bob: one", "bob: two"]);
    }

    #[tokio::test]
    async fn leaving_client_waits_for_answers_and_shows_its_sum() {
        let (mut chat_loop, printed, mut peer) = chat_loop();
        let (sender, mut lines) = mpsc::unbounded_channel();
        for typed in [typed("hi"), Typed::Quit("/quit bye".to_owned())] {
            assert!(sender.send(typed).is_ok());
        }
        let mut signals = Signals::none();
        let server = async {
            let said = answer(&mut peer, "@1 alice: hi").await;
            let quit = answer(&mut peer, "[BYE quit] goodbye").await;
            drop(peer);
            (said, quit)
        };
        let both = async { tokio::join!(chat_loop.run(&mut lines, &mut signals), server) };
        // After the last answer, nothing more is awaited.
        let (end, (said, quit)) = timeout(ANSWERS_TIMEOUT, both).await.unwrap();
        assert!(said.ends_with(" hi"));
        assert_eq!((quit.as_str(), end.exit()), ("/quit bye", Exit::Done));
        assert_eq!(chat_loop.end(&end), None);
        let printed = printed.take();
        assert_eq!(printed.first().unwrap(), "alice: hi");
        assert!(printed.last().unwrap().ends_with(", 0 messages read"));
    }

    #[tokio::test]
    async fn lost_connection_is_left_after_its_last_line() {
        let (mut chat_loop, printed, mut peer) = chat_loop();
        peer.write_all(b"bob: last\n").await.unwrap();
        drop(peer);
        let (_sender, mut lines) = mpsc::unbounded_channel();
        let end = chat_loop.serve_connection(&mut lines, &mut Signals::none()).await;
        assert!(end.is_none());
        assert_eq!(printed.take(), ["bob: last"]);
    }

    #[tokio::test]
    async fn server_that_answers_no_ping_is_lost() {
        let (mut chat_loop, _printed, peer) = chat_loop();
        chat_loop.heartbeat = Heartbeat::new(Duration::from_millis(1), Instant::now());
        let (_sender, mut lines) = mpsc::unbounded_channel();
        let end = chat_loop.serve_connection(&mut lines, &mut Signals::none()).await;
        assert!(end.is_none());
        drop(chat_loop);
        let mut sent = peer.lines();
        let ping = sent.next_line().await.unwrap().unwrap();
        assert!(ping.ends_with(" /ping"), "{ping}");
        assert_eq!(sent.next_line().await.unwrap(), Some(ping));
    }

    #[tokio::test]
    async fn input_decides_whether_to_stay_reconnect_or_leave() {
        let (mut chat_loop, printed, _peer) = chat_loop();
        let local = || Some(Typed::Local(Local::Reconnect));
        assert!(matches!(chat_loop.handle_input(local()), Step::Reconnect));
        chat_loop.reconnect.retry_for = Duration::ZERO;
        assert!(matches!(chat_loop.handle_input(local()), Step::Stay));
        let refused = chat_loop.handle_input(Some(Typed::Refused("not sent: x".into())));
        assert!(matches!(refused, Step::Stay));
        let warnings = ["-- /reconnect does not work with --retry-for 0", "-- not sent: x"];
        assert_eq!(printed.take(), warnings);
        for (typed, quit, exit) in [
            (Some(Typed::Quit("/quit bye".to_owned())), "/quit bye", Exit::Done),
            (None, "/quit", Exit::Done),
            (Some(Typed::Interrupted), "/quit", Exit::Interrupted),
            (Some(Typed::Failed("hung up".to_owned())), "/quit", Exit::Unavailable),
        ] {
            let Step::Leave(line, end) = chat_loop.handle_input(typed) else { panic!("{exit:?}") };
            assert_eq!((line.as_str(), end.exit()), (quit, exit));
        }
    }

    #[tokio::test]
    async fn client_does_not_reconnect_after_a_farewell_that_concerns_it() {
        let (mut chat_loop, printed, _peer) = chat_loop();
        let (_sender, mut lines) = mpsc::unbounded_channel();
        let mut signals = Signals::none();
        chat_loop.chat.queue_line("/login bob sesame".to_owned(), None, false);
        chat_loop.chat.farewell = Some(("kicked".to_owned(), "out".to_owned()));
        let Err(end) = chat_loop.reconnect(&mut lines, &mut signals).await else { panic!() };
        let why = chat_loop.end(&end);
        assert_eq!(why.as_deref(), Some("the server ended the connection: out"));
        assert_eq!(printed.take(), ["-- not sent: (a password)"]);
        chat_loop.reconnect.retry_for = Duration::ZERO;
        let Err(end) = chat_loop.reconnect(&mut lines, &mut signals).await else { panic!() };
        assert_eq!(chat_loop.end(&end).as_deref(), Some("the connection was lost"));
        assert_eq!(end.exit(), Exit::Unavailable);
    }

    #[tokio::test]
    async fn user_can_leave_while_the_client_reconnects() {
        let (mut chat_loop, printed, _peer) = chat_loop();
        let (sender, mut lines) = mpsc::unbounded_channel();
        for typed in [typed("hi"), Typed::Quit("/quit".to_owned())] {
            assert!(sender.send(typed).is_ok());
        }
        // Nothing listens on the port, and the server would be tried again for ever.
        let back = chat_loop.reconnect(&mut lines, &mut Signals::none()).await;
        assert!(matches!(back, Err(End::Left)));
        assert_eq!(chat_loop.end(&End::Left), None);
        let mut printed = printed.take();
        assert!(printed.pop().unwrap().ends_with(", 0 messages read"));
        let expected =
            ["-- connection lost; reconnecting …", "-- to be sent: hi", "-- not sent: hi"];
        assert_eq!(printed, expected);
    }
}
