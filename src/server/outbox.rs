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

/// A part of shared lines.
#[derive(Debug)]
struct Span {
    lines: Lines,
    start: usize,
    end: usize,
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
    len: usize,
    /// How much of it, at most, answers the connection's own lines. The two are
    /// bounded differently: answers bound themselves, since a connection that
    /// many wait for is not read from; what others say makes a slow reader.
    asked: usize,
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
        self.len
    }

    /// What waits and was not asked for, in bytes. Asked and unasked lines lie
    /// mixed; what was written is taken to be unasked first, to the reader's
    /// favour.
    #[must_use]
    pub fn unasked(&self) -> usize {
        self.len.saturating_sub(self.asked)
    }

    /// Adds `lines[start..end]` behind what waits.
    pub fn push(&mut self, lines: &Lines, start: usize, end: usize) {
        self.len += end - start;
        if let Some(last) = self.spans.back_mut()
            && last.end == start
            && Arc::ptr_eq(&last.lines, lines)
        {
            last.end = end;
            return;
        }
        self.spans.push_back(Span { lines: lines.clone(), start, end });
    }

    /// So many of the bytes pushed are answers.
    pub fn note_asked(&mut self, count: usize) {
        self.asked += count;
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
            self.len -= written;
            if first.start == first.end {
                self.spans.pop_front();
            }
        }
        self.asked = self.asked.min(self.len);
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
            self.len = span.end - span.start;
            self.spans.push_back(span);
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
        outbox.push(&lines, 0, 4);
        outbox.push(&lines, 4, 8);
        outbox.push(&lines, 8, 14);
        assert_eq!(waiting(&outbox), ["one\ntwo\nthree\n"]);
        let other: Lines = Arc::new(b"one\ntwo\nthree\nfour\n".to_vec());
        outbox.push(&other, 14, 19);
        assert_eq!(waiting(&outbox), ["one\ntwo\nthree\n", "four\n"]);
    }

    #[test]
    fn what_is_written_goes_and_an_empty_outbox_holds_no_memory() {
        let lines: Lines = Arc::new(b"one\ntwo\n".to_vec());
        let mut outbox = Outbox::default();
        outbox.push(&lines, 0, 4);
        outbox.push(&lines, 4, 8);
        outbox.advance(5);
        assert_eq!(waiting(&outbox), ["wo\n"]);
        assert_eq!(outbox.len(), 3);
        outbox.advance(3);
        assert!(outbox.is_empty());
        assert_eq!(outbox.spans.capacity(), 0);
        assert_eq!(Arc::strong_count(&lines), 1);
    }

    #[test]
    fn answers_do_not_count_against_the_reader() {
        let lines: Lines = Arc::new(b"one\ntwo\nthree\n".to_vec());
        let mut outbox = Outbox::default();
        outbox.note_asked(4);
        outbox.push(&lines, 0, 14);
        assert_eq!(outbox.unasked(), 10);
        outbox.advance(8);
        assert_eq!(outbox.unasked(), 2);
        outbox.advance(4);
        assert_eq!((outbox.len(), outbox.unasked()), (2, 0));
    }

    #[test]
    fn cutting_keeps_the_rest_of_a_line_that_is_partly_written() {
        let lines: Lines = Arc::new(b"one\ntwo\nthree\n".to_vec());
        for (written, rest) in [(0, ""), (2, "e\n"), (4, ""), (5, "wo\n")] {
            let mut outbox = Outbox::default();
            outbox.push(&lines, 0, 8);
            outbox.push(&lines, 8, 14);
            outbox.advance(written);
            outbox.cut();
            assert_eq!(waiting(&outbox).concat(), rest, "after {written}");
            assert_eq!(outbox.len(), rest.len());
        }
    }
}
