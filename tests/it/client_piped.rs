//! `chatty join` in a pipe: the behaviour that scripts rely on.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::support::{CHATTY, CHATTY_WORD, Peer, Server, join, scripted_server, send_signal, text};

#[test]
fn piped_lines_are_sent_in_order_and_every_reply_is_printed() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let done = join(server.port, &["--name", "alice"], b"one\n/who\n\n  \ntwo\n/msg bob psst\n");
    assert_eq!(text(&done.stderr), "");
    assert_eq!(done.status.code(), Some(0));
    let lines = "[WELCOME alice] you are in #lobby
[USERS #lobby 2] alice,bob
alice: one
[USERS #lobby 2] alice,bob
alice: two
[PRIVATE MESSAGE to bob] alice: psst
";
    assert_eq!(text(&done.stdout), lines);
    for line in ["* alice joined", "alice: one", "alice: two", "[PRIVATE MESSAGE] alice: psst"] {
        assert_eq!(bob.next(), line);
    }
}

#[test]
fn refused_line_is_reported_by_number_and_rest_is_sent() {
    let server = Server::start();
    let done = join(server.port, &["--name", "alice"], b"hi\n\n/msg zed psst\n/nosuch\nbye\n");
    assert_eq!(done.status.code(), Some(1));
    let problems = text(&done.stderr);
    let problems: Vec<&str> = problems.lines().collect();
    assert!(problems[0].starts_with("chatty: line 3: no-such-user: "), "{problems:?}");
    assert!(problems[1].starts_with("chatty: line 4: unknown-command: "), "{problems:?}");
    assert_eq!(problems.len(), 2);
    assert!(text(&done.stdout).ends_with("alice: bye\n"));
}

#[test]
fn text_goes_to_the_first_of_several_rooms() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    bob.say("/join dev");
    for rooms in [&["--room", "ops,dev"][..], &["--room", "#ops", "--room", "dev"]] {
        let done = join(server.port, &[&["--name", "alice"], rooms].concat(), b"hi\n");
        assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
        let lines = text(&done.stdout);
        assert!(lines.ends_with("[USERS #ops 1] alice\n#ops alice: hi\n"), "{lines}");
        bob.hears(|line| line == "#dev * alice joined");
    }
}

#[test]
fn room_is_joined_before_first_line() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let done = join(server.port, &["--name", "alice", "--room", "ops"], b"hi\n");
    assert_eq!(done.status.code(), Some(0));
    assert!(text(&done.stdout).contains("\n#ops alice: hi\n"));
    assert_eq!(bob.next(), "* alice joined");
    assert!(bob.next().starts_with("* alice quit"), "nothing of it was for the lobby");
}

#[test]
fn unterminated_last_line_and_crlf_are_accepted() {
    let server = Server::start();
    let done = join(server.port, &["--name", "alice"], b"\xEF\xBB\xBFone\r\ntwo\r\nthree");
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    assert!(text(&done.stdout).ends_with("alice: one\nalice: two\nalice: three\n"));
}

#[test]
fn invalid_utf8_line_is_refused_by_number() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    for flags in [&[][..], &["--raw"], &["--json"]] {
        let args = [&["--name", "alice"], flags].concat();
        let done = join(server.port, &args, b"one\n\ncaf\xE9\n\xE9\ntw\xC3\xB6\nthr\xC3");
        assert_eq!(done.status.code(), Some(1));
        let refusals = text(&done.stderr);
        let numbers: Vec<_> =
            refusals.lines().map(|line| line.split(": not sent").next()).collect();
        let refused = |number| Some(format!("chatty: line {number}: bad-encoding"));
        let expected = [refused(3), refused(4), refused(6)];
        assert_eq!(numbers, expected.iter().map(Option::as_deref).collect::<Vec<_>>());
        if flags == ["--json"] {
            let error = r#""type":"error","line":3,"code":"bad-encoding""#;
            assert!(text(&done.stdout).contains(error), "{}", text(&done.stdout));
        }
        for said in ["* alice joined", "alice: one", "alice: tw\u{f6}", "* alice quit"] {
            assert_eq!(bob.next(), said);
        }
    }
}

#[test]
fn line_cut_within_character_is_reported_as_too_long() {
    let server = Server::start();
    for prefix in ["", "x", "xx"] {
        let input = format!("{prefix}{}\ntwo\n", "\u{20AC}".repeat(10_000));
        let done = join(server.port, &["--name", "alice"], input.as_bytes());
        assert!(text(&done.stderr).starts_with("chatty: line 1: too-long: "), "{:?}", done.stderr);
        assert!(text(&done.stdout).ends_with("alice: two\n"));
    }
}

#[test]
fn unreadable_input_is_an_error() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    let utf16 = folder.path().join("utf16");
    fs::write(&utf16, b"\xFF\xFEh\0i\0\r\0\n\0h\0i\0\r\0\n\0").expect("written");
    let write_only = fs::File::create(folder.path().join("empty")).expect("a file");
    for (input, flags, why) in [
        (fs::File::open(folder.path()).expect("a folder"), &[][..], "is a directory"),
        (fs::File::open(folder.path()).expect("a folder"), &["--wait", "inf"], "is a directory"),
        (fs::File::open(&utf16).expect("a file"), &["--json"], "it is utf-16; save it as utf-8"),
        (write_only, &[], "bad file descriptor"),
    ] {
        let done = Command::new(CHATTY)
            .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
            .args(flags)
            .stdin(input)
            .output()
            .expect("chatty join");
        assert_eq!(done.status.code(), Some(69), "{why}");
        let sentence = format!("cannot read standard input: {why}");
        assert_eq!(text(&done.stderr), format!("chatty: {sentence}\n"));
        if flags == ["--json"] {
            assert!(
                text(&done.stdout).contains(&format!(r#""code":"failed","text":"{sentence}""#))
            );
        }
    }
}

#[test]
fn nonblocking_input_is_awaited() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("non-blocking");
    let alice = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
        .stdin(reader)
        .stdout(Stdio::piped())
        .spawn()
        .expect("chatty join");
    bob.hears(|line| line == "* alice joined");
    for line in ["one", "two"] {
        // Wait for the reply, so that the input is empty in between.
        writer.write_all(format!("{line}\n").as_bytes()).expect("written");
        assert_eq!(bob.next(), format!("alice: {line}"));
    }
    drop(writer);
    let done = alice.wait_with_output().expect("an end");
    assert_eq!(done.status.code(), Some(0));
    assert!(text(&done.stdout).ends_with("alice: one\nalice: two\n"));
}

#[test]
fn nonblocking_output_to_slow_reader_is_written_whole() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let (out, writer) = UnixStream::pair().expect("a socket");
    writer.set_nonblocking(true).expect("non-blocking");
    let mut alice = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
        .stdin(Stdio::piped())
        .stdout(OwnedFd::from(writer))
        .spawn()
        .expect("chatty join");
    let mut input = alice.stdin.take().expect("piped");
    // More than the socket buffers hold while the client reads nothing.
    let lines: Vec<String> = (0..2000).map(|n| format!("{n} {}", "x".repeat(1000))).collect();
    let written = lines.join("\n");
    let writing = std::thread::spawn(move || input.write_all(written.as_bytes()));
    bob.hears(|line| line.starts_with("alice: 1999 "));
    let said: Vec<String> = BufReader::new(out).lines().map_while(Result::ok).skip(2).collect();
    writing.join().expect("a thread").expect("written");
    assert_eq!(alice.wait().expect("an end").code(), Some(0));
    let expected: Vec<String> = lines.iter().map(|line| format!("alice: {line}")).collect();
    assert!(said == expected, "{} lines", said.len());
}

#[test]
fn overlong_line_is_refused_and_next_line_is_sent() {
    let server = Server::start();
    let input = [b"one\n", &b"x".repeat(3_000_000)[..], b"\ntwo\n"].concat();
    let done = join(server.port, &["--name", "alice"], &input);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).starts_with("chatty: line 2: too-long: "), "{:?}", done.stderr);
    assert!(text(&done.stdout).ends_with("alice: two\n"));
}

#[test]
fn raw_mode_sends_every_line_unchanged() {
    let server = Server::start();
    let input = b"/quit\n[PRIVATE MESSAGE] bob: x\n//x\n@cid=a b\n/set tags off\n";
    let done = join(server.port, &["--name", "alice", "--raw"], input);
    assert_eq!(text(&done.stderr), "");
    assert_eq!(done.status.code(), Some(0));
    let said = text(&done.stdout);
    let said: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("alice: ")).collect();
    assert_eq!(said, ["/quit", "[PRIVATE MESSAGE] bob: x", "//x", "@cid=a b", "/set tags off"]);
}

#[test]
fn indented_or_copied_private_lines_are_refused_unless_raw() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let lines = [" /msg bob secret", "\u{3000}/msg bob secret", "12:07 [PRIVATE MESSAGE] bob: x"];
    let input = format!("{}\n /etc/hosts\n", lines.join("\n"));
    let done = join(server.port, &["--name", "alice"], input.as_bytes());
    assert_eq!(done.status.code(), Some(1));
    let problems = text(&done.stderr);
    let codes: Vec<&str> = problems.lines().filter_map(|line| line.split(": ").nth(2)).collect();
    assert_eq!(codes, ["bad-argument", "bad-argument", "no-target"], "{problems}");
    bob.hears(|line| line == "* alice joined");
    assert_eq!(bob.next(), "alice:  /etc/hosts");
    let done = join(server.port, &["--name", "carol", "--raw"], input.as_bytes());
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    bob.hears(|line| line == "* carol joined");
    for line in lines {
        assert_eq!(bob.next(), format!("carol: {line}"));
    }
}

#[test]
fn client_heartbeat_does_not_reset_idle_time() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let mut idle = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
        .args(["--ping-after", "100ms"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("chatty join");
    bob.hears(|line| line == "* alice joined");
    // Each reply resets the silence timer for bob only, so alice sends ten times per second.
    loop {
        bob.say("/whois alice");
        let whois = bob.hears(|line| line.starts_with("[WHOIS alice]"));
        if whois.contains(" idle=2s ") {
            break;
        }
        assert!(whois.contains(" idle=0s ") || whois.contains(" idle=1s "), "{whois}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    drop(idle.stdin.take());
    assert!(idle.wait().expect("an end").success());
}

#[test]
fn cid_never_becomes_text() {
    let server = Server::start();
    let done = join(server.port, &["--name", "alice"], b"/set tags off\nhi\n@cid=x y\n");
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).starts_with("chatty: line 1: bad-argument: "));
    assert!(text(&done.stdout).ends_with("alice: hi\nalice: @cid=x y\n"));
}

#[test]
fn quit_ends_input_and_later_lines_are_not_sent() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let done = join(server.port, &["--name", "alice"], b"hi\n/quit so long\nnever\n");
    assert_eq!(done.status.code(), Some(0));
    assert_eq!(bob.hears(|line| line != "* alice joined"), "alice: hi");
    assert_eq!(bob.next(), "* alice quit (so long)");
}

#[test]
fn twenty_thousand_lines_arrive_in_order() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let input = (0..20_000).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat();
    let port = server.port;
    let piping = std::thread::spawn(move || join(port, &["--name", "alice"], input.as_bytes()));
    bob.hears(|line| line == "* alice joined");
    for n in 0..20_000 {
        assert_eq!(bob.next(), format!("alice: line {n}"));
    }
    let done = piping.join().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert_eq!(text(&done.stdout).lines().count(), 20_002);
}

/// No resolver knows this name, and without `/etc/hosts` none resolves `localhost`.
#[test]
fn localhost_subdomain_resolves_to_loopback() {
    let server = Server::start();
    let port = server.port.to_string();
    let done = Command::new(CHATTY)
        .args(["join", "chatty.localhost", "--port", &port, "--name", "alice"])
        .env("CHATTY_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .expect("chatty join");
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).starts_with("[WELCOME alice]"));
}

#[test]
fn closed_output_pipe_ends_client_silently() {
    let server = Server::start();
    let script = format!(
        "yes | {{ {CHATTY_WORD} join 127.0.0.1 --port {} --name alice; echo exit=$? >&2; }} | \
         head -1",
        server.port
    );
    let done = Command::new("sh").args(["-c", &script]).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(text(&done.stdout).lines().count(), 1);
    assert_eq!(text(&done.stderr), "exit=0\n");
}

#[test]
fn exit_code_reports_outcome() {
    let server = Server::start();
    let _bob = Peer::join(server.port, "bob");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (port, args, code, problem) in [
        (server.port, &["--name", "alice"][..], 0, ""),
        (server.port, &["--name", "Bob", "--retry-for", "0"], 77, "chatty: the server refused"),
        (server.port, &["--name", "a b"], 77, "chatty: \"a b\" is not a valid name: "),
        (server.port, &["--name", "server"], 77, "chatty: \"server\" is not a valid name: "),
        (server.port, &["--name", "alice", "--room", "a b"], 2, "error: invalid value 'a b' for"),
        (server.port, &["--nosuch"], 2, "error: unexpected argument"),
        (free, &["--name", "alice"], 69, "chatty: cannot connect to 127.0.0.1:"),
    ] {
        let done = join(port, args, b"");
        assert_eq!(done.status.code(), Some(code), "{args:?}");
        assert!(text(&done.stderr).starts_with(problem), "{args:?}: {}", text(&done.stderr));
    }
}

#[test]
fn name_defaults_to_login_name_when_valid() {
    let server = Server::start();
    let run = |user: &str| {
        let mut join = Command::new(CHATTY);
        join.args(["join", "127.0.0.1", "--port", &server.port.to_string()]);
        join.env("USER", user).env_remove("LOGNAME").env_remove("CHATTY_NAME");
        join.stdin(Stdio::null()).output().unwrap()
    };
    assert!(text(&run("carol").stdout).starts_with("[WELCOME carol]"));
    let refused = run("DOMAIN\\carol");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--name NAME"));
}

#[test]
fn lost_connection_is_distinguished_from_clean_end() {
    let port = scripted_server(b"[BYE shutting-down] come back later\n");
    let done = join(port, &["--name", "alice", "--retry-for", "0"], b"hi\n");
    assert_eq!(done.status.code(), Some(69));
    assert!(text(&done.stderr).contains("come back later"), "{}", text(&done.stderr));
}

#[test]
fn server_lines_are_sanitized_by_client() {
    let port = scripted_server("bob: \x1b]0;pwn\x07\u{9b}2J\u{202E}x\ty\n".as_bytes());
    let done = join(port, &["--name", "alice", "--retry-for", "0"], b"");
    let said = text(&done.stdout);
    assert!(said.contains("bob: \u{FFFD}]0;pwn\u{FFFD}\u{FFFD}2J\u{FFFD}x\ty\n"), "{said:?}");
}

/// Starts a server on which alice is registered and offline.
fn with_account(password: &str) -> Server {
    let server = Server::start();
    let mut alice = Peer::join(server.port, "alice");
    alice.say(&format!("/register {password}"));
    alice.hears(|line| line.starts_with("[REGISTERED alice]"));
    alice.say("/quit");
    alice.rest();
    server
}

#[test]
fn password_is_read_from_file_or_environment() {
    let server = with_account("open sesame");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    let path = file.to_str().expect("a plain path");
    for content in ["open sesame\n", "\u{FEFF}open sesame\r\n"] {
        fs::write(&file, content).expect("writable");
        let done = join(server.port, &["--name", "alice", "--password-file", path], b"hi\n");
        assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
        assert!(text(&done.stdout).ends_with("alice: hi\n"));
    }
    fs::write(&file, b"\xFF\xFEo\0p\0e\0n\0").expect("writable");
    let done = join(server.port, &["--name", "alice", "--password-file", path], b"hi\n");
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("UTF-16"), "{}", text(&done.stderr));
    for (password, exit) in [("open sesame", 0), ("wrong", 77), ("", 77)] {
        let done = Command::new(CHATTY)
            .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
            .env("CHATTY_PASSWORD", password)
            .stdin(Stdio::null())
            .output()
            .expect("chatty join");
        assert_eq!(done.status.code(), Some(exit), "{password:?}: {}", text(&done.stderr));
        assert!(!text(&done.stderr).contains("sesame"));
    }
    let done = join(server.port, &["--name", "alice", "--password-file", "/nowhere"], b"hi\n");
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).starts_with("chatty: cannot read the password in /nowhere: "));
    let done = join(server.port, &["--name", "alice"], b"hi\n");
    assert_eq!(done.status.code(), Some(77));
    assert!(text(&done.stderr).contains("CHATTY_PASSWORD"), "{}", text(&done.stderr));
}

#[test]
fn wait_flag_keeps_listening_after_end_of_input() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let listen = |wait: &str| {
        Command::new(CHATTY)
            .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
            .args(["--wait", wait])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("chatty join")
    };
    let mut alice = listen("inf");
    bob.hears(|line| line == "* alice joined");
    bob.say("are you there?");
    // A client that prints messages has logged in and installed its signal handlers.
    let mut shown = BufReader::new(alice.stdout.take().expect("piped")).lines();
    assert!(shown.by_ref().map_while(Result::ok).any(|line| line == "bob: are you there?"));
    send_signal(alice.id(), "TERM");
    assert_eq!(alice.wait().expect("an end").code(), Some(143));
    let done = listen("100ms").wait_with_output().expect("an end");
    assert!(done.status.success());
}

#[test]
fn raw_line_of_maximum_length_is_sent() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let long = "x".repeat(4096);
    let done = join(server.port, &["--name", "alice", "--raw"], long.as_bytes());
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(bob.hears(|line| line.starts_with("alice: ")), format!("alice: {long}"));
}

#[test]
fn unwritable_output_is_an_error() {
    let server = Server::start();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let done = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
        .stdin(Stdio::null())
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("chatty join");
    assert_eq!(done.status.code(), Some(69));
    assert!(text(&done.stderr).starts_with("chatty: cannot write to standard output: "));
}
