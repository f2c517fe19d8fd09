//! The lines that a server sends: their encoder and their parser. An [`Event`] borrows its
//! fields: the server encodes from its state and the client parses from the line, both
//! without copying. This module knows neither tags nor when a line is sent.

use std::fmt;
use std::io::Write as _;

use super::name::{LABEL, is_lobby, is_name, is_name_byte};
use super::reply::{Moderation, Reply};
use super::{ErrorReason, LOBBY, Refusal, Stamp};

/// The room or conversation of a message, from the reader's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// A room, by its name without `#`. The line is the same for every reader.
    Room(&'a str),
    /// A private message to the reader.
    ToMe,
    /// A private message from the reader to this user.
    ToPerson(&'a str),
}

/// A chat message or action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The room or conversation.
    pub place: Place<'a>,
    /// The sender's name at the time of the message.
    pub from: &'a str,
    /// Whether the message is an action, from `/me`.
    pub is_action: bool,
    /// The text, without control characters.
    pub text: &'a str,
}

/// Presence events of a large room, coalesced into one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PresenceSummary {
    /// The number of users who joined.
    pub joined: usize,
    /// The number of users who left the room.
    pub left: usize,
    /// The number of users who left the server.
    pub quit: usize,
    /// The number of members now.
    pub here: usize,
}

/// A line from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are parts of the line shown above them
pub enum Event<'a> {
    /// A chat message, an action, or a private message.
    Message(Message<'a>),
    /// `* bob joined`
    Joined { room: &'a str, name: &'a str },
    /// `#ops * bob left (reason)`
    Left { room: &'a str, name: &'a str, reason: Option<&'a str> },
    /// `* bob quit (reason)`. Concerns the user and never carries a room.
    Quit { name: &'a str, reason: Option<&'a str> },
    /// `* bob is now rob`. Concerns the user and never carries a room.
    Renamed { old: &'a str, new: &'a str },
    /// `* bob set the topic: text`, or without a text `* bob cleared the topic`.
    Topic { room: &'a str, name: &'a str, text: Option<&'a str> },
    /// `#ops * alice made bob an operator`
    Promoted { room: &'a str, by: &'a str, name: &'a str },
    /// `#ops * bob is no longer an operator`
    Demoted { room: &'a str, name: &'a str },
    /// `#ops * bob was kicked by alice (reason)`
    Kicked { room: &'a str, name: &'a str, by: &'a str, reason: Option<&'a str> },
    /// `* 37 joined, 12 quit (1034 here)`
    Crowd { room: &'a str, crowd: PresenceSummary },
    /// Any other `* …` line, from a newer server. Clients show it as is.
    Notice { room: &'a str, text: &'a str },
    /// `[ERROR code] text`. The reason is not in the line: a client knows only the code.
    Error { code: &'a str, reason: Option<ErrorReason>, text: &'a str },
    /// `[BYE code] text`
    Bye { code: &'a str, text: &'a str },
    /// Any other `[WORD args] text`.
    Reply(Reply<'a>),
    /// A message in the answer of `/history` or `/search`, with its own time.
    Row { time: Stamp, message: Message<'a> },
    /// A line of `/help`; begins with `/`.
    Help(&'a str),
}

impl<'a> From<Reply<'a>> for Event<'a> {
    fn from(reply: Reply<'a>) -> Self {
        Self::Reply(reply)
    }
}

impl<'a> From<Moderation<'a>> for Event<'a> {
    fn from(reply: Moderation<'a>) -> Self {
        Self::Reply(Reply::Moderation(reply))
    }
}

const PRIVATE: &str = "PRIVATE MESSAGE";

impl<'a> Event<'a> {
    /// Creates the answer to a refused line.
    #[must_use]
    pub fn error(refusal: &'a Refusal) -> Self {
        let (code, reason) = (refusal.code().as_str(), Some(refusal.reason));
        Self::Error { code, reason, text: &refusal.text }
    }

    /// Appends the line with its `\n`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Writing into a Vec cannot fail.
        let _ = self.write(out);
        out.push(b'\n');
    }

    fn write(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        match *self {
            Self::Message(message) => {
                write_message(out, &message);
                Ok(())
            }
            Self::Joined { room, name } => write!(out, "{}* {name} joined", Prefix(room)),
            Self::Left { room, name, reason } => {
                write!(out, "{}* {name} left{}", Prefix(room), Reason(reason))
            }
            Self::Quit { name, reason } => write!(out, "* {name} quit{}", Reason(reason)),
            Self::Renamed { old, new } => write!(out, "* {old} is now {new}"),
            Self::Topic { room, name, text: Some(text) } => {
                write!(out, "{}* {name} set the topic: {text}", Prefix(room))
            }
            Self::Topic { room, name, text: None } => {
                write!(out, "{}* {name} cleared the topic", Prefix(room))
            }
            Self::Promoted { room, by, name } => {
                write!(out, "{}* {by} made {name} an operator", Prefix(room))
            }
            Self::Demoted { room, name } => {
                write!(out, "{}* {name} is no longer an operator", Prefix(room))
            }
            Self::Kicked { room, name, by, reason } => {
                write!(out, "{}* {name} was kicked by {by}{}", Prefix(room), Reason(reason))
            }
            Self::Crowd { room, crowd } => write!(out, "{}* {crowd}", Prefix(room)),
            Self::Notice { room, text } => write!(out, "{}* {text}", Prefix(room)),
            Self::Error { code, text, .. } => write_other(out, "ERROR", code, text),
            Self::Bye { code, text } => write_other(out, "BYE", code, text),
            Self::Reply(reply) => write!(out, "{reply}"),
            Self::Row { time, message } => {
                write!(out, "{time} ")?;
                write_message(out, &message);
                Ok(())
            }
            Self::Help(row) => out.write_all(row.as_bytes()),
        }
    }

    /// Parses a plain line, without tags and line end. Returns `None` for a line outside
    /// this grammar, which clients show as is.
    #[must_use]
    pub fn parse(line: &'a str) -> Option<Self> {
        match line.as_bytes().first()? {
            b'[' => parse_bracket(line),
            b'/' => Some(Self::Help(line)),
            b'#' => {
                let (room, rest) = line[1..].split_once(' ')?;
                // A server never sends `#lobby` as a prefix, but the meaning is clear.
                let room = if is_lobby(room) { LOBBY } else { room };
                if is_name(room) { parse_in_room(room, rest) } else { None }
            }
            byte if byte.is_ascii_digit() => {
                let (time, rest) = line.split_once(' ')?;
                match Self::parse(rest)? {
                    Self::Message(message) => {
                        Some(Self::Row { time: Stamp::parse(time)?, message })
                    }
                    _ => None,
                }
            }
            _ => parse_in_room(LOBBY, line),
        }
    }
}

/// Hot path: copies bytes only, without `fmt`.
fn write_message(out: &mut Vec<u8>, message: &Message<'_>) {
    let mut put = |part: &str| out.extend_from_slice(part.as_bytes());
    match message.place {
        Place::Room(room) if is_lobby(room) => {}
        Place::Room(room) => {
            put("#");
            put(room);
            put(" ");
        }
        Place::ToMe => put("[PRIVATE MESSAGE] "),
        Place::ToPerson(name) => {
            put("[PRIVATE MESSAGE to ");
            put(name);
            put("] ");
        }
    }
    if message.is_action {
        put("** ");
        put(message.from);
        put(" ");
    } else {
        put(message.from);
        put(": ");
    }
    put(message.text);
}

fn write_other(out: &mut Vec<u8>, word: &str, args: &str, text: &str) -> std::io::Result<()> {
    write!(out, "{}", Reply::Other { word, args, text })
}

/// The prefix of a room: `#ops `, or nothing for the lobby.
struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_lobby(self.0) { Ok(()) } else { write!(f, "#{} ", self.0) }
    }
}

/// The suffix of an event with a reason: ` (reason)`, or nothing.
struct Reason<'a>(Option<&'a str>);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

impl fmt::Display for PresenceSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (count, verb) in [(self.joined, "joined"), (self.left, "left"), (self.quit, "quit")] {
            if count > 0 {
                write!(f, "{between}{count} {verb}")?;
                between = ", ";
            }
        }
        write!(f, " ({} here)", self.here)
    }
}

fn parse_in_room<'a>(room: &'a str, line: &'a str) -> Option<Event<'a>> {
    if line.starts_with('*') {
        return match parse_message(line) {
            Some((from, true, text)) => Some(Event::Message(Message {
                place: Place::Room(room),
                from,
                is_action: true,
                text,
            })),
            _ => parse_presence(room, line.strip_prefix("* ")?),
        };
    }
    let (from, is_action, text) = parse_message(line)?;
    Some(Event::Message(Message { place: Place::Room(room), from, is_action, text }))
}

/// Parses `alice: text` or `** alice text` into sender, is-action and text.
fn parse_message(line: &str) -> Option<(&str, bool, &str)> {
    if let Some(rest) = line.strip_prefix("** ") {
        let (from, text) = rest.split_once(' ')?;
        return is_name(from).then_some((from, true, text));
    }
    let label = usize::from(line.starts_with(LABEL));
    let end = label + line[label..].bytes().position(|b| !is_name_byte(b))?;
    let (from, rest) = line.split_at(end);
    let text = rest.strip_prefix(": ")?;
    is_name(&from[label..]).then_some((from, false, text))
}

fn parse_presence<'a>(room: &'a str, text: &'a str) -> Option<Event<'a>> {
    if let Some(crowd) = parse_presence_summary(text) {
        return Some(Event::Crowd { room, crowd });
    }
    let known = || {
        let (name, what) = text.split_once(' ')?;
        if !is_name(name) {
            return None;
        }
        if let Some(event) = parse_moderation(room, name, what) {
            return Some(event);
        }
        if what == "joined" {
            return Some(Event::Joined { room, name });
        }
        if what == "cleared the topic" {
            return Some(Event::Topic { room, name, text: None });
        }
        if let Some(text) = what.strip_prefix("set the topic: ") {
            return Some(Event::Topic { room, name, text: Some(text) });
        }
        if let Some(new) = what.strip_prefix("is now ").filter(|new| is_name(new)) {
            return Some(Event::Renamed { old: name, new });
        }
        if let Some(reason) = what.strip_prefix("left").and_then(parse_reason) {
            return Some(Event::Left { room, name, reason });
        }
        let reason = what.strip_prefix("quit").and_then(parse_reason)?;
        Some(Event::Quit { name, reason })
    };
    known().or(Some(Event::Notice { room, text }))
}

/// Parses the events of operators: made an operator, no longer one, kicked.
fn parse_moderation<'a>(room: &'a str, name: &'a str, what: &'a str) -> Option<Event<'a>> {
    if what == "is no longer an operator" {
        return Some(Event::Demoted { room, name });
    }
    if let Some(made) = what.strip_prefix("made ").and_then(|w| w.strip_suffix(" an operator")) {
        return is_name(made).then_some(Event::Promoted { room, by: name, name: made });
    }
    let rest = what.strip_prefix("was kicked by ")?;
    let (by, reason) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
    let reason = parse_reason(reason)?;
    is_name(by).then_some(Event::Kicked { room, name, by, reason })
}

/// Parses an empty text or ` (reason)`.
#[allow(clippy::option_option)] // outer: whether it parses; inner: the reason
fn parse_reason(text: &str) -> Option<Option<&str>> {
    if text.is_empty() {
        return Some(None);
    }
    Some(Some(text.strip_prefix(" (")?.strip_suffix(')')?))
}

fn parse_presence_summary(text: &str) -> Option<PresenceSummary> {
    let (counts, here) = text.strip_suffix(" here)")?.split_once(" (")?;
    let mut crowd = PresenceSummary { here: here.parse().ok()?, ..PresenceSummary::default() };
    for count in counts.split(", ") {
        let (count, verb) = count.split_once(' ')?;
        let count = count.parse().ok()?;
        match verb {
            "joined" => crowd.joined = count,
            "left" => crowd.left = count,
            "quit" => crowd.quit = count,
            _ => return None,
        }
    }
    // Rejects forms that are never written: a count of 0, `+2`, another order.
    (crowd.to_string() == text).then_some(crowd)
}

fn parse_bracket(line: &str) -> Option<Event<'_>> {
    let (head, rest) = line[1..].split_once(']')?;
    let text = if rest.is_empty() { "" } else { rest.strip_prefix(' ')? };
    if let Some(to) = head.strip_prefix(PRIVATE) {
        let place = match to.strip_prefix(" to ") {
            Some(to) if is_name(to) => Place::ToPerson(to),
            None if to.is_empty() => Place::ToMe,
            _ => return None,
        };
        let (from, is_action, text) = parse_message(text)?;
        return Some(Event::Message(Message { place, from, is_action, text }));
    }
    let (word, args) = head.split_once(' ').unwrap_or((head, ""));
    if word.is_empty() || !word.bytes().all(|b| b.is_ascii_uppercase()) {
        return None;
    }
    match word {
        "ERROR" => Some(Event::Error { code: args, reason: None, text }),
        "BYE" => Some(Event::Bye { code: args, text }),
        _ => Some(Event::Reply(Reply::parse(word, args, text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line of the table is encoded and parsed.
    #[test]
    fn every_line_form_round_trips() {
        let say = |place, from, text| Message { place, from, is_action: false, text };
        let act = |place, from, text| Message { place, from, is_action: true, text };
        let lobby = Place::Room("lobby");
        let ops = Place::Room("ops");
        let time = Stamp(1_795_414_560_123);
        let crowd = PresenceSummary { joined: 37, left: 0, quit: 12, here: 1034 };
        let cases = [
            ("alice: hello", Event::Message(say(lobby, "alice", "hello"))),
            ("alice:   two: colons ", Event::Message(say(lobby, "alice", "  two: colons "))),
            ("a.b-c_9: [BYE quit] x", Event::Message(say(lobby, "a.b-c_9", "[BYE quit] x"))),
            ("** alice waves", Event::Message(act(lobby, "alice", "waves"))),
            ("#ops alice: hello", Event::Message(say(ops, "alice", "hello"))),
            ("+alerts: disk full", Event::Message(say(lobby, "+alerts", "disk full"))),
            ("#ops +alerts: disk full", Event::Message(say(ops, "+alerts", "disk full"))),
            ("#ops ** alice waves", Event::Message(act(ops, "alice", "waves"))),
            ("[PRIVATE MESSAGE] bob: psst", Event::Message(say(Place::ToMe, "bob", "psst"))),
            (
                "[PRIVATE MESSAGE to bob] alice: psst",
                Event::Message(say(Place::ToPerson("bob"), "alice", "psst")),
            ),
            ("[PRIVATE MESSAGE] ** bob nods", Event::Message(act(Place::ToMe, "bob", "nods"))),
            ("* bob joined", Event::Joined { room: LOBBY, name: "bob" }),
            ("#ops * bob joined", Event::Joined { room: "ops", name: "bob" }),
            ("#ops * bob left", Event::Left { room: "ops", name: "bob", reason: None }),
            (
                "#ops * bob left (so (long))",
                Event::Left { room: "ops", name: "bob", reason: Some("so (long)") },
            ),
            ("* bob quit", Event::Quit { name: "bob", reason: None }),
            ("* bob quit (bye)", Event::Quit { name: "bob", reason: Some("bye") }),
            ("* bob is now rob", Event::Renamed { old: "bob", new: "rob" }),
            (
                "#ops * bob set the topic: a: b",
                Event::Topic { room: "ops", name: "bob", text: Some("a: b") },
            ),
            ("* bob cleared the topic", Event::Topic { room: LOBBY, name: "bob", text: None }),
            (
                "#ops * alice made bob an operator",
                Event::Promoted { room: "ops", by: "alice", name: "bob" },
            ),
            ("* bob is no longer an operator", Event::Demoted { room: LOBBY, name: "bob" }),
            (
                "#ops * bob was kicked by alice",
                Event::Kicked { room: "ops", name: "bob", by: "alice", reason: None },
            ),
            (
                "* bob was kicked by alice (no (really))",
                Event::Kicked {
                    room: LOBBY,
                    name: "bob",
                    by: "alice",
                    reason: Some("no (really)"),
                },
            ),
            ("* 37 joined, 12 quit (1034 here)", Event::Crowd { room: LOBBY, crowd }),
            ("* bob did a new thing", Event::Notice { room: LOBBY, text: "bob did a new thing" }),
            (
                "[ERROR no-such-user] zed is not here",
                Event::Error { code: "no-such-user", reason: None, text: "zed is not here" },
            ),
            ("[BYE quit] goodbye", Event::Bye { code: "quit", text: "goodbye" }),
            ("[PONG t1]", Reply::Pong { token: "t1" }.into()),
            (
                "2026-11-23T06:16:00.123Z alice: hello",
                Event::Row { time, message: say(lobby, "alice", "hello") },
            ),
            (
                "2026-11-23T06:16:00.123Z #ops ** alice waves",
                Event::Row { time, message: act(ops, "alice", "waves") },
            ),
            ("/msg NAME TEXT  send", Event::Help("/msg NAME TEXT  send")),
        ];
        for (wire, event) in cases {
            let mut out = Vec::new();
            event.encode(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{wire}\n"));
            assert_eq!(Event::parse(wire), Some(event), "{wire}");
        }
    }

    #[test]
    fn presence_summary_parses_in_canonical_form_only() {
        for line in ["* 0 quit (2 here)", "* +2 quit (3 here)", "* 1 quit, 2 joined (3 here)"] {
            assert!(matches!(Event::parse(line), Some(Event::Notice { .. })), "{line}");
        }
    }

    #[test]
    fn line_of_unknown_form_is_not_parsed() {
        for line in [
            "",
            "hello",
            "a b: c",
            "[lower] x",
            "[PONG",
            "[PONG]x",
            "#ops",
            "9 lives",
            "!",
            "+: x",
            "+9: x",
            "++a: x",
            "a+b: x",
            "#ops + a: x",
        ] {
            assert_eq!(Event::parse(line), None, "{line}");
        }
    }
}
