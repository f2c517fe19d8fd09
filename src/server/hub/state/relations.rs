//! Relations between users: who ignores whom, and who has a query with whom. One table by user
//! id, for users who are online and for accounts that are not.

use super::dirty::Dirty;
use super::id_map::IdMap;
use crate::protocol::{Key, Name};
use crate::server::record::UserId;

/// An ignored user. The entry stays after the user's logout, so that earlier messages
/// stay hidden.
#[derive(Debug, Clone)]
pub(crate) struct Ignored {
    pub(crate) person: UserId,
    /// The user's last name; set while the user is not online.
    pub(crate) gone: Option<Name>,
}

/// The relations of one user.
#[derive(Debug, Default)]
struct OfUser {
    ignores: Vec<Ignored>,
    /// Users and accounts who ignore this user.
    ignored_by: Vec<UserId>,
    /// Users who have a query with this user.
    queried_by: Vec<UserId>,
}

impl OfUser {
    fn is_empty(&self) -> bool {
        self.ignores.is_empty() && self.ignored_by.is_empty() && self.queried_by.is_empty()
    }
}

/// All relations. Users without any have no entry.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    of: IdMap<UserId, OfUser>,
    /// Users whose ignores changed, or the name of someone they ignore.
    pub(crate) dirty: Dirty<UserId>,
}

impl Relations {
    /// The users whom a user ignores.
    pub(crate) fn ignores_of(&self, user: UserId) -> &[Ignored] {
        self.of.get(&user).map_or(&[], |of| &of.ignores)
    }

    pub(crate) fn ignores(&self, user: UserId, other: UserId) -> bool {
        self.ignores_of(user).iter().any(|ignored| ignored.person == other)
    }

    /// The users and accounts who ignore a user.
    pub(crate) fn ignored_by(&self, user: UserId) -> &[UserId] {
        self.of.get(&user).map_or(&[], |of| &of.ignored_by)
    }

    /// The users who have a query with a user.
    pub(crate) fn queried_by(&self, user: UserId) -> &[UserId] {
        self.of.get(&user).map_or(&[], |of| &of.queried_by)
    }

    /// Ignores a user who is online; returns whether that is new.
    pub(crate) fn ignore(&mut self, user: UserId, other: UserId) -> bool {
        let is_new = !self.ignores(user, other);
        if is_new {
            self.add(user, Ignored { person: other, gone: None });
            self.dirty.mark(user);
        }
        is_new
    }

    fn add(&mut self, user: UserId, ignored: Ignored) {
        self.of.entry(ignored.person).or_default().ignored_by.push(user);
        self.of.entry(user).or_default().ignores.push(ignored);
    }

    /// Ends the ignore of a user, and of every user who had this name when they logged out.
    /// Returns the users, in the order in which they were ignored.
    pub(crate) fn unignore(
        &mut self,
        user: UserId,
        other: Option<UserId>,
        name: &Key,
    ) -> Vec<Ignored> {
        let Some(of) = self.of.get_mut(&user) else { return Vec::new() };
        let is_match = |ignored: &mut Ignored| {
            let has_name = ignored.gone.as_ref().is_some_and(|gone| gone.key() == name);
            Some(ignored.person) == other || has_name
        };
        let ended: Vec<Ignored> = of.ignores.extract_if(.., is_match).collect();
        self.prune(user);
        for ignored in &ended {
            self.forget_ignored_by(ignored.person, user);
        }
        if !ended.is_empty() {
            self.dirty.mark(user);
        }
        ended
    }

    fn forget_ignored_by(&mut self, user: UserId, by: UserId) {
        if let Some(of) = self.of.get_mut(&user) {
            of.ignored_by.retain(|id| *id != by);
            self.prune(user);
        }
    }

    fn prune(&mut self, user: UserId) {
        if self.of.get(&user).is_some_and(OfUser::is_empty) {
            self.of.remove(&user);
        }
    }

    /// Restores the ignores of a user or account, unless they are known already. Each ignored
    /// user is given the last name, and counts as not online until [`Self::log_in`].
    pub(crate) fn restore(&mut self, user: UserId, ignores: Vec<(UserId, Name)>) {
        if !self.ignores_of(user).is_empty() {
            return;
        }
        for (person, name) in ignores {
            self.add(user, Ignored { person, gone: Some(name) });
        }
    }

    /// Notes that a user is online: those who ignore them see the current name from now on.
    pub(crate) fn log_in(&mut self, user: UserId, name: &Name) {
        for by in self.ignored_by(user).to_vec() {
            if let Some(ignored) = self.entry(by, user)
                && ignored.gone.take().is_some_and(|gone| gone != *name)
            {
                self.dirty.mark(by);
            }
        }
    }

    /// Notes the logout of a user. An account keeps its ignores, those of a guest end.
    pub(super) fn log_out(&mut self, user: UserId, name: &Name, is_guest: bool) {
        for by in self.ignored_by(user).to_vec() {
            if let Some(ignored) = self.entry(by, user) {
                ignored.gone = Some(name.clone());
            }
        }
        if is_guest && let Some(of) = self.of.get_mut(&user) {
            for ignored in std::mem::take(&mut of.ignores) {
                self.forget_ignored_by(ignored.person, user);
            }
            self.prune(user);
        }
    }

    fn entry(&mut self, user: UserId, other: UserId) -> Option<&mut Ignored> {
        let ignores = &mut self.of.get_mut(&user)?.ignores;
        ignores.iter_mut().find(|ignored| ignored.person == other)
    }

    /// Marks the users who ignore a user, whose name has changed.
    pub(super) fn mark_ignorers(&mut self, user: UserId) {
        let ignored_by = self.of.get(&user).into_iter().flat_map(|of| &of.ignored_by);
        self.dirty.mark_all(ignored_by.copied());
    }

    pub(super) fn begin_query(&mut self, user: UserId, other: UserId) {
        self.of.entry(other).or_default().queried_by.push(user);
    }

    pub(super) fn end_query(&mut self, user: UserId, other: UserId) {
        if let Some(of) = self.of.get_mut(&other) {
            of.queried_by.retain(|id| *id != user);
            self.prune(other);
        }
    }

    /// Checks that both sides of each relation agree.
    pub(super) fn check(&self, is_online: impl Fn(UserId) -> bool) {
        for (user, of) in &self.of {
            assert!(!of.is_empty(), "no empty entry");
            for ignored in &of.ignores {
                assert!(self.ignored_by(ignored.person).contains(user), "both ends know it");
                let is_gone = !is_online(ignored.person);
                assert_eq!(ignored.gone.is_some(), is_gone, "who is gone has a last name");
            }
            for by in &of.ignored_by {
                assert!(self.ignores(*by, *user), "both ends know it");
            }
        }
    }
}
