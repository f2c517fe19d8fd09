//! Files that chatty itself owns: the log and what lies beside it, the server's own
//! identity, known servers, histories. They are never opened through a link, and only
//! regular files of our own user are changed. A file that the user names (a password, a
//! certificate, settings) may be a link, is only read, and is not opened here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc;
use nix::unistd::Uid;

/// Opens a file that is ours, or makes it for its owner alone if `options` create it.
///
/// # Errors
/// It cannot be opened, it is a link, it is no regular file, it belongs to another user,
/// or it has another name elsewhere (a hard link). It is as it was then.
pub fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // A FIFO must not hold us up; for a regular file it makes no difference.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.mode(0o600).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::ELOOP) => not_ours("is a link"),
            Some(libc::ENXIO | libc::EISDIR) => not_ours("is no regular file"),
            _ => error,
        }
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(not_ours("is no regular file"));
    }
    if metadata.uid() != Uid::effective().as_raw() {
        return Err(not_ours("belongs to another user"));
    }
    if metadata.nlink() > 1 {
        return Err(not_ours("is a hard link to a file elsewhere"));
    }
    Ok(file)
}

/// Whether a file is ours, or is not there.
///
/// # Errors
/// See [`open_own`].
pub fn check_own(path: &Path) -> io::Result<()> {
    match open_own(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn not_ours(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it {why}; chatty leaves it alone"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_own_regular_files_are_opened_and_others_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("victim"), "text").unwrap();
        fs::set_permissions(path("victim"), Permissions::from_mode(0o644)).unwrap();
        symlink(path("victim"), path("link")).unwrap();
        symlink(path("absent"), path("dangling")).unwrap();
        symlink("/dev/null", path("device")).unwrap();
        mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
        fs::create_dir(path("folder")).unwrap();
        for (name, why) in [
            ("link", "is a link"),
            ("dangling", "is a link"),
            ("device", "is a link"),
            ("fifo", "is no regular file"),
            ("folder", "is no regular file"),
        ] {
            let mut appending = OpenOptions::new();
            appending.append(true).create(true);
            for options in [&mut appending, OpenOptions::new().read(true)] {
                let problem = open_own(&path(name), options).unwrap_err().to_string();
                assert!(problem.contains(why), "{name}: {problem}");
            }
            assert!(check_own(&path(name)).is_err(), "{name}");
        }
        assert!(!path("absent").exists());
        fs::hard_link(path("victim"), path("hard")).unwrap();
        let problem = open_own(&path("hard"), OpenOptions::new().append(true)).unwrap_err();
        assert!(problem.to_string().contains("hard link"), "{problem}");
        let mode = fs::metadata(path("victim")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone_and_keeps_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        check_own(&path).unwrap();
        assert!(!path.exists());
        let mut options = OpenOptions::new();
        let file = open_own(&path, options.append(true).create(true)).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "a note").unwrap();
        open_own(&path, options.append(true).create(true)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a note");
        check_own(&path).unwrap();
    }
}
