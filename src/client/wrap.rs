//! Long lines on a narrow screen: broken between words, and what goes on below
//! stands further in. So a line that begins at the screen's edge is one that we
//! began, and nobody can pad a message until its end looks like another line.

use unicode_width::UnicodeWidthStr as _;

/// On a narrower screen every column is needed.
const COLUMNS_MIN: usize = 30;

/// The line in rows of so many columns; from the second on they begin at `hang`.
pub(super) fn wrap(line: &str, hang: usize, columns: usize) -> String {
    if columns < COLUMNS_MIN {
        return line.to_owned();
    }
    let mut rows = Rows {
        text: String::with_capacity(line.len()),
        column: 0,
        hang: hang.min(columns / 3),
        columns,
    };
    let mut rest = line;
    while !rest.is_empty() {
        let blanks = rest.len() - rest.trim_start_matches(' ').len();
        let word_end = rest[blanks..].find(' ').map_or(rest.len(), |at| blanks + at);
        rows.word(&rest[..blanks], &rest[blanks..word_end]);
        rest = &rest[word_end..];
    }
    rows.text
}

struct Rows {
    text: String,
    column: usize,
    hang: usize,
    columns: usize,
}

impl Rows {
    /// Puts a word, and the blanks before it where they are not at a row's end.
    fn word(&mut self, blanks: &str, word: &str) {
        let width: usize = pieces(word).map(|piece| piece.width()).sum();
        if self.column + blanks.len() + width <= self.columns {
            self.text.push_str(blanks);
            self.text.push_str(word);
            self.column += blanks.len() + width;
            return;
        }
        // A word that fits into no row is begun where we are.
        if self.hang + width <= self.columns || self.column + blanks.len() >= self.columns {
            self.row();
        } else {
            self.text.push_str(blanks);
            self.column += blanks.len();
        }
        if is_link(word) {
            // Whole, so that a terminal can still follow it.
            self.text.push_str(word);
            self.column = (self.column + width) % self.columns;
            return;
        }
        for piece in pieces(word) {
            let width = piece.width();
            if self.column + width > self.columns {
                self.row();
            }
            self.text.push_str(piece.0);
            self.column += width;
        }
    }

    fn row(&mut self) {
        self.text.push('\n');
        self.text.extend(std::iter::repeat_n(' ', self.hang));
        self.column = self.hang;
    }
}

/// Nothing but letters of an address: it cannot pretend to be anything else.
fn is_link(word: &str) -> bool {
    (word.contains("http://") || word.contains("https://"))
        && pieces(word)
            .all(|piece| piece.is_color() || piece.0.bytes().all(|b| b.is_ascii_graphic()))
}

/// A character, or one of our own colours, which takes no column.
struct Piece<'a>(&'a str);

impl Piece<'_> {
    fn is_color(&self) -> bool {
        self.0.starts_with('\x1b')
    }

    fn width(&self) -> usize {
        if self.is_color() { 0 } else { self.0.width() }
    }
}

/// A word's pieces. Escapes in it are ours: text is clean before it gets a colour.
fn pieces(word: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = match rest.find('m') {
            Some(end) if first == '\x1b' => end + 1,
            _ => first.len_utf8(),
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

    #[test]
    fn what_does_not_fit_goes_on_further_in() {
        for (line, rows) in [
            ("", ""),
            ("12:07 bob: short", "12:07 bob: short"),
            (
                "12:07 bob: one two three four five six",
                "12:07 bob: one two three four\n          five six",
            ),
            // Blanks at a row's end do not push the next row about.
            (
                "12:07 bob: one two three four     12:08 root: hi",
                "12:07 bob: one two three four\n          12:08 root: hi",
            ),
            // A word longer than a row.
            (
                "12:07 bob: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "12:07 bob: aaaaaaaaaaaaaaaaaaa\n          aaaaaaaaaaaaa",
            ),
            (
                "12:07 bob: 日本日本日本日本日本日本日本",
                "12:07 bob: 日本日本日本日本日\n          本日本日本",
            ),
            (
                "12:07 bob: https://example.org/a/long/way",
                "12:07 bob: https://example.org/a/long/way",
            ),
        ] {
            assert_eq!(wrap(line, 11, COLUMNS), rows);
        }
    }

    #[test]
    fn nothing_but_our_own_lines_begins_at_the_edge() {
        for text in ["x ".repeat(99), "x".repeat(99), "\u{A0}".repeat(99), " ".repeat(99) + "x"] {
            let rows = wrap(&format!("12:07 bob: {text}"), 11, COLUMNS);
            assert!(rows.lines().skip(1).all(|row| row.starts_with("          ")), "{rows}");
            assert!(rows.lines().all(|row| row.width() <= COLUMNS), "{rows}");
            let letters =
                |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(letters(&rows), letters(&format!("12:07 bob: {text}")));
        }
        let forged = format!("https://{}\u{A0}12:08\u{A0}root:\u{A0}hi", "x".repeat(COLUMNS));
        assert!(wrap(&forged, 11, COLUMNS).contains('\n'));
    }

    #[test]
    fn colours_take_no_room() {
        let word = "\x1b[1mone\x1b[0m";
        assert_eq!(wrap(&[word; 7].join(" "), 4, COLUMNS), [word; 7].join(" "));
        assert_eq!(wrap(&"x ".repeat(40), 4, COLUMNS - 1), "x ".repeat(40), "too narrow");
    }
}
