//! Chat models: one trait, one file per provider; `demo` and `scripted` are ordinary providers.
//!
//! Invariant: a model streams. Dropping its stream cancels the call down to the provider's socket.

pub mod anthropic;
pub mod demo;
mod http;
mod ids;
mod names;
pub(crate) mod lines;
pub mod openai;
pub mod scripted;
pub mod slots;
mod sse;
#[cfg(test)]
mod testing;
mod timed;
#[cfg(test)]
mod traffic;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::event::Usage;
use crate::trace::Provider;
pub use names::{MAX_TOOL_NAME, wire_name};

/// Who says a chat turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool, with the result of a call.
    Tool,
}

/// One chat turn of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Who says it.
    pub role: Role,
    /// A text, or a list of parts as the conversation holds them.
    pub content: Json,
    /// The tools that the model calls, in its order.
    pub tool_calls: Vec<ToolCall>,
    /// The call whose result this is.
    pub tool_call_id: Option<String>,
    /// What the provider of the turn wants back with it: see [`Chunk::Kept`].
    pub kept: Option<Json>,
}

impl Turn {
    /// Makes a turn without tools.
    #[must_use]
    pub fn new(role: Role, content: Json) -> Self {
        Self { role, content, tool_calls: Vec::new(), tool_call_id: None, kept: None }
    }

    /// Makes an assistant's turn that calls tools.
    #[must_use]
    pub fn calls(content: Json, calls: Vec<ToolCall>) -> Self {
        Self { tool_calls: calls, ..Self::new(Role::Assistant, content) }
    }

    /// Makes the result of a call.
    #[must_use]
    pub fn result(id: impl Into<String>, content: Json) -> Self {
        Self { tool_call_id: Some(id.into()), ..Self::new(Role::Tool, content) }
    }
}

/// A call of a tool, as a model writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Its id; the result carries it, too.
    pub id: String,
    /// The tool.
    pub name: String,
    /// A JSON object in the model's own words, which may be broken JSON.
    pub arguments: String,
}

impl ToolCall {
    /// Returns the arguments, or what is wrong with them, without their text. No text at all is no argument.
    pub fn args(&self) -> Result<serde_json::Map<String, Json>, String> {
        if self.arguments.trim().is_empty() {
            return Ok(serde_json::Map::new());
        }
        match serde_json::from_str(&self.arguments) {
            Ok(Json::Object(args)) => Ok(args),
            Ok(_) => Err("the arguments are no JSON object".to_owned()),
            Err(error) => {
                Err(format!("the arguments are not JSON (line {} column {})", error.line(), error.column()))
            }
        }
    }

    /// Reads a call of the conversation: `{id, name, args}`.
    #[must_use]
    pub fn of_json(call: &Json) -> Option<Self> {
        let text = |key: &str| Some(call.get(key)?.as_str()?.to_owned());
        let arguments = call.get("args").map_or_else(|| "{}".to_owned(), Json::to_string);
        Some(Self { id: text("id")?, name: text("name")?, arguments })
    }

    /// Returns the call as the conversation holds it; arguments that cannot be read are none.
    #[must_use]
    pub fn to_json(&self) -> Json {
        serde_json::json!({"id": self.id, "name": self.name, "args": self.args().unwrap_or_default()})
    }
}

/// A tool that a model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Its name, of letters, digits, `_` and `-`.
    pub name: String,
    /// What it does and when to call it, for the model.
    pub description: String,
    /// A JSON Schema of an object: its arguments.
    pub parameters: Json,
}

/// The parameters of a call; absent ones are left to the provider.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Params {
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    /// The most tokens of the answer.
    pub max_tokens: Option<u64>,
    /// Asks for the same answer to the same request.
    pub seed: Option<i64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
    /// `low`, `medium`, `high`, as the provider names them.
    pub reasoning_effort: Option<String>,
    /// Further keys of the provider's request body.
    pub extra: serde_json::Map<String, Json>,
}

/// How long a call may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the first event of the answer.
    pub first: Duration,
    /// Between two events.
    pub idle: Duration,
    /// From the request to the end of the answer.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { first: Duration::from_secs(30), idle: Duration::from_mins(1), total: Duration::from_mins(2) }
    }
}

/// What an answer in JSON must fit.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSchema {
    /// A name for it, of letters, digits, `_` and `-`.
    pub name: String,
    /// A JSON Schema of an object.
    pub schema: Json,
    /// The same with the bounds, patterns and defaults that no provider is held to.
    pub bounded: Json,
}

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The node that calls, for scripts and logs.
    pub node: String,
    /// The model's name in project.yaml, for scripts and logs.
    pub model: String,
    /// The conversation, oldest first.
    pub turns: Vec<Turn>,
    /// The tools that the model may call.
    pub tools: Arc<[ToolSpec]>,
    /// What the answer must be; a text where nothing is said.
    pub output: Option<Arc<OutputSchema>>,
    /// The parameters.
    pub params: Params,
    /// How long it may be silent.
    pub timeouts: Timeouts,
    /// The same over all attempts of a task; sent as `Idempotency-Key`.
    pub idempotency_key: String,
    /// The try of the task, from 1; sent as `X-Attempt`.
    pub attempt: u32,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Chunk {
    /// Text of the answer.
    Text(String),
    /// Text of the model's reasoning.
    Reasoning(String),
    /// A call of a tool begins. Calls are counted from 0, and each begins once.
    ToolCall {
        /// Which call of the answer.
        index: usize,
        /// Its id, unique within the answer.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of the arguments of a call that has begun; together they are the text of a JSON object, or nothing.
    ToolArgs {
        /// Which call of the answer.
        index: usize,
        /// The next piece.
        delta: String,
    },
    /// What the provider wants back with this turn while its tools are called, such as signed thoughts. Only the
    /// provider itself understands it; one that finds another's leaves it out.
    Kept(Json),
    /// What the call used; may come more than once, the last one counts.
    Usage(Usage),
    /// The answer is whole. A stream that ends without it was cut.
    End {
        /// The provider cut the answer at the token limit.
        truncated: bool,
    },
}

/// The kinds of errors that `catch` and `retry` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// First token, idle or total.
    Timeout,
    /// No connection, or it broke.
    Connection,
    /// The provider asks to slow down, within its answer.
    RateLimit,
    /// The provider failed within its answer.
    ServerError,
    /// The provider answered with this status instead. By it the error is of wider kinds, too: 429 is a rate limit, 503 a
    /// failure of the provider.
    Http(u16),
    /// The provider's answer does not make sense.
    Schema,
}

impl Kind {
    /// Finds the kind that a graph or a test names: `timeout`, `http_404`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "timeout" => Self::Timeout,
            "connection" => Self::Connection,
            "rate_limit" => Self::RateLimit,
            "server_error" => Self::ServerError,
            "schema" => Self::Schema,
            _ => Self::Http(name.strip_prefix("http_")?.parse().ok().filter(|n| (400..600).contains(n))?),
        })
    }
}

/// Why a call failed. `message` holds no secret and no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    /// For `catch` and `retry`.
    pub kind: Kind,
    /// One sentence for the operator.
    pub message: String,
    /// How long the provider asked to wait.
    pub retry_after: Option<Duration>,
}

impl ModelError {
    /// Makes an error without a wish to wait.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}

/// A chat model.
#[async_trait]
pub trait ChatModel: Send + Sync + std::fmt::Debug + 'static {
    /// Says who answers, for traces; nothing where it is this process.
    fn provider(&self) -> Option<&Provider> {
        None
    }

    /// Calls the model. Errors may come before the stream or as its last item; after `Chunk::End` or an
    /// error nothing follows.
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError>;
}
