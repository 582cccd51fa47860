//! `lsp`: speaks with an editor.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::Host;

/// The flags of `lsp`. Which folders are projects it learns from the files that an editor opens.
#[derive(Debug, Args)]
pub(super) struct LspFlags {
    /// Standard input and output, which is all there is; many editors say so
    #[arg(long)]
    stdio: bool,
}

/// Exit codes: 0 after `shutdown` and `exit`, 1 when the editor went away without them.
pub(super) fn lsp(host: &Host, _lsp: &LspFlags) -> Result<ExitCode> {
    let clean = crate::lsp::serve(host.lenient()?).context("the editor cannot be understood")?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
