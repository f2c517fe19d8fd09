//! Order on the whole server. Whoever knows the operators' password is an
//! operator of the server: of every room, and may speak to everybody, end
//! connections and ban from the server (`bans.rs`).
//!
//! The right hangs on the person, as every right does. It is kept with a digest
//! of the password's hash: with another password nobody has it any more.

use std::sync::Arc;

use super::guesses::Guarded;
use super::order::Scope;
use super::secrets::Purpose;
use super::{
    Ask, ErrorCode, Event, Farewell, Hub, PersonId, Refusal, Tags, Topic, VisitIx, no_such_user,
    refusal, say_farewell,
};
use crate::server::passwords::{Job, Secret, digest};

impl Hub {
    /// Whether somebody is an operator of the server.
    pub(super) fn rules_server(&self, person: PersonId) -> bool {
        self.server_order.is_operator(person)
    }

    pub(super) fn need_rule(&self, visit: VisitIx) -> Result<(), Refusal> {
        if self.rules_server(self.visits[visit].person) {
            return Ok(());
        }
        refusal(ErrorCode::Forbidden, "only operators of this server may; /oper makes you one")
    }

    /// `/oper`: is it the operators' password? It is never taken where somebody
    /// could read along.
    pub(super) fn oper(&mut self, ask: &mut Ask<'_>, password: &str) -> Result<(), Refusal> {
        let Some(hash) = self.limits.oper_password.clone() else {
            let text = "this server has no operators; it takes an --oper-password-file to have any";
            return refusal(ErrorCode::Forbidden, text);
        };
        if !self.is_private(ask) {
            return refusal(ErrorCode::Insecure, super::secrets::IN_THE_OPEN);
        }
        let job = Job::Check(Secret::new(password), hash.into());
        self.guess(ask, Purpose::Rule, Guarded::Rule, job)
    }

    /// The password was right.
    pub(super) fn begin_rule(&mut self, ask: &mut Ask<'_>, visit: VisitIx) -> Result<(), Refusal> {
        self.forget_past(ask.now, Scope::Server);
        let (person, name) = (self.visits[visit].person, self.visits[visit].name.clone());
        if self.server_order.operators.len() >= self.limits.max_operators
            && !self.rules_server(person)
        {
            let text = "there are too many operators; a new password makes room";
            return refusal(ErrorCode::TooMany, text);
        }
        self.server_order.promote(person);
        self.note_order_unsaved(Scope::Server);
        ask.reply(&Event::reply("OPER", name.as_str(), "you are an operator of this server"));
        Ok(())
    }

    /// What the right is kept with: it ends with the password.
    pub(super) fn seal(&self) -> Option<String> {
        self.limits.oper_password.as_ref().map(|hash| digest(hash.as_str()))
    }

    /// A guest who is gone is nobody's operator any more.
    pub(super) fn end_rule(&mut self, person: PersonId) {
        if self.rules_server(person) && self.accounts.of(person).is_none() {
            self.server_order.operators.retain(|operator| *operator != person);
            self.note_order_unsaved(Scope::Server);
        }
    }

    /// `/wall`: everybody is told, whatever they have chosen not to hear.
    pub(super) fn wall(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        text: &str,
    ) -> Result<(), Refusal> {
        self.need_rule(visit)?;
        let said = format!("{}: {text}", self.visits[visit].name);
        let event = Event::reply("WALL", "", &said);
        let time = self.stamp(ask.now);
        ask.reply_tagged(&Tags { time: Some(time), ..Tags::default() }, &event);
        let tags = Tags { time: Some(time), ..Tags::default() };
        let others: Vec<VisitIx> =
            self.visits.iter().map(|(ix, _)| ix).filter(|ix| *ix != visit).collect();
        let audience = self.readers(&others);
        ask.turn.fan_out(Arc::new(audience), Topic::Talk, None, Vec::new(), &tags, &event);
        self.tell_late(others, &tags, &event);
        Ok(())
    }

    /// `/kill`.
    pub(super) fn kill(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        name: &str,
        reason: Option<&str>,
    ) -> Result<(), Refusal> {
        self.need_rule(visit)?;
        let Some(other) = self.visit_named(name) else { return no_such_user(name) };
        if other == visit {
            return refusal(ErrorCode::BadArgument, "that is you; /quit ends your connection");
        }
        let (by, name) = (self.visits[visit].name.clone(), self.visits[other].name.clone());
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let farewell = format!("{by} ended your connection{why}");
        self.expel(ask, other, Farewell::Kicked, &farewell, &format!("killed by {by}{why}"));
        ask.reply(&Event::reply("KILLED", name.as_str(), ""));
        Ok(())
    }

    /// Makes somebody leave for good, also who dropped and could come back.
    pub(super) fn expel(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        farewell: Farewell,
        text: &str,
        quit: &str,
    ) {
        if let Some(conn) = self.visits[visit].conn {
            self.part_with(conn);
            say_farewell(ask.turn, conn, farewell, Some(text));
        }
        self.end_visit(ask.now, visit, Some(quit), ask.turn);
    }
}
