//! Accepts runs.
//!
//! Invariant: a run that cannot be right is refused before anything of it is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Value as Json;
use tracing::{Span, warn};

use super::record::{self, Input};
use super::{Answered, Engine, Start, StartError, Started, heads, migrate};
use crate::id::{Owner, RunId, Seq, ThreadKey};
use crate::plan::Plan;
use crate::state::Mismatch;
use crate::store::{Accepted, Actor, Claim, Keyed, NewRun, OnBusy, Run, RunFilter, RunState, StoreError};
use crate::trace;

/// How often a thread is looked at while others change it.
const TRIES: usize = 5;

/// What a request claimed, with the plan where it is at hand, and its span.
pub(super) type Begun = (Claim, Option<Arc<Plan>>, Span);

impl Engine {
    /// Accepts a run. When this returns, the run survives a crash of every process.
    pub async fn start(&self, owner: &Owner, start: Start) -> Result<Started, StartError> {
        let shared = &self.shared;
        if shared.draining.load(Ordering::Relaxed) {
            return Err(StartError::Draining);
        }
        if shared.is_full() {
            return Err(StartError::Overloaded);
        }
        let plan = self.graph(&start.graph).ok_or_else(|| StartError::UnknownGraph(start.graph.clone()))?;
        let key = ThreadKey { owner: owner.clone(), session: start.session.clone() };
        let input = match check_input(&plan, &start) {
            Ok(input) => input,
            // What comes later is no answer to what is asked now.
            Err(wrong) if start.delay.is_some() => return Err(wrong),
            Err(wrong) => return self.answers_only(&key, &start, &plan, wrong).await,
        };
        self.check_webhook(start.wishes.webhook.as_deref())
            .map_err(|wrong| StartError::Unprocessable(vec![wrong]))?;
        let breakpoints = start.breakpoints.clone();
        let run = RunId::new();
        let span = trace::run(&plan.graph, run, &owner.tenant);
        let new = NewRun {
            run,
            key,
            graph: plan.graph.clone(),
            hash: plan.hash.clone(),
            input: record::encode(&Input {
                input,
                message: start.message.clone(),
                durability: start.durability,
                breakpoints,
                base: 0,
                trace: trace::kept(&span),
            }),
            on_busy: start.on_busy,
            queue_limit: shared.settings.queue_limit,
            process: shared.process.clone(),
            idempotency: start.idempotency.clone(),
            from: None,
            delay: start.delay,
            wishes: shared.wishes(&start.wishes),
        };
        let outcome = self.enter(&start, plan, new, &span).await;
        match &outcome {
            Ok(started) if started.run.run == run => {}
            Ok(started) => trace::ended(&span, if started.replayed { "replayed" } else { "answered" }, None),
            Err(_) => trace::ended(&span, "refused", Some("refused")),
        }
        outcome
    }

    /// Brings a run to its thread, as often as it takes.
    async fn enter(
        &self,
        start: &Start,
        plan: Arc<Plan>,
        mut new: NewRun,
        span: &Span,
    ) -> Result<Started, StartError> {
        let mut waits = false;
        for _ in 0..TRIES {
            match self.accept(new.clone(), plan.clone(), span.clone()).await? {
                Accepted::Claimed { run, .. } | Accepted::Queued { run } => {
                    metrics::counter!("graphloom_runs_accepted_total").increment(1);
                    return Ok(Started { run, replayed: false, after: Seq::default() });
                }
                Accepted::Known(known) => return started(known),
                Accepted::Waits => {
                    let still = std::mem::replace(&mut waits, true);
                    if let Some(answered) = self.message(&new.key, start, &plan, true, still).await? {
                        return Ok(answered.into());
                    }
                }
                Accepted::Busy { active } => return Err(StartError::Busy(active)),
                Accepted::QueueFull => return Err(StartError::QueueFull),
                Accepted::TenantQueueFull => return Err(StartError::TenantQueueFull),
                Accepted::OtherVersion { graph, hash } => {
                    self.fits(&new.key, &plan, &graph).await?;
                    new.from = Some(hash);
                }
            }
        }
        Err(StoreError::Unavailable("others change the thread each time".into()).into())
    }

    /// Takes a request that is no turn of today's graph, if it is the answer to a question of the thread.
    async fn answers_only(
        &self,
        key: &ThreadKey,
        start: &Start,
        plan: &Plan,
        wrong: StartError,
    ) -> Result<Started, StartError> {
        if let Some(used) = &start.idempotency
            && let Some(known) = self.shared.store.keyed(&key.owner, used).await?
        {
            return started(known);
        }
        match self.shared.store.thread(key).await? {
            Some(thread) if thread.graph == plan.graph && self.paused(key).await?.is_some() => {
                let answered = self.message(key, start, plan, false, false).await?;
                answered.map(Into::into).ok_or(wrong)
            }
            _ => Err(wrong),
        }
    }

    /// Holds the thread's state against the graph before a run is accepted.
    pub(super) async fn fits(&self, key: &ThreadKey, plan: &Plan, graph: &str) -> Result<(), StartError> {
        if graph != plan.graph {
            let why =
                format!("the thread belongs to the graph `{graph}`; take another session, or delete it");
            return Err(StartError::Incompatible(why));
        }
        let store = &*self.shared.store;
        let thread = store.thread(key).await?;
        if let Some((thread, head)) = thread.and_then(|thread| Some((thread.thread, thread.head?)))
            && let Some((head, _)) = heads::load(store, &key.owner, thread, head).await?
            && let Err(why) = migrate::take(plan, &head)
        {
            return Err(StartError::Incompatible(why));
        }
        Ok(())
    }

    async fn accept(&self, new: NewRun, plan: Arc<Plan>, span: Span) -> Result<Accepted, StoreError> {
        let (shared, engine) = (self.shared.clone(), self.clone());
        self.claiming(async move {
            let on_busy = new.on_busy;
            let accepted = shared.store.accept(new).await?;
            let claim = match &accepted {
                Accepted::Claimed { run, head } => {
                    Some((Claim { run: run.clone(), head: *head, crashed: false }, Some(plan), span))
                }
                Accepted::Queued { run } => {
                    trace::on_thread(&span, run.thread);
                    trace::ended(&span, "queued", None);
                    shared.enqueued(run.thread);
                    // It is accepted: what fails from here on makes it wait, and loses nothing.
                    let ends = matches!(on_busy, OnBusy::Interrupt | OnBusy::Rollback);
                    if ends && let Err(error) = engine.interrupt(run, on_busy == OnBusy::Rollback).await {
                        warn!(run = %run.run, %error, "The runs before it could not be ended; it waits for them.");
                    }
                    None
                }
                _ => None,
            };
            Ok((accepted, claim))
        })
        .await
    }

    /// Asks for the end of the runs that a run of the same thread waits for.
    async fn interrupt(&self, run: &Run, rollback: bool) -> Result<(), StoreError> {
        let filter = RunFilter {
            states: vec![RunState::Running, RunState::Queued],
            tenant: Some(run.key.owner.tenant.clone()),
            before: Some(run.run),
            thread: Some(run.thread),
        };
        // Those that wait first, so that none of them begins.
        let most = self.shared.settings.queue_limit.saturating_mul(2).saturating_add(1);
        let runs = self.shared.store.runs(&filter, most).await?;
        // One that is delayed comes later, and not before it.
        for before in runs.into_iter().filter(|before| before.due_at.is_none()) {
            self.end(&run.key.owner, before.run, Actor::User, rollback).await?;
        }
        Ok(())
    }

    /// Does what may claim a run, and drives it. What was begun is brought to its end even when the client hangs up: a
    /// run that was claimed and not driven would rest until its lease runs out.
    pub(super) async fn claiming<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<(T, Option<Begun>), StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        let task = self.shared.tracker.spawn(trace::carried(async move {
            let asked = Instant::now();
            let (came, claim) = work.await?;
            if let Some((claim, plan, span)) = claim {
                shared.launch(claim, plan, asked, span);
            }
            Ok(came)
        }));
        task.await.map_err(|e| StoreError::Unknown(e.to_string()))?
    }
}

/// Tells what a request with the same key did before.
fn started(known: Keyed) -> Result<Started, StartError> {
    match known {
        Keyed::Same { run, after } => Ok(Started { run: *run, replayed: true, after }),
        Keyed::Other => Err(StartError::KeyReused),
    }
}

impl From<Answered> for Started {
    fn from(answered: Answered) -> Self {
        let Answered { run, replayed, after } = answered;
        Self { run, replayed, after }
    }
}

/// Checks the inputs against their declaration and fills in what was left out.
fn check_input(plan: &Plan, start: &Start) -> Result<Json, StartError> {
    let mismatch = |pointer, why: &str| Mismatch { pointer, why: why.into() };
    let mut wrong = Vec::new();
    if start.message.is_some() && plan.messages.is_none() {
        wrong.push(mismatch("/message".into(), "this graph holds no conversation; leave it out"));
    }
    wrong.extend(start.breakpoints.check(plan));
    for name in start.input.keys().filter(|name| !plan.input.contains_key(*name)) {
        let known: Vec<&str> = plan.input.keys().map(String::as_str).collect();
        let why = match known.as_slice() {
            [] => "the graph declares no inputs".to_owned(),
            known => format!("the graph declares no such input; it has: {}", known.join(", ")),
        };
        wrong.push(Mismatch::here(why).within(name).within("input"));
    }
    match fill_input(plan, &start.input) {
        Ok(input) if wrong.is_empty() => return Ok(input),
        Ok(_) => {}
        Err(unfit) => wrong.extend(unfit.into_iter().map(|at| at.within("input"))),
    }
    Err(StartError::Unprocessable(wrong))
}

/// Checks inputs against their declaration and fills in what was left out; by JSON Pointer into them.
pub(super) fn fill_input(plan: &Plan, given: &serde_json::Map<String, Json>) -> Result<Json, Vec<Mismatch>> {
    let mut wrong = Vec::new();
    let mut input = serde_json::Map::new();
    for (name, field) in &plan.input {
        let given = given.get(name).cloned().or_else(|| field.default.clone());
        let null = matches!(field.ty, crate::state::Type::Nullable(_)).then_some(Json::Null);
        match given.or(null) {
            None => wrong.push(Mismatch::here("this input is required").within(name)),
            Some(mut value) => match field.ty.check(&value) {
                Ok(()) => {
                    field.ty.fill(&mut value);
                    input.insert(name.clone(), value);
                }
                Err(at) => wrong.push(at.within(name)),
            },
        }
    }
    if wrong.is_empty() { Ok(Json::Object(input)) } else { Err(wrong) }
}
