//! Holds what came of a turn against what was expected of it.
//!
//! Invariant: what a missing script leads to is not told beside it.

mod value;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value as Json, json};

use super::free::Free;
use super::play::{Played, asker};
use super::snapshot::{self, SnapshotError};
use super::{Bench, Error};
use crate::diagnostic::{Diagnostic, Span, Spanned};
use crate::event::{Body, Interrupt};
use crate::model::Request;
use crate::plan::Plan;
use crate::spec::{
    CallSpec, CaseSpec, FailureSpec, PathSpec, PromptSpec, ReplySpec, ScriptSpec, SnapshotSpec, Text,
    TurnSpec, caller_name,
};
use value::{same, shown};

/// A turn that was played, and what it was to be like.
pub(super) struct Scene<'a> {
    pub(super) bench: &'a Bench,
    pub(super) plan: &'a Plan,
    /// The test file's path within the project.
    pub(super) path: &'a str,
    pub(super) case: &'a CaseSpec,
    pub(super) number: usize,
    pub(super) played: &'a Played,
    /// What real models and services decided.
    pub(super) free: &'a Free,
}

/// The error that a run ended with.
struct Failed<'a> {
    kind: &'a str,
    code: &'a str,
    message: &'a str,
    node: Option<&'a str>,
}

/// Returns what is not as it was expected.
pub(super) fn judge(scene: &Scene<'_>) -> Result<Vec<Diagnostic>, Error> {
    let turn = scene.turn();
    if let Some(why) = &scene.played.refused {
        let finding = scene.finding("the turn cannot begin", turn.span, "this turn");
        return Ok(vec![why.lines().fold(finding, Diagnostic::note)]);
    }
    let scripts = scene.unscripted();
    if !scripts.is_empty() {
        return Ok(scripts);
    }
    let expect = &turn.expect;
    let failed = scene.failed();
    let mut wrong: Vec<Diagnostic> = Vec::new();
    match (&expect.error, &failed) {
        (None, None) => wrong.extend(scene.paused()),
        (Some(expected), failed) => wrong.extend(scene.error(expected, failed.as_ref())),
        (None, Some(failed)) => {
            let finding = scene.finding("the run failed", turn.span, "no error is expected of this turn");
            wrong.push(failed.note(finding));
        }
    }
    wrong.extend(expect.path.as_ref().and_then(|path| scene.path(path)));
    for (name, value) in expect.state.iter().filter(|(name, _)| !scene.free.channels.contains(&name.value)) {
        wrong.extend(scene.value("state", name, value, scene.played.state.json(&name.value)));
    }
    let output = scene.played.events.iter().rev().find_map(|event| match &event.body {
        Body::RunFinished { output, .. } => output.as_ref(),
        _ => None,
    });
    // A node that runs alone gives the channels.
    let alone = scene.case.only.is_some();
    let free = if alone { &scene.free.channels } else { &scene.free.outputs };
    for (name, value) in expect.output.iter().filter(|(name, _)| !free.contains(&name.value)) {
        let found = output.and_then(|output| output.get(&name.value)).cloned();
        wrong.extend(scene.value("output", name, value, found));
    }
    if let Some(reply) = &expect.reply {
        wrong.extend(scene.text("reply", "another reply was given", &scene.said(), reply));
    }
    if let Some(ask) = &expect.ask {
        let asked: Vec<&str> = scene.asked().map(|asked| asked.question.as_str()).collect();
        wrong.extend(scene.text("asked", "another question was asked", &asked.join("\n"), ask));
    }
    wrong.extend(scene.events());
    // Only a script knows how it was called, and only its answers are known beforehand.
    if scene.bench.stage.is_some() {
        for (name, call) in &expect.calls {
            wrong.extend(scene.calls(name, call));
        }
        for (name, attempts) in &expect.attempts {
            wrong.extend(scene.attempts(name, attempts));
        }
        for (name, prompt) in &expect.prompt {
            wrong.extend(scene.prompt(name, prompt)?);
        }
        if wrong.is_empty() {
            wrong.extend(scene.unused());
        }
    }
    Ok(wrong)
}

impl Failed<'_> {
    fn note(&self, finding: Diagnostic) -> Diagnostic {
        let node = self.node.map_or_else(String::new, |node| format!(" in node `{node}`"));
        finding.note(format!("error: {}{node}: {}", self.code, self.message))
    }
}

impl<'a> Scene<'a> {
    fn turn(&self) -> &'a TurnSpec {
        &self.case.turns[self.number]
    }

    /// Begins a finding: it says which case, at the place of what was expected, and which way the run took.
    fn finding(&self, what: &str, span: Span, label: impl Into<String>) -> Diagnostic {
        let turn =
            if self.case.turns.len() > 1 { format!(", turn {}", self.number + 1) } else { String::new() };
        let message = format!("{what}, in the case `{}`{turn}", self.case.name.value);
        let finding = Diagnostic::error("failed", message, span, label);
        match self.taken() {
            path if path.is_empty() => finding,
            path => finding.note(format!("path taken: {path}")),
        }
    }

    /// Writes the path that was taken as a test has it.
    fn taken(&self) -> String {
        let step = |step: Vec<String>| match step.as_slice() {
            [node] => node.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let steps: Vec<String> = self.played.path().into_iter().map(step).collect();
        if steps.is_empty() { String::new() } else { format!("[{}]", steps.join(", ")) }
    }

    fn requests(&self, node: &str) -> impl Iterator<Item = &'a Request> {
        let node = caller_name(node);
        self.played.requests.iter().filter(move |request| request.node == node)
    }

    /// Counts the calls by who made them, in the order of names.
    fn callers(&self) -> BTreeMap<&'a str, usize> {
        let others = self.played.others.iter().map(|(name, calls)| (name.as_str(), calls.len()));
        let mut callers: BTreeMap<&str, usize> = others.collect();
        for request in &self.played.requests {
            *callers.entry(&request.node).or_default() += 1;
        }
        callers
    }

    /// Finds calls that no script, or no entry of it, was there for.
    fn unscripted(&self) -> Vec<Diagnostic> {
        let mut wrong = Vec::new();
        for (node, calls) in self.callers() {
            let turn = self.turn();
            let model = if self.played.others.contains_key(node) { "out" } else { "a model" };
            match turn.script.iter().find(|script| script.is_of(node)) {
                None => {
                    let what = format!("`{node}` calls {model} and has no script");
                    let finding = self.finding(&what, turn.span, "in this turn");
                    wrong.push(finding.help(format!("add  script: {{{}: …}}", quoted(node))));
                }
                Some(ScriptSpec { node: name, entries }) if calls > entries.len() => {
                    let what = format!("`{node}` calls {model} more often than its script has answers");
                    let label = format!("{calls} calls, {}", count(entries.len(), "answer"));
                    let finding = self.finding(&what, name.span, label);
                    wrong.push(finding.help("write a list, one answer a call; each attempt is a call"));
                }
                Some(_) => {}
            }
        }
        wrong
    }

    /// Finds answers that no call took.
    fn unused(&self) -> Vec<Diagnostic> {
        let callers = self.callers();
        let left = |script: &ScriptSpec| {
            let calls = callers.get(caller_name(&script.node.value).as_str()).copied().unwrap_or_default();
            let entry = script.entries.get(calls)?;
            let what = format!("`{}` leaves an answer of its script", script.node.value);
            let label = format!("{}, {}", count(calls, "call"), count(script.entries.len(), "answer"));
            let finding = self.finding(&what, script.node.span, label);
            Some(finding.related(entry.span, "nobody asked for this"))
        };
        self.turn().script.iter().filter_map(left).collect()
    }

    fn failed(&self) -> Option<Failed<'a>> {
        self.played.events.iter().rev().find_map(|event| match &event.body {
            Body::Error { code, message, node, .. } => {
                let node = node.as_deref();
                let own =
                    node.and_then(|node| self.plan.nodes.get(node)).is_some_and(crate::plan::PlanNode::fails);
                Some(Failed { kind: if own { "failed" } else { code }, code, message, node })
            }
            _ => None,
        })
    }

    fn error(&self, expected: &FailureSpec, failed: Option<&Failed<'_>>) -> Vec<Diagnostic> {
        // What a real model does is not foretold.
        if self.bench.stage.is_none() && failed.is_none() {
            return Vec::new();
        }
        let texts = expected.any.iter().chain(&expected.kind).chain(&expected.code).chain(&expected.message);
        let Some(failed) = failed else {
            let at = texts.map(|text| text.span).next().unwrap_or(self.turn().span);
            return vec![self.finding("the run was to fail, and completed", at, "this error is expected")];
        };
        let mut wrong = Vec::new();
        let mut due = |text: &Text, fits: bool, what: &str| {
            if !fits {
                wrong.push(failed.note(self.finding("the run failed otherwise", text.span, what)));
            }
        };
        if let Some(any) = &expected.any {
            due(any, any.value == failed.kind || any.value == failed.code, "neither its kind nor its code");
        }
        if let Some(kind) = &expected.kind {
            due(kind, kind.value == failed.kind, &format!("it is of the kind `{}`", failed.kind));
        }
        if let Some(code) = &expected.code {
            due(code, code.value == failed.code, &format!("it has the code `{}`", failed.code));
        }
        for text in &expected.message {
            due(text, failed.message.contains(&text.value), "not in its message");
        }
        wrong
    }

    fn path(&self, expected: &PathSpec) -> Option<Diagnostic> {
        let found = self.played.path();
        match expected {
            PathSpec::Exact(span, steps) => {
                let sorted = |mut step: Vec<String>| {
                    step.sort();
                    step
                };
                let due: Vec<Vec<String>> = steps
                    .iter()
                    .map(|step| sorted(step.iter().map(|node| node.value.clone()).collect()))
                    .collect();
                let found: Vec<Vec<String>> = found.into_iter().map(sorted).collect();
                if due == found {
                    return None;
                }
                let at = due.iter().zip(&found).take_while(|(a, b)| a == b).count();
                let place = steps.get(at).and_then(|step| step.first()).map_or(*span, |node| node.span);
                let label = match (due.get(at), found.get(at)) {
                    (Some(_), None) => "the run ended before this".to_owned(),
                    (None, Some(step)) => format!("the run went on to {}", step.join(", ")),
                    (_, Some(step)) => format!("here the run went to {}", step.join(", ")),
                    (None, None) => "another path".to_owned(),
                };
                let finding = self.finding("another path was taken", place, label);
                let flat = |steps: &[Vec<String>]| {
                    let mut nodes: Vec<String> = steps.concat();
                    nodes.sort();
                    nodes
                };
                let nested = flat(&due) == flat(&found) && due.len() != found.len();
                Some(if nested {
                    finding.help("nodes that run at once are a list of their own: `[fan, [a, b], join]`")
                } else {
                    finding
                })
            }
            PathSpec::Part { contains, never } => {
                let flat = found.concat();
                let mut rest = flat.as_slice();
                for node in contains {
                    match rest.iter().position(|started| *started == node.value) {
                        Some(at) => rest = &rest[at + 1..],
                        None => {
                            let label = if flat.contains(&node.value) {
                                "it starts, but not after those before it"
                            } else {
                                "it never starts"
                            };
                            return Some(self.finding("another path was taken", node.span, label));
                        }
                    }
                }
                let started = never.iter().find(|node| flat.contains(&node.value))?;
                Some(self.finding("another path was taken", started.span, "it starts"))
            }
        }
    }

    fn value(
        &self,
        part: &str,
        name: &Spanned<String>,
        expected: &Spanned<Json>,
        found: Option<Json>,
    ) -> Option<Diagnostic> {
        let found = found.unwrap_or(Json::Null);
        let talk = self.plan.messages.as_deref() == Some(&name.value);
        if same(&expected.value, &found, talk) {
            return None;
        }
        let what = format!("`{part}.{}` is another value", name.value);
        let finding = self.finding(&what, expected.span, format!("found {}", shown(&found)));
        Some(finding.note(format!("expected: {}", shown(&expected.value))))
    }

    /// Returns all that was said to the user, a line a message.
    fn said(&self) -> String {
        let message = |event: &'a crate::event::Event| match &event.body {
            Body::MessageFinished { content, .. } => content.as_deref(),
            _ => None,
        };
        self.played.events.iter().filter_map(message).collect::<Vec<_>>().join("\n")
    }

    /// Returns the questions that the run waits for.
    fn asked(&self) -> impl Iterator<Item = &'a Interrupt> {
        let last = self.played.events.last().into_iter();
        last.flat_map(|event| match &event.body {
            Body::RunFinished { interrupts, .. } => interrupts.as_slice(),
            _ => &[],
        })
    }

    /// Compares where the run waits with where it is to wait.
    fn paused(&self) -> Option<Diagnostic> {
        let mut asked: Vec<String> = self.asked().map(asker).collect();
        asked.sort_unstable();
        let Some(due) = &self.turn().expect.paused_at else {
            let finding = self.finding("the run waits for a person", self.turn().span, "in this turn");
            let names: Vec<String> = asked.iter().map(|name| quoted(name)).collect();
            return match names.as_slice() {
                [] => None,
                [name] => Some(finding.help(format!("add  expect: {{paused_at: {name}}}"))),
                names => Some(finding.help(format!("add  expect: {{paused_at: [{}]}}", names.join(", ")))),
            };
        };
        // A name without a number is that of any item.
        let mut left = asked.clone();
        let missing = due.iter().find(|node| {
            let name = caller_name(&node.value);
            let found = left.iter().position(|asks| *asks == name);
            let found = found.or_else(|| left.iter().position(|asks| asks.split('[').next() == Some(&name)));
            found.map(|at| left.remove(at)).is_none()
        });
        if missing.is_none() && left.is_empty() {
            return None;
        }
        let label = if asked.is_empty() {
            "the run does not wait".to_owned()
        } else {
            format!("it waits at {}", asked.join(", "))
        };
        let span = missing.or(due.first()).map_or(self.turn().span, |node| node.span);
        Some(self.finding("the run was to wait elsewhere", span, label))
    }

    fn text(&self, note: &str, what: &str, said: &str, expected: &ReplySpec) -> Vec<Diagnostic> {
        let mut wrong = Vec::new();
        let mut due = |span: Span, fits: bool, label: String| {
            if !fits {
                let finding = self.finding(what, span, label);
                wrong.push(finding.note(format!("{note}: {}", shown(&json!(said)))));
            }
        };
        let spoken = self.played.path().concat();
        let asked = |node: &String| self.plan.nodes.get(node).is_some_and(|node| node.job.kind == "llm");
        let free = self.bench.stage.is_none() && spoken.iter().any(asked);
        if let Some(equals) = expected.equals.as_ref().filter(|_| !free) {
            due(equals.span, equals.value == said, "not this".to_owned());
        }
        for text in &expected.contains {
            due(text.span, said.contains(&text.value), "this is not in it".to_owned());
        }
        if let Some(pattern) = &expected.matches {
            let fits = Regex::new(&pattern.value).is_ok_and(|regex| regex.is_match(said));
            due(pattern.span, fits, "it does not match this".to_owned());
        }
        if let Some(most) = &expected.max_words {
            let words = said.split_whitespace().count() as u64;
            due(most.span, words <= most.value, format!("it has {words} words"));
        }
        wrong
    }

    fn events(&self) -> Option<Diagnostic> {
        let names: Vec<&str> = self.played.events.iter().map(|event| event.body.name()).collect();
        let mut rest = names.as_slice();
        for event in &self.turn().expect.events {
            match rest.iter().position(|name| *name == event.value) {
                Some(at) => rest = &rest[at + 1..],
                None => {
                    let label = if names.contains(&event.value.as_str()) {
                        "it comes, but not after those before it"
                    } else {
                        "it never comes"
                    };
                    let mut told = names.clone();
                    told.dedup();
                    let finding = self.finding("other events were sent", event.span, label);
                    return Some(finding.note(format!("events: {}", told.join(", "))));
                }
            }
        }
        None
    }

    fn calls(&self, name: &Spanned<String>, expected: &CallSpec) -> Vec<Diagnostic> {
        let mut wrong = Vec::new();
        let calls = self.callers().get(caller_name(&name.value).as_str()).copied().unwrap_or_default() as u64;
        if let Some(times) = expected.times.as_ref().filter(|times| times.value != calls) {
            let what = format!("`{}` calls another number of times", name.value);
            wrong.push(self.finding(&what, times.span, format!("found {}", count(calls as usize, "call"))));
        }
        let caller = caller_name(&name.value);
        let sent: Vec<Json> = match self.played.others.get(&caller) {
            Some(calls) => calls.clone(),
            None => self.requests(&name.value).map(|request| Json::Object(parameters(request))).collect(),
        };
        if sent.is_empty() && expected.times.is_none() {
            let what = format!("`{}` is to call, and does not", name.value);
            wrong.push(self.finding(&what, name.span, "no calls"));
        }
        for (key, value) in &expected.with {
            let found = sent.iter().map(|sent| sent.get(&key.value).unwrap_or(&Json::Null));
            if let Some(other) = found.into_iter().find(|found| !same(&value.value, found, false)) {
                let what = format!("`{}` calls with another `{}`", name.value, key.value);
                wrong.push(self.finding(&what, value.span, format!("found {}", shown(other))));
            }
        }
        wrong
    }

    fn attempts(&self, name: &Spanned<String>, expected: &Spanned<u64>) -> Option<Diagnostic> {
        // The newest visit, from its end to where it started: what is told at the barrier knows of no attempts.
        let mut found = 0;
        for event in self.played.events.iter().rev() {
            let Some(place) = event.scope.as_ref().filter(|place| place.node == name.value) else { continue };
            found = found.max(u64::from(place.attempt));
            if matches!(event.body, Body::NodeStarted { resumed: false, .. }) {
                break;
            }
        }
        (found != expected.value).then(|| {
            let what = format!("`{}` takes another number of attempts", name.value);
            self.finding(&what, expected.span, format!("found {}", count(found as usize, "attempt")))
        })
    }

    fn prompt(
        &self,
        name: &Spanned<String>,
        expected: &PromptSpec,
    ) -> Result<Vec<Diagnostic>, SnapshotError> {
        let sent = snapshot::prompt_text(self.requests(&name.value));
        if sent.is_empty() {
            let what = format!("`{}` sends no prompt", name.value);
            return Ok(vec![self.finding(&what, name.span, "it does not call its model")]);
        }
        let mut wrong = Vec::new();
        for text in expected.contains.iter().filter(|text| !sent.contains(&text.value)) {
            let what = format!("`{}` sends another prompt", name.value);
            let finding = self.finding(&what, text.span, "this is not in it");
            wrong
                .push(sent.lines().take(40).fold(finding, |finding, line| finding.note(format!("  {line}"))));
        }
        if let Some(snapshot) = &expected.snapshot {
            wrong.extend(self.snapshot(&name.value, snapshot, &sent)?);
        }
        Ok(wrong)
    }

    fn snapshot(
        &self,
        node: &str,
        expected: &Spanned<SnapshotSpec>,
        sent: &str,
    ) -> Result<Option<Diagnostic>, SnapshotError> {
        let name = match &expected.value {
            SnapshotSpec::Named(name) => name.clone(),
            SnapshotSpec::OfCase => {
                let file = self.path.trim_start_matches("tests/").trim_end_matches(".test.yaml");
                let turn =
                    if self.case.turns.len() > 1 { format!(".{}", self.number + 1) } else { String::new() };
                format!("{file}/{}{turn}.{node}", snapshot::slug(&self.case.name.value))
            }
        };
        let path = snapshot::path_of(&self.bench.root, &name);
        if self.bench.update {
            snapshot::write(&path, sent)?;
            return Ok(None);
        }
        let what = format!("`{node}` sends another prompt than its snapshot has");
        Ok(match snapshot::read(&path)? {
            Some(kept) if kept == sent => None,
            Some(kept) => {
                let (line, kept, sent) = snapshot::first_difference(&kept, sent);
                let finding = self.finding(&what, expected.span, "they part");
                let finding = finding.note(format!("{}:{line}", path.display()));
                let finding = finding.note(format!("expected: {kept}")).note(format!("found: {sent}"));
                Some(finding.help("`graphloom test --update` writes what is sent now; read the difference"))
            }
            None => {
                let what = format!("the prompt of `{node}` has no snapshot yet");
                let label = format!("no file `{}`", path.display());
                Some(self.finding(&what, expected.span, label).help("`graphloom test --update` writes it"))
            }
        })
    }
}

/// Returns the parameters of a call by the names that a graph has for them.
fn parameters(request: &Request) -> Map<String, Json> {
    let params = &request.params;
    let mut all = params.extra.clone();
    all.insert("model".into(), json!(request.model));
    let entries = [
        ("temperature", params.temperature.map(|x| json!(x))),
        ("top_p", params.top_p.map(|x| json!(x))),
        ("max_tokens", params.max_tokens.map(|n| json!(n))),
        ("seed", params.seed.map(|n| json!(n))),
        ("stop", (!params.stop.is_empty()).then(|| json!(params.stop))),
        ("reasoning_effort", params.reasoning_effort.as_ref().map(|text| json!(text))),
    ];
    all.extend(entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    all
}

/// Writes the name of a caller as a key of a map in one line.
fn quoted(name: &str) -> String {
    if name.contains('[') { format!("\"{name}\"") } else { name.to_owned() }
}

fn count(n: usize, one: &str) -> String {
    match n {
        0 => format!("no {one}s"),
        1 => format!("1 {one}"),
        _ => format!("{n} {one}s"),
    }
}
