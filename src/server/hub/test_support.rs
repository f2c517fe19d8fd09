//! Test support: runs the hub alone, one input at a time, and collects what it sends.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{ConnId, Flow, Hub, Input, Limits, Now, Turn};
use crate::protocol::codec::Frame;
use crate::protocol::{Cid, Name, RoomName, Stamp};
use crate::server::auth::passwords::{Job, Outcome};
use crate::server::auth::tokens;
use crate::server::net::outbox::Lines;
use crate::server::net::peer::Peer;
use crate::server::record::{Recipient, Record, UserId};
use crate::server::store::{Change, ReadRequest, Snapshot};
use crate::server::turn::Sink;

/// What one connection is sent, and what the hub requests.
pub(super) struct Delivered {
    to: ConnId,
    pub(super) text: String,
    /// The token of the session that the input began.
    token: String,
    pub(super) waits_to_be_read: bool,
    pub(super) waits_for_room: bool,
    pub(super) reads: usize,
    /// The connections that a password is to be hashed for.
    pub(super) hashes: Vec<ConnId>,
}

impl Delivered {
    fn empty(slot: u32) -> Self {
        let (to, text, token, hashes) = (conn(slot), String::new(), String::new(), Vec::new());
        Self { to, text, token, waits_to_be_read: false, waits_for_room: false, reads: 0, hashes }
    }
}

impl Sink for Delivered {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        if to == self.to {
            self.text.push_str(std::str::from_utf8(&lines[start..end]).expect("UTF-8"));
        }
    }
    fn push_token(&mut self, _: ConnId) {
        self.text.push_str(&self.token);
    }
    fn note_reply_bytes(&mut self, _: ConnId, _: usize) {}
    fn close(&mut self, _: ConnId) {}
    fn read(&mut self, _: ConnId, _: ReadRequest) {
        self.reads += 1;
    }
    fn hash(&mut self, conn: ConnId, _: Job) {
        self.hashes.push(conn);
    }
    fn notify_when_drained(&mut self, _: ConnId) {
        self.waits_to_be_read = true;
    }
    fn wait_for_memory(&mut self, _: ConnId) {
        self.waits_for_room = true;
    }
}

/// A hub without connections or stored state.
pub(super) fn hub(limits: Limits) -> Hub {
    Hub::new(limits, &Snapshot::default()).expect("nothing is unreadable")
}

pub(super) fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 0 }
}

/// Handles an input at `since_start`.
pub(super) fn handle_at(
    hub: &mut Hub,
    since_start: Duration,
    slot: u32,
    input: Input<'_>,
) -> (Flow, Delivered) {
    static SESSIONS: AtomicU64 = AtomicU64::new(0);
    let (mut delivered, mut turn) = (Delivered::empty(slot), Turn::default());
    let frame = if let Input::Frame(frame) = &input { Some(frame.clone()) } else { None };
    let mut flow = hub.handle(now(since_start), conn(slot), input, &mut turn);
    if let Some(frame) = frame.filter(|_| flow == Flow::Token) {
        delivered.token = format!("t{}", SESSIONS.fetch_add(1, Ordering::Relaxed));
        hub.offer_token(tokens::hash(&delivered.token));
        flow = hub.handle(now(since_start), conn(slot), Input::Frame(frame), &mut turn);
    }
    turn.release(&mut delivered);
    (flow, delivered)
}

pub(super) fn now(since_start: Duration) -> Now {
    Now { since_start, wall: Stamp(0) }
}

/// Connects from loopback.
pub(super) fn connect(hub: &mut Hub, slot: u32) {
    connect_from(hub, slot, IpAddr::from(Ipv4Addr::LOCALHOST));
}

/// Connects from `address`, encrypted.
pub(super) fn connect_from(hub: &mut Hub, slot: u32, address: impl Into<IpAddr>) {
    let peer = Peer { is_encrypted: true, ..Peer::new(address.into()) };
    handle(hub, slot, Input::Opened(peer));
}

/// Registers the user of a connection; the hash matches no password, tests supply the
/// outcome.
pub(super) fn register(hub: &mut Hub, slot: u32) {
    say(hub, slot, "/register secret");
    let hash = Outcome::Hashed(Some("a hash".into()));
    let (_, delivered) = handle(hub, slot, Input::Hashed(hash));
    assert!(delivered.text.starts_with("[REGISTERED "), "{}", delivered.text);
}

/// Requests a session and returns its token.
pub(super) fn session(hub: &mut Hub, slot: u32) -> String {
    let delivered = say(hub, slot, "/session").1.text;
    delivered.split(['[', ' ', ']']).nth(2).expect("a token").to_owned()
}

/// A message to a room by alice, who has id 1.
pub(super) fn message(id: u64, room: &str, cid: Option<&str>, text: &str) -> Arc<Record> {
    Arc::new(Record {
        id,
        time: Stamp(0),
        author: UserId(1),
        from: Name::parse("alice").expect("a name"),
        to: Recipient::Room(RoomName::parse(room).expect("a name")),
        is_action: false,
        text: text.into(),
        cid: cid.and_then(Cid::parse),
    })
}

/// Runs the timers due at `since_start`; returns what `slot` is sent.
pub(super) fn tick_at(hub: &mut Hub, since_start: Duration, slot: u32) -> Delivered {
    let (mut delivered, mut turn) = (Delivered::empty(slot), Turn::default());
    hub.tick(now(since_start), &mut turn);
    turn.release(&mut delivered);
    delivered
}

/// The hub after a restart with all unsaved changes stored.
pub(super) fn restarted(hub: &Hub) -> Hub {
    let stored =
        hub.changes().into_iter().map(|Change { collection, key, value }| (collection, key, value));
    let entries =
        stored.filter_map(|(collection, key, value)| Some((collection, key, value?))).collect();
    let stored = Snapshot { last: hub.last_ids, latest: Vec::new(), entries };
    let mut restarted_hub = Hub::new(hub.limits.clone(), &stored).expect("nothing is unreadable");
    // Entries that restoring did not change remain to be stored.
    restarted_hub.unsaved.extend(&hub.unsaved);
    restarted_hub
}

/// Handles an input at the start.
pub(super) fn handle(hub: &mut Hub, slot: u32, input: Input<'_>) -> (Flow, Delivered) {
    handle_at(hub, Duration::ZERO, slot, input)
}

/// Handles a line at the start.
pub(super) fn say(hub: &mut Hub, slot: u32, line: &str) -> (Flow, Delivered) {
    handle(hub, slot, Input::Frame(Frame::Line(line.into())))
}
