//! How Chat Completions tells an answer.

use std::collections::VecDeque;

use super::calls::Calls;
use super::wire::{Choice, Event};
use crate::egress::Secret;
use crate::event::Usage;
use crate::model::http::quote;
use crate::model::sse::{Protocol, Told, read};
use crate::model::{Chunk, Kind, ModelError};

/// An answer so far.
pub(super) struct Completion {
    key: Option<Secret>,
    /// There was a piece of it.
    begun: bool,
    /// The provider gave a reason for the end; true when it is the token limit.
    finished: Option<bool>,
    counted: bool,
    calls: Calls,
}

impl Completion {
    /// Begins an answer. `seed` is the call's own: ids that are made up repeat in no other call.
    pub(super) fn new(key: Option<Secret>, seed: &str) -> Self {
        Self { key, begun: false, finished: None, counted: false, calls: Calls::new(seed) }
    }

    fn add(&mut self, choice: Choice, chunks: &mut VecDeque<Chunk>) -> Result<(), ModelError> {
        self.begun = true;
        let mut delta = choice.delta.unwrap_or_default();
        let calls = delta.tool_calls.take().unwrap_or_default();
        let (reasoning, text) = delta.into_parts();
        chunks.extend(reasoning.map(Chunk::Reasoning));
        chunks.extend(text.map(Chunk::Text));
        self.calls.take(calls, chunks)?;
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
}

impl Protocol for Completion {
    fn take(
        &mut self,
        name: Option<&str>,
        data: &str,
        chunks: &mut VecDeque<Chunk>,
    ) -> Result<Told, ModelError> {
        if data == "[DONE]" {
            return Ok(Told::Last);
        }
        let event: Event = read(data)?;
        if let Some(message) = event.failure() {
            return Err(self.failed(message));
        }
        if name == Some("error") {
            return Err(self.failed(""));
        }
        // Proxies and benchmarks number the choices; ours is the first.
        let first = |choice: &Choice| choice.index.unwrap_or(0) == 0;
        for choice in event.choices.into_iter().flatten().filter(first) {
            self.add(choice, chunks)?;
        }
        if let Some(usage) = event.usage {
            self.counted = true;
            chunks.push_back(Chunk::Usage(usage.into()));
        }
        Ok(Told::More)
    }

    fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    fn end(&mut self, chunks: &mut VecDeque<Chunk>) -> Result<(), ModelError> {
        if !self.begun {
            return Err(ModelError::new(Kind::ServerError, "the provider ended the answer before it began"));
        }
        self.calls.end(self.finished.unwrap_or(false))?;
        if !self.counted {
            // A call is a call, even when the provider counts no tokens.
            chunks.push_back(Chunk::Usage(Usage { model_calls: 1, ..Usage::default() }));
        }
        chunks.push_back(Chunk::End { truncated: self.finished.unwrap_or(false) });
        Ok(())
    }
}
