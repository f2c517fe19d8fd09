//! Membership spans: in which room a user was during which ids. They decide which messages
//! `/resume` delivers.
//!
//! All spans since login count, since `/resume TOKEN 0` reads from there. Spans without a
//! message between them are merged, empty ones dropped. Older spans are stored apart from
//! the session, in immutable blocks, so that the cost of storing a session does not grow
//! with its age. Past a bound the oldest block is evicted, and a client that resumes from
//! before its end is notified.

use super::super::messages::Messages;
use crate::protocol::Key;
use crate::server::store::MembershipSpan;

/// Spans per block, and blocks per user.
pub(crate) const BLOCK: usize = 32;
pub(crate) const BLOCKS_MAX: usize = 320;

/// Spans that are stored together.
pub(crate) type Block = Box<[MembershipSpan]>;

/// The membership spans of a user; see the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    /// The oldest spans, each block with the number it is stored under.
    blocks: Vec<(u64, Block)>,
    /// The latest spans, in order of their start; all open spans are here.
    /// They are stored with the session.
    pub(crate) recent: Vec<MembershipSpan>,
    /// The last message of the evicted spans.
    pub(crate) evicted_upto: u64,
}

impl Spans {
    pub(crate) fn new(recent: Vec<MembershipSpan>, evicted_upto: u64) -> Self {
        Self { blocks: Vec::new(), recent, evicted_upto }
    }

    /// The spans that may contain a message after this id.
    pub(crate) fn after(&self, message: u64) -> Vec<MembershipSpan> {
        let all = self.blocks.iter().flat_map(|(_, block)| block).chain(&self.recent);
        all.filter(|span| span.until.is_none_or(|until| until > message)).cloned().collect()
    }

    /// The numbers of the blocks.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().map(|(number, _)| *number)
    }

    pub(super) fn block(&self, number: u64) -> Option<&[MembershipSpan]> {
        self.blocks.iter().find(|(it, _)| *it == number).map(|(_, block)| &**block)
    }

    /// Opens a span when the user joins a room.
    pub(super) fn open(&mut self, room: &Key, messages: &Messages) {
        let last = self.recent.iter_mut().rfind(|span| span.room == *room);
        match last {
            // Merged: nothing was posted while the user was away.
            Some(span)
                if span.until.is_some_and(|until| messages.recent.is_silent(room, until)) =>
            {
                span.until = None;
            }
            _ => {
                let from = messages.last_id();
                self.recent.push(MembershipSpan { room: room.clone(), from, until: None });
            }
        }
    }

    /// Closes the span when the user leaves a room.
    pub(super) fn close(&mut self, room: &Key, messages: &Messages) {
        let is_open = |span: &MembershipSpan| span.room == *room && span.until.is_none();
        let Some(at) = self.recent.iter().rposition(is_open) else { return };
        if messages.recent.is_silent(room, self.recent[at].from) {
            self.recent.remove(at);
        } else {
            self.recent[at].until = Some(messages.last_id());
        }
    }

    /// Removes and returns the oldest closed spans if they fill a block.
    pub(super) fn take_block(&mut self) -> Option<Block> {
        let is_past = |span: &MembershipSpan| span.until.is_some();
        // Another block of spans remains, so that they can be merged with later ones.
        if self.recent.iter().filter(|span| is_past(span)).count() < 2 * BLOCK {
            return None;
        }
        let past = self.recent.extract_if(.., |span| is_past(span));
        Some(past.take(BLOCK).collect())
    }

    pub(super) fn add_block(&mut self, number: u64, block: Block) {
        self.blocks.push((number, block));
    }

    /// Removes the oldest block if there are too many; returns its number.
    pub(super) fn evict_block(&mut self) -> Option<u64> {
        if self.blocks.len() <= BLOCKS_MAX {
            return None;
        }
        let (number, block) = self.blocks.remove(0);
        let until = block.iter().filter_map(|span| span.until).max();
        self.evicted_upto = self.evicted_upto.max(until.unwrap_or_default());
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::hub::test_support::{
        Driver, conn, connect, handle, hub, mark_saved, now, restarted, say, session,
    };
    use crate::server::hub::{Input, Limits};
    use crate::server::store::Collection;
    use crate::server::turn::Turn;

    /// A hub with alice, who has a session, and bob; and the token.
    fn with_session() -> (Driver, String) {
        let mut hub = hub(Limits::default());
        (0..2).for_each(|slot| connect(&mut hub, slot));
        for (slot, name) in [(0, "alice"), (1, "bob")] {
            say(&mut hub, slot, name);
        }
        let token = session(&mut hub, 0);
        (hub, token)
    }

    fn spans(hub: &Driver) -> &Spans {
        hub.state.memberships.spans(hub.state.users.named("alice").expect("here"))
    }

    /// Alice posts a line in each of the rooms.
    fn visit_rooms(hub: &mut Driver, rooms: std::ops::Range<usize>) {
        for room in rooms {
            for line in [format!("/join r{room}"), "hi".to_owned(), "/part".to_owned()] {
                say(hub, 0, &line);
            }
        }
        hub.check_invariants();
    }

    #[test]
    fn spans_without_messages_between_or_in_them_are_merged() {
        let (mut hub, _) = with_session();
        let count = |hub: &Driver| spans(hub).after(0).len();
        for (line_between, expected) in [("/away", 1), ("mine", 2)] {
            for _ in 0..100 {
                for line in ["/join ops", line_between, "/part ops"] {
                    say(&mut hub, 0, line);
                }
                say(&mut hub, 1, "elsewhere");
            }
            assert_eq!(count(&hub), expected, "{line_between}");
        }
        // Messages posted in her absence are in no span.
        for line in ["/join ops", "missed", "/part ops"] {
            say(&mut hub, 1, line);
        }
        let missed = hub.last_ids().message;
        say(&mut hub, 0, "/join ops");
        let ops = Key::fold("ops");
        let known = spans(&hub).after(0);
        let covers = |span: &&MembershipSpan| {
            span.room == ops && span.from < missed && span.until.is_none_or(|it| it >= missed)
        };
        assert_eq!((known.len(), known.iter().find(covers)), (3, None));
    }

    #[test]
    fn old_spans_are_stored_in_blocks_and_restored() {
        let (mut hub, _) = with_session();
        visit_rooms(&mut hub, 0..1100);
        let known = spans(&hub).after(0);
        assert_eq!(known.len(), 1101);
        assert!(spans(&hub).recent.len() <= 2 * BLOCK + 1, "a session stays small");
        hub = restarted(&mut hub);
        assert_eq!(spans(&hub).after(0), known);
        assert_eq!(spans(&hub).after(1095).len(), 6, "spans that may hold later messages");
        hub.check_invariants();
        // Stored blocks are not written again.
        mark_saved(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        assert!(hub.changes().iter().all(|change| change.collection != Collection::Spans));
        // The blocks are deleted with the session.
        let alice = spans(&hub).numbers().count();
        hub.tick(now(Duration::from_mins(2)), &mut Turn::default());
        let gone =
            hub.changes().into_iter().filter(|change| change.collection == Collection::Spans);
        let gone: Vec<_> = gone.map(|change| change.value).collect();
        assert_eq!(gone, vec![None; alice]);
        hub.check_invariants();
    }

    #[test]
    fn session_that_begins_late_stores_all_spans() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        visit_rooms(&mut hub, 0..200);
        assert!(hub.changes().is_empty());
        session(&mut hub, 0);
        let known = spans(&hub).after(0);
        assert_eq!(spans(&restarted(&mut hub)).after(0), known);
    }

    #[test]
    fn resume_from_before_evicted_spans_is_notified() {
        let (mut hub, token) = with_session();
        let visits = BLOCK * (BLOCKS_MAX + 3);
        visit_rooms(&mut hub, 0..visits);
        let evicted_upto = spans(&hub).evicted_upto;
        let left = spans(&hub).after(0).len() as u64;
        assert_eq!(left, visits as u64 + 1 - evicted_upto);
        assert!(evicted_upto > 0 && evicted_upto.is_multiple_of(BLOCK as u64), "{evicted_upto}");
        hub = restarted(&mut hub);
        for (after, is_notified) in [(0, true), (evicted_upto - 1, true), (evicted_upto, false)] {
            connect(&mut hub, 0);
            let (_, reply) = say(&mut hub, 0, &format!("/resume {token} {after}"));
            let text = format!("[WELCOME alice] you are back; up to id {evicted_upto}, ");
            assert!(reply.text.starts_with("[WELCOME alice] you are back"), "{}", reply.text);
            assert_eq!(reply.text.starts_with(&text), is_notified, "{after}: {}", reply.text);
            handle(&mut hub, 0, Input::Disconnected);
            hub.forget_connection(conn(0));
        }
    }
}
