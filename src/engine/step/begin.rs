//! What the tasks of a superstep do: which calls are made, in which of the graphs.
//!
//! Invariant: pure, and the leaves stand in the order in which the barrier takes their results.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use super::cache::{Found, to_cache};
use super::held::{Called, Frame, Going, Item, ItemStage, Question, Replies, Reply};
use super::{Frontier, Step, Worked, choose_start, plan_tokens};
use crate::event::{Body, Scope as Place};
use crate::expr::Scope;
use crate::failure::{Caught, ErrorKind, Failure};
use crate::id::{CacheKey, InterruptId, RunId, TaskId};
use crate::node::{self, Back, Node, RunFacts};
use crate::plan::{Ask, Each, GraphCall, Job, MOST_CALLS, Plan, ToolPlan, Work};
use crate::state::State;

/// The most items of a list that a `map` works on.
pub(super) const MAX_ITEMS: usize = 10_000;

/// What every graph of a run has in common.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The graph of the run, which knows those that are called.
    pub root: &'a Plan,
    /// The run.
    pub facts: &'a RunFacts,
    /// What people said.
    pub replies: &'a Replies,
    /// What was found of the results that were looked for.
    pub found: &'a Found,
    /// The number of the superstep.
    pub number: u64,
}

/// Names that only a part of a graph has.
pub type Locals = Arc<[(String, Arc<Json>)]>;

/// The tasks around a leaf whose time is limited, each with its limit.
pub type Clocks = Arc<[(TaskId, Duration)]>;

/// One of the graphs of a run, at its last barrier.
#[derive(Clone)]
pub(super) struct Level<'a> {
    pub(super) plan: &'a Plan,
    pub(super) state: State,
    pub(super) input: Arc<Json>,
    /// The nodes that called it, outermost first.
    pub(super) path: Vec<String>,
    pub(super) item: Option<u64>,
    /// The superstep that its tasks are named by: when a called graph is tried again, the one that failed first, so that
    /// what a call is known by outside stays the same.
    pub(super) number: u64,
    /// What its leaves came to in a superstep that failed: those are not done again.
    pub(super) done: Arc<BTreeMap<TaskId, Worked>>,
    pub(super) clocks: Clocks,
}

impl<'a> Level<'a> {
    /// Makes the graph of a run.
    pub(super) fn root(world: World<'a>, state: &State, input: &Arc<Json>) -> Self {
        Self {
            plan: world.root,
            state: state.clone(),
            input: Arc::clone(input),
            path: Vec::new(),
            item: None,
            number: world.number,
            done: Arc::default(),
            clocks: Clocks::from([]),
        }
    }

    /// Makes a graph that a node of this one calls.
    pub(super) fn inner(&self, node: &str, item: Option<u64>, plan: &'a Plan, frame: &Frame) -> Self {
        let mut path = self.path.clone();
        path.push(node.to_owned());
        Self {
            plan,
            state: frame.state.clone(),
            input: Arc::clone(&frame.input),
            path,
            item,
            number: frame.since.unwrap_or(self.number),
            done: match (self.done.is_empty(), frame.done.is_empty()) {
                (_, true) => Arc::clone(&self.done),
                (true, false) => Arc::clone(&frame.done),
                (false, false) => {
                    let of = |done: &Arc<BTreeMap<TaskId, Worked>>| BTreeMap::clone(done).into_iter();
                    Arc::new(of(&frame.done).chain(of(&self.done)).collect())
                }
            },
            clocks: Arc::clone(&self.clocks),
        }
    }

    /// Returns where a task of the graph is told from.
    pub(super) fn place(&self, node: &str, task: &TaskId) -> Place {
        let (path, item) = (self.path.clone(), self.item);
        Place { node: node.to_owned(), task_id: task.clone(), attempt: 1, path, item }
    }
}

/// What a task does in a superstep.
#[derive(Debug, Clone, PartialEq)]
pub enum Doing {
    /// Nothing: it cannot begin, or not go on.
    Fails(Failure),
    /// Nothing, before a person says something.
    Waits(Going),
    /// Its node works.
    Works,
    /// It puts a question.
    Asks(Question),
    /// A question is answered.
    Answered(Question, Json),
    /// A question was not answered in time.
    Late,
    /// The calls of a node are made.
    Calls {
        /// What the node left for itself.
        memo: Json,
        /// The calls, in order.
        calls: Vec<Calling>,
    },
    /// The call of a tool.
    Tool(Calling),
    /// A superstep of another graph.
    Graph(Box<Frame>, Box<Step>),
    /// The items of a list.
    Map(Vec<(Item, Option<Doing>)>),
    /// Nothing: its result was kept.
    Cached(Arc<Json>),
    /// What comes of it is kept.
    ToCache(CacheKey, Box<Doing>),
}

/// A call of a tool in a superstep.
#[derive(Debug, Clone, PartialEq)]
pub struct Calling {
    /// The call.
    pub called: Called,
    /// What of it is done.
    pub making: Making,
}

/// What of a call is done in a superstep.
#[derive(Debug, Clone, PartialEq)]
pub enum Making {
    /// Nothing: it is over, or waits.
    Rests,
    /// A person is asked.
    Asks(Question),
    /// The call.
    Leaf,
    /// A superstep of the graph that the tool is.
    Graph(Box<Frame>, Box<Step>),
    /// Nothing: a person refused it.
    Refused(String),
    /// Nothing: it cannot be made.
    Fails(Failure),
}

/// A piece of work that awaits something.
pub struct Leaf<'a> {
    /// Where it is told from; its attempt is 1.
    pub place: Place,
    /// How often it is tried, and how long it may take.
    pub job: &'a Job,
    /// What is done.
    pub work: LeafWork,
    /// What it reads.
    pub state: State,
    /// What the graph was called with.
    pub input: Arc<Json>,
    /// The error that the branch handles.
    pub error: Option<Arc<Caught>>,
    /// The names of the `map` around it.
    pub locals: Locals,
    /// The `map` that it is an item of, and how many of its items may be worked on at once.
    pub lane: Option<(TaskId, usize)>,
    /// The tasks around it whose time is limited.
    pub clocks: Clocks,
    /// What it came to before something beside it failed.
    pub done: Option<Worked>,
}

/// The work of a leaf.
pub enum LeafWork {
    /// A node's, and what it left in an earlier round.
    Node(Arc<dyn Node>, Option<Back>),
    /// The call of a tool.
    Tool(Arc<ToolPlan>, Called),
}

/// A beginning that is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    /// Where.
    pub place: Place,
    /// What begins.
    pub what: Beginning,
}

/// What begins, or goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Beginning {
    /// A node of this kind; it may have begun before.
    Node(&'static str, bool),
    /// The call of a tool that is a graph.
    Tool(Body),
}

/// Where the ids of a graph's tasks come from.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    Run(RunId),
    Task(&'a TaskId),
}

impl Origin<'_> {
    pub(super) fn task(self, number: u64, node: &str, rank: u64) -> TaskId {
        match self {
            Self::Run(run) => TaskId::derive(run, number, node, rank),
            Self::Task(task) => task.part(number, node, rank),
        }
    }
}

/// What a task is asked to do.
pub(super) struct Due<'t> {
    pub(super) node: &'t str,
    pub(super) task: &'t TaskId,
    pub(super) error: Option<&'t Caught>,
    pub(super) held: Option<Going>,
}

/// A part of a task: the task itself, or an item of it.
pub(super) struct Part<'a, 't> {
    due: &'t Due<'t>,
    pub(super) task: TaskId,
    pub(super) job: &'a Job,
    locals: Locals,
    item: Option<u64>,
    lane: Option<(TaskId, usize)>,
    clocks: Clocks,
    /// Where the state of a called graph is, that stays with the node.
    kept: Option<super::held::Kept>,
}

impl Part<'_, '_> {
    pub(super) fn locals(&self) -> Locals {
        Arc::clone(&self.locals)
    }

    pub(super) fn error(&self) -> Option<&Caught> {
        self.due.error
    }

    /// Returns the clocks of what is done within it.
    fn inner_clocks(&self) -> Clocks {
        let limit = self.job.timeout;
        if limit == Duration::MAX || !matches!(self.job.work, Work::Graph(_) | Work::Map(_)) {
            return Arc::clone(&self.clocks);
        }
        self.clocks.iter().cloned().chain([(self.task.clone(), limit)]).collect()
    }
}

/// Plans what the tasks of a superstep do.
pub(super) struct Planner<'a> {
    pub(super) world: World<'a>,
    pub(super) leaves: Vec<Leaf<'a>>,
    pub(super) begun: Vec<Begun>,
    /// What was not looked for yet.
    pub(super) sought: BTreeSet<CacheKey>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(world: World<'a>) -> Self {
        Self { world, leaves: Vec::new(), begun: Vec::new(), sought: BTreeSet::new() }
    }

    /// Plans a task; what it begins is told.
    pub(super) fn task(&mut self, level: &Level<'a>, frontier: &Frontier, mut due: Due<'_>) -> Doing {
        let Some(node) = level.plan.nodes.get(due.node) else {
            return Doing::Fails(Failure::new(ErrorKind::Failed, "the plan has no such node"));
        };
        let held = due.held.take();
        let at = self.begun.len();
        let was_held = held.is_some();
        let part = Part {
            task: due.task.clone(),
            due: &due,
            job: &node.job,
            locals: Locals::from([]),
            item: level.item,
            lane: None,
            clocks: Arc::clone(&level.clocks),
            kept: frontier.kept.get(due.node).cloned(),
        };
        let doing = self.part(level, &part, held);
        if !matches!(doing, Doing::Waits(_)) {
            let place = level.place(due.node, due.task);
            self.begun.insert(at, Begun { place, what: Beginning::Node(node.job.kind, was_held) });
        }
        doing
    }

    pub(super) fn scope(&self, level: &Level<'_>, part: &Part<'_, '_>) -> Scope {
        let mut scope = node::scope(&level.state, &level.input, self.world.facts, 1);
        for (name, value) in &*part.locals {
            scope = scope.json(name, Arc::clone(value));
        }
        match part.due.error {
            Some(error) => scope.json("error", Arc::new(error.to_json())),
            None => scope,
        }
    }

    pub(super) fn leaf(&mut self, level: &Level<'_>, part: &Part<'a, '_>, task: &TaskId, work: LeafWork) {
        let place = Self::place(level, part, task);
        self.leaves.push(Leaf {
            place,
            job: part.job,
            work,
            state: level.state.clone(),
            input: Arc::clone(&level.input),
            error: part.due.error.cloned().map(Arc::new),
            locals: Arc::clone(&part.locals),
            lane: part.lane.clone(),
            clocks: Arc::clone(&part.clocks),
            done: level.done.get(task).cloned(),
        });
    }

    /// Returns where a part of a task is told from.
    pub(super) fn place(level: &Level<'_>, part: &Part<'_, '_>, task: &TaskId) -> Place {
        Place { item: part.item, ..level.place(part.due.node, task) }
    }

    fn part(&mut self, level: &Level<'a>, part: &Part<'a, '_>, held: Option<Going>) -> Doing {
        match (held, &part.job.cache) {
            (None, Some(cache)) => self.cached(level, part, cache),
            (Some(Going::ToCache(key, going)), _) => to_cache(key, self.work(level, part, Some(*going))),
            (held, _) => self.work(level, part, held),
        }
    }

    pub(super) fn work(&mut self, level: &Level<'a>, part: &Part<'a, '_>, held: Option<Going>) -> Doing {
        let doing = match (&part.job.work, held) {
            (Work::Node(node), None) => {
                self.leaf(level, part, &part.task, LeafWork::Node(Arc::clone(node), None));
                Ok(Doing::Works)
            }
            (Work::Node(node), Some(Going::Calls { memo, calls })) => {
                return self.calls(level, part, node, memo, calls);
            }
            (Work::Ask(ask), None) => self.ask(level, part, ask).map(Doing::Asks),
            (Work::Ask(_), Some(Going::Question(question))) => return self.answered(question),
            (Work::Tool(tool, with), None) => self.tool(level, part, tool, with),
            (Work::Tool(..), Some(Going::Tool(called))) => return self.going_tool(level, part, called),
            (Work::Graph(call), None) => self.enter(level, part, call),
            (Work::Graph(_), Some(Going::Graph(frame))) => return self.graph(level, part, &part.task, frame),
            (Work::Map(each), None) => self.map(level, part, each),
            (Work::Map(each), Some(Going::Map(items))) => return self.items(level, part, each, items),
            (_, Some(_)) => Err(Failure::new(ErrorKind::Failed, "the task cannot go on with what is stored")),
        };
        doing.unwrap_or_else(Doing::Fails)
    }

    fn ask(&self, level: &Level<'_>, part: &Part<'_, '_>, ask: &Ask) -> Result<Question, Failure> {
        let text = ask.templates.render(&ask.question, &self.scope(level, part))?;
        let expires_at = ask.timeout.as_ref().and_then(|(time, _)| {
            self.world.facts.now.checked_add_signed(chrono::TimeDelta::from_std(*time).ok()?)
        });
        Ok(Question { id: InterruptId::of(&part.task), text, expires_at })
    }

    fn answered(&self, question: Question) -> Doing {
        match self.world.replies.get(&question.id) {
            Some(Reply::Answer(value)) => Doing::Answered(question, value.clone()),
            Some(Reply::Dismissed) => Doing::Fails(dismissed()),
            None if question.expires_at.is_some_and(|at| at <= self.world.facts.now) => Doing::Late,
            None => Doing::Waits(Going::Question(question)),
        }
    }

    fn enter(&mut self, level: &Level<'a>, part: &Part<'a, '_>, call: &GraphCall) -> Result<Doing, Failure> {
        let scope = self.scope(level, part);
        let with = call
            .with
            .iter()
            .map(|(name, tree)| Ok((name.clone(), tree.eval(&scope)?)))
            .collect::<Result<serde_json::Map<_, _>, Failure>>()?;
        let kept = part.kept.clone().filter(|_| call.keeps);
        let frame = self.frame(&call.graph, Json::Object(with), kept)?;
        Ok(self.graph(level, part, &part.task, Box::new(frame)))
    }

    /// Begins a called graph: its input and its first edges.
    pub(super) fn frame(
        &self,
        graph: &str,
        mut with: Json,
        kept: Option<super::held::Kept>,
    ) -> Result<Frame, Failure> {
        let plan = self.child(graph)?;
        for (name, field) in &plan.input {
            let Json::Object(given) = &mut with else { break };
            match given.get_mut(name) {
                Some(value) => fit_field(name, &field.ty, value)?,
                None => {
                    let missing =
                        || Failure::new(ErrorKind::Schema, format!("the input `{name}` is missing"));
                    let value =
                        field.default.clone().or_else(|| field.ty.is_nullable().then_some(Json::Null));
                    given.insert(name.clone(), value.ok_or_else(missing)?);
                }
            }
        }
        let kept = kept.unwrap_or_default();
        let mut state = kept.state;
        state.begin_run(&plan.channels);
        let input = Arc::new(with);
        let mut frontier = choose_start(plan, &state, &input, self.world.facts)?.0;
        frontier.kept = kept.kept;
        Ok(Frame::new(graph, input, state, frontier))
    }

    fn child(&self, graph: &str) -> Result<&'a Plan, Failure> {
        let unknown = || Failure::new(ErrorKind::Failed, format!("the plan has no graph `{graph}`"));
        self.world.root.children.get(graph).map(|plan| &**plan).ok_or_else(unknown)
    }

    /// Plans a superstep of a called graph.
    pub(super) fn graph(
        &mut self,
        level: &Level<'a>,
        part: &Part<'a, '_>,
        task: &TaskId,
        frame: Box<Frame>,
    ) -> Doing {
        let plan = match self.child(&frame.graph) {
            Ok(_) if level.path.len() >= MOST_CALLS => {
                let message = format!("more than {MOST_CALLS} graphs call each other");
                return Doing::Fails(Failure::new(ErrorKind::Limit, message));
            }
            Ok(plan) => plan,
            Err(failure) => return Doing::Fails(failure),
        };
        let inner =
            Level { clocks: part.inner_clocks(), ..level.inner(part.due.node, part.item, plan, &frame) };
        let marks = (self.leaves.len(), self.begun.len());
        match plan_tokens(self, &inner, &frame.frontier, Origin::Task(task)) {
            Ok(step) if step.moves() || step.tasks.is_empty() => Doing::Graph(frame, Box::new(step)),
            Ok(_) => Doing::Waits(Going::Graph(frame)),
            Err(failure) => {
                self.leaves.truncate(marks.0);
                self.begun.truncate(marks.1);
                Doing::Fails(failure)
            }
        }
    }

    fn map(&mut self, level: &Level<'a>, part: &Part<'a, '_>, each: &'a Each) -> Result<Doing, Failure> {
        let list = each.over.eval(&self.scope(level, part))?;
        let Json::Array(list) = list else {
            return Err(Failure::new(ErrorKind::Schema, "`over` is not a list"));
        };
        if list.len() > MAX_ITEMS {
            let message = format!("the list has {} items, {MAX_ITEMS} at most are worked on", list.len());
            return Err(Failure::new(ErrorKind::Schema, message));
        }
        if list.is_empty() {
            return Ok(Doing::Map(Vec::new()));
        }
        let item = |(index, value)| Item {
            task: part.task.part(level.number, "item", index as u64),
            value: Arc::new(value),
            stage: ItemStage::Due,
            failed: 0,
        };
        let items = list.into_iter().enumerate().map(item).collect();
        Ok(self.items(level, part, each, items))
    }

    fn item(
        &mut self,
        level: &Level<'a>,
        part: &Part<'a, '_>,
        each: &'a Each,
        index: usize,
        item: &Item,
        held: Option<Going>,
    ) -> Doing {
        let index = index as u64;
        let inner = Part {
            due: part.due,
            task: item.task.clone(),
            job: &each.job,
            locals: locals(each, Arc::clone(&item.value), index),
            item: Some(index),
            lane: each.at_once.map(|most| (part.task.clone(), most)),
            clocks: part.inner_clocks(),
            kept: None,
        };
        self.part(level, &inner, held)
    }

    fn items(&mut self, level: &Level<'a>, part: &Part<'a, '_>, each: &'a Each, items: Vec<Item>) -> Doing {
        let mut moves = false;
        let mut doing = Vec::with_capacity(items.len());
        // Other work is over with its superstep, where a lane bounds it; a graph takes several.
        let most = each.at_once.filter(|_| matches!(each.job.work, Work::Graph(_))).unwrap_or(usize::MAX);
        let going = items.iter().filter(|item| matches!(item.stage, ItemStage::Going(_))).count();
        let mut room = most.max(1).saturating_sub(going);
        for (index, item) in items.into_iter().enumerate() {
            let held = match &item.stage {
                ItemStage::Going(going) => Some(going.clone()),
                ItemStage::Due if room > 0 => {
                    room -= 1;
                    None
                }
                ItemStage::Due | ItemStage::Done(_) | ItemStage::Skipped => {
                    doing.push((item, None));
                    continue;
                }
            };
            let next = self.item(level, part, each, index, &item, held);
            moves |= !matches!(next, Doing::Waits(_));
            doing.push((item, Some(next)));
        }
        if moves {
            return Doing::Map(doing);
        }
        Doing::Waits(Going::Map(doing.into_iter().map(|(item, _)| item).collect()))
    }
}

/// Returns the names that are there for an item.
pub(super) fn locals(each: &Each, item: Arc<Json>, index: u64) -> Locals {
    Locals::from([(each.name.clone(), item), ("index".to_owned(), Arc::new(Json::from(index)))])
}

pub(super) fn dismissed() -> Failure {
    Failure::new(ErrorKind::Dismissed, "the question was cancelled")
}

/// Checks arguments against their type, and fills in what was left out.
pub(super) fn fit(ty: &crate::state::Type, args: &mut Json) -> Result<(), Failure> {
    ty.check(args)
        .map_err(|why| Failure::new(ErrorKind::Schema, format!("the arguments do not fit: {why}")))?;
    ty.fill(args);
    Ok(())
}

fn fit_field(name: &str, ty: &crate::state::Type, value: &mut Json) -> Result<(), Failure> {
    ty.check(value).map_err(|why| Failure::new(ErrorKind::Schema, format!("input `{name}`: {why}")))?;
    ty.fill(value);
    Ok(())
}
