//! Who calls whom: graphs, and the tools that they use.

use std::collections::{BTreeMap, BTreeSet};

use super::knots::knots;
use super::request;
use super::tools::effects_of;
use crate::diagnostic::{Bag, Diagnostic, Span};
use crate::plan::{Effects, MOST_CALLS, Plan, Target};
use crate::spec::{Folder, Graph, KindSpec, Project, ToolBodySpec, ToolSpec};

/// What a graph calls, by the names that are written.
#[derive(Debug, Default, Clone)]
pub(super) struct Calls {
    pub(super) graphs: BTreeSet<String>,
    pub(super) tools: BTreeSet<String>,
    /// Functions of the host program.
    pub(super) custom: BTreeSet<String>,
}

/// The body of a node; of a `map` what it does for an item.
fn bodies(graph: &Graph) -> impl Iterator<Item = &KindSpec> {
    graph.nodes.iter().filter_map(|(_, spec)| spec.as_ref()).filter_map(|spec| match &spec.body {
        KindSpec::Map(map) => map.body.as_ref().map(|body| &body.body),
        body => Some(body),
    })
}

fn tool<'p>(project: &'p Project, name: &str) -> Option<&'p ToolSpec> {
    project.tools.iter().find(|(known, _)| known.value == name).map(|(_, tool)| tool)
}

/// Returns what a graph calls itself, by its nodes and by their tools.
fn direct(graph: &Graph, project: &Project) -> Calls {
    let mut calls = Calls::default();
    for body in bodies(graph) {
        match body {
            KindSpec::Llm(llm) => calls.tools.extend(llm.tools.iter().map(|tool| tool.value.clone())),
            KindSpec::Tool(node) => calls.tools.extend(node.tool.iter().map(|tool| tool.value.clone())),
            KindSpec::Graph(node) => calls.graphs.extend(node.graph.iter().map(|name| name.value.clone())),
            KindSpec::Custom(node) => calls.custom.extend(node.name.iter().map(|name| name.value.clone())),
            _ => {}
        }
    }
    for spec in calls.tools.iter().filter_map(|name| tool(project, name)) {
        match &spec.body {
            ToolBodySpec::Graph(graph) => drop(calls.graphs.insert(graph.value.clone())),
            ToolBodySpec::Custom(name) => drop(calls.custom.insert(name.value.clone())),
            ToolBodySpec::Http(_) | ToolBodySpec::Mcp(_) => {}
        }
    }
    calls
}

/// Returns what a graph calls, directly or by others. It is itself among the graphs only when it calls itself.
pub(super) fn calls(graph: &Graph, graphs: &BTreeMap<String, Graph>, project: &Project) -> Calls {
    let mut all = direct(graph, project);
    let mut todo: Vec<String> = all.graphs.iter().cloned().collect();
    while let Some(name) = todo.pop() {
        let Some(called) = graphs.get(&name) else { continue };
        let more = direct(called, project);
        all.tools.extend(more.tools);
        all.custom.extend(more.custom);
        todo.extend(more.graphs.into_iter().filter(|graph| all.graphs.insert(graph.clone())));
    }
    all.graphs.retain(|name| graphs.contains_key(name));
    all
}

/// What a graph says to the user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Speech {
    /// It says something, or asks.
    pub(super) speaks: bool,
    /// It says something word by word.
    pub(super) streams: bool,
}

/// Finds out what a graph, and those that it runs as nodes, say to the user.
pub(super) fn speech(graph: &Graph, graphs: &BTreeMap<String, Graph>) -> Speech {
    let mut found = Speech::default();
    let mut seen = BTreeSet::new();
    let mut todo = vec![graph];
    while let Some(graph) = todo.pop() {
        for body in bodies(graph) {
            match body {
                KindSpec::Say { .. } => found.speaks = true,
                KindSpec::Ask(ask) => found.speaks |= ask.who.as_ref().is_none_or(|who| who.value == "user"),
                KindSpec::Llm(llm) if llm.reply.as_ref().is_some_and(|reply| reply.value) => {
                    found = Speech { speaks: true, streams: true };
                }
                KindSpec::Graph(node) => {
                    let called = node.graph.as_ref().and_then(|name| graphs.get(&name.value));
                    todo.extend(called.filter(|called| seen.insert(called.id.as_str())));
                }
                _ => {}
            }
        }
    }
    found
}

/// What a node does by itself and by all that it calls.
#[derive(Default)]
pub(super) struct Within<'a> {
    /// The work, of its own and of the nodes of called graphs.
    pub(super) bodies: Vec<&'a KindSpec>,
    /// The tools.
    pub(super) tools: Vec<&'a ToolSpec>,
    /// The called graphs.
    pub(super) graphs: Vec<&'a Graph>,
}

/// Finds all that a node does, by itself and by what it calls.
pub(super) fn within<'a>(
    body: &'a KindSpec,
    graphs: &'a BTreeMap<String, Graph>,
    project: &'a Project,
) -> Within<'a> {
    let mut found = Within::default();
    let mut seen = BTreeSet::new();
    let mut todo = vec![body];
    while let Some(body) = todo.pop() {
        let mut called: Vec<&str> = Vec::new();
        match body {
            KindSpec::Map(map) => todo.extend(map.body.as_ref().map(|body| &body.body)),
            KindSpec::Graph(node) => called.extend(node.graph.iter().map(|name| &*name.value)),
            _ => {}
        }
        let names = match body {
            KindSpec::Llm(llm) => llm.tools.as_slice(),
            KindSpec::Tool(node) => node.tool.as_slice(),
            _ => &[],
        };
        for tool in names.iter().filter_map(|name| tool(project, &name.value)) {
            found.tools.push(tool);
            if let ToolBodySpec::Graph(graph) = &tool.body {
                called.push(&graph.value);
            }
        }
        found.bodies.push(body);
        for graph in called.into_iter().filter_map(|name| graphs.get(name)) {
            if seen.insert(graph.id.as_str()) {
                found.graphs.push(graph);
                todo.extend(bodies(graph));
            }
        }
    }
    found
}

/// What a graph, or a tool, does outside with all that it calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// The strongest effects of its calls.
    pub(super) effects: Effects,
    /// The same, without the calls that a person approves.
    pub(super) unasked: Effects,
    /// What it gives may come from outside: from another side, a person, or a model.
    pub(super) outside: bool,
}

impl Reach {
    const NOWHERE: Self = Self { effects: Effects::None, unasked: Effects::None, outside: false };

    /// Takes a call in; where a person approves it, it is none that is not asked for.
    fn add(&mut self, effects: Effects, approval: bool) {
        self.effects = self.effects.max(effects);
        if !approval {
            self.unasked = self.unasked.max(effects);
        }
    }

    /// Takes in what a node, or the body of a `map`, does; returns the graphs that it calls besides, each with whether a
    /// person approved that.
    fn take_in<'a>(
        &mut self,
        body: &'a KindSpec,
        declared: Option<Effects>,
        approved: bool,
        project: &'a Project,
    ) -> Vec<(&'a str, bool)> {
        let tools = match body {
            KindSpec::Llm(llm) => llm.tools.as_slice(),
            KindSpec::Tool(node) => node.tool.as_slice(),
            _ => &[],
        };
        self.outside |= !matches!(
            body,
            KindSpec::Graph(_)
                | KindSpec::Say { .. }
                | KindSpec::Set { .. }
                | KindSpec::Route
                | KindSpec::Fail { .. }
        );
        let mut inner = Vec::new();
        match (body, declared) {
            (
                KindSpec::Http(_) | KindSpec::Custom(_) | KindSpec::Tool(_) | KindSpec::Graph(_),
                Some(effects),
            ) => {
                self.add(effects, approved);
                // What is in it, nobody looked at.
                self.outside = true;
                return inner;
            }
            (KindSpec::Http(http), None) => self.add(request::effects(&http.request), approved),
            (KindSpec::Custom(_), None) => self.add(Effects::AtMostOnce, approved),
            (KindSpec::Graph(node), None) => {
                inner.extend(node.graph.iter().map(|name| (&*name.value, approved)));
            }
            _ => {}
        }
        for tool in tools.iter().filter_map(|name| tool(project, &name.value)) {
            let approved = approved || tool.approval;
            match (&tool.effects, &tool.body) {
                (Some(effects), _) => self.add(effects_of(effects.value), approved),
                (None, ToolBodySpec::Http(http)) => self.add(request::effects(http), approved),
                (None, ToolBodySpec::Custom(_) | ToolBodySpec::Mcp(_)) => {
                    self.add(Effects::AtMostOnce, approved);
                }
                (None, ToolBodySpec::Graph(graph)) => inner.push((&graph.value, approved)),
            }
        }
        inner
    }
}

/// Finds out what a graph does outside. What a node or a tool declares stands for all that it calls.
pub(super) fn reach(graph: &Graph, graphs: &BTreeMap<String, Graph>, project: &Project) -> Reach {
    let mut found = Reach::NOWHERE;
    let mut seen = BTreeSet::new();
    // A graph, and whether a person approved that it is called.
    let mut todo = vec![(graph, false)];
    while let Some((graph, approved)) = todo.pop() {
        for spec in graph.nodes.iter().filter_map(|(_, spec)| spec.as_ref()) {
            let (body, declared) = match &spec.body {
                KindSpec::Map(map) => match &map.body {
                    Some(body) => (&body.body, body.effects.as_ref()),
                    None => continue,
                },
                body => (body, spec.effects.as_ref()),
            };
            let declared = declared.map(|effects| effects_of(effects.value));
            let inner = found.take_in(body, declared, approved, project);
            let inner = inner.into_iter().filter_map(|(name, approved)| Some((graphs.get(name)?, approved)));
            todo.extend(inner.filter(|(graph, approved)| seen.insert((graph.id.as_str(), *approved))));
        }
    }
    found
}

/// A call of another graph.
#[derive(Clone, Copy)]
struct CallOf<'a> {
    graph: &'a str,
    /// Where the call is written.
    at: Span,
}

/// Reports graphs that call each other deeper than the engine goes; false when there are such. A call that leads back
/// counts for nothing here: how often it is made is seen when it is made.
pub(super) fn check_depth(folder: &Folder, bag: &mut Bag) -> bool {
    let lists: BTreeMap<&str, BTreeSet<String>> = folder
        .graphs
        .iter()
        .map(|(id, graph)| (id.as_str(), direct(graph, &folder.project).graphs))
        .collect();
    let calls: BTreeMap<&str, Vec<&str>> =
        lists.iter().map(|(id, list)| (*id, list.iter().map(String::as_str).collect())).collect();
    let mut depth: BTreeMap<&str, usize> = BTreeMap::new();
    for part in knots(&calls) {
        // Those of the part itself have no depth yet.
        let called = part.iter().flat_map(|id| &calls[id]).filter_map(|id| depth.get(id));
        let deepest = called.map(|depth| depth + 1).max().unwrap_or(0);
        depth.extend(part.into_iter().map(|id| (id, deepest)));
    }
    let mut fine = true;
    // Those that call one of these are too deep as well, and are not told.
    for graph in folder.graphs.values().filter(|graph| depth.get(&*graph.id) == Some(&(MOST_CALLS + 1))) {
        let deep = |name: &str| depth.get(name) == Some(&MOST_CALLS);
        let node = nodes_that_call(graph, &folder.project).into_values().find(|call| deep(call.graph));
        let message = format!("graphs call each other more than {MOST_CALLS} deep");
        let span = node.map_or(graph.top, |call| call.at);
        let label = format!("what it calls goes {MOST_CALLS} deep");
        let finding = Diagnostic::error("G214", message, span, label);
        bag.report(finding.help("put what a chain of graphs does into one of them"));
        fine = false;
    }
    fine
}

/// Returns the nodes that call other graphs, themselves or by their tool. The body of a `map` is none: a list may be
/// empty. Nor are the tools of a model: it may do without.
fn nodes_that_call<'a>(graph: &'a Graph, project: &'a Project) -> BTreeMap<&'a str, CallOf<'a>> {
    let call = |body: &'a KindSpec| match body {
        KindSpec::Graph(node) => node.graph.as_ref().map(|name| CallOf { graph: &name.value, at: name.span }),
        KindSpec::Tool(node) => {
            let name = node.tool.as_ref()?;
            match &tool(project, &name.value)?.body {
                ToolBodySpec::Graph(graph) => Some(CallOf { graph: &graph.value, at: name.span }),
                _ => None,
            }
        }
        _ => None,
    };
    let nodes = graph.nodes.iter().filter_map(|(name, spec)| Some((name, spec.as_ref()?)));
    nodes.filter_map(|(name, spec)| Some((name.value.as_str(), call(&spec.body)?))).collect()
}

/// Reports graphs that call each other without a way out.
pub(super) fn check_ways_out(graphs: &[(&Graph, &Plan)], project: &Project, bag: &mut Bag) {
    let mut ending: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = ending.len();
        for (graph, plan) in graphs {
            if !ending.contains(graph.id.as_str()) && ends(graph, plan, project, &ending) {
                ending.insert(&graph.id);
            }
        }
        if ending.len() == before {
            break;
        }
    }
    let known: BTreeMap<&str, &Graph> = graphs.iter().map(|(graph, _)| (graph.id.as_str(), *graph)).collect();
    let mut told = BTreeSet::new();
    for (graph, _) in graphs.iter().filter(|(graph, _)| !ending.contains(graph.id.as_str())) {
        // Along the first call that does not come back, until a graph is there again.
        let mut way: Vec<(&Graph, Span)> = Vec::new();
        let mut at = *graph;
        let first = loop {
            if let Some(n) = way.iter().position(|(seen, _)| seen.id == at.id) {
                break Some(n);
            }
            let calls = nodes_that_call(at, project);
            let stuck = calls.values().find(|call| !ending.contains(call.graph));
            let Some((call, next)) = stuck.and_then(|call| Some((call, known.get(call.graph)?))) else {
                break None;
            };
            way.push((at, call.at));
            at = next;
        };
        let Some(first) = first else { continue };
        let circle = &way[first..];
        if circle.iter().any(|(graph, _)| told.contains(graph.id.as_str())) {
            continue;
        }
        told.extend(circle.iter().map(|(graph, _)| graph.id.as_str()));
        let ids: Vec<&str> = circle.iter().chain(&circle[..1]).map(|(graph, _)| graph.id.as_str()).collect();
        let (one, many) = ("the graph calls itself on every way", "the graphs call each other on every way");
        let message = if circle.len() == 1 { one } else { many };
        let mut finding = Diagnostic::error(
            "G214",
            message,
            circle[0].1,
            format!("never comes back: {}", ids.join(" -> ")),
        );
        for (_, span) in &circle[1..] {
            finding = finding.related(*span, "and on from here");
        }
        bag.report(finding.help("add a way to `end` that does not come by the call"));
    }
}

/// Says whether a graph can come to an end when only these graphs do.
fn ends(graph: &Graph, plan: &Plan, project: &Project, ending: &BTreeSet<&str>) -> bool {
    let calls = nodes_that_call(graph, project);
    let passes = |name: &str| calls.get(name).is_none_or(|call| ending.contains(call.graph));
    let mut seen = BTreeSet::new();
    let mut todo: Vec<Target> = plan.start.targets().into_iter().collect();
    while let Some(target) = todo.pop() {
        let Target::Node(name) = target else { return true };
        let Some(node) = plan.nodes.get(&name).filter(|_| passes(&name)) else { continue };
        if node.fails() {
            return true;
        }
        if seen.insert(name) {
            todo.extend(node.successors_without_error());
        }
    }
    false
}
