//! Common netcat programs: each receives the same replies, byte for byte.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use crate::support::{Peer, Server, Terminal, has_program};

const INPUT: &str = "alice\n/who\nhi all\n/msg zed psst\n/ping t1\n";
const REPLIES: &str = "\
[HELLO chatty/1] type your name and press Enter (/help lists commands)
[WELCOME alice] you are in #lobby
[USERS #lobby 2] alice,bob
[USERS #lobby 2] alice,bob
alice: hi all
[ERROR no-such-user] zed is not online
[PONG t1]
[BYE quit] goodbye
";

/// Runs one program; `PORT` in its arguments stands for the server's port.
fn check(program: &str, args: &[&str], input: &str) {
    check_with(&[], program, args, input);
}

/// Like [`check`], with flags for the server.
fn check_with(flags: &[&str], program: &str, args: &[&str], input: &str) {
    if !has_program(program) {
        return;
    }
    let server = Server::start_with(flags);
    let mut bob = Peer::join(server.port, "bob");
    let port = server.port.to_string();
    let args: Vec<String> = args.iter().map(|arg| arg.replace("PORT", &port)).collect();
    let child = Command::new(program)
        .args(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.expect(program);
    // Input ends here; not every netcat closes its sending side then, so /quit ends the session.
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("input");
    let mut replies = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut replies).expect("replies");
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(replies, REPLIES, "{program} {args:?}");
    for line in ["* alice joined", "alice: hi all", "* alice quit"] {
        assert_eq!(bob.next(), line, "{program} {args:?}");
    }
}

fn check_end_of_input(program: &str, args: &[&str]) {
    check(program, args, INPUT);
}

fn check_quit(program: &str, args: &[&str]) {
    check(program, args, &format!("{INPUT}/quit\n"));
}

#[test]
fn openbsd_netcat() {
    check_end_of_input("nc.openbsd", &["-N", "127.0.0.1", "PORT"]);
    check_quit("nc.openbsd", &["127.0.0.1", "PORT"]);
    check_quit("nc.openbsd", &["-C", "127.0.0.1", "PORT"]);
}

#[test]
fn traditional_netcat() {
    check_quit("nc.traditional", &["127.0.0.1", "PORT"]);
    check_end_of_input("nc.traditional", &["-q", "5", "127.0.0.1", "PORT"]);
}

#[test]
fn ncat() {
    check_quit("ncat", &["--crlf", "127.0.0.1", "PORT"]);
    check_end_of_input("ncat", &["127.0.0.1", "PORT"]);
}

/// Bob uses plain TCP, in the same room.
#[test]
fn ncat_with_tls() {
    check_with(&["--tls"], "ncat", &["--ssl", "127.0.0.1", "PORT"], INPUT);
    check_with(&["--tls"], "ncat", &["127.0.0.1", "PORT"], INPUT);
}

#[test]
fn openssl() {
    let args = ["s_client", "-quiet", "-connect", "127.0.0.1:PORT"];
    let input = format!("{INPUT}/quit\n");
    for version in ["-tls1_2", "-tls1_3"] {
        check_with(&["--tls"], "openssl", &[&args[..], &[version]].concat(), &input);
    }
}

#[test]
fn socat() {
    check_end_of_input("socat", &["-t", "5", "-", "TCP:127.0.0.1:PORT"]);
    check_quit("socat", &["-", "TCP:127.0.0.1:PORT,crlf"]);
}

#[test]
fn busybox_netcat() {
    check_end_of_input("busybox", &["nc", "127.0.0.1", "PORT"]);
    check_quit("busybox", &["nc", "127.0.0.1", "PORT"]);
}

#[test]
fn telnet() {
    if !has_program("telnet") {
        return;
    }
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let script = format!("(echo alice; echo hi; cat) | telnet 127.0.0.1 {}", server.port);
    let child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.expect("sh");
    bob.hears(|line| line == "alice: hi");
    let mut stdin = child.stdin.take().expect("piped");
    let _ = stdin.write_all(b"/quit\n");
    drop(stdin);
    let _ = child.wait();
}

/// Telnet at a terminal: after Ctrl-C it discards output until the server answers the interrupt,
/// and its negotiation bytes must not show up as text.
#[test]
fn telnet_continues_after_ctrl_c_and_quits_cleanly() {
    if !has_program("telnet") {
        return;
    }
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let script = format!("telnet 127.0.0.1 {}; echo EXIT=$?; exec cat", server.port);
    let Some(terminal) = Terminal::open(&script) else { return };
    let shows = |end: &str| {
        terminal.shows(end, |rows| rows.iter().any(|row| row.ends_with(end)));
    };
    shows("(/help lists commands)");
    terminal.types("alice\r");
    shows("[USERS #lobby 2] alice,bob");
    terminal.types("before\r");
    shows("alice: before");
    terminal.presses("C-c");
    terminal.types("after\r");
    shows("alice: after");
    bob.say("still there?");
    shows("bob: still there?");
    for line in ["* alice joined", "alice: before", "alice: after", "bob: still there?"] {
        assert_eq!(bob.next(), line);
    }
    terminal.presses("C-]");
    shows("telnet>");
    terminal.types("quit\r");
    shows("EXIT=0");
    assert_eq!(bob.next(), "* alice quit");
}

/// Runs `scripts/demo.sh` to its end.
#[test]
fn demo_script_plays_to_end() {
    if !has_program("bash") || !has_program("nc") {
        return;
    }
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo.sh");
    let output = Command::new(demo).arg(crate::support::CHATTY).output().expect("bash");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("[PRIVATE MESSAGE] bob: nearly"), "{shown}");
}
