//! Bytes to lines. A [`LineCodec`] never fails on content: a bad line is an
//! item like a good one, so one mistake costs one line and not the connection.
//!
//! Rules, numbered as the tests name them:
//! 1. `\n` ends a line wherever it stands; one `\r` before it belongs to it.
//! 2. A line longer than the limit is one [`Frame::TooLong`], said at once and
//!    thrown away up to its newline; what follows is read as usual.
//! 3. Telnet's commands are dropped wherever they stand, and a line that cuts
//!    one short is [`Frame::BadEncoding`], as is any line that is not UTF-8.
//! 4. How the bytes are cut into pieces changes nothing.
//! 5. Between lines nothing is allocated: an idle connection holds no buffer.
//!
//! The server reads borrowed frames with [`LineCodec::next`] from a buffer that
//! all connections share; the client uses the same through tokio-util's traits.

use std::borrow::Cow;
use std::io;
use std::mem;

use bytes::{Buf, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::tags::CidPrefix;

/// One thing read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A line without its end, valid UTF-8, not cleaned yet.
    Line(Cow<'a, str>),
    /// A line over the limit. Its first bytes, for a `@cid=` among them.
    TooLong(Vec<u8>),
    /// A line that is not UTF-8. Its first bytes, for a `@cid=` among them.
    BadEncoding(Vec<u8>),
    /// The connection opened like HTTP, TLS, SSH, ADB or a proxy.
    Foreign,
}

impl Frame<'_> {
    /// The same, independent of the buffer it was read from.
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

/// The answer to telnet's DO TIMING-MARK: IAC WON'T TIMING-MARK (RFC 860).
/// Without it a telnet user sees nothing more after an interrupt.
pub const WONT_TIMING_MARK: [u8; 3] = [0xFF, 0xFC, 0x06];

/// Telnet's commands (RFC 854, 855), as far as they must be known to be skipped.
mod telnet {
    pub(super) const IAC: u8 = 0xFF;
    pub(super) const WILL: u8 = 0xFB;
    pub(super) const DO: u8 = 0xFD;
    pub(super) const DONT: u8 = 0xFE;
    pub(super) const SB: u8 = 0xFA;
    pub(super) const SE: u8 = 0xF0;
    /// The first byte that is a command; what is below is none (RFC 1184).
    pub(super) const FIRST: u8 = 0xEC;
    pub(super) const TIMING_MARK: u8 = 0x06;
}

/// How far into a telnet command the last byte brought us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Telnet {
    #[default]
    Text,
    Command,
    Option(u8),
    Subnegotiation,
    SubnegotiationCommand,
}

/// How other protocols open. A browser must not be able to post a message by
/// way of a form, and a scanner is better told at once. The methods of HTTP
/// count with their blank only: a name has none.
const FOREIGN_PREFIXES: [&[u8]; 14] = [
    b"\x16\x03", // a TLS hello
    b"SSH-",
    b"CNXN", // Android's debug bridge, whose port is ours
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

/// Cuts a stream of bytes into [`Frame`]s, and writes lines.
#[derive(Debug)]
pub struct LineCodec {
    /// The line so far, where it came in pieces. Empty between lines (rule 5).
    partial: Vec<u8>,
    /// The longest line now allowed, in bytes; see [`CidPrefix`] for what it
    /// does not count.
    limit: usize,
    telnet: Telnet,
    /// The first line may turn out to be another protocol.
    is_first: bool,
    /// So far nothing was dropped of it: what is kept is how the connection opened.
    is_opening: bool,
    /// Rule 2: throwing away the rest of a line that was too long.
    is_discarding: bool,
    timing_marks: u16,
}

impl LineCodec {
    /// For a server's connection to a stranger.
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

    /// For the client, whose server may say any first line.
    #[must_use]
    pub fn trusting(limit: usize) -> Self {
        Self { is_first: false, ..Self::new(limit) }
    }

    /// Sets the longest line allowed from now on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// How many timing marks were asked for since the last call; each wants
    /// [`WONT_TIMING_MARK`] for an answer, at once, also amid a line.
    pub fn take_timing_marks(&mut self) -> u16 {
        mem::take(&mut self.timing_marks)
    }

    /// Takes the next frame off the front of `input`. `None`: all of it is
    /// read, and what there was of an unfinished line is kept.
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
            self.gather(piece);
            return Some(self.end_line());
        }
        None
    }

    /// The other side sends no more: an unterminated last line counts too.
    pub fn finish(&mut self) -> Option<Frame<'static>> {
        let is_unfinished = !self.partial.is_empty() || self.telnet != Telnet::Text;
        (is_unfinished && !self.is_discarding).then(|| self.end_line())
    }

    /// A piece of a line whose end is not here yet.
    fn buffer_partial(&mut self, piece: &[u8]) -> Option<Frame<'static>> {
        if self.is_discarding {
            self.discard(piece);
            return None;
        }
        self.gather(piece);
        if !self.is_too_long(&self.partial) {
            return None;
        }
        self.is_discarding = true;
        self.is_first = false;
        Some(Frame::TooLong(head(&mem::take(&mut self.partial))))
    }

    /// Throws a piece away; the timing marks in it are answered all the same.
    fn discard(&mut self, piece: &[u8]) {
        if self.telnet != Telnet::Text || memchr::memchr(telnet::IAC, piece).is_some() {
            self.gather(piece);
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

    /// A whole line, free of telnet.
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
        line_len > self.limit && line_len - CidPrefix::len_at(line) > self.limit
    }

    /// Appends a piece to the line, dropping telnet's commands (rule 3).
    fn gather(&mut self, piece: &[u8]) {
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
                    // An escaped 0xFF: data, and as data never UTF-8.
                    self.partial.push(byte);
                    Telnet::Text
                }
                (Telnet::Command, ..telnet::FIRST) => {
                    // No telnet: a stray byte in some other encoding.
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

    /// Whether the connection's first bytes, as far as they are here, are how
    /// another protocol opens.
    fn looks_foreign(&self, input: &[u8]) -> bool {
        FOREIGN_PREFIXES.iter().any(|opening| {
            let kept = self.partial.len().min(opening.len());
            let (first, second) = opening.split_at(kept);
            self.partial.starts_with(first) && input.starts_with(second)
        })
    }
}

/// Whether it asks a web server for something, whatever its method.
fn is_request_line(line: &str) -> bool {
    let line = line.trim_end_matches('\r');
    line.rsplit_once(' ').is_some_and(|(_, version)| version.starts_with("HTTP/1."))
}

/// Without the `\r` of `\r\n`, and without the byte order mark that some
/// programs put before the first line.
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

    /// Writes one line. A text with a line end inside would become two lines,
    /// so it is refused: whoever has such a text parts it first.
    fn encode(&mut self, line: &str, out: &mut BytesMut) -> Result<(), io::Error> {
        if line.contains('\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a line holds no line end"));
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

    /// Everything the pieces hold, up to their end, and the timing marks.
    fn read(pieces: &[&[u8]], is_closed: bool) -> (Vec<Frame<'static>>, u16) {
        let mut codec = LineCodec::new(LIMIT);
        let (mut frames, mut marks) = (Vec::new(), 0);
        for piece in pieces {
            let mut input = *piece;
            while let Some(frame) = codec.next(&mut input) {
                let is_over = frame == Frame::Foreign;
                frames.push(frame.into_owned());
                if is_over {
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

    /// Rule 4: whole, byte by byte, in every two pieces, and with the next line
    /// attached.
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
    fn rule_2_a_line_too_long_is_one_frame_and_is_gone() {
        check(b"0123456789abcdef\n", &[line("0123456789abcdef")], 0);
        check(b"0123456789abcdef\r\nx\n", &[line("0123456789abcdef"), line("x")], 0);
        check(b"0123456789abcdefg\nx\n", &[too_long("0123456789abcdefg"), line("x")], 0);
        check(b"0123456789abcdefg", &[too_long("0123456789abcdefg")], 0);
        let long = [b"0123456789abcdef".repeat(200), b"\nok\n".to_vec()].concat();
        let (frames, _) = read(&[&long], true);
        assert!(matches!(&frames[..], [Frame::TooLong(_), Frame::Line(ok)] if ok == "ok"));
    }

    #[test]
    fn rule_2_does_not_count_a_cid() {
        check(b"@cid=abc 0123456789abcdef\n", &[line("@cid=abc 0123456789abcdef")], 0);
        check(b"@cid=abc 0123456789abcdefg\n", &[too_long("@cid=abc 0123456789abcdefg")], 0);
    }

    #[test]
    fn rule_3_telnet_is_dropped_and_what_is_not_utf8_is_said() {
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
        // Also behind what is too long, and however many there are.
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
    fn other_protocols_are_known_by_their_first_bytes() {
        for opening in FOREIGN_PREFIXES {
            let text = String::from_utf8([opening, b" x"].concat()).expect("ASCII");
            check(&[opening, b" x\n"].concat(), &[Frame::Foreign], 0);
            // Telnet before it or in it: then it is none, however it is cut.
            check(&[b"\xff\xf1", opening, b" x\n"].concat(), &[line(&text)], 0);
            let (first, rest) = opening.split_at(1);
            check(&[first, b"\xff\xf1", rest, b" x\n"].concat(), &[line(&text)], 0);
        }
        check(b"GETTY\nGET x\n", &[line("GETTY"), line("GET x")], 0);
        check(b"get x\n", &[line("get x")], 0);
        check(b"\x16\n", &[line("\x16")], 0);
    }

    #[test]
    fn a_byte_order_mark_before_the_first_line_is_no_part_of_it() {
        check(b"\xef\xbb\xbfalice\r\n\xef\xbb\xbfx\n", &[line("alice"), line("\u{FEFF}x")], 0);
    }

    #[test]
    fn a_text_of_two_lines_is_not_written_as_one() {
        let mut codec = LineCodec::trusting(LIMIT);
        let mut out = BytesMut::new();
        codec.encode("hello", &mut out).unwrap();
        assert_eq!(&out[..], b"hello\n");
        assert!(codec.encode("two\nlines", &mut out).is_err());
    }
}
