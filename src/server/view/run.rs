//! Runs in answers.

use poem_openapi::{Enum, Object};
use serde_json::Value as Json;

use super::{Id, Time};
use crate::engine::record::{self, Outcome, RunError};
use crate::event;
use crate::id::RunId;
use crate::server::interrupts::InterruptView;
use crate::store::{Run, RunState, StoreError};

/// What is said of a run that was rolled back.
pub(in crate::server) const NOT_UNDONE: &str = "what a run did outside is not undone by its rollback";

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", rename = "RunStatus")]
pub(in crate::server) enum Status {
    /// Waits for its turn or for an owner.
    Queued,
    /// Is under way.
    Running,
    /// Waits for a person.
    Interrupted,
    /// Reached its end.
    Completed,
    /// Ended with an error.
    Failed,
    /// Was cancelled.
    Cancelled,
    /// Was undone.
    RolledBack,
    /// Gave up after repeated crashes.
    Dead,
}

impl From<RunState> for Status {
    fn from(state: RunState) -> Self {
        match state {
            RunState::Queued => Self::Queued,
            RunState::Running => Self::Running,
            RunState::Interrupted => Self::Interrupted,
            RunState::Completed => Self::Completed,
            RunState::Failed => Self::Failed,
            RunState::Cancelled => Self::Cancelled,
            RunState::RolledBack => Self::RolledBack,
            RunState::Dead => Self::Dead,
        }
    }
}

/// Tokens used by model calls.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Usage", skip_serializing_if_is_none)]
pub(in crate::server) struct UsageView {
    /// Tokens of the prompts.
    input_tokens: u64,
    /// Tokens of the answers.
    output_tokens: u64,
    /// Model calls made.
    model_calls: u64,
    /// Tokens of the prompts that the provider had in its cache; a part of `input_tokens`. Absent when there are none.
    cache_read_tokens: Option<u64>,
    /// Tokens of the prompts that the provider put into its cache; a part of `input_tokens`. Absent when there are none.
    cache_write_tokens: Option<u64>,
    /// What the calls cost, in US dollars, as far as models have a `price`. Absent when nothing is known of it.
    cost_usd: Option<f64>,
}

impl From<event::Usage> for UsageView {
    fn from(usage: event::Usage) -> Self {
        let event::Usage {
            input_tokens,
            output_tokens,
            model_calls,
            cache_read_tokens,
            cache_write_tokens,
            cost_nano_usd,
        } = usage;
        let some = |n: u64| (n > 0).then_some(n);
        Self {
            input_tokens,
            output_tokens,
            model_calls,
            cache_read_tokens: some(cache_read_tokens),
            cache_write_tokens: some(cache_write_tokens),
            cost_usd: some(cost_nano_usd).map(event::usd_of),
        }
    }
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
#[oai(rename = "RunError", skip_serializing_if_is_none)]
pub(in crate::server) struct ErrorView {
    /// A stable code.
    code: String,
    /// One sentence for people.
    message: String,
    /// The same request may succeed later.
    retryable: bool,
    /// The node that failed.
    node: Option<String>,
}

impl From<RunError> for ErrorView {
    fn from(error: RunError) -> Self {
        let RunError { code, message, node, retryable } = error;
        Self { code, message, retryable, node }
    }
}

/// A run.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Run", skip_serializing_if_is_none)]
pub(in crate::server) struct RunView {
    /// Its id.
    run_id: Id,
    /// The conversation.
    session_id: String,
    /// The graph's id.
    graph: String,
    /// The hash of the graph's version that the run is pinned to.
    graph_hash: String,
    /// Where it stands.
    pub(in crate::server) status: Status,
    /// Somebody asked for its end.
    cancel_requested: bool,
    /// Supersteps done.
    step: u64,
    /// When it was accepted.
    created_at: Time,
    /// When it is due: it is delayed, and has not begun.
    due_at: Option<Time>,
    /// When it ended.
    finished_at: Option<Time>,
    /// The graph's output, when it completed.
    output: Option<Json>,
    /// Tokens used, when it ended.
    usage: Option<UsageView>,
    /// Why it failed.
    error: Option<ErrorView>,
    /// What is not undone, when it was rolled back or will be.
    notice: Option<String>,
}

impl TryFrom<Run> for RunView {
    type Error = StoreError;

    fn try_from(run: Run) -> Result<Self, StoreError> {
        let outcome =
            run.result.as_deref().map(|bytes| record::decode::<Outcome>("result", bytes)).transpose()?;
        let (output, usage, error) = match outcome {
            Some(outcome) => (outcome.output, Some(outcome.usage.into()), outcome.error),
            None => (None, None, None),
        };
        let undone = run.rollback || run.state == RunState::RolledBack;
        Ok(Self {
            notice: undone.then(|| NOT_UNDONE.to_owned()),
            run_id: Id::new(run.run),
            session_id: run.key.session.to_string(),
            graph: run.graph,
            graph_hash: run.hash,
            status: run.state.into(),
            cancel_requested: run.cancel_requested,
            step: run.step,
            created_at: run.created_at.into(),
            due_at: run.due_at.filter(|_| run.state == RunState::Queued).map(Time::from),
            finished_at: run.finished_at.map(Time::from),
            output,
            usage,
            error: error.map(ErrorView::from),
        })
    }
}

/// How an invoked run ended.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(skip_serializing_if_is_none)]
pub(in crate::server) struct InvokeResult {
    /// The run.
    pub(in crate::server) run_id: Id,
    /// The conversation.
    pub(in crate::server) session_id: String,
    /// How it ended.
    pub(in crate::server) status: Status,
    /// The graph's output, when it completed.
    pub(in crate::server) output: Option<Json>,
    /// The text of the last message.
    pub(in crate::server) reply: Option<String>,
    /// The messages that the run sent.
    pub(in crate::server) messages: Vec<SentMessage>,
    /// Tokens used.
    pub(in crate::server) usage: UsageView,
    /// Why it failed.
    pub(in crate::server) error: Option<ErrorView>,
    /// The questions that it waits for.
    pub(in crate::server) interrupts: Option<Vec<InterruptView>>,
}

/// A message that a run sent.
#[derive(Debug, Clone, PartialEq, Eq, Object)]
#[oai(skip_serializing_if_is_none)]
pub(in crate::server) struct SentMessage {
    /// Its id.
    pub(in crate::server) message_id: String,
    /// The node that sent it.
    pub(in crate::server) node: Option<String>,
    /// Its text.
    pub(in crate::server) content: String,
}

/// Where a client follows a run, and where it reads it.
pub(in crate::server) fn run_urls(run: RunId) -> (String, String) {
    (format!("/v1/runs/{run}/events"), format!("/v1/runs/{run}"))
}
