//! What the engine writes into the store's byte columns. Old records must load for ever, so these types
//! tolerate unknown fields and carry a format number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value as Json;

use super::breakpoint::Breakpoints;
use super::step::Frontier;
use crate::event::{Interrupt, RunStatus, Usage};
use crate::plan::Durability;
use crate::state::Delta;
use crate::store::StoreError;

/// What a run was started with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Input {
    /// The new user turn: a text or a list of parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Json>,
    /// The declared inputs, checked and with their defaults.
    pub input: Json,
    /// When its supersteps are stored; absent: as the graph says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// The superstep that its limits are counted from: it goes on from a checkpoint of another run.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub base: u64,
    /// Where it stops.
    #[serde(default, skip_serializing_if = "Breakpoints::is_none")]
    pub breakpoints: Breakpoints,
    /// The trace that it began in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Why a run failed.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: fail, error: sold out}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let finished = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?.finish().await?;
/// let error = finished.error.expect("it failed");
/// assert_eq!((error.code.as_str(), error.message.as_str()), ("failed", "sold out"));
/// assert_eq!((error.node.as_deref(), error.retryable), (Some("a"), false));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Why a run failed.")]
pub struct RunError {
    /// A stable code.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// The node that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The same request may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How.
    pub status: RunStatus,
    /// The graph's output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// Tokens used.
    #[serde(default)]
    pub usage: Usage,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
}

/// What is told of a run that ended or pauses: an [`Outcome`], and what a pause waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// How it ended, or that it pauses.
    pub status: RunStatus,
    /// The graph's output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// Tokens used.
    #[serde(default)]
    pub usage: Usage,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// The open questions, when it pauses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interrupts: Vec<Interrupt>,
}

/// A record with the number of its format.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u8,
    r: T,
}

/// The format that this build writes.
const FORMAT: u8 = 1;

/// Encodes a record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // Serialising these types into memory cannot fail: no map has a key that is not a text.
    serde_json::to_vec(&Versioned { v: FORMAT, r: record }).unwrap_or_default()
}

/// Decodes a record.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    let corrupt = |why| StoreError::Corrupt { what, why };
    let record: Versioned<T> = serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))?;
    if record.v > FORMAT {
        return Err(corrupt(format!("its format {} is newer than this build", record.v)));
    }
    Ok(record.r)
}

/// Encodes what a barrier changed.
pub fn encode_delta(delta: &Delta) -> Vec<u8> {
    encode(delta)
}

/// Decodes what a barrier changed.
pub fn decode_delta(bytes: &[u8]) -> Result<Delta, StoreError> {
    decode("checkpoint", bytes)
}

/// Decodes what runs next.
pub fn decode_frontier(bytes: &[u8]) -> Result<Frontier, StoreError> {
    decode("checkpoint", bytes)
}
