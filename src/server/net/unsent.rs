//! The unsent data in the kernel's send buffer of a socket: bounding and measuring it.
//!
//! The kernel reports a socket as writable only when much space is free. For a slow reader
//! that is too rare to tell whether it reads at all, so the unsent data is measured
//! (`stall.rs`).

use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;
use tokio::net::TcpStream;

/// Bound of the unsent data per socket, in bytes (`TCP_NOTSENT_LOWAT`). Without one the kernel
/// accepts megabytes and then reports nothing until a third of them is sent, and a slow reader
/// would look like a client that does not read.
const MAX: u32 = 128 << 10;

/// Upper end of measurements: beyond its bound the kernel completes a write it has begun.
const MEASURED_MAX: u32 = 4 << 20;

/// Size of the send buffer for a farewell, in bytes.
const LAST_SIZE: usize = 1 << 20;

/// Bounds the unsent data of a new connection. Failures are ignored: it works without.
pub fn bound(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_tcp_notsent_lowat(MAX);
}

/// Makes space for a farewell to a client that has not read the lines before; the kernel
/// delivers it when the client reads.
pub fn enlarge_for_farewell(socket: &TcpStream) {
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_notsent_lowat(u32::MAX);
    if socket.send_buffer_size().is_ok_and(|size| size < LAST_SIZE) {
        let _ = socket.set_send_buffer_size(LAST_SIZE);
    }
}

/// Returns whether the kernel has sent everything it accepted.
pub fn is_sent(socket: &TcpStream) -> bool {
    let is_sent = is_below(socket, 1);
    bound(socket);
    is_sent
}

/// Returns the size of the unsent data in bytes. `None`: more than can be measured, or the
/// send buffer is full of data that was sent and not acknowledged.
///
/// The exact number is not available without unsafe code, but `poll` tells whether it is
/// below the bound; so this is a binary search over the bound.
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
    // A socket is writable if less than half of the bound is unsent.
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
    async fn unsent_data_is_measured_to_the_byte() {
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
        // What the client reads makes space, sooner or later.
        let mut piece = vec![0; 4096];
        while measure(&socket).is_some_and(|rest| rest >= full) {
            reader.read_exact(&mut piece).expect("bytes");
        }
        assert!(measure(&socket).is_some());
        enlarge_for_farewell(&socket);
        assert_eq!(SockRef::from(&socket).send(&[0; 4096]).expect("room"), 4096);
    }
}
