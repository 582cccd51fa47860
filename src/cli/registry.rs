//! `registry`: what a program registers for graphs, here and in a file.

use anyhow::{Context, Result};

use crate::config::{File, Flags};
use crate::tool::custom::Registry;

/// Finds what is known to be registered: by this program, else by the one that wrote the file. Nothing: by neither.
pub(super) fn known(own: &Registry, flags: &Flags, file: &File) -> Result<Option<Registry>> {
    if !own.is_empty() {
        return Ok(Some(own.clone()));
    }
    let Some(path) = file.registry(flags) else { return Ok(None) };
    let told = || format!("cannot take the registry file `{}`", path.display());
    let text = std::fs::read_to_string(&path).with_context(told)?;
    Ok(Some(Registry::from_json(&text).with_context(told)?))
}
