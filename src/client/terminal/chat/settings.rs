//! `/set`: the client's settings, shown and changed while it runs.

use clap::ValueEnum as _;

use super::Chat;
use crate::client::model::local::OwnSetting;
use crate::client::model::mentions::Highlights;
use crate::client::terminal::presence::Joins;
use crate::client::terminal::screen::Times;
use crate::client::terminal::shared::lock;
use crate::commands::{Setting, on_off};
use crate::config::parse_switch;

/// The value that clears the highlighted words, as in `/topic -`.
const NONE: &str = "-";

impl Chat {
    /// Shows all settings, or changes one; without a value shows it.
    pub(in crate::client::terminal) fn set(&mut self, change: Option<(OwnSetting, String)>) {
        let Some((setting, value)) = change else { return self.show_settings() };
        if value.is_empty() {
            return self.notice(&self.described(setting));
        }
        if let Err(problem) = self.apply_setting(setting, &value) {
            return self.warn(&format!("{}: {problem}", setting.word()));
        }
        self.notice(&format!("{} is now {}", setting.word(), self.value_of(setting)));
        if let Some(file) = self.settings_file.take() {
            self.notice(&format!("until you leave; to keep settings, write them to {file}"));
        }
    }

    fn show_settings(&self) {
        let echo = lock(&self.state).is_on(Setting::Echo);
        self.notice(&format!("{} {} (on, off)", Setting::Echo.word(), on_off(echo)));
        for (setting, ..) in OwnSetting::TABLE {
            self.notice(&self.described(setting));
        }
    }

    /// Returns a setting with its value and the possible ones: `joins smart (all, smart, off)`.
    fn described(&self, setting: OwnSetting) -> String {
        format!("{} {} ({})", setting.word(), self.value_of(setting), setting.values().join(", "))
    }

    fn value_of(&self, setting: OwnSetting) -> String {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let switch = |is_on| on_off(is_on).to_owned();
        match setting {
            OwnSetting::Times => name(self.screen.times.to_possible_value()),
            OwnSetting::Joins => name(self.joins.to_possible_value()),
            OwnSetting::Notify => self.attention.method().to_string(),
            OwnSetting::Highlight => match self.screen.words.to_string() {
                words if words.is_empty() => NONE.to_owned(),
                words => words,
            },
            OwnSetting::Log => switch(self.log.is_on()),
            OwnSetting::GroupNames => switch(self.screen.groups),
            OwnSetting::Title => switch(self.attention.has_title()),
        }
    }

    fn apply_setting(&mut self, setting: OwnSetting, value: &str) -> Result<(), String> {
        let values = || format!("use one of {}", setting.values().join(", "));
        match setting {
            OwnSetting::Times => {
                self.screen.times = Times::from_str(value, true).map_err(|_| values())?;
            }
            OwnSetting::Joins => {
                // As for the server's setting of this name.
                let value = if value.eq_ignore_ascii_case("on") { "all" } else { value };
                self.joins = Joins::from_str(value, true).map_err(|_| values())?;
            }
            OwnSetting::Notify => self.attention.set_method(value.parse()?),
            OwnSetting::Highlight => {
                let words: Vec<String> =
                    value.split(',').filter(|word| *word != NONE).map(str::to_owned).collect();
                let words = Highlights::new(&words);
                self.attention.words = words.clone();
                lock(&self.state).words = words.clone();
                self.screen.words = words;
            }
            OwnSetting::Log => self.log.turn(parse_switch(value)?)?,
            OwnSetting::GroupNames => self.screen.groups = parse_switch(value)?,
            OwnSetting::Title => self.attention.set_title(parse_switch(value)?),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::model::local::{Local, parse};
    use crate::client::terminal::test_support::chat;

    fn set(chat: &mut Chat, line: &str) {
        let Some(Local::Set(change)) = parse(line) else { panic!("{line}") };
        chat.set(change);
    }

    #[test]
    fn settings_are_listed_and_change_at_once() {
        let (mut chat, printed) = chat();
        chat.settings_file = Some("the file".to_owned());
        set(&mut chat, "/set");
        let all = [
            "-- echo on (on, off)",
            "-- times never (always, minute, never)",
            "-- joins all (all, smart, off)",
            "-- notify off (off, bell, osc9, osc777, [\"PROGRAM\"])",
            "-- highlight - (WORD,WORD, -)",
            "-- log off (on, off)",
            "-- group-names off (on, off)",
            "-- title off (on, off)",
        ];
        assert_eq!(printed.take(), all);
        set(&mut chat, "/set times minute");
        let kept = "-- until you leave; to keep settings, write them to the file";
        assert_eq!(printed.take(), ["-- times is now minute", kept]);
        for (line, printed_line) in [
            ("/set joins off", "-- joins is now off"),
            ("/SET Joins ON", "-- joins is now all"),
            ("/set joins", "-- joins all (all, smart, off)"),
            ("/set group-names yes", "-- group-names is now on"),
            ("/set highlight Deploy,disk full", "-- highlight is now deploy, disk full"),
            ("/set notify [\"true\"]", "-- notify is now [\"true\"]"),
            ("/set times noon", "-- times: use one of always, minute, never"),
            ("/set log on", "-- log: set XDG_DATA_HOME or HOME to store log files"),
        ] {
            set(&mut chat, line);
            assert_eq!(printed.take(), [printed_line], "{line}");
        }
        assert_eq!(chat.joins, Joins::All);
        assert_eq!(chat.screen.times, Times::Minute);
        assert!(lock(&chat.state).words.is_mention("a disk full", "alice"));
        set(&mut chat, "/set highlight -");
        assert!(!lock(&chat.state).words.is_mention("a disk full", "alice"));
    }

    #[test]
    fn settings_of_the_server_are_not_the_clients() {
        for line in ["/set echo off", "/set tags on", "/set nosuch x", "/sets", "/set\nx"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
