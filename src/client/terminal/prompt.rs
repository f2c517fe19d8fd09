//! The prompt: a thread that owns the rustyline editor and forwards submitted lines to the
//! main loop. It knows nothing of the connection.
//!
//! A submitted line is erased from the prompt's row and reappears as the server's echo, in
//! the server's order and with the server's time. So the screen never shows a line that was
//! not sent, shows each line once, and never shows a password. (rustyline could restyle the
//! row into the final line, but order and time are not known at that point.)
//!
//! After a command that changes the target, the thread waits for the answer, so that the next
//! prompt shows the new target from the start. Cancelling a prompt to change it would lose
//! typed-ahead input.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use rustyline::config::BellStyle;
use rustyline::error::ReadlineError;
use rustyline::{
    Cmd, ColorMode, CompletionType, ConditionalEventHandler, Config, Editor, EventHandler, KeyCode,
    KeyEvent, Modifiers,
};
use tokio::sync::mpsc::UnboundedSender;

use super::answer_key::AnswerKey;
use super::helper::{ChatEditor, ChatHelper};
use super::history::History;
use super::printer::PromptGate;
use super::prompt_text;
use super::shared::Shared;
use crate::client::model::local::{self, Local};
use crate::client::model::submission::Submission;
use crate::client::session::QUIT;
use crate::client::text::sanitize::is_unseen;
use crate::client::text::width;
use crate::stdio;

/// How long the next prompt waits for the answer to a command that changes the target; too
/// short for a typist to notice. A later answer is drawn into the visible prompt.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(40);

/// Input that the prompt forwards to the main loop.
pub(super) enum Typed {
    /// A line to send. `waiting` is dropped once the line is answered.
    Line { text: String, waiting: Option<Waiting> },
    /// The last line: `/quit`, with or without a reason.
    Quit(String),
    /// Ctrl-C twice, or a SIGINT, which only rustyline receives while a prompt is visible.
    Interrupted,
    /// A command that the client executes itself.
    Local(Local),
    /// A line that the client refuses to send; the reason.
    Refused(Cow<'static, str>),
    /// The terminal cannot be read; the reason.
    Failed(String),
}

/// Held until the line is answered; dropping it releases the prompt's thread.
pub(in crate::client) type Waiting = mpsc::Sender<()>;

/// Returns an editor with the client's settings.
///
/// # Errors
/// When rustyline cannot open the terminal.
pub(super) fn editor(shared: &Shared) -> rustyline::Result<ChatEditor> {
    let config = Config::builder()
        .max_history_size(1000)?
        .history_ignore_dups(true)?
        .completion_type(CompletionType::List)
        .completion_show_all_if_ambiguous(true)
        // The theme decides about colour. If rustyline did, NO_COLOR would also disable the
        // highlighter, which keeps escape sequences out of the draft.
        .color_mode(ColorMode::Forced)
        .bell_style(BellStyle::None)
        .grapheme_cluster_mode(width::MODE)
        .tab_stop(width::TAB_STOP)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(ChatHelper::new(shared.clone())));
    editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
    for key in ['y', 'j', 'n', 'Y', 'J', 'N'] {
        let handler = AnswerKey::new(shared.clone(), key.to_ascii_lowercase());
        let handler = EventHandler::Conditional(Box::new(handler));
        editor.bind_sequence(KeyEvent(KeyCode::Char(key), Modifiers::NONE), handler);
    }
    Ok(editor)
}

/// Binds Ctrl and a letter to a handler.
pub(super) fn bind(
    editor: &mut ChatEditor,
    letter: char,
    handler: impl ConditionalEventHandler + 'static,
) {
    let handler = EventHandler::Conditional(Box::new(handler));
    editor.bind_sequence(KeyEvent::ctrl(letter), handler);
}

/// Binds Alt and a key to a handler.
pub(super) fn bind_alt(
    editor: &mut ChatEditor,
    key: KeyCode,
    handler: impl ConditionalEventHandler + 'static,
) {
    let handler = EventHandler::Conditional(Box::new(handler));
    editor.bind_sequence(KeyEvent(key, Modifiers::ALT), handler);
}

/// The running prompt.
pub(in crate::client) struct Prompt {
    thread: JoinHandle<()>,
    is_cancelled: Arc<AtomicBool>,
    gate: Arc<PromptGate>,
}

impl Prompt {
    /// Starts the prompt's thread.
    pub(super) fn start(
        editor: ChatEditor,
        history: History,
        shared: Shared,
        typed: UnboundedSender<Typed>,
    ) -> Self {
        let gate = shared.gate.clone();
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let cancelled = is_cancelled.clone();
        let prompt_loop = PromptLoop {
            editor,
            history,
            shared,
            typed,
            is_cancelled: cancelled,
            read_failure: None,
        };
        Self { thread: thread::spawn(move || prompt_loop.run()), is_cancelled, gate }
    }

    /// Cancels the prompt and waits until it has released the terminal. Returns `false` if
    /// that takes longer than a second.
    ///
    /// rustyline has no call for this, but it returns at a SIGINT. The signal is harmless
    /// elsewhere, since the main thread handles it. It is sent to the prompt's thread, because
    /// in a history search only that thread's `read` is interrupted, and repeated, because it
    /// may arrive between two prompts.
    pub(super) fn call_off(self) -> bool {
        self.is_cancelled.store(true, Ordering::SeqCst);
        self.gate.shut(true);
        for _ in 0..50 {
            if self.thread.is_finished() {
                break;
            }
            let _ = pthread_kill(self.thread.as_pthread_t(), Signal::SIGINT);
            thread::sleep(Duration::from_millis(20));
        }
        // Needed after a panic of the thread, too, so that undrawn lines are printed.
        self.gate.finish();
        self.thread.is_finished()
    }
}

struct PromptLoop {
    editor: ChatEditor,
    history: History,
    shared: Shared,
    typed: UnboundedSender<Typed>,
    is_cancelled: Arc<AtomicBool>,
    /// Why the last read returned no text.
    read_failure: Option<ReadFailure>,
}

/// Why a read returned no text.
enum ReadFailure {
    /// Ctrl-D.
    Ended,
    /// A SIGINT, or Ctrl-C.
    Interrupted,
    /// Input that is not UTF-8; the draft before it.
    InvalidUtf8(String),
    Failed(String),
}

impl ReadFailure {
    fn new(problem: &ReadlineError, draft: &str) -> Self {
        match problem {
            ReadlineError::Interrupted => Self::Interrupted,
            ReadlineError::Io(problem) => match problem.kind() {
                io::ErrorKind::InvalidData => Self::InvalidUtf8(draft.to_owned()),
                io::ErrorKind::Interrupted => Self::Ended,
                _ => Self::Failed(stdio::reason(problem)),
            },
            ReadlineError::Errno(errno) => Self::Failed(errno.desc().to_lowercase()),
            _ => Self::Ended,
        }
    }
}

/// What the prompt does after a submitted text.
enum Next {
    Prompt,
    /// Show the text as the draft again, since it was not sent.
    Edit(String),
    Exit,
}

/// The answer to the question about a text of several lines.
enum Answer {
    Yes,
    /// Send all of it as one line.
    Joined,
    /// Back to the draft.
    No,
}

impl PromptLoop {
    fn run(mut self) {
        let mut draft = String::new();
        while !self.is_cancelled.load(Ordering::SeqCst) {
            let (target, prompt) = {
                let state = self.shared.state();
                (state.target(), prompt_text::prompt(&state))
            };
            let Some(text) = self.read(&prompt, &draft) else {
                let last = match self.read_failure.take() {
                    Some(ReadFailure::InvalidUtf8(text)) => {
                        let why = "ignored a key that is not UTF-8; set the terminal to UTF-8";
                        self.forward(Typed::Refused(why.into()));
                        draft = text;
                        continue;
                    }
                    Some(ReadFailure::Failed(why)) => Typed::Failed(why),
                    Some(ReadFailure::Interrupted) => Typed::Interrupted,
                    Some(ReadFailure::Ended) | None => Typed::Quit(QUIT.to_string()),
                };
                self.forward(last);
                break;
            };
            if let Some(command) = self.shared.take_switch() {
                self.send(&command, true);
                draft = text;
                continue;
            }
            draft = match self.submit(&text, &target) {
                Next::Prompt => String::new(),
                Next::Edit(text) => text,
                Next::Exit => break,
            };
        }
        drop(self.editor);
        self.shared.gate.finish();
    }

    /// Reads one text and erases it from the screen. Returns `None` if nothing was submitted;
    /// `read_failure` holds the reason.
    fn read(&mut self, prompt: &str, draft: &str) -> Option<String> {
        if let Some(helper) = self.editor.helper() {
            helper.start(draft);
        }
        let read = self.editor.readline_with_initial(prompt, (draft, ""));
        self.shared.gate.shut(false);
        let draft = self.editor.helper().map(ChatHelper::draft).unwrap_or_default();
        self.read_failure = read.as_ref().err().map(|problem| ReadFailure::new(problem, &draft));
        let text = read.ok();
        let is_edited_again = matches!(self.read_failure, Some(ReadFailure::InvalidUtf8(_)));
        if text.is_none() && !draft.is_empty() && !is_edited_again {
            // Cancelled while a line was typed: the draft is not sent, but stays visible.
            return None;
        }
        let rows = self.editor.helper().map_or(1, ChatHelper::rows);
        // rustyline has moved to the row below; move up and erase from there.
        let _ = stdio::stdout().write_all(format!("\x1b[{rows}A\r\x1b[J").as_bytes());
        if let Some(helper) = self.editor.helper() {
            helper.finish();
        }
        text
    }

    fn submit(&mut self, text: &str, target: &str) -> Next {
        // Invisible characters are removed, so that a paste sends only what the user saw.
        let text = text.replace(|c| is_unseen(c) && !matches!(c, '\n' | '\t'), "");
        let text = local::expand_abbreviation(&text).unwrap_or(text);
        let mut submission = Submission::of(&text);
        if let Submission::Lines { lines, is_doubtful: true } = &submission {
            match self.ask(lines.len(), target) {
                Answer::Yes => {}
                Answer::Joined => match Submission::joined(&text) {
                    Some(joined) => submission = joined,
                    None => {
                        self.forward(Typed::Refused("not sent: too long for one line".into()));
                        return Next::Edit(text);
                    }
                },
                Answer::No => return Next::Edit(text),
            }
        }
        // `/quit` would otherwise be the first line that Up offers in the next session.
        if !matches!(submission, Submission::Quit(_)) {
            self.history.add(&mut self.editor, &text);
        }
        match submission {
            Submission::Nothing => {}
            Submission::Refused(refusal) => self.forward(Typed::Refused(refusal.text)),
            Submission::TagsOff => {
                self.forward(Typed::Refused("chatty join needs tags to be on".into()));
            }
            Submission::Local(local) => self.forward(Typed::Local(local)),
            Submission::Quit(line) => {
                self.forward(Typed::Quit(line.to_owned()));
                return Next::Exit;
            }
            Submission::Line { line, changes_target } => self.send(line, changes_target),
            Submission::Joins(lines) => lines.iter().for_each(|line| self.send(line, true)),
            Submission::Lines { lines, .. } => {
                for text in lines {
                    self.forward(Typed::Line { text, waiting: None });
                }
            }
        }
        Next::Prompt
    }

    /// Forwards a line, and waits for its answer if it may change the target.
    fn send(&mut self, line: &str, changes_target: bool) {
        let text = line.to_owned();
        if !changes_target {
            return self.forward(Typed::Line { text, waiting: None });
        }
        let (waiting, answer) = mpsc::channel();
        self.forward(Typed::Line { text, waiting: Some(waiting) });
        // No value is ever sent: the answer drops the other end.
        let _ = answer.recv_timeout(ANSWER_TIMEOUT);
    }

    /// Asks through the same editor; a second one would compete for the terminal. One key
    /// answers; Enter and Ctrl-C mean no.
    fn ask(&mut self, count: usize, target: &str) -> Answer {
        self.shared.is_asking.store(true, Ordering::Relaxed);
        let question = format!("Send {count} lines to {target}? [y]es, [j]oined into one, [n]o: ");
        let _ = self.read(&question, "");
        self.shared.is_asking.store(false, Ordering::Relaxed);
        match self.shared.take_answer() {
            Some('y') => Answer::Yes,
            Some('j') => Answer::Joined,
            _ => Answer::No,
        }
    }

    fn forward(&self, typed: Typed) {
        // Fails when the main loop is about to cancel the prompt.
        let _ = self.typed.send(typed);
    }
}
