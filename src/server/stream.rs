//! What a connection's bytes go through: the bare socket, or TLS over it. Both
//! are polled by the one loop with the connection's bell; TLS costs nothing where
//! it is not spoken.

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

use super::outbox::Outbox;

/// The first byte of whoever speaks TLS, which begins no line of anybody else: a
/// handshake record.
const TLS_FIRST_BYTE: u8 = 0x16;

/// How much TLS may keep that is encrypted and not sent yet, in bytes; what waits
/// beyond that waits in the outbox, where it is counted.
const ENCRYPTED_MAX: usize = 16 << 10;

/// See the head of this file.
#[derive(Debug)]
pub enum Stream {
    /// As it comes.
    Plain(TcpStream),
    /// Encrypted, or about to be.
    Tls(Box<Tls>),
}

/// How far TLS has come.
pub enum Tls {
    /// A handshake is going on.
    Handshake(Accept<TcpStream>),
    /// Talking.
    Open {
        /// Both directions.
        stream: TlsStream<TcpStream>,
        /// Whether it keeps something encrypted that is not sent yet.
        is_unsent: bool,
    },
    /// The handshake failed, and took the socket with it.
    Broken,
}

/// How a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// For all to read.
    Plain,
    /// Encrypted.
    Tls,
}

impl Stream {
    /// Goes on finding out how the peer speaks, where TLS is offered: its first
    /// byte tells, which is left where it is.
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

    /// Whether nothing can be said yet, since a handshake is not done.
    #[must_use]
    pub fn is_shaking_hands(&self) -> bool {
        matches!(self, Self::Tls(tls) if !matches!(tls.as_ref(), Tls::Open { .. }))
    }

    /// Reads what is there.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => match tls.as_mut() {
                Tls::Open { stream, .. } => return Pin::new(stream).poll_read(context, buffer),
                // Only to throw it away.
                Tls::Handshake(accept) => match accept.get_mut() {
                    Some(socket) => socket,
                    None => return Poll::Ready(Err(broken())),
                },
                Tls::Broken => return Poll::Ready(Err(broken())),
            },
        };
        Pin::new(socket).poll_read(context, buffer)
    }

    /// Writes of what waits as much as one call takes.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        outbox: &Outbox,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => loop {
                match write(socket, outbox) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // Ready all the same: it had room again in between.
                        ready!(socket.poll_write_ready(context))?;
                    }
                    result => return Poll::Ready(result),
                }
            },
            Self::Tls(tls) => tls.poll_write(context, outbox),
        }
    }

    /// The socket under it, unless a handshake that failed took it.
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

    /// Writes of what waits as much as the system takes now, though it may not have
    /// told of any room. Who takes nothing is `WouldBlock`.
    ///
    /// # Errors
    /// That, or the connection is broken.
    pub fn write_now(&mut self, outbox: &Outbox) -> io::Result<usize> {
        let bytes = outbox.first().unwrap_or_default();
        match self {
            Self::Plain(socket) => SockRef::from(&*socket).send(bytes),
            Self::Tls(tls) => tls.write_now(bytes),
        }
    }

    /// Whether it has taken what is not sent yet.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        matches!(self, Self::Tls(tls) if matches!(tls.as_ref(), Tls::Open { is_unsent: true, .. }))
    }

    /// Sends what it has taken.
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

    /// Closes our sending side: the peer reads to the end of what was written, and
    /// with TLS is told that it is the end. Tells whether that is done: what TLS says at
    /// the end may find no room.
    pub fn close_sending_side(&mut self, context: &mut Context<'_>) -> bool {
        // For TCP this is done at once; if it fails the peer is gone already.
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
        // What is encrypted already goes first, to make room for more.
        send(session)?;
        let taken = session.writer().write(bytes)?;
        match send(session) {
            // It is taken all the same.
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
    fn tls_takes_no_room_where_it_is_not_spoken() {
        assert_eq!(size_of::<Stream>(), size_of::<TcpStream>());
    }
}
