//! Rooms: members, the audience of a room, and presence events, which are sent one by one
//! or, in a large room, coalesced into summaries. Moderation is elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::catch_up::DeliveryMode;
use super::moderation::Moderation;
use super::moderation::Scope;
use super::{
    Audience, Context, ErrorCode, Event, Hub, Key, Name, Now, Refusal, RoomIx, RoomName, Topic,
    Turn, User, UserIx, refusal,
};
use crate::protocol::event::PresenceSummary;
use crate::protocol::{LINE_MAX, Tags};
use crate::server::turn::Reader;

/// How often a large room gets a presence summary.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: RoomName,
    /// Identifies the room while the server runs, and is never reused.
    number: u64,
    /// Sorted by folded name, the order of `/who`.
    members: BTreeMap<Key, Member>,
    pub(super) moderation: Moderation,
    /// The connections that receive messages of the room; built on demand, cleared when
    /// members or their settings change.
    audience: Option<Arc<Audience>>,
    /// Presence changes since the last summary, while a summary is due.
    presence_summary: Option<PresenceSummary>,
    /// Whether a connected user has been a member since the server started.
    pub(super) was_visited: bool,
}

impl Room {
    pub(super) fn new(name: RoomName, number: u64) -> Self {
        Self {
            name,
            number,
            members: BTreeMap::new(),
            moderation: Moderation::default(),
            audience: None,
            presence_summary: None,
            was_visited: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn member(&self, name: &Key) -> Option<UserIx> {
        self.members.get(name).map(|member| member.user)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (&Key, UserIx)> {
        self.members.iter().map(|(key, member)| (key, member.user))
    }

    /// Returns the members with their positions in the global order of joins.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = (u64, UserIx)> {
        self.members.values().map(|member| (member.arrival, member.user))
    }

    pub(super) fn arrival_of(&self, name: &Key) -> u64 {
        self.members.get(name).map_or(0, |member| member.arrival)
    }

    pub(super) fn admit(&mut self, name: Key, user: UserIx, arrival: u64) {
        self.members.insert(name, Member { user, arrival });
        self.audience = None;
    }

    pub(super) fn rename(&mut self, old: &Key, new: &Key) {
        if let Some(member) = self.members.remove(old) {
            self.members.insert(new.clone(), member);
        }
    }
}

/// A member of a room.
#[derive(Debug, Clone, Copy)]
struct Member {
    user: UserIx,
    /// The position in the global order of joins.
    arrival: u64,
}

/// A presence change.
#[derive(Debug, Clone, Copy)]
enum PresenceChange {
    Joined,
    Left,
    Quit,
}

impl Hub {
    /// Returns the room with this name, creating it if necessary.
    pub(super) fn room_or_new(&mut self, name: &RoomName) -> usize {
        let key: &Key = name.key();
        if let Some(room) = self.room_names.get(key) {
            return *room;
        }
        self.last_room_number += 1;
        let room = self.rooms.insert(Room::new(name.clone(), self.last_room_number));
        self.room_names.insert(key.clone(), room);
        self.room_list = None;
        room
    }

    /// Removes a room without members.
    pub(super) fn remove_room(&mut self, room: RoomIx) -> Room {
        let ended = self.rooms.remove(room);
        self.room_names.remove(ended.name.key());
        self.room_list = None;
        ended
    }

    /// Adds a user to a room: announces them to the members and sends them the topic and
    /// the member list. The list and the presence events after it are consistent.
    pub(super) fn enter(&mut self, ctx: &mut Context<'_>, user: UserIx, room: RoomIx) {
        let name = self.users[user].name.clone();
        self.last_arrival += 1;
        self.rooms[room].admit(name.key().clone(), user, self.last_arrival);
        self.rooms[room].was_visited = true;
        self.users[user].rooms.push(room);
        self.users[user].current = Some(room);
        self.note_arrival(user, self.rooms[room].name.key().clone());
        if !self.coalesce_presence(ctx.now, room, PresenceChange::Joined) {
            let room_name = self.rooms[room].name.clone();
            let event = Event::Joined { room: room_name.as_str(), name: name.as_str() };
            self.announce(ctx.now, &[room], Topic::Presence, Some(ctx.conn), &event, ctx.turn);
        }
        self.describe(ctx, room);
    }

    pub(super) fn describe(&self, ctx: &mut Context<'_>, room: RoomIx) {
        let Room { name, moderation, .. } = &self.rooms[room];
        if let Some(topic) = &moderation.topic {
            ctx.reply(&Event::reply("TOPIC", &name.to_string(), topic));
        }
        self.list_for_newcomer(ctx, room);
    }

    /// Sends the member list; in a large room only the number of members.
    pub(super) fn list_for_newcomer(&self, ctx: &mut Context<'_>, room: RoomIx) {
        if self.is_quiet(room) {
            let Room { name, members, .. } = &self.rooms[room];
            let (room, count) = (name.as_str(), members.len());
            ctx.reply(&Event::Users { room, count, names: None });
        } else {
            self.list_members(ctx, room);
        }
    }

    pub(super) fn part(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: Option<&str>,
        reason: Option<&str>,
    ) -> Result<(), Refusal> {
        let room = match (name, self.users[user].current) {
            (Some(name), _) => self.room_of(user, name)?,
            (None, Some(room)) => room,
            (None, None) => {
                return refusal(ErrorCode::NotInRoom, "you are in no room; give the name of one");
            }
        };
        let reason = reason.filter(|_| self.require_not_muted(ctx.now, user, room).is_ok());
        let room_name = self.rooms[room].name.clone();
        let my_name = self.users[user].name.clone();
        if !self.coalesce_presence(ctx.now, room, PresenceChange::Left) {
            let event = Event::Left { room: room_name.as_str(), name: my_name.as_str(), reason };
            self.announce(ctx.now, &[room], Topic::Presence, Some(ctx.conn), &event, ctx.turn);
        }
        self.remove_from_room(user, room);
        let me = &mut self.users[user];
        let text = if me.current == Some(room) {
            me.current = me.rooms.contains(&self.lobby).then_some(self.lobby);
            match me.current {
                Some(_) => "your messages now go to #lobby",
                None => "you are in no room; /join one to talk",
            }
        } else {
            ""
        };
        ctx.reply(&Event::reply("PARTED", &room_name.to_string(), text));
        Ok(())
    }

    /// Removes a user from a room.
    pub(super) fn remove_from_room(&mut self, user: UserIx, room: RoomIx) {
        self.users[user].rooms.retain(|r| *r != room);
        self.note_departure(user, &self.rooms[room].name.key().clone());
        self.remove_member(room, &self.users[user].name.clone());
    }

    pub(super) fn remove_member(&mut self, room: RoomIx, name: &Name) {
        self.rooms[room].members.remove(name.key());
        self.rooms[room].audience = None;
        if self.rooms[room].members.is_empty() && room != self.lobby {
            self.crowd_deadlines.retain(|(_, with)| *with != room);
            if self.rooms[room].was_visited {
                self.end_room(room);
            } else {
                self.deactivate_or_end(room);
            }
        }
    }

    /// Ends a room and deletes its moderation.
    pub(super) fn end_room(&mut self, room: RoomIx) {
        let ended = self.remove_room(room);
        if let Some(number) = ended.moderation.number {
            self.delete_moderation(number);
        }
        // The operator right of a guest is stored with the session and must not apply to
        // the next room of that name.
        for operator in ended.moderation.operators {
            if let Some(user) = self.users_by_id.get(&operator) {
                self.mark_session_unsaved(*user);
            }
        }
    }

    pub(super) fn who(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: Option<&str>,
    ) -> Result<(), Refusal> {
        let room = match name {
            Some(name) => RoomName::parse(name)
                .ok()
                .and_then(|name| self.room_names.get(name.key()).copied())
                .ok_or_else(|| {
                    let name = name.trim_start_matches('#');
                    Refusal::new(
                        ErrorCode::NoSuchRoom,
                        format!("no such room: #{name}; /list shows all rooms"),
                    )
                })?,
            None => match self.users[user].current {
                Some(room) => room,
                None => {
                    return refusal(
                        ErrorCode::NoSuchRoom,
                        "you are in no room; give the name of one",
                    );
                }
            },
        };
        self.send_members(ctx, room);
        Ok(())
    }

    /// Sends all names, split into lines of at most `LINE_MAX` bytes.
    pub(super) fn list_members(&self, ctx: &mut Context<'_>, room: RoomIx) {
        let Room { name, members, .. } = &self.rooms[room];
        let (room, count) = (name.as_str(), members.len());
        let names_max = LINE_MAX - "[USERS # 18446744073709551615] ".len() - room.len();
        let mut line = String::new();
        for Member { user, .. } in members.values() {
            let name = self.users[*user].name.as_str();
            if !line.is_empty() && line.len() + 1 + name.len() > names_max {
                ctx.reply(&Event::Users { room, count, names: Some(&line) });
                line.clear();
            }
            if !line.is_empty() {
                line.push(',');
            }
            line.push_str(name);
        }
        let names = (!line.is_empty()).then_some(line.as_str());
        ctx.reply(&Event::Users { room, count, names });
    }

    pub(super) fn topic(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        text: Option<&str>,
    ) -> Result<(), Refusal> {
        let Some(room) = self.users[user].current else {
            return refusal(ErrorCode::NotInRoom, "you are in no room; /join one first");
        };
        let Some(text) = text else {
            let Room { name, moderation, .. } = &self.rooms[room];
            let topic = moderation.topic.as_deref().unwrap_or_default();
            ctx.reply(&Event::reply("TOPIC", &name.to_string(), topic));
            return Ok(());
        };
        self.require_not_muted(ctx.now, user, room)?;
        let text = (text.trim() != "-").then_some(text);
        let old = std::mem::replace(&mut self.rooms[room].moderation.topic, text.map(Into::into));
        let (room_name, name) = (self.rooms[room].name.clone(), self.users[user].name.clone());
        let event = Event::Topic { room: room_name.as_str(), name: name.as_str(), text };
        if old.as_deref() != text {
            self.mark_moderation_unsaved(Scope::Room(room));
            self.announce_action(ctx, room, &event);
        } else if ctx.cid.is_some() {
            // Most likely a retry whose answer was lost: the sender is answered, no one
            // else is notified.
            let time = self.stamp(ctx.now);
            ctx.reply_tagged(&Tags { time: Some(time), ..Tags::default() }, &event);
        } else {
            // Nothing changes: answered like `/topic` without a text.
            ctx.reply(&Event::reply("TOPIC", &room_name.to_string(), text.unwrap_or_default()));
        }
        Ok(())
    }

    /// Answers an action in a room and sends the same line to the other members.
    pub(super) fn announce_action(
        &mut self,
        ctx: &mut Context<'_>,
        room: RoomIx,
        event: &Event<'_>,
    ) {
        let time = self.stamp(ctx.now);
        ctx.reply_tagged(&Tags { time: Some(time), ..Tags::default() }, event);
        self.announce(ctx.now, &[room], Topic::Talk, Some(ctx.conn), event, ctx.turn);
    }

    /// Returns the audience of a room.
    pub(super) fn audience(&mut self, room: RoomIx) -> Arc<Audience> {
        if let Some(audience) = &self.rooms[room].audience {
            return audience.clone();
        }
        let Room { number, members, .. } = &self.rooms[room];
        let readers = members.values().filter_map(|member| self.reader(member.user)).collect();
        let audience = Arc::new(Audience::of_room(*number, readers));
        self.rooms[room].audience = Some(audience.clone());
        audience
    }

    /// Returns the members of several rooms, each once.
    pub(super) fn union(&mut self, rooms: &[RoomIx]) -> Arc<Audience> {
        if let [room] = rooms {
            return self.audience(*room);
        }
        let members = rooms.iter().flat_map(|room| self.rooms[*room].members.values());
        Arc::new(self.readers(members.map(|member| &member.user)))
    }

    /// Returns those of the users that currently receive live events.
    pub(super) fn readers<'a>(&self, users: impl IntoIterator<Item = &'a UserIx>) -> Audience {
        Audience::new(users.into_iter().filter_map(|user| self.reader(*user)).collect())
    }

    /// Returns how a user receives live events; `None` while they are disconnected or
    /// catching up.
    fn reader(&self, user: UserIx) -> Option<Reader> {
        let User { conn, feed, .. } = self.users[user];
        let conn = conn.filter(|_| feed == DeliveryMode::Live)?;
        let settings = self.settings(conn);
        Some(Reader { conn, tags: settings.tags, joins: settings.joins })
    }

    /// Clears the audiences that contain a user, after their settings or connection
    /// changed.
    pub(super) fn invalidate_audiences_of(&mut self, user: UserIx) {
        for room in &self.users[user].rooms {
            self.rooms[*room].audience = None;
        }
    }

    /// Announces a logout once to everyone who shares a room with the user; a large room
    /// only counts it.
    pub(super) fn announce_quit(
        &mut self,
        now: Now,
        user: UserIx,
        reason: Option<&str>,
        turn: &mut Turn,
    ) {
        let mut rooms = self.users[user].rooms.clone();
        rooms.retain(|room| !self.coalesce_presence(now, *room, PresenceChange::Quit));
        if rooms.is_empty() {
            return;
        }
        let has_voice = |room: &RoomIx| self.require_not_muted(now, user, *room).is_ok();
        let reason = reason.filter(|_| rooms.iter().all(has_voice));
        let (name, conn) = (self.users[user].name.clone(), self.users[user].conn);
        let event = Event::Quit { name: name.as_str(), reason };
        self.announce(now, &rooms, Topic::Presence, conn, &event, turn);
    }

    pub(super) fn is_quiet(&self, room: RoomIx) -> bool {
        self.rooms[room].len() > self.limits.quiet_above && !self.limits.announce
    }

    /// Counts a presence change of a large room for its next summary. `false` in a small
    /// room, where it has to be announced.
    fn coalesce_presence(&mut self, now: Now, room: RoomIx, what: PresenceChange) -> bool {
        if !self.is_quiet(room) {
            return false;
        }
        if self.rooms[room].presence_summary.is_none() {
            self.crowd_deadlines.insert((now.since_start + PRESENCE_INTERVAL, room));
        }
        let crowd = self.rooms[room].presence_summary.get_or_insert_default();
        match what {
            PresenceChange::Joined => crowd.joined += 1,
            PresenceChange::Left => crowd.left += 1,
            PresenceChange::Quit => crowd.quit += 1,
        }
        true
    }

    pub(super) fn send_presence_summary(&mut self, now: Now, room: RoomIx, turn: &mut Turn) {
        let Some(mut crowd) = self.rooms[room].presence_summary.take() else { return };
        crowd.here = self.rooms[room].len();
        let room_name = self.rooms[room].name.clone();
        let event = Event::Crowd { room: room_name.as_str(), crowd };
        let audience = self.audience(room);
        let tags = Tags { time: Some(self.stamp(now)), ..Tags::default() };
        turn.fan_out(audience, Topic::Presence, None, Vec::new(), &tags, &event);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::test_support::{connect, hub, say};

    #[test]
    fn unchanged_topic_is_not_stored() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        for (topic, is_change) in [("tea", true), ("tea", false), ("-", true), ("-", false)] {
            let (_, reply) = say(&mut hub, 0, &format!("/topic {topic}"));
            let is_answer = |line: &str| reply.text.starts_with(line);
            assert!(
                is_answer(if is_change { "* alice " } else { "[TOPIC #lobby]" }),
                "{}",
                reply.text
            );
            assert_eq!(hub.has_changes(), is_change, "{topic}");
            hub.mark_saved();
        }
    }
}
