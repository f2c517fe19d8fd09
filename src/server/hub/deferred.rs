//! What somebody who catches up is told besides messages: new names, topics, who was
//! put out, what operators say. No log has it, so it waits with the visit, behind the
//! message it came after. Comings and goings do not wait: in the end the list of who is
//! here is told.

use std::collections::VecDeque;

use super::{ConnId, DeliveryMode, Event, Hub, Tags, Turn, UserIx};
use crate::server::outbox::Lines;

/// A line that all wait for who were late when it came.
#[derive(Debug, Clone)]
struct Line {
    /// The last message before it.
    after: u64,
    bytes: Lines,
    /// How much of it is its tags. Whoever it is for may choose otherwise until they
    /// are told it.
    tags: usize,
}

/// Lines that wait for one visit.
#[derive(Debug, Default)]
pub(super) struct DeferredEvents {
    lines: VecDeque<Line>,
    size: usize,
}

/// How much waits for one visit, in bytes; past it the oldest is forgotten.
const SIZE_MAX: usize = 64 << 10;

impl Line {
    /// What it takes of a visit's room.
    fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

impl DeferredEvents {
    fn push(&mut self, line: Line) {
        self.size += line.size();
        self.lines.push_back(line);
        while self.size > SIZE_MAX
            && let Some(oldest) = self.lines.pop_front()
        {
            self.size -= oldest.size();
        }
    }

    /// The next line that came before a message.
    fn next_before(&mut self, message: u64) -> Option<Line> {
        let line = self.lines.pop_front_if(|line| line.after < message)?;
        self.size -= line.size();
        Some(line)
    }
}

impl Hub {
    /// Whether somebody is connected and catches up.
    pub(super) fn is_catching_up(&self, user: UserIx) -> bool {
        let user = &self.users[user];
        user.conn.is_some() && user.feed != DeliveryMode::Live
    }

    /// A line for those of them who are late. Nobody stands twice among them.
    pub(super) fn defer_event(
        &mut self,
        users: impl IntoIterator<Item = UserIx>,
        tags: &Tags<'_>,
        event: &Event<'_>,
    ) {
        let mut line: Option<Line> = None;
        for user in users {
            if self.is_catching_up(user) {
                let line = line.get_or_insert_with(|| self.defer_line(tags, event)).clone();
                self.users[user].deferred.get_or_insert_default().push(line);
            }
        }
    }

    /// A line for members who are not connected, to be told when they resume.
    pub(super) fn tell_on_return(
        &mut self,
        users: impl IntoIterator<Item = UserIx>,
        tags: &Tags<'_>,
        event: &Event<'_>,
    ) {
        let line = self.defer_line(tags, event);
        for user in users {
            self.users[user].deferred.get_or_insert_default().push(line.clone());
        }
    }

    fn defer_line(&self, tags: &Tags<'_>, event: &Event<'_>) -> Line {
        let mut bytes = Vec::new();
        tags.encode(&mut bytes);
        let tags = bytes.len();
        event.encode(&mut bytes);
        bytes.shrink_to_fit();
        Line { after: self.last_ids.message, bytes: Lines::new(bytes, &self.meter), tags }
    }

    /// Tells what came before a message.
    pub(super) fn send_deferred(
        &mut self,
        conn: ConnId,
        user: UserIx,
        message: u64,
        turn: &mut Turn,
    ) {
        let has_tags = self.settings(conn).tags;
        let Some(missed) = &mut self.users[user].deferred else { return };
        while let Some(Line { bytes, tags, .. }) = missed.next_before(message) {
            turn.send_bytes(conn, &bytes[if has_tags { 0 } else { tags }..]);
        }
        if missed.lines.is_empty() {
            self.users[user].deferred = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{connect, handle, hub, say, session};
    use super::super::{Input, Limits};
    use super::*;

    /// Alice, and some who are late when she takes another name.
    fn house() -> Hub {
        let mut hub = hub(Limits::default());
        (0..6).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        for slot in 1..4 {
            say(&mut hub, slot, "/set tags on");
            say(&mut hub, slot, &format!("late{slot}"));
        }
        hub
    }

    fn fall_behind(hub: &mut Hub) {
        for slot in 1..4 {
            handle(hub, slot, Input::OverLimit);
        }
        say(hub, 0, "/nick anna");
    }

    #[test]
    fn a_line_that_waits_for_many_is_held_once() {
        let mut hub = house();
        fall_behind(&mut hub);
        let held = hub.meter.held();
        for slot in 1..4 {
            assert_eq!(hub.meter.held(), held);
            let (_, told) = handle(&mut hub, slot, Input::Drained);
            let line = told.text.lines().next().unwrap_or_default();
            assert!(line.starts_with("@time=") && line.contains("alice"), "{line}");
            assert!(held < 2 * line.len(), "{held}");
        }
        assert_eq!(hub.meter.held(), 0);
    }

    #[test]
    fn what_was_missed_is_told_as_is_wanted_then() {
        let mut hub = house();
        let token = session(&mut hub, 1);
        fall_behind(&mut hub);
        handle(&mut hub, 1, Input::Disconnected);
        say(&mut hub, 5, "/set tags off");
        let (_, told) = say(&mut hub, 5, &format!("/resume {token} 0"));
        assert!(told.text.starts_with("[WELCOME late1] "), "{}", told.text);
        let (_, told) = handle(&mut hub, 5, Input::Drained);
        assert_eq!(told.text, "* alice is now anna\n");
    }
}
