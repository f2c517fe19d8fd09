//! Rendering of server lines for the screen. It knows neither the prompt nor the terminal.
//!
//! Messages and events are shown as on the wire, in colour and with a time before them, so that
//! quotes from a screen can be found in a log. Replies and errors are sentences after `--`.
//!
//! A [`Styled`] line consists only of [`Clean`] text, the client's own words and colours.
//! Colour follows the parsed structure, never the text: `alice: [PRIVATE MESSAGE] from root`
//! is an ordinary message of alice.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::ValueEnum;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use owo_colors::Style;

use super::members::{INDENT, MemberList, count_in_two_rows};
use crate::client::model::mentions::Highlights;
use crate::client::model::state::State;
use crate::client::text::sanitize::Clean;
use crate::client::text::sentences::{Clock, members};
use crate::client::text::theme::Theme;
use crate::client::text::width::most;
use crate::protocol::name::{is_lobby, is_same_name};
use crate::protocol::{Event, Key, Message, Place, Reply, Stamp, Tags};

/// A line that is safe to write to a terminal, without its line end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Styled {
    text: String,
    /// Its width in columns, at most.
    width: usize,
    /// See [`Self::hang`].
    hang: usize,
}

impl Styled {
    fn new() -> Self {
        Self::default()
    }

    fn put(&mut self, style: Style, text: &str) -> &mut Self {
        // Writing into a String cannot fail.
        let text = Clean::at(text, self.width).to_string();
        self.width += most(&text);
        let _ = write!(self.text, "{}", style.style(text));
        self
    }

    fn plain(&mut self, text: &str) -> &mut Self {
        self.put(Style::new(), text)
    }

    /// Returns the line with its escape sequences.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the column at which continuation rows begin.
    pub(super) fn hang(&self) -> usize {
        self.hang
    }

    /// Aligns continuation rows with the text that follows.
    fn hang_here(&mut self) -> &mut Self {
        self.hang = self.width;
        self
    }
}

/// The end of a list of members that is not complete.
const REST: &str = "… (/who lists all)";

/// When a line shows its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(in crate::client) enum Times {
    #[default]
    Always,
    /// Only if it differs from that of the line above
    Minute,
    Never,
}

/// Renders lines as [`Styled`] ones.
pub(in crate::client) struct Screen {
    theme: Theme,
    pub(super) words: Highlights,
    pub(super) times: Times,
    zone: TimeZone,
    /// Whether a name is omitted if the line above has the same.
    pub(super) groups: bool,
    /// Sender and place of the message in the line above.
    speaker: RefCell<Option<String>>,
    /// The time of the line above.
    last: Cell<Timestamp>,
    /// The date at the last call of [`Self::day`].
    day: Cell<Option<Date>>,
    /// The colours of the names shown so far.
    colors: RefCell<BTreeMap<Key, usize>>,
}

/// For how many names the colours are kept.
const COLORED_MAX: usize = 10_000;

impl Screen {
    /// Returns a screen that shows local times.
    pub(in crate::client) fn new(
        theme: Theme,
        times: Times,
        groups: bool,
        words: Highlights,
    ) -> Self {
        Self { words, groups, ..Self::in_zone(theme, times, TimeZone::system()) }
    }

    fn in_zone(theme: Theme, times: Times, zone: TimeZone) -> Self {
        let last = Cell::new(Timestamp::MIN);
        let (words, speaker) = (Highlights::default(), RefCell::default());
        let (day, colors) = (Cell::new(None), RefCell::default());
        Self { theme, words, times, zone, groups: false, speaker, last, day, colors }
    }

    pub(super) fn theme(&self) -> Theme {
        self.theme
    }

    /// Renders a line of the server in this `state` of the chat. `now` is the time of lines
    /// without a time tag, `columns` the width of the screen.
    pub(super) fn line(&self, wire: &str, state: &State, now: Timestamp, columns: usize) -> Styled {
        let (tags, plain) = Tags::split(wire);
        let event = Event::parse(plain);
        if !matches!(event, Some(Event::Message(_) | Event::Row { .. })) {
            self.speaker.take();
        }
        let time = tags.time.map_or(now, Stamp::timestamp);
        let mut line = Styled::new();
        match event {
            Some(Event::Help(row)) => {
                // Continuation rows of the description are aligned with its beginning.
                let (usage, help) = row.split_at(row.find("  ").map_or(row.len(), |at| at + 2));
                line.plain(usage);
                line.hang_here().plain(help)
            }
            Some(Event::Row { time, message }) => {
                self.time(&mut line, time.timestamp(), now);
                self.message(&mut line, &message, state)
            }
            Some(Event::Message(message)) => {
                self.time(&mut line, time, now);
                self.message(&mut line, &message, state)
            }
            Some(Event::Error { code, text, .. }) => {
                self.time(&mut line, time, now);
                let text = self.clock(now).localize(text);
                self.mark(&mut line).put(self.theme.error(), &text);
                line.put(self.theme.faint(), &format!(" ({code})"))
            }
            Some(Event::Bye { text, .. }) => {
                self.time(&mut line, time, now);
                let text = self.clock(now).localize(text);
                self.mark(&mut line).put(self.theme.error(), &text)
            }
            Some(Event::Reply(reply)) => {
                self.time(&mut line, time, now);
                match reply {
                    Reply::Users { room, count, names } => {
                        // A list of a large room at the login has only the count.
                        let names: Vec<&str> = names.unwrap_or_default().iter().collect();
                        let heading = members(room, count);
                        self.members(&mut line, &heading, (&names, count), state, columns)
                    }
                    _ => self.reply(&mut line, &reply, plain, now),
                }
            }
            Some(_) => {
                self.time(&mut line, time, now);
                line.put(self.theme.faint(), plain)
            }
            // An unknown line of a newer server is shown unchanged.
            None => line.plain(plain),
        };
        line
    }

    /// Renders coalesced presence, in the form of a wire line.
    pub(super) fn presence(&self, plain: &str, now: Timestamp) -> Styled {
        self.speaker.take();
        let mut line = Styled::new();
        self.time(&mut line, now, now);
        line.put(self.theme.faint(), plain);
        line
    }

    /// Returns a date divider if the day has changed since the last call.
    pub(super) fn day(&self, now: Timestamp) -> Option<Styled> {
        let today = now.to_zoned(self.zone.clone()).date();
        let before = self.day.replace(Some(today));
        let is_new = before.is_some_and(|before| before != today);
        is_new.then(|| self.divider(&today.strftime("%a %-d %b %Y").to_string()))
    }

    /// Renders a notice of the client.
    pub(super) fn notice(&self, text: &str) -> Styled {
        self.speaker.take();
        let mut line = Styled::new();
        line.put(self.theme.faint(), "-- ").hang_here().put(self.theme.faint(), text);
        line
    }

    /// Renders a warning of the client.
    pub(super) fn warning(&self, text: &str) -> Styled {
        self.speaker.take();
        let mut line = Styled::new();
        line.put(self.theme.error(), "-- ").hang_here().put(self.theme.error(), text);
        line
    }

    /// Renders a line that was typed but not sent yet.
    pub(super) fn pending(&self, text: &str) -> Styled {
        let mut line = Styled::new();
        line.put(self.theme.faint(), "-- to be sent: ").put(self.theme.faint(), text);
        line
    }

    /// Renders a divider between lines.
    pub(super) fn divider(&self, text: &str) -> Styled {
        self.speaker.take();
        let mut line = Styled::new();
        line.put(self.theme.faint(), &format!("—— {text} ——"));
        line
    }

    /// Puts `HH:MM `, preceded by the date if that is not today's.
    fn time(&self, line: &mut Styled, time: Timestamp, now: Timestamp) {
        let local = time.to_zoned(self.zone.clone());
        let is_today = local.date() == now.to_zoned(self.zone.clone()).date();
        let format = if is_today { "%H:%M " } else { "%Y-%m-%d %H:%M " };
        let minute = |time: Timestamp| time.as_second().div_euclid(60);
        let is_known = minute(self.last.replace(time)) == minute(time);
        let shown = local.strftime(format).to_string();
        match self.times {
            Times::Never => {}
            Times::Minute if is_known => {
                line.plain(&" ".repeat(most(&shown)));
            }
            Times::Always | Times::Minute => {
                line.put(self.theme.faint(), &shown);
            }
        }
        line.hang_here();
    }

    fn message<'a>(
        &self,
        line: &'a mut Styled,
        message: &Message<'_>,
        state: &State,
    ) -> &'a mut Styled {
        let (mut marks, mut words) = (self.theme.faint(), Style::new());
        match message.place {
            Place::Room(room) if is_lobby(room) => {}
            Place::Room(room) => {
                line.put(marks, "#").put(marks, room).plain(" ");
            }
            Place::ToMe | Place::ToPerson(_) => {
                (marks, words) = (self.theme.private(), self.theme.private());
                line.put(marks, "[PRIVATE MESSAGE");
                if let Place::ToPerson(name) = message.place {
                    line.put(marks, " to ").put(marks, name);
                }
                line.put(marks, "] ");
            }
        }
        if message.is_action {
            line.put(marks, "** ");
            if matches!(message.place, Place::Room(_)) {
                words = self.theme.action();
            }
        }
        let is_mine = is_same_name(message.from, state.me());
        let is_mention = !is_mine && self.words.is_mention(message.text, state.me());
        if self.has_same_speaker(message) && !is_mention {
            let name = most(message.from) + 2;
            line.plain(&" ".repeat(name));
            return line.hang_here().put(words, message.text);
        }
        if is_mention {
            // Without colour a sign marks the mention.
            line.plain(if self.theme.has_color() { "" } else { ">" });
            line.put(self.theme.mention(), message.from);
        } else {
            self.name(line, message.from, state);
        }
        line.put(marks, if message.is_action { " " } else { ": " });
        line.hang_here().put(words, message.text)
    }

    /// Whether the line above has the same sender and place, and names are grouped.
    fn has_same_speaker(&self, message: &Message<'_>) -> bool {
        if !self.groups {
            return false;
        }
        let speaker = (!message.is_action)
            .then(|| format!("{:?} {}", message.place, Key::fold(message.from).as_str()));
        let before = self.speaker.replace(speaker.clone());
        speaker.is_some() && speaker == before
    }

    fn clock(&self, now: Timestamp) -> Clock {
        Clock { now, zone: self.zone.clone() }
    }

    /// Puts the mark of a line that is no message: no name begins like it.
    fn mark<'a>(&self, line: &'a mut Styled) -> &'a mut Styled {
        line.put(self.theme.faint(), "-- ").hang_here()
    }

    /// Puts a reply as a sentence, or as it is without one.
    fn reply<'a>(
        &self,
        line: &'a mut Styled,
        reply: &Reply<'_>,
        plain: &str,
        now: Timestamp,
    ) -> &'a mut Styled {
        match self.clock(now).sentence(reply) {
            Some(sentence) => self.mark(line).put(self.theme.reply(), &sentence),
            None => line.put(self.theme.reply(), plain),
        }
    }

    /// Puts the members of a room that was just entered, at most two rows of them.
    fn members<'a>(
        &self,
        line: &'a mut Styled,
        heading: &str,
        (names, count): (&[&str], usize),
        state: &State,
        columns: usize,
    ) -> &'a mut Styled {
        self.mark(line).put(self.theme.reply(), heading).plain(": ");
        // The second row begins at the hanging indent.
        let used = (line.width + line.hang, most(REST));
        let shown = count_in_two_rows(names.iter().copied(), used, columns);
        for (at, name) in names[..shown].iter().enumerate() {
            if at > 0 {
                line.plain(", ");
            }
            self.name(line, name, state);
        }
        match shown {
            _ if shown == count => line,
            0 => line.put(self.theme.faint(), REST),
            _ => line.plain(", ").put(self.theme.faint(), REST),
        }
    }

    /// Renders the answer to `/who` in columns, for a screen of this size.
    pub(super) fn member_list(
        &self,
        list: &MemberList,
        state: &State,
        now: Timestamp,
        size: (usize, usize),
    ) -> Vec<Styled> {
        self.speaker.take();
        let (grid, left_out) = list.arrange(size);
        let mut heading = Styled::new();
        self.time(&mut heading, now, now);
        self.mark(&mut heading).put(self.theme.reply(), &members(&list.room, list.count));
        heading.put(self.theme.faint(), &list.legend());
        let mut rows = vec![heading];
        for members in grid.rows {
            let mut row = Styled::new();
            row.plain(&" ".repeat(INDENT)).hang_here();
            for (at, member) in members.iter().enumerate() {
                let column = INDENT + at * grid.cell;
                row.plain(&" ".repeat(column.saturating_sub(row.width)));
                row.plain(&member.marks(grid.marks));
                self.name(&mut row, &member.name, state);
            }
            rows.push(row);
        }
        if left_out > 0 {
            let mut end = Styled::new();
            end.plain(&" ".repeat(INDENT)).hang_here();
            let text = format!("and {left_out} others; /who -l describes all");
            end.put(self.theme.faint(), &text);
            rows.push(end);
        }
        rows
    }

    fn name(&self, line: &mut Styled, name: &str, state: &State) {
        let is_mine = is_same_name(name, state.me());
        let style =
            if is_mine { self.theme.me() } else { self.theme.name(self.color(name, state)) };
        line.put(style, name);
    }

    /// Returns the colour of a name, which differs from those of the other users in a room that
    /// is so small that there are enough colours.
    fn color(&self, name: &str, state: &State) -> usize {
        let count = self.theme.name_colors();
        let neighbours = state.neighbours(name, count);
        let mut colors = self.colors.borrow_mut();
        if colors.len() >= COLORED_MAX {
            colors.clear();
        }
        let key = Key::fold(name);
        let first = colors.get(&key).copied().unwrap_or_else(|| self.theme.color_of_name(name));
        let uses = |color: &usize| {
            neighbours.iter().filter(|other| colors.get(**other) == Some(color)).count()
        };
        let choices = (first..first + count).map(|color| color % count);
        let color = choices.min_by_key(uses).unwrap_or(first);
        colors.insert(key, color);
        color
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::text::theme::ColorChoice;

    const NOW: &str = "2026-11-23T06:20:00Z";

    fn shown(choice: ColorChoice, wire: &str) -> String {
        let screen = Screen::in_zone(Theme::new(choice, 0), Times::Always, TimeZone::UTC);
        screen.line(wire, &State::new("alice"), NOW.parse().unwrap(), 80).text
    }

    #[test]
    fn messages_are_shown_as_on_the_wire_and_replies_as_sentences() {
        for (wire, line) in [
            ("@id=1;time=2026-11-23T06:16:00.123Z bob: hi", "06:16 bob: hi"),
            ("bob: hi", "06:20 bob: hi"),
            ("@cid=1 #ops ** bob waves", "06:20 #ops ** bob waves"),
            ("[PRIVATE MESSAGE] bob: psst", "06:20 [PRIVATE MESSAGE] bob: psst"),
            ("[PRIVATE MESSAGE to bob] alice: psst", "06:20 [PRIVATE MESSAGE to bob] alice: psst"),
            ("* bob joined", "06:20 * bob joined"),
            ("[USERS #lobby 2] alice,bob", "06:20 -- #lobby has 2 members: alice, bob"),
            ("[USERS #lobby 1034]", "06:20 -- #lobby has 1034 members: … (/who lists all)"),
            ("[BANS * 0]", "06:20 -- no bans on this server"),
            ("[ERROR no-target] nowhere", "06:20 -- nowhere (no-target)"),
            (
                "[ERROR muted] not sent: you are muted in #ops until 2026-11-23T07:00:00.000Z",
                "06:20 -- not sent: you are muted in #ops until 07:00 (muted)",
            ),
            ("[BYE quit] goodbye", "06:20 -- goodbye"),
            ("[NEWS 1] of a newer server", "06:20 [NEWS 1] of a newer server"),
            ("2026-11-23T06:16:00.123Z bob: hi", "06:16 bob: hi"),
            ("2026-11-22T06:16:00.123Z #ops bob: hi", "2026-11-22 06:16 #ops bob: hi"),
            ("/who [#ROOM]  list", "/who [#ROOM]  list"),
            ("!of a newer server", "!of a newer server"),
        ] {
            assert_eq!(shown(ColorChoice::Never, wire), line);
        }
    }

    #[test]
    fn time_is_shown_according_to_setting() {
        for (times, rows) in [
            (Times::Always, ["06:16 bob: 1", "06:16 bob: 2", "06:17 bob: 3"]),
            (Times::Minute, ["06:16 bob: 1", "      bob: 2", "06:17 bob: 3"]),
            (Times::Never, ["bob: 1", "bob: 2", "bob: 3"]),
        ] {
            let screen = Screen::in_zone(Theme::new(ColorChoice::Never, 0), times, TimeZone::UTC);
            let row = |wire| screen.line(wire, &State::new("alice"), NOW.parse().unwrap(), 80).text;
            assert_eq!(row("@time=2026-11-23T06:16:00.123Z bob: 1"), rows[0]);
            assert_eq!(row("@time=2026-11-23T06:16:59.999Z bob: 2"), rows[1]);
            assert_eq!(row("@time=2026-11-23T06:17:00.000Z bob: 3"), rows[2]);
        }
    }

    #[test]
    fn names_in_small_room_have_different_colours() {
        let theme = Theme::new(ColorChoice::Always, 0);
        let screen = Screen::in_zone(theme, Times::Never, TimeZone::UTC);
        let state = |members: &[&str]| {
            let mut state = State::new("alice");
            let line = format!("[USERS #lobby 1] alice,{}", members.join(","));
            state.apply(&Tags::default(), &Event::parse(&line).unwrap());
            state
        };
        let count = theme.name_colors();
        let names = ["bob", "carol", "dave", "erin", "frank", "grace"];
        // As shown in a large room, some have the same colour.
        let crowd = state(&names);
        let colors = |names: &[&str], state: &State| {
            let colors = names.iter().map(|name| screen.color(name, state));
            colors.collect::<std::collections::BTreeSet<_>>()
        };
        colors(&names, &crowd);
        for some in [&names[..count], &names[6 - count..]] {
            let few = state(some);
            colors(some, &few);
            assert_eq!(colors(some, &few).len(), count);
        }
        assert_eq!(screen.color("bob", &crowd), screen.color("BOB", &crowd));
    }

    #[test]
    fn repeated_name_is_omitted_when_grouped() {
        let theme = Theme::new(ColorChoice::Never, 0);
        let times = Times::Always;
        for groups in [false, true] {
            let screen = Screen { groups, ..Screen::in_zone(theme, times, TimeZone::UTC) };
            let row = |wire| screen.line(wire, &State::new("alice"), NOW.parse().unwrap(), 80).text;
            for (wire, alone, grouped) in [
                ("bob: 1", "06:20 bob: 1", "06:20 bob: 1"),
                ("bob: 2", "06:20 bob: 2", "06:20      2"),
                ("bob: alice?", "06:20 >bob: alice?", "06:20 >bob: alice?"),
                ("#ops bob: 3", "06:20 #ops bob: 3", "06:20 #ops bob: 3"),
                ("carol: 4", "06:20 carol: 4", "06:20 carol: 4"),
                ("* dave joined", "06:20 * dave joined", "06:20 * dave joined"),
                ("carol: 5", "06:20 carol: 5", "06:20 carol: 5"),
            ] {
                assert_eq!(row(wire), if groups { grouped } else { alone });
            }
        }
    }

    #[test]
    fn continuation_rows_are_aligned_with_text() {
        for (wire, hang) in [("bob: hi", 11), ("#ops ** bob waves", 18), ("* bob joined", 6)] {
            let screen =
                Screen::in_zone(Theme::new(ColorChoice::Always, 0), Times::Always, TimeZone::UTC);
            assert_eq!(
                screen.line(wire, &State::new("alice"), NOW.parse().unwrap(), 80).hang(),
                hang,
                "{wire}"
            );
        }
    }

    #[test]
    fn only_sender_of_mention_is_highlighted() {
        let styled = |wire| shown(ColorChoice::Always, wire);
        let mention = Theme::new(ColorChoice::Always, 0).mention().style("bob").to_string();
        for wire in ["bob: alice: ping", "#ops bob: hi Alice.", "[PRIVATE MESSAGE] bob: @alice"] {
            assert!(styled(wire).contains(&mention), "{wire}");
        }
        for wire in ["bob: malice", "bob: hi", "* bob joined"] {
            assert!(!styled(wire).contains(&mention), "{wire}");
        }
        assert_eq!(shown(ColorChoice::Never, "bob: hi alice"), "06:20 >bob: hi alice");
        let own = Theme::new(ColorChoice::Always, 0).mention().style("alice").to_string();
        assert!(!styled("alice: alice is me").contains(&own));
    }

    #[test]
    fn date_is_shown_when_the_day_changes() {
        let screen =
            Screen::in_zone(Theme::new(ColorChoice::Never, 0), Times::Always, TimeZone::UTC);
        let day = |now: &str| screen.day(now.parse().unwrap()).map(|line| line.text);
        assert_eq!(day("2026-11-23T22:00:00Z"), None);
        assert_eq!(day("2026-11-23T23:59:59Z"), None);
        assert_eq!(day("2026-11-24T00:00:00Z").as_deref(), Some("—— Tue 24 Nov 2026 ——"));
        assert_eq!(day("2026-11-24T00:00:01Z"), None);
    }

    #[test]
    fn only_own_colours_reach_the_terminal() {
        let attack = "\x1b]0;pwn\x07\x1b[2J\u{9b}6n\u{202E}";
        for shape in
            ["bob: {}", "{}: hi", "#{} bob: x", "[X {}] y", "* {}", "/{}", "{}", "[ERROR {}]"]
        {
            let line = shown(ColorChoice::Always, &shape.replace("{}", attack));
            let mut rest = line.as_str();
            while let Some((_, escape)) = rest.split_once('\x1b') {
                let end = escape.find(|c: char| !"[;0123456789".contains(c));
                assert_eq!(end.map(|end| &escape[end..=end]), Some("m"), "{line:?}");
                rest = escape;
            }
            assert!(!line.contains(['\x07', '\u{9b}', '\u{202E}', '\n']), "{line:?}");
        }
    }
}
