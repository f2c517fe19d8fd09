//! Names beyond ASCII, by the security rules of Unicode (UTS 39): letters and
//! digits that are meant for names, normalised (NFC), of one script or a usual
//! mix, nothing that cannot be seen. ASCII names never come here but to be
//! compared by their looks.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;
use unicode_security::general_security_profile::GeneralSecurityProfile as _;
use unicode_security::restriction_level::RestrictionLevel;
use unicode_security::{RestrictionLevelDetection as _, skeleton};

use super::NameFault;

/// How many marks may stand on one letter, as UTS 39 has it: Vietnamese needs two,
/// Hindi three.
const MARKS_MAX: usize = 4;

/// Whether a name may begin with a character. A mark would stand on whatever is
/// shown before the name.
pub(super) fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !is_combining_mark(c)
}

/// Whether a character beyond ASCII may stand in a name, as far as reading a line
/// needs to know.
pub(super) fn is_letter_or_mark(c: char) -> bool {
    c.is_alphanumeric() || is_combining_mark(c)
}

/// Both cases of a letter become one, also where one has several forms (`ς σ Σ`,
/// `ß SS`).
pub(super) fn fold(text: &str) -> String {
    let lower = |text: &str| -> String {
        text.nfc().flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfc().collect()
    };
    // Composed anew, a letter may have another case still.
    lower(&lower(text))
}

/// The name as it is kept, of a text that has the form of one.
pub(super) fn normalise(text: &str) -> Result<Cow<'_, str>, NameFault> {
    let name: String = text.nfc().collect();
    let is_meant_for_names = |c: char| c.is_ascii() || c.identifier_allowed();
    if !name.chars().all(is_meant_for_names) || has_odd_marks(&name) {
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

/// Marks that nobody sees or can count (UTS 39, 5.4): too many, the same again, a
/// dot on what has one.
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

/// A mark on a letter of another script is not read as one: `alice` with a Devanagari
/// visarga behind it passes for `alice:`.
fn has_foreign_mark(name: &str) -> bool {
    let mut starts = name.char_indices().filter(|(_, c)| !is_combining_mark(*c)).map(|(at, _)| at);
    let mut start = starts.next().unwrap_or_default();
    starts.chain([name.len()]).any(|end| {
        let cluster = &name[std::mem::replace(&mut start, end)..end];
        let has_mark = cluster.chars().any(is_combining_mark);
        has_mark && cluster.detect_restriction_level() > RestrictionLevel::SingleScript
    })
}

/// Digits of two scripts: some look alike and count for another number.
fn mixes_digits(name: &str) -> bool {
    // The ten digits of a script stand in one row of sixteen.
    let mut rows = name.chars().filter(|c| c.is_numeric()).map(|c| u32::from(c) >> 4);
    let first = rows.next();
    rows.any(|row| Some(row) != first)
}

/// Letters from left to right beside such from right to left are shown in an order
/// that depends on what stands around them.
fn runs_both_ways(name: &str) -> bool {
    let mut letters = name.chars().filter(|c| c.is_alphabetic());
    let is_first_rtl = letters.next().is_some_and(is_rtl);
    letters.any(|c| is_rtl(c) != is_first_rtl)
}

/// Whether a letter is of a script written from right to left: Unicode keeps
/// these blocks for them.
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

/// What a text looks like: two that have the same look are taken for each other. What
/// looks like the colon behind a name makes no difference.
pub(super) fn confusable_skeleton(text: &str) -> Cow<'_, str> {
    let is_its_own =
        |b: u8| b.is_ascii_alphanumeric() && !b"01Im".contains(&b) || b"-._".contains(&b);
    if text.bytes().all(is_its_own) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(skeleton(text).filter(|c| *c != ':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_looks_are_those_of_the_standard() {
        for byte in (b'!'..=b'~').filter(|b| b.is_ascii_alphanumeric() || b"-._".contains(b)) {
            let text = char::from(byte).to_string();
            let standard: String = skeleton(&text).collect();
            assert_eq!(confusable_skeleton(&text), standard, "{text}");
        }
    }

    #[test]
    fn folding_twice_changes_nothing() {
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
