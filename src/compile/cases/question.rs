//! Where a run waits in a test, and whether what answers it fits.

use serde_json::Value as Json;

use super::known_node;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, suggest};
use crate::plan::{Ask, Form, Job, Plan, ToolBody, Work};
use crate::spec::{OpeningSpec, TurnSpec, caller_name};

/// The most questions of called graphs that a help names.
const TOLD: usize = 3;

/// What is asked at a place.
pub(super) enum Asked<'p> {
    Question(&'p Ask),
    /// A call waits for approval, or a graph asks that is called as a tool.
    Other,
}

/// Finds who asks by the name that a test has for it: `node`, `caller/node`, `list/node[1]`. Nobody: that is told.
pub(super) fn asked<'p>(plan: &'p Plan, name: &Spanned<String>, bag: &mut Bag) -> Option<Asked<'p>> {
    let caller = caller_name(&name.value);
    let path = caller.split('[').next().unwrap_or_default();
    let (mut level, mut parts) = (plan, path.split('/').peekable());
    loop {
        let part = parts.next()?;
        known_node(level, &Spanned { value: part.to_owned(), span: name.span }, bag)?;
        let job = body(&level.nodes.get(part)?.job);
        match (&job.work, parts.peek()) {
            (Work::Graph(call), Some(_)) => level = plan.children.get(&call.graph)?,
            (Work::Ask(ask), None) => return Some(Asked::Question(ask)),
            _ if has_tools(job) => return Some(Asked::Other),
            (Work::Graph(_), None) => {
                let message = format!("`{}` calls a graph, and it is a node of that which asks", name.value);
                let finding = Diagnostic::error("M514", message, name.span, "no run waits here");
                let mut all = Vec::new();
                askers(plan, job, &mut vec![path.to_owned()], &mut all);
                let there = all.join(", ");
                bag.report(finding.help(match all.as_slice() {
                    [] => "no node of that graph asks anybody".to_owned(),
                    [_, ..] if path == caller && is_listed(plan, path) => {
                        format!("there are: {there}; `{}` is the one of the first item", shown_item(&all[0]))
                    }
                    _ => format!("there are: {there}"),
                }));
                return None;
            }
            (_, Some(next)) => {
                let message = format!("`{part}` calls no graph that could have a node `{next}`");
                bag.report(Diagnostic::error("M514", message, name.span, "nothing asks there"));
                return None;
            }
            (_, None) => {
                let message = format!("`{}` never asks anybody", name.value);
                let finding = Diagnostic::error("M514", message, name.span, "no run waits here");
                bag.report(finding.help("name a node of the kind `ask`, or one whose calls need approval"));
                return None;
            }
        }
    }
}

/// Returns what is done for each item, where something is.
fn body(job: &Job) -> &Job {
    match &job.work {
        Work::Map(each) => &each.job,
        _ => job,
    }
}

/// Says whether a call of a job may wait for somebody.
fn has_tools(job: &Job) -> bool {
    let asks = |tool: &crate::plan::ToolPlan| tool.approval || matches!(tool.body, ToolBody::Graph(_));
    match &job.work {
        Work::Tool(tool, _) => asks(tool),
        _ => job.tools.values().any(|tool| asks(tool)),
    }
}

/// Names the nodes that ask in a graph that is called.
fn askers(plan: &Plan, job: &Job, way: &mut Vec<String>, all: &mut Vec<String>) {
    let Work::Graph(call) = &job.work else { return };
    let Some(child) = plan.children.get(&call.graph) else { return };
    for (name, node) in &child.nodes {
        if all.len() == TOLD {
            return;
        }
        way.push(name.clone());
        let job = body(&node.job);
        match &job.work {
            Work::Ask(_) => all.push(format!("`{}`", way.join("/"))),
            _ if has_tools(job) => all.push(format!("`{}`", way.join("/"))),
            // Graphs call one another in no circle.
            _ => askers(plan, job, way, all),
        }
        way.pop();
    }
}

/// Says whether a way leads through a node that works for each item of a list.
fn is_listed(plan: &Plan, path: &str) -> bool {
    let first = path.split('/').next().unwrap_or_default();
    plan.nodes.get(first).is_some_and(|node| matches!(node.job.work, Work::Map(_)))
}

fn shown_item(name: &str) -> String {
    format!("\"{}[0]\"", name.trim_matches('`'))
}

/// Holds what answers the questions of the turn before against what is asked there.
pub(super) fn check_answers(plan: &Plan, before: Option<&TurnSpec>, turn: &TurnSpec, bag: &mut Bag) {
    match &turn.opening {
        OpeningSpec::Answer(value) => {
            let waits = before.and_then(|turn| turn.expect.paused_at.as_deref()).unwrap_or_default();
            // Where several wait, one answer is for none of them; the run says so.
            if let [name] = waits
                // What is wrong with the name is told where it stands.
                && let Some(Asked::Question(ask)) = asked(plan, name, &mut Bag::default())
            {
                check_answer(ask, &name.value, &value.value, value.span, bag);
            }
        }
        OpeningSpec::Answers(all) => {
            for (name, value) in all {
                if let Some(Asked::Question(ask)) = asked(plan, name, bag) {
                    check_answer(ask, &name.value, &value.value, value.span, bag);
                }
            }
        }
        OpeningSpec::Run | OpeningSpec::Resume(_) => {}
    }
}

fn check_answer(ask: &Ask, node: &str, value: &Json, span: Span, bag: &mut Bag) {
    if let Err(wrong) = ask.form.take(value.clone()) {
        let message = format!("this is no answer to `{node}`");
        let why: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        let finding = Diagnostic::error("M514", message, span, why.join("; "));
        let near = match (&ask.form, value.as_str()) {
            (Form::Options(options), Some(text)) => suggest(text, options.iter().map(String::as_str)),
            _ => None,
        };
        bag.report(finding.help_maybe(near.map(|near| format!("did you mean `{near}`?"))));
    }
}
