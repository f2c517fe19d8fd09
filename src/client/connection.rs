//! One connection, encrypted or not: lines in, lines out. It knows nothing of what they mean.
//!
//! Writing never keeps reading from going on: what is to be sent waits in a
//! buffer, and [`Connection::progress`] moves whichever direction can move. Two
//! ends that both only write would wait for each other for ever.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split,
};
use tokio::net::TcpStream;
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::address::Endpoint;
use super::happy_eyeballs::connect_fastest;
use super::limits::{Budget, GOODBYE_MAX, LINE_MAX};
use super::tls::TlsError;
use crate::protocol::codec::{Frame, LineCodec};

/// How long the handshake of TLS may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A network that swallows what we say is noticed by this; one that is only silent
/// by what it does not answer (`heartbeat.rs`).
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a farewell may take.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

const READ_SIZE: usize = 64 * 1024;

/// What bytes go through.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection to a server.
pub(super) struct Connection {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    codec: LineCodec,
    received: BytesMut,
    unsent: BytesMut,
    /// Whether all that was written is on its way: TLS may keep some of it.
    is_flushed: bool,
    is_closed: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct Unreachable {
    pub(super) why: String,
    /// Whether it is of no use to try again.
    pub(super) is_final: bool,
}

/// What [`Connection::progress`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Bytes came; there may be lines.
    Read,
    /// Bytes went out.
    Wrote,
    /// The other side sends no more; the last lines may still be at hand.
    Closed,
}

/// Connects to the host, and encrypts the connection if that is asked for.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Connection, Unreachable> {
    let fail = |why: &str, is_final| Unreachable {
        why: format!("cannot connect to {endpoint}: {why}"),
        is_final,
    };
    let stream = connect_fastest(endpoint).await.map_err(|why| fail(&why, false))?;
    prepare(&stream);
    let Some(tls) = &endpoint.tls else { return Ok(Connection::new(stream)) };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.encrypt(stream, endpoint)).await {
        Ok(Ok(stream)) => Ok(Connection::new(stream)),
        Ok(Err(TlsError::Distrusted(why))) => Err(fail(&why, true)),
        Ok(Err(TlsError::Failed(why))) => Err(fail(&why, false)),
        Err(_) => Err(fail("it does not answer in TLS", false)),
    }
}

/// Sets a new connection up. What fails here only costs comfort.
fn prepare(stream: &TcpStream) {
    // A typed line is to go at once; without it, it goes a little later.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(USER_TIMEOUT));
}

impl Connection {
    fn new(stream: impl Socket + 'static) -> Self {
        let (reader, writer) = split(Box::new(stream) as Box<dyn Socket>);
        Self {
            reader,
            writer,
            codec: LineCodec::trusting(LINE_MAX),
            received: BytesMut::new(),
            unsent: BytesMut::new(),
            is_flushed: true,
            is_closed: false,
        }
    }

    /// Puts a line among those to be sent. It holds no line end: whoever has
    /// several lines parts them first.
    pub(super) fn send(&mut self, line: &str) {
        let encoded = self.codec.encode(line, &mut self.unsent);
        debug_assert!(encoded.is_ok(), "two lines in one: {line:?}");
    }

    /// How many bytes wait to be sent.
    pub(super) fn unsent_len(&self) -> usize {
        self.unsent.len()
    }

    /// Reads or writes, whatever can be done first. May be cancelled: nothing
    /// is lost by it.
    pub(super) async fn progress(&mut self) -> Progress {
        loop {
            self.received.reserve(READ_SIZE);
            tokio::select! {
                read = self.reader.read_buf(&mut self.received) => {
                    // A reset ends a connection as an orderly close does.
                    self.is_closed = matches!(read, Ok(0) | Err(_));
                    return if self.is_closed { Progress::Closed } else { Progress::Read };
                }
                wrote = write(&mut self.writer, &mut self.unsent),
                    if !self.is_flushed || !self.unsent.is_empty() =>
                {
                    self.is_flushed = wrote.as_ref().map_or(true, |wrote| *wrote == Wrote::All);
                    if wrote.is_ok() {
                        return Progress::Wrote;
                    }
                    // It takes no more, but may have said why: read on.
                    self.unsent.clear();
                }
            }
        }
    }

    /// The next line, once it is here; `None` after the last one.
    pub(super) async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.next_line() {
                return Some(line);
            }
            if self.is_closed {
                return None;
            }
            self.progress().await;
        }
    }

    /// Says goodbye, and hands on what still comes. The end of a connection alone
    /// would not be a goodbye: a session waits for who drops.
    pub(super) async fn quit(&mut self, line: &str, mut hear: impl FnMut(String)) {
        self.send(line);
        let mut budget = Budget::new(GOODBYE_MAX);
        let goodbye = async {
            while let Some(line) = self.line().await.filter(|line| budget.spend(line)) {
                hear(line);
            }
        };
        // Whoever wants to leave is not held up by a server that does not answer.
        let _ = tokio::time::timeout(QUIT_TIMEOUT, goodbye).await;
    }

    /// The next line that is here, without its end.
    pub(super) fn next_line(&mut self) -> Option<String> {
        // What a broken connection leaves without an end is a part of a line at
        // best, and no line: over the next connection it comes whole.
        let frame = self.codec.decode(&mut self.received);
        // The codec never fails on content. What of a bad line is at hand is
        // better shown than passed over in silence.
        match frame.ok()?? {
            Frame::Line(line) => Some(line.into_owned()),
            Frame::TooLong(head) | Frame::BadEncoding(head) => {
                Some(String::from_utf8_lossy(&head).into_owned())
            }
            Frame::Foreign => None,
        }
    }
}

/// What [`write`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrote {
    Some,
    /// And it is on its way.
    All,
}

/// Writes some of what is unsent, or sends on what was written. May be cancelled.
async fn write(
    writer: &mut WriteHalf<Box<dyn Socket>>,
    unsent: &mut BytesMut,
) -> io::Result<Wrote> {
    if unsent.is_empty() {
        return writer.flush().await.map(|()| Wrote::All);
    }
    writer.write_buf(unsent).await.map(|_| Wrote::Some)
}
