//! Sessions: a user with a session token keeps their name and rooms for `--session-grace`
//! after a disconnect, without an announcement. Messages of that time are in the log;
//! `/resume` starts a catch-up from there (`catch_up.rs`).
//!
//! Only the hash of a token is persisted: a reader of the data folder cannot resume any
//! session. This module neither reads a clock nor the log itself.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::catch_up::Lookup;
use super::{
    Away, Cid, Collection, ConnId, Context, DeliveryMode, ErrorCode, Event, Farewell, Hub,
    MembershipSpan, Memberships, Name, Now, Peer, PendingRequest, Phase, QueryState, Refusal,
    Relations, RoomName, Seed, Settings, Stamp, Turn, UnreadableEntry, User, UserId, UserIx,
    refusal, send_farewell,
};
use crate::commands::{Command, Setting};
use crate::server::record::Record;
use crate::server::store::{ReadRequest as LogQuery, Thread};

/// SHA-256 of a session token; the only form in which a token is persisted.
pub(super) type TokenHash = [u8; 32];

/// Generates session tokens from the seed, the only source of randomness the hub has.
#[derive(Debug)]
pub(super) struct Tokens {
    seed: Seed,
    count: u64,
}

impl Tokens {
    pub(super) fn new(seed: Seed) -> Self {
        Self { seed, count: 0 }
    }

    /// Returns 128 bits in hex; unpredictable without the seed.
    fn next(&mut self) -> String {
        self.count += 1;
        let hash = Sha256::new().chain_update(self.seed).chain_update(self.count.to_be_bytes());
        hex(&hash.finalize()[..16])
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn hash(token: &str) -> TokenHash {
    Sha256::digest(token).into()
}

/// What a user needs to be resumable.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) hash: TokenHash,
    /// The token in clear, so that `/session` can repeat it. After a restart it is unknown
    /// until the client has used it.
    token: Option<Box<str>>,
    /// The settings to restore on `/resume`; current only while the user is disconnected.
    settings: Settings,
}

/// A session as stored. Fields may be added, never removed or renamed: data of older
/// versions must stay readable.
#[derive(Debug, Serialize, Deserialize)]
struct SavedSession {
    name: Name,
    token: TokenHash,
    first: u64,
    since: Stamp,
    settings: Settings,
    /// The current room is the last one, if `has_current`.
    rooms: Vec<RoomName>,
    has_current: bool,
    /// The latest membership spans; older ones are stored in blocks, see `memberships.rs`.
    stays: Vec<MembershipSpan>,
    away: Option<String>,
    query: SavedQuery,
    ignores: Vec<(UserId, Name)>,
    /// All rooms in which the user is an operator, including rooms they have left.
    #[serde(default)]
    operates: Vec<RoomName>,
    /// The position of each of `rooms` in the global order of joins.
    #[serde(default)]
    arrivals: Vec<u64>,
    /// See [`Memberships::evicted_upto`].
    #[serde(default)]
    forgotten: u64,
    /// The last remote address, matched by network bans. Older versions stored the /64 of
    /// an IPv6 address, and nothing for loopback.
    #[serde(default, rename = "network")]
    address: Option<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedQuery {
    Off,
    On(UserId),
    Gone,
}

/// Where a client resumes reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// Id of the last message the client has received.
    pub(super) after: u64,
    /// Time of that message. It differs when a restored backup has reassigned the id.
    pub(super) time: Option<Stamp>,
}

/// A `/resume` that waits for its message to be read from the log.
#[derive(Debug)]
pub(super) struct ResumeCheck {
    pub(super) cid: Option<Cid>,
    token: Box<str>,
    cursor: Cursor,
}

/// The text is part of the protocol: clients recognize it and read again from the beginning
/// of their login.
fn ids_went_back<T>() -> Result<T, Refusal> {
    refusal(ErrorCode::BadArgument, "ids went back (restored backup?)")
}

/// Returns whether a command may change the stored session of the user who sent it.
pub(super) fn changes_session(command: Command<'_>) -> bool {
    use Command as C;
    match command {
        C::Query { .. }
        | C::Join { .. }
        | C::Part { .. }
        | C::Nick { .. }
        | C::Away { .. }
        | C::Back
        | C::Ignore { .. }
        | C::Unignore { .. }
        | C::Set { .. }
        | C::Register { .. }
        | C::Passwd { .. }
        | C::Unregister { .. }
        | C::Session => true,
        C::Help { .. }
        | C::Login { .. }
        | C::Resume { .. }
        | C::Msg { .. }
        | C::Reply { .. }
        | C::Me { .. }
        | C::Who { .. }
        | C::Whois { .. }
        | C::List
        | C::Topic { .. }
        | C::History { .. }
        | C::Search { .. }
        | C::Op { .. }
        | C::Deop { .. }
        | C::Kick { .. }
        | C::Ban { .. }
        | C::Unban { .. }
        | C::Bans
        | C::Lock { .. }
        | C::Unlock
        | C::Invite { .. }
        | C::Oper { .. }
        | C::Wall { .. }
        | C::Kill { .. }
        | C::Gban { .. }
        | C::Gunban { .. }
        | C::Gbans
        | C::Mute { .. }
        | C::Unmute { .. }
        | C::Ping { .. }
        | C::Version
        | C::Quit { .. } => false,
    }
}

impl Hub {
    /// Executes `/session`. Repeated calls return the same token until the user logs out.
    pub(super) fn session(&mut self, ctx: &mut Context<'_>, user: UserIx) {
        let me = &mut self.users[user];
        let session = me.session.get_or_insert_with(|| {
            let token = self.tokens.next();
            let hash = hash(&token);
            Box::new(Session { hash, token: Some(token.into()), settings: ctx.settings })
        });
        self.sessions.insert(session.hash, me.id);
        let token = session.token.clone();
        self.note_blocks_unsaved(user);
        // The token is missing only after a restart and before the client has resumed with
        // it.
        let token = token.as_deref().unwrap_or_default();
        let text =
            "/resume TOKEN ID restores this session after a lost connection; keep the token secret";
        ctx.reply(&Event::reply("SESSION", token, text));
    }

    /// Executes `/resume`. Nothing changes before the cursor is known to belong to this
    /// log.
    pub(super) fn resume(
        &mut self,
        ctx: &mut Context<'_>,
        token: &str,
        cursor: Cursor,
    ) -> Result<(), Refusal> {
        let Some(user) = self.user_to_resume(ctx, token)? else { return Ok(()) };
        if cursor.after > self.last_ids.message {
            return ids_went_back();
        }
        let Some(time) = cursor.time.filter(|_| cursor.after > 0) else {
            self.attach_user(ctx, user, token, cursor.after);
            return Ok(());
        };
        match self.recent.find(cursor.after) {
            Lookup::Found(record) if record.time != time => ids_went_back(),
            // A skipped id has no message, hence no time to compare.
            Lookup::Found(_) | Lookup::NoMessage => {
                self.attach_user(ctx, user, token, cursor.after);
                Ok(())
            }
            Lookup::InLog => {
                let request = ResumeCheck { cid: ctx.cid.take(), token: token.into(), cursor };
                let thread = Thread::Message { id: cursor.after };
                let query =
                    LogQuery { thread, count: 1, size: usize::MAX, after: None, hidden: vec![] };
                self.wait_for(ctx.conn, PendingRequest::Resume(request));
                ctx.turn.read(ctx.conn, query);
                Ok(())
            }
        }
    }

    /// Completes `/resume` after the message of the cursor was read. The session may have
    /// ended meanwhile, or another connection may have resumed it; that connection is
    /// replaced.
    pub(super) fn resume_with_row(
        &mut self,
        ctx: &mut Context<'_>,
        request: &ResumeCheck,
        found: &[Arc<Record>],
    ) -> Result<(), Refusal> {
        let Some(user) = self.user_to_resume(ctx, &request.token)? else { return Ok(()) };
        if found.iter().any(|record| Some(record.time) != request.cursor.time) {
            return ids_went_back();
        }
        self.attach_user(ctx, user, &request.token, request.cursor.after);
        Ok(())
    }

    /// Returns the user of a token; `None` if the user is banned and the connection has
    /// been rejected.
    fn user_to_resume(
        &mut self,
        ctx: &mut Context<'_>,
        token: &str,
    ) -> Result<Option<UserIx>, Refusal> {
        let user_id = self.sessions.get(&hash(token));
        let Some(user) = user_id.and_then(|user_id| self.users_by_id.get(user_id)).copied() else {
            return refusal(
                ErrorCode::BadPassword,
                "unknown or ended session; type /login NAME to log in again",
            );
        };
        let (user_id, name) = (self.users[user].id, self.users[user].name.clone());
        Ok((!self.reject_banned(ctx, user_id, &name)).then_some(user))
    }

    /// Attaches this connection to the user; a connection that still has the user is closed
    /// as replaced.
    fn attach_user(&mut self, ctx: &mut Context<'_>, user: UserIx, token: &str, after: u64) {
        let (user_id, name) = (self.users[user].id, self.users[user].name.clone());
        let old_settings = self.settings_of(user);
        match self.users[user].conn {
            Some(old) => {
                self.close_connection(old);
                send_farewell(ctx.turn, old, Farewell::Replaced, None);
            }
            None => self.dropped.remove(user_id),
        }
        let peer = self.peer(ctx.conn);
        let me = &mut self.users[user];
        me.conn = Some(ctx.conn);
        me.peer = peer;
        me.feed = DeliveryMode::behind(after.max(me.first), false);
        if let Some(session) = &mut me.session {
            session.token = Some(token.into());
        }
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.phase = Phase::LoggedIn(user);
            for (setting, _) in Setting::TABLE {
                if !connection.chosen[setting as usize] {
                    connection.settings.set(setting, old_settings.get(setting));
                }
            }
            ctx.settings = connection.settings;
        }
        for room in self.users[user].rooms.clone() {
            self.rooms[room].was_visited = true;
        }
        self.mark_session_unsaved(user);
        self.invalidate_audiences_of(user);
        let after = after.max(self.users[user].first);
        let evicted_upto = self.users[user].memberships.evicted_upto();
        let text = if after < evicted_upto {
            format!(
                "you are back; up to id {evicted_upto}, messages of rooms you left may be missing"
            )
        } else {
            "you are back".to_owned()
        };
        ctx.reply(&Event::reply("WELCOME", name.as_str(), &text));
        self.leave_banned_rooms(ctx, user);
        ctx.turn.notify_when_drained(ctx.conn);
    }

    /// Handles a lost connection or a forced disconnect. A user with a session can still
    /// resume; any other user is logged out.
    pub(super) fn handle_disconnect(
        &mut self,
        now: Now,
        conn: ConnId,
        farewell: Option<Farewell>,
        turn: &mut Turn,
    ) {
        let user = match self.connection(conn).map(|c| c.phase) {
            Some(Phase::LoggedIn(user)) if self.users[user].session.is_some() => user,
            _ => return self.leave(now, conn, farewell, None, turn),
        };
        let settings = self.settings(conn);
        self.close_connection(conn);
        let me = &mut self.users[user];
        me.conn = None;
        if let Some(session) = &mut me.session {
            session.settings = settings;
        }
        self.invalidate_audiences_of(user);
        match farewell {
            Some(farewell) => send_farewell(turn, conn, farewell, None),
            None => turn.close(conn),
        }
        let network = self.start_grace(now.since_start, user);
        let max = self.limits.max_per_address;
        if let Some(first) =
            network.and_then(|network| self.dropped.oldest_over_limit(network, max))
        {
            self.expire_session(now, first, turn);
        }
    }

    /// Starts the grace period of a disconnected user. Returns the network whose limit
    /// counts the session.
    fn start_grace(&mut self, now: Duration, user: UserIx) -> Option<IpAddr> {
        let User { id, peer, .. } = self.users[user];
        let network = peer.filter(|peer| self.limits.apply_to(*peer)).map(Peer::network);
        self.dropped.add(now + self.limits.session_grace, id, network);
        network
    }

    /// Logs out a disconnected user whose grace period is over, or whose network has too
    /// many disconnected sessions.
    pub(super) fn expire_session(&mut self, now: Now, user_id: UserId, turn: &mut Turn) {
        if let Some(user) = self.users_by_id.get(&user_id).copied() {
            self.end_user(now, user, None, turn);
        }
    }

    /// Ends the session of a user; its token becomes invalid.
    pub(super) fn end_session(&mut self, user: UserIx) {
        let me = &mut self.users[user];
        if let Some(session) = me.session.take() {
            self.sessions.remove(&session.hash);
            self.unsaved.insert((Collection::Session, me.id.0));
            self.dropped.remove(me.id);
        }
    }

    fn settings_of(&self, user: UserIx) -> Settings {
        let User { conn, session, .. } = &self.users[user];
        match conn {
            Some(conn) => self.settings(*conn),
            None => session.as_ref().map(|session| session.settings).unwrap_or_default(),
        }
    }

    /// Marks the session of a user for storage.
    pub(super) fn mark_session_unsaved(&mut self, user: UserIx) {
        let User { id, session, .. } = &self.users[user];
        if session.is_some() {
            self.unsaved.insert((Collection::Session, id.0));
        }
    }

    /// Returns the stored form of a session; `None` if the user has no session.
    pub(super) fn saved_session(&self, user_id: UserId) -> Option<String> {
        let user = *self.users_by_id.get(&user_id)?;
        let me = &self.users[user];
        let session = me.session.as_ref()?;
        let mut rooms = me.rooms.clone();
        if let Some(at) = rooms.iter().position(|room| Some(*room) == me.current) {
            let current = rooms.remove(at);
            rooms.push(current);
        }
        let saved = SavedSession {
            name: me.name.clone(),
            token: session.hash,
            first: me.first,
            since: me.since,
            settings: self.settings_of(user),
            rooms: rooms.iter().map(|room| self.rooms[*room].name.clone()).collect(),
            has_current: me.current.is_some(),
            stays: me.memberships.recent().to_vec(),
            away: me.away.as_ref().map(|away| away.text.to_string()),
            query: match me.query {
                QueryState::Off => SavedQuery::Off,
                QueryState::On(other) => SavedQuery::On(other),
                QueryState::Gone => SavedQuery::Gone,
            },
            ignores: self.ignores_of(user),
            forgotten: me.memberships.evicted_upto(),
            operates: self.rooms_led_by(user),
            arrivals: rooms
                .iter()
                .map(|room| self.rooms[*room].arrival_of(me.name.key()))
                .collect(),
            address: me.peer.map(|peer| peer.address),
        };
        serde_json::to_string(&saved).ok()
    }

    /// Restores all stored entries; every session gets a full grace period again.
    pub(super) fn restore(
        &mut self,
        entries: &[(Collection, u64, String)],
    ) -> Result<(), UnreadableEntry> {
        let (mut users, mut blocks) = (Vec::new(), Vec::new());
        for (collection, key, value) in entries {
            let user_id = UserId(*key);
            let restored = match collection {
                Collection::Account => self.restore_account(user_id, value),
                Collection::Mail => self.restore_mail(*key, value),
                Collection::Moderation => self.restore_moderation(*key, value),
                Collection::Spans => {
                    blocks.push((*key, value));
                    Ok(())
                }
                Collection::Session => {
                    serde_json::from_str(value).map(|saved| users.push((user_id, saved)))
                }
            };
            restored.map_err(|why| UnreadableEntry { collection: *collection, key: *key, why })?;
        }
        // Sessions refer to accounts and moderation.
        for (user_id, saved) in &users {
            self.restore_session(*user_id, saved);
        }
        blocks.sort_unstable_by_key(|(key, _)| *key);
        for (key, value) in blocks {
            let restored = self.restore_block(key, value);
            restored.map_err(|why| UnreadableEntry { collection: Collection::Spans, key, why })?;
        }
        for (user_id, saved) in &users {
            self.restore_rights(*user_id, &saved.operates);
        }
        // Ignores and queries refer to other users.
        for (user_id, saved) in users {
            self.restore_relations(user_id, saved);
        }
        self.prune_all_moderation();
        self.restore_operators();
        Ok(())
    }

    fn restore_session(&mut self, user_id: UserId, saved: &SavedSession) {
        if self.names.contains_key(saved.name.key()) {
            return; // never stored like this; the first session keeps the name
        }
        let settings = saved.settings;
        let session = Session { hash: saved.token, token: None, settings };
        let user = self.users.insert(User {
            id: user_id,
            name: saved.name.clone(),
            conn: None,
            peer: saved.address.map(Peer::new),
            session: Some(Box::new(session)),
            first: saved.first,
            feed: DeliveryMode::Live,
            deferred: None,
            rooms: Vec::new(),
            memberships: Memberships::new(saved.stays.clone(), saved.forgotten),
            current: None,
            query: QueryState::Off,
            reply_target: None,
            away: saved.away.as_deref().map(|text| Away { text: text.into() }),
            relations: Relations::default(),
            since: saved.since,
            last_active: Duration::ZERO,
        });
        self.assign_name(user, &saved.name);
        self.users_by_id.insert(user_id, user);
        self.sessions.insert(saved.token, user_id);
        self.start_grace(Duration::ZERO, user);
        for (at, name) in saved.rooms.iter().enumerate() {
            let room = self.activate(name).unwrap_or_else(|| self.room_or_new(name));
            let arrival = saved.arrivals.get(at).copied().unwrap_or_default();
            self.last_arrival = self.last_arrival.max(arrival);
            self.rooms[room].admit(saved.name.key().clone(), user, arrival);
            self.users[user].rooms.push(room);
        }
        if saved.has_current {
            self.users[user].current = self.users[user].rooms.last().copied();
        }
    }

    /// Restores the operator rights of a guest, which are stored with the session. A room
    /// without members has ended unless other moderation was stored for it.
    fn restore_rights(&mut self, user_id: UserId, operates: &[RoomName]) {
        for name in operates {
            if let Some(room) = self.room_names.get(name.key()).copied() {
                self.make_operator(room, user_id);
            }
        }
    }

    fn restore_relations(&mut self, user_id: UserId, saved: SavedSession) {
        let Some(user) = self.users_by_id.get(&user_id).copied() else { return };
        // While its user is online, the ignores of an account are held by the user.
        if let Some(account) = self.accounts.of_mut(user_id) {
            account.ignores.clear();
        }
        self.restore_ignores(user, saved.ignores);
        self.users[user].query = match saved.query {
            SavedQuery::Off => QueryState::Off,
            SavedQuery::On(other) => match self.users_by_id.get(&other).copied() {
                Some(with) => {
                    self.users[with].relations.queried_by.push(user_id);
                    QueryState::On(other)
                }
                None => QueryState::Gone,
            },
            SavedQuery::Gone => QueryState::Gone,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{
        Driver, connect, connect_from, handle, hub, message, restarted, say, session,
    };
    use super::super::{Flow, Input, Limits, ReadResult};
    use super::*;

    const IDS_WENT_BACK: &str = "[ERROR bad-argument] ids went back (restored backup?)\n";

    /// A restarted hub with a session of bob, and its token; message 2 was posted before
    /// the restart.
    fn restarted_with_session() -> (Driver, String) {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "bob");
        let token = session(&mut hub, 0);
        say(&mut hub, 0, "one");
        say(&mut hub, 0, "two");
        let mut hub = restarted(&hub);
        (0..3).for_each(|slot| connect(&mut hub, slot));
        (hub, token)
    }

    /// Message 2 as the log returns it.
    fn row() -> ReadResult {
        ReadResult { records: vec![message(2, "lobby", None, "two")], ..ReadResult::default() }
    }

    #[test]
    fn resume_compares_the_time_of_its_message_with_the_log() {
        let right = Stamp(0);
        for (time, rows, first_answer) in [
            (right, row(), "[WELCOME bob] you are back\n"),
            (Stamp(1), row(), IDS_WENT_BACK),
            // Deleted, or never a message: there is no time to compare.
            (Stamp(1), ReadResult::default(), "[WELCOME bob] you are back\n"),
            (right, ReadResult::failed(), "[ERROR storage-full] "),
        ] {
            let (mut hub, token) = restarted_with_session();
            let (flow, reply) = say(&mut hub, 0, &format!("/resume {token} 2 {time}"));
            assert_eq!((flow, reply.reads, reply.text.as_str()), (Flow::Wait, 1, ""));
            let (flow, reply) = handle(&mut hub, 0, Input::Page(rows));
            assert!(reply.text.starts_with(first_answer), "{time}: {}", reply.text);
            assert_eq!(flow == Flow::Next, !first_answer.contains("WELCOME"), "it catches up");
            hub.check_invariants();
            // The session survives in any case.
            let (_, reply) = say(&mut hub, 1, &format!("/resume {token} 0"));
            assert!(reply.text.starts_with("[WELCOME bob]"), "{}", reply.text);
        }
    }

    #[test]
    fn resume_after_a_message_in_memory_needs_no_log() {
        let (mut hub, token) = restarted_with_session();
        say(&mut hub, 1, "alice");
        say(&mut hub, 1, "three");
        for (cursor, answer) in [
            ("3 1970-01-01T00:00:00.001Z", IDS_WENT_BACK),
            ("4", IDS_WENT_BACK),
            ("3 1970-01-01T00:00:00.000Z", "[WELCOME bob] you are back\n"),
        ] {
            let (_, reply) = say(&mut hub, 0, &format!("/resume {token} {cursor}"));
            assert_eq!((reply.reads, reply.text.as_str()), (0, answer), "{cursor}");
        }
    }

    #[test]
    fn resume_that_waits_for_the_log_replaces_later_connections() {
        let (mut hub, token) = restarted_with_session();
        let (_, reply) = say(&mut hub, 0, &format!("/resume {token} 2 {}", Stamp(0)));
        assert_eq!(reply.reads, 1);
        // Another connection resumes meanwhile and is live.
        say(&mut hub, 1, &format!("/resume {token} 2"));
        handle(&mut hub, 1, Input::Drained);
        say(&mut hub, 1, "/nick rob");
        let (_, reply) = handle(&mut hub, 0, Input::Page(row()));
        assert!(reply.text.starts_with("[WELCOME rob]"), "{}", reply.text);
        hub.check_invariants();
        // Conversely, the session ends meanwhile.
        let (_, reply) = say(&mut hub, 2, &format!("/resume {token} 2 {}", Stamp(0)));
        assert_eq!(reply.reads, 1);
        handle(&mut hub, 0, Input::Drained);
        say(&mut hub, 0, "/quit");
        let (flow, reply) = handle(&mut hub, 2, Input::Page(row()));
        assert!(reply.text.starts_with("[ERROR bad-password] "), "{}", reply.text);
        assert_eq!(flow, Flow::Next);
        // A connection that has closed by then gets nothing.
        let (mut hub, token) = restarted_with_session();
        say(&mut hub, 0, &format!("/resume {token} 2 {}", Stamp(0)));
        handle(&mut hub, 0, Input::Disconnected);
        let (_, reply) = handle(&mut hub, 0, Input::Page(row()));
        assert_eq!(reply.text, "");
        hub.check_invariants();
    }

    /// Connects from `address`, logs in, opens a session, and disconnects.
    fn log_in_and_drop(hub: &mut Driver, slot: u32, address: [u8; 4]) {
        connect_from(hub, slot, address);
        say(hub, slot, &format!("p{slot}"));
        session(hub, slot);
        handle(hub, slot, Input::Disconnected);
        hub.forget_connection(super::super::test_support::conn(slot));
        hub.check_invariants();
    }

    fn has_session(hub: &Hub, slot: u32) -> bool {
        hub.user_named(&format!("p{slot}")).is_some()
    }

    #[test]
    fn disconnected_sessions_are_limited_per_network() {
        let mut hub = hub(Limits { max_per_address: 3, ..Limits::default() });
        (0..5).for_each(|slot| log_in_and_drop(&mut hub, slot, [192, 0, 2, 1]));
        let remaining: Vec<bool> = (0..5).map(|slot| has_session(&hub, slot)).collect();
        assert_eq!(remaining, [false, false, true, true, true], "the oldest sessions end");
        (5..8).for_each(|slot| log_in_and_drop(&mut hub, slot, [192, 0, 2, 2]));
        (8..20).for_each(|slot| log_in_and_drop(&mut hub, slot, [127, 0, 0, 1]));
        assert!((2..20).all(|slot| has_session(&hub, slot)), "other networks are not affected");
        let mut hub = restarted(&hub);
        log_in_and_drop(&mut hub, 20, [192, 0, 2, 1]);
        assert_eq!(
            (2..21).filter(|slot| has_session(&hub, *slot)).count(),
            18,
            "the limit still applies"
        );
    }

    #[test]
    fn ban_of_network_reaches_dropped_users_by_their_last_address() {
        let cases: [(IpAddr, &str); 5] = [
            ([127, 0, 0, 1].into(), "127.0.0.0/8"),
            ([192, 0, 2, 1].into(), "192.0.2.0/24"),
            ("::ffff:192.0.2.1".parse().unwrap(), "192.0.2.1"),
            ("2001:db8::7".parse().unwrap(), "2001:db8::7/128"),
            ("2001:db8::7".parse().unwrap(), "2001:db8::/32"),
        ];
        for (address, banned) in cases {
            for is_restarted in [false, true] {
                let mut hub = hub(Limits::default());
                connect_from(&mut hub, 0, [198, 51, 100, 1]);
                say(&mut hub, 0, "alice");
                say(&mut hub, 0, "/join ops");
                let operator = session(&mut hub, 0);
                connect_from(&mut hub, 1, address);
                say(&mut hub, 1, "carol");
                say(&mut hub, 1, "/join ops");
                let token = session(&mut hub, 1);
                handle(&mut hub, 1, Input::Disconnected);
                hub.forget_connection(super::super::test_support::conn(1));
                if is_restarted {
                    hub = restarted(&hub);
                    connect_from(&mut hub, 0, [198, 51, 100, 1]);
                    say(&mut hub, 0, &format!("/resume {operator} 0"));
                    handle(&mut hub, 0, Input::Drained);
                }
                let (_, reply) = say(&mut hub, 0, &format!("/ban {banned}"));
                let kicked = "#ops * carol was kicked by alice";
                assert!(reply.text.contains(kicked), "{address} {banned}: {}", reply.text);
                // The ban applies whatever address she resumes from.
                connect_from(&mut hub, 1, [203, 0, 113, 9]);
                say(&mut hub, 1, &format!("/resume {token} 0"));
                handle(&mut hub, 1, Input::Drained);
                let (_, reply) = say(&mut hub, 1, "/history #ops");
                assert!(reply.text.starts_with("[ERROR not-in-room]"), "{}", reply.text);
                hub.check_invariants();
            }
        }
    }

    #[test]
    fn ban_of_dropped_user_covers_their_network() {
        for is_restarted in [false, true] {
            let mut hub = hub(Limits::default());
            connect(&mut hub, 0);
            say(&mut hub, 0, "alice");
            say(&mut hub, 0, "/join ops");
            let token = session(&mut hub, 0);
            log_in_and_drop(&mut hub, 1, [192, 0, 2, 1]);
            if is_restarted {
                hub = restarted(&hub);
                connect(&mut hub, 0);
                say(&mut hub, 0, &format!("/resume {token} 0"));
                handle(&mut hub, 0, Input::Drained);
            }
            let (_, reply) = say(&mut hub, 0, "/ban p1");
            assert!(reply.text.starts_with("[BANNED #ops p1]"), "{}", reply.text);
            connect_from(&mut hub, 2, [192, 0, 2, 1]);
            say(&mut hub, 2, "other");
            let (_, reply) = say(&mut hub, 2, "/join ops");
            assert!(reply.text.starts_with("[ERROR forbidden] "), "{}", reply.text);
        }
    }
}
