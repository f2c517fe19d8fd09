//! The colours, all of them. Without colour every style but one (of a draft that is
//! too long) is plain and writes no escape sequence, so nobody else asks whether there is colour.

use std::io::IsTerminal as _;

use owo_colors::{AnsiColors, Style, XtermColors};

use crate::protocol::Key;

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorChoice {
    /// As the environment says, else on a terminal.
    #[default]
    Auto,
    /// Also in a pipe, and with `NO_COLOR`.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// What is more deliberate wins: our own flag, then `FORCE_COLOR`
    /// (force-color.org), `NO_COLOR` (no-color.org), `CLICOLOR_FORCE`
    /// (bixense.com/clicolors), and without any of them what is written to.
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

/// Colours of the 256 that can be read on black and on white alike. None is
/// like those of errors and private messages.
const NAME_COLORS: [u8; 12] = [27, 29, 30, 32, 61, 64, 67, 97, 99, 100, 130, 166];

/// The same of the eight that every terminal has.
const FEW_COLORS: [AnsiColors; 3] = [AnsiColors::Green, AnsiColors::Blue, AnsiColors::Cyan];

/// Terminals that have no more than sixteen colours call themselves one of these;
/// whatever has 256 and calls itself so too sets `COLORTERM`.
fn has_many_colors(variable: impl Fn(&str) -> Option<String>) -> bool {
    let has_few = matches!(
        variable("TERM").as_deref(),
        Some("ansi" | "linux" | "screen" | "vt100" | "vt220" | "xterm" | "xterm-color" | "rxvt")
            | None
    );
    !has_few || variable("COLORTERM").is_some_and(|value| !value.is_empty())
}

/// How each part of a line looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    has_color: bool,
    /// Whether the terminal knows 256 colours.
    has_many: bool,
    /// Other seeds, other colours for the same names.
    seed: u32,
}

impl Theme {
    /// For standard output.
    pub(super) fn new(choice: ColorChoice, seed: u32) -> Self {
        let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
        let is_dumb = variable("TERM").is_some_and(|term| term == "dumb");
        let can_show = std::io::stdout().is_terminal() && !is_dumb;
        let has_color = choice.has_color(variable, can_show);
        Self { has_color, has_many: has_many_colors(variable), seed }
    }

    /// Whether anything is in colour.
    pub(super) fn has_color(self) -> bool {
        self.has_color
    }

    /// A person's name: always the same colour for the same name.
    pub(super) fn name(self, name: &str) -> Style {
        // FNV-1a: its low bits differ also for names that differ by a letter.
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

    /// One's own name.
    pub(super) fn me(self) -> Style {
        self.with(Style::bold)
    }

    /// The name of somebody who speaks of me.
    pub(super) fn mention(self) -> Style {
        self.with(|style| style.bold().reversed())
    }

    /// What does not fit into a line any more; seen without colour too.
    pub(super) fn too_much(self) -> Style {
        let style = Style::new().underline();
        if self.has_color { style.red() } else { style }
    }

    /// Times, comings and goings: there, but not in the way.
    pub(super) fn faint(self) -> Style {
        self.with(Style::dimmed)
    }

    /// Private messages.
    pub(super) fn private(self) -> Style {
        self.with(Style::magenta)
    }

    /// What somebody does instead of saying it.
    pub(super) fn action(self) -> Style {
        self.with(Style::italic)
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
    fn what_is_more_deliberate_decides_on_colour() {
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
    fn a_name_keeps_its_colour_whatever_its_case_and_no_colour_means_no_escape() {
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
    fn the_terminal_says_how_many_colours_it_has() {
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

    /// Of the colour cube, as WCAG 2 measures it.
    fn luminance(color: u8) -> f64 {
        let linear = |level: u8| match level {
            0 => 0.0,
            level => ((f64::from(55 + 40 * level) / 255.0 + 0.055) / 1.055).powf(2.4),
        };
        let at = color - 16;
        0.2126 * linear(at / 36) + 0.7152 * linear(at / 6 % 6) + 0.0722 * linear(at % 6)
    }

    #[test]
    fn names_can_be_read_on_black_and_on_white() {
        for color in NAME_COLORS {
            let (on_white, on_black) =
                (1.05 / (luminance(color) + 0.05), (luminance(color) + 0.05) / 0.05);
            assert!(on_white.min(on_black) > 3.7, "{color}: {on_white:.2}, {on_black:.2}");
        }
    }
}
