//! `chatty join` at a real terminal: what a user sees.

use std::time::{Duration, Instant};

use std::fs;
use std::path::Path;

use crate::support::{
    CHATTY_WORD, Peer, SESAME, SESAME_FILE, Server, Terminal, count, has_program, scripted_server,
};

/// Starts a server, a peer bob, and alice at a terminal with a prompt; returns from the test if
/// there is no tmux.
macro_rules! scene {
    ($server:ident, $bob:ident, $alice:ident) => {
        #[allow(unused_mut)]
        let mut $server = Server::start();
        #[allow(unused_mut, unused_variables)]
        let mut $bob = Peer::join($server.port, "bob");
        let Some($alice) = Terminal::join($server.port, "--name alice") else { return };
        $alice.shows_last("#lobby>");
    };
}

#[test]
fn alt_keys_go_to_rooms_and_conversations_and_keep_the_draft() {
    scene!(server, bob, alice);
    alice.presses("M-a");
    alice.shows("why not", |rows| count(rows, "-- no unread messages") == 1);
    alice.types("/join ops,dev\r");
    alice.shows_last("#dev>");
    bob.say("/msg #ops nothing");
    bob.say("/join ops\nfor everyone\nalice, look\n/msg alice psst");
    alice.shows("what waits", |rows| rows.last().is_some_and(|row| row.contains("+3! #dev>")));
    alice.types("half a li");
    for (key, target) in [("M-a", "#ops"), ("M-a", "bob"), ("M-Right", "#dev"), ("M-Left", "bob")] {
        alice.presses(key);
        let prompt = format!(" {target}> half a li");
        alice.shows(&prompt, |rows| rows.last().is_some_and(|row| row.ends_with(&prompt)));
    }
    alice.types("ne\r");
    bob.hears(|line| line == "[PRIVATE MESSAGE] alice: half a line");
    let rows = alice.rows();
    assert_eq!(count(&rows, " -- #ops has 1 member: alice"), 1, "{rows:?}");
}

#[test]
fn draft_survives_fifty_incoming_lines() {
    scene!(server, bob, alice);
    alice.types("half a mess");
    alice.shows_last("#lobby> half a mess");
    for n in 0..50 {
        bob.say(&format!("line {n}."));
    }
    let rows = alice.shows("the fiftieth line", |rows| count(rows, "bob: line 49.") == 1);
    let said = rows.iter().filter_map(|row| row.split_once("bob: line ")).map(|(_, n)| n);
    assert!(said.eq((0..50).map(|n| format!("{n}."))), "each once and in order: {rows:?}");
    alice.shows_last("#lobby> half a mess");
    for key in ["Left", "Left", "Left"] {
        alice.presses(key);
    }
    alice.types("X\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: half a mXess");
}

#[test]
fn sent_line_is_shown_once() {
    scene!(server, bob, alice);
    alice.types("hello there\r");
    bob.hears(|line| line == "alice: hello there");
    alice.shows("the line", |rows| count(rows, "hello there") == 1);
    // Longer than a row, edited in the middle, and with wide characters.
    let long = "日本語 ".repeat(30) + "end";
    alice.types(&long);
    alice.presses("Home");
    alice.types("\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: {long}"));
    alice.types("after\r");
    bob.hears(|line| line == "alice: after");
    let rows = alice.shows("all of it", |rows| count(rows, " alice: after") == 1);
    assert_eq!(rows.join("").matches("end").count(), 1);
    assert_eq!(count(&rows, "hello there"), 1);
    alice.shows_last("#lobby>");
}

#[test]
fn typed_ahead_lines_arrive_in_order() {
    scene!(server, bob, alice);
    alice.types("one\r/join ops\rtwo\r/join lobby\rthree\r/quit\r");
    let rows = alice.ends_with(0);
    let said: Vec<&String> = rows.iter().filter(|row| row.contains("alice: ")).collect();
    assert_eq!(said.len(), 3, "{rows:?}");
    assert!(said[0].ends_with(" alice: one"));
    assert!(said[1].ends_with(" #ops alice: two"));
    assert!(said[2].ends_with(" alice: three"));
    assert_eq!(bob.hears(|line| line.starts_with("alice: ")), "alice: one");
    assert_eq!(bob.hears(|line| line.starts_with("alice: ")), "alice: three");
}

#[test]
fn tab_completes_commands_names_and_rooms() {
    scene!(server, bob, alice);
    alice.types("bo\t");
    alice.shows_last("#lobby> bob:");
    alice.types("ask bo\tnow\r");
    bob.hears(|line| line == "alice: bob: ask bob now");
    alice.types("/jo\t#ops\r");
    alice.shows_last("#ops>");
    alice.types("/who #op\t\r");
    alice.shows("two lists", |rows| {
        rows.iter().filter(|row| row.contains("-- #ops has 1 member")).count() == 2
    });
    alice.types("/msg bo\tpsst\r");
    bob.hears(|line| line == "[PRIVATE MESSAGE] alice: psst");
}

#[test]
fn prompt_shows_target_of_plain_lines() {
    scene!(server, bob, alice);
    alice.types("/join dev,#ops\r");
    alice.shows("both rooms", |rows| {
        rows.iter().filter(|row| row.contains("; your messages now go there")).count() == 2
    });
    alice.shows_last("#ops>");
    alice.types("/query bob\r");
    alice.shows_last("bob>");
    alice.types("psst\r");
    bob.hears(|line| line == "[PRIVATE MESSAGE] alice: psst");
    bob.say("/nick rob");
    bob.hears(|line| line.ends_with("is now rob"));
    // The row must fit next to the prompt.
    alice.shows_last("rob>");
    alice.types("/query\r");
    alice.shows_last("#ops>");
    alice.types("/part\r");
    alice.shows_last("#lobby>");
    alice.types("/part\r");
    alice.shows_last("nowhere>");
    alice.types("/query rob\r");
    alice.shows_last("rob>");
    bob.say("/quit");
    alice.shows("the refusal", |rows| rows.iter().any(|row| row.contains("-- rob is gone")));
    alice.presses("Enter");
    alice.shows_last("nowhere>");
}

#[test]
fn multiline_paste_asks_for_confirmation() {
    scene!(server, bob, alice);
    alice.pastes("p1\np2\n/quit\np4\np5\np6\np7");
    alice.shows_last("p7");
    alice.presses("Enter");
    alice.shows_last("Send 7 lines to #lobby? [y]es, [j]oined into one, [n]o:");
    alice.types("\r");
    // The draft remains, to be changed or sent.
    alice.shows_last("p7");
    alice.presses("Enter");
    alice.shows_last("Send 7 lines to #lobby? [y]es, [j]oined into one, [n]o:");
    alice.types("y");
    for line in ["p1", "p2", "/quit", "p4", "p5", "p6", "p7"] {
        let said = bob.hears(|line| line.starts_with("alice:"));
        assert_eq!(said, format!("alice: {line}"));
    }
    let rows = alice.shows("her lines", |rows| rows.iter().any(|row| row.ends_with("alice: p7")));
    assert_eq!(count(&rows, "p4"), 1, "the draft is gone, the line is there");
    alice.pastes("q1\n/quit\nq3\nq4");
    alice.presses("Enter");
    alice.shows_last("Send 4 lines to #lobby? [y]es, [j]oined into one, [n]o:");
    alice.types("j");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: q1 /quit q3 q4");
    alice.pastes("\nr1\n\nr2\n");
    alice.presses("Enter");
    alice.shows_last("Send 3 lines to #lobby? [y]es, [j]oined into one, [n]o:");
    alice.types("y");
    for line in ["r1", "\u{2800}", "r2"] {
        let said = bob.hears(|line| line.starts_with("alice:"));
        assert_eq!(said, format!("alice: {line}"));
    }
}

#[test]
fn paste_after_private_command_asks_before_posting_to_room() {
    scene!(server, bob, alice);
    alice.types("/msg bob ");
    alice.pastes("secret\nmore");
    alice.presses("Enter");
    alice.shows_last("Send 2 lines to #lobby? [y]es, [j]oined into one, [n]o:");
    alice.types("n");
    alice.shows_last("more");
    alice.presses("C-c");
    alice.types("done\r");
    assert_eq!(bob.hears(|line| line.contains("alice:")), "alice: done");
}

#[test]
fn open_history_search_delays_only_display() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice --ping-after 100ms") else {
        return;
    };
    alice.shows_last("#lobby>");
    alice.types("needle\r");
    bob.hears(|line| line == "alice: needle");
    alice.presses("C-r");
    alice.types("nee");
    // Long enough for a heartbeat and its reply.
    let start = Instant::now();
    Terminal::waits("some silences", || start.elapsed() > Duration::from_secs(1));
    alice.shows("the search", |rows| rows.iter().any(|row| row.contains("reverse-i-search")));
    for n in 0..200 {
        bob.say(&format!("flood {n}."));
    }
    bob.say("/ping done");
    bob.hears(|line| line == "[PONG done]");
    alice.presses("C-g");
    let rows = alice.shows("the last", |rows| count(rows, "bob: flood 199.") == 1);
    assert_eq!(rows.iter().filter(|row| row.contains("bob: flood")).count(), 200);
    assert!(!rows.iter().any(|row| row.contains("connection lost")), "{rows:?}");
}

#[test]
fn ctrl_c_clears_draft_then_warns_then_quits() {
    scene!(server, bob, alice);
    alice.types("oh no");
    alice.presses("C-c");
    alice.shows_last("#lobby>");
    alice.presses("C-y");
    alice.shows_last("#lobby> oh no");
    alice.presses("C-c");
    alice.shows_last("#lobby>");
    alice.presses("C-c");
    alice.shows("a warning", |rows| rows.iter().any(|row| row.contains("again to leave")));
    alice.presses("C-c");
    alice.ends_with(130);
    assert!(bob.hears(|line| line.contains("quit")).starts_with("* alice quit"));
}

#[test]
fn ctrl_c_declines_confirmation_and_keeps_draft() {
    scene!(server, bob, alice);
    alice.pastes("p1\np2\np3\np4");
    alice.presses("Enter");
    alice.shows_last("Send 4 lines to #lobby? [y]es, [j]oined into one, [n]o:");
    alice.presses("C-c");
    alice.shows_last("p4");
    bob.say("still there?");
    alice.shows("lines received meanwhile", |rows| count(rows, "bob: still there?") == 1);
    alice.presses("C-c");
    alice.types("yes\r");
    assert_eq!(bob.hears(|line| line.contains("alice:")), "alice: yes");
}

#[test]
fn ctrl_z_suspends_and_fg_resumes() {
    if !has_program("bash") {
        return;
    }
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::open("PS1='$ ' bash --norc --noprofile") else { return };
    alice.shows_last("$");
    alice.types(&format!("{CHATTY_WORD} join 127.0.0.1 --port {} --name alice\r", server.port));
    alice.shows_last("#lobby>");
    alice.types("half a mess");
    alice.shows_last("#lobby> half a mess");
    alice.presses("C-z");
    alice.shows_last("$");
    bob.say("meanwhile");
    alice.types("stty -a | tr ' ;' '\\n\\n' | grep -cxE 'icanon|echo'\r");
    alice.shows("both on", |rows| rows.iter().any(|row| row == "2"));
    alice.types("fg\r");
    alice.shows("lines received meanwhile", |rows| count(rows, "bob: meanwhile") == 1);
    alice.types("age");
    alice.shows_last("#lobby> half a message");
    alice.types("\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: half a message");
}

#[test]
fn terminal_is_restored_on_every_exit() {
    let ways =
        [("C-d", 0), ("/quit bye", 0), ("TERM", 143), ("HUP", 129), ("INT", 130), ("C-r", 143)];
    for (way, exit) in ways {
        scene!(server, bob, alice);
        let folder = tempfile::tempdir().expect("a folder");
        let raw = folder.path().join("raw");
        alice.records(&raw);
        match way {
            "C-d" => alice.presses(way),
            "TERM" | "HUP" | "INT" => {
                alice.types("half a li");
                alice.shows_last("#lobby> half a li");
                alice.signal(way);
            }
            "C-r" => {
                alice.types("needle\r");
                bob.hears(|line| line == "alice: needle");
                alice.presses(way);
                alice.shows("the search", |rows| rows.concat().contains("reverse-i-search"));
                alice.signal("TERM");
            }
            line => alice.types(&format!("{line}\r")),
        }
        alice.ends_with(exit);
        assert!(bob.hears(|line| line.contains("quit")).starts_with("* alice quit"), "{way}");
        waits_for_bracketed_paste_off(&raw);
    }
}

#[test]
fn server_shutdown_is_reported_and_terminal_restored() {
    let mut server = Server::start();
    let args = "--name alice --retry-for 0";
    let Some(alice) = Terminal::join(server.port, args) else { return };
    alice.shows_last("#lobby>");
    alice.types("half a li");
    alice.shows_last("#lobby> half a li");
    server.kill();
    let rows = alice.ends_with(69);
    assert!(rows.iter().any(|row| row.starts_with("chatty: ")), "{rows:?}");
    assert!(rows.iter().any(|row| row.ends_with("#lobby> half a li")), "{rows:?}");
}

#[test]
fn server_ban_is_reported_and_terminal_restored() {
    let server = Server::start_with(&["--oper-password-file", SESAME_FILE]);
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let raw = folder.path().join("raw");
    alice.records(&raw);
    alice.shows_last("#lobby>");
    alice.types("half a li");
    alice.shows_last("#lobby> half a li");
    bob.say(&format!("/oper {SESAME}"));
    bob.hears(|line| line.starts_with("[OPER bob]"));
    bob.say("/kill alice enough of it");
    let rows = alice.ends_with(69);
    let farewell =
        "chatty: the server ended the connection: you were disconnected by bob: enough of it";
    assert!(rows.concat().contains(farewell), "{rows:?}");
    waits_for_bracketed_paste_off(&raw);
}

/// Turns bracketed paste off: the client can no longer tell a paste from typing.
fn waits_for_bracketed_paste_off(raw: &Path) {
    Terminal::waits("bracketed paste is off", || {
        let raw = fs::read_to_string(raw).unwrap_or_default();
        raw.rfind("\x1b[?2004l") > raw.rfind("\x1b[?2004h")
    });
}

#[test]
fn server_lines_cannot_move_cursor_or_hide_text() {
    let attack = "bob: a\x1b[2J\x1b]0;pwn\x07\u{9b}31mz\u{200B}\u{202E}!\n";
    let port = scripted_server(attack.as_bytes());
    let Some(alice) = Terminal::join(port, "--name alice --color never --retry-for 0") else {
        return;
    };
    let rows = alice.ends_with(69);
    let shown = "bob: a\u{FFFD}[2J\u{FFFD}]0;pwn\u{FFFD}\u{FFFD}31mz\u{FFFD}!";
    assert_eq!(count(&rows, shown), 1, "{rows:?}");
}

#[test]
fn colour_follows_setting() {
    let server = Server::start();
    for (args, has_color) in [("--color never", false), ("--color always", true), ("", true)] {
        let Some(alice) = Terminal::join(server.port, &format!("--name alice {args}")) else {
            return;
        };
        alice.shows_last("#lobby>");
        assert_eq!(alice.styled().contains('\x1b'), has_color, "{args}");
        alice.types("/quit\r");
        alice.ends_with(0);
    }
    let join = format!("{CHATTY_WORD} join 127.0.0.1 --port {} --name alice", server.port);
    let Some(alice) = Terminal::open(&format!("NO_COLOR=1 {join}")) else { return };
    alice.shows_last("#lobby>");
    assert!(!alice.styled().contains('\x1b'));
}

#[test]
fn password_prompt_appears_when_needed_without_echo() {
    let server = Server::start();
    let mut owner = Peer::register(server.port, "alice", "open sesame");
    owner.say("/quit");
    owner.rest();
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("password for alice:");
    alice.types("wrong\r");
    alice.shows("another try", |rows| count(rows, "password for alice:") == 2);
    alice.types("open sesame\r");
    let rows = alice.shows_last("#lobby>");
    assert!(rows.iter().any(|row| row.contains("that is not the password")), "{rows:?}");
    // Nor after a later use: neither on the screen nor in the history.
    alice.types("/passwd even more secret\r");
    alice.shows("the answer", |rows| {
        rows.iter().any(|row| row.contains("the password of alice is changed"))
    });
    alice.presses("Up");
    alice.types("x\r");
    let rows = alice.shows("a line", |rows| count(rows, "alice: x") == 1);
    assert!(!rows.iter().any(|row| row.contains("sesame") || row.contains("secret")), "{rows:?}");
}

#[test]
fn cancelled_password_prompt_restores_terminal() {
    let server = Server::start();
    let mut owner = Peer::register(server.port, "alice", "open sesame");
    owner.say("/quit");
    owner.rest();
    for (key, exit) in [("C-c", 130), ("C-d", 77)] {
        let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
        alice.shows_last("password for alice:");
        alice.presses(key);
        alice.ends_with(exit);
    }
}

#[test]
fn room_name_is_completed_with_or_without_hash() {
    scene!(server, bob, alice);
    bob.say("/join general");
    bob.settles();
    alice.types("/join #general\r");
    alice.shows_last("#general>");
    alice.types("/join #lobby\r");
    alice.shows_last("#lobby>");
    alice.types("/join gen");
    alice.presses("Tab");
    alice.types("\r");
    alice.shows_last("#general>");
}

#[test]
fn password_prompt_survives_login_timeout() {
    let server = Server::start_with(&["--login-timeout", "300ms"]);
    let mut first = Peer::register(server.port, "alice", "open sesame");
    first.say("/quit");
    first.rest();
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("password for alice:");
    // A later connection has been closed by the login timeout, so alice's first one has been, too.
    let mut later = Peer::connect(server.port);
    later.hears(|line| line.starts_with("[BYE login-timeout]"));
    alice.types("open sesame\r");
    alice.shows_last("#lobby>");
    alice.types("/quit\r");
    let rows = alice.ends_with(0);
    assert!(!rows.iter().any(|row| row.contains("sesame")), "{rows:?}");
}

#[test]
fn password_in_command_is_masked() {
    scene!(server, bob, alice);
    alice.types("/register open sesame");
    alice.shows_last("#lobby> /register ***********");
    alice.types("\r");
    let rows = alice
        .shows("the answer", |rows| rows.iter().any(|r| r.contains("alice is reserved for you")));
    assert!(!rows.iter().any(|row| row.contains("sesame")), "{rows:?}");
}

#[test]
fn hidden_paste_content_is_not_sent() {
    scene!(server, bob, alice);
    alice.pastes("a\u{7}b\u{202E}c\u{200B}d\u{9b}e");
    alice.shows_last("#lobby> abcde");
    alice.types("\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: abcde");
}

#[test]
fn private_reply_reaches_recipient_in_distinct_colour() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let mut carol = Peer::join(server.port, "carol");
    let Some(alice) = Terminal::join(server.port, "--name alice --color always") else { return };
    alice.shows_last("#lobby>");
    bob.say("/msg alice psst");
    alice.shows("it", |rows| count(rows, "[PRIVATE MESSAGE] bob: psst") == 1);
    let styled = alice.styled();
    let row = styled.lines().find(|row| row.contains("PRIVATE MESSAGE")).expect("it");
    assert!(row.contains("\x1b[38;5;163m"), "{row:?}");
    alice.types("/r yes\r");
    bob.hears(|line| line == "[PRIVATE MESSAGE] alice: yes");
    bob.say("all can hear");
    assert_eq!(carol.hears(|line| !line.contains("joined")), "bob: all can hear");
}

#[test]
fn another_name_is_asked_for_when_taken() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let _registered = Peer::register(server.port, "carol", "sesame");
    let Some(terminal) = Terminal::join(server.port, "--name Bob") else { return };
    terminal.shows("why", |rows| rows.iter().any(|row| row.contains("bob is in use")));
    terminal.shows_last("another name [Bob_]:");
    terminal.types("b b\r");
    terminal.shows("why not", |rows| rows.iter().any(|row| row.contains("is not a valid name")));
    terminal.types("dave\r");
    terminal.shows_last("#lobby>");
    bob.hears(|line| line == "* dave joined");
    terminal.types("hi\r");
    bob.hears(|line| line == "dave: hi");
    let Some(terminal) = Terminal::join(server.port, "--name bob") else { return };
    terminal.shows_last("another name [bob_]:");
    terminal.presses("Enter");
    bob.hears(|line| line == "* bob_ joined");
    let Some(terminal) = Terminal::join(server.port, "--name bob") else { return };
    terminal.shows_last("another name [bob_]:");
    terminal.presses("C-d");
    terminal.ends_with(77);
}

#[test]
fn rooms_of_an_account_are_joined_again() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    drop(Peer::register(server.port, "alice", SESAME));
    bob.hears(|line| line.starts_with("* alice quit"));
    let data = tempfile::tempdir().expect("a folder");
    let open = |flags: &str| {
        let script = format!(
            "XDG_DATA_HOME='{}' {CHATTY_WORD} join 127.0.0.1 --port {} {flags}; exec cat",
            data.path().display(),
            server.port
        );
        Terminal::open(&script)
    };
    let account = format!("--name alice --password-cmd 'echo {SESAME}'");
    let mut leave = |terminal: &Terminal, name: &str| {
        terminal.types("/quit\r");
        bob.hears(|line| line.starts_with(&format!("* {name} quit")));
    };
    let Some(alice) = open(&account) else { return };
    alice.shows_last("#lobby>");
    alice.types("/join ops,dev,art\r/part art\r/join dev\r");
    alice.shows_last("#dev>");
    leave(&alice, "alice");
    let again = open(&account).expect("tmux");
    again.shows_last("#dev>");
    again.shows("both", |rows| count(rows, "-- you are in #ops; your messages now go there") == 1);
    assert!(!again.rows().iter().any(|row| row.contains("#art")));
    leave(&again, "alice");
    let named = open(&format!("{account} --room new")).expect("tmux");
    named.shows_last("#new>");
    named.shows("all", |rows| count(rows, "-- you are in #ops; your messages now go there") == 1);
    leave(&named, "alice");
    let without = open(&format!("{account} --rejoin no")).expect("tmux");
    without.shows_last("#lobby>");
    leave(&without, "alice");
    for (flags, target) in [("", "#lobby>"), ("--rejoin yes", "#lobby>"), ("--rejoin yes", "#tea>")]
    {
        let guest = open(&format!("--name guest {flags}")).expect("tmux");
        guest.shows_last(target);
        guest.types("/join tea\r");
        guest.shows_last("#tea>");
        leave(&guest, "guest");
    }
}
