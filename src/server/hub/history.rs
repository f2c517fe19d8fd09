//! `/history`: the hub knows who may read what; the log is read by whoever
//! carries out the turn, and the rows come back as an input.

use std::sync::Arc;

use super::{
    Cid, ConnId, Context, ErrorCode, Event, Hub, Now, PendingRequest, Phase, QueryState, Refusal,
    RoomName, Turn, UserIx, messages::tags_of, refusal,
};
use crate::commands::{HistoryRange, MessageTarget};
use crate::protocol::Key;
use crate::server::log::{self, Recipient, Record, Thread, UserId};

/// A `/history` or `/search` whose rows are being read.
#[derive(Debug)]
pub(super) struct HistoryRequest {
    /// The header's: `HISTORY` or `SEARCH`.
    pub(super) word: &'static str,
    /// `#ops` or `bob`, where the header names it.
    pub(super) title: Option<String>,
    /// Of which room alone, if of one.
    pub(super) room: Option<RoomName>,
    pub(super) reader: UserId,
    pub(super) cid: Option<Cid>,
}

impl Hub {
    pub(super) fn history(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        rows: HistoryRange,
        thread: Option<MessageTarget<'_>>,
    ) -> Result<(), Refusal> {
        let (title, room, thread) = self.thread(user, thread)?;
        let (reader, hidden) = (self.users[user].id, self.hidden_from(user));
        let query = log::ReadRequest {
            thread,
            count: rows.count,
            size: usize::MAX,
            after: rows.after,
            hidden,
        };
        let (word, cid) = ("HISTORY", ctx.cid.take());
        self.request_rows(
            ctx,
            HistoryRequest { word, title: Some(title), room, reader, cid },
            query,
        );
        Ok(())
    }

    /// The connection waits until the rows are told.
    pub(super) fn request_rows(
        &mut self,
        ctx: &mut Context<'_>,
        asked: HistoryRequest,
        query: log::ReadRequest,
    ) {
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.pending = Some(Box::new(PendingRequest::Rows(asked)));
            ctx.turn.read(ctx.conn, query);
        }
    }

    /// Whose messages somebody does not want to see.
    pub(super) fn hidden_from(&self, user: UserIx) -> Vec<UserId> {
        self.users[user].relations.ignores.iter().map(|ignored| ignored.person).collect()
    }

    /// Which conversation is meant, and what the answer calls it.
    fn thread(
        &self,
        user: UserIx,
        target: Option<MessageTarget<'_>>,
    ) -> Result<(String, Option<RoomName>, Thread), Refusal> {
        let me = &self.users[user];
        let room = |room: usize| {
            let name = &self.rooms[room].name;
            (name.to_string(), Some(name.clone()), Thread::Room(name.key().clone()))
        };
        match (target, me.query, me.current) {
            (Some(MessageTarget::Room(name)), ..) => Ok(room(self.room_of(user, name)?)),
            (Some(MessageTarget::Person(name)), ..) => Ok(self.private_thread(me.id, name)),
            (None, QueryState::On(other), _) => {
                let name = self.users[self.users_by_id[&other]].name.as_str();
                Ok(self.private_thread(me.id, name))
            }
            (None, QueryState::Off, Some(current)) => Ok(room(current)),
            (None, ..) => {
                refusal(ErrorCode::NotInRoom, "you have no current room; name one, or a person")
            }
        }
    }

    fn private_thread(&self, reader: UserId, name: &str) -> (String, Option<RoomName>, Thread) {
        let other = self.user_named(name).map(|user| &self.users[user]);
        let owner = self.accounts.named(&Key::fold(name)).map(|account| account.person);
        let title = other.map_or(name, |other| other.name.as_str()).to_owned();
        let other_id = other.map(|other| other.id).or(owner);
        (title, None, Thread::Private { reader, other: Key::fold(name), other_id })
    }

    /// The rows have come that a connection waits for.
    pub(super) fn send_rows(
        &mut self,
        now: Now,
        conn: ConnId,
        rows: &log::ReadResult,
        turn: &mut Turn,
    ) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let Some(asked) = connection.pending.take() else { return };
        let settings = connection.settings;
        let mut ctx = Context { now, conn, settings, cid: None, turn };
        match *asked {
            PendingRequest::Rows(mut asked) => {
                ctx.cid = asked.cid.take();
                let result =
                    readable(rows).and_then(|records| self.send_found(&mut ctx, &asked, records));
                if let Err(refusal) = result {
                    ctx.refuse(&refusal);
                }
            }
            PendingRequest::Mail(mut asked) => {
                ctx.cid = asked.cid.take();
                let result = readable(rows)
                    .and_then(|records| self.log_in_with_mail(&mut ctx, asked, records));
                if let Err(refusal) = result {
                    self.note_refused_login(conn);
                    ctx.refuse(&refusal);
                }
            }
            PendingRequest::Resume(mut asked) => {
                ctx.cid = asked.cid.take();
                let result =
                    readable(rows).and_then(|rows| self.resume_with_row(&mut ctx, &asked, rows));
                if let Err(refusal) = result {
                    ctx.refuse(&refusal);
                }
            }
            // It waits for something else; these come too late for anybody.
            PendingRequest::Password(_) | PendingRequest::Rooms(_) | PendingRequest::List(_) => {
                connection.pending = Some(asked);
            }
        }
    }

    /// What the log has found. Who asked may have been put out of a room meanwhile.
    fn send_found(
        &self,
        ctx: &mut Context<'_>,
        asked: &HistoryRequest,
        rows: &[Arc<Record>],
    ) -> Result<(), Refusal> {
        let Some(Phase::LoggedIn(user)) = self.connection(ctx.conn).map(|c| c.phase) else {
            return Ok(());
        };
        if let Some(room) = &asked.room {
            self.room_of(user, room.as_str())?;
        }
        let may_read = |record: &&Arc<Record>| match &record.to {
            Recipient::Room(name) if asked.room.is_none() => {
                self.room_in(user, name.key()).is_some()
            }
            _ => true,
        };
        let rows: Vec<&Arc<Record>> = rows.iter().filter(may_read).collect();
        let count = rows.len();
        let args = match &asked.title {
            Some(title) => format!("{title} {count}"),
            None => count.to_string(),
        };
        ctx.reply(&Event::reply(asked.word, &args, ""));
        for record in rows {
            let message = record.seen_by(asked.reader);
            ctx.reply_tagged(&tags_of(record), &Event::Row { time: record.time, message });
        }
        Ok(())
    }
}

/// Where nothing could be read, that is no answer to what is there.
fn readable(rows: &log::ReadResult) -> Result<&[Arc<Record>], Refusal> {
    if rows.has_failed {
        let text = "the server cannot read what it keeps; try again later";
        return refusal(ErrorCode::StorageFull, text);
    }
    Ok(&rows.records)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{connect, handle, hub, message, say};
    use super::super::{Flow, Input, Limits};
    use crate::server::log::ReadResult;

    /// What bob is told of his question, if he was put out of #ops meanwhile.
    fn told_after_a_kick(question: &str) -> String {
        let mut hub = hub(Limits::default());
        for (slot, name) in [(0, "alice"), (1, "bob")] {
            connect(&mut hub, slot);
            say(&mut hub, slot, name);
            say(&mut hub, slot, "/join ops");
        }
        let (flow, told) = say(&mut hub, 1, question);
        assert_eq!((flow, told.reads), (Flow::Wait, 1));
        say(&mut hub, 0, "/kick bob");
        let records = vec![message(1, "lobby", None, "open"), message(2, "ops", None, "secret")];
        let (flow, told) =
            handle(&mut hub, 1, Input::Rows(ReadResult { records, ..ReadResult::default() }));
        assert_eq!(flow, Flow::Next);
        told.text
    }

    #[test]
    fn who_was_put_out_of_a_room_is_told_nothing_of_it_any_more() {
        for question in ["/history", "/history #ops", "/search secret #ops"] {
            let told = told_after_a_kick(question);
            assert!(told.starts_with("[ERROR not-in-room] "), "{question}: {told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
        let told = told_after_a_kick("/search e");
        assert!(told.starts_with("[SEARCH 1]\n") && !told.contains("secret"), "{told}");
    }
}
