//! Messages as records, and the users who write and receive them: the types that the hub, the
//! turn and the log share.

pub use crate::protocol::UserId;
use crate::protocol::{Cid, Message, Name, Place, RoomName, Stamp, Tags};

/// Mail that was sent to a connection: all of an account up to a message. It is delivered once
/// the client sends something after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentMail {
    /// The account.
    pub to: UserId,
    /// The id of its last message.
    pub last: u64,
}

/// The recipient of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipient {
    /// All members of a room.
    Room(RoomName),
    /// One user, with the name at that time.
    Person(UserId, Name),
}

/// A message in the log: chat, an action, or a private message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The position in the log. Growing, never reused.
    pub id: u64,
    /// When the message was accepted. Grows with the id, except when the clock was set back.
    pub time: Stamp,
    /// The author.
    pub author: UserId,
    /// The author's name at that time.
    pub from: Name,
    /// The recipient.
    pub to: Recipient,
    /// Whether it is an action (`/me`).
    pub is_action: bool,
    /// The text, without control characters.
    pub text: Box<str>,
    /// The client's own id for the line, by which repeats are deduplicated.
    pub cid: Option<Cid>,
}

impl Record {
    /// Returns the message as `reader` sees it.
    #[must_use]
    pub fn seen_by(&self, reader: UserId) -> Message<'_> {
        let place = match &self.to {
            Recipient::Room(room) => Place::Room(room.as_str()),
            Recipient::Person(_, name) if self.author == reader => Place::ToPerson(name.as_str()),
            Recipient::Person(..) => Place::ToMe,
        };
        let (from, is_action) = (self.from.as_str(), self.is_action);
        Message { place, from, is_action, text: &self.text }
    }

    /// Returns the tags of the message.
    #[must_use]
    pub fn tags(&self) -> Tags<'static> {
        Tags { id: Some(self.id), time: Some(self.time), cid: None, actor: Some(self.author) }
    }

    /// Returns the approximate size in memory, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.text.len() + 64
    }
}
