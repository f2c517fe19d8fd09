//! The client as a process: its exit code, the signals that end it, and the settings of its
//! terminal.

pub(super) mod exit;
pub(super) mod question;
pub(super) mod signals;
pub(super) mod tty;
