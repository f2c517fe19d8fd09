//! `/search`: who may find what is decided here, by naming the rooms and the
//! person to the log; the log only looks there.

use super::history::RowsAsk;
use super::{Ask, Event, Hub, Refusal, VisitIx};
use crate::protocol::{Key, SEARCH_MAX};
use crate::server::log::{Query, SearchTerms, Thread};

impl Hub {
    pub(super) fn search(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        text: &str,
        room: Option<&str>,
    ) -> Result<(), Refusal> {
        let me = &self.visits[visit];
        let room = room.map(|room| self.room_of(visit, room)).transpose()?;
        let rooms = room.map_or_else(|| me.rooms.clone(), |room| vec![room]);
        let rooms: Vec<Key> =
            rooms.into_iter().map(|room| self.rooms[room].name.key().clone()).collect();
        let terms = SearchTerms::parse(text);
        if terms.is_empty() {
            ask.reply(&Event::reply("SEARCH", "0", ""));
            return Ok(());
        }
        let (reader, is_private_too) = (me.person, room.is_none());
        let thread = Thread::Search { reader, rooms, is_private_too, terms };
        let hidden = self.hidden_from(visit);
        let room = room.map(|room| self.rooms[room].name.clone());
        let (word, cid) = ("SEARCH", ask.cid.take());
        let asked = RowsAsk { word, title: None, room, reader, cid };
        self.ask_for_rows(
            ask,
            asked,
            Query { thread, count: SEARCH_MAX, size: usize::MAX, after: None, hidden },
        );
        Ok(())
    }
}
