//! The stored form of the state: which rows changed, their values, and how the state is
//! restored from them at the next start.
//!
//! A row is JSON; its fields may be added, but never removed or renamed, since data of older
//! versions must stay readable. A server alone stores users with a session only; see
//! [`Persisted`].

pub(super) mod restore;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::state::State;
use super::state::connections::{Connection, DeliveryMode, Phase, Poster, Query, Settings};
use super::state::index::{ModerationIx, UserIx};
use super::state::moderation::SERVER_NUMBER;
use crate::commands::Setting;
use crate::protocol::{Name, RoomName, Stamp};
use crate::server::auth::passwords::digest;
use crate::server::auth::tokens::TokenHash;
use crate::server::clock::Now;
use crate::server::limits::Limits;
use crate::server::net::ConnId;
use crate::server::record::UserId;
use crate::server::store::{Change, Collection, MembershipSpan};

/// Which users are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Persisted {
    /// Users with a session, which can resume after a restart.
    #[default]
    Sessions,
    /// Every user and every connection, so that another server can take over while clients
    /// stay connected. Not stored even then: the target of `/reply`, idle times, counters of
    /// wrong passwords, and joins and quits that are being coalesced.
    Everyone,
}

/// A user as stored, with or without a session.
#[derive(Debug, Serialize, Deserialize)]
struct SavedUser {
    name: Name,
    /// `None` without a session, with [`Persisted::Everyone`] only.
    token: Option<TokenHash>,
    first: u64,
    since: Stamp,
    settings: Settings,
    /// Older versions put the current room last, if `has_current`.
    rooms: Vec<RoomName>,
    has_current: bool,
    #[serde(default)]
    current: Option<RoomName>,
    /// The latest membership spans; older ones are stored in blocks.
    stays: Vec<MembershipSpan>,
    away: Option<String>,
    query: Query,
    ignores: Vec<(UserId, Name)>,
    /// All rooms in which the user is an operator, including rooms they have left.
    #[serde(default)]
    operates: Vec<RoomName>,
    /// The position of each of `rooms` in the global order of joins.
    #[serde(default)]
    arrivals: Vec<u64>,
    /// See `Spans::evicted_upto`.
    #[serde(default)]
    forgotten: u64,
    /// The last remote address, matched by network bans. Older versions stored the /64 of
    /// an IPv6 address, and nothing for loopback.
    #[serde(default, rename = "network")]
    address: Option<IpAddr>,
    /// When the session ends that has lost its socket; after a restart the full grace
    /// period counts if this is not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Stamp>,
    /// How the messages of a session without a socket were delivered, and its deferred lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<SavedPosition>,
}

/// How far a client has read.
#[derive(Debug, Serialize, Deserialize)]
struct SavedPosition {
    delivery: DeliveryMode,
    deferred: Vec<SavedLine>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedLine {
    after: u64,
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<UserId>,
}

/// A connected socket as stored.
#[derive(Debug, Serialize, Deserialize)]
struct SavedSocket {
    address: Option<IpAddr>,
    is_encrypted: bool,
    /// `None` before login.
    user: Option<UserId>,
    was_refused: bool,
    settings: Settings,
    chosen: [bool; Setting::TABLE.len()],
    /// Set if the socket posts without a login.
    #[serde(default)]
    poster: Option<Poster>,
    /// `None` after login.
    login_deadline: Option<Stamp>,
    position: SavedPosition,
}

/// An account as stored.
#[derive(Debug, Serialize, Deserialize)]
struct SavedAccount {
    name: Name,
    hash: Arc<str>,
    ignores: Vec<(UserId, Name)>,
}

/// The mail of an account as stored; SQLite reads it, too (`store/sqlite.rs`).
#[derive(Debug, Serialize, Deserialize)]
struct SavedMailbox {
    /// The position: the messages behind it wait.
    after: u64,
    /// The last message of mail that a login sends in pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    paged: Option<u64>,
    /// The ignored users, whose messages do not wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hidden: Vec<UserId>,
}

/// Moderation as stored.
#[derive(Debug, Serialize, Deserialize)]
struct SavedScope<M> {
    /// `None` for the server's moderation.
    room: Option<RoomName>,
    /// For the server: the digest of the operators' password hash. The rights of server
    /// operators end when it changes.
    #[serde(default)]
    seal: Option<String>,
    order: SavedOrder<M>,
    /// See `Room::was_visited`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    was_visited: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedOrder<M> {
    #[serde(flatten)]
    moderation: M,
    topic: Option<Box<str>>,
}

/// A block of membership spans as stored.
#[derive(Debug, Serialize, Deserialize)]
struct SavedBlock<B> {
    person: UserId,
    stays: B,
}

/// The key under which a socket is stored.
fn socket_key(socket: ConnId) -> u64 {
    u64::from(socket.slot) << 32 | u64::from(socket.generation)
}

fn socket_of(key: u64) -> ConnId {
    let half = |shift| u32::try_from(key >> shift & u64::from(u32::MAX)).unwrap_or_default();
    ConnId { slot: half(32), generation: half(0) }
}

fn seal(limits: &Limits) -> Option<String> {
    limits.oper_password.as_ref().map(|hash| digest(hash.as_str()))
}

/// The rows that differ from their stored values.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    rows: BTreeSet<(Collection, u64)>,
    pub(super) scope: Persisted,
    /// Whether the server shuts down, so that no row may be behind.
    pub(super) is_closing: bool,
}

impl Unsaved {
    /// Collects the dirty marks of all tables.
    pub(super) fn collect(&mut self, state: &mut State) {
        if has_marks(state) {
            self.collect_marks(state);
        }
    }

    fn collect_marks(&mut self, state: &mut State) {
        let by_index = [state.connections.dirty_users.take(), state.memberships.dirty.take()];
        for ix in by_index.into_iter().flatten() {
            let id = state.users.get(ix).map(|user| user.id);
            id.inspect(|id| self.note_user(state, *id));
        }
        for id in state.sessions.dirty.take() {
            self.rows.insert((Collection::Session, id.0));
        }
        let mut ignoring = state.relations.dirty.take();
        for id in state.relations.renamed.take() {
            if self.scope == Persisted::Everyone {
                ignoring.push(id);
                ignoring.extend_from_slice(&state.relations.of(id).ignored_by);
            }
        }
        for id in ignoring {
            self.note_user(state, id);
            state.mail.note_ignores(id);
            if state.accounts.has(id) {
                self.rows.insert((Collection::Account, id.0));
            }
        }
        for id in state.sessions.lost.take() {
            if self.scope == Persisted::Everyone {
                self.note_user(state, id);
            }
        }
        let users = [state.users.dirty.take(), state.moderation.dirty_operators.take()];
        for id in users.into_iter().flatten() {
            self.note_user(state, id);
        }
        let accounts = state.accounts.dirty.take();
        self.rows.extend(accounts.into_iter().map(|id| (Collection::Account, id.0)));
        self.collect_mail(state);
        self.collect_moderation(state);
        self.collect_blocks(state);
        for socket in state.connections.dirty_sockets.take() {
            if self.scope == Persisted::Everyone {
                self.rows.insert((Collection::Socket, socket_key(socket)));
            }
        }
    }

    fn note_user(&mut self, state: &State, id: UserId) {
        let user = state.users.find(id);
        let has_session = user.is_some_and(|user| state.connection_of(user).session.is_some());
        if has_session || self.scope == Persisted::Everyone {
            self.rows.insert((Collection::Session, id.0));
        }
    }

    fn collect_mail(&mut self, state: &mut State) {
        let is_exact = self.is_closing || self.scope == Persisted::Everyone;
        for id in state.mail.dirty.take() {
            let row = (Collection::Mailbox, id.0);
            let user = state.users.find(id);
            let is_connected = user.is_some_and(|user| state.connection_of(user).socket.is_some());
            if !state.mail.is_changed(id) {
                self.rows.remove(&row);
            } else if is_exact || !is_connected || state.mail.is_due(id) {
                self.rows.insert(row);
            }
        }
    }

    fn collect_moderation(&mut self, state: &mut State) {
        for ix in state.moderation.dirty.take() {
            if state.moderation.get(ix).is_some()
                && (state.moderation[ix].is_stored || is_worth_saving(state, ix, self.scope))
            {
                self.rows.insert((Collection::Moderation, state.moderation.note_stored(ix)));
            }
        }
        let ended = state.moderation.dirty_ended.take();
        self.rows.extend(ended.into_iter().map(|number| (Collection::Moderation, number)));
    }

    fn collect_blocks(&mut self, state: &mut State) {
        for number in state.memberships.dirty_blocks.take() {
            let owner = state.memberships.block_owner(number);
            let is_stored = |user: UserIx| state.connection_of(user).session.is_some();
            if owner.is_none_or(is_stored) || self.scope == Persisted::Everyone {
                self.rows.insert((Collection::Spans, number));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Clears the rows, which are stored with their current values.
    pub(super) fn clear(&mut self, state: &mut State) {
        if self.rows.is_empty() {
            return; // most turns change no row
        }
        for (collection, key) in std::mem::take(&mut self.rows) {
            if collection == Collection::Mailbox {
                state.mail.note_stored(UserId(key));
            }
        }
    }

    /// The current values of the rows.
    pub(super) fn changes(&self, state: &State, limits: &Limits, now: Now) -> Vec<Change> {
        let encoder = Encoder { state, limits, now, scope: self.scope };
        let change = |&(collection, key)| {
            let value = encoder.value(collection, key);
            Change { collection, key, value }
        };
        self.rows.iter().map(change).collect()
    }

    /// Describes the rows for the server log; long lists are truncated.
    pub(super) fn describe(&self, state: &State) -> String {
        let first = self.rows.iter().take(NAMED_MAX);
        let mut names: Vec<String> =
            first.map(|(collection, key)| describe(state, *collection, *key)).collect();
        if self.rows.len() > NAMED_MAX {
            names.push(format!("and {} more", self.rows.len() - NAMED_MAX));
        }
        names.join(", ")
    }
}

/// Whether a table has dirty marks. Most turns leave none.
fn has_marks(state: &State) -> bool {
    let State { connections, memberships, moderation, relations, sessions, .. } = state;
    let is_clean = connections.dirty_users.is_empty()
        && connections.dirty_sockets.is_empty()
        && memberships.dirty.is_empty()
        && memberships.dirty_blocks.is_empty()
        && moderation.dirty.is_empty()
        && moderation.dirty_ended.is_empty()
        && moderation.dirty_operators.is_empty()
        && relations.dirty.is_empty()
        && relations.renamed.is_empty()
        && sessions.dirty.is_empty()
        && sessions.lost.is_empty()
        && state.accounts.dirty.is_empty()
        && state.mail.dirty.is_empty()
        && state.users.dirty.is_empty();
    !is_clean
}

/// Maximum number of unsaved changes that are listed by name.
const NAMED_MAX: usize = 10;

fn describe(state: &State, kind: Collection, key: u64) -> String {
    let user_id = UserId(key);
    match kind {
        Collection::Session => match state.users.find(user_id) {
            Some(user) => format!("the session of {}", state.users[user].name),
            None => "the end of a session".to_owned(),
        },
        Collection::Account => match state.accounts.of(user_id) {
            Some(account) => format!("the account {}", account.name),
            None => "the end of an account".to_owned(),
        },
        Collection::Mailbox => match state.accounts.of(user_id) {
            Some(account) => format!("the mail of {}", account.name),
            None => "the end of an account's mail".to_owned(),
        },
        Collection::Spans => "memberships of a session".to_owned(),
        Collection::Socket => "a connection".to_owned(),
        Collection::Moderation if key == SERVER_NUMBER => {
            "the server's bans and operators".to_owned()
        }
        Collection::Moderation => {
            let moderation = state.moderation.index_of(key).map(|ix| &state.moderation[ix]);
            match moderation.and_then(|moderation| moderation.room.as_ref()) {
                Some(room) => format!("the moderation of {room}"),
                None => "the end of a room".to_owned(),
            }
        }
    }
}

/// Whether moderation is stored. That which ends with a guest's logout is not, since any guest
/// can create rooms.
fn is_worth_saving(state: &State, ix: ModerationIx, scope: Persisted) -> bool {
    let moderation = &state.moderation[ix];
    topic_of(state, ix).is_some()
        || moderation.outlives_members(|person| state.accounts.has(person))
        || (scope == Persisted::Everyone && !moderation.operators.is_empty())
}

/// The topic of the room with this moderation.
fn topic_of(state: &State, ix: ModerationIx) -> Option<&str> {
    let name = state.moderation[ix].room.as_ref()?.key();
    let room = state.rooms.named(name);
    room.map_or(state.moderation.dormant_topic(name), |room| state.rooms[room].topic.as_deref())
}

/// Encodes rows.
struct Encoder<'s> {
    state: &'s State,
    limits: &'s Limits,
    now: Now,
    scope: Persisted,
}

impl Encoder<'_> {
    /// The stored form of a row; `None` if there is none, so that it is deleted.
    fn value(&self, collection: Collection, key: u64) -> Option<String> {
        match collection {
            Collection::Session => self.user(UserId(key)),
            Collection::Account => self.account(UserId(key)),
            Collection::Mailbox => self.mailbox(UserId(key)),
            Collection::Moderation => self.moderation(key),
            Collection::Spans => {
                let (person, stays) = self.state.memberships.block(key)?;
                to_json(&SavedBlock { person, stays })
            }
            Collection::Socket => self.socket(key),
        }
    }

    fn user(&self, id: UserId) -> Option<String> {
        let state = self.state;
        let ix = state.users.find(id)?;
        let (me, connection) = (&state.users[ix], state.connection_of(ix));
        let token = connection.session.as_deref().copied();
        if token.is_none() && self.scope == Persisted::Sessions {
            return None;
        }
        let rooms = state.memberships.rooms_of(ix);
        let arrival =
            |room| state.memberships.named(room, me.name.key()).map_or(0, |it| it.arrival);
        let name_of = |room: usize| state.rooms[room].name.clone();
        let operated = state.moderation.operated_by(id);
        let is_offline = self.scope == Persisted::Everyone && connection.socket.is_none();
        let until = state.sessions.ends_at(id).filter(|_| is_offline);
        to_json(&SavedUser {
            name: me.name.clone(),
            token,
            first: me.first,
            since: me.since,
            settings: connection.settings,
            rooms: rooms.iter().map(|room| name_of(*room)).collect(),
            has_current: connection.current.is_some(),
            current: connection.current.map(name_of),
            stays: state.memberships.spans(ix).recent.clone(),
            away: me.away.as_deref().map(str::to_owned),
            query: connection.query,
            ignores: self.ignores(id),
            forgotten: state.memberships.spans(ix).evicted_upto,
            operates: operated.filter_map(|it| state.moderation[it].room.clone()).collect(),
            arrivals: rooms.iter().map(|room| arrival(*room)).collect(),
            address: connection.peer.map(|peer| peer.address),
            until: until.map(|until| self.wall(until)),
            position: is_offline.then(|| saved_position(connection)),
        })
    }

    fn wall(&self, since_start: std::time::Duration) -> Stamp {
        self.now.wall_after(since_start.saturating_sub(self.now.since_start))
    }

    fn socket(&self, key: u64) -> Option<String> {
        let socket = socket_of(key);
        let connection = self.state.connections.find(socket)?;
        let was_refused = match connection.phase {
            Phase::Closing => return None,
            Phase::Greeting { was_refused } => was_refused,
            Phase::LoggedIn(_) => false,
        };
        let deadline = self.state.connections.login_deadline(socket);
        to_json(&SavedSocket {
            address: connection.peer.map(|peer| peer.address),
            is_encrypted: connection.peer.is_some_and(|peer| peer.is_encrypted),
            user: connection.user().map(|user| self.state.users[user].id),
            was_refused,
            settings: connection.settings,
            chosen: connection.chosen,
            poster: self.state.connections.poster(socket),
            login_deadline: deadline.map(|deadline| self.wall(deadline)),
            position: saved_position(connection),
        })
    }

    fn ignores(&self, id: UserId) -> Vec<(UserId, Name)> {
        let ignores = self.state.ignores_of(id);
        ignores.map(|(person, name)| (person, name.clone())).collect()
    }

    fn account(&self, id: UserId) -> Option<String> {
        let account = self.state.accounts.of(id)?;
        let (name, hash) = (account.name.clone(), account.hash.clone());
        to_json(&SavedAccount { name, hash, ignores: self.ignores(id) })
    }

    fn mailbox(&self, id: UserId) -> Option<String> {
        let after = self.state.mail.position(id)?;
        let hidden = self.state.relations.ignored_ids(id);
        to_json(&SavedMailbox { after, paged: self.state.mail.paged(id), hidden })
    }

    fn moderation(&self, number: u64) -> Option<String> {
        let ix = self.state.moderation.index_of(number)?;
        if !is_worth_saving(self.state, ix, self.scope) {
            return None;
        }
        let moderation = &self.state.moderation[ix];
        let room = moderation.room.clone();
        let live = room.as_ref().and_then(|room| self.state.rooms.named(room.key()));
        let was_visited = live.is_some_and(|room| self.state.rooms[room].was_visited);
        to_json(&SavedScope {
            seal: if room.is_none() { seal(self.limits) } else { None },
            room,
            order: SavedOrder { moderation, topic: topic_of(self.state, ix).map(Into::into) },
            was_visited: was_visited && self.scope == Persisted::Everyone,
        })
    }
}

fn saved_position(connection: &Connection) -> SavedPosition {
    let lines = connection.deferred.iter().flat_map(|lines| lines.iter());
    let deferred = lines.map(|line| SavedLine {
        after: line.after,
        text: String::from_utf8_lossy(&line.bytes).into_owned(),
        actor: line.actor,
    });
    SavedPosition { delivery: connection.delivery, deferred: deferred.collect() }
}

fn to_json(row: &impl Serialize) -> Option<String> {
    // The row types have no maps with other keys than strings, so this does not fail.
    serde_json::to_string(row).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::auth::passwords::Outcome;
    use crate::server::hub::Input;
    use crate::server::hub::test_support::{
        Driver, Storing, connect, handle, hub, mark_saved, register, restarted, say, session,
        tick_at,
    };

    /// A hub with alice, who has created #ops, bob and carol; alice and bob have sessions.
    fn hub_with_sessions() -> Driver {
        let mut hub = hub(Limits::default());
        (0..4).for_each(|slot| connect(&mut hub, slot));
        for (slot, name) in [(0, "alice"), (1, "bob"), (2, "carol")] {
            say(&mut hub, slot, name);
            say(&mut hub, slot, "/join ops");
        }
        session(&mut hub, 0);
        session(&mut hub, 1);
        hub
    }

    #[test]
    fn commands_leave_the_rows_unsaved_that_they_change() {
        let mut hub = hub_with_sessions();
        mark_saved(&mut hub);
        let mut unsaved_after = |slot, line: &str| {
            say(&mut hub, slot, line);
            if line.contains("secret") {
                handle(&mut hub, slot, Input::Hashed(Outcome::Hashed(Some("a hash".into()))));
            }
            let unsaved = hub.describe_unsaved();
            mark_saved(&mut hub);
            unsaved
        };
        let (alice, ops) = ("the session of alice", "the moderation of #ops");
        for (slot, line, unsaved) in [
            (0, "hi", ""),
            (0, "/away", alice),
            (0, "/back", alice),
            (0, "/set joins off", alice),
            (0, "/query bob", alice),
            (0, "/query", alice),
            (0, "/join red", alice),
            (0, "/part red", alice),
            (0, "/join ops", alice),
            (0, "/topic tea", ops),
            (0, "/mute bob", ops),
            (0, "/unmute bob", ops),
            (0, "/ban 192.0.2.1", ops),
            (0, "/unban 192.0.2.1", ops),
            (0, "/lock", ops),
            (3, "dave", ""),
            (0, "/invite dave", ops),
            (3, "/join ops", ops),
            (0, "/unlock", ops),
            // Rights do not pass to a later room of this name.
            (0, "/join red", alice),
            (1, "/join red", "the session of bob"),
            (0, "/op bob", "the session of bob"),
            (1, "/part red", "the session of bob"),
            (0, "/part red", "the session of alice, the session of bob"),
            (0, "/join ops", alice),
            (0, "/op bob", "the session of bob, the moderation of #ops"),
            (0, "/deop bob", "the session of bob, the moderation of #ops"),
            (0, "/ignore bob", alice),
            // The name of an ignored user is stored with the next change.
            (1, "/nick rob", "the session of rob"),
            (0, "/unignore rob", alice),
            // Accounts stay operators of the rooms they have left.
            (0, "/part ops", alice),
            (2, "/topic -", ops),
            (0, "/register secret", "the account alice, the moderation of #ops"),
            (0, "/passwd secret", "the account alice"),
            (0, "/ignore rob", "the session of alice, the account alice"),
            (1, "/quit", "the end of a session"),
            (0, "/quit", "the end of a session"),
            (2, "/msg alice hi", "the mail of alice"),
        ] {
            assert_eq!(unsaved_after(slot, line), unsaved, "{line}");
        }
    }

    #[test]
    fn new_name_is_stored_with_those_who_ignore_the_user_for_a_takeover() {
        let mut hub = hub_with_sessions();
        hub.set_persisted(Persisted::Everyone);
        register(&mut hub, 0);
        say(&mut hub, 0, "/ignore bob");
        mark_saved(&mut hub);
        say(&mut hub, 1, "/nick rob");
        let unsaved = hub.describe_unsaved();
        for row in ["the session of alice", "the session of rob", "the account alice"] {
            assert!(unsaved.contains(row), "{unsaved}");
        }
    }

    #[test]
    fn moderation_that_no_one_needs_is_deleted_after_a_restart() {
        let mut hub = restarted(&mut hub_with_sessions());
        mark_saved(&mut hub);
        connect(&mut hub, 0);
        for line in ["carol", "/join red", "/topic tea"] {
            say(&mut hub, 0, line);
        }
        assert_eq!(hub.describe_unsaved(), "the moderation of #red");
        let mut hub = restarted(&mut hub);
        // A restored right is stored once more.
        assert_eq!(hub.describe_unsaved(), "the session of alice, the end of a room");
    }

    #[test]
    fn news_for_absent_members_outlives_a_takeover() {
        let mut hub = hub(Limits::default());
        (0..2).for_each(|slot| connect(&mut hub, slot));
        for (slot, line) in [(0, "alice"), (0, "/join ops"), (1, "bob"), (1, "/join ops")] {
            say(&mut hub, slot, line);
        }
        let token = session(&mut hub, 1);
        let mut hub = restarted(&mut hub);
        hub.storing = Storing::Everything;
        hub.set_persisted(Persisted::Everyone);
        connect(&mut hub, 0);
        hub.take_over();
        say(&mut hub, 0, &format!("/resume {token} 0"));
        let (_, reply) = handle(&mut hub, 0, Input::Drained);
        assert_eq!(reply.text, "#ops * server made bob an operator\n");
    }

    #[test]
    fn visited_room_ends_with_its_last_member_after_a_takeover() {
        let mut hub = hub_with_sessions();
        // The moderation of a room that is not visited again would outlive its members.
        register(&mut hub, 0);
        say(&mut hub, 0, "/ban 192.0.2.7");
        say(&mut hub, 0, "/quit");
        let token = session(&mut hub, 1);
        for lines in [[&*format!("/resume {token} 0"), "/ping"], ["erin", "/join ops"]] {
            let mut hub = restarted(&mut hub);
            hub.storing = Storing::Everything;
            hub.set_persisted(Persisted::Everyone);
            connect(&mut hub, 0);
            for line in &lines {
                say(&mut hub, 0, line);
            }
            handle(&mut hub, 0, Input::Disconnected);
            hub.take_over();
            tick_at(&mut hub, Duration::from_mins(2), 0);
            connect(&mut hub, 1);
            say(&mut hub, 1, "dave");
            say(&mut hub, 1, "/join ops");
            assert_eq!(say(&mut hub, 1, "/bans").1.text, "[BANS #ops 0]\n", "{lines:?}");
        }
    }
}
