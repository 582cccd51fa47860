//! `lsp`: speaks with an editor.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::compile::Providers;
use crate::config::{File, Flags};

/// The flags of `lsp`. Which folders are projects it learns from the files that an editor opens.
#[derive(Debug, Args)]
pub(super) struct LspFlags {
    /// Standard input and output, which is all there is; many editors say so
    #[arg(long)]
    stdio: bool,
}

/// Exit codes: 0 after `shutdown` and `exit`, 1 when the editor went away without them.
pub(super) fn lsp(flags: &Flags, _lsp: &LspFlags, file: &File) -> Result<ExitCode> {
    let environment = file.environment(flags);
    let providers = Providers::lenient(environment.secrets())?
        .with_settings(environment.settings())
        .with_private(file.allow_private(flags));
    let clean = crate::lsp::serve(providers).context("the editor cannot be understood")?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
