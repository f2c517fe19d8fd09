//! What we have said and what has come of it. Each line gets a mark of its own
//! (`cid`); the answer carries the same mark.
//!
//! A line is kept from the moment it is typed until its answer is here, so
//! nothing is lost with a connection: over the next one the unanswered lines go
//! out again, under the same marks, and the server says none of them twice.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::mpsc;

use tokio::time::Instant;

use super::password::Password;
use super::state::State;
use crate::commands::{self, Command, MessageTarget, Request};
use crate::protocol::{ErrorCode, Event, Tags};

/// Makes the marks of one run. Marks are remembered beyond a connection, and a
/// mark used twice is not said twice; so they must differ between runs, not only
/// within one.
#[derive(Debug, Clone)]
pub(super) struct CidGenerator {
    run: String,
}

impl CidGenerator {
    /// Marks that begin with this, which is to be drawn by lot: 16 characters,
    /// which leaves 15 of a cid's 32 for what follows.
    pub(super) fn new(run: u64) -> Self {
        Self { run: format!("{run:016x}") }
    }

    /// The mark of the line with this number.
    pub(super) fn mark(&self, number: u64) -> String {
        self.own(&number.to_string())
    }

    /// The number in a mark of this run.
    pub(super) fn number(&self, cid: &str) -> Option<u64> {
        cid.strip_prefix(self.run.as_str())?.strip_prefix('-')?.parse().ok()
    }

    /// The mark of a line that the client itself has something to do with.
    pub(super) fn own(&self, what: &str) -> String {
        format!("{}-{what}", self.run)
    }
}

/// A line that is not answered yet.
struct UnansweredLine {
    number: u64,
    line: String,
    /// What the line means wherever it is said; see [`State::with_fixed_target`].
    pinned: Option<String>,
    /// It went out over an earlier connection too.
    is_resent: bool,
    is_typed_offline: bool,
    bearing: TargetEffect,
    /// When it last went out.
    sent_at: Option<Instant>,
    /// That it is not answered has been said.
    is_overdue: bool,
    /// Dropped with the answer: who waits for it then wakes up.
    _waiting: Option<mpsc::Sender<()>>,
}

/// A line that was given up, and its number.
pub(super) type UncertainLine = (u64, String);

/// The lines that are not answered, in the order they were typed.
pub(super) struct Outgoing {
    cids: CidGenerator,
    count: u64,
    /// Those that went out come first.
    kept: VecDeque<UnansweredLine>,
    sent: usize,
    size: usize,
    is_offline: bool,
    /// When the last answer came.
    answered_at: Option<Instant>,
    /// The last password that the server has taken from us.
    password: Option<Password>,
}

impl Outgoing {
    pub(super) fn new(cids: CidGenerator) -> Self {
        let kept = VecDeque::new();
        Self {
            cids,
            count: 0,
            kept,
            sent: 0,
            size: 0,
            is_offline: false,
            answered_at: None,
            password: None,
        }
    }

    pub(super) fn cids(&self) -> &CidGenerator {
        &self.cids
    }

    /// Uses up a number without saying anything.
    pub(super) fn skip(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Keeps a line, to be sent when it is its turn, and tells its number.
    pub(super) fn add(
        &mut self,
        line: String,
        waiting: Option<mpsc::Sender<()>>,
        state: &State,
    ) -> u64 {
        let number = self.skip();
        let mut kept = UnansweredLine {
            number,
            pinned: state.with_fixed_target(&line),
            is_resent: false,
            is_typed_offline: self.is_offline,
            bearing: TargetEffect::of(&line),
            line,
            sent_at: None,
            is_overdue: false,
            _waiting: waiting,
        };
        if self.is_offline {
            kept.pin();
        }
        self.size += kept.line.len();
        self.kept.push_back(kept);
        number
    }

    /// The next line that is to go out, marked.
    ///
    /// What goes out may go out twice, the second time after the lines behind it
    /// have been done. So nothing leads elsewhere while a command is not answered
    /// that would then be done in another room; and a bare `/part` goes when it is
    /// known which room that means, by that room's name. And nothing follows a
    /// line that leads elsewhere and was typed offline before it is known whether
    /// it did: see [`Self::refused`].
    pub(super) fn next(&mut self, state: &State) -> Option<String> {
        let next = self.kept.get(self.sent)?;
        let is_part = is_part_without_room(&next.line);
        let mut before = self.kept.iter().take(self.sent);
        let is_held = match next.bearing {
            TargetEffect::Leads if is_part => self.sent > 0,
            TargetEffect::Leads => {
                before.any(|kept| kept.leads() || kept.bearing == TargetEffect::Placed)
            }
            // Whatever leads is the last that went out.
            _ => before.next_back().is_some_and(UnansweredLine::leads),
        };
        if self.is_offline || is_held {
            return None;
        }
        let room = state.room().filter(|_| is_part).map(|room| part(room).to_string());
        let next = self.kept.get_mut(self.sent)?;
        if let Some(part) = room {
            self.size = self.size - next.line.len() + part.len();
            next.line = part;
        }
        next.sent_at = Some(Instant::now());
        self.sent += 1;
        Some(format!("@cid={} {}", self.cids.mark(next.number), next.line))
    }

    /// A line was refused. If it was to lead elsewhere, what was typed offline to
    /// be said there is given up, and given back: it must not be said here.
    pub(super) fn refused(&mut self, cid: &str) -> Vec<UncertainLine> {
        let number = self.cids.number(cid);
        let at = self.kept.iter().position(|kept| Some(kept.number) == number && kept.leads());
        let Some(at) = at else { return Vec::new() };
        let behind = self.kept.split_off(at + 1);
        let mut is_astray = true;
        let (astray, others): (Vec<_>, Vec<_>) = behind.into_iter().partition(|kept| {
            is_astray &= kept.is_typed_offline && kept.bearing != TargetEffect::Leads;
            is_astray && matches!(kept.bearing, TargetEffect::Said | TargetEffect::Placed)
        });
        self.kept.extend(others);
        self.size -= astray.iter().map(|kept| kept.line.len()).sum::<usize>();
        astray.into_iter().map(|kept| (kept.number, kept.line)).collect()
    }

    /// What the first answer was, where a line that went out twice is refused
    /// because it has been done already.
    pub(super) fn earlier_answer(&self, answer: &str) -> Option<String> {
        let (tags, plain) = Tags::split(answer);
        let (number, Event::Error { code, .. }) =
            (self.cids.number(tags.cid?)?, Event::parse(plain)?)
        else {
            return None;
        };
        let kept = self.kept.iter().find(|kept| kept.number == number && kept.is_resent)?;
        let Ok(Request::Command(command)) = commands::parse(&kept.line) else { return None };
        let (word, args) = match (command, ErrorCode::parse(code)?) {
            (Command::Part { room: Some(room), .. }, ErrorCode::NotInRoom) => {
                ("PARTED", format!("#{}", room.trim_start_matches('#')))
            }
            (Command::Unignore { name }, ErrorCode::NoSuchUser) => ("UNIGNORE", name.to_owned()),
            _ => return None,
        };
        Some(format!("@cid={} [{word} {args}]", self.cids.mark(number)))
    }

    /// Since when the server has owed us an answer. One that answers line after line
    /// owes none, however many wait: it takes its time.
    pub(super) fn unanswered_since(&self) -> Option<Instant> {
        let sent = self.kept.iter().take(self.sent).find_map(|kept| kept.sent_at)?;
        Some(self.answered_at.map_or(sent, |answered| answered.max(sent)))
    }

    /// When the line with this mark went out, if it waits for its answer.
    pub(super) fn sent_at(&self, cid: &str) -> Option<Instant> {
        let number = self.cids.number(cid)?;
        self.kept.iter().find(|kept| kept.number == number)?.sent_at
    }

    /// The lines that have waited for their answer since `then`; each once.
    pub(super) fn overdue(&mut self, then: Instant) -> Vec<String> {
        if self.unanswered_since().is_none_or(|since| since > then) {
            return Vec::new();
        }
        let sent = self.kept.iter_mut().take(self.sent);
        let overdue = sent.filter(|kept| !kept.is_overdue && kept.sent_at <= Some(then));
        let mark = |kept: &mut UnansweredLine| {
            kept.is_overdue = true;
            kept.line.clone()
        };
        overdue.map(mark).collect()
    }

    /// The password of our name, if it was said here.
    pub(super) fn password(&self) -> Option<&Password> {
        self.password.as_ref()
    }

    /// An answer came. `false`: not to a line that waits for one.
    pub(super) fn acknowledge(&mut self, cid: &str, answer: Option<&Event<'_>>) -> bool {
        let number = self.cids.number(cid);
        // Answers come in order: it is nearly always the first.
        let Some(at) = self.kept.iter().position(|kept| Some(kept.number) == number) else {
            return false;
        };
        if let Some(kept) = self.kept.remove(at) {
            self.answered_at = Some(Instant::now());
            self.size -= kept.line.len();
            if let Some(Event::Reply { word: "REGISTERED" | "PASSWD", .. }) = answer
                && let Ok(Request::Command(
                    Command::Register { password } | Command::Passwd { password },
                )) = commands::parse(&kept.line)
            {
                self.password = Some(Password::new(password));
            }
        }
        self.sent -= usize::from(at < self.sent);
        true
    }

    /// Whether this is the mark of a line whose answer has come already.
    pub(super) fn is_acknowledged(&self, cid: &str) -> bool {
        self.cids.number(cid).is_some_and(|number| {
            number <= self.count && !self.kept.iter().any(|kept| kept.number == number)
        })
    }

    /// The connection is lost: nothing goes out until [`Self::back`] or
    /// [`Self::begin_anew`].
    pub(super) fn connection_lost(&mut self) {
        self.is_offline = true;
        for kept in &mut self.kept {
            self.size -= kept.line.len();
            kept.pin();
            self.size += kept.line.len();
        }
    }

    /// Back in the same visit: everything unanswered goes out again. Said twice
    /// every line comes to the same as said once: a message is known by its
    /// mark, and a command finds done what it asks for; what would be refused
    /// for that is taken as done by [`Self::done_before`]. (`/quit` is never kept.)
    pub(super) fn resumed(&mut self) {
        self.is_offline = false;
        self.kept.iter_mut().take(self.sent).for_each(|kept| kept.is_resent = true);
        self.sent = 0;
    }

    /// In a new visit, whose server knows none of our marks: what went out is no
    /// more than a doubt, see [`Self::give_up_sent`]; what did not go out yet will.
    pub(super) fn begin_anew(&mut self) -> Vec<UncertainLine> {
        self.is_offline = false;
        self.give_up_sent()
    }

    /// Gives up the lines that went out, and gives them back: whether they were
    /// said nobody can tell.
    pub(super) fn give_up_sent(&mut self) -> Vec<UncertainLine> {
        let sent = std::mem::take(&mut self.sent);
        self.give_up(0..sent)
    }

    /// Gives up the lines that did not go out.
    pub(super) fn give_up_unsent(&mut self) -> Vec<UncertainLine> {
        self.give_up(self.sent..self.kept.len())
    }

    fn give_up(&mut self, range: Range<usize>) -> Vec<UncertainLine> {
        let given_up: Vec<_> =
            self.kept.drain(range).map(|kept| (kept.number, kept.line)).collect();
        self.size -= given_up.iter().map(|(_, line)| line.len()).sum::<usize>();
        given_up
    }

    /// How many lines are kept, and how many bytes.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.kept.len(), self.size)
    }
}

impl UnansweredLine {
    fn pin(&mut self) {
        if let Some(pinned) = self.pinned.take() {
            self.line = pinned;
        }
    }

    /// What is said behind it is meant for where it leads.
    fn leads(&self) -> bool {
        self.is_typed_offline && self.bearing == TargetEffect::Leads
    }
}

/// What a line has to do with where plain lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetEffect {
    /// Nothing.
    None,
    /// A message goes there. It is known by its mark, so it goes there once.
    Said,
    /// A command that is done there.
    Placed,
    /// A command that leads elsewhere.
    Leads,
}

impl TargetEffect {
    fn of(line: &str) -> Self {
        use Command as C;
        match commands::parse(line) {
            Ok(Request::Say(_) | Request::Command(C::Me { .. })) => Self::Said,
            Ok(Request::Command(
                C::Topic { .. } | C::Who { room: None } | C::History { thread: None, .. },
            )) => Self::Placed,
            Ok(Request::Command(C::Join { .. } | C::Part { .. } | C::Query { .. })) => Self::Leads,
            _ => Self::None,
        }
    }
}

fn is_part_without_room(line: &str) -> bool {
    let part = Command::Part { room: None, reason: None };
    line.starts_with('/') && commands::parse(line) == Ok(Request::Command(part))
}

fn part(room: &str) -> Command<'_> {
    Command::Part { room: Some(room), reason: None }
}

/// `/reply` to this person.
pub(super) fn reply_to(name: &str, line: &str) -> Option<String> {
    match commands::parse(line) {
        Ok(Request::Command(Command::Reply { text })) => {
            Some(Command::Msg { to: MessageTarget::Person(name), text }.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Cid;

    fn outgoing(lines: &[&str]) -> (Outgoing, State) {
        let mut outgoing = Outgoing::new(CidGenerator::new(7));
        let state = State::new("alice");
        for line in lines {
            outgoing.add((*line).to_owned(), None, &state);
        }
        (outgoing, state)
    }

    fn sent(outgoing: &mut Outgoing, state: &State) -> Vec<String> {
        std::iter::from_fn(|| outgoing.next(state))
            .map(|line| line.split_once('-').expect("a mark").1.to_owned())
            .collect()
    }

    #[test]
    fn a_mark_is_a_cid_and_knows_its_number() {
        let cids = CidGenerator::new(u64::MAX);
        for number in [0, 1, 1_000_000] {
            let mark = cids.mark(number);
            assert!(Cid::parse(&mark).is_some(), "{mark}");
            assert_eq!(cids.number(&mark), Some(number));
        }
        assert_eq!(cids.number("other-1"), None);
        assert_eq!(cids.number(&cids.own("back")), None);
    }

    #[test]
    fn what_is_not_answered_goes_out_again_before_what_was_typed_meanwhile() {
        let (mut outgoing, state) = outgoing(&["one", "two", "three"]);
        assert_eq!(sent(&mut outgoing, &state), ["1 one", "2 two", "3 three"]);
        let second = outgoing.cids.mark(2);
        assert!(outgoing.acknowledge(&second, None) && !outgoing.acknowledge(&second, None));
        assert!(outgoing.is_acknowledged(&second) && !outgoing.is_acknowledged("other-1"));
        outgoing.connection_lost();
        outgoing.add("four".to_owned(), None, &state);
        assert!(sent(&mut outgoing, &state).is_empty());
        outgoing.resumed();
        assert_eq!(sent(&mut outgoing, &state), ["1 one", "3 three", "4 four"]);
        assert_eq!(outgoing.load(), (3, 12));
    }

    #[test]
    fn only_a_server_that_answers_nothing_owes_an_answer() {
        let (mut outgoing, state) = outgoing(&["one", "two", "three"]);
        assert_eq!(outgoing.unanswered_since(), None);
        sent(&mut outgoing, &state);
        let sent_at = Instant::now();
        assert!(outgoing.unanswered_since().is_some_and(|since| since <= sent_at));
        outgoing.acknowledge(&outgoing.cids.mark(1), None);
        assert!(outgoing.unanswered_since().is_some_and(|since| since >= sent_at));
        assert!(outgoing.overdue(sent_at).is_empty());
        let later = Instant::now();
        assert_eq!(outgoing.overdue(later), ["two", "three"]);
        assert!(outgoing.overdue(later).is_empty(), "each once");
    }

    #[test]
    fn in_a_new_visit_only_what_was_never_sent_is() {
        let (mut outgoing, state) = outgoing(&["one", "two"]);
        outgoing.next(&state);
        outgoing.connection_lost();
        outgoing.add("three".to_owned(), None, &state);
        assert_eq!(outgoing.begin_anew(), [(1, "one".to_owned())]);
        outgoing.next(&state);
        assert_eq!(outgoing.give_up_unsent(), [(3, "three".to_owned())]);
        assert_eq!(outgoing.give_up_sent(), [(2, "two".to_owned())]);
        assert_eq!(outgoing.load(), (0, 0));
    }

    #[test]
    fn a_bare_part_names_its_room_and_is_done_once() {
        let (mut outgoing, state) = outgoing(&["one", "/part", "two"]);
        assert_eq!(sent(&mut outgoing, &state), ["1 one"]);
        outgoing.acknowledge(&outgoing.cids.mark(1), None);
        assert_eq!(sent(&mut outgoing, &state), ["2 /part lobby", "3 two"]);
        let refusal = format!("@cid={} [ERROR not-in-room] no", outgoing.cids.mark(2));
        assert_eq!(outgoing.earlier_answer(&refusal), None);
        outgoing.connection_lost();
        outgoing.resumed();
        assert_eq!(sent(&mut outgoing, &state), ["2 /part lobby", "3 two"]);
        let done = format!("@cid={} [PARTED #lobby]", outgoing.cids.mark(2));
        assert_eq!(outgoing.earlier_answer(&refusal), Some(done));
        for other in ["[ERROR bad-argument] no", "[PARTED #lobby]", "[ERROR"] {
            let other = format!("@cid={} {other}", outgoing.cids.mark(2));
            assert_eq!(outgoing.earlier_answer(&other), None);
        }
    }

    #[test]
    fn nothing_leads_elsewhere_before_what_is_to_be_done_here_is_done() {
        let (mut outgoing, state) = outgoing(&["/join ops", "/topic x", "hi", "/join art", "ho"]);
        assert_eq!(sent(&mut outgoing, &state), ["1 /join ops", "2 /topic x", "3 hi"]);
        outgoing.acknowledge(&outgoing.cids.mark(2), None);
        assert_eq!(sent(&mut outgoing, &state), ["4 /join art", "5 ho"]);
    }

    #[test]
    fn what_is_typed_offline_for_elsewhere_is_said_there_or_not_at_all() {
        for is_refused in [false, true] {
            let (mut outgoing, state) = outgoing(&[]);
            outgoing.connection_lost();
            outgoing.add("public".to_owned(), None, &state);
            for line in ["/query bob", "secret", "/who", "/me nods", "/query", "public again"] {
                outgoing.add(line.to_owned(), None, &state);
            }
            outgoing.resumed();
            assert_eq!(sent(&mut outgoing, &state), ["1 public", "2 /query bob"]);
            let query = outgoing.cids.mark(2);
            let astray = if is_refused { outgoing.refused(&query) } else { Vec::new() };
            outgoing.acknowledge(&query, None);
            let behind = sent(&mut outgoing, &state);
            if is_refused {
                let lines = [(3, "secret"), (4, "/who"), (5, "/me nods")];
                assert_eq!(astray, lines.map(|(number, line)| (number, line.to_owned())));
                assert_eq!(behind, ["6 /query"]);
            } else {
                assert_eq!(behind, ["3 secret", "4 /who", "5 /me nods"]);
                outgoing.acknowledge(&outgoing.cids.mark(4), None);
                assert_eq!(sent(&mut outgoing, &state), ["6 /query"]);
            }
            outgoing.acknowledge(&outgoing.cids.mark(6), None);
            assert_eq!(sent(&mut outgoing, &state), ["7 public again"]);
        }
    }

    #[test]
    fn a_reply_that_is_sent_late_goes_to_whom_it_was_meant_for() {
        let (mut outgoing, mut state) = outgoing(&[]);
        let mut hears = |line| state.apply(&Tags::default(), &Event::parse(line).expect(line));
        hears("[PRIVATE MESSAGE] bob: psst");
        outgoing.add("/r yes".to_owned(), None, &state);
        assert_eq!(sent(&mut outgoing, &state), ["1 /r yes"]);
        outgoing.connection_lost();
        outgoing.resumed();
        assert_eq!(sent(&mut outgoing, &state), ["1 /msg bob yes"]);
    }
}
