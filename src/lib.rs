//! chatty: a chat server you start with one command and can talk to with
//! netcat, and a line client that is pleasant to type into.
//!
//! Modules in reading order; each may use the ones above it, never the ones
//! below, and `server` and `client` never see each other
//! (`tests/it/floors.rs` holds them to it):
//!
//! 1. [`protocol`]: the wire. Names, lines, events; written and read in one place.
//! 2. [`ignored`]: the signals we are not to hear; [`stdio`]: the standard streams;
//!    [`text_file`]: files that people write; [`files`]: opening the files that are our own;
//!    [`scoped_ip`]: IP addresses with the zone of a link-local one.
//! 3. [`commands`]: the one table of commands: syntax, help, completion.
//! 4. [`server`]: the hub (the rules, without IO) and the shell around it (sockets).
//! 5. [`client`]: the prompt, the screen and the piped mode of `chatty join`.
//!
//! `ARCHITECTURE.md` tells how they play together.

pub mod protocol;

pub mod ignored_signals;

pub mod files;

pub mod scoped_ip;

pub mod stdio;

pub mod text_file;

pub mod commands;

pub mod server;

pub mod client;
