//! Reads in slices. A read may have to scan many messages for the few that it selects, so it is
//! performed in slices of bounded work, and between two slices other reads have their turn. A
//! [`Read`] is all that a read needs to go on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ReadRequest, ReadResult, SortedSpans, Thread};
use crate::protocol::Stamp;
use crate::server::record::Record;

/// Maximum number of messages scanned in a slice.
pub(super) const SLICE_ROWS: usize = 1024;

/// Time after which a slice ends.
const SLICE_TIME: Duration = Duration::from_millis(50);

/// A read in progress.
#[derive(Debug)]
pub struct Read {
    request: ReadRequest,
    found: Found,
    /// The message that was scanned last.
    position: Option<u64>,
    has_gap: bool,
}

/// What a read has selected so far.
#[derive(Debug, Default)]
struct Found {
    /// In the order of the ids.
    rows: VecDeque<(u64, Stamp)>,
    /// The first ones, as many as reach the size of the request.
    records: VecDeque<Arc<Record>>,
    /// The size of `records`.
    size: usize,
}

/// What a slice of a read comes to.
#[derive(Debug)]
pub enum Slice {
    /// The result of the read.
    Complete(ReadResult),
    /// There is more to scan.
    Partial(Box<Read>),
}

/// The work that a slice may still do.
#[derive(Debug)]
pub(super) struct Budget {
    rows: usize,
    ends_at: Instant,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { rows: SLICE_ROWS, ends_at: Instant::now() + SLICE_TIME }
    }

    /// The same time for any number of messages.
    pub(super) fn of_time(&self) -> Self {
        Self { rows: usize::MAX, ends_at: self.ends_at }
    }

    /// A budget whose time is over from the start.
    #[cfg(test)]
    pub(super) fn spent() -> Self {
        Self { rows: SLICE_ROWS, ends_at: Instant::now() }
    }

    /// Takes one message to be scanned; returns `false` if the slice must end. Every slice scans
    /// some messages, so that a read ends.
    fn take(&mut self) -> bool {
        let is_checked = self.rows < SLICE_ROWS && self.rows.is_multiple_of(16);
        if self.rows == 0 || (is_checked && self.is_over()) {
            return false;
        }
        self.rows -= 1;
        true
    }

    /// Returns whether the time is over.
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.ends_at
    }
}

impl Read {
    /// Creates a read that has not begun.
    #[must_use]
    pub fn new(request: ReadRequest) -> Self {
        Self { request, found: Found::default(), position: None, has_gap: false }
    }

    /// Returns the request.
    #[must_use]
    pub fn request(&self) -> &ReadRequest {
        &self.request
    }

    /// Returns the ids between which messages are still to be scanned, without these two.
    pub(super) fn range(&self) -> (u64, u64) {
        let before = self.request.filter.before.unwrap_or(u64::MAX);
        match self.request.after {
            Some(after) => (self.position.unwrap_or(after), before),
            None => (0, self.position.unwrap_or(before)),
        }
    }

    /// Notes that the messages from this id on have been scanned, backwards.
    pub(super) fn move_to(&mut self, id: u64) {
        self.position = Some(id);
    }

    /// Notes that the log has deleted all messages up to this id.
    pub(super) fn note_deleted(&mut self, upto: u64) {
        self.has_gap |= self.request.after.is_some() && self.range().0 < upto;
    }

    /// Returns whether the limits of the request are reached.
    pub(super) fn is_filled(&self) -> bool {
        self.request.is_filled(self.found.rows.len(), self.found.size)
    }

    /// Scans messages in the direction of the read. Returns `false` if the slice ends before
    /// the scan does.
    pub(super) fn scan<E>(
        &mut self,
        records: impl IntoIterator<Item = Result<Arc<Record>, E>>,
        budget: &mut Budget,
    ) -> Result<bool, E> {
        let spans = SortedSpans::of(&self.request.thread);
        let mut records = records.into_iter();
        while !self.request.is_filled(self.found.rows.len(), self.found.size) {
            if !budget.take() {
                return Ok(false);
            }
            let Some(record) = records.next().transpose()? else { break };
            self.position = Some(record.id);
            if self.request.selects(&record, &spans) {
                self.found.add(&self.request, record);
            }
        }
        Ok(true)
    }

    /// Returns the result, after all slices; `last` is the id of the last message of the log.
    pub(super) fn complete(self, last: u64) -> ReadResult {
        let is_cut = self.is_filled() || self.found.records.len() < self.found.rows.len();
        let newest = self.found.records.back().filter(|_| is_cut).map(|record| record.id);
        let last = match &self.request.thread {
            Thread::Ids { ids, .. } => ids.last().copied().unwrap_or(last),
            _ => last,
        };
        let upto = newest.unwrap_or(last);
        let Found { rows, records, .. } = self.found;
        let (rows, records) = (rows.into(), records.into());
        ReadResult { rows, records, upto, has_gap: self.has_gap, has_failed: false }
    }
}

impl Found {
    fn add(&mut self, request: &ReadRequest, record: Arc<Record>) {
        let row = (record.id, record.time);
        if request.after.is_some() {
            self.rows.push_back(row);
            if self.size < request.size {
                self.size += record.size();
                self.records.push_back(record);
            }
            return;
        }
        self.rows.push_front(row);
        self.size += record.size();
        self.records.push_front(record);
        while let Some(last) = self.records.back().filter(|_| self.records.len() > 1)
            && self.size - last.size() >= request.size
        {
            self.size -= last.size();
            self.records.pop_back();
        }
    }
}
