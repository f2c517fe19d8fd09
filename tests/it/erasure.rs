//! What retention deletes is erased: no file of the data folder contains its words.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::older_schemas;
use crate::search::indexed;
use crate::support::{Peer, Server, Terminal, history};

/// How soon after its deletion a message is erased.
const ERASED_WITHIN: Duration = Duration::from_secs(5);

/// Returns the files of a folder that contain one of the words.
fn files_with(folder: &Path, words: &[&str]) -> Vec<String> {
    let files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    let has_words = |content: &[u8]| {
        let has = |word: &&str| content.windows(word.len()).any(|part| part == word.as_bytes());
        words.iter().any(has)
    };
    files
        // A file may be removed meanwhile.
        .filter(|file| fs::read(file).is_ok_and(|content| has_words(&content)))
        .map(|file| file.file_name().expect("a name").to_string_lossy().into_owned())
        .collect()
}

/// Checks that the words are erased in time, while `meanwhile` runs.
fn assert_erased(folder: &Path, words: &[&str], mut meanwhile: impl FnMut()) {
    let deleted = Instant::now();
    loop {
        let files = files_with(folder, words);
        if files.is_empty() {
            return;
        }
        assert!(deleted.elapsed() < ERASED_WITHIN, "{files:?}");
        meanwhile();
    }
}

const WORDS: [&str; 5] = ["quagga", "Okapi", "okapi", "saola", "numbat"];

#[test]
fn deleted_messages_are_erased_from_every_file() {
    for is_busy in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start_in(folder.path(), &["--keep-messages", "50"]);
        let mut alice = Peer::join(server.port, "alice");
        let bob = Peer::join(server.port, "bob");
        for _ in 0..20 {
            alice.say("a quagga and an Okapi\n/msg bob about the saola");
        }
        alice.say("/join numbat\nhere\n/part numbat\n/join ops\nhello");
        alice.settles();
        drop(indexed(folder.path()));
        assert!(!files_with(folder.path(), &WORDS).is_empty());
        // A reader needs the write-ahead log until it ends.
        let reader = Connection::open(folder.path().join("chatty.db")).expect("the log");
        reader.execute_batch("BEGIN; SELECT count(*) FROM messages").expect("reads");
        let mut filler = || {
            alice.say("hay hay hay");
            alice.settles();
        };
        (0..120).for_each(|_| filler());
        Terminal::waits("the deletion", || {
            let left = history(server.port, "lobby").len() + history(server.port, "numbat").len();
            left == 0
        });
        reader.execute_batch("COMMIT").expect("released");
        assert_erased(folder.path(), &WORDS, || {
            if is_busy {
                filler();
            }
        });
        assert_eq!(server.stops().0, Some(0));
        assert_eq!(files_with(folder.path(), &WORDS), [""; 0]);
        let log = indexed(folder.path());
        let check = "INSERT INTO search (search, rank) VALUES ('integrity-check', 0)";
        log.execute_batch(check).expect("an intact index");
        let sql = "SELECT count(*) FROM places WHERE id NOT IN (SELECT id FROM messages)";
        assert_eq!(log.query_row(sql, [], |row| row.get::<_, i64>(0)), Ok(0));
        drop(bob);
    }
}

#[test]
fn old_file_is_kept_after_an_upgrade_until_a_message_is_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let older = older_schemas::create(&folder.path().join("chatty.db"), 6);
    older
        .execute_batch(
            "INSERT INTO messages
             VALUES (1, 0, 1, 'bob', 'lobby', 'lobby', NULL, NULL, NULL, NULL, 0, 'Okapi', NULL);
             UPDATE last SET number = 1 WHERE what IN ('message', 'person')",
        )
        .expect("a message of 1970");
    drop(older);
    let server = Server::start_in(folder.path(), &["--keep-messages", "2"]);
    let mut alice = Peer::join(server.port, "alice");
    let log = indexed(folder.path());
    assert_eq!(files_with(folder.path(), &WORDS).len(), 2);
    drop(log);
    assert_eq!(server.stops().0, Some(0));
    alice.rest();
    assert!(folder.path().join("chatty.db-before-upgrade").exists());
    let server = Server::start_in(folder.path(), &["--keep-days", "1"]);
    assert!(server.logs().ends_with("chatty.db-before-upgrade: messages were deleted"));
    Terminal::waits("the deletion", || history(server.port, "lobby").is_empty());
    assert_erased(folder.path(), &WORDS, || {});
}
