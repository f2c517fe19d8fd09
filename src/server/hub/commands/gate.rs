//! The gate: what a line needs from outside the hub before it is handled, namely whether
//! changes can be stored, and the hash of a token for a new session.
//!
//! No persistent change is acknowledged unless it can be stored: while storage does not
//! accept writes, commands that make such a change are refused before they have any effect.
//! Changes without a command (a lost connection, a timer) cannot be refused; they stay unsaved
//! until storage accepts writes.

use super::{ConnId, ErrorReason, Refusal, Result, State, UserIx};
use crate::commands::{Changes, Command};
use crate::server::auth::tokens::TokenHash;

/// Whether changes can be stored in the current turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Storage {
    /// Unknown; the caller finds it out before the first change.
    Unknown,
    /// Changes can be stored.
    #[default]
    Open,
    /// Changes cannot be stored.
    Closed,
}

/// What a line needs before it is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server::hub) enum Need {
    Storage,
    Token,
}

/// What the caller has supplied, and what the last line needs.
#[derive(Debug, Default)]
pub(in crate::server::hub) struct Gate {
    pub(in crate::server::hub) storage: Storage,
    /// The hash of a new token, for this socket.
    token: Option<(ConnId, TokenHash)>,
    need: Option<(ConnId, Need)>,
}

/// Returns the refusal of a change that cannot be stored.
#[must_use]
pub fn storage_full() -> Refusal {
    Refusal::new(
        ErrorReason::CannotStore,
        "not done: the server cannot store this now; try again later",
    )
}

/// Returns whether a session or an account of a user is stored.
pub(super) fn is_stored(state: &State, user: UserIx) -> bool {
    state.connection_of(user).session.is_some() || state.is_registered(user)
}

impl Gate {
    /// Checks whether a command may be executed now; `Ok(false)`: not before the caller supplies
    /// what [`Gate::take_need`] returns.
    pub(super) fn admits(
        &mut self,
        state: &State,
        socket: ConnId,
        user: UserIx,
        command: Command<'_>,
    ) -> Result<bool> {
        let changes_stored = match command.changes() {
            Changes::Nothing => false,
            Changes::User => is_stored(state, user),
            Changes::Shared => true,
        };
        let need = match self.storage {
            Storage::Closed if changes_stored => return Err(storage_full()),
            Storage::Unknown if changes_stored => Some(Need::Storage),
            _ if self.needs_token(state, socket, user, command) => Some(Need::Token),
            _ => None,
        };
        self.need = need.map(|need| (socket, need));
        Ok(need.is_none())
    }

    fn needs_token(
        &self,
        state: &State,
        socket: ConnId,
        user: UserIx,
        command: Command<'_>,
    ) -> bool {
        command == Command::Session
            && state.connection_of(user).session.is_none()
            && self.token.is_none_or(|(of, _)| of != socket)
    }

    /// Takes the hash of a new token, unless the user has a session.
    pub(super) fn take_token(&mut self, state: &State, user: UserIx) -> Option<TokenHash> {
        let (_, token) = self.token.take()?;
        state.connection_of(user).session.is_none().then_some(token)
    }

    /// Removes and returns what the last line of a socket needs.
    pub(in crate::server::hub) fn take_need(&mut self, socket: ConnId) -> Option<Need> {
        let (_, need) = self.need.take_if(|(of, _)| *of == socket)?;
        if need == Need::Token {
            self.token = Some((socket, TokenHash::default()));
        }
        Some(need)
    }

    /// Supplies the hash of a new token.
    pub(in crate::server::hub) fn offer_token(&mut self, hash: TokenHash) {
        if let Some((_, token)) = &mut self.token {
            *token = hash;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec::Frame;
    use crate::server::auth::passwords::Outcome;
    use crate::server::hub::test_support::{connect, handle, hub, mark_saved, now, register, say};
    use crate::server::hub::{Flow, Input, Limits};
    use crate::server::turn::Turn;

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
        mark_saved(&mut hub);
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
            crate::server::hub::test_support::conn(0),
            line("/quit"),
            &mut Turn::default(),
        );
        assert!(hub.describe_unsaved().starts_with("the end of a session, "));
    }
}
