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
    recent: Vec<MembershipSpan>,
    /// The last message of the evicted spans.
    evicted_upto: u64,
}

impl Spans {
    pub(crate) fn new(recent: Vec<MembershipSpan>, evicted_upto: u64) -> Self {
        Self { blocks: Vec::new(), recent, evicted_upto }
    }

    /// The spans that are stored with the session.
    pub(crate) fn recent(&self) -> &[MembershipSpan] {
        &self.recent
    }

    pub(crate) fn evicted_upto(&self) -> u64 {
        self.evicted_upto
    }

    /// The spans that may contain a message after this id.
    pub(super) fn after(&self, message: u64) -> Vec<MembershipSpan> {
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
            Some(span) if span.until.is_some_and(|until| messages.is_silent(room, until)) => {
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
        if messages.is_silent(room, self.recent[at].from) {
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
