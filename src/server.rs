//! `chatty serve`: listens, accepts, and runs the loop until it is told to stop.
//!
//! The parts, from the outside in: [`connection`] is one socket, [`outbox`] what
//! waits for it; [`reactor`] is the loop that drains sockets, lets the [`hub`]
//! handle each line, commits the [`turn`]'s records to the [`log`] and releases
//! its effects. What its bytes go through, which may be TLS, is a [`stream`]; who
//! the server says it is there, [`tls`]. Every limit that can be set stands in
//! [`limits`]; where the log is kept, in [`storage`].

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
use self::hub::{Hub, Seed};
use self::limits::Limits;
use self::log::Snapshot;
use self::log::memory::MemoryLog;
use self::log::sqlite::{self, SqliteLog};
use self::passwords::Hashers;
use self::peer::Peer;
use self::reactor::{Reactor, ReactorInput};
use self::storage::StorageArgs;
use self::tls::{Identity, TlsArgs};
use crate::ignored_signals::{REPEAT, ignore_user_signals, is_ignored, unless_ignored};
use crate::protocol::DEFAULT_PORT;
use crate::scoped_ip::ScopedIp;
use crate::stdio::reason;

pub mod admission;
pub mod audit;
pub mod batch_delay;
pub mod connection;
pub mod hub;
pub mod limits;
pub mod log;
pub mod outbox;
pub mod passwords;
pub mod peer;
pub mod rate_limit;
pub mod reactor;
pub mod storage;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod turn;
pub mod unsent;

/// What `chatty serve` can be told.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on; may be given more than once
    ///
    /// Without it only this machine can connect. 0.0.0.0 is every IPv4 address
    /// of this machine, :: every IPv6 one as well. A link-local address takes its
    /// interface: `fe80::1%eth0`.
    #[arg(
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

    /// Port to listen on; 0 takes a free one and says which
    #[arg(long, short, default_value_t = DEFAULT_PORT, env = "CHATTY_PORT")]
    port: u16,

    #[command(flatten)]
    storage: StorageArgs,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    limits: Limits,
}

/// How many connections may wait to be accepted; a class that arrives at once
/// fits.
const BACKLOG: u32 = 4096;

/// How often a silent peer is asked; all together take as long as its silence.
const KEEPALIVE_PROBES: u32 = 4;

/// Runs a server until it is told to stop.
///
/// # Errors
/// It cannot listen where it is told to, or its log fails.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    // First, so that it is dropped last.
    let _log = AuditLog::start().context("cannot start")?;
    let descriptors = raise_descriptor_limit();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?
        .block_on(serve(args, descriptors))
}

async fn serve(args: ServeArgs, descriptors: usize) -> anyhow::Result<()> {
    // A signal that comes while the log is being opened is no reason to end, either.
    ignore_user_signals().context("cannot start")?;
    let is_hang_up_ignored = is_ignored(SignalKind::hangup().as_raw_value());
    let hang_up = signal(SignalKind::hangup()).context("cannot start")?;
    let listeners = listen(&args.bind, args.port)?;
    let folder = args.storage.folder(args.port)?;
    let (log, hub) = open(&args, folder.as_deref())?;
    let identity = args.tls.open(folder.as_deref())?;
    let (calls, incoming) = mpsc::unbounded_channel();
    // Before anybody is told that we are ready.
    let mut stops = ShutdownSignals::listen().context("cannot start")?;
    let hashers = Hashers::start(args.limits.max_hashing).context("cannot start")?;
    let introduction = identity.as_ref().map(|(identity, _)| identity.describe());
    let identity = identity.map(|(identity, offer)| {
        // Before anybody can be accepted.
        let _ = calls.send(ReactorInput::Offer(offer));
        identity
    });
    // What `nohup` has us ignore stays so, unless there is something to reload.
    if identity.is_some() || !is_hang_up_ignored {
        tokio::spawn(reload(identity, hang_up, calls.clone()));
    }
    announce_addresses(&listeners)?;
    if let Some(remark) = log.as_ref().and_then(SqliteLog::remark) {
        log_line(remark);
    }
    if let Some(introduction) = &introduction {
        log_line(introduction);
    }
    let own_calls = calls.clone();
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|l| tokio::spawn(accept(l, SocketOptions::of(&args.limits), calls.clone())))
        .collect();
    let stopping = tokio::spawn(async move {
        let code = stops.next().await;
        let first = Instant::now();
        for task in accepting {
            task.abort();
        }
        let _ = calls.send(ReactorInput::Stop); // nobody to tell means it has ended
        while first.elapsed() < REPEAT {
            stops.next().await;
        }
        // Asked twice: at once, whoever has not heard yet.
        std::process::exit(code);
    });
    let limits = args.limits;
    let calls = (own_calls, incoming);
    // The loop shares its thread with nobody it has to be fair to.
    let result = match log {
        Some(log) => {
            unconstrained(Reactor::new(limits, log, hub, hashers, descriptors, calls)?.run()).await
        }
        None => {
            let log = MemoryLog::new(limits.history_messages, limits.history_size);
            unconstrained(Reactor::new(limits, log, hub, hashers, descriptors, calls)?.run()).await
        }
    };
    stopping.abort();
    result
}

/// Opens the house as it was closed, and the log if that is in a folder.
fn open(args: &ServeArgs, folder: Option<&Path>) -> anyhow::Result<(Option<SqliteLog>, Hub)> {
    let limits = args.limits.clone();
    let mut seed = Seed::default();
    getrandom::fill(&mut seed).context("the system gives no random numbers")?;
    let Some(folder) = folder else {
        return Ok((None, Hub::new(limits, &Snapshot::default(), seed)?));
    };
    let (log, kept) = args.storage.open(folder)?;
    let hub = Hub::new(limits, &kept, seed).map_err(|unreadable| {
        let (file, shelf, key) =
            (folder.join(sqlite::FILE), unreadable.shelf.as_str(), unreadable.key);
        anyhow!(
            "cannot read what is kept in {0} as {unreadable}; put a copy of the file in its place, \
             or do without that: \
             sqlite3 {0} \"DELETE FROM kept WHERE shelf = '{shelf}' AND key = {key}\"",
            file.display()
        )
    })?;
    Ok((Some(log), hub))
}

/// At every SIGHUP what can change while the server runs is read again: its
/// certificate. Who is connected goes on with the old one.
async fn reload(
    mut identity: Option<Identity>,
    mut hang_up: Signal,
    calls: UnboundedSender<ReactorInput>,
) -> io::Result<()> {
    while hang_up.recv().await.is_some() {
        let Some(mut current) = identity.take() else {
            log_line("SIGHUP: nothing to reload, this server has no TLS certificate");
            continue;
        };
        // Its disk may be slow.
        let reading = spawn_blocking(move || {
            let (offer, said) = current.reload();
            log_line(&said);
            (current, offer)
        });
        let (current, offer) = reading.await.map_err(io::Error::other)?;
        identity = Some(current);
        if let Some(offer) = offer {
            let _ = calls.send(ReactorInput::Offer(offer)); // the loop may have ended
        }
    }
    Ok(())
}

/// The signals that end a server: SIGTERM and SIGINT. What was ignored when we began
/// stays so.
struct ShutdownSignals(Vec<(Signal, i32)>);

impl ShutdownSignals {
    fn listen() -> io::Result<Self> {
        let mut stops = Vec::new();
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let code = 128 + kind.as_raw_value();
            stops.extend(unless_ignored(kind)?.map(|signal| (signal, code)));
        }
        Ok(Self(stops))
    }

    /// Waits for the next one; gives the exit code for being ended by it.
    async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            let mut stops = self.0.iter_mut();
            let came =
                stops.find_map(|(stop, code)| stop.poll_recv(context).is_ready().then_some(*code));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Opens every address. With port 0 all share the first one's free port.
fn listen(addresses: &[ScopedIp], port: u16) -> anyhow::Result<Vec<TcpListener>> {
    /// How often another free port is tried if one address has it taken.
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
                    " (is another chatty running? --port 0 takes a free one)"
                } else if lacks_zone(&address) {
                    " (a link-local address takes its interface, as in fe80::1%eth0)"
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
            continue; // said twice
        }
        let (ip, address) = (address.ip, address.with_port(port));
        match listen_on(address, is_beside_v4).and_then(|l| Ok((l.local_addr()?.port(), l))) {
            Ok((taken, listener)) => {
                port = taken;
                listeners.push(listener);
            }
            // A machine without IPv6 has no ::1; the other loopback serves.
            Err(error) if ip.is_loopback() && !listeners.is_empty() && is_absent(&error) => {}
            Err(error) => return Err((address, error)),
        }
    }
    Ok(listeners)
}

fn listen_on(address: SocketAddr, is_beside_v4: bool) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if address.is_ipv6() {
        // :: takes IPv4 as well, unless 0.0.0.0 does; ::1 next to 127.0.0.1 must not.
        SockRef::from(&socket).set_only_v6(is_beside_v4 || !address.ip().is_unspecified())?;
    }
    socket.set_reuseaddr(true)?; // a restart need not wait for old connections to fade
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

/// Whether this is a link-local IPv6 address without its interface: the system then
/// refuses it as an invalid argument.
fn lacks_zone(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0)
}

/// The first line of stderr.
fn announce_addresses(listeners: &[TcpListener]) -> anyhow::Result<()> {
    let addresses =
        listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let reach = if addresses.iter().all(|address| address.ip().is_loopback()) {
        "this machine only; --bind 0.0.0.0 opens it to the network"
    } else {
        "open to the network; without --bind only this machine can connect"
    };
    log_line(&format!("listening on {} ({reach})", shown.join(" and ")));
    Ok(())
}

/// Writes a line to stderr.
fn log_line(line: &str) {
    audit::write(line.to_owned());
}

async fn accept(listener: TcpListener, vigil: SocketOptions, calls: UnboundedSender<ReactorInput>) {
    let (mut pause, mut trouble) = (PAUSE_MIN, ThrottledWarning::default());
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                pause = PAUSE_MIN;
                vigil.apply(&stream);
                if calls.send(ReactorInput::Accepted(stream, Peer::new(address.ip()))).is_err() {
                    return;
                }
            }
            // Out of descriptors, most likely: those inside go on, and who waits
            // outside is let in when somebody leaves.
            Err(error) => {
                if pause == PAUSE_MIN {
                    let why = reason(&error);
                    trouble.tell(&format!("cannot accept connections: {why}; trying again"));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// How long accepting rests after it failed, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How a peer that vanished is noticed without asking its person anything: by
/// keepalive when idle, by the user timeout when something waits.
struct SocketOptions {
    keepalive: TcpKeepalive,
    user_timeout: Duration,
}

impl SocketOptions {
    fn of(limits: &Limits) -> Self {
        // The system counts in seconds.
        let interval = (limits.keepalive / KEEPALIVE_PROBES).max(Duration::from_secs(1));
        let keepalive = TcpKeepalive::new()
            .with_time(limits.keepalive.max(Duration::from_secs(1)))
            .with_interval(interval)
            .with_retries(KEEPALIVE_PROBES);
        Self { keepalive, user_timeout: limits.user_timeout }
    }

    /// Sets a new connection up. What fails here only costs comfort.
    fn apply(&self, stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        let socket = SockRef::from(stream);
        let _ = socket.set_tcp_keepalive(&self.keepalive);
        let _ = socket.set_tcp_user_timeout(Some(self.user_timeout));
        unsent::bound(stream);
    }
}

/// As many connections as the system lets us have, without being asked to.
/// Tells how many descriptors there are then.
fn raise_descriptor_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let is_raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    usize::try_from(if is_raised { hard } else { soft }).unwrap_or(usize::MAX)
}
