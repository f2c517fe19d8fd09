//! The heartbeat: detects a lost server. A hung server, or a network that drops packets,
//! looks like a quiet chat; so after a silence the client sends pings, and without an
//! answer the connection counts as lost. It does no IO and reads no clock.

use std::time::Duration;

use tokio::time::Instant;

/// The number of unanswered pings after which the connection counts as lost.
const PINGS_MAX: u32 = 2;

/// A timer that fires this late means that the client was stopped or suspended, or could
/// not write: the server was not silent then.
const SUSPENDED_AFTER: Duration = Duration::from_secs(2);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum HeartbeatAction {
    /// Nothing yet.
    Wait,
    /// Send a ping.
    Ping,
    /// The connection is lost.
    Dead,
}

/// The heartbeat of one connection.
#[derive(Debug)]
pub(in crate::client) struct Heartbeat {
    /// The allowed silence (`--ping-after`).
    silence: Duration,
    due: Instant,
    /// When the first unanswered ping was sent, and their number.
    pinged: Option<(Instant, u32)>,
}

impl Heartbeat {
    /// Returns the heartbeat of a server that has just sent data.
    pub(in crate::client) fn new(silence: Duration, now: Instant) -> Self {
        Self { silence, due: now + silence, pinged: None }
    }

    /// Records that the server sent data.
    pub(in crate::client) fn received(&mut self, now: Instant) {
        *self = Self::new(self.silence, now);
    }

    /// Returns since when a ping is unanswered.
    pub(in crate::client) fn pinged_since(&self) -> Option<Instant> {
        self.pinged.map(|(since, _)| since)
    }

    /// Returns when to call [`Self::beat`] next.
    pub(in crate::client) fn due(&self) -> Instant {
        self.due
    }

    /// Returns what to do now.
    pub(in crate::client) fn beat(&mut self, now: Instant) -> HeartbeatAction {
        if now < self.due {
            return HeartbeatAction::Wait;
        }
        if now - self.due >= SUSPENDED_AFTER {
            self.pinged = None;
        }
        match self.pinged {
            Some((_, PINGS_MAX..)) => HeartbeatAction::Dead,
            _ => self.ping(now),
        }
    }

    /// Requests a ping now, e.g. after the client was stopped.
    pub(in crate::client) fn ping(&mut self, now: Instant) -> HeartbeatAction {
        let (since, count) = self.pinged.unwrap_or((now, 0));
        self.pinged = Some((since, count + 1));
        self.due = now + self.silence;
        HeartbeatAction::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);

    #[test]
    fn silent_server_is_lost_after_two_pings() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heartbeat = Heartbeat::new(SILENCE, start);
        assert_eq!(heartbeat.beat(at(29)), HeartbeatAction::Wait);
        assert_eq!(heartbeat.beat(at(30)), HeartbeatAction::Ping);
        assert_eq!(heartbeat.pinged_since(), Some(at(30)));
        assert_eq!(heartbeat.beat(at(59)), HeartbeatAction::Wait);
        assert_eq!(heartbeat.beat(at(60)), HeartbeatAction::Ping);
        assert_eq!(heartbeat.pinged_since(), Some(at(30)));
        assert_eq!(heartbeat.beat(at(90)), HeartbeatAction::Dead);
    }

    #[test]
    fn any_data_resets_the_heartbeat() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heartbeat = Heartbeat::new(SILENCE, start);
        assert_eq!(
            (heartbeat.beat(at(30)), heartbeat.beat(at(60))),
            (HeartbeatAction::Ping, HeartbeatAction::Ping)
        );
        heartbeat.received(at(61));
        assert_eq!((heartbeat.due(), heartbeat.pinged_since()), (at(91), None));
        assert_eq!(heartbeat.beat(at(91)), HeartbeatAction::Ping);
    }

    #[test]
    fn suspended_client_pings_again_before_connection_is_lost() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heartbeat = Heartbeat::new(SILENCE, start);
        assert_eq!(
            (heartbeat.beat(at(30)), heartbeat.beat(at(60))),
            (HeartbeatAction::Ping, HeartbeatAction::Ping)
        );
        // Suspended for hours.
        assert_eq!(heartbeat.beat(at(30_000)), HeartbeatAction::Ping);
        assert_eq!(heartbeat.beat(at(30_030)), HeartbeatAction::Ping);
        assert_eq!(heartbeat.beat(at(30_060)), HeartbeatAction::Dead);
    }
}
