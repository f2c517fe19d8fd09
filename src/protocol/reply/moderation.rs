//! Replies about moderation: bans, mutes, locks, invitations, server operators.

use std::fmt;

use super::fields::{
    PERMANENTLY, Term, Until, is_change, name, room, room_and, term, write_unchanged,
};
use crate::protocol::name::is_lobby;

/// A reply about moderation. Rooms are without `#`; a scope without a room is the server, `*` on
/// the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are parts of the line shown above them
pub enum Moderation<'a> {
    /// `[BANS #ops 2]` or `[BANS * 2]`, before the rows.
    Bans { room: Option<&'a str>, count: usize },
    /// `[BAN #ops bob] by alice until 2026-11-30T06:16:00.123Z: reason`
    Ban { room: Option<&'a str>, whom: &'a str, by: &'a str, term: Term<'a> },
    /// `[BAN #ops *] not shown: …`: the reader is no longer an operator.
    HiddenBan { room: Option<&'a str> },
    /// `[BANNED #ops bob] until 2026-11-30T06:16:00.123Z: reason`
    Banned { room: Option<&'a str>, whom: &'a str, term: Term<'a> },
    /// `[UNBANNED #ops bob]`
    Unbanned { room: Option<&'a str>, whom: &'a str },
    /// `[MUTED #ops bob] until 2026-11-30T06:16:00.123Z`
    Muted { room: &'a str, name: &'a str, until: Until },
    /// `[UNMUTED #ops bob]`
    Unmuted { room: &'a str, name: &'a str },
    /// `[KICKED #ops] alice: reason`, to the user who was removed.
    Kicked { room: &'a str, by: &'a str, reason: Option<&'a str> },
    /// `[LOCKED #ops] only invited people …`
    Locked { room: &'a str, has_key: bool },
    /// `[UNLOCKED #ops]`
    Unlocked { room: &'a str, was_locked: bool },
    /// `[INVITED #ops bob]`
    Invited { room: &'a str, name: &'a str },
    /// `[INVITATION #ops] alice`, to the invited user.
    Invitation { room: &'a str, by: &'a str },
    /// `[OPER alice] you are an operator of this server`
    Oper { name: &'a str },
    /// `[WALL] alice: text`
    Wall { from: &'a str, text: &'a str },
    /// `[KILLED bob]`
    Killed { name: &'a str },
}

const BY_KEY: &str = "only invited people or those with the key can join";
const BY_INVITATION: &str = "only invited people can join";
const NOT_SHOWN: &str = "not shown: you are no longer an operator";

/// The scope of a ban: `#ops`, or `*` for the server.
struct Scope<'a>(Option<&'a str>);

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(room) => write!(f, "#{room}"),
            None => f.write_str("*"),
        }
    }
}

/// Returns the command that lifts a ban from the server or from a room.
#[must_use]
pub fn unban_command(is_server: bool) -> &'static str {
    if is_server { "/gunban" } else { "/unban" }
}

impl fmt::Display for Moderation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bans { room, count } => write!(f, "[BANS {} {count}]", Scope(room)),
            Self::Ban { room, whom, by, term } => {
                let term = term.describe(PERMANENTLY);
                write!(f, "[BAN {} {whom}] by {by} {term}", Scope(room))
            }
            Self::HiddenBan { room } => write!(f, "[BAN {} *] {NOT_SHOWN}", Scope(room)),
            Self::Banned { room, whom, term } => {
                let term =
                    term.describe(&format!("until you {} them", unban_command(room.is_none())));
                write!(f, "[BANNED {} {whom}] {term}", Scope(room))
            }
            Self::Unbanned { room, whom } => write!(f, "[UNBANNED {} {whom}]", Scope(room)),
            Self::Muted { room, name, until } => {
                let until = until.describe("until you /unmute them");
                write!(f, "[MUTED #{room} {name}] {until}")
            }
            Self::Unmuted { room, name } => write!(f, "[UNMUTED #{room} {name}]"),
            Self::Kicked { room, by, reason: Some(reason) } => {
                write!(f, "[KICKED #{room}] {by}: {reason}")
            }
            Self::Kicked { room, by, reason: None } => write!(f, "[KICKED #{room}] {by}"),
            Self::Locked { room, has_key } => {
                let who_can_join = if has_key { BY_KEY } else { BY_INVITATION };
                // The messages outlive the room; the lock does not.
                let end = if is_lobby(room) {
                    ""
                } else {
                    "; the lock ends with the last member, then anyone can join and read /history"
                };
                write!(f, "[LOCKED #{room}] {who_can_join}{end}")
            }
            Self::Unlocked { room, was_locked } => {
                let text = if was_locked { "" } else { "the room was not locked" };
                write_unchanged(f, format_args!("UNLOCKED #{room}"), text)
            }
            Self::Invited { room, name } => write!(f, "[INVITED #{room} {name}]"),
            Self::Invitation { room, by } => write!(f, "[INVITATION #{room}] {by}"),
            Self::Oper { name } => write!(f, "[OPER {name}] you are an operator of this server"),
            Self::Wall { from, text } => write!(f, "[WALL] {from}: {text}"),
            Self::Killed { name } => write!(f, "[KILLED {name}]"),
        }
    }
}

impl<'a> Moderation<'a> {
    /// Parses the parts of `[WORD args] text`.
    pub(super) fn parse(word: &str, args: &'a str, text: &'a str) -> Option<Self> {
        Some(match word {
            "BANS" => {
                let (room, count) = scope_and(args)?;
                Self::Bans { room, count: count.parse().ok()? }
            }
            "BAN" => {
                let (room, whom) = scope_and(args)?;
                if whom == "*" && text == NOT_SHOWN {
                    return Some(Self::HiddenBan { room });
                }
                let (by, term) = text.strip_prefix("by ")?.split_once(' ')?;
                Self::Ban { room, whom, by, term: self::term(term)? }
            }
            "BANNED" => {
                let (room, whom) = scope_and(args)?;
                Self::Banned { room, whom, term: term(text)? }
            }
            "UNBANNED" => {
                let (room, whom) = scope_and(args)?;
                Self::Unbanned { room, whom }
            }
            "MUTED" => {
                let ((room, name), Term { until, .. }) = (room_and(args)?, term(text)?);
                Self::Muted { room, name, until }
            }
            "UNMUTED" => {
                let (room, name) = room_and(args)?;
                Self::Unmuted { room, name }
            }
            "KICKED" => {
                let (by, reason) = match text.split_once(": ") {
                    Some((by, reason)) => (by, Some(reason)),
                    None => (text, None),
                };
                Self::Kicked { room: room(args)?, by, reason }
            }
            "LOCKED" => Self::Locked { room: room(args)?, has_key: text.starts_with(BY_KEY) },
            "UNLOCKED" => Self::Unlocked { room: room(args)?, was_locked: is_change(text) },
            "INVITED" => {
                let (room, name) = room_and(args)?;
                Self::Invited { room, name }
            }
            "INVITATION" => Self::Invitation { room: room(args)?, by: text },
            "OPER" => Self::Oper { name: name(args)? },
            "WALL" if args.is_empty() => {
                let (from, text) = text.split_once(": ")?;
                Self::Wall { from: name(from)?, text }
            }
            "KILLED" => Self::Killed { name: name(args)? },
            _ => return None,
        })
    }
}

/// Parses a room or `*`, and the word after it.
fn scope_and(args: &str) -> Option<(Option<&str>, &str)> {
    match args.strip_prefix("* ") {
        Some(rest) => Some((None, rest)),
        None => room_and(args).map(|(room, rest)| (Some(room), rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, Stamp};

    #[test]
    fn replies_round_trip() {
        let until = Until::Time(Stamp(1_795_414_560_123));
        let (ops, timed) = (Some("ops"), Term { until, reason: Some("so: long") });
        let endless = Term { until: Until::Lifted, reason: None };
        let cases = [
            ("[BANS #ops 2]", Moderation::Bans { room: ops, count: 2 }),
            ("[BANS * 0]", Moderation::Bans { room: None, count: 0 }),
            (
                "[BAN #ops bob] by al until 2026-11-23T06:16:00.123Z: so: long",
                Moderation::Ban { room: ops, whom: "bob", by: "al", term: timed },
            ),
            (
                "[BAN * 192.0.2.0/24] by al permanently",
                Moderation::Ban { room: None, whom: "192.0.2.0/24", by: "al", term: endless },
            ),
            (
                "[BAN #ops *] not shown: you are no longer an operator",
                Moderation::HiddenBan { room: ops },
            ),
            (
                "[BANNED #ops bob] until 2026-11-23T06:16:00.123Z: so: long",
                Moderation::Banned { room: ops, whom: "bob", term: timed },
            ),
            (
                "[BANNED #ops bob] until you /unban them",
                Moderation::Banned { room: ops, whom: "bob", term: endless },
            ),
            (
                "[BANNED * bob] until you /gunban them: flood",
                Moderation::Banned {
                    room: None,
                    whom: "bob",
                    term: Term { reason: Some("flood"), ..endless },
                },
            ),
            ("[UNBANNED * bob]", Moderation::Unbanned { room: None, whom: "bob" }),
            (
                "[MUTED #ops bob] until 2026-11-23T06:16:00.123Z",
                Moderation::Muted { room: "ops", name: "bob", until },
            ),
            (
                "[MUTED #ops bob] until you /unmute them",
                Moderation::Muted { room: "ops", name: "bob", until: Until::Lifted },
            ),
            ("[UNMUTED #ops bob]", Moderation::Unmuted { room: "ops", name: "bob" }),
            (
                "[KICKED #ops] al: no: really",
                Moderation::Kicked { room: "ops", by: "al", reason: Some("no: really") },
            ),
            ("[KICKED #ops] al", Moderation::Kicked { room: "ops", by: "al", reason: None }),
            (
                "[LOCKED #ops] only invited people or those with the key can join; the lock ends \
                 with the last member, then anyone can join and read /history",
                Moderation::Locked { room: "ops", has_key: true },
            ),
            (
                "[LOCKED #lobby] only invited people can join",
                Moderation::Locked { room: "lobby", has_key: false },
            ),
            ("[UNLOCKED #ops]", Moderation::Unlocked { room: "ops", was_locked: true }),
            (
                "[UNLOCKED #ops] nothing changed: the room was not locked",
                Moderation::Unlocked { room: "ops", was_locked: false },
            ),
            ("[INVITED #ops bob]", Moderation::Invited { room: "ops", name: "bob" }),
            ("[INVITATION #ops] al", Moderation::Invitation { room: "ops", by: "al" }),
            ("[OPER al] you are an operator of this server", Moderation::Oper { name: "al" }),
            ("[WALL] al: stop: now", Moderation::Wall { from: "al", text: "stop: now" }),
            ("[KILLED bob]", Moderation::Killed { name: "bob" }),
        ];
        for (wire, reply) in cases {
            assert_eq!(reply.to_string(), wire);
            assert_eq!(Event::parse(wire), Some(reply.into()), "{wire}");
        }
    }

    #[test]
    fn reply_with_other_fields_is_not_parsed() {
        for (word, args, text) in [
            ("BANS", "#ops", ""),
            ("BAN", "#ops bob", "until tomorrow"),
            ("BANNED", "#ops bob", "until noon"),
            ("MUTED", "* bob", "permanently"),
            ("WALL", "all", "al: x"),
            ("WALL", "", "no author"),
            ("KILLED", "", ""),
        ] {
            assert_eq!(Moderation::parse(word, args, text), None, "{word} {args} {text}");
        }
    }
}
