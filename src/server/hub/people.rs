//! One person and another: who somebody is, being away, and not wanting to hear.

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
            // Last, since the text may hold blanks.
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

    /// The ignored one is not told.
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
            return refusal(ErrorCode::BadArgument, "that is you; ignore somebody else");
        }
        let (me, person) = (self.users[user].id, self.users[other].id);
        let ignores = &mut self.users[user].relations.ignores;
        let most = self.limits.max_ignored;
        let is_known = ignores.iter().any(|ignored| ignored.person == person);
        if ignores.len() >= most && !is_known {
            let text = format!("you ignore {most} people; /unignore some first");
            return refusal(ErrorCode::TooMany, text);
        }
        if !is_known {
            ignores.push(Ignored { person, gone: None });
            self.users[other].relations.ignored_by.push(me);
            self.note_account_unsaved(user);
        }
        let text = if is_known { "nothing changed: you ignore them already" } else { "" };
        ctx.reply(&Event::reply("IGNORE", self.users[other].name.as_str(), text));
        Ok(())
    }

    /// Whoever is here by that name, and everyone ignored who was last.
    pub(super) fn unignore(
        &mut self,
        ctx: &mut Context<'_>,
        user: UserIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let key = Key::fold(name);
        let other = self.user_named(name);
        let person = other.map(|other| self.users[other].id);
        let me = self.users[user].id;
        let mut shown = other.map(|other| self.users[other].name.clone());
        let mut unignored = Vec::new();
        self.users[user].relations.ignores.retain(|ignored| {
            let is_meant = Some(ignored.person) == person
                || ignored.gone.as_ref().is_some_and(|gone| *gone.key() == key);
            if is_meant && shown.is_none() {
                shown.clone_from(&ignored.gone);
            }
            if is_meant {
                unignored.push(ignored.person);
            }
            !is_meant
        });
        let is_change = !unignored.is_empty();
        for person in unignored {
            if let Some(by) = self.ignored_by(person) {
                by.retain(|person| *person != me);
            }
        }
        self.note_account_unsaved(user);
        let Some(shown) = shown else { return no_such_user(name) };
        let text = if is_change { "" } else { "nothing changed: you did not ignore them" };
        ctx.reply(&Event::reply("UNIGNORE", shown.as_str(), text));
        Ok(())
    }

    /// Whom somebody ignores, by the names they have or last had.
    pub(super) fn ignores_of(&self, user: UserIx) -> Vec<(UserId, Name)> {
        let ignores = &self.users[user].relations.ignores;
        ignores.iter().map(|them| (them.person, self.last_known(them))).collect()
    }

    /// The name an ignored person has, or had when they went.
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
