//! What somebody who catches up is told besides messages: new names, topics, who was
//! put out, what operators say. No log has it, so it waits with the visit, behind the
//! message it came after. Comings and goings do not wait: in the end the list of who is
//! here is told.

use std::collections::VecDeque;

use super::{ConnId, Event, Feed, Hub, Tags, Turn, VisitIx};

/// Lines that wait for one visit.
#[derive(Debug, Default)]
pub(super) struct Missed {
    /// Each with the last message before it.
    lines: VecDeque<(u64, Box<[u8]>)>,
    size: usize,
}

/// How much waits for one visit, in bytes; past it the oldest is forgotten.
const SIZE_MAX: usize = 64 << 10;

impl Hub {
    /// Whether somebody is connected and catches up.
    pub(super) fn is_late(&self, visit: VisitIx) -> bool {
        let visit = &self.visits[visit];
        visit.conn.is_some() && visit.feed != Feed::Live
    }

    /// A line for somebody who is late.
    pub(super) fn tell_later(&mut self, visit: VisitIx, tags: &Tags<'_>, event: &Event<'_>) {
        let Some(conn) = self.visits[visit].conn else { return };
        let mut line = Vec::new();
        self.settings(conn).tags(tags).encode(&mut line);
        event.encode(&mut line);
        let after = self.last.message;
        let missed = self.visits[visit].missed.get_or_insert_default();
        missed.size += line.len();
        missed.lines.push_back((after, line.into()));
        while missed.size > SIZE_MAX
            && let Some((_, oldest)) = missed.lines.pop_front()
        {
            missed.size -= oldest.len();
        }
    }

    /// Tells what came before a message.
    pub(super) fn tell_missed(
        &mut self,
        conn: ConnId,
        visit: VisitIx,
        message: u64,
        turn: &mut Turn,
    ) {
        let Some(missed) = &mut self.visits[visit].missed else { return };
        while let Some((_, line)) = missed.lines.pop_front_if(|(after, _)| *after < message) {
            missed.size -= line.len();
            turn.send_bytes(conn, &line);
        }
        if missed.lines.is_empty() {
            self.visits[visit].missed = None;
        }
    }
}
