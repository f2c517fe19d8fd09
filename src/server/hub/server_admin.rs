//! Order on the whole server. Whoever knows the operators' password is an
//! operator of the server: of every room, and may speak to everybody, end
//! connections and ban from the server (`bans.rs`).
//!
//! The right hangs on the person, as every right does. It is kept with a digest
//! of the password's hash: with another password nobody has it any more.

use std::sync::Arc;

use super::moderation::Scope;
use super::password_checks::Purpose;
use super::password_throttle::Guarded;
use super::{
    Context, ErrorCode, Event, Farewell, Hub, Refusal, Tags, Topic, UserId, UserIx, no_such_user,
    refusal, send_farewell,
};
use crate::server::passwords::{Job, Secret, digest};

impl Hub {
    /// Whether somebody is an operator of the server.
    pub(super) fn is_server_operator(&self, person: UserId) -> bool {
        self.server_moderation.is_operator(person)
    }

    pub(super) fn require_server_operator(&self, user: UserIx) -> Result<(), Refusal> {
        if self.is_server_operator(self.users[user].id) {
            return Ok(());
        }
        refusal(ErrorCode::Forbidden, "only operators of this server may; /oper makes you one")
    }

    /// `/oper`: is it the operators' password? It is never taken where somebody
    /// could read along.
    pub(super) fn oper(&mut self, ctx: &mut Context<'_>, password: &str) -> Result<(), Refusal> {
        let Some(hash) = self.limits.oper_password.clone() else {
            let text = "this server has no operators; it takes an --oper-password-file to have any";
            return refusal(ErrorCode::Forbidden, text);
        };
        if !self.is_private(ctx) {
            return refusal(ErrorCode::Insecure, super::password_checks::INSECURE);
        }
        let job = Job::Check(Secret::new(password), hash.into());
        self.check_password(ctx, Purpose::Rule, Guarded::Rule, job)
    }

    /// The password was right.
    pub(super) fn grant_server_operator(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
    ) -> Result<(), Refusal> {
        self.drop_expired(ctx.now, Scope::Server);
        let (person, name) = (self.users[user].id, self.users[user].name.clone());
        if self.server_moderation.operators.len() >= self.limits.max_operators
            && !self.is_server_operator(person)
        {
            let text = "there are too many operators; a new password makes room";
            return refusal(ErrorCode::TooMany, text);
        }
        self.server_moderation.promote(person);
        self.mark_moderation_unsaved(Scope::Server);
        ctx.reply(&Event::reply("OPER", name.as_str(), "you are an operator of this server"));
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
        ctx: &mut Context<'_>,
        user: UserIx,
        text: &str,
    ) -> Result<(), Refusal> {
        self.require_server_operator(user)?;
        let said = format!("{}: {text}", self.users[user].name);
        let event = Event::reply("WALL", "", &said);
        let time = self.stamp(ctx.now);
        ctx.reply_tagged(&Tags { time: Some(time), ..Tags::default() }, &event);
        let tags = Tags { time: Some(time), ..Tags::default() };
        let others: Vec<UserIx> =
            self.users.iter().map(|(ix, _)| ix).filter(|ix| *ix != user).collect();
        let audience = self.readers(&others);
        ctx.turn.fan_out(Arc::new(audience), Topic::Talk, None, Vec::new(), &tags, &event);
        self.defer_event(others, &tags, &event);
        Ok(())
    }

    /// `/kill`.
    pub(super) fn kill(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
        reason: Option<&str>,
    ) -> Result<(), Refusal> {
        self.require_server_operator(user)?;
        let Some(other) = self.user_named(name) else { return no_such_user(name) };
        if other == user {
            return refusal(ErrorCode::BadArgument, "that is you; /quit ends your connection");
        }
        let (by, name) = (self.users[user].name.clone(), self.users[other].name.clone());
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let farewell = format!("{by} ended your connection{why}");
        self.disconnect_user(
            ctx,
            other,
            Farewell::Kicked,
            &farewell,
            &format!("killed by {by}{why}"),
        );
        ctx.reply(&Event::reply("KILLED", name.as_str(), ""));
        Ok(())
    }

    /// Makes somebody leave for good, also who dropped and could come back.
    pub(super) fn disconnect_user(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        farewell: Farewell,
        text: &str,
        quit: &str,
    ) {
        if let Some(conn) = self.users[user].conn {
            self.close_connection(conn);
            send_farewell(ctx.turn, conn, farewell, Some(text));
        }
        self.end_user(ctx.now, user, Some(quit), ctx.turn);
    }
}
