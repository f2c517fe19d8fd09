//! Messages: posting to rooms and users, `/msg`, `/reply`, `/query`. A line that repeats a cid is
//! answered with the first message again (deduplication).

use std::sync::Arc;

use super::rights::{require_not_muted, room_of};
use super::{
    ErrorReason, Event, Key, Name, Query, Record, Reply, Request, Result, RoomIx, RoomName, State,
    Topic, UserId, UserIx, no_such_user, refusal, reply,
};
use crate::commands::MessageTarget;
use crate::protocol::Place;
use crate::server::hub::delivery::{audiences, deliver};
use crate::server::record::Recipient;

/// The author of a message, by the name shown with it.
pub(super) struct Author {
    pub(super) id: UserId,
    pub(super) name: Name,
}

impl Author {
    fn of(state: &State, user: UserIx) -> Self {
        let user = &state.users[user];
        Self { id: user.id, name: user.name.clone() }
    }
}

/// Posts a line of text or `/me` to the queried user, else to the current room. With
/// neither it is refused: a message only goes where its sender has chosen.
pub(super) fn post(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    text: &str,
    is_action: bool,
) -> Result {
    if repeat(state, req, state.users[user].id) {
        return Ok(());
    }
    let connection = &state.connections[req.connection];
    match (connection.query, connection.current) {
        (Query::On(other), _) if let Some(to) = state.users.find(other) => {
            post_private(state, req, user, to, text, is_action)
        }
        (Query::On(_) | Query::Gone, _) => refusal(
            ErrorReason::NoTarget,
            "not sent: that user has left; use /query NAME or /join ROOM",
        ),
        (Query::Off, Some(room)) => post_to_room(state, req, user, room, text, is_action),
        (Query::Off, None) => {
            refusal(ErrorReason::NoTarget, "not sent: you are in no room; /join one to talk")
        }
    }
}

/// `/msg`.
pub(super) fn message(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    to: MessageTarget<'_>,
    text: &str,
) -> Result {
    if repeat(state, req, state.users[user].id) {
        return Ok(());
    }
    let name = match to {
        MessageTarget::Room(name) => {
            let room = room_of(state, user, name)?;
            return post_to_room(state, req, user, room, text, false);
        }
        MessageTarget::Person(name) => name,
    };
    if let Some(to) = state.users.named(name) {
        return post_private(state, req, user, to, text, false);
    }
    if let Some(owner) = state.accounts.named(&Key::fold(name)).map(|account| account.person) {
        return send_to_account(state, req, user, owner, text);
    }
    if room_of(state, user, name).is_ok() {
        let text = format!("not sent: no user is called {name}; for the room, /msg #{name} TEXT");
        return refusal(ErrorReason::NoSuchUser, text);
    }
    no_such_user(name)
}

/// `/reply`.
pub(super) fn reply(state: &mut State, req: &mut Request<'_>, user: UserIx, text: &str) -> Result {
    if repeat(state, req, state.users[user].id) {
        return Ok(());
    }
    let Some(target) = state.users[user].reply_target else {
        let text = "not sent: no private message to reply to; use /msg NAME TEXT";
        return refusal(ErrorReason::NoTarget, text);
    };
    if state.can_return(target) {
        return send_to_account(state, req, user, target, text);
    }
    refusal(ErrorReason::NoTarget, "not sent: that user has left; use /msg NAME TEXT")
}

/// `/query`.
pub(super) fn query(state: &mut State, req: &mut Request<'_>, name: Option<&str>) -> Result {
    let Some(name) = name else {
        state.set_query(req.connection, Query::Off);
        let room = state.connections[req.connection].current;
        let room = room.map(|room| state.rooms[room].name.as_str());
        req.reply(Reply::Query(reply::Query::Off(room)));
        return Ok(());
    };
    let Some(other) = state.users.named(name) else { return no_such_user(name) };
    state.set_query(req.connection, Query::On(state.users[other].id));
    req.reply(Reply::Query(reply::Query::On(state.users[other].name.as_str())));
    Ok(())
}

fn post_to_room(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    room: RoomIx,
    text: &str,
    is_action: bool,
) -> Result {
    require_not_muted(state, req.now, user, room)?;
    let to = Recipient::Room(state.rooms[room].name.clone());
    let record = append(state, req, Author::of(state, user), to, text, is_action);
    send_to_room(state, req, Some(room), &record);
    Ok(())
}

/// Posts a message of a program to a room, which need not exist.
pub(super) fn post_as_program(
    state: &mut State,
    req: &mut Request<'_>,
    author: Author,
    room: &RoomName,
    text: &str,
) {
    if repeat(state, req, author.id) {
        return;
    }
    let open = state.rooms.named(room.key());
    let name = open.map_or(room, |room| &state.rooms[room].name).clone();
    let record = append(state, req, author, Recipient::Room(name), text, false);
    send_to_room(state, req, open, &record);
}

/// Sends a message to the members of its room, except those who ignore its author, and echoes it.
fn send_to_room(state: &State, req: &mut Request<'_>, room: Option<RoomIx>, record: &Arc<Record>) {
    // The author gets a separate copy when it carries a cid, none when echo is off, and
    // else the same line as the room.
    let has_own_copy = req.cid.is_some() || !req.settings.echo;
    let mut except = if has_own_copy { vec![req.socket] } else { Vec::new() };
    for author in record.authors() {
        let ignoring = state.relations.of(author).ignored_by.iter();
        let ignoring = ignoring.filter_map(|by| state.users.find(*by));
        except.extend(ignoring.filter_map(|by| state.connection_of(by).socket));
    }
    let audience = room.map(|room| audiences::of_room(state, req.caches, room));
    // A member gets the line with the others; a program is no member.
    let is_program = state.connections[req.connection].user().is_none();
    req.with_message(record, |req| {
        let event = Event::Message(record.seen_by(record.author));
        let (socket, tags) = (req.socket, record.tags());
        if let Some(audience) = audience {
            req.turn.fan_out(audience, Topic::Talk, Some(socket), except, &tags, &event);
        }
        if req.cid.is_some() || (is_program && req.settings.echo) {
            req.reply_tagged(&tags, &event);
        }
    });
}

fn post_private(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    to: UserIx,
    text: &str,
    is_action: bool,
) -> Result {
    let (me, other) = (state.users[user].id, state.users[to].id);
    let is_live = state.connection_of(to).live_socket().is_some();
    if !is_live || state.mail.has_backlog(other) {
        require_mailbox_space(state, req, other)?;
    }
    let recipient = Recipient::Person(other, state.users[to].name.clone());
    let is_delivered = !state.relations.ignores(other, me);
    let record = append(state, req, Author::of(state, user), recipient, text, is_action);
    // The connection may be lost before the client has read the message.
    if is_delivered && state.accounts.has(other) {
        if is_live {
            state.mail.add_live(other, record.id, req.limits.mailbox);
        } else {
            state.mail.add(other, record.id);
        }
    }
    req.with_message(&record, |req| {
        echo(req, &record);
        if is_delivered {
            // A message to oneself: the recipient copy differs from the echo as well.
            let mut message = record.seen_by(me);
            message.place = Place::ToMe;
            deliver(state, req, to, &record.tags(), &Event::Message(message));
            if let Some(socket) = state.connection_of(to).live_socket()
                && let Some(mail) = state.mail.sent(other)
            {
                req.turn.expect_receipt(socket, mail);
            }
        }
        if let Some(away) = &state.users[to].away
            && wants_echo(req)
        {
            req.reply(Reply::IsAway { name: state.users[to].name.as_str(), text: away });
        }
    });
    if is_delivered {
        state.users.set_reply_target(to, me);
    }
    Ok(())
}

/// Sends a private message to a user by id, or stores it for an account that is not online. The
/// owner of an account may be online under another name.
fn send_to_account(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    user_id: UserId,
    text: &str,
) -> Result {
    if let Some(to) = state.users.find(user_id) {
        return post_private(state, req, user, to, text, false);
    }
    let Some(name) = state.accounts.of(user_id).map(|account| account.name.clone()) else {
        return Ok(());
    };
    require_mailbox_space(state, req, user_id)?;
    let is_delivered = !state.relations.ignores(user_id, state.users[user].id);
    let to = Recipient::Person(user_id, name.clone());
    let record = append(state, req, Author::of(state, user), to, text, false);
    if is_delivered {
        state.mail.add(user_id, record.id);
    }
    req.with_message(&record, |req| {
        echo(req, &record);
        if wants_echo(req) {
            req.reply(Reply::Offline { name: name.as_str() });
        }
    });
    Ok(())
}

/// Refuses a message to an account whose mailbox is full. Guests have none.
fn require_mailbox_space(state: &State, req: &Request<'_>, user_id: UserId) -> Result {
    match state.accounts.of(user_id) {
        Some(account) if state.mail.len(user_id) >= req.limits.mailbox => {
            let text = format!("not sent: the mailbox of {} is full", account.name);
            refusal(ErrorReason::TooMany, text)
        }
        _ => Ok(()),
    }
}

/// Sends the author their copy of a private message.
fn echo(req: &mut Request<'_>, record: &Record) {
    if wants_echo(req) {
        let event = Event::Message(record.seen_by(record.author));
        req.reply_tagged(&record.tags(), &event);
    }
}

/// Returns whether the author gets a copy: with echo off only of messages with a cid.
fn wants_echo(req: &Request<'_>) -> bool {
    req.settings.echo || req.cid.is_some()
}

/// Deduplicates by cid: if the author has used this cid before, the first message is
/// echoed again and nothing is posted.
fn repeat(state: &State, req: &mut Request<'_>, author: UserId) -> bool {
    let first = req.cid.as_ref().and_then(|cid| state.messages.cids.find(author, cid));
    let Some(record) = first else { return false };
    let (socket, dialect) = (req.socket, req.settings.dialect);
    req.turn.begin_duplicate(record.clone(), socket, dialect);
    echo(req, &record);
    req.turn.end_message();
    true
}

/// Assigns a message its id and remembers its cid. The caller must send it next: after a panic
/// in between, the cid would belong to a message that was never stored.
fn append(
    state: &mut State,
    req: &Request<'_>,
    Author { id: author, name: from }: Author,
    to: Recipient,
    text: &str,
    is_action: bool,
) -> Arc<Record> {
    let time = state.stamp(req.now);
    let (id, text, cid) = (0, text.into(), req.cid.clone());
    state.messages.append(Record { id, time, author, from, to, is_action, text, cid })
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};

    use super::*;
    use crate::protocol::codec::Frame;
    use crate::server::auth::passwords::Outcome;
    use crate::server::hub::state::index::LOBBY;
    use crate::server::hub::state::messages::recent::Lookup;
    use crate::server::hub::test_support::{
        Driver, Storing, conn, connect, handle, hub, register, restarted, say,
    };
    use crate::server::hub::{Flow, Input, Limits, Storage};
    use crate::server::store::{Collection, ReadResult};
    use crate::server::turn::Turn;

    #[test]
    fn mail_waits_while_the_log_cannot_be_read() {
        let mut hub = hub(Limits::default());
        (0..3).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        register(&mut hub, 0);
        let alice = hub.state.accounts.named(&Key::fold("alice")).expect("an account").person;
        say(&mut hub, 0, "/quit");
        say(&mut hub, 1, "bob");
        say(&mut hub, 1, "/msg alice come back");
        let log_in = |hub: &mut Driver, records: ReadResult| {
            say(hub, 2, "/login alice sesame");
            handle(hub, 2, Input::Hashed(Outcome::Checked(true)));
            handle(hub, 2, Input::Rows(records))
        };
        let (flow, reply) = log_in(&mut hub, ReadResult::failed());
        assert!(reply.text.starts_with("[ERROR storage-full] "), "{}", reply.text);
        assert_eq!(flow, Flow::Next);
        assert_eq!(hub.state.mail.len(alice), 1);
        let (_, reply) = log_in(&mut hub, ReadResult { upto: 1, ..ReadResult::default() });
        assert!(reply.text.starts_with("[WELCOME alice]"), "{}", reply.text);
        assert_eq!(hub.state.mail.len(alice), 1);
        say(&mut hub, 2, "/ping");
        assert_eq!(hub.state.mail.len(alice), 0);
        for line in ["/history", "/search back"] {
            say(&mut hub, 1, line);
            let (_, reply) = handle(&mut hub, 1, Input::Rows(ReadResult::failed()));
            assert!(reply.text.starts_with("[ERROR storage-full] "), "{}", reply.text);
        }
    }

    /// A hub with the account alice, who is offline, and bob on connection 1. Everything is
    /// stored.
    fn hub_with_offline_alice() -> (Driver, UserId) {
        let mut hub = hub(Limits::default());
        hub.storing = Storing::Everything;
        (0..3).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        register(&mut hub, 0);
        let alice = hub.state.accounts.named(&Key::fold("alice")).expect("an account").person;
        say(&mut hub, 0, "/quit");
        say(&mut hub, 1, "bob");
        (hub, alice)
    }

    /// The stored mailboxes of all accounts.
    fn rows(hub: &Driver) -> Vec<(u64, String)> {
        let entries = hub.snapshot(Vec::new()).entries.into_iter();
        let mail = entries.filter(|(of, ..)| *of == Collection::Mailbox);
        mail.map(|(_, key, value)| (key, value)).collect()
    }

    #[test]
    fn mail_is_stored_as_one_row_per_account() {
        let (mut hub, alice) = hub_with_offline_alice();
        say(&mut hub, 1, "hi");
        for _ in 0..3 {
            say(&mut hub, 1, "/msg alice come back");
            assert_eq!(rows(&hub), [(alice.0, r#"{"after":1}"#.to_owned())]);
        }
        let mut hub = restarted(&mut hub);
        assert_eq!((hub.state.mail.len(alice), hub.has_changes()), (3, false));
        hub.check_invariants();
    }

    #[test]
    fn mail_of_connected_account_is_stored_when_it_matters() {
        let (mut hub, alice) = hub_with_offline_alice();
        say(&mut hub, 2, "/login alice sesame");
        handle(&mut hub, 2, Input::Hashed(Outcome::Checked(true)));
        let row = [(alice.0, r#"{"after":0}"#.to_owned())];
        for _ in 0..3 {
            say(&mut hub, 1, "/msg alice hi");
            say(&mut hub, 2, "/msg bob hi");
            assert_eq!((rows(&hub), hub.state.mail.len(alice)), (row.to_vec(), 0));
        }
        // After a crash the client may be sent again what it has received.
        let hub_after_crash = restarted(&mut hub);
        assert_eq!(hub_after_crash.state.mail.len(alice), 3);
        let mut turn = Turn::default();
        hub.shut_down(&mut turn);
        assert_eq!(restarted(&mut hub).state.mail.len(alice), 0);
        hub.release(turn);
        assert_eq!(rows(&hub), []);
    }

    #[test]
    fn change_of_ignores_is_stored_with_the_mail() {
        let (mut hub, alice) = hub_with_offline_alice();
        say(&mut hub, 2, "/login alice sesame");
        handle(&mut hub, 2, Input::Hashed(Outcome::Checked(true)));
        let bob = hub.state.users[hub.state.users.named("bob").expect("here")].id;
        say(&mut hub, 1, "/msg alice hi");
        // This line was sent before the message had arrived.
        let mut turn = Turn::default();
        let now = hub.now;
        hub.set_storage(Storage::Open);
        hub.handle(now, conn(2), Input::Frame(Frame::Line("/ignore bob".into())), &mut turn);
        hub.release(turn);
        assert_eq!(rows(&hub), [(alice.0, format!(r#"{{"after":0,"hidden":[{}]}}"#, bob.0))]);
    }

    #[test]
    fn refused_mail_does_not_wait_and_leaves_nothing_unsaved() {
        let (mut hub, alice) = hub_with_offline_alice();
        hub.storing = Storing::Nothing;
        let (_, reply) = say(&mut hub, 1, "/msg alice come back");
        assert!(reply.text.starts_with("[ERROR storage-full] "), "{}", reply.text);
        assert_eq!((hub.state.mail.len(alice), hub.has_changes()), (0, false));
        hub.storing = Storing::Everything;
        say(&mut hub, 1, "/msg alice come back");
        hub.storing = Storing::Nothing;
        say(&mut hub, 1, "/msg alice come back");
        assert_eq!((hub.state.mail.len(alice), hub.has_changes()), (1, false));
        assert_eq!(rows(&hub), [(alice.0, r#"{"after":1}"#.to_owned())]);
    }

    #[test]
    fn panic_while_posting_leaves_cid_unused() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "/set tags on");
        say(&mut hub, 0, "alice");
        let alice = hub.state.users.named("alice").expect("here");
        let connection = hub.state.users[alice].connection;
        hub.state.connections.set_current(connection, Some(99));
        let line = "@cid=x hi";
        assert!(panic::catch_unwind(AssertUnwindSafe(|| say(&mut hub, 0, line))).is_err());
        assert_eq!(hub.last_ids().message, 0);
        hub.state.connections.set_current(connection, Some(LOBBY));
        let (_, reply) = say(&mut hub, 0, line);
        assert!(
            reply.text.contains("id=1;") && reply.text.ends_with(" alice: hi\n"),
            "{}",
            reply.text
        );
        assert!(
            matches!(hub.state.messages.recent.find(1), Lookup::Found(_))
                && hub.last_ids().message == 1
        );
    }
}
