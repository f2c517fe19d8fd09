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
pub(crate) enum What {
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
    pub(crate) what: What,
}

/// A message as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) cid: String,
    pub(crate) message: Message,
}

/// Returns all violations. `keep` is the number of latest messages that retention must keep.
pub(crate) fn faults(events: &[Event], rows: &[Row], keep: Option<u64>) -> Vec<String> {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.at); // stable: keeps the order of each user's events
    let mut checker = Checker { forgotten: forgotten(rows, keep), ..Checker::default() };
    for event in events {
        checker.take(&event.what);
    }
    checker.compare(rows);
    checker.look_for_holes(rows);
    checker.faults
}

/// Returns the id up to which retention may have deleted messages.
fn forgotten(rows: &[Row], keep: Option<u64>) -> u64 {
    let first_kept = keep.and_then(|keep| rows.len().checked_sub(usize::try_from(keep).ok()?));
    first_kept.and_then(|at| rows.get(at)).map_or(0, |row| row.id - 1)
}

#[derive(Default)]
struct Checker {
    forgotten: u64,
    faults: Vec<String>,
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
    fn take(&mut self, what: &What) {
        match what {
            What::Sent(message) => {
                self.sent.entry(message.clone()).or_insert(self.highest);
                self.refused.remove(message); // sent again
            }
            What::Refused(message) => {
                self.refused.insert(message.clone());
            }
            What::Shown { viewer, id, message } => self.take_shown(viewer, *id, message),
        }
    }

    fn take_shown(&mut self, viewer: &Viewer, id: u64, message: &Message) {
        let name = &viewer.name;
        if !message.is_for(name) {
            self.fault(format!("I5: {name} was shown what is not theirs: {id} {message:?}"));
        }
        if let Some(other) = self.shown.insert(id, message.clone()).filter(|o| o != message) {
            self.fault(format!("I3: {id} is two messages: {other:?} and {message:?}"));
        }
        // A cid is known as long as its message is stored.
        let other = self.ids.insert(message.clone(), id).filter(|other| *other != id);
        if let Some(other) = other.filter(|other| *other > self.forgotten) {
            self.fault(format!("I6: {message:?} is {other} and {id}"));
        }
        let view = self.views.entry(viewer.clone()).or_default();
        let last = view.last().copied().unwrap_or(0);
        if id > last {
            view.push(id);
        } else if message.author != *name || view.binary_search(&id).is_err() {
            // Only a user's own message may be echoed again, with the same id.
            self.fault(format!("I7: {viewer:?} was shown {id} after {last}"));
        }
        self.highest = self.highest.max(id);
    }

    fn compare(&mut self, rows: &[Row]) {
        let mut last_id = 0;
        let mut last_numbers: HashMap<&str, u64> = HashMap::new();
        let mut there: HashMap<&Message, u64> = HashMap::new();
        for Row { id, cid, message } in rows {
            if *id <= last_id {
                self.fault(format!("I3: {id} is there after {last_id}"));
            }
            last_id = *id;
            match self.sent.get(message) {
                None => self.fault(format!("I2: {id} was never sent: {message:?}")),
                Some(before) if id <= before => {
                    self.fault(format!("I3: {id} was sent after {before} was shown"));
                }
                Some(_) => {}
            }
            if cid != message.cid() {
                self.fault(format!("I2: {id} is there under the mark {cid}: {message:?}"));
            }
            if self.refused.contains(message) {
                self.fault(format!("I2: {id} was refused: {message:?}"));
            }
            if let Some(other) = there.insert(message, *id) {
                self.fault(format!("I1: {message:?} is there twice: {other} and {id}"));
            }
            let number = number(message);
            let last = last_numbers.insert(&message.author, number);
            if last.is_some_and(|last| last >= number) {
                self.fault(format!("I4: {id} is there after {last:?}: {message:?}"));
            }
        }
        let mut missing = Vec::new();
        for (id, message) in self.shown.range(self.forgotten + 1..) {
            if there.get(message) != Some(id) {
                missing.push(format!("I1, I5: {id} was shown and is not there: {message:?}"));
            }
        }
        self.faults.append(&mut missing);
    }

    /// Checks that every viewer received all messages between the first and the last of a thread.
    fn look_for_holes(&mut self, rows: &[Row]) {
        let mut threads: HashMap<String, Vec<u64>> = HashMap::new();
        for row in rows {
            threads.entry(row.message.thread()).or_default().push(row.id);
        }
        let mut holes = Vec::new();
        for (viewer, view) in &self.views {
            let mut views: HashMap<String, Vec<u64>> = HashMap::new();
            for id in view.iter().filter(|id| **id > self.forgotten) {
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
                    holes.push(format!(
                        "I7: {viewer:?} was not shown {count} of {thread}, the first {first}"
                    ));
                }
            }
        }
        self.faults.append(&mut holes);
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
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
    struct Story {
        start: Instant,
        events: Vec<Event>,
        rows: Vec<Row>,
    }

    impl Story {
        /// Two room messages and a private one: sent, stored, and delivered to all receivers.
        fn plain() -> Self {
            let start = Instant::now();
            let mut story = Self { start, events: Vec::new(), rows: Vec::new() };
            let messages =
                [message("w0", "#red", 1), message("w0", "#red", 2), message("w1", "w0", 1)];
            for (id, message) in (1..).zip(&messages) {
                story.then(What::Sent(message.clone()));
                for name in ["w0", "w1"] {
                    story.shown(name, id, message);
                }
                story.rows.push(row(id, message));
            }
            story
        }

        fn then(&mut self, what: What) {
            let at = self.start + std::time::Duration::from_millis(self.events.len() as u64);
            self.events.push(Event { at, what });
        }

        fn shown(&mut self, name: &str, id: u64, message: &Message) {
            let viewer = Viewer { name: name.into(), visit: 1 };
            self.then(What::Shown { viewer, id, message: message.clone() });
        }

        #[track_caller]
        fn has_fault(&self, promise: &str) {
            let faults = faults(&self.events, &self.rows, None);
            assert!(faults.iter().any(|fault| fault.starts_with(promise)), "{faults:?}");
        }
    }

    #[test]
    fn checker_accepts_valid_history() {
        let mut story = Story::plain();
        // Sent without a reply, then resent and answered.
        story.then(What::Sent(message("w1", "#red", 2)));
        story.shown("w0", 2, &message("w0", "#red", 2));
        assert_eq!(faults(&story.events, &story.rows, None), Vec::<String>::new());
        story.rows.remove(0);
        assert_eq!(faults(&story.events, &story.rows, Some(2)), Vec::<String>::new());
    }

    #[test]
    fn checker_reports_lost_duplicate_changed_and_invented_messages() {
        let mut story = Story::plain();
        story.rows.remove(1);
        story.has_fault("I1");
        assert!(!faults(&story.events, &story.rows, Some(3)).is_empty());

        let mut story = Story::plain();
        story.rows.push(row(4, &message("w1", "w0", 1)));
        story.has_fault("I1");

        let mut story = Story::plain();
        story.rows[1].id = 3;
        story.rows[2].id = 4;
        story.has_fault("I1");

        let mut story = Story::plain();
        story.rows[1].message.text.push('!');
        story.has_fault("I2");

        let mut story = Story::plain();
        story.then(What::Refused(message("w0", "#red", 2)));
        story.has_fault("I2");
    }

    #[test]
    fn checker_reports_ids_and_authors_out_of_order() {
        let mut story = Story::plain();
        story.rows.swap(0, 1);
        story.has_fault("I3");
        story.has_fault("I4");

        // Sent after 3 was delivered, but stored before it.
        let mut story = Story::plain();
        let late = message("w1", "#red", 2);
        story.then(What::Sent(late.clone()));
        story.rows[2].id = 4;
        story.rows.insert(2, row(3, &late));
        story.has_fault("I3");

        let mut story = Story::plain();
        story.shown("w1", 3, &message("w0", "#red", 3));
        story.has_fault("I3");
    }

    #[test]
    fn checker_reports_wrong_deliveries() {
        let mut story = Story::plain();
        story.shown("w2", 3, &message("w1", "w0", 1));
        story.has_fault("I5");

        let mut story = Story::plain();
        story.shown("w0", 4, &message("w0", "#red", 2));
        story.has_fault("I6");

        let mut story = Story::plain();
        story.shown("w1", 2, &message("w0", "#red", 2));
        story.has_fault("I7");

        // A gap: the first and the third message are delivered, the second is not.
        let mut story = Story::plain();
        let third = message("w0", "#red", 3);
        story.then(What::Sent(third.clone()));
        story.rows.push(row(4, &third));
        story.shown("r0", 1, &message("w0", "#red", 1));
        story.shown("r0", 4, &third);
        story.has_fault("I7");
    }
}
