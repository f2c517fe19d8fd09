//! Long replies. They occupy memory until the client has read them, so each is built only
//! when memory for it is available. The list of rooms is sent in pages, at the pace of the
//! reader (backpressure). The members of a large room and its bans are sent in one piece:
//! presence events between the lines would make the member list wrong.

use std::sync::Arc;

use super::presence;
use crate::protocol::{Event, RoomName};
use crate::server::hub::caches::Caches;
use crate::server::hub::context::Request;
use crate::server::hub::state::State;
use crate::server::hub::state::index::RoomIx;
use crate::server::hub::state::pending::{
    List, ListRequest, PendingRequest, RoomList, RoomListRequest,
};

/// Size of a page of `/list`, in bytes.
const PAGE_SIZE: usize = 64 << 10;

/// Lists up to these lengths are sent at once.
const ROOMS_AT_ONCE: usize = 1000;
const MEMBERS_AT_ONCE: usize = 1000;

/// Sends the list of rooms, or waits for memory for it.
pub(in crate::server::hub) fn send_room_list(state: &mut State, req: &mut Request<'_>) {
    let is_cached =
        req.caches.room_list.as_ref().is_some_and(|(of, _)| *of == state.rooms.version());
    if !is_cached && state.rooms.len() > ROOMS_AT_ONCE {
        wait_for_memory(state, req, List::Rooms);
    } else {
        list_rooms(state, req);
    }
}

/// Sends the first page of the list of rooms.
pub(in crate::server::hub) fn list_rooms(state: &mut State, req: &mut Request<'_>) {
    let rooms = room_list(state, req);
    req.reply(&Event::reply("ROOMS", &rooms.names.len().to_string(), ""));
    let cid = req.cid.take();
    send_room_page(state, req, RoomListRequest { cid, rooms, sent: 0 });
}

/// Returns the names of all rooms, sorted. The snapshot is shared until a room is
/// created or ends.
fn room_list(state: &State, req: &mut Request<'_>) -> Arc<RoomList> {
    let version = state.rooms.version();
    if let Some((of, list)) = &req.caches.room_list
        && *of == version
    {
        return list.clone();
    }
    let mut names: Vec<RoomName> = state.rooms.iter().map(|(_, room)| room.name.clone()).collect();
    names.sort_unstable_by(|a, b| a.key().cmp(b.key()));
    let text_size: usize = names.iter().map(|name| name.as_str().len()).sum();
    let size = names.len() * size_of::<RoomName>() + text_size;
    let list = Arc::new(RoomList { names, _share: req.caches.meter.share(size) });
    req.caches.room_list = Some((version, list.clone()));
    list
}

/// Releases the list of rooms if it is outdated; a `/list` in progress still holds it.
pub(in crate::server::hub) fn drop_outdated_list(state: &State, caches: &mut Caches) {
    caches.room_list.take_if(|(version, _)| *version != state.rooms.version());
}

/// Sends the next page to a client that has read most of the last one.
pub(in crate::server::hub) fn send_room_page(
    state: &mut State,
    req: &mut Request<'_>,
    mut request: RoomListRequest,
) {
    let before = req.turn.unicast_bytes();
    req.cid = request.cid.take();
    while let Some(name) = request.rooms.names.get(request.sent) {
        if req.turn.unicast_bytes() - before > PAGE_SIZE {
            request.cid = req.cid.take();
            state.connections.wait_for(req.connection, PendingRequest::Rooms(request));
            req.notify_when_drained();
            return;
        }
        // The room may have ended since the snapshot.
        let room = state.rooms.named(name.key());
        let len = room.map_or(0, |room| state.memberships.count(room));
        let room = room.map(|room| &state.rooms[room]);
        let shown = room.map_or(name, |room| &room.name);
        let topic = room.and_then(|room| room.topic.as_deref()).unwrap_or_default();
        req.reply(&Event::reply("ROOM", &format!("{shown} {len}"), topic));
        request.sent += 1;
    }
}

/// Sends the members of a room: at once, or when memory for a long list is available.
pub(in crate::server::hub) fn send_members(state: &mut State, req: &mut Request<'_>, room: RoomIx) {
    if state.memberships.count(room) > MEMBERS_AT_ONCE {
        let key = state.rooms[room].name.key().clone();
        wait_for_memory(state, req, List::Members(key));
    } else {
        presence::list_members(state, req, room);
    }
}

/// Sends a list when there is memory for it.
pub(in crate::server::hub) fn wait_for_memory(
    state: &mut State,
    req: &mut Request<'_>,
    list: List,
) {
    let request = ListRequest { cid: req.cid.take(), list };
    state.connections.wait_for(req.connection, PendingRequest::List(request));
    req.wait_for_memory();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Key;
    use crate::server::hub::Flow;
    use crate::server::hub::test_support::{Driver, connect, handle, hub, say};
    use crate::server::hub::{Input, Limits};
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
        let before = hub.meter().held();
        handle(&mut hub, 0, Input::MemoryAvailable);
        let held = hub.meter().held() - before;
        assert!(held > ROOMS_AT_ONCE * size_of::<RoomName>(), "{held}");
        let (_, reply) = say(&mut hub, 1, "/list");
        assert!(reply.text.starts_with("[ROOMS 1001]\n"), "the snapshot is shared");
        assert_eq!(hub.meter().held() - before, held);
        say(&mut hub, 1, "/join new");
        for reader in [0, 1] {
            while handle(&mut hub, reader, Input::Drained).1.waits_to_be_read {}
        }
        hub.run_timers();
        assert_eq!(hub.meter().held(), before, "the old snapshot is released");
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
        for number in 0..17 {
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
        for number in 0..17 {
            say(&mut hub, 0, &format!("/ban 192.0.2.{number} 1h {}", "x".repeat(200)));
        }
        let (flow, reply) = say(&mut hub, 0, "/bans");
        assert_eq!((flow, reply.waits_for_room), (Flow::Wait, true));
        let (_, reply) = handle(&mut hub, 0, Input::MemoryAvailable);
        assert_eq!(reply.text.lines().filter(|line| line.starts_with("[BAN ")).count(), 17);
        say(&mut hub, 0, "/bans");
        let alice = hub.state.users.named("p0").expect("here");
        let room = hub.state.rooms.named(&Key::fold("r0001")).expect("here");
        let connection = hub.state.users[alice].connection;
        hub.state.connections.set_current(connection, None);
        hub.state.leave_room(alice, room);
        let (flow, reply) = handle(&mut hub, 0, Input::MemoryAvailable);
        assert_eq!(flow, Flow::Next);
        assert!(reply.text.starts_with("[ERROR no-such-room] "), "{}", reply.text);
    }
}
