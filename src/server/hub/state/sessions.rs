//! Sessions: a user with a session token keeps their name and rooms for `--session-grace` after a
//! lost connection. Only the hash of a token is known here: a reader of the data folder cannot
//! resume any session.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::dirty::Dirty;
use super::dropped_sessions::DroppedSessions;
use crate::server::auth::tokens::TokenHash;
use crate::server::record::UserId;

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_token: HashMap<TokenHash, UserId>,
    dropped: DroppedSessions,
    /// Users whose session began or ended.
    pub(crate) dirty: Dirty<UserId>,
}

impl Sessions {
    pub(super) fn begin(&mut self, token: TokenHash, user: UserId) {
        self.by_token.insert(token, user);
        self.dirty.mark(user);
    }

    pub(super) fn end(&mut self, token: TokenHash, user: UserId) {
        self.by_token.remove(&token);
        self.dropped.remove(user);
        self.dirty.mark(user);
    }

    /// Finds the user of a token.
    pub(crate) fn find(&self, token: TokenHash) -> Option<UserId> {
        self.by_token.get(&token).copied()
    }

    /// Notes that a session has lost its socket and ends at this time unless it resumes.
    /// Sessions of a network count towards its limit.
    pub(super) fn drop(&mut self, until: Duration, user: UserId, network: Option<IpAddr>) {
        self.dropped.add(until, user, network);
        self.dirty.mark(user);
    }

    pub(super) fn resume(&mut self, user: UserId) {
        self.dropped.remove(user);
        self.dirty.mark(user);
    }

    /// Marks the users who have lost their sockets.
    pub(crate) fn mark_dropped(&mut self) {
        self.dirty.mark_all(self.dropped.users());
    }

    /// When the session of a user ends who has lost the socket.
    pub(crate) fn ends_at(&self, user: UserId) -> Option<Duration> {
        self.dropped.until(user)
    }

    /// When the next session ends.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.dropped.due()
    }

    /// Removes and returns the next session that has ended.
    pub(crate) fn next_expired(&mut self, now: Duration) -> Option<UserId> {
        self.dropped.next(now)
    }

    /// The dropped session of a network that ends first, if the network has more than `most`.
    pub(crate) fn oldest_over_limit(&self, network: IpAddr, most: usize) -> Option<UserId> {
        self.dropped.oldest_over_limit(network, most)
    }
}
