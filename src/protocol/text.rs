//! Text between people: which characters it may contain, and its division at blanks.

use std::borrow::Cow;

/// What a forbidden character becomes: visible, harmless, one column.
pub const REPLACEMENT: char = '\u{FFFD}';

/// Whether a character may never be stored, sent or shown: control characters
/// (C0 except TAB, DEL, C1), the line separators, and the overrides that turn
/// the direction of writing. Nobody's terminal receives an escape sequence.
#[must_use]
pub fn is_forbidden(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The text with every forbidden character replaced by [`REPLACEMENT`].
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    // ASCII without controls is nearly every line: one pass over bytes, without
    // a way out amid it, so that it takes many at a time.
    if !text.bytes().fold(false, |is_odd, b| is_odd | !(0x20..0x7f).contains(&b)) {
        return Cow::Borrowed(text);
    }
    if text.contains(is_forbidden) {
        return Cow::Owned(text.replace(is_forbidden, "\u{FFFD}"));
    }
    Cow::Borrowed(text)
}

/// Whether a character parts words.
#[must_use]
pub fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// Whether a character looks like a blank or like nothing at all: white space of any
/// script, what Unicode calls default ignorable, and what a control character became.
#[must_use]
pub fn looks_blank(c: char) -> bool {
    c.is_whitespace()
        || matches!(c,
        REPLACEMENT | '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}'
        | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{2800}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}'
        | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// Whether there is nothing to see: blanks of whatever script.
#[must_use]
pub fn is_blank_text(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// The first word, and what follows exactly one blank after it, verbatim.
#[must_use]
pub fn split_word(text: &str) -> (&str, &str) {
    match text.find(is_blank) {
        Some(at) => (&text[..at], &text[at + 1..]), // a blank is one byte
        None => (text, ""),
    }
}

/// The word that was probably meant: one slip of the finger, or in a longer word
/// two.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let most = |known: &str| match known.len() {
        0..2 => 0,
        2..6 => 1,
        _ => 2,
    };
    let len = word.chars().count();
    known
        // Each letter too many is a slip; to compare a long line with all would take long.
        .filter(|known| len.abs_diff(known.len()) <= most(known))
        .map(|known| (strsim::damerau_levenshtein(&word, known), known))
        .filter(|(slips, known)| *slips <= most(known))
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_overrides_become_visible() {
        for (raw, shown) in [
            ("plain\ttext", "plain\ttext"),
            ("日本 👩‍💻 é", "日本 👩‍💻 é"),
            ("\x1b]0;pwn\x07", "\u{FFFD}]0;pwn\u{FFFD}"),
            ("\u{9b}31m", "\u{FFFD}31m"),
            ("a\0b\x7f", "a\u{FFFD}b\u{FFFD}"),
            ("a\rb\u{85}c", "a\u{FFFD}b\u{FFFD}c"),
            ("a\u{2028}b\u{2029}", "a\u{FFFD}b\u{FFFD}"),
            ("\u{202E}evil\u{2066}", "\u{FFFD}evil\u{FFFD}"),
        ] {
            assert_eq!(clean(raw), shown);
        }
    }

    #[test]
    fn what_is_much_too_long_is_near_to_nothing() {
        let known = ["history", "me", "é"];
        assert_eq!(nearest("histroy", known.into_iter()), Some("history"));
        assert_eq!(nearest("histories", known.into_iter()), None);
        assert_eq!(nearest(&"h".repeat(4096), known.into_iter()), None);
    }

    #[test]
    fn the_rest_after_a_word_is_verbatim() {
        assert_eq!(split_word("bob  two blanks "), ("bob", " two blanks "));
        assert_eq!(split_word("bob\thi"), ("bob", "hi"));
        assert_eq!(split_word("bob"), ("bob", ""));
    }
}
