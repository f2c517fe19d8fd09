//! The server's log of what operators do: lines on stderr. Whoever reads them
//! slowly, or not at all, must not hold the chat up; so a thread writes them, and
//! what does not fit is counted.

use std::io::{self, Write as _};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

/// How many lines may wait to be written.
const WAITING_MAX: usize = 1000;

/// See the head of this file.
#[derive(Debug)]
pub struct AuditLog {
    lines: SyncSender<String>,
    lost: usize,
}

impl AuditLog {
    /// Starts the thread; it ends with this.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> io::Result<Self> {
        let (lines, queue) = sync_channel::<String>(WAITING_MAX);
        thread::Builder::new().name("audit".into()).spawn(move || {
            for line in queue {
                // Nobody may be there to read it, and that is no reason not to serve.
                let _ = writeln!(io::stderr(), "{line}");
            }
        })?;
        Ok(Self { lines, lost: 0 })
    }

    /// Writes a line when its turn comes.
    pub fn write(&mut self, line: String) {
        if self.lost > 0 && self.lines.try_send(format!("{} lines lost", self.lost)).is_ok() {
            self.lost = 0;
        }
        if self.lines.try_send(line).is_err() {
            self.lost += 1;
        }
    }
}
