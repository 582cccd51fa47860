//! One superstep, decided: which tasks run, and what their results make of the state.
//!
//! Invariant: pure. Nothing here awaits, reads a clock or draws a random number, and no result depends on
//! which task was done first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::event::Usage;
use crate::expr::Scope;
use crate::id::{RunId, TaskId};
use crate::node::{self, ErrorKind, Failure, RunFacts};
use crate::plan::{Next, Plan, Rule, START, Target};
use crate::state::{Delta, State, Write, fold, overlay};

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
}

/// A task's result at the barrier.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its writes, in order.
    pub writes: Vec<Write>,
    /// Tokens it used.
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
    let edges = send(START, (0, 0), &BTreeSet::new(), chosen, &mut frontier.tokens);
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
                            let open = group.open();
                            tokens.push(Token { at: at.clone(), from: group.node.clone(), open });
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
                Task { id, open: group.open(), node: group.node }
            })
            .collect();
        return Ok(Step { number, tasks, waiting, diverted });
    }
    // In each round every spent node sent its branches one edge on: without a circle they had come to an end.
    Err(Failure::new(ErrorKind::Limit, "bounded nodes send the run in a circle by their `on_max`"))
}

/// Folds the results of a superstep, by rank, and takes the edges of its nodes.
pub fn apply(
    plan: &Plan,
    state: &State,
    frontier: &Frontier,
    step: &Step,
    results: Vec<Finished>,
    input: &Arc<Json>,
    facts: &RunFacts,
) -> Result<Applied, Failure> {
    let merge = |e: crate::state::MergeError| Failure::new(ErrorKind::Merge, e.to_string());
    let mut next = Frontier { tokens: step.waiting.clone(), ..frontier.clone() };
    let mut edges: Vec<Taken> = step
        .diverted
        .iter()
        .map(|(from, to)| Taken { from: from.clone(), to: to.clone(), condition: Some("max_visits".into()) })
        .collect();
    let mut writes = Vec::with_capacity(results.len());
    for (rank, (task, result)) in step.tasks.iter().zip(results).enumerate() {
        let Some(node) = plan.nodes.get(&task.node) else { continue };
        // A node's edges see its own writes, not those of its siblings.
        let own = overlay(&plan.channels, state, &task.id, &result.writes).map_err(merge)?;
        let chosen = choose(&node.next, &node::scope(&own, input, facts, 1))?;
        edges.extend(send(&task.node, (step.number, rank as u64), &task.open, chosen, &mut next.tokens));
        if node.max_visits.is_some() {
            *next.visits.entry(task.node.clone()).or_default() += 1;
        }
        next.usage += result.usage;
        writes.push((task.id.clone(), result.writes));
    }
    let (state, delta) = fold(&plan.channels, state, &writes).map_err(merge)?;
    settle(&mut next.tokens);
    Ok(Applied { state, delta, frontier: next, edges })
}

/// A chosen edge: where to, and under which condition.
type Choice = (Target, Option<String>);

fn choose(next: &Next, scope: &Scope) -> Result<Vec<Choice>, Failure> {
    let mut chosen = Vec::new();
    follow(next, scope, None, &mut chosen)?;
    let mut seen = BTreeSet::new();
    chosen.retain(|(to, _)| seen.insert(to.clone()));
    Ok(chosen)
}

fn follow(
    next: &Next,
    scope: &Scope,
    condition: Option<&str>,
    chosen: &mut Vec<Choice>,
) -> Result<(), Failure> {
    match next {
        Next::To(target) => chosen.push((target.clone(), condition.map(str::to_owned))),
        Next::All(targets) => {
            chosen.extend(targets.iter().map(|target| (target.clone(), condition.map(str::to_owned))));
        }
        Next::Some(arms, otherwise) => {
            let before = chosen.len();
            for (when, target) in arms {
                if when.eval_bool(scope)? {
                    chosen.push((target.clone(), Some(when.source().to_owned())));
                }
            }
            if chosen.len() == before {
                follow(otherwise, scope, Some("else"), chosen)?;
            }
        }
        Next::Rules(rules) => {
            for rule in rules {
                match rule {
                    Rule::When(when, next) => {
                        if when.eval_bool(scope)? {
                            return follow(next, scope, Some(when.source()), chosen);
                        }
                    }
                    Rule::Match(on, cases) => {
                        let value = on.eval(scope)?;
                        if let Some((case, next)) = cases.iter().find(|(case, _)| *case == value) {
                            let case = case.as_str().map_or_else(|| case.to_string(), str::to_owned);
                            return follow(next, scope, Some(&format!("{} = {case}", on.source())), chosen);
                        }
                    }
                    Rule::Else(next) => return follow(next, scope, Some("else"), chosen),
                }
            }
            return Err(Failure::new(ErrorKind::Template, "no rule of `next` matches"));
        }
    }
    Ok(())
}

/// Sends a token along each chosen edge. Two or more make a fan-out that all of them remember.
fn send(
    from: &str,
    (step, rank): (u64, u64),
    open: &BTreeSet<Activation>,
    chosen: Vec<Choice>,
    tokens: &mut Vec<Token>,
) -> Vec<Taken> {
    let mut open = open.clone();
    if chosen.len() > 1 {
        open.insert(Activation(step, rank, from.to_owned()));
    }
    let take = |(to, condition)| {
        if let Target::Node(at) = &to {
            tokens.push(Token { at: at.clone(), from: from.to_owned(), open: open.clone() });
        }
        Taken { from: from.to_owned(), to, condition }
    };
    chosen.into_iter().map(take).collect()
}

/// Sorts the live branches, and drops a fan-out that only one of them remembers.
fn settle(tokens: &mut [Token]) {
    let mut carriers: BTreeMap<Activation, usize> = BTreeMap::new();
    for activation in tokens.iter().flat_map(|t| &t.open) {
        *carriers.entry(activation.clone()).or_default() += 1;
    }
    for token in &mut *tokens {
        token.open.retain(|activation| carriers.get(activation).is_some_and(|n| *n > 1));
    }
    tokens.sort();
}

/// Branches that one task takes up.
#[derive(Debug, Clone)]
struct Group {
    node: String,
    arrivals: Vec<Token>,
}

impl Group {
    fn open(&self) -> BTreeSet<Activation> {
        self.arrivals.iter().flat_map(|t| t.open.iter().cloned()).collect()
    }
}

/// Splits the live branches into the groups that run now, by node and then by sender, and the rest.
fn ready(plan: &Plan, tokens: &[Token]) -> (Vec<Group>, Vec<Token>) {
    let mut single = Vec::new();
    let mut joins: BTreeMap<&str, Vec<Token>> = BTreeMap::new();
    for token in tokens {
        if plan.joins(&token.at) {
            joins.entry(&token.at).or_default().push(token.clone());
        } else {
            single.push(Group { node: token.at.clone(), arrivals: vec![token.clone()] });
        }
    }
    let groups: Vec<Group> =
        joins.into_iter().map(|(node, arrivals)| Group { node: node.to_owned(), arrivals }).collect();
    // A group may run when everything that it waits for, directly or through other groups, is a group that
    // waits for it in turn: a component of the waits-for graph without a way out.
    let waits: Vec<BTreeSet<usize>> = groups
        .iter()
        .map(|group| (0..groups.len()).filter(|&other| waits_for(plan, group, &groups[other])).collect())
        .collect();
    let blocked: Vec<bool> =
        groups.iter().map(|group| single.iter().any(|other| waits_for(plan, group, other))).collect();
    let reach: Vec<BTreeSet<usize>> = (0..groups.len()).map(|g| closure(&waits, g)).collect();
    let runs = |g: usize| {
        !blocked[g]
            && reach[g].iter().all(|&other| !blocked[other] && (other == g || reach[other].contains(&g)))
    };
    let (mut now, mut waiting) = (single, Vec::new());
    for (g, group) in groups.iter().enumerate() {
        if runs(g) {
            now.push(group.clone());
        } else {
            waiting.extend(group.arrivals.iter().cloned());
        }
    }
    now.sort_by(|a, b| (&a.node, &a.arrivals).cmp(&(&b.node, &b.arrivals)));
    (now, waiting)
}

fn closure(waits: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<usize> = waits[from].iter().copied().collect();
    while let Some(g) = todo.pop() {
        if seen.insert(g) {
            todo.extend(&waits[g]);
        }
    }
    seen
}

/// Says whether a branch of `other` can still reach `group`'s node without passing through a fan-out
/// that it shares with a member of the group.
fn waits_for(plan: &Plan, group: &Group, other: &Group) -> bool {
    if group.node == other.node {
        return false;
    }
    let open = group.open();
    other.arrivals.iter().any(|token| {
        let shared: BTreeSet<&str> = token.open.intersection(&open).map(|a| a.2.as_str()).collect();
        reaches(plan, &token.at, &group.node, &shared)
    })
}

fn reaches(plan: &Plan, from: &str, to: &str, barred: &BTreeSet<&str>) -> bool {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from];
    while let Some(at) = todo.pop() {
        if barred.contains(at) || !seen.insert(at) {
            continue;
        }
        let Some((_, node)) = plan.nodes.get_key_value(at) else { continue };
        for target in node.successors() {
            if let Target::Node(name) = target {
                if name == to {
                    return true;
                }
                if let Some((key, _)) = plan.nodes.get_key_value(&name) {
                    todo.push(key);
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests;
