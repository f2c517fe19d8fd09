//! Detection of lines that would be posted publicly by mistake: a command with invisible
//! characters before its slash, and a private message copied from a screen or a log.
//! [`super::parse()`] refuses them, so the server and the client agree. This module knows
//! only the text of the line.

use unicode_normalization::UnicodeNormalization as _;

use crate::protocol::text::{REPLACEMENT, looks_blank};

/// The start of a private message in an older client.
pub(super) const PRIVATE: &str = "[PRIVATE MESSAGE";

pub(super) fn is_private_looking(line: &str) -> bool {
    line.get(..PRIVATE.len()).is_some_and(|start| start.eq_ignore_ascii_case(PRIVATE))
}

/// `/` and the characters that look like it.
const SLASHES: [char; 5] = ['/', '\u{2044}', '\u{2215}', '\u{29F8}', '\u{FF0F}'];

/// The words besides digits in timestamps of clients and log viewers.
const TIME_WORDS: [&str; 35] = [
    "t", "z", "a", "p", "m", "am", "pm", "h", "s", "utc", "gmt", "jan", "feb", "mar", "apr", "may",
    "jun", "jul", "aug", "sep", "oct", "nov", "dec", "mon", "tue", "wed", "thu", "fri", "sat",
    "sun", "st", "nd", "rd", "th", "today",
];

/// Returns the word after a slash that follows blanks or tags, or after a slash that is
/// not ASCII. `None` if the line begins with `/` or contains no such word.
#[must_use]
pub fn word_behind_blanks(line: &str) -> Option<String> {
    // Fast path for nearly every line.
    if line.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/') {
        return None;
    }
    let mut rest = behind_blanks(line);
    // Tags from a program that did not enable them, or from a copied line.
    while rest.starts_with('@')
        && let Some(end) = rest.find(looks_blank).filter(|end| is_tag(&rest[..*end]))
    {
        rest = behind_blanks(&rest[end..]);
    }
    // A notice of the interactive client: `-- not sent: /msg bob hi`.
    if let Some((_, command)) = rest.strip_prefix("-- ").and_then(|rest| rest.split_once(": ")) {
        rest = command;
    }
    // Text in other scripts begins like this, too: its first character decides.
    rest.strip_prefix(SLASHES)?.split(looks_blank).next().map(|word| word.nfkc().collect())
}

/// Whether a line is a copied private message: the form in which chatty displays one,
/// preceded only by blanks, times, tags and punctuation.
pub(super) fn is_private_copy(line: &str) -> bool {
    let starts_line = |at: usize| {
        is_private_looking(&line[at..])
            && line[..at].split(looks_blank).all(|word| is_tag(word) || is_time(word))
    };
    memchr::memchr_iter(b'[', line.as_bytes()).any(starts_line) || is_private_object(line)
}

/// Whether a line is a private message as `chatty join --json` writes it. Quotes inside
/// its text are escaped, so the keys cannot be matched inside it.
fn is_private_object(line: &str) -> bool {
    if line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return false;
    }
    let is_action = || line.contains(r#""type":"action""#) && !line.contains(r#","room":""#);
    behind_blanks(line).starts_with(r#"{"v":"#) && (line.contains(r#""type":"pm""#) || is_action())
}

fn is_tag(word: &str) -> bool {
    word.starts_with('@') && word.contains('=')
}

/// Whether a word is a time, a fragment of a time, or punctuation.
fn is_time(word: &str) -> bool {
    word.split(|c: char| !c.is_alphanumeric()).all(|run| {
        let mut words = run.split(|c: char| c.is_numeric()).filter(|letters| !letters.is_empty());
        words.all(|letters| TIME_WORDS.iter().any(|word| word.eq_ignore_ascii_case(letters)))
    })
}

/// Returns the line without leading characters that look blank.
#[must_use]
pub fn behind_blanks(line: &str) -> &str {
    let mut rest = line;
    while let Some(c) = rest.chars().next().filter(|c| looks_blank(*c)) {
        rest = &rest[c.len_utf8()..];
        if c == REPLACEMENT && !is_private_looking(rest) {
            rest = skip_key_sequence(rest);
        }
    }
    rest
}

/// Returns the line after the remains of an escape sequence, like `[D` or `[3~`. netcat
/// sends one for an arrow key; its ESC has already been replaced by [`REPLACEMENT`].
fn skip_key_sequence(rest: &str) -> &str {
    let Some(sequence) = rest.strip_prefix(['[', 'O']) else { return rest };
    let end = sequence.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
    end.strip_prefix(|c: char| c.is_ascii_alphabetic() || c == '~').unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::super::{Parsed, parse};
    use crate::protocol::ErrorCode;
    use crate::protocol::text::clean;

    fn code(line: &str) -> Option<ErrorCode> {
        parse(&clean(line)).err().map(|refusal| refusal.code())
    }

    #[test]
    fn command_after_invisible_characters_is_refused() {
        for blank in [
            " ",
            "\t",
            "  \t ",
            "\u{a0}",
            "\u{1680}",
            "\u{2003}",
            "\u{202f}",
            "\u{205f}",
            "\u{3000}",
            "\u{200b}",
            "\u{feff}",
            "\u{2800}",
            "\u{3164}",
            "\u{ad}",
            "\u{fe0f}",
            "\u{7f}",
            "\u{2028}",
            "\r",
            "\x1b[D",
            "\x1b[1;5C",
            "\x1bOA",
            "\x1b[200~",
            " \u{200b}\u{3000}",
            "@cid=1 ",
            "@id=4;time=2026-11-23T06:16:00.123Z ",
            "-- not sent: ",
            "-- no answer yet, perhaps not delivered: ",
        ] {
            for command in ["/msg bob secret", "/MSG bob x", "/r yes", "/who", "/names", "/quit"] {
                let line = format!("{blank}{command}");
                assert_eq!(code(&line), Some(ErrorCode::BadArgument), "{}", line.escape_debug());
            }
        }
        for line in
            ["／msg bob x", "／ｍｓｇ　bob x", " ⁄msg bob x", "∕msg bob", " /msg\u{3000}bob"]
        {
            assert_eq!(code(line), Some(ErrorCode::BadArgument), "{line}");
        }
        let text = parse(" /r yes").expect_err("refused").text;
        assert!(
            text.contains("with /r to run it") && text.contains("with //r to send it as text"),
            "{text}"
        );
    }

    #[test]
    fn text_resembling_a_command_is_posted() {
        for line in [
            " /etc/hosts is wrong",
            " /shrug",
            " /msgs",
            " /who? me",
            " / msg bob",
            " //msg bob",
            " hello /msg bob",
            "try /msg bob hi",
            "`/msg bob hi`",
            "> /msg bob hi",
            "@bob /msg me",
            "-- /msg",
            "／etc",
        ] {
            assert_eq!(parse(line), Ok(Parsed::Say(line)), "{line}");
        }
        assert_eq!(parse("//msg bob"), Ok(Parsed::Say("/msg bob")));
    }

    #[test]
    fn copied_private_message_is_refused() {
        for form in [
            "[PRIVATE MESSAGE] bob: x",
            "[PRIVATE MESSAGE to bob] alice: x",
            "[PRIVATE MESSAGE] ** bob waves",
            "[private message] >bob: alice?",
            "[PRIVATE MESSAGE]      x",
        ] {
            for before in [
                " ",
                "\t",
                "\u{a0}",
                "\u{200b}",
                "\x1b",
                "12:07 ",
                " 12:07 ",
                "12:07:30 ",
                "[12:07] ",
                "(12:07)",
                "12:07pm ",
                "9.30 PM ",
                "2026-11-29 12:07 ",
                "2026-11-29T12:07:00.123Z ",
                "2026-11-29T12:07:00+01:00\t",
                "Nov 29 12:07:30 ",
                "@id=4;time=2026-11-23T06:16:00.123Z ",
                "@id=4;cid=x-3 ",
                "12:07 @id=4 ",
                "> ",
                ">>",
                "\"",
                "- ",
            ] {
                let line = format!("{before}{form}");
                assert_eq!(code(&line), Some(ErrorCode::NoTarget), "{line}");
            }
        }
        for line in [
            r#"{"v":1,"t":"2026-11-23T06:16:00.123Z","type":"pm","from":"bob","text":"x"}"#,
            r#" {"v":1,"t":"x","type":"action","from":"bob","to":"alice","text":"x"}"#,
        ] {
            assert_eq!(code(line), Some(ErrorCode::NoTarget), "{line}");
        }
    }

    #[test]
    fn text_about_private_messages_is_posted() {
        for line in [
            "I saw \"[PRIVATE MESSAGE] bob: x\" yesterday",
            "bob: [PRIVATE MESSAGE] carol: x",
            "at 12:07 [PRIVATE MESSAGE] came",
            "12:07 [PRIVATE] x",
            "[PRIVATE] x",
            "12:07 PRIVATE MESSAGE",
            r#"{"v":1,"t":"x","type":"msg","room":"lobby","text":"\"type\":\"pm\""}"#,
            r#"{"v":1,"t":"x","type":"action","room":"lobby","from":"bob","text":"x"}"#,
        ] {
            assert_eq!(parse(line), Ok(Parsed::Say(line)), "{line}");
        }
    }
}
