//! On a terminal: between the socket, the prompt and the screen.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::connection::{Connection, Progress};
use super::interrupt::Interrupt;
use super::login::Session;
use super::outgoing::Outgoing;
use super::printer::Printer;
use super::prompt::{self, Prompt, Shared, Typed};
use super::screen::Screen;
use super::state::State;
use super::submission::is_secret;
use super::suspend::Suspend;
use super::terminal::Terminal;
use super::theme::{ColorChoice, Theme};
use super::{Exit, complain};
use crate::protocol::{Event, Tags};

/// How long a farewell may take.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs until somebody leaves.
pub(super) async fn run(connection: Connection, session: Session, color: ColorChoice) -> Exit {
    let terminal = Terminal::quiet();
    let ended = chat(connection, session, Theme::new(color), &terminal).await;
    drop(terminal);
    match ended {
        Ok((exit, None)) => exit,
        Ok((exit, Some(last_words))) => {
            complain(&last_words);
            exit
        }
        Err(problem) => {
            complain(&format!("this terminal does not work: {problem} (chatty join | cat might)"));
            Exit::Unavailable
        }
    }
}

async fn chat(
    connection: Connection,
    session: Session,
    theme: Theme,
    terminal: &Terminal,
) -> rustyline::Result<(Exit, Option<String>)> {
    let shared = Shared {
        state: Arc::new(Mutex::new(State::new(&session.me))),
        gate: Arc::default(),
        theme,
        is_asking: Arc::default(),
    };
    let mut editor = prompt::editor(&shared)?;
    let (printer, printing) =
        Printer::start(editor.create_external_printer()?, shared.gate.clone());
    let screen = Screen::new(theme, TimeZone::system());
    let warning = screen.notice("press Ctrl-C again to leave");
    let interrupt = Interrupt::new(shared.clone(), printer.clone(), warning);
    prompt::bind(&mut editor, 'C', interrupt);
    prompt::bind(&mut editor, 'Z', Suspend::new(shared.gate.clone(), terminal.saved()));
    // Before the prompt runs: it is called off by a SIGINT, which must not
    // find us without a handler.
    let mut signals = Signals::listen()?;
    let mut chat = Chat {
        connection,
        outgoing: Outgoing::new(session.cids),
        state: shared.state.clone(),
        screen,
        printer,
        farewell: None,
    };
    session.lines.iter().for_each(|line| chat.show(line));
    let (typed, mut lines) = mpsc::unbounded_channel();
    let prompt = Prompt::start(editor, shared, typed);

    let end = chat.run(&mut lines, &mut signals).await;
    // This order: the prompt gives up the terminal, the printer writes what is
    // left, and only then the last words follow.
    let is_released = prompt.call_off();
    let last_words = chat.end(&end);
    drop(chat);
    if is_released {
        let _ = printing.join();
    }
    Ok((end.exit(), last_words))
}

/// Why the chat is over.
enum End {
    /// We said `/quit` and the server has let us go, or takes too long to.
    Left,
    /// The connection is gone without our doing.
    Lost,
    /// A signal told us to leave.
    Signal(Exit),
}

impl End {
    fn exit(&self) -> Exit {
        match self {
            Self::Left => Exit::Done,
            Self::Lost => Exit::Unavailable,
            Self::Signal(exit) => *exit,
        }
    }
}

struct Chat {
    connection: Connection,
    outgoing: Outgoing,
    state: Arc<Mutex<State>>,
    screen: Screen,
    printer: Printer,
    /// Why the server ends the connection, if it has said so.
    farewell: Option<String>,
}

impl Chat {
    async fn run(
        &mut self,
        typed: &mut mpsc::UnboundedReceiver<Typed>,
        signals: &mut Signals,
    ) -> End {
        // What came together with the welcome is here already.
        self.receive();
        loop {
            tokio::select! {
                progress = self.connection.progress() => {
                    self.receive();
                    if progress == Progress::Closed {
                        return End::Lost;
                    }
                }
                typed = typed.recv() => match typed {
                    Some(Typed::Line { text, waiting }) => {
                        let line = self.outgoing.add(text, waiting);
                        self.connection.send(&line);
                    }
                    Some(Typed::Refused(why)) => self.printer.print(self.screen.warning(why)),
                    Some(Typed::Quit(line)) => return self.leave(&line, End::Left).await,
                    None => return self.leave("/quit", End::Left).await,
                },
                exit = signals.next() => return self.leave("/quit", End::Signal(exit)).await,
            }
        }
    }

    /// Shows the lines that are here.
    fn receive(&mut self) {
        while let Some(line) = self.connection.next_line() {
            self.show(&line);
        }
    }

    fn show(&mut self, line: &str) {
        let (tags, plain) = Tags::split(line);
        let event = Event::parse(plain);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(event) = &event {
            state.apply(&tags, event);
        }
        self.printer.print(self.screen.line(line, state.me(), Timestamp::now()));
        drop(state);
        if let Some(cid) = tags.cid {
            // After the state: who waits for the answer looks there next.
            self.outgoing.settle(cid);
        }
        if let Some(Event::Bye { text, .. }) = event {
            self.farewell = Some(text.to_owned());
        }
    }

    /// Says goodbye and waits for the answers to all that was said before.
    async fn leave(&mut self, quit: &str, end: End) -> End {
        let line = self.outgoing.add(quit.to_owned(), None);
        self.connection.send(&line);
        let goodbye = async {
            loop {
                let progress = self.connection.progress().await;
                self.receive();
                if progress == Progress::Closed {
                    return;
                }
            }
        };
        // Whoever wants to leave is not held up by a server that does not answer.
        let _ = tokio::time::timeout(QUIT_TIMEOUT, goodbye).await;
        end
    }

    /// What is to be said when it is over: nothing typed is lost in silence.
    fn end(&self, end: &End) -> Option<String> {
        if !matches!(end, End::Lost) {
            return None;
        }
        for line in self.outgoing.unanswered().filter(|line| !is_secret(line)) {
            self.printer.print(self.screen.warning(&format!("perhaps not delivered: {line}")));
        }
        Some(match &self.farewell {
            Some(why) => format!("the server ended the connection: {why}"),
            None => "the connection was lost".to_owned(),
        })
    }
}

/// The signals that ask us to leave.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
            _ = self.hang_up.recv() => Exit::HungUp,
        }
    }
}
