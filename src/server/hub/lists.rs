//! Long answers. They occupy memory until the client has read them, so each is built only
//! when memory for it is available. The list of rooms is sent in pages, at the pace of the
//! reader (backpressure). The members of a large room and its bans are sent in one piece:
//! presence events between the lines would make the member list wrong.

use std::sync::Arc;

use super::moderation::Scope;
use super::{
    Cid, ConnId, Context, ErrorCode, Event, Hub, Key, Now, PendingRequest, Phase, RoomIx, RoomName,
    Turn,
};
use crate::protocol::Refusal;
use crate::server::net::outbox::Share;

/// A `/list` in progress.
#[derive(Debug)]
pub(super) struct RoomListRequest {
    cid: Option<Cid>,
    /// A snapshot from when the command arrived.
    rooms: Arc<RoomList>,
    sent: usize,
}

/// The names of all rooms at one moment, sorted.
#[derive(Debug)]
pub(super) struct RoomList {
    names: Vec<RoomName>,
    /// Accounts for the memory of the snapshot, which a slow reader may hold long after it
    /// is outdated.
    _share: Share,
}

/// A list that is sent once memory for it is available.
#[derive(Debug)]
pub(super) struct ListRequest {
    cid: Option<Cid>,
    list: List,
}

/// The subject of a list. Rooms are named by key, since they may end meanwhile.
#[derive(Debug)]
pub(super) enum List {
    Rooms,
    Members(Key),
    Bans(Key),
    ServerBans,
}

/// Size of a page of `/list`, in bytes.
const PAGE_SIZE: usize = 64 << 10;

/// Lists up to these lengths are sent at once; bans have reasons and are longer.
const ROOMS_AT_ONCE: usize = 1000;
const MEMBERS_AT_ONCE: usize = 1000;
const BANS_AT_ONCE: usize = 16;

impl Hub {
    /// Executes `/list`.
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
        self.send_room_page(ctx, RoomListRequest { cid, rooms, sent: 0 });
    }

    /// Returns the names of all rooms, sorted. The snapshot is shared until a room is
    /// created or ends.
    fn room_list(&mut self) -> Arc<RoomList> {
        let (rooms, meter) = (&self.rooms, &self.meter);
        let list = self.room_list.get_or_insert_with(|| {
            let mut names: Vec<RoomName> =
                rooms.iter().map(|(_, room)| room.name.clone()).collect();
            names.sort_unstable_by(|a, b| a.key().cmp(b.key()));
            let text_size: usize = names.iter().map(|name| name.as_str().len()).sum();
            let size = names.len() * size_of::<RoomName>() + text_size;
            Arc::new(RoomList { names, _share: meter.share(size) })
        });
        list.clone()
    }

    /// Sends the next page to a client that has read most of the last one.
    pub(super) fn continue_room_list(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let settings = connection.settings;
        match connection.pending.take().map(|request| *request) {
            Some(PendingRequest::Rooms(request)) => {
                self.send_room_page(&mut Context { now, conn, settings, cid: None, turn }, request);
            }
            other => connection.pending = other.map(Box::new),
        }
    }

    fn send_room_page(&mut self, ctx: &mut Context<'_>, mut request: RoomListRequest) {
        let before = ctx.turn.unicast_bytes();
        ctx.cid = request.cid.take();
        while let Some(name) = request.rooms.names.get(request.sent) {
            if ctx.turn.unicast_bytes() - before > PAGE_SIZE {
                request.cid = ctx.cid.take();
                self.wait_for(ctx.conn, PendingRequest::Rooms(request));
                ctx.turn.notify_when_drained(ctx.conn);
                return;
            }
            // The room may have ended since the snapshot.
            let room = self.room_names.get(name.key()).map(|room| &self.rooms[*room]);
            let (shown, len) = room.map_or((name, 0), |room| (&room.name, room.len()));
            let topic = room.and_then(|room| room.moderation.topic.as_deref()).unwrap_or_default();
            ctx.reply(&Event::reply("ROOM", &format!("{shown} {len}"), topic));
            request.sent += 1;
        }
    }

    /// Sends the members of a room: at once, or when memory for a long list is available.
    pub(super) fn send_members(&mut self, ctx: &mut Context<'_>, room: RoomIx) {
        if self.rooms[room].len() > MEMBERS_AT_ONCE {
            self.defer_list(ctx, List::Members(self.rooms[room].name.key().clone()));
        } else {
            self.list_members(ctx, room);
        }
    }

    /// Executes `/bans` and `/gbans`.
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

    pub(super) fn wait_for(&mut self, conn: ConnId, request: PendingRequest) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.pending = Some(Box::new(request));
        }
    }

    /// Sends the list a connection waits for, now that memory is available.
    pub(super) fn send_deferred_list(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let settings = connection.settings;
        match connection.pending.take().map(|request| *request) {
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

    /// Sends a ban list if the user is still an operator.
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
        let ended =
            || Refusal::new(ErrorCode::NoSuchRoom, "that room has ended; /list shows all rooms");
        self.room_names.get(key).copied().ok_or_else(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Driver, connect, handle, hub, say};
    use super::super::{Input, Limits};
    use super::*;
    use crate::server::hub::Flow;
    use crate::server::store::ReadResult;

    /// A hub with `users` users, the first of whom is in `rooms` rooms with long topics.
    fn hub_with(users: u32, rooms: usize) -> Driver {
        let limits = Limits { rooms_per_person: rooms, ..Limits::default() };
        let mut hub = hub(limits);
        for slot in 0..users {
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
    fn room_list_is_sent_in_pages() {
        let mut hub = hub_with(2, 101);
        let (mut flow, mut reply) = say(&mut hub, 0, "/list");
        let (mut lines, mut pages) = (reply.text, 1);
        while reply.waits_to_be_read {
            assert_eq!(flow, Flow::Wait);
            assert!(lines.len() <= pages * (PAGE_SIZE + 5000), "{} bytes", lines.len());
            if pages == 2 {
                // Rooms end and others are created.
                say(&mut hub, 1, "/join new");
            }
            (flow, reply) = handle(&mut hub, 0, Input::Drained);
            lines.push_str(&reply.text);
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
    fn room_list_is_shared_and_accounted_for() {
        let mut hub = hub_with(2, ROOMS_AT_ONCE + 1);
        let (flow, reply) = say(&mut hub, 0, "/list");
        assert_eq!((flow, reply.text.as_str(), reply.waits_for_room), (Flow::Wait, "", true));
        let before = hub.meter.held();
        handle(&mut hub, 0, Input::MemoryAvailable);
        let held = hub.meter.held() - before;
        assert!(held > ROOMS_AT_ONCE * size_of::<RoomName>(), "{held}");
        let (_, reply) = say(&mut hub, 1, "/list");
        assert!(reply.text.starts_with("[ROOMS 1001]\n"), "the snapshot is shared");
        assert_eq!(hub.meter.held() - before, held);
        say(&mut hub, 1, "/join new");
        for reader in [0, 1] {
            while handle(&mut hub, reader, Input::Drained).1.waits_to_be_read {}
        }
        assert_eq!(hub.meter.held(), before, "the old snapshot is released");
    }

    #[test]
    fn catch_up_beside_a_list_reads_each_page_once() {
        let mut hub = hub_with(2, 101);
        say(&mut hub, 0, "/list");
        handle(&mut hub, 0, Input::OverLimit);
        for _ in 0..5000 {
            say(&mut hub, 1, "more than is in memory");
        }
        let (_, reply) = handle(&mut hub, 0, Input::Drained);
        assert_eq!((reply.waits_to_be_read, reply.reads), (true, 1));
        let (_, reply) = handle(&mut hub, 0, Input::Drained);
        assert_eq!((reply.waits_to_be_read, reply.reads), (true, 0), "the page is being read");
        handle(&mut hub, 0, Input::Page(ReadResult { upto: 300, ..ReadResult::default() }));
        let (_, reply) = handle(&mut hub, 0, Input::Drained);
        assert_eq!(reply.reads, 1);
    }

    #[test]
    fn members_of_large_room_are_sent_when_memory_is_available() {
        let users = u32::try_from(MEMBERS_AT_ONCE).expect("a small number") + 1;
        let mut hub = hub_with(users, 1);
        let (flow, reply) = say(&mut hub, 0, "/who");
        assert_eq!((flow, reply.text.as_str(), reply.waits_for_room), (Flow::Wait, "", true));
        let (flow, reply) = handle(&mut hub, 0, Input::MemoryAvailable);
        assert_eq!(flow, Flow::Next);
        let rows = reply.text.lines().map(|line| line.split_once("] ").expect("names").1);
        assert_eq!(rows.flat_map(|row| row.split(',')).count(), MEMBERS_AT_ONCE + 1);
    }

    #[test]
    fn deferred_ban_list_is_refused_to_former_operator() {
        let mut hub = hub_with(2, 2);
        say(&mut hub, 1, "/join r0001");
        say(&mut hub, 0, "/op p1");
        for number in 0..=BANS_AT_ONCE {
            say(&mut hub, 0, &format!("/ban 192.0.2.{number}"));
        }
        assert!(say(&mut hub, 1, "/bans").1.waits_for_room);
        say(&mut hub, 0, "/deop p1");
        let (flow, reply) = handle(&mut hub, 1, Input::MemoryAvailable);
        assert_eq!(flow, Flow::Next);
        assert!(reply.text.starts_with("[ERROR forbidden] "), "{}", reply.text);
    }

    #[test]
    fn deferred_list_of_ended_room_is_refused() {
        let mut hub = hub_with(2, 2);
        for number in 0..=BANS_AT_ONCE {
            say(&mut hub, 0, &format!("/ban 192.0.2.{number} 1h {}", "x".repeat(200)));
        }
        let (flow, reply) = say(&mut hub, 0, "/bans");
        assert_eq!((flow, reply.waits_for_room), (Flow::Wait, true));
        let (_, reply) = handle(&mut hub, 0, Input::MemoryAvailable);
        assert_eq!(reply.text.lines().filter(|line| line.starts_with("[BAN ")).count(), 17);
        say(&mut hub, 0, "/bans");
        let ix = hub.room_names[&Key::fold("r0001")];
        let name = hub.users[hub.rooms[ix].members().next().expect("one").1].name.clone();
        hub.users[0].rooms.retain(|room| *room != ix);
        hub.users[0].current = None;
        hub.remove_member(ix, &name);
        let (flow, reply) = handle(&mut hub, 0, Input::MemoryAvailable);
        assert_eq!(flow, Flow::Next);
        assert!(reply.text.starts_with("[ERROR no-such-room] "), "{}", reply.text);
    }
}
