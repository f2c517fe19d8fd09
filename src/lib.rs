//! chatty: a chat server you start with one command and can talk to with
//! netcat, and a line client that is pleasant to type into.
//!
//! The modules in reading order. A module may use those above it, never those below, and
//! `server` and `client` never use each other (`tests/it/floors.rs` checks this):
//!
//! 1. [`protocol`]: the wire protocol: names, lines, events, and their encoding.
//! 2. [`ignored_signals`]: signals inherited as ignored; [`stdio`]: the standard streams;
//!    [`text_file`]: files written by people; [`files`]: files that chatty owns;
//!    [`scoped_ip`]: IP addresses with the zone of a link-local address.
//! 3. [`config`]: options from the command line, the environment and the settings file.
//! 4. [`commands`]: the command table: syntax, help and completion.
//! 5. [`server`]: the hub (chat state and rules, no IO) and the server loop around it.
//! 6. [`client`]: the prompt, the screen and the piped mode of `chatty join`.
//!
//! `ARCHITECTURE.md` describes how they work together.

// The hub's unit tests share a file with the integration tests, which name this crate.
#[cfg(test)]
extern crate self as chatty;

pub mod protocol;

pub mod ignored_signals;

pub mod files;

pub mod scoped_ip;

pub mod stdio;

pub mod text_file;

pub mod config;

pub mod commands;

pub mod server;

pub mod client;
