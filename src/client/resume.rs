//! Coming back after a lost connection, as far as it can be decided without one:
//! when to try again, where to read on, what is a repeat, and when to let it be.

use std::fmt::Write as _;
use std::mem;
use std::time::Duration;

use super::limits::{ANSWER_MAX, cost};
use super::login::Session;
use super::outgoing::{CidGenerator, Outgoing, UncertainLine};
use super::seen_messages::{Known, Position, SeenMessages};
use crate::commands::{self, Command, Request};
use crate::protocol::{ErrorCode, Event, Key, Tags, text};

/// The longest wait before the second try; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How long to wait before each try: any time up to a limit that doubles. Drawn
/// by lot, so that a thousand clients do not all come in the same moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    limit: Duration,
    /// For how long the present connection was waited.
    waited: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { limit: WAIT_FIRST, waited: Duration::ZERO }
    }

    /// The next wait; `lot` is any number.
    pub(super) fn wait(&mut self, lot: u32) -> Duration {
        let wait = self.limit.mul_f64(f64::from(lot) / f64::from(u32::MAX));
        self.limit = (self.limit * 2).min(WAIT_MAX);
        self.waited += wait;
        wait
    }

    /// A connection held for so long. If that is as long as it was waited for,
    /// all is well again; so even where connections break all the time most of
    /// it is spent connected.
    pub(super) fn held(&mut self, time: Duration) {
        if time >= self.waited.min(WAIT_MAX) {
            self.limit = WAIT_FIRST;
        }
        self.waited = Duration::ZERO;
    }
}

/// Whether to come back after the server's farewell with this code, or without
/// one. The others mean us, and trying again would change nothing.
pub(super) fn should_reconnect(farewell: Option<&str>) -> bool {
    matches!(farewell, None | Some("shutting-down" | "slow-reader"))
}

/// What is said when not all that was missed is shown.
pub(super) const MISSED_LIMIT_REACHED: &str = "more was said meanwhile; /history shows the latest";

/// What is said when the server's ids went back.
pub(super) const IDS_WENT_BACK: &str = "message ids went back on the server (restored backup?): \
    what was said before may be gone there; what is new to you follows";

/// How a server refuses to read on after a message that it does not have.
const WENT_BACK: &str = "ids went back";
/// What is said of an answer that was streamed when the connection was lost.
pub(super) const ANSWER_CUT: &str = "the connection was lost amid a long answer; ask again";

/// What is said when it has been done.
pub(super) fn reconnected_message(time: Duration, is_anew: bool) -> String {
    let visit = if is_anew { ", in a new visit" } else { "" };
    format!("back after {}{visit}", humanize(time))
}

/// A time as people say it.
pub(super) fn humanize(time: Duration) -> String {
    match time.as_secs() {
        0 => "a moment".to_owned(),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// What coming back begins with on the new connection.
#[derive(Debug)]
pub(super) struct ResumeRequest {
    /// The session's token, if the server gave one.
    pub(super) token: Option<String>,
    /// What was seen; it is read on after the last message of that.
    pub(super) seen: SeenMessages,
    /// What the barrier is marked with: what is told before it was missed, what
    /// is told after it is live.
    pub(super) barrier: String,
    /// Whether the server takes the time of the last message beside its id.
    takes_time: bool,
    /// What had been seen before, and the last message of that, where all is read again
    /// since ids went back.
    known: Option<(Known, Option<Position>)>,
}

impl ResumeRequest {
    /// The lines, in order; none where only a new login is left.
    pub(super) fn lines(&self) -> Option<[String; 2]> {
        let mut resume = format!("/resume {} {}", self.token.as_ref()?, self.seen.last_id());
        if let Some(Position { time: Some(time), .. }) = self.timed() {
            let _ = write!(resume, " {time}");
        }
        let barrier = format!("@cid={} /ping", self.barrier);
        Some([resume, barrier])
    }

    /// The last message, if its time is sent with its id.
    fn timed(&self) -> Option<Position> {
        self.seen.last().filter(|last| self.takes_time && last.time.is_some())
    }

    /// The lines were refused. Other lines are left to try, or none.
    pub(super) fn refused(&mut self, code: &str, text: &str) {
        let is_bad = ErrorCode::parse(code) == Some(ErrorCode::BadArgument);
        if is_bad && text.starts_with(WENT_BACK) && self.seen.last().is_some() {
            self.known = Some((self.seen.known(), self.seen.last()));
            self.seen.begin_anew();
        } else if is_bad && self.timed().is_some() {
            self.takes_time = false; // a server of 0.1
        } else {
            // Over: the token is good for nothing any more.
            self.token = None;
        }
    }

    /// Whether all is read again since ids went back.
    pub(super) fn has_gone_back(&self) -> bool {
        self.known.is_some()
    }

    /// The last message seen, if only before ids went back.
    pub(super) fn last(&self) -> Option<Position> {
        self.seen.last().or(self.known.as_ref().and_then(|(_, last)| *last))
    }

    /// One of the missed lines is here; if this connection breaks too, the next one
    /// goes on after it. `false`: it is a message that had been seen.
    pub(super) fn note(&mut self, line: &str) -> bool {
        let (tags, plain) = Tags::split(line);
        let Some(Event::Message(message)) = Event::parse(plain) else { return true };
        self.seen.note(&tags, &message);
        let is_known = |it| self.known.as_ref().is_some_and(|(known, _)| known.contains(it));
        !Position::of(&tags).is_some_and(is_known)
    }
}

/// All that is needed to go on where a connection broke.
pub(super) struct Resumption {
    pub(super) outgoing: Outgoing,
    pub(super) backoff: Backoff,
    token: Option<String>,
    seen: SeenMessages,
    /// The last message that had been seen when this connection began.
    floor: u64,
    /// An answer of several lines, as far as it is here.
    partial: Option<Partial>,
}

/// An answer of which lines are still to come.
struct Partial {
    number: u64,
    /// What is held back.
    lines: Vec<String>,
    missing: Missing,
    size: usize,
    /// It is too long to be held back: its lines are shown as they come.
    is_streamed: bool,
}

/// What an answer of several lines still lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Nothing,
    Rows(usize),
    Names(usize),
    /// The list of who is here.
    List,
}

impl Missing {
    /// After the first line of an answer.
    fn after(event: Option<&Event<'_>>) -> Self {
        match event {
            Some(Event::Reply {
                word: "HELP" | "ROOMS" | "HISTORY" | "SEARCH" | "BANS",
                args,
                ..
            }) => {
                let count = args.rsplit(' ').next().and_then(|count| count.parse().ok());
                Self::Rows(count.unwrap_or(0))
            }
            Some(Event::Reply { word: "JOINED", .. }) => Self::List,
            Some(Event::Users { count, names: Some(names), .. }) => {
                Self::Names(count.saturating_sub(names.split(',').count()))
            }
            _ => Self::Nothing,
        }
    }

    /// After another line of it.
    fn then(self, event: Option<&Event<'_>>) -> Self {
        match (self, event) {
            (Self::Rows(count), _) => Self::Rows(count.saturating_sub(1)),
            (Self::Names(count), Some(Event::Users { names: Some(names), .. })) => {
                Self::Names(count.saturating_sub(names.split(',').count()))
            }
            (Self::List, Some(Event::Users { .. })) => Self::after(event),
            (missing, _) => missing,
        }
    }

    fn is_nothing(self) -> bool {
        matches!(self, Self::Nothing | Self::Rows(0) | Self::Names(0))
    }
}

impl Resumption {
    pub(super) fn new(cids: CidGenerator) -> Self {
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

    /// Holds an answer of several lines back until it is whole: one that breaks
    /// off with the connection is asked for again, and shall not be seen one and
    /// a half times. A longer one than can be held is streamed.
    pub(super) fn whole(&mut self, line: String) -> Vec<String> {
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
            // Answers come in order: the one before is over, whatever it said.
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

    /// The number of the line whose answer was streamed and is not complete. Once the
    /// connection is lost the rest of it does not come any more: a line counts as
    /// answered when the first line of its answer is shown.
    pub(super) fn cut_answer(&self) -> Option<u64> {
        self.partial.as_ref().filter(|partial| partial.is_streamed).map(|partial| partial.number)
    }

    /// The last line of a login, marked: it asks for a session or, where no place is to
    /// be kept, for an answer that comes behind all others.
    pub(super) fn last_request(cids: &CidGenerator, keeps_place: bool) -> String {
        let command = if keeps_place { Command::Session } else { Command::Ping { token: None } };
        format!("@cid={} {command}", cids.own("session"))
    }

    /// Asks whether the server is there, marked.
    pub(super) fn pulse_request(&self) -> String {
        let ping = Command::Ping { token: None };
        format!("@cid={} {ping}", self.outgoing.cids().own("pulse"))
    }

    /// Takes note of a line. `false`: it is not for the eye, since it is a repeat
    /// or the answer to a line that the client itself has sent.
    pub(super) fn note(&mut self, tags: &Tags<'_>, event: Option<&Event<'_>>) -> bool {
        let cids = self.outgoing.cids();
        if tags.cid.is_some_and(|cid| cid == cids.own("session")) {
            if let Some(Event::Reply { word: "SESSION", args, .. }) = event {
                self.token = Some((*args).to_owned());
            }
            return false;
        }
        if tags.cid.is_some_and(|cid| cid == cids.own("back") || cid == cids.own("pulse")) {
            return false;
        }
        let (Some(id), Some(Event::Message(message))) = (tags.id, event) else { return true };
        // The server tells every message once. Should one come again, it is an
        // echo that we have, or a message from before this connection.
        let is_repeat = match tags.cid {
            Some(cid) => self.outgoing.is_acknowledged(cid),
            None => id <= self.floor,
        };
        self.seen.note(tags, message);
        !is_repeat
    }

    /// The connection is lost.
    pub(super) fn lost(&mut self, held: Duration) -> ResumeRequest {
        self.backoff.held(held);
        self.outgoing.connection_lost();
        self.partial = None;
        let barrier = self.outgoing.cids().own("back");
        let (token, seen) = (self.token.clone(), self.seen.clone());
        ResumeRequest { token, seen, barrier, takes_time: true, known: None }
    }

    /// Back. Before the missed lines are taken note of. Where all was read again since ids
    /// went back, `again` is what has been seen by then.
    pub(super) fn back(&mut self, again: Option<SeenMessages>) {
        self.floor = if again.is_some() { 0 } else { self.seen.last_id() };
        self.seen = again.unwrap_or_else(|| std::mem::take(&mut self.seen));
    }

    /// Everything unanswered goes out again. After the missed lines, which may
    /// hold some of the answers.
    pub(super) fn go_on(&mut self) {
        self.outgoing.resumed();
    }

    /// Before a new login of our account, which has logged in elsewhere meanwhile.
    /// The server knows the marks of an account's lines whichever visit they are of, so
    /// what is not answered goes out again and what was missed is not asked for: it
    /// would show some of our own lines twice.
    pub(super) fn forget_visit(&mut self) {
        self.seen.begin_anew();
        (self.floor, self.token) = (0, None);
    }

    /// In a new visit, perhaps of a server that counts from the beginning. Gives
    /// back the lines that were sent and never answered.
    pub(super) fn begin_anew(&mut self, session: &Session) -> Vec<UncertainLine> {
        self.forget_visit();
        let mut doubts = self.outgoing.begin_anew();
        confirm_uncertain(&mut doubts, session);
        doubts
    }
}

/// What of the doubtful is found among the missed lines was said.
fn confirm_uncertain(doubts: &mut Vec<UncertainLine>, session: &Session) {
    let mine = session.missed.iter().filter_map(|line| {
        let Some(Event::Message(message)) = Event::parse(Tags::split(line).1) else { return None };
        let is_mine = Key::fold(message.from) == Key::fold(&session.me);
        is_mine.then_some((message.is_action, message.text))
    });
    for (is_action, text) in mine {
        let said = |line: &str| match commands::parse(line) {
            Ok(Request::Say(said) | Request::Command(Command::Msg { text: said, .. })) => {
                !is_action && text::clean(said) == text
            }
            Ok(Request::Command(Command::Me { text: done })) => {
                is_action && text::clean(done) == text
            }
            _ => false,
        };
        if let Some(at) = doubts.iter().position(|(_, line)| said(line)) {
            doubts.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::state::State;

    fn note(comeback: &mut Resumption, line: &str) -> bool {
        let (tags, plain) = Tags::split(line);
        let is_shown = comeback.note(&tags, Event::parse(plain).as_ref());
        tags.cid.map(|cid| comeback.outgoing.acknowledge(cid, None));
        is_shown
    }

    fn session(missed: &[&str]) -> Session {
        let missed = missed.iter().map(|&line| line.to_owned()).collect();
        let mut session = Session::of("Alice");
        session.missed = missed;
        session
    }

    #[test]
    fn in_a_new_visit_a_doubt_is_over_where_the_line_is_found() {
        let mut comeback = Resumption::new(CidGenerator::new(7));
        let state = State::new("alice");
        for line in ["twice", "//x", "/me waves", "/msg #ops a\u{9b}b", "twice", "/who", "waiting"]
        {
            comeback.outgoing.add(line.to_owned(), None, &state);
        }
        for _ in 0..6 {
            comeback.outgoing.next(&state);
        }
        comeback.lost(Duration::ZERO);
        let missed = [
            "@id=5 alice: twice",
            "@id=6 bob: waiting",
            "@id=7 ** alice waves",
            "@id=8 #ops alice: a\u{FFFD}b",
            "@id=9 ** alice waves",
        ];
        let doubts = comeback.begin_anew(&session(&missed));
        let doubts: Vec<_> = doubts.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(doubts, ["//x", "twice", "/who"]);
        assert!(comeback.outgoing.next(&state).is_some_and(|line| line.ends_with(" waiting")));
    }

    #[test]
    fn waits_double_up_to_a_limit_and_begin_anew_after_a_while() {
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
    fn who_is_sent_away_stays_away() {
        for code in ["replaced", "quit", "kicked", "banned", "too-many", "login-timeout", "new"] {
            assert!(!should_reconnect(Some(code)), "{code}");
        }
        for farewell in [None, Some("shutting-down"), Some("slow-reader")] {
            assert!(should_reconnect(farewell), "{farewell:?}");
        }
    }

    #[test]
    fn it_reads_on_after_the_last_message_seen() {
        let mut comeback = Resumption::new(CidGenerator::new(7));
        let mark = |what| format!("@cid=0000000000000007-{what}");
        assert_eq!(comeback.lost(Duration::ZERO).lines(), None);
        assert!(!note(&mut comeback, &format!("{} [SESSION abc] keep it", mark("session"))));
        assert!(note(&mut comeback, "@id=5;time=2026-11-23T06:16:00.123Z bob: hi"));
        // A row of the history is no message, whatever its id.
        assert!(note(&mut comeback, "@id=9;cid=x 2026-11-23T06:16:00.123Z bob: later"));
        let mut opening = comeback.lost(Duration::ZERO);
        let barrier = format!("{} /ping", mark("back"));
        let resume = |opening: &ResumeRequest| opening.lines().expect("a token")[0].clone();
        assert_eq!(opening.lines().unwrap(), ["/resume abc 5 2026-11-23T06:16:00.123Z", &barrier]);
        assert!(opening.note("@id=6;time=2026-11-23T06:16:00.124Z bob: missed"));
        assert_eq!(resume(&opening), "/resume abc 6 2026-11-23T06:16:00.124Z");
        // A server of 0.1 takes no time.
        opening.refused("bad-argument", "\"6 2026-11-23T06:16:00.124Z\" is no number");
        assert_eq!(resume(&opening), "/resume abc 6");
        assert!(!opening.has_gone_back());
        opening.refused("bad-password", "it is over");
        assert_eq!(opening.lines(), None);
        assert!(!note(&mut comeback, &format!("{} [PONG]", mark("back"))));
        comeback.begin_anew(&session(&[]));
        assert_eq!(comeback.lost(Duration::ZERO).lines(), None);
    }

    #[test]
    fn all_but_what_was_seen_is_read_again_where_ids_went_back() {
        let mut comeback = Resumption::new(CidGenerator::new(7));
        note(&mut comeback, "@cid=0000000000000007-session [SESSION abc] keep it");
        let said = |id: u64, second: u64| format!("@id={id};time=2026-11-23T06:16:0{second}.000Z");
        for id in 1..=5 {
            assert!(note(&mut comeback, &format!("{} bob: {id}", said(id, id))));
        }
        let mut opening = comeback.lost(Duration::ZERO);
        opening.refused("bad-argument", "ids went back (restored backup?)");
        assert!(opening.has_gone_back());
        assert_eq!(opening.lines().unwrap()[0], "/resume abc 0");
        let again = [(1, 1, false), (2, 2, false), (3, 7, true), (4, 8, true)];
        for (id, second, is_new) in again {
            assert_eq!(opening.note(&format!("{} bob: again", said(id, second))), is_new, "{id}");
        }
        assert_eq!(opening.lines().unwrap()[0], "/resume abc 4 2026-11-23T06:16:08.000Z");
        comeback.back(Some(opening.seen.clone()));
        for (id, second, _) in again.iter().filter(|(.., is_new)| *is_new) {
            assert!(note(&mut comeback, &format!("{} bob: again", said(*id, *second))));
        }
        assert!(note(&mut comeback, &format!("{} bob: live", said(5, 9))));
        // Refused again, also from the beginning: there is nothing left but a new login.
        let mut opening = comeback.lost(Duration::ZERO);
        assert_eq!(opening.lines().unwrap()[0], "/resume abc 5 2026-11-23T06:16:09.000Z");
        opening.refused("bad-argument", "ids went back (restored backup?)");
        opening.refused("bad-argument", "ids went back (restored backup?)");
        assert_eq!(opening.lines(), None);
        assert_eq!(opening.last().map(|last| last.id), Some(5), "what is new is known by it");
    }

    #[test]
    fn an_answer_of_several_lines_is_seen_whole_or_not_at_all() {
        let mut comeback = Resumption::new(CidGenerator::new(7));
        let answers: [&[&str]; 6] = [
            &["[HISTORY #ops 2]", "2026-11-23T06:16:00.123Z #ops bob: 1", "[PONG]"],
            &["[HISTORY #ops 0]"],
            &["[JOINED #ops] hi", "[TOPIC #ops] x", "[USERS #ops 3] a,b", "[USERS #ops 3] c"],
            &["[JOINED #ops] hi", "[USERS #ops 900]"],
            &["[ERROR bad-name] no"],
            &["alice: [HISTORY #ops 2]"],
        ];
        for (number, answer) in answers.iter().enumerate() {
            let marked = |line| format!("@cid={} {line}", CidGenerator::new(7).mark(number as u64));
            let answer: Vec<String> = answer.iter().map(marked).collect();
            for _ in 0..2 {
                let (last, before) = answer.split_last().unwrap();
                for line in before {
                    assert!(comeback.whole(line.clone()).is_empty(), "{line}");
                }
                assert_eq!(comeback.whole("bob: hi".to_owned()), ["bob: hi"]);
                assert_eq!(comeback.whole(last.clone()), answer);
                // Half of it, and then the connection is lost.
                comeback.whole(answer[0].clone());
                comeback.lost(Duration::ZERO);
            }
        }
    }

    #[test]
    fn answer_that_is_too_long_to_hold_is_streamed() {
        let mut comeback = Resumption::new(CidGenerator::new(7));
        let mark = CidGenerator::new(7).mark(1);
        assert!(comeback.whole(format!("@cid={mark} [HISTORY #lobby 99999999]")).is_empty());
        let row = |number: usize| {
            format!("@cid={mark} 2026-11-23T06:16:00.123Z bob: {number} {}", "x".repeat(1000))
        };
        let rows = 3 * ANSWER_MAX / 1000;
        let (mut shown, mut held, mut most) = (0, 0, 0);
        for number in 0..rows {
            held += cost(&row(number));
            let lines = comeback.whole(row(number));
            shown += lines.len();
            held = if lines.is_empty() { held } else { 0 };
            most = most.max(held);
        }
        assert_eq!(shown, rows + 1, "with the header");
        assert!(most <= ANSWER_MAX, "{most}");
        assert_eq!(comeback.cut_answer(), Some(1));
        comeback.lost(Duration::ZERO);
        assert_eq!(comeback.cut_answer(), None);
        // Many short ones that never end are not held either.
        for number in 0..rows as u64 {
            let mark = CidGenerator::new(7).mark(number);
            comeback.whole(format!("@cid={mark} [HISTORY #lobby 9] {}", "x".repeat(1000)));
            let held = comeback.partial.as_ref().map_or(0, |partial| partial.lines.len());
            assert!(held * 1000 <= ANSWER_MAX, "{held}");
        }
    }

    #[test]
    fn a_message_is_shown_once_however_often_it_is_told() {
        let mut comeback = Resumption::new(CidGenerator::new(7));
        let state = State::new("alice");
        comeback.outgoing.add("one".to_owned(), None, &state);
        comeback.outgoing.add("two".to_owned(), None, &state);
        let one = "@id=4;cid=0000000000000007-1 alice: one";
        let two = "@id=5;cid=0000000000000007-2 alice: two";
        assert!(note(&mut comeback, one));
        assert!(note(&mut comeback, "@id=4 [PRIVATE MESSAGE] alice: one"), "to myself");
        comeback.lost(Duration::ZERO);
        comeback.back(None);
        comeback.go_on();
        for (line, is_shown) in [
            (two, true),
            ("@id=6 bob: new", true),
            ("@id=3 bob: old", false),
            (one, false),
            (two, false),
            ("@time=2026-11-23T06:16:00.123Z * bob quit", true),
        ] {
            assert_eq!(note(&mut comeback, line), is_shown, "{line}");
        }
    }
}
