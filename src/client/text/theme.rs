//! The theme: all colours and styles. It knows nothing of what is written with them. Without
//! colour every style except [`Theme::excess`] is plain and writes no escape sequence, so no
//! other module has to check whether there is colour.

use std::io::IsTerminal as _;

use owo_colors::{AnsiColors, Style, XtermColors};

use crate::protocol::Key;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// As the environment variables say, else only on a terminal
    #[default]
    Auto,
    /// Even in a pipe and with `NO_COLOR`
    Always,
    /// Never
    Never,
}

impl ColorChoice {
    /// Decides whether to use colour. The more specific setting wins: the client's own flag,
    /// then `FORCE_COLOR` (force-color.org), `NO_COLOR` (no-color.org), `CLICOLOR_FORCE`
    /// (bixense.com/clicolors), and without any of them whether the output is a terminal.
    fn has_color(self, variable: impl Fn(&str) -> Option<String>, can_show: bool) -> bool {
        let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
        let is_forced = |name| is_set(name) && variable(name).is_some_and(|value| value != "0");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if is_forced("FORCE_COLOR") => true,
            Self::Auto if is_set("NO_COLOR") => false,
            Self::Auto => is_forced("CLICOLOR_FORCE") || can_show,
        }
    }
}

/// Colours of the 256-colour palette that are legible on black and on white and differ from
/// those of errors and private messages.
const NAME_COLORS: [u8; 12] = [27, 29, 30, 32, 61, 64, 67, 97, 99, 100, 130, 166];

/// The name colours for terminals with fewer than 256 colours, from the basic eight.
const FEW_COLORS: [AnsiColors; 3] = [AnsiColors::Green, AnsiColors::Blue, AnsiColors::Cyan];

/// Whether the terminal has 256 colours. Terminals with at most 16 colours set one of these
/// values of `TERM`; those with 256 that set one of them, too, also set `COLORTERM`.
fn has_many_colors(variable: impl Fn(&str) -> Option<String>) -> bool {
    let has_few = matches!(
        variable("TERM").as_deref(),
        Some("ansi" | "linux" | "screen" | "vt100" | "vt220" | "xterm" | "xterm-color" | "rxvt")
            | None
    );
    !has_few || variable("COLORTERM").is_some_and(|value| !value.is_empty())
}

/// The style of each part of a line.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct Theme {
    has_color: bool,
    /// Whether the terminal has 256 colours.
    has_many: bool,
    /// Selects the assignment of colours to names.
    seed: u32,
}

impl Theme {
    /// Returns the theme for standard output.
    pub(in crate::client) fn new(choice: ColorChoice, seed: u32) -> Self {
        let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
        let is_dumb = variable("TERM").is_some_and(|term| term == "dumb");
        let can_show = std::io::stdout().is_terminal() && !is_dumb;
        let has_color = choice.has_color(variable, can_show);
        Self { has_color, has_many: has_many_colors(variable), seed }
    }

    /// Whether colour is used.
    pub(in crate::client) fn has_color(self) -> bool {
        self.has_color
    }

    /// A user's name; the same name always has the same colour.
    pub(in crate::client) fn name(self, name: &str) -> Style {
        // FNV-1a, since its low bits differ even between names that differ by one letter.
        let hash = Key::fold(name).as_str().bytes().fold(0x811C_9DC5 ^ self.seed, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        if !self.has_many {
            let color = FEW_COLORS[hash as usize % FEW_COLORS.len()];
            return self.with(|style| style.color(color));
        }
        let color = NAME_COLORS[hash as usize % NAME_COLORS.len()];
        self.with(|style| style.color(XtermColors::from(color)))
    }

    /// The user's own name.
    pub(in crate::client) fn me(self) -> Style {
        self.with(Style::bold)
    }

    /// The sender's name in a message that mentions the user.
    pub(in crate::client) fn mention(self) -> Style {
        self.with(|style| style.bold().reversed())
    }

    /// The end of a draft that exceeds the line limit; visible without colour, too.
    pub(in crate::client) fn excess(self) -> Style {
        let style = Style::new().underline();
        if self.has_color { style.red() } else { style }
    }

    /// Times, presence and notices.
    pub(in crate::client) fn faint(self) -> Style {
        self.with(Style::dimmed)
    }

    /// Private messages.
    pub(in crate::client) fn private(self) -> Style {
        self.with(Style::magenta)
    }

    /// The text of an action (`/me`).
    pub(in crate::client) fn action(self) -> Style {
        self.with(Style::italic)
    }

    /// Errors and farewells.
    pub(in crate::client) fn error(self) -> Style {
        self.with(Style::red)
    }

    /// Replies of the server.
    pub(in crate::client) fn reply(self) -> Style {
        self.with(Style::cyan)
    }

    /// The prompt.
    pub(in crate::client) fn prompt(self) -> Style {
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
    fn more_specific_setting_decides_on_colour() {
        use ColorChoice::{Always, Auto, Never};
        for (choice, variables, can_show, has_color) in [
            (Auto, &[][..], true, true),
            (Auto, &[], false, false),
            (Auto, &[("NO_COLOR", "1")], true, false),
            (Auto, &[("NO_COLOR", "")], true, true),
            (Auto, &[("CLICOLOR_FORCE", "1")], false, true),
            (Auto, &[("CLICOLOR_FORCE", "0")], false, false),
            (Auto, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], true, false),
            (Auto, &[("FORCE_COLOR", "1"), ("NO_COLOR", "1")], false, true),
            (Auto, &[("FORCE_COLOR", "0"), ("NO_COLOR", "1")], true, false),
            (Always, &[("NO_COLOR", "1")], false, true),
            (Never, &[("FORCE_COLOR", "1")], true, false),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(choice.has_color(variable, can_show), has_color, "{choice:?} {variables:?}");
        }
    }

    #[test]
    fn name_colour_ignores_case_and_is_no_escape_without_colour() {
        let shown = |theme: Theme, name| theme.name(name).style("x").to_string();
        let few = Theme { has_color: true, has_many: false, seed: 0 };
        let many = Theme { has_many: true, ..few };
        for theme in [few, many] {
            assert_eq!(shown(theme, "Alice"), shown(theme, "alice"));
            let reseeded = (0..9).map(|seed| shown(Theme { seed, ..theme }, "alice"));
            assert!(reseeded.collect::<std::collections::BTreeSet<_>>().len() > 1);
        }
        assert_ne!(shown(many, "alice"), shown(many, "bob"));
        assert!(shown(many, "alice").contains("38;5;") && !shown(few, "alice").contains("38;5;"));
        assert_eq!(shown(Theme { has_color: false, ..many }, "alice"), "x");
    }

    #[test]
    fn number_of_colours_follows_term_and_colorterm() {
        for (variables, has_many) in [
            (&[("TERM", "xterm-256color")][..], true),
            (&[("TERM", "alacritty")], true),
            (&[("TERM", "linux")], false),
            (&[("TERM", "xterm")], false),
            (&[("TERM", "xterm"), ("COLORTERM", "truecolor")], true),
            (&[], false),
        ] {
            let found = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(has_many_colors(found), has_many, "{variables:?}");
        }
    }

    /// Returns the relative luminance (WCAG 2) of a colour of the 6×6×6 cube.
    fn luminance(color: u8) -> f64 {
        let linear = |level: u8| match level {
            0 => 0.0,
            level => ((f64::from(55 + 40 * level) / 255.0 + 0.055) / 1.055).powf(2.4),
        };
        let at = color - 16;
        0.2126 * linear(at / 36) + 0.7152 * linear(at / 6 % 6) + 0.0722 * linear(at % 6)
    }

    #[test]
    fn name_colours_are_legible_on_black_and_on_white() {
        for color in NAME_COLORS {
            let (on_white, on_black) =
                (1.05 / (luminance(color) + 0.05), (luminance(color) + 0.05) / 0.05);
            assert!(on_white.min(on_black) > 3.7, "{color}: {on_white:.2}, {on_black:.2}");
        }
    }
}
