//! The connection to the server: addresses, TCP, TLS and the servers trusted on first use. Nothing
//! here knows what the lines mean.

pub(super) mod address;
pub(super) mod connection;
mod happy_eyeballs;
mod known_hosts;
pub(super) mod tls;
