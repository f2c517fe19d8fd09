//! What waits to be written to one connection: a short list of spans over
//! buffers that all its readers share. A message to a thousand readers is
//! encoded once and pushed a thousand times; nothing is copied, and a span that
//! continues the one before it only makes that one longer.
//!
//! An empty outbox holds no memory.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// Bytes of whole lines, encoded once and shared by everyone who is sent them.
pub type Lines = Arc<Vec<u8>>;

/// Why something waits; the two are bounded differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// An answer to a line of the connection's own: past the bound the
    /// connection is not read from, so it bounds itself.
    Asked,
    /// What others say and do: past the bound the reader is too slow.
    Unasked,
}

/// A part of shared lines.
#[derive(Debug)]
struct Span {
    lines: Lines,
    start: usize,
    end: usize,
    cause: Cause,
}

impl Span {
    fn bytes(&self) -> &[u8] {
        &self.lines[self.start..self.end]
    }
}

/// The spans that wait for one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    spans: VecDeque<Span>,
    asked: usize,
    unasked: usize,
}

/// The most spans one system call writes; the kernel's own limit is 1024, and
/// past some dozens the call's fixed cost no longer shows.
const SPANS_PER_WRITE: usize = 64;

impl Outbox {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// All that waits, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.asked + self.unasked
    }

    /// What waits unasked, in bytes.
    #[must_use]
    pub fn unasked(&self) -> usize {
        self.unasked
    }

    /// Adds `lines[start..end]` behind what waits.
    pub fn push(&mut self, lines: &Lines, start: usize, end: usize, cause: Cause) {
        *self.counter(cause) += end - start;
        if let Some(last) = self.spans.back_mut() {
            let is_next = last.end == start && last.cause == cause;
            if is_next && Arc::ptr_eq(&last.lines, lines) {
                last.end = end;
                return;
            }
        }
        self.spans.push_back(Span { lines: lines.clone(), start, end, cause });
    }

    /// What to hand to one vectored write.
    pub fn slices<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        out.extend(self.spans.iter().take(SPANS_PER_WRITE).map(|span| IoSlice::new(span.bytes())));
    }

    /// Takes away the first `count` bytes: they are written.
    pub fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(first) = self.spans.front_mut() else { return };
            let written = count.min(first.end - first.start);
            first.start += written;
            count -= written;
            let (cause, is_done) = (first.cause, first.start == first.end);
            *self.counter(cause) -= written;
            if is_done {
                self.spans.pop_front();
            }
        }
        if self.spans.is_empty() {
            self.spans = VecDeque::new(); // an idle connection holds no memory
        }
    }

    /// Throws away all that waits but the rest of a line that is partly
    /// written: the next line must begin at the start of one.
    pub fn cut(&mut self) {
        let rest = self.spans.pop_front().and_then(|mut first| {
            let is_within = first.start > 0 && first.lines[first.start - 1] != b'\n';
            let end = memchr::memchr(b'\n', first.bytes())?;
            first.end = first.start + end + 1;
            is_within.then_some(first)
        });
        *self = Self::default();
        if let Some(span) = rest {
            *self.counter(span.cause) += span.end - span.start;
            self.spans.push_back(span);
        }
    }

    fn counter(&mut self, cause: Cause) -> &mut usize {
        match cause {
            Cause::Asked => &mut self.asked,
            Cause::Unasked => &mut self.unasked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(outbox: &Outbox) -> Vec<String> {
        outbox.spans.iter().map(|span| String::from_utf8_lossy(span.bytes()).into()).collect()
    }

    #[test]
    fn adjoining_spans_become_one() {
        let lines: Lines = Arc::new(b"one\ntwo\nthree\n".to_vec());
        let mut outbox = Outbox::default();
        outbox.push(&lines, 0, 4, Cause::Unasked);
        outbox.push(&lines, 4, 8, Cause::Unasked);
        outbox.push(&lines, 8, 14, Cause::Asked);
        assert_eq!(waiting(&outbox), ["one\ntwo\n", "three\n"]);
        assert_eq!((outbox.len(), outbox.unasked()), (14, 8));
        let other: Lines = Arc::new(b"one\ntwo\nthree\nfour\n".to_vec());
        outbox.push(&other, 14, 19, Cause::Asked);
        assert_eq!(waiting(&outbox), ["one\ntwo\n", "three\n", "four\n"]);
    }

    #[test]
    fn what_is_written_goes_and_an_empty_outbox_holds_no_memory() {
        let lines: Lines = Arc::new(b"one\ntwo\n".to_vec());
        let mut outbox = Outbox::default();
        outbox.push(&lines, 0, 4, Cause::Unasked);
        outbox.push(&lines, 4, 8, Cause::Asked);
        outbox.advance(5);
        assert_eq!(waiting(&outbox), ["wo\n"]);
        assert_eq!((outbox.len(), outbox.unasked()), (3, 0));
        outbox.advance(3);
        assert!(outbox.is_empty());
        assert_eq!(outbox.spans.capacity(), 0);
        assert_eq!(Arc::strong_count(&lines), 1);
    }

    #[test]
    fn cutting_keeps_the_rest_of_a_line_that_is_partly_written() {
        let lines: Lines = Arc::new(b"one\ntwo\nthree\n".to_vec());
        for (written, rest) in [(0, ""), (2, "e\n"), (4, ""), (5, "wo\n")] {
            let mut outbox = Outbox::default();
            outbox.push(&lines, 0, 8, Cause::Unasked);
            outbox.push(&lines, 8, 14, Cause::Asked);
            outbox.advance(written);
            outbox.cut();
            assert_eq!(waiting(&outbox).concat(), rest, "after {written}");
            assert_eq!(outbox.len(), rest.len());
        }
    }
}
