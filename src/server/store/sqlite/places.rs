//! Which messages are in a room or concern a user: the index `places`.
//!
//! A message in a busy server belongs to any of many places, so an entry per commit would change a
//! page per message. Entries are written in batches instead, sorted by place. The messages behind
//! the last batch are few: readers scan them ([`in_place`]).

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::schema::{
    RECORDS, RECORDS_IN_PLACES, read_number, waits, waits_of_messages, write_number,
};
use super::times;
use crate::protocol::RoomName;

/// The number of ids behind the last batch that makes the next commit write a batch.
pub(super) const BATCH: u64 = 512;

/// Selects the messages in the place `?3` with ids between `?1` and `?2`, sorted: by the index,
/// then those behind its last batch.
pub(super) fn in_place(order: &str) -> String {
    format!(
        "{RECORDS_IN_PLACES} WHERE p.place = ?3 AND p.id > ?1 AND p.id < ?2
         UNION ALL
         {RECORDS} WHERE m.id > max(?1, (SELECT number FROM last WHERE what = 'placed'))
            AND m.id < ?2 AND CASE WHEN ?3 > 0
                THEN m.room IN (SELECT number FROM rooms WHERE place = ?3)
                ELSE m.reader IS NOT NULL AND (m.author = -?3 OR m.reader = -?3) END
         ORDER BY 1 {order}"
    )
}

/// Selects the accounts and messages that wait in their mailboxes `k`, by ids: by the index, then
/// those behind its last batch.
pub(super) fn mail() -> String {
    let author = "(SELECT author FROM messages WHERE id = p.id)";
    let [placed, behind] = [waits("p.id", "-p.place", author), waits_of_messages()];
    format!(
        "SELECT k.key, p.id FROM kept k CROSS JOIN places p
         WHERE p.place = -k.key AND p.id > k.value ->> 'after' AND p.is_received AND {placed}
         UNION ALL
         SELECT k.key, m.id FROM messages m CROSS JOIN kept k
         WHERE m.id > (SELECT number FROM last WHERE what = 'placed') AND {behind}
         ORDER BY 2"
    )
}

/// Counts all messages: `last` has the number of those in the index.
pub(super) fn count_messages(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT count(*) FROM messages
               WHERE id > (SELECT number FROM last WHERE what = 'placed')";
    let count: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    Ok(read_number(connection, "messages")? + count.cast_unsigned())
}

/// Places all messages that are not placed yet; returns the id of the last one. Needs a
/// transaction.
pub(super) fn place_all(connection: &Connection) -> rusqlite::Result<u64> {
    place(connection, i64::MAX)
}

/// Places at most `most` messages; returns the id of the last one. Needs a transaction.
pub(super) fn place(connection: &Connection, most: i64) -> rusqlite::Result<u64> {
    let placed = read_number(connection, "placed")?.cast_signed();
    let sql = "SELECT max(id), count(*)
               FROM (SELECT id FROM messages WHERE id > ?1 ORDER BY id LIMIT ?2)";
    let found = connection.prepare_cached(sql)?.query_row(params![placed, most], |row| {
        Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, i64>(1)?))
    })?;
    let (Some(upto), count) = found else { return Ok(placed.cast_unsigned()) };
    connection
        .prepare_cached(
            "INSERT INTO places
             WITH new AS (
                SELECT m.id, m.author, m.reader, r.place
                FROM messages m LEFT JOIN rooms r ON r.number = m.room
                WHERE m.id > ?1 AND m.id <= ?2
             )
             SELECT place, id, 0 FROM new WHERE place IS NOT NULL
             UNION ALL SELECT -author, id, author = reader FROM new WHERE reader IS NOT NULL
             UNION ALL SELECT -reader, id, 1 FROM new WHERE reader <> author
             ORDER BY 1, 2",
        )?
        .execute([placed, upto])?;
    times::write(connection, placed, upto)?;
    write_number(connection, "placed", upto.cast_unsigned())?;
    let count = read_number(connection, "messages")? + count.cast_unsigned();
    write_number(connection, "messages", count)?;
    Ok(upto.cast_unsigned())
}

/// Removes a message from its places; returns whether it was placed.
pub(super) fn remove(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM places WHERE id = ?1 AND place IN (
            SELECT r.place FROM messages m JOIN rooms r ON r.number = m.room WHERE m.id = ?1
            UNION SELECT -author FROM messages WHERE id = ?1
            UNION SELECT -reader FROM messages WHERE id = ?1)";
    Ok(connection.prepare_cached(sql)?.execute([id])? > 0)
}

/// Returns the place of a room; `None` if it has no messages.
pub(super) fn of_room(connection: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT place FROM rooms WHERE key = ?1 LIMIT 1";
    connection.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()
}

/// The numbers of rooms that the writer has met.
#[derive(Debug, Default)]
pub(super) struct RoomNumbers(HashMap<String, i64>);

/// Maximum number of rooms whose numbers are cached.
const CACHED_MAX: usize = 4096;

impl RoomNumbers {
    /// Returns the number of a room; stores the room if it is new. Needs a transaction.
    pub(super) fn get(
        &mut self,
        connection: &Connection,
        room: &RoomName,
    ) -> rusqlite::Result<i64> {
        if let Some(number) = self.0.get(room.as_str()) {
            return Ok(*number);
        }
        let sql = "SELECT number FROM rooms WHERE name = ?1";
        let mut statement = connection.prepare_cached(sql)?;
        let known = statement.query_row([room.as_str()], |row| row.get(0)).optional()?;
        let number = known.map_or_else(|| insert_room(connection, room), Ok)?;
        if self.0.len() >= CACHED_MAX {
            self.0.clear();
        }
        self.0.insert(room.as_str().to_owned(), number);
        Ok(number)
    }

    /// Forgets all numbers: after a rollback, and after rooms were removed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

fn insert_room(connection: &Connection, room: &RoomName) -> rusqlite::Result<i64> {
    let key = room.key().as_str();
    let number = "SELECT ifnull(max(number), 0) + 1 FROM rooms";
    let number: i64 = connection.prepare_cached(number)?.query_row([], |row| row.get(0))?;
    let place = of_room(connection, key)?.unwrap_or(number);
    connection.prepare_cached("INSERT INTO rooms VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        number,
        place,
        key,
        room.as_str()
    ])?;
    Ok(number)
}

/// Removes a room, by any of its numbers, if no message is in it, so that its name is erased
/// with them. Needs a transaction in which all messages are placed.
pub(super) fn remove_empty_room(connection: &Connection, number: i64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM rooms WHERE place = (
            SELECT place FROM rooms r WHERE r.number = ?1
                AND NOT EXISTS (SELECT 1 FROM places p WHERE p.place = r.place))
        AND NOT EXISTS (SELECT 1 FROM deleted d WHERE d.room = rooms.number)";
    connection.prepare_cached(sql)?.execute([number])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::store::sqlite::schema;

    #[test]
    fn place_is_read_in_its_order_without_sorting() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::create(&mut connection).unwrap();
        for order in ["ASC", "DESC"] {
            let sql = format!("EXPLAIN QUERY PLAN {}", in_place(order));
            let mut statement = connection.prepare(&sql).unwrap();
            let rows = statement.query_map([0, 9, 1], |row| row.get::<_, String>(3)).unwrap();
            let plan: Vec<_> = rows.map(Result::unwrap).collect();
            assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:#?}");
        }
    }
}
