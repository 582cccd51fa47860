//! `runs`: what an operator sees and does of the runs of all tenants.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use chrono::{SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value as Json, json};

use super::Host;
use crate::config::DatabaseFlag;
use crate::engine::record::{self, Outcome};
use crate::id::{Part, RunId};
use crate::store::{Run, RunFilter, RunState, Store};

/// The flags of `runs`.
// The database may be named behind the action, too.
#[derive(Debug, Args)]
#[command(mut_arg("database_url", |flag| flag.global(true)))]
pub(super) struct RunsFlags {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists runs, newest first: those that are not over, and those that were given up
    List {
        /// Only runs in this state; may be given again
        #[arg(long, value_enum)]
        state: Vec<State>,
        /// Only runs of this tenant
        #[arg(long)]
        tenant: Option<Part>,
        /// Only runs that were accepted before this one
        #[arg(long, value_name = "RUN")]
        before: Option<RunId>,
        /// So many at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// What is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Shows a run
    Show {
        /// Its id
        run: RunId,
        /// What is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Puts a run that was given up (`dead`) back into the queue
    ///
    /// It goes on from its last superstep. A run that another one of its thread followed stays as it is.
    Retry {
        /// Its id
        run: RunId,
    },
    /// Cancels a run that was given up (`dead`), so that it is not listed any more
    Discard {
        /// Its id
        run: RunId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Queued,
    Running,
    Interrupted,
    Completed,
    Failed,
    Cancelled,
    RolledBack,
    Dead,
}

impl From<State> for RunState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Interrupted => Self::Interrupted,
            State::Completed => Self::Completed,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            State::RolledBack => Self::RolledBack,
            State::Dead => Self::Dead,
        }
    }
}

pub(super) async fn runs(flags: &RunsFlags, host: &Host) -> Result<ExitCode> {
    let url = host.file.database_url(&flags.database);
    if url == "memory:" {
        bail!("`memory:` keeps no runs beyond its process");
    }
    let look = async || host.open_to_read(&url).await;
    match &flags.action {
        Action::List { state, tenant, before, limit, format } => {
            let states = match state.as_slice() {
                [] => vec![State::Queued, State::Running, State::Interrupted, State::Dead],
                some => some.to_vec(),
            };
            let states = states.into_iter().map(Into::into).collect();
            let filter = RunFilter { states, tenant: tenant.clone(), before: *before, thread: None };
            let runs = look().await?.runs(&filter, *limit).await?;
            super::print(&match format {
                Format::Text => table(&runs),
                Format::Json => pretty(&json!({"runs": runs.iter().map(told).collect::<Result<Vec<_>>>()?}))?,
            })
        }
        Action::Show { run, format } => {
            let run = found(&look().await?, *run).await?;
            let json = told(&run)?;
            super::print(&if *format == Format::Json { pretty(&json)? } else { lines(&json) })
        }
        Action::Retry { run } => {
            let store = host.open_store(&url).await?;
            match store.retry(*run).await? {
                Some(run) => super::print(&format!("{} is in the queue again.\n", run.run)),
                None => refuse(&store, *run, "another run of its thread came after it").await,
            }
        }
        Action::Discard { run } => {
            let store = host.open_store(&url).await?;
            match store.discard(*run).await? {
                Some(run) => super::print(&format!("{} is cancelled.\n", run.run)),
                None => refuse(&store, *run, "somebody else was first").await,
            }
        }
    }
}

async fn found(store: &Arc<dyn Store>, run: RunId) -> Result<Run> {
    store.find_run(run).await?.with_context(|| format!("there is no run {run}"))
}

/// Says why nothing was done about a run.
async fn refuse(store: &Arc<dyn Store>, run: RunId, else_why: &str) -> Result<ExitCode> {
    match found(store, run).await?.state {
        RunState::Dead => bail!("run {run} stays as it is: {else_why}"),
        state => bail!("run {run} is `{}`; this is for runs that are `dead`", state.name()),
    }
}

fn told(run: &Run) -> Result<Json> {
    let time = |at: chrono::DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut json = json!({
        "run_id": run.run.to_string(),
        "status": run.state.name(),
        "tenant": run.key.owner.tenant.as_str(),
        "user": run.key.owner.user.as_str(),
        "session": run.key.session.as_str(),
        "graph": run.graph,
        "graph_hash": run.hash,
        "step": run.step,
        "crashes": run.crashes,
        "fence": run.fence,
        "cancel_requested": run.cancel_requested,
        "created_at": time(run.created_at),
    });
    if let Some(at) = run.due_at.filter(|_| run.state == RunState::Queued) {
        json["due_at"] = time(at).into();
    }
    if run.lost {
        json["lost"] = true.into();
    }
    if run.webhook.is_some() {
        // Where it is may be a secret of its user's.
        json["webhook"] = true.into();
    }
    if let Some(at) = run.finished_at {
        json["finished_at"] = time(at).into();
    }
    if let Some(result) = &run.result {
        // What it said is its user's; how it went is the operator's. One broken row must not hide the others.
        let outcome = match record::decode::<Outcome>("result", result) {
            Ok(outcome) => outcome,
            Err(error) => {
                json["unreadable"] = error.to_string().into();
                return Ok(json);
            }
        };
        json["usage"] = json!({
            "input_tokens": outcome.usage.input_tokens,
            "output_tokens": outcome.usage.output_tokens,
            "model_calls": outcome.usage.model_calls,
        });
        if let Some(error) = outcome.error {
            json["error"] = serde_json::to_value(error)?;
        }
    }
    Ok(json)
}

pub(super) fn pretty(json: &Json) -> Result<String> {
    Ok(serde_json::to_string_pretty(json)? + "\n")
}

fn table(runs: &[Run]) -> String {
    if runs.is_empty() {
        return "There are no such runs.\n".to_owned();
    }
    let mut text = String::new();
    for run in runs {
        let at = run.created_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let is_delayed = run.state == RunState::Queued && run.due_at.is_some();
        let state = match run.state {
            _ if is_delayed => "delayed",
            // Nobody works on it until it is taken over.
            _ if run.lost => "lost",
            state => state.name(),
        };
        // Writing into memory cannot fail.
        let _infallible = writeln!(
            text,
            "{}  {state:<11}  {at}  step {:<4} crashes {}  {}  {}",
            run.run, run.step, run.crashes, run.graph, run.key
        );
    }
    text
}

fn lines(json: &Json) -> String {
    let mut text = String::new();
    for (name, value) in json.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _infallible = writeln!(text, "{name:<17} {value}");
    }
    text
}
