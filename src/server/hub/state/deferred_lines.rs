//! Lines for a connection that is catching up. The log does not contain them, so the connection
//! holds them, each with the id of the message that it follows.

use std::collections::VecDeque;

use crate::server::net::outbox::Lines;
use crate::server::record::UserId;

/// A deferred line; its bytes are shared by all connections that wait for it.
#[derive(Debug, Clone)]
pub(crate) struct DeferredLine {
    /// The id of the message that the line follows.
    pub(crate) after: u64,
    /// The line in the tagged dialect.
    pub(crate) bytes: Lines,
    /// The user who caused the event, who is not in the line.
    pub(crate) actor: Option<UserId>,
}

/// The deferred lines of one connection.
#[derive(Debug, Default)]
pub(crate) struct DeferredLines {
    lines: VecDeque<DeferredLine>,
    size: usize,
}

/// The limit of deferred lines per connection, in bytes; beyond it the oldest are dropped.
const SIZE_MAX: usize = 64 << 10;

impl DeferredLine {
    /// The bytes that count towards [`SIZE_MAX`].
    fn size(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }
}

impl DeferredLines {
    pub(super) fn push(&mut self, line: DeferredLine) {
        self.size += line.size();
        self.lines.push_back(line);
        while self.size > SIZE_MAX
            && let Some(oldest) = self.lines.pop_front()
        {
            self.size -= oldest.size();
        }
    }

    /// Removes and returns the next line that precedes a message.
    pub(super) fn next_before(&mut self, message: u64) -> Option<DeferredLine> {
        let line = self.lines.pop_front_if(|line| line.after < message)?;
        self.size -= line.size();
        Some(line)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &DeferredLine> {
        self.lines.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::net::outbox::Meter;

    fn line(after: u64, size: usize) -> DeferredLine {
        DeferredLine { after, bytes: Lines::new(vec![b'x'; size], &Meter::default()), actor: None }
    }

    fn positions(lines: &DeferredLines) -> Vec<u64> {
        lines.iter().map(|line| line.after).collect()
    }

    #[test]
    fn line_precedes_the_messages_after_its_position() {
        let mut lines = DeferredLines::default();
        for after in [4, 4, 9] {
            lines.push(line(after, 10));
        }
        assert!(lines.next_before(4).is_none(), "message 4 comes first");
        let taken = std::iter::from_fn(|| lines.next_before(9)).count();
        assert_eq!((taken, positions(&lines)), (2, vec![9]));
        assert!(lines.next_before(10).is_some() && lines.is_empty());
        assert_eq!(lines.size, 0);
    }

    #[test]
    fn oldest_lines_are_dropped_beyond_the_limit() {
        let mut lines = DeferredLines::default();
        for after in 1..=3 {
            lines.push(line(after, SIZE_MAX / 2));
        }
        assert_eq!(positions(&lines), [3]);
        lines.push(line(4, 10));
        assert_eq!(positions(&lines), [3, 4]);
        lines.push(line(5, SIZE_MAX));
        assert_eq!((positions(&lines), lines.size), (vec![], 0), "a line that is too long itself");
    }
}
