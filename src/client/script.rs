//! The piped mode, for scripts: lines or JSON objects, without a prompt.

pub(super) mod input;
pub(super) mod json;
pub(super) mod output;
pub(super) mod piped;
mod writer;
