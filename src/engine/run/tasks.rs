//! Does the tasks of one superstep: attempts, retries, limits of time.
//!
//! Invariant: every task sees the state of the last barrier, and nothing of what it does is stored here.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use tracing::{error, info};

use super::{Cut, Driver, Position};
use crate::engine::Stop;
use crate::engine::step::{Finished, Step, Task};
use crate::event::{Body, NodeStatus, Scope, Usage};
use crate::node::{Attempt, Done, Emitter, ErrorKind, Failure, RunFacts};

/// A finished task.
pub(super) struct TaskDone {
    place: Scope,
    done: Done,
    took: Duration,
}

/// Splits results into what the barrier folds and what it tells.
pub(super) fn unzip(results: Vec<TaskDone>) -> (Vec<Finished>, Vec<(Option<Scope>, Body)>) {
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

impl Driver<'_> {
    /// Does the tasks of a superstep at once, each on the state of the last barrier.
    pub(super) async fn superstep(
        &self,
        at: &Position,
        step: &Step,
        facts: &RunFacts,
    ) -> Result<Vec<TaskDone>, Cut> {
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
    pub(super) async fn task(
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
}
