//! `render`: prints the drawing of a graph.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::Host;
use crate::render;

/// The flags of `render`.
#[derive(Debug, Args)]
pub(super) struct RenderFlags {
    /// The graph's id: the name of its file without `.yaml`
    graph: String,
    /// What is printed
    #[arg(long, value_enum, default_value = "mermaid")]
    format: Format,
    /// How many levels are drawn: at 1 a call of another graph is one box, at 2 that graph is drawn inside of it, and so on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(render::MOST_DEPTH)))]
    depth: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Mermaid flowchart, as GitHub shows it.
    Mermaid,
    /// Nodes and edges.
    Json,
}

pub(super) fn render(host: &Host, wanted: &RenderFlags) -> Result<ExitCode> {
    let catalog = host.look()?;
    let compiled = catalog.graphs.get(&wanted.graph).with_context(|| {
        let known: Vec<&str> = catalog.graphs.keys().map(String::as_str).collect();
        format!("there is no graph `{}`; there are: {}", wanted.graph, known.join(", "))
    })?;
    let text = match wanted.format {
        Format::Mermaid => render::mermaid(&compiled.plan, wanted.depth)?,
        Format::Json => serde_json::to_string_pretty(&render::json(&compiled.plan, wanted.depth)?)? + "\n",
    };
    super::print(&text)
}
