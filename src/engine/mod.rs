//! Runs graphs: accepts runs, drives them to their end, and lets readers follow.
//!
//! Invariant: there is one execution path, the stream; an answer in one piece is the stream, drained.

mod accept;
mod answer;
mod beat;
mod branch;
mod breakpoint;
mod drain;
mod follow;
mod heads;
pub mod hook;
mod journal;
mod memory;
mod migrate;
mod read;
mod readers;
pub mod record;
mod recover;
mod reload;
mod run;
mod states;
pub mod step;
mod stored;
mod tail;
mod tidy;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde_json::Value as Json;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;
use tracing::{Span, warn};

use crate::compile::{Catalog, Providers};
use crate::egress::SigningKey;
use crate::event::{self, Body, Event, RunStatus, Usage};
use crate::id::{Owner, Part, RunId, Seq, ThreadId, ThreadKey};
use crate::plan::{Durability, Plan};
use crate::state::Mismatch;
use crate::store::{
    self, Actor, Claim, EventBatch, Idempotency, OnBusy, Process, Run, RunState, Store, StoreError,
};

pub use answer::{AnswerError, Answered, Answerer, Asked, Resume, Said, Terms};
pub use branch::{Branched, Fork, Update};
pub use breakpoint::Breakpoints;
pub(crate) use drain::Told;
pub use drain::{Finished, Message};
pub use follow::{Aborted, Followed, Follower};
use heads::Heads;
pub use journal::Frame;
use journal::Journal;
use memory::{Memory, Strain};
pub use read::{CheckpointView, ThreadView, inspect, past};
use record::Outcome;
use reload::Served;
pub use reload::{Finding, Lost, Stale};
pub(crate) use run::user_text;
pub use stored::{Point, Stored, StoredRuns, stored};
use tail::Tails;

/// How long the ends of connections are awaited.
const GOOD_BYE: Duration = Duration::from_secs(5);
/// How long the database may take to say that it is there.
const READY: Duration = Duration::from_secs(2);

/// How an engine behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who claims runs here.
    pub process: Process,
    /// The most runs that may wait on one thread.
    pub queue_limit: u32,
    /// The most runs that this process works on at once; over it, requests are refused and the queue is left to others.
    pub runs: usize,
    /// A run is given up when its process died so often without a superstep between.
    pub crashes: u32,
    /// The most runs that this process takes from the queue at once; 0: it only works on what it accepts.
    pub claims: u32,
    /// How often the queue is looked at when nothing wakes the engine.
    pub poll: Duration,
    /// How often it is looked for what is over for long enough.
    pub tidy: Duration,
    /// How long the pieces of messages are kept after the end of their run.
    pub pieces: Duration,
    /// How many threads' states are kept in memory.
    pub heads: NonZeroUsize,
    /// How many bytes they may take in all.
    pub head_bytes: usize,
    /// The most bytes of a thread's state, as it is stored.
    pub state_bytes: usize,
    /// The most bytes of memory that the process may use; absent: what its container allows, or the machine has.
    pub memory: Option<u64>,
    /// How long a run goes on without a reader that is to end without one.
    pub unread: Duration,
    /// What is told to webhooks is signed with these; without one nothing is told.
    pub webhook_keys: Vec<SigningKey>,
}

impl Settings {
    /// Returns the defaults for a process of this name.
    pub fn new(instance: String) -> Self {
        Self {
            process: Process {
                instance,
                boot: uuid::Uuid::now_v7(),
                lease: Duration::from_secs(15),
                tenant_runs: None,
                tenant_queue: 1000,
            },
            queue_limit: 10,
            runs: 2000,
            crashes: 3,
            claims: 64,
            poll: Duration::from_secs(1),
            tidy: Duration::from_mins(1),
            pieces: Duration::from_hours(1),
            heads: NonZeroUsize::MIN.saturating_add(4095),
            head_bytes: 256 * 1024 * 1024,
            state_bytes: 4 * 1024 * 1024,
            memory: None,
            unread: Duration::from_secs(10),
            webhook_keys: Vec::new(),
        }
    }
}

/// A request to run a graph on a thread.
#[derive(Debug, Clone)]
pub struct Start {
    /// The graph's id.
    pub graph: String,
    /// The conversation.
    pub session: Part,
    /// The new user turn: a text or a list of parts.
    pub message: Option<Json>,
    /// The declared inputs.
    pub input: serde_json::Map<String, Json>,
    /// What to do when the thread is busy.
    pub on_busy: OnBusy,
    /// When its supersteps are stored; absent: as the graph says.
    pub durability: Option<Durability>,
    /// Where the run stops.
    pub breakpoints: Breakpoints,
    /// It begins so much later.
    pub delay: Option<Duration>,
    /// What is to come of it besides.
    pub wishes: Wishes,
    /// Makes a repeated request find the run of the first.
    pub idempotency: Option<Idempotency>,
}

/// What whoever begins a run, or goes on with it, wants besides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wishes {
    /// It is cancelled when nobody reads it any more; else it goes on.
    pub needs_reader: bool,
    /// Where its end is told, and each pause.
    pub webhook: Option<String>,
}

/// A run that was accepted, now or by an earlier request with the same key.
#[derive(Debug, Clone)]
pub struct Started {
    /// The run.
    pub run: Run,
    /// An earlier request started it.
    pub replayed: bool,
    /// What it told before is not of this request: the message was the answer to its question.
    pub after: Seq,
}

/// Why a run was not accepted. Nothing was stored.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: say, text: Hi, next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::{Request, StartError};
///
/// let thread = app.thread("acme", "ada", "desk")?;
/// assert!(matches!(thread.start("chta", "Hello!").await, Err(StartError::UnknownGraph(_))));
/// let Err(StartError::Unprocessable(wrong)) = thread.start("chat", Request::new().input("n", 1)).await else {
///     panic!("it has no inputs");
/// };
/// assert_eq!(wrong[0].pointer, "/input/n");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such graph.
    #[error("there is no graph `{0}`")]
    UnknownGraph(String),
    /// There is no such thread, or no such checkpoint of it.
    #[error("there is no such thread or checkpoint")]
    NotFound,
    /// The thread that a fork would make is there.
    #[error("the session of the fork is taken")]
    Exists,
    /// The graph asks agents, and the caller is none.
    #[error("this is for agents")]
    Forbidden,
    /// A part of the request does not fit the graph; by JSON Pointer into the body.
    #[error("the request does not fit the graph")]
    Unprocessable(Vec<Mismatch>),
    /// The thread cannot go on with this graph, or with its version of today.
    #[error("{0}")]
    Incompatible(String),
    /// The thread has a run that is not over.
    #[error("the thread is busy with run {0}")]
    Busy(RunId),
    /// Too many runs wait on the thread.
    #[error("too many runs wait on this thread")]
    QueueFull,
    /// Too many runs of the tenant wait.
    #[error("too many runs of the tenant wait")]
    TenantQueueFull,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The process works on as many runs as it may.
    #[error("the service works on as many runs as it may")]
    Overloaded,
    /// The process goes away.
    #[error("the service is shutting down")]
    Draining,
    /// The thread waits for an answer, and a plain message is none; these questions are open.
    #[error("the thread waits for an answer")]
    Waits(Vec<String>),
    /// The thread's run is stopped at a breakpoint, or after an update or a fork.
    #[error("run {0} of the thread is stopped")]
    Stopped(RunId),
    /// The message is the answer to a question, and was not taken.
    #[error(transparent)]
    Answer(Box<AnswerError>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a run is to stop before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The process goes away soon: give it back at the next barrier.
    Drain,
    /// Somebody asked for its end.
    Cancel,
    /// The process goes away: give it back.
    Leave,
    /// Another owner has it.
    Lost,
}

/// A run that this process owns.
#[derive(Debug)]
struct Live {
    run: RunId,
    key: ThreadKey,
    thread: ThreadId,
    /// The plan that it was accepted for here. Without one it came from the queue, so others may wait behind it.
    accepted: Option<Arc<Plan>>,
    journal: Arc<Journal>,
    stop: watch::Sender<Option<Stop>>,
    /// When its claim was known here.
    since: Instant,
}

impl Live {
    fn stop(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    fn ask(&self, why: Stop) {
        // The first reason stands, but what can wait yields, and a lost run has nothing left to say.
        self.stop.send_if_modified(|stop| {
            let change = matches!(stop, None | Some(Stop::Drain)) || why == Stop::Lost;
            if change {
                *stop = Some(why);
            }
            change
        });
    }

    /// Waits until there is a reason to stop in the middle of a superstep.
    async fn stopped(&self) -> Stop {
        let mut stop = self.stop.subscribe();
        loop {
            if let Some(why) = stop.borrow_and_update().filter(|why| *why != Stop::Drain) {
                return why;
            }
            if stop.changed().await.is_err() {
                return Stop::Lost;
            }
        }
    }
}

struct Shared {
    store: Arc<dyn Store>,
    process: Process,
    settings: Settings,
    served: ArcSwap<Served>,
    /// Why that is not what the project folder holds.
    stale: ArcSwapOption<Stale>,
    providers: Providers,
    lives: Mutex<HashMap<RunId, Arc<Live>>>,
    /// When the last good heartbeat began.
    good: Mutex<Instant>,
    heads: Heads,
    tracker: TaskTracker,
    /// Wakes the claimer.
    queue: Notify,
    /// Threads with a run that was queued by this process.
    waiting: Mutex<HashSet<ThreadId>>,
    /// Who reads the runs here that need a reader.
    readers: Mutex<readers::Readers>,
    /// Wakes whoever tells webhooks.
    ended: Notify,
    /// Wakes readers that wait for a run to get an owner here.
    claimed: Notify,
    /// What is new of runs that others own.
    tails: Tails,
    /// How much memory is left.
    memory: Memory,
    /// The process will go away: it is not ready, but takes what comes.
    leaving: AtomicBool,
    /// It takes no more.
    draining: AtomicBool,
    /// Wakes whoever waits for the last run to be given back.
    retired: Notify,
    /// Ends the claims, and the streams of runs that are elsewhere.
    closed: watch::Sender<bool>,
    /// Ends the rest of the background work, and the heartbeat, when no run is left.
    done: watch::Sender<bool>,
}

impl Shared {
    /// Says whether there is neither room nor memory for one more run.
    fn is_full(&self) -> bool {
        self.lives().len() >= self.settings.runs || self.memory.strain() >= Strain::Requests
    }

    fn lives(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Live>>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self, run: RunId) -> Option<Arc<Live>> {
        self.lives().get(&run).cloned()
    }

    /// Begins to drive a run that was claimed since then; `begun` is the span of the request that claimed it.
    fn launch(self: &Arc<Self>, claim: Claim, accepted: Option<Arc<Plan>>, since: Instant, begun: Span) {
        let live = Arc::new(Live {
            run: claim.run.run,
            key: claim.run.key.clone(),
            thread: claim.run.thread,
            accepted,
            journal: Arc::new(Journal::new(claim.run.run, claim.run.fence)),
            stop: watch::Sender::new(claim.run.cancel_requested.then_some(Stop::Cancel)),
            since,
        });
        if let Some(former) = self.lives().insert(claim.run.run, live.clone()) {
            // This process lost the run to itself: its own lease ran out while it was stalled.
            former.ask(Stop::Lost);
        }
        if self.draining.load(Ordering::Relaxed) {
            // Accepted while the process was told to go: `close` did not see it.
            live.ask(Stop::Leave);
        }
        metrics::gauge!("graphloom_runs_active").increment(1.0);
        self.claimed.notify_waiters();
        self.tracker.spawn(run::drive(self.clone(), live, claim, begun));
    }

    /// Forgets a run that is not driven any more.
    fn retire(&self, live: &Arc<Live>) {
        let mut lives = self.lives();
        if lives.get(&live.run).is_some_and(|current| Arc::ptr_eq(current, live)) {
            lives.remove(&live.run);
        }
        drop(lives);
        self.retired.notify_waiters();
        metrics::gauge!("graphloom_runs_active").decrement(1.0);
        // The next run of the thread, or of a tenant that has a limit, need not wait for the poll.
        let limited = self.process.tenant_runs.is_some();
        if self.waiting().remove(&live.thread) || live.accepted.is_none() || limited {
            self.queue.notify_one();
        }
    }

    fn ask_all(&self, why: Stop) {
        self.lives().values().for_each(|live| live.ask(why));
    }

    /// Waits until no run is driven.
    async fn idle(&self) {
        loop {
            let retired = self.retired.notified();
            if self.lives().is_empty() {
                return;
            }
            retired.await;
        }
    }

    /// Returns what is to come of a run besides, as the store keeps it.
    fn wishes(&self, wishes: &Wishes) -> store::Wishes {
        let read_for = wishes.needs_reader.then(|| readers::hold(self.settings.unread));
        store::Wishes { read_for, webhook: wishes.webhook.clone() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashSet<ThreadId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that a queued run is claimed when those before it are over.
    fn enqueued(&self, thread: ThreadId) {
        self.waiting().insert(thread);
        // The run before it may have ended since, or be another process's.
        if !self.lives().values().any(|live| live.thread == thread) && self.waiting().remove(&thread) {
            self.queue.notify_one();
        }
    }
}

/// Runs the graphs of one catalog over one store.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// Makes an engine, stores the versions of its graphs and begins to take runs.
    pub async fn open(
        store: Arc<dyn Store>,
        catalog: Catalog,
        providers: Providers,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        reload::put_versions(&*store, &catalog, &Catalog::default()).await?;
        let shared = Arc::new(Shared {
            store,
            process: settings.process.clone(),
            heads: Heads::new(settings.heads, settings.head_bytes),
            memory: Memory::new(settings.memory),
            settings,
            served: ArcSwap::from_pointee(Served::new(catalog)),
            stale: ArcSwapOption::empty(),
            providers,
            lives: Mutex::default(),
            good: Mutex::new(Instant::now()),
            tracker: TaskTracker::new(),
            queue: Notify::new(),
            waiting: Mutex::default(),
            readers: Mutex::default(),
            ended: Notify::new(),
            claimed: Notify::new(),
            tails: Tails::default(),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            retired: Notify::new(),
            closed: watch::Sender::new(false),
            done: watch::Sender::new(false),
        });
        let threads = |e| StoreError::Unavailable(format!("the heartbeat has no thread: {e}"));
        beat::start(&shared).map_err(threads)?;
        recover::start(&shared);
        Ok(Self { shared })
    }

    /// Answers when the engine can take work.
    pub async fn ready(&self) -> Result<(), StartError> {
        if self.shared.leaving.load(Ordering::Relaxed) {
            return Err(StartError::Draining);
        }
        let ping = tokio::time::timeout(READY, self.shared.store.ping());
        ping.await.unwrap_or_else(|_| Err(StoreError::Unavailable("it does not answer".into())))?;
        Ok(())
    }

    /// Reads a run of this owner.
    pub async fn run(&self, owner: &Owner, run: RunId) -> Result<Option<Run>, StoreError> {
        self.shared.store.run(owner, run).await
    }

    /// Asks for the end of a run, and returns it as it is now. What it committed stays.
    pub async fn cancel(&self, owner: &Owner, run: RunId) -> Result<Option<Run>, StoreError> {
        self.end(owner, run, Actor::User, false).await
    }

    /// Asks for the end of a run with which the head of its thread moves back to before it, and returns it as it is now.
    /// What it did outside is not undone.
    pub async fn roll_back(&self, owner: &Owner, run: RunId) -> Result<Option<Run>, StoreError> {
        self.end(owner, run, Actor::User, true).await
    }

    async fn end(
        &self,
        owner: &Owner,
        run: RunId,
        actor: Actor,
        rollback: bool,
    ) -> Result<Option<Run>, StoreError> {
        let status = if rollback { RunStatus::RolledBack } else { RunStatus::Cancelled };
        let (result, events) = ending(status);
        let row = self.shared.store.request_cancel(owner, run, actor, rollback, result, events).await?;
        if row.as_ref().is_some_and(|row| row.webhook.is_some()) {
            self.shared.ended.notify_one();
        }
        if row.is_some()
            && let Some(live) = self.shared.live(run)
        {
            live.ask(Stop::Cancel);
        }
        Ok(row)
    }

    /// Says from now on that the process is not [ready](Self::ready), and leaves the queue to others. What comes is taken.
    pub fn leave(&self) {
        self.shared.leaving.store(true, Ordering::Relaxed);
    }

    /// Stops taking work and gives the runs back, each at its next barrier; what works longer than `work` is stopped
    /// where it is. Every stream that did not come to its end is cut, so that clients come back elsewhere. Returns when
    /// all is done or `grace` is over.
    pub async fn close(&self, work: Duration, grace: Duration) {
        let (shared, begun) = (&self.shared, Instant::now());
        self.leave();
        shared.draining.store(true, Ordering::Relaxed);
        shared.closed.send_replace(true);
        let closing = async {
            shared.ask_all(Stop::Drain);
            if tokio::time::timeout(work, shared.idle()).await.is_err() {
                shared.ask_all(Stop::Leave);
                shared.idle().await;
            }
            shared.done.send_replace(true);
            shared.tracker.close();
            shared.tracker.wait().await;
        };
        if tokio::time::timeout(grace, closing).await.is_err() {
            warn!("Some runs could not be given back in time; their leases will run out.");
        }
        // What does not end is ended, and that takes a moment, too.
        let good_bye = GOOD_BYE.min(grace.saturating_sub(begun.elapsed()).mul_f32(0.8));
        if tokio::time::timeout(good_bye, shared.providers.close()).await.is_err() {
            warn!("Some connections did not end in time.");
        }
    }
}

/// Makes the result and the last event of a run that nobody works on.
fn ending(status: RunStatus) -> (Vec<u8>, EventBatch) {
    let outcome = Outcome { status, output: None, usage: Usage::default(), error: None };
    // The whole stream of a run that never had an owner; `run.started` is number 1.
    let seq = Seq { fence: 0, n: 2 };
    let body = Body::ended(status, Usage::default());
    let last = Event { seq, at: event::to_millis(chrono::Utc::now()), scope: None, body };
    let events = EventBatch { fence: 0, first: 2, last: 2, data: event::encode(&[last]) };
    (record::encode(&outcome), events)
}

/// Says whether a run in this state has its last event stored.
fn is_over(state: RunState) -> bool {
    matches!(
        state,
        RunState::Completed | RunState::Failed | RunState::Cancelled | RunState::RolledBack | RunState::Dead
    )
}
