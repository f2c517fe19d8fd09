//! Text that is safe to put on a terminal. Whatever comes from the network is
//! made [`Clean`] once more here, field by field: the server cleans too, but a
//! terminal must not have to trust it.

use std::borrow::Cow;
use std::fmt;

use unicode_width::UnicodeWidthChar as _;

use super::width;
use crate::protocol::text;

/// More marks than this on one letter are an attack on the lines above.
const MARKS_MAX: usize = 4;

/// Text without control characters, direction overrides and invisible ones.
/// The printer takes nothing else, so nothing uncleaned can reach the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clean<'a>(Cow<'a, str>);

impl<'a> Clean<'a> {
    /// Cleans `text`. Line ends are control characters too: one text, one line.
    pub(super) fn of(text: &'a str) -> Self {
        Self::at(text, 0)
    }

    /// Cleans text that begins in this `column`; TABs go to the next tab stop.
    pub(super) fn at(text: &'a str, mut column: usize) -> Self {
        // ASCII without controls is nearly every line.
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

/// Whether a character is better written by its number.
pub(super) fn is_unseen(c: char) -> bool {
    text::is_forbidden(c) || is_invisible(c)
}

/// Characters nobody sees, by which one name can be made to look like another
/// or a word hidden from a reader. The joiners of emoji and of Indic and
/// Persian letters (U+200C, U+200D, U+FE0F) have their uses and stay.
fn is_invisible(c: char) -> bool {
    // Of each plane the last two are no characters.
    let is_none = u32::from(c) & 0xFFFE == 0xFFFE || matches!(c, '\u{FDD0}'..='\u{FDEF}');
    is_none
        || matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{180E}' | '\u{200B}'
        | '\u{200E}' | '\u{200F}' | '\u{2060}'..='\u{2064}' | '\u{206A}'..='\u{206F}'
        | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}'
        | '\u{E0000}'..='\u{E007F}' | '\u{E0100}'..='\u{E01EF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_or_hides_remains() {
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
