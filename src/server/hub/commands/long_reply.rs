//! Long replies. They are sent page by page, the next page when the client has read most of the
//! last one, so a slow reader holds two pages at most. Lists are snapshots, and messages are
//! read by their ids, so the header always gives the number of rows. Permissions are checked
//! again for each page; a row that may no longer be shown is replaced by a note.

use std::sync::Arc;

use super::rights::{require_rights, room_in, room_of};
use super::{
    ErrorReason, Event, List, Moderation, PendingRequest, ReadRequest, Record, Reply, Request,
    Result, RoomIx, RoomName, SERVER_NAME, Scope, State, Thread, UserId, UserIx, catch_up,
    presence, refusal, reply,
};
use crate::protocol::{Message, Place, Stamp, Tags};
use crate::server::hub::caches::Caches;
use crate::server::hub::context::PAGE_ROWS;
use crate::server::hub::state::memberships::Member;
use crate::server::hub::state::moderation::bans::Ban;
use crate::server::hub::state::pending::{Attendee, Content, Listing, LongReply, MessageList};
use crate::server::record::{Recipient, SentMail};
use crate::server::store::ReadResult;

/// Sends the list of rooms.
pub(super) fn send_rooms(state: &mut State, req: &mut Request<'_>) {
    let rooms = room_list(state, req);
    req.reply(Reply::Rooms { count: rooms.items.len() });
    start(state, req, Content::Rooms(rooms));
}

/// Returns the names of all rooms, sorted. The snapshot is shared until a room is
/// created or ends.
fn room_list(state: &State, req: &mut Request<'_>) -> Arc<Listing<RoomName>> {
    let version = state.rooms.version();
    if let Some((of, list)) = &req.caches.room_list
        && *of == version
    {
        return list.clone();
    }
    let rooms = state.rooms.by_name().into_iter();
    let names: Vec<RoomName> = rooms.map(|room| state.rooms[room].name.clone()).collect();
    let text_size = names.iter().map(|name| name.as_str().len()).sum();
    let list = Arc::new(Listing::new(names, text_size, &req.caches.meter));
    req.caches.room_list = Some((version, list.clone()));
    list
}

/// Releases the list of rooms if it is outdated; those who read it keep it.
pub(in crate::server::hub) fn drop_outdated_list(state: &State, caches: &mut Caches) {
    caches.room_list.take_if(|(version, _)| *version != state.rooms.version());
}

/// Sends the members of a room. The list of a large room is a snapshot: its joins and leaves
/// are not announced by name, so no client can follow them.
pub(super) fn send_members(state: &mut State, req: &mut Request<'_>, room: RoomIx) {
    if !presence::is_quiet(state, req, room) {
        return presence::list_members(state, req, room);
    }
    let (mut lines, mut text_size) = (Vec::new(), 0);
    presence::split_names(state, room, |names| {
        text_size += names.len();
        lines.push(names.to_owned());
    });
    let lines = Listing::new(lines, text_size, &req.caches.meter);
    let (room, count) = (state.rooms[room].name.clone(), state.memberships.count(room));
    start(state, req, Content::Members { room, count, lines });
}

/// Sends a description of each member of a room, as of now.
pub(super) fn send_people(state: &mut State, req: &mut Request<'_>, room: RoomIx) {
    let (ops, server) = (state.moderation_in(Scope::Room(room)), state.moderation.server());
    let describe = |member: &Member| {
        let user = &state.users[member.user];
        Attendee {
            name: user.name.clone(),
            is_operator: ops.is_operator(user.id) || server.is_operator(user.id),
            is_away: user.away.is_some(),
            idle: user.idle(req.now),
            since: user.since,
        }
    };
    let people: Vec<Attendee> = state.memberships.of_room(room).map(describe).collect();
    let text_size = people.iter().map(|person| person.name.as_str().len()).sum();
    let room = state.rooms[room].name.as_str();
    req.reply(Reply::Who { room, count: people.len() });
    let people = Listing::new(people, text_size, &req.caches.meter);
    start(state, req, Content::People(people));
}

/// Sends the bans of a room or of the server, with their author, expiry and reason.
pub(super) fn send_bans(state: &mut State, req: &mut Request<'_>, scope: Scope, bans: Vec<Ban>) {
    req.reply(Moderation::Bans { room: state.room_of(scope), count: bans.len() });
    let room = match scope {
        Scope::Room(room) => Some(state.rooms[room].name.clone()),
        Scope::Server => None,
    };
    let text_size = bans.iter().map(|ban| ban.reason.as_ref().map_or(0, |it| it.len())).sum();
    let bans = Listing::new(bans, text_size, &req.caches.meter);
    start(state, req, Content::Bans { room, bans });
}

/// Sends messages of the log; the header follows when they have been read.
pub(super) fn send_messages(
    state: &mut State,
    req: &mut Request<'_>,
    list: MessageList,
    request: ReadRequest,
) {
    let (cid, content) = (req.cid.take(), Content::Messages(list));
    let reply = LongReply { cid, content, sent: 0, is_reading: true };
    wait(state, req, Box::new(reply));
    req.read(request);
}

/// Sends the mail that was read, then the rest of it, after a login. Messages that arrive later
/// are sent live.
pub(super) fn send_mail(
    state: &mut State,
    req: &mut Request<'_>,
    reader: UserId,
    rows: &ReadResult,
) -> Result {
    let last = state.mail.last(reader).unwrap_or_default();
    let (cid, content) = (req.cid.take(), Content::Mail { reader, sent: 0, last });
    let reply = LongReply { cid, content, sent: 0, is_reading: true };
    send_read_page(state, req, Box::new(reply), rows)
}

fn start(state: &mut State, req: &mut Request<'_>, content: Content) {
    let reply = LongReply { cid: req.cid.take(), content, sent: 0, is_reading: false };
    send_page(state, req, Box::new(reply));
}

fn wait(state: &mut State, req: &Request<'_>, reply: Box<LongReply>) {
    state.connections.wait_for(req.connection, PendingRequest::Reply(reply));
}

/// Waits until the client has read most of the page; or ends the reply if it was the last one.
fn end_page(state: &mut State, req: &mut Request<'_>, mut reply: Box<LongReply>, is_last: bool) {
    if is_last {
        return catch_up::begin_after_reply(state, req);
    }
    (reply.cid, reply.is_reading) = (req.cid.take(), false);
    wait(state, req, reply);
    req.notify_when_drained();
}

/// Sends the next page of a reply to a client that has read most of the last one. Returns
/// whether a reply is in progress.
pub(in crate::server::hub) fn go_on(state: &mut State, req: &mut Request<'_>) -> bool {
    let mut is_reading = false;
    let reply = state.connections.take_pending(req.connection, |request| match request {
        PendingRequest::Reply(reply) if !reply.is_reading => Ok(reply),
        other => {
            is_reading = matches!(other, PendingRequest::Reply(_));
            Err(other)
        }
    });
    if let Some(reply) = reply {
        send_page(state, req, reply);
        return true;
    }
    is_reading
}

/// Sends a page of a list, or requests a page of messages.
fn send_page(state: &mut State, req: &mut Request<'_>, mut reply: Box<LongReply>) {
    if let Some(request) = next_read(state, req, &reply) {
        reply.is_reading = true;
        wait(state, req, reply);
        req.read(request);
        return;
    }
    req.cid = reply.cid.take();
    let end = req.turn.unicast_bytes() + req.page_size();
    let may_read = may_read_bans(state, req, &reply.content);
    let count = match &reply.content {
        Content::Rooms(rooms) => rooms.items.len(),
        Content::Members { lines, .. } => lines.items.len(),
        Content::People(people) => people.items.len(),
        Content::Bans { bans, .. } => bans.items.len(),
        Content::Messages(_) | Content::Mail { .. } => 0,
    };
    while reply.sent < count && req.turn.unicast_bytes() < end {
        send_row(state, req, &reply, may_read);
        reply.sent += 1;
    }
    let is_last = reply.sent >= count;
    end_page(state, req, reply, is_last);
}

/// The read for the next page of messages.
fn next_read(state: &State, req: &Request<'_>, reply: &LongReply) -> Option<ReadRequest> {
    let (reader, ids, hidden) = match &reply.content {
        Content::Messages(MessageList { reader, rows, .. }) => {
            let left = rows.as_ref()?.items.iter().skip(reply.sent);
            (*reader, left.map(|(id, _)| *id).take(PAGE_ROWS).collect::<Vec<_>>(), Vec::new())
        }
        Content::Mail { reader, sent, last } => {
            let left = state.mail.range(*reader, sent + 1..=*last, PAGE_ROWS);
            (*reader, left, state.relations.ignored_ids(*reader))
        }
        Content::Rooms(_) | Content::Members { .. } | Content::People(_) | Content::Bans { .. } => {
            return None;
        }
    };
    let (count, size) = (ids.len(), req.page_size());
    let thread = Thread::Ids { reader, ids };
    Some(ReadRequest { after: Some(0), hidden, ..ReadRequest::latest(thread, count, size) })
}

fn may_read_bans(state: &State, req: &Request<'_>, content: &Content) -> bool {
    let Some(user) = state.connections[req.connection].user() else { return false };
    let scope = match content {
        Content::Bans { room: Some(room), .. } => state.rooms.named(room.key()).map(Scope::Room),
        Content::Bans { room: None, .. } => Some(Scope::Server),
        _ => return true,
    };
    scope.is_some_and(|scope| require_rights(state, user, scope).is_ok())
}

/// Sends the next row of a list.
fn send_row(state: &State, req: &mut Request<'_>, reply: &LongReply, may_read: bool) {
    match &reply.content {
        Content::Rooms(rooms) => {
            let name = &rooms.items[reply.sent];
            // The room may have ended since the snapshot.
            let room = state.rooms.named(name.key());
            let count = room.map_or(0, |room| state.memberships.count(room));
            let room = room.map(|room| &state.rooms[room]);
            let name = room.map_or(name, |room| &room.name);
            let topic = room.and_then(|room| room.topic.as_deref()).unwrap_or_default();
            req.reply(Reply::Room { room: name.as_str(), count, topic });
        }
        Content::Members { room, count, lines } => {
            let names = Some(List(&lines.items[reply.sent]));
            req.reply(Reply::Users { room: room.as_str(), count: *count, names });
        }
        Content::People(people) => {
            let Attendee { name, is_operator, is_away, idle, since } = &people.items[reply.sent];
            req.reply(Reply::Person(reply::Person {
                name: name.as_str(),
                is_operator: *is_operator,
                is_away: *is_away,
                idle_s: idle.as_secs(),
                since: *since,
            }));
        }
        Content::Bans { room, bans } => {
            let (ban, room) = (&bans.items[reply.sent], room.as_ref().map(RoomName::as_str));
            let (whom, by, term) = (ban.whom.label(), ban.by.as_str(), ban.term());
            req.reply(if may_read {
                Moderation::Ban { room, whom: &whom, by, term }
            } else {
                Moderation::HiddenBan { room }
            });
        }
        Content::Messages(_) | Content::Mail { .. } => {}
    }
}

/// Refuses a request whose messages could not be read: an empty result would hide messages that
/// exist.
pub(super) fn require_readable(rows: &ReadResult) -> Result {
    if rows.has_failed {
        let text = "the server cannot read its storage; try again later";
        return refusal(ErrorReason::CannotRead, text);
    }
    Ok(())
}

/// Sends the messages that were read for a reply.
pub(super) fn send_read_page(
    state: &mut State,
    req: &mut Request<'_>,
    mut reply: Box<LongReply>,
    rows: &ReadResult,
) -> Result {
    let Some(user) = state.connections[req.connection].user() else { return Ok(()) };
    req.cid = reply.cid.take();
    let (sent, is_last) = match &mut reply.content {
        Content::Messages(list) => {
            if list.rows.is_none() {
                begin_messages(state, req, user, list, rows)?;
            }
            send_rows(state, req, user, list, reply.sent, rows)
        }
        // The rest waits for the next login.
        Content::Mail { .. } if rows.has_failed => (0, true),
        Content::Mail { reader, sent, last } => {
            *sent = rows.upto;
            (0, send_mail_page(state, req, (user, *reader), *last, rows))
        }
        _ => (0, true),
    };
    reply.sent += sent;
    end_page(state, req, reply, is_last);
    Ok(())
}

/// Sends the mail that was read, to be confirmed up to there. Returns whether it was the last
/// page; `last` is the last message of all pages.
fn send_mail_page(
    state: &mut State,
    req: &mut Request<'_>,
    (user, reader): (UserIx, UserId),
    last: u64,
    rows: &ReadResult,
) -> bool {
    for record in &rows.records {
        let message = record.seen_by(reader);
        req.reply_tagged(&record.tags(), &Event::Row { time: record.time, message });
    }
    // `/reply` answers the last author.
    if let Some(record) = rows.records.last() {
        state.users.set_reply_target(user, record.author);
    }
    let is_last = state.mail.range(reader, rows.upto + 1..=last, 1).is_empty();
    if is_last {
        state.mail.note_all_sent(reader);
    } else {
        state.mail.note_page(reader, rows.upto, last);
    }
    // Messages that were sent live between the pages are confirmed with the last page.
    let is_live = state.connections[req.connection].live_socket().is_some();
    let page = SentMail { to: reader, last: rows.upto };
    req.expect_receipt(if is_last && is_live { state.mail.sent(reader) } else { Some(page) });
    is_last
}

/// Sends the header of a `/history` or `/search`, if the user may still read the messages: the
/// user may have left or been banned while the log was read.
fn begin_messages(
    state: &State,
    req: &mut Request<'_>,
    user: UserIx,
    list: &mut MessageList,
    found: &ReadResult,
) -> Result {
    require_readable(found)?;
    let mut rows = found.rows.clone();
    if let Some(room) = &list.room {
        room_of(state, user, room.as_str())?;
    } else {
        let hidden = found.records.iter().filter(|record| !may_read(state, user, record));
        let hidden: Vec<u64> = hidden.map(|record| record.id).collect();
        rows.retain(|(id, _)| hidden.binary_search(id).is_err());
    }
    let count = rows.len();
    list.rows = Some(Listing::new(rows, 0, &req.caches.meter));
    req.reply(match (&list.title, &list.room) {
        (None, _) => Reply::Search { count },
        (Some(title), Some(_)) => Reply::History { thread: reply::Thread::Room(title), count },
        (Some(title), None) => Reply::History { thread: reply::Thread::Person(title), count },
    });
    Ok(())
}

fn may_read(state: &State, user: UserIx, record: &Record) -> bool {
    match &record.to {
        Recipient::Room(name) => room_in(state, user, name.key()).is_some(),
        Recipient::Person(..) => true,
    }
}

/// Sends those rows that were read. Returns their number, and whether they are the last ones.
fn send_rows(
    state: &State,
    req: &mut Request<'_>,
    user: UserIx,
    list: &MessageList,
    from: usize,
    found: &ReadResult,
) -> (usize, bool) {
    let rows = list.rows.as_ref().map_or(&[][..], |rows| &rows.items[from..]);
    let has_left =
        list.room.as_ref().is_some_and(|room| room_in(state, user, room.key()).is_none());
    let may_show = |record: &&Arc<Record>| match list.room {
        Some(_) => !has_left,
        None => may_read(state, user, record),
    };
    let mut sent = 0;
    for (id, time) in rows {
        if sent > 0 && *id > found.upto && !has_left && !found.has_failed {
            return (sent, false);
        }
        let at = found.records.binary_search_by_key(id, |record| record.id);
        let record = at.ok().map(|at| &found.records[at]);
        match record.filter(may_show) {
            Some(record) => {
                let message = record.seen_by(list.reader);
                req.reply_tagged(&record.tags(), &Event::Row { time: *time, message });
            }
            None => send_note(req, list, (*id, *time), found.has_failed),
        }
        sent += 1;
    }
    (sent, true)
}

/// Sends a row in place of a message that cannot be shown.
fn send_note(
    req: &mut Request<'_>,
    list: &MessageList,
    (id, time): (u64, Stamp),
    has_failed: bool,
) {
    let place = list.room.as_ref().map_or(Place::ToMe, |room| Place::Room(room.as_str()));
    let text = if has_failed {
        "(the server cannot read this message now)"
    } else {
        "(this message is no longer available)"
    };
    let message = Message { place, from: SERVER_NAME, is_action: false, text };
    let tags = Tags { id: Some(id), time: Some(time), ..Tags::default() };
    req.reply_tagged(&tags, &Event::Row { time, message });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::protocol::codec::Frame;
    use crate::server::hub::context::PAGE_SIZE;
    use crate::server::hub::test_support::{Driver, conn, connect, handle, hub, say};
    use crate::server::hub::{Flow, Input, Limits};
    use crate::server::store::memory::MemoryLog;

    /// A hub with `users` users, the first of whom is in `rooms` rooms with long topics.
    fn hub_with(users: u32, rooms: usize) -> Driver {
        let limits = Limits { rooms_per_person: rooms + 2, ..Limits::default() };
        let mut hub = hub(limits);
        for slot in 0..users {
            connect(&mut hub, slot);
            say(&mut hub, slot, &format!("p{slot}"));
        }
        for room in 1..rooms {
            say(&mut hub, 0, &format!("/join r{room:04}"));
            say(&mut hub, 0, &format!("/topic {}", "t".repeat(4000)));
        }
        hub
    }

    /// Handles a line; the work that it requests is performed by [`next_page`].
    fn ask(hub: &mut Driver, slot: u32, line: &str) -> String {
        hub.input(conn(slot), Input::Frame(Frame::Line(line.into())));
        sent_to(hub, slot)
    }

    fn sent_to(hub: &mut Driver, slot: u32) -> String {
        let mut text = String::new();
        hub.flush(|to, bytes| {
            if to.slot == slot {
                text.push_str(std::str::from_utf8(bytes).expect("UTF-8"));
            }
        });
        text
    }

    /// Performs work until something is sent; returns it, or nothing at the end of the reply.
    fn next_page(hub: &mut Driver, slot: u32) -> String {
        let mut text = String::new();
        while text.is_empty() && hub.work_count() > 0 {
            hub.perform(0);
            text = sent_to(hub, slot);
        }
        text
    }

    /// Returns the rest of a reply, page by page.
    fn rest(hub: &mut Driver, slot: u32) -> Vec<String> {
        let next = || Some(next_page(hub, slot)).filter(|page| !page.is_empty());
        std::iter::from_fn(next).collect()
    }

    fn lines(pages: &[String]) -> Vec<&str> {
        pages.iter().flat_map(|page| page.lines()).collect()
    }

    /// Two users in #ops, in which the first one has said this many numbered lines.
    fn hub_with_messages(count: usize) -> Driver {
        let mut hub = hub_with(2, 1);
        for slot in 0..2 {
            say(&mut hub, slot, "/join ops");
        }
        for number in 1..=count {
            say(&mut hub, 0, &format!("{number} {}", "x".repeat(1000)));
        }
        hub
    }

    /// The number that begins a row, or `None` for a row in place of a message.
    fn number_of(row: &str) -> Option<usize> {
        let note = "#ops server: (this message is no longer available)";
        let (_, message) = row.split_once(' ').expect("a time");
        if message == note {
            return None;
        }
        let text = message.strip_prefix("#ops p0: ").expect(row);
        Some(text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number"))
    }

    #[test]
    fn history_is_sent_in_pages() {
        let mut hub = hub_with_messages(420);
        say(&mut hub, 1, "/set tags on");
        let mut pages = vec![ask(&mut hub, 1, "@cid=h1 /history 400")];
        assert_eq!(pages[0], "", "the log is read first");
        pages.extend(rest(&mut hub, 1));
        assert!(pages.iter().all(|page| page.len() <= PAGE_SIZE + 5000));
        assert!(pages.len() > 5, "{} pages", pages.len());
        let lines = lines(&pages);
        assert_eq!(lines[0], "@cid=h1 [HISTORY #ops 400]");
        let numbers = lines[1..].iter().map(|line| {
            let (tags, row) = line.split_once(' ').expect("tags");
            assert!(tags.starts_with("@id=") && tags.ends_with(";cid=h1"), "{tags}");
            number_of(row).expect("a message")
        });
        assert!(numbers.eq(21..=420));
        assert!(ask(&mut hub, 1, "/ping").starts_with("[PONG]"), "the reply is complete");
    }

    #[test]
    fn history_after_an_id_is_sent_in_pages() {
        let mut hub = hub_with_messages(200);
        ask(&mut hub, 1, "/history 150 after 10");
        let pages = rest(&mut hub, 1);
        let lines = lines(&pages);
        assert_eq!((lines[0], pages.len() > 2), ("[HISTORY #ops 150]", true));
        let numbers = lines[1..].iter().map(|row| number_of(row).expect("a message"));
        assert!(numbers.eq(11..=160));
    }

    #[test]
    fn short_history_is_one_page() {
        let mut hub = hub_with_messages(30);
        ask(&mut hub, 1, "/history");
        assert_eq!(hub.work_count(), 1);
        let page = next_page(&mut hub, 1);
        assert_eq!((page.lines().count(), hub.work_count()), (21, 0));
    }

    #[test]
    fn next_lines_wait_for_the_end_of_a_reply() {
        let mut hub = hub_with_messages(200);
        hub.send(conn(1), b"/history 200\n/ping\n");
        let pages = rest(&mut hub, 1);
        assert_eq!(lines(&pages).last(), Some(&"[PONG]"));
        assert_eq!(lines(&pages).len(), 202);
    }

    #[test]
    fn deleted_messages_are_replaced() {
        let mut hub = hub_with_messages(300);
        ask(&mut hub, 1, "/history 300");
        let mut pages = vec![next_page(&mut hub, 1)];
        let sent = pages[0].lines().count() - 1;
        let evicted = crate::server::hub::test_support::message(10_000, "lobby", None, "x");
        // The log in memory keeps a thousand messages.
        hub.log.push((0..900).map(|number| {
            let record = Record { id: 10_000 + number, ..(*evicted).clone() };
            Arc::new(record)
        }));
        pages.extend(rest(&mut hub, 1));
        let lines = lines(&pages);
        assert_eq!((lines[0], lines.len()), ("[HISTORY #ops 300]", 301));
        let numbers: Vec<Option<usize>> = lines[1..].iter().map(|row| number_of(row)).collect();
        assert!(numbers[..sent].iter().all(Option::is_some));
        let kept = numbers.iter().rposition(Option::is_none).expect("deleted messages") + 1;
        assert_eq!(kept, 200);
        assert!(numbers[sent..kept].iter().all(Option::is_none));
        assert!(numbers[kept..].iter().copied().flatten().eq(201..=300));
    }

    #[test]
    fn messages_are_replaced_when_the_permission_is_lost() {
        for line in ["/history 300", "/history 300 #ops"] {
            let mut hub = hub_with_messages(300);
            ask(&mut hub, 1, line);
            let mut pages = vec![next_page(&mut hub, 1)];
            let sent = pages[0].lines().count() - 1;
            ask(&mut hub, 0, "/kick p1");
            pages.extend(rest(&mut hub, 1));
            let lines = lines(&pages);
            assert_eq!((lines[0], lines.len()), ("[HISTORY #ops 300]", 301));
            let numbers: Vec<Option<usize>> = lines[1..].iter().map(|row| number_of(row)).collect();
            assert!(numbers[..sent].iter().copied().flatten().eq(1..=sent));
            assert!(numbers[sent..].iter().all(Option::is_none));
        }
    }

    #[test]
    fn messages_that_cannot_be_read_are_replaced() {
        let mut hub = hub_with_messages(200);
        ask(&mut hub, 1, "/history 200");
        let first = next_page(&mut hub, 1);
        let (flow, reply) = handle(&mut hub, 1, Input::Drained);
        assert_eq!((flow, reply.reads), (Flow::Wait, 1));
        let (flow, reply) = handle(&mut hub, 1, Input::Rows(ReadResult::failed()));
        assert_eq!(flow, Flow::Next);
        assert_eq!(first.lines().count() + reply.text.lines().count(), 201);
        let note = "#ops server: (the server cannot read this message now)";
        assert!(reply.text.lines().all(|row| row.ends_with(note)));
    }

    #[test]
    fn matches_of_a_left_room_are_replaced() {
        let mut hub = hub_with(2, 1);
        for slot in 0..2 {
            say(&mut hub, slot, "/join ops");
            say(&mut hub, slot, "/join dev");
        }
        for number in 0..50 {
            let room = ["ops", "dev"][number % 2];
            say(&mut hub, 0, &format!("/msg #{room} needle {}", "x".repeat(3900)));
        }
        ask(&mut hub, 1, "/search needle");
        let mut pages = vec![next_page(&mut hub, 1)];
        ask(&mut hub, 1, "/ping");
        let sent = pages[0].lines().count() - 1;
        hub.input(conn(1), Input::Drained);
        let user = hub.state.users.named("p1").expect("here");
        let room = hub.state.rooms.named(&crate::protocol::Key::fold("ops")).expect("a room");
        hub.state.leave_room(user, room);
        pages.extend(rest(&mut hub, 1));
        let lines: Vec<&str> =
            lines(&pages).into_iter().filter(|line| !line.contains("PONG")).collect();
        assert_eq!((lines[0], lines.len()), ("[SEARCH 50]", 51));
        for (at, row) in lines[1..].iter().enumerate() {
            let is_gone = at >= sent && at % 2 == 0;
            let note = "[PRIVATE MESSAGE] server: (this message is no longer available)";
            assert_eq!(row.ends_with(note), is_gone, "{at}: {}", &row[..60]);
        }
    }

    /// A hub with p0, who is logged in, and mail of this number for the account alice. The first
    /// page of her login at connection 2 is returned.
    fn hub_with_mail(count: usize) -> (Driver, UserId, String) {
        use crate::server::auth::passwords::Outcome;
        let mut hub = hub_with(1, 1);
        hub.run_job = |_, _| Outcome::Checked(true);
        hub.storing = crate::server::hub::test_support::Storing::Everything;
        (1..6).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 1, "alice");
        crate::server::hub::test_support::register(&mut hub, 1);
        let alice = hub.state.users[hub.state.users.named("alice").expect("here")].id;
        say(&mut hub, 1, "/quit");
        for number in 1..=count {
            say(&mut hub, 0, &format!("/msg alice {number} {}", "x".repeat(2000)));
        }
        let first = log_in(&mut hub, 2);
        (hub, alice, first)
    }

    fn log_in(hub: &mut Driver, slot: u32) -> String {
        ask(hub, slot, "/login alice secret");
        next_page(hub, slot)
    }

    /// The numbers of the messages from p0.
    fn numbers(pages: &[String]) -> Vec<usize> {
        let texts = lines(pages).into_iter().filter_map(|line| line.split_once(" p0: "));
        texts.filter_map(|(_, text)| text.split(' ').next()?.parse().ok()).collect()
    }

    #[test]
    fn mail_is_sent_in_pages() {
        let (mut hub, alice, first) = hub_with_mail(100);
        let mut pages = vec![first];
        let sent = numbers(&pages).len();
        assert!(sent < 100 && pages[0].len() <= PAGE_SIZE + 5000, "{sent}");
        hub.send(conn(0), b"/msg alice 101\n");
        assert_eq!(hub.state.mail.len(alice), 101);
        pages.push(sent_to(&mut hub, 2));
        pages.extend(rest(&mut hub, 2));
        let mut all = numbers(&pages);
        assert_eq!(all.remove(sent), 101, "the live message is sent once, between the pages");
        assert!(all.into_iter().eq(1..=100));
        assert_eq!(hub.state.mail.len(alice), 101, "nothing is confirmed yet");
        ask(&mut hub, 2, "/ping");
        assert_eq!(hub.state.mail.len(alice), 0);
    }

    #[test]
    fn live_message_does_not_confirm_mail_of_later_pages() {
        let (mut hub, alice, first) = hub_with_mail(100);
        let sent = numbers(&[first]).len();
        say(&mut hub, 0, "/msg alice 101");
        let receipt = hub.state.mail.sent(alice).expect("mail");
        hub.confirm_mail(receipt);
        assert_eq!(hub.state.mail.len(alice), 101 - sent);
        handle(&mut hub, 2, Input::Disconnected);
        let mut pages = vec![log_in(&mut hub, 3)];
        pages.extend(rest(&mut hub, 3));
        assert!(numbers(&pages).into_iter().eq(sent + 1..=101));
        ask(&mut hub, 3, "/ping");
        assert_eq!(hub.state.mail.len(alice), 0);
    }

    #[test]
    fn mail_that_cannot_be_read_waits_for_the_next_login() {
        let (mut hub, alice, first) = hub_with_mail(100);
        let sent = numbers(&[first]).len();
        handle(&mut hub, 2, Input::Drained);
        let (flow, _) = handle(&mut hub, 2, Input::Rows(ReadResult::failed()));
        assert_eq!(flow, Flow::Next);
        for number in 101..=103 {
            say(&mut hub, 0, &format!("/msg alice {number}"));
            say(&mut hub, 2, "/ping");
        }
        assert_eq!(hub.state.mail.len(alice), 103 - sent);
        say(&mut hub, 2, "/quit");
        let mut pages = vec![log_in(&mut hub, 3)];
        pages.extend(rest(&mut hub, 3));
        assert!(numbers(&pages).into_iter().eq(sent + 1..=103));
        ask(&mut hub, 3, "/ping");
        assert_eq!(hub.state.mail.len(alice), 0);
    }

    #[test]
    fn resumed_session_is_sent_mail_that_could_not_be_read() {
        use crate::server::hub::test_support::{restarted, session};
        for restarts in [false, true] {
            let (mut hub, alice, first) = hub_with_mail(100);
            let sent = numbers(&[first]).len();
            handle(&mut hub, 2, Input::Drained);
            handle(&mut hub, 2, Input::Rows(ReadResult::failed()));
            let token = session(&mut hub, 2);
            say(&mut hub, 0, "/msg alice 101");
            let cursor = hub.last_ids().message;
            handle(&mut hub, 2, Input::Disconnected);
            if restarts {
                let log = std::mem::replace(&mut hub.log, MemoryLog::new(1, 1));
                hub = restarted(&mut hub);
                hub.log = log;
                (0..6).for_each(|slot| connect(&mut hub, slot));
            }
            let resume = format!("/resume {token} {cursor}");
            let mut pages = vec![ask(&mut hub, 3, &resume)];
            // The connection breaks while the mail is sent.
            pages.push(next_page(&mut hub, 3));
            ask(&mut hub, 3, "/ping");
            handle(&mut hub, 3, Input::Disconnected);
            let mut pages = vec![ask(&mut hub, 4, &resume)];
            pages.extend(rest(&mut hub, 4));
            let numbers = numbers(&pages);
            assert!(numbers.iter().copied().eq(sent + 1..=101), "{sent}: {numbers:?}");
            ask(&mut hub, 4, "/ping");
            assert_eq!(hub.state.mail.len(alice), 0);
            hub.check_invariants();
        }
    }

    #[test]
    fn room_list_is_sent_in_pages() {
        let mut hub = hub_with(2, 101);
        let (mut flow, mut reply) = say(&mut hub, 0, "/list");
        let (mut lines, mut pages) = (reply.text, 1);
        while reply.waits_to_be_read {
            assert_eq!(flow, Flow::Wait);
            assert!(lines.len() <= pages * (PAGE_SIZE + 5000), "{} bytes", lines.len());
            if pages == 2 {
                // Rooms end and others are created.
                say(&mut hub, 1, "/join new");
            }
            (flow, reply) = handle(&mut hub, 0, Input::Drained);
            lines.push_str(&reply.text);
            pages += 1;
        }
        assert_eq!((flow, pages), (Flow::Next, 6));
        let names: Vec<&str> =
            lines.lines().filter_map(|line| line.strip_prefix("[ROOM #")?.get(..5)).collect();
        assert!(lines.starts_with("[ROOMS 101]\n"), "{}", &lines[..20]);
        assert_eq!(names.len(), 101);
        assert!(names.is_sorted());
    }

    #[test]
    fn room_list_is_shared_and_accounted_for() {
        let mut hub = hub_with(2, 101);
        let before = hub.meter().held();
        say(&mut hub, 0, "/list");
        let held = hub.meter().held() - before;
        assert!(held > 101 * size_of::<RoomName>(), "{held}");
        let (_, reply) = say(&mut hub, 1, "/list");
        assert!(reply.text.starts_with("[ROOMS 101]\n"), "the snapshot is shared");
        assert_eq!(hub.meter().held() - before, held);
        say(&mut hub, 1, "/join new");
        for reader in [0, 1] {
            while handle(&mut hub, reader, Input::Drained).1.waits_to_be_read {}
        }
        hub.run_timers();
        assert_eq!(hub.meter().held(), before, "the old snapshot is released");
    }

    #[test]
    fn catch_up_waits_for_the_end_of_a_reply() {
        let mut hub = hub_with(2, 101);
        say(&mut hub, 0, "/list");
        handle(&mut hub, 0, Input::OverLimit);
        for _ in 0..5000 {
            say(&mut hub, 1, "more than is in memory");
        }
        let mut rows = 0;
        let reads = loop {
            let (flow, reply) = handle(&mut hub, 0, Input::Drained);
            assert_eq!(flow, Flow::Wait);
            if reply.reads > 0 {
                break reply.reads;
            }
            assert!(reply.waits_to_be_read, "the catch-up follows");
            rows += reply.text.lines().count();
        };
        assert!(rows > 80 && reads == 1, "{rows} rows, {reads} reads");
        let (_, reply) = handle(&mut hub, 0, Input::Drained);
        assert_eq!((reply.waits_to_be_read, reply.reads), (false, 0), "the page is being read");
        let page = ReadResult { upto: 300, ..ReadResult::default() };
        assert!(handle(&mut hub, 0, Input::Rows(page)).1.waits_to_be_read);
        assert_eq!(handle(&mut hub, 0, Input::Drained).1.reads, 1);
        // The same behind a reply that is refused.
        say(&mut hub, 1, "/history");
        handle(&mut hub, 1, Input::OverLimit);
        assert!(!handle(&mut hub, 1, Input::Drained).1.waits_to_be_read);
        let (_, reply) = handle(&mut hub, 1, Input::Rows(ReadResult::failed()));
        assert!(reply.text.starts_with("[ERROR storage-full]") && reply.waits_to_be_read);
        assert_eq!(handle(&mut hub, 1, Input::Drained).0, Flow::Next);
    }

    #[test]
    fn reply_begins_anew_after_a_takeover() {
        use crate::server::hub::Persisted;
        use crate::server::hub::test_support::Storing;
        let mut hub = hub(Limits { rooms_per_person: 100, ..Limits::default() });
        hub.set_persisted(Persisted::Everyone);
        hub.storing = Storing::Everything;
        connect(&mut hub, 0);
        ask(&mut hub, 0, "alice");
        for room in 1..40 {
            ask(&mut hub, 0, &format!("/join r{room:04}"));
            ask(&mut hub, 0, &format!("/topic {}", "t".repeat(4000)));
        }
        hub.settle();
        sent_to(&mut hub, 0);
        assert!(ask(&mut hub, 0, "/list").lines().count() < 30);
        hub.take_over();
        let mut pages = vec![sent_to(&mut hub, 0)];
        pages.extend(rest(&mut hub, 0));
        assert_eq!((lines(&pages)[0], lines(&pages).len()), ("[ROOMS 40]", 41));
    }

    #[test]
    fn members_of_large_room_are_a_snapshot() {
        let mut hub = hub(Limits { quiet_above: 2, ..Limits::default() });
        let name = |slot: u32| format!("p{slot:031}");
        let users = 2500;
        for slot in 0..users {
            connect(&mut hub, slot);
            say(&mut hub, slot, &name(slot));
        }
        let mut pages = vec![ask(&mut hub, 0, "/who")];
        assert!(pages[0].len() <= PAGE_SIZE + 5000);
        say(&mut hub, users - 1, "/quit");
        say(&mut hub, users - 2, "/nick aaron");
        connect(&mut hub, users);
        say(&mut hub, users, "zed");
        while let (flow, reply) = handle(&mut hub, 0, Input::Drained)
            && !reply.text.is_empty()
        {
            assert_eq!(reply.waits_to_be_read, flow == Flow::Wait);
            pages.push(reply.text);
        }
        assert!(pages.len() > 1);
        let names = lines(&pages).into_iter().flat_map(|line| {
            let names = line.strip_prefix("[USERS #lobby 2500] ").expect(line);
            names.split(',').map(str::to_owned)
        });
        assert_eq!(names.collect::<BTreeSet<_>>(), (0..users).map(name).collect());
    }

    /// A hub whose first user is an operator of #r0001 with many bans.
    fn hub_with_bans() -> Driver {
        let mut hub = hub_with(2, 2);
        say(&mut hub, 1, "/join r0001");
        say(&mut hub, 0, "/op p1");
        for number in 0..100 {
            say(&mut hub, 0, &format!("/ban 192.0.2.{number} 1h {}", "界".repeat(200)));
        }
        hub
    }

    #[test]
    fn bans_are_sent_in_pages() {
        let mut hub = hub_with_bans();
        let (_, first) = say(&mut hub, 1, "/bans");
        let (flow, last) = handle(&mut hub, 1, Input::Drained);
        assert_eq!((flow, last.waits_to_be_read), (Flow::Next, false));
        let all = first.text + &last.text;
        assert!(all.starts_with("[BANS #r0001 100]\n"), "{}", &all[..40]);
        assert_eq!(all.lines().filter(|line| line.starts_with("[BAN #r0001 192.")).count(), 100);
    }

    #[test]
    fn bans_are_hidden_from_a_former_operator() {
        for ends in [false, true] {
            let mut hub = hub_with_bans();
            let (_, first) = say(&mut hub, 1, "/bans");
            say(&mut hub, 0, "/deop p1");
            if ends {
                say(&mut hub, 0, "/part");
                let p1 = hub.state.users.named("p1").expect("here");
                let room = hub.state.rooms.named(&crate::protocol::Key::fold("r0001"));
                let connection = hub.state.users[p1].connection;
                hub.state.connections.set_current(connection, None);
                hub.state.leave_room(p1, room.expect("a room"));
            }
            let (flow, rest) = handle(&mut hub, 1, Input::Drained);
            assert_eq!(flow, Flow::Next);
            let note = "[BAN #r0001 *] not shown: you are no longer an operator";
            assert!(rest.text.lines().all(|line| line == note), "{}", rest.text);
            assert_eq!(first.text.lines().count() + rest.text.lines().count(), 101);
        }
    }
}
