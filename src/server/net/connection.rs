//! One socket: input that is not handled yet, output that is not written yet, and the state
//! of the connection. It knows no rule of the chat.
//!
//! There is no task per connection. A socket that becomes readable or writable wakes its
//! [`SlotWaker`], which only queues its slot for the server loop (`reactor.rs`). An idle
//! connection holds no buffer.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConfig;

use crate::protocol::LOGIN_LINE_MAX;
use crate::protocol::codec::LineCodec;
use crate::server::auth::secrets::Secrets;
use crate::server::limits::rate_limit::Budget;
use crate::server::net::outbox::Outbox;
use crate::server::net::stall::{Progress, Stall};
use crate::server::net::stream::{Stream, Transport};
use crate::server::net::unsent;
use crate::server::record::SentMail;

/// The slots whose sockets became ready, filled by wakers and emptied by the server loop.
#[derive(Debug, Default)]
pub struct ReadyQueue(Mutex<Ready>);

#[derive(Debug, Default)]
struct Ready {
    slots: Vec<u32>,
    /// Wakes the server loop.
    waker: Option<Waker>,
}

impl ReadyQueue {
    /// Returns whether slots are queued. If not, the loop is woken when one is.
    pub fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        let mut ready = self.lock();
        if !ready.slots.is_empty() {
            return Poll::Ready(());
        }
        // Its clone costs more than the comparison, and the loop always has the same one.
        if !ready.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            ready.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// Moves the queued slots to `slots`.
    pub fn take_into(&self, slots: &mut Vec<u32>) {
        slots.append(&mut self.lock().slots);
    }

    /// Returns the waker of one slot, to be passed to its socket.
    #[must_use]
    pub fn waker(self: &Arc<Self>, slot: u32) -> Arc<SlotWaker> {
        Arc::new(SlotWaker { slot, is_queued: AtomicBool::new(false), queue: self.clone() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ready> {
        // A list of numbers is consistent even if a thread panicked while holding the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Queues one slot; at most once until [`SlotWaker::clear`].
#[derive(Debug)]
pub struct SlotWaker {
    slot: u32,
    is_queued: AtomicBool,
    queue: Arc<ReadyQueue>,
}

impl SlotWaker {
    /// Notes that the loop is serving the slot; the next wake-up queues it again.
    pub fn clear(&self) {
        self.is_queued.store(false, Ordering::Release);
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_queued.swap(true, Ordering::AcqRel) {
            let mut ready = self.queue.lock();
            ready.slots.push(self.slot);
            // With more slots the loop has been woken already.
            if let ([_], Some(waker)) = (&ready.slots[..], &ready.waker) {
                waker.wake_by_ref();
            }
        }
    }
}

/// The phases of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Connected; the transport is not known yet.
    Arriving,
    /// In use.
    Open,
    /// The farewell is queued; pending output is still written, input is no longer read.
    Closing,
    /// Everything is written and our side is closed. Input is read and discarded, because
    /// closing a socket with unread input sends a reset, which could discard the last lines.
    Lingering,
}

/// A reason not to read from a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It waits for the reply to a line.
    Reply = 1,
    /// The rate limit does not permit the next line yet.
    RateLimit = 2,
    /// Its outbox exceeds the limit (backpressure).
    Outbox = 4,
    /// The client has closed its sending side.
    EndOfInput = 8,
}

/// The reasons not to read from a connection; several can apply at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pauses(u8);

impl Pauses {
    /// Returns whether a reason applies.
    #[must_use]
    pub fn has(self, pause: Pause) -> bool {
        self.0 & pause as u8 != 0
    }

    /// Sets whether a reason applies; returns whether it did.
    pub fn set(&mut self, pause: Pause, applies: bool) -> bool {
        let did_apply = self.has(pause);
        self.0 = if applies { self.0 | pause as u8 } else { self.0 & !(pause as u8) };
        did_apply
    }

    /// Returns whether none applies.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Whether output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Open,
    /// The client does not read: what the kernel has space for is written, without waiting
    /// until it reports the socket as writable.
    Evicting,
    /// Nothing can be written any more.
    Closed,
}

/// A socket and its state.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    slot_waker: Arc<SlotWaker>,
    waker: Waker,
    /// Distinguishes this connection from earlier ones in the same slot.
    pub generation: u32,
    /// The drain in which it was last served.
    pub last_drain: u64,
    /// The current phase.
    pub phase: Phase,
    /// Splits input into lines.
    pub codec: LineCodec,
    /// Input that was read, but could not be handled yet.
    pub unread: Vec<u8>,
    /// Output that waits to be written.
    pub outbox: Outbox,
    /// Its session token, and the password of the line that waits.
    pub secrets: Secrets,
    /// What its lines are counted in, if the input rate limit applies.
    pub budget: Option<Box<Budget>>,
    /// Why it is not read from.
    pub pauses: Pauses,
    /// Whether a timer checks that the client is still connected while it waits for a reply.
    pub has_liveness_timer: bool,
    /// Whether the hub wants to know when the outbox has drained.
    pub wants_page: bool,
    /// Mail in the outbox, or written and not confirmed yet.
    pub sent_mail: Option<Box<SentMail>>,
    /// Whether it is in the list of connections to flush.
    pub is_dirty: bool,
    writing: Writing,
    progress: Progress,
}

impl Connection {
    /// Creates the state of a connection that was just accepted into a slot.
    #[must_use]
    pub fn new(socket: TcpStream, slot_waker: Arc<SlotWaker>, generation: u32) -> Self {
        Self {
            stream: Stream::Plain(socket),
            waker: Waker::from(slot_waker.clone()),
            slot_waker,
            generation,
            last_drain: 0,
            phase: Phase::Arriving,
            codec: LineCodec::new(LOGIN_LINE_MAX),
            unread: Vec::new(),
            outbox: Outbox::default(),
            secrets: Secrets::default(),
            budget: None,
            pauses: Pauses::default(),
            has_liveness_timer: false,
            wants_page: false,
            sent_mail: None,
            is_dirty: false,
            writing: Writing::Open,
            progress: Progress::default(),
        }
    }

    /// Notes that the connection is being served. To be called before reading or writing, so
    /// that no later wake-up is lost.
    pub fn clear_ready(&self) {
        self.slot_waker.clear();
    }

    /// Detects the transport, if TLS is offered. `None`: not known yet; the waker is called
    /// when there is more input.
    ///
    /// # Errors
    /// The connection is broken, or a handshake failed.
    pub fn transport(&mut self, offer: &Arc<ServerConfig>) -> io::Result<Option<Transport>> {
        let mut context = Context::from_waker(&self.waker);
        match self.stream.poll_transport(&mut context, offer) {
            Poll::Ready(transport) => transport.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// Returns whether nothing can be sent yet because of a handshake.
    #[must_use]
    pub fn is_in_handshake(&self) -> bool {
        self.stream.is_in_handshake()
    }

    /// Reads available input into `buffer`. `None`: nothing available; the waker is called
    /// when there is. `Some(0)`: end of input.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut context = Context::from_waker(&self.waker);
        let mut buffer = ReadBuf::new(buffer);
        match self.stream.poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(Some(buffer.filled().len())),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(None),
        }
    }

    /// Returns whether the connection was reset. A client that only closed its sending side is
    /// not detected here.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let error = self.stream.socket().map(TcpStream::take_error);
        !matches!(error, Some(Ok(None)))
    }

    /// Returns whether nothing can be written any more.
    #[must_use]
    pub fn is_write_closed(&self) -> bool {
        self.writing == Writing::Closed
    }

    /// Returns whether output is pending.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.is_write_closed() && (!self.outbox.is_empty() || self.stream.has_unsent())
    }

    /// Writes pending output with as few system calls as possible. If the socket is full, the
    /// waker is called when it is writable again. Returns whether the caller has to start a
    /// timer for [`Self::check_stall`].
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self, now: Duration) -> io::Result<bool> {
        let before = self.outbox.len();
        let mut is_done = self.flush_if_writable()?;
        let has_written = self.outbox.len() < before;
        if !is_done && self.writing == Writing::Evicting {
            is_done = self.flush_now()?;
        }
        if is_done {
            self.progress.note_unblocked();
        }
        Ok(!is_done && self.progress.note_blocked(now, has_written))
    }

    /// Writes what the kernel accepts, even if it has not reported the socket as writable;
    /// returns whether everything is written.
    fn flush_now(&mut self) -> io::Result<bool> {
        while self.has_unsent() {
            match self.stream.write_now(&self.outbox) {
                Ok(written) => self.outbox.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The same, if the kernel has reported the socket as writable.
    fn flush_if_writable(&mut self) -> io::Result<bool> {
        let mut context = Context::from_waker(&self.waker);
        while !self.outbox.is_empty() {
            match self.stream.poll_write(&mut context, &self.outbox) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => self.outbox.advance(written),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.outbox.compact();
                    return Ok(false);
                }
            }
        }
        Ok(self.stream.poll_flush(&mut context)?.is_ready())
    }

    /// Checks whether the client is stalled; see [`Progress::check`].
    pub fn check_stall(&mut self, now: Duration, timeout: Duration, least: u32) -> Stall {
        let socket = self.stream.socket();
        self.progress.check(now, timeout, least, || socket.and_then(unsent::measure))
    }

    /// Discards pending output of a client that does not read, so that the farewell can be
    /// written as far as the kernel has space.
    pub fn discard_unread(&mut self) {
        self.writing = Writing::Evicting;
        self.outbox.cut();
        self.sent_mail = None;
        if let Some(socket) = self.stream.socket() {
            unsent::enlarge_for_farewell(socket);
        }
    }

    /// Stops writing and discards pending output. Input that the client has sent is still
    /// handled.
    pub fn stop_writing(&mut self) {
        self.writing = Writing::Closed;
        self.outbox = Outbox::default();
        self.sent_mail = None;
        self.progress.note_unblocked();
    }

    /// Returns whether the kernel has sent everything that was written.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.stream.socket().is_none_or(unsent::is_sent)
    }

    /// Takes the mail that the client has received: it has sent something after everything was
    /// written.
    pub fn take_received_mail(&mut self) -> Option<SentMail> {
        if self.sent_mail.is_none() || self.has_unsent() {
            return None;
        }
        self.sent_mail.take().map(|mail| *mail)
    }

    /// Closes our sending side; the client can still read everything that was written. Returns
    /// whether that is done; if not, the waker is called when the socket is writable.
    pub fn close_sending_side(&mut self) -> bool {
        self.stream.close_sending_side(&mut Context::from_waker(&self.waker))
    }
}
