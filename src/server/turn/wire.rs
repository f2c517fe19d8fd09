//! The wire format of turns: their records, changes and effects, as bytes that other servers
//! decode.
//!
//! ```text
//! encoded turn = version (1 byte) body      the body of version 1 is in v1.rs
//! ```
//!
//! An [`Encoder`] and its [`Decoder`]s remember the last audience of each room, so that a turn
//! contains only the readers that were added, removed or changed. All turns of an encoder must
//! therefore be decoded in order, from the first one or the first one after
//! [`Encoder::forget`].
//!
//! Only what is released is encoded: not which effects depend on which message, no effects of
//! messages that were refused, and no secrets.

use std::array;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::mem;
use std::sync::Arc;

use super::{Audience, ConnId, Effect, Fanout, Origin, Range, Reader, Topic, Turn};
use crate::protocol::Dialect;
use crate::server::record::{SentMail, UserId};
use crate::server::store::Batch;
use v1::{AudienceV1, EffectV1, LinesV1, RangeV1, TurnV1};

mod v1;

/// The version that is written. Older ones stay readable.
const VERSION: u8 = 1;

/// Minimum number of turns and audiences between two searches for ended rooms.
const SEARCH_INTERVAL: usize = 64;

/// Maximum number of readers that the changed audiences of a turn copy from earlier ones, since a
/// few bytes can request many copies. A real turn stays below: the hub copies readers as well,
/// and more would take it seconds.
const COPIED_MAX: usize = 1 << 23;

/// Encodes turns for decoders that receive all of them.
#[derive(Debug, Default)]
pub struct Encoder {
    /// The last audience of each room; the decoders have the same ones. Ordered, so that the
    /// same turns are encoded to the same bytes.
    rooms: BTreeMap<u64, Known>,
    has_begun: bool,
    /// The number of turns and audiences to encode before the next search for ended rooms.
    search_in: usize,
}

#[derive(Debug)]
struct Known {
    audience: Arc<Audience>,
    /// Whether a turn has used it since the last search for ended rooms.
    is_used: bool,
}

impl Encoder {
    /// Forgets all audiences, so that a new decoder can begin with the next turn. It must be
    /// called for a new hub, which numbers rooms from 1 again, and after a turn that not all
    /// decoders will receive.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Encodes a turn as it would be released now, after its records and the other contents of
    /// `batch` are stored. Messages that cannot be stored must have been replaced before.
    ///
    /// # Panics
    /// Never: a vector can hold every turn in memory.
    #[must_use]
    pub fn encode(&mut self, turn: &Turn, batch: &Batch) -> Vec<u8> {
        let begins = !mem::replace(&mut self.has_begun, true);
        let (mut audiences, mut indexes) = (Vec::new(), HashMap::new());
        let mut lines = turn.lines.each_ref().map(|lines| Packer::new(lines));
        let mut single = Packer::new(&turn.single);
        let effects = turn.effects.iter().map(|(_, effect)| match effect {
            Effect::Fanout(fanout) => {
                let Fanout { audience, topic, ranges, .. } = fanout;
                let index = indexes.entry(Arc::as_ptr(audience).addr()).or_insert_with(|| {
                    audiences.push(self.describe(audience));
                    audiences.len() - 1
                });
                EffectV1::Fanout {
                    audience: *index,
                    is_presence: *topic == Topic::Presence,
                    ranges: v1::without_empty(array::from_fn(|at| lines[at].range(ranges[at]))),
                    author: fanout.author.map(Into::into),
                    except: fanout.except.iter().map(|conn| (*conn).into()).collect(),
                }
            }
            Effect::Send { to, line, cause } => EffectV1::Send {
                to: (*to).into(),
                len: single.line(*line),
                is_reply: *cause == Origin::Reply,
            },
            Effect::Close { conn } => EffectV1::Close { conn: (*conn).into() },
            Effect::Read { conn, query } => {
                EffectV1::Read { conn: (*conn).into(), query: (&**query).into() }
            }
            Effect::Hash { conn, job } => EffectV1::Hash { conn: (*conn).into(), job: job.into() },
            Effect::NotifyWhenDrained { conn } => {
                EffectV1::NotifyWhenDrained { conn: (*conn).into() }
            }
            Effect::SendToken { conn } => EffectV1::SendToken { conn: (*conn).into() },
            Effect::ExpectReceipt { conn, mail: SentMail { to, last } } => {
                EffectV1::ExpectReceipt { conn: (*conn).into(), to: to.0, last: *last }
            }
        });
        let effects = effects.collect();
        let ended = self.forget_ended(audiences.len());
        let body = TurnV1 {
            begins,
            audiences,
            ended,
            records: batch.records.iter().map(|record| (&**record).into()).collect(),
            changes: batch.changes.iter().map(Into::into).collect(),
            last: batch.last.into(),
            lines: v1::without_empty(lines.each_ref().map(|lines| LinesV1(&lines.packed))),
            single: LinesV1(&single.packed),
            effects,
        };
        postcard::to_allocvec(&(VERSION, body)).expect("a vector grows")
    }

    /// Describes an audience by its difference from what the decoders know.
    fn describe(&mut self, audience: &Arc<Audience>) -> AudienceV1 {
        let readers = || audience.readers.iter().map(Into::into).collect();
        let Some(room) = audience.number else { return AudienceV1::AdHoc { readers: readers() } };
        let known = Known { audience: audience.clone(), is_used: true };
        match self.rooms.insert(room, known) {
            None => AudienceV1::New { room, readers: readers() },
            Some(last) if Arc::ptr_eq(&last.audience, audience) => AudienceV1::Kept { room },
            Some(last) => difference(room, &last.audience.readers, &audience.readers),
        }
    }

    /// Forgets the audiences that the hub has dropped and did not replace for an interval: most of
    /// their rooms have ended. If one has not, its next audience is encoded in full. `count` is
    /// the number of audiences in this turn. A search looks at all rooms, and the intervals grow
    /// with their number.
    fn forget_ended(&mut self, count: usize) -> Vec<u64> {
        self.search_in = self.search_in.saturating_sub(1 + count);
        if self.search_in > 0 {
            return Vec::new();
        }
        let has_ended = |_: &u64, known: &mut Known| {
            !mem::take(&mut known.is_used) && Arc::strong_count(&known.audience) == 1
        };
        let ended = self.rooms.extract_if(.., has_ended).map(|(room, _)| room).collect();
        self.search_in = (self.rooms.len() / 2).max(SEARCH_INTERVAL);
        ended
    }
}

/// Describes the changes from one sorted list of readers to another.
fn difference(room: u64, old: &[Reader], new: &[Reader]) -> AudienceV1 {
    let (mut removed, mut set) = (Vec::new(), Vec::new());
    let mut old = old.iter().peekable();
    for reader in new {
        while let Some(gone) = old.next_if(|old| old.conn < reader.conn) {
            removed.push(gone.conn.into());
        }
        if old.next_if(|old| old.conn == reader.conn) != Some(reader) {
            set.push(reader.into());
        }
    }
    removed.extend(old.map(|gone| v1::ConnV1::from(gone.conn)));
    AudienceV1::Changed { room, removed, set }
}

/// Copies lines out of a buffer of the turn, without those whose effects were dropped.
struct Packer<'t> {
    lines: &'t [u8],
    /// End of the last lines copied, in the buffer of the turn.
    end: usize,
    packed: Vec<u8>,
}

impl<'t> Packer<'t> {
    fn new(lines: &'t [u8]) -> Self {
        Self { lines, end: 0, packed: Vec::with_capacity(lines.len()) }
    }

    /// Copies the lines of a broadcast. A gap before them is encoded as one byte, whatever its
    /// size: it only keeps lines that do not adjoin from being released as one span.
    fn range(&mut self, range: Range) -> RangeV1 {
        let skip = usize::from(range.start != self.end);
        self.packed.resize(self.packed.len() + skip, b'\n');
        RangeV1 { skip, len: self.line(range) }
    }

    /// Copies a line and returns its size.
    fn line(&mut self, Range { start, end }: Range) -> usize {
        self.packed.extend_from_slice(&self.lines[start..end]);
        self.end = end;
        end - start
    }
}

/// Decodes the turns of an encoder.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The last audience of each room.
    rooms: HashMap<u64, Arc<Audience>>,
}

impl Decoder {
    /// Decodes a turn: what to store, and what to release afterwards. The secrets of password
    /// jobs are empty.
    ///
    /// # Errors
    /// The bytes are not a turn that follows the last decoded one; see [`WireError`]. The
    /// decoder is unchanged then.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<(Batch, Turn), WireError> {
        let (version, body) = bytes.split_first().ok_or(WireError::Malformed)?;
        if *version != VERSION {
            return Err(WireError::Version(*version));
        }
        match postcard::take_from_bytes(body) {
            Ok((body, [])) => self.decode_v1(body),
            _ => Err(WireError::Malformed),
        }
    }

    fn decode_v1(&mut self, body: TurnV1<'_>) -> Result<(Batch, Turn), WireError> {
        let mut found = Audiences { rooms: HashMap::new(), copied: 0 };
        let known = if body.begins { &HashMap::new() } else { &self.rooms };
        let audiences = body.audiences.into_iter().map(|audience| found.resolve(audience, known));
        let audiences: Vec<_> = audiences.collect::<Result<_, _>>()?;
        let lines = v1::with_empty(body.lines)?.map(|LinesV1(lines)| lines);
        let LinesV1(single) = body.single;
        let mut unpackers = (lines.map(Unpacker::new), Unpacker::new(single));
        let effects = body.effects.into_iter();
        let effects = effects.map(|effect| decode_effect(effect, &audiences, &mut unpackers));
        let effects = effects.map(|effect| Ok((None, effect?))).collect::<Result<_, _>>()?;
        let (records, changes) = (body.records.into_iter(), body.changes.into_iter());
        let batch = Batch {
            records: records.map(|it| it.try_into().map(Arc::new)).collect::<Result<_, _>>()?,
            changes: changes.map(TryInto::try_into).collect::<Result<_, _>>()?,
            last: body.last.into(),
        };
        if !batch.records.is_sorted_by(|one, next| one.id < next.id) {
            return Err(WireError::Invalid("order of messages"));
        }
        if body.begins {
            self.rooms.clear();
        }
        self.rooms.extend(found.rooms);
        for room in body.ended {
            self.rooms.remove(&room);
        }
        let (lines, single) = (lines.map(<[u8]>::to_vec), single.to_vec());
        Ok((batch, Turn { effects, lines, single, ..Turn::default() }))
    }
}

fn decode_effect(
    effect: EffectV1<'_>,
    audiences: &[Arc<Audience>],
    (lines, single): &mut ([Unpacker; Dialect::COUNT], Unpacker),
) -> Result<Effect, WireError> {
    Ok(match effect {
        EffectV1::Fanout { audience, is_presence, ranges, author, except } => {
            let audience = audiences.get(audience).cloned();
            let encoded = v1::with_empty(ranges)?;
            let mut ranges = [Range::default(); Dialect::COUNT];
            for (range, (encoded, lines)) in ranges.iter_mut().zip(encoded.into_iter().zip(lines)) {
                *range = lines.range(encoded)?;
            }
            Effect::Fanout(Fanout {
                audience: audience.ok_or(WireError::Invalid("index of an audience"))?,
                topic: if is_presence { Topic::Presence } else { Topic::Talk },
                ranges,
                author: author.map(Into::into),
                except: except.into_iter().map(Into::into).collect(),
            })
        }
        EffectV1::Send { to, len, is_reply } => Effect::Send {
            to: to.into(),
            line: single.range(RangeV1 { skip: 0, len })?,
            cause: if is_reply { Origin::Reply } else { Origin::Broadcast },
        },
        EffectV1::Close { conn } => Effect::Close { conn: conn.into() },
        EffectV1::Read { conn, query } => {
            Effect::Read { conn: conn.into(), query: Box::new(query.into()) }
        }
        EffectV1::Hash { conn, job } => Effect::Hash { conn: conn.into(), job: job.into() },
        EffectV1::NotifyWhenDrained { conn } => Effect::NotifyWhenDrained { conn: conn.into() },
        EffectV1::SendToken { conn } => Effect::SendToken { conn: conn.into() },
        EffectV1::ExpectReceipt { conn, to, last } => {
            Effect::ExpectReceipt { conn: conn.into(), mail: SentMail { to: UserId(to), last } }
        }
    })
}

/// The new audiences of a turn that is being decoded.
struct Audiences {
    rooms: HashMap<u64, Arc<Audience>>,
    /// Number of readers copied from earlier ones.
    copied: usize,
}

impl Audiences {
    /// Returns an audience of the turn; `known` are those before it.
    fn resolve(
        &mut self,
        audience: AudienceV1,
        known: &HashMap<u64, Arc<Audience>>,
    ) -> Result<Arc<Audience>, WireError> {
        let last = |room| {
            let last = self.rooms.get(&room).or_else(|| known.get(&room));
            last.cloned().ok_or(WireError::UnknownAudience(room))
        };
        let (room, mut readers, set) = match audience {
            AudienceV1::Kept { room } => return last(room),
            AudienceV1::Changed { room, removed, set } => {
                let last = last(room)?;
                self.copied += last.readers.len();
                if self.copied > COPIED_MAX {
                    return Err(WireError::Invalid("number of readers"));
                }
                let replaced = set.iter().map(|reader| reader.conn);
                let gone: HashSet<ConnId> =
                    removed.into_iter().chain(replaced).map(Into::into).collect();
                let stays = |reader: &&Reader| !gone.contains(&reader.conn);
                (Some(room), last.readers.iter().filter(stays).copied().collect(), set)
            }
            AudienceV1::New { room, readers } => (Some(room), Vec::new(), readers),
            AudienceV1::AdHoc { readers } => (None, Vec::new(), readers),
        };
        for reader in set {
            readers.push(reader.try_into()?);
        }
        let audience = Arc::new(Audience::create(room, readers));
        if let Some(room) = room {
            self.rooms.insert(room, audience.clone());
        }
        Ok(audience)
    }
}

/// Finds the lines of effects in an encoded buffer.
struct Unpacker {
    /// Size of the buffer.
    len: usize,
    end: usize,
}

impl Unpacker {
    fn new(lines: &[u8]) -> Self {
        Self { len: lines.len(), end: 0 }
    }

    fn range(&mut self, RangeV1 { skip, len }: RangeV1) -> Result<Range, WireError> {
        let start = self.end.checked_add(skip);
        let end = start.and_then(|start| start.checked_add(len)).filter(|end| *end <= self.len);
        let (Some(start), Some(end)) = (start, end) else {
            return Err(WireError::Invalid("range of lines"));
        };
        self.end = end;
        Ok(Range { start, end })
    }
}

/// Why bytes cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// A version that this server does not know.
    Version(u8),
    /// The bytes do not have the structure of their version.
    Malformed,
    /// A value that no turn can have.
    Invalid(&'static str),
    /// Changes of an audience that the decoder does not have, by the number of the room.
    UnknownAudience(u64),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => {
                write!(f, "turn of unknown version {version}; this server reads {VERSION}")
            }
            Self::Malformed => f.write_str("malformed turn"),
            Self::Invalid(what) => write!(f, "turn with an invalid {what}"),
            Self::UnknownAudience(room) => {
                write!(f, "turn with an unknown audience (room {room}); an earlier one is missing")
            }
        }
    }
}

impl std::error::Error for WireError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        Cid, ErrorReason, Event, Key, Message, Name, Place, Refusal, Reply, RoomName, Stamp, Tags,
    };
    use crate::server::auth::passwords::Job;
    use crate::server::net::outbox::Lines;
    use crate::server::record::{Recipient, Record};
    use crate::server::store::{
        Author, Change, Collection, Duplicate, Filter, LastIds, MembershipSpan, ReadRequest,
        SearchTerms, Thread,
    };
    use crate::server::turn::Sink;

    /// The calls of a sink, in order.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Calls(Vec<String>);

    impl Sink for Calls {
        fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
            self.0.push(format!("{to:?} {}", lines[start..end].escape_ascii()));
        }
        fn note_reply_bytes(&mut self, to: ConnId, count: usize) {
            self.0.push(format!("{to:?} replies {count}"));
        }
        fn close(&mut self, conn: ConnId) {
            self.0.push(format!("{conn:?} close"));
        }
        fn read(&mut self, conn: ConnId, query: ReadRequest) {
            self.0.push(format!("{conn:?} {query:?}"));
        }
        fn push_token(&mut self, to: ConnId) {
            self.0.push(format!("{to:?} token"));
        }
        fn hash(&mut self, conn: ConnId, job: Job) {
            self.0.push(format!("{conn:?} {job:?}"));
        }
        fn notify_when_drained(&mut self, conn: ConnId) {
            self.0.push(format!("{conn:?} drained"));
        }
        fn expect_receipt(&mut self, conn: ConnId, mail: SentMail) {
            self.0.push(format!("{conn:?} {mail:?}"));
        }
    }

    /// An encoder and a decoder.
    #[derive(Default)]
    struct Pair(Encoder, Decoder);

    impl Pair {
        /// Encodes, decodes and compares a turn; returns its encoded size.
        fn pass(&mut self, turn: Turn) -> usize {
            let bytes = self.0.encode(&turn, &Batch::default());
            let (_, decoded) = self.1.decode(&bytes).unwrap();
            assert_eq!(calls(decoded), calls(turn));
            bytes.len()
        }
    }

    fn calls(mut turn: Turn) -> Calls {
        let mut calls = Calls::default();
        turn.release(&mut calls);
        calls
    }

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, generation: slot % 3 }
    }

    /// The readers of these slots; every second one uses the tagged dialect.
    fn readers(slots: impl IntoIterator<Item = u32>) -> Vec<Reader> {
        let reader = |slot| {
            let dialect = Dialect::Plain.with_tags(slot % 2 == 1);
            Reader { conn: conn(slot), dialect, joins: slot % 5 > 0 }
        };
        slots.into_iter().map(reader).collect()
    }

    fn room(number: u64, slots: impl IntoIterator<Item = u32>) -> Arc<Audience> {
        Arc::new(Audience::of_room(number, readers(slots)))
    }

    fn say(turn: &mut Turn, audience: &Arc<Audience>, text: &str) {
        let message = Message { place: Place::Room("lobby"), from: "a", is_action: false, text };
        let tags = Tags { id: Some(7), ..Tags::default() };
        let (author, event) = (Some(conn(1)), Event::Message(message));
        turn.fan_out(audience.clone(), Topic::Talk, author, vec![conn(2)], &tags, &event);
    }

    fn turn(audiences: &[&Arc<Audience>]) -> Turn {
        let mut turn = Turn::default();
        for audience in audiences {
            say(&mut turn, audience, "hi");
        }
        turn
    }

    fn record(id: u64, to: Recipient, cid: Option<&str>) -> Arc<Record> {
        Arc::new(Record {
            id,
            time: Stamp(1_795_414_560_123),
            author: UserId(5),
            from: Name::parse("Ann").unwrap(),
            to,
            is_action: cid.is_none(),
            text: "hi".into(),
            cid: cid.and_then(Cid::parse),
        })
    }

    /// A turn with every kind of effect, and its batch.
    fn everything(lobby: &Arc<Audience>) -> (Turn, Batch) {
        let mut turn = Turn::default();
        say(&mut turn, lobby, "hi");
        let (pong, tags) = (Reply::Pong { token: "" }.into(), Tags::default());
        turn.send((conn(1), Dialect::Plain), Origin::Reply, &tags, &pong);
        turn.send((conn(2), Dialect::Plain), Origin::Broadcast, &tags, &pong);
        turn.send_bytes(conn(1), b"\xff\xfb\x06");
        let joined = Event::Joined { room: "lobby", name: "b" };
        let all = Arc::new(Audience::new(readers([300])));
        turn.fan_out(all, Topic::Presence, None, Vec::new(), &tags, &joined);
        turn.close(conn(2));
        let (reader, room) = (UserId(5), || Key::fold("Ops"));
        let span = |until| MembershipSpan { room: room(), from: 2, until };
        for thread in [
            Thread::Room(room()),
            Thread::Private { reader, other: Key::fold("bob"), other_id: Some(UserId(6)) },
            Thread::Search {
                reader,
                rooms: vec![room()],
                is_private_too: true,
                terms: SearchTerms::parse("now 北京"),
            },
            Thread::Ids { reader, ids: vec![4, 9] },
            Thread::Message { id: 9 },
            Thread::Feed { reader, stays: vec![span(None), span(Some(4))] },
        ] {
            let author = Some(Author { name: room(), id: Some(UserId(9)) });
            let (since, until) = (Some(Stamp(1)), Some(Stamp(2)));
            let filter = Filter { before: Some(400), since, until, author };
            let (count, size, hidden) = (20, 1 << 16, vec![UserId(8)]);
            turn.read(
                conn(1),
                ReadRequest { thread, count, size, after: Some(300), hidden, filter },
            );
        }
        turn.hash(conn(0), Job::Hash);
        turn.hash(conn(0), Job::Check("$argon2id$x".into()));
        turn.hash(conn(0), Job::Match("ab12".into()));
        turn.notify_when_drained(conn(1));
        turn.send_token(conn(4));
        turn.expect_receipt(conn(1), SentMail { to: reader, last: 300 });
        let change = |collection, value: Option<&str>| Change {
            collection,
            key: 5,
            value: value.map(str::to_owned),
        };
        let to_bob = Recipient::Person(UserId(6), Name::parse("bob").unwrap());
        let records = vec![
            record(7, Recipient::Room(RoomName::lobby()), Some("c-1")),
            record(9, to_bob, None),
        ];
        let changes =
            vec![change(Collection::Session, Some("{}")), change(Collection::Account, None)];
        (turn, Batch { records, changes, last: LastIds { message: 9, person: 6 } })
    }

    #[test]
    fn bytes_of_version_1_never_change() {
        let lobby = room(3, 0..3);
        let (turn, batch) = everything(&lobby);
        let mut encoder = Encoder::default();
        let bytes = encoder.encode(&turn, &batch);
        let hex = bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let version_1 = [
            "0101020203030000000001010101020200010301ac02000000000207f6b5e0f0",
            "c0680503416e6e00056c6f626279000268690103632d3109f6b5e0f0c0680503",
            "416e6e010603626f620102686900020576697369740501027b7d076163636f75",
            "6e74050009060211613a2068690a2a2062206a6f696e65640a0c4069643d3720",
            "613a2068690a115b504f4e475d0a5b504f4e475d0afffb061200000002000600",
            "0c01010101020201010107010102020700010101030100010101000b00000202",
            "0203010100036f70731480800401ac0201080190030102010401036f70730109",
            "030101010503626f6201061480800401ac0201080190030102010401036f7073",
            "0109030101020501036f70730102036e6f7706e58c97e4baac1480800401ac02",
            "01080190030102010401036f7073010903010103050204091480800401ac0201",
            "080190030102010401036f7073010903010104091480800401ac020108019003",
            "0102010401036f70730109030101050502036f70730200036f70730201041480",
            "800401ac0201080190030102010401036f7073010904000000040000010b2461",
            "72676f6e326964247804000002046162313205010106040107010105ac02",
        ];
        assert_eq!(hex, version_1.concat());
        // The room as it was, and then with other readers.
        let bytes = encoder.encode(&self::turn(&[&lobby, &room(3, [1, 4])]), &batch);
        assert_eq!(bytes[..16], [1, 0, 2, 0, 3, 1, 3, 2, 0, 0, 2, 2, 1, 4, 1, 0]);
    }

    #[test]
    fn every_effect_is_decoded() {
        let (turn, batch) = everything(&room(3, 0..3));
        let bytes = Encoder::default().encode(&turn, &batch);
        let (decoded, decoded_turn) = Decoder::default().decode(&bytes).unwrap();
        assert_eq!((decoded, calls(decoded_turn)), (batch, calls(turn)));
    }

    #[test]
    fn room_is_encoded_by_its_changes() {
        let mut pair = Pair::default();
        let old = room(1, 0..1000);
        assert!(pair.pass(turn(&[&old])) > 4000);
        assert!(pair.pass(turn(&[&old])) < 50);
        // One reader leaves, two come, and one changes the dialect.
        let mut changed = readers((0..1002).filter(|slot| *slot != 500));
        changed[7].dialect = Dialect::Plain;
        let new = Arc::new(Audience::of_room(1, changed.clone()));
        assert!(pair.pass(turn(&[&new])) < 80);
        assert_eq!(pair.1.rooms[&1].readers, changed);
        assert!(pair.pass(turn(&[&new])) < 50);
    }

    #[test]
    fn turn_may_use_several_audiences_of_a_room() {
        let mut pair = Pair::default();
        let audiences = [room(1, [0, 1]), room(1, [0, 1]), room(1, [1, 2, 3])];
        let [one, same, other] = &audiences;
        // Equal audiences stay distinct: their lines are not coalesced.
        pair.pass(turn(&[one, one, same, one, other, one]));
        pair.pass(turn(&[one, other, same]));
    }

    #[test]
    fn ended_rooms_are_forgotten() {
        let mut pair = Pair::default();
        let lobby = room(0, [0]);
        for number in 0..1000 {
            let rooms = [1, 2, 3].map(|room_of_turn| room(3 * number + room_of_turn, [0]));
            let [one, two, three] = &rooms;
            pair.pass(turn(&[&lobby, one, two, three]));
        }
        let most = pair.0.rooms.len();
        assert!(most < 150 && pair.1.rooms.len() == most, "{most}");
        for _ in 0..3 * SEARCH_INTERVAL {
            pair.pass(turn(&[]));
        }
        assert!(pair.0.rooms.keys().eq(&[0]), "a room that the hub holds is kept");
        assert!(pair.1.rooms.keys().eq(&[0]));
        assert!(pair.pass(turn(&[&lobby])) < 50);
    }

    #[test]
    fn room_whose_readers_change_is_not_forgotten() {
        let mut pair = Pair::default();
        pair.pass(turn(&[&room(1, 0..1000)]));
        for last in 1001..1300 {
            assert!(pair.pass(turn(&[&room(1, 0..last)])) < 80);
            pair.pass(turn(&[]));
        }
    }

    #[test]
    fn room_is_encoded_in_full_after_it_was_forgotten() {
        let mut pair = Pair::default();
        pair.pass(turn(&[&room(1, 0..9)]));
        for _ in 0..2 * SEARCH_INTERVAL {
            pair.pass(turn(&[]));
        }
        assert!(pair.0.rooms.is_empty() && pair.1.rooms.is_empty());
        pair.pass(turn(&[&room(1, 0..10)]));
    }

    #[test]
    fn decoder_begins_where_encoder_forgot() {
        let mut pair = Pair::default();
        pair.pass(turn(&[&room(1, [0]), &room(2, [0])]));
        let missed = pair.0.encode(&turn(&[&room(2, [0, 1])]), &Batch::default());
        let mut late = Decoder::default();
        let error = WireError::UnknownAudience(2);
        assert_eq!(late.decode(&missed).unwrap_err(), error);
        assert!(error.to_string().contains("room 2"), "{error}");
        pair.0.forget();
        let bytes = pair.0.encode(&turn(&[&room(1, [7])]), &Batch::default());
        for decoder in [&mut late, &mut pair.1] {
            let (_, decoded) = decoder.decode(&bytes).unwrap();
            assert_eq!(calls(decoded), calls(turn(&[&room(1, [7])])));
            assert!(decoder.rooms.keys().eq(&[1]));
        }
        // Audiences from before do not count.
        let mut kept = pair.0.encode(&turn(&[&room(1, [8])]), &Batch::default());
        assert_eq!(mem::replace(&mut kept[1], 1), 0);
        assert_eq!(late.decode(&kept).unwrap_err(), WireError::UnknownAudience(1));
    }

    #[test]
    fn dropped_effects_are_not_encoded() {
        let (lobby, ops) = (room(1, 0..4), room(2, 0..4));
        let mut turn = Turn::default();
        say(&mut turn, &lobby, "before");
        let repeat = record(8, Recipient::Room(RoomName::lobby()), Some("c"));
        turn.begin_message(repeat, conn(1), Dialect::Tagged);
        say(&mut turn, &ops, "dropped");
        turn.end_message();
        say(&mut turn, &lobby, "after");
        let first = record(3, Recipient::Room(RoomName::lobby()), Some("c"));
        turn.echo_repeats(&[Duplicate { id: 8, first }]);
        let bytes = Encoder::default().encode(&turn, &Batch::default());
        assert!(!bytes.windows(7).any(|window| window == b"dropped"));
        Pair::default().pass(turn);

        let (mut turn, _) = everything(&room(3, 0..3));
        let lost = record(8, Recipient::Room(RoomName::lobby()), Some("c"));
        turn.begin_message(lost, conn(1), Dialect::Tagged);
        say(&mut turn, &ops, "dropped");
        turn.end_message();
        turn.refuse_messages(&Refusal::new(ErrorReason::CannotStore, "no"));
        assert!(!turn.effects.is_empty());
        let bytes = Encoder::default().encode(&turn, &Batch::default());
        assert!(!bytes.windows(7).any(|window| window == b"dropped"));
    }

    #[test]
    fn other_versions_and_parts_of_turns_are_errors() {
        let (turn, batch) = everything(&room(3, 0..3));
        let mut bytes = Encoder::default().encode(&turn, &batch);
        let mut decoder = Decoder::default();
        for end in 0..bytes.len() {
            assert_eq!(decoder.decode(&bytes[..end]).unwrap_err(), WireError::Malformed, "{end}");
        }
        bytes.push(0);
        assert_eq!(decoder.decode(&bytes).unwrap_err(), WireError::Malformed);
        bytes[0] = 9;
        let error = decoder.decode(&bytes).unwrap_err();
        assert_eq!(error.to_string(), "turn of unknown version 9; this server reads 1");
        assert!(decoder.rooms.is_empty());
    }

    /// Decodes a turn that only differs from an empty one by `change`.
    fn decode_changed<'a>(
        change: impl FnOnce(&mut TurnV1<'a>),
    ) -> Result<(Batch, Turn), WireError> {
        let mut body = postcard::from_bytes(&[0; 10]).unwrap();
        change(&mut body);
        Decoder::default().decode(&postcard::to_allocvec(&(VERSION, body)).unwrap())
    }

    #[test]
    fn values_that_no_turn_has_are_errors() {
        let fanout = |audience, skip, len| EffectV1::Fanout {
            audience,
            is_presence: false,
            ranges: vec![RangeV1 { skip, len }],
            author: None,
            except: Vec::new(),
        };
        let with = |effect| {
            decode_changed(|body| {
                body.lines = vec![LinesV1(b"a: n1\n")];
                body.audiences = vec![AudienceV1::AdHoc { readers: Vec::new() }];
                body.effects = vec![effect];
            })
        };
        assert!(with(fanout(0, 2, 4)).is_ok());
        let invalid = |what| Err(WireError::Invalid(what));
        for (effect, what) in [
            (fanout(1, 0, 0), "index of an audience"),
            (fanout(0, 3, 4), "range of lines"),
            (fanout(0, usize::MAX, 4), "range of lines"),
            (fanout(0, 1, usize::MAX), "range of lines"),
        ] {
            assert_eq!(with(effect).map(|_| ()), invalid(what));
        }
        let records = |ids: [u64; 2], from, text| {
            let records = ids.map(|id| record(id, Recipient::Room(RoomName::lobby()), None));
            let decoded = decode_changed(|body| {
                body.records = records.iter().map(|record| (&**record).into()).collect();
                (body.records[0].from, body.records[0].text) = (from, text);
            });
            decoded.map(|_| ())
        };
        assert!(records([1, 2], "a", "hi").is_ok());
        assert_eq!(records([2, 2], "a", "hi"), invalid("order of messages"));
        assert_eq!(records([1, 2], "a b", "hi"), invalid("name of a user"));
        assert_eq!(records([1, 2], "a", "h\ni"), invalid("text of a message"));
    }

    #[test]
    fn copied_readers_are_limited() {
        let readers = readers(0..10_000).iter().map(Into::into).collect();
        let changed = || AudienceV1::Changed { room: 1, removed: Vec::new(), set: Vec::new() };
        let decoded = decode_changed(|body| {
            body.audiences = vec![AudienceV1::New { room: 1, readers }];
            body.audiences.extend((0..=COPIED_MAX / 10_000).map(|_| changed()));
        });
        assert_eq!(decoded.unwrap_err(), WireError::Invalid("number of readers"));
    }

    /// Returns the size of an encoded turn of `lines` lines with their records, when the decoder
    /// knows the room.
    fn size_of_turn(lobby: &Arc<Audience>, lines: u64) -> usize {
        let mut encoder = Encoder::default();
        let text = "which is about as long as what people say to each other, mostly.";
        let mut encode = || {
            let (mut turn, mut records) = (Turn::default(), Vec::new());
            for id in 0..lines {
                let mut record = record(1_234_567 + id, Recipient::Room(RoomName::lobby()), None);
                Arc::get_mut(&mut record).unwrap().text = text.into();
                let event = Event::Message(record.seen_by(UserId(0)));
                let tags = Tags { id: Some(record.id), time: Some(record.time), ..Tags::default() };
                turn.fan_out(lobby.clone(), Topic::Talk, Some(conn(0)), vec![], &tags, &event);
                records.push(record);
            }
            encoder.encode(&turn, &Batch { records, ..Batch::default() }).len()
        };
        encode();
        encode()
    }

    #[test]
    fn line_takes_300_bytes_however_many_readers_there_are() {
        let size = |slots: &[u32]| {
            let lobby = room(1, slots.iter().copied());
            (size_of_turn(&lobby, 1), size_of_turn(&lobby, 100) / 100)
        };
        let both = size(&[0, 1]);
        assert_eq!(both, size(&(0..1000).collect::<Vec<_>>()));
        assert!(both.0 < 320 && both.1 < 300, "{both:?}");
        assert!(size(&[0]).1 < 200, "one dialect needs no lines of the other");
    }
}
