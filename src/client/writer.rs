//! Standard output of the piped mode, written by a thread of its own: a reader who
//! pauses (`| less`) shall not keep us from reading the connection, or the server
//! would take us for gone. What waits for such a reader is bounded; past that the
//! connection waits too.

use std::io::{self, Write as _};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::Notify;

use super::limits::OUTPUT_MAX;
use crate::stdio;

/// What the two threads share.
#[derive(Default)]
struct Progress {
    waiting: AtomicUsize,
    problem: Mutex<Option<io::Error>>,
    moved: Notify,
}

/// See the head of this file.
pub(super) struct Writer {
    /// Not handed over yet.
    batch: Vec<u8>,
    /// `None` at the end.
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

    /// Where to write; nothing of it is on its way before [`Self::flush`].
    pub(super) fn batch(&mut self) -> &mut Vec<u8> {
        &mut self.batch
    }

    /// Hands over what was written.
    ///
    /// # Errors
    /// What was handed over earlier could not be written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(problem) = self.problem() {
            return Err(problem);
        }
        if let (false, Some(batches)) = (self.batch.is_empty(), &self.batches) {
            let mut batch = mem::take(&mut self.batch);
            batch.shrink_to_fit();
            self.progress.waiting.fetch_add(size(&batch), Ordering::Relaxed);
            // The thread has ended? Then there is a problem, told the next time.
            let _ = batches.send(batch);
        }
        Ok(())
    }

    /// Whether more may wait.
    pub(super) fn has_room(&self) -> bool {
        self.progress.waiting.load(Ordering::Relaxed) < OUTPUT_MAX
    }

    /// Waits until something has been written, or could not be.
    pub(super) async fn writable(&self) {
        self.progress.moved.notified().await;
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// It cannot be.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let handed_over = self.flush();
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        handed_over?;
        self.problem().map_or(Ok(()), Err)
    }

    fn problem(&self) -> Option<io::Error> {
        self.progress.problem.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.finish(); // who cares has asked
    }
}

/// What a batch that waits takes of the memory, its place in the queue included.
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
