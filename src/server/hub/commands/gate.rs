//! What a line may need from outside before it is handled: the knowledge whether changes can be
//! stored, and a token for a new session. No persistent change is acknowledged unless it
//! can be stored: while storage does not accept writes, commands that make such a change
//! are refused before they have any effect. Changes without a command (a lost connection, a
//! timer) cannot be refused; they are kept until they are stored.

use crate::commands::{Changes, Command};
use crate::protocol::{ErrorCode, Refusal};
use crate::server::auth::tokens::TokenHash;
use crate::server::hub::state::State;
use crate::server::hub::state::users::UserIx;
use crate::server::net::ConnId;

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
        ErrorCode::StorageFull,
        "not done: the server cannot store this now; try again later",
    )
}

/// Returns whether a session or an account of a user is stored.
pub(super) fn is_stored(state: &State, user: UserIx) -> bool {
    state.connection_of(user).session().is_some() || state.is_registered(user)
}

impl Gate {
    /// Checks whether a command may be executed now; `Ok(false)`: not before something is
    /// supplied.
    pub(super) fn admits(
        &mut self,
        state: &State,
        socket: ConnId,
        user: UserIx,
        command: Command<'_>,
    ) -> Result<bool, Refusal> {
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
            && state.connection_of(user).session().is_none()
            && self.token.is_none_or(|(of, _)| of != socket)
    }

    /// Takes the token that was offered for a session.
    pub(super) fn take_token(&mut self, state: &State, user: UserIx) -> Option<TokenHash> {
        let (_, token) = self.token.take()?;
        state.connection_of(user).session().is_none().then_some(token)
    }

    /// Takes what the last line of a socket needs.
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
