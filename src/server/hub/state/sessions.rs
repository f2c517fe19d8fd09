//! Sessions: a user with a session token keeps their name and rooms for `--session-grace` after a
//! lost connection. Only the hash of a token is known here: a reader of the data folder cannot
//! resume any session.

use std::collections::HashMap;
use std::time::Duration;

use super::dirty::Dirty;
use super::dropped_sessions::DroppedSessions;
use crate::server::auth::tokens::TokenHash;
use crate::server::limits::quota::Bounds;
use crate::server::net::peer::Peer;
use crate::server::record::UserId;

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    by_token: HashMap<TokenHash, UserId>,
    dropped: DroppedSessions,
    /// Users whose session began or ended.
    pub(crate) dirty: Dirty<UserId>,
    /// Users who lost their socket, which matters only if sockets are stored.
    pub(crate) lost: Dirty<UserId>,
}

impl Sessions {
    /// A table without sessions, with bounds for those that have lost their socket.
    pub(super) fn new(bounds: Bounds) -> Self {
        let dropped = DroppedSessions::new(bounds);
        Self { by_token: HashMap::new(), dropped, dirty: Dirty::default(), lost: Dirty::default() }
    }

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
    /// With a peer it counts towards the limits.
    pub(super) fn drop(&mut self, until: Duration, user: UserId, peer: Option<Peer>) {
        self.dropped.add(until, user, peer);
        self.lost.mark(user);
    }

    pub(super) fn resume(&mut self, user: UserId) {
        self.dropped.remove(user);
        self.dirty.mark(user);
    }

    /// Marks the users who have lost their sockets.
    pub(crate) fn mark_dropped(&mut self) {
        self.lost.mark_all(self.dropped.users());
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

    /// The user whose session has to end before another one of this peer can be dropped.
    pub(super) fn to_displace(&self, peer: Peer) -> Option<UserId> {
        self.dropped.to_displace(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_valid_until_its_session_ends() {
        let bounds = Bounds { per_address: 1, wider: 1, total: 1 };
        let (mut sessions, token, user) = (Sessions::new(bounds), TokenHash::default(), UserId(1));
        sessions.begin(token, user);
        sessions.drop(Duration::from_secs(1), user, None);
        assert_eq!((sessions.find(token), sessions.ends_at(user).is_some()), (Some(user), true));
        sessions.end(token, user);
        assert_eq!((sessions.find(token), sessions.due()), (None, None));
        assert_eq!((sessions.dirty.take(), sessions.lost.take()), (vec![user], vec![user]));
    }
}
