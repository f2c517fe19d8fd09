//! Locked rooms: in comes who is invited, who knows the key, and who keeps
//! order there. An invitation is for one entry.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::moderation::{Scope, reserve_entry};
use super::password_checks::Purpose;
use super::password_throttle::Guarded;
use super::{
    Context, ErrorCode, Event, Hub, Now, Refusal, Room, RoomIx, Tags, UserId, UserIx, no_such_user,
    refusal,
};
use crate::server::passwords::{Job, Secret, digest};

/// How a room is locked, if it is.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lock {
    pub(super) is_on: bool,
    /// Whether an operator of the server locked it.
    pub(super) is_by_server: bool,
    /// The digest of what opens it.
    key: Option<Arc<str>>,
    /// Also while it is open: it may be locked before they come.
    pub(super) invited: Vec<UserId>,
}

impl Lock {
    /// Whether nothing was ever said about it.
    pub(super) fn is_default(&self) -> bool {
        !self.is_on && self.invited.is_empty()
    }
}

/// How one comes into a room.
#[derive(Debug)]
pub(super) enum Entry {
    Open,
    /// With what has this digest.
    ByKey(Arc<str>),
}

impl Hub {
    /// `/lock`, also with another key.
    pub(super) fn lock(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        key: Option<&str>,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let is_by_server = self.is_server_operator(self.users[user].id);
        let Room { name, moderation, .. } = &mut self.rooms[room];
        moderation.lock.is_by_server = is_by_server;
        moderation.lock.is_on = true;
        moderation.lock.key = key.map(|key| digest(key).into());
        let who = match key {
            Some(_) => "only invited people or those with the key can join",
            None => "only invited people can join",
        };
        // What was said outlives the room; the lock does not.
        let end = if room == self.lobby {
            ""
        } else {
            "; the lock ends with the last member, then anyone can join and read /history"
        };
        let text = format!("{who}{end}");
        ctx.reply(&Event::reply("LOCKED", &name.to_string(), &text));
        self.mark_moderation_unsaved(Scope::Room(room));
        Ok(())
    }

    /// `/unlock`.
    pub(super) fn unlock(&mut self, ctx: &mut Context<'_>, user: UserIx) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let Room { name, moderation, .. } = &mut self.rooms[room];
        let was_locked = std::mem::take(&mut moderation.lock).is_on;
        let text = if was_locked { "" } else { "nothing changed: it was not locked" };
        ctx.reply(&Event::reply("UNLOCKED", &name.to_string(), text));
        self.mark_moderation_unsaved(Scope::Room(room));
        Ok(())
    }

    /// `/invite`. Whoever ignores the inviting one is not told.
    pub(super) fn invite(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let Some(other) = self.user_named(name) else { return no_such_user(name) };
        if self.users[other].rooms.contains(&room) {
            let (name, room) = (&self.users[other].name, &self.rooms[room].name);
            return refusal(ErrorCode::BadArgument, format!("{name} is in {room} already"));
        }
        self.drop_expired(ctx.now, Scope::Room(room));
        let (me, person) = (self.users[user].id, self.users[other].id);
        let order = &mut self.rooms[room].moderation;
        let most = self.limits.max_invited;
        if !reserve_entry(&mut order.lock.invited, most, |invited| *invited != person) {
            let text = format!("{most} people are invited and have not come; /unlock first");
            return refusal(ErrorCode::TooMany, text);
        }
        order.lock.invited.push(person);
        self.mark_moderation_unsaved(Scope::Room(room));
        let Room { name: shown, .. } = &self.rooms[room];
        let (shown, name) = (shown.to_string(), self.users[other].name.clone());
        ctx.reply(&Event::reply("INVITED", &format!("{shown} {name}"), ""));
        if !self.users[other].relations.ignores.iter().any(|ignored| ignored.person == me) {
            let by = self.users[user].name.clone();
            let event = Event::reply("INVITATION", &shown, by.as_str());
            self.send_to_user(other, &Tags::default(), &event, ctx.turn);
        }
        Ok(())
    }

    /// Whether somebody may come into a room that is there, the key aside.
    pub(super) fn require_entry(
        &self,
        now: Now,
        user: UserIx,
        room: RoomIx,
    ) -> Result<Entry, Refusal> {
        self.require_not_banned(now, user, room)?;
        let order = &self.rooms[room].moderation;
        let (me, lock) = (self.users[user].id, &order.lock);
        let is_meant =
            lock.invited.contains(&me) || order.is_operator(me) || self.is_server_operator(me);
        match &lock.key {
            _ if !lock.is_on || is_meant => Ok(Entry::Open),
            Some(key) => Ok(Entry::ByKey(key.clone())),
            None => Err(self.locked_out(room, "")),
        }
    }

    /// Whoever is in needs their invitation no more.
    pub(super) fn use_invitation(&mut self, person: UserId, room: RoomIx) {
        let invited = &mut self.rooms[room].moderation.lock.invited;
        if invited.extract_if(.., |invited| *invited == person).count() > 0 {
            self.mark_moderation_unsaved(Scope::Room(room));
        }
    }

    /// Whoever has tried too many keys of a room waits, as with passwords.
    pub(super) fn check_key(
        &mut self,
        ctx: &mut Context<'_>,
        room: RoomIx,
        key: &str,
        is: Arc<str>,
    ) -> Result<(), Refusal> {
        let name = self.rooms[room].name.clone();
        let guarded = Guarded::Room(name.key().clone());
        let job = Job::Match(Secret::new(key), is.clone());
        self.check_password(ctx, Purpose::Enter(name, is), guarded, job)
    }

    /// The refusal of who may not come in.
    pub(super) fn locked_out(&self, room: RoomIx, way: &str) -> Refusal {
        let name = &self.rooms[room].name;
        let ctx = self.operators_online(room).map(|names| format!("; {names} can /invite you"));
        let text = format!("{name} is locked{way}{}", ctx.unwrap_or_default());
        Refusal::new(ErrorCode::Forbidden, text)
    }
}
