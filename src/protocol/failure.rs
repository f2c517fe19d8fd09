//! What can go wrong, in two fates: a [`Refusal`] answers one line and the
//! talk goes on; a [`Farewell`] ends the connection. Both carry a code that
//! never changes its meaning, for programs, and a sentence for people.

use std::borrow::Cow;
use std::fmt;

/// The code in `[ERROR code] text`. One list for both ends; the README shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the table below says what each means
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
    /// Every code, its word on the wire and what it means.
    pub const TABLE: [(Self, &'static str, &'static str); 19] = [
        (Self::NotLoggedIn, "not-logged-in", "say who you are first"),
        (Self::BadName, "bad-name", "not a name, too long, or reserved"),
        (Self::NameTaken, "name-taken", "somebody here has that name"),
        (Self::NoSuchUser, "no-such-user", "nobody of that name is here"),
        (Self::NoSuchRoom, "no-such-room", "there is no such room"),
        (Self::NotInRoom, "not-in-room", "join that room first"),
        (Self::UnknownCommand, "unknown-command", "no such command; a near one is named"),
        (Self::MissingArgument, "missing-argument", "the command needs more; its usage is shown"),
        (Self::BadArgument, "bad-argument", "an argument makes no sense; its usage is shown"),
        (Self::TooLong, "too-long", "the line has more than 4096 bytes and was thrown away"),
        (Self::BadEncoding, "bad-encoding", "the line is not UTF-8 and was thrown away"),
        (Self::NoTarget, "no-target", "this line has nowhere to go; nobody saw it"),
        (Self::TooMany, "too-many", "a limit of the server is reached"),
        (Self::RateLimited, "rate-limited", "too much of this at once; try again soon"),
        (Self::Muted, "muted", "you may not speak in that room now; nobody saw this"),
        (Self::Forbidden, "forbidden", "that is for operators to do, or not for you"),
        (Self::BadPassword, "bad-password", "that is not the password"),
        (
            Self::StorageFull,
            "storage-full",
            "the server cannot store this now, or read what it stored; nothing was done and nobody \
             saw it",
        ),
        (Self::Insecure, "insecure", "passwords only where nobody can read along"),
    ];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// Reads the word on the wire.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

/// One line was refused: `[ERROR code] text`. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong and what to do next.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with its sentence.
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.text)
    }
}

impl std::error::Error for Refusal {}

/// Why the server ends a connection: `[BYE code] text`, then an orderly close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the table below says what each means
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
    /// Every farewell, its word on the wire and the sentence said with it.
    pub const TABLE: [(Self, &'static str, &'static str); 10] = [
        (Self::Quit, "quit", "goodbye"),
        (
            Self::LoginTimeout,
            "login-timeout",
            "no name came in time; connect again when you have one",
        ),
        (Self::TooLong, "too-long", "that is no name; a line before login has at most 512 bytes"),
        (Self::SlowReader, "slow-reader", "too much was waiting for you unread; connect again"),
        (Self::BadProtocol, "bad-protocol", "this is a chat server; use chatty join or netcat"),
        (Self::Replaced, "replaced", "you are connected from elsewhere now"),
        (Self::Kicked, "kicked", "an operator of this server ended your connection"),
        (Self::Banned, "banned", "you are banned from this server"),
        (
            Self::TooMany,
            "too-many",
            "others wait to come in, and you gave no name; connect again when you have one",
        ),
        (Self::ShuttingDown, "shutting-down", "the server is stopping; come back later"),
    ];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// The sentence said with it.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        Self::TABLE[self as usize].2
    }

    /// Reads the word on the wire.
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
    fn each_code_stands_at_its_own_place_in_the_table() {
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
