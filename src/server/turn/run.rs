//! Adjoining lines to one audience, released as one.

use super::audience::{Audience, Reader};
use super::{ConnId, Fanout, Range, Sink, Topic};
use crate::server::outbox::Lines;

/// Adjoining lines to one audience, not pushed yet. Each reader still gets its
/// own lines in the order produced: who is sent something in between is first
/// given its part of the run, and is then ahead of the others.
pub(super) struct Run<'t> {
    audience: &'t Audience,
    topic: Topic,
    buffers: [&'t Lines; 2],
    plain: Range,
    tagged: Range,
    /// Who has had more of the run than its start, and up to where.
    ahead: Vec<(ConnId, usize)>,
}

impl<'t> Run<'t> {
    pub(super) fn start(
        fanout: &'t Fanout,
        plain: &'t Lines,
        tagged: &'t Lines,
        sink: &mut impl Sink,
    ) -> Self {
        let mut run = Self {
            audience: &fanout.audience,
            topic: fanout.topic,
            buffers: [plain, tagged],
            plain: fanout.plain,
            tagged: fanout.tagged,
            ahead: Vec::new(),
        };
        for conn in &fanout.except {
            run.skip_to_end(*conn);
        }
        run.note_asked(fanout, sink);
        run
    }

    fn note_asked(&self, fanout: &Fanout, sink: &mut impl Sink) {
        let Some(author) = fanout.author.filter(|author| !fanout.except.contains(author)) else {
            return;
        };
        if let Some(reader) = self.audience.find(author) {
            let Range { start, end } = if reader.tags { fanout.tagged } else { fanout.plain };
            sink.note_asked(author, end - start);
        }
    }

    pub(super) fn continues(&self, next: &Fanout) -> bool {
        std::ptr::eq(self.audience, &raw const *next.audience)
            && self.topic == next.topic
            && self.plain.end == next.plain.start
            && self.tagged.end == next.tagged.start
    }

    pub(super) fn extend(&mut self, next: &Fanout, sink: &mut impl Sink) {
        for conn in &next.except {
            self.settle(*conn, sink);
        }
        self.plain.end = next.plain.end;
        self.tagged.end = next.tagged.end;
        for conn in &next.except {
            self.skip_to_end(*conn);
        }
        self.note_asked(next, sink);
    }

    /// Gives one reader its part of the run so far.
    pub(super) fn settle(&mut self, conn: ConnId, sink: &mut impl Sink) {
        if let Some(reader) = self.audience.find(conn) {
            let ahead = self.ahead.iter().find(|(ahead, _)| *ahead == conn);
            self.push(reader, ahead.map(|(_, at)| *at), sink);
            self.skip_to_end(conn);
        }
    }

    fn skip_to_end(&mut self, conn: ConnId) {
        let Some(reader) = self.audience.find(conn) else { return };
        let end = self.range(reader).end;
        match self.ahead.iter_mut().find(|(ahead, _)| *ahead == conn) {
            Some((_, at)) => *at = end,
            None => self.ahead.push((conn, end)),
        }
    }

    pub(super) fn flush(mut self, sink: &mut impl Sink) {
        // Both are in the order of connections: one walk finds all.
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.sort_unstable();
        let mut ahead = ahead.into_iter().peekable();
        for reader in &self.audience.readers {
            let at = ahead.next_if(|(conn, _)| *conn == reader.conn).map(|(_, at)| at);
            self.push(reader, at, sink);
        }
    }

    /// Pushes what a reader has not had yet, which begins at `ahead` or, for
    /// most, where the run does.
    fn push(&self, reader: &Reader, ahead: Option<usize>, sink: &mut impl Sink) {
        if self.topic == Topic::Presence && !reader.joins {
            return;
        }
        let Range { start, end } = self.range(reader);
        let start = ahead.unwrap_or(start);
        if start < end {
            let lines = self.buffers[usize::from(reader.tags)];
            sink.push(reader.conn, lines, start, end);
        }
    }

    fn range(&self, reader: &Reader) -> Range {
        if reader.tags { self.tagged } else { self.plain }
    }
}
