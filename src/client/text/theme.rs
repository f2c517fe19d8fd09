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

/// The colours of the 256-colour palette, without the 16 that terminals change, that have a
/// contrast of 4.5:1 on black and on white and of 3:1 on the backgrounds of Solarized. There are
/// no others.
const GREEN: u8 = 29;
const BLUE: u8 = 63;
const VIOLET: u8 = 98;
const RED: u8 = 131;
const MAGENTA: u8 = 163;
const GREY: u8 = 243;

const NAME_COLORS: [u8; 4] = [GREEN, BLUE, VIOLET, RED];

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

    /// Returns the number of colours for names.
    pub(in crate::client) fn name_colors(self) -> usize {
        if self.has_many { NAME_COLORS.len() } else { FEW_COLORS.len() }
    }

    /// Returns the colour of a name, below [`Self::name_colors`], unless it must differ from
    /// another's. The same name always has the same one.
    pub(in crate::client) fn color_of_name(self, name: &str) -> usize {
        // FNV-1a, since its low bits differ even between names that differ by one letter.
        let hash = Key::fold(name).as_str().bytes().fold(0x811C_9DC5 ^ self.seed, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        hash as usize % self.name_colors()
    }

    /// A user's name in this colour.
    pub(in crate::client) fn name(self, color: usize) -> Style {
        self.colored(NAME_COLORS[color % NAME_COLORS.len()], FEW_COLORS[color % FEW_COLORS.len()])
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
        if self.has_color { self.error().underline() } else { Style::new().underline() }
    }

    /// Times, presence and notices.
    pub(in crate::client) fn faint(self) -> Style {
        if self.has_many {
            return self.with(|style| style.color(XtermColors::from(GREY)));
        }
        self.with(Style::dimmed)
    }

    /// Private messages.
    pub(in crate::client) fn private(self) -> Style {
        self.colored(MAGENTA, AnsiColors::Magenta)
    }

    /// The text of an action (`/me`).
    pub(in crate::client) fn action(self) -> Style {
        self.with(Style::italic)
    }

    /// Errors and farewells.
    pub(in crate::client) fn error(self) -> Style {
        self.colored(RED, AnsiColors::Red)
    }

    /// Replies of the server.
    pub(in crate::client) fn reply(self) -> Style {
        self.colored(BLUE, AnsiColors::Cyan)
    }

    /// The prompt.
    pub(in crate::client) fn prompt(self) -> Style {
        self.with(Style::bold)
    }

    /// Returns a colour of the 256, or of the basic eight on a terminal without them.
    fn colored(self, many: u8, few: AnsiColors) -> Style {
        let has_many = self.has_many;
        self.with(
            |style| {
                if has_many { style.color(XtermColors::from(many)) } else { style.color(few) }
            },
        )
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
        let shown =
            |theme: Theme, name| theme.name(theme.color_of_name(name)).style("x").to_string();
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

    /// Returns the relative luminance (WCAG 2) of red, green and blue.
    fn luminance(rgb: [u8; 3]) -> f64 {
        let linear = |level: u8| match f64::from(level) / 255.0 {
            level if level <= 0.039_28 => level / 12.92,
            level => ((level + 0.055) / 1.055).powf(2.4),
        };
        let [red, green, blue] = rgb.map(linear);
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    /// Returns the red, green and blue of a colour of the 256 that terminals do not change.
    fn rgb(color: u8) -> [u8; 3] {
        if let Some(grey) = color.checked_sub(232) {
            return [8 + 10 * grey; 3];
        }
        let at = color - 16;
        [at / 36, at / 6 % 6, at % 6].map(|level| if level == 0 { 0 } else { 55 + 40 * level })
    }

    #[test]
    fn colours_are_legible_on_black_white_and_solarized() {
        for color in [GREEN, BLUE, VIOLET, RED, MAGENTA, GREY] {
            for (background, least) in [
                ([0; 3], 4.5),
                ([255; 3], 4.5),
                ([0x00, 0x2B, 0x36], 3.0),
                ([0xFD, 0xF6, 0xE3], 3.0),
            ] {
                let [one, other] = [rgb(color), background].map(|rgb| luminance(rgb) + 0.05);
                let ratio = one.max(other) / one.min(other);
                assert!(ratio >= least, "{color} on {background:?}: {ratio:.2}");
            }
        }
    }

    #[test]
    fn every_style_uses_the_legible_colours() {
        let theme = Theme { has_color: true, has_many: true, seed: 0 };
        let names = (0..theme.name_colors()).map(|color| theme.name(color));
        let others = [theme.faint(), theme.private(), theme.error(), theme.reply(), theme.excess()];
        for style in names.chain(others) {
            let shown = style.style("x").to_string();
            let legible = [GREEN, BLUE, VIOLET, RED, MAGENTA, GREY];
            let is_legible = |color: &u8| {
                shown.contains(&format!("38;5;{color}m"))
                    || shown.contains(&format!("38;5;{color};"))
            };
            assert!(legible.iter().any(is_legible), "{shown:?}");
        }
        for style in [theme.me(), theme.mention(), theme.action(), theme.prompt()] {
            assert!(!style.style("x").to_string().contains("38;"), "the terminal's own colours");
        }
    }
}
