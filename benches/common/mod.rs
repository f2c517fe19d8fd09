//! A hub with users for benchmarks. Nothing depends on a clock or a socket, so each run does
//! exactly the same work.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use chatty::server::hub::Input;
use chatty::server::limits::Limits;
use chatty::server::net::peer::Peer;
use chatty::server::turn::{ConnId, Turn};

#[path = "../../tests/support/hub_driver.rs"]
pub(crate) mod hub_driver;

use hub_driver::Driver;

/// Returns a hub with `count` users in the lobby, named `n0`, `n1` and so on.
pub(crate) fn hub_with_users(count: u32) -> Driver {
    let mut hub = Driver::new(Limits::default());
    for user in 0..count {
        hub.open(conn(user), Input::Opened(Peer::new(IpAddr::from(Ipv4Addr::LOCALHOST))));
        let mut turn = Turn::default();
        hub.receive(conn(user), format!("n{user}\n").as_bytes(), &mut turn);
        end_turn(&mut hub, turn);
    }
    hub
}

/// Commits, releases and flushes a turn, which takes a millisecond. Returns the number of bytes
/// written.
pub(crate) fn end_turn(hub: &mut Driver, turn: Turn) -> usize {
    hub.release(turn);
    hub.settle();
    hub.advance(Duration::from_millis(1));
    let mut written = 0;
    hub.flush(|_, bytes| written += bytes.len());
    written
}

pub(crate) fn conn(user: u32) -> ConnId {
    ConnId { slot: user, generation: 0 }
}
