//! Membership spans: which user was in which room during which ids. They decide which
//! messages `/resume` delivers.
//!
//! All spans since login count, since `/resume TOKEN 0` reads from there. Spans without a
//! message between them are merged, empty ones dropped. Older spans are stored apart from
//! the session, in immutable blocks, so that the cost of storing a session does not grow
//! with its age. Past a bound the oldest block is evicted, and a client that resumes from
//! before its end is notified.

use serde::{Deserialize, Serialize};

use super::{Collection, Hub, Key, MembershipSpan, UserId, UserIx};

/// Spans per block, and blocks per user.
const BLOCK: usize = 32;
const BLOCKS_MAX: usize = 320;

/// The membership spans of a user; see the head of this file.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    /// The oldest spans, each block with the number it is stored under.
    blocks: Vec<(u64, Box<[MembershipSpan]>)>,
    /// The latest spans, in order of their start; all open spans are here.
    recent: Vec<MembershipSpan>,
    /// The last message of the evicted spans.
    evicted_upto: u64,
}

/// A block as stored. Fields may be added, never removed or renamed.
#[derive(Debug, Serialize, Deserialize)]
struct SavedBlock<B> {
    person: UserId,
    stays: B,
}

impl Memberships {
    pub(super) fn new(recent: Vec<MembershipSpan>, evicted_upto: u64) -> Self {
        Self { blocks: Vec::new(), recent, evicted_upto }
    }

    /// Returns the spans that are stored with the session.
    pub(super) fn recent(&self) -> &[MembershipSpan] {
        &self.recent
    }

    pub(super) fn evicted_upto(&self) -> u64 {
        self.evicted_upto
    }

    /// Returns the spans that may contain a message after this id.
    pub(super) fn after(&self, message: u64) -> Vec<MembershipSpan> {
        let all = self.blocks.iter().flat_map(|(_, block)| block).chain(&self.recent);
        all.filter(|span| span.until.is_none_or(|until| until > message)).cloned().collect()
    }

    /// Returns the numbers of the blocks.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().map(|(number, _)| *number)
    }

    /// Removes and returns the oldest closed spans if they fill a block.
    fn take_block(&mut self) -> Option<Box<[MembershipSpan]>> {
        let is_past = |span: &MembershipSpan| span.until.is_some();
        // Another block of spans remains, so that they can be merged with later ones.
        if self.recent.iter().filter(|span| is_past(span)).count() < 2 * BLOCK {
            return None;
        }
        let past = self.recent.extract_if(.., |span| is_past(span));
        Some(past.take(BLOCK).collect())
    }
}

impl Hub {
    /// Opens a span when a user joins a room.
    pub(super) fn note_arrival(&mut self, user: UserIx, room: Key) {
        let from = self.last_ids.message;
        let recent = &mut self.users[user].memberships.recent;
        let last = recent.iter_mut().rfind(|span| span.room == room);
        match last {
            // Merged: nothing was posted while the user was away.
            Some(span) if span.until.is_some_and(|until| self.recent.is_silent(&room, until)) => {
                span.until = None;
            }
            _ => recent.push(MembershipSpan { room, from, until: None }),
        }
        while let Some(block) = self.users[user].memberships.take_block() {
            self.add_block(user, block);
        }
    }

    /// Closes the span when a user leaves a room.
    pub(super) fn note_departure(&mut self, user: UserIx, room: &Key) {
        let until = self.last_ids.message;
        let recent = &mut self.users[user].memberships.recent;
        let Some(at) = recent.iter().rposition(|s| s.room == *room && s.until.is_none()) else {
            return;
        };
        if self.recent.is_silent(room, recent[at].from) {
            recent.remove(at);
        } else {
            recent[at].until = Some(until);
        }
    }

    fn add_block(&mut self, user: UserIx, block: Box<[MembershipSpan]>) {
        self.last_block += 1;
        let number = self.last_block;
        self.attach_block(user, number, block);
        self.note_block_unsaved(user, number);
        let memberships = &mut self.users[user].memberships;
        if memberships.blocks.len() > BLOCKS_MAX {
            let (oldest, block) = memberships.blocks.remove(0);
            let until = block.iter().filter_map(|span| span.until).max();
            memberships.evicted_upto = memberships.evicted_upto.max(until.unwrap_or_default());
            self.block_owners.remove(&oldest);
            self.note_block_unsaved(user, oldest);
        }
    }

    fn attach_block(&mut self, user: UserIx, number: u64, block: Box<[MembershipSpan]>) {
        let me = &mut self.users[user];
        me.memberships.blocks.push((number, block));
        self.block_owners.insert(number, me.id);
    }

    fn note_block_unsaved(&mut self, user: UserIx, number: u64) {
        if self.users[user].session.is_some() {
            self.unsaved.insert((Collection::Spans, number));
        }
    }

    /// Marks all blocks of a user for storage when their session begins.
    pub(super) fn note_blocks_unsaved(&mut self, user: UserIx) {
        let numbers = self.users[user].memberships.numbers();
        self.unsaved.extend(numbers.map(|number| (Collection::Spans, number)));
    }

    /// Deletes the blocks of a user who logs out; `is_stored`: they had a session.
    pub(super) fn delete_blocks(&mut self, user: UserIx, is_stored: bool) {
        for number in self.users[user].memberships.numbers() {
            self.block_owners.remove(&number);
            if is_stored {
                self.unsaved.insert((Collection::Spans, number));
            }
        }
    }

    /// Returns the stored form of a block; `None` if it was deleted.
    pub(super) fn saved_block(&self, number: u64) -> Option<String> {
        let user_id = *self.block_owners.get(&number)?;
        let user = &self.users[*self.users_by_id.get(&user_id)?];
        let (_, stays) = user.memberships.blocks.iter().find(|(it, _)| *it == number)?;
        serde_json::to_string(&SavedBlock { person: user_id, stays }).ok()
    }

    /// Restores a block after all sessions. A block without a session is deleted.
    pub(super) fn restore_block(&mut self, number: u64, saved: &str) -> serde_json::Result<()> {
        let SavedBlock::<Box<[MembershipSpan]>> { person: user_id, stays } =
            serde_json::from_str(saved)?;
        self.last_block = self.last_block.max(number);
        match self.users_by_id.get(&user_id).copied() {
            Some(user) => self.attach_block(user, number, stays),
            None => {
                self.unsaved.insert((Collection::Spans, number));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_support::{
        Driver, conn, connect, handle, hub, now, restarted, say, session,
    };
    use super::super::{Input, Limits, Turn};
    use super::*;

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

    fn memberships(hub: &Hub) -> &Memberships {
        &hub.users[hub.user_named("alice").expect("here")].memberships
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
        let count = |hub: &Hub| memberships(hub).after(0).len();
        for (line_between, spans) in [("/away", 1), ("mine", 2)] {
            for _ in 0..100 {
                for line in ["/join ops", line_between, "/part ops"] {
                    say(&mut hub, 0, line);
                }
                say(&mut hub, 1, "elsewhere");
            }
            assert_eq!(count(&hub), spans, "{line_between}");
        }
        // Messages posted in her absence are in no span.
        for line in ["/join ops", "missed", "/part ops"] {
            say(&mut hub, 1, line);
        }
        let missed = hub.last_ids.message;
        say(&mut hub, 0, "/join ops");
        let ops = Key::fold("ops");
        let spans = memberships(&hub).after(0);
        let covers = |span: &&MembershipSpan| {
            span.room == ops && span.from < missed && span.until.is_none_or(|it| it >= missed)
        };
        assert_eq!((spans.len(), spans.iter().find(covers)), (3, None));
    }

    #[test]
    fn old_spans_are_stored_in_blocks_and_restored() {
        let (mut hub, _) = with_session();
        visit_rooms(&mut hub, 0..1100);
        let spans = memberships(&hub).after(0);
        assert_eq!(spans.len(), 1101);
        assert!(memberships(&hub).recent().len() <= 2 * BLOCK + 1, "a session stays small");
        hub = restarted(&hub);
        assert_eq!(memberships(&hub).after(0), spans);
        assert_eq!(memberships(&hub).after(1095).len(), 6, "spans that may hold later messages");
        hub.check_invariants();
        // Stored blocks are not written again.
        hub.mark_saved();
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        assert!(hub.changes().iter().all(|change| change.collection != Collection::Spans));
        // The blocks are deleted with the session.
        let alice = memberships(&hub).numbers().count();
        let user_id = hub.users[hub.user_named("alice").expect("here")].id;
        hub.expire_session(now(Duration::ZERO), user_id, &mut Turn::default());
        let gone =
            hub.changes().into_iter().filter(|change| change.collection == Collection::Spans);
        let gone: Vec<_> = gone.map(|change| change.value).collect();
        assert_eq!(gone, vec![None; alice]);
        assert!(hub.block_owners.is_empty());
    }

    #[test]
    fn session_that_begins_late_stores_all_spans() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        visit_rooms(&mut hub, 0..200);
        assert!(hub.changes().is_empty());
        session(&mut hub, 0);
        let spans = memberships(&hub).after(0);
        assert_eq!(memberships(&restarted(&hub)).after(0), spans);
    }

    #[test]
    fn resume_from_before_evicted_spans_is_notified() {
        let (mut hub, token) = with_session();
        let spans = BLOCK * (BLOCKS_MAX + 3);
        visit_rooms(&mut hub, 0..spans);
        let evicted_upto = memberships(&hub).evicted_upto();
        let left = memberships(&hub).after(0).len() as u64;
        assert_eq!(left, spans as u64 + 1 - evicted_upto);
        assert!(evicted_upto > 0 && evicted_upto.is_multiple_of(BLOCK as u64), "{evicted_upto}");
        hub = restarted(&hub);
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
