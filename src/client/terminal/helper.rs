//! Rustyline's callbacks while a line is typed: highlighting, hints, validation and completion.
//! It reads the chat's state, and knows nothing of the connection.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use owo_colors::Style;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Editor, Helper};

use super::draft::{Layout, Look};
use super::printer::size;
use super::prompt_text::prompt_in;
use super::shared::Shared;
use crate::client::model::local::{self, OwnSetting};
use crate::client::model::mentions::can_start;
use crate::client::model::state::{LinkState, State};
use crate::client::model::submission::secret_from;
use crate::client::text::width::drawn;
use crate::commands::{self, ArgKind, Setting};
use crate::protocol::name::NAME_MAX;
use crate::protocol::text::is_blank;
use crate::protocol::{Key, LINE_MAX};

/// The most completion candidates in a list; longer lists are not read.
const CANDIDATES_MAX: usize = 50;

/// Screen rows that a list of candidates leaves free, for the prompt and some chat lines.
const ROWS_RESERVED: usize = 4;

/// The beginning of the hint after a line that is too long.
const NOT_SENT: &str = "   not sent: ";

/// The line editor of the prompt.
pub(super) type ChatEditor = Editor<ChatHelper, DefaultHistory>;

/// Implements rustyline's callbacks; runs on the prompt's thread.
pub(super) struct ChatHelper {
    shared: Shared,
    draft: Mutex<String>,
    /// The line has been submitted; the current drawing is its last.
    is_submitted: AtomicBool,
    /// The next drawing is caused by a change of the line, not by lines printed above it.
    is_line_changed: AtomicBool,
    /// Where the latest drawing of prompt, draft and hint ended.
    layout: Mutex<Layout>,
    resize: Mutex<Option<Resize>>,
}

/// A resize of the terminal that rustyline may not know yet. rustyline learns of it from a
/// signal, and keys may arrive before the signal. Until then it erases the number of rows that
/// it counted for the old width, which may differ from the rows on the screen.
#[derive(Clone, Copy)]
struct Resize {
    /// The smallest width before the resize, in columns.
    columns: usize,
}

impl ChatHelper {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared,
            draft: Mutex::default(),
            is_submitted: AtomicBool::new(false),
            is_line_changed: AtomicBool::new(false),
            layout: Mutex::default(),
            resize: Mutex::default(),
        }
    }

    /// Returns the line as last drawn, which is known even after the prompt is cancelled.
    pub(super) fn draft(&self) -> String {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how many rows the latest drawing of prompt, draft and hint takes.
    pub(super) fn rows(&self) -> usize {
        self.layout().rows()
    }

    fn layout(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a drawing with the prompt. Draws `text` if it ends where rustyline expects the
    /// end of the prompt that it `counted`, else the counted prompt.
    ///
    /// A terminal that changes its width rewraps its rows, and rustyline erases the old number
    /// of rows, which is too many or too few. Then a redraw of the screen is requested.
    ///
    /// `known` is the width in columns that rustyline calculates with, if that is certain.
    fn start_drawing(
        &self,
        text: &str,
        counted: &str,
        style: Style,
        known: Option<usize>,
    ) -> String {
        let (columns, _) = size();
        let draw = |text: &str| {
            let mut layout = Layout::new(columns);
            let drawing = layout.draw(text, text.len(), |_| style.into());
            (layout, drawing)
        };
        let (end, drawing) = draw(counted);
        let (new_end, new_drawing) = draw(text);
        let mut layout = self.layout();
        let mut resize = self.resize.lock().unwrap_or_else(PoisonError::into_inner);
        if known == Some(columns) {
            *resize = None;
        }
        if layout.columns() != columns {
            if known != Some(columns) {
                let before = resize.map_or(layout.columns(), |resize| resize.columns);
                *resize = Some(Resize { columns: before.min(layout.columns()) });
            }
            if layout.is_broken_by(columns) {
                self.shared.printer.redraw();
            } else {
                // A repaint makes rustyline notice the resize.
                self.shared.printer.repaint();
            }
        }
        *layout = end;
        if new_end.ends_like(&end) { new_drawing } else { drawing }
    }

    /// Resets the state before each prompt, since it may be cancelled before the first drawing.
    pub(super) fn start(&self, draft: &str) {
        self.set_draft(draft);
        *self.layout() = Layout::new(size().0);
        *self.resize.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Ends a prompt. Requests a redraw if the terminal was resized after the last drawing.
    pub(super) fn finish(&self) {
        if self.layout().is_broken_by(size().0) {
            self.shared.printer.redraw();
        }
    }

    /// Draws the text after the prompt. If rustyline may count other rows, because it may not
    /// know of a resize yet, requests a redraw for when it does.
    fn draw(&self, text: &str, cursor: usize, look: impl Fn(usize) -> Look) -> String {
        let mut layout = self.layout();
        let drawing = layout.draw(text, cursor, look);
        let resize = *self.resize.lock().unwrap_or_else(PoisonError::into_inner);
        if resize.is_some_and(|resize| !layout.fits_in_row_of(resize.columns)) {
            self.shared.printer.redraw();
        }
        drawing
    }

    fn set_draft(&self, draft: &str) {
        draft.clone_into(&mut self.draft.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Helper for ChatHelper {}

/// A line that is too long stays a draft, with the error as a hint after it: above a long draft
/// the screen may be out of sight.
impl Validator for ChatHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let longest = context.input().split('\n').map(str::len).max().unwrap_or_default();
        if longest <= LINE_MAX {
            return Ok(ValidationResult::Valid(None));
        }
        self.is_submitted.store(false, Ordering::Relaxed);
        let text = format!("{NOT_SENT}{longest} bytes, limit is {LINE_MAX}");
        Ok(ValidationResult::Invalid(Some(text)))
    }
}

/// Shows the remaining arguments of a command in a faint style after it.
impl Hinter for ChatHelper {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, _context: &Context<'_>) -> Option<String> {
        if pos < line.len() || self.shared.is_asking() {
            return None;
        }
        usage_behind(line, &self.shared.state())
    }
}

/// Returns the arguments that a command expects after the typed words, if the next argument
/// could begin here.
fn usage_behind(line: &str, state: &State) -> Option<String> {
    let command = line.strip_prefix('/')?;
    let mut words = command.split(is_blank).filter(|word| !word.is_empty());
    let args = local::args_of(words.next()?)?;
    let is_begun = !command.ends_with(is_blank);
    let written = words.count();
    // After the bare name the hint begins with the blank that separates the arguments.
    if is_begun && (written > 0 || args.is_empty()) {
        return None;
    }
    if let Some(setting) = OwnSetting::before_value(line) {
        return Some(setting.values().join("|"));
    }
    let mut rest: Vec<&str> = args.iter().skip(written).map(|arg| arg.usage).collect();
    // Show the recipient of a `/reply`.
    let to = state.with_fixed_target(&format!("{} x", line.trim_end_matches(is_blank)));
    let to = to.as_deref().and_then(|to| to.split(' ').nth(1)).map(|name| format!("(to {name})"));
    rest.extend(to.as_deref().filter(|_| written == 0));
    let gap = if is_begun { " " } else { "" };
    let rest = rest.join(" ");
    // Only the end of `[KEY on|off]` may be left; remove its unmatched bracket.
    let is_unmatched = rest.matches(']').count() > rest.matches('[').count();
    let rest = if is_unmatched { rest.replacen(']', "", 1) } else { rest };
    (!rest.is_empty()).then(|| format!("{gap}{rest}"))
}

impl Highlighter for ChatHelper {
    fn highlight<'l>(&self, line: &'l str, pos: usize) -> Cow<'l, str> {
        self.set_draft(line);
        let secret = secret_from(line).unwrap_or(line.len());
        let excess = excess_from(line).unwrap_or(line.len());
        let look = |at| Look {
            style: if at < excess { Style::new() } else { self.shared.theme.excess() },
            is_masked: at >= secret,
        };
        Cow::Owned(self.draw(line, pos, look))
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        let theme = self.shared.theme;
        let style = if hint.starts_with(NOT_SENT) { theme.error() } else { theme.faint() };
        Cow::Owned(self.draw(hint, hint.len(), |_| style.into()))
    }

    /// rustyline measures the prompt once, when it starts to read, and accepts no other prompt
    /// until it returns. But it calls this method at every repaint. So a target that changes
    /// meanwhile (by a kick or a rename) is shown correctly, fitted into the measured columns.
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        is_default: bool,
    ) -> Cow<'b, str> {
        if !self.is_submitted.load(Ordering::Relaxed) {
            self.shared.gate.open();
        }
        let is_line_changed = self.is_line_changed.swap(false, Ordering::Relaxed);
        let known = if is_line_changed { None } else { self.shared.gate.drawn() };
        let theme = self.shared.theme;
        if !is_default {
            return Cow::Owned(self.start_drawing(prompt, prompt, Style::new(), known));
        }
        if self.shared.is_asking() {
            return Cow::Owned(self.start_drawing(prompt, prompt, theme.prompt(), known));
        }
        let (text, is_lost) = {
            let state = self.shared.state();
            (prompt_in(&state, drawn(prompt)), state.link == LinkState::Lost)
        };
        let style = if is_lost { theme.faint() } else { theme.prompt() };
        Cow::Owned(self.start_drawing(&text, prompt, style, known))
    }

    /// Always returns `true`: only then does rustyline repaint, and so announce, a submitted
    /// line. rustyline calls this before each repaint except those for external prints.
    fn highlight_char(&self, _line: &str, _pos: usize, kind: CmdKind) -> bool {
        self.is_line_changed.store(true, Ordering::Relaxed);
        let is_submitted = kind == CmdKind::ForcedRefresh;
        self.is_submitted.store(is_submitted, Ordering::Relaxed);
        if is_submitted {
            self.shared.gate.shut(false);
        }
        true
    }
}

/// Returns the byte offset at which the first line that is too long exceeds the limit.
fn excess_from(text: &str) -> Option<usize> {
    let mut start = 0;
    for line in text.split('\n') {
        if line.len() > LINE_MAX {
            return Some(line.floor_char_boundary(LINE_MAX) + start);
        }
        start += line.len() + 1;
    }
    None
}

impl Completer for ChatHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        if self.shared.is_asking() {
            return Ok((pos, Vec::new()));
        }
        let (start, offers) = complete(&self.shared.state(), &line[..pos]);
        Ok((start, completion_for(offers, &line[start..pos], size())))
    }
}

/// Returns the start of the last word of `typed`, and the candidates that may replace it.
fn complete(state: &State, typed: &str) -> (usize, Vec<String>) {
    let start = typed.rfind(|c| is_blank(c) || c == '\n').map_or(0, |at| at + 1);
    let (before, word) = typed.split_at(start);
    let offers = if start == 0 && word.starts_with('/') {
        names().map(|name| format!("/{name} ")).collect()
    } else {
        match kind_at(before) {
            _ if let Some(setting) = OwnSetting::before_value(before) => {
                // Values in capitals stand for other words.
                let is_word = |value: &&&str| value.starts_with(|c: char| c.is_ascii_lowercase());
                let words = setting.values().iter().filter(is_word);
                words.map(|word| (*word).to_owned()).collect()
            }
            // Only a room is possible here, so the `#` may be omitted.
            Some(ArgKind::Room) if !word.is_empty() && !word.starts_with('#') => {
                state.rooms().into_iter().map(|room| format!("{room} ")).collect()
            }
            Some(kind) => candidates_for(kind, state),
            None => return complete_text(state, before, word),
        }
    };
    (start, with_prefix(offers, word))
}

/// Returns the candidates that begin with `word`.
fn with_prefix(offers: Vec<String>, word: &str) -> Vec<String> {
    let start = Key::fold(word);
    let has_prefix = |offer: &String| Key::fold(offer).as_str().starts_with(start.as_str());
    offers.into_iter().filter(has_prefix).collect()
}

/// Completes a name in text. A name may directly follow punctuation or a script without
/// spaces: `(al`, `请李`. The longest suffix of the word that begins a name is completed.
fn complete_text(state: &State, before: &str, word: &str) -> (usize, Vec<String>) {
    let whole = with_prefix(words_of_text(state, before.is_empty(), word), word);
    if !whole.is_empty() {
        return (before.len(), whole);
    }
    // A name has at most NAME_MAX characters, and a sign before them.
    let first = word.char_indices().rev().nth(NAME_MAX).map_or(0, |(at, _)| at);
    let starts = word.char_indices().skip_while(|(at, _)| *at < first.max(1));
    let starts = starts.filter(|(at, c)| can_start(&word[..*at], *c));
    let mut suffixes = starts.map(|(at, _)| {
        let suffix = &word[at..];
        (before.len() + at, with_prefix(words_of_text(state, false, suffix), suffix))
    });
    suffixes.find(|(_, offers)| !offers.is_empty()).unwrap_or((before.len(), Vec::new()))
}

/// Turns the candidates into rustyline's completions: the only candidate, or the common prefix
/// of all, or a list that fits on the screen. Of a longer list rustyline would show the
/// beginning, and treat the next keys as answers to `--More--`.
fn completion_for(offers: Vec<String>, word: &str, (columns, rows): (usize, usize)) -> Vec<Pair> {
    let pair = |display: String, replacement| Pair { display, replacement };
    if let [first, _, ..] = &offers[..] {
        // rustyline compares case-sensitively: for it, `bob` and `Bobby` share no prefix.
        let shared = common_prefix(&offers);
        if shared > word.len() {
            return vec![pair(String::new(), first[..shared].to_owned())];
        }
    }
    let shown = |offer: &String| offer.trim_end().to_owned();
    // rustyline's layout: each column is as wide as the widest candidate and two blanks.
    let widest = offers.iter().map(|offer| drawn(offer.trim_end()) + 2).max().unwrap_or(1);
    let places = (columns / widest).max(1) * rows.saturating_sub(ROWS_RESERVED).max(1);
    let most = CANDIDATES_MAX.min(places);
    let count = offers.len();
    let mut pairs: Vec<Pair> = offers.into_iter().map(|o| pair(shown(&o), o)).collect();
    if count > most {
        pairs.truncate(most.saturating_sub(1));
        let more = format!("+{}", count - pairs.len());
        pairs.push(pair(more, word.to_owned()));
    }
    pairs
}

/// Returns the length of the case-insensitive common prefix, in bytes of the first candidate.
fn common_prefix(offers: &[String]) -> usize {
    let Some((first, others)) = offers.split_first() else { return 0 };
    let is_shared = |end: &usize| {
        let start = Key::fold(&first[..*end]);
        others.iter().all(|other| Key::fold(other).as_str().starts_with(start.as_str()))
    };
    let ends = first.char_indices().map(|(at, c)| at + c.len_utf8());
    ends.take_while(is_shared).last().unwrap_or(0)
}

/// Returns the names of all commands, of the server and of the client.
fn names() -> impl Iterator<Item = &'static str> {
    let own = local::TABLE.iter().map(|row| row.name);
    commands::TABLE.iter().map(|row| row.name).chain(own)
}

/// Returns the kind of the next argument, if `before` is a command and its first arguments.
fn kind_at(before: &str) -> Option<ArgKind> {
    let mut words = before.strip_prefix('/')?.split(is_blank).filter(|word| !word.is_empty());
    let args = local::args_of(words.next()?)?;
    let at = words.count();
    let kind = args.get(at)?.kind;
    (kind != ArgKind::Free).then_some(kind)
}

fn candidates_for(kind: ArgKind, state: &State) -> Vec<String> {
    let people = || state.people().into_iter().map(|name| format!("{name} "));
    let rooms = || state.rooms().into_iter().map(|room| format!("#{room} "));
    match kind {
        ArgKind::Person => people().collect(),
        ArgKind::Room => rooms().collect(),
        ArgKind::PersonOrRoom => people().chain(rooms()).collect(),
        ArgKind::Command => names().map(str::to_owned).collect(),
        ArgKind::Setting => {
            let others = Setting::TABLE.iter().map(|row| row.1).filter(|word| *word != "joins");
            let words = others.chain(OwnSetting::TABLE.iter().map(|row| row.1));
            words.map(|word| format!("{word} ")).collect()
        }
        ArgKind::Switch => vec!["on".to_owned(), "off".to_owned()],
        ArgKind::Free | ArgKind::Secret => Vec::new(),
    }
}

/// Returns the candidates within text: `alice: ` addresses a user, `alice ` and `@alice `
/// mention them.
fn words_of_text(state: &State, is_first: bool, word: &str) -> Vec<String> {
    if word.starts_with('#') {
        return candidates_for(ArgKind::Room, state);
    }
    let sign = if word.starts_with('@') { "@" } else { "" };
    let end = if is_first && sign.is_empty() { ": " } else { " " };
    state.people().into_iter().map(|name| format!("{sign}{name}{end}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Event, Tags};

    #[test]
    fn completion_depends_on_position() {
        let mut state = State::new("me-too");
        for line in [
            "[USERS #lobby 3] me-too,alice,Albert",
            "[ROOM #ops 1]",
            "[JOINED #art]",
            "李雷: x",
            "Alzoe: x",
        ] {
            state.apply(&Tags::default(), &Event::parse(line).unwrap());
        }
        for (typed, offers) in [
            // Recent speakers come before the others, which are sorted by name.
            ("al", &["Alzoe: ", "Albert: ", "alice: "][..]),
            ("/m", &["/msg ", "/me ", "/mute "]),
            ("ali", &["alice: "]),
            ("ALI", &["alice: "]),
            ("hi ali", &["alice "]),
            ("look at #o", &["#ops "]),
            ("/jo", &["/join "]),
            ("/join #", &["#art ", "#lobby ", "#ops "]),
            ("/msg ali", &["alice "]),
            ("/msg #o", &["#ops "]),
            ("/msg bob al", &["Alzoe ", "Albert ", "alice "]),
            ("/query al", &["Alzoe ", "Albert ", "alice "]),
            ("/help jo", &["join"]),
            ("/set ec", &["echo "]),
            ("/set echo o", &["on", "off"]),
            ("/nosuch al", &["Alzoe ", "Albert ", "alice "]),
            ("x\nali", &["alice "]),
            ("zed", &[]),
            ("zed(ali", &["alice "]),
            ("请ali", &["alice "]),
            ("@ali", &["@alice "]),
            ("请@ali", &["@alice "]),
            ("请#o", &["#ops "]),
            ("请看李", &["李雷 "]),
            ("zed,李", &["李雷 "]),
            ("metal", &[]),
        ] {
            let (_, found) = complete(&state, typed);
            assert_eq!(found, offers, "{typed}");
        }
    }

    #[test]
    fn candidates_are_completed_to_common_prefix_and_listed_if_they_fit() {
        let completed = |offers: &[&str], word, size| {
            let offers = offers.iter().map(|&offer| offer.to_owned()).collect();
            let pairs = completion_for(offers, word, size).into_iter();
            pairs.map(|pair| (pair.display, pair.replacement)).collect::<Vec<_>>()
        };
        let pair = |display: &str, put: &str| (display.to_owned(), put.to_owned());
        let wide = (80, 24);
        assert_eq!(completed(&["alice: "], "a", wide), [pair("alice:", "alice: ")]);
        assert_eq!(completed(&["bob: ", "Bobby: "], "b", wide), [pair("", "bob")]);
        assert_eq!(completed(&["Éa ", "éb "], "é", wide), [pair("Éa", "Éa "), pair("éb", "éb ")]);
        let listed = [pair("bob:", "bob: "), pair("Bobby:", "Bobby: ")];
        assert_eq!(completed(&["bob: ", "Bobby: "], "bob", wide), listed);
        let names: Vec<String> = ('a'..='z').map(|c| format!("{c}name: ")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(completed(&names, "", wide).len(), 26);
        // Two columns of three rows: five names, and the number of the others.
        let narrow = completed(&names, "", (18, 7));
        assert_eq!(narrow.len(), 6);
        assert_eq!(narrow[5], pair("+21", ""));
    }

    #[test]
    fn hint_shows_remaining_arguments() {
        for (line, hint) in [
            ("/msg", Some(" NAME TEXT")),
            ("/msg ", Some("NAME TEXT")),
            ("/msg bob ", Some("TEXT")),
            ("/msg bob", None),
            ("/msg bob hi ", None),
            ("/who", Some(" [-l] [ROOM]")),
            ("/set", Some(" [KEY on|off]")),
            ("/set echo ", Some("on|off")),
            ("/quiet", Some(" [ROOM]")),
            ("/nosuch ", None),
            ("/", None),
            ("msg ", None),
        ] {
            assert_eq!(usage_behind(line, &State::new("alice")).as_deref(), hint, "{line:?}");
        }
        let mut state = State::new("alice");
        state.apply(&Tags::default(), &Event::parse("[PRIVATE MESSAGE] bob: psst").unwrap());
        assert_eq!(usage_behind("/r", &state).as_deref(), Some(" TEXT (to bob)"));
        assert_eq!(usage_behind("/r yes ", &state), None);
    }

    #[test]
    fn password_is_masked_while_it_is_typed() {
        for (line, shown) in [
            ("/register sesame", "/register ******"),
            ("/regi sesame", "/regi ******"),
            ("/regsiter sesame", "/regsiter ******"),
            ("/join ops", "/join ops"),
            ("/join ops key", "/join ops ***"),
            ("/register open sesame", "/register ***********"),
            ("/login alice sesame", "/login alice ******"),
            ("/login  alice", "/login  alice"),
            ("/PASSWD 李", "/PASSWD **"),
            ("/oper", "/oper"),
            ("/msg bob sesame", "/msg bob sesame"),
            ("register sesame", "register sesame"),
        ] {
            let from = secret_from(line).unwrap_or(line.len());
            let look = |at| Look { style: Style::new(), is_masked: at >= from };
            let found = Layout::new(80).draw(line, line.len(), look);
            assert_eq!(found.replace("\x1b[?7l", "").replace("\x1b[?7h", ""), shown);
        }
    }

    #[test]
    fn excess_begins_at_line_limit() {
        let long = "ä".repeat(LINE_MAX / 2);
        assert_eq!(excess_from(&long), None);
        assert_eq!(excess_from(&format!("{long}x")), Some(LINE_MAX));
        assert_eq!(excess_from(&format!("short\nx{long}\nshort")), Some(6 + LINE_MAX - 1));
    }
}
