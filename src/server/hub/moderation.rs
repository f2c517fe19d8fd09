//! Order in rooms: who may keep it, and how (bans and locks have files of their
//! own; who keeps order on the whole server stands in `server_admin.rs`). Whoever makes a
//! room is its operator, and operators make others. `#lobby` is made by nobody.
//!
//! An operator is a person, an account or a visit, and stays one while away from
//! the room. All of this ends with the room, when the last one leaves it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bans::Ban;
use super::locks::Lock;
use super::{
    Context, ErrorCode, Event, Hub, Key, Name, Now, Refusal, Room, RoomIx, RoomName, Stamp, Tags,
    UserId, UserIx, no_such_user, refusal,
};

/// What is decided in one room, or for the whole server.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Moderation {
    /// What it is kept under; given when there is something to keep.
    #[serde(skip)]
    pub(super) number: Option<u64>,
    pub(super) operators: Vec<UserId>,
    pub(super) mutes: Vec<Mute>,
    pub(super) bans: Vec<Ban>,
    pub(super) lock: Lock,
    /// What a room is about: decided as well, if by anybody.
    pub(super) topic: Option<Box<str>>,
}

/// Where something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Room(RoomIx),
    Server,
}

impl Scope {
    /// What lifts a ban.
    pub(super) fn unban(self) -> &'static str {
        if self == Self::Server { "/gunban" } else { "/unban" }
    }

    /// What lists the bans.
    pub(super) fn bans(self) -> &'static str {
        if self == Self::Server { "/gbans" } else { "/bans" }
    }
}

/// Somebody who may not speak.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mute {
    pub(super) person: UserId,
    /// As it was then.
    name: Name,
    until: Expiry,
}

/// Until when something holds; `None`: until it is taken back.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(from = "Option<Stamp>", into = "Option<Stamp>")]
pub(super) struct Expiry(Option<Deadline>);

/// A moment to come, by both clocks. Only the wall clock's outlives the server.
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
        until.0.map(|moment| moment.wall)
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

    /// After the wall clock was set: the end by that clock is computed anew from the clock
    /// that is never set. Returns whether it changed.
    pub(super) fn follow_clock(&mut self, now: Now) -> bool {
        let Some(Deadline { since_start: Some(until), wall }) = &mut self.0 else { return false };
        let Self(anew) = Self::after(now, Some(until.saturating_sub(now.since_start)));
        let before = std::mem::replace(wall, anew.map_or(*wall, |moment| moment.wall));
        before != *wall
    }

    /// `until …`, or what is said where there is no end.
    pub(super) fn describe(self, endless: &str) -> String {
        match self.0 {
            Some(Deadline { wall, .. }) => format!("until {wall}"),
            None => endless.to_owned(),
        }
    }
}

impl Moderation {
    /// Makes somebody an operator.
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

    /// Whether somebody is muted; without a time, also if that may be over.
    pub(super) fn mutes_person(&self, now: Option<Now>, person: UserId) -> bool {
        let holds = |mute: &Mute| now.is_none_or(|now| !mute.until.is_over(now));
        self.mutes.iter().any(|mute| mute.person == person && holds(mute))
    }
}

/// Takes what is to be said anew out of a list, if there is room for it then; if not,
/// what had been said stands.
pub(super) fn reserve_entry<T>(
    list: &mut Vec<T>,
    most: usize,
    is_other: impl Fn(&T) -> bool,
) -> bool {
    let has_room = list.iter().filter(|one| is_other(one)).count() < most;
    if has_room {
        list.retain(is_other);
    }
    has_room
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
        let Room { name: shown, moderation, .. } = &self.rooms[room];
        let shown = shown.clone();
        if moderation.is_operator(person) {
            let text = format!("nothing changed: {name} is an operator of {shown} already");
            return refusal(ErrorCode::BadArgument, text);
        }
        let most = self.limits.max_operators;
        if moderation.operators.len() >= most {
            let text = format!("there are {most} operators; /deop one first");
            return refusal(ErrorCode::TooMany, text);
        }
        self.make_operator(room, person);
        let event = Event::Promoted { room: shown.as_str(), by: by.as_str(), name: name.as_str() };
        self.announce_action(ctx, room, &event);
        Ok(())
    }

    /// `/deop`; also of who is not in the room now, and of oneself. The right of the last
    /// operator goes to another member: a room is never left without one.
    pub(super) fn demote(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let Some((person, name)) = self.known_user_named(name) else { return no_such_user(name) };
        let shown = self.rooms[room].name.clone();
        if !self.rooms[room].moderation.is_operator(person) {
            let text = format!("nothing changed: {name} is not an operator of {shown}");
            return refusal(ErrorCode::NoSuchUser, text);
        }
        if self.heir(Some(ctx.now), room, Some(person)).is_none()
            && !self.has_moderator(Some(ctx.now), room, Some(person))
        {
            let text =
                format!("{shown} needs an operator, and nobody else is there; /part instead");
            return refusal(ErrorCode::BadArgument, text);
        }
        self.rooms[room].moderation.operators.retain(|operator| *operator != person);
        if let Some(other) = self.users_by_id.get(&person) {
            self.mark_session_unsaved(*other);
        }
        self.mark_moderation_unsaved(Scope::Room(room));
        let event = Event::Demoted { room: shown.as_str(), name: name.as_str() };
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
            return refusal(ErrorCode::BadArgument, "that is you; /part leaves the room");
        }
        let (by, name) = (self.users[user].name.clone(), self.users[other].name.clone());
        let shown = self.rooms[room].name.clone();
        self.kick_member(ctx, &by, room, other, reason);
        let (room_name, by, name) = (shown.as_str(), by.as_str(), name.as_str());
        self.announce_action(ctx, room, &Event::Kicked { room: room_name, name, by, reason });
        Ok(())
    }

    /// Takes somebody out of a room and tells them so. Their plain lines go
    /// nowhere then: nobody chose where else.
    pub(super) fn kick_member(
        &mut self,
        ctx: &mut Context<'_>,
        by: &Name,
        room: RoomIx,
        user: UserIx,
        reason: Option<&str>,
    ) {
        self.remove_from_room(user, room);
        let them = &mut self.users[user];
        if them.current == Some(room) {
            them.current = None;
        }
        self.mark_session_unsaved(user);
        let text = reason.map_or_else(|| by.to_string(), |reason| format!("{by}: {reason}"));
        let shown = self.rooms[room].name.to_string();
        self.send_to_user(user, &Tags::default(), &Event::reply("KICKED", &shown, &text), ctx.turn);
    }

    /// `/mute`; also of who is not in the room now.
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
            return refusal(ErrorCode::BadArgument, "that is you; mute somebody else");
        }
        self.drop_expired(ctx.now, Scope::Room(room));
        let Room { name: shown, moderation, .. } = &mut self.rooms[room];
        let most = self.limits.max_mutes;
        if !reserve_entry(&mut moderation.mutes, most, |mute| mute.person != person) {
            let text = format!("{most} people are muted here; /unmute one first");
            return refusal(ErrorCode::TooMany, text);
        }
        let (args, until) = (format!("{shown} {name}"), Expiry::after(ctx.now, time));
        moderation.mutes.push(Mute { person, name, until });
        self.mark_moderation_unsaved(Scope::Room(room));
        ctx.reply(&Event::reply("MUTED", &args, &until.describe("until you /unmute them")));
        Ok(())
    }

    /// `/unmute`, by the name of now or of then.
    pub(super) fn unmute(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let person = self.known_user_named(name).map(|(person, _)| person);
        let Room { name: shown, moderation, .. } = &mut self.rooms[room];
        let key = Key::fold(name);
        let is_meant = |mute: &mut Mute| Some(mute.person) == person || *mute.name.key() == key;
        let Some(mute) = moderation.mutes.extract_if(.., is_meant).last() else {
            return refusal(ErrorCode::NoSuchUser, format!("{name} is not muted in {shown}"));
        };
        ctx.reply(&Event::reply("UNMUTED", &format!("{shown} {}", mute.name), ""));
        self.mark_moderation_unsaved(Scope::Room(room));
        Ok(())
    }

    /// Whether somebody may be heard in a room.
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
        let until = mute.until.describe("by an operator");
        refusal(ErrorCode::Muted, format!("you are muted in {name} {until}; nobody saw this"))
    }

    /// The room that a command of an operator is about: the current one.
    pub(super) fn moderated_room(&self, user: UserIx) -> Result<RoomIx, Refusal> {
        let Some(room) = self.users[user].current else {
            return refusal(ErrorCode::NotInRoom, "you are in no room; /join one first");
        };
        self.require_operator(user, room)?;
        Ok(room)
    }

    /// Whether somebody keeps order in a room.
    pub(super) fn require_operator(&self, user: UserIx, room: RoomIx) -> Result<(), Refusal> {
        let (person, Room { name, moderation, .. }) = (self.users[user].id, &self.rooms[room]);
        if moderation.is_operator(person) || self.is_server_operator(person) {
            return Ok(());
        }
        let text = match self.operators_online(room) {
            Some(names) => format!("only operators of {name} may; ask {names}"),
            None => format!("only operators of {name} may, and none is here"),
        };
        refusal(ErrorCode::Forbidden, text)
    }

    /// The operators of a room who are on the server.
    pub(super) fn operators_online(&self, room: RoomIx) -> Option<String> {
        let operators = self.rooms[room].moderation.operators.iter();
        let here = operators.filter_map(|operator| self.users_by_id.get(operator));
        let names: Vec<&str> = here.map(|user| self.users[*user].name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    fn member_named(&self, room: RoomIx, name: &str) -> Result<UserIx, Refusal> {
        let room = &self.rooms[room];
        room.member(&Key::fold(name)).ok_or_else(|| {
            Refusal::new(ErrorCode::NoSuchUser, format!("{name} is not in {}", room.name))
        })
    }

    /// Somebody who is here, or has an account.
    pub(super) fn known_user_named(&self, name: &str) -> Option<(UserId, Name)> {
        let account = || self.accounts.named(&Key::fold(name)).map(|a| (a.person, a.name.clone()));
        let user = self.user_named(name).map(|user| &self.users[user]);
        user.map(|user| (user.id, user.name.clone())).or_else(account)
    }

    /// Guests who are gone never come back as who they were.
    pub(super) fn can_return(&self, person: UserId) -> bool {
        self.users_by_id.contains_key(&person) || self.accounts.of(person).is_some()
    }

    /// Makes room for more: what is over, or about nobody any more, is forgotten.
    pub(super) fn drop_expired(&mut self, now: Now, scope: Scope) {
        let mut order = std::mem::take(self.moderation_mut(scope));
        order.operators.retain(|person| self.can_return(*person));
        order.mutes.retain(|mute| !mute.until.is_over(now) && self.can_return(mute.person));
        order.bans.retain(|ban| self.can_match(now, ban));
        order.lock.invited.retain(|person| self.can_return(*person));
        *self.moderation_mut(scope) = order;
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

    /// `#ops`, or `*` for the server.
    pub(super) fn scope_name(&self, scope: Scope) -> String {
        match scope {
            Scope::Room(room) => self.rooms[room].name.to_string(),
            Scope::Server => "*".to_owned(),
        }
    }

    /// The rooms somebody is an operator of, also those they have left.
    pub(super) fn led_by(&self, user: UserIx) -> Vec<RoomName> {
        let me = &self.users[user];
        let rooms = me.relations.leads.iter().filter_map(|room| self.rooms.get(*room));
        let mine = rooms.filter(|room| room.moderation.is_operator(me.id));
        mine.map(|room| room.name.clone()).collect()
    }

    /// The rooms somebody is in and an operator of, by name.
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
    fn what_there_is_no_room_to_say_anew_stands_as_it_was() {
        let mut list = vec!["a", "b", "c"];
        assert!(!reserve_entry(&mut list, 1, |one| *one != "a"), "a bound that was lowered since");
        assert_eq!(list, ["a", "b", "c"]);
        assert!(reserve_entry(&mut list, 3, |one| *one != "a"), "full, but for what is replaced");
        assert_eq!(list, ["b", "c"]);
    }
}
