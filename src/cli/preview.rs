//! `preview`: prints a prompt, rendered with its sample.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value as Json;

use super::Host;
use crate::diagnostic::did_you_mean;

/// The flags of `preview`.
#[derive(Debug, Args)]
pub(super) struct PreviewFlags {
    /// The prompt's name: its file below prompts/ without `.md`, such as `support/answer`
    prompt: String,
    /// What is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The chat turns, each below its role.
    Text,
    /// A list of chat turns.
    Json,
}

pub(super) fn preview(host: &Host, wanted: &PreviewFlags) -> Result<ExitCode> {
    let previews = host.look()?.previews;
    let name = wanted.prompt.as_str();
    let turns = match previews.get(name) {
        Some(Some(turns)) => turns,
        Some(None) => {
            bail!(
                "the prompt `{name}` has no `sample`: add one to its front-matter, `{{}}` or a value for each input"
            )
        }
        None => match did_you_mean(name, previews.keys().map(String::as_str)) {
            Some(help) => bail!("there is no prompt `{name}`: {help}"),
            None => bail!("there is no prompt file `prompts/{name}.md`"),
        },
    };
    super::print(&match wanted.format {
        Format::Json => serde_json::to_string_pretty(turns)? + "\n",
        Format::Text => text(turns),
    })
}

fn text(turns: &[Json]) -> String {
    let mut text = String::new();
    for turn in turns {
        let role = turn["role"].as_str().unwrap_or_default();
        let content = match &turn["content"] {
            Json::String(content) => content.clone(),
            parts => parts.to_string(),
        };
        let gap = if text.is_empty() { "" } else { "\n" };
        // Writing to a text cannot fail.
        let _written = write!(text, "{gap}@{role}\n{content}\n");
        for call in turn["tool_calls"].as_array().into_iter().flatten() {
            let _written = writeln!(text, "{call}");
        }
    }
    text
}
