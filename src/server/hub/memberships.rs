//! When somebody was in which room: what decides which messages `/resume` gives.
//!
//! All of a visit counts, since `/resume TOKEN 0` reads from its beginning. Spans that
//! nothing was said between, or in, are one, or none. The others are kept apart from the
//! rest of the visit, in blocks that never change, so that saving a visit does not cost
//! more the longer it lasts. Past a bound the oldest block is forgotten, and whoever reads
//! from before its end is told so.

use serde::{Deserialize, Serialize};

use super::{Collection, Hub, Key, MembershipSpan, UserId, UserIx};

/// How many spans of the past a block holds, and how many blocks there are of one visit.
const BLOCK: usize = 32;
const BLOCKS_MAX: usize = 320;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    /// The oldest, each under the number it is kept by.
    blocks: Vec<(u64, Box<[MembershipSpan]>)>,
    /// The latest, in the order they began; those that have not ended are among them.
    recent: Vec<MembershipSpan>,
    /// The last message of the spans that are forgotten.
    forgotten: u64,
}

/// A block as it is kept; only ever added to.
#[derive(Debug, Serialize, Deserialize)]
struct SavedBlock<B> {
    person: UserId,
    stays: B,
}

impl Memberships {
    pub(super) fn new(recent: Vec<MembershipSpan>, forgotten: u64) -> Self {
        Self { blocks: Vec::new(), recent, forgotten }
    }

    /// Those that are kept with the visit.
    pub(super) fn recent(&self) -> &[MembershipSpan] {
        &self.recent
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Those that may hold a message after this one.
    pub(super) fn after(&self, message: u64) -> Vec<MembershipSpan> {
        let all = self.blocks.iter().flat_map(|(_, block)| block).chain(&self.recent);
        all.filter(|stay| stay.until.is_none_or(|until| until > message)).cloned().collect()
    }

    /// The numbers of the blocks.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.blocks.iter().map(|(number, _)| *number)
    }

    /// Takes the oldest spans of the past out, if they fill a block.
    fn take_block(&mut self) -> Option<Box<[MembershipSpan]>> {
        let is_past = |stay: &MembershipSpan| stay.until.is_some();
        // As many again stay, so that they can be joined with those that follow.
        if self.recent.iter().filter(|stay| is_past(stay)).count() < 2 * BLOCK {
            return None;
        }
        let past = self.recent.extract_if(.., |stay| is_past(stay));
        Some(past.take(BLOCK).collect())
    }
}

impl Hub {
    /// Somebody has come into a room.
    pub(super) fn note_arrival(&mut self, user: UserIx, room: Key) {
        let from = self.last_ids.message;
        let recent = &mut self.users[user].memberships.recent;
        let last = recent.iter_mut().rfind(|stay| stay.room == room);
        match last {
            // As if they had never left.
            Some(stay) if stay.until.is_some_and(|until| self.recent.is_silent(&room, until)) => {
                stay.until = None;
            }
            _ => recent.push(MembershipSpan { room, from, until: None }),
        }
        while let Some(block) = self.users[user].memberships.take_block() {
            self.add_block(user, block);
        }
    }

    /// Somebody has left a room.
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
            let until = block.iter().filter_map(|stay| stay.until).max();
            memberships.forgotten = memberships.forgotten.max(until.unwrap_or_default());
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

    /// From now on a visit is kept.
    pub(super) fn note_blocks_unsaved(&mut self, user: UserIx) {
        let numbers = self.users[user].memberships.numbers();
        self.unsaved.extend(numbers.map(|number| (Collection::Spans, number)));
    }

    /// A visit is over; `is_kept`: until now it was kept.
    pub(super) fn forget_blocks(&mut self, user: UserIx, is_kept: bool) {
        for number in self.users[user].memberships.numbers() {
            self.block_owners.remove(&number);
            if is_kept {
                self.unsaved.insert((Collection::Spans, number));
            }
        }
    }

    /// What is kept of a block; `None` if it is kept no more.
    pub(super) fn saved_block(&self, number: u64) -> Option<String> {
        let person = *self.block_owners.get(&number)?;
        let user = &self.users[*self.users_by_id.get(&person)?];
        let (_, stays) = user.memberships.blocks.iter().find(|(it, _)| *it == number)?;
        serde_json::to_string(&SavedBlock { person, stays }).ok()
    }

    /// When all are back who can come back. A block of nobody is kept no more.
    pub(super) fn restore_block(&mut self, number: u64, saved: &str) -> serde_json::Result<()> {
        let SavedBlock::<Box<[MembershipSpan]>> { person, stays } = serde_json::from_str(saved)?;
        self.last_block = self.last_block.max(number);
        match self.users_by_id.get(&person).copied() {
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

    use super::super::test_support::{conn, connect, handle, hub, now, restarted, say, session};
    use super::super::{Input, Limits, Turn};
    use super::*;

    /// Alice has a session, bob is there too.
    fn with_session() -> (Hub, String) {
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

    /// Alice says one line in each of some rooms.
    fn visit_rooms(hub: &mut Hub, rooms: std::ops::Range<usize>) {
        for room in rooms {
            for line in [format!("/join r{room}"), "hi".to_owned(), "/part".to_owned()] {
                say(hub, 0, &line);
            }
        }
        hub.check_invariants();
    }

    #[test]
    fn spans_that_nothing_was_said_between_or_in_are_joined() {
        let (mut hub, _) = with_session();
        let count = |hub: &Hub| memberships(hub).after(0).len();
        for (said, spans) in [("/away", 1), ("mine", 2)] {
            for _ in 0..100 {
                for line in ["/join ops", said, "/part ops"] {
                    say(&mut hub, 0, line);
                }
                say(&mut hub, 1, "elsewhere");
            }
            assert_eq!(count(&hub), spans, "{said}");
        }
        // What she was not there to see is in no span.
        for line in ["/join ops", "missed", "/part ops"] {
            say(&mut hub, 1, line);
        }
        let missed = hub.last_ids.message;
        say(&mut hub, 0, "/join ops");
        let ops = Key::fold("ops");
        let spans = memberships(&hub).after(0);
        let covers = |stay: &&MembershipSpan| {
            stay.room == ops && stay.from < missed && stay.until.is_none_or(|it| it >= missed)
        };
        assert_eq!((spans.len(), spans.iter().find(covers)), (3, None));
    }

    #[test]
    fn past_spans_are_kept_apart_and_outlive_a_restart() {
        let (mut hub, _) = with_session();
        visit_rooms(&mut hub, 0..1100);
        let spans = memberships(&hub).after(0);
        assert_eq!(spans.len(), 1101);
        assert!(memberships(&hub).recent().len() <= 2 * BLOCK + 1, "a visit stays small");
        hub = restarted(&hub);
        assert_eq!(memberships(&hub).after(0), spans);
        assert_eq!(memberships(&hub).after(1095).len(), 6, "of what is left to be read");
        hub.check_invariants();
        // What is written once is not written again.
        hub.mark_saved();
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        assert!(hub.changes().iter().all(|change| change.shelf != Collection::Spans));
        // The end of the visit is the end of its blocks.
        let alice = memberships(&hub).numbers().count();
        let person = hub.users[hub.user_named("alice").expect("here")].id;
        hub.expire_session(now(Duration::ZERO), person, &mut Turn::default());
        let gone = hub.changes().into_iter().filter(|change| change.shelf == Collection::Spans);
        let gone: Vec<_> = gone.map(|change| change.value).collect();
        assert_eq!(gone, vec![None; alice]);
        assert!(hub.block_owners.is_empty());
    }

    #[test]
    fn session_that_begins_late_keeps_all_of_its_visit() {
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
    fn reader_from_before_what_is_forgotten_is_told_so() {
        let (mut hub, token) = with_session();
        let spans = BLOCK * (BLOCKS_MAX + 3);
        visit_rooms(&mut hub, 0..spans);
        let forgotten = memberships(&hub).forgotten();
        let left = memberships(&hub).after(0).len() as u64;
        assert_eq!(left, spans as u64 + 1 - forgotten);
        assert!(forgotten > 0 && forgotten.is_multiple_of(BLOCK as u64), "{forgotten}");
        hub = restarted(&hub);
        for (after, is_told) in [(0, true), (forgotten - 1, true), (forgotten, false)] {
            connect(&mut hub, 0);
            let (_, told) = say(&mut hub, 0, &format!("/resume {token} {after}"));
            let text = format!("[WELCOME alice] you are back; up to id {forgotten}, ");
            assert!(told.text.starts_with("[WELCOME alice] you are back"), "{}", told.text);
            assert_eq!(told.text.starts_with(&text), is_told, "{after}: {}", told.text);
            handle(&mut hub, 0, Input::Disconnected);
            hub.forget_connection(conn(0));
        }
    }
}
