//! Text that people write in files: settings, passwords, certificates. Editors and
//! shells on Windows put a byte order mark before it, which is no part of the text,
//! or write UTF-16, which is refused by name rather than misread.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";
const UTF16_MARKS: [&[u8]; 2] = [b"\xFF\xFE", b"\xFE\xFF"];

/// Why bytes are no text.
const UTF16: &str = "it is UTF-16; save it as UTF-8";
const NUL: &str = "it contains NUL bytes (UTF-16?); save it as UTF-8";
const NOT_UTF8: &str = "it is not UTF-8";

/// A file's text, without a byte order mark.
///
/// # Errors
/// The file cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    decode(fs::read(path)?)
}

/// A file whose text is ASCII wherever it matters, as PEM is, without a byte order mark.
///
/// # Errors
/// The file cannot be read, or is UTF-16.
pub fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    read_bytes_from(fs::File::open(path)?)
}

/// The same of a file that is open.
///
/// # Errors
/// The file cannot be read, or is UTF-16.
pub fn read_bytes_from(mut file: fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    drop_mark(&mut bytes)?;
    Ok(bytes)
}

/// The text in these bytes, without a byte order mark.
///
/// # Errors
/// They are not UTF-8.
pub fn decode(mut bytes: Vec<u8>) -> io::Result<String> {
    drop_mark(&mut bytes)?;
    if bytes.contains(&0) {
        return Err(no_text(NUL));
    }
    String::from_utf8(bytes).map_err(|_| no_text(NOT_UTF8))
}

/// The first line of a text, without its end, which may be that of Windows.
#[must_use]
pub fn first_line(text: &str) -> &str {
    let line = text.split('\n').next().unwrap_or_default();
    line.strip_suffix('\r').unwrap_or(line)
}

/// Takes a byte order mark away from the beginning of a text.
///
/// # Errors
/// The mark is that of UTF-16.
pub fn drop_mark(beginning: &mut Vec<u8>) -> io::Result<()> {
    if UTF16_MARKS.iter().any(|mark| beginning.starts_with(mark)) {
        return Err(no_text(UTF16));
    }
    if beginning.starts_with(UTF8_MARK) {
        beginning.drain(..UTF8_MARK.len());
    }
    Ok(())
}

fn no_text(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_mark_is_dropped_at_the_beginning_only() {
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
    fn first_line_ends_with_either_line_end_or_the_text() {
        for text in ["one", "one\n", "one\r\n", "one\r", "one\ntwo", "one\r\ntwo\r\n"] {
            assert_eq!(first_line(text), "one", "{text:?}");
        }
        assert_eq!(first_line("\r\none"), "");
        assert_eq!(first_line(" a\rb \n"), " a\rb ");
    }

    #[test]
    fn other_encodings_are_refused_by_name() {
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
