//! `erase`: deletes all that there is of a tenant, or of one of its users.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::Host;
use crate::config::DatabaseFlag;
use crate::id::Part;
use crate::store::Erased;

/// How many threads are deleted before the next word.
const BATCH: u32 = 100;

/// The flags of `erase`.
#[derive(Debug, Args)]
pub(super) struct EraseFlags {
    /// The tenant
    #[arg(long)]
    tenant: Part,
    /// Only this user of the tenant
    #[arg(long)]
    user: Option<Part>,
    /// Does it; without, it only says what it would do
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

pub(super) async fn erase(flags: &EraseFlags, host: &Host) -> Result<ExitCode> {
    let url = host.file.database_url(&flags.database);
    if url == "memory:" {
        bail!("`memory:` keeps nothing beyond its process");
    }
    let EraseFlags { tenant, user, .. } = flags;
    let whom = match user {
        Some(user) => format!("user `{user}` of tenant `{tenant}`"),
        None => format!("tenant `{tenant}`"),
    };
    if !flags.yes {
        bail!("this would delete every thread of {whom}, with its runs and answers; say `--yes` to do it");
    }
    let store = host.open_store(&url).await?;
    let mut threads = 0;
    let receipt = loop {
        match store.erase(tenant, user.as_ref(), BATCH, threads).await? {
            Erased::Threads(more) => threads += more,
            Erased::All(receipt) => break receipt,
        }
    };
    super::print(&format!(
        "Nothing is left of {whom}; {} deleted.\nReceipt {}: {}\n",
        super::count(threads as usize, "thread"),
        receipt.id,
        super::audit::line(&receipt)
    ))
}
