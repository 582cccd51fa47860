//! `diff`: says what differs between two versions of a project, and what that means for its threads.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};

use super::Host;
use crate::compile::{Catalog, Compiled, Providers, revive_as_stored};
use crate::config::DatabaseFlag;
use crate::diff::{self, GraphDiff};
use crate::store::{Store, VersionUse};

/// The shortest beginning of a hash that names a version.
const SHORTEST: usize = 6;

/// The flags of `diff`.
#[derive(Debug, Args)]
pub(super) struct DiffFlags {
    /// The old version: a project folder, or the hash of a stored graph, as `GET /v1/graphs` names it, or its first digits
    old: String,
    /// The new version: a project folder, or the hash of a stored graph, or its first digits
    new: String,
    /// What is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Exit codes: 0 they are equal, 1 they differ, 2 trouble.
pub(super) async fn diff(flags: &DiffFlags, host: &Host) -> ExitCode {
    match compare(flags, host).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing can be done about a closed standard error.
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// What a side of the comparison is read from.
enum Version {
    Folder(PathBuf),
    /// A hash, or its first digits.
    Hash(String),
}

impl Version {
    fn parse(text: &str) -> Result<Self> {
        let folder = Path::new(text);
        if folder.is_dir() {
            return Ok(Self::Folder(folder.to_owned()));
        }
        if (SHORTEST..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self::Hash(text.to_lowercase()));
        }
        bail!(
            "`{text}` is neither a folder nor the hash of a graph, which is 64 hex digits, of which the first {SHORTEST} or more will do"
        )
    }
}

/// One side of the comparison.
struct Side {
    catalog: Catalog,
    /// It is one graph, not a whole project.
    stored: bool,
}

async fn compare(flags: &DiffFlags, host: &Host) -> Result<bool> {
    let file = &host.file;
    let (old, new) = (Version::parse(&flags.old)?, Version::parse(&flags.new)?);
    // Folders need no database; they ask only one that somebody named.
    let folders = matches!((&old, &new), (Version::Folder(_), Version::Folder(_)));
    let url = file.named_database(&flags.database);
    let url = if folders { url } else { Some(url.unwrap_or_else(|| file.database_url(&flags.database))) };
    let store = match &url {
        Some(url) => Some(host.open_to_read(url).await?),
        None => None,
    };
    let store_of = store.as_deref();
    let (mut old, mut new) = (side(&old, store_of, host).await?, side(&new, store_of, host).await?);
    // One stored graph beside a folder is that graph beside its namesake.
    let ids = |side: &Side| side.catalog.graphs.keys().cloned().collect::<BTreeSet<_>>();
    match (old.stored, new.stored) {
        (true, true) if ids(&old) != ids(&new) => bail!("the two hashes are of different graphs"),
        (true, false) => keep(&mut new, &ids(&old)),
        (false, true) => keep(&mut old, &ids(&new)),
        _ => {}
    }
    let graphs = diff::compare(&old.catalog, &new.catalog).map_err(anyhow::Error::msg)?;
    let mut on = Vec::new();
    for graph in &graphs {
        on.push(on_old(graph, store.as_ref()).await);
    }
    let text = match flags.format {
        Format::Text => graphs.iter().zip(&on).map(|(graph, on)| graph.text() + &told(*on)).collect(),
        Format::Json => serde_json::to_string_pretty(&document(&graphs, &on))? + "\n",
    };
    super::print(&text)?;
    Ok(graphs.is_empty())
}

fn keep(side: &mut Side, ids: &BTreeSet<String>) {
    side.catalog.graphs.retain(|id, _| ids.contains(id));
}

async fn side(version: &Version, store: Option<&dyn Store>, host: &Host) -> Result<Side> {
    // Secrets say nothing about a graph.
    let providers = Providers::without_secrets()?.with_registry(host.registry.clone());
    match version {
        Version::Folder(folder) => Ok(Side { catalog: super::read(folder, &providers)?, stored: false }),
        Version::Hash(hash) => {
            let store = store.context("there is no database")?;
            let hash = match &store.hashes(hash, 2).await?[..] {
                [one] => one.clone(),
                [_, _, ..] => {
                    bail!("several graph versions of the database begin with `{hash}`: give more digits")
                }
                [] => hash.clone(),
            };
            let found = store.graph_version(&hash).await?;
            let found = found.with_context(|| format!("the database has no graph version `{hash}`"))?;
            let plan = revive_as_stored(&found.body, &found.graph, &providers)
                .map_err(|why| anyhow!("the version `{hash}` cannot be used any more\n{why}"))?;
            let mut catalog = Catalog::default();
            catalog.graphs.insert(found.graph, Compiled { plan, body: found.body });
            Ok(Side { catalog, stored: true })
        }
    }
}

/// Counts what is on the old version of a graph, where there is a database that says it.
async fn on_old(graph: &GraphDiff, store: Option<&Arc<dyn Store>>) -> Option<VersionUse> {
    let found = store?.version_use(graph.old.as_ref()?).await;
    found
        .inspect_err(|error| {
            // The comparison holds without it.
            let _closed = writeln!(std::io::stderr(), "warning: threads cannot be counted: {error}");
        })
        .ok()
}

fn told(on: Option<VersionUse>) -> String {
    let Some(VersionUse { threads, open_runs, paused_runs }) = on else { return String::new() };
    let paused = if paused_runs == 0 { String::new() } else { format!(", of which {paused_runs} paused") };
    let (threads, runs) = (super::count(threads as usize, "thread"), super::count(open_runs as usize, "run"));
    format!("  On the old version: {threads}, {runs} not over{paused}.\n")
}

fn document(graphs: &[GraphDiff], on: &[Option<VersionUse>]) -> Json {
    let graph = |(graph, on): (&GraphDiff, &Option<VersionUse>)| {
        // Writing these types into memory cannot fail.
        let mut json = serde_json::to_value(graph).unwrap_or_default();
        json["may_refuse"] = graph.may_refuse().into();
        if let Some(VersionUse { threads, open_runs, paused_runs }) = on {
            json["on_old"] = json!({"threads": threads, "open_runs": open_runs, "paused_runs": paused_runs});
        }
        json
    };
    json!({"equal": graphs.is_empty(), "graphs": graphs.iter().zip(on).map(graph).collect::<Vec<_>>()})
}
