//! The colours, all of them. Without colour every style is plain and writes no
//! escape sequence, so nobody else asks whether there is colour.

use std::io::IsTerminal as _;

use owo_colors::Style;

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
const NAME_COLORS: [u8; 12] = [29, 30, 32, 61, 64, 67, 97, 99, 130, 136, 166, 69];

/// How each part of a line looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    has_color: bool,
}

impl Theme {
    /// For standard output.
    pub(super) fn new(choice: ColorChoice) -> Self {
        let variable = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
        let is_dumb = variable("TERM").is_some_and(|term| term == "dumb");
        let can_show = std::io::stdout().is_terminal() && !is_dumb;
        Self { has_color: choice.has_color(variable, can_show) }
    }

    /// Whether anything is in colour.
    pub(super) fn has_color(self) -> bool {
        self.has_color
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

    /// The name of somebody who speaks of me.
    pub(super) fn mention(self) -> Style {
        self.with(|style| style.bold().reversed())
    }

    /// What does not fit into a line any more.
    pub(super) fn too_much(self) -> Style {
        self.with(|style| style.red().underline())
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
        let theme = Theme { has_color: true };
        let shown = |name| theme.name(name).style("x").to_string();
        assert_eq!(shown("Alice"), shown("alice"));
        assert_ne!(shown("alice"), shown("bob"));
        assert_eq!(Theme { has_color: false }.name("alice").style("x").to_string(), "x");
    }
}
