//! Who may not come into a room, or onto the server. A ban is of a person or of
//! a network. A guest who is banned would only have to come anew, so whoever
//! comes from their network later is kept out too, and so is a guest by their
//! name. Who was here or registered before is not: they can but share a router.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::order::{Order, Scope, Until, make_room};
use super::{
    Ask, ErrorCode, Event, Farewell, Hub, Key, Name, Now, PersonId, Refusal, RoomIx, Topic, Visit,
    VisitIx, no_such_user, refusal, say_farewell,
};
use crate::protocol::name::is_name;
use crate::server::peer::{Network, Peer};

/// One ban.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ban {
    whom: Banned,
    by: Name,
    until: Until,
    reason: Option<Box<str>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Banned {
    Person {
        person: PersonId,
        /// As it was then.
        name: Name,
        is_guest: bool,
        /// Where the person came from, if as a guest and not from this machine.
        network: Option<IpAddr>,
        /// Who had come last by then.
        last: PersonId,
    },
    Network(Network),
}

/// Who wants to come in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comer<'a> {
    person: PersonId,
    name: &'a Key,
    is_guest: bool,
    peer: Option<Peer>,
    /// Where they come from does not count for an operator.
    is_operator: bool,
    /// An operator of the server, at the door of a room.
    is_above: bool,
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

    fn is_of(&self, comer: Comer<'_>) -> bool {
        let peer = comer.peer.filter(|_| !comer.is_operator);
        match self {
            // Of an operator of the server only the server can be rid.
            _ if comer.is_above => false,
            Self::Person { person, .. } if *person == comer.person => true,
            Self::Person { name, is_guest, network, last, .. } => {
                let is_new_guest = *is_guest && comer.is_guest && comer.person > *last;
                let is_neighbour = network.is_some() && *network == peer.map(Peer::network);
                let is_namesake = is_new_guest && name.key() == comer.name;
                is_namesake || (comer.person > *last && is_neighbour)
            }
            Self::Network(network) => peer.is_some_and(|peer| network.contains(peer)),
        }
    }
}

impl Ban {
    /// Whether it holds, and is of a guest of this name.
    fn is_of_guest(&self, now: Now, key: &Key) -> bool {
        match &self.whom {
            Banned::Person { name, is_guest, .. } => {
                *is_guest && name.key() == key && !self.until.is_over(now)
            }
            Banned::Network(_) => false,
        }
    }

    pub(super) fn until_mut(&mut self) -> &mut Until {
        &mut self.until
    }

    /// Until when, and why.
    fn tell(&self, endless: &str) -> String {
        let until = self.until.tell(endless);
        match &self.reason {
            Some(reason) => format!("{until}: {reason}"),
            None => until,
        }
    }
}

impl Order {
    /// Whether a ban is of this very person; without a time, also if it may be over.
    pub(super) fn bans_person(&self, now: Option<Now>, person: PersonId) -> bool {
        self.bans.iter().any(|ban| match ban.whom {
            Banned::Person { person: banned, .. } => {
                banned == person && now.is_none_or(|now| !ban.until.is_over(now))
            }
            Banned::Network(_) => false,
        })
    }

    /// The ban that keeps somebody out now.
    fn ban_on(&self, now: Now, comer: Comer<'_>) -> Option<&Ban> {
        let holds = |ban: &&Ban| !ban.until.is_over(now) && ban.whom.is_of(comer);
        self.bans.iter().find(holds)
    }
}

impl Hub {
    /// `/ban` and `/gban`: whoever is meant and present is put out.
    pub(super) fn ban(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        scope: Scope,
        (whom, time, reason): (&str, Option<Duration>, Option<&str>),
    ) -> Result<(), Refusal> {
        let whom = self.whom_to_ban(visit, whom)?;
        self.forget_past(ask.now, scope);
        let by = self.visits[visit].name.clone();
        let (shown, unban) = (self.scope_name(scope), scope.unban());
        let most = match scope {
            Scope::Room(_) => self.limits.max_bans,
            Scope::Server => self.limits.max_server_bans,
        };
        let order = self.order_mut(scope);
        if !make_room(&mut order.bans, most, |ban| !ban.whom.is_same(&whom)) {
            let text = format!("there are {most} bans; {unban} somebody first");
            return refusal(ErrorCode::TooMany, text);
        }
        let until = Until::after(ask.now, time);
        let ban = Ban { whom, by, until, reason: reason.map(Into::into) };
        let text = ban.tell(&format!("until you {unban} them"));
        ask.reply(&Event::reply("BANNED", &format!("{shown} {}", ban.whom.shown()), &text));
        order.bans.push(ban.clone());
        self.note_order_unsaved(scope);
        match scope {
            Scope::Room(room) => {
                let present = self.rooms[room].members().map(|(_, other)| other);
                let meant = self.meant(visit, scope, &ban, present);
                self.put_out(ask, room, &ban, &meant);
                self.ensure_operator(ask.now, room, ask.turn);
            }
            Scope::Server => {
                let present = self.visits.iter().map(|(other, _)| other);
                let meant = self.meant(visit, scope, &ban, present);
                self.put_off(ask, &ban, meant);
                self.ensure_operators(ask.now, ask.turn);
            }
        }
        Ok(())
    }

    /// Whom a ban is of is taken out of the room.
    fn put_out(&mut self, ask: &mut Ask<'_>, room: RoomIx, ban: &Ban, meant: &[VisitIx]) {
        // All are out before the first is told of: one list of readers serves all.
        let (by, reason) = (ban.by.clone(), ban.reason.as_deref());
        let shown = self.rooms[room].name.clone();
        let names: Vec<Name> = meant.iter().map(|v| self.visits[*v].name.clone()).collect();
        for other in meant {
            self.throw_out(ask, &by, room, *other, reason);
        }
        if !self.rooms.contains(room) {
            return; // they were the last
        }
        for name in &names {
            let (name, by) = (name.as_str(), by.as_str());
            let event = Event::Kicked { room: shown.as_str(), name, by, reason };
            self.announce(ask.now, &[room], Topic::Talk, None, &event, ask.turn);
        }
    }

    /// Who comes back may do so from where they may not be in some rooms.
    pub(super) fn put_out_of_banned_rooms(&mut self, ask: &mut Ask<'_>, visit: VisitIx) {
        for room in self.visits[visit].rooms.clone() {
            let comer = self.comer(visit, Scope::Room(room));
            let Some(ban) = self.rooms[room].order.ban_on(ask.now, comer).cloned() else {
                continue;
            };
            self.put_out(ask, room, &ban, &[visit]);
        }
    }

    /// Whom a ban is of leaves the server.
    fn put_off(&mut self, ask: &mut Ask<'_>, ban: &Ban, meant: Vec<VisitIx>) {
        let farewell = banned_from_server(ban);
        let why = ban.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let quit = format!("banned by {}{why}", ban.by);
        for other in meant {
            self.expel(ask, other, Farewell::Banned, &farewell, &quit);
        }
    }

    /// Whom of these a ban is of; never whoever says it.
    fn meant(
        &self,
        by: VisitIx,
        scope: Scope,
        ban: &Ban,
        present: impl Iterator<Item = VisitIx>,
    ) -> Vec<VisitIx> {
        present.filter(|other| *other != by && ban.whom.is_of(self.comer(*other, scope))).collect()
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
        // Who dropped is known by where they were last.
        let peer = self.people.get(&person).and_then(|visit| self.visits[*visit].peer);
        let network = peer.filter(|peer| is_guest && !peer.is_local()).map(Peer::network);
        let last = PersonId(self.last.person);
        Ok(Banned::Person { person, name, is_guest, network, last })
    }

    /// `/unban` and `/gunban`, by the name of now or of then, or by the network.
    pub(super) fn unban(
        &mut self,
        ask: &mut Ask<'_>,
        scope: Scope,
        whom: &str,
    ) -> Result<(), Refusal> {
        let meant = self.person_named(whom).map(|(person, _)| person);
        let (key, network) = (Key::fold(whom), Network::parse(whom).ok());
        let is_meant = |ban: &mut Ban| match &ban.whom {
            Banned::Person { person, name, .. } => Some(*person) == meant || *name.key() == key,
            Banned::Network(banned) => Some(*banned) == network,
        };
        let shown = self.scope_name(scope);
        let Some(ban) = self.order_mut(scope).bans.extract_if(.., is_meant).last() else {
            let list = scope.bans();
            let text = format!("there is no ban of {whom}; {list} lists them");
            return refusal(ErrorCode::NoSuchUser, text);
        };
        self.note_order_unsaved(scope);
        ask.reply(&Event::reply("UNBANNED", &format!("{shown} {}", ban.whom.shown()), ""));
        Ok(())
    }

    /// All bans, each with why and until when.
    pub(super) fn list_bans(&mut self, ask: &mut Ask<'_>, scope: Scope) {
        self.forget_past(ask.now, scope);
        let (shown, bans) = (self.scope_name(scope), &self.order(scope).bans);
        ask.reply(&Event::reply("BANS", &format!("{shown} {}", bans.len()), ""));
        for ban in bans {
            let args = format!("{shown} {}", ban.whom.shown());
            let text = format!("by {} {}", ban.by, ban.tell("for good"));
            ask.reply(&Event::reply("BAN", &args, &text));
        }
    }

    /// Whether somebody is not banned from a room.
    pub(super) fn need_no_ban(
        &self,
        now: Now,
        visit: VisitIx,
        room: RoomIx,
    ) -> Result<(), Refusal> {
        let scope = Scope::Room(room);
        let Some(ban) = self.order(scope).ban_on(now, self.comer(visit, scope)) else {
            return Ok(());
        };
        let text =
            format!("you are banned from {} {}", self.rooms[room].name, ban.tell("for good"));
        refusal(ErrorCode::Forbidden, text)
    }

    /// Says farewell to whoever wants to log in, or to come back, as somebody who
    /// is banned from the server; tells whether they are.
    pub(super) fn turn_away(&mut self, ask: &mut Ask<'_>, person: PersonId, name: &Name) -> bool {
        let comer = Comer {
            person,
            name: name.key(),
            is_guest: self.accounts.of(person).is_none(),
            peer: self.connection(ask.conn).map(|connection| connection.peer),
            is_operator: self.rules_server(person),
            is_above: false,
        };
        let Some(ban) = self.server_order.ban_on(ask.now, comer) else { return false };
        let farewell = banned_from_server(ban);
        self.part_with(ask.conn);
        say_farewell(ask.turn, ask.conn, Farewell::Banned, Some(&farewell));
        true
    }

    /// Whether somebody may take this name: nobody is to pass for a banned guest, but
    /// who has the name already.
    pub(super) fn need_unbanned_name(
        &self,
        now: Now,
        visit: VisitIx,
        name: &Name,
    ) -> Result<(), Refusal> {
        let Visit { person, name: old, .. } = &self.visits[visit];
        let owner = self.accounts.named(name.key()).map(|account| account.person);
        let is_mine = old.key() == name.key() || owner == Some(*person);
        let bans = &self.server_order.bans;
        if !is_mine && bans.iter().any(|ban| ban.is_of_guest(now, name.key())) {
            return refusal(ErrorCode::NameTaken, format!("{name} is banned; choose another name"));
        }
        Ok(())
    }

    fn comer(&self, visit: VisitIx, scope: Scope) -> Comer<'_> {
        let (person, name) = (self.visits[visit].person, self.visits[visit].name.key());
        Comer {
            person,
            name,
            is_guest: self.accounts.of(person).is_none(),
            // The last known address of a user whose session has dropped counts as well.
            peer: self.visits[visit].peer,
            is_operator: self.order(scope).is_operator(person),
            is_above: scope != Scope::Server && self.rules_server(person),
        }
    }

    /// Whether a ban can still keep somebody out.
    pub(super) fn can_match(&self, now: Now, ban: &Ban) -> bool {
        let is_about_somebody = match ban.whom {
            Banned::Person { person, is_guest, .. } => is_guest || self.lasts(person),
            Banned::Network(_) => true,
        };
        is_about_somebody && !ban.until.is_over(now)
    }
}

fn banned_from_server(ban: &Ban) -> String {
    format!("you are banned from this server {}", ban.tell("for good"))
}
