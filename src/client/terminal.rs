//! The interactive mode, on a terminal: the prompt, and the lines above it.

pub(super) mod away_marker;
pub(super) mod ctrl_c;
pub(super) mod draft;
pub(super) mod helper;
pub(super) mod history;
pub(super) mod interactive;
pub(super) mod latency;
pub(super) mod notify;
pub(super) mod presence;
pub(super) mod printer;
pub(super) mod prompt;
pub(super) mod prompt_text;
pub(super) mod screen;
pub(super) mod suspend;
pub(super) mod wrap;
