//! `chatty join` for programs: JSON output, lines given as flags, colour, and exits that a script
//! can rely on.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};

use chatty::ignored_signals::is_ignored;

use crate::proxy;
use crate::support::{
    CHATTY, CHATTY_WORD, Peer, SESAME, SESAME_FILE, Server, Terminal, has_program, join,
    scripted_server, send_signal, text,
};

fn shell(script: &str) -> Output {
    let script = format!("set -o pipefail; {script}");
    Command::new("bash").args(["-c", &script]).output().expect("bash")
}

/// Runs each line through `jq`, which must accept it; `None` if `jq` is missing.
fn jq(objects: &[u8], filter: &str) -> Option<String> {
    if !has_program("jq") {
        return None;
    }
    let mut jq = Command::new("jq")
        .args(["-e", "-r", filter])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("jq");
    jq.stdin.take().expect("piped").write_all(objects).expect("objects");
    let done = jq.wait_with_output().expect("an end");
    assert!(done.status.success(), "{}\n{}", text(&done.stderr), text(objects));
    Some(text(&done.stdout))
}

#[test]
fn json_output_has_one_object_per_line() {
    let server = Server::start();
    let _bob = Peer::join(server.port, "bob");
    let input = b"hi\n/msg zed x\n/msg bob psst\n/me waves\n/join ops\n/set tags off\n/history\n";
    let done = join(server.port, &["--name", "alice", "--json"], input);
    assert_eq!(done.status.code(), Some(1));
    let shape = r#"[.type, .code // "", .line // "", .text // ""] | join("|")"#;
    let Some(shown) = jq(&done.stdout, shape) else { return };
    // The client's own refusals may come before or between the server's replies.
    let of_its_own = |line: &&str| line.starts_with("error|bad-argument|6|");
    let (refusals, objects): (Vec<&str>, Vec<&str>) = shown.lines().partition(of_its_own);
    assert_eq!(refusals, ["error|bad-argument|6|chatty join needs tags to be on"]);
    assert_eq!(
        objects,
        [
            "status|online||logged in as alice",
            "system|||welcome, alice; you are in #lobby",
            "system|||#lobby has 2 members: alice, bob",
            "msg||1|hi",
            "error|no-such-user|2|zed is not online",
            "pm||3|psst",
            "action||4|waves",
            "system||5|you are in #ops; your messages now go there",
            "system||5|#ops has 1 member: alice",
            "system||7|no messages of #ops",
        ]
    );
    let complaints = text(&done.stderr);
    let mut complaints: Vec<&str> = complaints.lines().collect();
    complaints.sort_unstable();
    assert_eq!(
        complaints,
        [
            "chatty: line 2: no-such-user: zed is not online",
            "chatty: line 6: bad-argument: chatty join needs tags to be on",
        ]
    );
}

/// Returns what is wrong with these objects according to docs/json.schema.json; `None` if the
/// program is missing.
fn schema_problems(objects: &[&str]) -> Option<String> {
    if !has_program("jsonschema") {
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut check = Command::new("jsonschema");
    for (at, object) in objects.iter().enumerate() {
        let file = folder.path().join(format!("{at}.json"));
        fs::write(&file, object).expect("a file");
        check.arg("-i").arg(file);
    }
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.schema.json");
    let done = check.arg(schema).output().expect("jsonschema");
    Some(if done.status.success() { String::new() } else { text(&done.stderr) })
}

/// The names of an object's fields that the schema does not describe.
fn unknown_fields(object: &str) -> Vec<String> {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/json.schema.json")).expect("JSON");
    let object: serde_json::Map<_, _> = serde_json::from_str(object).expect("an object");
    object
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| schema["properties"][name].is_null())
        .collect()
}

#[test]
fn every_json_object_matches_the_schema() {
    let server = Server::start_with(&["--oper-password-file", SESAME_FILE]);
    let _bob = Peer::join(server.port, "bob");
    let lines = format!(
        "/version\n/features\n/set\n/ping t1\n/help who\nhi\n/me waves\n/msg bob psst\n/me\n\
         /whois bob\n/join ops\n/topic tea\n/topic\n/topic -\n/list\n/who #lobby\n/who -l\n\
         /history 2\n/history bob\n/search hi\n/lock key\n/unlock\n/unlock\n/invite bob\n\
         /mute bob 10m\n/unmute bob\n/ban bob 7d flood\n/ban 192.0.2.0/24\n/bans\n/unban bob\n\
         /oper {SESAME}\n/gbans\n/gban 192.0.2.9 x\n/wall all\n/ignore bob\n/ignore bob\n\
         /ignore\n/unignore bob\n/away lunch\n/back\n/query bob\n/query\n/nick al\n/part\n\
         /msg zed x\n/register open sesame\n/passwd open sesame\n/unregister open sesame\n\
         /kill bob\n/session\n/quit\n"
    );
    let done = join(server.port, &["--name", "alice", "--json"], lines.as_bytes());
    let (seen, page) = (text(&done.stdout), include_str!("../../docs/json.md"));
    let words = ["WHOIS", "BANNED", "BAN", "USERS", "IGNORED", "WALL", "SET", "REGISTERED"];
    for word in words {
        assert!(seen.contains(&format!("\"word\":\"{word}\"")), "no {word} in {seen}");
    }
    let documented = page.lines().filter(|line| line.starts_with("{\"v\""));
    let objects: Vec<&str> = seen.lines().chain(documented).collect();
    let Some(problems) = schema_problems(&objects) else { return };
    assert_eq!(problems, "");
    for object in &objects {
        assert_eq!(unknown_fields(object), Vec::<String>::new(), "{object}");
    }
    assert!(seen.contains(r#""type":"nick","line":43,"from":"alice","self":true,"to":"al"}"#));
    let good = objects.iter().find(|object| object.contains("USERS")).expect("a list");
    for (from, to) in [
        ("\"v\":2", "\"v\":1"),
        ("\"users\":[", "\"users\":\"a\",\"u\":["),
        (",\"room\"", ",\"r\""),
    ] {
        let wrong = good.replacen(from, to, 1);
        assert_ne!(schema_problems(&[&wrong]).expect("jsonschema"), "", "{wrong}");
    }
}

#[test]
fn hostile_lines_become_safe_json() {
    let hostile = b"bob: \x1b]0;pwn\x07\x1b[2J \"quoted\\\" \xc2\x9b31m \xe2\x80\xae\xe2\x80\x8b\n\
        \x1b[31m[BYE x] y\n\xff\xfe\n{\"type\":\"msg\"}\n[\n@id=x;time=y;; z\n\
        [PRIVATE MESSAGE] bob: {}\n* \x1b[2J joined\n";
    let port = scripted_server(hostile);
    let done = join(port, &["--name", "alice", "--json", "--retry-for", "0"], b"");
    assert_eq!(done.status.code(), Some(69));
    let shown = text(&done.stdout);
    let is_seen = |c: char| c == '\n' || !(c.is_control() || matches!(c, '\u{202e}' | '\u{200b}'));
    assert!(shown.chars().all(is_seen), "{shown:?}");
    assert!(shown.contains(r#""text":"\u001b]0;pwn\u0007\u001b[2J \"quoted\\\" \u009b31m"#));
    let Some(types) = jq(&done.stdout, "[.type, .code // .from // \"\"] | join(\" \")") else {
        return;
    };
    assert!(types.starts_with("status online\nsystem \n"), "{types}");
    assert!(types.contains("msg bob\n") && types.contains("pm bob\n"), "{types}");
    assert!(types.ends_with("status failed\n"), "{types}");
    for object in shown.lines() {
        jq(object.as_bytes(), ".v == 2 and (.t | length) == 24");
    }
}

#[test]
fn connection_status_is_reported_as_json() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let done = join(free, &["--name", "alice", "--json"], b"hi\n");
    assert_eq!(done.status.code(), Some(69));
    let failed = jq(&done.stdout, ".code");
    assert!(failed.is_none_or(|code| code == "failed\n"));

    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    bob.say("/join ops");
    let proxy = proxy::Proxy::start(server.port);
    let mut joining = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &proxy.port.to_string(), "--name", "alice"])
        .args(["--json", "--room", "ops"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chatty join");
    let mut input = joining.stdin.take().expect("piped");
    input.write_all(b"one\n").expect("one");
    let mut objects = BufReader::new(joining.stdout.take().expect("piped"));
    let mut reported = String::new();
    while !reported.ends_with("\"self\":true}\n") {
        objects.read_line(&mut reported).expect("an object");
    }
    bob.hears(|line| line == "#ops alice: one");
    proxy.cut();
    bob.say("/msg #ops two");
    bob.hears(|line| line == "#ops bob: two");
    proxy.mend();
    input.write_all(b"three\n").expect("three");
    bob.hears(|line| line == "#ops alice: three");
    drop(input);
    objects.read_to_string(&mut reported).expect("objects");
    assert_eq!(joining.wait().expect("an end").code(), Some(0));
    let filter = "select(.type == \"status\" or .type == \"msg\") | .code // .text";
    let reported = jq(reported.as_bytes(), filter);
    assert!(reported.is_none_or(|reported| reported == "online\none\noffline\nback\ntwo\nthree\n"));
}

#[test]
fn lines_given_as_flags_are_sent_and_answered() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let done = join(server.port, &["--name", "alice", "-e", "/msg bob hi", "-e", "all"], b"no\n");
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    let end = "[PRIVATE MESSAGE to bob] alice: hi\nalice: all\n";
    assert!(text(&done.stdout).ends_with(end), "{}", text(&done.stdout));
    for line in ["* alice joined", "[PRIVATE MESSAGE] alice: hi", "alice: all", "* alice quit"] {
        assert_eq!(bob.next(), line);
    }
    let args = ["--name", "alice", "--exec", "/msg zed hi", "--exec", "two"];
    let done = join(server.port, &args, b"");
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).starts_with("chatty: line 1: no-such-user: "));
    // The second line of a private text must not be posted to the room.
    let args = ["--name", "alice", "--exec", "/msg bob one\ntwo"];
    let done = join(server.port, &args, b"");
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("contains several lines"), "{}", text(&done.stderr));
    let done = join(server.port, &["--name", "alice", "--exec", "one\n"], b"");
    assert!(done.status.success() && text(&done.stdout).ends_with("alice: one\n"));
    // A dash adds standard input, before HOST or after it.
    let done = join(server.port, &["-", "--name", "alice", "--exec", "one"], b"two\n");
    assert!(text(&done.stdout).ends_with("alice: one\nalice: two\n"), "{}", text(&done.stdout));
    // Only a dash may stand there; a netcat-style port gets advice where to put it.
    for (behind, help) in [("6667", "localhost:5555, or use --port"), ("b", "only - may follow")] {
        let done = join(server.port, &[behind], b"");
        assert_eq!(done.status.code(), Some(2));
        assert!(text(&done.stderr).contains(help), "{}", text(&done.stderr));
    }
}

#[test]
fn dash_line_or_plain_flag_disables_prompt_on_terminal() {
    let server = Server::start();
    let Some(terminal) = Terminal::join(server.port, "--name alice --exec hello") else { return };
    terminal.ends_with(0);
    let mut bob = Peer::join(server.port, "bob");
    for (name, flags) in [("carol", "-"), ("dave", "--plain"), ("erin", "--json")] {
        let terminal = Terminal::join(server.port, &format!("--name {name} {flags}"));
        let terminal = terminal.expect("tmux");
        terminal.shows("the welcome", |rows| rows.iter().any(|row| row.contains("you are in")));
        terminal.types("hi there\r");
        bob.hears(|line| line == format!("{name}: hi there"));
        let rows = terminal.rows();
        assert!(rows.iter().all(|row| !row.contains('>')), "no prompt: {rows:?}");
        terminal.presses("C-d");
        terminal.ends_with(0);
    }
    let script =
        format!("TERM=dumb {CHATTY_WORD} join 127.0.0.1 --port {} --name frank", server.port);
    let terminal = Terminal::open(&script).expect("tmux");
    terminal.types("from a dumb one\r");
    bob.hears(|line| line == "frank: from a dumb one");
    let rows = terminal.rows();
    assert!(rows.iter().all(|row| !row.contains(['>', '\u{1b}'])), "no prompt: {rows:?}");
}

#[test]
fn colour_in_pipe_is_opt_in() {
    if !has_program("bash") {
        return;
    }
    let server = Server::start();
    for (before, flags, has_color) in [
        ("", "", false),
        ("", "--color=always", true),
        ("NO_COLOR=1", "--color=always", true),
        ("FORCE_COLOR=1", "", true),
        ("FORCE_COLOR=1 NO_COLOR=1", "", true),
        ("CLICOLOR_FORCE=1", "", true),
        ("CLICOLOR_FORCE=1 NO_COLOR=1", "", false),
        ("FORCE_COLOR=1", "--color=never", false),
    ] {
        let done = shell(&format!(
            "echo hi | {before} {CHATTY_WORD} join 127.0.0.1 --port {} --name alice {flags} | \
             cat -v",
            server.port
        ));
        assert!(done.status.success(), "{}", text(&done.stderr));
        let shown = text(&done.stdout);
        assert_eq!(shown.contains("^["), has_color, "{before} {flags}: {shown}");
        assert!(shown.contains("hi\n"), "{shown}");
    }
}

/// The most common use in scripts.
#[test]
fn pipe_input_is_sent_and_output_has_no_escapes() {
    if !has_program("bash") {
        return;
    }
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let done = shell(&format!(
        "printf 'hi\\n/who\\nlast' | {CHATTY_WORD} join 127.0.0.1 --port {} --name alice > '{}'",
        server.port,
        out.display()
    ));
    assert!(done.status.success() && done.stderr.is_empty());
    let out = fs::read_to_string(out).expect("out");
    assert_eq!(out.matches("[USERS #lobby 2] alice,bob\n").count(), 2, "{out}");
    assert!(!out.contains('\u{1b}'));
    for line in ["* alice joined", "alice: hi", "alice: last", "* alice quit"] {
        assert_eq!(bob.next(), line);
    }
}

/// `tail -f` into a room, across a restart of the server.
#[test]
fn tailed_file_reaches_room_across_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, data) = (folder.path().join("log"), folder.path().join("data"));
    let mut log = fs::File::create(&file).expect("log");
    let mut server = Server::start_in(&data, &[]);
    let port = server.port;
    let mut tail = Command::new("tail")
        .args(["-n", "+1", "-f"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("tail");
    let reader = |name| {
        let mut reader = Peer::join(port, name);
        reader.say("/join ops");
        reader.hears(|line| line.starts_with("[USERS #ops"));
        reader
    };
    let mut bob = reader("bob");
    let joining = Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &port.to_string(), "--name", "app"])
        .args(["--room", "ops", "--raw"])
        .stdin(tail.stdout.take().expect("piped"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("chatty join");
    bob.hears(|line| line == "#ops * app joined");
    for n in 0..3 {
        writeln!(log, "line {n}").expect("log");
        assert_eq!(bob.next(), format!("#ops app: line {n}"));
    }
    server.kill();
    writeln!(log, "line 3").expect("log");
    let data = data.to_str().expect("a plain path").to_owned();
    let again = Server::start_again(port, &["--data", &data]);
    writeln!(log, "line 4").expect("log");
    let mut carol = reader("carol");
    // The last line is in the history or arrives live.
    carol.say("/history 10 #ops");
    carol.hears(|line| line.ends_with("#ops app: line 4"));
    // Only stored rows begin with a time; live lines do not.
    carol.say("/history 5 #ops");
    carol.say("/ping end");
    let mut seen = Vec::new();
    for line in std::iter::from_fn(|| Some(carol.next()).filter(|line| line != "[PONG end]")) {
        if let Some((_time, said)) = line.split_once(" #ops app: ") {
            seen.push(said.to_owned());
        }
    }
    let seen = seen.split_off(seen.len() - 5);
    assert_eq!(seen, ["line 0", "line 1", "line 2", "line 3", "line 4"]);
    tail.kill().expect("the end of tail");
    let _ = tail.wait();
    let done = joining.wait_with_output().expect("an end");
    assert_eq!(done.status.code(), Some(0));
    drop(again);
}

#[test]
fn exec_writes_answers_only_and_quiet_nothing() {
    let server = Server::start();
    let _bob = Peer::join(server.port, "bob");
    let written = |args: &[&str], input: &[u8]| {
        let done = join(server.port, &[&["--name", "alice"], args].concat(), input);
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    let (all, none) = ("[WELCOME alice] you are in #lobby\n[USERS #lobby 2] alice,bob\n", "");
    let exec = ["-e", "/who", "-e", "hi"];
    let answers = "[USERS #lobby 2] alice,bob\nalice: hi\n".to_owned();
    let cases = [
        (&exec[..], none, answers.clone()),
        (&["-e", "/who", "-e", "hi", "--listen"], all, answers.clone()),
        (&["-e", "/who", "-e", "hi", "--wait", "1ms"], all, answers.clone()),
        (&["-e", "hi", "-q"], none, String::new()),
        (&["-e", "hi", "-q", "--listen"], all, "alice: hi\n".to_owned()),
        (&["-e", "/history 1"], none, "[HISTORY #lobby 1]\n".to_owned()),
    ];
    for (args, login, answers) in cases {
        let (code, lines, errors) = written(args, b"never read");
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{args:?}");
        // Only the time of a row is unknown.
        let lines: String = lines
            .lines()
            .filter(|line| !line.starts_with("20"))
            .map(|l| l.to_owned() + "\n")
            .collect();
        assert_eq!(lines, format!("{login}{answers}"), "{args:?}");
    }
    assert_eq!(written(&[], b"hi\n").1, format!("{all}alice: hi\n"));
    assert_eq!(written(&["-q"], b"hi\n"), (Some(0), String::new(), String::new()));
    let (code, lines, errors) = written(&["-q"], b"/msg zed hi\n");
    assert_eq!((code, lines.as_str()), (Some(1), ""));
    assert!(errors.starts_with("chatty: line 1: no-such-user: "), "{errors}");
    let (_, objects, _) = written(&["-q", "--json"], b"hi\n");
    assert!(objects.contains("\"WELCOME\"") && objects.contains("\"hi\""), "{objects}");
}

#[test]
fn times_without_offset_are_local() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    bob.say("now");
    bob.next();
    // Fourteen hours ahead of UTC; a few minutes ago there.
    let (zone, then) = ("EST-14", jiff::Timestamp::now().as_second() - 300);
    let there = jiff::tz::TimeZone::posix(zone).expect("a zone");
    let there = jiff::Timestamp::from_second(then).expect("a time").to_zoned(there);
    let there = there.datetime().to_string();
    for (line, count) in [
        (format!("/history since {there}"), 1),
        (format!("/history until {there}"), 0),
        (format!("/search now since:{there}"), 1),
        (format!("/search now until:{there}"), 0),
        (format!("/history since {there}Z"), 0),
    ] {
        let done = Command::new(CHATTY)
            .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "ci"])
            .args(["--exec", &line])
            .envs([("CHATTY_CONFIG", "/dev/null"), ("TZ", zone)])
            .stdin(Stdio::null())
            .output()
            .expect("chatty join");
        let lines = text(&done.stdout);
        assert_eq!(lines.matches("bob: now").count(), count, "{line}: {lines}");
    }
}

/// Starts a job that logs in as `ci` and ends by itself.
fn job(port: u16, args: &[&str]) -> Child {
    Command::new(CHATTY)
        .args(["join", "127.0.0.1", "--port", &port.to_string(), "--name", "ci"])
        .args(args)
        .env("CHATTY_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty join")
}

/// Waits for the jobs to succeed; returns the messages of `ci` that bob received.
fn deliver(jobs: Vec<Child>, bob: &mut Peer) -> Vec<String> {
    for job in jobs {
        let done = job.wait_with_output().expect("an end");
        assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    }
    let lines = bob.settles().into_iter();
    let mut said: Vec<_> =
        lines.filter_map(|l| l.strip_prefix("ci: ").map(str::to_owned)).collect();
    said.sort_unstable();
    said
}

#[test]
fn jobs_sharing_guest_name_deliver_once() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let mut holder = Peer::join(server.port, "ci");
    let lines: Vec<String> = (0..8).map(|n| format!("line {n}")).collect();
    let mut jobs: Vec<_> = lines.iter().map(|line| job(server.port, &["--exec", line])).collect();
    // Every job has found the name in use.
    for job in &mut jobs {
        let mut notice = String::new();
        let stderr = job.stderr.as_mut().expect("piped");
        BufReader::new(stderr).read_line(&mut notice).expect("a notice");
        assert_eq!(notice, "chatty: the name ci is in use; waiting for it for up to 10 min\n");
    }
    holder.say("/quit");
    assert_eq!(deliver(jobs, &mut bob), lines);
}

#[test]
fn name_wait_times_out_and_is_reported_as_json() {
    let server = Server::start();
    let _holder = Peer::join(server.port, "ci");
    for (flags, reported) in [(&["--json"][..], true), (&["--json", "--quiet"], false)] {
        let args = [&["--exec", "hi", "--retry-for", "300ms"], flags].concat();
        let done = job(server.port, &args).wait_with_output().expect("an end");
        assert_eq!(done.status.code(), Some(77));
        let complaints = text(&done.stderr);
        assert_eq!(complaints.contains("waiting for it"), reported, "{complaints}");
        assert!(complaints.contains("chatty: the server refused the name: "), "{complaints}");
        let codes = jq(&done.stdout, ".code");
        assert!(codes.is_none_or(|codes| codes == "waiting\nfailed\n"));
    }
    let done = job(server.port, &["--exec", "hi", "--retry-for", "0"]).wait_with_output();
    let done = done.expect("an end");
    assert_eq!(done.status.code(), Some(77));
    assert_eq!(text(&done.stderr).lines().count(), 1, "{}", text(&done.stderr));
}

#[test]
fn name_wait_outlasts_login_timeout() {
    let server = Server::start_with(&["--login-timeout", "500ms"]);
    let mut bob = Peer::join(server.port, "bob");
    let mut holder = Peer::join(server.port, "ci");
    let mut waits = job(server.port, &["--exec", "hi"]);
    let mut notice = String::new();
    BufReader::new(waits.stderr.as_mut().expect("piped")).read_line(&mut notice).expect("a notice");
    std::thread::sleep(std::time::Duration::from_secs(1)); // past the login timeout
    holder.say("/quit");
    assert_eq!(deliver(vec![waits], &mut bob), ["hi"]);
}

#[test]
fn killed_job_releases_its_name() {
    // Slow enough for the job to be killed while it sends.
    let slow = ["--limit-loopback", "--input-rate", "4", "--input-burst", "6"];
    let server = Server::start_with(&slow);
    let mut bob = Peer::join(server.port, "bob");
    let lines: Vec<String> = (0..12).flat_map(|n| ["-e".to_owned(), n.to_string()]).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut killed = job(server.port, &lines);
    bob.hears(|line| line == "ci: 0");
    killed.kill().expect("running");
    killed.wait().expect("an end");
    // The lines already sent are posted, and the session ends.
    bob.hears(|line| line == "* ci quit");
    let done = job(server.port, &["--exec", "hi"]).wait_with_output().expect("an end");
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    bob.hears(|line| line == "ci: hi");
}

#[test]
fn jobs_sharing_account_deliver_once() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    let mut owner = Peer::register(server.port, "ci", "open sesame");
    owner.say("/quit");
    owner.rest();
    let lines: Vec<String> = (0..6).map(|n| format!("line {n}")).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    fs::write(&file, "open sesame\n").expect("written");
    let file = file.to_str().expect("a plain path");
    let shared = |line: &String| {
        let (first, last) = (format!("{line} first"), format!("{line} last"));
        job(server.port, &["--password-file", file, "-e", &first, "-e", "/who", "-e", &last])
    };
    let jobs = lines.iter().map(shared).collect();
    let expected: Vec<String> =
        lines.iter().flat_map(|line| [format!("{line} first"), format!("{line} last")]).collect();
    assert_eq!(deliver(jobs, &mut bob), expected);
}

#[test]
fn repeated_signal_does_not_skip_quit() {
    let server = Server::start();
    let mut bob = Peer::join(server.port, "bob");
    // A shell's `&` makes its jobs ignore SIGINT, and ignored signals are inherited.
    let int = if is_ignored(2) { "TERM" } else { "INT" };
    for signals in [["TERM", "TERM"], [int, int], ["TERM", "HUP"]].iter().cycle().take(9) {
        let mut alice = Command::new(CHATTY)
            .args(["join", "127.0.0.1", "--port", &server.port.to_string(), "--name", "alice"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("chatty join");
        // The client may still be logging in.
        bob.hears(|line| line == "* alice joined");
        let send = |signal: &str| send_signal(alice.id(), signal);
        send("USR1"); // ignored by the client
        send("USR2");
        for signal in signals {
            send(signal);
        }
        // Without /quit the session would keep the name, and no quit would be announced.
        bob.hears(|line| line == "* alice quit");
        let code = alice.wait().expect("an end").code();
        assert!(matches!(code, Some(129 | 130 | 143)), "{signals:?}: {code:?}");
    }
}
