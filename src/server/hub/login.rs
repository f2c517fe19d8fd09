//! Coming and going: the greeting, login, a new name, and leaving.

use std::time::Duration;

use super::locks::Entry;
use super::{
    ConnId, Connection, Context, DeliveryMode, Event, Farewell, Hub, Key, Memberships, Name, Now,
    Peer, Phase, QueryState, Refusal, Relations, Settings, Tags, Topic, Turn, User, UserId, UserIx,
    refusal, send_farewell, send_greeting,
};
use crate::protocol::ErrorCode;

/// How soon it is looked again whether somebody's login is still being worked on.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Hub {
    /// Somebody is at the door. From now on the time to say a name runs, whatever
    /// else has to be said first.
    pub(super) fn register_connection(&mut self, now: Now, conn: ConnId, peer: Peer) {
        let slot = conn.slot as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        let (stage, settings) = (Phase::Greeting { was_refused: false }, Settings::default());
        let login_until = now.since_start + self.limits.login_timeout;
        self.connections[slot] = Some(Connection {
            id: conn,
            peer,
            phase: stage,
            settings,
            login_deadline: login_until,
            chosen: Default::default(),
            pending: None,
        });
        self.login_deadlines.insert((login_until, conn));
    }

    /// Who has given no name in time is parted with; not while it is the server that takes
    /// its time, but who is answered then is not to ask again.
    pub(super) fn expire_logins(&mut self, now: Now, turn: &mut Turn) {
        while let Some((due, conn)) = self.login_deadlines.first().copied() {
            if due > now.since_start {
                break;
            }
            self.login_deadlines.pop_first();
            if self.is_greeting(conn) && self.is_pending(conn) {
                self.login_deadlines.insert((now.since_start + RECHECK_INTERVAL, conn));
            } else if self.is_greeting(conn) {
                self.leave(now, conn, Some(Farewell::LoginTimeout), None, turn);
            }
        }
    }

    /// Whether somebody has no name yet and should have had one by now.
    pub(super) fn is_overdue(&self, now: Now, conn: ConnId) -> bool {
        self.is_greeting(conn)
            && self.connection(conn).is_some_and(|c| c.login_deadline <= now.since_start)
    }

    /// It is known how somebody speaks who is at the door.
    pub(super) fn note_transport(&mut self, conn: ConnId, is_encrypted: bool, turn: &mut Turn) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.peer.is_encrypted = is_encrypted;
            send_greeting(conn, turn);
        }
    }

    pub(super) fn reject_unencrypted(&mut self, conn: ConnId, turn: &mut Turn) {
        let text = "this server speaks TLS only; use chatty join --tls or ncat --ssl";
        self.close_connection(conn);
        send_farewell(turn, conn, Farewell::BadProtocol, Some(text));
    }

    pub(super) fn log_in(
        &mut self,
        ctx: &mut Context<'_>,
        name: &str,
        password: Option<&str>,
    ) -> Result<(), Refusal> {
        let result = match self.admit(ctx, name, password) {
            Ok(Some(name)) => {
                self.log_in_guest(ctx, &name);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        if result.is_err() {
            self.note_refused_login(ctx.conn);
        }
        result
    }

    /// From now on only `/login` is taken for one.
    pub(super) fn note_refused_login(&mut self, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn)
            && let Phase::Greeting { was_refused } = &mut connection.phase
        {
            *was_refused = true;
        }
    }

    /// The name of a new guest; `None` while a password is looked at.
    fn admit(
        &mut self,
        ctx: &mut Context<'_>,
        name: &str,
        password: Option<&str>,
    ) -> Result<Option<Name>, Refusal> {
        let name = self.read_name(name.trim(), None)?;
        if let Some(password) = password {
            self.log_in_with(ctx, &name, password)?;
            return Ok(None);
        }
        if self.accounts.named(name.key()).is_some() {
            let text = format!(
                "{name} is registered; type /login {name} PASSWORD, or choose another name with \
                 /login NAME"
            );
            return refusal(ErrorCode::BadPassword, text);
        }
        if self.limits.password.is_some() {
            let text = format!("this server needs a password; type /login {name} PASSWORD");
            return refusal(ErrorCode::BadPassword, text);
        }
        self.require_free_name(name, None).map(Some)
    }

    /// Somebody new is here, if they may be.
    pub(super) fn log_in_guest(&mut self, ctx: &mut Context<'_>, name: &Name) {
        let person = UserId(self.last_ids.person + 1);
        if !self.reject_banned(ctx, person, name) {
            self.last_ids.person = person.0;
            self.add_user(ctx, person, name);
        }
    }

    /// Somebody is here.
    pub(super) fn add_user(&mut self, ctx: &mut Context<'_>, person: UserId, name: &Name) {
        let since = self.stamp(ctx.now);
        let user = self.users.insert(User {
            id: person,
            name: name.clone(),
            conn: Some(ctx.conn),
            peer: self.peer(ctx.conn),
            session: None,
            first: self.last_ids.message,
            feed: DeliveryMode::Live,
            deferred: None,
            rooms: Vec::with_capacity(1),
            memberships: Memberships::default(),
            current: None,
            query: QueryState::Off,
            reply_target: None,
            away: None,
            relations: Relations::default(),
            since,
            last_active: ctx.now.since_start,
        });
        self.assign_name(user, name);
        self.users_by_id.insert(person, user);
        self.attach_relations(user);
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.phase = Phase::LoggedIn(user);
        }
        // A ban from #lobby, or its lock, leaves one on the server but in no room.
        match self.require_entry(ctx.now, user, self.lobby) {
            Ok(Entry::Open) => {
                ctx.reply(&Event::reply("WELCOME", name.as_str(), "you are in #lobby"));
                self.use_invitation(person, self.lobby);
                self.enter(ctx, user, self.lobby);
            }
            Ok(Entry::ByKey(_)) => {
                let text = "#lobby is locked; /join #lobby KEY, or another room";
                ctx.reply(&Event::reply("WELCOME", name.as_str(), text));
            }
            Err(Refusal { text, .. }) => {
                let text = format!("{text}; /join another room");
                ctx.reply(&Event::reply("WELCOME", name.as_str(), &text));
            }
        }
    }

    /// Reads a name for somebody new, or for `mine`. One that is registered was checked by
    /// the rules of then.
    fn read_name(&self, text: &str, mine: Option<UserIx>) -> Result<Name, Refusal> {
        let account = self.accounts.named(&Key::fold(text));
        let known = account.and_then(|_| Name::known(text).ok());
        known.map_or_else(|| Name::parse(text), Ok).map_err(|fault| {
            let text = format!("{fault}; {}", other_name(mine));
            Refusal::new(ErrorCode::BadName, text)
        })
    }

    /// A name that nobody has, or only `mine`.
    pub(super) fn require_free_name(
        &self,
        name: Name,
        mine: Option<UserIx>,
    ) -> Result<Name, Refusal> {
        let other = other_name(mine);
        let me = mine.map(|mine| self.users[mine].id);
        let owner = self.accounts.named(name.key()).map(|account| account.person);
        if owner.is_some() && owner != me {
            let text = format!("{name} is registered; {other}");
            return refusal(ErrorCode::NameTaken, text);
        }
        let holder = self.names.get(name.key()).filter(|holder| Some(**holder) != mine);
        if let Some(holder) = holder {
            let text = format!(
                "{} is in use; {other}, or retry in a minute if your connection just dropped",
                self.users[*holder].name
            );
            return refusal(ErrorCode::NameTaken, text);
        }
        match self.confusable_with(&name, me) {
            Some(double) => {
                let text = format!("{name} is too easily confused with {double}; {other}");
                refusal(ErrorCode::NameTaken, text)
            }
            None => Ok(name),
        }
    }

    /// Whose name, here or registered, is taken for this one; not somebody's own.
    fn confusable_with(&self, name: &Name, me: Option<UserId>) -> Option<Name> {
        name.skeletons().find_map(|confusable_skeleton| {
            let here = self.confusables.find(&confusable_skeleton).map(|user| &self.users[user]);
            let here = here.map(|user| (user.id, &user.name));
            let owner =
                || self.accounts.confusable_with(&confusable_skeleton).map(|a| (a.person, &a.name));
            let double = here.or_else(owner).filter(|(person, _)| Some(*person) != me);
            double.map(|(_, name)| name.clone())
        })
    }

    /// From now on a name is somebody's who is here.
    pub(super) fn assign_name(&mut self, user: UserIx, name: &Name) {
        self.names.insert(name.key().clone(), user);
        self.confusables.add(name, user);
    }

    /// It is theirs no more.
    pub(super) fn release_name(&mut self, user: UserIx, name: &Name) {
        self.names.remove(name.key());
        self.confusables.remove(name, user);
    }

    pub(super) fn rename(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let new = self.require_free_name(self.read_name(name, Some(user))?, Some(user))?;
        self.require_unbanned_name(ctx.now, user, &new)?;
        let old = std::mem::replace(&mut self.users[user].name, new.clone());
        self.release_name(user, &old);
        self.assign_name(user, &new);
        for room in self.users[user].rooms.clone() {
            self.rooms[room].rename(old.key(), new.key());
        }
        let event = Event::Renamed { old: old.as_str(), new: new.as_str() };
        let time = self.stamp(ctx.now);
        ctx.reply_tagged(&Tags { time: Some(time), ..Tags::default() }, &event);
        if old == new {
            return Ok(()); // no news to anyone else
        }
        let rooms = self.users[user].rooms.clone();
        self.announce(ctx.now, &rooms, Topic::Talk, Some(ctx.conn), &event, ctx.turn);
        self.update_queriers(user, &new, ctx.turn);
        Ok(())
    }

    /// Whoever talks to somebody by `/query` has to know the name their lines go
    /// to; who shares no room does not hear of the rename otherwise.
    fn update_queriers(&mut self, user: UserIx, new: &Name, turn: &mut Turn) {
        for other in self.users[user].relations.queried_by.clone() {
            let Some(other) = self.users_by_id.get(&other).copied() else { continue };
            let rooms = &self.users[other].rooms;
            if !rooms.iter().any(|room| self.users[user].rooms.contains(room)) {
                let event = Event::reply("QUERY", new.as_str(), "has a new name");
                self.send_to_user(other, &Tags::default(), &event, turn);
            }
        }
    }

    /// Ends a connection and, if it was logged in, the visit, for good. A farewell
    /// is said where there is still somebody to hear it.
    pub(super) fn leave(
        &mut self,
        now: Now,
        conn: ConnId,
        farewell: Option<Farewell>,
        reason: Option<&str>,
        turn: &mut Turn,
    ) {
        let Some(stage) = self.close_connection(conn) else { return };
        if let Phase::LoggedIn(user) = stage {
            self.end_user(now, user, reason, turn);
        }
        match farewell {
            Some(farewell) => send_farewell(turn, conn, farewell, None),
            None => turn.close(conn),
        }
    }

    /// A connection is heard no more; tells where it stood.
    pub(super) fn close_connection(&mut self, conn: ConnId) -> Option<Phase> {
        let connection = self.connection_mut(conn)?;
        connection.pending = None;
        Some(std::mem::replace(&mut connection.phase, Phase::Closing))
    }

    /// Forgets a connection that is closed; nothing comes from it any more.
    pub fn forget_connection(&mut self, conn: ConnId) {
        if self.connection(conn).is_some() {
            self.connections[conn.slot as usize] = None;
        }
    }

    pub(super) fn end_user(
        &mut self,
        now: Now,
        user: UserIx,
        reason: Option<&str>,
        turn: &mut Turn,
    ) {
        let name = self.users[user].name.clone();
        let leads = self.users[user].relations.leads.clone();
        self.remove_relations(user, turn);
        self.forget_blocks(user, self.users[user].session.is_some());
        self.end_session(user);
        self.announce_quit(now, user, reason, turn);
        let person = self.users[user].id;
        self.users_by_id.remove(&person);
        for room in std::mem::take(&mut self.users[user].rooms) {
            self.remove_member(room, &name);
        }
        self.release_name(user, &name);
        self.users.remove(user);
        let ruled = self.is_server_operator(person);
        self.revoke_server_operator(person);
        if ruled {
            self.ensure_operators(now, turn);
        }
        for room in leads {
            self.ensure_operator(now, room, turn);
        }
    }

    /// Lets go of everyone who has to do with a leaving person.
    fn remove_relations(&mut self, user: UserIx, turn: &mut Turn) {
        let person = self.users[user].id;
        self.end_query(user, QueryState::Off);
        let ignores = self.ignores_of(user);
        let mut ties = std::mem::take(&mut self.users[user].relations);
        for other in &ties.ignores {
            if let Some(by) = self.ignored_by(other.person) {
                by.retain(|p| *p != person);
            }
        }
        let name = self.users[user].name.clone();
        for other in &ties.ignored_by {
            let Some(other) = self.users_by_id.get(other) else { continue };
            let ignores = &mut self.users[*other].relations.ignores;
            if let Some(ignored) = ignores.iter_mut().find(|ignored| ignored.person == person) {
                ignored.gone = Some(name.clone());
            }
        }
        if let Some(account) = self.accounts.of_mut(person) {
            account.ignores = ignores;
            account.ignored_by = std::mem::take(&mut ties.ignored_by);
        }
        for other in &ties.queried_by {
            let Some(other) = self.users_by_id.get(other).copied() else { continue };
            self.users[other].query = QueryState::Gone;
            self.mark_session_unsaved(other);
            let text = format!("{name} is gone; plain lines go nowhere until /query or /join");
            self.send_to_user(other, &Tags::default(), &Event::reply("QUERY", "off", &text), turn);
        }
    }
}

/// What to do where a name is refused: before login a bare name is not taken for one any
/// more.
fn other_name(mine: Option<UserIx>) -> &'static str {
    match mine {
        Some(_) => "choose another name",
        None => "choose another with /login NAME",
    }
}
