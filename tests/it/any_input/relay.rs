//! Turns as other servers receive them: encoded, decoded, and compared with the original.

use std::cell::RefCell;
use std::rc::Rc;

use chatty::server::auth::passwords::Job;
use chatty::server::net::outbox::Lines;
use chatty::server::record::SentMail;
use chatty::server::store::{Batch, ReadRequest};
use chatty::server::turn::wire::{Decoder, Encoder};
use chatty::server::turn::{ConnId, Sink, Turn};

use crate::hub_driver::Driver;

/// A call of a [`Sink`].
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Push(ConnId, Vec<u8>),
    NoteReplyBytes(ConnId, usize),
    Close(ConnId),
    Read(ConnId, Box<ReadRequest>),
    PushToken(ConnId),
    Hash(ConnId, Job),
    NotifyWhenDrained(ConnId),
    ExpectReceipt(ConnId, SentMail),
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
        self.0.push(Call::Read(conn, Box::new(query)));
    }
    fn push_token(&mut self, to: ConnId) {
        self.0.push(Call::PushToken(to));
    }
    fn hash(&mut self, conn: ConnId, job: Job) {
        self.0.push(Call::Hash(conn, job));
    }
    fn notify_when_drained(&mut self, conn: ConnId) {
        self.0.push(Call::NotifyWhenDrained(conn));
    }
    fn expect_receipt(&mut self, conn: ConnId, mail: SentMail) {
        self.0.push(Call::ExpectReceipt(conn, mail));
    }
}

fn calls(mut turn: Turn) -> Vec<Call> {
    let mut recorder = Recorder::default();
    turn.release(&mut recorder);
    recorder.0
}

/// Passes the turns of one hub through the wire format, to two servers. A hub that restarts needs
/// a new relay.
#[derive(Default)]
pub(crate) struct Relay {
    encoder: Encoder,
    decoders: [Decoder; 2],
    turns: usize,
    /// The encoded turns since the encoder last began, each after its length in two bytes.
    pub(crate) encoded: Vec<u8>,
}

/// Number of turns after which the encoder forgets all audiences.
const EPOCH: usize = 50;

impl Relay {
    /// A relay for the turns of a hub.
    pub(crate) fn attach(hub: &mut Driver) -> Rc<RefCell<Self>> {
        let relay = Rc::new(RefCell::new(Self::default()));
        let attached = relay.clone();
        let pass = move |turn, batch: &_| attached.borrow_mut().pass(turn, batch);
        hub.replace_turn = Some(Box::new(pass));
        relay
    }

    /// Encodes a turn, checks that nothing is lost, and returns what the other server decodes.
    fn pass(&mut self, turn: Turn, batch: &Batch) -> Turn {
        self.turns += 1;
        if self.turns.is_multiple_of(EPOCH) {
            self.encoder.forget();
            self.encoded.clear();
            if self.turns.is_multiple_of(2 * EPOCH) {
                self.decoders = Default::default(); // servers that join
            }
        }
        let bytes = self.encoder.encode(&turn, batch);
        self.encoded.extend(u16::try_from(bytes.len()).expect("a short turn").to_be_bytes());
        self.encoded.extend_from_slice(&bytes);
        let [one, other] = &mut self.decoders;
        let (decoded_batch, decoded) = one.decode(&bytes).expect("a turn");
        assert_eq!(decoded_batch, *batch);
        assert_eq!(calls(decoded), calls(turn));
        other.decode(&bytes).expect("a turn").1
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
