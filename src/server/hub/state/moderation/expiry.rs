//! When a ban or a mute ends, by both clocks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::Stamp;
use crate::protocol::reply::Until;
use crate::server::clock::Now;

/// When a ban or mute ends; `None` means when an operator lifts it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(from = "Option<Stamp>", into = "Option<Stamp>")]
pub(crate) struct Expiry(Option<Deadline>);

/// A deadline by both clocks. Only the wall clock time survives a restart.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    since_start: Option<Duration>,
    wall: Stamp,
}

impl From<Option<Stamp>> for Expiry {
    fn from(wall: Option<Stamp>) -> Self {
        Self(wall.map(|wall| Deadline { since_start: None, wall }))
    }
}

impl From<Expiry> for Option<Stamp> {
    fn from(until: Expiry) -> Self {
        until.0.map(|deadline| deadline.wall)
    }
}

impl Expiry {
    pub(crate) fn after(now: Now, time: Option<Duration>) -> Self {
        Self(time.map(|time| {
            let since_start = Some(now.since_start.saturating_add(time));
            Deadline { since_start, wall: now.wall_after(time) }
        }))
    }

    pub(crate) fn is_over(self, now: Now) -> bool {
        match self.0 {
            None => false,
            Some(Deadline { since_start: Some(until), .. }) => until <= now.since_start,
            Some(Deadline { wall, .. }) => wall <= now.wall,
        }
    }

    /// Recomputes the wall clock deadline from the monotonic one after the wall clock was
    /// set. Returns whether it changed.
    pub(super) fn follow_clock(&mut self, now: Now) -> bool {
        let Some(Deadline { since_start: Some(until), wall }) = &mut self.0 else { return false };
        let moved = now.wall_after(until.saturating_sub(now.since_start));
        std::mem::replace(wall, moved) != moved
    }

    pub(crate) fn until(self) -> Until {
        self.0.map_or(Until::Lifted, |deadline| Until::Time(deadline.wall))
    }
}
