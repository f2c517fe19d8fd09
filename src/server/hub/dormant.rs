//! Persisted moderation and dormant rooms. A room's moderation ends with the room, but a
//! restart of the server must not end it: a room without members after a restart is
//! *dormant*, and its moderation applies again to the first user who joins. The module
//! does not know how entries are stored.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::locks::Lock;
use super::moderation::{Moderation, Scope};
use super::{Collection, Hub, Key, RoomIx, RoomName};

/// The moderation id of the server; rooms have higher ids.
pub(super) const SERVER_ID: u64 = 0;

/// The moderation of rooms that have had no member since the server started.
pub(super) type DormantRooms = HashMap<Key, Moderation>;

/// The stored form of moderation. Fields may be added, but not renamed or removed.
#[derive(Debug, Serialize, Deserialize)]
struct SavedModeration<M> {
    /// `None` for the server's moderation.
    room: Option<RoomName>,
    /// See [`Hub::oper_password_digest`].
    #[serde(default)]
    seal: Option<String>,
    order: M,
}

impl Hub {
    /// Marks the moderation of a room or of the server as changed. Moderation that ends
    /// with a guest's session is not persisted, since any guest can create rooms.
    pub(super) fn mark_moderation_unsaved(&mut self, scope: Scope) {
        if let Scope::Room(room) = scope
            && self.moderation(scope).number.is_none()
        {
            if !self.is_worth_saving(self.moderation(scope)) {
                return;
            }
            self.last_moderation_id += 1;
            self.moderated_rooms.insert(self.last_moderation_id, self.rooms[room].name.clone());
            self.moderation_mut(scope).number = Some(self.last_moderation_id);
        }
        if let Some(number) = self.moderation(scope).number {
            self.unsaved.insert((Collection::Moderation, number));
        }
    }

    fn is_worth_saving(&self, moderation: &Moderation) -> bool {
        moderation.topic.is_some() || self.outlives_members(moderation)
    }

    /// Whether the moderation is kept even if no member can return. A topic alone is not.
    fn outlives_members(&self, moderation: &Moderation) -> bool {
        let Moderation { number, operators, mutes, bans, lock, topic: _ } = moderation;
        let mut accounts = operators.iter().filter(|person| self.accounts.of(**person).is_some());
        let has_operators = *number == Some(SERVER_ID) && !operators.is_empty();
        let has_rest = !mutes.is_empty() || !bans.is_empty() || !lock.is_default();
        has_operators || has_rest || accounts.next().is_some()
    }

    pub(super) fn saved_moderation(&self, number: u64) -> Option<String> {
        let (room, seal, order) = if number == SERVER_ID {
            (None, self.oper_password_digest(), &self.server_moderation)
        } else {
            let name = self.moderated_rooms.get(&number)?;
            let active = self.room_names.get(name.key()).map(|room| &self.rooms[*room].moderation);
            let order = active.or_else(|| self.dormant_rooms.get(name.key()))?;
            (Some(name.clone()), None, order)
        };
        let is_worth_saving = self.is_worth_saving(order);
        is_worth_saving
            .then(|| serde_json::to_string(&SavedModeration { room, seal, order }).ok())?
    }

    /// Restores one stored entry. Called before sessions are restored.
    pub(super) fn restore_moderation(
        &mut self,
        number: u64,
        saved: &str,
    ) -> serde_json::Result<()> {
        let SavedModeration::<Moderation> { room, seal, order: mut moderation } =
            serde_json::from_str(saved)?;
        self.last_moderation_id = self.last_moderation_id.max(number);
        moderation.number = Some(number);
        self.moderated_rooms.extend(room.clone().map(|room| (number, room)));
        match room {
            None => {
                if seal.is_none() || seal != self.oper_password_digest() {
                    moderation.operators.clear();
                }
                self.server_moderation = moderation;
            }
            Some(room) if *room.key() == *self.rooms[self.lobby].name.key() => {
                self.rooms[self.lobby].moderation = moderation;
            }
            Some(room) => {
                self.dormant_rooms.insert(room.key().clone(), moderation);
            }
        }
        Ok(())
    }

    /// Removes users who cannot return from all moderation. Called after all sessions are
    /// restored.
    pub(super) fn prune_all_moderation(&mut self) {
        self.prune_moderation(Scope::Server);
        let mut dormant = std::mem::take(&mut self.dormant_rooms);
        for moderation in dormant.values_mut() {
            self.drop_departed(moderation);
        }
        dormant.retain(|_, moderation| {
            let outlives_members = self.outlives_members(moderation);
            if let Some(number) = moderation.number.filter(|_| !outlives_members) {
                self.delete_moderation(number);
            }
            outlives_members
        });
        self.dormant_rooms = dormant;
        for scope in self.rooms.iter().map(|(ix, _)| Scope::Room(ix)).collect::<Vec<_>>() {
            self.prune_moderation(scope);
        }
    }

    /// Deletes the stored moderation of a room that has ended.
    pub(super) fn delete_moderation(&mut self, number: u64) {
        self.moderated_rooms.remove(&number);
        self.unsaved.insert((Collection::Moderation, number));
    }

    fn prune_moderation(&mut self, scope: Scope) {
        let mut moderation = std::mem::take(self.moderation_mut(scope));
        self.drop_departed(&mut moderation);
        *self.moderation_mut(scope) = moderation;
    }

    /// Removes users who cannot return from moderation.
    fn drop_departed(&self, moderation: &mut Moderation) {
        moderation.operators.retain(|person| self.can_return(*person));
        moderation.mutes.retain(|mute| self.can_return(mute.person));
        moderation.lock.invited.retain(|person| self.can_return(*person));
        // A lock that no user can open is removed. The operator password gives access to
        // locks that a server operator has set.
        let can_be_unlocked = !moderation.operators.is_empty()
            || !self.server_moderation.operators.is_empty()
            || (moderation.lock.is_by_server && self.limits.oper_password.is_some());
        if !can_be_unlocked {
            moderation.lock = Lock::default();
        }
    }

    /// Creates the room of a dormant name with its moderation; `None` if the name is not
    /// dormant.
    pub(super) fn activate(&mut self, name: &RoomName) -> Option<RoomIx> {
        let moderation = self.dormant_rooms.remove(name.key())?;
        let room = self.room_or_new(name);
        for operator in &moderation.operators {
            if let Some(user) = self.users_by_id.get(operator).copied() {
                self.record_led_room(user, room);
            }
        }
        self.rooms[room].moderation = moderation;
        Some(room)
    }

    /// Makes an empty room dormant.
    pub(super) fn deactivate(&mut self, room: RoomIx) {
        let removed = self.remove_room(room);
        self.dormant_rooms.insert(removed.name.key().clone(), removed.moderation);
    }

    /// Ends a room whose last session has expired, or makes it dormant if its moderation
    /// outlives its members, as after a restart without sessions.
    pub(super) fn deactivate_or_end(&mut self, room: RoomIx) {
        self.prune_moderation(Scope::Room(room));
        if self.outlives_members(&self.rooms[room].moderation) {
            self.mark_moderation_unsaved(Scope::Room(room));
            self.deactivate(room);
        } else {
            self.end_room(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_support::{
        Driver, connect, handle, hub, now, register, restarted, say, session,
    };
    use super::super::{Input, Limits, Turn};
    use crate::server::auth::passwords::{HashFile, Outcome};

    /// A hub with a room whose operator alice has no session, and whose member bob is a
    /// guest with a session.
    fn hub_with_locked_room(has_account: bool) -> Driver {
        let mut hub = hub(Limits::default());
        (0..2).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        if has_account {
            register(&mut hub, 0);
        }
        for line in ["/join ops", "/ban 192.0.2.7", "/lock", "/topic tea"] {
            say(&mut hub, 0, line);
        }
        say(&mut hub, 1, "bob");
        say(&mut hub, 0, "/invite bob");
        for line in ["/join ops", "/session"] {
            say(&mut hub, 1, line);
        }
        hub
    }

    fn expire_sessions(hub: &mut Driver) {
        hub.tick(now(Duration::from_mins(2)), &mut Turn::default());
        hub.check_invariants();
    }

    #[test]
    fn expired_session_leaves_moderation_of_others_in_place() {
        let mut hub = restarted(&hub_with_locked_room(true));
        expire_sessions(&mut hub);
        let mut hub = restarted(&hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        let (_, reply) = say(&mut hub, 0, "/join ops");
        assert!(reply.text.starts_with("[ERROR forbidden] #ops is locked"), "{}", reply.text);
        hub.check_invariants();
    }

    #[test]
    fn lock_ends_when_session_of_guest_operator_expires() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        for line in ["alice", "/join ops", "/ban 192.0.2.7", "/lock", "/session"] {
            say(&mut hub, 0, line);
        }
        let mut hub = restarted(&hub);
        expire_sessions(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        let (_, reply) = say(&mut hub, 0, "/join ops");
        assert!(reply.text.starts_with("[JOINED #ops]"), "{}", reply.text);
        let (_, reply) = say(&mut hub, 0, "/unban 192.0.2.7");
        assert!(reply.text.starts_with("[UNBANNED #ops 192.0.2.7]"), "{}", reply.text);
    }

    #[test]
    fn lock_outlives_a_restart_while_a_server_operator_may_open_it() {
        let hash = HashFile::read("tests/passwords/quick.hash").expect("a hash");
        for (has_password, has_account) in [(true, true), (true, false), (false, false)] {
            let limits = Limits { oper_password: Some(hash.clone()), ..Limits::default() };
            let mut hub = hub(limits);
            for (slot, name) in [(0, "guest"), (1, "root")] {
                connect(&mut hub, slot);
                say(&mut hub, slot, name);
            }
            say(&mut hub, 0, "/join ops");
            say(&mut hub, 1, "/oper it is right");
            handle(&mut hub, 1, Input::Hashed(Outcome::Checked(true)));
            for line in ["/lock", "/join ops", "/lock"] {
                let (_, reply) = say(&mut hub, 1, line);
                assert!(!reply.text.starts_with("[ERROR"), "{}", reply.text);
            }
            say(&mut hub, 0, "/join mine");
            say(&mut hub, 0, "/lock");
            if has_account {
                register(&mut hub, 1);
            }
            if !has_password {
                hub.limits.oper_password = None;
            }
            let mut hub = restarted(&restarted(&hub));
            connect(&mut hub, 0);
            let (_, reply) = say(&mut hub, 0, "carol");
            assert_eq!(reply.text.contains("#lobby is locked"), has_password, "{}", reply.text);
            let (_, reply) = say(&mut hub, 0, "/join ops");
            assert_eq!(reply.text.contains("#ops is locked"), has_password, "{}", reply.text);
            // The guest who locked #mine has no session.
            let (_, reply) = say(&mut hub, 0, "/join mine");
            assert_eq!(reply.text.contains("#mine is locked"), has_account, "{}", reply.text);
            if has_password {
                say(&mut hub, 0, "/oper it is right");
                handle(&mut hub, 0, Input::Hashed(Outcome::Checked(true)));
                for room in ["lobby", "ops"] {
                    say(&mut hub, 0, &format!("/join {room}"));
                    let (_, reply) = say(&mut hub, 0, "/unlock");
                    assert_eq!(reply.text, format!("[UNLOCKED #{room}]\n"));
                }
            }
            hub.check_invariants();
        }
    }

    #[test]
    fn restored_room_ends_when_its_last_member_leaves() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        for line in ["alice", "/join ops", "/ban 192.0.2.7"] {
            say(&mut hub, 0, line);
        }
        let token = session(&mut hub, 0);
        let mut hub = restarted(&hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, &format!("/resume {token} 0"));
        handle(&mut hub, 0, Input::Drained);
        say(&mut hub, 0, "/part ops");
        say(&mut hub, 0, "/join ops");
        let (_, reply) = say(&mut hub, 0, "/bans");
        assert!(reply.text.starts_with("[BANS #ops 0]"), "{}", reply.text);
    }

    #[test]
    fn bans_of_guest_operator_outlive_sessions_but_lock_does_not() {
        let mut hub = restarted(&hub_with_locked_room(false));
        expire_sessions(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        let (_, reply) = say(&mut hub, 0, "/join ops");
        assert!(reply.text.starts_with("[JOINED #ops]"), "the lock ended: {}", reply.text);
        let (_, reply) = say(&mut hub, 0, "/bans");
        assert!(reply.text.starts_with("[BANS #ops 1]"), "{}", reply.text);
        say(&mut hub, 0, "/part");
        say(&mut hub, 0, "/join ops");
        let (_, reply) = say(&mut hub, 0, "/bans");
        assert!(reply.text.starts_with("[BANS #ops 0]"), "the room has ended: {}", reply.text);
        hub.check_invariants();
    }
}
