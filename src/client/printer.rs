//! Lines above the prompt. rustyline's external printer lets a line appear
//! without disturbing what is being typed, but it can block for as long as a
//! person likes (in a Ctrl-R search, say), so it has a thread to itself and
//! nothing waits for that thread.

use std::io::{self, Write as _};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustyline::ExternalPrinter;

use super::screen::Styled;

/// Lines that came together are printed together, up to about so many bytes:
/// each print clears and redraws the prompt.
const BATCH_MAX: usize = 16 * 1024;

/// Where to put lines for the screen.
#[derive(Clone)]
pub(super) struct Printer(Sender<Styled>);

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
        let _ = self.0.send(line);
    }
}

fn print_all(mut out: impl ExternalPrinter, waiting: &Receiver<Styled>, gate: &Gate) {
    while let Ok(first) = waiting.recv() {
        gate.wait();
        let mut batch = String::new();
        let mut next = Some(first);
        while let Some(line) = next {
            batch.push_str(line.as_str());
            // Without its own line end the last line is lost between prompts.
            batch.push('\n');
            next = if batch.len() < BATCH_MAX { waiting.try_recv().ok() } else { None };
        }
        if out.print(batch.clone()).is_err() {
            // The prompt is gone, the terminal is not.
            let _ = io::stdout().write_all(batch.as_bytes());
        }
    }
}

/// Holds the printer back from the moment a line is submitted until the next
/// prompt stands. In between rustyline prints straight to the terminal: such a
/// line would be wiped away with the submitted one, or overtake an earlier one
/// that still waits for the prompt.
#[derive(Default)]
pub(super) struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(super) fn shut(&self) {
        *self.is_shut.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub(super) fn open(&self) {
        *self.is_shut.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let mut is_shut = self.is_shut.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_shut {
            is_shut = self.opened.wait(is_shut).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
