//! The transport of a connection: plain TCP, or TLS over it. Both are polled by the server loop
//! with the connection's waker. Plain connections have no cost from TLS.

use std::fmt;
use std::future::Future as _;
use std::io::{self, IoSlice, Write as _};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::{ServerConfig, ServerConnection};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

use crate::server::net::outbox::Outbox;

/// The first byte of a TLS connection: the type of a handshake record. No line of a plain
/// client begins with it.
const TLS_FIRST_BYTE: u8 = 0x16;

/// Maximum of data that is encrypted and not sent yet, in bytes; the rest waits in the outbox,
/// where it is counted.
const ENCRYPTED_MAX: usize = 16 << 10;

/// The transport of a connection.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS, possibly still in the handshake.
    Tls(Box<Tls>),
}

/// The state of a TLS connection.
pub enum Tls {
    /// The handshake is in progress.
    Handshake(Accept<TcpStream>),
    /// The handshake is done.
    Open {
        /// The encrypted stream.
        stream: TlsStream<TcpStream>,
        /// Whether it holds encrypted data that is not sent yet.
        is_unsent: bool,
    },
    /// The handshake failed; the socket was consumed by it.
    Broken,
}

/// The kind of transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Unencrypted.
    Plain,
    /// Encrypted.
    Tls,
}

impl Stream {
    /// Continues to detect the transport, if TLS is offered, by peeking at the first byte; then
    /// continues the handshake.
    ///
    /// # Errors
    /// The connection is broken, or its handshake failed.
    pub fn poll_transport(
        &mut self,
        context: &mut Context<'_>,
        offer: &Arc<ServerConfig>,
    ) -> Poll<io::Result<Transport>> {
        if let Self::Plain(socket) = self {
            let mut first = [0];
            let mut buffer = ReadBuf::new(&mut first);
            ready!(socket.poll_peek(context, &mut buffer))?;
            if buffer.filled() != [TLS_FIRST_BYTE] {
                return Poll::Ready(Ok(Transport::Plain));
            }
            if let Self::Plain(socket) = mem::replace(self, Self::Tls(Box::new(Tls::Broken))) {
                let accept = TlsAcceptor::from(offer.clone()).accept_with(socket, |session| {
                    session.set_buffer_limit(Some(ENCRYPTED_MAX));
                });
                *self = Self::Tls(Box::new(Tls::Handshake(accept)));
            }
        }
        let Self::Tls(tls) = self else { return Poll::Ready(Ok(Transport::Plain)) };
        let Tls::Handshake(accept) = tls.as_mut() else { return Poll::Ready(Err(broken())) };
        let stream = ready!(Pin::new(accept).poll(context));
        **tls = Tls::Broken;
        **tls = Tls::Open { stream: stream?, is_unsent: true };
        Poll::Ready(Ok(Transport::Tls))
    }

    /// Returns whether nothing can be sent yet because of a handshake.
    #[must_use]
    pub fn is_in_handshake(&self) -> bool {
        matches!(self, Self::Tls(tls) if !matches!(tls.as_ref(), Tls::Open { .. }))
    }

    /// Reads available input.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => match tls.as_mut() {
                Tls::Open { stream, .. } => return Pin::new(stream).poll_read(context, buffer),
                // The input is read only to be discarded.
                Tls::Handshake(accept) => match accept.get_mut() {
                    Some(socket) => socket,
                    None => return Poll::Ready(Err(broken())),
                },
                Tls::Broken => return Poll::Ready(Err(broken())),
            },
        };
        Pin::new(socket).poll_read(context, buffer)
    }

    /// Writes as much pending output as one call accepts.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        outbox: &Outbox,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => loop {
                match write(socket, outbox) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // If it is ready, the socket became writable in between: try again.
                        ready!(socket.poll_write_ready(context))?;
                    }
                    result => return Poll::Ready(result),
                }
            },
            Self::Tls(tls) => tls.poll_write(context, outbox),
        }
    }

    /// Returns the socket, unless a failed handshake consumed it.
    #[must_use]
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(tls) => match tls.as_ref() {
                Tls::Open { stream, .. } => Some(stream.get_ref().0),
                Tls::Handshake(accept) => accept.get_ref(),
                Tls::Broken => None,
            },
        }
    }

    /// Writes as much pending output as the kernel accepts now, even if it has not reported the
    /// socket as writable.
    ///
    /// # Errors
    /// `WouldBlock` if the kernel accepts nothing; otherwise the connection is broken.
    pub fn write_now(&mut self, outbox: &Outbox) -> io::Result<usize> {
        let bytes = outbox.first().unwrap_or_default();
        match self {
            Self::Plain(socket) => SockRef::from(&*socket).send(bytes),
            Self::Tls(tls) => tls.write_now(bytes),
        }
    }

    /// Returns whether data was accepted that is not sent yet.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        matches!(self, Self::Tls(tls) if matches!(tls.as_ref(), Tls::Open { is_unsent: true, .. }))
    }

    /// Sends data that was accepted.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Tls(tls) = self
            && let Tls::Open { stream, is_unsent } = tls.as_mut()
            && *is_unsent
        {
            ready!(Pin::new(stream).poll_flush(context))?;
            *is_unsent = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Closes our sending side; the client can still read everything that was written. With TLS
    /// it is sent a `close_notify`. Returns whether that is done, as there may be no space.
    pub fn close_sending_side(&mut self, context: &mut Context<'_>) -> bool {
        // For TCP this succeeds at once; a failure means that the client is gone already.
        let closed = match self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Tls(tls) => match tls.as_mut() {
                Tls::Open { stream, is_unsent } => {
                    let closed = Pin::new(stream).poll_shutdown(context);
                    *is_unsent = closed.is_pending();
                    closed
                }
                Tls::Handshake(accept) => match accept.get_mut() {
                    Some(socket) => Pin::new(socket).poll_shutdown(context),
                    None => return true,
                },
                Tls::Broken => return true,
            },
        };
        closed.is_ready()
    }
}

impl Tls {
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self::Open { stream, is_unsent } = self else { return Err(broken()) };
        let (socket, session) = stream.get_mut();
        let socket = SockRef::from(&*socket);
        let mut send = |session: &mut ServerConnection| {
            *is_unsent = true;
            while session.wants_write() {
                session.write_tls(&mut &*socket)?;
            }
            *is_unsent = false;
            io::Result::Ok(())
        };
        // Encrypted data goes first, to make space for more.
        send(session)?;
        let taken = session.writer().write(bytes)?;
        match send(session) {
            // The data was accepted all the same.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        outbox: &Outbox,
    ) -> Poll<io::Result<usize>> {
        let Self::Open { stream, is_unsent } = self else { return Poll::Ready(Err(broken())) };
        *is_unsent = true;
        if let Some(bytes) = outbox.single() {
            return Pin::new(stream).poll_write(context, bytes);
        }
        let mut slices: Vec<IoSlice<'_>> = Vec::new();
        outbox.slices(&mut slices);
        Pin::new(stream).poll_write_vectored(context, &slices)
    }
}

fn write(socket: &TcpStream, outbox: &Outbox) -> io::Result<usize> {
    if let Some(bytes) = outbox.single() {
        return socket.try_write(bytes);
    }
    let mut slices: Vec<IoSlice<'_>> = Vec::new();
    outbox.slices(&mut slices);
    socket.try_write_vectored(&slices)
}

fn broken() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake(_) => "Handshake",
            Self::Open { .. } => "Open",
            Self::Broken => "Broken",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_needs_no_memory_on_plain_connections() {
        assert_eq!(size_of::<Stream>(), size_of::<TcpStream>());
    }
}
