//! What the results of a superstep make of the state, and where the run goes on.
//!
//! Invariant: a failure is data. What failed writes nothing, and takes nothing away from its siblings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::begin::Level;
use super::edges::{Choice, Sender, choose};
use super::held::{Going, Held};
use super::join::settle;
use super::result::{Came, Part, Results, Told};
use super::{Applied, Ended, Frontier, Limit, Step, Taken, Task, Token, Unhandled, World};
use crate::event::{Body, NodeStatus, Scope as Place, Usage};
use crate::expr::Scope;
use crate::failure::{Caught, ErrorKind, Failure};
use crate::id::TaskId;
use crate::node;
use crate::plan::{Plan, PlanNode, START, Target};
use crate::state::{Delta, Merge, MergeError, State, Write, fold_writes, overlay};

/// Folds the results of a superstep, in the order of its leaves, and takes the edges of its nodes. What failed writes
/// nothing and goes where its errors go.
pub fn apply(
    world: World<'_>,
    state: &State,
    input: &Arc<Json>,
    frontier: &Frontier,
    step: Step,
    ended: Vec<Ended>,
) -> Result<Applied, Box<Unhandled>> {
    let mut results = Results::new(world, ended);
    let level = Level::root(world, state, input);
    match results.frame(&level, frontier, step) {
        Ok(framed) => Ok(results.applied(framed)),
        Err(Dropped::Failed { node, failure, events }) => {
            results.failed.extend(events);
            Err(Box::new(Unhandled { node, failure, usage: results.usage, events: results.failed }))
        }
        Err(Dropped::Cut) => {
            let failure = Failure::new(ErrorKind::Failed, "a task of the superstep has no result");
            let (node, usage, events) = (String::new(), results.usage, Vec::new());
            Err(Box::new(Unhandled { node, failure, usage, events }))
        }
    }
}

/// Ends every branch because a limit is used up. What tasks finished stays, and those without a result were stopped; the
/// run goes on where the limit leads.
#[expect(clippy::too_many_arguments, reason = "a barrier is made of these")]
pub fn divert(
    world: World<'_>,
    state: &State,
    input: &Arc<Json>,
    frontier: &Frontier,
    step: Step,
    ended: Vec<Ended>,
    (limit, to): (Limit, &Target),
    failure: &Failure,
) -> Applied {
    let mut results = Results::new(world, ended);
    let level = Level::root(world, state, input);
    let number = step.number;
    let mut next = Frontier { tokens: Vec::new(), ..frontier.clone() };
    let mut ends = results.ends(&level, step.tasks, &mut next);
    for end in &mut ends {
        if let Ok(writes) = &end.outcome
            && let Err(error) = overlay(&world.root.channels, state, &end.task.id, writes)
        {
            end.outcome = Err(failed_merge(&error));
        }
    }
    let (state, delta) = fold(world.root, state, &mut ends);
    let gone =
        |task: &TaskId| !ends.iter().any(|end| end.task.id == *task && end.done && end.outcome.is_ok());
    let (state, delta) = frontier.remembered(world.root, (state, delta), gone);
    next.usage += results.usage;
    let used = next.usage.tokens();
    match limit {
        Limit::Steps => next.granted.steps = Some(number),
        Limit::Calls => next.granted.calls = Some(next.usage.model_calls),
        Limit::Tokens => next.granted.tokens = Some(used),
        Limit::Cost => next.granted.cost = Some(next.usage.cost_nano_usd),
        Limit::Time => next.granted.time = true,
    }
    let mut told = Told::default();
    for end in ends.into_iter().filter(|end| end.done) {
        let status = if end.outcome.is_ok() { NodeStatus::Completed } else { NodeStatus::Failed };
        end.tell(status, &mut told);
    }
    let error = Some(Caught::new("", failure));
    let open = BTreeSet::new();
    let sender = Sender { error, ..Sender::of(START, (number, 0), &open) };
    let condition = Some(format!("on_limit: {}", limit.name()));
    told.edges.extend(sender.send(world.root, vec![(to.clone(), condition)], &mut next.tokens));
    results.usage = Usage::default();
    results.applied(Framed { state, delta, frontier: next, told })
}

fn failed_merge(error: &MergeError) -> Failure {
    Failure::new(ErrorKind::Merge, error.to_string())
}

/// What a superstep made of one graph.
pub(super) struct Framed {
    pub(super) state: State,
    pub(super) delta: Delta,
    pub(super) frontier: Frontier,
    pub(super) told: Told,
}

/// Why a superstep made nothing of a graph.
pub(super) enum Dropped {
    /// A failure that nothing handles.
    Failed { node: String, failure: Failure, events: Vec<(Place, Body)> },
    /// A task was stopped.
    Cut,
}

/// The end of a task in a superstep.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each of them is true of ends for which the others are not"
)]
struct End {
    task: Task,
    place: Place,
    /// What it writes, or why it failed.
    outcome: Result<Vec<Write>, Failure>,
    /// It did all of its work.
    done: bool,
    cut: bool,
    late: bool,
    going: Option<Going>,
    usage: Usage,
    model: Option<String>,
    cached: bool,
    chosen: Vec<Choice>,
    told: Told,
}

impl End {
    /// Adds what becomes visible of it, with its end.
    fn tell(self, status: NodeStatus, told: &mut Told) {
        if self.outcome.is_ok() {
            told.events.extend(self.told.events);
            told.edges.extend(self.told.edges);
            told.said.extend(self.told.said);
        }
        if self.going.is_none() {
            let usage = (!self.usage.is_none()).then_some(self.usage);
            let (model, cached) = (self.model, self.cached);
            told.events
                .push((self.place, Body::NodeFinished { status, duration_ms: 0, usage, model, cached }));
        }
    }
}

impl<'a> Results<'a> {
    fn new(world: World<'a>, ended: Vec<Ended>) -> Self {
        Self {
            world,
            ended: ended.into_iter(),
            usage: Usage::default(),
            wait: Duration::ZERO,
            failed: Vec::new(),
            late: BTreeMap::new(),
            again: BTreeSet::new(),
            retries: 0,
            done: Vec::new(),
            spoiled: false,
            made: false,
            to_cache: Vec::new(),
        }
    }

    fn applied(self, framed: Framed) -> Applied {
        let Framed { state, delta, mut frontier, told } = framed;
        frontier.usage += self.usage;
        let Told { events, edges, said: _ } = told;
        let events = self.failed.into_iter().chain(events).collect();
        let (wait, again, to_cache) = (self.wait, self.again, self.to_cache);
        Applied { state, delta, frontier, edges, events, wait, again, to_cache }
    }

    /// Takes the superstep of one graph.
    pub(super) fn frame(
        &mut self,
        level: &Level<'a>,
        frontier: &Frontier,
        step: Step,
    ) -> Result<Framed, Dropped> {
        let Step { number, tasks, waiting, diverted } = step;
        let mut next = Frontier { tokens: waiting, ..frontier.clone() };
        let mut ends = self.ends(level, tasks, &mut next);
        if ends.iter().any(|end| end.cut) {
            return Err(Dropped::Cut);
        }
        for end in &mut ends {
            self.choose(level, end);
        }
        let folded = fold(level.plan, &level.state, &mut ends);
        let failed = |task: &TaskId| ends.iter().any(|end| end.task.id == *task && end.outcome.is_err());
        let (state, delta) = frontier.remembered(level.plan, folded, failed);
        let mut told = Told::default();
        told.edges.extend(diverted.into_iter().map(|(from, to)| {
            let (path, item) = (level.path.clone(), level.item);
            Taken { from, to, condition: Some("max_visits".into()), path, item }
        }));
        let mut unhandled = None;
        for (rank, mut end) in ends.into_iter().enumerate() {
            let Some(node) = level.plan.nodes.get(&end.task.node) else { continue };
            let mut sender = Sender {
                node: &end.task.node.clone(),
                activation: (number, rank as u64),
                open: &end.task.open.clone(),
                error: end.task.error.clone(),
                path: &level.path,
                item: level.item,
            };
            let chosen = match &end.outcome {
                Ok(_) => std::mem::take(&mut end.chosen),
                Err(failure) => match node.catches(failure) {
                    Some(to) => {
                        sender.error = Some(Caught::new(&end.task.node, failure));
                        vec![(to.clone(), Some(format!("on_error: {}", failure.kind.name())))]
                    }
                    None => {
                        unhandled.get_or_insert((end.task.node.clone(), failure.clone()));
                        Vec::new()
                    }
                },
            };
            if let (Some(going), Ok(_)) = (&end.going, &end.outcome) {
                let mut usage = end.usage;
                usage += end.task.held.unwrap_or_default();
                let held = Held { task: end.task.id.clone(), going: going.clone(), usage };
                next.tokens.push(Token {
                    at: end.task.node.clone(),
                    from: end.task.from.clone(),
                    open: end.task.open.clone(),
                    error: end.task.error.clone(),
                    held: Some(Box::new(held)),
                });
            }
            let status = if end.outcome.is_ok() { NodeStatus::Completed } else { NodeStatus::Failed };
            if end.outcome.is_err() {
                end.going = None;
            }
            end.tell(status, &mut told);
            told.edges.extend(sender.send(level.plan, chosen, &mut next.tokens));
        }
        if let Some((node, failure)) = unhandled {
            let failed = |(_, body): &(Place, Body)| {
                matches!(body, Body::NodeFinished { status: NodeStatus::Failed, .. })
            };
            let events = told.events.into_iter().filter(failed).collect();
            return Err(Dropped::Failed { node, failure, events });
        }
        settle(&mut next.tokens);
        Ok(Framed { state, delta, frontier: next, told })
    }

    /// Takes the results of tasks.
    fn ends(&mut self, level: &Level<'a>, tasks: Vec<Task>, next: &mut Frontier) -> Vec<End> {
        tasks.into_iter().map(|task| self.end(level, task, next)).collect()
    }

    fn end(&mut self, level: &Level<'a>, mut task: Task, next: &mut Frontier) -> End {
        let before = self.usage;
        let doing = std::mem::replace(&mut task.doing, super::Doing::Late);
        let place = level.place(&task.node, &task.id);
        let mut end = End {
            place,
            outcome: Ok(Vec::new()),
            done: false,
            cut: false,
            late: false,
            going: None,
            usage: Usage::default(),
            model: None,
            cached: false,
            chosen: Vec::new(),
            told: Told::default(),
            task,
        };
        let plan: &'a Plan = level.plan;
        let Some(node) = plan.nodes.get(&end.task.node) else {
            end.outcome = Err(Failure::new(ErrorKind::Failed, "the plan has no such node"));
            return end;
        };
        let mut part = Part::new(level, &node.job, end.place.clone());
        let came = self.part(&mut part, doing);
        (end.place, end.model, end.cached) = (part.place, part.model, part.cached);
        end.usage = self.usage.since(before);
        if !matches!(came, Came::Still(..)) {
            end.usage += end.task.held.unwrap_or_default();
        }
        // A visit that failed is a visit: else a loop through a handler had no end.
        if node.max_visits.is_some() && end.task.held.is_none() && !matches!(came, Came::Cut) {
            *next.visits.entry(end.task.node.clone()).or_default() += 1;
        }
        match came {
            Came::Done { result, writes, kept, told } => {
                end.done = true;
                end.told = told;
                if let Some(kept) = kept {
                    next.kept.insert(end.task.node.clone(), kept);
                }
                end.outcome = self.sent(level, node, &mut end, result, writes);
            }
            Came::Failed(failure) => {
                end.done = true;
                end.outcome = Err(failure);
            }
            Came::Late => (end.done, end.late) = (true, true),
            Came::Still(going, told) => {
                end.outcome = Ok(said(level, &told));
                (end.going, end.told) = (Some(going), told);
            }
            Came::Cut => end.cut = true,
        }
        end
    }

    fn scope(&self, level: &Level<'_>, state: &State, task: &Task) -> Scope {
        let scope = node::scope(state, &level.input, self.world.facts, 1);
        match &task.error {
            Some(error) => scope.json("error", Arc::new(error.to_json())),
            None => scope,
        }
    }

    /// Returns what a task that is done writes, and adds the events of its own.
    fn sent(
        &self,
        level: &Level<'_>,
        node: &PlanNode,
        end: &mut End,
        result: Json,
        own: Vec<Write>,
    ) -> Result<Vec<Write>, Failure> {
        let result = Arc::new(result);
        let scope = || self.scope(level, &level.state, &end.task).json("result", Arc::clone(&result));
        let mut writes = said(level, &end.told);
        writes.extend(own);
        writes.extend(node.into.writes(&result, scope)?);
        if !node.emit.is_empty() {
            let scope = scope();
            for (name, tree) in &node.emit {
                let body = Body::Custom { name: name.clone(), data: tree.eval(&scope)? };
                end.told.events.push((end.place.clone(), body));
            }
        }
        Ok(writes)
    }

    /// Chooses the edges of a task that is done.
    fn choose(&self, level: &Level<'_>, end: &mut End) {
        let Some(node) = level.plan.nodes.get(&end.task.node).filter(|_| end.done) else { return };
        let Ok(writes) = &end.outcome else { return };
        if end.late {
            end.chosen =
                node.on_timeout().map(|to| (to.clone(), Some("on_timeout".into()))).into_iter().collect();
            return;
        }
        // A node's edges see its own writes, not those of its siblings.
        let own = overlay(&level.plan.channels, &level.state, &end.task.id, writes);
        let chosen = own
            .map_err(|error| failed_merge(&error))
            .and_then(|own| choose(&node.next, &self.scope(level, &own, &end.task)));
        match chosen {
            Ok(chosen) => end.chosen = chosen,
            Err(failure) => end.outcome = Err(failure),
        }
    }
}

/// Returns the writes that carry what was said to the conversation.
fn said(level: &Level<'_>, told: &Told) -> Vec<Write> {
    let Some(channel) = &level.plan.messages else { return Vec::new() };
    told.said.iter().map(|turn| Write::Put { channel: channel.clone(), value: turn.clone() }).collect()
}

/// Folds what the tasks wrote. A task whose writes do not join those before it fails.
fn fold(plan: &Plan, state: &State, ends: &mut [End]) -> (State, Delta) {
    loop {
        let ranks: Vec<usize> = (0..ends.len()).filter(|&r| ends[r].outcome.is_ok()).collect();
        let joined = |ranks: &[usize]| join(plan, state, ends, ranks);
        let error = match joined(&ranks) {
            Ok(folded) => return folded,
            Err(error) => error,
        };
        let first = (1..ranks.len()).find_map(|n| joined(&ranks[..n]).err().map(|error| (n - 1, error)));
        match first.or_else(|| ranks.len().checked_sub(1).map(|last| (last, error))) {
            Some((at, error)) => ends[ranks[at]].outcome = Err(failed_merge(&error)),
            // Nothing is left that could be at fault.
            None => return (state.clone(), Delta::new()),
        }
    }
}

/// Folds the writes of some tasks. Handlers of several failures may write one channel: the last one's value stays, so
/// that of the others nothing is left to meet it.
fn join(plan: &Plan, state: &State, ends: &[End], ranks: &[usize]) -> Result<(State, Delta), MergeError> {
    let replaces = |write: &'_ Write| match write {
        Write::Put { channel, .. } => {
            plan.channels.get(channel).is_some_and(|channel| channel.merge == Merge::Replace)
        }
        Write::Clear { .. } => false,
    };
    let handles = |rank: usize| plan.is_handler(&ends[rank].task.node);
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for &rank in ranks.iter().filter(|&&rank| handles(rank)) {
        for write in ends[rank].outcome.iter().flatten().filter(|write| replaces(write)) {
            last.insert(write.channel(), rank);
        }
    }
    let tasks = ranks.iter().map(|&rank| {
        let yields = handles(rank);
        let last = &last;
        let stays =
            move |write: &&Write| !yields || last.get(write.channel()).is_none_or(|&stays| stays == rank);
        (&ends[rank].task.id, ends[rank].outcome.iter().flatten().filter(stays))
    });
    fold_writes(&plan.channels, state, tasks)
}
