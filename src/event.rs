//! What a run tells the world: the events of the stream and their stored form.
//!
//! Invariant: an event is complete in itself and never changes; filtering never renumbers.

mod sink;
mod stored;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::id::{CheckpointId, RunId, Seq, TaskId};

pub use sink::{Emitter, Sink};
pub use stored::{DecodeError, decode, encode};

/// Tokens used by model calls.
///
/// ```
/// let mut all = graphloom::Usage::default();
/// all += graphloom::Usage { input_tokens: 120, output_tokens: 30, model_calls: 1, ..Default::default() };
/// assert_eq!(all.tokens(), 150);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Tokens used by model calls.")]
pub struct Usage {
    /// Tokens of the prompts.
    pub input_tokens: u64,
    /// Tokens of the answers.
    pub output_tokens: u64,
    /// Model calls made.
    pub model_calls: u64,
    /// Tokens of the prompts that the provider had in its cache; a part of `input_tokens`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_read_tokens: u64,
    /// Tokens of the prompts that the provider put into its cache; a part of `input_tokens`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// What the calls cost, in US dollars, as far as models have a `price`.
    #[serde(default, skip_serializing_if = "is_zero", rename = "cost_usd", with = "usd")]
    #[schemars(with = "f64")]
    pub cost_nano_usd: u64,
}

/// Sums of money are counted in billionths, so that the sum of many small ones is exact, and written in dollars.
mod usd {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) fn serialize<S: Serializer>(nano: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(super::usd_of(*nano))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        Ok((f64::deserialize(deserializer)? * 1e9).round() as u64)
    }
}

/// Returns billionths of a dollar in dollars.
pub fn usd_of(nano: u64) -> f64 {
    nano as f64 / 1e9
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Usage {
    /// Says whether nothing was used.
    ///
    /// ```
    /// assert!(graphloom::Usage::default().is_none());
    /// ```
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the tokens of prompts and answers.
    ///
    /// ```
    /// let usage = graphloom::Usage { input_tokens: 120, output_tokens: 30, ..Default::default() };
    /// assert_eq!(usage.tokens(), 150);
    /// ```
    pub fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// Returns what was used since an earlier sum.
    ///
    /// ```
    /// let of = |model_calls| graphloom::Usage { model_calls, ..Default::default() };
    /// assert_eq!(of(5).since(of(3)), of(2));
    /// ```
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        self.each(before, u64::saturating_sub)
    }

    fn each(self, other: Self, by: fn(u64, u64) -> u64) -> Self {
        Self {
            input_tokens: by(self.input_tokens, other.input_tokens),
            output_tokens: by(self.output_tokens, other.output_tokens),
            model_calls: by(self.model_calls, other.model_calls),
            cache_read_tokens: by(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens: by(self.cache_write_tokens, other.cache_write_tokens),
            cost_nano_usd: by(self.cost_nano_usd, other.cost_nano_usd),
        }
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        // Servers say absurd numbers.
        *self = self.each(other, u64::saturating_add);
    }
}

/// How a run ended, or paused.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::RunStatus;
///
/// let finished = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?.finish().await?;
/// assert_eq!(finished.status, RunStatus::Completed);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "How a run ended, or paused.")]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Reached its end.
    Completed,
    /// Ended with an error; the thread takes the next turn.
    Failed,
    /// Waits for a person.
    Interrupted,
    /// Was cancelled.
    Cancelled,
    /// Was undone.
    RolledBack,
    /// Gave up after repeated crashes.
    Dead,
}

/// How a node ended.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::{Body, NodeStatus};
///
/// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
/// while let Some(event) = turn.next().await {
///     if let Body::NodeFinished { status, .. } = event?.body {
///         assert_eq!(status, NodeStatus::Completed);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "How a node ended.")]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Its writes are part of the barrier.
    Completed,
    /// It failed; a handler may have taken over.
    Failed,
    /// It was stopped.
    Cancelled,
    /// It waits for a person, as the run does; it goes on with the answer.
    Interrupted,
}

/// Where in the graph an event comes from.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
/// while let Some(event) = turn.next().await {
///     if let Some(scope) = event?.scope {
///         assert_eq!((scope.node.as_str(), scope.attempt, scope.path.len()), ("a", 1, 0));
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Where in the graph an event comes from.")]
pub struct Scope {
    /// The node.
    pub node: String,
    /// The task: one node in one superstep.
    #[schemars(with = "String")]
    pub task_id: TaskId,
    /// The try of the task, from 1.
    pub attempt: u32,
    /// The nodes that called the graphs around it, outermost first; absent at the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    /// The index within the innermost `map` around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u64>,
}

impl Scope {
    /// Makes the place of a node of the run's own graph.
    #[doc(hidden)]
    pub fn new(node: impl Into<String>, task_id: TaskId, attempt: u32) -> Self {
        Self { node: node.into(), task_id, attempt, path: Vec::new(), item: None }
    }

    /// Names whoever calls out from here: `node`, `caller/node` within a called graph, `node[2]` for an item of a list.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
    /// while let Some(event) = turn.next().await {
    ///     if let Some(scope) = event?.scope {
    ///         assert_eq!(scope.caller(), "a");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn caller(&self) -> String {
        let mut name = self.path.iter().chain([&self.node]).cloned().collect::<Vec<_>>().join("/");
        if let Some(item) = self.item {
            name += &format!("[{item}]");
        }
        name
    }
}

/// Who is asked.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages, sure: string?}\nstart: a\nnodes: {a: {kind: ask, who: agent, question: Sure?, into: sure, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let waits = app.thread("acme", "ada", "desk")?.start("chat", "Delete it").await?.finish().await?;
/// assert_eq!(waits.interrupts[0].who, graphloom::Who::Agent);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "Who is asked.")]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The user of the conversation.
    User,
    /// Somebody with the role `agent`.
    Agent,
}

/// A question to a person, on which a branch of the run waits.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: ask, question: Sure?, options: [y, n], next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let waits = app.thread("acme", "ada", "desk")?.start("chat", "Delete it").await?.finish().await?;
/// let asked = &waits.interrupts[0];
/// assert_eq!((asked.node.as_str(), asked.question.as_str()), ("a", "Sure?"));
/// assert_eq!(asked.options, ["y", "n"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "A question to a person, on which a branch of the run waits.")]
pub struct Interrupt {
    /// Its id, by which it is answered.
    pub interrupt_id: String,
    /// The node that asks.
    pub node: String,
    /// The nodes that called the graphs around it, outermost first; absent at the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub path: Vec<String>,
    /// The index within the innermost `map` around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u64>,
    /// Who is asked.
    pub who: Who,
    /// The question.
    pub question: String,
    /// The answers to choose from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The JSON Schema of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Json>,
    /// The tool whose call waits for approval: `approve`, `{edit: ARGS}` or `{reject: TEXT}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The arguments of that call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Json>,
    /// When it can be answered no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub expires_at: Option<DateTime<Utc>>,
}

/// What happened.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::Body;
///
/// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
/// while let Some(event) = turn.next().await {
///     match event?.body {
///         Body::MessageDelta { delta, .. } => print!("{delta}"),
///         Body::ToolFinished { tool, error: Some(why), .. } => eprintln!("{tool} failed: {why}"),
///         Body::RunFinished { usage, .. } => println!("{} tokens", usage.tokens()),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "What happened.")]
#[serde(tag = "type")]
pub enum Body {
    /// The run is under way.
    #[serde(rename = "run.started")]
    RunStarted {
        /// The conversation.
        session_id: String,
        /// The graph's id.
        graph: String,
        /// The hash of the plan that the run is pinned to.
        graph_hash: String,
    },
    /// A node began.
    #[serde(rename = "node.started")]
    NodeStarted {
        /// The superstep, from 1.
        step: u64,
        /// The node's kind.
        kind: String,
        /// It goes on after the run has waited for a person.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        resumed: bool,
    },
    /// A node ended.
    #[serde(rename = "node.finished")]
    NodeFinished {
        /// How.
        status: NodeStatus,
        /// Milliseconds since it began.
        duration_ms: u64,
        /// Tokens it used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// The model that answered last, by its name in project.yaml.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// Its result was kept from before: the node did no work.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cached: bool,
    },
    /// Another attempt follows after a failed one.
    #[serde(rename = "node.retrying")]
    NodeRetrying {
        /// Milliseconds until it begins.
        delay_ms: u64,
        /// Why the last one failed.
        reason: String,
        /// The model that is asked instead, by its name in project.yaml; absent when the same one is asked again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
    },
    /// An attempt died: drop its deltas; what follows starts from zero.
    #[serde(rename = "node.reset")]
    NodeReset {
        /// Why.
        reason: String,
    },
    /// The run goes along an edge.
    #[serde(rename = "edge.taken")]
    EdgeTaken {
        /// The node that was left, or `start`.
        from: String,
        /// The node that comes next, or `end`.
        to: String,
        /// The condition of a conditional edge; `on_error: ` and a kind, or `on_limit: ` and a limit, for an error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        condition: Option<String>,
        /// The nodes that called the graph that the edge is of, outermost first; absent at the root.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        path: Vec<String>,
        /// The index within the innermost `map` around it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        item: Option<u64>,
    },
    /// A model begins to write the call of a tool.
    #[serde(rename = "tool.started")]
    ToolStarted {
        /// The call.
        call_id: String,
        /// The tool.
        tool: String,
    },
    /// A piece of the call's arguments, as the model writes their JSON.
    #[serde(rename = "tool.args_delta")]
    ToolArgsDelta {
        /// The call.
        call_id: String,
        /// The piece.
        delta: String,
    },
    /// A tool is called.
    #[serde(rename = "tool.called")]
    ToolCalled {
        /// The call.
        call_id: String,
        /// The tool.
        tool: String,
        /// Its arguments.
        args: Json,
    },
    /// A call is over.
    #[serde(rename = "tool.finished")]
    ToolFinished {
        /// The call.
        call_id: String,
        /// The tool.
        tool: String,
        /// The result; absent when it failed, or was refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        result: Option<Json>,
        /// Why there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A node waits for a person.
    #[serde(rename = "interrupt.requested")]
    InterruptRequested {
        /// The question.
        interrupt: Box<Interrupt>,
    },
    /// An event of the graph's own: `emit` of a node, or what a function of the host program tells of its progress.
    #[serde(rename = "custom")]
    Custom {
        /// Its name.
        name: String,
        /// What it carries.
        data: Json,
    },
    /// A message to the user begins.
    #[serde(rename = "message.started")]
    MessageStarted {
        /// The message.
        message_id: String,
        /// Its author: `assistant`.
        role: String,
    },
    /// A piece of a message.
    #[serde(rename = "message.delta")]
    MessageDelta {
        /// The message.
        message_id: String,
        /// The piece.
        delta: String,
    },
    /// A message is whole.
    #[serde(rename = "message.finished")]
    MessageFinished {
        /// The message.
        message_id: String,
        /// Its whole text; absent when the attempt died and the deltas are to be dropped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// The provider cut it at the limit of tokens.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    /// The model begins to think aloud.
    #[serde(rename = "reasoning.started")]
    ReasoningStarted {
        /// The reasoning.
        message_id: String,
    },
    /// A piece of reasoning.
    #[serde(rename = "reasoning.delta")]
    ReasoningDelta {
        /// The reasoning.
        message_id: String,
        /// The piece.
        delta: String,
    },
    /// The reasoning is over.
    #[serde(rename = "reasoning.finished")]
    ReasoningFinished {
        /// The reasoning.
        message_id: String,
    },
    /// The public state that the run starts from, before its input.
    #[serde(rename = "state.snapshot")]
    StateSnapshot {
        /// The checkpoint that holds it; absent on a new thread.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Option<String>")]
        checkpoint_id: Option<CheckpointId>,
        /// Channel by channel.
        // Null until it is read from the checkpoint, for those who ask.
        state: Json,
    },
    /// What a barrier changed in the public state.
    #[serde(rename = "state.patch")]
    StatePatch {
        /// The checkpoint of the barrier.
        #[schemars(with = "String")]
        checkpoint_id: CheckpointId,
        /// A JSON Patch (RFC 6902).
        // Empty until it is read from the checkpoint, for those who ask.
        patch: Vec<PatchOp>,
    },
    /// A barrier is stored.
    #[serde(rename = "checkpoint.saved")]
    CheckpointSaved {
        /// The checkpoint.
        #[schemars(with = "String")]
        checkpoint_id: CheckpointId,
        /// The superstep; 0 is the input.
        step: u64,
    },
    /// The thread was deleted with all that hung on it; `run.finished` with status `cancelled` follows.
    #[serde(rename = "thread.deleted")]
    ThreadDeleted {},
    /// The place that the client named is not in the run: the database lost it, or it never was. Drop what you have of
    /// the run; it is told from its start.
    #[serde(rename = "stream.rewound")]
    StreamRewound {},
    /// The run cannot go on.
    #[serde(rename = "error")]
    Error {
        /// A stable code.
        code: String,
        /// One sentence for people.
        message: String,
        /// The same request may succeed later.
        retryable: bool,
        /// The node that failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
    },
    /// The run is over, or pauses. `[DONE]` follows.
    #[serde(rename = "run.finished")]
    RunFinished {
        /// How it ended.
        status: RunStatus,
        /// The graph's output, when it completed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Json>,
        /// Tokens of the whole run.
        usage: Usage,
        /// The open questions, when it pauses.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        interrupts: Vec<Interrupt>,
    },
}

/// One operation of a JSON Patch (RFC 6902).
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages, n: integer?}\nstart: a\nnodes: {a: {kind: set, set: {n: 3}, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::Body;
///
/// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
/// let mut written = Vec::new();
/// while let Some(event) = turn.next().await {
///     if let Body::StatePatch { patch, .. } = event?.body {
///         written.extend(patch.into_iter().map(|operation| operation.path));
///     }
/// }
/// assert!(written.iter().any(|path| path == "/n"), "{written:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "One operation of a JSON Patch (RFC 6902).")]
pub struct PatchOp {
    /// `add`, `replace` or `remove`.
    pub op: String,
    /// A JSON Pointer (RFC 6901).
    pub path: String,
    /// The value, but for `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,
}

/// One event of a run.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
/// let first = turn.next().await.expect("it begins")?;
/// assert_eq!((first.body.name(), first.seq.n), ("run.started", 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in the run.
    pub seq: Seq,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// Where in the graph it comes from.
    pub scope: Option<Scope>,
    /// What happened.
    pub body: Body,
}

/// A group of events that a client can choose by `include`.
///
/// ```
/// use graphloom::{Event, Group};
///
/// fn is_shown(event: &Event) -> bool {
///     matches!(event.body.group(), Group::Run | Group::Messages)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// The run itself; always sent.
    Run,
    /// Messages and reasoning.
    Messages,
    /// Nodes.
    Nodes,
    /// Tools.
    Tools,
    /// Edges.
    Edges,
    /// The public state.
    State,
    /// Checkpoints.
    Checkpoints,
}

impl Body {
    /// Makes the end of a run that gives no output.
    #[doc(hidden)]
    pub fn ended(status: RunStatus, usage: Usage) -> Self {
        Self::RunFinished { status, output: None, usage, interrupts: Vec::new() }
    }

    /// Returns the name of the event.
    ///
    /// ```
    /// let body = graphloom::Body::Custom { name: "progress".into(), data: 3.into() };
    /// assert_eq!(body.name(), "custom");
    /// ```
    pub fn name(&self) -> &'static str {
        match self {
            Self::RunStarted { .. } => "run.started",
            Self::NodeStarted { .. } => "node.started",
            Self::NodeFinished { .. } => "node.finished",
            Self::NodeRetrying { .. } => "node.retrying",
            Self::NodeReset { .. } => "node.reset",
            Self::EdgeTaken { .. } => "edge.taken",
            Self::ToolStarted { .. } => "tool.started",
            Self::ToolArgsDelta { .. } => "tool.args_delta",
            Self::ToolCalled { .. } => "tool.called",
            Self::ToolFinished { .. } => "tool.finished",
            Self::InterruptRequested { .. } => "interrupt.requested",
            Self::Custom { .. } => "custom",
            Self::MessageStarted { .. } => "message.started",
            Self::MessageDelta { .. } => "message.delta",
            Self::MessageFinished { .. } => "message.finished",
            Self::ReasoningStarted { .. } => "reasoning.started",
            Self::ReasoningDelta { .. } => "reasoning.delta",
            Self::ReasoningFinished { .. } => "reasoning.finished",
            Self::StateSnapshot { .. } => "state.snapshot",
            Self::StatePatch { .. } => "state.patch",
            Self::CheckpointSaved { .. } => "checkpoint.saved",
            Self::ThreadDeleted {} => "thread.deleted",
            Self::StreamRewound {} => "stream.rewound",
            Self::Error { .. } => "error",
            Self::RunFinished { .. } => "run.finished",
        }
    }

    /// Returns the group that the event belongs to.
    ///
    /// ```
    /// use graphloom::{Body, Group};
    ///
    /// let delta = Body::MessageDelta { message_id: "m".into(), delta: "Hel".into() };
    /// assert_eq!(delta.group(), Group::Messages);
    /// ```
    pub fn group(&self) -> Group {
        match self {
            // A reset concerns whoever shows messages, so no filter may hide it.
            Self::RunStarted { .. }
            | Self::RunFinished { .. }
            | Self::Error { .. }
            | Self::ThreadDeleted {}
            | Self::StreamRewound {}
            | Self::InterruptRequested { .. }
            | Self::Custom { .. }
            | Self::NodeReset { .. } => Group::Run,
            Self::NodeStarted { .. } | Self::NodeFinished { .. } | Self::NodeRetrying { .. } => Group::Nodes,
            Self::ToolStarted { .. }
            | Self::ToolArgsDelta { .. }
            | Self::ToolCalled { .. }
            | Self::ToolFinished { .. } => Group::Tools,
            Self::EdgeTaken { .. } => Group::Edges,
            Self::MessageStarted { .. }
            | Self::MessageDelta { .. }
            | Self::MessageFinished { .. }
            | Self::ReasoningStarted { .. }
            | Self::ReasoningDelta { .. }
            | Self::ReasoningFinished { .. } => Group::Messages,
            Self::StateSnapshot { .. } | Self::StatePatch { .. } => Group::State,
            Self::CheckpointSaved { .. } => Group::Checkpoints,
        }
    }
}

/// The names of all events.
pub const NAMES: [&str; 25] = [
    "run.started",
    "node.started",
    "node.finished",
    "node.retrying",
    "node.reset",
    "edge.taken",
    "tool.started",
    "tool.args_delta",
    "tool.called",
    "tool.finished",
    "interrupt.requested",
    "custom",
    "message.started",
    "message.delta",
    "message.finished",
    "reasoning.started",
    "reasoning.delta",
    "reasoning.finished",
    "state.snapshot",
    "state.patch",
    "checkpoint.saved",
    "thread.deleted",
    "stream.rewound",
    "error",
    "run.finished",
];

/// Cuts a time to the milliseconds that the wire shows, so that a replay prints what was sent.
pub fn to_millis(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at.timestamp_millis()).unwrap_or(at)
}

impl Event {
    /// Returns the compact JSON that goes to clients.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
    /// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
    /// let mut turn = app.thread("acme", "ada", "desk")?.start("chat", "Hello!").await?;
    /// let first = turn.next().await.expect("it begins")?;
    /// let wire: serde_json::Value = serde_json::from_slice(&first.to_json(turn.run()))?;
    /// assert_eq!((&wire["type"], &wire["graph"]), (&"run.started".into(), &"chat".into()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn to_json(&self, run: RunId) -> Bytes {
        #[derive(Serialize)]
        struct Wire<'a> {
            #[serde(flatten)]
            body: &'a Body,
            #[serde(flatten)]
            scope: Option<&'a Scope>,
            run_id: RunId,
            epoch: u64,
            seq: u64,
            ts: String,
        }
        let wire = Wire {
            body: &self.body,
            scope: self.scope.as_ref(),
            run_id: run,
            epoch: self.seq.fence,
            seq: self.seq.n,
            ts: self.at.to_rfc3339_opts(SecondsFormat::Millis, true),
        };
        let mut json = Vec::with_capacity(320);
        // Serialising these types into memory cannot fail: no map has a key that is not a text.
        let _infallible = serde_json::to_writer(&mut json, &wire);
        json.into()
    }
}

#[cfg(test)]
mod tests;
