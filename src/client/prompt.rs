//! The prompt: a thread that owns rustyline's editor and hands on what is typed.
//!
//! A submitted line disappears from the prompt's row and comes back as the
//! server's echo, in the server's order and with its time. So the screen never
//! shows a line as said that was not, every line stands there once, and passwords
//! do not stand there at all. (Restyling the row into the final line, which
//! rustyline allows, would claim both before either is known.)
//!
//! The thread waits for the answer to a command that moves the target, so that
//! the next prompt tells the truth from the start. Calling a running prompt off
//! to change it would lose what was typed ahead.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustyline::config::BellStyle;
use rustyline::history::DefaultHistory;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Editor, Event, EventContext,
    EventHandler, KeyEvent, Movement, RepeatCount,
};
use tokio::sync::mpsc::UnboundedSender;
use unicode_width::UnicodeWidthChar as _;

use super::helper::{ChatHelper, prompt_of};
use super::printer::{Gate, Printer};
use super::screen::Styled;
use super::state::State;
use super::theme::Theme;
use crate::commands::{self, Command, Request, Setting};
use crate::protocol::text::is_blank_text;

/// How long the next prompt waits for the answer that says where lines go.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Two interrupts within this time mean it.
const INTERRUPT_TWICE: Duration = Duration::from_secs(2);

/// A text with more line ends than this is not sent without asking.
const LINE_ENDS_MAX: usize = 2;

/// Commands whose arguments are nobody's business, also not the history's.
const SECRET: [&str; 5] = ["login", "register", "passwd", "unregister", "oper"];

/// What the prompt hands on.
pub(super) enum Typed {
    /// A line to be sent. `waiting` is dropped once it is answered.
    Line { text: String, waiting: Option<mpsc::Sender<()>> },
    /// The last line: `/quit`, with a reason or without.
    Quit(String),
    /// A line the client answers itself.
    Refused(&'static str),
}

pub(super) type ChatEditor = Editor<ChatHelper, DefaultHistory>;

/// What the prompt shares with the rest of the client.
pub(super) struct Shared {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) gate: Arc<Gate>,
    pub(super) theme: Theme,
}

/// An editor with our keys and looks.
pub(super) fn editor(shared: &Shared) -> rustyline::Result<ChatEditor> {
    let config = Config::builder()
        .max_history_size(1000)?
        .history_ignore_dups(true)?
        .completion_type(CompletionType::List)
        .completion_show_all_if_ambiguous(true)
        // Whether there is colour is the theme's business. Left to rustyline, a
        // NO_COLOR would also switch off the helper that keeps escapes out.
        .color_mode(ColorMode::Forced)
        .bell_style(BellStyle::None)
        .build();
    let mut editor = Editor::with_config(config)?;
    let helper = ChatHelper::new(shared.state.clone(), shared.gate.clone(), shared.theme);
    editor.set_helper(Some(helper));
    Ok(editor)
}

/// The running prompt.
pub(super) struct Prompt {
    thread: JoinHandle<()>,
    is_called_off: Arc<AtomicBool>,
    gate: Arc<Gate>,
}

impl Prompt {
    /// Starts the thread; `warning` is shown at the first Ctrl-C.
    pub(super) fn start(
        mut editor: ChatEditor,
        shared: Shared,
        printer: Printer,
        warning: Styled,
        typed: UnboundedSender<Typed>,
    ) -> Self {
        let gate = shared.gate.clone();
        let interrupt = Interrupt { last: Mutex::new(None), gate: gate.clone(), printer, warning };
        let handler = EventHandler::Conditional(Box::new(interrupt));
        editor.bind_sequence(KeyEvent::ctrl('C'), handler);
        let is_called_off = Arc::new(AtomicBool::new(false));
        let prompt_loop = Loop { editor, shared, typed, is_called_off: is_called_off.clone() };
        Self { thread: thread::spawn(move || prompt_loop.run()), is_called_off, gate }
    }

    /// Calls a waiting prompt off and waits until the terminal is released.
    ///
    /// rustyline has no such call, but it gives up at SIGINT, which outside of
    /// it nobody minds: the main thread listens for it. In case the signal
    /// comes between two prompts it is repeated.
    pub(super) fn call_off(self) {
        self.is_called_off.store(true, Ordering::SeqCst);
        self.gate.shut(true);
        for _ in 0..50 {
            if self.thread.is_finished() {
                break;
            }
            let _ = kill(Pid::this(), Signal::SIGINT);
            thread::sleep(Duration::from_millis(20));
        }
        if self.thread.is_finished() {
            // A panic in there has been told already; the terminal is free.
            let _ = self.thread.join();
        }
        // Also if the thread hangs or has panicked: the rest must be seen.
        self.gate.finish();
    }
}

struct Loop {
    editor: ChatEditor,
    shared: Shared,
    typed: UnboundedSender<Typed>,
    is_called_off: Arc<AtomicBool>,
}

/// What follows a submitted text.
enum Next {
    Prompt,
    /// The same again: it was not sent.
    Keep(String),
    Leave,
}

impl Loop {
    fn run(mut self) {
        let mut draft = String::new();
        while !self.is_called_off.load(Ordering::SeqCst) {
            let target = self.target();
            let Some(text) = self.read(&prompt_of(&target), &draft) else {
                self.hand_on(Typed::Quit("/quit".to_owned()));
                break;
            };
            draft = match self.submit(text, &target) {
                Next::Prompt => String::new(),
                Next::Keep(text) => text,
                Next::Leave => break,
            };
        }
        drop(self.editor);
        self.shared.gate.finish();
    }

    fn target(&self) -> String {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).target()
    }

    /// Reads one text and clears it off the screen. `None`: no more of this.
    fn read(&mut self, prompt: &str, draft: &str) -> Option<String> {
        if let Some(helper) = self.editor.helper() {
            helper.begin(draft);
        }
        let read = self.editor.readline_with_initial(prompt, (draft, ""));
        self.shared.gate.shut(false);
        let columns = self.editor.dimensions().map_or(80, |(columns, _)| usize::from(columns));
        let text = read.ok();
        let shown = text.clone().or_else(|| self.editor.helper().map(ChatHelper::draft));
        let rows = rows(&format!("{prompt}{}", shown.unwrap_or_default()), columns);
        // rustyline has gone to the row below; go up and clear from there.
        let mut stdout = io::stdout();
        let _ = write!(stdout, "\x1b[{rows}A\r\x1b[J").and_then(|()| stdout.flush());
        text
    }

    fn submit(&mut self, text: String, target: &str) -> Next {
        let lines: Vec<&str> = text.lines().filter(|line| !is_blank_text(line)).collect();
        match lines[..] {
            [] => Next::Prompt,
            [line] => {
                let line = line.to_owned();
                self.remember(&line);
                self.say(line)
            }
            _ => {
                let is_long = text.matches('\n').count() > LINE_ENDS_MAX;
                // Perhaps a paste behind a typed /msg, perhaps all of it is a
                // paste: whether it is to be public only its writer knows.
                let is_unclear = commands::parse(lines[0])
                    .map_or(true, |request| matches!(request, Request::Command(_)));
                if (is_long || is_unclear) && !self.may_send(lines.len(), target) {
                    return Next::Keep(text);
                }
                self.remember(&text);
                for line in lines {
                    self.hand_on(Typed::Line { text: as_text(line), waiting: None });
                }
                Next::Prompt
            }
        }
    }

    /// One line, typed as one: a command or text.
    fn say(&mut self, line: String) -> Next {
        let moves_target = match commands::parse(&line) {
            Ok(Request::Command(Command::Quit { .. })) => {
                self.hand_on(Typed::Quit(line));
                return Next::Leave;
            }
            // Without tags our marks would be read as text, by everybody.
            Ok(Request::Command(Command::Set { change: Some((Setting::Tags, false)) })) => {
                self.hand_on(Typed::Refused("chatty join needs tags to be on"));
                return Next::Prompt;
            }
            Ok(Request::Command(command)) => matches!(
                command,
                Command::Join { .. } | Command::Part { .. } | Command::Query { .. }
            ),
            _ => false,
        };
        if moves_target {
            let (waiting, answer) = mpsc::channel();
            self.hand_on(Typed::Line { text: line, waiting: Some(waiting) });
            // Nothing is ever sent here: the other end is dropped instead.
            let _ = answer.recv_timeout(ANSWER_TIMEOUT);
        } else {
            self.hand_on(Typed::Line { text: line, waiting: None });
        }
        Next::Prompt
    }

    /// Asks through the same editor; a second one would fight for the terminal.
    fn may_send(&mut self, count: usize, target: &str) -> bool {
        self.set_asking(true);
        let answer = self.read(&format!("Send {count} lines to {target}? [y/N] "), "");
        self.set_asking(false);
        answer.is_some_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    fn set_asking(&mut self, is_asking: bool) {
        if let Some(helper) = self.editor.helper_mut() {
            helper.is_asking = is_asking;
        }
    }

    fn remember(&mut self, text: &str) {
        let command = text.strip_prefix('/').and_then(|text| text.split_whitespace().next());
        let is_secret = |word: &str| SECRET.iter().any(|secret| secret.eq_ignore_ascii_case(word));
        if !command.is_some_and(is_secret) {
            // A line that cannot be remembered can still be sent.
            let _ = self.editor.add_history_entry(text);
        }
    }

    fn hand_on(&self, typed: Typed) {
        // Nobody listens any more when we are about to be called off.
        let _ = self.typed.send(typed);
    }
}

/// Pasted text stays text: `/x` is said, not done.
fn as_text(line: &str) -> String {
    if commands::parse(line).is_ok_and(|request| request == Request::Say(line)) {
        line.to_owned()
    } else {
        format!("/{line}")
    }
}

/// On how many rows a text ends up, counted as rustyline counts.
fn rows(text: &str, columns: usize) -> usize {
    let columns = columns.max(1);
    let (mut rows, mut column) = (1, 0);
    for c in text.chars() {
        let width = match c {
            '\n' => {
                (rows, column) = (rows + 1, 0);
                continue;
            }
            '\t' => 8 - column % 8,
            c => c.width().unwrap_or(0),
        };
        column += width;
        if column > columns {
            (rows, column) = (rows + 1, width);
        }
    }
    if column == columns { rows + 1 } else { rows }
}

/// Ctrl-C: clears what is typed (Ctrl-Y brings it back); on an empty line it
/// warns, and again soon after it leaves.
struct Interrupt {
    last: Mutex<Option<Instant>>,
    gate: Arc<Gate>,
    printer: Printer,
    warning: Styled,
}

impl ConditionalEventHandler for Interrupt {
    fn handle(
        &self,
        _event: &Event,
        _count: RepeatCount,
        _is_positive: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        if !context.line().is_empty() {
            return Some(Cmd::Kill(Movement::WholeBuffer));
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < INTERRUPT_TWICE) {
            self.gate.shut(true);
            return None;
        }
        *last = Some(Instant::now());
        self.printer.print(self.warning.clone());
        Some(Cmd::Noop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_as_they_wrap() {
        for (text, count) in [
            ("", 1),
            ("#ops> hi", 1),
            ("0123456789", 2),
            ("01234567890", 2),
            ("ab\ncd", 2),
            ("ab\n", 2),
            ("日本日本日", 2),
            ("a日本日本日", 2),
            ("\tab", 2),
        ] {
            assert_eq!(rows(text, 10), count, "{text:?}");
        }
    }

    #[test]
    fn pasted_lines_are_text_whatever_they_look_like() {
        for (line, sent) in [
            ("hello", "hello"),
            ("/quit", "//quit"),
            ("//x", "///x"),
            ("/nosuch", "//nosuch"),
            ("@cid=1 x", "@cid=1 x"),
        ] {
            assert_eq!(as_text(line), sent);
        }
    }
}
