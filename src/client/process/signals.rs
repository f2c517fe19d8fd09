//! The signals that end the client, so that it can log out first. It does not know how to
//! log out.

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout};

use super::exit::Exit;
use crate::ignored_signals::{REPEAT, ignore_user_signals, unless_ignored};

/// How long logging out may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);

/// The signals that end the client: SIGINT, SIGTERM and SIGHUP.
pub(in crate::client) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Signals {
    /// Handles the signals from now on, instead of letting them end the process, and
    /// ignores the user signals. Signals that were ignored stay ignored.
    pub(in crate::client) fn listen() -> io::Result<Self> {
        ignore_user_signals()?;
        Ok(Self {
            interrupt: unless_ignored(SignalKind::interrupt())?,
            terminate: unless_ignored(SignalKind::terminate())?,
            hang_up: unless_ignored(SignalKind::hangup())?,
        })
    }

    /// Returns signals that never arrive, for tests.
    #[cfg(test)]
    pub(in crate::client) fn none() -> Self {
        Self { interrupt: None, terminate: None, hang_up: None }
    }

    /// Waits for the next signal.
    pub(in crate::client) async fn next(&mut self) -> Exit {
        tokio::select! {
            () = received(&mut self.interrupt) => Exit::Interrupted,
            () = received(&mut self.terminate) => Exit::Terminated,
            () = received(&mut self.hang_up) => Exit::HungUp,
        }
    }
}

async fn received(awaited: &mut Option<Signal>) {
    match awaited {
        Some(awaited) => drop(awaited.recv().await),
        None => pending().await,
    }
}

/// Listens for the process being continued after it was stopped.
pub(in crate::client) fn continued() -> io::Result<Signal> {
    // tokio has no name for SIGCONT.
    signal(SignalKind::from_raw(nix::sys::signal::Signal::SIGCONT as i32))
}

/// Makes sure that a signal ends the process even if the logout is blocked, e.g. by a full
/// pipe: the process ends after [`GOODBYE_TIMEOUT`], or at a further signal that is not a
/// [`REPEAT`] of the first.
pub(in crate::client) fn exit_on_second_signal() -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the thread starts, so that no signal is missed.
    let mut signals = {
        let _guard = runtime.enter();
        Signals::listen()?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            let exit = signals.next().await;
            let first = Instant::now();
            let further = async {
                loop {
                    signals.next().await;
                    if first.elapsed() >= REPEAT {
                        return;
                    }
                }
            };
            let _ = timeout(GOODBYE_TIMEOUT, further).await;
            std::process::exit(exit as i32);
        });
    });
    Ok(())
}
