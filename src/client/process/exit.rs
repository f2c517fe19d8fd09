//! The exit code of `chatty join`.

use std::process::ExitCode;

/// The exit code of `chatty join`. The numbers are stable because scripts rely on them; 69 and
/// 77 are those of sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The user left; in a pipe, the server accepted every line.
    Done = 0,
    /// In a pipe: the server refused a line.
    Refused = 1,
    /// Invalid arguments or settings.
    Usage = 2,
    /// No connection, or a lost one, or a standard stream failed.
    Unavailable = 69,
    /// The server refused the name.
    NameRefused = 77,
    /// Ended by SIGHUP.
    HungUp = 129,
    /// Ended by SIGINT.
    Interrupted = 130,
    /// Ended by SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
