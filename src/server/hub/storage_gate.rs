//! Changes that outlive the server: nothing of them is acknowledged unless it can be
//! stored. A command that makes one is refused while storage takes no writes, before it
//! has any effect. What nobody asked for (a connection that breaks, a deadline) cannot be
//! refused; it stays in `unsaved` until it is stored.

use super::password_checks::Purpose;
use super::{Collection, ErrorCode, Hub, Refusal, UserId, UserIx, dormant, session};
use crate::commands::Command;

/// Whether changes can be stored in the present turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// It is not known: [`super::Flow::Store`] asks for it before the first change.
    Unknown,
    /// It was asked for, and is to be told before the same line is handled again.
    Wanted,
    /// They can.
    Open,
    /// They cannot.
    Closed,
}

/// How many unsaved changes are named.
const NAMED_MAX: usize = 10;

/// Why a line is refused that cannot be stored.
#[must_use]
pub fn storage_full() -> Refusal {
    Refusal::new(
        ErrorCode::StorageFull,
        "not done, and nobody saw it: the server cannot store this now; try again later",
    )
}

impl Hub {
    /// Tells whether changes can be stored until this is told anew.
    pub fn set_storage(&mut self, storage: Storage) {
        self.storage = storage;
    }

    /// Whether storage was asked for by the line that was handled last.
    pub(super) fn wants_storage(&self) -> bool {
        self.storage == Storage::Wanted
    }

    /// Whether a command may be executed now. `Ok(false)`: when storage is known.
    pub(super) fn require_storage(
        &mut self,
        user: UserIx,
        command: Command<'_>,
    ) -> Result<bool, Refusal> {
        if self.storage == Storage::Open || !self.changes_stored(user, command) {
            return Ok(true);
        }
        if self.storage == Storage::Closed {
            return Err(storage_full());
        }
        self.storage = Storage::Wanted;
        Ok(false)
    }

    /// The same for what comes of a password, when it has been hashed.
    pub(super) fn require_storage_for(
        &self,
        user: UserIx,
        purpose: &Purpose,
    ) -> Result<(), Refusal> {
        let changes_stored = match purpose {
            Purpose::Register | Purpose::Change | Purpose::Unregister | Purpose::Rule => true,
            Purpose::Enter(..) => self.is_stored(user),
            Purpose::LogIn(_) | Purpose::LogInGuest(_) => false,
        };
        if changes_stored && self.storage == Storage::Closed { Err(storage_full()) } else { Ok(()) }
    }

    /// Whether a command of this user may change what is stored.
    fn changes_stored(&self, user: UserIx, command: Command<'_>) -> bool {
        use Command as C;
        match command {
            C::Register { .. }
            | C::Passwd { .. }
            | C::Unregister { .. }
            | C::Session
            | C::Op { .. }
            | C::Deop { .. }
            | C::Kick { .. }
            | C::Mute { .. }
            | C::Unmute { .. }
            | C::Ban { .. }
            | C::Unban { .. }
            | C::Lock { .. }
            | C::Unlock
            | C::Invite { .. }
            | C::Oper { .. }
            | C::Kill { .. }
            | C::Gban { .. }
            | C::Gunban { .. } => true,
            C::Topic { text } => text.is_some(),
            C::Set { change: None } | C::Ignore { name: None } => false,
            _ => session::changes_session(command) && self.is_stored(user),
        }
    }

    /// Whether anything of a user is stored: a session or an account.
    fn is_stored(&self, user: UserIx) -> bool {
        let me = &self.users[user];
        me.session.is_some() || self.accounts.of(me.id).is_some()
    }

    /// What is not stored, for people; not all of it, if it is much.
    #[must_use]
    pub fn describe_unsaved(&self) -> String {
        let first = self.unsaved.iter().take(NAMED_MAX);
        let mut names: Vec<String> =
            first.map(|(shelf, key)| self.describe_entry(*shelf, *key)).collect();
        if self.unsaved.len() > NAMED_MAX {
            names.push(format!("and {} more", self.unsaved.len() - NAMED_MAX));
        }
        names.join(", ")
    }

    fn describe_entry(&self, kind: Collection, key: u64) -> String {
        let person = UserId(key);
        match kind {
            Collection::Session => match self.users_by_id.get(&person) {
                Some(user) => format!("the session of {}", self.users[*user].name),
                None => "the end of a session".to_owned(),
            },
            Collection::Account => match self.accounts.of(person) {
                Some(account) => format!("the account {}", account.name),
                None => "the end of an account".to_owned(),
            },
            Collection::Mail => {
                match self.mail.owner(key).and_then(|owner| self.accounts.of(owner)) {
                    Some(account) => format!("a message that waits for {}", account.name),
                    None => "that a waiting message was delivered".to_owned(),
                }
            }
            Collection::Spans => "memberships of a session".to_owned(),
            Collection::Moderation if key == dormant::SERVER_ID => {
                "the server's bans and operators".to_owned()
            }
            Collection::Moderation => match self.moderated_rooms.get(&key) {
                Some(room) => format!("what was decided in {room}"),
                None => "the end of a room".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{connect, handle, hub, now, register, say};
    use super::super::{Flow, Frame, Input, Limits, Turn};
    use super::*;
    use crate::server::passwords::Outcome;

    fn line(text: &str) -> Input<'_> {
        Input::Frame(Frame::Line(text.into()))
    }

    #[test]
    fn command_that_changes_stored_state_asks_for_storage_and_is_refused_without() {
        let mut hub = hub(Limits::default());
        (0..2).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        say(&mut hub, 1, "bob");
        say(&mut hub, 0, "/join ops");
        say(&mut hub, 1, "/join ops");
        let lines = [
            "/register sesame",
            "/session",
            "/op bob",
            "/deop bob",
            "/kick bob",
            "/mute bob",
            "/unmute bob",
            "/ban 192.0.2.1",
            "/unban 192.0.2.1",
            "/lock",
            "/unlock",
            "/invite bob",
            "/topic tea",
        ];
        for text in lines {
            hub.set_storage(Storage::Unknown);
            let (flow, told) = handle(&mut hub, 0, line(text));
            assert_eq!((flow, told.text.as_str()), (Flow::Store, ""), "{text}");
            hub.set_storage(Storage::Closed);
            let (flow, told) = handle(&mut hub, 0, line(text));
            assert!(told.text.starts_with("[ERROR storage-full] "), "{text}: {}", told.text);
            assert_eq!((flow, hub.has_changes()), (Flow::Next, false), "{text}");
        }
        // What is gone with the visit anyway needs no storage.
        for text in ["/away", "/topic", "/join red", "/nick carol", "/ignore", "/set joins on"] {
            let (flow, told) = handle(&mut hub, 0, line(text));
            assert_eq!(flow, Flow::Next);
            assert!(!told.text.contains("ERROR"), "{text}: {}", told.text);
        }
        hub.check_invariants();
    }

    #[test]
    fn session_and_account_changes_need_storage() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        register(&mut hub, 0);
        say(&mut hub, 0, "/session");
        hub.mark_saved();
        hub.set_storage(Storage::Closed);
        for text in ["/join red", "/part", "/nick carol", "/away x", "/set joins on", "/passwd new"]
        {
            let (_, told) = handle(&mut hub, 0, line(text));
            assert!(told.text.starts_with("[ERROR storage-full] "), "{text}: {}", told.text);
        }
        assert!(!hub.has_changes());
        hub.check_invariants();
    }

    #[test]
    fn hashed_password_is_not_taken_while_storage_is_closed() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        say(&mut hub, 0, "/register sesame");
        hub.set_storage(Storage::Closed);
        let hash = Outcome::Hashed(Some("a hash".into()));
        let (flow, told) = handle(&mut hub, 0, Input::Hashed(hash));
        assert!(told.text.starts_with("[ERROR storage-full] "), "{}", told.text);
        assert_eq!((flow, hub.has_changes()), (Flow::Next, false));
        hub.set_storage(Storage::Open);
        register(&mut hub, 0);
        assert_eq!(hub.describe_unsaved(), "the account alice");
    }

    #[test]
    fn unsaved_changes_are_named() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        for text in ["alice", "/session", "/join ops", "/topic tea"] {
            say(&mut hub, 0, text);
        }
        assert_eq!(hub.describe_unsaved(), "the session of alice, what was decided in #ops");
        hub.handle(
            now(std::time::Duration::ZERO),
            super::super::test_support::conn(0),
            line("/quit"),
            &mut Turn::default(),
        );
        assert!(hub.describe_unsaved().starts_with("the end of a session, "));
    }
}
