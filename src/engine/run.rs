//! The only loop: plan a superstep, do its tasks, commit the barrier, tell the readers.
//!
//! Invariant: nothing durable is sent before its commit, and after a lost fence nothing is sent at all.

mod cache;
mod commit;
mod durable;
mod ends;
mod limits;
mod takeover;
mod tasks;

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures_util::FutureExt;
use serde_json::{Value as Json, json};
use tracing::{Instrument, Span, debug, error};

use self::commit::Sealed;
use self::limits::{most_steps, over_limit};
use self::takeover::{Inherited, Spent};
use super::breakpoint::Breakpoints;
use super::heads::{self, Head};
use super::journal::Journal;
use super::migrate;
use super::record::{self, Input};
use super::step::{
    self, Applied, Doing, Frontier, Granted, Limit, Open, Planned, Replies, Step, Taken, UNSOUGHT, Unhandled,
    Worked, World,
};
use super::{Live, Shared, Stop};
use crate::event::{Body, RunStatus, Scope, Usage, Who};
use crate::failure::{ErrorKind, Failure};
use crate::id::{CheckpointId, InterruptId, TaskId};
use crate::node::RunFacts;
use crate::plan::{Durability, Effects, Plan, START, Target};
use crate::state::{Cell, Delta, Write, fold, join};
use crate::store::{CacheEntry, Checkpoint, Claim, Question, RunState, StoreError};
use crate::trace;

/// Checkpoints between two snapshots at least.
const SNAPSHOT_EVERY: usize = 50;
/// The most checkpoints, and results to keep, that wait for one commit.
const MOST_PENDING: usize = 500;
/// The most bytes of them.
const MOST_PENDING_BYTES: usize = 4 * 1024 * 1024;
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
    /// Somebody asked for the end.
    Cancelled,
    /// The process goes away, or the fence is lost.
    Gone,
    /// The barrier before it cannot be stored.
    Halted(Halt),
}

/// Why a run pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing can go on before a person says something.
    Waits,
    /// It is at a breakpoint.
    Stopped,
}

/// Returns the span of the work on a run. What was begun by a request is part of the request's trace, and refers to that of
/// an earlier one; what was taken from the queue, or from a process that died, goes on in the trace of its beginning.
fn span(claim: &Claim, begun: Span) -> Span {
    let run = &claim.run;
    let asked = !begun.is_disabled();
    let span = if asked { begun } else { trace::run(&run.graph, run.run, &run.key.owner.tenant) };
    if span.is_disabled() {
        return span;
    }
    trace::on_thread(&span, run.thread);
    // One that cannot be read is told as such when it is needed.
    let kept = record::decode::<Input>("run", &run.input).ok().and_then(|input| input.trace);
    match kept {
        Some(kept) if !asked => trace::go_on(&span, &kept),
        Some(kept) if run.fence > 1 => trace::refer(&span, &kept),
        _ => {}
    }
    span
}

/// Owns a claimed run until it ends, pauses or is lost. Whatever goes wrong, its readers are told. `begun` is the span of
/// the request that began the work.
pub(super) async fn drive(shared: Arc<Shared>, live: Arc<Live>, claim: Claim, begun: Span) {
    let span = span(&claim, begun);
    work(&shared, &live, &claim).instrument(span).await;
    shared.retire(&live);
}

async fn work(shared: &Shared, live: &Live, claim: &Claim) {
    let run = claim.run.run;
    let driver = Driver::new(shared, live, claim);
    let outcome = match AssertUnwindSafe(Box::pin(driver.run(claim))).catch_unwind().await {
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
    /// Where it stops.
    breakpoints: Breakpoints,
    /// How its next checkpoint comes about.
    source: &'static str,
    /// Why it pauses, when it does.
    rest: Option<Rest>,
    /// What is told of that, if somebody is to be told.
    notice: Option<Vec<u8>>,
    user_text: Arc<str>,
    head: Head,
    /// When barriers are stored.
    durability: Durability,
    /// Checkpoints that are made but not stored yet.
    pending: Vec<Checkpoint>,
    /// What becomes visible with them.
    told: Vec<(Option<Scope>, Body)>,
    /// A barrier that is on its way to the store.
    sealed: Option<Sealed>,
    /// The superstep makes a call that must not be made twice.
    once: bool,
    /// Tasks of later supersteps, to which an earlier owner had come and the store had not.
    later: BTreeSet<TaskId>,
    /// Checkpoints that were made but not told yet.
    points: Vec<(CheckpointId, u64)>,
    /// Edges that were taken but not told yet.
    edges: Vec<Taken>,
    /// Supersteps done.
    number: u64,
    /// What the store has counted: its gate.
    gate: u64,
    /// The state went further than the checkpoint that it stands at.
    torn: bool,
    /// What of its limits counts no longer.
    spent: Spent,
    /// Since when the run's time is counted.
    clock: Instant,
    /// When the tasks began that are not over.
    begun: HashMap<TaskId, Instant>,
    /// Questions that are put, and not stored yet.
    asked: Vec<Question>,
    /// Questions that are over, and not yet so in the store.
    closed: Vec<InterruptId>,
    /// What leaves of the next superstep came to before the run was taken over.
    kept: HashMap<TaskId, Option<Worked>>,
    /// The store may hold results of leaves of this superstep.
    has_kept: bool,
    /// Results to keep for the tenant.
    to_cache: Vec<CacheEntry>,
}

impl Position {
    /// Takes the newest turn of the user, which may be the answer to a question.
    fn hear(&mut self) {
        let channel = self.plan.messages.as_ref().and_then(|channel| self.head.state.get(channel));
        let Some(Cell::List(turns)) = channel else { return };
        if let Some(turn) = turns.iter().rev().find(|turn| turn["role"] == "user") {
            self.user_text = user_text(turn.get("content")).into();
        }
    }

    /// Says whether the barrier can be stored with a later one: nobody waits for it, and it is not too much at once.
    fn may_wait(&self) -> bool {
        let bytes = self.pending.iter().map(|point| point.delta.len() + point.frontier.len()).sum::<usize>();
        self.durability == Durability::Exit
            && self.asked.is_empty()
            && self.closed.is_empty()
            && !self.once
            && !self.has_kept
            && self.pending.len().max(self.to_cache.len()) < MOST_PENDING
            && bytes < MOST_PENDING_BYTES
    }
}

impl<'a> Driver<'a> {
    fn new(shared: &'a Shared, live: &'a Live, claim: &'a Claim) -> Self {
        Self { shared, live, journal: live.journal.clone(), claim, started: Instant::now() }
    }

    async fn run(&self, claim: &Claim) -> Result<(), Halt> {
        let Inherited { open: void, spent } =
            if claim.run.fence > 1 { self.inherit().await? } else { Inherited::default() };
        let head = self.head(claim).await?;
        // Not by the gate: a run whose input could not be taken has passed it, too.
        let began = head.run == Some(claim.run.run) && (head.step > 0 || !head.frontier.tokens.is_empty());
        // What the thread's last run used up is in the head until this one has its first barrier.
        let usage = if began { head.frontier.usage } else { Usage::default() };
        if claim.run.crashes >= self.shared.settings.crashes {
            let next = if began { &*head.frontier.tokens } else { &[] };
            return self.give_up(&void, next, usage).await;
        }
        let head_step = head.step;
        let input: Input = record::decode("run", &claim.run.input).map_err(Halt::Broken)?;
        let plan = match &self.live.accepted {
            // What is served may be another project by now, without the models of this one.
            Some(plan) => Ok(plan.clone()),
            None => self.patiently(|| self.shared.plan(&claim.run.graph, &claim.run.hash)).await?,
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(failure) => {
                return self
                    .end_at(claim.run.step, RunState::Failed, RunStatus::Failed, None, failure, usage)
                    .await;
            }
        };
        let mut at = Position {
            user_text: user_text(input.message.as_ref()).into(),
            input: Arc::new(input.input.clone()),
            durability: input.durability.unwrap_or(plan.durability),
            breakpoints: input.breakpoints.clone(),
            source: "input",
            rest: None,
            notice: None,
            plan,
            head,
            pending: Vec::new(),
            told: Vec::new(),
            sealed: None,
            once: false,
            later: BTreeSet::new(),
            points: Vec::new(),
            edges: Vec::new(),
            number: if began { head_step } else { 0 },
            gate: claim.run.step,
            torn: false,
            spent: spent.filter(|_| began).unwrap_or(Spent { steps: input.base, usage: Usage::default() }),
            clock: self.started,
            begun: HashMap::new(),
            asked: Vec::new(),
            closed: Vec::new(),
            kept: HashMap::new(),
            has_kept: false,
            to_cache: Vec::new(),
        };
        if claim.run.fence > 1 {
            self.recall(&mut at).await?;
            // Without a message of its own, the newest turn is of an earlier run.
            if began && input.message.is_some() {
                at.hear();
            }
        }
        if let Some(spent) = spent.filter(|spent| began && spent.steps == at.number) {
            at.head.frontier.granted = Granted::default();
            // What the failed superstep used is in what was told of it, and in no checkpoint.
            if spent.usage.tokens() >= at.head.frontier.usage.tokens() {
                at.head.frontier.usage = spent.usage;
                at.kept.values_mut().flatten().for_each(Worked::forget_usage);
            }
        }
        if claim.run.step == 0 {
            let checkpoint_id = at.head.checkpoint;
            self.journal.send(None, Body::StateSnapshot { checkpoint_id, state: Json::Null });
        }
        if !began && let Err(failure) = self.begin(&mut at, &input) {
            return self.fail(at, None, failure).await;
        }
        let mut crashed = claim.crashed;
        let mut void = Some(void);
        let mut first = !began;
        loop {
            // After a stall of the whole process its worker may be awake before its heartbeat.
            if !self.shared.is_trusted(self.live) {
                self.live.ask(Stop::Lost);
            }
            // A pause is none for a run whose end was asked for: it would be claimed for that again and again.
            if self.live.stop() == Some(Stop::Cancel) {
                return self.cancel(at).await;
            }
            let plan = at.plan.clone();
            let (facts, replies) = (self.facts(&at), self.replies(&at).await?);
            at.source = if replies.is_empty() { "step" } else { "answer" };
            let found;
            let number = at.number + 1;
            let mut world = World { root: &plan, facts: &facts, replies: &replies, found: &UNSOUGHT, number };
            let mut planned = step::plan_step(world, &at.head.state, &at.input, &at.head.frontier);
            if let Ok(Planned { sought, .. }) = &mut planned
                && !sought.is_empty()
            {
                let sought = std::mem::take(sought);
                found = self.look_up(&at, world, sought).await?;
                world.found = &found;
                planned = step::plan_step(world, &at.head.state, &at.input, &at.head.frontier);
            }
            let Planned { step, leaves, begun, .. } = match planned {
                Ok(planned) => planned,
                Err(failure) => return self.fail(at, None, failure).await,
            };
            if step.tasks.is_empty() {
                at.edges.extend(diverted(&step));
                return self.complete(at, Vec::new()).await;
            }
            if !step.moves() {
                return self.pause(at, Vec::new(), Rest::Waits).await;
            }
            if std::mem::take(&mut first) && at.breakpoints.stop_before(&begun) {
                let events = Self::barrier_events(&mut at);
                return self.pause(at, events, Rest::Stopped).await;
            }
            if let Some(limit) = over_limit(&at, &leaves) {
                let step = Step { tasks: Vec::new(), ..step };
                match self.divert(at, limit, world, step, Vec::new()).await? {
                    Some(on) => at = on,
                    None => return Ok(()),
                }
                continue;
            }
            // Waiting for people is not working.
            for task in step.tasks.iter().filter(|task| matches!(task.doing, Doing::Waits(_))) {
                at.begun.insert(task.id.clone(), Instant::now());
            }
            // All that led to a call that must not be made twice is stored before it.
            at.once = leaves.iter().any(|leaf| leaf.effects() == Effects::AtMostOnce);
            if at.once && self.flush(&mut at).await? {
                return self.cancel(at).await;
            }
            if let Some(void) = void.take() {
                self.reset(&mut at, &leaves, &void, std::mem::take(&mut crashed));
            }
            self.begin_tasks(&mut at, &begun, facts.step);
            let span = trace::superstep(number);
            let ended = match self.beside_commit(&mut at, &leaves, &facts).instrument(span).await {
                Ok(ended) => ended,
                Err(Cut::Cancelled) => return self.cancel(at).await,
                Err(Cut::Gone) => return Err(self.hand_back(at).await),
                Err(Cut::Halted(halt)) => return Err(halt),
            };
            if ended.iter().any(Option::is_none) {
                match self.divert(at, Limit::Time, world, step, ended).await? {
                    Some(on) => at = on,
                    None => return Ok(()),
                }
                continue;
            }
            let head = &at.head;
            let applied = match step::apply(world, &head.state, &at.input, &head.frontier, step, ended) {
                Ok(applied) => applied,
                Err(unhandled) => {
                    let Unhandled { node, failure, usage, events } = *unhandled;
                    at.head.frontier.usage += usage;
                    let events = Self::timed(&mut at, events);
                    return self.fail_with(at, events, Some(node), failure).await;
                }
            };
            let again = applied.again.clone();
            match self.barrier(at, applied).await? {
                Some(on) => at = on,
                None => return Ok(()),
            }
            // What is tried again has its time again.
            at.begun.retain(|task, _| !again.contains(task));
        }
    }

    /// Returns what people said to the open questions.
    async fn replies(&self, at: &Position) -> Result<Replies, Halt> {
        if !at.head.frontier.is_holding() || at.head.frontier.held(&at.plan).0.is_empty() {
            return Ok(Replies::new());
        }
        let run = &self.claim.run;
        let said = self.patiently(|| self.shared.store.answers(&run.key.owner, run.run)).await?;
        let reply = |(id, bytes): (InterruptId, Vec<u8>)| Ok((id, record::decode("answer", &bytes)?));
        said.into_iter().map(reply).collect::<Result<_, _>>().map_err(Halt::Broken)
    }

    /// Says whether the run pauses here: at a breakpoint, also after what ended, or since nothing can go on before a person says something.
    async fn rests(&self, at: &Position, after: bool, asks: bool) -> Result<Option<Rest>, Halt> {
        if after {
            return Ok(Some(Rest::Stopped));
        }
        if at.breakpoints.before.is_empty() && !asks {
            return Ok(None);
        }
        let (facts, replies) = (self.facts(at), self.replies(at).await?);
        let number = at.number + 1;
        let world = World { root: &at.plan, facts: &facts, replies: &replies, found: &UNSOUGHT, number };
        // Whatever cannot be planned is a failure, which is not waited for.
        let planned = step::plan_step(world, &at.head.state, &at.input, &at.head.frontier).ok();
        Ok(planned.filter(|planned| !planned.step.tasks.is_empty()).and_then(|planned| {
            if planned.step.moves() {
                at.breakpoints.stop_before(&planned.begun).then_some(Rest::Stopped)
            } else {
                Some(Rest::Waits)
            }
        }))
    }

    /// Fills in how long nodes took that end.
    fn timed(at: &mut Position, events: Vec<(Scope, Body)>) -> Vec<(Option<Scope>, Body)> {
        let timed = |(place, mut body): (Scope, Body)| {
            if let Body::NodeFinished { duration_ms, .. } = &mut body
                && let Some(begun) = at.begun.remove(&place.task_id)
            {
                *duration_ms = begun.elapsed().as_millis() as u64;
            }
            (Some(place), body)
        };
        events.into_iter().map(timed).collect()
    }

    /// Saves what a superstep made. Nothing: that was the end of the run.
    async fn barrier(&self, mut at: Position, mut applied: Applied) -> Result<Option<Position>, Halt> {
        let told = std::mem::take(&mut applied.events);
        let events = Self::timed(&mut at, told);
        let wait = applied.wait;
        let (asked, _) = at.head.frontier.held(&at.plan);
        let holding = applied.frontier.is_holding() || at.head.frontier.is_holding();
        at.number += 1;
        if let Err(failure) = self.advance(&mut at, applied) {
            at.number -= 1;
            return self.fail(at, None, failure).await.map(|()| None);
        }
        metrics::counter!("graphloom_supersteps_total").increment(1);
        let (open, mut alive) = if holding { at.head.frontier.held(&at.plan) } else { Default::default() };
        alive.extend(at.later.iter().cloned());
        let answered =
            |old: &Open| old.who == Who::User && open.iter().all(|new| new.question.id != old.question.id);
        if asked.iter().any(answered) {
            at.hear();
        }
        let after = at.breakpoints.stop_after(&events);
        at.told.extend(events);
        at.kept.clear();
        self.journal.settle(&at.told, &alive);
        // The end of the run is part of its last barrier.
        if at.head.frontier.tokens.is_empty() {
            return self.complete(at, Vec::new()).await.map(|()| None);
        }
        for new in open.iter().filter(|new| asked.iter().all(|old| old.question.id != new.question.id)) {
            let interrupt = new.interrupt();
            at.asked.push(Question {
                id: new.question.id.clone(),
                agent: new.who == Who::Agent,
                data: record::encode(&interrupt),
                expires_at: new.question.expires_at,
            });
            let body = Body::InterruptRequested { interrupt: Box::new(interrupt) };
            at.told.push((Some(new.place.clone()), body));
        }
        let over = asked.into_iter().map(|old| old.question.id);
        at.closed.extend(over.filter(|id| open.iter().all(|new| new.question.id != *id)));
        let more = Self::barrier_events(&mut at);
        at.told.extend(more);
        if let Some(rest) = self.rests(&at, after, !open.is_empty()).await? {
            return self.pause(at, Vec::new(), rest).await.map(|()| None);
        }
        let leaves = matches!(self.live.stop(), Some(Stop::Drain | Stop::Leave));
        let cancel = match at.durability {
            Durability::Async if !leaves && !at.once => {
                let cancel = self.settled(&mut at).await?;
                at.sealed = Some(self.seal(&mut at, Vec::new(), None));
                cancel
            }
            Durability::Exit if !leaves && at.may_wait() => false,
            _ => self.commit(&mut at, Vec::new(), None).await?,
        };
        debug!(run = %self.claim.run.run, step = at.number, "Barrier made.");
        if cancel {
            return self.cancel(at).await.map(|()| None);
        }
        if leaves {
            return Err(self.leave().await);
        }
        // There is no superstep yet that could go on beside it.
        if !wait.is_zero() && self.settled(&mut at).await? {
            return self.cancel(at).await.map(|()| None);
        }
        tokio::select! {
            biased;
            _why = self.live.stopped(), if !wait.is_zero() => {}
            () = tokio::time::sleep(wait), if !wait.is_zero() => {}
            else => {}
        }
        Ok(Some(at))
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
        let (mut state, mut delta) = migrate::take(&at.plan, &at.head).map_err(|why| Failure {
            code: "state_incompatible".into(),
            ..Failure::new(ErrorKind::Schema, why)
        })?;
        join(&mut delta, state.begin_run(&at.plan.channels));
        // What the run before was in the middle of is given up, but what it did is done.
        let (state, mut delta) = at.head.frontier.remembered(&at.plan, (state, delta), |_| true);
        at.head.state = state;
        let mut joined = Ok(());
        if let (Some(message), Some(channel)) = (&input.message, &at.plan.messages) {
            let turn = json!({"id": format!("u_{}", self.claim.run.run), "role": "user", "content": message});
            let writes = vec![Write::Put { channel: channel.clone(), value: turn }];
            let task = TaskId::derive(self.claim.run.run, 0, START, 0);
            match fold(&at.plan.channels, &at.head.state, &[(task, writes)]) {
                Ok((state, written)) => {
                    at.head.state = state;
                    join(&mut delta, written);
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
        // What called graphs keep stays with the thread.
        let kept = std::mem::take(&mut at.head.frontier.kept);
        at.head.frontier = Frontier { plan: migrate::short(&at.plan).to_owned(), kept, ..frontier };
        at.edges = edges;
        self.checkpoint(at, &delta)?;
        failed.map_or(Ok(()), Err)
    }

    fn facts(&self, at: &Position) -> RunFacts {
        RunFacts {
            id: self.claim.run.run,
            step: at.number + 1,
            steps_left: most_steps(at).saturating_sub(at.number),
            user_text: at.user_text.clone(),
            // The store has woken it: a clock that is behind its own must not put it to sleep again.
            now: self.claim.run.wake_at.map_or_else(Utc::now, |woken| woken.max(Utc::now())),
        }
    }

    /// Takes the results of a superstep over into the position, as a checkpoint to store.
    fn advance(&self, at: &mut Position, applied: Applied) -> Result<(), Failure> {
        let Applied { state, delta, frontier, edges, to_cache, .. } = applied;
        at.to_cache = cache::entries(std::mem::take(&mut at.to_cache), to_cache);
        at.head.state = state;
        at.head.frontier = frontier;
        at.edges.extend(edges);
        self.checkpoint(at, &delta)
    }

    fn checkpoint(&self, at: &mut Position, delta: &Delta) -> Result<(), Failure> {
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
            source: at.source.into(),
            delta,
            snapshot,
            frontier: record::encode(&at.head.frontier),
            created_at: Utc::now(),
        });
        at.points.push((checkpoint, at.number));
        at.head.checkpoint = Some(checkpoint);
        at.head.run = Some(self.claim.run.run);
        at.head.step = at.number;
        Ok(())
    }

    /// Returns the events of a barrier that do not belong to a node.
    fn barrier_events(at: &mut Position) -> Vec<(Option<Scope>, Body)> {
        let mut events = Vec::new();
        for edge in std::mem::take(&mut at.edges) {
            let to = edge.to.name().to_owned();
            let Taken { from, condition, path, item, .. } = edge;
            events.push((None, Body::EdgeTaken { from, to, condition, path, item }));
        }
        for (checkpoint_id, step) in std::mem::take(&mut at.points) {
            events.push((None, Body::StatePatch { checkpoint_id, patch: Vec::new() }));
            events.push((None, Body::CheckpointSaved { checkpoint_id, step }));
        }
        events
    }
}

fn diverted(step: &Step) -> impl Iterator<Item = Taken> + '_ {
    step.diverted.iter().map(|(from, to): &(String, Target)| Taken {
        from: from.clone(),
        to: to.clone(),
        condition: Some("max_visits".into()),
        path: Vec::new(),
        item: None,
    })
}

/// Returns the text of a user turn.
pub(crate) fn user_text(message: Option<&Json>) -> String {
    match message {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Array(parts)) => {
            let text = |part: &Json| part.as_str().or_else(|| part.get("text")?.as_str()).map(str::to_owned);
            parts.iter().filter_map(text).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}
