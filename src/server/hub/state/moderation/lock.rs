//! The lock of a room and its invitations.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::server::record::UserId;

/// The lock of a room and its invitations. A stored form: fields may be added, but not renamed.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lock {
    is_on: bool,
    /// Whether a server operator locked it.
    is_by_server: bool,
    /// The digest of the key.
    key: Option<Arc<str>>,
    /// Kept while the room is unlocked, too: it may be locked before the invited users
    /// join.
    invited: Vec<UserId>,
}

impl Lock {
    /// Whether there is nothing to store.
    pub(super) fn is_default(&self) -> bool {
        !self.is_on && self.invited.is_empty()
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(super) fn is_by_server(&self) -> bool {
        self.is_by_server
    }

    /// The digest of the key, if there is one.
    pub(crate) fn key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    pub(crate) fn is_invited(&self, person: UserId) -> bool {
        self.invited.contains(&person)
    }

    pub(super) fn invited_mut(&mut self) -> &mut Vec<UserId> {
        &mut self.invited
    }

    pub(super) fn close(&mut self, key: Option<&str>, is_by_server: bool) {
        self.is_on = true;
        self.is_by_server = is_by_server;
        self.key = key.map(Into::into);
    }
}
