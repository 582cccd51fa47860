//! The compiled graph: what the engine runs, the drawing shows and the stored hash stands for.
//!
//! Invariant: immutable, no I/O. Every name in it has been checked to exist.

mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::expr::{Expr, ExprTree};
use crate::failure::Failure;
use crate::state::{Channels, Field};

pub use work::{
    Ask, Cache, Each, Effects, Fallback, Form, GraphCall, ItemError, Job, OnMessage, Sent, ToolBody,
    ToolPlan, Work,
};

/// The name that edges to the end of a branch have.
pub const END: &str = "end";
/// How deep graphs can call each other.
pub const MOST_CALLS: usize = 16;
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
    /// When its supersteps are stored, where a run does not say.
    pub durability: Durability,
    /// How states of older versions are brought to this one.
    pub migration: Migration,
    /// Where a run goes on when a limit is used up.
    pub on_limit: Option<Target>,
    /// The graphs that are called from here, directly or by others; in those themselves it is empty.
    pub children: BTreeMap<String, Arc<Plan>>,
    /// What follows from nodes and edges; see [`Plan::seal`].
    pub sealed: Sealed,
}

/// What follows from the nodes and edges of a plan.
#[derive(Debug, Default, Clone)]
pub struct Sealed {
    /// The nodes that wait for their other arrivals.
    pub joining: BTreeSet<String>,
    /// The nodes that only error edges lead to.
    pub handlers: BTreeSet<String>,
    /// The nodes that every way from the start comes to by an error: these, and what only they lead to.
    pub handling: BTreeSet<String>,
}

/// A node with its edges.
#[derive(Debug, Clone)]
pub struct PlanNode {
    /// For people.
    pub description: Option<String>,
    /// What it does.
    pub job: Job,
    /// Where its result goes.
    pub into: Sent,
    /// Events for the reader of the stream, by name: expressions over `result`.
    pub emit: IndexMap<String, ExprTree>,
    /// What comes next.
    pub next: Next,
    /// Where its errors go, its own rules before those of the graph; the first that matches wins.
    pub on_error: Vec<Catch>,
    /// After so many visits in a run, go there instead.
    pub max_visits: Option<(u64, Target)>,
    /// Runs once for all arrivals; else once for each.
    pub join_all: bool,
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
    /// Calls of models.
    pub calls: u64,
    /// Tokens of all model calls together.
    pub tokens: u64,
    /// What they may cost, in billionths of a dollar.
    pub cost_nano_usd: u64,
    /// Tasks of one superstep that work at once.
    pub parallel: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps: 100,
            time: Duration::from_mins(15),
            calls: u64::MAX,
            tokens: u64::MAX,
            cost_nano_usd: u64::MAX,
            parallel: 100,
        }
    }
}

/// When the supersteps of a run are stored.
///
/// ```
/// use graphloom::{Durability, Request};
///
/// // A crash takes the run back to its begin; the answer comes a little earlier.
/// let request = Request::from("Hello!").durability(Durability::Exit);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Each before the next one begins.
    #[default]
    Sync,
    /// Each while the next one works.
    Async,
    /// All together, when the run ends or waits for a person.
    Exit,
}

impl Durability {
    /// Returns the mode of a name.
    ///
    /// ```
    /// use graphloom::Durability;
    ///
    /// assert_eq!(Durability::named("async"), Some(Durability::Async));
    /// ```
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "sync" => Some(Self::Sync),
            "async" => Some(Self::Async),
            "exit" => Some(Self::Exit),
            _ => None,
        }
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

/// A rule for errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catch {
    /// Which errors it is for; none: all of them.
    pub errors: Option<Vec<Pattern>>,
    /// Where they go.
    pub to: Target,
}

/// Which errors are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// Those of a kind.
    Kind(String),
    /// Those with a code.
    Code(String),
}

impl Catch {
    /// Says whether the rule is for an error.
    pub fn matches(&self, failure: &Failure) -> bool {
        let is = |pattern: &Pattern| match pattern {
            Pattern::Kind(kind) => failure.is(kind),
            Pattern::Code(code) => failure.code == *code,
        };
        failure.can_be_caught() && self.errors.as_ref().is_none_or(|errors| errors.iter().any(is))
    }

    /// Returns what the drawing says of the edge.
    fn label(&self) -> String {
        let name = |pattern: &Pattern| match pattern {
            Pattern::Kind(kind) => kind.clone(),
            Pattern::Code(code) => format!("code {code}"),
        };
        match &self.errors {
            None => "on_error".into(),
            Some(errors) => {
                format!("on_error: {}", errors.iter().map(name).collect::<Vec<_>>().join(", "))
            }
        }
    }
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
    /// It is taken when something failed.
    pub error: bool,
}

impl PlanNode {
    /// Makes a node without anything that can be left out.
    pub fn new(job: Job, next: Next) -> Self {
        Self {
            description: None,
            job,
            into: Sent::Nothing,
            emit: IndexMap::new(),
            next,
            on_error: Vec::new(),
            max_visits: None,
            join_all: true,
        }
    }

    /// Returns where a question leads that nobody answers in time.
    pub fn on_timeout(&self) -> Option<&Target> {
        match &self.job.work {
            Work::Ask(ask) => ask.timeout.as_ref().map(|(_, to)| to),
            _ => None,
        }
    }

    /// Says whether it does nothing but end the run.
    pub fn fails(&self) -> bool {
        self.job.kind == "fail"
    }

    /// Returns every edge that a run can take from the node.
    pub fn edges(&self) -> Vec<Edge> {
        let plain = |to: &Target, condition| Edge { to: to.clone(), condition, fan_out: false, error: false };
        // A node that fails goes on by its errors only: the edge that every node has is never taken.
        let mut edges = if self.fails() { Vec::new() } else { self.next.edges() };
        edges.extend(self.max_visits.iter().map(|(most, to)| {
            let visits = if *most == 1 { "visit" } else { "visits" };
            plain(to, Some(format!("after {most} {visits}")))
        }));
        edges.extend(self.on_timeout().map(|to| plain(to, Some("on_timeout".to_owned()))));
        edges.extend(
            self.on_error.iter().map(|catch| Edge { error: true, ..plain(&catch.to, Some(catch.label())) }),
        );
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
            edges.push(Edge { to: to.clone(), condition, fan_out, error: false });
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
        let mut targets = self.successors_without_error();
        targets.extend(self.on_error.iter().map(|catch| catch.to.clone()));
        targets
    }

    /// Returns every node that may come after this one when it does not fail.
    pub fn successors_without_error(&self) -> BTreeSet<Target> {
        let mut targets = self.next.targets();
        targets.extend(self.max_visits.iter().map(|(_, to)| to.clone()));
        targets.extend(self.on_timeout().cloned());
        targets
    }

    /// Returns where an error goes.
    pub fn catches(&self, failure: &Failure) -> Option<&Target> {
        self.on_error.iter().find(|catch| catch.matches(failure)).map(|catch| &catch.to)
    }
}

impl Plan {
    /// Makes a graph without nodes, channels and inputs, to be filled in and then [sealed](Self::seal).
    pub fn new(graph: impl Into<String>, start: Next) -> Self {
        Self {
            graph: graph.into(),
            hash: String::new(),
            description: None,
            channels: Channels::new(),
            messages: None,
            input: IndexMap::new(),
            output: Output::Public,
            start,
            nodes: BTreeMap::new(),
            limits: Limits::default(),
            durability: Durability::default(),
            migration: Migration::default(),
            on_limit: None,
            children: BTreeMap::new(),
            sealed: Sealed::default(),
        }
    }

    /// Returns the edges of the start, and that of a limit that is used up: it leads on from wherever the run is.
    pub fn start_edges(&self) -> Vec<Edge> {
        let condition = Some("on_limit".to_owned());
        let limit = self.on_limit.iter().map(|to| {
            let condition = condition.clone();
            Edge { to: to.clone(), condition, fan_out: false, error: true }
        });
        self.start.edges().into_iter().chain(limit).collect()
    }

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

    /// Computes what follows from nodes and edges (`design.md` §3). Every plan is sealed once, when it is made.
    #[must_use]
    pub fn seal(mut self) -> Self {
        let mut sources: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        // Nodes that some edge leads to which is taken without an error.
        let mut plain: BTreeSet<String> = BTreeSet::new();
        let name_of = |target: Target| match target {
            Target::Node(name) => Some(name),
            Target::End => None,
        };
        plain.extend(self.start.targets().into_iter().filter_map(name_of));
        let starts = std::iter::once((START, self.start.targets()));
        let all = starts.chain(self.nodes.iter().map(|(name, node)| (name.as_str(), node.successors())));
        for (from, targets) in all {
            for name in targets.into_iter().filter_map(name_of) {
                sources.entry(name).or_default().insert(from);
            }
        }
        let mut reached: BTreeSet<String> = BTreeSet::new();
        let mut todo: Vec<String> = plain.iter().cloned().collect();
        while let Some(name) = todo.pop() {
            if let Some(node) = self.nodes.get(&name)
                && reached.insert(name)
            {
                todo.extend(node.successors_without_error().into_iter().filter_map(name_of));
            }
        }
        for node in self.nodes.values().filter(|node| !node.fails()) {
            plain.extend(node.successors_without_error().into_iter().filter_map(name_of));
        }
        let handlers: BTreeSet<String> =
            sources.keys().filter(|name| !plain.contains(*name)).cloned().collect();
        let joins = |name: &String| {
            !handlers.contains(name) && self.nodes.get(name).is_some_and(|node| node.join_all)
        };
        let several = sources.iter().filter(|(name, from)| from.len() > 1 && joins(name));
        let joining = several.map(|(name, _)| name.clone()).collect();
        let handling = self.nodes.keys().filter(|name| !reached.contains(*name)).cloned().collect();
        self.sealed = Sealed { joining, handlers, handling };
        self
    }

    /// Says whether somewhere in it, or in a graph that it calls, an agent is asked.
    pub fn asks_agents(&self) -> bool {
        let asks = |plan: &Plan| plan.nodes.values().any(|node| node.job.asks_agents());
        asks(self) || self.children.values().any(|child| asks(child))
    }

    /// Says whether the node waits for its other arrivals.
    pub fn joins(&self, node: &str) -> bool {
        self.sealed.joining.contains(node)
    }

    /// Says whether the node runs once for each error that leads to it.
    pub fn is_handler(&self, node: &str) -> bool {
        self.sealed.handlers.contains(node)
    }

    /// Says whether every way to the node comes by an error: then there is one to read.
    pub fn has_error(&self, node: &str) -> bool {
        self.sealed.handling.contains(node)
    }
}
