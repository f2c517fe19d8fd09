//! A load generator for chatty and comparable servers. Each measurement uses a new server, and
//! the servers alternate in rounds; or it measures a chatty that already runs.
//! `scripts/bench.sh` runs it, and `docs/performance.md` explains the figures.
//!
//! The figure to compare is the server's CPU time per delivery within one run. Throughput
//! depends on the machine and on its other load.

mod crowd;
mod dialect;
mod server;

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum as _};

use crowd::{Crowd, Findings, Pace};
use dialect::{Role, Target};
use server::{Kind, Server};

/// Measures chat servers.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    workload: Workload,

    /// Passed by `cargo bench`; ignored.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// Broadcast in one room: a few members send to all
    Fanout {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        room: Room,
        /// Unacknowledged messages per sender
        #[arg(long, default_value_t = 10)]
        window: u32,
    },
    /// Latency in one room at a fixed rate of messages
    Paced {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        room: Room,
        /// Messages per second, of all senders together
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
    },
    /// Acknowledgements, with one sender per room
    Acks {
        #[command(flatten)]
        common: Common,
        /// Number of senders
        #[arg(long, default_value_t = 100)]
        senders: usize,
        /// Unacknowledged messages per sender
        #[arg(long, default_value_t = 10)]
        window: u32,
    },
    /// Pairs of users answering each other privately
    Pairs {
        #[command(flatten)]
        common: Common,
        /// Number of pairs
        #[arg(long, default_value_t = 1)]
        pairs: usize,
    },
    /// Many users join one room at once, each announced to all; then all leave
    Storm {
        #[command(flatten)]
        common: Common,
        /// Number of users
        #[arg(long, default_value_t = 1000)]
        people: usize,
    },
    /// Memory and CPU time per idle user
    Idle {
        #[command(flatten)]
        common: Common,
        /// Number of users
        #[arg(long, default_value_t = 10_000)]
        people: usize,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// The servers, measured one after the other in each round
    #[arg(long, value_enum, value_delimiter = ',', default_value = "chatty,chatty-log")]
    servers: Vec<Kind>,
    /// Measure a chatty that already runs, in its room #bench
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_parser = look_up,
        requires = "pid",
        conflicts_with = "servers"
    )]
    address: Option<SocketAddr>,
    /// Its process id, on this machine
    #[arg(long, requires = "address")]
    pid: Option<u32>,
    /// Number of rounds, of which medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Duration of each round, in seconds
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
}

impl Common {
    /// Returns the server that already runs, if one was given.
    fn running(&self) -> anyhow::Result<Option<Server>> {
        self.address.zip(self.pid).map(|(at, pid)| Server::running(at, pid)).transpose()
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn look_up(address: &str) -> anyhow::Result<SocketAddr> {
    address.to_socket_addrs()?.next().context("no such host")
}

#[derive(Debug, Clone, Copy, Args)]
struct Room {
    /// Number of members
    #[arg(long, default_value_t = 100)]
    receivers: usize,
    /// Number of members that send
    #[arg(long, default_value_t = 10)]
    senders: usize,
    /// Number of members that use the tagged dialect; chatty only
    #[arg(long, default_value_t = 0)]
    tagged: usize,
}

const WARM_UP: Duration = Duration::from_millis(400);

/// How many members are watchers, evenly distributed in the order of joining.
const WATCHERS: usize = 4;

/// How many members log in at the same time.
const AT_ONCE: usize = 64;

fn main() -> anyhow::Result<()> {
    match Cli::parse().workload {
        Workload::Fanout { common, room, window } => {
            let title = format!("fanout {}/{}/{window}", room.receivers, room.senders);
            let pace = Pace::Window(window);
            report_delivery(&title, &common, |server| broadcast(server, &common, room, pace))
        }
        Workload::Paced { common, room, rate } => {
            let title = format!("paced {}/{}/{rate}", room.receivers, room.senders);
            let pace = Pace::Rate(rate);
            report_delivery(&title, &common, |server| broadcast(server, &common, room, pace))
        }
        Workload::Acks { common, senders, window } => {
            let title = format!("acks {senders}/{window}");
            report_delivery(&title, &common, |server| acks(server, &common, senders, window))
        }
        Workload::Pairs { common, pairs } => {
            report_delivery(&format!("pairs {pairs}"), &common, |server| {
                ping_pong(server, &common, pairs)
            })
        }
        Workload::Storm { common, people } => report_storm(&common, people),
        Workload::Idle { common, people } => report_idle(&common, people),
    }
}

fn broadcast(server: &Server, common: &Common, room: Room, pace: Pace) -> anyhow::Result<Findings> {
    let Room { receivers, senders, tagged } = room;
    anyhow::ensure!(tagged == 0 || server.kind.echoes(), "only chatty has a tagged dialect");
    anyhow::ensure!(senders + tagged <= receivers, "senders cannot use the tagged dialect");
    let mut crowd = Crowd::new(server)?;
    for (count, role) in [(receivers - tagged, Role::Member), (tagged, Role::TaggedMember)] {
        crowd.join(count, AT_ONCE, |_| server.room().to_owned(), role)?;
    }
    let first_sender = if server.kind.members_send() { 0 } else { receivers };
    if first_sender > 0 {
        crowd.join(senders, AT_ONCE, |_| server.room().to_owned(), Role::Publisher)?;
    }
    let watchers: Vec<usize> =
        (0..WATCHERS).map(|at| at * (receivers - 1) / (WATCHERS - 1)).collect();
    for sender in first_sender..first_sender + senders {
        // A sender without an echo cannot be its own watcher.
        let watchers: Vec<usize> = watchers
            .iter()
            .map(|at| if *at == sender && !server.kind.echoes() { receivers - 2 } else { *at })
            .collect();
        crowd.add_sender(sender, Target::Room(server.room().to_owned()), &watchers);
    }
    let recipients = match server.kind {
        kind if kind.members_send() && !kind.echoes() => receivers - 1,
        _ => receivers,
    } as u64;
    crowd.measure(pace, WARM_UP, common.time(), |messages| messages * recipients)
}

fn acks(server: &Server, common: &Common, senders: usize, window: u32) -> anyhow::Result<Findings> {
    anyhow::ensure!(server.kind.echoes(), "only chatty acknowledges messages with an echo");
    let mut crowd = Crowd::new(server)?;
    let room = |at: usize| format!("room{at}");
    crowd.join(senders, AT_ONCE, room, Role::Member)?;
    for at in 0..senders {
        crowd.add_sender(at, Target::Room(room(at)), &[at]);
    }
    crowd.measure(Pace::Window(window), WARM_UP, common.time(), |messages| messages)
}

fn ping_pong(server: &Server, common: &Common, pairs: usize) -> anyhow::Result<Findings> {
    let mut crowd = Crowd::new(server)?;
    crowd.join(pairs * 2, AT_ONCE, |_| server.room().to_owned(), Role::Partner)?;
    crowd.receive_until_quiet()?;
    for at in 0..pairs * 2 {
        let partner = at ^ 1;
        let to = Target::Person(crowd.name(partner).to_owned());
        crowd.add_sender(at, to, &[partner]);
    }
    crowd.measure(Pace::PingPong, WARM_UP, common.time(), |messages| messages)
}

/// A column of figures: its heading, how to get a figure, and the number of decimals.
type Column<T> = (&'static str, fn(&T) -> f64, usize);

fn report_delivery(
    title: &str,
    common: &Common,
    measure: impl Fn(&Server) -> anyhow::Result<Findings>,
) -> anyhow::Result<()> {
    let columns: [Column<Findings>; 6] = [
        ("deliveries/s", |f| ratio(f.deliveries, f.seconds), 0),
        ("messages/s", |f| ratio(f.messages, f.seconds), 0),
        ("CPU µs/delivery", |f| f.cpu * 1e6 / ratio(f.deliveries, 1.0), 3),
        ("p50 µs", |f| f64::from(f.percentile(50)), 0),
        ("p99 µs", |f| f64::from(f.percentile(99)), 0),
        ("faults", |f| ratio(f.faults, 1.0), 0),
    ];
    report(title, common, &[], &columns, measure)
}

#[allow(clippy::cast_precision_loss)] // the figures are rounded when shown
fn ratio(count: u64, by: f64) -> f64 {
    count as f64 / by
}

/// The time that logins and logouts of all users at once take, in seconds.
struct Storm {
    login: f64,
    login_cpu: f64,
    logout: f64,
    logout_cpu: f64,
}

fn report_storm(common: &Common, people: usize) -> anyhow::Result<()> {
    let columns: [Column<Storm>; 4] = [
        ("login s", |storm| storm.login, 3),
        ("CPU s", |storm| storm.login_cpu, 3),
        ("logout s", |storm| storm.logout, 3),
        ("CPU s", |storm| storm.logout_cpu, 3),
    ];
    report(&format!("storm {people}"), common, &["--announce"], &columns, |server| {
        let (start, cpu) = (Instant::now(), server.cpu());
        let mut crowd = Crowd::new(server)?;
        crowd.join(people, people, |_| server.room().to_owned(), Role::Member)?;
        let login = start.elapsed().as_secs_f64();
        crowd.receive_until_quiet()?;
        let (start, cpu_between) = (Instant::now(), server.cpu());
        crowd.leave()?;
        let logout = start.elapsed().as_secs_f64();
        let login_cpu = cpu_between.saturating_sub(cpu).as_secs_f64();
        let logout_cpu = server.cpu().saturating_sub(cpu_between).as_secs_f64();
        Ok(Storm { login, login_cpu, logout, logout_cpu })
    })
}

/// The cost of idle connections.
struct Idle {
    people: f64,
    seconds: f64,
    cpu: f64,
    memory: f64,
}

fn report_idle(common: &Common, people: usize) -> anyhow::Result<()> {
    let columns: [Column<Idle>; 3] = [
        ("bytes/user", |idle| idle.memory / idle.people, 0),
        ("login s", |idle| idle.seconds, 2),
        ("CPU µs/user", |idle| idle.cpu * 1e6 / idle.people, 1),
    ];
    report(&format!("idle {people}"), common, &[], &columns, |server| {
        let (start, memory, cpu) = (Instant::now(), server.memory(), server.cpu());
        let mut crowd = Crowd::new(server)?;
        crowd.join(people, AT_ONCE, |_| server.room().to_owned(), Role::Member)?;
        Ok(Idle {
            people: ratio(people as u64, 1.0),
            seconds: start.elapsed().as_secs_f64(),
            cpu: server.cpu().saturating_sub(cpu).as_secs_f64(),
            memory: ratio(server.memory().saturating_sub(memory), 1.0),
        })
    })
}

/// Measures round by round and prints a row of medians for each server. `flags` are further
/// flags for chatty.
fn report<T>(
    title: &str,
    common: &Common,
    flags: &[&str],
    columns: &[Column<T>],
    measure: impl Fn(&Server) -> anyhow::Result<T>,
) -> anyhow::Result<()> {
    let running = common.running()?;
    let kinds = if running.is_some() { &[Kind::Chatty] } else { &common.servers[..] };
    let mut found: Vec<Vec<T>> = kinds.iter().map(|_| Vec::new()).collect();
    let mut syncs = Vec::new();
    for _ in 0..common.rounds {
        for (kind, found) in kinds.iter().zip(&mut found) {
            if let Some(server) = &running {
                found.push(measure(server)?);
                continue;
            }
            let server = Server::start(*kind, flags)?;
            found.push(measure(&server)?);
            syncs.push(sync_time(server.folder())?.as_secs_f64() * 1e6);
        }
    }
    let mut out = std::io::stdout().lock();
    let names: Vec<&str> = columns.iter().map(|column| column.0).collect();
    writeln!(out, "\n### {title}\n")?;
    writeln!(out, "| server | {} |", names.join(" | "))?;
    writeln!(out, "|---{}|", "|---:".repeat(columns.len()))?;
    for (kind, found) in kinds.iter().zip(&found) {
        let cells = columns.iter().map(|(_, get, digits)| {
            let median = median(found.iter().map(get).collect());
            format!("{median:.digits$}")
        });
        let kind = kind.to_possible_value().context("a server of the list")?;
        let kind = kind.get_name();
        writeln!(out, "| {kind} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
    }
    if !syncs.is_empty() && kinds.contains(&Kind::ChattyLog) {
        writeln!(out, "\nwrite and fsync of 4 KiB on that disk: {:.0} µs", median(syncs))?;
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the median time of a write and fsync of 4 KiB in a folder.
fn sync_time(folder: &Path) -> anyhow::Result<Duration> {
    let mut file = File::create(folder.join("sync"))?;
    let mut times = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}
