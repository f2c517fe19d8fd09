//! What people say: to a room, to one person, and where a plain line goes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{
    Context, ErrorCode, Event, Hub, QueryState, Refusal, RoomIx, Tags, Topic, UserIx, no_such_user,
    refusal,
};
use crate::commands::MessageTarget;
use crate::protocol::{Cid, Key, RoomName};
use crate::server::log::{Recipient, Record, UserId};

/// The marked messages of late, by who marked them: a mark that comes again
/// means the same message, not another. As many as the history in memory holds, and
/// as much text.
#[derive(Debug)]
pub(super) struct RecentCids {
    records: HashMap<(UserId, Cid), Arc<Record>>,
    /// The same, oldest first.
    order: VecDeque<Arc<Record>>,
    size: usize,
    max: usize,
    max_size: usize,
}

impl RecentCids {
    pub(super) fn new(max: usize, max_size: usize) -> Self {
        Self { records: HashMap::new(), order: VecDeque::new(), size: 0, max, max_size }
    }

    fn find(&self, author: UserId, cid: &Cid) -> Option<Arc<Record>> {
        self.records.get(&(author, cid.clone())).cloned()
    }

    fn forget(&mut self, author: UserId, cid: &Cid) {
        if let Some(record) = self.records.remove(&(author, cid.clone())) {
            self.remove(&record);
        }
    }

    /// It is not among them any more.
    fn remove(&mut self, record: &Record) {
        if let Ok(at) = self.order.binary_search_by_key(&record.id, |record| record.id) {
            self.order.remove(at);
            self.size -= record.text.len();
        }
    }

    /// If a message is marked, from now on it is known by that.
    pub(super) fn remember(&mut self, record: &Arc<Record>) {
        let Some(cid) = &record.cid else { return };
        let key = (record.author, cid.clone());
        if let Some(older) = self.records.insert(key, record.clone()) {
            self.remove(&older);
        }
        self.order.push_back(record.clone());
        self.size += record.text.len();
        while self.order.len() > self.max || self.size > self.max_size {
            let Some(oldest) = self.order.pop_front() else { return };
            self.size -= oldest.text.len();
            if let Some(cid) = &oldest.cid {
                self.records.remove(&(oldest.author, cid.clone()));
            }
        }
    }
}

impl Hub {
    /// A plain line, or `/me`: to whom the query is for, else to the current
    /// room, else nowhere. It never goes anywhere the person did not choose.
    pub(super) fn post(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        text: &str,
        is_action: bool,
    ) -> Result<(), Refusal> {
        if self.repeat(ctx, user) {
            return Ok(());
        }
        let me = &self.users[user];
        match (me.query, me.current) {
            (QueryState::On(person), _) => match self.users_by_id.get(&person).copied() {
                Some(to) => {
                    self.post_private(ctx, user, to, text, is_action);
                    Ok(())
                }
                None => refusal(ErrorCode::NoTarget, "nobody is there; nobody saw it"),
            },
            (QueryState::Gone, _) => refusal(
                ErrorCode::NoTarget,
                "whom you talked to is gone; nobody saw this; /query or /join says where lines go",
            ),
            (QueryState::Off, Some(room)) => self.post_to_room(ctx, user, room, text, is_action),
            (QueryState::Off, None) => refusal(
                ErrorCode::NoTarget,
                "you are in no room that lines go to; nobody saw this; /join one first",
            ),
        }
    }

    pub(super) fn message(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        to: MessageTarget<'_>,
        text: &str,
    ) -> Result<(), Refusal> {
        if self.repeat(ctx, user) {
            return Ok(());
        }
        match to {
            MessageTarget::Room(name) => {
                let room = self.room_of(user, name)?;
                self.post_to_room(ctx, user, room, text, false)
            }
            MessageTarget::Person(name) => match self.user_named(name) {
                Some(to) => {
                    self.post_private(ctx, user, to, text, false);
                    Ok(())
                }
                None if self.accounts.named(&Key::fold(name)).is_some() => {
                    self.send_to_owner(ctx, user, &Key::fold(name), text)
                }
                None if self.room_of(user, name).is_ok() => refusal(
                    ErrorCode::NoSuchUser,
                    format!("{name} is not here; for the room, /msg #{name} TEXT"),
                ),
                None => no_such_user(name),
            },
        }
    }

    /// `/reply`.
    pub(super) fn reply(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        text: &str,
    ) -> Result<(), Refusal> {
        if self.repeat(ctx, user) {
            return Ok(());
        }
        let Some(heard) = self.users[user].reply_target else {
            return refusal(ErrorCode::NoTarget, "nobody has written to you; use /msg NAME TEXT");
        };
        match self.users_by_id.get(&heard).copied() {
            Some(to) => {
                self.post_private(ctx, user, to, text, false);
                Ok(())
            }
            None if self.accounts.of(heard).is_some() => {
                self.send_to_account(ctx, user, heard, text)
            }
            None => refusal(ErrorCode::NoTarget, "who last wrote to you is gone; nobody saw this"),
        }
    }

    pub(super) fn query(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: Option<&str>,
    ) -> Result<(), Refusal> {
        let Some(name) = name else {
            self.end_query(user, QueryState::Off);
            let text = match self.users[user].current {
                Some(room) => format!("plain lines go to {}", self.rooms[room].name),
                None => "plain lines go nowhere; /join a room first".to_owned(),
            };
            ctx.reply(&Event::reply("QUERY", "off", &text));
            return Ok(());
        };
        let Some(other) = self.user_named(name) else { return no_such_user(name) };
        self.end_query(user, QueryState::On(self.users[other].id));
        let me = self.users[user].id;
        self.users[other].relations.queried_by.push(me);
        let name = self.users[other].name.as_str();
        let text = format!("plain lines go to {name}; /query alone ends it");
        ctx.reply(&Event::reply("QUERY", name, &text));
        Ok(())
    }

    /// Ends the query that is on, and goes on with `next`.
    pub(super) fn end_query(&mut self, user: UserIx, next: QueryState) {
        let me = self.users[user].id;
        if let QueryState::On(other) = std::mem::replace(&mut self.users[user].query, next)
            && let Some(other) = self.users_by_id.get(&other)
        {
            self.users[*other].relations.queried_by.retain(|person| *person != me);
        }
    }

    fn post_to_room(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        room: usize,
        text: &str,
        is_action: bool,
    ) -> Result<(), Refusal> {
        self.require_not_muted(ctx.now, user, room)?;
        let to = Recipient::Room(self.rooms[room].name.clone());
        // The author's own copy: in the room's line, unless it has to carry a
        // mark of its own or is not wanted.
        let has_own_answer = ctx.cid.is_some() || !ctx.settings.echo;
        let mut except = if has_own_answer { vec![ctx.conn] } else { Vec::new() };
        let ignoring = &self.users[user].relations.ignored_by;
        except.extend(ignoring.iter().filter_map(|p| self.users[self.users_by_id[p]].conn));
        let audience = self.audience(room);
        let record = self.record(ctx, user, to, text, is_action);
        ctx.with_message(&record, |ctx| {
            let event = Event::Message(record.seen_by(record.author));
            ctx.turn.fan_out(
                audience,
                Topic::Talk,
                Some(ctx.conn),
                except,
                &tags_of(&record),
                &event,
            );
            if ctx.cid.is_some() {
                ctx.reply_tagged(&tags_of(&record), &event);
            }
        });
        Ok(())
    }

    pub(super) fn post_private(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        to: UserIx,
        text: &str,
        is_action: bool,
    ) {
        let (me, other) = (self.users[user].id, self.users[to].id);
        let recipient = Recipient::Person(other, self.users[to].name.clone());
        let is_heard = !self.users[to].relations.ignores.iter().any(|ignored| ignored.person == me);
        let record = self.record(ctx, user, recipient, text, is_action);
        ctx.with_message(&record, |ctx| {
            self.echo(ctx, &record);
            if is_heard {
                // To oneself the copy for the reader differs from the echo too.
                let mut message = record.seen_by(me);
                message.place = crate::protocol::Place::ToMe;
                self.deliver(to, &tags_of(&record), &Event::Message(message), ctx.turn);
            }
            if let Some(away) = &self.users[to].away
                && self.wants_echo(ctx)
            {
                ctx.reply(&Event::reply("AWAY", self.users[to].name.as_str(), &away.text));
            }
        });
        if is_heard {
            self.users[to].reply_target = Some(me);
            if self.users[to].conn.is_none() && self.accounts.of(other).is_some() {
                self.store_mail(other, record.id); // in case they do not come back in time
            }
        }
    }

    /// The author's own copy of a private message.
    pub(super) fn echo(&self, ctx: &mut Context<'_>, record: &Record) {
        if self.wants_echo(ctx) {
            let event = Event::Message(record.seen_by(record.author));
            ctx.reply_tagged(&tags_of(record), &event);
        }
    }

    /// With echo off a said line is answered only if it carried a mark.
    #[allow(clippy::unused_self)] // reads as a question to the hub, next to its kin
    pub(super) fn wants_echo(&self, ctx: &Context<'_>) -> bool {
        ctx.settings.echo || ctx.cid.is_some()
    }

    /// If this line's mark was used already, the first one's echo comes back
    /// and nothing is said again.
    fn repeat(&mut self, ctx: &mut Context<'_>, user: UserIx) -> bool {
        let author = self.users[user].id;
        let Some(record) = ctx.cid.as_ref().and_then(|cid| self.cids.find(author, cid)) else {
            return false;
        };
        ctx.with_duplicate(&record, |ctx| self.echo(ctx, &record));
        true
    }

    /// Gives the words their place in the log. They are said next: what may panic comes
    /// before, or what is never stored would be remembered as said.
    pub(super) fn record(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        to: Recipient,
        text: &str,
        is_action: bool,
    ) -> Arc<Record> {
        let time = self.stamp(ctx.now);
        let author = &self.users[user];
        let record = Arc::new(Record {
            id: self.last_ids.message + 1,
            time,
            author: author.id,
            from: author.name.clone(),
            to,
            is_action,
            text: text.into(),
            cid: ctx.cid.clone(),
        });
        self.last_ids.message = record.id;
        self.cids.remember(&record);
        self.recent.push(record.clone());
        record
    }

    /// Some of a turn's records are not in the log: they were never said.
    pub fn forget_unstored(&mut self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            self.discard_mail(id);
            if let Some(record) = self.recent.remove(id)
                && let Some(cid) = &record.cid
            {
                self.cids.forget(record.author, cid);
            }
        }
    }

    /// A room the person is in, by any spelling of its name.
    pub(super) fn room_of(&self, user: UserIx, name: &str) -> Result<usize, Refusal> {
        let room = RoomName::parse(name).ok().and_then(|name| self.room_in(user, name.key()));
        room.ok_or_else(|| {
            let name = name.trim_start_matches('#');
            let text = format!("you are not in #{name}; /join #{name} first");
            Refusal::new(ErrorCode::NotInRoom, text)
        })
    }

    /// The room of that name, if the person is in it.
    pub(super) fn room_in(&self, user: UserIx, name: &Key) -> Option<RoomIx> {
        let room = self.room_names.get(name).copied();
        room.filter(|room| self.users[user].rooms.contains(room))
    }
}

/// What a message is tagged with.
pub(super) fn tags_of(record: &Record) -> Tags<'static> {
    Tags { id: Some(record.id), time: Some(record.time), cid: None }
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};

    use super::super::Limits;
    use super::super::test_support::{connect, hub, say};
    use super::*;

    #[test]
    fn what_a_bug_keeps_from_being_said_is_not_remembered_as_said() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "/set tags on");
        say(&mut hub, 0, "alice");
        let alice = hub.user_named("alice").expect("here");
        let nobody = UserId(99);
        hub.users[alice].relations.ignored_by.push(nobody);
        let line = "@cid=x hi";
        assert!(panic::catch_unwind(AssertUnwindSafe(|| say(&mut hub, 0, line))).is_err());
        assert_eq!(hub.last_ids.message, 0);
        hub.users[alice].relations.ignored_by.clear();
        let (_, told) = say(&mut hub, 0, line);
        assert!(
            told.text.contains("id=1;") && told.text.ends_with(" alice: hi\n"),
            "{}",
            told.text
        );
        assert!(hub.recent.remove(1).is_some() && hub.last_ids.message == 1);
    }

    fn cid(mark: &str) -> Cid {
        Cid::parse(mark).expect("a mark")
    }

    fn said(id: u64, mark: &str, text: &str) -> Arc<Record> {
        super::super::test_support::message(id, "lobby", Some(mark), text)
    }

    #[test]
    fn marks_are_known_of_so_many_messages_and_so_much_text() {
        let mut cids = RecentCids::new(3, 100);
        let known = |cids: &RecentCids| -> Vec<u64> {
            let ids = ["a", "b", "c", "d"].map(|mark| cids.find(UserId(1), &cid(mark)));
            ids.into_iter().flatten().map(|record| record.id).collect()
        };
        for (id, mark) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            cids.remember(&said(id, mark, "short"));
        }
        assert_eq!(known(&cids), [2, 3, 4], "so many");
        cids.remember(&said(5, "a", &"long".repeat(22)));
        assert_eq!(known(&cids), [5, 3, 4]);
        cids.remember(&said(6, "b", "as short"));
        assert_eq!(known(&cids), [5, 6], "so much");
        cids.remember(&said(7, "c", &"long".repeat(30)));
        assert_eq!((known(&cids), cids.size, cids.order.len()), (vec![], 0, 0));
    }

    #[test]
    fn a_mark_that_was_forgotten_and_is_used_again_is_as_new_as_any() {
        let mut cids = RecentCids::new(2, 100);
        cids.remember(&said(1, "a", "never said"));
        cids.forget(UserId(1), &cid("a"));
        cids.remember(&said(2, "b", "hi"));
        cids.remember(&said(3, "a", "said"));
        assert_eq!((cids.order.len(), cids.size), (2, 6));
        assert!(cids.find(UserId(1), &cid("b")).is_some());
        // Kept twice, when it had been forgotten in between.
        cids.remember(&said(4, "a", "again"));
        cids.remember(&said(5, "c", "hi"));
        assert_eq!(cids.find(UserId(1), &cid("a")).map(|record| record.id), Some(4));
        assert_eq!((cids.order.len(), cids.size), (2, 7));
    }
}
