//! What the client does itself: its own commands, and help where no server answers.
//! It never takes a name that the one table of commands has.

use crate::commands::{self, Arg, ArgKind, Command, Group, Request};
use crate::protocol::Tags;
use crate::protocol::text::{is_blank, split_word};

/// A command of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Local {
    /// Show less of a room, or all again; the current one if none is named.
    Quiet(Option<String>),
    /// Give the connection up and come back.
    Reconnect,
    /// Say something in the room, also where plain lines go to one person.
    Say(String),
}

/// How one is written.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) args: &'static [Arg],
    help: &'static str,
}

/// All of them.
pub(super) const TABLE: &[Row] = &[
    Row {
        name: "quiet",
        args: &[Arg { usage: "[ROOM]", kind: ArgKind::Room }],
        help: "show a room's lines only where they mean you; again: all of them",
    },
    Row { name: "reconnect", args: &[], help: "come back over a new connection, or try it now" },
    Row {
        name: "say",
        args: &[Arg { usage: "TEXT", kind: ArgKind::Free }],
        help: "say something in the room, also where plain lines go to one person",
    },
];

impl Row {
    fn help_row(&self) -> String {
        let words = std::iter::once(self.name).chain(self.args.iter().map(|arg| arg.usage));
        format!("/{}  {}", words.collect::<Vec<_>>().join(" "), self.help)
    }
}

fn find(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name))
}

/// The arguments of a command, whoever does it.
pub(super) fn args_of(name: &str) -> Option<&'static [Arg]> {
    commands::find(name).map(|row| row.args).or_else(|| find(name).map(|row| row.args))
}

/// Reads a line, if it is a command of the client.
pub(super) fn parse(line: &str) -> Option<Local> {
    let (name, rest) = split_word(line.strip_prefix('/')?);
    let room = rest.trim_matches(is_blank).trim_start_matches('#');
    match find(name)?.name {
        "quiet" => Some(Local::Quiet((!room.is_empty()).then(|| room.to_owned()))),
        "say" => Some(Local::Say(rest.to_owned())),
        _ => Some(Local::Reconnect),
    }
}

/// A command that is only begun, written out: `/wh` could be two, `/his` is one. A
/// single letter is never enough: `/d bob` would take away a right, `/a` mark as away.
pub(super) fn expand_abbreviation(line: &str) -> Option<String> {
    let (begun, rest) = split_word(line.strip_prefix('/')?);
    // Of several lines a command is only text.
    if begun.chars().nth(1).is_none() || args_of(begun).is_some() || line.contains('\n') {
        return None;
    }
    let begun = begun.to_ascii_lowercase();
    let names = commands::TABLE.iter().map(|row| row.name).chain(TABLE.iter().map(|row| row.name));
    let mut meant = names.filter(|name| name.starts_with(&begun));
    let name = meant.next().filter(|_| meant.next().is_none())?;
    Some(if rest.is_empty() { format!("/{name}") } else { format!("/{name} {rest}") })
}

/// What a row of a help is about.
fn group_of(row: &str) -> Group {
    let name = Tags::split(row).1.trim_start_matches('/').split(is_blank).next();
    name.and_then(commands::find).map_or(Group::Me, |row| row.group)
}

/// A long help as people read it: by what its rows are about, which is told before
/// the first of each group. What most want to know stands last, next to the prompt.
pub(super) fn grouped(mut rows: Vec<String>) -> Vec<(Option<&'static str>, String)> {
    rows.sort_by_key(|row| group_of(row));
    let mut last = None;
    let headed = |row: String| {
        let group = group_of(&row);
        let is_first = last.replace(group) != Some(group);
        (is_first.then(|| group.heading()), row)
    };
    rows.into_iter().map(headed).collect()
}

/// What the client says to a `/help`, and whether that is all of the answer.
/// `None`: it is for the server alone.
pub(super) fn help(line: &str, is_offline: bool) -> Option<(Vec<String>, bool)> {
    let Ok(Request::Command(Command::Help { command })) = commands::parse(line) else {
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
    fn a_name_belongs_to_one_table() {
        for row in TABLE {
            assert!(commands::find(row.name).is_none(), "{}", row.name);
            assert!(row.help.len() < 80, "{}", row.name);
        }
    }

    #[test]
    fn what_the_client_does_is_read_like_any_command() {
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
    fn what_is_begun_is_written_out_where_it_can_be_one_thing_only() {
        for (line, full) in [
            ("/his 5", Some("/history 5")),
            ("/REC", Some("/reconnect")),
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
    fn a_long_help_is_told_by_what_it_is_about() {
        let rows = ["/me TEXT  x", "@cid=1 /gban X  x", "/quiet  x", "/msg NAME  x"];
        let told = grouped(rows.map(str::to_owned).to_vec());
        let told: Vec<_> = told.iter().map(|(heading, row)| (*heading, row.as_str())).collect();
        let expected = [
            (Some("for operators of the server"), "@cid=1 /gban X  x"),
            (Some("you"), "/quiet  x"),
            (Some("talking"), "/me TEXT  x"),
            (None, "/msg NAME  x"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn help_needs_no_server() {
        let said = |line, is_offline| help(line, is_offline).expect(line);
        let (rows, is_all) = said("/help", true);
        assert_eq!(rows.len(), TABLE.len() + commands::TABLE.len());
        assert!(is_all);
        assert_eq!(said("/help", false).0.len(), TABLE.len());
        assert!(said("/help quiet", false).1);
        assert!(said("/help msg", true).0[0].starts_with("/msg NAME TEXT"));
        assert_eq!(help("/help msg", false), None);
        assert_eq!(help("/who", true), None);
        assert!(said("/help nosuch", true).0[0].contains("no such command"));
    }
}
