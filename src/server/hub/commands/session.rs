//! Sessions: `/session` and `/resume`. A user with a session token keeps their name and rooms for
//! `--session-grace` after a disconnect, without an announcement. Messages of that time are in
//! the log; `/resume` starts a catch-up from there.

use std::sync::Arc;

use super::bans::{leave_banned_rooms, reject_banned};
use crate::protocol::{ErrorCode, Event, Farewell, Refusal};
use crate::server::auth::tokens::{TokenHash, hash};
use crate::server::hub::context::{Request, refusal};
use crate::server::hub::state::State;
use crate::server::hub::state::messages::recent::Lookup;
use crate::server::hub::state::pending::{Cursor, PendingRequest, ResumeCheck};
use crate::server::hub::state::users::UserIx;
use crate::server::record::Record;
use crate::server::store::{ReadRequest, Thread};

/// The text is part of the protocol: clients recognize it and read again from the beginning
/// of their login.
fn ids_went_back<T>() -> Result<T, Refusal> {
    refusal(ErrorCode::BadArgument, "ids went back (restored backup?)")
}

/// `/session`. Repeated calls return the same token until the user logs out; `new_token` is
/// that of a session that begins now.
pub(super) fn session(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    new_token: Option<TokenHash>,
) {
    if let Some(token) = new_token {
        state.begin_session(user, token);
    }
    let text =
        "/resume TOKEN ID restores this session after a lost connection; keep the token secret";
    req.reply_token("SESSION", text);
}

/// `/resume`. Nothing changes before the cursor is known to belong to this log.
pub(super) fn resume(
    state: &mut State,
    req: &mut Request<'_>,
    token: &str,
    cursor: Cursor,
) -> Result<(), Refusal> {
    let token = hash(token);
    let Some(user) = user_to_resume(state, req, token)? else { return Ok(()) };
    if cursor.after > state.messages.last_id() {
        return ids_went_back();
    }
    let lookup = match cursor.time.filter(|_| cursor.after > 0) {
        Some(time) => match state.messages.find(cursor.after) {
            Lookup::Found(record) if record.time != time => return ids_went_back(),
            lookup => lookup,
        },
        None => Lookup::NoMessage,
    };
    match lookup {
        // A skipped id has no message, hence no time to compare.
        Lookup::Found(_) | Lookup::NoMessage => attach(state, req, user, cursor.after),
        Lookup::InLog => {
            let request = ResumeCheck { cid: req.cid.take(), token, cursor };
            let thread = Thread::Message { id: cursor.after };
            let (after, hidden) = (None, Vec::new());
            let query = ReadRequest { thread, count: 1, size: usize::MAX, after, hidden };
            state.connections.wait_for(req.connection, PendingRequest::Resume(request));
            let socket = req.socket;
            req.turn.read(socket, query);
        }
    }
    Ok(())
}

/// Completes `/resume` after the message of the cursor was read. The session may have
/// ended meanwhile, or another connection may have resumed it; that connection is
/// replaced.
pub(super) fn resume_with_row(
    state: &mut State,
    req: &mut Request<'_>,
    request: &ResumeCheck,
    found: &[Arc<Record>],
) -> Result<(), Refusal> {
    let Some(user) = user_to_resume(state, req, request.token)? else { return Ok(()) };
    if found.iter().any(|record| Some(record.time) != request.cursor.time) {
        return ids_went_back();
    }
    attach(state, req, user, request.cursor.after);
    Ok(())
}

/// Returns the user of a token; `None` if the user is banned and the connection has
/// been rejected.
fn user_to_resume(
    state: &mut State,
    req: &mut Request<'_>,
    token: TokenHash,
) -> Result<Option<UserIx>, Refusal> {
    let user = state.sessions.find(token).and_then(|user_id| state.users.find(user_id));
    let Some(user) = user else {
        let text = "unknown or ended session; type /login NAME to log in again";
        return refusal(ErrorCode::BadPassword, text);
    };
    let (user_id, name) = (state.users[user].id, state.users[user].name.clone());
    Ok((!reject_banned(state, req, user_id, &name)).then_some(user))
}

/// Attaches this connection to the user; a connection that still has the user is closed
/// as replaced.
fn attach(state: &mut State, req: &mut Request<'_>, user: UserIx, after: u64) {
    if let Some(old) = state.connection_of(user).socket {
        state.connections.close(old);
        req.send_farewell(old, Farewell::Replaced, None);
    }
    state.resume(user, req.socket, after);
    req.connection = state.users[user].connection;
    req.settings = state.connections[req.connection].settings;
    let after = after.max(state.users[user].first);
    let evicted_upto = state.memberships.spans(user).evicted_upto();
    let text = if after < evicted_upto {
        format!("you are back; up to id {evicted_upto}, messages of rooms you left may be missing")
    } else {
        "you are back".to_owned()
    };
    req.reply(&Event::reply("WELCOME", state.users[user].name.as_str(), &text));
    leave_banned_rooms(state, req, user);
    let socket = req.socket;
    req.turn.notify_when_drained(socket);
}
