//! The tagged dialect: a prefix `@id=42;time=…;cid=c1 ` in front of a plain line. The plain
//! line is everything after the first blank. This module does not know which lines are
//! tagged.

use std::fmt;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

use super::Stamp;

/// The longest `cid`, in characters.
pub const CID_MAX: usize = 32;

/// The id of a user: an account, or a guest for one login. Ids are never reused, so nothing of
/// one user ever belongs to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UserId(pub u64);

/// The tags of a line. A tag without a value is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tags<'a> {
    /// The message's id, its position in the log.
    pub id: Option<u64>,
    /// The time of the message or event, by the server's clock.
    pub time: Option<Stamp>,
    /// The cid of the client's line that this line answers.
    pub cid: Option<&'a str>,
    /// The user who sent the message or caused the event, for dialects that identify users by
    /// more than a name. It is not written in front of a line.
    pub actor: Option<UserId>,
}

impl<'a> Tags<'a> {
    /// Returns tags with an actor only.
    #[must_use]
    pub fn by(actor: Option<UserId>) -> Self {
        Self { actor, ..Self::default() }
    }

    /// Appends the prefix with its blank, or nothing if there are no tags.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut first = true;
        let mut put = |out: &mut Vec<u8>, key: &str, value: fmt::Arguments<'_>| {
            out.push(if first { b'@' } else { b';' });
            first = false;
            // Writing into a Vec cannot fail.
            let _ = write!(out, "{key}={value}");
        };
        if let Some(id) = self.id {
            put(out, "id", format_args!("{id}"));
        }
        if let Some(time) = self.time {
            put(out, "time", format_args!("{time}"));
        }
        if let Some(cid) = self.cid {
            put(out, "cid", format_args!("{cid}"));
        }
        if !first {
            out.push(b' ');
        }
    }

    /// Splits a line from the server into its tags and the plain line. Unknown keys are
    /// ignored, so that a newer server can add some.
    #[must_use]
    pub fn split(line: &'a str) -> (Self, &'a str) {
        let Some((prefix, rest)) = line.strip_prefix('@').and_then(|l| l.split_once(' ')) else {
            return (Self::default(), line);
        };
        let mut tags = Self::default();
        for pair in prefix.split(';') {
            match pair.split_once('=') {
                Some(("id", value)) => tags.id = value.parse().ok(),
                Some(("time", value)) => tags.time = Stamp::parse(value),
                Some(("cid", value)) => tags.cid = Some(value),
                _ => {}
            }
        }
        (tags, rest)
    }
}

/// A client's own id for a line: 1 to 32 of `A–Z a–z 0–9 _ -`. The server deduplicates
/// messages by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cid(Box<str>);

impl Cid {
    /// Parses a cid; `None` if it is malformed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=CID_MAX).contains(&text.len());
        (fits && text.bytes().all(is_cid_byte)).then(|| Self(text.into()))
    }

    /// Returns the cid as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_cid_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// The `@cid=… ` prefix of a client's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CidPrefix<'a> {
    /// The line does not begin with `@cid=`.
    Absent,
    /// A valid cid and the line after it.
    Present(Cid, &'a str),
    /// The line begins with `@cid=`, but the cid is invalid or nothing follows it.
    Malformed,
}

impl<'a> CidPrefix<'a> {
    const START: &'static str = "@cid=";

    /// Parses the prefix of a client's line in the tagged dialect.
    #[must_use]
    pub fn of(line: &'a str) -> Self {
        let Some(rest) = line.strip_prefix(Self::START) else { return Self::Absent };
        match rest.split_once(' ').map(|(token, line)| (Cid::parse(token), line)) {
            Some((Some(cid), line)) => Self::Present(cid, line),
            _ => Self::Malformed,
        }
    }

    /// Returns the length of a valid prefix at the start of `bytes`, or 0. It does not
    /// count towards the length of a line.
    #[must_use]
    pub fn len_at(bytes: &[u8]) -> usize {
        let Some(rest) = bytes.strip_prefix(Self::START.as_bytes()) else { return 0 };
        let token = rest.iter().take_while(|b| is_cid_byte(**b)).count();
        let closed = rest.get(token) == Some(&b' ');
        if closed && (1..=CID_MAX).contains(&token) { Self::START.len() + token + 1 } else { 0 }
    }

    /// The maximum length of a valid prefix, in bytes.
    pub const MAX: usize = Self::START.len() + CID_MAX + 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip_and_strip_to_the_plain_line() {
        let time = Some(Stamp(1_795_414_560_123));
        let full = Tags { id: Some(42), time, cid: Some("c-1"), actor: None };
        for (tags, wire) in [
            (Tags::default(), "alice: hi"),
            (Tags { id: Some(7), ..Tags::default() }, "@id=7 alice: hi"),
            (full, "@id=42;time=2026-11-23T06:16:00.123Z;cid=c-1 alice: hi"),
        ] {
            let mut out = Vec::new();
            tags.encode(&mut out);
            out.extend_from_slice(b"alice: hi");
            assert_eq!(String::from_utf8(out).unwrap(), wire);
            assert_eq!(Tags::split(wire), (tags, "alice: hi"));
        }
        assert_eq!(Tags::split("@new=1;id=3 x"), (Tags { id: Some(3), ..Tags::default() }, "x"));
    }

    #[test]
    fn cid_prefix_is_present_absent_or_malformed() {
        let cid = |t| Cid::parse(t).unwrap();
        assert_eq!(CidPrefix::of("@cid=a-1 hi there"), CidPrefix::Present(cid("a-1"), "hi there"));
        assert_eq!(CidPrefix::of("hello @cid=1 x"), CidPrefix::Absent);
        assert_eq!(CidPrefix::of("@bob look"), CidPrefix::Absent);
        let long = format!("@cid={} x", "a".repeat(33));
        for bad in ["@cid= x", "@cid=a.b x", "@cid=a", "@cid=é x", long.as_str()] {
            assert_eq!(CidPrefix::of(bad), CidPrefix::Malformed, "{bad}");
            assert_eq!(CidPrefix::len_at(bad.as_bytes()), 0, "{bad}");
        }
        assert_eq!(CidPrefix::len_at(b"@cid=a-1 hi"), 9);
    }
}
