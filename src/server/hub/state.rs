//! The state of the chat: one table per topic, and the verbs that concern several of them. A
//! table owns its rows, changes them by verbs, and marks the rows whose stored form
//! changed (`dirty.rs`; `persist.rs` collects the marks). The state knows neither turns nor
//! audiences: what others are sent about a change is decided above.

pub(super) mod accounts;
mod confusables;
pub(super) mod connections;
pub(super) mod deferred_lines;
mod dirty;
mod dropped_sessions;
pub(super) mod index;
pub(super) mod mail;
pub(super) mod memberships;
pub(super) mod messages;
pub(super) mod moderation;
pub(super) mod password_throttle;
pub(super) mod pending;
pub(super) mod relations;
pub(super) mod rooms;
pub(super) mod sessions;
pub(super) mod users;

use std::sync::Arc;
use std::time::Duration;

use crate::commands::Setting;
use crate::protocol::{Key, Name, RoomName, Stamp};
use crate::server::auth::tokens::TokenHash;
use crate::server::clock::Now;
use crate::server::limits::Limits;
use crate::server::limits::rate_limit::{Rate, RateLimiter};
use crate::server::net::ConnId;
use crate::server::net::peer::Peer;
use crate::server::record::{Recipient, Record, UserId, is_label_id, label_named};
use crate::server::store::LastIds;
use accounts::{Account, Accounts};
use connections::{Connection, Connections, DeliveryMode, Query, Settings};
use index::{ConnectionIx, LOBBY, ModerationIx, RoomIx, SERVER, UserIx};
use mail::Mailboxes;
use memberships::Memberships;
use memberships::spans::Spans;
use messages::Messages;
use moderation::{Moderation, ModerationTable, Scope};
use password_throttle::PasswordThrottle;
use relations::Relations;
use rooms::{Room, Rooms};
use sessions::Sessions;
use users::{User, Users};

/// The state of the chat; see the head of this file.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) connections: Connections,
    pub(crate) users: Users,
    pub(crate) sessions: Sessions,
    pub(crate) memberships: Memberships,
    pub(crate) rooms: Rooms,
    pub(crate) moderation: ModerationTable,
    pub(crate) relations: Relations,
    pub(crate) accounts: Accounts,
    pub(crate) mail: Mailboxes,
    pub(crate) messages: Messages,
    pub(crate) password_throttle: PasswordThrottle,
    /// Limits how often each network may hash new passwords.
    pub(crate) new_passwords: RateLimiter,
    /// Maximum number of dormant rooms.
    max_dormant: usize,
    /// Whether the server has a password for operators, which can open their locks.
    has_oper_password: bool,
    /// The time from which the wall clock has gone back, until it is logged.
    pub(crate) clock_step: Option<Stamp>,
}

impl State {
    /// The state of a server without users and accounts, whose ids continue after `last`. The
    /// only room is `#lobby`.
    pub(crate) fn new(
        limits: &Limits,
        last: LastIds,
        moderation: ModerationTable,
        latest: &[Arc<Record>],
    ) -> Self {
        let rate = Rate::one_in(Duration::from_mins(1), limits.accounts_per_address);
        let mut state = Self {
            connections: Connections::default(),
            users: Users::new(last.person),
            sessions: Sessions::new(limits.connection_bounds()),
            memberships: Memberships::default(),
            rooms: Rooms::new(limits.bounds(limits.rooms_per_address, limits.max_rooms)),
            moderation,
            relations: Relations::default(),
            accounts: Accounts::default(),
            mail: Mailboxes::default(),
            messages: Messages::new(limits, last.message, latest),
            password_throttle: PasswordThrottle::new(limits),
            new_passwords: RateLimiter::new(rate, limits.wider_networks),
            max_dormant: limits.max_rooms,
            has_oper_password: limits.oper_password.is_some(),
            clock_step: None,
        };
        let lobby = state.open_room(&RoomName::lobby(), None);
        debug_assert_eq!(lobby, LOBBY);
        state
    }

    /// The last ids assigned.
    pub(crate) fn last_ids(&self) -> LastIds {
        LastIds { message: self.messages.last_id(), person: self.users.last_id() }
    }

    /// The timestamp of an event that happens now. If the wall clock has gone back, bans and
    /// mutes keep their duration.
    pub(crate) fn stamp(&mut self, now: Now) -> Stamp {
        let (stamp, went_back) = self.messages.stamp(now);
        if went_back.is_some() {
            self.clock_step = went_back;
            self.moderation.follow_clock(now);
        }
        stamp
    }

    /// Forgets a message that could not be stored.
    pub(crate) fn forget_message(&mut self, id: u64) {
        if let Some(record) = self.messages.forget(id)
            && let Recipient::Person(to, _) = record.to
            && !self.relations.ignores(to, record.author)
        {
            self.mail.forget(to, id);
        }
    }

    // Users, connections and sessions.

    /// The connection of a user.
    pub(crate) fn connection_of(&self, user: UserIx) -> &Connection {
        &self.connections[self.users[user].connection]
    }

    /// Whether a user has an account.
    pub(crate) fn is_registered(&self, user: UserIx) -> bool {
        self.accounts.has(self.users[user].id)
    }

    /// Whether a user is online or has an account, or the id is that of a label. A guest's id ends
    /// with the logout.
    pub(crate) fn can_return(&self, person: UserId) -> bool {
        can_return(&self.users, &self.accounts, person)
    }

    /// The users whom a user ignores, with their current or last names.
    pub(crate) fn ignores_of(&self, user: UserId) -> impl Iterator<Item = (UserId, &Name)> {
        let ignores = self.relations.of(user).ignores.iter();
        ignores.map(|it| (it.person, self.users.name_of(it.person).unwrap_or(&it.name)))
    }

    /// The online user or the account with this name, or the label of a program.
    pub(crate) fn known_as(&self, name: &str) -> Option<(UserId, Name)> {
        if let Some(label) = label_named(name) {
            return Some(label);
        }
        let account = || self.accounts.named(&Key::fold(name));
        let user = self.users.named(name).map(|user| &self.users[user]);
        user.map(|user| (user.id, user.name.clone()))
            .or_else(|| account().map(|account| (account.person, account.name.clone())))
    }

    /// Creates the user of a connection.
    pub(crate) fn log_in(
        &mut self,
        now: Now,
        connection: ConnectionIx,
        id: UserId,
        name: &Name,
    ) -> UserIx {
        let since = self.stamp(now);
        let login = (since, self.messages.last_id());
        let user = self.add_user(connection, (id, name), login, Spans::default());
        self.users.mark_active(user, now.since_start);
        user
    }

    /// Adds a user without rooms, logged in at this time after this message.
    fn add_user(
        &mut self,
        connection: ConnectionIx,
        (id, name): (UserId, &Name),
        (since, first): (Stamp, u64),
        spans: Spans,
    ) -> UserIx {
        self.relations.log_in(id);
        let (name, away, reply_target) = (name.clone(), None, None);
        let last_active = Duration::ZERO;
        let user = User { id, name, connection, since, first, away, reply_target, last_active };
        let user = self.users.add(user);
        self.memberships.add_user(user, spans);
        self.connections.log_in(connection, user);
        user
    }

    /// Adds a user who was logged in before, without a socket. The ignores are restored apart.
    pub(crate) fn restore_user(
        &mut self,
        user: (UserId, &Name),
        login: (Stamp, u64),
        (settings, peer): (Settings, Option<Peer>),
        spans: Spans,
    ) -> UserIx {
        let connection = self.connections.restore(settings, peer);
        self.add_user(connection, user, login, spans)
    }

    /// Removes a user from all tables, in all rooms, and closes their socket. Their queries and
    /// those with them have ended.
    pub(crate) fn remove_user(&mut self, user: UserIx) -> UserId {
        // The user must be gone first: whether they can return decides what a room keeps.
        let User { id, name, connection, .. } = self.users.remove(user);
        if let Some(token) = self.connections.remove(connection).session {
            self.sessions.end(*token, id);
        }
        let name_of = |person| self.users.name_of(person).cloned();
        self.relations.log_out(id, &name, !self.accounts.has(id), name_of);
        self.mail.disconnect(id);
        for room in self.memberships.remove_user(user, &name) {
            self.close_room(room);
        }
        id
    }

    /// Renames a user; returns the old name.
    pub(crate) fn rename(&mut self, user: UserIx, name: &Name) -> Name {
        let old = self.users.rename(user, name);
        self.memberships.rename(user, &old, name);
        self.relations.note_rename(self.users[user].id);
        old
    }

    /// Replaces the settings of a connection; the client has chosen this one.
    pub(crate) fn choose(&mut self, connection: ConnectionIx, setting: Setting, after: Settings) {
        let before = self.connections[connection].settings;
        self.connections.choose(connection, setting, after);
        // New audiences are expensive, so only settings that affect them cause any.
        if (before.dialect, before.joins) != (after.dialect, after.joins)
            && let Some(user) = self.connections[connection].user()
        {
            self.memberships.touch_rooms_of(user);
        }
    }

    /// Changes how the messages of a user's connection are delivered.
    pub(crate) fn set_delivery(&mut self, connection: ConnectionIx, mode: DeliveryMode) {
        let was_live = self.connections[connection].delivery == DeliveryMode::Live;
        self.connections.set_delivery(connection, mode);
        if was_live != (mode == DeliveryMode::Live)
            && let Some(user) = self.connections[connection].user()
        {
            self.memberships.touch_rooms_of(user);
        }
    }

    /// Gives a user a session, if they have none.
    pub(crate) fn begin_session(&mut self, user: UserIx, token: TokenHash) {
        let User { id, connection, .. } = self.users[user];
        self.connections.begin_session(connection, token);
        self.sessions.begin(token, id);
        self.memberships.mark_blocks(user);
    }

    /// Closes the socket of a user, who gets a farewell and ends.
    pub(crate) fn close_socket_of(&mut self, user: UserIx) -> Option<ConnId> {
        let socket = self.connection_of(user).socket?;
        self.connections.close(socket);
        self.memberships.touch_rooms_of(user);
        Some(socket)
    }

    /// Takes the socket from the connection of a user, whose session may resume until
    /// `until`. Returns the user whose session has to end for it, if a limit is reached.
    pub(crate) fn drop_socket(
        &mut self,
        limits: &Limits,
        user: UserIx,
        until: Duration,
    ) -> Option<UserIx> {
        let connection = self.connection_of(user);
        let peer = connection.peer.filter(|peer| limits.apply_to(*peer));
        if let Some(socket) = connection.socket {
            self.connections.close(socket);
        }
        let displaced = peer.and_then(|peer| self.sessions.to_displace(peer));
        self.sessions.drop(until, self.users[user].id, peer);
        self.mail.disconnect(self.users[user].id);
        self.memberships.touch_rooms_of(user);
        displaced.and_then(|displaced| self.users.find(displaced))
    }

    /// Attaches the user of a session to a new socket; an earlier one must be closed. It
    /// catches up from this message, and from mail that waited for the login.
    pub(crate) fn resume(&mut self, user: UserIx, socket: ConnId, after: u64) {
        let User { id, connection, first, .. } = self.users[user];
        self.sessions.resume(id);
        let after = after.max(first);
        let after = self.mail.position(id).map_or(after, |position| position.min(after));
        self.connections.resume(connection, socket, after);
        self.memberships.touch_rooms_of(user);
        for room in self.memberships.rooms_of(user).to_vec() {
            self.visit(room);
        }
    }

    /// Replaces the query of a user's connection.
    pub(crate) fn set_query(&mut self, connection: ConnectionIx, query: Query) {
        let Some(user) = self.connections[connection].user() else { return };
        let user = self.users[user].id;
        if let Query::On(other) = self.connections[connection].query {
            self.relations.end_query(user, other);
        }
        if let Query::On(other) = query {
            self.relations.begin_query(user, other);
        }
        self.connections.set_query(connection, query);
    }

    /// Ends all queries with a user; returns who had one.
    pub(crate) fn end_queries_with(&mut self, user: UserIx) -> Vec<UserIx> {
        let id = self.users[user].id;
        let queriers = self.relations.of(id).queried_by.iter();
        let queriers: Vec<UserIx> = queriers.filter_map(|by| self.users.find(*by)).collect();
        for by in &queriers {
            for connection in self.users[*by].connections().collect::<Vec<_>>() {
                if self.connections[connection].query == Query::On(id) {
                    self.set_query(connection, Query::Gone);
                }
            }
        }
        queriers
    }

    // Accounts.

    /// Creates the account of a user. Accounts stay operators of rooms that they have left, so
    /// those rooms are stored from now on.
    pub(crate) fn register(&mut self, user: UserIx, hash: Arc<str>) {
        let User { id: person, ref name, .. } = self.users[user];
        self.accounts.create(Account { person, name: name.clone(), hash });
        for ix in self.moderation.operated_by(person).collect::<Vec<_>>() {
            self.moderation.mark(ix);
        }
    }

    /// Deletes the account of a user, who stays online as a guest.
    pub(crate) fn unregister(&mut self, user: UserIx) -> Option<Account> {
        let account = self.accounts.remove(self.users[user].id)?;
        self.mail.remove(account.person);
        Some(account)
    }

    // Rooms and their moderation.

    /// Returns the room with this name, created or no longer dormant. It counts for the network
    /// of the peer, if there is one.
    pub(crate) fn open_room(&mut self, name: &RoomName, creator: Option<Peer>) -> RoomIx {
        if let Some(room) = self.rooms.named(name.key()) {
            return room;
        }
        let (moderation, topic) = match self.moderation.activate(name.key()) {
            Some(dormant) => dormant,
            None => (self.moderation.create(name), None),
        };
        let room = self.rooms.create(name, moderation, topic, creator);
        self.memberships.add_room(room);
        room
    }

    /// The moderation of a room, with or without members.
    pub(crate) fn moderation_named(&self, room: &Key) -> Option<&Moderation> {
        let open = self.rooms.named(room).map(|room| &self.moderation[self.rooms[room].moderation]);
        open.or_else(|| self.moderation.of_dormant(room))
    }

    /// Makes a user a member of a room, which becomes the current one.
    pub(crate) fn enter(&mut self, user: UserIx, room: RoomIx) {
        let User { id, ref name, connection, .. } = self.users[user];
        let key = self.rooms[room].name.key();
        self.memberships.join((user, id, name), (room, key), &self.messages);
        self.connections.set_current(connection, Some(room));
        self.visit(room);
    }

    /// Notes that a connected user has been a member of a room.
    pub(crate) fn visit(&mut self, room: RoomIx) {
        if self.rooms.visit(room) {
            self.moderation.mark(self.rooms[room].moderation);
        }
    }

    /// Removes a member from a room, which ends with its last member. If it was the current
    /// room, the user has none afterwards: plain lines must not go to a room that the user did
    /// not choose.
    pub(crate) fn leave_room(&mut self, user: UserIx, room: RoomIx) {
        for connection in self.users[user].connections() {
            if self.connections[connection].current == Some(room) {
                self.connections.set_current(connection, None);
            }
        }
        let (name, key) = (&self.users[user].name, self.rooms[room].name.key());
        if self.memberships.leave((user, name), (room, key), &self.messages) {
            self.close_room(room);
        }
    }

    /// Ends a room without members. A room that no one has visited since the server started
    /// becomes dormant again, if its moderation outlives its members.
    pub(crate) fn close_room(&mut self, room: RoomIx) {
        if room == LOBBY {
            return;
        }
        let Room { moderation, topic, was_visited, .. } = self.rooms.remove(room);
        if was_visited {
            self.moderation.remove(moderation);
        } else {
            self.deactivate(moderation, topic);
            self.end_surplus_dormant();
        }
    }

    /// Makes the moderation of a room without members dormant, if it outlives them.
    fn deactivate(&mut self, moderation: ModerationIx, topic: Option<Box<str>>) {
        self.drop_departed(moderation);
        if self.moderation[moderation].outlives_members(|person| self.accounts.has(person)) {
            self.moderation.deactivate(moderation, topic);
        } else {
            self.moderation.remove(moderation);
        }
    }

    /// Makes a room that no one has entered dormant again, with its moderation as it was.
    pub(crate) fn put_back(&mut self, room: RoomIx) {
        let Room { moderation, topic, .. } = self.rooms.remove(room);
        self.moderation.deactivate(moderation, topic);
    }

    fn drop_departed(&mut self, moderation: ModerationIx) {
        let can_return = |person| can_return(&self.users, &self.accounts, person);
        self.moderation.drop_departed(moderation, can_return, self.has_oper_password);
    }

    /// Ends dormant rooms if there are more than `--max-rooms`, as every restart can leave some.
    fn end_surplus_dormant(&mut self) {
        let has_account = |person| self.accounts.has(person);
        self.moderation.end_surplus_dormant(self.max_dormant, has_account);
    }

    /// Removes users who cannot return from all moderation, after a restart. What does not
    /// outlive the members of a dormant room ends.
    pub(crate) fn drop_departed_everywhere(&mut self) {
        self.drop_departed(SERVER);
        for (moderation, topic) in self.moderation.activate_all() {
            self.deactivate(moderation, topic);
        }
        for room in self.rooms.by_name() {
            self.drop_departed(self.rooms[room].moderation);
        }
        self.end_surplus_dormant();
    }

    /// Sets or removes the topic of a room; returns whether it has changed.
    pub(crate) fn set_topic(&mut self, room: RoomIx, topic: Option<&str>) -> bool {
        let is_new = self.rooms[room].topic.as_deref() != topic;
        if is_new {
            self.rooms.set_topic(room, topic.map(Into::into));
            self.moderation.mark(self.rooms[room].moderation);
        }
        is_new
    }

    /// The moderation that applies in a scope.
    pub(crate) fn moderation_in(&self, scope: Scope) -> &Moderation {
        &self.moderation[self.moderation_ix(scope)]
    }

    pub(crate) fn moderation_ix(&self, scope: Scope) -> ModerationIx {
        match scope {
            Scope::Room(room) => self.rooms[room].moderation,
            Scope::Server => SERVER,
        }
    }

    /// The name of the room of a scope; `None` for the server.
    pub(crate) fn room_of(&self, scope: Scope) -> Option<&str> {
        match scope {
            Scope::Room(room) => Some(self.rooms[room].name.as_str()),
            Scope::Server => None,
        }
    }

    /// Deletes expired entries and entries of users who cannot log in again.
    pub(crate) fn drop_expired(&mut self, now: Now, scope: Scope) {
        let ix = self.moderation_ix(scope);
        let can_return = |person| can_return(&self.users, &self.accounts, person);
        self.moderation.drop_expired(ix, now, can_return);
    }

    /// Checks that all tables are consistent. Tests call it after every input.
    pub(crate) fn check(&self) {
        self.users.check();
        self.rooms.check();
        self.connections.check();
        self.relations.check(|id| self.users.is_online(id));
        self.mail.check(|id| self.accounts.has(id));
        self.accounts.check(|key| self.users.holder(key).map(|user| self.users[user].id));
        self.moderation.check(|key| self.rooms.named(key).is_some());
        let users = self.users.by_id();
        let keys = users.iter().map(|ix| {
            let user = &self.users[*ix];
            (*ix, user.id, user.name.key().clone())
        });
        self.memberships.check(keys);
        for ix in &users {
            self.check_user(*ix);
        }
        for (room, Room { moderation, .. }) in self.rooms.iter() {
            let count = self.memberships.count(room);
            assert!(room == LOBBY || count > 0, "a room other than #lobby has members");
            let has_operator = self.moderation[*moderation]
                .operators
                .iter()
                .chain(&self.moderation.server().operators)
                .any(|person| self.can_return(*person));
            assert!(room == LOBBY || has_operator, "a room other than #lobby has a moderator");
        }
    }

    fn check_user(&self, ix: UserIx) {
        let (user, connection) = (&self.users[ix], self.connection_of(ix));
        assert_eq!(connection.user(), Some(ix), "connections map to users");
        let is_dropped = self.sessions.ends_at(user.id).is_some();
        assert_eq!(is_dropped, connection.socket.is_none(), "a dropped session has a deadline");
        if let Some(token) = connection.session.as_deref() {
            assert_eq!(self.sessions.find(*token), Some(user.id), "tokens map to user ids");
        }
        let current = connection.current;
        assert!(current.is_none_or(|room| self.memberships.is_member(ix, room)));
        if let Query::On(other) = connection.query {
            assert!(
                self.relations.of(other).queried_by.contains(&user.id),
                "both ends know a query"
            );
        }
    }
}

/// See [`State::can_return`]; a function of two tables, so that others can change meanwhile.
fn can_return(users: &Users, accounts: &Accounts, person: UserId) -> bool {
    users.is_online(person) || accounts.has(person) || is_label_id(person)
}

#[cfg(test)]
mod tests {
    use super::connections::Phase;
    use super::moderation::Mute;
    use super::moderation::expiry::Expiry;
    use super::*;
    use crate::server::hub::test_support::{conn, name, now, room_name};

    const NOW: Now = Now { since_start: Duration::ZERO, wall: Stamp(0) };

    /// A state with alice and bob, and a room with both, where alice is an operator.
    fn state() -> (State, [UserIx; 2], RoomIx) {
        let mut state =
            State::new(&Limits::default(), LastIds::default(), ModerationTable::new(0), &[]);
        let users = [(0, "alice"), (1, "bob")].map(|(slot, text)| log_in(&mut state, slot, text));
        let ops = state.open_room(&room_name("ops"), None);
        state.moderation.promote(state.rooms[ops].moderation, state.users[users[0]].id);
        for user in users {
            state.enter(user, ops);
        }
        state.check();
        (state, users, ops)
    }

    fn log_in(state: &mut State, slot: u32, text: &str) -> UserIx {
        let peer = Peer::new([192, 0, 2, 1].into());
        state.connections.open(conn(slot), peer, Duration::ZERO);
        let connection = state.connections.of(conn(slot)).expect("open");
        state.log_in(NOW, connection, state.users.next_id(), &name(text))
    }

    #[test]
    fn removed_user_is_in_no_table() {
        let (mut state, [alice, bob], ops) = state();
        let token = TokenHash::default();
        state.begin_session(alice, token);
        let [alice_id, bob_id] = [alice, bob].map(|user| state.users[user].id);
        state.relations.ignore(alice_id, bob_id, &name("bob"));
        state.relations.ignore(bob_id, alice_id, &name("alice"));
        state.rename(alice, &name("anna"));
        assert_eq!(state.remove_user(alice), alice_id);
        assert!(state.sessions.find(token).is_none() && !state.can_return(alice_id));
        assert_eq!(state.connections.find(conn(0)).map(|it| it.phase), Some(Phase::Closing));
        assert_eq!((state.memberships.count(ops), state.rooms.get(ops).is_some()), (1, true));
        assert_eq!(state.relations.of(bob_id).ignores[0].name.as_str(), "anna");
        assert!(state.relations.of(bob_id).ignored_by.is_empty(), "the ignores of a guest end");
        // With bob the room ends, and its moderation.
        state.moderation.note_stored(state.rooms[ops].moderation);
        state.remove_user(bob);
        assert_eq!((state.rooms.len(), state.moderation.dirty_ended.take().len()), (1, 1));
        state.check();
    }

    #[test]
    fn account_keeps_its_relations_and_rights_without_being_online() {
        let (mut state, [alice, bob], ops) = state();
        let [alice_id, bob_id] = [alice, bob].map(|user| state.users[user].id);
        state.leave_room(alice, ops);
        state.moderation.dirty.take();
        state.register(alice, "a hash".into());
        assert_eq!(state.moderation.dirty.take(), [state.rooms[ops].moderation]);
        state.relations.ignore(alice_id, bob_id, &name("bob"));
        state.rename(bob, &name("rob"));
        state.remove_user(alice);
        assert_eq!(state.relations.of(alice_id).ignores[0].name.as_str(), "rob");
        assert!(state.can_return(alice_id) && state.relations.ignores(alice_id, bob_id));
        assert_eq!(state.known_as("ALICE").map(|(id, _)| id), Some(alice_id));
        state.drop_expired(NOW, Scope::Room(ops));
        assert!(state.moderation_in(Scope::Room(ops)).is_operator(alice_id));
        state.check();
    }

    #[test]
    fn deleted_account_leaves_a_guest_without_mail() {
        let (mut state, [alice, _], _) = state();
        state.register(alice, "a hash".into());
        let id = state.users[alice].id;
        state.mail.add(id, 3);
        assert_eq!(state.unregister(alice).map(|account| account.person), Some(id));
        assert!(state.unregister(alice).is_none() && !state.is_registered(alice));
        assert_eq!((state.mail.len(id), state.users.is_online(id)), (0, true));
        state.check();
    }

    #[test]
    fn rename_reaches_rooms_and_those_who_ignore_the_user() {
        let (mut state, [alice, bob], ops) = state();
        let [alice_id, bob_id] = [alice, bob].map(|user| state.users[user].id);
        state.relations.ignore(bob_id, alice_id, &name("alice"));
        state.relations.renamed.take();
        assert_eq!(state.rename(alice, &name("anna")).as_str(), "alice");
        assert_eq!(state.memberships.named(ops, name("anna").key()).map(|it| it.user), Some(alice));
        assert_eq!(state.relations.renamed.take(), [alice_id]);
        state.check();
    }

    #[test]
    fn queries_with_a_user_end_and_others_stay() {
        let (mut state, [alice, bob], _) = state();
        let carol = log_in(&mut state, 2, "carol");
        let [alice_id, bob_id, carol_id] = [alice, bob, carol].map(|it| state.users[it].id);
        let connection = |state: &State, user: UserIx| state.users[user].connection;
        for (user, other) in
            [(alice, bob_id), (alice, carol_id), (bob, carol_id), (carol, alice_id)]
        {
            state.set_query(connection(&state, user), Query::On(other));
        }
        state.check();
        assert!(state.end_queries_with(bob).is_empty(), "alice has another query by now");
        assert_eq!(state.end_queries_with(carol), [alice, bob]);
        let queries = [alice, bob, carol].map(|user| state.connection_of(user).query);
        assert_eq!(queries, [Query::Gone, Query::Gone, Query::On(alice_id)]);
        state.check();
    }

    #[test]
    fn lost_socket_and_resume_change_the_audience_of_the_rooms() {
        let (mut state, [alice, _], ops) = state();
        state.begin_session(alice, TokenHash::default());
        let version = |state: &State| state.memberships.version(ops);
        let before = version(&state);
        state.drop_socket(&Limits::default(), alice, Duration::from_mins(1));
        assert!(state.connection_of(alice).live_socket().is_none() && version(&state) > before);
        state.check();
        let before = version(&state);
        state.connections.open(conn(2), Peer::new([127, 0, 0, 1].into()), Duration::ZERO);
        state.resume(alice, conn(2), 0);
        assert!(state.connection_of(alice).is_catching_up() && version(&state) > before);
        state.check();
    }

    /// A state as after a restart: #ops is dormant, alice has an account and is its operator.
    fn state_with_dormant_room() -> (State, UserId) {
        let (alice, room) = (UserId(5), room_name("ops"));
        let mut moderation = ModerationTable::new(1);
        moderation.restore(1, Some(room), Moderation::default(), Some("tea".into()));
        moderation.promote(moderation.index_of(1).expect("restored"), alice);
        let last = LastIds { person: 5, ..LastIds::default() };
        let mut state = State::new(&Limits::default(), last, moderation, &[]);
        let (name, hash) = (name("alice"), "a hash".into());
        state.accounts.restore(Account { person: alice, name, hash });
        state.drop_departed_everywhere();
        (state, alice)
    }

    #[test]
    fn room_is_dormant_again_until_a_connected_user_has_been_a_member() {
        let (mut state, alice) = state_with_dormant_room();
        let (bob, room) = (log_in(&mut state, 0, "bob"), room_name("ops"));
        // A restored member, who is not connected.
        let ops = state.open_room(&room, None);
        state.memberships.restore(bob, &name("bob"), ops, 1);
        assert_eq!(state.rooms[ops].topic.as_deref(), Some("tea"));
        assert!(!state.moderation.is_dormant(room.key()));
        state.check();
        state.leave_room(bob, ops);
        assert!(state.moderation.is_dormant(room.key()) && state.rooms.named(room.key()).is_none());
        assert_eq!(state.moderation.dormant_topic(room.key()), Some("tea"));
        let ops = state.open_room(&room, None);
        assert!(state.moderation_in(Scope::Room(ops)).is_operator(alice));
        state.enter(bob, ops);
        state.leave_room(bob, ops);
        assert!(!state.moderation.is_dormant(room.key()), "moderation ends with its room");
        assert_eq!(state.connection_of(bob).current, None);
        assert_eq!(state.moderation.dirty_ended.take(), [1]);
        state.check();
    }

    #[test]
    fn dormant_room_ends_when_nothing_of_it_applies() {
        let (mut state, alice) = state_with_dormant_room();
        let room = room_name("ops");
        state.drop_departed_everywhere();
        assert!(state.moderation.is_dormant(room.key()), "alice can return");
        state.accounts.remove(alice);
        state.drop_departed_everywhere();
        assert!(!state.moderation.is_dormant(room.key()));
        assert_eq!(state.moderation.dirty_ended.take(), [1]);
        state.check();
    }

    #[test]
    fn time_limits_are_kept_when_the_clock_goes_back() {
        let (mut state, [_, bob], ops) = state();
        let day = Stamp(24 * 60 * 60 * 1000);
        state.stamp(Now { wall: day, ..NOW });
        let until = Expiry::after(Now { wall: day, ..NOW }, Some(Duration::ZERO));
        let mute = Mute { person: state.users[bob].id, name: name("bob"), until };
        state.moderation.mute(state.rooms[ops].moderation, mute, 1);
        state.moderation.dirty.take();
        assert_eq!(state.stamp(now(Duration::ZERO)), Stamp(0));
        assert_eq!(state.clock_step.take(), Some(day));
        assert_eq!(state.moderation.dirty.take(), [state.rooms[ops].moderation]);
    }
}
