//! Listening: the listeners, the options of accepted sockets, and the limit of descriptors.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use super::audit::ThrottledWarning;
use super::limits::Limits;
use super::net::peer::Peer;
use super::net::unsent;
use super::reactor::ReactorInput;
use super::reactor::timer::Timer;
use crate::protocol::DEFAULT_PORT;
use crate::scoped_ip::ScopedIp;
use crate::stdio::reason;

/// Length of the accept queue. A few hundred clients that connect at the same moment fit.
const BACKLOG: u32 = 4096;

/// Number of unanswered keepalive probes before the kernel gives up on a peer. Together they
/// take as long as the idle time before the first probe.
const KEEPALIVE_PROBES: u32 = 4;

/// Listens on every address. With port 0 all addresses share the free port of the first one.
pub(super) fn listen(addresses: &[ScopedIp], port: u16) -> anyhow::Result<Vec<TcpListener>> {
    /// Attempts to find a port that is free on every address.
    const TRIES: usize = 16;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match listen_all(addresses, port) {
            Ok(listeners) => return Ok(listeners),
            Err((_, error)) if port == 0 && is_taken(&error) && attempt < TRIES => {}
            Err((address, error)) => {
                let reason = reason(&error);
                let hint = if is_taken(&error) {
                    " (is another chatty running? use --port 0 for a free port)"
                } else if lacks_zone(&address) {
                    " (a link-local address needs its interface, e.g. fe80::1%eth0)"
                } else {
                    ""
                };
                bail!("cannot listen on {address}: {reason}{hint}");
            }
        }
    }
}

fn listen_all(
    addresses: &[ScopedIp],
    mut port: u16,
) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let is_beside_v4 = addresses.iter().any(|address| address.ip == Ipv4Addr::UNSPECIFIED);
    let mut listeners = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        if addresses[..at].contains(address) {
            continue; // a duplicate
        }
        let (ip, address) = (address.ip, address.with_port(port));
        match listen_on(address, is_beside_v4).and_then(|l| Ok((l.local_addr()?.port(), l))) {
            Ok((taken, listener)) => {
                port = taken;
                listeners.push(listener);
            }
            // A machine without IPv6 has no ::1; the other loopback address is enough.
            Err(error) if ip.is_loopback() && !listeners.is_empty() && is_absent(&error) => {}
            Err(error) => return Err((address, error)),
        }
    }
    Ok(listeners)
}

fn listen_on(address: SocketAddr, is_beside_v4: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.is_ipv6() {
        // :: also accepts IPv4 unless 0.0.0.0 is bound; ::1 beside 127.0.0.1 must not.
        SockRef::from(&socket).set_only_v6(is_beside_v4 || !address.ip().is_unspecified())?;
    }
    socket.set_reuseaddr(true)?; // a restart must not wait for connections in TIME_WAIT
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

/// Returns whether a link-local IPv6 address lacks its interface; the system then reports an
/// invalid argument.
fn lacks_zone(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0)
}

/// Returns the ready line, the first line on stderr; scripts and tests wait for it.
pub(super) fn describe_addresses(addresses: &[SocketAddr]) -> String {
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let reach = if addresses.iter().all(|address| address.ip().is_loopback()) {
        "this machine only; --bind 0.0.0.0 opens it to the network"
    } else {
        "open to the network; without --bind only this machine can connect"
    };
    format!("listening on {} ({reach})", shown.join(" and "))
}

/// Returns the commands that join from this machine. The options are left out where they are the
/// defaults of the client.
pub(super) fn describe_join(bind: &[ScopedIp], port: u16, is_tls_only: bool) -> String {
    let is_local = |address: &ScopedIp| {
        let ip = address.ip;
        ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST || ip.is_unspecified()
    };
    let other_host = bind.first().filter(|_| !bind.iter().any(is_local)).map(ToString::to_string);
    let port_option = if port == DEFAULT_PORT { String::new() } else { format!(" -p {port}") };
    let host = other_host.as_ref().map(|host| format!(" {host}")).unwrap_or_default();
    let rest = if is_tls_only {
        " --tls".to_owned()
    } else {
        format!(" (or: nc {} {port})", other_host.as_deref().unwrap_or("localhost"))
    };
    format!("join with: chatty join{host}{port_option}{rest}")
}

/// Starts to accept connections, until the tasks are aborted or the server loop ends.
///
/// # Errors
/// The system provides no timer.
pub(super) fn start_accepting(
    listeners: Vec<TcpListener>,
    limits: &Limits,
    inputs: &UnboundedSender<ReactorInput>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let start = |listener| {
        // Created here, because a server without free descriptors needs it.
        let timer = Timer::new()?;
        Ok(tokio::spawn(accept(listener, SocketOptions::of(limits), inputs.clone(), timer)))
    };
    listeners.into_iter().map(start).collect()
}

async fn accept(
    listener: TcpListener,
    options: SocketOptions,
    inputs: UnboundedSender<ReactorInput>,
    timer: Timer,
) {
    let (mut pause, mut warning) = (PAUSE_MIN, ThrottledWarning::default());
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                pause = PAUSE_MIN;
                options.apply(&stream);
                if inputs.send(ReactorInput::Accepted(stream, Peer::new(address.ip()))).is_err() {
                    return;
                }
            }
            // Usually out of file descriptors: established connections are unaffected, and
            // clients in the accept queue get in when others disconnect.
            Err(error) => {
                if pause == PAUSE_MIN {
                    let why = reason(&error);
                    warning.warn(&format!("cannot accept connections: {why}; trying again"));
                }
                if timer.wait(pause).await.is_err() {
                    tokio::task::yield_now().await;
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Pause before accepting again after a failure; it doubles from the first to the second.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Socket options that detect a vanished peer without a message in the protocol: TCP keepalive
/// on an idle connection, the TCP user timeout while sent data is not acknowledged.
struct SocketOptions {
    keepalive: TcpKeepalive,
    user_timeout: Duration,
}

impl SocketOptions {
    fn of(limits: &Limits) -> Self {
        // The kernel counts in whole seconds.
        let interval = (limits.keepalive / KEEPALIVE_PROBES).max(Duration::from_secs(1));
        let keepalive = TcpKeepalive::new()
            .with_time(limits.keepalive.max(Duration::from_secs(1)))
            .with_interval(interval)
            .with_retries(KEEPALIVE_PROBES);
        Self { keepalive, user_timeout: limits.user_timeout }
    }

    /// Configures a new connection. Failures are ignored: the connection works without.
    fn apply(&self, stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        let socket = SockRef::from(stream);
        let _ = socket.set_tcp_keepalive(&self.keepalive);
        let _ = socket.set_tcp_user_timeout(Some(self.user_timeout));
        unsent::bound(stream);
    }
}

/// Raises the soft limit of open file descriptors to the hard limit; returns the limit that
/// applies then.
pub(super) fn raise_descriptor_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let is_raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if is_raised { hard } else { soft }).unwrap_or(usize::MAX)
}
