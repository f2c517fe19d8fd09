//! Answers that may be long. Until they are read they wait in memory, so none is
//! made before it is known that there is room for it: all rooms are told page by
//! page, as fast as they are read; who is in a large room and who is banned, in one
//! piece, as events that stand between the lines would make the list of people
//! untrue.

use std::sync::Arc;

use super::moderation::Scope;
use super::{
    Cid, ConnId, Context, ErrorCode, Event, Hub, Key, Now, PendingRequest, Phase, RoomIx, RoomName,
    Turn,
};
use crate::protocol::Refusal;
use crate::server::outbox::Share;

/// A `/list` that is being told.
#[derive(Debug)]
pub(super) struct RoomListRequest {
    cid: Option<Cid>,
    /// As they were when it was asked.
    rooms: Arc<RoomList>,
    told: usize,
}

/// The names of all rooms at one moment, sorted.
#[derive(Debug)]
pub(super) struct RoomList {
    names: Vec<RoomName>,
    /// Somebody may hold on to rooms that have ended long ago.
    _share: Share,
}

/// A list that is told when there is room for it.
#[derive(Debug)]
pub(super) struct ListRequest {
    cid: Option<Cid>,
    list: List,
}

/// What is listed; a room by its key, since it may end meanwhile.
#[derive(Debug)]
pub(super) enum List {
    Rooms,
    Members(Key),
    Bans(Key),
    ServerBans,
}

/// How much of a list of rooms is told at once, in bytes.
const PAGE_SIZE: usize = 64 << 10;

/// So many rooms and people are told of at once, and so many bans, which have
/// reasons.
const ROOMS_AT_ONCE: usize = 1000;
const MEMBERS_AT_ONCE: usize = 1000;
const BANS_AT_ONCE: usize = 16;

impl Hub {
    /// `/list`.
    pub(super) fn start_room_list(&mut self, ctx: &mut Context<'_>) {
        if self.room_list.is_none() && self.rooms.len() > ROOMS_AT_ONCE {
            self.defer_list(ctx, List::Rooms);
        } else {
            self.list_rooms(ctx);
        }
    }

    fn list_rooms(&mut self, ctx: &mut Context<'_>) {
        let rooms = self.room_list();
        ctx.reply(&Event::reply("ROOMS", &rooms.names.len().to_string(), ""));
        let cid = ctx.cid.take();
        self.send_room_page(ctx, RoomListRequest { cid, rooms, told: 0 });
    }

    /// All rooms, sorted by name. Whoever asks before a room comes or goes shares
    /// the list.
    fn room_list(&mut self) -> Arc<RoomList> {
        let (rooms, meter) = (&self.rooms, &self.meter);
        let list = self.room_list.get_or_insert_with(|| {
            let mut names: Vec<RoomName> =
                rooms.iter().map(|(_, room)| room.name.clone()).collect();
            names.sort_unstable_by(|a, b| a.key().cmp(b.key()));
            let letters: usize = names.iter().map(|name| name.as_str().len()).sum();
            let size = names.len() * size_of::<RoomName>() + letters;
            Arc::new(RoomList { names, _share: meter.share(size) })
        });
        list.clone()
    }

    /// Whoever has read most of what was told is told more.
    pub(super) fn continue_room_list(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let settings = connection.settings;
        match connection.pending.take().map(|asked| *asked) {
            Some(PendingRequest::Rooms(asked)) => {
                self.send_room_page(&mut Context { now, conn, settings, cid: None, turn }, asked);
            }
            other => connection.pending = other.map(Box::new),
        }
    }

    fn send_room_page(&mut self, ctx: &mut Context<'_>, mut asked: RoomListRequest) {
        let before = ctx.turn.unicast_bytes();
        ctx.cid = asked.cid.take();
        while let Some(name) = asked.rooms.names.get(asked.told) {
            if ctx.turn.unicast_bytes() - before > PAGE_SIZE {
                asked.cid = ctx.cid.take();
                self.wait_for(ctx.conn, PendingRequest::Rooms(asked));
                ctx.turn.notify_when_drained(ctx.conn);
                return;
            }
            // It may have ended since.
            let room = self.room_names.get(name.key()).map(|room| &self.rooms[*room]);
            let (shown, len) = room.map_or((name, 0), |room| (&room.name, room.len()));
            let topic = room.and_then(|room| room.moderation.topic.as_deref()).unwrap_or_default();
            ctx.reply(&Event::reply("ROOM", &format!("{shown} {len}"), topic));
            asked.told += 1;
        }
    }

    /// Who is in a room: at once, or when there is room for so many.
    pub(super) fn send_members(&mut self, ctx: &mut Context<'_>, room: RoomIx) {
        if self.rooms[room].len() > MEMBERS_AT_ONCE {
            self.defer_list(ctx, List::Members(self.rooms[room].name.key().clone()));
        } else {
            self.list_members(ctx, room);
        }
    }

    /// `/bans` and `/gbans`.
    pub(super) fn send_bans(&mut self, ctx: &mut Context<'_>, scope: Scope) {
        if self.moderation(scope).bans.len() <= BANS_AT_ONCE {
            return self.list_bans(ctx, scope);
        }
        let list = match scope {
            Scope::Room(room) => List::Bans(self.rooms[room].name.key().clone()),
            Scope::Server => List::ServerBans,
        };
        self.defer_list(ctx, list);
    }

    fn defer_list(&mut self, ctx: &mut Context<'_>, list: List) {
        self.wait_for(ctx.conn, PendingRequest::List(ListRequest { cid: ctx.cid.take(), list }));
        ctx.turn.wait_for_memory(ctx.conn);
    }

    pub(super) fn wait_for(&mut self, conn: ConnId, asked: PendingRequest) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.pending = Some(Box::new(asked));
        }
    }

    /// There is room for the list that a connection waits for.
    pub(super) fn send_deferred_list(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let settings = connection.settings;
        match connection.pending.take().map(|asked| *asked) {
            Some(PendingRequest::List(ListRequest { cid, list })) => {
                let mut ctx = Context { now, conn, settings, cid, turn };
                if let Err(refusal) = self.send_long_list(&mut ctx, &list) {
                    ctx.refuse(&refusal);
                }
            }
            other => connection.pending = other.map(Box::new),
        }
    }

    fn send_long_list(&mut self, ctx: &mut Context<'_>, list: &List) -> Result<(), Refusal> {
        match list {
            List::Rooms => self.list_rooms(ctx),
            List::Members(key) => self.list_members(ctx, self.room_if_live(key)?),
            List::Bans(key) => {
                let room = self.room_if_live(key)?;
                self.list_bans_if_allowed(ctx, Scope::Room(room))?;
            }
            List::ServerBans => self.list_bans_if_allowed(ctx, Scope::Server)?,
        }
        Ok(())
    }

    /// Who asked may have been an operator only then.
    fn list_bans_if_allowed(&mut self, ctx: &mut Context<'_>, scope: Scope) -> Result<(), Refusal> {
        let Some(Phase::LoggedIn(user)) = self.connection(ctx.conn).map(|c| c.phase) else {
            return Ok(());
        };
        match scope {
            Scope::Room(room) => self.require_operator(user, room)?,
            Scope::Server => self.require_server_operator(user)?,
        }
        self.list_bans(ctx, scope);
        Ok(())
    }

    fn room_if_live(&self, key: &Key) -> Result<RoomIx, Refusal> {
        let ended = || Refusal::new(ErrorCode::NoSuchRoom, "that room has just ended");
        self.room_names.get(key).copied().ok_or_else(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{connect, handle, hub, say};
    use super::super::{Input, Limits};
    use super::*;
    use crate::server::hub::Flow;
    use crate::server::log::ReadResult;

    /// So many people, with the first of them in so many rooms with long topics.
    fn house(people: u32, rooms: usize) -> Hub {
        let limits = Limits { rooms_per_person: rooms, ..Limits::default() };
        let mut hub = hub(limits);
        for slot in 0..people {
            connect(&mut hub, slot);
            say(&mut hub, slot, &format!("p{slot}"));
        }
        for room in 1..rooms {
            say(&mut hub, 0, &format!("/join r{room:04}"));
            say(&mut hub, 0, &format!("/topic {}", "t".repeat(4000)));
        }
        hub
    }

    #[test]
    fn all_rooms_are_told_page_by_page_each_once() {
        let mut hub = house(2, 101);
        let (mut flow, mut told) = say(&mut hub, 0, "/list");
        let (mut lines, mut pages) = (told.text, 1);
        while told.waits_to_be_read {
            assert_eq!(flow, Flow::Wait);
            assert!(lines.len() <= pages * (PAGE_SIZE + 5000), "{} bytes", lines.len());
            if pages == 2 {
                // Some end, and others come.
                say(&mut hub, 1, "/join new");
            }
            (flow, told) = handle(&mut hub, 0, Input::Drained);
            lines.push_str(&told.text);
            pages += 1;
        }
        assert_eq!((flow, pages), (Flow::Next, 6));
        let names: Vec<&str> =
            lines.lines().filter_map(|line| line.strip_prefix("[ROOM #")?.get(..5)).collect();
        assert!(lines.starts_with("[ROOMS 101]\n"), "{}", &lines[..20]);
        assert_eq!(names.len(), 101);
        assert!(names.is_sorted());
    }

    #[test]
    fn a_list_that_somebody_holds_on_to_is_counted_and_made_when_there_is_room() {
        let mut hub = house(2, ROOMS_AT_ONCE + 1);
        let (flow, told) = say(&mut hub, 0, "/list");
        assert_eq!((flow, told.text.as_str(), told.waits_for_room), (Flow::Wait, "", true));
        let before = hub.meter.held();
        handle(&mut hub, 0, Input::MemoryAvailable);
        let held = hub.meter.held() - before;
        assert!(held > ROOMS_AT_ONCE * size_of::<RoomName>(), "{held}");
        let (_, told) = say(&mut hub, 1, "/list");
        assert!(told.text.starts_with("[ROOMS 1001]\n"), "it is made already");
        assert_eq!(hub.meter.held() - before, held);
        say(&mut hub, 1, "/join new");
        for reader in [0, 1] {
            while handle(&mut hub, reader, Input::Drained).1.waits_to_be_read {}
        }
        assert_eq!(hub.meter.held(), before, "nobody holds on to the old one");
    }

    #[test]
    fn who_catches_up_beside_a_list_asks_for_each_page_of_the_log_once() {
        let mut hub = house(2, 101);
        say(&mut hub, 0, "/list");
        handle(&mut hub, 0, Input::OverLimit);
        for _ in 0..5000 {
            say(&mut hub, 1, "more than is in memory");
        }
        let (_, told) = handle(&mut hub, 0, Input::Drained);
        assert_eq!((told.waits_to_be_read, told.reads), (true, 1));
        let (_, told) = handle(&mut hub, 0, Input::Drained);
        assert_eq!((told.waits_to_be_read, told.reads), (true, 0), "it is on its way");
        handle(&mut hub, 0, Input::Page(ReadResult { upto: 300, ..ReadResult::default() }));
        let (_, told) = handle(&mut hub, 0, Input::Drained);
        assert_eq!(told.reads, 1);
    }

    #[test]
    fn who_is_in_a_large_room_is_told_when_there_is_room() {
        let people = u32::try_from(MEMBERS_AT_ONCE).expect("a small number") + 1;
        let mut hub = house(people, 1);
        let (flow, told) = say(&mut hub, 0, "/who");
        assert_eq!((flow, told.text.as_str(), told.waits_for_room), (Flow::Wait, "", true));
        let (flow, told) = handle(&mut hub, 0, Input::MemoryAvailable);
        assert_eq!(flow, Flow::Next);
        let rows = told.text.lines().map(|line| line.split_once("] ").expect("names").1);
        assert_eq!(rows.flat_map(|row| row.split(',')).count(), MEMBERS_AT_ONCE + 1);
    }

    #[test]
    fn who_is_no_operator_any_more_is_told_of_no_bans() {
        let mut hub = house(2, 2);
        say(&mut hub, 1, "/join r0001");
        say(&mut hub, 0, "/op p1");
        for number in 0..=BANS_AT_ONCE {
            say(&mut hub, 0, &format!("/ban 192.0.2.{number}"));
        }
        assert!(say(&mut hub, 1, "/bans").1.waits_for_room);
        say(&mut hub, 0, "/deop p1");
        let (flow, told) = handle(&mut hub, 1, Input::MemoryAvailable);
        assert_eq!(flow, Flow::Next);
        assert!(told.text.starts_with("[ERROR forbidden] "), "{}", told.text);
    }

    #[test]
    fn a_list_of_a_room_that_has_ended_is_answered_all_the_same() {
        let mut hub = house(2, 2);
        for number in 0..=BANS_AT_ONCE {
            say(&mut hub, 0, &format!("/ban 192.0.2.{number} 1h {}", "x".repeat(200)));
        }
        let (flow, told) = say(&mut hub, 0, "/bans");
        assert_eq!((flow, told.waits_for_room), (Flow::Wait, true));
        let (_, told) = handle(&mut hub, 0, Input::MemoryAvailable);
        assert_eq!(told.text.lines().filter(|line| line.starts_with("[BAN ")).count(), 17);
        say(&mut hub, 0, "/bans");
        let ix = hub.room_names[&Key::fold("r0001")];
        let name = hub.users[hub.rooms[ix].members().next().expect("one").1].name.clone();
        hub.users[0].rooms.retain(|room| *room != ix);
        hub.users[0].current = None;
        hub.remove_member(ix, &name);
        let (flow, told) = handle(&mut hub, 0, Input::MemoryAvailable);
        assert_eq!(flow, Flow::Next);
        assert!(told.text.starts_with("[ERROR no-such-room] "), "{}", told.text);
    }
}
