//! Ctrl-Z: hands the terminal back to the shell, as it was, until `fg`.
//!
//! rustyline has this too, but stops the process by a signal and goes on at
//! once to take the terminal again. With several threads that is a race: the
//! stop may come after, and `fg` then finds a terminal that does not listen.

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{self, SetArg, Termios};
use nix::unistd::Pid;
use rustyline::{Cmd, ConditionalEventHandler, Event, EventContext, RepeatCount};

use super::printer::PromptGate;
use super::terminal::SANE;
use crate::stdio;

/// Longer than a signal takes to stop us on a busy machine. Over by the time
/// the shell lets us go on; felt only where there is no shell to do so.
const STOP_TIME: Duration = Duration::from_millis(300);

const BRACKETED_PASTE: &[u8] = b"\x1b[?2004h";

/// What Ctrl-Z does.
pub(super) struct Suspend {
    gate: Arc<PromptGate>,
    /// The terminal's settings before us.
    saved: Mutex<Option<Termios>>,
}

impl Suspend {
    pub(super) fn new(gate: Arc<PromptGate>, saved: Option<Termios>) -> Self {
        Self { gate, saved: Mutex::new(saved) }
    }
}

impl ConditionalEventHandler for Suspend {
    fn handle(
        &self,
        _event: &Event,
        _count: RepeatCount,
        _is_positive: bool,
        _context: &EventContext<'_>,
    ) -> Option<Cmd> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(saved), Ok(ours)) = (saved.as_ref(), termios::tcgetattr(io::stdin())) else {
            return Some(Cmd::Noop);
        };
        self.gate.shut(false);
        set(saved, SANE);
        // All that was started with us, as the terminal itself would do it.
        let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
        thread::sleep(STOP_TIME);
        set(&ours, BRACKETED_PASTE);
        // Drawing the prompt opens the gate.
        Some(Cmd::Repaint)
    }
}

fn set(settings: &Termios, sequence: &[u8]) {
    let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, settings);
    let _ = stdio::stdout().write_all(sequence);
}
