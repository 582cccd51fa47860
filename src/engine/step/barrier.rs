//! What the results of a superstep make of the state, and where the run goes on.
//!
//! Invariant: a failure is data. What failed writes nothing, and takes nothing away from its siblings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;

use super::edges::{Sender, choose};
use super::join::settle;
use super::{Applied, Finished, Frontier, Limit, Step, Taken, Unhandled};
use crate::event::Usage;
use crate::node::{self, Caught, ErrorKind, Failure, RunFacts};
use crate::plan::{Plan, START, Target};
use crate::state::{Delta, Merge, MergeError, State, Write, fold_writes, overlay};

/// Folds the results of a superstep, by rank, and takes the edges of its nodes. What failed writes nothing and goes
/// where its errors go.
pub fn apply(
    plan: &Plan,
    state: &State,
    frontier: &Frontier,
    step: &Step,
    results: Vec<Result<Finished, Failure>>,
    input: &Arc<Json>,
    facts: &RunFacts,
) -> Result<Applied, Unhandled> {
    let mut next = Frontier { tokens: step.waiting.clone(), ..frontier.clone() };
    let mut results = Barrier::new(plan, step, results.into_iter().map(Some), &mut next);
    let mut chosen = Vec::with_capacity(step.tasks.len());
    for (rank, task) in step.tasks.iter().enumerate() {
        let node = plan.nodes.get(&task.node);
        let Some((node, Ok(writes))) = node.zip(results.outcomes.get(rank)) else {
            chosen.push(Vec::new());
            continue;
        };
        // A node's edges see its own writes, not those of its siblings.
        let choice =
            overlay(&plan.channels, state, &task.id, writes).map_err(|e| failed_merge(&e)).and_then(|own| {
                let scope = node::scope(&own, input, facts, 1);
                let scope = match &task.error {
                    Some(error) => scope.json("error", Arc::new(error.to_json())),
                    None => scope,
                };
                choose(&node.next, &scope)
            });
        chosen.push(choice.unwrap_or_else(|failure| {
            results.spoil(rank, failure);
            Vec::new()
        }));
    }
    let (state, delta) = results.fold(state);
    let mut edges: Vec<Taken> = step
        .diverted
        .iter()
        .map(|(from, to)| Taken { from: from.clone(), to: to.clone(), condition: Some("max_visits".into()) })
        .collect();
    for ((rank, task), chosen) in step.tasks.iter().enumerate().zip(chosen) {
        let Some(node) = plan.nodes.get(&task.node) else { continue };
        let mut sender = Sender {
            node: &task.node,
            activation: (step.number, rank as u64),
            open: &task.open,
            error: task.error.clone(),
        };
        let chosen = match &results.outcomes[rank] {
            Ok(_) => chosen,
            Err(failure) => {
                let Some(to) = node.catches(failure) else {
                    let (node, failure) = (task.node.clone(), failure.clone());
                    return Err(Unhandled { node, failure, usage: results.usage });
                };
                sender.error = Some(Caught::new(&task.node, failure));
                vec![(to.clone(), Some(format!("on_error: {}", failure.kind.name())))]
            }
        };
        edges.extend(sender.send(plan, chosen, &mut next.tokens));
    }
    let spoilt = results.spoilt;
    settle(&mut next.tokens);
    Ok(Applied { state, delta, frontier: next, edges, spoilt })
}

/// Ends every branch because a limit is used up. What tasks finished stays, and those without a result were stopped; the
/// run goes on where the limit leads.
pub fn divert(
    plan: &Plan,
    state: &State,
    frontier: &Frontier,
    step: &Step,
    results: Vec<Option<Result<Finished, Failure>>>,
    (limit, to): (Limit, &Target),
    failure: &Failure,
) -> Applied {
    let mut next = Frontier { tokens: Vec::new(), ..frontier.clone() };
    let mut results = Barrier::new(plan, step, results, &mut next);
    for (rank, task) in step.tasks.iter().enumerate() {
        if let Ok(writes) = &results.outcomes[rank]
            && let Err(error) = overlay(&plan.channels, state, &task.id, writes)
        {
            results.spoil(rank, failed_merge(&error));
        }
    }
    let (state, delta) = results.fold(state);
    let used = next.usage.input_tokens + next.usage.output_tokens;
    match limit {
        Limit::Steps => next.granted.steps = Some(step.number),
        Limit::Tokens => next.granted.tokens = Some(used),
        Limit::Time => next.granted.time = true,
    }
    let error = Some(Caught::new("", failure));
    let sender = Sender { node: START, activation: (step.number, 0), open: &BTreeSet::new(), error };
    let condition = Some(format!("on_limit: {}", limit.name()));
    let edges = sender.send(plan, vec![(to.clone(), condition)], &mut next.tokens);
    Applied { state, delta, frontier: next, edges, spoilt: results.spoilt }
}

fn failed_merge(error: &MergeError) -> Failure {
    Failure::new(ErrorKind::Merge, error.to_string())
}

/// The tasks of a superstep at its barrier: what each of them writes, or why it failed.
struct Barrier<'a> {
    plan: &'a Plan,
    step: &'a Step,
    outcomes: Vec<Result<Vec<Write>, Failure>>,
    spoilt: Vec<usize>,
    usage: Usage,
}

impl<'a> Barrier<'a> {
    fn new(
        plan: &'a Plan,
        step: &'a Step,
        results: impl IntoIterator<Item = Option<Result<Finished, Failure>>>,
        next: &mut Frontier,
    ) -> Self {
        let mut usage = Usage::default();
        let mut outcomes = Vec::with_capacity(step.tasks.len());
        for (task, ended) in step.tasks.iter().zip(results) {
            let bounded = plan.nodes.get(&task.node).is_some_and(|node| node.max_visits.is_some());
            // A visit that failed is a visit: else a loop through a handler had no end.
            if bounded && ended.is_some() {
                *next.visits.entry(task.node.clone()).or_default() += 1;
            }
            outcomes.push(match ended {
                Some(Ok(done)) => {
                    usage += done.usage;
                    Ok(done.writes)
                }
                Some(Err(failure)) => Err(failure),
                None => Ok(Vec::new()),
            });
        }
        next.usage += usage;
        Self { plan, step, outcomes, spoilt: Vec::new(), usage }
    }

    /// Takes back what a task wrote.
    fn spoil(&mut self, rank: usize, failure: Failure) {
        self.outcomes[rank] = Err(failure);
        self.spoilt.push(rank);
    }

    /// Folds what the tasks wrote. A task whose writes do not join those before it fails.
    fn fold(&mut self, state: &State) -> (State, Delta) {
        loop {
            let ranks: Vec<usize> = (0..self.outcomes.len()).filter(|&r| self.outcomes[r].is_ok()).collect();
            let joined = |ranks: &[usize]| self.join(state, ranks);
            let error = match joined(&ranks) {
                Ok(folded) => return folded,
                Err(error) => error,
            };
            let first = (1..ranks.len()).find_map(|n| joined(&ranks[..n]).err().map(|error| (n - 1, error)));
            match first.or_else(|| ranks.len().checked_sub(1).map(|last| (last, error))) {
                Some((at, error)) => self.spoil(ranks[at], failed_merge(&error)),
                // Nothing is left that could be at fault.
                None => return (state.clone(), Delta::new()),
            }
        }
    }

    /// Folds the writes of some tasks. Handlers of several failures may write one channel: the last one's value stays,
    /// so that of the others nothing is left to meet it.
    fn join(&self, state: &State, ranks: &[usize]) -> Result<(State, Delta), MergeError> {
        let replaces = |write: &'_ Write| match write {
            Write::Put { channel, .. } => {
                self.plan.channels.get(channel).is_some_and(|channel| channel.merge == Merge::Replace)
            }
            Write::Clear { .. } => false,
        };
        let handles = |rank: usize| self.plan.is_handler(&self.step.tasks[rank].node);
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for &rank in ranks.iter().filter(|&&rank| handles(rank)) {
            for write in self.outcomes[rank].iter().flatten().filter(|write| replaces(write)) {
                last.insert(write.channel(), rank);
            }
        }
        let tasks = ranks.iter().map(|&rank| {
            let yields = handles(rank);
            let last = &last;
            let stays =
                move |write: &&Write| !yields || last.get(write.channel()).is_none_or(|&stays| stays == rank);
            (&self.step.tasks[rank].id, self.outcomes[rank].iter().flatten().filter(stays))
        });
        fold_writes(&self.plan.channels, state, tasks)
    }
}
