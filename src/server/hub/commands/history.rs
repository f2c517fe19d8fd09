//! `/history` and `/search`, which read the log. Permissions are checked here and again when
//! the messages are sent; the log is read outside the hub, and the result is an input.

use jiff::tz::TimeZone;

use super::rights::room_of;
use super::{
    ErrorReason, Filter, Key, Query, ReadRequest, Reply, Request, Result, RoomIx, RoomName, State,
    Thread, UserId, UserIx, long_reply, refusal,
};
use crate::commands::{HistoryRange, MessageTarget, SearchQuery};
use crate::protocol::{SEARCH_MAX, SEARCH_WORDS_MAX, Stamp, When};
use crate::server::hub::state::pending::MessageList;
use crate::server::store::{Author, SearchTerms};

/// `/history`.
pub(super) fn history(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    rows: HistoryRange,
    thread: Option<MessageTarget<'_>>,
) -> Result {
    let (title, room, thread) = resolve(state, req, user, thread)?;
    let reader = state.users[user].id;
    let hidden = state.relations.ignored_ids(reader);
    let after = rows.is_forward().then_some(rows.after.unwrap_or_default());
    let (since, until) = period(req, rows.since, rows.until);
    let filter = Filter { before: rows.before, since, until, author: None };
    let (count, size) = (rows.count, req.page_size());
    let read = ReadRequest { thread, count, size, after, hidden, filter };
    let list = MessageList { title: Some(title), room, reader, rows: None };
    long_reply::send_messages(state, req, list, read);
    Ok(())
}

/// Returns the first and the last moment of a period. Times without an offset are UTC.
fn period(
    req: &Request<'_>,
    since: Option<When>,
    until: Option<When>,
) -> (Option<Stamp>, Option<Stamp>) {
    let (now, zone) = (req.now.wall, &TimeZone::UTC);
    (since.map(|when| when.start(now, zone)), until.map(|when| when.end(now, zone)))
}

/// `/search`. The rooms and the user whose messages may be found are decided here;
/// the log only searches.
pub(super) fn search(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    query: SearchQuery<'_>,
) -> Result {
    let room = query.room.map(|room| room_of(state, user, room)).transpose()?;
    let mine = || state.memberships.rooms_of(user).to_vec();
    let rooms = room.map_or_else(mine, |room| vec![room]);
    let rooms = rooms.into_iter().map(|room| state.rooms[room].name.key().clone()).collect();
    let words: Vec<&str> = query.words().collect();
    let terms = SearchTerms::parse(&words.join(" "));
    if terms.is_empty() && !words.is_empty() {
        req.reply(Reply::Search { count: 0 });
        return Ok(());
    }
    if terms.iter().count() > SEARCH_WORDS_MAX {
        let text = format!("/search takes at most {SEARCH_WORDS_MAX} different words");
        return refusal(ErrorReason::BadArgument, text);
    }
    let (reader, is_private_too) = (state.users[user].id, room.is_none());
    let thread = Thread::Search { reader, rooms, is_private_too, terms };
    let hidden = state.relations.ignored_ids(state.users[user].id);
    let room = room.map(|room| state.rooms[room].name.clone());
    let (since, until) = period(req, query.since, query.until);
    let author = query.from.map(|name| {
        let (name, id, _) = who(state, name);
        Author { name, id }
    });
    let filter = Filter { before: None, since, until, author };
    let (count, size) = (SEARCH_MAX, req.page_size());
    let read = ReadRequest { thread, count, size, after: None, hidden, filter };
    let list = MessageList { title: None, room, reader, rows: None };
    long_reply::send_messages(state, req, list, read);
    Ok(())
}

/// Resolves a target to its title in the answer, its room, and its thread in the log.
fn resolve(
    state: &State,
    req: &Request<'_>,
    user: UserIx,
    target: Option<MessageTarget<'_>>,
) -> Result<(String, Option<RoomName>, Thread)> {
    let (me, connection) = (state.users[user].id, &state.connections[req.connection]);
    let room = |room: RoomIx| {
        let name = &state.rooms[room].name;
        (name.as_str().to_owned(), Some(name.clone()), Thread::Room(name.key().clone()))
    };
    match (target, connection.query, connection.current) {
        (Some(MessageTarget::Room(name)), ..) => Ok(room(room_of(state, user, name)?)),
        (Some(MessageTarget::Person(name)), ..) => Ok(private_thread(state, me, name)),
        (None, Query::On(other), _) if let Some(other) = state.users.find(other) => {
            Ok(private_thread(state, me, state.users[other].name.as_str()))
        }
        (None, Query::Off, Some(current)) => Ok(room(current)),
        (None, ..) => {
            refusal(ErrorReason::NoCurrentRoom, "you have no current room; name a room or a user")
        }
    }
}

fn private_thread(state: &State, reader: UserId, name: &str) -> (String, Option<RoomName>, Thread) {
    let (other, other_id, title) = who(state, name);
    (title, None, Thread::Private { reader, other, other_id })
}

/// Returns the key of a name, the user who has it, online or as an account, and its spelling.
fn who(state: &State, name: &str) -> (Key, Option<UserId>, String) {
    let user = state.users.named(name).map(|user| &state.users[user]);
    let owner = state.accounts.named(&Key::fold(name)).map(|account| account.person);
    let title = user.map_or(name, |user| user.name.as_str()).to_owned();
    (Key::fold(name), user.map(|user| user.id).or(owner), title)
}

#[cfg(test)]
mod tests {
    use crate::server::hub::test_support::{connect, handle, hub, message, say};
    use crate::server::hub::{Flow, Input, Limits};
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
        let rows = records.iter().map(|record| (record.id, record.time)).collect();
        let found = ReadResult { rows, records, upto: 2, ..ReadResult::default() };
        let (flow, reply) = handle(&mut hub, 1, Input::Rows(found));
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
        assert_eq!(reply.lines().count(), 2, "{reply}");
    }

    #[test]
    fn search_takes_a_limited_number_of_different_words() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        let words =
            |count: usize| (0..count).fold(String::new(), |all, n| all + &format!("w{n} W{n} "));
        let (flow, reply) = say(&mut hub, 0, &format!("/search {}", words(17)));
        assert_eq!((flow, reply.reads), (Flow::Next, 0));
        assert!(reply.text.starts_with("[ERROR bad-argument] /search takes at most 16 "));
        for text in [words(16), "北京".repeat(500)] {
            connect(&mut hub, 1);
            say(&mut hub, 1, "bob");
            assert_eq!(say(&mut hub, 1, &format!("/search {text}")).1.reads, 1);
            hub.disconnect(crate::server::hub::test_support::conn(1));
        }
    }
}
