//! Coalescing: adjoining lines to one audience are released as one push per reader.

use super::audience::{Audience, Reader};
use super::{ConnId, Fanout, Range, Sink, Topic};
use crate::protocol::Dialect;
use crate::server::net::outbox::Lines;

/// Adjoining lines to one audience that are not pushed yet. Each reader still receives all its
/// lines in order: before another line goes to one reader, that reader gets its share of the
/// run, and is then ahead of the other readers.
pub(super) struct Run<'t> {
    audience: &'t Audience,
    topic: Topic,
    /// The turn's lines and the range of this run, by dialect.
    buffers: [&'t Lines; Dialect::COUNT],
    ranges: [Range; Dialect::COUNT],
    /// End of what each reader has received, if that is more than nothing; indexed by reader, as
    /// thousands may ignore an author. Empty while no reader is ahead.
    ahead: Vec<Option<usize>>,
}

impl<'t> Run<'t> {
    pub(super) fn start(
        fanout: &'t Fanout,
        buffers: &'t [Lines; Dialect::COUNT],
        sink: &mut impl Sink,
    ) -> Self {
        let mut run = Self {
            audience: &fanout.audience,
            topic: fanout.topic,
            buffers: buffers.each_ref(),
            ranges: fanout.ranges,
            ahead: Vec::new(),
        };
        for conn in &fanout.except {
            run.skip_to_end(*conn);
        }
        run.note_reply_bytes_of(fanout, sink);
        run
    }

    fn note_reply_bytes_of(&self, fanout: &Fanout, sink: &mut impl Sink) {
        let Some(author) = fanout.author.filter(|author| !fanout.except.contains(author)) else {
            return;
        };
        if let Some(at) = self.audience.find(author) {
            let dialect = self.audience.readers[at].dialect;
            let Range { start, end } = fanout.ranges[dialect as usize];
            sink.note_reply_bytes(author, end - start);
        }
    }

    pub(super) fn continues(&self, next: &Fanout) -> bool {
        std::ptr::eq(self.audience, &raw const *next.audience)
            && self.topic == next.topic
            && self.ranges.iter().zip(&next.ranges).all(|(range, next)| range.end == next.start)
    }

    pub(super) fn extend(&mut self, next: &Fanout, sink: &mut impl Sink) {
        for conn in &next.except {
            self.flush_reader(*conn, sink);
        }
        for (range, next) in self.ranges.iter_mut().zip(&next.ranges) {
            range.end = next.end;
        }
        for conn in &next.except {
            self.skip_to_end(*conn);
        }
        self.note_reply_bytes_of(next, sink);
    }

    /// Pushes the run so far to one reader.
    pub(super) fn flush_reader(&mut self, conn: ConnId, sink: &mut impl Sink) {
        if let Some(at) = self.audience.find(conn) {
            let ahead = self.ahead.get(at).copied().flatten();
            self.push(&self.audience.readers[at], ahead, sink);
            self.skip(at);
        }
    }

    fn skip_to_end(&mut self, conn: ConnId) {
        if let Some(at) = self.audience.find(conn) {
            self.skip(at);
        }
    }

    fn skip(&mut self, at: usize) {
        let readers = &self.audience.readers;
        if self.ahead.is_empty() {
            self.ahead.resize(readers.len(), None);
        }
        self.ahead[at] = Some(self.range(&readers[at]).end);
    }

    pub(super) fn flush(self, sink: &mut impl Sink) {
        if self.ahead.is_empty() {
            self.audience.readers.iter().for_each(|reader| self.push(reader, None, sink));
        } else {
            let readers = self.audience.readers.iter().zip(&self.ahead);
            readers.for_each(|(reader, ahead)| self.push(reader, *ahead, sink));
        }
    }

    /// Pushes what a reader has not received yet: from `ahead`, or for most readers from the
    /// start of the run.
    fn push(&self, reader: &Reader, ahead: Option<usize>, sink: &mut impl Sink) {
        if self.topic == Topic::Presence && !reader.joins {
            return;
        }
        let Range { start, end } = self.range(reader);
        let start = ahead.unwrap_or(start);
        if start < end {
            sink.push(reader.conn, self.buffers[reader.dialect as usize], start, end);
        }
    }

    fn range(&self, reader: &Reader) -> Range {
        self.ranges[reader.dialect as usize]
    }
}
