//! The parser of replies; see [`Reply`].

use super::fields::{is_change, name, room, room_and, term};
use super::{
    Arrival, BACK, HAS_NEW_NAME, List, Moderation, NO_ROOM, Next, Person, Query, Reply, Settings,
    Thread, Whois,
};
use crate::protocol::Stamp;

impl<'a> Reply<'a> {
    /// Parses the parts of `[WORD args] text`.
    #[must_use]
    pub fn parse(word: &'a str, args: &'a str, text: &'a str) -> Self {
        let moderation = || Moderation::parse(word, args, text).map(Self::Moderation);
        let known = parse(word, args, text).or_else(moderation);
        known.unwrap_or(Self::Other { word, args, text })
    }
}

fn parse<'a>(word: &str, args: &'a str, text: &'a str) -> Option<Reply<'a>> {
    Some(match word {
        "HELLO" if args.starts_with("chatty/") => Reply::Hello { protocol: args },
        "WELCOME" => Reply::Welcome { name: name(args)?, arrival: arrival(text) },
        "USERS" => {
            let (room, count) = room_and(args)?;
            let names = (!text.is_empty()).then_some(List(text));
            Reply::Users { room, count: count.parse().ok()?, names }
        }
        "WHO" => {
            let (room, count) = room_and(args)?;
            Reply::Who { room, count: count.parse().ok()? }
        }
        "PERSON" => Reply::Person(person(name(args)?, text)?),
        "TOPIC" => Reply::Topic { room: room(args)?, topic: text },
        "JOINED" => Reply::Joined { room: room(args)? },
        "PARTED" => {
            let next = match text {
                "" => Next::Unchanged,
                NO_ROOM => Next::Nowhere,
                _ => Next::Lobby,
            };
            Reply::Parted { room: room(args)?, next }
        }
        "QUERY" => Reply::Query(query(args, text)?),
        "AWAY" if args == "on" => Reply::Away { text },
        "AWAY" if args == "off" => Reply::Back,
        "AWAY" => Reply::IsAway { name: name(args)?, text },
        "OFFLINE" => Reply::Offline { name: name(args)? },
        "ROOMS" => Reply::Rooms { count: args.parse().ok()? },
        "ROOM" => {
            let (room, count) = room_and(args)?;
            Reply::Room { room, count: count.parse().ok()?, topic: text }
        }
        "HISTORY" => {
            let (thread, count) = args.split_once(' ')?;
            let thread = match thread.strip_prefix('#') {
                Some(_) => Thread::Room(room(thread)?),
                None => Thread::Person(thread),
            };
            Reply::History { thread, count: count.parse().ok()? }
        }
        "SEARCH" => Reply::Search { count: args.parse().ok()? },
        "WHOIS" => Reply::Whois(whois(name(args)?, text)?),
        "IGNORE" => Reply::Ignore { name: name(args)?, is_new: is_change(text) },
        "UNIGNORE" => Reply::Unignore { name: name(args)?, was_ignored: is_change(text) },
        "IGNORED" => Reply::Ignored { names: List(text) },
        "SESSION" if !args.is_empty() => Reply::Session { token: args },
        "SET" => Reply::Set { settings: Settings(args) },
        "PONG" => Reply::Pong { token: args },
        "VERSION" => Reply::Version { protocol: args, server: text },
        "FEATURES" => Reply::Features { words: args },
        "HELP" => Reply::Help { count: args.parse().ok()? },
        "AUTH" => Reply::Auth { name: name(args)? },
        "REGISTERED" => Reply::Registered { name: name(args)? },
        "PASSWD" => Reply::PasswordChanged { name: name(args)? },
        "UNREGISTERED" => Reply::Unregistered { name: name(args)? },
        _ => return None,
    })
}

fn arrival(text: &str) -> Option<Arrival<'_>> {
    if let Some(missing) = text.strip_prefix(BACK) {
        let id = missing.strip_prefix("; up to id ").and_then(|rest| rest.split_once(','));
        return Some(Arrival::Resumed(id.and_then(|(id, _)| id.parse().ok())));
    }
    if text == "you are in #lobby" {
        return Some(Arrival::Lobby);
    }
    if let Some(rest) = text.strip_prefix("#lobby is locked; ") {
        if rest.starts_with("/join #lobby KEY") {
            return Some(Arrival::LobbyNeedsKey);
        }
        let operators = rest.split_once(" can /invite you").map_or("", |(names, _)| names);
        return Some(Arrival::LobbyLocked(List(operators)));
    }
    let text = text.strip_prefix("you are banned from #lobby ")?;
    term(text.strip_suffix("; /join another room")?).map(Arrival::LobbyBanned)
}

fn query<'a>(args: &'a str, text: &'a str) -> Option<Query<'a>> {
    if args != "off" {
        let name = name(args)?;
        let is_renamed = text == HAS_NEW_NAME;
        return Some(if is_renamed { Query::Renamed(name) } else { Query::On(name) });
    }
    if text == NO_ROOM {
        return Some(Query::Off(None));
    }
    if let Some(room) = text.strip_prefix("your messages now go to ").and_then(room) {
        return Some(Query::Off(Some(room)));
    }
    let gone = text.split_once(" is gone").and_then(|(gone, _)| name(gone));
    Some(gone.map_or(Query::Ended, Query::Gone))
}

fn person<'a>(name: &'a str, text: &str) -> Option<Person<'a>> {
    // Further fields of a newer server are skipped.
    let field =
        |key: &str| text.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    Some(Person {
        name,
        is_operator: field("op")? == "yes",
        is_away: field("away")? == "yes",
        idle_s: field("idle")?.strip_suffix('s')?.parse().ok()?,
        since: Stamp::parse(field("since")?)?,
    })
}

fn whois<'a>(name: &'a str, text: &'a str) -> Option<Whois<'a>> {
    let (mut since, mut idle) = (None, None);
    let (mut rooms, mut account, mut operator, mut address, mut away) =
        (List::default(), None, None, None, None);
    let mut rest = text;
    while !rest.is_empty() {
        // The away text is the last field and may contain blanks.
        if let Some(text) = rest.strip_prefix("away=") {
            away = Some(text);
            break;
        }
        let (field, next) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = next;
        match field.split_once('=')? {
            ("since", value) => since = Stamp::parse(value),
            ("idle", value) => idle = value.strip_suffix('s')?.parse().ok(),
            ("rooms", value) => rooms = List(value),
            ("account", value) => account = Some(value),
            ("operator", value) => operator = Some(List(value)),
            ("address", value) => address = Some(value),
            _ => {} // a field of a newer server
        }
    }
    Some(Whois { name, since: since?, idle_s: idle?, rooms, account, operator, address, away })
}
