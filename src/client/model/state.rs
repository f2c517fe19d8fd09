//! The client's view of the chat, derived from the server's lines: the user's name, the target
//! of plain text, the rooms and their members. It never anticipates an answer of the server,
//! and knows nothing of the connection or the screen.
//!
//! Names appear in the prompt and in completions, so invalid names are never stored.

use std::collections::{BTreeMap, BTreeSet};

use super::mentions::Highlights;
use super::unread::{Thread, Unread};
use crate::client::limits::{IGNORED_MAX, KNOWN_ROOMS_MAX, MEMBERS_MAX, ROOMS_MAX};
use crate::commands::{self, Command, HistoryRange, MessageTarget, Parsed, Setting};
use crate::protocol::name::{is_label, is_name, is_same_name};
use crate::protocol::reply::Query;
use crate::protocol::{Event, HISTORY_MAX, Key, LOBBY, Message, Moderation, Place, Reply, Tags};

/// How many recent speakers are stored.
const RECENT_SPEAKERS: usize = 50;

/// The user to whom `/query` directs plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum QueryTarget {
    Off,
    Person(String),
    /// The user has left; the server refuses plain text until another target is chosen.
    Lost,
}

/// The state of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::client) enum LinkState {
    #[default]
    Up,
    /// The oldest unanswered line was sent this many seconds ago.
    Slow(u64),
    Lost,
}

/// The state of the chat, as far as the client knows it.
#[derive(Debug, Clone)]
pub(in crate::client) struct State {
    me: String,
    /// The highlighted words besides the user's name.
    pub(in crate::client) words: Highlights,
    /// The current room, as written; `None` after leaving the last one.
    room: Option<String>,
    query: QueryTarget,
    /// The joined rooms and their members.
    joined: BTreeMap<Key, Room>,
    /// How many members these rooms have together.
    members: usize,
    /// Other rooms, known from `/list` or an invitation.
    other_rooms: BTreeMap<Key, String>,
    /// Recent speakers, the latest first.
    speakers: Vec<String>,
    /// The sender of the latest private message, to whom `/reply` goes.
    last_private_sender: Option<String>,
    /// The settings that are off; all are on after a login.
    off: Vec<Setting>,
    away: Option<String>,
    ignored: BTreeMap<Key, String>,
    pub(in crate::client) unread: Unread,
    pub(in crate::client) link: LinkState,
    /// How many lines are sent but not acknowledged.
    pub(in crate::client) sending: usize,
}

#[derive(Debug, Clone, Default)]
struct Room {
    name: String,
    members: BTreeMap<Key, String>,
}

impl State {
    pub(in crate::client) fn new(me: &str) -> Self {
        let mut state = Self {
            me: me.to_owned(),
            words: Highlights::default(),
            room: None,
            query: QueryTarget::Off,
            joined: BTreeMap::new(),
            members: 0,
            other_rooms: BTreeMap::new(),
            speakers: Vec::new(),
            last_private_sender: None,
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

    /// Returns the state of a new session, which inherits only the highlights and quiet rooms.
    pub(in crate::client) fn reset(&self, me: &str) -> Self {
        Self { words: self.words.clone(), unread: self.unread.reset(), ..Self::new(me) }
    }

    /// Whether the user is in this room.
    pub(in crate::client) fn is_in(&self, room: &str) -> bool {
        self.joined.contains_key(&Key::fold(room))
    }

    /// Whether an event belongs to a quiet room and does not mention the user.
    pub(in crate::client) fn is_muted_room(&self, event: &Event<'_>) -> bool {
        match *event {
            Event::Message(Message { place: Place::Room(room), from, text, .. }) => {
                self.unread.is_quiet(room)
                    && !is_same_name(from, &self.me)
                    && !self.words.is_mention(text, &self.me)
            }
            Event::Joined { room, .. } | Event::Left { room, .. } => self.unread.is_quiet(room),
            _ => false,
        }
    }

    /// Whether a setting of the server is on.
    pub(in crate::client) fn is_on(&self, setting: Setting) -> bool {
        !self.off.contains(&setting)
    }

    pub(in crate::client) fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// Returns the user's name.
    pub(in crate::client) fn me(&self) -> &str {
        &self.me
    }

    /// Sets the user's name after the session was resumed.
    pub(in crate::client) fn resumed_as(&mut self, me: &str) {
        me.clone_into(&mut self.me);
    }

    /// Returns the target of plain text: `#lobby`, `bob`, `nowhere`.
    pub(in crate::client) fn target(&self) -> String {
        match (&self.query, &self.room) {
            (QueryTarget::Person(name), _) => name.clone(),
            (QueryTarget::Off, Some(room)) => format!("#{room}"),
            (QueryTarget::Lost, _) | (QueryTarget::Off, None) => "nowhere".to_owned(),
        }
    }

    /// Returns the current room, without `#`.
    pub(in crate::client) fn room(&self) -> Option<&str> {
        self.room.as_deref()
    }

    /// Returns the command that goes to the next thread with unread messages; those for the user
    /// come first. A private conversation counts as read even if it cannot be opened.
    pub(in crate::client) fn go_to_unread(&mut self) -> Option<String> {
        let name = self.unread.next()?.name.clone();
        self.unread.read(&Thread::person(&name));
        Some(go_to(&name))
    }

    /// Returns the command that goes to the next room or private conversation, or to the previous
    /// one: the joined rooms in order, then the users with unread messages and the last one who
    /// has written.
    pub(in crate::client) fn go_around(&self, is_forward: bool) -> Option<String> {
        let mut threads: Vec<String> =
            self.joined.values().map(|room| format!("#{}", room.name)).collect();
        let unread = self.unread.threads().map(|thread| &thread.name);
        let query = match &self.query {
            QueryTarget::Person(name) => Some(name),
            QueryTarget::Off | QueryTarget::Lost => None,
        };
        for name in unread.chain(query).chain(&self.last_private_sender) {
            if !threads.iter().any(|thread| is_same_name(thread, name)) {
                threads.push(name.clone());
            }
        }
        let at = threads.iter().position(|thread| is_same_name(thread, &self.target()));
        let next = match (at, threads.len()) {
            (_, 0) | (Some(_), 1) => return None,
            (None, _) => 0,
            (Some(at), count) => (at + if is_forward { 1 } else { count - 1 }) % count,
        };
        Some(go_to(&threads[next]))
    }

    /// Returns a `/reply` with its current recipient fixed, so that a line that is sent later
    /// does not go to the sender of a message received meanwhile. `None` for other lines.
    pub(in crate::client) fn with_fixed_target(&self, line: &str) -> Option<String> {
        let to = MessageTarget::Person(self.last_private_sender.as_deref()?);
        let Ok(Parsed::Command(Command::Reply { text })) = commands::parse(line) else {
            return None;
        };
        Some(Command::Msg { to, text }.to_string())
    }

    /// Whether plain text has the same target as in `other`, and all its rooms are joined.
    pub(in crate::client) fn has_same_target(&self, other: &Self) -> bool {
        is_same_name(&self.target(), &other.target())
            && other.joined.keys().all(|room| self.joined.contains_key(room))
    }

    /// Returns the lines that restore this state after a login.
    pub(in crate::client) fn restore_rooms(&self) -> Vec<String> {
        let mut lines = self.restore_settings();
        let is_there = self.joined.len() == 1 && self.is_in(LOBBY);
        lines.extend(self.moves(&[LOBBY], is_there));
        lines
    }

    /// Returns the lines that restore this state in a session that is in these rooms.
    pub(in crate::client) fn commands_to_return_from(&self, rooms: &[&str]) -> Vec<String> {
        let on = [Setting::Echo, Setting::Joins].into_iter().filter(|it| !self.off.contains(it));
        let on = on.map(|setting| Command::Set { change: Some((setting, true)) }.to_string());
        let mut lines: Vec<String> = on.collect();
        if self.away.is_none() {
            lines.push(Command::Back.to_string());
        }
        lines.extend(self.restore_settings());
        // Ends a query of that session. Joining a room ends a query, too, so the query to
        // restore comes last.
        lines.push(Command::Query { name: None }.to_string());
        lines.extend(self.moves(rooms, false));
        lines
    }

    /// Returns the requests for the history of the joined rooms: the messages after an id, or
    /// the latest ones.
    pub(in crate::client) fn histories(&self, after: Option<u64>) -> Vec<String> {
        let latest = HistoryRange::latest(HISTORY_MAX);
        let rows = HistoryRange { after, ..latest };
        let rooms = self.joined.values().map(|room| Some(MessageTarget::Room(&room.name)));
        rooms.map(|thread| Command::History { rows, thread }.to_string()).collect()
    }

    /// Returns the lines that restore settings, away text and ignores after a login.
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

    /// Returns the lines that change from these rooms to the joined ones and restore the query.
    /// `is_there`: the rooms are already the joined ones.
    fn moves(&self, from: &[&str], is_there: bool) -> Vec<String> {
        let is_current = |name: &str| self.room().is_some_and(|room| is_same_name(room, name));
        let (last, others): (Vec<_>, Vec<_>) =
            self.joined.values().map(|room| room.name.as_str()).partition(|name| is_current(name));
        let rooms: Vec<_> = others.into_iter().chain(last).collect();
        let mut lines = Vec::new();
        if !is_there {
            lines.extend(rooms.iter().map(|room| Command::Join { room, key: None }.to_string()));
        }
        for room in from.iter().filter(|there| !rooms.iter().any(|room| is_same_name(room, there)))
        {
            lines.push(Command::Part { room: Some(room), reason: None }.to_string());
        }
        if let QueryTarget::Person(name) = &self.query {
            lines.push(Command::Query { name: Some(name) }.to_string());
        }
        lines
    }

    /// Returns the other users in the joined rooms, recent speakers first.
    pub(in crate::client) fn people(&self) -> Vec<String> {
        let mut known: BTreeSet<Key> = [Key::fold(&self.me)].into();
        let members = self.joined.values().flat_map(|room| room.members.values());
        let people = self.speakers.iter().chain(members);
        people.filter(|name| known.insert(Key::fold(name))).cloned().collect()
    }

    /// Whether a user is among the recent speakers.
    pub(in crate::client) fn has_spoken(&self, name: &str) -> bool {
        self.speaker(name).is_some()
    }

    /// Returns the position of a user among the recent speakers; 0 is the latest.
    pub(in crate::client) fn speaker(&self, name: &str) -> Option<usize> {
        self.speakers.iter().position(|speaker| is_same_name(speaker, name))
    }

    /// Returns how many members of a joined room are known; of the current one if none is given.
    /// The room may have a `#`.
    pub(in crate::client) fn member_count(&self, room: Option<&str>) -> usize {
        let room = room.map(|room| room.trim_start_matches('#')).or(self.room());
        let room = room.and_then(|room| self.joined.get(&Key::fold(room)));
        room.map_or(0, |room| room.members.len())
    }

    /// Returns the number of members of a room or, if none is given, of the smallest room that
    /// the user with this `name` is in.
    pub(in crate::client) fn smallest_room(&self, room: Option<&str>, name: &str) -> usize {
        let rooms = self.joined.iter().filter(|(key, joined)| match room {
            Some(room) => **key == Key::fold(room),
            None => joined.members.contains_key(&Key::fold(name)),
        });
        rooms.map(|(_, room)| room.members.len()).min().unwrap_or_default()
    }

    /// Returns the other users who share a room of at most `max` other users with this one.
    pub(in crate::client) fn neighbours(&self, name: &str, max: usize) -> BTreeSet<&Key> {
        let (me, key) = (Key::fold(&self.me), Key::fold(name));
        let rooms = self.joined.values().map(|room| &room.members);
        let small = rooms.filter(|members| {
            members.contains_key(&key)
                && members.len() - usize::from(members.contains_key(&me)) <= max
        });
        small.flat_map(BTreeMap::keys).filter(|other| **other != me && **other != key).collect()
    }

    /// Returns the joined rooms; the current one is the last.
    pub(in crate::client) fn rooms_to_remember(&self) -> Vec<&str> {
        let is_current =
            |room: &&str| self.room().is_some_and(|current| is_same_name(current, room));
        let joined = self.joined.values().map(|room| room.name.as_str());
        let (last, mut rooms): (Vec<_>, Vec<_>) = joined.partition(is_current);
        rooms.extend(last);
        rooms
    }

    /// Returns the known rooms, without `#`, joined ones first.
    pub(in crate::client) fn rooms(&self) -> Vec<String> {
        let joined = self.joined.values().map(|room| room.name.clone());
        let others = self.other_rooms.iter().filter(|(key, _)| !self.joined.contains_key(*key));
        joined.chain(others.map(|(_, name)| name.clone())).collect()
    }

    /// Updates the state after a line of the server.
    pub(in crate::client) fn apply(&mut self, tags: &Tags<'_>, event: &Event<'_>) {
        match *event {
            Event::Message(message) => self.apply_message(&message),
            Event::Joined { room, name } => self.add_member(room, name),
            Event::Left { room, name, .. } | Event::Kicked { room, name, .. } => {
                self.remove_member(room, name);
            }
            Event::Quit { name, .. } => self.remove_user(name),
            Event::Renamed { old, new } => self.rename_user(old, new),
            Event::Reply(reply) => self.apply_reply(&reply, tags.cid.is_some()),
            _ => {}
        }
    }

    fn apply_reply(&mut self, reply: &Reply<'_>, is_answer: bool) {
        match *reply {
            Reply::Users { room, names: Some(names), .. } => {
                let names = names.iter().filter(|name| is_name(name));
                names.for_each(|name| self.add_member(room, name));
            }
            Reply::Away { text } => self.away = Some(text.to_owned()),
            Reply::Back => self.away = None,
            Reply::Query(Query::On(name) | Query::Renamed(name)) => {
                self.unread.read(&Thread::person(name));
                self.query = QueryTarget::Person(name.to_owned());
            }
            Reply::Query(Query::Off(_) | Query::Gone(_) | Query::Ended) => {
                // Unsolicited: the user of the query has left.
                self.query = if is_answer { QueryTarget::Off } else { QueryTarget::Lost };
                if let (true, Some(room)) = (is_answer, &self.room) {
                    self.unread.read(&Thread::room(room));
                }
            }
            Reply::Set { settings } => {
                let is_off = |word: &str| settings.iter().any(|pair| pair == (word, false));
                let off = Setting::TABLE.iter().filter(|(_, word)| is_off(word));
                self.off = off.map(|(setting, _)| *setting).collect();
            }
            Reply::Ignore { name, .. } => {
                insert_bounded(&mut self.ignored, name, IGNORED_MAX);
            }
            Reply::Unignore { name, .. } => {
                self.ignored.remove(&Key::fold(name));
            }
            Reply::Joined { room } => {
                self.enter(room);
                self.query = QueryTarget::Off;
            }
            Reply::Parted { room, .. } if self.leave(room) => {
                self.room = self.joined.get(LOBBY).map(|lobby| lobby.name.clone());
                if self.room.is_some() {
                    self.unread.read(&Thread::room(LOBBY));
                }
            }
            Reply::Moderation(Moderation::Kicked { room, .. }) => {
                self.leave(room);
            }
            Reply::Room { room, .. } | Reply::Moderation(Moderation::Invitation { room, .. }) => {
                insert_bounded(&mut self.other_rooms, room, KNOWN_ROOMS_MAX);
            }
            _ => {}
        }
    }

    fn enter(&mut self, room: &str) {
        let key = Key::fold(room);
        if self.joined.len() < ROOMS_MAX || self.joined.contains_key(&key) {
            let entered = self.joined.entry(key).or_default();
            room.clone_into(&mut entered.name);
        }
        self.room = Some(room.to_owned());
        self.unread.read(&Thread::room(room));
    }

    /// Removes a joined room. Returns whether it was the current one.
    fn leave(&mut self, room: &str) -> bool {
        if let Some(left) = self.joined.remove(&Key::fold(room)) {
            self.members -= left.members.len();
        }
        self.unread.read(&Thread::room(room));
        let was_current = self.room.as_deref().is_some_and(|current| is_same_name(current, room));
        if was_current {
            self.room = None;
        }
        was_current
    }

    fn apply_message(&mut self, message: &Message<'_>) {
        let from = message.from;
        match message.place {
            Place::Room(room) => {
                if !is_label(from) {
                    self.add_member(room, from);
                }
                let is_current = self.query == QueryTarget::Off
                    && !self.unread.is_quiet(room)
                    && self.room.as_deref().is_some_and(|current| is_same_name(current, room));
                if is_current || is_same_name(from, &self.me) {
                    self.unread.read(&Thread::room(room));
                } else {
                    self.unread.add(room, self.words.is_mention(message.text, &self.me));
                }
            }
            Place::ToMe => {
                self.last_private_sender = Some(from.to_owned());
                let is_current =
                    matches!(&self.query, QueryTarget::Person(name) if is_same_name(name, from));
                if !is_current && !is_same_name(from, &self.me) {
                    self.unread.add_private(from);
                }
            }
            // The user has answered.
            Place::ToPerson(name) => self.unread.read(&Thread::person(name)),
        }
        if !is_label(from) {
            self.speakers.retain(|name| !is_same_name(name, from));
            self.speakers.insert(0, from.to_owned());
            self.speakers.truncate(RECENT_SPEAKERS);
        }
    }

    fn add_member(&mut self, room: &str, name: &str) {
        if let Some(room) = self.joined.get_mut(&Key::fold(room)) {
            let left = MEMBERS_MAX.saturating_sub(self.members);
            let max = room.members.len() + left;
            self.members += usize::from(insert_bounded(&mut room.members, name, max));
        }
    }

    fn remove_member(&mut self, room: &str, name: &str) {
        if let Some(room) = self.joined.get_mut(&Key::fold(room)) {
            self.members -= usize::from(room.members.remove(&Key::fold(name)).is_some());
        }
    }

    fn remove_user(&mut self, name: &str) {
        // A private conversation with them cannot be opened any more.
        self.unread.read(&Thread::person(name));
        self.speakers.retain(|speaker| !is_same_name(speaker, name));
        for room in self.joined.values_mut() {
            self.members -= usize::from(room.members.remove(&Key::fold(name)).is_some());
        }
    }

    fn rename_user(&mut self, old: &str, new: &str) {
        let rename = |name: &mut String| {
            if is_same_name(name, old) {
                new.clone_into(name);
            }
        };
        rename(&mut self.me);
        self.unread.rename(old, new);
        self.speakers.iter_mut().for_each(rename);
        self.last_private_sender.iter_mut().for_each(rename);
        if let Some(mut name) = self.ignored.remove(&Key::fold(old)) {
            rename(&mut name);
            self.ignored.insert(Key::fold(new), name);
        }
        if let QueryTarget::Person(name) = &mut self.query {
            rename(name);
        }
        for room in self.joined.values_mut() {
            if room.members.remove(&Key::fold(old)).is_some() {
                let is_new = room.members.insert(Key::fold(new), new.to_owned()).is_none();
                self.members -= usize::from(!is_new);
            }
        }
    }
}

/// Stores a name unless `max` others are stored. Returns whether the number of names grew.
fn insert_bounded(names: &mut BTreeMap<Key, String>, name: &str, max: usize) -> bool {
    let key = Key::fold(name);
    let is_known = names.contains_key(&key);
    if !is_known && names.len() >= max {
        return false;
    }
    names.insert(key, name.to_owned());
    !is_known
}

/// Returns the command that directs text to a thread: `#ops`, `bob`.
fn go_to(thread: &str) -> String {
    match thread.strip_prefix('#') {
        Some(room) => Command::Join { room, key: None }.to_string(),
        None => Command::Query { name: Some(thread) }.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(state: &mut State, line: &str) {
        let (tags, plain) = Tags::split(line);
        state.apply(&tags, &Event::parse(plain).expect(line));
    }

    fn state_after(lines: &[&str]) -> State {
        let mut state = State::new("alice");
        for line in lines {
            apply(&mut state, line);
        }
        state
    }

    #[test]
    fn unread_messages_for_the_user_come_first_and_are_read_by_going_there() {
        let mut state = state_after(&["@cid=1 [JOINED #ops] x", "@cid=2 [JOINED #dev] x"]);
        assert_eq!(state.go_to_unread(), None);
        for line in ["bob: hi", "#ops bob: alice, look", "[PRIVATE MESSAGE] carol: psst"] {
            apply(&mut state, line);
        }
        assert_eq!(state.unread.total(), 3);
        assert_eq!(state.go_to_unread().as_deref(), Some("/join ops"));
        apply(&mut state, "@cid=3 [JOINED #ops] x");
        assert_eq!(state.go_to_unread().as_deref(), Some("/query carol"));
        // Also if carol is gone by now.
        assert_eq!(state.go_to_unread().as_deref(), Some("/join lobby"));
        apply(&mut state, "@cid=4 [JOINED #lobby] x");
        assert_eq!((state.go_to_unread(), state.unread.total()), (None, 0));
    }

    #[test]
    fn private_messages_are_read_by_an_answer_and_follow_the_name() {
        let mut state = State::new("alice");
        for line in
            ["[PRIVATE MESSAGE] bob: psst", "* bob is now rob", "[PRIVATE MESSAGE] alice: x"]
        {
            apply(&mut state, line);
        }
        assert_eq!(state.unread.threads().map(|it| &*it.name).collect::<Vec<_>>(), ["rob"]);
        apply(&mut state, "[PRIVATE MESSAGE to rob] alice: yes");
        assert_eq!(state.unread.total(), 0);
        for line in ["@cid=1 [QUERY rob] x", "[PRIVATE MESSAGE] rob: on screen"] {
            apply(&mut state, line);
        }
        assert_eq!(state.unread.total(), 0, "the current conversation");
        apply(&mut state, "[PRIVATE MESSAGE] carol: psst");
        apply(&mut state, "* carol quit");
        assert_eq!(state.unread.total(), 0, "nobody to answer");
    }

    #[test]
    fn going_around_visits_rooms_then_conversations() {
        let mut state = State::new("alice");
        assert_eq!(state.go_around(true), None);
        for line in ["@cid=1 [JOINED #ops] x", "[PRIVATE MESSAGE] carol: psst"] {
            apply(&mut state, line);
        }
        let around = |state: &State| [true, false].map(|way| state.go_around(way).unwrap());
        assert_eq!(around(&state), ["/query carol", "/join lobby"]);
        apply(&mut state, "@cid=2 [QUERY carol] x");
        assert_eq!(around(&state), ["/join lobby", "/join ops"]);
        apply(&mut state, "@cid=3 [JOINED #lobby] x");
        assert_eq!(around(&state), ["/join ops", "/query carol"]);
        apply(&mut state, "@cid=4 [QUERY bob] x");
        apply(&mut state, "[QUERY off] bob is gone");
        assert_eq!(around(&state), ["/join lobby", "/join lobby"], "from nowhere");
    }

    #[test]
    fn target_follows_the_server() {
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
            assert_eq!(state_after(lines).target(), target, "{lines:?}");
        }
    }

    #[test]
    fn reply_is_fixed_to_the_last_private_sender() {
        let lines = ["[PRIVATE MESSAGE] carol: hi", "[PRIVATE MESSAGE] bob: psst", "dave: hi"];
        let state = state_after(&lines);
        for line in ["/reply yes", "/r yes"] {
            assert_eq!(state.with_fixed_target(line).as_deref(), Some("/msg bob yes"), "{line}");
        }
        for line in ["yes", "/msg carol yes", "/reply", "//r yes"] {
            assert_eq!(state.with_fixed_target(line), None, "{line}");
        }
        assert_eq!(state_after(&["dave: hi"]).with_fixed_target("/reply yes"), None);
    }

    #[test]
    fn rooms_and_query_are_restored_after_login() {
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
            assert_eq!(state_after(lines).restore_rooms(), way, "{lines:?}");
        }
    }

    #[test]
    fn resumed_session_leaves_other_rooms_and_resets_other_settings() {
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
        assert_eq!(state_after(&lines).commands_to_return_from(&["lobby", "Art", "OPS"]), way);
        let lines = ["[SET echo=off joins=on tags=on]", "[AWAY on] x"];
        let way = ["/set joins on", "/set echo off", "/away x", "/query", "/join lobby"];
        assert_eq!(state_after(&lines).commands_to_return_from(&["lobby"]), way);
    }

    #[test]
    fn settings_are_restored_and_history_requested_after_login() {
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
        assert_eq!(state_after(&lines).restore_rooms(), way);
        let histories = ["/history 1000 after 7 #lobby", "/history 1000 after 7 #ops"];
        assert_eq!(state_after(&lines).histories(Some(7)), histories);
        assert_eq!(
            state_after(&lines).histories(None),
            ["/history 1000 #lobby", "/history 1000 #ops"]
        );
        assert_eq!(state_after(&["[AWAY on] x", "[AWAY off]"]).restore_rooms(), [""; 0]);
    }

    #[test]
    fn people_are_listed_with_recent_speakers_first() {
        let lines = [
            "[USERS #lobby 4] alice,bob,carol,dave",
            "carol: hi",
            "[PRIVATE MESSAGE] Dave: psst",
            "* bob is now rob",
            "* carol quit (bye)",
            "* erin joined",
        ];
        assert_eq!(state_after(&lines).people(), ["Dave", "erin", "rob"]);
        assert_eq!(state_after(&["* alice is now al"]).me(), "al");
    }

    #[test]
    fn invalid_name_is_not_stored() {
        let lines = [
            "[USERS #lobby 3] bob,\x1b[2J,a b",
            "@cid=1 [JOINED #\x1b[2J] x",
            "@cid=1 [QUERY \x1b[2J]",
            "[ROOM #\x1b[2J 3] x",
        ];
        let state = state_after(&lines);
        assert_eq!(state.people(), ["bob"]);
        assert_eq!(state.rooms(), ["lobby"]);
        assert_eq!(state.target(), "#lobby");
    }

    #[test]
    fn names_are_bounded_and_counted_correctly() {
        let mut state = state_after(&["@cid=1 [JOINED #ops] x"]);
        let mut apply_and_count = |line: &str| {
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
            apply_and_count(line);
        }
        for number in 0..MEMBERS_MAX + 10 {
            let line = format!("* n{number} joined");
            let event = Event::parse(&line).expect("an event");
            state.apply(&Tags::default(), &event);
        }
        assert_eq!(state.members, MEMBERS_MAX);
        let apply = |state: &mut State, line: &str| {
            state.apply(&Tags::default(), &Event::parse(line).expect(line));
        };
        apply(&mut state, "* n5 quit");
        assert_eq!(state.members, MEMBERS_MAX - 1);
        apply(&mut state, "* again joined");
        apply(&mut state, "* again2 joined");
        assert_eq!(state.members, MEMBERS_MAX);
        for number in 0..KNOWN_ROOMS_MAX + 10 {
            apply(&mut state, &format!("[ROOM #r{number} 1] x"));
        }
        for number in 0..ROOMS_MAX + 10 {
            apply(&mut state, &format!("[JOINED #j{number}] x"));
            apply(&mut state, &format!("#u{number} bob: unread"));
            apply(&mut state, &format!("[IGNORE i{number}]"));
        }
        assert_eq!(state.rooms().len(), ROOMS_MAX + KNOWN_ROOMS_MAX);
        assert_eq!(state.unread.threads().count(), ROOMS_MAX);
        assert_eq!((state.members, state.ignored.len()), (MEMBERS_MAX, IGNORED_MAX));
    }

    #[test]
    fn joined_rooms_are_listed_before_others() {
        let lines = ["[ROOM #lobby 3] x", "[ROOM #art 3] x", "@cid=1 [JOINED #ops]"];
        assert_eq!(state_after(&lines).rooms(), ["lobby", "ops", "art"]);
    }
}
