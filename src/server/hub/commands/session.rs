//! Sessions: `/session` and `/resume`. A user with a session token keeps their name and rooms for
//! `--session-grace` after a disconnect, without an announcement. Messages of that time are in
//! the log; `/resume` starts a catch-up from there.

use std::sync::Arc;

use super::bans::{leave_banned_rooms, reject_banned};
use super::{
    ErrorReason, Farewell, PendingRequest, ReadRequest, Record, Reply, Request, Result, State,
    Thread, UserIx, refusal,
};
use crate::protocol::reply::Arrival;
use crate::server::auth::tokens::{TokenHash, hash};
use crate::server::hub::state::messages::recent::Lookup;
use crate::server::hub::state::pending::{Cursor, ResumeCheck};

/// The text is part of the protocol: clients recognize it and read again from the beginning
/// of their login.
fn ids_went_back<T>() -> Result<T> {
    refusal(ErrorReason::BadArgument, "ids went back (restored backup?)")
}

/// `/session`. Repeated calls return the same token until the user logs out; `new_token` is the
/// hash of the token if the session begins now.
pub(super) fn session(
    state: &mut State,
    req: &mut Request<'_>,
    user: UserIx,
    new_token: Option<TokenHash>,
) {
    if let Some(token) = new_token {
        state.begin_session(user, token);
    }
    req.reply_session();
}

/// `/resume`. Nothing changes before the cursor is known to belong to this log.
pub(super) fn resume(
    state: &mut State,
    req: &mut Request<'_>,
    token: &str,
    cursor: Cursor,
) -> Result {
    let token = hash(token);
    let Some(user) = user_to_resume(state, req, token)? else { return Ok(()) };
    if cursor.after > state.messages.last_id() {
        return ids_went_back();
    }
    let lookup = match cursor.time.filter(|_| cursor.after > 0) {
        Some(time) => match state.messages.recent.find(cursor.after) {
            Lookup::Found(record) if record.time != time => return ids_went_back(),
            lookup => lookup,
        },
        None => Lookup::NoMessage,
    };
    match lookup {
        // A skipped id has no message, hence no time to compare.
        Lookup::Found(_) | Lookup::NoMessage => attach(state, req, user, cursor.after),
        Lookup::InLog => {
            let request = ResumeCheck { cid: req.cid.take(), token, cursor };
            let thread = Thread::Message { id: cursor.after };
            let query = ReadRequest::latest(thread, 1, usize::MAX);
            state.connections.wait_for(req.connection, PendingRequest::Resume(request));
            req.read(query);
        }
    }
    Ok(())
}

/// Completes `/resume` after the message of the cursor was read. The session may have
/// ended meanwhile, or another connection may have resumed it; that connection is
/// replaced.
pub(super) fn resume_with_row(
    state: &mut State,
    req: &mut Request<'_>,
    request: &ResumeCheck,
    found: &[Arc<Record>],
) -> Result {
    let Some(user) = user_to_resume(state, req, request.token)? else { return Ok(()) };
    if found.iter().any(|record| Some(record.time) != request.cursor.time) {
        return ids_went_back();
    }
    attach(state, req, user, request.cursor.after);
    Ok(())
}

/// Returns the user of a token; `None` if the user is banned and the connection has
/// been rejected.
fn user_to_resume(
    state: &mut State,
    req: &mut Request<'_>,
    token: TokenHash,
) -> Result<Option<UserIx>> {
    let user = state.sessions.find(token).and_then(|user_id| state.users.find(user_id));
    let Some(user) = user else {
        let text = "unknown or ended session; type /login NAME to log in again";
        return refusal(ErrorReason::BadPassword, text);
    };
    let (user_id, name) = (state.users[user].id, state.users[user].name.clone());
    Ok((!reject_banned(state, req, user_id, &name)).then_some(user))
}

/// Attaches this connection to the user; a connection that still has the user is closed
/// as replaced.
fn attach(state: &mut State, req: &mut Request<'_>, user: UserIx, after: u64) {
    if let Some(old) = state.connection_of(user).socket {
        state.connections.close(old);
        req.send_farewell(state, old, Farewell::Replaced, None);
    }
    state.mail.resume(state.users[user].id, after);
    state.resume(user, req.socket, after);
    req.connection = state.users[user].connection;
    req.settings = state.connections[req.connection].settings;
    let after = after.max(state.users[user].first);
    let evicted_upto = state.memberships.spans(user).evicted_upto;
    let arrival = Arrival::Resumed((after < evicted_upto).then_some(evicted_upto));
    let name = state.users[user].name.as_str();
    req.reply(Reply::Welcome { name, arrival: Some(arrival) });
    leave_banned_rooms(state, req, user);
    req.notify_when_drained();
}

#[cfg(test)]
mod tests {
    use crate::server::hub::test_support::{
        Driver, connect, connect_from, handle, hub, mark_saved, message, refused, restarted, say,
        session,
    };
    use std::net::IpAddr;

    use crate::protocol::{ErrorReason, Stamp};
    use crate::server::hub::{Flow, Input, Limits};
    use crate::server::store::ReadResult;

    const IDS_WENT_BACK: &str = "[ERROR bad-argument] ids went back (restored backup?)\n";

    /// A restarted hub with a session of bob, and its token; message 2 was posted before
    /// the restart.
    fn restarted_with_session() -> (Driver, String) {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "bob");
        let token = session(&mut hub, 0);
        say(&mut hub, 0, "one");
        say(&mut hub, 0, "two");
        let mut hub = restarted(&mut hub);
        (0..3).for_each(|slot| connect(&mut hub, slot));
        (hub, token)
    }

    /// Message 2 as the log returns it.
    fn row() -> ReadResult {
        ReadResult { records: vec![message(2, "lobby", None, "two")], ..ReadResult::default() }
    }

    #[test]
    fn resume_compares_the_time_of_its_message_with_the_log() {
        let right = Stamp(0);
        for (time, rows, first_answer) in [
            (right, row(), "[WELCOME bob] you are back\n"),
            (Stamp(1), row(), IDS_WENT_BACK),
            // Deleted, or never a message: there is no time to compare.
            (Stamp(1), ReadResult::default(), "[WELCOME bob] you are back\n"),
            (right, ReadResult::failed(), "[ERROR storage-full] "),
        ] {
            let (mut hub, token) = restarted_with_session();
            let (flow, reply) = say(&mut hub, 0, &format!("/resume {token} 2 {time}"));
            assert_eq!((flow, reply.reads, reply.text.as_str()), (Flow::Wait, 1, ""));
            let (flow, reply) = handle(&mut hub, 0, Input::Rows(rows));
            assert!(reply.text.starts_with(first_answer), "{time}: {}", reply.text);
            assert_eq!(flow == Flow::Next, !first_answer.contains("WELCOME"), "it catches up");
            hub.check_invariants();
            // The session survives in any case.
            let (_, reply) = say(&mut hub, 1, &format!("/resume {token} 0"));
            assert!(reply.text.starts_with("[WELCOME bob]"), "{}", reply.text);
        }
    }

    #[test]
    fn resume_after_a_message_in_memory_needs_no_log() {
        let (mut hub, token) = restarted_with_session();
        say(&mut hub, 1, "alice");
        say(&mut hub, 1, "three");
        for (cursor, answer) in [
            ("3 1970-01-01T00:00:00.001Z", IDS_WENT_BACK),
            ("4", IDS_WENT_BACK),
            ("3 1970-01-01T00:00:00.000Z", "[WELCOME bob] you are back\n"),
        ] {
            let (_, reply) = say(&mut hub, 0, &format!("/resume {token} {cursor}"));
            assert_eq!((reply.reads, reply.text.as_str()), (0, answer), "{cursor}");
        }
    }

    #[test]
    fn resume_that_waits_for_the_log_replaces_later_connections() {
        let (mut hub, token) = restarted_with_session();
        let (_, reply) = say(&mut hub, 0, &format!("/resume {token} 2 {}", Stamp(0)));
        assert_eq!(reply.reads, 1);
        // Another connection resumes meanwhile and is live.
        say(&mut hub, 1, &format!("/resume {token} 2"));
        handle(&mut hub, 1, Input::Drained);
        say(&mut hub, 1, "/nick rob");
        let (_, reply) = handle(&mut hub, 0, Input::Rows(row()));
        assert!(reply.text.starts_with("[WELCOME rob]"), "{}", reply.text);
        hub.check_invariants();
        // Conversely, the session ends meanwhile.
        let (_, reply) = say(&mut hub, 2, &format!("/resume {token} 2 {}", Stamp(0)));
        assert_eq!(reply.reads, 1);
        handle(&mut hub, 0, Input::Drained);
        say(&mut hub, 0, "/quit");
        let (flow, reply) = handle(&mut hub, 2, Input::Rows(row()));
        assert!(reply.text.starts_with("[ERROR bad-password] "), "{}", reply.text);
        assert_eq!(flow, Flow::Next);
        // A connection that has closed by then gets nothing.
        let (mut hub, token) = restarted_with_session();
        say(&mut hub, 0, &format!("/resume {token} 2 {}", Stamp(0)));
        handle(&mut hub, 0, Input::Disconnected);
        let (_, reply) = handle(&mut hub, 0, Input::Rows(row()));
        assert_eq!(reply.text, "");
        hub.check_invariants();
    }

    /// Connects from `address`, logs in, opens a session, and disconnects.
    fn log_in_and_drop(hub: &mut Driver, slot: u32, address: [u8; 4]) {
        connect_from(hub, slot, address);
        say(hub, slot, &format!("p{slot}"));
        session(hub, slot);
        handle(hub, slot, Input::Disconnected);
        hub.forget_connection(crate::server::hub::test_support::conn(slot));
        hub.check_invariants();
    }

    fn has_session(hub: &Driver, slot: u32) -> bool {
        hub.state.users.named(&format!("p{slot}")).is_some()
    }

    #[test]
    fn disconnected_sessions_are_limited_per_network() {
        let mut hub = hub(Limits { max_per_address: 3, ..Limits::default() });
        (0..5).for_each(|slot| log_in_and_drop(&mut hub, slot, [192, 0, 2, 1]));
        let remaining: Vec<bool> = (0..5).map(|slot| has_session(&hub, slot)).collect();
        assert_eq!(remaining, [false, false, true, true, true], "the oldest sessions end");
        (5..8).for_each(|slot| log_in_and_drop(&mut hub, slot, [192, 0, 2, 2]));
        (8..20).for_each(|slot| log_in_and_drop(&mut hub, slot, [127, 0, 0, 1]));
        assert!((2..20).all(|slot| has_session(&hub, slot)), "other networks are not affected");
        let mut hub = restarted(&mut hub);
        log_in_and_drop(&mut hub, 20, [192, 0, 2, 1]);
        assert_eq!(
            (2..21).filter(|slot| has_session(&hub, *slot)).count(),
            18,
            "the limit still applies"
        );
    }

    #[test]
    fn ban_of_network_reaches_dropped_users_by_their_last_address() {
        let cases: [(IpAddr, &str); 5] = [
            ([127, 0, 0, 1].into(), "127.0.0.0/8"),
            ([192, 0, 2, 1].into(), "192.0.2.0/24"),
            ("::ffff:192.0.2.1".parse().unwrap(), "192.0.2.1"),
            ("2001:db8::7".parse().unwrap(), "2001:db8::7/128"),
            ("2001:db8::7".parse().unwrap(), "2001:db8::/32"),
        ];
        for (address, banned) in cases {
            for is_restarted in [false, true] {
                let mut hub = hub(Limits::default());
                connect_from(&mut hub, 0, [198, 51, 100, 1]);
                say(&mut hub, 0, "alice");
                say(&mut hub, 0, "/join ops");
                let operator = session(&mut hub, 0);
                connect_from(&mut hub, 1, address);
                say(&mut hub, 1, "carol");
                say(&mut hub, 1, "/join ops");
                let token = session(&mut hub, 1);
                handle(&mut hub, 1, Input::Disconnected);
                hub.forget_connection(crate::server::hub::test_support::conn(1));
                if is_restarted {
                    hub = restarted(&mut hub);
                    connect_from(&mut hub, 0, [198, 51, 100, 1]);
                    say(&mut hub, 0, &format!("/resume {operator} 0"));
                    handle(&mut hub, 0, Input::Drained);
                }
                let (_, reply) = say(&mut hub, 0, &format!("/ban {banned}"));
                let kicked = "#ops * carol was kicked by alice";
                assert!(reply.text.contains(kicked), "{address} {banned}: {}", reply.text);
                // The ban applies whatever address she resumes from.
                connect_from(&mut hub, 1, [203, 0, 113, 9]);
                say(&mut hub, 1, &format!("/resume {token} 0"));
                handle(&mut hub, 1, Input::Drained);
                assert_eq!(refused(&mut hub, 1, "/history #ops"), Some(ErrorReason::NotMember));
                hub.check_invariants();
            }
        }
    }

    #[test]
    fn ban_of_dropped_user_covers_their_network() {
        for is_restarted in [false, true] {
            let mut hub = hub(Limits::default());
            connect(&mut hub, 0);
            say(&mut hub, 0, "alice");
            say(&mut hub, 0, "/join ops");
            let token = session(&mut hub, 0);
            log_in_and_drop(&mut hub, 1, [192, 0, 2, 1]);
            if is_restarted {
                hub = restarted(&mut hub);
                connect(&mut hub, 0);
                say(&mut hub, 0, &format!("/resume {token} 0"));
                handle(&mut hub, 0, Input::Drained);
            }
            let (_, reply) = say(&mut hub, 0, "/ban p1");
            assert!(reply.text.starts_with("[BANNED #ops p1]"), "{}", reply.text);
            connect_from(&mut hub, 2, [192, 0, 2, 1]);
            say(&mut hub, 2, "other");
            assert_eq!(refused(&mut hub, 2, "/join ops"), Some(ErrorReason::BannedFromRoom));
        }
    }

    #[test]
    fn lost_connection_changes_nothing_that_is_stored() {
        let mut hub = hub(Limits::default());
        connect(&mut hub, 0);
        say(&mut hub, 0, "alice");
        session(&mut hub, 0);
        mark_saved(&mut hub);
        handle(&mut hub, 0, Input::Disconnected);
        assert!(!hub.has_changes());
    }
}
