//! The signals that ask a program to leave, so that it says goodbye first.

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout};

use super::Exit;
use crate::ignored_signals::{REPEAT, ignore_user_signals, unless_ignored};

/// How long saying goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);

/// The signals that ask us to leave.
pub(super) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Signals {
    /// From now on they do not end the process, nor do those that mean nothing to us.
    /// What was ignored stays so.
    pub(super) fn listen() -> io::Result<Self> {
        ignore_user_signals()?;
        Ok(Self {
            interrupt: unless_ignored(SignalKind::interrupt())?,
            terminate: unless_ignored(SignalKind::terminate())?,
            hang_up: unless_ignored(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Exit {
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

/// Hears that the process goes on after it was stopped.
pub(super) fn continued() -> io::Result<Signal> {
    // SIGCONT, which tokio has no name for.
    signal(SignalKind::from_raw(nix::sys::signal::Signal::SIGCONT as i32))
}

/// Makes sure that a signal ends the process, also where something holds the goodbye
/// up, such as a full pipe: at a further signal, unless it is a [`REPEAT`], or after a
/// while, the process ends without it.
pub(super) fn insist() -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the thread runs, so that none is missed.
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
