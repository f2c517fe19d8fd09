//! Integration tests of chatty: the real binary, real sockets, a real terminal.

// Test support: server, peer, terminal; a hub without sockets.
#[path = "../support/hub_driver.rs"]
mod hub_driver;
#[path = "../support/older_schemas.rs"]
mod older_schemas;
mod storage;
mod support;
// A proxy that breaks connections, and a network link that can be pulled.
mod bots;
mod cable;
mod posts;
mod proxy;

// Transcripts, which are the specification: played on the hub and over sockets.
mod transcripts;
// The wire: framing, telnet, other protocols, half-closed connections.
mod wire;
// Many users at once, fast and slow readers.
mod crowd;
// Hostile inputs, with canaries connected at the same time.
mod hostile;
mod soak;
// Connection limits, rate limits, and dead connections.
mod limits;
// Common netcat programs.
mod netcats;
// TLS on the same port.
mod tls;
// The server's command line, startup and shutdown.
mod serve;
// Sessions: resume after a drop, a restart, a crash.
mod session;
// Permissions of every command.
mod authority;
// Moderation survives a restart and is logged.
mod moderation_log;
// Search.
mod search;
// Accounts, passwords, mail.
mod accounts;
mod mail;
// The log: acknowledged messages survive a restart, a crash, a full disk.
mod durable;
// Files of older versions are upgraded, also in spite of crashes.
mod upgrade;
// Deleted messages are erased from all files.
mod erasure;
// Crash consistency, checked against a record of sent and received messages.
mod crash;
// Seeded random input: no panic, and the hub's invariants hold.
mod any_input;

// Shell completions and manual pages.
mod command_line;
// The client, with pipes and at a terminal.
mod client_beside;
mod client_config;
mod client_display;
mod client_hardship;
mod client_network;
mod client_piped;
mod client_scripts;
mod client_terminal;
mod client_typed;
mod client_widths;
// The client over TLS.
mod client_tls;
// The client's reconnect and resume.
mod client_reconnect;

// Compatibility with an earlier version: its binary, its stored data.
mod compat;

// README and protocol page: examples are run, tables are checked.
mod readme;

// Architecture rules: imports point down, forbidden words per folder.
mod floors;
