//! Additions to the protocol since chatty 0.1.0, which a client can detect with `/features`.
//! This module does not know what a feature does.

/// An addition to the protocol that changes what a client sends or expects.
///
/// A feature is listed here if a client that knows of it behaves differently without it. The
/// words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // documented by the table below
pub enum Feature {
    ResumeTime,
    MailConfirmation,
    WhoDetails,
}

impl Feature {
    /// Every feature, its wire word and its meaning.
    pub const TABLE: [(Self, &'static str, &'static str); 3] = [
        (
            Self::ResumeTime,
            "resume-time",
            "`/resume` accepts the time of the last message, and is refused if ids went back",
        ),
        (
            Self::MailConfirmation,
            "mail-confirmation",
            "private messages to an account are delivered again at the next login until its client \
             has sent something after them",
        ),
        (Self::WhoDetails, "who-details", "`/who -l` describes each member in a row"),
    ];

    /// Returns the arguments of `[FEATURES …]`: the words of all features.
    #[must_use]
    pub fn words() -> String {
        Self::TABLE.map(|row| row.1).join(" ")
    }

    /// Parses the arguments of `[FEATURES …]`. Unknown words, of a newer server, are ignored.
    #[must_use]
    pub fn parse(words: &str) -> Vec<Self> {
        let known = |word| Self::TABLE.iter().find(|row| row.1 == word).map(|row| row.0);
        words.split(' ').filter_map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_parse_back_and_unknown_ones_are_ignored() {
        let all = Feature::TABLE.map(|row| row.0);
        assert_eq!(Feature::parse(&Feature::words()), all);
        assert_eq!(Feature::parse("x resume-time  resume-time2"), [Feature::ResumeTime]);
        assert_eq!(Feature::parse(""), []);
    }
}
