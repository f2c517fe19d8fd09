//! The threads that read the database. They read from the last commit and never block the writer.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, InterruptHandle, OpenFlags, params};

use super::schema::{RECORDS, read_last, record};
use super::times::IdRanges;
use super::{places, search};
use crate::server::audit::ThrottledWarning;
use crate::server::store::read::Budget;
use crate::server::store::{Read, ReadResult, Reply, Slice, Thread};

/// How long a read waits for a lock held by another process; the server does not wait for it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The warning about failed reads, shared by all readers.
pub(super) type ReadWarning = Arc<Mutex<ThrottledWarning>>;

/// A pool of reading threads, each with its own connection.
pub(super) struct Readers {
    /// `None` when the readers are being ended.
    reads: Option<Sender<(Read, Reply)>>,
    threads: Vec<(JoinHandle<()>, InterruptHandle)>,
    is_ending: Arc<AtomicBool>,
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} readers", self.threads.len())
    }
}

impl Readers {
    /// Starts `count` threads.
    pub(super) fn start(
        path: &Path,
        name: &str,
        count: usize,
        warning: &ReadWarning,
    ) -> anyhow::Result<Self> {
        let (reads, slices) = mpsc::channel();
        let slices = Arc::new(Mutex::new(slices));
        let is_ending = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..count {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NOFOLLOW;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(READ_TIMEOUT)?;
            let interrupt = connection.get_interrupt_handle();
            let (slices, warning, is_ending) = (slices.clone(), warning.clone(), is_ending.clone());
            let read = move || run_reader(&connection, &slices, &warning, &is_ending);
            let thread = thread::Builder::new().name(name.into()).spawn(read)?;
            threads.push((thread, interrupt));
        }
        Ok(Self { reads: Some(reads), threads, is_ending })
    }

    pub(super) fn read(&self, read: Read, reply: Reply) {
        if let Some(reads) = &self.reads {
            // If the threads have ended, the process is ending, and needs no reply.
            let _ = reads.send((read, reply));
        }
    }

    /// Interrupts running reads, ends the threads, and waits until their connections are closed.
    pub(super) fn end(&mut self) {
        self.is_ending.store(true, Ordering::SeqCst);
        self.reads = None;
        for (thread, interrupt) in self.threads.drain(..) {
            while !thread.is_finished() {
                // Repeated, because a read may start right after an interrupt.
                interrupt.interrupt();
                thread::sleep(Duration::from_millis(1));
            }
            let _ = thread.join();
        }
    }
}

/// A reading thread: performs one slice after another until the channel is closed.
fn run_reader(
    connection: &Connection,
    slices: &Mutex<Receiver<(Read, Reply)>>,
    warning: &Mutex<ThrottledWarning>,
    is_ending: &AtomicBool,
) {
    loop {
        let next = slices.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((read, reply)) = next else { return };
        // The thread must survive a read that panics, or later requests would never be answered.
        // The panic hook logs it.
        let failed = || Slice::Complete(ReadResult::failed());
        let slice = panic::catch_unwind(AssertUnwindSafe(|| perform(connection, read)));
        let slice = slice.unwrap_or_else(|_| Ok(failed()));
        if is_ending.load(Ordering::SeqCst) {
            return;
        }
        reply(slice.unwrap_or_else(|error| {
            let mut warning = warning.lock().unwrap_or_else(PoisonError::into_inner);
            warning.warn(&format!("cannot read the log: {error}"));
            failed()
        }));
    }
}

/// Performs a slice.
fn perform(connection: &Connection, mut read: Read) -> rusqlite::Result<Slice> {
    let transaction = connection.unchecked_transaction()?; // one snapshot for all statements
    let last = read_last(connection)?.message;
    let first: Option<i64> =
        connection.query_row("SELECT min(id) FROM messages", [], |row| row.get(0))?;
    read.note_deleted(first.map_or(last, |first| (first - 1).cast_unsigned()));
    let mut budget = Budget::new();
    let is_complete = match read.request().thread {
        Thread::Search { .. } => search::find(connection, &mut read, &mut budget)?,
        _ => find(connection, &mut read, &mut budget)?,
    };
    transaction.finish()?;
    Ok(if is_complete {
        Slice::Complete(read.complete(last))
    } else {
        Slice::Partial(Box::new(read))
    })
}

/// Scans the messages of a thread. Returns `false` if the slice ends before.
fn find(connection: &Connection, read: &mut Read, budget: &mut Budget) -> rusqlite::Result<bool> {
    let order = if read.request().after.is_some() { "ASC" } else { "DESC" };
    let select = |which: &str| {
        format!("{RECORDS} WHERE {which} AND m.id > ?1 AND m.id < ?2 ORDER BY m.id {order}")
    };
    let (sql, key) = match &read.request().thread {
        Thread::Room(key) => {
            let Some(place) = places::of_room(connection, key.as_str())? else { return Ok(true) };
            (places::in_place(order), place.into())
        }
        // All of the reader, filtered afterwards.
        Thread::Private { reader, .. } => {
            (places::in_place(order), (-reader.0.cast_signed()).into())
        }
        Thread::Ids { ids, .. } => {
            let ids: Vec<i64> = ids.iter().map(|id| id.cast_signed()).collect();
            let ids = serde_json::json!(ids).to_string();
            (select("m.id IN (SELECT value FROM json_each(?3))"), ids.into())
        }
        Thread::Message { id } => (select("m.id = ?3"), id.cast_signed().into()),
        // A scan over all rooms, filtered afterwards.
        Thread::Feed { .. } | Thread::Search { .. } => (select("?3 IS NULL"), Value::Null),
    };
    let ranges = IdRanges::of(connection, read)?;
    scan(connection, &sql, &key, &ranges, read, budget)
}

/// Scans the messages in what is left of the range of a read, within `ranges`; `sql` has a range as
/// the first two parameters, and `key` as the third one. Returns `false` if the slice ends before.
pub(super) fn scan(
    connection: &Connection,
    sql: &str,
    key: &Value,
    ranges: &IdRanges,
    read: &mut Read,
    budget: &mut Budget,
) -> rusqlite::Result<bool> {
    let id = |id: u64| i64::try_from(id).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(sql)?;
    for (first, last) in ranges.in_order(read.request().after.is_some()) {
        let (after, before) = read.range();
        let after = after.max(first.saturating_sub(1));
        let before = before.min(last.saturating_add(1));
        if before.saturating_sub(after) < 2 {
            continue;
        }
        let rows = statement.query_and_then(params![id(after), id(before), key], record)?;
        // A row with invalid names was not written by chatty: skip it.
        let rows = rows.filter_map(Result::transpose).map(|record| record.map(Arc::new));
        if !read.scan(rows, budget)? {
            return Ok(false);
        }
        if read.is_filled() {
            break;
        }
    }
    Ok(true)
}
