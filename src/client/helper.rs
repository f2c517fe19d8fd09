//! What rustyline asks while a line is typed: how it looks and what Tab offers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use owo_colors::Style;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use super::draft::{Layout, Look};
use super::local;
use super::mentions::can_start;
use super::printer::size;
use super::prompt::Shared;
use super::prompt_text::prompt_in;
use super::state::{LinkState, State};
use super::submission::secret_from;
use super::width::drawn;
use crate::commands::{self, ArgKind, Setting};
use crate::protocol::name::NAME_MAX;
use crate::protocol::text::is_blank;
use crate::protocol::{Key, LINE_MAX};

/// More is no help.
const CANDIDATES_MAX: usize = 50;

/// So many rows of the screen are not for a list: the prompt's, and some of the talk.
const ROWS_RESERVED: usize = 4;

/// How the text begins that stands behind a line that is too long.
const NOT_SENT: &str = "   not sent: ";

/// Answers rustyline's questions on the prompt's thread.
pub(super) struct ChatHelper {
    shared: Shared,
    draft: Mutex<String>,
    /// The line is on its way; what is drawn from here on is drawn for the last time.
    is_submitted: AtomicBool,
    /// What is drawn next is drawn because the line changed.
    is_redrawn_for_itself: AtomicBool,
    /// Where the latest drawing of prompt, draft and hint ended.
    layout: Mutex<Layout>,
    resize: Mutex<Option<Resize>>,
}

/// The terminal has another width than before, and rustyline may not know it yet: it learns
/// of a resize from a signal, and keys may come before that. Until it knows, it erases as
/// many rows as it counted, which are not those that were drawn.
#[derive(Clone, Copy)]
struct Resize {
    /// The fewest columns there were before.
    columns: usize,
}

impl ChatHelper {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared,
            draft: Mutex::default(),
            is_submitted: AtomicBool::new(false),
            is_redrawn_for_itself: AtomicBool::new(false),
            layout: Mutex::default(),
            resize: Mutex::default(),
        }
    }

    /// The line as last drawn: known also when the prompt is called off.
    pub(super) fn draft(&self) -> String {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// On how many rows the prompt, the draft and what stands behind it were drawn last.
    pub(super) fn rows(&self) -> usize {
        self.layout().rows()
    }

    fn layout(&self) -> MutexGuard<'_, Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A drawing starts anew with the prompt: `text` if it ends where rustyline expects the
    /// end of the `counted` prompt. When a terminal becomes wider or narrower it breaks rows
    /// anew, and rustyline erases as many as there were before: too many, or too few. Then
    /// the screen is drawn again.
    ///
    /// `known` is how many columns rustyline counts with, if that is sure.
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
                // Makes sure that rustyline knows.
                self.shared.printer.repaint();
            }
        }
        *layout = end;
        if new_end.ends_like(&end) { new_drawing } else { drawing }
    }

    /// Before each prompt: it may be called off before anything is drawn.
    pub(super) fn start(&self, draft: &str) {
        self.remember(draft);
        *self.layout() = Layout::new(size().0);
        *self.resize.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// After each prompt: if the terminal was resized under it and it was not drawn since,
    /// the screen is drawn again.
    pub(super) fn finish(&self) {
        if self.layout().is_broken_by(size().0) {
            self.shared.printer.redraw();
        }
    }

    /// Draws what is behind the prompt. If rustyline may count its rows otherwise, since it
    /// may not know of a resize yet, the screen is drawn again once it knows.
    fn draw(&self, text: &str, cursor: usize, look: impl Fn(usize) -> Look) -> String {
        let mut layout = self.layout();
        let drawing = layout.draw(text, cursor, look);
        let resize = *self.resize.lock().unwrap_or_else(PoisonError::into_inner);
        if resize.is_some_and(|resize| !layout.fits_in_row_of(resize.columns)) {
            self.shared.printer.redraw();
        }
        drawing
    }

    fn remember(&self, draft: &str) {
        draft.clone_into(&mut self.draft.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Helper for ChatHelper {}

/// A line that is too long stays as it is, and says so behind itself: the screen
/// above it may be out of sight.
impl Validator for ChatHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let longest = context.input().split('\n').map(str::len).max().unwrap_or_default();
        if longest <= LINE_MAX {
            return Ok(ValidationResult::Valid(None));
        }
        self.is_submitted.store(false, Ordering::Relaxed);
        let text = format!("{NOT_SENT}{longest} bytes, {LINE_MAX} are a line");
        Ok(ValidationResult::Invalid(Some(text)))
    }
}

/// What a command still takes stands faintly behind it.
impl Hinter for ChatHelper {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, _context: &Context<'_>) -> Option<String> {
        if pos < line.len() || self.shared.is_asking() {
            return None;
        }
        usage_behind(line, &self.shared.state())
    }
}

/// The arguments that a command takes behind the words there are; only where the
/// next one could begin.
fn usage_behind(line: &str, state: &State) -> Option<String> {
    let command = line.strip_prefix('/')?;
    let mut words = command.split(is_blank).filter(|word| !word.is_empty());
    let args = local::args_of(words.next()?)?;
    let is_begun = !command.ends_with(is_blank);
    let written = words.count();
    // Behind the bare name the hint begins with the blank that is to be typed.
    if is_begun && (written > 0 || args.is_empty()) {
        return None;
    }
    let mut rest: Vec<&str> = args.iter().skip(written).map(|arg| arg.usage).collect();
    // Whom a /reply is for nobody should have to remember.
    let to = state.with_fixed_target(&format!("{} x", line.trim_end_matches(is_blank)));
    let to = to.as_deref().and_then(|to| to.split(' ').nth(1)).map(|name| format!("(to {name})"));
    rest.extend(to.as_deref().filter(|_| written == 0));
    let gap = if is_begun { " " } else { "" };
    let rest = rest.join(" ");
    // Of `[KEY on|off]` the end may be left alone.
    let is_half = rest.matches(']').count() > rest.matches('[').count();
    let rest = if is_half { rest.replacen(']', "", 1) } else { rest };
    (!rest.is_empty()).then(|| format!("{gap}{rest}"))
}

impl Highlighter for ChatHelper {
    fn highlight<'l>(&self, line: &'l str, pos: usize) -> Cow<'l, str> {
        self.remember(line);
        let secret = secret_from(line).unwrap_or(line.len());
        let too_much = too_long_from(line).unwrap_or(line.len());
        let look = |at| Look {
            style: if at < too_much { Style::new() } else { self.shared.theme.too_much() },
            // Nobody is to read it over one's shoulder.
            is_masked: at >= secret,
        };
        Cow::Owned(self.draw(line, pos, look))
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        let theme = self.shared.theme;
        let style = if hint.starts_with(NOT_SENT) { theme.error() } else { theme.faint() };
        Cow::Owned(self.draw(hint, hint.len(), |_| style.into()))
    }

    /// rustyline measures the prompt once, when it starts to read, and cannot
    /// be given another while it waits. But it asks here at every repaint. So
    /// where plain lines go is shown right even if it changes meanwhile (a kick,
    /// a rename), fitted into the columns there are; the next prompt has its own.
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        is_default: bool,
    ) -> Cow<'b, str> {
        if !self.is_submitted.load(Ordering::Relaxed) {
            self.shared.gate.open();
        }
        let is_for_itself = self.is_redrawn_for_itself.swap(false, Ordering::Relaxed);
        let known = if is_for_itself { None } else { self.shared.gate.drawn() };
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

    /// Yes, always: only then does rustyline announce the end of a line. It asks
    /// before each repaint but those for a line printed above.
    fn highlight_char(&self, _line: &str, _pos: usize, kind: CmdKind) -> bool {
        self.is_redrawn_for_itself.store(true, Ordering::Relaxed);
        let is_submitted = kind == CmdKind::ForcedRefresh;
        self.is_submitted.store(is_submitted, Ordering::Relaxed);
        if is_submitted {
            self.shared.gate.shut(false);
        }
        true
    }
}

/// Where the first line that is too long becomes so.
fn too_long_from(text: &str) -> Option<usize> {
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

/// What may stand in place of the last word of `typed`, and where it starts.
fn complete(state: &State, typed: &str) -> (usize, Vec<String>) {
    let start = typed.rfind(|c| is_blank(c) || c == '\n').map_or(0, |at| at + 1);
    let (before, word) = typed.split_at(start);
    let offers = if start == 0 && word.starts_with('/') {
        names().map(|name| format!("/{name} ")).collect()
    } else {
        match kind_at(before) {
            // Nothing but a room can stand there: its sign may be left out.
            Some(ArgKind::Room) if !word.is_empty() && !word.starts_with('#') => {
                state.rooms().into_iter().map(|room| format!("{room} ")).collect()
            }
            Some(kind) => candidates_for(kind, state),
            None => return complete_text(state, before, word),
        }
    };
    (start, fitting(offers, word))
}

/// The offers that begin with `word`.
fn fitting(offers: Vec<String>, word: &str) -> Vec<String> {
    let start = Key::fold(word);
    let is_fitting = |offer: &String| Key::fold(offer).as_str().starts_with(start.as_str());
    offers.into_iter().filter(is_fitting).collect()
}

/// A name may also follow punctuation or a script without spaces directly: `(al`,
/// `请李`. The longest part of the word that is the beginning of a name counts.
fn complete_text(state: &State, before: &str, word: &str) -> (usize, Vec<String>) {
    let whole = fitting(words_of_text(state, before.is_empty(), word), word);
    if !whole.is_empty() {
        return (before.len(), whole);
    }
    // No name is longer, with its sign.
    let first = word.char_indices().rev().nth(NAME_MAX).map_or(0, |(at, _)| at);
    let starts = word.char_indices().skip_while(|(at, _)| *at < first.max(1));
    let starts = starts.filter(|(at, c)| can_start(&word[..*at], *c));
    let mut parts = starts.map(|(at, _)| {
        let part = &word[at..];
        (before.len() + at, fitting(words_of_text(state, false, part), part))
    });
    parts.find(|(_, offers)| !offers.is_empty()).unwrap_or((before.len(), Vec::new()))
}

/// What rustyline is to make of the offers: the one there is, or as much as all of
/// them begin with, or a list. That fits on the screen: of a longer one rustyline
/// would show the beginning and take the next keys for answers to `--More--`.
fn completion_for(offers: Vec<String>, word: &str, (columns, rows): (usize, usize)) -> Vec<Pair> {
    let pair = |display: String, replacement| Pair { display, replacement };
    if let [first, _, ..] = &offers[..] {
        // rustyline would not see that `bob` and `Bobby` begin alike.
        let shared = common_prefix(&offers);
        if shared > word.len() {
            return vec![pair(String::new(), first[..shared].to_owned())];
        }
    }
    let shown = |offer: &String| offer.trim_end().to_owned();
    // As rustyline sets them: columns as wide as the widest, and two blanks.
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

/// How far all offers are the same in any case, in bytes of the first.
fn common_prefix(offers: &[String]) -> usize {
    let Some((first, others)) = offers.split_first() else { return 0 };
    let is_shared = |end: &usize| {
        let start = Key::fold(&first[..*end]);
        others.iter().all(|other| Key::fold(other).as_str().starts_with(start.as_str()))
    };
    let ends = first.char_indices().map(|(at, c)| at + c.len_utf8());
    ends.take_while(is_shared).last().unwrap_or(0)
}

/// Every command.
fn names() -> impl Iterator<Item = &'static str> {
    let own = local::TABLE.iter().map(|row| row.name);
    commands::TABLE.iter().map(|row| row.name).chain(own)
}

/// What the next word is, if `before` is a command with its words so far.
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
        ArgKind::Setting => Setting::TABLE.iter().map(|row| format!("{} ", row.1)).collect(),
        ArgKind::Switch => vec!["on".to_owned(), "off".to_owned()],
        ArgKind::Free | ArgKind::Secret => Vec::new(),
    }
}

/// In text people are named: `alice: ` to speak to her, `alice ` or `@alice ` to
/// speak of her.
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
    fn tab_offers_what_the_place_asks_for() {
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
            // Who has spoken comes before the alphabet.
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
    fn offers_are_completed_as_far_as_they_agree_and_listed_as_far_as_they_fit() {
        let told = |offers: &[&str], word, size| {
            let offers = offers.iter().map(|&offer| offer.to_owned()).collect();
            let pairs = completion_for(offers, word, size).into_iter();
            pairs.map(|pair| (pair.display, pair.replacement)).collect::<Vec<_>>()
        };
        let pair = |display: &str, put: &str| (display.to_owned(), put.to_owned());
        let wide = (80, 24);
        assert_eq!(told(&["alice: "], "a", wide), [pair("alice:", "alice: ")]);
        assert_eq!(told(&["bob: ", "Bobby: "], "b", wide), [pair("", "bob")]);
        assert_eq!(told(&["Éa ", "éb "], "é", wide), [pair("Éa", "Éa "), pair("éb", "éb ")]);
        let listed = [pair("bob:", "bob: "), pair("Bobby:", "Bobby: ")];
        assert_eq!(told(&["bob: ", "Bobby: "], "bob", wide), listed);
        let names: Vec<String> = ('a'..='z').map(|c| format!("{c}name: ")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(told(&names, "", wide).len(), 26);
        // Two columns of three rows: five names, and how many there are besides.
        let narrow = told(&names, "", (18, 7));
        assert_eq!(narrow.len(), 6);
        assert_eq!(narrow[5], pair("+21", ""));
    }

    #[test]
    fn a_command_says_what_it_still_takes() {
        for (line, hint) in [
            ("/msg", Some(" NAME TEXT")),
            ("/msg ", Some("NAME TEXT")),
            ("/msg bob ", Some("TEXT")),
            ("/msg bob", None),
            ("/msg bob hi ", None),
            ("/who", Some(" [ROOM]")),
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
    fn a_password_is_not_shown_while_it_is_typed() {
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
    fn what_is_too_long_is_found_where_it_begins() {
        let long = "ä".repeat(LINE_MAX / 2);
        assert_eq!(too_long_from(&long), None);
        assert_eq!(too_long_from(&format!("{long}x")), Some(LINE_MAX));
        assert_eq!(too_long_from(&format!("short\nx{long}\nshort")), Some(6 + LINE_MAX - 1));
    }
}
