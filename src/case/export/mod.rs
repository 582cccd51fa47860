//! Turns a stored thread into a test file, which plays what happened in it again.
//!
//! Invariant: what is not stored is not made up. Its place is left open, and it is said which place that is.

mod calls;
mod carried;
mod errors;
mod file;
mod heard;
mod into;
mod items;
mod pieces;
mod script;
mod tools;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::engine::Stored;
use crate::plan::Plan;
use crate::spec::WriteError;
use crate::state::State;
use crate::store::{Kept, RunState};

use turns::{Around, Turn, turns, unnamed};

/// How a thread is exported.
#[derive(Debug, Clone)]
pub struct Exporting {
    /// What the case is called; with a number where there are several.
    pub name: String,
    /// Exports private channels, too.
    pub private: bool,
}

/// A test file made of a thread.
#[derive(Debug, Clone)]
pub struct Export {
    /// The file.
    pub yaml: String,
    /// What is not stored, or cannot be said in a test, and where: for whoever fills it in.
    pub told: Vec<String>,
    /// Nothing is to be filled in.
    pub whole: bool,
}

/// A case of the file.
struct Case {
    input: Map<String, Json>,
    state: Vec<(String, Json)>,
    messages: Vec<Json>,
    turns: Vec<Turn>,
}

/// Makes a test file of the runs of a thread, oldest first. `plans` holds those that the runs are pinned to, by hash.
/// Nothing: none of the runs can be told again; the reasons are told.
pub fn export(
    graph: &str,
    runs: &[Stored],
    plans: &BTreeMap<String, Arc<Plan>>,
    how: &Exporting,
) -> Result<Result<Export, Vec<String>>, WriteError> {
    let (mut told, mut cases): (Vec<String>, Vec<Case>) = (Vec::new(), Vec::new());
    let mut kept = BTreeSet::new();
    let mut before: Option<&Stored> = None;
    for run in runs {
        let id = run.run.run;
        let plan = match (unfit(run), plans.get(&run.run.hash)) {
            (None, Some(plan)) => plan,
            (None, None) => {
                told.push(format!("run {id} is left out: its version of the graph cannot be used any more"));
                continue;
            }
            (Some(why), _) => {
                told.push(format!("run {id} is left out: {why}"));
                continue;
            }
        };
        let input = given_input(plan, run);
        let follows = before.is_some_and(|before| follows(before, run));
        if !follows || cases.last().is_none_or(|case| case.input != input) {
            kept.clear();
            cases.push(begin(plan, run, input, how.private, &mut told));
        }
        let mut around = Around { plan, private: how.private, kept: &mut kept };
        if let Some(case) = cases.last_mut() {
            case.turns.extend(turns(run, &mut around));
        }
        before = Some(run);
    }
    cases.retain(|case| !case.turns.is_empty());
    if cases.is_empty() {
        return Ok(Err(told));
    }
    cases.iter_mut().for_each(carried::leave_out);
    let whole = file::gaps(&cases, &how.name, &mut told);
    Ok(Ok(Export { yaml: file::write(graph, &cases, &how.name)?, told, whole }))
}

/// Says why a run cannot be told again.
fn unfit(run: &Stored) -> Option<&'static str> {
    let first = run.points.first()?;
    match run.run.state {
        RunState::Cancelled | RunState::Dead => return Some("it was ended from outside"),
        RunState::Queued | RunState::Running => return Some("it is not over"),
        RunState::RolledBack => return Some("it was taken back"),
        RunState::Completed | RunState::Failed | RunState::Interrupted => {}
    }
    if run.run.kept == Kept::Nothing || run.events.is_empty() {
        return Some("what it told is not kept any more");
    }
    if run.points.iter().any(|p| !matches!(p.source.as_str(), "input" | "step" | "answer")) {
        return Some("it goes on from an update or a fork, which no test begins with");
    }
    if first.step != 0 {
        return Some("its first checkpoints are not kept any more");
    }
    None
}

/// Says whether a run begins where the one before it left the thread, and that one can be followed by it.
fn follows(before: &Stored, run: &Stored) -> bool {
    let left = before.points.last().map(|point| point.checkpoint);
    let began = run.points.first().and_then(|point| point.parent);
    left.is_some() && left == began && before.run.state != RunState::Interrupted
}

/// Returns the inputs of a run that are not the defaults.
fn given_input(plan: &Plan, run: &Stored) -> Map<String, Json> {
    let Json::Object(input) = &run.input.input else { return Map::new() };
    let differs = |(name, value): &(&String, &Json)| {
        let Some(field) = plan.input.get(*name) else { return true };
        let mut default = field.default.clone().unwrap_or(Json::Null);
        field.ty.fill(&mut default);
        default != **value || !field.may_be_left_out()
    };
    input.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Begins a case with a run: with the state that the run found.
fn begin(plan: &Plan, run: &Stored, input: Map<String, Json>, private: bool, told: &mut Vec<String>) -> Case {
    let mut case = Case { input, state: Vec::new(), messages: Vec::new(), turns: Vec::new() };
    let Some(first) = run.points.first() else { return case };
    let fresh = State::initial(&plan.channels);
    for (name, channel) in &plan.channels {
        let (Some(mut value), false) = (first.state.json(name), channel.per_run) else { continue };
        let is_talk = plan.messages.as_ref() == Some(name);
        if let (true, Json::Array(messages)) = (is_talk, &mut value) {
            let own = format!("u_{}", run.run.run);
            messages.retain(|message| message["id"] != own.as_str());
        }
        if fresh.json(name).as_ref() == Some(&value) || is_talk && value == json!([]) {
        } else if channel.private && !private {
            told.push(format!(
                "the private channel `{name}` held something before run {}; `--private` gives it to the case",
                run.run.run
            ));
        } else if is_talk {
            if let Json::Array(messages) = unnamed(value) {
                case.messages = messages;
            }
        } else {
            case.state.push((name.clone(), value));
        }
    }
    for node in first.frontier.kept.keys() {
        told.push(format!(
            "`{node}` calls a graph that kept a state before run {}, which no case is given",
            run.run.run
        ));
    }
    case
}
