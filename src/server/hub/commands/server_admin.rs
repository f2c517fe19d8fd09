//! Server operators. `/oper` with the password makes a user an operator of every room, who
//! may also use `/wall`, `/kill` and the server bans (`bans.rs`).
//!
//! The right belongs to the user. It is stored with a digest of the password hash: a new
//! password revokes all rights.

use super::logout::disconnect_user;
use super::passwords::{INSECURE, check_password, is_private};
use super::rights::{is_server_operator, require_server_operator};
use super::{
    ErrorReason, Farewell, Moderation, Purpose, Request, Result, Scope, State, Target, Topic,
    UserIx, no_such_user, refusal,
};
use crate::server::hub::delivery::{audiences, deferred, event_tags};
use crate::server::hub::state::index::SERVER;

/// `/oper`: starts the check of the password. Never accepted over unencrypted
/// connections, whatever the settings.
pub(super) fn oper(state: &mut State, req: &mut Request<'_>) -> Result {
    let Some(hash) = req.limits.oper_password.clone() else {
        let text = "this server has no operators; start it with --oper-password-file to allow them";
        return refusal(ErrorReason::NoServerOperators, text);
    };
    if !is_private(state, req) {
        return refusal(ErrorReason::Insecure, INSECURE);
    }
    check_password(state, req, Purpose::ServerOperator, Target::Password(hash.into()))
}

/// Grants the right after the password was checked.
pub(super) fn grant(state: &mut State, req: &mut Request<'_>, user: UserIx) -> Result {
    state.drop_expired(req.now, Scope::Server);
    let user_id = state.users[user].id;
    let operators = state.moderation.server().operators.len();
    if operators >= req.limits.max_operators && !is_server_operator(state, user_id) {
        let text = "too many server operators; a new password in --oper-password-file revokes all";
        return refusal(ErrorReason::TooMany, text);
    }
    state.moderation.promote(SERVER, user_id);
    req.reply(Moderation::Oper { name: state.users[user].name.as_str() });
    Ok(())
}

/// `/wall`: sends a text to all users, whatever their settings.
pub(super) fn wall(state: &mut State, req: &mut Request<'_>, user: UserIx, text: &str) -> Result {
    require_server_operator(state, user)?;
    let from = state.users[user].name.clone();
    let event = Moderation::Wall { from: from.as_str(), text }.into();
    let actor = Some(state.users[user].id);
    let tags = event_tags(state, req.now, actor);
    req.reply_tagged(&tags, &event);
    let mut others = state.users.by_id();
    others.retain(|other| *other != user);
    let audience = audiences::of_users(state, others.iter().copied());
    req.turn.fan_out(audience, Topic::Talk, None, Vec::new(), &tags, &event);
    deferred::defer(state, req, others, &tags, &event);
    Ok(())
}

/// `/kill`.
pub(super) fn kill(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    name: &str,
    reason: Option<&str>,
) -> Result {
    require_server_operator(state, user)?;
    let Some(other) = state.users.named(name) else { return no_such_user(name) };
    if other == user {
        return refusal(ErrorReason::BadArgument, "you cannot kill yourself; use /quit");
    }
    let (by, name) = (state.users[user].name.clone(), state.users[other].name.clone());
    let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let farewell = format!("you were disconnected by {by}{why}");
    let quit = format!("killed by {by}{why}");
    disconnect_user(state, req, other, (Farewell::Kicked, Some(&farewell)), Some(&quit));
    req.reply(Moderation::Killed { name: name.as_str() });
    Ok(())
}
