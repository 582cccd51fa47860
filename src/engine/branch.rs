//! Changes the state of threads from outside, and forks them: a new run goes on from there with the input of the old one.
//!
//! Invariant: the run waits until somebody resumes it, or answers what is asked; and no run of a thread works meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value as Json};

use super::accept::fill_input;
use super::breakpoint::Breakpoints;
use super::heads::{self, Head};
use super::record::{self, Input, Outcome};
use super::run::user_text;
use super::step::{self, Change, Frontier, Open, Replies, Taken, UNSOUGHT, World};
use super::{Engine, StartError, migrate};
use crate::event::{self, Body, Event, RunStatus, Scope, Usage, Who};
use crate::id::{CheckpointId, Part, RunId, Seq, ThreadId, ThreadKey};
use crate::node::RunFacts;
use crate::plan::Plan;
use crate::state::{Cell, Delta, Mismatch, State, join};
use crate::store::{
    Branch, Branched as Stored, Checkpoint, EventBatch, Idempotency, Keyed, Origin, Question, Run, RunFilter,
    RunState, StoreError, Thread,
};

/// How often a change is tried again when the thread went on meanwhile.
const TRIES: usize = 5;

/// A change of a thread's state in the name of a node.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// What is written, by channel.
    pub values: Map<String, Json>,
    /// The node that it is written as, `start` or `end`: its edges say what runs next.
    pub as_node: String,
    /// The paused graph that is changed, by the nodes that called it: `name`, or `name[ITEM]`; else the thread's own.
    pub path: Vec<String>,
    /// The caller may do what is asked of agents.
    pub agent: bool,
    /// Channels that are private may be written, too: for operators.
    pub private: bool,
    /// Makes a repeated request find what the first one did.
    pub idempotency: Option<Idempotency>,
}

/// The wish for a new thread that goes on from a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Fork {
    /// The new session; absent: one with a name of its own.
    pub session: Option<Part>,
    /// The checkpoint; absent: the head of the thread.
    pub checkpoint: Option<CheckpointId>,
    /// The caller may do what is asked of agents.
    pub agent: bool,
    /// Makes a repeated request find what the first one did.
    pub idempotency: Option<Idempotency>,
}

/// A run that goes on from an update or a fork.
#[derive(Debug, Clone)]
pub struct Branched {
    /// The run: it waits, or nothing was left to do.
    pub run: Run,
    /// An earlier request did it.
    pub replayed: bool,
}

/// What a run from outside begins with.
struct Begins {
    run: RunId,
    plan: Option<Arc<Plan>>,
    graph: String,
    hash: String,
    input: Input,
    state: State,
    frontier: Frontier,
    /// What is told before the checkpoint, and what after it.
    told: (Vec<Body>, Vec<Taken>),
}

impl Engine {
    /// Changes the state of a thread. A run that waits is ended; the new one goes on when it is resumed.
    pub async fn update(&self, key: &ThreadKey, update: &Update) -> Result<Branched, StartError> {
        for _ in 0..TRIES {
            let thread = self.branchable(key, update.idempotency.as_ref()).await?;
            let thread = match thread {
                Ok(thread) => thread,
                Err(known) => return Ok(known),
            };
            let branch = self.changed(&thread, update).await?;
            if let Some(done) = self.branch(branch).await? {
                return Ok(done);
            }
        }
        Err(StoreError::Unavailable("others change the thread each time".into()).into())
    }

    /// Makes a thread that goes on from a checkpoint of this one.
    pub async fn fork(&self, key: &ThreadKey, fork: &Fork) -> Result<Branched, StartError> {
        let thread = match self.branchable(key, fork.idempotency.as_ref()).await? {
            Ok(thread) => thread,
            Err(known) => return Ok(known),
        };
        let branch = self.forked(&thread, fork).await?;
        self.branch(branch).await?.ok_or(StartError::NotFound)
    }

    /// Finds the thread, or what an earlier request with the same key did.
    async fn branchable(
        &self,
        key: &ThreadKey,
        used: Option<&Idempotency>,
    ) -> Result<Result<Thread, Branched>, StartError> {
        let store = &self.shared.store;
        if self.shared.draining.load(Ordering::Relaxed) {
            return Err(StartError::Draining);
        }
        if let Some(used) = used
            && let Some(known) = store.keyed(&key.owner, used).await?
        {
            return known_branch(known).map(Err);
        }
        store.thread(key).await?.map(Ok).ok_or(StartError::NotFound)
    }

    async fn branch(&self, branch: Branch) -> Result<Option<Branched>, StartError> {
        match self.shared.store.branch(branch).await? {
            Stored::Done(run) => Ok(Some(Branched { run: *run, replayed: false })),
            Stored::Known(known) => known_branch(known).map(Some),
            Stored::Busy(run) => Err(StartError::Busy(run)),
            Stored::Moved => Ok(None),
            Stored::Gone => Err(StartError::NotFound),
            Stored::Exists => Err(StartError::Exists),
        }
    }

    async fn changed(&self, thread: &Thread, update: &Update) -> Result<Branch, StartError> {
        let (store, owner) = (&*self.shared.store, &thread.key.owner);
        let filter = RunFilter {
            states: vec![RunState::Running, RunState::Queued],
            tenant: Some(owner.tenant.clone()),
            thread: Some(thread.thread),
            before: None,
        };
        let most = self.shared.settings.queue_limit.saturating_add(1);
        let runs = store.runs(&filter, most).await?;
        if let Some(run) = runs.into_iter().find(|run| run.due_at.is_none()) {
            return Err(StartError::Busy(run.run));
        }
        let head = match thread.head {
            Some(head) => heads::load(store, owner, thread.thread, head).await?.map(|(head, _)| head),
            None => Some(Head::default()),
        };
        let head = head.ok_or(StartError::NotFound)?;
        let of = head.run.or(thread.last_run.map(|(run, _)| run)).ok_or(StartError::NotFound)?;
        let source = store.run(owner, of).await?.ok_or(StartError::NotFound)?;
        let mut input: Input = record::decode("input", &source.input)?;
        let plan = if update.path.is_empty() {
            let served = self.graph(&thread.graph);
            served.ok_or_else(|| StartError::UnknownGraph(thread.graph.clone()))?
        } else {
            // What is paused began on this version, and goes on with it.
            self.pinned(&source).await?
        };
        if plan.asks_agents() && !update.agent {
            return Err(StartError::Forbidden);
        }
        let begun = if plan.hash == source.hash { Ok(()) } else { refit(&plan, &mut input) };
        begun.map_err(StartError::Incompatible)?;
        let (mut state, mut delta) = migrate::take(&plan, &head).map_err(StartError::Incompatible)?;
        if head.checkpoint.is_none() {
            join(&mut delta, state.begin_run(&plan.channels));
        }
        let (run, step, now) = (RunId::new(), head.step + 1, Utc::now());
        let facts = facts(&plan, &state, run, step, now);
        let change = Change {
            values: &update.values,
            node: &update.as_node,
            path: &update.path,
            private: update.private,
        };
        let json = Arc::new(input.input.clone());
        let changed = step::change(&plan, (&state, &head.frontier), &json, &facts, change);
        let changed = changed.map_err(StartError::Unprocessable)?;
        join(&mut delta, changed.delta);
        let most = self.shared.settings.state_bytes;
        if head.size() > most || changed.state.encode().len() > most {
            let why = format!("the state of the thread would be larger than {most} bytes");
            return Err(StartError::Unprocessable(vec![Mismatch::here(why).within("values")]));
        }
        let mut frontier = Frontier { plan: migrate::short(&plan).to_owned(), ..changed.frontier };
        frontier.renew(&plan, run, now);
        let before = Body::StateSnapshot { checkpoint_id: head.checkpoint, state: Json::Null };
        let begins = Begins {
            run,
            graph: plan.graph.clone(),
            hash: plan.hash.clone(),
            plan: Some(plan),
            input: Input { base: step, breakpoints: Breakpoints::default(), ..input },
            state: changed.state,
            frontier,
            told: (vec![before], changed.edges),
        };
        let checkpoint = Checkpoint {
            checkpoint: CheckpointId::new(),
            parent: head.checkpoint,
            run: Some(run),
            step,
            source: "update".into(),
            delta: record::encode_delta(&delta),
            snapshot: None,
            frontier: record::encode(&begins.frontier),
            created_at: now,
        };
        let (result, events) = super::ending(RunStatus::Cancelled);
        let origin = Origin::Head { head: head.checkpoint, result, events };
        let place = (thread.key.clone(), thread.thread);
        Ok(begins.branch(origin, place, checkpoint, update.idempotency.clone()))
    }

    async fn forked(&self, thread: &Thread, fork: &Fork) -> Result<Branch, StartError> {
        let (store, owner) = (&*self.shared.store, &thread.key.owner);
        let at = fork.checkpoint.or(thread.head).ok_or(StartError::NotFound)?;
        let loaded = heads::load(store, owner, thread.thread, at).await?;
        let (head, row) = loaded.ok_or(StartError::NotFound)?;
        let source = match head.run {
            Some(run) => store.run(owner, run).await?,
            None => None,
        };
        let source = source.ok_or(StartError::NotFound)?;
        let mut input: Input = record::decode("input", &source.input)?;
        let (run, now) = (RunId::new(), Utc::now());
        let mut frontier =
            Frontier { usage: Usage::default(), granted: step::Granted::default(), ..head.frontier.clone() };
        let mut state = head.state.clone();
        let (plan, hash) = if frontier.tokens.is_empty() {
            // Nothing goes on there: the next turn takes the state to the version of its day.
            (self.shared.plan(&source.graph, &source.hash).await?.ok(), source.hash.clone())
        } else {
            let plan = self.version(&source, &head).await?;
            if plan.hash != source.hash {
                refit(&plan, &mut input).map_err(StartError::Incompatible)?;
            }
            (state, _) = migrate::take(&plan, &head).map_err(StartError::Incompatible)?;
            migrate::short(&plan).clone_into(&mut frontier.plan);
            frontier.renew(&plan, run, now);
            let hash = plan.hash.clone();
            (Some(plan), hash)
        };
        let begins = Begins {
            run,
            plan,
            graph: source.graph.clone(),
            hash,
            input: Input { base: head.step, breakpoints: Breakpoints::default(), ..input },
            state,
            frontier,
            told: (Vec::new(), Vec::new()),
        };
        // What a person had decided before it must not be done again and again by somebody else.
        let undecided =
            row.source == "input" || begins.frontier.tokens.is_empty() || !begins.moves(head.step);
        if !fork.agent && !undecided && begins.plan.as_ref().is_some_and(|plan| plan.asks_agents()) {
            return Err(StartError::Forbidden);
        }
        let session = match &fork.session {
            Some(session) => session.clone(),
            None => run.to_string().parse().map_err(|_| StartError::NotFound)?,
        };
        let checkpoint = Checkpoint {
            checkpoint: CheckpointId::new(),
            parent: None,
            run: Some(run),
            step: head.step,
            source: "fork".into(),
            delta: record::encode_delta(&Delta::new()),
            snapshot: Some(begins.state.encode()),
            frontier: record::encode(&begins.frontier),
            created_at: now,
        };
        let place = (ThreadKey { owner: owner.clone(), session }, ThreadId::new());
        Ok(begins.branch(Origin::Thread(thread.thread), place, checkpoint, fork.idempotency.clone()))
    }

    /// Returns the version that a run is pinned to.
    async fn pinned(&self, run: &Run) -> Result<Arc<Plan>, StartError> {
        let plan = self.shared.plan(&run.graph, &run.hash).await?;
        plan.map_err(|failure| StartError::Incompatible(failure.message))
    }

    /// Returns the version that a checkpoint goes on with: that of today, unless something is in the middle of its work.
    async fn version(&self, run: &Run, head: &Head) -> Result<Arc<Plan>, StartError> {
        let Some(plan) = self.graph(&run.graph) else { return self.pinned(run).await };
        if migrate::short(&plan) == head.frontier.plan {
            return Ok(plan);
        }
        if head.frontier.is_holding() {
            return self.pinned(run).await;
        }
        match step::missing(&plan, &head.frontier) {
            None => Ok(plan),
            Some(node) => Err(StartError::Incompatible(format!(
                "the checkpoint goes on with the node `{node}`, which the graph of today does not have"
            ))),
        }
    }
}

fn known_branch(known: Keyed) -> Result<Branched, StartError> {
    match known {
        Keyed::Same { run, .. } => Ok(Branched { run: *run, replayed: true }),
        Keyed::Other => Err(StartError::KeyReused),
    }
}

/// Holds the inputs of a run against another version of its graph.
fn refit(plan: &Plan, input: &mut Input) -> Result<(), String> {
    let given = match &input.input {
        Json::Object(given) => given.clone(),
        _ => Map::new(),
    };
    // Inputs that are gone are not missed.
    let given = given.into_iter().filter(|(name, _)| plan.input.contains_key(name)).collect();
    input.input = fill_input(plan, &given).map_err(|wrong| {
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        format!("the inputs of the run do not fit the graph of today: {}", wrong.join("; "))
    })?;
    Ok(())
}

fn facts(plan: &Plan, state: &State, run: RunId, step: u64, now: DateTime<Utc>) -> RunFacts {
    let turns = plan.messages.as_ref().and_then(|channel| state.get(channel));
    let newest = match turns {
        Some(Cell::List(turns)) => turns.iter().rev().find(|turn| turn["role"] == "user"),
        _ => None,
    };
    let user_text = user_text(newest.and_then(|turn| turn.get("content"))).into();
    RunFacts { id: run, step, steps_left: plan.limits.steps, user_text, now }
}

impl Begins {
    /// Says whether it can go on before a person says something.
    fn moves(&self, step: u64) -> bool {
        let Some(plan) = &self.plan else { return true };
        let facts = facts(plan, &self.state, self.run, step + 1, Utc::now());
        let replies = Replies::new();
        let (root, number) = (plan, step + 1);
        let world = World { root, facts: &facts, replies: &replies, found: &UNSOUGHT, number };
        let input = Arc::new(self.input.input.clone());
        let planned = step::plan_step(world, &self.state, &input, &self.frontier);
        planned.map_or(true, |planned| planned.step.tasks.is_empty() || planned.step.moves())
    }

    fn branch(
        self,
        origin: Origin,
        (key, thread): (ThreadKey, ThreadId),
        checkpoint: Checkpoint,
        idempotency: Option<Idempotency>,
    ) -> Branch {
        let over = self.frontier.tokens.is_empty();
        let stopped = !over && self.moves(checkpoint.step);
        let open = match &self.plan {
            Some(plan) => self.frontier.held(plan).0,
            None => Vec::new(),
        };
        let output = self.plan.as_ref().filter(|_| over).and_then(|plan| {
            let facts = facts(plan, &self.state, self.run, checkpoint.step, checkpoint.created_at);
            step::output(plan, &self.state, &Arc::new(self.input.input.clone()), &facts).ok()
        });
        let status = if over { RunStatus::Completed } else { RunStatus::Interrupted };
        let questions = open.iter().map(|open| Question {
            id: open.question.id.clone(),
            agent: open.who == Who::Agent,
            data: record::encode(&open.interrupt()),
            expires_at: open.question.expires_at,
        });
        let questions = questions.collect();
        let events = events(&checkpoint, &open, self.told, (status, output.clone()));
        let outcome = Outcome { status, output, usage: Usage::default(), error: None };
        Branch {
            origin,
            run: self.run,
            key,
            thread,
            graph: self.graph,
            hash: self.hash,
            input: record::encode(&self.input),
            checkpoint,
            questions,
            events,
            state: if over { RunState::Completed } else { RunState::Interrupted },
            result: over.then(|| record::encode(&outcome)),
            stopped,
            idempotency,
        }
    }
}

/// Tells of a run from outside what there is to tell before it goes on.
fn events(
    checkpoint: &Checkpoint,
    open: &[Open],
    (mut told, edges): (Vec<Body>, Vec<Taken>),
    (status, output): (RunStatus, Option<Json>),
) -> EventBatch {
    let checkpoint_id = checkpoint.checkpoint;
    if told.is_empty() {
        told.push(Body::StateSnapshot { checkpoint_id: Some(checkpoint_id), state: Json::Null });
    } else {
        for edge in edges {
            let to = edge.to.name().to_owned();
            let Taken { from, condition, path, item, .. } = edge;
            told.push(Body::EdgeTaken { from, to, condition, path, item });
        }
        told.push(Body::StatePatch { checkpoint_id, patch: Vec::new() });
    }
    told.push(Body::CheckpointSaved { checkpoint_id, step: checkpoint.step });
    let told: Vec<(Option<Scope>, Body)> = told.into_iter().map(|body| (None, body)).collect();
    let asked = open.iter().map(|open| {
        let body = Body::InterruptRequested { interrupt: Box::new(open.interrupt()) };
        (Some(open.place.clone()), body)
    });
    let interrupts = open.iter().map(Open::interrupt).collect();
    let end = Body::RunFinished { status, output, usage: Usage::default(), interrupts };
    let at = event::to_millis(checkpoint.created_at);
    let events: Vec<Event> = (1..)
        .zip(told.into_iter().chain(asked).chain([(None, end)]))
        .map(|(n, (scope, body))| Event { seq: Seq { fence: 1, n }, at, scope, body })
        .collect();
    EventBatch { fence: 1, first: 1, last: events.len() as u64, data: event::encode(&events) }
}
