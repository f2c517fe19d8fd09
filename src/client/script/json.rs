//! `--json`: writes each line of the server, and each change of the connection's state, as
//! one JSON object per line. The fields are described in docs/json.md and docs/json.schema.json;
//! absent fields are omitted, and no field changes its meaning within a version. It does not know
//! where the objects are written.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::client::text::sanitize::is_unseen;
use crate::client::text::sentences::Clock;
use crate::protocol::event::PresenceSummary;
use crate::protocol::name::{is_name, is_same_name};
use crate::protocol::reply::{Arrival, List, Person, Query, Term, Thread, Until, Whois};
use crate::protocol::{Event, LOBBY, Message, Moderation, Place, Reply, Stamp, Tags};

/// The version of the object format; an incompatible format would get a new number.
const VERSION: u64 = 2;

/// The state of the connection or of a line: the `code` of a `status` object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Status {
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

impl Status {
    const TABLE: [(Self, &'static str); 10] = [
        (Self::Waiting, "waiting"),
        (Self::Online, "online"),
        (Self::Offline, "offline"),
        (Self::Back, "back"),
        (Self::IdsWentBack, "ids-went-back"),
        (Self::Gap, "gap"),
        (Self::InDoubt, "in-doubt"),
        (Self::NotSent, "not-sent"),
        (Self::Bye, "bye"),
        (Self::Failed, "failed"),
    ];

    fn word(self) -> &'static str {
        Self::TABLE[self as usize].1
    }
}

/// One JSON object: its fields in the order written.
#[derive(Debug)]
struct Object<'a>(Vec<(&'static str, Value<'a>)>);

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Text(&'a str),
    Owned(String),
    Number(u64),
    Flag(bool),
    List(Vec<&'a str>),
    Flags(BTreeMap<&'a str, bool>),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Owned(text)
    }
}

impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Value<'_> {
    fn from(count: usize) -> Self {
        Self::Number(count as u64)
    }
}

impl From<bool> for Value<'_> {
    fn from(is_so: bool) -> Self {
        Self::Flag(is_so)
    }
}

impl From<Stamp> for Value<'_> {
    fn from(time: Stamp) -> Self {
        Self::Owned(time.to_string())
    }
}

/// Names of users, or of rooms without `#`.
impl<'a> From<List<'a>> for Value<'a> {
    fn from(list: List<'a>) -> Self {
        Self::List(list.iter().map(|item| item.strip_prefix('#').unwrap_or(item)).collect())
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'a> Object<'a> {
    fn new(kind: &'static str, time: Stamp) -> Self {
        let mut object = Self(Vec::with_capacity(8));
        object.put("v", VERSION).put("t", time).put("type", kind);
        object
    }

    fn put(&mut self, name: &'static str, value: impl Into<Value<'a>>) -> &mut Self {
        self.0.push((name, value.into()));
        self
    }

    /// Puts a field that is omitted if it is absent.
    fn put_some(&mut self, name: &'static str, value: Option<impl Into<Value<'a>>>) -> &mut Self {
        if let Some(value) = value {
            self.put(name, value);
        }
        self
    }

    /// Puts the user that the object is about, and whether that is us.
    fn put_from(&mut self, name: &'a str, me: &str) -> &mut Self {
        self.put("from", name).put("self", is_same_name(name, me))
    }

    fn put_message(&mut self, message: &Message<'a>, me: &'a str) -> &mut Self {
        let (room, to) = match message.place {
            Place::Room(room) => (Some(room), None),
            Place::ToMe => (None, Some(me)),
            Place::ToPerson(name) => (None, Some(name)),
        };
        let is_mine = is_same_name(message.from, me);
        self.put_some("room", room).put("from", message.from).put_some("to", to);
        self.put("text", message.text).put("self", is_mine)
    }

    fn put_term(&mut self, term: Term<'a>) -> &mut Self {
        self.put_until(term.until).put_some("reason", term.reason)
    }

    fn put_until(&mut self, until: Until) -> &mut Self {
        match until {
            Until::Time(time) => self.put("until", time),
            Until::Lifted => self,
        }
    }

    /// Puts the target of a ban: a user or an address.
    fn put_banned(&mut self, room: Option<&'a str>, whom: &'a str) -> &mut Self {
        let field = if is_name(whom) { "user" } else { "address" };
        self.put_some("room", room).put(field, whom)
    }

    fn put_reply(&mut self, reply: &Reply<'a>) -> &mut Self {
        match *reply {
            Reply::Hello { protocol } => self.put("protocol", protocol),
            Reply::Welcome { name, arrival } => {
                self.put("user", name);
                match arrival {
                    Some(Arrival::Lobby) => self.put("room", LOBBY),
                    Some(Arrival::LobbyBanned(term)) => self.put_term(term),
                    _ => self,
                }
            }
            Reply::Users { room, count, names } => {
                self.put("room", room).put("count", count).put_some("users", names)
            }
            Reply::Who { room, count } => self.put("room", room).put("count", count),
            Reply::Person(Person { name, is_operator, is_away, idle_s, since }) => self
                .put("user", name)
                .put("operator", is_operator)
                .put("is_away", is_away)
                .put("idle_s", idle_s)
                .put("since", since),
            Reply::Topic { room, topic } => self.put("room", room).put("topic", topic),
            Reply::Joined { room } | Reply::Parted { room, .. } => self.put("room", room),
            Reply::Query(Query::Off(room)) => self.put_some("room", room),
            Reply::Query(Query::Gone(_) | Query::Ended) | Reply::Back => self,
            Reply::Away { text } => self.put("away", text),
            Reply::IsAway { name, text } => self.put("user", name).put("away", text),
            Reply::Rooms { count } | Reply::Search { count } | Reply::Help { count } => {
                self.put("count", count)
            }
            Reply::Room { room, count, topic } => {
                self.put("room", room).put("count", count).put("topic", topic)
            }
            Reply::History { thread: Thread::Room(room), count } => {
                self.put("room", room).put("count", count)
            }
            Reply::History { thread: Thread::Person(name), count } => {
                self.put("user", name).put("count", count)
            }
            Reply::Whois(whois) => self.put_whois(&whois),
            Reply::Ignore { name, is_new } => self.put("user", name).put("changed", is_new),
            Reply::Unignore { name, was_ignored } => {
                self.put("user", name).put("changed", was_ignored)
            }
            Reply::Ignored { names } => self.put("users", names),
            Reply::Session { token } | Reply::Pong { token } => self.put("token", token),
            Reply::Set { settings } => {
                self.put("settings", Value::Flags(settings.iter().collect()))
            }
            Reply::Version { protocol, server } => {
                self.put("protocol", protocol).put("server", server)
            }
            Reply::Features { words } => {
                self.put("features", Value::List(words.split(' ').collect()))
            }
            Reply::Query(Query::On(name) | Query::Renamed(name))
            | Reply::Offline { name }
            | Reply::Auth { name }
            | Reply::Registered { name }
            | Reply::PasswordChanged { name }
            | Reply::Unregistered { name } => self.put("user", name),
            Reply::Moderation(moderation) => self.put_moderation(&moderation),
            Reply::Other { args, .. } => self.put("args", args),
        }
    }

    fn put_whois(&mut self, whois: &Whois<'a>) -> &mut Self {
        let is_server_operator =
            whois.operator.is_some_and(|list| list.iter().any(|scope| scope == "*"));
        let rooms = whois.operator.map(|list| {
            let rooms = list.iter().filter_map(|scope| scope.strip_prefix('#'));
            Value::List(rooms.collect())
        });
        self.put("user", whois.name)
            .put("since", whois.since)
            .put("idle_s", whois.idle_s)
            .put("rooms", whois.rooms)
            .put_some("account", whois.account)
            .put_some("operator_of", rooms)
            .put_some("server_operator", is_server_operator.then_some(true))
            .put_some("address", whois.address)
            .put_some("away", whois.away)
    }

    fn put_moderation(&mut self, reply: &Moderation<'a>) -> &mut Self {
        match *reply {
            Moderation::Bans { room, count } => self.put_some("room", room).put("count", count),
            Moderation::Ban { room, whom, by, term } => {
                self.put_banned(room, whom).put("by", by).put_term(term)
            }
            Moderation::HiddenBan { room } => self.put_some("room", room),
            Moderation::Banned { room, whom, term } => self.put_banned(room, whom).put_term(term),
            Moderation::Unbanned { room, whom } => self.put_banned(room, whom),
            Moderation::Muted { room, name, until } => {
                self.put("room", room).put("user", name).put_until(until)
            }
            Moderation::Unmuted { room, name } | Moderation::Invited { room, name } => {
                self.put("room", room).put("user", name)
            }
            Moderation::Kicked { room, by, reason } => {
                self.put("room", room).put("by", by).put_some("reason", reason)
            }
            Moderation::Locked { room, has_key } => self.put("room", room).put("key", has_key),
            Moderation::Unlocked { room, was_locked } => {
                self.put("room", room).put("changed", was_locked)
            }
            Moderation::Invitation { room, by } => self.put("room", room).put("by", by),
            Moderation::Oper { name } | Moderation::Killed { name } => self.put("user", name),
            Moderation::Wall { from, .. } => self.put("from", from),
        }
    }

    fn put_event(
        &mut self,
        event: &Event<'a>,
        plain: &'a str,
        time: Stamp,
        me: &'a str,
    ) -> &mut Self {
        match *event {
            Event::Message(message) => self.put_message(&message, me),
            Event::Row { message, .. } => self.put_message(&message, me).put("history", true),
            Event::Joined { room, name } => self.put("room", room).put_from(name, me),
            Event::Left { room, name, reason } => {
                self.put("room", room).put_from(name, me).put_some("reason", reason)
            }
            Event::Kicked { room, name, by, reason } => {
                self.put("room", room).put_from(name, me).put("by", by).put_some("reason", reason)
            }
            // A quit belongs to no room.
            Event::Quit { name, reason } => self.put_from(name, me).put_some("reason", reason),
            // Our own change of name is known by the new name.
            Event::Renamed { old, new } => {
                let is_mine = [old, new].iter().any(|name| is_same_name(name, me));
                self.put("from", old).put("self", is_mine).put("to", new)
            }
            Event::Error { code, text, .. } => self.put("code", code).put("text", text),
            Event::Bye { code, text } => {
                self.put("code", Status::Bye.word()).put("farewell", code).put("text", text)
            }
            Event::Reply(reply) => {
                let head = plain.split([' ', ']']).next().unwrap_or_default();
                self.put("word", head.trim_start_matches('[')).put_reply(&reply);
                self.put("text", sentence(&reply, plain, time))
            }
            Event::Topic { .. }
            | Event::Promoted { .. }
            | Event::Demoted { .. }
            | Event::Crowd { .. }
            | Event::Notice { .. } => {
                let text = plain.split_once("* ").map_or(plain, |(_, text)| text);
                self.put_change(event).put("text", text)
            }
            Event::Help(row) => self.put("text", row),
        }
    }

    /// Puts the fields of a change in a room.
    fn put_change(&mut self, event: &Event<'a>) -> &mut Self {
        match *event {
            Event::Topic { room, name, text } => {
                let topic = text.unwrap_or_default();
                self.put("event", "topic").put("room", room).put("by", name).put("topic", topic)
            }
            Event::Promoted { room, by, name } => {
                self.put("event", "operator").put("room", room).put("by", by).put("user", name)
            }
            Event::Demoted { room, name } => {
                self.put("event", "no-operator").put("room", room).put("user", name)
            }
            Event::Crowd { room, crowd: PresenceSummary { joined, left, quit, here } } => {
                self.put("event", "presence").put("room", room);
                self.put("joined", joined).put("left", left).put("quit", quit).put("count", here)
            }
            Event::Notice { room, .. } => self.put("room", room),
            _ => self,
        }
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
    write(out, &object(tags, plain, number, me))
}

fn object<'a>(tags: &Tags<'_>, plain: &'a str, number: Option<u64>, me: &'a str) -> Object<'a> {
    let event = Event::parse(plain);
    let time = match event {
        Some(Event::Row { time, .. }) => time,
        _ => tags.time.unwrap_or_else(now),
    };
    let mut object = Object::new(event.map_or("system", |event| kind(&event)), time);
    object.put_some("id", tags.id).put_some("line", number);
    match event {
        Some(event) => object.put_event(&event, plain, time, me),
        None => object.put("text", plain),
    };
    object
}

/// Returns the type of an object.
fn kind(event: &Event<'_>) -> &'static str {
    match event {
        Event::Message(message) | Event::Row { message, .. } => match message.place {
            _ if message.is_action => "action",
            Place::Room(_) => "msg",
            Place::ToMe | Place::ToPerson(_) => "pm",
        },
        Event::Joined { .. } => "join",
        Event::Left { .. } | Event::Kicked { .. } | Event::Quit { .. } => "part",
        Event::Renamed { .. } => "nick",
        Event::Error { .. } => "error",
        Event::Bye { .. } => "status",
        Event::Topic { .. }
        | Event::Promoted { .. }
        | Event::Demoted { .. }
        | Event::Crowd { .. }
        | Event::Notice { .. }
        | Event::Reply(_)
        | Event::Help(_) => "system",
    }
}

/// Returns a reply for people, with times in UTC: the people's words if it consists of them.
fn sentence(reply: &Reply<'_>, plain: &str, time: Stamp) -> String {
    let clock = Clock { now: time.timestamp(), zone: TimeZone::UTC };
    match reply {
        Reply::Moderation(Moderation::Wall { text, .. }) => (*text).to_owned(),
        reply => clock.sentence(reply).unwrap_or_else(|| plain.to_owned()),
    }
}

fn now() -> Stamp {
    Stamp(Timestamp::now().as_millisecond())
}

/// Writes a status of the connection or of a line.
pub(in crate::client) fn status(
    out: impl Write,
    status: Status,
    number: Option<u64>,
    text: &str,
) -> io::Result<()> {
    let mut object = Object::new("status", now());
    object.put_some("line", number).put("code", status.word()).put("text", text);
    write(out, &object)
}

/// Writes why an input line was not sent.
pub(super) fn error(out: impl Write, number: u64, code: &str, text: &str) -> io::Result<()> {
    let mut object = Object::new("error", now());
    object.put("line", number).put("code", code).put("text", text);
    write(out, &object)
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
    use crate::client::session::outgoing::CidGenerator;

    fn shown(line: &str) -> String {
        let (tags, plain) = Tags::split(line);
        let number = tags.cid.and_then(|cid| CidGenerator::new(1).number(cid));
        let mut out = Vec::new();
        super::line(&mut out, &tags, plain, number, "alice").unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn objects_match_the_documentation() {
        let page = include_str!("../../../docs/json.md");
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
        for (at, (status, word)) in Status::TABLE.iter().enumerate() {
            assert_eq!(*status as usize, at, "{word}");
            assert!(page.contains(&format!("\n| `{word}` |")), "{word} is not documented");
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
