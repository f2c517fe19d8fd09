//! The colours, all of them. Without colour every style is plain and writes no
//! escape sequence, so nobody else asks whether there is colour.

use owo_colors::Style;

use crate::protocol::Key;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// On a terminal and without `NO_COLOR`.
    #[default]
    Auto,
    /// Also with `NO_COLOR`.
    Always,
    /// Never.
    Never,
}

/// Colours of the 256 that can be read on black and on white alike. None is
/// like those of errors and private messages.
const NAME_COLORS: [u8; 12] = [29, 30, 32, 61, 64, 67, 97, 99, 130, 136, 166, 69];

/// How each part of a line looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    has_color: bool,
}

impl Theme {
    /// For a terminal; `NO_COLOR` counts when it is not empty (no-color.org).
    pub(super) fn new(choice: ColorChoice) -> Self {
        let has_color = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        Self { has_color }
    }

    /// A person's name: always the same colour for the same name.
    pub(super) fn name(self, name: &str) -> Style {
        // FNV-1a: its low bits differ also for names that differ by a letter.
        let hash = Key::fold(name)
            .as_str()
            .bytes()
            .fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let color = NAME_COLORS[hash as usize % NAME_COLORS.len()];
        self.with(|style| style.color(owo_colors::XtermColors::from(color)))
    }

    /// One's own name.
    pub(super) fn me(self) -> Style {
        self.with(Style::bold)
    }

    /// Times, comings and goings: there, but not in the way.
    pub(super) fn faint(self) -> Style {
        self.with(Style::dimmed)
    }

    /// Private messages.
    pub(super) fn private(self) -> Style {
        self.with(Style::magenta)
    }

    /// Errors and farewells.
    pub(super) fn error(self) -> Style {
        self.with(Style::red)
    }

    /// Replies of the server.
    pub(super) fn reply(self) -> Style {
        self.with(Style::cyan)
    }

    /// The prompt.
    pub(super) fn prompt(self) -> Style {
        self.with(Style::bold)
    }

    fn with(self, style: impl FnOnce(Style) -> Style) -> Style {
        if self.has_color { style(Style::new()) } else { Style::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_colour_whatever_its_case_and_no_colour_means_no_escape() {
        let theme = Theme { has_color: true };
        let shown = |name| theme.name(name).style("x").to_string();
        assert_eq!(shown("Alice"), shown("alice"));
        assert_ne!(shown("alice"), shown("bob"));
        assert_eq!(Theme { has_color: false }.name("alice").style("x").to_string(), "x");
    }
}
