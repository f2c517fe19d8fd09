//! One socket: input that is not handled yet, output that is not written yet, and the state
//! of the connection. It knows no rule of the chat.
//!
//! There is no task per connection. A socket that becomes readable or writable wakes its
//! [`SlotWaker`], which only queues its slot for the server loop (`reactor.rs`). An idle
//! connection holds no buffer.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::rustls::ServerConfig;

use crate::protocol::LOGIN_LINE_MAX;
use crate::protocol::codec::LineCodec;
use crate::server::auth::secrets::Secrets;
use crate::server::limits::rate_limit::Bucket;
use crate::server::net::outbox::Outbox;
use crate::server::net::stream::{Stream, Transport};
use crate::server::net::unsent;

/// The slots whose sockets became ready, filled by wakers and emptied by the server loop.
#[derive(Debug, Default)]
pub struct ReadyQueue {
    ready: Mutex<Vec<u32>>,
    notify: Notify,
}

impl ReadyQueue {
    /// Waits until a slot was queued since the last [`ReadyQueue::take_into`].
    pub async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Moves the queued slots to `slots`.
    pub fn take_into(&self, slots: &mut Vec<u32>) {
        slots.append(&mut self.lock());
    }

    /// Returns the waker of one slot, to be passed to its socket.
    #[must_use]
    pub fn waker(self: &Arc<Self>, slot: u32) -> Arc<SlotWaker> {
        Arc::new(SlotWaker { slot, is_queued: AtomicBool::new(false), queue: self.clone() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        // A list of numbers is consistent even if a thread panicked while holding the lock.
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
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
            self.queue.lock().push(self.slot);
            self.queue.notify.notify_one();
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

/// A socket and its state.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // the flags are independent of each other
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
    /// The state of the input rate limit.
    pub rate_bucket: Bucket,
    /// Whether rate limits apply to this connection.
    pub is_limited: bool,
    /// Whether it is not read from until the rate limit permits the next line.
    pub is_rate_limited: bool,
    /// Whether it was rejected at accept, and only gets the reason.
    pub is_rejected: bool,
    /// Whether the client has closed its sending side.
    pub is_finished: bool,
    /// Whether it waits for a reply and is not read from meanwhile.
    pub is_waiting: bool,
    /// Whether a timer checks that the client is still connected while it waits.
    pub has_liveness_timer: bool,
    /// Whether it is not read from because its outbox exceeds the limit (backpressure).
    pub is_over_outbox_limit: bool,
    /// Whether the hub wants to know when the outbox has drained.
    pub wants_page: bool,
    /// Whether it is in the list of connections to flush.
    pub is_dirty: bool,
    /// When writing was blocked without progress for the first time.
    stalled_since: Option<Duration>,
    /// Whether the unsent data in the kernel was measured since then, and the result in
    /// bytes, if it is known.
    is_measured: bool,
    unsent: Option<u32>,
    /// Whether a timer checks the progress of writing.
    has_stall_timer: bool,
    /// Whether it is being disconnected because the client does not read.
    is_evicted: bool,
    /// Whether nothing can be written any more.
    pub is_write_closed: bool,
}

/// The result of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Everything is written.
    Done,
    /// The socket is full.
    Blocked {
        /// Whether anything was written.
        progress: bool,
    },
}

/// The result of a check for a stalled client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// No output is pending.
    None,
    /// The client is not stalled yet; check again at this time.
    LookAgainAt(Duration),
    /// The client has read nothing for too long.
    Over,
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
            rate_bucket: Bucket::default(),
            is_limited: false,
            is_rate_limited: false,
            is_rejected: false,
            is_finished: false,
            is_waiting: false,
            has_liveness_timer: false,
            is_over_outbox_limit: false,
            wants_page: false,
            is_dirty: false,
            stalled_since: None,
            is_measured: false,
            unsent: None,
            has_stall_timer: false,
            is_evicted: false,
            is_write_closed: false,
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

    /// Returns whether output is pending.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.is_write_closed && (!self.outbox.is_empty() || self.stream.has_unsent())
    }

    /// Writes pending output with as few system calls as possible. If the socket is full, the
    /// waker is called when it is writable again.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<Flush> {
        match self.flush_with()? {
            Flush::Blocked { .. } if self.is_evicted && self.flush_now()? => Ok(Flush::Done),
            flushed => Ok(flushed),
        }
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

    fn flush_with(&mut self) -> io::Result<Flush> {
        let mut context = Context::from_waker(&self.waker);
        let mut progress = false;
        while !self.outbox.is_empty() {
            match self.stream.poll_write(&mut context, &self.outbox) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.outbox.advance(written);
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.outbox.compact();
                    return Ok(Flush::Blocked { progress });
                }
            }
        }
        match self.stream.poll_flush(&mut context)? {
            Poll::Ready(()) => Ok(Flush::Done),
            Poll::Pending => Ok(Flush::Blocked { progress }),
        }
    }

    /// Notes the result of a flush; returns whether the caller has to start a timer for
    /// [`Self::stall`].
    pub fn note_flush(&mut self, now: Duration, flush: Flush) -> bool {
        match flush {
            Flush::Done => {
                self.stalled_since = None;
                return false;
            }
            Flush::Blocked { progress } => {
                if progress || self.stalled_since.is_none() {
                    self.watch_from(now);
                }
            }
        }
        !mem::replace(&mut self.has_stall_timer, true)
    }

    fn watch_from(&mut self, now: Duration) {
        (self.stalled_since, self.is_measured, self.unsent) = (Some(now), false, None);
    }

    /// Checks whether the client is stalled: it has read less than `least` bytes within
    /// `timeout`. After [`Stall::None`] no further check is needed.
    pub fn stall(&mut self, now: Duration, timeout: Duration, least: u32) -> Stall {
        let Some(since) = self.stalled_since else {
            self.has_stall_timer = false;
            return Stall::None;
        };
        let (measured_at, ends_at) = (since + timeout / 8, since + timeout);
        let left = |this: &Self| this.stream.socket().and_then(unsent::measure);
        if now < measured_at {
            Stall::LookAgainAt(measured_at)
        } else if !self.is_measured {
            (self.is_measured, self.unsent) = (true, left(self));
            // The server itself may have been suspended, so the time starts with the measurement.
            Stall::LookAgainAt(now + timeout * 7 / 8)
        } else if now < ends_at {
            Stall::LookAgainAt(ends_at)
        } else if let Some(before) = self.unsent
            && left(self).is_some_and(|left| left + least <= before)
        {
            // The client reads, but too little for the kernel to report the socket as writable.
            self.watch_from(now);
            Stall::LookAgainAt(now + timeout / 8)
        } else {
            self.watch_from(now);
            Stall::Over
        }
    }

    /// Discards pending output of a client that does not read, so that the farewell can be
    /// written as far as the kernel has space.
    pub fn discard_unread(&mut self) {
        self.is_evicted = true;
        self.outbox.cut();
        if let Some(socket) = self.stream.socket() {
            unsent::enlarge_for_farewell(socket);
        }
    }

    /// Gives up writing. Input that the client sent before is still handled.
    pub fn stop_writing(&mut self) {
        self.is_write_closed = true;
        self.outbox = Outbox::default();
        self.stalled_since = None;
    }

    /// Returns whether the kernel has sent everything that was written.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.stream.socket().is_none_or(unsent::is_sent)
    }

    /// Closes our sending side; the client can still read everything that was written. Returns
    /// whether that is done; if not, the waker is called when the socket is writable.
    pub fn close_sending_side(&mut self) -> bool {
        self.stream.close_sending_side(&mut Context::from_waker(&self.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::net::outbox::{Lines, Meter};

    /// A connection with more pending output than the kernel accepts, and its peer.
    async fn full() -> (Connection, std::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let peer = std::net::TcpStream::connect(address).expect("a connection");
        let (socket, _) = listener.accept().await.expect("a connection");
        unsent::bound(&socket);
        let waker = Arc::new(ReadyQueue::default()).waker(0);
        let mut connection = Connection::new(socket, waker, 0);
        let lines = Lines::new(vec![b'x'; 64 << 20], &Meter::default());
        connection.outbox.push(&lines, 0, lines.len());
        while connection.flush().expect("written") != (Flush::Blocked { progress: false }) {
            tokio::task::yield_now().await;
        }
        (connection, peer)
    }

    #[tokio::test]
    async fn stalled_client_gets_time_after_the_server_was_suspended() {
        const SECOND: Duration = Duration::from_secs(1);
        let (mut connection, _peer) = full().await;
        assert!(connection.note_flush(SECOND, Flush::Blocked { progress: false }));
        // The server was suspended, and could not notice whether the client reads.
        let stall = connection.stall(SECOND * 100, SECOND * 8, 1);
        assert_eq!(stall, Stall::LookAgainAt(SECOND * 107));
        assert_eq!(connection.stall(SECOND * 107, SECOND * 8, 1), Stall::Over);
    }
}
