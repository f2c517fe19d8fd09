//! A turn: the records to commit and the effects to release after the commit, produced by one
//! batch of inputs.
//!
//! Effects are data. [`Turn::release`] passes them to a [`Sink`] in the order produced: the
//! reactor, or a test without sockets.
//!
//! A turn may comprise several drains of the sockets (see `batch_delay.rs`), whose output is
//! coalesced. Lines are encoded once per dialect into buffers of the turn, and adjoining lines
//! to the same audience are released as one span. A broadcast to a busy room therefore costs
//! one push per reader and turn instead of one per reader and line.

mod audience;
mod run;
pub mod wire;

use std::sync::Arc;

pub use super::net::ConnId;
pub use audience::{Audience, Reader};
use run::Run;

use crate::protocol::{Cid, Dialect, Event, Refusal, Tags};
use crate::server::auth::passwords::Job;
use crate::server::net::outbox::{Lines, Meter};
use crate::server::record::{Record, SentMail};
use crate::server::store::{Duplicate, ReadRequest};

/// Why a line goes to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The line replies to a line of this connection.
    Reply,
    /// The line was caused by another user or by the server.
    Broadcast,
}

/// The kind of a broadcast line, by which a reader can filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Delivered to the whole audience.
    Talk,
    /// Joins and leaves; delivered to readers that want them.
    Presence,
}

/// A range of bytes in one of the turn's buffers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Range {
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct Fanout {
    audience: Arc<Audience>,
    topic: Topic,
    /// The line in each dialect; empty in those without a reader.
    ranges: [Range; Dialect::COUNT],
    /// The connection for which this line is its echo, if it is in the audience.
    author: Option<ConnId>,
    except: Vec<ConnId>,
}

#[derive(Debug)]
enum Effect {
    Fanout(Fanout),
    Send {
        to: ConnId,
        line: Range,
        cause: Origin,
    },
    Close {
        conn: ConnId,
    },
    /// Boxed: rare, and larger than the others.
    Read {
        conn: ConnId,
        query: Box<ReadRequest>,
    },
    Hash {
        conn: ConnId,
        job: Job,
    },
    SendToken {
        conn: ConnId,
    },
    NotifyWhenDrained {
        conn: ConnId,
    },
    ExpectReceipt {
        conn: ConnId,
        mail: SentMail,
    },
}

/// A posted line: its record, and the connection to notify if it cannot be stored. A line that
/// is repeated with the same cid within a turn shares its record with the first one.
#[derive(Debug)]
struct Posting {
    record: Arc<Record>,
    conn: ConnId,
    dialect: Dialect,
}

/// The records and effects of one batch of inputs.
#[derive(Debug, Default)]
pub struct Turn {
    postings: Vec<Posting>,
    /// Indexes of postings that are new messages; their ids are consecutive.
    new: Vec<usize>,
    /// Effects in order, each with the index of the posting that it depends on.
    effects: Vec<(Option<usize>, Effect)>,
    /// The posting whose effects are being produced.
    with_message: Option<usize>,
    /// Encoded lines: those for audiences by dialect, and lines for single connections. They are
    /// separate so that the lines of a room stay adjoining.
    lines: [Vec<u8>; Dialect::COUNT],
    single: Vec<u8>,
    /// The number of the current drain, and the index of its first effect.
    drain: u32,
    drain_start: usize,
    /// The first audiences that received lines.
    deliveries: Vec<AudienceDelivery>,
    /// Number of readers that received lines of more than one drain.
    coalesced_writes: usize,
}

/// The delivery to one audience.
#[derive(Debug)]
struct AudienceDelivery {
    /// Address of the audience; effects keep it alive for the length of the turn.
    audience: usize,
    /// The first drain that delivered to it.
    drain: u32,
    is_coalesced: bool,
}

/// Number of audiences per turn that are tracked for coalescing; a few rooms have most of the
/// traffic.
const AUDIENCES_MAX: usize = 8;

/// Appends a line. Reserves memory for the first lines at once, which is cheaper than growing with
/// every line.
fn encode(dialect: Dialect, tags: &Tags<'_>, event: &Event<'_>, lines: &mut Vec<u8>) {
    if lines.is_empty() {
        lines.reserve(FIRST_SIZE);
    }
    dialect.encode(tags, event, lines);
}

/// Bytes initially reserved for a turn's lines.
const FIRST_SIZE: usize = 512;

/// Where effects are released to.
pub trait Sink {
    /// Queues `lines[start..end]` for a connection.
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize);
    /// Turns encoded lines into shared ones, to be pushed.
    fn share(&mut self, lines: Vec<u8>) -> Lines {
        Lines::new(lines, &Meter::default())
    }
    /// Notes that `count` of the bytes pushed to a connection, or about to be, are replies.
    fn note_reply_bytes(&mut self, to: ConnId, count: usize);
    /// Closes a connection after everything pushed to it is written.
    fn close(&mut self, conn: ConnId);
    /// Reads from the log; the hub gets the result.
    fn read(&mut self, conn: ConnId, query: ReadRequest);
    /// Queues the session token that is kept for a connection, as a part of a line. The other
    /// parts are pushed before and after it.
    fn push_token(&mut self, to: ConnId);
    /// Hashes or checks the password in the line for which a connection waits; the hub gets
    /// the outcome.
    fn hash(&mut self, conn: ConnId, job: Job);
    /// Notifies the hub when the outbox of a connection has drained.
    fn notify_when_drained(&mut self, conn: ConnId);
    /// Notes that this mail is among what was pushed to a connection. The hub is told when the
    /// client sends something after it was written.
    fn expect_receipt(&mut self, conn: ConnId, mail: SentMail);
}

impl Turn {
    /// Returns whether nothing was produced.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.postings.is_empty()
    }

    /// Starts a new drain within the turn.
    pub fn begin_drain(&mut self) {
        self.drain += u32::from(self.has_grown());
        self.drain_start = self.effects.len();
    }

    /// Returns whether the current drain has produced anything.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.effects.len() > self.drain_start
    }

    /// Returns the number of drains that produced something.
    #[must_use]
    pub fn drains(&self) -> u32 {
        self.drain + u32::from(self.has_grown())
    }

    /// Returns a lower bound for the number of readers whose lines of several drains are
    /// coalesced into one write.
    #[must_use]
    pub fn coalesced_writes(&self) -> usize {
        self.coalesced_writes
    }

    /// Returns the size of all encoded lines, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.lines.iter().map(Vec::len).sum::<usize>() + self.single.len()
    }

    fn note_delivery(&mut self, audience: &Arc<Audience>) {
        let address = Arc::as_ptr(audience).addr();
        let has_room = self.deliveries.len() < AUDIENCES_MAX;
        match self.deliveries.iter_mut().find(|delivery| delivery.audience == address) {
            Some(delivery) if delivery.drain < self.drain && !delivery.is_coalesced => {
                delivery.is_coalesced = true;
                self.coalesced_writes += audience.readers.len();
            }
            None if has_room => {
                let delivery =
                    AudienceDelivery { audience: address, drain: self.drain, is_coalesced: false };
                self.deliveries.push(delivery);
            }
            _ => {}
        }
    }

    /// Returns whether there are records to append to the log.
    #[must_use]
    pub fn has_records(&self) -> bool {
        !self.new.is_empty()
    }

    /// Returns the records, which must be stored before anything is released.
    #[must_use]
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.new.iter().map(|at| self.postings[*at].record.clone()).collect()
    }

    /// Begins the effects of a message posted by `conn`, up to [`Self::end_message`]. They are
    /// dropped if its record cannot be stored.
    pub fn begin_message(&mut self, record: Arc<Record>, conn: ConnId, dialect: Dialect) {
        self.new.push(self.postings.len());
        self.begin(Posting { record, conn, dialect });
    }

    /// Begins the reply to a line that repeats an earlier cid (deduplication), up to
    /// [`Self::end_message`]. If the first line is in this turn, both are stored or refused
    /// together.
    pub fn begin_duplicate(&mut self, record: Arc<Record>, conn: ConnId, dialect: Dialect) {
        if self.find_new(record.id).is_some() {
            self.begin(Posting { record, conn, dialect });
        }
    }

    /// Begins to show a message to a reader who requested it later, up to
    /// [`Self::end_message`]. If it was posted in this turn, it is not shown unless it is stored.
    pub fn begin_showing(&mut self, id: u64) {
        self.with_message = self.find_new(id);
    }

    /// Ends the effects of a message, also after they were interrupted by a panic.
    pub fn end_message(&mut self) {
        self.with_message = None;
    }

    fn begin(&mut self, posting: Posting) {
        self.postings.push(posting);
        self.with_message = Some(self.postings.len() - 1);
    }

    /// Returns the posting of a message of this turn.
    fn find_new(&self, id: u64) -> Option<usize> {
        let first = self.postings[*self.new.first()?].record.id;
        let at = usize::try_from(id.checked_sub(first)?).ok()?;
        self.new.get(at).copied()
    }

    /// Replaces the effects of all messages with a refusal to each author, because the records
    /// could not be stored.
    pub fn refuse_messages(&mut self, refusal: &Refusal) {
        self.replace_postings(|turn, posting| {
            turn.answer(posting, &Tags::default(), &Event::error(refusal));
            true
        });
    }

    /// Replaces the effects of messages that the log found to be duplicates with an echo of the
    /// first message to the author.
    pub fn echo_repeats(&mut self, repeats: &[Duplicate]) {
        self.replace_postings(|turn, posting| {
            let Some(repeat) = repeats.iter().find(|repeat| repeat.id == posting.record.id) else {
                return false;
            };
            let first = &repeat.first;
            turn.answer(posting, &first.tags(), &Event::Message(first.seen_by(first.author)));
            true
        });
    }

    /// Replaces the effects of postings for which `answer` returns true, having produced a reply.
    fn replace_postings(&mut self, answer: impl Fn(&mut Self, &Posting) -> bool) {
        let postings = std::mem::take(&mut self.postings);
        let mut is_answered: Vec<Option<bool>> = vec![None; postings.len()];
        for (posting, effect) in std::mem::take(&mut self.effects) {
            let is_void = posting.is_some_and(|at| {
                *is_answered[at].get_or_insert_with(|| answer(self, &postings[at]))
            });
            if !is_void {
                self.effects.push((posting, effect));
            }
        }
        self.postings = postings;
    }

    /// Sends a line to the author of a posting, with its cid.
    fn answer(&mut self, posting: &Posting, tags: &Tags<'_>, event: &Event<'_>) {
        let Posting { record, conn, dialect } = posting;
        let cid = record.cid.as_ref().map(Cid::as_str);
        self.send((*conn, *dialect), Origin::Reply, &Tags { cid, ..*tags }, event);
    }

    fn push(&mut self, effect: Effect) {
        self.effects.push((self.with_message, effect));
    }

    /// Broadcasts one line to an audience, except to the connections in `except`. For
    /// `author` it is the reply to its own line.
    pub fn fan_out(
        &mut self,
        audience: Arc<Audience>,
        topic: Topic,
        author: Option<ConnId>,
        except: Vec<ConnId>,
        tags: &Tags<'_>,
        event: &Event<'_>,
    ) {
        self.note_delivery(&audience);
        let mut ranges = [Range::default(); Dialect::COUNT];
        for dialect in Dialect::ALL {
            let (at, lines) = (*dialect as usize, &mut self.lines[*dialect as usize]);
            let start = lines.len();
            if audience.has[at] {
                encode(*dialect, tags, event, lines);
            }
            ranges[at] = Range { start, end: lines.len() };
        }
        self.push(Effect::Fanout(Fanout { audience, topic, ranges, author, except }));
    }

    /// Sends one line to one connection, in its dialect.
    pub fn send(
        &mut self,
        (to, dialect): (ConnId, Dialect),
        cause: Origin,
        tags: &Tags<'_>,
        event: &Event<'_>,
    ) {
        let start = self.single.len();
        encode(dialect, tags, event, &mut self.single);
        let line = Range { start, end: self.single.len() };
        self.push(Effect::Send { to, line, cause });
    }

    /// Sends bytes unchanged: a reply to a telnet command, or a part of a line.
    pub fn send_bytes(&mut self, to: ConnId, bytes: &[u8]) {
        let start = self.single.len();
        self.single.extend_from_slice(bytes);
        let line = Range { start, end: self.single.len() };
        self.push(Effect::Send { to, line, cause: Origin::Reply });
    }

    /// Returns the size of all lines to single connections so far, in bytes.
    #[must_use]
    pub fn unicast_bytes(&self) -> usize {
        self.single.len()
    }

    /// Closes a connection after everything sent to it is written.
    pub fn close(&mut self, conn: ConnId) {
        self.push(Effect::Close { conn });
    }

    /// Reads from the log for a connection, after this turn's records are stored.
    pub fn read(&mut self, conn: ConnId, query: ReadRequest) {
        self.push(Effect::Read { conn, query: Box::new(query) });
    }

    /// Sends the session token of a connection: the turn does not contain it. To be called
    /// between [`Turn::send_bytes`] with the start and the end of the line.
    pub fn send_token(&mut self, conn: ConnId) {
        self.push(Effect::SendToken { conn });
    }

    /// Hashes or checks the password in the line for which a connection waits.
    pub fn hash(&mut self, conn: ConnId, job: Job) {
        self.push(Effect::Hash { conn, job });
    }

    /// Notifies the hub when a connection has read most of its outbox.
    pub fn notify_when_drained(&mut self, conn: ConnId) {
        self.push(Effect::NotifyWhenDrained { conn });
    }

    /// Notes that mail was sent to a connection; see [`Sink::expect_receipt`].
    pub fn expect_receipt(&mut self, conn: ConnId, mail: SentMail) {
        self.push(Effect::ExpectReceipt { conn, mail });
    }

    /// Passes the effects to `sink` in the order produced, and clears the turn; its memory is
    /// reused. The records must have been stored before.
    pub fn release(&mut self, sink: &mut impl Sink) {
        if !self.effects.is_empty() {
            self.release_effects(sink);
        }
        self.postings.clear();
        self.new.clear();
        self.effects.clear();
        self.deliveries.clear();
        (self.drain, self.drain_start, self.coalesced_writes) = (0, 0, 0);
    }

    fn release_effects(&mut self, sink: &mut impl Sink) {
        let buffers = self.lines.each_mut().map(|lines| sink.share(std::mem::take(lines)));
        let single = sink.share(std::mem::take(&mut self.single));
        let mut run: Option<Run<'_>> = None;
        for (_, effect) in &self.effects {
            match effect {
                Effect::Fanout(fanout) => match &mut run {
                    Some(run) if run.continues(fanout) => run.extend(fanout, sink),
                    _ => {
                        if let Some(run) = run.take() {
                            run.flush(sink);
                        }
                        run = Some(Run::start(fanout, &buffers, sink));
                    }
                },
                Effect::Send { to, line, cause } => {
                    if let Some(run) = &mut run {
                        run.flush_reader(*to, sink);
                    }
                    if *cause == Origin::Reply {
                        sink.note_reply_bytes(*to, line.end - line.start);
                    }
                    sink.push(*to, &single, line.start, line.end);
                }
                Effect::Close { conn } => {
                    if let Some(run) = &mut run {
                        run.flush_reader(*conn, sink);
                    }
                    sink.close(*conn);
                }
                Effect::Read { conn, query } => sink.read(*conn, (**query).clone()),
                // The part of the line before it has flushed the run to this reader.
                Effect::SendToken { conn } => sink.push_token(*conn),
                Effect::Hash { conn, job } => sink.hash(*conn, job.clone()),
                Effect::NotifyWhenDrained { conn } => sink.notify_when_drained(*conn),
                Effect::ExpectReceipt { conn, mail } => sink.expect_receipt(*conn, *mail),
            }
        }
        if let Some(run) = run {
            run.flush(sink);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{ErrorReason, Message, Name, Place, Reply, RoomName, Stamp};
    use crate::server::record::{Recipient, UserId};
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Received {
        text: BTreeMap<u32, String>,
        pushes: usize,
        reply_bytes: usize,
    }

    impl Sink for Received {
        fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
            self.pushes += 1;
            let text = std::str::from_utf8(&lines[start..end]).unwrap();
            self.text.entry(to.slot).or_default().push_str(text);
        }
        fn note_reply_bytes(&mut self, _: ConnId, count: usize) {
            self.reply_bytes += count;
        }
        fn close(&mut self, conn: ConnId) {
            self.text.entry(conn.slot).or_default().push_str("closed");
        }
        fn push_token(&mut self, to: ConnId) {
            self.text.entry(to.slot).or_default().push_str("TOKEN");
        }
        fn hash(&mut self, _: ConnId, _: Job) {}
        fn read(&mut self, _: ConnId, _: ReadRequest) {}
        fn notify_when_drained(&mut self, _: ConnId) {}
        fn expect_receipt(&mut self, _: ConnId, _: SentMail) {}
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    /// Connections 0, 1 and 2; 1 is tagged, 2 does not want joins and leaves.
    fn audience() -> Arc<Audience> {
        let reader = |slot| {
            let dialect = Dialect::Plain.with_tags(slot == 1);
            Reader { conn: conn(slot), dialect, joins: slot != 2 }
        };
        Arc::new(Audience::new([2, 0, 1, 0].map(reader).to_vec()))
    }

    fn post(turn: &mut Turn, audience: &Arc<Audience>, id: u64, except: &[u32]) {
        let text = format!("n{id}");
        let place = Place::Room("lobby");
        let event = Event::Message(Message { place, from: "a", is_action: false, text: &text });
        let tags = Tags { id: Some(id), ..Tags::default() };
        let except = except.iter().map(|slot| conn(*slot)).collect();
        turn.fan_out(audience.clone(), Topic::Talk, Some(conn(0)), except, &tags, &event);
    }

    #[test]
    fn effect_is_small() {
        // A page of a long reply has an effect for each row.
        assert!(size_of::<(Option<usize>, Effect)>() <= 112, "{}", size_of::<Effect>());
    }

    #[test]
    fn adjoining_lines_are_one_push_per_reader() {
        let (mut turn, room) = (Turn::default(), audience());
        for id in 1..=3 {
            post(&mut turn, &room, id, &[]);
        }
        let mut received = Received::default();
        turn.release(&mut received);
        assert_eq!(received.pushes, 3);
        assert_eq!(
            received.reply_bytes,
            received.text[&0].len(),
            "connection 0 received only its own lines"
        );
        assert_eq!(received.text[&0], "a: n1\na: n2\na: n3\n");
        assert_eq!(received.text[&1], "@id=1 a: n1\n@id=2 a: n2\n@id=3 a: n3\n");
    }

    #[test]
    fn reader_receives_lines_in_order_when_runs_are_interrupted() {
        let (mut turn, room) = (Turn::default(), audience());
        let pong = Reply::Pong { token: "" }.into();
        post(&mut turn, &room, 1, &[]);
        turn.send((conn(0), Dialect::Plain), Origin::Reply, &Tags::default(), &pong);
        post(&mut turn, &room, 2, &[0, 1]);
        turn.send((conn(7), Dialect::Plain), Origin::Reply, &Tags::default(), &pong);
        post(&mut turn, &room, 3, &[]);
        turn.send_bytes(conn(1), b"[SESSION ");
        turn.send_token(conn(1));
        turn.send_bytes(conn(1), b"]\n");
        turn.close(conn(2));
        post(&mut turn, &room, 4, &[2]);
        let joined = Event::Joined { room: "lobby", name: "b" };
        turn.fan_out(room.clone(), Topic::Presence, None, Vec::new(), &Tags::default(), &joined);
        let mut received = Received::default();
        turn.release(&mut received);
        assert_eq!(received.text[&0], "a: n1\n[PONG]\na: n3\na: n4\n* b joined\n");
        let tagged = "@id=1 a: n1\n@id=3 a: n3\n[SESSION TOKEN]\n@id=4 a: n4\n* b joined\n";
        assert_eq!(received.text[&1], tagged);
        assert_eq!(received.text[&2], "a: n1\na: n2\na: n3\nclosed");
        assert_eq!(received.text[&7], "[PONG]\n");
    }

    fn record(id: u64, text: &str) -> Arc<Record> {
        Arc::new(Record {
            id,
            time: Stamp(0),
            author: UserId(1),
            from: Name::parse("a").unwrap(),
            to: Recipient::Room(RoomName::lobby()),
            is_action: false,
            text: text.into(),
            cid: None,
        })
    }

    /// Connection 0 posts a message, repeats it, and posts another; 1 catches up.
    fn turn_with_repeat_and_catch_up() -> Turn {
        let mut turn = Turn::default();
        let (first, second) = (record(8, "n8"), record(9, "n9"));
        let show = |turn: &mut Turn, record: &Record, to| {
            let event = Event::Message(record.seen_by(UserId(1)));
            turn.send((conn(to), Dialect::Plain), Origin::Reply, &Tags::default(), &event);
        };
        turn.begin_message(first.clone(), conn(0), Dialect::Plain);
        show(&mut turn, &first, 0);
        turn.begin_duplicate(first.clone(), conn(0), Dialect::Plain);
        show(&mut turn, &first, 0);
        turn.begin_message(second.clone(), conn(0), Dialect::Plain);
        show(&mut turn, &second, 0);
        for record in [record(7, "n7"), first, second] {
            turn.begin_showing(record.id);
            show(&mut turn, &record, 1);
        }
        turn.end_message();
        assert_eq!(turn.records().iter().map(|record| record.id).collect::<Vec<_>>(), [8, 9]);
        turn
    }

    #[test]
    fn unstored_message_is_not_delivered_and_each_line_is_refused() {
        let mut turn = turn_with_repeat_and_catch_up();
        turn.refuse_messages(&Refusal::new(ErrorReason::CannotStore, "no"));
        let mut received = Received::default();
        turn.release(&mut received);
        assert_eq!(received.text[&0], "[ERROR storage-full] no\n".repeat(3));
        assert_eq!(received.text[&1], "a: n7\n");
    }

    #[test]
    fn duplicate_is_echoed_to_its_author_only() {
        let mut turn = turn_with_repeat_and_catch_up();
        turn.echo_repeats(&[Duplicate { id: 8, first: record(3, "n3") }]);
        let mut received = Received::default();
        turn.release(&mut received);
        assert_eq!(received.text[&0], "a: n3\na: n3\na: n9\n");
        assert_eq!(received.text[&1], "a: n7\na: n9\n");
    }
}
