//! Connections do not stay for ever.
//!
//! Invariant: a peer that takes nothing, or that never asks, holds no connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long the first request's head may take.
const HEAD: Duration = Duration::from_secs(30);
/// How long a peer may take nothing of what there is for it.
const STALL: Duration = Duration::from_secs(30);

/// A connection with two deadlines.
pub(super) struct Connection<S> {
    stream: S,
    /// Runs until the first head is whole.
    head: Option<Pin<Box<Sleep>>>,
    /// How much of `\r\n\r\n` was seen at the end of what was read.
    matched: usize,
    /// Runs while the peer takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> Connection<S> {
    /// Sets the deadlines of a new connection.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, head: Some(Box::pin(tokio::time::sleep(HEAD))), matched: 0, stall: None }
    }

    /// Looks for the end of the first head.
    fn look(&mut self, bytes: &[u8]) {
        const END: &[u8] = b"\r\n\r\n";
        for &byte in bytes {
            self.matched = match (byte, self.matched) {
                (b'\r', 2) => 3,
                (b'\r', _) => 1,
                (b'\n', at @ (1 | 3)) => at + 1,
                _ => 0,
            };
            if self.matched == END.len() {
                self.head = None;
                return;
            }
        }
    }

    /// Says that a peer was too slow once its time is over.
    fn expired<T>(timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }

    fn wrote<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(result) => {
                self.stall = None;
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
                Self::expired(&mut self.stall, cx)
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if this.head.is_some() {
                    this.look(&buf.filled()[before..]);
                }
                Poll::Ready(result)
            }
            Poll::Pending => Self::expired(&mut this.head, cx),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(cx, poll)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_flush(cx);
        this.wrote(cx, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_is_cut_off_and_a_whole_one_may_wait() {
        let (mut client, server) = duplex(64);
        let mut slow = Connection::new(server);
        let began = Instant::now();
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(slow.read(&mut buffer).await.unwrap(), 16);
        let error = slow.read(&mut buffer).await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed()), (io::ErrorKind::TimedOut, HEAD));

        let (mut client, server) = duplex(64);
        let mut whole = Connection::new(server);
        for piece in ["GET / HTTP/1.1\r", "\n\r", "\n"] {
            client.write_all(piece.as_bytes()).await.unwrap();
            assert_eq!(whole.read(&mut buffer).await.unwrap(), piece.len());
        }
        let more = tokio::time::timeout(HEAD * 10, whole.read(&mut buffer)).await;
        assert!(more.is_err(), "a connection that asked may wait for its answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_cut_off_and_a_slow_one_is_not() {
        let (mut client, server) = duplex(8);
        let mut connection = Connection::new(server);
        connection.write_all(b"12345678").await.unwrap();
        let read = async {
            tokio::time::sleep(STALL / 2).await;
            client.read_exact(&mut [0; 8]).await.unwrap();
        };
        let (written, ()) = tokio::join!(connection.write_all(b"12345678"), read);
        written.unwrap();
        let error = connection.write_all(b"9").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
