//! One superstep, decided: which tasks run, and what their results make of the state.
//!
//! Invariant: pure. Nothing here awaits, reads a clock or draws a random number, and no result depends on
//! which task was done first.

mod barrier;
mod edges;
mod join;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::event::Usage;
use crate::id::{RunId, TaskId};
use crate::node::{self, Caught, ErrorKind, Failure, RunFacts};
use crate::plan::{Plan, START, Target};
use crate::state::{Delta, State, Write};
use edges::{Sender, choose};
use join::{ready, settle};

pub use barrier::{apply, divert};

/// A fan-out that happened: the superstep, the rank of the task in it, and its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Activation(pub u64, pub u64, pub String);

/// A live branch: the node that it stands before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token {
    /// The node that comes next.
    pub at: String,
    /// The node that sent it, or `start`.
    pub from: String,
    /// The fan-outs that it shares with other live branches.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub open: BTreeSet<Activation>,
    /// The error that the branch handles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Caught>,
}

/// What runs next, and what the run has used up; saved with every checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Frontier {
    /// The live branches, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<Token>,
    /// How often each bounded node ran in this run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub visits: BTreeMap<String, u64>,
    /// Tokens used in this run.
    #[serde(default)]
    pub usage: Usage,
    /// The beginning of the hash of the plan that the run is pinned to.
    #[serde(default)]
    pub plan: String,
    /// The limits that were used up once, and granted again.
    #[serde(default, skip_serializing_if = "Granted::is_none")]
    pub granted: Granted,
}

/// A limit of a run that can be granted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Supersteps.
    Steps,
    /// Time.
    Time,
    /// Tokens.
    Tokens,
}

impl Limit {
    /// Returns its key under `limits`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Time => "time",
            Self::Tokens => "tokens",
        }
    }
}

/// The limits that were used up once: where they are counted from since.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Granted {
    /// The superstep at which that of supersteps was used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// The tokens that were used by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// That of time was used up. It is counted from each resume anyway.
    #[serde(default)]
    pub time: bool,
}

impl Granted {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Says whether a limit was granted again.
    pub fn has(&self, limit: Limit) -> bool {
        match limit {
            Limit::Steps => self.steps.is_some(),
            Limit::Time => self.time,
            Limit::Tokens => self.tokens.is_some(),
        }
    }
}

/// One node in one superstep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The node.
    pub node: String,
    /// The fan-outs of all branches that meet in it.
    pub open: BTreeSet<Activation>,
    /// The error that it handles; where several branches meet, the first one's.
    pub error: Option<Caught>,
}

/// A decided superstep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number, from 1.
    pub number: u64,
    /// What runs, by rank.
    pub tasks: Vec<Task>,
    /// The branches that wait for others.
    pub waiting: Vec<Token>,
    /// Edges taken instead of a visit too many: node and target.
    pub diverted: Vec<(String, Target)>,
}

/// An edge that the run goes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The node that was left, or `start`.
    pub from: String,
    /// Where it leads.
    pub to: Target,
    /// The condition that held.
    pub condition: Option<String>,
}

/// What a superstep made.
#[derive(Debug)]
pub struct Applied {
    /// The state after the barrier.
    pub state: State,
    /// What changed.
    pub delta: Delta,
    /// What runs next; empty when the run is over.
    pub frontier: Frontier,
    /// The edges taken, in the order of the tasks.
    pub edges: Vec<Taken>,
    /// The ranks of the tasks that did their work and failed at the barrier.
    pub spoilt: Vec<usize>,
}

/// A task's result at the barrier.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its writes, in order.
    pub writes: Vec<Write>,
    /// Tokens it used.
    pub usage: Usage,
}

/// A failure that nothing handles, and the tokens that the superstep used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhandled {
    /// The node that failed.
    pub node: String,
    /// Why.
    pub failure: Failure,
    /// Tokens of all its tasks.
    pub usage: Usage,
}

/// Begins a run: takes the edges of `start`.
pub fn begin(
    plan: &Plan,
    state: &State,
    input: &Arc<Json>,
    facts: &RunFacts,
) -> Result<(Frontier, Vec<Taken>), Failure> {
    let scope = node::scope(state, input, facts, 1);
    let chosen = choose(&plan.start, &scope)?;
    let mut frontier = Frontier::default();
    let sender = Sender { node: START, activation: (0, 0), open: &BTreeSet::new(), error: None };
    let edges = sender.send(plan, chosen, &mut frontier.tokens);
    settle(&mut frontier.tokens);
    Ok((frontier, edges))
}

/// Decides the next superstep. No tasks: the run is over.
pub fn plan_step(plan: &Plan, run: RunId, frontier: &Frontier, number: u64) -> Result<Step, Failure> {
    let mut tokens = frontier.tokens.clone();
    let mut diverted = Vec::new();
    for _ in 0..=plan.nodes.len() {
        let (groups, waiting) = ready(plan, &tokens);
        // Counted over the groups of this superstep too: two arrivals at a bounded node are two visits.
        let mut planned: BTreeMap<&str, u64> = BTreeMap::new();
        let spent: Vec<Option<&Target>> = groups
            .iter()
            .map(|group| {
                let (most, to) = plan.nodes.get(&group.node)?.max_visits.as_ref()?;
                let now = planned.entry(&group.node).or_default();
                *now += 1;
                (frontier.visits.get(&group.node).copied().unwrap_or(0) + *now > *most).then_some(to)
            })
            .collect();
        if spent.iter().any(Option::is_some) {
            tokens = waiting;
            for (group, spent) in groups.iter().zip(spent) {
                match spent {
                    None => tokens.extend(group.arrivals.iter().cloned()),
                    Some(to) => {
                        if let Target::Node(at) = to {
                            let error = group.error().filter(|_| plan.has_error(at));
                            let (from, open) = (group.node.clone(), group.open());
                            tokens.push(Token { at: at.clone(), from, open, error });
                        }
                        diverted.push((group.node.clone(), to.clone()));
                    }
                }
            }
            settle(&mut tokens);
            continue;
        }
        let mut rank_of_node: BTreeMap<String, u64> = BTreeMap::new();
        let tasks = groups
            .into_iter()
            .map(|group| {
                let rank = rank_of_node.entry(group.node.clone()).or_default();
                let id = TaskId::derive(run, number, &group.node, *rank);
                *rank += 1;
                Task { id, open: group.open(), error: group.error(), node: group.node }
            })
            .collect();
        return Ok(Step { number, tasks, waiting, diverted });
    }
    // In each round every spent node sent its branches one edge on: without a circle they had come to an end.
    Err(Failure::new(ErrorKind::Limit, "bounded nodes send the run in a circle by their `on_max`"))
}

#[cfg(test)]
mod tests;
