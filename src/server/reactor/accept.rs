//! New connections, from accept to greeting.
//!
//! Without TLS a connection is greeted at once. With TLS the first byte decides whether it is
//! a handshake, so the greeting waits for that byte or for [`GREETING_DELAY`].

use std::cmp::Reverse;
use std::io::Read as _;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::{Reactor, Timeout};
use crate::protocol::{Dialect, Event, Farewell, Tags};
use crate::server::hub::{Input, Now};
use crate::server::limits::admission::Verdict;
use crate::server::net::connection::{Connection, Phase};
use crate::server::net::peer::Peer;
use crate::server::net::stream::Transport;
use crate::server::store::Log;
use crate::server::turn::{ConnId, Sink as _, Turn};

/// With TLS enabled, a client that sends nothing for this time is greeted as a plain
/// connection; part of the protocol (PROTOCOL.md).
const GREETING_DELAY: Duration = Duration::from_secs(1);

/// Number of rejected connections that are told the reason reliably at the same time; each
/// holds a descriptor until it closes.
const REJECTED_MAX: usize = 16;

impl<L: Log> Reactor<L> {
    /// Admits or rejects a connection that was just accepted.
    pub(super) fn open(&mut self, now: Now, stream: TcpStream, peer: Peer, turn: &mut Turn) {
        let slot = self.connections.vacant_key();
        let slot = u32::try_from(slot).expect("descriptors are counted in 32 bits");
        self.generation = self.generation.wrapping_add(1);
        let conn = ConnId { slot, generation: self.generation };
        let hub = &self.hub;
        let verdict = self.admission.admit(now.since_start, peer, conn, |c| hub.is_unnamed(c));
        match verdict {
            Verdict::Accept => {}
            Verdict::AcceptAndEvict(other) => {
                self.hub.handle(now, other, Input::Evicted, turn);
            }
            Verdict::Reject(why) => return self.reject_connection(stream, conn, &why),
        }
        let mut connection = Connection::new(stream, self.ready_queue.waker(slot), self.generation);
        if self.limits.apply_to(peer) {
            let input_rate = self.input_rate;
            let budget = self.input_limiter.budget(now.since_start, peer, input_rate);
            connection.budget = budget.map(Box::new);
        }
        if self.offer.is_some() {
            self.hub.handle(now, conn, Input::Arrived(peer), turn);
            self.timers.push(Reverse((now.since_start + GREETING_DELAY, conn, Timeout::Greeting)));
        } else {
            connection.phase = Phase::Open;
            self.hub.handle(now, conn, Input::Opened(peer), turn);
        }
        self.connections.insert(connection);
        self.ready.push(slot);
    }

    /// Sends the reason of a rejection and closes the connection.
    fn reject_connection(&mut self, stream: TcpStream, conn: ConnId, why: &str) {
        let bye = Event::Bye { code: Farewell::TooMany.as_str(), text: why };
        let mut line = Vec::new();
        Dialect::default().encode(&Tags::default(), &bye, &mut line);
        if self.rejected.len() >= REJECTED_MAX {
            // Closing a socket with unread input sends a reset, which discards the line on the
            // client's side; reading first makes that less likely.
            let socket = SockRef::from(&stream);
            let _ = (&*socket).read(&mut self.buffer);
            let _ = socket.send(&line);
            return;
        }
        self.rejected.push(conn);
        let size = line.len();
        let line = self.share(line);
        let mut connection =
            Connection::new(stream, self.ready_queue.waker(conn.slot), conn.generation);
        connection.phase = Phase::Closing;
        connection.is_dirty = true;
        connection.outbox.push(&line, 0, size);
        self.connections.insert(connection);
        self.dirty.push(conn);
    }

    /// Detects the transport of a new connection, and greets it when that is known.
    pub(super) fn receive(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(offer) = &self.offer else { return };
        let config = offer.config.clone();
        let Some(connection) = self.get(conn) else { return };
        match connection.transport(&config) {
            Ok(None) => {}
            Ok(Some(transport)) => self.greet(now, conn, transport, turn),
            Err(_) => self.disconnect(now, conn, turn),
        }
    }

    fn greet(&mut self, now: Now, conn: ConnId, transport: Transport, turn: &mut Turn) {
        let is_tls_needed = self.offer.as_ref().is_some_and(|offer| offer.is_only);
        let Some(connection) = self.get(conn) else { return };
        connection.phase = Phase::Open;
        let is_encrypted = transport == Transport::Tls;
        let input = if is_tls_needed && !is_encrypted {
            Input::Unencrypted
        } else {
            Input::TransportKnown { is_encrypted }
        };
        self.hub.handle(now, conn, input, turn);
        self.ready.push(conn.slot);
    }

    /// Greets a client that has sent nothing yet as a plain connection.
    pub(super) fn greet_idle(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let arriving = self.get(conn).filter(|connection| connection.phase == Phase::Arriving);
        if arriving.is_some_and(|connection| !connection.is_in_handshake()) {
            self.greet(now, conn, Transport::Plain, turn);
        }
    }
}
