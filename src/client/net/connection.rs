//! One connection, encrypted or not, that reads and writes lines. It does not know their
//! meaning.
//!
//! Writing never blocks reading: outgoing lines wait in a buffer, and
//! [`Connection::progress`] serves whichever direction is ready. Otherwise two peers that
//! both only write would deadlock.

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
use super::tls::{Tls, TlsError};
use crate::client::limits::{Budget, GOODBYE_MAX, LINE_MAX};
use crate::protocol::codec::{Frame, LineCodec};
use crate::protocol::{Feature, Fingerprint};

/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged. It detects a network
/// that drops our packets; the heartbeat (`session/heartbeat.rs`) detects a silent server.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait for the server's farewell.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

const READ_SIZE: usize = 64 * 1024;

/// A plain or encrypted stream.
pub(in crate::client) trait Socket:
    AsyncRead + AsyncWrite + Send + Unpin
{
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection to a server.
pub(in crate::client) struct Connection {
    reader: ReadHalf<Box<dyn Socket>>,
    writer: WriteHalf<Box<dyn Socket>>,
    codec: LineCodec,
    received: BytesMut,
    unsent: BytesMut,
    /// Whether all written bytes were flushed; TLS buffers some.
    is_flushed: bool,
    is_closed: bool,
    /// What the server supports beyond protocol version 0.1; known after the greeting.
    pub(in crate::client) features: Vec<Feature>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(in crate::client) struct Unreachable {
    pub(in crate::client) why: String,
    /// Whether a retry would fail, too.
    pub(in crate::client) is_final: bool,
    /// The certificate of a server that the user may trust.
    pub(in crate::client) unknown: Option<Fingerprint>,
}

/// The result of [`Connection::progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Progress {
    /// Bytes were read; there may be lines.
    Read,
    /// Bytes were written.
    Wrote,
    /// The server closed the connection; received lines may be left.
    Closed,
}

/// Connects to the host, encrypted if there is a TLS configuration.
pub(in crate::client) async fn connect(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
) -> Result<Connection, Unreachable> {
    let fail = |why: &str, is_final| Unreachable {
        why: format!("cannot connect to {endpoint}: {why}"),
        is_final,
        unknown: None,
    };
    let stream = connect_fastest(endpoint).await.map_err(|why| fail(&why, false))?;
    prepare(&stream);
    let Some(tls) = tls else { return Ok(Connection::new(stream)) };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.encrypt(stream, endpoint)).await {
        Ok(Ok(stream)) => Ok(Connection::new(stream)),
        Ok(Err(TlsError::Distrusted(why))) => Err(fail(&why, true)),
        Ok(Err(TlsError::Unknown(presented))) => {
            Err(Unreachable { unknown: Some(presented), ..fail("the server is not trusted", true) })
        }
        Ok(Err(TlsError::Failed(why))) => Err(fail(&why, false)),
        Err(_) => Err(fail(
            "the TLS handshake timed out (is \"chatty serve --tls\" running there?)",
            false,
        )),
    }
}

/// Sets socket options. Failures are ignored: the connection works without them.
fn prepare(stream: &TcpStream) {
    // Sends typed lines without Nagle's delay.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(USER_TIMEOUT));
}

impl Connection {
    pub(in crate::client) fn new(stream: impl Socket + 'static) -> Self {
        let (reader, writer) = split(Box::new(stream) as Box<dyn Socket>);
        Self {
            reader,
            writer,
            codec: LineCodec::trusting(LINE_MAX),
            received: BytesMut::new(),
            unsent: BytesMut::new(),
            is_flushed: true,
            is_closed: false,
            features: Vec::new(),
        }
    }

    /// Returns a connection in memory, and its other end, for tests.
    #[cfg(test)]
    pub(in crate::client) fn in_memory() -> (Self, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(READ_SIZE);
        (Self::new(ours), theirs)
    }

    /// Queues a line for sending. It must not contain a line end.
    pub(in crate::client) fn send(&mut self, line: &str) {
        let encoded = self.codec.encode(line, &mut self.unsent);
        debug_assert!(encoded.is_ok(), "two lines in one: {line:?}");
    }

    /// Returns the number of bytes that wait to be sent.
    pub(in crate::client) fn unsent_len(&self) -> usize {
        self.unsent.len()
    }

    /// Reads or writes, whichever is possible first. Cancel-safe.
    pub(in crate::client) async fn progress(&mut self) -> Progress {
        loop {
            self.received.reserve(READ_SIZE);
            tokio::select! {
                read = self.reader.read_buf(&mut self.received) => {
                    // A reset counts as an orderly close.
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
                    // The peer accepts no more data, but may have sent the reason: read on.
                    self.unsent.clear();
                }
            }
        }
    }

    /// Waits for the next line; `None` after the last one.
    pub(in crate::client) async fn line(&mut self) -> Option<String> {
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

    /// Sends a `/quit` and passes on the lines that still arrive. Closing the connection
    /// would not be enough: the server would keep the session for `--session-grace`.
    pub(in crate::client) async fn quit(&mut self, line: &str, mut hear: impl FnMut(String)) {
        self.send(line);
        let mut budget = Budget::new(GOODBYE_MAX);
        let goodbye = async {
            while let Some(line) = self.line().await.filter(|line| budget.spend(line)) {
                hear(line);
            }
        };
        // A server that does not answer must not delay the exit.
        let _ = tokio::time::timeout(QUIT_TIMEOUT, goodbye).await;
    }

    /// Returns the next received line, without its line end.
    pub(in crate::client) fn next_line(&mut self) -> Option<String> {
        // An incomplete line at the end of a connection is dropped; the next connection
        // delivers the whole line.
        let frame = self.codec.decode(&mut self.received);
        // The codec never fails on content. The received part of a bad line is shown rather
        // than dropped silently.
        match frame.ok()?? {
            Frame::Line(line) => Some(line.into_owned()),
            Frame::TooLong(head) | Frame::BadEncoding(head) => {
                Some(String::from_utf8_lossy(&head).into_owned())
            }
            Frame::Foreign => None,
        }
    }
}

/// The result of [`write()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrote {
    Some,
    /// Everything is written and flushed.
    All,
}

/// Writes some of the unsent bytes, or flushes if there are none. Cancel-safe.
async fn write(
    writer: &mut WriteHalf<Box<dyn Socket>>,
    unsent: &mut BytesMut,
) -> io::Result<Wrote> {
    if unsent.is_empty() {
        return writer.flush().await.map(|()| Wrote::All);
    }
    writer.write_buf(unsent).await.map(|_| Wrote::Some)
}
