//! Tests of connections in different dialects, one of which the server does not have: `toy.rs`.

use std::collections::BTreeMap;

use super::state::connections::Settings;
use super::test_support::{Driver, conn, connect, handle, hub, say};
use super::{Input, Limits, Storage};
use crate::commands::Setting;
use crate::protocol::Dialect;
use crate::protocol::codec::Frame;
use crate::protocol::dialect::toy;
use crate::server::auth::passwords::Outcome;
use crate::server::store::ReadResult;
use crate::server::turn::wire::{Decoder, Encoder};

/// Connects; the first line is a login.
fn log_in(hub: &mut Driver, slot: u32, dialect: Dialect, line: &str) {
    connect(hub, slot);
    let connection = hub.state.connections.of(conn(slot)).expect("a connection");
    let settings = Settings { dialect, ..hub.state.connections[connection].settings };
    hub.state.choose(connection, Setting::Tags, settings);
    say(hub, slot, line);
}

/// A hub where alice uses the plain dialect, bob the tagged one and carol the toy one. Others use
/// the same dialects. All are in #ops.
fn hub_with_dialects() -> Driver {
    let mut hub = hub(Limits::default());
    log_in(&mut hub, 0, Dialect::Plain, "alice");
    log_in(&mut hub, 1, Dialect::Tagged, "bob");
    log_in(&mut hub, 2, Dialect::Toy, "NICK carol");
    log_in(&mut hub, 3, Dialect::Plain, "dave");
    log_in(&mut hub, 4, Dialect::Tagged, "erin");
    log_in(&mut hub, 5, Dialect::Toy, "NICK frank");
    for slot in 0..6 {
        let line = if slot % 3 == 2 { "JOIN #ops" } else { "/join ops" };
        say(&mut hub, slot, line);
    }
    hub
}

/// Handles a line and returns what each connection is sent.
fn sent_by(hub: &mut Driver, slot: u32, line: &str) -> BTreeMap<u32, String> {
    hub.input(conn(slot), Input::Frame(Frame::Line(line.into())));
    let mut sent = BTreeMap::<u32, String>::new();
    hub.flush(|to, bytes| {
        let text = std::str::from_utf8(bytes).expect("UTF-8");
        sent.entry(to.slot).or_default().push_str(text);
    });
    sent
}

#[test]
fn each_reader_receives_lines_in_its_dialect() {
    let mut hub = hub_with_dialects();
    // Other servers receive them, too.
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
    hub.replace_turn = Some(Box::new(move |turn, batch| {
        decoder.decode(&encoder.encode(&turn, batch)).expect("a turn").1
    }));
    let tags = |id| format!("@id={id};time=1970-01-01T00:00:00.000Z");
    for (id, slot, line, name, user) in
        [(1, 2, "PRIVMSG #ops :hi all", "carol", 3), (2, 1, "@cid=c1 hi all", "bob", 2)]
    {
        let sent = sent_by(&mut hub, slot, line);
        for to in 0..6 {
            let received = match to % 3 {
                0 => format!("#ops {name}: hi all\n"),
                1 if to == slot => format!("{};cid=c1 #ops {name}: hi all\n", tags(id)),
                1 => format!("{} #ops {name}: hi all\n", tags(id)),
                _ => format!(":{name}!{user} PRIVMSG #ops :hi all\n"),
            };
            assert_eq!(sent[&to], received, "{line}");
        }
    }
    let sent = sent_by(&mut hub, 0, "/nick anna");
    assert_eq!(sent[&0], "* alice is now anna\n");
    assert_eq!(sent[&1], "@time=1970-01-01T00:00:00.000Z * alice is now anna\n");
    assert_eq!(sent[&2], ":alice!1 NICK anna\n");
    let sent = sent_by(&mut hub, 0, "/msg carol psst");
    assert_eq!(sent[&2], ":anna!1 PRIVMSG you :psst\n");
}

#[test]
fn line_is_encoded_once_per_dialect_however_many_readers_it_has() {
    let mut hub = hub_with_dialects();
    let (sent, encoded) = (sent_by(&mut hub, 0, "hi"), toy::encoded());
    let size: usize = (0..3).map(|slot| sent[&slot].len()).sum();
    hub.replace_turn = Some(Box::new(move |turn, _| {
        assert_eq!(turn.size(), size, "one line in each dialect");
        turn
    }));
    assert_eq!(sent_by(&mut hub, 0, "hi").len(), 6);
    assert_eq!(toy::encoded(), encoded + 1);
}

#[test]
fn connection_of_another_dialect_is_answered_in_it() {
    let mut hub = hub_with_dialects();
    let mut answer = |line| say(&mut hub, 2, line).1.text;
    assert_eq!(answer("PING x"), ":server NOTICE :[PONG x]\n");
    assert_eq!(answer("PRIVMSG zed :hi"), ":server ERROR NoSuchUser :zed is not online\n");
    assert_eq!(answer("/who"), ":server ERROR UnknownCommand :/who: no such command\n");
    assert_eq!(answer("PRIVMSG bob :hi"), ":carol!3 PRIVMSG bob :hi\n");
    assert_eq!(answer("NICK caro"), ":carol!3 NICK caro\n");
    let (_, farewell) = handle(&mut hub, 2, Input::Finished);
    assert_eq!(farewell.text, ":server NOTICE :[BYE quit] goodbye\n");
}

#[test]
fn connection_of_another_dialect_catches_up_in_it() {
    let mut hub = hub_with_dialects();
    let session = say(&mut hub, 2, "SESSION").1.text;
    let token = session.strip_prefix(":server NOTICE :[SESSION ").expect(&session);
    let (token, _) = token.split_once(']').expect(token);
    handle(&mut hub, 2, Input::Disconnected);
    say(&mut hub, 0, "one");
    log_in(&mut hub, 6, Dialect::Toy, &format!("RESUME {token} 0"));
    handle(&mut hub, 5, Input::OverLimit);
    // Renames are not in the log.
    say(&mut hub, 0, "/nick anna");
    say(&mut hub, 1, "two");
    let missed = ":alice!1 NICK anna\n:bob!2 PRIVMSG #ops :two\n";
    let (_, sent) = handle(&mut hub, 6, Input::Drained);
    assert_eq!(sent.text, format!(":alice!1 PRIVMSG #ops :one\n{missed}"));
    let (_, sent) = handle(&mut hub, 5, Input::Drained);
    assert!(sent.text.starts_with(missed), "{}", sent.text);
}

/// The codes of these errors are `forbidden`, `not-in-room` and `storage-full`.
#[test]
fn dialect_receives_the_reason_of_an_error() {
    let mut hub = hub_with_dialects();
    for line in ["/join closed", "/lock", "/join keyed", "/lock key", "/join own", "/ban carol"] {
        say(&mut hub, 0, line);
    }
    let reason = |text: &str| {
        let rest = text.strip_prefix(":server ERROR ").and_then(|rest| rest.split_once(' '));
        rest.expect(text).0.to_owned()
    };
    for (line, expected) in [
        ("JOIN closed", "RoomLocked"),
        ("JOIN keyed", "RoomNeedsKey"),
        ("JOIN own", "BannedFromRoom"),
        ("KICK bob", "NotRoomOperator"),
        ("WALL hi", "NotServerOperator"),
        ("OPER password", "NoServerOperators"),
        ("PRIVMSG #own :hi", "NotMember"),
    ] {
        assert_eq!(reason(&say(&mut hub, 2, line).1.text), expected, "{line}");
    }
    say(&mut hub, 2, "JOIN keyed other");
    let (_, sent) = handle(&mut hub, 2, Input::Hashed(Outcome::Checked(false)));
    assert_eq!(reason(&sent.text), "WrongRoomKey");
    say(&mut hub, 2, "HISTORY");
    let (_, sent) = handle(&mut hub, 2, Input::Rows(ReadResult::failed()));
    assert_eq!(reason(&sent.text), "CannotRead");
    hub.set_storage(Storage::Closed);
    assert_eq!(reason(&say(&mut hub, 2, "TOPIC tea").1.text), "CannotStore");
    for line in ["PART ops", "PART lobby"] {
        say(&mut hub, 2, line);
    }
    assert_eq!(reason(&say(&mut hub, 2, "TOPIC").1.text), "NoCurrentRoom");
}
