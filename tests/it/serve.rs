//! The server's command line: help, errors, startup, reload and shutdown.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use chatty::ignored_signals::is_ignored;
use chatty::server::ServeArgs;
use clap::Args as _;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::support::{CHATTY, Peer, Server, Terminal, text};

fn serve(args: &[&str]) -> Output {
    Command::new(CHATTY).arg("serve").args(args).output().expect("chatty")
}

/// Returns the first line that a server with these flags prints.
fn first_line(flags: &[&str]) -> String {
    let mut child = Command::new(CHATTY)
        .args(["serve", "--ephemeral"])
        .args(flags)
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("text");
    child.kill().expect("running");
    child.wait().expect("ended");
    first
}

#[test]
fn help_shows_every_flag_with_default_and_variable() {
    let output = serve(&["--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let shown = command.get_arguments().filter(|arg| arg.get_id() != "help" && !arg.is_hide_set());
    for arg in shown {
        let name = format!("--{}", arg.get_long().expect("a long flag"));
        assert!(help.contains(&name), "{name}");
        assert!(arg.get_help().is_some(), "{name} has no help");
        let variable = arg.get_env().unwrap_or_else(|| panic!("{name} has no variable"));
        assert!(help.contains(&format!("[env: {}=", variable.to_string_lossy())), "{name}");
        for default in arg.get_default_values() {
            assert!(help.contains(&*default.to_string_lossy()), "{name}");
        }
    }
}

#[test]
fn first_line_reports_listening_address_and_how_to_expose_it() {
    let first = first_line(&["--port", "0"]);
    assert!(first.starts_with("listening on 127.0.0.1:"), "{first}");
    assert!(first.contains("--bind 0.0.0.0"), "{first}");
}

#[test]
fn port_and_address_come_from_environment_or_flag() {
    let server = Server::start_with(&["--bind", "127.0.0.2"]);
    // Both addresses share the chosen free port.
    Peer::join(server.port, "alice");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = Command::new(CHATTY)
        .args(["serve", "--ephemeral"])
        .env("CHATTY_PORT", port.to_string())
        .env("CHATTY_BIND", "127.0.0.1")
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("text");
    child.kill().expect("running");
    child.wait().expect("ended");
    assert!(first.starts_with(&format!("listening on 127.0.0.1:{port} (")), "{first}");
}

#[test]
fn occupied_port_is_reported_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = serve(&["--port", &port, "--ephemeral"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.starts_with(&format!("chatty: cannot listen on 127.0.0.1:{port}: ")), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!said.contains("panicked") && said.contains("--port 0"), "{said}");
}

#[test]
fn invalid_flag_is_a_usage_error() {
    for args in [
        &["--port", "70000"][..],
        &["--bind", "nowhere"],
        &["--login-timeout", "30"],
        &["--login-timeout", "0s"],
        &["--write-stall", "0s"],
        &["--outbox", "4MB"],
        &["--outbox", "5"],
        &["--outbox", "63KiB"],
        &["--outbox-total", "256"],
        &["--history-size", "0"],
        &["--max-connections", "0"],
        &["--max-per-address", "0"],
        &["--max-unnamed", "0"],
        &["--bind", "fe80::1%nosuch"],
        &["--bind", "127.0.0.1%lo"],
        &["--frobnicate"],
        &["--data", "x", "--ephemeral"],
    ] {
        let output = serve(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(text(&output.stderr).starts_with("error: "), "{args:?}");
    }
}

#[test]
fn signal_sends_farewells_and_exits_with_0() {
    for signal in ["TERM", "INT"] {
        let server = Server::start();
        let mut people: Vec<Peer> =
            (0..5).map(|number| Peer::join(server.port, &format!("p{number}"))).collect();
        let mut stranger = Peer::connect(server.port);
        people[0].say("last words");
        people[0].hears(|line| line == "p0: last words");
        server.signal(signal);
        for person in people.iter_mut().chain([&mut stranger]) {
            let rest = person.rest();
            assert!(rest.last().unwrap().starts_with("[BYE shutting-down] "), "{rest:?}");
        }
        drop(people);
        drop(stranger);
        assert_eq!(server.wait(), Some(0), "{signal}");
    }
}

#[test]
fn second_signal_ends_server_at_once_unless_repeated_immediately() {
    for (is_repeat, code) in [(true, 0), (false, 128 + 15)] {
        let server = Server::start();
        // More than the socket buffers hold, so that the server would wait for this client.
        let mut stuck = Peer::join(server.port, "stuck");
        let mut alice = Peer::join(server.port, "alice");
        alice.say("/set echo off");
        alice.send(format!("{}\n", "z".repeat(4000)).repeat(2000).as_bytes());
        alice.settles();
        server.signal("TERM");
        let first = Instant::now();
        if is_repeat {
            server.signal("TERM");
            server.signal("INT");
        }
        alice.hears(|line| line.starts_with("[BYE shutting-down]"));
        drop(alice);
        if is_repeat {
            assert!(stuck.rest().last().expect("lines").starts_with("[BYE shutting-down]"));
            drop(stuck);
        } else {
            // The elapsed time is what is tested.
            thread::sleep(Duration::from_millis(1200).saturating_sub(first.elapsed()));
            server.signal("TERM");
        }
        assert_eq!(server.wait(), Some(code));
    }
}

#[test]
fn hangup_reloads_and_never_ends_server() {
    let server = Server::start();
    let mut alice = Peer::join(server.port, "alice");
    for _ in 0..2 {
        server.signal("HUP");
        assert!(server.logs().starts_with("SIGHUP: nothing to reload"));
        alice.say("still here");
        assert_eq!(alice.next(), "alice: still here");
    }
    drop(alice);
    assert_eq!(server.stops(), (Some(0), Vec::new()));
    // Ignored as by nohup.
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    let server = Server::spawn_under(nohup, &["--ephemeral"]);
    let mut alice = Peer::join(server.port, "alice");
    server.signal("HUP");
    alice.say("still here");
    assert_eq!(alice.next(), "alice: still here");
    drop(alice);
    assert_eq!(server.stops(), (Some(0), Vec::new()));
}

#[test]
fn signals_are_handled_from_first_line_on() {
    // A shell's `&` makes its jobs ignore SIGINT, and ignored signals are inherited.
    let int = if is_ignored(2) { "TERM" } else { "INT" };
    for signal in ["HUP", "USR1", "USR2", "TERM", int].iter().cycle().take(25) {
        let server = Server::start();
        server.signal(signal);
        if !["TERM", "INT"].contains(signal) {
            Peer::join(server.port, "alice");
            server.signal("TERM");
        }
        assert_eq!(server.wait(), Some(0), "{signal}");
    }
}

#[test]
fn help_is_printed_whole_on_nonblocking_pipe() {
    let expected = text(&serve(&["--help"]).stdout);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("non-blocking");
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("a small one");
    assert!(expected.len() > usize::try_from(size).expect("a size"));
    let mut child =
        Command::new(CHATTY).args(["serve", "--help"]).stdout(writer).spawn().expect("chatty");
    // The pipe is read only after the program blocks or has failed.
    let has_stopped = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("a process");
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['S', 'Z']))
    };
    Terminal::waits("a full pipe", has_stopped);
    let mut help = String::new();
    reader.read_to_string(&mut help).expect("text");
    assert!(child.wait().expect("an end").success());
    assert_eq!(help, expected);
}

#[test]
fn wildcard_addresses_of_both_families_can_be_repeated() {
    let first =
        first_line(&["--port", "0", "--bind", "0.0.0.0", "--bind", "::", "--bind", "0.0.0.0"]);
    let port = first.split("0.0.0.0:").nth(1).and_then(|rest| rest.split(' ').next());
    let port = port.expect("a port");
    let begin = format!("listening on 0.0.0.0:{port} and [::]:{port} (open to the network");
    assert!(first.starts_with(&begin), "{first}");
}
