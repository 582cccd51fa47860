//! Reads the result of a task back from where it went: from channels, by `into` and by `emit`.
//!
//! Invariant: nothing is guessed. A value that could have come of several results is none, and what is private stays so.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::pieces::{Pieces, type_of};
use crate::engine::step::Step;
use crate::expr::ExprTree;
use crate::id::TaskId;
use crate::plan::{Output, Plan, PlanNode, Sent, Work};
use crate::state::{Merge, State, Type};

/// A result, as far as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) value: Json,
    /// Whether all of it is.
    pub(super) parts: Parts,
}

/// How much of a result is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Parts {
    /// All.
    All,
    /// All but these fields.
    Without(Vec<String>),
    /// What was taken of it; nothing says what else there was.
    Some,
}

/// Why a result is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It went nowhere.
    Nowhere,
    /// It went through an expression that has no way back.
    Through,
    /// It joined a channel in which it cannot be told apart.
    Joined,
    /// It went into a private channel.
    Private,
    /// The barrier that it was for was not made.
    Cut,
}

impl Lost {
    /// Says so to people.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Nowhere => "no channel takes it",
            Self::Through => "`into` makes something else of it",
            Self::Joined => "it joined others in its channel",
            Self::Private => "its channel is private; `--private` exports it",
            Self::Cut => "the superstep came to nothing",
        }
    }
}

/// A result, or why there is none.
pub(super) type Read = Result<Found, Lost>;

/// The state of a graph after a superstep.
pub(super) enum After<'a> {
    /// All of it.
    State(&'a State),
    /// The graph is over: what its output tells of it.
    Output(Map<String, Json>),
    /// Nothing is known of it.
    Nothing,
}

impl After<'_> {
    fn get(&self, channel: &str) -> Option<Json> {
        match self {
            Self::State(state) => state.json(channel),
            Self::Output(known) => known.get(channel).cloned(),
            Self::Nothing => None,
        }
    }
}

/// A superstep of a graph, seen from its channels.
pub(super) struct Barrier<'a> {
    pub(super) plan: &'a Plan,
    pub(super) before: &'a State,
    pub(super) after: After<'a>,
    /// The tasks that were done with it, by channel, in the order in which they wrote.
    pub(super) writers: BTreeMap<String, Vec<TaskId>>,
    /// Something was done whose writes are not known.
    pub(super) others: bool,
    pub(super) private: bool,
}

impl<'a> Barrier<'a> {
    pub(super) fn new(plan: &'a Plan, before: &'a State, after: After<'a>, private: bool) -> Self {
        Self { plan, before, after, writers: BTreeMap::new(), others: false, private }
    }

    /// Notes the tasks of the superstep that are done.
    pub(super) fn note(&mut self, step: &Step, is_done: impl Fn(&TaskId) -> bool) {
        for task in step.tasks.iter().filter(|task| is_done(&task.id)) {
            let Some(node) = self.plan.nodes.get(&task.node) else { continue };
            for channel in channels(node) {
                self.writers.entry(channel.clone()).or_default().push(task.id.clone());
            }
            self.others |= node.job.kind == "set";
        }
    }

    /// Reads what a task gave; `told` is what it emitted, by name.
    pub(super) fn result(&self, node: &PlanNode, task: &TaskId, told: &BTreeMap<&str, &Json>) -> Read {
        let mut pieces = Pieces::default();
        let mut lost = Lost::Nowhere;
        let mut take = |tree: &ExprTree, value: Result<Json, Lost>| match value {
            Ok(value) if pieces.take(tree, &value) => {}
            Ok(_) if lost == Lost::Nowhere => lost = Lost::Through,
            Ok(_) => {}
            Err(why) => lost = why,
        };
        match &node.into {
            Sent::Nothing => {}
            Sent::Channel(channel) => match self.written(channel, task, whole_type(node).as_ref(), None) {
                Ok(value) => return Ok(Found { value, parts: Parts::All }),
                Err(why) => lost = why,
            },
            Sent::Map(map) => {
                for (channel, tree) in map {
                    let sure = if let ExprTree::List(items) = tree { Some(items.len()) } else { None };
                    take(tree, self.written(channel, task, type_of(node, tree).as_ref(), sure));
                }
            }
        }
        let mut take = |tree: &ExprTree, value: &Json| {
            if !pieces.take(tree, value) && lost == Lost::Nowhere {
                lost = Lost::Through;
            }
        };
        for (name, tree) in &node.emit {
            if let Some(value) = told.get(name.as_str()) {
                take(tree, value);
            }
        }
        pieces.found(node, self.plan).ok_or(lost)
    }

    /// Reads what a task wrote into a channel. `ty` is the type of what it wrote, where that is known, and `sure` how many
    /// items that list has.
    fn written(
        &self,
        name: &str,
        task: &TaskId,
        ty: Option<&Type>,
        sure: Option<usize>,
    ) -> Result<Json, Lost> {
        let Some(channel) = self.plan.channels.get(name) else { return Err(Lost::Nowhere) };
        if channel.private && !self.private {
            return Err(Lost::Private);
        }
        let Some(after) = self.after.get(name) else {
            return Err(if matches!(self.after, After::State(_)) { Lost::Nowhere } else { Lost::Cut });
        };
        let writers = self.writers.get(name).map(Vec::as_slice).unwrap_or_default();
        let rank = writers.iter().position(|writer| writer == task).ok_or(Lost::Joined)?;
        let alone = writers.len() == 1 && !self.others;
        let before = self.before.json(name);
        match channel.merge {
            // Of several writers the last one's value stays.
            Merge::Replace if rank + 1 == writers.len() => Ok(after),
            Merge::Append | Merge::Union => {
                // An item that a union had already is not there again: how many were written is not known.
                let items = new_items(before, after).ok_or(Lost::Joined)?;
                let exact = channel.merge == Merge::Append || sure == Some(items.len());
                share(&items, rank, writers.len(), alone, exact, ty).ok_or(Lost::Joined)
            }
            Merge::Add if alone => difference(before.as_ref(), &after).ok_or(Lost::Joined),
            Merge::Max | Merge::Min if alone && before.as_ref() != Some(&after) => Ok(after),
            Merge::First if alone && !self.before.is_written(name) => Ok(after),
            // With nothing there before, all that is there was written.
            Merge::Merge
                if alone && !self.before.is_written(name) && before == Some(Json::Object(Map::new())) =>
            {
                Ok(after)
            }
            _ => Err(Lost::Joined),
        }
    }
}

/// Returns the channels that a node's result goes into.
fn channels(node: &PlanNode) -> Vec<&String> {
    match &node.into {
        Sent::Nothing => Vec::new(),
        Sent::Channel(channel) => vec![channel],
        Sent::Map(map) => map.keys().collect(),
    }
}

/// Says whether what a node gives may be shown wherever it stands: nothing of it goes into a private channel.
pub(super) fn may_be_shown(plan: &Plan, node: &PlanNode) -> bool {
    channels(node).into_iter().all(|name| plan.channels.get(name).is_none_or(|channel| !channel.private))
}

/// Says the same of a node somewhere below a plan, with all that is around it.
pub(super) fn may_be_shown_at(plan: &Plan, path: &[String], node: &str) -> bool {
    let mut level = plan;
    for name in path.iter().map(String::as_str).chain([node]) {
        let Some(node) = level.nodes.get(name) else { return true };
        if !may_be_shown(level, node) {
            return false;
        }
        let work = match &node.job.work {
            Work::Map(each) => &each.job.work,
            work => work,
        };
        let Work::Graph(call) = work else { continue };
        let Some(child) = plan.children.get(&call.graph) else { return true };
        level = child;
    }
    true
}

/// Returns what a list has that it did not have before.
fn new_items(before: Option<Json>, after: Json) -> Option<Vec<Json>> {
    let (Json::Array(before), Json::Array(mut after)) =
        (before.unwrap_or_else(|| Json::Array(Vec::new())), after)
    else {
        return None;
    };
    let grown = after.len() >= before.len() && after.iter().zip(&before).all(|(new, old)| new == old);
    grown.then(|| after.split_off(before.len()))
}

/// Returns what one of the writers of a list wrote.
fn share(
    items: &[Json],
    rank: usize,
    writers: usize,
    alone: bool,
    exact: bool,
    ty: Option<&Type>,
) -> Option<Json> {
    // Whether a list was written, or an item; more or fewer than one item are a list.
    let is_list = match ty.map(Type::opened).as_ref().map(Type::non_null) {
        None | Some(Type::Any) if items.len() == 1 => return None,
        None | Some(Type::Any) => alone,
        Some(ty) => matches!(ty, Type::List(_)),
    };
    match (items, is_list) {
        ([item], false) if alone => Some(item.clone()),
        (items, true) if alone && exact => Some(Json::Array(items.to_vec())),
        (items, false) if exact && items.len() == writers => items.get(rank).cloned(),
        _ => None,
    }
}

fn difference(before: Option<&Json>, after: &Json) -> Option<Json> {
    let before = before.cloned().unwrap_or_else(|| 0.into());
    if let (Some(a), Some(b)) = (before.as_i64(), after.as_i64()) {
        return b.checked_sub(a).map(Json::from);
    }
    let (a, b) = (before.as_f64()?, after.as_f64()?);
    // Only what adds up again is what was added.
    (a + (b - a)).total_cmp(&b).is_eq().then(|| Json::from(b - a))
}

/// Returns the type of what a node gives, where it is declared.
pub(super) fn result_type(node: &PlanNode) -> Option<&Type> {
    match &node.job.work {
        Work::Tool(tool, _) => Some(&tool.result),
        _ => match (&node.job.answer, node.job.kind) {
            (None, "llm") => Some(&Type::STRING),
            (ty, _) => ty.as_ref(),
        },
    }
}

/// Returns the type of what a node gives, as far as it matters to a list that takes it.
fn whole_type(node: &PlanNode) -> Option<Type> {
    match &node.job.work {
        Work::Map(_) => Some(Type::List(Box::new(Type::Any))),
        Work::Graph(_) => Some(Type::Object),
        _ => result_type(node).cloned(),
    }
}

/// Returns what the output of a graph that is over tells of its channels.
pub(super) fn told_by_output(plan: &Plan, output: &Json) -> Map<String, Json> {
    let Json::Object(output) = output else { return Map::new() };
    match &plan.output {
        Output::Public | Output::Channels(_) => output.clone(),
        Output::Map(map) => {
            let of = |(name, tree): (&String, &ExprTree)| {
                let ExprTree::Expr(expr) = tree else { return None };
                let channel = expr.source().trim().strip_prefix("state.")?;
                plan.channels.contains_key(channel).then_some(())?;
                Some((channel.to_owned(), output.get(name)?.clone()))
            };
            map.iter().filter_map(of).collect()
        }
    }
}
