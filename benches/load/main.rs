//! A load generator: closed loops against chatty and, where they are installed,
//! its peers, each on a fresh server, in alternating rounds. `scripts/bench.sh`
//! runs it; see `docs/performance.md` for what the figures mean.
//!
//! What to compare is the server's CPU time for each delivery, within one run:
//! throughput depends on the machine and on what else it does.

mod crowd;
mod dialect;
mod server;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use crowd::{Crowd, Findings};
use dialect::{COMMON, Role};
use server::{Kind, Server};

/// Measures chat servers.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    workload: Workload,

    /// Given by `cargo bench`; means nothing.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// One room; what a few say goes to everybody
    Fanout {
        #[command(flatten)]
        common: Common,
        /// How many are in the room
        #[arg(long, default_value_t = 100)]
        receivers: usize,
        /// How many of them talk
        #[arg(long, default_value_t = 10)]
        senders: usize,
    },
    /// A room for each; how many messages are acknowledged, and how soon
    Acks {
        #[command(flatten)]
        common: Common,
        /// How many talk
        #[arg(long, default_value_t = 100)]
        senders: usize,
    },
    /// People who are only there: what each takes
    Idle {
        #[command(flatten)]
        common: Common,
        /// How many
        #[arg(long, default_value_t = 10_000)]
        people: usize,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Which servers, one after the other in each round
    #[arg(long, value_enum, value_delimiter = ',', default_value = "chatty,chatty-log")]
    servers: Vec<Kind>,
    /// How often; medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many messages each sender may have under way
    #[arg(long, default_value_t = 10)]
    window: u32,
    /// How long each round talks, in seconds
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
}

const WARM_UP: Duration = Duration::from_millis(400);

/// How many of a room's members are read in full, from the first to the last who
/// came.
const WATCHERS: usize = 4;

/// How many log in at the same time.
const AT_ONCE: usize = 64;

fn main() -> anyhow::Result<()> {
    match Cli::parse().workload {
        Workload::Fanout { common, receivers, senders } => {
            let title = format!("fanout {receivers}/{senders}/{}", common.window);
            report_talk(&title, &common, |server| fan_out(server, &common, receivers, senders))
        }
        Workload::Acks { common, senders } => {
            let title = format!("acks {senders}/{}", common.window);
            report_talk(&title, &common, |server| acks(server, &common, senders))
        }
        Workload::Idle { common, people } => report_idle(&common, people),
    }
}

fn fan_out(
    server: &Server,
    common: &Common,
    receivers: usize,
    senders: usize,
) -> anyhow::Result<Findings> {
    let mut crowd = Crowd::new(server)?;
    crowd.join(receivers, AT_ONCE, |_| COMMON.to_owned(), Role::Member)?;
    let first_sender = if server.kind.members_speak() { 0 } else { receivers };
    if first_sender > 0 {
        crowd.join(senders, AT_ONCE, |_| COMMON.to_owned(), Role::Publisher)?;
    }
    let watchers: Vec<usize> =
        (0..WATCHERS).map(|at| at * (receivers - 1) / (WATCHERS - 1)).collect();
    for sender in first_sender..first_sender + senders {
        // Who hears nothing of its own cannot watch itself.
        let watchers: Vec<usize> = watchers
            .iter()
            .map(|at| if *at == sender && !server.kind.echoes() { receivers - 2 } else { *at })
            .collect();
        crowd.add_sender(sender, COMMON.to_owned(), &watchers);
    }
    let hearers = match server.kind {
        kind if kind.members_speak() && !kind.echoes() => receivers - 1,
        _ => receivers,
    } as u64;
    let time = Duration::from_secs_f64(common.seconds);
    crowd.talk(common.window, WARM_UP, time, |messages| messages * hearers)
}

fn acks(server: &Server, common: &Common, senders: usize) -> anyhow::Result<Findings> {
    anyhow::ensure!(server.kind.echoes(), "only chatty acknowledges by an echo");
    let mut crowd = Crowd::new(server)?;
    let room = |at: usize| format!("room{at}");
    crowd.join(senders, AT_ONCE, room, Role::Member)?;
    for at in 0..senders {
        crowd.add_sender(at, room(at), &[at]);
    }
    let time = Duration::from_secs_f64(common.seconds);
    crowd.talk(common.window, WARM_UP, time, |messages| messages)
}

/// A column of figures: how to get and how to show one.
type Column<T> = (&'static str, fn(&T) -> f64, usize);

fn report_talk(
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
    report(title, common, &columns, |server| {
        let findings = measure(server)?;
        Ok((findings, sync_time(server.folder())?))
    })
}

#[allow(clippy::cast_precision_loss)] // figures for people
fn ratio(count: u64, by: f64) -> f64 {
    count as f64 / by
}

/// What connecting and being there takes.
struct Idle {
    people: f64,
    seconds: f64,
    cpu: f64,
    memory: f64,
}

fn report_idle(common: &Common, people: usize) -> anyhow::Result<()> {
    let columns: [Column<Idle>; 3] = [
        ("bytes each", |idle| idle.memory / idle.people, 0),
        ("seconds to log in", |idle| idle.seconds, 2),
        ("CPU µs each", |idle| idle.cpu * 1e6 / idle.people, 1),
    ];
    report(&format!("idle {people}"), common, &columns, |server| {
        let (start, memory) = (Instant::now(), server.memory());
        let mut crowd = Crowd::new(server)?;
        crowd.join(people, AT_ONCE, |_| COMMON.to_owned(), Role::Member)?;
        let idle = Idle {
            people: ratio(people as u64, 1.0),
            seconds: start.elapsed().as_secs_f64(),
            cpu: server.cpu().as_secs_f64(),
            memory: ratio(server.memory().saturating_sub(memory), 1.0),
        };
        Ok((idle, sync_time(server.folder())?))
    })
}

/// Measures round by round, and shows a row of medians for each server.
fn report<T>(
    title: &str,
    common: &Common,
    columns: &[Column<T>],
    measure: impl Fn(&Server) -> anyhow::Result<(T, Duration)>,
) -> anyhow::Result<()> {
    let mut found: Vec<Vec<T>> = common.servers.iter().map(|_| Vec::new()).collect();
    let mut syncs = Vec::new();
    for _ in 0..common.rounds {
        for (kind, found) in common.servers.iter().zip(&mut found) {
            let (findings, sync) = measure(&Server::start(*kind)?)?;
            found.push(findings);
            syncs.push(sync.as_secs_f64() * 1e6);
        }
    }
    let mut out = std::io::stdout().lock();
    let names: Vec<&str> = columns.iter().map(|column| column.0).collect();
    writeln!(out, "\n{title}, medians of {} rounds", common.rounds)?;
    writeln!(out, "| server | {} |", names.join(" | "))?;
    writeln!(out, "|---{}|", "|---:".repeat(columns.len()))?;
    for (kind, found) in common.servers.iter().zip(&found) {
        let cells = columns.iter().map(|(_, get, digits)| {
            let median = median(found.iter().map(get).collect());
            format!("{median:.digits$}")
        });
        let kind = format!("{kind:?}").to_lowercase();
        writeln!(out, "| {kind} | {} |", cells.collect::<Vec<_>>().join(" | "))?;
    }
    writeln!(out, "one write and fsync of that disk: {:.0} µs", median(syncs))?;
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long the disk of a folder takes to keep 4 KiB, the median of some tries.
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
