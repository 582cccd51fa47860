//! `chat`: talks to a graph in the terminal, without a server.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Project;
use crate::config::{DatabaseFlag, File, Flags};
use crate::engine::step::Reply;
use crate::engine::{AnswerError, Answered, Answerer, Engine, Settings, Start, StartError};
use crate::event::{Body, Interrupt, Who};
use crate::id::{InterruptId, Owner, Part, ThreadKey};
use crate::store::OnBusy;

/// The flags of `chat`.
#[derive(Debug, Args)]
pub(super) struct ChatFlags {
    /// The graph's id: the name of its file without `.yaml`
    graph: String,
    /// Says this, prints the answer and leaves; else lines are read until the end of input
    #[arg(long, short)]
    message: Option<String>,
    /// An input of the graph as NAME=JSON, a text when it is not JSON; may be given again
    #[arg(long, short, value_name = "NAME=VALUE")]
    input: Vec<String>,
    /// The conversation, when it is kept
    #[arg(long, default_value = "terminal")]
    session: Part,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

pub(super) async fn chat(flags: &Flags, chat: &ChatFlags, file: &File) -> Result<ExitCode> {
    let Project { catalog, providers, .. } = super::load(flags, file)?;
    if !catalog.graphs.contains_key(&chat.graph) {
        let known: Vec<&str> = catalog.graphs.keys().map(String::as_str).collect();
        bail!("there is no graph `{}`; there are: {}", chat.graph, known.join(", "));
    }
    let url = file.named_database(&chat.database).unwrap_or_else(|| "memory:".into());
    let store = super::open_store(&url).await?;
    store.migrate().await.context("cannot migrate the database")?;
    let mut settings = Settings::new("terminal".into());
    // A service may share a Postgres, and its runs are not for a terminal to work on. What this process does not
    // claim it must not wait for.
    let shared = url.starts_with("postgres");
    let on_busy = if shared { OnBusy::Reject } else { OnBusy::Enqueue };
    if shared {
        settings.claims = 0;
    }
    let engine = Engine::open(store, catalog, providers, settings).await?;
    let input = inputs(&chat.input)?;
    // One listener from here on: what comes between two would be lost.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut code = ExitCode::SUCCESS;
    if let Some(message) = &chat.message {
        code = turn(&engine, chat, on_busy, &input, message, &mut interrupt).await?.0;
    } else {
        let mut open = Vec::new();
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            write!(std::io::stderr(), "> ")?;
            let line = tokio::select! {
                line = lines.next_line() => line?,
                _ = interrupt.recv() => None,
            };
            let Some(line) = line else { break };
            if line.trim().is_empty() {
                continue;
            }
            (code, open) = match open.as_slice() {
                // Whoever sits at the terminal is asked in everybody's place.
                [Interrupt { who: Who::Agent, .. }] => {
                    answer(&engine, open, line.trim(), &mut interrupt).await?
                }
                _ => turn(&engine, chat, on_busy, &input, &line, &mut interrupt).await?,
            };
        }
    }
    engine.close(std::time::Duration::from_secs(5)).await;
    Ok(code)
}

fn inputs(pairs: &[String]) -> Result<serde_json::Map<String, Json>> {
    let pair = |pair: &String| {
        let (name, value) =
            pair.split_once('=').with_context(|| format!("`--input {pair}` is not NAME=VALUE"))?;
        Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()))))
    };
    pairs.iter().map(pair).collect()
}

/// What became of a turn: the exit code, and the questions that the run waits for.
type Ended = (ExitCode, Vec<Interrupt>);

fn terminal() -> Result<Owner> {
    Ok(Owner { tenant: "terminal".parse()?, user: "terminal".parse()? })
}

/// Runs one turn and prints the answer as it comes.
async fn turn(
    engine: &Engine,
    chat: &ChatFlags,
    on_busy: OnBusy,
    input: &serde_json::Map<String, Json>,
    message: &str,
    interrupt: &mut Signal,
) -> Result<Ended> {
    let start = Start {
        graph: chat.graph.clone(),
        session: chat.session.clone(),
        message: Some(Json::String(message.to_owned())),
        input: input.clone(),
        on_busy,
        idempotency: None,
    };
    match engine.start(&terminal()?, start).await {
        Ok(started) => print(engine, &Answered { run: started.run, after: started.after }, interrupt).await,
        Err(StartError::Unprocessable(wrong)) => {
            let lines: Vec<String> = wrong.iter().map(|m| format!("{}: {}", m.pointer, m.why)).collect();
            writeln!(std::io::stderr(), "error: the graph does not take this:\n  {}", lines.join("\n  "))?;
            Ok((ExitCode::FAILURE, Vec::new()))
        }
        Err(StartError::Busy(run)) => {
            let session = &chat.session;
            bail!(
                "session `{session}` is busy with run {run}; wait for its end, or take another `--session`"
            );
        }
        Err(StartError::Waits(_)) => {
            let key = ThreadKey { owner: terminal()?, session: chat.session.clone() };
            let open: Vec<Interrupt> =
                engine.interrupts(&key).await?.into_iter().map(|(_, open)| open).collect();
            show(&open)?;
            Ok((ExitCode::FAILURE, open))
        }
        Err(error) => Err(error.into()),
    }
}

/// Answers the only open question, and prints what follows.
async fn answer(engine: &Engine, open: Vec<Interrupt>, line: &str, interrupt: &mut Signal) -> Result<Ended> {
    let Some(asked) = open.first() else { return Ok((ExitCode::FAILURE, open)) };
    let plain = || Json::String(line.to_owned());
    let value = if asked.tool.is_some() {
        match line.split_once(' ') {
            Some(("reject", why)) => serde_json::json!({"reject": why}),
            Some(("edit", args)) => match serde_json::from_str::<Json>(args) {
                Ok(args) => serde_json::json!({"edit": args}),
                Err(wrong) => {
                    writeln!(std::io::stderr(), "`edit` takes the arguments as JSON: {wrong}")?;
                    return Ok((ExitCode::FAILURE, open));
                }
            },
            _ if line == "reject" => serde_json::json!({"reject": "no"}),
            _ => plain(),
        }
    } else if asked.schema.is_some() && asked.options.is_empty() {
        serde_json::from_str(line).unwrap_or_else(|_| plain())
    } else {
        plain()
    };
    let id = InterruptId(asked.interrupt_id.as_str().into());
    let who = Answerer { owner: terminal()?, agent: true };
    match engine.answer(&who, vec![(id, Reply::Answer(value))]).await {
        Ok(answered) => print(engine, &answered, interrupt).await,
        Err(AnswerError::Unfit(_, wrong)) => {
            let lines: Vec<String> = wrong.into_iter().map(|m| m.why).collect();
            writeln!(std::io::stderr(), "{}", lines.join("\n"))?;
            Ok((ExitCode::FAILURE, open))
        }
        Err(error) => Err(error.into()),
    }
}

/// Shows who else asks; what the user is asked is a message of the conversation.
fn show(open: &[Interrupt]) -> Result<()> {
    for asked in open.iter().filter(|asked| asked.who == Who::Agent) {
        let choices = match &asked.tool {
            Some(_) => "approve, edit ARGS, reject WHY".to_owned(),
            None => asked.options.join(", "),
        };
        let args = asked.args.as_ref().map(|args| format!(" {args}")).unwrap_or_default();
        let choices = if choices.is_empty() { choices } else { format!(" [{choices}]") };
        writeln!(std::io::stderr(), "[{} asks] {}{args}{choices}", asked.node, asked.question)?;
    }
    Ok(())
}

/// Prints what a run says as it comes.
async fn print(engine: &Engine, begun: &Answered, interrupt: &mut Signal) -> Result<Ended> {
    let owner = terminal()?;
    let (mut exit, mut open) = (ExitCode::SUCCESS, Vec::new());
    let mut follower = engine.follower(&owner, &begun.run, begun.after, false);
    let mut out = std::io::stdout();
    loop {
        let frame = tokio::select! {
            frame = follower.next() => frame,
            _ = interrupt.recv() => {
                // The run ends here and now, and the conversation goes on from what was said before.
                engine.cancel(&owner, begun.run.run).await?;
                exit = ExitCode::from(130);
                continue;
            }
        };
        let Some(frame) = frame else { break };
        let frame = frame?;
        match &frame.event.body {
            Body::MessageDelta { delta, .. } => {
                out.write_all(delta.as_bytes())?;
                out.flush()?;
            }
            Body::MessageFinished { .. } => writeln!(out)?,
            Body::NodeReset { reason } => {
                writeln!(std::io::stderr(), "\n[the answer begins anew: {reason}]")?;
            }
            Body::Error { code, message, .. } => {
                exit = ExitCode::FAILURE;
                writeln!(std::io::stderr(), "error[{code}]: {message}")?;
            }
            Body::RunFinished { interrupts, .. } => open.clone_from(interrupts),
            _ => {}
        }
    }
    show(&open)?;
    Ok((exit, open))
}
