//! The decisions about resuming after a lost connection: when to retry, from which message
//! to read on, which lines are duplicates, and when not to reconnect. It does no IO.

use std::mem;
use std::time::Duration;

use super::outgoing::{CidGenerator, Outgoing, UncertainLine};
use super::seen_messages::{Position, SeenMessages, SeenSnapshot};
use crate::client::limits::{ANSWER_MAX, cost};
use crate::commands::{self, Command, Parsed};
use crate::protocol::name::is_same_name;
use crate::protocol::{ErrorCode, Event, Feature, Reply, Tags, text};

/// The first limit of the backoff, which doubles with each attempt, and its maximum.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Exponential backoff with full jitter: a random delay up to a limit that doubles, so that
/// a thousand clients do not reconnect at the same moment.
#[derive(Debug, Clone, Copy)]
pub(in crate::client) struct Backoff {
    limit: Duration,
    /// The total delay before the present connection.
    waited: Duration,
}

impl Backoff {
    pub(in crate::client) fn new() -> Self {
        Self { limit: WAIT_FIRST, waited: Duration::ZERO }
    }

    /// Returns the next delay; `random` is a random number.
    pub(in crate::client) fn wait(&mut self, random: u32) -> Duration {
        let wait = self.limit.mul_f64(f64::from(random) / f64::from(u32::MAX));
        self.limit = (self.limit * 2).min(WAIT_MAX);
        self.waited += wait;
        wait
    }

    /// Records how long a connection lasted. If it lasted as long as the delay before it,
    /// the backoff is reset; so even with connections that break all the time, the client
    /// is connected most of the time.
    pub(in crate::client) fn held(&mut self, time: Duration) {
        if time >= self.waited.min(WAIT_MAX) {
            self.limit = WAIT_FIRST;
        }
        self.waited = Duration::ZERO;
    }
}

/// Whether to reconnect after a farewell with this code, or without one. The other codes
/// concern this client, so a retry would fail again.
pub(in crate::client) fn should_reconnect(farewell: Option<&str>) -> bool {
    matches!(farewell, None | Some("shutting-down" | "slow-reader"))
}

/// The notice that not all missed messages are shown.
pub(in crate::client) const MISSED_LIMIT_REACHED: &str =
    "more messages were missed than are shown; /history shows the latest";

/// The notice that the server's message ids went back.
pub(in crate::client) const IDS_WENT_BACK: &str = "\
    message ids went back on the server (restored backup?): earlier messages may be gone there; \
    messages that are new to you follow";

/// The start of the text with which a server refuses to resume after a message that it does
/// not have. Fixed by the protocol.
const WENT_BACK: &str = "ids went back";

/// The notice that a streamed answer was cut off by the lost connection.
pub(in crate::client) const ANSWER_CUT: &str =
    "the connection was lost in the middle of a long answer; repeat the command";

/// Returns the notice that the connection was restored.
pub(in crate::client) fn reconnected_message(time: Duration, is_new_session: bool) -> String {
    let session = if is_new_session { ", in a new session" } else { "" };
    format!("reconnected after {}{session}", humanize(time))
}

/// Formats a duration for people.
pub(in crate::client) fn humanize(time: Duration) -> String {
    match time.as_secs() {
        0 => "a moment".to_owned(),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// The first lines on a new connection.
#[derive(Debug)]
pub(in crate::client) struct ResumeRequest {
    /// The session's token, if the server gave one.
    pub(super) token: Option<String>,
    /// The messages seen so far; the server sends those after the last one.
    pub(super) seen: SeenMessages,
    /// The cid of the barrier: lines before its answer were missed, lines after it are live.
    pub(super) barrier: String,
    /// If ids went back and all messages are read again: the messages seen before that, and
    /// the last of them.
    known: Option<(SeenSnapshot, Option<Position>)>,
}

impl ResumeRequest {
    /// Returns the lines in order, for a server with these features; `None` if only a new
    /// login is left.
    pub(super) fn lines(&self, features: &[Feature]) -> Option<[String; 2]> {
        let takes_time = features.contains(&Feature::ResumeTime);
        let time = self.seen.last().filter(|_| takes_time).and_then(|last| last.time);
        let resume =
            Command::Resume { token: self.token.as_ref()?, after: self.seen.last_id(), time };
        let barrier = format!("@cid={} {}", self.barrier, Command::Ping { token: None });
        Some([resume.to_string(), barrier])
    }

    /// Handles a refusal: the next [`Self::lines`] differ, or there are none.
    pub(super) fn refused(&mut self, code: &str, text: &str) {
        let is_bad = ErrorCode::parse(code) == Some(ErrorCode::BadArgument);
        if is_bad && text.starts_with(WENT_BACK) && self.seen.last().is_some() {
            self.known = Some((self.seen.known(), self.seen.last()));
            self.seen.reset_position();
        } else {
            // The session has ended, so the token is useless.
            self.token = None;
        }
    }

    /// Whether ids went back and all messages are read again.
    pub(super) fn ids_went_back(&self) -> bool {
        self.known.is_some()
    }

    /// Returns the last message seen, including those before ids went back.
    pub(super) fn last(&self) -> Option<Position> {
        self.seen.last().or(self.known.as_ref().and_then(|(_, last)| *last))
    }

    /// Records a missed line, so that the next connection continues after it. `false`: the
    /// message had been seen.
    pub(super) fn note(&mut self, line: &str) -> bool {
        let (tags, plain) = Tags::split(line);
        let Some(Event::Message(message)) = Event::parse(plain) else { return true };
        self.seen.note(&tags, &message);
        let is_known = |it| self.known.as_ref().is_some_and(|(known, _)| known.contains(it));
        !Position::of(&tags).is_some_and(is_known)
    }
}

/// The state needed to resume after a lost connection.
pub(in crate::client) struct Resumption {
    pub(in crate::client) outgoing: Outgoing,
    pub(super) backoff: Backoff,
    token: Option<String>,
    seen: SeenMessages,
    /// The id of the last message seen before this connection.
    floor: u64,
    /// An incomplete answer of several lines.
    partial: Option<Partial>,
}

/// An incomplete answer.
struct Partial {
    number: u64,
    /// The lines held back.
    lines: Vec<String>,
    missing: Missing,
    size: usize,
    /// The answer is too long to hold back: its lines are shown as they arrive.
    is_streamed: bool,
}

/// The missing rest of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Nothing,
    Rows(usize),
    Names(usize),
    /// The list of members.
    List,
}

impl Missing {
    /// Returns what is missing after the first line of an answer.
    fn after(event: Option<&Event<'_>>) -> Self {
        match event {
            Some(Event::Reply(Reply::Joined { .. })) => Self::List,
            Some(Event::Reply(Reply::Users { count, names: Some(names), .. })) => {
                Self::Names(count.saturating_sub(names.iter().count()))
            }
            Some(Event::Reply(reply)) => reply.rows().map_or(Self::Nothing, Self::Rows),
            _ => Self::Nothing,
        }
    }

    /// Returns what is missing after a further line.
    fn then(self, event: Option<&Event<'_>>) -> Self {
        match (self, event) {
            (Self::Rows(count), _) => Self::Rows(count.saturating_sub(1)),
            (Self::Names(count), Some(Event::Reply(Reply::Users { names: Some(names), .. }))) => {
                Self::Names(count.saturating_sub(names.iter().count()))
            }
            (Self::List, Some(Event::Reply(Reply::Users { .. }))) => Self::after(event),
            (missing, _) => missing,
        }
    }

    fn is_nothing(self) -> bool {
        matches!(self, Self::Nothing | Self::Rows(0) | Self::Names(0))
    }
}

impl Resumption {
    pub(in crate::client) fn new(cids: CidGenerator) -> Self {
        let (outgoing, backoff) = (Outgoing::new(cids), Backoff::new());
        Self {
            outgoing,
            backoff,
            token: None,
            seen: SeenMessages::default(),
            floor: 0,
            partial: None,
        }
    }

    /// Holds an answer of several lines back until it is complete: an answer that is cut
    /// off by a lost connection is requested again and must not be shown one and a half
    /// times. An answer longer than [`ANSWER_MAX`] is streamed.
    pub(in crate::client) fn complete_answer(&mut self, line: String) -> Vec<String> {
        let line = self.outgoing.earlier_answer(&line).unwrap_or(line);
        let (tags, plain) = Tags::split(&line);
        let Some(number) = tags.cid.and_then(|cid| self.outgoing.cids().number(cid)) else {
            return vec![line];
        };
        let event = Event::parse(plain);
        let mut partial = match self.partial.take() {
            Some(partial) if partial.number == number => {
                Partial { missing: partial.missing.then(event.as_ref()), ..partial }
            }
            // Answers arrive in order: the previous one has ended, complete or not.
            before => {
                let lines = before.map(|before| before.lines).unwrap_or_default();
                let size = lines.iter().map(|line| cost(line)).sum();
                let missing = Missing::after(event.as_ref());
                Partial { number, lines, missing, size, is_streamed: false }
            }
        };
        partial.size = partial.size.saturating_add(cost(&line));
        partial.lines.push(line);
        if partial.missing.is_nothing() {
            return partial.lines;
        }
        partial.is_streamed |= partial.size > ANSWER_MAX;
        let shown = if partial.is_streamed { mem::take(&mut partial.lines) } else { Vec::new() };
        self.partial = Some(partial);
        shown
    }

    /// Returns the number of the line whose answer was streamed and is incomplete. After a
    /// lost connection the rest never arrives, since a line counts as answered when the
    /// first line of its answer is shown.
    pub(in crate::client) fn cut_answer(&self) -> Option<u64> {
        self.partial.as_ref().filter(|partial| partial.is_streamed).map(|partial| partial.number)
    }

    /// Returns the ping of the heartbeat, with its cid.
    pub(in crate::client) fn ping_request(&self) -> String {
        let ping = Command::Ping { token: None };
        format!("@cid={} {ping}", self.outgoing.cids().named_cid("pulse"))
    }

    /// Records a line. `false`: it is not shown, because it is a duplicate or the answer to
    /// a line that the client sent by itself.
    pub(in crate::client) fn note(&mut self, tags: &Tags<'_>, event: Option<&Event<'_>>) -> bool {
        let cids = self.outgoing.cids();
        if tags.cid.is_some_and(|cid| cid == cids.named_cid("session")) {
            if let Some(Event::Reply(Reply::Session { token })) = event {
                self.token = Some((*token).to_owned());
            }
            return false;
        }
        if tags
            .cid
            .is_some_and(|cid| cid == cids.named_cid("back") || cid == cids.named_cid("pulse"))
        {
            return false;
        }
        let (Some(id), Some(Event::Message(message))) = (tags.id, event) else { return true };
        // The server sends every message once. A duplicate is an echo that was already
        // acknowledged, or a message from before this connection.
        let is_repeat = match tags.cid {
            Some(cid) => self.outgoing.is_acknowledged(cid),
            None => id <= self.floor,
        };
        self.seen.note(tags, message);
        !is_repeat
    }

    /// Handles a lost connection and returns the request that resumes the session.
    pub(super) fn lost(&mut self, held: Duration) -> ResumeRequest {
        self.backoff.held(held);
        self.outgoing.connection_lost();
        self.partial = None;
        let barrier = self.outgoing.cids().named_cid("back");
        let (token, seen) = (self.token.clone(), self.seen.clone());
        ResumeRequest { token, seen, barrier, known: None }
    }

    /// Handles a restored connection; call it before the missed lines are recorded. If all
    /// messages were read again because ids went back, `again` contains those read.
    pub(in crate::client) fn restored(&mut self, again: Option<SeenMessages>) {
        self.floor = if again.is_some() { 0 } else { self.seen.last_id() };
        self.seen = again.unwrap_or_else(|| std::mem::take(&mut self.seen));
    }

    /// Sends all unanswered lines again; call it after the missed lines, which may contain
    /// some of the answers.
    pub(in crate::client) fn resend_unanswered(&mut self) {
        self.outgoing.resumed();
    }

    /// Discards the session before a new login of an account that logged in elsewhere. The
    /// server deduplicates an account's cids across sessions, so unanswered lines are sent
    /// again; missed messages are not requested, since they would show some of our own
    /// lines twice.
    pub(in crate::client) fn discard_session(&mut self) {
        self.seen.reset_position();
        (self.floor, self.token) = (0, None);
    }

    /// Handles a new session, perhaps of a server whose ids start again. Returns the lines
    /// that were sent, never answered, and are not among the messages that `me` has missed.
    pub(in crate::client) fn start_new_session(
        &mut self,
        me: &str,
        missed: &[String],
    ) -> Vec<UncertainLine> {
        self.discard_session();
        let mut uncertain = self.outgoing.start_new_session();
        confirm_uncertain(&mut uncertain, me, missed);
        uncertain
    }
}

/// Removes the uncertain lines that are found among the missed messages: they were delivered.
fn confirm_uncertain(uncertain: &mut Vec<UncertainLine>, me: &str, missed: &[String]) {
    let mine = missed.iter().filter_map(|line| {
        let Some(Event::Message(message)) = Event::parse(Tags::split(line).1) else { return None };
        let is_mine = is_same_name(message.from, me);
        is_mine.then_some((message.is_action, message.text))
    });
    for (is_action, text) in mine {
        let is_delivered = |line: &str| match commands::parse(line) {
            Ok(Parsed::Say(message) | Parsed::Command(Command::Msg { text: message, .. })) => {
                !is_action && text::clean(message) == text
            }
            Ok(Parsed::Command(Command::Me { text: action })) => {
                is_action && text::clean(action) == text
            }
            _ => false,
        };
        if let Some(at) = uncertain.iter().position(|(_, line)| is_delivered(line)) {
            uncertain.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The features of a server that accepts the time of a message.
    const RESUME_TIME: [Feature; 1] = [Feature::ResumeTime];

    fn note(resumption: &mut Resumption, line: &str) -> bool {
        let (tags, plain) = Tags::split(line);
        let is_shown = resumption.note(&tags, Event::parse(plain).as_ref());
        tags.cid.map(|cid| resumption.outgoing.acknowledge(cid, None));
        is_shown
    }

    #[test]
    fn new_session_confirms_uncertain_lines_found_among_missed_ones() {
        let mut resumption = Resumption::new(CidGenerator::new(7));
        for line in ["twice", "//x", "/me waves", "/msg #ops a\u{9b}b", "twice", "/who", "waiting"]
        {
            resumption.outgoing.add(line.to_owned(), None, None);
        }
        for _ in 0..6 {
            resumption.outgoing.next(None);
        }
        resumption.lost(Duration::ZERO);
        let missed = [
            "@id=5 alice: twice",
            "@id=6 bob: waiting",
            "@id=7 ** alice waves",
            "@id=8 #ops alice: a\u{FFFD}b",
            "@id=9 ** alice waves",
        ]
        .map(str::to_owned);
        let uncertain = resumption.start_new_session("Alice", &missed);
        let uncertain: Vec<_> = uncertain.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(uncertain, ["//x", "twice", "/who"]);
        assert!(resumption.outgoing.next(None).is_some_and(|line| line.ends_with(" waiting")));
    }

    #[test]
    fn backoff_doubles_up_to_maximum_and_resets_after_stable_connection() {
        let mut backoff = Backoff::new();
        let longest: Vec<u128> = (0..8).map(|_| backoff.wait(u32::MAX).as_millis()).collect();
        assert_eq!(longest, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff.wait(0), Duration::ZERO);
        backoff.held(Duration::from_secs(9));
        assert!(backoff.wait(u32::MAX / 2) < Duration::from_secs(5));
        backoff.held(Duration::from_secs(5));
        assert_eq!(backoff.wait(u32::MAX), WAIT_FIRST);
    }

    #[test]
    fn client_reconnects_only_after_farewells_that_do_not_concern_it() {
        for code in ["replaced", "quit", "kicked", "banned", "too-many", "login-timeout", "new"] {
            assert!(!should_reconnect(Some(code)), "{code}");
        }
        for farewell in [None, Some("shutting-down"), Some("slow-reader")] {
            assert!(should_reconnect(farewell), "{farewell:?}");
        }
    }

    #[test]
    fn resume_request_continues_after_last_message_seen() {
        let mut resumption = Resumption::new(CidGenerator::new(7));
        let tag = |what| format!("@cid=0000000000000007-{what}");
        assert_eq!(resumption.lost(Duration::ZERO).lines(&RESUME_TIME), None);
        assert!(!note(&mut resumption, &format!("{} [SESSION abc] keep it", tag("session"))));
        assert!(note(&mut resumption, "@id=5;time=2026-11-23T06:16:00.123Z bob: hi"));
        // A row of the history is not a live message, whatever its id.
        assert!(note(&mut resumption, "@id=9;cid=x 2026-11-23T06:16:00.123Z bob: later"));
        let mut request = resumption.lost(Duration::ZERO);
        let barrier = format!("{} /ping", tag("back"));
        let resume =
            |request: &ResumeRequest| request.lines(&RESUME_TIME).expect("a token")[0].clone();
        let resume_5 = "/resume abc 5 2026-11-23T06:16:00.123Z";
        assert_eq!(request.lines(&RESUME_TIME).unwrap(), [resume_5, &barrier]);
        assert_eq!(request.lines(&[]).unwrap(), ["/resume abc 5", &barrier]);
        assert!(request.note("@id=6;time=2026-11-23T06:16:00.124Z bob: missed"));
        assert_eq!(resume(&request), "/resume abc 6 2026-11-23T06:16:00.124Z");
        assert!(!request.ids_went_back());
        request.refused("bad-password", "it is over");
        assert_eq!(request.lines(&RESUME_TIME), None);
        assert!(!note(&mut resumption, &format!("{} [PONG]", tag("back"))));
        resumption.start_new_session("Alice", &[]);
        assert_eq!(resumption.lost(Duration::ZERO).lines(&RESUME_TIME), None);
    }

    #[test]
    fn only_unseen_messages_are_shown_again_when_ids_went_back() {
        let mut resumption = Resumption::new(CidGenerator::new(7));
        note(&mut resumption, "@cid=0000000000000007-session [SESSION abc] keep it");
        let tags = |id: u64, second: u64| format!("@id={id};time=2026-11-23T06:16:0{second}.000Z");
        for id in 1..=5 {
            assert!(note(&mut resumption, &format!("{} bob: {id}", tags(id, id))));
        }
        let mut request = resumption.lost(Duration::ZERO);
        request.refused("bad-argument", "ids went back (restored backup?)");
        assert!(request.ids_went_back());
        assert_eq!(request.lines(&RESUME_TIME).unwrap()[0], "/resume abc 0");
        let again = [(1, 1, false), (2, 2, false), (3, 7, true), (4, 8, true)];
        for (id, second, is_new) in again {
            assert_eq!(request.note(&format!("{} bob: again", tags(id, second))), is_new, "{id}");
        }
        assert_eq!(
            request.lines(&RESUME_TIME).unwrap()[0],
            "/resume abc 4 2026-11-23T06:16:08.000Z"
        );
        resumption.restored(Some(request.seen.clone()));
        for (id, second, _) in again.iter().filter(|(.., is_new)| *is_new) {
            assert!(note(&mut resumption, &format!("{} bob: again", tags(*id, *second))));
        }
        assert!(note(&mut resumption, &format!("{} bob: live", tags(5, 9))));
        // Refused again, even from id 0: only a new login is left.
        let mut request = resumption.lost(Duration::ZERO);
        assert_eq!(
            request.lines(&RESUME_TIME).unwrap()[0],
            "/resume abc 5 2026-11-23T06:16:09.000Z"
        );
        request.refused("bad-argument", "ids went back (restored backup?)");
        request.refused("bad-argument", "ids went back (restored backup?)");
        assert_eq!(request.lines(&RESUME_TIME), None);
        assert_eq!(request.last().map(|last| last.id), Some(5), "marks where new messages begin");
    }

    #[test]
    fn multi_line_answer_is_shown_only_when_complete() {
        let mut resumption = Resumption::new(CidGenerator::new(7));
        let answers: [&[&str]; 6] = [
            &["[HISTORY #ops 2]", "2026-11-23T06:16:00.123Z #ops bob: 1", "[PONG]"],
            &["[HISTORY #ops 0]"],
            &["[JOINED #ops] hi", "[TOPIC #ops] x", "[USERS #ops 3] a,b", "[USERS #ops 3] c"],
            &["[JOINED #ops] hi", "[USERS #ops 900]"],
            &["[ERROR bad-name] no"],
            &["alice: [HISTORY #ops 2]"],
        ];
        for (number, answer) in answers.iter().enumerate() {
            let tagged =
                |line| format!("@cid={} {line}", CidGenerator::new(7).line_cid(number as u64));
            let answer: Vec<String> = answer.iter().map(tagged).collect();
            for _ in 0..2 {
                let (last, before) = answer.split_last().unwrap();
                for line in before {
                    assert!(resumption.complete_answer(line.clone()).is_empty(), "{line}");
                }
                assert_eq!(resumption.complete_answer("bob: hi".to_owned()), ["bob: hi"]);
                assert_eq!(resumption.complete_answer(last.clone()), answer);
                // The first line again, then the connection is lost.
                resumption.complete_answer(answer[0].clone());
                resumption.lost(Duration::ZERO);
            }
        }
    }

    #[test]
    fn answer_that_is_too_long_to_hold_is_streamed() {
        let mut resumption = Resumption::new(CidGenerator::new(7));
        let cid = CidGenerator::new(7).line_cid(1);
        assert!(
            resumption.complete_answer(format!("@cid={cid} [HISTORY #lobby 99999999]")).is_empty()
        );
        let row = |number: usize| {
            format!("@cid={cid} 2026-11-23T06:16:00.123Z bob: {number} {}", "x".repeat(1000))
        };
        let rows = 3 * ANSWER_MAX / 1000;
        let (mut shown, mut held, mut most) = (0, 0, 0);
        for number in 0..rows {
            held += cost(&row(number));
            let lines = resumption.complete_answer(row(number));
            shown += lines.len();
            held = if lines.is_empty() { held } else { 0 };
            most = most.max(held);
        }
        assert_eq!(shown, rows + 1, "with the header");
        assert!(most <= ANSWER_MAX, "{most}");
        assert_eq!(resumption.cut_answer(), Some(1));
        resumption.lost(Duration::ZERO);
        assert_eq!(resumption.cut_answer(), None);
        // Many incomplete answers are bounded, too.
        for number in 0..rows as u64 {
            let cid = CidGenerator::new(7).line_cid(number);
            resumption
                .complete_answer(format!("@cid={cid} [HISTORY #lobby 9] {}", "x".repeat(1000)));
            let held = resumption.partial.as_ref().map_or(0, |partial| partial.lines.len());
            assert!(held * 1000 <= ANSWER_MAX, "{held}");
        }
    }

    #[test]
    fn duplicate_message_is_shown_once() {
        let mut resumption = Resumption::new(CidGenerator::new(7));
        resumption.outgoing.add("one".to_owned(), None, None);
        resumption.outgoing.add("two".to_owned(), None, None);
        let one = "@id=4;cid=0000000000000007-1 alice: one";
        let two = "@id=5;cid=0000000000000007-2 alice: two";
        assert!(note(&mut resumption, one));
        assert!(note(&mut resumption, "@id=4 [PRIVATE MESSAGE] alice: one"), "to myself");
        resumption.lost(Duration::ZERO);
        resumption.restored(None);
        resumption.resend_unanswered();
        for (line, is_shown) in [
            (two, true),
            ("@id=6 bob: new", true),
            ("@id=3 bob: old", false),
            (one, false),
            (two, false),
            ("@time=2026-11-23T06:16:00.123Z * bob quit", true),
        ] {
            assert_eq!(note(&mut resumption, line), is_shown, "{line}");
        }
    }
}
