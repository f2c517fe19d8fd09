//! Reconnects to a server until it succeeds or the time is over: waits, connects, and
//! resumes the session or, if it has ended, logs in again. It does not know how the result
//! is shown.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::login::{Refused, Session, alternative_name, greet, login};
use super::outgoing::CidGenerator;
use super::password::Password;
use super::resume::{Backoff, ResumeRequest, Resumption};
use super::seen_messages::{Position, SeenMessages};
use crate::client::limits::{Budget, MISSED_MAX};
use crate::client::model::state::State;
use crate::client::net::address::Endpoint;
use crate::client::net::connection::{Connection, Unreachable, connect};
use crate::client::net::tls::Tls;
use crate::client::process::exit::Exit;
use crate::commands::{Command, HistoryRange, MessageTarget};
use crate::protocol::reply::List;
use crate::protocol::{ErrorCode, Event, LOBBY, Reply, Tags};

/// How long the server may be silent while the session is resumed.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// After this many attempts that found the name in use, it belongs to another user: the
/// server would have noticed by then that our old connection is lost.
const NAME_TAKEN_MAX: u32 = 3;

/// How to reconnect.
pub(in crate::client) struct ReconnectConfig {
    pub(in crate::client) endpoint: Endpoint,
    /// `None`: no encryption.
    pub(in crate::client) tls: Option<Tls>,
    pub(in crate::client) retry_for: Duration,
    /// The password for a new login.
    pub(in crate::client) password: Option<Password>,
    /// Whether a new login may use another name if ours is taken: a user can see and change
    /// that, a script cannot.
    pub(in crate::client) may_rename: bool,
    /// Whether to request a session.
    pub(in crate::client) wants_session: bool,
    /// Notified to retry now instead of after the delay.
    pub(in crate::client) retry_now: Arc<Notify>,
    /// When the present connection was established.
    pub(in crate::client) since: Instant,
}

impl ReconnectConfig {
    /// Returns a configuration for a session on this machine, for tests.
    #[cfg(test)]
    pub(in crate::client) fn for_test(retry_for: Duration) -> Self {
        Self {
            endpoint: Endpoint { host: "localhost".to_owned(), port: 1 },
            tls: None,
            retry_for,
            password: None,
            may_rename: false,
            wants_session: true,
            retry_now: Arc::default(),
            since: Instant::now(),
        }
    }

    /// Records that the connection was restored.
    pub(in crate::client) fn record_connected(
        &mut self,
        resumption: &mut Resumption,
        backoff: Backoff,
    ) {
        self.since = Instant::now();
        resumption.backoff = backoff;
    }

    /// Returns the reconnector for the connection that was just lost.
    pub(in crate::client) fn reconnector(
        &self,
        resumption: &mut Resumption,
        state: &State,
    ) -> Reconnector {
        let request = resumption.lost(self.since.elapsed());
        Reconnector {
            endpoint: self.endpoint.clone(),
            tls: self.tls.clone(),
            retry_for: self.retry_for,
            password: resumption.outgoing.password().or(self.password.as_ref()).cloned(),
            backoff: resumption.backoff,
            retry_now: self.retry_now.clone(),
            request,
            cids: resumption.outgoing.cids().clone(),
            me: state.me().to_owned(),
            budget: Budget::new(MISSED_MAX),
            may_rename: self.may_rename,
            wants_session: self.wants_session,
            name_taken_count: 0,
            state: state.clone(),
            ids_were_reset: false,
        }
    }
}

/// The state of a reconnection.
pub(in crate::client) struct Reconnector {
    endpoint: Endpoint,
    tls: Option<Tls>,
    retry_for: Duration,
    backoff: Backoff,
    retry_now: Arc<Notify>,
    request: ResumeRequest,
    cids: CidGenerator,
    me: String,
    password: Option<Password>,
    /// The budget for missed lines, over all attempts.
    budget: Budget,
    may_rename: bool,
    wants_session: bool,
    /// How many attempts found our name in use.
    name_taken_count: u32,
    /// The rooms that a new session must join.
    state: State,
    ids_were_reset: bool,
}

/// The result of a reconnection.
pub(in crate::client) struct Reconnected {
    pub(in crate::client) backoff: Backoff,
    /// The name in the server's greeting: a `/nick` may have succeeded whose answer was lost.
    pub(in crate::client) me: String,
    /// The lines that were missed.
    pub(in crate::client) missed: Vec<String>,
    pub(in crate::client) how: Outcome,
    /// Whether message ids went back on the server.
    pub(in crate::client) ids_were_reset: bool,
    pub(in crate::client) after: Duration,
}

/// How the connection was restored.
pub(in crate::client) enum Outcome {
    /// The session was resumed.
    Resumed,
    /// The session was resumed on a server whose message ids went back (restored backup).
    /// All messages were read again, and the rooms and the target were restored.
    Restored(SeenMessages, Session),
    /// The session had ended, and a new one began.
    NewSession(Session),
}

/// The reconnection was abandoned.
pub(in crate::client) struct GivenUp {
    pub(in crate::client) exit: Exit,
    pub(in crate::client) why: String,
}

/// Why one attempt failed.
enum Failure {
    /// The next attempt may succeed.
    Transient(String),
    Final(GivenUp),
}

impl Reconnector {
    /// Retries until the connection is restored or `retry_for` is over.
    pub(in crate::client) async fn run(mut self) -> Result<(Connection, Reconnected), GivenUp> {
        let start = Instant::now();
        let mut problem = None;
        let mut missed = Vec::new();
        loop {
            let left = self.retry_for.saturating_sub(start.elapsed());
            let wait = self.backoff.wait(getrandom::u32().unwrap_or(u32::MAX));
            // Skipping one delay does not shorten the next ones.
            let _ = timeout(wait.min(left), self.retry_now.notified()).await;
            let Some(left) = left.checked_sub(wait) else {
                let why = problem.unwrap_or_else(|| "the connection was lost".to_owned());
                return Err(GivenUp { exit: Exit::Unavailable, why });
            };
            match timeout(left, self.attempt(&mut missed)).await {
                Ok(Ok((connection, how))) => {
                    let ids_were_reset = self.ids_were_reset;
                    let (backoff, me, after) = (self.backoff, self.me, start.elapsed());
                    let back = Reconnected { backoff, me, missed, how, ids_were_reset, after };
                    return Ok((connection, back));
                }
                Ok(Err(Failure::Transient(why))) => problem = Some(why),
                Ok(Err(Failure::Final(given_up))) => return Err(given_up),
                Err(_) => {}
            }
        }
    }

    async fn attempt(
        &mut self,
        missed: &mut Vec<String>,
    ) -> Result<(Connection, Outcome), Failure> {
        let connection = connect(&self.endpoint, self.tls.as_ref()).await;
        let mut connection = connection.map_err(|Unreachable { why, is_final, .. }| {
            let given_up = GivenUp { exit: Exit::Unavailable, why };
            if is_final { Failure::Final(given_up) } else { Failure::Transient(given_up.why) }
        })?;
        greet(&mut connection).await.map_err(|refused| self.failure(&refused))?;
        let is_back = self.resume(&mut connection, missed).await;
        if is_back.map_err(|refused| self.failure(&refused))? {
            if !self.request.ids_went_back() {
                return Ok((connection, Outcome::Resumed));
            }
            let session = self.return_to_place(&mut connection).await;
            let session = session.map_err(|refused| self.failure(&refused))?;
            return Ok((connection, Outcome::Restored(self.request.seen.clone(), session)));
        }
        match self.log_in_again(&mut connection).await {
            Ok(session) => Ok((connection, Outcome::NewSession(session))),
            Err(refused) => {
                self.name_taken_count += u32::from(refused.is_name_taken());
                Err(self.failure(&refused))
            }
        }
    }

    /// Logs in again, joins the rooms of the old session, and reads the messages since then.
    async fn log_in_again(&mut self, connection: &mut Connection) -> Result<Session, Refused> {
        let last = self.request.last();
        let mut first = self.state.restore_rooms();
        // If the last message seen in a room still has its id, ids mean the same messages
        // as before.
        let proof = self.request.seen.in_room().filter(|(_, room)| self.state.is_in(room));
        let proof = proof.map(|(position, room)| (position, room.to_owned()));
        if let Some((Position { id, .. }, room)) = &proof {
            let rows = HistoryRange::after(1, id.saturating_sub(1));
            let thread = Some(MessageTarget::Room(room));
            first.push(Command::History { rows, thread }.to_string());
        }
        first.extend(last.iter().flat_map(|last| self.state.histories(Some(last.id))));
        let name = self.next_name();
        let password = self.password.as_ref();
        let logged_in = login(connection, &name, password, &first, &self.cids, self.wants_session);
        let mut session = logged_in.await?;
        let Some(last) = last else { return Ok(session) };
        let is_proven = proof.is_some_and(|(proof, _)| {
            session.missed.iter().any(|row| Position::of(&Tags::split(row).0) == Some(proof))
        });
        if !is_proven {
            session.send_and_wait(connection, &self.state.histories(None), &self.cids).await?;
        }
        let known = self.request.seen.known();
        let is_new = |row: &String| {
            let position = Position::of(&Tags::split(row).0);
            position
                .is_none_or(|it| !known.contains(it) && (it.id > last.id || it.time > last.time))
        };
        session.missed.retain(is_new);
        session.has_more = session.is_cut || session.oldest.iter().any(is_new);
        session.sort_missed();
        self.ids_were_reset |= session
            .missed
            .iter()
            .any(|row| Position::of(&Tags::split(row).0).is_some_and(|it| it.id <= last.id));
        Ok(session)
    }

    /// Restores rooms and target after the server lost its latest state: it may have us in
    /// other rooms, or in another private conversation, where the waiting lines must not be
    /// sent.
    async fn return_to_place(&mut self, connection: &mut Connection) -> Result<Session, Refused> {
        let mut session = Session::of(&self.me);
        let request = Command::Whois { name: &self.me }.to_string();
        session.send_and_wait(connection, &[request], &self.cids).await?;
        let whois = |line: &str| match Event::parse(Tags::split(line).1) {
            Some(Event::Reply(Reply::Whois(whois))) => Some(whois.rooms.0.to_owned()),
            _ => None,
        };
        let rooms = session.lines.iter().find_map(|line| whois(line)).unwrap_or_default();
        session.lines.retain(|line| whois(line).is_none());
        let rooms: Vec<&str> =
            List(&rooms).iter().map(|room| room.trim_start_matches('#')).collect();
        let lines = self.state.commands_to_return_from(&rooms);
        session.send_and_wait(connection, &lines, &self.cids).await?;
        if !self.state.is_in(LOBBY) && !rooms.contains(&LOBBY) {
            // A new state starts in the lobby, but the server does not have us there.
            session.lines.push(format!("@cid={} [PARTED #{LOBBY}]", self.cids.named_cid("first")));
        }
        Ok(session)
    }

    /// Returns the name to log in with: ours or, if another guest has it by now, a similar one.
    fn next_name(&self) -> String {
        let is_lost =
            self.name_taken_count >= NAME_TAKEN_MAX && self.may_rename && self.password.is_none();
        if is_lost { alternative_name(&self.me) } else { self.me.clone() }
    }

    /// Resumes the session and reads the missed lines. `false`: the session has ended.
    async fn resume(
        &mut self,
        connection: &mut Connection,
        missed: &mut Vec<String>,
    ) -> Result<bool, Refused> {
        while let Some(lines) = self.request.lines(&connection.features) {
            for line in &lines {
                connection.send(line);
            }
            let Some((code, text)) = self.read_missed(connection, missed).await? else {
                return Ok(true);
            };
            if ErrorCode::parse(&code) == Some(ErrorCode::StorageFull) {
                return Err(Refused::NotNow { why: text });
            }
            self.request.refused(&code, &text);
            self.ids_were_reset |= self.request.ids_went_back();
        }
        Ok(false)
    }

    /// Reads lines up to the barrier. Returns the refusal if the server refused to resume.
    async fn read_missed(
        &mut self,
        connection: &mut Connection,
        missed: &mut Vec<String>,
    ) -> Result<Option<(String, String)>, Refused> {
        let mut is_welcome = false;
        let mut refusal = (String::new(), String::new());
        loop {
            let line = timeout(SILENCE_MAX, connection.line()).await;
            let line = line.map_err(|_| Refused::Silent)?.ok_or(Refused::Closed)?;
            let is_within_budget = self.budget.spend(&line);
            let (tags, plain) = Tags::split(&line);
            let is_barrier = tags.cid == Some(self.request.barrier.as_str());
            match Event::parse(plain) {
                // The barrier is answered after a refusal, too.
                _ if is_barrier => return Ok((!is_welcome).then_some(refusal)),
                Some(Event::Bye { code, text }) => return Err(Refused::farewell(code, text)),
                _ if !is_within_budget && !is_welcome => return Err(Refused::Flood),
                Some(Event::Reply(Reply::Welcome { name, .. })) if !is_welcome => {
                    name.clone_into(&mut self.me);
                    is_welcome = true;
                }
                Some(Event::Error { code, text, .. }) if !is_welcome => {
                    refusal = (code.to_owned(), text.to_owned());
                }
                _ if self.request.note(&line) => missed.push(line),
                _ => {}
            }
            // Past the budget, the rest is handled as live lines.
            if !is_within_budget {
                return Ok(None);
            }
        }
    }

    fn failure(&self, refused: &Refused) -> Failure {
        let why = refused.sentence(&self.endpoint);
        if refused.is_transient() || (!self.wants_session && refused.is_replaced()) {
            return Failure::Transient(why);
        }
        Failure::Final(GivenUp { exit: refused.exit(), why })
    }
}
