//! Messages as records, and the users who write and receive them: the types that the hub, the
//! turn and the log share.

use sha2::{Digest as _, Sha256};

pub use crate::protocol::UserId;
use crate::protocol::name::is_label;
use crate::protocol::{Cid, Key, Message, Name, Place, RoomName, Stamp, Tags};

/// Mail that was sent to a connection: all of an account up to a message. It is delivered once
/// the client sends something after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentMail {
    /// The account.
    pub to: UserId,
    /// The id of its last message.
    pub last: u64,
}

/// The author of the posts of programs that have not proven an account. User ids begin at 1.
pub const ANONYMOUS: UserId = UserId(0);

/// Set in the ids of labels only.
const LABEL_BIT: u64 = 1 << 63;

/// Returns the id and the label that a text names, if it is one. Labels need not be in use.
#[must_use]
pub fn label_named(text: &str) -> Option<(UserId, Name)> {
    Name::parse_label(text).map(|label| (label_id(label.key()), label))
}

/// Returns the id by which a label is ignored or muted. It never is the id of a user, and stays
/// the same everywhere, as it is stored.
#[must_use]
pub fn label_id(label: &Key) -> UserId {
    let hash = Sha256::digest(label.as_str());
    let bits = hash.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    UserId(bits | LABEL_BIT)
}

/// Returns whether an id is that of a label.
#[must_use]
pub fn is_label_id(id: UserId) -> bool {
    id.0 & LABEL_BIT != 0
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
    /// Returns whether one of these users or labels wrote the message.
    #[must_use]
    pub fn is_by_one_of(&self, authors: &[UserId]) -> bool {
        // Nearly every reader ignores no one.
        !authors.is_empty() && self.authors().any(|author| authors.contains(&author))
    }

    /// Returns the author, and the label of a post: the ids by which the message is ignored.
    pub fn authors(&self) -> impl Iterator<Item = UserId> {
        let label = is_label(self.from.as_str()).then(|| label_id(self.from.key()));
        std::iter::once(self.author).chain(label)
    }

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
