//! Turns as other servers receive them: encoded, decoded, and compared with the original.

use chatty::server::auth::passwords::{Job, Secret};
use chatty::server::net::outbox::{Lines, Meter};
use chatty::server::store::{Batch, ReadRequest};
use chatty::server::turn::wire::{Decoder, Encoder};
use chatty::server::turn::{ConnId, Sink, Turn};

/// A call of a [`Sink`].
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Push(ConnId, Vec<u8>),
    NoteReplyBytes(ConnId, usize),
    Close(ConnId),
    Read(ConnId, ReadRequest),
    Hash(ConnId, Job),
    NotifyWhenDrained(ConnId),
    WaitForMemory(ConnId),
}

impl Call {
    fn without_secret(&self) -> Option<Self> {
        let Self::Hash(conn, job) = self else { return None };
        let secret = Secret::new("");
        let job = match job {
            Job::Hash(_) => Job::Hash(secret),
            Job::Check(_, hash) => Job::Check(secret, hash.clone()),
            Job::Match(_, digest) => Job::Match(secret, digest.clone()),
        };
        Some(Self::Hash(*conn, job))
    }

    fn repeat(self, sink: &mut impl Sink) {
        match self {
            Self::Push(to, bytes) => {
                let len = bytes.len();
                sink.push(to, &Lines::new(bytes, &Meter::default()), 0, len);
            }
            Self::NoteReplyBytes(to, count) => sink.note_reply_bytes(to, count),
            Self::Close(conn) => sink.close(conn),
            Self::Read(conn, query) => sink.read(conn, query),
            Self::Hash(conn, job) => sink.hash(conn, job),
            Self::NotifyWhenDrained(conn) => sink.notify_when_drained(conn),
            Self::WaitForMemory(conn) => sink.wait_for_memory(conn),
        }
    }
}

/// Records calls.
#[derive(Default)]
struct Recorder(Vec<Call>);

impl Sink for Recorder {
    fn push(&mut self, to: ConnId, lines: &Lines, start: usize, end: usize) {
        self.0.push(Call::Push(to, lines[start..end].to_vec()));
    }
    fn note_reply_bytes(&mut self, to: ConnId, count: usize) {
        self.0.push(Call::NoteReplyBytes(to, count));
    }
    fn close(&mut self, conn: ConnId) {
        self.0.push(Call::Close(conn));
    }
    fn read(&mut self, conn: ConnId, query: ReadRequest) {
        self.0.push(Call::Read(conn, query));
    }
    fn hash(&mut self, conn: ConnId, job: Job) {
        self.0.push(Call::Hash(conn, job));
    }
    fn notify_when_drained(&mut self, conn: ConnId) {
        self.0.push(Call::NotifyWhenDrained(conn));
    }
    fn wait_for_memory(&mut self, conn: ConnId) {
        self.0.push(Call::WaitForMemory(conn));
    }
}

fn calls(mut turn: Turn) -> Vec<Call> {
    let mut recorder = Recorder::default();
    turn.release(&mut recorder);
    recorder.0
}

/// Passes the turns of one hub through the wire format. A hub that restarts needs a new relay.
#[derive(Default)]
pub(crate) struct Relay {
    encoder: Encoder,
    decoder: Decoder,
    turns: usize,
    /// The encoded turns since the encoder last began, each after its length in two bytes.
    pub(crate) encoded: Vec<u8>,
}

/// Number of turns after which the encoder begins anew.
const EPOCH: usize = 50;

impl Relay {
    /// Encodes and decodes a turn, checks that nothing is lost, and releases it to `sink`. Returns
    /// the decoded batch.
    pub(crate) fn release(&mut self, turn: Turn, batch: &Batch, sink: &mut impl Sink) -> Batch {
        self.turns += 1;
        if self.turns.is_multiple_of(EPOCH) {
            self.encoder.forget();
            self.encoded.clear();
            if self.turns.is_multiple_of(2 * EPOCH) {
                self.decoder = Decoder::default(); // a server that joins
            }
        }
        let bytes = self.encoder.encode(&turn, batch);
        self.encoded.extend(u16::try_from(bytes.len()).expect("a short turn").to_be_bytes());
        self.encoded.extend_from_slice(&bytes);
        let (decoded_batch, decoded) = self.decoder.decode(&bytes).expect("a turn");
        assert_eq!(decoded_batch, *batch);
        // The calls are the same, but only those of the original have the secrets of jobs.
        let (calls, decoded) = (calls(turn), calls(decoded));
        assert_eq!(calls.len(), decoded.len());
        for (call, decoded) in calls.into_iter().zip(decoded) {
            assert_eq!(call.without_secret().as_ref().unwrap_or(&call), &decoded);
            call.repeat(sink);
        }
        decoded_batch
    }
}

/// Decodes any bytes as turns, each after its length in two bytes. Those that are turns are the
/// same when they are encoded and decoded again.
pub(crate) fn check_turns(mut bytes: &[u8]) {
    let (mut first, mut encoder, mut second) =
        (Decoder::default(), Encoder::default(), Decoder::default());
    while let [high, low, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (piece, rest) = rest.split_at(len);
        bytes = rest;
        let Ok((batch, turn)) = first.decode(piece) else { continue };
        let again = encoder.encode(&turn, &batch);
        let (batch_again, turn_again) = second.decode(&again).expect("a turn");
        assert_eq!((batch_again, calls(turn_again)), (batch, calls(turn)));
    }
}
