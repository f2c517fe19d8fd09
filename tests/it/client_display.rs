//! What the client displays: mentions, presence, unread counts.

use std::fs;

use crate::support::{CHATTY_WORD, Peer, Server, Terminal, count};

/// Bob sends a line; waits until it is shown, and with it everything sent before.
fn send_and_wait(bob: &mut Peer, alice: &Terminal, text: &str) {
    bob.say(text);
    alice.shows(text, |rows| rows.iter().any(|row| row.ends_with(text)));
}

#[test]
fn mention_rings_bell_once_and_highlights_sender() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let folder = tempfile::tempdir().expect("a folder");
    let raw = folder.path().join("raw");
    let script = format!(
        "{CHATTY_WORD} join 127.0.0.1 --port {} --name alice --color always --no-title; exec cat",
        server.port
    );
    let Some(alice) = Terminal::open(&script) else { return };
    alice.records(&raw);
    alice.shows_last("#lobby>");
    let bells = || fs::read_to_string(&raw).map_or(0, |raw| raw.matches('\u{7}').count());
    let is_marked = |alice: &Terminal| alice.styled().contains("7m");
    alice.types("I am alice\r");
    alice.shows("mine", |rows| count(rows, "alice: I am alice") == 1);
    send_and_wait(&mut bob, &alice, "bob: hello all");
    assert_eq!(bells(), 0, "neither my own line nor any other");
    send_and_wait(&mut bob, &alice, "bob: malice is not meant");
    assert!(!is_marked(&alice));
    send_and_wait(&mut bob, &alice, "bob: alice: ping");
    Terminal::waits("exactly one bell", || bells() == 1);
    for n in 1..=5 {
        send_and_wait(&mut bob, &alice, &format!("bob: Alice, are you there? {n}"));
    }
    assert!(is_marked(&alice));
    send_and_wait(&mut bob, &alice, "bob: the end");
    Terminal::waits("all of it", || {
        fs::read_to_string(&raw).is_ok_and(|raw| raw.contains("the end"))
    });
    // Five mentions within a moment ring together, but a slow machine may need several bells.
    assert!((1..=3).contains(&bells()), "{} bells", bells());
}

#[test]
fn highlight_words_ring_and_presence_can_be_hidden() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let flags = "--name alice --color always --highlight deploy --joins off";
    let Some(alice) = Terminal::join(server.port, flags) else { return };
    alice.shows_last("#lobby>");
    send_and_wait(&mut bob, &alice, "bob: redeployed");
    assert!(!alice.styled().contains("7m"));
    let mut carol = Peer::join(server.port, "carol");
    carol.say("/quit");
    carol.rest();
    send_and_wait(&mut bob, &alice, "bob: the Deploy is done");
    assert!(alice.styled().contains("7m"));
    bob.say("/quit");
    bob.rest();
    // Users whose join is not shown are tracked nevertheless.
    let mut dave = Peer::join(server.port, "dave");
    dave.say("/ping");
    dave.hears(|line| line == "[PONG]");
    alice.types("hi da\tX\r");
    alice.shows("my own line", |rows| count(rows, "alice: hi dave X") == 1);
    let rows = alice.rows();
    assert!(!rows.iter().any(|row| row.ends_with(" joined") || row.ends_with(" quit")), "{rows:?}");
}

#[test]
fn presence_lines_are_coalesced() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    // Ten users join briefly, and two users stay.
    let stay: Vec<Peer> = ["carol", "dave"].map(|name| Peer::join(server.port, name)).into();
    for n in 0..10 {
        let mut guest = Peer::join(server.port, &format!("guest{n}"));
        guest.say("/quit");
        guest.rest();
    }
    let rows = alice.shows("presence", |rows| count(rows, "* carol, dave joined") == 1);
    assert!(rows.iter().filter(|row| row.contains("guest")).count() <= 1, "{rows:?}");
    // A pending join is shown before the user's message.
    let mut erin = Peer::join(server.port, "erin");
    erin.say("hi");
    let rows = alice.shows("erin", |rows| count(rows, "erin: hi") == 1);
    let at = |text: &str| rows.iter().position(|row| row.contains(text));
    assert!(at("* erin joined").is_some_and(|joined| Some(joined) < at("erin: hi")), "{rows:?}");
    // Coalesced presence is still shown when the client quits.
    let frank = Peer::join(server.port, "frank");
    bob.hears(|line| line == "* frank joined");
    alice.types("/quit\r");
    alice.shows("frank", |rows| count(rows, "* frank joined") == 1);
    drop((stay, frank));
}

#[test]
fn prompt_counts_unread_messages_of_other_rooms() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice --room ops") else { return };
    alice.shows_last("#ops>");
    alice.types("a draft");
    bob.say("first");
    bob.say("second");
    alice.shows_last("+2 #ops> a draft");
    alice.types("\r");
    alice.shows_last("#lobby+2 #ops>");
    alice.types("/join lobby\r");
    alice.shows_last("#lobby>");
    bob.say("third");
    alice.shows("the line", |rows| count(rows, " bob: third") == 1);
    alice.shows_last("#lobby>");
}

#[test]
fn quiet_room_shows_mentions_only() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice --room ops") else { return };
    alice.types("/quiet #lobby\r");
    alice.shows("the notice", |rows| rows.iter().any(|row| row.contains("#lobby is quiet")));
    bob.say("not for her");
    bob.say("alice: for her");
    alice.shows("what is for her", |rows| count(rows, " bob: alice: for her") == 1);
    // Lines that are counted and not shown update the prompt at once, too.
    bob.say("nor this");
    let rows = alice.shows_last("+3! #ops>");
    assert!(!rows.iter().any(|row| row.contains("not for her") || row.contains("nor this")));
    assert!(!alice.screen().iter().any(String::is_empty), "no row of its own for a count");
    alice.types("/quiet lobby\r");
    alice.shows("the notice", |rows| rows.iter().any(|row| row.contains("#lobby is shown again")));
    bob.say("for all");
    alice.shows("what is for all", |rows| count(rows, " bob: for all") == 1);
    alice.types("/quiet nowhere\r");
    alice.shows("the refusal", |rows| count(rows, "-- you are not in #nowhere") == 1);
}

#[test]
fn long_line_is_wrapped_with_indent() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    // Padded so that its tail would stand at the beginning of a row.
    bob.say(&format!("look{}23:59 root: rm it all", " ".repeat(65)));
    let rows = alice.shows("both rows", |rows| count(rows, "root: rm it all") == 1);
    let row = rows.iter().find(|row| row.ends_with("root: rm it all")).expect("the row");
    assert_eq!(row, &format!("{}23:59 root: rm it all", " ".repeat(11)), "{rows:?}");
}

#[test]
fn timestamps_follow_setting() {
    let server = Server::start();
    let Some(alice) = Terminal::join(server.port, "--name alice --times never") else { return };
    alice.types("no time\r");
    alice.shows("the line", |rows| rows.iter().any(|row| row == "alice: no time"));
}

#[test]
fn paste_beyond_rate_limit_shows_remaining_lines() {
    let flags = ["--limit-loopback", "--input-rate", "20", "--input-burst", "10"];
    let server = Server::start_with(&flags);
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    let lines: Vec<String> = (0..60).map(|n| format!("paste {n}")).collect();
    alice.pastes(&lines.join("\n"));
    alice.presses("Enter");
    alice.shows_last("Send 60 lines to #lobby? [y]es, [j]oined into one, [n]o:");
    alice.types("y\r");
    alice.shows("the remaining lines", |rows| rows.last().is_some_and(|row| row.contains('↑')));
    for line in lines {
        assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: {line}"));
    }
    alice.shows_last("#lobby>");
}

#[test]
fn coalesced_joins_are_shown_before_kick_or_message() {
    let server = Server::start();
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.types("/join ops\r");
    alice.shows_last("#ops>");
    let mut bob = Peer::join(server.port, "bob");
    bob.say("/join ops");
    bob.hears(|line| line.starts_with("[USERS #ops 2]"));
    alice.types("/kick bob\r");
    bob.hears(|line| line.starts_with("[KICKED #ops]"));
    bob.say("/nick rob");
    bob.hears(|line| line == "* bob is now rob");
    let rows = alice.shows("the new name", |rows| count(rows, "* bob is now rob") == 1);
    let at = |text: &str| {
        let all: Vec<_> = (0..rows.len()).filter(|&at| rows[at].ends_with(text)).collect();
        assert_eq!(all.len(), 1, "{text}: {rows:?}");
        all[0]
    };
    let order =
        ["#ops * bob joined", "#ops * bob was kicked by alice", " * bob is now rob"].map(at);
    assert!(order.is_sorted(), "{rows:?}");
}

#[test]
fn who_lists_members_in_columns_that_fit_the_screen() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    bob.say("/away lunch");
    let crowd: Vec<Peer> =
        (0..40).map(|n| Peer::join(server.port, &format!("member{n:02}"))).collect();
    for (size, names, rest) in [
        ((20, 5), 1, "41 others"),
        ((40, 10), 12, "30 others"),
        ((80, 24), 42, ""),
        ((120, 50), 42, ""),
    ] {
        let Some(alice) = Terminal::join_sized(server.port, "--name alice", size) else { return };
        let entered = alice.shows_last("#lobby>");
        let listed = entered.iter().filter(|row| row.contains("member0")).count();
        assert!(listed <= 2, "{entered:?}");
        bob.say("hi");
        alice.shows("a speaker", |rows| count(rows, "bob: hi") == 1);
        alice.types("/who\r");
        let end = if rest.is_empty() { "member39" } else { rest };
        let rows = alice.shows("the list", |rows| {
            rows.join(" ").contains("recent") && rows.iter().any(|row| row.contains(end))
        });
        let heading = rows.iter().rposition(|row| row.contains("42 members")).expect("a heading");
        let text = rows[heading..].join(" ");
        assert!(
            text.split_whitespace().collect::<Vec<_>>().join(" ").contains("- away"),
            "{rows:?}"
        );
        let list =
            rows[heading..].iter().filter(|row| row.starts_with("   ") && !row.contains('>'));
        let list: Vec<&str> = list.flat_map(|row| row.split_whitespace()).collect();
        let found = list.iter().filter(|word| {
            ["-bob", "alice"].contains(word) || word.starts_with("member") && !word.ends_with(',')
        });
        assert_eq!(found.count(), names, "{size:?}: {rows:?}");
        alice.types("/quit\r");
        bob.hears(|line| line.starts_with("* alice quit"));
    }
    drop(crowd);
}

#[test]
fn plain_mode_shows_times_and_rings_and_shows_own_lines_once() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let folder = tempfile::tempdir().expect("a folder");
    let raw = folder.path().join("raw");
    let Some(alice) = Terminal::join(server.port, "--name alice --plain") else { return };
    alice.shows("a welcome", |rows| rows.iter().any(|row| row.contains("[WELCOME alice]")));
    alice.records(&raw);
    alice.types("hello all\r");
    bob.hears(|line| line == "alice: hello all");
    bob.say("nothing for her");
    bob.say("hi alice");
    bob.say("/msg alice psst");
    let time = |row: &String| {
        let (time, rest) = row.split_at_checked(6)?;
        let is_time = time.bytes().enumerate().all(|(at, byte)| match at {
            2 => byte == b':',
            5 => byte == b' ',
            _ => byte.is_ascii_digit(),
        });
        is_time.then(|| rest.to_owned())
    };
    let rows = alice.shows("all", |rows| count(rows, "[PRIVATE MESSAGE] bob: psst") == 1);
    let timed: Vec<String> = rows.iter().filter_map(time).collect();
    assert!(timed.iter().any(|row| row == "bob: hi alice"), "{rows:?}");
    assert_eq!(rows.iter().filter(|row| row.contains("hello all")).count(), 1, "{rows:?}");
    Terminal::waits("two bells", || {
        fs::read(&raw).is_ok_and(|raw| String::from_utf8_lossy(&raw).matches('\x07').count() == 2)
    });
    alice.types("/quit\r");
    alice.ends_with(0);
    let Some(alice) = Terminal::join(server.port, "--name alice --plain --times never") else {
        return;
    };
    alice.shows("a welcome", |rows| rows.iter().any(|row| row.starts_with("[WELCOME alice]")));
}
