//! A one-shot timer with microsecond resolution (`timerfd`). tokio's timers have milliseconds, and
//! with them the runtime reads the clock twice per wake-up, so the server does without.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A one-shot timer.
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
    /// Creates a timer that is not set.
    ///
    /// # Errors
    /// The system provides none.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        // Deprecated because a type could return a wrong descriptor, which this one does not;
        // the replacement is an unsafe function.
        #[allow(deprecated)]
        AsyncFd::with_interest(TimerDescriptor(timer), Interest::READABLE).map(Self)
    }

    /// Sets the timer to expire once after this time, at least a nanosecond; replaces an earlier
    /// setting.
    ///
    /// # Errors
    /// The system call failed.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let after = after.max(Duration::from_nanos(1)); // 0 would disarm it
        let once = Expiration::OneShot(TimeSpec::from_duration(after));
        Ok(self.0.get_ref().0.set(once, TimerSetTimeFlags::empty())?)
    }

    /// Returns whether the timer has expired since this last returned that it has. If not, the
    /// task is woken when it does.
    ///
    /// # Errors
    /// The descriptor cannot be polled.
    pub fn poll_expired(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_read_ready(context))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// Waits for a time; replaces an earlier setting.
    ///
    /// # Errors
    /// The timer cannot be set or polled.
    pub async fn wait(&self, time: Duration) -> io::Result<()> {
        self.set(time)?;
        poll_fn(|context| self.poll_expired(context)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn timer_expires_each_time_it_is_set_and_not_before() {
        let timer = Timer::new().unwrap();
        timer.wait(Duration::ZERO).await.unwrap();
        for _ in 0..5 {
            let start = Instant::now();
            timer.set(Duration::from_secs(100)).unwrap();
            timer.wait(Duration::from_micros(300)).await.unwrap();
            assert!(start.elapsed() >= Duration::from_micros(300));
        }
    }
}
