//! Writes the standard output of the piped mode on its own thread: a reader that pauses (as
//! `less` does) must not block the connection, or the heartbeat would fail. The waiting output is
//! bounded ([`OUTPUT_MAX`]); past the bound the socket is not read (backpressure). It does
//! not know the format of the output.

use std::io::{self, Write as _};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::Notify;

use crate::client::limits::OUTPUT_MAX;
use crate::stdio;

/// The state shared by the two threads.
#[derive(Default)]
struct Progress {
    waiting: AtomicUsize,
    problem: Mutex<Option<io::Error>>,
    moved: Notify,
}

/// The handle of the writer thread.
pub(super) struct Writer {
    /// Output that was not passed to the thread yet.
    batch: Vec<u8>,
    /// `None` after [`Self::finish`].
    batches: Option<Sender<Vec<u8>>>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start() -> Self {
        let (batches, waiting) = mpsc::channel();
        let progress = Arc::<Progress>::default();
        let shared = progress.clone();
        let thread = thread::spawn(move || write_all(&waiting, &shared));
        Self { batch: Vec::new(), batches: Some(batches), progress, thread: Some(thread) }
    }

    /// Returns the buffer to write to; [`Self::flush`] passes it to the thread.
    pub(super) fn batch(&mut self) -> &mut Vec<u8> {
        &mut self.batch
    }

    /// Passes the buffer to the thread.
    ///
    /// # Errors
    /// Earlier output could not be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(problem) = self.problem() {
            return Err(problem);
        }
        if let (false, Some(batches)) = (self.batch.is_empty(), &self.batches) {
            let mut batch = mem::take(&mut self.batch);
            batch.shrink_to_fit();
            self.progress.waiting.fetch_add(size(&batch), Ordering::Relaxed);
            // If the thread has ended, the next flush returns its error.
            let _ = batches.send(batch);
        }
        Ok(())
    }

    /// Whether more output may wait.
    pub(super) fn has_room(&self) -> bool {
        self.progress.waiting.load(Ordering::Relaxed) < OUTPUT_MAX
    }

    /// Waits until some output was written, or failed.
    pub(super) async fn writable(&self) {
        self.progress.moved.notified().await;
    }

    /// Waits until all output is written.
    ///
    /// # Errors
    /// The output could not be written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let flushed = self.flush();
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        flushed?;
        self.problem().map_or(Ok(()), Err)
    }

    fn problem(&self) -> Option<io::Error> {
        self.progress.problem.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.finish(); // callers that need the error call `finish` themselves
    }
}

/// Returns the memory of a waiting batch, including its entry in the queue.
fn size(batch: &Vec<u8>) -> usize {
    batch.capacity() + 64
}

fn write_all(batches: &Receiver<Vec<u8>>, progress: &Progress) {
    let mut stdout = stdio::stdout();
    for batch in batches {
        let written = stdout.write_all(&batch);
        progress.waiting.fetch_sub(size(&batch), Ordering::Relaxed);
        let is_over = written.is_err();
        if let Err(problem) = written {
            *progress.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
        }
        progress.moved.notify_one();
        if is_over {
            return;
        }
    }
}
