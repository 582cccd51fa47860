//! The only loop: plan a superstep, do its tasks, commit the barrier, tell the readers.
//!
//! Invariant: nothing durable is sent before its commit, and after a lost fence nothing is sent at all.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::{Value as Json, json};
use tracing::{debug, error, info, warn};

use super::follow::{PAGE, decode};
use super::heads::{self, Head};
use super::journal::{GONE, Held, Journal};
use super::record::{self, Input, Outcome, RunError};
use super::step::{self, Applied, Finished, Frontier, Step, Taken, Task};
use super::{Live, Shared, Stop};
use crate::event::{Body, Event, NodeStatus, RunStatus, Scope, Usage};
use crate::id::{CheckpointId, Seq, TaskId};
use crate::node::{Attempt, Done, Emitter, ErrorKind, Failure, RunFacts};
use crate::plan::{Output, Plan, START, Target};
use crate::state::{Channel, Delta, State, Write, fold};
use crate::store::{Checkpoint, Claim, Commit, Committed, RunState, StoreError};

/// Checkpoints between two snapshots at least.
const SNAPSHOT_EVERY: usize = 50;
/// Process crashes without progress after which a run is given up.
const MAX_CRASHES: u32 = 3;
/// The wait before a write or a read is tried again while the database is away.
const COMMIT_RETRY: Duration = Duration::from_millis(200);

/// Why the loop stops without an end of the run: somebody else goes on, or nobody can.
enum Halt {
    /// The fence is lost, or the process goes away.
    Gone,
    /// The store holds something that cannot be read.
    Broken(StoreError),
}

/// Why a superstep has no barrier.
enum Cut {
    /// A task failed and nothing handles it.
    Failed {
        /// The node.
        node: String,
        /// Why.
        failure: Failure,
        /// Tokens that its siblings used.
        usage: Usage,
    },
    /// The run as a whole failed.
    Run(Failure),
    /// Somebody asked for the end.
    Cancelled,
    /// The process goes away, or the fence is lost.
    Gone,
}

/// Owns a claimed run until it ends, pauses or is lost. Whatever goes wrong, its readers are told.
pub(super) async fn drive(shared: Arc<Shared>, live: Arc<Live>, claim: Claim) {
    let run = claim.run.run;
    let driver = Driver::new(&shared, &live, &claim);
    let outcome = match AssertUnwindSafe(driver.run(&claim)).catch_unwind().await {
        Ok(Err(Halt::Broken(error))) => {
            error!(%run, %error, "Run cannot go on.");
            driver.end_broken().await
        }
        Ok(outcome) => outcome,
        Err(_panic) => {
            error!(%run, "Run panicked.");
            driver.end_broken().await
        }
    };
    match outcome {
        Ok(()) => {}
        Err(Halt::Gone) => driver.part().await,
        Err(Halt::Broken(error)) => {
            error!(%run, %error, "Run cannot be ended.");
            live.journal.abort();
        }
    }
    shared.retire(&live);
}

struct Driver<'a> {
    shared: &'a Shared,
    live: &'a Live,
    journal: Arc<Journal>,
    claim: &'a Claim,
    started: Instant,
}

/// What the loop carries from barrier to barrier.
struct Position {
    plan: Arc<Plan>,
    input: Arc<Json>,
    user_text: Arc<str>,
    head: Head,
    /// Checkpoints that are made but not stored yet.
    pending: Vec<Checkpoint>,
    /// Edges that were taken but not told yet.
    edges: Vec<Taken>,
    /// Supersteps done.
    number: u64,
    /// The state went further than the checkpoint that it stands at.
    torn: bool,
}

impl<'a> Driver<'a> {
    fn new(shared: &'a Shared, live: &'a Live, claim: &'a Claim) -> Self {
        Self { shared, live, journal: live.journal.clone(), claim, started: Instant::now() }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Halt> {
        let void = if claim.run.fence > 1 { self.inherit().await? } else { BTreeSet::new() };
        let head = self.head(claim).await?;
        // What the thread's last run used up is in the head until this one has its first barrier.
        let usage = if claim.run.step == 0 { Usage::default() } else { head.frontier.usage };
        if claim.run.crashes >= MAX_CRASHES {
            let message = "the process died each time that it worked on this run";
            let failure = Failure { code: "gave_up".into(), ..Failure::new(ErrorKind::Failed, message) };
            return self.end_at(claim.run.step, RunState::Dead, RunStatus::Dead, failure, usage).await;
        }
        let input: Input = record::decode("run", &claim.run.input).map_err(Halt::Broken)?;
        let plan = match self.patiently(|| self.shared.plan(&claim.run.graph, &claim.run.hash)).await? {
            Ok(plan) => plan,
            Err(failure) => {
                return self
                    .end_at(claim.run.step, RunState::Failed, RunStatus::Failed, failure, usage)
                    .await;
            }
        };
        let mut at = Position {
            user_text: user_text(input.message.as_ref()).into(),
            input: Arc::new(input.input.clone()),
            plan,
            head,
            pending: Vec::new(),
            edges: Vec::new(),
            number: claim.run.step,
            torn: false,
        };
        if claim.run.step == 0 {
            let checkpoint_id = at.head.checkpoint;
            self.journal.send(None, Body::StateSnapshot { checkpoint_id, state: Json::Null });
        }
        if claim.run.step == 0
            && let Err(failure) = self.begin(&mut at, &input)
        {
            return self.fail(at, None, failure).await;
        }
        let mut crashed = claim.crashed;
        loop {
            let step = match step::plan_step(&at.plan, claim.run.run, &at.head.frontier, at.number + 1) {
                Ok(step) => step,
                Err(failure) => return self.fail(at, None, failure).await,
            };
            if step.tasks.is_empty() {
                at.edges.extend(diverted(&step));
                return self.complete(at, Vec::new()).await;
            }
            if let Some(failure) = self.over_limit(&at) {
                return self.fail(at, None, failure).await;
            }
            if std::mem::take(&mut crashed) {
                self.reset(&step, &void);
            }
            let facts = self.facts(&at);
            let results = match self.superstep(&at, &step, &facts).await {
                Ok(results) => results,
                Err(Cut::Failed { node, failure, usage }) => {
                    at.head.frontier.usage += usage;
                    return self.fail(at, Some(node), failure).await;
                }
                Err(Cut::Run(failure)) => return self.fail(at, None, failure).await,
                Err(Cut::Cancelled) => return self.cancel(at).await,
                Err(Cut::Gone) => return Err(self.leave().await),
            };
            let (finished, mut events) = unzip(results);
            let applied =
                step::apply(&at.plan, &at.head.state, &at.head.frontier, &step, finished, &at.input, &facts);
            let applied = match applied {
                Ok(applied) => applied,
                Err(failure) => return self.fail(at, None, failure).await,
            };
            at.number += 1;
            if let Err(failure) = self.advance(&mut at, applied) {
                at.number -= 1;
                return self.fail(at, None, failure).await;
            }
            metrics::counter!("graphloom_supersteps_total").increment(1);
            // The end of the run is part of its last barrier.
            if at.head.frontier.tokens.is_empty() {
                return self.complete(at, events).await;
            }
            events.extend(Self::barrier_events(&mut at));
            let cancel = self.commit(&at, events, None).await?;
            at.pending.clear();
            debug!(run = %self.claim.run.run, step = at.number, "Barrier saved.");
            if cancel {
                return self.cancel(at).await;
            }
            if self.live.stop() == Some(Stop::Leave) {
                return Err(self.leave().await);
            }
        }
    }

    /// Reads the state that the run starts from.
    async fn head(&self, claim: &Claim) -> Result<Head, Halt> {
        let Some(checkpoint) = claim.head else { return Ok(Head::default()) };
        if let Some(head) = self.shared.heads.take(claim.run.thread, checkpoint) {
            return Ok(head);
        }
        let owner = &claim.run.key.owner;
        let load = || heads::load(&*self.shared.store, owner, claim.run.thread, checkpoint);
        match self.patiently(load).await? {
            Some((head, _)) => Ok(head),
            None => Err(Halt::Gone),
        }
    }

    /// Applies the input: the state of the run before its first superstep. What fails here leaves the
    /// user's turn in the conversation.
    fn begin(&self, at: &mut Position, input: &Input) -> Result<(), Failure> {
        let today = short(&at.plan.hash);
        if at.head.checkpoint.is_some()
            && at.head.frontier.plan != today
            && let Some(why) = incompatible(&at.plan, &at.head.state)
        {
            return Err(Failure {
                code: "state_incompatible".into(),
                ..Failure::new(ErrorKind::Schema, why)
            });
        }
        let mut delta = at.head.state.begin_run(&at.plan.channels);
        let mut joined = Ok(());
        if let (Some(message), Some(channel)) = (&input.message, &at.plan.messages) {
            let turn = json!({"id": format!("u_{}", self.claim.run.run), "role": "user", "content": message});
            let writes = vec![Write::Put { channel: channel.clone(), value: turn }];
            let task = TaskId::derive(self.claim.run.run, 0, START, 0);
            match fold(&at.plan.channels, &at.head.state, &[(task, writes)]) {
                Ok((state, written)) => {
                    at.head.state = state;
                    for (channel, change) in written {
                        let change = match delta.remove(&channel) {
                            Some(earlier) => earlier.then(change),
                            None => change,
                        };
                        delta.insert(channel, change);
                    }
                }
                Err(error) => joined = Err(Failure::new(ErrorKind::Merge, error.to_string())),
            }
        }
        let facts = self.facts(at);
        let begun = joined.and_then(|()| step::begin(&at.plan, &at.head.state, &at.input, &facts));
        let (frontier, edges, failed) = match begun {
            Ok((frontier, edges)) => (frontier, edges, None),
            Err(failure) => (Frontier::default(), Vec::new(), Some(failure)),
        };
        at.head.frontier = Frontier { plan: today.to_owned(), ..frontier };
        at.edges = edges;
        self.checkpoint(at, &delta, "input")?;
        failed.map_or(Ok(()), Err)
    }

    fn facts(&self, at: &Position) -> RunFacts {
        RunFacts {
            id: self.claim.run.run,
            step: at.number + 1,
            steps_left: at.plan.limits.steps.saturating_sub(at.number),
            user_text: at.user_text.clone(),
            now: Utc::now(),
        }
    }

    fn over_limit(&self, at: &Position) -> Option<Failure> {
        let limits = &at.plan.limits;
        let usage = at.head.frontier.usage;
        let what = if at.number >= limits.steps {
            format!("the run needs more than {} supersteps", limits.steps)
        } else if self.started.elapsed() > limits.time {
            format!("the run takes longer than {} s", limits.time.as_secs())
        } else if usage.input_tokens + usage.output_tokens > limits.tokens {
            format!("the run needs more than {} tokens", limits.tokens)
        } else {
            return None;
        };
        Some(Failure::new(ErrorKind::Limit, what))
    }

    /// Tells the readers that what earlier owners began and did not end is void; returns the tasks.
    async fn inherit(&self) -> Result<BTreeSet<TaskId>, Halt> {
        let run = &self.claim.run;
        let mut events = Vec::new();
        loop {
            let after = events.last().map_or(Seq::default(), |event: &Event| event.seq);
            let read = || self.shared.store.events(&run.key.owner, run.run, after, PAGE);
            let batches = self.patiently(read).await?;
            let before = events.len();
            for batch in &batches {
                let batch = decode(batch).map_err(Halt::Broken)?;
                events.extend(batch.into_iter().filter(|event| event.seq > after));
            }
            if events.len() == before {
                return Ok(self.journal.inherit(&events));
            }
        }
    }

    /// Does the same for tasks that a crashed owner may have begun without storing it.
    fn reset(&self, step: &Step, told: &BTreeSet<TaskId>) {
        for task in step.tasks.iter().filter(|task| !told.contains(&task.id)) {
            let scope = Scope { node: task.node.clone(), task_id: task.id.clone(), attempt: 1 };
            self.journal.send(Some(&scope), Body::NodeReset { reason: GONE.into() });
        }
    }

    /// Does the tasks of a superstep at once, each on the state of the last barrier.
    async fn superstep(&self, at: &Position, step: &Step, facts: &RunFacts) -> Result<Vec<TaskDone>, Cut> {
        let left = at.plan.limits.time.saturating_sub(self.started.elapsed());
        let tasks: Vec<_> = step
            .tasks
            .iter()
            .enumerate()
            .map(|(rank, task)| async move { (rank, self.task(at, task, facts).await) })
            .collect();
        let work = stream::iter(tasks).buffer_unordered(at.plan.limits.parallel.max(1)).collect::<Vec<_>>();
        let mut results = tokio::select! {
            biased;
            why = self.live.stopped() => return Err(match why {
                Stop::Cancel => Cut::Cancelled,
                Stop::Leave | Stop::Lost => Cut::Gone,
            }),
            () = tokio::time::sleep(left) => {
                let message = format!("the run takes longer than {} s", at.plan.limits.time.as_secs());
                return Err(Cut::Run(Failure::new(ErrorKind::Limit, message)));
            }
            results = work => results,
        };
        results.sort_by_key(|(rank, _)| *rank);
        let mut done: Vec<TaskDone> = Vec::with_capacity(results.len());
        let mut failed = None;
        for (_, result) in results {
            match result {
                Ok(task) => done.push(task),
                Err(first) => failed = failed.or(Some(first)),
            }
        }
        let Some((node, failure)) = failed else { return Ok(done) };
        let mut usage = Usage::default();
        for task in &done {
            usage += task.done.usage;
        }
        Err(Cut::Failed { node, failure, usage })
    }

    /// Makes attempts at a task until one succeeds or the policy says stop.
    async fn task(
        &self,
        at: &Position,
        task: &Task,
        facts: &RunFacts,
    ) -> Result<TaskDone, (String, Failure)> {
        let Some(node) = at.plan.nodes.get(&task.node) else {
            let failure = Failure::new(ErrorKind::Failed, "the plan has no such node");
            return Err((task.node.clone(), failure));
        };
        let begun = Instant::now();
        for number in 1.. {
            let place = Scope { node: task.node.clone(), task_id: task.id.clone(), attempt: number };
            if number == 1 {
                let started = Body::NodeStarted { step: facts.step, kind: node.kind.into() };
                self.journal.send(Some(&place), started);
            }
            let attempt = Attempt {
                state: at.head.state.clone(),
                input: at.input.clone(),
                run: facts.clone(),
                node: task.node.as_str().into(),
                task: task.id.clone(),
                attempt: number,
                emit: Emitter::new(self.journal.clone(), place.clone()),
            };
            let work = AssertUnwindSafe(node.node.run(&attempt)).catch_unwind();
            let failure = match tokio::time::timeout(node.timeout, work).await {
                Ok(Ok(Ok(done))) => return Ok(TaskDone { place, done, took: begun.elapsed() }),
                Ok(Ok(Err(failure))) => failure,
                Ok(Err(_panic)) => {
                    error!(node = %task.node, "Node panicked.");
                    Failure {
                        code: "internal".into(),
                        ..Failure::new(ErrorKind::ServerError, "the node failed")
                    }
                }
                Err(_late) => {
                    let message = format!("the node takes longer than {} s", node.timeout.as_secs_f64());
                    Failure::new(ErrorKind::Timeout, message)
                }
            };
            let Some(delay) = node.retry.delay(number, &failure, fastrand::f64()) else {
                attempt.emit.discard();
                let duration_ms = begun.elapsed().as_millis() as u64;
                let finished = Body::NodeFinished { status: NodeStatus::Failed, duration_ms, usage: None };
                self.journal.send(Some(&place), finished);
                return Err((task.node.clone(), failure));
            };
            info!(run = %self.claim.run.run, node = %task.node, attempt = number, code = %failure.code, "Attempt failed.");
            if attempt.emit.has_shown() {
                self.journal.send(Some(&place), Body::NodeReset { reason: failure.message.clone() });
            }
            let delay_ms = delay.as_millis() as u64;
            self.journal.send(Some(&place), Body::NodeRetrying { delay_ms, reason: failure.message });
            tokio::time::sleep(delay).await;
        }
        unreachable!("a policy has a last attempt")
    }

    /// Takes the results of a superstep over into the position, as a checkpoint to store.
    fn advance(&self, at: &mut Position, applied: Applied) -> Result<(), Failure> {
        let Applied { state, delta, frontier, edges } = applied;
        at.head.state = state;
        at.head.frontier = frontier;
        at.edges.extend(edges);
        self.checkpoint(at, &delta, "step")
    }

    fn checkpoint(&self, at: &mut Position, delta: &Delta, source: &str) -> Result<(), Failure> {
        let delta = record::encode_delta(delta);
        at.head.delta_bytes += delta.len();
        at.head.deltas += 1;
        // A snapshot costs what the state weighs. Written only once the deltas outgrew the last one, it
        // never more than doubles what a conversation writes, however long that gets.
        let due = at.head.deltas >= SNAPSHOT_EVERY && at.head.delta_bytes > at.head.snapshot_bytes;
        let most = self.shared.settings.state_bytes;
        // Deltas add up to at least the state: only then is it worth a look.
        let large = at.head.size() > most;
        let snapshot = (due || large).then(|| at.head.state.encode());
        if large && snapshot.as_ref().is_some_and(|snapshot| snapshot.len() > most) {
            at.torn = true;
            let message =
                format!("the state of the thread is larger than {most} bytes; go on in another session");
            return Err(Failure::new(ErrorKind::Limit, message));
        }
        if let Some(snapshot) = &snapshot {
            (at.head.snapshot_bytes, at.head.delta_bytes, at.head.deltas) = (snapshot.len(), 0, 0);
        }
        let checkpoint = CheckpointId::new();
        at.pending.push(Checkpoint {
            checkpoint,
            parent: at.head.checkpoint,
            run: Some(self.claim.run.run),
            step: at.number,
            source: source.into(),
            delta,
            snapshot,
            frontier: record::encode(&at.head.frontier),
            created_at: Utc::now(),
        });
        at.head.checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Returns the events of a barrier that do not belong to a node.
    fn barrier_events(at: &mut Position) -> Vec<(Option<Scope>, Body)> {
        let mut events = Vec::new();
        for edge in std::mem::take(&mut at.edges) {
            let to = edge.to.name().to_owned();
            events.push((None, Body::EdgeTaken { from: edge.from, to, condition: edge.condition }));
        }
        for row in &at.pending {
            let checkpoint_id = row.checkpoint;
            events.push((None, Body::StatePatch { checkpoint_id, patch: Vec::new() }));
            events.push((None, Body::CheckpointSaved { checkpoint_id, step: row.step }));
        }
        events
    }

    async fn complete(&self, at: Position, events: Vec<(Option<Scope>, Body)>) -> Result<(), Halt> {
        match output(&at, &self.facts(&at)) {
            Ok(output) => {
                let outcome = Outcome {
                    status: RunStatus::Completed,
                    output: Some(output),
                    usage: at.head.frontier.usage,
                    error: None,
                };
                self.finish(at, events, &outcome).await
            }
            Err(failure) => self.fail_with(at, events, None, failure).await,
        }
    }

    async fn fail(&self, at: Position, node: Option<String>, failure: Failure) -> Result<(), Halt> {
        self.fail_with(at, Vec::new(), node, failure).await
    }

    async fn fail_with(
        &self,
        at: Position,
        mut events: Vec<(Option<Scope>, Body)>,
        node: Option<String>,
        failure: Failure,
    ) -> Result<(), Halt> {
        // The message may hold words of the user: a `fail` node renders it.
        info!(run = %self.claim.run.run, node, code = %failure.code, "Run failed.");
        debug!(run = %self.claim.run.run, error = %failure, "Why the run failed.");
        let error = RunError {
            retryable: failure.kind.retryable(),
            code: failure.code,
            message: failure.message,
            node,
        };
        events.push((
            None,
            Body::Error {
                code: error.code.clone(),
                message: error.message.clone(),
                retryable: error.retryable,
                node: error.node.clone(),
            },
        ));
        let outcome = Outcome {
            status: RunStatus::Failed,
            output: None,
            usage: at.head.frontier.usage,
            error: Some(error),
        };
        self.finish(at, events, &outcome).await
    }

    async fn cancel(&self, at: Position) -> Result<(), Halt> {
        let outcome = Outcome {
            status: RunStatus::Cancelled,
            output: None,
            usage: at.head.frontier.usage,
            error: None,
        };
        self.finish(at, Vec::new(), &outcome).await
    }

    /// Returns the number of barriers that the store has: one for each superstep that is not pending.
    fn stored_step(at: &Position) -> u64 {
        let pending_steps = at.pending.iter().filter(|row| row.source == "step").count() as u64;
        at.number - pending_steps
    }

    /// Commits the end of the run.
    async fn finish(
        &self,
        mut at: Position,
        mut events: Vec<(Option<Scope>, Body)>,
        outcome: &Outcome,
    ) -> Result<(), Halt> {
        let (state, status) = match outcome.status {
            RunStatus::Completed => (RunState::Completed, "completed"),
            RunStatus::Cancelled => (RunState::Cancelled, "cancelled"),
            _ => (RunState::Failed, "failed"),
        };
        // `error` stands right before the end, after everything else that the barrier made visible.
        let at_error =
            events.iter().position(|(_, body)| matches!(body, Body::Error { .. })).unwrap_or(events.len());
        let tail = events.split_off(at_error);
        events.extend(Self::barrier_events(&mut at));
        events.extend(tail);
        events.push((
            None,
            Body::RunFinished {
                status: outcome.status,
                output: outcome.output.clone(),
                usage: outcome.usage,
            },
        ));
        self.commit(&at, events, Some((state, Some(record::encode(outcome))))).await?;
        metrics::counter!("graphloom_runs_finished_total", "status" => status).increment(1);
        // The next run on this thread starts from here without a read.
        if !at.torn {
            self.shared.heads.put(self.claim.run.thread, at.head);
        }
        Ok(())
    }

    /// Ends a run that went wrong outside of its nodes, from where the store has it.
    async fn end_broken(&self) -> Result<(), Halt> {
        let run = &self.claim.run;
        let row = self.patiently(|| self.shared.store.run(&run.key.owner, run.run)).await?;
        let Some(row) = row.filter(|row| row.fence == run.fence && row.state == RunState::Running) else {
            return Err(Halt::Gone);
        };
        let message = "the run could not go on because of a fault of the service";
        let failure = Failure { code: "internal".into(), ..Failure::new(ErrorKind::ServerError, message) };
        self.end_at(row.step, RunState::Failed, RunStatus::Failed, failure, Usage::default()).await
    }

    /// Ends a run without a barrier of its own.
    async fn end_at(
        &self,
        step: u64,
        state: RunState,
        status: RunStatus,
        failure: Failure,
        usage: Usage,
    ) -> Result<(), Halt> {
        let error = RunError {
            code: failure.code.clone(),
            message: failure.message.clone(),
            node: None,
            retryable: false,
        };
        let outcome = Outcome { status, output: None, usage, error: Some(error) };
        let events = vec![
            (
                None,
                Body::Error { code: failure.code, message: failure.message, retryable: false, node: None },
            ),
            (None, Body::RunFinished { status, output: None, usage }),
        ];
        let next = Some((state, Some(record::encode(&outcome))));
        self.write(step, Vec::new(), events, next).await.map(|_| ())
    }

    async fn commit(
        &self,
        at: &Position,
        events: Vec<(Option<Scope>, Body)>,
        next: Option<(RunState, Option<Vec<u8>>)>,
    ) -> Result<bool, Halt> {
        self.write(Self::stored_step(at), at.pending.clone(), events, next).await
    }

    /// Writes a barrier, for as long as it takes: the fence says when it is too late.
    async fn write(
        &self,
        step: u64,
        checkpoints: Vec<Checkpoint>,
        events: Vec<(Option<Scope>, Body)>,
        next: Option<(RunState, Option<Vec<u8>>)>,
    ) -> Result<bool, Halt> {
        let claim = &self.claim.run;
        let (held, batch): (Held, _) = self.journal.hold(events);
        let commit = Commit {
            owner: claim.key.owner.clone(),
            thread: claim.thread,
            run: claim.run,
            fence: claim.fence,
            step,
            checkpoints,
            events: batch,
            next,
            lease: self.shared.process.lease,
        };
        let begun = Instant::now();
        let mut unsure = false;
        loop {
            match self.shared.store.commit(commit.clone()).await {
                Ok(Committed::Done { cancel_requested }) => {
                    metrics::histogram!("graphloom_commit_seconds").record(begun.elapsed().as_secs_f64());
                    self.journal.release(held);
                    return Ok(cancel_requested);
                }
                Ok(Committed::Lost) if !unsure => return Err(Halt::Gone),
                // Lost, perhaps to an earlier try of its own that took longer than its answer.
                outcome @ (Ok(Committed::Lost) | Err(StoreError::Unknown(_))) => {
                    let lost = outcome.is_ok();
                    unsure = true;
                    warn!(run = %claim.run, "Commit has no answer; reading the run.");
                    let read = || self.shared.store.run(&claim.key.owner, claim.run);
                    let Some(row) = self.patiently(read).await? else { return Err(Halt::Gone) };
                    if row.fence != claim.fence {
                        return Err(Halt::Gone);
                    }
                    if row.step == step + 1 {
                        self.journal.release(held);
                        return Ok(row.cancel_requested);
                    }
                    if lost {
                        return Err(Halt::Gone);
                    }
                }
                Err(StoreError::Unavailable(why)) => {
                    warn!(run = %claim.run, why, "Commit waits for the database.");
                    self.pause().await?;
                }
                Err(error) => return Err(Halt::Broken(error)),
            }
        }
    }

    /// Repeats a read until the database answers.
    async fn patiently<T, F, R>(&self, read: F) -> Result<T, Halt>
    where
        F: Fn() -> R,
        R: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match read().await {
                Ok(value) => return Ok(value),
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => self.pause().await?,
                Err(error) => return Err(Halt::Broken(error)),
            }
        }
    }

    async fn pause(&self) -> Result<(), Halt> {
        if matches!(self.live.stop(), Some(Stop::Leave | Stop::Lost)) {
            return Err(Halt::Gone);
        }
        tokio::time::sleep(COMMIT_RETRY).await;
        Ok(())
    }

    /// Parts from a run that is not this process's any more: another has it, or its thread was deleted.
    async fn part(&self) {
        let run = &self.claim.run;
        if matches!(self.shared.store.run(&run.key.owner, run.run).await, Ok(None)) {
            debug!(run = %run.run, "Run deleted with its thread.");
            return self.journal.bury();
        }
        debug!(run = %run.run, "Run left to another owner.");
        self.journal.abort();
    }

    /// Gives the run back, so that another process goes on at once.
    async fn leave(&self) -> Halt {
        let run = &self.claim.run;
        if self.live.stop() != Some(Stop::Leave) {
            return Halt::Gone;
        }
        // The next owner must know what was begun here; without it, only a lease that ran out makes it doubt all.
        if let Some(batch) = self.journal.unstored() {
            let batch = vec![(run.key.owner.clone(), run.run, batch)];
            if let Err(error) = self.shared.store.append_events(batch).await {
                warn!(run = %run.run, %error, "Run could not be given back; its lease will run out.");
                return Halt::Gone;
            }
        }
        if let Err(error) = self.shared.store.release(&run.key.owner, run.run, run.fence).await {
            warn!(run = %run.run, %error, "Run could not be given back; its lease will run out.");
        }
        Halt::Gone
    }
}

/// A finished task.
struct TaskDone {
    place: Scope,
    done: Done,
    took: Duration,
}

/// Splits results into what the barrier folds and what it tells.
fn unzip(results: Vec<TaskDone>) -> (Vec<Finished>, Vec<(Option<Scope>, Body)>) {
    let mut finished = Vec::with_capacity(results.len());
    let mut events = Vec::new();
    for TaskDone { place, done, took } in results {
        events.extend(done.events.into_iter().map(|body| (Some(place.clone()), body)));
        let usage = (done.usage != Usage::default()).then_some(done.usage);
        let duration_ms = took.as_millis() as u64;
        events.push((Some(place), Body::NodeFinished { status: NodeStatus::Completed, duration_ms, usage }));
        finished.push(Finished { writes: done.writes, usage: done.usage });
    }
    (finished, events)
}

fn diverted(step: &Step) -> impl Iterator<Item = Taken> + '_ {
    step.diverted.iter().map(|(from, to): &(String, Target)| Taken {
        from: from.clone(),
        to: to.clone(),
        condition: Some("max_visits".into()),
    })
}

fn output(at: &Position, facts: &RunFacts) -> Result<Json, Failure> {
    match &at.plan.output {
        Output::Public => {
            // The conversation is told message by message; repeating it would make each turn cost more
            // than the one before.
            let shown = |(name, channel): &(&String, &Channel)| {
                !channel.private && Some(*name) != at.plan.messages.as_ref()
            };
            let channels = at.plan.channels.iter().filter(shown);
            let entry = |(name, _): (&String, &Channel)| Some((name.clone(), at.head.state.json(name)?));
            Ok(Json::Object(channels.filter_map(entry).collect()))
        }
        Output::Channels(names) => {
            let channel = |name: &String| Some((name.clone(), at.head.state.json(name)?));
            Ok(Json::Object(names.iter().filter_map(channel).collect()))
        }
        Output::Map(map) => {
            let scope = crate::node::scope(&at.head.state, &at.input, facts, 1);
            let entry =
                |(name, tree): (&String, &crate::expr::ExprTree)| Ok((name.clone(), tree.eval(&scope)?));
            map.iter().map(entry).collect::<Result<_, Failure>>().map(Json::Object)
        }
    }
}

/// Returns the part of a plan's hash that checkpoints carry.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Says why a stored state does not fit the graph of today.
pub(super) fn incompatible(plan: &Plan, state: &State) -> Option<String> {
    plan.channels.iter().find_map(|(name, channel)| {
        let value = state.json(name)?;
        let mismatch = channel.check_held(&value).err()?;
        Some(format!("the thread's `{name}` does not fit the graph of today: {}", mismatch.why))
    })
}

/// Returns the text of a user turn.
fn user_text(message: Option<&Json>) -> String {
    match message {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Array(parts)) => {
            let text = |part: &Json| part.as_str().or_else(|| part.get("text")?.as_str()).map(str::to_owned);
            parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}
