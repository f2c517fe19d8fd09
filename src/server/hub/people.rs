//! One person and another: who somebody is, being away, and not wanting to hear.

use super::{Ask, Away, ErrorCode, Event, Hub, Refusal, VisitIx, no_such_user, refusal};

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
        let (me, them) = (self.visits[visit].person, self.visits[other].person);
        if !self.visits[visit].ties.ignores.contains(&them) {
            self.visits[visit].ties.ignores.push(them);
            self.visits[other].ties.ignored_by.push(me);
        }
        ask.reply(&Event::reply("IGNORE", self.visits[other].name.as_str(), ""));
        Ok(())
    }

    pub(super) fn unignore(
        &mut self,
        ask: &mut Ask<'_>,
        visit: VisitIx,
        name: &str,
    ) -> Result<(), Refusal> {
        let Some(other) = self.visit_named(name) else { return no_such_user(name) };
        let (me, them) = (self.visits[visit].person, self.visits[other].person);
        self.visits[visit].ties.ignores.retain(|person| *person != them);
        self.visits[other].ties.ignored_by.retain(|person| *person != me);
        ask.reply(&Event::reply("UNIGNORE", self.visits[other].name.as_str(), ""));
        Ok(())
    }

    fn list_ignored(&self, ask: &mut Ask<'_>, visit: VisitIx) {
        let ignores = &self.visits[visit].ties.ignores;
        let mut names: Vec<_> =
            ignores.iter().map(|person| &self.visits[self.people[person]].name).collect();
        names.sort_unstable_by_key(|name| name.key());
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        ask.reply(&Event::reply("IGNORED", &names.len().to_string(), &names.join(",")));
    }
}
