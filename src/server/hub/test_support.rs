//! The hub alone, for tests of its parts: one input, and what comes of it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{ConnId, Flow, Hub, Input, Limits, Now, Seed, Turn};
use crate::protocol::codec::Frame;
use crate::protocol::{Cid, Name, RoomName, Stamp};
use crate::server::log::{Change, ReadRequest, Recipient, Record, Snapshot, UserId};
use crate::server::outbox::Lines;
use crate::server::passwords::{Job, Outcome};
use crate::server::peer::Peer;
use crate::server::turn::Sink;

/// What whoever the input came from is told, and what is to be done.
pub(super) struct Delivered {
    to: ConnId,
    pub(super) text: String,
    pub(super) waits_to_be_read: bool,
    pub(super) waits_for_room: bool,
    pub(super) reads: usize,
    /// For whom a password is to be hashed.
    pub(super) hashes: Vec<ConnId>,
}

impl Delivered {
    fn nothing(slot: u32) -> Self {
        let (to, text, hashes) = (conn(slot), String::new(), Vec::new());
        Self { to, text, waits_to_be_read: false, waits_for_room: false, reads: 0, hashes }
    }
}

impl Sink for Delivered {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        if to == self.to {
            self.text.push_str(std::str::from_utf8(&lines[start..end]).expect("UTF-8"));
        }
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

/// A house that nobody is connected to yet.
pub(super) fn hub(limits: Limits) -> Hub {
    Hub::new(limits, &Snapshot::default(), Seed::default()).expect("nothing is unreadable")
}

pub(super) fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 0 }
}

/// One input from there, so long after the start.
pub(super) fn handle_at(
    hub: &mut Hub,
    since_start: Duration,
    slot: u32,
    input: Input<'_>,
) -> (Flow, Delivered) {
    let (mut told, mut turn) = (Delivered::nothing(slot), Turn::default());
    let flow = hub.handle(now(since_start), conn(slot), input, &mut turn);
    turn.release(&mut told);
    (flow, told)
}

/// So long after the start.
pub(super) fn now(since_start: Duration) -> Now {
    Now { since_start, wall: Stamp(0) }
}

/// Somebody connects, from this machine.
pub(super) fn connect(hub: &mut Hub, slot: u32) {
    connect_from(hub, slot, IpAddr::from(Ipv4Addr::LOCALHOST));
}

/// Somebody connects from elsewhere, and nobody can read along.
pub(super) fn connect_from(hub: &mut Hub, slot: u32, address: impl Into<IpAddr>) {
    let peer = Peer { is_encrypted: true, ..Peer::new(address.into()) };
    handle(hub, slot, Input::Opened(peer));
}

/// The name of who is there becomes an account's, whose password is anything.
pub(super) fn register(hub: &mut Hub, slot: u32) {
    say(hub, slot, "/register secret");
    let hash = Outcome::Hashed(Some("a hash".into()));
    let (_, told) = handle(hub, slot, Input::Hashed(hash));
    assert!(told.text.starts_with("[REGISTERED "), "{}", told.text);
}

/// The token of the session that who is there asks for.
pub(super) fn session(hub: &mut Hub, slot: u32) -> String {
    let told = say(hub, slot, "/session").1.text;
    told.split(['[', ' ', ']']).nth(2).expect("a token").to_owned()
}

/// A message of alice, who is person 1, to a room.
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

/// Time passes, and what has fallen due is done; what somebody is told of it.
pub(super) fn tick_at(hub: &mut Hub, since_start: Duration, slot: u32) -> Delivered {
    let (mut told, mut turn) = (Delivered::nothing(slot), Turn::default());
    hub.tick(now(since_start), &mut turn);
    turn.release(&mut told);
    told
}

/// The same house after it was closed, of which nothing was kept yet.
pub(super) fn restarted(hub: &Hub) -> Hub {
    let kept = hub.changes().into_iter().map(|Change { shelf, key, value }| (shelf, key, value));
    let things = kept.filter_map(|(shelf, key, value)| Some((shelf, key, value?))).collect();
    let kept = Snapshot { last: hub.last_ids, latest: Vec::new(), entries: things };
    let mut anew =
        Hub::new(hub.limits.clone(), &kept, Seed::default()).expect("nothing is unreadable");
    // What is as it was then is kept as well.
    anew.unsaved.extend(&hub.unsaved);
    anew
}

/// One input from there, at the start.
pub(super) fn handle(hub: &mut Hub, slot: u32, input: Input<'_>) -> (Flow, Delivered) {
    handle_at(hub, Duration::ZERO, slot, input)
}

/// A line from there, at the start.
pub(super) fn say(hub: &mut Hub, slot: u32, line: &str) -> (Flow, Delivered) {
    handle(hub, slot, Input::Frame(Frame::Line(line.into())))
}
