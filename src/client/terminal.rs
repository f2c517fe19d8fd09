//! The terminal's own settings. While we run it does not echo: between two
//! prompts keys typed ahead would otherwise show up where they do not belong.
//! However we end, it gets back what it had.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::{Mutex, PoisonError};
use std::{panic, process, thread};

use nix::fcntl::OFlag;
use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use nix::unistd::{dup2_stdin, dup2_stdout, ttyname};

use crate::stdio;

/// Bracketed paste off, cursor shown, colours off.
pub(super) const SANE: &[u8] = b"\x1b[?2004l\x1b[?25h\x1b[0m";

/// How a program ends that has panicked.
const PANICKED: i32 = 101;

/// Opens the terminal again in place of the inherited descriptors. Programs that shared
/// those may have left `O_NONBLOCK` on them, or may set it later; rustyline takes a call
/// that would block for the end. Where the terminal cannot be opened, the inherited
/// descriptors stay.
pub(super) fn reopen() {
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

/// Gives the terminal back its settings when dropped, in a panic too.
pub(super) struct Terminal {
    saved: Option<Termios>,
}

impl Terminal {
    pub(super) fn quiet() -> Self {
        let saved = termios::tcgetattr(io::stdin()).ok();
        if let Some(mut quiet) = saved.clone() {
            quiet.local_flags.remove(LocalFlags::ECHO);
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &quiet);
        }
        Self { saved }
    }

    /// From now on a panic, of whatever thread, ends the program with the terminal
    /// as it was before, and is told below the prompt.
    pub(super) fn outlives_panics(&self) {
        let (saved, tell) = (Mutex::new(self.saved()), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            let saved = saved.lock().unwrap_or_else(PoisonError::into_inner);
            restore(saved.as_ref(), &[SANE, b"\r\n"].concat());
            tell(info);
            // Without any one of its threads there is no chat. The main thread
            // ends by itself, and cleans up.
            if thread::current().name() != Some("main") {
                process::exit(PANICKED);
            }
        }));
    }

    /// The settings it had before us.
    pub(super) fn saved(&self) -> Option<Termios> {
        self.saved.clone()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // In a panic the prompt's thread may have drawn another prompt meanwhile.
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
