//! `check`: finds every mistake in the graphs without starting anything.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Host, count};
use crate::compile::{self, Providers};
use crate::diagnostic::{self, Bag};
use crate::spec;

/// The flags of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckFlags {
    /// How findings are printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Fails on warnings too
    #[arg(long)]
    deny_warnings: bool,
    /// Does not look for secrets: one that is missing is no finding
    #[arg(long)]
    no_secrets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
    /// A SARIF 2.1.0 log, for code scanning.
    Sarif,
    /// Workflow commands, for the checks of GitHub Actions.
    Github,
}

/// Exit codes: 0 no error, 1 errors (or warnings under `--deny-warnings`), 2 the project cannot be read.
pub(super) fn check(host: &Host, check: &CheckFlags) -> Result<ExitCode> {
    let folder = host.file.graphs(&host.flags);
    if let Err(error) = std::fs::read_dir(&folder) {
        writeln!(std::io::stderr(), "error: cannot read the project `{}`: {error}", folder.display())?;
        return Ok(ExitCode::from(2));
    }
    let providers = if check.no_secrets {
        Providers::without_secrets()?.with_registry(host.registry.clone())
    } else {
        host.lenient()?
    };
    let mut bag = Bag::default();
    let catalog =
        spec::load(&folder, &mut bag).and_then(|project| compile::compile(&project, &providers, &mut bag));
    if catalog.as_ref().is_some_and(|catalog| catalog.graphs.is_empty()) {
        writeln!(std::io::stderr(), "error: there is no graph in `{}`", folder.display())?;
        return Ok(ExitCode::from(2));
    }
    bag.sort();
    let (errors, warnings, lints) = bag.counts();
    match check.format {
        Format::Text => {
            let mut text = diagnostic::render_text(&bag, super::coloured(&std::io::stdout()));
            let found =
                [(errors, "error"), (warnings, "warning"), (lints, "lint")].map(|(n, one)| count(n, one));
            if errors == 0 {
                let graphs = catalog.as_ref().map_or(0, |catalog| catalog.graphs.len());
                text += &format!("{}: ", count(graphs, "graph"));
            }
            text += &format!("{}\n", found.join(", "));
            super::print(&text)?;
        }
        Format::Sarif => {
            super::print(&(serde_json::to_string_pretty(&diagnostic::render_sarif(&bag))? + "\n"))?;
        }
        Format::Github => {
            super::print(&diagnostic::render_github(&bag))?;
        }
        Format::Json => {
            super::print(&(serde_json::to_string_pretty(&diagnostic::render_json(&bag))? + "\n"))?;
        }
    }
    let failed = errors > 0 || (check.deny_warnings && warnings > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
