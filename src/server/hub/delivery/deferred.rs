//! Deferred events: renames, topics, moderation and announcements for a user who is
//! catching up. Presence events are not deferred; the catch-up ends with the member lists
//! instead.

use crate::protocol::{Dialect, Event, Tags};
use crate::server::hub::context::Context;
use crate::server::hub::state::State;
use crate::server::hub::state::deferred_lines::DeferredLine;
use crate::server::hub::state::index::{ConnectionIx, UserIx};
use crate::server::net::ConnId;
use crate::server::net::outbox::{Lines, Meter};
use crate::server::turn::{Origin, Turn};

/// The dialect in which events are held; it has all tags. The client may change its own dialect
/// before the delivery.
const HELD: Dialect = Dialect::Tagged;

/// Defers an event for those users who are catching up. The users must be distinct.
pub(in crate::server::hub) fn defer(
    state: &mut State,
    ctx: &mut Context<'_>,
    users: impl IntoIterator<Item = UserIx>,
    tags: &Tags<'_>,
    event: &Event<'_>,
) {
    let mut shared: Option<DeferredLine> = None;
    for user in users {
        let connection = state.users[user].connection;
        if state.connections[connection].is_catching_up() {
            let line = || encode(state, &ctx.caches.meter, tags, event);
            let line = shared.get_or_insert_with(line).clone();
            state.connections.defer(connection, line);
        }
    }
}

/// Defers an event for members who are not connected, until they resume.
pub(in crate::server::hub) fn announce_on_return(
    state: &mut State,
    meter: &Meter,
    users: impl IntoIterator<Item = UserIx>,
    tags: &Tags<'_>,
    event: &Event<'_>,
) {
    let line = encode(state, meter, tags, event);
    for user in users {
        state.connections.defer(state.users[user].connection, line.clone());
    }
}

fn encode(state: &State, meter: &Meter, tags: &Tags<'_>, event: &Event<'_>) -> DeferredLine {
    let mut bytes = Vec::new();
    HELD.encode(tags, event, &mut bytes);
    bytes.shrink_to_fit();
    let (after, actor) = (state.messages.last_id(), tags.actor);
    DeferredLine { after, bytes: Lines::new(bytes, meter), actor }
}

/// Sends the deferred lines that precede a message.
pub(super) fn send(
    state: &mut State,
    turn: &mut Turn,
    (socket, connection): (ConnId, ConnectionIx),
    message: u64,
) {
    let dialect = state.connections[connection].settings.dialect;
    while let Some(line) = state.connections.next_deferred(connection, message) {
        let text = String::from_utf8_lossy(&line.bytes);
        let (tags, plain) = Tags::split(text.trim_end_matches('\n'));
        // Every line that was encoded has an event.
        if let Some(event) = Event::parse(plain) {
            let tags = Tags { actor: line.actor, ..tags };
            turn.send((socket, dialect), Origin::Reply, &tags, &event);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::server::hub::test_support::{Driver, connect, handle, hub, say, session};
    use crate::server::hub::{Input, Limits};

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
        let held = hub.meter().held();
        for slot in 1..4 {
            assert_eq!(hub.meter().held(), held);
            let (_, reply) = handle(&mut hub, slot, Input::Drained);
            let line = reply.text.lines().next().unwrap_or_default();
            assert!(line.starts_with("@time=") && line.contains("alice"), "{line}");
            assert!(held < 2 * line.len(), "{held}");
        }
        assert_eq!(hub.meter().held(), 0);
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
