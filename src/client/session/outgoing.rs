//! The outgoing lines that are not answered yet. Each line gets its own cid, and its answer
//! carries the same cid.
//!
//! A line stays in the queue from the moment it is typed until its answer arrives, so no
//! line is lost with a connection: over the next one the unanswered lines are sent again
//! with the same cids, and the server deduplicates them. The queue does not know about
//! sockets.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use super::password::Password;
use crate::commands::{self, Command, Parsed, TargetEffect};
use crate::protocol::reply::Next;
use crate::protocol::{ErrorCode, Event, Reply, Stamp, Tags};

/// Generates the cids of one run. The server remembers cids beyond a connection and drops a
/// line whose cid it has seen, so cids must differ between runs, too.
#[derive(Debug, Clone)]
pub(in crate::client) struct CidGenerator {
    run: String,
}

impl CidGenerator {
    /// Returns a generator of cids that begin with `run`, a random number: 16 characters
    /// and a dash, which leaves 15 of a cid's 32 characters.
    pub(in crate::client) fn new(run: u64) -> Self {
        Self { run: format!("{run:016x}") }
    }

    /// Returns the cid of the line with this number.
    pub(in crate::client) fn line_cid(&self, number: u64) -> String {
        self.named_cid(&number.to_string())
    }

    /// Returns the line number in a cid of this run.
    pub(in crate::client) fn number(&self, cid: &str) -> Option<u64> {
        cid.strip_prefix(self.run.as_str())?.strip_prefix('-')?.parse().ok()
    }

    /// Returns the cid of a line that the client sends by itself.
    pub(super) fn named_cid(&self, what: &str) -> String {
        format!("{}-{what}", self.run)
    }
}

/// A line without an answer so far.
struct UnansweredLine {
    number: u64,
    line: String,
    /// The line with an explicit target, sent instead once the connection was lost.
    pinned: Option<String>,
    /// It was also sent over an earlier connection.
    is_resent: bool,
    is_typed_offline: bool,
    target_effect: TargetEffect,
    /// When it was last sent.
    sent_at: Option<Instant>,
    /// The missing answer was reported.
    is_overdue: bool,
    /// Dropped with the answer, which wakes the waiting receiver.
    _waiting: Option<mpsc::Sender<()>>,
}

/// The number and the text of an abandoned line.
pub(in crate::client) type UncertainLine = (u64, String);

/// The queue of unanswered lines, in the order they were typed.
pub(in crate::client) struct Outgoing {
    cids: CidGenerator,
    count: u64,
    /// The sent lines come first.
    queue: VecDeque<UnansweredLine>,
    sent: usize,
    size: usize,
    is_offline: bool,
    /// When the last answer arrived.
    answered_at: Option<Instant>,
    /// The last password that `/register` or `/passwd` set.
    password: Option<Password>,
}

impl Outgoing {
    pub(super) fn new(cids: CidGenerator) -> Self {
        let queue = VecDeque::new();
        Self {
            cids,
            count: 0,
            queue,
            sent: 0,
            size: 0,
            is_offline: false,
            answered_at: None,
            password: None,
        }
    }

    pub(in crate::client) fn cids(&self) -> &CidGenerator {
        &self.cids
    }

    /// Uses a line number without sending a line.
    pub(in crate::client) fn skip(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Queues a line and returns its number. `pinned` is the line with an explicit target, for
    /// a line whose target may change before it is sent again.
    pub(in crate::client) fn add(
        &mut self,
        line: String,
        pinned: Option<String>,
        waiting: Option<mpsc::Sender<()>>,
    ) -> u64 {
        let number = self.skip();
        let mut entry = UnansweredLine {
            number,
            pinned,
            is_resent: false,
            is_typed_offline: self.is_offline,
            target_effect: target_effect(&line),
            line,
            sent_at: None,
            is_overdue: false,
            _waiting: waiting,
        };
        if self.is_offline {
            entry.pin();
        }
        self.size += entry.line.len();
        self.queue.push_back(entry);
        number
    }

    /// Returns the next line to send, with its cid. `room` is the current room.
    ///
    /// A line may be sent twice, the second time after later lines have been executed. So a
    /// line that changes the target waits until the commands that depend on the target are
    /// answered, and a `/part` without a room waits until its room is known and names it. A
    /// line behind a target change that was typed offline waits until that change is
    /// answered: see [`Self::refused`].
    pub(in crate::client) fn next(&mut self, room: Option<&str>) -> Option<String> {
        let next = self.queue.get(self.sent)?;
        let is_part = is_part_without_room(&next.line);
        let mut before = self.queue.iter().take(self.sent);
        let is_held = match next.target_effect {
            TargetEffect::Changes if is_part => self.sent > 0,
            TargetEffect::Changes => before.any(|entry| {
                entry.is_offline_target_change() || entry.target_effect == TargetEffect::Uses
            }),
            // A target change is always the last line sent.
            _ => before.next_back().is_some_and(UnansweredLine::is_offline_target_change),
        };
        if self.is_offline || is_held {
            return None;
        }
        let room = room.filter(|_| is_part).map(|room| part(room).to_string());
        let next = self.queue.get_mut(self.sent)?;
        if let Some(part) = room {
            self.size = self.size - next.line.len() + part.len();
            next.line = part;
        }
        next.sent_at = Some(Instant::now());
        self.sent += 1;
        Some(format!("@cid={} {}", self.cids.line_cid(next.number), next.line))
    }

    /// Handles a refused line. If it was a target change, the lines typed offline for the
    /// new target are abandoned and returned: they must not be sent to the old target.
    pub(in crate::client) fn refused(&mut self, cid: &str) -> Vec<UncertainLine> {
        let number = self.cids.number(cid);
        let at = self
            .queue
            .iter()
            .position(|entry| Some(entry.number) == number && entry.is_offline_target_change());
        let Some(at) = at else { return Vec::new() };
        let behind = self.queue.split_off(at + 1);
        let mut is_affected = true;
        let (abandoned, others): (Vec<_>, Vec<_>) = behind.into_iter().partition(|entry| {
            is_affected &= entry.is_typed_offline && entry.target_effect != TargetEffect::Changes;
            is_affected && matches!(entry.target_effect, TargetEffect::Message | TargetEffect::Uses)
        });
        self.queue.extend(others);
        self.size -= abandoned.iter().map(|entry| entry.line.len()).sum::<usize>();
        abandoned.into_iter().map(|entry| (entry.number, entry.line)).collect()
    }

    /// Returns the answer of the first execution if a line that was sent twice is refused
    /// because it was already executed.
    pub(super) fn earlier_answer(&self, answer: &str) -> Option<String> {
        let (tags, plain) = Tags::split(answer);
        let (number, Event::Error { code, .. }) =
            (self.cids.number(tags.cid?)?, Event::parse(plain)?)
        else {
            return None;
        };
        let entry = self.queue.iter().find(|entry| entry.number == number && entry.is_resent)?;
        let Ok(Parsed::Command(command)) = commands::parse(&entry.line) else { return None };
        let reply = match (command, ErrorCode::parse(code)?) {
            (Command::Part { room: Some(room), .. }, ErrorCode::NotInRoom) => {
                Reply::Parted { room: room.trim_start_matches('#'), next: Next::Unchanged }
            }
            (Command::Unignore { name }, ErrorCode::NoSuchUser) => {
                Reply::Unignore { name, was_ignored: true }
            }
            _ => return None,
        };
        Some(format!("@cid={} {reply}", self.cids.line_cid(number)))
    }

    /// Returns since when the server has not answered. A server that answers line after
    /// line counts as responsive, however many lines wait.
    pub(in crate::client) fn unanswered_since(&self) -> Option<Instant> {
        let sent = self.queue.iter().take(self.sent).find_map(|entry| entry.sent_at)?;
        Some(self.answered_at.map_or(sent, |answered| answered.max(sent)))
    }

    /// Returns when the line with this cid was sent, if it waits for its answer.
    pub(in crate::client) fn sent_at(&self, cid: &str) -> Option<Instant> {
        let number = self.cids.number(cid)?;
        self.queue.iter().find(|entry| entry.number == number)?.sent_at
    }

    /// Returns the lines that have waited for their answer since `then`; each line once.
    pub(in crate::client) fn overdue(&mut self, then: Instant) -> Vec<String> {
        if self.unanswered_since().is_none_or(|since| since > then) {
            return Vec::new();
        }
        let sent = self.queue.iter_mut().take(self.sent);
        let overdue = sent.filter(|entry| !entry.is_overdue && entry.sent_at <= Some(then));
        let report = |entry: &mut UnansweredLine| {
            entry.is_overdue = true;
            entry.line.clone()
        };
        overdue.map(report).collect()
    }

    /// Returns the password that was set during this run.
    pub(super) fn password(&self) -> Option<&Password> {
        self.password.as_ref()
    }

    /// Handles an answer. `false`: no line waits for it.
    pub(in crate::client) fn acknowledge(&mut self, cid: &str, answer: Option<&Event<'_>>) -> bool {
        let number = self.cids.number(cid);
        // Answers arrive in order, so this is nearly always the first.
        let Some(at) = self.queue.iter().position(|entry| Some(entry.number) == number) else {
            return false;
        };
        if let Some(entry) = self.queue.remove(at) {
            self.answered_at = Some(Instant::now());
            self.size -= entry.line.len();
            if let Some(Event::Reply(Reply::Registered { .. } | Reply::PasswordChanged { .. })) =
                answer
                && let Ok(Parsed::Command(
                    Command::Register { password } | Command::Passwd { password },
                )) = commands::parse(&entry.line)
            {
                self.password = Some(Password::new(password));
            }
        }
        self.sent -= usize::from(at < self.sent);
        true
    }

    /// Whether this is the cid of an answered line.
    pub(super) fn is_acknowledged(&self, cid: &str) -> bool {
        self.cids.number(cid).is_some_and(|number| {
            number <= self.count && !self.queue.iter().any(|entry| entry.number == number)
        })
    }

    /// Handles a lost connection: no line is sent until [`Self::resumed`] or
    /// [`Self::start_new_session`].
    pub(super) fn connection_lost(&mut self) {
        self.is_offline = true;
        for entry in &mut self.queue {
            self.size -= entry.line.len();
            entry.pin();
            self.size += entry.line.len();
        }
    }

    /// Handles a resumed session: all unanswered lines are sent again. That is idempotent:
    /// the server deduplicates messages by cid, and a repeated command has no further
    /// effect; if it is refused for that, [`Self::earlier_answer`] restores the first
    /// answer. (`/quit` is never queued.)
    pub(super) fn resumed(&mut self) {
        self.is_offline = false;
        self.queue.iter_mut().take(self.sent).for_each(|entry| entry.is_resent = true);
        self.sent = 0;
    }

    /// Handles a new session, whose server does not know our cids: sent lines are abandoned
    /// as uncertain ([`Self::abandon_sent`]), unsent lines will be sent.
    pub(super) fn start_new_session(&mut self) -> Vec<UncertainLine> {
        self.is_offline = false;
        self.abandon_sent()
    }

    /// Abandons the sent lines and returns them: whether they were delivered is unknown.
    pub(in crate::client) fn abandon_sent(&mut self) -> Vec<UncertainLine> {
        let sent = std::mem::take(&mut self.sent);
        self.abandon(0..sent)
    }

    /// Abandons the unsent lines and returns them.
    pub(in crate::client) fn abandon_unsent(&mut self) -> Vec<UncertainLine> {
        self.abandon(self.sent..self.queue.len())
    }

    fn abandon(&mut self, range: Range<usize>) -> Vec<UncertainLine> {
        let given_up: Vec<_> =
            self.queue.drain(range).map(|entry| (entry.number, entry.line)).collect();
        self.size -= given_up.iter().map(|(_, line)| line.len()).sum::<usize>();
        given_up
    }

    /// Returns the number of queued lines and their total size in bytes.
    pub(in crate::client) fn load(&self) -> (usize, usize) {
        (self.queue.len(), self.size)
    }
}

impl UnansweredLine {
    fn pin(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            self.line = pinned;
        }
    }

    /// Whether the lines after it depend on the success of this target change.
    fn is_offline_target_change(&self) -> bool {
        self.is_typed_offline && self.target_effect == TargetEffect::Changes
    }
}

/// Returns how a line relates to the target of plain text.
fn target_effect(line: &str) -> TargetEffect {
    match commands::parse(line) {
        Ok(Parsed::Say(_)) => TargetEffect::Message,
        Ok(Parsed::Command(command)) => command.target_effect(),
        Ok(Parsed::Nothing) | Err(_) => TargetEffect::None,
    }
}

fn is_part_without_room(line: &str) -> bool {
    let part = Command::Part { room: None, reason: None };
    line.starts_with('/') && commands::parse(line) == Ok(Parsed::Command(part))
}

fn part(room: &str) -> Command<'_> {
    Command::Part { room: Some(room), reason: None }
}

/// Returns a typed line with its times of day, like `since 9:00`, understood by the local clock.
pub(in crate::client) fn in_local_time(line: String) -> String {
    let now = Stamp(Timestamp::now().as_millisecond());
    commands::with_moments(&line, now, &TimeZone::system()).unwrap_or(line)
}

/// Replaces the number of a line in `@3 ` or `@3;OTHER-TAGS ` by its cid in run 7, for tests.
#[cfg(test)]
pub(in crate::client) fn with_cid(line: &str) -> String {
    match line.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
        Some((tags, plain)) => {
            let number = tags.split(';').next().unwrap_or_default();
            let cid = CidGenerator::new(7).line_cid(number.parse().expect("a number"));
            format!("@cid={cid}{} {plain}", &tags[number.len()..])
        }
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Cid;

    fn outgoing(lines: &[&str]) -> Outgoing {
        let mut outgoing = Outgoing::new(CidGenerator::new(7));
        for line in lines {
            outgoing.add((*line).to_owned(), None, None);
        }
        outgoing
    }

    /// Sends all lines that are not held back, from the lobby.
    fn sent(outgoing: &mut Outgoing) -> Vec<String> {
        std::iter::from_fn(|| outgoing.next(Some("lobby")))
            .map(|line| line.split_once('-').expect("a cid").1.to_owned())
            .collect()
    }

    #[test]
    fn generated_cid_is_valid_and_contains_its_number() {
        let cids = CidGenerator::new(u64::MAX);
        for number in [0, 1, 1_000_000] {
            let cid = cids.line_cid(number);
            assert!(Cid::parse(&cid).is_some(), "{cid}");
            assert_eq!(cids.number(&cid), Some(number));
        }
        assert_eq!(cids.number("other-1"), None);
        assert_eq!(cids.number(&cids.named_cid("back")), None);
    }

    #[test]
    fn unanswered_lines_are_resent_before_lines_typed_offline() {
        let mut outgoing = outgoing(&["one", "two", "three"]);
        assert_eq!(sent(&mut outgoing), ["1 one", "2 two", "3 three"]);
        let second = outgoing.cids.line_cid(2);
        assert!(outgoing.acknowledge(&second, None) && !outgoing.acknowledge(&second, None));
        assert!(outgoing.is_acknowledged(&second) && !outgoing.is_acknowledged("other-1"));
        outgoing.connection_lost();
        outgoing.add("four".to_owned(), None, None);
        assert!(sent(&mut outgoing).is_empty());
        outgoing.resumed();
        assert_eq!(sent(&mut outgoing), ["1 one", "3 three", "4 four"]);
        assert_eq!(outgoing.load(), (3, 12));
    }

    #[test]
    fn server_that_answers_other_lines_is_not_unresponsive() {
        let mut outgoing = outgoing(&["one", "two", "three"]);
        assert_eq!(outgoing.unanswered_since(), None);
        sent(&mut outgoing);
        let sent_at = Instant::now();
        assert!(outgoing.unanswered_since().is_some_and(|since| since <= sent_at));
        outgoing.acknowledge(&outgoing.cids.line_cid(1), None);
        assert!(outgoing.unanswered_since().is_some_and(|since| since >= sent_at));
        assert!(outgoing.overdue(sent_at).is_empty());
        let later = Instant::now();
        assert_eq!(outgoing.overdue(later), ["two", "three"]);
        assert!(outgoing.overdue(later).is_empty(), "each line once");
    }

    #[test]
    fn new_session_sends_only_unsent_lines() {
        let mut outgoing = outgoing(&["one", "two"]);
        outgoing.next(None);
        outgoing.connection_lost();
        outgoing.add("three".to_owned(), None, None);
        assert_eq!(outgoing.start_new_session(), [(1, "one".to_owned())]);
        outgoing.next(None);
        assert_eq!(outgoing.abandon_unsent(), [(3, "three".to_owned())]);
        assert_eq!(outgoing.abandon_sent(), [(2, "two".to_owned())]);
        assert_eq!(outgoing.load(), (0, 0));
    }

    #[test]
    fn part_without_room_names_its_room_and_is_executed_once() {
        let mut outgoing = outgoing(&["one", "/part", "two"]);
        assert_eq!(sent(&mut outgoing), ["1 one"]);
        outgoing.acknowledge(&outgoing.cids.line_cid(1), None);
        assert_eq!(sent(&mut outgoing), ["2 /part lobby", "3 two"]);
        let refusal = format!("@cid={} [ERROR not-in-room] no", outgoing.cids.line_cid(2));
        assert_eq!(outgoing.earlier_answer(&refusal), None);
        outgoing.connection_lost();
        outgoing.resumed();
        assert_eq!(sent(&mut outgoing), ["2 /part lobby", "3 two"]);
        let done = format!("@cid={} [PARTED #lobby]", outgoing.cids.line_cid(2));
        assert_eq!(outgoing.earlier_answer(&refusal), Some(done));
        for other in ["[ERROR bad-argument] no", "[PARTED #lobby]", "[ERROR"] {
            let other = format!("@cid={} {other}", outgoing.cids.line_cid(2));
            assert_eq!(outgoing.earlier_answer(&other), None);
        }
    }

    #[test]
    fn target_change_waits_for_commands_on_the_old_target() {
        for command in ["/topic x", "/kick bob", "/who"] {
            let mut outgoing = outgoing(&["/join ops", command, "hi", "/join art", "ho"]);
            let before = ["1 /join ops".to_owned(), format!("2 {command}"), "3 hi".to_owned()];
            assert_eq!(sent(&mut outgoing), before);
            outgoing.acknowledge(&outgoing.cids.line_cid(2), None);
            assert_eq!(sent(&mut outgoing), ["4 /join art", "5 ho"]);
        }
    }

    #[test]
    fn line_typed_offline_is_abandoned_when_its_target_change_is_refused() {
        for is_refused in [false, true] {
            let mut outgoing = outgoing(&[]);
            outgoing.connection_lost();
            outgoing.add("public".to_owned(), None, None);
            for line in ["/query bob", "secret", "/who", "/me nods", "/query", "public again"] {
                outgoing.add(line.to_owned(), None, None);
            }
            outgoing.resumed();
            assert_eq!(sent(&mut outgoing), ["1 public", "2 /query bob"]);
            let query = outgoing.cids.line_cid(2);
            let abandoned = if is_refused { outgoing.refused(&query) } else { Vec::new() };
            outgoing.acknowledge(&query, None);
            let behind = sent(&mut outgoing);
            if is_refused {
                let lines = [(3, "secret"), (4, "/who"), (5, "/me nods")];
                assert_eq!(abandoned, lines.map(|(number, line)| (number, line.to_owned())));
                assert_eq!(behind, ["6 /query"]);
            } else {
                assert_eq!(behind, ["3 secret", "4 /who", "5 /me nods"]);
                outgoing.acknowledge(&outgoing.cids.line_cid(4), None);
                assert_eq!(sent(&mut outgoing), ["6 /query"]);
            }
            outgoing.acknowledge(&outgoing.cids.line_cid(6), None);
            assert_eq!(sent(&mut outgoing), ["7 public again"]);
        }
    }

    #[test]
    fn delayed_reply_goes_to_its_original_recipient() {
        let mut outgoing = outgoing(&[]);
        outgoing.add("/r yes".to_owned(), Some("/msg bob yes".to_owned()), None);
        assert_eq!(sent(&mut outgoing), ["1 /r yes"]);
        outgoing.connection_lost();
        outgoing.resumed();
        assert_eq!(sent(&mut outgoing), ["1 /msg bob yes"]);
    }
}
