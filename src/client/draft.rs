//! Draws the prompt, the draft and the hint behind it. rustyline counts rows itself, and
//! before each drawing goes up by as many rows as it counted. If the terminal used fewer,
//! because it gives a character another width, it would go up into the chat and erase it.
//! So nothing here relies on where the terminal would begin a new row:
//!
//! - Rows are counted as rustyline counts them, and each one ends with an explicit line end.
//! - While text with other than ASCII characters is drawn the terminal does not wrap. What a
//!   terminal takes for wider than it was counted stays in its row.
//! - Behind a character whose width is disputed the cursor goes to the counted column.

use std::fmt::Write as _;

use owo_colors::Style;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthChar as _;

use super::sanitize::is_unseen;
use super::width::{AUTO_WRAP_OFF, AUTO_WRAP_ON, MODE, is_disputed, to_tab_stop};

/// How a part of the text looks.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Look {
    pub(super) style: Style,
    /// Asterisks stand for it.
    pub(super) is_masked: bool,
}

impl From<Style> for Look {
    fn from(style: Style) -> Self {
        Self { style, is_masked: false }
    }
}

/// Where the next text is drawn, by rustyline's count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    columns: usize,
    row: usize,
    column: usize,
    /// The last row is full and counted as ended, but its line end is not written yet:
    /// where nothing follows, rustyline writes it.
    is_row_end_due: bool,
}

impl Layout {
    /// The first column of a terminal this wide.
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// How many rows were counted.
    pub(super) fn rows(&self) -> usize {
        self.row + 1
    }

    /// The width of the terminal.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Whether these rows look otherwise on a terminal of this width.
    pub(super) fn is_broken_by(&self, columns: usize) -> bool {
        self.columns != columns && !self.fits_in_row_of(columns)
    }

    /// Whether all of it is in one row, also if that has so many columns.
    pub(super) fn fits_in_row_of(&self, columns: usize) -> bool {
        self.row == 0 && self.column < columns
    }

    /// Whether both ended in the same place.
    pub(super) fn ends_like(&self, other: &Self) -> bool {
        (self.row, self.column) == (other.row, other.column)
    }

    /// Text from here on, in the `look` that each of its bytes has. rustyline counts what is
    /// before and what is behind the `cursor` apart from each other.
    pub(super) fn draw(
        &mut self,
        text: &str,
        cursor: usize,
        look: impl Fn(usize) -> Look,
    ) -> String {
        let mut ink = Ink { out: String::new(), run: String::new(), style: Style::new() };
        for (start, part) in [(0, &text[..cursor]), (cursor, &text[cursor..])] {
            let mut escape = Escape::None;
            for (at, cluster) in part.grapheme_indices(true) {
                self.cluster(cluster, look(start + at), &mut escape, &mut ink);
            }
            if self.column == self.columns {
                (self.row, self.column) = (self.row + 1, 0);
                self.is_row_end_due = true;
            }
        }
        ink.flush();
        if text.is_ascii() {
            return ink.out;
        }
        format!("{AUTO_WRAP_OFF}{}{AUTO_WRAP_ON}", ink.out)
    }

    fn cluster(&mut self, cluster: &str, look: Look, escape: &mut Escape, ink: &mut Ink) {
        if cluster == "\n" {
            self.write_due_row_end(ink);
            ink.row_end();
            (self.row, self.column) = (self.row + 1, 0);
            return;
        }
        let width = match cluster {
            "\t" => to_tab_stop(self.column),
            _ if escape.takes(cluster) => return,
            _ => MODE.width(cluster).into(),
        };
        if width > 0 {
            self.write_due_row_end(ink);
        }
        self.column += width;
        if self.column > self.columns {
            ink.row_end();
            (self.row, self.column) = (self.row + 1, width);
        }
        ink.put(look.style, &shown(cluster, width, look.is_masked));
        if is_disputed(cluster) && !look.is_masked && !self.is_row_end_due {
            ink.go_to(self.column);
        }
    }

    fn write_due_row_end(&mut self, ink: &mut Ink) {
        if std::mem::take(&mut self.is_row_end_due) {
            ink.row_end();
        }
    }
}

/// What stands for a cluster. Joiners and the signs that choose between text and emoji are
/// left out where terminals draw conclusions from them about the width: 👩‍💻 is drawn as
/// 👩💻, a flag as the letters of its country. What is sent is not changed.
fn shown(cluster: &str, width: usize, is_masked: bool) -> String {
    if is_masked {
        return "*".repeat(width);
    }
    if cluster == "\t" {
        return " ".repeat(width);
    }
    let is_emoji = cluster.chars().any(|c| c.width() == Some(2));
    let mut shown = String::new();
    for c in cluster.chars() {
        match c {
            // A pasted escape must not act while it is being edited either.
            c if is_unseen(c) => shown.push_str(&" ".repeat(c.width().unwrap_or(0))),
            '\u{FE00}'..='\u{FE0F}' => {}
            '\u{200D}' if is_emoji => {}
            '\u{1F1E6}'..='\u{1F1FF}' => {
                let letter = u8::try_from(u32::from(c) - 0x1F1E6).unwrap_or_default();
                shown.push(char::from(b'A' + letter));
            }
            c => shown.push(c),
        }
    }
    shown
}

/// rustyline counts no columns for what it takes for an escape sequence, so none of it can
/// be shown. It comes into a draft only as a quoted ESC.
enum Escape {
    None,
    Begun,
    Csi,
}

impl Escape {
    fn takes(&mut self, cluster: &str) -> bool {
        let is_taken = !matches!(self, Self::None) || cluster == "\x1b";
        *self = match self {
            Self::None if cluster == "\x1b" => Self::Begun,
            Self::Begun if cluster == "[" => Self::Csi,
            Self::Csi if cluster.starts_with(|c: char| c.is_ascii_digit()) || cluster == ";" => {
                Self::Csi
            }
            _ => Self::None,
        };
        is_taken
    }
}

/// Text with styles that do not go over a row's end.
struct Ink {
    out: String,
    /// What is still to be styled.
    run: String,
    style: Style,
}

impl Ink {
    fn put(&mut self, style: Style, text: &str) {
        if style != self.style {
            self.flush();
            self.style = style;
        }
        self.run.push_str(text);
    }

    fn go_to(&mut self, column: usize) {
        self.run.push('\r');
        if column > 0 {
            // Writing into a String cannot fail.
            let _ = write!(self.run, "\x1b[{column}C");
        }
    }

    fn row_end(&mut self) {
        self.flush();
        self.out.push_str("\r\n");
    }

    fn flush(&mut self) {
        if !self.run.is_empty() {
            let _ = write!(self.out, "{}", self.style.style(&self.run));
            self.run.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: usize = 10;

    fn drawn(text: &str, cursor: usize) -> (Layout, String) {
        let mut layout = Layout::new(COLUMNS);
        let drawing = layout.draw(text, cursor, |_| Style::new().into());
        (layout, drawing.replace(AUTO_WRAP_OFF, "").replace(AUTO_WRAP_ON, ""))
    }

    #[test]
    fn rows_end_where_the_editor_counts_them() {
        for (text, rows, drawing) in [
            ("", 1, ""),
            ("#ops> hi", 1, "#ops> hi"),
            // The editor writes the last row's end itself.
            ("0123456789", 2, "0123456789"),
            ("01234567890", 2, "0123456789\r\n0"),
            ("ab\ncd", 2, "ab\r\ncd"),
            ("ab\n", 2, "ab\r\n"),
            ("0123456789\nab", 2, "0123456789\r\nab"),
            ("日本日本日", 2, "日本日本日"),
            ("a日本日本日", 2, "a日本日本\r\n日"),
            ("\tab", 1, "    ab"),
            ("012345678\tab", 2, "012345678\r\n   ab"),
        ] {
            let (layout, drawn) = drawn(text, text.len());
            assert_eq!((layout.rows(), drawn.as_str()), (rows, drawing), "{text:?}");
        }
    }

    #[test]
    fn cursor_at_the_end_of_a_full_row_begins_another() {
        let (layout, drawing) = drawn("0123456789\nab", 10);
        assert_eq!((layout.rows(), drawing.as_str()), (3, "0123456789\r\n\r\nab"));
        let (layout, drawing) = drawn("0123456789\u{301}", 10);
        assert_eq!((layout.rows(), drawing.as_str()), (2, "0123456789\u{301}"));
    }

    #[test]
    fn disputed_clusters_are_drawn_plainly_and_followed_by_a_column() {
        for (text, drawing) in [
            ("👩\u{200D}💻x", "👩💻\r\x1b[4Cx"),
            ("❤\u{FE0F}x", "❤\r\x1b[1Cx"),
            ("🇩🇪x", "DE\r\x1b[2Cx"),
            ("👍🏽x", "👍🏽\r\x1b[4Cx"),
            ("0\u{301}", "0\u{301}\r\x1b[1C"),
            ("012345678👩\u{200D}💻", "012345678\r\n👩💻\r\x1b[4C"),
            ("日é Ж", "日é Ж"),
            ("\x07\u{200B}", "\r"),
            // What rustyline takes for an escape sequence.
            ("a\x1b[31mb", "ab"),
        ] {
            assert_eq!(drawn(text, text.len()).1, drawing, "{text:?}");
        }
    }

    #[test]
    fn secrets_are_masked_and_styles_end_with_their_row() {
        let mut layout = Layout::new(COLUMNS);
        let masked = |at| Look { style: Style::new(), is_masked: at >= 2 };
        assert_eq!(layout.draw("ab日c👩\u{200D}💻", 2, masked).matches('*').count(), 7);
        let mut layout = Layout::new(2);
        let bold = layout.draw("abc", 3, |_| Style::new().bold().into());
        assert_eq!(bold, "\x1b[1mab\x1b[0m\r\n\x1b[1mc\x1b[0m");
    }
}
