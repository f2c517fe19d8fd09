//! Connections from the moment they are accepted until it is known how they speak
//! and they are greeted: at once, or, where TLS is offered, when the first byte has
//! told, and the handshake is done.

use std::cmp::Reverse;
use std::time::Duration;

use tokio::net::TcpStream;

use super::{Due, Reactor};
use crate::server::connection::{Connection, Phase};
use crate::server::hub::{Input, Now};
use crate::server::log::Log;
use crate::server::peer::Peer;
use crate::server::stream::Speech;
use crate::server::turn::{ConnId, Turn};

/// Where TLS is offered, whoever says nothing for so long is taken for a person
/// who waits to be greeted: a part of the contract.
const GREETING_DELAY: Duration = Duration::from_secs(1);

impl<L: Log> Reactor<L> {
    /// Takes in a connection that was just accepted.
    pub(super) fn open(&mut self, now: Now, stream: TcpStream, peer: Peer, turn: &mut Turn) {
        let entry = self.connections.vacant_entry();
        let slot = u32::try_from(entry.key()).expect("descriptors are counted in 32 bits");
        self.generation = self.generation.wrapping_add(1);
        let conn = ConnId { slot, generation: self.generation };
        let connection =
            entry.insert(Connection::new(stream, self.bells.bell(slot), self.generation));
        if self.offer.is_some() {
            self.hub.handle(now, conn, Input::Arrived(peer), turn);
            self.dues.push(Reverse((now.since_start + GREETING_DELAY, conn, Due::Greeting)));
        } else {
            connection.phase = Phase::Open;
            self.hub.handle(now, conn, Input::Opened(peer), turn);
        }
        self.ready.push(slot);
    }

    /// Finds out how somebody speaks who has just come, and greets them when it is
    /// known.
    pub(super) fn receive(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let Some(offer) = &self.offer else { return };
        let config = offer.config.clone();
        let Some(connection) = self.get(conn) else { return };
        match connection.speech(&config) {
            Ok(None) => {}
            Ok(Some(speech)) => self.greet(now, conn, speech, turn),
            Err(_) => self.lose(now, conn, turn),
        }
    }

    fn greet(&mut self, now: Now, conn: ConnId, speech: Speech, turn: &mut Turn) {
        let is_tls_needed = self.offer.as_ref().is_some_and(|offer| offer.is_only);
        let Some(connection) = self.get(conn) else { return };
        connection.phase = Phase::Open;
        let is_encrypted = speech == Speech::Tls;
        let input = if is_tls_needed && !is_encrypted {
            Input::Unencrypted
        } else {
            Input::Settled { is_encrypted }
        };
        self.hub.handle(now, conn, input, turn);
        self.ready.push(conn.slot);
    }

    /// Who has said nothing yet does not wait to shake hands.
    pub(super) fn greet_silent(&mut self, now: Now, conn: ConnId, turn: &mut Turn) {
        let arriving = self.get(conn).filter(|connection| connection.phase == Phase::Arriving);
        if arriving.is_some_and(|connection| !connection.is_shaking_hands()) {
            self.greet(now, conn, Speech::Plain, turn);
        }
    }
}
