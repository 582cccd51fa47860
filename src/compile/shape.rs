//! The shape of a graph: what can be reached, where it ends, and what bounds its loops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::knots::{is_round, knots};
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned};
use crate::plan::{Next, Plan, PlanNode, START, Target, Work};
use crate::spec::{Graph, KindSpec, NodeSpec};

/// Checks the shape of a graph whose edges are all known; false when a run may never end.
pub(super) fn check_shape(graph: &Graph, plan: &Plan, steps: Option<&Spanned<u64>>, bag: &mut Bag) -> bool {
    let at: BTreeMap<&str, Span> =
        graph.nodes.iter().map(|(name, _)| (name.value.as_str(), name.span)).collect();
    let specs: BTreeMap<&str, &NodeSpec> =
        graph.nodes.iter().filter_map(|(name, spec)| Some((name.value.as_str(), spec.as_ref()?))).collect();
    let endless = check_ends(graph, plan, &at, bag);
    // What nothing leads to may be the way out that is missing.
    if !endless {
        check_reachable(graph, plan, &at, bag);
    }
    let sound = !endless && !check_loops(graph, plan, &at, bag);
    check_half_used(graph, plan, &specs, bag);
    check_steps(plan, steps, bag);
    sound
}

fn nodes_of(targets: BTreeSet<Target>) -> impl Iterator<Item = String> {
    targets.into_iter().filter_map(|target| match target {
        Target::Node(name) => Some(name),
        Target::End => None,
    })
}

fn check_reachable(graph: &Graph, plan: &Plan, at: &BTreeMap<&str, Span>, bag: &mut Bag) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut todo: Vec<String> = nodes_of(plan.start.targets()).collect();
    todo.extend(plan.on_limit.iter().map(|to| to.name().to_owned()));
    while let Some(name) = todo.pop() {
        if let Some(node) = plan.nodes.get(&name)
            && seen.insert(name)
        {
            todo.extend(nodes_of(node.successors()));
        }
    }
    // What only an unreached node leads to is not told again: first those that nothing leads to, then whole circles.
    let lost = || graph.nodes.iter().map(|(name, _)| name).filter(|name| !seen.contains(&name.value));
    let after = |name: &str| plan.nodes.get(name).map(PlanNode::successors).unwrap_or_default();
    let led_to: BTreeSet<String> = lost()
        .flat_map(|name| nodes_of(after(&name.value)).filter(|next| *next != name.value).collect::<Vec<_>>())
        .collect();
    let mut told: BTreeSet<String> = BTreeSet::new();
    for first in [true, false] {
        for name in lost().filter(|name| !first || !led_to.contains(&name.value)) {
            if told.contains(&name.value) {
                continue;
            }
            let mut todo = vec![name.value.clone()];
            while let Some(next) = todo.pop() {
                if told.insert(next.clone()) {
                    todo.extend(nodes_of(after(&next)).filter(|next| !seen.contains(next)));
                }
            }
            let span = at.get(name.value.as_str()).copied().unwrap_or(name.span);
            let message = format!("node `{}` is never reached", name.value);
            bag.report(
                Diagnostic::warning("G203", message, span, format!("no path from `{START}` leads here"))
                    .help("name it in a `next`, or remove it"),
            );
        }
    }
}

/// Reports nodes from which no way leads to an end; true when there are some.
fn check_ends(graph: &Graph, plan: &Plan, at: &BTreeMap<&str, Span>, bag: &mut Bag) -> bool {
    // Backwards from the nodes that end a run.
    let mut sources: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut todo: Vec<&str> = Vec::new();
    for (name, node) in &plan.nodes {
        // A way that only an error ends is none.
        let successors = node.successors_without_error();
        if node.fails() || successors.contains(&Target::End) {
            todo.push(name);
        }
        for next in nodes_of(successors) {
            sources.entry(next).or_default().push(name);
        }
    }
    let mut ends: BTreeSet<&str> = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if ends.insert(name) {
            todo.extend(sources.get(name).into_iter().flatten());
        }
    }
    let edges = |name: &str| plan.nodes.get(name).map(PlanNode::successors_without_error).unwrap_or_default();
    let stuck =
        || graph.nodes.iter().map(|(name, _)| name).filter(|name| !ends.contains(name.value.as_str()));
    let Some(first) = stuck().next() else { return false };
    // The first that lies on a circle: the others only lead to it.
    let (name, cycle) = match endless_among(stuck().take(MOST_STUCK), edges) {
        Some(found) => found,
        None => (first, cycle_from(&first.value, edges)),
    };
    let span = at.get(name.value.as_str()).copied().unwrap_or(name.span);
    bag.report(
        Diagnostic::error(
            "G204",
            "no path leads to an end",
            span,
            format!("from here the run goes on for ever: {cycle}"),
        )
        .help("a run ends after its reply and the next message starts the next run: use  next: end"),
    );
    true
}

/// Reports a loop that nothing bounds. Once its visits are used up, a bounded node leaves by `on_max` only:
/// what still loops then loops for ever.
fn check_loops(graph: &Graph, plan: &Plan, at: &BTreeMap<&str, Span>, bag: &mut Bag) -> bool {
    let edges = |name: &str, errors: bool| match plan.nodes.get(name) {
        // A person bounds what comes by a question: but not when nobody answers.
        Some(node) if matches!(node.job.work, Work::Ask(_)) => {
            node.on_timeout().into_iter().cloned().collect()
        }
        Some(PlanNode { max_visits: Some((_, to)), .. }) => BTreeSet::from([to.clone()]),
        Some(node) if errors => node.successors(),
        Some(node) => node.next.targets(),
        None => BTreeSet::new(),
    };
    let place = |name: &Spanned<String>| at.get(name.value.as_str()).copied().unwrap_or(name.span);
    if let Some((name, cycle)) = endless(graph, plan, |name| edges(name, false)) {
        bag.report(
            Diagnostic::error(
                "G205",
                "a loop without a bound",
                place(name),
                format!("nothing bounds {cycle}"),
            )
            .help("add  max_visits: 5  and  on_max: <node>  to a node of the loop"),
        );
        return true;
    }
    if plan.nodes.values().all(|node| node.on_error.is_empty()) {
        return false;
    }
    let Some((name, cycle)) = endless(graph, plan, |name| edges(name, true)) else { return false };
    let label = format!("when it fails again and again, nothing bounds {cycle}");
    bag.report(Diagnostic::error("G217", "errors lead round in a circle", place(name), label).help(
        "let the handler go on elsewhere, or add  max_visits: 3  and  on_max: <node>  to a node of the loop",
    ));
    true
}

/// Finds a node on a loop, and spells the loop.
fn endless<'a>(
    graph: &'a Graph,
    plan: &Plan,
    edges: impl Fn(&str) -> BTreeSet<Target>,
) -> Option<(&'a Spanned<String>, String)> {
    let left = peeled(plan, &edges);
    let on_loop = |name: &str| {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<String> = nodes_of(edges(name)).collect();
        while let Some(next) = todo.pop() {
            if next == name {
                return true;
            }
            if left.contains(&next) && seen.insert(next.clone()) {
                todo.extend(nodes_of(edges(&next)));
            }
        }
        false
    };
    let names = graph.nodes.iter().map(|(name, _)| name);
    let name = names.into_iter().find(|name| left.contains(&name.value) && on_loop(&name.value))?;
    Some((name, cycle_from(&name.value, edges)))
}

/// Takes away, again and again, the nodes that lead to nothing, then those that nothing leads to. What is left are the
/// loops and the ways from one loop to another.
fn peeled(plan: &Plan, edges: impl Fn(&str) -> BTreeSet<Target>) -> BTreeSet<String> {
    let mut left: BTreeSet<String> = plan.nodes.keys().cloned().collect();
    let mut forth: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut back: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in plan.nodes.keys() {
        for next in nodes_of(edges(name)) {
            back.entry(next.clone()).or_default().push(name.clone());
            forth.entry(name.clone()).or_default().push(next);
        }
    }
    for (ahead, behind) in [(&forth, &back), (&back, &forth)] {
        let reach =
            |name: &String| ahead.get(name).into_iter().flatten().filter(|next| left.contains(*next)).count();
        let mut count: BTreeMap<String, usize> =
            left.iter().map(|name| (name.clone(), reach(name))).collect();
        let mut todo: Vec<String> =
            left.iter().filter(|name| count.get(*name) == Some(&0)).cloned().collect();
        while let Some(name) = todo.pop() {
            left.remove(&name);
            for before in behind.get(&name).into_iter().flatten().filter(|before| left.contains(*before)) {
                if let Some(n) = count.get_mut(before) {
                    *n -= 1;
                    if *n == 0 {
                        todo.push(before.clone());
                    }
                }
            }
        }
    }
    left
}

/// The most nodes without an end that are looked at for a circle.
const MOST_STUCK: usize = 1_000;

/// Finds the first of some nodes that a way leads back to, and spells that way.
fn endless_among<'a>(
    mut names: impl Iterator<Item = &'a Spanned<String>>,
    edges: impl Fn(&str) -> BTreeSet<Target> + Copy,
) -> Option<(&'a Spanned<String>, String)> {
    names.find_map(|name| {
        let cycle = cycle_from(&name.value, edges);
        cycle.ends_with(&format!("-> {}", name.value)).then_some((name, cycle))
    })
}

/// Spells the shortest loop through a node, or the way to one.
fn cycle_from(start: &str, edges: impl Fn(&str) -> BTreeSet<Target>) -> String {
    let mut from: BTreeMap<String, String> = BTreeMap::new();
    let mut todo = VecDeque::from([start.to_owned()]);
    while let Some(at) = todo.pop_front() {
        for next in nodes_of(edges(&at)) {
            if next == start {
                let mut path = vec![next, at.clone()];
                let mut step = &at;
                while let Some(before) = from.get(step) {
                    path.push(before.clone());
                    step = before;
                }
                path.reverse();
                return path.join(" -> ");
            }
            if next != start && !from.contains_key(&next) {
                from.insert(next.clone(), at.clone());
                todo.push_back(next);
            }
        }
    }
    format!("{start} -> …")
}

/// Returns the nodes that a way leads back to.
fn on_loops(plan: &Plan) -> BTreeSet<String> {
    let targets: BTreeMap<&str, BTreeSet<Target>> =
        plan.nodes.iter().map(|(name, node)| (name.as_str(), node.successors())).collect();
    let name = |target: &'_ Target| match target {
        Target::Node(name) => plan.nodes.get_key_value(name).map(|(name, _)| name.as_str()),
        Target::End => None,
    };
    let forth = targets.iter().map(|(from, to)| (*from, to.iter().filter_map(name).collect())).collect();
    let loops = knots(&forth).into_iter().filter(|part| is_round(part, &forth));
    loops.flatten().map(str::to_owned).collect()
}

fn check_half_used(graph: &Graph, plan: &Plan, specs: &BTreeMap<&str, &NodeSpec>, bag: &mut Bag) {
    let on_loop = on_loops(plan);
    // Several branches may arrive one after another.
    let fans = plan.start.edges().iter().any(|edge| edge.fan_out)
        || plan.nodes.values().any(|node| node.next.edges().iter().any(|edge| edge.fan_out));
    for (name, _) in &graph.nodes {
        let Some(spec) = specs.get(name.value.as_str()) else { continue };
        if let Some(join) = &spec.join
            && plan.sources(&name.value).len() < 2
        {
            let message = "`join` on a node with one incoming edge";
            bag.report(Diagnostic::lint("G224", message, join.span, "there is nothing to wait for"));
        } else if let Some(join) = spec.join.as_ref().filter(|_| plan.is_handler(&name.value)) {
            let message = "`join` on a node that only errors lead to";
            bag.report(Diagnostic::lint("G224", message, join.span, "it runs once for each error"));
        }
        if let Some(visits) = spec.max_visits.as_ref().filter(|_| !fans && !on_loop.contains(&name.value)) {
            let message = "`max_visits` on a node that no loop leads back to";
            bag.report(Diagnostic::lint("G224", message, visits.span, "it runs once"));
        }
        if let KindSpec::Llm(llm) = &spec.body
            && llm.tools.is_empty()
        {
            for (key, span) in [
                ("max_tool_rounds", llm.max_tool_rounds.as_ref().map(|rounds| rounds.span)),
                ("on_tool_error", llm.on_tool_error.as_ref().map(|word| word.span)),
            ] {
                let Some(span) = span else { continue };
                let message = format!("`{key}` on a node without `tools`");
                bag.report(Diagnostic::lint("G224", message, span, "no tool is called"));
            }
        }
        if spec.kind.value == "route"
            && spec.next.is_some()
            && plan
                .nodes
                .get(&name.value)
                .is_some_and(|n| n.next.targets().contains(&Target::Node(name.value.clone())))
        {
            let message = format!("`{}` goes to itself and changes nothing", name.value);
            bag.report(Diagnostic::warning("G212", message, name.span, "the next round is like this one"));
        }
    }
}

/// Reports a limit of supersteps that no run can keep.
fn check_steps(plan: &Plan, limit: Option<&Spanned<u64>>, bag: &mut Bag) {
    let Some(limit) = limit else { return };
    let mut distance: BTreeMap<String, u64> = BTreeMap::new();
    let mut todo: VecDeque<(String, u64)> = nodes_of(plan.start.targets()).map(|name| (name, 1)).collect();
    let mut shortest = if plan.start.targets().contains(&Target::End) { Some(0) } else { None };
    while let Some((name, steps)) = todo.pop_front() {
        if distance.contains_key(&name) {
            continue;
        }
        distance.insert(name.clone(), steps);
        let Some(node) = plan.nodes.get(&name) else { continue };
        let fans_out = matches!(node.next, Next::All(_));
        if node.fails() || (!fans_out && node.next.targets().contains(&Target::End)) {
            shortest = Some(shortest.map_or(steps, |s: u64| s.min(steps)));
        }
        todo.extend(nodes_of(node.successors()).map(|next| (next, steps + 1)));
    }
    if let Some(shortest) = shortest.filter(|shortest| *shortest > limit.value) {
        let message = format!("the limit of {} supersteps is too low", limit.value);
        let label = format!("the shortest way to an end of `{}` has {shortest}", plan.graph);
        bag.report(
            Diagnostic::error("G218", message, limit.span, label).help(format!("allow {shortest} or more")),
        );
    }
}

/// Checks that `max_visits` and `on_max` stand together.
pub(super) fn check_bound(name: &Spanned<String>, spec: &NodeSpec, bag: &mut Bag) -> bool {
    let (span, has, lacks) = match (&spec.max_visits, &spec.on_max) {
        (Some(visits), None) => (visits.span, "max_visits", "on_max"),
        (None, Some(on_max)) => (on_max.span, "on_max", "max_visits"),
        _ => return true,
    };
    if spec.partial {
        return false;
    }
    let message = format!("node `{}` has `{has}` but no `{lacks}`", name.value);
    let finding = Diagnostic::error("G206", message, span, format!("`{lacks}` is missing"));
    bag.report(finding.help(if lacks == "on_max" { "add  on_max: <node>" } else { "add  max_visits: 5" }));
    false
}
