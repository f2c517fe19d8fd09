//! Timestamps of messages and events, from a wall clock that may be wrong.
//!
//! When the clock goes back by up to [`BRIDGED`], timestamps stand still until the clock
//! has caught up, so that they are monotonic. When it goes back further, the timestamps
//! follow it: the clock was wrong before, and holding its last reading would freeze all
//! timestamps for as long as it was ahead. The order of messages is always that of their
//! ids.

use super::{Collection, Hub, Now, Stamp};

/// The largest step back during which timestamps stand still, in milliseconds.
const BRIDGED: i64 = 5 * 60 * 1000;

impl Hub {
    /// The timestamp of an event that happens now.
    pub(super) fn stamp(&mut self, now: Now) -> Stamp {
        if self.last_time.0.saturating_sub(now.wall.0) > BRIDGED {
            self.audit.note_clock(now, self.last_time);
            self.move_time_limits(now);
            self.last_time = now.wall;
        }
        self.last_time = self.last_time.max(now.wall);
        self.last_time
    }

    /// Moves the expiry of bans and mutes, so that they keep their duration.
    fn move_time_limits(&mut self, now: Now) {
        let rooms = self.rooms.iter_mut().map(|(_, room)| &mut room.moderation);
        let all = rooms.chain(self.dormant_rooms.values_mut()).chain([&mut self.server_moderation]);
        let moved = all.filter_map(|one| one.follow_clock(now).then_some(one.number)?);
        self.unsaved.extend(moved.map(|number| (Collection::Moderation, number)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_support::{Driver, conn, connect, hub, say};
    use super::super::{Frame, Input, Limits, Turn};
    use super::*;

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
        let mut hub = hub(Limits::default());
        let mut minutes = 0;
        let mut stamps = |walls: &[i64]| -> Vec<i64> {
            let stamp = |wall: &i64| {
                minutes += 1;
                hub.stamp(now(minutes, *wall)).0
            };
            let stamps = walls.iter().map(stamp).collect();
            assert_eq!(
                hub.take_audit().len(),
                walls.windows(2).filter(|pair| pair[1] + 5 * MINUTE < pair[0]).count()
            );
            stamps
        };
        let small = [2 * DAY, 2 * DAY - 5 * MINUTE, 2 * DAY + 1];
        assert_eq!(stamps(&small), [2 * DAY, 2 * DAY, 2 * DAY + 1]);
        let jumping = [9 * DAY, 3 * DAY, 9 * DAY, 2 * DAY, 2 * DAY + 1, 0, -1];
        assert_eq!(stamps(&jumping), [9 * DAY, 3 * DAY, 9 * DAY, 2 * DAY, 2 * DAY + 1, 0, 0]);
    }

    #[test]
    fn clock_that_goes_back_is_logged_at_most_once_a_minute() {
        let mut hub = hub(Limits::default());
        for _ in 0..3 {
            hub.stamp(now(0, 2 * DAY));
            hub.stamp(now(0, DAY));
        }
        let log = hub.take_audit();
        assert_eq!(log.len(), 1, "{log:?}");
        let expected =
            "1970-01-02T00:00:00.000Z the clock went back from 1970-01-03T00:00:00.000Z to ";
        assert!(log[0].starts_with(expected), "{log:?}");
        hub.stamp(now(1, 2 * DAY));
        hub.stamp(now(1, DAY));
        assert_eq!(hub.take_audit().len(), 1);
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
        hub.mark_saved();
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
