//! Retention: deletes the messages that are too old, or too many.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use rusqlite::{ToSql, params};

use super::Writer;
use crate::server::store::Batch;
use crate::server::store::sqlite::schema::{
    read_number, waits_of_messages, write_last, write_number,
};
use crate::server::store::sqlite::{Durability, Retention, places, times};

/// Interval of retention, and number of messages deleted in one transaction; a batch waits no
/// longer than for that.
pub(super) const RETENTION_INTERVAL: Duration = Duration::from_secs(1);
const DELETE_AT_ONCE: u32 = 50;

/// While there is more to delete, deletions use at most one part in this number of the time,
/// because the lock is not fair to waiting writers.
pub(super) const DELETE_SHARE: u32 = 2;

/// Number of messages whose age is checked at once: among the oldest, and in a sweep.
const AGED_AT_ONCE: u32 = DELETE_AT_ONCE;
const SWEPT_AT_ONCE: u32 = 1000;

/// Selects messages that may be deleted. Mail is kept until it is delivered.
fn deletable() -> String {
    format!("messages m WHERE NOT EXISTS (SELECT 1 FROM kept k WHERE {})", waits_of_messages())
}

/// The result of checking the age of some messages.
#[derive(Debug, Default)]
struct Slice {
    /// Id and time of the last message checked.
    upto: i64,
    time: i64,
    scanned: u32,
    /// Whether there are no later messages.
    is_last: bool,
    /// Whether a message is older than the one before it.
    has_decrease: bool,
    /// Ids of the messages to delete.
    aged: Vec<i64>,
}

/// A scan of all messages for old ones, slice by slice; see [`Writer::delete_aged`].
#[derive(Debug)]
pub(super) struct Sweep {
    is_needed: bool,
    /// Progress: id and time of the last message checked.
    upto: i64,
    time: i64,
    /// Whether it has met messages older than the one before.
    has_decrease: bool,
}

impl Sweep {
    pub(super) fn new() -> Self {
        Self { is_needed: true, upto: 0, time: 0, has_decrease: false }
    }

    /// Notes a stored message.
    fn note_order(&mut self, has_decrease: bool) {
        self.is_needed |= has_decrease;
        self.has_decrease |= has_decrease;
    }

    /// Returns the start of the next slice.
    fn slice(&self) -> Slice {
        Slice { upto: self.upto, time: self.time, ..Slice::default() }
    }

    /// Notes a checked slice. After the last one the sweep starts again if any time went back;
    /// if all times grow with ids, checking the lowest ids is enough.
    fn note(&mut self, slice: &Slice) {
        self.has_decrease |= slice.has_decrease;
        (self.upto, self.time) = (slice.upto, slice.time);
        if slice.is_last {
            *self = Self { is_needed: self.has_decrease, ..Self::new() };
        }
    }
}

impl Writer {
    /// Deletes some messages that retention does not keep; returns whether there are more.
    pub(super) fn apply_retention(&mut self) -> rusqlite::Result<bool> {
        let Retention { age, messages } = self.options.retention;
        let mut left = DELETE_AT_ONCE;
        if let Some(age) = age {
            left -= self.delete_aged(age, left as usize)?;
        }
        if let Some(keep) = messages {
            let most = self.excess(keep)?.min(left);
            left -= self.delete_oldest(most)?;
        }
        Ok(left == 0)
    }

    /// Notes whether the messages of a batch are older than those before.
    pub(super) fn note_times(&mut self, batch: &Batch) {
        for record in &batch.records {
            self.sweep.note_order(record.time.0 < self.last_time);
            self.last_time = record.time.0;
        }
    }

    /// Deletes messages that are older than `age`, at most `most`; returns their number.
    ///
    /// Times grow with ids unless the clock was set back, so checking the lowest ids finds them,
    /// at a cost independent of the number of messages. A message stored while the clock was
    /// ahead may have older ones behind it. They are found by a sweep over all messages, one
    /// slice per second: once after a start, and repeatedly while there are messages whose times
    /// go back.
    fn delete_aged(&mut self, age: Duration, most: usize) -> rusqlite::Result<u32> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let before = i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX);
        let mut aged = self.find_aged(Slice::default(), before, AGED_AT_ONCE, most)?.aged;
        if self.sweep.is_needed && aged.len() < most {
            let from = self.sweep.slice();
            let slice = self.find_aged(from, before, SWEPT_AT_ONCE, most - aged.len())?;
            self.sweep.note(&slice);
            aged.extend(slice.aged);
            aged.sort_unstable();
            aged.dedup();
        }
        if aged.is_empty() {
            return Ok(0); // the common case, which must cost nothing
        }
        let ids = serde_json::json!(aged).to_string();
        self.delete("SELECT value FROM json_each(?1)", ids)
    }

    /// Checks the next `scan_max` messages behind a slice; collects at most `most` from before a
    /// time. Mail is kept until it is delivered.
    fn find_aged(
        &self,
        behind: Slice,
        before: i64,
        scan_max: u32,
        most: usize,
    ) -> rusqlite::Result<Slice> {
        let sql = format!("SELECT id, time FROM {} AND id > ?1 ORDER BY id LIMIT ?2", deletable());
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![behind.upto, scan_max])?;
        let mut slice = behind;
        while slice.aged.len() < most {
            let Some(row) = rows.next()? else {
                slice.is_last = slice.scanned < scan_max;
                break;
            };
            let (id, time): (i64, i64) = (row.get(0)?, row.get(1)?);
            slice.has_decrease |= time < slice.time;
            (slice.upto, slice.time) = (id, time);
            slice.scanned += 1;
            if time < before {
                slice.aged.push(id);
            }
        }
        Ok(slice)
    }

    /// Deletes the oldest messages, at most `most`; returns their number.
    fn delete_oldest(&mut self, most: u32) -> rusqlite::Result<u32> {
        if most == 0 {
            return Ok(0); // the common case, which must cost nothing
        }
        self.delete(&format!("SELECT id FROM {} ORDER BY id LIMIT ?1", deletable()), most)
    }

    /// Deletes the messages that a query with one parameter selects; returns their number.
    fn delete(&mut self, selected: &str, param: impl ToSql) -> rusqlite::Result<u32> {
        self.remove_upgraded();
        // As with the index, the commit of the next message syncs it.
        self.set_synchronous(Durability::Relaxed)?;
        self.begin(Duration::ZERO)?;
        let deleted = self.delete_selected(selected, param);
        self.rooms.clear(); // some of them may be removed
        let (deleted, placed) = self.end_transaction(deleted)?;
        self.placed = placed;
        self.count = self.count.map(|count| count - u64::from(deleted));
        if deleted > 0 {
            self.erasure.schedule();
        }
        Ok(deleted)
    }

    /// Returns the number of deleted messages, and the last placed one.
    fn delete_selected(&self, selected: &str, param: impl ToSql) -> rusqlite::Result<(u32, u64)> {
        let connection = &self.connection;
        write_last(connection, self.last)?; // the last message may be among them
        let placed = places::place_all(connection)?;
        let mut statement = connection.prepare_cached(selected)?;
        let ids = statement.query_map([param], |row| row.get(0))?;
        let ids: Vec<i64> = ids.collect::<rusqlite::Result<_>>()?;
        let mut rooms = BTreeSet::new();
        for id in &ids {
            rooms.extend(self.delete_message(*id)?);
        }
        for room in rooms {
            places::remove_empty_room(connection, room)?;
        }
        times::remove_deleted(connection)?;
        let left = read_number(connection, "messages")?.saturating_sub(ids.len() as u64);
        write_number(connection, "messages", left)?;
        Ok((u32::try_from(ids.len()).unwrap_or(u32::MAX), placed))
    }

    /// Deletes a message, its words in the index, and its places; returns its room's number.
    fn delete_message(&self, id: i64) -> rusqlite::Result<Option<i64>> {
        if id.cast_unsigned() <= self.indexed {
            self.delete_words(id)?;
        }
        places::remove(&self.connection, id)?;
        let sql = "DELETE FROM messages WHERE id = ?1 RETURNING room";
        self.connection.prepare_cached(sql)?.query_row([id], |row| row.get(0))
    }

    /// Returns the number of messages beyond `keep`. Ids are not enough to compute it, because
    /// refused messages leave gaps.
    fn excess(&self, keep: u64) -> rusqlite::Result<u32> {
        let beyond = self.count.unwrap_or_default().saturating_sub(keep);
        // Do not count mail if there is nothing to delete anyway.
        let excess = if beyond == 0 { 0 } else { beyond.saturating_sub(self.count_mail()?) };
        Ok(u32::try_from(excess).unwrap_or(u32::MAX))
    }

    /// Counts the messages that wait in mailboxes, which are kept in addition.
    fn count_mail(&self) -> rusqlite::Result<u64> {
        let sql = format!("SELECT count(*) FROM ({})", places::mail());
        let count: i64 = self.connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
        Ok(count.cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::lock;
    use super::*;
    use crate::protocol::{Name, RoomName, Stamp};
    use crate::server::record::{Recipient, Record, UserId};
    use crate::server::store::sqlite::schema::{RECORDS, record};
    use crate::server::store::sqlite::{Options, SqliteLog};
    use crate::server::store::{Change, Collection, LastIds, Log as _};

    const DAY: i64 = 24 * 60 * 60 * 1000;

    /// A log that keeps messages for a day, with messages of these ages in days; a negative age is
    /// in the future.
    fn log(folder: &tempfile::TempDir, ages: &[i64]) -> SqliteLog {
        let retention = Retention { age: Some(Duration::from_hours(24)), messages: None };
        let options = Options { durability: Durability::Commit, retention };
        let (mut log, snapshot) = SqliteLog::open(folder.path(), options).unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_millis()).unwrap();
        let records = (snapshot.last.message + 1..).zip(ages).map(|(id, age)| {
            Arc::new(Record {
                id,
                time: Stamp(now - age * DAY),
                author: UserId(1),
                from: Name::parse("alice").unwrap(),
                to: Recipient::Room(RoomName::parse("ops").unwrap()),
                is_action: false,
                text: "x".into(),
                cid: None,
            })
        });
        let records: Vec<_> = records.collect();
        let message = records.last().map_or(snapshot.last.message, |record| record.id);
        let last = LastIds { message, person: 1 };
        log.append(&Batch { records, changes: Vec::new(), last }).unwrap();
        log
    }

    /// Deletes all old messages; returns the ids of the remaining ones.
    fn left(log: &SqliteLog) -> Vec<u64> {
        let mut writer = lock(&log.writer);
        // More rounds than two sweeps have slices.
        for _ in 0..100 {
            writer.apply_retention().unwrap();
        }
        let mut ids = writer.connection.prepare("SELECT id FROM messages ORDER BY id").unwrap();
        let ids = ids.query_map([], |row| row.get::<_, i64>(0)).unwrap();
        ids.map(|id| id.unwrap().cast_unsigned()).collect()
    }

    #[test]
    fn message_is_deleted_by_its_own_time_in_any_order() {
        let folder = tempfile::tempdir().unwrap();
        // A clock that was two days ahead, then corrected, and once far behind.
        let mut ages = vec![-2; 2500];
        ages.extend(vec![3; 2500]);
        ages.extend([0, 9, 0]);
        let log = log(&folder, &ages);
        let expected: Vec<u64> = (1..=2500).chain([5001, 5003]).collect();
        assert_eq!(left(&log), expected);
        let writer = lock(&log.writer);
        assert!(writer.sweep.is_needed, "messages with future times remain");
    }

    #[test]
    fn old_messages_behind_newer_ones_are_deleted_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut ages = vec![0; 150];
        ages.extend([2; 10]);
        ages.extend([0; 10]);
        drop(log(&folder, &ages));
        let log = log(&folder, &[0]);
        let expected: Vec<u64> = (1..=150).chain(161..=171).collect();
        assert_eq!(left(&log), expected);
    }

    #[test]
    fn mail_behind_the_position_is_kept() {
        for retention in [
            Retention { age: None, messages: Some(2) },
            Retention { age: Some(Duration::ZERO), messages: None },
        ] {
            let folder = tempfile::tempdir().unwrap();
            let options = Options { durability: Durability::Commit, retention };
            let (mut log, _) = SqliteLog::open(folder.path(), options).unwrap();
            let name = |name| Name::parse(name).unwrap();
            let record = |id| {
                Arc::new(Record {
                    id,
                    time: Stamp(0),
                    // Each third message is by an ignored user.
                    author: UserId(id % 3),
                    from: name("bob"),
                    to: Recipient::Person(UserId(7), name("alice")),
                    is_action: false,
                    text: "x".into(),
                    cid: None,
                })
            };
            let value = Some(r#"{"after":4,"hidden":[0]}"#.to_owned());
            let changes = vec![Change { collection: Collection::Mailbox, key: 7, value }];
            let last = LastIds { message: 12, person: 7 };
            let records = (1..=12).map(record).collect();
            log.append(&Batch { records, changes, last }).unwrap();
            // The two latest of those that do not wait.
            let kept = retention.messages.map_or(vec![], |_| vec![9, 12]);
            let mut expected = [vec![5, 7, 8, 10, 11], kept].concat();
            expected.sort_unstable();
            assert_eq!(left(&log), expected);
        }
    }

    #[test]
    fn sweep_ends_when_times_grow_with_ids() {
        let folder = tempfile::tempdir().unwrap();
        let mut ages = vec![5; 2000];
        ages.extend(vec![0; 2000]);
        let mut log = log(&folder, &ages);
        assert_eq!(left(&log).len(), 2000);
        assert!(!lock(&log.writer).sweep.is_needed);
        let record = lock(&log.writer).connection.query_row(
            &format!("{RECORDS} ORDER BY m.id DESC LIMIT 1"),
            [],
            record,
        );
        let mut record = record.unwrap().unwrap();
        (record.id, record.time) = (4001, Stamp(record.time.0 - 9 * DAY));
        let last = LastIds { message: 4001, person: 1 };
        let batch = Batch { records: vec![Arc::new(record)], changes: Vec::new(), last };
        log.append(&batch).unwrap();
        assert_eq!(left(&log).len(), 2000, "a time that goes back restarts the sweep");
    }
}
