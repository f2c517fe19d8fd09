//! What the client knows about the chat, and how it understands what the user types. No IO and
//! no clock.

pub(super) mod local;
pub(super) mod mentions;
pub(super) mod state;
pub(super) mod submission;
mod unread;
