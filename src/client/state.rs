//! What we know of the chat, gathered from the lines that pass by: who we are,
//! where plain lines go, which rooms there are and who is in them. It follows
//! what the server says and never guesses ahead of it.
//!
//! Names end up in the prompt and in what Tab offers, so nothing is kept for one
//! that is none.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::{IGNORED_MAX, MEMBERS_MAX, ROOMS_HEARD_OF_MAX, ROOMS_MAX};
use super::mentions::Highlights;
use super::outgoing::reply_to;
use super::unread::Unread;
use crate::commands::{Command, HistoryRange, MessageTarget, Setting};
use crate::protocol::name::is_name;
use crate::protocol::{Event, HISTORY_MAX, Key, LOBBY, Message, Place, Tags};

/// How many are remembered as having spoken last.
const RECENT_SPEAKERS: usize = 50;

/// Where `/query` sends plain lines.
#[derive(Debug, Clone, PartialEq, Eq)]
enum QueryTarget {
    Off,
    Person(String),
    /// The person has gone; the server refuses plain lines until told anew.
    Lost,
}

/// How the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum LinkState {
    #[default]
    Up,
    /// What we said has not been answered for so many seconds.
    Slow(u64),
    Lost,
}

/// The chat as far as we know it.
#[derive(Debug, Clone)]
pub(super) struct State {
    me: String,
    /// What means me besides my name.
    pub(super) words: Highlights,
    /// The current room, as written; none after leaving the last one.
    room: Option<String>,
    query: QueryTarget,
    /// The rooms we are in, each with who else is.
    joined: BTreeMap<Key, Room>,
    /// How many members these rooms have together.
    members: usize,
    /// Rooms heard of, in `/list` or an invitation.
    heard_of: BTreeMap<Key, String>,
    /// Who spoke last, the latest first.
    speakers: Vec<String>,
    /// Who last wrote to me privately: whom `/reply` means.
    wrote: Option<String>,
    /// What is off that is on for somebody new.
    off: Vec<Setting>,
    away: Option<String>,
    ignored: BTreeMap<Key, String>,
    pub(super) unread: Unread,
    pub(super) link: LinkState,
    /// How many of my lines are on their way.
    pub(super) sending: usize,
}

#[derive(Debug, Clone, Default)]
struct Room {
    name: String,
    members: BTreeMap<Key, String>,
}

impl State {
    pub(super) fn new(me: &str) -> Self {
        let mut state = Self {
            me: me.to_owned(),
            words: Highlights::default(),
            room: None,
            query: QueryTarget::Off,
            joined: BTreeMap::new(),
            members: 0,
            heard_of: BTreeMap::new(),
            speakers: Vec::new(),
            wrote: None,
            off: Vec::new(),
            away: None,
            ignored: BTreeMap::new(),
            unread: Unread::default(),
            link: LinkState::default(),
            sending: 0,
        };
        state.enter(LOBBY);
        state
    }

    /// In a new visit, where nothing is known but what the old one wished for.
    pub(super) fn begin_anew(&self, me: &str) -> Self {
        Self { words: self.words.clone(), unread: self.unread.begin_anew(), ..Self::new(me) }
    }

    /// Whether I am in this room.
    pub(super) fn is_in(&self, room: &str) -> bool {
        self.joined.contains_key(&Key::fold(room))
    }

    /// Whether this is of a quiet room and does not mean me.
    pub(super) fn is_muted_room(&self, event: &Event<'_>) -> bool {
        match *event {
            Event::Message(Message { place: Place::Room(room), from, text, .. }) => {
                self.unread.is_quiet(room)
                    && !is_same(from, &self.me)
                    && !self.words.mean(text, &self.me)
            }
            Event::Joined { room, .. } | Event::Left { room, .. } => self.unread.is_quiet(room),
            _ => false,
        }
    }

    /// My name.
    pub(super) fn me(&self) -> &str {
        &self.me
    }

    /// Back in the same visit, greeted with this name.
    pub(super) fn greeted(&mut self, me: &str) {
        me.clone_into(&mut self.me);
    }

    /// Where a plain line would go now: `#lobby`, `bob`, `nowhere`.
    pub(super) fn target(&self) -> String {
        match (&self.query, &self.room) {
            (QueryTarget::Person(name), _) => name.clone(),
            (QueryTarget::Off, Some(room)) => format!("#{room}"),
            (QueryTarget::Lost, _) | (QueryTarget::Off, None) => "nowhere".to_owned(),
        }
    }

    /// The current room, without `#`.
    pub(super) fn room(&self) -> Option<&str> {
        self.room.as_deref()
    }

    /// What a line means, where that depends on when it is said: a `/reply` that
    /// is sent later must not go to whoever has written meanwhile.
    pub(super) fn with_fixed_target(&self, line: &str) -> Option<String> {
        reply_to(self.wrote.as_deref()?, line)
    }

    /// Whether plain lines go to the same place as there, and all rooms are kept.
    pub(super) fn is_where(&self, other: &Self) -> bool {
        is_same(&self.target(), &other.target())
            && other.joined.keys().all(|room| self.joined.contains_key(room))
    }

    /// What brings somebody who has just logged in where I am now.
    pub(super) fn restore_rooms(&self) -> Vec<String> {
        let mut lines = self.restore_settings();
        let is_there = self.joined.len() == 1 && self.is_in(LOBBY);
        lines.extend(self.moves(&[LOBBY], is_there));
        lines
    }

    /// What brings a visit of mine that is in these rooms where I am now.
    pub(super) fn way_back_from(&self, rooms: &[&str]) -> Vec<String> {
        let on = [Setting::Echo, Setting::Joins].into_iter().filter(|it| !self.off.contains(it));
        let on = on.map(|setting| Command::Set { change: Some((setting, true)) }.to_string());
        let mut lines: Vec<String> = on.collect();
        if self.away.is_none() {
            lines.push(Command::Back.to_string());
        }
        lines.extend(self.restore_settings());
        // Ends a query there is; the rooms come after it, and a query after those.
        lines.push(Command::Query { name: None }.to_string());
        lines.extend(self.moves(rooms, false));
        lines
    }

    /// What asks what was said in my rooms: after a message, or the latest.
    pub(super) fn histories(&self, after: Option<u64>) -> Vec<String> {
        let rows = HistoryRange { count: HISTORY_MAX, after };
        let rooms = self.joined.values().map(|room| Some(MessageTarget::Room(&room.name)));
        rooms.map(|thread| Command::History { rows, thread }.to_string()).collect()
    }

    /// What makes somebody new see and be seen as I am.
    fn restore_settings(&self) -> Vec<String> {
        let change = |&setting| Command::Set { change: Some((setting, false)) }.to_string();
        let mut lines: Vec<String> = self.off.iter().map(change).collect();
        if let Some(text) = &self.away {
            let text = (!text.is_empty()).then_some(text.as_str());
            lines.push(Command::Away { text }.to_string());
        }
        let ignore = |name: &String| Command::Ignore { name: Some(name) }.to_string();
        lines.extend(self.ignored.values().map(ignore));
        lines
    }

    /// From these rooms to mine; `is_there`: I am where I want to be already.
    fn moves(&self, from: &[&str], is_there: bool) -> Vec<String> {
        let is_current = |name: &str| self.room().is_some_and(|room| is_same(room, name));
        let (last, others): (Vec<_>, Vec<_>) =
            self.joined.values().map(|room| room.name.as_str()).partition(|name| is_current(name));
        let rooms: Vec<_> = others.into_iter().chain(last).collect();
        let mut lines = Vec::new();
        if !is_there {
            lines.extend(rooms.iter().map(|room| Command::Join { room, key: None }.to_string()));
        }
        for room in from.iter().filter(|there| !rooms.iter().any(|room| is_same(room, there))) {
            lines.push(Command::Part { room: Some(room), reason: None }.to_string());
        }
        if let QueryTarget::Person(name) = &self.query {
            lines.push(Command::Query { name: Some(name) }.to_string());
        }
        lines
    }

    /// Who is here besides me, those who spoke last first.
    pub(super) fn people(&self) -> Vec<String> {
        let mut known: BTreeSet<Key> = [Key::fold(&self.me)].into();
        let members = self.joined.values().flat_map(|room| room.members.values());
        let people = self.speakers.iter().chain(members);
        people.filter(|name| known.insert(Key::fold(name))).cloned().collect()
    }

    /// Whether somebody has said something lately.
    pub(super) fn has_spoken(&self, name: &str) -> bool {
        self.speakers.iter().any(|speaker| is_same(speaker, name))
    }

    /// How many people are in a room or, where none is named, in the smallest of
    /// those that somebody is in.
    pub(super) fn smallest_room(&self, room: Option<&str>, name: &str) -> usize {
        let rooms = self.joined.iter().filter(|(key, it)| match room {
            Some(room) => **key == Key::fold(room),
            None => it.members.contains_key(&Key::fold(name)),
        });
        rooms.map(|(_, room)| room.members.len()).min().unwrap_or_default()
    }

    /// Rooms we know of, without `#`, those we are in first.
    pub(super) fn rooms(&self) -> Vec<String> {
        let joined = self.joined.values().map(|room| room.name.clone());
        let others = self.heard_of.iter().filter(|(key, _)| !self.joined.contains_key(*key));
        joined.chain(others.map(|(_, name)| name.clone())).collect()
    }

    /// Takes in a line of the server.
    pub(super) fn apply(&mut self, tags: &Tags<'_>, event: &Event<'_>) {
        match *event {
            Event::Message(Message { place, from, .. }) => self.heard(place, from),
            Event::Joined { room, name } => self.arrived(room, name),
            Event::Left { room, name, .. } | Event::Kicked { room, name, .. } => {
                self.gone(room, name);
            }
            Event::Quit { name, .. } => self.quit(name),
            Event::Renamed { old, new } => self.renamed(old, new),
            Event::Users { room, names: Some(names), .. } => {
                let names = names.split(',').filter(|name| is_name(name));
                names.for_each(|name| self.arrived(room, name));
            }
            Event::Reply { word: "AWAY", args: "on", text } => self.away = Some(text.to_owned()),
            Event::Reply { word: "AWAY", args: "off", .. } => self.away = None,
            Event::Reply { word, args, .. } => self.reply(word, args, tags.cid.is_some()),
            _ => {}
        }
    }

    fn reply(&mut self, word: &str, args: &str, is_answer: bool) {
        let room = args.split(' ').next().unwrap_or_default().trim_start_matches('#');
        match word {
            "QUERY" if args == "off" => {
                // Unasked for: whom we talked to has gone.
                self.query = if is_answer { QueryTarget::Off } else { QueryTarget::Lost };
                if let (true, Some(room)) = (is_answer, &self.room) {
                    self.unread.read(room);
                }
            }
            "QUERY" if is_name(args) => self.query = QueryTarget::Person(args.to_owned()),
            "SET" => self.settings(args),
            "IGNORE" if is_name(args) => {
                insert_bounded(&mut self.ignored, args, IGNORED_MAX);
            }
            "UNIGNORE" => {
                self.ignored.remove(&Key::fold(args));
            }
            _ if !is_name(room) => {}
            "JOINED" => {
                self.enter(room);
                self.query = QueryTarget::Off;
            }
            "PARTED" if self.leave(room) => {
                self.room = self.joined.get(LOBBY).map(|lobby| lobby.name.clone());
                if self.room.is_some() {
                    self.unread.read(LOBBY);
                }
            }
            "KICKED" => {
                self.leave(room);
            }
            "ROOM" | "INVITATION" => {
                insert_bounded(&mut self.heard_of, room, ROOMS_HEARD_OF_MAX);
            }
            _ => {}
        }
    }

    /// `echo=on joins=off tags=on`
    fn settings(&mut self, args: &str) {
        let is_off =
            |word: &str| args.split(' ').any(|pair| pair.strip_prefix(word) == Some("=off"));
        let off = Setting::TABLE.iter().filter(|(_, word)| is_off(word));
        self.off = off.map(|(setting, _)| *setting).collect();
    }

    fn enter(&mut self, room: &str) {
        let key = Key::fold(room);
        if self.joined.len() < ROOMS_MAX || self.joined.contains_key(&key) {
            let entered = self.joined.entry(key).or_default();
            room.clone_into(&mut entered.name);
        }
        self.room = Some(room.to_owned());
        self.unread.read(room);
    }

    /// Forgets a room; whether it was the current one.
    fn leave(&mut self, room: &str) -> bool {
        if let Some(left) = self.joined.remove(&Key::fold(room)) {
            self.members -= left.members.len();
        }
        self.unread.read(room);
        let was_current = self.room.as_deref().is_some_and(|current| is_same(current, room));
        if was_current {
            self.room = None;
        }
        was_current
    }

    fn heard(&mut self, place: Place<'_>, from: &str) {
        match place {
            Place::Room(room) => {
                self.arrived(room, from);
                let is_here = self.query == QueryTarget::Off
                    && !self.unread.is_quiet(room)
                    && self.room.as_deref().is_some_and(|here| is_same(here, room));
                if is_here || is_same(from, &self.me) {
                    self.unread.read(room);
                } else {
                    self.unread.heard(room);
                }
            }
            Place::ToMe => self.wrote = Some(from.to_owned()),
            Place::ToPerson(_) => {}
        }
        self.speakers.retain(|name| !is_same(name, from));
        self.speakers.insert(0, from.to_owned());
        self.speakers.truncate(RECENT_SPEAKERS);
    }

    fn arrived(&mut self, room: &str, name: &str) {
        if let Some(room) = self.joined.get_mut(&Key::fold(room)) {
            let left = MEMBERS_MAX.saturating_sub(self.members);
            let max = room.members.len() + left;
            self.members += usize::from(insert_bounded(&mut room.members, name, max));
        }
    }

    fn gone(&mut self, room: &str, name: &str) {
        if let Some(room) = self.joined.get_mut(&Key::fold(room)) {
            self.members -= usize::from(room.members.remove(&Key::fold(name)).is_some());
        }
    }

    fn quit(&mut self, name: &str) {
        self.speakers.retain(|speaker| !is_same(speaker, name));
        for room in self.joined.values_mut() {
            self.members -= usize::from(room.members.remove(&Key::fold(name)).is_some());
        }
    }

    fn renamed(&mut self, old: &str, new: &str) {
        let follow = |name: &mut String| {
            if is_same(name, old) {
                new.clone_into(name);
            }
        };
        follow(&mut self.me);
        self.speakers.iter_mut().for_each(follow);
        self.wrote.iter_mut().for_each(follow);
        if let Some(mut name) = self.ignored.remove(&Key::fold(old)) {
            follow(&mut name);
            self.ignored.insert(Key::fold(new), name);
        }
        if let QueryTarget::Person(name) = &mut self.query {
            follow(name);
        }
        for room in self.joined.values_mut() {
            if room.members.remove(&Key::fold(old)).is_some() {
                let is_new = room.members.insert(Key::fold(new), new.to_owned()).is_none();
                self.members -= usize::from(!is_new);
            }
        }
    }
}

/// Keeps a name, unless there are so many others. Whether there is one more now.
fn insert_bounded(names: &mut BTreeMap<Key, String>, name: &str, max: usize) -> bool {
    let key = Key::fold(name);
    let is_known = names.contains_key(&key);
    if !is_known && names.len() >= max {
        return false;
    }
    names.insert(key, name.to_owned());
    !is_known
}

fn is_same(a: &str, b: &str) -> bool {
    Key::fold(a) == Key::fold(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lines: &[&str]) -> State {
        let mut state = State::new("alice");
        for line in lines {
            let (tags, plain) = Tags::split(line);
            state.apply(&tags, &Event::parse(plain).expect(line));
        }
        state
    }

    #[test]
    fn the_target_follows_the_server() {
        for (lines, target) in [
            (&[][..], "#lobby"),
            (&["@cid=1 [JOINED #ops] hi"], "#ops"),
            (&["@cid=1 [JOINED #ops] hi", "@cid=2 [PARTED #ops] bye"], "#lobby"),
            (&["@cid=1 [JOINED #ops] hi", "@cid=2 [PARTED #lobby] bye"], "#ops"),
            (&["@cid=1 [PARTED #lobby] bye"], "nowhere"),
            (&["@cid=1 [JOINED #ops] hi", "[KICKED #ops] bob: out"], "nowhere"),
            (&["@cid=1 [QUERY bob]"], "bob"),
            (&["@cid=1 [QUERY bob]", "@cid=2 [QUERY off]"], "#lobby"),
            (&["@cid=1 [QUERY bob]", "* bob quit", "[QUERY off]"], "nowhere"),
            (&["@cid=1 [QUERY bob]", "* bob is now rob"], "rob"),
            (&["@cid=1 [QUERY bob]", "@cid=2 [JOINED #ops] hi"], "#ops"),
        ] {
            assert_eq!(told(lines).target(), target, "{lines:?}");
        }
    }

    #[test]
    fn the_way_back_leads_to_where_lines_went() {
        for (lines, way) in [
            (&[][..], &[][..]),
            (&["@cid=1 [JOINED #ops]"], &["/join lobby", "/join ops"]),
            (
                &["@cid=1 [JOINED #art]", "@cid=2 [JOINED #ops]", "@cid=3 [JOINED #art]"],
                &["/join lobby", "/join ops", "/join art"],
            ),
            (&["@cid=1 [JOINED #ops]", "@cid=2 [PARTED #lobby]"], &["/join ops", "/part lobby"]),
            (&["@cid=1 [QUERY bob]"], &["/query bob"]),
        ] {
            assert_eq!(told(lines).restore_rooms(), way, "{lines:?}");
        }
    }

    #[test]
    fn way_back_from_elsewhere_leaves_other_rooms_and_ends_other_habits() {
        let lines = ["@cid=1 [JOINED #ops]", "@cid=2 [PARTED #lobby]", "@cid=3 [QUERY bob]"];
        let way = [
            "/set echo on",
            "/set joins on",
            "/back",
            "/query",
            "/join ops",
            "/part lobby",
            "/part Art",
            "/query bob",
        ];
        assert_eq!(told(&lines).way_back_from(&["lobby", "Art", "OPS"]), way);
        let lines = ["[SET echo=off joins=on tags=on]", "[AWAY on] x"];
        let way = ["/set joins on", "/set echo off", "/away x", "/query", "/join lobby"];
        assert_eq!(told(&lines).way_back_from(&["lobby"]), way);
    }

    #[test]
    fn somebody_new_gets_my_habits_and_what_was_said_meanwhile() {
        let lines = [
            "[SET echo=on joins=off tags=on]",
            "[AWAY on] at lunch",
            "[AWAY bob] is away",
            "[IGNORE carol]",
            "[IGNORE dave]",
            "[UNIGNORE Dave]",
            "* carol is now caro",
            "@cid=1 [JOINED #ops]",
        ];
        let way = ["/set joins off", "/away at lunch", "/ignore caro", "/join lobby", "/join ops"];
        assert_eq!(told(&lines).restore_rooms(), way);
        let histories = ["/history 1000 after 7 #lobby", "/history 1000 after 7 #ops"];
        assert_eq!(told(&lines).histories(Some(7)), histories);
        assert_eq!(told(&lines).histories(None), ["/history 1000 #lobby", "/history 1000 #ops"]);
        assert_eq!(told(&["[AWAY on] x", "[AWAY off]"]).restore_rooms(), [""; 0]);
    }

    #[test]
    fn people_come_and_go_and_the_last_to_speak_come_first() {
        let lines = [
            "[USERS #lobby 4] alice,bob,carol,dave",
            "carol: hi",
            "[PRIVATE MESSAGE] Dave: psst",
            "* bob is now rob",
            "* carol quit (bye)",
            "* erin joined",
        ];
        assert_eq!(told(&lines).people(), ["Dave", "erin", "rob"]);
        assert_eq!(told(&["* alice is now al"]).me(), "al");
    }

    #[test]
    fn what_is_no_name_is_not_kept_as_one() {
        let lines = [
            "[USERS #lobby 3] bob,\x1b[2J,a b",
            "@cid=1 [JOINED #\x1b[2J] x",
            "@cid=1 [QUERY \x1b[2J]",
            "[ROOM #\x1b[2J 3] x",
        ];
        let state = told(&lines);
        assert_eq!(state.people(), ["bob"]);
        assert_eq!(state.rooms(), ["lobby"]);
        assert_eq!(state.target(), "#lobby");
    }

    #[test]
    fn names_are_kept_up_to_a_limit_and_counted_right() {
        let mut state = told(&["@cid=1 [JOINED #ops] x"]);
        let mut hears = |line: &str| {
            let (tags, plain) = Tags::split(line);
            state.apply(&tags, &Event::parse(plain).expect(line));
            let rooms = state.joined.values().map(|room| room.members.len());
            assert_eq!(state.members, rooms.sum::<usize>(), "{line}");
        };
        for line in [
            "* bob joined",
            "#ops * bob joined",
            "* bob is now rob",
            "* carol joined",
            "* carol is now rob",
            "#ops * rob left",
            "* dave joined",
            "* dave quit",
            "@cid=2 [PARTED #ops] x",
            "#elsewhere * bob joined",
        ] {
            hears(line);
        }
        for number in 0..MEMBERS_MAX + 10 {
            let line = format!("* n{number} joined");
            let event = Event::parse(&line).expect("an event");
            state.apply(&Tags::default(), &event);
        }
        assert_eq!(state.members, MEMBERS_MAX);
        let hear = |state: &mut State, line: &str| {
            state.apply(&Tags::default(), &Event::parse(line).expect(line));
        };
        hear(&mut state, "* n5 quit");
        assert_eq!(state.members, MEMBERS_MAX - 1);
        hear(&mut state, "* again joined");
        hear(&mut state, "* again2 joined");
        assert_eq!(state.members, MEMBERS_MAX);
        for number in 0..ROOMS_HEARD_OF_MAX + 10 {
            hear(&mut state, &format!("[ROOM #r{number} 1] x"));
        }
        for number in 0..ROOMS_MAX + 10 {
            hear(&mut state, &format!("[JOINED #j{number}] x"));
            hear(&mut state, &format!("#u{number} bob: unread"));
            hear(&mut state, &format!("[IGNORE i{number}]"));
        }
        assert_eq!(state.rooms().len(), ROOMS_MAX + ROOMS_HEARD_OF_MAX);
        assert_eq!(state.unread.rooms().count(), ROOMS_MAX);
        assert_eq!((state.members, state.ignored.len()), (MEMBERS_MAX, IGNORED_MAX));
    }

    #[test]
    fn rooms_one_is_in_come_before_those_heard_of() {
        let lines = ["[ROOM #lobby 3] x", "[ROOM #art 3] x", "@cid=1 [JOINED #ops]"];
        assert_eq!(told(&lines).rooms(), ["lobby", "ops", "art"]);
    }
}
