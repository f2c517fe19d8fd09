//! The chat on the screen: decides what is shown of the server's lines, what becomes of typed
//! lines, and which notices are printed. It knows neither the connection nor how lines are styled
//! or drawn.

mod settings;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::time::Instant;

use super::away_marker::AwayMarker;
use super::latency::{Latency, OVERDUE_AFTER};
use super::members::MemberList;
use super::notify::Notifier;
use super::presence::{Joins, Presence};
use super::printer::{Printer, size};
use super::prompt::Waiting;
use super::screen::{Screen, Styled};
use super::shared::lock;
use crate::client::log_files::LogFiles;
use crate::client::model::local;
use crate::client::model::state::{LinkState, State};
use crate::client::model::submission::is_secret;
use crate::client::remembered_rooms::RememberedRooms;
use crate::client::session::login::Session;
use crate::client::session::outgoing::{UncertainLine, in_local_time};
use crate::client::session::reconnect::{Outcome, Reconnected};
use crate::client::session::resume::{
    ANSWER_CUT, IDS_WENT_BACK, MISSED_LIMIT_REACHED, Resumption, reconnected_message,
};
use crate::commands::{self, Command, MessageTarget, Parsed};
use crate::protocol::text::is_blank_text;
use crate::protocol::{Event, Key, Moderation, Reply, Tags};

/// The reports about lines without an answer.
const UNCERTAIN: &str = "perhaps not delivered";
const NOT_SENT: &str = "not sent";

/// In larger rooms, `/who` asks for the names only, which are a tenth of the details.
const DETAILED_MAX: usize = 1000;

/// The chat of one run, across connections.
pub(super) struct Chat {
    pub(super) resumption: Resumption,
    pub(super) state: Arc<Mutex<State>>,
    pub(super) printer: Printer,
    screen: Screen,
    attention: Notifier,
    pub(super) presence: Presence,
    joins: Joins,
    pub(super) latency: Latency,
    away_marker: AwayMarker,
    /// The help rows of the client's own commands, to be added to the server's answer to
    /// `/help`.
    pending_help: Option<Vec<String>>,
    log: LogFiles,
    pub(super) rooms: RememberedRooms,
    /// The settings file, until its name was shown.
    pub(super) settings_file: Option<String>,
    /// Whether the server describes the members of a room (`/who -l`).
    pub(super) has_who_details: bool,
    /// The line numbers of the typed `/who` that were sent as `/who -l`.
    detailed: BTreeSet<u64>,
    /// The names that the rest of an abridged member list has.
    names_left_out: usize,
    /// The cid of the last `/join` of a room that the user was in already: a switch, whose answer
    /// is shown without topic and member list.
    switched_by: Option<String>,
    /// The code and the text of the server's farewell.
    pub(super) farewell: Option<(String, String)>,
}

impl Chat {
    pub(super) fn new(
        resumption: Resumption,
        state: Arc<Mutex<State>>,
        printer: Printer,
        screen: Screen,
        attention: Notifier,
        joins: Joins,
        log: LogFiles,
    ) -> Self {
        Self {
            resumption,
            state,
            printer,
            screen,
            attention,
            presence: Presence::default(),
            joins,
            latency: Latency::default(),
            away_marker: AwayMarker::new(Instant::now()),
            pending_help: None,
            switched_by: None,
            log,
            rooms: RememberedRooms::none(),
            settings_file: None,
            has_who_details: false,
            detailed: BTreeSet::new(),
            names_left_out: 0,
            farewell: None,
        }
    }

    /// Shows a line that was just received, and what it requires.
    pub(super) fn receive(&mut self, line: &str) {
        let problem = self.attention.message_received(line, lock(&self.state).me());
        if is_from_others(line) && self.away_marker.begins_anew(Instant::now()) {
            self.printer.print(self.screen.divider("since you last wrote"));
        }
        self.show(line);
        if let Some(problem) = problem {
            self.warn(&problem);
        }
    }

    /// Shows a line of the server, once its answer is complete.
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
        let list = self.member_list(&lines);
        for line in &lines {
            self.process_line(line, list.is_none());
        }
        if let Some(list) = list {
            self.show_presence();
            let rows = self.screen.member_list(&list, &lock(&self.state), Timestamp::now(), size());
            for row in rows {
                self.print(row);
            }
        }
    }

    /// Returns the members in the complete answer to a typed `/who`.
    fn member_list(&mut self, lines: &[String]) -> Option<MemberList> {
        let (tags, plain) = Tags::split(lines.first()?);
        let number = self.resumption.outgoing.cids().number(tags.cid?)?;
        let is_detailed = self.detailed.remove(&number);
        match Event::parse(plain)? {
            Event::Reply(Reply::Who { .. }) if !is_detailed => return None,
            _ => {}
        }
        let mut list = MemberList::parse(lines)?;
        list.sort(&lock(&self.state));
        Some(list)
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
        self.process_line(line, true);
    }

    /// Handles a line and, if it `is_visible`, shows it.
    fn process_line(&mut self, line: &str, is_visible: bool) {
        let (tags, plain) = Tags::split(line);
        let event = Event::parse(plain);
        let is_shown = self.resumption.note(&tags, event.as_ref());
        let is_visible = is_visible && !self.continues_list(event.as_ref());
        let (me, is_quiet_room, is_hidden) = {
            let mut state = lock(&self.state);
            if let Some(Event::Reply(Reply::Joined { room })) = event {
                self.switched_by = tags.cid.filter(|_| state.is_in(room)).map(str::to_owned);
            }
            let is_list =
                matches!(event, Some(Event::Reply(Reply::Users { .. } | Reply::Topic { .. })));
            let is_hidden =
                is_list && tags.cid.is_some() && tags.cid == self.switched_by.as_deref()
                    || event.as_ref().is_some_and(|event| self.joins.hide(event, &state));
            if let Some(event) = &event {
                state.apply(&tags, event);
            }
            let is_quiet_room = event.as_ref().is_some_and(|event| state.is_muted_room(event));
            (state.me().to_owned(), is_quiet_room, is_hidden)
        };
        if is_shown && is_visible && !is_quiet_room && !is_hidden {
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
                let now = Timestamp::now();
                let styled = self.screen.line(line, &lock(&self.state), now, size().0);
                self.print(styled);
            }
        } else if is_quiet_room {
            self.printer.repaint();
        }
        if is_shown && let Some(problem) = self.log.note(&tags, plain) {
            self.warn(&problem);
        }
        if let Some(Event::Reply(reply)) = event
            && let Err(problem) = self.remember_rooms(&reply)
        {
            self.warn(&problem);
        }
        if let (Some(cid), Some(Event::Reply(Reply::Pong { .. }))) = (tags.cid, event)
            && let Some(sent) = self.resumption.outgoing.sent_at(cid)
        {
            let time = sent.elapsed().as_millis();
            self.notice(&format!("answered in {time} ms"));
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

    /// Stores the rooms after a reply that changes them, or that begins or ends an account.
    fn remember_rooms(&mut self, reply: &Reply<'_>) -> Result<(), String> {
        match *reply {
            Reply::Joined { .. }
            | Reply::Parted { .. }
            | Reply::Moderation(Moderation::Kicked { .. }) => {}
            Reply::Registered { name } => self.rooms.account_changed(Some(name)),
            Reply::Unregistered { .. } => self.rooms.account_changed(None),
            _ => return Ok(()),
        }
        self.rooms.save(&lock(&self.state).rooms_to_remember())
    }

    /// Whether a line continues a member list whose first line shows as many names as fit.
    fn continues_list(&mut self, event: Option<&Event<'_>>) -> bool {
        let Some(&Event::Reply(Reply::Users { count, names: Some(names), .. })) = event else {
            return false;
        };
        let names = names.iter().count();
        let is_rest = self.names_left_out > 0;
        let before = if is_rest { self.names_left_out } else { count };
        self.names_left_out = before.saturating_sub(names);
        is_rest
    }

    fn print(&self, line: Styled) {
        if let Some(day) = self.screen.day(Timestamp::now()) {
            self.printer.print(day);
        }
        self.printer.print(line);
    }

    pub(super) fn show_title(&mut self) {
        self.attention.show_title(&lock(&self.state).target());
    }

    pub(super) fn show_presence(&mut self) {
        for line in self.presence.take() {
            self.print(self.screen.presence(&line, Timestamp::now()));
        }
    }

    fn show_missed(&mut self, missed: &[String]) {
        let news = missed.iter().filter(|line| is_from_others(line)).count();
        if news > 0 {
            self.printer.print(self.screen.divider(&format!("{news} missed")));
        }
        for line in missed {
            self.show(line);
        }
    }

    fn warn_of(&self, lines: &[UncertainLine], what: &str) {
        for (_, line) in lines {
            self.warn(&format!("{what}: {}", redacted(line)));
        }
    }

    /// Shows how long the server has not answered, and reports overdue lines.
    pub(super) fn show_latency(&mut self, unanswered_since: Option<Instant>) {
        let now = Instant::now();
        if let Some(seconds) = self.latency.change(unanswered_since, now) {
            lock(&self.state).link =
                if seconds > 0 { LinkState::Slow(seconds) } else { LinkState::Up };
            self.printer.repaint();
        }
        lock(&self.state).sending = self.resumption.outgoing.load().0;
        let overdue =
            now.checked_sub(OVERDUE_AFTER).map(|then| self.resumption.outgoing.overdue(then));
        for line in overdue.into_iter().flatten() {
            let text = format!("no answer yet, perhaps not delivered: {}", redacted(&line));
            self.warn(&text);
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
        self.notice(&text);
    }

    /// Answers `/help` as far as the client can. `true`: the answer is complete.
    fn help(&mut self, line: &str, is_offline: bool) -> bool {
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

    /// Queues a line until it is answered, unless the client can answer it itself.
    pub(super) fn queue_line(&mut self, line: String, waiting: Option<Waiting>, is_offline: bool) {
        self.attention.typed();
        self.away_marker.typed(Instant::now());
        if self.help(&line, is_offline) || self.lacks_away_text(&line) {
            return;
        }
        if is_offline {
            self.printer.print(self.screen.pending(redacted(&line)));
        }
        let line = in_local_time(line);
        let pinned = lock(&self.state).with_fixed_target(&line);
        let detailed = self.detailed_who(&line);
        let is_detailed = detailed.is_some();
        let number = self.resumption.outgoing.add(detailed.unwrap_or(line), pinned, waiting);
        self.detailed.extend(is_detailed.then_some(number));
    }

    /// Returns `/who -l` for a `/who`, because its answer has the marks of the members.
    fn detailed_who(&self, line: &str) -> Option<String> {
        let Ok(Parsed::Command(Command::Who { room, has_details: false })) = commands::parse(line)
        else {
            return None;
        };
        let is_small = lock(&self.state).member_count(room) <= DETAILED_MAX;
        let detailed = || Command::Who { room, has_details: true }.to_string();
        (self.has_who_details && is_small).then(detailed)
    }

    /// Asks for a text if `/away` has none: in IRC that ends being away.
    fn lacks_away_text(&self, line: &str) -> bool {
        if commands::parse(line) != Ok(Parsed::Command(Command::Away { text: None })) {
            return false;
        }
        let is_away = lock(&self.state).is_away();
        self.warn(if is_away {
            "you are away; /back ends it, /away TEXT changes the text"
        } else {
            "say why: /away TEXT, and /back when you return"
        });
        true
    }

    /// Queues a text for the current room, regardless of the target of plain lines.
    pub(super) fn say_in_room(&mut self, text: &str, is_offline: bool) {
        let room = lock(&self.state).room().map(str::to_owned);
        match room {
            _ if is_blank_text(text) => self.warn("usage: /say TEXT"),
            Some(room) => {
                let line = Command::Msg { to: MessageTarget::Room(&room), text }.to_string();
                self.queue_line(line, None, is_offline);
            }
            None => self.warn("not sent: you are in no room; /join one to talk"),
        }
    }

    /// Shows that the connection is lost.
    pub(super) fn connection_lost(&mut self) {
        self.show_presence();
        if self.resumption.cut_answer().is_some() {
            self.warn(ANSWER_CUT);
        }
        lock(&self.state).link = LinkState::Lost;
        self.notice("connection lost; reconnecting …");
    }

    /// Continues after the connection was restored.
    pub(super) fn continue_after_reconnect(&mut self, back: Reconnected) {
        let (again, session) = match back.how {
            Outcome::Resumed => (None, None),
            Outcome::Restored(seen, session) => (Some(seen), Some(session)),
            Outcome::NewSession(session) => (None, Some(session)),
        };
        let is_same_session = session.is_none() || again.is_some();
        self.resumption.restored(again);
        // Set the state first: each print redraws the prompt.
        lock(&self.state).link = LinkState::Up;
        lock(&self.state).resumed_as(&back.me);
        self.notice(&reconnected_message(back.after, !is_same_session));
        if back.ids_were_reset {
            self.warn(IDS_WENT_BACK);
        }
        self.show_missed(&back.missed);
        if let Some(session) = session.as_ref().filter(|_| !is_same_session) {
            // Lines sent in the old session may or may not have been delivered.
            let uncertain = self.resumption.start_new_session(&session.me, &session.missed);
            self.warn_of(&uncertain, UNCERTAIN);
        }
        if let Some(session) = &session {
            self.return_to_place(session);
        }
        if is_same_session {
            self.resumption.resend_unanswered();
        }
    }

    /// Rebuilds the state from the server's answers. Waiting lines are abandoned if the
    /// target of plain lines has changed.
    fn return_to_place(&mut self, session: &Session) {
        let before = lock(&self.state).me().to_owned();
        if Key::fold(&before) != Key::fold(&session.me) {
            let text = format!(
                "{before} is in use by another user; you are now {} (/nick changes it)",
                session.me
            );
            self.warn(&text);
        }
        let anew = lock(&self.state).reset(&session.me);
        let before = std::mem::replace(&mut *lock(&self.state), anew);
        session.lines.iter().for_each(|line| self.show(line));
        self.show_missed(&session.missed);
        if session.has_more {
            self.notice(MISSED_LIMIT_REACHED);
        }
        if !lock(&self.state).has_same_target(&before) {
            self.abandon_lines();
        }
    }

    /// Reports the lines without an answer, which are not sent again.
    pub(super) fn abandon_lines(&mut self) {
        let uncertain = self.resumption.outgoing.abandon_sent();
        self.warn_of(&uncertain, UNCERTAIN);
        let waiting = self.resumption.outgoing.abandon_unsent();
        self.warn_of(&waiting, NOT_SENT);
    }

    /// Shows how long the chat was and how many messages were read.
    pub(super) fn show_sum(&self) {
        let (time, count) = self.away_marker.sum(Instant::now());
        self.notice(&format!("{time}, {count}"));
    }

    pub(super) fn notice(&self, text: &str) {
        self.printer.print(self.screen.notice(text));
    }

    pub(super) fn warn(&self, text: &str) {
        self.printer.print(self.screen.warning(text));
    }
}

/// Returns a line with passwords redacted, to be shown again.
fn redacted(line: &str) -> &str {
    if is_secret(line) { "(a password)" } else { line }
}

/// Whether a line is a message of another user. Our own missed messages carry a cid.
fn is_from_others(line: &str) -> bool {
    let (tags, plain) = Tags::split(line);
    tags.cid.is_none() && matches!(Event::parse(plain), Some(Event::Message(_)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::client::session::outgoing::with_cid;
    use crate::client::session::reconnect::ReconnectConfig;
    use crate::client::session::resume::Backoff;
    use crate::client::terminal::test_support::chat;

    fn receive(chat: &mut Chat, lines: &[&str]) {
        for line in lines {
            chat.receive(&with_cid(line));
        }
    }

    fn queue(chat: &mut Chat, lines: &[&str], is_offline: bool) {
        for &line in lines {
            chat.queue_line(line.to_owned(), None, is_offline);
        }
    }

    /// Returns the lines that are sent now, with their numbers.
    fn sent(chat: &mut Chat) -> Vec<String> {
        let state = lock(&chat.state);
        let lines = std::iter::from_fn(|| chat.resumption.outgoing.next(state.room()));
        lines.map(|line| line.split_once('-').unwrap().1.to_owned()).collect()
    }

    fn lose_connection(chat: &mut Chat) {
        chat.connection_lost();
        let config = ReconnectConfig::for_test(Duration::MAX);
        drop(config.reconnector(&mut chat.resumption, &lock(&chat.state)));
    }

    fn reconnect(chat: &mut Chat, me: &str, missed: &[&str], how: Outcome) {
        chat.continue_after_reconnect(Reconnected {
            backoff: Backoff::new(),
            me: me.to_owned(),
            missed: missed.iter().map(|line| with_cid(line)).collect(),
            how,
            ids_were_reset: false,
            after: Duration::ZERO,
        });
    }

    #[test]
    fn typed_line_is_shown_once_as_its_echo() {
        let (mut chat, printed) = chat();
        queue(&mut chat, &["one", "two"], false);
        assert_eq!(sent(&mut chat), ["1 one", "2 two"]);
        assert_eq!(printed.take(), [""; 0]);
        receive(&mut chat, &["bob: before", "@1 alice: one"]);
        assert_eq!(printed.take(), ["bob: before", "alice: one"]);
        lose_connection(&mut chat);
        let missed = ["@1;id=11 alice: one", "@2;id=12 alice: two"];
        reconnect(&mut chat, "alice", &missed, Outcome::Resumed);
        assert_eq!(sent(&mut chat), [""; 0], "both are answered");
        let shown = ["-- connection lost; reconnecting …", "-- reconnected after a moment"];
        assert_eq!(printed.take(), [&shown[..], &["alice: two"]].concat());
    }

    #[test]
    fn line_typed_offline_is_shown_as_pending_without_its_password() {
        let (mut chat, printed) = chat();
        lose_connection(&mut chat);
        assert_eq!(lock(&chat.state).link, LinkState::Lost);
        printed.take();
        queue(&mut chat, &["hi", "/login bob sesame"], true);
        assert_eq!(printed.take(), ["-- to be sent: hi", "-- to be sent: (a password)"]);
        assert_eq!(sent(&mut chat), [""; 0]);
        reconnect(&mut chat, "alice", &[], Outcome::Resumed);
        assert_eq!(lock(&chat.state).link, LinkState::Up);
        assert_eq!(sent(&mut chat), ["1 hi", "2 /login bob sesame"]);
        printed.take();
        chat.abandon_lines();
        let warned = ["-- perhaps not delivered: hi", "-- perhaps not delivered: (a password)"];
        assert_eq!(printed.take(), warned);
    }

    #[test]
    fn line_for_a_refused_target_is_reported_and_not_sent() {
        let (mut chat, printed) = chat();
        lose_connection(&mut chat);
        queue(&mut chat, &["/query bob", "for bob"], true);
        reconnect(&mut chat, "alice", &[], Outcome::Resumed);
        assert_eq!(sent(&mut chat), ["1 /query bob"]);
        receive(&mut chat, &["@1 [ERROR no-such-user] bob is not online"]);
        assert_eq!(sent(&mut chat), [""; 0]);
        assert_eq!(printed.take().last().unwrap(), "-- not sent: for bob");
    }

    #[test]
    fn new_session_under_another_name_and_without_the_room_is_reported() {
        let (mut chat, printed) = chat();
        queue(&mut chat, &["/join ops"], false);
        sent(&mut chat);
        receive(&mut chat, &["@1 [JOINED #ops] hi", "@1 [USERS #ops 1] alice"]);
        queue(&mut chat, &["one"], false);
        sent(&mut chat);
        lose_connection(&mut chat);
        queue(&mut chat, &["two"], true);
        printed.take();
        let mut session = Session::of("alice_");
        session.missed = vec!["bob: a".to_owned(), "bob: b".to_owned()];
        reconnect(&mut chat, "alice_", &[], Outcome::NewSession(session));
        assert_eq!(lock(&chat.state).me(), "alice_");
        assert_eq!(sent(&mut chat), [""; 0]);
        let printed = printed.take();
        let (missed, others): (Vec<_>, Vec<_>) =
            printed.iter().map(String::as_str).partition(|line| line.contains("2 missed"));
        assert_eq!(missed.len(), 1, "{printed:?}");
        let expected = [
            "-- reconnected after a moment, in a new session",
            "-- perhaps not delivered: one",
            "bob: a",
            "bob: b",
            "-- not sent: two",
        ];
        assert_eq!(others, expected);
    }

    #[test]
    fn name_that_another_user_has_is_reported_after_reconnect() {
        let (mut chat, printed) = chat();
        lose_connection(&mut chat);
        printed.take();
        let session = Session::of("alice_");
        reconnect(&mut chat, "alice", &[], Outcome::NewSession(session));
        let warning = "-- alice is in use by another user; you are now alice_ (/nick changes it)";
        assert_eq!(printed.take().last().unwrap(), warning);
        assert_eq!(lock(&chat.state).me(), "alice_");
    }

    #[test]
    fn switch_to_a_joined_room_shows_no_list() {
        let (mut chat, printed) = chat();
        let join = ["@1 [JOINED #ops] x", "@1 [TOPIC #ops] tea", "@1 [USERS #ops 1] al"];
        receive(&mut chat, &join);
        assert_eq!(printed.take().len(), 3, "a room that is new to the user");
        receive(&mut chat, &join);
        let switched = "-- you are in #ops; your messages now go there";
        assert_eq!(printed.take(), [switched]);
        receive(&mut chat, &["@2 [USERS #ops 1] al"]);
        assert_eq!(printed.take(), ["-- #ops has 1 member", "   al"], "/who lists the members");
    }

    #[test]
    fn typed_who_asks_for_details_if_the_server_has_them() {
        let (mut chat, printed) = chat();
        queue(&mut chat, &["/who"], false);
        chat.has_who_details = true;
        queue(&mut chat, &["/who #ops", "/who -l"], false);
        assert_eq!(sent(&mut chat), ["1 /who", "2 /who -l #ops", "3 /who -l"]);
        let person = "[PERSON al] op=yes away=no idle=1s since=2026-11-23T06:00:00.000Z";
        let rows = |cid: u8| [format!("@{cid} [WHO #ops 1]"), format!("@{cid} {person}")];
        for line in rows(2).iter().chain(&rows(3)) {
            chat.receive(&with_cid(line));
        }
        let printed = printed.take();
        assert_eq!(
            printed[..3],
            ["-- #ops has 1 member (@ operator)", "   @al", "-- #ops has 1 member"]
        );
        assert!(printed[3].starts_with("-- al, operator, idle for 1 s"), "{printed:?}");
    }

    #[test]
    fn member_list_of_an_entered_room_takes_at_most_two_rows() {
        let (mut chat, printed) = chat();
        let names = |from: u8, to: u8| (from..to).map(|n| format!("name{n}")).collect::<Vec<_>>();
        for (from, to) in [(0, 60), (60, 100)] {
            chat.receive(&format!("[USERS #lobby 100] {}", names(from, to).join(",")));
        }
        let printed = printed.take();
        assert_eq!(printed.len(), 1, "{printed:?}");
        assert!(printed[0].starts_with("-- #lobby has 100 members: name0, name1, "));
        assert!(printed[0].ends_with(", … (/who lists all)") && printed[0].len() < 160);
        assert_eq!(lock(&chat.state).people().len(), 100);
    }

    #[test]
    fn quiet_room_shows_only_mentions() {
        let (mut chat, printed) = chat();
        chat.toggle_quiet(None);
        assert!(printed.take()[0].starts_with("-- #lobby is quiet: "));
        receive(&mut chat, &["bob: hi", "* carol joined", "bob: hi alice"]);
        chat.show_presence();
        assert_eq!(printed.take(), [">bob: hi alice"]);
        assert_eq!(lock(&chat.state).unread.total(), 2);
        chat.toggle_quiet(Some("LOBBY".to_owned()));
        assert!(printed.take()[0].starts_with("-- #LOBBY is shown again; "));
        chat.toggle_quiet(Some("ops".to_owned()));
        assert_eq!(printed.take(), ["-- you are not in #ops"]);
    }

    #[test]
    fn presence_waits_until_a_line_names_the_user() {
        let (mut chat, printed) = chat();
        receive(&mut chat, &["* bob joined", "* carol joined", "dave: hi"]);
        assert_eq!(printed.take(), ["dave: hi"]);
        assert!(chat.presence.due().is_some());
        receive(&mut chat, &["dave: welcome, Carol"]);
        assert_eq!(printed.take(), ["* bob, carol joined", "dave: welcome, Carol"]);
        assert!(chat.presence.due().is_none());
        receive(&mut chat, &["* bob quit (bye)", "[BYE kicked] out"]);
        assert_eq!(printed.take()[0], "* bob quit (bye)");
        assert_eq!(chat.farewell, Some(("kicked".to_owned(), "out".to_owned())));
        chat.joins = Joins::Off;
        receive(&mut chat, &["* bob joined", "bob: back"]);
        assert_eq!(printed.take(), ["bob: back"]);
    }

    #[test]
    fn text_for_the_room_ignores_the_query() {
        let (mut chat, printed) = chat();
        receive(&mut chat, &["[QUERY bob] your messages now go to bob"]);
        assert_eq!(lock(&chat.state).target(), "bob");
        printed.take();
        chat.say_in_room("hi all", false);
        assert_eq!(sent(&mut chat), ["1 /msg #lobby hi all"]);
        chat.say_in_room(" ", false);
        assert_eq!(printed.take(), ["-- usage: /say TEXT"]);
        receive(&mut chat, &["[PARTED #lobby] bye"]);
        printed.take();
        chat.say_in_room("hi all", false);
        assert_eq!(printed.take(), ["-- not sent: you are in no room; /join one to talk"]);
        assert_eq!(sent(&mut chat), [""; 0]);
    }

    #[test]
    fn help_has_the_commands_of_the_server_and_of_the_client() {
        let (mut chat, printed) = chat();
        let has = |lines: &[String], start: &str| lines.iter().any(|line| line.starts_with(start));
        queue(&mut chat, &["/help say"], false);
        assert_eq!(sent(&mut chat), [""; 0], "the server does not know it");
        let lines = printed.take();
        assert!(lines.len() == 1 && has(&lines, "/say TEXT  "), "{lines:?}");
        queue(&mut chat, &["/help"], false);
        assert_eq!(sent(&mut chat), ["1 /help"]);
        assert_eq!(printed.take(), [""; 0]);
        receive(&mut chat, &["@1 [HELP 2] commands", "@1 /who [ROOM]  list", "@1 /fly  new"]);
        let lines = printed.take();
        for start in ["/who [ROOM]  list", "/fly  new", "/say TEXT  ", "/quiet [ROOM]  "] {
            assert!(has(&lines, start), "{start}: {lines:?}");
        }
        queue(&mut chat, &["/help"], true);
        let lines = printed.take();
        assert!(has(&lines, "/who [-l] [ROOM]  ") && has(&lines, "/say TEXT  "), "{lines:?}");
        assert_eq!(sent(&mut chat), [""; 0]);
    }

    #[test]
    fn slow_server_is_shown_in_the_prompt_and_ping_reports_its_time() {
        let (mut chat, printed) = chat();
        queue(&mut chat, &["/ping"], false);
        sent(&mut chat);
        let since = Instant::now().checked_sub(Duration::from_millis(1500));
        chat.show_latency(since);
        assert_eq!(lock(&chat.state).link, LinkState::Slow(1));
        assert_eq!(lock(&chat.state).sending, 1);
        receive(&mut chat, &["@1 [PONG]"]);
        assert!(printed.take().last().unwrap().starts_with("-- answered in "));
        chat.show_latency(None);
        assert_eq!(lock(&chat.state).link, LinkState::Up);
        assert_eq!(lock(&chat.state).sending, 0);
    }
}
