//! Restoring the state from its stored form.

use std::fmt;
use std::time::Duration;

use super::{
    SavedAccount, SavedBlock, SavedMailbox, SavedOrder, SavedPosition, SavedScope, SavedSocket,
    SavedUser, Unsaved, UserId, seal, socket_of,
};
use crate::protocol::RoomName;
use crate::server::clock::Now;
use crate::server::hub::state::State;
use crate::server::hub::state::accounts::Account;
use crate::server::hub::state::connections::Query;
use crate::server::hub::state::deferred_lines::DeferredLine;
use crate::server::hub::state::index::UserIx;
use crate::server::hub::state::memberships::spans::{Block, Spans};
use crate::server::hub::state::moderation::{Moderation, ModerationTable};
use crate::server::limits::Limits;
use crate::server::net::ConnId;
use crate::server::net::outbox::{Lines, Meter};
use crate::server::net::peer::Peer;
use crate::server::store::{Collection, Snapshot};

/// A stored row that cannot be read.
#[derive(Debug)]
pub struct UnreadableEntry {
    /// The collection that contains the row.
    pub collection: Collection,
    /// The key within the collection.
    pub key: u64,
    why: serde_json::Error,
}

impl fmt::Display for UnreadableEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.collection.as_str(), self.key, self.why)
    }
}

impl std::error::Error for UnreadableEntry {}

/// The rows of a snapshot, parsed.
#[derive(Default)]
struct Rows {
    users: Vec<(UserId, SavedUser)>,
    sockets: Vec<(ConnId, SavedSocket)>,
    accounts: Vec<(UserId, SavedAccount)>,
    blocks: Vec<(u64, SavedBlock<Block>)>,
    mailboxes: Vec<(UserId, SavedMailbox)>,
    scopes: Vec<(u64, SavedScope<Moderation>)>,
}

impl Rows {
    fn parse(snapshot: &Snapshot) -> Result<Self, UnreadableEntry> {
        let mut rows = Self::default();
        for (collection, key, value) in &snapshot.entries {
            let parsed = rows.add(*collection, *key, value);
            parsed.map_err(|why| UnreadableEntry { collection: *collection, key: *key, why })?;
        }
        rows.blocks.sort_unstable_by_key(|(number, _)| *number);
        rows.users.sort_unstable_by_key(|(id, _)| *id);
        Ok(rows)
    }

    fn add(&mut self, collection: Collection, key: u64, value: &str) -> serde_json::Result<()> {
        let id = UserId(key);
        match collection {
            Collection::Session => self.users.push((id, serde_json::from_str(value)?)),
            Collection::Account => self.accounts.push((id, serde_json::from_str(value)?)),
            Collection::Mailbox => self.mailboxes.push((id, serde_json::from_str(value)?)),
            Collection::Moderation => self.scopes.push((key, serde_json::from_str(value)?)),
            Collection::Spans => self.blocks.push((key, serde_json::from_str(value)?)),
            Collection::Socket => {
                self.sockets.push((socket_of(key), serde_json::from_str(value)?));
            }
        }
        Ok(())
    }
}

/// Restores a state from a snapshot. Unless the snapshot says otherwise, every session gets a
/// full grace period again.
///
/// # Errors
/// A row cannot be read. A server without its bans or accounts must not start.
pub(in crate::server::hub) fn restore(
    limits: &Limits,
    snapshot: &Snapshot,
    now: Now,
    meter: &Meter,
) -> Result<State, UnreadableEntry> {
    let rows = Rows::parse(snapshot)?;
    let (moderation, visited) = restore_moderation(limits, rows.scopes);
    let mut state = State::new(limits, snapshot.last, moderation, &snapshot.latest);
    for (id, SavedAccount { name, hash, .. }) in &rows.accounts {
        let (name, hash) = (name.clone(), hash.clone());
        state.accounts.restore(Account { person: *id, name, hash });
    }
    restore_mail(&mut state, &rows.mailboxes, &snapshot.mail);
    // Users refer to accounts and moderation, and then to each other.
    let mut restorer = Restorer { state, limits, now, meter };
    for (id, saved) in &rows.users {
        restorer.restore_user(*id, saved);
    }
    for room in visited {
        if let Some(room) = restorer.state.rooms.named(room.key()) {
            restorer.state.visit(room);
        }
    }
    restorer.restore_ignores(&rows.users, &rows.accounts);
    for (id, saved) in &rows.users {
        restorer.restore_query(*id, saved);
    }
    Unsaved::default().collect(&mut restorer.state); // what was restored is stored
    for (id, saved) in &rows.users {
        restorer.restore_rights(*id, &saved.operates);
    }
    for (socket, saved) in &rows.sockets {
        restorer.restore_socket(*socket, saved);
    }
    let mut state = restorer.state;
    for (number, SavedBlock { person, stays }) in rows.blocks {
        let owner = state.users.find(person).map(|user| (user, person));
        state.memberships.restore_block(number, owner, stays);
    }
    end_lost_users(&mut state);
    let is_takeover = !rows.sockets.is_empty();
    if !is_takeover {
        state.drop_departed_everywhere();
    }
    Ok(state)
}

/// Returns the moderation, and the rooms that connected users have visited.
fn restore_moderation(
    limits: &Limits,
    scopes: Vec<(u64, SavedScope<Moderation>)>,
) -> (ModerationTable, Vec<RoomName>) {
    let last_number = scopes.iter().map(|(number, _)| *number).max().unwrap_or_default();
    let (mut table, mut visited) = (ModerationTable::new(last_number), Vec::new());
    for (number, SavedScope { room, seal: sealed, order, was_visited }) in scopes {
        let SavedOrder { mut moderation, topic } = order;
        if room.is_none() && (sealed.is_none() || sealed != seal(limits)) {
            moderation.operators.clear();
        }
        visited.extend(room.clone().filter(|_| was_visited));
        table.restore(number, room, moderation, topic);
    }
    (table, visited)
}

/// Messages delivered after a mailbox was stored are delivered again.
fn restore_mail(state: &mut State, mailboxes: &[(UserId, SavedMailbox)], mail: &[(UserId, u64)]) {
    for (account, saved) in mailboxes {
        if state.accounts.has(*account) {
            state.mail.restore(*account, saved.after, saved.paged);
        }
    }
    for (account, id) in mail {
        state.mail.restore_message(*account, *id);
    }
}

struct Restorer<'r> {
    state: State,
    limits: &'r Limits,
    now: Now,
    meter: &'r Meter,
}

impl Restorer<'_> {
    fn restore_user(&mut self, id: UserId, saved: &SavedUser) {
        let state = &mut self.state;
        if state.users.holder(saved.name.key()).is_some() {
            return; // never stored like this; the first one keeps the name
        }
        let spans = Spans::new(saved.stays.clone(), saved.forgotten);
        let peer = saved.address.map(Peer::new);
        let ix = state.restore_user(
            (id, &saved.name),
            (saved.since, saved.first),
            (saved.settings, peer),
            spans,
        );
        state.users.set_away(ix, saved.away.as_deref());
        // The creator of a room is not stored; the room counts for its first member.
        let creator = peer.filter(|peer| self.limits.apply_to(*peer));
        for (at, name) in saved.rooms.iter().enumerate() {
            let room = state.open_room(name, creator);
            let arrival = saved.arrivals.get(at).copied().unwrap_or_default();
            state.memberships.restore(ix, &saved.name, room, arrival);
        }
        let last = saved.rooms.last().filter(|_| saved.has_current);
        let current = saved.current.as_ref().or(last);
        let current = current.and_then(|name| state.rooms.named(name.key()));
        let connection = state.users[ix].connection;
        state.connections.set_current(connection, current);
        if let Some(token) = saved.token {
            state.begin_session(ix, token);
            let until = saved.until.map(|until| self.now.since_start_at(until));
            let until = until.unwrap_or(self.now.since_start + self.limits.session_grace);
            state.drop_socket(self.limits, ix, until);
        }
        if let Some(position) = &saved.position {
            self.restore_position(ix, position);
        }
    }

    fn restore_position(&mut self, user: UserIx, position: &SavedPosition) {
        let connection = self.state.users[user].connection;
        self.state.set_delivery(connection, position.delivery);
        for line in &position.deferred {
            let bytes = Lines::new(line.text.clone().into_bytes(), self.meter);
            let line = DeferredLine { after: line.after, bytes, actor: line.actor };
            self.state.connections.defer(connection, line);
        }
    }

    /// The entry of a user is at least as recent as that of the account.
    fn restore_ignores(
        &mut self,
        users: &[(UserId, SavedUser)],
        accounts: &[(UserId, SavedAccount)],
    ) {
        for (id, saved) in accounts {
            if !self.state.users.is_online(*id) {
                self.state.relations.restore(*id, saved.ignores.clone());
            }
        }
        for (id, saved) in users {
            if self.state.users.is_online(*id) {
                self.state.relations.restore(*id, saved.ignores.clone());
            }
        }
        for user in self.state.users.by_id() {
            self.state.relations.log_in(self.state.users[user].id);
        }
    }

    /// The operator rights of a guest are stored with the user. A room without members has ended
    /// unless other moderation was stored for it.
    fn restore_rights(&mut self, id: UserId, operates: &[RoomName]) {
        if !self.state.users.is_online(id) {
            return;
        }
        for name in operates {
            if let Some(room) = self.state.rooms.named(name.key()) {
                let moderation = self.state.rooms[room].moderation;
                if !self.state.moderation[moderation].is_operator(id) {
                    self.state.moderation.promote(moderation, id);
                }
            }
        }
    }

    fn restore_query(&mut self, id: UserId, saved: &SavedUser) {
        let Some(user) = self.state.users.find(id) else { return };
        let connection = self.state.users[user].connection;
        let query = match saved.query {
            Query::On(other) if !self.state.users.is_online(other) => Query::Gone,
            query => query,
        };
        self.state.set_query(connection, query);
    }

    fn restore_socket(&mut self, socket: ConnId, saved: &SavedSocket) {
        let state = &mut self.state;
        let address = saved.address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
        let peer = Peer { is_encrypted: saved.is_encrypted, ..Peer::new(address) };
        let deadline = saved.login_deadline.map(|deadline| self.now.since_start_at(deadline));
        state.connections.open(socket, peer, deadline.unwrap_or(Duration::MAX));
        let Some(connection) = state.connections.of(socket) else { return };
        if saved.was_refused {
            state.connections.note_refused_login(connection);
        }
        if let Some(poster) = saved.poster {
            let deadline = deadline.unwrap_or(Duration::MAX);
            state.connections.note_poster(connection, poster, deadline);
        }
        for (setting, _) in crate::commands::Setting::TABLE {
            if saved.chosen[setting as usize] {
                state.choose(connection, setting, saved.settings);
            }
        }
        if let Some(user) = saved.user.and_then(|id| state.users.find(id)) {
            state.resume(user, socket, 0);
            self.restore_position(user, &saved.position);
        }
    }
}

/// Ends users that have neither a socket nor a session.
fn end_lost_users(state: &mut State) {
    for user in state.users.by_id() {
        let connection = state.connection_of(user);
        if connection.socket.is_none() && connection.session.is_none() {
            state.end_queries_with(user);
            state.set_query(state.users[user].connection, Query::Off);
            state.remove_user(user);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::server::store::{Collection, Snapshot};
    use std::time::Duration;

    use crate::protocol::ErrorReason;
    use crate::server::auth::passwords::{HashFile, Outcome};
    use crate::server::hub::test_support::{
        Driver, connect, handle, hub, now, refused, register, restarted, say, session,
    };
    use crate::server::hub::{Input, Limits};
    use crate::server::turn::Turn;

    /// A hub with a room whose operator alice has no session, and whose member bob is a
    /// guest with a session.
    fn hub_with_locked_room(has_account: bool) -> Driver {
        let mut hub = hub(Limits::default());
        (0..2).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        if has_account {
            register(&mut hub, 0);
        }
        for line in ["/join ops", "/ban 192.0.2.7", "/lock", "/topic tea"] {
            say(&mut hub, 0, line);
        }
        say(&mut hub, 1, "bob");
        say(&mut hub, 0, "/invite bob");
        for line in ["/join ops", "/session"] {
            say(&mut hub, 1, line);
        }
        hub
    }

    fn expire_sessions(hub: &mut Driver) {
        hub.tick(now(Duration::from_mins(2)), &mut Turn::default());
        hub.check_invariants();
    }

    #[test]
    fn expired_session_leaves_moderation_of_others_in_place() {
        let mut hub = restarted(&mut hub_with_locked_room(true));
        expire_sessions(&mut hub);
        let mut hub = restarted(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        assert_eq!(refused(&mut hub, 0, "/join ops"), Some(ErrorReason::RoomLocked));
        hub.check_invariants();
    }

    #[test]
    fn lock_ends_when_session_of_guest_operator_expires() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        for line in ["alice", "/join ops", "/ban 192.0.2.7", "/lock", "/session"] {
            say(&mut hub, 0, line);
        }
        let mut hub = restarted(&mut hub);
        expire_sessions(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        let (_, reply) = say(&mut hub, 0, "/join ops");
        assert!(reply.text.starts_with("[JOINED #ops]"), "{}", reply.text);
        let (_, reply) = say(&mut hub, 0, "/unban 192.0.2.7");
        assert!(reply.text.starts_with("[UNBANNED #ops 192.0.2.7]"), "{}", reply.text);
    }

    #[test]
    fn lock_that_has_ended_stays_ended_after_another_restart() {
        let hash = HashFile::read("tests/passwords/quick.hash").expect("a hash");
        let mut hub = hub(Limits { oper_password: Some(hash), ..Limits::default() });
        connect(&mut hub, 0);
        for line in ["alice", "/join ops", "/ban 192.0.2.7", "/lock", "/session"] {
            say(&mut hub, 0, line);
        }
        let mut hub = restarted(&mut hub);
        expire_sessions(&mut hub);
        // A server operator could open the lock now.
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        register(&mut hub, 0);
        say(&mut hub, 0, "/oper it is right");
        handle(&mut hub, 0, Input::Hashed(Outcome::Checked(true)));
        let mut hub = restarted(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "dave");
        let (_, reply) = say(&mut hub, 0, "/join ops");
        assert!(reply.text.starts_with("[JOINED #ops]"), "{}", reply.text);
    }

    #[test]
    fn lock_outlives_a_restart_while_a_server_operator_may_open_it() {
        let hash = HashFile::read("tests/passwords/quick.hash").expect("a hash");
        for (has_password, has_account) in [(true, true), (true, false), (false, false)] {
            let limits = Limits { oper_password: Some(hash.clone()), ..Limits::default() };
            let mut hub = hub(limits);
            for (slot, name) in [(0, "guest"), (1, "root")] {
                connect(&mut hub, slot);
                say(&mut hub, slot, name);
            }
            say(&mut hub, 0, "/join ops");
            say(&mut hub, 1, "/oper it is right");
            handle(&mut hub, 1, Input::Hashed(Outcome::Checked(true)));
            for line in ["/lock", "/join ops", "/lock"] {
                let (_, reply) = say(&mut hub, 1, line);
                assert!(!reply.text.starts_with("[ERROR"), "{}", reply.text);
            }
            say(&mut hub, 0, "/join mine");
            say(&mut hub, 0, "/lock");
            if has_account {
                register(&mut hub, 1);
            }
            if !has_password {
                hub.limits.oper_password = None;
            }
            let mut hub = restarted(&mut restarted(&mut hub));
            connect(&mut hub, 0);
            let (_, reply) = say(&mut hub, 0, "carol");
            assert_eq!(reply.text.contains("#lobby is locked"), has_password, "{}", reply.text);
            let locked = |is_locked: bool| is_locked.then_some(ErrorReason::RoomLocked);
            assert_eq!(refused(&mut hub, 0, "/join ops"), locked(has_password));
            // The guest who locked #mine has no session.
            assert_eq!(refused(&mut hub, 0, "/join mine"), locked(has_account));
            if has_password {
                say(&mut hub, 0, "/oper it is right");
                handle(&mut hub, 0, Input::Hashed(Outcome::Checked(true)));
                for room in ["lobby", "ops"] {
                    say(&mut hub, 0, &format!("/join {room}"));
                    let (_, reply) = say(&mut hub, 0, "/unlock");
                    assert_eq!(reply.text, format!("[UNLOCKED #{room}]\n"));
                }
            }
            hub.check_invariants();
        }
    }

    #[test]
    fn restored_room_ends_when_its_last_member_leaves() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        for line in ["alice", "/join ops", "/ban 192.0.2.7"] {
            say(&mut hub, 0, line);
        }
        let token = session(&mut hub, 0);
        let mut hub = restarted(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, &format!("/resume {token} 0"));
        handle(&mut hub, 0, Input::Drained);
        say(&mut hub, 0, "/part ops");
        say(&mut hub, 0, "/join ops");
        let (_, reply) = say(&mut hub, 0, "/bans");
        assert!(reply.text.starts_with("[BANS #ops 0]"), "{}", reply.text);
    }

    #[test]
    fn bans_of_guest_operator_outlive_sessions_but_lock_does_not() {
        let mut hub = restarted(&mut hub_with_locked_room(false));
        expire_sessions(&mut hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "carol");
        let (_, reply) = say(&mut hub, 0, "/join ops");
        assert!(reply.text.starts_with("[JOINED #ops]"), "the lock ended: {}", reply.text);
        let (_, reply) = say(&mut hub, 0, "/bans");
        assert!(reply.text.starts_with("[BANS #ops 1]"), "{}", reply.text);
        say(&mut hub, 0, "/part");
        say(&mut hub, 0, "/join ops");
        let (_, reply) = say(&mut hub, 0, "/bans");
        assert!(reply.text.starts_with("[BANS #ops 0]"), "the room has ended: {}", reply.text);
        hub.check_invariants();
    }

    #[test]
    fn ignores_of_a_session_count_and_not_those_of_its_account() {
        let account = r#"{"name":"alice","hash":"a hash","ignores":[[2,"eve"]]}"#;
        let user = format!(
            r#"{{"name":"alice","token":{:?},"first":0,"since":0,
                "settings":{{"echo":true,"joins":true,"tags":false}},"rooms":["lobby"],
                "has_current":true,"stays":[],"away":null,"query":"Off","ignores":[]}}"#,
            crate::server::auth::tokens::hash("a token")
        );
        let entries =
            vec![(Collection::Account, 1, account.to_owned()), (Collection::Session, 1, user)];
        let hub = Driver::restored(Limits::default(), &Snapshot { entries, ..Snapshot::default() });
        let alice = hub.state.users.named("alice").expect("restored");
        assert!(hub.state.relations.of(hub.state.users[alice].id).ignores.is_empty());
    }
}
