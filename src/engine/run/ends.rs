//! The ways in which a run ends.
//!
//! Invariant: the end is part of the last barrier, and whatever was begun is ended before it.

use std::collections::BTreeSet;

use tracing::{Span, debug, error, info};

use super::commit::Barrier;
use super::{Driver, Halt, Position, Rest};
use crate::engine::record::{self, Notice, Outcome, RunError};
use crate::engine::step::{self, Open, Token};
use crate::event::{Body, Group, RunStatus, Scope, Usage};
use crate::failure::{ErrorKind, Failure};
use crate::store::RunState;
use crate::trace;

impl Driver<'_> {
    pub(super) async fn complete(
        &self,
        at: Position,
        events: Vec<(Option<Scope>, Body)>,
    ) -> Result<(), Halt> {
        let (state, facts) = (&at.head.state, self.facts(&at));
        match step::output(&at.plan, state, &at.input, &facts) {
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

    pub(super) async fn fail(
        &self,
        at: Position,
        node: Option<String>,
        failure: Failure,
    ) -> Result<(), Halt> {
        self.fail_with(at, Vec::new(), node, failure).await
    }

    pub(super) async fn fail_with(
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

    /// Lets go of a run that waits for people, or is stopped at a breakpoint, with its last barrier. What was said to one
    /// that waits puts it into the queue.
    pub(super) async fn pause(
        &self,
        mut at: Position,
        mut events: Vec<(Option<Scope>, Body)>,
        rest: Rest,
    ) -> Result<(), Halt> {
        let (open, _) = at.head.frontier.held(&at.plan);
        let (status, usage) = (RunStatus::Interrupted, at.head.frontier.usage);
        let interrupts: Vec<_> = open.iter().map(Open::interrupt).collect();
        if self.claim.run.webhook.is_some() {
            let interrupts = interrupts.clone();
            at.notice =
                Some(record::encode(&Notice { status, output: None, usage, error: None, interrupts }));
        }
        events.push((None, Body::RunFinished { status, output: None, usage, interrupts }));
        at.rest = Some(rest);
        if self.commit(&mut at, events, Some((RunState::Interrupted, None))).await? {
            debug!(run = %self.claim.run.run, "Run is claimed again: its end was asked for.");
            self.shared.queue.notify_one();
            return Ok(());
        }
        info!(run = %self.claim.run.run, questions = open.len(), ?rest, "Run pauses.");
        trace::ended(&Span::current(), "interrupted", None);
        if !at.torn {
            self.shared.heads.put(self.claim.run.thread, at.head);
        }
        self.shared.queue.notify_one();
        Ok(())
    }

    pub(super) async fn cancel(&self, mut at: Position) -> Result<(), Halt> {
        let run = &self.claim.run;
        let row = self.patiently(|| self.shared.store.run(&run.key.owner, run.run)).await?;
        let mut status = RunStatus::Cancelled;
        if row.is_some_and(|row| row.rollback) {
            // The thread goes back to before it: nothing more of it is stored, and what is in memory is of no use.
            at.pending.clear();
            at.points.clear();
            at.to_cache.clear();
            at.told.retain(|(_, body)| !matches!(body.group(), Group::State | Group::Checkpoints));
            (at.torn, status) = (true, RunStatus::RolledBack);
            self.shared.heads.forget(run.thread);
        }
        let outcome = Outcome { status, output: None, usage: at.head.frontier.usage, error: None };
        self.finish(at, Vec::new(), &outcome).await
    }

    /// Commits the end of the run.
    pub(super) async fn finish(
        &self,
        mut at: Position,
        mut events: Vec<(Option<Scope>, Body)>,
        outcome: &Outcome,
    ) -> Result<(), Halt> {
        let (state, status) = match outcome.status {
            RunStatus::Completed => (RunState::Completed, "completed"),
            RunStatus::Cancelled => (RunState::Cancelled, "cancelled"),
            RunStatus::RolledBack => (RunState::RolledBack, "rolled_back"),
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
                interrupts: Vec::new(),
            },
        ));
        self.commit(&mut at, events, Some((state, Some(record::encode(outcome))))).await?;
        metrics::counter!("graphloom_runs_finished_total", "status" => status).increment(1);
        trace::ended(&Span::current(), status, outcome.error.as_ref().map(|error| error.code.as_str()));
        // The next run on this thread starts from here without a read.
        if !at.torn {
            self.shared.heads.put(self.claim.run.thread, at.head);
        }
        Ok(())
    }

    /// Ends a run that went wrong outside of its nodes, from where the store has it.
    pub(super) async fn end_broken(&self) -> Result<(), Halt> {
        let run = &self.claim.run;
        let row = self.patiently(|| self.shared.store.run(&run.key.owner, run.run)).await?;
        let Some(row) = row.filter(|row| row.fence == run.fence && row.state == RunState::Running) else {
            return Err(Halt::Gone);
        };
        let message = "the run could not go on because of a fault of the service";
        let failure = Failure { code: "internal".into(), ..Failure::new(ErrorKind::ServerError, message) };
        self.end_at(row.step, RunState::Failed, RunStatus::Failed, None, failure, Usage::default()).await
    }

    /// Gives a run up whose process died each time that it worked on it. What it was at is taken back before its readers,
    /// and told to the operator.
    pub(super) async fn give_up(&self, open: &[Scope], next: &[Token], usage: Usage) -> Result<(), Halt> {
        let run = &self.claim.run;
        self.take_back(open);
        // A process that dies at once leaves nothing of what it had begun: then it was at what comes next.
        let mut nodes: BTreeSet<&str> = open.iter().map(|place| place.node.as_str()).collect();
        if nodes.is_empty() {
            nodes.extend(next.iter().map(|token| token.at.as_str()));
        }
        let named = nodes.iter().map(|node| format!("`{node}`")).collect::<Vec<_>>().join(", ");
        error!(run = %run.run, graph = run.graph, at = named, "Run given up: its process died each time.");
        let mut message = "the process died each time that it worked on this run".to_owned();
        if !nodes.is_empty() {
            message += &format!(", at {named}");
        }
        let failure = Failure { code: "gave_up".into(), ..Failure::new(ErrorKind::Failed, message) };
        let only = nodes.first().filter(|_| nodes.len() == 1).map(|node| (*node).to_owned());
        self.end_at(run.step, RunState::Dead, RunStatus::Dead, only, failure, usage).await?;
        for node in nodes {
            let (graph, node) = (run.graph.clone(), node.to_owned());
            metrics::counter!("graphloom_attempts_given_up_total", "graph" => graph, "node" => node)
                .increment(1);
        }
        metrics::counter!("graphloom_runs_finished_total", "status" => "dead").increment(1);
        Ok(())
    }

    /// Ends a run without a barrier of its own.
    pub(super) async fn end_at(
        &self,
        step: u64,
        state: RunState,
        status: RunStatus,
        node: Option<String>,
        failure: Failure,
        usage: Usage,
    ) -> Result<(), Halt> {
        let error = RunError {
            code: failure.code.clone(),
            message: failure.message.clone(),
            node: node.clone(),
            retryable: false,
        };
        let outcome = Outcome { status, output: None, usage, error: Some(error) };
        let events = vec![
            (None, Body::Error { code: failure.code, message: failure.message, retryable: false, node }),
            (None, Body::ended(status, usage)),
        ];
        if let Some(error) = &outcome.error {
            trace::ended(&Span::current(), state.name(), Some(&error.code));
        }
        let next = Some((state, Some(record::encode(&outcome))));
        self.write(step, Barrier::default(), events, next).await.map(|_| ())
    }
}
