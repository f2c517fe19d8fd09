//! The password of a registered name: from a file, from the environment, or
//! typed where nobody sees it. Never from the command line, which every other
//! user of the machine can read.

use std::fmt;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::oneshot;

use super::signals::Signals;
use super::terminal::Terminal;
use super::{Exit, print_error};
use crate::{stdio, text_file};

/// Where it may stand beside the file.
const VARIABLE: &str = "CHATTY_PASSWORD";

/// A password; it is not in any debug output.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a password)")
    }
}

impl Password {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The first line of the file, or of what the command writes; without them,
    /// what the environment says.
    pub(super) fn given(
        file: Option<&Path>,
        command: Option<&str>,
    ) -> Result<Option<Self>, String> {
        let text = match (file, command) {
            (Some(path), _) => text_file::read(path)
                .map_err(|why| format!("cannot read a password in {}: {why}", path.display()))?,
            (None, Some(command)) => command_output(command)?,
            (None, None) => match std::env::var(VARIABLE) {
                Ok(text) if !text.is_empty() => text,
                Ok(_) | Err(std::env::VarError::NotPresent) => return Ok(None),
                Err(_) => return Err(format!("{VARIABLE} is not UTF-8")),
            },
        };
        match text_file::first_line(&text) {
            line if !line.is_empty() => Ok(Some(Self::new(line))),
            _ => Err(match (file, command) {
                (Some(path), _) => format!("{} has no password in its first line", path.display()),
                (None, Some(command)) => format!("\"{command}\" wrote no password"),
                (None, None) => format!("{VARIABLE} has no password in its first line"),
            }),
        }
    }

    /// Asks for it; what is typed is not shown. `Err`: the person would rather
    /// leave.
    pub(super) async fn ask(name: &str, problem: &str) -> Result<Self, Exit> {
        if !problem.is_empty() {
            print_error(problem);
        }
        Self::ask_for(&format!("password for {name}")).await
    }

    async fn ask_for(what: &str) -> Result<Self, Exit> {
        let mut signals = Signals::listen().map_err(|_| Exit::Unavailable)?;
        let mut stderr = stdio::stderr();
        let _ = stderr.write_all(format!("{what}: ").as_bytes());
        let terminal = Terminal::quiet();
        let (typed, line) = oneshot::channel();
        // Reading cannot be called off, so it is a thread that nobody waits for.
        std::thread::spawn(move || {
            let _ = typed.send(read_line());
        });
        let line = tokio::select! {
            line = line => line,
            exit = signals.next() => {
                drop(terminal);
                let _ = stderr.write_all(b"\n");
                return Err(exit);
            }
        };
        drop(terminal);
        let _ = stderr.write_all(b"\n"); // the Enter that was not shown
        match line {
            Ok(Ok(line)) if line.ends_with('\n') => Ok(Self::new(text_file::first_line(&line))),
            Ok(Err(problem)) => {
                print_error(&format!("cannot read the password: {}", stdio::reason(&problem)));
                Err(Exit::Unavailable)
            }
            _ => Err(Exit::NameRefused), // Ctrl-D
        }
    }
}

/// A command may ask at the terminal; only its output is ours.
fn command_output(command: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", command]).stderr(Stdio::inherit()).output();
    let output = output.map_err(|problem| format!("cannot run the password command: {problem}"))?;
    if !output.status.success() {
        return Err(format!("no password: the command for it ended with {}", output.status));
    }
    text_file::decode(output.stdout).map_err(|why| format!("no password from \"{command}\": {why}"))
}

/// The first line of standard input, with its end if it has one.
fn read_line() -> io::Result<String> {
    let mut line = Vec::new();
    stdio::stdin().read_until(b'\n', &mut line)?;
    text_file::decode(line)
}

/// A new password: from the first line of what comes in or, at a terminal, typed
/// twice.
///
/// # Errors
/// There is none, or it was typed differently.
pub fn new_password() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let line = read_line().context("cannot read the password")?;
        let line = text_file::first_line(&line);
        ensure!(!line.is_empty(), "there is no password in the first line");
        return Ok(line.to_owned());
    }
    let asking = async {
        let first = Password::ask_for("new password").await?;
        Ok::<_, Exit>((first, Password::ask_for("the same again").await?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(asking);
    runtime.shutdown_background();
    let Ok((first, second)) = asked else { bail!("no password was given") };
    ensure!(first == second, "these were two passwords; nothing is written");
    ensure!(!first.as_str().is_empty(), "an empty password protects nothing");
    Ok(first.0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn it_is_the_first_line_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        for (text, password) in [
            ("open sesame \nnot this\n", Some("open sesame ")),
            ("no newline", Some("no newline")),
            ("crlf\r\n", Some("crlf")),
            ("\u{FEFF}marked\r\n", Some("marked")),
            ("\u{FEFF}\n", None),
            ("\nempty first\n", None),
            ("", None),
        ] {
            fs::write(&path, text).unwrap();
            let given = Password::given(Some(&path), None).ok().flatten();
            assert_eq!(given.as_ref().map(Password::as_str), password, "{text:?}");
        }
        assert!(Password::given(Some(&folder.path().join("none")), None).is_err());
        let given = Password::given(None, Some("printf 'a b\\nc\\n'")).unwrap();
        assert_eq!(given.as_ref().map(Password::as_str), Some("a b"));
        let given = Password::given(None, Some("printf '\\357\\273\\277a b\\r\\n'")).unwrap();
        assert_eq!(given.as_ref().map(Password::as_str), Some("a b"));
        for wrong in ["exit 3", "true", "printf '\\377\\n'", "printf '\\377\\376a\\000'"] {
            assert!(Password::given(None, Some(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(format!("{:?}", Password::new("x1")), "(a password)");
    }
}
