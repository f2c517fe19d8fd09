//! A question on the terminal before the prompt exists, answered with a line.

use std::io::{self, BufRead as _, Write as _};

use tokio::sync::oneshot;

use super::exit::Exit;
use super::signals::Signals;
use super::tty::Terminal;
use crate::{stdio, text_file};

/// Why there is no answer.
#[derive(Debug)]
pub(in crate::client) enum Unanswered {
    /// Ctrl-D.
    Ended,
    /// A signal.
    Stopped(Exit),
    /// The terminal cannot be read; the reason.
    Failed(String),
}

/// Asks on standard error and returns the first line of standard input. `is_hidden`: what is
/// typed is not shown.
pub(in crate::client) async fn ask(question: &str, is_hidden: bool) -> Result<String, Unanswered> {
    let mut signals = Signals::listen().map_err(|_| Unanswered::Stopped(Exit::Unavailable))?;
    let mut stderr = stdio::stderr();
    let _ = stderr.write_all(question.as_bytes());
    let terminal = is_hidden.then(Terminal::quiet);
    let (typed, line) = oneshot::channel();
    // The read cannot be cancelled, so a detached thread does it.
    std::thread::spawn(move || {
        let _ = typed.send(read_line());
    });
    let line = tokio::select! {
        line = line => line,
        exit = signals.next() => {
            drop(terminal);
            let _ = stderr.write_all(b"\n");
            return Err(Unanswered::Stopped(exit));
        }
    };
    drop(terminal);
    match line {
        Ok(Ok(line)) if line.ends_with('\n') => {
            if is_hidden {
                let _ = stderr.write_all(b"\n"); // the Enter key was not echoed
            }
            Ok(text_file::first_line(&line).to_owned())
        }
        line => {
            let _ = stderr.write_all(b"\n");
            match line {
                Ok(Err(problem)) => Err(Unanswered::Failed(stdio::reason(&problem))),
                _ => Err(Unanswered::Ended),
            }
        }
    }
}

/// Reads the first line of standard input, with its line end if it has one.
pub(in crate::client) fn read_line() -> io::Result<String> {
    let mut line = Vec::new();
    stdio::stdin().read_until(b'\n', &mut line)?;
    text_file::decode(line)
}
