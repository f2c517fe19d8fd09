//! Splits a byte stream into lines. A [`LineCodec`] never fails on content: an invalid
//! line is a [`Frame`] like a valid one, so a mistake costs a line and not the connection.
//! It knows no sockets and does not interpret the lines.
//!
//! The rules, numbered as in the test names:
//! 1. `\n` ends a line wherever it occurs; a `\r` before it is part of the line end.
//! 2. A line longer than the limit is a single [`Frame::TooLong`], returned as soon as the
//!    limit is exceeded. The rest is discarded up to the newline; the next line is unaffected.
//! 3. Telnet commands are dropped wherever they occur. A line that ends inside a telnet
//!    command is [`Frame::BadEncoding`], as is a line that is not UTF-8.
//! 4. The result does not depend on how the bytes are split into reads.
//! 5. Between lines no memory is allocated: an idle connection holds no buffer.
//!
//! The server reads borrowed frames with [`LineCodec::next`] from a buffer shared by all
//! connections; the client uses the same code through the traits of tokio-util.

use std::borrow::Cow;
use std::io;
use std::mem;

use bytes::{Buf, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::LINE_MAX;
use super::tags::CidPrefix;

/// An item of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A valid UTF-8 line without its line end. Control characters are still in it.
    Line(Cow<'a, str>),
    /// A line over the limit; holds its first bytes, which may contain a `@cid=`.
    TooLong(Vec<u8>),
    /// A line that is not UTF-8; holds its first bytes, which may contain a `@cid=`.
    BadEncoding(Vec<u8>),
    /// The first bytes are those of HTTP, TLS, SSH, ADB or the PROXY protocol.
    Foreign,
}

impl Frame<'_> {
    /// Copies the frame out of the buffer it borrows from.
    #[must_use]
    pub fn into_owned(self) -> Frame<'static> {
        match self {
            Self::Line(line) => Frame::Line(Cow::Owned(line.into_owned())),
            Self::TooLong(head) => Frame::TooLong(head),
            Self::BadEncoding(head) => Frame::BadEncoding(head),
            Self::Foreign => Frame::Foreign,
        }
    }
}

/// The answer to telnet's DO TIMING-MARK: IAC WON'T TIMING-MARK (RFC 860). After an
/// interrupt a telnet client discards all output until it receives this answer.
pub const WONT_TIMING_MARK: [u8; 3] = [0xFF, 0xFC, 0x06];

/// The telnet commands (RFC 854, 855) that the parser has to know to skip any command.
mod telnet {
    pub(super) const IAC: u8 = 0xFF;
    pub(super) const WILL: u8 = 0xFB;
    pub(super) const DO: u8 = 0xFD;
    pub(super) const DONT: u8 = 0xFE;
    pub(super) const SB: u8 = 0xFA;
    pub(super) const SE: u8 = 0xF0;
    /// The lowest byte that is a command (RFC 1184).
    pub(super) const FIRST: u8 = 0xEC;
    pub(super) const TIMING_MARK: u8 = 0x06;
}

/// The state of the telnet parser after the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Telnet {
    #[default]
    Text,
    Command,
    Option(u8),
    Subnegotiation,
    SubnegotiationCommand,
}

/// The first bytes of other protocols. They are rejected so that a web page cannot post
/// messages through a form and a scanner gets an answer at once. An HTTP method counts
/// only with its blank, since without it the line may be a name.
const FOREIGN_PREFIXES: [&[u8]; 14] = [
    b"\x16\x03", // TLS ClientHello
    b"SSH-",
    b"CNXN", // Android's debug bridge, which scans port 5555
    b"PROXY ",
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
    b"PATCH ",
    b"PRI ",
];

/// A line that begins so may have [`LINE_MAX`] bytes before a login, too.
const POST: &[u8] = b"/post ";

/// Decodes a byte stream into [`Frame`]s, and encodes lines.
#[derive(Debug)]
pub struct LineCodec {
    /// The start of an incomplete line. Empty between lines (rule 5).
    partial: Vec<u8>,
    /// The current maximum length of a line, in bytes without a [`CidPrefix`].
    limit: usize,
    telnet: Telnet,
    /// Whether the current line is the first one, which is checked for other protocols.
    is_first: bool,
    /// Whether `partial` still holds the connection's first bytes unmodified.
    is_opening: bool,
    /// Whether the rest of a too long line is being discarded (rule 2).
    is_discarding: bool,
    timing_marks: u16,
}

impl LineCodec {
    /// Creates a codec that reports other protocols as [`Frame::Foreign`], for the server.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            partial: Vec::new(),
            limit,
            telnet: Telnet::Text,
            is_first: true,
            is_opening: true,
            is_discarding: false,
            timing_marks: 0,
        }
    }

    /// Creates a codec that accepts any first line, for the client.
    #[must_use]
    pub fn trusting(limit: usize) -> Self {
        Self { is_first: false, ..Self::new(limit) }
    }

    /// Sets the maximum length of the following lines, in bytes.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Returns the number of timing marks requested since the last call. Each has to be
    /// answered with [`WONT_TIMING_MARK`] at once, even in the middle of a line.
    pub fn take_timing_marks(&mut self) -> u16 {
        mem::take(&mut self.timing_marks)
    }

    /// Consumes the next frame from the front of `input`. Returns `None` when all of it is
    /// consumed; the start of an incomplete line is buffered.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Frame<'a>> {
        while !input.is_empty() {
            if self.is_first && self.is_opening && self.looks_foreign(input) {
                *input = &[];
                return Some(Frame::Foreign);
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                let piece = mem::take(input);
                return self.buffer_partial(piece);
            };
            let piece = &input[..end];
            *input = &input[end + 1..];
            if self.is_discarding {
                self.discard(piece);
                (self.is_discarding, self.telnet) = (false, Telnet::Text);
                continue;
            }
            let is_whole = self.partial.is_empty() && self.telnet == Telnet::Text;
            if is_whole && memchr::memchr(telnet::IAC, piece).is_none() {
                return Some(self.classify_line(Cow::Borrowed(piece)));
            }
            self.append(piece);
            return Some(self.end_line());
        }
        None
    }

    /// Ends the input and returns an unterminated last line as a frame.
    pub fn finish(&mut self) -> Option<Frame<'static>> {
        let is_unfinished = !self.partial.is_empty() || self.telnet != Telnet::Text;
        (is_unfinished && !self.is_discarding).then(|| self.end_line())
    }

    /// Buffers a piece of an incomplete line. Returns [`Frame::TooLong`] when it exceeds
    /// the limit.
    fn buffer_partial(&mut self, piece: &[u8]) -> Option<Frame<'static>> {
        if self.is_discarding {
            self.discard(piece);
            return None;
        }
        self.append(piece);
        if !self.is_too_long(&self.partial) {
            return None;
        }
        self.is_discarding = true;
        self.is_first = false;
        Some(Frame::TooLong(head(&mem::take(&mut self.partial))))
    }

    /// Discards a piece, but counts the timing marks in it.
    fn discard(&mut self, piece: &[u8]) {
        if self.telnet != Telnet::Text || memchr::memchr(telnet::IAC, piece).is_some() {
            self.append(piece);
            self.partial = Vec::new();
        }
    }

    fn end_line(&mut self) -> Frame<'static> {
        let line = mem::take(&mut self.partial);
        if mem::take(&mut self.telnet) != Telnet::Text && !self.is_too_long(&line) {
            self.is_first = false;
            return Frame::BadEncoding(head(&line));
        }
        self.classify_line(Cow::Owned(line)).into_owned()
    }

    /// Turns a complete line without telnet commands into a frame.
    fn classify_line<'a>(&mut self, line: Cow<'a, [u8]>) -> Frame<'a> {
        let is_first = mem::take(&mut self.is_first);
        if self.is_too_long(&line) {
            return Frame::TooLong(head(&line));
        }
        let line = match line {
            Cow::Borrowed(bytes) => {
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| head(bytes))
            }
            Cow::Owned(bytes) => {
                String::from_utf8(bytes).map(Cow::Owned).map_err(|e| head(e.as_bytes()))
            }
        };
        match line {
            Ok(line) if is_first && is_request_line(&line) => Frame::Foreign,
            Ok(line) => Frame::Line(trim_line(line, is_first)),
            Err(head) => Frame::BadEncoding(head),
        }
    }

    fn is_too_long(&self, line: &[u8]) -> bool {
        let line_len = line.len() - usize::from(line.last() == Some(&b'\r'));
        if line_len <= self.limit {
            return false;
        }
        let text = &line[CidPrefix::len_at(line)..];
        let text_len = line_len - (line.len() - text.len());
        let is_post = text.get(..POST.len()).is_some_and(|start| start.eq_ignore_ascii_case(POST));
        let limit = if is_post { self.limit.max(LINE_MAX) } else { self.limit };
        text_len > limit
    }

    /// Appends a piece to the line without its telnet commands (rule 3).
    fn append(&mut self, piece: &[u8]) {
        if self.telnet == Telnet::Text && memchr::memchr(telnet::IAC, piece).is_none() {
            self.partial.extend_from_slice(piece);
            return;
        }
        self.is_opening = false;
        for &byte in piece {
            self.telnet = match (self.telnet, byte) {
                (Telnet::Text, telnet::IAC) => Telnet::Command,
                (Telnet::Text, _) => {
                    self.partial.push(byte);
                    Telnet::Text
                }
                (Telnet::Command, telnet::WILL..=telnet::DONT) => Telnet::Option(byte),
                (Telnet::Command, telnet::SB) => Telnet::Subnegotiation,
                (Telnet::Command, telnet::IAC) => {
                    // An escaped 0xFF is data, and never valid UTF-8.
                    self.partial.push(byte);
                    Telnet::Text
                }
                (Telnet::Command, ..telnet::FIRST) => {
                    // Not telnet: a byte of another encoding.
                    self.partial.extend_from_slice(&[telnet::IAC, byte]);
                    Telnet::Text
                }
                (Telnet::Option(telnet::DO), telnet::TIMING_MARK) => {
                    self.timing_marks = self.timing_marks.saturating_add(1);
                    Telnet::Text
                }
                (Telnet::Command | Telnet::Option(_), _)
                | (Telnet::SubnegotiationCommand, telnet::SE) => Telnet::Text,
                (Telnet::Subnegotiation, telnet::IAC) => Telnet::SubnegotiationCommand,
                (Telnet::Subnegotiation | Telnet::SubnegotiationCommand, _) => {
                    Telnet::Subnegotiation
                }
            };
        }
    }

    /// Whether the connection's first bytes, received so far, begin another protocol.
    fn looks_foreign(&self, input: &[u8]) -> bool {
        FOREIGN_PREFIXES.iter().any(|prefix| {
            let buffered = self.partial.len().min(prefix.len());
            let (first, second) = prefix.split_at(buffered);
            self.partial.starts_with(first) && input.starts_with(second)
        })
    }
}

/// Whether a line is an HTTP request line, with any method.
fn is_request_line(line: &str) -> bool {
    let line = line.trim_end_matches('\r');
    line.rsplit_once(' ').is_some_and(|(_, version)| version.starts_with("HTTP/1."))
}

/// Strips the `\r` of `\r\n` and, from the first line, a byte order mark, which some
/// programs write.
fn trim_line(line: Cow<'_, str>, is_first: bool) -> Cow<'_, str> {
    let trimmed = line.strip_suffix('\r').unwrap_or(&line);
    let trimmed =
        if is_first { trimmed.strip_prefix('\u{FEFF}').unwrap_or(trimmed) } else { trimmed };
    if trimmed.len() == line.len() {
        return line;
    }
    match line {
        Cow::Borrowed(line) => {
            let end = line.len() - usize::from(line.ends_with('\r'));
            Cow::Borrowed(&line[end - trimmed.len()..end])
        }
        Cow::Owned(_) => Cow::Owned(trimmed.to_owned()),
    }
}

fn head(line: &[u8]) -> Vec<u8> {
    line[..line.len().min(CidPrefix::MAX)].to_vec()
}

impl Decoder for LineCodec {
    type Item = Frame<'static>;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, io::Error> {
        let mut input = &src[..];
        let frame = self.next(&mut input).map(Frame::into_owned);
        let read = src.len() - input.len();
        src.advance(read);
        Ok(frame)
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, io::Error> {
        Ok(self.decode(src)?.or_else(|| self.finish()))
    }
}

impl Encoder<&str> for LineCodec {
    type Error = io::Error;

    /// Encodes a line. A text with a newline inside would become two lines and is
    /// rejected; the caller has to split it.
    fn encode(&mut self, line: &str, out: &mut BytesMut) -> Result<(), io::Error> {
        if line.contains('\n') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a line cannot contain a newline",
            ));
        }
        out.reserve(line.len() + 1);
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 16;

    fn line(text: &str) -> Frame<'static> {
        Frame::Line(Cow::Owned(text.to_owned()))
    }

    fn too_long(head: &str) -> Frame<'static> {
        Frame::TooLong(head.as_bytes().to_vec())
    }

    fn bad(head: &[u8]) -> Frame<'static> {
        Frame::BadEncoding(head.to_vec())
    }

    /// Returns all frames of the pieces and the number of timing marks.
    fn read(pieces: &[&[u8]], is_closed: bool) -> (Vec<Frame<'static>>, u16) {
        let mut codec = LineCodec::new(LIMIT);
        let (mut frames, mut marks) = (Vec::new(), 0);
        for piece in pieces {
            let mut input = *piece;
            while let Some(frame) = codec.next(&mut input) {
                let is_foreign = frame == Frame::Foreign;
                frames.push(frame.into_owned());
                if is_foreign {
                    return (frames, marks);
                }
            }
            marks += codec.take_timing_marks();
        }
        if is_closed {
            frames.extend(codec.finish());
            assert!(codec.partial.is_empty(), "rule 5");
        }
        (frames, marks)
    }

    /// Checks rule 4: the input in one piece, byte by byte, split at every position, and
    /// with the next line attached.
    fn check(bytes: &[u8], frames: &[Frame<'static>], marks: u16) {
        let expected = (frames.to_vec(), marks);
        assert_eq!(read(&[bytes], true), expected, "whole: {}", bytes.escape_ascii());
        let singles: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&singles, true), expected, "byte by byte: {}", bytes.escape_ascii());
        for at in 0..bytes.len() {
            let pieces = [&bytes[..at], &bytes[at..]];
            assert_eq!(read(&pieces, true), expected, "cut at {at}: {}", bytes.escape_ascii());
        }
        if bytes.ends_with(b"\n") {
            let attached = [bytes, b"next\n"].concat();
            let mut expected = expected;
            if expected.0.last() != Some(&Frame::Foreign) {
                expected.0.push(line("next"));
            }
            assert_eq!(read(&[&attached], false), expected, "attached: {}", bytes.escape_ascii());
        }
    }

    #[test]
    fn post_may_be_long_before_a_login() {
        let post = |size: usize| format!("/POST {}", "x".repeat(size - 6));
        for (text, fits) in [
            (post(LINE_MAX), true),
            (format!("@cid=a1 {}", post(LINE_MAX)), true),
            (post(LINE_MAX + 1), false),
            (post(LIMIT + 1).replace(' ', "s"), false),
        ] {
            let (frames, _) = read(&[text.as_bytes(), b"\n"], false);
            assert_eq!(matches!(frames[..], [Frame::Line(_)]), fits, "{text}");
        }
    }

    #[test]
    fn rule_1_newlines_end_lines() {
        check(b"alice\n", &[line("alice")], 0);
        check(b"alice\r\n", &[line("alice")], 0);
        check(b"\n\r\n", &[line(""), line("")], 0);
        check(b"a\rb\r\r\n", &[line("a\rb\r")], 0);
        check(b"one\ntwo", &[line("one"), line("two")], 0);
        check("é日本\n".as_bytes(), &[line("é日本")], 0);
        check(b"", &[], 0);
        check(b"tail\r", &[line("tail")], 0);
    }

    #[test]
    fn rule_2_too_long_line_is_a_single_frame() {
        check(b"0123456789abcdef\n", &[line("0123456789abcdef")], 0);
        check(b"0123456789abcdef\r\nx\n", &[line("0123456789abcdef"), line("x")], 0);
        check(b"0123456789abcdefg\nx\n", &[too_long("0123456789abcdefg"), line("x")], 0);
        check(b"0123456789abcdefg", &[too_long("0123456789abcdefg")], 0);
        let long = [b"0123456789abcdef".repeat(200), b"\nok\n".to_vec()].concat();
        let (frames, _) = read(&[&long], true);
        assert!(matches!(&frames[..], [Frame::TooLong(_), Frame::Line(ok)] if ok == "ok"));
    }

    #[test]
    fn rule_2_limit_excludes_the_cid() {
        check(b"@cid=abc 0123456789abcdef\n", &[line("@cid=abc 0123456789abcdef")], 0);
        check(b"@cid=abc 0123456789abcdefg\n", &[too_long("@cid=abc 0123456789abcdefg")], 0);
    }

    #[test]
    fn rule_3_telnet_is_dropped_and_invalid_utf8_reported() {
        check(b"\xff\xfb\x01\xff\xfd\x03alice\r\n", &[line("alice")], 0);
        check(b"al\xff\xf1ice\n", &[line("alice")], 0);
        check(b"a\xff\xfa\x18\x00xterm\xff\xf0b\n", &[line("ab")], 0);
        check(b"a\xff\xfa\x18\xff\xff\xff\xf0b\n", &[line("ab")], 0);
        check(b"\xff\xf4\xff\xfd\x06hi\n", &[line("hi")], 1);
        check(b"\xff\xfd\x06", &[], 1);
        check(b"\xff\xfe\xfd\n/who\n", &[line(""), line("/who")], 0);
        check(b"a\xff\nok\n", &[bad(b"a"), line("ok")], 0);
        check(b"a\xff\xfd\nok\n", &[bad(b"a"), line("ok")], 0);
        check(b"a\xff\xfa\x18\nok\n", &[bad(b"a"), line("ok")], 0);
        // Also after a too long line, and any number of them.
        let long = b"0123456789abcdefg\xff\xfd\x06\xff\xfd\x06\nok\n";
        check(long, &[too_long("0123456789abcdefg"), line("ok")], 2);
        check(&[0xFF, 0xFD, 0x06].repeat(300), &[], 300);
        check(b"0123456789abcdefg\xff\nok\n", &[too_long("0123456789abcdefg"), line("ok")], 0);
        check(b"a\xff\xff\nok\n", &[bad(b"a\xff"), line("ok")], 0);
        check(b"Lou\xffs\nok\n", &[bad(b"Lou\xffs"), line("ok")], 0);
        check(b"a \xff b\nok\n", &[bad(b"a \xff b"), line("ok")], 0);
        check(b"\xc3\x28\nok\n", &[bad(b"\xc3\x28"), line("ok")], 0);
        check(b"h\x00i\n", &[line("h\0i")], 0);
        check(b"@cid=a \xc3\n", &[bad(b"@cid=a \xc3")], 0);
    }

    #[test]
    fn other_protocols_are_detected_by_their_first_bytes() {
        for opening in FOREIGN_PREFIXES {
            let text = String::from_utf8([opening, b" x"].concat()).expect("ASCII");
            check(&[opening, b" x\n"].concat(), &[Frame::Foreign], 0);
            // With telnet commands before or inside it is not foreign, for any split.
            check(&[b"\xff\xf1", opening, b" x\n"].concat(), &[line(&text)], 0);
            let (first, rest) = opening.split_at(1);
            check(&[first, b"\xff\xf1", rest, b" x\n"].concat(), &[line(&text)], 0);
        }
        check(b"GETTY\nGET x\n", &[line("GETTY"), line("GET x")], 0);
        check(b"get x\n", &[line("get x")], 0);
        check(b"\x16\n", &[line("\x16")], 0);
    }

    #[test]
    fn byte_order_mark_is_stripped_from_the_first_line_only() {
        check(b"\xef\xbb\xbfalice\r\n\xef\xbb\xbfx\n", &[line("alice"), line("\u{FEFF}x")], 0);
    }

    #[test]
    fn text_with_a_newline_is_not_encoded() {
        let mut codec = LineCodec::trusting(LIMIT);
        let mut out = BytesMut::new();
        codec.encode("hello", &mut out).unwrap();
        assert_eq!(&out[..], b"hello\n");
        assert!(codec.encode("two\nlines", &mut out).is_err());
    }
}
