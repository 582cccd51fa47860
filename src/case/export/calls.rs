//! Goes through a superstep that was planned again, and finds what each of its calls got.
//!
//! Invariant: the leaves of the plan are taken in its order, also where nothing is made of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::errors::{Failing, errors};
use super::heard::{Fault, Heard};
use super::into::{After, Barrier, Found, Lost, Parts, Read, may_be_shown, told_by_output};
use super::script::{Answer, Entry, FILL, Script};
use crate::engine::step::{Doing, Frame, Frontier, Going, Leaf, LeafWork, Step, Worked};
use crate::event::Scope;
use crate::failure::ErrorKind;
use crate::id::TaskId;
use crate::node::Outcome;
use crate::plan::{Job, Plan, Work};
use crate::state::State;

/// What a task came to in a superstep.
pub(super) enum Came<'s> {
    /// It goes on with this.
    Going(&'s Going),
    /// It gave this.
    Done(Read),
    /// It failed.
    Failed(Fault),
    /// It is tried again, after something in it failed.
    Again(&'s Job),
}

/// One of the graphs of a run, in a superstep.
pub(super) struct Level<'l> {
    pub(super) barrier: Barrier<'l>,
    /// What runs next in it; nothing when it is over, or failed.
    pub(super) frontier: Option<&'l Frontier>,
    pub(super) path: Vec<String>,
    pub(super) item: Option<u64>,
    /// Why all of it failed.
    pub(super) fault: Fault,
    /// What calls it, when that is tried again because something in it failed.
    pub(super) again: Option<&'l Job>,
    /// Nothing of it goes into a private channel further out.
    pub(super) shown: bool,
}

/// Walks through a superstep.
pub(super) struct Walk<'w, 'e, 'a> {
    pub(super) root: &'a Plan,
    pub(super) heard: &'w mut Heard<'e>,
    pub(super) leaves: std::vec::IntoIter<Leaf<'a>>,
    /// What tasks came to that is kept beside the checkpoints.
    pub(super) worked: BTreeMap<TaskId, Worked>,
    /// Calls that were made before the superstep failed, and are not made again.
    pub(super) made: &'w mut BTreeSet<TaskId>,
    pub(super) script: &'w mut Script,
    pub(super) private: bool,
    /// It is within a graph that is called as a tool, which a script answers as a whole.
    pub(super) muted: bool,
    /// The superstep failed.
    pub(super) fails: bool,
}

/// A task, or an item of it.
pub(super) struct Part<'p> {
    pub(super) job: &'p Job,
    pub(super) place: Scope,
    /// It begins in this superstep.
    pub(super) begins: bool,
    /// What it gives may be shown, also where it stands beside the channels.
    pub(super) shown: bool,
}

impl Part<'_> {
    /// Takes a result that stands beside the channels.
    pub(super) fn beside(&self, result: &Json) -> Read {
        if self.shown { Ok(Found { value: result.clone(), parts: Parts::All }) } else { Err(Lost::Private) }
    }
}

impl<'a> Walk<'_, '_, 'a> {
    /// Goes through the superstep of a graph.
    pub(super) fn level(&mut self, level: &mut Level<'_>, step: &Step) {
        // The barrier of a superstep that failed is the one that it came to when it was resumed.
        let (frontier, fails, heard) = (level.frontier, self.fails, &self.heard);
        let is_done = |task: &TaskId| held(frontier, task).is_none() && (fails || !heard.has_failed(task));
        level.barrier.note(step, is_done);
        for task in &step.tasks {
            let plan = level.barrier.plan;
            let Some(node) = plan.nodes.get(&task.node) else { continue };
            let mut place = Scope::new(&*task.node, task.id.clone(), 1);
            (place.path, place.item) = (level.path.clone(), level.item);
            // A task that fails in the end may have gone on before.
            let came = match held(level.frontier, &task.id) {
                Some(going) if !(self.fails && self.heard.has_failed(&task.id)) => Came::Going(going),
                _ if self.heard.take_failed(&task.id) => match level.again {
                    Some(job) => Came::Again(job),
                    None => Came::Failed(self.fault(level, &place)),
                },
                _ if !level.shown => Came::Done(Err(Lost::Private)),
                _ => {
                    let emitted = self.heard.emitted(&task.id);
                    Came::Done(level.barrier.result(node, &task.id, &emitted))
                }
            };
            let begins = task.held.is_none();
            let shown = level.shown && (self.private || may_be_shown(plan, node));
            self.part(&Part { job: &node.job, place, begins, shown }, &task.doing, came);
        }
    }

    /// Returns why a task failed: what its handler was told, or what all around it failed with.
    fn fault(&mut self, level: &Level<'_>, place: &Scope) -> Fault {
        let of = |token: &&crate::engine::step::Token| token.from == place.node && token.error.is_some();
        let caught = level.frontier.and_then(|frontier| frontier.tokens.iter().find(of));
        let kind = self.heard.caught(place).map(str::to_owned);
        if let Some(error) = caught.and_then(|token| token.error.as_ref()) {
            return Fault { kind: Some(error.kind.clone()), message: Some(error.message.clone()) };
        }
        if kind.is_some() {
            return Fault { kind, message: None };
        }
        if !level.path.is_empty() {
            return level.fault.clone();
        }
        match self.heard.error {
            Some((code, message, Some(node))) if node == place.node => {
                Fault { kind: Some(code.to_owned()), message: Some(message.to_owned()) }
            }
            _ => Fault::default(),
        }
    }

    pub(super) fn part(&mut self, part: &Part<'_>, doing: &Doing, came: Came<'_>) {
        match doing {
            Doing::ToCache(_, inner) => {
                let came = match came {
                    Came::Going(Going::ToCache(_, going)) => Came::Going(going),
                    came => came,
                };
                self.part(part, inner, came);
            }
            Doing::Works => self.works(part, came),
            Doing::Calls { calls, .. } => calls.iter().for_each(|call| self.call(part, call, &came)),
            Doing::Tool(call) => self.call(part, call, &came),
            Doing::Graph(frame, step) => self.graph(part, frame, step, came),
            Doing::Map(items) => self.items(part, items, &came),
            Doing::Late => self.ends(part, "timeout"),
            Doing::Fails(failure) if failure.kind == ErrorKind::Dismissed => self.ends(part, "dismissed"),
            Doing::Asks(_) if self.muted => {
                let why = format!("`{}` asks within a graph that is called as a tool", part.place.caller());
                self.script.beyond(why);
            }
            Doing::Asks(_) => self.speaks(part),
            Doing::Fails(_) | Doing::Waits(_) | Doing::Answered(..) | Doing::Cached(_) => {}
        }
    }

    /// A question ends without an answer.
    fn ends(&mut self, part: &Part<'_>, how: &str) {
        if matches!(part.job.work, Work::Ask(_)) {
            self.add(part.place.caller(), Entry::whole(Answer::Error(how.to_owned())));
        }
    }

    /// Notes that the graphs around a part must run themselves.
    fn speaks(&mut self, part: &Part<'_>) {
        let inner = part.place.caller();
        for (caller, whole) in &mut self.script.graphs {
            let caller = caller.split('[').next().unwrap_or(caller);
            whole.spoke |= inner.starts_with(&format!("{caller}/"));
        }
    }

    fn add(&mut self, caller: String, entry: Entry) {
        if !self.muted {
            self.script.add(caller, entry);
        }
    }

    pub(super) fn add_all(&mut self, caller: &str, entries: Vec<Entry>) {
        for entry in entries {
            self.add(caller.to_owned(), entry);
        }
    }

    /// Takes the next leaf; nothing: its call was made before, and is not made again.
    pub(super) fn leaf(&mut self) -> Option<Leaf<'a>> {
        let leaf = self.leaves.next()?;
        let task = &leaf.place.task_id;
        (leaf.done.is_none() && !self.made.contains(task)).then_some(leaf)
    }

    /// Notes that a call is not made again when its superstep is: its result is kept.
    pub(super) fn keeps(&mut self, task: &TaskId, succeeded: bool) {
        let kept =
            self.worked.get(task).map_or(self.worked.is_empty() && succeeded, |worked| worked.result.is_ok());
        if self.fails && kept {
            self.made.insert(task.clone());
        }
    }

    /// A node's own work.
    fn works(&mut self, part: &Part<'_>, came: Came<'_>) {
        let Some(leaf) = self.leaf() else { return };
        let LeafWork::Node(_, back) = &leaf.work else { return };
        if !matches!(part.job.kind, "llm" | "http" | "custom") {
            return;
        }
        let (caller, task) = (part.place.caller(), &leaf.place.task_id);
        // Whether it can be shown, or told apart, is another matter.
        let succeeded = match &came {
            Came::Going(_) => true,
            Came::Done(read) => !matches!(read, Err(Lost::Cut)),
            Came::Failed(_) | Came::Again(_) => false,
        };
        self.keeps(task, succeeded);
        let is_final = |tool: &String| part.job.tools.get(tool).is_some_and(|tool| tool.is_final);
        // The result of a final tool is the answer: no model is asked.
        if back.iter().flat_map(|back| &back.answers).any(|a| a.result.is_ok() && is_final(&a.tool)) {
            return;
        }
        let rounds = back.as_ref().and_then(|back| back.memo["rounds"].as_u64()).unwrap_or(0);
        let came = match self.worked.get(task).map(|worked| &worked.result) {
            Some(Ok(Outcome::Done(done))) => Came::Done(part.beside(&done.result)),
            Some(Ok(Outcome::More(round))) => return self.add(caller, called_tools(&round.memo)),
            Some(Err(failure)) => {
                let (kind, message) = (Some(failure.kind.name()), Some(failure.message.clone()));
                Came::Failed(Fault { kind, message })
            }
            None => came,
        };
        match came {
            Came::Going(Going::Calls { memo, .. }) => self.add(caller, called_tools(memo)),
            Came::Going(_) => self.add(caller, Entry::lost(Lost::Cut, fill(part.job))),
            Came::Done(read) => {
                let id = match rounds {
                    0 => format!("m_{task}"),
                    rounds => format!("m_{task}_{rounds}"),
                };
                let said = self.heard.said(&id).filter(|_| part.job.answer.is_none());
                if said.is_some() {
                    self.speaks(part);
                }
                let entry = match said {
                    Some(text) => Entry::whole(Answer::Text(text.to_owned())),
                    None => Entry::read(&read, fill(part.job)),
                };
                self.add(caller, entry);
            }
            Came::Failed(fault) => {
                let asked = self.heard.has_called(&part.place.task_id);
                let failing = Failing { job: part.job, tool: None, asked, attempts: None, again: None };
                self.add_all(&caller, errors(&failing, &fault, fill(part.job)));
            }
            Came::Again(around) => {
                let again = Some(&around.retry);
                let failing = Failing { job: part.job, tool: None, asked: true, attempts: None, again };
                self.add_all(&caller, errors(&failing, &Fault::default(), fill(part.job)));
            }
        }
    }

    /// A superstep of a called graph.
    fn graph(&mut self, part: &Part<'_>, frame: &Frame, step: &Step, came: Came<'_>) {
        let Some(child) = self.root.children.get(&frame.graph) else { return };
        let caller = part.place.caller();
        let (after, inner, fault) = match &came {
            Came::Going(Going::Graph(next)) => (After::State(&next.state), Some(&**next), Fault::default()),
            Came::Done(Ok(found)) => {
                (After::Output(told_by_output(child, &found.value)), None, Fault::default())
            }
            Came::Failed(fault) => (After::Nothing, None, fault.clone()),
            _ => (After::Nothing, None, Fault::default()),
        };
        if !self.muted {
            let whole = self.script.graphs.entry(caller.clone()).or_default();
            whole.began += usize::from(part.begins);
        }
        let worked = self.worked.clone();
        if let Some(next) = inner {
            self.worked.extend(next.done.iter().map(|(task, worked)| (task.clone(), worked.clone())));
        }
        self.inner(part, frame, step, after, inner, fault);
        self.worked = worked;
        let ended = match came {
            Came::Done(read) => Ok(read),
            Came::Failed(fault) => Err(fault),
            Came::Going(_) | Came::Again(_) => return,
        };
        if let Some(whole) = self.script.graphs.get_mut(&caller) {
            whole.ended.push(ended);
        }
    }

    pub(super) fn inner(
        &mut self,
        part: &Part<'_>,
        frame: &Frame,
        step: &Step,
        after: After<'_>,
        next: Option<&Frame>,
        fault: Fault,
    ) {
        let Some(child) = self.root.children.get(&frame.graph) else { return };
        let before: &State = &frame.state;
        let mut path = part.place.path.clone();
        path.push(part.place.node.clone());
        let mut level = Level {
            barrier: Barrier::new(child, before, after, self.private),
            frontier: next.map(|frame| &frame.frontier),
            path,
            item: part.place.item,
            fault,
            again: next.filter(|next| next.failed > frame.failed).map(|_| part.job),
            shown: part.shown,
        };
        self.level(&mut level, step);
    }
}

/// Returns what a task goes on with.
fn held<'f>(frontier: Option<&'f Frontier>, task: &TaskId) -> Option<&'f Going> {
    let held = frontier?.tokens.iter().filter_map(|token| token.held.as_deref());
    held.into_iter().find(|held| held.task == *task).map(|held| &held.going)
}

/// Returns the tools that a model called in its newest round.
fn called_tools(memo: &Json) -> Entry {
    let turns = memo["turns"].as_array().map(Vec::as_slice).unwrap_or_default();
    let turn = turns.iter().rev().find(|turn| turn.get("tool_calls").is_some());
    let Some(turn) = turn else { return Entry::lost(Lost::Cut, |value| Answer::Text(text(value))) };
    let call = |call: &Json| Some((call["name"].as_str()?.to_owned(), call["args"].clone()));
    let calls = turn["tool_calls"].as_array().into_iter().flatten().filter_map(call).collect();
    Entry::whole(Answer::Calls(turn["content"].as_str().unwrap_or_default().to_owned(), calls))
}

/// Returns how what a job gave is made an answer to its call.
fn fill(job: &Job) -> impl Fn(Json) -> Answer {
    let (kind, typed) = (job.kind, job.answer.is_some());
    move |value| match kind {
        "llm" if typed => Answer::Output(value),
        "llm" => Answer::Text(text(value)),
        "http" => match value {
            Json::Object(mut response) => {
                let status = response.remove("status");
                Answer::Response(status, response.remove("body").unwrap_or_else(|| json!(FILL)))
            }
            other => Answer::Response(None, other),
        },
        _ => Answer::Result(value),
    }
}

fn text(value: Json) -> String {
    match value {
        Json::String(text) => text,
        other => other.to_string(),
    }
}
