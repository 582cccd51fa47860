//! Reads threads: their state, their past, their conversation.
//!
//! Invariant: what belongs to somebody else does not exist.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::heads::{self, Head};
use super::record::decode_frontier;
use super::step::Child;
use super::{Engine, Stop, migrate};
use crate::id::{CheckpointId, Owner, RunId, ThreadId, ThreadKey};
use crate::state::State;
use crate::store::{Checkpoint, Counts, Store, StoreError, Thread};

/// A thread at one of its checkpoints.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages, n: {type: integer, default: 3}}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let thread = app.thread("acme", "ada", "desk")?;
/// thread.start("chat", "Hello!").await?.finish().await?;
/// let view = thread.view().await?.expect("it was talked in");
/// assert_eq!(view.messages[0]["content"], "Hello!");
/// assert_eq!(view.state["n"], 3);
/// assert!(view.checkpoint.is_some() && view.children.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ThreadView {
    /// The checkpoint; absent before the first barrier.
    pub checkpoint: Option<CheckpointView>,
    /// The public state at it.
    pub state: Json,
    /// The conversation at it.
    pub messages: Vec<Json>,
    /// The called graphs that are in the middle of their work there, outer ones first.
    pub children: Vec<Child>,
}

/// A checkpoint without its state.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// let thread = app.thread("acme", "ada", "desk")?;
/// let turn = thread.start("chat", "Hello!").await?;
/// let run = turn.run();
/// turn.finish().await?;
/// let points = thread.history(None, 10).await?;
/// assert_eq!((points[0].run, points[0].step), (Some(run), 1));
/// assert_eq!(points[0].parent, Some(points[1].checkpoint));
/// assert!(points[0].next.is_empty(), "nothing was left to do");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CheckpointView {
    /// Its id.
    pub checkpoint: CheckpointId,
    /// The one before it.
    pub parent: Option<CheckpointId>,
    /// The run that made it.
    pub run: Option<RunId>,
    /// The superstep; 0 is the input.
    pub step: u64,
    /// How it came about: `input`, `step`, `update`, `fork` or `answer`.
    pub source: String,
    /// The nodes that run next.
    pub next: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl CheckpointView {
    fn new(row: &Checkpoint) -> Result<Self, StoreError> {
        let mut next: Vec<String> =
            decode_frontier(&row.frontier)?.tokens.into_iter().map(|t| t.at).collect();
        next.dedup();
        Ok(Self {
            checkpoint: row.checkpoint,
            parent: row.parent,
            run: row.run,
            step: row.step,
            source: row.source.clone(),
            next,
            created_at: row.created_at,
        })
    }
}

impl Engine {
    /// Reads a thread's row.
    pub async fn thread(&self, key: &ThreadKey) -> Result<Option<Thread>, StoreError> {
        self.shared.store.thread(key).await
    }

    /// Lists the owner's threads, latest touched first.
    pub async fn threads(
        &self,
        owner: &Owner,
        before: Option<(DateTime<Utc>, ThreadId)>,
        limit: u32,
    ) -> Result<Vec<Thread>, StoreError> {
        self.shared.store.threads(owner, before, limit).await
    }

    /// Counts runs of all tenants, for the operator.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.shared.store.counts().await
    }

    /// Deletes a thread with all that hangs on it; false when there was none.
    pub async fn delete_thread(&self, key: &ThreadKey) -> Result<bool, StoreError> {
        let Some(thread) = self.thread(key).await? else { return Ok(false) };
        let deleted = self.shared.store.delete_thread(key).await?;
        self.shared.heads.forget(thread.thread);
        // Their next write would find nothing; the work for it need not go on until then.
        self.shared.lives().values().filter(|live| live.key == *key).for_each(|live| live.ask(Stop::Lost));
        Ok(deleted)
    }

    /// Reads a thread's state and conversation, at its head or at one of its checkpoints; nothing when
    /// the thread or the checkpoint does not exist.
    pub async fn view(
        &self,
        key: &ThreadKey,
        at: Option<CheckpointId>,
    ) -> Result<Option<ThreadView>, StoreError> {
        let Some(thread) = self.thread(key).await? else { return Ok(None) };
        let Some(checkpoint) = at.or(thread.head) else {
            let state = Json::Object(serde_json::Map::new());
            return Ok(Some(ThreadView {
                checkpoint: None,
                state,
                messages: Vec::new(),
                children: Vec::new(),
            }));
        };
        let loaded = heads::load(&*self.shared.store, &key.owner, thread.thread, checkpoint).await?;
        let Some((head, row)) = loaded else { return Ok(None) };
        let (state, messages) = self.public(&thread.graph, &head);
        let children = self.children(&key.owner, &head).await?;
        Ok(Some(ThreadView { checkpoint: Some(CheckpointView::new(&row)?), state, messages, children }))
    }

    /// Returns the called graphs that are in the middle of their work, as the version tells them that the run is pinned to.
    async fn children(&self, owner: &Owner, head: &Head) -> Result<Vec<Child>, StoreError> {
        let run = head.run.filter(|_| head.frontier.is_holding());
        let Some(run) = run else { return Ok(Vec::new()) };
        let Some(run) = self.shared.store.run(owner, run).await? else { return Ok(Vec::new()) };
        // A version that cannot be used any more does not say what was private.
        let plan = self.shared.plan(&run.graph, &run.hash).await?.ok();
        Ok(plan.map(|plan| head.frontier.children(&plan)).unwrap_or_default())
    }

    /// Reads the whole state at a thread's head, private channels included: for tests of graphs, never for clients.
    pub async fn state(&self, key: &ThreadKey) -> Result<State, StoreError> {
        let Some(thread) = self.thread(key).await? else { return Ok(State::default()) };
        let Some(head) = thread.head else { return Ok(State::default()) };
        let loaded = heads::load(&*self.shared.store, &key.owner, thread.thread, head).await?;
        Ok(loaded.map(|(head, _)| head.state).unwrap_or_default())
    }

    /// Returns what of a state may be shown, and the conversation in it, as the next run would take it. Channels that
    /// today's graph does not know are kept aside: whether they were private is not known.
    fn public(&self, graph: &str, head: &Head) -> (Json, Vec<Json>) {
        let Some(plan) = self.graph(graph) else {
            return (Json::Object(serde_json::Map::new()), Vec::new());
        };
        let state = migrate::take(&plan, head).map_or_else(|_| head.state.clone(), |(state, _)| state);
        let messages = plan.messages.as_ref().and_then(|channel| state.json(channel));
        let messages = match messages {
            Some(Json::Array(messages)) => messages,
            _ => Vec::new(),
        };
        (state.public(&plan.channels), messages)
    }

    /// Lists a thread's checkpoints, newest first; nothing when the thread does not exist.
    pub async fn history(
        &self,
        key: &ThreadKey,
        before: Option<CheckpointId>,
        limit: u32,
    ) -> Result<Option<Vec<CheckpointView>>, StoreError> {
        past(&*self.shared.store, key, before, limit).await
    }
}

/// Lists the checkpoints of a thread in a store, newest first; nothing when there is no such thread.
pub async fn past(
    store: &dyn Store,
    key: &ThreadKey,
    before: Option<CheckpointId>,
    limit: u32,
) -> Result<Option<Vec<CheckpointView>>, StoreError> {
    let Some(thread) = store.thread(key).await? else { return Ok(None) };
    let rows = store.history(&key.owner, thread.thread, before, limit).await?;
    rows.iter().map(CheckpointView::new).collect::<Result<_, _>>().map(Some)
}

/// Reads the whole state of a thread in a store, private channels included, at its head or at a checkpoint: for an operator,
/// never for a request. Nothing when there is no such thread or checkpoint.
pub async fn inspect(
    store: &dyn Store,
    key: &ThreadKey,
    at: Option<CheckpointId>,
) -> Result<Option<(CheckpointView, State)>, StoreError> {
    let Some(thread) = store.thread(key).await? else { return Ok(None) };
    let Some(at) = at.or(thread.head) else { return Ok(None) };
    let Some((head, row)) = heads::load(store, &key.owner, thread.thread, at).await? else { return Ok(None) };
    Ok(Some((CheckpointView::new(&row)?, head.state)))
}
