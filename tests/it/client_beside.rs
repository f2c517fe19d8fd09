//! Client features beside the chat: chat log files, notifications, the terminal title, and the
//! password command.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{CHATTY_WORD, Peer, Server, Terminal, join, scripted_server, text};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// Returns the only file in a folder.
fn only_file(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap_or_else(|_| panic!("{}", folder.display()));
    let files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn chatty(home: &Path, port: u16, args: &str) -> String {
    let home = home.display();
    format!(
        "umask 022; export XDG_DATA_HOME='{home}'; \
         {CHATTY_WORD} join 127.0.0.1 --port {port} {args}; exec cat"
    )
}

#[test]
fn chat_log_files_are_private() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let home = tempfile::tempdir().expect("a folder");
    let script = chatty(home.path(), server.port, "--name alice --log");
    let Some(terminal) = Terminal::open(&script) else { return };
    terminal.shows_last("#lobby>");
    bob.say("hello");
    bob.say("/msg alice between us");
    terminal.shows("both", |rows| rows.iter().any(|row| row.ends_with("between us")));
    terminal.types("/register secret123\r");
    terminal.types("hi bob\r");
    terminal.shows("the echo", |rows| rows.iter().any(|row| row.ends_with("alice: hi bob")));
    terminal.types("/quit\r");
    bob.hears(|line| line == "* alice quit");
    let host = home.path().join(format!("chatty/log/127.0.0.1_{}", server.port));
    let (room, private) = (only_file(&host.join("lobby")), only_file(&host.join("@bob")));
    let lines = |path: &Path| -> Vec<String> {
        let text = fs::read_to_string(path).expect("a log");
        // Strip `HH:MM:SS `.
        text.lines().map(|line| line["00:00:00 ".len()..].to_owned()).collect()
    };
    assert_eq!(lines(&room), ["bob: hello", "alice: hi bob"]);
    assert_eq!(lines(&private), ["[PRIVATE MESSAGE] bob: between us"]);
    for folder in [&host, &host.join("lobby"), &home.path().join("chatty/log")] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    assert_eq!((mode(&room), mode(&private)), (0o600, 0o600));
    let name = room.file_name().unwrap().to_str().unwrap();
    let date = name.strip_suffix(".log").expect("a log");
    assert_eq!(date.split('-').map(str::len).collect::<Vec<_>>(), [4, 2, 2], "{name}");
}

#[test]
fn server_cannot_choose_number_of_chat_log_files() {
    let days = (0..5000).map(|day| {
        let (year, month, day) = (2000 + day / 300, 1 + day / 25 % 12, 1 + day % 25);
        format!("@time={year}-{month:02}-{day:02}T12:00:00.000Z bob: on that day\n")
    });
    let rooms = (0..3000).map(|room| format!("#r{room} bob: in that room\n"));
    let lines: String = days.chain(rooms).chain(["[BYE kicked] out\n".to_owned()]).collect();
    let port = scripted_server(lines.as_bytes());
    let home = tempfile::tempdir().expect("a folder");
    let script = format!(
        "XDG_DATA_HOME='{}' {CHATTY_WORD} join 127.0.0.1 --port {port} --name alice \
         --log --wait inf 2>&1 \
         < /dev/null | grep 'chatty: '",
        home.path().display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .env("CHATTY_CONFIG", "/dev/null")
        .output()
        .expect("sh");
    let said = text(&output.stdout);
    assert_eq!(said.matches("only 1000 rooms").count(), 1, "{said}");
    let host = home.path().join(format!("chatty/log/127.0.0.1_{port}"));
    let talks = fs::read_dir(&host).expect("a log").count();
    assert_eq!(talks, 1000);
    // The log may continue in a second file after midnight.
    let lobby: Vec<_> = fs::read_dir(host.join("lobby")).expect("a room").collect();
    assert!(lobby.len() <= 2, "{lobby:?}");
}

#[test]
fn chat_log_is_opt_in_and_its_write_errors_do_not_stop_chat() {
    let server = Server::start();
    let home = tempfile::tempdir().expect("a folder");
    let run = |flags: &str| {
        let script = chatty(home.path(), server.port, &format!("--name alice -e hi {flags} 2>&1"));
        let script = script.replace("; exec cat", "");
        std::process::Command::new("sh").args(["-c", &script]).output().expect("sh")
    };
    assert!(run("").status.success());
    assert!(!home.path().join("chatty").exists());
    fs::write(home.path().join("chatty"), "in the way").expect("writable");
    let done = run("--log");
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(text(&done.stdout).matches("chatty: logging stopped: ").count(), 1);
}

#[test]
fn terminal_title_shows_room_and_unread_count_and_is_restored() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(terminal) = Terminal::join(server.port, "--name alice") else { return };
    let before = terminal.title();
    terminal.shows_last("#lobby>");
    let titled = |title: &str| Terminal::waits(title, || terminal.title() == title);
    titled("chatty #lobby");
    bob.say("one");
    bob.say("/msg alice two");
    titled("chatty #lobby (2)");
    terminal.types("/join ops\r");
    titled("chatty #ops");
    terminal.types("/quit\r");
    terminal.ends_with(0);
    assert!(!terminal.title().starts_with("chatty"), "{before}: {}", terminal.title());

    let terminal = Terminal::join(server.port, "--name carol --no-title").expect("tmux");
    terminal.shows_last("#lobby>");
    bob.say("/msg carol x");
    terminal.shows("x", |rows| rows.iter().any(|row| row.ends_with("bob: x")));
    assert!(!terminal.title().starts_with("chatty"));
}

#[test]
fn mention_runs_notifier_with_text_as_one_argument() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("call");
    let calls = folder.path().join("calls");
    let script =
        format!("#!/bin/sh\nprintf '%s|%s|%s\\n' \"$#\" \"$1\" \"$2\" >> '{}'\n", calls.display());
    fs::write(&program, script).expect("writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a program");
    let flags = format!("--name alice --notify '[\"{}\",\"-x\"]'", program.display());
    let Some(terminal) = Terminal::join(server.port, &flags) else { return };
    terminal.shows_last("#lobby>");
    bob.say("malice is not meant");
    bob.say("alice: $(touch pwned); \u{7}`x` \"y\" 'z'");
    bob.say("alice: not again so soon");
    Terminal::waits("a call", || fs::read_to_string(&calls).is_ok_and(|text| text.ends_with('\n')));
    terminal.shows("all", |rows| rows.iter().any(|row| row.ends_with("so soon")));
    let called = fs::read_to_string(&calls).expect("calls");
    let text = "chatty: bob in #lobby: alice: $(touch pwned), \u{FFFD}`x` \"y\" 'z'";
    assert_eq!(called, format!("2|-x|{text}\n"));
}

#[test]
fn terminal_notification_is_sanitized_and_opt_in() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let folder = tempfile::tempdir().expect("a folder");
    let mut received = |name: &str, flags: &str, unset: &str| {
        let raw = folder.path().join(name);
        let script = format!(
            "{unset} {CHATTY_WORD} join 127.0.0.1 --port {} --name {name} --no-title {flags}; \
             exec cat",
            server.port
        );
        let terminal = Terminal::open(&script)?;
        terminal.records(&raw);
        terminal.shows_last("#lobby>");
        bob.say(&format!("/msg {name} 4;do \u{1b}]52;c;x"));
        terminal.shows("it", |rows| rows.iter().any(|row| row.contains("]52;c;x")));
        bob.say(&format!("/msg {name} the end"));
        let is_drawn = |raw: &str| raw.contains("the end");
        Terminal::waits("bytes", || fs::read_to_string(&raw).is_ok_and(|raw| is_drawn(&raw)));
        fs::read_to_string(&raw).ok()
    };
    let text = "chatty: bob: 4,do \u{FFFD}]52,c,x";
    let Some(raw) = received("alice", "", "") else { return };
    assert!(!raw.contains("\u{1b}]") && !raw.contains("chatty: "), "{raw:?}");
    let raw = received("carol", "--notify osc9", "env -u TMUX").expect("tmux");
    assert!(raw.contains(&format!("\u{1b}]9;{text}\u{7}")), "{raw:?}");
    let raw = received("dave", "--notify osc777", "env -u TMUX").expect("tmux");
    assert!(raw.contains(&format!("\u{1b}]777;notify;chatty;{text}\u{7}")), "{raw:?}");
    for how in ["bell", "osc9"] {
        let raw = received(&format!("e-{how}"), &format!("--notify {how}"), "").expect("tmux");
        assert!(raw.contains('\u{7}') && !raw.contains("\u{1b}]"), "in tmux a bell: {raw:?}");
    }
}

#[test]
fn password_command_is_run_by_sh() {
    let server = Server::start();
    let mut alice = Peer::register(server.port, "alice", "open sesame");
    alice.say("/quit");
    alice.rest();
    let run =
        |command: &str| join(server.port, &["--name", "alice", "--password-cmd", command], b"hi\n");
    let done = run("printf 'open %s\\nmore\\n' sesame");
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    assert_eq!(run("echo wrong").status.code(), Some(77));
    let done = run("exit 3");
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).starts_with("chatty: the password command failed: "));
}

#[test]
fn failing_notifier_is_reported_once() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let flags = "--name alice --notify '[\"/nowhere/at-all\"]'";
    let Some(alice) = Terminal::join(server.port, flags) else { return };
    alice.shows_last("#lobby>");
    for n in 0..2 {
        bob.say(&format!("/msg alice psst {n}"));
        alice.shows("it", |rows| rows.iter().any(|row| row.ends_with(&format!("bob: psst {n}"))));
    }
    let reported = "-- notifications fail: cannot run /nowhere/at-all: ";
    alice.shows("the refusal", |rows| {
        rows.iter().filter(|row| row.starts_with(reported)).count() == 1
    });
}
