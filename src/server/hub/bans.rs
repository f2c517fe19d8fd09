//! Who may not come into a room, or onto the server. A ban is of a person or of
//! a network. A guest who is banned would only have to come anew, so whoever
//! comes from their network later is kept out too, and so is a guest by their
//! name. Who was here or registered before is not: they can but share a router.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::moderation::{Expiry, Moderation, Scope, reserve_entry};
use super::{
    Context, ErrorCode, Event, Farewell, Hub, Key, Name, Now, Refusal, RoomIx, Topic, User, UserId,
    UserIx, no_such_user, refusal, send_farewell,
};
use crate::protocol::name::is_name;
use crate::server::peer::{Network, Peer};

/// One ban.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ban {
    whom: Banned,
    by: Name,
    until: Expiry,
    reason: Option<Box<str>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Banned {
    Person {
        person: UserId,
        /// As it was then.
        name: Name,
        is_guest: bool,
        /// Where the person came from, if as a guest and not from this machine.
        network: Option<IpAddr>,
        /// Who had come last by then.
        last: UserId,
    },
    Network(Network),
}

/// Who wants to come in.
#[derive(Debug, Clone, Copy)]
pub(super) struct BanSubject<'a> {
    person: UserId,
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

    fn is_of(&self, comer: BanSubject<'_>) -> bool {
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

    pub(super) fn until_mut(&mut self) -> &mut Expiry {
        &mut self.until
    }

    /// Until when, and why.
    fn describe(&self, endless: &str) -> String {
        let until = self.until.describe(endless);
        match &self.reason {
            Some(reason) => format!("{until}: {reason}"),
            None => until,
        }
    }
}

impl Moderation {
    /// Whether a ban is of this very person; without a time, also if it may be over.
    pub(super) fn bans_person(&self, now: Option<Now>, person: UserId) -> bool {
        self.bans.iter().any(|ban| match ban.whom {
            Banned::Person { person: banned, .. } => {
                banned == person && now.is_none_or(|now| !ban.until.is_over(now))
            }
            Banned::Network(_) => false,
        })
    }

    /// The ban that keeps somebody out now.
    fn ban_on(&self, now: Now, comer: BanSubject<'_>) -> Option<&Ban> {
        let holds = |ban: &&Ban| !ban.until.is_over(now) && ban.whom.is_of(comer);
        self.bans.iter().find(holds)
    }
}

impl Hub {
    /// `/ban` and `/gban`: whoever is meant and present is put out.
    pub(super) fn ban(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        scope: Scope,
        (whom, time, reason): (&str, Option<Duration>, Option<&str>),
    ) -> Result<(), Refusal> {
        let whom = self.ban_target(user, whom)?;
        self.drop_expired(ctx.now, scope);
        let by = self.users[user].name.clone();
        let (shown, unban) = (self.scope_name(scope), scope.unban());
        let most = match scope {
            Scope::Room(_) => self.limits.max_bans,
            Scope::Server => self.limits.max_server_bans,
        };
        let order = self.moderation_mut(scope);
        if !reserve_entry(&mut order.bans, most, |ban| !ban.whom.is_same(&whom)) {
            let text = format!("there are {most} bans; {unban} somebody first");
            return refusal(ErrorCode::TooMany, text);
        }
        let until = Expiry::after(ctx.now, time);
        let ban = Ban { whom, by, until, reason: reason.map(Into::into) };
        let text = ban.describe(&format!("until you {unban} them"));
        ctx.reply(&Event::reply("BANNED", &format!("{shown} {}", ban.whom.shown()), &text));
        order.bans.push(ban.clone());
        self.mark_moderation_unsaved(scope);
        match scope {
            Scope::Room(room) => {
                let present = self.rooms[room].members().map(|(_, other)| other);
                let meant = self.users_matching(user, scope, &ban, present);
                self.remove_banned(ctx, room, &ban, &meant);
                self.ensure_operator(ctx.now, room, ctx.turn);
            }
            Scope::Server => {
                let present = self.users.iter().map(|(other, _)| other);
                let meant = self.users_matching(user, scope, &ban, present);
                self.disconnect_banned(ctx, &ban, meant);
                self.ensure_operators(ctx.now, ctx.turn);
            }
        }
        Ok(())
    }

    /// Whom a ban is of is taken out of the room.
    fn remove_banned(&mut self, ctx: &mut Context<'_>, room: RoomIx, ban: &Ban, meant: &[UserIx]) {
        // All are out before the first is told of: one list of readers serves all.
        let (by, reason) = (ban.by.clone(), ban.reason.as_deref());
        let shown = self.rooms[room].name.clone();
        let names: Vec<Name> = meant.iter().map(|v| self.users[*v].name.clone()).collect();
        for other in meant {
            self.kick_member(ctx, &by, room, *other, reason);
        }
        if !self.rooms.contains(room) {
            return; // they were the last
        }
        for name in &names {
            let (name, by) = (name.as_str(), by.as_str());
            let event = Event::Kicked { room: shown.as_str(), name, by, reason };
            self.announce(ctx.now, &[room], Topic::Talk, None, &event, ctx.turn);
        }
    }

    /// Who comes back may do so from where they may not be in some rooms.
    pub(super) fn leave_banned_rooms(&mut self, ctx: &mut Context<'_>, user: UserIx) {
        for room in self.users[user].rooms.clone() {
            let comer = self.ban_subject(user, Scope::Room(room));
            let Some(ban) = self.rooms[room].moderation.ban_on(ctx.now, comer).cloned() else {
                continue;
            };
            self.remove_banned(ctx, room, &ban, &[user]);
        }
    }

    /// Whom a ban is of leaves the server.
    fn disconnect_banned(&mut self, ctx: &mut Context<'_>, ban: &Ban, meant: Vec<UserIx>) {
        let farewell = banned_from_server(ban);
        let why = ban.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let quit = format!("banned by {}{why}", ban.by);
        for other in meant {
            self.disconnect_user(ctx, other, Farewell::Banned, &farewell, &quit);
        }
    }

    /// Whom of these a ban is of; never whoever says it.
    fn users_matching(
        &self,
        by: UserIx,
        scope: Scope,
        ban: &Ban,
        present: impl Iterator<Item = UserIx>,
    ) -> Vec<UserIx> {
        present
            .filter(|other| *other != by && ban.whom.is_of(self.ban_subject(*other, scope)))
            .collect()
    }

    /// What can be a name is one; an address never is.
    fn ban_target(&self, user: UserIx, whom: &str) -> Result<Banned, Refusal> {
        if !is_name(whom) {
            let network = Network::parse(whom);
            return network
                .map(Banned::Network)
                .map_err(|problem| Refusal::new(ErrorCode::BadArgument, problem));
        }
        let Some((person, name)) = self.known_user_named(whom) else { return no_such_user(whom) };
        if person == self.users[user].id {
            return refusal(ErrorCode::BadArgument, "that is you; ban somebody else");
        }
        let is_guest = self.accounts.of(person).is_none();
        // Who dropped is known by where they were last.
        let peer = self.users_by_id.get(&person).and_then(|user| self.users[*user].peer);
        let network = peer.filter(|peer| is_guest && !peer.is_local()).map(Peer::network);
        let last = UserId(self.last_ids.person);
        Ok(Banned::Person { person, name, is_guest, network, last })
    }

    /// `/unban` and `/gunban`, by the name of now or of then, or by the network.
    pub(super) fn unban(
        &mut self,
        ctx: &mut Context<'_>,
        scope: Scope,
        whom: &str,
    ) -> Result<(), Refusal> {
        let meant = self.known_user_named(whom).map(|(person, _)| person);
        let (key, network) = (Key::fold(whom), Network::parse(whom).ok());
        let is_meant = |ban: &mut Ban| match &ban.whom {
            Banned::Person { person, name, .. } => Some(*person) == meant || *name.key() == key,
            Banned::Network(banned) => Some(*banned) == network,
        };
        let shown = self.scope_name(scope);
        let Some(ban) = self.moderation_mut(scope).bans.extract_if(.., is_meant).last() else {
            let list = scope.bans();
            let text = format!("there is no ban of {whom}; {list} lists them");
            return refusal(ErrorCode::NoSuchUser, text);
        };
        self.mark_moderation_unsaved(scope);
        ctx.reply(&Event::reply("UNBANNED", &format!("{shown} {}", ban.whom.shown()), ""));
        Ok(())
    }

    /// All bans, each with why and until when.
    pub(super) fn list_bans(&mut self, ctx: &mut Context<'_>, scope: Scope) {
        self.drop_expired(ctx.now, scope);
        let (shown, bans) = (self.scope_name(scope), &self.moderation(scope).bans);
        ctx.reply(&Event::reply("BANS", &format!("{shown} {}", bans.len()), ""));
        for ban in bans {
            let args = format!("{shown} {}", ban.whom.shown());
            let text = format!("by {} {}", ban.by, ban.describe("for good"));
            ctx.reply(&Event::reply("BAN", &args, &text));
        }
    }

    /// Whether somebody is not banned from a room.
    pub(super) fn require_not_banned(
        &self,
        now: Now,
        user: UserIx,
        room: RoomIx,
    ) -> Result<(), Refusal> {
        let scope = Scope::Room(room);
        let Some(ban) = self.moderation(scope).ban_on(now, self.ban_subject(user, scope)) else {
            return Ok(());
        };
        let text =
            format!("you are banned from {} {}", self.rooms[room].name, ban.describe("for good"));
        refusal(ErrorCode::Forbidden, text)
    }

    /// Says farewell to whoever wants to log in, or to come back, as somebody who
    /// is banned from the server; tells whether they are.
    pub(super) fn reject_banned(
        &mut self,
        ctx: &mut Context<'_>,
        person: UserId,
        name: &Name,
    ) -> bool {
        let comer = BanSubject {
            person,
            name: name.key(),
            is_guest: self.accounts.of(person).is_none(),
            peer: self.connection(ctx.conn).map(|connection| connection.peer),
            is_operator: self.is_server_operator(person),
            is_above: false,
        };
        let Some(ban) = self.server_moderation.ban_on(ctx.now, comer) else { return false };
        let farewell = banned_from_server(ban);
        self.close_connection(ctx.conn);
        send_farewell(ctx.turn, ctx.conn, Farewell::Banned, Some(&farewell));
        true
    }

    /// Whether somebody may take this name: nobody is to pass for a banned guest, but
    /// who has the name already.
    pub(super) fn require_unbanned_name(
        &self,
        now: Now,
        user: UserIx,
        name: &Name,
    ) -> Result<(), Refusal> {
        let User { id, name: old, .. } = &self.users[user];
        let owner = self.accounts.named(name.key()).map(|account| account.person);
        let is_mine = old.key() == name.key() || owner == Some(*id);
        let bans = &self.server_moderation.bans;
        if !is_mine && bans.iter().any(|ban| ban.is_of_guest(now, name.key())) {
            return refusal(ErrorCode::NameTaken, format!("{name} is banned; choose another name"));
        }
        Ok(())
    }

    fn ban_subject(&self, user: UserIx, scope: Scope) -> BanSubject<'_> {
        let (person, name) = (self.users[user].id, self.users[user].name.key());
        BanSubject {
            person,
            name,
            is_guest: self.accounts.of(person).is_none(),
            // The last known address of a user whose session has dropped counts as well.
            peer: self.users[user].peer,
            is_operator: self.moderation(scope).is_operator(person),
            is_above: scope != Scope::Server && self.is_server_operator(person),
        }
    }

    /// Whether a ban can still keep somebody out.
    pub(super) fn can_match(&self, now: Now, ban: &Ban) -> bool {
        let is_about_somebody = match ban.whom {
            Banned::Person { person, is_guest, .. } => is_guest || self.can_return(person),
            Banned::Network(_) => true,
        };
        is_about_somebody && !ban.until.is_over(now)
    }
}

fn banned_from_server(ban: &Ban) -> String {
    format!("you are banned from this server {}", ban.describe("for good"))
}
