//! Formatting: commands as the lines that [`parse`](super::parse()) parses, and the rows of
//! `/help`.

use std::fmt;

use super::{Arg, Command, HistoryRange, MessageTarget, Row};
use crate::protocol::units::show_duration;

impl Row {
    /// Returns the usage, like `/msg NAME TEXT`.
    #[must_use]
    pub fn usage(&self) -> String {
        usage(self.name, self.args)
    }

    /// Returns the command's line in `/help`: usage and help text.
    #[must_use]
    pub fn help_row(&self) -> String {
        format!("{}  {}", self.usage(), self.help)
    }

    /// Returns the lines of `/help COMMAND`: usage, aliases and examples.
    #[must_use]
    pub fn help_rows(&self) -> Vec<String> {
        let aliases = self.aliases.iter().map(|alias| format!("/{alias}  the same"));
        let examples = self.examples.iter().map(|example| format!("{example}  (an example)"));
        std::iter::once(self.help_row()).chain(aliases).chain(examples).collect()
    }
}

impl fmt::Display for MessageTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(room) => write!(f, "#{room}"),
            Self::Person(name) => f.write_str(name),
        }
    }
}

/// Formats the command as a line that [`parse`](super::parse()) parses to the same command.
impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.row().name)?;
        let mut put =
            |args: &[Option<&str>]| args.iter().flatten().try_for_each(|arg| write!(f, " {arg}"));
        match *self {
            Self::List
            | Self::Back
            | Self::Bans
            | Self::Gbans
            | Self::Unlock
            | Self::Session
            | Self::Version
            | Self::Features
            | Self::Set { change: None } => Ok(()),
            Self::Help { command: arg }
            | Self::Query { name: arg }
            | Self::Topic { text: arg }
            | Self::Lock { key: arg }
            | Self::Away { text: arg }
            | Self::Ignore { name: arg }
            | Self::Ping { token: arg }
            | Self::Quit { reason: arg } => put(&[arg]),
            Self::Who { room, has_details } => put(&[has_details.then_some("-l"), room]),
            Self::Reply { text: arg }
            | Self::Me { text: arg }
            | Self::Whois { name: arg }
            | Self::Nick { name: arg }
            | Self::Unignore { name: arg }
            | Self::Op { name: arg }
            | Self::Deop { name: arg }
            | Self::Invite { name: arg }
            | Self::Unban { whom: arg }
            | Self::Gunban { whom: arg }
            | Self::Wall { text: arg }
            | Self::Oper { password: arg }
            | Self::Unmute { name: arg }
            | Self::Register { password: arg }
            | Self::Passwd { password: arg }
            | Self::Unregister { password: arg } => put(&[Some(arg)]),
            Self::Resume { token, after, time } => {
                let time = time.map(|time| time.to_string());
                put(&[Some(token), Some(&after.to_string()), time.as_deref()])
            }
            Self::Login { name, password } => put(&[Some(name), password]),
            Self::Msg { to, text } => put(&[Some(&to.to_string()), Some(text)]),
            Self::Kick { name, reason } | Self::Kill { name, reason } => put(&[Some(name), reason]),
            Self::Mute { name, time } => put(&[Some(name), time.map(show_duration).as_deref()]),
            Self::Ban { whom, time, reason } | Self::Gban { whom, time, reason } => {
                put(&[Some(whom), time.map(show_duration).as_deref(), reason])
            }
            Self::Join { room, key } => put(&[Some(room), key]),
            Self::Part { room, reason } => put(&[room, reason]),
            Self::History { rows, thread } => {
                let HistoryRange { count, before, after, since, until } = rows;
                let part = |keyword, value: Option<String>| {
                    value.map(|value| format!("{keyword} {value}"))
                };
                let parts = [
                    Some(count.to_string()),
                    part("before", before.map(|id| id.to_string())),
                    part("after", after.map(|id| id.to_string())),
                    part("since", since.map(|when| when.to_string())),
                    part("until", until.map(|when| when.to_string())),
                    thread.map(|thread| thread.to_string()),
                ];
                put(&parts.each_ref().map(Option::as_deref))
            }
            Self::Search { query } => put(&[Some(query.text())]),
            Self::Post { room, label, text } => put(&[Some(room), Some(label), Some(text)]),
            Self::Auth { name, password } => put(&[Some(name), Some(password)]),
            Self::Set { change: Some((setting, is_on)) } => {
                put(&[Some(setting.word()), Some(on_off(is_on))])
            }
        }
    }
}

/// Returns a usage, like `/msg NAME TEXT`.
#[must_use]
pub fn usage(name: &str, args: &[Arg]) -> String {
    args.iter().fold(format!("/{name}"), |usage, arg| usage + " " + arg.usage)
}

/// Returns `on` or `off`.
#[must_use]
pub fn on_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, TABLE, parse};

    #[test]
    fn examples_parse_as_their_command_and_round_trip() {
        for row in TABLE {
            for example in row.examples {
                let Ok(Parsed::Command(command)) = parse(example) else { panic!("{example}") };
                assert_eq!(command.row().name, row.name, "{example}");
                let written = command.to_string();
                assert_eq!(parse(&written), Ok(Parsed::Command(command)), "{example}");
            }
        }
    }
}
