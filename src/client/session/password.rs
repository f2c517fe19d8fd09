//! The password of an account: from a file, a command, the environment, or a prompt without
//! echo. Never from the command line, which all users of the machine can read.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::client::process::exit::Exit;
use crate::client::process::question::{Unanswered, ask, read_line};
use crate::client::text::sanitize::print_error;
use crate::text_file;

/// The environment variable that may hold the password.
const VARIABLE: &str = "CHATTY_PASSWORD";

/// A password that is redacted in debug output.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::client) struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a password)")
    }
}

impl Password {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(in crate::client) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first line of the file or of the command's output, else the first line
    /// of the environment variable, if it is set.
    pub(in crate::client) fn from_sources(
        file: Option<&Path>,
        command: Option<&str>,
    ) -> Result<Option<Self>, String> {
        let text = match (file, command) {
            (Some(path), _) => text_file::read(path)
                .map_err(|why| format!("cannot read the password in {}: {why}", path.display()))?,
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
                (Some(path), _) => format!(
                    "the first line of {} is empty; it must be the password",
                    path.display()
                ),
                (None, Some(command)) => format!("\"{command}\" wrote no password"),
                (None, None) => format!("the first line of {VARIABLE} is empty"),
            }),
        }
    }

    /// Asks for the password without echo. `Err`: the user left.
    pub(in crate::client) async fn ask(name: &str, problem: &str) -> Result<Self, Exit> {
        if !problem.is_empty() {
            print_error(problem);
        }
        Self::ask_for(&format!("password for {name}")).await
    }

    async fn ask_for(what: &str) -> Result<Self, Exit> {
        match ask(&format!("{what}: "), true).await {
            Ok(line) => Ok(Self::new(&line)),
            Err(Unanswered::Ended) => Err(Exit::NameRefused),
            Err(Unanswered::Stopped(exit)) => Err(exit),
            Err(Unanswered::Failed(why)) => {
                print_error(&format!("cannot read the password: {why}"));
                Err(Exit::Unavailable)
            }
        }
    }
}

/// Runs the command and returns its output. Its standard error is inherited, so that it can
/// prompt on the terminal.
fn command_output(command: &str) -> Result<String, String> {
    let output = Command::new("sh").args(["-c", command]).stderr(Stdio::inherit()).output();
    let output = output.map_err(|problem| format!("cannot run the password command: {problem}"))?;
    if !output.status.success() {
        return Err(format!("the password command failed: {}", output.status));
    }
    text_file::decode(output.stdout)
        .map_err(|why| format!("cannot read the output of \"{command}\": {why}"))
}

/// Reads a new password: the first line of standard input or, on a terminal, typed twice.
///
/// # Errors
/// The input cannot be read, the password is empty, or the two entries differ.
pub fn new_password() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let line = read_line().context("cannot read the password")?;
        let line = text_file::first_line(&line);
        ensure!(!line.is_empty(), "the first line is empty; it must be the password");
        return Ok(line.to_owned());
    }
    let asking = async {
        let first = Password::ask_for("new password").await?;
        Ok::<_, Exit>((first, Password::ask_for("repeat the new password").await?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.block_on(asking);
    runtime.shutdown_background();
    let Ok((first, second)) = entered else { bail!("no password given") };
    ensure!(first == second, "the passwords differ; nothing was written");
    ensure!(!first.as_str().is_empty(), "the password is empty; nothing was written");
    Ok(first.0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn password_is_first_line_of_file_or_command_output() {
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
            let given = Password::from_sources(Some(&path), None).ok().flatten();
            assert_eq!(given.as_ref().map(Password::as_str), password, "{text:?}");
        }
        assert!(Password::from_sources(Some(&folder.path().join("none")), None).is_err());
        let given = Password::from_sources(None, Some("printf 'a b\\nc\\n'")).unwrap();
        assert_eq!(given.as_ref().map(Password::as_str), Some("a b"));
        let given =
            Password::from_sources(None, Some("printf '\\357\\273\\277a b\\r\\n'")).unwrap();
        assert_eq!(given.as_ref().map(Password::as_str), Some("a b"));
        for wrong in ["exit 3", "true", "printf '\\377\\n'", "printf '\\377\\376a\\000'"] {
            assert!(Password::from_sources(None, Some(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(format!("{:?}", Password::new("x1")), "(a password)");
    }
}
