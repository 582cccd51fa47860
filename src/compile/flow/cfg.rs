//! The ways through a graph: its nodes, its fan-outs, and what each edge's condition tells.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::compile::handlers::Handlers;
use crate::diagnostic::Spanned;
use crate::expr::{Facts, narrow};
use crate::plan::END as END_NAME;
use crate::spec::{Graph, NextSpec, NodeSpec, RuleSpec, Text};

/// The vertex before the first node.
pub(super) const START: usize = 0;

/// A way from one vertex to another.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    /// What is known when it is taken.
    pub(super) facts: Facts,
    /// When it is taken.
    pub(super) sort: Sort,
}

/// When an edge is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// When the node has done its work.
    Next,
    /// Instead of a visit too many.
    Max,
    /// When the node has failed.
    Error,
    /// When no answer came in time.
    Timeout,
    /// When a limit of the run is used up: from wherever the run is, with nothing known.
    Limit,
}

/// A condition on an edge.
pub(super) struct Condition<'a> {
    /// The vertex that it is asked after.
    pub(super) from: usize,
    pub(super) text: &'a Text,
    /// What earlier rules tell.
    pub(super) facts: Facts,
}

/// The ways through a graph. The vertices are the start, the nodes in the order of the file, the end, and one for each
/// fan-out between a node and its targets.
pub(super) struct Cfg<'a> {
    names: Vec<&'a str>,
    specs: Vec<&'a NodeSpec>,
    pub(super) end: usize,
    pub(super) edges: Vec<Edge>,
    /// Something is read where the run ends.
    pub(super) reads_end: bool,
    /// The edges that leave a vertex, and those that enter it.
    pub(super) out: Vec<Vec<usize>>,
    pub(super) into: Vec<Vec<usize>>,
    /// Targets that run together: all of them, or as many as match.
    pub(super) fans: Vec<Vec<usize>>,
    /// The vertex that makes each of these.
    pub(super) owners: Vec<usize>,
    pub(super) conditions: Vec<Condition<'a>>,
    /// The nodes that wait for their other arrivals.
    joins: Vec<bool>,
}

impl<'a> Cfg<'a> {
    /// Makes the ways of a graph whose names are all known.
    pub(super) fn new(graph: &'a Graph, handlers: &Handlers<'a>) -> Self {
        let nodes: Vec<(&str, &NodeSpec)> = graph
            .nodes
            .iter()
            .filter_map(|(name, spec)| Some((name.value.as_str(), spec.as_ref()?)))
            .collect();
        let end = nodes.len() + 1;
        let mut build = Build {
            at: nodes.iter().enumerate().map(|(n, (name, _))| (*name, n + 1)).collect(),
            end,
            vertices: end + 1,
            edges: Vec::new(),
            fans: Vec::new(),
            owners: Vec::new(),
            conditions: Vec::new(),
        };
        if let Some(start) = &graph.start {
            build.next(START, START, start, &Facts::default());
        }
        if let Some(to) = graph.on_limit.as_ref().and_then(|to| build.target(&to.value)) {
            build.edges.push(Edge { from: START, to, facts: Facts::default(), sort: Sort::Limit });
        }
        for (n, (name, spec)) in nodes.iter().enumerate() {
            let targets: BTreeSet<usize> =
                handlers.rules(name, spec).iter().filter_map(|rule| build.target(&rule.to.value)).collect();
            let errors = targets.into_iter();
            build.edges.extend(errors.map(|to| Edge {
                from: n + 1,
                to,
                facts: Facts::default(),
                sort: Sort::Error,
            }));
            if spec.kind.value == "fail" {
                continue;
            }
            if let Some(next) = &spec.next {
                build.next(n + 1, n + 1, next, &Facts::default());
            }
            if let Some(to) = spec.on_timeout().and_then(|to| build.target(&to.value)) {
                build.edges.push(Edge { from: n + 1, to, facts: Facts::default(), sort: Sort::Timeout });
            }
            if let Some(to) = spec.on_max.as_ref().and_then(|to| build.target(&to.value)) {
                build.edges.push(Edge { from: n + 1, to, facts: Facts::default(), sort: Sort::Max });
            }
        }
        let Build { vertices, edges, fans, owners, conditions, .. } = build;
        let (mut out, mut into) = (vec![Vec::new(); vertices], vec![Vec::new(); vertices]);
        for (n, edge) in edges.iter().enumerate() {
            out[edge.from].push(n);
            into[edge.to].push(n);
        }
        let mut names = vec!["start"];
        names.extend(nodes.iter().map(|(name, _)| *name));
        let specs: Vec<&NodeSpec> = nodes.into_iter().map(|(_, spec)| spec).collect();
        let reads_end = graph.output.is_some();
        let mut cfg = Self {
            names,
            specs,
            end,
            reads_end,
            edges,
            out,
            into,
            fans,
            owners,
            conditions,
            joins: Vec::new(),
        };
        cfg.joins = (0..vertices).map(|vertex| cfg.several(vertex)).collect();
        cfg
    }

    fn several(&self, vertex: usize) -> bool {
        let all =
            self.spec(vertex).is_some_and(|spec| spec.join.as_ref().is_none_or(|join| join.value == "all"));
        let sources: BTreeSet<usize> = self.into[vertex]
            .iter()
            .filter(|&&edge| self.edges[edge].sort != Sort::Limit)
            .map(|&edge| {
                let from = self.edges[edge].from;
                // A fan-out belongs to the node that makes it.
                if from > self.end {
                    self.into[from].first().map_or(from, |&edge| self.edges[edge].from)
                } else {
                    from
                }
            })
            .collect();
        all && sources.len() > 1 && !self.is_handler(vertex)
    }

    /// Says whether only errors lead to a node.
    pub(super) fn is_handler(&self, vertex: usize) -> bool {
        let mut sorts =
            self.into[vertex].iter().map(|&edge| self.edges[edge].sort).filter(|sort| *sort != Sort::Limit);
        sorts.next() == Some(Sort::Error) && sorts.all(|sort| sort == Sort::Error)
    }

    /// Returns the node of a vertex.
    pub(super) fn spec(&self, vertex: usize) -> Option<&'a NodeSpec> {
        self.specs.get(vertex.checked_sub(1)?).copied()
    }

    /// Returns the vertices that are nodes.
    pub(super) fn nodes(&self) -> std::ops::Range<usize> {
        1..self.end
    }

    /// Returns the name of a vertex; nothing for a fan-out.
    pub(super) fn name(&self, vertex: usize) -> Option<&'a str> {
        if vertex == self.end { Some(END_NAME) } else { self.names.get(vertex).copied() }
    }

    /// Says whether the vertex is a fan-out all of whose targets run.
    pub(super) fn is_fan(&self, vertex: usize) -> bool {
        vertex > self.end
    }

    /// Says whether a node waits for its other arrivals; so does the end of the run.
    pub(super) fn joins(&self, vertex: usize) -> bool {
        vertex == self.end || self.joins[vertex]
    }

    /// Returns the vertices that come next.
    pub(super) fn after(&self, vertex: usize) -> impl Iterator<Item = usize> {
        self.out[vertex].iter().map(|&edge| self.edges[edge].to)
    }

    /// Returns the vertices that come before.
    pub(super) fn before(&self, vertex: usize) -> impl Iterator<Item = usize> {
        self.into[vertex].iter().map(|&edge| self.edges[edge].from)
    }
}

/// Returns all vertices that some are led to by `next`, themselves included, without entering those that `stop`
/// names.
pub(super) fn reach<I: Iterator<Item = usize>>(
    from: impl IntoIterator<Item = usize>,
    next: impl Fn(usize) -> I,
    stop: impl Fn(usize) -> bool,
) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<usize> = from.into_iter().filter(|&vertex| !stop(vertex)).collect();
    while let Some(vertex) = todo.pop() {
        if seen.insert(vertex) {
            todo.extend(next(vertex).filter(|&next| !stop(next)));
        }
    }
    seen
}

struct Build<'a> {
    at: BTreeMap<&'a str, usize>,
    end: usize,
    vertices: usize,
    edges: Vec<Edge>,
    fans: Vec<Vec<usize>>,
    owners: Vec<usize>,
    conditions: Vec<Condition<'a>>,
}

impl<'a> Build<'a> {
    fn target(&self, name: &str) -> Option<usize> {
        if name == END_NAME { Some(self.end) } else { self.at.get(name).copied() }
    }

    fn edge(&mut self, from: usize, name: &str, facts: &Facts) {
        if let Some(to) = self.target(name) {
            self.edges.push(Edge { from, to, facts: facts.clone(), sort: Sort::Next });
        }
    }

    /// Adds a fan-out: what one of its branches writes is written where they join.
    fn fan(&mut self, owner: usize, from: usize, names: &'a [Spanned<String>], known: Facts) {
        let fan = self.vertices;
        self.vertices += 1;
        self.edges.push(Edge { from, to: fan, facts: known, sort: Sort::Next });
        for name in names {
            self.edge(fan, &name.value, &Facts::default());
        }
        self.owners.push(owner);
        self.fans.push(names.iter().filter_map(|name| self.target(&name.value)).collect());
    }

    /// Adds the edges of a `next`. `owner` is the node whose rules they are.
    fn next(&mut self, owner: usize, from: usize, next: &'a NextSpec, known: &Facts) {
        match next {
            NextSpec::To(name) => self.edge(from, &name.value, known),
            NextSpec::All(names, _) => self.fan(owner, from, names, known.clone()),
            NextSpec::Some(arms, otherwise, _) => {
                let mut none = known.clone();
                for (when, to) in arms {
                    self.conditions.push(Condition { from: owner, text: when, facts: known.clone() });
                    let holds = known.clone().and(&narrow(&when.value, true));
                    match to.as_slice() {
                        [to] => self.edge(from, &to.value, &holds),
                        all => self.fan(owner, from, all, holds),
                    }
                    none.extend(&narrow(&when.value, false));
                }
                self.owners.push(owner);
                self.fans.push(
                    arms.iter().flat_map(|(_, to)| to).filter_map(|to| self.target(&to.value)).collect(),
                );
                if let Some(otherwise) = otherwise {
                    self.next(owner, from, otherwise, &none);
                }
            }
            NextSpec::Rules(rules, _) => {
                let mut left = known.clone();
                for rule in rules {
                    match rule {
                        RuleSpec::When(when, to) => {
                            self.conditions.push(Condition { from: owner, text: when, facts: left.clone() });
                            self.next(owner, from, to, &left.clone().and(&narrow(&when.value, true)));
                            left.extend(&narrow(&when.value, false));
                        }
                        RuleSpec::Match(on, _, cases) => {
                            self.conditions.push(Condition { from: owner, text: on, facts: left.clone() });
                            let null = cases.iter().any(|(case, _)| case.value == Json::Null);
                            let some = narrow(&format!("({}) is not none", on.value), true);
                            for (case, to) in cases {
                                let known = match case.value {
                                    Json::Null => left.clone(),
                                    Json::Bool(truth) => {
                                        left.clone().and(&some).and(&narrow(&on.value, truth))
                                    }
                                    _ => left.clone().and(&some),
                                };
                                self.next(owner, from, to, &known);
                            }
                            if null {
                                left.extend(&some);
                            }
                        }
                        RuleSpec::Else(to, _) => self.next(owner, from, to, &left),
                    }
                }
            }
        }
    }
}
