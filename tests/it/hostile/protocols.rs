//! Other protocols, TLS to a plain server and plain text to a TLS server, endless handshakes, and
//! random bytes: rows 11 to 13.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio_rustls::rustls;

use super::watch::{Watch, is_presence, scale};
use super::{connect, read_to_end, watched};
use crate::any_input::checks::Draw;
use crate::support::{Peer, Server, has_program};

#[test]
fn n11_n13_other_protocols_do_not_log_in() {
    watched(
        &[],
        |line| is_presence(line, &["bob"]),
        |port| {
            let mut bob = Peer::join(port, "bob");
            let openings: [&[u8]; 9] = [
                b"POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nmallory\r\n/join lobby\r\npwned\r\n",
                b"GET / HTTP/1.1\r\n\r\nmallory\r\npwned\r\n",
                b"OPTIONS * HTTP/1.1\r\n\r\nmallory\r\npwned\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmallory\r\npwned\r\n",
                b"CNXN\0\0\0\x01\0\x10\0\0\x07\0\0\0\x32\x02\0\0\xbc\xb1\xa7\xb1host::\0",
                b"SSH-2.0-x\r\nmallory\r\npwned\r\n",
                b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nmallory\r\npwned\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03mallory\npwned\n",
                b"GET / HTTP/1.0\nmallory\npwned\n",
            ];
            for opening in openings {
                let mut socket = connect(port);
                socket.write_all(opening).expect("a socket");
                assert!(
                    read_to_end(&socket).contains("[BYE bad-protocol] "),
                    "{}",
                    opening.escape_ascii()
                );
            }
            assert_eq!(bob.settles(), [""; 0]);
        },
    );
}

/// Remote desktop, file sharing, and random protocols.
#[test]
fn n13_random_bytes() {
    // A random line may be a single letter, which is a valid name; later lines may then be text.
    let is_noise = |line: &str| {
        let line = line.strip_prefix("* ").unwrap_or(line);
        let name = line.split([':', ' ']).next().unwrap_or_default();
        name == "bob" || (1..3).contains(&name.chars().count())
    };
    watched(&[], is_noise, |port| {
        let mut bob = Peer::join(port, "bob");
        let mut draw = Draw::seeded(13);
        for number in 0..scale(1000, 100) {
            let noise: Vec<u8> =
                (0..4096).map(|_| u8::try_from(draw.below(256)).expect("a byte")).collect();
            let first: &[u8] =
                [&b"\x03\x00\x00\x13\x0e\xe0"[..], b"\x00\x00\x00\x85\xffSMB", b""][number % 3];
            let mut socket = connect(port);
            let _ = socket.write_all(&[first, &noise].concat()); // the server may have closed
            let _ = socket.shutdown(Shutdown::Write);
            let said = read_to_end(&socket);
            let last = said.lines().last().unwrap_or_default();
            assert!(said.ends_with('\n') && last.starts_with("[BYE "), "{said}");
        }
        bob.settles();
    });
}

/// The `ClientHello` of a TLS client.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("room");
    hello
}

/// With TLS on, the server logs its fingerprint when it starts.
fn is_introduction(line: &str) -> bool {
    line.contains("SHA-256 ")
}

#[test]
fn n12_tls_to_plain_server_is_closed_at_once() {
    watched(
        &[],
        |_| false,
        |port| {
            let hello = client_hello();
            let start = Instant::now();
            let open: Vec<TcpStream> = (0..scale(100, 20))
                .map(|_| {
                    let mut socket = connect(port);
                    socket.write_all(&hello).expect("said");
                    socket
                })
                .collect();
            // The attackers keep their side open.
            for socket in &open {
                let said = read_to_end(socket);
                assert!(
                    said.lines().nth(1).is_some_and(|line| line.starts_with("[BYE bad-protocol] ")),
                    "{said}"
                );
            }
            let most = Duration::from_secs(scale(3, 20));
            assert!(start.elapsed() < most, "{:?}", start.elapsed());
        },
    );
}

/// The canaries use plain TCP through socat, which speaks TLS to the server.
#[test]
fn n12_plain_text_to_tls_only_server() {
    if !has_program("socat") {
        return;
    }
    let server = Server::start_with(&["--tls-only"]);
    let tunnel = Tunnel::to(server.port);
    let port = server.port;
    let watch = Watch::through(server, tunnel.port).may_log(is_introduction);
    for said in ["mallory\npwned\n", "\n", "GET / HTTP/1.1\r\n\r\n", ""].repeat(scale(50, 5)) {
        let mut socket = connect(port);
        socket.write_all(said.as_bytes()).expect("said");
        let said = read_to_end(&socket);
        assert!(said.starts_with("[BYE bad-protocol] ") && said.lines().count() == 1, "{said}");
    }
    watch.end(|_| false);
}

#[test]
fn n12_slow_and_broken_handshakes() {
    let patience = Duration::from_millis(scale(10_000, 1000));
    let flags = ["--tls", "--login-timeout", &format!("{}ms", patience.as_millis())];
    let watch = Watch::begin(&flags).may_log(is_introduction);
    let hello = client_hello();
    let start = Instant::now();
    let mut dripping: Vec<TcpStream> = (0..20).map(|_| connect(watch.port())).collect();
    for number in 0..scale(500, 50) {
        let mut socket = connect(watch.port());
        socket.write_all(&hello[..hello.len() - number % 2]).expect("said");
        if number % 5 == 0 {
            let _ = socket.write_all(b"\x15\x03\x03\x00\x02\x01\x00"); // the whole input
        }
        if number % 3 == 0 {
            SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket");
        }
    }
    for byte in &hello {
        let is_open = dripping.iter_mut().filter_map(|socket| socket.write_all(&[*byte]).ok());
        if is_open.count() == 0 {
            break;
        }
        thread::sleep(patience / 10); // the pace of the bytes
    }
    for socket in &dripping {
        assert_eq!(read_to_end(socket), "");
    }
    let most = patience + Duration::from_secs(scale(3, 20));
    assert!(start.elapsed() < most, "{:?}", start.elapsed());
    drop(dripping);
    watch.end(|_| false);
}

/// A socat process that forwards plain connections to a TLS server.
struct Tunnel {
    port: u16,
    socat: Child,
}

impl Tunnel {
    fn to(server: u16) -> Self {
        // socat picks the port and reports when it listens.
        let mut socat = Command::new("socat")
            .args(["-d", "-d", "TCP-LISTEN:0,bind=127.0.0.1,fork,nodelay"])
            .arg(format!("OPENSSL:127.0.0.1:{server},verify=0,nodelay"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("socat");
        let mut said = BufReader::new(socat.stderr.take().expect("piped")).lines();
        let listens =
            said.by_ref().map_while(Result::ok).find(|line| line.contains("listening on"));
        let port = listens.and_then(|line| line.rsplit(':').next()?.parse().ok()).expect("a port");
        thread::spawn(move || said.for_each(drop)); // drain stderr so that the pipe never fills
        Self { port, socat }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.socat.kill();
        let _ = self.socat.wait();
    }
}
