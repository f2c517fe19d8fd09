//! What all commands with a password share. Hashing happens outside the hub: the connection
//! waits, and the outcome arrives as an input (`pending.rs`). The hub keeps no password.

use std::time::Duration;

use super::logout::leave;
use super::{
    ConnId, Context, ErrorReason, Farewell, Now, PendingRequest, Purpose, Refusal, Request, Result,
    State, Target, refusal,
};
use crate::server::auth::passwords::{Job, Outcome};
use crate::server::hub::state::password_throttle::Decision;
use crate::server::hub::state::pending::PasswordRequest;
use crate::server::net::peer::Peer;

/// The text of the refusal of passwords over unencrypted connections.
pub(super) const INSECURE: &str = "passwords are not accepted over unencrypted \
    connections; use TLS, or connect from the server's machine";

/// Refuses passwords over unencrypted connections, except from loopback or with
/// `--allow-insecure-passwords`.
pub(super) fn require_privacy(state: &State, req: &Request<'_>) -> Result {
    if is_private(state, req) || req.limits.allow_insecure_passwords {
        return Ok(());
    }
    refusal(ErrorReason::Insecure, INSECURE)
}

/// Returns whether the connection is encrypted or from loopback.
pub(super) fn is_private(state: &State, req: &Request<'_>) -> bool {
    state.connections[req.connection].peer.is_some_and(Peer::is_private)
}

/// Checks a password; the throttle decides when.
pub(super) fn check_password(
    state: &mut State,
    req: &mut Request<'_>,
    purpose: Purpose,
    target: Target,
) -> Result {
    let connection = &state.connections[req.connection];
    let deadline = state.connections.login_deadline(req.socket);
    if deadline.is_some_and(|deadline| deadline <= req.now.since_start) {
        // Otherwise queued attempts would extend the login timeout.
        let socket = req.socket;
        leave(state, req, socket, Some(Farewell::LoginTimeout), None);
        return Ok(());
    }
    let Some(peer) = connection.peer else { return Ok(()) };
    let (now, socket) = (req.now.since_start, req.socket);
    state.password_throttle.add(now, socket, target, peer).map_err(too_many_attempts)?;
    wait_for_password(state, req, purpose);
    run_throttle(state, req);
    Ok(())
}

/// Hashes a new password. Rate-limited per address: hashing is expensive, and accounts
/// stay.
pub(super) fn hash_new(state: &mut State, req: &mut Request<'_>, purpose: Purpose) -> Result {
    let peer = state.connections[req.connection].peer;
    let peer = peer.filter(|peer| req.limits.apply_to(*peer));
    let now = req.now.since_start;
    if let Some(peer) = peer
        && let Err(network) = state.new_passwords.allow(now, peer)
    {
        let whose = peer.describe(network);
        let text = format!("too many new passwords from {whose}; try again in a minute");
        return refusal(ErrorReason::RateLimited, text);
    }
    req.hash(Job::Hash);
    wait_for_password(state, req, purpose);
    Ok(())
}

fn wait_for_password(state: &mut State, req: &mut Request<'_>, purpose: Purpose) {
    let request = PasswordRequest { cid: req.cid.take(), purpose };
    state.connections.wait_for(req.connection, PendingRequest::Password(request));
}

/// Starts the checks that may start now, and refuses attempts that may no longer wait.
pub(in crate::server::hub) fn run_throttle(state: &mut State, ctx: &mut Context<'_>) {
    let now = ctx.now.since_start;
    while let Some(decision) = state.password_throttle.next(now) {
        match decision {
            Decision::Check(socket, job)
                if state.connections.find(socket).is_some_and(|it| it.pending.is_some()) =>
            {
                ctx.turn.hash(socket, job);
            }
            // The connection has got its farewell.
            Decision::Check(socket, _) => state.password_throttle.end(now, socket, None),
            Decision::Refuse(socket, wait) => refuse_waiting(state, ctx, socket, wait),
        }
    }
}

/// Refuses an attempt that waits.
fn refuse_waiting(state: &mut State, ctx: &mut Context<'_>, socket: ConnId, wait: Duration) {
    let Some(mut req) = ctx.request(state, socket) else { return };
    if let Some(PasswordRequest { cid, .. }) = take_password_request(state, &req) {
        req.cid = cid;
        state.connections.note_refused_login(req.connection);
        req.refuse(&too_many_attempts(wait));
        // Its input is handled again once this was written.
        req.notify_when_drained();
    }
}

/// Takes the pending request of a connection that waits for a password.
pub(super) fn take_password_request(
    state: &mut State,
    req: &Request<'_>,
) -> Option<PasswordRequest> {
    state.connections.take_pending(req.connection, |request| match request {
        PendingRequest::Password(request) => Ok(request),
        other => Err(other),
    })
}

/// Reports the outcome of an attempt to the throttle. It counts only if the client learns it.
pub(in crate::server::hub) fn record_attempt(
    state: &mut State,
    now: Now,
    socket: ConnId,
    outcome: &Outcome,
) {
    let is_pending = state.connections.find(socket).is_some_and(|it| it.pending.is_some());
    let is_right = match outcome {
        Outcome::Checked(is_right) => Some(*is_right).filter(|_| is_pending),
        Outcome::Hashed(_) | Outcome::Busy => None,
    };
    state.password_throttle.end(now.since_start, socket, is_right);
}

/// Returns the refusal of an attempt; after `wait` another one can be made.
pub(super) fn too_many_attempts(wait: Duration) -> Refusal {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    let unit = if seconds == 1 { "second" } else { "seconds" };
    let text = format!("too many password attempts are waiting; try again in {seconds} {unit}");
    Refusal::new(ErrorReason::RateLimited, text)
}

#[cfg(test)]
mod attacks;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec::Frame;
    use crate::server::auth::passwords::HashFile;
    use crate::server::hub::test_support::{
        Delivered, Driver, conn, connect, connect_from, handle, handle_at, hub, mark_saved,
        register, restarted, say, session, tick_at,
    };
    use crate::server::hub::{Flow, Input, LOGIN_LINE_MAX, Limits};
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
    fn refused_attempt_is_told_when_to_try_again() {
        let mut hub = hub_with_alice();
        let count = hub.limits.guesses;
        let waiting = u32::try_from(hub.limits.guesses_waiting).expect("few");
        let slots = 10..10 + count + waiting + 2;
        for slot in slots.clone() {
            connect(&mut hub, slot);
            say(&mut hub, slot, "/login alice any");
        }
        let checked = slots.clone().take(count as usize);
        checked.for_each(|slot| drop(check_done(&mut hub, slot, false)));
        let refused = "[ERROR rate-limited] too many password attempts are waiting; try again in";
        // One that waited for running checks, and a later one.
        let reply = tick_at(&mut hub, Duration::ZERO, slots.end - 2);
        assert_eq!(reply.text, format!("{refused} 1 second\n"));
        assert!(reply.waits_to_be_read && reply.hashes.is_empty());
        let reply = tick_at(&mut hub, Duration::from_secs(1), 0);
        assert_eq!(reply.hashes, [conn(10 + count)]);
        let wrong = Input::Hashed(Outcome::Checked(false));
        handle_at(&mut hub, Duration::from_millis(1001), 10 + count, wrong);
        for (slot, text) in [(1, ""), (2, &format!("{refused} 2 seconds\n"))] {
            let line = Input::Frame(Frame::Line("/login alice any".into()));
            let (_, reply) = handle_at(&mut hub, Duration::from_millis(1500), slot, line);
            assert_eq!((reply.text.as_str(), reply.hashes), (text, vec![]));
        }
    }

    #[test]
    fn delayed_attempt_does_not_count_for_a_new_password() {
        let mut hub = hub_with_alice();
        for slot in 1..6 {
            say(&mut hub, slot, "/login alice any");
        }
        (1..5).for_each(|slot| drop(check_done(&mut hub, slot, false)));
        say(&mut hub, 0, "/passwd new");
        hash_done(&mut hub, 0, "hash of new");
        assert_eq!(tick_at(&mut hub, Duration::from_secs(1), 5).hashes, [conn(5)]);
        assert!(check_done(&mut hub, 5, true).text.starts_with("[ERROR bad-password] "));
        for slot in 1..4 {
            assert_eq!(say(&mut hub, slot, "/login alice any").1.hashes, [conn(slot)]);
            assert!(check_done(&mut hub, slot, false).text.starts_with("[ERROR bad-password] "));
        }
        assert_eq!(say(&mut hub, 4, "/login alice new").1.hashes, [conn(4)], "at once");
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
        mark_saved(&mut hub);
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
        let mut hub = restarted(&mut hub);
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
        handle(&mut hub, 3, Input::Rows(ReadResult { upto: 1, ..ReadResult::default() }));
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
