//! The server's log: lines on stderr, of what operators do and of what goes wrong.
//! Whoever reads them slowly, or not at all, must not hold the chat up; so a thread
//! writes them, and what does not fit is counted. There is one stderr, so there is
//! one such thread.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::stdio;

/// How many lines may wait to be written.
const WAITING_MAX: usize = 1000;

/// How long the end waits for what is still to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A cause that goes on is told no more often.
const REPEAT_INTERVAL: Duration = Duration::from_secs(1);

enum Order {
    Line(String),
    /// To be told when all before it is written.
    Mark(Sender<()>),
}

static QUEUE: OnceLock<SyncSender<Order>> = OnceLock::new();

/// How many lines found no room.
static DROPPED_LINES: AtomicUsize = AtomicUsize::new(0);

/// Has what was said written when it is dropped, in a panic too.
#[derive(Debug)]
pub struct AuditLog(());

impl Drop for AuditLog {
    fn drop(&mut self) {
        let (mark, written) = channel();
        if QUEUE.get().is_some_and(|queue| queue.try_send(Order::Mark(mark)).is_ok()) {
            let _ = written.recv_timeout(FLUSH_TIMEOUT); // nobody may be there to read it
        }
    }
}

impl AuditLog {
    /// Starts the thread, and has it tell of panics as well.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> io::Result<Self> {
        let (queue, orders) = sync_channel(WAITING_MAX);
        thread::Builder::new().name("audit".into()).spawn(move || write_all(&orders))?;
        if QUEUE.set(queue).is_ok() {
            log_panics();
        }
        Ok(Self(()))
    }
}

/// Writes a line when its turn comes.
pub fn write(line: String) {
    let Some(queue) = QUEUE.get() else { return now(&line) };
    let lost = DROPPED_LINES.load(Ordering::Relaxed);
    if lost > 0 && queue.try_send(Order::Line(format!("{lost} lines lost"))).is_ok() {
        DROPPED_LINES.fetch_sub(lost, Ordering::Relaxed);
    }
    if queue.try_send(Order::Line(line)).is_err() {
        DROPPED_LINES.fetch_add(1, Ordering::Relaxed);
    }
}

fn write_all(orders: &Receiver<Order>) {
    for order in orders {
        match order {
            Order::Line(line) => now(&line),
            Order::Mark(mark) => drop(mark),
        }
    }
}

fn now(line: &str) {
    // Nobody may be there to read it, and that is no reason not to serve.
    stdio::print_error(line);
}

/// Something that can go wrong again and again.
#[derive(Debug, Default)]
pub struct ThrottledWarning {
    last: Option<Instant>,
    left_out: usize,
}

impl ThrottledWarning {
    /// Tells of it, unless it has just been told of.
    pub fn tell(&mut self, line: &str) {
        if self.last.is_some_and(|last| last.elapsed() < REPEAT_INTERVAL) {
            self.left_out += 1;
            return;
        }
        self.last = Some(Instant::now());
        let more = match std::mem::take(&mut self.left_out) {
            0 => String::new(),
            count => format!(" (and {count} times more before)"),
        };
        write(format!("{line}{more}"));
    }
}

/// A panic ends one connection; what there is to be mended is told here.
fn log_panics() {
    let cause = Mutex::new(ThrottledWarning::default());
    panic::set_hook(Box::new(move |info| {
        let mut line = info.to_string().replace('\n', ": ");
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            line = format!("{line}\n{trace}");
        }
        cause.lock().unwrap_or_else(PoisonError::into_inner).tell(&line);
    }));
}
