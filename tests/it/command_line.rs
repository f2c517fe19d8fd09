//! The output generated from the command line's definition: completions and manual pages.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::support::{CHATTY, CHATTY_WORD, has_program, text};

fn chatty(args: &[&str]) -> String {
    let output = Command::new(CHATTY).args(args).output().expect("chatty");
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn feed(program: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect(program);
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("input");
    child.wait_with_output().expect(program)
}

#[test]
fn completions_are_valid_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = chatty(&["completions", shell]);
        for word in ["serve", "join", "say", "retry-for"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    if !has_program("bash") {
        return;
    }
    let script = chatty(&["completions", "bash"]);
    let checked = feed("bash", &["-n"], &script);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let query = "COMP_WORDS=(chatty join --retry) COMP_CWORD=2; _chatty chatty --retry join; \
                 echo \"${COMPREPLY[@]}\"";
    let answer = feed("bash", &["-s"], &format!("{script}\n{query}\n"));
    assert_eq!(text(&answer.stdout), "--retry-for\n", "{}", text(&answer.stderr));
}

#[test]
fn manuals_have_their_sections_and_render_without_warnings() {
    let pages = [
        &["man"][..],
        &["man", "join"],
        &["man", "serve"],
        &["man", "hash-password"],
        &["man", "say"],
    ]
    .map(chatty);
    assert!(pages[0].contains("chatty\\-join(1)") && !pages[0].contains("chatty\\-help(1)"));
    assert!(pages[1].contains("\\-\\-retry\\-for"));
    let sections: [&[&str]; 5] = [
        &["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUBCOMMANDS", "SEE ALSO"],
        &["OPTIONS", "KEYS", "SLASH COMMANDS", "ENVIRONMENT", "EXAMPLES", "FILES", "EXIT STATUS"],
        &["OPTIONS", "ENVIRONMENT", "EXAMPLES", "SIGNALS", "FILES", "EXIT STATUS", "SEE ALSO"],
        &["OPTIONS", "EXAMPLES", "EXIT STATUS", "SEE ALSO"],
        &["OPTIONS", "ENVIRONMENT", "EXAMPLES", "EXIT STATUS", "SEE ALSO"],
    ];
    for (page, sections) in pages.iter().zip(sections) {
        let headings: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".SH "))
            .map(|title| title.trim_matches('"'))
            .collect();
        for section in sections {
            assert!(headings.contains(section), "{section} is missing: {headings:?}");
        }
        assert!(!headings.contains(&"EXTRA"), "{headings:?}");
    }
    for row in chatty::commands::TABLE {
        assert!(pages[1].contains(row.help.split('-').next().unwrap_or_default()), "{}", row.name);
    }
    for (usage, _) in chatty::client::own_commands() {
        assert!(pages[1].contains(&usage), "{usage}");
    }
    assert!(pages[1].contains("CHATTY_NAME") && pages[2].contains("CHATTY_PORT"));
    if !has_program("man") {
        return;
    }
    for page in pages {
        let shown = feed("man", &["--warnings", "-l", "-"], &page);
        assert!(shown.status.success() && shown.stderr.is_empty(), "{}", text(&shown.stderr));
        assert!(text(&shown.stdout).contains("SYNOPSIS"));
    }
}

#[test]
fn packager_commands_are_hidden_from_the_help() {
    let help = chatty(&["--help"]);
    assert!(!help.contains("completions") && !help.contains("  man"), "{help}");
    if !has_program("bash") {
        return;
    }
    let cut = format!("{CHATTY_WORD} completions bash | head -1");
    let done = Command::new("bash").args(["-o", "pipefail", "-c", &cut]).output().expect("bash");
    assert!(done.status.success() && done.stderr.is_empty(), "{}", text(&done.stderr));
}
