//! Wrapping of long lines, between words and with indented continuation rows. It knows only
//! text with colours, not what the lines mean.
//!
//! Only the first row of a line begins at the left edge, so a sender cannot pad a message until
//! its end looks like a line of another user.

use unicode_normalization::char::is_combining_mark;
use unicode_segmentation::UnicodeSegmentation as _;

use crate::client::text::width::{AUTO_WRAP_OFF, AUTO_WRAP_ON, most, most_of};

/// The least indentation of continuation rows, except on very narrow screens.
const HANG_MIN: usize = 2;

/// The least width at which long addresses are kept whole. On a narrower screen even `12:07`
/// would count as too long for a row.
const COLUMNS_FOR_WHOLE: usize = 16;

/// The least width that is supported.
const COLUMNS_MIN: usize = 2;

/// Wraps a line into rows of `columns` columns; continuation rows begin at `hang`.
pub(super) fn wrap(line: &str, hang: usize, columns: usize) -> String {
    let columns = columns.max(COLUMNS_MIN);
    let mut rows = RowWriter {
        done: String::with_capacity(line.len()),
        row: String::new(),
        column: 0,
        hang: hang.max(HANG_MIN).min(columns / 3).max(1),
        columns,
        is_wrapped_by_terminal: false,
    };
    let mut rest = line;
    while !rest.is_empty() {
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let word_end = rest[blanks..].find(' ').map_or(rest.len(), |at| blanks + at);
        rows.word(&rest[..blanks], &rest[blanks..word_end]);
        rest = &rest[word_end..];
    }
    rows.finish_row();
    rows.done
}

/// Returns the number of screen rows that a row of [`wrap`] takes: several if it contains a long
/// word that is kept whole.
pub(super) fn height(row: &str, columns: usize) -> usize {
    width(row).div_ceil(columns.max(1)).max(1)
}

struct RowWriter {
    done: String,
    row: String,
    column: usize,
    hang: usize,
    columns: usize,
    /// The row holds a word that the terminal itself wraps.
    is_wrapped_by_terminal: bool,
}

impl RowWriter {
    /// Puts a word, and the blanks before it unless they are at a row's end.
    fn word(&mut self, blanks: &str, word: &str) {
        let width = width(word);
        if self.column + blanks.len() + width <= self.columns {
            self.row.push_str(blanks);
            self.row.push_str(word);
            self.column += blanks.len() + width;
            return;
        }
        // A word that is longer than a row starts in the current one.
        if self.hang + width <= self.columns || self.column + blanks.len() >= self.columns {
            self.start_row();
        } else {
            self.row.push_str(blanks);
            self.column += blanks.len();
        }
        let is_too_long = self.column + width > self.columns;
        if is_too_long && self.columns >= COLUMNS_FOR_WHOLE && is_kept_whole(word) {
            self.row.push_str(word);
            self.is_wrapped_by_terminal = true;
            // No text may follow such a word, whose last row begins at the left edge: the
            // address's end `12:07` and ` root: hi` would together look like a line of root.
            self.column = self.columns;
            return;
        }
        for piece in pieces(word) {
            if self.hang + piece.width() <= self.columns {
                self.piece(piece.0, piece.width());
            } else {
                // A cluster may be wider than a row; then its characters are wrapped.
                for c in piece.0.chars() {
                    self.piece(c.encode_utf8(&mut [0; 4]), most_of(c));
                }
            }
        }
    }

    fn piece(&mut self, piece: &str, width: usize) {
        if self.column + width > self.columns {
            self.start_row();
        }
        self.row.push_str(piece);
        self.column += width;
    }

    fn start_row(&mut self) {
        self.finish_row();
        self.done.push('\n');
        self.row.extend(std::iter::repeat_n(' ', self.hang));
        self.column = self.hang;
    }

    /// Ends the row. Auto-wrap is off in non-ASCII rows: if the terminal draws characters wider
    /// than expected, the excess stays in the last column and not at the edge of the next row.
    fn finish_row(&mut self) {
        let is_wrapped = std::mem::take(&mut self.is_wrapped_by_terminal);
        let (off, on) = if self.row.is_ascii() || is_wrapped {
            ("", "")
        } else {
            (AUTO_WRAP_OFF, AUTO_WRAP_ON)
        };
        self.done.extend([off, &self.row, on]);
        self.row.clear();
    }
}

/// Whether a word longer than a row is written in one piece, so that it can be followed and
/// copied: a URL, a path, a hash, a name in a program. The terminal wraps it, and its
/// continuation rows begin at the left edge. So it must not look like a chat line, which always
/// contains blanks: none of its characters looks like a blank, and no other word is in its rows.
/// A word that is no URL must be ASCII, since Chinese and Thai sentences have no blanks.
fn is_kept_whole(word: &str) -> bool {
    let chars = || pieces(word).filter(|piece| !piece.is_color()).flat_map(|piece| piece.0.chars());
    let text: String = chars().collect();
    let is_address = text
        .split_once("://")
        .is_some_and(|(before, _)| before.ends_with(|c: char| c.is_ascii_alphanumeric()));
    if is_address {
        return chars().all(|c| {
            c.is_ascii_graphic()
                || c.is_alphanumeric()
                || is_combining_mark(c)
                // Dashes, quotation marks, an ellipsis.
                || matches!(c, '\u{2010}'..='\u{2027}')
        });
    }
    chars().all(|c| c.is_ascii_graphic())
}

/// Returns the largest width of text with the client's colours.
fn width(text: &str) -> usize {
    pieces(text).map(|piece| piece.width()).sum()
}

/// A grapheme cluster, or an escape sequence for a colour, which has no width.
struct Piece<'a>(&'a str);

impl Piece<'_> {
    fn is_color(&self) -> bool {
        self.0.starts_with('\x1b')
    }

    fn width(&self) -> usize {
        if self.is_color() { 0 } else { most(self.0) }
    }
}

/// Splits a text into pieces. All escape sequences in it are the client's, since text is
/// cleaned before it is coloured.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = match rest.strip_prefix('\x1b') {
            Some(escape) => escape.find(|c: char| c.is_ascii_alphabetic()).map_or(1, |at| at + 2),
            None => rest.graphemes(true).next()?.len(),
        };
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        Some(Piece(piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: usize = 30;

    /// Wraps a line and removes the sequences that turn auto-wrap off and on.
    fn rows(line: &str, hang: usize, columns: usize) -> String {
        wrap(line, hang, columns).replace(AUTO_WRAP_OFF, "").replace(AUTO_WRAP_ON, "")
    }

    #[test]
    fn continuation_rows_are_indented() {
        for (line, expected) in [
            ("", ""),
            ("12:07 bob: short", "12:07 bob: short"),
            (
                "12:07 bob: one two three four five six",
                "12:07 bob: one two three four\n          five six",
            ),
            // Blanks at a row's end do not indent the next row.
            (
                "12:07 bob: one two three four     12:08 root: hi",
                "12:07 bob: one two three four\n          12:08 root: hi",
            ),
            // A word longer than a row.
            (
                "12:07 bob: ääääääääääääääääääääääääääääääää",
                "12:07 bob: äääääääääääääääääää\n          äääääääääääää",
            ),
            (
                "12:07 bob: 日本日本日本日本日本日本日本",
                "12:07 bob: 日本日本日本日本日\n          本日本日本",
            ),
            // A cluster is not split, and counts with its largest width.
            (
                "12:07 bob: xxxxxxxxxxxxxxxx👩\u{200D}💻👩\u{200D}💻👩\u{200D}💻",
                "12:07 bob: xxxxxxxxxxxxxxxx\n          👩\u{200D}💻👩\u{200D}💻👩\u{200D}💻",
            ),
        ] {
            assert_eq!(rows(line, 11, COLUMNS), expected);
        }
    }

    #[test]
    fn long_addresses_and_words_are_kept_whole() {
        for word in [
            "https://example.org/a/long/way",
            "(gemini://example.org/a/long/way)",
            "https://例え.jp/ディレクトリ/ファイル/索引",
            "https://hi.wikipedia.org/wiki/हिन्दी_विकिपीडिया",
            "https://en.wikipedia.org/wiki/Michelson–Morley_experiment",
            "ssh://git@example.org:2222/project.git",
            "/usr/lib/x86_64-linux-gnu/libexample.so",
            r"C:\Users\alice\Documents\example.txt",
            "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
            "example.some.very.long.module.name",
            "SHA256:uNiVztksCsDhcc0u9e8BrWL1pPbCyLWKaN2ygG1ryDM",
        ] {
            let line = format!("12:07 bob: {word}");
            assert_eq!(rows(&line, 11, COLUMNS), line);
            // The following text is not in a row that begins at the left edge.
            let more = format!("12:07 bob: see {word} root: hi");
            let expected = format!("12:07 bob: see {word}\n          root: hi");
            assert_eq!(rows(&more, 11, COLUMNS), expected);
        }
        // A shorter address fits into a row of its own.
        let short = "https://example.org/";
        assert_eq!(
            rows(&format!("12:07 bob: see {short}"), 11, COLUMNS),
            format!("12:07 bob: see\n          {short}")
        );
    }

    #[test]
    fn only_first_row_begins_at_the_edge() {
        for columns in [4, 10, 20, 29, COLUMNS, 80] {
            for hang in [0, 1, 11] {
                for text in [
                    "x ".repeat(99),
                    "ä".repeat(99),
                    "\u{A0}".repeat(99),
                    " ".repeat(99) + "x",
                    "李雷".repeat(99),
                    "👩\u{200D}💻".repeat(99),
                    "👩\u{200D}".repeat(99),
                    "\u{1100}".repeat(99),
                    format!("x://{}\u{A0}12:08\u{A0}root:\u{A0}hi", "x".repeat(99)),
                    format!("x://{}\u{2800}12:08\u{2800}root:\u{2800}hi", "x".repeat(99)),
                ] {
                    let line = format!("12:07 bob: {text}");
                    let rows = rows(&line, hang, columns);
                    assert!(rows.lines().skip(1).all(|row| row.starts_with(' ')), "{rows}");
                    assert!(rows.lines().all(|row| width(row) <= columns), "{columns}\n{rows}");
                    let letters = |text: &str| {
                        text.chars().filter(|c| !c.is_whitespace()).collect::<String>()
                    };
                    assert_eq!(letters(&rows), letters(&line));
                }
            }
        }
    }

    #[test]
    fn auto_wrap_is_off_for_text_of_disputed_width() {
        let line = format!("12:07 bob: é{}", " 👍 x".repeat(9));
        for row in wrap(&line, 11, COLUMNS).lines() {
            assert!(row.starts_with(AUTO_WRAP_OFF) && row.ends_with(AUTO_WRAP_ON), "{row:?}");
        }
        let address = format!("12:07 bob: 👍 https://example.org/{}", "x".repeat(COLUMNS));
        assert_eq!(wrap(&address, 11, COLUMNS), address);
        assert_eq!(height(&address, COLUMNS), 3);
    }

    #[test]
    fn colours_have_no_width() {
        let word = "\x1b[1mone\x1b[0m";
        assert_eq!(wrap(&[word; 7].join(" "), 4, COLUMNS), [word; 7].join(" "));
        assert_eq!(height(&[word; 7].join(" "), COLUMNS), 1);
    }
}
