//! Message text: forbidden characters, blanks, words and similar words. This module does not
//! know what a text is for.

use std::borrow::Cow;

/// The replacement of a forbidden character: visible, harmless, one column wide.
pub const REPLACEMENT: char = '\u{FFFD}';

/// Whether a character is never stored, sent or shown: control characters (C0 except TAB,
/// DEL, C1), line separators, and bidirectional overrides. This keeps escape sequences
/// away from every reader's terminal.
#[must_use]
pub fn is_forbidden(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Replaces every forbidden character by [`REPLACEMENT`].
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    // Fast path for nearly every line, ASCII without control characters. The loop has no
    // early exit so that the compiler can vectorise it.
    if !text.bytes().fold(false, |is_odd, b| is_odd | !(0x20..0x7f).contains(&b)) {
        return Cow::Borrowed(text);
    }
    if text.contains(is_forbidden) {
        return Cow::Owned(text.replace(is_forbidden, "\u{FFFD}"));
    }
    Cow::Borrowed(text)
}

/// Whether a character separates words.
#[must_use]
pub fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// Whether a character looks blank or is invisible: white space of any script, Unicode's
/// default ignorable characters, and [`REPLACEMENT`], which stands for control characters.
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

/// Whether a text is empty or consists of white space of any script.
#[must_use]
pub fn is_blank_text(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// Splits a text at its first blank into the first word and the rest, verbatim.
#[must_use]
pub fn split_word(text: &str) -> (&str, &str) {
    match memchr::memchr2(b' ', b'\t', text.as_bytes()) {
        Some(at) => (&text[..at], &text[at + 1..]), // a blank is one byte
        None => (text, ""),
    }
}

/// Returns the most similar known word by Damerau–Levenshtein distance: at most 1 for words
/// of 2 to 5 letters, at most 2 for longer ones.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let max_distance = |known: &str| match known.len() {
        0..2 => 0,
        2..6 => 1,
        _ => 2,
    };
    let len = word.chars().count();
    known
        // The difference in length is a lower bound of the distance. The filter avoids
        // comparing a very long word with every known one.
        .filter(|known| len.abs_diff(known.len()) <= max_distance(known))
        .map(|known| (strsim::damerau_levenshtein(&word, known), known))
        .filter(|(distance, known)| *distance <= max_distance(known))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_overrides_are_replaced() {
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
    fn very_long_word_has_no_similar_word() {
        let known = ["history", "me", "é"];
        assert_eq!(nearest("histroy", known.into_iter()), Some("history"));
        assert_eq!(nearest("histories", known.into_iter()), None);
        assert_eq!(nearest(&"h".repeat(4096), known.into_iter()), None);
    }

    #[test]
    fn split_word_returns_the_rest_verbatim() {
        assert_eq!(split_word("bob  two blanks "), ("bob", " two blanks "));
        assert_eq!(split_word("bob\thi"), ("bob", "hi"));
        assert_eq!(split_word("bob"), ("bob", ""));
    }
}
