//! What operators do, for the server's own log: who, from where, what. Never a
//! password or a key, and no private message. Lines are clean already, so none
//! can pass for two.
//!
//! Everybody can make a room and order it about, and guess at passwords; of that
//! only so much is told in a second, and then how much was left out.

use std::time::Duration;

use super::{Hub, Now, VisitIx};
use crate::commands::Command;

/// How many lines there are in a second about what everybody can do.
const COMMON_LINES_MAX: u32 = 20;

const SECOND: Duration = Duration::from_secs(1);

/// Lines that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Audit {
    lines: Vec<String>,
    /// When the present second began, and what was in it.
    since: Duration,
    count: u32,
    left_out: u32,
}

/// Who can do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Anybody,
    /// Operators of the server.
    Trusted,
}

impl Audit {
    fn note(&mut self, now: Now, by: By, line: &str) {
        if now.since_start >= self.since + SECOND {
            self.since = now.since_start;
            self.count = 0;
            if self.left_out > 0 {
                self.lines.push(format!("{} {} acts left out", now.wall, self.left_out));
                self.left_out = 0;
            }
        }
        if by == By::Anybody {
            self.count += 1;
            if self.count > COMMON_LINES_MAX {
                self.left_out += 1;
                return;
            }
        }
        self.lines.push(format!("{} {line}", now.wall));
    }
}

/// The act as it is told, if a command is one.
fn act(command: Command<'_>) -> Option<(By, String)> {
    use Command as C;
    match command {
        C::Wall { .. } | C::Kill { .. } | C::Gban { .. } | C::Gunban { .. } => {
            Some((By::Trusted, command.to_string()))
        }
        C::Lock { .. } => Some((By::Anybody, C::Lock { key: None }.to_string())),
        C::Op { .. }
        | C::Deop { .. }
        | C::Kick { .. }
        | C::Mute { .. }
        | C::Unmute { .. }
        | C::Ban { .. }
        | C::Unban { .. }
        | C::Unlock
        | C::Invite { .. } => Some((By::Anybody, command.to_string())),
        _ => None,
    }
}

impl Hub {
    /// A command was obeyed.
    pub(super) fn note_act(&mut self, now: Now, visit: VisitIx, command: Command<'_>) {
        let Some((by, act)) = act(command) else { return };
        let room = self.visits[visit].current.filter(|_| by == By::Anybody);
        let room = room.map(|room| format!(" in {}", self.rooms[room].name)).unwrap_or_default();
        let who = self.who_acts(visit);
        self.audit.note(now, by, &format!("{who}{room}: {act}"));
    }

    /// Somebody has tried to become an operator of the server.
    pub(super) fn note_oper(&mut self, now: Now, visit: VisitIx, is_right: bool) {
        let result = if is_right { "is an operator now" } else { "wrong password" };
        let line = format!("{}: /oper: {result}", self.who_acts(visit));
        let by = if is_right { By::Trusted } else { By::Anybody };
        self.audit.note(now, by, &line);
    }

    fn who_acts(&self, visit: VisitIx) -> String {
        let kind = match self.accounts.of(self.visits[visit].person) {
            Some(account) => format!("account {}", account.name),
            None => "guest".to_owned(),
        };
        let from = self.peer_of(visit).map(|peer| format!(", {}", peer.address));
        format!("{} ({kind}{})", self.visits[visit].name, from.unwrap_or_default())
    }

    /// What is to be written to the server's log, each line once.
    pub fn take_audit(&mut self) -> Vec<String> {
        std::mem::take(&mut self.audit.lines)
    }
}
