//! The compiled graph: what the engine runs, the drawing shows and the stored hash stands for.
//!
//! Invariant: immutable, no I/O. Every name in it has been checked to exist.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value as Json;

use crate::expr::{Expr, ExprTree};
use crate::node::{Node, Retry};
use crate::state::{Channels, Field};

/// The name that edges to the end of a branch have.
pub const END: &str = "end";
/// The name that edges from the start have.
pub const START: &str = "start";

/// A compiled graph.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The graph's id.
    pub graph: String,
    /// The hash of its canonical form.
    pub hash: String,
    /// For people.
    pub description: Option<String>,
    /// The channels of the state.
    pub channels: Channels,
    /// The channel that holds the conversation.
    pub messages: Option<String>,
    /// The inputs of a run.
    pub input: IndexMap<String, Field>,
    /// What a run gives.
    pub output: Output,
    /// Where a run begins.
    pub start: Next,
    /// The nodes by name.
    pub nodes: BTreeMap<String, PlanNode>,
    /// What stops a run.
    pub limits: Limits,
    /// How states of older versions are brought to this one.
    pub migration: Migration,
    /// The nodes that wait for their other arrivals; see [`Plan::seal`].
    pub joining: BTreeSet<String>,
}

/// A node with its edges.
#[derive(Debug, Clone)]
pub struct PlanNode {
    /// Its kind, as written.
    pub kind: &'static str,
    /// For people.
    pub description: Option<String>,
    /// What it does.
    pub node: Arc<dyn Node>,
    /// What comes next.
    pub next: Next,
    /// After so many visits in a run, go there instead.
    pub max_visits: Option<(u64, Target)>,
    /// Runs once for all arrivals; else once for each.
    pub join_all: bool,
    /// How often a failed attempt is made again.
    pub retry: Retry,
    /// How long one attempt may take.
    pub timeout: Duration,
}

/// What a run gives at its end.
#[derive(Debug, Clone)]
pub enum Output {
    /// The public state without the conversation.
    Public,
    /// These channels, as far as they are set.
    Channels(Vec<String>),
    /// Expressions by name.
    Map(IndexMap<String, ExprTree>),
}

/// What stops a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Supersteps.
    pub steps: u64,
    /// Time, from its start or resume.
    pub time: Duration,
    /// Tokens of all model calls together.
    pub tokens: u64,
    /// Tasks of one superstep that work at once.
    pub parallel: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: 100, time: Duration::from_mins(15), tokens: u64::MAX, parallel: 100 }
    }
}

/// How a state of an older version is brought to this one: first the renames, then the drops, then the defaults.
#[derive(Debug, Clone, Default)]
pub struct Migration {
    /// The channel of today for one of old, in the order written.
    pub renames: Vec<(String, String)>,
    /// Channels of old whose values are deleted.
    pub drops: Vec<String>,
    /// Values for channels that have none, each from the state before any of them.
    pub defaults: IndexMap<String, ExprTree>,
}

/// Where an edge leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// The end of the branch.
    End,
    /// A node.
    Node(String),
}

impl Target {
    /// Returns the name that events and drawings show.
    pub fn name(&self) -> &str {
        match self {
            Self::End => END,
            Self::Node(name) => name,
        }
    }
}

/// What comes after a node.
#[derive(Debug, Clone)]
pub enum Next {
    /// One target.
    To(Target),
    /// All of these.
    All(Vec<Target>),
    /// Every one whose condition holds, else the last.
    Some(Vec<(Expr, Target)>, Box<Next>),
    /// The first rule that matches.
    Rules(Vec<Rule>),
}

/// One rule of a list.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Matches when the condition holds.
    When(Expr, Next),
    /// Matches when a case equals the value; texts, numbers, booleans or null.
    Match(Expr, Vec<(Json, Next)>),
    /// Matches always.
    Else(Next),
}

/// An edge of the drawing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Where it leads.
    pub to: Target,
    /// The condition, when there is one.
    pub condition: Option<String>,
    /// It is taken together with others.
    pub fan_out: bool,
}

impl PlanNode {
    /// Returns every edge that a run can take from the node.
    pub fn edges(&self) -> Vec<Edge> {
        // A failure ends the run: the edge that every node has is never taken.
        if self.kind == "fail" {
            return Vec::new();
        }
        let mut edges = self.next.edges();
        edges.extend(self.max_visits.iter().map(|(most, to)| {
            let visits = if *most == 1 { "visit" } else { "visits" };
            Edge { to: to.clone(), condition: Some(format!("after {most} {visits}")), fan_out: false }
        }));
        edges
    }
}

impl Next {
    /// Returns every edge, in the order written, each once.
    pub fn edges(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        self.collect(None, &mut edges);
        let mut seen = BTreeSet::new();
        edges.retain(|e| seen.insert(e.clone()));
        edges
    }

    fn collect(&self, condition: Option<&str>, edges: &mut Vec<Edge>) {
        let and = |more: &str| match condition {
            Some(outer) => format!("{outer} and {more}"),
            None => more.to_owned(),
        };
        let mut push = |to: &Target, condition: Option<String>, fan_out| {
            edges.push(Edge { to: to.clone(), condition, fan_out });
        };
        match self {
            Self::To(target) => push(target, condition.map(str::to_owned), false),
            Self::All(targets) => {
                for target in targets {
                    push(target, condition.map(str::to_owned), true);
                }
            }
            Self::Some(arms, otherwise) => {
                for (when, target) in arms {
                    push(target, Some(and(when.source())), true);
                }
                otherwise.collect(Some(&and("else")), edges);
            }
            Self::Rules(rules) => {
                for rule in rules {
                    match rule {
                        Rule::When(when, next) => next.collect(Some(&and(when.source())), edges),
                        Rule::Match(on, cases) => {
                            for (value, next) in cases {
                                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                                next.collect(Some(&and(&format!("{} = {value}", on.source()))), edges);
                            }
                        }
                        Rule::Else(next) => next.collect(Some(&and("else")), edges),
                    }
                }
            }
        }
    }

    /// Returns every node that an edge leads to.
    pub fn targets(&self) -> BTreeSet<Target> {
        self.edges().into_iter().map(|e| e.to).collect()
    }
}

impl PlanNode {
    /// Returns every node that may come after this one, over edges of every sort.
    pub fn successors(&self) -> BTreeSet<Target> {
        let mut targets = self.next.targets();
        targets.extend(self.max_visits.iter().map(|(_, to)| to.clone()));
        targets
    }
}

impl Plan {
    /// Returns the distinct sources of a node's incoming edges.
    pub fn sources(&self, node: &str) -> BTreeSet<&str> {
        let leads =
            |targets: &BTreeSet<Target>| targets.iter().any(|t| t.name() == node && *t != Target::End);
        let mut sources: BTreeSet<&str> = self
            .nodes
            .iter()
            .filter(|(_, n)| leads(&n.successors()))
            .map(|(name, _)| name.as_str())
            .collect();
        if leads(&self.start.targets()) {
            sources.insert(START);
        }
        sources
    }

    /// Computes what follows from nodes and edges: which nodes wait for their other arrivals
    /// (`design.md` §3). Every plan is sealed once, when it is made.
    #[must_use]
    pub fn seal(mut self) -> Self {
        let mut sources: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        let starts = std::iter::once((START, self.start.targets()));
        let all = starts.chain(self.nodes.iter().map(|(name, node)| (name.as_str(), node.successors())));
        for (from, targets) in all {
            for target in targets {
                if let Target::Node(name) = target {
                    sources.entry(name).or_default().insert(from);
                }
            }
        }
        let joins = |name: &String| self.nodes.get(name).is_some_and(|node| node.join_all);
        let several = sources.iter().filter(|(name, from)| from.len() > 1 && joins(name));
        self.joining = several.map(|(name, _)| name.clone()).collect();
        self
    }

    /// Says whether the node waits for its other arrivals.
    pub fn joins(&self, node: &str) -> bool {
        self.joining.contains(node)
    }
}
