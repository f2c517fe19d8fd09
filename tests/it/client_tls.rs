//! `chatty join` over TLS: which servers it trusts, how it explains a rejection, and that it sends
//! nothing to a server that it does not trust.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::support::{
    CHATTY, CHATTY_WORD, Peer, SESAME, SESAME_FILE, Server, Terminal, report_skipped, text,
};

/// A home folder of its own, without known hosts.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn known_hosts(&self) -> PathBuf {
        self.0.path().join("chatty/known_hosts")
    }

    fn command(&self, address: &str, args: &[&str]) -> Command {
        let mut command = Command::new(CHATTY);
        command
            .args(["join", address, "--name", "alice"])
            .args(args)
            .env("XDG_DATA_HOME", self.0.path())
            .env("CHATTY_CONFIG", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn join(&self, port: u16, args: &[&str]) -> Output {
        self.say(&format!("127.0.0.1:{port}"), args, "hi\n")
    }

    fn say(&self, address: &str, args: &[&str], lines: &str) -> Output {
        finish(&mut self.command(address, args), lines)
    }
}

fn finish(command: &mut Command, lines: &str) -> Output {
    let mut child = command.spawn().expect("chatty join");
    let mut stdin = child.stdin.take().expect("piped");
    let _ = stdin.write_all(lines.as_bytes()); // the client may have exited
    drop(stdin);
    child.wait_with_output().expect("an end")
}

fn assert_welcome(output: &Output) {
    let (said, complaints) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{complaints}");
    assert!(said.ends_with("\nalice: hi\n"), "{said}");
}

fn assert_refused(output: &Output, words: &[&str]) {
    let complaints = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{complaints}");
    assert_eq!(text(&output.stdout), "");
    assert_eq!(complaints.lines().count(), 1, "{complaints}");
    for word in words {
        assert!(complaints.contains(word), "{word}: {complaints}");
    }
}

#[test]
fn new_certificate_is_trusted_once_and_changed_one_is_rejected() {
    let (home, folder) = (Home::new(), tempfile::tempdir().expect("a folder"));
    let server = Server::start_in(folder.path(), &["--tls"]);
    let (port, first) = (server.port, server.fingerprint());
    let host = format!("127.0.0.1:{port}");
    let met = home.join(port, &["--tls"]);
    assert_welcome(&met);
    let introduction =
        format!("chatty: first connection to {host}: trusting its certificate (SHA-256 {first})\n");
    assert_eq!(text(&met.stderr), introduction);
    let known = home.known_hosts();
    assert_eq!(fs::read_to_string(&known).expect("kept"), format!("{host} {first}\n"));
    assert_eq!(fs::metadata(&known).expect("kept").permissions().mode() & 0o777, 0o600);
    let again = home.join(port, &["--tls"]);
    assert_welcome(&again);
    assert_eq!(text(&again.stderr), "");
    drop(server);

    fs::remove_file(folder.path().join("tls-identity.pem")).expect("an identity");
    let (port, data) = (port.to_string(), folder.path().to_str().expect("plain"));
    let other = Server::start_again(port.parse().expect("a port"), &["--data", data, "--tls"]);
    let second = other.fingerprint();
    assert_ne!(first, second);
    let mut witness = Peer::join(other.port, "witness");
    let path = known.to_str().expect("plain");
    let changed = home.join(other.port, &["--tls"]);
    assert_refused(&changed, &["HAS CHANGED", &first, &second, &host, path]);
    assert!(witness.settles().is_empty(), "nothing was said to it");
    // Follow the advice in the error.
    fs::write(&known, "").expect("written");
    assert_welcome(&home.join(other.port, &["--tls"]));
}

#[test]
fn unreadable_known_hosts_is_rejected_and_unwritable_is_reported() {
    let (home, server) = (Home::new(), Server::start_with(&["--tls"]));
    fs::create_dir_all(home.known_hosts()).expect("a folder in its place");
    let unread = home.join(server.port, &["--tls"]);
    assert_refused(&unread, &["cannot tell whether the server is known", "known_hosts"]);
    fs::remove_dir(home.known_hosts()).expect("removed");
    // A path where no user, not even root, can create a folder.
    let mut unkept = home.command(&format!("127.0.0.1:{}", server.port), &["--tls"]);
    let unkept = finish(unkept.env("XDG_DATA_HOME", "/proc"), "hi\n");
    assert_welcome(&unkept);
    let complaints = text(&unkept.stderr);
    assert!(complaints.contains("first connection to "), "{complaints}");
    assert!(complaints.contains("chatty: cannot store the fingerprint: "), "{complaints}");
    let mut nowhere = home.command(&format!("127.0.0.1:{}", server.port), &["--tls"]);
    let output = finish(nowhere.env_remove("HOME").env("XDG_DATA_HOME", "relative"), "hi\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--tls-fingerprint"), "{}", text(&output.stderr));
}

#[test]
fn damaged_known_hosts_line_is_rejected_with_line_number() {
    let (home, server) = (Home::new(), Server::start_with(&["--tls"]));
    let port = server.port;
    assert_welcome(&home.join(port, &["--tls"]));
    let known = home.known_hosts();
    let whole = fs::read_to_string(&known).expect("kept");
    let upper = whole.to_uppercase();
    fs::write(&known, format!("# mine\n{upper}")).expect("written");
    let again = home.join(port, &["--tls"]);
    assert_welcome(&again);
    assert_eq!(text(&again.stderr), "", "known in any case");
    for end in [whole.len() - 2, whole.len() - 40, 16, 10] {
        let damaged = format!("# mine\nother.example:5555 {}{}", &whole[16..], &whole[..end]);
        fs::write(&known, &damaged).expect("written");
        let refused = home.join(port, &["--tls"]);
        assert_refused(&refused, &["cannot tell whether", "known_hosts:", "delete it"]);
        assert_eq!(fs::read_to_string(&known).expect("kept"), damaged, "nothing was added");
    }
    // Damaged lines of other hosts do not matter.
    fs::write(&known, format!("other.example:5555 {}\n{whole}", &whole[16..30])).expect("written");
    assert_welcome(&home.join(port, &["--tls"]));
}

#[test]
fn missing_home_is_reported_only_when_needed() {
    let (home, server) = (Home::new(), Server::start_with(&["--tls"]));
    let address = format!("127.0.0.1:{}", server.port);
    let with_home = |path: Option<&str>, args: &[&str]| {
        let mut command = home.command(&address, args);
        for variable in ["CHATTY_CONFIG", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
            command.env_remove(variable);
        }
        match path {
            Some(path) => finish(command.env("HOME", path), "hi\n"),
            None => finish(command.env_remove("HOME"), "hi\n"),
        }
    };
    for path in [Some("/dev/null"), Some("/nonexistent"), Some("relative"), Some(""), None] {
        let output = with_home(path, &[]);
        assert_welcome(&output);
        assert_eq!(text(&output.stderr), "", "{path:?}");
    }
    let refused = with_home(Some("/dev/null"), &["--tls"]);
    let reported = ["cannot tell whether", "/dev/null/.local/share", "--tls-fingerprint"];
    assert_refused(&refused, &reported);
    let fingerprint = server.fingerprint();
    assert_welcome(&with_home(Some("/dev/null"), &["--tls-fingerprint", &fingerprint]));
}

#[test]
fn certificate_rejection_is_explained() {
    let (home, folder) = (Home::new(), tempfile::tempdir().expect("a folder"));
    let authority_key = KeyPair::generate().expect("a key");
    let mut sheet = CertificateParams::new(["localhost".to_owned()]).expect("a sheet");
    sheet.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = sheet.self_signed(&authority_key).expect("signed").pem();
    let issuer = Issuer::new(sheet, authority_key);
    let signed = |change: fn(&mut CertificateParams)| {
        let key = KeyPair::generate().expect("a key");
        let mut sheet = CertificateParams::new(["localhost".to_owned()]).expect("a sheet");
        change(&mut sheet);
        (sheet.signed_by(&key, &issuer).expect("signed").pem(), key.serialize_pem())
    };
    let authority_itself = (authority.clone(), issuer.key().serialize_pem());
    for (number, ((certificate, key), words)) in [
        (authority_itself, "is an authority's and not a server's"),
        (
            signed(|sheet| sheet.not_after = rcgen::date_time_ymd(2020, 2, 3)),
            "expired on 2020-02-03",
        ),
        (signed(|sheet| sheet.not_before = rcgen::date_time_ymd(2222, 2, 3)), "clock"),
        (
            signed(|sheet| *sheet = CertificateParams::new(["other.test".to_owned()]).expect("ok")),
            "it is for other.test and not for localhost",
        ),
        (
            signed(|sheet| {
                sheet.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::EmailProtection];
            }),
            "not issued for servers",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let file = |name: &str, text: &str| {
            let path = folder.path().join(format!("{number}-{name}"));
            fs::write(&path, text).expect("written");
            path.to_str().expect("plain").to_owned()
        };
        let (certificate, key) = (file("cert.pem", &certificate), file("key.pem", &key));
        let server = Server::start_with(&["--tls-cert", &certificate, "--tls-key", &key]);
        let address = format!("localhost:{}", server.port);
        let mut command = home.command(&address, &["--tls-verify"]);
        command.env("SSL_CERT_FILE", file("ca.pem", &authority)).env_remove("SSL_CERT_DIR");
        let refused = finish(&mut command, "hi\n");
        assert_refused(&refused, &["certificate not trusted", words]);
    }
}

#[test]
fn pinned_fingerprint_is_required() {
    let (home, server) = (Home::new(), Server::start_with(&["--tls-only"]));
    let right = server.fingerprint();
    assert_welcome(&home.join(server.port, &["--tls-fingerprint", &right]));
    let plain = right.replace(':', "").to_lowercase();
    assert_welcome(&home.join(server.port, &["--tls-fingerprint", &plain]));
    let wrong = "0".repeat(64);
    let other = home.join(server.port, &["--tls-fingerprint", &wrong]);
    assert_refused(&other, &["ANOTHER SERVER", &right]);
    assert!(!home.known_hosts().exists());
    let usage = home.join(server.port, &["--tls-fingerprint", "abc"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(text(&usage.stderr).contains("64 hexadecimal digits"), "{}", text(&usage.stderr));
}

/// Returns a certificate for localhost signed by an authority, its key, and the authority's
/// certificate.
fn make_signed_certificate(folder: &Path) -> (PathBuf, PathBuf, PathBuf) {
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).expect("written");
        path
    };
    let mut sheet = CertificateParams::new([]).expect("a sheet");
    sheet.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let authority = sheet.self_signed(&authority_key).expect("signed").pem();
    let issuer = Issuer::new(sheet, authority_key);
    let key = KeyPair::generate().expect("a key");
    let sheet = CertificateParams::new(["localhost".to_owned()]).expect("a sheet");
    let certificate = sheet.signed_by(&key, &issuer).expect("signed").pem();
    let certificate = file("certificate.pem", certificate);
    (certificate, file("key.pem", key.serialize_pem()), file("authority.pem", authority))
}

#[test]
fn certificate_authority_verifies_host_name() {
    let (home, folder) = (Home::new(), tempfile::tempdir().expect("a folder"));
    let (certificate, key, authority) = make_signed_certificate(folder.path());
    let plain = |path: &Path| path.to_str().expect("plain").to_owned();
    let server =
        Server::start_with(&["--tls-cert", &plain(&certificate), "--tls-key", &plain(&key)]);
    let join = |host: &str, authority: &str| {
        let address = format!("{host}:{}", server.port);
        let mut command = home.command(&address, &["--tls-verify"]);
        finish(command.env("SSL_CERT_FILE", authority).env_remove("SSL_CERT_DIR"), "hi\n")
    };
    assert_welcome(&join("localhost", &plain(&authority)));
    assert_refused(&join("127.0.0.1", &plain(&authority)), &["certificate not trusted"]);
    let stranger = tempfile::tempdir().expect("a folder");
    let (_, _, other) = make_signed_certificate(stranger.path());
    assert_refused(&join("localhost", &plain(&other)), &["certificate not trusted"]);
    let none = join("localhost", "/dev/null");
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("SSL_CERT_FILE"), "{}", text(&none.stderr));
}

#[test]
fn tls_mismatch_is_explained() {
    let home = Home::new();
    let server = Server::start();
    let output = home.join(server.port, &["--tls"]);
    assert_refused(&output, &["does not speak TLS", "chatty serve --tls"]);
    assert!(!home.known_hosts().exists());
    let server = Server::start_with(&["--tls-only"]);
    assert_refused(&home.join(server.port, &[]), &["speaks TLS only", "chatty join --tls"]);
}

#[test]
fn reconnect_rejects_changed_certificate() {
    let (home, folder) = (Home::new(), tempfile::tempdir().expect("a folder"));
    let server = Server::start_in(folder.path(), &["--tls"]);
    let (port, data) = (server.port, folder.path().to_str().expect("plain").to_owned());
    let address = format!("127.0.0.1:{port}");
    let mut child = home.command(&address, &["--tls"]).spawn().expect("chatty join");
    let mut stdin = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut hears = |end: &str| {
        assert!(lines.any(|line| line.expect("text").ends_with(end)), "never: {end}");
    };
    stdin.write_all(b"one\n").expect("said");
    hears("alice: one");
    // The same certificate, after a restart.
    drop(server);
    let server = Server::start_again(port, &["--data", &data, "--tls"]);
    stdin.write_all(b"two\n").expect("said");
    hears("alice: two");
    drop(server);
    fs::remove_file(folder.path().join("tls-identity.pem")).expect("an identity");
    // The running client still remembers the certificate when the file is deleted.
    fs::remove_file(home.known_hosts()).expect("known");
    let _server = Server::start_again(port, &["--data", &data, "--tls"]);
    let output = {
        drop(stdin);
        child.wait_with_output().expect("an end")
    };
    let complaints = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{complaints}");
    assert!(complaints.contains("HAS CHANGED"), "{complaints}");
}

#[test]
fn terminal_asks_whether_to_trust_new_server() {
    let (home, server) = (Home::new(), Server::start_with(&["--tls"]));
    let fingerprint = server.fingerprint();
    let mut bob = Peer::join(server.port, "bob");
    let script = format!(
        "XDG_DATA_HOME='{}' {CHATTY_WORD} join 127.0.0.1 --port {} --name alice --tls; exec cat",
        home.0.path().display(),
        server.port
    );
    let Some(terminal) = Terminal::open(&script) else { return };
    terminal.shows("the fingerprint", |rows| rows.concat().contains(&fingerprint[..60]));
    terminal.shows_last("Connect? (yes, no or the fingerprint):");
    terminal.types("y\r");
    terminal.shows_last("Type yes, no or the fingerprint:");
    terminal.types("no\r");
    terminal.shows("the refusal", |rows| rows.concat().contains("the server is not trusted"));
    assert!(!home.known_hosts().exists());
    let Some(terminal) = Terminal::open(&script) else { return };
    terminal.shows_last("Connect? (yes, no or the fingerprint):");
    terminal.types("yes\r");
    terminal.shows_last("#lobby>");
    assert!(fs::read_to_string(home.known_hosts()).expect("kept").contains(&fingerprint));
    terminal.types("hi\r");
    bob.hears(|line| line == "alice: hi");
    bob.say("hi alice");
    terminal.shows("bob", |rows| rows.iter().any(|row| row.ends_with("bob: hi alice")));
}

#[test]
fn script_refuses_or_accepts_new_server_as_told() {
    let (home, server) = (Home::new(), Server::start_with(&["--tls"]));
    let fingerprint = server.fingerprint();
    let refused = home.join(server.port, &["--tls-known"]);
    assert_refused(&refused, &["the server is not known (--tls-known)", &fingerprint]);
    assert!(!home.known_hosts().exists());
    assert_welcome(&home.join(server.port, &["--tls-accept-new"]));
    let known = home.join(server.port, &["--tls-known"]);
    assert_welcome(&known);
    assert_eq!(text(&known.stderr), "");
    let both = home.join(server.port, &["--tls-known", "--tls-accept-new"]);
    assert_eq!(both.status.code(), Some(2));
}

/// Returns a non-loopback address of this machine, if there is one.
fn external_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // sends nothing
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

#[test]
fn passwords_over_tls_are_accepted_from_other_hosts() {
    let Some(external_address) = external_address() else {
        report_skipped("this machine has no network");
        return;
    };
    let home = Home::new();
    let bind = external_address.to_string();
    let server =
        Server::start_with(&["--tls", "--bind", &bind, "--oper-password-file", SESAME_FILE]);
    let address = format!("{external_address}:{}", server.port);
    let lines = format!("/register secret\n/oper {SESAME}\n");
    let open = home.say(&address, &[], &lines);
    let said = text(&open.stdout);
    assert_eq!(said.matches("[ERROR insecure]").count(), 2, "{said}");
    let secure = home.say(&address, &["--tls"], &lines);
    let said = text(&secure.stdout);
    assert_eq!(secure.status.code(), Some(0), "{said}");
    assert!(said.contains("[REGISTERED alice]") && said.contains("[OPER alice]"), "{said}");
    let mut command = home.command(&address, &["--tls"]);
    let again = finish(command.env("CHATTY_PASSWORD", "secret"), "hi\n");
    assert_welcome(&again);
}

#[test]
fn large_transfers_in_both_directions_complete() {
    let (home, server) = (Home::new(), Server::start_with(&["--tls"]));
    let mut lines = String::new();
    for number in 0..3000 {
        let _ = writeln!(lines, "{number} {}", "x".repeat(500));
    }
    let address = format!("127.0.0.1:{}", server.port);
    let mut child = home.command(&address, &["--tls"]).spawn().expect("chatty join");
    let mut stdin = child.stdin.take().expect("piped");
    let saying = thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("an end");
    saying.join().expect("a thread").expect("everything is sent");
    let said = text(&output.stdout);
    let echoes = said.lines().filter_map(|line| line.strip_prefix("alice: "));
    let numbers = echoes.map(|echo| echo.split(' ').next().and_then(|n| n.parse().ok()));
    assert!(numbers.eq((0..3000).map(Some)), "each once and in order");
    assert_eq!(output.status.code(), Some(0));
}
