//! The log as the server loop writes to it.
//!
//! While the log temporarily refuses writes (disk full, database locked by another process),
//! lines and changes are refused. Writing is retried at the next line, and once a second for
//! changes that could not be refused. Encoding those can take long, so while they do not fit,
//! lines are refused without a try in between. The start and the end of such a phase are each
//! logged once. A permanent failure ends the server.

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
    /// When changes did not fit, until they do.
    unfit: Option<Duration>,
    /// Whether space for the turn's changes is reserved.
    is_reserved: bool,
    /// A permanent failure, reported at the next commit.
    failure: Option<AppendError>,
    /// Whether the log has failed permanently; nothing is written any more.
    has_failed: bool,
    /// Time spent in appends since this was reset; `None`: it is not measured.
    pub(super) time: Option<Duration>,
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
            unfit: None,
            is_reserved: false,
            failure: None,
            has_failed: false,
            time: None,
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
        let is_open = self.is_reserved || (self.may_encode(hub) && self.try_reserve());
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

    /// Returns whether the hub's changes may be encoded now.
    fn may_encode(&self, hub: &mut Hub) -> bool {
        let is_recent = |then| self.start.elapsed().saturating_sub(then) < RETRY_INTERVAL;
        !self.unfit.is_some_and(is_recent) || !hub.has_changes()
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
            if !is_to_try || !self.may_encode(hub) || !self.try_reserve() {
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
        let start = self.time.map(|_| Instant::now());
        let result = self.log.append(&batch);
        self.time = self.time.zip(start).map(|(time, start)| time + start.elapsed());
        match result {
            Ok(repeats) => {
                self.unfit = None;
                hub.mark_saved();
                self.note_success();
                Ok(Some(repeats))
            }
            Err(error) => {
                if !batch.changes.is_empty() {
                    self.unfit = Some(self.start.elapsed());
                }
                self.refuse(error).map_or(Ok(None), |error| Err(self.fail(error)))
            }
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::protocol::codec::Frame;
    use crate::protocol::{Name, RoomName, Stamp};
    use crate::server::hub::{Flow, Input};
    use crate::server::limits::Limits;
    use crate::server::net::peer::Peer;
    use crate::server::record::{Recipient, UserId};
    use crate::server::store::Snapshot;
    use crate::server::turn::{ConnId, Turn};

    /// A disk with a little space, on which changes do not fit while it is full.
    #[derive(Default)]
    struct SmallLog {
        is_full: bool,
        /// The number of batches with changes.
        tries: usize,
    }

    impl Log for SmallLog {
        fn append(&mut self, batch: &Batch) -> Result<Vec<Duplicate>, AppendError> {
            self.tries += usize::from(!batch.changes.is_empty());
            if self.is_full { Err(AppendError::Full("test".to_owned())) } else { Ok(Vec::new()) }
        }

        fn read(&self, _: Read, _: Reply) {}
    }

    fn handle(hub: &mut Hub, input: Input<'_>) -> (Flow, Turn) {
        let (conn, mut turn) = (ConnId { slot: 0, generation: 0 }, Turn::default());
        let now = Now { since_start: Duration::ZERO, wall: Stamp(0) };
        (hub.handle(now, conn, input, &mut turn), turn)
    }

    fn say(hub: &mut Hub, line: &str) -> (Flow, Turn) {
        handle(hub, Input::Frame(Frame::Line(line.into())))
    }

    /// A writer to a full disk, and a hub with a change.
    fn writer_with_unsaved_change() -> (LogWriter<SmallLog>, Hub) {
        let now = Now { since_start: Duration::ZERO, wall: Stamp(0) };
        let mut hub = Hub::new(Limits::default(), &Snapshot::default(), now).expect("a hub");
        handle(&mut hub, Input::Opened(Peer::new(Ipv4Addr::LOCALHOST.into())));
        for line in ["alice", "/join ops", "/topic tea"] {
            say(&mut hub, line);
        }
        assert!(hub.has_changes());
        let log = SmallLog { is_full: true, tries: 0 };
        (LogWriter::new(log, Instant::now()), hub)
    }

    fn message(id: u64) -> Vec<Arc<Record>> {
        let from = Name::parse("alice").expect("a name");
        let to = Recipient::Room(RoomName::lobby());
        let (time, author, text) = (Stamp(0), UserId(1), "hi".into());
        vec![Arc::new(Record { id, time, author, from, to, is_action: false, text, cid: None })]
    }

    #[test]
    fn changes_that_do_not_fit_are_encoded_once_a_second() {
        let (mut writer, mut hub) = writer_with_unsaved_change();
        let start = writer.start;
        for second in 1..=3 {
            for id in 1..=500 {
                let stored = writer.append(&mut hub, message(id)).expect("no failure");
                assert!(stored.is_none());
                writer.reserve(&mut hub);
                let (flow, turn) = say(&mut hub, "/topic coffee");
                assert!(flow == Flow::Next && turn.size() > 0, "refused");
            }
            let passed = usize::try_from(start.elapsed().as_secs()).expect("a short time");
            assert!((second..=second + passed).contains(&writer.log.tries), "{passed} s passed");
            writer.start -= RETRY_INTERVAL; // as if a second had passed
        }
        writer.log.is_full = false;
        assert!(writer.append(&mut hub, message(9)).expect("no failure").is_some());
        assert!(!hub.has_changes());
    }

    #[test]
    fn lines_are_tried_again_at_once_if_there_is_nothing_else_to_store() {
        let (mut writer, mut hub) = writer_with_unsaved_change();
        hub.mark_saved();
        assert!(writer.append(&mut hub, message(1)).expect("no failure").is_none());
        writer.log.is_full = false;
        assert!(writer.append(&mut hub, message(2)).expect("no failure").is_some());
    }
}
