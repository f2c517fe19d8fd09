//! The threads that read the database. They read from the last commit and never block the writer.

use std::cell::Cell;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, InterruptHandle, OpenFlags, params};

use super::{COLUMNS, read_last, record, search};
use crate::server::audit::ThrottledWarning;
use crate::server::record::Record;
use crate::server::store::{ReadRequest, ReadResult, Reply, SCAN_MAX, Thread};

/// How long a read waits for a lock held by another process; the server does not wait for it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The warning about failed reads, shared by all readers.
pub(super) type ReadWarning = Arc<Mutex<ThrottledWarning>>;

/// A pool of reading threads, each with its own connection.
pub(super) struct Readers {
    /// `None` when the readers are being ended.
    reads: Option<Sender<(ReadRequest, Reply)>>,
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
        let (reads, queries) = mpsc::channel();
        let queries = Arc::new(Mutex::new(queries));
        let is_ending = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..count {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NOFOLLOW;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(READ_TIMEOUT)?;
            let interrupt = connection.get_interrupt_handle();
            let (queries, warning, is_ending) =
                (queries.clone(), warning.clone(), is_ending.clone());
            let read = move || run_reader(&connection, &queries, &warning, &is_ending);
            let thread = thread::Builder::new().name(name.into()).spawn(read)?;
            threads.push((thread, interrupt));
        }
        Ok(Self { reads: Some(reads), threads, is_ending })
    }

    pub(super) fn read(&self, query: ReadRequest, reply: Reply) {
        if let Some(reads) = &self.reads {
            // If the threads have ended, the process is ending, and needs no reply.
            let _ = reads.send((query, reply));
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

/// A reading thread: handles one request after another until the channel is closed.
fn run_reader(
    connection: &Connection,
    queries: &Mutex<Receiver<(ReadRequest, Reply)>>,
    warning: &Mutex<ThrottledWarning>,
    is_ending: &AtomicBool,
) {
    loop {
        let next = queries.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((query, reply)) = next else { return };
        // The thread must survive a read that panics, or later requests would never be answered.
        // The panic hook logs it.
        let found = panic::catch_unwind(AssertUnwindSafe(|| find(connection, &query)));
        let found = found.unwrap_or_else(|_| Ok(ReadResult::failed()));
        if is_ending.load(Ordering::SeqCst) {
            return;
        }
        reply(found.unwrap_or_else(|error| {
            let mut warning = warning.lock().unwrap_or_else(PoisonError::into_inner);
            warning.warn(&format!("cannot read the log: {error}"));
            ReadResult::failed()
        }));
    }
}

fn find(connection: &Connection, query: &ReadRequest) -> rusqlite::Result<ReadResult> {
    let transaction = connection.unchecked_transaction()?; // a snapshot for both reads
    let mut upto = read_last(connection)?.message;
    let (after, order) = match query.after {
        Some(after) => (i64::try_from(after).unwrap_or(i64::MAX), "ASC"),
        None => (0, "DESC"),
    };
    let mut records = match &query.thread {
        Thread::Room(key) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM messages WHERE room_key = ?1 AND id > ?2 ORDER BY id {order}"
            );
            collect(connection, &sql, params![key.as_str(), after], query)?
        }
        Thread::Private { reader, .. } => {
            // Each half uses its own index; the rows are filtered afterwards.
            let sql = format!(
                "SELECT {COLUMNS} FROM messages WHERE author = ?1 AND reader IS NOT NULL AND id > ?2
                 UNION
                 SELECT {COLUMNS} FROM messages WHERE reader = ?1 AND id > ?2
                 ORDER BY id {order}"
            );
            collect(connection, &sql, params![reader.0.cast_signed(), after], query)?
        }
        Thread::Search { .. } => search::find(connection, query)?,
        Thread::Mail { reader } => {
            let sql = format!(
                "SELECT {COLUMNS} FROM messages WHERE reader = ?1 AND id > ?2 AND id NOT IN (
                     SELECT skipped.value FROM kept, json_each(kept.value, '$.skip') AS skipped
                     WHERE shelf = 'mailbox' AND kept.key = ?1
                 ) ORDER BY id {order}"
            );
            collect(connection, &sql, params![reader.0.cast_signed(), after], query)?
        }
        Thread::Message { id } => {
            let sql = format!("SELECT {COLUMNS} FROM messages WHERE id = ?1");
            collect(connection, &sql, [id.cast_signed()], query)?
        }
        Thread::Feed { .. } => {
            // A scan over all rooms in the order of ids, filtered afterwards.
            let sql = format!(
                "SELECT {COLUMNS} FROM messages WHERE id > ?1 ORDER BY id LIMIT {SCAN_MAX}"
            );
            let seen = Cell::new((0, 0));
            let see = |id| seen.set((seen.get().0 + 1, id));
            let found = collect_seen(connection, &sql, params![after], query, see)?;
            if let (SCAN_MAX, last) = seen.get() {
                upto = last;
            }
            found
        }
    };
    if query.after.is_none() {
        records.reverse();
    }
    let first: Option<i64> =
        connection.query_row("SELECT min(id) FROM messages", [], |row| row.get(0))?;
    let deleted = first.map_or(upto, |first| (first - 1).cast_unsigned());
    let has_gap = query.after.is_some_and(|after| after < deleted);
    transaction.finish()?;
    Ok(ReadResult { records, upto, has_gap, has_failed: false }.cut_for(query))
}

pub(super) fn collect(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    query: &ReadRequest,
) -> rusqlite::Result<Vec<Arc<Record>>> {
    collect_seen(connection, sql, params, query, |_| {})
}

/// The same; calls `see` with the id of each row that was scanned.
fn collect_seen(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    query: &ReadRequest,
    see: impl Fn(u64),
) -> rusqlite::Result<Vec<Arc<Record>>> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_and_then(params, |row| {
        see(row.get::<_, i64>(0)?.cast_unsigned());
        record(row)
    })?;
    // A row with invalid names was not written by chatty: skip it.
    query.try_fill(rows.filter_map(Result::transpose).map(|record| record.map(Arc::new)))
}
