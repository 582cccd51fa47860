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

use super::wire::{Choice, Event, WireCall};
use super::{connection, quote};
use crate::egress::{self, Secret};
use crate::event::Usage;
use crate::model::{Chunk, Kind, ModelError};

/// The most bytes of one event.
const EVENT_LIMIT: usize = 1024 * 1024;
/// The most bytes of text and reasoning of one answer.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;
/// The most calls of tools in one answer.
const CALL_LIMIT: usize = 128;
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
    calls: Vec<Call>,
}

/// A call of a tool that has begun.
struct Call {
    /// What the server counts it by.
    index: Option<u64>,
    id: Option<String>,
    /// Arguments that came before the name.
    early: String,
    told: bool,
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
            calls: Vec::new(),
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
        let calls = delta.tool_calls.take();
        let (reasoning, text) = delta.into_parts();
        self.kept += reasoning.as_ref().map_or(0, String::len) + text.as_ref().map_or(0, String::len);
        if self.kept > ANSWER_LIMIT {
            return Err(schema(format!("the answer is longer than {ANSWER_LIMIT} bytes")));
        }
        self.queue.extend(reasoning.map(Chunk::Reasoning));
        self.queue.extend(text.map(Chunk::Text));
        for call in calls.into_iter().flatten() {
            self.call(call)?;
        }
        match choice.finish_reason.as_deref() {
            None | Some("") => {}
            Some("error") => return Err(self.failed("")),
            Some(reason) => self.finished = Some(matches!(reason, "length" | "max_tokens")),
        }
        Ok(())
    }

    /// Takes a piece of a call. Servers count calls by `index`; those that do not, or count wrong, give each an id, and
    /// a piece with neither belongs to the last call.
    fn call(&mut self, piece: WireCall) -> Result<(), ModelError> {
        let index = piece.index;
        let (id, name, arguments) = piece.into_parts();
        self.kept += arguments.as_ref().map_or(0, String::len);
        if self.kept > ANSWER_LIMIT || self.calls.len() > CALL_LIMIT {
            return Err(schema("the provider's calls of tools are too many or too long"));
        }
        let other = |call: &Call| id.is_some() && call.id.is_some() && call.id != id;
        let known = match (index, &id) {
            (Some(_), _) => self.calls.iter().rposition(|call| call.index == index && !other(call)),
            (None, Some(_)) => self.calls.iter().rposition(|call| call.id == id),
            (None, None) if name.is_some() && self.calls.last().is_some_and(|call| call.told) => None,
            (None, None) => self.calls.len().checked_sub(1),
        };
        let at = known.unwrap_or_else(|| {
            self.calls.push(Call { index, id: None, early: String::new(), told: false });
            self.calls.len() - 1
        });
        let Some(call) = self.calls.get_mut(at) else { return Ok(()) };
        call.id = call.id.take().or(id);
        if let Some(name) = name.filter(|_| !call.told) {
            call.told = true;
            let id = call.id.get_or_insert_with(|| format!("call_{at}")).clone();
            self.queue.push_back(Chunk::ToolCall { index: at, id, name });
            let early = std::mem::take(&mut call.early);
            if !early.is_empty() {
                self.queue.push_back(Chunk::ToolArgs { index: at, delta: early });
            }
        }
        if let Some(delta) = arguments {
            if call.told {
                self.queue.push_back(Chunk::ToolArgs { index: at, delta });
            } else {
                call.early.push_str(&delta);
            }
        }
        Ok(())
    }

    fn failed(&self, message: &str) -> ModelError {
        let message = quote(message, self.key.as_ref());
        ModelError::new(Kind::ServerError, format!("the provider failed within the answer: {message}"))
    }

    /// Queues the end.
    fn end(&mut self) {
        self.phase = Phase::Over;
        if !self.counted {
            // A call is a call, even when the provider counts no tokens.
            self.queue.push_back(Chunk::Usage(Usage { model_calls: 1, ..Usage::default() }));
        }
        self.queue.push_back(Chunk::End { truncated: self.finished.unwrap_or(false) });
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
            _ if self.finished.is_some() => {
                self.end();
                Ok(())
            }
            Some(Stop::Broken(error)) => Err(connection(&error)),
            None => {
                Err(ModelError::new(Kind::Connection, "the provider closed the connection within the answer"))
            }
        }
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
                    Poll::Ready(_) => {
                        this.end();
                        continue;
                    }
                    Poll::Pending => {
                        let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(GRACE)));
                        ready!(grace.as_mut().poll(cx));
                        this.end();
                        continue;
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
