//! What calls somebody back who looks elsewhere: a notification when they are
//! meant, and the terminal's title. What others wrote gets there cleaned, short and
//! behind a word of ours: terminals take some titles and notifications for commands.

use std::fmt;
use std::io::{self, Write as _};
use std::mem;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::mentions::Highlights;
use super::sanitize::Clean;
use crate::protocol::{Event, Key, Message, Place, Tags};
use crate::stdio;

/// Nobody wants to be called more often.
const NOTIFY_INTERVAL: Duration = Duration::from_secs(2);

/// The longest notification, and the longest title, in characters.
const NOTICE_MAX: usize = 120;
const TITLE_MAX: usize = 80;

/// How to say that somebody is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum NotifyMethod {
    Off,
    /// The terminal's bell.
    #[default]
    Bell,
    /// OSC 9, as iTerm2 and Windows Terminal know it.
    Osc9,
    /// OSC 777, as urxvt, foot and VTE know it.
    Osc777,
    /// A program and its arguments; the text is one more.
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
            _ => Err("it is off, bell, osc9, osc777 or a program, as in [\"notify-send\"]".into()),
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

/// Calls for attention on the terminal that standard output is.
pub(super) struct Notifier {
    notify: NotifyMethod,
    words: Highlights,
    last: Option<Instant>,
    has_failed: bool,
    has_title: bool,
    title: String,
    /// Messages since something was last typed.
    unread: usize,
}

impl Notifier {
    pub(super) fn new(notify: NotifyMethod, words: Highlights, wants_title: bool) -> Self {
        let term = std::env::var("TERM").unwrap_or_default();
        let has_title = wants_title && !matches!(term.as_str(), "linux" | "dumb" | "");
        if has_title {
            write("\x1b[22;2t"); // keep the title there is
        }
        let notify = match notify {
            // tmux keeps such sequences to itself, and tells of a bell.
            NotifyMethod::Osc9 | NotifyMethod::Osc777 if std::env::var_os("TMUX").is_some() => {
                NotifyMethod::Bell
            }
            notify => notify,
        };
        Self {
            notify,
            words,
            last: None,
            has_failed: false,
            has_title,
            title: String::new(),
            unread: 0,
        }
    }

    /// A line has just come. Gives back what went wrong with calling, the first time.
    pub(super) fn heard(&mut self, line: &str, me: &str) -> Option<String> {
        let (_, plain) = Tags::split(line);
        let Some(Event::Message(message)) = Event::parse(plain) else { return None };
        if Key::fold(message.from) == Key::fold(me) {
            return None;
        }
        self.unread += 1;
        let is_due = self.last.is_none_or(|last| last.elapsed() >= NOTIFY_INTERVAL);
        if is_due && (message.place == Place::ToMe || self.words.mean(message.text, me)) {
            self.last = Some(Instant::now());
            let called = self.call(&notice(&message));
            return called.err().filter(|_| !mem::replace(&mut self.has_failed, true));
        }
        None
    }

    /// Something was typed: all is read.
    pub(super) fn typed(&mut self) {
        self.unread = 0;
    }

    /// Shows where lines go and how many are unread.
    pub(super) fn show_title(&mut self, target: &str) {
        let unread = if self.unread > 0 { format!(" ({})", self.unread) } else { String::new() };
        let title = truncate(&format!("chatty {target}"), TITLE_MAX) + &unread;
        if self.has_title && title != self.title {
            write(&format!("\x1b]2;{title}\x07"));
            self.title = title;
        }
    }

    fn call(&self, text: &str) -> Result<(), String> {
        match &self.notify {
            NotifyMethod::Off => {}
            NotifyMethod::Bell => write("\x07"),
            NotifyMethod::Osc9 => write(&format!("\x1b]9;{text}\x07")),
            NotifyMethod::Osc777 => write(&format!("\x1b]777;notify;chatty;{text}\x07")),
            NotifyMethod::Program(program) => run(program, text)
                .map_err(|why| format!("cannot call you, {} does not run: {why}", program[0]))?,
        }
        Ok(())
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if self.has_title {
            write("\x1b[23;2t"); // the title there was
        }
    }
}

/// `chatty: bob in #ops: hi alice`
fn notice(message: &Message<'_>) -> String {
    let room = match message.place {
        Place::Room(room) => format!(" in #{room}"),
        Place::ToMe | Place::ToPerson(_) => String::new(),
    };
    truncate(&format!("chatty: {}{room}: {}", message.from, message.text), NOTICE_MAX)
}

/// Clean, of so many characters, and without what parts the fields of a sequence.
fn truncate(text: &str, max: usize) -> String {
    let text = Clean::of(text).to_string().replace(';', ",");
    if text.chars().count() <= max {
        return text;
    }
    text.chars().take(max - 1).chain(['…']).collect()
}

fn write(text: &str) {
    // Without a terminal there is nobody to call.
    let _ = stdio::stdout().write_all(text.as_bytes());
}

/// No shell is asked, so nothing that others wrote is ever a command.
fn run(program: &[String], text: &str) -> io::Result<()> {
    let mut child = Command::new(&program[0])
        .args(&program[1..])
        .arg(text)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    thread::spawn(move || child.wait()); // nobody waits for it but somebody has to
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_short_clean_and_no_command_of_a_terminal() {
        let say = |place, text| notice(&Message { place, from: "bob", is_action: false, text });
        assert_eq!(say(Place::Room("ops"), "hi alice"), "chatty: bob in #ops: hi alice");
        assert_eq!(say(Place::ToMe, "a;b\x07\x1b]2;x"), "chatty: bob: a,b\u{FFFD}\u{FFFD}]2,x");
        let long = say(Place::ToMe, &"x".repeat(500));
        assert_eq!(long.chars().count(), NOTICE_MAX);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn how_to_be_called_is_written_and_read() {
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
