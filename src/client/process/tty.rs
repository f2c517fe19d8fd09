//! The terminal's settings (termios). While the client runs, echo is off, since between two
//! prompts typed-ahead keys would otherwise appear among the chat. The original settings are
//! restored however the client ends. It knows nothing of what is drawn.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Mutex, PoisonError};
use std::{env, panic, process, thread};

use nix::fcntl::OFlag;
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use nix::unistd::{dup2_stdin, dup2_stdout, ttyname};

use crate::stdio;

/// Bracketed paste off, cursor shown, colours off.
pub(in crate::client) const SANE: &[u8] = b"\x1b[?2004l\x1b[?25h\x1b[0m";

/// The exit code of a Rust program after a panic.
const PANICKED: i32 = 101;

/// Reopens the terminal in place of the inherited descriptors. Programs that share those may
/// have set `O_NONBLOCK` on them, or may set it later, and rustyline treats a call that would
/// block as the end of input. If the terminal cannot be opened, the inherited descriptors stay.
pub(in crate::client) fn reopen() {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let open = |shared: BorrowedFd<'_>| options.open(ttyname(shared).ok()?).ok();
    if let Some(terminal) = open(io::stdin().as_fd()) {
        let _ = dup2_stdin(terminal);
    }
    if let Some(terminal) = open(io::stdout().as_fd()) {
        let _ = dup2_stdout(terminal);
    }
}

/// Restores the terminal's settings when dropped, also during a panic.
pub(in crate::client) struct Terminal {
    saved: Option<Termios>,
}

impl Terminal {
    /// Saves the settings and turns echo off.
    pub(in crate::client) fn quiet() -> Self {
        let saved = termios::tcgetattr(io::stdin()).ok();
        if let Some(mut quiet) = saved.clone() {
            quiet.local_flags.remove(LocalFlags::ECHO);
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &quiet);
        }
        Self { saved }
    }

    /// Installs a panic hook that restores the terminal, prints the panic below the prompt and
    /// ends the program, whichever thread has panicked.
    pub(in crate::client) fn restore_on_panic(&self) {
        let (saved, default_hook) = (Mutex::new(self.saved()), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            let saved = saved.lock().unwrap_or_else(PoisonError::into_inner);
            restore(saved.as_ref(), &[SANE, b"\r\n"].concat());
            default_hook(info);
            // The client needs each of its threads. A panic of the main thread unwinds, which
            // cleans up and ends the program.
            if thread::current().name() != Some("main") {
                process::exit(PANICKED);
            }
        }));
    }

    /// Returns the settings before the client started.
    pub(in crate::client) fn saved(&self) -> Option<Termios> {
        self.saved.clone()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // During a panic the prompt's thread may have drawn another prompt; erase it.
        let sequence: &[u8] = if thread::panicking() { b"\r\x1b[J" } else { b"" };
        restore(self.saved.as_ref(), &[SANE, sequence].concat());
    }
}

fn restore(saved: Option<&Termios>, sequence: &[u8]) {
    if let Some(saved) = saved {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, saved);
    }
    let _ = stdio::stdout().write_all(sequence);
}

/// Whether both standard streams are a terminal that can move its cursor, as a prompt needs.
pub(in crate::client) fn is_on_terminal() -> bool {
    let can_edit = !matches!(env::var("TERM").as_deref(), Ok("dumb" | "cons25" | "emacs"));
    io::stdin().is_terminal() && io::stdout().is_terminal() && can_edit
}
