//! Non-ASCII names, by the Unicode security rules (UTS 39): letters and digits allowed in
//! identifiers, normalised to NFC, of a single script or a common mix, without invisible
//! characters; and confusable skeletons, also of ASCII names. This module does not know
//! the length limit or the reserved names.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;
use unicode_security::general_security_profile::GeneralSecurityProfile as _;
use unicode_security::restriction_level::RestrictionLevel;
use unicode_security::{RestrictionLevelDetection as _, skeleton};

use super::NameFault;

/// The maximum number of combining marks on a letter, from UTS 39. Vietnamese needs two,
/// Hindi three.
const MARKS_MAX: usize = 4;

/// Whether a name may begin with a character. A mark may not: it would combine with the
/// character displayed before the name.
pub(super) fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !is_combining_mark(c)
}

/// Whether a non-ASCII character may occur in a name, by the grammar.
pub(super) fn is_letter_or_mark(c: char) -> bool {
    c.is_alphanumeric() || is_combining_mark(c)
}

/// Folds the case of a text, including letters with several forms (`ς σ Σ`, `ß SS`).
pub(super) fn fold(text: &str) -> String {
    let lower = |text: &str| -> String {
        text.nfc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfc().collect()
    };
    // Composition can produce a letter that has another case again.
    lower(&lower(text))
}

/// Normalises and validates a text that matches the grammar of names.
///
/// # Errors
/// The text contains a character not allowed in names, or mixes scripts.
pub(super) fn normalise(text: &str) -> Result<Cow<'_, str>, NameFault> {
    let name: String = text.nfc().collect();
    let is_allowed = |c: char| c.is_ascii() || c.identifier_allowed();
    if !name.chars().all(is_allowed) || has_odd_marks(&name) {
        return Err(NameFault::Letters);
    }
    let level = name.as_str().detect_restriction_level();
    let is_mixed = level > RestrictionLevel::ModeratelyRestrictive
        || mixes_digits(&name)
        || (level > RestrictionLevel::SingleScript && has_foreign_mark(&name));
    if is_mixed || runs_both_ways(&name) {
        return Err(NameFault::Scripts);
    }
    Ok(if name == text { Cow::Borrowed(text) } else { Cow::Owned(name) })
}

/// Whether a name has marks that readers cannot see or count (UTS 39, 5.4): too many, a
/// repeated mark, or a dot on a letter that has one.
fn has_odd_marks(name: &str) -> bool {
    let (mut marks, mut before, mut has_dot) = (0, ' ', false);
    name.nfd().any(|c| {
        if !is_combining_mark(c) {
            (marks, before, has_dot) = (0, c, matches!(c, 'i' | 'j' | 'і' | 'ј'));
            return false;
        }
        marks += 1;
        let is_odd = marks > MARKS_MAX || c == before || (has_dot && c == '\u{307}');
        before = c;
        is_odd
    })
}

/// Whether a mark is on a letter of another script. Readers do not recognise it as a mark:
/// `alice` with a Devanagari visarga looks like `alice:`.
fn has_foreign_mark(name: &str) -> bool {
    let mut starts = name.char_indices().filter(|(_, c)| !is_combining_mark(*c)).map(|(at, _)| at);
    let mut start = starts.next().unwrap_or_default();
    starts.chain([name.len()]).any(|end| {
        let cluster = &name[std::mem::replace(&mut start, end)..end];
        let has_mark = cluster.chars().any(is_combining_mark);
        has_mark && cluster.detect_restriction_level() > RestrictionLevel::SingleScript
    })
}

/// Whether a name has digits of two scripts. Some look alike but have another value.
fn mixes_digits(name: &str) -> bool {
    // The ten digits of a script are in the same block of 16 code points.
    let mut rows = name.chars().filter(|c| c.is_numeric()).map(|c| u32::from(c) >> 4);
    let first = rows.next();
    rows.any(|row| Some(row) != first)
}

/// Whether a name mixes left-to-right and right-to-left letters. Their display order
/// would depend on the surrounding text.
fn runs_both_ways(name: &str) -> bool {
    let mut letters = name.chars().filter(|c| c.is_alphabetic());
    let is_first_rtl = letters.next().is_some_and(is_rtl);
    letters.any(|c| is_rtl(c) != is_first_rtl)
}

/// Whether a letter is in a block that Unicode reserves for right-to-left scripts.
fn is_rtl(c: char) -> bool {
    matches!(
        c,
        '\u{590}'..='\u{8FF}'
            | '\u{FB1D}'..='\u{FDFF}'
            | '\u{FE70}'..='\u{FEFF}'
            | '\u{10800}'..='\u{10FFF}'
            | '\u{1E800}'..='\u{1EFFF}'
    )
}

/// Returns the skeleton of a text (UTS 39): texts with the same skeleton are confusable.
/// Letters that look like a colon are dropped, since a colon follows the name on display.
pub(super) fn confusable_skeleton(text: &str) -> Cow<'_, str> {
    let is_own_skeleton =
        |b: u8| b.is_ascii_alphanumeric() && !b"01Im".contains(&b) || b"-._".contains(&b);
    if text.bytes().all(is_own_skeleton) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(skeleton(text).filter(|c| *c != ':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_skeletons_match_the_standard() {
        for byte in (b'!'..=b'~').filter(|b| b.is_ascii_alphanumeric() || b"-._".contains(b)) {
            let text = char::from(byte).to_string();
            let standard: String = skeleton(&text).collect();
            assert_eq!(confusable_skeleton(&text), standard, "{text}");
        }
    }

    #[test]
    fn folding_is_idempotent() {
        for c in ('\0'..=char::MAX).filter(|c| c.is_ascii() || is_letter_or_mark(*c)) {
            for text in [c.to_string(), format!("{c}\u{301}")] {
                let once = fold(&text);
                assert!(once == text || fold(&once) == once, "{}", c.escape_unicode());
            }
            if c.is_ascii() {
                assert_eq!(fold(&c.to_string()), c.to_ascii_lowercase().to_string());
            }
        }
    }
}
