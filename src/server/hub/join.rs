//! Joining rooms: `/join`, with or without a key. Locks and bans are decided elsewhere
//! (`locks.rs`, `bans.rs`).

use super::locks::Entry;
use super::{
    Context, ErrorCode, Event, Hub, QueryState, Refusal, RoomIx, RoomName, UserIx, refusal,
};

/// The key given with a `/join`.
#[derive(Debug, Clone, Copy)]
pub(super) enum JoinKey<'a> {
    Missing,
    /// Given in the line, and not checked yet.
    Unchecked,
    /// A key that was compared with this digest; the key of the room may have changed
    /// since.
    Checked {
        digest: &'a str,
        is_right: bool,
    },
}

impl Hub {
    /// Executes `/join`.
    pub(super) fn join(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
        key: Option<&str>,
    ) -> Result<(), Refusal> {
        let name = RoomName::parse(name).map_err(|fault| {
            Refusal::new(ErrorCode::BadName, format!("{fault}; choose another"))
        })?;
        let join_key = if key.is_some() { JoinKey::Unchecked } else { JoinKey::Missing };
        self.join_with(ctx, user, &name, join_key)
    }

    pub(super) fn join_with(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &RoomName,
        join_key: JoinKey<'_>,
    ) -> Result<(), Refusal> {
        let known = self.room_names.get(name.key()).copied();
        if known.is_some_and(|room| self.users[user].rooms.contains(&room)) {
            self.switch_to(ctx, user, known.unwrap_or(self.lobby));
            return Ok(());
        }
        if self.users[user].rooms.len() >= self.limits.rooms_per_person {
            let max = self.limits.rooms_per_person;
            let text = format!("you are in {max} rooms, the maximum; /part one first");
            return refusal(ErrorCode::TooMany, text);
        }
        if known.is_none() && self.rooms.len() >= self.limits.max_rooms {
            let max = self.limits.max_rooms;
            let text = format!("the server has its maximum of {max} rooms; /list shows them");
            return refusal(ErrorCode::TooMany, text);
        }
        let Some(room) = known.or_else(|| self.activate(name)) else {
            let room = self.room_or_new(name);
            self.make_first_operator(user, room);
            self.enter_checked(ctx, user, room);
            return Ok(());
        };
        let result = self.enter_existing(ctx, user, room, join_key);
        if known.is_none() && self.rooms[room].len() == 0 {
            self.deactivate(room);
        }
        result
    }

    /// Joins a room that has members or stored moderation.
    fn enter_existing(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        room: RoomIx,
        join_key: JoinKey<'_>,
    ) -> Result<(), Refusal> {
        match (self.require_entry(ctx.now, user, room)?, join_key) {
            (Entry::Open, _) => {}
            (Entry::ByKey(is), JoinKey::Checked { digest, is_right })
                if is_right && *is == *digest => {}
            (Entry::ByKey(is), JoinKey::Unchecked) => return self.check_key(ctx, room, is),
            (Entry::ByKey(_), JoinKey::Checked { .. }) => {
                return Err(self.locked_out(room, "; that key is wrong"));
            }
            (Entry::ByKey(_), JoinKey::Missing) => {
                let hint = format!("; use /join {} KEY", self.rooms[room].name);
                return Err(self.locked_out(room, &hint));
            }
        }
        let is_empty = room != self.lobby && self.rooms[room].len() == 0;
        if is_empty && !self.has_able_operator(Some(ctx.now), room, None) {
            self.make_first_operator(user, room);
        }
        self.enter_checked(ctx, user, room);
        Ok(())
    }

    /// Makes the first member of a room its operator.
    fn make_first_operator(&mut self, user: UserIx, room: RoomIx) {
        self.make_operator(room, self.users[user].id);
    }

    fn enter_checked(&mut self, ctx: &mut Context<'_>, user: UserIx, room: RoomIx) {
        let user_id = self.users[user].id;
        self.use_invitation(user_id, room);
        self.end_query(user, QueryState::Off);
        let room_name = self.rooms[room].name.to_string();
        ctx.reply(&Event::reply("JOINED", &room_name, "your messages now go to this room"));
        self.enter(ctx, user, room);
    }

    /// Makes a room of the user the current one.
    fn switch_to(&mut self, ctx: &mut Context<'_>, user: UserIx, room: RoomIx) {
        self.end_query(user, QueryState::Off);
        let room_name = self.rooms[room].name.to_string();
        ctx.reply(&Event::reply("JOINED", &room_name, "your messages now go to this room"));
        self.users[user].current = Some(room);
        self.describe(ctx, room);
    }
}
