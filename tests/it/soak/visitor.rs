//! A random visit of one client of the crowd, recorded in counts.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::any_input::checks::Draw;

/// The number of times each action was performed.
pub(super) type Counts = BTreeMap<&'static str, usize>;

/// The number of guest names, of accounts, and of rooms that are locked and unlocked.
const NAMES: usize = 40;
const ACCOUNTS: usize = 12;
const DENS: usize = 6;

/// The password of every account.
const PASSWORD: &str = "word of them all";

/// Timeout; longer than any operation takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The replies that are counted when a client reads to the end.
pub(super) const ANSWERS: [(&str, &str); 8] = [
    ("[REGISTERED ", "told: registered"),
    ("[ERROR bad-password] ", "told: bad password"),
    ("[OFFLINE ", "told: mail waits"),
    ("[ERROR too-many] ", "told: too many"),
    ("[LOCKED ", "told: locked"),
    ("[ERROR forbidden] ", "told: forbidden"),
    ("[BANNED ", "told: banned"),
    ("[SEARCH ", "told: found"),
];

/// A stream with or without TLS.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// A client of the crowd.
pub(super) struct Visitor {
    port: u16,
    /// The address whose connections are limited together.
    address: Ipv4Addr,
    tls: Arc<ClientConfig>,
    draw: Draw<'static>,
    done: Counts,
}

/// A connection of a visitor.
struct Line {
    stream: BufReader<Box<dyn Stream>>,
    socket: TcpStream,
}

impl Line {
    fn say(&mut self, lines: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(lines.as_bytes())
    }

    /// Returns the next line with this beginning.
    fn hears(&mut self, beginning: &str) -> io::Result<String> {
        let mut line = String::new();
        while !line.starts_with(beginning) {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(line)
    }
}

/// A TLS configuration that trusts this server certificate only.
pub(super) fn trust(certificate: &rcgen::Certificate) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

impl Visitor {
    pub(super) fn new(port: u16, number: u8, tls: Arc<ClientConfig>) -> Self {
        // Three visitors share an address.
        let address = Ipv4Addr::new(127, 1 + number / 3, 0, 1);
        let draw = Draw::seeded(1 + u64::from(number));
        Self { port, address, tls, draw, done: Counts::new() }
    }

    pub(super) fn done(self) -> Counts {
        self.done
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_insert(0) += 1;
    }

    /// Reads to the end and counts the replies.
    fn listens(&mut self, line: Line) {
        for said in line.stream.lines().map_while(Result::ok) {
            let reported = ANSWERS.iter().find(|(beginning, _)| said.starts_with(beginning));
            if let Some((_, what)) = reported {
                self.count(what);
            }
        }
    }

    fn naps(&mut self, most: usize) {
        thread::sleep(Duration::from_millis(self.draw.below(most) as u64));
    }

    /// Connects from the visitor's address, with a small receive buffer for a slow reader.
    fn dial(&mut self, is_slow: bool) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if is_slow {
            socket.set_recv_buffer_size(4096)?;
        }
        socket.bind(&SocketAddr::from((self.address, 0)).into())?;
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)).into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        self.count("connections");
        Ok(stream)
    }

    /// Connects and sends the first lines; returns an error if the connection is rejected.
    fn connects(&mut self, opening: &str, is_slow: bool) -> io::Result<Line> {
        let socket = self.dial(is_slow)?;
        let plain = socket.try_clone()?;
        let stream: Box<dyn Stream> = if self.draw.below(3) == 0 {
            self.count("of them TLS");
            let name = ServerName::try_from("localhost").expect("a name");
            let client = ClientConnection::new(self.tls.clone(), name).expect("a client");
            Box::new(StreamOwned::new(client, plain))
        } else {
            Box::new(plain)
        };
        let mut line = Line { stream: BufReader::new(stream), socket };
        let said = line.say(opening).and_then(|()| {
            let mut first = String::new();
            line.stream.read_line(&mut first).map(|_| first)
        });
        // A plain-text rejection breaks a TLS handshake.
        if !said.as_ref().is_ok_and(|first| first.starts_with("[HELLO")) {
            self.count("refused");
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        Ok(line)
    }

    /// Performs one random kind of visit.
    pub(super) fn visit(&mut self) -> io::Result<()> {
        self.count("visits");
        match self.draw.below(16) {
            0 => self.sends_slowly(),
            1 => self.exceeds_address_limit(),
            2 => self.reads_slowly(),
            _ => self.takes_part(),
        }
    }

    /// Sends no valid name, byte by byte: an unterminated last line counts as a line, so it must
    /// not be a name.
    fn sends_slowly(&mut self) -> io::Result<()> {
        self.count("nameless");
        let mut socket = self.dial(false)?;
        for _ in 0..self.draw.below(6) {
            socket.write_all(b"-")?;
            self.naps(500);
        }
        Ok(())
    }

    /// Opens more connections than an address may have.
    fn exceeds_address_limit(&mut self) -> io::Result<()> {
        self.count("connections above the limit");
        let crowd: io::Result<Vec<TcpStream>> = (0..8).map(|_| self.dial(false)).collect();
        self.naps(300);
        crowd.map(drop)
    }

    /// Requests much and reads little or nothing.
    fn reads_slowly(&mut self) -> io::Result<()> {
        self.count("slow readers");
        let mut line = self.connects("/login slow\n", true)?;
        line.say(&"/history 1000\n".repeat(1 + self.draw.below(4)))?;
        let mut piece = [0; 512];
        let step = self.draw.below(2) * piece.len();
        for _ in 0..10 {
            line.stream.read_exact(&mut piece[..step])?;
            self.naps(200);
        }
        Ok(())
    }

    fn takes_part(&mut self) -> io::Result<()> {
        let (opening, has_session) = self.opening();
        let mut line = self.connects(&opening, false)?;
        for _ in 0..self.draw.below(30) {
            let said = match self.draw.below(16) {
                0 => self.flood(),
                1..5 => self.about_rooms(),
                5..8 => self.about_accounts(),
                _ => self.talk(),
            };
            self.count("lines");
            line.say(&said)?;
        }
        self.leaves(line, has_session)
    }

    /// Returns the login lines, and whether the visitor wants a session.
    fn opening(&mut self) -> (String, bool) {
        let has_session = self.draw.below(3) == 0;
        let session = if has_session { "/session\n" } else { "" };
        if self.draw.below(3) > 0 {
            return (format!("soak{}\n{session}", self.draw.below(NAMES)), has_session);
        }
        let name = format!("holder{}", self.draw.below(ACCOUNTS));
        self.count("logins to accounts");
        let wrong = if self.draw.below(4) == 0 {
            self.count("wrong passwords");
            format!("/login {name} a guess\n")
        } else {
            String::new()
        };
        // If the account does not exist, the visitor registers it.
        let right = format!("/login {name} {PASSWORD}\n/login {name}\n/register {PASSWORD}\n");
        (format!("{wrong}{right}{session}"), has_session)
    }

    fn flood(&mut self) -> String {
        self.count("floods");
        "flood, and more of it\n".repeat(200)
    }

    fn about_rooms(&mut self) -> String {
        let (den, name) = (self.draw.below(DENS), self.draw.below(NAMES));
        match self.draw.below(10) {
            0..3 => format!("/join r{}\n", self.draw.below(30)),
            3 => "/part\n".to_owned(),
            4 => "/who\n/list\n".to_owned(),
            5 => format!("/topic {}\n", "t".repeat(self.draw.below(200))),
            6 => format!("/join den{den} key {den}\n/lock key {den}\n"),
            7 => format!("/join den{den} no key\n/unlock\n"),
            8 => format!("/ban soak{name} 1s\n/mute soak{name} 1s\n/ban 192.0.2.{name} 1s\n"),
            _ => format!("/unban soak{name}\n/invite soak{name}\n/kick soak{name}\n"),
        }
    }

    fn about_accounts(&mut self) -> String {
        let other = self.draw.below(ACCOUNTS);
        match self.draw.below(8) {
            0 => format!("/passwd {PASSWORD}\n"),
            1 => format!("/unregister {PASSWORD}\n"),
            _ => {
                self.count("mail");
                format!("/msg holder{other} when you are back\n")
            }
        }
    }

    fn talk(&mut self) -> String {
        match self.draw.below(8) {
            0 => format!("/nick soak{}\n", self.draw.below(NAMES)),
            1 => format!("/msg soak{} psst\n", self.draw.below(NAMES)),
            2 => "/history 50\n".to_owned(),
            3 => "/search said flood\n".to_owned(),
            _ => format!("{}\n", "said ".repeat(1 + self.draw.below(40))),
        }
    }

    fn leaves(&mut self, mut line: Line, has_session: bool) -> io::Result<()> {
        match self.draw.below(4) {
            0 => {
                self.count("quits");
                line.say("/quit\n")?;
                self.listens(line);
            }
            1 => {
                self.count("cut lines");
                line.say("half a li")?;
                SockRef::from(&line.socket).set_linger(Some(Duration::ZERO))?;
            }
            2 if has_session => {
                let session = line.hears("[SESSION ")?;
                let token = session["[SESSION ".len()..].split(']').next().unwrap_or_default();
                drop(line);
                self.naps(1000);
                let mut again = self.connects(&format!("/resume {token} 0\n"), false)?;
                again.hears("[WELCOME ")?;
                self.count("returns");
                again.say("back\n/quit\n")?;
                self.listens(again);
            }
            _ => self.count("vanished"),
        }
        Ok(())
    }
}
