//! `/history` and other requests that read the log. The hub checks permissions and requests
//! rows in the turn; the reactor reads the log, and the rows return as an input.

use std::sync::Arc;

use super::{
    Cid, ConnId, Context, ErrorCode, Event, Hub, Now, PendingRequest, Phase, QueryState, Refusal,
    RoomName, Turn, UserIx, messages::tags_of, refusal,
};
use crate::commands::{HistoryRange, MessageTarget};
use crate::protocol::Key;
use crate::server::record::{Recipient, Record, UserId};
use crate::server::store::{self, Thread};

/// A `/history` or `/search` whose rows are being read.
#[derive(Debug)]
pub(super) struct HistoryRequest {
    /// The reply word of the header: `HISTORY` or `SEARCH`.
    pub(super) word: &'static str,
    /// The room or user that the header names, such as `#ops` or `bob`.
    pub(super) title: Option<String>,
    /// The room, if the request is limited to a room.
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
        let read = store::ReadRequest {
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
            read,
        );
        Ok(())
    }

    /// Requests rows of the log. The connection waits until they are sent.
    pub(super) fn request_rows(
        &mut self,
        ctx: &mut Context<'_>,
        request: HistoryRequest,
        read: store::ReadRequest,
    ) {
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.pending = Some(Box::new(PendingRequest::Rows(request)));
            ctx.turn.read(ctx.conn, read);
        }
    }

    /// The users whose messages this user ignores.
    pub(super) fn hidden_from(&self, user: UserIx) -> Vec<UserId> {
        self.users[user].relations.ignores.iter().map(|ignored| ignored.person).collect()
    }

    /// Resolves a target to its title in the answer, its room, and its thread in the log.
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
                refusal(ErrorCode::NotInRoom, "you have no current room; name a room or a user")
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

    /// Completes the pending request of a connection with the rows it has requested.
    pub(super) fn send_rows(
        &mut self,
        now: Now,
        conn: ConnId,
        rows: &store::ReadResult,
        turn: &mut Turn,
    ) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let Some(pending) = connection.pending.take() else { return };
        let settings = connection.settings;
        let mut ctx = Context { now, conn, settings, cid: None, turn };
        match *pending {
            PendingRequest::Rows(mut request) => {
                ctx.cid = request.cid.take();
                let result =
                    readable(rows).and_then(|rows| self.send_history(&mut ctx, &request, rows));
                if let Err(refusal) = result {
                    ctx.refuse(&refusal);
                }
            }
            PendingRequest::Mail(mut request) => {
                ctx.cid = request.cid.take();
                let result =
                    readable(rows).and_then(|rows| self.log_in_with_mail(&mut ctx, request, rows));
                if let Err(refusal) = result {
                    self.note_refused_login(conn);
                    ctx.refuse(&refusal);
                }
            }
            PendingRequest::Resume(mut request) => {
                ctx.cid = request.cid.take();
                let result =
                    readable(rows).and_then(|rows| self.resume_with_row(&mut ctx, &request, rows));
                if let Err(refusal) = result {
                    ctx.refuse(&refusal);
                }
            }
            // The rows belong to an earlier request that has ended.
            PendingRequest::Password(_) | PendingRequest::Rooms(_) | PendingRequest::List(_) => {
                connection.pending = Some(pending);
            }
        }
    }

    /// Sends the rows of a `/history` or `/search`. Permissions are checked again, since
    /// the user may have been kicked while the log was read.
    fn send_history(
        &self,
        ctx: &mut Context<'_>,
        request: &HistoryRequest,
        rows: &[Arc<Record>],
    ) -> Result<(), Refusal> {
        let Some(Phase::LoggedIn(user)) = self.connection(ctx.conn).map(|c| c.phase) else {
            return Ok(());
        };
        if let Some(room) = &request.room {
            self.room_of(user, room.as_str())?;
        }
        let may_read = |record: &&Arc<Record>| match &record.to {
            Recipient::Room(name) if request.room.is_none() => {
                self.room_in(user, name.key()).is_some()
            }
            _ => true,
        };
        let rows: Vec<&Arc<Record>> = rows.iter().filter(may_read).collect();
        let count = rows.len();
        let args = match &request.title {
            Some(title) => format!("{title} {count}"),
            None => count.to_string(),
        };
        ctx.reply(&Event::reply(request.word, &args, ""));
        for record in rows {
            let message = record.seen_by(request.reader);
            ctx.reply_tagged(&tags_of(record), &Event::Row { time: record.time, message });
        }
        Ok(())
    }
}

/// Returns the rows, or a refusal if the log could not be read: an empty result would hide
/// messages that exist.
fn readable(rows: &store::ReadResult) -> Result<&[Arc<Record>], Refusal> {
    if rows.has_failed {
        let text = "the server cannot read its storage; try again later";
        return refusal(ErrorCode::StorageFull, text);
    }
    Ok(&rows.records)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{connect, handle, hub, message, say};
    use super::super::{Flow, Input, Limits};
    use crate::server::store::ReadResult;

    /// Returns the answer to a request of bob, who is kicked from #ops before the log is
    /// read.
    fn answer_after_kick(request: &str) -> String {
        let mut hub = hub(Limits::default());
        for (slot, name) in [(0, "alice"), (1, "bob")] {
            connect(&mut hub, slot);
            say(&mut hub, slot, name);
            say(&mut hub, slot, "/join ops");
        }
        let (flow, reply) = say(&mut hub, 1, request);
        assert_eq!((flow, reply.reads), (Flow::Wait, 1));
        say(&mut hub, 0, "/kick bob");
        let records = vec![message(1, "lobby", None, "open"), message(2, "ops", None, "secret")];
        let (flow, reply) =
            handle(&mut hub, 1, Input::Rows(ReadResult { records, ..ReadResult::default() }));
        assert_eq!(flow, Flow::Next);
        reply.text
    }

    #[test]
    fn history_of_a_room_is_refused_after_a_kick() {
        for request in ["/history", "/history #ops", "/search secret #ops"] {
            let reply = answer_after_kick(request);
            assert!(reply.starts_with("[ERROR not-in-room] "), "{request}: {reply}");
            assert_eq!(reply.lines().count(), 1, "{reply}");
        }
        let reply = answer_after_kick("/search e");
        assert!(reply.starts_with("[SEARCH 1]\n") && !reply.contains("secret"), "{reply}");
    }
}
