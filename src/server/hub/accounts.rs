//! Accounts: names reserved with a password. An account keeps its [`UserId`] across
//! logins, so authorship, ignores and mail last as long as the account. Password hashing
//! happens outside the hub, and throttling in `password_throttle.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::moderation::Scope;
use super::password_checks::Purpose;
use super::password_throttle::Guarded;
use super::{
    Collection, Context, ErrorCode, Event, Farewell, Hub, Ignored, Key, LOGIN_LINE_MAX, Name,
    Refusal, UserId, UserIx, refusal, send_farewell,
};
use crate::commands::Command;
use crate::server::auth::passwords::{Job, Secret};

#[derive(Debug)]
pub(super) struct Account {
    pub(super) person: UserId,
    pub(super) name: Name,
    /// The password hash, as a PHC string.
    hash: Arc<str>,
    /// The ignored users with their last names. Empty while the account is online; then
    /// the [`User`](super::User) holds them.
    pub(super) ignores: Vec<(UserId, Name)>,
    /// The online users who ignore this account; empty while the account is online.
    pub(super) ignored_by: Vec<UserId>,
}

/// Proof that the account's password was given. It names the hash that was compared, so
/// that a check of an old password does not log in after a password change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) person: UserId,
    /// The hash that the password was compared with.
    hash: Arc<str>,
}

/// The stored form of an account. Fields may be added, but not renamed or removed.
#[derive(Debug, Serialize, Deserialize)]
struct SavedAccount {
    name: Name,
    hash: Arc<str>,
    ignores: Vec<(UserId, Name)>,
}

/// All accounts, indexed by name, user id and skeleton.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    by_name: HashMap<Key, Account>,
    names: HashMap<UserId, Key>,
    /// The account for each of [`Name::skeletons`]; the first account with a skeleton
    /// has the entry.
    by_skeleton: HashMap<Box<str>, Key>,
}

impl Accounts {
    pub(super) fn named(&self, name: &Key) -> Option<&Account> {
        self.by_name.get(name)
    }

    pub(super) fn of(&self, person: UserId) -> Option<&Account> {
        self.by_name.get(self.names.get(&person)?)
    }

    pub(super) fn of_mut(&mut self, person: UserId) -> Option<&mut Account> {
        self.by_name.get_mut(self.names.get(&person)?)
    }

    /// The account whose name has this skeleton.
    pub(super) fn confusable_with(&self, skeleton: &str) -> Option<&Account> {
        self.by_name.get(self.by_skeleton.get(skeleton)?)
    }

    fn insert(&mut self, account: Account) {
        for skeleton in account.name.skeletons() {
            let key = || account.name.key().clone();
            self.by_skeleton.entry(skeleton.into()).or_insert_with(key);
        }
        self.names.insert(account.person, account.name.key().clone());
        self.by_name.insert(account.name.key().clone(), account);
    }

    fn remove(&mut self, person: UserId) -> Option<Account> {
        let account = self.by_name.remove(&self.names.remove(&person)?)?;
        for skeleton in account.name.skeletons() {
            if self.by_skeleton.get(&*skeleton) == Some(account.name.key()) {
                self.by_skeleton.remove(&*skeleton);
            }
        }
        Some(account)
    }

    fn len(&self) -> usize {
        self.by_name.len()
    }
}

impl Hub {
    /// `/login` with a password.
    pub(super) fn log_in_with(
        &mut self,
        ctx: &mut Context<'_>,
        name: &Name,
        password: &str,
    ) -> Result<(), Refusal> {
        self.require_privacy(ctx)?;
        let Some(account) = self.accounts.named(name.key()) else {
            if let Some(hash) = self.limits.password.clone() {
                // Without the server password a client must not learn which users are online.
                let job = Job::Check(Secret::new(password), hash.into());
                let purpose = Purpose::LogInGuest(name.clone());
                return self.check_password(ctx, purpose, Guarded::Server, job);
            }
            let advice = match self.require_free_name(name.clone(), None) {
                Ok(_) => format!("type /login {name} without a password").into(),
                Err(taken) => taken.text,
            };
            let text = format!("{name} is not registered; {advice}");
            return refusal(ErrorCode::BadPassword, text);
        };
        let (proof, job) = account.check(password);
        let at = Guarded::Account(proof.person);
        self.check_password(ctx, Purpose::LogIn(proof), at, job)
    }

    pub(super) fn register(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        password: &str,
    ) -> Result<(), Refusal> {
        self.require_privacy(ctx)?;
        if let Some(account) = self.accounts.of(self.users[user].id) {
            let text = format!(
                "{} is already registered to you; /passwd changes the password",
                account.name
            );
            return refusal(ErrorCode::BadArgument, text);
        }
        if self.accounts.len() >= self.limits.max_accounts {
            let text = "the server has reached its limit of accounts; ask its administrator to \
                        raise it";
            return refusal(ErrorCode::TooMany, text);
        }
        require_password_fits(&self.users[user].name, password)?;
        self.hash_new(ctx, Purpose::Register, password)
    }

    pub(super) fn change_password(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        password: &str,
    ) -> Result<(), Refusal> {
        self.require_privacy(ctx)?;
        require_password_fits(&self.account_of(user)?.name, password)?;
        self.hash_new(ctx, Purpose::Change, password)
    }

    pub(super) fn unregister(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        password: &str,
    ) -> Result<(), Refusal> {
        self.require_privacy(ctx)?;
        let (proof, job) = self.account_of(user)?.check(password);
        self.check_password(ctx, Purpose::Unregister, Guarded::Account(proof.person), job)
    }

    fn account_of(&self, user: UserIx) -> Result<&Account, Refusal> {
        let Some(account) = self.accounts.of(self.users[user].id) else {
            let name = &self.users[user].name;
            let text = format!("{name} is not registered; /register PASSWORD reserves it");
            return refusal(ErrorCode::BadPassword, text);
        };
        Ok(account)
    }

    pub(super) fn create_account(&mut self, ctx: &mut Context<'_>, user: UserIx, hash: Arc<str>) {
        let (person, name) = (self.users[user].id, self.users[user].name.clone());
        self.accounts.insert(Account {
            person,
            name: name.clone(),
            hash,
            ignores: Vec::new(),
            ignored_by: Vec::new(),
        });
        self.unsaved.insert((Collection::Account, person.0));
        // Accounts stay operators of rooms that they have left, so those rooms must be
        // persisted now.
        let rooms = self.rooms.iter().filter(|(_, room)| room.moderation.is_operator(person));
        for room in rooms.map(|(room, _)| room).collect::<Vec<_>>() {
            self.mark_moderation_unsaved(Scope::Room(room));
        }
        let text = "this name is reserved for you; log in with /login NAME PASSWORD from now on";
        ctx.reply(&Event::reply("REGISTERED", name.as_str(), text));
    }

    pub(super) fn change_hash(&mut self, ctx: &mut Context<'_>, user: UserIx, hash: Arc<str>) {
        let Some(account) = self.accounts.of_mut(self.users[user].id) else { return };
        account.hash = hash;
        self.unsaved.insert((Collection::Account, account.person.0));
        ctx.reply(&Event::reply("PASSWD", account.name.as_str(), "password changed"));
    }

    /// Deletes the user's account; the user stays online as a guest.
    pub(super) fn delete_account(&mut self, ctx: &mut Context<'_>, user: UserIx) {
        let Some(account) = self.accounts.remove(self.users[user].id) else { return };
        self.unsaved.insert((Collection::Account, account.person.0));
        self.empty_mailbox(account.person);
        // A guest's operator rights end with the logout, which follows `leads`.
        let rooms =
            self.rooms.iter().filter(|(_, room)| room.moderation.is_operator(account.person));
        for room in rooms.map(|(room, _)| room).collect::<Vec<_>>() {
            self.record_led_room(user, room);
        }
        ctx.reply(&Event::reply(
            "UNREGISTERED",
            account.name.as_str(),
            "the name is no longer reserved",
        ));
    }

    /// Logs in after a successful password check. Waiting mail is read from the log first,
    /// so that it is delivered in the same turn as the login.
    pub(super) fn log_in_account(
        &mut self,
        ctx: &mut Context<'_>,
        proof: Proof,
    ) -> Result<(), Refusal> {
        if !self.may_log_in(ctx, &proof)? {
            return Ok(());
        }
        if self.mail.of(proof.person).is_empty() {
            self.take_over(ctx, proof.person);
        } else {
            self.read_mail(ctx, proof);
        }
        Ok(())
    }

    /// Whether the proof may log in. A banned client gets a farewell and `false`.
    pub(super) fn may_log_in(
        &mut self,
        ctx: &mut Context<'_>,
        proof: &Proof,
    ) -> Result<bool, Refusal> {
        let name = self.unchanged_account(proof)?.name.clone();
        Ok(!self.reject_banned(ctx, proof.person, &name))
    }

    /// The account, if its password has not changed since the check.
    fn unchanged_account(&self, proof: &Proof) -> Result<&Account, Refusal> {
        let Some(account) = self.accounts.of(proof.person) else {
            return refusal(
                ErrorCode::BadPassword,
                "that name is no longer registered; type /login NAME",
            );
        };
        if account.hash != proof.hash {
            let text = "the password has just been changed; type /login NAME PASSWORD again";
            return refusal(ErrorCode::BadPassword, text);
        }
        Ok(account)
    }

    /// Brings an account online and replaces its earlier connection, if any.
    pub(super) fn take_over(&mut self, ctx: &mut Context<'_>, person: UserId) {
        let Some(account) = self.accounts.of(person) else { return };
        let name = account.name.clone();
        if let Some(user) = self.users_by_id.get(&person).copied() {
            if let Some(old) = self.users[user].conn {
                self.close_connection(old);
                send_farewell(ctx.turn, old, Farewell::Replaced, None);
            }
            self.end_user(ctx.now, user, None, ctx.turn);
        }
        self.add_user(ctx, person, &name);
    }

    /// Moves an account's relations to its user at login.
    pub(super) fn attach_relations(&mut self, user: UserIx) {
        let person = self.users[user].id;
        let Some(account) = self.accounts.of_mut(person) else { return };
        let ignores = std::mem::take(&mut account.ignores);
        let ignored_by = std::mem::take(&mut account.ignored_by);
        for other in &ignored_by {
            let Some(other) = self.users_by_id.get(other) else { continue };
            let ignores = &mut self.users[*other].relations.ignores;
            if let Some(ignored) = ignores.iter_mut().find(|ignored| ignored.person == person) {
                ignored.gone = None;
            }
        }
        if !ignored_by.is_empty() {
            self.users[user].relations.ignored_by = ignored_by;
        }
        self.restore_ignores(user, ignores);
    }

    /// Restores ignores at a login or after a restart.
    pub(super) fn restore_ignores(&mut self, user: UserIx, ignores: Vec<(UserId, Name)>) {
        let me = self.users[user].id;
        for (other, name) in ignores {
            if let Some(by) = self.ignored_by(other) {
                by.push(me);
            }
            let gone = (!self.users_by_id.contains_key(&other)).then_some(name);
            self.users[user].relations.ignores.push(Ignored { person: other, gone });
        }
    }

    /// The online users who ignore this user; `None` for a guest who has logged out.
    pub(super) fn ignored_by(&mut self, person: UserId) -> Option<&mut Vec<UserId>> {
        match self.users_by_id.get(&person) {
            Some(user) => Some(&mut self.users[*user].relations.ignored_by),
            None => self.accounts.of_mut(person).map(|account| &mut account.ignored_by),
        }
    }

    /// Marks the user's account, if any, as changed.
    pub(super) fn note_account_unsaved(&mut self, user: UserIx) {
        let person = self.users[user].id;
        if self.accounts.of(person).is_some() {
            self.unsaved.insert((Collection::Account, person.0));
        }
    }

    /// Part of [`Hub::check_invariants`].
    pub(super) fn check_accounts(&self) {
        for account in self.accounts.by_name.values() {
            let (person, key) = (account.person, account.name.key());
            assert_eq!(self.accounts.names.get(&person), Some(key), "user ids map to accounts");
            let holder = self.names.get(key).map(|user| self.users[*user].id);
            assert!(holder.is_none_or(|holder| holder == person), "only the owner uses the name");
            let is_online = self.users_by_id.contains_key(&person);
            let has_relations = !account.ignores.is_empty() || !account.ignored_by.is_empty();
            assert!(!(is_online && has_relations), "an online user holds the relations");
            for by in &account.ignored_by {
                let ignores = &self.users[self.users_by_id[by]].relations.ignores;
                assert!(ignores.iter().any(|i| i.person == person), "both ends record an ignore");
            }
        }
    }

    pub(super) fn saved_account(&self, person: UserId) -> Option<String> {
        let account = self.accounts.of(person)?;
        let ignores = match self.users_by_id.get(&person) {
            Some(user) => self.ignores_of(*user),
            None => account.ignores.clone(),
        };
        let saved =
            SavedAccount { name: account.name.clone(), hash: account.hash.clone(), ignores };
        serde_json::to_string(&saved).ok()
    }

    pub(super) fn restore_account(
        &mut self,
        person: UserId,
        saved: &str,
    ) -> serde_json::Result<()> {
        let SavedAccount { name, hash, ignores } = serde_json::from_str(saved)?;
        self.accounts.insert(Account { person, name, hash, ignores, ignored_by: Vec::new() });
        Ok(())
    }
}

/// Refuses a password that does not fit into a `/login` line with the name; the line
/// limit before login is [`LOGIN_LINE_MAX`].
fn require_password_fits(name: &Name, password: &str) -> Result<(), Refusal> {
    let most = LOGIN_LINE_MAX
        - Command::Login { name: name.as_str(), password: Some("") }.to_string().len();
    if password.len() <= most {
        return Ok(());
    }
    let text = format!(
        "password too long: with the name {name} it may have at most {most} bytes, to fit into \
         /login"
    );
    refusal(ErrorCode::BadArgument, text)
}

impl Account {
    fn check(&self, password: &str) -> (Proof, Job) {
        let proof = Proof { person: self.person, hash: self.hash.clone() };
        (proof, Job::Check(Secret::new(password), self.hash.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Driver, connect, handle, say};
    use super::super::{Input, Limits};
    use super::*;
    use crate::server::auth::passwords::Outcome;
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
