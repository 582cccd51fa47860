//! Tools: what a graph can call besides models.
//!
//! Invariant: a tool gets arguments that fit their declared type, and gives a result or a failure; whether it may be
//! called, and how often, is decided before.

pub mod custom;
pub mod http;
pub mod mcp;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value as Json;

use crate::event::Emitter;
use crate::failure::Failure;
use crate::id::{RunId, ThreadKey};

/// One call of a tool.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who calls: the node, or `node/tool` within the loop of an `llm` node.
    pub caller: String,
    /// The arguments, as declared.
    pub args: Arc<Json>,
    /// The run.
    pub run: RunId,
    /// The thread that it works for.
    pub thread: ThreadKey,
    /// The same over all attempts; sent as `Idempotency-Key`.
    pub idempotency_key: String,
    /// The try, from 1; sent as `X-Attempt`.
    pub attempt: u32,
    /// Where it speaks.
    pub emit: Emitter,
}

/// A tool.
#[async_trait]
pub trait Tool: Send + Sync + std::fmt::Debug + 'static {
    /// Does one call. Dropping the future stops it.
    async fn call(&self, call: &Call) -> Result<Json, Failure>;
}
