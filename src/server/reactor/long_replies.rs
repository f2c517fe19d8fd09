//! Long answers: a line of thirteen bytes can ask for megabytes. Few are made at once,
//! and none while more waits to be read than may; whoever asked first is answered first.

use std::collections::VecDeque;

use super::{Reactor, ReactorInput};
use crate::server::log::{Log, ReadRequest, ReadResult, Thread};
use crate::server::turn::ConnId;

/// So many are made at once; each may take some megabytes.
const LONG_REPLIES_MAX: usize = 2;

/// So many searches. They look at all that was ever said, so they hold up nobody but
/// each other.
const SEARCHES_MAX: usize = 1;

/// What kind of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Found in the log by its words.
    Search,
    /// Any other.
    Other,
}

/// Where a long answer comes from.
#[derive(Debug)]
enum Source {
    /// The log.
    Log(ReadRequest),
    /// The hub.
    Hub,
}

/// Who waits for a long answer of one kind, and of how many it is being made.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<(ConnId, Source)>,
    under_way: usize,
}

/// All who wait for long answers.
#[derive(Debug, Default)]
pub(super) struct LongReplies {
    searches: Lane,
    others: Lane,
}

impl LongReplies {
    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Search => &mut self.searches,
            Kind::Other => &mut self.others,
        }
    }

    /// One is made.
    pub(super) fn end(&mut self, kind: Kind) {
        self.lane(kind).under_way -= 1;
    }

    fn next(&mut self, kind: Kind) -> Option<(ConnId, Source)> {
        let most = match kind {
            Kind::Search => SEARCHES_MAX,
            Kind::Other => LONG_REPLIES_MAX,
        };
        let lane = self.lane(kind);
        (lane.under_way < most).then(|| lane.waiting.pop_front()).flatten()
    }
}

impl<L: Log> Reactor<L> {
    /// Reads the log for a connection as soon as its turn comes.
    pub(super) fn queue_read(&mut self, conn: ConnId, query: ReadRequest) {
        let kind = match query.thread {
            // A page for who catches up is small, and asked for when there is room; one
            // message is nothing.
            Thread::Feed { .. } | Thread::Message { .. } => {
                return self.read_now(conn, query, ReactorInput::FoundPage);
            }
            Thread::Search { .. } => Kind::Search,
            _ => Kind::Other,
        };
        self.long_answers.lane(kind).waiting.push_back((conn, Source::Log(query)));
        self.start_long_replies();
    }

    /// Lets the hub make a connection's answer as soon as its turn comes.
    pub(super) fn queue_hub_reply(&mut self, conn: ConnId) {
        self.long_answers.others.waiting.push_back((conn, Source::Hub));
        self.start_long_replies();
    }

    /// Makes the long answers that connections have asked for, as far as there is room.
    pub(super) fn start_long_replies(&mut self) {
        for kind in [Kind::Search, Kind::Other] {
            while self.meter.held() < self.limits.outbox_total {
                let Some((conn, source)) = self.long_answers.next(kind) else { break };
                // Whoever has gone does not want to know any more. What waits for an account
                // is told to nobody but its owner, so of a login nothing is left out.
                let is_unnamed = self.hub.is_unnamed(conn);
                let Some(connection) = self.get(conn) else { continue };
                if !is_unnamed && connection.is_broken() {
                    connection.stop_writing();
                }
                let is_deaf = connection.is_deaf;
                self.long_answers.lane(kind).under_way += 1;
                match source {
                    // Its further lines are heard as if it had been answered.
                    Source::Log(_) if is_deaf => {
                        let _ = self.own_calls.send(ReactorInput::Found(
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
                        let _ = self.own_calls.send(ReactorInput::Room(conn)); // we receive them
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
        let calls = self.own_calls.clone();
        let reply = move |rows| {
            let _ = calls.send(found(conn, rows)); // the loop may have ended
        };
        self.store.read(query, Box::new(reply));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_hold_up_nobody_but_searches() {
        let mut answers = LongReplies::default();
        let conn = |slot| ConnId { slot, generation: 0 };
        for slot in 0..10 {
            let kind = if slot < 5 { Kind::Search } else { Kind::Other };
            answers.lane(kind).waiting.push_back((conn(slot), Source::Hub));
        }
        let mut begin = |kind| {
            let (conn, _) = answers.next(kind)?;
            answers.lane(kind).under_way += 1;
            Some(conn.slot)
        };
        let searches: Vec<u32> = std::iter::from_fn(|| begin(Kind::Search)).collect();
        let others: Vec<u32> = std::iter::from_fn(|| begin(Kind::Other)).collect();
        assert_eq!((searches, others), (vec![0], vec![5, 6]));
        answers.end(Kind::Other);
        assert_eq!(answers.next(Kind::Other).map(|(conn, _)| conn.slot), Some(7));
        assert!(answers.next(Kind::Search).is_none());
    }
}
