//! One socket: plain TCP or TLS, the lines that wait to be written, and who is at the other end.

pub mod connection;
pub mod outbox;
pub mod peer;
pub mod stall;
pub mod stream;
pub mod tls;
pub mod unsent;
