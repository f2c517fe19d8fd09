//! Runs a hub without sockets, for unit tests, transcripts, drawn conversations and benchmarks.
//! It does with the hub what the reactor does: it splits bytes into lines, handles them, commits
//! the turn to a log in memory, releases the effects into outboxes, and performs the work that the
//! hub requests: log reads, password jobs, notifications. Time is simulated. Work is performed at
//! once ([`Driver::settle`]) or piece by piece ([`Driver::perform`]), so that a test can hold an
//! outcome back or draw the order.

#![allow(dead_code)] // each test or benchmark uses a part of it

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use chatty::protocol::Stamp;
use chatty::protocol::codec::{Frame, LineCodec};
use chatty::server::auth::passwords::{Job, Outcome, Workspace};
use chatty::server::auth::secrets::{Secret, Secrets};
use chatty::server::auth::tokens::{Seed, Tokens};
use chatty::server::hub::{Flow, Hub, Input, Now, Persisted, Storage, storage_full};
use chatty::server::limits::Limits;
use chatty::server::net::outbox::{Lines, Meter, Outbox};
use chatty::server::record::{Recipient, Record, SentMail, UserId};
use chatty::server::store::memory::MemoryLog;
use chatty::server::store::{Batch, Change, Collection, LastIds, ReadRequest, Snapshot, Thread};
use chatty::server::turn::{ConnId, Sink, Turn};

/// A morning in November 2026.
const START: Now = Now { since_start: Duration::ZERO, wall: Stamp(1_795_414_560_123) };

/// Limits of the log in memory, in messages and bytes.
const LOG_MESSAGES: usize = 1000;
const LOG_SIZE: usize = 1 << 20;

/// What a commit stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storing {
    /// Records; the hub's changes stay unsaved.
    Records,
    /// Records and changes.
    Everything,
    /// Nothing: the disk is full.
    Nothing,
}

/// Work that the hub requests and whose outcome is an input of the connection.
#[derive(Debug)]
pub(crate) enum Work {
    Read(ConnId, Box<ReadRequest>),
    Hash(ConnId, Job),
    NotifyWhenDrained(ConnId),
}

impl Work {
    fn conn(&self) -> ConnId {
        match self {
            Self::Read(conn, _) | Self::Hash(conn, _) | Self::NotifyWhenDrained(conn) => *conn,
        }
    }
}

type ReplaceTurn = Box<dyn FnMut(Turn, &Batch) -> Turn>;

/// A hub and everything around it. It dereferences to the hub.
pub(crate) struct Driver {
    hub: Hub,
    /// The time of the next input.
    pub(crate) now: Now,
    pub(crate) storing: Storing,
    /// Runs a password job on the password of the line that waits for it.
    pub(crate) run_job: fn(&Job, &Secret) -> Outcome,
    /// Replaces each turn after its commit, before it is released.
    pub(crate) replace_turn: Option<ReplaceTurn>,
    pub(crate) log: MemoryLog,
    limits: Limits,
    effects: Effects,
    tokens: Tokens,
    /// What [`Storing::Everything`] has stored.
    entries: BTreeMap<(Collection, u64), String>,
    records: BTreeMap<u64, Arc<Record>>,
    last: LastIds,
    generation: u32,
}

/// Receives the effects of a turn.
#[derive(Default)]
struct Effects {
    /// Indexed by [`ConnId::slot`].
    links: Vec<Option<Link>>,
    /// The slots of connections whose outbox is not empty.
    dirty: Vec<usize>,
    /// In the order requested.
    work: VecDeque<Work>,
    /// Connections that the hub has closed.
    closed: Vec<ConnId>,
    meter: Meter,
}

/// The driver's side of one connection.
struct Link {
    conn: ConnId,
    codec: LineCodec,
    outbox: Outbox,
    is_waiting: bool,
    /// The line that is not completely answered; `None` if a catch-up goes on.
    line: Option<Frame<'static>>,
    /// Bytes after that line.
    unread: Vec<u8>,
    /// The client has shut down its sending side.
    is_finished: bool,
    is_closed: bool,
    secrets: Secrets,
    /// Mail that was released and not confirmed yet.
    sent_mail: Option<SentMail>,
}

impl Effects {
    fn link(&mut self, conn: ConnId) -> Option<&mut Link> {
        find(&mut self.links, conn)
    }
}

/// Returns a connection; `None` if it is gone.
fn find(links: &mut [Option<Link>], conn: ConnId) -> Option<&mut Link> {
    links.get_mut(conn.slot as usize)?.as_mut().filter(|link| link.conn == conn)
}

impl Sink for Effects {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        let Some(link) = find(&mut self.links, to) else { return };
        assert!(!link.is_closed, "a connection gets no further lines after its farewell");
        if link.outbox.is_empty() {
            self.dirty.push(to.slot as usize);
        }
        link.outbox.push(lines, start, end);
    }
    fn note_reply_bytes(&mut self, to: ConnId, count: usize) {
        if let Some(link) = self.link(to) {
            link.outbox.note_reply_bytes(count);
        }
    }
    fn close(&mut self, conn: ConnId) {
        if let Some(link) = self.link(conn)
            && !mem::replace(&mut link.is_closed, true)
        {
            self.closed.push(conn);
        }
    }
    fn read(&mut self, conn: ConnId, request: ReadRequest) {
        self.work.push_back(Work::Read(conn, Box::new(request)));
    }
    fn share(&mut self, lines: Vec<u8>) -> Lines {
        Lines::new(lines, &self.meter)
    }
    fn push_token(&mut self, to: ConnId) {
        let link = self.link(to);
        if let Some(token) = link.and_then(|link| link.secrets.token()) {
            let end = token.len();
            self.note_reply_bytes(to, end);
            let token = self.share(token.into_bytes());
            self.push(to, &token, 0, end);
        }
    }
    fn hash(&mut self, conn: ConnId, job: Job) {
        self.work.push_back(Work::Hash(conn, job));
    }
    fn notify_when_drained(&mut self, conn: ConnId) {
        self.work.push_back(Work::NotifyWhenDrained(conn));
    }
    fn expect_receipt(&mut self, conn: ConnId, mail: SentMail) {
        if let Some(link) = self.link(conn) {
            link.sent_mail = Some(mail);
        }
    }
}

impl Deref for Driver {
    type Target = Hub;

    fn deref(&self) -> &Hub {
        &self.hub
    }
}

impl DerefMut for Driver {
    fn deref_mut(&mut self) -> &mut Hub {
        &mut self.hub
    }
}

impl Driver {
    /// A hub without connections or stored state.
    pub(crate) fn new(limits: Limits) -> Self {
        Self::restored(limits, &Snapshot::default())
    }

    /// A hub without connections, restored from a snapshot.
    pub(crate) fn restored(limits: Limits, snapshot: &Snapshot) -> Self {
        let entries = snapshot.entries.iter();
        Self {
            hub: start_hub(&limits, snapshot, START),
            now: START,
            storing: Storing::Records,
            run_job: |job, password| job.run(password, &mut Workspace::default()),
            replace_turn: None,
            log: MemoryLog::new(LOG_MESSAGES, LOG_SIZE),
            limits,
            effects: Effects::default(),
            tokens: Tokens::new(Seed::default()),
            entries: entries.map(|(of, key, value)| ((*of, *key), value.clone())).collect(),
            records: BTreeMap::new(),
            last: snapshot.last,
            generation: 0,
        }
    }

    /// Restarts the hub from what is stored; all connections are gone.
    pub(crate) fn restart(&mut self) {
        self.effects = Effects::default();
        self.generation += 1;
        self.entries.retain(|(collection, _), _| *collection != Collection::Socket);
        self.hub = start_hub(&self.limits, &self.snapshot(Vec::new()), self.now);
    }

    /// Replaces the hub by one that is restored from the stored entries, which must include every
    /// user ([`Persisted::Everyone`]). The connections stay. Requested work is dropped: a line that
    /// is not answered is handled again, a catch-up goes on.
    pub(crate) fn take_over(&mut self) {
        self.effects.work.clear();
        self.hub = start_hub(&self.limits, &self.snapshot(Vec::new()), self.now);
        self.hub.set_persisted(Persisted::Everyone);
        let waiting = self.effects.links.iter_mut().flatten().filter(|link| link.is_waiting);
        let waiting: Vec<_> = waiting.map(|link| (link.conn, link.line.take())).collect();
        for (conn, line) in waiting {
            match line {
                Some(line) => {
                    self.input(conn, Input::Frame(line));
                    self.read_on(conn);
                }
                None => self.effects.work.push_back(Work::NotifyWhenDrained(conn)),
            }
        }
    }

    /// The stored state after these further changes.
    pub(crate) fn snapshot(&self, changes: Vec<Change>) -> Snapshot {
        let mut entries = self.entries.clone();
        apply(changes, &mut entries);
        Snapshot {
            last: self.last,
            mail: waiting_mail(&entries, &self.records),
            entries: entries.into_iter().map(|((of, key), value)| (of, key, value)).collect(),
            latest: self.records.values().cloned().collect(),
        }
    }

    /// All records stored by [`Storing::Everything`], by id.
    pub(crate) fn records(&self) -> &BTreeMap<u64, Arc<Record>> {
        &self.records
    }

    /// Lets time pass.
    pub(crate) fn advance(&mut self, time: Duration) {
        self.now.since_start += time;
        self.now.wall.0 += i64::try_from(time.as_millis()).expect("a short time");
    }

    /// Runs the hub's timers that are due.
    pub(crate) fn run_timers(&mut self) {
        let mut turn = Turn::default();
        self.hub.tick(self.now, &mut turn);
        self.release(turn);
    }

    /// Opens a connection in the first free slot.
    pub(crate) fn connect(&mut self, opening: Input<'_>) -> ConnId {
        let links = &self.effects.links;
        let slot = links.iter().position(Option::is_none).unwrap_or(links.len());
        self.generation += 1;
        let slot = u32::try_from(slot).expect("few connections");
        let conn = ConnId { slot, generation: self.generation };
        self.open(conn, opening);
        conn
    }

    /// Opens a connection with this id; an older one in its slot is gone.
    pub(crate) fn open(&mut self, conn: ConnId, opening: Input<'_>) {
        let slot = conn.slot as usize;
        if self.effects.links.len() <= slot {
            self.effects.links.resize_with(slot + 1, || None);
        }
        self.effects.links[slot] = Some(Link {
            conn,
            codec: LineCodec::new(self.hub.line_limit(conn)),
            outbox: Outbox::default(),
            is_waiting: false,
            line: None,
            unread: Vec::new(),
            is_finished: false,
            is_closed: false,
            secrets: Secrets::default(),
            sent_mail: None,
        });
        self.input(conn, opening);
    }

    /// Handles one input in a turn of its own.
    pub(crate) fn input(&mut self, conn: ConnId, input: Input<'_>) -> Flow {
        let mut turn = Turn::default();
        if matches!(input, Input::Frame(_)) {
            self.confirm_mail(conn);
        }
        let flow = match &input {
            Input::Frame(frame) => self.handle_frame(conn, frame, &mut turn),
            _ => {
                if matches!(input, Input::Hashed(_)) {
                    self.reserve();
                }
                self.hub.handle(self.now, conn, input, &mut turn)
            }
        };
        if let Some(link) = self.effects.link(conn) {
            link.is_waiting = flow == Flow::Wait;
            link.line = link.line.take().filter(|_| link.is_waiting && self.hub.is_answering(conn));
            link.codec.set_limit(self.hub.line_limit(conn));
        }
        self.release(turn);
        flow
    }

    /// Handles a line, again once the hub knows whether changes can be stored.
    fn handle_frame(&mut self, conn: ConnId, frame: &Frame<'_>, turn: &mut Turn) -> Flow {
        let flow = self.pass_frame(conn, frame, turn);
        if flow == Flow::Wait
            && self.hub.is_answering(conn)
            && let Some(link) = self.effects.link(conn)
        {
            link.line = Some(frame.clone().into_owned());
        }
        flow
    }

    fn pass_frame(&mut self, conn: ConnId, frame: &Frame<'_>, turn: &mut Turn) -> Flow {
        let input = || match frame {
            Frame::Line(line) => Input::Frame(Frame::Line(Cow::Borrowed(line))),
            frame => Input::Frame(frame.clone()),
        };
        if self.hub.is_unnamed(conn)
            && let Some(link) = self.effects.link(conn)
        {
            link.secrets.note_resume(self.hub.dialect(conn), frame);
        }
        loop {
            let flow = self.hub.handle(self.now, conn, input(), turn);
            match flow {
                Flow::Store if self.storing != Storing::Records => self.reserve(),
                Flow::Token => {
                    let link = self.effects.link(conn).expect("a connection with a line");
                    let hash = link.secrets.renew_token(&mut self.tokens);
                    self.hub.offer_token(hash);
                }
                Flow::Wait => {
                    if let Some(link) = self.effects.link(conn) {
                        let is_greeting = self.hub.is_unnamed(conn);
                        link.secrets.keep_password(self.hub.dialect(conn), is_greeting, frame);
                    }
                    return flow;
                }
                Flow::Next | Flow::Store | Flow::Over => return flow,
            }
        }
    }

    fn reserve(&mut self) {
        match self.storing {
            Storing::Records => {}
            Storing::Everything => self.hub.set_storage(Storage::Open),
            Storing::Nothing => self.hub.set_storage(Storage::Closed),
        }
    }

    /// Receives bytes from a client, in a turn of their own.
    pub(crate) fn send(&mut self, conn: ConnId, bytes: &[u8]) {
        self.confirm_mail(conn);
        self.handle_bytes(conn, bytes);
    }

    fn handle_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut turn = Turn::default();
        self.receive(conn, bytes, &mut turn);
        self.release(turn);
    }

    /// Notes that a client sends something; what it sends while its line waits is not read yet.
    fn confirm_mail(&mut self, conn: ConnId) {
        if let Some(link) = self.effects.link(conn).filter(|link| !link.is_waiting)
            && link.outbox.is_empty()
            && let Some(mail) = link.sent_mail.take()
        {
            self.hub.confirm_mail(mail);
        }
    }

    /// Drain and handle: splits bytes from a client into lines and handles them. Lines after one
    /// that makes the connection wait are handled later.
    pub(crate) fn receive(&mut self, conn: ConnId, bytes: &[u8], turn: &mut Turn) {
        let Some(link) = self.effects.link(conn) else { return };
        let mut codec = mem::replace(&mut link.codec, LineCodec::new(0));
        let (mut rest, mut is_waiting) = (bytes, link.is_waiting);
        while !is_waiting && let Some(frame) = codec.next(&mut rest) {
            let flow = self.handle_frame(conn, &frame, turn);
            codec.set_limit(self.hub.line_limit(conn));
            is_waiting = flow == Flow::Wait;
            if flow == Flow::Over {
                rest = &[]; // a connection with its farewell is not read
                break;
            }
        }
        if let Some(link) = self.effects.link(conn) {
            link.codec = codec;
            link.is_waiting = is_waiting;
            link.unread.extend_from_slice(rest);
        }
    }

    /// The client shuts down its sending side.
    pub(crate) fn finish(&mut self, conn: ConnId) {
        self.confirm_mail(conn);
        if let Some(link) = self.effects.link(conn) {
            link.is_finished = true;
            self.read_on(conn);
        }
    }

    /// Handles what is left of a connection's input while it does not wait.
    fn read_on(&mut self, conn: ConnId) {
        while let Some(link) = self.effects.link(conn)
            && !link.is_waiting
            && !link.is_closed
        {
            if !link.unread.is_empty() {
                let unread = mem::take(&mut link.unread);
                self.handle_bytes(conn, &unread);
            } else if !link.is_finished {
                return;
            } else if let Some(last) = link.codec.finish()
                && self.hub.takes_unterminated(conn)
            {
                self.input(conn, Input::Frame(last));
            } else {
                link.is_finished = false;
                self.input(conn, Input::Finished);
            }
        }
    }

    /// The connection breaks.
    pub(crate) fn disconnect(&mut self, conn: ConnId) {
        self.input(conn, Input::Disconnected);
        self.forget(conn);
    }

    fn forget(&mut self, conn: ConnId) {
        self.hub.forget_connection(conn);
        if self.effects.link(conn).is_some() {
            self.effects.links[conn.slot as usize] = None;
        }
    }

    /// Commits a turn and releases its effects; no other function does.
    pub(crate) fn release(&mut self, mut turn: Turn) {
        let batch = self.commit(&mut turn);
        if let Some(replace) = &mut self.replace_turn {
            turn = replace(turn, &batch);
        }
        turn.release(&mut self.effects);
    }

    /// Returns what was stored.
    fn commit(&mut self, turn: &mut Turn) -> Batch {
        let records = turn.records();
        match self.storing {
            Storing::Records => {
                self.log.push(records);
                return Batch::default();
            }
            Storing::Everything => {}
            Storing::Nothing => {
                turn.refuse_messages(&storage_full());
                self.hub.forget_unstored(records.iter().map(|record| record.id));
                self.hub.set_storage(Storage::Unknown);
                return Batch::default();
            }
        }
        let batch = Batch { records, changes: self.hub.changes(), last: self.hub.last_ids() };
        if !batch.records.is_empty() || !batch.changes.is_empty() {
            self.last = batch.last;
        }
        apply(batch.changes.clone(), &mut self.entries);
        self.hub.mark_saved();
        for record in &batch.records {
            let twin = self.records.insert(record.id, record.clone());
            assert!(twin.is_none(), "{} was given twice", record.id);
        }
        self.log.push(batch.records.clone());
        self.hub.set_storage(Storage::Unknown);
        batch
    }

    /// Performs all work that is requested, and what it leads to.
    pub(crate) fn settle(&mut self) {
        while self.perform_for(|_| true) {}
    }

    /// Performs the first piece of work that is requested for one of these connections, if any.
    pub(crate) fn perform_for(&mut self, is_wanted: impl Fn(ConnId) -> bool) -> bool {
        let at = self.effects.work.iter().position(|work| is_wanted(work.conn()));
        at.inspect(|at| self.perform(*at)).is_some()
    }

    /// The number of pieces of work that are requested.
    pub(crate) fn work_count(&self) -> usize {
        self.effects.work.len()
    }

    /// Removes and returns the requested work without performing it.
    pub(crate) fn take_work(&mut self) -> VecDeque<Work> {
        mem::take(&mut self.effects.work)
    }

    /// Performs one piece of the requested work.
    pub(crate) fn perform(&mut self, at: usize) {
        let (conn, input) = match self.effects.work.remove(at).expect("requested work") {
            Work::Read(conn, request) => (conn, self.read_log(&request)),
            Work::Hash(conn, job) => {
                let password =
                    self.effects.link(conn).and_then(|link| link.secrets.take_password());
                let outcome =
                    password.map_or(Outcome::Busy, |password| (self.run_job)(&job, &password));
                (conn, Input::Hashed(outcome))
            }
            Work::NotifyWhenDrained(conn) => (conn, Input::Drained),
        };
        self.input(conn, input);
        self.read_on(conn);
    }

    fn read_log(&self, request: &ReadRequest) -> Input<'static> {
        let mut rows = self.log.find(request);
        if matches!(request.thread, Thread::Feed { .. }) && !request.is_filled_by(&rows.records) {
            // As on disk: ids without a message count as searched.
            rows.upto = self.hub.last_ids().message;
        }
        Input::Rows(rows)
    }

    /// Empties all outboxes, like sockets with enough buffer space, and passes the bytes on.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(ConnId, &[u8])) {
        for slot in self.effects.dirty.drain(..) {
            if let Some(link) = &mut self.effects.links[slot] {
                drain(&mut link.outbox, |bytes| write(link.conn, bytes));
            }
        }
    }

    /// Removes and returns the connections that the hub has closed; their output that was not
    /// flushed is discarded.
    pub(crate) fn take_closed(&mut self) -> Vec<ConnId> {
        let closed = mem::take(&mut self.effects.closed);
        for conn in &closed {
            self.forget(*conn);
        }
        closed
    }
}

/// Returns the messages that wait in stored mailboxes.
fn waiting_mail(
    entries: &BTreeMap<(Collection, u64), String>,
    records: &BTreeMap<u64, Arc<Record>>,
) -> Vec<(UserId, u64)> {
    let entry = |record: &Arc<Record>| {
        let Recipient::Person(to, _) = record.to else { return None };
        // The position, and the ignored users.
        let row = entries.get(&(Collection::Mailbox, to.0))?;
        let mut numbers = row.split(|c: char| !c.is_ascii_digit()).filter_map(|it| it.parse().ok());
        let is_behind = record.id > numbers.next()?;
        (is_behind && numbers.all(|hidden| hidden != record.author.0)).then_some((to, record.id))
    };
    records.values().filter_map(entry).collect()
}

fn start_hub(limits: &Limits, snapshot: &Snapshot, now: Now) -> Hub {
    Hub::new(limits.clone(), snapshot, now).expect("nothing is unreadable")
}

/// Applies changes to stored entries.
fn apply(changes: Vec<Change>, entries: &mut BTreeMap<(Collection, u64), String>) {
    for Change { collection, key, value } in changes {
        match value {
            Some(value) => entries.insert((collection, key), value),
            None => entries.remove(&(collection, key)),
        };
    }
}

/// Empties an outbox and passes the bytes on.
pub(crate) fn drain(outbox: &mut Outbox, mut write: impl FnMut(&[u8])) {
    while !outbox.is_empty() {
        let count = if let Some(bytes) = outbox.single() {
            write(bytes);
            bytes.len()
        } else {
            let mut slices: Vec<IoSlice<'_>> = Vec::new();
            outbox.slices(&mut slices);
            for slice in &slices {
                write(slice);
            }
            slices.iter().map(|slice| slice.len()).sum()
        };
        outbox.advance(count);
    }
}
