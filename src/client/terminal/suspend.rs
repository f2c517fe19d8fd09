//! Ctrl-Z: suspends the client, with the terminal's original settings, until `fg`. It knows
//! nothing of the chat.
//!
//! rustyline implements this, too, but after raising the signal it changes the terminal's
//! settings again at once. With several threads that is a race: the process may stop only after
//! that, and the shell then gets a terminal without echo and line editing.

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{self, SetArg, Termios};
use nix::unistd::Pid;
use rustyline::{Cmd, ConditionalEventHandler, Event, EventContext, RepeatCount};

use super::printer::PromptGate;
use crate::client::process::tty::SANE;
use crate::stdio;

/// How long to wait for the signal to stop the process; enough on a busy machine. It has passed
/// by the time the shell continues the process, so it is noticeable only without a shell.
const STOP_TIME: Duration = Duration::from_millis(300);

const BRACKETED_PASTE: &[u8] = b"\x1b[?2004h";

/// The handler of Ctrl-Z.
pub(super) struct Suspend {
    gate: Arc<PromptGate>,
    /// The terminal's settings before the client started.
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
        // The whole process group, as the terminal itself would signal it.
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
