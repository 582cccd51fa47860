//! What is served, and how that is replaced while runs go on.
//!
//! Invariant: the graphs of a project are replaced together, and a plan is stored before a run can begin on it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tracing::error;

use super::{Engine, Shared};
use crate::compile::{Catalog, compile, revive};
use crate::diagnostic::{Bag, Severity};
use crate::node::{ErrorKind, Failure};
use crate::plan::Plan;
use crate::spec::{Folder, RetentionSpec};
use crate::store::{GraphVersion, Store, StoreError};

/// The graphs that are served, and what was made with their project.
pub(super) struct Served {
    catalog: Arc<Catalog>,
    /// Plans of other versions that runs are pinned to. Their models are those of the project, so they are made anew
    /// when it changes.
    revived: Mutex<HashMap<String, Arc<Plan>>>,
}

impl Served {
    pub(super) fn new(catalog: Catalog) -> Self {
        Self { catalog: Arc::new(catalog), revived: Mutex::default() }
    }

    fn revived(&self) -> MutexGuard<'_, HashMap<String, Arc<Plan>>> {
        self.revived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how long what is over is kept.
pub(super) fn retention(shared: &Shared) -> RetentionSpec {
    shared.served.load().catalog.retention
}

/// Why what is served is not what the project folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// Since when that is known.
    pub since: DateTime<Utc>,
    /// In one sentence.
    pub why: String,
    /// How many errors the project has.
    pub errors: usize,
    /// The first of them.
    pub findings: Vec<Finding>,
}

/// An error of a project in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in code points, from 1.
    pub column: usize,
}

impl Stale {
    /// Says that a project has errors; of these the first `most` are told.
    pub fn new(since: DateTime<Utc>, why: String, bag: &Bag, most: usize) -> Self {
        let errors = bag.findings().iter().filter(|finding| finding.severity == Severity::Error);
        let finding = |finding: &crate::diagnostic::Diagnostic| {
            let place = bag.place(finding.label.span);
            Finding {
                code: finding.code,
                message: finding.message.clone(),
                file: bag.source(finding.label.span.file).0.to_owned(),
                line: place.line,
                column: place.column,
            }
        };
        Self { since, why, errors: bag.counts().0, findings: errors.take(most).map(finding).collect() }
    }
}

/// Stores the versions of the graphs, but for those of `known`, which are stored.
pub(super) async fn put_versions(
    store: &dyn Store,
    catalog: &Catalog,
    known: &Catalog,
) -> Result<(), StoreError> {
    for (graph, compiled) in &catalog.graphs {
        let hash = compiled.plan.hash.clone();
        if known.graphs.get(graph).is_some_and(|known| known.plan.hash == hash) {
            continue;
        }
        let graph = compiled.plan.graph.clone();
        store.put_graph_version(&GraphVersion { graph, hash, body: compiled.body.clone() }).await?;
    }
    Ok(())
}

impl Shared {
    /// Returns the plan that a run is pinned to, from what is served or from its stored body.
    pub(super) async fn plan(
        &self,
        graph: &str,
        hash: &str,
    ) -> Result<Result<Arc<Plan>, Failure>, StoreError> {
        // What is made below goes with what is served now, whatever is served then.
        let served = self.served.load_full();
        if let Some(compiled) = served.catalog.graphs.get(graph)
            && compiled.plan.hash == hash
        {
            return Ok(Ok(compiled.plan.clone()));
        }
        if let Some(plan) = served.revived().get(hash) {
            return Ok(Ok(plan.clone()));
        }
        let gone = |why: String| {
            error!(graph, hash, why, "The graph version of a run cannot be used.");
            let message = "the version of the graph that this run began on cannot be used any more";
            Failure { code: "graph_version_gone".into(), ..Failure::new(ErrorKind::Failed, message) }
        };
        let Some(stored) = self.store.graph_version(hash).await? else {
            return Ok(Err(gone("it is not stored".into())));
        };
        let plan = match revive(&stored.body, graph, &served.catalog.project, &self.providers) {
            Ok(plan) => plan,
            Err(why) => return Ok(Err(gone(why))),
        };
        served.revived().insert(hash.to_owned(), plan.clone());
        Ok(Ok(plan))
    }
}

/// Runs that wait for a person and cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The graph.
    pub graph: String,
    /// Its version.
    pub hash: String,
    /// How many runs wait on it.
    pub paused: u64,
}

impl Engine {
    /// Finds the versions on which runs wait for a person, and which cannot be used: the run fails when it is answered.
    /// Why stands in the log.
    pub async fn lost(&self) -> Result<Vec<Lost>, StoreError> {
        let mut lost = Vec::new();
        for ((graph, hash), paused) in self.shared.store.paused_versions().await? {
            if self.shared.plan(&graph, &hash).await?.is_err() {
                lost.push(Lost { graph, hash, paused });
            }
        }
        Ok(lost)
    }

    /// Returns the graphs that are served.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.served.load().catalog.clone()
    }

    /// Returns the plan of a served graph.
    pub fn graph(&self, graph: &str) -> Option<Arc<Plan>> {
        Some(self.shared.served.load().catalog.graphs.get(graph)?.plan.clone())
    }

    /// Compiles a project as a reload would, with the models' client that this engine has. Nothing: the bag holds an
    /// error.
    pub fn compile(&self, folder: &Folder, bag: &mut Bag) -> Option<Catalog> {
        compile(folder, &self.shared.providers, bag)
    }

    /// Serves these graphs from now on, all at once, when their versions are stored. Runs under way, and those that
    /// wait, keep the versions that they were accepted for.
    pub async fn reload(&self, catalog: Catalog) -> Result<(), StoreError> {
        put_versions(&*self.shared.store, &catalog, &self.catalog()).await?;
        self.shared.served.store(Arc::new(Served::new(catalog)));
        self.shared.stale.store(None);
        Ok(())
    }

    /// Notes that what is served stays, though the project folder holds something else.
    pub fn set_stale(&self, stale: Stale) {
        self.shared.stale.store(Some(Arc::new(stale)));
    }

    /// Says why what is served is not what the project folder holds; nothing when it is, as far as is known.
    pub fn stale(&self) -> Option<Arc<Stale>> {
        self.shared.stale.load_full()
    }
}
