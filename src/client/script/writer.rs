//! Writes the output of the piped mode on its own thread: a reader that pauses (as
//! `less` does) must not block the connection, or the heartbeat would fail. The waiting output is
//! bounded ([`OUTPUT_MAX`]); past the bound the socket is not read (backpressure). It does
//! not know the format of the output.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::Notify;

use crate::client::limits::OUTPUT_MAX;

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
    /// Starts the thread, which writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static) -> Self {
        let (batches, waiting) = mpsc::channel();
        let progress = Arc::<Progress>::default();
        let shared = progress.clone();
        let thread = thread::spawn(move || write_all(&waiting, out, &shared));
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

    /// The error that ended the thread. It stays, as not every caller of [`Self::flush`] needs it.
    fn problem(&self) -> Option<io::Error> {
        let problem = self.progress.problem.lock().unwrap_or_else(PoisonError::into_inner);
        problem.as_ref().map(|problem| match problem.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(problem.kind(), problem.to_string()),
        })
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

fn write_all(batches: &Receiver<Vec<u8>>, mut out: impl Write, progress: &Progress) {
    for batch in batches {
        let written = out.write_all(&batch);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Output that a reader takes in pieces: each piece waits for a permit.
    struct SlowPipe {
        permits: Receiver<()>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for SlowPipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.permits.recv().is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.taken.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow_writer() -> (Writer, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (permits, awaited) = mpsc::channel();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        (Writer::start(SlowPipe { permits: awaited, taken: taken.clone() }), permits, taken)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn slow_reader_leaves_no_room_until_it_reads_and_gets_everything_in_order() {
        const BATCH: usize = 1 << 20;
        let (mut writer, permits, taken) = slow_writer();
        let mut count = 0_u8;
        while writer.has_room() {
            writer.batch().resize(BATCH, count);
            writer.flush().unwrap();
            count += 1;
        }
        assert_eq!(usize::from(count), OUTPUT_MAX / BATCH);
        permits.send(()).unwrap();
        block_on(writer.writable());
        assert!(writer.has_room());
        for _ in 1..count {
            permits.send(()).unwrap();
        }
        writer.finish().unwrap();
        let taken = taken.lock().unwrap();
        assert_eq!(taken.len(), usize::from(count) * BATCH);
        let firsts: Vec<u8> = taken.iter().step_by(BATCH).copied().collect();
        assert_eq!(firsts, (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn write_error_is_returned_by_later_flushes_and_at_the_end() {
        let (mut writer, permits, taken) = slow_writer();
        drop(permits);
        writer.batch().extend(b"one");
        writer.flush().unwrap();
        block_on(writer.writable());
        writer.batch().extend(b"two");
        assert_eq!(writer.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(writer.finish().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(taken.lock().unwrap().is_empty());
    }

    #[test]
    fn write_error_of_last_output_is_returned_at_the_end() {
        let (mut writer, permits, _) = slow_writer();
        drop(permits);
        writer.batch().extend(b"last");
        assert_eq!(writer.finish().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn dropped_writer_writes_the_rest() {
        let (mut writer, permits, taken) = slow_writer();
        writer.batch().extend(b"one\n");
        writer.flush().unwrap();
        writer.batch().extend(b"two\n");
        permits.send(()).unwrap();
        permits.send(()).unwrap();
        drop(writer);
        assert_eq!(*taken.lock().unwrap(), b"one\ntwo\n");
    }
}
