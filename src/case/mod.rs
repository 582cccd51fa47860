//! Runs the cases beside graphs: each on a thread of its own in memory, by the engine that serves, with a script in
//! the place of the models.
//!
//! Invariant: nothing that a case does is seen by another one, and no case decides anything that the engine decides.

mod cover;
mod export;
mod free;
mod judge;
mod junit;
mod play;
mod snapshot;
mod stage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::compile::{Catalog, Providers};
use crate::diagnostic::{Bag, Diagnostic};
use crate::egress::Tape;
use crate::engine::StartError;
use crate::id::{PartError, sha256_hex};
use crate::plan::Plan;
use crate::spec::{CaseSpec, Folder};
use crate::store::{Store, StoreError};

use free::Free;

pub use cover::{Coverage, Share};
pub use export::{Export, Exporting, export};
pub use junit::junit;
pub use snapshot::SnapshotError;
pub use stage::Stage;

/// Why cases cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store in memory failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A run cannot begin for a reason that has nothing to do with its case.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A name of the thread is none.
    #[error(transparent)]
    Name(#[from] PartError),
    /// A snapshot cannot be read or written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Which cases are run.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Ids of graphs, or paths of test files; all when there are none.
    pub targets: Vec<String>,
    /// A part of the case's name.
    pub filter: Option<String>,
}

/// How cases are run.
pub struct Bench {
    /// The compiled graphs.
    pub catalog: Catalog,
    /// What they were compiled with.
    pub providers: Providers,
    /// Stands in for the models; none where the real ones are asked.
    pub stage: Option<Stage>,
    /// The folder of the project.
    pub root: PathBuf,
    /// Writes snapshots anew instead of comparing with them.
    pub update: bool,
    /// Where the thread of a case is kept, `test:test:test`, when somebody is to look into it: for one case alone. Without it
    /// each case has a memory of its own.
    pub store: Option<Arc<dyn Store>>,
    /// Records what real models and other services answer, or plays it: one tape a case, in this folder.
    pub tape: Option<(Tape, PathBuf)>,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All came as expected.
    Passed,
    /// Something did not.
    Failed(Vec<Diagnostic>),
    /// It was not run.
    Skipped(&'static str),
}

/// A case that was run.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The graph.
    pub graph: String,
    /// The test file, as it is shown.
    pub file: String,
    /// The case.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// The nodes that started, by turn and superstep.
    pub path: Vec<Vec<Vec<String>>>,
    /// How long it took.
    pub took: Duration,
}

/// All cases that were run.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of files and cases.
    pub cases: Vec<Ran>,
    /// What of the graphs they ran through, by graph.
    pub coverage: Vec<Coverage>,
    /// Targets that are no graph with tests and no test file.
    pub unknown: Vec<String>,
}

impl Report {
    /// Counts what passed, failed and was skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Verdict) -> bool| self.cases.iter().filter(|ran| is(&ran.verdict)).count();
        (
            count(|v| *v == Verdict::Passed),
            count(|v| matches!(v, Verdict::Failed(_))),
            count(|v| matches!(v, Verdict::Skipped(_))),
        )
    }

    /// Returns the report for programs.
    pub fn json(&self, bag: &Bag) -> Json {
        let case = |ran: &Ran| {
            let (status, failures, why) = match &ran.verdict {
                Verdict::Passed => ("passed", [].as_slice(), None),
                Verdict::Failed(failures) => ("failed", failures.as_slice(), None),
                Verdict::Skipped(why) => ("skipped", [].as_slice(), Some(why)),
            };
            json!({
                "graph": ran.graph,
                "file": ran.file,
                "name": ran.name,
                "status": status,
                "skipped": why,
                "failures": failures.iter().map(|f| crate::diagnostic::finding_json(bag, f)).collect::<Vec<_>>(),
                "path": ran.path,
                "duration_ms": ran.took.as_millis() as u64,
            })
        };
        let (passed, failed, skipped) = self.counts();
        let (nodes, edges) = (Coverage::nodes_of(&self.coverage), Coverage::edges_of(&self.coverage));
        json!({
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
            "coverage": self.coverage.iter().map(Coverage::json).collect::<Vec<_>>(),
            "summary": {
                "passed": passed,
                "failed": failed,
                "skipped": skipped,
                "nodes_percent": nodes.percent(),
                "edges_percent": edges.percent(),
            },
        })
    }
}

/// Runs the chosen cases one after another: they share the stage. `bag` holds the sources.
pub async fn run(bench: &Bench, folder: &Folder, chosen: &Chosen, bag: &Bag) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut met = vec![false; chosen.targets.len()];
    let mut choose = |graph: &str, path: Option<&str>| {
        let mut wanted = chosen.targets.is_empty();
        for (target, met) in chosen.targets.iter().zip(&mut met) {
            let file = path.is_some_and(|path| is_path(target, path));
            if target == graph || file {
                *met = true;
                wanted = true;
            }
        }
        wanted
    };
    let wanted: Vec<_> = folder
        .tests
        .iter()
        .filter_map(|(path, test)| {
            let graph = &test.graph.as_ref()?.value;
            let plan = bench.catalog.graphs.get(graph)?.plan.clone();
            let shown = bag.source(test.file).0;
            choose(graph, Some(shown)).then_some((path, shown, test, plan))
        })
        .collect();
    // A graph without tests is covered by none.
    let untested = bench.catalog.graphs.keys().filter(|graph| choose(graph, None));
    let mut graphs: Vec<String> = untested.cloned().collect();
    graphs.extend(wanted.iter().map(|(_, _, _, plan)| plan.graph.clone()));
    graphs.sort();
    graphs.dedup();
    let plan = |graph: &String| bench.catalog.graphs.get(graph).map(|compiled| &*compiled.plan);
    report.coverage = graphs.iter().filter_map(plan).map(Coverage::new).collect();
    report.unknown =
        chosen.targets.iter().zip(&met).filter(|(_, met)| !**met).map(|(target, _)| target.clone()).collect();
    if !report.unknown.is_empty() {
        return Ok(report);
    }
    for (path, shown, test, plan) in wanted {
        // With a script all is foretold.
        let real = folder.graphs.get(&plan.graph).filter(|_| bench.stage.is_none());
        let free = real.map(|graph| Free::of(graph, plan.messages.as_deref())).unwrap_or_default();
        let fits =
            |case: &&CaseSpec| chosen.filter.as_ref().is_none_or(|part| case.name.value.contains(part));
        for case in test.cases.iter().filter(fits) {
            let ran = run_case(bench, &plan, path, shown, case, &free, &mut report.coverage).await?;
            report.cases.push(ran);
        }
    }
    Ok(report)
}

/// Says whether a target of the command line is a file: the same path, or the end of it.
fn is_path(target: &str, path: &str) -> bool {
    let (target, path) = (target.trim_start_matches("./"), path.trim_start_matches("./"));
    target.ends_with(".yaml")
        && (target == path || path.ends_with(&format!("/{target}")) || target.ends_with(&format!("/{path}")))
}

async fn run_case(
    bench: &Bench,
    plan: &Arc<Plan>,
    path: &str,
    shown: &str,
    case: &CaseSpec,
    free: &Free,
    covered: &mut [Coverage],
) -> Result<Ran, Error> {
    let began = Instant::now();
    let mut ran = Ran {
        graph: plan.graph.clone(),
        file: shown.to_owned(),
        name: case.name.value.clone(),
        verdict: Verdict::Passed,
        path: Vec::new(),
        took: Duration::ZERO,
    };
    let fails = |turn: &crate::spec::TurnSpec| {
        turn.script.iter().flat_map(|script| &script.entries).any(|entry| entry.error().is_some())
    };
    if bench.stage.is_none() && case.turns.iter().any(fails) {
        ran.verdict = Verdict::Skipped("an error cannot be had from a real model");
        return Ok(ran);
    }
    let tape =
        bench.tape.as_ref().map(|(tape, folder)| (tape, folder.join(tape_name(path, &case.name.value))));
    let taped = |why: String| {
        let message = format!("{why}, in the case `{}`", case.name.value);
        Diagnostic::error("failed", message, case.name.span, "this case is recorded")
    };
    if let Some((tape, file)) = &tape
        && let Err(error) = tape.insert(file)
    {
        ran.verdict = Verdict::Failed(vec![taped(error.to_string())]);
        return Ok(ran);
    }
    let mut thread = play::Thread::new(bench, plan, case)?;
    for number in 0..case.turns.len() {
        let played = thread.turn(number).await?;
        ran.path.push(played.path());
        cover::mark(covered, plan, &played.events, case.only.is_some());
        let scene = judge::Scene { bench, plan: thread.plan(), path, case, number, played: &played, free };
        let failures = judge::judge(&scene)?;
        if !failures.is_empty() {
            // What the next turn finds is not what it was written for.
            ran.verdict = Verdict::Failed(failures);
            break;
        }
    }
    if let Some((tape, _)) = &tape {
        let problems = tape.eject().unwrap_or_else(|error| vec![error.to_string()]);
        // What is not on the tape explains what came of it.
        let mut failures: Vec<Diagnostic> = problems.into_iter().map(taped).collect();
        if let Verdict::Failed(others) = &mut ran.verdict {
            failures.append(others);
        }
        if !failures.is_empty() {
            ran.verdict = Verdict::Failed(failures);
        }
    }
    ran.took = began.elapsed();
    Ok(ran)
}

/// Returns the file of a case's tape: the stem of its test file, then its name, which a hash keeps apart from names that
/// differ only in other characters.
fn tape_name(path: &str, case: &str) -> PathBuf {
    let stem = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".yaml").trim_end_matches(".test");
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = case.chars().map(plain).take(60).collect();
    let hash = sha256_hex(case.as_bytes());
    PathBuf::from(stem).join(format!("{}-{}.json", name.trim_matches('-'), &hash[..8]))
}
