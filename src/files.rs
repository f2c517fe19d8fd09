//! Files that chatty owns: the log and the files beside it, the server's identity, known
//! servers, histories. They are never opened through a link, and only regular files of the
//! current user are changed. Files named by the user (passwords, certificates, settings)
//! may be links, are only read, and are not opened here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc;
use nix::unistd::Uid;

/// Opens a file that chatty owns. If `options` create it, its mode is 0600.
///
/// # Errors
/// The file cannot be opened, is a symbolic or hard link, is not a regular file, or belongs
/// to another user. It is left unchanged.
pub fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Without O_NONBLOCK opening a FIFO would block; regular files ignore the flag.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = options.mode(0o600).custom_flags(flags).open(path).map_err(|error| {
        match error.raw_os_error() {
            Some(libc::ELOOP) => not_owned("is a link"),
            Some(libc::ENXIO | libc::EISDIR) => not_owned("is not a regular file"),
            _ => error,
        }
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(not_owned("is not a regular file"));
    }
    if metadata.uid() != Uid::effective().as_raw() {
        return Err(not_owned("belongs to another user"));
    }
    if metadata.nlink() > 1 {
        return Err(not_owned("is a hard link to a file elsewhere"));
    }
    Ok(file)
}

/// Checks that a file is owned by chatty or does not exist.
///
/// # Errors
/// As for [`open_own`].
pub fn check_own(path: &Path) -> io::Result<()> {
    match open_own(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn not_owned(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it {why}; chatty does not change it"))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_own_regular_files_are_opened_and_others_left_unchanged() {
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
            ("fifo", "is not a regular file"),
            ("folder", "is not a regular file"),
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
    fn file_is_created_private_and_reopened_with_its_content() {
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
