//! The hub: the state machine that owns all chat state (users, rooms, memberships,
//! sessions, accounts, moderation). It handles inputs and returns log records and
//! effects in a [`Turn`], so a test runs a whole conversation in microseconds.
//!
//! 1. The hub does no IO and has no clock, randomness, lock or await; each input
//!    carries the time.
//! 2. A turn lists effects in the order in which they arose, and each reader sees
//!    that order. No effect is visible before the turn's records are in the log.
//! 3. Every request line gets exactly one answer: its echo, a reply, or one error.
//! 4. A connection gets no further lines after its farewell.
//! 5. State about a user is keyed by [`UserId`], not by name, so it follows a rename
//!    and never passes to the next user of the name.
//! 6. A permission belongs to a user in a room or on the server, and ends with either.
//!    Permissions are checked before a command has any effect.
//!
//! `commands.rs` defines the syntax of commands; the modules below define their
//! effects, one module per topic. The hub does not know sockets, TLS or the log's
//! storage format.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::limits::Limits;
use super::turn::{Audience, ConnId, Origin, Topic, Turn};
use crate::commands::Setting;
use crate::protocol::codec::Frame;
use crate::protocol::{
    Cid, ErrorCode, Event, Farewell, Key, LINE_MAX, LOGIN_LINE_MAX, Name, Refusal, RoomName, Stamp,
    Tags, VERSION,
};
use crate::server::auth::passwords::Outcome;
use crate::server::limits::rate_limit::{Rate, RateLimiter};
use crate::server::net::outbox::Meter;
use crate::server::net::peer::Peer;
use crate::server::record::UserId;
use crate::server::store::{Change, Collection, LastIds, MembershipSpan, ReadResult, Snapshot};

mod accounts;
mod audit;
mod bans;
mod catch_up;
mod clock;
mod confusables;
mod context;
mod deferred;
mod delayed_checks;
mod dispatch;
mod dormant;
mod dropped_sessions;
mod history;
mod invariants;
mod join;
mod lists;
mod locks;
mod login;
mod mail;
mod memberships;
mod messages;
mod moderation;
mod password_checks;
mod password_throttle;
mod people;
mod rooms;
mod search;
mod server_admin;
mod session;
mod storage_gate;
mod succession;
#[cfg(test)]
mod test_support;

use accounts::Accounts;
use audit::Audit;
use catch_up::{DeliveryMode, Recent};
use confusables::ConfusableIndex;
use context::Context;
use deferred::DeferredEvents;
use delayed_checks::DelayedChecks;
use dormant::DormantRooms;
use dropped_sessions::DroppedSessions;
use history::HistoryRequest;
use lists::{ListRequest, RoomList, RoomListRequest};
use mail::{MailRequest, Mailboxes};
use memberships::Memberships;
use messages::RecentCids;
use moderation::Moderation;
use password_checks::PasswordRequest;
use password_throttle::PasswordThrottle;
use rooms::Room;
use session::{ResumeCheck, Session, TokenHash, Tokens};
pub use storage_gate::{Storage, storage_full};

/// The current time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic time since a fixed moment; used for deadlines.
    pub since_start: Duration,
    /// Wall clock time; used for timestamps that users see.
    pub wall: Stamp,
}

/// An event on one connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// The peer connected and its transport is known; the hub sends the greeting.
    Opened(Peer),
    /// The peer connected; its transport is not known yet, so the greeting waits.
    Arrived(Peer),
    /// The transport was detected after [`Input::Arrived`]; the hub sends the greeting.
    TransportKnown {
        /// Whether the connection is protected against eavesdropping.
        is_encrypted: bool,
    },
    /// The client did not start TLS after [`Input::Arrived`], and the server requires TLS.
    Unencrypted,
    /// The client sent a frame.
    Frame(Frame<'a>),
    /// The client has shut down its sending side and still reads its answers.
    Finished,
    /// The connection is closed, or must be closed without a farewell.
    Disconnected,
    /// The connection has not logged in, and its place is needed for a new connection.
    Evicted,
    /// The client has read nothing until the write timeout.
    Stalled,
    /// The outbox has exceeded its limit (backpressure).
    OverLimit,
    /// The outbox has drained below the low-water mark ([`Turn::notify_when_drained`]).
    Drained,
    /// Memory for a deferred long reply is available ([`Turn::wait_for_memory`]).
    MemoryAvailable,
    /// The log rows that the connection requested.
    Rows(ReadResult),
    /// The result of hashing or checking the connection's password.
    Hashed(Outcome),
    /// A page of log rows: the next page of a catch-up, or the message after which a
    /// `/resume` continues.
    Page(ReadResult),
}

/// Which input [`Hub::handle`] accepts next for the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next line.
    Next,
    /// No line until a pending request or the catch-up completes.
    Wait,
    /// The same line again, after [`Hub::set_storage`] has reported whether changes can
    /// be stored. The line has had no effect yet.
    Store,
    /// No input: the connection has received its farewell.
    Over,
}

/// The state machine that owns all chat state; see the module documentation.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    /// Indexed by [`ConnId::slot`].
    connections: Vec<Option<Connection>>,
    users: Slab<User>,
    names: HashMap<Key, UserIx>,
    confusables: ConfusableIndex,
    users_by_id: HashMap<UserId, UserIx>,
    rooms: Slab<Room>,
    room_names: HashMap<Key, RoomIx>,
    /// The last number given to a room.
    last_room_number: u64,
    /// The sorted names of all rooms; cached until a room is created or deleted.
    room_list: Option<Arc<RoomList>>,
    /// Counts the bytes that wait for delivery.
    meter: Meter,
    lobby: RoomIx,
    cids: RecentCids,
    recent: Recent,
    last_ids: LastIds,
    /// The time of the last event; see [`Hub::stamp`].
    last_time: Stamp,
    tokens: Tokens,
    sessions: HashMap<TokenHash, UserId>,
    dropped: DroppedSessions,
    accounts: Accounts,
    mail: Mailboxes,
    password_throttle: PasswordThrottle,
    /// Limits how often each network may hash new passwords.
    new_passwords: RateLimiter,
    /// Server operators and their server-wide moderation.
    server_moderation: Moderation,
    dormant_rooms: DormantRooms,
    /// The rooms whose moderation is persisted, active or dormant, by moderation id.
    moderated_rooms: HashMap<u64, RoomName>,
    /// Counts joins, so that the longest-standing member of a room is known.
    last_arrival: u64,
    /// The last id assigned to persisted moderation.
    last_moderation_id: u64,
    /// The owner of each block of membership spans.
    block_owners: HashMap<u64, UserId>,
    /// The last id assigned to a block of membership spans.
    last_block: u64,
    audit: Audit,
    /// Password checks that are throttled after failed attempts.
    delayed_checks: DelayedChecks,
    /// Entries that differ from their stored value.
    unsaved: BTreeSet<(Collection, u64)>,
    storage: Storage,
    /// Login deadlines of connections; entries of logged-in connections are skipped.
    login_deadlines: BTreeSet<(Duration, ConnId)>,
    /// Rooms whose presence events are being coalesced, with the time of the summary.
    crowd_deadlines: BTreeSet<(Duration, RoomIx)>,
}

/// The secret that session tokens are derived from; it must be unpredictable.
pub type Seed = [u8; 32];

type UserIx = usize;
type RoomIx = usize;

/// The hub's state of one connection.
#[derive(Debug)]
struct Connection {
    id: ConnId,
    peer: Peer,
    phase: Phase,
    settings: Settings,
    login_deadline: Duration,
    /// Which settings the client has set explicitly, indexed by [`Setting`].
    chosen: [bool; Setting::TABLE.len()],
    /// The request that blocks further lines; see [`Flow::Wait`].
    pending: Option<Box<PendingRequest>>,
}

/// A request whose answer depends on work outside the hub.
#[derive(Debug)]
enum PendingRequest {
    /// A `/history` or `/search` that reads rows of the log.
    Rows(HistoryRequest),
    /// A login that reads the account's mail.
    Mail(MailRequest),
    /// A password that is being hashed or checked.
    Password(PasswordRequest),
    /// A `/resume` that reads the message after which it continues.
    Resume(ResumeCheck),
    /// A list of all rooms that is sent page by page.
    Rooms(RoomListRequest),
    /// A long list that waits for memory.
    List(ListRequest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not logged in. After a refused name, only `/login` logs in, so that a chat line
    /// is not mistaken for a name.
    Greeting {
        was_refused: bool,
    },
    LoggedIn(UserIx),
    /// The farewell has been sent.
    Closing,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Settings {
    echo: bool,
    joins: bool,
    tags: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { echo: true, joins: true, tags: false }
    }
}

impl Settings {
    fn get(self, setting: Setting) -> bool {
        match setting {
            Setting::Echo => self.echo,
            Setting::Joins => self.joins,
            Setting::Tags => self.tags,
        }
    }

    fn set(&mut self, setting: Setting, is_on: bool) {
        match setting {
            Setting::Echo => self.echo = is_on,
            Setting::Joins => self.joins = is_on,
            Setting::Tags => self.tags = is_on,
        }
    }
}

/// A user from login to logout, including the time in which a dropped session waits.
#[derive(Debug)]
struct User {
    id: UserId,
    name: Name,
    /// `None` if the connection was lost and the session may still resume.
    conn: Option<ConnId>,
    /// The current or last peer address; `None` if unknown after a restart.
    peer: Option<Peer>,
    session: Option<Box<Session>>,
    /// The id of the last message before the login.
    first: u64,
    feed: DeliveryMode,
    deferred: Option<Box<DeferredEvents>>,
    rooms: Vec<RoomIx>,
    memberships: Memberships,
    /// The room that receives plain lines while no query is on.
    current: Option<RoomIx>,
    query: QueryState,
    /// The sender of the last private message, for `/reply`.
    reply_target: Option<UserId>,
    away: Option<Away>,
    relations: Relations,
    since: Stamp,
    last_active: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueryState {
    Off,
    On(UserId),
    /// The other user has logged out. Plain lines are refused, so that private text
    /// does not go to a room.
    Gone,
}

#[derive(Debug)]
struct Away {
    text: Box<str>,
}

/// A persisted entry that cannot be read.
#[derive(Debug)]
pub struct UnreadableEntry {
    /// The collection that contains the entry.
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

/// The relations of a user to other users and to rooms. Both ends record a relation, so
/// a logout touches only the users concerned. Most users have none, so the lists are
/// allocated on demand.
#[derive(Debug, Default)]
struct Relations(Option<Box<RelationLists>>);

#[derive(Debug, Default)]
struct RelationLists {
    ignores: Vec<Ignored>,
    ignored_by: Vec<UserId>,
    queried_by: Vec<UserId>,
    /// The rooms in which this user is or was an operator.
    leads: Vec<RoomIx>,
}

impl Deref for Relations {
    type Target = RelationLists;

    fn deref(&self) -> &RelationLists {
        static NONE: RelationLists = RelationLists {
            ignores: Vec::new(),
            ignored_by: Vec::new(),
            queried_by: Vec::new(),
            leads: Vec::new(),
        };
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Relations {
    fn deref_mut(&mut self) -> &mut RelationLists {
        self.0.get_or_insert_default()
    }
}

/// An ignored user. The entry stays after the user's logout, so that earlier messages
/// stay hidden.
#[derive(Debug)]
struct Ignored {
    person: UserId,
    /// The user's last name; set when the user logs out.
    gone: Option<Name>,
}

impl Settings {
    /// Returns the tags, or none if the tagged dialect is off.
    fn tags<'a>(self, tags: &Tags<'a>) -> Tags<'a> {
        if self.tags { *tags } else { Tags::default() }
    }
}

fn refusal<T>(
    code: ErrorCode,
    text: impl Into<std::borrow::Cow<'static, str>>,
) -> Result<T, Refusal> {
    Err(Refusal::new(code, text))
}

fn no_such_user<T>(name: &str) -> Result<T, Refusal> {
    refusal(ErrorCode::NoSuchUser, format!("{name} is not online"))
}

impl Hub {
    /// Returns a hub without connections, restored from a snapshot. Ids continue after the
    /// last ones in the log, and sessions that could resume before the restart still can.
    ///
    /// # Errors
    /// A persisted entry cannot be read. A server without its bans or accounts must not
    /// start.
    pub fn new(limits: Limits, snapshot: &Snapshot, seed: Seed) -> Result<Self, UnreadableEntry> {
        let lobby_name = RoomName::lobby();
        let mut rooms = Slab::new();
        let lobby_key = lobby_name.key().clone();
        let lobby = rooms.insert(Room::new(lobby_name, 0));
        let password_throttle = PasswordThrottle::new(&limits);
        let rate = Rate::one_in(Duration::from_mins(1), limits.accounts_per_address);
        let mut hub = Self {
            cids: RecentCids::new(limits.history_messages, limits.history_size),
            limits,
            connections: Vec::new(),
            users: Slab::new(),
            names: HashMap::new(),
            confusables: ConfusableIndex::default(),
            users_by_id: HashMap::new(),
            rooms,
            room_names: HashMap::from([(lobby_key, lobby)]),
            last_room_number: 0,
            room_list: None,
            meter: Meter::default(),
            lobby,
            recent: Recent::new(snapshot.last.message),
            last_ids: snapshot.last,
            last_time: snapshot.latest.last().map(|record| record.time).unwrap_or_default(),
            tokens: Tokens::new(seed),
            sessions: HashMap::new(),
            dropped: DroppedSessions::default(),
            accounts: Accounts::default(),
            mail: Mailboxes::default(),
            password_throttle,
            new_passwords: RateLimiter::new(rate),
            server_moderation: Moderation {
                number: Some(dormant::SERVER_ID),
                ..Moderation::default()
            },
            dormant_rooms: DormantRooms::default(),
            moderated_rooms: HashMap::new(),
            last_arrival: 0,
            last_moderation_id: dormant::SERVER_ID,
            block_owners: HashMap::new(),
            last_block: 0,
            audit: Audit::default(),
            delayed_checks: DelayedChecks::default(),
            unsaved: BTreeSet::new(),
            storage: Storage::Open,
            login_deadlines: BTreeSet::new(),
            crowd_deadlines: BTreeSet::new(),
        };
        hub.restore(&snapshot.entries)?;
        for record in &snapshot.latest {
            hub.cids.remember(record);
        }
        Ok(hub)
    }

    /// The counter of bytes that wait for delivery; shared with the reactor's outboxes.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The last ids assigned.
    #[must_use]
    pub fn last_ids(&self) -> LastIds {
        self.last_ids
    }

    /// Whether any entry differs from its stored value.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// The entries that differ from their stored values, with their current values.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let change = |&(collection, key)| {
            let value = match collection {
                Collection::Session => self.saved_session(UserId(key)),
                Collection::Account => self.saved_account(UserId(key)),
                Collection::Mail => self.saved_mail(key),
                Collection::Moderation => self.saved_moderation(key),
                Collection::Spans => self.saved_block(key),
            };
            Change { collection, key, value }
        };
        self.unsaved.iter().map(change).collect()
    }

    /// Records that the entries returned by [`Hub::changes`] are stored.
    pub fn mark_saved(&mut self) {
        self.unsaved.clear();
    }

    /// Handles one input of one connection and appends its effects to the turn.
    pub fn handle(&mut self, now: Now, conn: ConnId, input: Input<'_>, turn: &mut Turn) -> Flow {
        match input {
            Input::Arrived(peer) => {
                self.register_connection(now, conn, peer);
                return Flow::Next;
            }
            Input::Opened(peer) => {
                self.register_connection(now, conn, peer);
                send_greeting(conn, turn);
                return Flow::Next;
            }
            _ => {}
        }
        if let Input::Hashed(outcome) = &input {
            self.record_attempt(now, conn, outcome);
        }
        let Some(phase) = self.connection(conn).map(|c| c.phase) else { return Flow::Over };
        match input {
            Input::Arrived(_) | Input::Opened(_) => {}
            Input::Disconnected => self.handle_disconnect(now, conn, None, turn),
            _ if phase == Phase::Closing => {}
            Input::Finished => self.handle_disconnect(now, conn, Some(Farewell::Quit), turn),
            Input::TransportKnown { is_encrypted } => self.note_transport(conn, is_encrypted, turn),
            Input::Unencrypted => self.reject_unencrypted(conn, turn),
            Input::Evicted => self.leave(now, conn, Some(Farewell::TooMany), None, turn),
            Input::Stalled => self.handle_disconnect(now, conn, Some(Farewell::SlowReader), turn),
            Input::Rows(rows) => self.send_rows(now, conn, &rows, turn),
            Input::Hashed(outcome) => self.password_done(now, conn, &outcome, turn),
            Input::OverLimit => self.start_catch_up(conn, turn),
            Input::Drained => {
                self.continue_room_list(now, conn, turn);
                self.continue_catch_up(now, conn, turn);
            }
            Input::MemoryAvailable => self.send_deferred_list(now, conn, turn),
            Input::Page(rows) if matches!(phase, Phase::Greeting { .. }) => {
                self.send_rows(now, conn, &rows, turn);
            }
            Input::Page(rows) => self.send_catch_up_page(now, conn, &rows, turn),
            Input::Frame(Frame::Foreign) => {
                self.leave(now, conn, Some(Farewell::BadProtocol), None, turn);
            }
            Input::Frame(Frame::TooLong(_)) if matches!(phase, Phase::Greeting { .. }) => {
                self.leave(now, conn, Some(Farewell::TooLong), None, turn);
            }
            Input::Frame(frame) => self.handle_line(now, conn, &frame, turn),
        }
        if self.wants_storage() { Flow::Store } else { self.flow(conn) }
    }

    fn flow(&self, conn: ConnId) -> Flow {
        match self.connection(conn) {
            Some(Connection { pending: Some(_), .. }) => Flow::Wait,
            Some(Connection { phase: Phase::Greeting { .. }, .. }) => Flow::Next,
            Some(Connection { phase: Phase::LoggedIn(user), .. }) => {
                if self.users[*user].feed == DeliveryMode::Live { Flow::Next } else { Flow::Wait }
            }
            _ => Flow::Over,
        }
    }

    /// The peer of a connection.
    #[must_use]
    pub fn peer(&self, conn: ConnId) -> Option<Peer> {
        self.connection(conn).map(|c| c.peer)
    }

    /// Whether the connection has not logged in yet.
    #[must_use]
    pub fn is_unnamed(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|c| matches!(c.phase, Phase::Greeting { .. }))
    }

    /// The longest line that this connection may send now, in bytes.
    #[must_use]
    pub fn line_limit(&self, conn: ConnId) -> usize {
        match self.connection(conn).map(|c| c.phase) {
            Some(Phase::LoggedIn(_)) => LINE_MAX,
            _ => LOGIN_LINE_MAX,
        }
    }

    /// Whether an unterminated last line is accepted. It is refused from a client that can
    /// resume: the line may be truncated by the lost connection, and its cid would make
    /// the complete line look like a duplicate when the client resends it.
    #[must_use]
    pub fn takes_unterminated(&self, conn: ConnId) -> bool {
        let Some(Phase::LoggedIn(user)) = self.connection(conn).map(|c| c.phase) else {
            return true;
        };
        !self.settings(conn).tags || self.users[user].session.is_none()
    }

    /// The time at which [`Hub::tick`] must be called next.
    pub fn next_deadline(&mut self) -> Option<Duration> {
        while let Some((_, conn)) = self.login_deadlines.first() {
            if self.is_greeting(*conn) {
                break;
            }
            self.login_deadlines.pop_first();
        }
        let login = self.login_deadlines.first().map(|(due, _)| *due);
        let crowd = self.crowd_deadlines.first().map(|(due, _)| *due);
        let grace = self.dropped.due();
        let delayed = self.delayed_checks.due();
        let audit = self.audit.due();
        login.into_iter().chain(crowd).chain(grace).chain(delayed).chain(audit).min()
    }

    /// Runs all timers that are due.
    pub fn tick(&mut self, now: Now, turn: &mut Turn) {
        self.expire_logins(now, turn);
        self.start_due_checks(now, turn);
        while let Some(person) = self.dropped.next(now.since_start) {
            self.expire_session(now, person, turn);
        }
        while let Some((due, room)) = self.crowd_deadlines.first().copied() {
            if due > now.since_start {
                break;
            }
            self.crowd_deadlines.pop_first();
            self.send_presence_summary(now, room, turn);
        }
        self.audit.begin_second(now);
    }

    /// Sends a farewell to every connection, for a graceful shutdown.
    pub fn shut_down(&mut self, turn: &mut Turn) {
        for connection in self.connections.iter_mut().flatten() {
            if connection.phase != Phase::Closing {
                connection.phase = Phase::Closing;
                send_farewell(turn, connection.id, Farewell::ShuttingDown, None);
            }
        }
    }

    /// Resets the idle time that `/whois` shows; see `Command::is_activity`.
    fn mark_active(&mut self, user: UserIx, now: Now) {
        self.users[user].last_active = now.since_start;
    }

    fn connection(&self, conn: ConnId) -> Option<&Connection> {
        let connection = self.connections.get(conn.slot as usize)?.as_ref()?;
        (connection.id == conn).then_some(connection)
    }

    fn connection_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(conn.slot as usize)?.as_mut()?;
        (connection.id == conn).then_some(connection)
    }

    fn is_greeting(&self, conn: ConnId) -> bool {
        matches!(self.connection(conn), Some(Connection { phase: Phase::Greeting { .. }, .. }))
    }

    fn settings(&self, conn: ConnId) -> Settings {
        self.connection(conn).map(|c| c.settings).unwrap_or_default()
    }

    fn user_named(&self, name: &str) -> Option<UserIx> {
        Key::find(&self.names, name).copied()
    }

    /// Sends a message to a live user; a user who is catching up gets it from the log.
    fn deliver(&self, user: UserIx, tags: &Tags<'_>, event: &Event<'_>, turn: &mut Turn) {
        let User { conn, feed, .. } = self.users[user];
        if let Some(conn) = conn.filter(|_| feed == DeliveryMode::Live) {
            turn.send(conn, Origin::Broadcast, &self.settings(conn).tags(tags), event);
        }
    }

    /// Sends an unsolicited line that is not in the log. It is deferred for a user who is
    /// catching up.
    fn send_to_user(&mut self, user: UserIx, tags: &Tags<'_>, event: &Event<'_>, turn: &mut Turn) {
        self.deliver(user, tags, event, turn);
        self.defer_event([user], tags, event);
    }

    /// Broadcasts a presence, topic or moderation event to rooms. It has a time but no id.
    fn announce(
        &mut self,
        now: Now,
        rooms: &[RoomIx],
        topic: Topic,
        except: Option<ConnId>,
        event: &Event<'_>,
        turn: &mut Turn,
    ) {
        let tags = Tags { time: Some(self.stamp(now)), ..Tags::default() };
        let audience = self.union(rooms);
        turn.fan_out(audience, topic, None, except.into_iter().collect(), &tags, event);
        if topic == Topic::Talk {
            let members = rooms.iter().flat_map(|room| self.rooms[*room].members());
            let behind: BTreeSet<UserIx> =
                members.map(|(_, user)| user).filter(|user| self.is_catching_up(*user)).collect();
            self.defer_event(behind, &tags, event);
        }
    }
}

fn bye(farewell: Farewell) -> Event<'static> {
    Event::Bye { code: farewell.as_str(), text: farewell.sentence() }
}

/// Sends the farewell and closes the connection; `text` replaces the default text.
fn send_farewell(turn: &mut Turn, conn: ConnId, farewell: Farewell, text: Option<&str>) {
    let event = Event::Bye { code: farewell.as_str(), text: text.unwrap_or(farewell.sentence()) };
    turn.send(conn, Origin::Reply, &Tags::default(), &event);
    turn.close(conn);
}

fn send_greeting(conn: ConnId, turn: &mut Turn) {
    let hello =
        Event::reply("HELLO", VERSION, "type your name and press Enter (/help lists commands)");
    turn.send(conn, Origin::Reply, &Tags::default(), &hello);
}
