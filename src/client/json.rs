//! `--json`: writes each line of the server, and each change of the connection's state, as
//! one JSON object per line. The fields are described in docs/json.md; empty fields are
//! omitted, and no field ever changes its meaning. It does not know where the objects are
//! written.

use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::sanitize::is_unseen;
use crate::protocol::{Event, Key, Message, Place, Stamp, Tags};

/// The version of the object format; an incompatible format would get a new number.
const VERSION: u8 = 1;

/// The state of the connection or of a line: the `code` of a `status` object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    /// The name is in use or the server is full; the client waits.
    Waiting,
    /// Logged in; lines are accepted.
    Online,
    /// The connection is lost; the client reconnects.
    Offline,
    /// The connection is restored.
    Back,
    /// Message ids went back: an id may mean another message than before.
    IdsWentBack,
    /// More lines were missed than are shown.
    Gap,
    /// A line was sent, but its delivery is unconfirmed.
    InDoubt,
    /// A line was not sent.
    NotSent,
    /// The server's farewell.
    Bye,
    /// The run ended early, or could not start.
    Failed,
}

/// One JSON object.
#[derive(Debug, Default, Serialize)]
struct Object<'a> {
    v: u8,
    t: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    word: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "self")]
    is_mine: Option<bool>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    history: bool,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Code<'a> {
    Word(&'a str),
    Status(Status),
}

#[cfg(test)]
impl Status {
    const ALL: [Self; 10] = [
        Self::Waiting,
        Self::Online,
        Self::Offline,
        Self::Back,
        Self::IdsWentBack,
        Self::Gap,
        Self::InDoubt,
        Self::NotSent,
        Self::Bye,
        Self::Failed,
    ];
}

impl<'a> Object<'a> {
    fn new(kind: &'static str, time: Option<Stamp>) -> Self {
        let time = time.unwrap_or_else(|| Stamp(Timestamp::now().as_millisecond()));
        Self { v: VERSION, t: time.to_string(), r#type: kind, ..Self::default() }
    }

    fn message(message: &Message<'a>, time: Option<Stamp>, me: &'a str) -> Self {
        let kind = match message.place {
            _ if message.is_action => "action",
            Place::Room(_) => "msg",
            Place::ToMe | Place::ToPerson(_) => "pm",
        };
        let (room, to) = match message.place {
            Place::Room(room) => (Some(room), None),
            Place::ToMe => (None, Some(me)),
            Place::ToPerson(name) => (None, Some(name)),
        };
        let text = Some(message.text);
        Self { room, to, text, ..Self::new(kind, time) }.from(message.from, me)
    }

    /// Sets the user that the object is about, and whether that is us.
    fn from(self, name: &'a str, me: &str) -> Self {
        let is_mine = Some(Key::fold(name) == Key::fold(me));
        Self { from: Some(name), is_mine, ..self }
    }
}

/// Writes a line of the server. `number` is the number of the line that it answers.
pub(super) fn line(
    out: impl Write,
    tags: &Tags<'_>,
    plain: &str,
    number: Option<u64>,
    me: &str,
) -> io::Result<()> {
    let object = object(tags, plain, me);
    write(out, &Object { id: tags.id, line: number, ..object })
}

fn object<'a>(tags: &Tags<'a>, plain: &'a str, me: &'a str) -> Object<'a> {
    let new = |kind| Object::new(kind, tags.time);
    let Some(event) = Event::parse(plain) else {
        return Object { text: Some(plain), ..new("system") };
    };
    match event {
        Event::Message(message) => Object::message(&message, tags.time, me),
        Event::Row { time, message } => {
            Object { history: true, ..Object::message(&message, Some(time), me) }
        }
        Event::Joined { room, name } => Object { room: Some(room), ..new("join") }.from(name, me),
        Event::Left { room, name, reason } => {
            Object { room: Some(room), text: reason, ..new("part") }.from(name, me)
        }
        Event::Kicked { room, name, by, reason } => {
            Object { room: Some(room), by: Some(by), text: reason, ..new("part") }.from(name, me)
        }
        // A quit belongs to no room.
        Event::Quit { name, reason } => Object { text: reason, ..new("part") }.from(name, me),
        Event::Renamed { old, new: name } => Object { to: Some(name), ..new("nick") }.from(old, me),
        Event::Error { code, text, .. } => {
            Object { code: Some(Code::Word(code)), text: Some(text), ..new("error") }
        }
        Event::Bye { code, text } => Object {
            code: Some(Code::Status(Status::Bye)),
            args: Some(code),
            text: Some(text),
            ..new("status")
        },
        Event::Reply { word, args, text } => {
            Object { word: Some(word), args: Some(args), text: Some(text), ..new("system") }
        }
        Event::Users { room, names, .. } => Object {
            word: Some("USERS"),
            args: plain.strip_prefix("[USERS ").and_then(|rest| rest.split_once(']')).map(|p| p.0),
            room: Some(room),
            text: names,
            ..new("system")
        },
        Event::Topic { room, .. }
        | Event::Promoted { room, .. }
        | Event::Demoted { room, .. }
        | Event::Crowd { room, .. }
        | Event::Notice { room, .. } => {
            let text = plain.split_once("* ").map_or(plain, |(_, text)| text);
            Object { room: Some(room), text: Some(text), ..new("system") }
        }
        Event::Help(row) => Object { text: Some(row), ..new("system") },
    }
}

/// Writes a status of the connection or of a line.
pub(super) fn status(
    out: impl Write,
    status: Status,
    number: Option<u64>,
    text: &str,
) -> io::Result<()> {
    let code = Some(Code::Status(status));
    write(out, &Object { code, line: number, text: Some(text), ..Object::new("status", None) })
}

/// Writes why an input line was not sent.
pub(super) fn error(out: impl Write, number: u64, code: &str, text: &str) -> io::Result<()> {
    let (code, line) = (Some(Code::Word(code)), Some(number));
    write(out, &Object { code, line, text: Some(text), ..Object::new("error", None) })
}

fn write(mut out: impl Write, object: &Object<'_>) -> io::Result<()> {
    object.serialize(&mut Serializer::with_formatter(&mut out, EscapeInvisible))?;
    out.write_all(b"\n")
}

/// Also escapes control and invisible characters that JSON does not require to be escaped,
/// so that the output is lossless and safe to view on a terminal.
struct EscapeInvisible;

impl Formatter for EscapeInvisible {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(is_unseen) {
            let (before, after) = rest.split_at(at);
            out.write_all(before.as_bytes())?;
            let unseen = after.chars().next().unwrap_or_default();
            for unit in unseen.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &after[unseen.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::outgoing::CidGenerator;

    fn shown(line: &str) -> String {
        let (tags, plain) = Tags::split(line);
        let number = tags.cid.and_then(|cid| CidGenerator::new(1).number(cid));
        let mut out = Vec::new();
        super::line(&mut out, &tags, plain, number, "alice").unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn objects_match_the_documentation() {
        let page = include_str!("../../docs/json.md");
        let (_, examples) = page.split_once("```text objects\n").unwrap();
        let (examples, _) = examples.split_once("```").unwrap();
        let lines: Vec<&str> = examples.lines().collect();
        for pair in lines.chunks(2) {
            assert_eq!(shown(pair[0]), format!("{}\n", pair[1]), "{}", pair[0]);
        }
        let kinds = ["msg", "pm", "action", "join", "part", "nick", "system", "error", "status"];
        for kind in kinds {
            assert!(examples.contains(&format!("\"type\":\"{kind}\"")), "no example of {kind}");
        }
        for status in Status::ALL {
            let word = serde_json::to_string(&status).unwrap().replace('"', "`");
            assert!(page.contains(&format!("\n| {word} |")), "{word} is not documented");
        }
    }

    #[test]
    fn control_and_invisible_characters_are_escaped_without_loss() {
        let text = "\u{1b}[2J\u{7}\u{7f}\u{9b}31m\u{202e}\u{200b}\"\\\t日本 👩\u{200d}💻\u{e0041}";
        let line = shown(&format!("bob: {text}"));
        let controls = r"\u001b[2J\u0007\u007f\u009b31m\u202e\u200b\";
        for part in [controls, "👩\u{200d}💻", r"\udb40\udc41"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["text"], text);
    }
}
