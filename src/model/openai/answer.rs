//! Turns the bytes of an answer into chunks.
//!
//! Invariant: either the whole text and one `End`, or an error; a cut never looks like an end.

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

use super::calls::Calls;
use super::wire::{Choice, Event};
use super::{connection, quote};
use crate::egress::{self, Secret};
use crate::event::Usage;
use crate::model::{Chunk, Kind, ModelError};

/// The most bytes of one event.
const EVENT_LIMIT: usize = 1024 * 1024;
/// The most bytes of text and reasoning of one answer.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
/// How long the end of the HTTP body is awaited after `[DONE]`. Reading it keeps the connection for the next
/// call; servers send it in the same breath.
const GRACE: Duration = Duration::from_millis(20);
/// The most events after `[DONE]` that are read for the same purpose.
const EVENTS_AFTER_DONE: usize = 8;

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
    /// `[DONE]` came; the rest of the body is read for a moment.
    Draining { events_left: usize, grace: Option<Pin<Box<Sleep>>> },
    /// Only what is queued is left.
    Over,
}

/// The answer of a provider as a stream of chunks.
pub(super) struct Answer {
    events: SseByteStream<Counted>,
    pending: Arc<AtomicUsize>,
    key: Option<Secret>,
    phase: Phase,
    queue: VecDeque<Chunk>,
    /// Bytes of text and reasoning so far.
    kept: usize,
    /// The provider gave a reason for the end; true when it is the token limit.
    finished: Option<bool>,
    counted: bool,
    calls: Calls,
}

impl Answer {
    pub(super) fn new(body: egress::Body, key: Option<Secret>) -> Self {
        let pending = Arc::new(AtomicUsize::new(0));
        Self {
            events: SseByteStream::new(Counted { body, pending: Arc::clone(&pending) }),
            pending,
            key,
            phase: Phase::Open,
            queue: VecDeque::new(),
            kept: 0,
            finished: None,
            counted: false,
            calls: Calls::default(),
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
        if data == "[DONE]" {
            self.phase = Phase::Draining { events_left: EVENTS_AFTER_DONE, grace: None };
            return Ok(());
        }
        // The parser's own words could repeat the answer, so only the place is told.
        let event: Event = serde_json::from_str(data).map_err(|e| {
            schema(format!("the provider sent an event that is no chunk: column {}", e.column()))
        })?;
        if let Some(message) = event.failure() {
            return Err(self.failed(message));
        }
        if sse.event.as_deref() == Some("error") {
            return Err(self.failed(""));
        }
        // Proxies and benchmarks number the choices; ours is the first.
        let first = |choice: &Choice| choice.index.unwrap_or(0) == 0;
        for choice in event.choices.into_iter().flatten().filter(first) {
            self.add(choice)?;
        }
        if let Some(usage) = event.usage {
            self.counted = true;
            self.queue.push_back(Chunk::Usage(usage.into()));
        }
        Ok(())
    }

    fn add(&mut self, choice: Choice) -> Result<(), ModelError> {
        let mut delta = choice.delta.unwrap_or_default();
        let calls = delta.tool_calls.take().unwrap_or_default();
        let (reasoning, text) = delta.into_parts();
        let before = self.queue.len();
        self.queue.extend(reasoning.map(Chunk::Reasoning));
        self.queue.extend(text.map(Chunk::Text));
        self.calls.take(calls, &mut self.queue)?;
        self.kept += self.queue.range(before..).map(size).sum::<usize>();
        if self.kept > ANSWER_LIMIT {
            return Err(schema(format!("the answer is longer than {ANSWER_LIMIT} bytes")));
        }
        match choice.finish_reason.as_deref() {
            None | Some("") => {}
            Some("error") => return Err(self.failed("")),
            Some(reason) => self.finished = Some(matches!(reason, "length" | "max_tokens")),
        }
        Ok(())
    }

    fn failed(&self, message: &str) -> ModelError {
        let message = quote(message, self.key.as_ref());
        ModelError::new(Kind::ServerError, format!("the provider failed within the answer: {message}"))
    }

    /// Queues the end.
    fn end(&mut self) -> Result<(), ModelError> {
        self.phase = Phase::Over;
        self.calls.end(self.finished.unwrap_or(false))?;
        if !self.counted {
            // A call is a call, even when the provider counts no tokens.
            self.queue.push_back(Chunk::Usage(Usage { model_calls: 1, ..Usage::default() }));
        }
        self.queue.push_back(Chunk::End { truncated: self.finished.unwrap_or(false) });
        Ok(())
    }

    /// Judges the end of the bytes: without `[DONE]`, only a finish reason tells an end from a cut.
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
            _ if self.finished.is_some() => self.end(),
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
        Chunk::ToolCall { .. } | Chunk::Usage(_) | Chunk::End { .. } => 0,
    }
}

fn schema(message: impl Into<String>) -> ModelError {
    ModelError::new(Kind::Schema, message)
}

impl Stream for Answer {
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
