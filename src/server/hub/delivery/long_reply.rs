//! Long replies. They occupy memory until the client has read them, so each is built only
//! when memory for it is available. The list of rooms is sent in pages, at the pace of the
//! reader (backpressure). The members of a large room and its bans are sent in one piece:
//! presence events between the lines would make the member list wrong.

use std::sync::Arc;

use super::presence;
use crate::protocol::{Event, RoomName};
use crate::server::hub::context::Request;
use crate::server::hub::state::State;
use crate::server::hub::state::pending::{
    List, ListRequest, PendingRequest, RoomList, RoomListRequest,
};
use crate::server::hub::state::rooms::RoomIx;

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
            let socket = req.socket;
            req.turn.notify_when_drained(socket);
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
    let socket = req.socket;
    req.turn.wait_for_memory(socket);
}
