//! Accounts: `/register`, `/passwd`, `/unregister`, and `/login` with a password. Waiting mail is
//! delivered with the login.

use std::sync::Arc;

use super::bans::reject_banned;
use super::login::{add_user, log_in_without_password, read_name, require_free_name};
use super::logout::disconnect_user;
use super::passwords::{check_password, hash_new, require_privacy};
use super::{
    ErrorReason, Farewell, Name, PendingRequest, Purpose, ReadRequest, Reply, Request, Result,
    State, Target, Thread, UserId, UserIx, long_reply, refusal,
};
use crate::commands::Command;
use crate::protocol::LOGIN_LINE_MAX;
use crate::server::hub::state::accounts::{Account, Proof};
use crate::server::hub::state::pending::MailRequest;
use crate::server::store::ReadResult;

/// Messages of the mailbox that are read before the login.
const MAIL_AT_ONCE: usize = 64;

/// `/login`, or a bare name.
pub(super) fn log_in(
    state: &mut State,
    req: &mut Request<'_>,
    name: &str,
    password: Option<&str>,
) -> Result {
    let result = read_name(state, name.trim(), None).and_then(|name| match password {
        Some(_) => log_in_with_password(state, req, &name),
        None => log_in_without_password(state, req, &name),
    });
    if result.is_err() {
        state.connections.note_refused_login(req.connection);
    }
    result
}

fn log_in_with_password(state: &mut State, req: &mut Request<'_>, name: &Name) -> Result {
    require_privacy(state, req)?;
    let Some(account) = state.accounts.named(name.key()) else {
        if let Some(hash) = req.limits.password.clone() {
            // Without the server password a client must not learn which users are online.
            let purpose = Purpose::LogInGuest(name.clone());
            return check_password(state, req, purpose, Target::Password(hash.into()));
        }
        let advice = match require_free_name(state, name.clone(), None) {
            Ok(_) => format!("type /login {name} without a password").into(),
            Err(taken) => taken.text,
        };
        let text = format!("{name} is not registered; {advice}");
        return refusal(ErrorReason::BadPassword, text);
    };
    let hash = account.hash.clone();
    let proof = Proof { person: account.person, hash: hash.clone() };
    check_password(state, req, Purpose::LogIn(proof), Target::Password(hash))
}

/// `/register`.
pub(super) fn register(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    password: &str,
) -> Result {
    require_privacy(state, req)?;
    if let Some(account) = state.accounts.of(state.users[user].id) {
        let text =
            format!("{} is already registered to you; /passwd changes the password", account.name);
        return refusal(ErrorReason::BadArgument, text);
    }
    if state.accounts.len() >= req.limits.max_accounts {
        let text =
            "the server has reached its limit of accounts; ask its administrator to raise it";
        return refusal(ErrorReason::TooMany, text);
    }
    require_password_fits(&state.users[user].name, password)?;
    hash_new(state, req, Purpose::Register)
}

/// `/passwd`.
pub(super) fn change_password(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    password: &str,
) -> Result {
    require_privacy(state, req)?;
    require_password_fits(&account_of(state, user)?.name, password)?;
    hash_new(state, req, Purpose::Change)
}

/// `/unregister`.
pub(super) fn unregister(state: &mut State, req: &mut Request<'_>, user: UserIx) -> Result {
    require_privacy(state, req)?;
    let target = Target::Password(account_of(state, user)?.hash.clone());
    check_password(state, req, Purpose::Unregister, target)
}

fn account_of(state: &State, user: UserIx) -> Result<&Account> {
    let Some(account) = state.accounts.of(state.users[user].id) else {
        let name = &state.users[user].name;
        let text = format!("{name} is not registered; /register PASSWORD reserves it");
        return refusal(ErrorReason::BadPassword, text);
    };
    Ok(account)
}

/// Refuses a password that does not fit into a `/login` line with the name; the line
/// limit before login is [`LOGIN_LINE_MAX`].
fn require_password_fits(name: &Name, password: &str) -> Result {
    let most = LOGIN_LINE_MAX
        - Command::Login { name: name.as_str(), password: Some("") }.to_string().len();
    if password.len() <= most {
        return Ok(());
    }
    let text = format!(
        "password too long: with the name {name} it may have at most {most} bytes, to fit into \
         /login"
    );
    refusal(ErrorReason::BadArgument, text)
}

/// Creates an account with the hash of its new password.
pub(super) fn create_account(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    hash: Arc<str>,
) {
    state.register(user, hash);
    req.reply(Reply::Registered { name: state.users[user].name.as_str() });
}

pub(super) fn change_hash(state: &mut State, req: &mut Request<'_>, user: UserIx, hash: Arc<str>) {
    if let Some(account) = state.accounts.set_hash(state.users[user].id, hash) {
        req.reply(Reply::PasswordChanged { name: account.name.as_str() });
    }
}

/// Deletes the user's account; the user stays online as a guest.
pub(super) fn delete_account(state: &mut State, req: &mut Request<'_>, user: UserIx) {
    if let Some(account) = state.unregister(user) {
        req.reply(Reply::Unregistered { name: account.name.as_str() });
    }
}

/// Logs in after a successful password check. Waiting mail is read from the log first,
/// so that it is delivered in the same turn as the login.
pub(super) fn log_in_account(state: &mut State, req: &mut Request<'_>, proof: Proof) -> Result {
    if !may_log_in(state, req, &proof)? {
        return Ok(());
    }
    // The first page is short, so that a login does not wait for long reads.
    let ids = state.mail.range(proof.person, 0..=u64::MAX, MAIL_AT_ONCE);
    if ids.is_empty() {
        take_over(state, req, proof.person);
        return Ok(());
    }
    let hidden = state.relations.ignored_ids(proof.person);
    let thread = Thread::Ids { reader: proof.person, ids };
    let (count, size) = (MAIL_AT_ONCE, req.page_size());
    let query = ReadRequest { after: Some(0), hidden, ..ReadRequest::latest(thread, count, size) };
    let request = MailRequest { cid: req.cid.take(), proof };
    state.connections.wait_for(req.connection, PendingRequest::Mail(request));
    req.read(query);
    Ok(())
}

/// Completes a login: the mail follows the member list. The account and its mail may have
/// changed while the mail was read.
pub(super) fn log_in_with_mail(
    state: &mut State,
    req: &mut Request<'_>,
    proof: &Proof,
    rows: &ReadResult,
) -> Result {
    let user_id = proof.person;
    if !may_log_in(state, req, proof)? {
        return Ok(());
    }
    take_over(state, req, user_id);
    long_reply::send_mail(state, req, user_id, rows)
}

/// Returns whether the owner of the account may log in; a banned client gets its farewell.
fn may_log_in(state: &mut State, req: &mut Request<'_>, proof: &Proof) -> Result<bool> {
    let name = unchanged_account(state, proof)?.name.clone();
    Ok(!reject_banned(state, req, proof.person, &name))
}

/// Returns the account, if its password has not changed since the check.
pub(super) fn unchanged_account<'s>(state: &'s State, proof: &Proof) -> Result<&'s Account> {
    let Some(account) = state.accounts.of(proof.person) else {
        let text = "that name is no longer registered; type /login NAME";
        return refusal(ErrorReason::BadPassword, text);
    };
    if account.hash != proof.hash {
        let text = "the password has just been changed; type /login NAME PASSWORD again";
        return refusal(ErrorReason::BadPassword, text);
    }
    Ok(account)
}

/// Brings an account online and replaces its earlier connection, if any.
fn take_over(state: &mut State, req: &mut Request<'_>, person: UserId) {
    let Some(name) = state.accounts.of(person).map(|account| account.name.clone()) else { return };
    if let Some(user) = state.users.find(person) {
        disconnect_user(state, req, user, (Farewell::Replaced, None), None);
    }
    add_user(state, req, person, &name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::auth::passwords::Outcome;
    use crate::server::hub::test_support::{Driver, connect, handle, say};
    use crate::server::hub::{Input, Limits};
    use crate::server::store::Collection;
    use crate::server::store::Snapshot;

    #[test]
    fn account_logs_in_when_its_name_is_no_longer_valid() {
        for name in ["systern", "every0ne", "al\u{903}"] {
            assert!(Name::parse(name).is_err(), "{name}");
            let saved = format!(r#"{{"name":"{name}","hash":"a hash","ignores":[]}}"#);
            let entries = vec![(Collection::Account, 1, saved)];
            let snapshot = Snapshot { entries, ..Snapshot::default() };
            let mut hub = Driver::restored(Limits::default(), &snapshot);
            connect(&mut hub, 0);
            let (_, reply) = say(&mut hub, 0, name);
            let registered = format!("[ERROR bad-password] {name} is registered");
            assert!(reply.text.starts_with(&registered), "{}", reply.text);
            say(&mut hub, 0, &format!("/login {name} secret"));
            let (_, reply) = handle(&mut hub, 0, Input::Hashed(Outcome::Checked(true)));
            assert!(reply.text.starts_with(&format!("[WELCOME {name}]")), "{}", reply.text);
            say(&mut hub, 0, "/nick other");
            let (_, reply) = say(&mut hub, 0, &format!("/nick {name}"));
            assert_eq!(reply.text, format!("* other is now {name}\n"));
            hub.check_invariants();
        }
    }
}
