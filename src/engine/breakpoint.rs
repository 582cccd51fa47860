//! Breakpoints: where a run is told to stop, so that somebody can look at it or change it.
//!
//! Invariant: a run stops only at a barrier, so what it goes on from is stored, and each resume does at least one
//! superstep.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::step::{Beginning, Begun};
use crate::diagnostic::suggest;
use crate::event::{Body, Scope};
use crate::plan::{Plan, PlanNode, ToolBody, Work};
use crate::state::Mismatch;

/// The name that stands for every node of a graph.
const EVERY: &str = "*";

/// Where a run stops: nodes by name, those of a called graph behind the node that calls it (`caller/inner`), or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Breakpoints {
    /// Before these begin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// After these ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
}

impl Breakpoints {
    /// Says whether there is none.
    pub fn is_none(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    /// Says whether one of them stands before what a superstep begins.
    pub(super) fn stop_before(&self, begun: &[Begun]) -> bool {
        let begins = |one: &&Begun| matches!(one.what, Beginning::Node(_, false));
        begun.iter().filter(begins).any(|one| is_at(&self.before, &one.place))
    }

    /// Says whether one of them stands after what a superstep ended.
    pub(super) fn stop_after(&self, events: &[(Option<Scope>, Body)]) -> bool {
        let ended = events.iter().filter(|(_, body)| matches!(body, Body::NodeFinished { .. }));
        ended.filter_map(|(place, _)| place.as_ref()).any(|place| is_at(&self.after, place))
    }

    /// Finds the names that no node of the graph has, by JSON Pointer into the request.
    pub(super) fn check(&self, plan: &Plan) -> Vec<Mismatch> {
        let of = |list: &'static str, names: &[String]| {
            let wrong = |(n, name): (usize, &String)| {
                let why = unknown(plan, name)?;
                Some(Mismatch { pointer: format!("/{list}/{n}"), why })
            };
            names.iter().enumerate().filter_map(wrong).collect::<Vec<_>>()
        };
        [of("interrupt_before", &self.before), of("interrupt_after", &self.after)].concat()
    }
}

fn is_at(names: &[String], place: &Scope) -> bool {
    names.iter().any(|name| {
        let mut parts = name.rsplit('/');
        let node = parts.next().unwrap_or_default();
        (node == EVERY || node == place.node) && parts.eq(place.path.iter().rev())
    })
}

/// Says why a name leads to no node.
fn unknown(root: &Plan, name: &str) -> Option<String> {
    let mut graphs = vec![root];
    let mut parts = name.split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        if last && part == EVERY {
            return None;
        }
        let found: Vec<&PlanNode> = graphs.iter().filter_map(|plan| plan.nodes.get(part)).collect();
        if found.is_empty() {
            let known: BTreeSet<&str> =
                graphs.iter().flat_map(|plan| plan.nodes.keys().map(String::as_str)).collect();
            return Some(match suggest(part, known.iter().copied()) {
                Some(meant) => format!("there is no node `{part}`; did you mean `{meant}`?"),
                None => {
                    let known: Vec<&str> = known.into_iter().collect();
                    format!("there is no node `{part}`; the nodes are {}", known.join(", "))
                }
            });
        }
        if last {
            return None;
        }
        graphs = found.into_iter().flat_map(|node| called(root, node)).collect();
        if graphs.is_empty() {
            return Some(format!("the node `{part}` calls no graph"));
        }
    }
    None
}

/// Returns the graphs that a node calls: itself, for each item of its list, or as a tool.
fn called<'p>(root: &'p Plan, node: &'p PlanNode) -> Vec<&'p Plan> {
    let mut names = BTreeSet::new();
    let mut jobs = vec![&node.job];
    while let Some(job) = jobs.pop() {
        let mut tool = |body: &'p ToolBody| {
            if let ToolBody::Graph(graph) = body {
                names.insert(graph.as_str());
            }
        };
        job.tools.values().for_each(|plan| tool(&plan.body));
        match &job.work {
            Work::Tool(plan, _) => tool(&plan.body),
            Work::Map(each) => jobs.push(&each.job),
            Work::Graph(call) => {
                names.insert(call.graph.as_str());
            }
            Work::Node(_) | Work::Ask(_) => {}
        }
    }
    names.into_iter().filter_map(|name| root.children.get(name).map(|plan| &**plan)).collect()
}
