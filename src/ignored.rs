//! Signals that whoever started us does not want us to hear: `nohup` has us outlive
//! the terminal, a script's `&` has us outlive its Ctrl-C. What is ignored when we
//! begin stays so; to listen for it would end that.

use std::fs;

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
