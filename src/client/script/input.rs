//! The input of the piped mode: reads lines on a thread of its own, since such a read cannot be
//! cancelled. It does not know what the lines mean.

use std::io::{self, BufRead, Read as _};
use std::{mem, thread};

use tokio::sync::mpsc;

use crate::protocol::LINE_MAX;
use crate::{stdio, text_file};

/// How many lines of input are read ahead.
const LINES_AHEAD: usize = 64;

/// The maximum length of an input line in bytes; the rest is dropped. It exceeds the
/// server's limit, so that the server refuses the line.
const INPUT_LINE_MAX: u64 = 4 * LINE_MAX as u64;

/// A line of input with its line end. An error is the last item.
pub(in crate::client) type Line = io::Result<Vec<u8>>;

/// Returns the text of a line without its line end; `Err` explains why it is not sent.
pub(in crate::client) fn text_of(line: &[u8]) -> Result<&str, &'static str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    str::from_utf8(line).map_err(|_| "not sent: not UTF-8; convert it with iconv")
}

/// The lines of input.
pub(in crate::client) type Input = mpsc::Receiver<Line>;

/// Yields these lines, then, if `reads_on`, those of standard input. The thread ends with the
/// process.
pub(in crate::client) fn read_input(first: Vec<String>, reads_on: bool) -> Input {
    let (lines, input) = mpsc::channel(LINES_AHEAD);
    thread::spawn(move || {
        let first = first.into_iter().map(|line| Ok(line.into_bytes()));
        let rest = reads_on.then(|| Lines::of(stdio::stdin())).into_iter().flatten();
        // Fails once the run is over.
        let _ = first.chain(rest).try_for_each(|line| lines.blocking_send(line));
    });
    input
}

/// The lines of a text; they end after an error.
struct Lines<R> {
    input: R,
    is_first: bool,
    is_over: bool,
}

impl<R: BufRead> Lines<R> {
    fn of(input: R) -> Self {
        Self { input, is_first: true, is_over: false }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        if self.is_over {
            return None;
        }
        let mut line = read_line(&mut self.input);
        // A byte order mark is not text.
        if mem::take(&mut self.is_first)
            && let Ok(Some(beginning)) = &mut line
            && let Err(problem) = text_file::drop_mark(beginning)
        {
            line = Err(problem);
        }
        self.is_over = !matches!(line, Ok(Some(_)));
        line.transpose()
    }
}

/// Reads the next line, at most [`INPUT_LINE_MAX`] bytes of it.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.by_ref().take(INPUT_LINE_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        // The line is too long, or it is the last one and nothing is skipped.
        if input.skip_until(b'\n')? > 0 {
            // The cut must not split a character: the line is too long, not badly encoded.
            let cut = str::from_utf8(&line).err().filter(|fault| fault.error_len().is_none());
            line.truncate(cut.map_or(line.len(), |fault| fault.valid_up_to()));
        }
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4 * LINE_MAX;

    fn lines(input: &[u8]) -> Vec<Vec<u8>> {
        Lines::of(input).map(Result::unwrap).collect()
    }

    #[test]
    fn input_is_cut_into_lines_with_their_ends() {
        for (input, expected) in [
            (&b""[..], &[][..]),
            (b"one\n\ntwo\r\n", &[&b"one\n"[..], b"\n", b"two\r\n"]),
            (b"one\ntwo", &[b"one\n", b"two"]),
            (b"\xEF\xBB\xBFone\n\xEF\xBB\xBFtwo\n", &[b"one\n", b"\xEF\xBB\xBFtwo\n"]),
            (b"\xff\n", &[b"\xff\n"]),
        ] {
            assert_eq!(lines(input), expected, "{input:?}");
        }
    }

    #[test]
    fn overlong_line_is_cut_between_characters_and_next_line_is_read() {
        let whole = "x".repeat(MAX - 1) + "\n";
        assert_eq!(lines(whole.as_bytes()), [whole.as_bytes()]);
        let overlong = "x".repeat(MAX + 10) + "\nnext\n";
        assert_eq!(lines(overlong.as_bytes()), [&overlong.as_bytes()[..MAX], b"next\n"]);
        // A character of two bytes at the cut.
        let split = "x".repeat(MAX - 1) + "\u{e9}y\nnext\n";
        assert_eq!(lines(split.as_bytes()), [&split.as_bytes()[..MAX - 1], b"next\n"]);
        let mut wrong = vec![b'x'; MAX + 10];
        wrong[5] = 0xff;
        assert_eq!(lines(&wrong), [&wrong[..MAX]], "not repaired");
    }

    #[test]
    fn input_ends_after_an_error() {
        let mut lines = Lines::of(&b"\xff\xfeo\0n\0\n\0more\n"[..]);
        assert!(lines.next().unwrap().unwrap_err().to_string().contains("UTF-16"));
        assert!(lines.next().is_none());
    }

    #[test]
    fn given_lines_are_yielded_without_reading_standard_input() {
        let mut input = read_input(vec!["one".to_owned(), "two".to_owned()], false);
        let read = std::iter::from_fn(|| input.blocking_recv());
        let read: Vec<Vec<u8>> = read.map(Result::unwrap).collect();
        assert_eq!(read, [b"one", b"two"]);
    }
}
