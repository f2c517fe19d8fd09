//! `chatty serve`: opens the listeners (`listening.rs`) and the log, and runs the server loop
//! until a shutdown signal arrives (`signals.rs`).
//!
//! From the network inwards: a [`net::connection`] owns one socket, whose bytes pass through
//! a [`net::stream`] (plain TCP or TLS); its [`net::outbox`] holds the bytes that wait to be
//! written. The [`reactor`] drains the sockets, passes each line to the [`hub`], commits the
//! records of a [`turn`] to the [`store`], and then releases the turn's effects. [`auth`] holds
//! tokens and passwords, which the hub and a turn must not contain. [`limits`] declares every
//! configurable limit, [`store::options`] the location and retention of the log, and
//! [`net::tls`] the certificate.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::unconstrained;

pub use self::arguments::ServeArgs;
use self::audit::AuditLog;
use self::auth::passwords::Hashers;
use self::auth::tokens::{Seed, Tokens};
use self::clock::Now;
use self::hub::Hub;
use self::listening::{
    describe_addresses, describe_join, listen, raise_descriptor_limit, start_accepting,
};
use self::net::tls::Identity;
use self::reactor::{Reactor, ReactorInput};
use self::signals::{HangUp, ShutdownSignals};
use self::store::Snapshot;
use self::store::memory::MemoryLog;
use self::store::sqlite::{self, SqliteLog};
use crate::ignored_signals::ignore_user_signals;

mod arguments;
pub mod audit;
pub mod auth;
pub mod clock;
pub mod hub;
mod id_map;
pub mod limits;
mod listening;
pub mod net;
pub mod reactor;
pub mod record;
mod signals;
pub mod store;
pub mod turn;

/// Runs a server until it is shut down.
///
/// # Errors
/// A listener or the log cannot be opened, or writing to the log failed.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    // Started first, so that it is dropped last.
    let _log = AuditLog::start().context("cannot start")?;
    let descriptors = raise_descriptor_limit();
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start")?
        .block_on(serve(args, descriptors))
}

async fn serve(args: ServeArgs, descriptors: usize) -> anyhow::Result<()> {
    // Registered early: a signal that arrives while the log is being opened must not end the
    // process.
    ignore_user_signals().context("cannot start")?;
    let hang_up = HangUp::listen().context("cannot start")?;
    let listeners = listen(&args.bind, args.port)?;
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    let port = addresses.first().map_or(args.port, SocketAddr::port);
    let folder = args.storage.folder(args.port)?;
    let (log, hub) = open(&args, folder.as_deref())?;
    let is_tls_only = args.tls.is_only();
    let (identity, offer) = args.tls.open(folder.as_deref())?.unzip();
    let (inputs, incoming) = mpsc::unbounded_channel();
    // Before the ready line is printed.
    let signals = ShutdownSignals::listen().context("cannot start")?;
    let hashers = Hashers::start().context("cannot start")?;
    let mut seed = Seed::default();
    getrandom::fill(&mut seed).context("the system provides no random numbers")?;
    let auth = (hashers, Tokens::new(seed));
    audit::write(describe_addresses(&addresses));
    audit::write(describe_join(&args.bind, port, is_tls_only));
    audit::write(describe_storage(folder.as_deref()));
    let remark = log.as_ref().and_then(SqliteLog::remark).map(str::to_owned);
    let introduction = identity.as_ref().map(Identity::describe);
    remark.into_iter().chain(introduction).for_each(audit::write);
    if let Some(offer) = offer {
        // Queued before the first connection can be accepted.
        let _ = inputs.send(ReactorInput::Offer(offer));
    }
    tokio::spawn(hang_up.reload(identity, inputs.clone()));
    let accepting = start_accepting(listeners, &args.limits, &inputs).context("cannot start")?;
    let stopping = tokio::spawn(signals.shut_down(accepting, inputs.clone()));
    let limits = args.limits;
    let inputs = (inputs, incoming);
    // No other task on this thread needs a fair share, so tokio's cooperative budget is
    // switched off.
    let result = match log {
        Some(log) => {
            unconstrained(Reactor::new(limits, log, hub, auth, descriptors, inputs)?.run()).await
        }
        None => {
            let log = MemoryLog::new(limits.history_messages, limits.history_size);
            unconstrained(Reactor::new(limits, log, hub, auth, descriptors, inputs)?.run()).await
        }
    };
    stopping.abort();
    result
}

/// Opens the log, if it is stored in a folder, and restores the server state from it.
fn open(args: &ServeArgs, folder: Option<&Path>) -> anyhow::Result<(Option<SqliteLog>, Hub)> {
    let (limits, now) = (args.limits.clone(), Now::since(Instant::now()));
    let Some(folder) = folder else {
        return Ok((None, Hub::new(limits, &Snapshot::default(), now)?));
    };
    let (log, snapshot) = args.storage.open(folder)?;
    let hub = Hub::new(limits, &snapshot, now).map_err(|unreadable| {
        let (file, collection, key) =
            (folder.join(sqlite::FILE), unreadable.collection.as_str(), unreadable.key);
        anyhow!(
            "cannot read the stored state in {0}: {unreadable}; restore the file from a backup, \
             or delete this entry: \
             sqlite3 {0} \"DELETE FROM kept WHERE shelf = '{collection}' AND key = {key}\"",
            file.display()
        )
    })?;
    Ok((Some(log), hub))
}

/// Returns where messages are stored.
fn describe_storage(folder: Option<&Path>) -> String {
    match folder {
        Some(folder) => format!("messages are stored in {}", folder.display()),
        None => "messages are kept in memory only (--ephemeral)".to_owned(),
    }
}
