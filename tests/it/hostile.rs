//! The twenty-five hostile inputs, each beside a server that is watched
//! (`hostile/watch.rs`): what is said meanwhile arrives, once and in time, and
//! afterwards the server is as it was. With the other tests they are small and the
//! figures wide; `scripts/hostile.sh` plays them in full and holds the figures narrow.
//!
//! | input | test |
//! | --- | --- |
//! | 1-4 lines without an end, bad lines before good ones | `lines.rs` |
//! | 5-8 control characters, escape sequences, bidi, marks | `lines.rs` |
//! | 9, 10 names of others, names that are none | `lines.rs` |
//! | 11-13 other protocols, broken TLS, noise | `protocols.rs` |
//! | 14, 15 telnet that never ends, other encodings | `lines.rs` |
//! | 16-18 names that drip, connections that break, no descriptors left | `connections.rs` |
//! | 19, 20 who never reads, who reads slowly or late | `readers.rs` |
//! | 21 a pulled cable | `connections.rs` |
//! | 22, 23 guesses, rights and tokens of others | `secrets.rs` |
//! | 24 numbers and wishes beyond reason | `much.rs` |
//! | 25 marks, said again and by the million | `marks.rs` |

mod connections;
mod lines;
mod marks;
mod much;
mod protocols;
mod readers;
mod secrets;
mod watch;

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub(crate) use self::watch::Watch;
use crate::support::Peer;

/// Lets something happen to a server that is watched; who took part in it is gone
/// when it is looked at. Gives what the witness heard, of which every line has to be one
/// that it may hear.
fn watched(
    flags: &[&str],
    may_hear: impl Fn(&str) -> bool,
    attack: impl FnOnce(u16),
) -> Vec<String> {
    let watch = Watch::begin(flags);
    attack(watch.port());
    watch.end(may_hear)
}

/// The same with what is not to be kept, as it is no line.
fn watched_to_keep_nothing(may_hear: impl Fn(&str) -> bool, attack: impl FnOnce(u16)) {
    let watch = Watch::begin(&[]).grows_by(watch::GROWTH_OF_NOTHING);
    attack(watch.port());
    watch.end(may_hear);
}

fn connect(port: u16) -> TcpStream {
    connect_from(Ipv4Addr::LOCALHOST, port)
}

/// From another address of this machine.
fn connect_from(from: Ipv4Addr, port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    if !from.is_loopback() || from != Ipv4Addr::LOCALHOST {
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("an address");
    }
    connected(socket, port)
}

/// With little room in its system.
fn connect_cramped(port: u16) -> TcpStream {
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

/// All that is said to somebody, to the end.
fn heard(mut socket: &TcpStream) -> String {
    let mut heard = Vec::new();
    let mut piece = [0; 4096];
    // A reset ends it too: it takes nothing that was read before.
    while let Ok(count @ 1..) = socket.read(&mut piece) {
        heard.extend_from_slice(&piece[..count]);
    }
    String::from_utf8(heard).expect("UTF-8")
}

/// The answer to one line of somebody who has joined.
fn answer(peer: &mut Peer, line: &[u8]) -> Vec<String> {
    peer.send(line);
    peer.settles()
}

/// The token of somebody's session.
fn session(peer: &mut Peer) -> String {
    peer.say("/session");
    let line = peer.hears(|line| line.starts_with("[SESSION "));
    line["[SESSION ".len()..].split(']').next().expect("a token").to_owned()
}

/// The id of a message in the tagged dialect, and the line without its tags.
fn id_and_line(line: &str) -> (u64, &str) {
    let (tags, line) = line.strip_prefix("@id=").and_then(|l| l.split_once(' ')).expect(line);
    (tags.split(';').next().and_then(|id| id.parse().ok()).expect(line), line)
}
