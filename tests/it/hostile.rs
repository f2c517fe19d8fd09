//! The twenty-six hostile inputs, each against a watched server (`hostile/watch.rs`): canary
//! messages arrive exactly once and in time, and afterwards the server's resource use is as before.
//! Under `cargo test` the inputs are small and the limits wide; `scripts/hostile.sh` runs them at
//! full size with narrow limits.
//!
//! | input | test |
//! | --- | --- |
//! | 1-4 endless lines, bad lines before good ones | `lines.rs` |
//! | 5-8 control characters, escape sequences, bidi, combining marks | `lines.rs` |
//! | 9, 10 confusable and invalid names | `lines.rs` |
//! | 11-13 other protocols, broken TLS, random bytes | `protocols.rs` |
//! | 14, 15 endless telnet negotiation, other encodings | `lines.rs` |
//! | 16-18 slow logins, broken connections, exhausted descriptors | `connections.rs` |
//! | 19, 20 stalled, slow and late readers | `readers.rs` |
//! | 21 a pulled cable | `connections.rs` |
//! | 22, 23 password guesses, rights and tokens of others | `secrets.rs` |
//! | 24 huge numbers and requests | `large_requests.rs` |
//! | 25 cids, repeated and by the million | `cids.rs` |
//! | 26 what all clients share, beside an honest network | `sharing.rs` |

mod cids;
mod connections;
mod large_requests;
mod lines;
mod protocols;
mod readers;
mod secrets;
mod sharing;
mod watch;

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub(crate) use self::watch::Watch;
use crate::support::Peer;

/// Runs an attack against a watched server; the attackers must have disconnected when it returns.
/// Every line the witness receives must satisfy `may_hear`; the lines are returned.
fn watched(
    flags: &[&str],
    may_hear: impl Fn(&str) -> bool,
    attack: impl FnOnce(u16),
) -> Vec<String> {
    let watch = Watch::begin(flags);
    attack(watch.port());
    watch.end(may_hear)
}

/// Like [`watched`], for attacks that must not make the server use more memory.
fn watched_without_growth(may_hear: impl Fn(&str) -> bool, attack: impl FnOnce(u16)) {
    let watch = Watch::begin(&[]).allow_growth(watch::GROWTH_WITHOUT_STORAGE);
    attack(watch.port());
    watch.end(may_hear);
}

fn connect(port: u16) -> TcpStream {
    connect_from(Ipv4Addr::LOCALHOST, port)
}

/// Connects from another loopback address.
pub(crate) fn connect_from(from: Ipv4Addr, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    if !from.is_loopback() || from != Ipv4Addr::LOCALHOST {
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address");
    }
    connected(socket, port)
}

/// Connects with a small receive buffer.
fn connect_with_small_buffer(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    connected(socket, port)
}

fn connected(socket: Socket, port: u16) -> TcpStream {
    let address: SocketAddr = (IpAddr::from(Ipv4Addr::LOCALHOST), port).into();
    socket.connect(&address.into()).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_mins(1))).expect("a timeout");
    socket.into()
}

/// Returns everything received up to the end of the connection.
fn read_to_end(mut socket: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    // A reset ends the connection, too; bytes read before it are kept.
    while let Ok(count @ 1..) = socket.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// Returns the lines received in reply to one line.
fn answer(peer: &mut Peer, line: &[u8]) -> Vec<String> {
    peer.send(line);
    peer.settles()
}

/// Requests a session and returns its token.
pub(crate) fn session(peer: &mut Peer) -> String {
    peer.say("/session");
    let line = peer.hears(|line| line.starts_with("[SESSION "));
    line["[SESSION ".len()..].split(']').next().expect("a token").to_owned()
}

/// Splits a tagged message into its id and the line without tags.
fn id_and_line(line: &str) -> (u64, &str) {
    let (tags, line) = line.strip_prefix("@id=").and_then(|l| l.split_once(' ')).expect(line);
    (tags.split(';').next().and_then(|id| id.parse().ok()).expect(line), line)
}
