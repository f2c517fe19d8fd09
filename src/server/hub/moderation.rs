//! Moderation of rooms: operators, kicks and mutes. Bans, locks and server operators are
//! in `bans.rs`, `locks.rs` and `server_admin.rs`.
//!
//! The user who creates a room is its operator, and operators promote others. `#lobby`
//! always exists, so it has no creator. Operator rights belong to the [`UserId`] and
//! remain while the user is not in the room. A room's moderation ends with the room, when
//! the last member leaves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bans::Ban;
use super::locks::Lock;
use super::{
    Context, ErrorCode, Event, Hub, Key, Name, Now, Refusal, Room, RoomIx, RoomName, Stamp, Tags,
    UserId, UserIx, no_such_user, refusal,
};

/// The moderation of one room or of the whole server. A stored form: fields may be added,
/// but not renamed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Moderation {
    /// The key in the storage; assigned when there is something to persist.
    #[serde(skip)]
    pub(super) number: Option<u64>,
    pub(super) operators: Vec<UserId>,
    pub(super) mutes: Vec<Mute>,
    pub(super) bans: Vec<Ban>,
    pub(super) lock: Lock,
    /// The room's topic; any member may set it.
    pub(super) topic: Option<Box<str>>,
}

/// Where a moderation command applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Room(RoomIx),
    Server,
}

impl Scope {
    /// The command that lifts a ban.
    pub(super) fn unban(self) -> &'static str {
        if self == Self::Server { "/gunban" } else { "/unban" }
    }

    /// The command that lists the bans.
    pub(super) fn bans(self) -> &'static str {
        if self == Self::Server { "/gbans" } else { "/bans" }
    }
}

/// A muted user.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mute {
    pub(super) person: UserId,
    /// The name at the time of the mute.
    name: Name,
    until: Expiry,
}

/// When a ban or mute ends; `None` means when an operator lifts it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(from = "Option<Stamp>", into = "Option<Stamp>")]
pub(super) struct Expiry(Option<Deadline>);

/// A deadline by both clocks. Only the wall clock time survives a restart.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    since_start: Option<Duration>,
    wall: Stamp,
}

impl From<Option<Stamp>> for Expiry {
    fn from(wall: Option<Stamp>) -> Self {
        Self(wall.map(|wall| Deadline { since_start: None, wall }))
    }
}

impl From<Expiry> for Option<Stamp> {
    fn from(until: Expiry) -> Self {
        until.0.map(|deadline| deadline.wall)
    }
}

impl Expiry {
    pub(super) fn after(now: Now, time: Option<Duration>) -> Self {
        Self(time.map(|time| {
            let ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            let since_start = Some(now.since_start.saturating_add(time));
            Deadline { since_start, wall: Stamp(now.wall.0.saturating_add(ms)) }
        }))
    }

    pub(super) fn is_over(self, now: Now) -> bool {
        match self.0 {
            None => false,
            Some(Deadline { since_start: Some(until), .. }) => until <= now.since_start,
            Some(Deadline { wall, .. }) => wall <= now.wall,
        }
    }

    /// Recomputes the wall clock deadline from the monotonic one after the wall clock was
    /// set. Returns whether it changed.
    pub(super) fn follow_clock(&mut self, now: Now) -> bool {
        let Some(Deadline { since_start: Some(until), wall }) = &mut self.0 else { return false };
        let Self(deadline) = Self::after(now, Some(until.saturating_sub(now.since_start)));
        let before = std::mem::replace(wall, deadline.map_or(*wall, |deadline| deadline.wall));
        before != *wall
    }

    /// Returns `until TIME`, or `endless` if there is no end.
    pub(super) fn describe(self, endless: &str) -> String {
        match self.0 {
            Some(Deadline { wall, .. }) => format!("until {wall}"),
            None => endless.to_owned(),
        }
    }
}

impl Moderation {
    pub(super) fn promote(&mut self, person: UserId) {
        if !self.operators.contains(&person) {
            self.operators.push(person);
        }
    }

    pub(super) fn is_operator(&self, person: UserId) -> bool {
        self.operators.contains(&person)
    }

    /// See [`Expiry::follow_clock`].
    pub(super) fn follow_clock(&mut self, now: Now) -> bool {
        let mutes = self.mutes.iter_mut().map(|mute| &mut mute.until);
        let bans = self.bans.iter_mut().map(Ban::until_mut);
        mutes.chain(bans).fold(false, |changed, until| until.follow_clock(now) | changed)
    }

    /// Whether a user is muted; without `now`, expired mutes count as well.
    pub(super) fn mutes_person(&self, now: Option<Now>, person: UserId) -> bool {
        let applies = |mute: &Mute| now.is_none_or(|now| !mute.until.is_over(now));
        self.mutes.iter().any(|mute| mute.person == person && applies(mute))
    }
}

/// Removes the entries that a new entry replaces, if the new entry then fits within
/// `most` entries. Otherwise returns `false` and leaves the list unchanged.
pub(super) fn reserve_entry<T>(
    list: &mut Vec<T>,
    most: usize,
    is_other: impl Fn(&T) -> bool,
) -> bool {
    let fits = list.iter().filter(|entry| is_other(entry)).count() < most;
    if fits {
        list.retain(is_other);
    }
    fits
}

impl Hub {
    /// `/op`.
    pub(super) fn promote(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let other = self.member_named(room, name)?;
        let person = self.users[other].id;
        self.drop_expired(ctx.now, Scope::Room(room));
        let (by, name) = (self.users[user].name.clone(), self.users[other].name.clone());
        let Room { name: room_name, moderation, .. } = &self.rooms[room];
        let room_name = room_name.clone();
        if moderation.is_operator(person) {
            let text = format!("nothing changed: {name} is already an operator of {room_name}");
            return refusal(ErrorCode::BadArgument, text);
        }
        let most = self.limits.max_operators;
        if moderation.operators.len() >= most {
            let text = format!("the limit of {most} operators is reached; /deop one first");
            return refusal(ErrorCode::TooMany, text);
        }
        self.make_operator(room, person);
        let event =
            Event::Promoted { room: room_name.as_str(), by: by.as_str(), name: name.as_str() };
        self.announce_action(ctx, room, &event);
        Ok(())
    }

    /// `/deop`. The target may be absent from the room, or the user themselves. The rights
    /// of the last operator go to another member, so that a room always has an operator.
    pub(super) fn demote(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let Some((person, name)) = self.known_user_named(name) else { return no_such_user(name) };
        let room_name = self.rooms[room].name.clone();
        if !self.rooms[room].moderation.is_operator(person) {
            let text = format!("nothing changed: {name} is not an operator of {room_name}");
            return refusal(ErrorCode::NoSuchUser, text);
        }
        if self.heir(Some(ctx.now), room, Some(person)).is_none()
            && !self.has_moderator(Some(ctx.now), room, Some(person))
        {
            let text = format!(
                "{room_name} needs an operator, and no other member can be one; /part instead"
            );
            return refusal(ErrorCode::BadArgument, text);
        }
        self.rooms[room].moderation.operators.retain(|operator| *operator != person);
        if let Some(other) = self.users_by_id.get(&person) {
            self.mark_session_unsaved(*other);
        }
        self.mark_moderation_unsaved(Scope::Room(room));
        let event = Event::Demoted { room: room_name.as_str(), name: name.as_str() };
        self.announce_action(ctx, room, &event);
        if !self.has_moderator(Some(ctx.now), room, None)
            && let Some(heir) = self.heir(Some(ctx.now), room, Some(person))
        {
            self.hand_over(ctx.now, room, heir, ctx.turn);
        }
        Ok(())
    }

    /// `/kick`.
    pub(super) fn kick(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
        reason: Option<&str>,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let other = self.member_named(room, name)?;
        if other == user {
            return refusal(
                ErrorCode::BadArgument,
                "you cannot kick yourself; /part leaves the room",
            );
        }
        let (by, name) = (self.users[user].name.clone(), self.users[other].name.clone());
        let room_name = self.rooms[room].name.clone();
        self.kick_member(ctx, &by, room, other, reason);
        let (by, name) = (by.as_str(), name.as_str());
        let event = Event::Kicked { room: room_name.as_str(), name, by, reason };
        self.announce_action(ctx, room, &event);
        Ok(())
    }

    /// Removes a user from a room and notifies the user. If it was the current room, the
    /// user has no current room afterwards: plain lines must not go to a room that the user
    /// did not choose.
    pub(super) fn kick_member(
        &mut self,
        ctx: &mut Context<'_>,
        by: &Name,
        room: RoomIx,
        user: UserIx,
        reason: Option<&str>,
    ) {
        self.remove_from_room(user, room);
        let current = &mut self.users[user].current;
        if *current == Some(room) {
            *current = None;
        }
        self.mark_session_unsaved(user);
        let text = reason.map_or_else(|| by.to_string(), |reason| format!("{by}: {reason}"));
        let room_name = self.rooms[room].name.to_string();
        self.send_to_user(
            user,
            &Tags::default(),
            &Event::reply("KICKED", &room_name, &text),
            ctx.turn,
        );
    }

    /// `/mute`. The target may be absent from the room.
    pub(super) fn mute(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
        time: Option<Duration>,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let Some((person, name)) = self.known_user_named(name) else { return no_such_user(name) };
        if person == self.users[user].id {
            return refusal(ErrorCode::BadArgument, "you cannot mute yourself");
        }
        self.drop_expired(ctx.now, Scope::Room(room));
        let Room { name: room_name, moderation, .. } = &mut self.rooms[room];
        let most = self.limits.max_mutes;
        if !reserve_entry(&mut moderation.mutes, most, |mute| mute.person != person) {
            let text = format!("the limit of {most} mutes is reached; /unmute one first");
            return refusal(ErrorCode::TooMany, text);
        }
        let (args, until) = (format!("{room_name} {name}"), Expiry::after(ctx.now, time));
        moderation.mutes.push(Mute { person, name, until });
        self.mark_moderation_unsaved(Scope::Room(room));
        ctx.reply(&Event::reply("MUTED", &args, &until.describe("until you /unmute them")));
        Ok(())
    }

    /// `/unmute`, by the current name or the name at the time of the mute.
    pub(super) fn unmute(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let person = self.known_user_named(name).map(|(person, _)| person);
        let Room { name: room_name, moderation, .. } = &mut self.rooms[room];
        let key = Key::fold(name);
        let is_target = |mute: &mut Mute| Some(mute.person) == person || *mute.name.key() == key;
        let Some(mute) = moderation.mutes.extract_if(.., is_target).last() else {
            return refusal(ErrorCode::NoSuchUser, format!("{name} is not muted in {room_name}"));
        };
        ctx.reply(&Event::reply("UNMUTED", &format!("{room_name} {}", mute.name), ""));
        self.mark_moderation_unsaved(Scope::Room(room));
        Ok(())
    }

    /// Refuses a user who is muted in the room.
    pub(super) fn require_not_muted(
        &self,
        now: Now,
        user: UserIx,
        room: RoomIx,
    ) -> Result<(), Refusal> {
        let Room { name, moderation, .. } = &self.rooms[room];
        let person = self.users[user].id;
        let is_mine = |mute: &&Mute| mute.person == person && !mute.until.is_over(now);
        let Some(mute) = moderation.mutes.iter().find(is_mine) else { return Ok(()) };
        let until = mute.until.describe("until an operator unmutes you");
        refusal(ErrorCode::Muted, format!("not sent: you are muted in {name} {until}"))
    }

    /// The room that an operator's command applies to: the current one.
    pub(super) fn moderated_room(&self, user: UserIx) -> Result<RoomIx, Refusal> {
        let Some(room) = self.users[user].current else {
            return refusal(ErrorCode::NotInRoom, "you are in no room; /join one first");
        };
        self.require_operator(user, room)?;
        Ok(room)
    }

    /// Refuses a user who is not an operator of the room or of the server.
    pub(super) fn require_operator(&self, user: UserIx, room: RoomIx) -> Result<(), Refusal> {
        let (person, Room { name, moderation, .. }) = (self.users[user].id, &self.rooms[room]);
        if moderation.is_operator(person) || self.is_server_operator(person) {
            return Ok(());
        }
        let text = match self.operators_online(room) {
            Some(names) => format!("only operators of {name} can do this; ask {names}"),
            None => format!("only operators of {name} can do this, and none is online"),
        };
        refusal(ErrorCode::Forbidden, text)
    }

    /// The names of the room's operators who are online.
    pub(super) fn operators_online(&self, room: RoomIx) -> Option<String> {
        let operators = self.rooms[room].moderation.operators.iter();
        let online = operators.filter_map(|operator| self.users_by_id.get(operator));
        let names: Vec<&str> = online.map(|user| self.users[*user].name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    fn member_named(&self, room: RoomIx, name: &str) -> Result<UserIx, Refusal> {
        let room = &self.rooms[room];
        room.member(&Key::fold(name)).ok_or_else(|| {
            Refusal::new(ErrorCode::NoSuchUser, format!("{name} is not in {}", room.name))
        })
    }

    /// The online user or the account with this name.
    pub(super) fn known_user_named(&self, name: &str) -> Option<(UserId, Name)> {
        let account = || self.accounts.named(&Key::fold(name)).map(|a| (a.person, a.name.clone()));
        let user = self.user_named(name).map(|user| &self.users[user]);
        user.map(|user| (user.id, user.name.clone())).or_else(account)
    }

    /// Whether a user is online or has an account. A guest's id ends with the logout.
    pub(super) fn can_return(&self, person: UserId) -> bool {
        self.users_by_id.contains_key(&person) || self.accounts.of(person).is_some()
    }

    /// Deletes expired entries and entries of users who cannot log in again, so that they
    /// do not count towards the limits.
    pub(super) fn drop_expired(&mut self, now: Now, scope: Scope) {
        let mut moderation = std::mem::take(self.moderation_mut(scope));
        moderation.operators.retain(|person| self.can_return(*person));
        moderation.mutes.retain(|mute| !mute.until.is_over(now) && self.can_return(mute.person));
        moderation.bans.retain(|ban| self.can_match(now, ban));
        moderation.lock.invited.retain(|person| self.can_return(*person));
        *self.moderation_mut(scope) = moderation;
    }

    pub(super) fn moderation(&self, scope: Scope) -> &Moderation {
        match scope {
            Scope::Room(room) => &self.rooms[room].moderation,
            Scope::Server => &self.server_moderation,
        }
    }

    pub(super) fn moderation_mut(&mut self, scope: Scope) -> &mut Moderation {
        match scope {
            Scope::Room(room) => &mut self.rooms[room].moderation,
            Scope::Server => &mut self.server_moderation,
        }
    }

    /// The scope as replies show it: the room's name, or `*` for the server.
    pub(super) fn scope_name(&self, scope: Scope) -> String {
        match scope {
            Scope::Room(room) => self.rooms[room].name.to_string(),
            Scope::Server => "*".to_owned(),
        }
    }

    /// The rooms in which a user is an operator, including rooms that the user has left.
    pub(super) fn rooms_led_by(&self, user: UserIx) -> Vec<RoomName> {
        let me = &self.users[user];
        let rooms = me.relations.leads.iter().filter_map(|room| self.rooms.get(*room));
        let mine = rooms.filter(|room| room.moderation.is_operator(me.id));
        mine.map(|room| room.name.clone()).collect()
    }

    /// The rooms of which a user is a member and an operator, sorted by name.
    pub(super) fn operated_by(&self, user: UserIx) -> Vec<RoomName> {
        let me = &self.users[user];
        let rooms = me.rooms.iter().map(|room| &self.rooms[*room]);
        let mine = rooms.filter(|room| room.moderation.is_operator(me.id));
        let mut names: Vec<RoomName> = mine.map(|room| room.name.clone()).collect();
        names.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_list_keeps_the_entry_that_would_be_replaced() {
        let mut list = vec!["a", "b", "c"];
        assert!(!reserve_entry(&mut list, 1, |entry| *entry != "a"), "the limit was lowered");
        assert_eq!(list, ["a", "b", "c"]);
        assert!(reserve_entry(&mut list, 3, |entry| *entry != "a"), "a replacement fits");
        assert_eq!(list, ["b", "c"]);
    }
}
