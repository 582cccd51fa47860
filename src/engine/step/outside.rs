//! What is done to a run from outside: its state is changed in the name of a node, or another run goes on from it.
//!
//! Invariant: pure. What another run goes on with has ids of its own, so that nothing it asks or calls is taken for what
//! the first one asked or called.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value as Json};

use super::edges::{Sender, choose};
use super::held::{Called, Frame, Going, ItemStage, Open, Question, Stage};
use super::join::settle;
use super::{Frontier, Granted, Taken};
use crate::diagnostic::suggest;
use crate::event::{Interrupt, Usage};
use crate::id::{InterruptId, RunId, TaskId};
use crate::node::{self, RunFacts};
use crate::plan::{END, Job, Plan, START, Work};
use crate::state::{Delta, MergeError, Mismatch, State, Write, fold};

/// A change of the state in the name of a node.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What is written, by channel.
    pub values: &'a Map<String, Json>,
    /// The node that it is written as, `start` or `end`.
    pub node: &'a str,
    /// The paused graph that it is of, by the nodes that called it: `name`, or `name[ITEM]`.
    pub path: &'a [String],
    /// Channels that are private may be written, too.
    pub private: bool,
}

/// What a change made.
#[derive(Debug)]
pub struct Changed {
    /// The state of the run.
    pub state: State,
    /// What changed in it.
    pub delta: Delta,
    /// What runs next.
    pub frontier: Frontier,
    /// The edges that were taken.
    pub edges: Vec<Taken>,
}

/// A called graph that is in the middle of its work.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let desk = "
/// format: 1
/// state: {messages: messages}
/// start: lookup
/// nodes:
///   lookup: {kind: graph, use: inner, next: end}
/// ";
/// let inner = "
/// format: 1
/// state: {messages: messages}
/// start: sure
/// nodes:
///   sure: {kind: ask, question: Sure?, next: end}
/// ";
/// let app = graphloom::App::builder().file("desk.yaml", desk).file("inner.yaml", inner).build().await?;
/// let thread = app.thread("acme", "ada", "desk")?;
/// thread.start("desk", "Delete it").await?.finish().await?;
/// let view = thread.view().await?.expect("it was talked in");
/// let child = &view.children[0];
/// assert_eq!((&child.path[..], &child.next[..]), (&["lookup".to_owned()][..], &["sure".to_owned()][..]));
/// assert_eq!(child.open[0].question, "Sure?");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Child {
    /// The nodes that called it, as an [update](crate::Update::path) names them.
    pub path: Vec<String>,
    /// The index within the innermost `map` around it.
    pub item: Option<u64>,
    /// Its public state.
    pub state: Json,
    /// The nodes that run next in it.
    pub next: Vec<String>,
    /// The questions that are open in it.
    pub open: Vec<Interrupt>,
}

/// Changes the state of a run, or of a graph that is called in it, at its last barrier. The edges of the node, on the state
/// after the change, make the whole new frontier of that graph.
pub fn change(
    root: &Plan,
    (state, frontier): (&State, &Frontier),
    input: &Arc<Json>,
    facts: &RunFacts,
    change: Change<'_>,
) -> Result<Changed, Vec<Mismatch>> {
    let mut frontier = Frontier { usage: Usage::default(), granted: Granted::default(), ..frontier.clone() };
    let (mut state, mut delta, mut edges) = (state.clone(), Delta::new(), Vec::new());
    if change.path.is_empty() {
        (delta, edges) = changed(root, &mut state, &mut frontier, input, facts, change)?;
    } else {
        let frame = find(root, &mut frontier, change.path)?;
        let Some(plan) = root.children.get(&frame.graph) else { return Err(vec![nothing_paused()]) };
        let input = Arc::clone(&frame.input);
        changed(plan, &mut frame.state, &mut frame.frontier, &input, facts, change)?;
        (frame.failed, frame.since, frame.done) = (0, None, Arc::default());
    }
    Ok(Changed { state, delta, frontier, edges })
}

fn changed(
    plan: &Plan,
    state: &mut State,
    frontier: &mut Frontier,
    input: &Arc<Json>,
    facts: &RunFacts,
    change: Change<'_>,
) -> Result<(Delta, Vec<Taken>), Vec<Mismatch>> {
    let task = TaskId::derive(facts.id, 0, change.node, 0);
    let mut wrong = Vec::new();
    let mut writes = Vec::new();
    for (name, value) in change.values {
        let channel = plan.channels.get(name).filter(|channel| change.private || !channel.private);
        if channel.is_none() {
            wrong.push(
                Mismatch::here(unknown_channel(plan, name, change.private)).within(name).within("values"),
            );
            continue;
        }
        let write = vec![Write::Put { channel: name.clone(), value: value.clone() }];
        if let Err(error) = fold(&plan.channels, state, &[(task.clone(), write.clone())]) {
            wrong.push(misfit(error).within(name).within("values"));
        }
        writes.extend(write);
    }
    let next = match plan.nodes.get(change.node) {
        Some(node) if node.fails() => {
            wrong.push(as_node("a `fail` node ends its run, and no edge leads on from it"));
            None
        }
        Some(node) => Some(&node.next),
        None if change.node == START => Some(&plan.start),
        None if change.node == END => None,
        None => {
            wrong.push(as_node(unknown_node(plan, change.node)));
            None
        }
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let folded = fold(&plan.channels, state, &[(task, writes)]);
    let (after, delta) = folded.map_err(|error| vec![misfit(error).within("values")])?;
    let chosen = match next {
        Some(next) => choose(next, &node::scope(&after, input, facts, 1))
            .map_err(|failure| vec![as_node(format!("its edges cannot be taken: {}", failure.message))])?,
        None => Vec::new(),
    };
    frontier.tokens.clear();
    if change.node == START {
        frontier.visits = BTreeMap::new();
    }
    let open = std::collections::BTreeSet::new();
    let sender = Sender::of(change.node, (facts.step, 0), &open);
    let edges = sender.send(plan, chosen, &mut frontier.tokens);
    settle(&mut frontier.tokens);
    *state = after;
    Ok((delta, edges))
}

fn as_node(why: impl Into<String>) -> Mismatch {
    Mismatch::here(why).within("as_node")
}

/// Says why a value cannot be written, and where in it.
fn misfit(error: MergeError) -> Mismatch {
    match error {
        MergeError::Type { why, .. } => why,
        other => Mismatch::here(other.to_string()),
    }
}

fn meant<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match suggest(name, known.clone()) {
        Some(meant) => format!("there is no {what} `{name}`; did you mean `{meant}`?"),
        None => format!("there is no {what} `{name}`; there are: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

fn unknown_channel(plan: &Plan, name: &str, private: bool) -> String {
    let known = plan.channels.iter().filter(|(_, channel)| private || !channel.private);
    meant("channel", name, known.map(|(name, _)| name.as_str()))
}

fn unknown_node(plan: &Plan, name: &str) -> String {
    meant("node", name, [START, END].into_iter().chain(plan.nodes.keys().map(String::as_str)))
}

fn nothing_paused() -> Mismatch {
    Mismatch::here("no graph is paused there; `GET …/state` lists those that are, as `children`")
        .within("path")
}

/// Finds a paused graph.
fn find<'f>(
    root: &Plan,
    frontier: &'f mut Frontier,
    path: &[String],
) -> Result<&'f mut Frame, Vec<Mismatch>> {
    let Some((first, rest)) = path.split_first() else { return Err(vec![nothing_paused()]) };
    let (name, key) = match first.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((name, key)) => (name, Some(key)),
        None => (first.as_str(), None),
    };
    let mut found = Vec::new();
    for token in frontier.tokens.iter_mut().filter(|token| token.at == name) {
        if let Some(held) = &mut token.held {
            frames(&mut held.going, None, &mut found);
        }
    }
    found.retain(|(of, _)| key.is_none_or(|key| of.as_deref() == Some(key)));
    let several = found.len() > 1;
    let Some((_, frame)) = found.pop() else { return Err(vec![nothing_paused()]) };
    if several {
        let why = format!("several graphs are paused at `{name}`; say which by `{name}[…]`");
        return Err(vec![Mismatch::here(why).within("path")]);
    }
    match rest {
        [] => Ok(frame),
        rest if root.children.contains_key(&frame.graph) => find(root, &mut frame.frontier, rest),
        _ => Err(vec![nothing_paused()]),
    }
}

/// Collects the graphs of a task, each with the item that it is of, or the call.
fn frames<'f>(going: &'f mut Going, key: Option<String>, found: &mut Vec<(Option<String>, &'f mut Frame)>) {
    match going {
        Going::ToCache(_, going) => frames(going, key, found),
        Going::Graph(frame) => found.push((key, frame)),
        Going::Tool(called) => {
            if let Stage::Graph(frame) = &mut called.stage {
                found.push((key, frame));
            }
        }
        Going::Calls { calls, .. } => {
            for called in calls {
                if let Stage::Graph(frame) = &mut called.stage {
                    found.push((Some(called.id.clone()), frame));
                }
            }
        }
        Going::Map(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                if let ItemStage::Going(going) = &mut item.stage {
                    frames(going, Some(index.to_string()), found);
                }
            }
        }
        Going::Question(_) => {}
    }
}

impl Frontier {
    /// Returns the called graphs that are in the middle of their work, outer ones first.
    pub fn children(&self, root: &Plan) -> Vec<Child> {
        let mut children = Vec::new();
        // The walk is that of a change, which needs its own to change.
        self.clone().collect(root, root, &[], &[], None, &mut children);
        children
    }

    fn collect(
        &mut self,
        root: &Plan,
        plan: &Plan,
        path: &[String],
        names: &[String],
        item: Option<u64>,
        children: &mut Vec<Child>,
    ) {
        for token in &mut self.tokens {
            let Some(held) = &mut token.held else { continue };
            let is_map = plan.nodes.get(&token.at).is_some_and(|node| matches!(node.job.work, Work::Map(_)));
            let mut found = Vec::new();
            frames(&mut held.going, None, &mut found);
            for (key, frame) in found {
                let Some(child) = root.children.get(&frame.graph) else { continue };
                let segment = match &key {
                    Some(key) => format!("{}[{key}]", token.at),
                    None => token.at.clone(),
                };
                let item = key.filter(|_| is_map).and_then(|key| key.parse().ok()).or(item);
                let path: Vec<String> = path.iter().cloned().chain([segment]).collect();
                let names: Vec<String> = names.iter().cloned().chain([token.at.clone()]).collect();
                let mut next: Vec<String> = frame.frontier.tokens.iter().map(|t| t.at.clone()).collect();
                next.dedup();
                children.push(Child {
                    path: path.clone(),
                    item,
                    state: frame.state.public(&child.channels),
                    next,
                    open: frame
                        .frontier
                        .open_in(root, child, &names, item)
                        .iter()
                        .map(Open::interrupt)
                        .collect(),
                });
                frame.frontier.collect(root, child, &path, &names, item, children);
            }
        }
    }

    /// Gives what is in the middle of its work to another run. What is asked has its time anew, and a called graph that was
    /// tried again does so from its last barrier.
    pub fn renew(&mut self, root: &Plan, run: RunId, now: DateTime<Utc>) {
        Renew { root, run, now }.frontier(root, self);
    }
}

struct Renew<'a> {
    root: &'a Plan,
    run: RunId,
    now: DateTime<Utc>,
}

impl Renew<'_> {
    fn task(&self, task: &mut TaskId) {
        *task = TaskId::derive(self.run, 0, &task.0, 0);
    }

    fn frontier(&self, plan: &Plan, frontier: &mut Frontier) {
        for token in &mut frontier.tokens {
            let Some((held, node)) = token.held.as_mut().zip(plan.nodes.get(&token.at)) else { continue };
            self.task(&mut held.task);
            held.usage = Usage::default();
            self.going(&node.job, &held.task, &mut held.going);
        }
    }

    fn going(&self, job: &Job, task: &TaskId, going: &mut Going) {
        match going {
            // What was changed by hand is nothing to be found by others.
            Going::ToCache(_, inner) => {
                *going = Going::clone(inner);
                self.going(job, task, going);
            }
            Going::Question(question) => {
                let time = match &job.work {
                    Work::Ask(ask) => ask.timeout.as_ref().map(|(time, _)| *time),
                    _ => None,
                };
                let time = time.and_then(|time| TimeDelta::from_std(time).ok());
                let expires_at = time.and_then(|time| self.now.checked_add_signed(time));
                *question = Question { id: InterruptId::of(task), expires_at, ..question.clone() };
            }
            Going::Calls { calls, .. } => calls.iter_mut().for_each(|called| self.called(called)),
            Going::Tool(called) => self.called(called),
            Going::Graph(frame) => self.frame(frame),
            Going::Map(items) => {
                let Work::Map(each) = &job.work else { return };
                for item in items {
                    self.task(&mut item.task);
                    item.failed = 0;
                    if let ItemStage::Going(going) = &mut item.stage {
                        self.going(&each.job, &item.task, going);
                    }
                }
            }
        }
    }

    fn called(&self, called: &mut Called) {
        self.task(&mut called.task);
        match &mut called.stage {
            Stage::Asked(question) => question.id = InterruptId::of(&called.task),
            Stage::Graph(frame) => self.frame(frame),
            Stage::Due | Stage::Settled(_) => {}
        }
    }

    fn frame(&self, frame: &mut Frame) {
        (frame.failed, frame.since, frame.done) = (0, None, Arc::default());
        if let Some(plan) = self.root.children.get(&frame.graph) {
            self.frontier(plan, &mut frame.frontier);
        }
    }
}

/// Returns a node that a frontier goes on with and that a plan does not have.
pub fn missing<'f>(plan: &Plan, frontier: &'f Frontier) -> Option<&'f str> {
    frontier.tokens.iter().map(|token| token.at.as_str()).find(|at| !plan.nodes.contains_key(*at))
}
