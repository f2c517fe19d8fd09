//! What one batch of inputs produced: the records to commit, and the effects to
//! release once they are safe. Effects are data; they are carried out, in the
//! order produced, by whoever calls [`Turn::release`]: the server with its
//! sockets, or a test with none.
//!
//! A turn may take in several drains of the sockets before it is committed; each
//! is a *part* of it.
//!
//! Lines are encoded into buffers of the turn as they arise, once for each
//! dialect; releasing hands out spans of these. Lines that follow each other to
//! the same audience become one span, so a busy room costs one push for each
//! reader and turn, not one for each reader and line.

mod audience;
mod run;

use std::sync::Arc;

pub use audience::{Audience, Reader};
use run::Run;

use super::log::{Duplicate, ReadRequest, Record};
use super::outbox::{Lines, Meter};
use super::passwords::Job;
use crate::protocol::{Cid, Event, Refusal, Tags};

/// One connection: where the server keeps it, and which of those that were
/// kept there one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// The place in the server's table.
    pub slot: u32,
    /// Counts up when the place is used again.
    pub generation: u32,
}

/// Why a line goes to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It answers a line of the connection's own.
    Asked,
    /// Somebody else said or did something.
    Unasked,
}

/// What kind of line it is, as far as a reader can choose not to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// For everyone in the audience.
    Talk,
    /// Comings and goings: only for those who want them.
    Presence,
}

/// From where to where in one of the turn's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct Fanout {
    audience: Arc<Audience>,
    topic: Topic,
    plain: Range,
    tagged: Range,
    /// Whose own line it answers, if it is among the audience.
    author: Option<ConnId>,
    except: Vec<ConnId>,
}

#[derive(Debug)]
enum Effect {
    Fanout(Fanout),
    Send { to: ConnId, line: Range, cause: Cause },
    Close { conn: ConnId },
    Read { conn: ConnId, query: ReadRequest },
    Hash { conn: ConnId, job: Job },
    Feed { conn: ConnId },
    Room { conn: ConnId },
}

/// A line that says something: its record, and who is to be told if that cannot be
/// kept. With a mark it may be said again; then more than one has the same record.
#[derive(Debug)]
struct Posting {
    record: Arc<Record>,
    conn: ConnId,
    is_tagged: bool,
}

/// The records and effects of one batch of inputs.
#[derive(Debug, Default)]
pub struct Turn {
    sayings: Vec<Posting>,
    /// Which of the sayings are new messages; their ids follow each other.
    new: Vec<usize>,
    /// Each with the saying it is part of, if any.
    effects: Vec<(Option<usize>, Effect)>,
    /// The saying whose effects are being produced.
    with_message: Option<usize>,
    /// Lines for audiences, plain and tagged, and lines for single connections;
    /// apart, so that a room's lines stay adjoining whatever else is said.
    plain: Vec<u8>,
    tagged: Vec<u8>,
    single: Vec<u8>,
    /// Which part this is, and where its effects begin.
    part: u32,
    part_start: usize,
    /// The first audiences that were told something.
    told: Vec<AudienceDelivery>,
    /// How many readers were told something in more than one part.
    coalesced_writes: usize,
}

/// That an audience was told something.
#[derive(Debug)]
struct AudienceDelivery {
    /// Its address; effects keep it alive as long as the turn.
    audience: usize,
    /// The part in which it first was.
    part: u32,
    is_gathered: bool,
}

/// How many audiences a turn tells apart in counting whom it told more than once:
/// some rooms talk most.
const AUDIENCES_MAX: usize = 8;

/// Where the next line begins. The first one finds room for some, which is
/// cheaper than to grow by halves of lines.
fn start(lines: &mut Vec<u8>) -> usize {
    if lines.is_empty() {
        lines.reserve(FIRST_SIZE);
    }
    lines.len()
}

/// How much room a turn's lines find at first, in bytes.
const FIRST_SIZE: usize = 512;

/// Where effects go.
pub trait Sink {
    /// `lines[start..end]` are to be written to a connection.
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize);
    /// Makes lines that are going to be pushed.
    fn share(&mut self, lines: Vec<u8>) -> Lines {
        Lines::new(lines, &Meter::default())
    }
    /// So many of the bytes pushed to a connection, or about to be, answer it.
    fn note_reply_bytes(&mut self, to: ConnId, count: usize);
    /// A connection is to be closed when all pushed to it is written.
    fn close(&mut self, conn: ConnId);
    /// The log is to be read, and the rows handed back to the hub.
    fn read(&mut self, conn: ConnId, query: ReadRequest);
    /// A password is to be hashed, and what comes of it handed back to the hub.
    fn hash(&mut self, conn: ConnId, job: Job);
    /// The hub is to be told when little waits for a connection any more.
    fn notify_when_drained(&mut self, conn: ConnId);
    /// The hub is to be told when there is room for a long answer to a connection.
    fn wait_for_memory(&mut self, conn: ConnId);
}

impl Turn {
    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty() && self.sayings.is_empty()
    }

    /// What comes now came later than what is in it.
    pub fn begin_drain(&mut self) {
        self.part += u32::from(self.has_grown());
        self.part_start = self.effects.len();
    }

    /// Whether anything has come in this part.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.effects.len() > self.part_start
    }

    /// How many parts there are; where nothing comes is none.
    #[must_use]
    pub fn drains(&self) -> u32 {
        self.part + u32::from(self.has_grown())
    }

    /// How many readers, at least, are told by one write what came in several
    /// parts.
    #[must_use]
    pub fn coalesced_writes(&self) -> usize {
        self.coalesced_writes
    }

    /// All its lines, each once for each dialect, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.plain.len() + self.tagged.len() + self.single.len()
    }

    fn note_delivery(&mut self, audience: &Arc<Audience>) {
        let address = Arc::as_ptr(audience).addr();
        let has_room = self.told.len() < AUDIENCES_MAX;
        match self.told.iter_mut().find(|told| told.audience == address) {
            Some(told) if told.part < self.part && !told.is_gathered => {
                told.is_gathered = true;
                self.coalesced_writes += audience.readers.len();
            }
            None if has_room => {
                let told =
                    AudienceDelivery { audience: address, part: self.part, is_gathered: false };
                self.told.push(told);
            }
            _ => {}
        }
    }

    /// Whether there is anything to be appended to the log.
    #[must_use]
    pub fn has_records(&self) -> bool {
        !self.new.is_empty()
    }

    /// To be appended to the log before anything is released.
    #[must_use]
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.new.iter().map(|at| self.sayings[*at].record.clone()).collect()
    }

    /// Produces the effects of a message that `conn` says. They stand or fall
    /// with its record.
    pub fn with_message(
        &mut self,
        record: Arc<Record>,
        conn: ConnId,
        is_tagged: bool,
        effects: impl FnOnce(&mut Self),
    ) {
        self.new.push(self.sayings.len());
        self.say(Posting { record, conn, is_tagged }, effects);
    }

    /// Produces the answer to a line that says again what was said before. If
    /// that was in this very turn, they stand or fall together.
    pub fn with_duplicate(
        &mut self,
        record: Arc<Record>,
        conn: ConnId,
        is_tagged: bool,
        effects: impl FnOnce(&mut Self),
    ) {
        match self.find_new(record.id) {
            Some(_) => self.say(Posting { record, conn, is_tagged }, effects),
            None => effects(self),
        }
    }

    /// What comes now belongs to no message: producing one was broken off.
    pub fn end_message(&mut self) {
        self.with_message = None;
    }

    /// Shows a message to somebody who was not there when it was said, which may
    /// have been in this very turn: then not if it cannot be kept.
    pub fn showing(&mut self, id: u64, effects: impl FnOnce(&mut Self)) {
        self.with_message = self.find_new(id);
        effects(self);
        self.with_message = None;
    }

    fn say(&mut self, saying: Posting, effects: impl FnOnce(&mut Self)) {
        self.sayings.push(saying);
        self.with_message = Some(self.sayings.len() - 1);
        effects(self);
        self.with_message = None;
    }

    /// Which saying a message of this turn is.
    fn find_new(&self, id: u64) -> Option<usize> {
        let first = self.sayings[*self.new.first()?].record.id;
        let at = usize::try_from(id.checked_sub(first)?).ok()?;
        self.new.get(at).copied()
    }

    /// The records could not be kept: nobody is shown what they say, and each
    /// line is answered with a refusal where its echo would have been.
    pub fn refuse_messages(&mut self, refusal: &Refusal) {
        self.answer_instead(|turn, saying| {
            turn.answer(saying, &Tags::default(), &Event::error(refusal));
            true
        });
    }

    /// Some of the records turned out to have been said before: only their
    /// authors are told, what they said then.
    pub fn echo_repeats(&mut self, repeats: &[Duplicate]) {
        self.answer_instead(|turn, saying| {
            let Some(repeat) = repeats.iter().find(|repeat| repeat.id == saying.record.id) else {
                return false;
            };
            let first = &repeat.first;
            let tags = Tags { id: Some(first.id), time: Some(first.time), cid: None };
            turn.answer(saying, &tags, &Event::Message(first.seen_by(first.author)));
            true
        });
    }

    /// Puts another answer in the place of what some sayings would have shown;
    /// `answer` tells whether it gave one.
    fn answer_instead(&mut self, answer: impl Fn(&mut Self, &Posting) -> bool) {
        let sayings = std::mem::take(&mut self.sayings);
        let mut is_answered: Vec<Option<bool>> = vec![None; sayings.len()];
        for (saying, effect) in std::mem::take(&mut self.effects) {
            let is_void = saying.is_some_and(|at| {
                *is_answered[at].get_or_insert_with(|| answer(self, &sayings[at]))
            });
            if !is_void {
                self.effects.push((saying, effect));
            }
        }
        self.sayings = sayings;
    }

    /// A line to the author of a saying, with its mark.
    fn answer(&mut self, saying: &Posting, tags: &Tags<'_>, event: &Event<'_>) {
        let Posting { record, conn, is_tagged } = saying;
        let cid = record.cid.as_ref().map(Cid::as_str);
        let tags = if *is_tagged { Tags { cid, ..*tags } } else { Tags::default() };
        self.send(*conn, Cause::Asked, &tags, event);
    }

    fn push(&mut self, effect: Effect) {
        self.effects.push((self.with_message, effect));
    }

    /// One line to everyone in an audience but those in `except`. To `author`
    /// it is the answer to a line of its own.
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
        let (plain_start, tagged_start) = (self.plain.len(), self.tagged.len());
        if audience.has_plain {
            start(&mut self.plain);
            event.encode(&mut self.plain);
        }
        if audience.has_tagged {
            start(&mut self.tagged);
            tags.encode(&mut self.tagged);
            event.encode(&mut self.tagged);
        }
        let plain = Range { start: plain_start, end: self.plain.len() };
        let tagged = Range { start: tagged_start, end: self.tagged.len() };
        self.push(Effect::Fanout(Fanout { audience, topic, plain, tagged, author, except }));
    }

    /// One line to one connection.
    pub fn send(&mut self, to: ConnId, cause: Cause, tags: &Tags<'_>, event: &Event<'_>) {
        let start = start(&mut self.single);
        tags.encode(&mut self.single);
        event.encode(&mut self.single);
        let line = Range { start, end: self.single.len() };
        self.push(Effect::Send { to, line, cause });
    }

    /// Bytes as they are: telnet's answer to telnet, a line that was kept.
    pub fn send_bytes(&mut self, to: ConnId, bytes: &[u8]) {
        let start = self.single.len();
        self.single.extend_from_slice(bytes);
        let line = Range { start, end: self.single.len() };
        self.push(Effect::Send { to, line, cause: Cause::Asked });
    }

    /// How much has been said to single connections so far, in bytes.
    #[must_use]
    pub fn unicast_bytes(&self) -> usize {
        self.single.len()
    }

    /// Closes a connection once all said to it is written.
    pub fn close(&mut self, conn: ConnId) {
        self.push(Effect::Close { conn });
    }

    /// Reads the log for a connection, after this turn's records are in it.
    pub fn read(&mut self, conn: ConnId, query: ReadRequest) {
        self.push(Effect::Read { conn, query });
    }

    /// Hashes a password for a connection.
    pub fn hash(&mut self, conn: ConnId, job: Job) {
        self.push(Effect::Hash { conn, job });
    }

    /// Feeds a connection on when it has read most of what waits for it.
    pub fn notify_when_drained(&mut self, conn: ConnId) {
        self.push(Effect::Feed { conn });
    }

    /// Lets a connection's long answer be made when there is room for it.
    pub fn wait_for_memory(&mut self, conn: ConnId) {
        self.push(Effect::Room { conn });
    }

    /// Carries the effects out in the order produced. Only to be called when
    /// the records are safe. The turn is empty then, and keeps its room for the
    /// next one.
    pub fn release(&mut self, sink: &mut impl Sink) {
        if !self.effects.is_empty() {
            self.carry_out(sink);
        }
        self.sayings.clear();
        self.new.clear();
        self.effects.clear();
        self.told.clear();
        (self.part, self.part_start, self.coalesced_writes) = (0, 0, 0);
    }

    fn carry_out(&mut self, sink: &mut impl Sink) {
        let buffers = [&mut self.plain, &mut self.tagged, &mut self.single];
        let buffers = buffers.map(|lines| sink.share(std::mem::take(lines)));
        let [plain, tagged, single] = &buffers;
        let mut run: Option<Run<'_>> = None;
        for (_, effect) in &self.effects {
            match effect {
                Effect::Fanout(fanout) => match &mut run {
                    Some(run) if run.continues(fanout) => run.extend(fanout, sink),
                    _ => {
                        if let Some(run) = run.take() {
                            run.flush(sink);
                        }
                        run = Some(Run::start(fanout, plain, tagged, sink));
                    }
                },
                Effect::Send { to, line, cause } => {
                    if let Some(run) = &mut run {
                        run.flush_reader(*to, sink);
                    }
                    if *cause == Cause::Asked {
                        sink.note_reply_bytes(*to, line.end - line.start);
                    }
                    sink.push(*to, single, line.start, line.end);
                }
                Effect::Close { conn } => {
                    if let Some(run) = &mut run {
                        run.flush_reader(*conn, sink);
                    }
                    sink.close(*conn);
                }
                Effect::Read { conn, query } => sink.read(*conn, query.clone()),
                Effect::Hash { conn, job } => sink.hash(*conn, job.clone()),
                Effect::Feed { conn } => sink.notify_when_drained(*conn),
                Effect::Room { conn } => sink.wait_for_memory(*conn),
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
    use crate::protocol::{ErrorCode, Message, Name, Place, RoomName, Stamp};
    use crate::server::log::{Recipient, UserId};
    use std::collections::BTreeMap;

    #[derive(Default)]
    struct Seen {
        text: BTreeMap<u32, String>,
        pushes: usize,
        asked: usize,
    }

    impl Sink for Seen {
        fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
            self.pushes += 1;
            let text = std::str::from_utf8(&lines[start..end]).unwrap();
            self.text.entry(to.slot).or_default().push_str(text);
        }
        fn note_reply_bytes(&mut self, _: ConnId, count: usize) {
            self.asked += count;
        }
        fn close(&mut self, conn: ConnId) {
            self.text.entry(conn.slot).or_default().push_str("closed");
        }
        fn hash(&mut self, _: ConnId, _: Job) {}
        fn read(&mut self, _: ConnId, _: ReadRequest) {}
        fn notify_when_drained(&mut self, _: ConnId) {}
        fn wait_for_memory(&mut self, _: ConnId) {}
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: 0 }
    }

    /// Connections 0, 1 and 2; 1 is tagged, 2 does not want comings and goings.
    fn audience() -> Arc<Audience> {
        let reader = |slot| Reader { conn: conn(slot), tags: slot == 1, joins: slot != 2 };
        Arc::new(Audience::new([2, 0, 1, 0].map(reader).to_vec()))
    }

    fn say(turn: &mut Turn, audience: &Arc<Audience>, id: u64, except: &[u32]) {
        let text = format!("n{id}");
        let place = Place::Room("lobby");
        let event = Event::Message(Message { place, from: "a", is_action: false, text: &text });
        let tags = Tags { id: Some(id), ..Tags::default() };
        let except = except.iter().map(|slot| conn(*slot)).collect();
        turn.fan_out(audience.clone(), Topic::Talk, Some(conn(0)), except, &tags, &event);
    }

    #[test]
    fn a_run_of_lines_is_one_push_for_each_reader() {
        let (mut turn, room) = (Turn::default(), audience());
        for id in 1..=3 {
            say(&mut turn, &room, id, &[]);
        }
        let mut seen = Seen::default();
        turn.release(&mut seen);
        assert_eq!(seen.pushes, 3);
        assert_eq!(seen.asked, seen.text[&0].len(), "all that 0 was sent is what 0 said");
        assert_eq!(seen.text[&0], "a: n1\na: n2\na: n3\n");
        assert_eq!(seen.text[&1], "@id=1 a: n1\n@id=2 a: n2\n@id=3 a: n3\n");
    }

    #[test]
    fn each_reader_is_told_in_the_order_produced_whatever_comes_between() {
        let (mut turn, room) = (Turn::default(), audience());
        let pong = Event::reply("PONG", "", "");
        say(&mut turn, &room, 1, &[]);
        turn.send(conn(0), Cause::Asked, &Tags::default(), &pong);
        say(&mut turn, &room, 2, &[0, 1]);
        turn.send(conn(7), Cause::Asked, &Tags::default(), &pong);
        say(&mut turn, &room, 3, &[]);
        turn.close(conn(2));
        say(&mut turn, &room, 4, &[2]);
        let joined = Event::Joined { room: "lobby", name: "b" };
        turn.fan_out(room.clone(), Topic::Presence, None, Vec::new(), &Tags::default(), &joined);
        let mut seen = Seen::default();
        turn.release(&mut seen);
        assert_eq!(seen.text[&0], "a: n1\n[PONG]\na: n3\na: n4\n* b joined\n");
        assert_eq!(seen.text[&1], "@id=1 a: n1\n@id=3 a: n3\n@id=4 a: n4\n* b joined\n");
        assert_eq!(seen.text[&2], "a: n1\na: n2\na: n3\nclosed");
        assert_eq!(seen.text[&7], "[PONG]\n");
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

    /// 0 says something, says it again, and says something else; 1 catches up.
    fn said_twice_and_caught_up() -> Turn {
        let mut turn = Turn::default();
        let (first, second) = (record(8, "n8"), record(9, "n9"));
        let show = |turn: &mut Turn, record: &Record, to| {
            let event = Event::Message(record.seen_by(UserId(1)));
            turn.send(conn(to), Cause::Asked, &Tags::default(), &event);
        };
        turn.with_message(first.clone(), conn(0), false, |turn| show(turn, &first, 0));
        turn.with_duplicate(first.clone(), conn(0), false, |turn| show(turn, &first, 0));
        turn.with_message(second.clone(), conn(0), false, |turn| show(turn, &second, 0));
        for record in [record(7, "n7"), first, second] {
            turn.showing(record.id, |turn| show(turn, &record, 1));
        }
        assert_eq!(turn.records().iter().map(|record| record.id).collect::<Vec<_>>(), [8, 9]);
        turn
    }

    #[test]
    fn what_cannot_be_kept_is_shown_to_nobody_and_each_line_has_an_answer() {
        let mut turn = said_twice_and_caught_up();
        turn.refuse_messages(&Refusal::new(ErrorCode::StorageFull, "no"));
        let mut seen = Seen::default();
        turn.release(&mut seen);
        assert_eq!(seen.text[&0], "[ERROR storage-full] no\n".repeat(3));
        assert_eq!(seen.text[&1], "a: n7\n");
    }

    #[test]
    fn what_turns_out_to_be_said_before_is_told_to_its_author_only() {
        let mut turn = said_twice_and_caught_up();
        turn.echo_repeats(&[Duplicate { id: 8, first: record(3, "n3") }]);
        let mut seen = Seen::default();
        turn.release(&mut seen);
        assert_eq!(seen.text[&0], "a: n3\na: n3\na: n9\n");
        assert_eq!(seen.text[&1], "a: n7\na: n9\n");
    }
}
