//! `mcp`: writes down what the tools of MCP servers are, and holds it against the servers.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use tracing::warn;

use super::{Host, count};
use crate::compile::{Catalog, Providers, mcp_servers, report_drift};
use crate::diagnostic::{self, Bag};
use crate::spec::{self, McpTools};
use crate::tool::mcp::{Drift, Server};

/// How long a service waits for MCP servers before it starts without them.
const PATIENCE: Duration = Duration::from_secs(10);

/// The flags of `mcp`.
#[derive(Debug, Args)]
pub(super) struct McpFlags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Asks the servers what their tools are, and writes that to mcp/NAME.json of the project
    Pull(Wanted),
    /// Says whether the servers' tools are still those of mcp/NAME.json
    ///
    /// Exit codes: 0 they are, 1 they are not, or a server does not answer, 2 the project cannot be read.
    Check(Wanted),
}

#[derive(Debug, Args)]
struct Wanted {
    /// The servers; without one, all of the project
    servers: Vec<String>,
}

/// Exit codes: 0 done, 1 something differs or a server does not answer, 2 the project cannot be read.
pub(super) async fn mcp(host: &Host, mcp: &McpFlags) -> Result<ExitCode> {
    let (pulls, wanted) = match &mcp.command {
        Command::Pull(wanted) => (true, wanted),
        Command::Check(wanted) => (false, wanted),
    };
    let root = host.file.graphs(&host.flags);
    let secrets = host.file.environment(&host.flags).secrets();
    let providers = host.set_up(Providers::new(secrets)?);
    let mut bag = Bag::default();
    let Some(folder) = spec::load(&root, &mut bag) else {
        return unreadable(&mut bag, &format!("cannot read the project `{}`", root.display()));
    };
    // Other mistakes are told by `check`; here they do not matter.
    let mut bag = Bag::default();
    let project = folder.files.get("project.yaml").cloned();
    let project = project.map(|text| ("project.yaml".to_owned(), text)).into_iter().collect();
    let asked = spec::load_files(&root.display().to_string(), project, &mut bag);
    let servers = mcp_servers(&asked, &providers, &mut bag).filter(|_| bag.counts().0 == 0);
    let Some(servers) = servers else {
        return unreadable(&mut bag, "project.yaml has errors");
    };
    if let Some(name) = wanted.servers.iter().find(|name| servers.iter().all(|known| known.name() != **name))
    {
        let known: Vec<&str> = servers.iter().map(|server| server.name()).collect();
        let help =
            if known.is_empty() { String::new() } else { format!("; there are: {}", known.join(", ")) };
        return unreadable(&mut bag, &format!("project.yaml has no MCP server `{name}`{help}"));
    }
    let servers: Vec<Arc<Server>> = servers
        .into_iter()
        .filter(|server| wanted.servers.is_empty() || wanted.servers.iter().any(|name| name == server.name()))
        .collect();
    if servers.is_empty() {
        return unreadable(&mut bag, "project.yaml has no MCP server");
    }
    let answers = join_all(servers.iter().map(|server| server.tools())).await;
    let mut all_well = true;
    for (server, answer) in servers.iter().zip(answers) {
        let tools = match answer {
            Ok(tools) => McpTools::new((*tools).clone()),
            Err(failure) => {
                writeln!(std::io::stderr(), "error: {}", failure.message.escape_debug())?;
                all_well = false;
                continue;
            }
        };
        let before = folder.mcp.get(server.name()).map(|(_, tools)| tools);
        let told = differences(before, &tools);
        let path = McpTools::path(server.name());
        if pulls {
            let file = (path.clone(), tools.text().into_bytes());
            let read = spec::load_files("", [file].into_iter().collect(), &mut Bag::default());
            if !read.mcp.contains_key(server.name()) {
                let why = "what its tools are is more than a file of a project holds: 1 MiB, and few levels";
                writeln!(std::io::stderr(), "error: the MCP server `{}`: {why}", server.name())?;
                all_well = false;
                continue;
            }
            write(&root.join(&path), &tools.text())?;
            super::print(&format!("{path}: {}{told}\n", count(tools.tools.len(), "tool")))?;
        } else {
            // What is new changes nothing for who does not call it.
            let same = before.is_some_and(|before| {
                before.tools.iter().all(|(name, known)| Drift::of(name, known, &tools.tools).is_none())
            });
            let word = if same { "as it is written" } else { "not as it is written" };
            super::print(&format!("{path}: {word}{told}\n"))?;
            all_well &= same;
        }
    }
    providers.close().await;
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says what differs, a line for each tool.
fn differences(before: Option<&McpTools>, now: &McpTools) -> String {
    let Some(before) = before else { return String::new() };
    let mut told = String::new();
    for (name, known) in &before.tools {
        match Drift::of(name, known, &now.tools) {
            None => {}
            Some(Drift::Gone) => told += &format!("\n  - {}", name.escape_debug()),
            Some(Drift::Changed(parts)) => {
                told += &format!("\n  ~ {}: {}", name.escape_debug(), parts.join(", "));
            }
        }
    }
    let new = now.tools.keys().filter(|name| !before.tools.contains_key(*name));
    told += &new.map(|name| format!("\n  + {}", name.escape_debug())).collect::<String>();
    told
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write `{}`", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    let half = path.with_extension("json~");
    std::fs::write(&half, text).with_context(failed)?;
    std::fs::rename(&half, path).with_context(failed)
}

fn unreadable(bag: &mut Bag, why: &str) -> Result<ExitCode> {
    bag.sort();
    let text = diagnostic::render_text(bag, super::coloured(&std::io::stderr()));
    writeln!(std::io::stderr(), "{text}error: {why}")?;
    Ok(ExitCode::from(2))
}

/// Holds the tools that graphs call against what their servers say today, and reports those that are others. A server that
/// does not answer may do so later: that is only noted.
pub(super) async fn verify(catalog: &Catalog, bag: &mut Bag) {
    let ask = async |server: &Server| match tokio::time::timeout(PATIENCE, server.tools()).await {
        Ok(answer) => answer.map_err(|failure| failure.message),
        Err(_late) => Err(format!("it did not answer within {} s", PATIENCE.as_secs())),
    };
    let answers = join_all(catalog.mcp.iter().map(|uses| ask(&uses.server))).await;
    for (uses, answer) in catalog.mcp.iter().zip(answers) {
        match answer {
            Ok(tools) => {
                for (name, (written, at)) in &uses.tools {
                    if let Some(drift) = Drift::of(name, written, &tools) {
                        report_drift(uses.server.name(), name, &drift, *at, bag);
                    }
                }
            }
            Err(why) => {
                let server = uses.server.name();
                warn!(server, why, "An MCP server is not there; it is asked again when it is called.");
            }
        }
    }
    bag.sort();
}
