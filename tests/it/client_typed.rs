//! Line editing in the client: history, hints, and overlong lines.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::support::{CHATTY_WORD, Peer, Server, Terminal, count};

/// Starts a client with its state, including the input history, in this folder.
fn start_client(server: &Server, state: &Path, flags: &str) -> Option<Terminal> {
    let script = format!(
        "XDG_STATE_HOME='{}' {CHATTY_WORD} join 127.0.0.1 --port {} --name alice {flags}; exec cat",
        state.display(),
        server.port
    );
    let terminal = Terminal::open(&script)?;
    terminal.shows_last("#lobby>");
    Some(terminal)
}

#[test]
fn input_history_persists_without_passwords() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let state = tempfile::tempdir().expect("a folder");
    let file = state.path().join("chatty/history");
    let Some(alice) = start_client(&server, state.path(), "") else { return };
    let is_told = |terminal: &Terminal| {
        terminal.rows().iter().any(|row| row.starts_with("-- /help lists the commands, "))
    };
    Terminal::waits("the hints for new users", || is_told(&alice));
    alice.types("first thing\r/msg bob between us\r/passwd old sesame\r");
    bob.hears(|line| line == "[PRIVATE MESSAGE] alice: between us");
    alice.shows("the answer", |rows| rows.iter().any(|row| row.contains("(bad-password)")));
    // Written when typed, so that it also survives a kill.
    let kept = fs::read_to_string(&file).expect("a history");
    assert!(kept.contains("first thing") && kept.contains("/msg bob between us"), "{kept}");
    assert!(!kept.contains("sesame"), "{kept}");
    assert_eq!(file.metadata().expect("a file").mode() & 0o777, 0o600);
    alice.types("/quit\r");
    bob.hears(|line| line.starts_with("* alice quit"));

    let again = start_client(&server, state.path(), "").expect("tmux");
    again.presses("Up");
    again.shows_last("#lobby> /msg bob between us");
    again.presses("C-c");
    again.presses("C-r");
    again.types("first");
    again.shows("the search", |rows| rows.iter().any(|row| row.contains("first thing")));
    again.types("\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: first thing");
    assert!(!is_told(&again));
    again.types("/quit\r");
    bob.hears(|line| line.starts_with("* alice quit"));

    let without = start_client(&server, state.path(), "--no-history").expect("tmux");
    without.types("forget me\r");
    bob.hears(|line| line == "alice: forget me");
    assert!(!fs::read_to_string(&file).expect("a history").contains("forget me"));
}

#[test]
fn hint_shows_remaining_arguments() {
    let server = Server::start();
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.types("/msg");
    alice.shows_last("#lobby> /msg NAME TEXT");
    alice.types(" bob");
    alice.shows_last("#lobby> /msg bob");
    alice.types(" ");
    alice.shows_last("#lobby> /msg bob TEXT");
    // The hint is not part of the line.
    alice.types("\r");
    let usage = "-- usage: /msg NAME TEXT (missing-argument)";
    alice.shows("the refusal", |rows| rows.iter().any(|row| row.contains(usage)));
    alice.shows_last("#lobby>");
}

#[test]
fn overlong_line_is_refused_and_stays_in_editor() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    let text = "0123456789".repeat(410);
    alice.pastes(&text);
    alice.types("\r");
    alice.shows("why", |rows| count(rows, "not sent: 4100 bytes, limit is 4096") == 1);
    bob.say("still here");
    bob.settles();
    for _ in 0..4 {
        alice.presses("BSpace");
    }
    alice.types("\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: {}", &text[..4096]));
}

#[test]
fn indented_command_and_unknown_letter_are_not_sent() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.types(" /msg bob secret\r /quiet\r12:07 [PRIVATE MESSAGE] bob: secret\r");
    let why = "-- not sent: begin the line with /msg to run it";
    alice.shows("why", |rows| rows.iter().any(|row| row.starts_with(why)));
    alice.shows("why", |rows| rows.iter().any(|row| row.contains("a copy of a private message")));
    alice.types("/a\rhello\r");
    assert_eq!(bob.hears(|line| !line.starts_with("* ")), "alice: hello");
    alice.shows("why", |rows| rows.iter().any(|row| row.contains("-- /a: ")));
}

#[test]
fn command_prefix_is_expanded_and_password_is_not_stored() {
    let server = Server::start();
    let state = tempfile::tempdir().expect("a folder");
    let Some(alice) = start_client(&server, state.path(), "") else { return };
    alice.types("/his 5\r");
    alice.shows("the answer", |rows| rows.iter().any(|row| row.contains("of #lobby")));
    alice.types("/regi sesame\r/ver\r");
    alice.shows("the last answer", |rows| {
        rows.iter().any(|row| row.contains("-- the server is chatty"))
    });
    let kept = fs::read_to_string(state.path().join("chatty/history")).expect("a history");
    assert!(kept.contains("/history 5") && !kept.contains("sesame"), "{kept}");
}

#[test]
fn help_lists_client_commands() {
    let server = Server::start();
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.types("/help quiet\r");
    alice.shows("the row", |rows| rows.iter().any(|row| row.starts_with("/quiet [ROOM]  ")));
    alice.types("/help\r");
    let rows = alice.shows("all", |rows| {
        rows.iter().any(|row| row.starts_with("/me TEXT"))
            && rows.last().is_some_and(|row| row.ends_with("#lobby>"))
    });
    let at = |start: &str| rows.iter().position(|row| row.starts_with(start)).expect(start);
    let server = ["—— for operators of the server", "/gban NAME"];
    let others = ["—— you", "/say TEXT", "—— talking ——", "/msg NAME TEXT"];
    let order: Vec<_> = server.iter().chain(&others).map(|start| at(start)).collect();
    assert!(order.is_sorted(), "{rows:?}");
    alice.types("/rec\t");
    alice.shows_last("#lobby> /reconnect");
}

#[test]
fn two_line_text_can_be_typed() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.types("above");
    alice.presses("M-Enter");
    alice.types("below\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: above");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: below");
}

#[test]
fn tab_lists_candidates_without_blocking_chat() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let _bea = Peer::join(server.port, "bea");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.types("b\t");
    alice.shows("both", |rows| rows.iter().any(|row| row.contains("bea") && row.contains("bob")));
    bob.say("meanwhile");
    alice.shows("the line", |rows| count(rows, " bob: meanwhile") == 1);
    alice.shows_last("#lobby> b");
    alice.types("o\t");
    alice.shows_last("#lobby> bob:");
    alice.types("hi\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: bob: hi");
}

#[test]
fn room_line_can_be_sent_during_query() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.types("/query bob\r");
    alice.shows_last("bob>");
    alice.types("/say hi all\r");
    assert_eq!(bob.hears(|line| line.contains("alice:")), "alice: hi all");
    alice.types("/say\r");
    alice.shows("the hint", |rows| count(rows, "-- usage: /say TEXT") == 1);
    alice.types("/part\r/say hi none\r");
    alice.shows("the refusal", |rows| {
        count(rows, "-- not sent: you are in no room; /join one to talk") == 1
    });
    alice.types("psst\r");
    assert_eq!(bob.hears(|line| line.contains("alice:")), "[PRIVATE MESSAGE] alice: psst");
}

#[test]
fn settings_change_while_the_client_runs() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice --color never") else { return };
    alice.shows_last("#lobby>");
    alice.types("/set times never\r/set highlight deploy\r/set joins on\r");
    alice.shows("the change", |rows| rows.iter().any(|row| row == "-- joins is now all"));
    alice.shows("where they last", |rows| {
        rows.iter().filter(|row| row.contains("until you leave; to keep settings")).count() == 1
    });
    bob.say("the deploy is done");
    // A mention, without a time.
    alice.shows("a mention", |rows| rows.iter().any(|row| row == ">bob: the deploy is done"));
    alice.types("/set ec\toff\r");
    alice.shows("an answer", |rows| rows.iter().any(|row| row.contains("settings: echo off")));
    alice.types("/set\r");
    alice.shows("all", |rows| {
        ["-- echo off (on, off)", "-- times never (always, minute, never)"]
            .iter()
            .all(|row| rows.iter().any(|shown| shown == row))
    });
    alice.types("/set tim\tmi\t");
    alice.shows_last("#lobby> /set times minute");
}

#[test]
fn commands_of_other_programs_get_the_right_answer() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    bob.say("before");
    alice.shows("a line", |rows| count(rows, " bob: before") == 1);
    alice.types("/clear\r");
    alice.shows("an empty screen", |_| alice.screen().concat().trim() == "#lobby>");
    alice.presses("C-l");
    alice.types("/lastlog x\r/re\r/away\r/afk lunch\r");
    alice.shows("an answer", |rows| rows.iter().any(|row| row.ends_with("you are away: lunch")));
    alice.types("/away\r/?\r");
    alice.shows("the last answer", |rows| rows.iter().any(|row| row.starts_with("/me TEXT")));
    let rows = alice.rows().join(" ");
    for text in [
        "/lastlog: no such command, did you mean /search or /history?",
        "/re: no such command, did you mean /reconnect, /register, /reply or /resume?",
        "-- say why: /away TEXT, and /back when you return",
        "-- you are away: lunch",
        "-- you are away; /back ends it, /away TEXT changes the text",
    ] {
        assert!(rows.contains(text), "{text}: {rows}");
    }
    assert!(!alice.screen().concat().contains("before"));
}
