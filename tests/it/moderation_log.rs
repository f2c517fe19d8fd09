//! Moderation on the real server: it survives a restart and is logged.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{CHATTY, Peer, SESAME, SESAME_FILE, Server, Terminal};

fn start(folder: &Path) -> Server {
    Server::start_in(folder, &["--oper-password-file", SESAME_FILE])
}

fn answer(peer: &mut Peer, line: &str) -> String {
    peer.say(line);
    let answers = peer.settles();
    answers.into_iter().find(|line| line.starts_with('[')).unwrap_or_default()
}

fn oper(port: u16, name: &str) -> Peer {
    let mut peer = Peer::join(port, name);
    let welcome = answer(&mut peer, &format!("/oper {SESAME}"));
    assert!(welcome.starts_with(&format!("[OPER {name}]")), "{welcome}");
    peer
}

#[test]
fn server_bans_and_operators_survive_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = start(folder.path());
    let mut alice = oper(server.port, "alice");
    answer(&mut alice, "/register open sesame");
    let _guest = oper(server.port, "guest");
    let _bob = Peer::join(server.port, "bob");
    let banned = answer(&mut alice, "/gban 192.0.2.0/24 7d spam");
    assert!(banned.starts_with("[BANNED * 192.0.2.0/24] until "), "{banned}");
    alice.say("/gban bob");
    alice.settles();
    server.kill();

    let mut server = start(folder.path());
    let mut bob = Peer::connect(server.port);
    bob.say("bob");
    assert_eq!(bob.rest(), ["[BYE banned] you are banned from this server permanently"]);
    let mut alice = Peer::connect(server.port);
    alice.say("/login alice open sesame");
    alice.hears(|line| line.starts_with("[USERS"));
    assert_eq!(answer(&mut alice, "/gbans"), "[BANS * 2]");
    let mut guest = Peer::join(server.port, "guest");
    assert!(answer(&mut guest, "/gbans").starts_with("[ERROR forbidden]"), "guests are gone");
    assert_eq!(answer(&mut alice, "/gunban bob"), "[UNBANNED * bob]");
    server.kill();

    // A new operator password revokes the rights but not the bans.
    let other = folder.path().join("other.hash");
    let hash = hash_password("another one\n");
    fs::write(&other, hash.stdout).expect("a file");
    let flags = ["--oper-password-file", other.to_str().expect("a plain path")];
    let server = Server::start_in(folder.path(), &flags);
    let _bob = Peer::join(server.port, "bob");
    let mut alice = Peer::connect(server.port);
    alice.say("/login alice open sesame");
    alice.hears(|line| line.starts_with("[USERS"));
    assert!(answer(&mut alice, "/gbans").starts_with("[ERROR forbidden]"));
    assert!(answer(&mut alice, "/oper another one").starts_with("[OPER alice]"));
    assert_eq!(answer(&mut alice, "/gbans"), "[BANS * 1]");
}

#[test]
fn room_moderation_survives_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = start(folder.path());
    let mut alice = Peer::join(server.port, "alice");
    answer(&mut alice, "/register open sesame");
    let mut bob = Peer::join(server.port, "bob");
    answer(&mut bob, "/register pass word");
    let _carol = Peer::join(server.port, "carol");
    for line in ["/join ops", "/ban carol 7d", "/lock the key", "/mute bob", "/topic of age"] {
        alice.say(line);
    }
    alice.settles();
    server.kill();
    for entry in fs::read_dir(folder.path()).expect("the folder") {
        let bytes = fs::read(entry.expect("a file").path()).expect("readable");
        assert!(!bytes.windows(7).any(|part| part == b"the key"), "keys are not kept");
    }

    let server = start(folder.path());
    let log_in = |name: &str, password: &str| {
        let mut peer = Peer::connect(server.port);
        peer.say(&format!("/login {name} {password}"));
        peer.hears(|line| line.starts_with("[USERS"));
        peer
    };
    let mut carol = Peer::join(server.port, "carol");
    assert!(
        answer(&mut carol, "/join ops the key").starts_with("[ERROR forbidden] you are banned")
    );
    let mut bob = log_in("bob", "pass word");
    assert!(answer(&mut bob, "/join ops").starts_with("[ERROR forbidden] #ops is locked"));
    assert_eq!(answer(&mut bob, "/join ops a key").split(' ').next(), Some("[ERROR"));
    assert!(answer(&mut bob, "/join ops the key").starts_with("[JOINED #ops]"));
    assert!(answer(&mut bob, "hello").starts_with("[ERROR muted]"));
    assert!(answer(&mut bob, "/unlock").starts_with("[ERROR forbidden]"), "bob came first");
    let mut alice = log_in("alice", "open sesame");
    assert!(answer(&mut alice, "/join ops").starts_with("[JOINED #ops]"));
    assert_eq!(answer(&mut alice, "/unmute bob"), "[UNMUTED #ops bob]");
    assert_eq!(answer(&mut alice, "/topic"), "[TOPIC #ops] of age");
}

#[test]
fn guest_room_topic_survives_crash_when_member_resumes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = start(folder.path());
    let mut alice = Peer::join(server.port, "alice");
    let session = answer(&mut alice, "/session");
    let token = session["[SESSION ".len()..].split(']').next().expect("a token").to_owned();
    for line in ["/topic of the lobby", "/join ops", "/topic of #ops"] {
        alice.say(line);
    }
    alice.settles();
    let mut bob = Peer::join(server.port, "bob");
    for line in ["/join art", "/topic of #art"] {
        bob.say(line);
    }
    bob.settles();
    server.kill();
    let flags = ["--oper-password-file", SESAME_FILE, "--session-grace", "500ms"];
    let server = Server::start_in(folder.path(), &flags);
    let mut alice = Peer::connect(server.port);
    alice.say(&format!("/resume {token} 0"));
    alice.hears(|line| line.starts_with("[WELCOME alice]"));
    assert_eq!(answer(&mut alice, "/topic"), "[TOPIC #ops] of #ops");
    alice.say("/list");
    let rooms = alice.settles();
    assert!(rooms.iter().any(|line| line == "[ROOM #lobby 1] of the lobby"), "{rooms:?}");
    // No user can return to #art: it ended with bob's quit.
    let mut carol = Peer::join(server.port, "carol");
    Terminal::waits("the end of #art", || {
        carol.say("/join art");
        let lines = carol.settles();
        carol.say("/part art");
        carol.settles();
        !lines.iter().any(|line| line.starts_with("[TOPIC #art]"))
    });
}

#[test]
fn guest_room_keeps_bans_and_promotes_new_operator() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = start(folder.path());
    let mut alice = Peer::join(server.port, "alice");
    let _bob = Peer::join(server.port, "bob");
    for line in ["/join ops", "/ban bob", "/lock"] {
        alice.say(line);
    }
    alice.settles();
    server.kill();
    let server = start(folder.path());
    let mut bob = Peer::join(server.port, "bob");
    assert!(answer(&mut bob, "/join ops").starts_with("[ERROR forbidden] you are banned"));
    let mut carol = Peer::join(server.port, "carol");
    assert!(answer(&mut carol, "/join ops").starts_with("[JOINED #ops]"));
    assert_eq!(answer(&mut carol, "/unban bob"), "[UNBANNED #ops bob]");
}

#[test]
fn locked_room_has_operator_after_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = start(folder.path());
    let mut alice = Peer::join(server.port, "alice");
    let mut bob = Peer::join(server.port, "bob");
    let session = answer(&mut bob, "/session");
    let token = session["[SESSION ".len()..].split(']').next().expect("a token").to_owned();
    alice.say("/join ops");
    alice.settles();
    bob.say("/join ops");
    bob.settles();
    alice.say("/part");
    alice.settles();
    let mut root = oper(server.port, "root");
    assert!(answer(&mut root, "/lock").starts_with("[LOCKED #lobby]"));
    server.kill();

    let server = start(folder.path());
    let mut bob = Peer::connect(server.port);
    bob.say(&format!("/resume {token} 0"));
    bob.hears(|line| line == "#ops * server made bob an operator");
    assert!(answer(&mut bob, "/lock").starts_with("[LOCKED #ops]"));
    let mut carol = Peer::connect(server.port);
    carol.say("carol");
    carol.hears(|line| line.starts_with("[WELCOME carol] #lobby is locked"));
    assert!(answer(&mut carol, &format!("/oper {SESAME}")).starts_with("[OPER carol]"));
    carol.say("/join lobby");
    carol.settles();
    assert_eq!(answer(&mut carol, "/unlock"), "[UNLOCKED #lobby]");
}

#[test]
fn resumed_guest_keeps_room_and_moderation() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = start(folder.path());
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/session");
    let session = alice.hears(|line| line.starts_with("[SESSION "));
    let token = session["[SESSION ".len()..].split(']').next().expect("a token").to_owned();
    let _bob = Peer::join(server.port, "bob");
    for line in ["/join ops", "/ban bob", "/lock the key"] {
        alice.say(line);
    }
    alice.settles();
    server.kill();
    let server = start(folder.path());
    let mut bob = Peer::join(server.port, "bob");
    assert!(answer(&mut bob, "/join ops the key").starts_with("[ERROR forbidden] you are banned"));
    let mut alice = Peer::connect(server.port);
    alice.say(&format!("/resume {token} 0"));
    alice.hears(|line| line.starts_with("[WELCOME alice]"));
    assert_eq!(answer(&mut alice, "/unban bob"), "[UNBANNED #ops bob]");
    assert!(answer(&mut bob, "/join ops").starts_with("[ERROR forbidden] #ops is locked"));
    assert!(answer(&mut bob, "/join ops the key").starts_with("[JOINED #ops]"));
}

#[test]
fn operator_actions_are_logged_without_secrets() {
    let server = Server::start_with(&["--oper-password-file", SESAME_FILE]);
    let mut bob = Peer::join(server.port, "bob");
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/oper wrong");
    alice.say(&format!("/oper {SESAME}"));
    for line in [
        "/register private",
        "/msg bob between us",
        "/join ops",
        "/invite bob",
        "/lock the key",
        "/gban 192.0.2.7 2h \u{1b}[31m\u{2028}forged",
        "/kick nobody",
    ] {
        alice.say(line);
    }
    alice.settles();
    for expected in [
        " alice (guest, 127.0.0.1): /oper: wrong password",
        " alice (guest, 127.0.0.1): /oper: is an operator now",
        " alice (account alice, 127.0.0.1) in #ops: /invite bob",
        " alice (account alice, 127.0.0.1) in #ops: /lock",
        " alice (account alice, 127.0.0.1): /gban 192.0.2.7 2h \u{fffd}[31m\u{fffd}forged",
    ] {
        let line = server.logs();
        assert_eq!(line.split_once('Z').map(|(_, act)| act), Some(expected), "{line}");
    }
    // Any user can create a room, so its moderation is rate-limited in the log.
    bob.say("/join den");
    for _ in 0..1000 {
        bob.say("/lock");
    }
    bob.settles();
    alice.say("/wall done");
    let mut count = 0;
    while !server.logs().ends_with("/wall done") {
        count += 1;
    }
    assert!(count < 500, "{count} lines");
}

#[test]
fn oper_password_guesses_are_throttled() {
    let flags = ["--oper-password-file", SESAME_FILE, "--guess-delay", "200ms"];
    let server = Server::start_with(&flags);
    let mut mallory = Peer::join(server.port, "mallory");
    let start = std::time::Instant::now();
    for _ in 0..8 {
        mallory.say("/oper guess");
    }
    let answers = mallory.settles();
    assert!(answers.iter().all(|answer| answer.starts_with("[ERROR bad-password]")));
    assert_eq!(answers.len(), 8);
    // 0.2, 0.4, 0.8 and 1.6 seconds.
    assert!(start.elapsed().as_millis() >= 3000, "{:?}", start.elapsed());
}

fn hash_password(input: &str) -> std::process::Output {
    let mut child = Command::new(CHATTY)
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chatty");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("a password");
    child.wait_with_output().expect("an end")
}

#[test]
fn hash_password_output_is_accepted_and_bad_file_is_rejected() {
    let made = hash_password("open sesame\nand more\n");
    assert!(made.status.success());
    assert!(made.stdout.starts_with(b"$argon2id$"));
    assert!(!hash_password("\n").status.success());

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    for text in [&b""[..], b"open sesame\n", b"$5$rounds=5000$salt$hash\n", b"\xff\n"] {
        fs::write(&file, text).expect("a file");
        let output = Command::new(CHATTY)
            .args(["serve", "--ephemeral", "--port", "0", "--oper-password-file"])
            .arg(&file)
            .output()
            .expect("chatty");
        assert_eq!(output.status.code(), Some(2), "{text:?}");
    }
    // With a byte order mark and CRLF, as editors on Windows write it.
    let made = hash_password("\u{FEFF}open sesame\r\n");
    let hash = String::from_utf8(made.stdout).expect("text");
    fs::write(&file, format!("\u{FEFF}{}\r\n", hash.trim_end())).expect("a file");
    let server = Server::start_with(&["--oper-password-file", file.to_str().expect("plain")]);
    become_operator(&server);
    // A pipe can be read only once.
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(hash.as_bytes()).expect("the hash");
    drop(writer);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\"", "sh"]).stdin(reader);
    let flags = ["--ephemeral", "--oper-password-file", "/dev/stdin"];
    become_operator(&Server::spawn_under(shell, &flags));
}

fn become_operator(server: &Server) {
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/oper open sesame");
    assert!(alice.next().starts_with("[OPER alice]"));
}
