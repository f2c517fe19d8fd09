//! What operators decided is kept over a restart. A room's decisions end with the
//! room, but the end of the server is not the room's: they wait *asleep* for
//! whoever comes first, and hold for them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::locks::Lock;
use super::moderation::{Moderation, Scope};
use super::{Collection, Hub, Key, RoomIx, RoomName};

/// The server's number; rooms have higher ones.
pub(super) const SERVER_ID: u64 = 0;

/// Decisions of rooms that nobody is in since the server was started.
pub(super) type DormantRooms = HashMap<Key, Moderation>;

/// Decisions as they are kept; only ever added to.
#[derive(Debug, Serialize, Deserialize)]
struct SavedModeration<O> {
    /// `None`: the server's.
    room: Option<RoomName>,
    /// See [`Hub::oper_password_digest`].
    #[serde(default)]
    seal: Option<String>,
    order: O,
}

impl Hub {
    /// What is decided somewhere has changed. What holds no longer than the visit
    /// of a guest is not kept here: a room costs nothing to make.
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

    fn is_worth_saving(&self, order: &Moderation) -> bool {
        order.topic.is_some() || self.outlives_members(order)
    }

    /// Whether it is to be kept also if nobody can come back to it: not what a room
    /// was about.
    fn outlives_members(&self, order: &Moderation) -> bool {
        let Moderation { number, operators, mutes, bans, lock, topic: _ } = order;
        let mut lasting = operators.iter().filter(|person| self.accounts.of(**person).is_some());
        let has_operators = *number == Some(SERVER_ID) && !operators.is_empty();
        let has_rest = !mutes.is_empty() || !bans.is_empty() || !lock.is_default();
        has_operators || has_rest || lasting.next().is_some()
    }

    pub(super) fn saved_moderation(&self, number: u64) -> Option<String> {
        let (room, seal, order) = if number == SERVER_ID {
            (None, self.oper_password_digest(), &self.server_moderation)
        } else {
            let name = self.moderated_rooms.get(&number)?;
            let awake = self.room_names.get(name.key()).map(|room| &self.rooms[*room].moderation);
            let order = awake.or_else(|| self.dormant_rooms.get(name.key()))?;
            (Some(name.clone()), None, order)
        };
        let is_kept = self.is_worth_saving(order);
        is_kept.then(|| serde_json::to_string(&SavedModeration { room, seal, order }).ok())?
    }

    /// Before anybody is back.
    pub(super) fn restore_moderation(
        &mut self,
        number: u64,
        saved: &str,
    ) -> serde_json::Result<()> {
        let SavedModeration::<Moderation> { room, seal, mut order } = serde_json::from_str(saved)?;
        self.last_moderation_id = self.last_moderation_id.max(number);
        order.number = Some(number);
        self.moderated_rooms.extend(room.clone().map(|room| (number, room)));
        match room {
            None => {
                if seal.is_none() || seal != self.oper_password_digest() {
                    order.operators.clear();
                }
                self.server_moderation = order;
            }
            Some(room) if *room.key() == *self.rooms[self.lobby].name.key() => {
                self.rooms[self.lobby].moderation = order;
            }
            Some(room) => {
                self.dormant_rooms.insert(room.key().clone(), order);
            }
        }
        Ok(())
    }

    /// When all are back who can come back: guests who cannot are forgotten.
    pub(super) fn prune_all_moderation(&mut self) {
        self.prune_moderation(Scope::Server);
        let mut orders = std::mem::take(&mut self.dormant_rooms);
        for order in orders.values_mut() {
            self.drop_departed(order);
        }
        orders.retain(|_, order| {
            let is_kept = self.outlives_members(order);
            if let Some(number) = order.number.filter(|_| !is_kept) {
                self.delete_moderation(number);
            }
            is_kept
        });
        self.dormant_rooms = orders;
        for scope in self.rooms.iter().map(|(ix, _)| Scope::Room(ix)).collect::<Vec<_>>() {
            self.prune_moderation(scope);
        }
    }

    /// What was decided in a room has ended with it.
    pub(super) fn delete_moderation(&mut self, number: u64) {
        self.moderated_rooms.remove(&number);
        self.unsaved.insert((Collection::Moderation, number));
    }

    fn prune_moderation(&mut self, scope: Scope) {
        let mut order = std::mem::take(self.moderation_mut(scope));
        self.drop_departed(&mut order);
        *self.moderation_mut(scope) = order;
    }

    fn drop_departed(&self, order: &mut Moderation) {
        order.operators.retain(|person| self.can_return(*person));
        order.mutes.retain(|mute| self.can_return(mute.person));
        order.lock.invited.retain(|person| self.can_return(*person));
        // A lock lasts while anyone who may open it exists. Whoever knows the operators'
        // password may open what an operator of the server has locked.
        let may_be_opened = !order.operators.is_empty()
            || !self.server_moderation.operators.is_empty()
            || (order.lock.is_by_server && self.limits.oper_password.is_some());
        if !may_be_opened {
            order.lock = Lock::default();
        }
    }

    /// Makes a room whose decisions are kept, if it is one.
    pub(super) fn activate(&mut self, name: &RoomName) -> Option<RoomIx> {
        let order = self.dormant_rooms.remove(name.key())?;
        let room = self.room_or_new(name);
        for operator in &order.operators {
            if let Some(user) = self.users_by_id.get(operator).copied() {
                self.note_led(user, room);
            }
        }
        self.rooms[room].moderation = order;
        Some(room)
    }

    /// Nobody came in after all.
    pub(super) fn deactivate(&mut self, room: RoomIx) {
        let gone = self.remove_room(room);
        self.dormant_rooms.insert(gone.name.key().clone(), gone.moderation);
    }

    /// The last of those who could come back to a room did not: what was decided there
    /// waits for whoever comes next, as if nobody could have.
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
        connect, handle, hub, now, register, restarted, say, session,
    };
    use super::super::{Input, Limits, Turn};
    use super::*;
    use crate::server::passwords::{HashFile, Outcome};

    /// Bob, a guest with a session, in a room that alice, its operator, has left.
    fn house(alice: &str) -> Hub {
        let mut hub = hub(Limits::default());
        (0..2).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        if alice == "an account" {
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

    /// Nobody comes back in time.
    fn run_out(hub: &mut Hub) {
        hub.tick(now(Duration::from_mins(2)), &mut Turn::default());
        hub.check_invariants();
    }

    #[test]
    fn who_does_not_come_back_takes_nothing_with_them_that_others_decided() {
        let mut hub = restarted(&house("an account"));
        run_out(&mut hub);
        let mut hub = restarted(&hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        let (_, told) = say(&mut hub, 0, "/join ops");
        assert!(told.text.starts_with("[ERROR forbidden] #ops is locked"), "{}", told.text);
        hub.check_invariants();
    }

    #[test]
    fn an_operator_who_does_not_come_back_leaves_a_room_that_is_open() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        for line in ["alice", "/join ops", "/ban 192.0.2.7", "/lock", "/session"] {
            say(&mut hub, 0, line);
        }
        let mut hub = restarted(&hub);
        run_out(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        let (_, told) = say(&mut hub, 0, "/join ops");
        assert!(told.text.starts_with("[JOINED #ops]"), "{}", told.text);
        let (_, told) = say(&mut hub, 0, "/unban 192.0.2.7");
        assert!(told.text.starts_with("[UNBANNED #ops 192.0.2.7]"), "{}", told.text);
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
                let (_, told) = say(&mut hub, 1, line);
                assert!(!told.text.starts_with("[ERROR"), "{}", told.text);
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
            let (_, told) = say(&mut hub, 0, "carol");
            assert_eq!(told.text.contains("#lobby is locked"), has_password, "{}", told.text);
            let (_, told) = say(&mut hub, 0, "/join ops");
            assert_eq!(told.text.contains("#ops is locked"), has_password, "{}", told.text);
            // A guest locked it, and is gone.
            let (_, told) = say(&mut hub, 0, "/join mine");
            assert_eq!(told.text.contains("#mine is locked"), has_account, "{}", told.text);
            if has_password {
                say(&mut hub, 0, "/oper it is right");
                handle(&mut hub, 0, Input::Hashed(Outcome::Checked(true)));
                for room in ["lobby", "ops"] {
                    say(&mut hub, 0, &format!("/join {room}"));
                    let (_, told) = say(&mut hub, 0, "/unlock");
                    assert_eq!(told.text, format!("[UNLOCKED #{room}]\n"));
                }
            }
            hub.check_invariants();
        }
    }

    #[test]
    fn a_room_that_somebody_came_back_to_ends_when_they_leave() {
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
        let (_, told) = say(&mut hub, 0, "/bans");
        assert!(told.text.starts_with("[BANS #ops 0]"), "{}", told.text);
    }

    #[test]
    fn what_guests_decided_waits_as_it_would_without_a_session() {
        let mut hub = restarted(&house("a guest"));
        run_out(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        let (_, told) = say(&mut hub, 0, "/join ops");
        assert!(told.text.starts_with("[JOINED #ops]"), "nobody could open it: {}", told.text);
        let (_, told) = say(&mut hub, 0, "/bans");
        assert!(told.text.starts_with("[BANS #ops 1]"), "{}", told.text);
        say(&mut hub, 0, "/part");
        say(&mut hub, 0, "/join ops");
        let (_, told) = say(&mut hub, 0, "/bans");
        assert!(told.text.starts_with("[BANS #ops 0]"), "it has ended: {}", told.text);
        hub.check_invariants();
    }
}
