//! Messages: ids and times of new ones, and those of the recent past, by id and by cid.

pub(crate) mod cids;
pub(crate) mod recent;

use std::sync::Arc;

use crate::protocol::Stamp;
use crate::server::clock::Now;
use crate::server::limits::Limits;
use crate::server::record::Record;
use cids::RecentCids;
use recent::Recent;

/// The largest step back during which timestamps stand still, in milliseconds.
///
/// When the clock goes back by up to this time, timestamps stand still until the clock has
/// caught up, so that they are monotonic. When it goes back further, the timestamps follow
/// it: the clock was wrong before, and holding its last reading would freeze all timestamps
/// for as long as it was ahead. The order of messages is always that of their ids.
const BRIDGED: i64 = 5 * 60 * 1000;

/// The messages; see the head of this file.
#[derive(Debug)]
pub(crate) struct Messages {
    last_id: u64,
    /// The time of the last event; see [`Self::stamp`].
    last_time: Stamp,
    pub(crate) recent: Recent,
    pub(crate) cids: RecentCids,
}

impl Messages {
    /// Ids continue after `last_id`; `latest` are the messages that clients may send again.
    pub(super) fn new(limits: &Limits, last_id: u64, latest: &[Arc<Record>]) -> Self {
        let mut cids = RecentCids::new(limits.history_messages, limits.history_size);
        for record in latest {
            cids.remember(record);
        }
        let last_time = latest.last().map(|record| record.time).unwrap_or_default();
        Self { last_id, last_time, recent: Recent::new(last_id), cids }
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.last_id
    }

    pub(crate) fn last_time(&self) -> Stamp {
        self.last_time
    }

    /// The timestamp of an event that happens now, and the time from which the clock has gone
    /// back too far to bridge.
    pub(super) fn stamp(&mut self, now: Now) -> (Stamp, Option<Stamp>) {
        let mut went_back = None;
        if self.last_time.0.saturating_sub(now.wall.0) > BRIDGED {
            went_back = Some(std::mem::replace(&mut self.last_time, now.wall));
        }
        self.last_time = self.last_time.max(now.wall);
        (self.last_time, went_back)
    }

    /// Appends a message, which gets the next id: `record.id` is replaced.
    pub(crate) fn append(&mut self, record: Record) -> Arc<Record> {
        self.last_id += 1;
        let record = Arc::new(Record { id: self.last_id, ..record });
        self.cids.remember(&record);
        self.recent.push(record.clone());
        record
    }

    /// Forgets a message that could not be stored; returns it.
    pub(crate) fn forget(&mut self, id: u64) -> Option<Arc<Record>> {
        let record = self.recent.remove(id)?;
        if let Some(cid) = &record.cid {
            self.cids.discard(record.author, cid);
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::recent::Lookup;
    use super::*;
    use crate::protocol::codec::Frame;
    use crate::protocol::{Cid, Key};
    use crate::server::hub::test_support::{Driver, conn, connect, hub, mark_saved, message, say};
    use crate::server::hub::{Input, Limits};
    use crate::server::record::UserId;
    use crate::server::turn::Turn;

    const MINUTE: i64 = 60_000;
    const DAY: i64 = 24 * 60 * MINUTE;

    fn now(minutes: u64, wall: i64) -> Now {
        Now { since_start: Duration::from_mins(minutes), wall: Stamp(wall) }
    }

    fn say_at(hub: &mut Driver, now: Now, line: &str) {
        hub.handle(now, conn(0), Input::Frame(Frame::Line(line.into())), &mut Turn::default());
    }

    #[test]
    fn times_go_back_only_when_clock_goes_back_by_more_than_five_minutes() {
        for (walls, stamps, steps) in [
            ([2 * DAY, 2 * DAY - 5 * MINUTE, 2 * DAY + 1], [2 * DAY, 2 * DAY, 2 * DAY + 1], 0),
            ([9 * DAY, 3 * DAY, 9 * DAY], [9 * DAY, 3 * DAY, 9 * DAY], 1),
            ([2 * DAY, 0, -1], [2 * DAY, 0, 0], 1),
        ] {
            let mut messages = Messages::new(&Limits::default(), 0, &[]);
            let stamped = walls.map(|wall| messages.stamp(now(0, wall)));
            assert_eq!(stamped.map(|(stamp, _)| stamp.0), stamps);
            let back: Vec<Stamp> = stamped.iter().filter_map(|(_, went_back)| *went_back).collect();
            assert_eq!(back, vec![Stamp(walls[0]); steps], "the time from which it went back");
        }
    }

    #[test]
    fn message_that_was_not_stored_is_forgotten_and_its_id_stays_unused() {
        let limits = Limits::default();
        let earlier = message(4, "lobby", Some("a"), "hi");
        let mut messages = Messages::new(&limits, 4, &[earlier]);
        let record = |cid| Arc::unwrap_or_clone(message(0, "lobby", Some(cid), "hi"));
        assert_eq!([messages.append(record("b")).id, messages.append(record("c")).id], [5, 6]);
        messages.forget(6);
        let sent = |messages: &Messages, cid| {
            let cid = Cid::parse(cid).expect("a cid");
            messages.cids.find(UserId(1), &cid).map(|record| record.id)
        };
        assert_eq!(["a", "b", "c"].map(|cid| sent(&messages, cid)), [Some(4), Some(5), None]);
        assert!(matches!(messages.recent.find(4), Lookup::InLog));
        assert!(matches!(messages.recent.find(6), Lookup::NoMessage));
        assert_eq!(messages.append(record("c")).id, 7);
        assert!(matches!(messages.recent.find(7), Lookup::Found(record) if record.id == 7));
        let ids = |after| Some(messages.recent.since(after)?.map(|record| record.id).collect());
        assert_eq!([3, 4, 5].map(ids), [None, Some(vec![5, 7]), Some(vec![7])]);
        let is_silent = |room: &str, after| messages.recent.is_silent(&Key::fold(room), after);
        assert!(is_silent("ops", 4) && !is_silent("ops", 3) && !is_silent("lobby", 6));
    }

    #[test]
    fn clock_that_goes_back_is_logged_at_most_once_a_minute() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        let mut go_back = |minutes| {
            say_at(&mut hub, now(minutes, 2 * DAY), "hi");
            say_at(&mut hub, now(minutes, DAY), "hi");
            hub.take_audit()
        };
        let log = go_back(0);
        assert_eq!(log.len(), 1, "{log:?}");
        let expected =
            "1970-01-02T00:00:00.000Z the clock went back from 1970-01-03T00:00:00.000Z to ";
        assert!(log[0].starts_with(expected), "{log:?}");
        assert!(go_back(0).is_empty());
        assert_eq!(go_back(1).len(), 1);
    }

    #[test]
    fn time_limits_keep_their_length_when_the_clock_goes_back() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        connect(&mut hub, 1);
        say(&mut hub, 1, "bob");
        say(&mut hub, 0, "alice");
        for line in ["/join ops", "/ban 192.0.2.1 1h", "/ban 192.0.2.2", "/mute bob 2h"] {
            say_at(&mut hub, now(0, 2 * DAY), line);
        }
        mark_saved(&mut hub);
        say_at(&mut hub, now(30, DAY), "hi");
        let saved = hub.changes().pop().expect("a change").value.expect("moderation");
        for (end, is_stored) in [
            (DAY + 30 * MINUTE, true),
            (DAY + 90 * MINUTE, true),
            (2 * DAY + 60 * MINUTE, false),
            (2 * DAY + 120 * MINUTE, false),
        ] {
            assert_eq!(saved.contains(&end.to_string()), is_stored, "{end}: {saved}");
        }
    }
}
