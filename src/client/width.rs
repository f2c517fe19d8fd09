//! How many columns text takes on a terminal. Terminals disagree: 👩‍💻 takes two columns or
//! four, ❤️ one or two, a vowel sign none or one. No answer is right everywhere, so there are
//! two, each safe for its purpose, and nothing in the client measures text in another way:
//!
//! - [`drawn`] is what the line editor counts for the prompt, the draft and lists of
//!   completions. [`super::draft`] makes the terminal keep to it.
//! - [`most`] is the largest number that a terminal in common use takes. Chat lines are
//!   broken by it: a row may end early, but the terminal does not break it again.

use std::env;
use std::sync::OnceLock;

use rustyline::GraphemeClusterMode;
use unicode_width::UnicodeWidthChar as _;

/// The editor adds up code points and joins none, whatever terminal it runs in.
pub(super) const MODE: GraphemeClusterMode = GraphemeClusterMode::WcWidth;

/// A TAB goes to the next multiple of this column, in a draft and in the chat.
pub(super) const TAB_STOP: u8 = 4;

/// From here on the terminal stays in the last column instead of going on in the next row.
pub(super) const AUTO_WRAP_OFF: &str = "\x1b[?7l";
pub(super) const AUTO_WRAP_ON: &str = "\x1b[?7h";

/// How many columns a TAB in this column takes.
pub(super) fn to_tab_stop(column: usize) -> usize {
    let stop = usize::from(TAB_STOP);
    stop - column % stop
}

/// How many columns the line editor counts for text without TAB and line ends.
pub(super) fn drawn(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The most columns that text without control characters may take.
pub(super) fn most(text: &str) -> usize {
    text.chars().map(most_of).sum()
}

/// The most columns that a character may add to those before it.
pub(super) fn most_of(c: char) -> usize {
    if c.is_ascii() { usize::from(!c.is_control()) } else { most_by(c, is_ambiguous_wide()) }
}

fn most_by(c: char, is_ambiguous_wide: bool) -> usize {
    let width = if is_ambiguous_wide { c.width_cjk() } else { c.width() };
    match c {
        // It may make the narrow character before it wide.
        '\u{FE0F}' => 1,
        // Pictographs: two in the newest tables; flags are made of two of these.
        '\u{1F000}'..='\u{1FAFF}' => 2,
        // Vowel signs, and the parts of a Hangul syllable: combined or not.
        _ if width == Some(0) && c.is_alphabetic() => 1,
        _ => width.unwrap_or(0),
    }
}

/// Terminals that follow the language take two columns for letters and signs that East
/// Asian character sets made wide (`…`, `“`, Greek, Cyrillic).
fn is_ambiguous_wide() -> bool {
    static IS_WIDE: OnceLock<bool> = OnceLock::new();
    *IS_WIDE.get_or_init(|| {
        let variables = ["LC_ALL", "LC_CTYPE", "LANG"].map(env::var);
        let language = variables.into_iter().flatten().find(|value| !value.is_empty());
        language
            .is_some_and(|language| ["zh", "ja", "ko"].iter().any(|cjk| language.starts_with(cjk)))
    })
}

/// Whether terminals may disagree about the width of a cluster. Letters that only East Asian
/// settings make wide are left out: moving the cursor back over them would hide half of each.
pub(super) fn is_disputed(cluster: &str) -> bool {
    let mut chars = cluster.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) => !c.is_ascii() && !c.is_alphanumeric() && c.width() == c.width_cjk(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chat_rows_are_filled_by_the_widest_opinion() {
        for (text, columns) in [
            ("bob", 3),
            ("李雷", 4),
            ("e\u{301}", 1),
            ("👩\u{200D}💻", 4),
            ("👍🏽", 4),
            ("❤\u{FE0F}", 2),
            ("1\u{FE0F}\u{20E3}", 2),
            ("🇩🇪", 4),
            ("🏳\u{FE0F}\u{200D}🌈", 5),
            ("கா", 2),
            ("\u{1100}\u{1161}\u{11A8}", 4),
            ("…", 1),
        ] {
            assert_eq!(most(text), columns, "{text}");
            assert!(most(text) >= drawn(text), "{text}");
        }
        assert_eq!(most_by('…', true), 2);
        assert_eq!(most_by('李', true), 2);
    }
}
