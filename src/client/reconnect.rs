//! The way back to a server, tried until it is there: wait, connect, resume the
//! session or, where it is over, log in anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Exit;
use super::address::Endpoint;
use super::connection::{Connection, Unreachable, connect};
use super::limits::{Budget, MISSED_MAX};
use super::login::{Refused, Session, alternative_name, greet, login};
use super::outgoing::CidGenerator;
use super::password::Password;
use super::resume::{Backoff, ResumeRequest, Resumption};
use super::seen_messages::{Position, SeenMessages};
use super::state::State;
use crate::commands::{Command, HistoryRange, MessageTarget};
use crate::protocol::{ErrorCode, Event, LOBBY, Tags};

/// How long the server may be silent while we come back.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A name that is taken in so many tries is somebody else's: it is not ourselves any
/// more whom the server has not noticed to be gone.
const NAME_TAKEN_MAX: u32 = 3;

/// Where the server is, and how long to look for it.
pub(super) struct ReconnectConfig {
    pub(super) endpoint: Endpoint,
    pub(super) retry_for: Duration,
    /// What a new login takes.
    pub(super) password: Option<Password>,
    /// Whether to come back under another name where ours is taken: a person sees
    /// that and can change it, a script cannot.
    pub(super) may_rename: bool,
    /// Whether the server is asked to keep our place.
    pub(super) keeps_place: bool,
    /// Rung when nobody wants to wait for the next try.
    pub(super) hurry: Arc<Notify>,
    /// Since when there is a connection.
    pub(super) since: Instant,
}

impl ReconnectConfig {
    /// A connection stands again.
    pub(super) fn found(&mut self, comeback: &mut Resumption, backoff: Backoff) {
        self.since = Instant::now();
        comeback.backoff = backoff;
    }

    /// The way back from here; the connection has just been lost.
    pub(super) fn way(&self, comeback: &mut Resumption, state: &State) -> Reconnector {
        let opening = comeback.lost(self.since.elapsed());
        Reconnector {
            endpoint: self.endpoint.clone(),
            retry_for: self.retry_for,
            password: comeback.outgoing.password().or(self.password.as_ref()).cloned(),
            backoff: comeback.backoff,
            hurry: self.hurry.clone(),
            opening,
            cids: comeback.outgoing.cids().clone(),
            me: state.me().to_owned(),
            budget: Budget::new(MISSED_MAX),
            may_rename: self.may_rename,
            keeps_place: self.keeps_place,
            taken: 0,
            state: state.clone(),
            ids_were_reset: false,
        }
    }
}

/// What is needed to come back.
pub(super) struct Reconnector {
    endpoint: Endpoint,
    retry_for: Duration,
    backoff: Backoff,
    hurry: Arc<Notify>,
    opening: ResumeRequest,
    cids: CidGenerator,
    me: String,
    password: Option<Password>,
    /// For what was missed, over all tries.
    budget: Budget,
    may_rename: bool,
    keeps_place: bool,
    /// How often our name was somebody else's.
    taken: u32,
    /// Where a new visit is to lead.
    state: State,
    ids_were_reset: bool,
}

/// Back again.
pub(super) struct Reconnected {
    pub(super) connection: Connection,
    pub(super) backoff: Backoff,
    /// The name the server greeted us with: a `/nick` may have been done of which
    /// we have not seen the answer.
    pub(super) me: String,
    /// What was said meanwhile.
    pub(super) missed: Vec<String>,
    pub(super) how: Outcome,
    /// Whether message ids went back on the server.
    pub(super) ids_were_reset: bool,
    pub(super) after: Duration,
}

/// How we are back.
pub(super) enum Outcome {
    /// In the same visit.
    Resumed,
    /// In the same visit, of which the server has forgotten a part. All of it was read
    /// again; this has been seen by now, and so we were led back where we had been.
    Restored(SeenMessages, Session),
    /// In a new visit, as the old one was over.
    Anew(Session),
}

/// No use in trying on.
pub(super) struct GivenUp {
    pub(super) exit: Exit,
    pub(super) why: String,
}

/// Why one try failed.
enum Failure {
    /// The next one may do better.
    Passing(String),
    Final(GivenUp),
}

impl Reconnector {
    /// Comes back, if it can be done in the time there is.
    pub(super) async fn find(mut self) -> Result<Reconnected, GivenUp> {
        let start = Instant::now();
        let mut problem = None;
        let mut missed = Vec::new();
        loop {
            let left = self.retry_for.saturating_sub(start.elapsed());
            let wait = self.backoff.wait(getrandom::u32().unwrap_or(u32::MAX));
            // In a hurry only the wait is over; the next one is as long as it would be.
            let _ = timeout(wait.min(left), self.hurry.notified()).await;
            let Some(left) = left.checked_sub(wait) else {
                let why = problem.unwrap_or_else(|| "the connection was lost".to_owned());
                return Err(GivenUp { exit: Exit::Unavailable, why });
            };
            match timeout(left, self.attempt(&mut missed)).await {
                Ok(Ok((connection, how))) => {
                    let ids_were_reset = self.ids_were_reset;
                    let (backoff, me, after) = (self.backoff, self.me, start.elapsed());
                    return Ok(Reconnected {
                        connection,
                        backoff,
                        me,
                        missed,
                        how,
                        ids_were_reset,
                        after,
                    });
                }
                Ok(Err(Failure::Passing(why))) => problem = Some(why),
                Ok(Err(Failure::Final(given_up))) => return Err(given_up),
                Err(_) => {}
            }
        }
    }

    async fn attempt(
        &mut self,
        missed: &mut Vec<String>,
    ) -> Result<(Connection, Outcome), Failure> {
        let connection = connect(&self.endpoint).await;
        let mut connection = connection.map_err(|Unreachable { why, is_final }| {
            let given_up = GivenUp { exit: Exit::Unavailable, why };
            if is_final { Failure::Final(given_up) } else { Failure::Passing(given_up.why) }
        })?;
        greet(&mut connection).await.map_err(|refused| self.failure(&refused))?;
        let is_back = self.resume(&mut connection, missed).await;
        if is_back.map_err(|refused| self.failure(&refused))? {
            if !self.opening.has_gone_back() {
                return Ok((connection, Outcome::Resumed));
            }
            let session = self.return_to_place(&mut connection).await;
            let session = session.map_err(|refused| self.failure(&refused))?;
            return Ok((connection, Outcome::Restored(self.opening.seen.clone(), session)));
        }
        match self.begin_anew(&mut connection).await {
            Ok(session) => Ok((connection, Outcome::Anew(session))),
            Err(refused) => {
                self.taken += u32::from(refused.is_taken());
                Err(self.failure(&refused))
            }
        }
    }

    /// Logs in anew, where the old visit was, and reads what was said there since.
    async fn begin_anew(&mut self, connection: &mut Connection) -> Result<Session, Refused> {
        let last = self.opening.last();
        let mut first = self.state.restore_rooms();
        // The last message in a room shows whether ids still mean the same messages.
        let proof = self.opening.seen.in_room().filter(|(_, room)| self.state.is_in(room));
        let proof = proof.map(|(position, room)| (position, room.to_owned()));
        if let Some((Position { id, .. }, room)) = &proof {
            let rows = HistoryRange { count: 1, after: Some(id.saturating_sub(1)) };
            let thread = Some(MessageTarget::Room(room));
            first.push(Command::History { rows, thread }.to_string());
        }
        first.extend(last.iter().flat_map(|last| self.state.histories(Some(last.id))));
        let name = self.next_name();
        let password = self.password.as_ref();
        let logged_in = login(connection, &name, password, &first, &self.cids, self.keeps_place);
        let mut session = logged_in.await?;
        let Some(last) = last else { return Ok(session) };
        let is_proven = proof.is_some_and(|(proof, _)| {
            session.missed.iter().any(|row| Position::of(&Tags::split(row).0) == Some(proof))
        });
        if !is_proven {
            session.say(connection, &self.state.histories(None), &self.cids).await?;
        }
        let known = self.opening.seen.known();
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

    /// The server has forgotten what we did last: it may hold us to be in other rooms, or
    /// in another talk, where nothing of what waits to be sent is meant to be said.
    async fn return_to_place(&mut self, connection: &mut Connection) -> Result<Session, Refused> {
        let mut session = Session::of(&self.me);
        let whois = Command::Whois { name: &self.me }.to_string();
        session.say(connection, &[whois], &self.cids).await?;
        let is_whois = |line: &String| {
            matches!(Event::parse(Tags::split(line).1), Some(Event::Reply { word: "WHOIS", .. }))
        };
        let told = session.lines.extract_if(.., |line| is_whois(line)).last().unwrap_or_default();
        let rooms =
            told.split(' ').find_map(|word| word.strip_prefix("rooms=")).unwrap_or_default();
        let rooms: Vec<&str> = rooms.split(',').filter_map(|room| room.strip_prefix('#')).collect();
        let lines = self.state.way_back_from(&rooms);
        session.say(connection, &lines, &self.cids).await?;
        if !self.state.is_in(LOBBY) && !rooms.contains(&LOBBY) {
            // Who is new is in the lobby, and we are not.
            session.lines.push(format!("@cid={} [PARTED #{LOBBY}]", self.cids.own("first")));
        }
        Ok(session)
    }

    /// Whom to log in as: who we were or, where that is somebody else by now and
    /// takes no password, the nearest to it.
    fn next_name(&self) -> String {
        let is_lost = self.taken >= NAME_TAKEN_MAX && self.may_rename && self.password.is_none();
        if is_lost { alternative_name(&self.me) } else { self.me.clone() }
    }

    /// Resumes the session and listens to what was missed. `false`: it is over.
    async fn resume(
        &mut self,
        connection: &mut Connection,
        missed: &mut Vec<String>,
    ) -> Result<bool, Refused> {
        while let Some(lines) = self.opening.lines() {
            for line in &lines {
                connection.send(line);
            }
            let Some((code, text)) = self.hear_missed(connection, missed).await? else {
                return Ok(true);
            };
            if ErrorCode::parse(&code) == Some(ErrorCode::StorageFull) {
                return Err(Refused::NotNow { why: text });
            }
            self.opening.refused(&code, &text);
            self.ids_were_reset |= self.opening.has_gone_back();
        }
        Ok(false)
    }

    /// Listens up to the barrier; gives the refusal, if resuming was refused.
    async fn hear_missed(
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
            let is_barrier = tags.cid == Some(self.opening.barrier.as_str());
            match Event::parse(plain) {
                // The barrier comes also behind a refusal.
                _ if is_barrier => return Ok((!is_welcome).then_some(refusal)),
                Some(Event::Bye { code, text }) => return Err(Refused::farewell(code, text)),
                _ if !is_within_budget && !is_welcome => return Err(Refused::Flood),
                Some(Event::Reply { word: "SET", .. }) if !is_welcome => {}
                Some(Event::Reply { word: "WELCOME", args, .. }) if !is_welcome => {
                    args.clone_into(&mut self.me);
                    is_welcome = true;
                }
                Some(Event::Error { code, text }) if !is_welcome => {
                    refusal = (code.to_owned(), text.to_owned());
                }
                _ if self.opening.note(&line) => missed.push(line),
                _ => {}
            }
            // The rest is not waited for: it comes as if live.
            if !is_within_budget {
                return Ok(None);
            }
        }
    }

    fn failure(&self, refused: &Refused) -> Failure {
        let why = refused.sentence(&self.endpoint);
        if refused.may_pass() || (!self.keeps_place && refused.is_replaced()) {
            return Failure::Passing(why);
        }
        Failure::Final(GivenUp { exit: refused.exit(), why })
    }
}
