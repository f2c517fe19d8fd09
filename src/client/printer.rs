//! Lines above the prompt. rustyline's external printer lets a line appear
//! without disturbing what is being typed, but it can block for as long as a
//! person likes (in a Ctrl-R search, say), so it has a thread to itself and
//! nothing waits for that thread.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustyline::ExternalPrinter;
use terminal_size::{Width, terminal_size};

use super::screen::Styled;
use super::wrap::wrap;

/// Lines that came together are printed together, up to about so many bytes:
/// each print clears and redraws the prompt.
const BATCH_MAX: usize = 16 * 1024;

/// Where to put lines for the screen.
#[derive(Clone)]
pub(super) struct Printer(Sender<Option<Styled>>);

impl Printer {
    /// Starts the thread. It ends when every [`Printer`] is gone.
    pub(super) fn start(
        out: impl ExternalPrinter + Send + 'static,
        gate: Arc<Gate>,
    ) -> (Self, JoinHandle<()>) {
        let (lines, waiting) = mpsc::channel();
        let thread = thread::spawn(move || print_all(out, &waiting, &gate));
        (Self(lines), thread)
    }

    /// Shows a line; at once, or when the prompt allows it.
    pub(super) fn print(&self, line: Styled) {
        // The thread lives as long as we do; if it does not, there is no screen.
        let _ = self.0.send(Some(line));
    }

    /// Draws the prompt again, which has changed.
    pub(super) fn repaint(&self) {
        let _ = self.0.send(None);
    }
}

fn print_all(mut out: impl ExternalPrinter, waiting: &Receiver<Option<Styled>>, gate: &Gate) {
    while let Ok(first) = waiting.recv() {
        let mut batch = String::new();
        let mut next = Some(first);
        let columns = columns();
        while let Some(line) = next {
            if let Some(line) = line {
                batch.push_str(&wrap(line.as_str(), line.hang(), columns));
                // Without its own line end the last line is lost between prompts.
                batch.push('\n');
            }
            next = if batch.len() < BATCH_MAX { waiting.try_recv().ok() } else { None };
        }
        if gate.hand_to_prompt(&batch) {
            // Fails when the prompt has gone meanwhile; then it is undrawn.
            let _ = out.print(batch);
        } else {
            write(&gate.take_undrawn());
            write(&batch);
        }
    }
    write(&gate.take_undrawn());
}

/// How wide the terminal is now.
fn columns() -> usize {
    terminal_size().map_or(80, |(Width(columns), _)| usize::from(columns))
}

fn write(text: &str) {
    // Without a terminal there is nobody to tell.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// What the printer knows of the prompt. Two things need it:
///
/// 1. From the moment a line is submitted until the next prompt stands, nothing
///    may be printed. rustyline would write it straight to the terminal, where
///    it is wiped away with the submitted line, or overtakes an earlier one.
/// 2. What rustyline has taken but not drawn is lost when the prompt ends. So it
///    is kept here until it is seen on the screen, and written at the end.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    moved: Condvar,
}

#[derive(Default)]
struct GateState {
    prompt: PromptIs,
    /// There will be no other prompt.
    is_last: bool,
    undrawn: VecDeque<String>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum PromptIs {
    #[default]
    Away,
    Standing,
    Over,
}

impl Gate {
    /// A prompt stands: what comes can be drawn above it.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        if state.prompt == PromptIs::Away && !state.is_last {
            state.prompt = PromptIs::Standing;
            self.moved.notify_all();
        }
    }

    /// The prompt is going away, for a moment or, if it `is_last`, for good.
    pub(super) fn shut(&self, is_last: bool) {
        let mut state = self.lock();
        state.is_last |= is_last;
        if state.prompt == PromptIs::Standing {
            state.prompt = PromptIs::Away;
        }
    }

    /// The prompt is gone and the terminal as it was: write as you like.
    pub(super) fn finish(&self) {
        self.lock().prompt = PromptIs::Over;
        self.moved.notify_all();
    }

    /// What was handed over first stands above the prompt now.
    pub(super) fn drawn(&self) {
        self.lock().undrawn.pop_front();
    }

    /// Waits for a prompt. `false`: there will be none any more.
    fn hand_to_prompt(&self, batch: &str) -> bool {
        let mut state = self.lock();
        while state.prompt == PromptIs::Away {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_standing = state.prompt == PromptIs::Standing;
        if is_standing {
            state.undrawn.push_back(batch.to_owned());
        }
        is_standing
    }

    fn take_undrawn(&self) -> String {
        self.lock().undrawn.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
