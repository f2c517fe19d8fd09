//! Measures how soon a server with a large log is ready after a kill: `scripts/crash.sh ready`.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::users::Random;
use super::{Era, any_seed};
use crate::support::{Peer, Server};

const HISTORY: u64 = 1 << 30;

#[test]
#[ignore = "a measurement that writes a gibibyte: scripts/crash.sh ready"]
fn server_with_gibibyte_log_starts_quickly_after_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(Server::start_in(folder.path(), &[])); // creates the tables
    let messages = fill(&folder.path().join("chatty.db"));
    println!("{messages} messages, {HISTORY} bytes");
    let mut era = Era::new(folder.path(), None, Random(any_seed()));
    for _ in 0..5 {
        let started = Instant::now();
        let server = Server::start_in(folder.path(), &[]);
        let listening = started.elapsed();
        Peer::join(server.port, "alice");
        println!("listening after {listening:?}, a first answer after {:?}", started.elapsed());
        // Killed while working, so that there is something to recover.
        era.run_users(server.port, || thread::sleep(Duration::from_secs(2)), || drop(server));
    }
}

/// Inserts messages of typical length until the file has the target size.
fn fill(file: &Path) -> i64 {
    let mut connection = Connection::open(file).expect("the log");
    connection.execute("INSERT INTO rooms VALUES (1, 1, 'lobby', 'lobby')", []).expect("a room");
    let text = "a word or two ".repeat(20);
    let mut id = 0;
    while fs::metadata(file).expect("a file").len() < HISTORY {
        let transaction = connection.transaction().expect("a transaction");
        let sql = "INSERT INTO messages
                   (id, time, author, name, room, is_action, text, cid)
                   VALUES (?1, ?1, 1, 'alice', 1, 0, ?2, ?3)";
        let mut statement = transaction.prepare(sql).expect("a statement");
        for _ in 0..20_000 {
            id += 1;
            statement.execute(params![id, text, id.to_string()]).expect("a message");
        }
        drop(statement);
        transaction.commit().expect("stored");
    }
    id
}
