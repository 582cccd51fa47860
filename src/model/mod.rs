//! Chat models: one trait, one file per provider; `demo` and `scripted` are ordinary providers.
//!
//! Invariant: a model streams. Dropping its stream cancels the call down to the provider's socket.

pub mod demo;
pub mod openai;
pub mod scripted;
mod timed;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::event::Usage;

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
}

/// One chat turn of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Who says it.
    pub role: Role,
    /// A text, or a list of parts as the conversation holds them.
    pub content: Json,
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
}

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The node that calls, for scripts and logs.
    pub node: String,
    /// The conversation, oldest first.
    pub turns: Vec<Turn>,
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
    /// The provider asks to slow down (429).
    RateLimit,
    /// The provider failed (5xx, or an error within the stream).
    ServerError,
    /// The provider refused the request (4xx).
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
    /// Calls the model. Errors may come before the stream or as its last item; after `Chunk::End` or an
    /// error nothing follows.
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError>;
}
