//! The server without sockets, clock and disk, for benchmarks. It does with a turn what the
//! reactor does: decode lines, handle them in the hub, append the records to the log, release
//! into outboxes, flush. So each run does exactly the same work.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use chatty::protocol::Stamp;
use chatty::protocol::codec::LineCodec;
use chatty::server::auth::passwords::Job;
use chatty::server::hub::{Hub, Input, Now};
use chatty::server::limits::Limits;
use chatty::server::net::outbox::{Lines, Outbox};
use chatty::server::net::peer::Peer;
use chatty::server::store::memory::MemoryLog;
use chatty::server::store::{ReadRequest, Snapshot};
use chatty::server::turn::{ConnId, Sink, Turn};

/// A morning in November 2026, in milliseconds.
const MORNING: i64 = 1_795_414_560_000;

/// How many messages the log in memory holds.
const LOG_MESSAGES: usize = 1000;
const LOG_SIZE: usize = 1 << 20;

/// A hub with connected users.
pub(crate) struct Simulation {
    hub: Hub,
    log: MemoryLog,
    codecs: Vec<LineCodec>,
    effects: Effects,
    turns: u32,
}

/// Receives the effects of a turn.
#[derive(Default)]
struct Effects {
    outboxes: Vec<Outbox>,
    /// Connections whose outbox is not empty.
    dirty: Vec<ConnId>,
    reads: Vec<(ConnId, ReadRequest)>,
}

impl Sink for Effects {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        let outbox = &mut self.outboxes[to.slot as usize];
        if outbox.is_empty() {
            self.dirty.push(to);
        }
        outbox.push(lines, start, end);
    }
    fn note_reply_bytes(&mut self, to: ConnId, count: usize) {
        self.outboxes[to.slot as usize].note_reply_bytes(count);
    }
    fn close(&mut self, _: ConnId) {
        unreachable!("no connection is closed");
    }
    fn read(&mut self, conn: ConnId, request: ReadRequest) {
        self.reads.push((conn, request));
    }
    fn push_token(&mut self, _: ConnId) {
        unreachable!("no user has a session");
    }
    fn hash(&mut self, _: ConnId, _: Job) {
        unreachable!("no user has a password");
    }
    fn notify_when_drained(&mut self, _: ConnId) {
        unreachable!("every outbox is flushed after its turn");
    }
    fn wait_for_memory(&mut self, _: ConnId) {
        unreachable!("no request is large");
    }
}

impl Simulation {
    /// Returns a hub with `count` users in the lobby, named `n0`, `n1` and so on.
    pub(crate) fn with_users(count: u32) -> Self {
        let mut simulation = Self {
            hub: Hub::new(Limits::default(), &Snapshot::default()).expect("nothing is unreadable"),
            log: MemoryLog::new(LOG_MESSAGES, LOG_SIZE),
            codecs: Vec::new(),
            effects: Effects::default(),
            turns: 0,
        };
        for user in 0..count {
            let mut turn = Turn::default();
            let (now, peer) = (simulation.now(), Peer::new(IpAddr::from(Ipv4Addr::LOCALHOST)));
            simulation.hub.handle(now, conn(user), Input::Opened(peer), &mut turn);
            simulation.codecs.push(LineCodec::new(simulation.hub.line_limit(conn(user))));
            simulation.effects.outboxes.push(Outbox::default());
            simulation.receive(user, format!("n{user}\n").as_bytes(), &mut turn);
            simulation.release(turn);
            simulation.flush();
        }
        simulation
    }

    /// Returns the simulated time, which advances by a millisecond per turn.
    fn now(&self) -> Now {
        let since_start = Duration::from_millis(1) * self.turns;
        Now { since_start, wall: Stamp(MORNING + i64::from(self.turns)) }
    }

    /// Drain and handle: decodes the bytes of a user and handles the lines.
    pub(crate) fn receive(&mut self, user: u32, mut bytes: &[u8], turn: &mut Turn) {
        let now = self.now();
        let codec = &mut self.codecs[user as usize];
        while let Some(frame) = codec.next(&mut bytes) {
            self.hub.handle(now, conn(user), Input::Frame(frame), turn);
            codec.set_limit(self.hub.line_limit(conn(user)));
        }
    }

    /// Commit and release.
    pub(crate) fn release(&mut self, mut turn: Turn) {
        self.turns += 1;
        self.log.push(turn.records());
        turn.release(&mut self.effects);
        while let Some((conn, request)) = self.effects.reads.pop() {
            let (now, mut turn) = (self.now(), Turn::default());
            let rows = self.log.find(&request);
            self.hub.handle(now, conn, Input::Rows(rows), &mut turn);
            self.release(turn);
        }
    }

    /// Flush: empties all outboxes. Returns the number of bytes.
    pub(crate) fn flush(&mut self) -> usize {
        let mut written = 0;
        for conn in std::mem::take(&mut self.effects.dirty) {
            written += take_all(&mut self.effects.outboxes[conn.slot as usize]);
        }
        written
    }
}

/// Empties an outbox like a socket with enough buffer space. Returns the number of bytes.
pub(crate) fn take_all(outbox: &mut Outbox) -> usize {
    let mut written = 0;
    while !outbox.is_empty() {
        let count = outbox.single().map_or_else(|| vectored(outbox), <[u8]>::len);
        outbox.advance(count);
        written += count;
    }
    written
}

/// Returns the number of bytes that one vectored write would write.
fn vectored(outbox: &Outbox) -> usize {
    let mut slices: Vec<IoSlice<'_>> = Vec::new();
    outbox.slices(&mut slices);
    slices.iter().map(|slice| slice.len()).sum()
}

fn conn(user: u32) -> ConnId {
    ConnId { slot: user, generation: 0 }
}
