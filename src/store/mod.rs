//! Threads, runs, checkpoints and events behind one trait.
//!
//! Invariant: the store moves bytes and numbers. It does not know what a node, a channel or an
//! event is, and every write for a run passes the fence gate.

mod audit;
mod branch;
mod hook;
pub mod memory;
mod news;
pub mod seal;
pub mod sql;
mod turns;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use self::audit::{Act, Actor, AuditFilter, Erased, Noted};
pub use self::branch::{Branch, Branched, Origin};
pub use self::hook::{Hook, HookCounts, HookFilter, HookState, Told};
pub use self::news::News;
use crate::id::{
    CacheKey, CheckpointId, HookId, InterruptId, Owner, Part, RunId, Seq, TaskId, ThreadId, ThreadKey,
};

/// The name in the place of a user's who was erased; nobody can have it.
const ERASED: &str = "(erased)";

/// Where a run stands. `Completed`, `Failed`, `Cancelled`, `RolledBack` and `Dead` are terminal.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::RunState;
///
/// let thread = app.thread("acme", "ada", "desk")?;
/// let finished = thread.start("chat", "Hello!").await?.finish().await?;
/// // Too late.
/// assert_eq!(app.cancel(thread.owner(), finished.run).await?, Some(RunState::Completed));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Waits for its turn on the thread, for a free owner or for `available_at`.
    Queued,
    /// Has an owner with a lease.
    Running,
    /// Waits for a person's answer.
    Interrupted,
    /// Reached its end.
    Completed,
    /// Ended with an error; the thread takes the next turn.
    Failed,
    /// Was cancelled by a person.
    Cancelled,
    /// Was undone: the head of the thread moved back to before it.
    RolledBack,
    /// Gave up after repeated process crashes without progress.
    Dead,
}

impl RunState {
    /// Returns its name, as it is stored and told.
    ///
    /// ```
    /// assert_eq!(graphloom::RunState::RolledBack.name(), "rolled_back");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::RolledBack => "rolled_back",
            Self::Dead => "dead",
        }
    }
}

/// What is kept of the events of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kept {
    /// Nothing: their time is over.
    Nothing,
    /// All but the pieces of messages, which are there as a whole.
    Lean,
    /// All.
    All,
}

/// A run as stored.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are columns of a row, and independent of each other")]
pub struct Run {
    /// Its id.
    pub run: RunId,
    /// Whose it is, and on which session.
    pub key: ThreadKey,
    /// The thread's row.
    pub thread: ThreadId,
    /// The graph's id.
    pub graph: String,
    /// The hash of the plan that it is pinned to.
    pub hash: String,
    /// Where it stands.
    pub state: RunState,
    /// The number that makes its owner the owner; 0 before the first claim.
    pub fence: u64,
    /// Supersteps committed so far.
    pub step: u64,
    /// Process crashes since the last committed superstep.
    pub crashes: u32,
    /// Somebody asked for its end.
    pub cancel_requested: bool,
    /// With its end, the head of the thread is to move back to before it.
    pub rollback: bool,
    /// What it was started with, as the engine encoded it.
    pub input: Vec<u8>,
    /// How it ended, as the engine encoded it; absent while it is not terminal.
    pub result: Option<Vec<u8>>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When it reached a terminal state.
    pub finished_at: Option<DateTime<Utc>>,
    /// What is kept of its events.
    pub kept: Kept,
    /// When it is due, or was to be when it was cancelled before: it is delayed, has not begun, and has no place among the
    /// runs of its thread.
    pub due_at: Option<DateTime<Utc>>,
    /// It ends when nobody reads it.
    pub needs_reader: bool,
    /// It is `Running`, and its owner's lease is over: nobody works on it until it is claimed. Known where it matters: by
    /// [`Store::runs`] and [`Store::find_run`].
    pub lost: bool,
    /// Where its end is told, and each pause.
    pub webhook: Option<String>,
    /// When the time of the first of its open questions is over, by the clock of the store. A run that was claimed for that
    /// still has it.
    pub wake_at: Option<DateTime<Utc>>,
}

/// A thread as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Thread {
    /// Its identity.
    pub key: ThreadKey,
    /// Its row.
    pub thread: ThreadId,
    /// The checkpoint that the next run starts from; absent before the first barrier.
    pub head: Option<CheckpointId>,
    /// The graph of its first run, and so of all.
    pub graph: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When a run last touched it.
    pub updated_at: DateTime<Utc>,
    /// Its newest run, from which the status is derived; one that is delayed comes later.
    pub last_run: Option<(RunId, RunState)>,
}

/// A checkpoint as stored: the delta of its barrier, and now and then the whole state.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Its id.
    pub checkpoint: CheckpointId,
    /// The one before it on this line; absent for the first.
    pub parent: Option<CheckpointId>,
    /// The run that made it, or that goes on from it after an update or a fork.
    pub run: Option<RunId>,
    /// The superstep of that run; 0 is the input.
    pub step: u64,
    /// How it came about: `input step update fork answer`.
    pub source: String,
    /// What changed, as the engine encoded it.
    pub delta: Vec<u8>,
    /// The whole state after the change, when this row is a snapshot.
    pub snapshot: Option<Vec<u8>>,
    /// What runs next, as the engine encoded it.
    pub frontier: Vec<u8>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A batch of events of one fence, numbers `first..=last`, as the engine encoded them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventBatch {
    /// The owner's fence.
    pub fence: u64,
    /// The number of the first event in `data`.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// The encoded events.
    pub data: Vec<u8>,
}

/// Who claims runs: one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The name that a restarted process has again, so that it may take its own runs back at once.
    pub instance: String,
    /// Differs at every start.
    pub boot: uuid::Uuid,
    /// How long a claim holds without a heartbeat.
    pub lease: Duration,
    /// The most runs of one tenant that work at once, over all processes; absent: any number. What comes on top waits.
    pub tenant_runs: Option<u32>,
    /// The most runs of one tenant that wait for their turn; over it no more are accepted. What is delayed has no turn yet,
    /// and an answer is always taken.
    pub tenant_queue: u32,
}

/// What to do when the thread already has a run that is not terminal.
///
/// ```
/// use graphloom::{OnBusy, Request};
///
/// let request = Request::from("Hello!").on_busy(OnBusy::Reject);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBusy {
    /// Waits for its turn, first come first served.
    #[default]
    Enqueue,
    /// Refuses.
    Reject,
    /// Waits, and the engine asks for the end of all that came before.
    Interrupt,
    /// The same, and what those did to the thread is taken back.
    Rollback,
}

/// The key that makes a repeated POST start one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The operation, for instance `chat/support`.
    pub route: String,
    /// The client's key.
    pub key: String,
    /// The SHA-256 of the request body.
    pub body_hash: String,
}

/// What an idempotency key was used for.
#[derive(Debug, Clone, PartialEq)]
pub enum Keyed {
    /// The same request.
    Same {
        /// The run that it started, or that went on with it.
        run: Box<Run>,
        /// The last event that is not of the request.
        after: Seq,
    },
    /// Another request.
    Other,
}

/// A run to accept.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its id, made by the caller.
    pub run: RunId,
    /// The thread, created when it does not exist.
    pub key: ThreadKey,
    /// The graph's id.
    pub graph: String,
    /// The hash of the plan.
    pub hash: String,
    /// What it starts with.
    pub input: Vec<u8>,
    /// What to do when the thread is busy.
    pub on_busy: OnBusy,
    /// The most runs that may wait on one thread.
    pub queue_limit: u32,
    /// The process that runs it at once when the thread is free.
    pub process: Process,
    /// Makes a repeated request find the run of the first.
    pub idempotency: Option<Idempotency>,
    /// The version of the thread that `hash` was found to go on from; not needed when they are the same.
    pub from: Option<String>,
    /// It begins so much later, by the clock of the store. Until then it keeps no other run waiting, whatever the thread
    /// does; then it takes its place behind those that are there. As many may wait for their time as for their turn.
    pub delay: Option<Duration>,
    /// What is to come of it besides.
    pub wishes: Wishes,
}

/// What whoever begins a run, or goes on with it, wants besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// It ends when nobody reads it; it counts as read for so long at first.
    pub read_for: Option<Duration>,
    /// Where its end is told, and each pause; absent: where it was told to before.
    pub webhook: Option<String>,
}

impl Wishes {
    /// Returns the number of the rules that an engine must know to do as is wished.
    fn engine(&self) -> i64 {
        if *self == Self::default() { 1 } else { 2 }
    }
}

/// What became of a run to accept.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// Stored as `running`, owned by the caller with fence 1.
    Claimed {
        /// The run.
        run: Run,
        /// The head that it starts from.
        head: Option<CheckpointId>,
    },
    /// Stored as `queued`: behind others, or since as many of the tenant work as may.
    Queued {
        /// The run.
        run: Run,
    },
    /// The idempotency key was used before; nothing was stored.
    Known(Keyed),
    /// The thread is of another graph, or of a version of it that is neither `hash` nor `from`; nothing was stored.
    OtherVersion {
        /// The thread's graph.
        graph: String,
        /// The version of its newest run.
        hash: String,
    },
    /// The thread's run waits for a person, and not for one whose time is over; nothing was stored.
    Waits,
    /// The thread is busy and `on_busy` says reject; nothing was stored.
    Busy {
        /// The run that holds the thread.
        active: RunId,
    },
    /// Too many runs wait on the thread; nothing was stored.
    QueueFull,
    /// Too many runs of the tenant wait; nothing was stored.
    TenantQueueFull,
}

/// What one barrier of a run writes, in one transaction behind the fence gate.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The run's tenant and row.
    pub owner: Owner,
    /// The thread's row.
    pub thread: ThreadId,
    /// The run.
    pub run: RunId,
    /// The fence that the writer believes to hold.
    pub fence: u64,
    /// The step that the writer believes to be committed; the row holds `step + 1` afterwards.
    pub step: u64,
    /// New checkpoints, oldest first; the last becomes the head of the thread. Of a run that is `rolled_back` there are
    /// none, and the head moves back to before it.
    pub checkpoints: Vec<Checkpoint>,
    /// Questions that are put with the barrier.
    pub questions: Vec<Question>,
    /// Questions whose answers were taken, or that nobody needs any more.
    pub closed: Vec<InterruptId>,
    /// The superstep up to which pending writes are part of the barrier now, where there may be some.
    pub pending: Option<u64>,
    /// Results that are kept for the tenant, sorted by key; each replaces what was under its key.
    pub cached: Vec<CacheEntry>,
    /// Events that become visible with the barrier.
    pub events: Option<EventBatch>,
    /// The first and last number of the newest batch that was appended since the barrier before. A database that crashed
    /// may have lost it, with some of those before it.
    pub appended: Option<(u64, u64)>,
    /// The state that the run enters, with its encoded result when terminal; absent: goes on. A run that pauses
    /// (`interrupted`) while an answer to one of its open questions is there, or its end was asked for, is `queued`
    /// instead, so that it never waits for what has come.
    pub next: Option<(RunState, Option<Vec<u8>>)>,
    /// What is told of a run that pauses, if somebody is to be told; of its end the result is.
    pub notice: Option<Vec<u8>>,
    /// A run that pauses does so at a breakpoint: no answer that is there, and no question whose time is over, lets it go on.
    pub stopped: bool,
    /// How long the lease holds from now.
    pub lease: Duration,
}

/// A result that is kept for a while. It belongs to the thread that gave it, and goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// What it is found by.
    pub key: CacheKey,
    /// The result, as the engine encoded it.
    pub data: Vec<u8>,
    /// For how long, by the clock of the store.
    pub ttl: Duration,
}

/// A question that a run puts to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its id.
    pub id: InterruptId,
    /// Whoever has the role `agent` in the tenant may answer; else only the owner of the thread.
    pub agent: bool,
    /// What is asked, as the engine encoded it.
    pub data: Vec<u8>,
    /// When the run is to go on without an answer.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A question as stored, open or answered.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenQuestion {
    /// Its id.
    pub id: InterruptId,
    /// The run that waits.
    pub run: RunId,
    /// Whose it is, and on which session.
    pub key: ThreadKey,
    /// The thread's row.
    pub thread: ThreadId,
    /// An agent is asked.
    pub agent: bool,
    /// What is asked, as the engine encoded it.
    pub data: Vec<u8>,
    /// When it was asked.
    pub created_at: DateTime<Utc>,
    /// Who answered, and when.
    pub answered: Option<(String, DateTime<Utc>)>,
    /// When its time was over, if it was over without an answer.
    pub expired: Option<DateTime<Utc>>,
}

/// Answers to open questions of one run: all are taken, or none.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The caller.
    pub owner: Owner,
    /// He may answer what is asked of agents in his tenant.
    pub agent: bool,
    /// The run.
    pub run: RunId,
    /// Its thread.
    pub key: ThreadKey,
    /// The answers, as the engine encoded them.
    pub answers: Vec<(InterruptId, Vec<u8>)>,
    /// Who answers, for those who come later.
    pub by: String,
    /// Makes a repeated request find what the first one did.
    pub idempotency: Option<Idempotency>,
    /// The process that goes on with the run when it waits.
    pub process: Process,
    /// What a run that waits goes on with, in the place of its input.
    pub input: Option<Vec<u8>>,
    /// What is to come besides of a run that waits.
    pub wishes: Wishes,
}

/// The wish to go on with a run that failed, or that waits.
#[derive(Debug, Clone)]
pub struct Resume {
    /// The thread; its owner asks for it.
    pub key: ThreadKey,
    /// The run.
    pub run: RunId,
    /// The process that goes on with it.
    pub process: Process,
    /// What it goes on with, in the place of its input.
    pub input: Option<Vec<u8>>,
    /// What is to come of it besides.
    pub wishes: Wishes,
    /// Makes a repeated request find what the first one did.
    pub idempotency: Option<Idempotency>,
}

/// What became of answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answering {
    /// They are stored, and the run is the process's.
    Claimed(Claim),
    /// They are stored, for whoever works on the run. One that waited is queued, when as many of the tenant work as may.
    Stored {
        /// The run.
        run: Run,
        /// The last event of the run that is stored.
        after: Seq,
    },
    /// The idempotency key was used before; nothing was stored.
    Known(Keyed),
    /// One of the questions was answered before; nothing was stored.
    Taken {
        /// The question.
        id: InterruptId,
        /// Who.
        by: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// The time of one of the questions was over before, by the clock of the store; nothing was stored.
    Expired {
        /// The question.
        id: InterruptId,
        /// When.
        at: DateTime<Utc>,
    },
    /// One of the questions does not exist, is over, or is not for the caller; nothing was stored.
    Unknown(InterruptId),
}

/// What became of the wish to go on with a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Resumed {
    /// It is the process's.
    Claimed(Box<Claim>),
    /// It is queued, since as many of the tenant work as may.
    Queued(Box<Run>),
    /// The idempotency key was used before; nothing was stored.
    Known(Keyed),
    /// It did not fail or is not the newest of its thread, and it does not wait; or there is none.
    Nothing,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Everything is stored.
    Done {
        /// Somebody asked for the end of the run.
        cancel_requested: bool,
        /// What was appended before is still there.
        kept: bool,
    },
    /// Another owner holds the run, or it is over: nothing was stored, and the writer must stop.
    Lost,
}

/// What a heartbeat learns about the runs that a process drives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beat {
    /// Those whose end somebody asked for.
    pub cancelled: Vec<RunId>,
    /// Those that the process does not own any more: they are over, another has them, or they were deleted.
    pub lost: Vec<RunId>,
}

/// A claimed run.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The run, with its new fence.
    pub run: Run,
    /// The head of its thread.
    pub head: Option<CheckpointId>,
    /// Its former owner vanished while it was running.
    pub crashed: bool,
}

/// A compiled graph's stored body, by hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphVersion {
    /// The graph's id.
    pub graph: String,
    /// The hash of the canonical form.
    pub hash: String,
    /// The canonical form with everything that compiling it needs.
    pub body: Vec<u8>,
}

/// What is on a graph version, over all tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VersionUse {
    /// Threads whose newest run was accepted for it.
    pub threads: u64,
    /// Runs that are pinned to it and not over.
    pub open_runs: u64,
    /// Those of them that wait for a person.
    pub paused_runs: u64,
}

/// Which runs an operator asks for, over all tenants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunFilter {
    /// Those in these states; empty: in any.
    pub states: Vec<RunState>,
    /// Those of this tenant.
    pub tenant: Option<Part>,
    /// Those that were accepted before this one.
    pub before: Option<RunId>,
    /// Those of this thread.
    pub thread: Option<ThreadId>,
}

/// How many runs are not over, and how many were given up, over all tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Those that wait for an owner.
    pub queued: u64,
    /// Those that are not due yet.
    pub delayed: u64,
    /// Those that have one.
    pub running: u64,
    /// Those that wait for a person.
    pub interrupted: u64,
    /// Those that were given up.
    pub dead: u64,
}

/// Why the store could not answer.
///
/// ```
/// use graphloom::StoreError;
///
/// fn may_be_tried_again(error: &StoreError) -> bool {
///     matches!(error, StoreError::Unavailable(_))
/// }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away or refuses; trying again later can help.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A write was sent and its outcome is not known: read the run before anything else.
    #[error("the outcome of a write is unknown: {0}")]
    Unknown(String),
    /// A stored row does not make sense.
    #[error("a stored {what} cannot be read: {why}")]
    Corrupt {
        /// Which kind of row.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The settings cannot work.
    #[error("{0}")]
    Config(String),
}

/// The outcome of a store operation.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What graphloom keeps. Every back end passes the same conformance suite (`tests/it/store.rs`).
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Brings the tables to this version; several processes may call it at once.
    async fn migrate(&self) -> Result<()>;

    /// Answers when the back end can take work.
    async fn ping(&self) -> Result<()>;

    /// Stores a graph version; an equal hash is left as it is.
    async fn put_graph_version(&self, version: &GraphVersion) -> Result<()>;

    /// Reads a graph version.
    async fn graph_version(&self, hash: &str) -> Result<Option<GraphVersion>>;

    /// Lists the first `limit` hashes of graph versions that begin with these hex digits: for an operator, never for a
    /// request.
    async fn hashes(&self, beginning: &str, limit: u32) -> Result<Vec<String>>;

    /// Counts what is on a graph version. It looks at every thread: for an operator, never for a request.
    async fn version_use(&self, hash: &str) -> Result<VersionUse>;

    /// Counts the runs that wait for a person, of all tenants, by graph and hash: for a start, never for a request.
    async fn paused_versions(&self) -> Result<BTreeMap<(String, String), u64>>;

    /// Accepts a run: creates the thread when needed, and claims the run when the thread is free and the tenant may have one
    /// more at work. Where tenants have a limit, none goes before those of its tenant that wait for a process; an answer
    /// and a resume do not either. A thread stays with the graph of its first run.
    async fn accept(&self, new: NewRun) -> Result<Accepted>;

    /// Stores a run that begins from outside, on a thread where no run works or waits for its turn.
    async fn branch(&self, branch: Branch) -> Result<Branched>;

    /// Writes one barrier.
    async fn commit(&self, commit: Commit) -> Result<Committed>;

    /// Stores events between barriers; a batch whose fence no longer holds is dropped silently. Here and in
    /// [`Store::commit`] a batch replaces a shorter one with the same fence and first number, and never a longer one.
    async fn append_events(&self, batches: Vec<(Owner, RunId, EventBatch)>) -> Result<()>;

    /// Claims up to `limit` runs: queued ones whose turn it is, those whose lease ran out, those that an earlier boot of
    /// this instance left, and those that wait for an answer whose time is over. Raises the fence, and counts a crash for a
    /// run that was taken while running. Tenants take turns, and none gets more to work than the process says. A run that
    /// was taken so before, and did not move on since, is claimed only while the process has no other such run.
    async fn claim(&self, process: &Process, limit: u32) -> Result<Vec<Claim>>;

    /// Renews the leases of these runs, as far as the process owns them. A run that nobody drives is not among them, so
    /// that its lease runs out and it is claimed again. It is asked from one thread, with a runtime of its own.
    async fn heartbeat(&self, process: &Process, live: &[RunId]) -> Result<Beat>;

    /// Returns the runs that the process owns and whose end somebody asked for. It is asked from the same thread.
    async fn asked(&self, process: &Process) -> Result<Vec<RunId>>;

    /// Gives a claimed run back to the queue without counting a crash.
    async fn release(&self, owner: &Owner, run: RunId, fence: u64) -> Result<()>;

    /// Asks for the end of a run. A run that is queued, waits for a person, or lost its owner becomes `cancelled` at once, with `result`, and with `events` as
    /// the end of its stream: under fence 0 when it never had an owner, else under a new fence. With `rollback` it becomes
    /// `rolled_back`, and the head of the thread moves back to before it. The first wish is noted. Returns the run as it is
    /// now.
    async fn request_cancel(
        &self,
        owner: &Owner,
        run: RunId,
        actor: Actor,
        rollback: bool,
        result: Vec<u8>,
        events: EventBatch,
    ) -> Result<Option<Run>>;

    /// Answers open questions of one run. A run that waits is claimed for it.
    async fn answer(&self, answer: Answer) -> Result<Answering>;

    /// Finds what a caller used an idempotency key for.
    async fn keyed(&self, owner: &Owner, key: &Idempotency) -> Result<Option<Keyed>>;

    /// Reads the answers to a run's questions that its owner has not taken.
    async fn answers(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>>;

    /// Reads all answers that a run was given, also those that its owner has taken: for an operator, never for a request.
    async fn given(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>>;

    /// Lists the questions of a thread that can be answered, oldest first.
    async fn questions(&self, key: &ThreadKey) -> Result<Vec<OpenQuestion>>;

    /// Reads a question that is not over, or was answered, or whose time was over, when it is for the caller.
    async fn question(&self, owner: &Owner, agent: bool, id: &InterruptId) -> Result<Option<OpenQuestion>>;

    /// Lists the questions to agents of a tenant that can be answered, oldest first, after the cursor `(created_at, id)`.
    async fn approvals(
        &self,
        tenant: &Part,
        after: Option<(DateTime<Utc>, InterruptId)>,
        limit: u32,
    ) -> Result<Vec<OpenQuestion>>;

    /// Stores what a task of an unfinished superstep came to; the first stays. False: the fence is lost.
    async fn put_pending(
        &self,
        owner: &Owner,
        run: RunId,
        fence: u64,
        step: u64,
        task: &TaskId,
        data: Vec<u8>,
    ) -> Result<bool>;

    /// Reads what tasks of a superstep came to.
    async fn pending(&self, owner: &Owner, run: RunId, step: u64) -> Result<Vec<(TaskId, Vec<u8>)>>;

    /// Reads results that are kept for a tenant, of these keys, and whose time is not over.
    async fn cached(&self, tenant: &Part, keys: &[CacheKey]) -> Result<Vec<(CacheKey, Vec<u8>)>>;

    /// Claims a run that failed while it is the newest of its thread, or that waits, so that it goes on.
    async fn resume(&self, resume: Resume) -> Result<Resumed>;

    /// Reads a run of this owner.
    async fn run(&self, owner: &Owner, run: RunId) -> Result<Option<Run>>;

    /// Reads the stored batches that hold an event after `after`, in order, at most about `limit` bytes
    /// of data but at least one batch. The first batch may begin before `after`.
    async fn events(&self, owner: &Owner, run: RunId, after: Seq, limit: usize) -> Result<Vec<EventBatch>>;

    /// Reads where runs of any owners stand, and what each told after a place, as [`Store::events`] does, in no more
    /// statements than tenants with something new, and one. A run that is not there has no news. Only what a run told is
    /// held to its owner: the caller has looked whose it is, and where it stands may be told to whoever names its tenant.
    /// The state is that of before the events: when it says over, the last event is among them, or behind those that
    /// `limit` left out.
    async fn news(&self, of: &[(Owner, RunId, Seq)], limit: usize) -> Result<Vec<News>>;

    /// Reads a thread.
    async fn thread(&self, key: &ThreadKey) -> Result<Option<Thread>>;

    /// Lists the owner's threads, latest touched first, after the cursor `(updated_at, thread)`.
    async fn threads(
        &self,
        owner: &Owner,
        before: Option<(DateTime<Utc>, ThreadId)>,
        limit: u32,
    ) -> Result<Vec<Thread>>;

    /// Deletes a thread with all that hangs on it; false when there was none. A run in flight is lost
    /// to its owner at the next gate.
    async fn delete_thread(&self, key: &ThreadKey) -> Result<bool>;

    /// Deletes up to `limit` threads of a tenant, or of one of its users, and returns how many. When none is left, it
    /// deletes what else there is, takes the name of the user off the answers that he gave to others, and leaves a note that
    /// says how many threads there were, `before` of them in earlier calls. Called again, it goes on where it was.
    async fn erase(&self, tenant: &Part, user: Option<&Part>, limit: u32, before: u64) -> Result<Erased>;

    /// Lists notes of acts of all tenants, newest first: for an operator, never for a request.
    async fn audit(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<Noted>>;

    /// Deletes up to `limit` notes that are so old, of all tenants, and returns how many. One of less than a day stays.
    async fn forget_audit(&self, age: Duration, limit: u32) -> Result<u64>;

    /// Lists runs of all tenants, newest first: for an operator, never for a request.
    async fn runs(&self, filter: &RunFilter, limit: u32) -> Result<Vec<Run>>;

    /// Counts runs of all tenants.
    async fn counts(&self) -> Result<Counts>;

    /// Finds a run of any tenant: for an operator, never for a request.
    async fn find_run(&self, run: RunId) -> Result<Option<Run>>;

    /// Puts a run that was given up back into the queue. Nothing: it was not, another run came after it, or there is none.
    async fn retry(&self, run: RunId) -> Result<Option<Run>>;

    /// Lists runs of all tenants that are over for so long, and of whose events just this is kept; the longest over first.
    async fn overdue(&self, kept: Kept, age: Duration, limit: u32) -> Result<Vec<Run>>;

    /// Replaces the events of a run that is over by these, so that less is kept of them. False: it is not over, it went on
    /// since it was read, or no more than that is kept.
    async fn keep_events(&self, run: &Run, kept: Kept, batches: Vec<EventBatch>) -> Result<bool>;

    /// Looks at up to `limit` threads with a run that is over for so long, deletes their checkpoints that are as old, but
    /// never one that the head stands on, nor any while a run is not over, and returns how many threads it looked at.
    async fn forget_checkpoints(&self, age: Duration, limit: u32) -> Result<u64>;

    /// Deletes up to `limit` results whose time is over, of all tenants, and returns how many.
    async fn forget_cached(&self, limit: u32) -> Result<u64>;

    /// Notes that these runs are read, for so long from now, as far as that matters. One whose row somebody holds is left
    /// out.
    async fn read_on(&self, runs: &[(Part, RunId)], time: Duration) -> Result<()>;

    /// Lists up to `limit` runs of all tenants that were to end when nobody reads them, and that nobody reads; not those
    /// whose end was asked for.
    async fn unread(&self, limit: u32) -> Result<Vec<Run>>;

    /// Takes up to `limit` of what is to be told and is due, of all tenants. Nobody else has it before the lease is over.
    async fn claim_hooks(&self, lease: Duration, limit: u32) -> Result<Vec<Hook>>;

    /// Notes what came of a try. One that took longer than its lease counts only if it came to its end.
    async fn told(&self, tenant: &Part, hook: HookId, attempt: u32, told: Told) -> Result<()>;

    /// Lists what is told of runs of all tenants, newest first: for an operator, never for a request.
    async fn hooks(&self, filter: &HookFilter, limit: u32) -> Result<Vec<Hook>>;

    /// Counts the same.
    async fn hook_counts(&self) -> Result<HookCounts>;

    /// Has it told from now on, with all tries, what was given up or waits for its next try. Nothing: it was told, or
    /// there is none.
    async fn retry_hook(&self, hook: HookId) -> Result<Option<Hook>>;

    /// Deletes up to `limit` rows of what was told, and of what was given up, so long ago; returns how many.
    async fn forget_hooks(&self, delivered: Duration, failed: Duration, limit: u32) -> Result<u64>;

    /// Cancels a run that was given up. Nothing: it was not, or there is none.
    async fn discard(&self, run: RunId) -> Result<Option<Run>>;

    /// Reads what rebuilds the state at `checkpoint`: the rows from the nearest snapshot at or before it
    /// up to it, oldest first. Empty when there is no such checkpoint on the thread.
    async fn chain(
        &self,
        owner: &Owner,
        thread: ThreadId,
        checkpoint: CheckpointId,
    ) -> Result<Vec<Checkpoint>>;

    /// Lists a thread's checkpoints from `before` (exclusive; absent: from the head, inclusive) back
    /// along the parents, newest first, without snapshots.
    async fn history(
        &self,
        owner: &Owner,
        thread: ThreadId,
        before: Option<CheckpointId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>>;
}
