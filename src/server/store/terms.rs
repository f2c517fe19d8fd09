//! What `/search` compares: the terms of a query, whether a text contains them, and
//! the entries of an index by which such texts are found.
//!
//! A text matches if it contains every word. Where words are not delimited by
//! spaces ([`words::is_found_inside`]) it has to contain the letters of the query
//! next to each other, anywhere. The index knows single letters of these scripts
//! and adjacent pairs; it may propose a text with all pairs of a query in different
//! places, which [`SearchTerms::are_in`] then rejects.

use std::mem;

use crate::protocol::text::is_blank;
use crate::protocol::words;

/// The character behind the beginning of a word, which no word contains.
const PREFIX: char = '*';

/// The search terms of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchTerms {
    /// Words that must match a whole word. Sorted, without duplicates.
    words: Vec<String>,
    /// Sequences of letters that match anywhere in a word. Sorted, without duplicates.
    sequences: Vec<String>,
    /// Beginnings of words, each with a `*` behind it. Sorted, without duplicates. The index does
    /// not know them, so only the texts that have the other terms are compared.
    prefixes: Vec<String>,
}

impl SearchTerms {
    /// Parses the words of a query typed by a user. A `*` at the end of a word makes it the
    /// beginning of a word.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut terms = Vec::new();
        for word in text.split(is_blank) {
            let first = terms.len();
            terms.extend(words::split(&words::fold(word)).map(str::to_owned));
            if let Some(last) = terms[first..].last_mut()
                && word.ends_with(PREFIX)
            {
                last.push(PREFIX);
            }
        }
        Self::of(terms)
    }

    /// Creates the terms from [`SearchTerms::iter`] of others. An empty one has no effect.
    #[must_use]
    pub fn of(mut terms: Vec<String>) -> Self {
        for term in &mut terms {
            if is_sequence(term) && term.ends_with(PREFIX) {
                term.pop(); // matches anywhere in any case
            }
        }
        terms.retain(|term| !term.is_empty());
        terms.sort_unstable();
        terms.dedup();
        let (sequences, terms): (_, Vec<String>) =
            terms.into_iter().partition(|term| is_sequence(term));
        let (prefixes, words) = terms.into_iter().partition(|term| term.ends_with(PREFIX));
        Self { words, sequences, prefixes }
    }

    /// Returns all terms.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.words.iter().chain(&self.sequences).chain(&self.prefixes).map(String::as_str)
    }

    /// Returns whether the query has no terms.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Returns whether a text contains all terms.
    #[must_use]
    pub fn are_in(&self, text: &str) -> bool {
        let folded = words::fold(text);
        self.has_sequences(&folded) && self.has_words(&folded) && self.has_prefixes(&folded)
    }

    fn has_sequences(&self, folded: &str) -> bool {
        self.sequences.iter().all(|sequence| contains(folded, sequence))
    }

    fn has_prefixes(&self, folded: &str) -> bool {
        self.prefixes.iter().all(|prefix| {
            let prefix = prefix.trim_end_matches(PREFIX);
            words::split(folded).any(|word| word.starts_with(prefix))
        })
    }

    /// Scans the text once, however many words are searched for.
    fn has_words(&self, folded: &str) -> bool {
        let wanted = &self.words;
        let (mut found, mut missing) = (vec![false; wanted.len()], wanted.len());
        let mut said = words::split(folded);
        while missing > 0 {
            let Some(word) = said.next() else { return false };
            if let Ok(at) = wanted.binary_search_by(|wanted| (**wanted).cmp(word))
                && !mem::replace(&mut found[at], true)
            {
                missing -= 1;
            }
        }
        true
    }

    /// Returns index entries that every text with these terms has (see [`for_each_entry`]).
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        let of_sequence = |sequence| {
            let alone = words::clusters(sequence).nth(1).is_none();
            pairs(sequence).chain(alone.then_some(sequence))
        };
        let sequences = self.sequences.iter().map(String::as_str);
        self.words.iter().map(String::as_str).chain(sequences.flat_map(of_sequence))
    }
}

/// Calls `add` with each index entry of a text.
pub fn for_each_entry(text: &str, mut add: impl FnMut(&str)) {
    for word in words::split(&words::fold(text)) {
        if is_sequence(word) {
            words::clusters(word).for_each(&mut add);
            pairs(word).for_each(&mut add);
        } else {
            add(word);
        }
    }
}

fn is_sequence(word: &str) -> bool {
    word.starts_with(words::is_found_inside)
}

/// Returns whether a text contains a sequence. Since a sequence begins with a letter, only its
/// last letter can be continued in the text by a mark that makes it a different letter.
fn contains(folded: &str, sequence: &str) -> bool {
    let first = sequence.chars().next().map_or(1, char::len_utf8);
    let mut rest = folded;
    while let Some(at) = rest.find(sequence) {
        if !rest[at + sequence.len()..].starts_with(words::is_mark) {
            return true;
        }
        rest = &rest[at + first..]; // the next occurrence may overlap
    }
    false
}

/// Returns every pair of adjacent letters.
fn pairs(sequence: &str) -> impl Iterator<Item = &str> {
    let mut start = 0;
    let lengths = words::clusters(sequence).map(str::len);
    let next = words::clusters(sequence).skip(1).map(str::len);
    lengths.zip(next).map(move |(first, second)| {
        let pair = &sequence[start..start + first + second];
        start += first;
        pair
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_matches_if_it_contains_all_words() {
        for (text, query, expected) in [
            ("Deploy of build-128", "128 deploy", true),
            ("deploy deploy", "128 deploy", false),
            ("128 128 deploy", "deploy 128", true),
            ("deployed", "deploy", false),
            ("", "deploy", false),
            ("anything", "", true),
            ("je l’ai cafe\u{301}", "CAFÉ", true),
            ("Straße", "STRASSE", true),
            ("Straßen", "STRASSE", false),
            ("हिन्दी में", "हिन्दी", true),
            ("हिन्दी में", "ह", false),
            // The beginning of a word.
            ("the deployment failed", "deploy*", true),
            ("the deployment failed", "ploy*", false),
            ("the deployment failed", "Deploy* fail*", true),
            ("the deployment failed", "deploy* pass*", false),
            ("build-128", "build-12*", true),
            ("build-128", "buil-12*", false),
            ("build", "build*", true),
            ("anything", "*", true),
            ("我在北京大学", "北京*", true),
            // Adjacent, in order, anywhere in a sequence.
            ("我在北京大学", "北京", true),
            ("我在北京大学", "大学 北京", true),
            ("我在北京大学", "北大", false),
            ("京北", "北京", false),
            ("北 京", "北京", false),
            ("北京", "京", true),
            ("今日はrust", "日は rust", true),
            ("อยากกินข้าวผัดวันนี้", "ข้าวผัด", true),
            ("อยากกินข้าวผัดวันนี้", "ข", false), // the letter without its mark
            ("ข้า ข ค", "ข", true),
            ("ພາສາລາວ", "ລາວ", true),
            ("ភាសាខ្មែរ", "ខ្មែរ", true),
            ("မြန်မာစာ", "မာစာ", true),
            ("བོད་སྐད་", "སྐད", true),
            ("회의에서", "회의", true),
            ("회의에서", "\u{1112}\u{116c}\u{110b}\u{1174}", true),
            ("ｶﾞﾗｽの", "ガラス", true),
            // Pairs alone would be found in the wrong places.
            ("甲乙 乙丙", "甲乙丙", false),
            ("丙甲乙。乙丙", "甲乙丙", false),
            ("ကိကာကိ", "ကိက", false),
            ("ကိကာကိက", "ကိက", true),
            ("က\u{102d}က\u{102d}က", "ကိက", true), // where occurrences overlap
        ] {
            assert_eq!(SearchTerms::parse(query).are_in(text), expected, "{query} in {text}");
        }
    }

    #[test]
    fn index_proposes_every_text_that_matches() {
        let words = |text: &str| {
            let mut entries = Vec::new();
            for_each_entry(text, |entry| entries.push(entry.to_owned()));
            entries.join(" ")
        };
        assert_eq!(words("在北京 now"), "在 北 京 在北 北京 now");
        let query = SearchTerms::parse("Now 北京大 大");
        assert_eq!(query.entries().collect::<Vec<_>>(), ["now", "北京", "京大", "大"]);
        assert!(SearchTerms::parse("?! \u{301}").is_empty());
    }
}
