//! Locked rooms: in comes who is invited, who knows the key, and who keeps
//! order there. An invitation is for one entry.

use super::{
    Ask, ErrorCode, Event, Hub, Now, PersonId, Refusal, Room, RoomIx, Tags, VisitIx, no_such_user,
    refusal,
};

/// How many people may be invited and not have come yet.
const INVITED_MAX: usize = 1000;

/// How a room is locked, if it is.
#[derive(Debug, Default)]
pub(super) struct Lock {
    is_on: bool,
    /// What opens it.
    key: Option<Box<str>>,
    /// Also while it is open: it may be locked before they come.
    pub(super) invited: Vec<PersonId>,
}

impl Lock {
    /// Whoever is in needs their invitation no more.
    pub(super) fn use_invitation(&mut self, person: PersonId) {
        self.invited.retain(|invited| *invited != person);
    }
}

impl Hub {
    /// `/lock`, also with another key.
    pub(super) fn lock(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        key: Option<&str>,
    ) -> Result<(), Refusal> {
        let room = self.room_to_order(visit)?;
        let Room { name, order, .. } = &mut self.rooms[room];
        order.lock.is_on = true;
        order.lock.key = key.map(Into::into);
        let text = match key {
            Some(_) => "in comes who is invited or knows the key",
            None => "in comes who is invited",
        };
        ask.reply(&Event::reply("LOCKED", &name.to_string(), text));
        Ok(())
    }

    /// `/unlock`.
    pub(super) fn unlock(&mut self, ask: &mut Ask<'_>, visit: VisitIx) -> Result<(), Refusal> {
        let room = self.room_to_order(visit)?;
        let Room { name, order, .. } = &mut self.rooms[room];
        order.lock = Lock::default();
        ask.reply(&Event::reply("UNLOCKED", &name.to_string(), ""));
        Ok(())
    }

    /// `/invite`. Whoever ignores the inviting one is not told.
    pub(super) fn invite(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let room = self.room_to_order(visit)?;
        let Some(other) = self.visit_named(name) else { return no_such_user(name) };
        if self.visits[other].rooms.contains(&room) {
            let (name, room) = (&self.visits[other].name, &self.rooms[room].name);
            return refusal(ErrorCode::BadArgument, format!("{name} is in {room} already"));
        }
        self.forget_past(ask.now, room);
        let (me, person) = (self.visits[visit].person, self.visits[other].person);
        let Room { name: shown, order, .. } = &mut self.rooms[room];
        order.lock.use_invitation(person);
        if order.lock.invited.len() >= INVITED_MAX {
            let text = format!("{INVITED_MAX} people are invited and have not come; /unlock first");
            return refusal(ErrorCode::TooMany, text);
        }
        order.lock.invited.push(person);
        let (shown, name) = (shown.to_string(), self.visits[other].name.clone());
        ask.reply(&Event::reply("INVITED", &format!("{shown} {name}"), ""));
        if !self.visits[other].ties.ignores.iter().any(|ignored| ignored.person == me) {
            let event = Event::reply("INVITATION", &shown, self.visits[visit].name.as_str());
            self.tell(other, &Tags::default(), &event, ask.turn);
        }
        Ok(())
    }

    /// Whether somebody may come into a room that is there.
    pub(super) fn need_entry(
        &self,
        now: Now,
        visit: VisitIx,
        room: RoomIx,
        key: Option<&str>,
    ) -> Result<(), Refusal> {
        self.need_no_ban(now, visit, room)?;
        let Room { name, order, .. } = &self.rooms[room];
        let (me, lock) = (self.visits[visit].person, &order.lock);
        let has_key = key.is_some() && key == lock.key.as_deref();
        if !lock.is_on || has_key || lock.invited.contains(&me) || order.is_operator(me) {
            return Ok(());
        }
        let way = match (key, &lock.key) {
            (Some(_), Some(_)) => " with another key".to_owned(),
            (None, Some(_)) => format!("; /join {name} KEY opens it"),
            (_, None) => String::new(),
        };
        let ask = self.whom_to_ask(room).map(|names| format!("; {names} can /invite you"));
        refusal(ErrorCode::Forbidden, format!("{name} is locked{way}{}", ask.unwrap_or_default()))
    }
}
