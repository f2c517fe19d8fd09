//! Parsing of lines: commands, usage errors and "did you mean".
//!
//! Lexing: words are separated by blanks and ignore case; exactly one blank precedes the
//! last argument, which is the rest of the line, verbatim.

use std::time::Duration;

use super::{
    Command, HistoryRange, MessageTarget, Parsed, Row, SearchQuery, Setting, TABLE, find, mistakes,
    word_behind_blanks,
};
use crate::protocol::name::{is_label, is_name};
use crate::protocol::text::{is_blank, is_blank_text, nearest, split_word};
use crate::protocol::units::{parse_duration, show_duration};
use crate::protocol::when::WHEN_FORMS;
use crate::protocol::{
    ErrorReason, HISTORY_DEFAULT, HISTORY_MAX, REASON_MAX, Refusal, Stamp, When,
};

/// The longest accepted time limit, a billion days. A longer one is a typing error and
/// close to the range of a timestamp.
const TIME_MAX: Duration = Duration::from_hours(24 * 1_000_000_000);

/// Parses a line from a client, already cleaned and without its `@cid=` prefix.
///
/// # Errors
/// The refusal to answer with. A line that looks like a private message or like a
/// command is refused and never posted as text.
pub fn parse(line: &str) -> Result<Parsed<'_>, Refusal> {
    if is_blank_text(line) {
        return Ok(Parsed::Nothing);
    }
    match line.strip_prefix('/') {
        Some(text) if text.starts_with('/') => return Ok(Parsed::Say(text)),
        Some(command) => return parse_command(command).map(Parsed::Command),
        None => {}
    }
    if mistakes::is_private_looking(line) {
        return parse_private(line).map(Parsed::Command);
    }
    if mistakes::is_private_copy(line) {
        return Err(looks_private());
    }
    if let Some(word) = word_behind_blanks(line).filter(|word| find(word).is_some()) {
        return Err(not_at_start(&word));
    }
    Ok(Parsed::Say(line))
}

/// Commands of other chat systems and what to suggest for each. They are deliberately not
/// aliases: each command has one name.
const FOREIGN_COMMANDS: [(&str, &str); 28] = [
    ("?", "/help"),
    ("afk", "/away TEXT"),
    ("block", "/ignore"),
    ("bye", "/quit"),
    ("channels", "/list"),
    ("close", "/part"),
    ("cycle", "/part and /join"),
    ("devoice", "/mute"),
    ("disconnect", "/quit"),
    ("dm", "/msg"),
    ("exit", "/quit"),
    ("highlight", "/set highlight WORD (in chatty join)"),
    ("hilight", "/set highlight WORD (in chatty join)"),
    ("identify", "/login NAME PASSWORD"),
    ("kickban", "/ban"),
    ("lastlog", "/search or /history"),
    ("logout", "/quit"),
    ("mode", "/op, /mute or /lock"),
    ("nickserv", "/register or /login NAME PASSWORD"),
    ("notice", "/msg"),
    ("pm", "/msg"),
    ("rename", "/nick"),
    ("rooms", "/list"),
    ("tell", "/msg"),
    ("unblock", "/unignore"),
    ("voice", "/unmute"),
    ("w", "/msg"),
    ("whisper", "/msg"),
];

/// Returns the refusal of an unknown command; it suggests those that may be meant.
#[must_use]
pub fn unknown(name: &str) -> Refusal {
    unknown_among(name, &[])
}

/// Like [`unknown()`], with further commands that the client has.
#[must_use]
pub fn unknown_among(name: &str, others: &[&'static str]) -> Refusal {
    let foreign = FOREIGN_COMMANDS.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
    let suggestion = match (foreign, &completions(name, others)[..]) {
        (Some((_, known)), _) => Some((*known).to_owned()),
        (None, []) => {
            let known = TABLE.iter().flat_map(|row| std::iter::once(&row.name).chain(row.aliases));
            nearest(name, known.chain(others).copied()).map(|known| format!("/{known}"))
        }
        (None, [only]) => Some(format!("/{only}")),
        (None, [first @ .., last]) => {
            let first: Vec<String> = first.iter().map(|known| format!("/{known}")).collect();
            Some(format!("{} or /{last}", first.join(", ")))
        }
    };
    let text = match suggestion {
        Some(known) => format!("/{name}: no such command, did you mean {known}?"),
        None => format!("/{name}: no such command; /help lists them"),
    };
    Refusal::new(ErrorReason::UnknownCommand, text)
}

/// Returns the commands that begin with a word, in alphabetical order.
#[must_use]
pub fn completions(word: &str, others: &[&'static str]) -> Vec<&'static str> {
    let word = word.to_ascii_lowercase();
    let known = TABLE.iter().map(|row| row.name).chain(others.iter().copied());
    let mut names: Vec<_> =
        known.filter(|name| !word.is_empty() && name.starts_with(&word)).collect();
    names.sort_unstable();
    names
}

impl Row {
    fn missing(&self) -> Refusal {
        Refusal::new(ErrorReason::MissingArgument, format!("usage: {}", self.usage()))
    }

    fn bad(&self, problem: &str) -> Refusal {
        Refusal::new(ErrorReason::BadArgument, format!("{problem}; usage: {}", self.usage()))
    }
}

fn parse_command(line: &str) -> Result<Command<'_>, Refusal> {
    let (name, rest) = split_word(line);
    let row = find(name).ok_or_else(|| unknown(name))?;
    (row.read)(&mut Args { row, rest })
}

/// Returns the refusal of a line with a command behind blanks.
#[must_use]
pub fn not_at_start(word: &str) -> Refusal {
    let text = format!(
        "not sent: begin the line with /{word} to run it, or with //{word} to send it as text"
    );
    Refusal::new(ErrorReason::BadArgument, text)
}

fn looks_private() -> Refusal {
    let text = "not sent: this looks like a copy of a private message; use /msg NAME TEXT";
    Refusal::new(ErrorReason::NoTarget, text)
}

/// Parses `[PRIVATE MESSAGE] bob: hi`, the form of an older client, as `/msg bob hi`.
fn parse_private(line: &str) -> Result<Command<'_>, Refusal> {
    let rest = line[mistakes::PRIVATE.len()..].strip_prefix("] ").ok_or_else(looks_private)?;
    let (name, text) = rest
        .split_once(": ")
        .or(rest.strip_suffix(':').map(|n| (n, "")))
        .ok_or_else(looks_private)?;
    if !is_name(name) {
        return Err(looks_private());
    }
    if is_blank_text(text) {
        return Err(find("msg").map_or_else(looks_private, Row::missing));
    }
    Ok(Command::Msg { to: MessageTarget::Person(name), text })
}

pub(super) fn target(word: &str) -> MessageTarget<'_> {
    word.strip_prefix('#').map_or(MessageTarget::Person(word), MessageTarget::Room)
}

/// Parses `/history [N] [before ID|after ID] [since WHEN] [until WHEN] [ROOM|NAME]`.
pub(super) fn read_history<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let mut rows = HistoryRange::latest(HISTORY_DEFAULT);
    if let Some(word) = args.word_if(|word| word.starts_with(|c: char| c.is_ascii_digit())) {
        let number = args.number(word).map_err(|bad| args.misplaced_time(word).unwrap_or(bad))?;
        rows.count = usize::try_from(number).unwrap_or(usize::MAX).min(HISTORY_MAX);
    }
    if args.keyword("before") {
        rows.before = Some(args.id()?);
    } else if args.keyword("after") {
        rows.after = Some(args.id()?);
    }
    if args.keyword("since") {
        rows.since = Some(args.when()?);
    }
    if args.keyword("until") {
        rows.until = Some(args.when()?);
    }
    let thread = args.optional_word().map(target);
    if let Some(MessageTarget::Person(word)) = thread {
        args.check_thread_name(word)?;
    }
    if args.rest().is_some() {
        return Err(args.row.bad("too many arguments"));
    }
    Ok(Command::History { rows, thread })
}

/// Parses `/search`. A room name as the last word limits the search to that room; a
/// word like `#1` is not a room name and stays part of the text.
pub(super) fn read_search<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let text = args.text()?.trim_matches(is_blank);
    let mut query = SearchQuery { text, from: None, room: None, since: None, until: None };
    let filters = text.split(is_blank).filter_map(SearchFilter::of);
    let last_room = query.last_room().map(|room| (SearchFilter::In, room));
    for (filter, value) in filters.chain(last_room) {
        query.set(filter, value).map_err(|problem| args.row.bad(&problem))?;
    }
    let has_filter = query.from.is_some() || query.since.is_some() || query.until.is_some();
    if query.words().next().is_none() && !has_filter {
        return Err(args.row.missing());
    }
    Ok(Command::Search { query })
}

/// A filter of `/search`, written as `from:bob`.
#[derive(Clone, Copy)]
pub(super) enum SearchFilter {
    From,
    In,
    Since,
    Until,
}

impl SearchFilter {
    const TABLE: [(Self, &'static str); 4] =
        [(Self::From, "from"), (Self::In, "in"), (Self::Since, "since"), (Self::Until, "until")];

    /// Returns the filter and the value of a word, if it is one.
    pub(super) fn of(word: &str) -> Option<(Self, &str)> {
        let (key, value) = word.split_once(':')?;
        let row = Self::TABLE.iter().find(|(_, name)| key.eq_ignore_ascii_case(name))?;
        Some((row.0, value))
    }
}

impl<'a> SearchQuery<'a> {
    /// Returns the words that a text must contain; one that ends with `*` is the beginning of a
    /// word.
    pub fn words(&self) -> impl Iterator<Item = &'a str> {
        let end = self.last_room().map_or(0, |room| "#".len() + room.len());
        let words = self.text[..self.text.len() - end].split(is_blank);
        words.filter(|word| !word.is_empty() && SearchFilter::of(word).is_none())
    }

    /// Returns the words and filters as written.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Returns the room if the last word is one.
    fn last_room(&self) -> Option<&'a str> {
        let last = self.text.rsplit(is_blank).next()?;
        last.strip_prefix('#').filter(|room| is_name(room))
    }

    fn set(&mut self, filter: SearchFilter, value: &'a str) -> Result<(), String> {
        let name = SearchFilter::TABLE[filter as usize].1;
        let bad = |needed: &str| format!("\"{value}\" is no {needed}");
        let is_new = match filter {
            SearchFilter::From => {
                let from = Some(value).filter(|name| is_name(name) || is_label(name));
                let from = from.ok_or_else(|| bad("name"))?;
                self.from.replace(from).is_none()
            }
            SearchFilter::In => {
                let room = value.strip_prefix('#').unwrap_or(value);
                let room = Some(room).filter(|name| is_name(name)).ok_or_else(|| bad("room"))?;
                self.room.replace(room).is_none()
            }
            SearchFilter::Since => self.since.replace(parse_when(value)?).is_none(),
            SearchFilter::Until => self.until.replace(parse_when(value)?).is_none(),
        };
        is_new.then_some(()).ok_or_else(|| format!("{name}: may be given once"))
    }
}

fn parse_when(word: &str) -> Result<When, String> {
    When::parse(word).ok_or_else(|| format!("\"{word}\" is not a time like {WHEN_FORMS}"))
}

/// The subject, duration and reason of a ban.
pub(super) type BanArgs<'a> = (&'a str, Option<Duration>, Option<&'a str>);

pub(super) fn read_ban<'a>(args: &mut Args<'a>) -> Result<BanArgs<'a>, Refusal> {
    let whom = args.word()?;
    let rest = args.rest;
    let time = match args.optional_word() {
        Some(word) if begins_like_number(word) => Some(args.time(word)?),
        _ => {
            args.rest = rest;
            None
        }
    };
    Ok((whom, time, args.reason()?))
}

/// Whether the first letter or digit of a word is a digit, in any script. Such a word is
/// parsed as a time and never as the start of a reason: otherwise a mistyped time would
/// make the ban permanent.
fn begins_like_number(word: &str) -> bool {
    word.chars().find(|c| c.is_alphanumeric()).is_some_and(char::is_numeric)
}

pub(super) fn read_mute<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let name = args.word()?;
    let time = args.last_word().map(|word| args.time(word)).transpose()?;
    Ok(Command::Mute { name, time })
}

pub(super) fn read_set<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let Some(key) = args.optional_word() else { return Ok(Command::Set { change: None }) };
    let setting = Setting::TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(key));
    let Some((setting, _)) = setting else {
        return Err(args
            .row
            .bad(&format!("there is no setting \"{key}\", only echo, joins and tags")));
    };
    let on = match args.last_word() {
        Some(word) if word.eq_ignore_ascii_case("on") => true,
        Some(word) if word.eq_ignore_ascii_case("off") => false,
        _ => return Err(args.row.bad(&format!("{key} is on or off"))),
    };
    Ok(Command::Set { change: Some((*setting, on)) })
}

pub(super) fn read_resume<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let token = args.word()?;
    let after = args.word()?;
    let after = args.number(after)?;
    let bad = |word: &str| {
        let problem =
            format!("\"{word}\" is not the time of a message, like 2026-11-23T06:16:00.123Z");
        args.row.bad(&problem)
    };
    let time = args.last_word().map(|word| {
        let stamp = Stamp::parse(word).filter(|_| !word.contains(is_blank));
        stamp.ok_or_else(|| bad(word))
    });
    Ok(Command::Resume { token, after, time: time.transpose()? })
}

pub(super) fn read_who<'a>(args: &mut Args<'a>) -> Command<'a> {
    let words = args.last_word();
    match words.map(split_word) {
        Some(("-l", room)) => {
            let room = room.trim_start_matches(is_blank);
            Command::Who { room: (!room.is_empty()).then_some(room), has_details: true }
        }
        _ => Command::Who { room: words, has_details: false },
    }
}

pub(super) fn read_ping<'a>(args: &mut Args<'a>) -> Result<Command<'a>, Refusal> {
    let token = args.rest();
    if token.is_some_and(|token| token.contains(']')) {
        // A client could not parse it in [PONG token].
        return Err(args.row.bad("a token cannot contain ]"));
    }
    Ok(Command::Ping { token })
}

/// The text after a command's name, consumed from the front.
pub(super) struct Args<'a> {
    row: &'static Row,
    rest: &'a str,
}

impl<'a> Args<'a> {
    /// Consumes the next word.
    pub(super) fn optional_word(&mut self) -> Option<&'a str> {
        let (word, rest) = split_word(self.rest.trim_start_matches(is_blank));
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    /// Consumes the next word, which is required.
    pub(super) fn word(&mut self) -> Result<&'a str, Refusal> {
        self.optional_word().ok_or_else(|| self.row.missing())
    }

    /// Consumes the last argument if it is a name or the like. Surrounding blanks are
    /// dropped; blanks inside are part of it, so that `/nick a b` is an invalid name and
    /// not `/nick a`.
    pub(super) fn last_word(&mut self) -> Option<&'a str> {
        let word = std::mem::take(&mut self.rest).trim_matches(is_blank);
        (!word.is_empty()).then_some(word)
    }

    pub(super) fn needed_last_word(&mut self) -> Result<&'a str, Refusal> {
        self.last_word().ok_or_else(|| self.row.missing())
    }

    /// Consumes the rest of the line, verbatim; `None` if it is blank.
    pub(super) fn rest(&mut self) -> Option<&'a str> {
        let rest = std::mem::take(&mut self.rest);
        (!is_blank_text(rest)).then_some(rest)
    }

    /// Consumes the rest as a moderation reason. Its length is limited because it is
    /// stored with a ban and logged.
    pub(super) fn reason(&mut self) -> Result<Option<&'a str>, Refusal> {
        let reason = self.rest();
        if reason.is_some_and(|reason| reason.chars().nth(REASON_MAX).is_some()) {
            let problem = format!("a reason has at most {REASON_MAX} characters; shorten it");
            return Err(self.row.bad(&problem));
        }
        Ok(reason)
    }

    /// Consumes the rest of the line, verbatim, which is required.
    pub(super) fn text(&mut self) -> Result<&'a str, Refusal> {
        self.rest().ok_or_else(|| self.row.missing())
    }

    /// Parses the time limit of a ban or mute.
    fn time(&self, word: &str) -> Result<Duration, Refusal> {
        let problem = match parse_duration(word) {
            Ok(time) if !time.is_zero() && time <= TIME_MAX => return Ok(time),
            Ok(Duration::ZERO) => format!("\"{word}\" is too short; use a time longer than zero"),
            Ok(_) => {
                format!(
                    "\"{word}\" is too long; use at most {}, or leave it out for no limit",
                    show_duration(TIME_MAX)
                )
            }
            Err(problem) if self.row.args.iter().any(|arg| arg.usage == "[REASON]") => {
                format!("{problem}, or begin the reason with a word")
            }
            Err(problem) => problem,
        };
        Err(self.row.bad(&problem))
    }

    /// Consumes the next word if it passes a test.
    fn word_if(&mut self, test: impl FnOnce(&str) -> bool) -> Option<&'a str> {
        let rest = self.rest;
        let word = self.optional_word().filter(|word| test(word));
        if word.is_none() {
            self.rest = rest;
        }
        word
    }

    /// Consumes the next word if it is this one.
    fn keyword(&mut self, keyword: &str) -> bool {
        self.word_if(|word| word.eq_ignore_ascii_case(keyword)).is_some()
    }

    /// Consumes the id of a message.
    fn id(&mut self) -> Result<u64, Refusal> {
        let word = self.word()?;
        self.number(word)
    }

    /// Consumes a point in time.
    fn when(&mut self) -> Result<When, Refusal> {
        let word = self.word()?;
        parse_when(word).map_err(|problem| self.row.bad(&problem))
    }

    /// Refuses a time that `since` or `until` should precede.
    fn misplaced_time(&self, word: &str) -> Option<Refusal> {
        let hint = format!("\"{word}\" is a time; write since {word} or until {word}");
        When::parse(word).map(|_| self.row.bad(&hint))
    }

    /// Refuses a part of `/history` in place of a name: such words are never names.
    fn check_thread_name(&self, word: &str) -> Result<(), Refusal> {
        if let Some(refusal) = self.misplaced_time(word) {
            return Err(refusal);
        }
        let keywords = ["before", "after", "since", "until"];
        if keywords.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) {
            return Err(self.row.bad(&format!("\"{word}\" is out of order")));
        }
        if !is_name(word) {
            return Err(self.row.bad(&format!("\"{word}\" is neither a number nor a name")));
        }
        Ok(())
    }

    /// Parses a number. A number above `u64::MAX` is clamped to it.
    fn number(&self, word: &str) -> Result<u64, Refusal> {
        if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) {
            return Err(self.row.bad(&format!("\"{word}\" is not a number")));
        }
        Ok(word.parse().unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::ArgKind;
    use crate::protocol::ErrorCode;

    #[test]
    fn secret_argument_is_found_in_every_command_that_has_one() {
        for row in TABLE {
            let line = format!("/{} a b c", row.name);
            let secret = match parse(&line) {
                Ok(Parsed::Command(command)) => command.secret(),
                _ => None,
            };
            let is_declared = row.args.iter().any(|arg| arg.kind == ArgKind::Secret);
            assert_eq!(secret.is_some(), is_declared, "{line}");
        }
    }

    #[test]
    fn line_parses_as_nothing_text_or_command() {
        assert_eq!(parse(""), Ok(Parsed::Nothing));
        assert_eq!(parse(" \t "), Ok(Parsed::Nothing));
        assert_eq!(parse("hi  there "), Ok(Parsed::Say("hi  there ")));
        assert_eq!(parse("//who is it"), Ok(Parsed::Say("/who is it")));
        assert_eq!(parse(" /etc"), Ok(Parsed::Say(" /etc")));
        let command = |room, has_details| Ok(Parsed::Command(Command::Who { room, has_details }));
        assert_eq!(parse("/WHO"), command(None, false));
        assert_eq!(parse("/who  ops "), command(Some("ops"), false));
        assert_eq!(parse("/who -l"), command(None, true));
        assert_eq!(parse("/who -l  #ops"), command(Some("#ops"), true));
        assert_eq!(parse("/who -long"), command(Some("-long"), false));
        let msg = |name, text| {
            Ok(Parsed::Command(Command::Msg { to: MessageTarget::Person(name), text }))
        };
        assert_eq!(parse("/msg bob hi"), msg("bob", "hi"));
        assert_eq!(parse("/msg   bob  hi "), msg("bob", " hi "));
        assert_eq!(parse("[PRIVATE MESSAGE] bob: hi: there"), msg("bob", "hi: there"));
    }

    #[test]
    fn invalid_line_is_refused_with_its_code() {
        for (line, code) in [
            ("/", ErrorCode::UnknownCommand),
            ("/ who", ErrorCode::UnknownCommand),
            ("/whoo", ErrorCode::UnknownCommand),
            ("/msg", ErrorCode::MissingArgument),
            ("/msg bob", ErrorCode::MissingArgument),
            ("/msg bob   ", ErrorCode::MissingArgument),
            ("/me", ErrorCode::MissingArgument),
            ("/nick ", ErrorCode::MissingArgument),
            ("/set echo", ErrorCode::BadArgument),
            ("/set sound on", ErrorCode::BadArgument),
            ("/set echo maybe", ErrorCode::BadArgument),
            ("/history -1", ErrorCode::BadArgument),
            ("/history 5x", ErrorCode::BadArgument),
            ("/history after", ErrorCode::MissingArgument),
            ("/history after soon", ErrorCode::BadArgument),
            ("/history 5 #ops now", ErrorCode::BadArgument),
            ("/mute", ErrorCode::MissingArgument),
            ("/mute bob soon", ErrorCode::BadArgument),
            ("/mute bob 0s", ErrorCode::BadArgument),
            ("/ban", ErrorCode::MissingArgument),
            ("/ban bob 0s", ErrorCode::BadArgument),
            ("/ping a]b", ErrorCode::BadArgument),
            ("[PRIVATE MESSAGE to bob] alice: hi", ErrorCode::NoTarget),
            ("[private message] bob hi", ErrorCode::NoTarget),
            ("[PRIVATE MESSAGE", ErrorCode::NoTarget),
            ("[PRIVATE MESSAGE] bob: ", ErrorCode::MissingArgument),
        ] {
            assert_eq!(parse(line).map_err(|r| r.code()), Err(code), "{line}");
        }
    }

    #[test]
    fn unknown_command_suggests_the_closest() {
        assert!(unknown("whoo").text.contains("did you mean /who?"));
        assert!(unknown("jion").text.contains("did you mean /join?"));
        assert!(unknown("HLEP").text.contains("did you mean /help?"));
        assert!(unknown("m").text.contains("did you mean /me, /msg or /mute?"));
        assert!(unknown("Wh").text.contains("did you mean /who or /whois?"));
        assert!(unknown_among("wh", &["why"]).text.contains("/who, /whois or /why?"));
        assert!(unknown("").text.contains("/help lists them"));
        assert!(!unknown("frobnicate").text.contains("did you mean"));
    }

    #[test]
    fn command_of_another_program_suggests_what_it_is_here() {
        for (name, suggestion) in [
            ("afk", "/away TEXT"),
            ("LASTLOG", "/search or /history"),
            ("notice", "/msg"),
            ("block", "/ignore"),
            ("rename", "/nick"),
            ("?", "/help"),
        ] {
            let text = unknown(name).text;
            assert!(text.ends_with(&format!("did you mean {suggestion}?")), "{text}");
        }
        for (name, suggestion) in FOREIGN_COMMANDS {
            assert!(find(name).is_none(), "{name}");
            let words = suggestion.split([' ', ',']).filter_map(|word| word.strip_prefix('/'));
            for word in words {
                assert!(find(word).is_some(), "{word}");
            }
        }
        assert!(FOREIGN_COMMANDS.is_sorted());
    }

    #[test]
    fn search_parses_words_and_a_trailing_room() {
        let search = |line| match parse(line) {
            Ok(Parsed::Command(Command::Search { query })) => {
                Ok((query.words().collect(), query.room))
            }
            Err(refusal) => Err(refusal.code()),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(search("/search  two words "), Ok((vec!["two", "words"], None)));
        assert_eq!(search("/search two words  #ops"), Ok((vec!["two", "words"], Some("ops"))));
        assert_eq!(search("/search issue #1"), Ok((vec!["issue", "#1"], None)));
        assert_eq!(search("/search #ops #dev"), Ok((vec!["#ops"], Some("dev"))));
        assert_eq!(search("/search #ops"), Err(ErrorCode::MissingArgument));
        assert_eq!(search("/search in:ops"), Err(ErrorCode::MissingArgument));
        assert_eq!(search("/search "), Err(ErrorCode::MissingArgument));
    }

    #[test]
    fn search_parses_filters_among_the_words() {
        let search = |line| match parse(line) {
            Ok(Parsed::Command(Command::Search { query })) => query,
            other => panic!("{line}: {other:?}"),
        };
        let query = search("/search From:bob deploy* in:#ops SINCE:2h x until:today failed");
        assert_eq!(query.words().collect::<Vec<_>>(), ["deploy*", "x", "failed"]);
        assert_eq!((query.from, query.room), (Some("bob"), Some("ops")));
        assert_eq!((query.since, query.until), (When::parse("2h"), Some(When::Today)));
        let query = search("/search from:bob  #ops");
        assert_eq!(
            (query.words().next(), query.from, query.room),
            (None, Some("bob"), Some("ops"))
        );
        assert_eq!(search("/search note:this: a:b").words().count(), 2);
        for line in [
            "/search x from:",
            "/search x from:a,b",
            "/search x in:1",
            "/search x in:ops #dev",
            "/search x from:a from:b",
            "/search x since:soon",
            "/search x until:",
            "/search x until:1h until:2h",
        ] {
            let code = parse(line).map_err(|refusal| refusal.code());
            assert_eq!(code, Err(ErrorCode::BadArgument), "{line}");
        }
    }

    #[test]
    fn ban_parses_an_optional_time_and_reason() {
        let ban = |line| match parse(line) {
            Ok(Parsed::Command(Command::Ban { whom, time, reason })) => (whom, time, reason),
            other => panic!("{line}: {other:?}"),
        };
        let hour = Some(Duration::from_hours(1));
        assert_eq!(ban("/ban bob"), ("bob", None, None));
        assert_eq!(ban("/ban bob 1h"), ("bob", hour, None));
        assert_eq!(ban("/ban bob 1h two words "), ("bob", hour, Some("two words ")));
        assert_eq!(ban("/ban bob third 3rd strike"), ("bob", None, Some("third 3rd strike")));
        assert_eq!(ban("/ban bob 1000000000d"), ("bob", Some(TIME_MAX), None));
        assert_eq!(ban("/ban bob :-) 5m"), ("bob", None, Some(":-) 5m")));
        assert_eq!(ban("/ban bob 1h 2h"), ("bob", hour, Some("2h")));
        let long = "ß".repeat(REASON_MAX);
        assert_eq!(ban(&format!("/ban bob 1h {long}")), ("bob", hour, Some(long.as_str())));
        for command in ["/ban bob 1h", "/gban bob", "/kick bob", "/kill bob"] {
            let line = format!("{command} {long}s");
            let code = parse(&line).map_err(|refusal| refusal.code());
            assert_eq!(code, Err(ErrorCode::BadArgument), "{command}");
        }
    }

    #[test]
    fn mistyped_time_limit_is_refused_with_the_usage() {
        let times = [
            "1 hour",
            "10",
            "10min",
            "2hours",
            "1w",
            "1y",
            "1h30m",
            "99999999999999999999d",
            "99999999999d",
            "1000000001d",
            "1.5h",
            "1,5h",
            ".5h",
            "-5m",
            "+5m",
            "\u{2212}5m",
            "~5m",
            "/24",
            "(5m)",
            "\u{200b}5m",
            "\u{663}h",
            "\u{ff15}m",
            "½h",
            "0m",
            "0",
            "3 strikes",
            "3rd strike",
            "#1 offender",
            "2026-11-30",
        ];
        for time in times {
            for line in [
                format!("/ban bob {time}"),
                format!("/gban 192.0.2.1 {time} too loud"),
                format!("/mute bob {time}"),
            ] {
                let refusal = parse(&line).expect_err(&line);
                assert_eq!(refusal.code(), ErrorCode::BadArgument, "{line}");
                let command = line.split(' ').next().expect("a command");
                assert!(refusal.text.contains(&format!("; usage: {command} ")), "{}", refusal.text);
            }
        }
        let text = |line| parse(line).expect_err(line).text;
        assert!(text("/ban bob 3 strikes").contains("begin the reason with a word"));
        assert!(!text("/mute bob 3 strikes").contains("reason"));
    }

    #[test]
    fn resume_parses_an_id_and_an_optional_time() {
        let resume = |line: &str| match parse(line) {
            Ok(Parsed::Command(Command::Resume { after, time, .. })) => Ok((after, time)),
            Err(refusal) => Err(refusal.code()),
            other => panic!("{line}: {other:?}"),
        };
        let time = Some(Stamp(1_795_414_560_123));
        assert_eq!(resume("/resume t 7"), Ok((7, None)));
        assert_eq!(resume("/resume t 7 2026-11-23T06:16:00.123Z"), Ok((7, time)));
        assert_eq!(resume("/resume  t  7  2026-11-23T06:16:00.123Z "), Ok((7, time)));
        assert_eq!(
            resume("/resume t 7 2026-11-23T06:16:00Z"),
            Ok((7, Some(Stamp(1_795_414_560_000))))
        );
        assert_eq!(resume("/resume t"), Err(ErrorCode::MissingArgument));
        for time in ["soon", "5", "2026-11-23", "2026-11-23T06:16:00.123", "2026-11-23T06:16:00Z x"]
        {
            let line = format!("/resume t 7 {time}");
            assert_eq!(resume(&line), Err(ErrorCode::BadArgument), "{time}");
        }
    }

    #[test]
    fn history_parses_a_count_an_id_and_a_thread() {
        let history = |line| match parse(line) {
            Ok(Parsed::Command(Command::History { rows, thread })) => {
                (rows.count, rows.after, thread)
            }
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(history("/history"), (20, None, None));
        assert_eq!(history("/history 5"), (5, None, None));
        assert_eq!(history("/history 99999999999999999999"), (1000, None, None));
        assert_eq!(history("/history #ops"), (20, None, Some(MessageTarget::Room("ops"))));
        assert_eq!(history("/history bob"), (20, None, Some(MessageTarget::Person("bob"))));
        assert_eq!(
            history("/history after 7 bob"),
            (20, Some(7), Some(MessageTarget::Person("bob")))
        );
        assert_eq!(history("/history 3 AFTER 7"), (3, Some(7), None));
    }

    #[test]
    fn history_parses_ranges_of_ids_and_times() {
        let history = |line| match parse(line) {
            Ok(Parsed::Command(Command::History { rows, thread })) => (rows, thread),
            other => panic!("{line}: {other:?}"),
        };
        let latest = HistoryRange::latest(HISTORY_DEFAULT);
        let (bob, hours) = (Some(MessageTarget::Person("bob")), When::parse("2h"));
        let before = HistoryRange { count: 5, before: Some(9), ..latest };
        assert_eq!(history("/history 5 before 9 bob"), (before, bob));
        let since = HistoryRange { since: hours, ..latest };
        assert_eq!(history("/history since 2h"), (since, None));
        let all = HistoryRange { after: Some(1), until: Some(When::Today), ..since };
        assert_eq!(history("/history 20 after 1 since 2h until Today bob"), (all, bob));
        assert_eq!((since.is_forward(), before.is_forward()), (true, false));
        let shown = Command::History { rows: all, thread: bob }.to_string();
        assert_eq!(shown, "/history 20 after 1 since 2h until today bob");
        for (line, code) in [
            ("/history before", ErrorCode::MissingArgument),
            ("/history since", ErrorCode::MissingArgument),
            ("/history before x", ErrorCode::BadArgument),
            ("/history since soon", ErrorCode::BadArgument),
            ("/history until 25:00", ErrorCode::BadArgument),
            ("/history today", ErrorCode::BadArgument),
            ("/history 5 yesterday", ErrorCode::BadArgument),
            ("/history 9:00", ErrorCode::BadArgument),
            ("/history 5 2h", ErrorCode::BadArgument),
            ("/history 5 5", ErrorCode::BadArgument),
            ("/history until 2h since 3h", ErrorCode::BadArgument),
            ("/history since 2h after 5", ErrorCode::BadArgument),
            ("/history before 9 after 5", ErrorCode::BadArgument),
            ("/history #ops since 2h", ErrorCode::BadArgument),
        ] {
            assert_eq!(parse(line).map_err(|it| it.code()), Err(code), "{line}");
        }
    }
}
