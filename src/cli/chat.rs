//! `chat`: talks to a graph in the terminal, without a server.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::Utc;
use clap::Args;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Host;
use crate::config::DatabaseFlag;
use crate::engine::step::Reply;
use crate::engine::{
    AnswerError, Answerer, Breakpoints, Engine, Resume, Settings, Start, StartError, Terms, Wishes,
};
use crate::event::{Body, Interrupt, RunStatus, Who};
use crate::id::{InterruptId, Owner, Part, Seq, ThreadKey};
use crate::state::Mismatch;
use crate::store::{OnBusy, Run, RunState};

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
    /// Stops each run before this node begins, or `*` for every node; may be given again
    ///
    /// A run that is stopped goes on at an empty line, or with `--resume` where the conversation is kept.
    #[arg(long, value_name = "NODE")]
    interrupt_before: Vec<String>,
    /// The same after this node ended
    #[arg(long, value_name = "NODE")]
    interrupt_after: Vec<String>,
    /// Goes on with the run of the conversation that is stopped or failed, before anything is said
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

pub(super) async fn chat(host: &Host, chat: &ChatFlags) -> Result<ExitCode> {
    let (builder, project) = super::load(host)?;
    if !project.catalog.graphs.contains_key(&chat.graph) {
        let known: Vec<&str> = project.catalog.graphs.keys().map(String::as_str).collect();
        bail!("there is no graph `{}`; there are: {}", chat.graph, known.join(", "));
    }
    let url = host.file.named_database(&chat.database).unwrap_or_else(|| "memory:".into());
    let mut settings = Settings::new("terminal".into());
    // A service may share a Postgres, and its runs are not for a terminal to work on. What this process does not
    // claim it must not wait for.
    let shared = url.starts_with("postgres");
    let on_busy = if shared { OnBusy::Reject } else { OnBusy::Enqueue };
    if shared {
        settings.claims = 0;
    }
    let engine = builder.store(url).engine(settings).open(project).await?.engine().clone();
    let owner = Owner { tenant: "terminal".parse()?, user: "terminal".parse()? };
    let mut talk = Talk {
        engine: engine.clone(),
        graph: chat.graph.clone(),
        key: ThreadKey { owner, session: chat.session.clone() },
        on_busy,
        input: inputs(&chat.input)?,
        breakpoints: Breakpoints {
            before: chat.interrupt_before.clone(),
            after: chat.interrupt_after.clone(),
        },
        // One listener from here on: what comes between two would be lost.
        interrupt: signal(SignalKind::interrupt())?,
        code: ExitCode::SUCCESS,
        open: Vec::new(),
        told: None,
        stopped: false,
    };
    if chat.resume {
        talk.resume().await?;
    }
    if let Some(message) = &chat.message {
        talk.turn(message).await?;
    } else {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            write!(std::io::stderr(), "> ")?;
            let line = tokio::select! {
                line = lines.next_line() => line?,
                _ = talk.interrupt.recv() => None,
                // The lines are not touched: the one that is being typed is the next.
                () = over(&talk.open) => {
                    writeln!(std::io::stderr())?;
                    talk.goes_on().await?;
                    continue;
                }
            };
            let Some(line) = line else { break };
            if !line.trim().is_empty() {
                talk.line(&line).await?;
            } else if talk.stopped {
                talk.resume().await?;
            }
        }
    }
    engine.close(Duration::ZERO, Duration::from_secs(5)).await;
    Ok(talk.code)
}

/// Waits until the time of an open question is over; for ever when none has one.
async fn over(open: &[Interrupt]) {
    let Some(at) = open.iter().filter_map(|asked| asked.expires_at).min() else {
        return std::future::pending().await;
    };
    tokio::time::sleep((at - Utc::now()).to_std().unwrap_or_default()).await;
}

/// Reads NAME=VALUE pairs.
pub(super) fn inputs(pairs: &[String]) -> Result<serde_json::Map<String, Json>> {
    let pair = |pair: &String| {
        let (name, value) = pair.split_once('=').with_context(|| format!("`{pair}` is not NAME=VALUE"))?;
        Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned()))))
    };
    pairs.iter().map(pair).collect()
}

/// A conversation at the terminal.
struct Talk {
    engine: Engine,
    graph: String,
    key: ThreadKey,
    on_busy: OnBusy,
    input: serde_json::Map<String, Json>,
    breakpoints: Breakpoints,
    interrupt: Signal,
    /// How the last turn ended.
    code: ExitCode,
    /// The questions that the run waits for.
    open: Vec<Interrupt>,
    /// The run that was told last, and its last event.
    told: Option<(Run, Seq)>,
    /// The run is at a breakpoint.
    stopped: bool,
}

impl Talk {
    /// Takes a line. Whoever sits at the terminal is asked in everybody's place, one question after another.
    async fn line(&mut self, line: &str) -> Result<()> {
        match self.open.as_slice() {
            [] | [Interrupt { who: Who::User, .. }] => self.turn(line).await,
            _ => self.answer(line.trim()).await,
        }
    }

    /// Runs one turn and prints the answer as it comes.
    async fn turn(&mut self, message: &str) -> Result<()> {
        let start = Start {
            graph: self.graph.clone(),
            session: self.key.session.clone(),
            message: Some(Json::String(message.to_owned())),
            input: self.input.clone(),
            durability: None,
            on_busy: self.on_busy,
            breakpoints: self.breakpoints.clone(),
            delay: None,
            wishes: Wishes::default(),
            idempotency: None,
        };
        match self.engine.start(&self.key.owner, start).await {
            Ok(started) => self.print(&started.run, started.after).await,
            Err(StartError::Unprocessable(wrong)) => self.unfit(&wrong),
            Err(StartError::Stopped(_)) => {
                self.stopped = true;
                self.trouble("error: the run is stopped; an empty line, or `--resume`, goes on")
            }
            Err(StartError::Busy(run)) => bail!(
                "session `{}` is busy with run {run}; wait for its end, or take another `--session`",
                self.key.session
            ),
            // The question was shown, so the line is the answer, also where messages are none.
            Err(StartError::Waits(_)) if self.open.len() == 1 => self.answer(message.trim()).await,
            Err(StartError::Waits(_)) => {
                self.code = ExitCode::FAILURE;
                self.look().await
            }
            Err(StartError::Answer(error)) => self.refused(*error).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Goes on with the run that is stopped, or failed, and prints what follows.
    async fn resume(&mut self) -> Result<()> {
        let breakpoints = Some(self.breakpoints.clone()).filter(|some| !some.is_none());
        let resume = Resume { terms: Terms { breakpoints, ..Terms::default() }, idempotency: None };
        match self.engine.resume(&self.key, resume).await {
            Ok(answered) => self.print(&answered.run, answered.after).await,
            Err(AnswerError::Waits(_)) => self.look().await,
            Err(AnswerError::Nothing) => self.trouble("error: nothing waits to go on"),
            Err(AnswerError::Unprocessable(wrong)) => self.unfit(&wrong),
            Err(error) => Err(error.into()),
        }
    }

    fn unfit(&mut self, wrong: &[Mismatch]) -> Result<()> {
        let lines: Vec<String> = wrong.iter().map(|m| format!("{}: {}", m.pointer, m.why)).collect();
        self.trouble(&format!("error: the graph does not take this:\n  {}", lines.join("\n  ")))
    }

    /// Answers the first open question, and prints what follows.
    async fn answer(&mut self, line: &str) -> Result<()> {
        let Some(asked) = self.open.first() else { return Ok(()) };
        let value = match value(asked, line) {
            Ok(value) => value,
            Err(wrong) => return self.trouble(&wrong),
        };
        let id = InterruptId(asked.interrupt_id.as_str().into());
        let who = Answerer { owner: self.key.owner.clone(), agent: true };
        match self.engine.answer(&who, vec![(id, Reply::Answer(value))]).await {
            Ok(answered) => self.print(&answered.run, answered.after).await,
            Err(error) => self.refused(error).await,
        }
    }

    /// Tells why an answer was not taken, and what is open now.
    async fn refused(&mut self, error: AnswerError) -> Result<()> {
        match error {
            AnswerError::Unfit(_, wrong) => {
                let lines: Vec<String> = wrong.into_iter().map(|m| m.why).collect();
                self.trouble(&lines.join("\n"))
            }
            AnswerError::Expired { .. } => {
                self.trouble(&error.to_string())?;
                self.goes_on().await
            }
            AnswerError::Unknown(_) | AnswerError::Taken { .. } => {
                self.trouble(&error.to_string())?;
                self.look().await
            }
            error => Err(error.into()),
        }
    }

    /// Tells where the run is stopped.
    async fn tell_stop(&self) -> Result<()> {
        let view = self.engine.view(&self.key, None).await?;
        let next = view.and_then(|view| view.checkpoint).map(|point| point.next).unwrap_or_default();
        writeln!(std::io::stderr(), "[stopped before {}; an empty line goes on]", next.join(", "))?;
        Ok(())
    }

    fn trouble(&mut self, text: &str) -> Result<()> {
        self.code = ExitCode::FAILURE;
        writeln!(std::io::stderr(), "{text}")?;
        Ok(())
    }

    /// Looks what is open, and shows it.
    async fn look(&mut self) -> Result<()> {
        let open = self.engine.interrupts(&self.key).await?;
        self.open = open.into_iter().map(|asked| asked.interrupt).collect();
        show(&self.open, true)
    }

    /// Prints what a run tells that goes on without an answer.
    async fn goes_on(&mut self) -> Result<()> {
        let Some((run, last)) = self.told.clone() else { return self.look().await };
        loop {
            let Some(row) = self.engine.run(&self.key.owner, run.run).await? else {
                return self.look().await;
            };
            if row.state != RunState::Interrupted || row.fence > last.fence {
                return self.print(&row, last).await;
            }
            // Whoever looks after the queue wakes it within a second.
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
                _ = self.interrupt.recv() => return self.look().await,
            }
        }
    }

    /// Prints what a run says as it comes.
    async fn print(&mut self, run: &Run, after: Seq) -> Result<()> {
        (self.code, self.open, self.stopped) = (ExitCode::SUCCESS, Vec::new(), false);
        let mut follower = self.engine.follower(&self.key.owner, run, after, false);
        let mut out = std::io::stdout();
        loop {
            let frame = tokio::select! {
                frame = follower.next() => frame,
                _ = self.interrupt.recv() => {
                    // The run ends here and now, and the conversation goes on from what was said before.
                    self.engine.cancel(&self.key.owner, run.run).await?;
                    self.code = ExitCode::from(130);
                    continue;
                }
            };
            let Some(frame) = frame else { break };
            let frame = frame?;
            self.told = Some((run.clone(), frame.event.seq));
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
                    self.code = ExitCode::FAILURE;
                    writeln!(std::io::stderr(), "error[{code}]: {message}")?;
                }
                Body::RunFinished { status, interrupts, .. } => {
                    self.open.clone_from(interrupts);
                    self.stopped = *status == RunStatus::Interrupted && interrupts.is_empty();
                }
                _ => {}
            }
        }
        if self.stopped {
            self.tell_stop().await?;
        }
        show(&self.open, false)
    }
}

/// Makes the answer to a question out of a line.
fn value(asked: &Interrupt, line: &str) -> Result<Json, String> {
    let plain = || Json::String(line.to_owned());
    if asked.tool.is_some() {
        return match line.split_once(' ') {
            Some(("reject", why)) => Ok(json!({"reject": why})),
            Some(("edit", args)) => match serde_json::from_str::<Json>(args) {
                Ok(args) => Ok(json!({"edit": args})),
                Err(wrong) => Err(format!("`edit` takes the arguments as JSON: {wrong}")),
            },
            _ if line == "reject" => Ok(json!({"reject": "no"})),
            _ => Ok(plain()),
        };
    }
    // Where a text is due, a line is one, also `12`.
    let text = |schema: &Json| schema["type"] == "string";
    if asked.schema.as_ref().is_some_and(|schema| !text(schema)) && asked.options.is_empty() {
        return Ok(serde_json::from_str(line).unwrap_or_else(|_| plain()));
    }
    Ok(plain())
}

/// Shows what is asked. The only question to the user is a message of the conversation, unless that was `missed`.
fn show(open: &[Interrupt], missed: bool) -> Result<()> {
    let all = missed || open.len() > 1;
    let mut out = std::io::stderr();
    for asked in open.iter().filter(|asked| all || asked.who == Who::Agent) {
        let choices = match &asked.tool {
            Some(_) => "approve, edit ARGS, reject WHY".to_owned(),
            None => asked.options.join(", "),
        };
        let args = asked.args.as_ref().map(|args| format!(" {args}")).unwrap_or_default();
        let choices = if choices.is_empty() { choices } else { format!(" [{choices}]") };
        writeln!(out, "[{} asks] {}{args}{choices}", asked.node, asked.question)?;
    }
    if let ([first, _, ..], true) = (open, all) {
        writeln!(out, "[{} questions are open; the next line answers `{}`]", open.len(), first.node)?;
    }
    Ok(())
}
