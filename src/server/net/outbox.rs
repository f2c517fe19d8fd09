//! The outbox: output that waits to be written to one connection, as a short list of spans
//! over buffers that are shared by all readers.
//!
//! A message to a thousand readers is encoded once and pushed a thousand times without
//! copying; a span that continues the previous one only extends it. An empty outbox holds no
//! memory. Limits are enforced by the reactor.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

/// Counts the memory held by all outboxes together; shared buffers count once.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<AtomicUsize>);

impl Meter {
    /// Returns the memory held, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts `size` bytes for the lifetime of the share.
    #[must_use]
    pub fn share(&self, size: usize) -> Share {
        let mut share = Share { size: 0, meter: self.clone() };
        share.resize(size);
        share
    }
}

/// An amount of memory counted by a meter.
#[derive(Debug, Default)]
pub struct Share {
    size: usize,
    meter: Meter,
}

impl Share {
    fn resize(&mut self, size: usize) {
        // If it shrinks, the difference wraps around, and so does the sum: the result is right.
        self.meter.0.fetch_add(size.wrapping_sub(self.size), Ordering::Relaxed);
        self.size = size;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// Encoded lines, shared by all their readers.
#[derive(Debug, Clone)]
pub struct Lines(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// The share of the meter.
    share: Share,
}

impl Lines {
    /// Creates shared lines, counted until the last clone is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>, meter: &Meter) -> Self {
        static NONE: LazyLock<Lines> = LazyLock::new(|| Lines(Arc::default()));
        if bytes.is_empty() {
            return NONE.clone(); // most turns fill one of three buffers only
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

/// A range of shared lines.
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

    /// Returns whether most of the buffer that it keeps alive is not needed by this reader.
    fn is_wasteful(&self) -> bool {
        self.len() * 4 < self.lines.0.bytes.capacity()
    }

    fn copy(&self) -> Self {
        let lines = Lines::new(self.bytes().to_vec(), &self.lines.0.share.meter);
        Self { start: 0, end: lines.len(), lines }
    }

    /// Extends the span by a copy of `bytes`, if its buffer is not shared.
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

/// The pending output of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Usually there is at most one span, which needs no allocation.
    first: Option<Span>,
    rest: VecDeque<Span>,
    len: usize,
    /// Upper bound of the bytes that are replies to the connection's own lines. Replies are
    /// bounded by backpressure, as a connection over its limit is not read from; only the rest
    /// makes a client a slow reader.
    reply_bytes: usize,
    /// Whether the first line is partly written.
    is_within_line: bool,
    /// Number of spans in `rest` that [`Outbox::compact`] has handled already.
    compacted: usize,
}

/// Size of the pieces in which copies are collected, in bytes; memory is freed piece by piece
/// as they are written.
const COPY_SIZE: usize = 64 << 10;

/// Maximum number of spans per system call. The kernel's limit is 1024; beyond some dozens the
/// fixed cost of the call no longer matters.
const SPANS_PER_WRITE: usize = 64;

impl Outbox {
    /// Returns whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Returns the size of all pending output, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the size of pending output that is no reply, in bytes. The two kinds are mixed in
    /// the queue; bytes written count as unsolicited first, in favour of the reader.
    #[must_use]
    pub fn unsolicited(&self) -> usize {
        self.len.saturating_sub(self.reply_bytes)
    }

    /// Appends `lines[start..end]`.
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

    /// Notes that `count` of the bytes pushed are replies.
    pub fn note_reply_bytes(&mut self, count: usize) {
        self.reply_bytes += count;
    }

    /// Returns all pending output, if it is one span.
    #[must_use]
    pub fn single(&self) -> Option<&[u8]> {
        self.first.as_ref().filter(|_| self.rest.is_empty()).map(Span::bytes)
    }

    /// Returns the first span.
    #[must_use]
    pub fn first(&self) -> Option<&[u8]> {
        self.first.as_ref().map(Span::bytes)
    }

    /// Returns the spans for one vectored write.
    pub fn slices<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        out.extend(self.spans().take(SPANS_PER_WRITE).map(|span| IoSlice::new(span.bytes())));
    }

    fn spans(&self) -> impl Iterator<Item = &Span> {
        self.first.iter().chain(&self.rest)
    }

    /// Removes the first `count` bytes, which were written.
    pub fn advance(&mut self, mut count: usize) {
        if count == self.len {
            *self = Self::default(); // the common case; pending output ends with a line
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
        self.reply_bytes = self.reply_bytes.min(self.len);
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new(); // an idle connection holds no memory
        }
    }

    /// Copies spans that keep a mostly unneeded buffer alive. To be called for a slow reader; the
    /// memory held is then at most four times the pending output.
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

    /// Discards all pending output except the rest of a partly written line, so that the next
    /// line starts on its own.
    pub fn cut(&mut self) {
        let is_within_line = self.is_within_line;
        let pending = mem::replace(self, Self { is_within_line, ..Self::default() });
        if !is_within_line {
            return;
        }
        for mut span in pending.first.into_iter().chain(pending.rest) {
            let end = memchr::memchr(b'\n', span.bytes());
            span.end = end.map_or(span.end, |end| span.start + end + 1);
            self.len += span.len();
            self.put(span);
            if end.is_some() {
                return;
            }
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
    fn outbox_frees_what_is_written_and_holds_no_memory_when_empty() {
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
    fn cut_keeps_the_rest_of_a_line_in_several_spans() {
        let mut outbox = Outbox::default();
        for part in [&b"[SESSION "[..], b"token", b"] text\nnext\n", b"last\n"] {
            outbox.push(&shared(part), 0, part.len());
        }
        outbox.advance(4);
        outbox.cut();
        assert_eq!(waiting(&outbox), ["SION ", "token", "] text\n"]);
        assert_eq!(outbox.len(), 17);
        outbox.advance(17);
        outbox.push(&shared(b"one\ntwo\n"), 0, 8);
        outbox.cut();
        assert!(outbox.is_empty());
    }

    #[test]
    fn replies_do_not_count_as_unsolicited() {
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
    fn cut_keeps_the_rest_of_a_partly_written_line() {
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
    fn slow_reader_holds_at_most_four_times_its_pending_output() {
        let meter = Meter::default();
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for turn in 0..1000 {
            // A small part of a large buffer, and sometimes most of one.
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
        // A vector may have twice the capacity it needs.
        assert!(meter.held() <= 2 * 4 * outbox.len(), "{} for {}", meter.held(), outbox.len());
        assert!(outbox.rest.len() < 100, "{} spans", outbox.rest.len());
        outbox.advance(expected.len());
        assert_eq!(meter.held(), 0);
    }
}
