//! How Chat Completions tells an answer.

use std::collections::VecDeque;

use serde_json::{Value as Json, json};

use super::calls::Calls;
use super::wire::{Choice, Event};
use crate::egress::Secret;
use crate::event::Usage;
use crate::model::http::quote;
use crate::model::sse::{Protocol, Told, read, schema};
use crate::model::{Chunk, Kind, ModelError};

/// The most bytes of thoughts that are kept to be sent back.
const THOUGHTS_LIMIT: usize = 4 * 1024 * 1024;

/// An answer so far.
pub(super) struct Completion {
    key: Option<Secret>,
    /// There was a piece of it.
    begun: bool,
    /// The provider gave a reason for the end; true when it is the token limit.
    finished: Option<bool>,
    counted: bool,
    calls: Calls,
    /// The model, by whose name what it wants back is marked.
    model: String,
    /// What it thought, as far as it wants that back.
    thoughts: String,
    /// The tool whose arguments are the answer, and which of the calls it is.
    forced: Option<String>,
    answer: Option<usize>,
    refused: bool,
}

impl Completion {
    /// Begins an answer. `seed` is the call's own: ids that are made up repeat in no other call. `forced` is the tool that
    /// the model was told to answer by.
    pub(super) fn new(model: &str, key: Option<Secret>, seed: &str, forced: Option<String>) -> Self {
        Self {
            key,
            begun: false,
            finished: None,
            counted: false,
            calls: Calls::new(seed),
            model: model.to_owned(),
            thoughts: String::new(),
            forced,
            answer: None,
            refused: false,
        }
    }

    fn add(&mut self, choice: Choice, chunks: &mut VecDeque<Chunk>) -> Result<(), ModelError> {
        self.begun = true;
        let mut delta = choice.delta.unwrap_or_default();
        let calls = delta.tool_calls.take().unwrap_or_default();
        self.refused |= delta.refusal.take().is_some_and(|why| !why.0.is_empty());
        if self.thoughts.len() + delta.reasoning_content().len() > THOUGHTS_LIMIT {
            return Err(schema("the provider's thoughts are longer than 4 MiB"));
        }
        self.thoughts.push_str(delta.reasoning_content());
        let (reasoning, text) = delta.into_parts();
        chunks.extend(reasoning.map(Chunk::Reasoning));
        chunks.extend(text.map(Chunk::Text));
        let mut pieces = VecDeque::new();
        self.calls.take(calls, &mut pieces)?;
        for piece in pieces {
            chunks.extend(self.own(piece));
        }
        match choice.finish_reason.as_deref() {
            None | Some("") => {}
            Some("error") => return Err(self.failed("")),
            // What was said before is not an answer.
            Some("content_filter") => return Err(schema("the provider's filter stopped the answer")),
            Some(reason) => self.finished = Some(matches!(reason, "length" | "max_tokens")),
        }
        Ok(())
    }

    /// Takes the call that is the answer for a text.
    fn own(&mut self, piece: Chunk) -> Option<Chunk> {
        match piece {
            Chunk::ToolCall { index, name, .. }
                if self.answer.is_none() && self.forced.as_ref() == Some(&name) =>
            {
                self.answer = Some(index);
                None
            }
            Chunk::ToolArgs { index, delta } if self.answer == Some(index) => Some(Chunk::Text(delta)),
            // No other tool is offered, and there is one answer.
            Chunk::ToolCall { .. } | Chunk::ToolArgs { .. } if self.forced.is_some() => None,
            other => Some(other),
        }
    }

    /// Returns what the provider wants back with calls of tools.
    fn kept(&mut self) -> Option<Json> {
        let calls = self.calls.extras();
        let thinks = !self.thoughts.is_empty();
        if self.calls.is_empty() || self.answer.is_some() || !(thinks || calls.iter().any(Option::is_some)) {
            return None;
        }
        let mut kept = json!({"openai": self.model, "calls": calls});
        if thinks {
            kept["reasoning_content"] = json!(std::mem::take(&mut self.thoughts));
        }
        Some(kept)
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
        if self.refused {
            return Err(schema("the provider refused to answer"));
        }
        self.calls.end(self.finished.unwrap_or(false))?;
        chunks.extend(self.kept().map(Chunk::Kept));
        if !self.counted {
            // A call is a call, even when the provider counts no tokens.
            chunks.push_back(Chunk::Usage(Usage { model_calls: 1, ..Usage::default() }));
        }
        chunks.push_back(Chunk::End { truncated: self.finished.unwrap_or(false) });
        Ok(())
    }
}
