//! Version 1 of the wire format, as structs that postcard encodes.
//!
//! Postcard writes no names and no types, so in a released version the fields, the variants,
//! their types and their order never change. Any change is a new version beside this one. The
//! types in memory are separate, so that they can change.

use serde::{Deserialize, Serialize, Serializer};

use super::WireError;
use crate::protocol::{Cid, Dialect, Key, Name, RoomName, Stamp, text};
use crate::server::auth::passwords::Job;
use crate::server::record::{Recipient, Record, UserId};
use crate::server::store::{
    Author, Change, Collection, Filter, LastIds, MembershipSpan, ReadRequest, SearchTerms, Thread,
};
use crate::server::turn::{ConnId, Reader};

/// The body of an encoded turn.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TurnV1<'a> {
    /// Whether the audiences of all earlier turns are void.
    pub(super) begins: bool,
    /// The distinct audiences, in the order in which effects first use them.
    pub(super) audiences: Vec<AudienceV1>,
    /// The rooms whose audiences are forgotten after this turn.
    pub(super) ended: Vec<u64>,
    #[serde(borrow)]
    pub(super) records: Vec<RecordV1<'a>>,
    #[serde(borrow)]
    pub(super) changes: Vec<ChangeV1<'a>>,
    pub(super) last: LastIdsV1,
    /// The lines for audiences by dialect, up to the last dialect with lines. Effects refer to them
    /// in order, and to those for single connections.
    #[serde(borrow)]
    pub(super) lines: Vec<LinesV1<'a>>,
    #[serde(borrow)]
    pub(super) single: LinesV1<'a>,
    #[serde(borrow)]
    pub(super) effects: Vec<EffectV1<'a>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinesV1<'a>(#[serde(serialize_with = "bytes")] pub(super) &'a [u8]);

/// Encodes a slice at once; by default it is encoded byte by byte to the same result.
fn bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct ConnV1 {
    slot: u32,
    generation: u32,
}

impl From<ConnId> for ConnV1 {
    fn from(ConnId { slot, generation }: ConnId) -> Self {
        Self { slot, generation }
    }
}

impl From<ConnV1> for ConnId {
    fn from(ConnV1 { slot, generation }: ConnV1) -> Self {
        Self { slot, generation }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReaderV1 {
    pub(super) conn: ConnV1,
    /// The number of the dialect.
    dialect: u8,
    joins: bool,
}

impl From<&Reader> for ReaderV1 {
    fn from(Reader { conn, dialect, joins }: &Reader) -> Self {
        Self { conn: (*conn).into(), dialect: *dialect as u8, joins: *joins }
    }
}

impl TryFrom<ReaderV1> for Reader {
    type Error = WireError;

    fn try_from(ReaderV1 { conn, dialect, joins }: ReaderV1) -> Result<Self, WireError> {
        let dialect = *Dialect::ALL.get(usize::from(dialect)).ok_or(UNKNOWN_DIALECT)?;
        Ok(Self { conn: conn.into(), dialect, joins })
    }
}

const UNKNOWN_DIALECT: WireError = WireError::Invalid("dialect");

/// Returns the values by dialect without those of the last dialects that are empty, so that the
/// format does not depend on the number of dialects.
pub(super) fn without_empty<T: Default + PartialEq>(by_dialect: [T; Dialect::COUNT]) -> Vec<T> {
    let mut values = Vec::from(by_dialect);
    while values.pop_if(|last| *last == T::default()).is_some() {}
    values
}

/// Returns the values by dialect, with empty ones for the missing dialects.
pub(super) fn with_empty<T: Default>(values: Vec<T>) -> Result<[T; Dialect::COUNT], WireError> {
    let mut values = values.into_iter();
    let by_dialect = std::array::from_fn(|_| values.next().unwrap_or_default());
    if values.next().is_some() { Err(UNKNOWN_DIALECT) } else { Ok(by_dialect) }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum AudienceV1 {
    /// The last audience of this room, unchanged.
    Kept { room: u64 },
    /// The last audience of this room with changes.
    Changed { room: u64, removed: Vec<ConnV1>, set: Vec<ReaderV1> },
    /// The audience of a room that is new to the decoder.
    New { room: u64, readers: Vec<ReaderV1> },
    /// An audience that is not that of one room.
    AdHoc { readers: Vec<ReaderV1> },
}

/// Lines of an audience in one dialect: `skip` bytes behind those of the previous broadcast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RangeV1 {
    pub(super) skip: usize,
    pub(super) len: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum EffectV1<'a> {
    Fanout {
        /// Index of the audience.
        audience: usize,
        is_presence: bool,
        /// By dialect, up to the last one with a range.
        ranges: Vec<RangeV1>,
        author: Option<ConnV1>,
        except: Vec<ConnV1>,
    },
    Send {
        to: ConnV1,
        /// Size of the line, which follows the previous one.
        len: usize,
        is_reply: bool,
    },
    Close {
        conn: ConnV1,
    },
    Read {
        conn: ConnV1,
        #[serde(borrow)]
        query: ReadRequestV1<'a>,
    },
    Hash {
        conn: ConnV1,
        #[serde(borrow)]
        job: JobV1<'a>,
    },
    NotifyWhenDrained {
        conn: ConnV1,
    },
    /// Send the session token that the server of the connection keeps.
    SendToken {
        conn: ConnV1,
    },
    ExpectReceipt {
        conn: ConnV1,
        to: u64,
        last: u64,
    },
}

/// A password job. The password or key itself is never encoded: it stays where the connection
/// is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum JobV1<'a> {
    Hash,
    /// Check against an Argon2 hash.
    Check(&'a str),
    /// Compare with a digest.
    Match(&'a str),
}

impl<'a> From<&'a Job> for JobV1<'a> {
    fn from(job: &'a Job) -> Self {
        match job {
            Job::Hash => Self::Hash,
            Job::Check(hash) => Self::Check(hash),
            Job::Match(digest) => Self::Match(digest),
        }
    }
}

impl From<JobV1<'_>> for Job {
    fn from(job: JobV1<'_>) -> Self {
        match job {
            JobV1::Hash => Self::Hash,
            JobV1::Check(hash) => Self::Check(hash.into()),
            JobV1::Match(digest) => Self::Match(digest.into()),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReadRequestV1<'a> {
    #[serde(borrow)]
    thread: ThreadV1<'a>,
    count: usize,
    size: usize,
    after: Option<u64>,
    hidden: Vec<u64>,
    #[serde(borrow)]
    filter: FilterV1<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
enum ThreadV1<'a> {
    Room { room: &'a str },
    Private { reader: u64, other: &'a str, other_id: Option<u64> },
    Search { reader: u64, rooms: Vec<&'a str>, is_private_too: bool, terms: Vec<&'a str> },
    Ids { reader: u64, ids: Vec<u64> },
    Message { id: u64 },
    Feed { reader: u64, spans: Vec<SpanV1<'a>> },
}

#[derive(Debug, Serialize, Deserialize)]
struct SpanV1<'a> {
    room: &'a str,
    from: u64,
    until: Option<u64>,
}

impl<'a> From<&'a ReadRequest> for ReadRequestV1<'a> {
    fn from(request: &'a ReadRequest) -> Self {
        let ReadRequest { thread, count, size, after, hidden, filter } = request;
        let span = |MembershipSpan { room, from, until }: &'a MembershipSpan| SpanV1 {
            room: room.as_str(),
            from: *from,
            until: *until,
        };
        let thread = match thread {
            Thread::Room(room) => ThreadV1::Room { room: room.as_str() },
            Thread::Private { reader, other, other_id } => ThreadV1::Private {
                reader: reader.0,
                other: other.as_str(),
                other_id: other_id.map(|id| id.0),
            },
            Thread::Search { reader, rooms, is_private_too, terms } => ThreadV1::Search {
                reader: reader.0,
                rooms: rooms.iter().map(Key::as_str).collect(),
                is_private_too: *is_private_too,
                terms: terms.iter().collect(),
            },
            Thread::Ids { reader, ids } => ThreadV1::Ids { reader: reader.0, ids: ids.clone() },
            Thread::Message { id } => ThreadV1::Message { id: *id },
            Thread::Feed { reader, stays } => {
                ThreadV1::Feed { reader: reader.0, spans: stays.iter().map(span).collect() }
            }
        };
        let hidden = hidden.iter().map(|id| id.0).collect();
        Self { thread, count: *count, size: *size, after: *after, hidden, filter: filter.into() }
    }
}

impl From<ReadRequestV1<'_>> for ReadRequest {
    fn from(request: ReadRequestV1<'_>) -> Self {
        let ReadRequestV1 { thread, count, size, after, hidden, filter } = request;
        let span = |SpanV1 { room, from, until }: SpanV1<'_>| MembershipSpan {
            room: Key::fold(room),
            from,
            until,
        };
        let thread = match thread {
            ThreadV1::Room { room } => Thread::Room(Key::fold(room)),
            ThreadV1::Private { reader, other, other_id } => Thread::Private {
                reader: UserId(reader),
                other: Key::fold(other),
                other_id: other_id.map(UserId),
            },
            ThreadV1::Search { reader, rooms, is_private_too, terms } => Thread::Search {
                reader: UserId(reader),
                rooms: rooms.into_iter().map(Key::fold).collect(),
                is_private_too,
                terms: SearchTerms::of(terms.into_iter().map(str::to_owned).collect()),
            },
            ThreadV1::Ids { reader, ids } => Thread::Ids { reader: UserId(reader), ids },
            ThreadV1::Message { id } => Thread::Message { id },
            ThreadV1::Feed { reader, spans } => Thread::Feed {
                reader: UserId(reader),
                stays: spans.into_iter().map(span).collect(),
            },
        };
        let hidden = hidden.into_iter().map(UserId).collect();
        Self { thread, count, size, after, hidden, filter: filter.into() }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct FilterV1<'a> {
    before: Option<u64>,
    since: Option<i64>,
    until: Option<i64>,
    #[serde(borrow)]
    author: Option<(&'a str, Option<u64>)>,
}

impl<'a> From<&'a Filter> for FilterV1<'a> {
    fn from(Filter { before, since, until, author }: &'a Filter) -> Self {
        let author = author.as_ref().map(|it| (it.name.as_str(), it.id.map(|id| id.0)));
        let time = |stamp: &Stamp| stamp.0;
        let (since, until) = (since.as_ref().map(time), until.as_ref().map(time));
        Self { before: *before, since, until, author }
    }
}

impl From<FilterV1<'_>> for Filter {
    fn from(FilterV1 { before, since, until, author }: FilterV1<'_>) -> Self {
        let author = author.map(|(name, id)| Author { name: Key::fold(name), id: id.map(UserId) });
        Self { before, since: since.map(Stamp), until: until.map(Stamp), author }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RecordV1<'a> {
    id: u64,
    time: i64,
    author: u64,
    pub(super) from: &'a str,
    #[serde(borrow)]
    to: RecipientV1<'a>,
    is_action: bool,
    pub(super) text: &'a str,
    #[serde(borrow)]
    cid: Option<&'a str>,
}

#[derive(Debug, Serialize, Deserialize)]
enum RecipientV1<'a> {
    Room { name: &'a str },
    Person { id: u64, name: &'a str },
}

impl<'a> From<&'a Record> for RecordV1<'a> {
    fn from(record: &'a Record) -> Self {
        let Record { id, time, author, from, to, is_action, text, cid } = record;
        let to = match to {
            Recipient::Room(name) => RecipientV1::Room { name: name.as_str() },
            Recipient::Person(id, name) => RecipientV1::Person { id: id.0, name: name.as_str() },
        };
        Self {
            id: *id,
            time: time.0,
            author: author.0,
            from: from.as_str(),
            to,
            is_action: *is_action,
            text,
            cid: cid.as_ref().map(Cid::as_str),
        }
    }
}

impl TryFrom<RecordV1<'_>> for Record {
    type Error = WireError;

    fn try_from(record: RecordV1<'_>) -> Result<Self, WireError> {
        let RecordV1 { id, time, author, from, to, is_action, text, cid } = record;
        let name = |name| Name::known(name).map_err(|_| WireError::Invalid("name of a user"));
        let to = match to {
            RecipientV1::Room { name } => Recipient::Room(
                RoomName::known(name).map_err(|_| WireError::Invalid("name of a room"))?,
            ),
            RecipientV1::Person { id, name: to } => Recipient::Person(UserId(id), name(to)?),
        };
        if text.contains(text::is_forbidden) {
            return Err(WireError::Invalid("text of a message"));
        }
        let cid = cid.map(|cid| Cid::parse(cid).ok_or(WireError::Invalid("cid"))).transpose()?;
        let (time, author, from) = (Stamp(time), UserId(author), name(from)?);
        Ok(Self { id, time, author, from, to, is_action, text: text.into(), cid })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChangeV1<'a> {
    /// The name of the collection in storage, which never changes either.
    collection: &'a str,
    key: u64,
    #[serde(borrow)]
    value: Option<&'a str>,
}

impl<'a> From<&'a Change> for ChangeV1<'a> {
    fn from(Change { collection, key, value }: &'a Change) -> Self {
        Self { collection: collection.as_str(), key: *key, value: value.as_deref() }
    }
}

impl TryFrom<ChangeV1<'_>> for Change {
    type Error = WireError;

    fn try_from(ChangeV1 { collection, key, value }: ChangeV1<'_>) -> Result<Self, WireError> {
        let found = Collection::TABLE.iter().find(|(_, name)| *name == collection);
        let (collection, _) = *found.ok_or(WireError::Invalid("name of a collection"))?;
        Ok(Self { collection, key, value: value.map(str::to_owned) })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LastIdsV1 {
    message: u64,
    person: u64,
}

impl From<LastIds> for LastIdsV1 {
    fn from(LastIds { message, person }: LastIds) -> Self {
        Self { message, person }
    }
}

impl From<LastIdsV1> for LastIds {
    fn from(LastIdsV1 { message, person }: LastIdsV1) -> Self {
        Self { message, person }
    }
}
