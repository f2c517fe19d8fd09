//! The audit log: actions of operators (user, address, command) for the server's own log.
//! It never contains a password, a room key or a private message. Arguments contain no
//! control characters, so a user cannot forge a line.
//!
//! Every user can create and moderate a room, so lines about room operators are
//! rate-limited per user and in total, and the number of suppressed lines is logged.
//! Actions of server operators are always logged.

use std::collections::HashMap;
use std::time::Duration;

use super::state::State;
use super::state::index::UserIx;
use crate::commands::{self, Command};
use crate::protocol::{ErrorReason, Refusal, Stamp};
use crate::server::clock::Now;
use crate::server::record::UserId;

/// Lines per second about one room operator.
const USER_LINES_MAX: u32 = 5;

/// Lines per second about all room operators together.
const TOTAL_LINES_MAX: u32 = 100;

const SECOND: Duration = Duration::from_secs(1);

/// The shortest interval between two lines about a clock that went back.
const CLOCK_INTERVAL: Duration = Duration::from_mins(1);

/// Audit lines that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Audit {
    lines: Vec<String>,
    /// The start of the current second.
    since: Duration,
    /// Lines per user in the current second.
    counts: HashMap<UserId, u32>,
    suppressed: u32,
    /// The time of the last line about a clock that went back.
    clock_noted: Option<Duration>,
}

/// Whether lines about an action are rate-limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RateLimit {
    /// For room operators.
    PerUser(UserId),
    /// For server operators, and for `/oper`, which the password throttle limits already.
    Unlimited,
}

impl Audit {
    fn note(&mut self, now: Now, limit: RateLimit, line: &str) {
        self.begin_second(now);
        if let RateLimit::PerUser(person) = limit {
            let total: u32 = self.counts.values().sum();
            let count = self.counts.entry(person).or_default();
            if *count >= USER_LINES_MAX || total >= TOTAL_LINES_MAX {
                self.suppressed += 1;
                return;
            }
            *count += 1;
        }
        self.lines.push(format!("{} {line}", now.wall));
    }

    /// Logs that the wall clock went back to before `last`.
    pub(super) fn note_clock(&mut self, now: Now, last: Stamp) {
        if self.clock_noted.is_none_or(|noted| now.since_start >= noted + CLOCK_INTERVAL) {
            self.clock_noted = Some(now.since_start);
            let effect = "message times follow the clock; ids keep the order";
            let Now { wall, .. } = now;
            self.lines.push(format!("{wall} the clock went back from {last} to {wall}; {effect}"));
        }
    }

    /// Starts a new second if the current one is over, and logs how many lines the current
    /// one suppressed.
    pub(super) fn begin_second(&mut self, now: Now) {
        if now.since_start < self.since + SECOND {
            return;
        }
        self.since = now.since_start;
        self.counts.clear();
        if self.suppressed > 0 {
            let count = self.suppressed;
            self.lines.push(format!("{} {count} actions not logged (rate limit)", now.wall));
            self.suppressed = 0;
        }
    }

    /// When [`Audit::begin_second`] must be called to log the suppressed lines.
    pub(super) fn due(&self) -> Option<Duration> {
        (self.suppressed > 0).then_some(self.since + SECOND)
    }

    /// Logs a command that was executed, if it is audited.
    pub(super) fn note_command(
        &mut self,
        state: &State,
        now: Now,
        user: UserIx,
        command: Command<'_>,
    ) {
        // `user` no longer exists after `/quit`, which is not audited.
        let Some((audit, action)) = command.audited() else { return };
        let person = state.users[user].id;
        let limit = if state.moderation.server().is_operator(person) {
            RateLimit::Unlimited
        } else {
            RateLimit::PerUser(person)
        };
        let room = state.connection_of(user).current.filter(|_| audit == commands::Audit::Room);
        let room = room.map(|room| format!(" in {}", state.rooms[room].name)).unwrap_or_default();
        let actor = actor(state, user);
        self.note(now, limit, &format!("{actor}{room}: {action}"));
    }

    /// Logs the result of an `/oper`.
    pub(super) fn note_oper(
        &mut self,
        state: &State,
        now: Now,
        user: UserIx,
        refusal: Option<&Refusal>,
    ) {
        let result = match refusal {
            None => "is an operator now",
            Some(Refusal { reason: ErrorReason::TooMany, .. }) => "too many operators",
            Some(_) => "wrong password",
        };
        let line = format!("{}: /oper: {result}", actor(state, user));
        self.note(now, RateLimit::Unlimited, &line);
    }

    /// Removes and returns the lines to be written to the server's log.
    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

/// Describes the user who acted: name, account, address.
fn actor(state: &State, user: UserIx) -> String {
    let kind = match state.accounts.of(state.users[user].id) {
        Some(account) => format!("account {}", account.name),
        None => "guest".to_owned(),
    };
    let from = state.connection_of(user).peer.map(|peer| format!(", {}", peer.address));
    format!("{} ({kind}{})", state.users[user].name, from.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::test_support::{connect, hub, say, tick_at};
    use super::*;

    #[test]
    fn audit_reports_suppressed_lines_after_a_second() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        say(&mut hub, 0, "/join ops");
        for _ in 0..8 {
            say(&mut hub, 0, "/lock");
        }
        assert_eq!(hub.take_audit().len(), 5);
        assert_eq!(hub.next_deadline(), Some(SECOND));
        tick_at(&mut hub, SECOND, 0);
        let log = hub.take_audit();
        assert!(
            log.len() == 1 && log[0].ends_with(" 3 actions not logged (rate limit)"),
            "{log:?}"
        );
        assert_eq!(hub.next_deadline(), None);
    }
}
