//! Login and logout: the greeting, names, renames, and the end of a user. Passwords are
//! checked elsewhere (`password_checks.rs`).

use std::time::Duration;

use super::locks::Entry;
use super::{
    ConnId, Connection, Context, DeliveryMode, Event, Farewell, Hub, Key, Memberships, Name, Now,
    Peer, Phase, QueryState, Refusal, Relations, Settings, Tags, Topic, Turn, User, UserId, UserIx,
    refusal, send_farewell, send_greeting,
};
use crate::protocol::ErrorCode;

/// How soon an overdue login is checked again while the server still works on it.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Hub {
    /// Registers a new connection and starts its login timer, which also runs during the
    /// TLS handshake.
    pub(super) fn register_connection(&mut self, now: Now, conn: ConnId, peer: Peer) {
        let slot = conn.slot as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        let (phase, settings) = (Phase::Greeting { was_refused: false }, Settings::default());
        let login_deadline = now.since_start + self.limits.login_timeout;
        self.connections[slot] = Some(Connection {
            id: conn,
            peer,
            phase,
            settings,
            login_deadline,
            chosen: Default::default(),
            pending: None,
        });
        self.login_deadlines.insert((login_deadline, conn));
    }

    /// Disconnects connections that have not logged in in time. A connection that waits for
    /// the server is spared, but may not try another login after the answer.
    pub(super) fn expire_logins(&mut self, now: Now, turn: &mut Turn) {
        while let Some((deadline, conn)) = self.login_deadlines.first().copied() {
            if deadline > now.since_start {
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

    /// Returns whether a connection is past its login deadline.
    pub(super) fn is_overdue(&self, now: Now, conn: ConnId) -> bool {
        self.is_greeting(conn)
            && self.connection(conn).is_some_and(|c| c.login_deadline <= now.since_start)
    }

    /// Sends the greeting once it is known whether the connection uses TLS.
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

    /// After a refused login a bare line is no longer read as a name, only `/login` is.
    pub(super) fn note_refused_login(&mut self, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn)
            && let Phase::Greeting { was_refused } = &mut connection.phase
        {
            *was_refused = true;
        }
    }

    /// Checks the name of a login. Returns the name of a new guest; `None` while a password
    /// is being checked.
    fn admit(
        &mut self,
        ctx: &mut Context<'_>,
        name: &str,
        password: Option<&str>,
    ) -> Result<Option<Name>, Refusal> {
        let name = self.read_name(name.trim(), None)?;
        if password.is_some() {
            self.log_in_with(ctx, &name)?;
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

    /// Logs in a guest unless they are banned.
    pub(super) fn log_in_guest(&mut self, ctx: &mut Context<'_>, name: &Name) {
        let user_id = UserId(self.last_ids.person + 1);
        if !self.reject_banned(ctx, user_id, name) {
            self.last_ids.person = user_id.0;
            self.add_user(ctx, user_id, name);
        }
    }

    /// Creates the user of this connection and joins them to the lobby.
    pub(super) fn add_user(&mut self, ctx: &mut Context<'_>, user_id: UserId, name: &Name) {
        let since = self.stamp(ctx.now);
        let user = self.users.insert(User {
            id: user_id,
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
        self.users_by_id.insert(user_id, user);
        self.attach_relations(user);
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.phase = Phase::LoggedIn(user);
        }
        // A user who is banned or locked out of #lobby stays logged in, in no room.
        match self.require_entry(ctx.now, user, self.lobby) {
            Ok(Entry::Open) => {
                ctx.reply(&Event::reply("WELCOME", name.as_str(), "you are in #lobby"));
                self.use_invitation(user_id, self.lobby);
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

    /// Parses a name for a new user, or for `mine`. A registered name is accepted even if
    /// the rules for names have become stricter since.
    fn read_name(&self, text: &str, mine: Option<UserIx>) -> Result<Name, Refusal> {
        let account = self.accounts.named(&Key::fold(text));
        let known = account.and_then(|_| Name::known(text).ok());
        known.map_or_else(|| Name::parse(text), Ok).map_err(|fault| {
            let text = format!("{fault}; {}", name_advice(mine));
            Refusal::new(ErrorCode::BadName, text)
        })
    }

    /// Refuses a name that another user or account has, or that is confusable with such a
    /// name; `mine` may keep its own.
    pub(super) fn require_free_name(
        &self,
        name: Name,
        mine: Option<UserIx>,
    ) -> Result<Name, Refusal> {
        let other = name_advice(mine);
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
            Some(similar) => {
                let text = format!("{name} is too easily confused with {similar}; {other}");
                refusal(ErrorCode::NameTaken, text)
            }
            None => Ok(name),
        }
    }

    /// Returns the name of another user or account that is confusable with this one: their
    /// UTS 39 skeletons are equal.
    fn confusable_with(&self, name: &Name, me: Option<UserId>) -> Option<Name> {
        name.skeletons().find_map(|skeleton| {
            let here = self.confusables.find(&skeleton).map(|user| &self.users[user]);
            let here = here.map(|user| (user.id, &user.name));
            let owner = || self.accounts.confusable_with(&skeleton).map(|a| (a.person, &a.name));
            let similar = here.or_else(owner).filter(|(user_id, _)| Some(*user_id) != me);
            similar.map(|(_, name)| name.clone())
        })
    }

    /// Registers the name of a user.
    pub(super) fn assign_name(&mut self, user: UserIx, name: &Name) {
        self.names.insert(name.key().clone(), user);
        self.confusables.add(name, user);
    }

    /// Releases the name of a user.
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
            return Ok(()); // not announced: nothing changed
        }
        let rooms = self.users[user].rooms.clone();
        self.announce(ctx.now, &rooms, Topic::Talk, Some(ctx.conn), &event, ctx.turn);
        self.update_queriers(user, &new, ctx.turn);
        Ok(())
    }

    /// Sends the new name to users who have a `/query` with the renamed user but share no
    /// room with them: the announcement does not reach them.
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

    /// Closes a connection and logs its user out, with no way to resume. A farewell is sent
    /// only where the connection can still be written to.
    pub(super) fn leave(
        &mut self,
        now: Now,
        conn: ConnId,
        farewell: Option<Farewell>,
        reason: Option<&str>,
        turn: &mut Turn,
    ) {
        let Some(phase) = self.close_connection(conn) else { return };
        if let Phase::LoggedIn(user) = phase {
            self.end_user(now, user, reason, turn);
        }
        match farewell {
            Some(farewell) => send_farewell(turn, conn, farewell, None),
            None => turn.close(conn),
        }
    }

    /// Stops reading from a connection; returns the phase it was in.
    pub(super) fn close_connection(&mut self, conn: ConnId) -> Option<Phase> {
        let connection = self.connection_mut(conn)?;
        connection.pending = None;
        Some(std::mem::replace(&mut connection.phase, Phase::Closing))
    }

    /// Deletes a closed connection; the caller sends no further input for it.
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
        self.delete_blocks(user, self.users[user].session.is_some());
        self.end_session(user);
        self.announce_quit(now, user, reason, turn);
        let user_id = self.users[user].id;
        self.users_by_id.remove(&user_id);
        for room in std::mem::take(&mut self.users[user].rooms) {
            self.remove_member(room, &name);
        }
        self.release_name(user, &name);
        self.users.remove(user);
        let was_server_operator = self.is_server_operator(user_id);
        self.revoke_server_operator(user_id);
        if was_server_operator {
            self.ensure_operators(now, turn);
        }
        for room in leads {
            self.ensure_operator(now, room, turn);
        }
    }

    /// Removes the ignores and queries of a user who logs out, and of others with that
    /// user.
    fn remove_relations(&mut self, user: UserIx, turn: &mut Turn) {
        let user_id = self.users[user].id;
        self.end_query(user, QueryState::Off);
        let ignores = self.ignores_of(user);
        let mut relations = std::mem::take(&mut self.users[user].relations);
        for other in &relations.ignores {
            if let Some(by) = self.ignored_by(other.person) {
                by.retain(|p| *p != user_id);
            }
        }
        let name = self.users[user].name.clone();
        for other in &relations.ignored_by {
            let Some(other) = self.users_by_id.get(other) else { continue };
            let ignores = &mut self.users[*other].relations.ignores;
            if let Some(ignored) = ignores.iter_mut().find(|ignored| ignored.person == user_id) {
                ignored.gone = Some(name.clone());
            }
        }
        if let Some(account) = self.accounts.of_mut(user_id) {
            account.ignores = ignores;
            account.ignored_by = std::mem::take(&mut relations.ignored_by);
        }
        for other in &relations.queried_by {
            let Some(other) = self.users_by_id.get(other).copied() else { continue };
            self.users[other].query = QueryState::Gone;
            self.mark_session_unsaved(other);
            let text = format!("{name} is gone; your messages go nowhere until /query or /join");
            self.send_to_user(other, &Tags::default(), &Event::reply("QUERY", "off", &text), turn);
        }
    }
}

/// Advice where a name is refused: after a refused login only `/login` is read as a name.
fn name_advice(mine: Option<UserIx>) -> &'static str {
    match mine {
        Some(_) => "choose another name",
        None => "choose another with /login NAME",
    }
}
