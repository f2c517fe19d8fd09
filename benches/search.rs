//! The cost of the search index: `cargo bench --bench search [MESSAGES] [FOLDER]` writes a log
//! with this number of messages, discards its index as an upgrade does, and measures searches
//! without the index, indexing, and searches with the index.
//!
//! 90 % of the messages are 60 bytes of ASCII words, the others are Chinese or Thai.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs, io::Write as _};

use anyhow::Context as _;
use chatty::protocol::{Key, Name, RoomName, Stamp};
use chatty::server::record::{Recipient, Record, UserId};
use chatty::server::store::sqlite::{Durability, FILE, Options, Retention, SqliteLog};
use chatty::server::store::{Batch, LastIds, Log as _, ReadRequest, SearchTerms, Thread};
use rusqlite::Connection;

const BATCH: u64 = 2000;
const VOCABULARY: u64 = 20_000;

/// A search: its description, and its text for a number of messages.
type Search = (&'static str, fn(u64) -> String);

const SEARCHES: &[Search] = &[
    ("a common word", |_| word(0)),
    ("a word of no message", |_| "nonesuch".to_owned()),
    ("a word of one message", |messages| format!("n{}", messages / 2)),
    ("three words", |_| [word(3), word(40), word(200)].join(" ")),
    ("two Chinese letters", |_| "万丈".to_owned()),
    ("four Thai letters", |_| "กขงจ".to_owned()),
];

fn main() -> anyhow::Result<()> {
    let mut args = env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let messages: u64 = args.next().map_or(Ok(100_000), |count| count.parse())?;
    let parent = args.next().map_or_else(env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(parent)?;
    let mut out = std::io::stdout().lock();

    let start = Instant::now();
    fill(folder.path(), messages)?;
    writeln!(out, "{messages} messages written in {:.1} s", start.elapsed().as_secs_f64())?;
    report_size(&mut out, folder.path(), "before")?;

    let file = Connection::open(folder.path().join(FILE))?;
    file.execute_batch(
        "INSERT INTO search (search) VALUES ('delete-all');
         UPDATE last SET number = 0 WHERE what = 'indexed'",
    )?;
    drop(file);
    let log = open(folder.path())?;
    let start = Instant::now();
    search(&mut out, &log, messages, "without an index", &SEARCHES[..2])?;
    while indexed(folder.path())? < messages {
        thread::sleep(Duration::from_millis(20));
    }
    let (took, used) = (start.elapsed().as_secs_f64(), cpu_seconds("log maintenance")?);
    writeln!(out, "indexing: {took:.1} s, {used:.2} CPU s")?;
    search(&mut out, &log, messages, "with the index", SEARCHES)?;
    drop(log);
    report_size(&mut out, folder.path(), "after")
}

fn open(folder: &Path) -> anyhow::Result<SqliteLog> {
    let options = Options { durability: Durability::Relaxed, retention: Retention::default() };
    Ok(SqliteLog::open(folder, options)?.0)
}

fn fill(folder: &Path, messages: u64) -> anyhow::Result<()> {
    let mut log = open(folder)?;
    let (from, room) = (Name::parse("alice").expect("a name"), RoomName::parse("ops"));
    let to = Recipient::Room(room.expect("a name"));
    for first in (1..=messages).step_by(usize::try_from(BATCH)?) {
        let ids = first..(first + BATCH).min(messages + 1);
        let last = LastIds { message: ids.end - 1, person: 1 };
        let record = |id| {
            let (from, to, text) = (from.clone(), to.clone(), text(id).into());
            let (time, author, cid) = (Stamp(0), UserId(1), None);
            Arc::new(Record { id, time, author, from, to, is_action: false, text, cid })
        };
        let batch = Batch { records: ids.map(record).collect(), changes: Vec::new(), last };
        log.append(&batch)?;
    }
    while indexed(folder)? < messages {
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn search(
    out: &mut impl std::io::Write,
    log: &SqliteLog,
    messages: u64,
    when: &str,
    searches: &[Search],
) -> anyhow::Result<()> {
    for (what, text) in searches {
        let terms = SearchTerms::parse(&text(messages));
        let rooms = vec![Key::fold("ops")];
        let reader = UserId(2);
        let thread = Thread::Search { reader, rooms, is_private_too: true, terms };
        let query = ReadRequest::latest(thread, 50, usize::MAX);
        let start = Instant::now();
        let count = log.read_all(query).records.len();
        let took = start.elapsed().as_secs_f64() * 1e3;
        writeln!(out, "{when}: {what}: {count} found in {took:.1} ms")?;
    }
    Ok(())
}

/// Returns a text with a word that only this message contains, and common words.
fn text(id: u64) -> String {
    let mut next = numbers(id);
    let mut text = format!("n{id}");
    match id % 20 {
        0 => {
            for _ in 0..20 {
                text.extend(letter('\u{4E00}', skewed(&mut next, 3000)));
            }
        }
        10 => {
            for _ in 0..40 {
                text.extend(letter('\u{E01}', skewed(&mut next, 46)));
            }
        }
        _ => {
            while text.len() < 60 {
                text.push(' ');
                text.push_str(&word(skewed(&mut next, VOCABULARY)));
            }
        }
    }
    text
}

fn letter(first: char, number: u64) -> Option<char> {
    char::from_u32(u32::from(first) + u32::try_from(number).ok()?)
}

/// Returns a word of pseudo-random letters; frequent words are short.
fn word(number: u64) -> String {
    let mut next = numbers(number ^ 0x5DEE_CE66);
    let len = 2 + number.checked_ilog2().unwrap_or(0) / 2;
    (0..len).filter_map(|_| letter('a', next() % 26)).collect()
}

/// Returns a number below `count` with a frequency proportional to its reciprocal (Zipf's law),
/// like that of words in a language.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn skewed(next: &mut impl FnMut() -> u64, count: u64) -> u64 {
    let part = (next() % (1 << 30)) as f64 / f64::from(1 << 30);
    (count as f64).powf(part) as u64 - 1
}

fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

fn indexed(folder: &Path) -> anyhow::Result<u64> {
    let file = Connection::open(folder.join(FILE))?;
    file.busy_timeout(Duration::from_secs(5))?;
    let sql = "SELECT number FROM last WHERE what = 'indexed'";
    Ok(file.query_row(sql, [], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

fn report_size(out: &mut impl std::io::Write, folder: &Path, when: &str) -> anyhow::Result<()> {
    let path = folder.join(FILE);
    let total = fs::metadata(&path)?.len();
    let file = Connection::open(path)?;
    let sql = "SELECT (SELECT sum(length(block)) FROM search_data)
                    + (SELECT count(*) FROM search_docsize) * 8";
    let index: i64 = file.query_row(sql, [], |row| row.get(0)).context("the index")?;
    writeln!(out, "{when}: file {} MB, of it index {} MB", total >> 20, index >> 20)?;
    Ok(())
}

/// Returns the CPU time of the threads with this name.
fn cpu_seconds(name: &str) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        let Some((head, fields)) = stat.rsplit_once(") ") else { continue };
        if head.ends_with(&format!("({name}")) {
            ticks += fields.split(' ').skip(11).take(2).flat_map(str::parse::<u32>).sum::<u32>();
        }
    }
    Ok(f64::from(ticks) / 100.0)
}
