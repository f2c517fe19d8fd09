//! TLS on the same port: TLS and plain clients, broken handshakes, and the server's identity.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use chatty::protocol::Fingerprint;

use crate::support::{CHATTY, Peer, Server, has_program, send_signal, text};

const DEADLINE: Duration = Duration::from_secs(30);

/// A client that uses `openssl s_client`.
struct Client {
    child: Child,
    /// `None` after the input is closed.
    stdin: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
}

impl Client {
    /// `None` if openssl is missing, which fails the test if CI is set.
    fn connect(port: u16) -> Option<Self> {
        if !has_program("openssl") {
            return None;
        }
        let mut child = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Some(Self { stdin: child.stdin.take(), child, lines })
    }

    fn join(port: u16, name: &str) -> Option<Self> {
        let mut client = Self::connect(port)?;
        client.say(name);
        client.hears(|line| line.starts_with("[USERS"));
        Some(client)
    }

    fn say(&mut self, line: &str) {
        let mut stdin = self.stdin.as_ref().expect("open");
        stdin.write_all(format!("{line}\n").as_bytes()).expect("said");
    }

    fn hears(&mut self, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).expect("readable"), 0, "it has ended");
            let line = line.trim_end_matches('\n');
            if fits(line) {
                return line.to_owned();
            }
        }
    }

    /// Returns the rest of the output, and the error output.
    fn rest(mut self) -> (String, String) {
        let (mut rest, mut complaints) = (String::new(), String::new());
        self.lines.read_to_string(&mut rest).expect("readable");
        let mut stderr = self.child.stderr.take().expect("piped");
        stderr.read_to_string(&mut complaints).expect("readable");
        (rest, complaints)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
    stream
}

/// Reads to the end of the connection, also if it is reset.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all);
    let is_late = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!is_late, "no end in time: {}", String::from_utf8_lossy(&all));
    all
}

/// Writes a new certificate and key; returns the fingerprint.
fn make_certificate(certificate: &Path, key: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    fs::write(certificate, made.cert.pem()).expect("written");
    fs::write(key, made.signing_key.serialize_pem()).expect("written");
    Fingerprint::of(made.cert.der()).to_string()
}

#[test]
fn tls_and_plain_users_share_a_room() {
    let server = Server::start_with(&["--tls"]);
    let mut bob = Peer::join(server.port, "bob");
    let Some(mut alice) = Client::join(server.port, "alice") else { return };
    bob.say("hi alice");
    alice.hears(|line| line == "bob: hi alice");
    alice.say("hi bob");
    bob.hears(|line| line == "alice: hi bob");
    // More than any TLS buffer holds, in both directions at the same time.
    let long = "x".repeat(3000);
    let mut stdin = alice.stdin.take().expect("open");
    let text = long.clone();
    let saying = thread::spawn(move || {
        for number in 0..300 {
            stdin.write_all(format!("{number} {text}\n").as_bytes()).expect("said");
        }
        stdin.write_all(b"/history 300\n").expect("said");
        stdin
    });
    for number in 0..300 {
        let line = format!("alice: {number} {long}");
        alice.hears(|received| received == line);
        bob.hears(|received| received == line);
    }
    alice.stdin = Some(saying.join().expect("everything is sent"));
    let row = format!("Z alice: 299 {long}");
    alice.hears(|line| line.ends_with(&row));
    alice.say("/quit");
    let (rest, complaints) = alice.rest();
    assert_eq!(rest, "[BYE quit] goodbye\n");
    // Without a close_notify openssl would complain.
    assert!(!complaints.contains("unexpected eof"), "{complaints}");
}

#[test]
fn plain_connection_is_greeted_at_first_byte_or_after_one_second() {
    let server = Server::start_with(&["--tls"]);
    let start = Instant::now();
    Peer::connect(server.port);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    // Retried, since a busy machine may be slow once.
    let is_at_once = || {
        let start = Instant::now();
        let mut stream = connect(server.port);
        stream.write_all(b"\n").expect("said");
        let mut hello = [0; 6];
        stream.read_exact(&mut hello).expect("greeted");
        assert_eq!(&hello, b"[HELLO");
        start.elapsed() < Duration::from_millis(900)
    };
    assert!((0..20).any(|_| is_at_once()));
    // A client that half-closes before the timeout is greeted, too.
    let mut stream = connect(server.port);
    stream.shutdown(Shutdown::Write).expect("shut");
    let said = text(&read_to_end(&mut stream));
    assert!(said.starts_with("[HELLO ") && said.ends_with("[BYE quit] goodbye\n"), "{said}");
}

#[test]
fn tls_only_server_explains_tls_to_plain_clients() {
    let server = Server::start_with(&["--tls-only"]);
    let refusal =
        "[BYE bad-protocol] this server speaks TLS only; use chatty join --tls or ncat --ssl\n";
    for said in ["alice\n", "\n", "GET / HTTP/1.1\r\n\r\n", ""] {
        let mut stream = connect(server.port);
        stream.write_all(said.as_bytes()).expect("said");
        assert_eq!(text(&read_to_end(&mut stream)), refusal, "{said:?}");
    }
    let Some(mut alice) = Client::join(server.port, "alice") else { return };
    alice.say("hi");
    alice.hears(|line| line == "alice: hi");
}

#[test]
fn broken_handshake_ends_only_its_connection() {
    let server = Server::start_with(&["--tls"]);
    let mut bob = Peer::join(server.port, "bob");
    let record = |body: &[u8]| {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&b"\x16\x03\x01"[..], &length, body].concat()
    };
    for garbage in [
        b"\x16".to_vec(),
        b"\x16\x16\x16\x16\x16\x16\x16\x16".to_vec(),
        b"\x16\x03\x01\x00\x00".to_vec(),
        b"\x16alice\nhi\n/quit\n".to_vec(),
        record(b"\x01\x00\x00\x05hello"),
        record(b"\x02\x00\x00\x00"),
        record(&[0xff; 2000]),
        record(&[0x01, 0xff, 0xff, 0xff]),
    ] {
        let mut stream = connect(server.port);
        let _ = stream.write_all(&garbage); // the server may have closed
        let _ = stream.shutdown(Shutdown::Write);
        let said = read_to_end(&mut stream);
        // At most a TLS alert.
        assert!(said.is_empty() || said[0] == 0x15, "{garbage:?}: {said:?}");
        bob.say("still here");
        bob.hears(|line| line == "bob: still here");
    }
    assert!(bob.settles().is_empty(), "no presence lines");
}

#[test]
fn handshake_is_bounded_by_login_timeout() {
    let server = Server::start_with(&["--tls", "--login-timeout", "2s"]);
    let mut bob = Peer::join(server.port, "bob");
    // A partial handshake, and one that sends single bytes for as long as permitted.
    let mut silent = connect(server.port);
    silent.write_all(b"\x16\x03\x01\x02\x00\x01").expect("said");
    let mut dripping = connect(server.port);
    let mut sender = dripping.try_clone().expect("clone");
    let drip = thread::spawn(move || {
        let header = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03";
        for byte in header.iter().chain(std::iter::repeat(&0)) {
            if sender.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    assert_eq!(read_to_end(&mut silent), b"");
    assert_eq!(read_to_end(&mut dripping), b"");
    drop(dripping);
    drip.join().expect("the connection ends with a farewell");
    if let Some(late) = Client::connect(server.port) {
        let (said, complaints) = late.rest();
        assert!(said.contains("\n[BYE login-timeout] "), "{said}{complaints}");
    }
    bob.say("still here");
    bob.hears(|line| line == "bob: still here");
}

#[test]
fn stalled_tls_reader_is_disconnected_without_delaying_others() {
    let server = Server::start_with(&["--tls", "--write-stall", "1s"]);
    let mut bob = Peer::join(server.port, "bob");
    let Some(alice) = Client::join(server.port, "alice") else { return };
    bob.say("/set echo off");
    bob.settles();
    send_signal(alice.child.id(), "STOP");
    // More than the system's buffers hold unread.
    let line = format!("{}\n", "x".repeat(4000));
    for _ in 0..4000 {
        bob.send(line.as_bytes());
    }
    bob.hears(|line| line == "* alice quit");
    assert!(bob.settles().is_empty());
}

#[test]
fn shutdown_is_announced_over_tls() {
    let server = Server::start_with(&["--tls"]);
    let mut shaking = connect(server.port);
    shaking.write_all(b"\x16\x03\x01").expect("said");
    let alice = Client::join(server.port, "alice");
    let mut arriving = connect(server.port);
    // Logged in after the other connection was accepted.
    Peer::join(server.port, "bob");
    server.signal("TERM");
    assert!(text(&read_to_end(&mut arriving)).contains("[BYE shutting-down] "));
    assert_eq!(read_to_end(&mut shaking), b"");
    if let Some(alice) = alice {
        let (rest, complaints) = alice.rest();
        assert!(rest.contains("[BYE shutting-down] "), "{rest}");
        assert!(!complaints.contains("unexpected eof"), "{complaints}");
    }
    drop((arriving, shaking));
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn self_signed_identity_survives_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let introduce = |flags: &[&str]| Server::start_in(folder.path(), flags).logs();
    let first = introduce(&["--tls"]);
    let fingerprint = first.strip_prefix("TLS, certificate SHA-256 ").expect(&first);
    assert!(fingerprint.parse::<Fingerprint>().is_ok(), "{first}");
    assert_eq!(introduce(&["--tls-only"]), format!("TLS only, certificate SHA-256 {fingerprint}"));
    let passing = Server::start_with(&["--tls"]).logs();
    assert!(
        passing.ends_with(" (generated for this run; use --data DIR for a permanent one)"),
        "{passing}"
    );
}

#[test]
fn missing_identity_is_not_replaced_on_reload() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_in(folder.path(), &["--tls"]);
    let first = server.fingerprint();
    fs::remove_file(folder.path().join("tls-identity.pem")).expect("removed");
    server.signal("HUP");
    let said = server.logs();
    assert!(said.starts_with("TLS: the certificate was not reloaded: cannot read "), "{said}");
    assert!(!folder.path().join("tls-identity.pem").exists());
    assert_presents(server.port, &first);
}

#[test]
fn sighup_reloads_certificate_without_disconnects() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let first = make_certificate(&certificate, &key);
    let path = |path: &Path| path.to_str().expect("plain").to_owned();
    let (shown, shown_key) = (path(&certificate), path(&key));
    let server = Server::start_with(&["--tls-cert", &shown, "--tls-key", &shown_key]);
    assert_eq!(server.logs(), format!("TLS, certificate SHA-256 {first}"));
    let mut alice = Client::join(server.port, "alice");
    let mut bob = Peer::join(server.port, "bob");
    let mut talk = |what: &str| {
        bob.say(what);
        if let Some(alice) = &mut alice {
            alice.hears(|line| line == format!("bob: {what}"));
        }
    };
    talk("one");
    assert_presents(server.port, &first);
    let second = make_certificate(&certificate, &key);
    server.signal("HUP");
    assert_eq!(server.logs(), format!("TLS: certificate reloaded, SHA-256 {second}"));
    talk("two");
    assert_presents(server.port, &second);
    for (spoilt, with, words) in [
        (&key, Some("no key"), "contains no key in PEM"),
        (&certificate, None, "cannot read the certificate"),
    ] {
        match with {
            Some(text) => fs::write(spoilt, text).expect("written"),
            None => fs::remove_file(spoilt).expect("removed"),
        }
        server.signal("HUP");
        let said = server.logs();
        assert!(said.starts_with("TLS: the certificate was not reloaded: "), "{said}");
        assert!(said.contains(words), "{said}");
        talk(words);
        assert_presents(server.port, &second);
    }
}

/// Compares the fingerprint with the one that openssl computes for the certificate the server
/// currently presents.
fn assert_presents(port: u16, fingerprint: &str) {
    if !has_program("openssl") {
        return;
    }
    let script = format!(
        "openssl s_client -connect 127.0.0.1:{port} </dev/null 2>/dev/null |
         openssl x509 -noout -fingerprint -sha256"
    );
    let output = Command::new("sh").args(["-c", &script]).output().expect("sh");
    let said = text(&output.stdout);
    let (_, presented) = said.trim_end().rsplit_once('=').expect(&said);
    assert_eq!(presented.replace(':', ""), fingerprint.replace(':', ""));
}

#[test]
fn server_does_not_start_without_its_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let absent = folder.path().join("absent.pem");
    let absent = absent.to_str().expect("plain");
    for (args, code, words) in [
        (&["--tls-cert", absent, "--tls-key", absent][..], 1, "cannot read the certificate"),
        (&["--tls-cert", absent], 2, "--tls-key"),
        (&["--tls-key", absent], 2, "--tls-cert"),
    ] {
        let output = Command::new(CHATTY)
            .args(["serve", "--port", "0", "--ephemeral"])
            .args(args)
            .output()
            .expect("chatty");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn farewell_waits_for_late_reader() {
    let server = Server::start_with(&["--tls", "--outbox", "64KiB", "--write-stall", "500ms"]);
    let Some(stuck) = Client::join(server.port, "stuck") else { return };
    let mut alice = Peer::join(server.port, "alice");
    alice.say("/set echo off");
    let sockets = server.count_sockets();
    alice.send(format!("{}\n", "z".repeat(4000)).repeat(2000).as_bytes());
    alice.hears(|line| line == "* stuck quit");
    server.waits_for_fewer_sockets(sockets);
    let (said, complaints) = stuck.rest();
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("[BYE slow-reader] "), "{} {complaints}", last.len());
}
