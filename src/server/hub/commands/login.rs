//! Login of guests, and names: which are valid and free. Logins with a password are in
//! `accounts.rs`.

use super::bans::{reject_banned, room_ban_on};
use super::locks::{Entry, require_entry};
use super::rights::operators_online;
use super::rooms::enter_checked;
use super::{
    ErrorReason, Key, LOBBY, List, Name, Refusal, Reply, Request, Result, State, UserId, UserIx,
    refusal,
};
use crate::protocol::reply::Arrival;

/// Logs in with a name and without a password.
pub(super) fn log_in_without_password(
    state: &mut State,
    req: &mut Request<'_>,
    name: &Name,
) -> Result {
    if state.accounts.named(name.key()).is_some() {
        let text = format!(
            "{name} is registered; type /login {name} PASSWORD, or choose another name with \
             /login NAME"
        );
        return refusal(ErrorReason::BadPassword, text);
    }
    if req.limits.password.is_some() {
        let text = format!("this server needs a password; type /login {name} PASSWORD");
        return refusal(ErrorReason::BadPassword, text);
    }
    let name = require_free_name(state, name.clone(), None)?;
    log_in_guest(state, req, &name);
    Ok(())
}

/// Logs in a guest unless they are banned.
pub(super) fn log_in_guest(state: &mut State, req: &mut Request<'_>, name: &Name) {
    let user_id = state.users.next_id();
    if !reject_banned(state, req, user_id, name) {
        add_user(state, req, user_id, name);
    }
}

/// Creates the user of this connection and joins them to the lobby.
pub(super) fn add_user(state: &mut State, req: &mut Request<'_>, user_id: UserId, name: &Name) {
    let user = state.log_in(req.now, req.connection, user_id, name);
    // A user who is banned or locked out of #lobby stays logged in, in no room.
    let entry = require_entry(state, req.now, user, LOBBY);
    let operators;
    let arrival = match &entry {
        Ok(Entry::Open) => Arrival::Lobby,
        Ok(Entry::ByKey(_)) => Arrival::LobbyNeedsKey,
        Err(_) => match room_ban_on(state, req.now, user, LOBBY) {
            Some(ban) => Arrival::LobbyBanned(ban.term()),
            None => {
                operators = operators_online(state, LOBBY).unwrap_or_default();
                Arrival::LobbyLocked(List(&operators))
            }
        },
    };
    req.reply(Reply::Welcome { name: name.as_str(), arrival: Some(arrival) });
    if arrival == Arrival::Lobby {
        enter_checked(state, req, user, LOBBY);
    }
}

/// Parses a name for a new user, or for `mine`. A registered name is accepted even if
/// the rules for names have become stricter since.
pub(super) fn read_name(state: &State, text: &str, mine: Option<UserIx>) -> Result<Name> {
    let account = state.accounts.named(&Key::fold(text));
    let known = account.and_then(|_| Name::known(text).ok());
    known.map_or_else(|| Name::parse(text), Ok).map_err(|fault| {
        let text = format!("{fault}; {}", name_advice(mine));
        Refusal::new(ErrorReason::BadName, text)
    })
}

/// Refuses a name that another user or account has, or that is confusable with such a
/// name; `mine` may keep its own.
pub(super) fn require_free_name(state: &State, name: Name, mine: Option<UserIx>) -> Result<Name> {
    let other = name_advice(mine);
    let me = mine.map(|mine| state.users[mine].id);
    let owner = state.accounts.named(name.key()).map(|account| account.person);
    if owner.is_some() && owner != me {
        let text = format!("{name} is registered; {other}");
        return refusal(ErrorReason::NameTaken, text);
    }
    let holder = state.users.holder(name.key()).filter(|holder| Some(*holder) != mine);
    if let Some(holder) = holder {
        let text = format!(
            "{} is in use; {other}, or retry in a minute if your connection just dropped",
            state.users[holder].name
        );
        return refusal(ErrorReason::NameTaken, text);
    }
    match confusable_with(state, &name, me) {
        Some(similar) => {
            let text = format!("{name} is too easily confused with {similar}; {other}");
            refusal(ErrorReason::NameTaken, text)
        }
        None => Ok(name),
    }
}

/// Returns the name of another user or account that is confusable with this one: their
/// UTS 39 skeletons are equal.
fn confusable_with(state: &State, name: &Name, me: Option<UserId>) -> Option<Name> {
    name.skeletons().find_map(|skeleton| {
        let here = state.users.confusable_with(&skeleton).map(|user| &state.users[user]);
        let here = here.map(|user| (user.id, &user.name));
        let owner = || state.accounts.confusable_with(&skeleton).map(|a| (a.person, &a.name));
        let similar = here.or_else(owner).filter(|(user_id, _)| Some(*user_id) != me);
        similar.map(|(_, name)| name.clone())
    })
}

/// Advice where a name is refused: after a refused login only `/login` is read as a name.
fn name_advice(mine: Option<UserIx>) -> &'static str {
    match mine {
        Some(_) => "choose another name",
        None => "choose another with /login NAME",
    }
}
