//! Names of users and rooms. A value of these types has been validated, so the rest of the
//! code does not check names again and cannot write an invalid one to the wire. Names in
//! ASCII take a fast path; `letters.rs` has the rules for all others. This module does not
//! know which names are in use.

use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod letters;

/// The name of the room that every user joins at login. Its lines carry no room prefix.
pub const LOBBY: &str = "lobby";

/// Precedes the name of a program that posts without a login. No name begins with it.
pub const LABEL: char = '+';

/// Whether a text is the label of a program: `+alerts`.
#[must_use]
pub fn is_label(text: &str) -> bool {
    text.strip_prefix(LABEL).is_some_and(is_name)
}

/// The longest name of a user or room, in characters.
pub const NAME_MAX: usize = 32;

/// The longest spelling of a name, in bytes: a character in NFC comes from at most four
/// characters of at most four bytes. Longer texts are rejected before the costly checks.
const SPELLING_MAX: usize = 16 * NAME_MAX;

/// Reserved user names: they could be taken for the server or for a group of people.
pub const RESERVED: [&str; 8] =
    ["server", "system", "all", "here", "everyone", "me", "you", "chatty"];

/// A case-folded name, for comparison. Every map keyed by a name uses this type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// Folds any text. The key of an invalid name never equals the key of a valid one.
    #[must_use]
    pub fn fold(text: &str) -> Self {
        if text.is_ascii() || text.len() > SPELLING_MAX {
            Self(text.to_ascii_lowercase().into())
        } else {
            Self(letters::fold(text).into())
        }
    }

    /// Looks up a name in any spelling. Most names equal their key and are looked up
    /// without folding.
    #[must_use]
    pub fn find<'t, T>(table: &'t HashMap<Self, T>, name: &str) -> Option<&'t T> {
        if name.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
            return table.get(&Self::fold(name));
        }
        table.get(name)
    }

    /// Returns the folded text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self::fold(&text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.as_str().to_owned()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The reason why a text is not a valid name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameFault {
    /// Not a letter followed by letters, digits, `_`, `-` and `.`.
    Grammar,
    /// Longer than [`NAME_MAX`].
    TooLong,
    /// Contains a character that UTS 39 does not allow in identifiers.
    Letters,
    /// Mixes scripts, digits or writing directions.
    Scripts,
    /// One of [`RESERVED`], or confusable with one.
    Reserved,
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grammar => {
                f.write_str("names start with a letter and may contain letters, digits, . _ and -")
            }
            Self::TooLong => write!(f, "names have at most {NAME_MAX} characters"),
            Self::Letters => f.write_str("that name contains a character that names cannot have"),
            Self::Scripts => f.write_str("that name mixes alphabets"),
            Self::Reserved => f.write_str("that name is reserved, or looks like one that is"),
        }
    }
}

/// A user's name as first written, and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Spelling);

/// A room's name as first written, without `#`, and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoomName(Spelling);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Spelling {
    shown: Arc<str>,
    key: Key,
}

impl Spelling {
    fn parse(text: &str) -> Result<Self, NameFault> {
        if !has_form(text) {
            return Err(NameFault::Grammar);
        }
        if text.len() > SPELLING_MAX {
            return Err(NameFault::TooLong);
        }
        let text = if text.is_ascii() { Cow::Borrowed(text) } else { letters::normalise(text)? };
        if text.len() > NAME_MAX && text.chars().count() > NAME_MAX {
            return Err(NameFault::TooLong);
        }
        Ok(Self::new(&text))
    }

    /// Parses a stored name. It was valid when it was stored, so rules added since then
    /// do not apply.
    fn known(text: &str) -> Result<Self, NameFault> {
        if is_name(text) { Ok(Self::new(text)) } else { Err(NameFault::Grammar) }
    }

    fn new(text: &str) -> Self {
        let key = Key::fold(text);
        // Most names are lower case and share the allocation with their key.
        let shown = if key.as_str() == text { key.0.clone() } else { text.into() };
        Self { shown, key }
    }
}

impl Name {
    /// Parses a user's name.
    ///
    /// # Errors
    /// The text is not a valid name.
    pub fn parse(text: &str) -> Result<Self, NameFault> {
        let spelling = Spelling::parse(text)?;
        let name = Self(spelling);
        // Case is ignored, as in every comparison of names: `AIl` looks like `All`.
        let skeletons: Vec<String> = name.skeletons().map(|it| it.to_lowercase()).collect();
        // Trailing digits are a number: `a11` is `a` and eleven, not `all`.
        let is_numbered = text.ends_with(|c: char| c.is_ascii_digit());
        let is_confusable = |word: &str| {
            !is_numbered && skeletons.iter().any(|it| *it == letters::confusable_skeleton(word))
        };
        if RESERVED.iter().any(|word| name.key().as_str() == *word || is_confusable(word)) {
            return Err(NameFault::Reserved);
        }
        Ok(name)
    }

    /// Returns the skeletons of the name as shown and as folded. Names that share a
    /// skeleton are confusable ([UTS 39](https://www.unicode.org/reports/tr39/)).
    pub fn skeletons(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let Spelling { shown, key } = &self.0;
        let folded = (key.as_str() != &**shown).then(|| letters::confusable_skeleton(key.as_str()));
        std::iter::once(letters::confusable_skeleton(shown)).chain(folded)
    }

    /// Parses a stored name or label, which was validated before it was stored.
    ///
    /// # Errors
    /// The text does not match the grammar of names.
    pub fn known(text: &str) -> Result<Self, NameFault> {
        if is_label(text) { Ok(Self(Spelling::new(text))) } else { Spelling::known(text).map(Self) }
    }

    /// Parses the label of a program, `+alerts`.
    #[must_use]
    pub fn parse_label(text: &str) -> Option<Self> {
        Self::parse(text.strip_prefix(LABEL)?).ok().map(|name| name.label())
    }

    /// Returns the label of a program that posts without a login: [`LABEL`] and a name. No
    /// name of a user begins so.
    #[must_use]
    pub fn label(&self) -> Self {
        Self(Spelling::new(&format!("{LABEL}{self}")))
    }

    /// Returns the name as first written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.shown
    }

    /// Returns the folded name, for comparison.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.0.key
    }
}

impl RoomName {
    /// Parses a room's name, with or without its `#`. Reserved names are allowed: a room
    /// `#system` cannot be taken for the server, since rooms send no messages.
    ///
    /// # Errors
    /// The text is not a valid name.
    pub fn parse(text: &str) -> Result<Self, NameFault> {
        Spelling::parse(text.strip_prefix('#').unwrap_or(text)).map(Self)
    }

    /// Parses a stored name, which was validated before it was stored.
    ///
    /// # Errors
    /// The text does not match the grammar of names.
    pub fn known(text: &str) -> Result<Self, NameFault> {
        Spelling::known(text).map(Self)
    }

    /// Returns the name of the lobby.
    ///
    /// # Panics
    /// Never: the constant is a valid name.
    #[must_use]
    pub fn lobby() -> Self {
        Self::parse(LOBBY).expect("the constant is a valid name")
    }

    /// Returns the name as first written, without `#`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.shown
    }

    /// Returns the folded name, for comparison.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.0.key
    }
}

impl TryFrom<String> for Name {
    type Error = NameFault;

    fn try_from(text: String) -> Result<Self, NameFault> {
        Self::known(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl TryFrom<String> for RoomName {
    type Error = NameFault;

    fn try_from(text: String) -> Result<Self, NameFault> {
        Self::known(&text)
    }
}

impl From<RoomName> for String {
    fn from(name: RoomName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.as_str())
    }
}

/// Whether a byte may occur in a name. Every non-ASCII byte may; [`is_name_char`] checks
/// the character.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.') || !byte.is_ascii()
}

fn has_form(text: &str) -> bool {
    if text.is_ascii() {
        return text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(is_name_byte);
    }
    text.starts_with(letters::is_letter) && text.chars().all(is_name_char)
}

/// Whether a character may occur in a name, by the grammar.
pub(crate) fn is_name_char(c: char) -> bool {
    match u8::try_from(c) {
        Ok(byte) if byte.is_ascii() => is_name_byte(byte),
        _ => letters::is_letter_or_mark(c),
    }
}

/// Whether two names are equal, ignoring case.
#[must_use]
pub fn is_same_name(a: &str, b: &str) -> bool {
    Key::fold(a) == Key::fold(b)
}

/// Whether this is the name of the lobby.
#[must_use]
pub fn is_lobby(room: &str) -> bool {
    room.eq_ignore_ascii_case(LOBBY)
}

/// Whether a text matches the grammar of names, which suffices to parse a line. The
/// server's other rules (reserved names, scripts) are not checked.
#[must_use]
pub fn is_name(text: &str) -> bool {
    has_form(text) && (text.len() <= NAME_MAX || text.chars().count() <= NAME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_found_by_its_longest_spelling_and_longer_text_is_rejected() {
        // Each of its letters is composed of three characters.
        let name = Name::parse(&"ấ".repeat(NAME_MAX)).expect("a name");
        let apart = "a\u{302}\u{301}".repeat(NAME_MAX);
        let table = HashMap::from([(name.key().clone(), 1)]);
        assert_eq!(Key::find(&table, &apart), Some(&1));
        assert_eq!(Name::parse(&apart), Ok(name));
        for long in ["é".repeat(2000), format!("A{}", "\u{301}".repeat(2000))] {
            assert_eq!(Name::parse(&long), Err(NameFault::TooLong));
            assert_eq!(Key::find(&table, &long), None);
            assert_eq!(table.get(&Key::fold(&long)), None);
        }
    }

    #[test]
    fn names_follow_the_grammar() {
        for good in [
            "a",
            "alice",
            "Al.ice-2_x",
            &"a".repeat(32),
            "José",
            "李雷",
            "Ольга_2",
            "Αθηνά",
            "やまだ太郎",
            "김철수",
            "שרה",
            "Nguyễn",
            "straße",
            "李Lei",
            "serv3r",
            "a11",
            "al1",
            "mel",
            "al",
            "Ally",
            "sister",
            "दुःख",
            "山ノ内",
            &"é".repeat(32),
        ] {
            assert_eq!(Name::parse(good).map(|n| n.as_str().to_owned()), Ok(good.to_owned()));
        }
        let long = "a".repeat(33);
        for (bad, fault) in [
            ("", NameFault::Grammar),
            ("1a", NameFault::Grammar),
            ("-rf", NameFault::Grammar),
            ("#x", NameFault::Grammar),
            ("@x", NameFault::Grammar),
            ("*", NameFault::Grammar),
            ("a b", NameFault::Grammar),
            ("a:b", NameFault::Grammar),
            ("a,b", NameFault::Grammar),
            ("a\u{200d}b", NameFault::Grammar),
            ("a\u{202e}b", NameFault::Grammar),
            ("\u{301}a", NameFault::Grammar),
            ("a\u{1f600}", NameFault::Grammar),
            ("a\u{3164}b", NameFault::Letters), // an invisible letter
            ("ａｌｉｃｅ", NameFault::Letters),
            ("𝖆lice", NameFault::Letters),
            ("ﬁx", NameFault::Letters),
            ("e\u{301}\u{302}\u{303}\u{304}\u{306}", NameFault::Letters),
            ("e\u{323}\u{323}", NameFault::Letters),
            ("ali\u{307}ce", NameFault::Letters), // a dot on a letter with a dot
            ("ัก", NameFault::Grammar),            // a mark on the preceding character
            ("ःराम", NameFault::Grammar),
            ("राम1१", NameFault::Scripts),
            ("محمد١۱", NameFault::Scripts),
            ("аlice", NameFault::Scripts), // its first letter is Cyrillic
            ("раура1ο", NameFault::Scripts), // and its last one Greek
            ("bobאב", NameFault::Scripts),
            ("мe", NameFault::Scripts),
            ("һеге", NameFault::Reserved), // "here" in Cyrillic letters
            ("../etc", NameFault::Grammar),
            (long.as_str(), NameFault::TooLong),
            ("aliceः", NameFault::Scripts), // a mark that looks like a colon
            ("Server", NameFault::Reserved),
            ("systern", NameFault::Reserved),
            ("SYSTERN", NameFault::Reserved),
            ("rne", NameFault::Reserved),
            ("a1l", NameFault::Reserved),
            ("AIl", NameFault::Reserved),
            ("every0ne", NameFault::Reserved),
            ("Y0U", NameFault::Reserved),
            ("EVERYONE", NameFault::Reserved),
        ] {
            assert_eq!(Name::parse(bad), Err(fault), "{bad}");
        }
    }

    #[test]
    fn names_ignore_case_and_show_as_first_written() {
        let (a, b) = (Name::parse("Alice").unwrap(), Name::parse("aLICE").unwrap());
        assert_eq!(a.key(), b.key());
        assert_eq!(a.as_str(), "Alice");
    }

    #[test]
    fn letters_are_normalised_and_folded_in_every_script() {
        for (a, b) in [
            ("José", "jose\u{301}"),
            ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
            ("ОЛЬГА", "ольга"),
            ("STRASSE", "straße"),
            ("ज़िंदगी", "ज़िंदगी"),
            ("မြို့", "မြို့"),
            ("İlker", "İlker"),
        ] {
            assert_eq!(Name::parse(a).unwrap().key(), Name::parse(b).unwrap().key(), "{a} {b}");
        }
        assert_eq!(Name::parse("jose\u{301}").unwrap().as_str(), "josé");
        assert_eq!(Name::parse(&"e\u{301}".repeat(32)).map(|_| ()), Ok(()));
        assert_eq!(Name::parse(&"é".repeat(33)), Err(NameFault::TooLong));
    }

    #[test]
    fn confusable_names_share_a_skeleton() {
        let share = |a: &str, b: &str| {
            let (a, b) = (Name::parse(a).unwrap(), Name::parse(b).unwrap());
            a.skeletons().any(|one| b.skeletons().any(|other| one == other))
        };
        for (a, b) in [
            ("alice", "a1ice"),
            ("alice", "Alice"),
            ("ALICE", "a1ice"),
            ("bill", "biII"),
            ("modern", "rnodern"),
            ("BOB", "B0B"),
            ("coco", "сосо"), // Cyrillic
            ("राम", "रामः"),
            ("José", "jose\u{301}"),
        ] {
            assert!(share(a, b) && share(b, a), "{a} {b}");
        }
        for (a, b) in [("user1", "user2"), ("bob", "b0b"), ("al", "alice"), ("u10", "u01")] {
            assert!(!share(a, b), "{a} {b}");
        }
    }

    #[test]
    fn room_name_parses_with_or_without_its_sign() {
        assert_eq!(RoomName::parse("#Ops").unwrap(), RoomName::parse("Ops").unwrap());
        assert_eq!(RoomName::parse("#Ops").unwrap().to_string(), "#Ops");
        assert_eq!(RoomName::parse("##ops"), Err(NameFault::Grammar));
    }
}
