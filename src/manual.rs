//! The manual pages of `chatty man`: the sections that `clap_mangen` generates from the
//! command line's definition, then those that it has no source for. The slash commands
//! and the environment variables come from their tables. This module does not know what
//! a flag or a command does.

use std::fmt::Write as _;

use chatty::{client, commands};
use clap::Arg;
use clap::builder::Resettable;
use clap_mangen::Man;

/// The title of a section and its paragraphs or entries.
struct Section {
    title: &'static str,
    intro: &'static str,
    /// Tags with their descriptions.
    entries: &'static [(&'static str, &'static str)],
}

const KEYS: Section = Section {
    title: "KEYS",
    intro: "At the prompt of a terminal:",
    entries: &[
        ("Tab", "Complete commands, names and rooms."),
        ("Alt-Enter", "Begin another line of the same message."),
        ("Up, Down, Ctrl-R", "Recall or search earlier input, also of earlier sessions."),
        ("Ctrl-A, Ctrl-E, Ctrl-W, Ctrl-U, Ctrl-Y", "Move, cut and paste as in a shell."),
        ("Ctrl-C", "Clear the line (Ctrl-Y restores it). Twice on an empty line: leave."),
        ("Ctrl-L", "Redraw the screen."),
        ("Ctrl-Z", "Suspend; fg in the shell resumes."),
        ("Ctrl-D", "Leave."),
    ],
};

const JOIN_ENVIRONMENT: &[(&str, &str)] = &[
    ("CHATTY_PASSWORD", "The password of the account, in place of --password-file."),
    ("NO_COLOR, FORCE_COLOR, CLICOLOR_FORCE", "Switch color off or on; --color overrides them."),
    ("TERM", "With dumb, there is neither a prompt nor color, as with --plain."),
    ("XDG_CONFIG_HOME, XDG_DATA_HOME, XDG_STATE_HOME", "The folders of the files below."),
];

const SAY_ENVIRONMENT: &[(&str, &str)] =
    &[("CHATTY_PASSWORD", "The password of the account, in place of --password-file.")];

const SERVE_ENVIRONMENT: &[(&str, &str)] =
    &[("XDG_DATA_HOME", "The folder of chatty/PORT below, by default ~/.local/share.")];

const JOIN_SECTIONS: &[Section] = &[
    Section {
        title: "FILES",
        intro: "",
        entries: &[
            ("~/.config/chatty/config.toml", "Settings: a long option's name, =, and its value."),
            ("~/.local/state/chatty/history", "Earlier input at the prompt, without passwords."),
            ("~/.local/share/chatty/known_hosts", "Certificates of servers, for --tls."),
            ("~/.local/share/chatty/log/", "The logs of --log: HOST/ROOM/DATE.log."),
        ],
    },
    Section {
        title: "EXIT STATUS",
        intro: "",
        entries: &[
            ("0", "The user left; in a pipe, the server accepted every line."),
            ("1", "In a pipe: the server refused a line."),
            ("2", "The command line or the settings file is invalid."),
            (
                "69",
                "No connection, the connection was lost for good, or standard input or output \
              failed.",
            ),
            ("77", "The name was refused, or stayed in use for --retry-for."),
            ("129, 130, 143", "Ended by SIGHUP, SIGINT or SIGTERM."),
        ],
    },
    Section { title: "SEE ALSO", intro: "chatty(1), chatty-serve(1), nc(1)", entries: &[] },
];

const SAY_SECTIONS: &[Section] = &[
    Section {
        title: "EXIT STATUS",
        intro: "",
        entries: &[
            ("0", "Everything was posted."),
            ("1", "The server refused a line."),
            ("2", "The command line is invalid."),
            (
                "69",
                "No connection, the connection was lost for good, or standard input failed. \
                 Standard error says how many lines may not have been posted.",
            ),
            ("77", "The password of the account is wrong."),
            ("129, 130, 143", "Ended by SIGHUP, SIGINT or SIGTERM."),
        ],
    },
    Section { title: "SEE ALSO", intro: "chatty(1), chatty-join(1)", entries: &[] },
];

const SERVE_SECTIONS: &[Section] = &[
    Section {
        title: "SIGNALS",
        intro: "",
        entries: &[
            (
                "SIGTERM, SIGINT",
                "Shut down gracefully: users receive [BYE shutting-down]. A \
              second signal, more than a second later, ends the server at once.",
            ),
            ("SIGHUP", "Reload the TLS certificate."),
            ("SIGUSR1, SIGUSR2", "Ignored."),
        ],
    },
    Section {
        title: "FILES",
        intro: "In the data folder, which is set with --data and by default \
                ~/.local/share/chatty/PORT:",
        entries: &[
            ("chatty.db", "The log of messages and the stored state, an SQLite database."),
            ("tls-identity.pem", "The certificate and key that --tls creates."),
        ],
    },
    Section {
        title: "EXIT STATUS",
        intro: "",
        entries: &[
            ("0", "Stopped by SIGTERM or SIGINT."),
            ("1", "The server cannot listen or cannot store messages."),
            ("2", "The command line is invalid."),
        ],
    },
    Section {
        title: "SEE ALSO",
        intro: "chatty(1), chatty-join(1), chatty-hash-password(1), nc(1)",
        entries: &[],
    },
];

const HASH_PASSWORD_SECTIONS: &[Section] = &[
    Section {
        title: "EXIT STATUS",
        intro: "",
        entries: &[("0", "The hash was written."), ("1", "No password was given.")],
    },
    Section { title: "SEE ALSO", intro: "chatty(1), chatty-serve(1)", entries: &[] },
];

const CHATTY_SECTIONS: &[Section] = &[Section {
    title: "SEE ALSO",
    intro: "chatty-serve(1), chatty-join(1), chatty-say(1), chatty-hash-password(1), nc(1)",
    entries: &[],
}];

/// Renders the manual page of a command, in roff.
///
/// # Errors
/// Never in practice: the page is written to memory.
pub(crate) fn render(page: clap::Command) -> std::io::Result<Vec<u8>> {
    let examples = page.get_after_help().map(ToString::to_string).unwrap_or_default();
    let name = page.get_name().to_owned();
    let mut more = String::new();
    match name.as_str() {
        "join" => {
            section(&mut more, &KEYS);
            slash_commands(&mut more);
            environment(&mut more, &page, JOIN_ENVIRONMENT);
        }
        "say" => environment(&mut more, &page, SAY_ENVIRONMENT),
        "serve" => environment(&mut more, &page, SERVE_ENVIRONMENT),
        _ => {}
    }
    add_examples(&mut more, &examples);
    let sections = match name.as_str() {
        "join" => JOIN_SECTIONS,
        "say" => SAY_SECTIONS,
        "serve" => SERVE_SECTIONS,
        "hash-password" => HASH_PASSWORD_SECTIONS,
        _ => CHATTY_SECTIONS,
    };
    for part in sections {
        section(&mut more, part);
    }
    let mut text = Vec::new();
    // clap_mangen would render the help's examples and exit codes as a section EXTRA.
    let page = page.after_help(Resettable::Reset).after_long_help(Resettable::Reset);
    Man::new(page).render(&mut text)?;
    text.extend_from_slice(more.as_bytes());
    Ok(text)
}

/// Appends the client's own commands and the command table, grouped as in `/help`.
fn slash_commands(out: &mut String) {
    heading(out, "SLASH COMMANDS");
    paragraph(
        out,
        "A line that begins with / is a command; // sends it as text. An unambiguous beginning \
         of two or more letters suffices.",
    );
    subheading(out, "the client's own");
    for (usage, help) in client::own_commands() {
        entry(out, &usage, help);
    }
    let mut last = None;
    for row in commands::TABLE {
        if last.replace(row.group) != Some(row.group) {
            subheading(out, row.group.heading());
        }
        let mut tag = row.usage();
        for alias in row.aliases {
            let _ = write!(tag, ", /{alias}");
        }
        entry(out, &tag, row.help);
    }
}

/// Appends the variables of the command's options, then others.
fn environment(out: &mut String, page: &clap::Command, others: &[(&str, &str)]) {
    heading(out, "ENVIRONMENT");
    let mut variables: Vec<(String, String)> = page
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| Some((arg.get_env()?.to_string_lossy().into_owned(), option(arg))))
        .map(|(variable, option)| (variable, format!("The default of {option}.")))
        .collect();
    variables.sort();
    for (variable, text) in &variables {
        entry(out, variable, text);
    }
    for (variable, text) in others {
        entry(out, variable, text);
    }
}

/// Returns `--name`, or the value name of a positional argument.
fn option(arg: &Arg) -> String {
    let value = || arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    arg.get_long().map_or_else(value, |long| format!("--{long}"))
}

/// Appends the examples of the command's help, verbatim.
fn add_examples(out: &mut String, help: &str) {
    let Some(rest) = help.split_once("Examples:\n").map(|(_, rest)| rest) else { return };
    heading(out, "EXAMPLES");
    out.push_str(".nf\n");
    for line in rest.lines().take_while(|line| !line.is_empty()) {
        let _ = writeln!(out, "{}", escape(line.trim_start()));
    }
    out.push_str(".fi\n");
}

fn section(out: &mut String, section: &Section) {
    heading(out, section.title);
    if !section.intro.is_empty() {
        paragraph(out, section.intro);
    }
    for (tag, text) in section.entries {
        entry(out, tag, text);
    }
}

fn heading(out: &mut String, title: &str) {
    let _ = writeln!(out, ".SH \"{title}\"");
}

fn subheading(out: &mut String, title: &str) {
    let _ = writeln!(out, ".SS \"{}\"", escape(title));
}

fn paragraph(out: &mut String, text: &str) {
    let _ = writeln!(out, "{}", escape(text));
}

fn entry(out: &mut String, tag: &str, text: &str) {
    let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{}", escape(tag), escape(text));
}

/// Escapes text for roff: backslashes, hyphens that may be copied, and a control
/// character at the start of the line.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
