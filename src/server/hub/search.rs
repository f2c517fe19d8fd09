//! Executes `/search`. The rooms and the user whose messages may be found are decided here;
//! the log only searches.

use super::history::HistoryRequest;
use super::{Context, Event, Hub, Refusal, UserIx};
use crate::protocol::{Key, SEARCH_MAX};
use crate::server::store::{ReadRequest, SearchTerms, Thread};

impl Hub {
    pub(super) fn search(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        text: &str,
        room: Option<&str>,
    ) -> Result<(), Refusal> {
        let me = &self.users[user];
        let room = room.map(|room| self.room_of(user, room)).transpose()?;
        let rooms = room.map_or_else(|| me.rooms.clone(), |room| vec![room]);
        let rooms: Vec<Key> =
            rooms.into_iter().map(|room| self.rooms[room].name.key().clone()).collect();
        let terms = SearchTerms::parse(text);
        if terms.is_empty() {
            ctx.reply(&Event::reply("SEARCH", "0", ""));
            return Ok(());
        }
        let (reader, is_private_too) = (me.id, room.is_none());
        let thread = Thread::Search { reader, rooms, is_private_too, terms };
        let hidden = self.hidden_from(user);
        let room = room.map(|room| self.rooms[room].name.clone());
        let (word, cid) = ("SEARCH", ctx.cid.take());
        let request = HistoryRequest { word, title: None, room, reader, cid };
        self.request_rows(
            ctx,
            request,
            ReadRequest { thread, count: SEARCH_MAX, size: usize::MAX, after: None, hidden },
        );
        Ok(())
    }
}
