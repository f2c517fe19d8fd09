//! Signals: SIGTERM and SIGINT shut the server down, SIGHUP reloads the TLS certificate.
//!
//! Graceful shutdown: the first signal stops accepting and makes the reactor send a farewell to
//! every client, flush the outboxes and commit what is left. A second signal ends the process
//! at once; repeats within [`REPEAT`] of the first count as the same signal.

use std::future::poll_fn;
use std::io;
use std::process::exit;
use std::task::Poll;
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{JoinHandle, spawn_blocking};

use super::audit;
use super::net::tls::Identity;
use super::reactor::ReactorInput;
use crate::ignored_signals::{REPEAT, is_ignored, unless_ignored};

/// The signals that shut the server down: SIGTERM and SIGINT, except those that were ignored
/// when the process started.
pub(super) struct ShutdownSignals(Vec<(Signal, i32)>);

impl ShutdownSignals {
    pub(super) fn listen() -> io::Result<Self> {
        let mut signals = Vec::new();
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let code = 128 + kind.as_raw_value();
            signals.extend(unless_ignored(kind)?.map(|signal| (signal, code)));
        }
        Ok(Self(signals))
    }

    /// Stops accepting and the server loop at the first signal; exits at a second one.
    pub(super) async fn shut_down(
        mut self,
        accepting: Vec<JoinHandle<()>>,
        inputs: UnboundedSender<ReactorInput>,
    ) {
        let code = self.next().await;
        let first = Instant::now();
        for task in accepting {
            task.abort();
        }
        let _ = inputs.send(ReactorInput::Stop); // fails if the loop has already ended
        while first.elapsed() < REPEAT {
            self.next().await;
        }
        // A second signal: exit at once, without waiting for the remaining farewells.
        exit(code);
    }

    /// Waits for the next signal; returns the exit code that stands for it.
    async fn next(&mut self) -> i32 {
        poll_fn(|context| {
            let mut signals = self.0.iter_mut();
            let code = signals
                .find_map(|(signal, code)| signal.poll_recv(context).is_ready().then_some(*code));
            code.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The signal that reloads the TLS certificate: SIGHUP.
pub(super) struct HangUp {
    signal: Signal,
    was_ignored: bool,
}

impl HangUp {
    pub(super) fn listen() -> io::Result<Self> {
        let was_ignored = is_ignored(SignalKind::hangup().as_raw_value());
        Ok(Self { signal: signal(SignalKind::hangup())?, was_ignored })
    }

    /// Reloads the TLS certificate at every SIGHUP. Established connections keep the old one.
    pub(super) async fn reload(
        mut self,
        mut identity: Option<Identity>,
        inputs: UnboundedSender<ReactorInput>,
    ) -> io::Result<()> {
        // `nohup` makes a process ignore SIGHUP; respect that unless there is something to
        // reload.
        if identity.is_none() && self.was_ignored {
            return Ok(());
        }
        while self.signal.recv().await.is_some() {
            let Some(mut current) = identity.take() else {
                let line = "SIGHUP: nothing to reload, this server has no TLS certificate";
                audit::write(line.to_owned());
                continue;
            };
            // Reading from a slow disk must not block the loop.
            let reading = spawn_blocking(move || {
                let (offer, report) = current.reload();
                audit::write(report);
                (current, offer)
            });
            let (current, offer) = reading.await.map_err(io::Error::other)?;
            identity = Some(current);
            if let Some(offer) = offer {
                let _ = inputs.send(ReactorInput::Offer(offer)); // the loop may have ended
            }
        }
        Ok(())
    }
}
