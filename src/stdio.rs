//! Standard input, output and error. Other programs share their descriptors and may set
//! `O_NONBLOCK`, which belongs to the open file description and not to a process. A call
//! that fails with `EAGAIN` is therefore neither the end of the input nor an error: it is
//! repeated after `poll`. The flag is never changed here, since that would change it for
//! the other programs, too.
//!
//! Output is not buffered: callers format a whole line first.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

/// A descriptor whose calls block even if it is set to non-blocking.
#[derive(Debug)]
pub struct Stream<F>(F);

/// Standard input, buffered.
pub type Stdin = BufReader<Stream<io::Stdin>>;

/// Returns standard input. It reads ahead, so a program must create it only once.
#[must_use]
pub fn stdin() -> Stdin {
    BufReader::new(Stream(io::stdin()))
}

/// Returns standard output.
#[must_use]
pub fn stdout() -> Stream<io::Stdout> {
    Stream(io::stdout())
}

/// Returns standard error.
#[must_use]
pub fn stderr() -> Stream<io::Stderr> {
    Stream(io::stderr())
}

/// Writes a line to standard error in a single call. Errors are ignored, since there is no
/// other place to report them.
pub fn print_error(line: &str) {
    let _ = stderr().write_all(format!("{line}\n").as_bytes());
}

/// Returns the system's message for an error, without the error number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

impl<F: AsFd> Read for Stream<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fd = self.0.as_fd();
        loop {
            // Wait before the call, not only after EAGAIN: reading a FIFO that no writer
            // has opened yet returns end of file.
            if is_nonblocking_input(fd)? {
                wait(fd, PollFlags::POLLIN)?;
            }
            match unistd::read(fd, buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                read => return read.map_err(io::Error::from),
            }
        }
    }
}

impl<F: AsFd> Write for Stream<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.0.as_fd();
        loop {
            match unistd::write(fd, bytes) {
                Err(Errno::EAGAIN) => wait(fd, PollFlags::POLLOUT)?,
                Err(Errno::EINTR) => {}
                written => return written.map_err(io::Error::from),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a read can fail with `EAGAIN`. A read of a write-only descriptor fails at once,
/// and `poll` would never report it as readable.
fn is_nonblocking_input(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    let is_readable = flags & OFlag::O_ACCMODE != OFlag::O_WRONLY;
    Ok(is_readable && flags.contains(OFlag::O_NONBLOCK))
}

fn wait(fd: BorrowedFd<'_>, until: PollFlags) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(fd, until)], PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            polled => return polled.map(drop).map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::BufRead as _;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::thread;
    use std::time::Duration;

    use nix::sys::stat::Mode;

    use super::*;

    /// Creates a pipe with both ends set to non-blocking.
    fn pipe() -> (Stream<OwnedFd>, Stream<OwnedFd>) {
        let (reader, writer) = io::pipe().unwrap();
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        for fd in [&reader, &writer] {
            fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        (Stream(reader), Stream(writer))
    }

    #[test]
    fn nonblocking_read_waits_for_input_and_for_its_end() {
        let (reader, mut writer) = pipe();
        let reading = thread::spawn(move || {
            let lines: io::Result<Vec<_>> = BufReader::new(reader).lines().collect();
            lines.unwrap()
        });
        for line in ["one\n", "tw", "o\n"] {
            thread::sleep(Duration::from_millis(20)); // lets the reader find nothing
            writer.write_all(line.as_bytes()).unwrap();
        }
        drop(writer);
        assert_eq!(reading.join().unwrap(), ["one", "two"]);
    }

    #[test]
    fn nonblocking_write_waits_for_a_slow_reader() {
        let (mut reader, mut writer) = pipe();
        let much: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = much.clone();
        let writing = thread::spawn(move || writer.write_all(&much));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert!(read == expected);
    }

    #[test]
    fn fifo_without_a_writer_has_not_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let mut options = File::options();
        let reader = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        let reading = thread::spawn(move || {
            let mut text = String::new();
            Stream(reader).read_to_string(&mut text).map(|_| text)
        });
        thread::sleep(Duration::from_millis(20)); // lets the reader find nothing
        File::options().write(true).open(&path).unwrap().write_all(b"late").unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), "late");
    }

    #[test]
    fn failures_other_than_waiting_are_reported() {
        let (reader, writer) = io::pipe().unwrap();
        let folder = File::open("/tmp").unwrap();
        for (stream, errno) in [
            (OwnedFd::from(writer), Errno::EBADF), // the wrong end
            (OwnedFd::from(folder), Errno::EISDIR),
        ] {
            let error = Stream(stream).read(&mut [0]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno as i32));
        }
        let error = Stream(OwnedFd::from(reader)).write(b"x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EBADF as i32), "the wrong end");
        let (reader, writer) = pipe();
        drop(reader);
        let error = { writer }.write(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(reason(&error), "broken pipe");
    }
}
