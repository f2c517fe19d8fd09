//! What waits to be written to one connection: a short list of spans over
//! buffers that all its readers share. A message to a thousand readers is
//! encoded once and pushed a thousand times; nothing is copied, and a span that
//! continues the one before it only makes that one longer.
//!
//! An empty outbox holds no memory.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

/// How much memory is held by all that waits for connections, however many of them
/// share it.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<AtomicUsize>);

impl Meter {
    /// In bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts so many bytes as long as the share lives.
    #[must_use]
    pub fn share(&self, size: usize) -> Share {
        let mut share = Share { size: 0, meter: self.clone() };
        share.resize(size);
        share
    }
}

/// What a meter counts for something that waits.
#[derive(Debug, Default)]
pub struct Share {
    size: usize,
    meter: Meter,
}

impl Share {
    fn resize(&mut self, size: usize) {
        // It may get smaller: then this wraps, and is right all the same.
        self.meter.0.fetch_add(size.wrapping_sub(self.size), Ordering::Relaxed);
        self.size = size;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// Bytes of whole lines, encoded once and shared by everyone who is sent them.
#[derive(Debug, Clone)]
pub struct Lines(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// What the meter knows of it.
    share: Share,
}

impl Lines {
    /// Lines to share, counted as long as anybody holds them.
    #[must_use]
    pub fn new(bytes: Vec<u8>, meter: &Meter) -> Self {
        static NONE: LazyLock<Lines> = LazyLock::new(|| Lines(Arc::default()));
        if bytes.is_empty() {
            return NONE.clone(); // most turns have lines of one kind only
        }
        let share = meter.share(bytes.capacity());
        Self(Arc::new(Held { bytes, share }))
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Lines {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// A part of shared lines.
#[derive(Debug)]
struct Span {
    lines: Lines,
    start: usize,
    end: usize,
}

impl Span {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn bytes(&self) -> &[u8] {
        &self.lines[self.start..self.end]
    }

    /// Whether most of what it holds on to is not waited for.
    fn is_wasteful(&self) -> bool {
        self.len() * 4 < self.lines.0.bytes.capacity()
    }

    fn copy(&self) -> Self {
        let lines = Lines::new(self.bytes().to_vec(), &self.lines.0.share.meter);
        Self { start: 0, end: lines.len(), lines }
    }

    /// Makes it longer by a copy, if nobody shares it.
    fn append(&mut self, bytes: &[u8]) -> bool {
        let is_at_end = self.end == self.lines.len() && self.end < COPY_SIZE;
        let Some(held) = Arc::get_mut(&mut self.lines.0).filter(|_| is_at_end) else {
            return false;
        };
        held.bytes.extend_from_slice(bytes);
        held.share.resize(held.bytes.capacity());
        self.end += bytes.len();
        true
    }
}

/// The spans that wait for one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Most of the time there is one span or none, and no allocation for it.
    first: Option<Span>,
    rest: VecDeque<Span>,
    len: usize,
    /// How much of it, at most, answers the connection's own lines. The two are
    /// bounded differently: answers bound themselves, since a connection that
    /// many wait for is not read from; what others say makes a slow reader.
    asked: usize,
    /// Whether the line that comes first is partly written.
    is_within_line: bool,
    /// How many spans of the rest need not be looked at by [`Outbox::compact`].
    compacted: usize,
}

/// Copies are gathered in pieces of about this size, in bytes, so that memory is
/// given back as they are written.
const COPY_SIZE: usize = 64 << 10;

/// The most spans one system call writes; the kernel's own limit is 1024, and
/// past some dozens the call's fixed cost no longer shows.
const SPANS_PER_WRITE: usize = 64;

impl Outbox {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
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
    pub fn unsolicited(&self) -> usize {
        self.len.saturating_sub(self.asked)
    }

    /// Adds `lines[start..end]` behind what waits.
    pub fn push(&mut self, lines: &Lines, start: usize, end: usize) {
        self.len += end - start;
        if let Some(last) = self.rest.back_mut().or(self.first.as_mut())
            && last.end == start
            && last.lines.is_same(lines)
        {
            last.end = end;
            return;
        }
        self.put(Span { lines: lines.clone(), start, end });
    }

    fn put(&mut self, span: Span) {
        if self.first.is_none() {
            self.first = Some(span);
        } else {
            self.rest.push_back(span);
        }
    }

    /// So many of the bytes pushed are answers.
    pub fn note_reply_bytes(&mut self, count: usize) {
        self.asked += count;
    }

    /// All that waits, if it lies in one piece.
    #[must_use]
    pub fn single(&self) -> Option<&[u8]> {
        self.first.as_ref().filter(|_| self.rest.is_empty()).map(Span::bytes)
    }

    /// The first of what waits that lies in one piece.
    #[must_use]
    pub fn first(&self) -> Option<&[u8]> {
        self.first.as_ref().map(Span::bytes)
    }

    /// What to hand to one vectored write.
    pub fn slices<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        out.extend(self.spans().take(SPANS_PER_WRITE).map(|span| IoSlice::new(span.bytes())));
    }

    fn spans(&self) -> impl Iterator<Item = &Span> {
        self.first.iter().chain(&self.rest)
    }

    /// Takes away the first `count` bytes: they are written.
    pub fn advance(&mut self, mut count: usize) {
        if count == self.len {
            *self = Self::default(); // most of the time; what waits ends with a line
            return;
        }
        while count > 0 {
            let Some(first) = &mut self.first else { return };
            let written = count.min(first.len());
            first.start += written;
            if let Some(last) = first.lines[..first.start].last() {
                self.is_within_line = *last != b'\n';
            }
            count -= written;
            self.len -= written;
            if first.start == first.end {
                self.first = self.rest.pop_front();
                self.compacted = self.compacted.saturating_sub(1);
            }
        }
        self.asked = self.asked.min(self.len);
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new(); // an idle connection holds no memory
        }
    }

    /// The reader is slow, and what waits for it waits longer: it should not hold
    /// on to buffers that are mostly what others were sent. Spans of such are
    /// copied together. Memory is then at most four times what waits.
    pub fn compact(&mut self) {
        if let Some(first) = self.first.as_mut().filter(|first| first.is_wasteful()) {
            *first = first.copy();
        }
        let rest: Vec<Span> = self.rest.drain(self.compacted..).collect();
        for span in rest {
            let last = self.rest.back_mut().or(self.first.as_mut());
            if !span.is_wasteful() {
                self.rest.push_back(span);
            } else if !last.is_some_and(|last| last.append(span.bytes())) {
                self.rest.push_back(span.copy());
            }
        }
        self.compacted = self.rest.len();
    }

    /// Throws away all that waits but the rest of a line that is partly
    /// written: the next line must begin at the start of one.
    pub fn cut(&mut self) {
        let rest = self.first.take().and_then(|mut first| {
            let end = memchr::memchr(b'\n', first.bytes())?;
            first.end = first.start + end + 1;
            self.is_within_line.then_some(first)
        });
        *self = Self { is_within_line: self.is_within_line, ..Self::default() };
        if let Some(span) = rest {
            self.len = span.len();
            self.first = Some(span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(outbox: &Outbox) -> Vec<String> {
        outbox.spans().map(|span| String::from_utf8_lossy(span.bytes()).into()).collect()
    }

    fn shared(bytes: &[u8]) -> Lines {
        Lines::new(bytes.to_vec(), &Meter::default())
    }

    #[test]
    fn adjoining_spans_become_one() {
        let lines = shared(b"one\ntwo\nthree\n");
        let mut outbox = Outbox::default();
        outbox.push(&lines, 0, 4);
        outbox.push(&lines, 4, 8);
        outbox.push(&lines, 8, 14);
        assert_eq!(waiting(&outbox), ["one\ntwo\nthree\n"]);
        let other = shared(b"one\ntwo\nthree\nfour\n");
        outbox.push(&other, 14, 19);
        assert_eq!(waiting(&outbox), ["one\ntwo\nthree\n", "four\n"]);
    }

    #[test]
    fn what_is_written_goes_and_an_empty_outbox_holds_no_memory() {
        let lines = shared(b"one\ntwo\n");
        let mut outbox = Outbox::default();
        outbox.push(&lines, 0, 4);
        outbox.push(&lines, 4, 8);
        outbox.advance(5);
        assert_eq!(waiting(&outbox), ["wo\n"]);
        assert_eq!(outbox.len(), 3);
        outbox.advance(3);
        assert!(outbox.is_empty());
        assert_eq!(outbox.rest.capacity(), 0);
        assert_eq!(Arc::strong_count(&lines.0), 1);
    }

    #[test]
    fn answers_do_not_count_against_the_reader() {
        let lines = shared(b"one\ntwo\nthree\n");
        let mut outbox = Outbox::default();
        outbox.note_reply_bytes(4);
        outbox.push(&lines, 0, 14);
        assert_eq!(outbox.unsolicited(), 10);
        outbox.advance(8);
        assert_eq!(outbox.unsolicited(), 2);
        outbox.advance(4);
        assert_eq!((outbox.len(), outbox.unsolicited()), (2, 0));
    }

    #[test]
    fn cutting_keeps_the_rest_of_a_line_that_is_partly_written() {
        let lines = shared(b"one\ntwo\nthree\n");
        for (written, rest) in [(0, ""), (2, "e\n"), (4, ""), (5, "wo\n")] {
            let mut outbox = Outbox::default();
            outbox.push(&lines, 0, 8);
            outbox.push(&lines, 8, 14);
            outbox.advance(written);
            outbox.compact();
            outbox.cut();
            assert_eq!(waiting(&outbox).concat(), rest, "after {written}");
            assert_eq!(outbox.len(), rest.len());
        }
    }

    #[test]
    fn a_slow_reader_holds_on_to_no_more_than_four_times_what_waits_for_it() {
        let meter = Meter::default();
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for turn in 0..1000 {
            // A small part of a large buffer, and now and then most of one.
            let line = format!("line {turn}\n");
            let size = if turn % 50 == 0 { line.len() + 3 } else { 10_000 };
            let mut bytes = vec![b'x'; size - line.len()];
            bytes.extend_from_slice(line.as_bytes());
            outbox.push(&Lines::new(bytes, &meter), size - line.len(), size);
            expected.extend_from_slice(line.as_bytes());
            outbox.compact();
            if turn % 7 == 0 {
                outbox.advance(5);
                expected.drain(..5);
            }
        }
        assert_eq!(waiting(&outbox).concat().as_bytes(), expected);
        // A vector has up to twice the room it needs.
        assert!(meter.held() <= 2 * 4 * outbox.len(), "{} for {}", meter.held(), outbox.len());
        assert!(outbox.rest.len() < 100, "{} spans", outbox.rest.len());
        outbox.advance(expected.len());
        assert_eq!(meter.held(), 0);
    }
}
