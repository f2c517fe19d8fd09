//! The upgrade of a file that an older version wrote: its content is copied into a new file, which
//! then takes its place. The old file is kept, so that the administrator can go back.
//!
//! The old file is only read. A crash leaves the old file or the complete new one: the new file
//! gets the name [`COMPLETE`] when all of it is on the disk, and a start that finds no
//! `chatty.db`, because the crash was between two renames, uses it ([`finish`]).

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::statvfs::statvfs;
use rusqlite::{Connection, ErrorCode, params};

use super::BEFORE;
use super::folder::{Folder, with_suffix};
use super::places::{self, RoomNumbers};
use super::schema::{self, CID_INDEX, PAGE_SIZE};
use crate::files::open_own;
use crate::protocol::RoomName;
use crate::server::audit;

/// Suffixes of the new file's name: while it is written, and when it is complete.
const PARTIAL: &str = "-new";
const COMPLETE: &str = "-upgraded";

/// How many messages are copied, and placed, at once. Those that are placed are sorted in memory.
const COPIED_AT_ONCE: i64 = 100_000;
const PLACED_AT_ONCE: i64 = 1_000_000;

/// Size of the page cache and of sorting, in KiB.
const CACHE: i32 = 64 << 10;

/// Interval of lines about the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Removes what an interrupted upgrade left, or completes it.
pub(super) fn finish(folder: &Folder) -> anyhow::Result<()> {
    let file = folder.file();
    let complete = with_suffix(&file, COMPLETE);
    if complete.exists() && !file.exists() {
        rename(&complete, &file)?;
    }
    for path in [complete, with_suffix(&file, PARTIAL)] {
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Upgrades a file of a lower version, which is open in `old`.
pub(super) fn upgrade(folder: &Folder, old: Connection, version: usize) -> anyhow::Result<()> {
    let file = folder.file();
    let wal = fs::metadata(with_suffix(&file, "-wal")).map_or(0, |wal| wal.len());
    let size = fs::metadata(&file)?.len() + wal;
    check_space(&file, size)?;
    make_single_file(&old).map_err(super::explain_lock)?;
    drop(old);
    let start = Instant::now();
    audit::write(format!("upgrading {} ({} MiB)", file.display(), size >> 20));
    let new = with_suffix(&file, PARTIAL);
    copy(&file, &new, version).map_err(|error| {
        let _ = fs::remove_file(&new);
        if is_full(&error) { no_space(&file, size) } else { error }
    })?;
    let before = with_suffix(&file, BEFORE);
    let complete = with_suffix(&file, COMPLETE);
    rename(&new, &complete)?;
    rename(&file, &before)?;
    rename(&complete, &file)?;
    audit::write(format!(
        "upgraded {} in {:.0?}; the old file is {}, until a message is deleted; to go back: stop \
         the server, move it to {0}, and remove the file lock beside it",
        file.display(),
        start.elapsed(),
        before.display()
    ));
    Ok(())
}

/// Copies the write-ahead log into the database, and removes it, since it would not fit another
/// file of the same name.
fn make_single_file(old: &Connection) -> rusqlite::Result<()> {
    old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    old.pragma_update(None, "journal_mode", "DELETE")
}

/// Renames a file, such that a later rename is not on the disk before this one.
fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    let synced = || {
        fs::rename(from, to)?;
        File::open(to.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    synced().with_context(|| format!("cannot rename {} to {}", from.display(), to.display()))
}

/// Checks that there is space for a copy. The new file is smaller than the old one, until the
/// search index is complete.
fn check_space(file: &Path, needed: u64) -> anyhow::Result<()> {
    let disk = statvfs(file).context("cannot read the size of the disk")?;
    // The types differ between platforms.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let free = (disk.blocks_available() as u64).saturating_mul(disk.fragment_size() as u64);
    if free < needed { Err(no_space(file, needed)) } else { Ok(()) }
}

fn no_space(file: &Path, needed: u64) -> anyhow::Error {
    anyhow::anyhow!(
        "no space to upgrade {}: a copy of it needs {} MiB beside it; free that, or move its \
         folder to a larger disk. The file is unchanged, and the previous version can use it",
        file.display(),
        (needed >> 20) + 1
    )
}

fn is_full(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    code == Some(ErrorCode::DiskFull) || kind == Some(std::io::ErrorKind::StorageFull)
}

/// Writes the content of a file to a new one, and syncs it.
fn copy(old: &Path, new: &Path, version: usize) -> anyhow::Result<()> {
    drop(open_own(new, OpenOptions::new().write(true).create_new(true))?);
    let mut connection = super::connect(new)?;
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    // An incomplete file is never used.
    connection.pragma_update(None, "journal_mode", "OFF")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "cache_size", -CACHE)?;
    schema::create(&mut connection)?;
    let path = old.to_str().context("the path is not UTF-8")?;
    connection.execute("ATTACH ?1 AS old", [path])?;
    let transaction = connection.transaction()?;
    copy_messages(&transaction)?;
    copy_entries(&transaction, version)?;
    place_messages(&transaction)?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    File::open(new)?.sync_all()?;
    Ok(())
}

fn copy_messages(connection: &Connection) -> anyhow::Result<()> {
    connection.execute_batch("DROP INDEX messages_by_cid")?; // filled faster afterwards
    let sql = "SELECT ifnull(max(id), 0) FROM old.messages";
    let last: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    let mut progress = Progress::new("messages copied", last);
    let mut rooms = RoomNumbers::default();
    let mut from = 0;
    while from < last {
        let sql = "SELECT max(id) FROM
                   (SELECT id FROM old.messages WHERE id > ?1 ORDER BY id LIMIT ?2)";
        let upto = connection.query_row(sql, [from, COPIED_AT_ONCE], |row| row.get(0))?;
        insert_rooms(connection, &mut rooms, from, upto)?;
        connection.execute(
            "INSERT INTO main.messages
             SELECT o.id, o.time, o.author, o.name, r.number, o.reader, o.reader_name,
                    o.is_action, o.text, o.cid
             FROM old.messages o LEFT JOIN main.rooms r ON r.name = o.room
             WHERE o.id > ?1 AND o.id <= ?2 ORDER BY o.id",
            [from, upto],
        )?;
        from = upto;
        progress.note(from);
    }
    connection.execute_batch(CID_INDEX)?;
    Ok(())
}

fn insert_rooms(
    connection: &Connection,
    rooms: &mut RoomNumbers,
    from: i64,
    upto: i64,
) -> rusqlite::Result<()> {
    let sql = "SELECT DISTINCT room FROM old.messages
               WHERE id > ?1 AND id <= ?2 AND room IS NOT NULL";
    let mut statement = connection.prepare_cached(sql)?;
    let names = statement.query_map([from, upto], |row| row.get::<_, String>(0))?;
    for name in names {
        // Messages with an invalid name were not written by chatty, and are never read.
        if let Ok(room) = RoomName::known(&name?) {
            rooms.get(connection, &room)?;
        }
    }
    Ok(())
}

/// Copies the collections and the numbers. The search index is written again, in the background.
fn copy_entries(connection: &Connection, version: usize) -> anyhow::Result<()> {
    connection.execute_batch(
        "INSERT OR REPLACE INTO main.last
         SELECT what, number FROM old.last WHERE what <> 'indexed'",
    )?;
    if version >= 2 {
        connection.execute_batch(
            "INSERT INTO main.kept SELECT shelf, key, value FROM old.kept WHERE shelf <> 'mail'",
        )?;
    }
    if (2..6).contains(&version) {
        // Mail is a position in the log per account instead of an entry per message. Messages
        // behind the position that had no entry are skipped.
        connection.execute_batch(
            "INSERT INTO main.kept
                SELECT 'mailbox', account, json_object('after', first - 1, 'skip', json((
                    SELECT json_group_array(id) FROM old.messages
                    WHERE reader = account AND id > first
                        AND id NOT IN (SELECT key FROM old.kept WHERE shelf = 'mail')
                )))
                FROM (
                    SELECT CAST(value AS INTEGER) AS account, min(key) AS first
                    FROM old.kept WHERE shelf = 'mail' GROUP BY account
                )",
        )?;
    }
    Ok(())
}

fn place_messages(connection: &Connection) -> anyhow::Result<()> {
    let sql = "SELECT ifnull(max(id), 0) FROM main.messages";
    let last: i64 = connection.query_row(sql, params![], |row| row.get(0))?;
    let mut progress = Progress::new("messages indexed", last);
    let mut from = 0;
    while from < last {
        let upto = places::place(connection, PLACED_AT_ONCE)?.cast_signed();
        if upto <= from {
            bail!("a message cannot be indexed");
        }
        from = upto;
        progress.note(from);
    }
    Ok(())
}

/// Reports the progress of a long step.
struct Progress {
    what: &'static str,
    last: i64,
    next: Instant,
}

impl Progress {
    fn new(what: &'static str, last: i64) -> Self {
        Self { what, last, next: Instant::now() + PROGRESS_INTERVAL }
    }

    /// Notes the id that is reached.
    fn note(&mut self, id: i64) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + PROGRESS_INTERVAL;
            let percent = i128::from(id) * 100 / i128::from(self.last.max(1));
            audit::write(format!("upgrading: {percent} % of the {}", self.what));
        }
    }
}
