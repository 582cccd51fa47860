//! Ends an answer that is silent for too long; every provider wraps its stream in it.
//!
//! Invariant: only the provider's silence counts. While nobody asks for the next chunk, no clock runs but
//! the total one, and a chunk that is there is handed out even when its time is over.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use tokio::time::{Instant, Sleep};

use super::{Chunk, Kind, ModelError, Timeouts};

/// Which silence was too long.
#[derive(Debug, Clone, Copy)]
enum Silence {
    First,
    Idle,
    Total,
}

/// Builds the error of a silence.
fn timeout(silence: Silence, limit: Duration) -> ModelError {
    let what = match silence {
        Silence::First => "the provider sent no first token within",
        Silence::Idle => "the provider was silent for",
        Silence::Total => "the answer was not whole after",
    };
    ModelError::new(Kind::Timeout, format!("{what} {} s", limit.as_secs_f64()))
}

/// The clock of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    timeouts: Timeouts,
}

impl Clock {
    /// Starts the clock; call it before the request is sent.
    pub(super) fn start(timeouts: Timeouts) -> Self {
        Self { start: Instant::now(), timeouts }
    }

    fn deadline(&self, waiting: Option<Instant>) -> (Instant, Silence, Duration) {
        let Timeouts { first, idle, total } = self.timeouts;
        let end = (self.start + total, Silence::Total, total);
        let next = match waiting {
            None => (self.start + first, Silence::First, first),
            Some(since) => (since + idle, Silence::Idle, idle),
        };
        if next.0 < end.0 { next } else { end }
    }

    /// Waits for what comes before the first chunk, such as the answer's head.
    pub(super) async fn before_first<F: Future>(&self, future: F) -> Result<F::Output, ModelError> {
        let (at, silence, limit) = self.deadline(None);
        tokio::time::timeout_at(at, future).await.map_err(|_| timeout(silence, limit))
    }

    /// Watches `chunks`.
    pub(super) fn watch<S: Stream<Item = Result<Chunk, ModelError>> + Unpin>(self, chunks: S) -> Timed<S> {
        let sleep = Box::pin(tokio::time::sleep_until(self.deadline(None).0));
        Timed { chunks: Some(chunks), clock: self, begun: false, waiting: None, sleep }
    }
}

/// A watched answer. It drops the stream inside as soon as it is over.
pub(super) struct Timed<S> {
    chunks: Option<S>,
    clock: Clock,
    begun: bool,
    /// Since when the consumer waits for the next chunk.
    waiting: Option<Instant>,
    /// Fires no later than the deadline. It is set anew only when it fires, so a token costs no timer.
    sleep: Pin<Box<Sleep>>,
}

impl<S: Stream<Item = Result<Chunk, ModelError>> + Unpin> Stream for Timed<S> {
    type Item = Result<Chunk, ModelError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let Some(chunks) = &mut this.chunks else { return Poll::Ready(None) };
        if let Poll::Ready(item) = chunks.poll_next_unpin(cx) {
            (this.begun, this.waiting) = (true, None);
            if matches!(item, None | Some(Err(_) | Ok(Chunk::End { .. }))) {
                this.chunks = None;
            }
            return Poll::Ready(item);
        }
        if this.begun && this.waiting.is_none() {
            this.waiting = Some(Instant::now());
        }
        let (at, silence, limit) = this.clock.deadline(this.waiting);
        if at < this.sleep.deadline() {
            this.sleep.as_mut().reset(at);
        }
        while this.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= at {
                this.chunks = None;
                return Poll::Ready(Some(Err(timeout(silence, limit))));
            }
            this.sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const LONG: Duration = Duration::from_secs(1000);
    const SHORT: Duration = Duration::from_millis(5);

    /// A stream of `n` chunks and then silence.
    fn silent_after(n: usize) -> impl Stream<Item = Result<Chunk, ModelError>> + Unpin {
        stream::iter((0..n).map(|i| Ok(Chunk::Text(i.to_string())))).chain(stream::pending())
    }

    async fn last(timeouts: Timeouts, n: usize) -> (usize, String) {
        let all: Vec<_> = Clock::start(timeouts).watch(silent_after(n)).collect().await;
        (all.len() - 1, all.last().unwrap().as_ref().unwrap_err().message.clone())
    }

    #[tokio::test]
    async fn each_silence_has_its_own_limit_and_name() {
        let first = Timeouts { first: SHORT, idle: LONG, total: LONG };
        assert_eq!(last(first, 0).await, (0, "the provider sent no first token within 0.005 s".to_owned()));
        let idle = Timeouts { first: LONG, idle: SHORT, total: LONG };
        assert_eq!(last(idle, 2).await, (2, "the provider was silent for 0.005 s".to_owned()));
        let total = Timeouts { first: LONG, idle: LONG, total: SHORT };
        assert_eq!(last(total, 1).await, (1, "the answer was not whole after 0.005 s".to_owned()));
        assert_eq!(last(total, 0).await.0, 0);
    }

    #[tokio::test]
    async fn a_slow_consumer_is_not_a_silent_provider() {
        let timeouts = Timeouts { first: SHORT, idle: SHORT, total: LONG };
        let (send, receive) = tokio::sync::mpsc::channel(8);
        let chunks = Box::pin(stream::unfold(receive, |mut receive| async {
            receive.recv().await.map(|chunk| (Ok(chunk), receive))
        }));
        let mut watched = Clock::start(timeouts).watch(chunks);
        for _ in 0..3 {
            send.send(Chunk::Text(String::new())).await.unwrap();
            std::thread::sleep(3 * SHORT);
            assert!(watched.next().await.unwrap().is_ok());
        }
    }

    #[tokio::test]
    async fn nothing_follows_the_end() {
        let chunks = stream::iter([Ok(Chunk::End { truncated: false }), Ok(Chunk::Text(String::new()))]);
        assert_eq!(Clock::start(Timeouts::default()).watch(chunks).count().await, 1);
    }
}
