//! Classification of a submitted text: one typed line, or several lines, which are treated as
//! a paste. It knows the commands, not the connection or the screen.

use super::local::{self, Local};
use crate::commands::{self, ArgKind, Command, Parsed, Setting, TargetEffect};
use crate::protocol::text::{is_blank, is_blank_text, nearest};
use crate::protocol::{LINE_MAX, Refusal};

/// A text with more line ends than this is sent only after a question.
const LINE_ENDS_MAX: usize = 2;

/// What the client does with a submitted text.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) enum Submission<'a> {
    /// Blank text.
    Nothing,
    /// A line, text or command. `changes_target`: the line may change where plain text goes.
    Line { line: &'a str, changes_target: bool },
    /// A command that the client executes itself.
    Local(Local),
    /// `/quit`, with or without a reason.
    Quit(&'a str),
    /// `/set tags off`, which is refused: without tags the server would post the client's cids
    /// as text.
    TagsOff,
    /// Several lines, all of them text. `is_doubtful`: the user is asked first.
    Lines { lines: Vec<String>, is_doubtful: bool },
    /// `/join` of several rooms: a command for each of them.
    Joins(Vec<String>),
    /// A line that is refused because it would become public by mistake.
    Refused(Refusal),
}

impl<'a> Submission<'a> {
    pub(in crate::client) fn of(text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let is_text_line = |line: &&str| !is_blank_text(line);
        let Some(first) = lines.iter().position(is_text_line) else { return Self::Nothing };
        let last = lines.iter().rposition(is_text_line).unwrap_or(first);
        match lines[first..=last] {
            [line] => Self::of_line(line),
            ref lines => {
                let is_long = text.matches('\n').count() > LINE_ENDS_MAX;
                // A paste after a typed `/msg`, a paste as a whole, or a copied private
                // message: only the user knows whether it is meant to be public.
                let is_odd = |line: &&str| !is_text(line) && !line.starts_with('/');
                let is_unclear = !is_text(lines[0])
                    || lines.iter().filter(|line| !is_blank_text(line)).any(is_odd);
                let lines = lines.iter().map(|line| as_text(line)).collect();
                Self::Lines { lines, is_doubtful: is_long || is_unclear }
            }
        }
    }

    /// Joins several lines into one, separated by blanks. Returns `None` if the result exceeds
    /// [`LINE_MAX`].
    pub(in crate::client) fn joined(text: &str) -> Option<Self> {
        let lines = text.lines().map(|line| line.trim_matches(is_blank));
        let line = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        let line = as_text(&line);
        let fits = line.len() <= LINE_MAX;
        fits.then(|| Self::Lines { lines: vec![line], is_doubtful: false })
    }

    fn of_line(line: &'a str) -> Self {
        if let Some(local) = local::parse(line) {
            return Self::Local(local);
        }
        match commands::parse(line) {
            Ok(Parsed::Command(Command::Quit { .. })) => Self::Quit(line),
            Ok(Parsed::Command(Command::Set { change: Some((Setting::Tags, false)) })) => {
                Self::TagsOff
            }
            Ok(Parsed::Command(Command::Join { room: rooms, key: None }))
                if rooms.split(',').nth(1).is_some_and(|second| !second.is_empty()) =>
            {
                let join = |room| Command::Join { room, key: None }.to_string();
                Self::Joins(rooms.split(',').map(join).collect())
            }
            Ok(Parsed::Command(command)) => {
                let changes_target = command.target_effect() == TargetEffect::Changes;
                Self::Line { line, changes_target }
            }
            // Refused here, since an older server would post the line in the room.
            Err(refusal) if !line.starts_with('/') => Self::Refused(refusal),
            Ok(Parsed::Say(_)) if let Some(word) = local_behind_blanks(line) => {
                Self::Refused(commands::not_at_start(&word))
            }
            // Refused here, since the server does not know the client's commands.
            _ => match local::ambiguous(line) {
                Some(refusal) => Self::Refused(refusal),
                None => Self::Line { line, changes_target: false },
            },
        }
    }
}

/// Returns the client's own command that a line with leading blanks was probably meant to be.
fn local_behind_blanks(line: &str) -> Option<String> {
    commands::word_behind_blanks(line).filter(|word| local::args_of(word).is_some())
}

/// Whether a line holds a password or a key and so must not be stored in the history.
pub(in crate::client) fn is_secret(text: &str) -> bool {
    secret_from(text).is_some()
}

/// Returns the byte offset of the password or key in a command that has such an argument.
/// Abbreviated and mistyped commands are recognized, too.
pub(in crate::client) fn secret_from(line: &str) -> Option<usize> {
    let line_start = commands::behind_blanks(line);
    let prefix = line_start.strip_prefix('/')?.split(is_blank).next()?;
    let name = local::expand_abbreviation(&format!("/{prefix}"));
    let name = name.as_deref().map_or(prefix, |name| &name[1..]);
    let known = commands::TABLE.iter().map(|row| row.name);
    let row = commands::find(name).or_else(|| commands::find(nearest(name, known)?))?;
    let at = row.args.iter().position(|arg| arg.kind == ArgKind::Secret)?;
    let mut rest = line_start;
    // Skip the command and the arguments before the secret.
    for _ in 0..=at {
        rest = rest.trim_start_matches(is_blank);
        rest = &rest[rest.find(is_blank)?..];
    }
    let secret = rest.trim_start_matches(is_blank);
    (!secret.is_empty()).then(|| line.len() - secret.len())
}

fn is_text(line: &str) -> bool {
    matches!(commands::parse(line), Ok(Parsed::Say(_)))
}

/// A blank line of a paste: a Braille pattern without dots. The server ignores a line of white
/// space, even of U+00A0.
const BLANK_LINE: &str = "\u{2800}";

/// Escapes a pasted line, so that `/x` is sent as text and not executed.
fn as_text(line: &str) -> String {
    if is_blank_text(line) {
        return BLANK_LINE.to_owned();
    }
    let command = commands::behind_blanks(line);
    match commands::parse(line) {
        Ok(Parsed::Say(text)) if text == line => line.to_owned(),
        _ if command.starts_with('/') => format!("/{command}"),
        // A copied private message would be taken for a command. With a leading blank the
        // server refuses it.
        _ => format!(" {line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_line_is_classified_by_its_content() {
        let line = |line, changes_target| Submission::Line { line, changes_target };
        for (text, submission) in [
            ("", Submission::Nothing),
            (" \n\n", Submission::Nothing),
            ("hello", line("hello", false)),
            ("hello\n", line("hello", false)),
            ("/who", line("/who", false)),
            ("/nosuch", line("/nosuch", false)),
            ("/join ops", line("/join ops", true)),
            ("/j #ops,dev", Submission::Joins(vec!["/join #ops".into(), "/join dev".into()])),
            ("/join ops,", line("/join ops,", true)),
            ("/join ops,dev key", line("/join ops,dev key", true)),
            ("/query", line("/query", true)),
            ("/reconnect", Submission::Local(Local::Reconnect)),
            ("/quit bye", Submission::Quit("/quit bye")),
            ("/set tags off", Submission::TagsOff),
            ("/set echo off", line("/set echo off", false)),
        ] {
            assert_eq!(Submission::of(text), submission, "{text:?}");
        }
    }

    #[test]
    fn line_is_refused_when_it_would_become_public_by_mistake() {
        for line in [" /msg bob x", " /quiet", "\u{a0}/say x", "12:07 [PRIVATE MESSAGE] bob: x"] {
            assert!(matches!(Submission::of(line), Submission::Refused(_)), "{line}");
        }
        for line in [" /etc", "[PRIVATE MESSAGE] bob: x", "/msg", "// quiet"] {
            assert!(matches!(Submission::of(line), Submission::Line { .. }), "{line}");
        }
    }

    #[test]
    fn pasted_private_message_is_refused_by_the_server() {
        for text in ["a\n[PRIVATE MESSAGE] bob: x", "[PRIVATE MESSAGE] bob: x\nb"] {
            let Submission::Lines { lines, .. } = Submission::of(text) else { panic!("{text}") };
            let refused = lines.iter().filter(|line| commands::parse(line).is_err()).count();
            let sent = lines.iter().filter(|line| is_text(line)).count();
            assert_eq!((refused, sent), (1, 1), "{text}");
        }
    }

    #[test]
    fn several_lines_are_text_and_doubtful_when_many_or_ambiguous() {
        for (text, sent, is_doubtful) in [
            ("a\nb", &["a", "b"][..], false),
            ("a\n\nb", &["a", BLANK_LINE, "b"], false),
            ("\n \na\n\n\t\nb\n\n", &["a", BLANK_LINE, BLANK_LINE, "b"][..], true),
            ("a\n/quit\n//x", &["a", "//quit", "///x"], false),
            ("a\nb\nc\nd", &["a", "b", "c", "d"], true),
            ("/msg bob a\nb", &["//msg bob a", "b"], true),
            ("a\n[PRIVATE MESSAGE] bob: x", &["a", " [PRIVATE MESSAGE] bob: x"], true),
            ("a\n  /msg bob x\n  /etc", &["a", "//msg bob x", "  /etc"], true),
        ] {
            let lines = sent.iter().map(|&line| line.to_owned()).collect();
            assert_eq!(Submission::of(text), Submission::Lines { lines, is_doubtful }, "{text:?}");
        }
    }

    #[test]
    fn several_lines_are_joined_into_one() {
        for (text, line) in [
            ("a\nb", "a b"),
            ("\n  a \n\n\t/b\n", "a /b"),
            ("/msg bob\nhi", "//msg bob hi"),
            ("[PRIVATE MESSAGE] bob: a\nb", " [PRIVATE MESSAGE] bob: a b"),
        ] {
            let lines = vec![line.to_owned()];
            let joined = Submission::Lines { lines, is_doubtful: false };
            assert_eq!(Submission::joined(text), Some(joined), "{text:?}");
        }
        assert_eq!(Submission::joined(&"long line\n".repeat(LINE_MAX / 9)), None);
    }

    #[test]
    fn line_with_a_password_is_secret() {
        assert!(is_secret("/login alice secret") && is_secret("/PASSWD x"));
        assert!(is_secret("/join ops key") && is_secret("/lock key") && is_secret("/regsiter x"));
        assert!(is_secret(" /login alice secret") && is_secret("\u{a0}/register x"));
        assert!(!is_secret("/join ops") && !is_secret("/lock") && !is_secret("/login alice"));
        assert!(!is_secret("login alice") && !is_secret("/who") && !is_secret("hi"));
    }
}
