//! Text files written by people: settings, passwords, certificates. Editors and shells on
//! Windows write a byte order mark, which is stripped, or UTF-16, which is rejected with a
//! clear error. This module does not know what a file is for.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";
const UTF16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];

const UTF16: &str = "it is UTF-16; save it as UTF-8";
const NUL: &str = "it contains NUL bytes (UTF-16?); save it as UTF-8";
const NOT_UTF8: &str = "it is not UTF-8";

/// Reads a text file, without a byte order mark.
///
/// # Errors
/// The file cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    decode(fs::read(path)?)
}

/// Reads a file whose relevant content is ASCII, like PEM, without a byte order mark.
///
/// # Errors
/// The file cannot be read, or is UTF-16.
pub fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    read_bytes_from(fs::File::open(path)?)
}

/// Reads an open file like [`read_bytes`].
///
/// # Errors
/// The file cannot be read, or is UTF-16.
pub fn read_bytes_from(mut file: fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    drop_mark(&mut bytes)?;
    Ok(bytes)
}

/// Decodes UTF-8, without a byte order mark.
///
/// # Errors
/// The bytes are not UTF-8, or contain NUL.
pub fn decode(mut bytes: Vec<u8>) -> io::Result<String> {
    drop_mark(&mut bytes)?;
    if bytes.contains(&0) {
        return Err(invalid_text(NUL));
    }
    String::from_utf8(bytes).map_err(|_| invalid_text(NOT_UTF8))
}

/// Returns the first line of a text, without its line end (`\n` or `\r\n`).
#[must_use]
pub fn first_line(text: &str) -> &str {
    let line = text.split('\n').next().unwrap_or_default();
    line.strip_suffix('\r').unwrap_or(line)
}

/// Strips a UTF-8 byte order mark from the start of a text.
///
/// # Errors
/// The byte order mark is that of UTF-16.
pub fn drop_mark(beginning: &mut Vec<u8>) -> io::Result<()> {
    if UTF16_MARKS.iter().any(|mark| beginning.starts_with(mark)) {
        return Err(invalid_text(UTF16));
    }
    if beginning.starts_with(UTF8_MARK) {
        beginning.drain(..UTF8_MARK.len());
    }
    Ok(())
}

fn invalid_text(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_is_stripped_at_the_start_only() {
        for (bytes, text) in [
            (&b"plain\r\n"[..], "plain\r\n"),
            (b"\xEF\xBB\xBFmarked", "marked"),
            (b"\xEF\xBB\xBF\xEF\xBB\xBFtwice", "\u{FEFF}twice"),
            (b"x\xEF\xBB\xBF", "x\u{FEFF}"),
            (b"\xEF\xBB\xBF", ""),
            (b"", ""),
        ] {
            assert_eq!(decode(bytes.to_vec()).unwrap(), text);
        }
    }

    #[test]
    fn first_line_ends_at_any_line_end_or_the_end() {
        for text in ["one", "one\n", "one\r\n", "one\r", "one\ntwo", "one\r\ntwo\r\n"] {
            assert_eq!(first_line(text), "one", "{text:?}");
        }
        assert_eq!(first_line("\r\none"), "");
        assert_eq!(first_line(" a\rb \n"), " a\rb ");
    }

    #[test]
    fn other_encodings_are_rejected_with_their_name() {
        for (bytes, why) in [
            (&b"\xFF\xFEh\0i\0"[..], "UTF-16;"),
            (b"\xFE\xFF\0h\0i", "UTF-16;"),
            (b"h\0i\0", "NUL"),
            (b"caf\xE9", "not UTF-8"),
        ] {
            let error = decode(bytes.to_vec()).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
