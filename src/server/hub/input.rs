//! Inputs: the events of a connection that reach the hub, and the functions that handle them.

use std::time::Duration;

use super::commands::gate::{Gate, Need};
use super::commands::logout::{leave, lose_connection};
use super::commands::{dispatch, long_reply, passwords, pending};
use super::context::{Context, Request};
use super::delivery::catch_up;
use super::state::State;
use super::state::connections::{Connection, DeliveryMode, Phase};
use crate::protocol::codec::Frame;
use crate::protocol::units::show_duration;
use crate::protocol::{Farewell, Reply, VERSION};
use crate::server::auth::passwords::Outcome;
use crate::server::net::ConnId;
use crate::server::net::peer::Peer;
use crate::server::store::ReadResult;

/// An event on one connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// The peer connected and its transport is known; the hub sends the greeting.
    Opened(Peer),
    /// The peer connected; its transport is not known yet, so the greeting waits.
    Arrived(Peer),
    /// The transport was detected after [`Input::Arrived`]; the hub sends the greeting.
    TransportKnown {
        /// Whether the connection is protected against eavesdropping.
        is_encrypted: bool,
    },
    /// The client did not start TLS after [`Input::Arrived`], and the server requires TLS.
    Unencrypted,
    /// The client sent a frame.
    Frame(Frame<'a>),
    /// The client has shut down its sending side and still reads its answers.
    Finished,
    /// The connection is closed, or must be closed without a farewell.
    Disconnected,
    /// The connection has not logged in, and its place is needed for a new connection.
    Evicted,
    /// The client has read nothing until the write timeout.
    Stalled,
    /// The outbox has exceeded its limit (backpressure).
    OverLimit,
    /// The outbox has drained below the low-water mark, after
    /// [`Turn::notify_when_drained`](crate::server::turn::Turn::notify_when_drained).
    Drained,
    /// The messages that the connection has read from the log.
    Rows(ReadResult),
    /// The result of hashing or checking the connection's password.
    Hashed(Outcome),
}

/// Which input [`Hub::handle`](super::Hub::handle) accepts next for the same connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next line.
    Next,
    /// No line until a pending request or the catch-up completes.
    Wait,
    /// The same line again, after [`Hub::set_storage`](super::Hub::set_storage) has reported
    /// whether changes can be stored. The line has had no effect yet.
    Store,
    /// The same line again, after [`Hub::offer_token`](super::Hub::offer_token) has supplied the
    /// hash of a new token. The line has had no effect yet.
    Token,
    /// No input: the connection has received its farewell.
    Over,
}

/// How soon an overdue login is checked again while the server still works on it.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Handles any input except a frame.
pub(super) fn handle(
    state: &mut State,
    gate: &mut Gate,
    ctx: &mut Context<'_>,
    conn: ConnId,
    input: Input<'_>,
) {
    match &input {
        Input::Arrived(peer) | Input::Opened(peer) => {
            let deadline = ctx.now.since_start + ctx.limits.login_timeout;
            state.connections.open(conn, *peer, deadline);
            if let (Input::Opened(_), Some(mut req)) = (&input, ctx.request(state, conn)) {
                send_greeting(&mut req);
            }
            return;
        }
        Input::Hashed(outcome) => passwords::record_attempt(state, ctx.now, conn, outcome),
        _ => {}
    }
    let Some(mut req) = ctx.request(state, conn) else { return };
    let (ix, phase) = (req.connection, state.connections[req.connection].phase);
    match input {
        Input::Arrived(_) | Input::Opened(_) | Input::Frame(_) => {}
        Input::Disconnected => lose_connection(state, ctx, conn, None),
        _ if phase == Phase::Closing => {}
        Input::Finished => lose_connection(state, ctx, conn, Some(Farewell::Quit)),
        Input::TransportKnown { is_encrypted } => {
            state.connections.set_encrypted(ix, is_encrypted);
            send_greeting(&mut req);
        }
        Input::Unencrypted => {
            let text = "this server speaks TLS only; use chatty join --tls or ncat --ssl";
            state.connections.close(conn);
            ctx.send_farewell(state, conn, Farewell::BadProtocol, Some(text));
        }
        Input::Evicted => leave(state, ctx, conn, Some(Farewell::TooMany), None),
        Input::Stalled => lose_connection(state, ctx, conn, Some(Farewell::SlowReader)),
        Input::Hashed(outcome) => {
            pending::go_on_with_password(state, &mut req, gate.storage, &outcome);
        }
        Input::OverLimit => catch_up::start(state, ctx.turn, (conn, ix)),
        Input::Drained => {
            if !long_reply::go_on(state, &mut req) {
                catch_up::go_on(state, &mut req);
            }
        }
        Input::Rows(rows) => {
            if pending::go_on_with_rows(state, &mut req, &rows) {
                return;
            }
            match catch_up::send_page(state, &mut req, &rows) {
                catch_up::Page::Sent => {}
                catch_up::Page::HasGap => leave(state, ctx, conn, Some(Farewell::SlowReader), None),
                catch_up::Page::Failed => {
                    lose_connection(state, ctx, conn, Some(Farewell::SlowReader));
                }
            }
        }
    }
}

/// Handles a frame of a connection.
pub(super) fn handle_frame(
    state: &mut State,
    gate: &mut Gate,
    ctx: &mut Context<'_>,
    conn: ConnId,
    frame: &Frame<'_>,
) {
    let Some(mut req) = ctx.request(state, conn) else { return };
    let connection = &state.connections[req.connection];
    match frame {
        _ if connection.phase == Phase::Closing => {}
        Frame::Foreign => leave(state, ctx, conn, Some(Farewell::BadProtocol), None),
        Frame::TooLong(_)
            if connection.is_greeting() && state.connections.poster(conn).is_none() =>
        {
            leave(state, ctx, conn, Some(Farewell::TooLong), None);
        }
        frame => dispatch::handle_line(state, gate, &mut req, frame),
    }
}

/// Disconnects connections that have not logged in in time. A connection whose login the
/// server still works on stays, but may not try another one after the answer.
pub(super) fn expire_logins(state: &mut State, ctx: &mut Context<'_>) {
    while let Some(conn) = state.connections.next_overdue(ctx.now.since_start) {
        let connection = state.connections.find(conn).filter(|it| it.is_greeting());
        match connection.map(|it| it.pending.is_some()) {
            Some(true) => {
                state.connections.check_login_at(ctx.now.since_start + RECHECK_INTERVAL, conn);
            }
            Some(false) => end_login(state, ctx, conn),
            None => {}
        }
    }
}

/// Disconnects a connection that has not logged in in time, or a poster that was idle for long.
fn end_login(state: &mut State, ctx: &mut Context<'_>, conn: ConnId) {
    let deadline = state.connections.login_deadline(conn);
    if let Some(deadline) = deadline.filter(|deadline| *deadline > ctx.now.since_start) {
        return state.connections.check_login_at(deadline, conn);
    }
    if state.connections.poster(conn).is_some() {
        let idle = show_duration(ctx.limits.post_idle);
        let text = format!("disconnected: nothing was posted for {idle}; connect again");
        state.connections.close(conn);
        return ctx.send_farewell(state, conn, Farewell::LoginTimeout, Some(&text));
    }
    leave(state, ctx, conn, Some(Farewell::LoginTimeout), None);
}

fn send_greeting(req: &mut Request<'_>) {
    req.reply(Reply::Hello { protocol: VERSION });
}

/// Returns which input of a connection is accepted next.
pub(super) fn flow(state: &State, gate: &mut Gate, conn: ConnId) -> Flow {
    match gate.take_need(conn) {
        Some(Need::Storage) => return Flow::Store,
        Some(Need::Token) => return Flow::Token,
        None => {}
    }
    match state.connections.find(conn) {
        Some(connection) if connection.pending.is_some() => Flow::Wait,
        Some(Connection { phase: Phase::Greeting { .. }, .. }) => Flow::Next,
        Some(Connection { phase: Phase::LoggedIn(_), delivery, .. }) => {
            if *delivery == DeliveryMode::Live { Flow::Next } else { Flow::Wait }
        }
        _ => Flow::Over,
    }
}
