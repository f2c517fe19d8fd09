//! The storage gate: no persistent change is acknowledged unless it can be stored. While
//! storage does not accept writes, commands that make such a change are refused before they
//! have any effect. Changes without a command (a lost connection, a timer) cannot be
//! refused; they stay in `unsaved` until they are stored.

use super::password_checks::Purpose;
use super::{Collection, ErrorCode, Hub, Refusal, UserId, UserIx, dormant};
use crate::commands::{Changes, Command};

/// Whether changes can be stored in the current turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Unknown: [`super::Flow::Store`] requests it before the first change.
    Unknown,
    /// Requested; the caller sets it before it handles the same line again.
    Wanted,
    /// Changes can be stored.
    Open,
    /// Changes cannot be stored.
    Closed,
}

/// Maximum number of unsaved changes that are listed by name.
const NAMED_MAX: usize = 10;

/// Returns the refusal of a change that cannot be stored.
#[must_use]
pub fn storage_full() -> Refusal {
    Refusal::new(
        ErrorCode::StorageFull,
        "not done: the server cannot store this now; try again later",
    )
}

impl Hub {
    /// Sets whether changes can be stored, until the next call.
    pub fn set_storage(&mut self, storage: Storage) {
        self.storage = storage;
    }

    /// Returns whether the last line requested the state of storage.
    pub(super) fn wants_storage(&self) -> bool {
        self.storage == Storage::Wanted
    }

    /// Checks whether a command may be executed now; `Ok(false)`: not before the state of
    /// storage is known.
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

    /// Checks the same for a command that waited for a password.
    pub(super) fn require_storage_for(
        &self,
        user: UserIx,
        purpose: &Purpose,
    ) -> Result<(), Refusal> {
        let changes_stored = match purpose {
            Purpose::Register | Purpose::Change | Purpose::Unregister | Purpose::ServerOperator => {
                true
            }
            Purpose::Enter(..) => self.is_stored(user),
            Purpose::LogIn(_) | Purpose::LogInGuest(_) => false,
        };
        if changes_stored && self.storage == Storage::Closed { Err(storage_full()) } else { Ok(()) }
    }

    /// Returns whether a command of this user may change what is stored.
    fn changes_stored(&self, user: UserIx, command: Command<'_>) -> bool {
        match command.changes() {
            Changes::Nothing => false,
            Changes::User => self.is_stored(user),
            Changes::Shared => true,
        }
    }

    /// Returns whether a session or an account of a user is stored.
    fn is_stored(&self, user: UserIx) -> bool {
        let me = &self.users[user];
        me.session.is_some() || self.accounts.of(me.id).is_some()
    }

    /// Describes the unsaved changes for the server log; long lists are truncated.
    #[must_use]
    pub fn describe_unsaved(&self) -> String {
        let first = self.unsaved.iter().take(NAMED_MAX);
        let mut names: Vec<String> =
            first.map(|(collection, key)| self.describe_entry(*collection, *key)).collect();
        if self.unsaved.len() > NAMED_MAX {
            names.push(format!("and {} more", self.unsaved.len() - NAMED_MAX));
        }
        names.join(", ")
    }

    fn describe_entry(&self, kind: Collection, key: u64) -> String {
        let user_id = UserId(key);
        match kind {
            Collection::Session => match self.users_by_id.get(&user_id) {
                Some(user) => format!("the session of {}", self.users[*user].name),
                None => "the end of a session".to_owned(),
            },
            Collection::Account => match self.accounts.of(user_id) {
                Some(account) => format!("the account {}", account.name),
                None => "the end of an account".to_owned(),
            },
            Collection::Mail => {
                match self.mail.owner(key).and_then(|owner| self.accounts.of(owner)) {
                    Some(account) => format!("mail for {}", account.name),
                    None => "the delivery of mail".to_owned(),
                }
            }
            Collection::Spans => "memberships of a session".to_owned(),
            Collection::Moderation if key == dormant::SERVER_ID => {
                "the server's bans and operators".to_owned()
            }
            Collection::Moderation => match self.moderated_rooms.get(&key) {
                Some(room) => format!("the moderation of {room}"),
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
    use crate::server::auth::passwords::Outcome;

    fn line(text: &str) -> Input<'_> {
        Input::Frame(Frame::Line(text.into()))
    }

    #[test]
    fn command_that_changes_stored_state_is_refused_without_storage() {
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
            let (flow, reply) = handle(&mut hub, 0, line(text));
            assert_eq!((flow, reply.text.as_str()), (Flow::Store, ""), "{text}");
            hub.set_storage(Storage::Closed);
            let (flow, reply) = handle(&mut hub, 0, line(text));
            assert!(reply.text.starts_with("[ERROR storage-full] "), "{text}: {}", reply.text);
            assert_eq!((flow, hub.has_changes()), (Flow::Next, false), "{text}");
        }
        // Changes to a user without a session or account need no storage.
        for text in ["/away", "/topic", "/join red", "/nick carol", "/ignore", "/set joins on"] {
            let (flow, reply) = handle(&mut hub, 0, line(text));
            assert_eq!(flow, Flow::Next);
            assert!(!reply.text.contains("ERROR"), "{text}: {}", reply.text);
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
            let (_, reply) = handle(&mut hub, 0, line(text));
            assert!(reply.text.starts_with("[ERROR storage-full] "), "{text}: {}", reply.text);
        }
        assert!(!hub.has_changes());
        hub.check_invariants();
    }

    #[test]
    fn hashed_password_is_refused_while_storage_is_closed() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        say(&mut hub, 0, "/register sesame");
        hub.set_storage(Storage::Closed);
        let hash = Outcome::Hashed(Some("a hash".into()));
        let (flow, reply) = handle(&mut hub, 0, Input::Hashed(hash));
        assert!(reply.text.starts_with("[ERROR storage-full] "), "{}", reply.text);
        assert_eq!((flow, hub.has_changes()), (Flow::Next, false));
        hub.set_storage(Storage::Open);
        register(&mut hub, 0);
        assert_eq!(hub.describe_unsaved(), "the account alice");
    }

    #[test]
    fn unsaved_changes_are_listed_by_name() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        for text in ["alice", "/session", "/join ops", "/topic tea"] {
            say(&mut hub, 0, text);
        }
        assert_eq!(hub.describe_unsaved(), "the session of alice, the moderation of #ops");
        hub.handle(
            now(std::time::Duration::ZERO),
            super::super::test_support::conn(0),
            line("/quit"),
            &mut Turn::default(),
        );
        assert!(hub.describe_unsaved().starts_with("the end of a session, "));
    }
}
