//! Sockets that send tokens at once and tell when the client hangs up.
//!
//! poem 3.1.12 needs help with both: it leaves Nagle's algorithm on, and after a client is gone it polls the
//! connection once more, which keeps an idle body alive until its next write.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use poem::Addr;
use poem::http::uri::Scheme;
use poem::listener::Acceptor;
use poem::web::{LocalAddr, RemoteAddr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What a call knows of its socket.
#[derive(Debug, Clone, Default)]
pub(crate) struct Link {
    closed: CancellationToken,
    broken: Arc<AtomicBool>,
}

impl Link {
    /// Waits until the client has hung up.
    pub(crate) fn closed(&self) -> WaitForCancellationFutureOwned {
        self.closed.clone().cancelled_owned()
    }

    /// Lets nothing more go out. A failing body alone does not: polled once more, poem's connection ends the
    /// answer properly.
    pub(crate) fn cut(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

/// The open sockets by the client's address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sockets(Arc<Mutex<HashMap<SocketAddr, Link>>>);

impl Sockets {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<SocketAddr, Link>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Finds the socket of the client at `address`.
    pub(crate) fn link(&self, address: &RemoteAddr) -> Link {
        let found = match &address.0 {
            Addr::SocketAddr(address) => self.with(|sockets| sockets.get(address).cloned()),
            _ => None,
        };
        found.unwrap_or_else(|| {
            let gone = Link::default();
            gone.closed.cancel();
            gone
        })
    }
}

/// Accepts watched sockets.
pub(crate) struct Watched {
    listener: TcpListener,
    local: SocketAddr,
    sockets: Sockets,
}

impl Watched {
    pub(crate) fn new(listener: TcpListener, sockets: Sockets) -> io::Result<Self> {
        Ok(Self { local: listener.local_addr()?, listener, sockets })
    }
}

impl Acceptor for Watched {
    type Io = Socket;

    fn local_addr(&self) -> Vec<LocalAddr> {
        vec![LocalAddr(self.local.into())]
    }

    async fn accept(&mut self) -> io::Result<(Socket, LocalAddr, RemoteAddr, Scheme)> {
        let (stream, peer) = self.listener.accept().await?;
        stream.set_nodelay(true)?;
        let link = Link::default();
        self.sockets.with(|sockets| sockets.insert(peer, link.clone()));
        let socket = Socket { stream, peer, link, sockets: self.sockets.clone() };
        Ok((socket, LocalAddr(self.local.into()), RemoteAddr(peer.into()), Scheme::HTTP))
    }
}

/// A socket that notices its end.
pub(crate) struct Socket {
    stream: TcpStream,
    peer: SocketAddr,
    link: Link,
    sockets: Sockets,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.link.closed.cancel();
        self.sockets.with(|sockets| sockets.remove(&self.peer));
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let ended = match &polled {
            Poll::Ready(Ok(())) => room > 0 && buf.filled().len() == before,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.link.closed.cancel();
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.link.broken.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
