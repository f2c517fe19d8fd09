//! Signals that whoever started us does not want us to hear: `nohup` has us outlive
//! the terminal, a script's `&` has us outlive its Ctrl-C. What is ignored when we
//! begin stays so; to listen for it would end that.
//!
//! Also which signals are handled alike by the server and the client.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Further signals to end within this time of the first count as that one. Several come
/// for one reason: `timeout` signals its child and then the process group, a service
/// manager may send SIGTERM and SIGHUP, a key is held down.
pub const REPEAT: Duration = Duration::from_secs(1);

/// Listens for a signal, unless it is ignored.
///
/// # Errors
/// The system does not let us, or no runtime is running.
pub fn unless_ignored(kind: SignalKind) -> io::Result<Option<Signal>> {
    if is_ignored(kind.as_raw_value()) { Ok(None) } else { signal(kind).map(Some) }
}

/// From now on SIGUSR1 and SIGUSR2 do nothing. Tools send them to daemons (to rotate
/// logs, to print statistics), and by default they would end the process.
///
/// # Errors
/// The system does not let us, or no runtime is running.
pub fn ignore_user_signals() -> io::Result<()> {
    // The handler stays when the stream is dropped. Unlike SIG_IGN it is not inherited
    // by the programs we start.
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        drop(unless_ignored(kind)?);
    }
    Ok(())
}

/// Whether a signal, by its number, is ignored. Only Linux tells without `unsafe`;
/// elsewhere none is.
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
    fn the_mask_tells_which() {
        // SIGHUP, which is 1, and SIGPIPE, which is 13.
        let status = "Name:\tx\nSigBlk:\t0000000000000006\nSigIgn:\t0000000000001001\n";
        for (signal, is_it) in [(1, true), (2, false), (13, true), (0, false), (65, false)] {
            assert_eq!(is_in(status, signal), is_it, "{signal}");
        }
        assert!(!is_in("", 1) && !is_in("SigIgn:\tx", 1));
    }
}
