//! Relations between users: who ignores whom, and who has a query with whom. One table by user
//! id, for users who are online and for accounts that are not.

use super::dirty::Dirty;
use crate::protocol::{Key, Name};
use crate::server::id_map::IdMap;
use crate::server::record::UserId;

/// An ignored user. The entry stays after the user's logout, so that earlier messages
/// stay hidden.
#[derive(Debug, Clone)]
pub(crate) struct Ignored {
    pub(crate) person: UserId,
    /// The last name known; while the user is online, the current one counts.
    pub(crate) name: Name,
}

/// The relations of one user.
#[derive(Debug, Default)]
pub(crate) struct OfUser {
    /// The users whom this user ignores.
    pub(crate) ignores: Vec<Ignored>,
    /// Online users who ignore this user, so that offline accounts cost nothing.
    pub(crate) ignored_by: Vec<UserId>,
    /// Users who have a query with this user.
    pub(crate) queried_by: Vec<UserId>,
}

static NONE: OfUser =
    OfUser { ignores: Vec::new(), ignored_by: Vec::new(), queried_by: Vec::new() };

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
    /// The relations of a user or account.
    pub(crate) fn of(&self, user: UserId) -> &OfUser {
        self.of.get(&user).unwrap_or(&NONE)
    }

    /// The users whom a user ignores.
    pub(crate) fn ignored_ids(&self, user: UserId) -> Vec<UserId> {
        self.of(user).ignores.iter().map(|ignored| ignored.person).collect()
    }

    pub(crate) fn ignores(&self, user: UserId, other: UserId) -> bool {
        self.of(user).ignores.iter().any(|ignored| ignored.person == other)
    }

    /// Ignores a user who is online; returns whether that is new.
    pub(crate) fn ignore(&mut self, user: UserId, person: UserId, name: &Name) -> bool {
        let is_new = !self.ignores(user, person);
        if is_new {
            self.of.entry(person).or_default().ignored_by.push(user);
            let ignored = Ignored { person, name: name.clone() };
            self.of.entry(user).or_default().ignores.push(ignored);
            self.dirty.mark(user);
        }
        is_new
    }

    /// Ends the ignore of a user, and of every user who had this name when they logged out.
    /// Returns the users, in the order in which they were ignored.
    pub(crate) fn unignore(
        &mut self,
        user: UserId,
        other: Option<UserId>,
        name: &Key,
        is_online: impl Fn(UserId) -> bool,
    ) -> Vec<Ignored> {
        let Some(of) = self.of.get_mut(&user) else { return Vec::new() };
        let is_match = |ignored: &mut Ignored| {
            let is_gone = ignored.name.key() == name && !is_online(ignored.person);
            Some(ignored.person) == other || is_gone
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

    /// Restores the ignores of a user or account; they take effect at the login.
    pub(crate) fn restore(&mut self, user: UserId, ignores: Vec<(UserId, Name)>) {
        if !ignores.is_empty() {
            let ignores = ignores.into_iter().map(|(person, name)| Ignored { person, name });
            self.of.entry(user).or_default().ignores = ignores.collect();
        }
    }

    /// Notes that a user is online.
    pub(crate) fn log_in(&mut self, user: UserId) {
        self.renamed.mark(user);
        for ignored in self.of(user).ignores.clone() {
            self.of.entry(ignored.person).or_default().ignored_by.push(user);
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
        for by in self.of(user).ignored_by.clone() {
            let ignores = self.of.get_mut(&by).into_iter().flat_map(|of| &mut of.ignores);
            for ignored in ignores.filter(|ignored| ignored.person == user) {
                ignored.name = name.clone();
            }
        }
        let Some(of) = self.of.get_mut(&user) else { return };
        let mut ignores = std::mem::take(&mut of.ignores);
        for ignored in &mut ignores {
            self.forget_ignored_by(ignored.person, user);
            if let Some(name) = name_of(ignored.person) {
                ignored.name = name;
            }
        }
        if !is_guest {
            self.of.entry(user).or_default().ignores = ignores;
        }
        self.prune(user);
    }

    /// Notes a new name.
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
                assert!(self.of(ignored.person).ignored_by.contains(user), "both ends know it");
            }
            for by in &of.ignored_by {
                assert!(self.ignores(*by, *user) && is_online(*by), "both ends know it");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::hub::test_support::name;

    const ALICE: UserId = UserId(1);
    const BOB: UserId = UserId(2);
    const CAROL: UserId = UserId(3);

    /// Alice and carol ignore bob.
    fn ignoring_bob() -> Relations {
        let mut relations = Relations::default();
        for user in [ALICE, CAROL] {
            assert!(relations.ignore(user, BOB, &name("bob")));
        }
        relations.dirty.take();
        relations
    }

    /// Alice ends ignores of users with this name while bob is online.
    fn unignore(relations: &mut Relations, other: Option<UserId>, text: &str) -> Vec<UserId> {
        let ended = relations.unignore(ALICE, other, name(text).key(), |person| person == BOB);
        ended.into_iter().map(|ignored| ignored.person).collect()
    }

    fn log_out(relations: &mut Relations, user: UserId, text: &str, is_guest: bool) {
        relations.log_out(user, &name(text), is_guest, |_| None);
    }

    #[test]
    fn both_sides_know_an_ignore_until_it_ends() {
        let mut relations = ignoring_bob();
        assert!(!relations.ignore(ALICE, BOB, &name("bob")), "nothing new");
        assert!(relations.ignores(ALICE, BOB) && !relations.ignores(BOB, ALICE));
        assert_eq!(relations.of(BOB).ignored_by, [ALICE, CAROL]);
        assert_eq!(unignore(&mut relations, Some(BOB), "bob"), [BOB]);
        assert_eq!(unignore(&mut relations, Some(BOB), "bob"), []);
        assert_eq!(relations.of(BOB).ignored_by, [CAROL]);
        assert_eq!(relations.dirty.take(), [ALICE]);
        relations.check(|_| true);
    }

    #[test]
    fn ignores_of_a_guest_end_with_the_logout_and_those_of_an_account_pause() {
        let mut relations = ignoring_bob();
        log_out(&mut relations, ALICE, "alice", true);
        let name_of = |person| (person == BOB).then(|| name("rob"));
        relations.log_out(CAROL, &name("carol"), false, name_of);
        assert!(relations.of(BOB).ignored_by.is_empty(), "only online users are listed");
        relations.check(|person| person == BOB);
        assert!(relations.of(ALICE).ignores.is_empty() && relations.ignores(CAROL, BOB));
        assert_eq!(relations.of(CAROL).ignores[0].name.as_str(), "rob", "the name of that time");
        relations.log_in(CAROL);
        assert_eq!(relations.of(BOB).ignored_by, [CAROL]);
        assert_eq!(relations.renamed.take(), [CAROL]);
        relations.check(|_| true);
        log_out(&mut relations, CAROL, "carol", true);
        assert!(relations.of.is_empty(), "no entries without relations");
    }

    #[test]
    fn user_who_is_gone_is_ignored_under_the_last_name() {
        let mut relations = Relations::default();
        relations.ignore(ALICE, CAROL, &name("carol"));
        relations.ignore(ALICE, BOB, &name("bob"));
        log_out(&mut relations, CAROL, "Carla", true);
        assert_eq!(unignore(&mut relations, None, "carol"), []);
        assert_eq!(unignore(&mut relations, None, "bob"), [], "bob is online under another name");
        assert_eq!(unignore(&mut relations, None, "carla"), [CAROL]);
    }

    #[test]
    fn name_of_several_ignored_users_ends_all_ignores() {
        let mut relations = Relations::default();
        relations.restore(ALICE, [CAROL, UserId(4)].map(|user| (user, name("guest"))).to_vec());
        relations.restore(BOB, Vec::new());
        assert!(relations.of(CAROL).ignored_by.is_empty(), "alice is not online yet");
        relations.log_in(ALICE);
        relations.check(|_| true);
        assert_eq!(unignore(&mut relations, None, "guest"), [CAROL, UserId(4)]);
        assert!(relations.of.is_empty());
    }

    #[test]
    fn query_is_known_to_both_ends() {
        let mut relations = Relations::default();
        relations.begin_query(ALICE, BOB);
        relations.begin_query(CAROL, BOB);
        relations.end_query(ALICE, BOB);
        assert_eq!(relations.of(BOB).queried_by, [CAROL]);
        relations.end_query(CAROL, BOB);
        assert!(relations.of.is_empty() && relations.dirty.take().is_empty());
    }
}
