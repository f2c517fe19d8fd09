//! A dialect with another syntax than the plain lines, to test that the server needs nothing but
//! an encoder and a parser for one. It resembles IRC.

use std::cell::Cell;
use std::io::Write as _;

use super::ClientLine;
use crate::protocol::{ErrorReason, Event, Message, Place, Refusal, Tags};

thread_local! {
    /// The number of events encoded by this thread.
    static ENCODED: Cell<usize> = const { Cell::new(0) };
}

/// Returns the number of events encoded by this thread.
pub(crate) fn encoded() -> usize {
    ENCODED.get()
}

/// Appends `:alice!7 PRIVMSG #ops :hello` or the like, where 7 is the user's id.
pub(super) fn encode(tags: &Tags<'_>, event: &Event<'_>, out: &mut Vec<u8>) {
    ENCODED.set(ENCODED.get() + 1);
    let (name, what) = match *event {
        Event::Message(Message { place, from, text, .. }) => {
            let to = match place {
                Place::Room(room) => format!("#{room}"),
                Place::ToMe => "you".to_owned(),
                Place::ToPerson(name) => name.to_owned(),
            };
            (from, format!("PRIVMSG {to} :{text}"))
        }
        Event::Joined { room, name } => (name, format!("JOIN #{room}")),
        Event::Renamed { old, new } => (old, format!("NICK {new}")),
        Event::Error { code, reason, text } => {
            let reason = reason.map_or_else(|| code.to_owned(), |reason| format!("{reason:?}"));
            ("server", format!("ERROR {reason} :{text}"))
        }
        _ => {
            let mut plain = Vec::new();
            event.encode(&mut plain);
            ("server", format!("NOTICE :{}", String::from_utf8_lossy(&plain).trim_end()))
        }
    };
    let actor = tags.actor.map(|actor| format!("!{}", actor.0)).unwrap_or_default();
    // Writing into a Vec cannot fail.
    let _ = writeln!(out, ":{name}{actor} {what}");
}

/// Parses `PRIVMSG #ops :hello`, `NICK bob`, and plain commands in the form `JOIN #ops`.
pub(super) fn parse(line: &str, is_greeting: bool) -> ClientLine<'_> {
    let (word, args) = line.split_once(' ').unwrap_or((line, ""));
    let text = match (word, args.split_once(" :")) {
        ("PRIVMSG", Some((to, text))) => Ok(format!("/msg {to} {text}").into()),
        ("NICK", _) if is_greeting => Ok(format!("/login {args}").into()),
        _ if word.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            Ok(format!("/{} {args}", word.to_ascii_lowercase()).into())
        }
        _ => Err(Refusal::new(ErrorReason::UnknownCommand, format!("{word}: no such command"))),
    };
    ClientLine { cid: None, text }
}
