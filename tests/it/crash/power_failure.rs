//! A simulated power failure: the files are copied at some moment, the write-ahead log is truncated
//! anywhere, and the result must be a complete log that ends earlier.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::checker::{Row, violations};
use super::users::{PATIENCE, Random};
use super::{Era, Figures, any_seed};
use crate::support::{Peer, Server};

/// The sizes of the write-ahead log's header and of each frame's header, in bytes.
const WAL_HEAD: usize = 32;
const FRAME_HEAD: usize = 24;

/// The minimum number of frames in the write-ahead log: enough to truncate, and below SQLite's
/// checkpoint threshold (1000), after which no earlier state could result.
const FRAMES: usize = 200;

#[test]
fn truncated_write_ahead_log_recovers_to_complete_prefix() {
    let seed = any_seed();
    println!("seed {seed}");
    let mut random = Random(seed);
    for is_fresh in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut era = Era::new(folder.path(), None, random.fork());
        if !is_fresh {
            era.run(1, &mut Figures::default());
            checkpoint(folder.path());
        }
        let image = Image::of_busy_server(&mut era);
        image.check(&mut random);
    }
}

/// The last connection to close checkpoints the whole write-ahead log into the file.
fn checkpoint(folder: &Path) {
    let file = folder.join("chatty.db");
    let connection = Connection::open(&file).expect("the log");
    connection
        .query_row("SELECT count(*) FROM messages", [], |row| row.get::<_, i64>(0))
        .expect("messages");
    connection.close().expect("closed");
    assert!(!folder.join("chatty.db-wal").exists(), "all is in the file");
}

/// The files at one moment.
struct Image {
    file: Vec<u8>,
    wal: Vec<u8>,
    frame_size: usize,
    /// The messages in the untruncated log.
    rows: Vec<Row>,
}

impl Image {
    /// Copies the files of a server that is stopped while it works.
    fn of_busy_server(era: &mut Era<'_>) -> Self {
        let (file, wal) = (era.folder.join("chatty.db"), era.folder.join("chatty.db-wal"));
        let server = Server::start_in(era.folder, &[]);
        let until_enough = || {
            let start = Instant::now();
            let size = || fs::metadata(&wal).map_or(0, |wal| wal.len());
            while size() < (WAL_HEAD + FRAMES * (FRAME_HEAD + 4096)) as u64 {
                assert!(start.elapsed() < PATIENCE, "too little is said");
                thread::sleep(Duration::from_millis(1));
            }
        };
        let mut image = Self { file: vec![], wal: vec![], frame_size: 0, rows: vec![] };
        era.run_users(server.port, until_enough, || {
            server.signal("STOP");
            image.file = fs::read(&file).expect("the file");
            image.wal = fs::read(&wal).expect("the write-ahead log");
            drop(server);
        });
        let page = &image.wal[8..12];
        let page = u32::from_be_bytes(page.try_into().expect("four bytes"));
        image.frame_size = FRAME_HEAD + usize::try_from(page).expect("a size");
        let frames = (image.wal.len() - WAL_HEAD) / image.frame_size;
        assert!((FRAMES..1000).contains(&frames), "{frames} pages");
        // All messages delivered until then are stored.
        image.rows = image.truncate_at(image.wal.len()).0;
        let violations = violations(&era.events, &image.rows, None);
        assert!(violations.is_empty(), "{}", violations.join("\n"));
        image
    }

    /// Returns the messages left after truncation, and the last id ever assigned.
    fn truncate_at(&self, end: usize) -> (Vec<Row>, u64) {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(folder.path(), end);
        let file = folder.path().join("chatty.db");
        // Opened for writing, so that SQLite recovers the log first.
        let connection = Connection::open(&file).expect("the log");
        let count = "SELECT count(*) FROM sqlite_schema WHERE name = 'messages'";
        let has_table: bool = connection.query_row(count, [], |row| row.get(0)).expect("a schema");
        if !has_table {
            return (Vec::new(), 0); // truncated before the first transaction
        }
        let last = "SELECT number FROM last WHERE what = 'message'";
        let noted: i64 = connection.query_row(last, [], |row| row.get(0)).expect("a number");
        let rows = super::rows_of(&connection).expect("rows");
        // The last message stores its own id.
        let last = rows.last().map_or(0, |row| row.id).max(noted.cast_unsigned());
        (rows, last)
    }

    fn write(&self, folder: &Path, end: usize) {
        fs::write(folder.join("chatty.db"), &self.file).expect("written");
        fs::write(folder.join("chatty.db-wal"), &self.wal[..end]).expect("written");
    }

    fn check(&self, random: &mut Random) {
        let (mut count, mut highest) = (0, 0);
        for end in self.ends(random) {
            let (left, last) = self.truncate_at(end);
            assert!(left.len() >= count, "less is left at {end}");
            count = left.len();
            assert_eq!(left, self.rows[..count], "cut at {end}");
            assert!(last >= highest, "{last} at {end}");
            highest = last;
        }
        assert_eq!(count, self.rows.len());
        for _ in 0..3 {
            let end = random.below(self.wal.len() as u64);
            self.restart_from(usize::try_from(end).expect("a size"));
        }
    }

    /// Returns where to truncate, in ascending order: near the ends of many frames and at random
    /// offsets.
    fn ends(&self, random: &mut Random) -> Vec<usize> {
        let size = self.wal.len();
        let mut ends = vec![0, WAL_HEAD - 1, WAL_HEAD, WAL_HEAD + 1, size - 1, size];
        let frames = (size - WAL_HEAD) / self.frame_size;
        let mut pick = |count: usize| usize::try_from(random.below(count as u64)).expect("a size");
        for _ in 0..20 {
            let end = WAL_HEAD + (1 + pick(frames - 1)) * self.frame_size;
            ends.extend([end - 1, end, end + 1, pick(size)]);
        }
        ends.sort_unstable();
        ends
    }

    /// A server starts on what is left and assigns new ids.
    fn restart_from(&self, end: usize) {
        let folder = tempfile::tempdir().expect("a folder");
        self.write(folder.path(), end);
        let (_, last) = self.truncate_at(end);
        let server = Server::start_in(folder.path(), &[]);
        let mut alice = Peer::join(server.port, "alice");
        alice.say("/set tags on");
        alice.say("and on");
        let tag = format!("@id={};", last + 1);
        assert!(alice.hears(|line| line.ends_with(" alice: and on")).starts_with(&tag));
    }
}
