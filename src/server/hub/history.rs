//! `/history`: the hub knows who may read what; the log is read by whoever
//! carries out the turn, and the rows come back as an input.

use std::sync::Arc;

use super::{
    Ask, Asked, Cid, ConnId, ErrorCode, Event, Hub, Now, Query, Refusal, Turn, VisitIx, refusal,
    talk::tags_of,
};
use crate::commands::{Rows, Target};
use crate::protocol::Key;
use crate::server::log::{self, PersonId, Record, Thread};

/// A `/history` or `/search` whose rows are being read.
#[derive(Debug)]
pub(super) struct RowsAsk {
    /// The header's: `HISTORY` or `SEARCH`.
    pub(super) word: &'static str,
    /// `#ops` or `bob`, where the header names it.
    pub(super) title: Option<String>,
    pub(super) reader: PersonId,
    pub(super) cid: Option<Cid>,
}

impl Hub {
    pub(super) fn history(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        rows: Rows,
        thread: Option<Target<'_>>,
    ) -> Result<(), Refusal> {
        let (title, thread) = self.thread(visit, thread)?;
        let (reader, hidden) = (self.visits[visit].person, self.hidden_from(visit));
        let query =
            log::Query { thread, count: rows.count, size: usize::MAX, after: rows.after, hidden };
        let (word, cid) = ("HISTORY", ask.cid.take());
        self.ask_for_rows(ask, RowsAsk { word, title: Some(title), reader, cid }, query);
        Ok(())
    }

    /// The connection waits until the rows are told.
    pub(super) fn ask_for_rows(&mut self, ask: &mut Ask<'_>, asked: RowsAsk, query: log::Query) {
        if let Some(connection) = self.connection_mut(ask.conn) {
            connection.asked = Some(Box::new(Asked::Rows(asked)));
            ask.turn.read(ask.conn, query);
        }
    }

    /// Whose messages somebody does not want to see.
    pub(super) fn hidden_from(&self, visit: VisitIx) -> Vec<PersonId> {
        self.visits[visit].ties.ignores.iter().map(|ignored| ignored.person).collect()
    }

    /// Which conversation is meant, and what the answer calls it.
    fn thread(
        &self,
        visit: VisitIx,
        target: Option<Target<'_>>,
    ) -> Result<(String, Thread), Refusal> {
        let me = &self.visits[visit];
        let room = |room: usize| {
            let name = &self.rooms[room].name;
            (name.to_string(), Thread::Room(name.key().clone()))
        };
        match (target, me.query, me.current) {
            (Some(Target::Room(name)), ..) => Ok(room(self.room_of(visit, name)?)),
            (Some(Target::Person(name)), ..) => Ok(self.private_thread(me.person, name)),
            (None, Query::On(other), _) => {
                let name = self.visits[self.people[&other]].name.as_str();
                Ok(self.private_thread(me.person, name))
            }
            (None, Query::Off, Some(current)) => Ok(room(current)),
            (None, ..) => {
                refusal(ErrorCode::NotInRoom, "you have no current room; name one, or a person")
            }
        }
    }

    fn private_thread(&self, reader: PersonId, name: &str) -> (String, Thread) {
        let other = self.visit_named(name).map(|visit| &self.visits[visit]);
        let owner = self.accounts.named(&Key::fold(name)).map(|account| account.person);
        let title = other.map_or(name, |other| other.name.as_str()).to_owned();
        let other_id = other.map(|other| other.person).or(owner);
        (title, Thread::Private { reader, other: Key::fold(name), other_id })
    }

    /// The rows have come that a connection waits for.
    pub(super) fn tell_rows(&mut self, now: Now, conn: ConnId, rows: &log::Rows, turn: &mut Turn) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let Some(asked) = connection.asked.take() else { return };
        let settings = connection.settings;
        let mut ask = Ask { now, conn, settings, cid: None, turn };
        match *asked {
            Asked::Rows(mut asked) => {
                ask.cid = asked.cid.take();
                match found(rows) {
                    Ok(records) => tell_found(&mut ask, &asked, records),
                    Err(refusal) => ask.refuse(&refusal),
                }
            }
            Asked::Mail(mut asked) => {
                ask.cid = asked.cid.take();
                let result =
                    found(rows).and_then(|records| self.log_in_with_mail(&mut ask, asked, records));
                if let Err(refusal) = result {
                    self.note_refused_login(conn);
                    ask.refuse(&refusal);
                }
            }
            // It waits for something else; these come too late for anybody.
            Asked::Password(_) | Asked::Rooms(_) | Asked::List(_) => connection.asked = Some(asked),
        }
    }
}

/// Where nothing could be read, that is no answer to what is there.
fn found(rows: &log::Rows) -> Result<&[Arc<Record>], Refusal> {
    if rows.has_failed {
        let text = "the server cannot read what it keeps; try again later";
        return refusal(ErrorCode::StorageFull, text);
    }
    Ok(&rows.records)
}

fn tell_found(ask: &mut Ask<'_>, asked: &RowsAsk, rows: &[Arc<Record>]) {
    let count = rows.len();
    let args = match &asked.title {
        Some(title) => format!("{title} {count}"),
        None => count.to_string(),
    };
    ask.reply(&Event::reply(asked.word, &args, ""));
    for record in rows {
        let message = record.seen_by(asked.reader);
        ask.reply_tagged(&tags_of(record), &Event::Row { time: record.time, message });
    }
}
