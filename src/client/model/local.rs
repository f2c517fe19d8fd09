//! The client's own commands, abbreviations of commands, and `/help` without a connection.
//! No command here has the name of a server command. It knows nothing of the screen.

use crate::commands::{self, Arg, ArgKind, Command, Group, Parsed};
use crate::protocol::text::{is_blank, split_word};
use crate::protocol::{Refusal, Tags};

/// A command of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) enum Local {
    /// Toggles whether a room is quiet; the current room if none is named.
    Quiet(Option<String>),
    /// Closes the connection and opens a new one.
    Reconnect,
    /// Sends text to the room, even during a `/query`.
    Say(String),
    /// Shows the settings, or changes one; without a value shows it.
    Set(Option<(OwnSetting, String)>),
    /// Empties the screen.
    Clear,
}

/// A setting of the client that `/set` shows and changes. `/set` with another word is a command
/// of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum OwnSetting {
    Times,
    Joins,
    Notify,
    Highlight,
    Log,
    GroupNames,
    Title,
}

const SWITCH: &[&str] = &["on", "off"];

impl OwnSetting {
    /// Every setting, its word and its values, in the order in which they are shown.
    pub(in crate::client) const TABLE: [(Self, &'static str, &'static [&'static str]); 7] = [
        (Self::Times, "times", &["always", "minute", "never"]),
        (Self::Joins, "joins", &["all", "smart", "off"]),
        (Self::Notify, "notify", &["off", "bell", "osc9", "osc777", "[\"PROGRAM\"]"]),
        (Self::Highlight, "highlight", &["WORD,WORD", "-"]),
        (Self::Log, "log", SWITCH),
        (Self::GroupNames, "group-names", SWITCH),
        (Self::Title, "title", SWITCH),
    ];

    fn find(word: &str) -> Option<Self> {
        Self::TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(word)).map(|row| row.0)
    }

    pub(in crate::client) fn word(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// Returns the values, for people; words in capitals stand for others.
    pub(in crate::client) fn values(self) -> &'static [&'static str] {
        Self::TABLE[self as usize].2
    }

    /// Returns the setting whose value comes next after the start of a line.
    pub(in crate::client) fn before_value(start: &str) -> Option<Self> {
        let (name, rest) = split_word(start.strip_prefix('/')?);
        let setting = Self::find(rest.trim_matches(is_blank)).filter(|_| start.ends_with(is_blank));
        setting.filter(|_| name.eq_ignore_ascii_case(SET))
    }
}

/// The command that both the client and the server have.
const SET: &str = "set";

fn parse_set(rest: &str) -> Option<Local> {
    let (word, value) = split_word(rest.trim_start_matches(is_blank));
    if word.is_empty() {
        return Some(Local::Set(None));
    }
    let value = value.trim_matches(is_blank).to_owned();
    OwnSetting::find(word).map(|setting| Local::Set(Some((setting, value))))
}

/// The syntax and help of a command of the client.
pub(in crate::client) struct Row {
    pub(in crate::client) name: &'static str,
    pub(super) args: &'static [Arg],
    pub(in crate::client) help: &'static str,
    parse: fn(&str) -> Local,
}

/// All commands of the client.
pub(in crate::client) const TABLE: &[Row] = &[
    Row { name: "clear", args: &[], help: "clear the screen", parse: |_| Local::Clear },
    Row {
        name: "quiet",
        args: &[Arg { usage: "[ROOM]", kind: ArgKind::Room }],
        help: "show only a room's lines that mention you; again to show all",
        parse: |rest| {
            let room = rest.trim_matches(is_blank).trim_start_matches('#');
            Local::Quiet((!room.is_empty()).then(|| room.to_owned()))
        },
    },
    Row {
        name: "reconnect",
        args: &[],
        help: "open a new connection, or retry now",
        parse: |_| Local::Reconnect,
    },
    Row {
        name: "say",
        args: &[Arg { usage: "TEXT", kind: ArgKind::Free }],
        help: "send a message to the room, even during a /query",
        parse: |rest| Local::Say(rest.to_owned()),
    },
];

impl Row {
    pub(in crate::client) fn usage(&self) -> String {
        commands::usage(self.name, self.args)
    }

    fn help_row(&self) -> String {
        format!("{}  {}", self.usage(), self.help)
    }
}

fn find(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name))
}

/// Returns the arguments of a command of the server or the client.
pub(in crate::client) fn args_of(name: &str) -> Option<&'static [Arg]> {
    commands::find(name).map(|row| row.args).or_else(|| find(name).map(|row| row.args))
}

/// Parses a line, if it is a command of the client.
pub(in crate::client) fn parse(line: &str) -> Option<Local> {
    let (name, rest) = split_word(line.strip_prefix('/')?);
    if name.eq_ignore_ascii_case(SET) {
        return parse_set(rest);
    }
    find(name).map(|row| (row.parse)(rest))
}

/// Returns the names of the client's commands.
fn names() -> Vec<&'static str> {
    TABLE.iter().map(|row| row.name).collect()
}

/// Returns the refusal of an abbreviation that is ambiguous, with the commands of the server and
/// the client that it may stand for.
pub(super) fn ambiguous(line: &str) -> Option<Refusal> {
    let (word, _) = split_word(line.strip_prefix('/')?);
    let is_known = args_of(word).is_some() || commands::completions(word, &names()).len() < 2;
    (!is_known).then(|| commands::unknown_among(word, &names()))
}

/// Commands of other programs that mean the same as one here.
const SYNONYMS: [(&str, &str); 2] = [("?", "help"), ("afk", "away")];

/// Expands an unambiguous abbreviation of a command: `/his` is `/history`, `/wh` is ambiguous.
/// A single letter is never expanded: `/d bob` would remove an operator, `/a` set the user away.
pub(in crate::client) fn expand_abbreviation(line: &str) -> Option<String> {
    let (prefix, rest) = split_word(line.strip_prefix('/')?);
    let with = |name: &str| match rest {
        "" => format!("/{name}"),
        _ => format!("/{name} {rest}"),
    };
    if let Some((_, name)) = SYNONYMS.iter().find(|row| row.0.eq_ignore_ascii_case(prefix))
        && !line.contains('\n')
    {
        return Some(with(name));
    }
    // In a text of several lines a command is only text.
    if prefix.chars().nth(1).is_none() || args_of(prefix).is_some() || line.contains('\n') {
        return None;
    }
    let [name] = commands::completions(prefix, &names())[..] else { return None };
    Some(with(name))
}

/// Returns the group of a row of help.
fn group_of(row: &str) -> Group {
    let name = Tags::split(row).1.trim_start_matches('/').split(is_blank).next();
    name.and_then(commands::find).map_or(Group::Me, |row| row.group)
}

/// Sorts the rows of a long help by group, with a heading before the first row of each group.
/// The most needed group comes last, next to the prompt.
pub(in crate::client) fn grouped(mut rows: Vec<String>) -> Vec<(Option<&'static str>, String)> {
    rows.sort_by_key(|row| group_of(row));
    let mut last = None;
    let headed = |row: String| {
        let group = group_of(&row);
        let is_first = last.replace(group) != Some(group);
        (is_first.then(|| group.heading()), row)
    };
    rows.into_iter().map(headed).collect()
}

/// Returns the client's part of the answer to a `/help`, and whether it is the whole answer.
/// Returns `None` if only the server answers.
pub(in crate::client) fn help(line: &str, is_offline: bool) -> Option<(Vec<String>, bool)> {
    let Ok(Parsed::Command(Command::Help { command })) = commands::parse(line) else {
        return None;
    };
    let own = TABLE.iter().map(Row::help_row);
    let Some(name) = command else {
        let rows = commands::TABLE.iter().filter(|_| is_offline).map(commands::Row::help_row);
        return Some((own.chain(rows).collect(), is_offline));
    };
    let name = name.strip_prefix('/').unwrap_or(name);
    match (find(name), commands::find(name)) {
        (Some(row), _) => Some((vec![row.help_row()], true)),
        (None, Some(row)) if is_offline => Some((row.help_rows(), true)),
        (None, None) if is_offline => Some((vec![commands::unknown(name).text.into_owned()], true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_command_has_no_name_of_a_server_command() {
        for row in TABLE {
            assert!(commands::find(row.name).is_none(), "{}", row.name);
            assert!(row.help.len() < 80, "{}", row.name);
        }
    }

    #[test]
    fn client_command_is_parsed_like_any_command() {
        for (line, local) in [
            ("/quiet", Some(Local::Quiet(None))),
            ("/Quiet #ops ", Some(Local::Quiet(Some("ops".to_owned())))),
            ("/reconnect", Some(Local::Reconnect)),
            ("/say  hi all", Some(Local::Say(" hi all".to_owned()))),
            ("/quit", None),
            ("quiet", None),
            ("//quiet", None),
        ] {
            assert_eq!(parse(line), local, "{line}");
        }
    }

    #[test]
    fn abbreviation_is_expanded_when_unambiguous() {
        for (line, full) in [
            ("/his 5", Some("/history 5")),
            ("/REC", Some("/reconnect")),
            ("/?", Some("/help")),
            ("/AFK at lunch", Some("/away at lunch")),
            ("/afk\nx", None),
            ("/wh", None),
            ("/who", None),
            ("/r hi", None),
            ("/xyz", None),
            ("/a", None),
            ("/d bob", None),
            ("/t hi", None),
            ("/", None),
            ("//his", None),
            ("/his 5\nmore", None),
            ("his", None),
        ] {
            assert_eq!(expand_abbreviation(line).as_deref(), full, "{line}");
        }
    }

    #[test]
    fn ambiguous_abbreviation_lists_its_candidates() {
        let text = ambiguous("/re x").expect("ambiguous").text;
        let list = "/reconnect, /register, /reply or /resume?";
        assert!(text.ends_with(list), "{text}");
        for line in ["/who", "/his", "/nosuch", "/", "re", "/r hi"] {
            assert!(ambiguous(line).is_none(), "{line}");
        }
    }

    #[test]
    fn long_help_is_grouped_with_headings() {
        let rows = ["/me TEXT  x", "@cid=1 /gban X  x", "/quiet  x", "/msg NAME  x"];
        let rows = grouped(rows.map(str::to_owned).to_vec());
        let rows: Vec<_> = rows.iter().map(|(heading, row)| (*heading, row.as_str())).collect();
        let expected = [
            (Some("for operators of the server"), "@cid=1 /gban X  x"),
            (Some("you"), "/quiet  x"),
            (Some("talking"), "/me TEXT  x"),
            (None, "/msg NAME  x"),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn help_is_shown_when_offline() {
        let shown = |line, is_offline| help(line, is_offline).expect(line);
        let (rows, is_all) = shown("/help", true);
        assert_eq!(rows.len(), TABLE.len() + commands::TABLE.len());
        assert!(is_all);
        assert_eq!(shown("/help", false).0.len(), TABLE.len());
        assert!(shown("/help quiet", false).1);
        assert!(shown("/help msg", true).0[0].starts_with("/msg NAME TEXT"));
        assert_eq!(help("/help msg", false), None);
        assert_eq!(help("/who", true), None);
        assert!(shown("/help nosuch", true).0[0].contains("no such command"));
    }
}
