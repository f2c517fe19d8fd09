//! The signals that ask a program to leave, so that it says goodbye first.

use std::future::pending;
use std::io;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Exit;
use crate::ignored::is_ignored;

/// How long saying goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);

/// The signals that ask us to leave.
pub(super) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Signals {
    /// From now on they do not end the process. What was ignored stays so.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: unless_ignored(SignalKind::interrupt())?,
            terminate: unless_ignored(SignalKind::terminate())?,
            hang_up: unless_ignored(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Exit {
        tokio::select! {
            () = comes(&mut self.interrupt) => Exit::Interrupted,
            () = comes(&mut self.terminate) => Exit::Terminated,
            () = comes(&mut self.hang_up) => Exit::HungUp,
        }
    }
}

fn unless_ignored(kind: SignalKind) -> io::Result<Option<Signal>> {
    if is_ignored(kind.as_raw_value()) { Ok(None) } else { signal(kind).map(Some) }
}

async fn comes(awaited: &mut Option<Signal>) {
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
