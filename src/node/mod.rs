//! What a node does when its turn comes; one file per kind.
//!
//! Invariant: a node is built from parsed parts and never sees YAML. It reads a snapshot, returns
//! writes, and changes nothing itself.

mod fail;
mod llm;
mod retry;
mod say;
mod set;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::event::{Body, Scope as Place, Usage};
use crate::expr::{EvalError, ExprTree, Scope};
use crate::id::{RunId, TaskId};
use crate::model::{Kind, ModelError};
use crate::state::{State, Write};

pub use fail::Fail;
pub use llm::{Bind, Clip, Llm, Output, Piece};
pub use retry::Retry;
pub use say::Say;
pub use set::Set;

/// The closed list of error kinds that a graph can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Something took too long.
    Timeout,
    /// No connection, or it broke.
    Connection,
    /// The other side asks to slow down.
    RateLimit,
    /// The other side failed.
    ServerError,
    /// The other side answered with this status.
    Http(u16),
    /// A value does not have its type.
    Schema,
    /// A write cannot join its channel.
    Merge,
    /// An expression or a template failed.
    Template,
    /// A `fail` node ended the run.
    Failed,
    /// A limit of the run is used up.
    Limit,
}

impl ErrorKind {
    /// Returns the most specific name, as `error.kind` and `catch` have it.
    pub fn name(self) -> String {
        match self {
            Self::Timeout => "timeout".into(),
            Self::Connection => "connection".into(),
            Self::RateLimit => "rate_limit".into(),
            Self::ServerError => "server_error".into(),
            Self::Http(status) => format!("http_{status}"),
            Self::Schema => "schema".into(),
            Self::Merge => "merge".into(),
            Self::Template => "template".into(),
            Self::Failed => "failed".into(),
            Self::Limit => "limit".into(),
        }
    }

    /// Returns the wider kinds that it belongs to, besides `any`.
    pub fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Http(429) => &["http_4xx", "rate_limit"],
            Self::Http(400..=499) => &["http_4xx"],
            Self::Http(500..=599) => &["http_5xx", "server_error"],
            _ => &[],
        }
    }

    /// Says whether the same work may succeed later.
    pub fn retryable(self) -> bool {
        matches!(self, Self::Timeout | Self::Connection | Self::RateLimit | Self::ServerError)
    }
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For `catch` and `retry`.
    pub kind: ErrorKind,
    /// The `code` of a `fail` node; else the kind's name.
    pub code: String,
    /// One sentence that may be shown to the user.
    pub message: String,
    /// How long the other side asked to wait.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Makes a failure whose code is its kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, code: kind.name(), message: message.into(), retry_after: None }
    }
}

impl Failure {
    /// Says whether it is of a kind that a `catch` or the `for` of a retry policy names.
    pub fn is(&self, kind: &str) -> bool {
        self.kind.name() == kind || kind == "any" || self.kind.groups().contains(&kind)
    }

    /// Says whether a graph may handle it: a limit ends the run, or goes to `on_limit`.
    pub fn can_be_caught(&self) -> bool {
        self.kind != ErrorKind::Limit
    }
}

/// The longest message of an error that is kept for its handler, in bytes: it is stored with every checkpoint.
const MAX_MESSAGE: usize = 4096;

/// An error on its way to the nodes that handle it: what they read as `error.*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Caught {
    /// Its most specific kind.
    pub kind: String,
    /// Its code.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The node that failed; empty when a limit is used up.
    pub node: String,
}

impl Caught {
    /// The fields of `error`.
    pub const FIELDS: [&str; 4] = ["kind", "message", "node", "code"];

    /// Takes the failure of a node.
    pub fn new(node: &str, failure: &Failure) -> Self {
        let mut message = failure.message.clone();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { kind: failure.kind.name(), code: failure.code.clone(), message, node: node.to_owned() }
    }

    /// Returns the value of `error`.
    pub fn to_json(&self) -> Json {
        json!({"kind": self.kind, "message": self.message, "node": self.node, "code": self.code})
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Self {
        Self::new(ErrorKind::Template, error.to_string())
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let kind = match error.kind {
            Kind::Timeout => ErrorKind::Timeout,
            Kind::Connection => ErrorKind::Connection,
            Kind::RateLimit => ErrorKind::RateLimit,
            Kind::ServerError => ErrorKind::ServerError,
            Kind::Http(status) => ErrorKind::Http(status),
            Kind::Schema => ErrorKind::Schema,
        };
        Self { retry_after: error.retry_after, ..Self::new(kind, error.message) }
    }
}

/// What a finished attempt leaves for the barrier.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Done {
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// Events that become visible with the barrier.
    pub events: Vec<Body>,
    /// Tokens used.
    pub usage: Usage,
}

/// Facts of the run that expressions and templates can read as `run.*`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFacts {
    /// The run.
    pub id: RunId,
    /// The superstep, from 1.
    pub step: u64,
    /// Supersteps left before the limit.
    pub steps_left: u64,
    /// The text of the newest user turn.
    pub user_text: Arc<str>,
    /// When the superstep began.
    pub now: DateTime<Utc>,
}

impl RunFacts {
    /// Returns the value of `run` for one attempt.
    pub fn to_json(&self, attempt: u32) -> Json {
        json!({
            "id": self.id.to_string(),
            "step": self.step,
            "attempt": attempt,
            "steps_left": self.steps_left,
            "user_text": &*self.user_text,
            "now": self.now.to_rfc3339_opts(SecondsFormat::Millis, true),
        })
    }
}

/// Receives what a task tells the world while it works, and knows what it left open.
pub trait Sink: Send + Sync {
    /// Sends an event at once. It is not durable yet: a reset may take it back.
    fn send(&self, place: &Place, body: Body);

    /// Says whether the task has begun a message or a reasoning that it did not end.
    fn has_shown(&self, place: &Place) -> bool;

    /// Ends what a dead attempt left open: its text is not part of the conversation.
    fn discard(&self, place: &Place);
}

/// Sends the events of one attempt.
pub struct Emitter {
    sink: Arc<dyn Sink>,
    place: Place,
}

impl Emitter {
    /// Makes the emitter of one attempt.
    pub fn new(sink: Arc<dyn Sink>, place: Place) -> Self {
        Self { sink, place }
    }

    /// Sends an event at once.
    pub fn send(&self, body: Body) {
        self.sink.send(&self.place, body);
    }

    /// Says whether anything was shown that a reset has to take back.
    pub fn has_shown(&self) -> bool {
        self.sink.has_shown(&self.place)
    }

    /// Ends what a dead attempt left open.
    pub fn discard(&self) {
        self.sink.discard(&self.place);
    }
}

/// One attempt of a node: what it may read and where it may speak.
pub struct Attempt {
    /// The state as the last barrier left it.
    pub state: State,
    /// The inputs of the run.
    pub input: Arc<Json>,
    /// Facts of the run.
    pub run: RunFacts,
    /// The node's name.
    pub node: Arc<str>,
    /// The task.
    pub task: TaskId,
    /// The try, from 1.
    pub attempt: u32,
    /// The error that the branch handles.
    pub error: Option<Arc<Caught>>,
    /// Where it speaks.
    pub emit: Emitter,
}

impl Attempt {
    /// Returns the names that the node's expressions and texts can read.
    pub fn scope(&self) -> Scope {
        let scope = scope(&self.state, &self.input, &self.run, self.attempt);
        match &self.error {
            Some(error) => scope.json("error", Arc::new(error.to_json())),
            None => scope,
        }
    }

    /// Returns the id of the message that this task says; the same over all attempts.
    pub fn message_id(&self) -> String {
        format!("m_{}", self.task)
    }
}

/// Returns the scope that every expression of a graph has: `state`, `input` and `run`.
pub fn scope(state: &State, input: &Arc<Json>, run: &RunFacts, attempt: u32) -> Scope {
    Scope::new().state(state.clone()).json("input", input.clone()).json("run", Arc::new(run.to_json(attempt)))
}

/// A node of a compiled graph.
#[async_trait]
pub trait Node: Send + Sync + std::fmt::Debug + 'static {
    /// Does the work of one attempt. Dropping the future stops it.
    async fn run(&self, attempt: &Attempt) -> Result<Done, Failure>;
}

/// Where a node's result goes.
#[derive(Debug, Clone, Default)]
pub enum Sent {
    /// Nowhere.
    #[default]
    Nothing,
    /// Into a channel.
    Channel(String),
    /// Into channels, by expressions over `result`.
    Map(IndexMap<String, ExprTree>),
}

impl Sent {
    /// Returns the writes that carry `result` to its channels.
    pub fn writes(&self, result: Json, attempt: &Attempt) -> Result<Vec<Write>, Failure> {
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Channel(channel) => Ok(vec![Write::Put { channel: channel.clone(), value: result }]),
            Self::Map(map) => {
                let scope = attempt.scope().json("result", Arc::new(result));
                let put = |(channel, tree): (&String, &ExprTree)| {
                    Ok(Write::Put { channel: channel.clone(), value: tree.eval(&scope)? })
                };
                map.iter().map(put).collect()
            }
        }
    }
}

/// Returns the chat turn that a reply adds to the conversation.
pub fn assistant_turn(id: &str, text: &str) -> Json {
    json!({"id": id, "role": "assistant", "content": text})
}
