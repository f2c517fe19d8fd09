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
    /// Online users who ignore this user, so that offline accounts cost nothing.
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
    /// Users with a new name.
    pub(crate) renamed: Dirty<UserId>,
}

impl Relations {
    /// The users whom a user ignores.
    pub(crate) fn ignores_of(&self, user: UserId) -> &[Ignored] {
        self.of.get(&user).map_or(&[], |of| &of.ignores)
    }

    pub(crate) fn ignores(&self, user: UserId, other: UserId) -> bool {
        self.ignores_of(user).iter().any(|ignored| ignored.person == other)
    }

    /// The online users who ignore a user.
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

    /// Restores the ignores of a user or account, with the last names of the ignored users;
    /// they take effect at the login.
    pub(crate) fn restore(&mut self, user: UserId, ignores: Vec<(UserId, Name)>) {
        if !ignores.is_empty() {
            let ignores = ignores.into_iter();
            let ignores = ignores.map(|(person, name)| Ignored { person, gone: Some(name) });
            self.of.entry(user).or_default().ignores = ignores.collect();
        }
    }

    /// Notes that a user is online: those who ignore them see the current name from now on, and
    /// so does the user of those whom they ignore.
    pub(crate) fn log_in(&mut self, user: UserId, is_online: impl Fn(UserId) -> bool) {
        for by in self.ignored_by(user).to_vec() {
            if let Some(ignored) = self.entry(by, user) {
                ignored.gone = None;
            }
        }
        let ignored: Vec<UserId> = self.ignores_of(user).iter().map(|it| it.person).collect();
        for person in ignored {
            self.of.entry(person).or_default().ignored_by.push(user);
            if let Some(ignored) = self.entry(user, person).filter(|_| is_online(person)) {
                ignored.gone = None;
            }
        }
    }

    /// Notes the logout of a user. An account keeps its ignores, those of a guest end. `name_of`
    /// returns the names of online users.
    pub(super) fn log_out(
        &mut self,
        user: UserId,
        name: &Name,
        is_guest: bool,
        name_of: impl Fn(UserId) -> Option<Name>,
    ) {
        for by in self.ignored_by(user).to_vec() {
            if let Some(ignored) = self.entry(by, user) {
                ignored.gone = Some(name.clone());
            }
        }
        let mut ignores = self.of.get_mut(&user).map(|of| std::mem::take(&mut of.ignores));
        for ignored in ignores.iter_mut().flatten() {
            self.forget_ignored_by(ignored.person, user);
            ignored.gone = ignored.gone.take().or_else(|| name_of(ignored.person));
        }
        if let Some(ignores) = ignores.filter(|ignores| !is_guest && !ignores.is_empty()) {
            self.of.entry(user).or_default().ignores = ignores;
        }
        self.prune(user);
    }

    fn entry(&mut self, user: UserId, other: UserId) -> Option<&mut Ignored> {
        let ignores = &mut self.of.get_mut(&user)?.ignores;
        ignores.iter_mut().find(|ignored| ignored.person == other)
    }

    /// Notes a new name. The entries of those who ignore the user contain it, but the name at
    /// their next change is enough: only [`Persisted::Everyone`] stores it at once.
    ///
    /// [`Persisted::Everyone`]: crate::server::hub::Persisted::Everyone
    pub(super) fn note_rename(&mut self, user: UserId) {
        self.renamed.mark(user);
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
            for ignored in of.ignores.iter().filter(|_| is_online(*user)) {
                assert!(self.ignored_by(ignored.person).contains(user), "both ends know it");
                let is_gone = !is_online(ignored.person);
                assert_eq!(ignored.gone.is_some(), is_gone, "who is gone has a last name");
            }
            for by in &of.ignored_by {
                assert!(self.ignores(*by, *user) && is_online(*by), "both ends know it");
            }
        }
    }
}
