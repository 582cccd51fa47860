//! Which nodes and edges of a graph the cases ran through.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::event::{Body, Event};
use crate::plan::{Edge, ItemError, Plan, START, Work};

/// What of a graph was run through.
#[derive(Debug, Clone)]
pub struct Coverage {
    /// The graph.
    pub graph: String,
    /// Whether each node started.
    nodes: BTreeMap<String, bool>,
    /// The edges by the node that they leave, and whether each was taken.
    edges: Vec<(String, Edge, bool)>,
}

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// What was run through.
    pub part: usize,
    /// What there is.
    pub all: usize,
}

impl Share {
    /// Returns the share in percent, rounded down: 100 is all.
    pub fn percent(self) -> usize {
        (self.part * 100).checked_div(self.all).unwrap_or(100)
    }
}

impl Coverage {
    pub(super) fn new(plan: &Plan) -> Self {
        let starts = plan.start.edges().into_iter().map(|edge| (START.to_owned(), edge, false));
        let of = |(name, node): (&String, &crate::plan::PlanNode)| {
            // A script makes calls fail; what else could fail cannot be asked to, nor can a list that passes over items.
            let calls = match &node.job.work {
                Work::Map(each) => each.on_error == ItemError::Fail,
                _ => matches!(node.job.kind, "llm" | "tool" | "http" | "graph" | "custom" | "fail"),
            };
            let edges = node.edges().into_iter().filter(|edge| calls || !edge.error);
            edges.map(|edge| (name.clone(), edge, false)).collect::<Vec<_>>()
        };
        Self {
            graph: plan.graph.clone(),
            nodes: plan.nodes.keys().map(|name| (name.clone(), false)).collect(),
            edges: starts.chain(plan.nodes.iter().flat_map(of)).collect(),
        }
    }

    /// Returns how many nodes were run.
    pub fn nodes(&self) -> Share {
        Share { part: self.nodes.values().filter(|started| **started).count(), all: self.nodes.len() }
    }

    /// Returns how many edges were taken.
    pub fn edges(&self) -> Share {
        Share { part: self.edges.iter().filter(|(.., taken)| *taken).count(), all: self.edges.len() }
    }

    /// Returns the nodes of several graphs together.
    pub fn nodes_of(all: &[Self]) -> Share {
        sum(all.iter().map(Self::nodes))
    }

    /// Returns the edges of several graphs together.
    pub fn edges_of(all: &[Self]) -> Share {
        sum(all.iter().map(Self::edges))
    }

    /// Names the nodes that never started.
    pub fn nodes_left(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|(_, started)| !**started).map(|(name, _)| name.as_str())
    }

    /// Names the edges that were never taken: `triage -> billing (input.topic = billing)`.
    pub fn edges_left(&self) -> impl Iterator<Item = String> {
        self.edges.iter().filter(|(.., taken)| !taken).map(|(from, edge, _)| {
            let when =
                edge.condition.as_ref().map_or_else(String::new, |condition| format!(" ({condition})"));
            format!("{from} -> {}{when}", edge.to.name())
        })
    }

    pub(super) fn json(&self) -> Json {
        let (nodes, edges) = (self.nodes(), self.edges());
        json!({
            "graph": self.graph,
            "nodes": {"run": nodes.part, "all": nodes.all, "never": self.nodes_left().collect::<Vec<_>>()},
            "edges": {"taken": edges.part, "all": edges.all, "never": self.edges_left().collect::<Vec<_>>()},
        })
    }
}

/// Marks what a run went through, in its graph and in those that were called. The edges around a node that runs alone are
/// not those of the graph.
pub(super) fn mark(all: &mut [Coverage], plan: &Plan, events: &[Event], alone: bool) {
    for event in events {
        match (&event.body, &event.scope) {
            (Body::NodeStarted { .. }, Some(place)) => {
                if let Some(covered) = of(all, plan, &place.path) {
                    covered.nodes.entry(place.node.clone()).and_modify(|started| *started = true);
                    // No event tells how a called graph begins.
                    let begins = |leaves: &str, edge: &Edge| leaves == START && edge.condition.is_none();
                    let edges = covered.edges.iter_mut().filter(|_| !place.path.is_empty());
                    for (_, _, taken) in edges.filter(|(leaves, edge, _)| begins(leaves, edge)) {
                        *taken = true;
                    }
                }
            }
            (Body::EdgeTaken { from, to, condition, path, .. }, _) if !(alone && path.is_empty()) => {
                let edges = of(all, plan, path).into_iter().flat_map(|covered| &mut covered.edges);
                for (_, _, taken) in
                    edges.filter(|(leaves, edge, _)| leaves == from && is(edge, to, condition.as_deref()))
                {
                    *taken = true;
                }
            }
            _ => {}
        }
    }
}

fn of<'c>(all: &'c mut [Coverage], plan: &Plan, path: &[String]) -> Option<&'c mut Coverage> {
    let graph = called(plan, path)?;
    all.iter_mut().find(|covered| covered.graph == graph)
}

/// Returns the graph that nodes lead into, one calling the next.
fn called<'p>(plan: &'p Plan, path: &[String]) -> Option<&'p str> {
    let mut level = plan;
    for node in path {
        let work = match &level.nodes.get(node)?.job.work {
            Work::Map(each) => &each.job.work,
            work => work,
        };
        let Work::Graph(call) = work else { return None };
        level = plan.children.get(&call.graph)?;
    }
    Some(&level.graph)
}

fn sum(shares: impl Iterator<Item = Share>) -> Share {
    shares.fold(Share { part: 0, all: 0 }, |sum, one| Share {
        part: sum.part + one.part,
        all: sum.all + one.all,
    })
}

/// Says whether an edge of the plan is the one that an event tells of: the event names the innermost condition.
fn is(edge: &Edge, to: &str, condition: Option<&str>) -> bool {
    // An event tells the kind of the error, the plan what is caught.
    if edge.error {
        return edge.to.name() == to && condition.is_some_and(|condition| condition.starts_with("on_error"));
    }
    edge.to.name() == to
        && match (&edge.condition, condition) {
            (None, None) => true,
            (Some(written), Some("max_visits")) => written.starts_with("after "),
            (Some(written), Some(held)) => written == held || written.ends_with(&format!(" and {held}")),
            _ => false,
        }
}
