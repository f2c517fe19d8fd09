//! Relations between users: `/whois`, being away, and ignores. Ignored messages are
//! filtered where they are delivered.

use super::{
    Away, Context, ErrorCode, Event, Hub, Ignored, Key, Name, Refusal, UserId, UserIx,
    no_such_user, refusal,
};

impl Hub {
    pub(super) fn whois(
        &mut self,
        ctx: &mut Context<'_>,
        me: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let Some(user) = self.user_named(name) else { return no_such_user(name) };
        let them = &self.users[user];
        let mut rooms: Vec<_> = them.rooms.iter().map(|room| &self.rooms[*room].name).collect();
        rooms.sort_unstable_by_key(|room| room.key());
        let rooms: Vec<String> = rooms.iter().map(ToString::to_string).collect();
        let idle = ctx.now.since_start.saturating_sub(them.last_active).as_secs();
        let mut text = format!("since={} idle={idle}s rooms={}", them.since, rooms.join(","));
        if let Some(account) = self.accounts.of(them.id) {
            text.push_str(" account=");
            text.push_str(account.name.as_str());
        }
        let mut operates: Vec<String> =
            self.operated_by(user).iter().map(ToString::to_string).collect();
        if self.is_server_operator(them.id) {
            operates.insert(0, "*".to_owned());
        }
        if !operates.is_empty() {
            text.push_str(" operator=");
            text.push_str(&operates.join(","));
        }
        let is_connected = them.conn.is_some();
        if let Some(peer) =
            them.peer.filter(|_| is_connected && self.require_server_operator(me).is_ok())
        {
            text.push_str(" address=");
            text.push_str(&peer.address.to_string());
        }
        if let Some(away) = &them.away {
            // Last, since the text may contain spaces.
            text.push_str(" away=");
            text.push_str(&away.text);
        }
        ctx.reply(&Event::reply("WHOIS", them.name.as_str(), &text));
        Ok(())
    }

    pub(super) fn away(&mut self, ctx: &mut Context<'_>, user: UserIx, text: Option<&str>) {
        let text = text.unwrap_or_default();
        self.users[user].away = Some(Away { text: text.into() });
        ctx.reply(&Event::reply("AWAY", "on", text));
    }

    pub(super) fn back(&mut self, ctx: &mut Context<'_>, user: UserIx) {
        self.users[user].away = None;
        ctx.reply(&Event::reply("AWAY", "off", ""));
    }

    /// Executes `/ignore`. The ignored user is not notified.
    pub(super) fn ignore(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: Option<&str>,
    ) -> Result<(), Refusal> {
        let Some(name) = name else {
            self.list_ignored(ctx, user);
            return Ok(());
        };
        let Some(other) = self.user_named(name) else { return no_such_user(name) };
        if other == user {
            return refusal(ErrorCode::BadArgument, "you cannot ignore yourself");
        }
        let (me, user_id) = (self.users[user].id, self.users[other].id);
        let ignores = &mut self.users[user].relations.ignores;
        let max = self.limits.max_ignored;
        let is_ignored = ignores.iter().any(|ignored| ignored.person == user_id);
        if ignores.len() >= max && !is_ignored {
            let text = format!("you ignore {max} users, the maximum; /unignore some first");
            return refusal(ErrorCode::TooMany, text);
        }
        if !is_ignored {
            ignores.push(Ignored { person: user_id, gone: None });
            self.users[other].relations.ignored_by.push(me);
            self.note_account_unsaved(user);
        }
        let text = if is_ignored { "nothing changed: already ignored" } else { "" };
        ctx.reply(&Event::reply("IGNORE", self.users[other].name.as_str(), text));
        Ok(())
    }

    /// Executes `/unignore`: applies to the online user of that name and to every ignored
    /// user who had the name when they logged out.
    pub(super) fn unignore(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let key = Key::fold(name);
        let other = self.user_named(name);
        let user_id = other.map(|other| self.users[other].id);
        let me = self.users[user].id;
        let mut shown_name = other.map(|other| self.users[other].name.clone());
        let mut unignored = Vec::new();
        self.users[user].relations.ignores.retain(|ignored| {
            let is_match = Some(ignored.person) == user_id
                || ignored.gone.as_ref().is_some_and(|gone| *gone.key() == key);
            if is_match && shown_name.is_none() {
                shown_name.clone_from(&ignored.gone);
            }
            if is_match {
                unignored.push(ignored.person);
            }
            !is_match
        });
        let is_change = !unignored.is_empty();
        for user_id in unignored {
            if let Some(by) = self.ignored_by(user_id) {
                by.retain(|user_id| *user_id != me);
            }
        }
        self.note_account_unsaved(user);
        let Some(shown_name) = shown_name else { return no_such_user(name) };
        let text = if is_change { "" } else { "nothing changed: not ignored" };
        ctx.reply(&Event::reply("UNIGNORE", shown_name.as_str(), text));
        Ok(())
    }

    /// Returns the ignored users, by their current or last names.
    pub(super) fn ignores_of(&self, user: UserIx) -> Vec<(UserId, Name)> {
        let ignores = &self.users[user].relations.ignores;
        ignores.iter().map(|them| (them.person, self.last_known(them))).collect()
    }

    /// Returns the name of an ignored user, or the name they had when they logged out.
    fn last_known(&self, ignored: &Ignored) -> Name {
        match &ignored.gone {
            Some(name) => name.clone(),
            None => self.users[self.users_by_id[&ignored.person]].name.clone(),
        }
    }

    fn list_ignored(&self, ctx: &mut Context<'_>, user: UserIx) {
        let ignores = self.ignores_of(user).into_iter();
        let mut names: Vec<Name> = ignores.map(|(_, name)| name).collect();
        names.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        let names: Vec<&str> = names.iter().map(Name::as_str).collect();
        ctx.reply(&Event::reply("IGNORED", &names.len().to_string(), &names.join(",")));
    }
}
