//! Requests whose answer depends on work outside the hub, such as reading the log. While one is
//! pending, its connection handles no further line.

use std::sync::Arc;

use super::accounts::Proof;
use crate::protocol::{Cid, Key, Name, RoomName, Stamp};
use crate::server::auth::tokens::TokenHash;
use crate::server::net::outbox::Share;
use crate::server::record::{SentMail, UserId};

/// A request whose answer depends on work outside the hub.
#[derive(Debug)]
pub(crate) enum PendingRequest {
    /// A `/history` or `/search` that reads rows of the log.
    Rows(HistoryRequest),
    /// A login that reads the account's mail.
    Mail(MailRequest),
    /// A password that is being hashed or checked.
    Password(PasswordRequest),
    /// A `/resume` that reads the message after which it continues.
    Resume(ResumeCheck),
    /// A list of all rooms that is sent page by page.
    Rooms(RoomListRequest),
    /// A long list that waits for memory.
    List(ListRequest),
}

/// A `/history` or `/search` whose rows are being read.
#[derive(Debug)]
pub(crate) struct HistoryRequest {
    /// The reply word of the header: `HISTORY` or `SEARCH`.
    pub(crate) word: &'static str,
    /// The room or user that the header names, such as `#ops` or `bob`.
    pub(crate) title: Option<String>,
    /// The room, if the request is limited to a room.
    pub(crate) room: Option<RoomName>,
    pub(crate) reader: UserId,
    pub(crate) cid: Option<Cid>,
}

/// A login that waits for its mail to be read from the log.
#[derive(Debug)]
pub(crate) struct MailRequest {
    pub(crate) cid: Option<Cid>,
    pub(crate) proof: Proof,
    /// The mail when it was requested.
    pub(crate) mail: SentMail,
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

/// A `/list` in progress.
#[derive(Debug)]
pub(crate) struct RoomListRequest {
    pub(crate) cid: Option<Cid>,
    /// A snapshot from when the command arrived.
    pub(crate) rooms: Arc<RoomList>,
    pub(crate) sent: usize,
}

/// The names of all rooms at one moment, sorted.
#[derive(Debug)]
pub(crate) struct RoomList {
    pub(crate) names: Vec<RoomName>,
    /// Accounts for the memory of the snapshot, which a slow reader may hold long after it
    /// is outdated.
    pub(crate) _share: Share,
}

/// A list that is sent once memory for it is available.
#[derive(Debug)]
pub(crate) struct ListRequest {
    pub(crate) cid: Option<Cid>,
    pub(crate) list: List,
}

/// The subject of a list. Rooms are named by key, since they may end meanwhile.
#[derive(Debug)]
pub(crate) enum List {
    Rooms,
    Members(Key),
    Bans(Key),
    ServerBans,
}
