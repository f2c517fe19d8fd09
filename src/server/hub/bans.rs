//! Who may not come into a room. A ban is of a person or of a network. A guest
//! who is banned would only have to come anew, so whoever comes from their
//! network later is kept out too. Who was here or registered before is not:
//! they can but share a router.

use std::net::IpAddr;
use std::time::Duration;

use super::order::Until;
use super::{
    Ask, ErrorCode, Event, Hub, Key, Name, Now, PersonId, Refusal, Room, RoomIx, Topic, VisitIx,
    no_such_user, refusal,
};
use crate::protocol::name::is_name;
use crate::server::peer::{Network, Peer};

/// How many bans a room may have.
const BANS_MAX: usize = 1000;

/// One ban.
#[derive(Debug)]
pub(super) struct Ban {
    whom: Banned,
    by: Name,
    until: Until,
    reason: Option<Box<str>>,
}

#[derive(Debug)]
enum Banned {
    Person {
        person: PersonId,
        /// As it was then.
        name: Name,
        /// Where the person came from, if as a guest and not from this machine.
        network: Option<IpAddr>,
        /// Who had come last by then.
        last: PersonId,
    },
    Network(Network),
}

impl Banned {
    /// As `/unban` takes it.
    fn shown(&self) -> String {
        match self {
            Self::Person { name, .. } => name.to_string(),
            Self::Network(network) => network.to_string(),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Person { person, .. }, Self::Person { person: other, .. }) => person == other,
            (Self::Network(network), Self::Network(other)) => network == other,
            _ => false,
        }
    }
}

impl Ban {
    /// Until when, and why.
    fn tell(&self, now: Now, endless: &str) -> String {
        let until = self.until.tell(now, endless);
        match &self.reason {
            Some(reason) => format!("{until}: {reason}"),
            None => until,
        }
    }
}

impl Hub {
    /// `/ban`: whoever is meant and present is put out.
    pub(super) fn ban(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        whom: &str,
        time: Option<Duration>,
        reason: Option<&str>,
    ) -> Result<(), Refusal> {
        let room = self.room_to_order(visit)?;
        let whom = self.whom_to_ban(visit, whom)?;
        self.forget_past(ask.now, room);
        let by = self.visits[visit].name.clone();
        let Room { name: shown, order, .. } = &mut self.rooms[room];
        order.bans.retain(|ban| !ban.whom.is_same(&whom));
        if order.bans.len() >= BANS_MAX {
            let text = format!("there are {BANS_MAX} bans; /unban somebody first");
            return refusal(ErrorCode::TooMany, text);
        }
        let until = Until::after(ask.now, time);
        let ban = Ban { whom, by, until, reason: reason.map(Into::into) };
        let args = format!("{shown} {}", ban.whom.shown());
        ask.reply(&Event::reply("BANNED", &args, &ban.tell(ask.now, "until you /unban them")));
        let present: Vec<VisitIx> = self.rooms[room].members().map(|(_, visit)| visit).collect();
        let meant = |other: &VisitIx| *other != visit && self.is_meant(&ban, room, *other);
        let meant: Vec<VisitIx> = present.into_iter().filter(meant).collect();
        self.rooms[room].order.bans.push(ban);
        // All are out before the first is told of: one list of readers serves all.
        for other in &meant {
            self.throw_out(ask, visit, room, *other, reason);
        }
        let (shown, by) = (self.rooms[room].name.clone(), self.visits[visit].name.clone());
        for other in meant {
            let (room_name, by) = (shown.as_str(), by.as_str());
            let name = self.visits[other].name.clone();
            let event = Event::Kicked { room: room_name, name: name.as_str(), by, reason };
            let audience = self.audience(room);
            self.announce(ask.now, audience, Topic::Talk, None, &event, ask.turn);
        }
        Ok(())
    }

    /// What can be a name is one; an address never is.
    fn whom_to_ban(&self, visit: VisitIx, whom: &str) -> Result<Banned, Refusal> {
        if !is_name(whom) {
            let network = Network::parse(whom);
            return network
                .map(Banned::Network)
                .map_err(|problem| Refusal::new(ErrorCode::BadArgument, problem));
        }
        let Some((person, name)) = self.person_named(whom) else { return no_such_user(whom) };
        if person == self.visits[visit].person {
            return refusal(ErrorCode::BadArgument, "that is you; ban somebody else");
        }
        let is_guest = self.accounts.of(person).is_none();
        let peer = self.people.get(&person).and_then(|visit| self.peer_of(*visit));
        let network = peer.filter(|peer| is_guest && !peer.is_private()).map(Peer::network);
        Ok(Banned::Person { person, name, network, last: PersonId(self.last.person) })
    }

    /// `/unban`, by the name of now or of then, or by the network.
    pub(super) fn unban(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        whom: &str,
    ) -> Result<(), Refusal> {
        let room = self.room_to_order(visit)?;
        let meant = self.person_named(whom).map(|(person, _)| person);
        let (key, network) = (Key::fold(whom), Network::parse(whom).ok());
        let is_meant = |ban: &mut Ban| match &ban.whom {
            Banned::Person { person, name, .. } => Some(*person) == meant || *name.key() == key,
            Banned::Network(banned) => Some(*banned) == network,
        };
        let Room { name: shown, order, .. } = &mut self.rooms[room];
        let Some(ban) = order.bans.extract_if(.., is_meant).last() else {
            let text = format!("there is no ban of {whom} in {shown}; /bans lists them");
            return refusal(ErrorCode::NoSuchUser, text);
        };
        ask.reply(&Event::reply("UNBANNED", &format!("{shown} {}", ban.whom.shown()), ""));
        Ok(())
    }

    /// `/bans`.
    pub(super) fn list_bans(&mut self, ask: &mut Ask<'_>, visit: VisitIx) -> Result<(), Refusal> {
        let room = self.room_to_order(visit)?;
        self.forget_past(ask.now, room);
        let Room { name: shown, order, .. } = &self.rooms[room];
        ask.reply(&Event::reply("BANS", &format!("{shown} {}", order.bans.len()), ""));
        for ban in &order.bans {
            let args = format!("{shown} {}", ban.whom.shown());
            let text = format!("by {} {}", ban.by, ban.tell(ask.now, "for good"));
            ask.reply(&Event::reply("BAN", &args, &text));
        }
        Ok(())
    }

    /// Whether somebody is not banned.
    pub(super) fn need_no_ban(
        &self,
        now: Now,
        visit: VisitIx,
        room: RoomIx,
    ) -> Result<(), Refusal> {
        let Room { name, order, .. } = &self.rooms[room];
        let holds = |ban: &&Ban| !ban.until.is_over(now) && self.is_meant(ban, room, visit);
        match order.bans.iter().find(holds) {
            Some(ban) => {
                let text = ban.tell(now, "for good");
                refusal(ErrorCode::Forbidden, format!("you are banned from {name} {text}"))
            }
            None => Ok(()),
        }
    }

    /// Whether a ban is of this person. Where they come from does not count for
    /// an operator.
    fn is_meant(&self, ban: &Ban, room: RoomIx, visit: VisitIx) -> bool {
        let me = self.visits[visit].person;
        let is_operator = self.rooms[room].order.is_operator(me);
        let peer = self.peer_of(visit).filter(|_| !is_operator);
        match ban.whom {
            Banned::Person { person, .. } if person == me => true,
            Banned::Person { network, last, .. } => {
                me > last && network.is_some() && network == peer.map(Peer::network)
            }
            Banned::Network(network) => peer.is_some_and(|peer| network.contains(peer)),
        }
    }

    /// Whether a ban can still keep somebody out.
    pub(super) fn can_match(&self, now: Now, ban: &Ban) -> bool {
        let is_about_somebody = match ban.whom {
            Banned::Person { person, network, .. } => network.is_some() || self.lasts(person),
            Banned::Network(_) => true,
        };
        is_about_somebody && !ban.until.is_over(now)
    }

    /// Where somebody comes from, while they are connected.
    fn peer_of(&self, visit: VisitIx) -> Option<Peer> {
        let conn = self.visits[visit].conn?;
        self.connection(conn).map(|connection| connection.peer)
    }
}
