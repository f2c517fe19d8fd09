//! What is given away for a password: an account, the server, a room. Passwords
//! are hashed elsewhere (`passwords.rs`): the connection waits, and what came of
//! it comes back as an input.

use std::sync::Arc;
use std::time::Duration;

use super::accounts::Proof;
use super::delayed_checks::DelayedCheck;
use super::join::JoinKey;
use super::password_throttle::{Guarded, Target, Wait};
use super::{
    Cid, ConnId, Context, ErrorCode, Farewell, Hub, Name, Now, PendingRequest, Phase, Refusal,
    RoomName, Turn, UserIx, refusal,
};
use crate::server::passwords::{Job, Outcome, Secret};

/// A command that waits for a password to be hashed.
#[derive(Debug)]
pub(super) struct PasswordRequest {
    cid: Option<Cid>,
    purpose: Purpose,
}

/// What a password is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    LogIn(Proof),
    /// Into a server that takes one of everybody.
    LogInGuest(Name),
    Register,
    Change,
    Unregister,
    /// To be an operator of the server.
    Rule,
    /// A room's key, by the digest that it had when it was tried.
    Enter(RoomName, Arc<str>),
}

/// Why a password is not taken.
pub(super) const INSECURE: &str = "passwords are not accepted over unencrypted \
    connections; use TLS, or connect from the server's machine";

impl Hub {
    /// Passwords only where nobody can read along.
    pub(super) fn require_privacy(&self, ctx: &Context<'_>) -> Result<(), Refusal> {
        if self.is_private(ctx) || self.limits.allow_insecure_passwords {
            return Ok(());
        }
        refusal(ErrorCode::Insecure, INSECURE)
    }

    /// Whether nobody can read along.
    pub(super) fn is_private(&self, ctx: &Context<'_>) -> bool {
        self.connection(ctx.conn).is_some_and(|c| c.peer.is_private())
    }

    /// Checks what may be a guess, when its time has come.
    pub(super) fn check_password(
        &mut self,
        ctx: &mut Context<'_>,
        purpose: Purpose,
        at: Guarded,
        job: Job,
    ) -> Result<(), Refusal> {
        if self.is_overdue(ctx.now, ctx.conn) {
            // Else one guess behind the other would hold a place without a name for long.
            self.leave(ctx.now, ctx.conn, Some(Farewell::LoginTimeout), None, ctx.turn);
            return Ok(());
        }
        // Whoever waits is not overtaken, however fast others ask.
        self.start_due_checks(ctx.now, ctx.turn);
        let (now, conn) = (ctx.now.since_start, ctx.conn);
        let Some(peer) = self.connection(conn).map(|c| c.peer) else { return Ok(()) };
        let is_one_source = self.limits.apply_to(peer);
        let target = Target { at, network: peer.network(), is_one_source };
        match self.password_throttle.begin(now, conn, &target) {
            Ok(()) => ctx.turn.hash(conn, job),
            Err(wait) if self.is_too_long(wait, &target, None) => return too_many_passwords(),
            Err(wait) => self.delayed_jobs.add(due(now, wait), conn, job, target),
        }
        self.wait_for_password(ctx, purpose);
        Ok(())
    }

    /// Hashes a password that is nobody's yet; not as many as one likes, since each takes
    /// time, and an account that is made stays.
    pub(super) fn hash_new(
        &mut self,
        ctx: &mut Context<'_>,
        purpose: Purpose,
        password: &str,
    ) -> Result<(), Refusal> {
        let peer = self.peer(ctx.conn).filter(|peer| self.limits.apply_to(*peer));
        let now = ctx.now.since_start;
        if peer.is_some_and(|peer| !self.new_passwords.may_go_on(now, peer.network())) {
            let text = "too many new passwords from your address; try again in a minute";
            return refusal(ErrorCode::RateLimited, text);
        }
        ctx.turn.hash(ctx.conn, Job::Hash(Secret::new(password)));
        self.wait_for_password(ctx, purpose);
        Ok(())
    }

    fn wait_for_password(&mut self, ctx: &mut Context<'_>, purpose: Purpose) {
        let asked = PasswordRequest { cid: ctx.cid.take(), purpose };
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.pending = Some(Box::new(PendingRequest::Password(asked)));
        }
    }

    /// Where guesses are slowed down, few wait. A crowd that only waits for its turn is
    /// not counted: that would take long for each of them.
    fn is_too_long(&self, wait: Wait, target: &Target, of: Option<&DelayedCheck>) -> bool {
        matches!(wait, Wait::Until(_))
            && self.delayed_jobs.waiting_ahead(target, of) >= self.limits.guesses_waiting
    }

    /// Begins to check the guesses whose time has come.
    pub(super) fn start_due_checks(&mut self, now: Now, turn: &mut Turn) {
        while let Some(delayed) = self.delayed_jobs.next(now.since_start) {
            self.start_delayed_check(now, delayed, turn);
        }
    }

    /// A guess has waited as long as it was told to, or others were checked meanwhile.
    fn start_delayed_check(&mut self, now: Now, delayed: DelayedCheck, turn: &mut Turn) {
        let conn = delayed.conn;
        if !self.is_pending(conn) {
            return; // it has hung up
        }
        match self.password_throttle.begin(now.since_start, conn, &delayed.target) {
            Ok(()) => turn.hash(conn, delayed.job),
            Err(wait) => {
                if self.is_too_long(wait, &delayed.target, Some(&delayed)) {
                    self.password_done(now, conn, &Outcome::Busy, turn);
                    // It is heard again when it has read that.
                    turn.notify_when_drained(conn);
                } else {
                    self.delayed_jobs.put_back(due(now.since_start, wait), delayed);
                }
            }
        }
    }

    /// A guess has been checked, whoever may hear of it: those that wait may go on.
    pub(super) fn record_attempt(&mut self, now: Now, conn: ConnId, outcome: &Outcome) {
        let is_right = match outcome {
            Outcome::Checked(is_right) => Some(*is_right),
            Outcome::Hashed(_) | Outcome::Busy => None,
        };
        if let Some(target) = self.password_throttle.end(now.since_start, conn, is_right) {
            self.delayed_jobs.release_waiting(now.since_start, target.network);
        }
    }

    /// Whether a connection waits for what becomes of a line.
    pub(super) fn is_pending(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|c| c.pending.is_some())
    }

    /// What came of a password.
    pub(super) fn password_done(
        &mut self,
        now: Now,
        conn: ConnId,
        outcome: &Outcome,
        turn: &mut Turn,
    ) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let Some(asked) = connection.pending.take() else { return };
        let PendingRequest::Password(PasswordRequest { cid, purpose }) = *asked else { return };
        let (stage, settings) = (connection.phase, connection.settings);
        let mut ctx = Context { now, conn, settings, cid, turn };
        let is_done = matches!(outcome, Outcome::Checked(true) | Outcome::Hashed(Some(_)));
        let storage = match stage {
            Phase::LoggedIn(user) if is_done => self.require_storage_for(user, &purpose),
            _ => Ok(()),
        };
        let result = storage.and_then(|()| match (stage, outcome) {
            (Phase::Greeting { .. }, Outcome::Checked(true)) => {
                self.complete_login(&mut ctx, purpose)
            }
            (Phase::LoggedIn(user), Outcome::Checked(is_right)) => {
                self.apply_password_result(&mut ctx, user, purpose, *is_right)
            }
            (Phase::LoggedIn(user), Outcome::Hashed(Some(hash))) => {
                self.take_hash(&mut ctx, user, &purpose, hash);
                Ok(())
            }
            (_, Outcome::Checked(_)) => refusal(
                ErrorCode::BadPassword,
                "that is not the password; type /login NAME PASSWORD again",
            ),
            (_, Outcome::Busy) => too_many_passwords(),
            (_, Outcome::Hashed(_)) => {
                refusal(ErrorCode::TooMany, "the server cannot do this now; try again")
            }
        });
        if let Err(refusal) = result {
            self.note_refused_login(conn);
            ctx.refuse(&refusal);
        }
    }

    /// The password of somebody who logs in was right.
    fn complete_login(&mut self, ctx: &mut Context<'_>, purpose: Purpose) -> Result<(), Refusal> {
        match purpose {
            Purpose::LogIn(proof) => self.log_in_account(ctx, proof),
            // Somebody may have taken the name meanwhile.
            Purpose::LogInGuest(name) => {
                let name = self.require_free_name(name, None)?;
                self.log_in_guest(ctx, &name);
                Ok(())
            }
            _ => wrong_password(),
        }
    }

    /// A password of somebody who is here was looked at.
    fn apply_password_result(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        purpose: Purpose,
        is_right: bool,
    ) -> Result<(), Refusal> {
        match purpose {
            Purpose::Unregister if is_right => {
                self.delete_account(ctx, user);
                Ok(())
            }
            Purpose::Rule => {
                let result =
                    if is_right { self.grant_server_operator(ctx, user) } else { wrong_password() };
                self.note_oper(ctx.now, user, result.as_ref().err());
                result
            }
            Purpose::Enter(room, digest) => {
                let door = JoinKey::Tried { digest: &digest, is_right };
                self.join_with(ctx, user, &room, door)?;
                self.mark_session_unsaved(user);
                Ok(())
            }
            _ => wrong_password(),
        }
    }

    fn take_hash(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        purpose: &Purpose,
        hash: &Arc<str>,
    ) {
        match purpose {
            Purpose::Change => self.change_hash(ctx, user, hash.clone()),
            _ => self.create_account(ctx, user, hash.clone()),
        }
    }
}

/// When a guess that waits is looked at again. Until others are checked is not long;
/// that they are is told.
fn due(now: Duration, wait: Wait) -> Duration {
    match wait {
        Wait::Until(due) => due,
        Wait::ForOthers => now + Duration::from_mins(1),
    }
}

fn too_many_passwords() -> Result<(), Refusal> {
    let text = "too many passwords are tried; try again in a minute, or from elsewhere";
    refusal(ErrorCode::RateLimited, text)
}

fn wrong_password() -> Result<(), Refusal> {
    refusal(ErrorCode::BadPassword, "that is not the password; try again")
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{
        Delivered, conn, connect, connect_from, handle, handle_at, hub, register, restarted, say,
        session, tick_at,
    };
    use super::super::{Flow, Frame, Input, LOGIN_LINE_MAX, Limits};
    use super::*;
    use crate::server::log::ReadResult;
    use crate::server::passwords::HashFile;

    fn hash_is(hub: &mut Hub, slot: u32, hash: &str) -> Delivered {
        handle(hub, slot, Input::Hashed(Outcome::Hashed(Some(hash.into())))).1
    }

    fn check_is(hub: &mut Hub, slot: u32, is_right: bool) -> Delivered {
        handle(hub, slot, Input::Hashed(Outcome::Checked(is_right))).1
    }

    /// Several connections, and on the first of them alice, whose name is registered.
    fn house() -> Hub {
        let mut hub = hub(Limits::default());
        (0..8).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        assert_eq!(say(&mut hub, 0, "/register old").1.hashes, [conn(0)]);
        assert!(hash_is(&mut hub, 0, "hash of old").text.starts_with("[REGISTERED alice]"));
        hub
    }

    #[test]
    fn who_asked_before_the_password_was_changed_comes_in_with_the_new_one_only() {
        let mut hub = house();
        assert_eq!(say(&mut hub, 1, "/login alice old").1.hashes, [conn(1)]);
        say(&mut hub, 0, "/passwd new");
        assert!(hash_is(&mut hub, 0, "hash of new").text.starts_with("[PASSWD alice]"));
        let told = check_is(&mut hub, 1, true);
        assert!(told.text.starts_with("[ERROR bad-password] "), "{}", told.text);
        say(&mut hub, 0, "/ping");
        say(&mut hub, 1, "/login alice new");
        assert!(check_is(&mut hub, 1, true).text.starts_with("[WELCOME alice]"));
        hub.check_invariants();
    }

    #[test]
    fn an_account_that_was_made_anew_is_not_the_one_that_was_asked_for() {
        let mut hub = house();
        say(&mut hub, 1, "/login alice old");
        say(&mut hub, 0, "/unregister old");
        assert!(check_is(&mut hub, 0, true).text.starts_with("[UNREGISTERED alice]"));
        say(&mut hub, 0, "/register new");
        hash_is(&mut hub, 0, "hash of new");
        assert!(check_is(&mut hub, 1, true).text.starts_with("[ERROR bad-password] "));
    }

    #[test]
    fn the_password_may_be_changed_while_mail_is_read() {
        let mut hub = house();
        say(&mut hub, 0, "/quit");
        say(&mut hub, 1, "bob");
        say(&mut hub, 1, "/msg alice come back");
        for slot in [2, 3] {
            say(&mut hub, slot, "/login alice old");
            assert_eq!(check_is(&mut hub, slot, true).reads, 1);
        }
        let (_, told) = handle(&mut hub, 3, Input::Rows(ReadResult::default()));
        assert!(told.text.starts_with("[WELCOME alice]"), "{}", told.text);
        say(&mut hub, 3, "/passwd new");
        hash_is(&mut hub, 3, "hash of new");
        let (flow, told) = handle(&mut hub, 2, Input::Rows(ReadResult::default()));
        assert!(told.text.starts_with("[ERROR bad-password] "), "{}", told.text);
        assert_eq!(flow, Flow::Next);
    }

    #[test]
    fn a_room_with_another_lock_is_not_opened_by_the_old_key() {
        let mut hub = house();
        say(&mut hub, 0, "/join ops");
        say(&mut hub, 0, "/lock old");
        say(&mut hub, 1, "bob");
        assert_eq!(say(&mut hub, 1, "/join ops old").1.hashes, [conn(1)]);
        say(&mut hub, 0, "/lock new");
        let told = check_is(&mut hub, 1, true);
        assert!(told.text.starts_with("[ERROR forbidden] "), "{}", told.text);
        say(&mut hub, 1, "/join ops new");
        assert!(check_is(&mut hub, 1, true).text.starts_with("[JOINED #ops]"));
    }

    #[test]
    fn who_waits_for_a_guess_is_not_overtaken() {
        let mut hub = house();
        for _ in 0..hub.limits.guesses {
            say(&mut hub, 1, "/login alice wrong");
            assert!(check_is(&mut hub, 1, false).text.starts_with("[ERROR bad-password] "));
        }
        let second = |count| Duration::from_secs(1) * count;
        let guess = |hub: &mut Hub, at, slot| {
            let line = Input::Frame(Frame::Line("/login alice any".into()));
            handle_at(hub, at, slot, line).1.hashes
        };
        let is_wrong = |hub: &mut Hub, at, slot| {
            handle_at(hub, at, slot, Input::Hashed(Outcome::Checked(false)));
        };
        assert_eq!(guess(&mut hub, Duration::ZERO, 2), []);
        assert_eq!(guess(&mut hub, Duration::ZERO, 3), []);
        // Others ask just when the time of one who waits has come.
        assert_eq!(guess(&mut hub, second(1), 4), [conn(2)]);
        is_wrong(&mut hub, second(1), 2);
        assert_eq!(guess(&mut hub, second(3), 2), [conn(3)]);
        is_wrong(&mut hub, second(3), 3);
        assert_eq!(guess(&mut hub, second(7), 5), [conn(4)]);
    }

    #[test]
    fn a_login_that_is_checked_is_waited_for_and_no_further_one() {
        let mut hub = house();
        let (timeout, second) = (hub.limits.login_timeout, Duration::from_secs(1));
        let guess = |hub: &mut Hub, at, slot| {
            let line = Input::Frame(Frame::Line("/login alice any".into()));
            handle_at(hub, at, slot, line).1
        };
        let check = |hub: &mut Hub, at, slot, is_right| {
            handle_at(hub, at, slot, Input::Hashed(Outcome::Checked(is_right))).1.text
        };
        (1..4).for_each(|slot| assert_eq!(guess(&mut hub, second, slot).hashes, [conn(slot)]));
        for at in 0..5 {
            let told = tick_at(&mut hub, timeout + second * at, 1);
            assert_eq!(told.text, "", "it is the server that takes its time");
            assert_eq!(hub.next_deadline(), Some(timeout + second * (at + 1)), "not for long");
        }
        let late = timeout + second * 4;
        assert!(check(&mut hub, late, 1, true).starts_with("[WELCOME alice] "));
        assert!(check(&mut hub, late, 2, false).starts_with("[ERROR bad-password] "));
        assert!(check(&mut hub, late, 3, false).starts_with("[ERROR bad-password] "));
        let told = guess(&mut hub, late, 2);
        assert!(told.text.starts_with("[BYE login-timeout] ") && told.hashes.is_empty());
        let told = tick_at(&mut hub, late + second, 3);
        assert!(told.text.starts_with("[BYE login-timeout] "), "{}", told.text);
    }

    fn sesame() -> HashFile {
        HashFile::read("tests/passwords/sesame.hash").expect("a hash")
    }

    #[test]
    fn a_stranger_without_the_servers_password_does_not_learn_who_is_here() {
        let mut hub = hub(Limits { password: Some(sesame()), ..Limits::default() });
        (0..3).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "/login bob right");
        assert!(check_is(&mut hub, 0, true).text.starts_with("[WELCOME bob]"));
        for (slot, is_right, answer) in
            [(1, false, "[ERROR bad-password] "), (2, true, "[ERROR name-taken] ")]
        {
            let (_, told) = say(&mut hub, slot, "/login bob any");
            assert_eq!((told.text.as_str(), told.hashes), ("", vec![conn(slot)]));
            assert!(check_is(&mut hub, slot, is_right).text.starts_with(answer));
        }
    }

    #[test]
    fn who_finds_too_many_operators_is_not_logged_as_one() {
        let limits =
            Limits { oper_password: Some(sesame()), max_operators: 1, ..Limits::default() };
        let mut hub = hub(limits);
        for (slot, answer, line) in
            [(0, "[OPER ", "is an operator now"), (1, "[ERROR too-many] ", "too many operators")]
        {
            connect(&mut hub, slot);
            say(&mut hub, slot, &format!("p{slot}"));
            say(&mut hub, slot, "/oper right");
            assert!(check_is(&mut hub, slot, true).text.starts_with(answer));
            let log = hub.take_audit();
            assert!(log.len() == 1 && log[0].ends_with(line), "{log:?}");
        }
    }

    #[test]
    fn an_invitation_that_is_used_by_logging_in_is_used_after_a_restart_too() {
        let mut hub = hub(Limits { oper_password: Some(sesame()), ..Limits::default() });
        (0..3).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        register(&mut hub, 0);
        say(&mut hub, 0, "/oper right");
        check_is(&mut hub, 0, true);
        say(&mut hub, 1, "bob");
        register(&mut hub, 1);
        for (slot, line) in [(1, "/part"), (0, "/lock"), (0, "/invite bob"), (1, "/quit")] {
            say(&mut hub, slot, line);
        }
        hub.mark_saved();
        say(&mut hub, 2, "/login bob right");
        assert!(check_is(&mut hub, 2, true).text.contains("you are in #lobby"));
        assert!(hub.has_changes());
    }

    #[test]
    fn who_has_left_a_room_and_registers_is_its_operator_after_a_restart_too() {
        let mut hub = hub(Limits::default());
        (0..2).for_each(|slot| connect(&mut hub, slot));
        for (slot, line) in [(0, "alice"), (0, "/join ops"), (1, "bob"), (1, "/join ops")] {
            say(&mut hub, slot, line);
        }
        session(&mut hub, 1);
        say(&mut hub, 0, "/part ops");
        register(&mut hub, 0);
        let mut hub = restarted(&hub);
        connect(&mut hub, 0);
        say(&mut hub, 0, "/login alice right");
        check_is(&mut hub, 0, true);
        say(&mut hub, 0, "/join ops");
        let (_, told) = say(&mut hub, 0, "/whois alice");
        assert!(told.text.contains("operator=#ops"), "{}", told.text);
    }

    #[test]
    fn mail_is_told_to_who_drops_again_before_they_have_caught_up() {
        let mut hub = house();
        let token = session(&mut hub, 0);
        handle(&mut hub, 0, Input::Disconnected);
        say(&mut hub, 1, "bob");
        say(&mut hub, 1, "/msg alice come back");
        say(&mut hub, 2, &format!("/resume {token} 0"));
        handle(&mut hub, 2, Input::Disconnected);
        tick_at(&mut hub, Duration::from_mins(2), 2);
        (3..6).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 3, "/login alice right");
        assert_eq!(check_is(&mut hub, 3, true).reads, 1, "it waits still");
        // Who has caught up has had it.
        handle(&mut hub, 3, Input::Rows(ReadResult::default()));
        let token = session(&mut hub, 3);
        handle(&mut hub, 3, Input::Disconnected);
        say(&mut hub, 1, "/msg alice come back");
        say(&mut hub, 4, &format!("/resume {token} 0"));
        let (_, told) = handle(&mut hub, 4, Input::Drained);
        assert_eq!(told.text, "[PRIVATE MESSAGE] bob: come back\n");
        say(&mut hub, 4, "/quit");
        say(&mut hub, 5, "/login alice right");
        assert_eq!(check_is(&mut hub, 5, true).reads, 0);
    }

    #[test]
    fn of_one_address_a_class_registers_at_once_and_then_one_a_minute() {
        let mut hub = hub(Limits::default());
        let (here, elsewhere, local) = ([192, 0, 2, 1], [192, 0, 2, 2], [127, 0, 0, 1]);
        let mut slots = 0..;
        let mut register_at = |hub: &mut Hub, from: [u8; 4], minutes| {
            let slot = slots.next().expect("as many as there are");
            connect_from(hub, slot, from);
            say(hub, slot, &format!("p{slot}"));
            let line = Input::Frame(Frame::Line("/register secret".into()));
            handle_at(hub, Duration::from_mins(minutes), slot, line).1
        };
        for _ in 0..40 {
            assert_eq!(register_at(&mut hub, here, 1).hashes.len(), 1);
        }
        let told = register_at(&mut hub, here, 1);
        assert!(told.text.starts_with("[ERROR rate-limited] "), "{}", told.text);
        assert_eq!(register_at(&mut hub, elsewhere, 1).hashes.len(), 1);
        for _ in 0..50 {
            assert_eq!(register_at(&mut hub, local, 1).hashes.len(), 1);
        }
        assert_eq!(register_at(&mut hub, here, 2).hashes.len(), 1);
        assert_eq!(register_at(&mut hub, here, 2).hashes.len(), 0);
    }

    #[test]
    fn a_password_that_fits_in_no_login_is_not_taken() {
        let mut hub = house();
        say(&mut hub, 1, "bob");
        for (slot, command, name) in [(0, "/passwd", "alice"), (1, "/register", "bob")] {
            let most = LOGIN_LINE_MAX - format!("/login {name} ").len();
            let (_, told) = say(&mut hub, slot, &format!("{command} {}", "x".repeat(most + 1)));
            assert!(told.text.starts_with("[ERROR bad-argument] "), "{}", told.text);
            assert!(told.text.contains(&format!(" {most} bytes")), "{}", told.text);
            let (_, told) = say(&mut hub, slot, &format!("{command} {}", "x".repeat(most)));
            assert_eq!(told.hashes, [conn(slot)]);
        }
    }
}
