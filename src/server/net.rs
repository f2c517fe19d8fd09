//! One socket: plain TCP or TLS, its pending output, its peer, and the detection of clients that
//! do not read.

pub mod connection;
pub mod outbox;
pub mod peer;
pub mod stall;
pub mod stream;
pub mod tls;
pub mod unsent;

/// The id of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Index in the server's table of connections; reused.
    pub slot: u32,
    /// Distinguishes connections that used the same slot one after another.
    pub generation: u32,
}
