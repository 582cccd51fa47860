//! Does the work of one superstep: attempts, retries, limits of time.
//!
//! Invariant: every leaf sees the state of the last barrier, and nothing of what it does is stored here.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use serde_json::Value as Json;
use tokio::sync::Semaphore;
use tracing::{Instrument, error, info, warn};

use super::{Cut, Driver, Halt, Position};
use crate::engine::step::{Beginning, Begun, Ended, Leaf, LeafWork, Worked};
use crate::engine::{Stop, record};
use crate::event::{Body, Emitter, Scope};
use crate::failure::{ErrorKind, Failure};
use crate::id::TaskId;
use crate::node::{Attempt, Done, Meter, Outcome, RunFacts};
use crate::plan::{Durability, Effects, ToolBody};
use crate::tool::Call;
use crate::trace;

/// Stands in the store for a call that must not be made twice, and may have been made.
pub(super) const INTENT: &[u8] = b"intent";

/// One try at such a call. The call's own key is for its result.
struct Intent<'a> {
    task: &'a TaskId,
    n: u32,
}

impl Intent<'_> {
    /// Returns what it is stored under.
    fn key(&self) -> TaskId {
        let (task, n) = (self.task, self.n);
        TaskId(if n == 0 { format!("{task}!") } else { format!("{task}!{n}") }.into())
    }

    /// Returns what is stored when it is known that the call was not made.
    fn undone(&self) -> TaskId {
        TaskId(format!("{}-", self.key()).into())
    }
}

impl Driver<'_> {
    /// Tells that tasks begin, or go on after the run has waited.
    pub(super) fn begin_tasks(&self, at: &mut Position, begun: &[Begun], step: u64) {
        for Begun { place, what } in begun {
            match what {
                Beginning::Node(kind, held) => {
                    at.begun.entry(place.task_id.clone()).or_insert_with(Instant::now);
                    if !self.journal.is_open(&place.task_id) {
                        let kind = (*kind).to_owned();
                        self.journal.send(Some(place), Body::NodeStarted { step, kind, resumed: *held });
                    }
                }
                Beginning::Tool(called) => self.journal.send(Some(place), called.clone()),
            }
        }
    }

    /// Does the leaves of a superstep at once, each on the state of the last barrier. Those without a result were
    /// stopped because the time of the run is over.
    pub(super) async fn superstep(
        &self,
        at: &mut Position,
        leaves: &[Leaf<'_>],
        facts: &RunFacts,
    ) -> Result<Vec<Ended>, Cut> {
        // A result alone is as good as its barrier; among several it is kept until the last of them is there.
        let once = at.once;
        // Where the barrier before is not stored either, a result of its own is good for nothing.
        let keeps = leaves.len() > 1 && (once || at.durability != Durability::Exit);
        at.has_kept |= once || keeps && leaves.iter().any(|leaf| !leaf.is_pure());
        for (task, _) in leaves.iter().flat_map(|leaf| &*leaf.clocks) {
            at.begun.entry(task.clone()).or_insert_with(Instant::now);
        }
        let position = at;
        let at = &*position;
        let left = at.plan.limits.time.saturating_sub(at.clock.elapsed());
        let lanes = lanes(leaves);
        let meters: Vec<Meter> = leaves.iter().map(|_| Meter::default()).collect();
        let work = leaves.iter().zip(&meters).enumerate().map(|(rank, (leaf, meter))| {
            let lane = leaf.lane.as_ref().and_then(|(map, _)| lanes.get(map));
            async move {
                // The semaphore is never closed.
                let _lane = match lane {
                    Some(lane) => lane.acquire().await.ok(),
                    None => None,
                };
                let span = trace::task(leaf.job.kind, &leaf.place);
                let worked = self.clocked(at, leaf, facts, keeps, meter).instrument(span.clone()).await;
                trace::attempts(&span, worked.attempt);
                if let Err(failure) = &worked.result {
                    trace::failed(&span, &failure.code);
                }
                (rank, worked)
            }
        });
        // Collected first: a stream of closures that borrow is not `Send` to the compiler.
        let work: Vec<_> = work.collect();
        let mut work = stream::iter(work).buffer_unordered(at.plan.limits.parallel.max(1));
        let mut over = std::pin::pin!(tokio::time::sleep(left));
        let mut ended: Vec<Ended> = leaves.iter().map(|_| None).collect();
        let cut = loop {
            tokio::select! {
                biased;
                why = self.live.stopped() => break Some(match why {
                    Stop::Cancel => Cut::Cancelled,
                    Stop::Drain | Stop::Leave | Stop::Lost => Cut::Gone,
                }),
                () = &mut over => break None,
                next = work.next() => match next {
                    Some((rank, worked)) => ended[rank] = Some(worked),
                    None => break None,
                },
            }
        };
        // Calls that are cut off are paid for; what those used that came to an end is told with their results.
        drop(work);
        let lost = |(_, ended): &(&Meter, &Ended)| cut.is_some() || ended.is_none();
        for (meter, _) in meters.iter().zip(&ended).filter(lost) {
            position.head.frontier.usage += meter.total();
        }
        cut.map_or(Ok(ended), Err)
    }

    /// Does a leaf within the time of the tasks around it.
    async fn clocked(
        &self,
        at: &Position,
        leaf: &Leaf<'_>,
        facts: &RunFacts,
        keeps: bool,
        meter: &Meter,
    ) -> Worked {
        let left = leaf.clocks.iter().map(|(task, limit)| {
            let gone = at.begun.get(task).map_or(Duration::ZERO, Instant::elapsed);
            (limit.saturating_sub(gone), task)
        });
        let Some((left, task)) = left.min() else { return self.kept(at, leaf, facts, keeps, meter).await };
        let mut failure = Failure::new(ErrorKind::Timeout, "the time of a task around it is over");
        if left.is_zero() {
            failure.undone = true;
        } else {
            match tokio::time::timeout(left, self.kept(at, leaf, facts, keeps, meter)).await {
                Ok(worked) => return worked,
                Err(_late) => {
                    failure.uncertain = leaf.effects() == Effects::AtMostOnce;
                    // It may be tried again under the same id.
                    if Emitter::new(self.journal.clone(), leaf.place.clone()).has_shown() {
                        let reason = failure.message.clone();
                        self.journal.send(Some(&leaf.place), Body::NodeReset { reason });
                    }
                    self.tell_call(leaf, &leaf.place, Err(&failure));
                }
            }
        }
        Worked { usage: meter.total(), late: Some(task.clone()), ..Worked::new(1, Err(failure)) }
    }

    /// Does a leaf, unless it was done before something beside it failed or the run was taken over, and keeps what it
    /// came to.
    async fn kept(
        &self,
        at: &Position,
        leaf: &Leaf<'_>,
        facts: &RunFacts,
        keeps: bool,
        meter: &Meter,
    ) -> Worked {
        let task = &leaf.place.task_id;
        let kept = at.kept.get(task).and_then(Option::as_ref);
        if let Some(worked) = leaf.done.as_ref().or(kept) {
            if leaf.done.is_none() || !matches!(leaf.work, LeafWork::Tool(..)) {
                self.tell_again(leaf, worked);
            }
            return worked.clone();
        }
        let mut intent = None;
        if leaf.effects() == Effects::AtMostOnce {
            // One after the other, as long as each is known not to have been made.
            let mut tries = (0..).map(|n| Intent { task, n });
            let next = tries.find(|next| !at.kept.contains_key(&next.undone()));
            if let Some(next) = next {
                if at.kept.contains_key(&next.key()) {
                    let message = "the call may have been made before the process went away, and must not be made twice";
                    let failure = Failure {
                        code: "uncertain_effect".into(),
                        ..Failure::new(ErrorKind::Uncertain, message)
                    };
                    return Worked::new(1, Err(failure));
                }
                if !self.keep(at, &next.key(), INTENT.to_vec()).await {
                    let message = "the call was not made: the run is not this process's any more";
                    return Worked::new(1, Err(Failure::new(ErrorKind::Connection, message)));
                }
                intent = Some(next);
            }
        }
        let mut worked = self.leaf(leaf, facts, meter).await;
        match (&mut worked.result, intent) {
            (Ok(_), _) if keeps && !leaf.is_pure() => {
                // Without it, a crash would only cost the work once more.
                self.keep(at, &at.keeps(task), record::encode(&worked)).await;
            }
            (Err(failure), Some(intent)) if failure.is_undone() => {
                self.keep(at, &intent.undone(), INTENT.to_vec()).await;
            }
            (Err(failure), Some(_)) => {
                failure.uncertain |= matches!(
                    failure.kind,
                    ErrorKind::Timeout
                        | ErrorKind::Connection
                        | ErrorKind::ServerError
                        | ErrorKind::Http(408 | 500..)
                );
            }
            _ => {}
        }
        worked
    }

    /// Tells what a leaf said whose result is taken from before: the readers were told to forget it.
    fn tell_again(&self, leaf: &Leaf<'_>, worked: &Worked) {
        let Ok(outcome) = &worked.result else { return };
        let place = Scope { attempt: worked.attempt, ..leaf.place.clone() };
        self.tell_call(leaf, &place, Ok(None));
        let events = match outcome {
            Outcome::Done(done) => {
                self.tell_call(leaf, &place, Ok(Some(&done.result)));
                &done.events
            }
            Outcome::More(round) => &round.events,
        };
        for event in events {
            let Body::MessageFinished { message_id, content: Some(text), .. } = event else { continue };
            let role = "assistant".to_owned();
            self.journal.send(Some(&place), Body::MessageStarted { message_id: message_id.clone(), role });
            let (message_id, delta) = (message_id.clone(), text.clone());
            self.journal.send(Some(&place), Body::MessageDelta { message_id, delta });
        }
    }

    /// Tells the beginning or the end of a tool's call.
    fn tell_call(&self, leaf: &Leaf<'_>, place: &Scope, result: Result<Option<&Json>, &Failure>) {
        let LeafWork::Tool(tool, called) = &leaf.work else { return };
        let (call_id, tool) = (called.id.clone(), tool.name.clone());
        let body = match result {
            Ok(None) => Body::ToolCalled { call_id, tool, args: Json::clone(&called.args) },
            Ok(Some(result)) => {
                Body::ToolFinished { call_id, tool, result: Some(result.clone()), error: None }
            }
            Err(failure) => {
                Body::ToolFinished { call_id, tool, result: None, error: Some(failure.message.clone()) }
            }
        };
        self.journal.send(Some(place), body);
    }

    /// Stores what must outlive this process before the next barrier; false: the run is not its own any more.
    async fn keep(&self, at: &Position, task: &TaskId, data: Vec<u8>) -> bool {
        let run = &self.claim.run;
        let put = || {
            let (store, owner) = (&self.shared.store, &run.key.owner);
            store.put_pending(owner, run.run, run.fence, at.number + 1, task, data.clone())
        };
        match self.patiently(put).await {
            Ok(stored) => stored,
            Err(Halt::Gone) => false,
            Err(Halt::Broken(error)) => {
                warn!(run = %run.run, %error, "A result cannot be kept.");
                false
            }
        }
    }

    /// Makes attempts at a leaf until one succeeds or the policy says stop; then, where others stand in for its model,
    /// with the next of them, unless the error would be the same with all.
    async fn leaf(&self, leaf: &Leaf<'_>, facts: &RunFacts, meter: &Meter) -> Worked {
        self.tell_call(leaf, &leaf.place, Ok(None));
        let (mut link, mut before) = (0, 0);
        for number in 1.. {
            let (model, retry, timeout) = leaf.job.link(link);
            let worked = |result| {
                let usage = meter.total();
                let model = model.filter(|_| usage.model_calls > 0).map(str::to_owned);
                Worked { usage, model, ..Worked::new(number, result) }
            };
            let place = Scope { attempt: number, ..leaf.place.clone() };
            let emit = Emitter::new(self.journal.clone(), place.clone());
            let work = AssertUnwindSafe(self.work(leaf, facts, (number, link), meter)).catch_unwind();
            let failure = match tokio::time::timeout(timeout, work).await {
                Ok(Ok(Ok(outcome))) => {
                    if let Outcome::Done(done) = &outcome {
                        self.tell_call(leaf, &place, Ok(Some(&done.result)));
                    }
                    return worked(Ok(outcome));
                }
                Ok(Ok(Err(failure))) => failure,
                Ok(Err(_panic)) => {
                    error!(node = %leaf.place.node, "Node panicked.");
                    Failure {
                        code: "internal".into(),
                        ..Failure::new(ErrorKind::ServerError, "the node failed")
                    }
                }
                Err(_late) => {
                    let message = format!("the node takes longer than {} s", timeout.as_secs_f64());
                    Failure::new(ErrorKind::Timeout, message)
                }
            };
            let run = self.claim.run.run;
            let again = leaf.may_repeat().then(|| retry.delay(number - before, &failure, fastrand::f64()));
            // Another model makes no tool answer.
            let others = if leaf.asks_model() { leaf.job.fallbacks.len() } else { 0 };
            let moves = leaf.may_repeat() && failure.kind.retryable() && link < others;
            let next = again.flatten().map(|delay| (link, delay));
            let Some((to, delay)) = next.or_else(|| moves.then_some((link + 1, Duration::ZERO))) else {
                emit.discard();
                self.tell_call(leaf, &place, Err(&failure));
                info!(%run, node = %leaf.place.node, code = %failure.code, "Task failed.");
                return worked(Err(failure));
            };
            info!(%run, node = %leaf.place.node, attempt = number, code = %failure.code, "Attempt failed.");
            if emit.has_shown() {
                self.journal.send(Some(&place), Body::NodeReset { reason: failure.message.clone() });
            }
            let model = (to != link).then(|| leaf.job.link(to).0.map(str::to_owned)).flatten();
            if to != link {
                let from = leaf.job.link(link).0.unwrap_or_default().to_owned();
                metrics::counter!("graphloom_model_fallbacks_total", "model" => from).increment(1);
                (link, before) = (to, number);
            }
            let delay_ms = delay.as_millis() as u64;
            self.journal.send(Some(&place), Body::NodeRetrying { delay_ms, reason: failure.message, model });
            tokio::time::sleep(delay).await;
        }
        unreachable!("a policy has a last attempt")
    }

    /// Makes one attempt.
    async fn work(
        &self,
        leaf: &Leaf<'_>,
        facts: &RunFacts,
        (number, link): (u32, usize),
        meter: &Meter,
    ) -> Result<Outcome, Failure> {
        let place = Scope { attempt: number, ..leaf.place.clone() };
        match &leaf.work {
            LeafWork::Node(node, back) => {
                let attempt = Attempt {
                    state: leaf.state.clone(),
                    input: Arc::clone(&leaf.input),
                    run: facts.clone(),
                    thread: self.claim.run.key.clone(),
                    node: place.node.as_str().into(),
                    task: place.task_id.clone(),
                    attempt: number,
                    link,
                    meter: meter.clone(),
                    error: leaf.error.clone(),
                    locals: Arc::clone(&leaf.locals),
                    back: back.clone(),
                    emit: Emitter::new(self.journal.clone(), place),
                };
                node.run(&attempt).await
            }
            LeafWork::Tool(tool, called) => {
                let ToolBody::Call(work) = &tool.body else {
                    return Err(Failure::new(ErrorKind::Tool, "a graph is not called like this"));
                };
                let call = Call {
                    caller: match leaf.job.kind {
                        "tool" => place.caller(),
                        _ => format!("{}/{}", place.caller(), tool.name),
                    },
                    args: Arc::clone(&called.args),
                    run: self.claim.run.run,
                    thread: self.claim.run.key.clone(),
                    idempotency_key: called.task.to_string(),
                    attempt: number,
                    emit: Emitter::new(self.journal.clone(), place),
                };
                let span = trace::tool(&tool.name, number);
                let result = work.call(&call).instrument(span.clone()).await;
                let mut result = result.inspect_err(|failure| trace::failed(&span, &failure.code))?;
                tool.result.check(&result).map_err(|why| {
                    let message = format!("the result of `{}` does not fit: {why}", tool.name);
                    Failure::new(ErrorKind::Schema, message)
                })?;
                tool.result.fill(&mut result);
                Ok(Done { result, ..Done::default() }.into())
            }
        }
    }
}

impl Position {
    /// Returns what the result of a leaf is kept under: where the barrier before may not be stored yet, with that barrier.
    /// The input is the same each time.
    fn keeps(&self, task: &TaskId) -> TaskId {
        match (self.durability, self.head.checkpoint) {
            (Durability::Async, Some(point)) if self.number > 0 => TaskId(format!("{task}@{point}").into()),
            _ => task.clone(),
        }
    }

    /// Returns the leaf whose result is kept under this, if it stands on the barrier that the run is at.
    pub(super) fn of_this_barrier(&self, kept: TaskId) -> Option<TaskId> {
        match kept.0.split_once('@') {
            None => Some(kept),
            Some((task, point)) => {
                let here = self.head.checkpoint.is_some_and(|here| here.to_string() == point);
                here.then(|| TaskId(task.into()))
            }
        }
    }
}

impl Leaf<'_> {
    /// Says whether it calls a model.
    pub(super) fn asks_model(&self) -> bool {
        matches!(self.work, LeafWork::Node(..)) && self.job.link(0).0.is_some()
    }

    /// Says what it does outside.
    pub(super) fn effects(&self) -> Effects {
        match &self.work {
            LeafWork::Node(..) => self.job.effects,
            LeafWork::Tool(tool, _) => tool.effects,
        }
    }

    /// Says whether it only computes.
    fn is_pure(&self) -> bool {
        matches!(&self.work, LeafWork::Node(node, _) if node.is_pure())
    }

    /// Says whether a second attempt does no harm.
    fn may_repeat(&self) -> bool {
        self.effects() != Effects::AtMostOnce
    }
}

/// Makes room for the items of each `map` that bounds how many are worked on at once.
fn lanes(leaves: &[Leaf<'_>]) -> HashMap<TaskId, Semaphore> {
    let mut lanes = HashMap::new();
    for (map, most) in leaves.iter().filter_map(|leaf| leaf.lane.as_ref()) {
        lanes.entry(map.clone()).or_insert_with(|| Semaphore::new((*most).clamp(1, Semaphore::MAX_PERMITS)));
    }
    lanes
}
