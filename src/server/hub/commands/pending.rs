//! Requests that go on: the messages and outcomes they waited for have arrived. Much may have
//! changed meanwhile, so each checks again what it may do.

use std::time::Duration;

use super::accounts::{
    change_hash, create_account, delete_account, log_in_account, log_in_with_mail,
};
use super::gate::{Storage, storage_full};
use super::login::{log_in_guest, require_free_name};
use super::long_reply::require_readable;
use super::passwords::{take_password_request, too_many_attempts};
use super::posting::accept_account;
use super::rooms::{JoinKey, join_with};
use super::session::resume_with_row;
use super::{
    ErrorReason, PendingRequest, Purpose, Request, Result, State, UserIx, catch_up, long_reply,
    refusal, server_admin,
};
use crate::server::auth::passwords::Outcome;
use crate::server::hub::state::pending::PasswordRequest;
use crate::server::store::ReadResult;

/// After how long a password that was not hashed because too many wait can be tried again:
/// enough for those of one address.
const HASHING_WAIT: Duration = Duration::from_secs(10);

/// Goes on with the pending request of a connection, which has read from the log. Returns
/// whether there is one; otherwise a catch-up has read.
pub(in crate::server::hub) fn go_on_with_rows(
    state: &mut State,
    req: &mut Request<'_>,
    rows: &ReadResult,
) -> bool {
    let request = state.connections.take_pending(req.connection, |request| match request {
        PendingRequest::Reply(reply) if !reply.is_reading => Err(PendingRequest::Reply(reply)),
        password @ PendingRequest::Password(_) => Err(password),
        reads => Ok(reads),
    });
    let result = match request {
        Some(PendingRequest::Reply(reply)) => {
            let result = long_reply::send_read_page(state, req, reply, rows);
            if result.is_err() {
                catch_up::begin_after_reply(state, req);
            }
            result
        }
        Some(PendingRequest::Mail(mut request)) => {
            req.cid = request.cid.take();
            let result = require_readable(rows);
            let result = result.and_then(|()| log_in_with_mail(state, req, &request.proof, rows));
            if result.is_err() {
                state.connections.note_refused_login(req.connection);
            }
            result
        }
        Some(PendingRequest::Resume(mut request)) => {
            req.cid = request.cid.take();
            let result = require_readable(rows);
            result.and_then(|()| resume_with_row(state, req, &request, &rows.records))
        }
        _ => return false,
    };
    if let Err(refusal) = result {
        req.refuse(&refusal);
    }
    true
}

/// Continues a command after its password was checked or hashed.
pub(in crate::server::hub) fn go_on_with_password(
    state: &mut State,
    req: &mut Request<'_>,
    storage: Storage,
    outcome: &Outcome,
) {
    let Some(PasswordRequest { cid, purpose }) = take_password_request(state, req) else { return };
    req.cid = cid;
    if let Err(refusal) = apply(state, req, storage, purpose, outcome) {
        state.connections.note_refused_login(req.connection);
        req.refuse(&refusal);
    }
}

fn apply(
    state: &mut State,
    req: &mut Request<'_>,
    storage: Storage,
    purpose: Purpose,
    outcome: &Outcome,
) -> Result {
    let user = state.connections[req.connection].user();
    let is_done = matches!(outcome, Outcome::Checked(true) | Outcome::Hashed(Some(_)));
    if let Some(user) = user.filter(|_| is_done)
        && storage == Storage::Closed
        && changes_stored(state, user, &purpose)
    {
        return Err(storage_full());
    }
    match (user, outcome) {
        (None, Outcome::Checked(true)) => complete_login(state, req, purpose),
        (Some(user), Outcome::Checked(is_right)) => {
            apply_check(state, req, user, purpose, *is_right)
        }
        (Some(user), Outcome::Hashed(Some(hash))) => {
            if let Some(peer) = state.connections[req.connection].peer {
                state.password_throttle.note_new(req.now.since_start, hash.clone(), peer);
            }
            match purpose {
                Purpose::Change => change_hash(state, req, user, hash.clone()),
                _ => create_account(state, req, user, hash.clone()),
            }
            Ok(())
        }
        (None, Outcome::Checked(false)) => {
            let again = if matches!(purpose, Purpose::Post(_)) { "/auth" } else { "/login" };
            let text = format!("that is not the password; try again with {again} NAME PASSWORD");
            refusal(ErrorReason::BadPassword, text)
        }
        (_, Outcome::Busy) => Err(too_many_attempts(HASHING_WAIT)),
        (_, Outcome::Hashed(_)) => {
            refusal(ErrorReason::TooMany, "the server cannot hash passwords now; try again later")
        }
    }
}

/// Returns whether continuing the request changes stored state.
fn changes_stored(state: &State, user: UserIx, purpose: &Purpose) -> bool {
    match purpose {
        Purpose::Register | Purpose::Change | Purpose::Unregister | Purpose::ServerOperator => true,
        Purpose::Enter(..) => super::gate::is_stored(state, user),
        Purpose::LogIn(_) | Purpose::LogInGuest(_) | Purpose::Post(_) => false,
    }
}

/// Completes a login after its password has matched.
fn complete_login(state: &mut State, req: &mut Request<'_>, purpose: Purpose) -> Result {
    match purpose {
        Purpose::LogIn(proof) => log_in_account(state, req, proof),
        Purpose::Post(proof) => accept_account(state, req, &proof),
        // Another user may have taken the name meanwhile.
        Purpose::LogInGuest(name) => {
            let name = require_free_name(state, name, None)?;
            log_in_guest(state, req, &name);
            Ok(())
        }
        _ => wrong_password(),
    }
}

/// Applies the outcome of a check for a user who is logged in.
fn apply_check(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    purpose: Purpose,
    is_right: bool,
) -> Result {
    match purpose {
        Purpose::Unregister if is_right => {
            delete_account(state, req, user);
            Ok(())
        }
        Purpose::ServerOperator => {
            let result =
                if is_right { server_admin::grant(state, req, user) } else { wrong_password() };
            let now = req.now;
            req.audit.note_oper(state, now, user, result.as_ref().err());
            result
        }
        Purpose::Enter(room, digest) => {
            let key = JoinKey::Checked { digest: &digest, is_right };
            join_with(state, req, user, &room, key)
        }
        _ => wrong_password(),
    }
}

fn wrong_password() -> Result {
    refusal(ErrorReason::BadPassword, "that is not the password; try again")
}
