//! Notifications for mentions and private messages, and the terminal's title. It does not know
//! what is on the screen.
//!
//! Text of other users is cleaned, truncated and prefixed with a word of the client, because
//! some terminals interpret certain titles and notifications as commands.

use std::fmt;
use std::io::{self, Write as _};
use std::mem;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::model::mentions::Highlights;
use crate::client::text::sanitize::Clean;
use crate::protocol::name::is_same_name;
use crate::protocol::{Event, Message, Place, Tags};
use crate::stdio;

/// The least time between two notifications.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(2);

/// The longest notification and the longest title, in characters.
const NOTICE_MAX: usize = 120;
const TITLE_MAX: usize = 80;

/// Pops the title that was pushed.
const RESTORE_TITLE: &str = "\x1b[23;2t";

/// How the user is notified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::client) enum NotifyMethod {
    Off,
    /// The terminal's bell.
    #[default]
    Bell,
    /// OSC 9, supported by iTerm2 and Windows Terminal.
    Osc9,
    /// OSC 777, supported by urxvt, foot and VTE.
    Osc777,
    /// A program and its arguments; the text is appended as another argument.
    Program(Vec<String>),
}

impl FromStr for NotifyMethod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => return Ok(Self::Off),
            "bell" => return Ok(Self::Bell),
            "osc9" => return Ok(Self::Osc9),
            "osc777" => return Ok(Self::Osc777),
            _ => {}
        }
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(program) if !program.is_empty() => Ok(Self::Program(program)),
            _ => Err("use off, bell, osc9, osc777 or a program such as [\"notify-send\"]".into()),
        }
    }
}

impl fmt::Display for NotifyMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Bell => f.write_str("bell"),
            Self::Osc9 => f.write_str("osc9"),
            Self::Osc777 => f.write_str("osc777"),
            Self::Program(program) => write!(f, "{program:?}"),
        }
    }
}

/// Notifies the user through the terminal on standard output, or by a program.
pub(in crate::client) struct Notifier {
    method: NotifyMethod,
    pub(super) words: Highlights,
    last: Option<Instant>,
    has_failed: bool,
    has_title: bool,
    title: String,
    /// Messages since the last input.
    unread: usize,
}

impl Notifier {
    pub(in crate::client) fn new(
        method: NotifyMethod,
        words: Highlights,
        wants_title: bool,
    ) -> Self {
        let mut notifier = Self {
            method: NotifyMethod::Off,
            words,
            last: None,
            has_failed: false,
            has_title: false,
            title: String::new(),
            unread: 0,
        };
        notifier.set_method(method);
        notifier.set_title(wants_title);
        notifier
    }

    pub(super) fn method(&self) -> &NotifyMethod {
        &self.method
    }

    pub(super) fn set_method(&mut self, method: NotifyMethod) {
        self.has_failed = false;
        self.method = match method {
            // tmux does not pass these sequences on, but reports a bell.
            NotifyMethod::Osc9 | NotifyMethod::Osc777 if std::env::var_os("TMUX").is_some() => {
                NotifyMethod::Bell
            }
            method => method,
        };
    }

    pub(super) fn has_title(&self) -> bool {
        self.has_title
    }

    /// Starts or stops to show the title. The terminal's own title is saved and restored.
    pub(super) fn set_title(&mut self, wants_title: bool) {
        let term = std::env::var("TERM").unwrap_or_default();
        let has_title = wants_title && !matches!(term.as_str(), "linux" | "dumb" | "");
        match (self.has_title, has_title) {
            (false, true) => write("\x1b[22;2t"), // push the current title
            (true, false) => write(RESTORE_TITLE),
            _ => {}
        }
        (self.has_title, self.title) = (has_title, String::new());
    }

    /// Handles a received line, and notifies the user if it concerns them. Returns the error of
    /// the first notification that fails.
    pub(super) fn message_received(&mut self, line: &str, me: &str) -> Option<String> {
        let (_, plain) = Tags::split(line);
        let Some(Event::Message(message)) = Event::parse(plain) else { return None };
        if is_same_name(message.from, me) {
            return None;
        }
        self.unread += 1;
        let is_due = self.last.is_none_or(|last| last.elapsed() >= NOTIFY_INTERVAL);
        if is_due && (message.place == Place::ToMe || self.words.is_mention(message.text, me)) {
            self.last = Some(Instant::now());
            let result = self.notify(&notice(&message));
            return result.err().filter(|_| !mem::replace(&mut self.has_failed, true));
        }
        None
    }

    /// Handles input of the user, which means that all messages are read.
    pub(super) fn typed(&mut self) {
        self.unread = 0;
    }

    /// Shows the target and the number of unread messages in the title.
    pub(super) fn show_title(&mut self, target: &str) {
        let unread = if self.unread > 0 { format!(" ({})", self.unread) } else { String::new() };
        let title = truncate(&format!("chatty {target}"), TITLE_MAX) + &unread;
        if self.has_title && title != self.title {
            write(&format!("\x1b]2;{title}\x07"));
            self.title = title;
        }
    }

    fn notify(&self, text: &str) -> Result<(), String> {
        match &self.method {
            NotifyMethod::Off => {}
            NotifyMethod::Bell => write("\x07"),
            NotifyMethod::Osc9 => write(&format!("\x1b]9;{text}\x07")),
            NotifyMethod::Osc777 => write(&format!("\x1b]777;notify;chatty;{text}\x07")),
            NotifyMethod::Program(program) => run(program, text)
                .map_err(|why| format!("notifications fail: cannot run {}: {why}", program[0]))?,
        }
        Ok(())
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if self.has_title {
            write(RESTORE_TITLE);
        }
    }
}

/// Returns `chatty: bob in #ops: hi alice`.
fn notice(message: &Message<'_>) -> String {
    let room = match message.place {
        Place::Room(room) => format!(" in #{room}"),
        Place::ToMe | Place::ToPerson(_) => String::new(),
    };
    truncate(&format!("chatty: {}{room}: {}", message.from, message.text), NOTICE_MAX)
}

/// Cleans a text, truncates it to `max` characters and replaces `;`, which separates the fields
/// of an escape sequence.
fn truncate(text: &str, max: usize) -> String {
    let text = Clean::of(text).to_string().replace(';', ",");
    if text.chars().count() <= max {
        return text;
    }
    text.chars().take(max - 1).chain(['…']).collect()
}

fn write(text: &str) {
    // Fails only without a terminal, and then there is no user to notify.
    let _ = stdio::stdout().write_all(text.as_bytes());
}

/// Runs a program without a shell, so that text of other users is never executed.
fn run(program: &[String], text: &str) -> io::Result<()> {
    let mut child = Command::new(&program[0])
        .args(&program[1..])
        .arg(text)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    thread::spawn(move || child.wait()); // reaps the child, without blocking the client
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notice_is_truncated_clean_and_no_terminal_command() {
        let notice = |place, text| notice(&Message { place, from: "bob", is_action: false, text });
        assert_eq!(notice(Place::Room("ops"), "hi alice"), "chatty: bob in #ops: hi alice");
        assert_eq!(notice(Place::ToMe, "a;b\x07\x1b]2;x"), "chatty: bob: a,b\u{FFFD}\u{FFFD}]2,x");
        let long = notice(Place::ToMe, &"x".repeat(500));
        assert_eq!(long.chars().count(), NOTICE_MAX);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn notify_method_is_parsed_and_printed() {
        let program = NotifyMethod::Program(vec!["notify-send".to_owned(), "-u".to_owned()]);
        for notify in [
            NotifyMethod::Off,
            NotifyMethod::Bell,
            NotifyMethod::Osc9,
            NotifyMethod::Osc777,
            program,
        ] {
            assert_eq!(notify.to_string().parse(), Ok(notify));
        }
        for wrong in ["", "on", "[]", "[1]", "notify-send"] {
            assert!(wrong.parse::<NotifyMethod>().is_err(), "{wrong}");
        }
    }
}
