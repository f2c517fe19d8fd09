//! Output generated from the command line's definitions: completions and manual pages.

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
fn completions_are_valid_shell_scripts() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = chatty(&["completions", shell]);
        for word in ["serve", "join", "retry-for"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    if !has_program("bash") {
        return;
    }
    let script = chatty(&["completions", "bash"]);
    let checked = feed("bash", &["-n"], &script);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let asked = "COMP_WORDS=(chatty join --retry) COMP_CWORD=2; _chatty chatty --retry join; \
                 echo \"${COMPREPLY[@]}\"";
    let answer = feed("bash", &["-s"], &format!("{script}\n{asked}\n"));
    assert_eq!(text(&answer.stdout), "--retry-for\n", "{}", text(&answer.stderr));
}

#[test]
fn manuals_render_without_warnings() {
    let pages =
        [&["man"][..], &["man", "join"], &["man", "serve"], &["man", "hash-password"]].map(chatty);
    assert!(pages[0].contains("chatty\\-join(1)") && !pages[0].contains("chatty\\-help(1)"));
    assert!(pages[1].contains("\\-\\-retry\\-for"));
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
fn packaging_commands_are_hidden_from_help() {
    let help = chatty(&["--help"]);
    assert!(!help.contains("completions") && !help.contains("  man"), "{help}");
    if !has_program("bash") {
        return;
    }
    let cut = format!("{CHATTY_WORD} completions bash | head -1");
    let done = Command::new("bash").args(["-o", "pipefail", "-c", &cut]).output().expect("bash");
    assert!(done.status.success() && done.stderr.is_empty(), "{}", text(&done.stderr));
}
