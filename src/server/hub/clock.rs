//! The times of messages and events, from a wall clock that may be wrong.
//!
//! A small step back of the clock is bridged: times stand still until the clock has caught
//! up, so that they grow with the ids. After a larger one they go back with the clock: the
//! clock was wrong before, and following its last reading would freeze all times for as
//! long as it had been ahead. The order of messages is that of their ids in any case.

use super::{Collection, Hub, Now, Stamp};

/// A step back of up to this is bridged, in milliseconds.
const BRIDGED: i64 = 5 * 60 * 1000;

impl Hub {
    /// The time of what happens now.
    pub(super) fn stamp(&mut self, now: Now) -> Stamp {
        if self.last_time.0.saturating_sub(now.wall.0) > BRIDGED {
            self.audit.note_clock(now, self.last_time);
            self.move_time_limits(now);
            self.last_time = now.wall;
        }
        self.last_time = self.last_time.max(now.wall);
        self.last_time
    }

    /// Bans and mutes that were given by the clock as it was last as long as was said.
    fn move_time_limits(&mut self, now: Now) {
        let rooms = self.rooms.iter_mut().map(|(_, room)| &mut room.moderation);
        let orders =
            rooms.chain(self.dormant_rooms.values_mut()).chain([&mut self.server_moderation]);
        let moved = orders.filter_map(|order| order.follow_clock(now).then_some(order.number)?);
        self.unsaved.extend(moved.map(|number| (Collection::Moderation, number)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_support::{conn, connect, hub, say};
    use super::super::{Frame, Input, Limits, Turn};
    use super::*;

    const MINUTE: i64 = 60_000;
    const DAY: i64 = 24 * 60 * MINUTE;

    fn now(minutes: u64, wall: i64) -> Now {
        Now { since_start: Duration::from_mins(minutes), wall: Stamp(wall) }
    }

    fn say_at(hub: &mut Hub, now: Now, line: &str) {
        hub.handle(now, conn(0), Input::Frame(Frame::Line(line.into())), &mut Turn::default());
    }

    #[test]
    fn times_go_back_only_when_the_clock_does_by_more_than_five_minutes() {
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
    fn clock_that_goes_back_is_named_at_most_once_a_minute() {
        let mut hub = hub(Limits::default());
        for _ in 0..3 {
            hub.stamp(now(0, 2 * DAY));
            hub.stamp(now(0, DAY));
        }
        let log = hub.take_audit();
        assert_eq!(log.len(), 1, "{log:?}");
        let said = "1970-01-02T00:00:00.000Z the clock went back from 1970-01-03T00:00:00.000Z to ";
        assert!(log[0].starts_with(said), "{log:?}");
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
        let order = hub.changes().pop().expect("a change").value.expect("an order");
        for (end, is_kept) in [
            (DAY + 30 * MINUTE, true),
            (DAY + 90 * MINUTE, true),
            (2 * DAY + 60 * MINUTE, false),
            (2 * DAY + 120 * MINUTE, false),
        ] {
            assert_eq!(order.contains(&end.to_string()), is_kept, "{end}: {order}");
        }
    }
}
