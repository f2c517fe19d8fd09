//! The client as a process: the signals that end it, and the settings of its terminal.

pub(super) mod signals;
pub(super) mod tty;
