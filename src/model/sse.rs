//! Turns the bytes of an answer into chunks, by the rules of a protocol.
//!
//! Invariant: either the whole answer and one `End`, or an error; a cut never looks like an end.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use sse_stream::{Sse, SseByteStream};
use tokio::time::Sleep;

use super::http::connection;
use super::{Chunk, Kind, ModelError};
use crate::egress;

/// The most bytes of one event.
const EVENT_LIMIT: usize = 1024 * 1024;
/// The most bytes of text and reasoning of one answer.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
/// How long the end of the HTTP body is awaited after the last event. Reading it keeps the connection for the next
/// call; servers send it in the same breath.
const GRACE: Duration = Duration::from_millis(20);
/// The most events after the last one that are read for the same purpose.
const EVENTS_AFTER_LAST: usize = 8;

/// How a provider tells an answer.
pub(super) trait Protocol: Send + Unpin + 'static {
    /// Takes one event in, which is not empty. What it says goes to the chunks.
    fn take(
        &mut self,
        name: Option<&str>,
        data: &str,
        chunks: &mut VecDeque<Chunk>,
    ) -> Result<Told, ModelError>;

    /// Says whether the answer may end here though its last event is missing.
    fn is_finished(&self) -> bool;

    /// Puts what is left and `End` to the chunks.
    fn end(&mut self, chunks: &mut VecDeque<Chunk>) -> Result<(), ModelError>;
}

/// What follows an event.
pub(super) enum Told {
    /// More is to come.
    More,
    /// That was the last one.
    Last,
}

/// Why the bytes stopped.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("an event is longer than {EVENT_LIMIT} bytes")]
    TooLong,
    #[error(transparent)]
    Broken(egress::Error),
}

/// The body, counting what came since the last event: the parser itself would buffer without end.
struct Counted {
    body: egress::Body,
    pending: Arc<AtomicUsize>,
}

impl Stream for Counted {
    type Item = Result<Bytes, Stop>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.pending.load(Ordering::Relaxed) > EVENT_LIMIT {
            return Poll::Ready(Some(Err(Stop::TooLong)));
        }
        let item = ready!(self.body.poll_next_unpin(cx));
        if let Some(Ok(bytes)) = &item {
            self.pending.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        Poll::Ready(item.map(|item| item.map_err(Stop::Broken)))
    }
}

/// Where the answer stands.
enum Phase {
    /// More is to come.
    Open,
    /// The last event came; the rest of the body is read for a moment.
    Draining { events_left: usize, grace: Option<Pin<Box<Sleep>>> },
    /// Only what is queued is left.
    Over,
}

/// The answer of a provider as a stream of chunks.
pub(super) struct Answer<P> {
    events: SseByteStream<Counted>,
    pending: Arc<AtomicUsize>,
    protocol: P,
    phase: Phase,
    queue: VecDeque<Chunk>,
    /// Bytes of text and reasoning so far.
    kept: usize,
}

impl<P: Protocol> Answer<P> {
    pub(super) fn new(body: egress::Body, protocol: P) -> Self {
        let pending = Arc::new(AtomicUsize::new(0));
        Self {
            events: SseByteStream::new(Counted { body, pending: Arc::clone(&pending) }),
            pending,
            protocol,
            phase: Phase::Open,
            queue: VecDeque::new(),
            kept: 0,
        }
    }

    /// Takes one event in.
    fn take(&mut self, sse: &Sse) -> Result<(), ModelError> {
        self.pending.store(0, Ordering::Relaxed);
        let data = sse.data.as_deref().unwrap_or_default().trim_ascii();
        if data.is_empty() {
            return Ok(());
        }
        if data.len() > EVENT_LIMIT {
            return Err(schema(Stop::TooLong.to_string()));
        }
        let before = self.queue.len();
        let told = self.protocol.take(sse.event.as_deref(), data, &mut self.queue)?;
        self.kept += self.queue.range(before..).map(size).sum::<usize>();
        if self.kept > ANSWER_LIMIT {
            return Err(schema(format!("the answer is longer than {ANSWER_LIMIT} bytes")));
        }
        if let Told::Last = told {
            self.phase = Phase::Draining { events_left: EVENTS_AFTER_LAST, grace: None };
        }
        Ok(())
    }

    /// Queues the end.
    fn end(&mut self) -> Result<(), ModelError> {
        self.phase = Phase::Over;
        self.protocol.end(&mut self.queue)
    }

    /// Judges the end of the bytes: without the last event, only a reason for the end tells it from a cut.
    fn stopped(&mut self, error: Option<sse_stream::Error>) -> Result<(), ModelError> {
        let error = match error {
            Some(sse_stream::Error::Body(error)) => match error.downcast::<Stop>() {
                Ok(stop) => Some(*stop),
                Err(other) => return Err(ModelError::new(Kind::Connection, other.to_string())),
            },
            Some(_) => return Err(schema("the provider sent bytes that are not UTF-8")),
            None => None,
        };
        match error {
            Some(Stop::TooLong) => Err(schema(Stop::TooLong.to_string())),
            _ if self.protocol.is_finished() => self.end(),
            Some(Stop::Broken(error)) => Err(connection(&error)),
            None => {
                Err(ModelError::new(Kind::Connection, "the provider closed the connection within the answer"))
            }
        }
    }
}

/// Returns how much of an answer a chunk is.
fn size(chunk: &Chunk) -> usize {
    match chunk {
        Chunk::Text(text) | Chunk::Reasoning(text) | Chunk::ToolArgs { delta: text, .. } => text.len(),
        Chunk::ToolCall { .. } | Chunk::Kept(_) | Chunk::Usage(_) | Chunk::End { .. } => 0,
    }
}

/// Reads an event. The parser's own words could repeat the answer, so only the place is told.
pub(super) fn read<'a, T: serde::Deserialize<'a>>(data: &'a str) -> Result<T, ModelError> {
    serde_json::from_str(data)
        .map_err(|e| schema(format!("the provider sent an event that is no chunk: column {}", e.column())))
}

/// Makes an error of an answer that does not make sense.
pub(super) fn schema(message: impl Into<String>) -> ModelError {
    ModelError::new(Kind::Schema, message)
}

impl<P: Protocol> Stream for Answer<P> {
    type Item = Result<Chunk, ModelError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(chunk) = this.queue.pop_front() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            let outcome = match &mut this.phase {
                Phase::Over => return Poll::Ready(None),
                Phase::Open => match ready!(this.events.poll_next_unpin(cx)) {
                    Some(Ok(sse)) => this.take(&sse),
                    Some(Err(error)) => this.stopped(Some(error)),
                    None => this.stopped(None),
                },
                Phase::Draining { events_left, grace } => match this.events.poll_next_unpin(cx) {
                    Poll::Ready(Some(Ok(_))) if *events_left > 0 => {
                        *events_left -= 1;
                        continue;
                    }
                    Poll::Ready(_) => this.end(),
                    Poll::Pending => {
                        let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(GRACE)));
                        ready!(grace.as_mut().poll(cx));
                        this.end()
                    }
                },
            };
            if let Err(error) = outcome {
                this.phase = Phase::Over;
                // The text before an error in the same event was queued first and still counts for nothing.
                this.queue.clear();
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}
