//! The client under load and damage: floods, narrow screens, wide characters, hostile bytes, and a
//! panic of its own. The draft must survive where possible.

use std::fs;
use std::thread;

use crate::support::{CHATTY, Peer, Server, Terminal, count, has_program};

/// Returns the rows from the prompt on, joined.
fn draft(rows: &[String]) -> String {
    let start = rows.iter().rposition(|row| row.contains("#lobby>")).unwrap_or(rows.len());
    rows[start..].concat()
}

#[test]
fn flood_while_typing_loses_no_line_and_no_key() {
    let server = Server::start();
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    let mut bob = Peer::join(server.port, "bob");
    let flood = thread::spawn(move || {
        for n in 0..2000 {
            bob.say(&format!("flood {n}."));
        }
        bob.settles();
        bob
    });
    let typed = "the quick brown fox jumps over the lazy dog";
    for letter in typed.chars() {
        alice.types(&letter.to_string());
    }
    let mut bob = flood.join().expect("the flood");
    let rows = alice.shows("the last line", |rows| count(rows, "bob: flood 1999.") == 1);
    let seen: Vec<&String> = rows.iter().filter(|row| row.contains("bob: flood ")).collect();
    assert_eq!(seen.len(), 2000);
    for (n, row) in seen.iter().enumerate() {
        assert!(row.ends_with(&format!(" bob: flood {n}.")), "{row} is not number {n}");
    }
    alice.shows_last(&format!("#lobby> {typed}"));
    alice.types("\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: {typed}"));
}

#[test]
fn wide_draft_on_narrow_screen_is_drawn_and_sent_whole() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.resizes(40);
    alice.shows_last("#lobby>");
    let text = "日本語の長い文".repeat(9);
    alice.types(&text);
    let drawn = |rows: &[String]| draft(rows).trim_start() == format!("#lobby> {text}");
    alice.shows("the draft", drawn);
    alice.presses("Home");
    alice.presses("Right");
    for n in 0..3 {
        bob.say(&format!("meanwhile {n}"));
    }
    alice.shows("received lines and one draft", |rows| {
        count(rows, " bob: meanwhile 2") == 1
            && rows.iter().filter(|row| row.contains("#lobby>")).count() == 1
            && drawn(rows)
    });
    alice.types("x\r");
    let sent = bob.hears(|line| line.starts_with("alice:"));
    assert_eq!(sent, format!("alice: 日x{}", text.strip_prefix('日').expect("its beginning")));
}

#[test]
fn resize_shows_draft_once_and_loses_no_line() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    let text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";
    alice.types(text);
    let drawn = |rows: &[String]| draft(rows).replace(' ', "").ends_with(&text.replace(' ', ""));
    alice.shows("the draft", drawn);
    for columns in [30, 100] {
        alice.resizes(columns);
        bob.say(&format!("at {columns}"));
        alice.shows("received lines", |rows| count(rows, &format!(" bob: at {columns}")) == 1);
    }
    // Both immediately and after a redraw.
    let whole = |rows: &[String]| {
        let times = |text: &str| rows.iter().filter(|row| row.contains(text)).count();
        ["welcome, alice", "has 2 members", "bob: at 30", "bob: at 100", "#lobby>"].map(times)
            == [1; 5]
            && drawn(rows)
            && !rows.iter().any(String::is_empty)
    };
    Terminal::waits("a whole screen", || whole(&alice.screen()));
    bob.say("more");
    alice.shows("more", |rows| count(rows, " bob: more") == 1);
    alice.presses("C-l");
    bob.say("and more");
    alice.shows("and more", |rows| count(rows, " bob: and more") == 1);
    Terminal::waits("a whole screen", || whole(&alice.screen()));
    alice.types("\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: {text}"));
}

#[test]
fn unbracketed_paste_arrives_in_order() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.pastes_raw("r1\nr2\nr3\nr4\nr5\nr6\nr7\n");
    for n in 1..=7 {
        assert_eq!(bob.hears(|line| line.starts_with("alice:")), format!("alice: r{n}"));
    }
}

#[test]
fn hostile_bytes_do_not_control_terminal() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("raw");
    let Some(alice) = Terminal::join(server.port, "--name alice --no-title") else { return };
    alice.shows_last("#lobby>");
    let title = alice.title();
    alice.types("a draft");
    alice.shows_last("#lobby> a draft");
    alice.records(&file);
    let marks = "a".to_owned() + &"\u{301}".repeat(100);
    let attacks: [&[u8]; 9] = [
        b"\x1b]0;pwn\x07",
        b"\x1b[2J\x1b[H",
        b"\x1b[6n",
        b"\x1b]52;c;cHduCg==\x07",
        b"\x9b31m",
        b"\xc2\x9b31m",
        "\u{202E}drawkcab".as_bytes(),
        "in\u{200B}vis\u{2060}ible".as_bytes(),
        marks.as_bytes(),
    ];
    for attack in attacks {
        bob.send(&[attack, b"\n"].concat());
    }
    bob.say("all done");
    alice.shows("the last line", |rows| count(rows, " bob: all done") == 1);
    alice.shows_last("#lobby> a draft");
    assert_eq!(alice.title(), title);
    Terminal::waits("the record", || fs::read(&file).is_ok_and(|raw| contains(&raw, b"all done")));
    let raw = fs::read(&file).expect("a record");
    let never: [&[u8]; 10] = [
        b"\x1b]",
        b"\x1b[2J",
        b"\x1b[H",
        b"\x1b[6n",
        b"\x07",
        b"\xc2\x9b",
        "\u{202E}".as_bytes(),
        "\u{200B}".as_bytes(),
        "\u{2060}".as_bytes(),
        "\u{301}\u{301}\u{301}\u{301}\u{301}".as_bytes(),
    ];
    for bytes in never {
        assert!(!contains(&raw, bytes), "{} is in the record", bytes.escape_ascii());
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn panic_restores_terminal_and_is_reported() {
    let server = Server::start();
    let args = "--name alice --debug-panic";
    let Some(alice) = Terminal::join(server.port, args) else { return };
    alice.shows_last("#lobby>");
    alice.types("anything\r");
    let rows = alice.ends_with(101);
    assert!(rows.iter().any(|row| row.contains("as --debug-panic asks")), "{rows:?}");
}

#[test]
fn nonblocking_terminal_is_supported() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    if !has_program("perl") {
        return;
    }
    // Programs that share the terminal may leave it nonblocking.
    let flag = "use Fcntl; fcntl(STDIN, F_SETFL, fcntl(STDIN, F_GETFL, 0) | O_NONBLOCK)";
    let script = format!(
        "perl -e '{flag}'; {CHATTY} join 127.0.0.1 --port {} --name alice; \
         echo EXIT=$?; exec sleep 1000",
        server.port
    );
    let Some(alice) = Terminal::open(&script) else { return };
    alice.shows_last("#lobby>");
    let long = "y".repeat(3000);
    bob.send(format!("{long}\n").repeat(300).as_bytes());
    bob.say("all done");
    alice.shows("the last line", |rows| count(rows, " bob: all done") == 1);
    alice.types("日本語 and so on\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: 日本語 and so on");
    alice.types("/quit\r");
    alice.shows_last("EXIT=0");
}

#[test]
fn invalid_utf8_key_is_ignored_and_draft_stays() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Terminal::join(server.port, "--name alice") else { return };
    alice.shows_last("#lobby>");
    alice.types("caf");
    alice.shows_last("#lobby> caf");
    // A Latin-1 byte that begins no valid UTF-8 sequence.
    alice.presses_bytes(&[0xE9, b' ']);
    alice.shows("a warning", |rows| rows.iter().any(|row| row.contains("not UTF-8")));
    alice.shows_last("#lobby> caf");
    alice.types("e\r");
    assert_eq!(bob.hears(|line| line.starts_with("alice:")), "alice: cafe");
}
