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
//!    on [`PersonId`], so that it follows a rename and never a successor.
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
use super::log::{Change, Kept, Last, PersonId, Rows, Shelf, Stay};
use super::outbox::Meter;
use super::pace::{Paces, Rate};
use super::passwords::Outcome;
use super::peer::Peer;
use super::turn::{Audience, Cause, ConnId, Topic, Turn};
use crate::commands::Setting;
use crate::protocol::codec::Frame;
use crate::protocol::{
    Cid, ErrorCode, Event, Farewell, Key, LINE_MAX, LOGIN_LINE_MAX, Name, Refusal, RoomName, Stamp,
    Tags, VERSION,
};

mod accounts;
mod ask;
mod audit;
mod bans;
mod clock;
mod delayed;
mod dropped;
mod entry;
mod feed;
mod guesses;
mod history;
mod invariants;
mod keeping;
mod listing;
mod locks;
mod login;
mod looks;
mod mail;
mod memberships;
mod missed;
mod obey;
mod order;
mod people;
mod rooms;
mod rule;
mod search;
mod secrets;
mod session;
mod stored;
mod succession;
mod talk;
#[cfg(test)]
mod trial;

use accounts::Accounts;
use ask::Ask;
use audit::Audit;
use delayed::DelayedJobs;
use dropped::Dropped;
use feed::{Feed, Recent};
use guesses::Guesses;
use history::RowsAsk;
use keeping::Asleep;
use listing::{ListAsk, RoomList, RoomsAsk};
use looks::Looks;
use mail::{MailAsk, Mailboxes};
use memberships::Memberships;
use missed::Missed;
use order::Order;
use rooms::Room;
use secrets::PasswordAsk;
use session::{ResumeAsk, Session, TokenHash, Tokens};
pub use stored::{Storage, storage_full};
use talk::RecentCids;

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
    Settled {
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
    Lost,
    /// It has given no name, and others wait to come in.
    Crowded,
    /// It has read nothing for too long.
    Stalled,
    /// More waits for it than may.
    Swamped,
    /// It has read most of what waited for it ([`Turn::tell_when_drained`]).
    Drained,
    /// There is room for the long answer it waits for ([`Turn::wait_for_room`]).
    Room,
    /// The rows it asked the log for.
    Rows(Rows),
    /// What came of the password it gave.
    Hashed(Outcome),
    /// A few rows that were read at once: those that feed it on, or the message that its
    /// `/resume` reads on after.
    Page(Rows),
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
    visits: Slab<Visit>,
    names: HashMap<Key, VisitIx>,
    looks: Looks,
    people: HashMap<PersonId, VisitIx>,
    rooms: Slab<Room>,
    room_names: HashMap<Key, RoomIx>,
    /// The names of all rooms, sorted, while they stay the same.
    room_list: Option<Arc<RoomList>>,
    /// Of all that waits for connections.
    meter: Meter,
    lobby: RoomIx,
    cids: RecentCids,
    recent: Recent,
    last: Last,
    /// The time of what happened last, see [`Hub::stamp`].
    last_time: Stamp,
    tokens: Tokens,
    sessions: HashMap<TokenHash, PersonId>,
    dropped: Dropped,
    accounts: Accounts,
    mail: Mailboxes,
    guesses: Guesses,
    /// New passwords, from each network.
    new_passwords: Paces,
    /// What operators of the server decided, and who they are.
    server_order: Order,
    asleep: Asleep,
    /// The rooms whose decisions are kept, awake or asleep, by the number of these.
    orders: HashMap<u64, RoomName>,
    /// Counts who joined which room, so that the longest member is known.
    last_arrival: u64,
    /// The last number given to decisions that are kept.
    last_order: u64,
    /// Whose memberships are in which block, and the last number of one.
    block_owners: HashMap<u64, PersonId>,
    last_block: u64,
    audit: Audit,
    /// Passwords that are hashed later: who gave them has tried too often.
    delayed_jobs: DelayedJobs,
    /// What is to be kept otherwise than it is.
    unsaved: BTreeSet<(Shelf, u64)>,
    storage: Storage,
    /// When it is looked whether somebody has given a name.
    login_deadlines: BTreeSet<(Duration, ConnId)>,
    /// Rooms whose comings and goings are being gathered.
    crowd_deadlines: BTreeSet<(Duration, RoomIx)>,
}

/// What tokens are made from: nobody else may know it, or guess it.
pub type Seed = [u8; 32];

type VisitIx = usize;
type RoomIx = usize;

/// What the hub knows of a socket.
#[derive(Debug)]
struct Connection {
    id: ConnId,
    peer: Peer,
    stage: Stage,
    settings: Settings,
    /// By when it has to give a name.
    login_until: Duration,
    /// Which settings it chose itself, by [`Setting`].
    chosen: [bool; Setting::TABLE.len()],
    /// What it waits for, see [`Flow::Wait`].
    asked: Option<Box<Asked>>,
}

/// A line whose answer waits for somebody else's work.
#[derive(Debug)]
enum Asked {
    /// Rows of the log.
    Rows(RowsAsk),
    /// What waits for an account that logs in.
    Mail(MailAsk),
    /// A password that is hashed.
    Password(PasswordAsk),
    /// The message that a `/resume` reads on after.
    Resume(ResumeAsk),
    /// All rooms, page by page.
    Rooms(RoomsAsk),
    /// A list that there is no room for yet.
    List(ListAsk),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not logged in. Once a name was refused, only `/login` is one.
    Greeting { was_refused: bool },
    /// Logged in.
    Present(VisitIx),
    /// Said farewell to.
    Leaving,
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
struct Visit {
    person: PersonId,
    name: Name,
    /// `None`: it dropped, and may come back.
    conn: Option<ConnId>,
    /// Where it is connected from, or was; `None`: not known any more.
    peer: Option<Peer>,
    session: Option<Box<Session>>,
    /// The last message before it came.
    first: u64,
    feed: Feed,
    missed: Option<Box<Missed>>,
    rooms: Vec<RoomIx>,
    memberships: Memberships,
    /// Where plain lines go when no query is on. `None`: nowhere.
    current: Option<RoomIx>,
    query: Query,
    /// Who last wrote to me privately.
    heard: Option<PersonId>,
    away: Option<Away>,
    ties: Ties,
    since: Stamp,
    active: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Query {
    Off,
    On(PersonId),
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
pub struct Unreadable {
    /// What kind of thing it is.
    pub shelf: Shelf,
    /// Which of them.
    pub key: u64,
    why: serde_json::Error,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.shelf.as_str(), self.key, self.why)
    }
}

impl std::error::Error for Unreadable {}

/// Who has to do with whom; both ends know, so that leaving costs only those
/// concerned. Most people have to do with nobody, and then it takes no memory.
#[derive(Debug, Default)]
struct Ties(Option<Box<TieLists>>);

#[derive(Debug, Default)]
struct TieLists {
    ignores: Vec<Ignored>,
    ignored_by: Vec<PersonId>,
    queried_by: Vec<PersonId>,
    /// The rooms that this visit may be an operator of, and those it was.
    leads: Vec<RoomIx>,
}

impl Deref for Ties {
    type Target = TieLists;

    fn deref(&self) -> &TieLists {
        static NONE: TieLists = TieLists {
            ignores: Vec::new(),
            ignored_by: Vec::new(),
            queried_by: Vec::new(),
            leads: Vec::new(),
        };
        self.0.as_deref().unwrap_or(&NONE)
    }
}

impl DerefMut for Ties {
    fn deref_mut(&mut self) -> &mut TieLists {
        self.0.get_or_insert_default()
    }
}

/// Somebody who is not to be heard, here or gone: what they said before they
/// went stays hidden.
#[derive(Debug)]
struct Ignored {
    person: PersonId,
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
    pub fn new(limits: Limits, kept: &Kept, seed: Seed) -> Result<Self, Unreadable> {
        let lobby_name = RoomName::lobby();
        let mut rooms = Slab::new();
        let lobby_key = lobby_name.key().clone();
        let lobby = rooms.insert(Room::new(lobby_name));
        let guesses = Guesses::new(&limits);
        let rate = Rate::one_in(Duration::from_mins(1), limits.accounts_per_address);
        let mut hub = Self {
            cids: RecentCids::new(limits.history_messages, limits.history_size),
            limits,
            connections: Vec::new(),
            visits: Slab::new(),
            names: HashMap::new(),
            looks: Looks::default(),
            people: HashMap::new(),
            rooms,
            room_names: HashMap::from([(lobby_key, lobby)]),
            room_list: None,
            meter: Meter::default(),
            lobby,
            recent: Recent::new(kept.last.message),
            last: kept.last,
            last_time: kept.latest.last().map(|record| record.time).unwrap_or_default(),
            tokens: Tokens::new(seed),
            sessions: HashMap::new(),
            dropped: Dropped::default(),
            accounts: Accounts::default(),
            mail: Mailboxes::default(),
            guesses,
            new_passwords: Paces::new(rate),
            server_order: Order { number: Some(keeping::SERVER), ..Order::default() },
            asleep: Asleep::default(),
            orders: HashMap::new(),
            last_arrival: 0,
            last_order: keeping::SERVER,
            block_owners: HashMap::new(),
            last_block: 0,
            audit: Audit::default(),
            delayed_jobs: DelayedJobs::default(),
            unsaved: BTreeSet::new(),
            storage: Storage::Open,
            login_deadlines: BTreeSet::new(),
            crowd_deadlines: BTreeSet::new(),
        };
        hub.restore(&kept.things)?;
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
    pub fn last(&self) -> Last {
        self.last
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
                Shelf::Visit => self.saved_visit(PersonId(key)),
                Shelf::Account => self.saved_account(PersonId(key)),
                Shelf::Mail => self.saved_mail(key),
                Shelf::Order => self.saved_order(key),
                Shelf::Stays => self.saved_block(key),
            };
            Change { shelf, key, value }
        };
        self.unsaved.iter().map(change).collect()
    }

    /// What [`Hub::changes`] told is kept.
    pub fn note_kept(&mut self) {
        self.unsaved.clear();
    }

    /// Handles one input of one connection.
    pub fn handle(&mut self, now: Now, conn: ConnId, input: Input<'_>, turn: &mut Turn) -> Flow {
        match input {
            Input::Arrived(peer) => {
                self.take_in(now, conn, peer);
                return Flow::Next;
            }
            Input::Opened(peer) => {
                self.take_in(now, conn, peer);
                greet(conn, turn);
                return Flow::Next;
            }
            _ => {}
        }
        if let Input::Hashed(outcome) = &input {
            self.end_guess(now, conn, outcome);
        }
        let Some(stage) = self.connection(conn).map(|c| c.stage) else { return Flow::Over };
        match input {
            Input::Arrived(_) | Input::Opened(_) => {}
            Input::Lost => self.drop_out(now, conn, None, turn),
            _ if stage == Stage::Leaving => {}
            Input::Finished => self.drop_out(now, conn, Some(Farewell::Quit), turn),
            Input::Settled { is_encrypted } => self.settle(conn, is_encrypted, turn),
            Input::Unencrypted => self.turn_away_unencrypted(conn, turn),
            Input::Crowded => self.leave(now, conn, Some(Farewell::TooMany), None, turn),
            Input::Stalled => self.drop_out(now, conn, Some(Farewell::SlowReader), turn),
            Input::Rows(rows) => self.tell_rows(now, conn, &rows, turn),
            Input::Hashed(outcome) => self.password_done(now, conn, &outcome, turn),
            Input::Swamped => self.fall_behind(conn, turn),
            Input::Drained => {
                self.tell_more_rooms(now, conn, turn);
                self.feed_on(now, conn, turn);
            }
            Input::Room => self.tell_list(now, conn, turn),
            Input::Page(rows) if matches!(stage, Stage::Greeting { .. }) => {
                self.tell_rows(now, conn, &rows, turn);
            }
            Input::Page(rows) => self.feed_page(now, conn, &rows, turn),
            Input::Frame(Frame::Foreign) => {
                self.leave(now, conn, Some(Farewell::BadProtocol), None, turn);
            }
            Input::Frame(Frame::TooLong(_)) if matches!(stage, Stage::Greeting { .. }) => {
                self.leave(now, conn, Some(Farewell::TooLong), None, turn);
            }
            Input::Frame(frame) => self.hear(now, conn, &frame, turn),
        }
        if self.wants_storage() { Flow::Store } else { self.flow(conn) }
    }

    fn flow(&self, conn: ConnId) -> Flow {
        match self.connection(conn) {
            Some(Connection { asked: Some(_), .. }) => Flow::Wait,
            Some(Connection { stage: Stage::Greeting { .. }, .. }) => Flow::Next,
            Some(Connection { stage: Stage::Present(visit), .. }) => {
                if self.visits[*visit].feed == Feed::Live { Flow::Next } else { Flow::Wait }
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
        self.connection(conn).is_some_and(|c| matches!(c.stage, Stage::Greeting { .. }))
    }

    /// The longest line this connection may send now, in bytes.
    #[must_use]
    pub fn line_limit(&self, conn: ConnId) -> usize {
        match self.connection(conn).map(|c| c.stage) {
            Some(Stage::Present(_)) => LINE_MAX,
            _ => LOGIN_LINE_MAX,
        }
    }

    /// Whether a last line without its end counts. It does, but for a program that
    /// can come back: that may be the half that was on its way when the connection
    /// broke, and said so it would pass for the whole when that is sent again.
    #[must_use]
    pub fn takes_unterminated(&self, conn: ConnId) -> bool {
        let Some(Stage::Present(visit)) = self.connection(conn).map(|c| c.stage) else {
            return true;
        };
        !self.settings(conn).tags || self.visits[visit].session.is_none()
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
        self.end_late_logins(now, turn);
        self.begin_due_guesses(now, turn);
        while let Some(person) = self.dropped.next(now.since_start) {
            self.give_up(now, person, turn);
        }
        while let Some((due, room)) = self.crowd_deadlines.first().copied() {
            if due > now.since_start {
                break;
            }
            self.crowd_deadlines.pop_first();
            self.tell_crowd(now, room, turn);
        }
        self.audit.begin_second(now);
    }

    /// Says farewell to everyone.
    pub fn shut_down(&mut self, turn: &mut Turn) {
        for connection in self.connections.iter_mut().flatten() {
            if connection.stage != Stage::Leaving {
                connection.stage = Stage::Leaving;
                say_farewell(turn, connection.id, Farewell::ShuttingDown, None);
            }
        }
    }

    /// Ends somebody's idle time, as `/whois` shows it; see [`Command::is_activity`].
    fn stir(&mut self, visit: VisitIx, now: Now) {
        self.visits[visit].active = now.since_start;
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
        matches!(self.connection(conn), Some(Connection { stage: Stage::Greeting { .. }, .. }))
    }

    fn settings(&self, conn: ConnId) -> Settings {
        self.connection(conn).map(|c| c.settings).unwrap_or_default()
    }

    fn visit_named(&self, name: &str) -> Option<VisitIx> {
        Key::find(&self.names, name).copied()
    }

    /// A message to one person. Who is not live gets it from the log.
    fn deliver(&self, visit: VisitIx, tags: &Tags<'_>, event: &Event<'_>, turn: &mut Turn) {
        let Visit { conn, feed, .. } = self.visits[visit];
        if let Some(conn) = conn.filter(|_| feed == Feed::Live) {
            turn.send(conn, Cause::Unasked, &self.settings(conn).tags(tags), event);
        }
    }

    /// A line to one person that they did not ask for and no log has.
    fn tell(&mut self, visit: VisitIx, tags: &Tags<'_>, event: &Event<'_>, turn: &mut Turn) {
        self.deliver(visit, tags, event, turn);
        self.tell_late([visit], tags, event);
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
            let late: BTreeSet<VisitIx> =
                members.map(|(_, visit)| visit).filter(|visit| self.is_late(*visit)).collect();
            self.tell_late(late, &tags, event);
        }
    }
}

fn bye(farewell: Farewell) -> Event<'static> {
    Event::Bye { code: farewell.as_str(), text: farewell.sentence() }
}

/// The last line to a connection; `text` in place of what is usually said.
fn say_farewell(turn: &mut Turn, conn: ConnId, farewell: Farewell, text: Option<&str>) {
    let event = Event::Bye { code: farewell.as_str(), text: text.unwrap_or(farewell.sentence()) };
    turn.send(conn, Cause::Asked, &Tags::default(), &event);
    turn.close(conn);
}

fn greet(conn: ConnId, turn: &mut Turn) {
    let hello = Event::reply("HELLO", VERSION, "type a name to join, or /help");
    turn.send(conn, Cause::Asked, &Tags::default(), &hello);
}
