//! `threads export`: makes a test file of a stored thread.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::Host;
use super::threads::{missing, thread};
use crate::case::{self, Bench, Chosen, Export, Exporting, Stage, Verdict};
use crate::compile::{self, Catalog, Providers, revive};
use crate::diagnostic::{self, Bag};
use crate::engine::{self, Stored, StoredRuns};
use crate::id::ThreadKey;
use crate::plan::Plan;
use crate::spec::{self, Files};
use crate::store::{RunState, Store};

/// The path that a file has while it is tried, among the project's.
const TRIED: &str = "tests/thread-that-is-exported.test.yaml";

/// The flags of `threads export`.
#[derive(Debug, Args)]
pub(super) struct ExportFlags {
    /// The thread
    #[arg(value_name = "TENANT:USER:SESSION", value_parser = thread)]
    thread: ThreadKey,
    /// Only the newest so many runs; the case begins with the state before them
    #[arg(long, value_name = "RUNS", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Exports channels that are private, too
    #[arg(long)]
    private: bool,
    /// What the case is called
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
}

/// Prints the file; says on standard error what is missing in it, or what does not hold.
pub(super) async fn export(host: &Host, store: &dyn Store, flags: &ExportFlags) -> Result<ExitCode> {
    let key = &flags.thread;
    // What was taken back, or has not begun, left nothing that could be told.
    let wanted = |run: &crate::store::Run| {
        !matches!(run.state, RunState::RolledBack | RunState::Queued | RunState::Running)
    };
    let most = flags.last.map_or(usize::MAX, |last| last as usize);
    let StoredRuns { runs, damaged } = match store.thread(key).await? {
        Some(_) => engine::stored(store, key, wanted, most).await?.unwrap_or_default(),
        None => bail!(missing(key)),
    };
    let mut told: Vec<String> =
        damaged.iter().map(|(run, error)| format!("run {run} is left out: {error}")).collect();
    let Some(graph) = runs.last().map(|run| run.run.graph.clone()) else {
        if told.is_empty() {
            bail!("no run of {key} is over, or waits");
        }
        bail!("nothing of {key} can be exported\n  {}", told.join("\n  "));
    };
    let stage = Stage::default();
    let providers = host.scripted(&stage)?;
    let catalog = read(host, &providers, Files::new())?.1;
    let plans = plans(store, &catalog, &providers, &runs, &mut told).await?;
    let name = flags.name.clone().unwrap_or_else(|| format!("as in {key}"));
    let how = Exporting { name, private: flags.private };
    let exported = case::export(&graph, &runs, &plans, &how);
    let hint =
        || format!("the test file of {key} cannot be written; `--last N` takes only the newest N runs");
    let Export { yaml, told: more, whole } = match exported.with_context(hint)? {
        Ok(export) => export,
        Err(why) => {
            told.extend(why);
            bail!("nothing of {key} can be exported\n  {}", told.join("\n  "))
        }
    };
    told.extend(more);
    super::print(&yaml)?;
    for line in &told {
        writeln!(std::io::stderr(), "{line}")?;
    }
    // Where something is to be filled in, it is known that it does not play.
    let holds = whole && tries(host, stage, providers, &graph, &yaml).await?;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads and compiles the project, with these files besides.
fn read(host: &Host, providers: &Providers, files: Files) -> Result<(spec::Folder, Catalog, Bag)> {
    let root = host.file.graphs(&host.flags);
    let mut bag = Bag::default();
    let folder = spec::load_over(&root, files, &mut bag);
    let catalog = folder.as_ref().and_then(|folder| compile::compile(folder, providers, &mut bag));
    bag.sort();
    bag.drop_lints();
    match folder.zip(catalog) {
        Some((folder, catalog)) => Ok((folder, catalog, bag)),
        None => {
            let text = diagnostic::render_text(&bag, super::coloured(&std::io::stderr()));
            std::io::stderr().write_all(text.as_bytes())?;
            bail!("the graphs in `{}` have errors", root.display())
        }
    }
}

/// Returns the versions that the runs are pinned to: of the project folder, or as they are stored.
async fn plans(
    store: &dyn Store,
    catalog: &Catalog,
    providers: &Providers,
    runs: &[Stored],
    told: &mut Vec<String>,
) -> Result<BTreeMap<String, Arc<Plan>>> {
    let mut plans = BTreeMap::new();
    for run in runs {
        let (graph, hash) = (&run.run.graph, &run.run.hash);
        if plans.contains_key(hash) {
            continue;
        }
        let today = catalog.graphs.get(graph).map(|compiled| compiled.plan.clone());
        if let Some(plan) = today.filter(|plan| plan.hash == *hash) {
            plans.insert(hash.clone(), plan);
            continue;
        }
        told.push(format!(
            "run {} went by another version of `{graph}` than the project folder has",
            run.run.run
        ));
        let Some(stored) = store.graph_version(hash).await? else { continue };
        // Why a version cannot be used stands beside the run that is left out for it.
        if let Ok(plan) = revive(&stored.body, graph, &catalog.project, providers) {
            plans.insert(hash.clone(), plan);
        }
    }
    Ok(plans)
}

/// Plays the file in memory, and says what does not hold.
async fn tries(host: &Host, stage: Stage, providers: Providers, graph: &str, yaml: &str) -> Result<bool> {
    let mut error = std::io::stderr();
    let colour = super::coloured(&error);
    let files = Files::from([(TRIED.to_owned(), yaml.as_bytes().to_vec())]);
    let Ok((folder, catalog, bag)) = read(host, &providers, files) else {
        writeln!(error, "the graph `{graph}` of the project folder does not take the file")?;
        return Ok(false);
    };
    let root = host.file.graphs(&host.flags);
    let chosen = Chosen { targets: vec![TRIED.to_owned()], filter: None };
    let bench =
        Bench { catalog, providers, stage: Some(stage), root, update: false, store: None, tape: None };
    let report = case::run(&bench, &folder, &chosen, &bag).await?;
    for ran in &report.cases {
        let Verdict::Failed(failures) = &ran.verdict else { continue };
        for failure in failures {
            write!(error, "{}", diagnostic::render_one(&bag, failure, colour))?;
        }
    }
    let (passed, failed, _) = report.counts();
    Ok(passed > 0 && failed == 0)
}
