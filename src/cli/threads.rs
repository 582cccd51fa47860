//! `threads`: what an operator sees of threads of any tenant, and how he mends them.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::Host;
use super::export::ExportFlags;
use super::runs::{Format, pretty};
use crate::config::DatabaseFlag;
use crate::engine::{
    self, AnswerError, Branched, Breakpoints, CheckpointView, Engine, Fork, Resume, Settings, StartError,
    Terms, Update,
};
use crate::event::RunStatus;
use crate::id::{CheckpointId, Owner, Part, ThreadKey};
use crate::state::Mismatch;

/// The flags of `threads`.
// The database may be named behind the action, too.
#[derive(Debug, Args)]
#[command(mut_arg("database_url", |flag| flag.global(true)))]
pub(super) struct ThreadsFlags {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists the threads of a user, latest touched first
    List {
        /// Whose
        #[arg(value_name = "TENANT:USER", value_parser = owner)]
        owner: Owner,
        /// So many at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// What is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Shows the state of a thread as JSON, with the channels that are private
    State {
        /// The thread
        #[arg(value_name = "TENANT:USER:SESSION", value_parser = thread)]
        thread: ThreadKey,
        /// As it was at this checkpoint
        #[arg(long)]
        checkpoint: Option<CheckpointId>,
    },
    /// Lists the checkpoints of a thread, newest first
    History {
        /// The thread
        #[arg(value_name = "TENANT:USER:SESSION", value_parser = thread)]
        thread: ThreadKey,
        /// Only those before this one
        #[arg(long)]
        before: Option<CheckpointId>,
        /// So many at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// What is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Changes the state of a thread in the name of a node, by the graphs in the project folder
    ///
    /// The edges of the node say what runs next, when the thread is resumed. Its open questions are closed.
    Update {
        /// The thread
        #[arg(value_name = "TENANT:USER:SESSION", value_parser = thread)]
        thread: ThreadKey,
        /// What is written, as CHANNEL=JSON, a text when it is not JSON
        #[arg(value_name = "CHANNEL=VALUE")]
        values: Vec<String>,
        /// The node, `start` or `end`
        #[arg(long, value_name = "NODE")]
        as_node: String,
        /// The paused graph that is changed, by the nodes that called it: `caller/each[1]`
        #[arg(long)]
        path: Option<String>,
    },
    /// Makes a thread of the same user that goes on from a checkpoint of this one when it is resumed
    Fork {
        /// The thread
        #[arg(value_name = "TENANT:USER:SESSION", value_parser = thread)]
        thread: ThreadKey,
        /// The new session; without, a name is made
        session: Option<Part>,
        /// Where it goes on; without, at the head
        #[arg(long)]
        checkpoint: Option<CheckpointId>,
    },
    /// Goes on with a run that is stopped at a breakpoint, after an update or a fork, or that failed, by the graphs in the
    /// project folder, and prints as JSON what came of it
    ///
    /// It works in this process. Ctrl-C gives the run back, for a service to go on with it. Exit codes: 0 it completed, or waits
    /// again; 1 it did not.
    Resume {
        /// The thread
        #[arg(value_name = "TENANT:USER:SESSION", value_parser = thread)]
        thread: ThreadKey,
        /// Stops it before this node begins, or `*` for every node, in the place of all breakpoints that it had; may be given
        /// again
        #[arg(long, value_name = "NODE")]
        interrupt_before: Vec<String>,
        /// The same after this node ended
        #[arg(long, value_name = "NODE")]
        interrupt_after: Vec<String>,
    },
    /// Prints a test file that plays a thread again: a case for `graphloom test`
    ///
    /// Each run becomes a turn, with what models, tools and services answered as its script, and with what came of it as what
    /// is expected. What the database does not have is not made up: its place is marked FILL IN, and standard error says
    /// which it is and why. A file without such places is played once, in memory, and standard error says what did not hold.
    /// The file holds what people said and what services answered; private channels only with `--private`.
    /// Exit codes: 0 the file plays, 1 something is to be filled in or does not hold.
    Export(ExportFlags),
}

fn owner(text: &str) -> Result<Owner, String> {
    let part = |text: &str| text.parse::<Part>().map_err(|error| error.to_string());
    let (tenant, user) = text.split_once(':').ok_or("write `tenant:user`")?;
    Ok(Owner { tenant: part(tenant)?, user: part(user)? })
}

pub(super) fn thread(text: &str) -> Result<ThreadKey, String> {
    let whole = text.rsplit_once(':').filter(|(of, _)| of.contains(':'));
    let (of, session) =
        whole.ok_or("a thread is named by its tenant, its user and its session: `tenant:user:session`")?;
    Ok(ThreadKey { owner: owner(of)?, session: session.parse::<Part>().map_err(|error| error.to_string())? })
}

pub(super) async fn threads(host: &Host, threads: &ThreadsFlags) -> Result<ExitCode> {
    let url = host.file.database_url(&threads.database);
    if url == "memory:" {
        bail!("`memory:` keeps no threads beyond its process");
    }
    let look = async || host.open_to_read(&url).await;
    match &threads.action {
        Action::List { owner, limit, format } => {
            let found = look().await?.threads(owner, None, *limit).await?;
            let told = found.iter().map(|thread| {
                let last = thread.last_run.map(|(run, state)| json!({"run_id": run, "status": state.name()}));
                json!({
                    "session": thread.key.session.as_str(),
                    "graph": thread.graph,
                    "checkpoint": thread.head,
                    "last_run": last,
                    "updated_at": thread.updated_at.to_rfc3339_opts(SecondsFormat::Secs, true),
                })
            });
            let told: Vec<Json> = told.collect();
            super::print(&match format {
                Format::Json => pretty(&json!({"threads": told}))?,
                Format::Text => lines(&told, |thread| {
                    let text = |value: &Json| value.as_str().unwrap_or("-").to_owned();
                    let status = text(&thread["last_run"]["status"]);
                    let (at, graph) = (text(&thread["updated_at"]), text(&thread["graph"]));
                    format!("{at}  {status:<11}  {graph}  {}", text(&thread["session"]))
                }),
            })
        }
        Action::State { thread, checkpoint } => {
            let found = engine::inspect(&*look().await?, thread, *checkpoint).await?;
            let (point, state) = found.with_context(|| missing(thread))?;
            let state: Map<String, Json> =
                state.names().filter_map(|name| Some((name.to_owned(), state.json(name)?))).collect();
            super::print(&pretty(&json!({"checkpoint": told(&point), "state": state}))?)
        }
        Action::History { thread, before, limit, format } => {
            let found = engine::past(&*look().await?, thread, *before, *limit).await?;
            let points: Vec<Json> = found.with_context(|| missing(thread))?.iter().map(told).collect();
            super::print(&match format {
                Format::Json => pretty(&json!({"checkpoints": points}))?,
                Format::Text => lines(&points, |point| {
                    let text = |name: &str| point[name].as_str().unwrap_or("-").to_owned();
                    let next: Vec<&str> =
                        point["next"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
                    format!(
                        "{}  {}  step {:<4} {:<6}  {}",
                        text("checkpoint"),
                        text("created_at"),
                        point["step"].to_string(),
                        text("source"),
                        if next.is_empty() { "-".to_owned() } else { next.join(", ") }
                    )
                }),
            })
        }
        Action::Update { thread, values, as_node, path } => {
            let update = Update {
                values: super::chat::inputs(values)?,
                as_node: as_node.clone(),
                path: path.iter().flat_map(|path| path.split('/')).map(str::to_owned).collect(),
                agent: true,
                private: true,
                idempotency: None,
            };
            let engine = open(host, &url).await?;
            let done = engine.update(thread, &update).await;
            engine.close(Duration::ZERO, Duration::from_secs(5)).await;
            stands(done, thread)
        }
        Action::Fork { thread, session, checkpoint } => {
            let fork =
                Fork { session: session.clone(), checkpoint: *checkpoint, agent: true, idempotency: None };
            let engine = open(host, &url).await?;
            let done = engine.fork(thread, &fork).await;
            engine.close(Duration::ZERO, Duration::from_secs(5)).await;
            stands(done, thread)
        }
        Action::Resume { thread, interrupt_before, interrupt_after } => {
            let stops = Breakpoints { before: interrupt_before.clone(), after: interrupt_after.clone() };
            let engine = open(host, &url).await?;
            let came = resume(&engine, thread, stops).await;
            engine.close(Duration::ZERO, Duration::from_secs(5)).await;
            came
        }
        Action::Export(flags) => super::export::export(host, &*look().await?, flags).await,
    }
}

/// Goes on with what waits in a thread, and prints what came of it.
async fn resume(engine: &Engine, thread: &ThreadKey, stops: Breakpoints) -> Result<ExitCode> {
    if engine.thread(thread).await?.is_none() {
        bail!(missing(thread));
    }
    let breakpoints = Some(stops).filter(|some| !some.is_none());
    let resume = Resume { terms: Terms { breakpoints, ..Terms::default() }, idempotency: None };
    let went = match engine.resume(thread, resume).await {
        Ok(went) => went,
        Err(AnswerError::Unprocessable(wrong)) => bail!(unfit(&wrong)),
        Err(AnswerError::Waits(open)) => bail!("the thread waits for an answer to {}", open.join(", ")),
        Err(error) => return Err(error.into()),
    };
    let mut follower = engine.follower(&thread.owner, &went.run, went.after, false);
    let finished = tokio::select! {
        finished = follower.drain() => finished?,
        _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
    };
    let said: Vec<Json> =
        finished.messages.iter().map(|said| json!({"node": said.node, "content": said.content})).collect();
    super::print(&pretty(&json!({
        "run_id": finished.run,
        "status": finished.status,
        "messages": said,
        "output": finished.output,
        "error": finished.error,
        "interrupts": finished.interrupts,
        "usage": finished.usage,
    }))?)?;
    let well = matches!(finished.status, RunStatus::Completed | RunStatus::Interrupted);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Opens an engine that leaves the queue to others.
async fn open(host: &Host, url: &str) -> Result<Engine> {
    let (builder, project) = super::load(host)?;
    let settings = Settings { claims: 0, ..Settings::new("terminal".into()) };
    Ok(builder.store(url).engine(settings).open(project).await?.engine().clone())
}

/// Prints where a thread stands, or why it stays as it is.
fn stands(done: Result<Branched, StartError>, of: &ThreadKey) -> Result<ExitCode> {
    match done {
        Ok(Branched { run, .. }) => {
            super::print(&format!("{} stands there; run {} is {}.\n", run.key, run.run, run.state.name()))
        }
        Err(StartError::NotFound) => bail!(missing(of)),
        Err(StartError::Unprocessable(wrong)) => bail!(unfit(&wrong)),
        Err(error) => Err(error.into()),
    }
}

fn unfit(wrong: &[Mismatch]) -> String {
    let wrong: Vec<String> = wrong.iter().map(|at| format!("{}: {}", at.pointer, at.why)).collect();
    format!("the graph does not take this:\n  {}", wrong.join("\n  "))
}

pub(super) fn missing(thread: &ThreadKey) -> String {
    format!("there is no thread {thread}, or no such checkpoint of it")
}

fn told(point: &CheckpointView) -> Json {
    json!({
        "checkpoint": point.checkpoint,
        "parent": point.parent,
        "run_id": point.run,
        "step": point.step,
        "source": point.source,
        "next": point.next,
        "created_at": point.created_at.to_rfc3339_opts(SecondsFormat::Millis, true),
    })
}

fn lines(items: &[Json], line: impl Fn(&Json) -> String) -> String {
    if items.is_empty() {
        return "There is nothing.\n".to_owned();
    }
    let mut text = String::new();
    for item in items {
        // Writing into memory cannot fail.
        let _infallible = writeln!(text, "{}", line(item));
    }
    text
}
