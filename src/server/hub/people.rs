//! One person and another: who somebody is, being away, and not wanting to hear.

use super::{
    Ask, Away, ErrorCode, Event, Hub, Ignored, Key, Name, Refusal, VisitIx, no_such_user, refusal,
};

/// How many people one person may ignore.
const IGNORES_MAX: usize = 100;

impl Hub {
    pub(super) fn whois(&mut self, ask: &mut Ask<'_>, name: &str) -> Result<(), Refusal> {
        let Some(visit) = self.visit_named(name) else { return no_such_user(name) };
        let them = &self.visits[visit];
        let mut rooms: Vec<_> = them.rooms.iter().map(|room| &self.rooms[*room].name).collect();
        rooms.sort_unstable_by_key(|room| room.key());
        let rooms: Vec<String> = rooms.iter().map(ToString::to_string).collect();
        let idle = ask.now.since_start.saturating_sub(them.active).as_secs();
        let mut text = format!("since={} idle={idle}s rooms={}", them.since, rooms.join(","));
        if let Some(away) = &them.away {
            // Last, since the text may hold blanks.
            text.push_str(" away=");
            text.push_str(&away.text);
        }
        ask.reply(&Event::reply("WHOIS", them.name.as_str(), &text));
        Ok(())
    }

    pub(super) fn away(&mut self, ask: &mut Ask<'_>, visit: VisitIx, text: Option<&str>) {
        let text = text.unwrap_or_default();
        self.visits[visit].away = Some(Away { text: text.into() });
        ask.reply(&Event::reply("AWAY", "on", text));
    }

    pub(super) fn back(&mut self, ask: &mut Ask<'_>, visit: VisitIx) {
        self.visits[visit].away = None;
        ask.reply(&Event::reply("AWAY", "off", ""));
    }

    /// The ignored one is not told.
    pub(super) fn ignore(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        name: Option<&str>,
    ) -> Result<(), Refusal> {
        let Some(name) = name else {
            self.list_ignored(ask, visit);
            return Ok(());
        };
        let Some(other) = self.visit_named(name) else { return no_such_user(name) };
        if other == visit {
            return refusal(ErrorCode::BadArgument, "that is you; ignore somebody else");
        }
        let (me, person) = (self.visits[visit].person, self.visits[other].person);
        let ignores = &mut self.visits[visit].ties.ignores;
        if ignores.len() >= IGNORES_MAX {
            let text = format!("you ignore {IGNORES_MAX} people; /unignore some first");
            return refusal(ErrorCode::TooMany, text);
        }
        if !ignores.iter().any(|ignored| ignored.person == person) {
            ignores.push(Ignored { person, gone: None });
            self.visits[other].ties.ignored_by.push(me);
        }
        ask.reply(&Event::reply("IGNORE", self.visits[other].name.as_str(), ""));
        Ok(())
    }

    /// Whoever is here by that name, and everyone ignored who was last.
    pub(super) fn unignore(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let key = Key::fold(name);
        let other = self.visit_named(name);
        let person = other.map(|other| self.visits[other].person);
        let me = self.visits[visit].person;
        let mut shown = other.map(|other| self.visits[other].name.clone());
        self.visits[visit].ties.ignores.retain(|ignored| {
            let is_meant = Some(ignored.person) == person
                || ignored.gone.as_ref().is_some_and(|gone| *gone.key() == key);
            if is_meant && shown.is_none() {
                shown.clone_from(&ignored.gone);
            }
            !is_meant
        });
        if let Some(other) = other {
            self.visits[other].ties.ignored_by.retain(|person| *person != me);
        }
        let Some(shown) = shown else { return no_such_user(name) };
        ask.reply(&Event::reply("UNIGNORE", shown.as_str(), ""));
        Ok(())
    }

    /// The name an ignored person has, or had when they went.
    pub(super) fn last_known(&self, ignored: &Ignored) -> Name {
        match &ignored.gone {
            Some(name) => name.clone(),
            None => self.visits[self.people[&ignored.person]].name.clone(),
        }
    }

    fn list_ignored(&self, ask: &mut Ask<'_>, visit: VisitIx) {
        let ignores = &self.visits[visit].ties.ignores;
        let mut names: Vec<Name> = ignores.iter().map(|them| self.last_known(them)).collect();
        names.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        let names: Vec<&str> = names.iter().map(Name::as_str).collect();
        ask.reply(&Event::reply("IGNORED", &names.len().to_string(), &names.join(",")));
    }
}
