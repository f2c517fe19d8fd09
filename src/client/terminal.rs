//! The terminal's own settings. While we run it does not echo: between two
//! prompts keys typed ahead would otherwise show up where they do not belong.
//! However we end, it gets back what it had.

use std::io::{self, Write as _};

use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

/// Bracketed paste off, cursor shown, colours off.
pub(super) const SANE: &[u8] = b"\x1b[?2004l\x1b[?25h\x1b[0m";

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

    /// The settings it had before us.
    pub(super) fn saved(&self) -> Option<Termios> {
        self.saved.clone()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, saved);
        }
        let mut stdout = io::stdout();
        let _ = stdout.write_all(SANE).and_then(|()| stdout.flush());
    }
}
