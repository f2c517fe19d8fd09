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

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use rustyline::config::BellStyle;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Editor, EventHandler, KeyCode,
    KeyEvent, Modifiers,
};
use tokio::sync::mpsc::UnboundedSender;

use super::helper::ChatHelper;
use super::history::History;
use super::local::{self, Local};
use super::printer::{Printer, PromptGate};
use super::prompt_text;
use super::sanitize::is_unseen;
use super::state::State;
use super::submission::Submission;
use super::theme::Theme;
use super::width;
use crate::stdio;

/// How long the next prompt waits for the answer that says where lines go: not so long
/// that a typist notices. What comes later is fitted into the prompt that stands.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(40);

/// What the prompt hands on.
pub(super) enum Typed {
    /// A line to be sent. `waiting` is dropped once it is answered.
    Line { text: String, waiting: Option<Waiting> },
    /// The last line: `/quit`, with a reason or without.
    Quit(String),
    /// Ctrl-C twice; or a SIGINT came, which while the prompt stands only rustyline
    /// hears.
    Interrupted,
    /// Something the client does itself.
    Local(Local),
    /// A line the client does not send.
    Refused(Cow<'static, str>),
    /// The terminal cannot be read, and why.
    Failed(String),
}

/// Kept by whoever answers, and dropped then.
pub(super) type Waiting = mpsc::Sender<()>;

pub(super) type ChatEditor = Editor<ChatHelper, DefaultHistory>;

/// What the prompt shares with its keys and with the rest of the client.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) gate: Arc<PromptGate>,
    pub(super) printer: Printer,
    pub(super) theme: Theme,
    /// A question is on the screen instead of the prompt.
    pub(super) is_asking: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_asking(&self) -> bool {
        self.is_asking.load(Ordering::Relaxed)
    }
}

/// An editor with our looks.
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
        .grapheme_cluster_mode(width::MODE)
        .tab_stop(width::TAB_STOP)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(ChatHelper::new(shared.clone())));
    editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
    Ok(editor)
}

/// Gives Ctrl and a letter a meaning.
pub(super) fn bind(
    editor: &mut ChatEditor,
    letter: char,
    handler: impl ConditionalEventHandler + 'static,
) {
    let handler = EventHandler::Conditional(Box::new(handler));
    editor.bind_sequence(KeyEvent::ctrl(letter), handler);
}

/// The running prompt.
pub(super) struct Prompt {
    thread: JoinHandle<()>,
    is_called_off: Arc<AtomicBool>,
    gate: Arc<PromptGate>,
}

impl Prompt {
    /// Starts the thread.
    pub(super) fn start(
        editor: ChatEditor,
        history: History,
        shared: Shared,
        typed: UnboundedSender<Typed>,
    ) -> Self {
        let gate = shared.gate.clone();
        let is_called_off = Arc::new(AtomicBool::new(false));
        let called_off = is_called_off.clone();
        let prompt_loop =
            Loop { editor, history, shared, typed, is_called_off: called_off, unread: None };
        Self { thread: thread::spawn(move || prompt_loop.run()), is_called_off, gate }
    }

    /// Calls a waiting prompt off and waits until the terminal is released;
    /// `false` if it is not in reasonable time.
    ///
    /// rustyline has no such call, but it gives up at SIGINT, which outside of
    /// it nobody minds: the main thread listens for it. It goes to the prompt's
    /// thread: in a history search only that thread's own read notices. In case
    /// it comes between two prompts it is repeated.
    pub(super) fn call_off(self) -> bool {
        self.is_called_off.store(true, Ordering::SeqCst);
        self.gate.shut(true);
        for _ in 0..50 {
            if self.thread.is_finished() {
                break;
            }
            let _ = pthread_kill(self.thread.as_pthread_t(), Signal::SIGINT);
            thread::sleep(Duration::from_millis(20));
        }
        // Also if the thread has panicked: what is left must be seen.
        self.gate.finish();
        self.thread.is_finished()
    }
}

struct Loop {
    editor: ChatEditor,
    history: History,
    shared: Shared,
    typed: UnboundedSender<Typed>,
    is_called_off: Arc<AtomicBool>,
    /// Why the last text was not read.
    unread: Option<Unread>,
}

/// Why no text was read.
enum Unread {
    /// Ctrl-D.
    Ended,
    /// A SIGINT, or Ctrl-C.
    Interrupted,
    /// A key that is not UTF-8; the draft up to it.
    Garbled(String),
    Failed(String),
}

impl Unread {
    fn of(problem: &ReadlineError, draft: &str) -> Self {
        match problem {
            ReadlineError::Interrupted => Self::Interrupted,
            ReadlineError::Io(problem) => match problem.kind() {
                io::ErrorKind::InvalidData => Self::Garbled(draft.to_owned()),
                io::ErrorKind::Interrupted => Self::Ended,
                _ => Self::Failed(stdio::reason(problem)),
            },
            ReadlineError::Errno(errno) => Self::Failed(errno.desc().to_lowercase()),
            _ => Self::Ended,
        }
    }
}

/// What follows a submitted text.
enum Next {
    Prompt,
    /// The same again: it was not sent.
    Keep(String),
    Leave,
}

/// What becomes of a text of several lines.
enum Answer {
    Yes,
    /// All of it as one line.
    Joined,
    /// It is a draft again.
    No,
}

impl Loop {
    fn run(mut self) {
        let mut draft = String::new();
        while !self.is_called_off.load(Ordering::SeqCst) {
            let (target, prompt) = {
                let state = self.shared.state();
                (state.target(), prompt_text::prompt(&state))
            };
            let Some(text) = self.read(&prompt, &draft) else {
                let last = match self.unread.take() {
                    Some(Unread::Garbled(text)) => {
                        let why = "left out a key that is not UTF-8; is this terminal set to it?";
                        self.hand_on(Typed::Refused(why.into()));
                        draft = text;
                        continue;
                    }
                    Some(Unread::Failed(why)) => Typed::Failed(why),
                    Some(Unread::Interrupted) => Typed::Interrupted,
                    Some(Unread::Ended) | None => Typed::Quit("/quit".to_owned()),
                };
                self.hand_on(last);
                break;
            };
            draft = match self.submit(&text, &target) {
                Next::Prompt => String::new(),
                Next::Keep(text) => text,
                Next::Leave => break,
            };
        }
        drop(self.editor);
        self.shared.gate.finish();
    }

    /// Reads one text and clears it off the screen. `None`: no more of this.
    fn read(&mut self, prompt: &str, draft: &str) -> Option<String> {
        if let Some(helper) = self.editor.helper() {
            helper.start(draft);
        }
        let read = self.editor.readline_with_initial(prompt, (draft, ""));
        self.shared.gate.shut(false);
        let draft = self.editor.helper().map(ChatHelper::draft).unwrap_or_default();
        self.unread = read.as_ref().err().map(|problem| Unread::of(problem, &draft));
        let text = read.ok();
        let is_kept = matches!(self.unread, Some(Unread::Garbled(_)));
        if text.is_none() && !draft.is_empty() && !is_kept {
            // Called off amid a line: it is not sent, but not taken away either.
            return None;
        }
        let rows = self.editor.helper().map_or(1, ChatHelper::rows);
        // rustyline has gone to the row below; go up and clear from there.
        let _ = stdio::stdout().write_all(format!("\x1b[{rows}A\r\x1b[J").as_bytes());
        if let Some(helper) = self.editor.helper() {
            helper.finish();
        }
        text
    }

    fn submit(&mut self, text: &str, target: &str) -> Next {
        // What is sent is what was seen: nothing hides in a paste.
        let text = text.replace(|c| is_unseen(c) && !matches!(c, '\n' | '\t'), "");
        let text = local::expand_abbreviation(&text).unwrap_or(text);
        let mut submission = Submission::of(&text);
        if let Submission::Lines { lines, is_doubtful: true } = &submission {
            match self.ask(lines.len(), target) {
                Answer::Yes => {}
                Answer::Joined => match Submission::joined(&text) {
                    Some(joined) => submission = joined,
                    None => {
                        self.hand_on(Typed::Refused("not sent: as one line it is too long".into()));
                        return Next::Keep(text);
                    }
                },
                Answer::No => return Next::Keep(text),
            }
        }
        // Nobody wants to find that first the next time.
        if !matches!(submission, Submission::Quit(_)) {
            self.history.add(&mut self.editor, &text);
        }
        match submission {
            Submission::Nothing => {}
            Submission::Refused(refusal) => self.hand_on(Typed::Refused(refusal.text)),
            Submission::TagsOff => {
                self.hand_on(Typed::Refused("chatty join needs tags to be on".into()));
            }
            Submission::Local(local) => self.hand_on(Typed::Local(local)),
            Submission::Quit(line) => {
                self.hand_on(Typed::Quit(line.to_owned()));
                return Next::Leave;
            }
            Submission::Line { line, moves_target } => self.say(line, moves_target),
            Submission::Lines { lines, .. } => {
                for text in lines {
                    self.hand_on(Typed::Line { text, waiting: None });
                }
            }
        }
        Next::Prompt
    }

    fn say(&mut self, line: &str, moves_target: bool) {
        let text = line.to_owned();
        if !moves_target {
            return self.hand_on(Typed::Line { text, waiting: None });
        }
        let (waiting, answer) = mpsc::channel();
        self.hand_on(Typed::Line { text, waiting: Some(waiting) });
        // Nothing is ever sent here: the other end is dropped instead.
        let _ = answer.recv_timeout(ANSWER_TIMEOUT);
    }

    /// Asks through the same editor; a second one would fight for the terminal.
    fn ask(&mut self, count: usize, target: &str) -> Answer {
        self.shared.is_asking.store(true, Ordering::Relaxed);
        let question = format!("Send {count} lines to {target}? [y]es, [j]oined into one, [N]o: ");
        let answer = self.read(&question, "").unwrap_or_default();
        self.shared.is_asking.store(false, Ordering::Relaxed);
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Answer::Yes,
            "j" | "join" | "joined" => Answer::Joined,
            _ => Answer::No,
        }
    }

    fn hand_on(&self, typed: Typed) {
        // Nobody listens any more when we are about to be called off.
        let _ = self.typed.send(typed);
    }
}
