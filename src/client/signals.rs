//! The signals that ask a program to leave, so that it says goodbye first.

use std::io;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Exit;

/// How long saying goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);

/// The signals that ask us to leave.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From now on they do not end the process.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
            _ = self.hang_up.recv() => Exit::HungUp,
        }
    }
}

/// Hears that the process goes on after it was stopped.
pub(super) fn continued() -> io::Result<Signal> {
    // SIGCONT, which tokio has no name for.
    signal(SignalKind::from_raw(nix::sys::signal::Signal::SIGCONT as i32))
}

/// The first of these signals, for somebody who may be held up when it comes, as
/// by a full pipe: at the second one, or after a while, the process ends anyway.
pub(super) fn insisting() -> io::Result<mpsc::Receiver<Exit>> {
    let (told, signals) = mpsc::channel(1);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the thread runs, so that none is missed.
    let mut listening = {
        let _guard = runtime.enter();
        Signals::listen()?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            let exit = listening.next().await;
            let _ = told.send(exit).await;
            let _ = tokio::time::timeout(GOODBYE_TIMEOUT, listening.next()).await;
            std::process::exit(exit as i32);
        });
    });
    Ok(signals)
}
