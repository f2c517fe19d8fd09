//! chatty from outside: the real binary, real sockets, a real terminal.

// A server, somebody to talk to, a terminal.
mod storage;
mod support;
// A network that breaks, and a cable that can be pulled.
mod cable;
mod proxy;

// Whole conversations, which are the specification: on the hub and over sockets.
mod transcripts;
// Bytes rather than lines: framing, telnet, other protocols, half-close.
mod wire;
// Many at once, fast ones and slow ones.
mod crowd;
// Hostile inputs, with canaries beside them.
mod hostile;
mod soak;
// Limits on who may come and how fast, and who vanishes.
mod limits;
// The netcats people have.
mod netcats;
// Encrypted connections on the same port.
mod tls;
// The command line of the server, and how it ends.
mod serve;
// Coming back to a visit.
mod session;
// Who may what.
mod authority;
// What operators decide outlives the server, and is in its log.
mod moderation_log;
// Finding what was said.
mod search;
// Accounts, passwords, mail.
mod accounts;
// The log: what was acknowledged is there after a restart, a crash, a full disk.
mod durable;
// The same, held against a record of what everybody sent and was shown.
mod crash;
// Any input at all: nothing panics, nothing breaks the hub's tables.
mod any_input;

// Completions and manuals.
mod command_line;
// The client in pipes and at a terminal.
mod client_beside;
mod client_config;
mod client_hardship;
mod client_network;
mod client_piped;
mod client_scripts;
mod client_shown;
mod client_terminal;
mod client_typed;
mod client_widths;
// The client and whom it trusts.
mod client_tls;
// The client coming back after a lost connection.
mod comeback;

// What the README and the protocol's page show is run, and their tables are checked.
mod readme;

// The house rules: who may import whom, and what no file holds.
mod layers;
