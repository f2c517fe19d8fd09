//! Decides what is shown of the server's lines, and prints the notices of the client. It
//! does not know how lines are styled or drawn.

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Chat, NOT_SENT, lock};
use crate::client::model::local;
use crate::client::model::state::LinkState;
use crate::client::model::submission::is_secret;
use crate::client::session::outgoing::UncertainLine;
use crate::client::terminal::latency::OVERDUE_AFTER;
use crate::client::terminal::screen::Styled;
use crate::protocol::{Event, Reply, Tags};

impl Chat {
    /// Shows the received lines while the printer accepts them. `false`: there may be more.
    pub(super) fn receive(&mut self) -> bool {
        while self.printer.has_room() {
            let Some(line) = self.connection.next_line() else { return true };
            let problem = self.attention.message_received(&line, lock(&self.state).me());
            if is_from_others(&line) && self.away_marker.begins_anew(Instant::now()) {
                self.printer.print(self.screen.divider("since you last wrote"));
            }
            self.show(&line);
            if let Some(problem) = problem {
                self.printer.print(self.screen.warning(&problem));
            }
        }
        false
    }

    pub(super) fn show(&mut self, line: &str) {
        let mut lines = self.resumption.complete_answer(line.to_owned());
        let is_help = |line: &String| {
            let event = Event::parse(Tags::split(line).1);
            matches!(event, Some(Event::Reply(Reply::Help { .. })))
        };
        // The list of all commands; add the client's own.
        if lines.first().is_some_and(is_help)
            && let Some(own) = self.pending_help.take()
        {
            let rows = lines.split_off(1);
            self.show_line(&lines[0]);
            return self.show_help(own.into_iter().chain(rows).collect());
        }
        for line in &lines {
            self.show_line(line);
        }
    }

    fn show_help(&mut self, rows: Vec<String>) {
        for (heading, row) in local::grouped(rows) {
            if let Some(heading) = heading {
                self.printer.print(self.screen.divider(heading));
            }
            self.show_line(&row);
        }
    }

    fn show_line(&mut self, line: &str) {
        let (tags, plain) = Tags::split(line);
        let event = Event::parse(plain);
        let is_shown = self.resumption.note(&tags, event.as_ref());
        let (me, is_quiet_room, is_hidden) = {
            let mut state = lock(&self.state);
            let is_hidden = event.as_ref().is_some_and(|event| self.joins.hide(event, &state));
            if let Some(event) = &event {
                state.apply(&tags, event);
            }
            let is_quiet_room = event.as_ref().is_some_and(|event| state.is_muted_room(event));
            (state.me().to_owned(), is_quiet_room, is_hidden)
        };
        if is_shown && !is_quiet_room && !is_hidden {
            let is_coalesced = tags.cid.is_none()
                && event.is_some_and(|event| self.presence.gather(&event, &me, Instant::now()));
            if self.presence.is_full() {
                self.show_presence();
            }
            if !is_coalesced {
                let is_last = matches!(event, Some(Event::Bye { .. }));
                if is_last || self.presence.precedes(plain) {
                    self.show_presence();
                }
                self.print(self.screen.line(line, &me, Timestamp::now()));
            }
        } else if is_quiet_room {
            self.printer.repaint();
        }
        if is_shown && let Some(problem) = self.log.note(&tags, plain) {
            self.printer.print(self.screen.warning(&problem));
        }
        if let (Some(cid), Some(Event::Reply(Reply::Pong { .. }))) = (tags.cid, event)
            && let Some(sent) = self.resumption.outgoing.sent_at(cid)
        {
            let time = sent.elapsed().as_millis();
            self.printer.print(self.screen.notice(&format!("answered in {time} ms")));
        }
        if let (Some(cid), Some(Event::Error { .. })) = (tags.cid, event) {
            let abandoned = self.resumption.outgoing.refused(cid);
            self.warn_of(&abandoned, NOT_SENT);
        }
        if let Some(cid) = tags.cid {
            // After the state was updated: the thread that waits for the answer reads it next.
            self.resumption.outgoing.acknowledge(cid, event.as_ref());
        }
        if let Some(Event::Bye { code, text }) = event {
            self.farewell = Some((code.to_owned(), text.to_owned()));
        }
    }

    fn print(&self, line: Styled) {
        if let Some(day) = self.screen.day(Timestamp::now()) {
            self.printer.print(day);
        }
        self.printer.print(line);
    }

    pub(super) fn show_presence(&mut self) {
        for line in self.presence.take() {
            self.print(self.screen.presence(&line, Timestamp::now()));
        }
    }

    pub(super) fn show_missed(&mut self, missed: &[String]) {
        let news = missed.iter().filter(|line| is_from_others(line)).count();
        if news > 0 {
            self.printer.print(self.screen.divider(&format!("{news} missed")));
        }
        for line in missed {
            self.show(line);
        }
    }

    pub(super) fn warn_of(&self, lines: &[UncertainLine], what: &str) {
        for (_, line) in lines {
            self.printer.print(self.screen.warning(&format!("{what}: {}", redacted(line))));
        }
    }

    /// Shows how long the server has not answered, and reports overdue lines.
    pub(super) fn show_latency(&mut self) {
        let now = Instant::now();
        let since = self.unanswered_since();
        if let Some(seconds) = self.latency.change(since, now) {
            lock(&self.state).link =
                if seconds > 0 { LinkState::Slow(seconds) } else { LinkState::Up };
            self.printer.repaint();
        }
        lock(&self.state).sending = self.resumption.outgoing.load().0;
        let overdue =
            now.checked_sub(OVERDUE_AFTER).map(|then| self.resumption.outgoing.overdue(then));
        for line in overdue.into_iter().flatten() {
            let text = format!("no answer yet, perhaps not delivered: {}", redacted(&line));
            self.printer.print(self.screen.warning(&text));
        }
    }

    /// Turns the quiet mode of a room on or off.
    pub(super) fn toggle_quiet(&mut self, room: Option<String>) {
        let text = {
            let mut state = lock(&self.state);
            match room.or_else(|| state.room().map(str::to_owned)) {
                Some(room) if state.is_in(&room) => {
                    if state.unread.toggle_quiet(&room) {
                        format!(
                            "#{room} is quiet: the prompt counts its messages, and only mentions \
                                 of you are shown; /quiet #{room} again ends this"
                        )
                    } else {
                        format!("#{room} is shown again; /history #{room} has what you missed")
                    }
                }
                Some(room) => format!("you are not in #{room}"),
                None => "you are in no room; /join one to talk".to_owned(),
            }
        };
        self.printer.print(self.screen.notice(&text));
    }

    /// Answers `/help` as far as the client can. `true`: the answer is complete.
    pub(super) fn help(&mut self, line: &str, is_offline: bool) -> bool {
        let Some((rows, is_all)) = local::help(line, is_offline) else { return false };
        if !is_all {
            self.pending_help = Some(rows);
            return false;
        }
        if rows.len() > local::TABLE.len() {
            self.show_help(rows);
        } else {
            for row in &rows {
                self.show_line(row);
            }
        }
        true
    }
}

/// Returns a line with passwords redacted, to be shown again.
pub(super) fn redacted(line: &str) -> &str {
    if is_secret(line) { "(a password)" } else { line }
}

/// Whether a line is a message of another user. Our own missed messages carry a cid.
fn is_from_others(line: &str) -> bool {
    let (tags, plain) = Tags::split(line);
    tags.cid.is_none() && matches!(Event::parse(plain), Some(Event::Message(_)))
}
