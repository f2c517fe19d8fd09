//! Word segmentation for `/search` and the client's mentions: normalisation, case folding and
//! splitting, the same for every script. This module does not know what is searched.
//!
//! A text is folded with [`fold`], then split with [`split`]. Both depend only on the text
//! between two ASCII separators, so a word gives the same result alone and in a sentence.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Folds a text so that all spellings of a word are equal: NFKC with
/// full case folding (`ß` is `ss`, `ς` is `σ`, `ﬁ` is `fi`, `Ａ` is `a`), without
/// characters that are not displayed (soft hyphen, joiners, variation selectors).
/// Accents stay: `é` is not `e`.
///
/// Two deliberate differences from Unicode's `NFKC_Casefold`: every Turkic and
/// Lithuanian i is `i`, and letters that serve as an apostrophe become `'`.
#[must_use]
pub fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Cow::Owned(text.to_ascii_lowercase());
        }
        return Cow::Borrowed(text); // fast path for most lines
    }
    let mut folded = String::with_capacity(text.len());
    // No word contains an ASCII separator, so words are folded separately and ASCII words
    // take the fast path.
    for part in text.split_inclusive(|c: char| c.is_ascii() && !c.is_ascii_alphanumeric()) {
        if part.is_ascii() {
            folded.extend(part.chars().map(|c| c.to_ascii_lowercase()));
        } else {
            fold_unicode(part, &mut folded);
        }
    }
    Cow::Owned(folded)
}

fn fold_unicode(part: &str, folded: &mut String) {
    let mut base = ' ';
    let lower_case = part
        .nfkd()
        .filter(|c| !is_ignored(*c))
        // `ẞ` needs its lower case to become `ß`, which needs its upper case to become `SS`.
        .flat_map(char::to_lowercase)
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .map(|c| if is_apostrophe(c) { '\'' } else { c })
        // `İ` decomposes to `i` and a dot above, which is redundant.
        .filter(|c| {
            let is_dot_again = *c == '\u{307}' && matches!(base, 'i' | 'j');
            if !is_mark(*c) {
                base = *c;
            }
            !is_dot_again
        });
    folded.extend(lower_case.nfc());
}

/// Splits a folded text into words: letters and digits with their marks. A sequence of
/// letters of [scripts without spaces](is_found_inside) is a single item, even if it
/// contains several words.
pub fn split(folded: &str) -> impl Iterator<Item = &str> {
    let mut rest = folded;
    std::iter::from_fn(move || {
        let start = rest.find(|c: char| c.is_alphanumeric() && !is_mark(c))?;
        rest = &rest[start..];
        let kind = rest.starts_with(is_found_inside);
        let belongs = |c: char| is_mark(c) || (c.is_alphanumeric() && is_found_inside(c) == kind);
        let end = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        Some(word)
    })
}

/// Splits a word into letters, each with its marks.
pub fn clusters(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?.len_utf8();
        let end = rest[first..].find(|c| !is_mark(c)).map_or(rest.len(), |at| first + at);
        let (cluster, behind) = rest.split_at(end);
        rest = behind;
        Some(cluster)
    })
}

/// Whether a character is a combining mark, part of the letter before it.
#[must_use]
pub fn is_mark(c: char) -> bool {
    c >= '\u{300}' && is_combining_mark(c)
}

/// Whether a search finds words with this letter inside longer sequences: scripts
/// written without spaces, and Korean, where particles follow a noun directly.
#[must_use]
pub fn is_found_inside(c: char) -> bool {
    is_unspaced(c) || is_hangul(c)
}

/// Whether a letter or mark belongs to a script written without spaces between words.
/// The blocks are those of Unicode's line breaking classes SA and ID, which break by
/// dictionary or anywhere, and related scripts.
#[must_use]
pub fn is_unspaced(c: char) -> bool {
    c >= '\u{E00}'
        && matches!(
            c,
            '\u{E00}'..='\u{109F}' // Thai, Lao, Tibetan, Myanmar
                | '\u{1780}'..='\u{17FF}' // Khmer
                | '\u{1950}'..='\u{19FF}' // Tai Le, New Tai Lue
                | '\u{1A20}'..='\u{1AAF}' // Tai Tham
                | '\u{1B00}'..='\u{1B7F}' // Balinese
                | '\u{2E80}'..='\u{312F}' // radicals, kana, Bopomofo
                | '\u{3190}'..='\u{A4CF}' // Han, Yi
                | '\u{A980}'..='\u{A9FF}' // Javanese, Myanmar
                | '\u{AA60}'..='\u{AADF}' // Myanmar, Tai Viet
                | '\u{F900}'..='\u{FAFF}' // Han
                | '\u{116D0}'..='\u{116FF}' // Myanmar
                | '\u{11700}'..='\u{1174F}' // Ahom
                | '\u{16FE0}'..='\u{18DFF}' // Tangut, Khitan
                | '\u{1AFF0}'..='\u{1B2FF}' // kana, Nushu
                | '\u{20000}'..='\u{3FFFF}' // Han
        )
}

/// Whether a letter is Korean: a Hangul syllable or jamo.
#[must_use]
pub fn is_hangul(c: char) -> bool {
    matches!(
        c,
        '\u{1100}'..='\u{11FF}'
            | '\u{3130}'..='\u{318F}'
            | '\u{A960}'..='\u{A97F}'
            | '\u{AC00}'..='\u{D7FF}'
    )
}

/// Whether a character is a letter in Unicode but used as an apostrophe: `м’ята` is also
/// typed with U+02BC.
fn is_apostrophe(c: char) -> bool {
    matches!(c, '\u{2BB}' | '\u{2BC}')
}

/// Whether folding drops a character: `Default_Ignorable_Code_Point`, and enclosing marks
/// as in the keycap `1️⃣`.
fn is_ignored(c: char) -> bool {
    matches!(
        c,
        '\u{AD}'
            | '\u{34F}'
            | '\u{61C}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{20DD}'..='\u{20E0}'
            | '\u{20E2}'..='\u{20E4}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{FFF0}'..='\u{FFF8}'
            | '\u{1BCA0}'..='\u{1BCA3}'
            | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        split(&fold(text)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_are_letters_and_digits_with_their_marks() {
        for (text, expected) in [
            ("Deploy failed: build-128!", "deploy failed build 128"),
            ("\"quoted\" AND NOT near(x*)", "quoted and not near x"),
            ("ÄPFEL Café", "äpfel café"),
            ("Привет, МИР", "привет мир"),
            ("?! 👩‍💻 --", ""),
            ("", ""),
            ("_under_ dotted.name", "under dotted name"),
            // A sequence of an unspaced script is a single item; digits and Latin end it.
            ("今日はrust 1.0です", "今日は rust 1 0 です"),
            ("alice请看bob", "alice 请看 bob"),
            ("เรากินข้าว มา", "เรากินข้าว มา"),
            ("第3章", "第 3 章"),
            ("ラーメン、スープ", "ラーメン スープ"),
            ("회의에서 alice님", "회의에서 alice 님"),
            // Marks do not end a word and are not words.
            ("हिन्दी में", "हिन्दी में"),
            ("שָׁלוֹם", "שָׁלוֹם"),
            ("مُحَمَّد", "مُحَمَّد"),
            (" \u{301} <\u{338}x", "x"),
            // Apostrophes of every kind end a word.
            ("don't don’t donʼt l'eau", "don t don t don t l eau"),
        ] {
            let expected: String = expected.nfc().collect();
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn spellings_of_a_word_fold_to_the_same() {
        for spellings in [
            &["café", "cafe\u{301}", "CAFÉ", "CAFE\u{301}", "ｃａｆé"][..],
            &["straße", "STRASSE", "strasse", "STRAẞE", "Straße"],
            &["ὀδυσσεύς", "ὈΔΥΣΣΕΎΣ", "ὀδυσσεύσ"],
            &["file", "ﬁle", "FILE", "ＦＩＬＥ", "fi\u{ad}le", "fi\u{200d}le", "fi\u{2060}le"],
            &["istanbul", "İstanbul", "ISTANBUL", "i\u{307}stanbul", "I\u{307}STANBUL", "ıstanbul"],
            &["ガス", "ｶﾞｽ", "カ\u{3099}ス"],
            &["ハング", "ﾊﾝｸﾞ"],
            &["한글", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}"],
            &["株式会社", "㍿"],
            &["123", "１２３", "¹²³", "①②③", "1\u{fe0f}\u{20e3}2\u{fe0f}\u{20e3}3"],
            &["می‌خواهم", "میخواهم"],
            &["क्‍ष", "क्ष"],
            &["м'ята", "М’ЯТА", "мʼята"],
            &["ภาษา\u{200b}ไทย", "ภาษาไทย"],
            &["น้ำ", "น้\u{e4d}\u{e32}"],
            &["ჩატი", "ᲩᲐᲢᲘ"],
            &["葛\u{e0100}", "葛"],
            &["ŉ", "ʼn", "'N"],
        ] {
            for spelling in spellings {
                assert_eq!(words(spelling), words(spellings[0]), "{spelling} {}", spellings[0]);
            }
        }
        for (one, other) in [("ё", "е"), ("é", "e"), ("й", "и"), ("か", "が"), ("カ", "か")]
        {
            assert_ne!(words(one), words(other));
        }
    }

    #[test]
    fn case_and_normal_form_of_every_character_fold_to_the_same() {
        // Unicode defines case mapping on text in canonical order, which is that of NFD.
        let upper = |text: &str| text.nfd().flat_map(char::to_uppercase).collect::<String>();
        let lower = |text: &str| text.nfd().flat_map(char::to_lowercase).collect::<String>();
        let has_case = |c: char| !c.to_lowercase().eq([c]) || !c.to_uppercase().eq([c]);
        for c in '\0'..=char::MAX {
            let texts = if has_case(c) || is_mark(c) {
                vec![format!("{c}"), format!("{c}\u{301}"), format!("{c}\u{345}")]
            } else if c.is_alphanumeric() && !std::iter::once(c).nfkd().eq([c]) {
                vec![format!("{c}")]
            } else {
                continue; // has a single form
            };
            for text in texts {
                let folded = fold(&text);
                for other in [
                    folded.to_string(),
                    upper(&text),
                    lower(&text),
                    text.nfc().collect(),
                    text.nfd().collect(),
                    text.nfkc().collect(),
                    text.nfkd().collect(),
                ] {
                    assert_eq!(fold(&other), folded, "{}", text.escape_unicode());
                }
            }
        }
    }

    #[test]
    fn words_do_not_depend_on_surrounding_text() {
        let parts = ["Straße", "\u{301}a", "ｶﾞ", "請看", "한", "<\u{338}", "i\u{307}", "กำ", "x"];
        for (one, other) in parts.iter().flat_map(|one| parts.map(|other| (one, other))) {
            let apart = [words(one), words(other)].join(" ");
            let apart = apart.trim();
            for separator in [" ", "\t", ", ", "'", "<", "-"] {
                assert_eq!(
                    words(&[one, separator, other].concat()),
                    apart,
                    "{one}{separator}{other}"
                );
            }
        }
    }

    #[test]
    fn cluster_is_a_letter_with_its_marks() {
        for (word, expected) in [
            ("北京", "北 京"),
            ("กี่ครั้ง", "กี่ ค รั้ ง"),
            ("ខ្មែរ", "ខ្ មែ រ"),
            ("မြန်မာ", "မြ န် မာ"),
            ("བོད", "བོ ད"),
            ("", ""),
        ] {
            assert_eq!(clusters(word).collect::<Vec<_>>().join(" "), expected);
            assert_eq!(clusters(word).collect::<String>(), word);
        }
    }
}
