//! How the Messages API tells an answer: blocks that begin, grow and end.
//!
//! Invariant: what was thought goes back exactly as it came, in its place among the other blocks, or not at all.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value as Json, json};

use super::wire::{BlockStart, Event, WireUsage};
use crate::egress::Secret;
use crate::model::http::quote;
use crate::model::ids::Ids;
use crate::model::sse::{Protocol, Told, read, schema};
use crate::model::{Chunk, Kind, ModelError};

/// The most blocks of an answer.
const BLOCK_LIMIT: usize = 4096;
/// The most calls of tools in one answer.
const CALL_LIMIT: usize = 128;
/// The most bytes of the arguments of one call.
const ARGUMENTS_LIMIT: usize = 4 * 1024 * 1024;
/// The most bytes of thoughts that are sent back: they are stored with every checkpoint between.
const KEPT_LIMIT: usize = 1024 * 1024;

/// An answer so far.
pub(super) struct Message {
    model: String,
    key: Option<Secret>,
    ids: Ids,
    /// The tool whose arguments are the answer.
    forced: Option<String>,
    blocks: BTreeMap<u64, Block>,
    calls: usize,
    usage: WireUsage,
    /// The provider gave a reason for the end; true when it is the token limit.
    finished: Option<bool>,
}

/// A block that has begun.
enum Block {
    Text(String),
    Thinking {
        thinking: String,
        signature: String,
    },
    /// Thoughts that nobody may read.
    Redacted(String),
    Call {
        index: usize,
        given: Option<Json>,
        bytes: usize,
    },
    /// The answer in the disguise of a call.
    Forced {
        given: Option<Json>,
        bytes: usize,
    },
    /// Of another kind.
    Other,
}

impl Message {
    /// Begins an answer. `seed` is the call's own: ids that are made up repeat in no other call.
    pub(super) fn new(model: &str, key: Option<Secret>, seed: &str, forced: Option<String>) -> Self {
        Self {
            model: model.to_owned(),
            key,
            ids: Ids::new(seed),
            forced,
            blocks: BTreeMap::new(),
            calls: 0,
            usage: WireUsage::default(),
            finished: None,
        }
    }

    fn begin(
        &mut self,
        index: u64,
        start: BlockStart,
        chunks: &mut VecDeque<Chunk>,
    ) -> Result<(), ModelError> {
        if self.blocks.len() == BLOCK_LIMIT {
            return Err(schema(format!("the answer has more than {BLOCK_LIMIT} blocks")));
        }
        let given = start.input.filter(|input| input.as_object().is_some_and(|input| !input.is_empty()));
        let block = match start.kind.as_str() {
            "text" => {
                if !start.text.0.is_empty() {
                    chunks.push_back(Chunk::Text(start.text.0.clone()));
                }
                Block::Text(start.text.0)
            }
            "thinking" => {
                if !start.thinking.0.is_empty() {
                    chunks.push_back(Chunk::Reasoning(start.thinking.0.clone()));
                }
                Block::Thinking { thinking: start.thinking.0, signature: start.signature.0 }
            }
            "redacted_thinking" => {
                let before: usize = self.blocks.values().map(Block::size).sum();
                if before + start.data.0.len() > ARGUMENTS_LIMIT {
                    return Err(schema("the provider's hidden thoughts are longer than 4 MiB"));
                }
                Block::Redacted(start.data.0)
            }
            "tool_use" if self.forced.as_ref().is_some_and(|name| *name == start.name.0) => {
                Block::Forced { given, bytes: 0 }
            }
            "tool_use" => {
                if start.name.0.is_empty() {
                    return Err(schema("the provider calls a tool without its name"));
                }
                if self.calls == CALL_LIMIT {
                    return Err(schema(format!("the provider calls more than {CALL_LIMIT} tools at once")));
                }
                let index = self.calls;
                self.calls += 1;
                let id = self.ids.own(Some(&start.id.0));
                chunks.push_back(Chunk::ToolCall { index, id, name: start.name.0 });
                Block::Call { index, given, bytes: 0 }
            }
            _ => Block::Other,
        };
        // A block that begins twice is none.
        match self.blocks.insert(index, block) {
            None => Ok(()),
            Some(_) => Err(schema("the provider begins a block twice")),
        }
    }

    fn grow(
        &mut self,
        index: u64,
        delta: super::wire::Delta,
        chunks: &mut VecDeque<Chunk>,
    ) -> Result<(), ModelError> {
        let Some(block) = self.blocks.get_mut(&index) else {
            return Err(schema("the provider adds to a block that has not begun"));
        };
        match (block, delta.kind.as_str()) {
            (Block::Text(text), "text_delta") => {
                text.push_str(&delta.text.0);
                chunks.push_back(Chunk::Text(delta.text.0));
            }
            (Block::Thinking { thinking, .. }, "thinking_delta") => {
                thinking.push_str(&delta.thinking.0);
                chunks.push_back(Chunk::Reasoning(delta.thinking.0));
            }
            (Block::Thinking { signature, .. }, "signature_delta") => {
                signature.push_str(&delta.signature.0);
                if signature.len() > KEPT_LIMIT {
                    return Err(schema("the provider signs a thought with more than 1 MiB"));
                }
            }
            (Block::Call { index, bytes, .. }, "input_json_delta") => {
                *bytes += delta.partial_json.0.len();
                if *bytes > ARGUMENTS_LIMIT {
                    return Err(schema("the provider's call of a tool is longer than 4 MiB"));
                }
                if !delta.partial_json.0.is_empty() {
                    chunks.push_back(Chunk::ToolArgs { index: *index, delta: delta.partial_json.0 });
                }
            }
            (Block::Forced { bytes, .. }, "input_json_delta") => {
                *bytes += delta.partial_json.0.len();
                chunks.push_back(Chunk::Text(delta.partial_json.0));
            }
            // Citations, and what later versions add.
            _ => {}
        }
        Ok(())
    }

    /// Ends a block. Servers that do not stream arguments send them with the beginning.
    fn close(&mut self, index: u64, chunks: &mut VecDeque<Chunk>) {
        match self.blocks.get_mut(&index) {
            Some(Block::Call { index, given, bytes: 0 }) => {
                if let Some(given) = given.take() {
                    chunks.push_back(Chunk::ToolArgs { index: *index, delta: given.to_string() });
                }
            }
            Some(Block::Forced { given, bytes: 0 }) => {
                chunks.push_back(Chunk::Text(given.take().unwrap_or_else(|| json!({})).to_string()));
            }
            _ => {}
        }
    }

    fn stopped(&mut self, reason: &str) -> Result<(), ModelError> {
        self.finished = Some(match reason {
            "max_tokens" | "model_context_window_exceeded" => true,
            // What was said before a refusal is not an answer.
            "refusal" => return Err(schema("the provider refused to answer")),
            "pause_turn" => return Err(schema("the provider paused the answer for tools of its own")),
            _ => false,
        });
        Ok(())
    }

    fn failed(&self, kind: &str, message: &str) -> ModelError {
        let said = quote(message, self.key.as_ref());
        let kind = match kind {
            "invalid_request_error" => Kind::Http(400),
            "authentication_error" => Kind::Http(401),
            "billing_error" => Kind::Http(402),
            "permission_error" => Kind::Http(403),
            "not_found_error" => Kind::Http(404),
            "request_too_large" => Kind::Http(413),
            "rate_limit_error" => Kind::Http(429),
            "timeout_error" => Kind::Http(504),
            "overloaded_error" => Kind::Http(529),
            _ => Kind::ServerError,
        };
        ModelError::new(kind, format!("the provider failed within the answer: {said}"))
    }

    /// Returns what has to go back with the calls of tools: all blocks in order, once there are thoughts among them.
    /// Calls are named by their number, because the conversation holds them.
    fn kept(&self) -> Option<Json> {
        let thoughts = |block: &Block| matches!(block, Block::Thinking { .. } | Block::Redacted(_));
        if self.calls == 0 || !self.blocks.values().any(thoughts) {
            return None;
        }
        let block = |block: &Block| match block {
            Block::Text(text) if text.is_empty() => None,
            Block::Text(text) => Some(json!({"type": "text", "text": text})),
            Block::Thinking { thinking, signature } => {
                Some(json!({"type": "thinking", "thinking": thinking, "signature": signature}))
            }
            Block::Redacted(data) => Some(json!({"type": "redacted_thinking", "data": data})),
            Block::Call { index, .. } => Some(json!({"type": "tool_use", "call": index})),
            Block::Forced { .. } | Block::Other => None,
        };
        let size: usize = self.blocks.values().map(Block::size).sum();
        let blocks: Vec<Json> = self.blocks.values().filter_map(block).collect();
        (size <= KEPT_LIMIT).then(|| json!({"anthropic": self.model, "blocks": blocks}))
    }
}

impl Block {
    fn size(&self) -> usize {
        match self {
            Self::Text(text) | Self::Redacted(text) => text.len(),
            Self::Thinking { thinking, signature } => thinking.len() + signature.len(),
            Self::Call { .. } | Self::Forced { .. } | Self::Other => 0,
        }
    }
}

impl Protocol for Message {
    fn take(
        &mut self,
        name: Option<&str>,
        data: &str,
        chunks: &mut VecDeque<Chunk>,
    ) -> Result<Told, ModelError> {
        let event: Event = read(data)?;
        let index = event.index.unwrap_or(0);
        // Servers forget one of the two names of an event.
        match if event.kind.is_empty() { name.unwrap_or_default() } else { event.kind.as_str() } {
            "message_start" => {
                self.usage.take(&event.message.and_then(|message| message.usage).unwrap_or_default());
                chunks.push_back(Chunk::Usage(self.usage.total()));
            }
            "content_block_start" => {
                self.begin(index, event.content_block.unwrap_or_default(), chunks)?;
            }
            "content_block_delta" => self.grow(index, event.delta.unwrap_or_default(), chunks)?,
            "content_block_stop" => self.close(index, chunks),
            "message_delta" => {
                if let Some(usage) = event.usage {
                    self.usage.take(&usage);
                    chunks.push_back(Chunk::Usage(self.usage.total()));
                }
                if let Some(reason) = event.delta.and_then(|delta| delta.stop_reason) {
                    self.stopped(&reason)?;
                }
            }
            "message_stop" => return Ok(Told::Last),
            "error" => {
                let error = event.error.unwrap_or_default();
                return Err(self.failed(&error.kind.0, &error.message.0));
            }
            // `ping`, and what later versions add.
            _ => {}
        }
        Ok(Told::More)
    }

    fn is_finished(&self) -> bool {
        self.finished.is_some()
    }

    fn end(&mut self, chunks: &mut VecDeque<Chunk>) -> Result<(), ModelError> {
        chunks.extend(self.kept().map(Chunk::Kept));
        chunks.push_back(Chunk::Usage(self.usage.total()));
        chunks.push_back(Chunk::End { truncated: self.finished.unwrap_or(false) });
        Ok(())
    }
}
