//! What the piped mode writes to standard output: the plain lines of the
//! protocol, the same in colour where somebody looks, or objects.

use std::io::{self, IsTerminal as _, Write as _};

use super::json::{self, Status};
use super::sanitize::Clean;
use super::theme::Theme;
use super::writer::Writer;
use super::{JoinArgs, print_error};
use crate::protocol::{Event, Message, Place, Tags, text};

/// Standard output.
pub(super) struct Output {
    form: Form,
    is_quiet: bool,
    out: Writer,
}

/// What a line becomes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Itself, for programs.
    Plain,
    /// What may stand on a terminal.
    Shown(Theme),
    /// An object.
    Json,
}

impl Form {
    pub(super) fn of(args: &JoinArgs) -> Self {
        let theme = Theme::new(args.color, args.color_seed);
        if args.json {
            Self::Json
        } else if theme.has_color() || io::stdout().is_terminal() {
            Self::Shown(theme)
        } else {
            Self::Plain
        }
    }
}

impl Output {
    pub(super) fn new(form: Form, is_quiet: bool) -> Self {
        Self { form, is_quiet, out: Writer::start() }
    }

    /// Writes a line of the server. `number`: of which of our lines it is the
    /// answer.
    pub(super) fn line(
        &mut self,
        tags: &Tags<'_>,
        plain: &str,
        number: Option<u64>,
        me: &str,
    ) -> io::Result<()> {
        let out = self.out.batch();
        match self.form {
            Form::Plain => writeln!(out, "{}", text::clean(plain)),
            Form::Shown(theme) => writeln!(out, "{}", shown(theme, plain)),
            Form::Json => json::line(out, tags, plain, number, me),
        }
    }

    /// Tells of the connection, or of a line on it: people on standard error,
    /// programs in an object.
    pub(super) fn status(&mut self, status: Status, number: Option<u64>, text: &str) {
        match number {
            Some(number) => print_error(&format!("line {number}: {text}")),
            None if self.is_quiet && !is_always_told(status) => {}
            None => print_error(text),
        }
        self.status_for_programs(status, number, text);
    }

    /// The same, of what is no reason to say anything to people.
    pub(super) fn status_for_programs(&mut self, status: Status, number: Option<u64>, text: &str) {
        if let Form::Json = self.form {
            // Nobody reads it any more? The next line finds that out too.
            let _ = json::status(self.out.batch(), status, number, text);
        }
    }

    /// Tells why a line of ours was not even sent.
    pub(super) fn error(&mut self, number: u64, code: &str, text: &str) {
        print_error(&format!("line {number}: {code}: {text}"));
        if let Form::Json = self.form {
            let _ = json::error(self.out.batch(), number, code, text);
        }
    }

    /// A reader at the other end of the pipe is not kept waiting for a buffer to
    /// fill.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Whether more can be taken: whoever reads it may pause.
    pub(super) fn has_room(&self) -> bool {
        self.out.has_room()
    }

    /// Waits until there is more room, or a problem.
    pub(super) async fn writable(&self) {
        self.out.writable().await;
    }

    /// Waits until all of it is written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.out.finish()
    }
}

/// Whether it is told also with `--quiet`: it is more than a connection lost and found.
fn is_always_told(status: Status) -> bool {
    matches!(status, Status::Failed | Status::IdsWentBack)
}

fn shown(theme: Theme, plain: &str) -> String {
    let whole = Clean::of(plain);
    let style = match Event::parse(plain) {
        Some(Event::Message(Message { place: Place::Room(_), from, text, .. })) => {
            // Who speaks is in colour; what is said is not.
            let (head, said) = plain.split_at(plain.len() - text.len());
            let head = Clean::of(head);
            return format!("{}{}", theme.name(from).style(head), Clean::of(said));
        }
        Some(Event::Message(_)) => theme.private(),
        Some(Event::Error { .. } | Event::Bye { .. }) => theme.error(),
        Some(Event::Reply { .. } | Event::Users { .. }) => theme.reply(),
        Some(Event::Row { .. } | Event::Help(_)) | None => return whole.to_string(),
        Some(_) => theme.faint(),
    };
    style.style(whole).to_string()
}
