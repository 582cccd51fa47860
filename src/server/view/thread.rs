//! Threads in answers.

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use serde_json::Value as Json;

use super::{Id, Status, Time};
use crate::engine::CheckpointView;
use crate::engine::step::Child;
use crate::id::ThreadId;
use crate::store::{RunState, Thread};

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub(in crate::server) enum ThreadStatus {
    /// Nothing: it takes the next turn at once.
    Idle,
    /// A run is not over.
    Busy,
    /// A run waits for a person.
    Interrupted,
    /// Nothing, and its newest run failed; it takes the next turn at once.
    Error,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Thread", skip_serializing_if_is_none)]
pub(in crate::server) struct ThreadOverview {
    /// Its id, chosen by the client.
    session_id: String,
    /// The graph of its runs.
    graph: String,
    /// What it is doing.
    status: ThreadStatus,
    /// The checkpoint that the next run starts from.
    checkpoint_id: Option<Id>,
    /// Its newest run.
    last_run: Option<LastRun>,
    /// When it was created.
    created_at: Time,
    /// When a run last touched it.
    updated_at: Time,
}

/// The newest run of a thread.
#[derive(Debug, Clone, PartialEq, Object)]
struct LastRun {
    /// Its id.
    run_id: Id,
    /// Where it stands.
    status: Status,
}

impl From<Thread> for ThreadOverview {
    fn from(thread: Thread) -> Self {
        let status = match thread.last_run {
            Some((_, RunState::Queued | RunState::Running)) => ThreadStatus::Busy,
            Some((_, RunState::Interrupted)) => ThreadStatus::Interrupted,
            Some((_, RunState::Failed | RunState::Dead)) => ThreadStatus::Error,
            _ => ThreadStatus::Idle,
        };
        Self {
            session_id: thread.key.session.to_string(),
            graph: thread.graph,
            status,
            checkpoint_id: thread.head.map(Id::new),
            last_run: thread
                .last_run
                .map(|(run, state)| LastRun { run_id: Id::new(run), status: state.into() }),
            created_at: thread.created_at.into(),
            updated_at: thread.updated_at.into(),
        }
    }
}

/// A page of threads, latest touched first.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(skip_serializing_if_is_none)]
pub(in crate::server) struct ThreadPage {
    /// The threads.
    pub(in crate::server) threads: Vec<ThreadOverview>,
    /// Send it as `cursor` for the next page; absent on the last one.
    pub(in crate::server) next_cursor: Option<String>,
}

/// The place after a thread in the list. Opaque to clients.
pub(in crate::server) fn cursor(updated_at: DateTime<Utc>, thread: ThreadId) -> String {
    let at = updated_at.timestamp_nanos_opt().unwrap_or(i64::MAX);
    format!("{}{}", crate::id::hex(&at.to_be_bytes()), thread.0.simple())
}

/// Reads what [`cursor`] wrote.
pub(in crate::server) fn parse_cursor(text: &str) -> Option<(DateTime<Utc>, ThreadId)> {
    if text.len() != 48 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let (at, thread) = text.split_at(16);
    let at = u64::from_str_radix(at, 16).ok()?.cast_signed();
    Some((DateTime::from_timestamp_nanos(at), thread.parse().ok()?))
}

/// A saved barrier of a thread.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Checkpoint", skip_serializing_if_is_none)]
pub(in crate::server) struct CheckpointOverview {
    /// Its id.
    checkpoint_id: Id,
    /// The one before it.
    parent_id: Option<Id>,
    /// The run that made it.
    run_id: Option<Id>,
    /// The superstep of that run; 0 is the input.
    step: u64,
    /// How it came about: `input`, `step`, `update`, `fork` or `answer`.
    source: String,
    /// The nodes that run next.
    next: Vec<String>,
    /// When it was made.
    created_at: Time,
}

impl From<CheckpointView> for CheckpointOverview {
    fn from(view: CheckpointView) -> Self {
        Self {
            checkpoint_id: Id::new(view.checkpoint),
            parent_id: view.parent.map(Id::new),
            run_id: view.run.map(Id::new),
            step: view.step,
            source: view.source,
            next: view.next,
            created_at: view.created_at.into(),
        }
    }
}

/// A page of a thread's past, newest first.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(skip_serializing_if_is_none)]
pub(in crate::server) struct History {
    /// The checkpoints.
    pub(in crate::server) checkpoints: Vec<CheckpointOverview>,
    /// Send it as `before` for the next page; absent on the last one.
    pub(in crate::server) next_before: Option<Id>,
}

/// A thread's public state.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "State", skip_serializing_if_is_none)]
pub(in crate::server) struct StateView {
    /// The checkpoint it is read at; absent before the first barrier.
    pub(in crate::server) checkpoint: Option<CheckpointOverview>,
    /// Channel by channel, or the place that `path` names.
    pub(in crate::server) state: Json,
    /// The called graphs that are in the middle of their work, outer ones first; absent when there is none.
    pub(in crate::server) children: Option<Vec<ChildView>>,
}

/// A called graph that is in the middle of its work.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "PausedGraph", skip_serializing_if_is_none)]
pub(in crate::server) struct ChildView {
    /// The nodes that called it, outermost first, as an update of the state takes them: `name`, or `name[ITEM]` for an item
    /// of a list or a call of a tool.
    path: Vec<String>,
    /// The index within the innermost `map` around it.
    item: Option<u64>,
    /// Its public state.
    state: Json,
    /// The nodes that run next in it.
    frontier: Vec<String>,
    /// The ids of the questions that are open in it.
    interrupts: Vec<String>,
}

impl From<Child> for ChildView {
    fn from(child: Child) -> Self {
        let Child { path, item, state, next, open } = child;
        let interrupts = open.into_iter().map(|open| open.interrupt_id).collect();
        Self { path, item, state, frontier: next, interrupts }
    }
}

/// A thread's conversation.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Conversation", skip_serializing_if_is_none)]
pub(in crate::server) struct MessagesView {
    /// The checkpoint it is read at; absent before the first barrier.
    pub(in crate::server) checkpoint: Option<CheckpointOverview>,
    /// The chat turns, oldest first.
    pub(in crate::server) messages: Vec<ChatTurn>,
}

/// A chat turn.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(skip_serializing_if_is_none)]
pub(in crate::server) struct ChatTurn {
    /// Its id.
    id: Option<String>,
    /// Who says it: `user`, `assistant` or `system`.
    role: String,
    /// A text, or a list of parts.
    content: Json,
}

impl From<Json> for ChatTurn {
    fn from(mut turn: Json) -> Self {
        let text = |value: &Json| value.as_str().map(str::to_owned);
        Self {
            id: turn.get("id").and_then(text),
            role: turn.get("role").and_then(text).unwrap_or_default(),
            content: turn.get_mut("content").map(Json::take).unwrap_or_default(),
        }
    }
}
