//! What is given away for a password: an account, the server, a room. Passwords
//! are hashed elsewhere (`passwords.rs`): the connection waits, and what came of
//! it comes back as an input.

use std::sync::Arc;

use super::delayed::Delayed;
use super::entry::Door;
use super::guesses::{Guarded, Target};
use super::{
    Ask, Asked, Cid, ConnId, ErrorCode, Hub, Name, Now, PersonId, Refusal, RoomName, Stage, Turn,
    VisitIx, refusal,
};
use crate::server::passwords::{Job, Outcome};

/// A command that waits for a password to be hashed.
#[derive(Debug)]
pub(super) struct PasswordAsk {
    cid: Option<Cid>,
    purpose: Purpose,
    guess: Option<Target>,
}

/// What a password is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    LogIn(PersonId),
    /// Into a server that takes one of everybody.
    LogInGuest(Name),
    Register,
    Change,
    Unregister,
    /// To be an operator of the server.
    Rule,
    /// A room's key.
    Enter(RoomName),
}

/// Why a password is not taken.
pub(super) const IN_THE_OPEN: &str = "anybody on the way could read the password; \
    connect with TLS, or from the server's machine";

impl Hub {
    /// Passwords only where nobody can read along.
    pub(super) fn need_privacy(&self, ask: &Ask<'_>) -> Result<(), Refusal> {
        if self.is_private(ask) || self.limits.allow_insecure_passwords {
            return Ok(());
        }
        refusal(ErrorCode::Insecure, IN_THE_OPEN)
    }

    /// Whether nobody can read along.
    pub(super) fn is_private(&self, ask: &Ask<'_>) -> bool {
        self.connection(ask.conn).is_some_and(|c| c.peer.is_private())
    }

    /// Checks what may be a guess, when its time has come.
    pub(super) fn guess(&mut self, ask: &mut Ask<'_>, purpose: Purpose, at: Guarded, job: Job) {
        let network = self.connection(ask.conn).map(|c| c.peer.network());
        self.ask_password(ask, purpose, job, network.map(|network| (at, network)));
    }

    pub(super) fn ask_password(
        &mut self,
        ask: &mut Ask<'_>,
        purpose: Purpose,
        job: Job,
        guess: Option<Target>,
    ) {
        let (now, conn) = (ask.now.since_start, ask.conn);
        let asked = PasswordAsk { cid: ask.cid.take(), purpose, guess: guess.clone() };
        if let Some(connection) = self.connection_mut(conn) {
            connection.asked = Some(Box::new(Asked::Password(asked)));
        }
        let begun = guess.map(|target| (self.guesses.begin(now, target.clone()), target));
        match begun {
            Some((Err(later), target)) => self.delayed_jobs.add(later, conn, job, target),
            _ => ask.turn.hash(conn, job),
        }
    }

    /// A guess has waited as long as it was told to; perhaps another was first.
    pub(super) fn begin_delayed_job(&mut self, now: Now, delayed: Delayed, turn: &mut Turn) {
        if !self.is_pending(delayed.conn) {
            return; // it has hung up
        }
        match self.guesses.begin(now.since_start, delayed.target.clone()) {
            Ok(()) => turn.hash(delayed.conn, delayed.job),
            Err(later) => self.delayed_jobs.put_back(later, delayed),
        }
    }

    /// Whether a connection waits for what becomes of a line.
    pub(super) fn is_pending(&self, conn: ConnId) -> bool {
        self.connection(conn).is_some_and(|c| c.asked.is_some())
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
        let Some(asked) = connection.asked.take() else { return };
        let Asked::Password(PasswordAsk { cid, purpose, guess }) = *asked else { return };
        let (stage, settings) = (connection.stage, connection.settings);
        let mut ask = Ask { now, conn, settings, cid, turn };
        let is_right = *outcome == Outcome::Checked(true);
        if let Some(target) = guess.as_ref().filter(|_| is_right) {
            self.guesses.forget(target);
            self.delayed_jobs.hurry(now.since_start, target);
        }
        let result = match (stage, outcome) {
            (Stage::Greeting { .. }, Outcome::Checked(true)) => self.admit_by(&mut ask, purpose),
            (Stage::Present(visit), Outcome::Checked(is_right)) => {
                self.grant(&mut ask, visit, purpose, *is_right)
            }
            (Stage::Present(visit), Outcome::Hashed(Some(hash))) => {
                self.take_hash(&mut ask, visit, &purpose, hash);
                Ok(())
            }
            (_, Outcome::Checked(_)) => wrong_password(),
            (_, Outcome::Busy) => {
                refusal(ErrorCode::RateLimited, "too many say a password at once; try again soon")
            }
            (_, Outcome::Hashed(_)) => {
                refusal(ErrorCode::TooMany, "the server cannot do this now; try again")
            }
        };
        if let Err(refusal) = result {
            self.note_refused_login(conn);
            ask.refuse(&refusal);
        }
    }

    /// The password of somebody who logs in was right.
    fn admit_by(&mut self, ask: &mut Ask<'_>, purpose: Purpose) -> Result<(), Refusal> {
        match purpose {
            Purpose::LogIn(person) => self.log_in_account(ask, person),
            // Somebody may have taken the name meanwhile.
            Purpose::LogInGuest(name) => {
                let name = self.free_name(name, None)?;
                self.begin_guest(ask, &name);
                Ok(())
            }
            _ => wrong_password(),
        }
    }

    /// A password of somebody who is here was looked at.
    fn grant(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        purpose: Purpose,
        is_right: bool,
    ) -> Result<(), Refusal> {
        match purpose {
            Purpose::Unregister if is_right => {
                self.end_account(ask, visit);
                Ok(())
            }
            Purpose::Rule => {
                self.note_oper(ask.now, visit, is_right);
                if is_right { self.begin_rule(ask, visit) } else { wrong_password() }
            }
            Purpose::Enter(room) => {
                let door = if is_right { Door::Opened } else { Door::WrongKey };
                self.join_by(ask, visit, &room, door)?;
                self.note_unsaved(visit);
                Ok(())
            }
            _ => wrong_password(),
        }
    }

    fn take_hash(&mut self, ask: &mut Ask<'_>, visit: VisitIx, purpose: &Purpose, hash: &Arc<str>) {
        match purpose {
            Purpose::Change => self.change_hash(ask, visit, hash.clone()),
            _ => self.begin_account(ask, visit, hash.clone()),
        }
    }
}

fn wrong_password() -> Result<(), Refusal> {
    refusal(ErrorCode::BadPassword, "that is not the password; try again")
}
