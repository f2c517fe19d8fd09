//! Errors of the protocol: a [`Refusal`] answers a line and leaves the connection
//! open; a [`Farewell`] closes the connection. Both carry a stable code for programs and
//! a text for people. This module does not know when either is sent.

use std::borrow::Cow;
use std::fmt;

/// The code in `[ERROR code] text`. README.md and docs/protocol.md list the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // documented by the table below
pub enum ErrorCode {
    NotLoggedIn,
    BadName,
    NameTaken,
    NoSuchUser,
    NoSuchRoom,
    NotInRoom,
    UnknownCommand,
    MissingArgument,
    BadArgument,
    TooLong,
    BadEncoding,
    NoTarget,
    TooMany,
    RateLimited,
    Muted,
    Forbidden,
    BadPassword,
    StorageFull,
    Insecure,
}

impl ErrorCode {
    /// Every code, its wire word and its meaning.
    pub const TABLE: [(Self, &'static str, &'static str); 19] = [
        (Self::NotLoggedIn, "not-logged-in", "log in with /login NAME first"),
        (Self::BadName, "bad-name", "not a valid name, too long, or reserved"),
        (
            Self::NameTaken,
            "name-taken",
            "the name is in use, registered, or easily confused with such a name",
        ),
        (Self::NoSuchUser, "no-such-user", "no such user is online, in that room, or on that list"),
        (Self::NoSuchRoom, "no-such-room", "the room does not exist"),
        (Self::NotInRoom, "not-in-room", "join the room first"),
        (
            Self::UnknownCommand,
            "unknown-command",
            "the command does not exist; the text suggests a similar one",
        ),
        (
            Self::MissingArgument,
            "missing-argument",
            "the command needs another argument; the text shows the usage",
        ),
        (Self::BadArgument, "bad-argument", "an argument is not valid here; the text says why"),
        (Self::TooLong, "too-long", "the line is longer than 4096 bytes and was dropped; split it"),
        (
            Self::BadEncoding,
            "bad-encoding",
            "the line is not valid UTF-8 and was dropped; send UTF-8",
        ),
        (
            Self::NoTarget,
            "no-target",
            "the line has no recipient and was not sent; use /join or /query",
        ),
        (Self::TooMany, "too-many", "a limit of the server is reached"),
        (Self::RateLimited, "rate-limited", "too many attempts; try again later"),
        (Self::Muted, "muted", "you are muted in that room; the line was not sent"),
        (
            Self::Forbidden,
            "forbidden",
            "only operators may do this, or you are not allowed into that room",
        ),
        (Self::BadPassword, "bad-password", "wrong or missing password, or unknown session token"),
        (
            Self::StorageFull,
            "storage-full",
            "the server cannot reach its storage (full or damaged); nothing was done, try again \
             later",
        ),
        (
            Self::Insecure,
            "insecure",
            "passwords are not accepted over unencrypted connections; use TLS",
        ),
    ];

    /// Returns the wire word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// Parses a wire word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

/// The reason why a line is refused. It determines the code; several reasons have the same one,
/// for the server and for dialects that distinguish them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // documented by the table of codes
pub enum ErrorReason {
    NotLoggedIn,
    BadName,
    NameTaken,
    NoSuchUser,
    NoSuchRoom,
    /// The user is not a member of the room that the line names.
    NotMember,
    /// The line needs a room and names none, and the user has no current room.
    NoCurrentRoom,
    UnknownCommand,
    MissingArgument,
    BadArgument,
    TooLong,
    BadEncoding,
    NoTarget,
    TooMany,
    RateLimited,
    Muted,
    /// The user is not an operator of the room.
    NotRoomOperator,
    /// The user is not a server operator.
    NotServerOperator,
    /// The server has no operator password.
    NoServerOperators,
    /// The user is banned from the room.
    BannedFromRoom,
    /// The room is locked and has no key.
    RoomLocked,
    /// The room is locked, and no key was given.
    RoomNeedsKey,
    /// The room is locked, and another key was given.
    WrongRoomKey,
    /// The program may not post without a login.
    PostingNotAllowed,
    BadPassword,
    /// The log cannot be read.
    CannotRead,
    /// The log cannot be written.
    CannotStore,
    Insecure,
}

impl ErrorReason {
    /// Returns the code on the wire.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::NotLoggedIn => ErrorCode::NotLoggedIn,
            Self::BadName => ErrorCode::BadName,
            Self::NameTaken => ErrorCode::NameTaken,
            Self::NoSuchUser => ErrorCode::NoSuchUser,
            Self::NoSuchRoom => ErrorCode::NoSuchRoom,
            Self::NotMember | Self::NoCurrentRoom => ErrorCode::NotInRoom,
            Self::UnknownCommand => ErrorCode::UnknownCommand,
            Self::MissingArgument => ErrorCode::MissingArgument,
            Self::BadArgument => ErrorCode::BadArgument,
            Self::TooLong => ErrorCode::TooLong,
            Self::BadEncoding => ErrorCode::BadEncoding,
            Self::NoTarget => ErrorCode::NoTarget,
            Self::TooMany => ErrorCode::TooMany,
            Self::RateLimited => ErrorCode::RateLimited,
            Self::Muted => ErrorCode::Muted,
            Self::NotRoomOperator
            | Self::NotServerOperator
            | Self::NoServerOperators
            | Self::BannedFromRoom
            | Self::RoomLocked
            | Self::RoomNeedsKey
            | Self::WrongRoomKey
            | Self::PostingNotAllowed => ErrorCode::Forbidden,
            Self::BadPassword => ErrorCode::BadPassword,
            Self::CannotRead | Self::CannotStore => ErrorCode::StorageFull,
            Self::Insecure => ErrorCode::Insecure,
        }
    }
}

/// The refusal of a line, `[ERROR code] text`. A refused line has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, which determines the code.
    pub reason: ErrorReason,
    /// The text for people: what happened, then what to do.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// Creates a refusal.
    pub fn new(reason: ErrorReason, text: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, text: text.into() }
    }

    /// Returns the code, for programs.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.reason.code()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code().as_str(), self.text)
    }
}

impl std::error::Error for Refusal {}

/// The reason why the server closes a connection: `[BYE code] text`, then a graceful
/// close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // documented by the table below
pub enum Farewell {
    Quit,
    LoginTimeout,
    TooLong,
    SlowReader,
    BadProtocol,
    Replaced,
    Kicked,
    Banned,
    TooMany,
    ShuttingDown,
}

impl Farewell {
    /// Every farewell, its wire word and its default text.
    pub const TABLE: [(Self, &'static str, &'static str); 10] = [
        (Self::Quit, "quit", "goodbye"),
        (
            Self::LoginTimeout,
            "login-timeout",
            "disconnected: no name was given in time; connect again to log in",
        ),
        (
            Self::TooLong,
            "too-long",
            "disconnected: a line before login has at most 512 bytes; send a name first",
        ),
        (
            Self::SlowReader,
            "slow-reader",
            "disconnected: you were reading too slowly; connect again",
        ),
        (Self::BadProtocol, "bad-protocol", "this is a chat server; use chatty join or netcat"),
        (Self::Replaced, "replaced", "disconnected: you connected from somewhere else"),
        (Self::Kicked, "kicked", "you were disconnected by a server operator"),
        (Self::Banned, "banned", "you are banned from this server"),
        (
            Self::TooMany,
            "too-many",
            "disconnected: the server is full and you had not given a name; connect again later",
        ),
        (Self::ShuttingDown, "shutting-down", "the server is shutting down; connect again later"),
    ];

    /// Returns the wire word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// Returns the default text.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        Self::TABLE[self as usize].2
    }

    /// Parses a wire word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{LINE_MAX, LOGIN_LINE_MAX};

    #[test]
    fn codes_are_in_table_order_and_parse_back() {
        for (at, row) in ErrorCode::TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, at, "{}", row.1);
            assert_eq!(ErrorCode::parse(row.0.as_str()), Some(row.0));
        }
        assert!(ErrorCode::TABLE[ErrorCode::TooLong as usize].2.contains(&LINE_MAX.to_string()));
        assert!(Farewell::TooLong.sentence().contains(&LOGIN_LINE_MAX.to_string()));
        for (at, row) in Farewell::TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, at, "{}", row.1);
            assert_eq!(Farewell::parse(row.0.as_str()), Some(row.0));
        }
    }
}
