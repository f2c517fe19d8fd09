//! Bans of users and networks.
//!
//! A banned guest could log in again as a new guest, so the ban of a guest also matches
//! users who first logged in later from the same network, and later guests of the same
//! name. It does not match users who were online or registered before the ban; they may
//! share a router with the guest.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Moderation;
use super::expiry::Expiry;
use crate::protocol::reply::Term;
use crate::protocol::{Key, Name};
use crate::server::clock::Now;
use crate::server::net::peer::{Network, Peer};
use crate::server::record::UserId;

/// A ban from a room or from the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ban {
    pub(crate) whom: Banned,
    pub(crate) by: Name,
    pub(crate) until: Expiry,
    pub(crate) reason: Option<Box<str>>,
}

/// The target of a ban.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Banned {
    Person {
        person: UserId,
        /// The name at the time of the ban.
        name: Name,
        is_guest: bool,
        /// The network of a guest; `None` for accounts and local connections.
        network: Option<IpAddr>,
        /// The last user id assigned before the ban.
        last: UserId,
    },
    Network(Network),
}

/// A user as seen by a ban check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BanSubject<'a> {
    pub(crate) person: UserId,
    pub(crate) name: &'a Key,
    pub(crate) is_guest: bool,
    pub(crate) peer: Option<Peer>,
    /// Network bans do not apply to operators.
    pub(crate) is_operator: bool,
    /// Room bans do not apply to server operators.
    pub(crate) is_exempt: bool,
}

impl Banned {
    /// The text that `/bans` lists and `/unban` accepts.
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Person { name, .. } => name.to_string(),
            Self::Network(network) => network.to_string(),
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Person { person, .. }, Self::Person { person: other, .. }) => person == other,
            (Self::Network(network), Self::Network(other)) => network == other,
            _ => false,
        }
    }

    pub(crate) fn matches(&self, subject: BanSubject<'_>) -> bool {
        let peer = subject.peer.filter(|_| !subject.is_operator);
        match self {
            _ if subject.is_exempt => false,
            Self::Person { person, .. } if *person == subject.person => true,
            Self::Person { name, is_guest, network, last, .. } => {
                let is_newer = subject.person > *last;
                let is_same_network = network.is_some() && *network == peer.map(Peer::network);
                let is_same_name =
                    *is_guest && subject.is_guest && is_newer && name.key() == subject.name;
                is_same_name || (is_newer && is_same_network)
            }
            Self::Network(network) => peer.is_some_and(|peer| network.contains(peer)),
        }
    }

    /// Whether the target can still log in.
    pub(super) fn can_match(&self, can_return: &impl Fn(UserId) -> bool) -> bool {
        match self {
            Self::Person { person, is_guest, .. } => *is_guest || can_return(*person),
            Self::Network(_) => true,
        }
    }
}

impl Ban {
    /// Whether this is an unexpired ban of a guest with this name.
    pub(crate) fn reserves_name(&self, now: Now, key: &Key) -> bool {
        match &self.whom {
            Banned::Person { name, is_guest, .. } => {
                *is_guest && name.key() == key && !self.until.is_over(now)
            }
            Banned::Network(_) => false,
        }
    }

    pub(crate) fn term(&self) -> Term<'_> {
        Term { until: self.until.until(), reason: self.reason.as_deref() }
    }
}

impl Moderation {
    /// Whether an unexpired ban names this user.
    pub(crate) fn bans_person(&self, now: Now, person: UserId) -> bool {
        self.bans.iter().any(|ban| match ban.whom {
            Banned::Person { person: banned, .. } => banned == person && !ban.until.is_over(now),
            Banned::Network(_) => false,
        })
    }

    /// The first unexpired ban that matches a user.
    pub(crate) fn ban_on(&self, now: Now, subject: BanSubject<'_>) -> Option<&Ban> {
        let applies = |ban: &&Ban| !ban.until.is_over(now) && ban.whom.matches(subject);
        self.bans.iter().find(applies)
    }
}
