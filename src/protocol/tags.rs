//! The tagged dialect: `@id=42;time=…;cid=c1 ` before the very same line.
//! Strip up to the first blank and the plain line is left.

use std::fmt;
use std::io::Write as _;

use super::Stamp;

/// The longest `cid`, in characters.
pub const CID_MAX: usize = 32;

/// What a line can be tagged with; a key without a value is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tags<'a> {
    /// The message's place in the log.
    pub id: Option<u64>,
    /// When it happened, by the server's clock.
    pub time: Option<Stamp>,
    /// Which of my lines this answers.
    pub cid: Option<&'a str>,
}

impl<'a> Tags<'a> {
    /// Writes the prefix with its blank; nothing where there is nothing to say.
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

    /// Parts a line from the server into its tags and the plain line. Keys we
    /// do not know are passed over, so that a newer server can say more.
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

/// A client's own mark for one of its lines: 1 to 32 of `A–Z a–z 0–9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cid(Box<str>);

impl Cid {
    /// Reads a mark.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=CID_MAX).contains(&text.len());
        (fits && text.bytes().all(is_cid_byte)).then(|| Self(text.into()))
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_cid_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// What stands before a client's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CidPrefix<'a> {
    /// No `@cid=`: the whole line is the line.
    Absent,
    /// A good prefix, and the line behind it.
    Present(Cid, &'a str),
    /// It begins with `@cid=` but goes wrong after that.
    Malformed,
}

impl<'a> CidPrefix<'a> {
    const START: &'static str = "@cid=";

    /// Looks at the start of a client's line in the tagged dialect.
    #[must_use]
    pub fn of(line: &'a str) -> Self {
        let Some(rest) = line.strip_prefix(Self::START) else { return Self::Absent };
        match rest.split_once(' ').map(|(token, line)| (Cid::parse(token), line)) {
            Some((Some(cid), line)) => Self::Present(cid, line),
            _ => Self::Malformed,
        }
    }

    /// How many bytes a well-formed prefix at the start of `bytes` takes, 0
    /// without one. They do not count towards the length of a line.
    #[must_use]
    pub fn len_at(bytes: &[u8]) -> usize {
        let Some(rest) = bytes.strip_prefix(Self::START.as_bytes()) else { return 0 };
        let token = rest.iter().take_while(|b| is_cid_byte(**b)).count();
        let closed = rest.get(token) == Some(&b' ');
        if closed && (1..=CID_MAX).contains(&token) { Self::START.len() + token + 1 } else { 0 }
    }

    /// The most bytes a well-formed prefix can take.
    pub const MAX: usize = Self::START.len() + CID_MAX + 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip_and_strip_to_the_plain_line() {
        let full = Tags { id: Some(42), time: Some(Stamp(1_795_414_560_123)), cid: Some("c-1") };
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
    fn a_cid_prefix_is_good_absent_or_malformed() {
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
