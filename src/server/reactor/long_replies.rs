//! Long replies: a short request can ask for megabytes. Only a few are produced at the same
//! time, in the order requested, and none while the outboxes together exceed their limit.

use std::collections::VecDeque;

use super::{Reactor, ReactorInput};
use crate::server::store::{Log, ReadRequest, ReadResult, Thread};
use crate::server::turn::ConnId;

/// Number of long replies produced at the same time; each may use some megabytes.
const LONG_REPLIES_MAX: usize = 2;

/// Number of searches at the same time. A search scans the whole log, so searches delay only
/// other searches.
const SEARCHES_MAX: usize = 1;

/// The kind of a long reply; each kind has its own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// A full-text search in the log.
    Search,
    /// Any other reply.
    Other,
}

/// Where the content of a long reply comes from.
#[derive(Debug)]
enum Source {
    /// The log.
    Log(ReadRequest),
    /// The hub.
    Hub,
}

/// The queue of one kind, and the number of its replies being produced.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<(ConnId, Source)>,
    running: usize,
}

/// The queues of all long replies.
#[derive(Debug, Default)]
pub(super) struct LongReplies {
    searches: Lane,
    others: Lane,
}

impl LongReplies {
    fn lane(&mut self, kind: ReplyKind) -> &mut Lane {
        match kind {
            ReplyKind::Search => &mut self.searches,
            ReplyKind::Other => &mut self.others,
        }
    }

    /// Notes that a reply has been produced.
    pub(super) fn end(&mut self, kind: ReplyKind) {
        self.lane(kind).running -= 1;
    }

    fn next(&mut self, kind: ReplyKind) -> Option<(ConnId, Source)> {
        let most = match kind {
            ReplyKind::Search => SEARCHES_MAX,
            ReplyKind::Other => LONG_REPLIES_MAX,
        };
        let lane = self.lane(kind);
        (lane.running < most).then(|| lane.waiting.pop_front()).flatten()
    }
}

impl<L: Log> Reactor<L> {
    /// Queues a read from the log; small reads start at once.
    pub(super) fn queue_read(&mut self, conn: ConnId, query: ReadRequest) {
        let kind = match query.thread {
            // A page of a catch-up is small and requested only when the outbox has drained;
            // a single message is smaller still.
            Thread::Feed { .. } | Thread::Message { .. } => {
                return self.read_now(conn, query, ReactorInput::FoundPage);
            }
            Thread::Search { .. } => ReplyKind::Search,
            _ => ReplyKind::Other,
        };
        self.long_replies.lane(kind).waiting.push_back((conn, Source::Log(query)));
        self.start_long_replies();
    }

    /// Queues a reply that the hub produces.
    pub(super) fn queue_hub_reply(&mut self, conn: ConnId) {
        self.long_replies.others.waiting.push_back((conn, Source::Hub));
        self.start_long_replies();
    }

    /// Starts queued replies while the limits permit.
    pub(super) fn start_long_replies(&mut self) {
        for kind in [ReplyKind::Search, ReplyKind::Other] {
            while self.meter.held() < self.limits.outbox_total {
                let Some((conn, source)) = self.long_replies.next(kind) else { break };
                // Skip the work for a client that is gone. During a login it is not skipped: mail
                // that is missing in the result would count as delivered.
                let is_unnamed = self.hub.is_unnamed(conn);
                let Some(connection) = self.get(conn) else { continue };
                if !is_unnamed && connection.is_broken() {
                    connection.stop_writing();
                }
                let is_write_closed = connection.is_write_closed();
                self.long_replies.lane(kind).running += 1;
                match source {
                    // An empty result lets the lines behind this request be handled.
                    Source::Log(_) if is_write_closed => {
                        let _ = self.own_inputs.send(ReactorInput::Found(
                            conn,
                            kind,
                            ReadResult::default(),
                        ));
                    }
                    Source::Log(query) => {
                        self.read_now(conn, query, move |conn, rows| {
                            ReactorInput::Found(conn, kind, rows)
                        });
                    }
                    Source::Hub => {
                        // This loop is the receiver.
                        let _ = self.own_inputs.send(ReactorInput::MemoryAvailable(conn));
                    }
                }
            }
        }
    }

    fn read_now(
        &mut self,
        conn: ConnId,
        query: ReadRequest,
        found: impl FnOnce(ConnId, ReadResult) -> ReactorInput + Send + 'static,
    ) {
        let inputs = self.own_inputs.clone();
        let reply = move |rows| {
            let _ = inputs.send(found(conn, rows)); // the loop may have ended
        };
        self.store.read(query, Box::new(reply));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_delay_only_other_searches() {
        let mut answers = LongReplies::default();
        let conn = |slot| ConnId { slot, generation: 0 };
        for slot in 0..10 {
            let kind = if slot < 5 { ReplyKind::Search } else { ReplyKind::Other };
            answers.lane(kind).waiting.push_back((conn(slot), Source::Hub));
        }
        let mut start = |kind| {
            let (conn, _) = answers.next(kind)?;
            answers.lane(kind).running += 1;
            Some(conn.slot)
        };
        let searches: Vec<u32> = std::iter::from_fn(|| start(ReplyKind::Search)).collect();
        let others: Vec<u32> = std::iter::from_fn(|| start(ReplyKind::Other)).collect();
        assert_eq!((searches, others), (vec![0], vec![5, 6]));
        answers.end(ReplyKind::Other);
        assert_eq!(answers.next(ReplyKind::Other).map(|(conn, _)| conn.slot), Some(7));
        assert!(answers.next(ReplyKind::Search).is_none());
    }
}
