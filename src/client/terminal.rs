//! The interactive mode, on a terminal: the prompt, and the lines above it.

mod answer_key;
mod away_marker;
mod chat;
mod ctrl_c;
mod draft;
mod helper;
pub(super) mod history;
pub(super) mod interactive;
mod latency;
mod members;
pub(super) mod notify;
pub(super) mod presence;
mod printer;
mod prompt;
mod prompt_text;
pub(super) mod screen;
mod shared;
mod suspend;
mod switch;
#[cfg(test)]
mod test_support;
mod wrap;
