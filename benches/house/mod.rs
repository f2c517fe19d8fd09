//! The server without sockets, clock and disk: bytes come in, bytes would go out.
//! What it does is what the reactor does with a turn: cut into lines, handle, keep
//! the records, release into outboxes, flush. So it is the same each time.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use chatty::protocol::Stamp;
use chatty::protocol::codec::LineCodec;
use chatty::server::hub::{Hub, Input, Now, Seed};
use chatty::server::limits::Limits;
use chatty::server::log::memory::MemoryLog;
use chatty::server::log::{ReadRequest, Snapshot};
use chatty::server::outbox::{Lines, Outbox};
use chatty::server::passwords::Job;
use chatty::server::peer::Peer;
use chatty::server::turn::{ConnId, Sink, Turn};

/// A morning in November 2026, in milliseconds.
const MORNING: i64 = 1_795_414_560_000;

/// How many messages the log in memory holds.
const LOG_MESSAGES: usize = 1000;
const LOG_SIZE: usize = 1 << 20;

/// A hub, and people who are connected to it.
pub(crate) struct House {
    hub: Hub,
    log: MemoryLog,
    codecs: Vec<LineCodec>,
    outlets: Outlets,
    turns: u32,
}

/// Where effects end.
#[derive(Default)]
struct Outlets {
    boxes: Vec<Outbox>,
    dirty: Vec<ConnId>,
    reads: Vec<(ConnId, ReadRequest)>,
}

impl Sink for Outlets {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        let outbox = &mut self.boxes[to.slot as usize];
        if outbox.is_empty() {
            self.dirty.push(to);
        }
        outbox.push(lines, start, end);
    }
    fn note_reply_bytes(&mut self, to: ConnId, count: usize) {
        self.boxes[to.slot as usize].note_reply_bytes(count);
    }
    fn close(&mut self, _: ConnId) {
        unreachable!("nobody leaves this house");
    }
    fn read(&mut self, conn: ConnId, query: ReadRequest) {
        self.reads.push((conn, query));
    }
    fn hash(&mut self, _: ConnId, _: Job) {
        unreachable!("nobody has a password here");
    }
    fn notify_when_drained(&mut self, _: ConnId) {
        unreachable!("everybody reads at once");
    }
    fn wait_for_memory(&mut self, _: ConnId) {
        unreachable!("nobody asks for much");
    }
}

impl House {
    /// So many people in the lobby, called `n0`, `n1` and so on.
    pub(crate) fn with_people(count: u32) -> Self {
        let mut house = Self {
            hub: Hub::new(Limits::default(), &Snapshot::default(), Seed::default())
                .expect("nothing is unreadable"),
            log: MemoryLog::new(LOG_MESSAGES, LOG_SIZE),
            codecs: Vec::new(),
            outlets: Outlets::default(),
            turns: 0,
        };
        for who in 0..count {
            let mut turn = Turn::default();
            let (now, peer) = (house.now(), Peer::new(IpAddr::from(Ipv4Addr::LOCALHOST)));
            house.hub.handle(now, conn(who), Input::Opened(peer), &mut turn);
            house.codecs.push(LineCodec::new(house.hub.line_limit(conn(who))));
            house.outlets.boxes.push(Outbox::default());
            house.hear(who, format!("n{who}\n").as_bytes(), &mut turn);
            house.release(turn);
            house.flush();
        }
        house
    }

    /// Each turn is a millisecond after the one before.
    fn now(&self) -> Now {
        let since_start = Duration::from_millis(1) * self.turns;
        Now { since_start, wall: Stamp(MORNING + i64::from(self.turns)) }
    }

    /// Drain and handle: what somebody has sent.
    pub(crate) fn hear(&mut self, who: u32, mut bytes: &[u8], turn: &mut Turn) {
        let now = self.now();
        let codec = &mut self.codecs[who as usize];
        while let Some(frame) = codec.next(&mut bytes) {
            self.hub.handle(now, conn(who), Input::Frame(frame), turn);
            codec.set_limit(self.hub.line_limit(conn(who)));
        }
    }

    /// Commit and release.
    pub(crate) fn release(&mut self, mut turn: Turn) {
        self.turns += 1;
        self.log.push(turn.records());
        turn.release(&mut self.outlets);
        while let Some((conn, query)) = self.outlets.reads.pop() {
            let (now, mut turn) = (self.now(), Turn::default());
            let rows = self.log.find(&query);
            self.hub.handle(now, conn, Input::Rows(rows), &mut turn);
            self.release(turn);
        }
    }

    /// Flush: everybody takes what waits; tells how many bytes that was.
    pub(crate) fn flush(&mut self) -> usize {
        let mut written = 0;
        for conn in std::mem::take(&mut self.outlets.dirty) {
            written += take_all(&mut self.outlets.boxes[conn.slot as usize]);
        }
        written
    }
}

/// Takes what waits as a socket would that has room; tells how many bytes it was.
pub(crate) fn take_all(outbox: &mut Outbox) -> usize {
    let mut written = 0;
    while !outbox.is_empty() {
        let count = outbox.single().map_or_else(|| vectored(outbox), <[u8]>::len);
        outbox.advance(count);
        written += count;
    }
    written
}

/// How much one vectored write would take.
fn vectored(outbox: &Outbox) -> usize {
    let mut slices: Vec<IoSlice<'_>> = Vec::new();
    outbox.slices(&mut slices);
    slices.iter().map(|slice| slice.len()).sum()
}

fn conn(who: u32) -> ConnId {
    ConnId { slot: who, generation: 0 }
}
