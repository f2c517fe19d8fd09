//! `chatty serve`: opens the listeners and the log, and runs the server loop until a
//! shutdown signal arrives.
//!
//! From the network inwards: a [`net::connection`] owns one socket, whose bytes pass through
//! a [`net::stream`] (plain TCP or TLS); its [`net::outbox`] holds the bytes that wait to be
//! written. The [`reactor`] drains the sockets, passes each line to the [`hub`], commits the
//! records of a [`turn`] to the [`store`], and then releases the turn's effects. [`limits`]
//! declares every configurable limit, [`store::options`] the location and retention of the
//! log, and [`net::tls`] the certificate.
//!
//! Graceful shutdown: the first SIGTERM or SIGINT stops accepting and makes the reactor send
//! a farewell to every client, flush the outboxes and commit what is left. A second signal
//! ends the process at once; repeats within `REPEAT` of the first count as the same signal.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio::task::{spawn_blocking, unconstrained};

use self::audit::{AuditLog, ThrottledWarning};
use self::auth::passwords::Hashers;
use self::auth::tokens::{Seed, Tokens};
use self::hub::Hub;
use self::limits::Limits;
use self::net::peer::Peer;
use self::net::tls::{Identity, TlsArgs};
use self::reactor::{Reactor, ReactorInput};
use self::store::Snapshot;
use self::store::memory::MemoryLog;
use self::store::options::StorageArgs;
use self::store::sqlite::{self, SqliteLog};
use crate::ignored_signals::{REPEAT, ignore_user_signals, is_ignored, unless_ignored};
use crate::protocol::DEFAULT_PORT;
use crate::scoped_ip::ScopedIp;
use crate::stdio::reason;

pub mod audit;
pub mod auth;
pub mod hub;
pub mod limits;
pub mod net;
pub mod reactor;
pub mod record;
pub mod store;
pub mod turn;

/// The options of `chatty serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on; repeatable
    ///
    /// By default only this machine can connect. 0.0.0.0 means every IPv4 address of this machine,
    /// and :: every IPv4 and IPv6 address. A link-local address needs its interface:
    /// `fe80::1%eth0`.
    #[arg(
        help_heading = "Network",
        long,
        value_name = "ADDR",
        default_values_t = [
            ScopedIp::from(IpAddr::from(Ipv4Addr::LOCALHOST)),
            ScopedIp::from(IpAddr::from(Ipv6Addr::LOCALHOST)),
        ],
        env = "CHATTY_BIND",
        value_delimiter = ','
    )]
    bind: Vec<ScopedIp>,

    /// Port to listen on; 0 picks a free port and prints it
    #[arg(help_heading = "Network", long, short, default_value_t = DEFAULT_PORT)]
    #[arg(env = "CHATTY_PORT")]
    port: u16,

    #[command(flatten)]
    storage: StorageArgs,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    limits: Limits,
}

/// Length of the accept queue. A few hundred clients that connect at the same moment fit.
const BACKLOG: u32 = 4096;

/// Number of unanswered keepalive probes before the kernel gives up on a peer. Together they
/// take as long as the idle time before the first probe.
const KEEPALIVE_PROBES: u32 = 4;

/// Runs a server until it is shut down.
///
/// # Errors
/// A listener or the log cannot be opened, or writing to the log failed.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    // Started first, so that it is dropped last.
    let _log = AuditLog::start().context("cannot start")?;
    let descriptors = raise_descriptor_limit();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(serve(args, descriptors))
}

async fn serve(args: ServeArgs, descriptors: usize) -> anyhow::Result<()> {
    // Registered early: a signal that arrives while the log is being opened must not end the
    // process.
    ignore_user_signals().context("cannot start")?;
    let is_hang_up_ignored = is_ignored(SignalKind::hangup().as_raw_value());
    let hang_up = signal(SignalKind::hangup()).context("cannot start")?;
    let listeners = listen(&args.bind, args.port)?;
    let addresses =
        listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let port = addresses.first().map_or(args.port, SocketAddr::port);
    let folder = args.storage.folder(args.port)?;
    let (log, hub) = open(&args, folder.as_deref())?;
    let is_tls_only = args.tls.is_only();
    let identity = args.tls.open(folder.as_deref())?;
    let (inputs, incoming) = mpsc::unbounded_channel();
    // Before the ready line is printed.
    let mut signals = ShutdownSignals::listen().context("cannot start")?;
    let hashers = Hashers::start(args.limits.max_hashing).context("cannot start")?;
    let mut seed = Seed::default();
    getrandom::fill(&mut seed).context("the system provides no random numbers")?;
    let auth = (hashers, Tokens::new(seed));
    let introduction = identity.as_ref().map(|(identity, _)| identity.describe());
    let identity = identity.map(|(identity, offer)| {
        // Queued before the first connection can be accepted.
        let _ = inputs.send(ReactorInput::Offer(offer));
        identity
    });
    // `nohup` makes a process ignore SIGHUP; respect that unless there is something to reload.
    if identity.is_some() || !is_hang_up_ignored {
        tokio::spawn(reload(identity, hang_up, inputs.clone()));
    }
    announce_addresses(&addresses);
    log_line(&describe_join(&args.bind, port, is_tls_only));
    log_line(&describe_storage(folder.as_deref()));
    if let Some(remark) = log.as_ref().and_then(SqliteLog::remark) {
        log_line(remark);
    }
    if let Some(introduction) = &introduction {
        log_line(introduction);
    }
    let own_inputs = inputs.clone();
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|l| tokio::spawn(accept(l, SocketOptions::of(&args.limits), inputs.clone())))
        .collect();
    let stopping = tokio::spawn(async move {
        let code = signals.next().await;
        let first = Instant::now();
        for task in accepting {
            task.abort();
        }
        let _ = inputs.send(ReactorInput::Stop); // fails if the loop has already ended
        while first.elapsed() < REPEAT {
            signals.next().await;
        }
        // A second signal: exit at once, without waiting for the remaining farewells.
        std::process::exit(code);
    });
    let limits = args.limits;
    let inputs = (own_inputs, incoming);
    // No other task on this thread needs a fair share, so tokio's cooperative budget is
    // switched off.
    let result = match log {
        Some(log) => {
            unconstrained(Reactor::new(limits, log, hub, auth, descriptors, inputs)?.run()).await
        }
        None => {
            let log = MemoryLog::new(limits.history_messages, limits.history_size);
            unconstrained(Reactor::new(limits, log, hub, auth, descriptors, inputs)?.run()).await
        }
    };
    stopping.abort();
    result
}

/// Opens the log, if it is stored in a folder, and restores the server state from it.
fn open(args: &ServeArgs, folder: Option<&Path>) -> anyhow::Result<(Option<SqliteLog>, Hub)> {
    let limits = args.limits.clone();
    let Some(folder) = folder else {
        return Ok((None, Hub::new(limits, &Snapshot::default())?));
    };
    let (log, snapshot) = args.storage.open(folder)?;
    let hub = Hub::new(limits, &snapshot).map_err(|unreadable| {
        let (file, collection, key) =
            (folder.join(sqlite::FILE), unreadable.collection.as_str(), unreadable.key);
        anyhow!(
            "cannot read the stored state in {0}: {unreadable}; restore the file from a backup, \
             or delete this entry: \
             sqlite3 {0} \"DELETE FROM kept WHERE shelf = '{collection}' AND key = {key}\"",
            file.display()
        )
    })?;
    Ok((Some(log), hub))
}

/// Reloads the TLS certificate at every SIGHUP. Established connections keep the old one.
async fn reload(
    mut identity: Option<Identity>,
    mut hang_up: Signal,
    inputs: UnboundedSender<ReactorInput>,
) -> io::Result<()> {
    while hang_up.recv().await.is_some() {
        let Some(mut current) = identity.take() else {
            log_line("SIGHUP: nothing to reload, this server has no TLS certificate");
            continue;
        };
        // Reading from a slow disk must not block the loop.
        let reading = spawn_blocking(move || {
            let (offer, report) = current.reload();
            log_line(&report);
            (current, offer)
        });
        let (current, offer) = reading.await.map_err(io::Error::other)?;
        identity = Some(current);
        if let Some(offer) = offer {
            let _ = inputs.send(ReactorInput::Offer(offer)); // the loop may have ended
        }
    }
    Ok(())
}

/// The signals that shut the server down: SIGTERM and SIGINT, except those that were ignored
/// when the process started.
struct ShutdownSignals(Vec<(Signal, i32)>);

impl ShutdownSignals {
    fn listen() -> io::Result<Self> {
        let mut signals = Vec::new();
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let code = 128 + kind.as_raw_value();
            signals.extend(unless_ignored(kind)?.map(|signal| (signal, code)));
        }
        Ok(Self(signals))
    }

    /// Waits for the next signal; returns the exit code that stands for it.
    async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            let mut signals = self.0.iter_mut();
            let code = signals
                .find_map(|(signal, code)| signal.poll_recv(context).is_ready().then_some(*code));
            code.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Listens on every address. With port 0 all addresses share the free port of the first one.
fn listen(addresses: &[ScopedIp], port: u16) -> anyhow::Result<Vec<TcpListener>> {
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

/// Prints the ready line, the first line on stderr; scripts and tests wait for it.
fn announce_addresses(addresses: &[SocketAddr]) {
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let reach = if addresses.iter().all(|address| address.ip().is_loopback()) {
        "this machine only; --bind 0.0.0.0 opens it to the network"
    } else {
        "open to the network; without --bind only this machine can connect"
    };
    log_line(&format!("listening on {} ({reach})", shown.join(" and ")));
}

/// Returns the commands that join from this machine. The options are left out where they are the
/// defaults of the client.
fn describe_join(bind: &[ScopedIp], port: u16, is_tls_only: bool) -> String {
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

/// Returns where messages are stored.
fn describe_storage(folder: Option<&Path>) -> String {
    match folder {
        Some(folder) => format!("messages are stored in {}", folder.display()),
        None => "messages are kept in memory only (--ephemeral)".to_owned(),
    }
}

/// Writes a line to stderr.
fn log_line(line: &str) {
    audit::write(line.to_owned());
}

async fn accept(
    listener: TcpListener,
    options: SocketOptions,
    inputs: UnboundedSender<ReactorInput>,
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
                tokio::time::sleep(pause).await;
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
        net::unsent::bound(stream);
    }
}

/// Raises the soft limit of open file descriptors to the hard limit; returns the limit that
/// applies then.
fn raise_descriptor_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let is_raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if is_raised { hard } else { soft }).unwrap_or(usize::MAX)
}
