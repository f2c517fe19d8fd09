//! Coming and going: the greeting, login, a new name, and leaving.

use std::time::Duration;

use super::locks::Entry;
use super::{
    Ask, ConnId, Connection, Event, Farewell, Feed, Hub, Key, Memberships, Name, Now, Peer,
    PersonId, Query, Refusal, Settings, Stage, Tags, Ties, Topic, Turn, Visit, VisitIx, greet,
    refusal, say_farewell,
};
use crate::protocol::ErrorCode;

/// How soon it is looked again whether somebody's login is still being worked on.
const NEXT_LOOK: Duration = Duration::from_secs(1);

impl Hub {
    /// Somebody is at the door. From now on the time to say a name runs, whatever
    /// else has to be said first.
    pub(super) fn take_in(&mut self, now: Now, conn: ConnId, peer: Peer) {
        let slot = conn.slot as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        let (stage, settings) = (Stage::Greeting { was_refused: false }, Settings::default());
        let login_until = now.since_start + self.limits.login_timeout;
        self.connections[slot] = Some(Connection {
            id: conn,
            peer,
            stage,
            settings,
            login_until,
            chosen: Default::default(),
            asked: None,
        });
        self.login_deadlines.insert((login_until, conn));
    }

    /// Who has given no name in time is parted with; not while it is the server that takes
    /// its time, but who is answered then is not to ask again.
    pub(super) fn end_late_logins(&mut self, now: Now, turn: &mut Turn) {
        while let Some((due, conn)) = self.login_deadlines.first().copied() {
            if due > now.since_start {
                break;
            }
            self.login_deadlines.pop_first();
            if self.is_greeting(conn) && self.is_pending(conn) {
                self.login_deadlines.insert((now.since_start + NEXT_LOOK, conn));
            } else if self.is_greeting(conn) {
                self.leave(now, conn, Some(Farewell::LoginTimeout), None, turn);
            }
        }
    }

    /// Whether somebody has no name yet and should have had one by now.
    pub(super) fn is_overdue(&self, now: Now, conn: ConnId) -> bool {
        self.is_greeting(conn)
            && self.connection(conn).is_some_and(|c| c.login_until <= now.since_start)
    }

    /// It is known how somebody speaks who is at the door.
    pub(super) fn settle(&mut self, conn: ConnId, is_encrypted: bool, turn: &mut Turn) {
        if let Some(connection) = self.connection_mut(conn) {
            connection.peer.is_encrypted = is_encrypted;
            greet(conn, turn);
        }
    }

    pub(super) fn turn_away_unencrypted(&mut self, conn: ConnId, turn: &mut Turn) {
        let text = "this server speaks TLS only; use chatty join --tls or ncat --ssl";
        self.part_with(conn);
        say_farewell(turn, conn, Farewell::BadProtocol, Some(text));
    }

    pub(super) fn log_in(
        &mut self,
        ask: &mut Ask<'_>,
        name: &str,
        password: Option<&str>,
    ) -> Result<(), Refusal> {
        let result = match self.admit(ask, name, password) {
            Ok(Some(name)) => {
                self.begin_guest(ask, &name);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        if result.is_err() {
            self.note_refused_login(ask.conn);
        }
        result
    }

    /// From now on only `/login` is taken for one.
    pub(super) fn note_refused_login(&mut self, conn: ConnId) {
        if let Some(connection) = self.connection_mut(conn)
            && let Stage::Greeting { was_refused } = &mut connection.stage
        {
            *was_refused = true;
        }
    }

    /// The name of a new guest; `None` while a password is looked at.
    fn admit(
        &mut self,
        ask: &mut Ask<'_>,
        name: &str,
        password: Option<&str>,
    ) -> Result<Option<Name>, Refusal> {
        let name = self.read_name(name.trim(), None)?;
        if let Some(password) = password {
            self.log_in_with(ask, &name, password)?;
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
        self.free_name(name, None).map(Some)
    }

    /// Somebody new is here, if they may be.
    pub(super) fn begin_guest(&mut self, ask: &mut Ask<'_>, name: &Name) {
        let person = PersonId(self.last.person + 1);
        if !self.turn_away(ask, person, name) {
            self.last.person = person.0;
            self.begin_visit(ask, person, name);
        }
    }

    /// Somebody is here.
    pub(super) fn begin_visit(&mut self, ask: &mut Ask<'_>, person: PersonId, name: &Name) {
        let since = self.stamp(ask.now);
        let visit = self.visits.insert(Visit {
            person,
            name: name.clone(),
            conn: Some(ask.conn),
            peer: self.peer(ask.conn),
            session: None,
            first: self.last.message,
            feed: Feed::Live,
            missed: None,
            rooms: Vec::with_capacity(1),
            memberships: Memberships::default(),
            current: None,
            query: Query::Off,
            heard: None,
            away: None,
            ties: Ties::default(),
            since,
            active: ask.now.since_start,
        });
        self.give_name(visit, name);
        self.people.insert(person, visit);
        self.bring_ties(visit);
        if let Some(connection) = self.connection_mut(ask.conn) {
            connection.stage = Stage::Present(visit);
        }
        // A ban from #lobby, or its lock, leaves one on the server but in no room.
        match self.need_entry(ask.now, visit, self.lobby) {
            Ok(Entry::Open) => {
                ask.reply(&Event::reply("WELCOME", name.as_str(), "you are in #lobby"));
                self.use_invitation(person, self.lobby);
                self.enter(ask, visit, self.lobby);
            }
            Ok(Entry::ByKey(_)) => {
                let text = "#lobby is locked; /join #lobby KEY, or another room";
                ask.reply(&Event::reply("WELCOME", name.as_str(), text));
            }
            Err(Refusal { text, .. }) => {
                let text = format!("{text}; /join another room");
                ask.reply(&Event::reply("WELCOME", name.as_str(), &text));
            }
        }
    }

    /// Reads a name for somebody new, or for `mine`. One that is registered was checked by
    /// the rules of then.
    fn read_name(&self, text: &str, mine: Option<VisitIx>) -> Result<Name, Refusal> {
        let account = self.accounts.named(&Key::fold(text));
        let known = account.and_then(|_| Name::known(text).ok());
        known.map_or_else(|| Name::parse(text), Ok).map_err(|fault| {
            let text = format!("{fault}; {}", other_name(mine));
            Refusal::new(ErrorCode::BadName, text)
        })
    }

    /// A name that nobody has, or only `mine`.
    pub(super) fn free_name(&self, name: Name, mine: Option<VisitIx>) -> Result<Name, Refusal> {
        let other = other_name(mine);
        let me = mine.map(|mine| self.visits[mine].person);
        let owner = self.accounts.named(name.key()).map(|account| account.person);
        if owner.is_some() && owner != me {
            let text = format!("{name} is registered; {other}");
            return refusal(ErrorCode::NameTaken, text);
        }
        let holder = self.names.get(name.key()).filter(|holder| Some(**holder) != mine);
        if let Some(holder) = holder {
            let text = format!(
                "{} is in use; {other}, or retry in a minute if your connection just dropped",
                self.visits[*holder].name
            );
            return refusal(ErrorCode::NameTaken, text);
        }
        match self.double_of(&name, me) {
            Some(double) => {
                let text = format!("{name} is too easily confused with {double}; {other}");
                refusal(ErrorCode::NameTaken, text)
            }
            None => Ok(name),
        }
    }

    /// Whose name, here or registered, is taken for this one; not somebody's own.
    fn double_of(&self, name: &Name, me: Option<PersonId>) -> Option<Name> {
        name.looks().find_map(|look| {
            let here = self.looks.find(&look).map(|visit| &self.visits[visit]);
            let here = here.map(|visit| (visit.person, &visit.name));
            let owner = || self.accounts.looking(&look).map(|a| (a.person, &a.name));
            let double = here.or_else(owner).filter(|(person, _)| Some(*person) != me);
            double.map(|(_, name)| name.clone())
        })
    }

    /// From now on a name is somebody's who is here.
    pub(super) fn give_name(&mut self, visit: VisitIx, name: &Name) {
        self.names.insert(name.key().clone(), visit);
        self.looks.add(name, visit);
    }

    /// It is theirs no more.
    pub(super) fn free(&mut self, visit: VisitIx, name: &Name) {
        self.names.remove(name.key());
        self.looks.remove(name, visit);
    }

    pub(super) fn rename(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let new = self.free_name(self.read_name(name, Some(visit))?, Some(visit))?;
        self.need_unbanned_name(ask.now, visit, &new)?;
        let old = std::mem::replace(&mut self.visits[visit].name, new.clone());
        self.free(visit, &old);
        self.give_name(visit, &new);
        for room in self.visits[visit].rooms.clone() {
            self.rooms[room].rename(old.key(), new.key());
        }
        let event = Event::Renamed { old: old.as_str(), new: new.as_str() };
        let time = self.stamp(ask.now);
        ask.reply_tagged(&Tags { time: Some(time), ..Tags::default() }, &event);
        if old == new {
            return Ok(()); // no news to anyone else
        }
        let rooms = self.visits[visit].rooms.clone();
        self.announce(ask.now, &rooms, Topic::Talk, Some(ask.conn), &event, ask.turn);
        self.tell_distant_queriers(visit, &new, ask.turn);
        Ok(())
    }

    /// Whoever talks to somebody by `/query` has to know the name their lines go
    /// to; who shares no room does not hear of the rename otherwise.
    fn tell_distant_queriers(&mut self, visit: VisitIx, new: &Name, turn: &mut Turn) {
        for other in self.visits[visit].ties.queried_by.clone() {
            let Some(other) = self.people.get(&other).copied() else { continue };
            let rooms = &self.visits[other].rooms;
            if !rooms.iter().any(|room| self.visits[visit].rooms.contains(room)) {
                let event = Event::reply("QUERY", new.as_str(), "has a new name");
                self.tell(other, &Tags::default(), &event, turn);
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
        let Some(stage) = self.part_with(conn) else { return };
        if let Stage::Present(visit) = stage {
            self.end_visit(now, visit, reason, turn);
        }
        match farewell {
            Some(farewell) => say_farewell(turn, conn, farewell, None),
            None => turn.close(conn),
        }
    }

    /// A connection is heard no more; tells where it stood.
    pub(super) fn part_with(&mut self, conn: ConnId) -> Option<Stage> {
        let connection = self.connection_mut(conn)?;
        connection.asked = None;
        Some(std::mem::replace(&mut connection.stage, Stage::Leaving))
    }

    /// Forgets a connection that is closed; nothing comes from it any more.
    pub fn forget(&mut self, conn: ConnId) {
        if self.connection(conn).is_some() {
            self.connections[conn.slot as usize] = None;
        }
    }

    pub(super) fn end_visit(
        &mut self,
        now: Now,
        visit: VisitIx,
        reason: Option<&str>,
        turn: &mut Turn,
    ) {
        let name = self.visits[visit].name.clone();
        let leads = self.visits[visit].ties.leads.clone();
        self.untie(visit, turn);
        self.forget_blocks(visit, self.visits[visit].session.is_some());
        self.end_session(visit);
        self.tell_quit(now, visit, reason, turn);
        let person = self.visits[visit].person;
        self.people.remove(&person);
        for room in std::mem::take(&mut self.visits[visit].rooms) {
            self.remove_member(room, &name);
        }
        self.free(visit, &name);
        self.visits.remove(visit);
        let ruled = self.rules_server(person);
        self.end_rule(person);
        if ruled {
            self.ensure_operators(now, turn);
        }
        for room in leads {
            self.ensure_operator(now, room, turn);
        }
    }

    /// Lets go of everyone who has to do with a leaving person.
    fn untie(&mut self, visit: VisitIx, turn: &mut Turn) {
        let person = self.visits[visit].person;
        self.end_query(visit, Query::Off);
        let ignores = self.ignores_of(visit);
        let mut ties = std::mem::take(&mut self.visits[visit].ties);
        for other in &ties.ignores {
            if let Some(by) = self.ignored_by(other.person) {
                by.retain(|p| *p != person);
            }
        }
        let name = self.visits[visit].name.clone();
        for other in &ties.ignored_by {
            let Some(other) = self.people.get(other) else { continue };
            let ignores = &mut self.visits[*other].ties.ignores;
            if let Some(ignored) = ignores.iter_mut().find(|ignored| ignored.person == person) {
                ignored.gone = Some(name.clone());
            }
        }
        if let Some(account) = self.accounts.of_mut(person) {
            account.ignores = ignores;
            account.ignored_by = std::mem::take(&mut ties.ignored_by);
        }
        for other in &ties.queried_by {
            let Some(other) = self.people.get(other).copied() else { continue };
            self.visits[other].query = Query::Gone;
            self.note_unsaved(other);
            let text = format!("{name} is gone; plain lines go nowhere until /query or /join");
            self.tell(other, &Tags::default(), &Event::reply("QUERY", "off", &text), turn);
        }
    }
}

/// What to do where a name is refused: before login a bare name is not taken for one any
/// more.
fn other_name(mine: Option<VisitIx>) -> &'static str {
    match mine {
        Some(_) => "choose another name",
        None => "choose another with /login NAME",
    }
}
