//! The way back to a server, tried until it is there: wait, connect, resume the
//! session or, where it is over, log in anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::Exit;
use super::address::Endpoint;
use super::bounds::{Budget, MISSED_MAX};
use super::comeback::{Backoff, Comeback, Opening};
use super::connection::{Connection, Unreachable, connect};
use super::login::{Refused, Session, another_name, greet, login};
use super::outgoing::Cids;
use super::password::Password;
use super::state::State;
use crate::protocol::{Event, Tags};

/// How long the server may be silent while we come back.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A name that is taken in so many tries is somebody else's: it is not ourselves any
/// more whom the server has not noticed to be gone.
const TAKEN_MAX: u32 = 3;

/// Where the server is, and how long to look for it.
pub(super) struct Road {
    pub(super) endpoint: Endpoint,
    pub(super) retry_for: Duration,
    /// What a new login takes.
    pub(super) password: Option<Password>,
    /// Whether to come back under another name where ours is taken: a person sees
    /// that and can change it, a script cannot.
    pub(super) may_rename: bool,
    /// Rung when nobody wants to wait for the next try.
    pub(super) hurry: Arc<Notify>,
    /// Since when there is a connection.
    pub(super) since: Instant,
}

impl Road {
    /// A connection stands again.
    pub(super) fn found(&mut self, comeback: &mut Comeback, backoff: Backoff) {
        self.since = Instant::now();
        comeback.backoff = backoff;
    }

    /// The way back from here; the connection has just been lost.
    pub(super) fn way(&self, comeback: &mut Comeback, state: &State) -> Way {
        let opening = comeback.lost(self.since.elapsed());
        Way {
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
            taken: 0,
            state: state.clone(),
        }
    }
}

/// What is needed to come back.
pub(super) struct Way {
    endpoint: Endpoint,
    retry_for: Duration,
    backoff: Backoff,
    hurry: Arc<Notify>,
    opening: Opening,
    cids: Cids,
    me: String,
    password: Option<Password>,
    /// For what was missed, over all tries.
    budget: Budget,
    may_rename: bool,
    /// How often our name was somebody else's.
    taken: u32,
    /// Where a new visit is to lead.
    state: State,
}

/// Back again.
pub(super) struct Back {
    pub(super) connection: Connection,
    pub(super) backoff: Backoff,
    /// The name the server greeted us with: a `/nick` may have been done of which
    /// we have not seen the answer.
    pub(super) me: String,
    /// What was said meanwhile.
    pub(super) missed: Vec<String>,
    /// The new visit, if the old one was over.
    pub(super) anew: Option<Session>,
    pub(super) after: Duration,
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

impl Way {
    /// Comes back, if it can be done in the time there is.
    pub(super) async fn find(mut self) -> Result<Back, GivenUp> {
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
                Ok(Ok((connection, anew))) => {
                    let (backoff, me, after) = (self.backoff, self.me, start.elapsed());
                    return Ok(Back { connection, backoff, me, missed, anew, after });
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
    ) -> Result<(Connection, Option<Session>), Failure> {
        let connection = connect(&self.endpoint).await;
        let mut connection = connection.map_err(|Unreachable { why, is_final }| {
            let given_up = GivenUp { exit: Exit::Unavailable, why };
            if is_final { Failure::Final(given_up) } else { Failure::Passing(given_up.why) }
        })?;
        greet(&mut connection).await.map_err(|refused| self.failure(&refused))?;
        let is_back = self.resume(&mut connection, missed).await;
        if is_back.map_err(|refused| self.failure(&refused))? {
            return Ok((connection, None));
        }
        let first = self.state.way_back(self.opening.last);
        let name = self.next_name();
        let password = self.password.as_ref();
        match login(&mut connection, &name, password, &first, &self.cids).await {
            Ok(session) => Ok((connection, Some(session))),
            Err(refused) => {
                self.taken += u32::from(refused.is_taken());
                Err(self.failure(&refused))
            }
        }
    }

    /// Whom to log in as: who we were or, where that is somebody else by now and
    /// takes no password, the nearest to it.
    fn next_name(&self) -> String {
        let is_lost = self.taken >= TAKEN_MAX && self.may_rename && self.password.is_none();
        if is_lost { another_name(&self.me) } else { self.me.clone() }
    }

    /// Resumes the session and listens to what was missed. `false`: it is over.
    async fn resume(
        &mut self,
        connection: &mut Connection,
        missed: &mut Vec<String>,
    ) -> Result<bool, Refused> {
        let Some(lines) = self.opening.lines() else { return Ok(false) };
        for line in &lines {
            connection.send(line);
        }
        let mut is_welcome = false;
        loop {
            let line = timeout(SILENCE_MAX, connection.line()).await;
            let line = line.map_err(|_| Refused::Silent)?.ok_or(Refused::Closed)?;
            let is_within_budget = self.budget.spend(&line);
            let (tags, plain) = Tags::split(&line);
            let is_barrier = tags.cid == Some(self.opening.barrier.as_str());
            match Event::parse(plain) {
                // The barrier comes also behind a refusal.
                _ if is_barrier => return Ok(is_welcome),
                Some(Event::Bye { code, text }) => return Err(Refused::farewell(code, text)),
                _ if !is_within_budget && !is_welcome => return Err(Refused::Flood),
                Some(Event::Reply { word: "SET", .. }) if !is_welcome => {}
                Some(Event::Reply { word: "WELCOME", args, .. }) if !is_welcome => {
                    args.clone_into(&mut self.me);
                    is_welcome = true;
                }
                // Over: the token is good for nothing any more.
                Some(Event::Error { .. }) if !is_welcome => self.opening.token = None,
                _ => {
                    self.opening.note(&line);
                    missed.push(line);
                    // The rest is not waited for: it comes as if live.
                    if !is_within_budget {
                        return Ok(true);
                    }
                }
            }
        }
    }

    fn failure(&self, refused: &Refused) -> Failure {
        let why = refused.sentence(&self.endpoint);
        if refused.may_pass() {
            return Failure::Passing(why);
        }
        Failure::Final(GivenUp { exit: refused.exit(), why })
    }
}
