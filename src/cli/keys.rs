//! `key`: makes an API key. The key is shown once; the settings file keeps its hash.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::config::Role;
use crate::id::{Part, hex};

/// The flags of `key`.
#[derive(Debug, Args)]
pub(super) struct KeyFlags {
    /// The tenant that the key speaks for
    #[arg(long)]
    tenant: Part,
    /// The user that the key speaks for; without it the caller names the user in X-User-Id
    #[arg(long)]
    user: Option<Part>,
    /// What it may do besides: an agent answers what graphs ask of agents of the tenant
    #[arg(long, value_enum)]
    role: Option<Role>,
}

pub(super) fn key(flags: &KeyFlags) -> Result<ExitCode> {
    let mut random = [0_u8; 38];
    fill(&mut random).context("the system gives no random numbers")?;
    let (id, secret) = (hex(&random[..6]), hex(&random[6..]));
    let hash = hex(&Sha256::digest(secret.as_bytes()));
    let user = flags.user.as_ref().map(|user| format!("user = \"{user}\"\n")).unwrap_or_default();
    let roles = flags.role.map(|Role::Agent| "roles = [\"agent\"]\n").unwrap_or_default();
    super::print(&format!(
        "The key, shown only now:\n\n  gl_{id}_{secret}\n\nFor graphloom.toml (with `mode = \"api_keys\"` under [auth]):\n\n\
         [[auth.keys]]\nid = \"{id}\"\nhash = \"{hash}\"\ntenant = \"{}\"\n{user}{roles}",
        flags.tenant
    ))
}

/// Fills a buffer from the operating system's generator.
fn fill(buffer: &mut [u8]) -> std::io::Result<()> {
    use std::io::Read;
    std::fs::File::open("/dev/urandom")?.read_exact(buffer)
}
