//! The lock of a room and its invitations.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::server::record::UserId;

/// The lock of a room and its invitations. A stored form: fields may be added, but not renamed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Lock {
    pub(crate) is_on: bool,
    /// Whether a server operator locked it.
    pub(crate) is_by_server: bool,
    /// The digest of the key, if there is one.
    pub(crate) key: Option<Arc<str>>,
    /// Kept while the room is unlocked, too: it may be locked before the invited users
    /// join.
    pub(crate) invited: Vec<UserId>,
}

impl Lock {
    /// Whether there is nothing to store.
    pub(super) fn is_default(&self) -> bool {
        !self.is_on && self.invited.is_empty()
    }
}
