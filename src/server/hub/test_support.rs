//! Test support: runs the hub alone, one input at a time, and collects what it sends.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::commands::dispatch::execute_line;
use super::context::Context;
use super::{ConnId, Flow, Hub, Input, Limits, Now};
use crate::protocol::codec::Frame;
use crate::protocol::{Cid, ErrorReason, Name, RoomName, Stamp};
use crate::server::auth::passwords::Outcome;
use crate::server::net::peer::Peer;
use crate::server::record::{Recipient, Record, UserId};
use crate::server::store::Snapshot;
use crate::server::turn::Turn;

#[path = "../../../tests/support/hub_driver.rs"]
mod hub_driver;

pub(super) use hub_driver::{Driver, Storing, Work};

/// What one connection is sent, and what the hub requests.
pub(super) struct Delivered {
    pub(super) text: String,
    pub(super) waits_to_be_read: bool,
    pub(super) reads: usize,
    /// The connections that a password is to be hashed for.
    pub(super) hashes: Vec<ConnId>,
}

impl Delivered {
    /// Takes the effects of the last input; the requested work is not performed.
    fn take(hub: &mut Driver, slot: u32) -> Self {
        let mut text = Vec::new();
        hub.flush(|to, bytes| {
            if to.slot == slot {
                text.extend_from_slice(bytes);
            }
        });
        let work = hub.take_work();
        let hashes = work.iter().filter_map(|work| match work {
            Work::Hash(conn, _) => Some(*conn),
            _ => None,
        });
        let any = |is_wanted: fn(&Work) -> bool| work.iter().filter(|work| is_wanted(work)).count();
        Self {
            text: String::from_utf8(text).expect("UTF-8"),
            waits_to_be_read: any(|work| matches!(work, Work::NotifyWhenDrained(_))) > 0,
            reads: any(|work| matches!(work, Work::Read(..))),
            hashes: hashes.collect(),
        }
    }
}

/// A hub without connections or stored state.
pub(super) fn hub(limits: Limits) -> Driver {
    Driver::new(limits)
}

pub(super) fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

pub(super) fn room_name(text: &str) -> RoomName {
    RoomName::parse(text).expect("a name")
}

pub(super) fn conn(slot: u32) -> ConnId {
    ConnId { slot, generation: 0 }
}

/// Handles an input at `since_start`.
pub(super) fn handle_at(
    hub: &mut Driver,
    since_start: Duration,
    slot: u32,
    input: Input<'_>,
) -> (Flow, Delivered) {
    hub.now = now(since_start);
    let flow = hub.input(conn(slot), input);
    (flow, Delivered::take(hub, slot))
}

pub(super) fn now(since_start: Duration) -> Now {
    Now { since_start, wall: Stamp(0) }
}

/// Connects from loopback.
pub(super) fn connect(hub: &mut Driver, slot: u32) {
    connect_from(hub, slot, IpAddr::from(Ipv4Addr::LOCALHOST));
}

/// Connects from `address`, encrypted.
pub(super) fn connect_from(hub: &mut Driver, slot: u32, address: impl Into<IpAddr>) {
    let peer = Peer { is_encrypted: true, ..Peer::new(address.into()) };
    hub.now = now(Duration::ZERO);
    hub.open(conn(slot), Input::Opened(peer));
    Delivered::take(hub, slot);
}

/// Registers the user of a connection; the hash matches no password, tests supply the
/// outcome.
pub(super) fn register(hub: &mut Driver, slot: u32) {
    say(hub, slot, "/register secret");
    let hash = Outcome::Hashed(Some("a hash".into()));
    let (_, delivered) = handle(hub, slot, Input::Hashed(hash));
    assert!(delivered.text.starts_with("[REGISTERED "), "{}", delivered.text);
}

/// Requests a session and returns its token.
pub(super) fn session(hub: &mut Driver, slot: u32) -> String {
    let delivered = say(hub, slot, "/session").1.text;
    delivered.split(['[', ' ', ']']).nth(2).expect("a token").to_owned()
}

/// A message to a room by alice, who has id 1.
pub(super) fn message(id: u64, room: &str, cid: Option<&str>, text: &str) -> Arc<Record> {
    Arc::new(Record {
        id,
        time: Stamp(0),
        author: UserId(1),
        from: name("alice"),
        to: Recipient::Room(room_name(room)),
        is_action: false,
        text: text.into(),
        cid: cid.and_then(Cid::parse),
    })
}

/// Runs the timers due at `since_start`; returns what `slot` is sent.
pub(super) fn tick_at(hub: &mut Driver, since_start: Duration, slot: u32) -> Delivered {
    hub.now = now(since_start);
    hub.run_timers();
    Delivered::take(hub, slot)
}

/// The hub after a restart with all unsaved changes stored.
pub(super) fn restarted(hub: &mut Driver) -> Driver {
    let changes = hub.changes();
    let snapshot = Snapshot { last: hub.last_ids(), ..hub.snapshot(changes) };
    Driver::restored(hub.limits.clone(), &snapshot)
}

/// Handles an input at the start.
pub(super) fn handle(hub: &mut Driver, slot: u32, input: Input<'_>) -> (Flow, Delivered) {
    handle_at(hub, Duration::ZERO, slot, input)
}

/// Handles a line at the start.
pub(super) fn say(hub: &mut Driver, slot: u32, line: &str) -> (Flow, Delivered) {
    handle(hub, slot, Input::Frame(Frame::Line(line.into())))
}

/// Handles a line at the start; returns the reason why it is refused.
pub(super) fn refused(hub: &mut Driver, slot: u32, line: &str) -> Option<ErrorReason> {
    let mut turn = Turn::default();
    let Hub { limits, state, caches, audit, gate, .. } = &mut **hub;
    let mut ctx = Context { now: now(Duration::ZERO), limits, caches, audit, turn: &mut turn };
    let mut req = ctx.request(state, conn(slot)).expect("a connection");
    let result = execute_line(state, gate, &mut req, &Frame::Line(line.into()));
    hub.release(turn);
    result.err().map(|refusal| refusal.reason)
}

/// Notes that all changes are stored.
pub(super) fn mark_saved(hub: &mut Driver) {
    hub.changes();
    hub.mark_saved();
}
