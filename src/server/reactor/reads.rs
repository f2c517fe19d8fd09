//! Reads from the log: which one is next. They are performed in slices (`store/read.rs`), and
//! networks take turns: a client waits for one slice of each other network only. Short reads,
//! long ones and searches each have a queue and readers of their own, so that a short read never
//! waits for a long one.

use super::{Reactor, ReactorInput};
use crate::server::limits::fair_queue::FairQueue;
use crate::server::limits::quota::Bounds;
use crate::server::net::peer::Peer;
use crate::server::store::{Log, Read, ReadRequest, ReadResult, Slice, Thread};
use crate::server::turn::ConnId;

/// A read of up to this number of messages is short: `/history` without a number, mail.
const SHORT_MAX: usize = 64;

/// The kind of a read; each kind has its own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadKind {
    /// A few messages.
    Short,
    /// A page of many messages.
    Long,
    /// A full-text search in the log.
    Search,
}

impl ReadKind {
    /// Every kind with the number of its slices that are performed at the same time.
    const TABLE: [(Self, usize); 3] = [(Self::Short, 1), (Self::Long, 2), (Self::Search, 1)];

    fn of(request: &ReadRequest) -> Self {
        match request.thread {
            Thread::Search { .. } => Self::Search,
            Thread::Feed { .. } => Self::Long,
            _ if request.count <= SHORT_MAX => Self::Short,
            _ => Self::Long,
        }
    }

    /// The kind of what is left after a slice: a read that has to scan much is not short.
    fn of_rest(self) -> Self {
        if self == Self::Search { Self::Search } else { Self::Long }
    }
}

/// A connection has one read at most, so the limits on connections bound the queues.
const UNBOUNDED: Bounds = Bounds { per_address: usize::MAX, wider: 1, total: usize::MAX };

/// The reads of one kind.
#[derive(Debug)]
struct Lane {
    waiting: FairQueue<(ConnId, Read)>,
    /// The number of slices that are being performed.
    running: usize,
}

/// All reads, by kind.
#[derive(Debug)]
pub(super) struct Reads([Lane; ReadKind::TABLE.len()]);

impl Default for Reads {
    fn default() -> Self {
        Self(ReadKind::TABLE.map(|_| Lane { waiting: FairQueue::new(UNBOUNDED), running: 0 }))
    }
}

impl Reads {
    fn push(&mut self, kind: ReadKind, peer: Option<Peer>, conn: ConnId, read: Read) {
        // The queue is unbounded.
        let _ = self.0[kind as usize].waiting.push(peer, (conn, read));
    }

    /// Removes and returns the next read of a kind, if a reader is free.
    fn next(&mut self, kind: ReadKind) -> Option<(ConnId, Read)> {
        let (_, most) = ReadKind::TABLE[kind as usize];
        let lane = &mut self.0[kind as usize];
        (lane.running < most).then(|| lane.waiting.pop()).flatten()
    }

    fn begin_slice(&mut self, kind: ReadKind) {
        self.0[kind as usize].running += 1;
    }

    fn end_slice(&mut self, kind: ReadKind) {
        self.0[kind as usize].running -= 1;
    }
}

impl<L: Log> Reactor<L> {
    /// Queues a read for a connection; the hub gets the result.
    pub(super) fn queue_read(&mut self, conn: ConnId, request: ReadRequest) {
        self.queue_slice(ReadKind::of(&request), conn, Read::new(request));
        self.start_reads();
    }

    fn queue_slice(&mut self, kind: ReadKind, conn: ConnId, read: Read) {
        if let Some(peer) = self.hub.peer(conn) {
            let peer = self.limits.apply_to(peer).then_some(peer);
            self.reads.push(kind, peer, conn, read);
        }
    }

    /// Takes what a slice came to. Returns the result if it was the last one of its read.
    pub(super) fn end_slice(
        &mut self,
        kind: ReadKind,
        conn: ConnId,
        slice: Slice,
    ) -> Option<ReadResult> {
        self.reads.end_slice(kind);
        let result = match slice {
            Slice::Complete(result) => Some(result),
            Slice::Partial(rest) => {
                self.queue_slice(kind.of_rest(), conn, *rest);
                None
            }
        };
        self.start_reads();
        result
    }

    /// Starts slices while readers are free.
    fn start_reads(&mut self) {
        for (kind, _) in ReadKind::TABLE {
            while let Some((conn, read)) = self.reads.next(kind) {
                // Skip the work for a client that is gone. A login is not skipped, since it
                // takes effect.
                let is_unnamed = self.hub.is_unnamed(conn);
                let Some(connection) = self.get(conn) else { continue };
                if !is_unnamed && connection.is_broken() {
                    connection.stop_writing();
                }
                if connection.is_write_closed() {
                    // The lines behind the request are still to be handled.
                    let result = ReadResult::failed();
                    let _ = self.own_inputs.send(ReactorInput::Found(conn, result));
                    continue;
                }
                self.reads.begin_slice(kind);
                let inputs = self.own_inputs.clone();
                let reply = move |slice| {
                    // The loop may have ended.
                    let _ = inputs.send(ReactorInput::SliceRead(kind, conn, slice));
                };
                self.store.read(read, Box::new(reply));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Key;

    fn push(reads: &mut Reads, kind: ReadKind, address: &str, slot: u32) {
        let thread = Thread::Room(Key::fold("ops"));
        let read = Read::new(ReadRequest::latest(thread, 1, 1));
        let peer = Peer::new(address.parse().expect("an address"));
        reads.push(kind, Some(peer), ConnId { slot, generation: 0 }, read);
    }

    fn start(reads: &mut Reads, kind: ReadKind) -> Option<u32> {
        let (conn, _) = reads.next(kind)?;
        reads.begin_slice(kind);
        Some(conn.slot)
    }

    #[test]
    fn kinds_of_reads_do_not_wait_for_each_other() {
        let mut reads = Reads::default();
        for (kind, _) in ReadKind::TABLE {
            (0..5).for_each(|slot| push(&mut reads, kind, "192.0.2.1", slot));
        }
        for (kind, most) in ReadKind::TABLE {
            let started = std::iter::from_fn(|| start(&mut reads, kind)).count();
            assert_eq!(started, most, "{kind:?}");
            reads.end_slice(kind);
            assert!(start(&mut reads, kind).is_some() && start(&mut reads, kind).is_none());
        }
    }

    #[test]
    fn long_reads_of_one_network_delay_another_by_one_slice() {
        let mut reads = Reads::default();
        (0..30).for_each(|slot| push(&mut reads, ReadKind::Search, "192.0.2.1", slot));
        assert_eq!(start(&mut reads, ReadKind::Search), Some(0));
        push(&mut reads, ReadKind::Search, "198.51.100.1", 99);
        let mut order = Vec::new();
        for _ in 0..3 {
            reads.end_slice(ReadKind::Search);
            order.extend(start(&mut reads, ReadKind::Search));
        }
        assert!(order[..2].contains(&99), "{order:?}");
    }
}
