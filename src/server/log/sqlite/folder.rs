//! The folder the log lies in: claimed by one process at a time, and checked, at the
//! start and after each write, to hold the very files that were opened.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::FILE;
use crate::files::{check_own, open_own};

const LOCK: &str = "lock";

/// What is known to be stored in a folder's log. It stands in the lock file, beside the
/// log, so that a log that lost it is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// How often the log was opened.
    pub(super) opened: u64,
    /// The id of the last message.
    pub(super) message: u64,
    /// Whether all of it was moved into the one file at an orderly stop.
    pub(super) is_closed: bool,
}

impl Mark {
    /// `None`: nothing is known, as in the folder of an older chatty.
    fn parse(text: &str) -> Option<Self> {
        let (opened, rest) = text.trim().strip_prefix("opened ")?.split_once(", message ")?;
        let (message, state) = rest.split_once(", ")?;
        let [opened, message] = [opened, message].map(|number| number.trim().parse().ok());
        Some(Self { opened: opened?, message: message?, is_closed: state == "closed" })
    }
}

/// A folder that this process has claimed. It is ours as long as this is open.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
    /// What the lock file said when the folder was claimed.
    mark: Option<Mark>,
}

impl Folder {
    /// Makes the folder, closes it to others and locks it.
    pub(super) fn claim(path: &Path) -> anyhow::Result<Self> {
        let problem = || format!("cannot use the folder {}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(problem)?;
        // A folder may be a link; nothing in it is opened through one.
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
                "another chatty keeps its log in {}; give this one a folder of its own with \
                 --data DIR",
                path.display()
            ),
            Err(fs::TryLockError::Error(error)) => return Err(error).with_context(problem),
        }
        let mut text = String::new();
        // What cannot be read says nothing.
        let mark = (&mut lock).take(256).read_to_string(&mut text).ok();
        let mark = mark.and_then(|_| Mark::parse(&text));
        Ok(Self { path, lock, mark })
    }

    /// The log's file.
    pub(super) fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// Checks the log's files before SQLite opens them.
    pub(super) fn check_before_open(&self) -> anyhow::Result<()> {
        let file = self.file();
        let size = match fs::symlink_metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error).context(format!("cannot use {}", file.display())),
        };
        if size == 0 && self.mark.is_some_and(|mark| mark.opened > 0) {
            return Err(self.lost("it is missing or empty"));
        }
        for end in ["-wal", "-shm"] {
            let path = with_end(&file, end);
            check_own(&path).with_context(|| format!("cannot use {}", path.display()))?;
        }
        // Made before SQLite makes it; its companions take over its permissions.
        let problem = || format!("cannot use {}", file.display());
        let opened = open_own(&file, OpenOptions::new().append(true).create(true));
        opened.and_then(|opened| make_private(&opened)).with_context(problem)
    }

    /// Whether the write-ahead log is there, before SQLite makes it.
    pub(super) fn has_wal(&self) -> bool {
        with_end(&self.file(), "-wal").exists()
    }

    /// Compares what the log holds with what is known to have been stored. `None` for a
    /// number: the log does not tell it. Gives a remark for whoever runs the server.
    pub(super) fn check_contents(
        &self,
        opened: Option<u64>,
        message: Option<u64>,
        had_wal: bool,
    ) -> anyhow::Result<Option<String>> {
        let Some(mark) = self.mark else { return Ok(None) };
        let Some(message) = message else { return Err(self.lost("it is empty")) };
        if message >= mark.message && opened.is_none_or(|opened| opened >= mark.opened) {
            return Ok(None);
        }
        let known = mark.message;
        let what = if message < known {
            format!("its last message is {message}, but {known} were stored")
        } else {
            "it is older than the folder".to_owned()
        };
        // An older copy may have been put here, complete in itself or with its write-ahead
        // log. Otherwise it is that log that is missing.
        if had_wal || mark.is_closed {
            let file = self.file();
            return Ok(Some(format!(
                "{} holds less than was stored here: {what}; going on with what it holds",
                file.display()
            )));
        }
        Err(self.lost(&what))
    }

    fn lost(&self, what: &str) -> anyhow::Error {
        let (file, lock) = (self.file(), self.path.join(LOCK));
        anyhow::anyhow!(
            "{0} does not hold what was stored in it: {what}; put it back together with \
             {0}-wal, if there is one, or, to go on with what is there, remove {1} and start again",
            file.display(),
            lock.display()
        )
    }

    /// Notes what is stored. It need not be on the disk: less than that is never taken
    /// for a loss.
    pub(super) fn note(&self, mark: Mark) -> io::Result<()> {
        // Always as long, so that it is whole whenever it is read.
        let state = if mark.is_closed { "closed" } else { "open" };
        let Mark { opened, message, .. } = mark;
        let line = format!("opened {opened:>20}, message {message:>20}, {state:<6}\n");
        self.lock.write_all_at(line.as_bytes(), 0)?;
        self.lock.set_len(line.len() as u64)
    }
}

/// Closes a file to others, if it is not closed yet.
fn make_private(file: &File) -> io::Result<()> {
    let is_private = file.metadata()?.permissions().mode() & 0o7777 == 0o600;
    if is_private { Ok(()) } else { file.set_permissions(Permissions::from_mode(0o600)) }
}

/// A path with something behind its name.
pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(end);
    path.into()
}

/// Files that were opened by their paths, to see whether these still lead to them.
#[derive(Debug)]
pub(super) struct Opened(Vec<(PathBuf, (u64, u64))>);

impl Opened {
    pub(super) fn of(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let with_identity = |path: PathBuf| identity(&path).map(|identity| (path, identity));
        paths.into_iter().map(with_identity).collect::<io::Result<_>>().map(Self)
    }

    /// The first that was removed or replaced.
    pub(super) fn gone(&self) -> Option<String> {
        let is_gone = |path: &Path, was: (u64, u64)| match identity(path) {
            Ok(is) => is != was,
            Err(error) => {
                matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
            }
        };
        let (path, _) = self.0.iter().find(|(path, was)| is_gone(path, *was))?;
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
    fn mark_is_read_as_it_was_written_and_anything_else_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut known = None;
        for is_closed in [false, true, false] {
            let mark = Mark { opened: 3, message: 57, is_closed };
            let claimed = Folder::claim(folder.path()).unwrap();
            assert_eq!(claimed.mark, known);
            claimed.note(mark).unwrap();
            known = Some(mark);
        }
        for text in ["", "a note", "opened 3", "opened x, message 4, open", "opened 1, message 4"] {
            assert_eq!(Mark::parse(text), None, "{text}");
        }
    }

    #[test]
    fn removed_or_replaced_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "").unwrap();
        let opened = Opened::of([path("a")]).unwrap();
        assert_eq!(opened.gone(), None);
        fs::write(path("b"), "").unwrap();
        fs::rename(path("b"), path("a")).unwrap();
        assert!(opened.gone().is_some());
        fs::remove_file(path("a")).unwrap();
        assert!(opened.gone().is_some());
    }
}
