//! Posting messages to rooms and users, and deduplication by cid. Messages get their ids
//! here; they are stored in the log and released by the caller.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{
    Context, ErrorCode, Event, Hub, QueryState, Refusal, RoomIx, Tags, Topic, UserIx, no_such_user,
    refusal,
};
use crate::commands::MessageTarget;
use crate::protocol::{Cid, Key, RoomName};
use crate::server::record::{Recipient, Record, UserId};

/// Recent messages with a cid, by author: a repeated cid is deduplicated. Bounded in
/// messages and in bytes of text, by the limits of the recent history in memory.
#[derive(Debug)]
pub(super) struct RecentCids {
    records: HashMap<(UserId, Cid), Arc<Record>>,
    /// The same messages, oldest first.
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

    fn discard(&mut self, author: UserId, cid: &Cid) {
        if let Some(record) = self.records.remove(&(author, cid.clone())) {
            self.remove(&record);
        }
    }

    /// Removes a message from `order` and `size`.
    fn remove(&mut self, record: &Record) {
        if let Ok(at) = self.order.binary_search_by_key(&record.id, |record| record.id) {
            self.order.remove(at);
            self.size -= record.text.len();
        }
    }

    /// Records the cid of a message, if it has one.
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
    /// Posts a line of text or `/me` to the queried user, else to the current room. With
    /// neither it is refused: a message only goes where its sender has chosen.
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
            (QueryState::On(user_id), _) => match self.users_by_id.get(&user_id).copied() {
                Some(to) => {
                    self.post_private(ctx, user, to, text, is_action);
                    Ok(())
                }
                None => refusal(
                    ErrorCode::NoTarget,
                    "not sent: that user has left; use /query NAME or /join ROOM",
                ),
            },
            (QueryState::Gone, _) => refusal(
                ErrorCode::NoTarget,
                "not sent: that user has left; use /query NAME or /join ROOM",
            ),
            (QueryState::Off, Some(room)) => self.post_to_room(ctx, user, room, text, is_action),
            (QueryState::Off, None) => {
                refusal(ErrorCode::NoTarget, "not sent: you are in no room; /join one to talk")
            }
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
                    format!("not sent: no user is called {name}; for the room, /msg #{name} TEXT"),
                ),
                None => no_such_user(name),
            },
        }
    }

    /// Executes `/reply`.
    pub(super) fn reply(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        text: &str,
    ) -> Result<(), Refusal> {
        if self.repeat(ctx, user) {
            return Ok(());
        }
        let Some(target) = self.users[user].reply_target else {
            return refusal(
                ErrorCode::NoTarget,
                "not sent: no private message to reply to; use /msg NAME TEXT",
            );
        };
        match self.users_by_id.get(&target).copied() {
            Some(to) => {
                self.post_private(ctx, user, to, text, false);
                Ok(())
            }
            None if self.accounts.of(target).is_some() => {
                self.send_to_account(ctx, user, target, text)
            }
            None => {
                refusal(ErrorCode::NoTarget, "not sent: that user has left; use /msg NAME TEXT")
            }
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
                Some(room) => format!("your messages now go to {}", self.rooms[room].name),
                None => "you are in no room; /join one to talk".to_owned(),
            };
            ctx.reply(&Event::reply("QUERY", "off", &text));
            return Ok(());
        };
        let Some(other) = self.user_named(name) else { return no_such_user(name) };
        self.end_query(user, QueryState::On(self.users[other].id));
        let me = self.users[user].id;
        self.users[other].relations.queried_by.push(me);
        let name = self.users[other].name.as_str();
        let text = format!("your messages now go to {name}; /query returns to the room");
        ctx.reply(&Event::reply("QUERY", name, &text));
        Ok(())
    }

    /// Replaces the current query with `next`.
    pub(super) fn end_query(&mut self, user: UserIx, next: QueryState) {
        let me = self.users[user].id;
        if let QueryState::On(other) = std::mem::replace(&mut self.users[user].query, next)
            && let Some(other) = self.users_by_id.get(&other)
        {
            self.users[*other].relations.queried_by.retain(|user_id| *user_id != me);
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
        // The author gets a separate copy when it carries a cid, none when echo is off, and
        // else the same line as the room.
        let has_own_copy = ctx.cid.is_some() || !ctx.settings.echo;
        let mut except = if has_own_copy { vec![ctx.conn] } else { Vec::new() };
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
        let is_delivered =
            !self.users[to].relations.ignores.iter().any(|ignored| ignored.person == me);
        let record = self.record(ctx, user, recipient, text, is_action);
        ctx.with_message(&record, |ctx| {
            self.echo(ctx, &record);
            if is_delivered {
                // A message to oneself: the recipient copy differs from the echo as well.
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
        if is_delivered {
            self.users[to].reply_target = Some(me);
            if self.users[to].conn.is_none() && self.accounts.of(other).is_some() {
                self.store_mail(other, record.id); // the session may end before it is resumed
            }
        }
    }

    /// Sends the author their copy of a private message.
    pub(super) fn echo(&self, ctx: &mut Context<'_>, record: &Record) {
        if self.wants_echo(ctx) {
            let event = Event::Message(record.seen_by(record.author));
            ctx.reply_tagged(&tags_of(record), &event);
        }
    }

    /// Returns whether the author gets a copy: with echo off only of messages with a cid.
    #[allow(clippy::unused_self)] // a method like its siblings
    pub(super) fn wants_echo(&self, ctx: &Context<'_>) -> bool {
        ctx.settings.echo || ctx.cid.is_some()
    }

    /// Deduplicates by cid: if the author has used this cid before, the first message is
    /// echoed again and nothing is posted.
    fn repeat(&mut self, ctx: &mut Context<'_>, user: UserIx) -> bool {
        let author = self.users[user].id;
        let Some(record) = ctx.cid.as_ref().and_then(|cid| self.cids.find(author, cid)) else {
            return false;
        };
        ctx.with_duplicate(&record, |ctx| self.echo(ctx, &record));
        true
    }

    /// Gives a message its id. The caller sends it next; everything that may panic comes
    /// before, or a message that was never stored would be found by its cid.
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

    /// Discards the messages of a turn that could not be stored; they were never released.
    pub fn forget_unstored(&mut self, ids: impl Iterator<Item = u64>) {
        for id in ids {
            self.discard_mail(id);
            if let Some(record) = self.recent.remove(id)
                && let Some(cid) = &record.cid
            {
                self.cids.discard(record.author, cid);
            }
        }
    }

    /// Returns a room of the user, by any spelling of its name.
    pub(super) fn room_of(&self, user: UserIx, name: &str) -> Result<usize, Refusal> {
        let room = RoomName::parse(name).ok().and_then(|name| self.room_in(user, name.key()));
        room.ok_or_else(|| {
            let name = name.trim_start_matches('#');
            let text = format!("you are not in #{name}; /join #{name} first");
            Refusal::new(ErrorCode::NotInRoom, text)
        })
    }

    /// Returns the room with this name if the user is a member.
    pub(super) fn room_in(&self, user: UserIx, name: &Key) -> Option<RoomIx> {
        let room = self.room_names.get(name).copied();
        room.filter(|room| self.users[user].rooms.contains(room))
    }
}

/// Returns the tags of a message.
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
    fn panic_while_posting_leaves_cid_unused() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "/set tags on");
        say(&mut hub, 0, "alice");
        let alice = hub.user_named("alice").expect("here");
        let unknown = UserId(99);
        hub.users[alice].relations.ignored_by.push(unknown);
        let line = "@cid=x hi";
        assert!(panic::catch_unwind(AssertUnwindSafe(|| say(&mut hub, 0, line))).is_err());
        assert_eq!(hub.last_ids.message, 0);
        hub.users[alice].relations.ignored_by.clear();
        let (_, reply) = say(&mut hub, 0, line);
        assert!(
            reply.text.contains("id=1;") && reply.text.ends_with(" alice: hi\n"),
            "{}",
            reply.text
        );
        assert!(hub.recent.remove(1).is_some() && hub.last_ids.message == 1);
    }

    fn cid(text: &str) -> Cid {
        Cid::parse(text).expect("a cid")
    }

    fn message(id: u64, cid_text: &str, text: &str) -> Arc<Record> {
        super::super::test_support::message(id, "lobby", Some(cid_text), text)
    }

    #[test]
    fn recent_cids_are_bounded_in_messages_and_bytes() {
        let mut cids = RecentCids::new(3, 100);
        let known = |cids: &RecentCids| -> Vec<u64> {
            let ids = ["a", "b", "c", "d"].map(|cid_text| cids.find(UserId(1), &cid(cid_text)));
            ids.into_iter().flatten().map(|record| record.id).collect()
        };
        for (id, cid_text) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
            cids.remember(&message(id, cid_text, "short"));
        }
        assert_eq!(known(&cids), [2, 3, 4], "limited in messages");
        cids.remember(&message(5, "a", &"long".repeat(22)));
        assert_eq!(known(&cids), [5, 3, 4]);
        cids.remember(&message(6, "b", "as short"));
        assert_eq!(known(&cids), [5, 6], "limited in bytes");
        cids.remember(&message(7, "c", &"long".repeat(30)));
        assert_eq!((known(&cids), cids.size, cids.order.len()), (vec![], 0, 0));
    }

    #[test]
    fn discarded_cid_can_be_used_again() {
        let mut cids = RecentCids::new(2, 100);
        cids.remember(&message(1, "a", "not stored"));
        cids.discard(UserId(1), &cid("a"));
        cids.remember(&message(2, "b", "hi"));
        cids.remember(&message(3, "a", "sent"));
        assert_eq!((cids.order.len(), cids.size), (2, 6));
        assert!(cids.find(UserId(1), &cid("b")).is_some());
        // A repeated cid replaces the older message.
        cids.remember(&message(4, "a", "again"));
        cids.remember(&message(5, "c", "hi"));
        assert_eq!(cids.find(UserId(1), &cid("a")).map(|record| record.id), Some(4));
        assert_eq!((cids.order.len(), cids.size), (2, 7));
    }
}
