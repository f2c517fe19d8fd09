//! Coming into a room: `/join`, with a key or without.

use super::locks::Entry;
use super::{Ask, ErrorCode, Event, Hub, Query, Refusal, RoomIx, RoomName, VisitIx, refusal};

/// What somebody comes to a room with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Door<'a> {
    Bare,
    Key(&'a str),
    /// A key was compared with this digest. The room may have another by now.
    Tried {
        digest: &'a str,
        is_right: bool,
    },
}

impl Hub {
    /// `/join`.
    pub(super) fn join(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        name: &str,
        key: Option<&str>,
    ) -> Result<(), Refusal> {
        let name = RoomName::parse(name).map_err(|fault| {
            Refusal::new(ErrorCode::BadName, format!("{fault}; choose another"))
        })?;
        self.join_by(
            ask,
            visit,
            &name,
            if let Some(key) = key { Door::Key(key) } else { Door::Bare },
        )
    }

    pub(super) fn join_by(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        name: &RoomName,
        door: Door<'_>,
    ) -> Result<(), Refusal> {
        let known = self.room_names.get(name.key()).copied();
        if known.is_some_and(|room| self.visits[visit].rooms.contains(&room)) {
            self.go_to(ask, visit, known.unwrap_or(self.lobby));
            return Ok(());
        }
        if self.visits[visit].rooms.len() >= self.limits.rooms_per_person {
            let max = self.limits.rooms_per_person;
            let text = format!("you are in {max} rooms; /part one first");
            return refusal(ErrorCode::TooMany, text);
        }
        if known.is_none() && self.rooms.len() >= self.limits.max_rooms {
            let max = self.limits.max_rooms;
            let text = format!("there are {max} rooms; /list shows them");
            return refusal(ErrorCode::TooMany, text);
        }
        let Some(room) = known.or_else(|| self.wake(name)) else {
            let room = self.room_or_new(name);
            self.take_charge(visit, room);
            self.come_in(ask, visit, room);
            return Ok(());
        };
        let result = self.enter_known(ask, visit, room, door);
        if known.is_none() && self.rooms[room].len() == 0 {
            self.put_to_sleep(room);
        }
        result
    }

    /// Into a room that others are in, or have decided about.
    fn enter_known(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        room: RoomIx,
        door: Door<'_>,
    ) -> Result<(), Refusal> {
        match (self.need_entry(ask.now, visit, room)?, door) {
            (Entry::Open, _) => {}
            (Entry::ByKey(is), Door::Tried { digest, is_right }) if is_right && *is == *digest => {}
            (Entry::ByKey(is), Door::Key(key)) => {
                return self.try_key(ask, room, key, is);
            }
            (Entry::ByKey(_), Door::Tried { .. }) => {
                return Err(self.locked_out(room, " with another key"));
            }
            (Entry::ByKey(_), Door::Bare) => {
                let way = format!("; /join {} KEY opens it", self.rooms[room].name);
                return Err(self.locked_out(room, &way));
            }
        }
        let is_empty = room != self.lobby && self.rooms[room].len() == 0;
        if is_empty && !self.has_able_operator(Some(ask.now), room, None) {
            self.take_charge(visit, room);
        }
        self.come_in(ask, visit, room);
        Ok(())
    }

    /// Makes a room's first one its operator.
    fn take_charge(&mut self, visit: VisitIx, room: RoomIx) {
        self.make_operator(room, self.visits[visit].person);
    }

    fn come_in(&mut self, ask: &mut Ask<'_>, visit: VisitIx, room: RoomIx) {
        let person = self.visits[visit].person;
        self.use_invitation(person, room);
        self.end_query(visit, Query::Off);
        let shown = self.rooms[room].name.to_string();
        ask.reply(&Event::reply("JOINED", &shown, "plain lines go there now"));
        self.enter(ask, visit, room);
    }

    /// To a room one is in already.
    fn go_to(&mut self, ask: &mut Ask<'_>, visit: VisitIx, room: RoomIx) {
        self.end_query(visit, Query::Off);
        let shown = self.rooms[room].name.to_string();
        ask.reply(&Event::reply("JOINED", &shown, "plain lines go there now"));
        self.visits[visit].current = Some(room);
        self.describe(ask, room);
    }
}
