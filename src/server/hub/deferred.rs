//! Deferred events: renames, topics, moderation and announcements for a user who is
//! catching up. The log does not contain them, so the user holds them, each with the id of
//! the message that it follows. Presence events are not deferred; the catch-up ends with
//! the member lists instead.

use std::collections::VecDeque;

use super::{ConnId, DeliveryMode, Event, Hub, Tags, Turn, UserIx};
use crate::server::net::outbox::Lines;

/// A deferred line; its bytes are shared by all users who wait for it.
#[derive(Debug, Clone)]
struct Line {
    /// The id of the message that the line follows.
    after: u64,
    bytes: Lines,
    /// The length of the tags in `bytes`. The user may turn tags off before the delivery.
    tags: usize,
}

/// The deferred lines of one user.
#[derive(Debug, Default)]
pub(super) struct DeferredEvents {
    lines: VecDeque<Line>,
    size: usize,
}

/// The limit of deferred lines per user, in bytes; beyond it the oldest are dropped.
const SIZE_MAX: usize = 64 << 10;

impl Line {
    /// The bytes that count towards [`SIZE_MAX`].
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

    /// Removes and returns the next line that precedes a message.
    fn next_before(&mut self, message: u64) -> Option<Line> {
        let line = self.lines.pop_front_if(|line| line.after < message)?;
        self.size -= line.size();
        Some(line)
    }
}

impl Hub {
    /// Whether a user is connected and catching up.
    pub(super) fn is_catching_up(&self, user: UserIx) -> bool {
        let user = &self.users[user];
        user.conn.is_some() && user.feed != DeliveryMode::Live
    }

    /// Defers an event for those users who are catching up. The users must be distinct.
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

    /// Defers an event for members who are not connected, until they resume.
    pub(super) fn announce_on_return(
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

    /// Sends the deferred lines that precede a message.
    pub(super) fn send_deferred(
        &mut self,
        conn: ConnId,
        user: UserIx,
        message: u64,
        turn: &mut Turn,
    ) {
        let has_tags = self.settings(conn).tags;
        let Some(deferred) = &mut self.users[user].deferred else { return };
        while let Some(Line { bytes, tags, .. }) = deferred.next_before(message) {
            turn.send_bytes(conn, &bytes[if has_tags { 0 } else { tags }..]);
        }
        if deferred.lines.is_empty() {
            self.users[user].deferred = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Driver, connect, handle, hub, say, session};
    use super::super::{Input, Limits};

    /// A hub with alice and three slow readers.
    fn hub_with_slow_readers() -> Driver {
        let mut hub = hub(Limits::default());
        (0..6).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        for slot in 1..4 {
            say(&mut hub, slot, "/set tags on");
            say(&mut hub, slot, &format!("late{slot}"));
        }
        hub
    }

    /// The slow readers miss a rename of alice.
    fn rename_while_behind(hub: &mut Driver) {
        for slot in 1..4 {
            handle(hub, slot, Input::OverLimit);
        }
        say(hub, 0, "/nick anna");
    }

    #[test]
    fn deferred_line_is_held_in_memory_once_for_all_users() {
        let mut hub = hub_with_slow_readers();
        rename_while_behind(&mut hub);
        let held = hub.meter.held();
        for slot in 1..4 {
            assert_eq!(hub.meter.held(), held);
            let (_, reply) = handle(&mut hub, slot, Input::Drained);
            let line = reply.text.lines().next().unwrap_or_default();
            assert!(line.starts_with("@time=") && line.contains("alice"), "{line}");
            assert!(held < 2 * line.len(), "{held}");
        }
        assert_eq!(hub.meter.held(), 0);
    }

    #[test]
    fn deferred_event_uses_the_settings_at_delivery() {
        let mut hub = hub_with_slow_readers();
        let token = session(&mut hub, 1);
        rename_while_behind(&mut hub);
        handle(&mut hub, 1, Input::Disconnected);
        say(&mut hub, 5, "/set tags off");
        let (_, reply) = say(&mut hub, 5, &format!("/resume {token} 0"));
        assert!(reply.text.starts_with("[WELCOME late1] "), "{}", reply.text);
        let (_, reply) = handle(&mut hub, 5, Input::Drained);
        assert_eq!(reply.text, "* alice is now anna\n");
    }
}
