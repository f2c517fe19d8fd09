//! Connections: what a client chose and how far it has read. A connection that lost its socket
//! stays as long as its session may resume; resuming gives it a new socket.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Index;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slab::Slab;

use super::deferred_lines::{DeferredLine, DeferredLines};
use super::dirty::Dirty;
use super::index::{ConnectionIx, RoomIx, UserIx};
use super::pending::{Content, LongReply, PendingRequest};
use crate::commands::Setting;
use crate::protocol::Dialect;
use crate::server::auth::tokens::TokenHash;
use crate::server::net::ConnId;
use crate::server::net::peer::Peer;
use crate::server::record::UserId;

/// A connection, with or without a socket.
#[derive(Debug)]
pub(crate) struct Connection {
    /// `None` if the socket was lost and the session may still resume.
    pub(crate) socket: Option<ConnId>,
    /// The current or last peer; `None` if unknown after a restart.
    pub(crate) peer: Option<Peer>,
    pub(crate) phase: Phase,
    pub(crate) settings: Settings,
    /// Which settings the client has set explicitly, indexed by [`Setting`].
    pub(crate) chosen: [bool; Setting::TABLE.len()],
    /// The room that receives plain lines while no query is on.
    pub(crate) current: Option<RoomIx>,
    pub(crate) query: Query,
    pub(crate) delivery: DeliveryMode,
    pub(crate) deferred: Option<Box<DeferredLines>>,
    /// The hash of the token by which the session resumes, if the client has asked for one.
    pub(crate) session: Option<Box<TokenHash>>,
    /// Blocks further lines.
    pub(crate) pending: Option<Box<PendingRequest>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not logged in. After a refused name, only `/login` logs in, so that a chat line
    /// is not mistaken for a name.
    Greeting {
        was_refused: bool,
    },
    LoggedIn(UserIx),
    /// The farewell has been sent.
    Closing,
}

/// A program that posts without a login.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Poster {
    /// The account that it has proven.
    pub(crate) account: Option<UserId>,
}

/// Where the plain lines of a connection go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Query {
    /// To the current room.
    Off,
    /// To this user.
    On(UserId),
    /// The other user has logged out. Plain lines are refused, so that private text
    /// does not go to a room.
    Gone,
}

/// How messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeliveryMode {
    /// By broadcast, when they are posted.
    Live,
    /// From the log.
    Behind {
        /// The id of the last message that was delivered or is not for this user.
        after: u64,
        /// Whether presence events were missed, which the log does not contain; the member
        /// lists are then sent at the end of the catch-up.
        is_list_stale: bool,
        /// Whether a page of the log has been requested; at most one is pending.
        #[serde(skip)]
        is_reading: bool,
    },
}

impl DeliveryMode {
    /// Catch-up after this message id, with no page requested yet.
    pub(crate) fn behind(after: u64, is_list_stale: bool) -> Self {
        Self::Behind { after, is_list_stale, is_reading: false }
    }
}

/// The settings of `/set`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) echo: bool,
    pub(crate) joins: bool,
    #[serde(alias = "tags", deserialize_with = "Dialect::deserialize_stored")]
    pub(crate) dialect: Dialect,
}

impl Default for Settings {
    fn default() -> Self {
        Self { echo: true, joins: true, dialect: Dialect::default() }
    }
}

impl Settings {
    pub(crate) fn get(self, setting: Setting) -> bool {
        match setting {
            Setting::Echo => self.echo,
            Setting::Joins => self.joins,
            Setting::Tags => self.dialect.has_tags(),
        }
    }

    pub(crate) fn set(&mut self, setting: Setting, is_on: bool) {
        match setting {
            Setting::Echo => self.echo = is_on,
            Setting::Joins => self.joins = is_on,
            Setting::Tags => self.dialect = self.dialect.with_tags(is_on),
        }
    }

    /// Copies one setting.
    fn copy(&mut self, setting: Setting, from: Self) {
        match setting {
            Setting::Echo => self.echo = from.echo,
            Setting::Joins => self.joins = from.joins,
            Setting::Tags => self.dialect = from.dialect,
        }
    }
}

impl Connection {
    /// The connection of a socket that gets its farewell, in the dialect of the earlier connection.
    fn closing(socket: ConnId, earlier: &Self) -> Self {
        let closing = Self::new(Some(socket), earlier.peer, Phase::Closing);
        Self { settings: earlier.settings, ..closing }
    }

    fn new(socket: Option<ConnId>, peer: Option<Peer>, phase: Phase) -> Self {
        Self {
            socket,
            peer,
            phase,
            settings: Settings::default(),
            chosen: Default::default(),
            current: None,
            query: Query::Off,
            delivery: DeliveryMode::Live,
            deferred: None,
            session: None,
            pending: None,
        }
    }

    pub(crate) fn is_greeting(&self) -> bool {
        matches!(self.phase, Phase::Greeting { .. })
    }

    pub(crate) fn user(&self) -> Option<UserIx> {
        if let Phase::LoggedIn(user) = self.phase { Some(user) } else { None }
    }

    /// Returns whether the last line is not answered, or not completely.
    pub(crate) fn is_answering(&self) -> bool {
        let is_login = |reply: &LongReply| matches!(reply.content, Content::Mail { .. });
        match self.pending.as_deref() {
            Some(PendingRequest::Reply(reply)) => !is_login(reply),
            pending => pending.is_some(),
        }
    }

    /// Returns the socket, if it gets messages live.
    pub(crate) fn live_socket(&self) -> Option<ConnId> {
        self.socket.filter(|_| self.delivery == DeliveryMode::Live)
    }

    /// Returns whether it has a socket and is catching up.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.socket.is_some() && self.delivery != DeliveryMode::Live
    }
}

/// An optional index in four bytes: there is one for each connection, most of them idle.
#[derive(Debug, Clone, Copy)]
struct SmallIx(u32);

impl SmallIx {
    const NONE: Self = Self(u32::MAX);

    fn new(ix: ConnectionIx) -> Self {
        Self(u32::try_from(ix).expect("fewer connections than fit into u32"))
    }

    fn get(self) -> Option<ConnectionIx> {
        (self.0 != u32::MAX).then_some(self.0 as usize)
    }
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    all: Slab<Connection>,
    /// The connection of each socket, indexed by [`ConnId::slot`].
    sockets: Vec<SmallIx>,
    /// When the login of each socket must be complete, until it is.
    logins: BTreeMap<ConnId, Duration>,
    /// When each of them is checked next; others are skipped.
    login_checks: BTreeSet<(Duration, ConnId)>,
    /// The sockets that post without a login.
    posters: BTreeMap<ConnId, Poster>,
    /// Users whose stored row changed by a change of their connection.
    pub(crate) dirty_users: Dirty<UserIx>,
    /// Sockets whose row changed or who closed.
    pub(crate) dirty_sockets: Dirty<ConnId>,
}

impl Index<ConnectionIx> for Connections {
    type Output = Connection;

    fn index(&self, ix: ConnectionIx) -> &Connection {
        &self.all[ix]
    }
}

impl Connections {
    /// Adds the connection of a socket that was just accepted. Its login timer starts now and
    /// also runs during the TLS handshake.
    pub(crate) fn open(&mut self, socket: ConnId, peer: Peer, login_deadline: Duration) {
        if let Some(ix) = self.at(socket.slot)
            && let Some(earlier) = self.all[ix].socket
        {
            self.forget(earlier);
        }
        let phase = Phase::Greeting { was_refused: false };
        let ix = self.all.insert(Connection::new(Some(socket), Some(peer), phase));
        self.plug(socket, ix);
        self.logins.insert(socket, login_deadline);
        self.login_checks.insert((login_deadline, socket));
    }

    /// Adds the connection of a restored user, without a socket.
    pub(super) fn restore(&mut self, settings: Settings, peer: Option<Peer>) -> ConnectionIx {
        let mut connection = Connection::new(None, peer, Phase::Closing);
        connection.settings = settings;
        self.all.insert(connection)
    }

    fn plug(&mut self, socket: ConnId, ix: ConnectionIx) {
        let slot = socket.slot as usize;
        if self.sockets.len() <= slot {
            self.sockets.resize(slot + 1, SmallIx::NONE);
        }
        self.sockets[slot] = SmallIx::new(ix);
        self.dirty_sockets.mark(socket);
    }

    fn at(&self, slot: u32) -> Option<ConnectionIx> {
        self.sockets.get(slot as usize)?.get()
    }

    /// Finds the connection of a socket.
    pub(crate) fn of(&self, socket: ConnId) -> Option<ConnectionIx> {
        let ix = self.at(socket.slot)?;
        (self.all[ix].socket == Some(socket)).then_some(ix)
    }

    pub(crate) fn find(&self, socket: ConnId) -> Option<&Connection> {
        self.of(socket).map(|ix| &self.all[ix])
    }

    /// The dialect of a socket.
    pub(crate) fn dialect(&self, socket: ConnId) -> Dialect {
        self.find(socket).map(|connection| connection.settings.dialect).unwrap_or_default()
    }

    /// Changes what is stored with the user.
    fn change_user(&mut self, ix: ConnectionIx) -> &mut Connection {
        if let Some(user) = self.all[ix].user() {
            self.dirty_users.mark(user);
        }
        &mut self.all[ix]
    }

    /// Changes what is stored with the socket or, if it was lost, with the user.
    fn change_socket(&mut self, ix: ConnectionIx) -> &mut Connection {
        match self.all[ix].socket {
            Some(socket) => self.dirty_sockets.mark(socket),
            None => drop(self.change_user(ix)),
        }
        &mut self.all[ix]
    }

    pub(crate) fn set_encrypted(&mut self, ix: ConnectionIx, is_encrypted: bool) {
        if let Some(peer) = &mut self.change_socket(ix).peer {
            peer.is_encrypted = is_encrypted;
        }
    }

    /// Notes a refused login: a bare line is then no longer read as a name, only `/login` is.
    pub(crate) fn note_refused_login(&mut self, ix: ConnectionIx) {
        if self.all[ix].is_greeting() {
            self.change_socket(ix).phase = Phase::Greeting { was_refused: true };
        }
    }

    /// Notes that a socket posts without a login, and when it must have sent something more. A
    /// bare line is then no longer read as a name.
    pub(crate) fn note_poster(&mut self, ix: ConnectionIx, poster: Poster, idle: Duration) {
        let Some(socket) = self.all[ix].socket else { return };
        self.change_socket(ix).phase = Phase::Greeting { was_refused: true };
        self.posters.insert(socket, poster);
        self.logins.insert(socket, idle);
    }

    /// Returns the poster of a socket, if it has posted or proven an account without a login.
    pub(crate) fn poster(&self, socket: ConnId) -> Option<Poster> {
        self.posters.get(&socket).copied()
    }

    pub(super) fn log_in(&mut self, ix: ConnectionIx, user: UserIx) {
        self.end_login(ix);
        self.change_socket(ix).phase = Phase::LoggedIn(user);
    }

    /// Replaces the settings; the client has chosen this one.
    pub(super) fn choose(&mut self, ix: ConnectionIx, setting: Setting, settings: Settings) {
        self.change_user(ix);
        let connection = self.change_socket(ix);
        connection.settings = settings;
        connection.chosen[setting as usize] = true;
    }

    pub(crate) fn set_current(&mut self, ix: ConnectionIx, room: Option<RoomIx>) {
        if self.all[ix].current != room {
            self.change_user(ix).current = room;
        }
    }

    pub(super) fn set_query(&mut self, ix: ConnectionIx, query: Query) {
        if self.all[ix].query != query {
            self.change_user(ix).query = query;
        }
    }

    pub(super) fn set_delivery(&mut self, ix: ConnectionIx, mode: DeliveryMode) {
        self.change_socket(ix).delivery = mode;
    }

    pub(crate) fn defer(&mut self, ix: ConnectionIx, line: DeferredLine) {
        self.change_socket(ix).deferred.get_or_insert_default().push(line);
    }

    /// Removes and returns the next deferred line that precedes a message.
    pub(crate) fn next_deferred(&mut self, ix: ConnectionIx, message: u64) -> Option<DeferredLine> {
        let lines = self.all[ix].deferred.as_mut()?;
        let line = lines.next_before(message);
        if lines.is_empty() {
            self.all[ix].deferred = None;
        }
        line
    }

    /// Blocks further lines until a request is answered.
    pub(crate) fn wait_for(&mut self, ix: ConnectionIx, request: PendingRequest) {
        self.all[ix].pending = Some(Box::new(request));
    }

    /// Takes the pending request if it is of the wanted kind.
    pub(crate) fn take_pending<T>(
        &mut self,
        ix: ConnectionIx,
        wanted: impl FnOnce(PendingRequest) -> Result<T, PendingRequest>,
    ) -> Option<T> {
        let pending = &mut self.all[ix].pending;
        wanted(*pending.take()?).map_err(|other| *pending = Some(Box::new(other))).ok()
    }

    pub(super) fn begin_session(&mut self, ix: ConnectionIx, token: TokenHash) {
        self.all[ix].session = Some(Box::new(token));
    }

    /// Stops reading from a socket that gets its farewell. The connection of a user is kept
    /// without a socket; the user ends or may resume.
    pub(crate) fn close(&mut self, socket: ConnId) {
        let Some(ix) = self.of(socket) else { return };
        let connection = &mut self.all[ix];
        connection.pending = None;
        if connection.is_greeting() {
            self.end_login(ix);
            self.change_socket(ix).phase = Phase::Closing;
        } else if connection.phase != Phase::Closing {
            connection.socket = None;
            let closing = Connection::closing(socket, connection);
            let closing = self.all.insert(closing);
            self.plug(socket, closing);
        }
    }

    /// Gives the connection of a session a new socket, whose own connection ends. It catches up
    /// from this message. Settings that the client has set on the new socket replace those of
    /// the session.
    pub(super) fn resume(&mut self, ix: ConnectionIx, socket: ConnId, after: u64) {
        let Some(new) = self.of(socket) else { return };
        self.end_login(new);
        let Connection { peer, settings, chosen, .. } = self.all.remove(new);
        let connection = &mut self.all[ix];
        (connection.socket, connection.peer, connection.chosen) = (Some(socket), peer, chosen);
        connection.delivery = DeliveryMode::behind(after, false);
        for (setting, _) in Setting::TABLE {
            if chosen[setting as usize] {
                connection.settings.copy(setting, settings);
            }
        }
        self.plug(socket, ix);
    }

    /// Removes the connection of a user who logs out, and closes its socket.
    pub(super) fn remove(&mut self, ix: ConnectionIx) -> Connection {
        if let Some(socket) = self.all[ix].socket {
            self.close(socket);
        }
        self.all.remove(ix)
    }

    /// Deletes a socket that is closed.
    pub(crate) fn forget(&mut self, socket: ConnId) {
        let Some(ix) = self.of(socket) else { return };
        self.end_login(ix);
        match self.all[ix].phase {
            // A user who is still logged in keeps the connection.
            Phase::LoggedIn(_) => self.all[ix].socket = None,
            Phase::Greeting { .. } | Phase::Closing => drop(self.all.remove(ix)),
        }
        self.sockets[socket.slot as usize] = SmallIx::NONE;
        self.dirty_sockets.mark(socket);
    }

    /// Forgets when the login must be complete.
    fn end_login(&mut self, ix: ConnectionIx) {
        if let Some(socket) = self.all[ix].socket {
            self.logins.remove(&socket);
            self.posters.remove(&socket);
        }
    }

    /// Closes all sockets and returns them; what is stored of their users does not change.
    pub(crate) fn shut_down(&mut self) -> Vec<ConnId> {
        let sockets = self.sockets.iter().filter_map(|ix| ix.get()).map(|ix| &self.all[ix]);
        let open = sockets.filter(|connection| connection.phase != Phase::Closing);
        let closing = open.filter_map(|it| Some((it.socket?, Connection::closing(it.socket?, it))));
        let (sockets, closing): (Vec<_>, Vec<_>) = closing.unzip();
        for (socket, closing) in sockets.iter().zip(closing) {
            self.sockets[socket.slot as usize] = SmallIx::new(self.all.insert(closing));
        }
        sockets
    }

    /// When the next login must be complete.
    pub(crate) fn login_due(&mut self) -> Option<Duration> {
        while let Some((due, socket)) = self.login_checks.first() {
            if self.logins.contains_key(socket) {
                return Some(*due);
            }
            self.login_checks.pop_first();
        }
        None
    }

    /// When the login of a socket must be complete, unless it is.
    pub(crate) fn login_deadline(&self, socket: ConnId) -> Option<Duration> {
        self.logins.get(&socket).copied()
    }

    /// Removes and returns the next socket whose login is overdue.
    pub(crate) fn next_overdue(&mut self, now: Duration) -> Option<ConnId> {
        let (_, socket) = *self.login_checks.first().filter(|(due, _)| *due <= now)?;
        self.login_checks.pop_first();
        Some(socket)
    }

    /// Lets an overdue login be checked again at this time.
    pub(crate) fn check_login_at(&mut self, due: Duration, socket: ConnId) {
        self.login_checks.insert((due, socket));
    }

    /// Checks the indexes.
    pub(super) fn check(&self) {
        for (ix, connection) in &self.all {
            if let Some(socket) = connection.socket {
                assert_eq!(self.of(socket), Some(ix), "sockets map to connections");
            } else {
                assert!(connection.session.is_some(), "without a socket there is a session");
            }
        }
        let greeting = self.all.iter().filter(|(_, it)| it.is_greeting()).count();
        assert_eq!(self.logins.len(), greeting, "each greeting has a deadline");
        let sockets = self.all.iter().filter(|(_, it)| it.socket.is_some()).count();
        assert_eq!(
            self.sockets.iter().filter_map(|ix| ix.get()).count(),
            sockets,
            "each socket has a connection"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::deferred_lines::DeferredLine;
    use super::super::pending::{Cursor, ResumeCheck};
    use super::*;
    use crate::server::hub::test_support::conn;
    use crate::server::net::outbox::{Lines, Meter};

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(last: u8) -> Peer {
        Peer::new([192, 0, 2, last].into())
    }

    fn request() -> PendingRequest {
        let cursor = Cursor { after: 0, time: None };
        PendingRequest::Resume(ResumeCheck { cid: None, token: TokenHash::default(), cursor })
    }

    /// Connections of three sockets; user 7 is logged in on the first one, with a session.
    fn connections() -> Connections {
        let mut connections = Connections::default();
        for slot in 0..3 {
            connections.open(conn(slot), peer(1), SECOND * (9 - slot));
        }
        let ix = connections.of(conn(0)).expect("open");
        connections.log_in(ix, 7);
        connections.begin_session(ix, TokenHash::default());
        connections.dirty_sockets.take();
        connections
    }

    #[test]
    fn slot_is_reused_by_sockets_of_other_generations() {
        let mut connections = connections();
        let later = ConnId { generation: 1, ..conn(1) };
        assert!(connections.find(later).is_none());
        connections.open(later, peer(2), SECOND);
        assert!(connections.find(conn(1)).is_none(), "the earlier one is gone");
        connections.forget(conn(1));
        assert_eq!(connections.find(later).and_then(|it| it.peer), Some(peer(2)));
        connections.check();
        assert_eq!(connections.dirty_sockets.take(), [conn(1), later]);
    }

    #[test]
    fn user_keeps_the_connection_when_the_socket_closes() {
        let mut connections = connections();
        let ix = connections.of(conn(0)).expect("open");
        connections.wait_for(ix, request());
        connections.close(conn(0));
        let kept = &connections[ix];
        assert_eq!((kept.user(), kept.socket, kept.pending.is_none()), (Some(7), None, true));
        // The socket is there until the farewell is written.
        let closing = connections.find(conn(0)).expect("a socket");
        assert_eq!((closing.phase, closing.peer), (Phase::Closing, Some(peer(1))));
        connections.close(conn(0));
        connections.forget(conn(0));
        connections.check();
        assert!(connections.find(conn(0)).is_none());
        assert_eq!(connections.remove(ix).user(), Some(7));
        connections.check();
    }

    #[test]
    fn socket_of_a_user_who_is_removed_is_closed() {
        let mut connections = connections();
        let ix = connections.of(conn(0)).expect("open");
        connections.remove(ix);
        assert_eq!(connections.find(conn(0)).map(|it| it.phase), Some(Phase::Closing));
        connections.check();
    }

    #[test]
    fn resumed_connection_prefers_the_settings_of_the_new_socket() {
        let mut connections = connections();
        let (ix, new) =
            (connections.of(conn(0)).expect("open"), connections.of(conn(1)).expect("open"));
        let earlier = Settings { echo: false, joins: false, ..Settings::default() };
        connections.choose(ix, Setting::Joins, earlier);
        connections.choose(new, Setting::Joins, Settings::default());
        connections.close(conn(0));
        connections.dirty_sockets.take();
        connections.resume(ix, conn(1), 5);
        assert_eq!(connections.of(conn(1)), Some(ix));
        let Connection { settings, chosen, delivery, .. } = connections[ix];
        assert!(!settings.echo && settings.joins && !settings.dialect.has_tags());
        assert_eq!((chosen, delivery), ([false, true, false], DeliveryMode::behind(5, false)));
        assert_eq!(connections.dirty_sockets.take(), [conn(1)]);
        connections.check();
    }

    #[test]
    fn settings_are_restored_as_stored_now_or_by_0_1_0() {
        let read = |stored: &str| serde_json::from_str::<Settings>(stored).map(|it| it.dialect);
        for dialect in Dialect::ALL {
            let settings = Settings { dialect: *dialect, ..Settings::default() };
            let stored = serde_json::to_string(&settings).expect("a row");
            assert_eq!(read(&stored).expect(&stored), *dialect);
        }
        let older = |tags: &str| read(&format!(r#"{{"echo":true,"joins":true,"tags":{tags}}}"#));
        assert_eq!(older("false").ok(), Some(Dialect::Plain));
        assert_eq!(older("true").ok(), Some(Dialect::Tagged));
        assert!(older("\"other\"").is_err());
    }

    #[test]
    fn login_deadlines_apply_to_sockets_that_have_not_logged_in() {
        let mut connections = connections();
        assert_eq!(connections.login_due(), Some(SECOND * 7));
        assert_eq!(connections.next_overdue(SECOND * 6), None);
        assert_eq!(connections.next_overdue(SECOND * 8), Some(conn(2)));
        connections.close(conn(2));
        connections.check_login_at(SECOND * 10, conn(1));
        assert_eq!(connections.login_due(), Some(SECOND * 8));
        assert_eq!(connections.next_overdue(SECOND * 8), Some(conn(1)));
        // The user at 9 s has logged in.
        assert_eq!(connections.login_due(), Some(SECOND * 10));
        connections.forget(conn(1));
        assert_eq!(connections.login_due(), None);
    }

    #[test]
    fn shutdown_closes_open_sockets_and_changes_nothing_stored() {
        let mut connections = connections();
        let ix = connections.of(conn(0)).expect("open");
        connections.close(conn(2));
        connections.dirty_sockets.take();
        assert_eq!(connections.shut_down(), [conn(0), conn(1)]);
        assert_eq!(connections.shut_down(), []);
        assert_eq!((connections[ix].user(), connections[ix].socket), (Some(7), Some(conn(0))));
        let marks = (connections.dirty_users.take(), connections.dirty_sockets.take());
        assert_eq!(marks, (vec![], vec![]));
    }

    #[test]
    fn only_a_request_of_the_wanted_kind_is_taken() {
        let mut connections = connections();
        let ix = connections.of(conn(0)).expect("open");
        connections.wait_for(ix, request());
        let mut take = |is_wanted| {
            let wanted = |it| if is_wanted { Ok(it) } else { Err(it) };
            connections.take_pending(ix, wanted).is_some()
        };
        assert_eq!([false, true, true].map(&mut take), [false, true, false]);
    }

    #[test]
    fn change_is_stored_with_the_socket_or_with_the_user_who_has_lost_it() {
        let mut connections = connections();
        let ix = connections.of(conn(0)).expect("open");
        let line =
            || DeferredLine { after: 1, bytes: Lines::new(vec![], &Meter::default()), actor: None };
        connections.defer(ix, line());
        let marks = (connections.dirty_users.take(), connections.dirty_sockets.take());
        assert_eq!(marks, (vec![], vec![conn(0)]));
        connections.close(conn(0));
        connections.dirty_sockets.take();
        connections.defer(ix, line());
        let marks = (connections.dirty_users.take(), connections.dirty_sockets.take());
        assert_eq!(marks, (vec![7], vec![]));
        let lines = std::iter::from_fn(|| connections.next_deferred(ix, 2));
        assert_eq!(lines.count(), 2);
        assert!(connections[ix].deferred.is_none());
    }
}
