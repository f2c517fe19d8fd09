//! What the system has taken for a peer and cannot send, since the peer does not
//! read. It tells of room only when there is much; of a slow reader that is too
//! seldom, so whether one reads at all is measured.

use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;
use tokio::net::TcpStream;

/// How much the system takes of us that it cannot send yet, in bytes. Without a
/// bound it takes megabytes and then nothing for as long as a third of them takes:
/// a slow reader would seem to be one that does not read.
const MAX: u32 = 128 << 10;

/// More than ever waits there: past its bound it takes what it has begun with.
const MEASURED_MAX: u32 = 4 << 20;

/// How much it takes of us in place of what suffices it, for a farewell.
const LAST_SIZE: usize = 1 << 20;

/// Bounds it, for a new connection. What fails here only costs comfort.
pub fn bound(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(MAX);
}

/// Makes room for some last lines to somebody who has not read the ones before: the
/// system keeps them for whenever they do.
pub fn enlarge_for_farewell(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_notsent_lowat(u32::MAX);
    if socket.send_buffer_size().is_ok_and(|size| size < LAST_SIZE) {
        let _ = socket.set_send_buffer_size(LAST_SIZE);
    }
}

/// Whether it has sent all it took.
pub fn is_sent(socket: &TcpStream) -> bool {
    let is_sent = is_below(socket, 1);
    bound(socket);
    is_sent
}

/// How much it has not sent, in bytes. `None`: more than can be measured, or it holds
/// so much that was sent and not confirmed that it takes no more.
///
/// It does not say so itself where one may not ask it by hand, but whether that is
/// less than a bound: so the bound is moved until it tells.
pub fn measure(socket: &TcpStream) -> Option<u32> {
    let (mut low, mut high) = (0, MEASURED_MAX);
    let is_known = is_below(socket, high);
    while is_known && low + 1 < high {
        let middle = low.midpoint(high);
        if is_below(socket, middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    bound(socket);
    // There is room when less than half of the bound waits.
    is_known.then_some(low / 2)
}

fn is_below(socket: &TcpStream, bound: u32) -> bool {
    SockRef::from(socket).set_tcp_notsent_lowat(bound).is_ok() && has_room(socket)
}

fn has_room(socket: &TcpStream) -> bool {
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut polled, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_measured_to_the_byte() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut reader = std::net::TcpStream::connect(address).expect("a connection");
        let (socket, _) = listener.accept().await.expect("a connection");
        bound(&socket);
        assert_eq!(measure(&socket), Some(0));
        assert!(is_sent(&socket));
        socket.writable().await.expect("room");
        while socket.try_write(&[0; 4096]).is_ok() {}
        let full = measure(&socket).expect("a figure");
        assert!(full >= MAX && !is_sent(&socket), "{full}");
        assert_eq!(measure(&socket), Some(full));
        assert!(SockRef::from(&socket).send(b"x").is_err(), "bounded as before");
        // What is read makes room for more of ours, sooner or later.
        let mut piece = vec![0; 4096];
        while measure(&socket).is_some_and(|rest| rest >= full) {
            reader.read_exact(&mut piece).expect("bytes");
        }
        assert!(measure(&socket).is_some());
        enlarge_for_farewell(&socket);
        assert_eq!(SockRef::from(&socket).send(&[0; 4096]).expect("room"), 4096);
    }
}
