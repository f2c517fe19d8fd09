//! A clock that rings after microseconds; the runtime's own timers count in
//! milliseconds.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// See the head of this file.
#[derive(Debug)]
pub struct Timer(AsyncFd<TimerDescriptor>);

#[derive(Debug)]
struct TimerDescriptor(TimerFd);

impl AsFd for TimerDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for TimerDescriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// The system gives none.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        // Deprecated since a type could lie about its descriptor, which ours does
        // not; what comes in its place is unsafe to call.
        #[allow(deprecated)]
        AsyncFd::with_interest(TimerDescriptor(timer), Interest::READABLE).map(Self)
    }

    /// Rings once after this time, instead of whatever it was set to.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let once = Expiration::OneShot(TimeSpec::from_duration(after));
        Ok(self.0.get_ref().0.set(once, TimerSetTimeFlags::empty())?)
    }

    /// Waits until it rings.
    ///
    /// # Errors
    /// The system's, if it cannot be waited for.
    pub async fn expired(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn it_rings_each_time_it_is_set_and_not_before() {
        let alarm = Timer::new().unwrap();
        for _ in 0..5 {
            let start = Instant::now();
            alarm.set(Duration::from_secs(100)).unwrap();
            alarm.set(Duration::from_micros(300)).unwrap();
            alarm.expired().await.unwrap();
            assert!(start.elapsed() >= Duration::from_micros(300));
        }
    }
}
