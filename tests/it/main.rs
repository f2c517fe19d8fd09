//! chatty from outside: the real binary, real sockets, a real terminal.

mod support_client;

mod client_piped;
mod client_terminal;
mod readme;
