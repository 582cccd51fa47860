//! `serve`: compiles the graphs and serves them until told to stop.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{Stream, StreamExt, stream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::Host;
use super::reload::Reloads;
use crate::compile::Catalog;
use crate::config::ServeFlags;
use crate::diagnostic;
use crate::engine::Lost;
use crate::plan::Plan;
use crate::server::Word;

/// Serves until told to stop; returns how long the process has to end.
pub(super) async fn serve(host: &Host, serve: &ServeFlags) -> Result<Duration> {
    let Host { flags, file, .. } = host;
    crate::server::install_metrics();
    // What the settings make impossible is said before the database is touched.
    let settings = super::settings::engine(serve, flags, file)?;
    let server = super::settings::server(serve, file)?;
    let exit = server.drain.exit;
    let server = crate::server::Server::bind(server).await?;
    let (builder, project) = super::load(host)?;
    let mut drifts = project.findings.sources();
    super::mcp::verify(&project.catalog, &mut drifts).await;
    if drifts.has_errors() {
        let text = diagnostic::render_text(&drifts, super::coloured(&std::io::stderr()));
        std::io::stderr().write_all(text.as_bytes())?;
        bail!("the tools of MCP servers are not those that the project knows");
    }
    let seen = project.seen;
    let welcome = welcome(&server.address().to_string(), &project.catalog);
    info!(graphs = project.catalog.graphs.len(), "Graphs compiled.");
    let url = file.database_url(&serve.database);
    let engine = builder.store(url).engine(settings).open(project).await?.engine().clone();
    for Lost { graph, hash, paused } in engine.lost().await.context("cannot look for paused runs")? {
        warn!(code = "M515", graph, hash, paused, "Runs wait for a person on a version that cannot be used.");
    }
    let reloads = Reloads::new(engine.clone(), file.graphs(flags), seen, file.watch(serve))?;
    let words = words()?;
    super::print(&welcome)?;
    tokio::select! {
        left = server.run(engine, words.inspect(|_| end_in(exit))) => Ok(left),
        never = reloads.keep() => match never {},
    }
}

/// What the process is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// It began at a terminal.
    attached: bool,
}

/// Hears the words to stop. A terminal that is closed sends the signal that asks for a reload: then it means the end.
fn words() -> Result<impl Stream<Item = Word> + Send + Unpin> {
    let signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
        attached: std::io::stdin().is_terminal(),
    };
    let words = stream::unfold(signals, async |mut signals| {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Some((Word::Terminate, signals)),
                _ = signals.interrupt.recv() => return Some((Word::Interrupt, signals)),
                _ = signals.hangup.recv() => {
                    if signals.attached && !std::io::stdin().is_terminal() {
                        return Some((Word::Interrupt, signals));
                    }
                }
            }
        }
    });
    Ok(words.boxed())
}

/// Ends the process when its time is over, whatever hangs.
fn end_in(time: Duration) {
    let end = move || {
        std::thread::sleep(time);
        warn!("The process ends with work that did not.");
        std::process::exit(0);
    };
    // Without the thread it ends when all has ended.
    let _unwatched = std::thread::Builder::new().name("end".into()).spawn(end);
}

/// Says where everything is.
fn welcome(address: &str, catalog: &Catalog) -> String {
    let mut text = format!("graphloom listens on http://{address}\n\n");
    text += &format!("  docs      http://{address}/docs\n  openapi   http://{address}/openapi.json\n");
    for graph in catalog.graphs.keys() {
        text += &format!("  diagram   http://{address}/v1/graphs/{graph}/diagram\n");
    }
    // One that can be talked to as it is.
    let talks = |plan: &Plan| {
        plan.messages.is_some() && plan.input.values().all(crate::state::Field::may_be_left_out)
    };
    if let Some((graph, _)) = catalog.graphs.iter().find(|(_, compiled)| talks(&compiled.plan)) {
        text += &format!(
            "\nTry it:\n  curl -N http://{address}/v1/graphs/{graph}/chat -H 'content-type: application/json' \\\n    -d '{{\"session_id\": \"demo\", \"message\": \"Hello!\"}}'\n"
        );
    }
    text
}
