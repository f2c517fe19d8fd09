//! The hub: the one owner of who is here, where, and what was said to whom. A
//! state machine without surroundings: it is handed inputs and answers with
//! records and effects ([`Turn`]), so a whole conversation runs in a test in
//! microseconds.
//!
//! 1. No IO, clock, randomness, lock or await in here; time comes with each input.
//! 2. Effects stand in the turn in the order they arose, and each reader sees
//!    that order. Nothing is shown before the turn's records are in the log.
//! 3. Every line that asks for something gets exactly one answer: its echo, a
//!    reply, or one error.
//! 4. After a farewell nothing more is said to that connection.
//! 5. A person is a visit, not a name: what is remembered about somebody hangs
//!    on [`UserId`], so that it follows a rename and never a successor.
//! 6. A right is held by a person, in a room or on the server, and ends with
//!    either. Whoever may not is refused before anything is done.
//!
//! What a command *is* stands in `commands.rs`; what it *means*, in the files
//! below this one, a file for each topic.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::limits::Limits;
use super::log::{Change, Collection, LastIds, MembershipSpan, ReadResult, Snapshot, UserId};
use super::outbox::Meter;
use super::passwords::Outcome;
use super::peer::Peer;
use super::rate_limit::{Rate, RateLimiter};
use super::turn::{Audience, Cause, ConnId, Topic, Turn};
use crate::commands::Setting;
use crate::protocol::codec::Frame;
use crate::protocol::{
    Cid, ErrorCode, Event, Farewell, Key, LINE_MAX, LOGIN_LINE_MAX, Name, Refusal, RoomName, Stamp,
    Tags, VERSION,
};

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
use session::{ResumeAsk, Session, TokenHash, Tokens};
pub use storage_gate::{Storage, storage_full};

/// The two clocks of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since some fixed moment, never going back: for deadlines.
    pub since_start: Duration,
    /// The wall clock: for people.
    pub wall: Stamp,
}

/// Something that happened to one connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// It came, from there, and is to be greeted.
    Opened(Peer),
    /// It came, from there; how it speaks is not known yet, so it is not greeted.
    Arrived(Peer),
    /// After that: it speaks so, and is to be greeted.
    TransportKnown {
        /// Whether nobody on the way can read along.
        is_encrypted: bool,
    },
    /// After that: it does not speak TLS, and has to.
    Unencrypted,
    /// It sent this.
    Frame(Frame<'a>),
    /// It will send no more, and wants its answers.
    Finished,
    /// It is gone, or has to go without being able to hear why.
    Disconnected,
    /// It has given no name, and others wait to come in.
    Evicted,
    /// It has read nothing for too long.
    Stalled,
    /// More waits for it than may.
    OverLimit,
    /// It has read most of what waited for it ([`Turn::notify_when_drained`]).
    Drained,
    /// There is room for the long answer it waits for ([`Turn::wait_for_memory`]).
    MemoryAvailable,
    /// The rows it asked the log for.
    Rows(ReadResult),
    /// What came of the password it gave.
    Hashed(Outcome),
    /// A few rows that were read at once: those that feed it on, or the message that its
    /// `/resume` reads on after.
    Page(ReadResult),
}

/// What may be handed to [`Hub::handle`] next for the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Its next line.
    Next,
    /// No line: it waits for rows of the log.
    Wait,
    /// The same line again, once [`Hub::set_storage`] has told whether changes can be
    /// stored. It had no effect yet.
    Store,
    /// Nothing any more: it has been said farewell to.
    Over,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    /// By [`ConnId::slot`].
    connections: Vec<Option<Connection>>,
    users: Slab<User>,
    names: HashMap<Key, UserIx>,
    confusables: ConfusableIndex,
    users_by_id: HashMap<UserId, UserIx>,
    rooms: Slab<Room>,
    room_names: HashMap<Key, RoomIx>,
    /// The names of all rooms, sorted, while they stay the same.
    room_list: Option<Arc<RoomList>>,
    /// Of all that waits for connections.
    meter: Meter,
    lobby: RoomIx,
    cids: RecentCids,
    recent: Recent,
    last_ids: LastIds,
    /// The time of what happened last, see [`Hub::stamp`].
    last_time: Stamp,
    tokens: Tokens,
    sessions: HashMap<TokenHash, UserId>,
    dropped: DroppedSessions,
    accounts: Accounts,
    mail: Mailboxes,
    password_throttle: PasswordThrottle,
    /// New passwords, from each network.
    new_passwords: RateLimiter,
    /// What operators of the server decided, and who they are.
    server_moderation: Moderation,
    dormant_rooms: DormantRooms,
    /// The rooms whose decisions are kept, awake or asleep, by the number of these.
    moderated_rooms: HashMap<u64, RoomName>,
    /// Counts who joined which room, so that the longest member is known.
    last_arrival: u64,
    /// The last number given to decisions that are kept.
    last_moderation_id: u64,
    /// Whose memberships are in which block, and the last number of one.
    block_owners: HashMap<u64, UserId>,
    last_block: u64,
    audit: Audit,
    /// Passwords that are hashed later: who gave them has tried too often.
    delayed_jobs: DelayedChecks,
    /// What is to be kept otherwise than it is.
    unsaved: BTreeSet<(Collection, u64)>,
    storage: Storage,
    /// When it is looked whether somebody has given a name.
    login_deadlines: BTreeSet<(Duration, ConnId)>,
    /// Rooms whose comings and goings are being gathered.
    crowd_deadlines: BTreeSet<(Duration, RoomIx)>,
}

/// What tokens are made from: nobody else may know it, or guess it.
pub type Seed = [u8; 32];

type UserIx = usize;
type RoomIx = usize;

/// What the hub knows of a socket.
#[derive(Debug)]
struct Connection {
    id: ConnId,
    peer: Peer,
    phase: Phase,
    settings: Settings,
    /// By when it has to give a name.
    login_deadline: Duration,
    /// Which settings it chose itself, by [`Setting`].
    chosen: [bool; Setting::TABLE.len()],
    /// What it waits for, see [`Flow::Wait`].
    pending: Option<Box<PendingRequest>>,
}

/// A line whose answer waits for somebody else's work.
#[derive(Debug)]
enum PendingRequest {
    /// Rows of the log.
    Rows(HistoryRequest),
    /// What waits for an account that logs in.
    Mail(MailRequest),
    /// A password that is hashed.
    Password(PasswordRequest),
    /// The message that a `/resume` reads on after.
    Resume(ResumeAsk),
    /// All rooms, page by page.
    Rooms(RoomListRequest),
    /// A list that there is no room for yet.
    List(ListRequest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not logged in. Once a name was refused, only `/login` is one.
    Greeting { was_refused: bool },
    /// Logged in.
    LoggedIn(UserIx),
    /// Said farewell to.
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

/// One person's stay, from login to leaving.
#[derive(Debug)]
struct User {
    id: UserId,
    name: Name,
    /// `None`: it dropped, and may come back.
    conn: Option<ConnId>,
    /// Where it is connected from, or was; `None`: not known any more.
    peer: Option<Peer>,
    session: Option<Box<Session>>,
    /// The last message before it came.
    first: u64,
    feed: DeliveryMode,
    deferred: Option<Box<DeferredEvents>>,
    rooms: Vec<RoomIx>,
    memberships: Memberships,
    /// Where plain lines go when no query is on. `None`: nowhere.
    current: Option<RoomIx>,
    query: QueryState,
    /// Who last wrote to me privately.
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
    /// The person is gone. Plain lines are refused, so that what was meant
    /// privately does not become public.
    Gone,
}

/// Away, with a text or without.
#[derive(Debug)]
struct Away {
    text: Box<str>,
}

/// What is kept of a house and cannot be read.
#[derive(Debug)]
pub struct UnreadableEntry {
    /// What kind of thing it is.
    pub shelf: Collection,
    /// Which of them.
    pub key: u64,
    why: serde_json::Error,
}

impl fmt::Display for UnreadableEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.shelf.as_str(), self.key, self.why)
    }
}

impl std::error::Error for UnreadableEntry {}

/// Who has to do with whom; both ends know, so that leaving costs only those
/// concerned. Most people have to do with nobody, and then it takes no memory.
#[derive(Debug, Default)]
struct Relations(Option<Box<RelationLists>>);

#[derive(Debug, Default)]
struct RelationLists {
    ignores: Vec<Ignored>,
    ignored_by: Vec<UserId>,
    queried_by: Vec<UserId>,
    /// The rooms that this visit may be an operator of, and those it was.
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

/// Somebody who is not to be heard, here or gone: what they said before they
/// went stays hidden.
#[derive(Debug)]
struct Ignored {
    person: UserId,
    /// The last name they had, once they are gone.
    gone: Option<Name>,
}

impl Settings {
    /// The tags for somebody with these settings.
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
    refusal(ErrorCode::NoSuchUser, format!("{name} is not here"))
}

impl Hub {
    /// A house that nobody is connected to yet. Counting goes on after what the
    /// log knows to be given away; who could come back when it was closed can.
    ///
    /// # Errors
    /// Something that is kept cannot be read. A house without its bans, or where anybody
    /// can take a registered name, is not to be opened.
    pub fn new(limits: Limits, kept: &Snapshot, seed: Seed) -> Result<Self, UnreadableEntry> {
        let lobby_name = RoomName::lobby();
        let mut rooms = Slab::new();
        let lobby_key = lobby_name.key().clone();
        let lobby = rooms.insert(Room::new(lobby_name));
        let guesses = PasswordThrottle::new(&limits);
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
            room_list: None,
            meter: Meter::default(),
            lobby,
            recent: Recent::new(kept.last.message),
            last_ids: kept.last,
            last_time: kept.latest.last().map(|record| record.time).unwrap_or_default(),
            tokens: Tokens::new(seed),
            sessions: HashMap::new(),
            dropped: DroppedSessions::default(),
            accounts: Accounts::default(),
            mail: Mailboxes::default(),
            password_throttle: guesses,
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
            delayed_jobs: DelayedChecks::default(),
            unsaved: BTreeSet::new(),
            storage: Storage::Open,
            login_deadlines: BTreeSet::new(),
            crowd_deadlines: BTreeSet::new(),
        };
        hub.restore(&kept.entries)?;
        for record in &kept.latest {
            hub.cids.remember(record);
        }
        Ok(hub)
    }

    /// Counts what waits here for connections; to be shared with whoever else counts it.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The last numbers given away.
    #[must_use]
    pub fn last_ids(&self) -> LastIds {
        self.last_ids
    }

    /// Whether something is to be kept otherwise than it is.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// What is to be kept otherwise, as it is now.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let change = |&(shelf, key)| {
            let value = match shelf {
                Collection::Session => self.saved_session(UserId(key)),
                Collection::Account => self.saved_account(UserId(key)),
                Collection::Mail => self.saved_mail(key),
                Collection::Moderation => self.saved_moderation(key),
                Collection::Spans => self.saved_block(key),
            };
            Change { shelf, key, value }
        };
        self.unsaved.iter().map(change).collect()
    }

    /// What [`Hub::changes`] told is kept.
    pub fn mark_saved(&mut self) {
        self.unsaved.clear();
    }

    /// Handles one input of one connection.
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
        let Some(stage) = self.connection(conn).map(|c| c.phase) else { return Flow::Over };
        match input {
            Input::Arrived(_) | Input::Opened(_) => {}
            Input::Disconnected => self.handle_disconnect(now, conn, None, turn),
            _ if stage == Phase::Closing => {}
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
            Input::Page(rows) if matches!(stage, Phase::Greeting { .. }) => {
                self.send_rows(now, conn, &rows, turn);
            }
            Input::Page(rows) => self.send_catch_up_page(now, conn, &rows, turn),
            Input::Frame(Frame::Foreign) => {
                self.leave(now, conn, Some(Farewell::BadProtocol), None, turn);
            }
            Input::Frame(Frame::TooLong(_)) if matches!(stage, Phase::Greeting { .. }) => {
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

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self, conn: ConnId) -> Option<Peer> {
        self.connection(conn).map(|c| c.peer)
    }

    /// Whether nobody has logged in there yet.
    #[must_use]
    pub fn is_unnamed(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|c| matches!(c.phase, Phase::Greeting { .. }))
    }

    /// The longest line this connection may send now, in bytes.
    #[must_use]
    pub fn line_limit(&self, conn: ConnId) -> usize {
        match self.connection(conn).map(|c| c.phase) {
            Some(Phase::LoggedIn(_)) => LINE_MAX,
            _ => LOGIN_LINE_MAX,
        }
    }

    /// Whether a last line without its end counts. It does, but for a program that
    /// can come back: that may be the half that was on its way when the connection
    /// broke, and said so it would pass for the whole when that is sent again.
    #[must_use]
    pub fn takes_unterminated(&self, conn: ConnId) -> bool {
        let Some(Phase::LoggedIn(user)) = self.connection(conn).map(|c| c.phase) else {
            return true;
        };
        !self.settings(conn).tags || self.users[user].session.is_none()
    }

    /// When [`Hub::tick`] has something to do.
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
        let delayed = self.delayed_jobs.due();
        let audit = self.audit.due();
        login.into_iter().chain(crowd).chain(grace).chain(delayed).chain(audit).min()
    }

    /// Does what has fallen due.
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

    /// Says farewell to everyone.
    pub fn shut_down(&mut self, turn: &mut Turn) {
        for connection in self.connections.iter_mut().flatten() {
            if connection.phase != Phase::Closing {
                connection.phase = Phase::Closing;
                send_farewell(turn, connection.id, Farewell::ShuttingDown, None);
            }
        }
    }

    /// Ends somebody's idle time, as `/whois` shows it; see [`Command::is_activity`].
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

    /// A message to one person. Who is not live gets it from the log.
    fn deliver(&self, user: UserIx, tags: &Tags<'_>, event: &Event<'_>, turn: &mut Turn) {
        let User { conn, feed, .. } = self.users[user];
        if let Some(conn) = conn.filter(|_| feed == DeliveryMode::Live) {
            turn.send(conn, Cause::Unasked, &self.settings(conn).tags(tags), event);
        }
    }

    /// A line to one person that they did not ask for and no log has.
    fn send_to_user(&mut self, user: UserIx, tags: &Tags<'_>, event: &Event<'_>, turn: &mut Turn) {
        self.deliver(user, tags, event, turn);
        self.defer_event([user], tags, event);
    }

    /// Comings, goings and changes, in rooms: a line that has a time but no id.
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
            let late: BTreeSet<UserIx> =
                members.map(|(_, user)| user).filter(|user| self.is_catching_up(*user)).collect();
            self.defer_event(late, &tags, event);
        }
    }
}

fn bye(farewell: Farewell) -> Event<'static> {
    Event::Bye { code: farewell.as_str(), text: farewell.sentence() }
}

/// The last line to a connection; `text` in place of what is usually said.
fn send_farewell(turn: &mut Turn, conn: ConnId, farewell: Farewell, text: Option<&str>) {
    let event = Event::Bye { code: farewell.as_str(), text: text.unwrap_or(farewell.sentence()) };
    turn.send(conn, Cause::Asked, &Tags::default(), &event);
    turn.close(conn);
}

fn send_greeting(conn: ConnId, turn: &mut Turn) {
    let hello = Event::reply("HELLO", VERSION, "type a name to join, or /help");
    turn.send(conn, Cause::Asked, &Tags::default(), &hello);
}
