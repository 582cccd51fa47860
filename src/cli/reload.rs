//! Keeps what is served in step with the project folder: at SIGHUP, and with `--watch` whenever it changes.
//!
//! Invariant: a project with errors changes nothing, and one that changes while it is read is read again.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::Utc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::watch::Watch;
use crate::app::{Seen, seen};
use crate::compile::Catalog;
use crate::diagnostic::{Bag, render_text};
use crate::engine::{Engine, Stale};
use crate::spec;

/// How many findings `/ready` tells.
const TOLD: usize = 20;
/// When a project that could not be stored is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What became of a reload, as the metrics name it.
const OUTCOMES: [&str; 3] = ["swapped", "refused", "failed"];

/// Takes over what changes in a project folder.
pub(super) struct Reloads {
    engine: Engine,
    folder: PathBuf,
    hangup: Signal,
    watch: Option<Watch>,
    /// What was looked at last.
    seen: Seen,
    /// The database did not take what is to be served.
    again: bool,
}

/// What a look at the folder found.
enum Look {
    /// The same files as the last time.
    Same,
    /// A project, with its warnings.
    Project(Seen, Catalog, Bag),
    /// None that could be served.
    Wrong(Seen, &'static str, Bag),
}

impl Reloads {
    /// Begins to follow a folder, of which the engine serves what was seen.
    pub(super) fn new(engine: Engine, folder: PathBuf, seen: Seen, watch: bool) -> Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        let watch = watch
            .then(|| Watch::new(folder.clone()))
            .transpose()
            .with_context(|| format!("cannot watch `{}`", folder.display()))?;
        for outcome in OUTCOMES {
            count(outcome, 0);
        }
        metrics::gauge!("graphloom_reload_findings").set(0.0);
        Ok(Self { engine, folder, hangup, watch, seen, again: false })
    }

    /// Takes over one change after the other.
    pub(super) async fn keep(mut self) -> Infallible {
        if self.watch.is_some() {
            // Something may have changed before it was watched.
            self.look(false).await;
        }
        loop {
            let asked = tokio::select! {
                _ = self.hangup.recv() => true,
                () = tokio::time::sleep(RETRY), if self.again => true,
                () = settled(self.watch.as_mut()) => false,
            };
            self.look(asked).await;
        }
    }

    /// Reads the folder and takes over what is there; files that were looked at before, only when that was asked for.
    async fn look(&mut self, asked: bool) {
        loop {
            let (engine, folder) = (self.engine.clone(), self.folder.clone());
            let seen = (!asked).then_some(self.seen);
            // Reading and compiling keeps a thread busy, and streams shall not wait for that.
            let look = tokio::task::spawn_blocking(move || look(&engine, &folder, seen)).await;
            if self.watch.as_ref().is_some_and(Watch::stirred) {
                // What was read may be half of a change.
                settled(self.watch.as_mut()).await;
                continue;
            }
            match look {
                Ok(Look::Same) => self.again = false,
                Ok(Look::Project(seen, catalog, bag)) => {
                    let mut drifts = bag.emptied();
                    super::mcp::verify(&catalog, &mut drifts).await;
                    if drifts.has_errors() {
                        self.refuse(seen, "the tools of MCP servers are others", &drifts);
                    } else {
                        self.swap(seen, catalog, &bag).await;
                    }
                }
                Ok(Look::Wrong(seen, why, bag)) => self.refuse(seen, why, &bag),
                Err(error) => error!(%error, "The project could not be compiled."),
            }
            return;
        }
    }

    async fn swap(&mut self, seen: Seen, catalog: Catalog, warnings: &Bag) {
        let former = self.engine.catalog();
        let (graphs, changed) = (catalog.graphs.len(), changes(&former, &catalog));
        if let Err(error) = self.engine.reload(catalog).await {
            count("failed", 1);
            self.again = true;
            return warn!(%error, "The project could not be stored; what was served goes on.");
        }
        (self.seen, self.again) = (seen, false);
        count("swapped", 1);
        metrics::gauge!("graphloom_reload_findings").set(0.0);
        if warnings.is_empty() {
            info!(graphs, changed, "The project was reloaded.");
        } else {
            warn!(graphs, changed, "The project was reloaded.\n{}", render_text(warnings, false));
        }
    }

    fn refuse(&mut self, seen: Seen, why: &str, bag: &Bag) {
        (self.seen, self.again) = (seen, false);
        count("refused", 1);
        let errors = bag.counts().0;
        // A folder without a graph is wrong without a finding.
        metrics::gauge!("graphloom_reload_findings").set(errors.max(1) as f64);
        let told = render_text(bag, false);
        warn!(errors, "The project was not reloaded: {why}; what was served goes on.\n{told}");
        let why = format!("the project was not taken over: {why}");
        self.engine.set_stale(Stale::new(Utc::now(), why, bag, TOLD));
    }
}

async fn settled(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.settled().await,
        None => std::future::pending().await,
    }
}

fn count(outcome: &'static str, times: u64) {
    metrics::counter!("graphloom_reloads_total", "outcome" => outcome).increment(times);
}

/// Reads and compiles the project.
fn look(engine: &Engine, folder: &Path, last: Option<Seen>) -> Look {
    let mut bag = Bag::default();
    let project = spec::load(folder, &mut bag);
    let seen = seen(project.as_ref(), &bag);
    if Some(seen) == last {
        return Look::Same;
    }
    let catalog = project.and_then(|project| engine.compile(&project, &mut bag));
    bag.sort();
    bag.drop_lints();
    match catalog {
        Some(catalog) if catalog.graphs.is_empty() => Look::Wrong(seen, "it holds no graph", bag),
        Some(catalog) => Look::Project(seen, catalog, bag),
        None => Look::Wrong(seen, "its graphs have errors", bag),
    }
}

/// Names the graphs of which another version, or none, is served from now on.
fn changes(former: &Arc<Catalog>, catalog: &Catalog) -> String {
    let hash = |catalog: &Catalog, graph: &str| catalog.graphs.get(graph).map(|c| c.plan.hash.clone());
    let mut graphs: Vec<&str> =
        former.graphs.keys().chain(catalog.graphs.keys()).map(String::as_str).collect();
    graphs.sort_unstable();
    graphs.dedup();
    graphs.retain(|graph| hash(former, graph) != hash(catalog, graph));
    graphs.join(", ")
}
