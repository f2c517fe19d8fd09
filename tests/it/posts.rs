//! Programs that post without a login, on the real server and its log.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

use crate::support::{CHATTY, Peer, Server, history, text};

fn poster(port: u16) -> Peer {
    let mut poster = Peer::connect(port);
    poster.say("/set tags on");
    poster.next();
    poster
}

/// Removes the tags of a line.
fn plain(line: &str) -> &str {
    line.split_once(' ').expect("tags").1
}

#[test]
fn posts_survive_a_crash_and_repeats_are_recognised() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let mut bot = Peer::connect(server.port);
    // The first line may be as long as any.
    let long = "x".repeat(4096 - "/post ops alerts ".len());
    bot.say(&format!("/post ops alerts {long}"));
    assert_eq!(bot.next(), format!("#ops +alerts: {long}"));
    bot.say("/set tags on");
    bot.say("@cid=7f3a /post ops alerts disk full");
    let first = bot.hears(|line| line.contains("disk full"));
    server.kill();
    let server = Server::start_in(folder.path(), &[]);
    // The cids of all posts without an account are one space, whatever the label and room.
    let mut bot = poster(server.port);
    bot.say("@cid=7f3a /post lobby builds disk full");
    assert_eq!(bot.next(), first);
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/join ops");
    alice.settles();
    alice.say("/history");
    let rows = alice.settles();
    assert_eq!((rows.len(), rows[0].as_str()), (3, "[HISTORY #ops 2]"));
    assert!(rows[1].ends_with(&format!(" #ops +alerts: {long}")));
    assert!(rows[2].ends_with(" #ops +alerts: disk full"));
    for (search, count) in [("disk from:+alerts", 1), ("disk from:alerts", 0), ("disk", 1)] {
        alice.say(&format!("/search {search}"));
        assert_eq!(alice.settles()[0], format!("[SEARCH {count}]"), "{search}");
    }
}

#[test]
fn resumed_session_receives_posts_but_not_ignored_ones() {
    let server = Server::start();
    let mut alice = Peer::join(server.port, "alice");
    for line in ["/ignore +noise", "/set tags on", "/session"] {
        alice.say(line);
    }
    let answer = alice.hears(|line| line.contains("[SESSION "));
    let token = answer.split("[SESSION ").nth(1).expect("a token");
    let token = token.split(']').next().expect("a token").to_owned();
    drop(alice);
    let mut bot = poster(server.port);
    for (cid, label) in [("a", "noise"), ("b", "alerts"), ("c", "noise")] {
        bot.say(&format!("@cid={cid} /post lobby {label} text of {label}"));
        bot.next();
    }
    let mut alice = Peer::connect(server.port);
    alice.say(&format!("/resume {token} 0"));
    let lines = alice.settles();
    let posts: Vec<&str> =
        lines.iter().filter(|line| line.contains(": text")).map(|l| plain(l)).collect();
    assert_eq!(posts, ["+alerts: text of alerts"]);
}

/// Starts `chatty say` with this input.
fn say(port: u16, args: &[&str], input: &str) -> Output {
    let mut child = spawn(port, args);
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("an end")
}

fn spawn(port: u16, args: &[&str]) -> Child {
    Command::new(CHATTY)
        .args(["say", "--host", "127.0.0.1", "--port", &port.to_string()])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty say")
}

/// The exit code and standard error; standard output is always empty.
fn result(done: &Output) -> (Option<i32>, String) {
    assert!(done.stdout.is_empty(), "{}", text(&done.stdout));
    (done.status.code(), text(&done.stderr))
}

fn success() -> (Option<i32>, String) {
    (Some(0), String::new())
}

#[test]
fn say_posts_its_text_or_each_line_of_input() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let as_ci =
        |args: &[&str], input| result(&say(server.port, &[&["--as", "ci"], args].concat(), input));
    assert_eq!(as_ci(&["disk full"], "not read"), success());
    assert_eq!(as_ci(&["one\n\n/two"], ""), success());
    assert_eq!(as_ci(&[], "three\r\n \n/four\nfive"), success());
    assert_eq!(as_ci(&[], ""), success());
    let posts = ["disk full", "one", "/two", "three", "/four", "five"];
    assert_eq!(bob.settles(), posts.map(|text| format!("+ci: {text}")));
    bob.say("/join ops");
    bob.settles();
    assert_eq!(result(&say(server.port, &["-r", "#ops", "--as", "+up", "hi"], "")), success());
    assert_eq!(bob.next(), "#ops +up: hi");
}

#[test]
fn say_reports_what_was_refused() {
    let server = Server::start();
    let mut bob = Peer::register(server.port, "bob", "sesame");
    let long = "x".repeat(5000);
    let done = say(server.port, &["--as", "ci"], &format!("one\n{long}\ntwo\n"));
    let (code, problem) = result(&done);
    assert_eq!(code, Some(1));
    assert!(problem.starts_with("chatty: line 2: too-long: "), "{problem}");
    assert_eq!(bob.settles(), ["+ci: one", "+ci: two"]);
    for (args, code, problem) in [
        (&["--as", "bob", "x"][..], 1, "chatty: name-taken: "),
        (&["--as", "1", "x"], 2, "chatty: \"1\" is not a valid label: "),
        (&["--as", "ci", " "], 2, "there is nothing to post"),
        (&["--as", "ci", "--host", "127.0.0.1:1", "x"], 2, "cannot be used multiple times"),
        (&["--name", "bob", "x"], 77, "chatty: the account bob needs its password"),
    ] {
        let done = say(server.port, args, "");
        assert_eq!(done.status.code(), Some(code), "{args:?}");
        assert!(text(&done.stderr).contains(problem), "{}", text(&done.stderr));
    }
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let done = say(unused.port(), &["--as", "ci", "x"], "");
    assert_eq!(done.status.code(), Some(69), "{}", text(&done.stderr));
}

#[test]
fn say_proves_an_account() {
    let server = Server::start_with(&["--allow-post", "account"]);
    let mut bob = Peer::register(server.port, "bob", "sesame");
    let with = |command: &str| {
        result(&say(server.port, &["--name", "bob", "--password-cmd", command, "hi"], ""))
    };
    assert_eq!(with("echo sesame"), success());
    assert_eq!(bob.next(), "+bob: hi");
    let (code, problem) = with("echo wrong");
    assert_eq!(code, Some(77));
    assert!(problem.starts_with("chatty: bad-password: "), "{problem}");
    let (code, problem) = result(&say(server.port, &["--as", "ci", "hi"], ""));
    assert_eq!(code, Some(1));
    assert!(problem.starts_with("chatty: forbidden: "), "{problem}");
}

#[test]
fn many_programs_with_one_label_post_each_line_once() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let start = |number: usize| {
        let mut program = spawn(server.port, &["--as", "alerts"]);
        let lines: String =
            (0..25).fold(String::new(), |lines, line| lines + &format!("{number} {line}\n"));
        let _ = program.stdin.take().expect("a pipe").write_all(lines.as_bytes());
        program
    };
    let programs: Vec<Child> = (0..40).map(start).collect();
    for program in programs {
        assert_eq!(result(&program.wait_with_output().expect("an end")), success());
    }
    let mut next = [0; 40];
    for line in bob.settles() {
        let (number, count) =
            line.strip_prefix("+alerts: ").and_then(|it| it.split_once(' ')).expect("a post");
        let number: usize = number.parse().expect("a number");
        assert_eq!(count, next[number].to_string(), "in the order of each program");
        next[number] += 1;
    }
    assert_eq!(next, [25; 40]);
}

#[test]
fn say_posts_every_line_once_over_a_crash_of_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_in(folder.path(), &[]);
    let port = server.port;
    let mut program = spawn(port, &["--as", "app"]);
    let mut input = program.stdin.take().expect("a pipe");
    let mut bob = Peer::join(port, "bob");
    for part in 0..4 {
        for number in 0..50 {
            writeln!(input, "{part} {number}").expect("a pipe");
        }
        bob.hears(|line| line == format!("+app: {part} 20"));
        server.kill();
        server = Server::start_again(port, &["--data", folder.path().to_str().expect("a path")]);
        bob = Peer::join(port, "bob");
    }
    drop(input);
    assert_eq!(result(&program.wait_with_output().expect("an end")), success());
    let posts: Vec<String> = history(port, "lobby").into_iter().map(|(_, line)| line).collect();
    let expected: Vec<String> = (0..200).map(|n| format!("+app: {} {}", n / 50, n % 50)).collect();
    assert_eq!(posts, expected);
}
