//! Stores and models of a process that dies where a test wants it to: what it had written by then is all that is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream, StreamExt};
use graphloom::event::Usage;
use graphloom::id::{
    CacheKey, CheckpointId, HookId, InterruptId, Owner, Part, RunId, Seq, TaskId, ThreadId, ThreadKey,
};
use graphloom::model::{ChatModel, Chunk, ModelError, Request, Role, Turn};
use graphloom::store::{
    Accepted, Actor, Answer, Answering, AuditFilter, Beat, Branch, Branched, Checkpoint, Claim, Commit,
    Committed, Counts, Erased, EventBatch, GraphVersion, Hook, HookCounts, HookFilter, Idempotency, Kept,
    Keyed, NewRun, News, Noted, OpenQuestion, Process, Result, Resume, Resumed, Run, RunFilter, Store,
    Thread, Told, VersionUse,
};
use tokio::sync::watch;
use uuid::Uuid;

use super::{answer, heard, mix, wants};

/// The run of every graph: ids of tasks come from it.
pub(super) const RUN: RunId = RunId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));

/// Where processes die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    Never,
    /// At the write of this number, done or not.
    At(usize, bool),
    /// Each at its first barrier.
    EachBarrier,
    /// Each at its first result that is kept, and the next at the barrier.
    EachTask,
}

/// What outlives processes: the count of writes, and of calls.
#[derive(Debug, Default)]
pub(super) struct Fate {
    inner: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    seed: u64,
    /// What the model's times are counted in.
    unit: Duration,
    writes: usize,
    deaths: usize,
    /// Deaths since the last barrier.
    deaths_here: usize,
    /// The calls since the last barrier or death: task and prompt.
    open: Vec<(String, String)>,
    /// The tasks of this superstep whose results are kept.
    kept: BTreeSet<String>,
    calls: Vec<String>,
    /// Calls whose results died with a process.
    lost: Vec<String>,
}

impl Fate {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run whose tasks end in an order of this seed.
    pub(super) fn begin(&self, seed: u64, unit: Duration) {
        *self.ledger() = Ledger { seed, unit, ..Ledger::default() };
    }

    pub(super) fn writes(&self) -> usize {
        self.ledger().writes
    }

    /// Counts what died with a process.
    pub(super) fn bury(&self) {
        let mut ledger = self.ledger();
        let Ledger { open, kept, lost, .. } = &mut *ledger;
        lost.extend(open.drain(..).filter(|(task, _)| !kept.contains(task)).map(|(_, prompt)| prompt));
    }

    /// The prompts of all calls, and of those that had to be made again; sorted.
    pub(super) fn calls(&self) -> (Vec<String>, Vec<String>) {
        let ledger = self.ledger();
        let sorted = |mut all: Vec<String>| {
            all.sort();
            all
        };
        (sorted(ledger.calls.clone()), sorted(ledger.lost.clone()))
    }
}

/// The model of all nodes: what it says depends on the prompt alone, and when on the seed.
#[derive(Debug)]
pub(super) struct Answers(pub(super) Arc<Fate>);

#[async_trait]
impl ChatModel for Answers {
    async fn stream(
        &self,
        request: Request,
    ) -> std::result::Result<BoxStream<'static, std::result::Result<Chunk, ModelError>>, ModelError> {
        let prompt = request.turns[0].content.as_str().unwrap_or_default().to_owned();
        let (seed, unit) = {
            let mut ledger = self.0.ledger();
            // Behind it stands which call of the task it is.
            let task = request.idempotency_key.split('-').next().unwrap_or_default();
            ledger.open.push((task.to_owned(), prompt.clone()));
            ledger.calls.push(prompt.clone());
            (ledger.seed, ledger.unit)
        };
        let wait = mix(seed, &format!("{} {}", request.idempotency_key, request.attempt)) % 50;
        tokio::time::sleep(unit * wait as u32).await;
        // The conversation calls no tools.
        let rounds = request.turns.iter().filter(|turn| !turn.tool_calls.is_empty()).count() as u64;
        match answer(&prompt, request.attempt) {
            Ok(text) => {
                let calls = if request.tools.is_empty() { Vec::new() } else { wants(&prompt, rounds) };
                let mut chunks = Vec::new();
                for (index, k) in calls.iter().enumerate() {
                    let (id, name) = (format!("c{rounds}.{index}"), "look".to_owned());
                    chunks.push(Chunk::ToolCall { index, id, name });
                    chunks.push(Chunk::ToolArgs { index, delta: format!("{{\"k\": {k}}}") });
                }
                if calls.is_empty() {
                    let result = |turn: &Turn| match turn.content.as_str().unwrap_or_default() {
                        text if text.starts_with("Error: ") => "Error".to_owned(),
                        text => text.to_owned(),
                    };
                    let results: Vec<String> =
                        request.turns.iter().filter(|turn| turn.role == Role::Tool).map(result).collect();
                    chunks.push(Chunk::Text(text + &heard(&results)));
                }
                chunks.extend([Chunk::Usage(Usage::default()), Chunk::End { truncated: false }]);
                Ok(stream::iter(chunks.into_iter().map(Ok)).boxed())
            }
            Err((kind, _)) => {
                let kind = graphloom::model::Kind::named(kind).unwrap();
                Err(ModelError { kind, message: "scripted".into(), retry_after: None })
            }
        }
    }
}

/// A store as one process sees it.
pub(super) struct Mortal {
    pub(super) store: Arc<dyn Store>,
    pub(super) fate: Arc<Fate>,
    pub(super) death: Death,
    pub(super) dead: watch::Sender<bool>,
}

impl Mortal {
    /// A dead process waits for ever.
    async fn alive(&self) {
        if *self.dead.borrow() {
            std::future::pending::<()>().await;
        }
    }

    /// Counts a write; says whether the process dies of it, and whether before it is done.
    fn dies(&self, barrier: bool) -> Option<bool> {
        let mut ledger = self.fate.ledger();
        ledger.writes += 1;
        let dies = match self.death {
            Death::Never => None,
            Death::At(nth, done) => (ledger.deaths == 0 && ledger.writes == nth).then_some(done),
            Death::EachBarrier => barrier.then_some(true),
            Death::EachTask if barrier => (ledger.deaths_here == 1).then_some(true),
            Death::EachTask => (ledger.deaths_here == 0).then_some(true),
        };
        if dies.is_some() {
            ledger.deaths += 1;
            ledger.deaths_here += 1;
        }
        dies
    }

    async fn die(&self) -> ! {
        self.dead.send_replace(true);
        std::future::pending().await
    }
}

/// Hands the calls of a living process on.
macro_rules! store {
    (own { $($own:tt)* } pass { $($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)* }) => {
        #[async_trait]
        impl Store for Mortal {
            $($own)*
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$out> {
                self.alive().await;
                self.store.$name($($arg),*).await
            })*
        }
    };
}

store! {
    own {
    async fn accept(&self, new: NewRun) -> Result<Accepted> {
        self.store.accept(NewRun { run: RUN, ..new }).await
    }

    /// Nobody ends a run; and a thread that outlives its process must not wait for ever with the store in its hands.
    async fn asked(&self, _process: &Process) -> Result<Vec<RunId>> {
        Ok(Vec::new())
    }

    async fn commit(&self, commit: Commit) -> Result<Committed> {
        self.alive().await;
        let dies = self.dies(true);
        if dies == Some(false) {
            self.die().await;
        }
        let done = self.store.commit(commit).await;
        {
            let mut ledger = self.fate.ledger();
            ledger.open.clear();
            ledger.kept.clear();
            ledger.deaths_here = 0;
        }
        if dies.is_some() {
            self.die().await;
        }
        done
    }

    async fn put_pending(
        &self,
        owner: &Owner,
        run: RunId,
        fence: u64,
        step: u64,
        task: &TaskId,
        data: Vec<u8>,
    ) -> Result<bool> {
        self.alive().await;
        let dies = self.dies(false);
        if dies == Some(false) {
            self.die().await;
        }
        let done = self.store.put_pending(owner, run, fence, step, task, data).await;
        self.fate.ledger().kept.insert(task.to_string());
        if dies.is_some() {
            self.die().await;
        }
        done
    }

    }
    pass {
        migrate() -> ();
        ping() -> ();
        put_graph_version(version: &GraphVersion) -> ();
        graph_version(hash: &str) -> Option<GraphVersion>;
        hashes(beginning: &str, limit: u32) -> Vec<String>;
        version_use(hash: &str) -> VersionUse;
        paused_versions() -> BTreeMap<(String, String), u64>;
        keyed(owner: &Owner, key: &Idempotency) -> Option<Keyed>;
        erase(tenant: &Part, user: Option<&Part>, limit: u32, before: u64) -> Erased;
        audit(filter: &AuditFilter, limit: u32) -> Vec<Noted>;
        forget_audit(age: Duration, limit: u32) -> u64;
        runs(filter: &RunFilter, limit: u32) -> Vec<Run>;
        counts() -> Counts;
        find_run(run: RunId) -> Option<Run>;
        retry(run: RunId) -> Option<Run>;
        overdue(kept: Kept, age: Duration, limit: u32) -> Vec<Run>;
        keep_events(run: &Run, kept: Kept, batches: Vec<EventBatch>) -> bool;
        forget_checkpoints(age: Duration, limit: u32) -> u64;
        discard(run: RunId) -> Option<Run>;
        append_events(batches: Vec<(Owner, RunId, EventBatch)>) -> ();
        claim(process: &Process, limit: u32) -> Vec<Claim>;
        heartbeat(process: &Process, live: &[RunId]) -> Beat;
        release(owner: &Owner, run: RunId, fence: u64) -> ();
        request_cancel(owner: &Owner, run: RunId, actor: Actor, rollback: bool, result: Vec<u8>, events: EventBatch) -> Option<Run>;
        branch(branch: Branch) -> Branched;
        answer(answer: Answer) -> Answering;
        answers(owner: &Owner, run: RunId) -> Vec<(InterruptId, Vec<u8>)>;
        given(owner: &Owner, run: RunId) -> Vec<(InterruptId, Vec<u8>)>;
        questions(key: &ThreadKey) -> Vec<OpenQuestion>;
        question(owner: &Owner, agent: bool, id: &InterruptId) -> Option<OpenQuestion>;
        approvals(tenant: &Part, after: Option<(DateTime<Utc>, InterruptId)>, limit: u32) -> Vec<OpenQuestion>;
        pending(owner: &Owner, run: RunId, step: u64) -> Vec<(TaskId, Vec<u8>)>;
        news(of: &[(Owner, RunId, Seq)], limit: usize) -> Vec<News>;
        cached(tenant: &Part, keys: &[CacheKey]) -> Vec<(CacheKey, Vec<u8>)>;
        forget_cached(limit: u32) -> u64;
        read_on(runs: &[(Part, RunId)], time: Duration) -> ();
        unread(limit: u32) -> Vec<Run>;
        claim_hooks(lease: Duration, limit: u32) -> Vec<Hook>;
        told(tenant: &Part, hook: HookId, attempt: u32, told: Told) -> ();
        hooks(filter: &HookFilter, limit: u32) -> Vec<Hook>;
        hook_counts() -> HookCounts;
        retry_hook(hook: HookId) -> Option<Hook>;
        forget_hooks(delivered: Duration, failed: Duration, limit: u32) -> u64;
        resume(resume: Resume) -> Resumed;
        run(owner: &Owner, run: RunId) -> Option<Run>;
        events(owner: &Owner, run: RunId, after: Seq, limit: usize) -> Vec<EventBatch>;
        thread(key: &ThreadKey) -> Option<Thread>;
        threads(owner: &Owner, before: Option<(DateTime<Utc>, ThreadId)>, limit: u32) -> Vec<Thread>;
        delete_thread(key: &ThreadKey) -> bool;
        chain(owner: &Owner, thread: ThreadId, checkpoint: CheckpointId) -> Vec<Checkpoint>;
        history(owner: &Owner, thread: ThreadId, before: Option<CheckpointId>, limit: u32) -> Vec<Checkpoint>;
    }
}
