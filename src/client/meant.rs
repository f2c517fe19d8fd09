//! Whether a text means me: it says my name, or a word that I wish to be told of.

use std::sync::Arc;

use crate::protocol::Key;
use crate::protocol::name::is_name_char;

/// The words besides my name, as one wishes.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchwords(Arc<[Vec<Key>]>);

impl Watchwords {
    pub(super) fn new(words: &[String]) -> Self {
        // Nobody can be called by a text without a word.
        Self(words.iter().map(|text| words_of(text)).filter(|words| !words.is_empty()).collect())
    }

    /// Whether a text means whoever has the name `me`. Only whole words count, in
    /// any case: `malice` is nobody's name.
    pub(super) fn mean(&self, text: &str, me: &str) -> bool {
        let said = words_of(text);
        said.contains(&Key::fold(me))
            || self.0.iter().any(|words| said.windows(words.len()).any(|part| part == &words[..]))
    }
}

/// The words of a text that could be names.
pub(super) fn words_of(text: &str) -> Vec<Key> {
    // A full stop belongs to the sentence.
    let words = text.split(|c| !is_name_char(c)).map(|word| word.trim_end_matches('.'));
    words.filter(|word| !word.is_empty()).map(Key::fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_word_means_me() {
        let nothing = Watchwords::default();
        for (text, is_it) in [
            ("alice: ping", true),
            ("hi Alice.", true),
            ("(alice)", true),
            ("@alice", true),
            ("malice", false),
            ("alice2 alice-b", false),
            ("", false),
        ] {
            assert_eq!(nothing.mean(text, "alice"), is_it, "{text}");
        }
        assert!(nothing.mean("привет, Зоя!", "зоя") && !nothing.mean("Зоями", "зоя"));
    }

    #[test]
    fn other_words_mean_me_if_i_say_so() {
        let words = ["deploy", "on call", " "].map(str::to_owned);
        let words = Watchwords::new(&words);
        for (text, is_it) in [
            ("alice", true),
            ("the Deploy is done", true),
            ("who is on call?", true),
            ("call on me", false),
            ("deployed", false),
            ("on", false),
            ("", false),
        ] {
            assert_eq!(words.mean(text, "alice"), is_it, "{text}");
        }
    }
}
