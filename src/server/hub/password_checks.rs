//! Commands that need a password: login, registration, `/oper`, room keys. Hashing happens
//! elsewhere (`passwords.rs`): the connection waits, and the outcome arrives as an input.

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
use crate::server::auth::passwords::{Job, Outcome, Secret};

#[derive(Debug)]
pub(super) struct PasswordRequest {
    cid: Option<Cid>,
    purpose: Purpose,
}

/// What a password is checked or hashed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    LogIn(Proof),
    /// Log in as a guest on a server that requires a password.
    LogInGuest(Name),
    Register,
    Change,
    Unregister,
    /// Become a server operator.
    ServerOperator,
    /// Join a room with a key; the digest is that of the key when the check began.
    Enter(RoomName, Arc<str>),
}

/// The text of the refusal of passwords over unencrypted connections.
pub(super) const INSECURE: &str = "passwords are not accepted over unencrypted \
    connections; use TLS, or connect from the server's machine";

impl Hub {
    /// Refuses passwords over unencrypted connections, except from loopback or with
    /// `--allow-insecure-passwords`.
    pub(super) fn require_privacy(&self, ctx: &Context<'_>) -> Result<(), Refusal> {
        if self.is_private(ctx) || self.limits.allow_insecure_passwords {
            return Ok(());
        }
        refusal(ErrorCode::Insecure, INSECURE)
    }

    /// Returns whether the connection is encrypted or from loopback.
    pub(super) fn is_private(&self, ctx: &Context<'_>) -> bool {
        self.connection(ctx.conn).is_some_and(|c| c.peer.is_private())
    }

    /// Checks a password, delayed by the throttle if earlier attempts were wrong.
    pub(super) fn check_password(
        &mut self,
        ctx: &mut Context<'_>,
        purpose: Purpose,
        at: Guarded,
        job: Job,
    ) -> Result<(), Refusal> {
        if self.is_overdue(ctx.now, ctx.conn) {
            // Otherwise queued attempts would extend the login timeout.
            self.leave(ctx.now, ctx.conn, Some(Farewell::LoginTimeout), None, ctx.turn);
            return Ok(());
        }
        // Delayed attempts come first: a later attempt must not overtake them.
        self.start_due_checks(ctx.now, ctx.turn);
        let (now, conn) = (ctx.now.since_start, ctx.conn);
        let Some(peer) = self.connection(conn).map(|c| c.peer) else { return Ok(()) };
        let is_one_source = self.limits.apply_to(peer);
        let target = Target { at, network: peer.network(), is_one_source };
        match self.password_throttle.begin(now, conn, &target) {
            Ok(()) => ctx.turn.hash(conn, job),
            Err(wait) if self.is_too_long(wait, &target, None) => return too_many_attempts(),
            Err(wait) => self.delayed_checks.add(retry_at(now, wait), conn, job, target),
        }
        self.wait_for_password(ctx, purpose);
        Ok(())
    }

    /// Hashes a new password. Rate-limited per address: hashing is expensive, and accounts
    /// stay.
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
        let request = PasswordRequest { cid: ctx.cid.take(), purpose };
        if let Some(connection) = self.connection_mut(ctx.conn) {
            connection.pending = Some(Box::new(PendingRequest::Password(request)));
        }
    }

    /// Returns whether too many attempts are queued already. Attempts that only wait for
    /// running checks are not limited: each would wait long.
    fn is_too_long(&self, wait: Wait, target: &Target, of: Option<&DelayedCheck>) -> bool {
        matches!(wait, Wait::Until(_))
            && self.delayed_checks.is_queue_full(target, of, self.limits.guesses_waiting)
    }

    /// Starts the delayed checks that are due.
    pub(super) fn start_due_checks(&mut self, now: Now, turn: &mut Turn) {
        while let Some(delayed) = self.delayed_checks.next(now.since_start) {
            self.start_delayed_check(now, delayed, turn);
        }
    }

    /// Starts a delayed check, delays it again, or refuses it, and goes on with the next check
    /// of the same target. Where checks wait for running ones, the first is the only one
    /// looked at, so that an attempt costs the same however many wait.
    fn start_delayed_check(&mut self, now: Now, delayed: DelayedCheck, turn: &mut Turn) {
        let (conn, target, ticket) = (delayed.conn, delayed.target.clone(), delayed.ticket);
        // A connection that has closed has nothing to check.
        if self.is_pending(conn) {
            match self.password_throttle.begin(now.since_start, conn, &target) {
                Ok(()) => turn.hash(conn, delayed.job),
                Err(wait) if self.is_too_long(wait, &target, Some(&delayed)) => {
                    self.password_done(now, conn, &Outcome::Busy, turn);
                    // Its input is handled again once this was written.
                    turn.notify_when_drained(conn);
                }
                Err(wait) => {
                    self.delayed_checks.put_back(retry_at(now.since_start, wait), delayed);
                    if wait == Wait::ForOthers {
                        return;
                    }
                }
            }
        }
        self.delayed_checks.release_next(now.since_start, &target, ticket);
    }

    /// Reports the outcome of an attempt to the throttle, also when the connection is
    /// closed, and releases attempts that waited for it.
    pub(super) fn record_attempt(&mut self, now: Now, conn: ConnId, outcome: &Outcome) {
        let is_right = match outcome {
            Outcome::Checked(is_right) => Some(*is_right),
            Outcome::Hashed(_) | Outcome::Busy => None,
        };
        if let Some(target) = self.password_throttle.end(now.since_start, conn, is_right) {
            self.delayed_checks.release_after(now.since_start, &target);
        }
    }

    /// Returns whether a connection waits for the outcome of a line.
    pub(super) fn is_pending(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|c| c.pending.is_some())
    }

    /// Continues a command after its password was checked or hashed.
    pub(super) fn password_done(
        &mut self,
        now: Now,
        conn: ConnId,
        outcome: &Outcome,
        turn: &mut Turn,
    ) {
        let Some(connection) = self.connection_mut(conn) else { return };
        let Some(request) = connection.pending.take() else { return };
        let PendingRequest::Password(PasswordRequest { cid, purpose }) = *request else { return };
        let (phase, settings) = (connection.phase, connection.settings);
        let mut ctx = Context { now, conn, settings, cid, turn };
        let is_done = matches!(outcome, Outcome::Checked(true) | Outcome::Hashed(Some(_)));
        let storage = match phase {
            Phase::LoggedIn(user) if is_done => self.require_storage_for(user, &purpose),
            _ => Ok(()),
        };
        let result = storage.and_then(|()| match (phase, outcome) {
            (Phase::Greeting { .. }, Outcome::Checked(true)) => {
                self.complete_login(&mut ctx, purpose)
            }
            (Phase::LoggedIn(user), Outcome::Checked(is_right)) => {
                self.apply_password_result(&mut ctx, user, purpose, *is_right)
            }
            (Phase::LoggedIn(user), Outcome::Hashed(Some(hash))) => {
                self.apply_hash(&mut ctx, user, &purpose, hash);
                Ok(())
            }
            (_, Outcome::Checked(_)) => refusal(
                ErrorCode::BadPassword,
                "that is not the password; try again with /login NAME PASSWORD",
            ),
            (_, Outcome::Busy) => too_many_attempts(),
            (_, Outcome::Hashed(_)) => {
                refusal(ErrorCode::TooMany, "the server cannot hash passwords now; try again later")
            }
        });
        if let Err(refusal) = result {
            self.note_refused_login(conn);
            ctx.refuse(&refusal);
        }
    }

    /// Completes a login after its password was right.
    fn complete_login(&mut self, ctx: &mut Context<'_>, purpose: Purpose) -> Result<(), Refusal> {
        match purpose {
            Purpose::LogIn(proof) => self.log_in_account(ctx, proof),
            // Another user may have taken the name meanwhile.
            Purpose::LogInGuest(name) => {
                let name = self.require_free_name(name, None)?;
                self.log_in_guest(ctx, &name);
                Ok(())
            }
            _ => wrong_password(),
        }
    }

    /// Applies the outcome of a check for a user who is logged in.
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
            Purpose::ServerOperator => {
                let result =
                    if is_right { self.grant_server_operator(ctx, user) } else { wrong_password() };
                self.note_oper(ctx.now, user, result.as_ref().err());
                result
            }
            Purpose::Enter(room, digest) => {
                let join_key = JoinKey::Checked { digest: &digest, is_right };
                self.join_with(ctx, user, &room, join_key)?;
                self.mark_session_unsaved(user);
                Ok(())
            }
            _ => wrong_password(),
        }
    }

    fn apply_hash(
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

/// Returns when a delayed attempt is tried again. Attempts that wait for running checks are
/// released by `record_attempt`; the minute is only a fallback.
fn retry_at(now: Duration, wait: Wait) -> Duration {
    match wait {
        Wait::Until(retry_at) => retry_at,
        Wait::ForOthers => now + Duration::from_mins(1),
    }
}

fn too_many_attempts() -> Result<(), Refusal> {
    let text = "too many password attempts are waiting; try again in a minute";
    refusal(ErrorCode::RateLimited, text)
}

fn wrong_password() -> Result<(), Refusal> {
    refusal(ErrorCode::BadPassword, "that is not the password; try again")
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{
        Delivered, Driver, conn, connect, connect_from, handle, handle_at, hub, register,
        restarted, say, session, tick_at,
    };
    use super::super::{Flow, Frame, Input, LOGIN_LINE_MAX, Limits};
    use super::*;
    use crate::server::auth::passwords::HashFile;
    use crate::server::store::ReadResult;

    fn hash_done(hub: &mut Driver, slot: u32, hash: &str) -> Delivered {
        handle(hub, slot, Input::Hashed(Outcome::Hashed(Some(hash.into())))).1
    }

    fn check_done(hub: &mut Driver, slot: u32, is_right: bool) -> Delivered {
        handle(hub, slot, Input::Hashed(Outcome::Checked(is_right))).1
    }

    /// A hub with eight connections; alice, who is registered, is on the first.
    fn hub_with_alice() -> Driver {
        let mut hub = hub(Limits::default());
        (0..8).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        assert_eq!(say(&mut hub, 0, "/register old").1.hashes, [conn(0)]);
        assert!(hash_done(&mut hub, 0, "hash of old").text.starts_with("[REGISTERED alice]"));
        hub
    }

    #[test]
    fn login_with_old_password_fails_when_password_changes_meanwhile() {
        let mut hub = hub_with_alice();
        assert_eq!(say(&mut hub, 1, "/login alice old").1.hashes, [conn(1)]);
        say(&mut hub, 0, "/passwd new");
        assert!(hash_done(&mut hub, 0, "hash of new").text.starts_with("[PASSWD alice]"));
        let reply = check_done(&mut hub, 1, true);
        assert!(reply.text.starts_with("[ERROR bad-password] "), "{}", reply.text);
        say(&mut hub, 0, "/ping");
        say(&mut hub, 1, "/login alice new");
        assert!(check_done(&mut hub, 1, true).text.starts_with("[WELCOME alice]"));
        hub.check_invariants();
    }

    #[test]
    fn login_fails_when_account_is_registered_again_meanwhile() {
        let mut hub = hub_with_alice();
        say(&mut hub, 1, "/login alice old");
        say(&mut hub, 0, "/unregister old");
        assert!(check_done(&mut hub, 0, true).text.starts_with("[UNREGISTERED alice]"));
        say(&mut hub, 0, "/register new");
        hash_done(&mut hub, 0, "hash of new");
        assert!(check_done(&mut hub, 1, true).text.starts_with("[ERROR bad-password] "));
    }

    #[test]
    fn login_fails_when_password_changes_while_mail_is_read() {
        let mut hub = hub_with_alice();
        say(&mut hub, 0, "/quit");
        say(&mut hub, 1, "bob");
        say(&mut hub, 1, "/msg alice come back");
        for slot in [2, 3] {
            say(&mut hub, slot, "/login alice old");
            assert_eq!(check_done(&mut hub, slot, true).reads, 1);
        }
        let (_, reply) = handle(&mut hub, 3, Input::Rows(ReadResult::default()));
        assert!(reply.text.starts_with("[WELCOME alice]"), "{}", reply.text);
        say(&mut hub, 3, "/passwd new");
        hash_done(&mut hub, 3, "hash of new");
        let (flow, reply) = handle(&mut hub, 2, Input::Rows(ReadResult::default()));
        assert!(reply.text.starts_with("[ERROR bad-password] "), "{}", reply.text);
        assert_eq!(flow, Flow::Next);
    }

    #[test]
    fn old_key_fails_when_room_key_changes_meanwhile() {
        let mut hub = hub_with_alice();
        say(&mut hub, 0, "/join ops");
        say(&mut hub, 0, "/lock old");
        say(&mut hub, 1, "bob");
        assert_eq!(say(&mut hub, 1, "/join ops old").1.hashes, [conn(1)]);
        say(&mut hub, 0, "/lock new");
        let reply = check_done(&mut hub, 1, true);
        assert!(reply.text.starts_with("[ERROR forbidden] "), "{}", reply.text);
        say(&mut hub, 1, "/join ops new");
        assert!(check_done(&mut hub, 1, true).text.starts_with("[JOINED #ops]"));
    }

    #[test]
    fn delayed_attempt_is_not_overtaken() {
        let mut hub = hub_with_alice();
        for _ in 0..hub.limits.guesses {
            say(&mut hub, 1, "/login alice wrong");
            assert!(check_done(&mut hub, 1, false).text.starts_with("[ERROR bad-password] "));
        }
        let second = |count| Duration::from_secs(1) * count;
        let attempt = |hub: &mut Driver, at, slot| {
            let line = Input::Frame(Frame::Line("/login alice any".into()));
            handle_at(hub, at, slot, line).1.hashes
        };
        let is_wrong = |hub: &mut Driver, at, slot| {
            handle_at(hub, at, slot, Input::Hashed(Outcome::Checked(false)));
        };
        assert_eq!(attempt(&mut hub, Duration::ZERO, 2), []);
        assert_eq!(attempt(&mut hub, Duration::ZERO, 3), []);
        // Another attempt arrives exactly when a delayed one is due.
        assert_eq!(attempt(&mut hub, second(1), 4), [conn(2)]);
        is_wrong(&mut hub, second(1), 2);
        assert_eq!(attempt(&mut hub, second(3), 2), [conn(3)]);
        is_wrong(&mut hub, second(3), 3);
        assert_eq!(attempt(&mut hub, second(7), 5), [conn(4)]);
    }

    #[test]
    fn login_timeout_waits_for_running_check_only() {
        let mut hub = hub_with_alice();
        let (timeout, second) = (hub.limits.login_timeout, Duration::from_secs(1));
        let attempt = |hub: &mut Driver, at, slot| {
            let line = Input::Frame(Frame::Line("/login alice any".into()));
            handle_at(hub, at, slot, line).1
        };
        let check = |hub: &mut Driver, at, slot, is_right| {
            handle_at(hub, at, slot, Input::Hashed(Outcome::Checked(is_right))).1.text
        };
        (1..4).for_each(|slot| assert_eq!(attempt(&mut hub, second, slot).hashes, [conn(slot)]));
        for at in 0..5 {
            let reply = tick_at(&mut hub, timeout + second * at, 1);
            assert_eq!(reply.text, "", "the server has not answered yet");
            assert_eq!(
                hub.next_deadline(),
                Some(timeout + second * (at + 1)),
                "checked again soon"
            );
        }
        let late = timeout + second * 4;
        assert!(check(&mut hub, late, 1, true).starts_with("[WELCOME alice] "));
        assert!(check(&mut hub, late, 2, false).starts_with("[ERROR bad-password] "));
        assert!(check(&mut hub, late, 3, false).starts_with("[ERROR bad-password] "));
        let reply = attempt(&mut hub, late, 2);
        assert!(reply.text.starts_with("[BYE login-timeout] ") && reply.hashes.is_empty());
        let reply = tick_at(&mut hub, late + second, 3);
        assert!(reply.text.starts_with("[BYE login-timeout] "), "{}", reply.text);
    }

    fn sesame() -> HashFile {
        HashFile::read("tests/passwords/sesame.hash").expect("a hash")
    }

    #[test]
    fn names_are_hidden_without_server_password() {
        let mut hub = hub(Limits { password: Some(sesame()), ..Limits::default() });
        (0..3).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "/login bob right");
        assert!(check_done(&mut hub, 0, true).text.starts_with("[WELCOME bob]"));
        for (slot, is_right, answer) in
            [(1, false, "[ERROR bad-password] "), (2, true, "[ERROR name-taken] ")]
        {
            let (_, reply) = say(&mut hub, slot, "/login bob any");
            assert_eq!((reply.text.as_str(), reply.hashes), ("", vec![conn(slot)]));
            assert!(check_done(&mut hub, slot, is_right).text.starts_with(answer));
        }
    }

    #[test]
    fn refused_server_operator_is_not_logged_as_one() {
        let limits =
            Limits { oper_password: Some(sesame()), max_operators: 1, ..Limits::default() };
        let mut hub = hub(limits);
        for (slot, answer, line) in
            [(0, "[OPER ", "is an operator now"), (1, "[ERROR too-many] ", "too many operators")]
        {
            connect(&mut hub, slot);
            say(&mut hub, slot, &format!("p{slot}"));
            say(&mut hub, slot, "/oper right");
            assert!(check_done(&mut hub, slot, true).text.starts_with(answer));
            let log = hub.take_audit();
            assert!(log.len() == 1 && log[0].ends_with(line), "{log:?}");
        }
    }

    #[test]
    fn invitation_used_by_login_is_stored_as_used() {
        let mut hub = hub(Limits { oper_password: Some(sesame()), ..Limits::default() });
        (0..3).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 0, "alice");
        register(&mut hub, 0);
        say(&mut hub, 0, "/oper right");
        check_done(&mut hub, 0, true);
        say(&mut hub, 1, "bob");
        register(&mut hub, 1);
        for (slot, line) in [(1, "/part"), (0, "/lock"), (0, "/invite bob"), (1, "/quit")] {
            say(&mut hub, slot, line);
        }
        hub.mark_saved();
        say(&mut hub, 2, "/login bob right");
        assert!(check_done(&mut hub, 2, true).text.contains("you are in #lobby"));
        assert!(hub.has_changes());
    }

    #[test]
    fn operator_who_left_and_registers_stays_operator_after_restart() {
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
        check_done(&mut hub, 0, true);
        say(&mut hub, 0, "/join ops");
        let (_, reply) = say(&mut hub, 0, "/whois alice");
        assert!(reply.text.contains("operator=#ops"), "{}", reply.text);
    }

    #[test]
    fn mail_is_delivered_after_drop_during_catch_up() {
        let mut hub = hub_with_alice();
        let token = session(&mut hub, 0);
        handle(&mut hub, 0, Input::Disconnected);
        say(&mut hub, 1, "bob");
        say(&mut hub, 1, "/msg alice come back");
        say(&mut hub, 2, &format!("/resume {token} 0"));
        handle(&mut hub, 2, Input::Disconnected);
        tick_at(&mut hub, Duration::from_mins(2), 2);
        (3..6).for_each(|slot| connect(&mut hub, slot));
        say(&mut hub, 3, "/login alice right");
        assert_eq!(check_done(&mut hub, 3, true).reads, 1, "the mail is still stored");
        // A user who has caught up has received it.
        handle(&mut hub, 3, Input::Rows(ReadResult::default()));
        let token = session(&mut hub, 3);
        handle(&mut hub, 3, Input::Disconnected);
        say(&mut hub, 1, "/msg alice come back");
        say(&mut hub, 4, &format!("/resume {token} 0"));
        let (_, reply) = handle(&mut hub, 4, Input::Drained);
        assert_eq!(reply.text, "[PRIVATE MESSAGE] bob: come back\n");
        say(&mut hub, 4, "/quit");
        say(&mut hub, 5, "/login alice right");
        assert_eq!(check_done(&mut hub, 5, true).reads, 0);
    }

    #[test]
    fn registrations_are_rate_limited_per_address() {
        let mut hub = hub(Limits::default());
        let (here, elsewhere, local) = ([192, 0, 2, 1], [192, 0, 2, 2], [127, 0, 0, 1]);
        let mut slots = 0..;
        let mut register_at = |hub: &mut Driver, from: [u8; 4], minutes| {
            let slot = slots.next().expect("a slot");
            connect_from(hub, slot, from);
            say(hub, slot, &format!("p{slot}"));
            let line = Input::Frame(Frame::Line("/register secret".into()));
            handle_at(hub, Duration::from_mins(minutes), slot, line).1
        };
        for _ in 0..40 {
            assert_eq!(register_at(&mut hub, here, 1).hashes.len(), 1);
        }
        let reply = register_at(&mut hub, here, 1);
        assert!(reply.text.starts_with("[ERROR rate-limited] "), "{}", reply.text);
        assert_eq!(register_at(&mut hub, elsewhere, 1).hashes.len(), 1);
        for _ in 0..50 {
            assert_eq!(register_at(&mut hub, local, 1).hashes.len(), 1);
        }
        assert_eq!(register_at(&mut hub, here, 2).hashes.len(), 1);
        assert_eq!(register_at(&mut hub, here, 2).hashes.len(), 0);
    }

    #[test]
    fn password_too_long_for_login_is_refused() {
        let mut hub = hub_with_alice();
        say(&mut hub, 1, "bob");
        for (slot, command, name) in [(0, "/passwd", "alice"), (1, "/register", "bob")] {
            let max = LOGIN_LINE_MAX - format!("/login {name} ").len();
            let (_, reply) = say(&mut hub, slot, &format!("{command} {}", "x".repeat(max + 1)));
            assert!(reply.text.starts_with("[ERROR bad-argument] "), "{}", reply.text);
            assert!(reply.text.contains(&format!(" {max} bytes")), "{}", reply.text);
            let (_, reply) = say(&mut hub, slot, &format!("{command} {}", "x".repeat(max)));
            assert_eq!(reply.hashes, [conn(slot)]);
        }
    }
}
