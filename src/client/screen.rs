//! From a line of the server to a line on the screen. What is shown is the
//! wire's own line, in colour and with a time before it: who has seen netcat's
//! view knows this one, and what is quoted from a screen can be found in a log.
//!
//! A [`Styled`] line is made of [`Clean`] text, our own words and colours,
//! and of nothing else. Colour follows the parsed structure, never the words:
//! `alice: [PRIVATE MESSAGE] from root` is only what alice says.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use clap::ValueEnum;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use owo_colors::Style;

use super::mentions::Highlights;
use super::sanitize::Clean;
use super::theme::Theme;
use super::width::most;
use crate::protocol::{Event, Key, LOBBY, Message, Place, Stamp, Tags};

/// A line that may go to a terminal as it is, without its line end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Styled {
    text: String,
    /// How many columns it takes.
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

    /// The line.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Where its further rows begin, if it takes several.
    pub(super) fn hang(&self) -> usize {
        self.hang
    }

    /// What follows is what its further rows stand under.
    fn hangs_here(&mut self) -> &mut Self {
        self.hang = self.width;
        self
    }
}

/// When a line shows its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Times {
    #[default]
    Always,
    /// Where it is not that of the line above.
    Minute,
    Never,
}

/// Turns lines into styled ones.
pub(super) struct Screen {
    theme: Theme,
    words: Highlights,
    times: Times,
    zone: TimeZone,
    /// Whether a name is left out where it is that of the line above.
    groups: bool,
    /// Who spoke in the line above, and where.
    speaker: RefCell<Option<String>>,
    /// The time that was last shown.
    last: Cell<Timestamp>,
    /// Which day it was when it was last asked.
    day: Cell<Option<Date>>,
}

impl Screen {
    /// With the times of where we are.
    pub(super) fn new(theme: Theme, times: Times, groups: bool, words: Highlights) -> Self {
        Self { words, groups, ..Self::in_zone(theme, times, TimeZone::system()) }
    }

    fn in_zone(theme: Theme, times: Times, zone: TimeZone) -> Self {
        let last = Cell::new(Timestamp::MIN);
        let (words, speaker) = (Highlights::default(), RefCell::default());
        Self { theme, words, times, zone, groups: false, speaker, last, day: Cell::new(None) }
    }

    pub(super) fn theme(&self) -> Theme {
        self.theme
    }

    /// A line of the server as it came, for whoever has the name `me`; `now` is
    /// for what bears no time of its own.
    pub(super) fn line(&self, wire: &str, me: &str, now: Timestamp) -> Styled {
        let (tags, plain) = Tags::split(wire);
        if !matches!(Event::parse(plain), Some(Event::Message(_) | Event::Row { .. })) {
            self.speaker.take();
        }
        let time = tags.time.map_or(now, Stamp::timestamp);
        let mut line = Styled::new();
        match Event::parse(plain) {
            Some(Event::Help(row)) => {
                // What it does stands under itself where it takes several rows.
                let (usage, help) = row.split_at(row.find("  ").map_or(row.len(), |at| at + 2));
                line.plain(usage);
                line.hangs_here().plain(help)
            }
            Some(Event::Row { time, message }) => {
                self.time(&mut line, time.timestamp(), now);
                self.message(&mut line, &message, me)
            }
            Some(Event::Message(message)) => {
                self.time(&mut line, time, now);
                self.message(&mut line, &message, me)
            }
            Some(Event::Error { .. } | Event::Bye { .. }) => {
                self.time(&mut line, time, now);
                line.put(self.theme.error(), plain)
            }
            Some(Event::Users { names: Some(names), .. }) => {
                self.time(&mut line, time, now);
                self.names(&mut line, plain, names, me)
            }
            Some(Event::Reply { .. } | Event::Users { .. }) => {
                self.time(&mut line, time, now);
                self.reply(&mut line, plain)
            }
            Some(_) => {
                self.time(&mut line, time, now);
                line.put(self.theme.faint(), plain)
            }
            // Of a newer server: shown as it is.
            None => line.plain(plain),
        };
        line
    }

    /// Who has come and gone, gathered, as the wire would tell it.
    pub(super) fn presence(&self, plain: &str, now: Timestamp) -> Styled {
        self.speaker.take();
        let mut line = Styled::new();
        self.time(&mut line, now, now);
        line.put(self.theme.faint(), plain);
        line
    }

    /// A line between two days, when another has begun since it was last asked.
    pub(super) fn day(&self, now: Timestamp) -> Option<Styled> {
        let today = now.to_zoned(self.zone.clone()).date();
        let before = self.day.replace(Some(today));
        let is_new = before.is_some_and(|before| before != today);
        is_new.then(|| self.divider(&today.strftime("%a %-d %b %Y").to_string()))
    }

    /// Something the client itself has to say.
    pub(super) fn notice(&self, text: &str) -> Styled {
        self.speaker.take();
        let mut line = Styled::new();
        line.put(self.theme.faint(), "-- ").hangs_here().put(self.theme.faint(), text);
        line
    }

    /// Something the client itself has to say that should not be missed.
    pub(super) fn warning(&self, text: &str) -> Styled {
        self.speaker.take();
        let mut line = Styled::new();
        line.put(self.theme.error(), "-- ").hangs_here().put(self.theme.error(), text);
        line
    }

    /// A line that is typed and not sent yet.
    pub(super) fn pending(&self, text: &str) -> Styled {
        let mut line = Styled::new();
        line.put(self.theme.faint(), "-- to be sent: ").put(self.theme.faint(), text);
        line
    }

    /// Between what was said meanwhile and what came before.
    pub(super) fn divider(&self, text: &str) -> Styled {
        self.speaker.take();
        let mut line = Styled::new();
        line.put(self.theme.faint(), &format!("—— {text} ——"));
        line
    }

    /// `HH:MM `, and the day before it where that is not today.
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
        line.hangs_here();
    }

    fn message<'a>(&self, line: &'a mut Styled, message: &Message<'_>, me: &str) -> &'a mut Styled {
        let (mut marks, mut words) = (self.theme.faint(), Style::new());
        match message.place {
            Place::Room(room) if Key::fold(room).as_str() == LOBBY => {}
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
        let is_mine = Key::fold(message.from) == Key::fold(me);
        let is_meant = !is_mine && self.words.mean(message.text, me);
        if self.is_known_speaker(message) && !is_meant {
            let name = most(message.from) + 2;
            line.plain(&" ".repeat(name));
            return line.hangs_here().put(words, message.text);
        }
        if is_meant {
            // Where there is no colour a sign says it.
            line.plain(if self.theme.has_color() { "" } else { ">" });
            line.put(self.theme.mention(), message.from);
        } else {
            self.name(line, message.from, me);
        }
        line.put(marks, if message.is_action { " " } else { ": " });
        line.hangs_here().put(words, message.text)
    }

    /// Whether the line above is of the same person in the same place, if that is not
    /// to be said again.
    fn is_known_speaker(&self, message: &Message<'_>) -> bool {
        if !self.groups {
            return false;
        }
        let speaker = (!message.is_action)
            .then(|| format!("{:?} {}", message.place, Key::fold(message.from).as_str()));
        let before = self.speaker.replace(speaker.clone());
        speaker.is_some() && speaker == before
    }

    /// `[WORD args]` in colour, what follows it plain.
    fn reply<'a>(&self, line: &'a mut Styled, plain: &str) -> &'a mut Styled {
        let head = plain.find(']').map_or(plain.len(), |end| end + 1);
        line.put(self.theme.reply(), &plain[..head]).plain(&plain[head..])
    }

    /// `[USERS #room N]` and each name in its colour.
    fn names<'a>(
        &self,
        line: &'a mut Styled,
        plain: &str,
        names: &str,
        me: &str,
    ) -> &'a mut Styled {
        line.put(self.theme.reply(), plain.strip_suffix(names).unwrap_or(plain));
        for (at, name) in names.split(',').enumerate() {
            if at > 0 {
                line.plain(", ");
            }
            self.name(line, name, me);
        }
        line
    }

    fn name(&self, line: &mut Styled, name: &str, me: &str) {
        let is_mine = Key::fold(name) == Key::fold(me);
        line.put(if is_mine { self.theme.me() } else { self.theme.name(name) }, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::theme::ColorChoice;

    const NOW: &str = "2026-11-23T06:20:00Z";

    fn shown(choice: ColorChoice, wire: &str) -> String {
        let screen = Screen::in_zone(Theme::new(choice, 0), Times::Always, TimeZone::UTC);
        screen.line(wire, "alice", NOW.parse().unwrap()).text
    }

    #[test]
    fn a_line_is_the_wires_own_with_a_time() {
        for (wire, line) in [
            ("@id=1;time=2026-11-23T06:16:00.123Z bob: hi", "06:16 bob: hi"),
            ("bob: hi", "06:20 bob: hi"),
            ("@cid=1 #ops ** bob waves", "06:20 #ops ** bob waves"),
            ("[PRIVATE MESSAGE] bob: psst", "06:20 [PRIVATE MESSAGE] bob: psst"),
            ("[PRIVATE MESSAGE to bob] alice: psst", "06:20 [PRIVATE MESSAGE to bob] alice: psst"),
            ("* bob joined", "06:20 * bob joined"),
            ("[USERS #lobby 2] alice,bob", "06:20 [USERS #lobby 2] alice, bob"),
            ("[ERROR no-target] nowhere", "06:20 [ERROR no-target] nowhere"),
            ("[PONG t1]", "06:20 [PONG t1]"),
            ("2026-11-23T06:16:00.123Z bob: hi", "06:16 bob: hi"),
            ("2026-11-22T06:16:00.123Z #ops bob: hi", "2026-11-22 06:16 #ops bob: hi"),
            ("/who [#ROOM]  list", "/who [#ROOM]  list"),
            ("!of a newer server", "!of a newer server"),
        ] {
            assert_eq!(shown(ColorChoice::Never, wire), line);
        }
    }

    #[test]
    fn a_time_is_shown_as_often_as_one_wishes() {
        for (times, rows) in [
            (Times::Always, ["06:16 bob: 1", "06:16 bob: 2", "06:17 bob: 3"]),
            (Times::Minute, ["06:16 bob: 1", "      bob: 2", "06:17 bob: 3"]),
            (Times::Never, ["bob: 1", "bob: 2", "bob: 3"]),
        ] {
            let screen = Screen::in_zone(Theme::new(ColorChoice::Never, 0), times, TimeZone::UTC);
            let row = |wire| screen.line(wire, "alice", NOW.parse().unwrap()).text;
            assert_eq!(row("@time=2026-11-23T06:16:00.123Z bob: 1"), rows[0]);
            assert_eq!(row("@time=2026-11-23T06:16:59.999Z bob: 2"), rows[1]);
            assert_eq!(row("@time=2026-11-23T06:17:00.000Z bob: 3"), rows[2]);
        }
    }

    #[test]
    fn a_name_is_said_once_if_one_wishes() {
        let theme = Theme::new(ColorChoice::Never, 0);
        let times = Times::Always;
        for groups in [false, true] {
            let screen = Screen { groups, ..Screen::in_zone(theme, times, TimeZone::UTC) };
            let row = |wire| screen.line(wire, "alice", NOW.parse().unwrap()).text;
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
    fn further_rows_stand_under_the_words() {
        for (wire, hang) in [("bob: hi", 11), ("#ops ** bob waves", 18), ("* bob joined", 6)] {
            let screen =
                Screen::in_zone(Theme::new(ColorChoice::Always, 0), Times::Always, TimeZone::UTC);
            assert_eq!(screen.line(wire, "alice", NOW.parse().unwrap()).hang(), hang, "{wire}");
        }
    }

    #[test]
    fn who_speaks_of_me_stands_out_and_nobody_else() {
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
    fn another_day_begins_with_its_date() {
        let screen =
            Screen::in_zone(Theme::new(ColorChoice::Never, 0), Times::Always, TimeZone::UTC);
        let day = |now: &str| screen.day(now.parse().unwrap()).map(|line| line.text);
        assert_eq!(day("2026-11-23T22:00:00Z"), None);
        assert_eq!(day("2026-11-23T23:59:59Z"), None);
        assert_eq!(day("2026-11-24T00:00:00Z").as_deref(), Some("—— Tue 24 Nov 2026 ——"));
        assert_eq!(day("2026-11-24T00:00:01Z"), None);
    }

    #[test]
    fn whatever_comes_only_our_own_colours_reach_the_terminal() {
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
