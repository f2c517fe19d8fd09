//! The log as the server loop writes to it.
//!
//! While the log temporarily refuses writes (disk full, database locked by another process),
//! lines and changes are refused. Writing is retried at the next line, and once a second for
//! changes that could not be refused. The start and the end of such a phase are each logged
//! once. A permanent failure ends the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::server::audit;
use crate::server::clock::Now;
use crate::server::hub::{Hub, Storage};
use crate::server::record::Record;
use crate::server::store::{AppendError, Batch, Duplicate, Log, Read, Reply};

/// Interval of retries, and time for which writes must succeed before recovery is logged.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The log and the state of its refusals.
pub(super) struct LogWriter<L> {
    log: L,
    start: Instant,
    /// The reason and time of the last refused write, until writes have succeeded for a while.
    refused: Option<(RefusalReason, Duration)>,
    /// Whether space for the turn's changes is reserved.
    is_reserved: bool,
    /// A permanent failure, reported at the next commit.
    failure: Option<AppendError>,
    /// Whether the log has failed permanently; nothing is written any more.
    has_failed: bool,
    /// Time spent in appends since this was reset.
    pub(super) time: Duration,
}

/// Why writes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefusalReason {
    Full,
    Locked,
}

impl<L: Log> LogWriter<L> {
    pub(super) fn new(log: L, start: Instant) -> Self {
        Self {
            log,
            start,
            refused: None,
            is_reserved: false,
            failure: None,
            has_failed: false,
            time: Duration::ZERO,
        }
    }

    pub(super) fn log(&mut self) -> &mut L {
        &mut self.log
    }

    pub(super) fn read(&self, read: Read, reply: Reply) {
        self.log.read(read, reply);
    }

    /// Reserves space for the turn's changes, and notifies the hub whether they can be stored.
    pub(super) fn reserve(&mut self, hub: &mut Hub) {
        let is_open = self.is_reserved || self.try_reserve();
        hub.set_storage(if is_open { Storage::Open } else { Storage::Closed });
    }

    fn try_reserve(&mut self) -> bool {
        if self.has_failed {
            return false;
        }
        match self.log.reserve() {
            Ok(()) => self.is_reserved = true,
            Err(error) => self.failure = self.refuse(error),
        }
        self.is_reserved
    }

    /// Returns whether a commit is needed even without records and changes.
    pub(super) fn is_due(&self) -> bool {
        let is_retry = self.retry_at().is_some_and(|at| self.start.elapsed() >= at);
        self.is_reserved || self.failure.is_some() || is_retry
    }

    /// Returns whether writes of this turn would be refused; reserved space is always usable.
    pub(super) fn is_refusing(&self) -> bool {
        self.refused.is_some() && !self.is_reserved
    }

    /// Returns the time of the next automatic retry.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        let (_, then) = self.refused.filter(|_| !self.has_failed)?;
        Some(then + RETRY_INTERVAL)
    }

    /// Stores a turn's records together with the hub's changes. Returns `None` if writes are
    /// refused at present; nothing is stored then.
    ///
    /// # Errors
    /// The log has failed.
    pub(super) fn append(
        &mut self,
        hub: &mut Hub,
        records: Vec<Arc<Record>>,
    ) -> Result<Option<Vec<Duplicate>>, AppendError> {
        if self.is_refusing() {
            // Unsaved changes can be large: encode them only if they can be stored.
            let is_to_try = !records.is_empty() || self.is_due();
            if !is_to_try || !self.try_reserve() {
                return self.failure.take().map_or(Ok(None), |error| Err(self.fail(error)));
            }
        }
        self.append_now(hub, records)
    }

    /// Stores changes only, regardless of earlier refusals.
    pub(super) fn append_changes(&mut self, hub: &mut Hub) -> Result<bool, AppendError> {
        Ok(self.append_now(hub, Vec::new())?.is_some())
    }

    fn append_now(
        &mut self,
        hub: &mut Hub,
        records: Vec<Arc<Record>>,
    ) -> Result<Option<Vec<Duplicate>>, AppendError> {
        if let Some(error) = self.failure.take() {
            return Err(self.fail(error));
        }
        if self.has_failed {
            return Ok(None);
        }
        self.is_reserved = false;
        let batch = Batch { records, changes: hub.changes(), last: hub.last_ids() };
        let start = self.start.elapsed();
        let result = self.log.append(&batch);
        self.time += self.start.elapsed().saturating_sub(start);
        match result {
            Ok(repeats) => {
                hub.mark_saved();
                self.note_success();
                Ok(Some(repeats))
            }
            Err(error) => self.refuse(error).map_or(Ok(None), |error| Err(self.fail(error))),
        }
    }

    /// Returns whether the log has failed permanently.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Marks the log as failed.
    pub(super) fn fail(&mut self, error: AppendError) -> AppendError {
        self.has_failed = true;
        error
    }

    /// Logs a new kind of refusal once; returns a permanent error.
    fn refuse(&mut self, error: AppendError) -> Option<AppendError> {
        let (reason, line) = match &error {
            AppendError::Full(why) => (
                RefusalReason::Full,
                format!("no space for the log: {why}; messages are refused until there is"),
            ),
            AppendError::Locked => {
                let until = "messages are refused until it is unlocked";
                (RefusalReason::Locked, format!("the log is locked by another process; {until}"))
            }
            AppendError::Gone(_) | AppendError::Broken(_) => return Some(error),
        };
        let before = self.refused.replace((reason, self.start.elapsed()));
        if before.is_none_or(|(before, _)| before != reason) {
            log_line(&line);
        }
        None
    }

    /// Notes a successful write. Near the limit writes alternate between success and refusal, so
    /// recovery is logged only after [`RETRY_INTERVAL`].
    fn note_success(&mut self) {
        let Some((reason, then)) = self.refused else { return };
        if self.start.elapsed().saturating_sub(then) >= RETRY_INTERVAL {
            self.refused = None;
            log_line(match reason {
                RefusalReason::Full => "there is space for the log again",
                RefusalReason::Locked => "the log is available again",
            });
        }
    }
}

fn log_line(line: &str) {
    audit::write(format!("{} {line}", Now::since(Instant::now()).wall));
}
