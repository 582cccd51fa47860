//! Tests against the graphs that they test: names, values, scripts and paths.
//!
//! Invariant: only sound graphs are compared with; what follows from a broken one is not told.

mod path;
mod places;
mod question;
mod script;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::unused::only_values;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean};
use crate::event::NAMES;
use crate::model::Kind;
use crate::plan::{Output, Plan};
use crate::spec::{
    CaseSpec, ExpectSpec, FailureSpec, Folder, KindSpec, OpeningSpec, PathSpec, TestFile, ToolBodySpec,
    ToolSpec, TurnSpec,
};
use crate::state::{Channel, Mismatch, Type, check_pattern};
use places::Places;
use script::{Role, check_script, check_sent, outer, role};

/// The plans of the graphs that could be read with the types of what they give, by id.
pub(super) type Plans<'a> = BTreeMap<&'a str, (&'a Plan, &'a Type)>;

/// Checks all test files of a project. Plans that are not `whole` lack the work of their nodes: what scripts stand for is
/// not looked at then.
pub(super) fn check_tests(folder: &Folder, plans: &Plans<'_>, whole: bool, bag: &mut Bag) {
    let codes = codes(folder);
    for test in folder.tests.values() {
        check_names(test, bag);
        let Some(graph) = &test.graph else { continue };
        let Some(&(plan, gives)) = plans.get(graph.value.as_str()) else {
            let there =
                folder.graphs.contains_key(&graph.value) || folder.broken_graphs.contains(&graph.value);
            if !there {
                let known: Vec<&str> = folder.graphs.keys().map(String::as_str).collect();
                let message = format!("unknown graph `{}`", graph.value);
                let finding = Diagnostic::error("M514", message, graph.span, "no file has this name");
                bag.report(finding.help_maybe(did_you_mean(&graph.value, known)));
            }
            continue;
        };
        // A node whose model or prompt is broken is not in the plan.
        let broken = |graph: &crate::spec::Graph| {
            bag.errors_in(graph.file) > 0 || graph.broken_nodes || graph.nodes.len() > plan.nodes.len()
        };
        let Some(of) = folder.graphs.get(&graph.value).filter(|of| !broken(of)) else { continue };
        let looks = Cell::new(0);
        let places = Places { tree: &test.tree, graph: of, looks: &looks };
        let mut told = BTreeSet::new();
        for case in &test.cases {
            check_case(
                &Scene { plan, gives, places, case, begins: true, whole, codes: codes.as_ref() },
                graph,
                &mut told,
                bag,
            );
        }
    }
}

/// Checks the names of nodes in the tests of graphs that have errors of values: the nodes are known nevertheless.
pub(super) fn check_beside(folder: &Folder, bag: &mut Bag) {
    for test in folder.tests.values() {
        let graph = test.graph.as_ref().and_then(|name| folder.graphs.get(&name.value));
        let Some(graph) = graph.filter(|graph| !graph.broken_nodes && bag.errors_in(graph.file) > 0) else {
            continue;
        };
        if !only_values(graph.file, bag) {
            continue;
        }
        let nodes: Vec<&str> = graph.nodes.iter().map(|(name, _)| name.value.as_str()).collect();
        let expected = test.cases.iter().flat_map(|case| &case.turns).map(|turn| &turn.expect);
        let walks = expected.clone().flat_map(|expect| match &expect.path {
            Some(PathSpec::Exact(_, steps)) => steps.iter().flatten().collect(),
            Some(PathSpec::Part { contains, never }) => contains.iter().chain(never).collect::<Vec<_>>(),
            None => Vec::new(),
        });
        let scripts = test.cases.iter().flat_map(|case| &case.turns).flat_map(|turn| &turn.script);
        let only = test.cases.iter().filter_map(|case| case.only.as_ref());
        let names = walks.chain(scripts.map(|script| &script.node)).chain(only);
        for name in names.filter(|name| !nodes.contains(&outer(&name.value))) {
            unknown_node(name, nodes.iter().copied(), bag);
        }
    }
}

/// Refuses two cases of one name.
fn check_names(test: &TestFile, bag: &mut Bag) {
    let mut first: BTreeMap<&str, Span> = BTreeMap::new();
    for CaseSpec { name, .. } in &test.cases {
        if let Some(before) = first.get(name.value.as_str()) {
            let message = format!("two cases are called `{}`", name.value);
            let finding = Diagnostic::error("M514", message, name.span, "the second one");
            let help = if *before == name.span {
                "put a value of the row into the name, or make each row another one"
            } else {
                "name each case after what it alone shows"
            };
            bag.report(finding.related(*before, "the first one").help(help));
        } else {
            first.insert(&name.value, name.span);
        }
    }
}

struct Scene<'a> {
    plan: &'a Plan,
    /// The type of what the graph gives.
    gives: &'a Type,
    places: Places<'a>,
    case: &'a CaseSpec,
    /// The turn begins a run.
    begins: bool,
    /// The nodes of the plan have their work.
    whole: bool,
    /// The codes that `fail` nodes of the project end runs with; nothing where functions of a host program may have
    /// codes of their own.
    codes: Option<&'a BTreeSet<&'a str>>,
}

/// Collects the codes of `fail` nodes.
fn codes(folder: &Folder) -> Option<BTreeSet<&str>> {
    let is_custom = |tool: &ToolSpec| matches!(tool.body, ToolBodySpec::Custom(_));
    if folder.project.tools.iter().any(|(_, tool)| is_custom(tool)) {
        return None;
    }
    let mut codes = BTreeSet::new();
    let nodes = folder.graphs.values().flat_map(|graph| &graph.nodes);
    for spec in nodes.filter_map(|(_, spec)| spec.as_ref()) {
        let body = match &spec.body {
            KindSpec::Map(map) => map.body.as_ref().map(|body| &body.body),
            body => Some(body),
        };
        match body {
            Some(KindSpec::Custom(_)) => return None,
            Some(KindSpec::Fail { code: Some(code), .. }) => drop(codes.insert(code.as_str())),
            _ => {}
        }
    }
    Some(codes)
}

/// The kinds of errors that a run can end with, but for those of a status.
const ENDS: [&str; 12] = [
    "timeout",
    "connection",
    "rate_limit",
    "server_error",
    "schema",
    "tool",
    "merge",
    "template",
    "failed",
    "uncertain",
    "dismissed",
    "limit",
];

fn check_case(scene: &Scene<'_>, graph: &Spanned<String>, told: &mut BTreeSet<String>, bag: &mut Bag) {
    let Scene { plan, case, .. } = scene;
    if let Some(only) = &case.only {
        known_node(plan, only, bag);
    }
    for (name, value) in &case.given.input {
        match plan.input.get(&name.value) {
            Some(field) => {
                let wrong = check_value(&name.value, value, field.ty.check(&value.value), scene.places);
                bag.report_maybe(wrong.map(|wrong| scene.places.of_input(wrong, &name.value)));
            }
            None => {
                let message = format!("the graph has no input `{}`", name.value);
                let finding = Diagnostic::error("M514", message, name.span, "no input has this name");
                let known: Vec<&str> = plan.input.keys().map(String::as_str).collect();
                bag.report(finding.help_maybe(did_you_mean(&name.value, known)));
            }
        }
    }
    for (name, field) in &plan.input {
        let given = case.given.input.iter().any(|(given, _)| given.value == *name);
        let needed = field.default.is_none() && !matches!(field.ty, Type::Nullable(_));
        // One default for all cases mends them all.
        if needed && !given && told.insert(name.clone()) {
            let message = format!("the input `{name}` is missing");
            let finding = Diagnostic::error("M514", message, case.name.span, "no run can begin");
            let related = finding.related(graph.span, "this graph needs it");
            bag.report(related.help(format!("add  given: {{input: {{{name}: …}}}}")));
        }
    }
    for (name, value) in &case.given.state {
        if let Some(channel) = known_channel(plan, name, bag) {
            check_held(scene, channel, name, value, bag);
        }
    }
    if let Some(messages) = &case.given.messages
        && conversation(plan, messages.span, "nothing holds the messages", bag)
    {
        let checked = Type::Messages.check(&messages.value);
        bag.report_maybe(check_value("messages", messages, checked, scene.places));
    }
    let (mut paused, mut before) = (false, None);
    for turn in &case.turns {
        let answers = matches!(turn.opening, OpeningSpec::Answer(_) | OpeningSpec::Answers(_));
        if answers && !paused {
            let finding = Diagnostic::error("M514", "an answer without a question", turn.span, "this turn");
            bag.report(finding.help("the turn before needs  expect: {paused_at: <node>}"));
        } else if scene.whole {
            question::check_answers(plan, before, turn, bag);
        }
        let plain = matches!(turn.opening, OpeningSpec::Run);
        // A plain message may be an answer, too.
        check_turn(&Scene { begins: plain && !paused, ..*scene }, turn, bag);
        paused = turn.expect.paused_at.is_some();
        before = Some(turn);
    }
}

fn check_turn(scene: &Scene<'_>, turn: &TurnSpec, bag: &mut Bag) {
    let plan = scene.plan;
    if let Some(user) = &turn.user
        && conversation(plan, user.span, "nothing holds what is said", bag)
        && user.value.is_array()
    {
        let turn = serde_json::json!([{"role": "user", "content": user.value}]);
        let finding = Type::Messages.check(&turn).err();
        bag.report_maybe(finding.map(|wrong| cannot_hold("user", user.span, &wrong.to_string())));
    }
    for script in turn.script.iter().filter(|_| scene.whole) {
        check_script(scene, &turn.expect, script, bag);
    }
    check_expect(scene, &turn.expect, bag);
}

fn check_expect(scene: &Scene<'_>, expect: &ExpectSpec, bag: &mut Bag) {
    let plan = scene.plan;
    match &expect.path {
        None => {}
        Some(PathSpec::Part { contains, never }) => {
            for name in contains.iter().chain(never) {
                known_node(plan, name, bag);
            }
        }
        Some(PathSpec::Exact(span, steps)) => {
            let known: Vec<bool> =
                steps.iter().flatten().map(|name| known_node(plan, name, bag).is_some()).collect();
            let only = scene.case.only.as_ref().map(|only| only.value.as_str());
            // After an answer the way begins in the middle.
            if scene.begins && known.into_iter().all(|known| known) {
                let cut = expect.error.is_some() || expect.paused_at.is_some();
                path::check_walk(scene, only, *span, steps, cut, bag);
            }
        }
    }
    for (name, value) in &expect.state {
        if let Some(channel) = known_channel(plan, name, bag)
            && !value.value.is_null()
        {
            check_held(scene, channel, name, value, bag);
        }
    }
    for (name, value) in &expect.output {
        check_output(scene, name, value, bag);
    }
    if let Some(reply) = &expect.reply {
        let at =
            reply.equals.iter().chain(&reply.contains).chain(&reply.matches).map(|text| text.span).next();
        conversation(plan, at.unwrap_or(expect.span), "nobody is spoken to", bag);
        if let Some(pattern) = &reply.matches
            && let Err(why) = check_pattern(&pattern.value)
        {
            let message = "this is no regular expression";
            bag.report(Diagnostic::error("M514", message, pattern.span, why));
        }
    }
    let calls = expect.calls.iter().map(|(name, call)| (name, Some(call)));
    for (name, call) in calls.chain(expect.prompt.iter().map(|(name, _)| (name, None))) {
        if !scene.whole {
            let node = Spanned { value: outer(&name.value).to_owned(), ..*name };
            known_node(plan, &node, bag);
            continue;
        }
        let Some(role) = role(plan, name, bag) else { continue };
        match call {
            Some(call) => check_sent(&role, name, &call.with, scene.places, bag),
            None if matches!(role, Role::Model(_)) => {}
            None => {
                let message = format!("`{}` calls no model", name.value);
                bag.report(Diagnostic::error("M514", message, name.span, format!("calls {}", role.what())));
            }
        }
    }
    for (name, _) in &expect.attempts {
        known_node(plan, name, bag);
    }
    for node in expect.paused_at.iter().flatten() {
        if scene.whole {
            question::asked(plan, node, bag);
        } else {
            known_node(plan, &Spanned { value: outer(&node.value).to_owned(), ..*node }, bag);
        }
    }
    for event in &expect.events {
        if !NAMES.contains(&event.value.as_str()) {
            let message = format!("unknown event `{}`", event.value);
            let finding = Diagnostic::error("M514", message, event.span, "no event has this name");
            bag.report(finding.help_maybe(did_you_mean(&event.value, NAMES)));
        }
    }
    let is_kind = |text: &str| Kind::named(text).is_some() || ENDS.contains(&text) || text == "internal";
    if let Some(FailureSpec { kind: Some(kind), .. }) = &expect.error
        && !is_kind(&kind.value)
    {
        let message = format!("unknown error kind `{}`", kind.value);
        let finding = Diagnostic::error("M514", message, kind.span, "no error has this kind");
        bag.report(finding.help_maybe(did_you_mean(&kind.value, ENDS)));
    }
    if let (Some(FailureSpec { any: Some(any), .. }), Some(codes)) = (&expect.error, scene.codes)
        && !is_kind(&any.value)
        && !codes.contains(any.value.as_str())
    {
        let message = format!("no error has the kind or the code `{}`", any.value);
        let label = "no kind, and no `fail` node has this code";
        let finding = Diagnostic::error("M514", message, any.span, label);
        let known: Vec<&str> = codes.iter().copied().chain(ENDS).collect();
        bag.report(finding.help_maybe(did_you_mean(&any.value, known)));
    }
}

fn check_output(scene: &Scene<'_>, name: &Spanned<String>, value: &Spanned<Json>, bag: &mut Bag) {
    let Scene { plan, case, gives, .. } = scene;
    let public = || {
        let shown =
            |(name, channel): &(&String, &Channel)| !channel.private && Some(*name) != plan.messages.as_ref();
        plan.channels.iter().filter(shown).map(|(name, _)| name.as_str()).collect()
    };
    let known: Vec<&str> = match &plan.output {
        // A node alone does not bring about what the graph gives.
        _ if case.only.is_some() => public(),
        Output::Public => public(),
        Output::Channels(names) => names.iter().map(String::as_str).collect(),
        Output::Map(map) => map.keys().map(String::as_str).collect(),
    };
    if !known.contains(&name.value.as_str()) {
        let message = format!("the graph gives no `{}`", name.value);
        let finding = Diagnostic::error("M514", message, name.span, "not in its output");
        bag.report(finding.help_maybe(did_you_mean(&name.value, known)));
    } else if let (Output::Map(_), None) = (&plan.output, &case.only) {
        // An object may lack fields that nobody wrote.
        let whole = !value.value.is_null() && !value.value.is_object();
        if let Some(ty) = gives.field(&name.value).filter(|_| whole) {
            bag.report_maybe(check_value(&name.value, value, ty.check(&value.value), scene.places));
        }
    } else if let Some(channel) = plan.channels.get(&name.value)
        && !value.value.is_null()
    {
        check_held(scene, channel, name, value, bag);
    }
}

/// Returns the kind of a node; an unknown one is told.
fn known_node<'p>(plan: &'p Plan, name: &Spanned<String>, bag: &mut Bag) -> Option<&'p str> {
    if let Some(node) = plan.nodes.get(&name.value) {
        return Some(node.job.kind);
    }
    unknown_node(name, plan.nodes.keys().map(String::as_str), bag);
    None
}

fn unknown_node<'n>(name: &Spanned<String>, known: impl Iterator<Item = &'n str> + Clone, bag: &mut Bag) {
    let message = format!("unknown node `{}`", name.value);
    let finding = Diagnostic::error("M514", message, name.span, "no node of the graph has this name");
    let help = match name.value.as_str() {
        "end" | "start" => Some("a path names nodes only".to_owned()),
        _ => did_you_mean(&name.value, known),
    };
    bag.report(finding.help_maybe(help));
}

/// Returns a channel; an unknown one is told.
fn known_channel<'p>(plan: &'p Plan, name: &Spanned<String>, bag: &mut Bag) -> Option<&'p Channel> {
    let found = plan.channels.get(&name.value);
    if found.is_none() {
        let message = format!("unknown channel `{}`", name.value);
        let finding = Diagnostic::error("M514", message, name.span, "no channel has this name");
        bag.report(finding.help_maybe(did_you_mean(&name.value, plan.channels.keys().map(String::as_str))));
    }
    found
}

/// Tells a graph without a conversation where one is due.
fn conversation(plan: &Plan, at: Span, label: &str, bag: &mut Bag) -> bool {
    if plan.messages.is_none() {
        let finding = Diagnostic::error("M514", "this graph holds no conversation", at, label);
        bag.report(
            finding.help("give its inputs under  given: {input: {…}}  and look at `state` and `output`"),
        );
    }
    plan.messages.is_some()
}

/// Checks a value that a channel is to hold.
fn check_held(
    scene: &Scene<'_>,
    channel: &Channel,
    name: &Spanned<String>,
    value: &Spanned<Json>,
    bag: &mut Bag,
) {
    let wrong = check_value(&name.value, value, channel.check_held(&value.value), scene.places);
    bag.report_maybe(wrong.map(|wrong| scene.places.of_channel(wrong, &name.value)));
}

/// Tells a value that does not fit, at the part that does not.
fn check_value(
    name: &str,
    value: &Spanned<Json>,
    checked: Result<(), Mismatch>,
    places: Places<'_>,
) -> Option<Diagnostic> {
    let wrong = checked.err()?;
    let at = places.misfit(value.span, "", &wrong);
    let why = if at.is_some() { wrong.why } else { wrong.to_string() };
    Some(cannot_hold(name, at.unwrap_or(value.span), &why))
}

fn cannot_hold(name: &str, at: Span, why: &str) -> Diagnostic {
    Diagnostic::error("M514", format!("`{name}` cannot hold this"), at, why)
}
