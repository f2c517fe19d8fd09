//! Locked rooms: only invited users, users with the key, and operators can join. An
//! invitation is valid for one join. Keys are checked in `password_checks.rs`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::moderation::{Scope, reserve_entry};
use super::password_checks::Purpose;
use super::password_throttle::Guarded;
use super::{
    Context, ErrorCode, Event, Hub, Now, Refusal, Room, RoomIx, Tags, UserId, UserIx, no_such_user,
    refusal,
};
use crate::server::auth::passwords::{Job, digest};

/// The lock of a room and its invitations.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lock {
    pub(super) is_on: bool,
    /// Whether a server operator locked it.
    pub(super) is_by_server: bool,
    /// The digest of the key.
    key: Option<Arc<str>>,
    /// Kept while the room is unlocked, too: it may be locked before the invited users
    /// join.
    pub(super) invited: Vec<UserId>,
}

impl Lock {
    /// Returns whether there is nothing to store.
    pub(super) fn is_default(&self) -> bool {
        !self.is_on && self.invited.is_empty()
    }
}

/// How a user can join a room.
#[derive(Debug)]
pub(super) enum Entry {
    Open,
    /// With the key that has this digest.
    ByKey(Arc<str>),
}

impl Hub {
    /// Executes `/lock`, also to change the key.
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
        let who_can_join = match key {
            Some(_) => "only invited people or those with the key can join",
            None => "only invited people can join",
        };
        // The messages outlive the room; the lock does not.
        let end = if room == self.lobby {
            ""
        } else {
            "; the lock ends with the last member, then anyone can join and read /history"
        };
        let text = format!("{who_can_join}{end}");
        ctx.reply(&Event::reply("LOCKED", &name.to_string(), &text));
        self.mark_moderation_unsaved(Scope::Room(room));
        Ok(())
    }

    /// Executes `/unlock`.
    pub(super) fn unlock(&mut self, ctx: &mut Context<'_>, user: UserIx) -> Result<(), Refusal> {
        let room = self.moderated_room(user)?;
        let Room { name, moderation, .. } = &mut self.rooms[room];
        let was_locked = std::mem::take(&mut moderation.lock).is_on;
        let text = if was_locked { "" } else { "nothing changed: the room was not locked" };
        ctx.reply(&Event::reply("UNLOCKED", &name.to_string(), text));
        self.mark_moderation_unsaved(Scope::Room(room));
        Ok(())
    }

    /// Executes `/invite`. An invited user who ignores the sender is not notified.
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
            return refusal(ErrorCode::BadArgument, format!("{name} is already in {room}"));
        }
        self.drop_expired(ctx.now, Scope::Room(room));
        let (me, user_id) = (self.users[user].id, self.users[other].id);
        let moderation = &mut self.rooms[room].moderation;
        let max = self.limits.max_invited;
        if !reserve_entry(&mut moderation.lock.invited, max, |invited| *invited != user_id) {
            let text = format!("{max} invitations are open, the maximum; /unlock cancels them");
            return refusal(ErrorCode::TooMany, text);
        }
        moderation.lock.invited.push(user_id);
        self.mark_moderation_unsaved(Scope::Room(room));
        let Room { name: room_name, .. } = &self.rooms[room];
        let (room_name, name) = (room_name.to_string(), self.users[other].name.clone());
        ctx.reply(&Event::reply("INVITED", &format!("{room_name} {name}"), ""));
        if !self.users[other].relations.ignores.iter().any(|ignored| ignored.person == me) {
            let by = self.users[user].name.clone();
            let event = Event::reply("INVITATION", &room_name, by.as_str());
            self.send_to_user(other, &Tags::default(), &event, ctx.turn);
        }
        Ok(())
    }

    /// Checks whether a user may join an existing room, except for the key.
    pub(super) fn require_entry(
        &self,
        now: Now,
        user: UserIx,
        room: RoomIx,
    ) -> Result<Entry, Refusal> {
        self.require_not_banned(now, user, room)?;
        let moderation = &self.rooms[room].moderation;
        let (me, lock) = (self.users[user].id, &moderation.lock);
        let has_access =
            lock.invited.contains(&me) || moderation.is_operator(me) || self.is_server_operator(me);
        match &lock.key {
            _ if !lock.is_on || has_access => Ok(Entry::Open),
            Some(key) => Ok(Entry::ByKey(key.clone())),
            None => Err(self.locked_out(room, "")),
        }
    }

    /// Removes the invitation of a user who has joined.
    pub(super) fn use_invitation(&mut self, user_id: UserId, room: RoomIx) {
        let invited = &mut self.rooms[room].moderation.lock.invited;
        if invited.extract_if(.., |invited| *invited == user_id).count() > 0 {
            self.mark_moderation_unsaved(Scope::Room(room));
        }
    }

    /// Checks the key in the line; wrong keys are throttled like passwords.
    pub(super) fn check_key(
        &mut self,
        ctx: &mut Context<'_>,
        room: RoomIx,
        is: Arc<str>,
    ) -> Result<(), Refusal> {
        let name = self.rooms[room].name.clone();
        let guarded = Guarded::Room(name.key().clone());
        let job = Job::Match(is.clone());
        self.check_password(ctx, Purpose::Enter(name, is), guarded, job)
    }

    /// Returns the refusal to join a locked room.
    pub(super) fn locked_out(&self, room: RoomIx, hint: &str) -> Refusal {
        let name = &self.rooms[room].name;
        let invite_hint =
            self.operators_online(room).map(|names| format!("; {names} can /invite you"));
        let text = format!("{name} is locked{hint}{}", invite_hint.unwrap_or_default());
        Refusal::new(ErrorCode::Forbidden, text)
    }
}
