//! Data that the hub derives from its state for delivery: audiences, the list of rooms, presence
//! events that are being coalesced. Nothing here is stored; audiences and the list can be
//! rebuilt at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::state::index::RoomIx;
use super::state::pending::Listing;
use crate::protocol::RoomName;
use crate::protocol::event::PresenceSummary;
use crate::server::net::outbox::Meter;
use crate::server::turn::Audience;

/// The derived data; see the module documentation.
#[derive(Debug, Default)]
pub(super) struct Caches {
    /// The audience of each room with the version of its members, indexed by room.
    pub(super) audiences: Vec<Option<(u64, Arc<Audience>)>>,
    /// The names of all rooms, sorted, with the version of the rooms.
    pub(super) room_list: Option<(u64, Arc<Listing<RoomName>>)>,
    pub(super) presence: Coalesced,
    /// Counts the bytes that wait for delivery.
    pub(super) meter: Meter,
}

/// A room with the number that distinguishes it from others at the same index.
pub(super) type RoomKey = (RoomIx, u64);

/// Presence changes of large rooms since their last summary.
#[derive(Debug, Default)]
pub(super) struct Coalesced {
    by_room: BTreeMap<RoomKey, PresenceSummary>,
    /// When each summary is due.
    deadlines: BTreeSet<(Duration, RoomKey)>,
}

impl Coalesced {
    /// Returns the counts of a room; a summary of them is due at `due` at the latest.
    pub(super) fn counts(&mut self, room: RoomKey, due: Duration) -> &mut PresenceSummary {
        self.by_room.entry(room).or_insert_with(|| {
            self.deadlines.insert((due, room));
            PresenceSummary::default()
        })
    }

    /// When the next summary is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// Removes and returns the next summary that is due.
    pub(super) fn next(&mut self, now: Duration) -> Option<(RoomKey, PresenceSummary)> {
        let (_, room) = *self.deadlines.first().filter(|(due, _)| *due <= now)?;
        self.deadlines.pop_first();
        Some((room, self.by_room.remove(&room)?))
    }
}
