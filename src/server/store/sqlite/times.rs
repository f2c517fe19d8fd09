//! Which ids may have messages of a time: the table `times` has the earliest and latest time of
//! each block of ids, so that a read with `since` or `until` does not scan the whole log.
//!
//! A block is written when later blocks have begun, with the places of its messages. As times may
//! go back, and messages are deleted, a block only tells where a message cannot be.

use rusqlite::{Connection, params};

use super::schema::read_number;
use crate::server::store::{Filter, Read};

/// The number of ids in a block, as a power of two.
const BITS: u32 = 10;

/// Writes the blocks that are complete now that the messages behind `placed` are placed up to
/// `upto`.
pub(super) fn write(connection: &Connection, placed: i64, upto: i64) -> rusqlite::Result<()> {
    let [from, to] = [placed, upto].map(|id| id >> BITS);
    if from < to {
        let sql = format!(
            "INSERT OR REPLACE INTO times SELECT id >> {BITS}, min(time), max(time)
             FROM messages WHERE id >= ?1 AND id < ?2 GROUP BY 1"
        );
        connection.prepare_cached(&sql)?.execute([from << BITS, to << BITS])?;
    }
    Ok(())
}

/// Removes the blocks before the first message.
pub(super) fn remove_deleted(connection: &Connection) -> rusqlite::Result<()> {
    let sql = format!(
        "DELETE FROM times WHERE block < (SELECT ifnull(min(id) >> {BITS}, 1 << 62) FROM messages)"
    );
    connection.prepare_cached(&sql)?.execute([])?;
    Ok(())
}

/// Ranges of ids outside of which a read finds nothing; each with its first and last id, latest
/// first.
#[derive(Debug)]
pub(super) struct IdRanges(Vec<(u64, u64)>);

impl IdRanges {
    /// Returns the ranges of a read: everything, unless it selects by time. Otherwise the ids
    /// behind the last block, and those from the first to the last block with such times.
    pub(super) fn of(connection: &Connection, read: &Read) -> rusqlite::Result<Self> {
        let Filter { since, until, .. } = read.request().filter;
        if since.is_none() && until.is_none() {
            return Ok(Self(vec![(0, u64::MAX)]));
        }
        let tail = read_number(connection, "placed")? >> BITS << BITS;
        let sql = "SELECT min(block), max(block) FROM times WHERE latest >= ?1 AND earliest <= ?2";
        let since = since.map_or(i64::MIN, |since| since.0);
        let until = until.map_or(i64::MAX, |until| until.0);
        let blocks = connection.prepare_cached(sql)?.query_row(params![since, until], |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?))
        })?;
        let mut ranges = vec![(tail, u64::MAX)];
        if let (Some(first), Some(last)) = blocks {
            let [first, end] = [first, last + 1].map(|block| block.cast_unsigned() << BITS);
            ranges.push((first, end - 1));
        }
        Ok(Self(ranges))
    }

    /// Returns the ranges in the order of a read.
    pub(super) fn in_order(&self, is_ascending: bool) -> Vec<(u64, u64)> {
        let mut ranges = self.0.clone();
        if is_ascending {
            ranges.reverse();
        }
        ranges
    }

    /// Returns the highest id up to `limit` that is in a range.
    pub(super) fn at_or_below(&self, limit: u64) -> Option<u64> {
        self.0.iter().find(|(first, _)| *first <= limit).map(|(_, last)| limit.min(*last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Key, Stamp};
    use crate::server::store::sqlite::{places, schema};
    use crate::server::store::{ReadRequest, Thread};

    fn ranges(connection: &Connection, since: Option<i64>, until: Option<i64>) -> IdRanges {
        let [since, until] = [since, until].map(|time| time.map(Stamp));
        let filter = Filter { since, until, ..Filter::default() };
        let (thread, count, size) = (Thread::Room(Key::fold("ops")), 1, 1);
        let read =
            Read::new(ReadRequest { thread, count, size, after: None, hidden: vec![], filter });
        IdRanges::of(connection, &read).unwrap()
    }

    #[test]
    fn read_is_limited_to_blocks_with_its_times_also_if_they_go_back() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::create(&mut connection).unwrap();
        // Times are ids, but the clock was once behind: in the ids from 5000 to 5009.
        connection
            .execute_batch(
                "WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 9999)
                 INSERT INTO messages
                 SELECT id, iif(id BETWEEN 5000 AND 5009, id - 4000, id), 1, 'alice', NULL, 2,
                        'bob', 0, 'x', NULL FROM n",
            )
            .unwrap();
        places::place(&connection, 5005).unwrap();
        places::place_all(&connection).unwrap();
        let tail = (9216, u64::MAX);
        let found = |since, until| ranges(&connection, since, until).0;
        assert_eq!(found(None, None), [(0, u64::MAX)]);
        assert_eq!(found(Some(9999), None), [tail]);
        assert_eq!(found(Some(7000), None), [tail, (6144, 9215)]);
        assert_eq!(found(Some(3000), Some(3100)), [tail, (2048, 5119)]);
        assert_eq!(found(Some(1005), Some(1005)), [tail, (0, 5119)]);
        assert_eq!(found(None, Some(-1)), [tail]);
        let blocks = ranges(&connection, Some(1025), Some(1030));
        assert_eq!(
            [9999, 9000, 2000, 5, 0].map(|id| blocks.at_or_below(id)),
            [Some(9999), Some(5119), Some(2000), None, None]
        );
        connection.execute_batch("DELETE FROM messages WHERE id < 5000").unwrap();
        remove_deleted(&connection).unwrap();
        let sql = "SELECT min(block), max(block) FROM times";
        let left = connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
        assert_eq!(left, Ok((4, 8)));
    }
}
