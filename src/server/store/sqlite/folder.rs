//! The folder of the log: locked by one process at a time, and checked, at the start and after
//! each write, to contain the very files that were opened.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{BEFORE, FILE};
use crate::files::{check_own, open_own};

const LOCK: &str = "lock";

/// The extent of the log, written to the lock file beside it, so that lost data is detected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// How often the log was opened.
    pub(super) opened: u64,
    /// The id of the last stored message.
    pub(super) message: u64,
    /// Whether an orderly stop moved everything into the database file (checkpoint).
    pub(super) is_closed: bool,
}

impl Note {
    /// Parses a note; `None` if there is none, as in a folder of an older version.
    fn parse(text: &str) -> Option<Self> {
        let (opened, rest) = text.trim().strip_prefix("opened ")?.split_once(", message ")?;
        let (message, state) = rest.split_once(", ")?;
        let [opened, message] = [opened, message].map(|number| number.trim().parse().ok());
        Some(Self { opened: opened?, message: message?, is_closed: state == "closed" })
    }
}

/// A folder locked by this process until this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
    /// The note in the lock file when the folder was locked.
    note: Option<Note>,
}

impl Folder {
    /// Creates the folder, removes access for other users, and locks it.
    pub(super) fn claim(path: &Path) -> anyhow::Result<Self> {
        let problem = || format!("cannot use the folder {}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(problem)?;
        // The folder itself may be a symbolic link; files in it must not be.
        let path = path.canonicalize().with_context(problem)?;
        let lock = path.join(LOCK);
        let problem = || format!("cannot use {}", lock.display());
        let options = &mut OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut lock = open_own(&lock, options).with_context(problem)?;
        make_private(&lock).with_context(problem)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => bail!(
                "{} is in use by another chatty server; use another folder with --data DIR",
                path.display()
            ),
            Err(fs::TryLockError::Error(error)) => return Err(error).with_context(problem),
        }
        let mut text = String::new();
        // An unreadable note counts as none.
        let note = (&mut lock).take(256).read_to_string(&mut text).ok();
        let note = note.and_then(|_| Note::parse(&text));
        Ok(Self { path, lock, note })
    }

    /// Returns the path of the database.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// Removes the file from before an upgrade; returns its path if there was one.
    pub(super) fn remove_upgraded(&self) -> anyhow::Result<Option<PathBuf>> {
        let path = with_suffix(&self.file(), BEFORE);
        match fs::remove_file(&path) {
            Ok(()) => Ok(Some(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(format!("cannot remove {}", path.display())),
        }
    }

    /// Checks the files of the database before SQLite opens them.
    pub(super) fn check_before_open(&self) -> anyhow::Result<()> {
        let file = self.file();
        let size = match fs::symlink_metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error).context(format!("cannot use {}", file.display())),
        };
        if size == 0 && self.note.is_some_and(|note| note.opened > 0) {
            return Err(self.data_loss("it is missing or empty"));
        }
        for end in ["-wal", "-shm"] {
            let path = with_suffix(&file, end);
            check_own(&path).with_context(|| format!("cannot use {}", path.display()))?;
        }
        // Created here, because SQLite gives its companion files the same permissions.
        let problem = || format!("cannot use {}", file.display());
        let opened = open_own(&file, OpenOptions::new().append(true).create(true));
        opened.and_then(|opened| make_private(&opened)).with_context(problem)
    }

    /// Returns whether the write-ahead log exists; to be called before SQLite creates it.
    pub(super) fn has_wal(&self) -> bool {
        with_suffix(&self.file(), "-wal").exists()
    }

    /// Compares the content of the log with the note of what was stored. `None` for a number: the
    /// log does not contain it. Returns a warning for the operator, if any.
    pub(super) fn check_contents(
        &self,
        opened: Option<u64>,
        message: Option<u64>,
        had_wal: bool,
    ) -> anyhow::Result<Option<String>> {
        let Some(note) = self.note else { return Ok(None) };
        let Some(message) = message else { return Err(self.data_loss("it is empty")) };
        if message >= note.message && opened.is_none_or(|opened| opened >= note.opened) {
            return Ok(None);
        }
        let known = note.message;
        let what = if message < known {
            format!("its last message is {message}, but {known} were stored")
        } else {
            "it is older than the folder".to_owned()
        };
        // An older copy may have been restored, complete or with its write-ahead log. Otherwise the
        // write-ahead log is missing.
        if had_wal || note.is_closed {
            let file = self.file();
            return Ok(Some(format!(
                "{} contains less than was stored here: {what}; continuing with its content",
                file.display()
            )));
        }
        Err(self.data_loss(&what))
    }

    fn data_loss(&self, what: &str) -> anyhow::Error {
        let (file, lock) = (self.file(), self.path.join(LOCK));
        anyhow::anyhow!(
            "{0} has lost data: {what}; restore it together with {0}-wal, if there is one; or, to \
             continue with what is there, remove {1} and start again",
            file.display(),
            lock.display()
        )
    }

    /// Writes a note of what is stored. It need not be synced: an older note never looks like lost
    /// data.
    pub(super) fn write_note(&self, note: Note) -> io::Result<()> {
        // Always of the same length, so that a reader never sees a partial note.
        let state = if note.is_closed { "closed" } else { "open" };
        let Note { opened, message, .. } = note;
        let line = format!("opened {opened:>20}, message {message:>20}, {state:<6}\n");
        self.lock.write_all_at(line.as_bytes(), 0)?;
        self.lock.set_len(line.len() as u64)
    }
}

/// Restricts access to a file to its owner.
fn make_private(file: &File) -> io::Result<()> {
    let is_private = file.metadata()?.permissions().mode() & 0o7777 == 0o600;
    if is_private { Ok(()) } else { file.set_permissions(Permissions::from_mode(0o600)) }
}

/// Appends a suffix to a file name.
pub(super) fn with_suffix(path: &Path, end: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(end);
    path.into()
}

/// Files that were opened, to check whether their paths still lead to them.
#[derive(Debug)]
pub(super) struct Opened(Vec<(PathBuf, (u64, u64))>);

impl Opened {
    pub(super) fn of(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let with_identity = |path: PathBuf| identity(&path).map(|identity| (path, identity));
        paths.into_iter().map(with_identity).collect::<io::Result<_>>().map(Self)
    }

    /// Describes the first file that was removed or replaced, if any.
    pub(super) fn find_missing(&self) -> Option<String> {
        let is_missing = |path: &Path, was: (u64, u64)| match identity(path) {
            Ok(is) => is != was,
            Err(error) => {
                matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
            }
        };
        let (path, _) = self.0.iter().find(|(path, was)| is_missing(path, *was))?;
        Some(format!("{} was removed or replaced while the server ran", path.display()))
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_is_parsed_as_written_and_other_texts_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut known = None;
        for is_closed in [false, true, false] {
            let note = Note { opened: 3, message: 57, is_closed };
            let claimed = Folder::claim(folder.path()).unwrap();
            assert_eq!(claimed.note, known);
            claimed.write_note(note).unwrap();
            known = Some(note);
        }
        for text in ["", "a note", "opened 3", "opened x, message 4, open", "opened 1, message 4"] {
            assert_eq!(Note::parse(text), None, "{text}");
        }
    }

    #[test]
    fn removed_or_replaced_file_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "").unwrap();
        let opened = Opened::of([path("a")]).unwrap();
        assert_eq!(opened.find_missing(), None);
        fs::write(path("b"), "").unwrap();
        fs::rename(path("b"), path("a")).unwrap();
        assert!(opened.find_missing().is_some());
        fs::remove_file(path("a")).unwrap();
        assert!(opened.find_missing().is_some());
    }
}
