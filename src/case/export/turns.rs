//! Cuts a run into the turns of a case: what began each, what its calls got, and what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::calls::{Level, Walk};
use super::heard::{Fault, Heard};
use super::into::{After, Barrier, Lost, may_be_shown_at};
use super::script::{FILL, Script};
use crate::case::play::{asker, path};
use crate::engine::step::{Found, Open, Planned, Replies, Reply, World, plan_step};
use crate::engine::{Point, Stored};
use crate::event::{Body, Event, Interrupt, RunStatus};
use crate::id::{CacheKey, TaskId};
use crate::node::RunFacts;
use crate::plan::{Output, Plan, Work};
use crate::state::State;

/// What begins a turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Opening {
    /// What the user says; nothing: the graph runs without a message.
    User(Option<Json>),
    Answer(Json),
    Answers(Vec<(String, Json)>),
    Resume,
}

/// A turn of a case.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) opening: Opening,
    pub(super) script: Script,
    pub(super) path: Vec<Vec<String>>,
    pub(super) reply: Option<String>,
    pub(super) paused_at: Vec<String>,
    pub(super) state: Vec<(String, Json)>,
    pub(super) output: Vec<(String, Json)>,
    /// Its code; with its message, where the graph itself fails.
    pub(super) error: Option<(String, Option<String>)>,
    /// What is to be filled in besides the script.
    pub(super) gaps: Vec<String>,
}

/// What the turns of a case have in common.
pub(super) struct Around<'a> {
    pub(super) plan: &'a Plan,
    pub(super) private: bool,
    /// The results that the case has kept by now.
    pub(super) kept: &'a mut BTreeSet<CacheKey>,
}

/// The events between two ends of a run.
struct Part<'e> {
    events: Vec<&'e Event>,
    end: Option<&'e Body>,
}

impl Part<'_> {
    fn status(&self) -> Option<RunStatus> {
        match self.end {
            Some(Body::RunFinished { status, .. }) => Some(*status),
            _ => None,
        }
    }

    fn interrupts(&self) -> &[Interrupt] {
        match self.end {
            Some(Body::RunFinished { interrupts, .. }) => interrupts,
            _ => &[],
        }
    }
}

/// Cuts a run into turns.
pub(super) fn turns(run: &Stored, around: &mut Around<'_>) -> Vec<Turn> {
    let parts = parts(&run.events);
    let ends = ends_of(&parts, &run.points);
    let mut turns: Vec<(Turn, Vec<&Event>)> = Vec::new();
    let mut made = BTreeSet::new();
    let mut at = 0;
    for (number, part) in parts.iter().enumerate() {
        let Some(from) = run.points.get(at) else { break };
        let last = ends.get(number).copied().unwrap_or(at).max(at);
        let before = number.checked_sub(1).and_then(|before| parts[before].status());
        let opening = match before {
            None => Some((Opening::User(run.input.message.clone()), Vec::new())),
            Some(RunStatus::Failed) => Some((Opening::Resume, Vec::new())),
            Some(_) => answers(run, around, &run.points[at..=last], part),
        };
        match (opening, turns.last_mut()) {
            (Some((opening, gaps)), _) => {
                turns.push((Turn { gaps, ..Turn::new(opening) }, part.events.clone()));
            }
            // Nobody said anything: the time of a question was over, or the run was stopped and went on.
            (None, Some((_, events))) => events.extend(&part.events),
            (None, None) => {
                turns.push((Turn::new(Opening::User(run.input.message.clone())), part.events.clone()));
            }
        }
        let Some((turn, _)) = turns.last_mut() else { break };
        let mut heard = Heard::new(&part.events);
        while at < last {
            let (before, after) = (&run.points[at], &run.points[at + 1]);
            let ended = Ended::Made(after);
            superstep(run, around, (before, ended), &mut heard, &mut made, &mut turn.script);
            at += 1;
        }
        if part.status() == Some(RunStatus::Failed) {
            let ended = Ended::Failed(run.points.get(at + 1));
            superstep(run, around, (&run.points[at], ended), &mut heard, &mut made, &mut turn.script);
        }
        turn.ends(around, part, &from.state, &run.points[at].state, &heard);
    }
    let finish = |(mut turn, events): (Turn, Vec<&Event>)| {
        turn.path = path(events.iter().copied());
        turn.reply = said(around.plan, &events);
        turn.script.settle();
        turn
    };
    turns.into_iter().map(finish).collect()
}

/// Cuts events where the run ended or paused.
fn parts(events: &[Event]) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut open = Vec::new();
    for event in events {
        open.push(event);
        if matches!(event.body, Body::RunFinished { .. }) {
            parts.push(Part { events: std::mem::take(&mut open), end: Some(&event.body) });
        }
    }
    parts
}

/// Returns the checkpoint with which each part ended, as an index.
fn ends_of(parts: &[Part<'_>], points: &[Point]) -> Vec<usize> {
    let mut last = 0;
    let mut end = |part: &Part<'_>| {
        for event in &part.events {
            let Body::CheckpointSaved { checkpoint_id, .. } = &event.body else { continue };
            if let Some(found) = points.iter().position(|point| point.checkpoint == *checkpoint_id) {
                last = last.max(found);
            }
        }
        last
    };
    parts.iter().map(&mut end).collect()
}

/// Returns what people said, with which a part began, and what of it is to be filled in.
fn answers(
    run: &Stored,
    around: &Around<'_>,
    points: &[Point],
    part: &Part<'_>,
) -> Option<(Opening, Vec<String>)> {
    let (plan, mut gaps) = (around.plan, Vec::new());
    let (first, last) = points.first().zip(points.last())?;
    let open = first.frontier.held(plan).0;
    let still: Vec<_> = last.frontier.held(plan).0.into_iter().map(|open| open.question.id).collect();
    let failed = part.status() == Some(RunStatus::Failed);
    let taken = |open: &&Open| failed || !still.contains(&open.question.id);
    // What is said to a call that waits is no result of its node.
    let shown = |open: &Open| {
        around.private || open.call.is_some() || may_be_shown_at(plan, &open.place.path, &open.place.node)
    };
    let said = open.iter().filter(taken).filter_map(|open| match run.replies.get(&open.question.id)? {
        Reply::Answer(value) if shown(open) => Some((asker(&open.interrupt()), value.clone())),
        Reply::Answer(_) => {
            let asker = asker(&open.interrupt());
            gaps.push(format!("what `{asker}` was answered is not stored: {}", Lost::Private.why()));
            Some((asker, json!(FILL)))
        }
        Reply::Dismissed => None,
    });
    let mut said: Vec<(String, Json)> = said.collect();
    let opening = match (said.len(), open.len()) {
        (0, _) => None,
        (1, 1) => said.pop().map(|(_, value)| Opening::Answer(value)),
        _ => Some(Opening::Answers(said)),
    };
    opening.map(|opening| (opening, gaps))
}

/// How a superstep ended.
#[derive(Clone, Copy)]
enum Ended<'p> {
    /// With this checkpoint.
    Made(&'p Point),
    /// Without one; with this one when it was done again.
    Failed(Option<&'p Point>),
}

/// Finds what the calls of a superstep got.
fn superstep(
    run: &Stored,
    around: &mut Around<'_>,
    (before, ended): (&Point, Ended<'_>),
    heard: &mut Heard<'_>,
    made: &mut BTreeSet<TaskId>,
    script: &mut Script,
) {
    let plan = around.plan;
    let (after, fails) = match ended {
        Ended::Made(after) => (Some(after), false),
        Ended::Failed(after) => (after, true),
    };
    if after.filter(|_| !fails).is_some_and(|after| after.frontier.granted != before.frontier.granted) {
        script.beyond("a limit of the run was used up, which a test counts for itself".to_owned());
        return;
    }
    let number = before.step + 1;
    let facts = facts(run, plan, before, after);
    let mut replies: Replies = run.replies.clone();
    if let Some(after) = after.filter(|_| !fails) {
        // What was said later did not count yet.
        let open = after.frontier.held(plan).0;
        replies.retain(|id, _| open.iter().all(|open| open.question.id != *id));
    }
    // What is kept is there, whatever it is: nothing is called for it.
    let found: Found = around.kept.iter().map(|key| (key.clone(), Some(Arc::new(Json::Null)))).collect();
    let world = World { root: plan, facts: &facts, replies: &replies, found: &found, number };
    let input = Arc::new(run.input.input.clone());
    let Ok(Planned { step, leaves, sought, .. }) = plan_step(world, &before.state, &input, &before.frontier)
    else {
        return;
    };
    let nothing_failed = !fails && step.tasks.iter().all(|task| !heard.has_failed(&task.id));
    let seen = match after {
        Some(after) => After::State(&after.state),
        None => After::Nothing,
    };
    let mut walk = Walk {
        root: plan,
        heard,
        leaves: leaves.into_iter(),
        worked: if fails { run.done.clone() } else { BTreeMap::new() },
        made,
        script,
        private: around.private,
        muted: false,
        fails,
    };
    let mut level = Level {
        barrier: Barrier::new(plan, &before.state, seen, around.private),
        frontier: after.map(|after| &after.frontier),
        path: Vec::new(),
        item: None,
        fault: Fault::default(),
        again: None,
        shown: true,
    };
    walk.level(&mut level, &step);
    if nothing_failed {
        around.kept.extend(sought);
    }
}

/// Returns the facts of a superstep, as expressions read them.
fn facts(run: &Stored, plan: &Plan, before: &Point, after: Option<&Point>) -> RunFacts {
    let turns = plan.messages.as_ref().and_then(|channel| before.state.json(channel));
    let newest = turns.as_ref().and_then(Json::as_array).and_then(|turns| {
        turns.iter().rev().find(|turn| turn["role"] == "user").and_then(|turn| turn.get("content"))
    });
    let heard = run.input.message.as_ref().and(newest).or(run.input.message.as_ref());
    RunFacts {
        id: run.run.run,
        step: before.step + 1,
        steps_left: plan.limits.steps.saturating_sub(before.step),
        user_text: crate::engine::user_text(heard).into(),
        now: after.map_or(before.at, |after| after.at),
    }
}

/// Returns all that was said to the user, a line a message. What a graph says that is called as a tool is left out: a
/// script answers it as a whole.
fn said(plan: &Plan, events: &[&Event]) -> Option<String> {
    let through_tool = |path: &[String]| {
        let mut level = plan;
        for name in path {
            let work = level.nodes.get(name).map(|node| match &node.job.work {
                Work::Map(each) => &each.job.work,
                work => work,
            });
            let Some(Work::Graph(call)) = work else { return true };
            let Some(child) = plan.children.get(&call.graph) else { return true };
            level = child;
        }
        false
    };
    let message = |event: &&&Event| match (&event.body, &event.scope) {
        (Body::MessageFinished { content: Some(_), .. }, Some(place)) => !through_tool(&place.path),
        (Body::MessageFinished { content: Some(_), .. }, None) => true,
        _ => false,
    };
    let texts: Vec<&str> = events
        .iter()
        .filter(message)
        .filter_map(|event| match &event.body {
            Body::MessageFinished { content, .. } => content.as_deref(),
            _ => None,
        })
        .collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

impl Turn {
    fn new(opening: Opening) -> Self {
        Self {
            opening,
            script: Script::default(),
            path: Vec::new(),
            reply: None,
            paused_at: Vec::new(),
            state: Vec::new(),
            output: Vec::new(),
            error: None,
            gaps: Vec::new(),
        }
    }

    /// Notes how it ended.
    fn ends(&mut self, around: &Around<'_>, part: &Part<'_>, from: &State, to: &State, heard: &Heard<'_>) {
        let plan = around.plan;
        self.paused_at = part.interrupts().iter().map(asker).collect();
        if part.status() == Some(RunStatus::Interrupted) && self.paused_at.is_empty() {
            self.script.beyond("the run was stopped at a breakpoint, which a test has none of".to_owned());
        }
        if let Opening::Answers(all) = &self.opening {
            let names: BTreeSet<&String> = all.iter().map(|(name, _)| name).collect();
            if names.len() < all.len() {
                let why = "several questions of one node were answered, which a test cannot tell apart";
                self.script.beyond(why.to_owned());
            }
        }
        self.error = heard.error.map(|(code, message, node)| {
            let own = node.and_then(|node| plan.nodes.get(node)).is_some_and(crate::plan::PlanNode::fails);
            (code.to_owned(), own.then(|| message.to_owned()))
        });
        for (name, value) in changed(plan, from, to, around.private) {
            self.state.retain(|(known, _)| *known != name);
            self.state.push((name, value));
        }
        if let (Some(Body::RunFinished { output: Some(Json::Object(output)), .. }), Output::Map(_)) =
            (part.end, &plan.output)
        {
            self.output = output.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        }
    }
}

/// Returns the channels that a turn changed. Of the conversation only what is no answer and no question: those are told
/// anyway.
fn changed(plan: &Plan, from: &State, to: &State, private: bool) -> Vec<(String, Json)> {
    let mut all = Vec::new();
    for (name, _) in plan.channels.iter().filter(|(_, channel)| private || !channel.private) {
        let (before, after) = (from.json(name), to.json(name));
        if before == after {
            continue;
        }
        let after = after.unwrap_or(Json::Null);
        if plan.messages.as_ref() != Some(name) {
            all.push((name.clone(), after));
            continue;
        }
        let grew = match (before, &after) {
            (Some(Json::Array(before)), Json::Array(after)) => after.starts_with(&before),
            (None, _) => true,
            _ => false,
        };
        if !grew {
            all.push((name.clone(), unnamed(after)));
        }
    }
    all
}

/// Takes the ids off messages: those of a test are others.
pub(super) fn unnamed(messages: Json) -> Json {
    let Json::Array(messages) = messages else { return messages };
    let strip = |message: Json| match message {
        Json::Object(fields) => {
            let kept: Map<String, Json> = fields.into_iter().filter(|(name, _)| name != "id").collect();
            json!(kept)
        }
        other => other,
    };
    messages.into_iter().map(strip).collect()
}
