//! What rustyline asks while a line is typed: how it looks and what Tab offers.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};
use unicode_width::UnicodeWidthStr as _;

use super::local;
use super::printer::size;
use super::prompt::Shared;
use super::slot::prompt_in;
use super::state::{Link, State};
use crate::commands::{self, Kind, Setting};
use crate::protocol::text::{is_blank, is_forbidden};
use crate::protocol::{Key, LINE_MAX};

/// More is no help, and a list longer than the screen would hold it.
const OFFERED_MAX: usize = 50;

/// Answers rustyline's questions on the prompt's thread.
pub(super) struct ChatHelper {
    shared: Shared,
    draft: Mutex<String>,
    /// The line is on its way; what is drawn from here on is drawn for the last time.
    is_submitted: AtomicBool,
    /// What is drawn next is drawn because the line changed.
    is_redrawn_for_itself: AtomicBool,
    /// How wide the terminal was when something was last drawn.
    columns: AtomicUsize,
}

impl ChatHelper {
    pub(super) fn new(shared: Shared) -> Self {
        Self {
            shared,
            draft: Mutex::default(),
            is_submitted: AtomicBool::new(false),
            is_redrawn_for_itself: AtomicBool::new(false),
            columns: AtomicUsize::new(0),
        }
    }

    /// The line as last drawn: known also when the prompt is called off.
    pub(super) fn draft(&self) -> String {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When a terminal becomes wider or narrower it breaks the draft's rows anew,
    /// and rustyline wipes away as many as there were before: too many, or too few.
    fn mind_resizing(&self, prompt: usize) {
        let (columns, _) = size();
        let before = self.columns.swap(columns, Ordering::Relaxed);
        let draft = self.draft();
        let is_broken = prompt + draft.width() >= before.min(columns) || draft.contains('\n');
        if before > 0 && before != columns && is_broken {
            self.shared.printer.redraw();
        }
    }

    /// Also before each prompt: it may be called off before anything is drawn.
    pub(super) fn remember(&self, draft: &str) {
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
        let text = format!("   not sent: {longest} bytes, {LINE_MAX} are a line");
        let text = self.shared.theme.error().style(text).to_string();
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
    let to = state.pinned(&format!("{} x", line.trim_end_matches(is_blank)));
    let to = to.as_deref().and_then(|to| to.split(' ').nth(1)).map(|name| format!("(to {name})"));
    rest.extend(to.as_deref().filter(|_| written == 0));
    let gap = if is_begun { " " } else { "" };
    (!rest.is_empty()).then(|| format!("{gap}{}", rest.join(" ")))
}

impl Highlighter for ChatHelper {
    fn highlight<'l>(&self, line: &'l str, _pos: usize) -> Cow<'l, str> {
        self.remember(line);
        // A pasted escape must not act while it is being edited either. What
        // is left out here counts no column for rustyline.
        let is_hidden = |c: char| is_forbidden(c) && c != '\n';
        let line = if line.contains(is_hidden) {
            Cow::Owned(line.replace(is_hidden, ""))
        } else {
            Cow::Borrowed(line)
        };
        match too_long_from(&line) {
            Some(from) => {
                let (fits, too_much) = line.split_at(from);
                let style = self.shared.theme.too_much();
                // Line by line: a style does not go over a line's end.
                let marked = too_much.split('\n').map(|part| style.style(part).to_string());
                Cow::Owned(format!("{fits}{}", marked.collect::<Vec<_>>().join("\n")))
            }
            None => line,
        }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(self.shared.theme.faint().style(hint).to_string())
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
        if !self.is_redrawn_for_itself.swap(false, Ordering::Relaxed) {
            self.shared.gate.drawn();
        }
        if !is_default {
            return Cow::Borrowed(prompt);
        }
        self.mind_resizing(prompt.width());
        let theme = self.shared.theme;
        if self.shared.is_asking() {
            return Cow::Owned(theme.prompt().style(prompt).to_string());
        }
        let state = self.shared.state();
        let style = if state.link == Link::Lost { theme.faint() } else { theme.prompt() };
        Cow::Owned(style.style(prompt_in(&state, prompt.width())).to_string())
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
        Ok(complete(&self.shared.state(), &line[..pos]))
    }
}

/// What may stand in place of the last word of `typed`, and where it starts.
fn complete(state: &State, typed: &str) -> (usize, Vec<Pair>) {
    let start = typed.rfind(|c| is_blank(c) || c == '\n').map_or(0, |at| at + 1);
    let (before, word) = typed.split_at(start);
    let offers = if start == 0 && word.starts_with('/') {
        names().map(|name| format!("/{name} ")).collect()
    } else {
        match kind_at(before) {
            // Nothing but a room can stand there: its sign may be left out.
            Some(Kind::Room) if !word.is_empty() && !word.starts_with('#') => {
                state.rooms().into_iter().map(|room| format!("{room} ")).collect()
            }
            Some(kind) => offers_for(kind, state),
            None => words_of_text(state, before.is_empty(), word),
        }
    };
    let start_wanted = Key::fold(word);
    let is_fitting = |offer: &String| Key::fold(offer).as_str().starts_with(start_wanted.as_str());
    let pairs = offers.into_iter().filter(is_fitting).take(OFFERED_MAX);
    let pair = |offer: String| Pair { display: offer.trim_end().to_owned(), replacement: offer };
    (start, pairs.map(pair).collect())
}

/// Every command.
fn names() -> impl Iterator<Item = &'static str> {
    let own = local::TABLE.iter().map(|row| row.name);
    commands::TABLE.iter().map(|row| row.name).chain(own)
}

/// What the next word is, if `before` is a command with its words so far.
fn kind_at(before: &str) -> Option<Kind> {
    let mut words = before.strip_prefix('/')?.split(is_blank).filter(|word| !word.is_empty());
    let args = local::args_of(words.next()?)?;
    let at = words.count();
    let kind = args.get(at)?.kind;
    (kind != Kind::Free).then_some(kind)
}

fn offers_for(kind: Kind, state: &State) -> Vec<String> {
    let people = || state.people().into_iter().map(|name| format!("{name} "));
    let rooms = || state.rooms().into_iter().map(|room| format!("#{room} "));
    match kind {
        Kind::Person => people().collect(),
        Kind::Room => rooms().collect(),
        Kind::PersonOrRoom => people().chain(rooms()).collect(),
        Kind::Command => names().map(str::to_owned).collect(),
        Kind::Setting => Setting::TABLE.iter().map(|row| format!("{} ", row.1)).collect(),
        Kind::Switch => vec!["on".to_owned(), "off".to_owned()],
        Kind::Free | Kind::Secret => Vec::new(),
    }
}

/// In text people are named: `alice: ` to speak to her, `alice ` or `@alice ` to
/// speak of her.
fn words_of_text(state: &State, is_first: bool, word: &str) -> Vec<String> {
    if word.starts_with('#') {
        return offers_for(Kind::Room, state);
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
        for line in
            ["[USERS #lobby 3] me-too,alice,Albert", "[ROOM #ops 1]", "[JOINED #art]", "Albert: x"]
        {
            state.apply(&Tags::default(), &Event::parse(line).unwrap());
        }
        for (typed, offers) in [
            ("al", &["Albert: ", "alice: "][..]),
            ("ali", &["alice: "]),
            ("ALI", &["alice: "]),
            ("hi ali", &["alice "]),
            ("look at #o", &["#ops "]),
            ("/jo", &["/join "]),
            ("/join #", &["#art ", "#lobby ", "#ops "]),
            ("/msg ali", &["alice "]),
            ("/msg #o", &["#ops "]),
            ("/msg bob al", &["Albert ", "alice "]),
            ("/query al", &["Albert ", "alice "]),
            ("/help jo", &["join"]),
            ("/set ec", &["echo "]),
            ("/set echo o", &["on", "off"]),
            ("/nosuch al", &["Albert ", "alice "]),
            ("x\nali", &["alice "]),
            ("zed", &[]),
        ] {
            let (_, pairs) = complete(&state, typed);
            let found: Vec<&str> = pairs.iter().map(|pair| pair.replacement.as_str()).collect();
            assert_eq!(found, offers, "{typed}");
        }
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
    fn what_is_too_long_is_found_where_it_begins() {
        let long = "ä".repeat(LINE_MAX / 2);
        assert_eq!(too_long_from(&long), None);
        assert_eq!(too_long_from(&format!("{long}x")), Some(LINE_MAX));
        assert_eq!(too_long_from(&format!("short\nx{long}\nshort")), Some(6 + LINE_MAX - 1));
    }
}
