//! What operators do, for the server's own log: who, from where, what. Never a
//! password or a key, and no private message. Lines are clean already, so none
//! can pass for two.
//!
//! Everybody can make a room and order it about; of what somebody does there only so
//! much is told in a second, of what all do there so much too, and then how much was
//! left out. That hides nothing of what operators of the server do.

use std::collections::HashMap;
use std::time::Duration;

use super::{ErrorCode, Hub, Now, Refusal, Stamp, UserId, UserIx};
use crate::commands::Command;

/// How many lines there are in a second about what one person does that everybody
/// can do; and about all of them together.
const PERSON_LINES_MAX: u32 = 5;
const COMMON_LINES_MAX: u32 = 100;

const SECOND: Duration = Duration::from_secs(1);

/// A clock that goes back again and again is named no more often than this.
const CLOCK_PAUSE: Duration = Duration::from_mins(1);

/// Lines that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Audit {
    lines: Vec<String>,
    /// When the present second began, and what was in it.
    since: Duration,
    counts: HashMap<UserId, u32>,
    left_out: u32,
    /// When it was last said that the clock went back.
    clock_noted: Option<Duration>,
}

/// Who can do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Whoever made a room.
    Anybody(UserId),
    /// Operators of the server, or who tries to be one: that is slow.
    Trusted,
}

impl Audit {
    fn note(&mut self, now: Now, by: By, line: &str) {
        self.begin_second(now);
        if let By::Anybody(person) = by {
            let all: u32 = self.counts.values().sum();
            let count = self.counts.entry(person).or_default();
            if *count >= PERSON_LINES_MAX || all >= COMMON_LINES_MAX {
                self.left_out += 1;
                return;
            }
            *count += 1;
        }
        self.lines.push(format!("{} {line}", now.wall));
    }

    /// The wall clock was set back, to before `last`.
    pub(super) fn note_clock(&mut self, now: Now, last: Stamp) {
        if self.clock_noted.is_none_or(|noted| now.since_start >= noted + CLOCK_PAUSE) {
            self.clock_noted = Some(now.since_start);
            let what = "message times go back with it, ids keep the order";
            let Now { wall, .. } = now;
            self.lines.push(format!("{wall} the clock went back from {last} to {wall}; {what}"));
        }
    }

    /// If the present second is over, what was left out of it is told.
    pub(super) fn begin_second(&mut self, now: Now) {
        if now.since_start < self.since + SECOND {
            return;
        }
        self.since = now.since_start;
        self.counts.clear();
        if self.left_out > 0 {
            self.lines.push(format!("{} {} acts left out", now.wall, self.left_out));
            self.left_out = 0;
        }
    }

    /// When there is something to be told, whoever does something or not.
    pub(super) fn due(&self) -> Option<Duration> {
        (self.left_out > 0).then_some(self.since + SECOND)
    }
}

/// The act as it is told, if a command is one, and whether it is one of a room.
fn act(command: Command<'_>) -> Option<(bool, String)> {
    use Command as C;
    match command {
        C::Wall { .. } | C::Kill { .. } | C::Gban { .. } | C::Gunban { .. } => {
            Some((false, command.to_string()))
        }
        C::Lock { .. } => Some((true, C::Lock { key: None }.to_string())),
        C::Op { .. }
        | C::Deop { .. }
        | C::Kick { .. }
        | C::Mute { .. }
        | C::Unmute { .. }
        | C::Ban { .. }
        | C::Unban { .. }
        | C::Unlock
        | C::Invite { .. } => Some((true, command.to_string())),
        _ => None,
    }
}

impl Hub {
    /// A command was obeyed.
    pub(super) fn note_act(&mut self, now: Now, user: UserIx, command: Command<'_>) {
        // Who has quit is not here any more; that is no act.
        let Some((is_of_room, act)) = act(command) else { return };
        let person = self.users[user].id;
        let by = if self.is_server_operator(person) { By::Trusted } else { By::Anybody(person) };
        let room = self.users[user].current.filter(|_| is_of_room);
        let room = room.map(|room| format!(" in {}", self.rooms[room].name)).unwrap_or_default();
        let who = self.actor(user);
        self.audit.note(now, by, &format!("{who}{room}: {act}"));
    }

    /// Somebody has tried to become an operator of the server.
    pub(super) fn note_oper(&mut self, now: Now, user: UserIx, refusal: Option<&Refusal>) {
        let result = match refusal {
            None => "is an operator now",
            Some(Refusal { code: ErrorCode::TooMany, .. }) => "too many operators",
            Some(_) => "wrong password",
        };
        let line = format!("{}: /oper: {result}", self.actor(user));
        self.audit.note(now, By::Trusted, &line);
    }

    fn actor(&self, user: UserIx) -> String {
        let kind = match self.accounts.of(self.users[user].id) {
            Some(account) => format!("account {}", account.name),
            None => "guest".to_owned(),
        };
        let from = self.users[user].peer.map(|peer| format!(", {}", peer.address));
        format!("{} ({kind}{})", self.users[user].name, from.unwrap_or_default())
    }

    /// What is to be written to the server's log, each line once.
    pub fn take_audit(&mut self) -> Vec<String> {
        std::mem::take(&mut self.audit.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::test_support::{connect, hub, say, tick_at};
    use super::*;

    #[test]
    fn what_was_left_out_is_told_when_its_second_is_over() {
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
        assert!(log.len() == 1 && log[0].ends_with(" 3 acts left out"), "{log:?}");
        assert_eq!(hub.next_deadline(), None);
    }
}
