//! The log as the loop writes to it. Where it takes no writes for now (a full disk, a
//! lock of another process), lines and changes are refused; it is tried again at the next
//! line, and once a second for what could not be refused. Whoever runs the server is told
//! once when that begins and once when it is over.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::protocol::Stamp;
use crate::server::audit;
use crate::server::hub::{Hub, Storage};
use crate::server::log::{AppendError, Batch, Duplicate, Log, ReadRequest, Record, Reply};

/// For so long writes have to succeed before it is told that they do; and how often
/// is tried what could not be refused.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// See the head of this file.
pub(super) struct Store<L> {
    log: L,
    start: Instant,
    /// Why the last write was refused and when, until writes have succeeded for a while.
    refused: Option<(Cause, Duration)>,
    /// Whether space for the turn's changes is reserved.
    is_reserved: bool,
    /// A failure that is the end, to be told where the turn is committed.
    failure: Option<AppendError>,
    /// Whether the log has failed: nothing is written any more.
    has_failed: bool,
    /// What appending took since this was reset.
    pub(super) time: Duration,
}

/// Why writes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Full,
    Locked,
}

impl<L: Log> Store<L> {
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

    pub(super) fn read(&self, query: ReadRequest, reply: Reply) {
        self.log.read(query, reply);
    }

    /// Makes sure that the turn's changes can be stored, and tells the hub whether they
    /// can.
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

    /// Whether a commit has something to do here beside the turn's records and changes.
    pub(super) fn is_due(&self) -> bool {
        let is_retry = self.retry_at().is_some_and(|at| self.start.elapsed() >= at);
        self.is_reserved || self.failure.is_some() || is_retry
    }

    /// Whether the turn's writes are refused, as far as is known: what is reserved is
    /// stored in any case.
    pub(super) fn is_refusing(&self) -> bool {
        self.refused.is_some() && !self.is_reserved
    }

    /// When it is tried again without being asked to.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        let (_, then) = self.refused.filter(|_| !self.has_failed)?;
        Some(then + RETRY_INTERVAL)
    }

    /// Stores a turn's records, and the hub's changes with them. `None`: writes are refused
    /// now, and nothing of it is stored.
    ///
    /// # Errors
    /// The log has failed.
    pub(super) fn append(
        &mut self,
        hub: &mut Hub,
        records: Vec<Arc<Record>>,
    ) -> Result<Option<Vec<Duplicate>>, AppendError> {
        if self.is_refusing() {
            // What is unsaved may be much: it is made ready only where it can be stored.
            let is_to_try = !records.is_empty() || self.is_due();
            if !is_to_try || !self.try_reserve() {
                return self.failure.take().map_or(Ok(None), |error| Err(self.fail(error)));
            }
        }
        self.append_now(hub, records)
    }

    /// The same of changes alone, whatever was refused before.
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

    /// Whether nothing is written any more.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// From now on nothing is written.
    pub(super) fn fail(&mut self, error: AppendError) -> AppendError {
        self.has_failed = true;
        error
    }

    /// Tells that writes are refused, once; gives back what is the end.
    fn refuse(&mut self, error: AppendError) -> Option<AppendError> {
        let (cause, line) = match &error {
            AppendError::Full(why) => (
                Cause::Full,
                format!("no room for the log: {why}; lines are refused until there is"),
            ),
            AppendError::Locked => {
                let until = "lines are refused until it is released";
                (Cause::Locked, format!("the log is locked by another process; {until}"))
            }
            AppendError::Gone(_) | AppendError::Broken(_) => return Some(error),
        };
        let before = self.refused.replace((cause, self.start.elapsed()));
        if before.is_none_or(|(before, _)| before != cause) {
            tell(&line);
        }
        None
    }

    /// Something was stored. At the brink one line fits and the next does not.
    fn note_success(&mut self) {
        let Some((cause, then)) = self.refused else { return };
        if self.start.elapsed().saturating_sub(then) >= RETRY_INTERVAL {
            self.refused = None;
            tell(match cause {
                Cause::Full => "there is room for the log again",
                Cause::Locked => "the log is available again",
            });
        }
    }
}

fn tell(line: &str) {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall = Stamp(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX));
    audit::write(format!("{wall} {line}"));
}
