//! What the rules of joins say (`design.md` §3, `language.md` §4 to §6), plainly: one task after another, nothing shared
//! with the engine.

mod joins;
mod state;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::graph::{Graph, Program, To};
use state::choose;

/// The most supersteps and tasks of a run that is worth a look.
const MOST_STEPS: u64 = 120;
const MOST_TASKS: usize = 400;

/// What a run does, superstep by superstep.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Told {
    /// The state, the live branches and the visits after each superstep; the first is before any.
    pub(super) barriers: Vec<Barrier>,
    /// The nodes that began in each superstep, with the nodes that called their graph.
    pub(super) begun: Vec<(u64, String)>,
    /// The prompts of all calls of the model, sorted.
    pub(super) calls: Vec<String>,
    /// The questions that were open at each pause, sorted.
    pub(super) asked: Vec<Vec<String>>,
    /// Nothing: it completed; else the node and the code of the error.
    pub(super) failed: Option<(String, String)>,
    /// How often a channel without a value was read.
    pub(super) unset: usize,
    /// How often two writers met in a `replace` channel.
    pub(super) conflicts: usize,
}

#[derive(Debug, PartialEq)]
pub(super) struct Barrier {
    pub(super) state: BTreeMap<String, Json>,
    /// `node`, or `node+` in the middle of its work, with the fan-outs that it shares: superstep and node.
    pub(super) tokens: Vec<String>,
    pub(super) visits: BTreeMap<String, u64>,
}

/// A fan-out: superstep, rank of the task, its node; none: the start.
type Activation = (u64, usize, Option<usize>);

/// What tasks of one node are ordered by: the node that sent them, the superstep, and the rank of its task there.
type Sender = (String, u64, usize);

#[derive(Debug, Clone)]
struct Error {
    node: String,
    kind: String,
    /// Wider kinds.
    groups: &'static [&'static str],
    message: String,
}

#[derive(Debug, Clone)]
struct Token {
    at: usize,
    by: Sender,
    open: BTreeSet<Activation>,
    error: Option<Error>,
    held: Option<Work>,
}

#[derive(Debug, Clone)]
enum Work {
    Asked(String, bool),
    Child(Box<Level>),
    Items(Vec<Item>),
    Rounds(Rounds),
}

/// How far a model is with its tools.
#[derive(Debug, Clone, Default)]
struct Rounds {
    number: u64,
    /// What the calls of earlier rounds came to.
    heard: Vec<String>,
    calls: Vec<Called>,
}

#[derive(Debug, Clone)]
enum Called {
    Due(i64),
    Going(Box<Level>),
    Over(String),
}

#[derive(Debug, Clone)]
enum Item {
    Done(Json),
    Skipped,
    Going(Box<Level>),
}

#[derive(Debug, Clone, Default)]
struct State {
    cells: BTreeMap<String, Json>,
    /// `once` was written.
    once: bool,
}

/// A graph that runs.
#[derive(Debug, Clone)]
struct Level {
    called: bool,
    path: String,
    input: i64,
    state: State,
    tokens: Vec<Token>,
    visits: BTreeMap<usize, u64>,
    kept: BTreeMap<usize, State>,
}

struct Task {
    at: usize,
    by: Sender,
    open: BTreeSet<Activation>,
    error: Option<Error>,
    held: Option<Work>,
    /// The branches that meet in it.
    arrivals: Vec<Token>,
}

#[derive(Default)]
struct Writes {
    clears: Vec<String>,
    puts: Vec<(String, Json)>,
}

enum Came {
    Done(Writes, Option<State>),
    Failed(Error),
    Still(Work),
    /// Nothing happened: it waits for a person.
    Waits(Work),
}

/// How far a called graph came.
enum Child {
    Waits(Box<Level>),
    On(Box<Level>),
    /// Its last state, and what it gives.
    Over(State, Json),
    Failed(Error),
}

enum Stepped {
    Moved,
    Waits,
    Failed(Error),
    /// There was nothing left to do.
    Over,
}

struct World<'a> {
    program: &'a Program,
    told: Told,
    number: u64,
    tasks: usize,
    /// What the model said to the prompts of nodes that keep it, by graph and prompt.
    cache: BTreeMap<(bool, String), String>,
    /// The same of the superstep that is not over.
    fresh: Vec<((bool, String), String)>,
}

/// Runs a program; nothing when it does too much.
pub(super) fn run(program: &Program) -> Option<Told> {
    let (cache, fresh) = (BTreeMap::new(), Vec::new());
    let mut world = World { program, told: Told::default(), number: 0, tasks: 0, cache, fresh };
    let mut level = world.level(false, 1, String::new(), State::start(false));
    level.state.put("messages", json!("user: hi"));
    world.told.barriers.push(level.barrier(&program.root));
    loop {
        if world.number >= MOST_STEPS || world.tasks > MOST_TASKS {
            return None;
        }
        world.number += 1;
        match world.step(&mut level) {
            Stepped::Moved => {
                world.cache.extend(world.fresh.drain(..));
                world.told.barriers.push(level.barrier(&program.root));
            }
            Stepped::Waits => {
                world.number -= 1;
                let mut asked = Vec::new();
                level.answer(&mut asked);
                assert!(!asked.is_empty(), "it waits for nobody");
                asked.sort();
                world.told.asked.push(asked);
                continue;
            }
            Stepped::Failed(error) => {
                world.told.failed = Some((error.node, error.kind));
                break;
            }
            Stepped::Over => break,
        }
        if level.tokens.is_empty() {
            break;
        }
    }
    if let Some((_, kind)) = &mut world.told.failed
        && kind == "failed"
    {
        // The code of every node that fails.
        *kind = "boom".into();
    }
    world.told.calls.sort();
    world.told.begun.sort();
    Some(world.told)
}

impl Level {
    fn barrier(&self, graph: &Graph) -> Barrier {
        let name = |at: usize| graph.nodes[at].name.clone();
        let token = |token: &Token| {
            let from = |(step, _, node): &Activation| {
                format!("{step}:{}", node.map_or_else(|| "start".to_owned(), name))
            };
            let mut open: Vec<String> = token.open.iter().map(from).collect();
            open.sort();
            let held = if token.held.is_some() { "+" } else { "" };
            format!("{}{held} {}", name(token.at), open.join(" "))
        };
        let mut tokens: Vec<String> = self.tokens.iter().map(token).collect();
        tokens.sort();
        let visits = self.visits.iter().map(|(at, n)| (name(*at), *n)).collect();
        Barrier { state: self.state.cells.clone(), tokens, visits }
    }

    /// Answers all that is asked.
    fn answer(&mut self, asked: &mut Vec<String>) {
        for work in self.tokens.iter_mut().filter_map(|token| token.held.as_mut()) {
            match work {
                Work::Asked(question, answered) => {
                    asked.push(question.clone());
                    *answered = true;
                }
                Work::Child(level) => level.answer(asked),
                Work::Rounds(rounds) => {
                    for call in &mut rounds.calls {
                        if let Called::Going(level) = call {
                            level.answer(asked);
                        }
                    }
                }
                Work::Items(items) => {
                    for item in items {
                        if let Item::Going(level) = item {
                            level.answer(asked);
                        }
                    }
                }
            }
        }
    }
}

impl<'a> World<'a> {
    fn graph(&self, called: bool) -> &'a Graph {
        if called { &self.program.child } else { &self.program.root }
    }

    /// Begins a graph: takes the edges of its start.
    fn level(&mut self, called: bool, input: i64, path: String, state: State) -> Level {
        let graph = self.graph(called);
        let mut level = Level {
            called,
            path,
            input,
            state,
            tokens: Vec::new(),
            visits: BTreeMap::new(),
            kept: BTreeMap::new(),
        };
        let chosen = choose(&graph.start, graph, &level.state, input);
        let by = ("start".to_owned(), 0, 0);
        level.send(chosen, &by, &BTreeSet::new(), None, (0, 0, None));
        level.settle();
        level
    }

    fn step(&mut self, level: &mut Level) -> Stepped {
        let graph = self.graph(level.called);
        let (before, told) = (level.clone(), self.told.begun.len());
        let (tasks, waiting) = loop {
            let (tasks, waiting) = level.ready(graph);
            let mut coming: BTreeMap<usize, u64> = BTreeMap::new();
            let mut spent = |task: &Task| {
                let (most, _) = graph.nodes[task.at].bound.filter(|_| task.held.is_none())?;
                let now = coming.entry(task.at).or_default();
                *now += 1;
                let visits = level.visits.get(&task.at).copied().unwrap_or(0) + *now;
                graph.nodes[task.at].bound.map(|(_, to)| to).filter(|_| visits > most)
            };
            let spent: Vec<Option<To>> = tasks.iter().map(&mut spent).collect();
            if spent.iter().all(Option::is_none) {
                break (tasks, waiting);
            }
            // At no cost of a superstep: those go on, and all is looked at again.
            level.tokens = waiting;
            for (rank, (task, spent)) in tasks.into_iter().zip(spent).enumerate() {
                match spent {
                    None => level.tokens.extend(task.arrivals),
                    Some(None) => {}
                    Some(Some(at)) => {
                        let by = (graph.nodes[task.at].name.clone(), self.number, rank);
                        level.tokens.push(Token { at, by, open: task.open, error: task.error, held: None });
                    }
                }
            }
            level.settle();
        };
        if tasks.is_empty() {
            assert!(waiting.is_empty(), "a join starves");
            level.tokens = Vec::new();
            return Stepped::Over;
        }
        let mut came = Vec::new();
        for task in &tasks {
            came.push(self.task(graph, level, task));
        }
        if came.iter().all(|came| matches!(came, Came::Waits(_))) {
            *level = before;
            self.told.begun.truncate(told);
            return Stepped::Waits;
        }
        // Two writers of a `replace` channel: the later one fails. Handlers yield to the last of them.
        for channel in ["last", "note"] {
            let mut before: Vec<bool> = Vec::new();
            for (task, came) in tasks.iter().zip(&mut came) {
                if !matches!(came, Came::Done(writes, _) if writes.has(channel)) {
                    continue;
                }
                let handles = graph.nodes[task.at].handles;
                if before.is_empty() || handles && before.iter().all(|handles| *handles) {
                    before.push(handles);
                    continue;
                }
                self.told.conflicts += 1;
                let message = format!("two writes to `{channel}` in one superstep");
                *came =
                    Came::Failed(Error { node: String::new(), kind: "merge".into(), groups: &[], message });
            }
        }
        let mut moved = Moved { writes: Vec::new(), tokens: waiting, failed: None };
        level.tokens = Vec::new();
        for (rank, (task, came)) in tasks.into_iter().zip(came).enumerate() {
            if task.held.is_none() && graph.nodes[task.at].bound.is_some() {
                *level.visits.entry(task.at).or_default() += 1;
            }
            self.end(graph, level, &mut moved, rank, task, came);
        }
        if let Some(error) = moved.failed {
            *level = before;
            return Stepped::Failed(error);
        }
        level.state = level.state.fold(moved.writes.iter());
        level.tokens.extend(moved.tokens);
        level.settle();
        Stepped::Moved
    }

    fn end(
        &mut self,
        graph: &Graph,
        level: &mut Level,
        moved: &mut Moved,
        rank: usize,
        task: Task,
        came: Came,
    ) {
        let node = &graph.nodes[task.at];
        let by = (node.name.clone(), self.number, rank);
        let activation = (self.number, rank, Some(task.at));
        match came {
            Came::Still(work) | Came::Waits(work) => {
                moved.tokens.push(Token {
                    at: task.at,
                    by: task.by,
                    open: task.open,
                    error: task.error,
                    held: Some(work),
                });
            }
            Came::Done(writes, kept) => {
                if let Some(kept) = kept {
                    level.kept.insert(task.at, kept);
                }
                let own = level.state.fold([&writes].into_iter());
                let chosen = choose(&node.next, graph, &own, level.input);
                level.send(chosen, &by, &task.open, task.error.as_ref(), activation);
                moved.writes.push(writes);
            }
            Came::Failed(error) => {
                let fits = |kind: Option<&str>| {
                    kind.is_none_or(|kind| {
                        kind == "any" || error.kind == kind || error.groups.contains(&kind)
                    })
                };
                let own = node.catches.iter().find(|(kind, _)| fits(*kind)).map(|(_, to)| *to);
                let of_graph = graph.on_error.filter(|_| graph.covered[task.at]).map(Some);
                let error = Error { node: node.name.clone(), ..error };
                match own.or(of_graph) {
                    Some(to) => level.send(vec![to], &by, &task.open, Some(&error), activation),
                    None => drop(moved.failed.get_or_insert(error)),
                }
            }
        }
    }
}

struct Moved {
    writes: Vec<Writes>,
    tokens: Vec<Token>,
    failed: Option<Error>,
}

impl Writes {
    fn has(&self, channel: &str) -> bool {
        self.puts.iter().any(|(name, _)| name == channel)
    }
}

impl Level {
    fn send(
        &mut self,
        chosen: Vec<To>,
        by: &Sender,
        open: &BTreeSet<Activation>,
        error: Option<&Error>,
        activation: Activation,
    ) {
        let mut open = open.clone();
        if chosen.len() > 1 {
            open.insert(activation);
        }
        for at in chosen.into_iter().flatten() {
            self.tokens.push(Token {
                at,
                by: by.clone(),
                open: open.clone(),
                error: error.cloned(),
                held: None,
            });
        }
    }
}
