//! The server's log of what operators do: lines on stderr. Whoever reads them
//! slowly, or not at all, must not hold the chat up; so a thread writes them, and
//! what does not fit is counted.

use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

/// How many lines may wait to be written.
const WAITING_MAX: usize = 1000;

/// How long the end waits for what is still to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the head of this file.
#[derive(Debug)]
pub struct AuditLog {
    /// `None` at the end.
    lines: Option<SyncSender<String>>,
    lost: usize,
    /// Closed when all is written.
    done: Receiver<()>,
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.lines = None;
        let _ = self.done.recv_timeout(PATIENCE); // closed, or nobody reads
    }
}

impl AuditLog {
    /// Starts the thread; it ends with this, when all is
    /// written.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> io::Result<Self> {
        let (lines, queue) = sync_channel::<String>(WAITING_MAX);
        let (writes, done) = channel();
        thread::Builder::new().name("audit".into()).spawn(move || {
            let _writes = writes;
            for line in queue {
                // Nobody may be there to read it, and that is no reason not to serve.
                let _ = writeln!(io::stderr(), "{line}");
            }
        })?;
        Ok(Self { lines: Some(lines), lost: 0, done })
    }

    /// Writes a line when its turn comes.
    pub fn write(&mut self, line: String) {
        let Some(lines) = &self.lines else { return };
        if self.lost > 0 && lines.try_send(format!("{} lines lost", self.lost)).is_ok() {
            self.lost = 0;
        }
        if lines.try_send(line).is_err() {
            self.lost += 1;
        }
    }
}
