//! Does the tasks of one superstep: attempts, retries, limits of time.
//!
//! Invariant: every task sees the state of the last barrier, and nothing of what it does is stored here.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use tracing::{error, info};

use super::{Cut, Driver, Position};
use crate::engine::Stop;
use crate::engine::step::{Finished, Step, Task};
use crate::event::{Body, NodeStatus, Scope, Usage};
use crate::node::{Attempt, Done, Emitter, ErrorKind, Failure, Outcome, RunFacts, Sink};
use crate::plan::{PlanNode, Work};

/// A task that ended.
pub(super) struct TaskDone {
    place: Scope,
    result: Result<Done, Failure>,
    took: Duration,
}

/// The tasks of a superstep by rank; none: the time of the run was over before its end.
pub(super) struct Tasks(Vec<Option<TaskDone>>);

impl Tasks {
    /// Stands for a superstep without tasks.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Says whether all of them came to their end.
    pub(super) fn are_whole(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }

    /// Takes what the barrier makes something of.
    pub(super) fn results(&mut self) -> Vec<Option<Result<Finished, Failure>>> {
        let finished =
            |done: &mut Done| Finished { writes: std::mem::take(&mut done.writes), usage: done.usage };
        let result =
            |task: &mut TaskDone| task.result.as_mut().map(finished).map_err(|failure| failure.clone());
        self.0.iter_mut().map(|task| task.as_mut().map(result)).collect()
    }
}

impl Driver<'_> {
    /// Does the tasks of a superstep at once, each on the state of the last barrier.
    pub(super) async fn superstep(&self, at: &Position, step: &Step, facts: &RunFacts) -> Result<Tasks, Cut> {
        let left = at.plan.limits.time.saturating_sub(at.clock.elapsed());
        let tasks: Vec<_> = step
            .tasks
            .iter()
            .enumerate()
            .map(|(rank, task)| async move { (rank, self.task(at, task, facts).await) })
            .collect();
        let mut work = stream::iter(tasks).buffer_unordered(at.plan.limits.parallel.max(1));
        let mut over = std::pin::pin!(tokio::time::sleep(left));
        let mut done: Vec<Option<TaskDone>> = step.tasks.iter().map(|_| None).collect();
        loop {
            tokio::select! {
                biased;
                why = self.live.stopped() => return Err(match why {
                    Stop::Cancel => Cut::Cancelled,
                    Stop::Leave | Stop::Lost => Cut::Gone,
                }),
                () = &mut over => break,
                next = work.next() => match next {
                    Some((rank, task)) => done[rank] = Some(task),
                    None => break,
                },
            }
        }
        Ok(Tasks(done))
    }

    /// Returns the events that the barrier makes visible, by rank. What failed there takes back what it showed, and
    /// what was stopped is closed.
    pub(super) fn close(&self, tasks: Tasks, step: &Step, spoilt: &[usize]) -> Vec<(Option<Scope>, Body)> {
        let mut events = Vec::new();
        for (rank, task) in tasks.0.into_iter().enumerate() {
            let Some(TaskDone { place, result, took }) = task else {
                self.journal.end(&step.tasks[rank].id);
                continue;
            };
            // An attempt that failed has told so.
            let Ok(done) = result else { continue };
            let duration_ms = took.as_millis() as u64;
            let usage = (done.usage != Usage::default()).then_some(done.usage);
            let status = if spoilt.contains(&rank) {
                self.journal.discard(&place);
                NodeStatus::Failed
            } else {
                events.extend(done.events.into_iter().map(|body| (Some(place.clone()), body)));
                NodeStatus::Completed
            };
            events.push((Some(place), Body::NodeFinished { status, duration_ms, usage }));
        }
        events
    }

    /// Makes attempts at a task until one succeeds or the policy says stop.
    pub(super) async fn task(&self, at: &Position, task: &Task, facts: &RunFacts) -> TaskDone {
        let begun = Instant::now();
        let error = task.error.clone().map(Arc::new);
        let Some(node) = at.plan.nodes.get(&task.node) else {
            let place = Scope { node: task.node.clone(), task_id: task.id.clone(), attempt: 1 };
            let failure = Failure::new(ErrorKind::Failed, "the plan has no such node");
            return TaskDone { place, result: Err(failure), took: begun.elapsed() };
        };
        for number in 1.. {
            let place = Scope { node: task.node.clone(), task_id: task.id.clone(), attempt: number };
            if number == 1 {
                let started = Body::NodeStarted { step: facts.step, kind: node.job.kind.into() };
                self.journal.send(Some(&place), started);
            }
            let attempt = Attempt {
                state: at.head.state.clone(),
                input: at.input.clone(),
                run: facts.clone(),
                node: task.node.as_str().into(),
                task: task.id.clone(),
                attempt: number,
                error: error.clone(),
                locals: [].into(),
                back: None,
                emit: Emitter::new(self.journal.clone(), place.clone()),
            };
            let work = AssertUnwindSafe(do_work(node, &attempt)).catch_unwind();
            let failure = match tokio::time::timeout(node.job.timeout, work).await {
                Ok(Ok(Ok(done))) => return TaskDone { place, result: Ok(done), took: begun.elapsed() },
                Ok(Ok(Err(failure))) => failure,
                Ok(Err(_panic)) => {
                    error!(node = %task.node, "Node panicked.");
                    Failure {
                        code: "internal".into(),
                        ..Failure::new(ErrorKind::ServerError, "the node failed")
                    }
                }
                Err(_late) => {
                    let message = format!("the node takes longer than {} s", node.job.timeout.as_secs_f64());
                    Failure::new(ErrorKind::Timeout, message)
                }
            };
            let Some(delay) = node.job.retry.delay(number, &failure, fastrand::f64()) else {
                attempt.emit.discard();
                let duration_ms = begun.elapsed().as_millis() as u64;
                let finished = Body::NodeFinished { status: NodeStatus::Failed, duration_ms, usage: None };
                self.journal.send(Some(&place), finished);
                info!(run = %self.claim.run.run, node = %task.node, code = %failure.code, "Task failed.");
                return TaskDone { place, result: Err(failure), took: begun.elapsed() };
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

async fn do_work(node: &PlanNode, attempt: &Attempt) -> Result<Done, Failure> {
    let unknown = || Failure::new(ErrorKind::Failed, "this build cannot do the work of the node");
    let Work::Node(work) = &node.job.work else { return Err(unknown()) };
    let Outcome::Done(mut done) = work.run(attempt).await? else { return Err(unknown()) };
    let result = Arc::new(std::mem::take(&mut done.result));
    let scope = || attempt.scope().json("result", Arc::clone(&result));
    done.writes.extend(node.into.writes(&result, scope)?);
    Ok(done)
}
