//! Drawing of the prompt, the draft and the hint after it. It does not know what they say.
//!
//! rustyline counts rows itself, and before each drawing moves up by the number of rows that it
//! counted. If the terminal used fewer, because it draws a character with another width,
//! rustyline would move up into the chat and erase chat lines. So the drawing never relies on
//! the terminal's own wrapping:
//!
//! - Rows are counted as rustyline counts them, and each ends with an explicit line end.
//! - Auto-wrap is off while non-ASCII text is drawn. A character that the terminal draws wider
//!   than counted stays in its row.
//! - After a character whose width is disputed, the cursor moves to the counted column.

use std::fmt::Write as _;

use owo_colors::Style;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthChar as _;

use crate::client::text::sanitize::is_unseen;
use crate::client::text::width::{AUTO_WRAP_OFF, AUTO_WRAP_ON, MODE, is_disputed, to_tab_stop};

/// The appearance of a piece of text.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Look {
    pub(super) style: Style,
    /// Whether asterisks replace the text.
    pub(super) is_masked: bool,
}

impl From<Style> for Look {
    fn from(style: Style) -> Self {
        Self { style, is_masked: false }
    }
}

/// The position of the next text, by rustyline's count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    columns: usize,
    row: usize,
    column: usize,
    /// The last row is full and counted as ended, but its line end is not written yet. If no
    /// text follows, rustyline writes it.
    is_row_end_due: bool,
}

impl Layout {
    /// Returns the first position on a terminal with this width.
    pub(super) fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// Returns the number of counted rows.
    pub(super) fn rows(&self) -> usize {
        self.row + 1
    }

    /// Returns the width of the terminal.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Whether a resize to this width changes the rows.
    pub(super) fn is_broken_by(&self, columns: usize) -> bool {
        self.columns != columns && !self.fits_in_row_of(columns)
    }

    /// Whether the drawing takes one row and fits into a row of this width.
    pub(super) fn fits_in_row_of(&self, columns: usize) -> bool {
        self.row == 0 && self.column < columns
    }

    /// Whether both drawings end at the same position.
    pub(super) fn ends_like(&self, other: &Self) -> bool {
        (self.row, self.column) == (other.row, other.column)
    }

    /// Draws text at this position; `look` returns the appearance at a byte offset. The text
    /// before and after the `cursor` is counted separately, as rustyline does.
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
            _ if escape.consumes(cluster) => return,
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

/// Returns what is drawn for a grapheme cluster. Joiners and variation selectors are omitted
/// where terminals derive different widths from them: 👩‍💻 is drawn as 👩💻, a flag as the
/// letters of its country. The line that is sent is not changed.
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
            // A pasted escape sequence must not take effect while it is edited.
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

/// The parser for escape sequences in a draft, which exist only after a quoted ESC. rustyline
/// counts no columns for them, so they are not drawn.
enum Escape {
    None,
    Started,
    Csi,
}

impl Escape {
    /// Whether a cluster belongs to an escape sequence.
    fn consumes(&mut self, cluster: &str) -> bool {
        let is_consumed = !matches!(self, Self::None) || cluster == "\x1b";
        *self = match self {
            Self::None if cluster == "\x1b" => Self::Started,
            Self::Started if cluster == "[" => Self::Csi,
            Self::Csi if cluster.starts_with(|c: char| c.is_ascii_digit()) || cluster == ";" => {
                Self::Csi
            }
            _ => Self::None,
        };
        is_consumed
    }
}

/// Output whose styles end at each row's end.
struct Ink {
    out: String,
    /// Text in the current style that is not in `out` yet.
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
            // The editor writes the line end of the last row itself.
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
    fn cursor_at_end_of_full_row_starts_another_row() {
        let (layout, drawing) = drawn("0123456789\nab", 10);
        assert_eq!((layout.rows(), drawing.as_str()), (3, "0123456789\r\n\r\nab"));
        let (layout, drawing) = drawn("0123456789\u{301}", 10);
        assert_eq!((layout.rows(), drawing.as_str()), (2, "0123456789\u{301}"));
    }

    #[test]
    fn disputed_clusters_are_simplified_and_followed_by_cursor_move() {
        for (text, drawing) in [
            ("👩\u{200D}💻x", "👩💻\r\x1b[4Cx"),
            ("❤\u{FE0F}x", "❤\r\x1b[1Cx"),
            ("🇩🇪x", "DE\r\x1b[2Cx"),
            ("👍🏽x", "👍🏽\r\x1b[4Cx"),
            ("0\u{301}", "0\u{301}\r\x1b[1C"),
            ("012345678👩\u{200D}💻", "012345678\r\n👩💻\r\x1b[4C"),
            ("日é Ж", "日é Ж"),
            ("\x07\u{200B}", "\r"),
            // rustyline regards this as an escape sequence.
            ("a\x1b[31mb", "ab"),
        ] {
            assert_eq!(drawn(text, text.len()).1, drawing, "{text:?}");
        }
    }

    #[test]
    fn secrets_are_masked_and_styles_end_at_row_end() {
        let mut layout = Layout::new(COLUMNS);
        let masked = |at| Look { style: Style::new(), is_masked: at >= 2 };
        assert_eq!(layout.draw("ab日c👩\u{200D}💻", 2, masked).matches('*').count(), 7);
        let mut layout = Layout::new(2);
        let bold = layout.draw("abc", 3, |_| Style::new().bold().into());
        assert_eq!(bold, "\x1b[1mab\x1b[0m\r\n\x1b[1mc\x1b[0m");
    }
}
