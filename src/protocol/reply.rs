//! Replies, `[WORD args] text`: what each word means, its encoder and its parser. The server
//! encodes from its state; the client parses the line and renders the fields for its reader.
//!
//! Texts after the bracket are for people and differ between versions. Where a text contains
//! nothing else, the encoder writes it and the parser does not depend on it. The parts of texts
//! that are fields (an expiry, a reason, a topic) are parsed; a reply whose fields are not
//! understood is [`Reply::Other`].

mod fields;
pub mod moderation;
mod parse;

use std::fmt;

pub use fields::{List, PERMANENTLY, Settings, Term, Until};
use fields::{Suffix, write_unchanged};
pub use moderation::Moderation;

use super::Stamp;

/// Where a user is after a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival<'a> {
    /// In `#lobby`.
    Lobby,
    /// In no room: `#lobby` is locked with a key.
    LobbyNeedsKey,
    /// In no room: `#lobby` is locked; these operators are online.
    LobbyLocked(List<'a>),
    /// In no room: banned from `#lobby`.
    LobbyBanned(Term<'a>),
    /// In the resumed session; up to this id, messages of rooms that the user left may be
    /// missing.
    Resumed(Option<u64>),
}

/// Where a user's text goes after leaving a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// To the current room as before.
    Unchanged,
    /// To `#lobby`.
    Lobby,
    /// Nowhere; the user has no current room.
    Nowhere,
}

/// The person to whom a user's text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query<'a> {
    /// To this user.
    On(&'a str),
    /// To the same user, who has this new name.
    Renamed(&'a str),
    /// To the current room again, or nowhere without one.
    Off(Option<&'a str>),
    /// Nowhere: this user has logged out.
    Gone(&'a str),
    /// To no person; the text is of another version.
    Ended,
}

/// The room or person of a `/history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread<'a> {
    /// A room, by its name without `#`.
    Room(&'a str),
    /// The private messages with this user.
    Person(&'a str),
}

/// What `/whois` tells about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whois<'a> {
    /// The current name.
    pub name: &'a str,
    /// When the user logged in.
    pub since: Stamp,
    /// Seconds since the user's last line.
    pub idle_s: u64,
    /// The rooms of the user.
    pub rooms: List<'a>,
    /// The registered name, if the user has an account.
    pub account: Option<&'a str>,
    /// Where the user is an operator: `*` for the server, and rooms.
    pub operator: Option<List<'a>>,
    /// The address, which only server operators see.
    pub address: Option<&'a str>,
    /// The away text, which may be empty, if the user is away.
    pub away: Option<&'a str>,
}

/// What `/who -l` tells about a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person<'a> {
    /// The current name.
    pub name: &'a str,
    /// Whether the user is an operator of the room or of the server.
    pub is_operator: bool,
    /// Whether the user is away.
    pub is_away: bool,
    /// Seconds since the user's last line.
    pub idle_s: u64,
    /// When the user logged in.
    pub since: Stamp,
}

/// A reply of the server: `[WORD args] text`. Rooms are without `#`; a scope without a room is
/// the server, `*` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are parts of the line shown above them
pub enum Reply<'a> {
    /// `[HELLO chatty/1] type your name …`
    Hello { protocol: &'a str },
    /// `[WELCOME alice] you are in #lobby`; `None` for a text of another version.
    Welcome { name: &'a str, arrival: Option<Arrival<'a>> },
    /// `[USERS #lobby 2] alice,bob`, or only the count, without names.
    Users { room: &'a str, count: usize, names: Option<List<'a>> },
    /// `[WHO #ops 2]`, before the rows.
    Who { room: &'a str, count: usize },
    /// `[PERSON bob] op=yes away=no idle=12s since=…`
    Person(Person<'a>),
    /// `[TOPIC #ops] text`, without a text if there is no topic.
    Topic { room: &'a str, topic: &'a str },
    /// `[JOINED #ops] your messages now go to this room`
    Joined { room: &'a str },
    /// `[PARTED #ops] your messages now go to #lobby`
    Parted { room: &'a str, next: Next },
    /// `[QUERY bob] …` or `[QUERY off] …`
    Query(Query<'a>),
    /// `[AWAY on] text`
    Away { text: &'a str },
    /// `[AWAY off]`
    Back,
    /// `[AWAY bob] text`, after a private message to bob.
    IsAway { name: &'a str, text: &'a str },
    /// `[OFFLINE bob] …`, after a private message that waits for bob's login.
    Offline { name: &'a str },
    /// `[ROOMS 2]`, before the rows.
    Rooms { count: usize },
    /// `[ROOM #ops 3] topic`
    Room { room: &'a str, count: usize, topic: &'a str },
    /// `[HISTORY #ops 20]`, before the rows.
    History { thread: Thread<'a>, count: usize },
    /// `[SEARCH 3]`, before the rows.
    Search { count: usize },
    /// A reply about moderation or to an operator.
    Moderation(Moderation<'a>),
    /// `[AUTH alice] post as this account with /post ROOM LABEL TEXT`
    Auth { name: &'a str },
    /// `[REGISTERED alice] this name is reserved for you …`
    Registered { name: &'a str },
    /// `[PASSWD alice] password changed`
    PasswordChanged { name: &'a str },
    /// `[UNREGISTERED alice] the name is no longer reserved`
    Unregistered { name: &'a str },
    /// `[WHOIS bob] since=… idle=0s rooms=#lobby`
    Whois(Whois<'a>),
    /// `[IGNORE bob]`
    Ignore { name: &'a str, is_new: bool },
    /// `[UNIGNORE bob]`
    Unignore { name: &'a str, was_ignored: bool },
    /// `[IGNORED 2] a,b`
    Ignored { names: List<'a> },
    /// `[SESSION token] …`
    Session { token: &'a str },
    /// `[SET echo=on joins=on tags=off]`
    Set { settings: Settings<'a> },
    /// `[PONG token]` or `[PONG]`
    Pong { token: &'a str },
    /// `[VERSION chatty/1] chatty 0.1.0`
    Version { protocol: &'a str, server: &'a str },
    /// `[FEATURES resume-time …]`
    Features { words: &'a str },
    /// `[HELP 40]`, before the rows.
    Help { count: usize },
    /// A reply of another version. Its parts are shown as they are.
    Other { word: &'a str, args: &'a str, text: &'a str },
}

const NO_ROOM: &str = "you are in no room; /join one to talk";
const BACK: &str = "you are back";
const HAS_NEW_NAME: &str = "has a new name";

impl Reply<'_> {
    /// The number of rows that follow, if this is the header of a list.
    #[must_use]
    pub fn rows(&self) -> Option<usize> {
        match *self {
            Self::Rooms { count }
            | Self::History { count, .. }
            | Self::Who { count, .. }
            | Self::Search { count }
            | Self::Help { count }
            | Self::Moderation(Moderation::Bans { count, .. }) => Some(count),
            _ => None,
        }
    }
}

impl fmt::Display for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Hello { protocol } => write!(
                f,
                "[HELLO {protocol}] type your name and press Enter (/help lists commands)"
            ),
            Self::Welcome { name, arrival } => write_welcome(f, name, arrival),
            Self::Users { room, count, names } => {
                write!(f, "[USERS #{room} {count}]{}", Suffix(names.unwrap_or_default().0))
            }
            Self::Who { room, count } => write!(f, "[WHO #{room} {count}]"),
            Self::Person(Person { name, is_operator, is_away, idle_s, since }) => {
                let [op, away] =
                    [is_operator, is_away].map(|is_so| if is_so { "yes" } else { "no" });
                write!(f, "[PERSON {name}] op={op} away={away} idle={idle_s}s since={since}")
            }
            Self::Topic { room, topic } => write!(f, "[TOPIC #{room}]{}", Suffix(topic)),
            Self::Joined { room } => {
                write!(f, "[JOINED #{room}] your messages now go to this room")
            }
            Self::Parted { room, next } => {
                let text = match next {
                    Next::Unchanged => "",
                    Next::Lobby => "your messages now go to #lobby",
                    Next::Nowhere => NO_ROOM,
                };
                write!(f, "[PARTED #{room}]{}", Suffix(text))
            }
            Self::Query(query) => write_query(f, query),
            Self::Away { text } => write!(f, "[AWAY on]{}", Suffix(text)),
            Self::Back => write!(f, "[AWAY off]"),
            Self::IsAway { name, text } => write!(f, "[AWAY {name}]{}", Suffix(text)),
            Self::Offline { name } => write!(
                f,
                "[OFFLINE {name}] {name} is offline; your message will be delivered when they \
                 log in"
            ),
            Self::Rooms { count } => write!(f, "[ROOMS {count}]"),
            Self::Room { room, count, topic } => {
                write!(f, "[ROOM #{room} {count}]{}", Suffix(topic))
            }
            Self::History { thread: Thread::Room(room), count } => {
                write!(f, "[HISTORY #{room} {count}]")
            }
            Self::History { thread: Thread::Person(name), count } => {
                write!(f, "[HISTORY {name} {count}]")
            }
            Self::Search { count } => write!(f, "[SEARCH {count}]"),
            Self::Whois(whois) => write_whois(f, &whois),
            Self::Ignored { names } => {
                write!(f, "[IGNORED {}]{}", names.iter().count(), Suffix(names.0))
            }
            Self::Session { token } => write!(
                f,
                "[SESSION {token}] /resume TOKEN ID restores this session after a lost \
                 connection; keep the token secret"
            ),
            Self::Set { settings } => write!(f, "[SET {}]", settings.0),
            Self::Pong { token } => write!(f, "[PONG{}]", Suffix(token)),
            Self::Version { protocol, server } => {
                write!(f, "[VERSION {protocol}]{}", Suffix(server))
            }
            Self::Features { words } => write!(f, "[FEATURES{}]", Suffix(words)),
            Self::Help { count } => write!(f, "[HELP {count}]"),
            Self::Ignore { name, is_new } => {
                let text = if is_new { "" } else { "already ignored" };
                write_unchanged(f, format_args!("IGNORE {name}"), text)
            }
            Self::Unignore { name, was_ignored } => {
                let text = if was_ignored { "" } else { "not ignored" };
                write_unchanged(f, format_args!("UNIGNORE {name}"), text)
            }
            Self::Other { word, args, text } => {
                write!(f, "[{word}{}]{}", Suffix(args), Suffix(text))
            }
            Self::Auth { name } => {
                write!(f, "[AUTH {name}] post as this account with /post ROOM LABEL TEXT")
            }
            Self::Registered { name } => write!(
                f,
                "[REGISTERED {name}] this name is reserved for you; log in with /login NAME \
                 PASSWORD from now on"
            ),
            Self::PasswordChanged { name } => write!(f, "[PASSWD {name}] password changed"),
            Self::Unregistered { name } => {
                write!(f, "[UNREGISTERED {name}] the name is no longer reserved")
            }
            Self::Moderation(moderation) => moderation.fmt(f),
        }
    }
}

fn write_welcome(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    arrival: Option<Arrival<'_>>,
) -> fmt::Result {
    write!(f, "[WELCOME {name}]")?;
    match arrival {
        None => Ok(()),
        Some(Arrival::Lobby) => write!(f, " you are in #lobby"),
        Some(Arrival::LobbyNeedsKey) => {
            write!(f, " #lobby is locked; /join #lobby KEY, or another room")
        }
        Some(Arrival::LobbyLocked(List(""))) => {
            write!(f, " #lobby is locked; /join another room")
        }
        Some(Arrival::LobbyLocked(List(operators))) => {
            write!(f, " #lobby is locked; {operators} can /invite you; /join another room")
        }
        Some(Arrival::LobbyBanned(term)) => {
            let term = term.describe(PERMANENTLY);
            write!(f, " you are banned from #lobby {term}; /join another room")
        }
        Some(Arrival::Resumed(None)) => write!(f, " {BACK}"),
        Some(Arrival::Resumed(Some(id))) => {
            write!(f, " {BACK}; up to id {id}, messages of rooms you left may be missing")
        }
    }
}

fn write_query(f: &mut fmt::Formatter<'_>, query: Query<'_>) -> fmt::Result {
    match query {
        Query::On(name) => {
            write!(f, "[QUERY {name}] your messages now go to {name}; /query returns to the room")
        }
        Query::Renamed(name) => write!(f, "[QUERY {name}] {HAS_NEW_NAME}"),
        Query::Off(Some(room)) => write!(f, "[QUERY off] your messages now go to #{room}"),
        Query::Off(None) => write!(f, "[QUERY off] {NO_ROOM}"),
        Query::Gone(name) => {
            write!(f, "[QUERY off] {name} is gone; your messages go nowhere until /query or /join")
        }
        Query::Ended => write!(f, "[QUERY off]"),
    }
}

fn write_whois(f: &mut fmt::Formatter<'_>, whois: &Whois<'_>) -> fmt::Result {
    let Whois { name, since, idle_s, rooms, .. } = whois;
    write!(f, "[WHOIS {name}] since={since} idle={idle_s}s rooms={}", rooms.0)?;
    let fields = [
        ("account", whois.account),
        ("operator", whois.operator.map(|list| list.0)),
        ("address", whois.address),
        // Last, since the text may contain spaces.
        ("away", whois.away),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            write!(f, " {key}={value}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Event;

    /// Encodes and parses each pair.
    fn round_trip(cases: &[(&str, Reply<'_>)]) {
        for (wire, reply) in cases {
            assert_eq!(reply.to_string(), *wire);
            assert_eq!(Event::parse(wire), Some(Event::Reply(*reply)), "{wire}");
        }
    }

    #[test]
    fn replies_about_login_and_talk_round_trip() {
        let time = Stamp(1_795_414_560_123);
        let term = Term { until: Until::Time(time), reason: Some("so: long") };
        let welcome = |arrival| Reply::Welcome { name: "al", arrival: Some(arrival) };
        let greeting = "[HELLO chatty/1] type your name and press Enter (/help lists commands)";
        round_trip(&[
            (greeting, Reply::Hello { protocol: "chatty/1" }),
            ("[WELCOME al]", Reply::Welcome { name: "al", arrival: None }),
            ("[WELCOME al] you are in #lobby", welcome(Arrival::Lobby)),
            (
                "[WELCOME al] #lobby is locked; /join #lobby KEY, or another room",
                welcome(Arrival::LobbyNeedsKey),
            ),
            (
                "[WELCOME al] #lobby is locked; /join another room",
                welcome(Arrival::LobbyLocked(List(""))),
            ),
            (
                "[WELCOME al] #lobby is locked; bob, carol can /invite you; /join another room",
                welcome(Arrival::LobbyLocked(List("bob, carol"))),
            ),
            (
                "[WELCOME al] you are banned from #lobby until 2026-11-23T06:16:00.123Z: so: long; \
                 /join another room",
                welcome(Arrival::LobbyBanned(term)),
            ),
            ("[WELCOME al] you are back", welcome(Arrival::Resumed(None))),
            (
                "[WELCOME al] you are back; up to id 7, messages of rooms you left may be missing",
                welcome(Arrival::Resumed(Some(7))),
            ),
            (
                "[QUERY bob] your messages now go to bob; /query returns to the room",
                Reply::Query(Query::On("bob")),
            ),
            ("[QUERY rob] has a new name", Reply::Query(Query::Renamed("rob"))),
            ("[QUERY off] your messages now go to #ops", Reply::Query(Query::Off(Some("ops")))),
            ("[QUERY off] you are in no room; /join one to talk", Reply::Query(Query::Off(None))),
            (
                "[QUERY off] bob is gone; your messages go nowhere until /query or /join",
                Reply::Query(Query::Gone("bob")),
            ),
            ("[QUERY off]", Reply::Query(Query::Ended)),
            ("[AWAY on] lunch", Reply::Away { text: "lunch" }),
            ("[AWAY off]", Reply::Back),
            ("[AWAY bob]", Reply::IsAway { name: "bob", text: "" }),
            (
                "[OFFLINE bob] bob is offline; your message will be delivered when they log in",
                Reply::Offline { name: "bob" },
            ),
            ("[HISTORY #ops 20]", Reply::History { thread: Thread::Room("ops"), count: 20 }),
            ("[HISTORY bob 0]", Reply::History { thread: Thread::Person("bob"), count: 0 }),
            ("[SEARCH 3]", Reply::Search { count: 3 }),
        ]);
    }

    #[test]
    fn replies_about_rooms_and_people_round_trip() {
        let time = Stamp(1_795_414_560_123);
        let whois = Whois {
            name: "bob",
            since: time,
            idle_s: 7,
            rooms: List("#lobby,#ops"),
            account: None,
            operator: None,
            address: None,
            away: None,
        };
        let all = Whois {
            account: Some("robert"),
            operator: Some(List("*,#ops")),
            address: Some("192.0.2.1"),
            away: Some("at lunch away=1"),
            ..whois
        };
        let users = |names| Reply::Users { room: "lobby", count: 2, names };
        round_trip(&[
            ("[USERS #lobby 2] alice,bob", users(Some(List("alice,bob")))),
            ("[USERS #lobby 2]", users(None)),
            ("[WHO #ops 2]", Reply::Who { room: "ops", count: 2 }),
            (
                "[PERSON bob] op=yes away=no idle=12s since=2026-11-23T06:16:00.123Z",
                Reply::Person(Person {
                    name: "bob",
                    is_operator: true,
                    is_away: false,
                    idle_s: 12,
                    since: time,
                }),
            ),
            ("[TOPIC #ops]", Reply::Topic { room: "ops", topic: "" }),
            ("[TOPIC #ops] a: b", Reply::Topic { room: "ops", topic: "a: b" }),
            ("[JOINED #ops] your messages now go to this room", Reply::Joined { room: "ops" }),
            ("[PARTED #ops]", Reply::Parted { room: "ops", next: Next::Unchanged }),
            (
                "[PARTED #ops] your messages now go to #lobby",
                Reply::Parted { room: "ops", next: Next::Lobby },
            ),
            (
                "[PARTED #lobby] you are in no room; /join one to talk",
                Reply::Parted { room: "lobby", next: Next::Nowhere },
            ),
            ("[ROOMS 2]", Reply::Rooms { count: 2 }),
            ("[ROOM #ops 3] the topic", Reply::Room { room: "ops", count: 3, topic: "the topic" }),
            (
                "[WHOIS bob] since=2026-11-23T06:16:00.123Z idle=7s rooms=#lobby,#ops",
                Reply::Whois(whois),
            ),
            (
                "[WHOIS bob] since=2026-11-23T06:16:00.123Z idle=7s rooms=#lobby,#ops \
                 account=robert operator=*,#ops address=192.0.2.1 away=at lunch away=1",
                Reply::Whois(all),
            ),
            ("[IGNORE bob]", Reply::Ignore { name: "bob", is_new: true }),
            (
                "[IGNORE bob] nothing changed: already ignored",
                Reply::Ignore { name: "bob", is_new: false },
            ),
            ("[UNIGNORE bob]", Reply::Unignore { name: "bob", was_ignored: true }),
            (
                "[UNIGNORE bob] nothing changed: not ignored",
                Reply::Unignore { name: "bob", was_ignored: false },
            ),
            ("[IGNORED 2] a,b", Reply::Ignored { names: List("a,b") }),
            ("[IGNORED 0]", Reply::Ignored { names: List("") }),
        ]);
    }

    #[test]
    fn replies_about_connection_and_account_round_trip() {
        let settings = Settings("echo=on joins=off");
        assert!(settings.iter().eq([("echo", true), ("joins", false)]));
        round_trip(&[
            (
                "[SESSION 9f8] /resume TOKEN ID restores this session after a lost connection; \
                 keep the token secret",
                Reply::Session { token: "9f8" },
            ),
            ("[SET echo=on joins=off]", Reply::Set { settings }),
            ("[PONG]", Reply::Pong { token: "" }),
            ("[PONG t1]", Reply::Pong { token: "t1" }),
            (
                "[VERSION chatty/1] chatty 0.1.0",
                Reply::Version { protocol: "chatty/1", server: "chatty 0.1.0" },
            ),
            ("[FEATURES a b]", Reply::Features { words: "a b" }),
            ("[HELP 40]", Reply::Help { count: 40 }),
            (
                "[AUTH al] post as this account with /post ROOM LABEL TEXT",
                Reply::Auth { name: "al" },
            ),
            (
                "[REGISTERED al] this name is reserved for you; log in with /login NAME PASSWORD \
                 from now on",
                Reply::Registered { name: "al" },
            ),
            ("[PASSWD al] password changed", Reply::PasswordChanged { name: "al" }),
            (
                "[UNREGISTERED al] the name is no longer reserved",
                Reply::Unregistered { name: "al" },
            ),
            ("[NEWS 1] text", Reply::Other { word: "NEWS", args: "1", text: "text" }),
        ]);
    }

    #[test]
    fn fields_are_parsed_whatever_the_text_for_people() {
        for (wire, reply) in [
            ("[WELCOME al] hello again", Reply::Welcome { name: "al", arrival: None }),
            ("[JOINED #ops] text goes there", Reply::Joined { room: "ops" }),
            ("[PARTED #ops] gone", Reply::Parted { room: "ops", next: Next::Lobby }),
            ("[QUERY bob] talk", Reply::Query(Query::On("bob"))),
            ("[QUERY off] they left", Reply::Query(Query::Ended)),
            ("[SESSION 9f8] secret", Reply::Session { token: "9f8" }),
            ("[PASSWD al] done", Reply::PasswordChanged { name: "al" }),
        ] {
            assert_eq!(Event::parse(wire), Some(Event::Reply(reply)), "{wire}");
        }
        // A field of a newer server is skipped.
        let wire = "[WHOIS bob] since=2026-11-23T06:16:00.123Z os=plan9 idle=7s rooms=#lobby";
        let Some(Event::Reply(Reply::Whois(whois))) = Event::parse(wire) else { panic!("{wire}") };
        assert_eq!((whois.idle_s, whois.rooms, whois.account), (7, List("#lobby"), None));
    }

    #[test]
    fn reply_with_other_fields_is_of_another_version() {
        for wire in [
            "[WELCOME]",
            "[WELCOME a b] x",
            "[USERS ops 2] a",
            "[USERS #ops many] a",
            "[JOINED ops]",
            "[ROOMS]",
            "[HISTORY #ops]",
            "[HISTORY #a:b 1]",
            "[WHOIS bob] idle=7s",
            "[WHOIS bob] since=2026-11-23T06:16:00.123Z idle=7",
            "[PERSON bob] op=yes",
            "[SESSION]",
            "[HELLO irc]",
            "[HELP -1]",
        ] {
            let parsed = Event::parse(wire);
            assert!(matches!(parsed, Some(Event::Reply(Reply::Other { .. }))), "{wire}");
            let mut out = Vec::new();
            parsed.expect("a reply").encode(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!("{wire}\n"));
        }
    }
}
