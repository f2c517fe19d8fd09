//! Whether the server is still there. One that has hung, or a network that drops
//! what it is given, looks just like a quiet evening; so who has been silent for a
//! while is asked, and who does not answer either is taken for lost.

use std::time::Duration;

use tokio::time::Instant;

/// How often who is silent is asked before we give up.
const PINGS_MAX: u32 = 2;

/// So late we notice that it is time only if we were stopped, or slept, or could
/// not write: the silence was ours then.
const SUSPENDED_AFTER: Duration = Duration::from_secs(2);

/// What there is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeartbeatAction {
    /// Nothing yet.
    Wait,
    /// Ask whether it is there.
    Ask,
    /// It is not.
    Dead,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Heartbeat {
    /// How long a silence may be.
    silence: Duration,
    due: Instant,
    /// When it was first asked, and how often since.
    asked: Option<(Instant, u32)>,
}

impl Heartbeat {
    /// Of a server that has just been heard.
    pub(super) fn new(silence: Duration, now: Instant) -> Self {
        Self { silence, due: now + silence, asked: None }
    }

    /// It has said something, whatever it was.
    pub(super) fn heard(&mut self, now: Instant) {
        *self = Self::new(self.silence, now);
    }

    /// Since when it owes us a sign of life.
    pub(super) fn asked_since(&self) -> Option<Instant> {
        self.asked.map(|(since, _)| since)
    }

    /// When to look again.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// What is to be done now.
    pub(super) fn beat(&mut self, now: Instant) -> HeartbeatAction {
        if now < self.due {
            return HeartbeatAction::Wait;
        }
        if now - self.due >= SUSPENDED_AFTER {
            self.asked = None;
        }
        match self.asked {
            Some((_, PINGS_MAX..)) => HeartbeatAction::Dead,
            _ => self.ask(now),
        }
    }

    /// Asks now: the world may have changed while we were stopped.
    pub(super) fn ask(&mut self, now: Instant) -> HeartbeatAction {
        let (since, count) = self.asked.unwrap_or((now, 0));
        self.asked = Some((since, count + 1));
        self.due = now + self.silence;
        HeartbeatAction::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(30);

    #[test]
    fn who_is_silent_is_asked_twice_and_then_given_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Heartbeat::new(SILENCE, start);
        assert_eq!(pulse.beat(at(29)), HeartbeatAction::Wait);
        assert_eq!(pulse.beat(at(30)), HeartbeatAction::Ask);
        assert_eq!(pulse.asked_since(), Some(at(30)));
        assert_eq!(pulse.beat(at(59)), HeartbeatAction::Wait);
        assert_eq!(pulse.beat(at(60)), HeartbeatAction::Ask);
        assert_eq!(pulse.asked_since(), Some(at(30)));
        assert_eq!(pulse.beat(at(90)), HeartbeatAction::Dead);
    }

    #[test]
    fn any_word_will_do() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Heartbeat::new(SILENCE, start);
        assert_eq!(
            (pulse.beat(at(30)), pulse.beat(at(60))),
            (HeartbeatAction::Ask, HeartbeatAction::Ask)
        );
        pulse.heard(at(61));
        assert_eq!((pulse.due(), pulse.asked_since()), (at(91), None));
        assert_eq!(pulse.beat(at(91)), HeartbeatAction::Ask);
    }

    #[test]
    fn who_was_stopped_asks_before_giving_up() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Heartbeat::new(SILENCE, start);
        assert_eq!(
            (pulse.beat(at(30)), pulse.beat(at(60))),
            (HeartbeatAction::Ask, HeartbeatAction::Ask)
        );
        // A night.
        assert_eq!(pulse.beat(at(30_000)), HeartbeatAction::Ask);
        assert_eq!(pulse.beat(at(30_030)), HeartbeatAction::Ask);
        assert_eq!(pulse.beat(at(30_060)), HeartbeatAction::Dead);
    }
}
