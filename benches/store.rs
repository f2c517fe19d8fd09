//! The cost of the log:
//!
//! - `cargo bench --bench store commits [BATCHES] [MESSAGES] [CIDS]` stores batches of short
//!   messages in 10 rooms by 100 authors, and reports CPU time and what was written. A message
//!   whose id is a multiple of `CIDS` has a cid.
//! - `cargo bench --bench store upgrade [MESSAGES] [FOLDER]` writes a file of the previous schema
//!   with this number of messages, of which every tenth is private, and upgrades it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use chatty::protocol::{Cid, Name, RoomName, Stamp};
use chatty::server::record::{Recipient, Record, UserId};
use chatty::server::store::sqlite::{Durability, FILE, Options, Retention, SqliteLog};
use chatty::server::store::{Batch, LastIds, Log as _};
use rusqlite::{Connection, params};

#[path = "../tests/support/older_schemas.rs"]
mod older_schemas;

const OPTIONS: Options =
    Options { durability: Durability::Commit, retention: Retention { age: None, messages: None } };

fn main() -> anyhow::Result<()> {
    let args: Vec<_> = env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number = |at: usize, default: &str| args.get(at).map_or(default, |arg| arg).parse();
    match args.first().map(String::as_str) {
        Some("upgrade") => {
            let parent = args.get(2).map_or_else(env::temp_dir, Into::into);
            upgrade(number(1, "100000")?, tempfile::tempdir_in(parent)?.path())
        }
        _ => {
            let cids = args.get(3).map(|cids| cids.parse()).transpose()?;
            commit(number(1, "500")?, number(2, "190")?, cids, tempfile::tempdir()?.path())
        }
    }
}

fn commit(batches: u64, messages: u64, cids: Option<u64>, folder: &Path) -> anyhow::Result<()> {
    let (mut log, _) = SqliteLog::open(folder, OPTIONS)?;
    let (start, used, written) = (Instant::now(), cpu_seconds()?, bytes_written()?);
    for batch in 0..batches {
        let ids = batch * messages + 1..(batch + 1) * messages + 1;
        let last = LastIds { message: ids.end - 1, person: 100 };
        let records = ids.map(|id| record(id, cids)).collect();
        log.append(&Batch { records, changes: Vec::new(), last })?;
        thread::sleep(Duration::from_millis(2)); // as between the turns of a busy server
    }
    let (took, used) = (start.elapsed().as_secs_f64(), cpu_seconds()? - used);
    let written = (bytes_written()? - written) / batches;
    let used = 1e6 * used / f64::from(u32::try_from(batches)?);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{batches} commits of {messages} messages in {took:.1} s")?;
    writeln!(out, "per commit: {used:.0} µs of CPU, {written} bytes written")?;
    Ok(())
}

/// Returns a message; if its id is a multiple of `cids`, with a cid.
fn record(id: u64, cids: Option<u64>) -> Arc<Record> {
    let author = id % 100 + 1;
    let room = RoomName::parse(&format!("room{}", author % 10)).expect("a name");
    Arc::new(Record {
        id,
        time: Stamp(i64::try_from(id).expect("a time")),
        author: UserId(author),
        from: Name::parse(&format!("user{author}")).expect("a name"),
        to: Recipient::Room(room),
        is_action: false,
        text: text(id).into(),
        cid: cids
            .filter(|each| id.is_multiple_of(*each))
            .and_then(|_| Cid::parse(&format!("c{id}"))),
    })
}

fn text(id: u64) -> String {
    format!("message {id} about nothing in particular, with {} words", id % 20)
}

fn upgrade(messages: u64, folder: &Path) -> anyhow::Result<()> {
    let file = folder.join(FILE);
    write_older(&file, messages)?;
    let old = fs::metadata(&file)?.len();
    let (start, used) = (Instant::now(), cpu_seconds()?);
    let (log, _) = SqliteLog::open(folder, OPTIONS)?;
    let (took, used) = (start.elapsed().as_secs_f64(), cpu_seconds()? - used);
    let new = fs::metadata(&file)?.len();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{messages} messages upgraded in {took:.1} s, {used:.1} CPU s")?;
    writeln!(out, "old file {} MB, new file {} MB, without its index", old >> 20, new >> 20)?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    writeln!(out, "peak memory: {}", peak.trim_start_matches("VmHWM:").trim())?;
    drop(log);
    Ok(())
}

/// Writes a file of the previous schema.
fn write_older(file: &Path, messages: u64) -> anyhow::Result<()> {
    let mut older = older_schemas::create(file, older_schemas::STEPS.len());
    older.pragma_update(None, "synchronous", "OFF")?;
    let transaction = older.transaction()?;
    insert_messages(&transaction, messages)?;
    transaction.commit()?;
    Ok(())
}

fn insert_messages(older: &Connection, messages: u64) -> anyhow::Result<()> {
    let sql = "INSERT INTO messages
               VALUES (?1, ?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?7, 0, ?8, ?9)";
    let mut insert = older.prepare(sql)?;
    for id in 1..=messages {
        let author = id % 100 + 1;
        let name = format!("user{author}");
        let reader = (id % 10 == 0).then_some(author % 100 + 1);
        insert.execute(params![
            id.cast_signed(),
            author.cast_signed(),
            name,
            reader.is_none().then(|| format!("room{}", author % 10)),
            reader.map(|_| &name),
            reader.map(u64::cast_signed),
            reader.map(|reader| format!("user{reader}")),
            text(id),
            format!("c{id}"),
        ])?;
    }
    Ok(())
}

/// Returns the CPU time of this process.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u32 = fields.split(' ').skip(11).take(2).flat_map(str::parse::<u32>).sum();
    Ok(f64::from(ticks) / 100.0)
}

/// Returns how much this process has written.
fn bytes_written() -> anyhow::Result<u64> {
    let io = fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    Ok(line.unwrap_or("0").parse()?)
}
