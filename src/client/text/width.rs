//! The width of text in terminal columns. It does not know the terminal's size.
//!
//! Terminals disagree: 👩‍💻 takes two columns or four, ❤️ one or two, a vowel sign none or one.
//! No answer is right for all terminals, so there are two measures, each safe for its purpose,
//! and the client uses no other:
//!
//! - [`drawn`] is the width that the line editor counts for the prompt, the draft and lists of
//!   completions. `terminal/draft.rs` makes the terminal use the same width.
//! - [`most`] is the largest width on a terminal in common use. Chat lines are wrapped by it: a
//!   row may end early, but the terminal does not wrap it again.

use std::env;
use std::sync::OnceLock;

use rustyline::GraphemeClusterMode;
use unicode_width::UnicodeWidthChar as _;

/// The editor adds up the widths of code points and joins none, on every terminal.
pub(in crate::client) const MODE: GraphemeClusterMode = GraphemeClusterMode::WcWidth;

/// The distance of tab stops in columns, in a draft and in the chat.
pub(in crate::client) const TAB_STOP: u8 = 4;

/// Turns auto-wrap (DECAWM) off: the cursor stays in the last column.
pub(in crate::client) const AUTO_WRAP_OFF: &str = "\x1b[?7l";
pub(in crate::client) const AUTO_WRAP_ON: &str = "\x1b[?7h";

/// Returns the width of a TAB in this column.
pub(in crate::client) fn to_tab_stop(column: usize) -> usize {
    let stop = usize::from(TAB_STOP);
    stop - column % stop
}

/// Returns the width that the line editor counts for text without TABs and line ends.
pub(in crate::client) fn drawn(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Returns the largest width of text without control characters.
pub(in crate::client) fn most(text: &str) -> usize {
    text.chars().map(most_of).sum()
}

/// Returns the largest width that a character may add to the text before it.
pub(in crate::client) fn most_of(c: char) -> usize {
    if c.is_ascii() { usize::from(!c.is_control()) } else { most_by(c, is_ambiguous_wide()) }
}

fn most_by(c: char, is_ambiguous_wide: bool) -> usize {
    let width = if is_ambiguous_wide { c.width_cjk() } else { c.width() };
    match c {
        // The emoji variation selector may make the narrow character before it wide.
        '\u{FE0F}' => 1,
        // Pictographs are wide in the newest Unicode tables; a flag consists of two of them.
        '\u{1F000}'..='\u{1FAFF}' => 2,
        // Vowel signs and conjoining Hangul letters, which some terminals do not combine.
        _ if width == Some(0) && c.is_alphabetic() => 1,
        _ => width.unwrap_or(0),
    }
}

/// Whether characters of ambiguous East Asian width (`…`, `“`, Greek, Cyrillic) may be wide:
/// some terminals draw them so with a Chinese, Japanese or Korean locale.
fn is_ambiguous_wide() -> bool {
    static IS_WIDE: OnceLock<bool> = OnceLock::new();
    *IS_WIDE.get_or_init(|| {
        let variables = ["LC_ALL", "LC_CTYPE", "LANG"].map(env::var);
        let language = variables.into_iter().flatten().find(|value| !value.is_empty());
        language
            .is_some_and(|language| ["zh", "ja", "ko"].iter().any(|cjk| language.starts_with(cjk)))
    })
}

/// Whether terminals may disagree about the width of a cluster. Letters that are wide only with
/// an East Asian locale are excluded: moving the cursor back over them would hide half of each.
pub(in crate::client) fn is_disputed(cluster: &str) -> bool {
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
    fn largest_width_covers_all_terminals() {
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
