//! Text that is safe to write to a terminal. Each field of a line from the network is cleaned
//! here again: the server cleans text, too, but the client must not rely on that. It knows
//! nothing of the lines' meaning.

use std::borrow::Cow;
use std::fmt;

use unicode_width::UnicodeWidthChar as _;

use super::width;
use crate::protocol::text;
use crate::stdio;

/// The most combining marks on one letter; with more, the letter would cover the lines above.
const MARKS_MAX: usize = 4;

/// Text without control characters, direction overrides and invisible characters. The printer
/// accepts only such text, so untrusted text cannot reach the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) struct Clean<'a>(Cow<'a, str>);

impl<'a> Clean<'a> {
    /// Cleans `text`. Line ends count as control characters, so the result is one line.
    pub(in crate::client) fn of(text: &'a str) -> Self {
        Self::at(text, 0)
    }

    /// Cleans text that begins in this `column` and expands TABs to the next tab stop.
    pub(in crate::client) fn at(text: &'a str, mut column: usize) -> Self {
        // Fast path: most lines are ASCII without control characters.
        if text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            return Self(Cow::Borrowed(text));
        }
        let mut clean = String::with_capacity(text.len());
        let mut marks = 0;
        for c in text::clean(text).chars() {
            match c {
                '\t' => {
                    let blanks = width::to_tab_stop(column);
                    clean.extend(std::iter::repeat_n(' ', blanks));
                    column += blanks;
                }
                _ if is_invisible(c) => {}
                _ => {
                    marks = if c.width() == Some(0) { marks + 1 } else { 0 };
                    if marks <= MARKS_MAX {
                        clean.push(c);
                        column += width::most_of(c);
                    }
                }
            }
        }
        Self(Cow::Owned(clean))
    }
}

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a character is invisible or forbidden, and so better shown by its number.
pub(in crate::client) fn is_unseen(c: char) -> bool {
    text::is_forbidden(c) || is_invisible(c)
}

/// Whether a character is invisible. Such characters can make one name look like another, or
/// hide a word. The joiners and selectors of emoji and of Indic and Persian letters (U+200C,
/// U+200D, U+FE0F) are needed and allowed.
fn is_invisible(c: char) -> bool {
    // Unicode noncharacters: the last two code points of each plane, and U+FDD0 to U+FDEF.
    let is_noncharacter = u32::from(c) & 0xFFFE == 0xFFFE || matches!(c, '\u{FDD0}'..='\u{FDEF}');
    is_noncharacter
        || matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{180E}' | '\u{200B}'
        | '\u{200E}' | '\u{200F}' | '\u{2060}'..='\u{2064}' | '\u{206A}'..='\u{206F}'
        | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}'
        | '\u{E0000}'..='\u{E007F}' | '\u{E0100}'..='\u{E01EF}')
}

/// Writes a problem to standard error. The text may contain input from the network, so it is
/// sanitized.
pub(in crate::client) fn print_error(problem: &str) {
    stdio::print_error(&format!("chatty: {}", Clean::of(problem)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_invisible_characters_are_removed() {
        for (raw, clean) in [
            ("plain", "plain"),
            ("日本 é", "日本 é"),
            ("👩\u{200D}💻", "👩\u{200D}💻"),
            ("\x1b]0;pwn\x07", "\u{FFFD}]0;pwn\u{FFFD}"),
            ("\x1b[2J\u{9b}31m", "\u{FFFD}[2J\u{FFFD}31m"),
            ("a\nb\rc", "a\u{FFFD}b\u{FFFD}c"),
            ("a\tb\tc", "a   b   c"),
            ("abcd\tb", "abcd    b"),
            ("\u{202E}evil", "\u{FFFD}evil"),
            ("a\u{FDD0}b\u{FFFE}c\u{1FFFF}d", "abcd"),
            ("al\u{200B}ice\u{E0041}", "alice"),
            ("e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}x", "e\u{301}\u{301}\u{301}\u{301}x"),
        ] {
            assert_eq!(Clean::of(raw).to_string(), clean, "{}", raw.escape_debug());
        }
    }
}
