//! Lines for a connection that is catching up. The log does not contain them, so the connection
//! holds them, each with the id of the message that it follows.

use std::collections::VecDeque;

use crate::server::net::outbox::Lines;

/// A deferred line; its bytes are shared by all connections that wait for it.
#[derive(Debug, Clone)]
pub(crate) struct DeferredLine {
    /// The id of the message that the line follows.
    pub(crate) after: u64,
    pub(crate) bytes: Lines,
    /// The length of the tags in `bytes`. The client may turn tags off before the delivery.
    pub(crate) tags: usize,
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
