//! The session with the server: logging in, the lines without an answer, and what is needed to
//! continue after a lost connection.

pub(super) mod heartbeat;
pub(super) mod login;
pub(super) mod outgoing;
pub(super) mod password;
pub(super) mod reconnect;
pub(super) mod resume;
pub(super) mod seen_messages;
