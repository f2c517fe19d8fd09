//! The server's log on stderr: actions of operators, and errors.
//!
//! A slow or missing reader of stderr must not block the server, so a thread writes the lines,
//! and lines beyond the queue's length are dropped and counted. As there is one stderr, the
//! queue is global.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::stdio;

/// Maximum number of lines that wait to be written.
const WAITING_MAX: usize = 1000;

/// Time that the end of the process waits for the remaining lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Minimum time between two reports of the same cause.
const REPEAT_INTERVAL: Duration = Duration::from_secs(1);

enum Entry {
    Line(String),
    /// Dropped when all lines before it are written.
    Flush(Sender<()>),
}

static QUEUE: OnceLock<SyncSender<Entry>> = OnceLock::new();

/// Number of lines dropped because the queue was full.
static DROPPED_LINES: AtomicUsize = AtomicUsize::new(0);

/// Flushes the queue when it is dropped, also in a panic.
#[derive(Debug)]
pub struct AuditLog(());

impl Drop for AuditLog {
    fn drop(&mut self) {
        let (done, written) = channel();
        if QUEUE.get().is_some_and(|queue| queue.try_send(Entry::Flush(done)).is_ok()) {
            let _ = written.recv_timeout(FLUSH_TIMEOUT); // stderr may not be read
        }
    }
}

impl AuditLog {
    /// Starts the writing thread, and logs panics through it.
    ///
    /// # Errors
    /// The system provides no thread.
    pub fn start() -> io::Result<Self> {
        let (queue, entries) = sync_channel(WAITING_MAX);
        thread::Builder::new().name("audit".into()).spawn(move || write_all(&entries))?;
        if QUEUE.set(queue).is_ok() {
            log_panics();
        }
        Ok(Self(()))
    }
}

/// Queues a line; writes it at once if the thread is not running.
pub fn write(line: String) {
    let Some(queue) = QUEUE.get() else { return print(&line) };
    let dropped = DROPPED_LINES.load(Ordering::Relaxed);
    if dropped > 0 && queue.try_send(Entry::Line(format!("{dropped} log lines dropped"))).is_ok() {
        DROPPED_LINES.fetch_sub(dropped, Ordering::Relaxed);
    }
    if queue.try_send(Entry::Line(line)).is_err() {
        DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(entries: &Receiver<Entry>) {
    for entry in entries {
        match entry {
            Entry::Line(line) => print(&line),
            Entry::Flush(done) => drop(done),
        }
    }
}

fn print(line: &str) {
    // stderr may be closed, which must not stop the server.
    stdio::print_error(line);
}

/// A warning whose cause can recur quickly.
#[derive(Debug, Default)]
pub struct ThrottledWarning {
    last: Option<Instant>,
    suppressed: usize,
}

impl ThrottledWarning {
    /// Logs the warning, unless it was logged within `REPEAT_INTERVAL`.
    pub fn warn(&mut self, line: &str) {
        if self.last.is_some_and(|last| last.elapsed() < REPEAT_INTERVAL) {
            self.suppressed += 1;
            return;
        }
        self.last = Some(Instant::now());
        let more = match std::mem::take(&mut self.suppressed) {
            0 => String::new(),
            count => format!(" ({count} more since the last report)"),
        };
        write(format!("{line}{more}"));
    }
}

/// Logs panics. A panic ends only one connection, so this is where a bug becomes visible.
fn log_panics() {
    let cause = Mutex::new(ThrottledWarning::default());
    panic::set_hook(Box::new(move |info| {
        let mut line = info.to_string().replace('\n', ": ");
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            line = format!("{line}\n{trace}");
        }
        cause.lock().unwrap_or_else(PoisonError::into_inner).warn(&line);
    }));
}
