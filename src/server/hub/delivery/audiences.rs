//! Audiences: the live readers of rooms. The audience of a room is cached until the version of
//! its members changes.

use std::sync::Arc;

use crate::server::hub::caches::Caches;
use crate::server::hub::state::State;
use crate::server::hub::state::connections::Settings;
use crate::server::hub::state::index::{RoomIx, UserIx};
use crate::server::turn::{Audience, Reader};

/// Returns the audience of a room.
pub(in crate::server::hub) fn of_room(
    state: &State,
    caches: &mut Caches,
    room: RoomIx,
) -> Arc<Audience> {
    let version = state.memberships.version(room);
    if caches.audiences.len() <= room {
        caches.audiences.resize(room + 1, None);
    }
    let kept = &mut caches.audiences[room];
    if let Some((of, audience)) = kept
        && *of == version
    {
        return audience.clone();
    }
    let members = state.memberships.of_room(room).map(|member| member.user);
    let readers = readers(state, members);
    let audience = Arc::new(Audience::of_room(state.rooms[room].number, readers));
    *kept = Some((version, audience.clone()));
    audience
}

/// Returns the audience of several rooms; a member of more than one is in it once.
pub(super) fn of_rooms(state: &State, caches: &mut Caches, rooms: &[RoomIx]) -> Arc<Audience> {
    if let [room] = rooms {
        return of_room(state, caches, *room);
    }
    let members = rooms.iter().flat_map(|room| state.memberships.of_room(*room));
    Arc::new(Audience::new(readers(state, members.map(|member| member.user))))
}

/// Returns the audience of those users who receive live events now.
pub(in crate::server::hub) fn of_users(
    state: &State,
    users: impl IntoIterator<Item = UserIx>,
) -> Arc<Audience> {
    Arc::new(Audience::new(readers(state, users)))
}

fn readers(state: &State, users: impl IntoIterator<Item = UserIx>) -> Vec<Reader> {
    let connections = users.into_iter().flat_map(|user| state.users[user].connections());
    let live = connections.filter_map(|connection| {
        let connection = &state.connections[connection];
        let Settings { dialect, joins, .. } = connection.settings;
        Some(Reader { conn: connection.live_socket()?, dialect, joins })
    });
    live.collect()
}
