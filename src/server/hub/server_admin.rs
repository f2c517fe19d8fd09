//! Server operators. `/oper` with the password makes a user an operator of every room, who
//! may also use `/wall`, `/kill` and the server bans (`bans.rs`).
//!
//! The right belongs to the user. It is stored with a digest of the password hash: a new
//! password revokes all rights.

use std::sync::Arc;

use super::moderation::Scope;
use super::password_checks::Purpose;
use super::password_throttle::Guarded;
use super::{
    Context, ErrorCode, Event, Farewell, Hub, Refusal, Tags, Topic, UserId, UserIx, no_such_user,
    refusal, send_farewell,
};
use crate::server::auth::passwords::{Job, digest};

impl Hub {
    /// Returns whether a user is a server operator.
    pub(super) fn is_server_operator(&self, user_id: UserId) -> bool {
        self.server_moderation.is_operator(user_id)
    }

    pub(super) fn require_server_operator(&self, user: UserIx) -> Result<(), Refusal> {
        if self.is_server_operator(self.users[user].id) {
            return Ok(());
        }
        refusal(ErrorCode::Forbidden, "server operators only; use /oper PASSWORD")
    }

    /// Executes `/oper`: starts the check of the password. Never accepted over unencrypted
    /// connections, whatever the settings.
    pub(super) fn oper(&mut self, ctx: &mut Context<'_>) -> Result<(), Refusal> {
        let Some(hash) = self.limits.oper_password.clone() else {
            let text =
                "this server has no operators; start it with --oper-password-file to allow them";
            return refusal(ErrorCode::Forbidden, text);
        };
        if !self.is_private(ctx) {
            return refusal(ErrorCode::Insecure, super::password_checks::INSECURE);
        }
        let job = Job::Check(hash.into());
        self.check_password(ctx, Purpose::ServerOperator, Guarded::ServerOperator, job)
    }

    /// Grants the right after the password was checked.
    pub(super) fn grant_server_operator(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
    ) -> Result<(), Refusal> {
        self.drop_expired(ctx.now, Scope::Server);
        let (user_id, name) = (self.users[user].id, self.users[user].name.clone());
        if self.server_moderation.operators.len() >= self.limits.max_operators
            && !self.is_server_operator(user_id)
        {
            let text =
                "too many server operators; a new password in --oper-password-file revokes all";
            return refusal(ErrorCode::TooMany, text);
        }
        self.server_moderation.promote(user_id);
        self.mark_moderation_unsaved(Scope::Server);
        ctx.reply(&Event::reply("OPER", name.as_str(), "you are an operator of this server"));
        Ok(())
    }

    /// Returns the digest that the rights are stored with; they end when it changes.
    pub(super) fn oper_password_digest(&self) -> Option<String> {
        self.limits.oper_password.as_ref().map(|hash| digest(hash.as_str()))
    }

    /// Revokes the right of a guest who logs out.
    pub(super) fn revoke_server_operator(&mut self, user_id: UserId) {
        if self.is_server_operator(user_id) && self.accounts.of(user_id).is_none() {
            self.server_moderation.operators.retain(|operator| *operator != user_id);
            self.mark_moderation_unsaved(Scope::Server);
        }
    }

    /// Executes `/wall`: sends a text to all users, whatever their settings.
    pub(super) fn wall(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        text: &str,
    ) -> Result<(), Refusal> {
        self.require_server_operator(user)?;
        let line = format!("{}: {text}", self.users[user].name);
        let event = Event::reply("WALL", "", &line);
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

    /// Executes `/kill`.
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
            return refusal(ErrorCode::BadArgument, "you cannot kill yourself; use /quit");
        }
        let (by, name) = (self.users[user].name.clone(), self.users[other].name.clone());
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let farewell = format!("you were disconnected by {by}{why}");
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

    /// Disconnects a user and ends their session, also while they are disconnected and
    /// could resume.
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
