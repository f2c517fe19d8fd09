//! Signals that are ignored at startup, and the signal handling that the server and the
//! client share. `nohup` ignores SIGHUP and a script's `&` ignores SIGINT for the processes
//! they start. Such a signal stays ignored: a handler for it would undo that. This module
//! does not know what a signal does.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The time after a termination signal within which further ones count as the same.
/// Several signals can have one cause: `timeout` signals its child and then the process
/// group, a service manager may send SIGTERM and SIGHUP, a key may repeat.
pub const REPEAT: Duration = Duration::from_secs(1);

/// Installs a handler for a signal, unless the signal is ignored.
///
/// # Errors
/// The handler cannot be installed, or no Tokio runtime is running.
pub fn unless_ignored(kind: SignalKind) -> io::Result<Option<Signal>> {
    if is_ignored(kind.as_raw_value()) { Ok(None) } else { signal(kind).map(Some) }
}

/// Makes SIGUSR1 and SIGUSR2 do nothing. Tools send them to daemons (to rotate logs or
/// print statistics), and their default action terminates the process.
///
/// # Errors
/// The handlers cannot be installed, or no Tokio runtime is running.
pub fn ignore_user_signals() -> io::Result<()> {
    // The handler stays installed when the stream is dropped. Unlike SIG_IGN it is not
    // inherited by child processes.
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        drop(unless_ignored(kind)?);
    }
    Ok(())
}

/// Whether the signal with this number is ignored. Only Linux reports this without
/// `unsafe`; on other systems the result is false.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| is_in(&status, signal))
}

fn is_in(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        // SIGHUP, which is 1, and SIGPIPE, which is 13.
        let status = "Name:\tx\nSigBlk:\t0000000000000006\nSigIgn:\t0000000000001001\n";
        for (signal, expected) in [(1, true), (2, false), (13, true), (0, false), (65, false)] {
            assert_eq!(is_in(status, signal), expected, "{signal}");
        }
        assert!(!is_in("", 1) && !is_in("SigIgn:\tx", 1));
    }
}
