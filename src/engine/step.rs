//! One superstep, decided: which tasks run, and what their results make of the state.
//!
//! Invariant: pure. Nothing here awaits, reads a clock or draws a random number, and no result depends on
//! which task was done first.

mod barrier;
mod begin;
mod cache;
mod calls;
mod edges;
mod held;
mod join;
mod outside;
mod result;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::event::{Body, Scope as Place, Usage};
use crate::failure::{Caught, ErrorKind, Failure};
use crate::id::{CacheKey, TaskId};
use crate::node::{self, Outcome, RunFacts};
use crate::plan::{Output, Plan, START, Target};
use crate::state::{Channel, Delta, State};
use begin::{Due, Level, Origin, Planner};
use edges::{Sender, choose};
use join::{Group, ready, settle};

pub use barrier::{apply, divert};
pub use begin::{Beginning, Begun, Calling, Clocks, Doing, Leaf, LeafWork, Locals, Making, World};
pub use cache::{Found, Fresh, UNSOUGHT};
pub use held::{Called, Frame, Going, Held, Item, ItemStage, Kept, Open, Question, Replies, Reply, Stage};
pub use outside::{Change, Changed, Child, change, missing};

/// A fan-out that happened: the superstep, the rank of the task in it, and its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Activation(pub u64, pub u64, pub String);

/// A live branch: the node that it stands before, or is in the middle of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// The task that it is in the middle of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Box<Held>>,
}

impl Token {
    /// Returns what branches are sorted by. Those of one node and one sender stay in the order in which the sender's
    /// tasks sent them, and what is in the middle of its work was sent first.
    fn rank(&self) -> (&str, &str, bool) {
        (&self.at, &self.from, self.held.is_none())
    }
}

/// What runs next, and what the run has used up; saved with every checkpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// The states of called graphs that stay with their calling nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, Kept>,
}

/// A limit of a run that can be granted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Supersteps.
    Steps,
    /// Time.
    Time,
    /// Calls of models.
    Calls,
    /// Tokens.
    Tokens,
    /// Money.
    Cost,
}

impl Limit {
    /// Returns its key under `limits`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Time => "time",
            Self::Calls => "calls",
            Self::Tokens => "tokens",
            Self::Cost => "cost_usd",
        }
    }
}

/// The limits that were used up once: where they are counted from since.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Granted {
    /// The superstep at which that of supersteps was used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// The calls of models that were made by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// The tokens that were used by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// What had been spent by then, in billionths of a dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
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
            Limit::Calls => self.calls.is_some(),
            Limit::Tokens => self.tokens.is_some(),
            Limit::Cost => self.cost.is_some(),
        }
    }
}

/// One node in one superstep.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The node.
    pub node: String,
    /// The node that the first branch came from.
    pub from: String,
    /// The fan-outs of all branches that meet in it.
    pub open: BTreeSet<Activation>,
    /// The error that it handles; where several branches meet, the first one's.
    pub error: Option<Caught>,
    /// It began in an earlier superstep, and used so many tokens.
    pub held: Option<Usage>,
    /// What it does.
    pub doing: Doing,
}

/// A decided superstep of one graph.
#[derive(Debug, Clone, PartialEq)]
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

impl Step {
    /// Says whether anything changes by it; else all of it waits for people.
    pub fn moves(&self) -> bool {
        self.tasks.iter().any(|task| !matches!(task.doing, Doing::Waits(_)))
    }
}

/// A decided superstep of a run.
pub struct Planned<'a> {
    /// That of its own graph; those of called graphs are parts of its tasks.
    pub step: Step,
    /// The work that awaits something, in the order in which the barrier takes its results.
    pub leaves: Vec<Leaf<'a>>,
    /// The tasks that begin, or go on.
    pub begun: Vec<Begun>,
    /// Results that may be kept and were not looked for: it is to be planned again when they were.
    pub sought: BTreeSet<CacheKey>,
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
    /// The nodes that called the graph that it is of, outermost first.
    pub path: Vec<String>,
    /// The index within the innermost `map` around it.
    pub item: Option<u64>,
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
    /// What becomes visible with it, in the order of the tasks.
    pub events: Vec<(Place, Body)>,
    /// How long to wait before the next superstep: something is tried again.
    pub wait: Duration,
    /// The tasks that are.
    pub again: BTreeSet<TaskId>,
    /// The results to keep.
    pub to_cache: Vec<Fresh>,
}

/// What a leaf came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worked {
    /// The attempt that did it, or the last one.
    pub attempt: u32,
    /// What it came to.
    pub result: Result<Outcome, Failure>,
    /// Tokens that all attempts used.
    #[serde(default, skip_serializing_if = "Usage::is_none")]
    pub usage: Usage,
    /// The model that was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The task around it whose time is over: the failure is that one's.
    #[serde(skip)]
    pub late: Option<TaskId>,
}

impl Worked {
    /// Returns all tokens that it used.
    pub fn usage(&self) -> Usage {
        let mut usage = self.usage;
        if let Ok(Outcome::Done(done)) = &self.result {
            usage += done.usage;
        }
        usage
    }

    /// Leaves out the tokens, where they are counted already.
    pub fn forget_usage(&mut self) {
        self.usage = Usage::default();
        if let Ok(Outcome::Done(done)) = &mut self.result {
            done.usage = Usage::default();
        }
    }

    /// Makes what an attempt came to that called no model.
    pub fn new(attempt: u32, result: Result<Outcome, Failure>) -> Self {
        Self { attempt, result, usage: Usage::default(), model: None, late: None }
    }
}

/// What a leaf came to; nothing when it was stopped.
pub type Ended = Option<Worked>;

/// A failure that nothing handles, and what the superstep came to besides.
#[derive(Debug, Clone, PartialEq)]
pub struct Unhandled {
    /// The node that failed.
    pub node: String,
    /// Why.
    pub failure: Failure,
    /// Tokens of all its tasks.
    pub usage: Usage,
    /// The ends of the tasks that failed.
    pub events: Vec<(Place, Body)>,
}

/// Begins a run: takes the edges of `start`.
pub fn begin(
    plan: &Plan,
    state: &State,
    input: &Arc<Json>,
    facts: &RunFacts,
) -> Result<(Frontier, Vec<Taken>), Failure> {
    choose_start(plan, state, input, facts)
}

fn choose_start(
    plan: &Plan,
    state: &State,
    input: &Arc<Json>,
    facts: &RunFacts,
) -> Result<(Frontier, Vec<Taken>), Failure> {
    let scope = node::scope(state, input, facts, 1);
    let chosen = choose(&plan.start, &scope)?;
    let mut frontier = Frontier::default();
    let open = BTreeSet::new();
    let sender = Sender::of(START, (0, 0), &open);
    let edges = sender.send(plan, chosen, &mut frontier.tokens);
    settle(&mut frontier.tokens);
    Ok((frontier, edges))
}

/// Decides the next superstep. No tasks: the run is over.
pub fn plan_step<'a>(
    world: World<'a>,
    state: &State,
    input: &Arc<Json>,
    frontier: &Frontier,
) -> Result<Planned<'a>, Failure> {
    let mut planner = Planner::new(world);
    let level = Level::root(world, state, input);
    let step = plan_tokens(&mut planner, &level, frontier, Origin::Run(world.facts.id))?;
    Ok(Planned { step, leaves: planner.leaves, begun: planner.begun, sought: planner.sought })
}

/// Decides the next superstep of one graph.
fn plan_tokens<'a>(
    planner: &mut Planner<'a>,
    level: &Level<'a>,
    frontier: &Frontier,
    origin: Origin<'_>,
) -> Result<Step, Failure> {
    let (plan, number) = (level.plan, level.number);
    let mut tokens = frontier.tokens.clone();
    let mut diverted = Vec::new();
    for _ in 0..=plan.nodes.len() * tokens.len() {
        let (groups, waiting) = ready(plan, &tokens);
        // Counted over the groups of this superstep too: two arrivals at a bounded node are two visits.
        let mut visits: BTreeMap<&str, u64> = BTreeMap::new();
        let spent: Vec<Option<&Target>> = groups
            .iter()
            .map(|group| {
                let (most, to) = plan.nodes.get(&group.node)?.max_visits.as_ref()?;
                if group.is_held() {
                    return None;
                }
                let now = visits.entry(&group.node).or_default();
                *now += 1;
                (frontier.visits.get(&group.node).copied().unwrap_or(0) + *now > *most).then_some(to)
            })
            .collect();
        if spent.iter().any(Option::is_some) {
            tokens = waiting;
            let mut left = Vec::new();
            for (group, spent) in groups.into_iter().zip(spent) {
                let Some(to) = spent else {
                    tokens.extend(group.arrivals);
                    continue;
                };
                if let Target::Node(at) = to {
                    let error = group.error().filter(|_| plan.has_error(at));
                    let (from, open) = (group.node.clone(), group.open());
                    left.push(Token { at: at.clone(), from, open, error, held: None });
                }
                diverted.push((group.node, to.clone()));
            }
            tokens.extend(left);
            settle(&mut tokens);
            continue;
        }
        let mut rank_of_node: BTreeMap<String, u64> = BTreeMap::new();
        let mut tasks = Vec::with_capacity(groups.len());
        for group in groups {
            tasks.push(plan_task(planner, level, frontier, origin, group, &mut rank_of_node));
        }
        return Ok(Step { number, tasks, waiting, diverted });
    }
    // In each round at least one branch was sent one edge on: without a circle all of them had come to an end.
    Err(Failure::new(ErrorKind::Limit, "bounded nodes send the run in a circle by their `on_max`"))
}

fn plan_task<'a>(
    planner: &mut Planner<'a>,
    level: &Level<'a>,
    frontier: &Frontier,
    origin: Origin<'_>,
    group: Group,
    rank_of_node: &mut BTreeMap<String, u64>,
) -> Task {
    let (open, error) = (group.open(), group.error());
    let Group { node, arrivals } = group;
    let mut from = String::new();
    let mut held = None;
    for token in arrivals {
        if from.is_empty() {
            from = token.from;
        }
        held = held.or(token.held);
    }
    let (id, going, held) = match held {
        Some(held) => (held.task, Some(held.going), Some(held.usage)),
        None => {
            let rank = rank_of_node.entry(node.clone()).or_default();
            let id = origin.task(level.number, &node, *rank);
            *rank += 1;
            (id, None, None)
        }
    };
    let due = Due { node: &node, task: &id, error: error.as_ref(), held: going };
    let doing = planner.task(level, frontier, due);
    Task { id, node, from, open, error, held, doing }
}

/// Evaluates what a graph gives at its end.
pub fn output(plan: &Plan, state: &State, input: &Arc<Json>, facts: &RunFacts) -> Result<Json, Failure> {
    match &plan.output {
        Output::Public => {
            // The conversation is told message by message; repeating it would make each turn cost more
            // than the one before.
            let shown = |(name, channel): &(&String, &Channel)| {
                !channel.private && Some(*name) != plan.messages.as_ref()
            };
            let channels = plan.channels.iter().filter(shown);
            let entry = |(name, _): (&String, &Channel)| Some((name.clone(), state.json(name)?));
            Ok(Json::Object(channels.filter_map(entry).collect()))
        }
        Output::Channels(names) => {
            let channel = |name: &String| Some((name.clone(), state.json(name)?));
            Ok(Json::Object(names.iter().filter_map(channel).collect()))
        }
        Output::Map(map) => {
            let scope = node::scope(state, input, facts, 1);
            let entry =
                |(name, tree): (&String, &crate::expr::ExprTree)| Ok((name.clone(), tree.eval(&scope)?));
            map.iter().map(entry).collect::<Result<_, Failure>>().map(Json::Object)
        }
    }
}

#[cfg(test)]
mod tests;
