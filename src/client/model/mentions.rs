//! Mentions: whether a text contains the user's name or one of the highlighted words. It knows
//! nothing of how a mention is shown.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::protocol::name::is_name_char;
use crate::protocol::words;

/// The highlighted words besides the user's name.
#[derive(Debug, Clone, Default)]
pub(in crate::client) struct Highlights(Arc<[Vec<String>]>);

impl Highlights {
    pub(in crate::client) fn new(phrases: &[String]) -> Self {
        // A phrase without words would match every text.
        Self(phrases.iter().map(|text| phrase(text)).filter(|words| !words.is_empty()).collect())
    }

    /// Whether a text mentions the user who has the name `me`.
    pub(in crate::client) fn is_mention(&self, text: &str, me: &str) -> bool {
        let text = Text::new(text);
        text.names(me) || self.0.iter().any(|words| text.contains(words))
    }
}

impl fmt::Display for Highlights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phrases: Vec<String> = self.0.iter().map(|words| words.join(" ")).collect();
        f.write_str(&phrases.join(", "))
    }
}

/// Returns the words of a phrase, folded.
fn phrase(text: &str) -> Vec<String> {
    let text = words::fold(text);
    // A trailing full stop is punctuation, not part of the word.
    let words = text.split(|c| !is_name_char(c)).map(|word| word.trim_end_matches('.'));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A text that is searched for names, in any spelling that [`words::fold`] makes equal.
///
/// Only whole words match: `malice` does not contain `alice`. In scripts without spaces between
/// words, a name matches anywhere (`请李雷看` contains `李雷`), and Korean particles may follow
/// a Korean name (`철수야`). Such scripts also delimit words of other scripts (`请alice看`,
/// `alice님`).
pub(in crate::client) struct Text<'t>(Cow<'t, str>);

impl<'t> Text<'t> {
    pub(in crate::client) fn new(text: &'t str) -> Self {
        Self(words::fold(text))
    }

    pub(in crate::client) fn names(&self, name: &str) -> bool {
        self.contains(&[words::fold(name)])
    }

    /// Whether the text contains these words in sequence.
    fn contains(&self, phrase: &[impl AsRef<str>]) -> bool {
        let Some((first, others)) = phrase.split_first() else { return false };
        let mut from = 0;
        while from < self.0.len()
            && let Some(at) = self.0[from..].find(first.as_ref())
        {
            let at = from + at;
            let end = self.word_at(at, first.as_ref()).and_then(|end| {
                others.iter().try_fold(end, |end, word| self.word_behind(end, word.as_ref()))
            });
            if end.is_some() {
                return true;
            }
            from = self.0.ceil_char_boundary(at + 1);
        }
        false
    }

    /// Returns the end of a word that follows `end` with only punctuation between them.
    fn word_behind(&self, end: usize, word: &str) -> Option<usize> {
        let rest = &self.0[end..];
        let gap = rest.find(|c| c != '.' && is_name_char(c)).unwrap_or(rest.len());
        let mut starts = (0..=gap).filter(|at| rest.is_char_boundary(*at));
        starts.find_map(|at| self.word_at(end + at, word))
    }

    /// Returns the end of the word at this offset, if it is there as a whole word.
    fn word_at(&self, at: usize, word: &str) -> Option<usize> {
        let (before, rest) = self.0.split_at(at);
        let behind = rest.strip_prefix(word)?;
        let (first, last) = (word.chars().next()?, word.chars().next_back()?);
        let is_whole = can_start(before, first) && can_end(last, behind);
        is_whole.then_some(at + word.len())
    }
}

/// Whether a word that begins with `first` can start after this text.
pub(in crate::client) fn can_start(before: &str, first: char) -> bool {
    let Some(before) = before.chars().next_back() else { return true };
    !is_name_char(before)
        || words::is_unspaced(before)
        || words::is_unspaced(first)
        || (words::is_hangul(before) && !words::is_hangul(first))
}

/// Whether a word that ends with `last` can end before this text.
fn can_end(last: char, behind: &str) -> bool {
    if behind.starts_with(words::is_mark) {
        return false; // a combining mark makes the last letter a different one
    }
    if words::is_unspaced(last) || (words::is_hangul(last) && behind.starts_with(words::is_hangul))
    {
        return true;
    }
    // A full stop after the word is punctuation.
    let next = behind.trim_start_matches('.').chars().next();
    next.is_none_or(|next| !is_name_char(next) || words::is_found_inside(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_found_as_a_whole_word() {
        let nothing = Highlights::default();
        for (name, texts, others) in [
            (
                "alice",
                &[
                    "alice: ping",
                    "hi Alice.",
                    "hi alice...",
                    "(alice)",
                    "@alice",
                    "ALICE",
                    "alice's turn",
                    "alice’s turn",
                    "aliceʼs turn",
                    "malice alice",
                    "＠ａｌｉｃｅ",
                    "al\u{ad}ice",
                    "alice、",
                    "@alice、",
                    "alice请看",
                    "请alice看",
                    "请@alice看",
                    "alice님",
                    "alice는 어디",
                    "안녕alice",
                    "สวัสดีalice",
                    "aliceさん",
                    "alice.请看",
                ][..],
                &[
                    "malice",
                    "alices",
                    "alice2",
                    "alice-b",
                    "alice_b",
                    "alice.b",
                    "alice\u{301}",
                    "",
                ][..],
            ),
            ("зоя", &["привет, Зоя!", "ЗОЯ"], &["Зоями", "азоя"]),
            ("αθηνά", &["ΑΘΗΝΆ;", "αθηνα\u{301}"], &["αθηνάς"]),
            ("Zoë", &["zoe\u{308}: hi", "ZOË", "ZOE\u{308}!"], &["zoe", "zoe\u{301}", "zoës"]),
            ("zoe", &["Zoe"], &["zoe\u{308}", "zoë"]),
            ("straße", &["STRASSE", "Straße!"], &["straßen"]),
            ("İlker", &["i̇lker", "İLKER", "ilker"], &["ilkerim"]),
            ("राम", &["राम जी", "@राम"], &["रामायण", "रामा", "श्रीराम"]),
            ("محمد", &["يا محمد!", "محمد،"], &["محمدي", "مُحَمَّد"]),
            ("שרה", &["שרה, בואי"], &["ושרה", "שרהל"]),
            (
                "李雷",
                &[
                    "请李雷看一下",
                    "李雷",
                    "＠李雷",
                    "@李雷：",
                    "hi李雷",
                    "李雷ok",
                    "李雷、",
                    "问李雷。",
                    "李雷3点来",
                ],
                &["李", "雷李", "李 雷", "李x雷"],
            ),
            ("やまだ", &["やまださん", "あのやまだは"], &["やま", "ヤマダ"]),
            ("ガス", &["ｶﾞｽさん", "カ\u{3099}ス"], &["カス", "ガ"]),
            ("カス", &["カスと"], &["ガス", "カス\u{3099}"]),
            ("สมชาย", &["คุณสมชายครับ", "สมชาย"], &["สมช", "สมชา"]),
            ("สม", &["คุณสมนะ"], &["คุณสม\u{e34}นะ"]),
            ("ສົມ", &["ທ່ານສົມມາ"], &["ສົ"]),
            ("សុខា", &["លោកសុខាមក"], &["សុខ"]),
            ("အောင်", &["ကိုအောင်လာ"], &["အော"]),
            (
                "철수",
                &[
                    "철수야",
                    "철수가 왔다",
                    "철수님",
                    "철수, 안녕",
                    "@철수",
                    "\u{110e}\u{1165}\u{11af}\u{1109}\u{116e}야",
                    "请철수看",
                ],
                &["김철수", "철", "철수2", "수철수", "bob철수"],
            ),
            ("李Lei", &["请李Lei看", "李lei"], &["李Leila", "李Lei2"]),
            ("O'Neil", &["oʼneil"], &[]),
            ("", &[], &["", "x", "李"]),
        ] {
            for text in texts {
                assert!(nothing.is_mention(text, name), "{text} calls {name}");
            }
            for text in others {
                assert!(!nothing.is_mention(text, name), "{text} does not call {name}");
            }
        }
    }

    #[test]
    fn highlighted_words_are_mentions() {
        let words = ["deploy", "on call", " ", "值班", "数据库 down", "Straße", "장애", "use .net"];
        let words = Highlights::new(&words.map(str::to_owned));
        for (text, is_it) in [
            ("alice", true),
            ("the Deploy is done", true),
            ("who is on call?", true),
            ("who is On (CALL)?", true),
            ("on. call", true),
            ("turn on call on me, on call", true),
            ("on on call", true),
            ("call on me", false),
            ("on a call", false),
            ("on called", false),
            ("oncall", false),
            ("deployed", false),
            ("on", false),
            ("", false),
            ("今天谁值班？", true),
            ("值 班", false),
            ("the数据库down了", true),
            ("数据库 is down", false),
            ("STRASSE", true),
            ("장애가 났다", true),
            ("use .net", true),
            ("use net", false),
        ] {
            assert_eq!(words.is_mention(text, "alice"), is_it, "{text}");
        }
    }
}
