//! The output of the piped mode: plain lines of the protocol, the same lines in color on a
//! terminal, or JSON objects. It does not know where the lines come from.

use std::io::{self, Write};

use jiff::Zoned;

use super::json::{self, Status};
use super::writer::Writer;
use crate::client::model::mentions::Highlights;
use crate::client::text::sanitize::Clean;
use crate::client::text::sanitize::print_error;
use crate::client::text::theme::Theme;
use crate::protocol::name::is_same_name;
use crate::protocol::{Event, Message, Place, Stamp, Tags, text};

/// The output of a run.
pub(in crate::client) struct Output {
    form: Form,
    extent: Extent,
    is_quiet: bool,
    out: Writer,
}

/// Which lines of the server are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Extent {
    All,
    /// The answers to the lines of the input.
    Answers,
    Nothing,
}

/// The output format.
#[derive(Debug, Clone)]
pub(in crate::client) enum Form {
    /// The line itself, for programs.
    Plain,
    /// The line in color, sanitized for a terminal.
    Shown(Theme),
    /// Like [`Self::Shown`], for a user who types the lines, perhaps with a screen reader.
    Typed(Theme, Typing),
    /// A JSON object.
    Json,
}

/// How lines are shown to a user who types on the same terminal. The terminal shows the typed
/// lines, so their echoes are left out.
#[derive(Debug, Clone)]
pub(in crate::client) struct Typing {
    pub(in crate::client) has_times: bool,
    /// The words besides the user's name that ring the bell; `None`: nothing does.
    pub(in crate::client) bell: Option<Highlights>,
}

impl Typing {
    /// Returns what precedes a line: a bell if it is for the user, and the time. `None`: the line
    /// is an echo and left out.
    fn start(&self, tags: &Tags<'_>, plain: &str, is_answer: bool, me: &str) -> Option<String> {
        let message = match Event::parse(plain) {
            Some(Event::Message(message)) => Some(message),
            _ => None,
        };
        if is_answer && message.is_some() {
            return None;
        }
        let is_for_me = |words: &Highlights| {
            message.is_some_and(|message| {
                message.place == Place::ToMe
                    || !is_same_name(message.from, me) && words.is_mention(message.text, me)
            })
        };
        let bell = if self.bell.as_ref().is_some_and(is_for_me) { "\x07" } else { "" };
        let (now, time) = (Zoned::now(), tags.time.map(Stamp::timestamp));
        let time = time.map_or_else(|| now.clone(), |time| time.to_zoned(now.time_zone().clone()));
        let format = if time.date() == now.date() { "%H:%M " } else { "%Y-%m-%d %H:%M " };
        let time = if self.has_times { time.strftime(format).to_string() } else { String::new() };
        Some(format!("{bell}{time}"))
    }
}

impl Output {
    /// Returns an output in this form to `out`. `is_quiet`: `--quiet`.
    pub(super) fn new(
        out: impl Write + Send + 'static,
        form: Form,
        extent: Extent,
        is_quiet: bool,
    ) -> Self {
        Self { form, extent, is_quiet, out: Writer::start(out) }
    }

    /// Writes a line of the server. `number` is the number of the line that it answers.
    pub(super) fn line(
        &mut self,
        tags: &Tags<'_>,
        plain: &str,
        number: Option<u64>,
        me: &str,
    ) -> io::Result<()> {
        let is_written = match self.extent {
            Extent::All => true,
            Extent::Answers => number.is_some(),
            Extent::Nothing => false,
        };
        if !is_written {
            return Ok(());
        }
        let out = self.out.batch();
        match &self.form {
            Form::Plain => writeln!(out, "{}", text::clean(plain)),
            Form::Shown(theme) => writeln!(out, "{}", shown(*theme, plain)),
            Form::Typed(theme, typing) => match typing.start(tags, plain, number.is_some(), me) {
                Some(start) => writeln!(out, "{start}{}", shown(*theme, plain)),
                None => Ok(()),
            },
            Form::Json => json::line(out, tags, plain, number, me),
        }
    }

    /// Reports a status of the connection or of a line: on standard error and, with
    /// `--json`, as an object.
    pub(super) fn status(&mut self, status: Status, number: Option<u64>, text: &str) {
        match number {
            Some(number) => print_error(&format!("line {number}: {text}")),
            None if self.is_quiet && !is_always_reported(status) => {}
            None => print_error(text),
        }
        self.status_object(status, number, text);
    }

    /// Reports a status as an object only.
    pub(super) fn status_object(&mut self, status: Status, number: Option<u64>, text: &str) {
        if let Form::Json = self.form {
            // A write error will show up again with the next line.
            let _ = json::status(self.out.batch(), status, number, text);
        }
    }

    /// Reports why an input line was not sent.
    pub(super) fn error(&mut self, number: u64, code: &str, text: &str) {
        print_error(&format!("line {number}: {code}: {text}"));
        if let Form::Json = self.form {
            let _ = json::error(self.out.batch(), number, code, text);
        }
    }

    /// Passes the written lines on, so that the reader of the pipe does not wait for a full
    /// buffer.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Whether more output is accepted; `false` while the reader pauses (backpressure).
    pub(super) fn has_room(&self) -> bool {
        self.out.has_room()
    }

    /// Waits until some output was written, or failed.
    pub(super) async fn writable(&self) {
        self.out.writable().await;
    }

    /// Waits until all output is written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.out.finish()
    }
}

/// Whether the status is reported even with `--quiet`.
fn is_always_reported(status: Status) -> bool {
    matches!(status, Status::Failed | Status::IdsWentBack)
}

fn shown(theme: Theme, plain: &str) -> String {
    let whole = Clean::of(plain);
    let style = match Event::parse(plain) {
        Some(Event::Message(Message { place: Place::Room(_), from, text, .. })) => {
            // The name is in color, the text is not.
            let (head, message) = plain.split_at(plain.len() - text.len());
            let head = Clean::of(head);
            return format!(
                "{}{}",
                theme.name(theme.color_of_name(from)).style(head),
                Clean::of(message)
            );
        }
        Some(Event::Message(_)) => theme.private(),
        Some(Event::Error { .. } | Event::Bye { .. }) => theme.error(),
        Some(Event::Reply(_)) => theme.reply(),
        Some(Event::Row { .. } | Event::Help(_)) | None => return whole.to_string(),
        Some(_) => theme.faint(),
    };
    style.style(whole).to_string()
}
