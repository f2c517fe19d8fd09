//! Order on the whole server. Whoever knows the operators' password is an
//! operator of the server: of every room, and may speak to everybody, end
//! connections and ban from the server (`bans.rs`).
//!
//! The right hangs on the person, as every right does. It is kept with a digest
//! of the password's hash: with another password nobody has it any more.

use std::sync::Arc;

use super::password_throttle::Guarded;
use super::moderation::Scope;
use super::password_checks::Purpose;
use super::{
    Context, ErrorCode, Event, Farewell, Hub, UserId, Refusal, Tags, Topic, UserIx, no_such_user,
    refusal, send_farewell,
};
use crate::server::passwords::{Job, Secret, digest};

impl Hub {
    /// Whether somebody is an operator of the server.
    pub(super) fn is_server_operator(&self, person: UserId) -> bool {
        self.server_moderation.is_operator(person)
    }

    pub(super) fn require_server_operator(&self, visit: UserIx) -> Result<(), Refusal> {
        if self.is_server_operator(self.users[visit].id) {
            return Ok(());
        }
        refusal(ErrorCode::Forbidden, "only operators of this server may; /oper makes you one")
    }

    /// `/oper`: is it the operators' password? It is never taken where somebody
    /// could read along.
    pub(super) fn oper(&mut self, ask: &mut Context<'_>, password: &str) -> Result<(), Refusal> {
        let Some(hash) = self.limits.oper_password.clone() else {
            let text = "this server has no operators; it takes an --oper-password-file to have any";
            return refusal(ErrorCode::Forbidden, text);
        };
        if !self.is_private(ask) {
            return refusal(ErrorCode::Insecure, super::password_checks::INSECURE);
        }
        let job = Job::Check(Secret::new(password), hash.into());
        self.check_password(ask, Purpose::Rule, Guarded::Rule, job)
    }

    /// The password was right.
    pub(super) fn grant_server_operator(&mut self, ask: &mut Context<'_>, visit: UserIx) -> Result<(), Refusal> {
        self.drop_expired(ask.now, Scope::Server);
        let (person, name) = (self.users[visit].id, self.users[visit].name.clone());
        if self.server_moderation.operators.len() >= self.limits.max_operators
            && !self.is_server_operator(person)
        {
            let text = "there are too many operators; a new password makes room";
            return refusal(ErrorCode::TooMany, text);
        }
        self.server_moderation.promote(person);
        self.mark_moderation_unsaved(Scope::Server);
        ask.reply(&Event::reply("OPER", name.as_str(), "you are an operator of this server"));
        Ok(())
    }

    /// What the right is kept with: it ends with the password.
    pub(super) fn oper_password_digest(&self) -> Option<String> {
        self.limits.oper_password.as_ref().map(|hash| digest(hash.as_str()))
    }

    /// A guest who is gone is nobody's operator any more.
    pub(super) fn revoke_server_operator(&mut self, person: UserId) {
        if self.is_server_operator(person) && self.accounts.of(person).is_none() {
            self.server_moderation.operators.retain(|operator| *operator != person);
            self.mark_moderation_unsaved(Scope::Server);
        }
    }

    /// `/wall`: everybody is told, whatever they have chosen not to hear.
    pub(super) fn wall(
        &mut self,
        ask: &mut Context<'_>,
        visit: UserIx,
        text: &str,
    ) -> Result<(), Refusal> {
        self.require_server_operator(visit)?;
        let said = format!("{}: {text}", self.users[visit].name);
        let event = Event::reply("WALL", "", &said);
        let time = self.stamp(ask.now);
        ask.reply_tagged(&Tags { time: Some(time), ..Tags::default() }, &event);
        let tags = Tags { time: Some(time), ..Tags::default() };
        let others: Vec<UserIx> =
            self.users.iter().map(|(ix, _)| ix).filter(|ix| *ix != visit).collect();
        let audience = self.readers(&others);
        ask.turn.fan_out(Arc::new(audience), Topic::Talk, None, Vec::new(), &tags, &event);
        self.defer_event(others, &tags, &event);
        Ok(())
    }

    /// `/kill`.
    pub(super) fn kill(
        &mut self,
        ask: &mut Context<'_>,
        visit: UserIx,
        name: &str,
        reason: Option<&str>,
    ) -> Result<(), Refusal> {
        self.require_server_operator(visit)?;
        let Some(other) = self.user_named(name) else { return no_such_user(name) };
        if other == visit {
            return refusal(ErrorCode::BadArgument, "that is you; /quit ends your connection");
        }
        let (by, name) = (self.users[visit].name.clone(), self.users[other].name.clone());
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let farewell = format!("{by} ended your connection{why}");
        self.disconnect_user(ask, other, Farewell::Kicked, &farewell, &format!("killed by {by}{why}"));
        ask.reply(&Event::reply("KILLED", name.as_str(), ""));
        Ok(())
    }

    /// Makes somebody leave for good, also who dropped and could come back.
    pub(super) fn disconnect_user(
        &mut self,
        ask: &mut Context<'_>,
        visit: UserIx,
        farewell: Farewell,
        text: &str,
        quit: &str,
    ) {
        if let Some(conn) = self.users[visit].conn {
            self.close_connection(conn);
            send_farewell(ask.turn, conn, farewell, Some(text));
        }
        self.end_user(ask.now, visit, Some(quit), ask.turn);
    }
}
