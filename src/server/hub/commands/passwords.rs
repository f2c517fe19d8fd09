//! Commands that need a password: what they have in common. Hashing happens outside the hub:
//! the connection waits, and the outcome arrives as an input (`pending.rs`). The hub
//! keeps no password.

use std::time::Duration;

use super::logout::leave;
use crate::protocol::{ErrorCode, Farewell, Refusal};
use crate::server::auth::passwords::{Job, Outcome};
use crate::server::clock::Now;
use crate::server::hub::context::{Context, Request, refusal};
use crate::server::hub::state::State;
use crate::server::hub::state::connections::Connection;
use crate::server::hub::state::delayed_checks::DelayedCheck;
use crate::server::hub::state::password_throttle::{Guarded, Target, Wait};
use crate::server::hub::state::pending::{PasswordRequest, PendingRequest, Purpose};
use crate::server::net::ConnId;
use crate::server::net::peer::Peer;

/// The text of the refusal of passwords over unencrypted connections.
pub(super) const INSECURE: &str = "passwords are not accepted over unencrypted \
    connections; use TLS, or connect from the server's machine";

/// Refuses passwords over unencrypted connections, except from loopback or with
/// `--allow-insecure-passwords`.
pub(super) fn require_privacy(state: &State, req: &Request<'_>) -> Result<(), Refusal> {
    if is_private(state, req) || req.limits.allow_insecure_passwords {
        return Ok(());
    }
    refusal(ErrorCode::Insecure, INSECURE)
}

/// Returns whether the connection is encrypted or from loopback.
pub(super) fn is_private(state: &State, req: &Request<'_>) -> bool {
    state.connections[req.connection].peer.is_some_and(Peer::is_private)
}

/// Checks a password, delayed by the throttle if earlier attempts were wrong.
pub(super) fn check_password(
    state: &mut State,
    req: &mut Request<'_>,
    purpose: Purpose,
    at: Guarded,
    job: Job,
) -> Result<(), Refusal> {
    let connection = &state.connections[req.connection];
    if connection.is_greeting() && connection.login_deadline <= req.now.since_start {
        // Otherwise queued attempts would extend the login timeout.
        let socket = req.socket;
        leave(state, req, socket, Some(Farewell::LoginTimeout), None);
        return Ok(());
    }
    // Delayed attempts come first: a later attempt must not overtake them.
    start_due_checks(state, req);
    let (now, socket) = (req.now.since_start, req.socket);
    let Some(peer) = state.connections[req.connection].peer else { return Ok(()) };
    let is_one_source = req.limits.apply_to(peer);
    let target = Target { at, network: peer.network(), is_one_source };
    match state.password_throttle.begin(now, socket, &target) {
        Ok(()) => req.turn.hash(socket, job),
        Err(wait) if is_too_long(state, req, wait, &target, None) => return too_many_attempts(),
        Err(wait) => state.delayed_checks.add(retry_at(now, wait), socket, job, target),
    }
    wait_for_password(state, req, purpose);
    Ok(())
}

/// Hashes a new password. Rate-limited per address: hashing is expensive, and accounts
/// stay.
pub(super) fn hash_new(
    state: &mut State,
    req: &mut Request<'_>,
    purpose: Purpose,
) -> Result<(), Refusal> {
    let peer = state.connections[req.connection].peer;
    let peer = peer.filter(|peer| req.limits.apply_to(*peer));
    let now = req.now.since_start;
    if peer.is_some_and(|peer| !state.new_passwords.may_go_on(now, peer.network())) {
        let text = "too many new passwords from your address; try again in a minute";
        return refusal(ErrorCode::RateLimited, text);
    }
    let socket = req.socket;
    req.turn.hash(socket, Job::Hash);
    wait_for_password(state, req, purpose);
    Ok(())
}

fn wait_for_password(state: &mut State, req: &mut Request<'_>, purpose: Purpose) {
    let request = PasswordRequest { cid: req.cid.take(), purpose };
    state.connections.wait_for(req.connection, PendingRequest::Password(request));
}

/// Returns whether too many attempts are queued already. Attempts that only wait for
/// running checks are not limited: each would wait long.
fn is_too_long(
    state: &State,
    ctx: &Context<'_>,
    wait: Wait,
    target: &Target,
    of: Option<&DelayedCheck>,
) -> bool {
    matches!(wait, Wait::Until(_))
        && state.delayed_checks.is_queue_full(target, of, ctx.limits.guesses_waiting)
}

/// Starts the delayed checks that are due.
pub(in crate::server::hub) fn start_due_checks(state: &mut State, ctx: &mut Context<'_>) {
    while let Some(delayed) = state.delayed_checks.next(ctx.now.since_start) {
        start_delayed_check(state, ctx, delayed);
    }
}

/// Starts a delayed check, delays it again, or refuses it, and goes on with the next check
/// of the same target. Where checks wait for running ones, the first is the only one
/// looked at, so that an attempt costs the same however many wait.
fn start_delayed_check(state: &mut State, ctx: &mut Context<'_>, delayed: DelayedCheck) {
    let (socket, target, ticket) = (delayed.conn, delayed.target.clone(), delayed.ticket);
    let now = ctx.now.since_start;
    // A connection that has closed has nothing to check.
    if state.connections.find(socket).is_some_and(Connection::is_pending) {
        match state.password_throttle.begin(now, socket, &target) {
            Ok(()) => ctx.turn.hash(socket, delayed.job),
            Err(wait) if is_too_long(state, ctx, wait, &target, Some(&delayed)) => {
                refuse_waiting(state, ctx, socket);
            }
            Err(wait) => {
                state.delayed_checks.put_back(retry_at(now, wait), delayed);
                if wait == Wait::ForOthers {
                    return;
                }
            }
        }
    }
    state.delayed_checks.release_next(now, &target, ticket);
}

/// Refuses an attempt that waits.
fn refuse_waiting(state: &mut State, ctx: &mut Context<'_>, socket: ConnId) {
    let Some(mut req) = ctx.request(state, socket) else { return };
    if let Some(PasswordRequest { cid, .. }) = take_password_request(state, &req)
        && let Err(refusal) = too_many_attempts()
    {
        req.cid = cid;
        state.connections.note_refused_login(req.connection);
        req.refuse(&refusal);
        // Its input is handled again once this was written.
        req.turn.notify_when_drained(socket);
    }
}

/// Takes the pending request of a connection that waits for a password.
pub(super) fn take_password_request(
    state: &mut State,
    req: &Request<'_>,
) -> Option<PasswordRequest> {
    state.connections.take_pending(req.connection, |request| match request {
        PendingRequest::Password(request) => Ok(request),
        other => Err(other),
    })
}

/// Reports the outcome of an attempt to the throttle, also when the connection is
/// closed, and releases attempts that waited for it.
pub(in crate::server::hub) fn record_attempt(
    state: &mut State,
    now: Now,
    socket: ConnId,
    outcome: &Outcome,
) {
    let is_right = match outcome {
        Outcome::Checked(is_right) => Some(*is_right),
        Outcome::Hashed(_) | Outcome::Busy => None,
    };
    if let Some(target) = state.password_throttle.end(now.since_start, socket, is_right) {
        state.delayed_checks.release_after(now.since_start, &target);
    }
}

/// Returns when a delayed attempt is tried again. Attempts that wait for running checks are
/// released by `record_attempt`; the minute is only a fallback.
fn retry_at(now: Duration, wait: Wait) -> Duration {
    match wait {
        Wait::Until(retry_at) => retry_at,
        Wait::ForOthers => now + Duration::from_mins(1),
    }
}

pub(super) fn too_many_attempts() -> Result<(), Refusal> {
    let text = "too many password attempts are waiting; try again in a minute";
    refusal(ErrorCode::RateLimited, text)
}
