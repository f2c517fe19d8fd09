//! Compares what users sent and received with the contents of the log; returns a list of
//! violations, each with the number of the broken guarantee.
//!
//! - I1 a message its author saw acknowledged is stored exactly once, under that id
//! - I2 every stored message was sent; an unacknowledged one is stored at most once
//! - I3 ids increase and are never reused, also across crashes
//! - I4 the messages of one author are stored in the order sent
//! - I5 every delivered message is stored, and private messages reach their recipient only
//! - I6 a line resent with its cid is the same message
//! - I7 every user receives each message of a thread once, in order and without gaps, also across
//!   connections if the session is resumed
//!
//! Knows neither sockets nor files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

/// A message as it is sent. Its text begins with its cid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    pub(crate) author: String,
    /// `#red`, or a user's name.
    pub(crate) to: String,
    pub(crate) text: String,
}

impl Message {
    pub(crate) fn cid(&self) -> &str {
        self.text.split(' ').next().unwrap_or_default()
    }

    /// The private messages of two users are one thread in both directions.
    fn thread(&self) -> String {
        if self.to.starts_with('#') {
            return self.to.clone();
        }
        let (one, other) = (self.author.as_str(), self.to.as_str());
        format!("{} {}", one.min(other), one.max(other))
    }

    fn is_for(&self, person: &str) -> bool {
        self.to.starts_with('#') || self.to == person || self.author == person
    }
}

/// A receiver: a user in one session. Within a session a thread has no gaps between the first and
/// the last message received.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Viewer {
    pub(crate) name: String,
    pub(crate) visit: u64,
}

/// An event as seen from outside the server.
#[derive(Debug, Clone)]
pub(crate) enum EventKind {
    /// About to be sent to the server.
    Sent(Message),
    /// Answered with an error: the message was not posted.
    Refused(Message),
    /// Received, as an echo or as another user's message.
    Shown { viewer: Viewer, id: u64, message: Message },
}

/// An event and its time.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at: Instant,
    pub(crate) what: EventKind,
}

/// A message as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) cid: String,
    pub(crate) message: Message,
}

/// Returns all violations. `keep` is the number of latest messages that retention must keep.
pub(crate) fn violations(events: &[Event], rows: &[Row], keep: Option<u64>) -> Vec<String> {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.at); // stable: keeps the order of each user's events
    let mut checker = Checker { deleted_up_to: deleted_up_to(rows, keep), ..Checker::default() };
    for event in events {
        checker.take(&event.what);
    }
    checker.compare(rows);
    checker.check_gaps(rows);
    checker.violations
}

/// Returns the id up to which retention may have deleted messages.
fn deleted_up_to(rows: &[Row], keep: Option<u64>) -> u64 {
    let first_kept = keep.and_then(|keep| rows.len().checked_sub(usize::try_from(keep).ok()?));
    first_kept.and_then(|at| rows.get(at)).map_or(0, |row| row.id - 1)
}

#[derive(Default)]
struct Checker {
    deleted_up_to: u64,
    violations: Vec<String>,
    /// The highest id delivered so far.
    highest: u64,
    /// The messages sent, with the highest id delivered before.
    sent: HashMap<Message, u64>,
    refused: HashSet<Message>,
    /// All delivered messages by id.
    shown: BTreeMap<u64, Message>,
    ids: HashMap<Message, u64>,
    views: HashMap<Viewer, Vec<u64>>,
}

impl Checker {
    fn take(&mut self, what: &EventKind) {
        match what {
            EventKind::Sent(message) => {
                self.sent.entry(message.clone()).or_insert(self.highest);
                self.refused.remove(message); // sent again
            }
            EventKind::Refused(message) => {
                self.refused.insert(message.clone());
            }
            EventKind::Shown { viewer, id, message } => self.apply_delivery(viewer, *id, message),
        }
    }

    fn apply_delivery(&mut self, viewer: &Viewer, id: u64, message: &Message) {
        let name = &viewer.name;
        if !message.is_for(name) {
            self.add_violation(format!(
                "I5: {name} received a message for other users: {id} {message:?}"
            ));
        }
        if let Some(other) = self.shown.insert(id, message.clone()).filter(|o| o != message) {
            self.add_violation(format!(
                "I3: {id} belongs to two messages: {other:?} and {message:?}"
            ));
        }
        // A cid is known as long as its message is stored.
        let other = self.ids.insert(message.clone(), id).filter(|other| *other != id);
        if let Some(other) = other.filter(|other| *other > self.deleted_up_to) {
            self.add_violation(format!("I6: {message:?} has two ids: {other} and {id}"));
        }
        let view = self.views.entry(viewer.clone()).or_default();
        let last = view.last().copied().unwrap_or(0);
        if id > last {
            view.push(id);
        } else if message.author != *name || view.binary_search(&id).is_err() {
            // Only a user's own message may be echoed again, with the same id.
            self.add_violation(format!("I7: {viewer:?} received {id} after {last}"));
        }
        self.highest = self.highest.max(id);
    }

    fn compare(&mut self, rows: &[Row]) {
        let mut last_id = 0;
        let mut last_numbers: HashMap<&str, u64> = HashMap::new();
        let mut there: HashMap<&Message, u64> = HashMap::new();
        for Row { id, cid, message } in rows {
            if *id <= last_id {
                self.add_violation(format!("I3: {id} is stored after {last_id}"));
            }
            last_id = *id;
            match self.sent.get(message) {
                None => self.add_violation(format!("I2: {id} was never sent: {message:?}")),
                Some(before) if id <= before => {
                    self.add_violation(format!("I3: {id} was sent after {before} was delivered"));
                }
                Some(_) => {}
            }
            if cid != message.cid() {
                self.add_violation(format!("I2: {id} is stored with the cid {cid}: {message:?}"));
            }
            if self.refused.contains(message) {
                self.add_violation(format!("I2: {id} was refused, but is stored: {message:?}"));
            }
            if let Some(other) = there.insert(message, *id) {
                self.add_violation(format!("I1: {message:?} is stored twice: {other} and {id}"));
            }
            let number = number(message);
            let last = last_numbers.insert(&message.author, number);
            if last.is_some_and(|last| last >= number) {
                self.add_violation(format!("I4: {id} is stored after {last:?}: {message:?}"));
            }
        }
        let mut missing = Vec::new();
        for (id, message) in self.shown.range(self.deleted_up_to + 1..) {
            if there.get(message) != Some(id) {
                missing.push(format!("I1, I5: {id} was delivered, but is not stored: {message:?}"));
            }
        }
        self.violations.append(&mut missing);
    }

    /// Checks that every viewer received all messages between the first and the last of a thread.
    fn check_gaps(&mut self, rows: &[Row]) {
        let mut threads: HashMap<String, Vec<u64>> = HashMap::new();
        for row in rows {
            threads.entry(row.message.thread()).or_default().push(row.id);
        }
        let mut gaps = Vec::new();
        for (viewer, view) in &self.views {
            let mut views: HashMap<String, Vec<u64>> = HashMap::new();
            for id in view.iter().filter(|id| **id > self.deleted_up_to) {
                views.entry(self.shown[id].thread()).or_default().push(*id);
            }
            for (thread, seen) in views {
                let (first, last) = (seen[0], seen[seen.len() - 1]);
                let seen: HashSet<u64> = seen.into_iter().collect();
                let there = threads.get(&thread).into_iter().flatten();
                let hole = there
                    .filter(|id| (first..=last).contains(*id) && !seen.contains(*id))
                    .collect::<Vec<_>>();
                if let Some(first) = hole.first() {
                    let count = hole.len();
                    gaps.push(format!(
                        "I7: {viewer:?} was not shown {count} of {thread}, the first {first}"
                    ));
                }
            }
        }
        self.violations.append(&mut gaps);
    }

    fn add_violation(&mut self, violation: String) {
        self.violations.push(violation);
    }
}

/// The number in a cid: `w1-17` is an author's seventeenth.
fn number(message: &Message) -> u64 {
    message.cid().rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

mod tests {
    use super::*;

    fn message(author: &str, to: &str, number: u64) -> Message {
        let text = format!("{author}-{number} some words");
        Message { author: author.into(), to: to.into(), text }
    }

    fn row(id: u64, message: &Message) -> Row {
        Row { id, cid: message.cid().into(), message: message.clone() }
    }

    /// A sequence of events and the resulting log.
    struct Scenario {
        start: Instant,
        events: Vec<Event>,
        rows: Vec<Row>,
    }

    impl Scenario {
        /// Two room messages and a private one: sent, stored, and delivered to all receivers.
        fn plain() -> Self {
            let start = Instant::now();
            let mut scenario = Self { start, events: Vec::new(), rows: Vec::new() };
            let messages =
                [message("w0", "#red", 1), message("w0", "#red", 2), message("w1", "w0", 1)];
            for (id, message) in (1..).zip(&messages) {
                scenario.then(EventKind::Sent(message.clone()));
                for name in ["w0", "w1"] {
                    scenario.shown(name, id, message);
                }
                scenario.rows.push(row(id, message));
            }
            scenario
        }

        fn then(&mut self, what: EventKind) {
            let at = self.start + std::time::Duration::from_millis(self.events.len() as u64);
            self.events.push(Event { at, what });
        }

        fn shown(&mut self, name: &str, id: u64, message: &Message) {
            let viewer = Viewer { name: name.into(), visit: 1 };
            self.then(EventKind::Shown { viewer, id, message: message.clone() });
        }

        #[track_caller]
        fn has_violation(&self, promise: &str) {
            let violations = violations(&self.events, &self.rows, None);
            assert!(
                violations.iter().any(|violation| violation.starts_with(promise)),
                "{violations:?}"
            );
        }
    }

    #[test]
    fn checker_accepts_valid_history() {
        let mut scenario = Scenario::plain();
        // Sent without a reply, then resent and answered.
        scenario.then(EventKind::Sent(message("w1", "#red", 2)));
        scenario.shown("w0", 2, &message("w0", "#red", 2));
        assert_eq!(violations(&scenario.events, &scenario.rows, None), Vec::<String>::new());
        scenario.rows.remove(0);
        assert_eq!(violations(&scenario.events, &scenario.rows, Some(2)), Vec::<String>::new());
    }

    #[test]
    fn checker_reports_lost_duplicate_changed_and_invented_messages() {
        let mut scenario = Scenario::plain();
        scenario.rows.remove(1);
        scenario.has_violation("I1");
        assert!(!violations(&scenario.events, &scenario.rows, Some(3)).is_empty());

        let mut scenario = Scenario::plain();
        scenario.rows.push(row(4, &message("w1", "w0", 1)));
        scenario.has_violation("I1");

        let mut scenario = Scenario::plain();
        scenario.rows[1].id = 3;
        scenario.rows[2].id = 4;
        scenario.has_violation("I1");

        let mut scenario = Scenario::plain();
        scenario.rows[1].message.text.push('!');
        scenario.has_violation("I2");

        let mut scenario = Scenario::plain();
        scenario.then(EventKind::Refused(message("w0", "#red", 2)));
        scenario.has_violation("I2");
    }

    #[test]
    fn checker_reports_ids_and_authors_out_of_order() {
        let mut scenario = Scenario::plain();
        scenario.rows.swap(0, 1);
        scenario.has_violation("I3");
        scenario.has_violation("I4");

        // Sent after 3 was delivered, but stored before it.
        let mut scenario = Scenario::plain();
        let late = message("w1", "#red", 2);
        scenario.then(EventKind::Sent(late.clone()));
        scenario.rows[2].id = 4;
        scenario.rows.insert(2, row(3, &late));
        scenario.has_violation("I3");

        let mut scenario = Scenario::plain();
        scenario.shown("w1", 3, &message("w0", "#red", 3));
        scenario.has_violation("I3");
    }

    #[test]
    fn checker_reports_wrong_deliveries() {
        let mut scenario = Scenario::plain();
        scenario.shown("w2", 3, &message("w1", "w0", 1));
        scenario.has_violation("I5");

        let mut scenario = Scenario::plain();
        scenario.shown("w0", 4, &message("w0", "#red", 2));
        scenario.has_violation("I6");

        let mut scenario = Scenario::plain();
        scenario.shown("w1", 2, &message("w0", "#red", 2));
        scenario.has_violation("I7");

        // A gap: the first and the third message are delivered, the second is not.
        let mut scenario = Scenario::plain();
        let third = message("w0", "#red", 3);
        scenario.then(EventKind::Sent(third.clone()));
        scenario.rows.push(row(4, &third));
        scenario.shown("r0", 1, &message("w0", "#red", 1));
        scenario.shown("r0", 4, &third);
        scenario.has_violation("I7");
    }
}
