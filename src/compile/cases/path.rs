//! A path against the edges of its graph.

use std::collections::BTreeSet;

use super::Scene;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned};
use crate::plan::{Plan, PlanNode, Target};

/// Tells where a path is no walk of the graph. Its nodes are known.
pub(super) fn check_walk(
    scene: &Scene<'_>,
    only: Option<&str>,
    span: Span,
    steps: &[Vec<Spanned<String>>],
    fails: bool,
    bag: &mut Bag,
) {
    let plan = scene.plan;
    if let Some(only) = only {
        let alone = matches!(steps, [step] if matches!(step.as_slice(), [node] if node.value == only));
        if !alone {
            let message = format!("only `{only}` runs in this case");
            let finding = Diagnostic::error("M514", message, span, "the path names other nodes");
            bag.report(finding.help(format!("write  path: [{only}]")));
        }
        return;
    }
    let starts = names(&plan.start.targets());
    // Until something ran beside something else, one node follows from the one before it.
    let (mut before, mut several): (Vec<&str>, bool) = (Vec::new(), false);
    for (at, step) in steps.iter().enumerate() {
        for node in step {
            let follows = match before.as_slice() {
                [] => starts.contains(&node.value),
                before => before.iter().any(|from| leads(plan, from, &node.value)),
            };
            if !follows {
                gap(scene, if at == 0 { None } else { before.last().copied() }, several, node, &starts, bag);
                return;
            }
        }
        several |= step.len() > 1;
        if !several {
            before.clear();
        }
        before.extend(step.iter().map(|node| node.value.as_str()));
    }
    let Some(last) = steps.last().and_then(|step| step.last()) else { return };
    let ends = |name: &str| {
        plan.nodes.get(name).is_some_and(PlanNode::fails) || after(plan, name).contains(&Target::End)
    };
    if !fails && !several && !ends(&last.value) {
        let message = format!("the path stops at `{}`, which goes on", last.value);
        let finding = Diagnostic::error("M514", message, last.span, "no edge leads from here to `end`");
        let finding = scene.places.of_node(finding, &last.value, "goes on from here");
        bag.report(finding.help(leading(plan, &last.value)));
    }
}

fn gap(
    scene: &Scene<'_>,
    from: Option<&str>,
    several: bool,
    node: &Spanned<String>,
    starts: &BTreeSet<String>,
    bag: &mut Bag,
) {
    let plan = scene.plan;
    let to = &node.value;
    let finding = match from {
        None => {
            let finding =
                Diagnostic::error("M514", format!("no run starts at `{to}`"), node.span, "not a first node");
            finding.help(format!("the graph starts at {}", list(starts)))
        }
        Some(_) if several => {
            let message = format!("no edge leads to `{to}` from a node before it");
            let finding = Diagnostic::error("M514", message, node.span, "the path has a gap before this");
            finding.help(format!("`{to}` is reached from {}", list(&sources(plan, to))))
        }
        Some(from) => {
            let message = format!("no edge leads from `{from}` to `{to}`");
            let finding = Diagnostic::error("M514", message, node.span, "the path has a gap before this");
            let reached = format!("`{to}` is reached from {}", list(&sources(plan, to)));
            let finding = scene.places.of_node(finding, from, "goes elsewhere");
            finding.help(leading(plan, from)).note(reached)
        }
    };
    bag.report(finding);
}

/// Returns what can run after a node, where nodes whose visits are used up let others run in their place.
fn after(plan: &Plan, node: &str) -> BTreeSet<Target> {
    let mut todo: Vec<Target> = plan.nodes.get(node).into_iter().flat_map(PlanNode::successors).collect();
    let mut all = BTreeSet::new();
    while let Some(target) = todo.pop() {
        if all.insert(target.clone())
            && let Target::Node(name) = &target
            && let Some((_, instead)) = plan.nodes.get(name).and_then(|node| node.max_visits.as_ref())
        {
            todo.push(instead.clone());
        }
    }
    all
}

fn leads(plan: &Plan, from: &str, to: &str) -> bool {
    after(plan, from).iter().any(|target| matches!(target, Target::Node(name) if name == to))
}

fn names(targets: &BTreeSet<Target>) -> BTreeSet<String> {
    targets.iter().map(|target| target.name().to_owned()).collect()
}

fn sources(plan: &Plan, to: &str) -> BTreeSet<String> {
    plan.sources(to).into_iter().map(str::to_owned).collect()
}

fn leading(plan: &Plan, from: &str) -> String {
    format!("`{from}` goes to {}", list(&names(&after(plan, from))))
}

fn list(names: &BTreeSet<String>) -> String {
    if names.is_empty() {
        return "nowhere".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
