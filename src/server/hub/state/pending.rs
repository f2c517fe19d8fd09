//! Requests whose answer depends on work outside the hub, such as reading the log. While one is
//! pending, its connection handles no further line.

use std::sync::Arc;
use std::time::Duration;

use super::accounts::Proof;
use super::moderation::bans::Ban;
use crate::protocol::{Cid, Name, RoomName, Stamp};
use crate::server::auth::tokens::TokenHash;
use crate::server::net::outbox::{Meter, Share};
use crate::server::record::UserId;

/// A request whose answer depends on work outside the hub.
#[derive(Debug)]
pub(crate) enum PendingRequest {
    /// A reply that is sent page by page.
    Reply(Box<LongReply>),
    /// A login that reads the account's mail.
    Mail(MailRequest),
    /// A password that is being hashed or checked.
    Password(PasswordRequest),
    /// A `/resume` that reads the message after which it continues.
    Resume(ResumeCheck),
}

/// A reply that is sent page by page, at the pace of the reader.
#[derive(Debug)]
pub(crate) struct LongReply {
    pub(crate) cid: Option<Cid>,
    pub(crate) content: Content,
    /// The number of rows sent.
    pub(crate) sent: usize,
    /// Whether the next page is being read from the log; otherwise it waits until the client
    /// has read the last one.
    pub(crate) is_reading: bool,
}

/// What a long reply consists of. Lists are snapshots, so that the number of rows is that of the
/// header.
#[derive(Debug)]
pub(crate) enum Content {
    /// `/list`: the names of all rooms.
    Rooms(Arc<Listing<RoomName>>),
    /// `/who` in a large room: the number of members, and their names, split into lines.
    Members { room: RoomName, count: usize, lines: Listing<String> },
    /// `/who -l`.
    People(Listing<Attendee>),
    /// `/bans`, or `/gbans` without a room.
    Bans { room: Option<RoomName>, bans: Listing<Ban> },
    /// `/history` and `/search`.
    Messages(MessageList),
    /// The mail of a login: what was sent, and the last message that had arrived before.
    Mail { reader: UserId, sent: u64, last: u64 },
}

/// A member of a room at the time of a `/who -l`.
#[derive(Debug)]
pub(crate) struct Attendee {
    pub(crate) name: Name,
    pub(crate) is_operator: bool,
    pub(crate) is_away: bool,
    pub(crate) idle: Duration,
    pub(crate) since: Stamp,
}

/// The messages of a `/history` or `/search`.
#[derive(Debug)]
pub(crate) struct MessageList {
    /// The room or user of a `/history`, such as `ops` or `bob`; `None` for a `/search`.
    pub(crate) title: Option<String>,
    /// The room, if the request is limited to a room.
    pub(crate) room: Option<RoomName>,
    pub(crate) reader: UserId,
    /// The id and time of each row; `None` until the log was read.
    pub(crate) rows: Option<Listing<(u64, Stamp)>>,
}

/// The items of a list at one moment.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    pub(crate) items: Vec<T>,
    /// Accounts for the memory, which a slow reader may hold for long.
    _share: Share,
}

impl<T> Listing<T> {
    /// Creates a list; `text_size` is the size of all texts in it, in bytes.
    pub(crate) fn new(items: Vec<T>, text_size: usize, meter: &Meter) -> Self {
        let share = meter.share(items.len() * size_of::<T>() + text_size);
        Self { items, _share: share }
    }
}

/// A login that waits for its mail to be read from the log.
#[derive(Debug)]
pub(crate) struct MailRequest {
    pub(crate) cid: Option<Cid>,
    pub(crate) proof: Proof,
}

/// A command that waits for its password to be checked or hashed.
#[derive(Debug)]
pub(crate) struct PasswordRequest {
    pub(crate) cid: Option<Cid>,
    pub(crate) purpose: Purpose,
}

/// What a password is checked or hashed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    LogIn(Proof),
    /// Post without logging in.
    Post(Proof),
    /// Log in as a guest on a server that requires a password.
    LogInGuest(Name),
    Register,
    Change,
    Unregister,
    /// Become a server operator.
    ServerOperator,
    /// Join a room with a key; the digest is that of the key when the check began.
    Enter(RoomName, Arc<str>),
}

/// Where a client resumes reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    /// Id of the last message the client has received.
    pub(crate) after: u64,
    /// Time of that message. It differs when a restored backup has reassigned the id.
    pub(crate) time: Option<Stamp>,
}

/// A `/resume` that waits for its message to be read from the log.
#[derive(Debug)]
pub(crate) struct ResumeCheck {
    pub(crate) cid: Option<Cid>,
    pub(crate) token: TokenHash,
    pub(crate) cursor: Cursor,
}
