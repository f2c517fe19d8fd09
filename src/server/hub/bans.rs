//! Bans of users and networks from a room or from the server.
//!
//! A banned guest could log in again as a new guest, so the ban of a guest also matches
//! users who first logged in later from the same network, and later guests of the same
//! name. It does not match users who were online or registered before the ban; they may
//! share a router with the guest. Expiry and limits of moderation in general are in
//! `moderation.rs`.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::moderation::{Expiry, Moderation, Scope, reserve_entry};
use super::{
    Context, ErrorCode, Event, Farewell, Hub, Key, Name, Now, Refusal, RoomIx, Topic, User, UserId,
    UserIx, no_such_user, refusal, send_farewell,
};
use crate::protocol::name::is_name;
use crate::server::net::peer::{Network, Peer};

/// A ban from a room or from the server.
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
pub(super) struct BanSubject<'a> {
    person: UserId,
    name: &'a Key,
    is_guest: bool,
    peer: Option<Peer>,
    /// Network bans do not apply to operators.
    is_operator: bool,
    /// Room bans do not apply to server operators.
    is_exempt: bool,
}

impl Banned {
    /// The text that `/bans` lists and `/unban` accepts.
    fn label(&self) -> String {
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

    fn matches(&self, subject: BanSubject<'_>) -> bool {
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
}

impl Ban {
    /// Whether this is an unexpired ban of a guest with this name.
    fn reserves_name(&self, now: Now, key: &Key) -> bool {
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

    /// The expiry and the reason; `endless` stands for a missing expiry.
    fn describe(&self, endless: &str) -> String {
        let until = self.until.describe(endless);
        match &self.reason {
            Some(reason) => format!("{until}: {reason}"),
            None => until,
        }
    }
}

impl Moderation {
    /// Whether a ban names this user; without `now`, expired bans count as well.
    pub(super) fn bans_person(&self, now: Option<Now>, person: UserId) -> bool {
        self.bans.iter().any(|ban| match ban.whom {
            Banned::Person { person: banned, .. } => {
                banned == person && now.is_none_or(|now| !ban.until.is_over(now))
            }
            Banned::Network(_) => false,
        })
    }

    /// The first unexpired ban that matches a user.
    fn ban_on(&self, now: Now, subject: BanSubject<'_>) -> Option<&Ban> {
        let applies = |ban: &&Ban| !ban.until.is_over(now) && ban.whom.matches(subject);
        self.bans.iter().find(applies)
    }
}

impl Hub {
    /// `/ban` and `/gban`. Matching members are kicked; matching users of the server are
    /// disconnected.
    pub(super) fn ban(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        scope: Scope,
        (target, time, reason): (&str, Option<Duration>, Option<&str>),
    ) -> Result<(), Refusal> {
        let target = self.ban_target(user, target)?;
        self.drop_expired(ctx.now, scope);
        let by = self.users[user].name.clone();
        let (scope_name, unban) = (self.scope_name(scope), scope.unban());
        let most = match scope {
            Scope::Room(_) => self.limits.max_bans,
            Scope::Server => self.limits.max_server_bans,
        };
        let moderation = self.moderation_mut(scope);
        if !reserve_entry(&mut moderation.bans, most, |ban| !ban.whom.is_same(&target)) {
            let text = format!("the limit of {most} bans is reached; {unban} one first");
            return refusal(ErrorCode::TooMany, text);
        }
        let until = Expiry::after(ctx.now, time);
        let ban = Ban { whom: target, by, until, reason: reason.map(Into::into) };
        let text = ban.describe(&format!("until you {unban} them"));
        ctx.reply(&Event::reply("BANNED", &format!("{scope_name} {}", ban.whom.label()), &text));
        moderation.bans.push(ban.clone());
        self.mark_moderation_unsaved(scope);
        match scope {
            Scope::Room(room) => {
                let present = self.rooms[room].members().map(|(_, other)| other);
                let matching = self.users_matching(user, scope, &ban, present);
                self.remove_banned(ctx, room, &ban, &matching);
                self.ensure_operator(ctx.now, room, ctx.turn);
            }
            Scope::Server => {
                let present = self.users.iter().map(|(other, _)| other);
                let matching = self.users_matching(user, scope, &ban, present);
                self.disconnect_banned(ctx, &ban, matching);
                self.ensure_operators(ctx.now, ctx.turn);
            }
        }
        Ok(())
    }

    /// Kicks the banned users from the room and announces it.
    fn remove_banned(&mut self, ctx: &mut Context<'_>, room: RoomIx, ban: &Ban, users: &[UserIx]) {
        // All kicks precede the first announcement, so that one audience serves all.
        let (by, reason) = (ban.by.clone(), ban.reason.as_deref());
        let room_name = self.rooms[room].name.clone();
        let names: Vec<Name> = users.iter().map(|user| self.users[*user].name.clone()).collect();
        for user in users {
            self.kick_member(ctx, &by, room, *user, reason);
        }
        if !self.rooms.contains(room) {
            return; // The room ended with its last member.
        }
        for name in &names {
            let (name, by) = (name.as_str(), by.as_str());
            let event = Event::Kicked { room: room_name.as_str(), name, by, reason };
            self.announce(ctx.now, &[room], Topic::Talk, None, &event, ctx.turn);
        }
    }

    /// Kicks a user who resumed from the rooms that now ban them: a resumed connection may
    /// come from a banned network.
    pub(super) fn leave_banned_rooms(&mut self, ctx: &mut Context<'_>, user: UserIx) {
        for room in self.users[user].rooms.clone() {
            let subject = self.ban_subject(user, Scope::Room(room));
            let Some(ban) = self.rooms[room].moderation.ban_on(ctx.now, subject).cloned() else {
                continue;
            };
            self.remove_banned(ctx, room, &ban, &[user]);
        }
    }

    /// Disconnects the banned users from the server.
    fn disconnect_banned(&mut self, ctx: &mut Context<'_>, ban: &Ban, users: Vec<UserIx>) {
        let farewell = banned_from_server(ban);
        let suffix = ban.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let quit = format!("banned by {}{suffix}", ban.by);
        for user in users {
            self.disconnect_user(ctx, user, Farewell::Banned, &farewell, &quit);
        }
    }

    /// The users that match a ban, except its author.
    fn users_matching(
        &self,
        by: UserIx,
        scope: Scope,
        ban: &Ban,
        present: impl Iterator<Item = UserIx>,
    ) -> Vec<UserIx> {
        present
            .filter(|other| *other != by && ban.whom.matches(self.ban_subject(*other, scope)))
            .collect()
    }

    /// Resolves the target of a ban. A valid name is a name; no network has the form of one.
    fn ban_target(&self, user: UserIx, target: &str) -> Result<Banned, Refusal> {
        if !is_name(target) {
            let network = Network::parse(target);
            return network
                .map(Banned::Network)
                .map_err(|problem| Refusal::new(ErrorCode::BadArgument, problem));
        }
        let Some((person, name)) = self.known_user_named(target) else {
            return no_such_user(target);
        };
        if person == self.users[user].id {
            return refusal(ErrorCode::BadArgument, "you cannot ban yourself");
        }
        let is_guest = self.accounts.of(person).is_none();
        // A user whose session has dropped still has its last address.
        let peer = self.users_by_id.get(&person).and_then(|user| self.users[*user].peer);
        let network = peer.filter(|peer| is_guest && !peer.is_local()).map(Peer::network);
        let last = UserId(self.last_ids.person);
        Ok(Banned::Person { person, name, is_guest, network, last })
    }

    /// `/unban` and `/gunban`, by the current name, the name at the time of the ban, or the
    /// network.
    pub(super) fn unban(
        &mut self,
        ctx: &mut Context<'_>,
        scope: Scope,
        target: &str,
    ) -> Result<(), Refusal> {
        let person = self.known_user_named(target).map(|(person, _)| person);
        let (key, network) = (Key::fold(target), Network::parse(target).ok());
        let is_target = |ban: &mut Ban| match &ban.whom {
            Banned::Person { person: banned, name, .. } => {
                Some(*banned) == person || *name.key() == key
            }
            Banned::Network(banned) => Some(*banned) == network,
        };
        let scope_name = self.scope_name(scope);
        let Some(ban) = self.moderation_mut(scope).bans.extract_if(.., is_target).last() else {
            let list = scope.bans();
            let text = format!("{target} is not banned; {list} lists the bans");
            return refusal(ErrorCode::NoSuchUser, text);
        };
        self.mark_moderation_unsaved(scope);
        ctx.reply(&Event::reply("UNBANNED", &format!("{scope_name} {}", ban.whom.label()), ""));
        Ok(())
    }

    /// Sends all bans with their author, expiry and reason.
    pub(super) fn list_bans(&mut self, ctx: &mut Context<'_>, scope: Scope) {
        self.drop_expired(ctx.now, scope);
        let (scope_name, bans) = (self.scope_name(scope), &self.moderation(scope).bans);
        ctx.reply(&Event::reply("BANS", &format!("{scope_name} {}", bans.len()), ""));
        for ban in bans {
            let args = format!("{scope_name} {}", ban.whom.label());
            let text = format!("by {} {}", ban.by, ban.describe(PERMANENTLY));
            ctx.reply(&Event::reply("BAN", &args, &text));
        }
    }

    /// Refuses a user who is banned from the room.
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
            format!("you are banned from {} {}", self.rooms[room].name, ban.describe(PERMANENTLY));
        refusal(ErrorCode::Forbidden, text)
    }

    /// Rejects a login or a resume of a user who is banned from the server: sends the
    /// farewell and returns `true`.
    pub(super) fn reject_banned(
        &mut self,
        ctx: &mut Context<'_>,
        person: UserId,
        name: &Name,
    ) -> bool {
        let subject = BanSubject {
            person,
            name: name.key(),
            is_guest: self.accounts.of(person).is_none(),
            peer: self.connection(ctx.conn).map(|connection| connection.peer),
            is_operator: self.is_server_operator(person),
            is_exempt: false,
        };
        let Some(ban) = self.server_moderation.ban_on(ctx.now, subject) else { return false };
        let farewell = banned_from_server(ban);
        self.close_connection(ctx.conn);
        send_farewell(ctx.turn, ctx.conn, Farewell::Banned, Some(&farewell));
        true
    }

    /// Refuses the name of a banned guest, so that no other user can pass for the guest.
    /// Users who already have or own the name keep it.
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
        if !is_mine && bans.iter().any(|ban| ban.reserves_name(now, name.key())) {
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
            is_exempt: scope != Scope::Server && self.is_server_operator(person),
        }
    }

    /// Whether a ban has not expired and its target can still log in.
    pub(super) fn can_match(&self, now: Now, ban: &Ban) -> bool {
        let has_target = match ban.whom {
            Banned::Person { person, is_guest, .. } => is_guest || self.can_return(person),
            Banned::Network(_) => true,
        };
        has_target && !ban.until.is_over(now)
    }
}

/// The text for a ban without an expiry.
const PERMANENTLY: &str = "permanently";

fn banned_from_server(ban: &Ban) -> String {
    format!("you are banned from this server {}", ban.describe(PERMANENTLY))
}
