//! One socket: what was read of it and is not handled yet, what is to be
//! written, and how far its end has come. It knows no rule of the chat.
//!
//! There is no task for each connection. A socket that has something to read,
//! or room to write again, wakes its [`SlotWaker`], which only notes its slot for
//! the server's one loop (`reactor.rs`). An idle connection holds no buffer.

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

use super::outbox::Outbox;
use super::rate_limit::Bucket;
use super::stream::{Stream, Transport};
use super::unsent;
use crate::protocol::LOGIN_LINE_MAX;
use crate::protocol::codec::LineCodec;

/// Which slots have something to do, noted by wake-ups and emptied by the loop.
#[derive(Debug, Default)]
pub struct ReadyQueue {
    rung: Mutex<Vec<u32>>,
    some: Notify,
}

impl ReadyQueue {
    /// Waits until a bell was rung since the last [`ReadyQueue::take_into`].
    pub async fn wait(&self) {
        self.some.notified().await;
    }

    /// Adds the slots that rang.
    pub fn take_into(&self, slots: &mut Vec<u32>) {
        slots.append(&mut self.lock());
    }

    /// A bell for one slot, as the waker that a socket is handed.
    #[must_use]
    pub fn bell(self: &Arc<Self>, slot: u32) -> Arc<SlotWaker> {
        Arc::new(SlotWaker { slot, has_rung: AtomicBool::new(false), all: self.clone() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        // A list of numbers is whole whatever happened to who held it.
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the loop for one slot; rings once until it is answered.
#[derive(Debug)]
pub struct SlotWaker {
    slot: u32,
    has_rung: AtomicBool,
    all: Arc<ReadyQueue>,
}

impl SlotWaker {
    /// The loop has come to look; the next wake-up rings again.
    pub fn answer(&self) {
        self.has_rung.store(false, Ordering::Release);
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_rung.swap(true, Ordering::AcqRel) {
            self.all.lock().push(self.slot);
            self.all.some.notify_one();
        }
    }
}

/// How far a connection's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Connected; how it speaks is being found out.
    Arriving,
    /// Talking.
    Open,
    /// Said farewell to; what waits is still written, nothing more is read.
    Closing,
    /// All is written and our side is closed. What still comes is thrown away,
    /// since closing on unread bytes would take the last lines from the peer.
    Lingering,
}

/// One socket and what belongs to it.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // facts that are independent of each other
pub struct Connection {
    stream: Stream,
    bell: Arc<SlotWaker>,
    waker: Waker,
    /// Tells this connection from those that had the slot before.
    pub generation: u32,
    /// The drain in which it was last looked at.
    pub last_drain: u64,
    /// How far its end has come.
    pub phase: Phase,
    /// Cuts what is read into lines.
    pub codec: LineCodec,
    /// Read but not handled: the rest of a piece whose handling had to stop.
    pub unread: Vec<u8>,
    /// What is to be written.
    pub outbox: Outbox,
    /// How fast its lines may be heard, where that is limited.
    pub pace: Bucket,
    /// Whether limits on how fast it may speak are for it.
    pub is_limited: bool,
    /// Whether it is not heard since it spoke too fast.
    pub is_paced: bool,
    /// Whether it was never let in, and only hears why.
    pub is_turned_away: bool,
    /// Whether the other side has closed its sending side.
    pub is_finished: bool,
    /// Whether it waits for an answer, and is not read from meanwhile.
    pub is_waiting: bool,
    /// Whether it is looked after while it may wait.
    pub is_looked_after: bool,
    /// Whether it is not read from since too much waits for it.
    pub is_held_back: bool,
    /// Whether the hub is to be told when little waits for it any more.
    pub wants_feed: bool,
    /// Whether it is on the list of those to be written to.
    pub is_dirty: bool,
    /// Since when nothing could be written though something waits.
    stalled_since: Option<Duration>,
    /// Whether it was measured since then what the system has not sent, and how much
    /// it was, if that can be told.
    is_measured: bool,
    unsent: Option<u32>,
    /// Whether it is being looked at how that goes on.
    is_watched: bool,
    /// Whether it is parted with since it does not read.
    is_parted: bool,
    /// Whether nothing can be written to it.
    pub is_deaf: bool,
}

/// What became of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// All of it is written.
    Done,
    /// The socket is full; `progress` tells whether it took anything.
    Blocked {
        /// Whether anything was written.
        progress: bool,
    },
}

/// Whether a peer reads that something waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Nothing waits.
    None,
    /// It may.
    LookAgainAt(Duration),
    /// It has read nothing for too long.
    Over,
}

impl Connection {
    /// A connection that was just accepted into a slot.
    #[must_use]
    pub fn new(socket: TcpStream, bell: Arc<SlotWaker>, generation: u32) -> Self {
        Self {
            stream: Stream::Plain(socket),
            waker: Waker::from(bell.clone()),
            bell,
            generation,
            last_drain: 0,
            phase: Phase::Arriving,
            codec: LineCodec::new(LOGIN_LINE_MAX),
            unread: Vec::new(),
            outbox: Outbox::default(),
            pace: Bucket::default(),
            is_limited: false,
            is_paced: false,
            is_turned_away: false,
            is_finished: false,
            is_waiting: false,
            is_looked_after: false,
            is_held_back: false,
            wants_feed: false,
            is_dirty: false,
            stalled_since: None,
            is_measured: false,
            unsent: None,
            is_watched: false,
            is_parted: false,
            is_deaf: false,
        }
    }

    /// To be called before reading or writing because of a wake-up, so that a
    /// later one is not lost.
    pub fn clear_ready(&self) {
        self.bell.answer();
    }

    /// Finds out how the other side speaks, where TLS is offered. `None`: not
    /// known yet; the bell rings when there is more to tell by.
    ///
    /// # Errors
    /// The connection is broken, or a handshake failed.
    pub fn transport(&mut self, offer: &Arc<ServerConfig>) -> io::Result<Option<Transport>> {
        let mut context = Context::from_waker(&self.waker);
        match self.stream.poll_transport(&mut context, offer) {
            Poll::Ready(speech) => speech.map(Some),
            Poll::Pending => Ok(None),
        }
    }

    /// Whether nothing can be said to it yet.
    #[must_use]
    pub fn is_shaking_hands(&self) -> bool {
        self.stream.is_shaking_hands()
    }

    /// Reads what is there into `buffer`. `None`: nothing now; the bell rings
    /// when there is. `Some(0)`: nothing ever.
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

    /// Whether the other side has broken off. That it has only ended its side is not
    /// seen here.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let error = self.stream.socket().map(TcpStream::take_error);
        !matches!(error, Some(Ok(None)))
    }

    /// Whether anything is to be written.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.is_deaf && (!self.outbox.is_empty() || self.stream.has_unsent())
    }

    /// Writes all that waits, in as few system calls as it takes. If the socket
    /// fills up, the bell rings when there is room again.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<Flush> {
        match self.flush_with()? {
            Flush::Blocked { .. } if self.is_parted && self.flush_now()? => Ok(Flush::Done),
            flushed => Ok(flushed),
        }
    }

    /// Writes what the system takes though it has not told of any room; tells whether
    /// that was all.
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

    /// Notes what has come of writing at a moment; tells whether it is to be looked
    /// at from now on ([`Self::stall`]).
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
        !mem::replace(&mut self.is_watched, true)
    }

    fn watch_from(&mut self, now: Duration) {
        (self.stalled_since, self.is_measured, self.unsent) = (Some(now), false, None);
    }

    /// How it stands with a peer that may not read: who took less than so many bytes in
    /// the time counts as not reading. [`Stall::None`] ends the looking.
    pub fn stall(&mut self, now: Duration, patience: Duration, least: u32) -> Stall {
        let Some(since) = self.stalled_since else {
            self.is_watched = false;
            return Stall::None;
        };
        let (measured_at, ends_at) = (since + patience / 8, since + patience);
        let left = |this: &Self| this.stream.socket().and_then(unsent::measure);
        if now < measured_at {
            Stall::LookAgainAt(measured_at)
        } else if !self.is_measured {
            (self.is_measured, self.unsent) = (true, left(self));
            // We may have stood still ourselves: its time begins when we look.
            Stall::LookAgainAt(now + patience * 7 / 8)
        } else if now < ends_at {
            Stall::LookAgainAt(ends_at)
        } else if let Some(before) = self.unsent
            && left(self).is_some_and(|left| left + least <= before)
        {
            // It does read, too little at a time for the system to tell of room.
            self.watch_from(now);
            Stall::LookAgainAt(now + patience / 8)
        } else {
            self.watch_from(now);
            Stall::Over
        }
    }

    /// Throws away what waits for a peer that does not read: its last lines may go out
    /// as far as the system has any room.
    pub fn discard_unread(&mut self) {
        self.is_parted = true;
        self.outbox.cut();
        if let Some(socket) = self.stream.socket() {
            unsent::enlarge_for_farewell(socket);
        }
    }

    /// Nothing can be written to it any more. What it has sent before is there all the
    /// same, and is heard.
    pub fn stop_writing(&mut self) {
        self.is_deaf = true;
        self.outbox = Outbox::default();
        self.stalled_since = None;
    }

    /// Whether the system has sent all that was written.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.stream.socket().is_none_or(unsent::is_sent)
    }

    /// Closes our sending side: the peer reads to the end of what was written. Tells
    /// whether that is done; if not, the bell rings when there is room for the end.
    pub fn close_sending_side(&mut self) -> bool {
        self.stream.close_sending_side(&mut Context::from_waker(&self.waker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::outbox::{Lines, Meter};

    /// A connection that more waits for than the system takes, and its peer.
    async fn full() -> (Connection, std::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let peer = std::net::TcpStream::connect(address).expect("a connection");
        let (socket, _) = listener.accept().await.expect("a connection");
        unsent::bound(&socket);
        let bell = Arc::new(ReadyQueue::default()).bell(0);
        let mut connection = Connection::new(socket, bell, 0);
        let lines = Lines::new(vec![b'x'; 64 << 20], &Meter::default());
        connection.outbox.push(&lines, 0, lines.len());
        while connection.flush().expect("written") != (Flush::Blocked { progress: false }) {
            tokio::task::yield_now().await;
        }
        (connection, peer)
    }

    #[tokio::test]
    async fn who_could_not_be_looked_at_for_long_has_time_from_then_on() {
        const SECOND: Duration = Duration::from_secs(1);
        let (mut connection, _peer) = full().await;
        assert!(connection.note_flush(SECOND, Flush::Blocked { progress: false }));
        // The loop has stood still, and with it whatever tells that the peer reads.
        let looked = connection.stall(SECOND * 100, SECOND * 8, 1);
        assert_eq!(looked, Stall::LookAgainAt(SECOND * 107));
        assert_eq!(connection.stall(SECOND * 107, SECOND * 8, 1), Stall::Over);
    }
}
